//! Which nodes host which shard, who leads it as far as is known, and which nodes did not answer lately.
//!
//! All of it is advice: a wrong route costs an attempt, never an answer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use semel_proto::internal::v1::{ReplicaReport, ReportRequest};
use semel_proto::v1 as public;

/// A node that failed to answer is asked last for this long.
const SUSPECT_FOR: Duration = Duration::from_secs(3);
/// A node that has not reported for this long is shown as not live.
pub(crate) const LIVE_WITHIN: Duration = Duration::from_secs(3);

/// A replica that has applied so many entries less than its group has committed is not searched while others can be: it would have to
/// catch up first. Reports are up to half a second apart, so a few do not count.
const BEHIND_MAX: u64 = 1_000;

/// One replica of a shard, as the shard map has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) replica: u64,
    pub(crate) node_id: [u8; 16],
    pub(crate) address: String,
}

/// One shard, as the shard map has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) epoch: u64,
    pub(crate) seats: Vec<Seat>,
}

/// A node's last report, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct LastReport {
    pub(crate) at: Instant,
    pub(crate) replicas: Vec<ReplicaReport>,
    pub(crate) shard_searches: u64,
    pub(crate) resident_bytes: u64,
}

/// The routes of one coordinator.
#[derive(Default)]
pub(crate) struct Routes {
    map: ArcSwap<Vec<Route>>,
    reports: Mutex<HashMap<[u8; 16], LastReport>>,
    leaders: Mutex<HashMap<u32, u64>>,
    suspects: Mutex<HashMap<String, Instant>>,
    /// Replicas that cannot answer now, by the last reports.
    unfit: ArcSwap<HashSet<u64>>,
}

impl Routes {
    /// Replaces the shard map.
    pub(crate) fn set_map(&self, map: Vec<Route>) {
        self.map.store(Arc::new(map));
    }

    /// The shard map; empty until the shards are placed.
    pub(crate) fn map(&self) -> Arc<Vec<Route>> {
        self.map.load_full()
    }

    /// Takes a node's report in.
    pub(crate) fn reported(&self, node_id: [u8; 16], report: ReportRequest) {
        let mut leaders = lock(&self.leaders);
        for replica in &report.replicas {
            if let Some(status) = &replica.status
                && status.role() == public::ReplicaRole::Leader
            {
                leaders.insert(replica.shard, status.replica);
            }
        }
        drop(leaders);
        let ReportRequest { replicas, shard_searches, resident_bytes, .. } = report;
        let last = LastReport { at: Instant::now(), replicas, shard_searches, resident_bytes };
        let mut reports = lock(&self.reports);
        reports.insert(node_id, last);
        self.unfit.store(Arc::new(unfit(&reports)));
    }

    /// The last report of every node that sent one.
    pub(crate) fn reports(&self) -> HashMap<[u8; 16], LastReport> {
        lock(&self.reports).clone()
    }

    /// Whether a node reported lately.
    pub(crate) fn is_live(&self, node_id: [u8; 16]) -> bool {
        lock(&self.reports).get(&node_id).is_some_and(|report| report.at.elapsed() < LIVE_WITHIN)
    }

    /// Notes that a node did not answer.
    pub(crate) fn suspect(&self, address: &str) {
        lock(&self.suspects).insert(address.to_owned(), Instant::now());
    }

    /// Nodes that did not answer a moment ago, or whose reports are overdue, and replicas that stopped or do not belong to their group. A node that never reported has the benefit of the doubt.
    fn silent(&self) -> Silent {
        let suspects = lock(&self.suspects)
            .iter()
            .filter(|(_, since)| since.elapsed() < SUSPECT_FOR)
            .map(|(a, _)| a.clone())
            .collect();
        let reports = lock(&self.reports);
        let overdue = reports.iter().filter(|(_, report)| report.at.elapsed() >= LIVE_WITHIN);
        let overdue = overdue.map(|(node, _)| *node).collect();
        Silent { suspects, overdue, unfit: self.unfit.load_full() }
    }

