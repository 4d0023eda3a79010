//! Turns what keeps the coordinator from answering into gRPC. The message names what is wrong and what to do.

use semel_proto::RETRY_AFTER_MS;
use semel_workflow::{CoordinatorId, MetadataRefusal, Refusal, ValidationError};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::drive::{OVERLOAD_RETRY_MS, ResumeError};
use crate::metadata::MetadataError;
use crate::nodes::CallError;

/// Why a client's call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{0}")]
    Invalid(#[from] ValidationError),
    #[error("{field}: {reason}")]
    InvalidField { field: &'static str, reason: String },
    #[error("gallery: `{0}` does not exist; create it first")]
    NoSuchGallery(String),
    #[error("{what}: no such {what} in gallery `{gallery}`")]
    NoSuchRecord { what: &'static str, gallery: String },
    #[error("enrolment_id: `{0}` is taken by an enrolment with other content; ids are never reused")]
    AlreadyExists(String),
    #[error("enrolment_id: `{0}` is withdrawn")]
    Withdrawn(String),
    #[error("gallery `{0}` does not allow identification; its policy must say so (identification_allowed)")]
    IdentificationNotAllowed(String),
    #[error("the cluster is not ready: {0}")]
    NotReady(&'static str),
    #[error("{0}")]
    Metadata(#[from] MetadataError),
    #[error("{0}{next}", next = next(.0))]
    MetadataRefused(MetadataRefusal),
    #[error("node `{0}` does not exist; `semel status` shows those there are")]
    NoSuchNode(String),
    #[error("node {0} is not live: start it, or choose another")]
    NodeNotLive(String),
    #[error("node {0} is live: stop its process first, and see that it is not started again")]
    NodeLive(String),
    #[error(
        "no empty folder of coordinator {0} waits to be let in: start it on one, at its address among `voters`, and see what it logs"
    )]
    NoEmptyFolder(CoordinatorId),
    #[error(
        "no live node can take the replica of shard {shard}, as replicas of a shard must be on different nodes; add a node"
    )]
    NowhereToMove { shard: u32 },
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Resume(ResumeError),
    #[error("the enrolment could not be staged in time; send it again with the same id{}",
        if *.outcome_unknown { " (it may have been staged)" } else { "" })]
    StageFailed { outcome_unknown: bool },
    #[error("too many enrolments are in work; send it again later")]
    Overloaded { retry_after_ms: u32 },
    #[error("this coordinator stops; send the same again, to another")]
    Stopping,
    #[error("the home shard refused the enrolment: {0}")]
    Refused(Refusal),
}

impl ClientError {
    pub(crate) fn field(field: &'static str, reason: impl ToString) -> Self {
        Self::InvalidField { field, reason: reason.to_string() }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::InvalidField { .. } => Code::InvalidArgument,
            Self::NoSuchGallery(_) | Self::NoSuchRecord { .. } => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::Withdrawn(_)
            | Self::NodeNotLive(_)
            | Self::NodeLive(_)
            | Self::NowhereToMove { .. }
            | Self::NoEmptyFolder(_) => Code::FailedPrecondition,
            Self::NoSuchNode(_) => Code::NotFound,
            Self::IdentificationNotAllowed(_) => Code::PermissionDenied,
            Self::NotReady(_) | Self::Metadata(_) | Self::StageFailed { .. } | Self::Stopping => Code::Unavailable,
            Self::MetadataRefused(refusal) => crate::gallery_service::refusal_code(refusal),
            Self::Call(call) => called(call),
            Self::Resume(ResumeError::Call(call)) => called(call),
            Self::Resume(ResumeError::PolicyUnknown) => Code::Unavailable,
            Self::Resume(ResumeError::Receipt(_) | ResumeError::Garbled(_) | ResumeError::Unpinned(_)) => {
                Code::Internal
            }
            Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::Refused(_) => Code::Internal,
        }
    }

    /// How long the caller should wait before it tries again; `None` where trying again cannot help.
    fn retry_after_ms(&self) -> Option<u32> {
        if let Self::Overloaded { retry_after_ms } = self {
            return Some(*retry_after_ms);
        }
        if let Self::MetadataRefused(_) = self {
            return None;
        }
        match self.code() {
            Code::Unavailable | Code::ResourceExhausted => Some(OVERLOAD_RETRY_MS),
            _ => None,
        }
    }
}

/// What whoever asked does next, where it is not plain.
fn next(refusal: &MetadataRefusal) -> &'static str {
    match refusal {
        MetadataRefusal::NodeInUse { .. } => "; move them away first: `semel cluster drain`",
        MetadataRefusal::TooManyMoves { .. } => "; wait until one is done: `semel cluster moves`",
        MetadataRefusal::MoveUnderWay { .. } => "; wait until it is done, or give it up: `semel cluster move --cancel`",
        MetadataRefusal::ReplacementUnderWay { .. } => {
            "; wait until it is done, or give it up: the same with `--cancel`"
        }
        MetadataRefusal::NoReplicaThere { .. } | MetadataRefusal::ReplicaThereAlready { .. } => {
            "; `semel status --shards` shows where they are"
        }
        _ => "",
    }
}

fn called(call: &CallError) -> Code {
    match call {
        CallError::Unreached { .. } | CallError::OutcomeUnknown { .. } => Code::Unavailable,
        CallError::Overloaded { .. } => Code::ResourceExhausted,
        CallError::NotFound => Code::NotFound,
        CallError::Refused { .. } => Code::Internal,
    }
}

impl From<ResumeError> for ClientError {
    fn from(error: ResumeError) -> Self {
        Self::Resume(error)
    }
}

impl From<ClientError> for Status {
    fn from(error: ClientError) -> Self {
        let code = error.code();
        if code == Code::Internal {
            tracing::error!(%error, "a call failed for a reason that should not occur");
        }
        let mut status = Status::new(code, error.to_string());
        if let Some(retry_after_ms) = error.retry_after_ms() {
            status.metadata_mut().insert(RETRY_AFTER_MS, MetadataValue::from(retry_after_ms));
        }
        status
    }
}

/// The retry hint of a status that was made here; 0 = not retriable as it is.
pub(crate) fn retry_hint_ms(status: &Status) -> u32 {
    let hint = status.metadata().get(RETRY_AFTER_MS).and_then(|value| value.to_str().ok());
    hint.and_then(|hint| hint.parse().ok()).unwrap_or(0)
}
