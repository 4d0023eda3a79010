//! One enrolment from request to recorded verdict: stage, search everyone, decide, settle.
//!
//! The workflow performs no IO: each event gives effects, which the shell carries out. It keeps nothing that matters; if it
//! is lost at any point, the staged record is found by the sweep and resumed, by this coordinator or another. Two
//! workflows for one enrolment cost work, never safety: the first settle applied wins, and both reply with what is recorded.
//!
//! *Staged before searching*: of two concurrent enrolments of one person, at least one then sees the other. A search needs
//! a [`StagedEnrolment`], which only a record returned by the home shard can make.

mod phase;

use std::marker::PhantomData;
use std::sync::Arc;

use semel_index::{EnrolmentId, GalleryId, KeyVersion, PolicyVersion, ShardCount, ShardId, shard_of};

use crate::canonical::{Pinned, PreparedEnrolment, SearchProbe};
use crate::digest::ContentDigest;
use crate::obligations::Obligation;
use crate::record::{EnrolmentRecord, EnrolmentState, Receipt, ReceiptOutcome, Refusal, SettleCommand, StageCommand};
use crate::search::{AnswerDefect, ShardAnswer};
use phase::{Phase, Searching, StagedEnrolment};

/// The most times that one step (stage, load, search of a shard, settle) is tried.
pub const ATTEMPTS_MAX: u32 = 12;

const RETRY_DELAY_MS_MIN: u32 = 50;
const RETRY_DELAY_MS_MAX: u32 = 1_600;

/// The wait before try number `attempt` + 1: doubling from 50 ms to 1.6 s, so that the tries outlast an election.
pub fn retry_delay_ms(attempt: u32) -> u32 {
    let doublings = attempt.saturating_sub(1).min(16);
    RETRY_DELAY_MS_MIN.saturating_mul(1 << doublings).min(RETRY_DELAY_MS_MAX)
}

/// Why a call to a shard has no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// Nothing was proposed.
    NotProposed,
    /// The command may or may not be applied later.
    OutcomeUnknown,
    /// Nothing was proposed: too much waits.
    Overloaded {
        /// When to try again, as the shard hints.
        retry_after_ms: u32,
    },
}

/// What happened.
#[derive(Debug)]
pub enum EnrolmentEvent<T> {
    /// The home shard answered the stage.
    StageAnswered(Receipt<T>),
    /// The stage has no receipt.
    StageFailed(CallFailure),
    /// What the record pins was loaded.
    PinnedLoaded(Box<Pinned>),
    /// What the record pins could not be loaded.
    PinnedFailed,
    /// A shard searched.
    ShardAnswered(ShardAnswer),
    /// A shard did not.
    ShardFailed(ShardId),
    /// The home shard answered the settle.
    SettleAnswered(Receipt<T>),
    /// The settle has no receipt.
    SettleFailed(CallFailure),
    /// The wait of an [`EnrolmentEffect::RetryAfter`] is over.
    RetryDue {
        /// Which one.
        retry: u32,
    },
    /// The caller waits no longer.
    Deadline,
}

