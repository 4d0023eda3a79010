//! What is proposed to the metadata group, and its bytes. Every command is idempotent: a proposal whose outcome is unknown
//! is proposed again.

use bytes::Bytes;
use prost::Message;
use semel_index::{GalleryId, KeyVersion, PolicyVersion, ShardCount, ShardId};
use semel_raft::ReplicaId;

use crate::gallery::Policy;
use crate::metadata::row::{
    node_id_of, policy_of, policy_to_bytes, versioned, versioned_2, versioned_3, versioned_4, volume_of,
};
use crate::metadata::{
    ADDRESS_BYTES_MAX, Cluster, ClusterId, Coordinator, CoordinatorId, NODES_MAX, NodeId, REPLICAS_PER_SHARD_MAX,
    VERSION_BYTES_MAX, VolumeId,
};
use crate::rotation::GalleryKey;
use crate::v1::{self, Kind};
use crate::{v2, v3, v4};

/// The longest encoding of a command.
pub const COMMAND_BYTES_MAX: usize = 1 << 18;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataCommand {
    /// Fixes what never changes. The first one applied wins; the receipt tells what is fixed.
    Initialise(Cluster),
    /// Tells where a coordinator listens.
    RegisterCoordinator(Coordinator),
    /// Creates a gallery with policy version 1 and key version 1. The same policy again gives the gallery as it is.
    CreateGallery {
        /// Its name.
        name: GalleryId,
        /// Its first policy.
        policy: Policy,
        /// Its first key, drawn by the proposer.
        key: GalleryKey,
        /// BLAKE3 of the key's rotation matrices for the policy's specs, by [`crate::Rotations::checksum`].
        key_checksum: [u8; 32],
        /// By the proposer's clock.
        created_at_ms: i64,
    },
    /// Puts a new policy in force. The policy that is in force already gives the gallery as it is.
    UpdatePolicy {
        /// The gallery.
        name: GalleryId,
        /// The new policy; its specs equal the current ones.
        policy: Policy,
        /// The version that the caller read; `None` = whichever is current.
        expected: Option<PolicyVersion>,
    },
    /// Lets a node in, or back in after a restart.
    JoinNode {
        /// The node.
        node_id: NodeId,
        /// Where it listens.
        address: String,
        /// The version it runs.
        version: String,
        /// How many replicas its volume holds.
        replicas_held: u32,
    },
    /// Notes that a node has reported to hold replicas that it was given.
    ConfirmReplicas {
        /// The node.
        node_id: NodeId,
    },
    /// Places all shards on these nodes, if none is placed yet.
    ///
    /// A command of the leader's shell and not a consequence of a join: only the shell knows which nodes are alive and how
    /// many are still expected, and a cluster of five should not place everything on the first three.
    PlaceShards {
        /// The nodes to place on, each of which has joined.
        nodes: Vec<NodeId>,
    },
    /// Begins to move a shard's replica to another node, under a new id. The same move again gives the one under way.
    StartMove {
        /// The shard.
        shard: ShardId,
        /// The node that its replica leaves.
        from: NodeId,
        /// The node that it comes to.
        to: NodeId,
    },
    /// Notes that the new replica is about to take the old one's place.
    BeginReplace {
        /// The shard.
        shard: ShardId,
        /// The new replica.
        replica: ReplicaId,
    },
    /// Gives up a shard's move, if there is one and the new replica does not have the old one's place by then.
    CancelMove {
        /// The shard.
        shard: ShardId,
    },
    /// Notes what the group's configuration says of a move.
    EndMove {
        /// The shard.
        shard: ShardId,
        /// The new replica.
        replica: ReplicaId,
        /// Whether it has the old one's place; otherwise the move was given up, and it does not belong to the group.
        replaced: bool,
    },
    /// Forgets a node that no shard counts on.
    RemoveNode {
        /// The node.
        node_id: NodeId,
    },
    /// Begins to give an empty volume of a coordinator a replica with a new id, in the place of the one whose volume was lost. The same
    /// volume again gives the replacement under way.
    ReplaceCoordinator {
        /// The coordinator.
        coordinator: CoordinatorId,
        /// The empty volume.
        volume: VolumeId,
    },
    /// Gives up the replacement of a coordinator's volume, if one is under way and the new replica does not vote by then.
    CancelReplacement {
        /// The coordinator.
        coordinator: CoordinatorId,
    },
    /// Notes what the group's configuration says of a replacement.
    EndReplacement {
        /// The coordinator.
        coordinator: CoordinatorId,
        /// The new replica.
        replica: ReplicaId,
        /// Whether it votes in the old one's place; otherwise the replacement was given up, and it does not belong to the group.
        replaced: bool,
    },
}

