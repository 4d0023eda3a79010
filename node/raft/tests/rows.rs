//! The bytes of the rows, as they lie on disks in the field.

use raft::eraftpb::{Entry, EntryType};
use semel_raft::{LogIndex, ReplicaId, Write, bootstrap, rows};

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
    assert_eq!(rows::decode_entry_key(&row("entry_key")).expect("a key"), LogIndex(300));
}

#[test]
fn rows_are_written_in_version_1() {
    let data = b"command".to_vec();
    let entry = Entry { index: 300, term: 7, data, context: vec![1, 2, 3], ..Entry::default() };
    assert_eq!(rows::encode_entry(&entry), row("entry"));
    assert_eq!(rows::entry_key(LogIndex(300)), row("entry_key"));
    let voters = [33, 11, 22].map(|id| ReplicaId::new(id).expect("not zero"));
    let writes = bootstrap(&voters).writes;
    assert!(
        matches!(&writes[..], [Write::Put { key, value, .. }] if key == rows::CONF_STATE && *value == row("conf_state"))
    );
}

#[test]
fn a_damaged_row_is_refused() {
    for (name, read) in [("hard_state", 0), ("conf_state", 1), ("applied", 2), ("entry", 3)] {
        let whole = row(name);
        let refused = |bytes: &[u8]| match read {
            0 => rows::decode_hard_state(bytes).is_err(),
            1 => rows::decode_conf_state(bytes).is_err(),
            2 => rows::decode_applied(bytes).is_err(),
            _ => rows::decode_entry(LogIndex(300), bytes).is_err(),
        };
        assert!(!refused(&whole));
        assert!(refused(&whole[..whole.len() - 1]), "{name} cut short");
        assert!(refused(&[]), "{name} empty");
        assert!(refused(&[&[2], &whole[1..]].concat()), "{name} of a later version");
    }
    assert!(rows::decode_entry(LogIndex(301), &row("entry")).is_err(), "another entry's row");
}
