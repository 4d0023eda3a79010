//! Turns what keeps a node from answering into gRPC.

use semel_node_wire::InvalidField;
use semel_proto::{NO_SUCH_RECORD, NOTHING_PROPOSED, RETRY_AFTER_MS};
use semel_raft::{BarrierError, MembershipError, ProposeError, StoreError};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::search::TooManySearches;

/// How long a caller that met overload should wait, in milliseconds.
const OVERLOAD_RETRY_MS: u32 = 100;

/// Why a call to a node has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0}")]
    Invalid(#[from] InvalidField),
    #[error("this node belongs to another cluster")]
    OtherCluster,
    #[error("shard {0} is not hosted by this node")]
    NotHosted(u32),
    #[error("no such {0}")]
    NoSuchRecord(&'static str),
    #[error("{0}")]
    Propose(#[from] ProposeError),
    #[error("{0}")]
    Barrier(#[from] BarrierError),
    #[error("{0}")]
    Membership(#[from] MembershipError),
    #[error("{0}")]
    Overload(#[from] TooManySearches),
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl CallError {
    pub(crate) fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid(InvalidField::new(field, reason))
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let (code, mark) = match &error {
            CallError::Invalid(_) => (Code::InvalidArgument, None),
            CallError::OtherCluster => (Code::FailedPrecondition, None),
            CallError::NotHosted(_) => (Code::NotFound, None),
            CallError::NoSuchRecord(_) => (Code::NotFound, Some(NO_SUCH_RECORD)),
            CallError::Overload(_) => (Code::ResourceExhausted, None),
            CallError::Store(_) => (Code::Internal, None),
            CallError::Propose(propose) => match propose {
                ProposeError::NoLeader | ProposeError::Stopped => (Code::Unavailable, Some(NOTHING_PROPOSED)),
                ProposeError::TooManyPending => (Code::ResourceExhausted, Some(NOTHING_PROPOSED)),
                ProposeError::TooLarge { .. } => (Code::InvalidArgument, None),
                ProposeError::Unknown => (Code::Unavailable, None),
            },
            CallError::Membership(membership) => match membership {
                MembershipError::NotLeader { .. }
                | MembershipError::LeadershipMoves { .. }
                | MembershipError::Stopped => (Code::Unavailable, Some(NOTHING_PROPOSED)),
                MembershipError::WrongEpoch { .. }
                | MembershipError::InProgress
                | MembershipError::AlreadyMember { .. }
                | MembershipError::NotLearner { .. }
                | MembershipError::NotVoter { .. }
                | MembershipError::TooManyLearners { .. }
                | MembershipError::NotCaughtUp { .. } => (Code::Aborted, Some(NOTHING_PROPOSED)),
                MembershipError::TooManyPending => (Code::ResourceExhausted, Some(NOTHING_PROPOSED)),
                MembershipError::Unknown => (Code::Unavailable, None),
            },
            CallError::Barrier(barrier) => match barrier {
                BarrierError::NotConfirmed | BarrierError::Stopped => (Code::Unavailable, Some(NOTHING_PROPOSED)),
                BarrierError::TooManyPending => (Code::ResourceExhausted, Some(NOTHING_PROPOSED)),
            },
        };
        let mut status = Status::new(code, error.to_string());
        if let Some(mark) = mark {
            status.metadata_mut().insert(mark, MetadataValue::from_static("1"));
        }
        if code == Code::ResourceExhausted {
            status.metadata_mut().insert(RETRY_AFTER_MS, MetadataValue::from(OVERLOAD_RETRY_MS));
        }
        status
    }
}
