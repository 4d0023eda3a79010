//! The disk of one process: the rows of all its groups, written in whole batches, of which those not synced may be lost. Also
//! what can go wrong with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use crate::chance::Chance;
use bytes::Bytes;
use semel_raft::{Row, Store, StoreError, Table, Write, WriteBatch};

/// A row's table within its group.
type Place = (u64, Table);

/// A disk.
#[derive(Default)]
pub(crate) struct Disk {
    rows: BTreeMap<Place, BTreeMap<Bytes, Bytes>>,
    /// Files beside the rows, by group and name, with whether a crash may yet damage them. Never synced.
    files: BTreeMap<(u64, String), (Vec<u8>, bool)>,
    /// How to undo each batch written since the last sync, oldest first.
    unsynced: Vec<Vec<Undo>>,
    /// How many batches are safe, or were taken back.
    settled: u64,
    /// Whether writes fail for want of room.
    full: bool,
    /// Whether the next sync fails.
    sync_fails: bool,
    /// The group whose rows cannot be read.
    unreadable: Option<u64>,
}

/// What a row was before a batch changed it.
struct Undo {
    place: Place,
    key: Bytes,
    before: Option<Bytes>,
}

/// Why a write or sync failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("no space left")]
    Full,
    #[error("sync failed")]
    Sync,
}

impl Disk {
    /// Writes one batch over several groups: visible as a whole, not yet safe.
    pub(crate) fn write<'a>(
        &mut self,
        parts: impl IntoIterator<Item = (u64, &'a WriteBatch)>,
    ) -> Result<(), DiskError> {
        if self.full {
            return Err(DiskError::Full);
        }
        let mut undo = Vec::new();
        for (group, batch) in parts {
            for write in &batch.writes {
                self.change(group, write, &mut undo);
            }
        }
        self.unsynced.push(undo);
        Ok(())
    }

    /// Makes everything written so far safe.
    pub(crate) fn sync(&mut self) -> Result<(), DiskError> {
        self.sync_to(self.batches())
    }

    /// How many batches were written so far.
    pub(crate) fn batches(&self) -> u64 {
        self.settled + self.unsynced.len() as u64
    }

    /// Ends a sync that was begun when so many batches were written: those are safe.
    pub(crate) fn sync_to(&mut self, batches: u64) -> Result<(), DiskError> {
        if std::mem::take(&mut self.sync_fails) {
            return Err(DiskError::Sync);
        }
        let safe = usize::try_from(batches.saturating_sub(self.settled)).expect("as many are in memory");
        self.unsynced.drain(..safe);
        self.settled += safe as u64;
        Ok(())
    }

    /// Batches that a crash may lose.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Loses the batches written since the last sync, except the first `kept` of them: storage may have written more than it
    /// was asked to, but never a later batch without an earlier one. A batch of which only a part was written is lost whole:
    /// its checksum does not fit.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.crash_tearing(kept, 0);
    }

    /// As [`Self::crash`], and keeps the first `torn` changes of the first batch lost, as a disk without checksums would.
    pub(crate) fn crash_tearing(&mut self, kept: usize, torn: usize) {
        let before = self.batches();
        let lost = self.unsynced.split_off(kept.min(self.unsynced.len()));
        for (position, undo) in lost.into_iter().enumerate().rev() {
            let stays = if position == 0 { torn } else { 0 };
            for change in undo.into_iter().skip(stays).rev() {
                let rows = self.rows.entry(change.place).or_default();
                match change.before {
                    Some(before) => rows.insert(change.key, before),
                    None => rows.remove(&change.key),
                };
            }
        }
        self.settled = before;
        self.unsynced.clear();
        (self.sync_fails, self.unreadable) = (false, None);
    }

    /// Writes a file of a group beside its rows, as a whole.
    pub(crate) fn write_file(&mut self, group: u64, name: &str, bytes: Vec<u8>) -> Result<(), DiskError> {
        if self.full {
            return Err(DiskError::Full);
        }
        self.files.insert((group, name.to_owned()), (bytes, true));
        Ok(())
    }

    /// What a group's file holds.
    pub(crate) fn file(&self, group: u64, name: &str) -> Option<Vec<u8>> {
        self.files.get(&(group, name.to_owned())).map(|(bytes, _)| bytes.clone())
    }

    /// Removes files of a group.
    pub(crate) fn remove_files(&mut self, group: u64, which: impl Fn(&str) -> bool) {
        self.files.retain(|(of, name), _| *of != group || !which(name));
    }

    /// A crash loses some of the files written since the last one, or the ends of them; and files rot. Returns how many it damaged.
    pub(crate) fn damage_files(&mut self, chance: &mut Chance) -> u64 {
        let mut damaged = 0;
        self.files.retain(|_, (bytes, recent)| {
            let torn = std::mem::take(recent) && chance.one_in(4);
            if torn {
                let kept = chance.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(kept);
            } else if chance.one_in(40) && !bytes.is_empty() {
                let at = chance.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << chance.below(8);
            } else {
                return true;
            }
            damaged += 1;
            !bytes.is_empty()
        });
        damaged
    }

    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Ends whatever is wrong with it.
    pub(crate) fn mend(&mut self) {
        (self.full, self.sync_fails, self.unreadable) = (false, false, None);
    }

    pub(crate) fn fail_next_sync(&mut self) {
        self.sync_fails = true;
    }

    /// Makes the rows of one group unreadable until the process starts again.
    pub(crate) fn make_unreadable(&mut self, group: u64) {
        self.unreadable = Some(group);
    }

    /// Loses everything: another disk is put in its place.
    pub(crate) fn wipe(&mut self) {
        *self = Self::default();
    }

    fn change(&mut self, group: u64, write: &Write, undo: &mut Vec<Undo>) {
        match write {
            Write::Put { table, key, value } => {
                let place = (group, *table);
                let before = self.rows.entry(place).or_default().insert(key.clone(), value.clone());
                undo.push(Undo { place, key: key.clone(), before });
            }
            Write::Delete { table, key } => {
                let place = (group, *table);
                let before = self.rows.entry(place).or_default().remove(key);
                undo.push(Undo { place, key: key.clone(), before });
            }
            Write::DeleteRange { table, from, to } => {
                let place = (group, *table);
                let rows = self.rows.entry(place).or_default();
                let keys: Vec<Bytes> = range(rows, from, to).map(|(key, _)| key.clone()).collect();
                for key in keys {
                    let before = rows.remove(&key);
                    undo.push(Undo { place, key, before });
                }
            }
        }
    }
}

