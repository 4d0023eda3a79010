//! Why a replica does not open, and why it stops. What callers of a running replica are refused for is in [`crate::event`].

use crate::ids::LogIndex;
use crate::store::{StoreError, Table};

/// Why a replica does not open.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The store holds no replica. Write the batch of [`crate::bootstrap`] first, unless one should be there.
    #[error("the store holds no replica")]
    NotBootstrapped,
    /// A row could not be read, or says what cannot be.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The rows contradict one another.
    #[error("{table:?} is corrupt: {reason}")]
    Corrupt {
        /// The table with the contradiction.
        table: Table,
        /// What it is.
        reason: String,
    },
    /// The configuration is not one that raft accepts.
    #[error("replica configuration: {reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a replica stopped. It takes no more part in its group until it is opened again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StopReason {
    /// A row could not be read, or says what cannot be.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The leader remembers entries of this replica that it does not have: it has lost acknowledged writes, and must come
    /// back as a new replica.
    #[error("the leader counts on entries up to {commit}, but the log ends at {last_index}")]
    LogLost {
        /// The index up to which the leader knows this replica to have the log.
        commit: LogIndex,
        /// The end of the log.
        last_index: LogIndex,
    },
    /// A committed change of the configuration cannot be applied.
    #[error("configuration change at {index}: {reason}")]
    ConfChange {
        /// The index of its entry.
        index: LogIndex,
        /// Why not.
        reason: String,
    },
}
