//! Replicas that are new or too far behind for the log: they get rows instead, beside everything that goes on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use semel_raft::{LogIndex, MembershipChange, MembershipError, ReplicaId, Store, StoreError, Table};
use semel_raft_host::{
    AddGroupError, Discard, Envelope, FreshGroup, GroupConfig, GroupStatus, GroupStore, HostConfig, LoopbackTransport,
    OutgoingSnapshot, Publisher, Transport,
};

use crate::child::{self, FOLDER};
use crate::counter::{COUNTERS, Counter, Folders, Node, add_group, count_of, host_config, node_folder, replica};
use crate::failures::{acknowledged, report_acknowledged};

/// Values so large that a snapshot of a few hundred has several chunks.
const KEY_BYTES: usize = 8_000;

fn config() -> HostConfig {
    HostConfig { log_entries_max: 40, snapshot_stall: Duration::from_secs(5), ..host_config() }
}

fn key(number: usize) -> Vec<u8> {
    let mut key = format!("{number:06}-").into_bytes();
    key.resize(KEY_BYTES, b'k');
    key
}

async fn start(folders: &Folders, node: usize, groups: &[u64], network: &LoopbackTransport) -> Node {
    start_over(folders, node, groups, network, Arc::new(network.clone())).await
}

async fn start_over(
    folders: &Folders,
    node: usize,
    groups: &[u64],
    network: &LoopbackTransport,
    transport: Arc<dyn Transport>,
) -> Node {
    let started = Node::start_empty(&node_folder(folders.root.path(), node), config(), transport);
    for group in groups {
        network.connect(*group, replica(*group, node), started.handle.clone());
        add_group(&started.handle, *group, node, 3, Box::new(Discard)).await.expect("the group can be opened");
    }
    started
}

/// Every row of a group's machine.
fn rows(store: &GroupStore) -> Vec<(Bytes, Bytes)> {
    store.scan(COUNTERS, &[], &[0xff; 4], usize::MAX).expect("rows can be read")
}

/// Waits until the replica of one node has the rows of another's.
async fn alike(one: &Node, other: &Node, group: u64) {
    let index = one.barrier(group).await;
    one.applied(group, index).await;
    other.applied(group, index).await;
    assert!(rows(&one.database().group(group)) == rows(&other.database().group(group)), "group {group}");
}

fn log_entries(store: &GroupStore) -> usize {
    store.scan(Table::LOG, &[], &[0xff; 9], usize::MAX).expect("rows can be read").len()
}

#[tokio::test]
async fn a_replica_too_far_behind_for_the_log_catches_up_by_snapshot_and_other_groups_do_not_notice() {
    let (folders, network) = (Folders::new(), LoopbackTransport::new());
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(start(&folders, node, &[1, 2], &network).await);
    }
    for number in 0..10 {
        nodes[0].propose(1, &key(number)).await;
    }
    alike(&nodes[0], &nodes[2], 1).await;
    network.disconnect(1, replica(1, 2));
    for number in 5..300 {
        nodes[0].propose(1, &key(number)).await;
        nodes[2].propose(2, b"elsewhere").await;
    }
    for node in &nodes[..2] {
        node.barrier(1).await;
        assert!(log_entries(&node.database().group(1)) <= 45, "the log is cut short");
    }
    network.connect(1, replica(1, 2), nodes[2].handle.clone());
    alike(&nodes[0], &nodes[2], 1).await;
    assert!(nodes[2].handle.metrics().snapshots_installed.get() >= 1);
    assert_eq!(nodes[2].handle.metrics().replicas_failed.get(), 0);
    // It takes part as before: with another one cut off, the group needs it.
    network.disconnect(1, replica(1, 1));
    nodes[2].propose(1, &key(1)).await;
    // And after a restart it is what it became.
    let expected = rows(&nodes[2].database().group(1));
    drop(nodes.pop());
    let third = start(&folders, 2, &[1, 2], &network).await;
    assert!(rows(&third.database().group(1)) == expected);
    nodes[0].propose(1, &key(2)).await;
    alike(&nodes[0], &third, 1).await;
    let left = fs::read_dir(folders.of(2).join("incoming")).expect("it was used").count();
    assert_eq!(left, 0, "nothing of the transfer is left");
}

