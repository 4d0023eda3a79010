//! The rows of the metadata group: their keys, their bytes, and the types they stand for.
//!
//! Keys begin with a letter for the kind; what follows orders the rows of a kind. A row that does not decode is a fault of
//! the storage and stops the replica: rows are written by this module alone.

use bytes::Bytes;
use prost::Message;
use semel_index::{BinaryCodeSpec, GalleryId, KeyVersion, PolicyVersion, ShardCount, ShardId, TemplateSpec};
use semel_raft::ReplicaId;

use crate::digest::ContentDigestKey;
use crate::gallery::{ModalityPolicyRequest, Policy, PolicyRequest, VersionedPolicy};
use crate::metadata::{
    Cluster, ClusterId, Coordinator, CoordinatorId, CoordinatorReplicas, GalleryRow, JoiningReplica, MoveState, NodeId,
    NodeRecord, REPLICAS_PER_SHARD_MAX, ReplicaMove, VolumeId,
};
use crate::placement::{ShardPlacement, Voter};
use crate::rotation::GalleryKey;
use crate::{v1, v2, v3, v4};

const CLUSTER: u8 = b'c';
const COORDINATOR: u8 = b'o';
const GALLERY: u8 = b'g';
const POLICY: u8 = b'p';
const KEY: u8 = b'k';
const NODE: u8 = b'n';
const SHARD: u8 = b's';
const REPLICA_NEXT: u8 = b'r';
const MOVE: u8 = b'm';
const COORDINATOR_REPLICAS: u8 = b'q';

/// One row, decoded. Its `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataRow {
    /// What was fixed when the cluster was initialised.
    Cluster(Cluster),
    /// A coordinator.
    Coordinator(Coordinator),
    /// A gallery's versions.
    Gallery(GalleryRow),
    /// One version of a gallery's policy.
    Policy {
        /// The gallery.
        gallery: GalleryId,
        /// The policy.
        policy: VersionedPolicy,
    },
    /// One version of a gallery's key.
    Key {
        /// The gallery.
        gallery: GalleryId,
        /// The version.
        version: KeyVersion,
        /// The secret.
        key: GalleryKey,
        /// BLAKE3 of the key's rotation matrices.
        checksum: [u8; 32],
    },
    /// A node.
    Node(NodeRecord),
    /// A shard's placement.
    Shard(ShardPlacement),
    /// The first replica id that is still free.
    ReplicaNext(u64),
    /// The move of a shard's replica.
    Move(ReplicaMove),
    /// The replicas of a coordinator whose volume was replaced, or is being.
    CoordinatorReplicas(CoordinatorReplicas),
}

/// A row that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a metadata row does not decode")]
pub struct CorruptRow;

/// The range of all rows, for scans.
pub(crate) fn all() -> (Bytes, Bytes) {
    (Bytes::new(), Bytes::from_static(&[u8::MAX]))
}

/// The range of all galleries.
pub(crate) fn galleries() -> (Bytes, Bytes) {
    range_of(GALLERY)
}

/// The range of all nodes.
pub(crate) fn nodes() -> (Bytes, Bytes) {
    range_of(NODE)
}

/// The range of all shards.
pub(crate) fn shards() -> (Bytes, Bytes) {
    range_of(SHARD)
}

pub(crate) fn cluster_key() -> Bytes {
    key(CLUSTER, &[])
}

pub(crate) fn coordinator_key(id: CoordinatorId) -> Bytes {
    key(COORDINATOR, &[&id.get().to_be_bytes()])
}

pub(crate) fn gallery_key(name: &GalleryId) -> Bytes {
    key(GALLERY, &[name.as_str().as_bytes()])
}

pub(crate) fn policy_key(gallery: &GalleryId, version: PolicyVersion) -> Bytes {
    key(POLICY, &[gallery.as_str().as_bytes(), &[0], &version.0.to_be_bytes()])
}

pub(crate) fn secret_key(gallery: &GalleryId, version: KeyVersion) -> Bytes {
    key(KEY, &[gallery.as_str().as_bytes(), &[0], &version.0.to_be_bytes()])
}

pub(crate) fn node_key(node_id: NodeId) -> Bytes {
    key(NODE, &[&node_id.0])
}

pub(crate) fn shard_key(shard: ShardId) -> Bytes {
    key(SHARD, &[&shard.0.to_be_bytes()])
}

/// The range of all moves.
pub(crate) fn moves() -> (Bytes, Bytes) {
    range_of(MOVE)
}

pub(crate) fn move_key(shard: ShardId) -> Bytes {
    key(MOVE, &[&shard.0.to_be_bytes()])
}

/// The range of all coordinators' replicas.
pub(crate) fn coordinator_replicas() -> (Bytes, Bytes) {
    range_of(COORDINATOR_REPLICAS)
}

