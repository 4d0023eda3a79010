//! The replicated machine: applies one command to the rows, all of it or nothing.
//!
//! What each command does lives in `policy_versions`, `nodes`, `moves` and `replacements`; what the rows are in `row`.

use bytes::Bytes;
use semel_index::{PolicyVersion, ShardId};
use semel_raft::{Applied, LogIndex, State, StateMachine, Store, StoreError, Table};

use crate::metadata::command::MetadataCommand;
use crate::metadata::row::{self, MetadataRow};
use crate::metadata::{Cluster, Coordinator, CoordinatorId, CoordinatorReplicas, GalleryRecord, NodeId, ReplicaMove};

/// The table of the metadata group.
pub const METADATA: Table = Table("metadata");

const ROWS_PER_SCAN: usize = 256;

/// The machine. All of its state is in its rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetadataMachine;

/// What applying a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataReceipt {
    /// What is fixed of the cluster, now or before.
    Cluster(Cluster),
    /// The gallery as it now stands.
    Gallery(Box<GalleryRecord>),
    /// The move under way, begun now or before.
    Move(ReplicaMove),
    /// The replicas of a coordinator whose volume is being replaced, begun now or before.
    CoordinatorReplicas(CoordinatorReplicas),
    /// Done, now or before.
    Done,
    /// The command broke a rule and changed nothing.
    Refused(MetadataRefusal),
}

/// Why a command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetadataRefusal {
    /// It does not decode: a defect of the proposer.
    #[error("the command is malformed")]
    Malformed,
    /// The cluster is not initialised yet.
    #[error("the cluster is not initialised")]
    NotInitialised,
    /// There is a gallery of that name with another first policy.
    #[error("the name is taken by a gallery with another policy")]
    GalleryExists,
    /// There are as many galleries as a cluster holds.
    #[error("the cluster has {galleries_max} galleries already")]
    TooManyGalleries {
        /// The limit.
        galleries_max: usize,
    },
    /// There is no such gallery.
    #[error("there is no such gallery")]
    NoSuchGallery,
    /// The new policy has other modalities or template specs.
    #[error("template specs cannot change")]
    SpecsChanged,
    /// The policy in force is not the one that the caller read.
    #[error("the policy in force is version {}", current.0)]
    VersionMismatch {
        /// The version in force.
        current: PolicyVersion,
    },
    /// There are as many policy versions as a gallery holds.
    #[error("the gallery has {policy_versions_max} policy versions already")]
    TooManyPolicyVersions {
        /// The limit.
        policy_versions_max: u64,
    },
    /// There are as many nodes as a cluster holds.
    #[error("the cluster has {nodes_max} nodes already")]
    TooManyNodes {
        /// The limit.
        nodes_max: usize,
    },
    /// The node held the replicas that the shard map gives it, and its volume holds none.
    #[error("the volume of node {node_id} was emptied: it holds none of the replicas that it was given")]
    EmptiedVolume {
        /// The node that the map knows.
        node_id: NodeId,
    },
    /// No such node has joined.
    #[error("node {node_id} has not joined")]
    NoSuchNode {
        /// The node.
        node_id: NodeId,
    },
    /// Replicas of one shard must be on different nodes.
    #[error("{nodes} nodes cannot hold {replicas_per_shard} replicas of a shard")]
    TooFewNodes {
        /// The nodes there are.
        nodes: usize,
        /// The replicas that each shard has.
        replicas_per_shard: u32,
    },
    /// There are no replica ids left.
    #[error("replica ids are exhausted")]
    ReplicaIdsExhausted,
    /// There is no such shard, or it is not placed yet.
    #[error("shard {} is not placed", shard.0)]
    NotPlaced {
        /// The shard.
        shard: ShardId,
    },
    /// A move starts where a replica is.
    #[error("node {node_id} holds no replica of shard {}", shard.0)]
    NoReplicaThere {
        /// The shard.
        shard: ShardId,
        /// The node.
        node_id: NodeId,
    },
    /// Replicas of one shard must be on different nodes.
    #[error("node {node_id} holds a replica of shard {} already", shard.0)]
    ReplicaThereAlready {
        /// The shard.
        shard: ShardId,
        /// The node.
        node_id: NodeId,
    },
    /// One move of a shard at a time.
    #[error("a replica of shard {} is being moved to node {to} already", shard.0)]
    MoveUnderWay {
        /// The shard.
        shard: ShardId,
        /// Where it comes to.
        to: NodeId,
    },
    /// As many moves are under way as may be.
    #[error("{moves_max} moves are under way already, and no more at once")]
    TooManyMoves {
        /// The limit.
        moves_max: usize,
    },
    /// There is no such move.
    #[error("no replica of shard {} is being moved", shard.0)]
    NoSuchMove {
        /// The shard.
        shard: ShardId,
    },
    /// The move was given up.
    #[error("the move of shard {} was given up", shard.0)]
    MoveGivenUp {
        /// The shard.
        shard: ShardId,
    },
    /// Shards count on replicas of the node.
    #[error("node {node_id} holds replicas of {replicas} shards")]
    NodeInUse {
        /// The node.
        node_id: NodeId,
        /// In how many shards.
        replicas: usize,
    },
    /// No coordinator of that number has been heard of.
    #[error("there is no coordinator {coordinator}")]
    NoSuchCoordinator {
        /// The number.
        coordinator: CoordinatorId,
    },
    /// One volume of a coordinator at a time.
    #[error("the volume of coordinator {coordinator} is being replaced already")]
    ReplacementUnderWay {
        /// Whose volume.
        coordinator: CoordinatorId,
    },
}