/// Bytes that are no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are too many.
    #[error("a command of {bytes} bytes exceeds {COMMAND_BYTES_MAX}")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// They are of another version of the encoding.
    #[error("a command of encoding version {found}, expected 1 to 4")]
    Version {
        /// The version byte; 0 where there is none.
        found: u8,
    },
    /// They do not decode.
    #[error("a command that does not decode")]
    Malformed,
    /// They decode to a value out of its range.
    #[error("a command whose {field} is not valid")]
    Invalid {
        /// The field.
        field: &'static str,
    },
}

impl MetadataCommand {
    /// The command as bytes: version ‖ message.
    pub fn encode(&self) -> Bytes {
        if self.policy().is_some_and(|policy| policy.engine().is_some()) {
            return self.encode_4();
        }
        let kind = match self {
            Self::Initialise(cluster) => Kind::Initialise(v1::InitialiseBytes {
                cluster_id: cluster.cluster_id.0.to_vec(),
                shards: cluster.shards.get(),
                replicas_per_shard: cluster.replicas_per_shard,
            }),
            Self::RegisterCoordinator(coordinator) => Kind::RegisterCoordinator(v1::RegisterCoordinatorBytes {
                id: coordinator.id.get(),
                address: coordinator.address.clone(),
            }),
            Self::CreateGallery { name, policy, key, key_checksum, created_at_ms } => {
                Kind::CreateGallery(create_gallery_to_bytes(name, policy, key, key_checksum, *created_at_ms))
            }
            Self::UpdatePolicy { name, policy, expected } => {
                Kind::UpdatePolicy(update_policy_to_bytes(name, policy, *expected))
            }
            Self::JoinNode { node_id, address, version, replicas_held } => Kind::JoinNode(v1::JoinNodeBytes {
                node_id: node_id.0.to_vec(),
                address: address.clone(),
                version: version.clone(),
                replicas_held: *replicas_held,
            }),
            Self::ConfirmReplicas { node_id } => {
                Kind::ConfirmReplicas(v1::ConfirmReplicasBytes { node_id: node_id.0.to_vec() })
            }
            Self::PlaceShards { nodes } => Kind::PlaceShards(v1::PlaceShardsBytes {
                nodes: nodes.iter().map(|node_id| node_id.0.to_vec()).collect(),
            }),
            Self::StartMove { .. }
            | Self::BeginReplace { .. }
            | Self::CancelMove { .. }
            | Self::EndMove { .. }
            | Self::RemoveNode { .. } => return self.encode_2(),
            Self::ReplaceCoordinator { .. } | Self::CancelReplacement { .. } | Self::EndReplacement { .. } => {
                return self.encode_3();
            }
        };
        versioned(&v1::CommandBytes { kind: Some(kind) })
    }

    /// What version 1 has no word for.
    fn encode_2(&self) -> Bytes {
        let kind = match self {
            Self::StartMove { shard, from, to } => {
                v2::Kind::StartMove(v2::StartMoveBytes { shard: shard.0, from: from.0.to_vec(), to: to.0.to_vec() })
            }
            Self::BeginReplace { shard, replica } => {
                v2::Kind::BeginReplace(v2::OfMoveBytes { shard: shard.0, replica: replica.get() })
            }
            Self::CancelMove { shard } => v2::Kind::CancelMove(v2::CancelMoveBytes { shard: shard.0 }),
            Self::EndMove { shard, replica, replaced } => {
                v2::Kind::EndMove(v2::EndMoveBytes { shard: shard.0, replica: replica.get(), replaced: *replaced })
            }
            Self::RemoveNode { node_id } => v2::Kind::RemoveNode(v2::RemoveNodeBytes { node_id: node_id.0.to_vec() }),
            Self::Initialise(_)
            | Self::RegisterCoordinator(_)
            | Self::CreateGallery { .. }
            | Self::UpdatePolicy { .. }
            | Self::JoinNode { .. }
            | Self::ConfirmReplicas { .. }
            | Self::PlaceShards { .. }
            | Self::ReplaceCoordinator { .. }
            | Self::CancelReplacement { .. }
            | Self::EndReplacement { .. } => unreachable!("another version has a word for it"),
        };
        versioned_2(&v2::CommandBytes { kind: Some(kind) })
    }

