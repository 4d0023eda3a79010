//! A replica that finds its rows wrong does not open, or stops; the others go on.

use bytes::Bytes;
use raft::eraftpb::MessageType;
use semel_raft::memory::MemoryStore;
use semel_raft::{
    BarrierError, Event, LogIndex, Message, OpenError, ProposeError, Replica, ReplicaConfig, ReplicaId, StopReason,
    Table, WriteBatch, bootstrap, rows,
};

use crate::counter::Counter;
use crate::simulation::Simulation;

fn reopen(store: &MemoryStore) -> OpenError {
    let config = ReplicaConfig::new(ReplicaId::new(11).expect("not zero"), 99, 0);
    Replica::open(config, store.clone(), Counter::default()).err().expect("a wrong store does not open")
}

/// The store of one replica of a group at rest, with some entries.
fn store() -> MemoryStore {
    let mut group = Simulation::new(21, 3);
    group.elect();
    for member in [0, 1, 2, 0, 1, 2] {
        group.propose(member);
    }
    group.check_settled();
    group.members[0].store.clone()
}

fn change(store: &MemoryStore, change: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::default();
    change(&mut batch);
    store.write(&batch);
}

#[test]
fn a_store_without_a_replica_does_not_open() {
    assert!(matches!(reopen(&MemoryStore::new()), OpenError::NotBootstrapped));
}

#[test]
fn wrong_rows_are_named_when_the_replica_opens() {
    let check = |wrong: &dyn Fn(&mut WriteBatch), table: Table, reason: &str| {
        let store = store();
        change(&store, |batch| wrong(batch));
        let error = reopen(&store).to_string();
        assert!(error.contains(&format!("{table:?}")) && error.contains(reason), "{error}");
    };
    let key = |index| rows::entry_key(LogIndex(index));
    let put = |batch: &mut WriteBatch, row: &'static [u8], numbers: &[u64]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        batch.put(Table::RAFT, row, [vec![1], numbers].concat());
    };
    // A new group's log starts with its second entry.
    check(&|batch| batch.delete(Table::LOG, key(2)), Table::LOG, "entry 2 is missing");
    check(&|batch| put(batch, rows::TRUNCATED, &[2, 1]), Table::LOG, "entry 2 is there, but the log starts after 2");
    check(&|batch| batch.delete(Table::RAFT, rows::TRUNCATED), Table::LOG, "entry 1 is missing");
    check(&|batch| put(batch, rows::TRUNCATED, &[99, 1]), Table::RAFT, "the log starts after 99, but is applied up to");
    // Once taken for a log of that term, which others refuse to hear of.
    check(&|batch| put(batch, rows::TRUNCATED, &[1, 99]), Table::RAFT, "the log starts after entry 1 of term 99");
    check(&|batch| put(batch, rows::TRUNCATED, &[1, 0]), Table::RAFT, "the log starts after entry 1 of term 0");
    check(&|batch| put(batch, rows::TRUNCATED, &[1]), Table::RAFT, "start of the log of 8 bytes");
    check(&|batch| put(batch, rows::EPOCH, &[1, 2]), Table::RAFT, "epoch of 16 bytes");
    check(&|batch| batch.delete_range(Table::LOG, key(3), key(1_000)), Table::LOG, "is missing");
    check(&|batch| batch.put(Table::LOG, key(90), Bytes::new()), Table::LOG, "is missing");
    check(&|batch| batch.put(Table::RAFT, rows::HARD_STATE, vec![9]), Table::RAFT, "unknown version 9");
    check(&|batch| batch.put(Table::RAFT, rows::HARD_STATE, Bytes::new()), Table::RAFT, "without a byte");
    check(&|batch| batch.put(Table::RAFT, rows::CONF_STATE, vec![1]), Table::RAFT, "configuration with voters []");
    check(
        &|batch| batch.put(Table::RAFT, rows::APPLIED, vec![1, 0, 0, 0, 0, 0, 0, 9, 9]),
        Table::RAFT,
        "beyond commit",
    );
    check(&|batch| batch.put(Table::RAFT, rows::APPLIED, vec![1, 2]), Table::RAFT, "applied index of 1 bytes");
}