/// What is to be done. At most one stage, load or settle is under way at a time, and at most one search per shard.
#[derive(Debug)]
pub enum EnrolmentEffect<T> {
    /// Propose to the home shard; answer with `StageAnswered` or `StageFailed`.
    Stage(Arc<StageCommand>),
    /// Load the recorded canonical references of the enrolment, behind a barrier, and this version of its gallery's policy;
    /// answer with `PinnedLoaded` or `PinnedFailed`.
    LoadPinned {
        /// The policy version that the record pins.
        policy_version: PolicyVersion,
        /// The key version that the record pins.
        key_version: KeyVersion,
    },
    /// Search these shards, each behind a barrier that begins now; answer for each with `ShardAnswered` or `ShardFailed`.
    Search {
        /// The shards, in order.
        shards: Vec<ShardId>,
        /// What to search for.
        probe: Arc<SearchProbe>,
    },
    /// Propose to the home shard; answer with `SettleAnswered` or `SettleFailed`.
    Settle(Arc<SettleCommand>),
    /// Hand these to the obligation driver.
    Drain(Vec<Obligation<T>>),
    /// Answer with `RetryDue` of the same number after the delay.
    RetryAfter {
        /// Names the wait; no two waits of a workflow have the same.
        retry: u32,
        /// How long.
        delay_ms: u32,
    },
    /// Log that a shard gave an answer that cannot be true.
    AnswerDefective {
        /// The shard asked.
        shard: ShardId,
        /// What is wrong with it.
        defect: AnswerDefect,
    },
    /// Tell an operator that a verdict was recorded with more candidates than a list holds.
    AlarmSaturated {
        /// How many enrolments reached a threshold.
        candidates_total: u64,
    },
    /// Answer the caller. The last effect; the workflow is finished.
    Reply(Outcome),
}

/// What became of an enrolment, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is settled or withdrawn, as recorded.
    Settled(Box<EnrolmentRecord>),
    /// It is staged and the cluster will finish it: a progress report, not an error.
    Inconclusive {
        /// As recorded when it was staged.
        record: Box<EnrolmentRecord>,
        /// What was being waited for.
        waiting: Waiting,
    },
    /// The id is taken by other content.
    AlreadyExists,
    /// It could not be staged, or whether it was is not known. Retriable with the same id and content.
    Unavailable {
        /// Whether it may yet be staged.
        outcome_unknown: bool,
    },
    /// Too much waits. Nothing was staged.
    Overloaded {
        /// When to try again.
        retry_after_ms: u32,
    },
    /// The home shard refused it: a defect of this coordinator.
    Refused(Refusal),
}

/// What an inconclusive enrolment waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// For these shards to answer.
    Shards(Vec<ShardId>),
    /// For its recorded references, which were staged under other versions.
    Pinned,
    /// For its verdict to be recorded.
    Settle,
}

/// The workflow of one enrolment. `T` is the obligations' command, passed through unread.
#[derive(Debug)]
pub struct EnrolmentWorkflow<T> {
    shards: ShardCount,
    gallery: GalleryId,
    enrolment_id: EnrolmentId,
    content_digest: ContentDigest,
    phase: Phase,
    /// Failures of the current phase's step.
    failures: u32,
    /// Waits begun so far: names the next.
    retries: u32,
    /// The wait under way.
    waiting: Option<u32>,
    obligations: PhantomData<fn(T)>,
}

impl<T> EnrolmentWorkflow<T> {
    /// Begins with a prepared request.
    pub fn begin(shards: ShardCount, prepared: PreparedEnrolment) -> (Self, Vec<EnrolmentEffect<T>>) {
        let PreparedEnrolment { stage, pinned } = prepared;
        let (gallery, enrolment_id, digest) = (stage.gallery.clone(), stage.enrolment_id.clone(), stage.content_digest);
        let command = Arc::new(stage);
        let effects = vec![EnrolmentEffect::Stage(Arc::clone(&command))];
        let phase = Phase::Staging { command, pinned: Box::new(pinned), outcome_unknown: false };
        (Self::new(shards, gallery, enrolment_id, digest, phase), effects)
    }

    /// Goes on with an enrolment that its home shard, read behind a barrier, has on record, with what it pins.
    pub fn resume(shards: ShardCount, record: EnrolmentRecord, pinned: Pinned) -> (Self, Vec<EnrolmentEffect<T>>) {
        let (gallery, enrolment_id, digest) =
            (record.gallery.clone(), record.enrolment_id.clone(), record.content_digest);
        let mut workflow = Self::new(shards, gallery, enrolment_id, digest, Phase::Finished);
        let effects = workflow.recorded(Box::new(record), &pinned);
        (workflow, effects)
    }

