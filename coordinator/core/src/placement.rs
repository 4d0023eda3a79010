//! The initial placement of replicas on nodes: pure, deterministic, even.
//!
//! When it is computed and how it is recorded lives in `metadata`, and so do later moves.

use semel_index::{ShardCount, ShardId};
use semel_raft::ReplicaId;

use crate::metadata::NodeId;

/// One replica of a shard and the node that hosts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voter {
    /// The replica's id, never reused.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
}

/// Where a shard's replicas are meant to be: intent. The group's own configuration is the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlacement {
    /// The shard.
    pub shard: ShardId,
    /// How often the shard was placed: 1 at first, one more with each replica that moved.
    pub epoch: u64,
    /// Its voters, each on another node. The first is the one that should lead.
    pub voters: Vec<Voter>,
}

/// Every shard's placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// In the order of the shards.
    pub shards: Vec<ShardPlacement>,
    /// The first replica id that is still free.
    pub replica_next: u64,
}

/// Why nothing could be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
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
}

/// Places every shard's replicas. Replicas per node differ by at most one, and so do shards to be led.
///
/// Replicas go round the nodes in the order of their ids, whatever the order given. Of a shard's nodes, the one with the
/// fewest shards to lead so far leads it. Replica ids are given out from `replica_first` on.
///
/// # Errors
/// If there are fewer distinct nodes than replicas per shard.
pub fn place(
    nodes: &[NodeId],
    shards: ShardCount,
    replicas_per_shard: u32,
    replica_first: u64,
) -> Result<Placement, PlacementError> {
    let mut nodes = nodes.to_vec();
    nodes.sort();
    nodes.dedup();
    if nodes.len() < replicas_per_shard as usize || replicas_per_shard == 0 {
        return Err(PlacementError::TooFewNodes { nodes: nodes.len(), replicas_per_shard });
    }
    let mut led = vec![0_u32; nodes.len()];
    let mut turn = (0..nodes.len()).cycle();
    let mut replica_next = replica_first;
    let mut placements = Vec::with_capacity(shards.get() as usize);
    for shard in shards.all() {
        let mut hosts: Vec<usize> = turn.by_ref().take(replicas_per_shard as usize).collect();
        let leader = hosts.iter().enumerate().min_by_key(|(_, host)| led[**host]).map_or(0, |(position, _)| position);
        hosts.rotate_left(leader);
        led[hosts[0]] += 1;
        let mut voters = Vec::with_capacity(hosts.len());
        for host in hosts {
            let replica = ReplicaId::new(replica_next).ok_or(PlacementError::ReplicaIdsExhausted)?;
            replica_next = replica_next.checked_add(1).ok_or(PlacementError::ReplicaIdsExhausted)?;
            voters.push(Voter { replica, node: nodes[host] });
        }
        placements.push(ShardPlacement { shard, epoch: 1, voters });
    }
    Ok(Placement { shards: placements, replica_next })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn nodes(count: u8) -> Vec<NodeId> {
        (0..count).map(|number| NodeId([number; 16])).collect()
    }

    fn spread(counts: &BTreeMap<NodeId, usize>, nodes: usize) -> usize {
        let min = if counts.len() < nodes { 0 } else { counts.values().copied().min().unwrap_or(0) };
        counts.values().copied().max().unwrap_or(0) - min
    }

    #[test]
    fn too_few_nodes_place_nothing() {
        let shards = ShardCount::new(8).expect("in range");
        let twice = [NodeId([1; 16]), NodeId([1; 16]), NodeId([2; 16])];
        let error = PlacementError::TooFewNodes { nodes: 2, replicas_per_shard: 3 };
        assert_eq!(place(&twice, shards, 3, 1), Err(error));
    }

    #[test]
    fn replica_ids_are_never_zero_nor_beyond_the_last() {
        let shards = ShardCount::new(1).expect("in range");
        for first in [0, u64::MAX] {
            assert_eq!(place(&nodes(3), shards, 3, first), Err(PlacementError::ReplicaIdsExhausted));
        }
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_are_spread_evenly(
            count in 1_u8..40,
            shards in 1_u32..300,
            replicas in 1_u32..=7,
            first in 1_u64..1_000,
            seed in any::<u64>(),
        ) {
            prop_assume!(u32::from(count) >= replicas);
            let shards = ShardCount::new(shards).expect("in range");
            let placement = place(&nodes(count), shards, replicas, first).expect("enough nodes");
            let mut shuffled = nodes(count);
            shuffled.rotate_left(usize::try_from(seed % u64::from(count)).expect("small"));
            prop_assert_eq!(&placement, &place(&shuffled, shards, replicas, first).expect("enough nodes"));

            let (mut hosted, mut led, mut ids) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
            for (shard, expected) in placement.shards.iter().zip(shards.all()) {
                prop_assert_eq!(shard.shard, expected);
                let distinct: BTreeSet<NodeId> = shard.voters.iter().map(|voter| voter.node).collect();
                prop_assert_eq!(distinct.len(), replicas as usize);
                for voter in &shard.voters {
                    *hosted.entry(voter.node).or_insert(0) += 1;
                    prop_assert!(ids.insert(voter.replica.get()));
                }
                *led.entry(shard.voters[0].node).or_insert(0) += 1;
            }
            prop_assert!(spread(&hosted, count.into()) <= 1, "{:?}", hosted);
            prop_assert!(spread(&led, count.into()) <= 1, "{:?}", led);
            prop_assert_eq!(ids.first().copied(), Some(first));
            prop_assert_eq!(ids.last().map(|last| last + 1), Some(placement.replica_next));
        }
    }
}