/// A row that was set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataChanged {
    /// It is now this.
    Set(MetadataRow),
    /// The node is no longer known.
    NodeRemoved(NodeId),
    /// The shard's move is over.
    MoveEnded(ShardId),
}

/// A command either gives a receipt, or a refusal, or meets storage that it cannot read.
pub(crate) type CommandResult = Result<Result<MetadataReceipt, MetadataRefusal>, StoreError>;

/// The rows under one command, with what it changes.
pub(crate) struct Transaction<'a> {
    state: &'a mut dyn State,
    changes: Vec<MetadataChanged>,
}

impl StateMachine for MetadataMachine {
    type Receipt = MetadataReceipt;
    type Publication = MetadataChanged;

    const TABLES: &'static [Table] = &[METADATA];

    fn apply(
        &mut self,
        _index: LogIndex,
        command: &[u8],
        state: &mut dyn State,
    ) -> Result<Applied<MetadataReceipt, MetadataChanged>, StoreError> {
        let mut transaction = Transaction { state, changes: Vec::new() };
        let receipt = match MetadataCommand::decode(command) {
            Ok(command) => transaction.apply(command)?.unwrap_or_else(MetadataReceipt::Refused),
            Err(_) => MetadataReceipt::Refused(MetadataRefusal::Malformed),
        };
        let refused = matches!(receipt, MetadataReceipt::Refused(_));
        assert!(!refused || transaction.changes.is_empty(), "a refused command changes nothing");
        Ok(Applied { receipt, publications: transaction.changes })
    }

    fn restore(&mut self, _applied: LogIndex, _store: &dyn Store) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Transaction<'_> {
    fn apply(&mut self, command: MetadataCommand) -> CommandResult {
        match command {
            MetadataCommand::Initialise(cluster) => self.initialise(cluster),
            MetadataCommand::RegisterCoordinator(coordinator) => self.register_coordinator(coordinator),
            MetadataCommand::CreateGallery { name, policy, key, key_checksum, created_at_ms } => {
                self.create_gallery(name, policy, key, key_checksum, created_at_ms)
            }
            MetadataCommand::UpdatePolicy { name, policy, expected } => self.update_policy(&name, policy, expected),
            MetadataCommand::JoinNode { node_id, address, version, replicas_held } => {
                self.join_node(node_id, address, version, replicas_held)
            }
            MetadataCommand::ConfirmReplicas { node_id } => self.confirm_replicas(node_id),
            MetadataCommand::PlaceShards { nodes } => self.place_shards(&nodes),
            MetadataCommand::StartMove { shard, from, to } => self.start_move(shard, from, to),
            MetadataCommand::BeginReplace { shard, replica } => self.begin_replace(shard, replica),
            MetadataCommand::CancelMove { shard } => self.cancel_move(shard),
            MetadataCommand::EndMove { shard, replica, replaced } => self.end_move(shard, replica, replaced),
            MetadataCommand::RemoveNode { node_id } => self.forget_node(node_id),
            MetadataCommand::ReplaceCoordinator { coordinator, volume } => {
                self.replace_coordinator(coordinator, volume)
            }
            MetadataCommand::CancelReplacement { coordinator } => self.cancel_replacement(coordinator),
            MetadataCommand::EndReplacement { coordinator, replica, replaced } => {
                self.end_replacement(coordinator, replica, replaced)
            }
        }
    }

