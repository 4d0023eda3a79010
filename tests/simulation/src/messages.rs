//! What travels between processes and clients: raft messages as bytes, calls and their answers as the cores' own types. The
//! wire itself is the shells'.

use std::sync::Arc;

use bytes::Bytes;
use semel_index::{EnrolmentId, GalleryId, ShardId, ShardSearch};
use semel_raft::LogIndex;
use semel_shard::{Command, EnrolmentRecord, Obligation, PendingEnrolment, Receipt};
use semel_workflow::{EnrolmentRequest, MetadataCommand, ReferenceRequest, SearchProbe};

use crate::history::Told;
use crate::host::{Part, Taken};

/// Names a call of the one that made it.
pub(crate) type CallId = u64;

/// One message.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// From a replica of a group to another.
    Raft { group: u64, bytes: Bytes },
    /// A part of a snapshot, from the leader's process to the follower's.
    Snapshot(Part),
    /// The follower's process says what it has of it.
    SnapshotTaken(Taken),
    /// A coordinator asks a node.
    Ask { call: CallId, shard: ShardId, request: ShardRequest },
    /// The node answers.
    Answer { call: CallId, answer: Result<ShardAnswered, Refused> },
    /// A client asks a coordinator, and waits for a verdict so many microseconds.
    Request { call: CallId, wait: u64, request: ClientRequest },
    /// The client waits no longer: its connection is gone, and with it whatever the coordinator did for it.
    Cancel { call: CallId },
    /// The coordinator answers.
    Response { call: CallId, told: Told },
    /// It answers an operator: whether the command is done, and which policy is in force if it was about one.
    Governed { call: CallId, done: bool, policy: Option<(GalleryId, u64)> },
}

/// What a coordinator asks of a replica of a shard.
#[derive(Debug, Clone)]
pub(crate) enum ShardRequest {
    Propose(Arc<Command>),
    Search { probe: Arc<SearchProbe>, miss_budget_ppb: u32 },
    Read { gallery: GalleryId, enrolment: EnrolmentId, with_templates: bool },
    ListPending,
}

/// What the replica answers.
#[derive(Debug, Clone)]
pub(crate) enum ShardAnswered {
    Receipt(Box<Receipt>),
    Searched { epoch: u64, searchable_index: LogIndex, found: ShardSearch },
    Record(Box<EnrolmentRecord>, Vec<semel_shard::CanonicalReference>),
    NoSuchRecord,
    Pending { enrolments: Vec<PendingEnrolment>, obligations: Vec<Obligation> },
}

/// Why the replica does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nothing was changed: another replica may do.
    NothingDone,
    /// Nothing was changed: too much waits.
    Overloaded,
    /// A command may or may not be applied later.
    OutcomeUnknown,
}

/// What a client asks of a coordinator.
#[derive(Debug, Clone)]
pub(crate) enum ClientRequest {
    Enrol(EnrolmentRequest),
    Withdraw(GalleryId, EnrolmentId),
    Read(GalleryId, EnrolmentId),
    Identify(GalleryId, Vec<ReferenceRequest>),
    /// An operator's command about galleries, policies or nodes.
    Govern(Box<MetadataCommand>),
}
