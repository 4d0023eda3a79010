//! What one replica, its rows or its disk can do wrong, and whom it must not take with it.

use std::sync::Arc;
use std::time::Duration;

use crate::child::{self, FOLDER, child, run};
use crate::counter::{Counter, Folders, Node, POISON, add_group, count_of, open_database, replica, start_all};
use bytes::Bytes;
use semel_raft::{BarrierError, LogIndex, ProposeError, Store, Table, WriteBatch, rows};
use semel_raft_host::{
    AddGroupError, Database, Discard, Durability, GroupStatus, GroupStore, HostHandle, LoopbackTransport, Publisher,
};

pub(crate) fn stopped(status: &GroupStatus) -> Option<&str> {
    match status {
        GroupStatus::Running(_) | GroupStatus::Installing => None,
        GroupStatus::Stopped { reason } => Some(reason),
    }
}

/// The group is stopped for good and says why; group 2 carries on.
async fn check_stopped_alone(node: &Node, reason: &str) {
    let status = node.wait(1, |status| stopped(status).is_some()).await;
    assert!(stopped(&status).expect("waited for").contains(reason), "{status:?}");
    assert_eq!(node.handle.propose(1, Bytes::from_static(b"key")).await, Err(ProposeError::Stopped));
    assert_eq!(node.handle.barrier(1).await, Err(BarrierError::Stopped));
    let (_, count) = node.propose(2, b"key").await;
    assert!(node.read(2, b"key").await >= count);
    assert_eq!(node.handle.metrics().replicas_failed.get(), 1);
}

#[tokio::test]
async fn a_panic_stops_its_group_alone_and_frees_its_waiters() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 1, &[1, 2]).await;
    nodes[0].leads(1).await;
    assert_eq!(nodes[0].handle.propose(1, Bytes::from_static(POISON)).await, Err(ProposeError::Unknown));
    check_stopped_alone(&nodes[0], "poisoned").await;
}

#[tokio::test]
async fn a_panicking_view_stops_its_group_alone() {
    struct Panicking;
    impl Publisher<Counter> for Panicking {
        fn publish(&mut self, _applied: LogIndex, _publications: Vec<(LogIndex, Vec<Bytes>)>) {
            panic!("view broken");
        }
    }
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 1, &[2]).await;
    add_group(&nodes[0].handle, 1, 0, 1, Box::new(Panicking)).await.expect("the group can be opened");
    check_stopped_alone(&nodes[0], "view broken").await;
}

fn damage_entry(store: &GroupStore, index: LogIndex) {
    let mut batch = WriteBatch::default();
    batch.put(Table::LOG, rows::entry_key(index), b"\x01damaged".to_vec());
    store.write(&batch, Durability::Synced).expect("writable");
}

#[tokio::test]
async fn a_damaged_end_of_the_log_refuses_its_group_alone() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 1, &[1, 2]).await;
    let (last, _) = nodes[0].propose(1, b"key").await;
    drop(nodes);
    damage_entry(&open_database(&folders.of(0)).group(1), last);
    let (nodes, _network) = start_all(folders.root.path(), 1, &[2]).await;
    let error = add_group(&nodes[0].handle, 1, 0, 1, Box::new(Discard)).await.expect_err("damaged");
    assert!(matches!(error, AddGroupError::Open { group: 1, .. }), "{error}");
    assert!(error.to_string().contains("raft_log"), "{error}");
    nodes[0].propose(2, b"key").await;
}