    fn new(
        shards: ShardCount,
        gallery: GalleryId,
        enrolment_id: EnrolmentId,
        content_digest: ContentDigest,
        phase: Phase,
    ) -> Self {
        let obligations = PhantomData;
        let (failures, retries, waiting) = (0, 0, None);
        Self { shards, gallery, enrolment_id, content_digest, phase, failures, retries, waiting, obligations }
    }

    /// The gallery.
    pub fn gallery(&self) -> &GalleryId {
        &self.gallery
    }

    /// The enrolment.
    pub fn enrolment_id(&self) -> &EnrolmentId {
        &self.enrolment_id
    }

    /// The shard that stages and settles it.
    pub fn home(&self) -> ShardId {
        shard_of(&self.gallery, &self.enrolment_id, self.shards)
    }

    /// Whether the caller was answered. Later events change nothing, but receipts are still drained.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Advances by one event. `now_ms` is the wall clock in milliseconds since 1970-01-01 UTC; it is recorded for people and
    /// nothing depends on it. An event that the workflow does not wait for any more changes nothing.
    pub fn step(&mut self, now_ms: i64, event: EnrolmentEvent<T>) -> Vec<EnrolmentEffect<T>> {
        match event {
            EnrolmentEvent::StageAnswered(receipt) => self.stage_answered(receipt),
            EnrolmentEvent::StageFailed(failure) => self.stage_failed(failure),
            EnrolmentEvent::PinnedLoaded(pinned) => self.pinned_loaded(*pinned),
            EnrolmentEvent::PinnedFailed => self.pinned_failed(),
            EnrolmentEvent::ShardAnswered(answer) => self.shard_answered(now_ms, answer),
            EnrolmentEvent::ShardFailed(shard) => self.shard_failed(now_ms, shard),
            EnrolmentEvent::SettleAnswered(receipt) => self.settle_answered(receipt),
            EnrolmentEvent::SettleFailed(failure) => self.settle_failed(failure),
            EnrolmentEvent::RetryDue { retry } => self.retry_due(retry),
            EnrolmentEvent::Deadline => self.give_up(),
        }
    }

    fn stage_answered(&mut self, receipt: Receipt<T>) -> Vec<EnrolmentEffect<T>> {
        let mut effects = drained(receipt.obligations);
        let Phase::Staging { pinned, .. } = &self.phase else { return effects };
        let pinned = pinned.clone();
        effects.extend(match receipt.outcome {
            ReceiptOutcome::Enrolment(record) => self.recorded(record, &pinned),
            ReceiptOutcome::Refused(Refusal::OtherContent) => self.reply(Outcome::AlreadyExists),
            ReceiptOutcome::Refused(refusal) => self.reply(Outcome::Refused(refusal)),
        });
        effects
    }

    /// The home shard has the enrolment on record: it is searched for if it is staged, and answered otherwise.
    fn recorded(&mut self, record: Box<EnrolmentRecord>, pinned: &Pinned) -> Vec<EnrolmentEffect<T>> {
        if !self.is_of_this_enrolment(&record) {
            return self.reply(Outcome::Refused(Refusal::NotWhatWasStaged));
        }
        match StagedEnrolment::acknowledged(record) {
            Err(record) => self.reply(Outcome::Settled(record)),
            Ok(staged) if staged.is_pinned_to(pinned) => self.search(staged, pinned),
            // Staged earlier, under another policy or key: every later step uses those.
            Ok(staged) => {
                let effect = staged.load_pinned();
                self.enter(Phase::Loading { staged });
                vec![effect]
            }
        }
    }

    fn stage_failed(&mut self, failure: CallFailure) -> Vec<EnrolmentEffect<T>> {
        if self.waiting.is_some() {
            return Vec::new();
        }
        let Phase::Staging { outcome_unknown, .. } = &mut self.phase else { return Vec::new() };
        *outcome_unknown |= failure == CallFailure::OutcomeUnknown;
        match failure {
            CallFailure::Overloaded { retry_after_ms } if !*outcome_unknown => {
                self.reply(Outcome::Overloaded { retry_after_ms })
            }
            CallFailure::NotProposed | CallFailure::OutcomeUnknown | CallFailure::Overloaded { .. } => {
                self.retry(hint_ms(failure))
            }
        }
    }

