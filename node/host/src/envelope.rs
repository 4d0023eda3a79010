//! How messages of replicas travel between processes.

use std::fmt;

use bytes::Bytes;
use semel_raft::ReplicaId;

use crate::snapshot::OutgoingSnapshot;

/// A cluster's id, drawn once when it is initialised.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A message from one replica of a group to another, with what is needed to drop it where it does not belong.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The cluster that sender and addressee belong to.
    pub cluster: ClusterId,
    /// The group that both belong to.
    pub group: u64,
    /// The sender.
    pub from: ReplicaId,
    /// The addressee.
    pub to: ReplicaId,
    /// The message, as `semel_raft::encode_message` wrote it.
    pub message: Bytes,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A message may carry templates: its length only.
        write!(f, "envelope group {} {} to {} [{}]", self.group, self.from, self.to, self.message.len())
    }
}

/// Where messages leave the host.
pub trait Transport: Send + Sync + 'static {
    /// Sends messages, in order where they have the same addressee. Called from the host's thread, once per turn with the
    /// messages of all groups, so it must not block: what cannot be queued is dropped.
    fn send(&self, envelopes: Vec<Envelope>);

    /// Sends a snapshot, outside the host's thread, and reports how that went. A transport that sends none drops it, which reports that
    /// it was not delivered.
    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        drop(snapshot);
    }
}
