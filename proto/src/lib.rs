//! The wire contract of Semel, generated from the protos beside it, and nothing else.
//!
//! Conversions to domain types live beside the shells that serve or call, in `semel-node-wire` and `semel-coordinator-wire`; this
//! crate knows no other crate of the workspace.

use std::fmt;

/// The public services: what registries and their integrators call.
#[allow(clippy::doc_markdown, clippy::large_enum_variant, missing_docs)]
pub mod v1 {
    tonic::include_proto!("semel.v1");
}

/// The private services: what the processes of one cluster say to each other.
pub mod internal {
    #![allow(missing_docs)]
    /// Version 1.
    #[allow(clippy::doc_markdown, clippy::large_enum_variant)]
    pub mod v1 {
        tonic::include_proto!("semel.internal.v1");
    }
}

/// The encoded descriptors of every proto, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata key that a node sets on NOT_FOUND where it hosts the shard and the record does not exist.
pub const NO_SUCH_RECORD: &str = "semel-no-such-record";

/// Metadata key that a node sets on UNAVAILABLE where nothing was proposed, so that the outcome is known.
pub const NOTHING_PROPOSED: &str = "semel-nothing-proposed";

/// Metadata key of the retry hint on RESOURCE_EXHAUSTED and UNAVAILABLE, in milliseconds.
pub const RETRY_AFTER_MS: &str = "semel-retry-after-ms";

// Templates are personal data: what may reach a log shows their length only.

impl fmt::Debug for v1::Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedding[{}]", self.values.len())
    }
}

impl fmt::Debug for v1::BinaryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BinaryCode[{} bytes]", self.code.len())
    }
}

impl fmt::Debug for internal::v1::CanonicalReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CanonicalReference[{} bytes]", self.template.len())
    }
}

impl fmt::Debug for internal::v1::Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope[group {}, {} bytes]", self.group, self.message.len())
    }
}

impl fmt::Debug for internal::v1::SnapshotChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotChunk[{} of {}, {} bytes]", self.number, self.table, self.rows.len())
    }
}
