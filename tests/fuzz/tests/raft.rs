//! What replicas say to each other, and the rows they restart from.

use semel_fuzz::replica::Driven;
use semel_fuzz::{fuzz, parts};
use semel_raft::memory::MemoryStore;
use semel_raft::{
    Event, LogIndex, MembershipChange, ReplicaId, Role, SnapshotMetadata, Table, WriteBatch, decode_message,
    encode_message, rows,
};

#[test]
fn raft_messages() {
    fuzz!(|bytes| {
        match decode_message(bytes) {
            Ok(message) => assert_eq!(decode_message(&encode_message(&message)), Ok(message)),
            Err(error) => drop(error.to_string()),
        }
    });
}

/// What a snapshot says of itself.
#[test]
fn raft_snapshots() {
    fuzz!(|bytes| {
        match SnapshotMetadata::decode(bytes) {
            Ok(snapshot) => {
                assert_eq!(SnapshotMetadata::decode(&snapshot.encode()), Ok(snapshot.clone()));
                Driven::joiner().installed(&snapshot).event(Event::Tick);
            }
            Err(error) => drop(error.to_string()),
        }
    });
}

/// A replica in a role that the first byte names, and what happens to it: messages and snapshots of any bytes, ticks, callers.
#[test]
fn raft_steps() {
    fuzz!(
        |bytes| {
            let Some((role, bytes)) = bytes.split_first() else { return };
            let mut replica = in_role(*role);
            for part in parts(bytes) {
                match part {
                    [] => drop(replica.event(Event::Tick)),
                    [byte] => happens(&mut replica, *byte),
                    bytes => {
                        if let Ok(message) = decode_message(bytes) {
                            replica.receive(message);
                        } else if let Ok(snapshot) = SnapshotMetadata::decode(bytes) {
                            replica = replica.installed(&snapshot);
                        }
                    }
                }
            }
            replica.reopened();
        },
        inputs = 10_000
    );
}

fn in_role(byte: u8) -> Driven {
    match byte % 7 {
        0 => Driven::fresh(1),
        1 => Driven::follower(),
        2 => Driven::campaigner(Role::PreCandidate),
        3 => Driven::campaigner(Role::Candidate),
        4 => Driven::leader(),
        5 => Driven::joiner(),
        _ => Driven::supplier(),
    }
}

fn happens(replica: &mut Driven, byte: u8) {
    let id = |number| ReplicaId::new(number).expect("not zero");
    let other = id(2);
    match byte % 10 {
        5 => drop(replica.change(MembershipChange::AddLearner(id(4)))),
        6 => drop(replica.change(MembershipChange::RemoveLearner(id(4)))),
        7 => drop(replica.change(MembershipChange::Replace { add: id(4), remove: other })),
        8 | 9 => {
            let to = id(2 + u64::from(byte) % 3);
            drop(replica.event(Event::SnapshotSent { to, delivered: byte % 10 == 8 }));
        }
        0 => drop(replica.propose(&[byte; 3])),
        1 => drop(replica.ask()),
        3 => drop(replica.event(Event::TransferLeadership(other))),
        _ => (0..byte).for_each(|_| drop(replica.event(Event::Tick))),
    }
}

/// The rows of the log, each as bytes of any kind.
#[test]
fn raft_rows() {
    fuzz!(|bytes| {
        let _ = rows::decode_hard_state(bytes).map_err(|error| error.to_string());
        let _ = rows::decode_conf_state(bytes).map_err(|error| error.to_string());
        let _ = rows::decode_applied(bytes).map_err(|error| error.to_string());
        let _ = rows::decode_truncated(bytes).map_err(|error| error.to_string());
        let _ = rows::decode_epoch(bytes).map_err(|error| error.to_string());
        let _ = rows::decode_entry_key(bytes).map_err(|error| error.to_string());
        if let Ok(entry) = rows::decode_entry(LogIndex(300), bytes) {
            let again = rows::decode_entry(LogIndex(300), &rows::encode_entry(&entry));
            assert_eq!(again.expect("its own row"), entry);
        }
    });
}

/// A store whose configuration, hard state, applied index and entries are bytes of any kind: a replica opens from it and runs,
/// or says what is wrong.
#[test]
fn raft_stores() {
    fuzz!(
        |bytes| {
            let parts = parts(bytes);
            let [conf_state, hard_state, applied, entries @ ..] = parts.as_slice() else { return };
            let mut batch = WriteBatch::default();
            for (key, value) in
                [(rows::CONF_STATE, conf_state), (rows::HARD_STATE, hard_state), (rows::APPLIED, applied)]
            {
                if !value.is_empty() {
                    batch.put(Table::RAFT, key, value.to_vec());
                }
            }
            for (index, entry) in (1..).map(LogIndex).zip(entries) {
                batch.put(Table::LOG, rows::entry_key(index), entry.to_vec());
            }
            let store = MemoryStore::new();
            store.write(&batch);
            match Driven::open(1, store) {
                Ok(mut replica) => (0..50).for_each(|_| drop(replica.event(Event::Tick))),
                Err(error) => drop(error.to_string()),
            }
        },
        inputs = 10_000
    );
}

/// The same for a log that was cut short: its entries are those after the row that says where it starts.
#[test]
fn raft_cut_stores() {
    fuzz!(
        |bytes| {
            let parts = parts(bytes);
            let [conf_state, hard_state, applied, truncated, epoch, entries @ ..] = parts.as_slice() else { return };
            let start = rows::decode_truncated(truncated).map_or(0, |start| start.index);
            let mut batch = WriteBatch::default();
            for (key, value) in [
                (rows::CONF_STATE, conf_state),
                (rows::HARD_STATE, hard_state),
                (rows::APPLIED, applied),
                (rows::TRUNCATED, truncated),
                (rows::EPOCH, epoch),
            ] {
                batch.put(Table::RAFT, key, value.to_vec());
            }
            for (offset, entry) in (1..).zip(entries) {
                let index = LogIndex(start.saturating_add(offset));
                batch.put(Table::LOG, rows::entry_key(index), entry.to_vec());
            }
            let store = MemoryStore::new();
            store.write(&batch);
            match Driven::open(1, store) {
                Ok(mut replica) => (0..50).for_each(|_| drop(replica.event(Event::Tick))),
                Err(error) => drop(error.to_string()),
            }
        },
        inputs = 10_000
    );
}
