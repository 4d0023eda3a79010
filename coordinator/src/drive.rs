//! Carries out what enrolment workflows want: calls to shards, waits, and the answer to the caller.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use semel_coordinator_wire::{self as convert, Garbled};
use semel_index::{EnrolmentId, GalleryId, KeyVersion, PolicyVersion, Priority, ShardId, shard_of};
use semel_proto::internal::v1 as wire;
use semel_telemetry::{Instrument as _, traced};
use semel_workflow::{
    CallFailure, EnrolmentEffect, EnrolmentEvent, EnrolmentRecord, EnrolmentWorkflow, Obligation, ObligationKey,
    Outcome, Pinned, Receipt, ReceiptOutcome, SettleCommand, StageCommand, VersionedPolicy,
};
use tokio::time::Instant;

use crate::front::Front;
use crate::nodes::{CallError, ShardReply};

/// How long one call of a workflow may take, over all replicas of a shard, before the workflow counts a failure.
const CALL_WITHIN: Duration = Duration::from_secs(4);
/// How long a sweep works on one enrolment before it leaves it to a later round.
pub(crate) const RESUME_WITHIN: Duration = Duration::from_secs(30);

type Event = EnrolmentEvent<wire::Command>;
type Effect = EnrolmentEffect<wire::Command>;
/// What a call leads to: one event, or for a search one per shard asked of the node.
type Events<'a> = BoxFuture<'a, Vec<Event>>;

impl Front {
    /// Drives a workflow until it has an outcome or the deadline is over. Dropping the future stops it; what is staged is then
    /// finished by the sweep.
    pub(crate) async fn drive(
        &self,
        (mut workflow, first): (EnrolmentWorkflow<wire::Command>, Vec<Effect>),
        policy: &VersionedPolicy,
        priority: Priority,
        deadline: Instant,
    ) -> Outcome {
        let key = (workflow.gallery().clone(), workflow.enrolment_id().clone());
        let _in_work = self.sweep.begin(key.clone());
        let home = workflow.home();
        let mut searches = 0;
        // From the first request until the verdict is known, or the caller is told that it is not.
        let mut searching = None;
        let mut calls: FuturesUnordered<Events<'_>> = FuturesUnordered::new();
        let mut effects = first;
        loop {
            for effect in effects {
                match effect {
                    EnrolmentEffect::Stage(command) => calls.push(Box::pin(self.stage(home, command))),
                    EnrolmentEffect::Settle(command) => {
                        searching = None;
                        calls.push(Box::pin(self.settle(home, command)));
                    }
                    EnrolmentEffect::LoadPinned { policy_version, key_version } => {
                        calls.push(Box::pin(self.load_pinned(&key.0, &key.1, policy_version, key_version)));
                    }
                    EnrolmentEffect::Search { shards, probe } => {
                        let probe = convert::probe(&probe, policy);
                        let shards: Vec<u32> = shards.iter().map(|shard| shard.0).collect();
                        let (span, _) =
                            searching.get_or_insert_with(|| (traced!("search"), self.metrics.search.start()));
                        let asked = span.in_scope(|| self.nodes.search(&probe, &shards, searches, priority, deadline));
                        for replies in asked {
                            calls.push(Box::pin(async { replies.await.into_iter().map(searched).collect() }));
                        }
                        searches += 1;
                    }
                    EnrolmentEffect::RetryAfter { retry, delay_ms } => calls.push(Box::pin(async move {
                        tokio::time::sleep(Duration::from_millis(u64::from(delay_ms))).await;
                        vec![EnrolmentEvent::RetryDue { retry }]
                    })),
                    EnrolmentEffect::Drain(obligations) => self.obligations.found(obligations),
                    EnrolmentEffect::AnswerDefective { shard, defect } => {
                        tracing::error!(shard = shard.0, %defect, "a shard's answer cannot be true and does not count");
                    }
                    EnrolmentEffect::AlarmSaturated { candidates_total } => tracing::error!(
                        gallery = %key.0, enrolment_id = %key.1, candidates_total,
                        "more candidates than a list holds: somebody must look at the gallery"
                    ),
                    EnrolmentEffect::Reply(outcome) => return outcome,
                }
            }
            let events = tokio::select! {
                Some(events) = calls.next() => events,
                () = tokio::time::sleep_until(deadline) => vec![EnrolmentEvent::Deadline],
            };
            let now_ms = crate::clock::now_ms();
            effects = events.into_iter().flat_map(|event| workflow.step(now_ms, event)).collect();
        }
    }

