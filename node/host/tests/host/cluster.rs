//! Three hosts in one process: what callers may rely on while all of them run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::counter::{
    COUNTERS, Counter, Folders, Node, add_group, count_of, host_config, open_database, replica, start_all,
};
use bytes::Bytes;
use futures::future::join_all;
use semel_raft::{LogIndex, ProposeError, Store, Table, decode_message, rows};
use semel_raft_host::{
    AddGroupError, ClusterId, Discard, Envelope, FreshGroup, GroupConfig, GroupStatus, Host, HostConfig,
    LoopbackTransport, Publisher, Transport,
};

#[tokio::test]
async fn a_barrier_of_any_replica_covers_every_receipt_before_it() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 3, &[1, 2]).await;
    for round in 0..30_usize {
        let group = 1 + round as u64 % 2;
        let key = format!("key-{round}");
        let (index, count) = nodes[round % 3].propose(group, key.as_bytes()).await;
        let reader = &nodes[(round + 1) % 3];
        let barrier = reader.barrier(group).await;
        assert!(barrier >= index, "{barrier} does not cover {index}");
        reader.applied(group, barrier).await;
        assert!(count_of(&reader.database().group(group), key.as_bytes()) >= count);
    }
}

#[tokio::test]
async fn leadership_moves_where_it_is_asked_to() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 3, &[1]).await;
    for to in [2, 0, 1, 2] {
        // A transfer is given up where the new leader is not up to date yet, so it is asked for until it is seen.
        while nodes[to].leader(1).await != replica(1, to) {
            for node in &nodes {
                node.handle.transfer_leadership(1, replica(1, to)).expect("the host runs");
            }
            nodes[to].propose(1, b"key").await;
        }
        nodes[to].leads(1).await;
        nodes[(to + 1) % 3].propose(1, b"key").await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_all_hosts_were_dropped() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 3, &[1, 2]).await;
    let mut acknowledged = Vec::new();
    for round in 0..20_usize {
        let group = 1 + round as u64 % 2;
        let key = format!("key-{round}");
        let (_, count) = nodes[round % 3].propose(group, key.as_bytes()).await;
        acknowledged.push((group, key, count));
    }
    drop(nodes);
    let (nodes, _network) = start_all(folders.root.path(), 3, &[1, 2]).await;
    for (round, (group, key, count)) in acknowledged.iter().enumerate() {
        let read = nodes[round % 3].read(*group, key.as_bytes()).await;
        assert!(read >= *count, "{key} of group {group}");
    }
}

#[tokio::test]
async fn shutdown_frees_the_folder_and_stops_callers() {
    let folders = Folders::new();
    let (mut nodes, _network) = start_all(folders.root.path(), 1, &[1]).await;
    let Node { host, handle, .. } = nodes.remove(0);
    host.shutdown().await;
    assert_eq!(handle.propose(1, Bytes::from_static(b"key")).await, Err(ProposeError::Stopped));
    assert!(matches!(handle.statuses()[..], [(1, GroupStatus::Stopped { .. })]));
    let error = add_group(&handle, 2, 0, 1, Box::new(Discard)).await.expect_err("ended");
    assert!(matches!(error, AddGroupError::HostEnded), "{error}");
    open_database(&folders.of(0));
}

/// Holds up the host's thread while it publishes, so that what arrives meanwhile comes in one turn.
struct Gate {
    reached: mpsc::Sender<()>,
    open: mpsc::Receiver<()>,
    armed: Arc<AtomicBool>,
}

impl Publisher<Counter> for Gate {
    fn publish(&mut self, _applied: LogIndex, publications: Vec<(LogIndex, Vec<Bytes>)>) {
        if !publications.is_empty() && self.armed.swap(false, Ordering::SeqCst) {
            self.reached.send(()).expect("the test waits");
            self.open.recv().expect("the test opens the gate");
        }
    }
}

/// A host with single-voter groups 0..groups, whose thread waits behind a gate in group 0.
struct Gated {
    host: Host<Counter>,
    open: mpsc::Sender<()>,
    first: tokio::task::JoinHandle<Result<(LogIndex, u64), ProposeError>>,
}

