//! What a cluster knows about itself: galleries, policies, keys, nodes, coordinators and the map of shards.
//!
//! The coordinators replicate it as one raft group. [`MetadataMachine`] applies [`MetadataCommand`]s to rows;
//! [`MetadataView`] is what a coordinator reads, kept current from publications. How the group is run is the shell's.

mod command;
mod machine;
mod moves;
mod nodes;
mod policy_versions;
mod replacements;
mod row;
mod view;

use std::fmt;
use std::num::NonZeroU64;

use semel_index::{GalleryId, KeyVersion, PolicyVersion, ShardCount};
use semel_raft::ReplicaId;

pub use command::{COMMAND_BYTES_MAX, DecodeError, MetadataCommand};
pub use machine::{METADATA, MetadataChanged, MetadataMachine, MetadataReceipt, MetadataRefusal, metadata_digest};
pub use moves::{MOVES_MAX, MoveState, PlannedMove, ReplicaMove, plan_drain};
pub use replacements::{CoordinatorReplicas, JoiningReplica};
pub use row::{CorruptRow, MetadataRow};
pub use view::MetadataView;

use crate::digest::ContentDigestKey;
use crate::gallery::VersionedPolicy;

/// The most coordinators that vote in the metadata group.
pub const COORDINATORS_MAX: usize = 5;
/// The most galleries of a cluster.
pub const GALLERIES_MAX: usize = 1_024;
/// The most nodes of a cluster.
pub const NODES_MAX: usize = 1_024;
/// The most replicas of a shard.
pub const REPLICAS_PER_SHARD_MAX: u32 = 7;
/// The most policy versions of a gallery. All are kept for ever: enrolments pin them.
pub const POLICY_VERSIONS_MAX: u64 = 4_096;

const ADDRESS_BYTES_MAX: usize = 256;
const VERSION_BYTES_MAX: usize = 64;

macro_rules! id_of_16_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }
    };
}

id_of_16_bytes!(
    /// A node, for as long as its volume lives: an emptied volume is another node.
    NodeId
);
id_of_16_bytes!(
    /// A cluster, drawn once when it is initialised.
    ClusterId
);
id_of_16_bytes!(
    /// A volume of a coordinator, drawn when it was empty.
    VolumeId
);

/// A coordinator's number, 1 to [`COORDINATORS_MAX`], as every coordinator's settings have it. It stays when its volume is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoordinatorId(NonZeroU64);

impl CoordinatorId {
    /// A number from 1 to [`COORDINATORS_MAX`]; `None` outside that.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).filter(|number| number.get() <= COORDINATORS_MAX as u64).map(Self)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The replica of the metadata group that the coordinator's first volume holds.
    pub fn first_replica(self) -> ReplicaId {
        ReplicaId::new(self.get()).expect("not 0")
    }
}

impl fmt::Display for CoordinatorId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What was fixed when the cluster was initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub cluster_id: ClusterId,
    /// The number of shards, never changed.
    pub shards: ShardCount,
    /// 1 to [`REPLICAS_PER_SHARD_MAX`].
    pub replicas_per_shard: u32,
}

/// A coordinator, which votes in the metadata group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    /// Its number.
    pub id: CoordinatorId,
    /// Where it listens, host:port.
    pub address: String,
}

/// A gallery with the policy and key in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GalleryRecord {
    /// Its name.
    pub name: GalleryId,
    /// The policy in force.
    pub policy: VersionedPolicy,
    /// The key in force.
    pub key_version: KeyVersion,
    /// BLAKE3 of that key's rotation matrices.
    pub key_checksum: [u8; 32],
    /// By the clock of the coordinator that created it, in milliseconds since 1970-01-01 UTC.
    pub created_at_ms: i64,
}

/// A node that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node_id: NodeId,
    /// Where it listens, host:port; empty where another node was seen there since.
    pub address: String,
    /// The version it runs.
    pub version: String,
    /// Whether it has reported that it holds the replicas it was given: from then on, coming back without any means that
    /// its volume was emptied.
    pub replicas_confirmed: bool,
}

/// A gallery as its row has it: versions, not what they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GalleryRow {
    pub(crate) name: GalleryId,
    pub(crate) policy_version: PolicyVersion,
    pub(crate) key_version: KeyVersion,
    pub(crate) created_at_ms: i64,
    pub(crate) digest_key: ContentDigestKey,
}

#[cfg(test)]
mod tests;
