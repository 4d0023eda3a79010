//! Scatter and gather: the shards' answers to one probe, checked one by one and merged once all are there.
//!
//! Silence is not absence. The only way to a [`CompleteSearch`] is through [`ScatterGather::finish`] with a valid answer of
//! every shard; an answer that cannot be true counts as none. What a complete search means is decided in `decide`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use semel_index::{EnrolmentId, GalleryId, ShardCount, ShardId, shard_of};
use semel_raft::LogIndex;

use crate::record::{Candidate, Coverage, ShardCoverage};

/// What one shard answered to the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardAnswer {
    /// The shard.
    pub shard: ShardId,
    /// The configuration epoch of its group.
    pub epoch: u64,
    /// The log index up to which it searched.
    pub searchable_index: LogIndex,
    /// Live enrolments with a comparable reference, the applicant left out.
    pub compared: u64,
    /// Live enrolments without, the applicant left out.
    pub not_comparable: u64,
    /// Withdrawn enrolments.
    pub withdrawn: u64,
    /// Its best candidates, by margin, then id.
    pub candidates: Vec<Candidate>,
    /// How many it has in all.
    pub candidates_total: u64,
}

/// Why an answer cannot be true. The shard counts as one that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerDefect {
    /// The cluster has no such shard.
    #[error("shard {shard} is none of {shards}")]
    UnknownShard {
        /// The shard named.
        shard: ShardId,
        /// The number of shards.
        shards: u32,
    },
    /// The list is neither complete nor full.
    #[error("the list has {listed} of {total} candidates, where {candidates_max} fit")]
    ListLength {
        /// The candidates listed.
        listed: usize,
        /// The candidates there are.
        total: u64,
        /// The longest list.
        candidates_max: usize,
    },
    /// There are more candidates than enrolments that were compared.
    #[error("{total} candidates among {compared} enrolments compared")]
    MoreThanCompared {
        /// The candidates there are.
        total: u64,
        /// The enrolments compared.
        compared: u64,
    },
    /// The counts do not fit the integers they are added in.
    #[error("the counts overflow")]
    CountsOverflow,
    /// The list is not in order, or names an enrolment twice.
    #[error("the candidates are not in order at position {position}")]
    NotInOrder {
        /// The first position out of order.
        position: usize,
    },
    /// A candidate is below its threshold.
    #[error("the candidate at position {position} is below its threshold")]
    BelowThreshold {
        /// Its position.
        position: usize,
    },
    /// A candidate lives in another shard.
    #[error("the candidate at position {position} lives in shard {home}")]
    CandidateElsewhere {
        /// Its position.
        position: usize,
        /// Where it lives.
        home: ShardId,
    },
    /// The applicant is its own candidate.
    #[error("the applicant is its own candidate")]
    ApplicantListed,
    /// The home shard searched a state older than the applicant's stage.
    #[error("searched up to {searchable_index}, before the stage at {stage_index}")]
    BeforeStage {
        /// The index searched.
        searchable_index: LogIndex,
        /// The index of the stage.
        stage_index: LogIndex,
    },
}

/// A search to which every shard has given a valid answer. Made by [`ScatterGather::finish`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteSearch {
    candidates: Vec<Candidate>,
    candidates_total: u64,
    saturated: bool,
    coverage: Coverage,
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchOutcome {
    /// Every shard answered.
    Complete(CompleteSearch),
    /// Some did not: nothing can be concluded.
    Incomplete {
        /// The shards without a valid answer, in order; at least one.
        missing: Vec<ShardId>,
    },
}

/// Collects the answers to one probe.
#[derive(Debug, Clone)]
pub struct ScatterGather {
    gallery: GalleryId,
    shards: ShardCount,
    candidates_max: usize,
    applicant: Option<Applicant>,
    answers: BTreeMap<ShardId, ShardAnswer>,
}

#[derive(Debug, Clone)]
struct Applicant {
    enrolment_id: EnrolmentId,
    home: ShardId,
    stage_index: LogIndex,
}

impl CompleteSearch {
    /// The best candidates over all shards, by margin, then id.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// How many enrolments reached a threshold in all.
    pub fn candidates_total(&self) -> u64 {
        self.candidates_total
    }

    /// Whether there are more candidates than the list holds.
    pub fn saturated(&self) -> bool {
        self.saturated
    }

    /// What was searched.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Merges one answer per shard, in the shards' order. The result does not depend on the order in which they came: the
    /// answers are keyed by shard, an enrolment lives in one shard, and (margin, id) orders candidates totally.
    fn merge(answers: BTreeMap<ShardId, ShardAnswer>, candidates_max: usize) -> Self {
        let shards: Vec<ShardCoverage> = answers.values().map(ShardAnswer::coverage).collect();
        // Each count is below 2^48 by the check on arrival, and there are at most 2^12 shards.
        let compared = shards.iter().map(|shard| shard.compared).sum();
        let live = shards.iter().map(|shard| shard.compared + shard.not_comparable).sum();
        let candidates_total = answers.values().map(|answer| answer.candidates_total).sum();
        let mut candidates: Vec<Candidate> = answers.into_values().flat_map(|answer| answer.candidates).collect();
        candidates.sort_by(|a, b| rank(a).cmp(&rank(b)));
        candidates.truncate(candidates_max);
        let saturated = candidates_total > candidates_max as u64;
        Self { candidates, candidates_total, saturated, coverage: Coverage { shards, live, compared } }
    }
}

