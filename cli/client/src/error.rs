//! What keeps a call from its answer.

use std::time::Duration;

use tonic::{Code, Status};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The cluster refuses what was asked, and would again.
    #[error("{message} ({code:?})")]
    Refused {
        /// The gRPC status code.
        code: Code,
        /// What the cluster said: the field, the limit, what to do.
        message: String,
    },
    /// Coordinators were reached, and none answered within the deadline. Whether the last attempts were carried out is unknown: the
    /// same request may be sent again.
    #[error("no answer in {attempts} attempts within {:.1} s, the last: {message} ({code:?})", after.as_secs_f64())]
    Unanswered {
        /// The gRPC status code of the last attempt.
        code: Code,
        /// What was said or seen last.
        message: String,
        /// Attempts made.
        attempts: u32,
        /// How long they took with their pauses.
        after: Duration,
    },
    /// No coordinator could be reached.
    #[error("no coordinator can be reached ({})", reasons.join("; "))]
    Unreachable {
        /// Each address with the reason.
        reasons: Vec<String>,
    },
}

impl CallError {
    pub(crate) fn refused(status: &Status) -> Self {
        let message = match (status.code(), status.message()) {
            // What a gRPC server says by itself of a call that it does not have.
            (Code::Unimplemented, "") => {
                "there is no such call: the address is a node's, or the server is of another version"
            }
            (_, message) => message,
        };
        Self::Refused { code: status.code(), message: message.to_owned() }
    }

    /// Whether the same request may have an answer later: nothing was said about the request itself.
    pub fn may_succeed_later(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::Unanswered { .. } | Self::Unreachable { .. } => true,
        }
    }

    /// The gRPC status code that this error comes closest to.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } | Self::Unanswered { code, .. } => *code,
            Self::Unreachable { .. } => Code::Unavailable,
        }
    }
}

/// What is no list of coordinators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// There is none in it.
    #[error("at least one address of a coordinator is needed")]
    None,
    /// There are more than a cluster has coordinators.
    #[error("{given} addresses are more than the {max} that a client takes")]
    TooMany {
        /// How many were given.
        given: usize,
        /// How many are taken.
        max: usize,
    },
    /// One of them cannot be dialled.
    #[error("address `{address}`: is not host:port")]
    NotAnAddress {
        /// It.
        address: String,
    },
}