    /// Finishes an enrolment that is on record without a verdict.
    pub(crate) async fn resume(&self, gallery: &GalleryId, enrolment_id: &EnrolmentId) -> Result<Outcome, ResumeError> {
        let deadline = Instant::now() + RESUME_WITHIN;
        let (record, references) = self.read_with_templates(gallery, enrolment_id, deadline).await?;
        let policy = self.policy(gallery, record.policy_version).ok_or(ResumeError::PolicyUnknown)?;
        let pinned = Pinned::new(Arc::clone(&policy), record.key_version, references)?;
        let shards = self.shards().ok_or(ResumeError::PolicyUnknown)?;
        // Whoever asked for it has gone.
        let priority = Priority::Bulk;
        Ok(self.drive(EnrolmentWorkflow::resume(shards, record, pinned), &policy, priority, deadline).await)
    }

    async fn stage(&self, home: ShardId, command: Arc<StageCommand>) -> Vec<Event> {
        let _timer = self.metrics.stage.start();
        let proposed = self.propose(home, convert::stage(&command)).instrument(traced!("stage", shard = home.0));
        let event = match proposed.await {
            Ok(receipt) => EnrolmentEvent::StageAnswered(receipt),
            Err(failure) => EnrolmentEvent::StageFailed(failure),
        };
        vec![event]
    }

    async fn settle(&self, home: ShardId, command: Arc<SettleCommand>) -> Vec<Event> {
        let _timer = self.metrics.settle.start();
        let proposed = self.propose(home, convert::settle(&command)).instrument(traced!("settle", shard = home.0));
        let event = match proposed.await {
            Ok(receipt) => EnrolmentEvent::SettleAnswered(receipt),
            Err(failure) => EnrolmentEvent::SettleFailed(failure),
        };
        vec![event]
    }

    async fn propose(&self, shard: ShardId, command: wire::Command) -> Result<Receipt<wire::Command>, CallFailure> {
        let answer = self.nodes.propose(shard.0, command, Instant::now() + CALL_WITHIN).await;
        let answer = answer.map_err(|error| match error {
            CallError::OutcomeUnknown { .. } => CallFailure::OutcomeUnknown,
            CallError::Unreached { .. } | CallError::NotFound => CallFailure::NotProposed,
            CallError::Overloaded { .. } => CallFailure::Overloaded { retry_after_ms: OVERLOAD_RETRY_MS },
            CallError::Refused { shard, reason } => {
                tracing::error!(shard, reason, "a node refuses a command");
                CallFailure::NotProposed
            }
        })?;
        self.receipt(shard, answer).map_err(|error| {
            tracing::error!(shard = shard.0, %error, "a receipt cannot be read");
            CallFailure::OutcomeUnknown
        })
    }

    /// The receipt of a command about an enrolment.
    fn receipt(&self, shard: ShardId, answer: wire::ProposeResponse) -> Result<Receipt<wire::Command>, ReceiptError> {
        use wire::propose_response::Receipt as Wire;
        let obligations = self.obligations_from(shard, answer.obligations);
        let outcome = match answer.receipt {
            Some(Wire::Enrolment(receipt)) => ReceiptOutcome::Enrolment(Box::new(convert::record_from(receipt)?)),
            Some(Wire::Refused(refused)) => ReceiptOutcome::Refused(convert::refusal(refused)?),
            Some(Wire::Done(_)) | None => return Err(ReceiptError::NoRecord),
        };
        Ok(Receipt { outcome, obligations })
    }

