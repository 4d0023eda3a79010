//! Replicas that move from one node to another. What is recorded is intent, one move per shard: the group's own configuration says how
//! far it is, and whoever leads the metadata group carries it out from there.
//!
//! The new replica has an id of its own and learns first. Until it has the old one's place the move can be given up; whether it was in
//! time the group's configuration says.

use semel_index::ShardId;
use semel_raft::{ReplicaId, StoreError};

use crate::metadata::machine::{CommandResult, MetadataReceipt, MetadataRefusal, Transaction, corrupt};
use crate::metadata::row::{self, MetadataRow};
use crate::metadata::{MetadataView, NodeId, NodeRecord};
use crate::placement::{ShardPlacement, Voter};

/// The most moves under way in a cluster: each sends a whole replica.
pub const MOVES_MAX: usize = 8;

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveState {
    /// The new replica is let in and brought up to date.
    Learning,
    /// The new replica takes the old one's place.
    Replacing,
    /// The move was given up; the new replica is removed again.
    Cancelling,
}

/// The move of one shard's replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaMove {
    /// The shard.
    pub shard: ShardId,
    /// The replica that leaves, and its node.
    pub from: Voter,
    /// The replica that comes, and its node.
    pub to: Voter,
    /// How far it is.
    pub state: MoveState,
}