    /// The addresses of a shard's nodes, in the order in which a proposal should try them: its leader first, suspects last.
    pub(crate) fn for_proposal(&self, shard: u32) -> Vec<String> {
        let map = self.map();
        let Some(route) = map.get(shard as usize) else { return Vec::new() };
        let leader = lock(&self.leaders).get(&shard).copied();
        let silent = self.silent();
        let mut seats: Vec<&Seat> = route.seats.iter().collect();
        seats.sort_by_key(|seat| (silent.covers(seat), Some(seat.replica) != leader));
        seats.into_iter().map(|seat| seat.address.clone()).collect()
    }

    /// Shares shards out over nodes so that each node is asked once: every shard goes to one of its replicas, spread evenly,
    /// suspects avoided, and nodes that `burden` says are to be asked less gladly than others: 0 = as any other. `attempt` turns the
    /// choice, so that a retry asks somebody else. Equal arguments give equal shares while no suspicion changes, which lets probes
    /// that travel together share a request.
    pub(crate) fn for_search(
        &self,
        shards: &[u32],
        attempt: usize,
        burden: impl Fn(&str) -> usize,
    ) -> Vec<(String, Vec<u32>)> {
        let map = self.map();
        let silent = self.silent();
        let mut shares: Vec<(String, Vec<u32>)> = Vec::new();
        for &shard in shards {
            let Some(route) = map.get(shard as usize) else { continue };
            let trusted: Vec<&Seat> = route.seats.iter().filter(|seat| !silent.covers(seat)).collect();
            let seats = if trusted.is_empty() { route.seats.iter().collect() } else { trusted };
            let mut in_turn: Vec<&Seat> = seats;
            let count = in_turn.len().max(1);
            in_turn.rotate_left(shard as usize % count);
            // Stable: of equal ones first whose turn it is.
            in_turn.sort_by_key(|seat| burden(&seat.address));
            let Some(seat) = in_turn.get(attempt % count) else { continue };
            match shares.iter_mut().find(|(address, _)| *address == seat.address) {
                Some((_, shards)) => shards.push(shard),
                None => shares.push((seat.address.clone(), vec![shard])),
            }
        }
        shares
    }
}

/// Who is better not asked now.
struct Silent {
    suspects: HashSet<String>,
    overdue: HashSet<[u8; 16]>,
    unfit: Arc<HashSet<u64>>,
}

impl Silent {
    fn covers(&self, seat: &Seat) -> bool {
        self.overdue.contains(&seat.node_id)
            || self.suspects.contains(&seat.address)
            || self.unfit.contains(&seat.replica)
    }
}

/// Replicas that stopped, are not open, do not belong to their group, or are far behind.
fn unfit(reports: &HashMap<[u8; 16], LastReport>) -> HashSet<u64> {
    let replicas = || reports.values().flat_map(|report| &report.replicas);
    let mut committed: HashMap<u32, u64> = HashMap::new();
    for replica in replicas() {
        let commit = committed.entry(replica.shard).or_default();
        *commit = replica.commit_index.max(*commit);
    }
    let unfit = replicas().filter_map(|replica| {
        let status = replica.status.as_ref()?;
        let behind = status.searchable_index.saturating_add(BEHIND_MAX) < committed[&replica.shard];
        let unfit = match status.role() {
            public::ReplicaRole::Stopped
            | public::ReplicaRole::Installing
            | public::ReplicaRole::Outside
            | public::ReplicaRole::Unspecified => true,
            public::ReplicaRole::Follower
            | public::ReplicaRole::Leader
            | public::ReplicaRole::Candidate
            | public::ReplicaRole::Learner => behind,
        };
        unfit.then_some(status.replica)
    });
    unfit.collect()
}