/// A view of counts, as an index is one.
#[derive(Clone, Default)]
struct Mirror(Arc<Mutex<BTreeMap<Bytes, u64>>>);

impl Publisher<Counter> for Mirror {
    fn restore(&mut self, _applied: LogIndex, store: &GroupStore) -> Result<(), StoreError> {
        let rows = store.scan(COUNTERS, &[], &[0xff; 4], usize::MAX)?;
        let count = |value: &Bytes| u64::from_be_bytes(value.as_ref().try_into().expect("a count has 8 bytes"));
        *self.0.lock().expect("no holder panics") =
            rows.iter().map(|(key, value)| (key.clone(), count(value))).collect();
        Ok(())
    }

    fn publish(&mut self, _applied: LogIndex, publications: Vec<(LogIndex, Vec<Bytes>)>) {
        let mut counts = self.0.lock().expect("no holder panics");
        for key in publications.into_iter().flat_map(|(_, keys)| keys) {
            *counts.entry(key).or_default() += 1;
        }
    }
}

async fn join(node: &Node, group: u64, joining: ReplicaId, view: &Mirror) {
    let config = GroupConfig { group, replica: joining, fresh: FreshGroup::Join };
    node.handle.add_group(config, Counter, Box::new(view.clone())).await.expect("the group can be opened");
}