    /// The policy that it brings.
    fn policy(&self) -> Option<&Policy> {
        match self {
            Self::CreateGallery { policy, .. } | Self::UpdatePolicy { policy, .. } => Some(policy),
            Self::Initialise(_)
            | Self::RegisterCoordinator(_)
            | Self::JoinNode { .. }
            | Self::ConfirmReplicas { .. }
            | Self::PlaceShards { .. }
            | Self::StartMove { .. }
            | Self::BeginReplace { .. }
            | Self::CancelMove { .. }
            | Self::EndMove { .. }
            | Self::RemoveNode { .. }
            | Self::ReplaceCoordinator { .. }
            | Self::CancelReplacement { .. }
            | Self::EndReplacement { .. } => None,
        }
    }

    /// A policy that names an engine.
    fn encode_4(&self) -> Bytes {
        let engine = self.policy().expect("it has one").to_request().engine;
        let kind = match self {
            Self::CreateGallery { name, policy, key, key_checksum, created_at_ms } => {
                let create = create_gallery_to_bytes(name, policy, key, key_checksum, *created_at_ms);
                v4::Kind::CreateGallery(v4::CreateGalleryBytes { create: Some(create), engine })
            }
            Self::UpdatePolicy { name, policy, expected } => {
                let update = update_policy_to_bytes(name, policy, *expected);
                v4::Kind::UpdatePolicy(v4::UpdatePolicyBytes { update: Some(update), engine })
            }
            Self::Initialise(_)
            | Self::RegisterCoordinator(_)
            | Self::JoinNode { .. }
            | Self::ConfirmReplicas { .. }
            | Self::PlaceShards { .. }
            | Self::StartMove { .. }
            | Self::BeginReplace { .. }
            | Self::CancelMove { .. }
            | Self::EndMove { .. }
            | Self::RemoveNode { .. }
            | Self::ReplaceCoordinator { .. }
            | Self::CancelReplacement { .. }
            | Self::EndReplacement { .. } => unreachable!("it has a policy"),
        };
        versioned_4(&v4::CommandBytes { kind: Some(kind) })
    }

    /// What version 2 has no word for either.
    fn encode_3(&self) -> Bytes {
        let kind = match self {
            Self::ReplaceCoordinator { coordinator, volume } => {
                v3::Kind::ReplaceCoordinator(v3::ReplaceCoordinatorBytes {
                    coordinator: coordinator.get(),
                    volume: volume.0.to_vec(),
                })
            }
            Self::CancelReplacement { coordinator } => {
                v3::Kind::CancelReplacement(v3::CancelReplacementBytes { coordinator: coordinator.get() })
            }
            Self::EndReplacement { coordinator, replica, replaced } => {
                v3::Kind::EndReplacement(v3::EndReplacementBytes {
                    coordinator: coordinator.get(),
                    replica: replica.get(),
                    replaced: *replaced,
                })
            }
            Self::Initialise(_)
            | Self::RegisterCoordinator(_)
            | Self::CreateGallery { .. }
            | Self::UpdatePolicy { .. }
            | Self::JoinNode { .. }
            | Self::ConfirmReplicas { .. }
            | Self::PlaceShards { .. }
            | Self::StartMove { .. }
            | Self::BeginReplace { .. }
            | Self::CancelMove { .. }
            | Self::EndMove { .. }
            | Self::RemoveNode { .. } => unreachable!("an earlier version has a word for it"),
        };
        versioned_3(&v3::CommandBytes { kind: Some(kind) })
    }

