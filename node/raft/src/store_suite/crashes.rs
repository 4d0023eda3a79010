//! A disk with the rows of several groups, whose process dies again and again: what must be left, and the course of a check.
//! Which writes are made is the affair of [`super::scattered`] and [`super::replicas`].

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{Model, TABLES, make};
use crate::store::{Store, WriteBatch};

/// The groups on the disk: neighbours, and one far from them. A driver may need the upper 16 bits of a group's number.
pub(super) const GROUPS: [u64; 3] = [1, 2, 0x7f00_0000_00ff];

/// Sorts after every key of the suite.
const END: &[u8] = &[0xff; 9];
/// Few, so that a scan is seen to take up where the last one ended.
const SCAN_ROWS_MAX: usize = 7;

/// One write: it becomes visible, and survives, whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct DiskWrite {
    /// The changes of each group, in order.
    pub changes: Vec<(u64, WriteBatch)>,
    /// Whether this write, and with it each one before, must be safe from a power cut once it is acknowledged.
    pub synced: bool,
}

/// Several groups' rows on one disk that can lose its process, or its power. It starts without a row and has the tables
/// [`TABLES`].
///
/// After a crash its rows must be those after some number of the writes, in their order: at least as many as were
/// acknowledged as safe, no part of another, and none that was lost in an earlier crash. It must take further writes then.
///
/// A simulated disk makes each write and, where asked, syncs; to crash, it makes the write that is begun, without a sync, and
/// forgets what is not synced but for the first few writes of it. Storage of a process is killed and opened again.
pub trait CrashingDisk {
    /// The rows of one group.
    type Group: Store;

    /// Whether a crash spares what was acknowledged without having been synced, as the end of a process does and a power cut
    /// does not.
    const CRASH_SPARES_UNSYNCED: bool;

    /// Makes a write and returns once it is acknowledged: where [`DiskWrite::synced`] asks for it, after it is safe.
    fn write(&mut self, write: &DiskWrite);

    /// Crashes, in the middle of a write where one is begun, and opens the disk again. The write that is begun was not
    /// acknowledged: it may be there afterwards, whole, or not.
    fn crash(&mut self, begun: Option<&DiskWrite>);

    /// Returns the rows of a group. Asked for between a crash and the next write alone, and dropped before that write.
    fn group(&self, group: u64) -> Self::Group;
}

/// What happens up to and with one crash.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// How many writes are acknowledged before it.
    pub writes: usize,
    /// Whether it happens in the middle of one more.
    pub in_write: bool,
}

/// What the crashes of one check came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survival {
    /// How often the disk crashed.
    pub crashes: usize,
    /// Writes that were not acknowledged as safe before a crash.
    pub unpromised: usize,
    /// Those of them that were there after it.
    pub unpromised_survivors: usize,
    /// Writes that were begun and not acknowledged, and were there after the crash.
    pub begun_survivors: usize,
}

impl Survival {
    /// Adds what another check came to.
    pub fn add(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.unpromised += other.unpromised;
        self.unpromised_survivors += other.unpromised_survivors;
        self.begun_survivors += other.begun_survivors;
    }
}

/// The rows of all groups.
pub(super) type Models = BTreeMap<u64, Model>;

/// Where the writes of a check come from.
pub(super) trait Workload {
    /// Returns the next write; each leaves other rows than the one before.
    fn next(&mut self) -> DiskWrite;

    /// The write that was returned last is acknowledged, and safe where it was to be synced.
    fn acknowledged(&mut self);

    /// The disk crashed and was opened again. Checks what its groups are taken for, and goes on from their rows, which were
    /// seen to be `rows`, those after the first `survivors` of the writes since the last crash.
    fn reopen<D: CrashingDisk>(&mut self, disk: &D, rows: &Models, survivors: usize);
}

/// Everything that is drawn by lot in one check follows from its seed.
pub(super) struct Chance(TestRunner);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self(TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng))
    }

    pub(super) fn draw<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.0).expect("nothing is filtered out").current()
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.draw(0..bound)
    }

    pub(super) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// Puts a disk through crashes. The last one must follow a write, so that what was opened before is seen to take it.
pub(super) fn check_crashes<D: CrashingDisk, W: Workload>(
    disk: &mut D,
    workload: &mut W,
    seed: u64,
    crashes: &[Crash],
) -> Survival {
    assert!(crashes.len() >= 2, "a disk is seen to take writes after a crash");
    assert!(crashes.last().is_some_and(|last| last.writes > 0), "a disk is seen to take writes after a crash");
    let mut survival = Survival::default();
    let mut rows = Models::new();
    for (number, crash) in crashes.iter().enumerate() {
        let mut states = vec![rows];
        let mut safe = 0;
        for made in 1..=crash.writes {
            let write = workload.next();
            disk.write(&write);
            workload.acknowledged();
            states.push(after(&states[made - 1], &write));
            if write.synced || D::CRASH_SPARES_UNSYNCED {
                safe = made;
            }
        }
        let begun = crash.in_write.then(|| workload.next());
        disk.crash(begun.as_ref());
        states.extend(begun.iter().map(|write| after(&states[crash.writes], write)).collect::<Vec<_>>());
        let found = rows_of(disk);
        let survivors = states.iter().rposition(|state| *state == found).unwrap_or_else(|| {
            let apart: Vec<_> = states.iter().map(|state| rows_apart(state, &found)).collect();
            panic!("SEED={seed}: after crash {number} ({crash:?}) the rows are not those after any number of writes; rows apart: {apart:?}")
        });
        assert!(
            survivors >= safe,
            "SEED={seed}: after crash {number} ({crash:?}) {survivors} writes are left, but {safe} were acknowledged as safe"
        );
        survival.crashes += 1;
        survival.unpromised += states.len() - 1 - safe;
        survival.unpromised_survivors += survivors - safe;
        survival.begun_survivors += usize::from(survivors > crash.writes);
        rows = found;
        workload.reopen(disk, &rows, survivors);
    }
    survival
}

fn after(rows: &Models, write: &DiskWrite) -> Models {
    let mut rows = rows.clone();
    for (group, batch) in &write.changes {
        make(rows.entry(*group).or_default(), batch);
    }
    rows.retain(|_, model| !model.is_empty());
    rows
}

/// Every row of every group, by scans of a few rows each.
fn rows_of<D: CrashingDisk>(disk: &D) -> Models {
    let mut rows = Models::new();
    for group in GROUPS {
        let store = disk.group(group);
        for table in TABLES {
            let mut from = Bytes::new();
            loop {
                let page = store.scan(table, &from, END, SCAN_ROWS_MAX).expect("the rows can be read");
                let full = page.len() == SCAN_ROWS_MAX;
                if let Some((last, _)) = page.last() {
                    from = Bytes::from([last, &[0][..]].concat());
                }
                let keyed = page.into_iter().map(|(key, value)| ((table, key), value));
                rows.entry(group).or_default().extend(keyed);
                if !full {
                    break;
                }
            }
        }
    }
    rows.retain(|_, model| !model.is_empty());
    rows
}

/// How many rows differ.
fn rows_apart(one: &Models, other: &Models) -> usize {
    let in_group = |one: &Model, other: &Model| {
        let changed = one.iter().filter(|(key, value)| other.get(*key) != Some(*value)).count();
        changed + other.keys().filter(|key| !one.contains_key(*key)).count()
    };
    let none = Model::new();
    GROUPS.iter().map(|group| in_group(one.get(group).unwrap_or(&none), other.get(group).unwrap_or(&none))).sum()
}