pub(crate) fn coordinator_replicas_key(id: CoordinatorId) -> Bytes {
    key(COORDINATOR_REPLICAS, &[&id.get().to_be_bytes()])
}

pub(crate) fn replica_next_key() -> Bytes {
    key(REPLICA_NEXT, &[])
}

fn key(kind: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = vec![kind];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    Bytes::from(key)
}

fn range_of(kind: u8) -> (Bytes, Bytes) {
    (key(kind, &[]), key(kind + 1, &[]))
}

impl MetadataRow {
    /// Where it is kept.
    pub fn key(&self) -> Bytes {
        match self {
            Self::Cluster(_) => cluster_key(),
            Self::Coordinator(coordinator) => coordinator_key(coordinator.id),
            Self::Gallery(gallery) => gallery_key(&gallery.name),
            Self::Policy { gallery, policy } => policy_key(gallery, policy.version),
            Self::Key { gallery, version, .. } => secret_key(gallery, *version),
            Self::Node(node) => node_key(node.node_id),
            Self::Shard(shard) => shard_key(shard.shard),
            Self::ReplicaNext(_) => replica_next_key(),
            Self::Move(moving) => move_key(moving.shard),
            Self::CoordinatorReplicas(replicas) => coordinator_replicas_key(replicas.coordinator),
        }
    }

    /// Version byte ‖ message.
    pub fn value(&self) -> Bytes {
        match self {
            Self::Cluster(cluster) => versioned(&v1::ClusterBytes {
                cluster_id: cluster.cluster_id.0.to_vec(),
                shards: cluster.shards.get(),
                replicas_per_shard: cluster.replicas_per_shard,
            }),
            Self::Coordinator(coordinator) => {
                versioned(&v1::CoordinatorBytes { id: coordinator.id.get(), address: coordinator.address.clone() })
            }
            Self::Gallery(gallery) => versioned(&v1::GalleryBytes {
                name: gallery.name.as_str().to_owned(),
                policy_version: gallery.policy_version.0,
                key_version: gallery.key_version.0,
                created_at_ms: gallery.created_at_ms,
                digest_key: gallery.digest_key.secret().to_vec(),
            }),
            Self::Policy { gallery, policy } => {
                let bytes = policy_to_bytes(gallery, policy.version, &policy.policy);
                match policy.policy.engine() {
                    None => versioned(&bytes),
                    Some(engine) => versioned_4(&v4::PolicyBytes { policy: Some(bytes), engine: engine.to_string() }),
                }
            }
            Self::Key { gallery, version, key, checksum } => versioned(&v1::KeyBytes {
                gallery: gallery.as_str().to_owned(),
                version: version.0,
                secret: key.secret().to_vec(),
                checksum: checksum.to_vec(),
            }),
            Self::Node(node) => versioned(&v1::NodeBytes {
                node_id: node.node_id.0.to_vec(),
                address: node.address.clone(),
                version: node.version.clone(),
                replicas_confirmed: node.replicas_confirmed,
            }),
            Self::Shard(shard) => versioned(&v1::ShardBytes {
                shard: shard.shard.0,
                epoch: shard.epoch,
                voters: shard.voters.iter().map(voter_to_bytes).collect(),
            }),
            Self::ReplicaNext(replica_next) => versioned(&v1::ReplicaNextBytes { replica_next: *replica_next }),
            Self::Move(moving) => versioned_2(&v2::MoveBytes {
                shard: moving.shard.0,
                from_replica: moving.from.replica.get(),
                from_node: moving.from.node.0.to_vec(),
                to_replica: moving.to.replica.get(),
                to_node: moving.to.node.0.to_vec(),
                state: match moving.state {
                    MoveState::Learning => 1,
                    MoveState::Replacing => 2,
                    MoveState::Cancelling => 3,
                },
            }),
            Self::CoordinatorReplicas(replicas) => versioned_3(&v3::CoordinatorReplicasBytes {
                coordinator: replicas.coordinator.get(),
                voter: replicas.voter.get(),
                newest: replicas.newest.get(),
                joining_state: match replicas.joining {
                    None => 0,
                    Some(joining) if joining.cancelling => 2,
                    Some(_) => 1,
                },
                joining_volume: replicas.joining.map(|joining| joining.volume.0.to_vec()).unwrap_or_default(),
            }),
        }
    }