/// Nothing that holds these locks panics half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(_: &str) -> usize {
        0
    }

    fn routes() -> Routes {
        let seat = |replica, node: u8| Seat { replica, node_id: [node; 16], address: format!("node{node}") };
        let routes = Routes::default();
        routes.set_map(
            (0..6)
                .map(|shard| Route { epoch: 1, seats: (0..3).map(|n| seat(shard * 3 + n + 1, n as u8)).collect() })
                .collect(),
        );
        routes
    }

    #[test]
    fn a_search_asks_each_node_once_and_each_shard_once() {
        let shares = routes().for_search(&[0, 1, 2, 3, 4, 5], 0, idle);
        let mut shards: Vec<u32> = shares.iter().flat_map(|(_, shards)| shards.clone()).collect();
        shards.sort_unstable();
        assert_eq!(shards, [0, 1, 2, 3, 4, 5]);
        assert_eq!(shares.len(), 3);
        assert!(shares.iter().all(|(_, shards)| shards.len() == 2), "{shares:?}");
    }

    #[test]
    fn a_node_that_is_behind_is_spared_until_it_has_caught_up() {
        let routes = routes();
        let behind = |address: &str| usize::from(address == "node1");
        let shares = routes.for_search(&[0, 1, 2, 3, 4, 5], 0, behind);
        assert!(shares.iter().all(|(address, _)| address != "node1"), "{shares:?}");
        assert_eq!(shares.iter().map(|(_, shards)| shards.len()).sum::<usize>(), 6);
        let retry: Vec<_> = routes.for_search(&[4], 1, behind);
        assert_ne!(retry, routes.for_search(&[4], 0, behind), "a retry asks somebody else");
        assert_eq!(routes.for_search(&[4], 0, idle)[0].0, "node1");
    }

    #[test]
    fn a_suspect_is_asked_last_and_not_searched_while_others_can() {
        let routes = routes();
        routes.suspect("node1");
        assert_eq!(routes.for_proposal(0).last().map(String::as_str), Some("node1"));
        assert!(routes.for_search(&[0, 1, 2, 3, 4, 5], 0, idle).iter().all(|(address, _)| address != "node1"));
    }

    #[test]
    fn a_stopped_replica_is_not_searched() {
        let routes = routes();
        let status =
            public::ReplicaStatus { replica: 2, role: public::ReplicaRole::Stopped.into(), ..Default::default() };
        let replica = ReplicaReport { shard: 0, status: Some(status), ..Default::default() };
        routes.reported([1; 16], ReportRequest { replicas: vec![replica], ..Default::default() });
        for attempt in 0..3 {
            assert!(routes.for_search(&[0], attempt, idle).iter().all(|(address, _)| address != "node1"));
        }
        assert_eq!(routes.for_search(&[4], 0, idle)[0].0, "node1", "its other replicas are");
    }

    #[test]
    fn a_replica_far_behind_is_not_searched_until_it_has_caught_up() {
        let routes = routes();
        let report = |node: u8, replica, searchable_index, commit_index| {
            let role = public::ReplicaRole::Follower.into();
            let status = public::ReplicaStatus { replica, role, searchable_index, ..Default::default() };
            let replica = ReplicaReport { shard: 0, status: Some(status), commit_index, ..Default::default() };
            routes.reported([node; 16], ReportRequest { replicas: vec![replica], ..Default::default() });
        };
        let asked = || -> HashSet<String> {
            (0..3).flat_map(|attempt| routes.for_search(&[0], attempt, idle)).map(|(address, _)| address).collect()
        };
        report(0, 1, 50_000, 50_000);
        // What it knows itself to be committed is as old as it is.
        report(1, 2, 3_000, 3_000);
        assert!(!asked().contains("node1"));
        report(1, 2, 49_900, 50_000);
        assert!(asked().contains("node1"));
    }

    #[test]
    fn a_leader_is_asked_first() {
        let routes = routes();
        let status =
            public::ReplicaStatus { replica: 3, role: public::ReplicaRole::Leader.into(), ..Default::default() };
        let replica = ReplicaReport { shard: 0, status: Some(status), ..Default::default() };
        routes.reported([2; 16], ReportRequest { replicas: vec![replica], ..Default::default() });
        assert_eq!(routes.for_proposal(0)[0], "node2");
    }
}
