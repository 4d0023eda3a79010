//! One driver of an enrolment, a workflow on some coordinator: how far it has come, and what it has gathered.
//!
//! A driver keeps nothing that matters. What it concludes counts once the home shard has applied it.

use crate::names::{Mate, MateSet, SHARDS_MAX};

/// The most drivers of one enrolment: two that are alive, and settles adrift of two that were lost.
pub(crate) const DRIVERS_MAX: usize = 4;
/// The most drivers of one enrolment that are alive at a time.
pub(crate) const DRIVERS_ALIVE_MAX: usize = 2;

/// How far a driver has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Driver {
    /// There is none.
    Gone,
    /// It has sent the stage and waits for the home shard's receipt.
    Staging,
    /// It has asked every shard and gathers their answers.
    Searching(Search),
    /// It has sent the settle and waits for the home shard's receipt.
    Settling(Verdict),
    /// It was lost after it had sent the settle, which may yet arrive, or never.
    Adrift(Verdict),
}

/// A search under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Search {
    /// The round of the record that it began with.
    pub(crate) round: u8,
    /// What each shard answered, `None` while it is silent.
    pub(crate) answers: [Option<Answer>; SHARDS_MAX],
    /// Whose withdrawal was acknowledged before the search began. The protocol does not read it.
    pub(crate) withdrawn_before: MateSet,
}

/// What one shard answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Answer {
    /// The mates that it found.
    pub(crate) found: MateSet,
    /// When it searched. The protocol does not read it.
    pub(crate) searched: Searched,
}

/// When a shard was searched, seen from the applicant's stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Searched {
    /// It was not.
    Never,
    /// Before the applicant was staged.
    BeforeStage,
    /// After.
    AfterStage,
}

/// A verdict and its evidence. Without candidates it says *unique*, otherwise *possible duplicate*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Verdict {
    /// The round that it is for.
    pub(crate) round: u8,
    /// The mates that the search found.
    pub(crate) candidates: MateSet,
    /// When each shard was searched.
    pub(crate) coverage: [Searched; SHARDS_MAX],
    /// Whose withdrawal was acknowledged before the search began.
    pub(crate) withdrawn_before: MateSet,
}

impl Driver {
    /// Whether it still does something.
    pub(crate) fn is_alive(&self) -> bool {
        match self {
            Self::Staging | Self::Searching(_) | Self::Settling(_) => true,
            Self::Gone | Self::Adrift(_) => false,
        }
    }

    /// The verdict that it has sent to the home shard.
    pub(crate) fn sent(&self) -> Option<&Verdict> {
        match self {
            Self::Settling(verdict) | Self::Adrift(verdict) => Some(verdict),
            Self::Gone | Self::Staging | Self::Searching(_) => None,
        }
    }

    /// What is left of it when its coordinator dies.
    #[must_use]
    pub(crate) fn lost(self) -> Self {
        match self {
            Self::Staging | Self::Searching(_) | Self::Gone => Self::Gone,
            Self::Settling(verdict) | Self::Adrift(verdict) => Self::Adrift(verdict),
        }
    }
}

impl Search {
    /// A search that begins now.
    pub(crate) fn begin(round: u8, withdrawn_before: MateSet) -> Self {
        Self { round, answers: [None; SHARDS_MAX], withdrawn_before }
    }

    /// The verdict, once each of the first `shards` shards has answered: an incomplete search has none.
    pub(crate) fn verdict(&self, shards: usize) -> Option<Verdict> {
        let mut candidates = MateSet::NONE;
        let mut coverage = [Searched::Never; SHARDS_MAX];
        for (shard, answer) in self.answers.iter().enumerate().take(shards) {
            let answer = answer.as_ref()?;
            candidates = candidates.union(answer.found);
            coverage[shard] = answer.searched;
        }
        Some(Verdict { round: self.round, candidates, coverage, withdrawn_before: self.withdrawn_before })
    }
}

impl Verdict {
    /// Whether it names the applicant.
    pub(crate) fn lists(&self, mate: Mate) -> bool {
        self.candidates.contains(mate)
    }
}
