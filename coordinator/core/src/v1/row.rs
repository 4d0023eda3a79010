//! The rows.

use std::fmt;

use prost::Message;

use super::Redacted;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClusterBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) cluster_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) shards: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) replicas_per_shard: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CoordinatorBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct GalleryBytes {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) policy_version: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) key_version: u32,
    #[prost(int64, tag = "4")]
    pub(crate) created_at_ms: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) digest_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct KeyBytes {
    #[prost(string, tag = "1")]
    pub(crate) gallery: String,
    #[prost(uint32, tag = "2")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) checksum: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PolicyBytes {
    #[prost(string, tag = "1")]
    pub(crate) gallery: String,
    #[prost(uint64, tag = "2")]
    pub(crate) version: u64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) modalities: Vec<ModalityBytes>,
    #[prost(uint32, tag = "4")]
    pub(crate) miss_budget_ppb: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) comparable_share_min_ppm: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) candidates_max: u32,
    #[prost(string, repeated, tag = "7")]
    pub(crate) purposes: Vec<String>,
    #[prost(bool, tag = "8")]
    pub(crate) identification_allowed: bool,
    #[prost(uint32, tag = "9")]
    pub(crate) retention_days: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModalityBytes {
    #[prost(int32, tag = "1")]
    pub(crate) modality: i32,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) embedding_dimension: Option<u32>,
    #[prost(message, optional, tag = "3")]
    pub(crate) binary_code: Option<BinaryCodeBytes>,
    #[prost(sint32, tag = "4")]
    pub(crate) review_threshold_micros: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BinaryCodeBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) rows: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) columns: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) bits_per_cell: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) shifts_max: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) common_bits_min: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) node_id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
    #[prost(string, tag = "3")]
    pub(crate) version: String,
    #[prost(bool, tag = "4")]
    pub(crate) replicas_confirmed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ShardBytes {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) voters: Vec<VoterBytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoterBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) replica: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) node_id: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ReplicaNextBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) replica_next: u64,
}

impl fmt::Debug for GalleryBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("GalleryBytes").field("name", &self.name).field("digest_key", &Redacted).finish()
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyBytes").field("gallery", &self.gallery).field("secret", &Redacted).finish()
    }
}
