//! Version 3 of the stored and replicated bytes of the metadata group: what the versions before have no word for. Never edited: a change
//! is a new version beside it.
//!
//! As in `v1`, these structures carry bytes and nothing else.

use prost::{Message, Oneof};

/// The first byte of every value of this version.
pub(crate) const VERSION: u8 = 3;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommandBytes {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    ReplaceCoordinator(ReplaceCoordinatorBytes),
    #[prost(message, tag = "2")]
    CancelReplacement(CancelReplacementBytes),
    #[prost(message, tag = "3")]
    EndReplacement(EndReplacementBytes),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReplaceCoordinatorBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) coordinator: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) volume: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct CancelReplacementBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) coordinator: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct EndReplacementBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) coordinator: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) replica: u64,
    #[prost(bool, tag = "3")]
    pub(crate) replaced: bool,
}

/// The row of the replicas of a coordinator. `joining_state`: 0 none joins, 1 joining, 2 cancelling.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CoordinatorReplicasBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) coordinator: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) voter: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) newest: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) joining_state: u32,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) joining_volume: Vec<u8>,
}
