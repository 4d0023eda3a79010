//! What the database promises of rows: their order, their isolation, and what happens to a folder that is not as it should
//! be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::child;
use crate::counter::{COUNTERS, open_database};
use semel_raft::store_suite::{StoreUnderTest, check_store};
use semel_raft::{Row, Store, StoreError, Table, WriteBatch};
use semel_raft_host::{Database, Durability, GroupStore, OpenDatabaseError};

struct Written(GroupStore);

impl Store for Written {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.scan(table, from, to, rows_max)
    }
}

impl StoreUnderTest for Written {
    fn write(&self, batch: &WriteBatch) {
        self.0.write(batch, Durability::Unsynced).expect("rows can be written");
    }
}

/// Reads through a snapshot taken for each read.
struct Pinned(GroupStore);

impl Store for Pinned {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
        self.0.snapshot().get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.snapshot().scan(table, from, to, rows_max)
    }
}

impl StoreUnderTest for Pinned {
    fn write(&self, batch: &WriteBatch) {
        self.0.write(batch, Durability::Unsynced).expect("rows can be written");
    }
}

/// The groups beside the tested one have rows at both ends of every table.
fn fresh_group(database: &Arc<Database>, next: &AtomicU64) -> GroupStore {
    let group = next.fetch_add(2, Ordering::Relaxed);
    for neighbour in [group - 1, group + 1] {
        let store = database.group(neighbour);
        let mut batch = WriteBatch::default();
        for key in [&[0_u8; 1][..], &[0xff; 5][..]] {
            batch.put(COUNTERS, key.to_vec(), b"neighbour".to_vec());
            batch.put(Table::LOG, key.to_vec(), b"neighbour".to_vec());
        }
        store.write(&batch, Durability::Unsynced).expect("rows can be written");
    }
    database.group(group)
}

#[test]
fn rows_of_a_group_agree_with_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = open_database(folder.path());
    let next = AtomicU64::new(256);
    check_store(&[COUNTERS, Table::LOG], || Written(fresh_group(&database, &next)));
    check_store(&[COUNTERS, Table::LOG], || Pinned(fresh_group(&database, &next)));
}

fn one_row(value: &[u8]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.put(COUNTERS, b"key".to_vec(), value.to_vec());
    batch
}

#[test]
fn a_snapshot_stands_still_in_all_tables() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open_database(folder.path()).group(1);
    store.write(&one_row(b"before"), Durability::Unsynced).expect("rows can be written");
    let snapshot = store.snapshot();
    store.write(&one_row(b"after"), Durability::Unsynced).expect("rows can be written");
    assert_eq!(snapshot.get(COUNTERS, b"key").expect("readable").as_deref(), Some(&b"before"[..]));
    assert_eq!(snapshot.scan(COUNTERS, b"", b"z", 9).expect("readable")[0].1.as_ref(), b"before");
    assert_eq!(store.get(COUNTERS, b"key").expect("readable").as_deref(), Some(&b"after"[..]));
}

#[test]
fn a_table_that_was_not_opened_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open_database(folder.path()).group(1);
    let error = store.get(Table("elsewhere"), b"key").expect_err("not opened");
    assert_eq!(error.table, Table("elsewhere"));
}

#[test]
fn identity_survives_reopening() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = open_database(folder.path());
    assert_eq!(database.identity("node_id").expect("readable"), None);
    database.put_identity("node_id", b"n1").expect("writable");
    drop(database);
    let database = open_database(folder.path());
    assert_eq!(database.identity("node_id").expect("readable").as_deref(), Some(&b"n1"[..]));
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = open_database(folder.path());
    let error = child::open(folder.path(), &[COUNTERS]).expect_err("in use");
    assert!(matches!(&error, OpenDatabaseError::Locked { path } if path == folder.path()), "{error}");
    drop(first);
    open_database(folder.path());
}

#[test]
fn a_file_is_not_a_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, b"text").expect("writable");
    let error = child::open(&file, &[]).expect_err("not a folder");
    assert!(matches!(error, OpenDatabaseError::NotAFolder { .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open_database(folder.path()));
    fs::write(folder.path().join("FORMAT"), "semel data folder, format 3\n").expect("writable");
    let error = child::open(folder.path(), &[COUNTERS]).expect_err("newer");
    assert!(matches!(error, OpenDatabaseError::NewerFormat { found: 3, supported: 2, .. }), "{error}");
}

/// Rows of format 1 are rows of the first generation. From the first start on, an older program refuses the folder.
#[test]
fn a_folder_of_format_1_is_taken_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut batch = WriteBatch::default();
    batch.put(COUNTERS, b"key".to_vec(), b"value".to_vec());
    open_database(folder.path()).group(7).write(&batch, Durability::Synced).expect("rows can be written");
    fs::write(folder.path().join("FORMAT"), "semel data folder, format 1\n").expect("writable");
    let value = open_database(folder.path()).group(7).get(COUNTERS, b"key").expect("readable");
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
    let format = fs::read_to_string(folder.path().join("FORMAT")).expect("readable");
    assert_eq!(format, "semel data folder, format 2\n");
}

#[test]
fn rows_without_a_known_format_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open_database(folder.path()));
    for damage in [&b"something else"[..], &b"\xff\xff"[..], &b"semel data folder, format 0\n"[..]] {
        fs::write(folder.path().join("FORMAT"), damage).expect("writable");
        let error = child::open(folder.path(), &[COUNTERS]).expect_err("unknown");
        assert!(matches!(error, OpenDatabaseError::UnknownFormat { .. }), "{error}");
    }
    fs::remove_file(folder.path().join("FORMAT")).expect("removable");
    let error = child::open(folder.path(), &[COUNTERS]).expect_err("unknown");
    assert!(matches!(error, OpenDatabaseError::UnknownFormat { .. }), "{error}");
}

#[test]
fn the_folder_of_another_kind_of_server_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open_database(folder.path()));
    let error = child::open(folder.path(), &[Table("galleries")]).expect_err("other tables");
    assert!(matches!(&error, OpenDatabaseError::OtherServer { table, .. } if table == COUNTERS.0), "{error}");
}

/// Writes `rows` synced rows and returns the log that holds them.
fn write_ahead_log(folder: &Path, rows: u8) -> PathBuf {
    let database = open_database(folder);
    for row in 0..rows {
        let mut batch = WriteBatch::default();
        batch.put(COUNTERS, vec![row], vec![row; 1_000]);
        database.group(1).write(&batch, Durability::Synced).expect("writable");
    }
    drop(database);
    let files = fs::read_dir(folder.join("rows")).expect("readable").map(|file| file.expect("readable").path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max_by_key(|path| fs::metadata(path).expect("readable").len()).expect("a log")
}

#[test]
fn a_record_torn_at_the_end_of_the_log_is_forgotten_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = write_ahead_log(folder.path(), 3);
    let bytes = fs::metadata(&log).expect("readable").len();
    fs::File::options().write(true).open(&log).and_then(|file| file.set_len(bytes - 500)).expect("cut short");
    let rows = open_database(folder.path()).group(1).scan(COUNTERS, b"", b"\xff", 9).expect("readable");
    assert_eq!(rows.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn damage_before_the_end_of_the_log_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = write_ahead_log(folder.path(), 3);
    let mut bytes = fs::read(&log).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).expect("writable");
    let error = child::open(folder.path(), &[COUNTERS]).expect_err("damaged");
    assert!(matches!(error, OpenDatabaseError::Damaged { .. }), "{error}");
}
