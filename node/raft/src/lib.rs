//! One replica of one replicated state machine, around raft-rs, without IO: [`Replica::step`] takes an [`Event`] and returns
//! [`Effects`] that the driver carries out in order.
//!
//! Lives here: the order in which messages, rows, applies and answers may leave; proposals and read barriers; the rows of the
//! log and when it is cut short; who belongs to the group; who needs a snapshot, and what installing one makes of a replica.
//! Does not live here: sockets, files, clocks, threads, randomness, the transfer of snapshots (see `semel-raft-host`), and what
//! is replicated (an implementation of [`StateMachine`]).

// What drivers and machines see.
mod event;
mod failures;
mod ids;
mod machine;
mod membership;
mod snapshot;
mod status;
mod store;

// How a replica steps.
mod config;
mod founding;
mod replica;

mod apply;
mod barriers;
mod compaction;
mod context;
mod offers;
mod overlay;
mod proposals;
mod unsynced;

// What it reads and says.
mod cache;
mod log;
mod message;
pub mod rows;

// For tests and simulation.
pub mod memory;
pub mod mutant;
#[cfg(any(test, feature = "suite"))]
pub mod store_suite;

pub use config::{COMMAND_BYTES_MAX, ReplicaConfig};
pub use event::{BarrierError, Effects, Event, ProposeError};
pub use failures::{OpenError, StopReason};
pub use founding::{bootstrap, bootstrap_learner};
pub use ids::{LogIndex, ReplicaId, Ticket};
pub use machine::{Applied, State, StateMachine};
pub use membership::{MembershipChange, MembershipError};
pub use message::{DecodeMessageError, Message, decode_message, encode_message, votes_for};
pub use replica::Replica;
pub use snapshot::{DecodeSnapshotError, SnapshotMetadata, SnapshotRequest, install, snapshot_of};
pub use status::{FollowerProgress, ReplicaStatus, Role};
pub use store::{Row, Store, StoreError, Table, Write, WriteBatch};
