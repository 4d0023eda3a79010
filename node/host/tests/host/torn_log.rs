//! The write-ahead log of a database after a power cut, which leaves it without its end, and after worse.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{last_number, log_bytes, newest_log, numbered, open, temporary_folder, write};
use semel_raft::store_suite::{
    Crash, CrashingDisk, DiskWrite, Survival, check_batches_survive_crashes, check_replicas_survive_crashes,
};
use semel_raft_host::{Database, GroupStore, OpenDatabaseError};

/// Cuts the log to `bytes`.
fn cut(log: &Path, bytes: u64) {
    fs::File::options().write(true).open(log).and_then(|file| file.set_len(bytes)).expect("can be cut short");
}

/// Loses, at each crash, the end of the log: up to all bytes that were not synced. It stands in for a power cut on a file system
/// that lets a file grow in order.
struct TornDisk {
    folder: tempfile::TempDir,
    /// Closed during a crash alone.
    database: Option<Arc<Database>>,
    synced_bytes: u64,
    /// A different part of what was not synced is kept each time.
    crashes: u64,
}

impl TornDisk {
    fn fresh(seed: u64) -> Self {
        let folder = temporary_folder();
        let database = Some(open(folder.path()).expect("the folder can be opened"));
        let synced_bytes = log_bytes(folder.path());
        Self { folder, database, synced_bytes, crashes: seed }
    }

    fn database(&self) -> &Arc<Database> {
        self.database.as_ref().expect("open between crashes")
    }
}

impl CrashingDisk for TornDisk {
    type Group = GroupStore;

    const CRASH_SPARES_UNSYNCED: bool = false;

    fn write(&mut self, changes: &DiskWrite) {
        write(self.database(), changes).expect("rows can be written");
        if changes.synced {
            self.synced_bytes = log_bytes(self.folder.path());
        }
    }

    fn crash(&mut self, begun: Option<&DiskWrite>) {
        if let Some(begun) = begun {
            write(self.database(), begun).expect("rows can be written");
        }
        self.database = None;
        self.crashes += 1;
        let unsynced = log_bytes(self.folder.path()) - self.synced_bytes;
        // Nothing, then all, then a part from almost nothing to almost all.
        let kept = match self.crashes % 6 {
            0 => 0,
            1 => unsynced,
            part => (unsynced * (part - 1) / 5 + self.crashes % 13).min(unsynced),
        };
        cut(&newest_log(self.folder.path()), self.synced_bytes + kept);
        self.database = Some(open(self.folder.path()).expect("a torn log can be opened"));
        self.synced_bytes = log_bytes(self.folder.path());
    }

    fn group(&self, group: u64) -> GroupStore {
        self.database().group(group)
    }
}

#[test]
fn whole_writes_survive_a_power_cut() {
    let mut survival = Survival::default();
    for seed in 0..6 {
        let crashes: Vec<Crash> =
            (1..=6).map(|n| Crash { writes: (seed as usize + n * n) % 7 + n / 6, in_write: n % 3 > 0 }).collect();
        survival.add(check_batches_survive_crashes(&mut TornDisk::fresh(seed), seed, &crashes));
        survival.add(check_replicas_survive_crashes(&mut TornDisk::fresh(seed), seed, &crashes));
    }
    println!("power cuts: {survival:?}");
    assert!(survival.unpromised_survivors > 0 && survival.unpromised_survivors < survival.unpromised, "{survival:?}");
}

/// A closed database whose log holds the writes 1 to `before` and one more of `bytes` bytes, and the length of the log before
/// that one.
fn closed(folder: &Path, before: u64, bytes: usize) -> u64 {
    let database = open(folder).expect("the folder can be opened");
    for number in 1..=before {
        write(&database, &numbered(number, 0)).expect("rows can be written");
    }
    let start = log_bytes(folder);
    write(&database, &numbered(before + 1, bytes)).expect("rows can be written");
    start
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("readable") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("readable");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("can be copied");
        }
    }
}