#[tokio::test]
async fn a_damaged_entry_stops_the_replica_that_has_to_send_it_and_the_others_carry_on() {
    let folders = Folders::new();
    let network = LoopbackTransport::new();
    let mut nodes = Vec::new();
    for node in 0..2 {
        nodes.push(Node::start(&folders.of(node), node, 3, &[1, 2], &network).await);
    }
    let mut damaged = LogIndex(0);
    for round in 0..10_usize {
        let (index, _) = nodes[0].propose(1, format!("key-{round}").as_bytes()).await;
        if round == 4 {
            damaged = index;
        }
    }
    let end = nodes[0].barrier(1).await;
    nodes[1].applied(1, end).await;
    drop(nodes);
    let mut nodes = Vec::new();
    for node in 0..2 {
        nodes.push(Node::start(&folders.of(node), node, 3, &[1, 2], &network).await);
    }
    // The third replica has never been there; the first one, once it leads, has to send it everything from its rows. Damaged only
    // now: a replica that is opened looks at some of its entries.
    damage_entry(&nodes[0].database().group(1), damaged);
    while nodes[0].leader(1).await != replica(1, 0) {
        nodes[1].handle.transfer_leadership(1, replica(1, 0)).expect("the host runs");
        nodes[1].propose(1, b"more").await;
    }
    nodes[0].leads(1).await;
    nodes.push(Node::start(&folders.of(2), 2, 3, &[1, 2], &network).await);
    check_stopped_alone(&nodes[0], "raft_log").await;
    assert!(nodes[2].read(1, b"key-9").await >= 1, "the other two elect a leader and catch up");
}

/// Tells the parent that a key was acknowledged; past the test harness, which holds back what tests print.
pub(crate) fn report_acknowledged(key: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("acknowledged {key}\n").as_bytes()).expect("the parent reads");
}

pub(crate) fn acknowledged(line: &str) -> Option<String> {
    line.strip_prefix("acknowledged ").map(str::to_owned)
}

const GROUPS: [u64; 3] = [1, 2, 3];

fn group_of(key: &str) -> u64 {
    let digits: u64 = key.bytes().map(u64::from).sum();
    GROUPS[(digits % 3) as usize]
}

/// Proposes for ever, from every node and to every group at once, each key once.
async fn propose_for_ever(root: &std::path::Path) {
    let (nodes, _network) = start_all(root, 3, &GROUPS).await;
    let run: u64 = rand::random();
    let lanes = nodes.iter().enumerate().flat_map(|(at, node)| (0..4_u64).map(move |lane| (at, node, lane)));
    futures::future::join_all(lanes.map(|(at, node, lane)| propose_keys(node, format!("{run}-{at}-{lane}")))).await;
}

