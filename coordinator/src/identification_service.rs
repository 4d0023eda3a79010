//! `IdentificationService`: searching without enrolling, and comparing with one enrolment.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use semel_coordinator_wire as convert;
use semel_index::{Comparison, Priority, ShardId, compare};
use semel_proto::v1 as public;
use semel_proto::v1::identification_service_server::IdentificationService;
use semel_telemetry::{Instrument as _, continued, traced};
use semel_workflow::{
    EnrolmentState, Pinned, ReferenceRequest, ScatterGather, SearchOutcome, canonicalise, validate_purpose,
    validate_references,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::drive::{OVERLOAD_RETRY_MS, ResumeError};
use crate::enrolment_service::{answer_by, call_timeout, names};
use crate::front::{CurrentGallery, Front};
use crate::nodes::{CallError, ShardReply};
use crate::status::ClientError;

/// Serves identification and verification.
pub(crate) struct IdentificationServer {
    front: Arc<Front>,
}

impl IdentificationServer {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

/// The canonical form of a probe's references with the thresholds of the policy in force.
async fn pinned(
    front: &Front,
    gallery: &CurrentGallery,
    references: Vec<public::BiometricReference>,
    deadline: Instant,
) -> Result<Pinned, ClientError> {
    let references: Vec<ReferenceRequest> = references.into_iter().map(convert::reference_request).collect();
    let references = validate_references(references, &gallery.policy.policy)?;
    let keys = front.keys(gallery, deadline).await?;
    let references = canonicalise(&references, &keys.rotations);
    Ok(Pinned::new(Arc::clone(&gallery.policy), gallery.record.key_version, references).map_err(ResumeError::from)?)
}

/// Searches every shard until all have answered or the deadline is over.
async fn identify(
    front: &Front,
    request: public::IdentifyRequest,
    deadline: Instant,
) -> Result<public::IdentifyResponse, ClientError> {
    use public::identify_response::Outcome;
    let priority = convert::priority_from(request.priority);
    let _place = front.admit(priority).ok_or(ClientError::Overloaded { retry_after_ms: OVERLOAD_RETRY_MS })?;
    let gallery = front.gallery(&request.gallery, deadline).await?;
    if !gallery.policy.policy.identification_allowed() {
        return Err(ClientError::IdentificationNotAllowed(request.gallery));
    }
    if request.purpose.is_empty() {
        return Err(ClientError::field("purpose", "is required for an identification"));
    }
    validate_purpose(&request.purpose, &gallery.policy.policy)?;
    let pinned = pinned(front, &gallery, request.references, deadline).await?;
    let shards = front.shards().ok_or(ClientError::NotReady("its shards are not placed yet"))?;
    tracing::info!(gallery = request.gallery, purpose = request.purpose, "identification");

    let name = gallery.record.name.clone();
    let mut gather = ScatterGather::of_identification(name.clone(), shards, pinned.candidates_max());
    let probe = convert::probe(&pinned.probe(name, None), &gallery.policy);
    let mut missing: Vec<ShardId> = shards.all().collect();
    for attempt in 0.. {
        let asked: Vec<u32> = missing.iter().map(|shard| shard.0).collect();
        let mut replies: FuturesUnordered<_> =
            front.nodes.search(&probe, &asked, attempt, priority, deadline).into_iter().collect();
        while let Ok(Some(replies)) = tokio::time::timeout_at(deadline, replies.next()).await {
            replies.into_iter().for_each(|reply| take_in(&mut gather, reply));
        }
        missing = gather.missing();
        let pause = Instant::now() + std::time::Duration::from_millis(u64::from(OVERLOAD_RETRY_MS));
        if missing.is_empty() || pause >= deadline {
            break;
        }
        tokio::time::sleep_until(pause).await;
    }
    let outcome = match gather.finish() {
        SearchOutcome::Complete(search) => Outcome::Complete(public::CompleteIdentification {
            candidates: search.candidates().iter().map(convert::candidate).collect(),
            candidates_total: search.candidates_total(),
            coverage: Some(convert::coverage(search.coverage())),
            policy_version: gallery.policy.version.0,
        }),
        SearchOutcome::Incomplete { missing } => Outcome::Incomplete(public::IncompleteIdentification {
            missing_shards: missing.iter().map(|shard| shard.0).collect(),
        }),
    };
    Ok(public::IdentifyResponse { outcome: Some(outcome) })
}

/// Takes one shard's reply in; one that cannot be true does not count.
fn take_in(gather: &mut ScatterGather, reply: ShardReply) {
    let shard = reply.shard;
    match reply.answer() {
        Ok(answer) => {
            if let Err(defect) = gather.answer(answer) {
                tracing::error!(shard, %defect, "a shard's answer cannot be true and does not count");
            }
        }
        Err(reason) => tracing::debug!(shard, reason, "a shard did not answer"),
    }
}

async fn verify(
    front: &Front,
    request: public::VerifyRequest,
    deadline: Instant,
) -> Result<public::VerifyResponse, ClientError> {
    let _place =
        front.admit(Priority::Interactive).ok_or(ClientError::Overloaded { retry_after_ms: OVERLOAD_RETRY_MS })?;
    let (name, enrolment_id) = names(&request.gallery, &request.enrolment_id)?;
    let gallery = front.gallery(&request.gallery, deadline).await?;
    let probe = pinned(front, &gallery, request.references, deadline).await?;
    let read = front.read_with_templates(&name, &enrolment_id, deadline).await;
    let (record, references) = read.map_err(|error| match error {
        ResumeError::Call(CallError::NotFound) => {
            ClientError::NoSuchRecord { what: "enrolment", gallery: request.gallery.clone() }
        }
        error => error.into(),
    })?;
    if record.state == EnrolmentState::Withdrawn {
        return Err(ClientError::Withdrawn(request.enrolment_id));
    }
    let mut comparisons = Vec::new();
    for own in probe.references() {
        let Some(theirs) = references.iter().find(|theirs| theirs.slot == own.reference.slot) else { continue };
        match compare(&own.reference.spec, &own.reference.template, &theirs.template) {
            Comparison::Score(score) => comparisons.push((own.reference.slot, score, own.threshold)),
            Comparison::NotComparable => {}
        }
    }
    Ok(public::VerifyResponse {
        threshold_reached: comparisons.iter().any(|(_, score, threshold)| score >= threshold),
        comparisons: comparisons
            .into_iter()
            .map(|(slot, score, threshold)| convert::comparison(slot, score, threshold))
            .collect(),
        policy_version: gallery.policy.version.0,
    })
}

#[tonic::async_trait]
impl IdentificationService for IdentificationServer {
    async fn identify(
        &self,
        request: Request<public::IdentifyRequest>,
    ) -> Result<Response<public::IdentifyResponse>, Status> {
        let deadline = answer_by(request.get_ref().wait_ms, call_timeout(&request))?;
        let span = traced!("identify", otel.kind = "server", gallery = request.get_ref().gallery);
        let span = continued(span, request.metadata());
        let timer = self.front.metrics.identify.start();
        let identified = identify(&self.front, request.into_inner(), deadline).instrument(span);
        let answer = self.front.finish(identified).await;
        drop(timer);
        self.front.metrics.identified(&answer);
        Ok(Response::new(answer?))
    }

    async fn verify(
        &self,
        request: Request<public::VerifyRequest>,
    ) -> Result<Response<public::VerifyResponse>, Status> {
        let deadline = answer_by(0, call_timeout(&request))?;
        let span = traced!("verify", otel.kind = "server", gallery = request.get_ref().gallery);
        let span = continued(span, request.metadata());
        let verified = verify(&self.front, request.into_inner(), deadline).instrument(span);
        Ok(Response::new(self.front.finish(verified).await?))
    }
}