    fn pinned_loaded(&mut self, pinned: Pinned) -> Vec<EnrolmentEffect<T>> {
        let Phase::Loading { staged } = &self.phase else { return Vec::new() };
        if staged.is_pinned_to(&pinned) {
            let staged = staged.clone();
            self.search(staged, &pinned)
        } else {
            self.pinned_failed()
        }
    }

    fn pinned_failed(&mut self) -> Vec<EnrolmentEffect<T>> {
        if self.waiting.is_none() && matches!(self.phase, Phase::Loading { .. }) { self.retry(0) } else { Vec::new() }
    }

    /// Searches every shard. Taking a [`StagedEnrolment`], it cannot begin before the stage was acknowledged.
    fn search(&mut self, staged: StagedEnrolment, pinned: &Pinned) -> Vec<EnrolmentEffect<T>> {
        let searching = Searching::new(staged, pinned, self.shards);
        let effect = EnrolmentEffect::Search { shards: self.shards.all().collect(), probe: searching.probe() };
        self.enter(Phase::Searching(Box::new(searching)));
        vec![effect]
    }

    fn shard_answered(&mut self, now_ms: i64, answer: ShardAnswer) -> Vec<EnrolmentEffect<T>> {
        let Phase::Searching(searching) = &mut self.phase else { return Vec::new() };
        let shard = answer.shard;
        let mut effects = Vec::new();
        if let Err(defect) = searching.answered(answer) {
            effects.push(EnrolmentEffect::AnswerDefective { shard, defect });
        }
        effects.extend(self.searched(now_ms));
        effects
    }

    fn shard_failed(&mut self, now_ms: i64, shard: ShardId) -> Vec<EnrolmentEffect<T>> {
        let Phase::Searching(searching) = &mut self.phase else { return Vec::new() };
        searching.failed(shard);
        self.searched(now_ms)
    }

    /// Settles once every shard has answered; asks those that failed again once no other is outstanding.
    fn searched(&mut self, now_ms: i64) -> Vec<EnrolmentEffect<T>> {
        let Phase::Searching(searching) = &self.phase else { return Vec::new() };
        if let Some(command) = searching.settle_command(self.shards, now_ms) {
            let staged = searching.staged().clone();
            let command = Arc::new(command);
            self.enter(Phase::Settling { staged, command: Arc::clone(&command) });
            vec![EnrolmentEffect::Settle(command)]
        } else if searching.awaits_answers() || self.waiting.is_some() {
            Vec::new()
        } else {
            self.retry(0)
        }
    }

    fn settle_answered(&mut self, receipt: Receipt<T>) -> Vec<EnrolmentEffect<T>> {
        let mut effects = drained(receipt.obligations);
        let Phase::Settling { .. } = &self.phase else { return effects };
        match receipt.outcome {
            ReceiptOutcome::Enrolment(record) if !self.is_of_this_enrolment(&record) => {
                effects.extend(self.reply(Outcome::Refused(Refusal::NotWhatWasStaged)));
            }
            ReceiptOutcome::Enrolment(record) => {
                // What is recorded, which need not be what was proposed: the first settle wins.
                let saturated = record.verdict.as_ref().filter(|verdict| verdict.saturated);
                if let Some(verdict) = saturated {
                    effects.push(EnrolmentEffect::AlarmSaturated { candidates_total: verdict.candidates_total });
                }
                match StagedEnrolment::acknowledged(record) {
                    Err(record) => effects.extend(self.reply(Outcome::Settled(record))),
                    // Settled by another driver and, its cases being moot, staged anew: the sweep takes the next round.
                    Ok(_) => effects.extend(self.give_up()),
                }
            }
            ReceiptOutcome::Refused(Refusal::NotWhatWasStaged) => effects.extend(self.give_up()),
            ReceiptOutcome::Refused(refusal) => effects.extend(self.reply(Outcome::Refused(refusal))),
        }
        effects
    }