async fn propose_keys(node: &Node, prefix: String) {
    for n in 0_u64.. {
        let key = format!("{prefix}-{n}");
        let group = group_of(&key);
        if node.handle.propose(group, Bytes::from(key.clone().into_bytes())).await.is_ok() {
            report_acknowledged(&key);
        } else {
            node.leader(group).await;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill_at_any_write() {
    use std::io::{BufRead, BufReader};
    if let Some(root) = std::env::var_os(FOLDER) {
        return propose_for_ever(root.as_ref()).await;
    }
    let folders = Folders::new();
    let mut all = Vec::new();
    for kill_after in [1, 40, 7, 150, 90, 23] {
        let mut command =
            child("failures::what_was_acknowledged_survives_sigkill_at_any_write", folders.root.path(), "");
        let mut process = child::start(&mut command).expect("starts");
        let lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let mut seen = 0;
        // What was said before the kill and is read after it counts as well.
        for line in lines {
            let Some(key) = acknowledged(&line.expect("text")) else { continue };
            all.push(key);
            seen += 1;
            if seen == kill_after {
                process.kill().expect("it runs");
            }
        }
        assert!(seen >= kill_after, "the process ended by itself after {seen} acknowledgements");
        process.wait().expect("it was killed");
        let (nodes, _network) = start_all(folders.root.path(), 3, &GROUPS).await;
        for node in &nodes {
            for group in GROUPS {
                let index = node.barrier(group).await;
                node.applied(group, index).await;
            }
            for key in &all {
                let count = count_of(&node.database().group(group_of(key)), key.as_bytes());
                assert_eq!(count, 1, "{key} after the kill at {seen}");
            }
        }
    }
}

/// Proposes until the disk takes no more, and checks what callers are told then.
async fn propose_until_the_disk_is_full(root: &std::path::Path) {
    let (nodes, _network) = start_all(root, 1, &[1, 2]).await;
    let node = &nodes[0];
    node.leads(1).await;
    node.leads(2).await;
    let mut n = 0;
    let failed = loop {
        let key = format!("{n}-{}", "x".repeat(16_000));
        match node.handle.propose(1, Bytes::from(key.into_bytes())).await {
            Ok(_) => report_acknowledged(&n.to_string()),
            Err(error) => break error,
        }
        n += 1;
    };
    assert_eq!(failed, ProposeError::Unknown);
    for group in [1, 2] {
        let status = node.wait(group, |status| stopped(status).is_some()).await;
        assert!(stopped(&status).expect("waited for").starts_with("write rows in"), "{status:?}");
        assert_eq!(node.handle.propose(group, Bytes::from_static(b"key")).await, Err(ProposeError::Stopped));
    }
    assert!(node.database().failure().is_some());
    let error = add_group(&node.handle, 3, 0, 1, Box::new(Discard)).await.expect_err("nothing can be written");
    assert!(matches!(error, AddGroupError::Write { group: 3, .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_stops_every_replica_and_acknowledges_nothing() {
    const NAME: &str = "failures::a_full_disk_stops_every_replica_and_acknowledges_nothing";
    if let Some(root) = std::env::var_os(FOLDER) {
        return propose_until_the_disk_is_full(root.as_ref()).await;
    }
    let folders = Folders::new();
    // No file may grow beyond 4,096 blocks of 512 bytes; without the signal, the write itself fails.
    let output = run(&mut child(NAME, folders.root.path(), "trap '' XFSZ; ulimit -f 4096;"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let keys: Vec<_> = said.lines().filter_map(acknowledged).collect();
    assert!(!keys.is_empty(), "{said}");
    let (nodes, _network) = start_all(folders.root.path(), 1, &[1, 2]).await;
    for n in keys {
        let key = format!("{n}-{}", "x".repeat(16_000));
        assert_eq!(nodes[0].read(1, key.as_bytes()).await, 1, "{n}");
    }
}

/// Answers whether the folder is refused as in use.
fn try_to_open(folder: &std::path::Path) {
    let error = child::open(folder, &[]).expect_err("in use");
    report_acknowledged(&error.to_string());
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    const NAME: &str = "failures::a_second_process_on_the_same_folder_is_refused";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return try_to_open(folder.as_ref());
    }
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 1, &[1]).await;
    let output = run(&mut child(NAME, &folders.of(0), ""));
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find_map(acknowledged).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(error, format!("data folder {} is in use by another process", folders.of(0).display()));
    nodes[0].propose(1, b"key").await;
}

#[tokio::test]
async fn a_handle_outlives_its_host_without_keeping_its_folder() {
    let folders = Folders::new();
    let (nodes, network) = start_all(folders.root.path(), 1, &[1]).await;
    nodes[0].propose(1, b"key").await;
    let handle: HostHandle<Counter> = nodes[0].handle.clone();
    drop(nodes);
    let database: Arc<Database> = open_database(&folders.of(0));
    assert_eq!(handle.barrier(1).await, Err(BarrierError::Stopped));
    assert!(database.group(1).get(Table::RAFT, rows::APPLIED).expect("readable").is_some());
    drop(network);
}

#[tokio::test]
async fn a_leader_whose_disk_hangs_is_replaced_and_takes_part_again_afterwards() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 3, &[1]).await;
    let leader = nodes[0].leader(1).await;
    let hanging = (0..3).find(|node| replica(1, *node) == leader).expect("one of the three");
    let other = &nodes[(hanging + 1) % 3];
    // Many times an election timeout of this host.
    nodes[hanging].database().slow_syncs(Duration::from_secs(2));
    let (_, count) = other.propose(1, b"key").await;
    let elsewhere = |status: &GroupStatus| {
        status.running().and_then(|status| status.leader).is_some_and(|elected| elected != leader)
    };
    other.wait(1, elsewhere).await;
    let (_, more) = other.propose(1, b"key").await;
    assert!(more > count, "the others go on");
    nodes[hanging].database().slow_syncs(Duration::ZERO);
    assert!(nodes[hanging].read(1, b"key").await >= more);
}
