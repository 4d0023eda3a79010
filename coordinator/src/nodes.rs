//! Calls to nodes: proposals and reads that try every replica until a deadline. Searches, which share requests, live in `searches`.

mod searches;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::shard_service_client::ShardServiceClient;
use semel_proto::{NO_SUCH_RECORD, NOTHING_PROPOSED};
use semel_raft_host::ClusterId;
use semel_telemetry::carry;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::routes::Routes;
use searches::Searched;
pub(crate) use searches::ShardReply;

/// How long a connection attempt may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long one replica may take over a call, at most, before another is asked.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// How long it may take, at least, if that much time is left.
const ATTEMPT_MIN: Duration = Duration::from_millis(500);
/// A call that was given so long and had no answer speaks against the node; a shorter one may have been cut by its caller.
const ATTEMPT_TELLING: Duration = Duration::from_secs(1);
/// The pause between two rounds over a shard's replicas.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// The largest answer taken, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a call to a shard gave nothing by its deadline.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    /// No replica could be reached or none had a leader; nothing was changed.
    #[error("shard {shard} cannot be reached: {reason}")]
    Unreached { shard: u32, reason: String },
    /// A proposal may or may not be applied later.
    #[error("shard {shard} did not confirm in time: the outcome is unknown")]
    OutcomeUnknown { shard: u32 },
    /// Every replica that answered has too much waiting; nothing was changed.
    #[error("shard {shard} has too much waiting")]
    Overloaded { shard: u32 },
    /// The shard answered that there is no such thing.
    #[error("not found")]
    NotFound,
    /// The nodes refuse the call: a defect or a mix-up of clusters.
    #[error("shard {shard} refuses the call: {reason}")]
    Refused { shard: u32, reason: String },
}

/// The nodes of the cluster, as callers see them.
pub(crate) struct Nodes {
    cluster: OnceLock<ClusterId>,
    pub(crate) routes: Arc<Routes>,
    channels: Mutex<HashMap<String, Channel>>,
    searched: Searched,
    search_attempt: Duration,
}

impl Nodes {
    /// Nodes that cannot be called yet: [`Self::set_cluster`] comes first.
    pub(crate) fn new(routes: Arc<Routes>, search_attempt: Duration) -> Arc<Self> {
        Arc::new(Self {
            cluster: OnceLock::new(),
            routes,
            channels: Mutex::default(),
            searched: Searched::default(),
            search_attempt,
        })
    }

    /// Names the cluster whose nodes these are. It never changes.
    pub(crate) fn set_cluster(&self, cluster: ClusterId) {
        let set = *self.cluster.get_or_init(|| cluster);
        assert_eq!(set, cluster, "a coordinator serves one cluster");
    }

    /// Empty before the cluster is known, which no node accepts.
    fn cluster_id(&self) -> Bytes {
        self.cluster.get().map(|cluster| Bytes::copy_from_slice(&cluster.0)).unwrap_or_default()
    }

