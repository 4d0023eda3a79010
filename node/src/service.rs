//! The node's gRPC service: what a coordinator asks of the replicas hosted here.

use std::sync::Arc;
use std::time::Duration;

use semel_index::{EnrolmentId, GalleryId};
use semel_node_wire as convert;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::shard_result::Outcome;
use semel_proto::internal::v1::shard_service_server::ShardService;
use semel_raft::{LogIndex, MembershipChange, MembershipError};
use semel_raft_host::ClusterId;
use semel_shard::{CaseId, CaseSubject, EnrolmentState, Receipt};
use semel_telemetry::{Instrument as _, continued, traced};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::metrics::NodeMetrics;
use crate::replicas::{self, HostedShard, Replicas};
use crate::search::SearchPool;
use crate::status::CallError;

/// Shards that one request may name.
const SHARDS_PER_REQUEST_MAX: usize = 4_096;
/// Probes that one request may hold.
const PROBES_PER_REQUEST_MAX: usize = 64;
/// Items that one listing may ask for.
const ITEMS_MAX: u32 = 1_000;
/// Obligations that one answer to a proposal carries; the rest are found by listing.
const OBLIGATIONS_ANSWERED_MAX: usize = 64;
/// The longest wait for a verdict, in milliseconds.
const WAIT_MS_MAX: u32 = 60_000;

/// Serves the replicas of one node.
pub(crate) struct ShardServer {
    cluster: ClusterId,
    replicas: Arc<Replicas>,
    pool: Arc<SearchPool>,
    metrics: Arc<NodeMetrics>,
}

impl ShardServer {
    pub(crate) fn new(
        cluster: ClusterId,
        replicas: Arc<Replicas>,
        pool: Arc<SearchPool>,
        metrics: Arc<NodeMetrics>,
    ) -> Self {
        Self { cluster, replicas, pool, metrics }
    }

    fn hosted(&self, cluster_id: &[u8], shard: u32) -> Result<Arc<HostedShard>, CallError> {
        self.check_cluster(cluster_id)?;
        self.replicas.get(shard).ok_or(CallError::NotHosted(shard))
    }

    fn check_cluster(&self, cluster_id: &[u8]) -> Result<(), CallError> {
        if cluster_id == self.cluster.0 { Ok(()) } else { Err(CallError::OtherCluster) }
    }

    /// Waits until everything acknowledged before the call can be read here.
    async fn read_barrier(&self, hosted: &HostedShard) -> Result<(), CallError> {
        let index = self.replicas.host().barrier(hosted.group()).await?;
        hosted.view.applied(index).await;
        Ok(())
    }

    async fn propose(&self, request: wire::ProposeRequest) -> Result<wire::ProposeResponse, CallError> {
        let hosted = self.hosted(&request.cluster_id, request.shard)?;
        let command = request.command.ok_or_else(|| CallError::invalid("command", "is required"))?;
        let _timer = command.command.as_ref().map(|command| self.metrics.command(command));
        let command = convert::command(command)?;
        let receipt = self.replicas.host().propose(hosted.group(), command.encode()).await?;
        let (receipt, mut obligations) = match receipt {
            Receipt::Enrolment { record, obligations } => {
                (wire::propose_response::Receipt::Enrolment(convert::enrolment_receipt(&record)), obligations)
            }
            Receipt::Done { obligations } => (wire::propose_response::Receipt::Done(wire::DoneReceipt {}), obligations),
            Receipt::Refused(refusal) => {
                (wire::propose_response::Receipt::Refused(convert::refused(refusal)), Vec::new())
            }
        };
        obligations.truncate(OBLIGATIONS_ANSWERED_MAX);
        let obligations = obligations.iter().map(convert::obligation).collect();
        Ok(wire::ProposeResponse { receipt: Some(receipt), obligations })
    }

    async fn change_membership(
        &self,
        request: wire::ChangeMembershipRequest,
    ) -> Result<wire::ChangeMembershipResponse, CallError> {
        let hosted = self.hosted(&request.cluster_id, request.shard)?;
        let change = request.change.ok_or_else(|| CallError::invalid("change", "is required"))?;
        let change = convert::membership_change(change)?;
        let changed = self.replicas.host().change_membership(hosted.group(), change, request.expected_epoch);
        let epoch = match changed.await {
            // Done before: whoever asks again need not know.
            Err(MembershipError::AlreadyMember { .. } | MembershipError::NotLearner { .. })
                if !matches!(change, MembershipChange::Replace { .. }) =>
            {
                request.expected_epoch
            }
            changed => changed?,
        };
        Ok(wire::ChangeMembershipResponse { epoch })
    }