impl ShardAnswer {
    fn coverage(&self) -> ShardCoverage {
        ShardCoverage {
            shard: self.shard,
            epoch: self.epoch,
            searchable_index: self.searchable_index,
            compared: self.compared,
            not_comparable: self.not_comparable,
            withdrawn: self.withdrawn,
        }
    }
}

impl ScatterGather {
    /// Collects the answers to a probe that is no enrolment.
    pub fn of_identification(gallery: GalleryId, shards: ShardCount, candidates_max: usize) -> Self {
        Self { gallery, shards, candidates_max, applicant: None, answers: BTreeMap::new() }
    }

    /// Collects the answers about an enrolment that was staged at `stage_index` of its home shard.
    pub fn of_enrolment(
        gallery: GalleryId,
        shards: ShardCount,
        candidates_max: usize,
        enrolment_id: EnrolmentId,
        stage_index: LogIndex,
    ) -> Self {
        let home = shard_of(&gallery, &enrolment_id, shards);
        let applicant = Some(Applicant { enrolment_id, home, stage_index });
        Self { gallery, shards, candidates_max, applicant, answers: BTreeMap::new() }
    }

    /// Takes in an answer. The first valid one of a shard counts; later ones change nothing.
    ///
    /// # Errors
    /// If the answer cannot be true: the shard then still counts as one that did not answer.
    pub fn answer(&mut self, answer: ShardAnswer) -> Result<(), AnswerDefect> {
        self.check(&answer)?;
        self.answers.entry(answer.shard).or_insert(answer);
        Ok(())
    }

    /// The shards without a valid answer yet, in order.
    pub fn missing(&self) -> Vec<ShardId> {
        self.shards.all().filter(|shard| !self.answers.contains_key(shard)).collect()
    }

    /// Merges the answers if every shard has given one, and names the missing shards otherwise.
    pub fn finish(self) -> SearchOutcome {
        let missing = self.missing();
        if missing.is_empty() {
            SearchOutcome::Complete(CompleteSearch::merge(self.answers, self.candidates_max))
        } else {
            SearchOutcome::Incomplete { missing }
        }
    }

    fn check(&self, answer: &ShardAnswer) -> Result<(), AnswerDefect> {
        let (listed, total) = (answer.candidates.len(), answer.candidates_total);
        if answer.shard.0 >= self.shards.get() {
            return Err(AnswerDefect::UnknownShard { shard: answer.shard, shards: self.shards.get() });
        }
        if answer.compared > COUNT_MAX || answer.not_comparable > COUNT_MAX {
            return Err(AnswerDefect::CountsOverflow);
        }
        if total > answer.compared {
            return Err(AnswerDefect::MoreThanCompared { total, compared: answer.compared });
        }
        // A list that could hold more than it does, while there are more, would hide candidates.
        if listed as u64 != total.min(self.candidates_max as u64) {
            return Err(AnswerDefect::ListLength { listed, total, candidates_max: self.candidates_max });
        }
        self.check_applicant(answer)?;
        self.check_candidates(answer)
    }

    fn check_applicant(&self, answer: &ShardAnswer) -> Result<(), AnswerDefect> {
        let Some(applicant) = &self.applicant else { return Ok(()) };
        if answer.candidates.iter().any(|candidate| candidate.enrolment_id == applicant.enrolment_id) {
            return Err(AnswerDefect::ApplicantListed);
        }
        let (searchable_index, stage_index) = (answer.searchable_index, applicant.stage_index);
        if answer.shard == applicant.home && searchable_index < stage_index {
            return Err(AnswerDefect::BeforeStage { searchable_index, stage_index });
        }
        Ok(())
    }

    fn check_candidates(&self, answer: &ShardAnswer) -> Result<(), AnswerDefect> {
        let mut seen = BTreeSet::new();
        let mut previous = None;
        for (position, candidate) in answer.candidates.iter().enumerate() {
            if candidate.margin_micros < 0 {
                return Err(AnswerDefect::BelowThreshold { position });
            }
            if previous.is_some_and(|previous| previous >= rank(candidate)) || !seen.insert(&candidate.enrolment_id) {
                return Err(AnswerDefect::NotInOrder { position });
            }
            let home = shard_of(&self.gallery, &candidate.enrolment_id, self.shards);
            if home != answer.shard {
                return Err(AnswerDefect::CandidateElsewhere { position, home });
            }
            previous = Some(rank(candidate));
        }
        Ok(())
    }
}

/// No shard holds as many enrolments; sums over all shards then fit a `u64`.
const COUNT_MAX: u64 = 1 << 48;

/// Best first: largest margin, then smallest id.
fn rank(candidate: &Candidate) -> (Reverse<i32>, &EnrolmentId) {
    (Reverse(candidate.margin_micros), &candidate.enrolment_id)
}

#[cfg(test)]
pub(crate) mod tests;
