//! One RocksDB per process: every group's rows of every table, written in batches that are atomic over all of them.
//!
//! Which rows belong to which group is [`crate::GroupStore`]'s affair; what they mean is the replica's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DEFAULT_COLUMN_FAMILY_NAME, ErrorKind,
    IngestExternalFileOptions, Options, ReadOptions,
};
use semel_raft::{ReplicaId, StoreError, Table, Write, WriteBatch};

use crate::data_folder::DataFolder;
use crate::database_error::{FoundGroupError, OpenDatabaseError, WriteError};
use crate::database_options::{BLOCK_CACHE_BYTES, database_options, table_options};
use crate::generations::{self, Generation, Live, row_key, row_range};
use crate::group_store::GroupStore;
use crate::holders::{Held, Holders};
use crate::snapshot::install::remove_left_over_files;
use crate::write_ahead_log::{LogError, check_logs};

/// Rows of the process itself, not of a group: who it is, and which replicas it holds.
pub const IDENTITY: Table = Table("identity");

const NAME_PREFIX: &[u8] = b"name/";
const GROUP_PREFIX: &[u8] = b"group/";
const GROUP_ROW_VERSION: u8 = 1;

/// Whether a batch has to be on disk, or only visible, when the write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives the end of the process, not a power cut.
    Unsynced,
    /// Survives a power cut, and so does every write before it.
    Synced,
}

/// The rows of a process.
pub struct Database {
    rows: DB,
    tables: Vec<Table>,
    /// Blocks of all tables' files.
    blocks: Cache,
    failure: OnceLock<WriteError>,
    /// Every group that was asked for or has a generation, with the live one.
    live: RwLock<BTreeMap<u64, Arc<Live>>>,
    /// A fault, see [`Database::slow_syncs`].
    sync_delay_micros: AtomicU64,
    /// Held while it is decided whether a group is fresh and its first rows are written.
    founding: Mutex<()>,
    holders: Holders,
    // Declared last, hence dropped last: the folder is free only once RocksDB has closed its files.
    folder: DataFolder,
}

