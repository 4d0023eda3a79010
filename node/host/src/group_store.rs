//! The rows of one group within the process's database, and a view of them that stands still.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::ReadOptions;
use semel_raft::{Row, Store, StoreError, Table, WriteBatch};

use crate::database::{Database, Durability, read_failed};
use crate::database_error::WriteError;
use crate::generations::{Generation, Live, PREFIX_BYTES, row_key, row_range};

/// The rows of one group: what its replica reads, and what servers read on other threads. Each read sees the last batch
/// written; for several reads of one state, take a [`GroupSnapshot`].
#[derive(Clone)]
pub struct GroupStore {
    database: Arc<Database>,
    group: u64,
    live: Arc<Live>,
}

impl GroupStore {
    pub(crate) fn new(database: Arc<Database>, group: u64, live: Arc<Live>) -> Self {
        Self { database, group, live }
    }

    /// The group.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The state as of the last batch written, unchanged by later ones. Holds back the removal of old rows from disk, so
    /// it should live for one request.
    pub fn snapshot(&self) -> GroupSnapshot<'_> {
        let live = self.live.read();
        GroupSnapshot { store: self, generation: *live, pinned: self.database.snapshot(), fills_cache: true }
    }

    /// Writes a batch of this group alone. While a host runs the group, only the host may.
    pub fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), WriteError> {
        self.database.write_groups([(self.group, batch)], durability)
    }

    fn get_with(
        &self,
        generation: Generation,
        table: Table,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<Bytes>, StoreError> {
        self.database.get(table, &row_key(table, self.group, generation, key), options)
    }

    fn scan_with(
        &self,
        generation: Generation,
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
        let key = |key| row_key(table, self.group, generation, key);
        let (from, to) = (key(from), key(to));
        let mut iterator = self.database.iterate(table, &from, &to, options)?;
        while rows.len() < rows_max
            && let Some((key, value)) = iterator.item()
        {
            rows.push((Bytes::copy_from_slice(&key[PREFIX_BYTES..]), Bytes::copy_from_slice(value)));
            iterator.next();
        }
        // An iterator also ends where a block cannot be read: without this check, rows would be missing silently.
        iterator.status().map_err(|error| read_failed(table, error))?;
        Ok(rows)
    }
}

impl Store for GroupStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let live = self.live.read();
        let mut options = ReadOptions::default();
        // Single entries of the log are read where a replica opens, from all over the log: none of them is read again.
        options.fill_cache(table != Table::LOG);
        self.get_with(*live, table, key, &options)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let live = self.live.read();
        self.scan_with(*live, table, from, to, rows_max, ReadOptions::default())
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
    generation: Generation,
    pinned: rocksdb::Snapshot<'a>,
    /// Whether what is read may push other rows out of the cache.
    fills_cache: bool,
}

impl GroupSnapshot<'_> {
    /// The same state for somebody who reads rows once: they push no others out of the cache, and take no memory there.
    pub fn for_one_pass(self) -> Self {
        Self { fills_cache: false, ..self }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.pinned);
        options.fill_cache(self.fills_cache);
        options
    }

    /// Hands out the rows of a table from the key `from` on, in ascending order, until `visit` breaks off or there are no more; tells
    /// which it was. Meant for reading everything once: what is read does not push other rows out of the cache.
    pub(crate) fn visit(
        &self,
        table: Table,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let GroupStore { database, group, .. } = self.store;
        let mut options = self.options();
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD_BYTES);
        let from = row_key(table, *group, self.generation, from);
        let (_, to) = row_range(table, *group, self.generation);
        let mut iterator = database.iterate(table, &from, &to, options)?;
        while let Some((key, value)) = iterator.item() {
            if visit(&key[PREFIX_BYTES..], value).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            iterator.next();
        }
        iterator.status().map_err(|error| read_failed(table, error))?;
        Ok(ControlFlow::Continue(()))
    }
}

/// How far a scan of everything reads ahead on disk.
const READ_AHEAD_BYTES: usize = 1 << 20;

impl Store for GroupSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get_with(self.generation, table, key, &self.options())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan_with(self.generation, table, from, to, rows_max, self.options())
    }
}

impl fmt::Debug for GroupSnapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSnapshot").field("group", &self.store.group).finish_non_exhaustive()
    }
}
