//! The bytes of the rows, as they lie on disks in the field.

use raft::eraftpb::{Entry, EntryType};
use semel_raft::memory::MemoryStore;
use semel_raft::{LogIndex, ReplicaId, SnapshotMetadata, Store, Table, WriteBatch, bootstrap, rows, snapshot_of};

const ROWS_V1: &str = include_str!("testdata/rows_v1.txt");

/// The bytes of one row of the file: lines of a name and a value in hexadecimal.
fn row(name: &str) -> Vec<u8> {
    let line = ROWS_V1.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = line.unwrap_or_else(|| panic!("no row {name}")).as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex"))
        .collect()
}

#[test]
fn rows_of_version_1_are_read() {
    let entry = rows::decode_entry(LogIndex(300), &row("entry")).expect("an entry");
    let context = vec![1, 2, 3];
    assert_eq!(
        (entry.index, entry.term, entry.data.as_slice(), entry.context),
        (300, 7, b"command".as_slice(), context)
    );
    assert_eq!(entry.entry_type, EntryType::EntryNormal as i32);
    let hard_state = rows::decode_hard_state(&row("hard_state")).expect("a hard state");
    assert_eq!((hard_state.term, hard_state.vote, hard_state.commit), (7, 22, 299));
    assert_eq!(rows::decode_conf_state(&row("conf_state")).expect("a configuration").voters, [11, 22, 33]);
    assert_eq!(rows::decode_applied(&row("applied")).expect("an index"), LogIndex(299));
    let truncated = rows::decode_truncated(&row("truncated")).expect("an index and a term");
    assert_eq!((truncated.index, truncated.term), (298, 7));
    assert_eq!(rows::decode_epoch(&row("epoch")).expect("an epoch"), 5);
    let snapshot = SnapshotMetadata::decode(&row("snapshot")).expect("the metadata of a snapshot");
    assert_eq!((snapshot.index(), snapshot.term(), snapshot.epoch()), (LogIndex(299), 7, 5));
    assert_eq!(snapshot.voters().iter().map(|id| id.get()).collect::<Vec<_>>(), [11, 22, 33]);
    assert_eq!(snapshot.learners().iter().map(|id| id.get()).collect::<Vec<_>>(), [44]);
    assert_eq!(rows::decode_entry_key(&row("entry_key")).expect("a key"), LogIndex(300));
}

#[test]
fn rows_are_written_in_version_1() {
    let data = b"command".to_vec();
    let entry = Entry { index: 300, term: 7, data, context: vec![1, 2, 3], ..Entry::default() };
    assert_eq!(rows::encode_entry(&entry), row("entry"));
    assert_eq!(rows::entry_key(LogIndex(300)), row("entry_key"));
    let voters = [33, 11, 22].map(|id| ReplicaId::new(id).expect("not zero"));
    let store = MemoryStore::new();
    store.write(&bootstrap(&voters));
    let written = |key: &[u8]| store.get(Table::RAFT, key).expect("memory reads").map(|row| row.to_vec());
    assert_eq!(written(rows::CONF_STATE), Some(row("conf_state")));
    assert_eq!(written(rows::TRUNCATED), Some(row("founded_truncated")));
    assert_eq!(written(rows::APPLIED), Some(row("founded_applied")));
    assert_eq!(written(rows::HARD_STATE), Some(row("founded_hard_state")));
    assert_eq!((store.rows(Table::RAFT).len(), store.rows(Table::LOG).len()), (4, 0));
}

#[test]
fn a_snapshot_is_said_in_version_1() {
    let store = MemoryStore::new();
    let mut batch = WriteBatch::default();
    for name in ["hard_state", "applied", "truncated", "epoch"] {
        batch.put(Table::RAFT, name.as_bytes(), row(name));
    }
    batch.put(Table::RAFT, rows::CONF_STATE, row("conf_state_with_learner"));
    let entry = Entry { index: 299, term: 7, ..Entry::default() };
    batch.put(Table::LOG, rows::entry_key(LogIndex(299)), rows::encode_entry(&entry));
    store.write(&batch);
    assert_eq!(snapshot_of(&store).expect("a snapshot").encode(), row("snapshot"));
}

#[test]
fn a_damaged_row_is_refused() {
    let names = ["hard_state", "conf_state", "applied", "entry", "truncated", "epoch", "snapshot"];
    for (read, name) in names.into_iter().enumerate() {
        let whole = row(name);
        let refused = |bytes: &[u8]| match read {
            0 => rows::decode_hard_state(bytes).is_err(),
            1 => rows::decode_conf_state(bytes).is_err(),
            2 => rows::decode_applied(bytes).is_err(),
            3 => rows::decode_entry(LogIndex(300), bytes).is_err(),
            4 => rows::decode_truncated(bytes).is_err(),
            5 => rows::decode_epoch(bytes).is_err(),
            _ => SnapshotMetadata::decode(bytes).is_err(),
        };
        assert!(!refused(&whole));
        assert!(refused(&whole[..whole.len() - 1]), "{name} cut short");
        assert!(refused(&[]), "{name} empty");
        assert!(refused(&[&[2], &whole[1..]].concat()), "{name} of a later version");
    }
    assert!(rows::decode_entry(LogIndex(301), &row("entry")).is_err(), "another entry's row");
}