    /// The row of a key and a value.
    ///
    /// # Errors
    /// The value is of another version, no valid row, or another key's.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, CorruptRow> {
        let row = Self::decode_kind(*key.first().ok_or(CorruptRow)?, value).ok_or(CorruptRow)?;
        if row.key() == key { Ok(row) } else { Err(CorruptRow) }
    }

    fn decode_kind(kind: u8, value: &[u8]) -> Option<Self> {
        match kind {
            CLUSTER => cluster_of(message(value)?).map(Self::Cluster),
            COORDINATOR => {
                let bytes: v1::CoordinatorBytes = message(value)?;
                Some(Self::Coordinator(Coordinator { id: CoordinatorId::new(bytes.id)?, address: bytes.address }))
            }
            GALLERY => gallery_of(message(value)?).map(Self::Gallery),
            POLICY => {
                let (gallery, policy) = match message_4::<v4::PolicyBytes>(value) {
                    // Where none is named, the bytes are of version 1.
                    Some(bytes) if bytes.engine.is_empty() => return None,
                    Some(bytes) => policy_of(bytes.policy?, bytes.engine)?,
                    None => policy_of(message(value)?, String::new())?,
                };
                Some(Self::Policy { gallery, policy })
            }
            KEY => {
                let bytes: v1::KeyBytes = message(value)?;
                Some(Self::Key {
                    gallery: GalleryId::try_from(bytes.gallery).ok()?,
                    version: KeyVersion(bytes.version),
                    key: GalleryKey::from_secret(bytes.secret.try_into().ok()?),
                    checksum: bytes.checksum.try_into().ok()?,
                })
            }
            NODE => {
                let bytes: v1::NodeBytes = message(value)?;
                Some(Self::Node(NodeRecord {
                    node_id: node_id_of(bytes.node_id)?,
                    address: bytes.address,
                    version: bytes.version,
                    replicas_confirmed: bytes.replicas_confirmed,
                }))
            }
            SHARD => shard_of_bytes(message(value)?).map(Self::Shard),
            REPLICA_NEXT => message(value).map(|bytes: v1::ReplicaNextBytes| Self::ReplicaNext(bytes.replica_next)),
            MOVE => move_of(message_2(value)?).map(Self::Move),
            COORDINATOR_REPLICAS => coordinator_replicas_of(message_3(value)?).map(Self::CoordinatorReplicas),
            _ => None,
        }
    }
}

/// A value of version 1: version byte ‖ message.
pub(crate) fn versioned(message: &impl Message) -> Bytes {
    value(v1::VERSION, message)
}

/// A value of version 2.
pub(crate) fn versioned_2(message: &impl Message) -> Bytes {
    value(v2::VERSION, message)
}

/// A value of version 3.
pub(crate) fn versioned_3(message: &impl Message) -> Bytes {
    value(v3::VERSION, message)
}

/// A value of version 4.
pub(crate) fn versioned_4(message: &impl Message) -> Bytes {
    value(v4::VERSION, message)
}

fn value(version: u8, message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(version);
    message.encode(&mut bytes).expect("a vector grows as needed");
    Bytes::from(bytes)
}

fn message<M: Message + Default>(value: &[u8]) -> Option<M> {
    message_of(v1::VERSION, value)
}

fn message_2<M: Message + Default>(value: &[u8]) -> Option<M> {
    message_of(v2::VERSION, value)
}

fn message_3<M: Message + Default>(value: &[u8]) -> Option<M> {
    message_of(v3::VERSION, value)
}

fn message_4<M: Message + Default>(value: &[u8]) -> Option<M> {
    message_of(v4::VERSION, value)
}

fn message_of<M: Message + Default>(expected: u8, value: &[u8]) -> Option<M> {
    let (version, message) = value.split_first()?;
    if *version == expected { M::decode(message).ok() } else { None }
}

fn move_of(bytes: v2::MoveBytes) -> Option<ReplicaMove> {
    let voter = |replica, node| Some(Voter { replica: ReplicaId::new(replica)?, node: node_id_of(node)? });
    Some(ReplicaMove {
        shard: ShardId(bytes.shard),
        from: voter(bytes.from_replica, bytes.from_node)?,
        to: voter(bytes.to_replica, bytes.to_node)?,
        state: match bytes.state {
            1 => MoveState::Learning,
            2 => MoveState::Replacing,
            3 => MoveState::Cancelling,
            _ => return None,
        },
    })
}

fn coordinator_replicas_of(bytes: v3::CoordinatorReplicasBytes) -> Option<CoordinatorReplicas> {
    let volume = volume_of(bytes.joining_volume);
    Some(CoordinatorReplicas {
        coordinator: CoordinatorId::new(bytes.coordinator)?,
        voter: ReplicaId::new(bytes.voter)?,
        newest: ReplicaId::new(bytes.newest)?,
        joining: match bytes.joining_state {
            0 => None,
            1 => Some(JoiningReplica { volume: volume?, cancelling: false }),
            2 => Some(JoiningReplica { volume: volume?, cancelling: true }),
            _ => return None,
        },
    })
}

pub(crate) fn volume_of(bytes: Vec<u8>) -> Option<VolumeId> {
    bytes.try_into().ok().map(VolumeId)
}

