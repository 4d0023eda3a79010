//! Commands.

use prost::{Message, Oneof};

use super::part::{Comparison, Provenance, Reference, Verdict};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Stage(Stage),
    #[prost(message, tag = "2")]
    Settle(Settle),
    #[prost(message, tag = "3")]
    Withdraw(Withdraw),
    #[prost(message, tag = "4")]
    OpenCase(OpenCase),
    #[prost(message, tag = "5")]
    LinkCase(LinkCase),
    #[prost(message, tag = "6")]
    MootCase(MootCase),
    #[prost(message, tag = "7")]
    NoteMoot(NoteMoot),
    #[prost(message, tag = "8")]
    Discharge(Discharge),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stage {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(string, tag = "3")]
    pub subject_id: String,
    #[prost(message, repeated, tag = "4")]
    pub references: Vec<Reference>,
    #[prost(message, optional, tag = "5")]
    pub provenance: Option<Provenance>,
    #[prost(uint64, tag = "6")]
    pub policy_version: u64,
    #[prost(uint32, tag = "7")]
    pub key_version: u32,
    #[prost(bytes = "vec", tag = "8")]
    pub content_digest: Vec<u8>,
    #[prost(int64, tag = "9")]
    pub received_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Settle {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(uint64, tag = "3")]
    pub stage_index: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub content_digest: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub verdict: Option<Verdict>,
    #[prost(uint32, tag = "6")]
    pub shards_count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Withdraw {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(string, tag = "3")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OpenCase {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub opened_by: String,
    #[prost(string, tag = "3")]
    pub candidate: String,
    #[prost(message, repeated, tag = "4")]
    pub comparisons: Vec<Comparison>,
    #[prost(int64, tag = "5")]
    pub opened_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LinkCase {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(string, tag = "3")]
    pub other_enrolment_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MootCase {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub withdrawn: String,
    #[prost(string, tag = "3")]
    pub other_enrolment_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NoteMoot {
    #[prost(string, tag = "1")]
    pub gallery: String,
    #[prost(string, tag = "2")]
    pub enrolment_id: String,
    #[prost(string, tag = "3")]
    pub withdrawn: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Discharge {
    #[prost(uint64, repeated, tag = "1")]
    pub obligations: Vec<u64>,
}
