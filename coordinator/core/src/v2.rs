//! Version 2 of the stored and replicated bytes of the metadata group: what version 1 has no word for. Never edited: a change is a new
//! version beside it.
//!
//! As in `v1`, these structures carry bytes and nothing else.

use prost::{Message, Oneof};

/// The first byte of every value of this version.
pub(crate) const VERSION: u8 = 2;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommandBytes {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    StartMove(StartMoveBytes),
    #[prost(message, tag = "2")]
    BeginReplace(OfMoveBytes),
    #[prost(message, tag = "3")]
    CancelMove(CancelMoveBytes),
    #[prost(message, tag = "4")]
    EndMove(EndMoveBytes),
    #[prost(message, tag = "5")]
    RemoveNode(RemoveNodeBytes),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StartMoveBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) from: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) to: Vec<u8>,
}

/// Of the move that brings this replica.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct OfMoveBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) replica: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct EndMoveBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) replica: u64,
    #[prost(bool, tag = "3")]
    pub(crate) replaced: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct CancelMoveBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RemoveNodeBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) node_id: Vec<u8>,
}

/// The row of a move. `state`: 1 learning, 2 replacing, 3 cancelling.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MoveBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) from_replica: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) from_node: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) to_replica: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) to_node: Vec<u8>,
    #[prost(uint32, tag = "6")]
    pub(crate) state: u32,
}