    async fn search(&self, request: wire::SearchRequest) -> Result<wire::SearchResponse, CallError> {
        self.check_cluster(&request.cluster_id)?;
        if request.shards.is_empty() || request.shards.len() > SHARDS_PER_REQUEST_MAX {
            return Err(CallError::invalid("shards", format!("must name 1 to {SHARDS_PER_REQUEST_MAX}")));
        }
        if request.probes.is_empty() || request.probes.len() > PROBES_PER_REQUEST_MAX {
            return Err(CallError::invalid("probes", format!("must hold 1 to {PROBES_PER_REQUEST_MAX}")));
        }
        let engines = request.probes.iter().map(convert::policy_engine).collect::<Result<Vec<_>, _>>()?;
        let probes = request.probes.into_iter().map(convert::probe).collect::<Result<Vec<_>, _>>()?;
        let (probes, priority) = (Arc::new(probes), convert::priority(request.priority));
        let _place = self.pool.admit(priority).inspect_err(|_| self.metrics.search_refused())?;
        let _timer = self.metrics.search(probes.len());
        let (hosted, missing): (Vec<_>, Vec<_>) =
            request.shards.iter().map(|&shard| self.replicas.get(shard).ok_or(shard)).partition(Result::is_ok);
        let hosted: Vec<Arc<HostedShard>> = hosted.into_iter().flatten().collect();
        for (probe, engine) in probes.iter().zip(&engines) {
            replicas::govern(&hosted, &probe.gallery, engine);
            for (reference, hosted) in probe.references.iter().flat_map(|r| hosted.iter().map(move |h| (r, h))) {
                hosted.view.searched_under(&probe.gallery, reference);
            }
        }
        let answers = self.pool.search(self.replicas.host(), &hosted, priority, Arc::clone(&probes)).await;
        let mut results: Vec<wire::ShardResult> = hosted
            .iter()
            .zip(answers)
            .map(|(hosted, answer)| {
                let outcome = match answer {
                    Ok(answers) => {
                        let index = LogIndex(answers.searchable_index);
                        Outcome::Answer(convert::shard_answer(hosted.epoch(), index, &answers.answers, &probes))
                    }
                    Err(error) => {
                        // The replica said at ERROR why it stopped; every search after that says nothing new.
                        tracing::debug!(shard = hosted.shard.0, %error, "shard not searched");
                        Outcome::Error(error.to_string())
                    }
                };
                wire::ShardResult { shard: hosted.shard.0, outcome: Some(outcome) }
            })
            .collect();
        results.extend(missing.into_iter().filter_map(Result::err).map(|shard| wire::ShardResult {
            shard,
            outcome: Some(Outcome::Error(CallError::NotHosted(shard).to_string())),
        }));
        Ok(wire::SearchResponse { results })
    }

    async fn read_enrolment(
        &self,
        request: wire::ReadEnrolmentRequest,
    ) -> Result<wire::ReadEnrolmentResponse, CallError> {
        let hosted = self.hosted(&request.cluster_id, request.shard)?;
        let gallery = gallery(&request.gallery)?;
        let enrolment_id = enrolment_id("enrolment_id", &request.enrolment_id)?;
        let until = Instant::now() + Duration::from_millis(u64::from(request.wait_ms.min(WAIT_MS_MAX)));
        self.read_barrier(&hosted).await?;
        loop {
            // Asked for before the read, so that no change falls between the two.
            let changed = hosted.view.changed(&gallery, &enrolment_id);
            let record = semel_shard::enrolment(&hosted.store, &gallery, &enrolment_id)?
                .ok_or(CallError::NoSuchRecord("enrolment"))?;
            if record.state == EnrolmentState::Staged
                && let Some(changed) = changed
                && tokio::time::timeout_at(until, changed).await.is_ok()
            {
                continue;
            }
            let references = if request.with_templates {
                let references = semel_shard::references(&hosted.store, &gallery, &enrolment_id)?;
                references.iter().flatten().map(convert::canonical_reference).collect()
            } else {
                Vec::new()
            };
            let receipt = Some(convert::enrolment_receipt(&record));
            return Ok(wire::ReadEnrolmentResponse { receipt, references });
        }
    }

    fn list_pending(&self, request: &wire::ListPendingRequest) -> Result<wire::ListPendingResponse, CallError> {
        let hosted = self.hosted(&request.cluster_id, request.shard)?;
        let items_max = request.items_max.clamp(1, ITEMS_MAX) as usize;
        let snapshot = hosted.store.snapshot();
        let enrolments = semel_shard::pending(&snapshot, items_max)?;
        let obligations = semel_shard::obligations(&snapshot, items_max)?;
        Ok(wire::ListPendingResponse {
            enrolments: enrolments.iter().map(convert::pending).collect(),
            obligations: obligations.iter().map(convert::obligation).collect(),
        })
    }

