//! What a coordinator reads of the metadata: an immutable snapshot, cheap to clone and to bring forward.
//!
//! Derived: it can be loaded from the rows at any time. Whether it is new enough is the reader's concern, by a barrier.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel_index::{GalleryId, KeyVersion, PolicyVersion, ShardId};
use semel_raft::{ReplicaId, Store, StoreError};

use crate::digest::ContentDigestKey;
use crate::gallery::VersionedPolicy;
use crate::metadata::machine::{MetadataChanged, decode, for_each_row};
use crate::metadata::row::MetadataRow;
use crate::metadata::{
    Cluster, Coordinator, CoordinatorId, CoordinatorReplicas, GalleryRecord, GalleryRow, NodeId, NodeRecord,
    ReplicaMove,
};
use crate::placement::ShardPlacement;
use crate::rotation::GalleryKey;

/// A snapshot of the metadata. Maps are shared between snapshots until they change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataView {
    cluster: Option<Cluster>,
    coordinators: Arc<BTreeMap<CoordinatorId, Coordinator>>,
    coordinator_replicas: Arc<BTreeMap<CoordinatorId, CoordinatorReplicas>>,
    galleries: Arc<BTreeMap<GalleryId, GalleryRow>>,
    policies: Arc<BTreeMap<(GalleryId, PolicyVersion), Arc<VersionedPolicy>>>,
    keys: Arc<BTreeMap<(GalleryId, KeyVersion), KeyRow>>,
    nodes: Arc<BTreeMap<NodeId, NodeRecord>>,
    shards: Arc<BTreeMap<ShardId, ShardPlacement>>,
    moves: Arc<BTreeMap<ShardId, ReplicaMove>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyRow {
    key: GalleryKey,
    checksum: [u8; 32],
}

