//! The rows of one group within the process's database, and a view of them that stands still.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::ReadOptions;
use semel_raft::{Row, Store, StoreError, Table, WriteBatch};

use crate::database::{Database, Durability, read_failed};
use crate::database_error::WriteError;

/// The rows of one group: what its replica reads, and what servers read on other threads. Each read sees the last batch
/// written; for several reads of one state, take a [`GroupSnapshot`].
#[derive(Clone)]
pub struct GroupStore {
    database: Arc<Database>,
    group: u64,
}

impl GroupStore {
    pub(crate) fn new(database: Arc<Database>, group: u64) -> Self {
        Self { database, group }
    }

    /// The group.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The state as of the last batch written, unchanged by later ones. Holds back the removal of old rows from disk, so
    /// it should live for one request.
    pub fn snapshot(&self) -> GroupSnapshot<'_> {
        GroupSnapshot { store: self, pinned: self.database.snapshot() }
    }

    /// Writes a batch of this group alone. While a host runs the group, only the host may.
    pub fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), WriteError> {
        self.database.write_groups([(self.group, batch)], durability)
    }

    fn get_with(&self, table: Table, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, StoreError> {
        self.database.get(table, &group_key(self.group, key), options)
    }

    fn scan_with(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        rows_max: usize,
        options: ReadOptions,
    ) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        if from >= to {
            return Ok(rows);
        }
        let (from, to) = (group_key(self.group, from), group_key(self.group, to));
        let mut iterator = self.database.iterate(table, &from, &to, options)?;
        while rows.len() < rows_max
            && let Some((key, value)) = iterator.item()
        {
            rows.push((Bytes::copy_from_slice(&key[GROUP_BYTES..]), Bytes::copy_from_slice(value)));
            iterator.next();
        }
        // An iterator also ends where a block cannot be read: without this check, rows would be missing silently.
        iterator.status().map_err(|error| read_failed(table, error))?;
        Ok(rows)
    }
}

impl Store for GroupStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(table, key, &ReadOptions::default())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.scan_with(table, from, to, rows_max, ReadOptions::default())
    }
}

impl fmt::Debug for GroupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupStore").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The rows of one group as of one moment, in all tables.
pub struct GroupSnapshot<'a> {
    store: &'a GroupStore,
    pinned: rocksdb::Snapshot<'a>,
}

impl GroupSnapshot<'_> {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.pinned);
        options
    }
}

impl Store for GroupSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get_with(table, key, &self.options())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan_with(table, from, to, rows_max, self.options())
    }
}

impl fmt::Debug for GroupSnapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSnapshot").field("group", &self.store.group).finish_non_exhaustive()
    }
}

const GROUP_BYTES: usize = size_of::<u64>();

/// A group's rows lie together and in the order of their own keys: the group comes first, big-endian.
pub(crate) fn group_key(group: u64, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(GROUP_BYTES + key.len());
    bytes.extend_from_slice(&group.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}