    /// The command of some bytes, valid in every field.
    ///
    /// # Errors
    /// If the bytes are too many, of another version, or no valid command.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(DecodeError::TooLong { bytes: bytes.len() });
        }
        let message = match bytes.split_first() {
            Some((&v1::VERSION, message)) => message,
            Some((&v2::VERSION, message)) => return decode_2(message),
            Some((&v3::VERSION, message)) => return decode_3(message),
            Some((&v4::VERSION, message)) => return decode_4(message),
            Some((&found, _)) => return Err(DecodeError::Version { found }),
            None => return Err(DecodeError::Version { found: 0 }),
        };
        let command = v1::CommandBytes::decode(message).map_err(|_| DecodeError::Malformed)?;
        match command.kind.ok_or(DecodeError::Malformed)? {
            Kind::Initialise(bytes) => initialise_of(bytes),
            Kind::RegisterCoordinator(bytes) => {
                let id = coordinator_of(bytes.id)?;
                Ok(Self::RegisterCoordinator(Coordinator { id, address: address_of(bytes.address)? }))
            }
            Kind::CreateGallery(bytes) => create_gallery_of(bytes, String::new()),
            Kind::UpdatePolicy(bytes) => update_policy_of(bytes, String::new()),
            Kind::JoinNode(bytes) => Ok(Self::JoinNode {
                node_id: node_id_of(bytes.node_id).ok_or(invalid("node_id"))?,
                address: address_of(bytes.address)?,
                version: Some(bytes.version)
                    .filter(|text| text.len() <= VERSION_BYTES_MAX)
                    .ok_or(invalid("version"))?,
                replicas_held: bytes.replicas_held,
            }),
            Kind::ConfirmReplicas(bytes) => {
                Ok(Self::ConfirmReplicas { node_id: node_id_of(bytes.node_id).ok_or(invalid("node_id"))? })
            }
            Kind::PlaceShards(bytes) if bytes.nodes.len() > NODES_MAX => Err(invalid("nodes")),
            Kind::PlaceShards(bytes) => {
                let nodes = bytes.nodes.into_iter().map(node_id_of).collect::<Option<Vec<_>>>();
                Ok(Self::PlaceShards { nodes: nodes.ok_or(invalid("nodes"))? })
            }
        }
    }
}

fn decode_2(message: &[u8]) -> Result<MetadataCommand, DecodeError> {
    let command = v2::CommandBytes::decode(message).map_err(|_| DecodeError::Malformed)?;
    let node = |bytes, field| node_id_of(bytes).ok_or(invalid(field));
    let replica = |id| ReplicaId::new(id).ok_or(invalid("replica"));
    Ok(match command.kind.ok_or(DecodeError::Malformed)? {
        v2::Kind::StartMove(v2::StartMoveBytes { shard, from, to }) => {
            MetadataCommand::StartMove { shard: ShardId(shard), from: node(from, "from")?, to: node(to, "to")? }
        }
        v2::Kind::BeginReplace(v2::OfMoveBytes { shard, replica: id }) => {
            MetadataCommand::BeginReplace { shard: ShardId(shard), replica: replica(id)? }
        }
        v2::Kind::CancelMove(bytes) => MetadataCommand::CancelMove { shard: ShardId(bytes.shard) },
        v2::Kind::EndMove(v2::EndMoveBytes { shard, replica: id, replaced }) => {
            MetadataCommand::EndMove { shard: ShardId(shard), replica: replica(id)?, replaced }
        }
        v2::Kind::RemoveNode(bytes) => MetadataCommand::RemoveNode { node_id: node(bytes.node_id, "node_id")? },
    })
}

fn decode_3(message: &[u8]) -> Result<MetadataCommand, DecodeError> {
    let command = v3::CommandBytes::decode(message).map_err(|_| DecodeError::Malformed)?;
    Ok(match command.kind.ok_or(DecodeError::Malformed)? {
        v3::Kind::ReplaceCoordinator(bytes) => MetadataCommand::ReplaceCoordinator {
            coordinator: coordinator_of(bytes.coordinator)?,
            volume: volume_of(bytes.volume).ok_or(invalid("volume"))?,
        },
        v3::Kind::CancelReplacement(bytes) => {
            MetadataCommand::CancelReplacement { coordinator: coordinator_of(bytes.coordinator)? }
        }
        v3::Kind::EndReplacement(bytes) => MetadataCommand::EndReplacement {
            coordinator: coordinator_of(bytes.coordinator)?,
            replica: ReplicaId::new(bytes.replica).ok_or(invalid("replica"))?,
            replaced: bytes.replaced,
        },
    })
}

