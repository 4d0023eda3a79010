//! What a shard's log and rows hold.

use std::sync::LazyLock;

use bytes::Bytes;
use semel_fuzz::{Rows, fuzz, parts};
use semel_index::{EnrolmentId, GalleryId, ShardCount, ShardId};
use semel_raft::{LogIndex, State, StateMachine, Store, Table};
use semel_shard::{
    CaseSubject, Command, OBLIGATIONS_DISCHARGED_MAX, REASON_BYTES_MAX, REFERENCES_MAX, Receipt, SUBJECT_ID_BYTES_MAX,
    ShardMachine, TABLES,
};

fn machine() -> ShardMachine {
    ShardMachine::new(ShardId(0), ShardCount::new(1).expect("at least one")).expect("a shard of the cluster")
}

#[test]
fn shard_commands() {
    fuzz!(|bytes| {
        let command = match Command::decode(bytes) {
            Ok(command) => command,
            Err(error) => return drop(format!("{error} {error:?}")),
        };
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
        assert_within_bounds(&command);
        let _ = format!("{command:?}");
    });
}

fn assert_within_bounds(command: &Command) {
    if let Some((_, enrolment)) = command.addressee() {
        assert!((1..=128).contains(&enrolment.as_str().len()) && !enrolment.as_str().contains('\0'));
    }
    match command {
        Command::Stage(stage) => {
            assert!((1..=REFERENCES_MAX).contains(&stage.references.len()));
            assert!(stage.subject_id.len() <= SUBJECT_ID_BYTES_MAX);
            for reference in &stage.references {
                reference.spec.validate().expect("a spec within its bounds");
                assert!(reference.template.conforms_to(&reference.spec));
            }
        }
        Command::Settle(settle) => {
            assert!(settle.verdict.candidates.len() <= semel_shard::CANDIDATES_MAX);
            for candidate in &settle.verdict.candidates {
                assert!(candidate.comparisons.len() <= REFERENCES_MAX);
            }
        }
        Command::Withdraw(withdraw) => assert!((1..=REASON_BYTES_MAX).contains(&withdraw.reason.len())),
        Command::OpenCase(open) => assert!(open.comparisons.len() <= REFERENCES_MAX),
        Command::Discharge(discharge) => assert!(discharge.obligations.len() <= OBLIGATIONS_DISCHARGED_MAX),
        Command::LinkCase(_) | Command::MootCase(_) | Command::NoteMoot(_) => {}
    }
}

/// A log of any bytes: each entry is applied or refused whole, and two replicas agree.
#[test]
fn shard_logs() {
    fuzz!(
        |bytes| {
            let (mut rows, mut twin) = (Rows::default(), Rows::default());
            for (index, entry) in (1..).map(LogIndex).zip(parts(bytes)) {
                let before = rows.clone();
                let applied = machine().apply(index, entry, &mut rows).expect("memory does not fail");
                let on_twin = machine().apply(index, entry, &mut twin).expect("memory does not fail");
                assert!(rows == twin && applied.receipt == on_twin.receipt, "replicas disagree");
                if let Receipt::Refused(_) = applied.receipt {
                    assert!(rows == before && applied.publications.is_empty(), "a refused command changed something");
                }
            }
            let digest = semel_shard::digest(&rows).expect("rows that the machine wrote");
            assert_eq!(digest, semel_shard::recompute_digest(&rows).expect("rows that the machine wrote"));
            for table in TABLES {
                for (key, value) in rows.table(*table) {
                    let rewritten = semel_shard::rewrite_row(*table, key, value).expect("rows that the machine wrote");
                    assert_eq!(rewritten, *value);
                }
            }
        },
        inputs = 4_000
    );
}

/// One damaged row among whole ones: its number among all tables, its key, its value.
#[test]
fn shard_rows() {
    fuzz!(|bytes| {
        let Some((table, bytes)) = bytes.split_first() else { return };
        let table = TABLES[usize::from(*table) % TABLES.len()];
        let parts = parts(bytes);
        let [key, value, ..] = parts.as_slice() else { return };
        if let Ok(written) = semel_shard::rewrite_row(table, key, value) {
            assert_eq!(semel_shard::rewrite_row(table, key, &written).expect("its own row"), written);
        }
        let mut rows = WHOLE.clone();
        State::put(&mut rows, table, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        read_everything(&rows);
    });
}

/// The rows that a short log leaves.
static WHOLE: LazyLock<Rows> = LazyLock::new(|| {
    let mut rows = Rows::default();
    for (index, command) in (1..).map(LogIndex).zip(semel_fuzz::samples::shard_log()) {
        let applied = machine().apply(index, &command, &mut rows).expect("memory does not fail");
        assert!(!matches!(applied.receipt, Receipt::Refused(_)), "{:?}", applied.receipt);
    }
    rows
});

/// What a server reads, and what a replica that starts does.
fn read_everything(rows: &dyn Store) {
    let gallery = GalleryId::try_from("people").expect("a valid name");
    let ids = ["a", "b"].map(|id| EnrolmentId::try_from(id).expect("a valid id"));
    for id in &ids {
        let _ = semel_shard::enrolment(rows, &gallery, id);
        let _ = semel_shard::references(rows, &gallery, id);
        let _ = semel_shard::verdicts(rows, &gallery, id, 4);
    }
    let pair = CaseSubject::pair(&ids[0], &ids[1]).expect("two");
    let _ = semel_shard::case(rows, &gallery, &pair);
    let _ = semel_shard::cases(rows, &gallery, None, 4);
    let _ = semel_shard::pending(rows, 4);
    let _ = semel_shard::obligations(rows, 4);
    let _ = semel_shard::obligations_count(rows);
    let _ = semel_shard::counts(rows);
    let _ = semel_shard::audit(rows, 0, 4);
    let _ = semel_shard::digest(rows);
    let _ = semel_shard::recompute_digest(rows);
    let _ = semel_shard::replay_catalogue(rows, &mut |_, publication| drop(publication));
}

/// Tables are told apart by their names; the target above by their places.
#[test]
fn every_table_has_a_place() {
    assert!(TABLES.len() <= usize::from(u8::MAX));
    assert!(!TABLES.contains(&Table::LOG) && !TABLES.contains(&Table::RAFT));
}