fn range<'a>(
    rows: &'a BTreeMap<Bytes, Bytes>,
    from: &[u8],
    to: &[u8],
) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> + use<'a> {
    let within = (from < to).then(|| rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))));
    within.into_iter().flatten()
}

/// A handle to a disk, as a process holds it. The disk outlives the process.
pub(crate) type SharedDisk = Rc<RefCell<Disk>>;

/// The rows of one group on a disk.
#[derive(Clone)]
pub(crate) struct GroupDisk {
    pub(crate) disk: SharedDisk,
    pub(crate) group: u64,
}

impl GroupDisk {
    fn check(&self, disk: &Disk, table: Table) -> Result<(), StoreError> {
        if disk.unreadable == Some(self.group) {
            return Err(StoreError { table, reason: "input/output error".to_owned() });
        }
        Ok(())
    }
}

impl Store for GroupDisk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let disk = self.disk.borrow();
        self.check(&disk, table)?;
        Ok(disk.rows.get(&(self.group, table)).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let disk = self.disk.borrow();
        self.check(&disk, table)?;
        let Some(rows) = disk.rows.get(&(self.group, table)) else { return Ok(Vec::new()) };
        Ok(range(rows, from, to).take(rows_max).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use semel_raft::store_suite::{
        Crash, CrashingDisk, DiskWrite, StoreUnderTest, TABLES, check_batches_survive_crashes,
        check_replicas_survive_crashes, check_store,
    };

    use super::*;

    impl StoreUnderTest for GroupDisk {
        fn write(&self, batch: &WriteBatch) {
            self.disk.borrow_mut().write([(self.group, batch)]).expect("the disk has room");
        }
    }

    /// A disk that keeps a part of what it may lose, another one each time.
    #[derive(Default)]
    struct Crashing {
        disk: SharedDisk,
        crashes: usize,
    }

    impl CrashingDisk for Crashing {
        type Group = GroupDisk;

        const CRASH_SPARES_UNSYNCED: bool = false;

        fn write(&mut self, write: &DiskWrite) {
            let mut disk = self.disk.borrow_mut();
            disk.write(write.changes.iter().map(|(group, batch)| (*group, batch))).expect("the disk has room");
            if write.synced {
                disk.sync().expect("no sync was made to fail");
            }
        }

        fn crash(&mut self, begun: Option<&DiskWrite>) {
            if let Some(begun) = begun {
                self.write(&DiskWrite { synced: false, ..begun.clone() });
            }
            self.crashes += 1;
            self.disk.borrow_mut().crash(self.crashes % 3);
        }

        fn group(&self, group: u64) -> GroupDisk {
            GroupDisk { disk: self.disk.clone(), group }
        }
    }

    fn histories(check: impl Fn(&mut Crashing, u64, &[Crash])) {
        for seed in 0..60 {
            // The last crash follows a write, so that the disk is seen to take some after a crash.
            let crash = |number: u64| {
                let writes = ((seed * 7 + number * 5) % 10 + number / 7) as usize;
                Crash { writes, in_write: number.is_multiple_of(2) }
            };
            let crashes: Vec<Crash> = (0..8).map(crash).collect();
            check(&mut Crashing::default(), seed, &crashes);
        }
    }

    #[test]
    fn a_simulated_disk_agrees_with_the_model_of_every_store() {
        check_store(&TABLES, || GroupDisk { disk: SharedDisk::default(), group: 5 });
    }

    #[test]
    fn a_simulated_disk_survives_crashes_as_every_disk_must() {
        histories(|disk, seed, crashes| {
            let survival = check_batches_survive_crashes(disk, seed, crashes);
            assert_eq!(survival.crashes, crashes.len());
        });
    }

    #[test]
    fn replicas_on_a_simulated_disk_keep_what_they_promised() {
        histories(|disk, seed, crashes| {
            let survival = check_replicas_survive_crashes(disk, seed, crashes);
            assert_eq!(survival.crashes, crashes.len());
        });
    }
}
