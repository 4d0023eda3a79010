//! Parts that commands and rows share.

use std::fmt;

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EmbeddingSpec {
    #[prost(uint32, tag = "1")]
    pub dimension: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BinaryCodeSpec {
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    #[prost(uint32, tag = "2")]
    pub columns: u32,
    #[prost(uint32, tag = "3")]
    pub bits_per_cell: u32,
    #[prost(uint32, tag = "4")]
    pub shifts_max: u32,
    #[prost(uint32, tag = "5")]
    pub common_bits_min: u32,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Spec {
    #[prost(message, tag = "3")]
    Embedding(EmbeddingSpec),
    #[prost(message, tag = "4")]
    BinaryCode(BinaryCodeSpec),
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct Reference {
    #[prost(uint32, tag = "1")]
    pub modality: u32,
    #[prost(uint32, tag = "2")]
    pub position: u32,
    #[prost(oneof = "Spec", tags = "3, 4")]
    pub spec: Option<Spec>,
    #[prost(bytes = "vec", tag = "5")]
    pub template: Vec<u8>,
    #[prost(uint32, optional, tag = "6")]
    pub quality: Option<u32>,
    #[prost(string, tag = "7")]
    pub algorithm_id: String,
}

impl fmt::Debug for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reference(template[{}])", self.template.len())
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReferenceSummary {
    #[prost(uint32, tag = "1")]
    pub modality: u32,
    #[prost(uint32, tag = "2")]
    pub position: u32,
    #[prost(uint32, optional, tag = "3")]
    pub quality: Option<u32>,
    #[prost(string, tag = "4")]
    pub algorithm_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Provenance {
    #[prost(string, tag = "1")]
    pub site: String,
    #[prost(string, tag = "2")]
    pub operator_id: String,
    #[prost(string, tag = "3")]
    pub legal_basis: String,
    #[prost(string, tag = "4")]
    pub purpose: String,
    #[prost(int64, tag = "5")]
    pub captured_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Comparison {
    #[prost(uint32, tag = "1")]
    pub modality: u32,
    #[prost(uint32, tag = "2")]
    pub position: u32,
    #[prost(sint32, tag = "3")]
    pub score_micros: i32,
    #[prost(sint32, tag = "4")]
    pub threshold_micros: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Candidate {
    #[prost(string, tag = "1")]
    pub enrolment_id: String,
    #[prost(sint32, tag = "2")]
    pub margin_micros: i32,
    #[prost(message, repeated, tag = "3")]
    pub comparisons: Vec<Comparison>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ShardCoverage {
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, tag = "3")]
    pub searchable_index: u64,
    #[prost(uint64, tag = "4")]
    pub compared: u64,
    #[prost(uint64, tag = "5")]
    pub not_comparable: u64,
    #[prost(uint64, tag = "6")]
    pub withdrawn: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Coverage {
    #[prost(message, repeated, tag = "1")]
    pub shards: Vec<ShardCoverage>,
    #[prost(uint64, tag = "2")]
    pub live: u64,
    #[prost(uint64, tag = "3")]
    pub compared: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Verdict {
    /// The enrolment state that it gives.
    #[prost(uint32, tag = "1")]
    pub state: u32,
    #[prost(message, repeated, tag = "2")]
    pub candidates: Vec<Candidate>,
    #[prost(uint64, tag = "3")]
    pub candidates_total: u64,
    #[prost(bool, tag = "4")]
    pub saturated: bool,
    #[prost(message, optional, tag = "5")]
    pub coverage: Option<Coverage>,
    #[prost(uint64, tag = "6")]
    pub policy_version: u64,
    #[prost(uint32, tag = "7")]
    pub round: u32,
    #[prost(int64, tag = "8")]
    pub settled_at_ms: i64,
}