/// Asks every node until the leader among them has made the change.
async fn change(nodes: &[&Node], group: u64, change: MembershipChange) {
    loop {
        for node in nodes {
            let status = node.handle.status(group).map(|status| status.borrow().clone());
            let epoch = status.and_then(|status| status.running().map(|status| status.epoch)).unwrap_or(0);
            match node.handle.change_membership(group, change, epoch).await {
                Ok(_) | Err(MembershipError::AlreadyMember { .. }) => return,
                Err(error) => assert!(
                    matches!(
                        error,
                        MembershipError::NotLeader { .. }
                            | MembershipError::WrongEpoch { .. }
                            | MembershipError::InProgress
                            | MembershipError::NotCaughtUp { .. }
                            | MembershipError::LeadershipMoves { .. }
                            | MembershipError::Unknown
                            // For as long as it installs a snapshot.
                            | MembershipError::Stopped
                    ),
                    "{change:?}: {error}"
                ),
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_new_replica_takes_the_place_of_another_whose_rows_go_and_which_never_comes_back() {
    let (folders, network) = (Folders::new(), LoopbackTransport::new());
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(start(&folders, node, &[1], &network).await);
    }
    for number in 0..60 {
        nodes[0].propose(1, &key(number)).await;
    }
    let fourth = Node::start_empty(&node_folder(folders.root.path(), 3), config(), Arc::new(network.clone()));
    let (leaving, joining) = (replica(1, 1), replica(1, 3));
    let view = Mirror::default();
    network.connect(1, joining, fourth.handle.clone());
    join(&fourth, 1, joining, &view).await;
    let all: Vec<&Node> = nodes.iter().chain([&fourth]).collect();
    change(&all, 1, MembershipChange::AddLearner(joining)).await;
    nodes[0].propose(1, &key(60)).await;
    change(&all, 1, MembershipChange::Replace { add: joining, remove: leaving }).await;
    fourth.propose(1, &key(61)).await;
    alike(&nodes[0], &fourth, 1).await;
    let members = fourth.wait(1, |status| {
        status.running().is_some_and(|status| status.voters_outgoing.is_empty() && status.learners.is_empty())
    });
    let members = members.await.running().expect("waited for").voters.clone();
    assert_eq!(members, [replica(1, 0), replica(1, 2), joining]);
    let counts = view.0.lock().expect("no holder panics").clone();
    assert_eq!(counts.len(), 62, "the view knows what was there before the replica was");

    nodes[1].handle.remove_group(1, leaving).await.expect("the rows can be removed");
    assert_eq!(rows(&nodes[1].database().group(1)), []);
    assert_eq!(log_entries(&nodes[1].database().group(1)), 0);
    assert_eq!(nodes[1].database().replica_of(1).expect("readable"), None);
    let back = GroupConfig { group: 1, replica: leaving, fresh: FreshGroup::Join };
    let refused = nodes[1].handle.add_group(back, Counter, Box::new(Discard)).await.expect_err("a tombstone is there");
    assert!(matches!(refused, AddGroupError::Removed { .. }), "{refused}");
    // Another replica of the group may come to the same place.
    let (again, view) = (ReplicaId::new(900).expect("not 0"), Mirror::default());
    network.connect(1, again, nodes[1].handle.clone());
    join(&nodes[1], 1, again, &view).await;
    let all: Vec<&Node> = nodes.iter().chain([&fourth]).collect();
    change(&all, 1, MembershipChange::AddLearner(again)).await;
    alike(&nodes[0], &nodes[1], 1).await;
}

/// Loses the first snapshot for a replica, and counts them.
struct Losing {
    network: LoopbackTransport,
    receiver: ReplicaId,
    sent: Arc<AtomicUsize>,
}

impl Transport for Losing {
    fn send(&self, envelopes: Vec<Envelope>) {
        self.network.send(envelopes);
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        if snapshot.to() == self.receiver && self.sent.fetch_add(1, Ordering::SeqCst) == 0 {
            // Dropped, which is how a transport says that it was not delivered.
            return;
        }
        self.network.send_snapshot(snapshot);
    }
}

#[tokio::test]
async fn a_snapshot_that_is_not_delivered_is_tried_again() {
    let (folders, network) = (Folders::new(), LoopbackTransport::new());
    let (receiver, sent) = (replica(1, 2), Arc::new(AtomicUsize::new(0)));
    let mut nodes = Vec::new();
    for node in 0..3 {
        let losing = Losing { network: network.clone(), receiver, sent: Arc::clone(&sent) };
        nodes.push(start_over(&folders, node, &[1], &network, Arc::new(losing)).await);
    }
    nodes[0].propose(1, &key(0)).await;
    network.disconnect(1, receiver);
    for number in 0..100 {
        nodes[0].propose(1, &key(number)).await;
    }
    network.connect(1, receiver, nodes[2].handle.clone());
    alike(&nodes[0], &nodes[2], 1).await;
    assert!(sent.load(Ordering::SeqCst) >= 2);
}

/// Each attempt gets an offer and one more part through. Without what earlier ones brought, none would ever be whole.
#[tokio::test]
async fn a_snapshot_whose_stream_breaks_again_and_again_goes_on_from_where_it_was() {
    let (folders, network) = (Folders::new(), LoopbackTransport::new());
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(start(&folders, node, &[1], &network).await);
    }
    nodes[0].propose(1, &key(0)).await;
    network.disconnect(1, replica(1, 2));
    // Five chunks and more.
    for number in 0..700 {
        nodes[0].propose(1, &key(number)).await;
    }
    network.break_snapshots_after(NonZero::new(2).expect("not 0"));
    network.connect(1, replica(1, 2), nodes[2].handle.clone());
    alike(&nodes[0], &nodes[2], 1).await;
    let failed: u64 = nodes.iter().map(|node| node.handle.metrics().snapshots_failed.get()).sum();
    assert!(failed >= 5, "{failed} attempts failed");
    assert_eq!(nodes[2].handle.metrics().snapshots_installed.get(), 1);
}

/// A disk that is said to be full: nothing is taken in, nothing is lost, nothing is left.
#[tokio::test]
async fn a_receiver_without_room_refuses_and_is_as_it_was() {
    let (folders, network) = (Folders::new(), LoopbackTransport::new());
    let mut nodes = Vec::new();
    for node in 0..2 {
        nodes.push(start(&folders, node, &[1], &network).await);
    }
    let full = HostConfig { disk_reserve_bytes: u64::MAX, ..config() };
    let third = Node::start_empty(&folders.of(2), full, Arc::new(network.clone()));
    network.connect(1, replica(1, 2), third.handle.clone());
    add_group(&third.handle, 1, 2, 3, Box::new(Discard)).await.expect("the group can be opened");
    nodes[0].propose(1, &key(0)).await;
    alike(&nodes[0], &third, 1).await;
    network.disconnect(1, replica(1, 2));
    for number in 0..100 {
        nodes[0].propose(1, &key(number)).await;
    }
    let before = rows(&third.database().group(1));
    network.connect(1, replica(1, 2), third.handle.clone());
    let failed = || nodes.iter().map(|node| node.handle.metrics().snapshots_failed.get()).sum::<u64>();
    while failed() == 0 {
        nodes[0].propose(1, &key(100)).await;
    }
    assert!(rows(&third.database().group(1)) == before);
    assert!(matches!(third.handle.statuses()[..], [(1, GroupStatus::Running(_))]));
    assert!(!holds_files(&folders.of(2).join("incoming")));
    drop(third);
    // With room, it catches up.
    let third = start(&folders, 2, &[1], &network).await;
    alike(&nodes[0], &third, 1).await;
}

fn holds_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// The third replica falls behind and catches up by snapshot, again and again, while keys are proposed once each.
async fn fall_behind_for_ever(root: &Path) {
    let (folders, network) = (root.to_owned(), LoopbackTransport::new());
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(start_at(&folders, node, &network).await);
    }
    let run: u64 = rand::random();
    let propose = async |number: usize| {
        let mut key = format!("{run}-{number}").into_bytes();
        let name = String::from_utf8_lossy(&key).into_owned();
        key.resize(KEY_BYTES, b' ');
        if nodes[number % 2].handle.propose(1, Bytes::from(key)).await.is_ok() {
            report_acknowledged(&name);
        } else {
            nodes[number % 2].leader(1).await;
        }
    };
    let mut number = 0;
    loop {
        network.disconnect(1, replica(1, 2));
        for _ in 0..60 {
            propose(number).await;
            number += 1;
        }
        network.connect(1, replica(1, 2), nodes[2].handle.clone());
        let installed = || nodes[2].handle.metrics().snapshots_installed.get();
        let before = installed();
        while installed() == before {
            propose(number).await;
            number += 1;
        }
    }
}

async fn start_at(root: &Path, node: usize, network: &LoopbackTransport) -> Node {
    let started = Node::start_empty(&node_folder(root, node), config(), Arc::new(network.clone()));
    network.connect(1, replica(1, node), started.handle.clone());
    add_group(&started.handle, 1, node, 3, Box::new(Discard)).await.expect("the group can be opened");
    started
}

/// A replica that is killed while its rows are exchanged is as it was or as the snapshot makes it.
#[tokio::test]
async fn a_process_killed_at_any_moment_of_a_snapshot_loses_nothing() {
    if let Some(root) = std::env::var_os(FOLDER) {
        return fall_behind_for_ever(root.as_ref()).await;
    }
    let folders = Folders::new();
    let (mut all, mut installs) = (Vec::new(), 0);
    // Sixty keys are proposed before each snapshot, and more while it is on its way.
    for kill_after in [61, 62, 63, 65, 70, 122, 124, 130, 185, 190] {
        let name = "snapshots::a_process_killed_at_any_moment_of_a_snapshot_loses_nothing";
        let mut process = child::start(&mut child::child(name, folders.root.path(), "")).expect("starts");
        let mut seen = 0;
        for line in BufReader::new(process.stderr.take().expect("piped")).lines() {
            let Some(key) = acknowledged(&line.expect("text")) else { continue };
            all.push(key);
            seen += 1;
            if seen == kill_after {
                process.kill().expect("it runs");
            }
        }
        assert!(seen >= kill_after, "the process ended by itself after {seen} acknowledgements");
        process.wait().expect("it was killed");
        let network = LoopbackTransport::new();
        let mut nodes = Vec::new();
        for node in 0..3 {
            nodes.push(start_at(folders.root.path(), node, &network).await);
        }
        alike(&nodes[0], &nodes[1], 1).await;
        alike(&nodes[0], &nodes[2], 1).await;
        installs += nodes[2].handle.metrics().snapshots_installed.get();
        let store = nodes[2].database().group(1);
        for name in &all {
            let mut key = name.clone().into_bytes();
            key.resize(KEY_BYTES, b' ');
            assert_eq!(count_of(&store, &key), 1, "{name} after the kill at {seen}");
        }
        drop(store);
        // Awaited, as a transfer that has not ended keeps the folder locked until its task has heard of the end.
        for node in nodes {
            node.host.shutdown().await;
        }
    }
    println!("snapshots after restarts: {installs}");
}
