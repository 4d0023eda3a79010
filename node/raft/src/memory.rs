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
    /// How many batches are safe.
    batches_synced: u64,
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
        self.sync_to(self.batches_written());
    }

    /// How many batches were written so far, without those that a crash took back.
    pub fn batches_written(&self) -> u64 {
        let disk = self.disk();
        disk.batches_synced + disk.unsynced.len() as u64
    }

    /// Ends a sync that was begun when so many batches were written.
    pub fn sync_to(&self, batches: u64) {
        let disk = &mut *self.disk();
        let more = batches.saturating_sub(disk.batches_synced);
        disk.keep(usize::try_from(more).expect("as many are in memory"));
    }

    /// Forgets every batch written after the last sync.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Forgets the batches written after the last sync, except the first `batches` of them: storage may have written more
    /// than it was asked to, but never a later batch without an earlier one.
    pub fn crash_keeping(&self, batches: usize) {
        let disk = &mut *self.disk();
        disk.keep(batches.min(disk.unsynced.len()));
        disk.unsynced.clear();
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

impl Disk {
    /// Makes the first batches of those that are not safe yet so.
    fn keep(&mut self, batches: usize) {
        for batch in self.unsynced.drain(..batches) {
            make(&mut self.synced, &batch);
            self.batches_synced += 1;
        }
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
    use crate::store_suite::{
        Crash, CrashingDisk, DiskWrite, StoreUnderTest, Survival, check_batches_survive_crashes,
        check_replicas_survive_crashes, check_store,
    };

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

    /// Several groups in one store, each under its own prefix of the keys.
    #[derive(Default)]
    struct MemoryDisk {
        store: MemoryStore,
        crashes: usize,
        fault: Option<Fault>,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        /// What should be synced is as safe as what is not.
        NeverSyncs,
        /// Of a write that is begun, the changes of one group survive.
        TearsWrites,
        /// A write that is begun survives those before it.
        KeepsLaterWrites,
        /// Ranges are not removed.
        KeepsRanges,
    }

    struct Group {
        store: MemoryStore,
        group: u64,
    }

    fn prefixed(group: u64, key: &[u8]) -> Bytes {
        Bytes::from([&group.to_be_bytes()[..], key].concat())
    }

    impl Store for Group {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.store.get(table, &prefixed(self.group, key))
        }

        fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
            let rows = self.store.scan(table, &prefixed(self.group, from), &prefixed(self.group, to), rows_max)?;
            Ok(rows.into_iter().map(|(key, value)| (key.slice(8..), value)).collect())
        }
    }

    fn on_disk(write: &DiskWrite) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for (group, changes) in &write.changes {
            batch.writes.extend(changes.writes.iter().map(|write| match write {
                Write::Put { table, key, value } => {
                    Write::Put { table: *table, key: prefixed(*group, key), value: value.clone() }
                }
                Write::Delete { table, key } => Write::Delete { table: *table, key: prefixed(*group, key) },
                Write::DeleteRange { table, from, to } => {
                    Write::DeleteRange { table: *table, from: prefixed(*group, from), to: prefixed(*group, to) }
                }
            }));
        }
        batch
    }

    impl CrashingDisk for MemoryDisk {
        type Group = Group;

        const CRASH_SPARES_UNSYNCED: bool = false;

        fn write(&mut self, write: &DiskWrite) {
            let mut batch = on_disk(write);
            if self.fault == Some(Fault::KeepsRanges) {
                batch.writes.retain(|write| !matches!(write, Write::DeleteRange { .. }));
            }
            self.store.write(&batch);
            if write.synced && self.fault != Some(Fault::NeverSyncs) {
                self.store.sync();
            }
        }

        fn crash(&mut self, begun: Option<&DiskWrite>) {
            if let Some(begun) = begun {
                let mut begun = begun.clone();
                match self.fault {
                    Some(Fault::TearsWrites) => begun.changes.truncate(1),
                    Some(Fault::KeepsLaterWrites) => self.store.crash(),
                    Some(Fault::NeverSyncs | Fault::KeepsRanges) | None => {}
                }
                self.store.write(&on_disk(&begun));
                if self.fault == Some(Fault::KeepsLaterWrites) {
                    self.store.sync();
                }
            }
            self.crashes += 1;
            self.store.crash_keeping(self.crashes % 3);
        }

        fn group(&self, group: u64) -> Group {
            Group { store: self.store.clone(), group }
        }
    }

    /// Two hundred histories of eight crashes each, after 0 to 9 writes.
    fn crash_often(check: Check, fault: Option<Fault>) -> Survival {
        let mut survival = Survival::default();
        for seed in 0..200 {
            let crashes: Vec<Crash> = (1..=8)
                .map(|n| Crash { writes: (seed as usize * 7 + n * n) % 9 + n / 8, in_write: n % 2 == 0 })
                .collect();
            survival.add(check(&mut MemoryDisk { fault, ..MemoryDisk::default() }, seed, &crashes));
        }
        survival
    }

    type Check = fn(&mut MemoryDisk, u64, &[Crash]) -> Survival;
    const CHECKS: [Check; 2] = [check_batches_survive_crashes, check_replicas_survive_crashes];

    #[test]
    fn batches_and_replicas_survive_crashes() {
        for check in CHECKS {
            let survival = crash_often(check, None);
            assert_eq!(survival.crashes, 1_600);
            assert!(survival.begun_survivors > 0, "{survival:?}");
            assert!(survival.unpromised_survivors < survival.unpromised, "{survival:?}");
        }
    }

    #[test]
    fn a_disk_that_loses_or_tears_writes_is_found_out() {
        for fault in [Fault::NeverSyncs, Fault::TearsWrites, Fault::KeepsLaterWrites, Fault::KeepsRanges] {
            for check in CHECKS {
                let found = std::panic::catch_unwind(|| crash_often(check, Some(fault)));
                assert!(found.is_err(), "{fault:?}");
            }
        }
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