#[test]
fn the_last_entry_must_be_its_own() {
    let store = store();
    let log = store.rows(Table::LOG);
    let (key, _) = log.last().expect("entries").clone();
    let (_, other) = log[0].clone();
    change(&store, |batch| batch.put(Table::LOG, key, other));
    assert!(reopen(&store).to_string().contains("holds entry 2"));
}

#[test]
fn a_replica_that_cannot_read_its_log_stops_alone_and_answers_everyone() {
    // The leader keeps next to nothing in memory, and its disk loses an entry that a follower still needs.
    let mut group = Simulation::configured(22, 3, |config| config.entry_cache_bytes_max = 1);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    for _ in 0..20 {
        group.propose(leader);
    }
    group.run(3);
    change(&group.members[leader].store, |batch| batch.delete(Table::LOG, rows::entry_key(LogIndex(10))));
    let ticket = group.propose(leader);
    group.start(behind);
    group.run_until("the leader stops", 100, |group| group.node(leader).stopped().is_some());
    let reason = group.node(leader).stopped().expect("just seen").to_string();
    assert_eq!(reason, "read raft_log: entry 10 is missing");
    assert!(group.receipts.contains_key(&ticket), "nobody waits at a stopped replica");
    let (proposed, asked) = (group.propose(leader), group.barrier(leader));
    assert_eq!(group.receipts[&proposed], Err(ProposeError::Stopped));
    assert_eq!(group.barriers[&asked], Err(BarrierError::Stopped));
    group.run_until("the others elect a leader", 300, |group| group.leader().is_some_and(|other| other != leader));
    let other = group.leader().expect("just seen");
    let ticket = group.propose(other);
    group.run(3);
    assert!(group.receipts[&ticket].is_ok());
}

#[test]
fn a_replica_that_lost_its_disk_stops_instead_of_voting_twice() {
    let mut group = Simulation::new(23, 3);
    let leader = group.elect();
    group.propose(leader);
    group.run(10);
    let emptied = (leader + 1) % 3;
    group.kill(emptied);
    let ids: Vec<ReplicaId> = group.members.iter().map(|member| member.id).collect();
    group.members[emptied].store = MemoryStore::new();
    group.members[emptied].store.write(&bootstrap(&ids));
    group.members[emptied].store.sync();
    group.start(emptied);
    group.run_until("it learns of its loss", 40, |group| group.node(emptied).stopped().is_some());
    assert!(matches!(group.node(emptied).stopped(), Some(StopReason::LogLost { .. })));
}

/// A follower that claimed entries beyond its leader's log was once counted for whatever came there, and never sent it.
#[test]
fn an_acknowledgement_beyond_the_leaders_log_does_not_count() {
    let mut group = Simulation::new(25, 3);
    let leader = group.elect();
    group.run(10);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    others.into_iter().for_each(|other| group.kill(other));
    let before = group.node(leader).status();
    let acknowledgement = Message {
        msg_type: MessageType::MsgAppendResponse as i32,
        from: group.members[others[0]].id.get(),
        to: before.replica.get(),
        term: before.term,
        index: before.last_index.0 + 1,
        ..Message::default()
    };
    group.step(leader, Event::Receive(Box::new(acknowledgement)));
    let ticket = group.propose(leader);
    group.run(2);
    let after = group.node(leader).status();
    assert!(after.last_index > before.last_index && after.commit == before.commit, "{after:?}");
    assert!(!group.receipts.contains_key(&ticket), "nobody else has it");
}

#[test]
#[should_panic(expected = "no rows of 9 wait")]
fn a_sync_of_what_was_not_written_is_a_defect_of_the_driver() {
    let mut group = Simulation::new(24, 1);
    group.step(0, Event::Synced(9));
}