async fn gated(folders: &Folders, config: HostConfig, groups: u64) -> Gated {
    let database = open_database(&folders.of(0));
    let host = Host::start(config, database, Arc::new(LoopbackTransport::new())).expect("a thread can be started");
    let (handle, armed) = (host.handle(), Arc::new(AtomicBool::new(false)));
    let ((reached, at_gate), (open, opened)) = (mpsc::channel(), mpsc::channel());
    let gate = Gate { reached, open: opened, armed: armed.clone() };
    add_group(&handle, 0, 0, 1, Box::new(gate)).await.expect("the group can be opened");
    for group in 1..groups {
        add_group(&handle, group, 0, 1, Box::new(Discard)).await.expect("the group can be opened");
    }
    for group in 0..groups {
        let mut status = handle.status(group).expect("the group was added");
        // Also applied, so that nothing of the election is left to be written.
        let settled = |status: &GroupStatus| {
            status.running().is_some_and(|status| status.leader.is_some() && status.applied == LogIndex(2))
        };
        status.wait_for(settled).await.expect("the host runs");
    }
    armed.store(true, Ordering::SeqCst);
    let proposer = handle.clone();
    let first = tokio::spawn(async move { proposer.propose(0, Bytes::from_static(b"first")).await });
    tokio::task::spawn_blocking(move || at_gate.recv().expect("the gate is reached")).await.expect("no panic");
    Gated { host, open, first }
}

#[tokio::test]
async fn proposals_of_all_groups_share_one_synced_write() {
    let folders = Folders::new();
    let Gated { host, open, first } = gated(&folders, host_config(), 8).await;
    let handle = host.handle();
    let before = handle.metrics().syncs.get();
    let mut proposals =
        Box::pin(join_all((0..64_u64).map(|n| handle.propose(n % 8, Bytes::from(format!("key-{n}").into_bytes())))));
    // Polled once: all 64 are queued while the thread waits.
    assert!(futures::poll!(&mut proposals).is_pending());
    open.send(()).expect("the gate is there");
    for receipt in proposals.await {
        assert_eq!(receipt.expect("acknowledged").1, 1);
    }
    first.await.expect("no panic").expect("acknowledged");
    let syncs = handle.metrics().syncs.get() - before;
    assert_eq!(syncs, 1, "64 proposals over 8 groups");
    assert!(handle.metrics().entries_appended.get() >= 64);
}

#[tokio::test]
async fn requests_beyond_the_bound_are_refused_at_once() {
    let folders = Folders::new();
    let config = HostConfig { requests_queued_max: 4, request_bytes_queued_max: 1_000, ..host_config() };
    let Gated { host, open, first } = gated(&folders, config, 1).await;
    let handle = host.handle();
    let mut bytes = Box::pin(handle.propose(0, Bytes::from(vec![1; 900])));
    assert!(futures::poll!(&mut bytes).is_pending());
    let more = handle.propose(0, Bytes::from(vec![1; 101])).await;
    assert_eq!(more, Err(ProposeError::TooManyPending), "the bound in bytes");
    let mut waiting = Box::pin(join_all((0..3).map(|_| handle.propose(0, Bytes::from_static(b"key")))));
    assert!(futures::poll!(&mut waiting).is_pending());
    let more = handle.propose(0, Bytes::from_static(b"key")).await;
    assert_eq!(more, Err(ProposeError::TooManyPending), "the bound in requests");
    assert_eq!(handle.metrics().requests_refused_overload.get(), 2);
    open.send(()).expect("the gate is there");
    bytes.await.expect("acknowledged");
    assert!(waiting.await.iter().all(Result::is_ok));
    first.await.expect("no panic").expect("acknowledged");
}

#[tokio::test]
async fn publications_come_before_the_receipt() {
    #[derive(Clone, Default)]
    struct View(Arc<Mutex<Vec<(LogIndex, Bytes)>>>);
    impl Publisher<Counter> for View {
        fn publish(&mut self, applied: LogIndex, publications: Vec<(LogIndex, Vec<Bytes>)>) {
            let mut seen = self.0.lock().expect("no panic");
            for (index, keys) in publications {
                assert!(index <= applied);
                seen.extend(keys.into_iter().map(|key| (index, key)));
            }
        }
    }
    let folders = Folders::new();
    let database = open_database(&folders.of(0));
    let host = Host::start(host_config(), database, Arc::new(LoopbackTransport::new())).expect("a thread");
    let (handle, view) = (host.handle(), View::default());
    add_group(&handle, 1, 0, 1, Box::new(view.clone())).await.expect("the group can be opened");
    let mut status = handle.status(1).expect("the group was added");
    let led = |status: &GroupStatus| status.running().is_some_and(|status| status.leader.is_some());
    status.wait_for(led).await.expect("the host runs");
    for round in 0..50_u64 {
        let key = Bytes::from(round.to_be_bytes().to_vec());
        let (index, _) = handle.propose(1, key.clone()).await.expect("a group of one keeps its leader");
        assert!(view.0.lock().expect("no panic").contains(&(index, key)));
    }
}

