//! What a cluster concludes, as values: a candidate, a silent shard and a missing verdict are outcomes, not errors.

use semel_proto::v1::{
    CompleteIdentification, EnrolResponse, Enrolment, EnrolmentState, IdentifyResponse, Inconclusive, identify_response,
};
use tonic::{Code, Status};

/// What became of an enrolment, with its record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every live enrolment was searched and none reached a review threshold.
    Unique(Enrolment),
    /// At least one did: somebody must look at the cases.
    PossibleDuplicate(Enrolment),
    /// Too few live enrolments could be compared for a verdict: somebody must look.
    NotComparable(Enrolment),
    /// It was withdrawn; no search returns it.
    Withdrawn(Enrolment),
    /// There is no verdict yet because shards did not answer the search. The enrolment is recorded and the cluster finishes it.
    Inconclusive {
        /// The record, staged.
        enrolment: Enrolment,
        /// The shards that did not answer.
        missing_shards: Vec<u32>,
    },
    /// There is no verdict yet. The enrolment is recorded and the cluster finishes it.
    StillStaged {
        /// The record, staged.
        enrolment: Enrolment,
        /// What was being waited for, in words; empty if that was not told.
        waits_for: String,
    },
}

impl Outcome {
    /// The record.
    pub fn enrolment(&self) -> &Enrolment {
        match self {
            Self::Unique(enrolment)
            | Self::PossibleDuplicate(enrolment)
            | Self::NotComparable(enrolment)
            | Self::Withdrawn(enrolment)
            | Self::Inconclusive { enrolment, .. }
            | Self::StillStaged { enrolment, .. } => enrolment,
        }
    }

    /// Whether there is nothing to wait for: a verdict, or the withdrawal.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Unique(_) | Self::PossibleDuplicate(_) | Self::NotComparable(_) | Self::Withdrawn(_) => true,
            Self::Inconclusive { .. } | Self::StillStaged { .. } => false,
        }
    }

    /// The outcome that a record shows by itself.
    pub(crate) fn of_record(enrolment: Option<Enrolment>) -> Result<Self, Status> {
        Self::new(enrolment, None)
    }

    pub(crate) fn of_response(response: EnrolResponse) -> Result<Self, Status> {
        Self::new(response.enrolment, response.inconclusive)
    }

    fn new(enrolment: Option<Enrolment>, inconclusive: Option<Inconclusive>) -> Result<Self, Status> {
        let enrolment = enrolment.ok_or_else(|| Status::new(Code::DataLoss, "the answer holds no record"))?;
        if let Some(Inconclusive { missing_shards, reason }) = inconclusive {
            return Ok(match missing_shards.is_empty() {
                true => Self::StillStaged { enrolment, waits_for: reason },
                false => Self::Inconclusive { enrolment, missing_shards },
            });
        }
        Ok(match enrolment.state() {
            EnrolmentState::Unique => Self::Unique(enrolment),
            EnrolmentState::PossibleDuplicate => Self::PossibleDuplicate(enrolment),
            EnrolmentState::NotComparable => Self::NotComparable(enrolment),
            EnrolmentState::Withdrawn => Self::Withdrawn(enrolment),
            EnrolmentState::Staged => Self::StillStaged { enrolment, waits_for: String::new() },
            EnrolmentState::Unspecified => {
                return Err(Status::new(Code::DataLoss, "the record has a state that this client does not know"));
            }
        })
    }
}

/// What a search without an enrolment found.
#[derive(Debug, Clone, PartialEq)]
pub enum Identification {
    /// Every shard answered.
    Complete(CompleteIdentification),
    /// Some did not: nothing can be concluded.
    Incomplete {
        /// The shards that did not answer.
        missing_shards: Vec<u32>,
    },
}

impl Identification {
    pub(crate) fn of_response(response: IdentifyResponse) -> Result<Self, Status> {
        match response.outcome {
            Some(identify_response::Outcome::Complete(complete)) => Ok(Self::Complete(complete)),
            Some(identify_response::Outcome::Incomplete(incomplete)) => {
                Ok(Self::Incomplete { missing_shards: incomplete.missing_shards })
            }
            None => Err(Status::new(Code::DataLoss, "the answer has a kind of outcome that this client does not know")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: EnrolmentState, inconclusive: Option<Inconclusive>, expected: impl Fn(&Outcome) -> bool) {
        let enrolment = Some(Enrolment { state: state.into(), ..Default::default() });
        let outcome = Outcome::of_response(EnrolResponse { enrolment, inconclusive }).expect("a record");
        assert!(expected(&outcome), "{outcome:?}");
        assert_eq!(outcome.is_final(), !matches!(outcome.enrolment().state(), EnrolmentState::Staged));
    }

    #[test]
    fn every_answer_has_its_outcome() {
        use EnrolmentState::{NotComparable, PossibleDuplicate, Staged, Unique, Withdrawn};
        check(Unique, None, |outcome| matches!(outcome, Outcome::Unique(_)));
        check(PossibleDuplicate, None, |outcome| matches!(outcome, Outcome::PossibleDuplicate(_)));
        check(NotComparable, None, |outcome| matches!(outcome, Outcome::NotComparable(_)));
        check(Withdrawn, None, |outcome| matches!(outcome, Outcome::Withdrawn(_)));
        check(
            Staged,
            None,
            |outcome| matches!(outcome, Outcome::StillStaged { waits_for, .. } if waits_for.is_empty()),
        );
        let waits = |missing_shards| Some(Inconclusive { missing_shards, reason: "the verdict".to_owned() });
        check(
            Staged,
            waits(vec![]),
            |outcome| matches!(outcome, Outcome::StillStaged { waits_for, .. } if waits_for == "the verdict"),
        );
        check(
            Staged,
            waits(vec![3]),
            |outcome| matches!(outcome, Outcome::Inconclusive { missing_shards, .. } if *missing_shards == [3]),
        );
    }

    #[test]
    fn an_answer_without_a_record_is_no_outcome() {
        assert!(Outcome::of_response(EnrolResponse::default()).is_err());
        assert!(Outcome::of_record(Some(Enrolment::default())).is_err());
        assert!(Identification::of_response(IdentifyResponse::default()).is_err());
    }
}