impl Database {
    /// Opens the rows in the folder `path`, creating what is missing. `tables` are the tables of the state machines
    /// that this process hosts; the log's own are always there.
    pub fn open(path: &Path, tables: &[Table]) -> Result<Arc<Self>, OpenDatabaseError> {
        let mut all = vec![Table::LOG, Table::RAFT, IDENTITY];
        for table in tables {
            if !all.contains(table) {
                all.push(*table);
            }
        }
        let folder = DataFolder::open(path)?;
        let options = database_options();
        // The file that names RocksDB's manifest is created last: without it there is no database yet.
        if folder.rows().join("CURRENT").exists() {
            refuse_other_server(&folder, &options, &all)?;
            refuse_damaged_logs(&folder)?;
        }
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let mut descriptors: Vec<_> =
            all.iter().map(|table| ColumnFamilyDescriptor::new(table.0, table_options(&cache))).collect();
        descriptors.push(ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, table_options(&cache)));
        let rows = DB::open_cf_descriptors(&options, folder.rows(), descriptors)
            .map_err(|error| open_failed(&folder, error))?;
        let mut database = Self {
            rows,
            tables: all,
            blocks: cache,
            failure: OnceLock::new(),
            sync_delay_micros: AtomicU64::new(0),
            live: RwLock::default(),
            founding: Mutex::new(()),
            holders: Holders::default(),
            folder,
        };
        database.learn_generations().map_err(|reason| rows_failed(&database.folder, reason))?;
        database.forget_incoming().map_err(|reason| rows_failed(&database.folder, reason))?;
        Ok(Arc::new(database))
    }

    /// The data folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes of rows in memory, not yet in files: at most 96 MiB, then they are written out.
    pub fn write_buffer_bytes(&self) -> u64 {
        let of_table = |table: &Table| {
            let family = self.family(*table).ok()?;
            self.rows.property_int_value_cf(family, rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES).ok()?
        };
        self.tables.iter().filter_map(of_table).sum()
    }

    /// Bytes of files' blocks kept in memory, at most 64 MiB.
    pub fn block_cache_bytes(&self) -> u64 {
        self.blocks.get_usage() as u64
    }

    /// Tells whether `table` was opened.
    pub fn has_table(&self, table: Table) -> bool {
        self.tables.contains(&table)
    }

    /// The write that failed, if one did.
    pub fn failure(&self) -> Option<&WriteError> {
        self.failure.get()
    }

    /// Makes every sync take so much longer, as on a slow disk. A fault for tests and benchmarks.
    pub fn slow_syncs(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.sync_delay_micros.store(micros, Ordering::Relaxed);
    }

    /// Returns what the process remembers under `name`, for example its node id.
    pub fn identity(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.get(IDENTITY, &named(name), &ReadOptions::default())
    }

    /// Remembers `value` under `name`; it is on disk when this returns.
    pub fn put_identity(&self, name: &str, value: &[u8]) -> Result<(), WriteError> {
        let mut batch = self.batch();
        batch.put(IDENTITY, &named(name), value)?;
        self.write(batch, Durability::Synced)
    }

    /// Returns every group with a replica in this database, in ascending order, with the replica's id.
    pub fn groups(&self) -> Result<Vec<(u64, ReplicaId)>, StoreError> {
        self.identity_rows(GROUP_PREFIX, group_row)
    }

    fn identity_rows<T>(
        &self,
        prefix: &[u8],
        read: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        let mut iterator = self.iterate(IDENTITY, prefix, &prefix_end(prefix), ReadOptions::default())?;
        while let Some((key, value)) = iterator.item() {
            rows.push(read(key, value)?);
            iterator.next();
        }
        iterator.status().map_err(|error| read_failed(IDENTITY, error))?;
        Ok(rows)
    }

    /// Returns the replica that holds `group` in this database.
    pub fn replica_of(&self, group: u64) -> Result<Option<ReplicaId>, StoreError> {
        let key = grouped(group);
        let value = self.get(IDENTITY, &key, &ReadOptions::default())?;
        value.map(|value| group_row(&key, &value).map(|(_, replica)| replica)).transpose()
    }

    /// Writes the first rows of a group, synced, unless it has some already. Returns the replica that holds it now.
    pub(crate) fn found_group(
        self: &Arc<Self>,
        group: u64,
        replica: ReplicaId,
        first_rows: &WriteBatch,
    ) -> Result<ReplicaId, FoundGroupError> {
        let _founding = self.founding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = self.replica_of(group)? {
            return Ok(holder);
        }
        if self.is_removed(group, replica)? {
            return Err(FoundGroupError::Removed);
        }
        let mut row = vec![GROUP_ROW_VERSION];
        row.extend_from_slice(&replica.get().to_be_bytes());
        // One batch: a group is either unknown here or has all its first rows.
        let mut batch = self.batch();
        batch.put(IDENTITY, &grouped(group), &row)?;
        batch.append(group, first_rows)?;
        self.write(batch, Durability::Synced)?;
        Ok(replica)
    }

    /// Writes the changes of several groups, each in its order, as one. While a host runs a group, only the host may.
    pub fn write_groups<'a>(
        &self,
        changes: impl IntoIterator<Item = (u64, &'a WriteBatch)>,
        durability: Durability,
    ) -> Result<(), WriteError> {
        let mut batch = self.batch();
        for (group, changes) in changes {
            batch.append(group, changes)?;
        }
        self.write(batch, durability)
    }

    /// Whether this replica was here and was removed: it never comes back.
    pub fn is_removed(&self, group: u64, replica: ReplicaId) -> Result<bool, StoreError> {
        let tombstone = self.get(IDENTITY, &generations::tombstone_key(group, replica), &ReadOptions::default())?;
        Ok(tombstone.is_some())
    }

    /// Removes every row of a replica that its group has done without, and leaves a tombstone, synced. Nothing may run the group.
    pub(crate) fn remove_group(&self, group: u64, replica: ReplicaId) -> Result<(), WriteError> {
        let live = self.live(group);
        let mut live = live.write();
        let mut batch = self.batch();
        batch.put(IDENTITY, &generations::tombstone_key(group, replica), generations::TOMBSTONE)?;
        batch.delete(IDENTITY, &grouped(group))?;
        batch.delete(IDENTITY, &generations::generation_key(group))?;
        batch.delete_left_over(group)?;
        for table in self.tables.iter().filter(|table| **table != IDENTITY) {
            batch.delete_all(*table, group, *live)?;
        }
        self.write(batch, Durability::Synced)?;
        *live = Generation::default();
        Ok(())
    }

    /// The rows of one group.
    pub fn group(self: &Arc<Self>, group: u64) -> GroupStore {
        GroupStore::new(self.clone(), group, self.live(group))
    }

    /// Tells where files of snapshots that are coming in lie.
    pub(crate) fn incoming_folder(&self) -> PathBuf {
        self.folder.incoming()
    }

    pub(crate) fn live(&self, group: u64) -> Arc<Live> {
        let known = self.live.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned();
        known.unwrap_or_else(|| {
            self.live.write().unwrap_or_else(PoisonError::into_inner).entry(group).or_default().clone()
        })
    }

    fn learn_generations(&mut self) -> Result<(), String> {
        let read = |key: &[u8], value: &[u8]| generations::decode(generations::GENERATION_PREFIX, key, value);
        let found = self.identity_rows(generations::GENERATION_PREFIX, read).map_err(|error| error.to_string())?;
        let found = found.into_iter().map(|(group, generation)| (group, Arc::new(Live::new(generation))));
        self.live = RwLock::new(found.collect());
        Ok(())
    }

    /// Removes what a snapshot left under a generation that never became live.
    fn forget_incoming(&self) -> Result<(), String> {
        let read = |key: &[u8], value: &[u8]| generations::decode(generations::INCOMING_PREFIX, key, value);
        let left = self.identity_rows(generations::INCOMING_PREFIX, read).map_err(|error| error.to_string())?;
        remove_left_over_files(&self.folder.incoming()).map_err(|error| error.to_string())?;
        for (group, generation) in left {
            assert_ne!(generation, *self.live(group).read(), "incoming rows of group {group} are not the live ones");
            self.discard_incoming(group, generation).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Removes rows under a generation that will not become live.
    pub(crate) fn discard_incoming(&self, group: u64, generation: Generation) -> Result<(), WriteError> {
        let mut batch = self.batch();
        batch.delete(IDENTITY, &generations::incoming_key(group))?;
        for table in self.machine_tables() {
            batch.delete_all(table, group, generation)?;
        }
        self.write(batch, Durability::Synced)
    }

    /// Notes, synced, that rows of a group are about to come in under the generation returned: whatever a crash leaves of them is
    /// removed when the database is opened.
    pub(crate) fn expect_incoming(&self, group: u64) -> Result<Generation, WriteError> {
        let generation = self.live(group).read().next();
        let mut batch = self.batch();
        // Only what an attempt left that was broken off: files of rows, where something in memory says "removed", wait for a flush.
        batch.delete_left_over(group)?;
        batch.put(IDENTITY, &generations::incoming_key(group), &generations::encode(generation))?;
        self.write(batch, Durability::Synced)?;
        Ok(generation)
    }

    /// How files of sorted rows are written.
    pub(crate) fn incoming_options(&self) -> Options {
        table_options(&Cache::new_lru_cache(0))
    }

    /// Takes over files of sorted rows, written with [`Self::incoming_options`]; they are on disk when this returns. A failure here is the
    /// snapshot's, not the database's: nothing that counts was to be written.
    pub(crate) fn ingest(&self, table: Table, files: Vec<PathBuf>) -> Result<(), StoreError> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let family = self.family(table)?;
        self.rows.ingest_external_file_cf_opts(family, &options, files).map_err(|error| read_failed(table, error))
    }

    /// Makes the rows under `generation` the group's, in one step and synced, together with changes of the log's own rows.
    /// Nothing may run the group. Returns the generation that ended.
    pub(crate) fn exchange(
        &self,
        group: u64,
        generation: Generation,
        raft_rows: &WriteBatch,
    ) -> Result<Generation, WriteError> {
        let live = self.live(group);
        let old = *live.read();
        let mut batch = self.batch();
        batch.append(group, raft_rows)?;
        batch.put(IDENTITY, &generations::generation_key(group), &generations::encode(generation))?;
        batch.delete(IDENTITY, &generations::incoming_key(group))?;
        for table in self.machine_tables() {
            batch.delete_all(table, group, old)?;
        }
        // Readers wait from before the rows change until they know of it.
        let mut live = live.write();
        self.write(batch, Durability::Synced)?;
        *live = generation;
        drop(live);
        Ok(old)
    }

    /// Gives the disk back what removed rows of a group took. Blocks for long; other rows are read and written meanwhile.
    pub(crate) fn reclaim(&self, group: u64, generation: Generation) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        for table in self.machine_tables() {
            let (from, to) = row_range(table, group, generation);
            if let Ok(family) = self.family(table) {
                self.rows.compact_range_cf_opt(family, Some(from), Some(to), &options);
            }
        }
    }

    /// The database for somebody beside the host's thread.
    pub(crate) fn hold(self: Arc<Self>) -> Held {
        self.holders.clone().hold(self)
    }

    pub(crate) fn holders(&self) -> &Holders {
        &self.holders
    }

    /// Ends what would keep the files open for long. The database takes no more writes worth keeping afterwards.
    pub(crate) fn end_background_work(&self) {
        self.rows.cancel_all_background_work(false);
    }

    fn machine_tables(&self) -> impl Iterator<Item = Table> {
        let own = [Table::LOG, Table::RAFT, IDENTITY];
        self.tables.iter().copied().filter(move |table| !own.contains(table))
    }

    /// An empty batch over all groups and tables.
    pub(crate) fn batch(&self) -> DatabaseBatch<'_> {
        DatabaseBatch { database: self, rows: rocksdb::WriteBatch::default() }
    }

    /// Writes a batch atomically. After a failure nothing is written any more: RocksDB may have part of the batch in its
    /// log, and an operating system that failed to flush a page may claim success the next time.
    pub(crate) fn write(&self, batch: DatabaseBatch<'_>, durability: Durability) -> Result<(), WriteError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.rows.write(batch.rows).map_err(|error| self.fail(error.into_string()))?;
        match durability {
            // Not by the write itself: others' writes would wait for it.
            Durability::Synced => self.sync(),
            Durability::Unsynced => Ok(()),
        }
    }

    /// Makes everything written before survive a power cut. Others may write and read meanwhile. A failure is as final as one of
    /// [`Self::write`].
    pub(crate) fn sync(&self) -> Result<(), WriteError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.rows.flush_wal(true).map_err(|error| self.fail(error.into_string()))?;
        let delay = self.sync_delay_micros.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        Ok(())
    }

    pub(crate) fn get(&self, table: Table, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, StoreError> {
        let family = self.family(table)?;
        let value = self.rows.get_pinned_cf_opt(family, key, options).map_err(|error| read_failed(table, error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// An iterator at the first row with `from <= key < to`; `from` must be below `to`.
    pub(crate) fn iterate(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        mut options: ReadOptions,
    ) -> Result<rocksdb::DBRawIterator<'_>, StoreError> {
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        let mut iterator = self.rows.raw_iterator_cf_opt(self.family(table)?, options);
        iterator.seek_to_first();
        Ok(iterator)
    }

    pub(crate) fn snapshot(&self) -> rocksdb::Snapshot<'_> {
        self.rows.snapshot()
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.rows.cf_handle(table.0).ok_or(StoreError { table, reason: "the table was not opened".to_owned() })
    }

    fn fail(&self, reason: String) -> WriteError {
        self.failure.get_or_init(|| WriteError { path: self.path().to_owned(), reason }).clone()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.path()).field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// Changes of several groups that become visible together.
pub(crate) struct DatabaseBatch<'a> {
    database: &'a Database,
    rows: rocksdb::WriteBatch,
}

impl DatabaseBatch<'_> {
    /// Appends the changes of one group, in order.
    pub(crate) fn append(&mut self, group: u64, batch: &WriteBatch) -> Result<(), WriteError> {
        let generation = self.generation(group);
        let row = |table, key: &[u8]| row_key(table, group, generation, key);
        for write in &batch.writes {
            match write {
                Write::Put { table, key, value } => self.put(*table, &row(*table, key), value)?,
                Write::Delete { table, key } => self.delete(*table, &row(*table, key))?,
                // RocksDB refuses a range that ends before it begins; here it is simply empty.
                Write::DeleteRange { table, from, to } if from < to => {
                    let family = self.family(*table)?;
                    self.rows.delete_range_cf(family, row(*table, from), row(*table, to));
                }
                Write::DeleteRange { .. } => {}
            }
        }
        Ok(())
    }

    fn generation(&self, group: u64) -> Generation {
        *self.database.live(group).read()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows.size_in_bytes()
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let family = self.family(table)?;
        self.rows.put_cf(family, key, value);
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), WriteError> {
        let family = self.family(table)?;
        self.rows.delete_cf(family, key);
        Ok(())
    }

    /// Removes what is under the generation that a group's rows were last coming in under, if they never became live.
    fn delete_left_over(&mut self, group: u64) -> Result<(), WriteError> {
        let database = self.database;
        let failed = |error: StoreError| database.fail(error.to_string());
        let key = generations::incoming_key(group);
        let Some(value) = database.get(IDENTITY, &key, &ReadOptions::default()).map_err(failed)? else { return Ok(()) };
        let (_, generation) = generations::decode(generations::INCOMING_PREFIX, &key, &value).map_err(failed)?;
        for table in database.machine_tables() {
            self.delete_all(table, group, generation)?;
        }
        self.delete(IDENTITY, &key)
    }

    /// Removes every row of a group in a table, under one generation.
    fn delete_all(&mut self, table: Table, group: u64, generation: Generation) -> Result<(), WriteError> {
        let family = self.family(table)?;
        let (from, to) = row_range(table, group, generation);
        self.rows.delete_range_cf(family, from, to);
        Ok(())
    }

    fn family<'a>(&self, table: Table) -> Result<&'a ColumnFamily, WriteError>
    where
        Self: 'a,
    {
        let database = self.database;
        database.family(table).map_err(|error| database.fail(error.to_string()))
    }
}