fn coordinator_of(number: u64) -> Result<CoordinatorId, DecodeError> {
    CoordinatorId::new(number).ok_or(invalid("coordinator"))
}

/// The key version that a gallery is created with.
pub(crate) const KEY_VERSION_FIRST: KeyVersion = KeyVersion(1);

fn invalid(field: &'static str) -> DecodeError {
    DecodeError::Invalid { field }
}

fn address_of(address: String) -> Result<String, DecodeError> {
    if (1..=ADDRESS_BYTES_MAX).contains(&address.len()) { Ok(address) } else { Err(invalid("address")) }
}

fn initialise_of(bytes: v1::InitialiseBytes) -> Result<MetadataCommand, DecodeError> {
    let cluster_id = bytes.cluster_id.try_into().map(ClusterId).map_err(|_| invalid("cluster_id"))?;
    let shards = ShardCount::new(bytes.shards).ok_or(invalid("shards"))?;
    let replicas_per_shard = bytes.replicas_per_shard;
    if !(1..=REPLICAS_PER_SHARD_MAX).contains(&replicas_per_shard) {
        return Err(invalid("replicas_per_shard"));
    }
    Ok(MetadataCommand::Initialise(Cluster { cluster_id, shards, replicas_per_shard }))
}

fn decode_4(message: &[u8]) -> Result<MetadataCommand, DecodeError> {
    let command = v4::CommandBytes::decode(message).map_err(|_| DecodeError::Malformed)?;
    // Where none is named, the bytes are of version 1.
    let named = |engine: String| Some(engine).filter(|name| !name.is_empty()).ok_or(invalid("engine"));
    match command.kind.ok_or(DecodeError::Malformed)? {
        v4::Kind::CreateGallery(v4::CreateGalleryBytes { create, engine }) => {
            create_gallery_of(create.ok_or(DecodeError::Malformed)?, named(engine)?)
        }
        v4::Kind::UpdatePolicy(v4::UpdatePolicyBytes { update, engine }) => {
            update_policy_of(update.ok_or(DecodeError::Malformed)?, named(engine)?)
        }
    }
}

fn create_gallery_to_bytes(
    name: &GalleryId,
    policy: &Policy,
    key: &GalleryKey,
    key_checksum: &[u8; 32],
    created_at_ms: i64,
) -> v1::CreateGalleryBytes {
    v1::CreateGalleryBytes {
        policy: Some(policy_to_bytes(name, PolicyVersion(0), policy)),
        secret: key.secret().to_vec(),
        checksum: key_checksum.to_vec(),
        created_at_ms,
    }
}

fn update_policy_to_bytes(name: &GalleryId, policy: &Policy, expected: Option<PolicyVersion>) -> v1::UpdatePolicyBytes {
    let policy = policy_to_bytes(name, expected.unwrap_or(PolicyVersion(0)), policy);
    v1::UpdatePolicyBytes { policy: Some(policy) }
}

fn create_gallery_of(bytes: v1::CreateGalleryBytes, engine: String) -> Result<MetadataCommand, DecodeError> {
    let policy = bytes.policy.and_then(|policy| policy_of(policy, engine));
    let (name, policy) = policy.ok_or(invalid("policy"))?;
    let key = bytes.secret.try_into().map(GalleryKey::from_secret).map_err(|_| invalid("secret"))?;
    let key_checksum = bytes.checksum.try_into().map_err(|_| invalid("checksum"))?;
    let created_at_ms = bytes.created_at_ms;
    Ok(MetadataCommand::CreateGallery { name, policy: policy.policy, key, key_checksum, created_at_ms })
}

fn update_policy_of(bytes: v1::UpdatePolicyBytes, engine: String) -> Result<MetadataCommand, DecodeError> {
    let policy = bytes.policy.and_then(|policy| policy_of(policy, engine));
    let (name, policy) = policy.ok_or(invalid("policy"))?;
    let expected = Some(policy.version).filter(|version| *version != PolicyVersion(0));
    Ok(MetadataCommand::UpdatePolicy { name, policy: policy.policy, expected })
}
