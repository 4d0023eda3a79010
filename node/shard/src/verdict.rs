//! A verdict and its evidence, and whether the two agree. Who decides it lives in `semel-workflow`.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use semel_index::{ComparisonScore, EnrolmentId, PolicyVersion, ShardCount, ShardId, Slot};
use semel_raft::LogIndex;

use crate::bounds::{CANDIDATES_MAX, SATURATED_CASES_OPENED_MAX};
use crate::enrolment::EnrolmentState;

/// What a complete search decided. Only people decide more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerdictKind {
    /// No candidate.
    Unique,
    /// At least one: somebody must look.
    PossibleDuplicate,
    /// No candidate, but too few live enrolments could be compared: somebody must look.
    NotComparable,
}

impl VerdictKind {
    /// The state that an enrolment has once this is settled.
    pub fn state(self) -> EnrolmentState {
        match self {
            Self::Unique => EnrolmentState::Unique,
            Self::PossibleDuplicate => EnrolmentState::PossibleDuplicate,
            Self::NotComparable => EnrolmentState::NotComparable,
        }
    }

    /// The verdict behind a state; `None` for states that no verdict gives.
    pub fn from_state(state: EnrolmentState) -> Option<Self> {
        match state {
            EnrolmentState::Unique => Some(Self::Unique),
            EnrolmentState::PossibleDuplicate => Some(Self::PossibleDuplicate),
            EnrolmentState::NotComparable => Some(Self::NotComparable),
            EnrolmentState::Staged | EnrolmentState::Withdrawn => None,
        }
    }
}

/// The score of one comparable pair of references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComparisonRecord {
    /// The slot compared.
    pub slot: Slot,
    /// The score.
    pub score: ComparisonScore,
    /// The review threshold that applied.
    pub threshold: ComparisonScore,
}

/// An enrolment that reached a review threshold beside the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The enrolment.
    pub enrolment_id: EnrolmentId,
    /// The largest score − threshold, in units of 1e-6; never negative.
    pub margin_micros: i32,
    /// The pairs that reached their threshold, at most [`REFERENCES_MAX`](crate::REFERENCES_MAX).
    pub comparisons: Vec<ComparisonRecord>,
}

/// What one shard searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCoverage {
    /// The shard.
    pub shard: ShardId,
    /// The configuration epoch of the shard's group that answered.
    pub epoch: u64,
    /// The log index up to which the shard's enrolments and withdrawals were searched.
    pub searchable_index: LogIndex,
    /// Live enrolments that had a reference comparable with the probe.
    pub compared: u64,
    /// Live enrolments that had none.
    pub not_comparable: u64,
    /// Withdrawn enrolments, not searched.
    pub withdrawn: u64,
}

/// What a complete search covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// One entry per shard, in order.
    pub shards: Vec<ShardCoverage>,
    /// Live enrolments beside the applicant, over all shards.
    pub live: u64,
    /// Of those, how many had a reference comparable with the applicant's.
    pub compared: u64,
}

/// A verdict with its evidence. Recorded once and never changed; a later round appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was decided.
    pub kind: VerdictKind,
    /// The best candidates, by margin, then id.
    pub candidates: Vec<Candidate>,
    /// How many enrolments reached a threshold in all.
    pub candidates_total: u64,
    /// Whether there were more than the list holds.
    pub saturated: bool,
    /// What was searched.
    pub coverage: Coverage,
    /// The policy that was applied.
    pub policy_version: PolicyVersion,
    /// The round, 1 for the first verdict.
    pub round: u32,
    /// When the coordinator proposed it, in milliseconds since 1970-01-01 UTC by its clock.
    pub settled_at_ms: i64,
}

impl Coverage {
    /// Whether every shard of `shards` is named exactly once, in order, and the sums are those of the parts.
    pub(crate) fn is_complete(&self, shards: ShardCount) -> bool {
        if !self.shards.iter().map(|part| part.shard).eq(shards.all()) {
            return false;
        }
        let compared = sum(self.shards.iter().map(|part| part.compared));
        let not_comparable = sum(self.shards.iter().map(|part| part.not_comparable));
        let live = compared.zip(not_comparable).and_then(|(compared, rest)| compared.checked_add(rest));
        compared == Some(self.compared) && live == Some(self.live)
    }

    /// The index up to which `shard` was searched.
    pub(crate) fn searchable_index(&self, shard: ShardId) -> Option<LogIndex> {
        self.shards.iter().find(|part| part.shard == shard).map(|part| part.searchable_index)
    }
}

impl Verdict {
    /// Whether the kind follows from the candidates and the candidates are a list that `applicant` can have.
    pub(crate) fn is_coherent(&self, applicant: &EnrolmentId) -> bool {
        let listed = self.candidates.len();
        let more_than_listed = self.candidates_total > listed as u64;
        let kind_follows = match self.kind {
            VerdictKind::PossibleDuplicate => listed > 0,
            VerdictKind::Unique => listed == 0,
            VerdictKind::NotComparable => listed == 0 && self.coverage.compared < self.coverage.live,
        };
        let ranked =
            self.candidates.is_sorted_by_key(|candidate| (Reverse(candidate.margin_micros), &candidate.enrolment_id));
        let ids: BTreeSet<&EnrolmentId> = self.candidates.iter().map(|candidate| &candidate.enrolment_id).collect();
        kind_follows
            && listed <= CANDIDATES_MAX
            && self.candidates_total >= listed as u64
            && self.saturated == more_than_listed
            && (listed > 0 || !self.saturated)
            && ranked
            && ids.len() == listed
            && !ids.contains(applicant)
            && self.candidates.iter().all(|candidate| candidate.margin_micros >= 0)
    }

    /// The candidates that get a case of their own: all of them, or the best of a saturated list.
    pub(crate) fn candidates_with_case(&self) -> &[Candidate] {
        let cases = if self.saturated { SATURATED_CASES_OPENED_MAX } else { CANDIDATES_MAX };
        &self.candidates[..self.candidates.len().min(cases)]
    }
}

fn sum(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.into_iter().try_fold(0_u64, u64::checked_add)
}