fn refuse_other_server(folder: &DataFolder, options: &Options, tables: &[Table]) -> Result<(), OpenDatabaseError> {
    let path = folder.path().to_owned();
    let present = DB::list_cf(options, folder.rows()).map_err(|error| open_failed(folder, error))?;
    let ours = |name: &String| name == DEFAULT_COLUMN_FAMILY_NAME || tables.iter().any(|table| table.0 == name);
    match present.into_iter().find(|name| !ours(name)) {
        Some(table) => Err(OpenDatabaseError::OtherServer { path, table }),
        None => Ok(()),
    }
}

fn refuse_damaged_logs(folder: &DataFolder) -> Result<(), OpenDatabaseError> {
    check_logs(&folder.rows()).map_err(|error| match error {
        LogError::Io { path, source } => OpenDatabaseError::Io { action: "read", path, source },
        LogError::Damaged { .. } => {
            OpenDatabaseError::Damaged { path: folder.path().to_owned(), reason: error.to_string() }
        }
    })
}

fn open_failed(folder: &DataFolder, error: rocksdb::Error) -> OpenDatabaseError {
    let path = folder.path().to_owned();
    if error.kind() == ErrorKind::Corruption {
        OpenDatabaseError::Damaged { path, reason: error.into_string() }
    } else {
        OpenDatabaseError::Rows { path, reason: error.into_string() }
    }
}

