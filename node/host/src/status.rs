//! What a host tells of one of its groups.

use semel_raft::ReplicaStatus;

/// The state of the replica of one group on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupStatus {
    /// It takes part.
    Running(ReplicaStatus),
    /// Its rows are being exchanged for those of a snapshot, after which it takes part again.
    Installing,
    /// It takes part in nothing until the process starts again.
    Stopped {
        /// Why.
        reason: String,
    },
}

impl GroupStatus {
    /// The state of the replica, if it takes part.
    pub fn running(&self) -> Option<&ReplicaStatus> {
        match self {
            GroupStatus::Running(status) => Some(status),
            GroupStatus::Installing | GroupStatus::Stopped { .. } => None,
        }
    }
}
