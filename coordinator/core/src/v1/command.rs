//! The commands.

use std::fmt;

use prost::{Message, Oneof};

use super::Redacted;
use super::row::PolicyBytes;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommandBytes {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Initialise(InitialiseBytes),
    #[prost(message, tag = "2")]
    RegisterCoordinator(RegisterCoordinatorBytes),
    #[prost(message, tag = "3")]
    CreateGallery(CreateGalleryBytes),
    #[prost(message, tag = "4")]
    UpdatePolicy(UpdatePolicyBytes),
    #[prost(message, tag = "5")]
    JoinNode(JoinNodeBytes),
    #[prost(message, tag = "6")]
    ConfirmReplicas(ConfirmReplicasBytes),
    #[prost(message, tag = "7")]
    PlaceShards(PlaceShardsBytes),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InitialiseBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) cluster_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) shards: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) replicas_per_shard: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RegisterCoordinatorBytes {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
}

/// The policy's `gallery` names the gallery; its `version` is not read.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct CreateGalleryBytes {
    #[prost(message, optional, tag = "1")]
    pub(crate) policy: Option<PolicyBytes>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) checksum: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(crate) created_at_ms: i64,
}

/// The policy's `gallery` names the gallery; its `version` is the one expected, 0 = any.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdatePolicyBytes {
    #[prost(message, optional, tag = "1")]
    pub(crate) policy: Option<PolicyBytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct JoinNodeBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) node_id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
    #[prost(string, tag = "3")]
    pub(crate) version: String,
    #[prost(uint32, tag = "4")]
    pub(crate) replicas_held: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConfirmReplicasBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) node_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlaceShardsBytes {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) nodes: Vec<Vec<u8>>,
}

impl fmt::Debug for CreateGalleryBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CreateGalleryBytes").field("policy", &self.policy).field("secret", &Redacted).finish()
    }
}
