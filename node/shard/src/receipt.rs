//! What the proposer of a command learns once it is applied.

use crate::enrolment::EnrolmentRecord;
use crate::obligation::Obligation;

/// The result of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// A stage, settle or withdrawal: the record as it now stands, whatever was proposed.
    Enrolment {
        /// The record.
        record: Box<EnrolmentRecord>,
        /// What this command left to do elsewhere; nothing if it changed nothing.
        obligations: Vec<Obligation>,
    },
    /// Any other command: done, now or before.
    Done {
        /// What this command left to do elsewhere; nothing if it changed nothing.
        obligations: Vec<Obligation>,
    },
    /// The command broke a rule and changed nothing.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The enrolment id is taken by other content. Ids are never reused, not even those of withdrawn enrolments.
    #[error("the enrolment id is taken by other content")]
    OtherContent,
    /// No such enrolment.
    #[error("no such enrolment")]
    NoSuchEnrolment,
    /// A settle whose stage, content, policy version, round, coverage or verdict does not fit what is staged.
    #[error("the verdict does not fit what is staged")]
    NotWhatWasStaged,
    /// Bytes that are not a command within its bounds: a defect of the proposer.
    #[error("the command is malformed")]
    Malformed,
    /// The enrolment belongs to another shard: a defect of the proposer.
    #[error("the enrolment belongs to another shard")]
    WrongShard,
}
