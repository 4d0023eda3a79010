//! Deliberate defects of the replicated cores, one at a time, for a simulation to show that its checkers notice them.
//!
//! Without the feature `mutants` no defect is ever chosen, and the compiler leaves the code of all of them out. Only the
//! simulation turns it on, in builds of its own.

/// A defect. What it does is said where it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say what is wrong")]
pub enum Mutant {
    BarrierJoinedLate,
    BarrierContextReused,
    VoteForgotten,
    VoteBeforeSync,
    LogNeverCut,
    LogCutUnmarked,
    InstallForgetsVote,
    InstallDropsTail,
    LearnerNotCaughtUp,
    JointLeftAtOnce,
    ResumeForgetsWithdrawals,
    RemovedReplicaAnswers,
    SecondSettleWins,
    OtherContentAccepted,
    CoverageIncomplete,
    CaseOfOrderedPair,
    ClockInApply,
}

#[cfg(feature = "mutants")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
    static DRAWN: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// Chooses the defect that everything on this thread has from now on.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
    DRAWN.set(0);
}

/// A number that is another one each time, as a clock's would be.
#[cfg(feature = "mutants")]
pub fn draw() -> i64 {
    DRAWN.set(DRAWN.get() + 1);
    DRAWN.get()
}

/// Nothing, as there is nothing to draw for.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn draw() -> i64 {
    0
}

impl Mutant {
    /// Tells whether this is the defect that was chosen.
    #[cfg(feature = "mutants")]
    pub fn is_chosen(self) -> bool {
        CHOSEN.get() == Some(self)
    }

    /// Tells whether this is the defect that was chosen: never.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn is_chosen(self) -> bool {
        false
    }
}
