//! How far an enrolment has come, each phase with exactly what it needs.
//!
//! The order of the protocol is in these types: searching takes a [`StagedEnrolment`], settling a complete search.

use std::collections::BTreeSet;
use std::sync::Arc;

use semel_index::{ShardCount, ShardId};

use crate::canonical::{Pinned, SearchProbe};
use crate::decide::decide;
use crate::enrolment::{EnrolmentEffect, Outcome, Waiting};
use crate::gallery::DecisionPolicy;
use crate::record::{EnrolmentRecord, SettleCommand, StageCommand, Verdict, VerdictState};
use crate::search::{AnswerDefect, CompleteSearch, ScatterGather, SearchOutcome, ShardAnswer};

/// How far an enrolment has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// The home shard is asked to record it.
    Staging {
        command: Arc<StageCommand>,
        pinned: Box<Pinned>,
        /// Whether some try may yet commit.
        outcome_unknown: bool,
    },
    /// It was staged earlier under other versions, which are being loaded.
    Loading { staged: StagedEnrolment },
    /// Every shard is asked.
    Searching(Box<Searching>),
    /// The home shard is asked to record the verdict.
    Settling { staged: StagedEnrolment, command: Arc<SettleCommand> },
    /// The caller was answered.
    Finished,
}

/// The proof that an enrolment is staged: a record, given out by its home shard, that waits for a verdict.
#[derive(Debug, Clone)]
pub(super) struct StagedEnrolment(Arc<EnrolmentRecord>);

/// A search under way.
#[derive(Debug)]
pub(super) struct Searching {
    staged: StagedEnrolment,
    decision: DecisionPolicy,
    probe: Arc<SearchProbe>,
    gather: ScatterGather,
    /// Shards asked that have neither answered nor failed.
    outstanding: BTreeSet<ShardId>,
    /// Shards that failed and were not asked again yet.
    failed: BTreeSet<ShardId>,
}

impl StagedEnrolment {
    /// The proof, or the record back if it is settled or withdrawn.
    pub(super) fn acknowledged(record: Box<EnrolmentRecord>) -> Result<Self, Box<EnrolmentRecord>> {
        if record.is_staged() { Ok(Self(Arc::new(*record))) } else { Err(record) }
    }

    pub(super) fn is_pinned_to(&self, pinned: &Pinned) -> bool {
        self.0.policy_version == pinned.policy().version && self.0.key_version == pinned.key_version()
    }

    pub(super) fn load_pinned<T>(&self) -> EnrolmentEffect<T> {
        EnrolmentEffect::LoadPinned { policy_version: self.0.policy_version, key_version: self.0.key_version }
    }

    pub(super) fn inconclusive(&self, waiting: Waiting) -> Outcome {
        Outcome::Inconclusive { record: Box::new(EnrolmentRecord::clone(&self.0)), waiting }
    }
}

impl Searching {
    pub(super) fn new(staged: StagedEnrolment, pinned: &Pinned, shards: ShardCount) -> Self {
        let (gallery, enrolment_id) = (&staged.0.gallery, &staged.0.enrolment_id);
        let probe = Arc::new(pinned.probe(gallery.clone(), Some(enrolment_id.clone())));
        let gather = ScatterGather::of_enrolment(
            gallery.clone(),
            shards,
            pinned.candidates_max(),
            enrolment_id.clone(),
            staged.0.stage_index,
        );
        let (outstanding, failed) = (shards.all().collect(), BTreeSet::new());
        Self { staged, decision: pinned.decision(), probe, gather, outstanding, failed }
    }

    pub(super) fn staged(&self) -> &StagedEnrolment {
        &self.staged
    }

    pub(super) fn probe(&self) -> Arc<SearchProbe> {
        Arc::clone(&self.probe)
    }

    pub(super) fn missing(&self) -> Vec<ShardId> {
        self.gather.missing()
    }

    pub(super) fn awaits_answers(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Takes in an answer; one that cannot be true is a failure of its shard.
    pub(super) fn answered(&mut self, answer: ShardAnswer) -> Result<(), AnswerDefect> {
        let shard = answer.shard;
        let taken = self.gather.answer(answer);
        match taken {
            Ok(()) => {
                self.outstanding.remove(&shard);
                self.failed.remove(&shard);
            }
            Err(_) => self.failed(shard),
        }
        taken
    }

    pub(super) fn failed(&mut self, shard: ShardId) {
        if self.outstanding.remove(&shard) {
            self.failed.insert(shard);
        }
    }

    /// The shards that failed, which from now on are outstanding again.
    pub(super) fn ask_again(&mut self) -> Vec<ShardId> {
        self.outstanding.append(&mut self.failed);
        self.outstanding.iter().copied().collect()
    }

    /// The verdict to be recorded, once every shard has answered.
    pub(super) fn settle_command(&self, shards: ShardCount, now_ms: i64) -> Option<SettleCommand> {
        if self.awaits_answers() || !self.failed.is_empty() {
            return None;
        }
        match self.gather.clone().finish() {
            SearchOutcome::Complete(search) => Some(self.settle(&search, shards, now_ms)),
            SearchOutcome::Incomplete { .. } => None,
        }
    }

    fn settle(&self, search: &CompleteSearch, shards: ShardCount, now_ms: i64) -> SettleCommand {
        let record = &self.staged.0;
        let decision = decide(search, &self.decision);
        let candidates = match decision.state {
            VerdictState::PossibleDuplicate => search.candidates().to_vec(),
            VerdictState::Unique | VerdictState::NotComparable => Vec::new(),
        };
        let verdict = Verdict {
            state: decision.state,
            candidates,
            candidates_total: search.candidates_total(),
            saturated: search.saturated(),
            coverage: search.coverage().clone(),
            policy_version: record.policy_version,
            round: record.round,
            settled_at_ms: now_ms,
        };
        SettleCommand {
            gallery: record.gallery.clone(),
            enrolment_id: record.enrolment_id.clone(),
            stage_index: record.stage_index,
            content_digest: record.content_digest,
            verdict,
            shards_count: shards,
        }
    }
}
