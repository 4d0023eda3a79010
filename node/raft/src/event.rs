//! What happens to a replica, and what it wants done.

use std::fmt;

use bytes::Bytes;

use crate::ids::{LogIndex, ReplicaId, Ticket};
use crate::machine::StateMachine;
use crate::membership::{MembershipChange, MembershipError};
use crate::message::Message;
use crate::snapshot::SnapshotRequest;
use crate::store::WriteBatch;

/// One thing that happened to a replica.
pub enum Event {
    /// A tick of the driver's clock passed.
    Tick,
    /// A message of another replica of the group arrived, as [`crate::decode_message`] gave it (already checked for cluster,
    /// group and addressee).
    Receive(Box<Message>),
    /// A caller wants `command` in the log. Accepted on any replica: a follower forwards it to the leader it knows.
    Propose {
        /// Names the caller.
        ticket: Ticket,
        /// The command, at most [`crate::COMMAND_BYTES_MAX`] bytes.
        command: Bytes,
    },
    /// A caller wants to know the index up to which a read that starts now must see the log.
    /// Barriers asked for between two [`Event::Collect`] share one round of messages; none joins a round already sent.
    Barrier {
        /// Names the caller.
        ticket: Ticket,
    },
    /// Leadership should move to this replica, if it is up to date. Only the leader heeds it.
    TransferLeadership(ReplicaId),
    /// A caller wants another membership of the group. The leader alone takes it, one at a time.
    ChangeMembership {
        /// Names the caller.
        ticket: Ticket,
        /// What is wanted.
        change: MembershipChange,
        /// The epoch of the configuration that the caller has seen: nothing is done if there is another one by now.
        expected_epoch: u64,
    },
    /// The snapshot of a [`SnapshotRequest`] was installed, or is given up. Asked for whichever it is: until then the follower
    /// is sent nothing.
    SnapshotSent {
        /// The follower.
        to: ReplicaId,
        /// Whether it was installed there, durably, or was of no use because the follower had as much.
        delivered: bool,
    },
    /// The driver is ready to carry out effects: whatever is pending is handed out.
    Collect,
    /// The writes of the effects with this [`Effects::sync`], and all before them, survive a power cut.
    Synced(u64),
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Commands and entries may hold templates: lengths only.
        match self {
            Event::Tick => f.write_str("tick"),
            Event::Receive(message) => {
                let (kind, entries) = (message.msg_type, message.entries.len());
                write!(f, "receive kind {kind} of term {} from {} with {entries} entries", message.term, message.from)
            }
            Event::Propose { ticket, command } => write!(f, "propose {ticket:?} command[{}]", command.len()),
            Event::Barrier { ticket } => write!(f, "barrier {ticket:?}"),
            Event::TransferLeadership(replica) => write!(f, "transfer leadership to {replica:?}"),
            Event::ChangeMembership { ticket, change, expected_epoch } => {
                write!(f, "change membership {ticket:?} {change:?} in epoch {expected_epoch}")
            }
            Event::SnapshotSent { to, delivered } => write!(f, "snapshot sent to {to:?}, delivered: {delivered}"),
            Event::Collect => f.write_str("collect"),
            Event::Synced(number) => write!(f, "synced {number}"),
        }
    }
}

/// What the driver does next, in the order of the fields, before the replica takes another event. A sync alone may go on beside
/// further events and writes.
#[must_use = "effects must be carried out, in order"]
pub struct Effects<M: StateMachine> {
    /// Messages; nothing below need be written before they leave. Each names this replica as its sender; those for one
    /// addressee leave in this order.
    pub messages: Vec<Message>,
    /// Rows to be written as one atomic batch.
    pub writes: WriteBatch,
    /// Names the batch if the replica waits for [`Event::Synced`] of it: acknowledgements and votes leave only then. One sync may do for
    /// many batches.
    pub sync: Option<u64>,
    /// Followers that need a snapshot of the rows as they are once `writes` are written.
    pub snapshots: Vec<SnapshotRequest>,
    /// Publications of the entries applied by `writes`, with the index of each; released after the write.
    pub publications: Vec<(LogIndex, Vec<M::Publication>)>,
    /// Entries up to here are applied once the batch is written; derived views are current up to here once
    /// `publications` are taken in.
    pub applied: LogIndex,
    /// Answers for proposers; released after the write and the publications.
    pub receipts: Vec<(Ticket, Result<M::Receipt, ProposeError>)>,
    /// Answers for barriers. A reader waits until its view has reached the index.
    pub barriers: Vec<(Ticket, Result<LogIndex, BarrierError>)>,
    /// Answers for those who asked for another membership: the epoch of the configuration that the change led to.
    pub memberships: Vec<(Ticket, Result<u64, MembershipError>)>,
}

impl<M: StateMachine> Effects<M> {
    /// Nothing to do, with entries applied up to `applied`.
    pub fn nothing(applied: LogIndex) -> Self {
        Self {
            messages: Vec::new(),
            writes: WriteBatch::default(),
            sync: None,
            snapshots: Vec::new(),
            publications: Vec::new(),
            applied,
            receipts: Vec::new(),
            barriers: Vec::new(),
            memberships: Vec::new(),
        }
    }
}

/// Why a proposal has no receipt.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ProposeError {
    /// Nothing was proposed: the group has no leader that this replica knows of, or it does not belong to the group. Safe to retry elsewhere.
    #[error("the group has no leader")]
    NoLeader,
    /// Nothing was proposed: too many proposals wait already, or the leader's uncommitted log is full.
    #[error("too many proposals wait")]
    TooManyPending,
    /// Nothing was proposed: the command is too large.
    #[error("command of {bytes} bytes exceeds {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The outcome is unknown: the command may or may not be applied later. Commands are idempotent, so ask again.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
    /// The replica has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a barrier has no index.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BarrierError {
    /// The round was not answered in time, or the replica does not belong to its group; ask again, or elsewhere.
    #[error("no leader confirmed the read barrier")]
    NotConfirmed,
    /// Too many barriers wait already.
    #[error("too many read barriers wait")]
    TooManyPending,
    /// The replica has stopped.
    #[error("the replica has stopped")]
    Stopped,
}