/// Looks, before a message leaves, whether what it promises is written.
struct Witness {
    network: LoopbackTransport,
    stores: Mutex<Vec<std::sync::Weak<semel_raft_host::Database>>>,
    promises: Mutex<Promises>,
}

#[derive(Default)]
struct Promises {
    votes: usize,
    acknowledgements: usize,
    broken: Vec<String>,
}

impl Transport for Witness {
    fn send(&self, envelopes: Vec<Envelope>) {
        let stores = self.stores.lock().expect("no panic");
        let mut promises = self.promises.lock().expect("no panic");
        for envelope in &envelopes {
            let message = decode_message(&envelope.message).expect("a whole message");
            let kind = format!("{:?}", message.get_msg_type());
            let node = (envelope.from.get() - 1) % 100;
            let store = stores[node as usize].upgrade().expect("its host runs").group(envelope.group);
            if message.reject {
                continue;
            }
            let kept = match kind.as_str() {
                "MsgAppendResponse" => {
                    promises.acknowledgements += 1;
                    let key = rows::entry_key(LogIndex(message.index));
                    message.index == 0 || store.get(Table::LOG, &key).expect("readable").is_some()
                }
                "MsgRequestVoteResponse" => {
                    promises.votes += 1;
                    let row = store.get(Table::RAFT, rows::HARD_STATE).expect("readable");
                    let state = row.map(|row| rows::decode_hard_state(&row).expect("a hard state"));
                    state.is_some_and(|state| state.term == message.term && state.vote == message.to)
                }
                _ => true,
            };
            if !kept {
                promises.broken.push(format!("{kind} of {} in term {}", envelope.from, message.term));
            }
        }
        drop((stores, promises));
        self.network.send(envelopes);
    }
}

#[tokio::test]
async fn a_message_leaves_after_what_it_promises_is_written() {
    let folders = Folders::new();
    let network = LoopbackTransport::new();
    let witness = Arc::new(Witness {
        network: network.clone(),
        stores: Mutex::new((0..3).map(|_| std::sync::Weak::new()).collect()),
        promises: Mutex::default(),
    });
    let mut nodes = Vec::new();
    for node in 0..3 {
        // Groups are added once the witness can look into the rows.
        let started = Node::start_over(&folders.of(node), node, 3, &[], &network, witness.clone()).await;
        witness.stores.lock().expect("no panic")[node] = started.database.clone();
        network.connect(1, replica(1, node), started.handle.clone());
        add_group(&started.handle, 1, node, 3, Box::new(Discard)).await.expect("the group can be opened");
        nodes.push(started);
    }
    for round in 0..40_usize {
        nodes[round % 3].propose(1, b"key").await;
        if round % 10 == 9 {
            nodes.iter().for_each(|node| {
                node.handle.transfer_leadership(1, replica(1, round % 3)).expect("the host runs");
            });
        }
    }
    drop(nodes);
    let promises = witness.promises.lock().expect("no panic");
    assert!(promises.votes > 0 && promises.acknowledgements > 40, "promises were seen");
    assert!(promises.broken.is_empty(), "{:?}", promises.broken);
}