    fn settle_failed(&mut self, failure: CallFailure) -> Vec<EnrolmentEffect<T>> {
        if self.waiting.is_none() && matches!(self.phase, Phase::Settling { .. }) {
            self.retry(hint_ms(failure))
        } else {
            Vec::new()
        }
    }

    /// Waits and tries the phase's step again, or gives up after [`ATTEMPTS_MAX`] tries.
    fn retry(&mut self, hint_ms: u32) -> Vec<EnrolmentEffect<T>> {
        self.failures += 1;
        if self.failures >= ATTEMPTS_MAX {
            return self.give_up();
        }
        self.retries += 1;
        self.waiting = Some(self.retries);
        vec![EnrolmentEffect::RetryAfter { retry: self.retries, delay_ms: retry_delay_ms(self.failures).max(hint_ms) }]
    }

    fn retry_due(&mut self, retry: u32) -> Vec<EnrolmentEffect<T>> {
        if self.waiting != Some(retry) {
            return Vec::new();
        }
        self.waiting = None;
        match &mut self.phase {
            Phase::Staging { command, .. } => vec![EnrolmentEffect::Stage(Arc::clone(command))],
            Phase::Loading { staged } => vec![staged.load_pinned()],
            // Any search after the stage's acknowledgement is valid: the answers already there are kept.
            Phase::Searching(searching) => {
                vec![EnrolmentEffect::Search { shards: searching.ask_again(), probe: searching.probe() }]
            }
            Phase::Settling { command, .. } => vec![EnrolmentEffect::Settle(Arc::clone(command))],
            Phase::Finished => Vec::new(),
        }
    }

    /// Replies with how far it came. What is staged stays staged, and the sweep finishes it.
    fn give_up(&mut self) -> Vec<EnrolmentEffect<T>> {
        let outcome = match &self.phase {
            Phase::Staging { outcome_unknown, .. } => {
                // A call that is under way may still commit.
                let under_way = self.waiting.is_none() && self.failures < ATTEMPTS_MAX;
                Outcome::Unavailable { outcome_unknown: *outcome_unknown || under_way }
            }
            Phase::Loading { staged } => staged.inconclusive(Waiting::Pinned),
            Phase::Searching(searching) => searching.staged().inconclusive(Waiting::Shards(searching.missing())),
            Phase::Settling { staged, .. } => staged.inconclusive(Waiting::Settle),
            Phase::Finished => return Vec::new(),
        };
        self.reply(outcome)
    }

    fn reply(&mut self, outcome: Outcome) -> Vec<EnrolmentEffect<T>> {
        self.enter(Phase::Finished);
        vec![EnrolmentEffect::Reply(outcome)]
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.failures = 0;
        self.waiting = None;
    }

    fn is_of_this_enrolment(&self, record: &EnrolmentRecord) -> bool {
        record.gallery == self.gallery
            && record.enrolment_id == self.enrolment_id
            && record.content_digest == self.content_digest
    }
}

fn drained<T>(obligations: Vec<Obligation<T>>) -> Vec<EnrolmentEffect<T>> {
    if obligations.is_empty() { Vec::new() } else { vec![EnrolmentEffect::Drain(obligations)] }
}

fn hint_ms(failure: CallFailure) -> u32 {
    match failure {
        CallFailure::NotProposed | CallFailure::OutcomeUnknown => 0,
        CallFailure::Overloaded { retry_after_ms } => retry_after_ms,
    }
}

impl EnrolmentRecord {
    /// Whether it waits for a verdict.
    pub fn is_staged(&self) -> bool {
        match self.state {
            EnrolmentState::Staged => true,
            EnrolmentState::Unique
            | EnrolmentState::PossibleDuplicate
            | EnrolmentState::NotComparable
            | EnrolmentState::Withdrawn => false,
        }
    }
}

#[cfg(test)]
mod tests;
