//! A database as the suite of stores takes it, and what the tests of crashes ask of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::child;
use semel_raft::store_suite::{DiskWrite, TABLES, TALLIES};
use semel_raft::{Store, Table, WriteBatch};
use semel_raft_host::{Database, Durability, OpenDatabaseError, WriteError};

pub(crate) const GROUPS: [u64; 3] = [1, 2, 300];

/// A folder in memory where there is one: these tests open databases hundreds of times, and would spend nearly all their time
/// in syncs. None of them depends on what a sync does to a disk.
pub(crate) fn temporary_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

pub(crate) fn open(folder: &Path) -> Result<Arc<Database>, OpenDatabaseError> {
    child::open(folder, &[TALLIES])
}

pub(crate) fn write(database: &Database, write: &DiskWrite) -> Result<(), WriteError> {
    let durability = if write.synced { Durability::Synced } else { Durability::Unsynced };
    database.write_groups(write.changes.iter().map(|(group, changes)| (*group, changes)), durability)
}

/// A write of `number` to each table of each group, with a row of `bytes` bytes on the way.
pub(crate) fn numbered(number: u64, bytes: usize) -> DiskWrite {
    let changes = GROUPS.map(|group| {
        let mut changes = WriteBatch::default();
        for table in TABLES {
            changes.put(table, NUMBER, Bytes::copy_from_slice(&number.to_be_bytes()));
        }
        (group, changes)
    });
    let mut changes = changes.to_vec();
    if bytes > 0 {
        // Keys go round, so that a full disk is filled by writes and not by rows.
        changes[1].1.put(Table::LOG, vec![number as u8 % 4], vec![number as u8; bytes]);
    }
    DiskWrite { changes, synced: true }
}

const NUMBER: &[u8] = b"number";

/// The number written last, in every table of every group.
///
/// # Panics
/// Panics if they differ: then a part of a write is there.
pub(crate) fn last_number(database: &Arc<Database>) -> u64 {
    let number = |group: u64, table: Table| {
        let row = database.group(group).get(table, NUMBER).expect("the rows can be read");
        row.map_or(0, |row| u64::from_be_bytes(row.as_ref().try_into().expect("a number has 8 bytes")))
    };
    let numbers: Vec<u64> = GROUPS.into_iter().flat_map(|group| TABLES.map(|table| number(group, table))).collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "a part of a write is there: {numbers:?}");
    numbers[0]
}

/// The write-ahead log that is written to.
pub(crate) fn newest_log(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("rows")).expect("readable").map(|file| file.expect("readable").path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    // Their names are numbers of six digits or more.
    logs.max_by_key(|path| (path.as_os_str().len(), path.clone())).expect("a log")
}

pub(crate) fn log_bytes(folder: &Path) -> u64 {
    fs::metadata(newest_log(folder)).expect("readable").len()
}