    fn initialise(&mut self, cluster: Cluster) -> CommandResult {
        if let Some(fixed) = self.cluster()? {
            return Ok(Ok(MetadataReceipt::Cluster(fixed)));
        }
        self.set(MetadataRow::Cluster(cluster));
        Ok(Ok(MetadataReceipt::Cluster(cluster)))
    }

    fn register_coordinator(&mut self, coordinator: Coordinator) -> CommandResult {
        let row = MetadataRow::Coordinator(coordinator);
        if self.get(&row.key())?.as_ref() != Some(&row) {
            self.set(row);
        }
        Ok(Ok(MetadataReceipt::Done))
    }

    pub(crate) fn cluster(&self) -> Result<Option<Cluster>, StoreError> {
        match self.get(&row::cluster_key())? {
            Some(MetadataRow::Cluster(cluster)) => Ok(Some(cluster)),
            Some(_) => Err(corrupt()),
            None => Ok(None),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<MetadataRow>, StoreError> {
        self.state.get(METADATA, key)?.map(|value| decode(key, &value)).transpose()
    }

    /// The rows of a range, at most `rows_max` of them.
    pub(crate) fn scan(&self, range: (Bytes, Bytes), rows_max: usize) -> Result<Vec<MetadataRow>, StoreError> {
        let rows = self.state.scan(METADATA, &range.0, &range.1, rows_max)?;
        rows.into_iter().map(|(key, value)| decode(&key, &value)).collect()
    }

    pub(crate) fn set(&mut self, row: MetadataRow) {
        self.state.put(METADATA, row.key(), row.value());
        self.changes.push(MetadataChanged::Set(row));
    }

    pub(crate) fn remove_move(&mut self, shard: ShardId) {
        self.state.delete(METADATA, row::move_key(shard));
        self.changes.push(MetadataChanged::MoveEnded(shard));
    }

    pub(crate) fn remove_node(&mut self, node_id: NodeId) {
        self.state.delete(METADATA, row::node_key(node_id));
        self.changes.push(MetadataChanged::NodeRemoved(node_id));
    }
}

/// Takes a row's key and value.
type RowReader<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>;

/// Hands every row to `each`, in order, a bounded number at a time.
pub(crate) fn for_each_row(store: &dyn Store, each: RowReader<'_>) -> Result<(), StoreError> {
    let (mut from, to) = row::all();
    loop {
        let rows = store.scan(METADATA, &from, &to, ROWS_PER_SCAN)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        // The smallest key above the last one.
        let mut next = last.to_vec();
        next.push(0);
        from = Bytes::from(next);
        for (key, value) in &rows {
            each(key, value)?;
        }
    }
}

/// BLAKE3 over every row: equal on all replicas of the group at equal applied index.
///
/// # Errors
/// If the storage cannot be read.
pub fn metadata_digest(store: &dyn Store) -> Result<[u8; 32], StoreError> {
    let mut hasher = blake3::Hasher::new();
    for_each_row(store, &mut |key, value| {
        for part in [key, value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Ok(())
    })?;
    Ok(*hasher.finalize().as_bytes())
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<MetadataRow, StoreError> {
    MetadataRow::decode(key, value).map_err(|_| corrupt())
}

pub(crate) fn corrupt() -> StoreError {
    StoreError { table: METADATA, reason: row::CorruptRow.to_string() }
}
