//! A [`Store`] in memory, for tests and simulation, that forgets on a crash what was not synced.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::{Row, Store, StoreError, Table, Write, WriteBatch};

type Rows = BTreeMap<Table, BTreeMap<Bytes, Bytes>>;

/// Rows in memory. Clones share them, as handles to one disk do.
#[derive(Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    /// What reads see.
    current: Rows,
    /// What the last sync made safe.
    synced: Rows,
    /// Batches written since, in order.
    unsynced: Vec<WriteBatch>,
}

impl MemoryStore {
    /// Returns an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a batch visible, not yet safe from a crash.
    pub fn write(&self, batch: &WriteBatch) {
        let mut disk = self.disk();
        make(&mut disk.current, batch);
        disk.unsynced.push(batch.clone());
    }

    /// Makes everything written so far safe.
    pub fn sync(&self) {
        let disk = &mut *self.disk();
        for batch in disk.unsynced.drain(..) {
            make(&mut disk.synced, &batch);
        }
    }

    /// Forgets every batch written after the last sync.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Forgets the batches written after the last sync, except the first `batches` of them: storage may have written more
    /// than it was asked to, but never a later batch without an earlier one.
    pub fn crash_keeping(&self, batches: usize) {
        let disk = &mut *self.disk();
        for batch in disk.unsynced.drain(..).take(batches) {
            make(&mut disk.synced, &batch);
        }
        disk.current = disk.synced.clone();
    }

    /// Returns every row of a table, in order.
    pub fn rows(&self, table: Table) -> Vec<Row> {
        let disk = self.disk();
        let rows = disk.current.get(&table).into_iter().flatten();
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A panic of another holder leaves whole batches behind: each is made under one lock.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.disk().current.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let disk = self.disk();
        let Some(rows) = disk.current.get(&table).filter(|_| from < to) else { return Ok(Vec::new()) };
        let range = rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range.take(rows_max).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

fn make(rows: &mut Rows, batch: &WriteBatch) {
    for write in &batch.writes {
        match write {
            Write::Put { table, key, value } => {
                rows.entry(*table).or_default().insert(key.clone(), value.clone());
            }
            Write::Delete { table, key } => {
                rows.entry(*table).or_default().remove(key);
            }
            Write::DeleteRange { table, from, to } => {
                rows.entry(*table).or_default().retain(|key, _| key < from || key >= to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_suite::{StoreUnderTest, check_store};

    const TABLE: Table = Table("rows");

    impl StoreUnderTest for MemoryStore {
        fn write(&self, batch: &WriteBatch) {
            MemoryStore::write(self, batch);
        }
    }

    #[test]
    fn memory_agrees_with_the_model() {
        check_store(&[TABLE, Table("more")], MemoryStore::new);
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_what_was_not() {
        let store = MemoryStore::new();
        let keys = |store: &MemoryStore| store.rows(TABLE).into_iter().map(|(key, _)| key[0]).collect::<Vec<_>>();
        for key in 0..5_u8 {
            let mut batch = WriteBatch::default();
            batch.put(TABLE, vec![key], vec![key]);
            store.write(&batch);
            if key == 1 {
                store.sync();
            }
        }
        store.crash_keeping(1);
        assert_eq!(keys(&store), [0, 1, 2]);
        store.crash();
        assert_eq!(keys(&store), [0, 1, 2]);
    }
}
