//! What a shard counts of each gallery.

use crate::publication::Totals;

/// A gallery's counts in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Enrolments ever staged, withdrawn ones included.
    pub staged_total: u64,
    /// Enrolments withdrawn.
    pub withdrawn_total: u64,
    /// Enrolments that wait for a verdict.
    pub pending: u64,
    /// Cases that live in the shard, moot ones included.
    pub cases: u64,
}

impl Counts {
    /// Enrolments not withdrawn.
    pub fn live(&self) -> u64 {
        self.staged_total - self.withdrawn_total
    }

    /// The counts that searches are checked against.
    pub fn totals(&self) -> Totals {
        Totals { staged_total: self.staged_total, withdrawn_total: self.withdrawn_total }
    }
}