    fn client(&self, address: &str) -> Result<ShardServiceClient<Channel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| Status::internal(format!("address {address}: {error}")))?
                    .connect_timeout(CONNECT_WITHIN)
                    .http2_keep_alive_interval(Duration::from_secs(5))
                    .keep_alive_timeout(Duration::from_secs(5))
                    .tcp_nodelay(true);
                let channel = endpoint.connect_lazy();
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(ShardServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Calls one replica after another until one answers or the deadline is over.
    async fn call<T, F>(
        &self,
        shard: u32,
        deadline: Instant,
        changes_state: bool,
        attempt: impl Fn(ShardServiceClient<Channel>, Duration) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (mut outcome_unknown, mut overloaded) = (false, false);
        let mut reason = String::from("the shard is not placed yet");
        loop {
            for address in self.routes.for_proposal(shard) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let limit = attempt_limit(left);
                let client = self
                    .client(&address)
                    .map_err(|status| CallError::Refused { shard, reason: status.message().to_owned() })?;
                let answered = tokio::time::timeout(limit, attempt(client, limit)).await;
                let status = match answered {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("no answer in time"),
                };
                match status.code() {
                    Code::NotFound if status.metadata().contains_key(NO_SUCH_RECORD) => {
                        return Err(CallError::NotFound);
                    }
                    Code::InvalidArgument | Code::Aborted => {
                        return Err(CallError::Refused { shard, reason: status.message().to_owned() });
                    }
                    // Another cluster's node at a reused address, or one of another version: the others may do.
                    Code::FailedPrecondition | Code::Unimplemented => self.routes.suspect(&address),
                    // The node is there, and has not begun anything.
                    Code::ResourceExhausted => overloaded = true,
                    Code::NotFound => {}
                    Code::Unavailable if status.metadata().contains_key(NOTHING_PROPOSED) => {}
                    _ => {
                        outcome_unknown |= changes_state;
                        // A call cut short by its caller says nothing of the node.
                        if limit >= ATTEMPT_TELLING || status.code() == Code::Unavailable {
                            self.routes.suspect(&address);
                        }
                    }
                }
                reason = format!("{address}: {}", status.message());
            }
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(match (outcome_unknown, overloaded) {
                    (true, _) => CallError::OutcomeUnknown { shard },
                    (false, true) => CallError::Overloaded { shard },
                    (false, false) => CallError::Unreached { shard, reason },
                });
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Proposes a command to a shard. Commands are idempotent, so every failure but a refusal is tried again until the deadline.
    pub(crate) async fn propose(
        &self,
        shard: u32,
        command: wire::Command,
        deadline: Instant,
    ) -> Result<wire::ProposeResponse, CallError> {
        let request = wire::ProposeRequest { cluster_id: self.cluster_id(), shard, command: Some(command) };
        self.call(shard, deadline, true, |mut client, limit| {
            let request = within(request.clone(), limit);
            async move { client.propose(request).await }
        })
        .await
    }

    /// Asks a shard's leader to change who belongs to its group.
    pub(crate) async fn change_membership(
        &self,
        mut request: wire::ChangeMembershipRequest,
        deadline: Instant,
    ) -> Result<wire::ChangeMembershipResponse, CallError> {
        request.cluster_id = self.cluster_id();
        self.call(request.shard, deadline, true, |mut client, limit| {
            let request = within(request.clone(), limit);
            async move { client.change_membership(request).await }
        })
        .await
    }

    /// Reads an enrolment.
    pub(crate) async fn read_enrolment(
        &self,
        mut request: wire::ReadEnrolmentRequest,
        deadline: Instant,
    ) -> Result<wire::ReadEnrolmentResponse, CallError> {
        request.cluster_id = self.cluster_id();
        self.call(request.shard, deadline, false, |mut client, limit| {
            // A wait for a verdict ends with an answer shortly before the attempt would be given up.
            let wait_ms = request.wait_ms.min((limit * 3 / 4).as_millis() as u32);
            let request = within(wire::ReadEnrolmentRequest { wait_ms, ..request.clone() }, limit);
            async move { client.read_enrolment(request).await }
        })
        .await
    }

    /// Reads a case.
    pub(crate) async fn read_case(
        &self,
        mut request: wire::ReadCaseRequest,
        deadline: Instant,
    ) -> Result<wire::ReadCaseResponse, CallError> {
        request.cluster_id = self.cluster_id();
        self.call(request.shard, deadline, false, |mut client, limit| {
            let request = within(request.clone(), limit);
            async move { client.read_case(request).await }
        })
        .await
    }

    /// Lists cases of a shard.
    pub(crate) async fn scan_cases(
        &self,
        mut request: wire::ScanCasesRequest,
        deadline: Instant,
    ) -> Result<wire::ScanCasesResponse, CallError> {
        request.cluster_id = self.cluster_id();
        self.call(request.shard, deadline, false, |mut client, limit| {
            let request = within(request.clone(), limit);
            async move { client.scan_cases(request).await }
        })
        .await
    }

    /// Lists what a shard waits for.
    pub(crate) async fn list_pending(
        &self,
        shard: u32,
        items_max: u32,
        deadline: Instant,
    ) -> Result<wire::ListPendingResponse, CallError> {
        let request = wire::ListPendingRequest { cluster_id: self.cluster_id(), shard, items_max };
        self.call(shard, deadline, false, |mut client, limit| {
            let request = within(request.clone(), limit);
            async move { client.list_pending(request).await }
        })
        .await
    }
}

/// How long one replica is given out of what is left of a call: half, so that one that hangs leaves time to ask another.
fn attempt_limit(left: Duration) -> Duration {
    (left / 2).clamp(ATTEMPT_MIN, ATTEMPT_MAX).min(left)
}

/// A request with a deadline, as part of the trace at hand.
fn within<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    carry(request.metadata_mut());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of what a shard waits for was once given two seconds in all and two for each replica: while the first replica
    /// hung, no other was ever asked, and what was left behind stayed there.
    #[test]
    fn a_replica_that_hangs_leaves_time_for_two_others() {
        let mut left = Duration::from_secs(2);
        for _ in 0..2 {
            left -= attempt_limit(left);
            assert!(left >= ATTEMPT_MIN, "{left:?} is left");
        }
        assert_eq!(attempt_limit(Duration::from_secs(60)), ATTEMPT_MAX);
        assert_eq!(attempt_limit(Duration::from_millis(3)), Duration::from_millis(3));
    }
}
