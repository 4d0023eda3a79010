//! Rows. A verdict's row is the part of that name.

use prost::Message;

use super::command::Command;
use super::part::{Comparison, Provenance, Reference, ReferenceSummary};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Enrolment {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(string, tag = "3")]
    pub subject_id: String,
    #[prost(uint32, tag = "4")]
    pub state: u32,
    #[prost(message, optional, tag = "5")]
    pub provenance: Option<Provenance>,
    #[prost(uint32, tag = "6")]
    pub shard: u32,
    #[prost(uint64, tag = "7")]
    pub stage_index: u64,
    #[prost(int64, tag = "8")]
    pub received_at_ms: i64,
    #[prost(uint64, tag = "9")]
    pub policy_version: u64,
    #[prost(uint32, tag = "10")]
    pub key_version: u32,
    #[prost(bytes = "vec", tag = "11")]
    pub content_digest: Vec<u8>,
    #[prost(uint32, tag = "12")]
    pub round: u32,
    #[prost(uint64, tag = "13")]
    pub round_index: u64,
    #[prost(message, repeated, tag = "14")]
    pub references: Vec<ReferenceSummary>,
    #[prost(string, optional, tag = "15")]
    pub withdrawal_reason: Option<String>,
    /// The round of the latest verdict; 0 = none.
    #[prost(uint32, tag = "16")]
    pub verdict_round: u32,
    #[prost(uint64, tag = "17")]
    pub cases_total: u64,
    #[prost(uint64, tag = "18")]
    pub cases_open: u64,
    /// Of a withdrawn enrolment: the other enrolment of the first case that it has not made moot yet.
    #[prost(string, optional, tag = "19")]
    pub moot_from: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct References {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(uint32, tag = "3")]
    pub key_version: u32,
    #[prost(message, repeated, tag = "4")]
    pub references: Vec<Reference>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Case {
    #[prost(string, tag = "1")]
    pub gallery: String,
    /// The smaller id of a pair, or the one enrolment of a cluster.
    #[prost(string, tag = "2")]
    pub first: String,
    /// The larger id of a pair; absent for a cluster.
    #[prost(string, optional, tag = "3")]
    pub second: Option<String>,
    /// The enrolment whose withdrawal made it moot; absent while open.
    #[prost(string, optional, tag = "4")]
    pub withdrawn: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub comparisons: Vec<Comparison>,
    #[prost(string, repeated, tag = "6")]
    pub opened_by: Vec<String>,
    #[prost(int64, tag = "7")]
    pub opened_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Link {
    /// The case.
    #[prost(bytes = "vec", tag = "1")]
    pub case_id: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub moot: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Obligation {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub addressee: String,
    #[prost(message, optional, tag = "3")]
    pub command: Option<Command>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Pending {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(uint32, tag = "3")]
    pub round: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Counts {
    #[prost(uint64, tag = "1")]
    pub staged_total: u64,
    #[prost(uint64, tag = "2")]
    pub withdrawn_total: u64,
    #[prost(uint64, tag = "3")]
    pub pending: u64,
    #[prost(uint64, tag = "4")]
    pub cases: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ObligationsCount {
    #[prost(uint64, tag = "1")]
    pub obligations: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Digest {
    #[prost(bytes = "vec", tag = "1")]
    pub sum: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuditContent {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(uint32, tag = "2")]
    pub event: u32,
    #[prost(string, tag = "3")]
    pub gallery: String,
    #[prost(string, tag = "4")]
    pub enrolment_id: String,
    #[prost(string, optional, tag = "5")]
    pub other_enrolment_id: Option<String>,
    #[prost(bytes = "vec", tag = "6")]
    pub command_digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Audit {
    /// An `AuditContent`, as it was hashed.
    #[prost(bytes = "vec", tag = "1")]
    pub content: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub chain: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuditHead {
    /// How many entries there are.
    #[prost(uint64, tag = "1")]
    pub entries: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub chain: Vec<u8>,
}