impl MetadataView {
    /// Loads the snapshot from a group's rows.
    ///
    /// # Errors
    /// If the rows cannot be read, or one does not decode.
    pub fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut view = Self::default();
        for_each_row(store, &mut |key, value| {
            view.set(decode(key, value)?);
            Ok(())
        })?;
        Ok(view)
    }

    /// The snapshot after some changes, in the order in which they were published.
    #[must_use]
    pub fn with(&self, changes: &[MetadataChanged]) -> Self {
        let mut view = self.clone();
        for change in changes {
            match change {
                MetadataChanged::Set(row) => view.set(row.clone()),
                MetadataChanged::NodeRemoved(node_id) => {
                    Arc::make_mut(&mut view.nodes).remove(node_id);
                }
                MetadataChanged::MoveEnded(shard) => {
                    Arc::make_mut(&mut view.moves).remove(shard);
                }
            }
        }
        view
    }

    fn set(&mut self, row: MetadataRow) {
        match row {
            MetadataRow::Cluster(cluster) => self.cluster = Some(cluster),
            MetadataRow::Coordinator(coordinator) => {
                Arc::make_mut(&mut self.coordinators).insert(coordinator.id, coordinator);
            }
            MetadataRow::Gallery(gallery) => {
                Arc::make_mut(&mut self.galleries).insert(gallery.name.clone(), gallery);
            }
            MetadataRow::Policy { gallery, policy } => {
                Arc::make_mut(&mut self.policies).insert((gallery, policy.version), Arc::new(policy));
            }
            MetadataRow::Key { gallery, version, key, checksum } => {
                Arc::make_mut(&mut self.keys).insert((gallery, version), KeyRow { key, checksum });
            }
            MetadataRow::Node(node) => {
                Arc::make_mut(&mut self.nodes).insert(node.node_id, node);
            }
            MetadataRow::Shard(shard) => {
                Arc::make_mut(&mut self.shards).insert(shard.shard, shard);
            }
            MetadataRow::Move(moving) => {
                Arc::make_mut(&mut self.moves).insert(moving.shard, moving);
            }
            MetadataRow::CoordinatorReplicas(replicas) => {
                Arc::make_mut(&mut self.coordinator_replicas).insert(replicas.coordinator, replicas);
            }
            // Only placements read it, and those are made where it is recorded.
            MetadataRow::ReplicaNext(_) => (),
        }
    }

    /// What was fixed at initialisation; `None` before.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The coordinators, by id.
    pub fn coordinators(&self) -> impl Iterator<Item = &Coordinator> {
        self.coordinators.values()
    }

    /// The replicas of the metadata group that a coordinator has had.
    pub fn coordinator_replicas(&self, coordinator: CoordinatorId) -> CoordinatorReplicas {
        self.coordinator_replicas.get(&coordinator).copied().unwrap_or(CoordinatorReplicas::first(coordinator))
    }

    /// The replacement of a coordinator's volume, if one is under way.
    pub fn replacement(&self) -> Option<&CoordinatorReplicas> {
        self.coordinator_replicas.values().find(|replicas| replicas.joining.is_some())
    }

    /// The coordinator that a replica of the metadata group belongs to: one that votes, or is about to.
    pub fn coordinator_of(&self, replica: ReplicaId) -> Option<CoordinatorId> {
        self.coordinators.keys().copied().find(|coordinator| {
            let replicas = self.coordinator_replicas(*coordinator);
            replicas.voter == replica || replicas.joining_replica() == Some(replica)
        })
    }

    /// A gallery with the policy and key in force.
    pub fn gallery(&self, name: &GalleryId) -> Option<GalleryRecord> {
        self.galleries.get(name).and_then(|gallery| self.record(gallery))
    }

    /// Every gallery, by name.
    pub fn galleries(&self) -> impl Iterator<Item = GalleryRecord> {
        self.galleries.values().filter_map(|gallery| self.record(gallery))
    }

    /// A version of a gallery's policy, in force or pinned.
    pub fn policy(&self, gallery: &GalleryId, version: PolicyVersion) -> Option<Arc<VersionedPolicy>> {
        self.policies.get(&(gallery.clone(), version)).cloned()
    }

    /// The policy in force.
    pub fn current_policy(&self, gallery: &GalleryId) -> Option<Arc<VersionedPolicy>> {
        self.policy(gallery, self.galleries.get(gallery)?.policy_version)
    }

    /// A version of a gallery's key.
    pub fn key(&self, gallery: &GalleryId, version: KeyVersion) -> Option<&GalleryKey> {
        self.keys.get(&(gallery.clone(), version)).map(|row| &row.key)
    }

    /// The checksum that the rotation matrices of a key must have.
    pub fn key_checksum(&self, gallery: &GalleryId, version: KeyVersion) -> Option<[u8; 32]> {
        self.keys.get(&(gallery.clone(), version)).map(|row| row.checksum)
    }

    /// The key of a gallery's content digests.
    pub fn digest_key(&self, gallery: &GalleryId) -> Option<&ContentDigestKey> {
        self.galleries.get(gallery).map(|gallery| &gallery.digest_key)
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// A node.
    pub fn node(&self, node_id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node_id)
    }

    /// Whether the shards are placed: all of them, or none.
    pub fn is_placed(&self) -> bool {
        !self.shards.is_empty()
    }

    /// Where every shard is meant to be. Empty until they are placed.
    pub fn shard_map(&self) -> &BTreeMap<ShardId, ShardPlacement> {
        &self.shards
    }

    /// The moves under way, by shard.
    pub fn moves(&self) -> impl Iterator<Item = &ReplicaMove> {
        self.moves.values()
    }

    /// The move of a shard's replica, if one is under way.
    pub fn move_of(&self, shard: ShardId) -> Option<&ReplicaMove> {
        self.moves.get(&shard)
    }

    /// Whether the map or a move counts on a replica.
    pub fn counts_on(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let placed = self.shards.get(&shard);
        placed.is_some_and(|placed| placed.voters.iter().any(|voter| voter.replica == replica))
            || self.moves.get(&shard).is_some_and(|moving| moving.to.replica == replica)
    }

    /// The shards that a node is meant to host a replica of, in order.
    pub fn shards_of(&self, node_id: NodeId) -> impl Iterator<Item = &ShardPlacement> {
        self.shards.values().filter(move |shard| shard.voters.iter().any(|voter| voter.node == node_id))
    }

    fn record(&self, gallery: &GalleryRow) -> Option<GalleryRecord> {
        let policy = self.policy(&gallery.name, gallery.policy_version)?;
        Some(GalleryRecord {
            name: gallery.name.clone(),
            policy: VersionedPolicy::clone(&policy),
            key_version: gallery.key_version,
            key_checksum: self.key_checksum(&gallery.name, gallery.key_version)?,
            created_at_ms: gallery.created_at_ms,
        })
    }
}