    async fn read_case(&self, request: wire::ReadCaseRequest) -> Result<wire::ReadCaseResponse, CallError> {
        let hosted = self.hosted(&request.cluster_id, request.shard)?;
        let gallery = gallery(&request.gallery)?;
        let one = enrolment_id("enrolment_id", &request.enrolment_id)?;
        let subject = if request.other_enrolment_id.is_empty() {
            CaseSubject::Cluster(one)
        } else {
            let other = enrolment_id("other_enrolment_id", &request.other_enrolment_id)?;
            CaseSubject::pair(&one, &other)
                .ok_or_else(|| CallError::invalid("other_enrolment_id", "must differ from enrolment_id"))?
        };
        self.read_barrier(&hosted).await?;
        let case = semel_shard::case(&hosted.store, &gallery, &subject)?.ok_or(CallError::NoSuchRecord("case"))?;
        Ok(wire::ReadCaseResponse { case: Some(convert::case(&case)) })
    }

    async fn scan_cases(&self, request: wire::ScanCasesRequest) -> Result<wire::ScanCasesResponse, CallError> {
        let hosted = self.hosted(&request.cluster_id, request.shard)?;
        let gallery = gallery(&request.gallery)?;
        let after = match request.after_case_id.as_str() {
            "" => None,
            hex => Some(CaseId::from_hex(hex).ok_or_else(|| CallError::invalid("after_case_id", "must be a case id"))?),
        };
        let cases_max = request.cases_max.clamp(1, ITEMS_MAX) as usize;
        self.read_barrier(&hosted).await?;
        let mut cases = semel_shard::cases(&hosted.store, &gallery, after, cases_max + 1)?;
        let more = cases.len() > cases_max;
        cases.truncate(cases_max);
        Ok(wire::ScanCasesResponse { cases: cases.iter().map(convert::case).collect(), more })
    }
}

fn gallery(name: &str) -> Result<GalleryId, CallError> {
    GalleryId::try_from(name).map_err(|error| CallError::invalid("gallery", format!("must be {}", error.rule)))
}

fn enrolment_id(field: &'static str, id: &str) -> Result<EnrolmentId, CallError> {
    EnrolmentId::try_from(id).map_err(|error| CallError::invalid(field, format!("must be {}", error.rule)))
}

#[tonic::async_trait]
impl ShardService for ShardServer {
    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Result<Response<wire::ProposeResponse>, Status> {
        let span = traced!("node_propose", otel.kind = "server", shard = request.get_ref().shard);
        let span = continued(span, request.metadata());
        Ok(Response::new(ShardServer::propose(self, request.into_inner()).instrument(span).await?))
    }

    async fn change_membership(
        &self,
        request: Request<wire::ChangeMembershipRequest>,
    ) -> Result<Response<wire::ChangeMembershipResponse>, Status> {
        Ok(Response::new(ShardServer::change_membership(self, request.into_inner()).await?))
    }

    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchResponse>, Status> {
        let (shards, probes) = (request.get_ref().shards.len(), request.get_ref().probes.len());
        let span = continued(traced!("node_search", otel.kind = "server", shards, probes), request.metadata());
        Ok(Response::new(ShardServer::search(self, request.into_inner()).instrument(span).await?))
    }

    async fn read_enrolment(
        &self,
        request: Request<wire::ReadEnrolmentRequest>,
    ) -> Result<Response<wire::ReadEnrolmentResponse>, Status> {
        let span = traced!("node_read", otel.kind = "server", shard = request.get_ref().shard);
        let span = continued(span, request.metadata());
        Ok(Response::new(ShardServer::read_enrolment(self, request.into_inner()).instrument(span).await?))
    }

    async fn list_pending(
        &self,
        request: Request<wire::ListPendingRequest>,
    ) -> Result<Response<wire::ListPendingResponse>, Status> {
        Ok(Response::new(ShardServer::list_pending(self, request.get_ref())?))
    }

    async fn read_case(
        &self,
        request: Request<wire::ReadCaseRequest>,
    ) -> Result<Response<wire::ReadCaseResponse>, Status> {
        Ok(Response::new(ShardServer::read_case(self, request.into_inner()).await?))
    }

    async fn scan_cases(
        &self,
        request: Request<wire::ScanCasesRequest>,
    ) -> Result<Response<wire::ScanCasesResponse>, Status> {
        Ok(Response::new(ShardServer::scan_cases(self, request.into_inner()).await?))
    }
}