fn rows_failed(folder: &DataFolder, reason: String) -> OpenDatabaseError {
    OpenDatabaseError::Rows { path: folder.path().to_owned(), reason }
}

pub(crate) fn read_failed(table: Table, error: rocksdb::Error) -> StoreError {
    StoreError { table, reason: error.into_string() }
}

fn named(name: &str) -> Vec<u8> {
    [NAME_PREFIX, name.as_bytes()].concat()
}

fn grouped(group: u64) -> Vec<u8> {
    [GROUP_PREFIX, &group.to_be_bytes()].concat()
}

fn group_row(key: &[u8], value: &[u8]) -> Result<(u64, ReplicaId), StoreError> {
    let group = key.strip_prefix(GROUP_PREFIX).and_then(|key| key.try_into().ok()).map(u64::from_be_bytes);
    let replica = match value.split_first() {
        Some((&GROUP_ROW_VERSION, id)) => id.try_into().ok().map(u64::from_be_bytes).and_then(ReplicaId::new),
        Some(_) | None => None,
    };
    group
        .zip(replica)
        .ok_or_else(|| StoreError { table: IDENTITY, reason: "the row of a group is not understood".to_owned() })
}

/// The first key after every key that starts with `prefix`, whose last byte is below 255.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica that is opened takes its rows to be on disk.
    #[test]
    fn what_a_former_run_did_not_sync_is_in_files_once_the_database_is_opened() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let in_memory = |database: &Database| {
            let family = database.family(Table::LOG).expect("it is always there");
            let entries = rocksdb::properties::NUM_ENTRIES_ACTIVE_MEM_TABLE;
            database.rows.property_int_value_cf(family, entries).expect("a property").expect("a number")
        };
        let mut changes = WriteBatch::default();
        changes.put(Table::LOG, b"key".to_vec(), b"value".to_vec());
        let database = Database::open(folder.path(), &[]).expect("a fresh folder");
        database.write_groups([(1, &changes)], Durability::Unsynced).expect("the disk has room");
        assert_eq!(in_memory(&database), 1);
        drop(database);
        let database = Database::open(folder.path(), &[]).expect("its own folder");
        assert_eq!(in_memory(&database), 0, "the log was replayed into synced files");
        let row =
            database.get(Table::LOG, &row_key(Table::LOG, 1, Generation::default(), b"key"), &ReadOptions::default());
        assert_eq!(row.expect("readable").as_deref(), Some(&b"value"[..]));
    }
}
