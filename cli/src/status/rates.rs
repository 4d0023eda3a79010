//! How fast the cluster works, from what it has counted at two moments.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use semel_proto::v1::{GetClusterStatusResponse, ReplicaRole};

/// Rates are of this much time; shorter ones jump with the reports of nodes, which come twice a second.
const WINDOW: Duration = Duration::from_secs(10);
/// Looks that are remembered at most, however short the interval.
const LOOKS_MAX: usize = 128;

/// What the cluster does in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    /// Enrolments staged.
    pub(super) staged: f64,
    /// Verdicts settled.
    pub(super) settled: f64,
    /// Searches of the whole cluster, those of enrolments too.
    pub(super) searches: f64,
}

/// Counts at one moment since the watch began.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    staged: u64,
    settled: u64,
    searches: f64,
}

/// What was seen lately.
#[derive(Debug, Default)]
pub(super) struct History {
    looks: VecDeque<Look>,
    /// By node: its count when it was last seen.
    searched: BTreeMap<String, u64>,
    searches: f64,
}

impl History {
    /// Takes in what was seen at `at`, counted from any moment.
    pub(super) fn add(&mut self, at: Duration, status: &GetClusterStatusResponse) {
        self.add_searches(status);
        if !is_whole(status) {
            // Counts without some shard would fall now and jump later.
            self.looks.clear();
            return;
        }
        let staged = status.galleries.iter().map(|gallery| gallery.live + gallery.withdrawn).sum();
        let pending: u64 = status.galleries.iter().map(|gallery| gallery.pending).sum();
        self.looks.push_back(Look { at, staged, settled: staged.saturating_sub(pending), searches: self.searches });
        while self.looks.len() > LOOKS_MAX || self.looks.get(1).is_some_and(|second| at - second.at >= WINDOW) {
            self.looks.pop_front();
        }
    }

    /// A search of the cluster visits every shard once.
    fn add_searches(&mut self, status: &GetClusterStatusResponse) {
        for node in status.nodes.iter().filter(|node| node.live) {
            if let Some(before) = self.searched.insert(node.node_id.clone(), node.shard_searches) {
                // A smaller count is of a process that started again.
                let more = node.shard_searches.checked_sub(before).unwrap_or(node.shard_searches);
                self.searches += more as f64 / f64::from(status.shards_count.max(1));
            }
        }
    }

    /// The rates of the last ten seconds, or of as much as was seen; `None` until there are two looks to compare.
    pub(super) fn rates(&self) -> Option<Rates> {
        let (first, last) = (self.looks.front()?, self.looks.back()?);
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            staged: rate(first.staged, last.staged),
            settled: rate(first.settled, last.settled),
            searches: (last.searches - first.searches) / seconds,
        })
    }
}

/// Whether some replica of every shard has been heard of.
fn is_whole(status: &GetClusterStatusResponse) -> bool {
    let heard = |replica: &semel_proto::v1::ReplicaStatus| replica.role() != ReplicaRole::Unspecified;
    !status.shards.is_empty() && status.shards.iter().all(|shard| shard.replicas.iter().any(heard))
}

#[cfg(test)]
mod tests {
    use semel_proto::v1::{GalleryCounts, NodeStatus, ReplicaStatus, ShardStatus};

    use super::*;

    fn status(live: u64, pending: u64, shard_searches: [u64; 2]) -> GetClusterStatusResponse {
        let replica = ReplicaStatus { role: ReplicaRole::Leader.into(), ..Default::default() };
        let shards = vec![ShardStatus { replicas: vec![replica], ..Default::default() }; 4];
        let nodes = shard_searches.iter().enumerate().map(|(node, &shard_searches)| NodeStatus {
            node_id: node.to_string(),
            live: true,
            shard_searches,
            ..Default::default()
        });
        GetClusterStatusResponse {
            shards_count: 4,
            nodes: nodes.collect(),
            galleries: vec![GalleryCounts { live, pending, ..Default::default() }],
            shards,
            ..Default::default()
        }
    }

    fn after(looks: &[(u64, GetClusterStatusResponse)]) -> Option<Rates> {
        let mut history = History::default();
        looks.iter().for_each(|(at, status)| history.add(Duration::from_secs(*at), status));
        history.rates()
    }

    #[test]
    fn a_rate_needs_two_looks_and_is_of_the_time_between_them() {
        assert_eq!(after(&[(0, status(100, 0, [0, 0]))]), None);
        let rates = after(&[(0, status(100, 10, [40, 0])), (5, status(150, 20, [80, 60]))]);
        assert_eq!(rates, Some(Rates { staged: 10.0, settled: 8.0, searches: 5.0 }));
    }

    #[test]
    fn only_the_last_seconds_count() {
        let looks: Vec<_> =
            (0..=30).map(|at| (at, status(if at <= 20 { 0 } else { (at - 20) * 7 }, 0, [0, 0]))).collect();
        assert_eq!(after(&looks).map(|rates| rates.staged), Some(7.0));
    }

    #[test]
    fn a_node_that_started_again_counts_from_zero() {
        let rates = after(&[(0, status(0, 0, [4_000, 0])), (10, status(0, 0, [80, 0]))]);
        assert_eq!(rates.map(|rates| rates.searches), Some(2.0));
    }

    #[test]
    fn a_shard_that_was_not_heard_of_makes_no_jump() {
        let mut partial = status(3, 0, [0, 0]);
        partial.shards[0].replicas.clear();
        assert_eq!(after(&[(0, status(90, 0, [0, 0])), (1, partial), (2, status(90, 0, [0, 0]))]), None);
    }
}
