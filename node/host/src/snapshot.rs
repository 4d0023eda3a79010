//! How a replica that is new, or too far behind for the log, gets all rows of its group's leader: outside raft's messages, in
//! checksummed chunks, beside everything else that the host does.
//!
//! The sender pins a view of the rows and keeps it for a while after a failed attempt, so that the next one goes on from where that
//! one ended ([`view`], [`send`]). The receiver keeps chunks in a file until it has all of them, makes sorted files of them, and
//! exchanges the replica's rows in one write ([`collected`], [`receive`]). Until that write nothing of the replica has changed.

pub(crate) mod chunk;
pub(crate) mod collected;
pub(crate) mod install;
pub(crate) mod pace;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod view;

use std::sync::{Arc, Weak};
use std::time::Duration;

use semel_raft::{ReplicaId, Table};

use crate::database::Database;
use crate::envelope::ClusterId;
use send::Senders;

pub use receive::SnapshotServer;

/// Rows of a chunk, in bytes, before it is closed; its last row may exceed it.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// The largest chunk taken: rows hold at most a command and what applying it adds.
pub(crate) const CHUNK_BYTES_MAX: usize = 8 << 20;
/// The largest message of a transfer, in bytes.
pub const SNAPSHOT_MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + (64 << 10);
/// Chunks that may be on their way without an acknowledgement.
pub(crate) const CHUNKS_UNACKNOWLEDGED_MAX: usize = 4;
/// How long what an attempt pinned or collected is kept for the next one.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(120);

/// A snapshot that a replica wants to be sent. If it is dropped, or says so, the replica learns that it was not delivered.
pub struct OutgoingSnapshot {
    pub(crate) cluster: ClusterId,
    pub(crate) group: u64,
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) tables: &'static [Table],
    /// Weak, so that a transfer that waits does not keep the data folder locked after the host has ended.
    pub(crate) database: Weak<Database>,
    pub(crate) senders: Arc<Senders>,
    pub(crate) report: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl OutgoingSnapshot {
    /// The replica that it is for.
    pub fn to(&self) -> ReplicaId {
        self.to
    }

    pub(crate) fn done(mut self, delivered: bool) {
        if let Some(report) = self.report.take() {
            report(delivered);
        }
    }
}

impl Drop for OutgoingSnapshot {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(false);
        }
    }
}

impl std::fmt::Debug for OutgoingSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot of group {} from {} to {}", self.group, self.from, self.to)
    }
}
