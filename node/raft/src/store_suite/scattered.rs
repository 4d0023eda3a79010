//! Writes without a meaning: rows of all groups and tables are set, removed and removed in ranges.

use bytes::Bytes;
use proptest::prelude::*;

use super::crashes::{Chance, Crash, CrashingDisk, DiskWrite, GROUPS, Models, Survival, Workload, check_crashes};
use super::{TABLES, batch};
use crate::store::WriteBatch;

/// Longer than every key drawn by lot, so that only removals in ranges reach it.
const NUMBER: &[u8] = &[0x7f; 5];
/// Larger than a block of RocksDB's write-ahead log, which then holds the write in several pieces.
const LARGE_BYTES: std::ops::Range<usize> = 33_000..120_000;

/// Puts a disk through crashes between and in the middle of writes of several groups and tables, and checks that what is left
/// are the rows after some number of whole writes, and enough of them (see [`CrashingDisk`]). The writes follow from `seed`.
/// The last crash must follow a write.
///
/// # Panics
/// Panics with the seed and the crash after which other rows were found.
pub fn check_batches_survive_crashes<D: CrashingDisk>(disk: &mut D, seed: u64, crashes: &[Crash]) -> Survival {
    check_crashes(disk, &mut Scattered { chance: Chance::new(seed), made: 0 }, seed, crashes)
}

struct Scattered {
    chance: Chance,
    made: u64,
}

impl Workload for Scattered {
    fn next(&mut self) -> DiskWrite {
        self.made += 1;
        let first = self.chance.below(GROUPS.len());
        let groups = 1 + self.chance.below(GROUPS.len());
        let changes = (0..groups).map(|next| (GROUPS[(first + next) % GROUPS.len()], self.changes())).collect();
        DiskWrite { changes, synced: self.chance.draw(any::<bool>()) }
    }

    fn acknowledged(&mut self) {}

    fn reopen<D: CrashingDisk>(&mut self, _disk: &D, _rows: &Models, _survivors: usize) {}
}

impl Scattered {
    fn changes(&mut self) -> WriteBatch {
        let mut changes = self.chance.draw(batch(TABLES.to_vec()));
        if self.chance.one_in(6) {
            let bytes = self.chance.draw(LARGE_BYTES);
            let byte = self.chance.draw(any::<u8>());
            changes.put(TABLES[self.chance.below(TABLES.len())], b"large".to_vec(), vec![byte; bytes]);
        }
        // In every table, and last: half a write is then never taken for a whole one, nor one write for another.
        for table in TABLES {
            changes.put(table, NUMBER, Bytes::copy_from_slice(&self.made.to_be_bytes()));
        }
        changes
    }
}
