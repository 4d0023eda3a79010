//! Nodes that join and return, and the one placement of all shards.

use semel_raft::StoreError;

use crate::metadata::machine::{CommandResult, MetadataReceipt, MetadataRefusal, Transaction, corrupt};
use crate::metadata::row::{self, MetadataRow};
use crate::metadata::{NODES_MAX, NodeId, NodeRecord};
use crate::placement::{PlacementError, place};

use semel_index::SHARDS_MAX;

const REPLICA_FIRST: u64 = 1;

impl Transaction<'_> {
    /// Lets a node in. A volume that lost its replicas and not its id is refused. One that was emptied altogether has lost its id too,
    /// and so is another node, at the address of the one it was.
    pub(crate) fn join_node(
        &mut self,
        node_id: NodeId,
        address: String,
        version: String,
        replicas_held: u32,
    ) -> CommandResult {
        if self.cluster()?.is_none() {
            return Ok(Err(MetadataRefusal::NotInitialised));
        }
        let known = self.node(node_id)?;
        // Replicas given but not confirmed may not have been created yet.
        let emptied = replicas_held == 0 && known.as_ref().is_some_and(|node| node.replicas_confirmed);
        if emptied && self.replicas_on(node_id)? > 0 {
            return Ok(Err(MetadataRefusal::EmptiedVolume { node_id }));
        }
        if let Some(refusal) = self.take_address(node_id, &address, known.is_none())? {
            return Ok(Err(refusal));
        }
        let replicas_confirmed = known.as_ref().is_some_and(|node| node.replicas_confirmed);
        let node = NodeRecord { node_id, address, version, replicas_confirmed };
        if known.as_ref() != Some(&node) {
            self.set(MetadataRow::Node(node));
        }
        Ok(Ok(MetadataReceipt::Done))
    }

    pub(crate) fn confirm_replicas(&mut self, node_id: NodeId) -> CommandResult {
        match self.node(node_id)? {
            None => return Ok(Err(MetadataRefusal::NoSuchNode { node_id })),
            Some(node) if node.replicas_confirmed => (),
            Some(node) => self.set(MetadataRow::Node(NodeRecord { replicas_confirmed: true, ..node })),
        }
        Ok(Ok(MetadataReceipt::Done))
    }

    pub(crate) fn place_shards(&mut self, nodes: &[NodeId]) -> CommandResult {
        let Some(cluster) = self.cluster()? else { return Ok(Err(MetadataRefusal::NotInitialised)) };
        if !self.scan(row::shards(), 1)?.is_empty() {
            return Ok(Ok(MetadataReceipt::Done));
        }
        for node_id in nodes {
            if self.node(*node_id)?.is_none() {
                return Ok(Err(MetadataRefusal::NoSuchNode { node_id: *node_id }));
            }
        }
        match place(nodes, cluster.shards, cluster.replicas_per_shard, REPLICA_FIRST) {
            Ok(placement) => {
                placement.shards.into_iter().map(MetadataRow::Shard).for_each(|shard| self.set(shard));
                self.set(MetadataRow::ReplicaNext(placement.replica_next));
                Ok(Ok(MetadataReceipt::Done))
            }
            Err(PlacementError::TooFewNodes { nodes, replicas_per_shard }) => {
                Ok(Err(MetadataRefusal::TooFewNodes { nodes, replicas_per_shard }))
            }
            Err(PlacementError::ReplicaIdsExhausted) => Ok(Err(MetadataRefusal::ReplicaIdsExhausted)),
        }
    }

    /// Gives an address to a node. Whoever had it before listens there no more: it is forgotten, unless shards count on it, until its
    /// replicas were moved and somebody removes it.
    fn take_address(
        &mut self,
        node_id: NodeId,
        address: &str,
        is_new: bool,
    ) -> Result<Option<MetadataRefusal>, StoreError> {
        let nodes = self.scan(row::nodes(), NODES_MAX)?;
        let mut count = nodes.len();
        let (mut forgotten, mut kept) = (Vec::new(), Vec::new());
        for row in nodes {
            let MetadataRow::Node(node) = row else { return Err(corrupt()) };
            if node.address != address || node.node_id == node_id {
                continue;
            }
            if self.shards_with(node.node_id)? > 0 {
                kept.push(NodeRecord { address: String::new(), ..node });
            } else {
                forgotten.push(node.node_id);
            }
        }
        count -= forgotten.len();
        if is_new && count >= NODES_MAX {
            return Ok(Some(MetadataRefusal::TooManyNodes { nodes_max: NODES_MAX }));
        }
        forgotten.into_iter().for_each(|node_id| self.remove_node(node_id));
        kept.into_iter().for_each(|node| self.set(MetadataRow::Node(node)));
        Ok(None)
    }

    pub(crate) fn node(&self, node_id: NodeId) -> Result<Option<NodeRecord>, StoreError> {
        match self.get(&row::node_key(node_id))? {
            Some(MetadataRow::Node(node)) => Ok(Some(node)),
            Some(_) => Err(corrupt()),
            None => Ok(None),
        }
    }

    /// How many replicas the map has on a node.
    pub(crate) fn replicas_on(&self, node_id: NodeId) -> Result<usize, StoreError> {
        let mut count = 0;
        for row in self.scan(row::shards(), SHARDS_MAX as usize)? {
            let MetadataRow::Shard(shard) = row else { return Err(corrupt()) };
            count += usize::from(shard.voters.iter().any(|voter| voter.node == node_id));
        }
        Ok(count)
    }
}