#[tokio::test]
async fn messages_that_do_not_belong_here_are_dropped_and_counted() {
    struct Tap(Mutex<Vec<Envelope>>);
    impl Transport for Tap {
        fn send(&self, envelopes: Vec<Envelope>) {
            self.0.lock().expect("no panic").extend(envelopes);
        }
    }
    let folders = Folders::new();
    let tap = Arc::new(Tap(Mutex::default()));
    let asking = Host::start(host_config(), open_database(&folders.of(0)), tap.clone()).expect("a thread");
    let status = add_group(&asking.handle(), 1, 0, 3, Box::new(Discard)).await.expect("opens");
    let mut watched = status.clone();
    // It campaigns, to nobody's answer, so its messages are there to be taken.
    while tap.0.lock().expect("no panic").is_empty() {
        watched.changed().await.expect("the host runs");
    }
    let asked = tap.0.lock().expect("no panic").iter().find(|envelope| envelope.to == replica(1, 1)).cloned();
    let good = asked.expect("it asks everyone");
    asking.shutdown().await;

    let quiet = HostConfig { tick: std::time::Duration::from_secs(3_600), ..host_config() };
    let host = Host::start(quiet, open_database(&folders.of(1)), Arc::new(LoopbackTransport::new())).expect("a thread");
    let handle = host.handle();
    add_group(&handle, 1, 1, 3, Box::new(Discard)).await.expect("opens");
    let wrong = [
        Envelope { cluster: ClusterId([8; 16]), ..good.clone() },
        Envelope { group: 2, ..good.clone() },
        Envelope { from: replica(1, 2), ..good.clone() },
        Envelope { to: replica(1, 2), ..good.clone() },
        Envelope { message: Bytes::from_static(b"\xff\xff\xff"), ..good.clone() },
    ];
    handle.receive(wrong.to_vec());
    handle.receive(vec![good]);
    let settled = || handle.metrics().messages_received.get() + handle.metrics().messages_dropped_misaddressed.get();
    while settled() < 6 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.metrics().messages_received.get(), 1);
    assert_eq!(handle.metrics().messages_dropped_misaddressed.get(), wrong.len() as u64);
}

#[tokio::test]
async fn adding_a_group_twice_changes_nothing_and_another_replica_is_refused() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 1, &[1]).await;
    let handle = &nodes[0].handle;
    nodes[0].propose(1, b"key").await;
    let both = join_all((0..2).map(|_| add_group(handle, 2, 0, 1, Box::new(Discard)))).await;
    assert!(both.iter().all(Result::is_ok));
    add_group(handle, 1, 0, 1, Box::new(Discard)).await.expect("already there");
    assert!(nodes[0].read(1, b"key").await >= 1);
    assert_eq!(nodes[0].database().groups().expect("readable"), [(1, replica(1, 0)), (2, replica(2, 0))]);

    let other = GroupConfig { group: 1, replica: replica(1, 1), fresh: FreshGroup::Refuse };
    let error = handle.add_group(other, Counter, Box::new(Discard)).await.expect_err("another replica");
    assert!(matches!(error, AddGroupError::OtherReplica { group: 1, .. }), "{error}");
}

#[tokio::test]
async fn rows_that_are_gone_are_refused_where_they_must_be_there() {
    let folders = Folders::new();
    let (nodes, _network) = start_all(folders.root.path(), 1, &[]).await;
    let gone = GroupConfig { group: 1, replica: replica(1, 0), fresh: FreshGroup::Refuse };
    let error = nodes[0].handle.add_group(gone, Counter, Box::new(Discard)).await.expect_err("no rows");
    assert!(matches!(error, AddGroupError::RowsMissing { group: 1, .. }), "{error}");
    assert!(nodes[0].database().group(1).scan(COUNTERS, b"", b"\xff", 1).expect("readable").is_empty());
    // The refusal is not for ever: the group can still be founded.
    add_group(&nodes[0].handle, 1, 0, 1, Box::new(Discard)).await.expect("founded");
    nodes[0].propose(1, b"key").await;
}

/// Showing a replica's state once marked it as having work, so that the thread of an idle host never slept.
#[tokio::test]
async fn an_idle_host_takes_no_turns() {
    let folders = Folders::new();
    let config = HostConfig { tick: Duration::from_secs(3_600), ..host_config() };
    let database = open_database(&folders.of(0));
    let host = Host::start(config, database, Arc::new(LoopbackTransport::default())).expect("a thread can be started");
    let handle = host.handle();
    add_group(&handle, 0, 0, 3, Box::new(Discard)).await.expect("the group can be opened");
    for _ in 0..10 {
        assert_eq!(handle.propose(0, Bytes::from_static(b"key")).await, Err(ProposeError::NoLeader));
    }
    let turns = handle.metrics().turns.get();
    assert!(turns <= 32, "{turns} turns for 11 requests and no tick");
}
