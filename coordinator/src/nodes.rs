//! Calls to nodes: proposals that try every replica until a deadline, and searches that share requests.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use semel_coordinator_wire::ProbeReply;
use semel_index::ShardId;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::shard_service_client::ShardServiceClient;
use semel_proto::{NO_SUCH_RECORD, NOTHING_PROPOSED};
use semel_raft_host::ClusterId;
use semel_telemetry::{Instrument as _, carry, follow_callers, traced};
use semel_workflow::ShardAnswer;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::routes::Routes;

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
/// Probes that travel in one request.
const PROBES_PER_REQUEST_MAX: usize = 64;
/// Probes that may wait for one node.
const PROBES_QUEUED_MAX: usize = 16_384;
/// Search requests on their way to one node at once. While they are, probes gather for the next.
const REQUESTS_PER_NODE_MAX: usize = 2;
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

/// A share of a search: one probe for some shards of one node.
struct Job {
    shards: Vec<u32>,
    probe: wire::SearchProbe,
    /// What the caller does, for its trace.
    span: tracing::Span,
    /// When its caller gives up.
    deadline: Instant,
    reply: oneshot::Sender<Vec<ShardReply>>,
    /// Counts it among those that wait for the node, for as long as it exists.
    _outstanding: Outstanding,
}

/// The probes that wait for one node.
#[derive(Clone)]
struct SearchQueue {
    jobs: mpsc::Sender<Job>,
    outstanding: Arc<AtomicUsize>,
}

/// One of the probes that wait for a node.
struct Outstanding(Arc<AtomicUsize>);