impl Transaction<'_> {
    pub(crate) fn start_move(&mut self, shard: ShardId, from: NodeId, to: NodeId) -> CommandResult {
        let Some(placement) = self.placement(shard)? else {
            return Ok(Err(MetadataRefusal::NotPlaced { shard }));
        };
        if let Some(under_way) = self.moving(shard)? {
            let same = (under_way.from.node, under_way.to.node) == (from, to);
            let cancelling = under_way.state == MoveState::Cancelling;
            return if same && !cancelling {
                Ok(Ok(MetadataReceipt::Move(under_way)))
            } else {
                Ok(Err(MetadataRefusal::MoveUnderWay { shard, to: under_way.to.node }))
            };
        }
        let Some(leaving) = placement.voters.iter().find(|voter| voter.node == from).copied() else {
            return Ok(Err(MetadataRefusal::NoReplicaThere { shard, node_id: from }));
        };
        if placement.voters.iter().any(|voter| voter.node == to) {
            return Ok(Err(MetadataRefusal::ReplicaThereAlready { shard, node_id: to }));
        }
        if self.node(to)?.is_none() {
            return Ok(Err(MetadataRefusal::NoSuchNode { node_id: to }));
        }
        if self.scan(row::moves(), MOVES_MAX)?.len() >= MOVES_MAX {
            return Ok(Err(MetadataRefusal::TooManyMoves { moves_max: MOVES_MAX }));
        }
        let Some(replica) = self.next_replica()? else { return Ok(Err(MetadataRefusal::ReplicaIdsExhausted)) };
        let begun = ReplicaMove { shard, from: leaving, to: Voter { replica, node: to }, state: MoveState::Learning };
        self.set(MetadataRow::Move(begun));
        Ok(Ok(MetadataReceipt::Move(begun)))
    }

    pub(crate) fn begin_replace(&mut self, shard: ShardId, replica: ReplicaId) -> CommandResult {
        match self.moving(shard)?.filter(|moving| moving.to.replica == replica) {
            Some(moving) => match moving.state {
                MoveState::Learning => self.set_state(moving, MoveState::Replacing),
                MoveState::Replacing => {}
                MoveState::Cancelling => return Ok(Err(MetadataRefusal::MoveGivenUp { shard })),
            },
            None => return Ok(Err(MetadataRefusal::NoSuchMove { shard })),
        }
        Ok(Ok(MetadataReceipt::Done))
    }

    pub(crate) fn cancel_move(&mut self, shard: ShardId) -> CommandResult {
        if let Some(moving) = self.moving(shard)? {
            match moving.state {
                MoveState::Learning | MoveState::Replacing => self.set_state(moving, MoveState::Cancelling),
                MoveState::Cancelling => {}
            }
        }
        Ok(Ok(MetadataReceipt::Done))
    }

    /// Records what became of a move. Of one that is over already nothing is known any more, so asking again does nothing.
    pub(crate) fn end_move(&mut self, shard: ShardId, replica: ReplicaId, replaced: bool) -> CommandResult {
        let Some(moving) = self.moving(shard)?.filter(|moving| moving.to.replica == replica) else {
            return Ok(Ok(MetadataReceipt::Done));
        };
        match moving.state {
            _ if replaced => self.replace(&moving)?,
            MoveState::Learning | MoveState::Replacing => {
                return Ok(Err(MetadataRefusal::MoveUnderWay { shard, to: moving.to.node }));
            }
            MoveState::Cancelling => {}
        }
        self.remove_move(shard);
        Ok(Ok(MetadataReceipt::Done))
    }

    /// Forgets a node that nothing is on. One that is not known is forgotten already.
    pub(crate) fn forget_node(&mut self, node_id: NodeId) -> CommandResult {
        if self.node(node_id)?.is_none() {
            return Ok(Ok(MetadataReceipt::Done));
        }
        let replicas = self.shards_with(node_id)?;
        if replicas > 0 {
            return Ok(Err(MetadataRefusal::NodeInUse { node_id, replicas }));
        }
        self.remove_node(node_id);
        Ok(Ok(MetadataReceipt::Done))
    }

    /// In how many shards the map or a move counts on a node.
    pub(crate) fn shards_with(&self, node_id: NodeId) -> Result<usize, StoreError> {
        let mut count = self.replicas_on(node_id)?;
        for row in self.scan(row::moves(), MOVES_MAX)? {
            let MetadataRow::Move(moving) = row else { return Err(corrupt()) };
            count += usize::from(moving.to.node == node_id);
        }
        Ok(count)
    }

    fn replace(&mut self, moving: &ReplicaMove) -> Result<(), StoreError> {
        let Some(mut placement) = self.placement(moving.shard)? else { return Err(corrupt()) };
        let Some(place) = placement.voters.iter_mut().find(|voter| **voter == moving.from) else {
            return Err(corrupt());
        };
        *place = moving.to;
        placement.epoch += 1;
        self.set(MetadataRow::Shard(placement));
        // Its volume may be empty of replicas from now on without having been emptied.
        if self.replicas_on(moving.from.node)? == 0
            && let Some(node) = self.node(moving.from.node)?
            && node.replicas_confirmed
        {
            self.set(MetadataRow::Node(NodeRecord { replicas_confirmed: false, ..node }));
        }
        Ok(())
    }

    fn set_state(&mut self, moving: ReplicaMove, state: MoveState) {
        self.set(MetadataRow::Move(ReplicaMove { state, ..moving }));
    }

    fn next_replica(&mut self) -> Result<Option<ReplicaId>, StoreError> {
        let next = match self.get(&row::replica_next_key())? {
            Some(MetadataRow::ReplicaNext(next)) => next,
            Some(_) | None => return Err(corrupt()),
        };
        let (Some(replica), Some(after)) = (ReplicaId::new(next), next.checked_add(1)) else { return Ok(None) };
        self.set(MetadataRow::ReplicaNext(after));
        Ok(Some(replica))
    }

    fn placement(&self, shard: ShardId) -> Result<Option<ShardPlacement>, StoreError> {
        match self.get(&row::shard_key(shard))? {
            Some(MetadataRow::Shard(placement)) => Ok(Some(placement)),
            Some(_) => Err(corrupt()),
            None => Ok(None),
        }
    }

    fn moving(&self, shard: ShardId) -> Result<Option<ReplicaMove>, StoreError> {
        match self.get(&row::move_key(shard))? {
            Some(MetadataRow::Move(moving)) => Ok(Some(moving)),
            Some(_) => Err(corrupt()),
            None => Ok(None),
        }
    }
}

/// A move that would empty a node: the shard, and the node that can take its replica; `None` where no node can.
pub type PlannedMove = (ShardId, Option<NodeId>);

/// Which moves would empty a node, of the shards that have none under way: each replica goes to the live node with the fewest replicas
/// that holds none of the shard.
pub fn plan_drain(view: &MetadataView, drained: NodeId, live: &[NodeId]) -> Vec<PlannedMove> {
    let mut load: Vec<(usize, NodeId)> = live
        .iter()
        .filter(|node| **node != drained)
        .map(|node| {
            let coming = view.moves().filter(|moving| moving.to.node == *node).count();
            (view.shards_of(*node).count() + coming, *node)
        })
        .collect();
    let waiting = view.shards_of(drained).filter(|placement| view.move_of(placement.shard).is_none());
    let plan = waiting.map(|placement| {
        load.sort_unstable();
        let holds = |node: NodeId| placement.voters.iter().any(|voter| voter.node == node);
        let taker = load.iter_mut().find(|(_, node)| !holds(*node));
        let taker = taker.map(|(count, node)| {
            *count += 1;
            *node
        });
        (placement.shard, taker)
    });
    plan.collect()
}