/// Cuts the last write at `lengths` of its bytes, given where it begins and ends in the log, and opens what is left.
fn check_cuts(before: u64, bytes: usize, lengths: impl Fn(Range<u64>) -> Vec<u64>) {
    let folder = temporary_folder();
    let start = closed(folder.path(), before, bytes);
    let end = log_bytes(folder.path());
    let (whole, lengths) = (end - start, lengths(start..end));
    for length in &lengths {
        let torn = temporary_folder();
        copy(folder.path(), torn.path());
        cut(&newest_log(torn.path()), start + length);
        let database = open(torn.path()).unwrap_or_else(|error| panic!("at {length} of {whole} bytes: {error}"));
        let expected = if *length == whole { before + 1 } else { before };
        assert_eq!(last_number(&database), expected, "at {length} of {whole} bytes");
        write(&database, &numbered(before + 2, 0)).expect("rows can be written");
        assert_eq!(last_number(&database), before + 2);
    }
    println!("a log cut at {} lengths of a write of {whole} bytes", lengths.len());
}

#[test]
fn a_write_cut_short_at_any_byte_is_not_there_at_all() {
    check_cuts(3, 0, |write| (0..=write.end - write.start).collect());
}

#[test]
fn a_write_of_many_pieces_cut_short_is_not_there_at_all() {
    const BLOCK_BYTES: u64 = 32 << 10;
    // Around each piece's header and around both ends.
    check_cuts(1, 80_000, |write| {
        let ends = write.clone().filter(|at| at % BLOCK_BYTES == 0).chain([write.start, write.end]);
        let around = ends.flat_map(|end| end.saturating_sub(9)..=end + 9);
        around.filter(|at| (write.start..=write.end).contains(at)).map(|at| at - write.start).collect()
    });
}

fn check_refused(folder: &Path, what: &str) {
    match open(folder) {
        Err(error @ OpenDatabaseError::Damaged { .. }) => {
            let said = error.to_string();
            assert!(said.contains("are damaged") && said.contains("check the disk"), "{what}: {said}");
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(database) => panic!("{what}: opened with the writes up to {}", last_number(&database)),
    }
}

/// RocksDB alone takes some of these for the end of the log, forgetting up to all three writes, and over another it never ends.
#[test]
fn damage_before_the_last_write_is_refused() {
    let folder = temporary_folder();
    let start = closed(folder.path(), 2, 0) as usize;
    let log = newest_log(folder.path());
    let whole = fs::read(&log).expect("readable");
    let check = |what: &str, damage: &dyn Fn(&mut [u8])| {
        let mut damaged = whole.clone();
        damage(&mut damaged);
        fs::write(&log, damaged).expect("writable");
        check_refused(folder.path(), what);
    };
    // The first two writes are equally long.
    let second = start / 2;
    for at in 0..start {
        // Every bit of their headers, and one of each other byte.
        let bits = if at % second < 7 { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            check(&format!("bit {bit} of byte {at}"), &|log| log[at] ^= 1 << bit);
        }
    }
    check("zeros for the first write", &|log| log[..second].fill(0));
    check("zeros for the second write", &|log| log[second..start].fill(0));
    fs::write(&log, &whole).expect("writable");
    assert_eq!(last_number(&open(folder.path()).expect("whole again")), 3, "refusing changes nothing");
}

#[test]
fn sectors_of_zeros_before_the_last_write_are_refused() {
    const SECTOR_BYTES: usize = 512;
    let folder = temporary_folder();
    let start = closed(folder.path(), 40, 100_000) as usize;
    let log = newest_log(folder.path());
    let whole = fs::read(&log).expect("readable");
    for sector in (0..start + 50_000).step_by(SECTOR_BYTES) {
        let mut damaged = whole.clone();
        damaged[sector..sector + SECTOR_BYTES].fill(0);
        fs::write(&log, damaged).expect("writable");
        check_refused(folder.path(), &format!("zeros from byte {sector}"));
    }
    fs::write(&log, whole).expect("writable");
    assert_eq!(last_number(&open(folder.path()).expect("whole again")), 41, "refusing changes nothing");
}
