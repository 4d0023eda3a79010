//! What the metadata group's log and rows hold.

use bytes::Bytes;
use semel_fuzz::{Rows, fuzz, parts};
use semel_raft::{LogIndex, State, StateMachine};
use semel_workflow::{
    METADATA, MetadataCommand, MetadataMachine, MetadataReceipt, MetadataRow, MetadataView, metadata_digest,
};

#[test]
fn metadata_commands() {
    fuzz!(|bytes| {
        let command = match MetadataCommand::decode(bytes) {
            Ok(command) => command,
            Err(error) => return drop(error.to_string()),
        };
        assert_eq!(MetadataCommand::decode(&command.encode()).as_ref(), Ok(&command));
        let _ = format!("{command:?}");
    });
}

/// A log of any bytes: each entry is applied or refused whole, replicas agree, and every row can be read again.
#[test]
fn metadata_logs() {
    fuzz!(
        |bytes| {
            let (mut rows, mut twin) = (Rows::default(), Rows::default());
            let mut view = MetadataView::default();
            for (index, entry) in (1..).map(LogIndex).zip(parts(bytes)) {
                let before = rows.clone();
                let applied = MetadataMachine.apply(index, entry, &mut rows).expect("rows that the machine wrote");
                let on_twin = MetadataMachine.apply(index, entry, &mut twin).expect("rows that the machine wrote");
                assert!(rows == twin && applied.receipt == on_twin.receipt, "replicas disagree");
                if let MetadataReceipt::Refused(_) = applied.receipt {
                    assert!(rows == before && applied.publications.is_empty(), "a refused command changed something");
                }
                view = view.with(&applied.publications);
            }
            assert_eq!(MetadataView::load(&rows).expect("rows that the machine wrote"), view);
        },
        inputs = 4_000
    );
}

/// A row: its key, its value.
#[test]
fn metadata_rows() {
    fuzz!(|bytes| {
        let parts = parts(bytes);
        let [key, value, ..] = parts.as_slice() else { return };
        if let Ok(row) = MetadataRow::decode(key, value) {
            assert_eq!(row.key(), *key);
            assert_eq!(MetadataRow::decode(&row.key(), &row.value()).as_ref(), Ok(&row));
            let _ = format!("{row:?}");
        }
        let mut rows = Rows::default();
        State::put(&mut rows, METADATA, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        if let Ok(view) = MetadataView::load(&rows) {
            assert!(view.galleries().count() <= 1 && view.nodes().count() <= 1);
        }
        metadata_digest(&rows).expect("memory does not fail");
    });
}