    /// The obligations that a shard listed; one that cannot be read is left where it is, and logged.
    pub(crate) fn obligations_from(
        &self,
        from_shard: ShardId,
        obligations: Vec<wire::Obligation>,
    ) -> Vec<Obligation<wire::Command>> {
        let Some(shards) = self.shards() else { return Vec::new() };
        let read = |obligation: wire::Obligation| -> Result<Obligation<wire::Command>, ReceiptError> {
            let gallery = convert::gallery(&obligation.gallery)?;
            let addressee = convert::enrolment_id(&obligation.addressee)?;
            Ok(Obligation {
                key: ObligationKey { from_shard, id: obligation.id },
                addressee_shard: shard_of(&gallery, &addressee, shards),
                command: obligation.command.ok_or(ReceiptError::NoRecord)?,
                gallery,
                addressee,
            })
        };
        let readable = obligations.into_iter().filter_map(|obligation| {
            read(obligation)
                .inspect_err(|error| tracing::error!(shard = from_shard.0, %error, "an obligation cannot be read"))
                .ok()
        });
        readable.collect()
    }

    async fn load_pinned(
        &self,
        gallery: &GalleryId,
        enrolment_id: &EnrolmentId,
        policy_version: PolicyVersion,
        key_version: KeyVersion,
    ) -> Vec<Event> {
        let loaded = async {
            let deadline = Instant::now() + CALL_WITHIN;
            let (_, references) = self.read_with_templates(gallery, enrolment_id, deadline).await?;
            let policy = self.policy(gallery, policy_version).ok_or(ResumeError::PolicyUnknown)?;
            Ok::<_, ResumeError>(Pinned::new(policy, key_version, references)?)
        };
        match loaded.await {
            Ok(pinned) => vec![EnrolmentEvent::PinnedLoaded(Box::new(pinned))],
            Err(error) => {
                tracing::warn!(%gallery, %enrolment_id, %error, "what the enrolment pins could not be loaded");
                vec![EnrolmentEvent::PinnedFailed]
            }
        }
    }

    /// A record with its canonical references, read behind a barrier.
    pub(crate) async fn read_with_templates(
        &self,
        gallery: &GalleryId,
        enrolment_id: &EnrolmentId,
        deadline: Instant,
    ) -> Result<(EnrolmentRecord, Vec<semel_workflow::CanonicalReference>), ResumeError> {
        let shards = self.shards().ok_or(ResumeError::PolicyUnknown)?;
        let request = wire::ReadEnrolmentRequest {
            shard: shard_of(gallery, enrolment_id, shards).0,
            gallery: gallery.to_string(),
            enrolment_id: enrolment_id.to_string(),
            with_templates: true,
            ..Default::default()
        };
        let answer = self.nodes.read_enrolment(request, deadline).await?;
        let record = convert::record_from(answer.receipt.ok_or(ReceiptError::NoRecord)?)?;
        let references = answer.references.into_iter().map(convert::canonical_reference_from);
        Ok((record, references.collect::<Result<Vec<_>, Garbled>>()?))
    }
}

/// What a shard's reply means to the workflow.
fn searched(reply: ShardReply) -> Event {
    let shard = reply.shard;
    match reply.answer() {
        Ok(answer) => EnrolmentEvent::ShardAnswered(answer),
        Err(reason) => {
            tracing::debug!(shard, reason, "a shard did not answer");
            EnrolmentEvent::ShardFailed(ShardId(shard))
        }
    }
}

/// How long a caller that met overload should wait, in milliseconds.
pub(crate) const OVERLOAD_RETRY_MS: u32 = 200;

/// A receipt that says nothing of what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiptError {
    #[error("the answer has no record")]
    NoRecord,
    #[error(transparent)]
    Garbled(#[from] Garbled),
}

/// Why an enrolment on record cannot be gone on with now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    #[error(transparent)]
    Garbled(#[from] Garbled),
    #[error("the policy version it pins is not known here yet")]
    PolicyUnknown,
    #[error(transparent)]
    Unpinned(#[from] semel_workflow::Unpinned),
}
