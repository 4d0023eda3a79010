//! The properties that every [`Store`] must have. Here: what it answers while nothing goes wrong, checked against an ordered
//! map. What is left of it when its process dies is in [`CrashingDisk`] and the checks that take one.

mod crashes;

mod replicas;
mod scattered;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::store::{Row, Store, Table, Write, WriteBatch};

pub use crashes::{Crash, CrashingDisk, DiskWrite, Survival};
pub use replicas::check_replicas_survive_crashes;
pub use scattered::check_batches_survive_crashes;

/// What the machines of [`check_replicas_survive_crashes`] write.
pub const TALLIES: Table = Table("tallies");
/// The tables that a [`CrashingDisk`] must have.
pub const TABLES: [Table; 3] = [Table::LOG, Table::RAFT, TALLIES];

const CASES: u32 = 96;

/// A store that the suite can write to.
pub trait StoreUnderTest: Store {
    /// Makes the batch visible, as one.
    fn write(&self, batch: &WriteBatch);
}

/// Checks that stores made by `fresh`, each empty and with `tables` (at least two), answer `get` and `scan` as an ordered map
/// does after the same batches.
///
/// # Panics
/// Panics with the smallest series of batches and reads found that gives another answer.
pub fn check_store<S: StoreUnderTest>(tables: &[Table], fresh: impl Fn() -> S) {
    assert!(tables.len() >= 2, "rows of one table must be seen not to meet those of another");
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let batches = proptest::collection::vec(batch(tables.to_vec()), 1..8);
    let reads = proptest::collection::vec(read(tables.to_vec()), 1..24);
    runner
        .run(&(batches, reads), |(batches, reads)| {
            let store = fresh();
            let mut model = Model::new();
            for batch in &batches {
                store.write(batch);
                make(&mut model, batch);
            }
            for read in &reads {
                let got = store.get(read.table, &read.from).expect("the store can be read");
                prop_assert_eq!(got, model.get(&(read.table, read.from.clone())).cloned());
                let scanned =
                    store.scan(read.table, &read.from, &read.to, read.rows_max).expect("the store can be read");
                prop_assert_eq!(scanned, scan(&model, read));
            }
            for (table, key) in model.keys() {
                prop_assert_eq!(
                    store.get(*table, key).expect("the store can be read"),
                    model.get(&(*table, key.clone())).cloned()
                );
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// The rows of one group.
type Model = BTreeMap<(Table, Bytes), Bytes>;

#[derive(Debug, Clone)]
struct Read {
    table: Table,
    from: Bytes,
    to: Bytes,
    rows_max: usize,
}

/// Few different bytes, so that keys are often equal, neighbours or prefixes of one another; 0xff, so that the end of a key
/// range is met; empty, the least key of all.
fn key() -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![Just(0_u8), Just(1), Just(0x7f), Just(0xfe), Just(0xff)];
    proptest::collection::vec(byte, 0..4).prop_map(Bytes::from)
}

fn write(tables: Vec<Table>) -> impl Strategy<Value = Write> {
    let table = proptest::sample::select(tables);
    let value = proptest::collection::vec(any::<u8>(), 0..5).prop_map(Bytes::from);
    prop_oneof![
        6 => (table.clone(), key(), value).prop_map(|(table, key, value)| Write::Put { table, key, value }),
        2 => (table.clone(), key()).prop_map(|(table, key)| Write::Delete { table, key }),
        1 => (table, key(), key()).prop_map(|(table, a, b)| {
            let (from, to) = if a <= b { (a, b) } else { (b, a) };
            Write::DeleteRange { table, from, to }
        }),
    ]
}

fn batch(tables: Vec<Table>) -> impl Strategy<Value = WriteBatch> {
    proptest::collection::vec(write(tables), 0..12).prop_map(|writes| WriteBatch { writes })
}

fn read(tables: Vec<Table>) -> impl Strategy<Value = Read> {
    let table = proptest::sample::select(tables);
    let rows_max = prop_oneof![0_usize..4, Just(usize::MAX)];
    (table, key(), key(), rows_max).prop_map(|(table, from, to, rows_max)| Read { table, from, to, rows_max })
}

fn make(model: &mut Model, batch: &WriteBatch) {
    for write in &batch.writes {
        match write.clone() {
            Write::Put { table, key, value } => {
                model.insert((table, key), value);
            }
            Write::Delete { table, key } => {
                model.remove(&(table, key));
            }
            Write::DeleteRange { table, from, to } => {
                model.retain(|(t, key), _| *t != table || *key < from || *key >= to)
            }
        }
    }
}

fn scan(model: &Model, read: &Read) -> Vec<Row> {
    model
        .iter()
        .filter(|((table, key), _)| *table == read.table && *key >= read.from && *key < read.to)
        .take(read.rows_max)
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}