impl Outstanding {
    fn count(outstanding: &Arc<AtomicUsize>) -> Self {
        outstanding.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(outstanding))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one shard answered to one probe.
pub(crate) struct ShardReply {
    pub(crate) shard: u32,
    pub(crate) outcome: Result<ProbeReply, String>,
}

impl ShardReply {
    /// The shard's answer, or in words why there is none.
    pub(crate) fn answer(self) -> Result<ShardAnswer, String> {
        semel_coordinator_wire::shard_answer(ShardId(self.shard), self.outcome?).map_err(|error| error.to_string())
    }
}

/// The nodes of the cluster, as callers see them.
pub(crate) struct Nodes {
    cluster: OnceLock<ClusterId>,
    pub(crate) routes: Arc<Routes>,
    channels: Mutex<HashMap<String, Channel>>,
    searches: Mutex<HashMap<String, SearchQueue>>,
    search_attempt: Duration,
}

impl Nodes {
    /// Nodes that cannot be called yet: [`Self::set_cluster`] comes first.
    pub(crate) fn new(routes: Arc<Routes>, search_attempt: Duration) -> Arc<Self> {
        Arc::new(Self {
            cluster: OnceLock::new(),
            routes,
            channels: Mutex::default(),
            searches: Mutex::default(),
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

    /// Searches `shards` for one probe, once, and gives one future per node asked, so that a slow node hides no answer of the others.
    /// Together they answer every shard exactly once; one that does not answer in time has an error for an answer. The scans
    /// begin after the call, and end with the futures, or at the deadline.
    pub(crate) fn search(
        self: &Arc<Self>,
        probe: &wire::SearchProbe,
        shards: &[u32],
        attempt: usize,
        deadline: Instant,
    ) -> Vec<impl Future<Output = Vec<ShardReply>> + Send + use<>> {
        let batches = self.batches_waiting();
        let mut shares =
            self.routes.for_search(shards, attempt, |address| batches.get(address).copied().unwrap_or_default());
        let routed: HashSet<u32> = shares.iter().flat_map(|(_, shards)| shards.iter().copied()).collect();
        let unplaced: Vec<u32> = shards.iter().copied().filter(|shard| !routed.contains(shard)).collect();
        if !unplaced.is_empty() {
            shares.push((String::new(), unplaced));
        }
        let limit = self.search_attempt;
        let asked = shares.into_iter().map(|(address, shards)| {
            let (reply, answer) = oneshot::channel();
            let refused = if address.is_empty() {
                Some("the shard is not placed yet")
            } else {
                let SearchQueue { jobs, outstanding } = self.search_queue(&address);
                let _outstanding = Outstanding::count(&outstanding);
                let span = tracing::Span::current();
                let (shards, probe) = (shards.clone(), probe.clone());
                let job = Job { shards, probe, span, deadline, reply, _outstanding };
                jobs.try_send(job).is_err().then_some("too many probes wait for the node")
            };
            async move {
                let answered = match refused {
                    Some(reason) => Err(reason),
                    // The queue counts: what waits behind a node that hangs is asked of another.
                    None => match tokio::time::timeout(limit, answer).await {
                        Ok(answered) => answered.map_err(|_| "the search was given up"),
                        Err(_) => Err("no answer in time"),
                    },
                };
                answered.unwrap_or_else(|reason| shards.iter().map(|&shard| unanswered(shard, reason)).collect())
            }
        });
        asked.collect()
    }

    fn search_queue(self: &Arc<Self>, address: &str) -> SearchQueue {
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = searches.get(address) {
            return queue.clone();
        }
        let (jobs, receiver) = mpsc::channel(PROBES_QUEUED_MAX);
        tokio::spawn(Arc::clone(self).run_searches(address.to_owned(), receiver));
        let queue = SearchQueue { jobs, outstanding: Arc::default() };
        searches.insert(address.to_owned(), queue.clone());
        queue
    }

    /// How many full requests wait for each node, or are on their way to it.
    fn batches_waiting(&self) -> HashMap<String, usize> {
        let searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = |queue: &SearchQueue| queue.outstanding.load(Ordering::Relaxed) / PROBES_PER_REQUEST_MAX;
        searches.iter().map(|(address, queue)| (address.clone(), batches(queue))).collect()
    }

    /// Sends the probes that wait for one node: as they come while the node is idle, together while it is busy.
    async fn run_searches(self: Arc<Self>, address: String, mut jobs: mpsc::Receiver<Job>) {
        let permits = Arc::new(tokio::sync::Semaphore::new(REQUESTS_PER_NODE_MAX));
        let mut waiting: VecDeque<Job> = VecDeque::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            waiting.retain(|job| !job.reply.is_closed());
            if waiting.is_empty() {
                match jobs.recv().await {
                    Some(job) => waiting.push_back(job),
                    None => return,
                }
            }
            while waiting.len() < PROBES_QUEUED_MAX
                && let Ok(job) = jobs.try_recv()
            {
                waiting.push_back(job);
            }
            let batch = take_alike(&mut waiting);
            let nodes = Arc::clone(&self);
            let address = address.clone();
            let span = traced!("search_request", otel.kind = "client", probes = batch.len());
            let span = follow_callers(span, batch.iter().map(|job| &job.span));
            let sending = async move {
                nodes.search_node(&address, batch).await;
                drop(permit);
            };
            tokio::spawn(sending.instrument(span));
        }
    }

    async fn search_node(&self, address: &str, mut batch: Vec<Job>) {
        batch.retain(|job| !job.reply.is_closed());
        let Some(deadline) = batch.iter().map(|job| job.deadline).max() else { return };
        // The node hears how long somebody waits for it, and stops with the last of them.
        let limit = self.search_attempt.min(deadline.saturating_duration_since(Instant::now()));
        let shards = batch[0].shards.clone();
        let request = wire::SearchRequest {
            cluster_id: self.cluster_id(),
            shards: shards.clone(),
            probes: batch.iter_mut().map(|job| std::mem::take(&mut job.probe)).collect(),
        };
        let answered = match self.client(address) {
            Ok(mut client) => {
                let call = tokio::time::timeout(limit, client.search(within(request, limit)));
                let all_gone = join_all(batch.iter_mut().map(|job| job.reply.closed()));
                tokio::select! {
                    answered = call => match answered {
                        Ok(answered) => answered.map(tonic::Response::into_inner),
                        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
                    },
                    // Dropping the call tells the node.
                    _ = all_gone => return,
                }
            }
            Err(status) => Err(status),
        };
        match answered {
            Ok(response) => hand_out(batch, response),
            Err(status) => {
                // A call cut short by its callers says nothing of the node.
                let telling = limit >= ATTEMPT_TELLING || status.code() == Code::Unavailable;
                if telling && status.code() != Code::ResourceExhausted {
                    self.routes.suspect(address);
                }
                tracing::debug!(address, code = ?status.code(), reason = status.message(), "search not answered");
                for job in batch {
                    let replies = shards.iter().map(|&shard| unanswered(shard, status.message())).collect();
                    // A caller that has gone needs no answer.
                    let _ = job.reply.send(replies);
                }
            }
        }
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

fn unanswered(shard: u32, reason: &str) -> ShardReply {
    ShardReply { shard, outcome: Err(reason.to_owned()) }
}

/// Takes the first job, and those that go to the same shards, as many as one request holds; the others stay in order.
fn take_alike(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let Some(first) = waiting.pop_front() else { return Vec::new() };
    let mut batch = vec![first];
    let mut others = VecDeque::new();
    while batch.len() < PROBES_PER_REQUEST_MAX
        && let Some(job) = waiting.pop_front()
    {
        if job.shards == batch[0].shards { batch.push(job) } else { others.push_back(job) }
    }
    others.append(waiting);
    *waiting = others;
    batch
}

/// Turns a response by shard into replies by probe.
fn hand_out(batch: Vec<Job>, response: wire::SearchResponse) {
    use wire::shard_result::Outcome;
    let probes = batch.len();
    let mut by_probe: Vec<Vec<ShardReply>> = batch.iter().map(|_| Vec::new()).collect();
    for result in response.results {
        let shard = result.shard;
        match result.outcome {
            Some(Outcome::Answer(answer)) if answer.probes.len() == probes => {
                let (epoch, searchable_index) = (answer.epoch, answer.searchable_index);
                for (replies, answer) in by_probe.iter_mut().zip(answer.probes) {
                    let outcome = Ok(ProbeReply { epoch, searchable_index, answer });
                    replies.push(ShardReply { shard, outcome });
                }
            }
            Some(Outcome::Answer(_)) => {
                by_probe.iter_mut().for_each(|r| r.push(unanswered(shard, "answered another number of probes")));
            }
            Some(Outcome::Error(reason)) => by_probe.iter_mut().for_each(|r| r.push(unanswered(shard, &reason))),
            None => by_probe.iter_mut().for_each(|r| r.push(unanswered(shard, "empty answer"))),
        }
    }
    for (job, mut replies) in batch.into_iter().zip(by_probe) {
        for &shard in &job.shards {
            if !replies.iter().any(|reply| reply.shard == shard) {
                replies.push(unanswered(shard, "left out of the answer"));
            }
        }
        // A caller that has gone needs no answer.
        let _ = job.reply.send(replies);
    }
}

#[cfg(test)]
mod tests {
    use semel_proto::internal::v1::shard_service_server::{ShardService, ShardServiceServer};

    use super::*;
    use crate::routes::{Route, Seat};

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

    /// A node that holds every search until it is told to answer, and remembers what it was asked.
    struct HoldingNode {
        asked: Mutex<Vec<Asked>>,
        answer: tokio::sync::Semaphore,
        given_up: Arc<AtomicUsize>,
    }

    struct Asked {
        shards: Vec<u32>,
        probes: usize,
        timeout: Option<Duration>,
    }

    /// Counts a search whose handler was dropped before it answered.
    struct Unanswered(Arc<AtomicUsize>);

    impl Drop for Unanswered {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tonic::async_trait]
    impl ShardService for HoldingNode {
        async fn search(
            &self,
            request: tonic::Request<wire::SearchRequest>,
        ) -> Result<Response<wire::SearchResponse>, Status> {
            let timeout = crate::enrolment_service::call_timeout(&request);
            let wire::SearchRequest { shards, probes, .. } = request.into_inner();
            let asked = Asked { shards: shards.clone(), probes: probes.len(), timeout };
            self.asked.lock().expect("no panic").push(asked);
            let unanswered = Unanswered(Arc::clone(&self.given_up));
            self.answer.acquire().await.expect("never closed").forget();
            std::mem::forget(unanswered);
            let answer = |shard| {
                let probes = probes.iter().map(|_| wire::ProbeAnswer::default()).collect();
                let answer = wire::ShardAnswer { epoch: 1, searchable_index: 1, probes };
                wire::ShardResult { shard, outcome: Some(wire::shard_result::Outcome::Answer(answer)) }
            };
            Ok(Response::new(wire::SearchResponse { results: shards.into_iter().map(answer).collect() }))
        }

        async fn propose(
            &self,
            _: tonic::Request<wire::ProposeRequest>,
        ) -> Result<Response<wire::ProposeResponse>, Status> {
            Err(Status::unimplemented("only searches"))
        }

        async fn read_enrolment(
            &self,
            _: tonic::Request<wire::ReadEnrolmentRequest>,
        ) -> Result<Response<wire::ReadEnrolmentResponse>, Status> {
            Err(Status::unimplemented("only searches"))
        }

        async fn list_pending(
            &self,
            _: tonic::Request<wire::ListPendingRequest>,
        ) -> Result<Response<wire::ListPendingResponse>, Status> {
            Err(Status::unimplemented("only searches"))
        }

        async fn read_case(
            &self,
            _: tonic::Request<wire::ReadCaseRequest>,
        ) -> Result<Response<wire::ReadCaseResponse>, Status> {
            Err(Status::unimplemented("only searches"))
        }

        async fn scan_cases(
            &self,
            _: tonic::Request<wire::ScanCasesRequest>,
        ) -> Result<Response<wire::ScanCasesResponse>, Status> {
            Err(Status::unimplemented("only searches"))
        }

        async fn change_membership(
            &self,
            _: tonic::Request<wire::ChangeMembershipRequest>,
        ) -> Result<Response<wire::ChangeMembershipResponse>, Status> {
            Err(Status::unimplemented("only searches"))
        }
    }

    /// Nodes whose every shard is on one that holds its searches.
    async fn holding_node() -> (Arc<Nodes>, Arc<HoldingNode>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let node = Arc::new(HoldingNode {
            asked: Mutex::default(),
            answer: tokio::sync::Semaphore::new(0),
            given_up: Arc::default(),
        });
        let service = ShardServiceServer::from_arc(Arc::clone(&node));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let routes = Arc::new(Routes::default());
        let seat = Seat { replica: 1, node_id: [1; 16], address };
        routes.set_map((0..4).map(|_| Route { epoch: 1, seats: vec![seat.clone()] }).collect());
        (Nodes::new(routes, Duration::from_secs(60)), node)
    }

    impl HoldingNode {
        /// Waits until it was asked so often.
        async fn asked(&self, times: usize) {
            while self.asked.lock().expect("no panic").len() < times {
                tokio::task::yield_now().await;
            }
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(50)
    }

    #[tokio::test]
    async fn probes_that_wait_for_a_busy_node_travel_together_with_those_for_the_same_shards() {
        let (nodes, node) = holding_node().await;
        let probe = wire::SearchProbe::default();
        let mut answers = Vec::new();
        // As many as may be on their way at once leave as they come.
        for sent in 1..=REQUESTS_PER_NODE_MAX {
            answers.extend(nodes.search(&probe, &[0], 0, later()));
            node.asked(sent).await;
        }
        for number in 0..2 * PROBES_PER_REQUEST_MAX {
            let shards: &[u32] = if number % 2 == 0 { &[0, 1] } else { &[2, 3] };
            answers.extend(nodes.search(&probe, shards, 0, later()));
        }
        node.answer.add_permits(REQUESTS_PER_NODE_MAX + 2);
        for replies in join_all(answers).await {
            assert!(replies.iter().all(|reply| reply.outcome.is_ok()));
        }
        let asked = node.asked.lock().expect("no panic");
        let together: Vec<_> = asked.iter().map(|asked| (asked.shards.clone(), asked.probes)).collect();
        assert_eq!(
            together[REQUESTS_PER_NODE_MAX..],
            [(vec![0, 1], PROBES_PER_REQUEST_MAX), (vec![2, 3], PROBES_PER_REQUEST_MAX)]
        );
    }

    /// A node once scanned on for callers who had hung up, and never heard of their deadlines.
    #[tokio::test]
    async fn a_node_hears_its_callers_deadline_and_when_the_last_of_them_has_gone() {
        let (nodes, node) = holding_node().await;
        let deadline = Instant::now() + Duration::from_secs(20);
        let answers = nodes.search(&wire::SearchProbe::default(), &[0], 0, deadline);
        node.asked(1).await;
        let timeout = node.asked.lock().expect("no panic")[0].timeout.expect("a deadline travels");
        assert!(timeout <= Duration::from_secs(20), "{timeout:?}");
        drop(answers);
        while node.given_up.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_caller_that_goes_takes_nothing_from_those_who_share_its_request() {
        let (nodes, node) = holding_node().await;
        let probe = wire::SearchProbe::default();
        let mut answers = Vec::new();
        for sent in 1..=REQUESTS_PER_NODE_MAX {
            answers.extend(nodes.search(&probe, &[0], 0, later()));
            node.asked(sent).await;
        }
        let (gone, stays) = (nodes.search(&probe, &[0], 0, later()), nodes.search(&probe, &[0], 0, later()));
        node.answer.add_permits(1);
        node.asked(REQUESTS_PER_NODE_MAX + 1).await;
        drop(gone);
        node.answer.add_permits(REQUESTS_PER_NODE_MAX);
        for replies in join_all(answers.into_iter().chain(stays)).await {
            assert!(replies.iter().all(|reply| reply.outcome.is_ok()));
        }
    }
}