fn cluster_of(bytes: v1::ClusterBytes) -> Option<Cluster> {
    let (shards, replicas_per_shard) = (ShardCount::new(bytes.shards)?, bytes.replicas_per_shard);
    let cluster_id = ClusterId(bytes.cluster_id.try_into().ok()?);
    let in_range = (1..=REPLICAS_PER_SHARD_MAX).contains(&replicas_per_shard);
    in_range.then_some(Cluster { cluster_id, shards, replicas_per_shard })
}

fn gallery_of(bytes: v1::GalleryBytes) -> Option<GalleryRow> {
    Some(GalleryRow {
        name: GalleryId::try_from(bytes.name).ok()?,
        policy_version: PolicyVersion(bytes.policy_version),
        key_version: KeyVersion(bytes.key_version),
        created_at_ms: bytes.created_at_ms,
        digest_key: ContentDigestKey::from_secret(bytes.digest_key.try_into().ok()?),
    })
}

pub(crate) fn node_id_of(bytes: Vec<u8>) -> Option<NodeId> {
    bytes.try_into().ok().map(NodeId)
}

fn shard_of_bytes(bytes: v1::ShardBytes) -> Option<ShardPlacement> {
    let voter = |voter: v1::VoterBytes| {
        Some(Voter { replica: ReplicaId::new(voter.replica)?, node: node_id_of(voter.node_id)? })
    };
    let voters = bytes.voters.into_iter().map(voter).collect::<Option<Vec<_>>>()?;
    Some(ShardPlacement { shard: ShardId(bytes.shard), epoch: bytes.epoch, voters })
}

fn voter_to_bytes(voter: &Voter) -> v1::VoterBytes {
    v1::VoterBytes { replica: voter.replica.get(), node_id: voter.node.0.to_vec() }
}

pub(crate) fn policy_to_bytes(gallery: &GalleryId, version: PolicyVersion, policy: &Policy) -> v1::PolicyBytes {
    let request = policy.to_request();
    v1::PolicyBytes {
        gallery: gallery.as_str().to_owned(),
        version: version.0,
        modalities: request.modalities.into_iter().map(modality_to_bytes).collect(),
        miss_budget_ppb: request.miss_budget_ppb,
        comparable_share_min_ppm: request.comparable_share_min_ppm,
        candidates_max: request.candidates_max,
        purposes: request.purposes,
        identification_allowed: request.identification_allowed,
        retention_days: request.retention_days,
    }
}

fn modality_to_bytes(request: ModalityPolicyRequest) -> v1::ModalityBytes {
    let (embedding_dimension, binary_code) = match request.spec {
        Some(TemplateSpec::Embedding { dimension }) => (Some(dimension), None),
        Some(TemplateSpec::BinaryCode(BinaryCodeSpec {
            rows,
            columns,
            bits_per_cell,
            shifts_max,
            common_bits_min,
        })) => (None, Some(v1::BinaryCodeBytes { rows, columns, bits_per_cell, shifts_max, common_bits_min })),
        None => (None, None),
    };
    let (modality, review_threshold_micros) = (request.modality, request.review_threshold_micros);
    v1::ModalityBytes { modality, embedding_dimension, binary_code, review_threshold_micros }
}

/// The gallery and policy of a message. Recorded policies pass the same validation as requests: its limits may be widened in
/// later versions, never narrowed.
pub(crate) fn policy_of(bytes: v1::PolicyBytes, engine: String) -> Option<(GalleryId, VersionedPolicy)> {
    let request = PolicyRequest {
        modalities: bytes.modalities.into_iter().map(modality_of_bytes).collect(),
        miss_budget_ppb: bytes.miss_budget_ppb,
        comparable_share_min_ppm: bytes.comparable_share_min_ppm,
        candidates_max: bytes.candidates_max,
        purposes: bytes.purposes,
        identification_allowed: bytes.identification_allowed,
        retention_days: bytes.retention_days,
        engine,
    };
    let gallery = GalleryId::try_from(bytes.gallery).ok()?;
    let policy = request.validate().ok()?;
    Some((gallery, VersionedPolicy { version: PolicyVersion(bytes.version), policy }))
}

fn modality_of_bytes(bytes: v1::ModalityBytes) -> ModalityPolicyRequest {
    let spec = match (bytes.embedding_dimension, bytes.binary_code) {
        (Some(dimension), None) => Some(TemplateSpec::Embedding { dimension }),
        (None, Some(code)) => {
            let v1::BinaryCodeBytes { rows, columns, bits_per_cell, shifts_max, common_bits_min } = code;
            Some(TemplateSpec::BinaryCode(BinaryCodeSpec { rows, columns, bits_per_cell, shifts_max, common_bits_min }))
        }
        (Some(_), Some(_)) | (None, None) => None,
    };
    let (modality, review_threshold_micros) = (bytes.modality, bytes.review_threshold_micros);
    ModalityPolicyRequest { modality, spec, review_threshold_micros }
}
