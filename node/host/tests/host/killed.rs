//! The suite of stores against databases whose process is killed at each of its writes.
//!
//! A killed process takes nothing with it that it had handed to the operating system: these tests show that a write is there
//! whole or not at all, and in its order, wherever the process dies. They do not show that what was synced survives a power
//! cut; [`crate::torn_log`] takes what was not synced away.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::Arc;

use bytes::Bytes;

use crate::child::{FOLDER, child, start};
use crate::disk::{open, temporary_folder, write};
use semel_raft::store_suite::{
    Crash, CrashingDisk, DiskWrite, Survival, TABLES, check_batches_survive_crashes, check_replicas_survive_crashes,
};
use semel_raft::{Write, WriteBatch};
use semel_raft_host::{Database, GroupStore};

/// Writes of one script. Each is met before, in its middle, and after.
const WRITES: usize = 16;
const SIGKILL: i32 = 9;

const OPENED: &str = "opened";
const BEGUN: &str = "begun";
const ACKNOWLEDGED: &str = "acknowledged";

/// A process that makes the writes it is told, and says how far it is.
struct Writer {
    process: Child,
    said: BufReader<ChildStderr>,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let mut command = child("killed::what_sigkill_leaves_at_each_write_is_whole", folder, "");
        let mut process = start(command.stdin(Stdio::piped())).expect("starts");
        let said = BufReader::new(process.stderr.take().expect("piped"));
        let mut writer = Self { process, said };
        writer.hear(OPENED);
        writer
    }

    fn tell(&mut self, write: &DiskWrite) {
        let stdin = self.process.stdin.as_mut().expect("piped");
        stdin.write_all(&encode(write)).expect("it reads");
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("text");
        if line.trim_end() != expected {
            self.said.read_to_string(&mut line).expect("text");
            panic!("{expected} was expected: {line}");
        }
    }

    fn kill(mut self) {
        self.process.kill().expect("it runs");
        let status = self.process.wait().expect("it ends");
        assert_eq!(status.signal(), Some(SIGKILL), "{status}");
    }
}

/// What the writer does: the other end of [`Writer`].
fn write_what_is_told(folder: &Path) {
    // Past the test harness, which holds back what tests print.
    let say = |what: &str| std::io::stderr().write_all(format!("{what}\n").as_bytes()).expect("the parent reads");
    let database = open(folder).expect("the folder can be opened");
    say(OPENED);
    let mut told = std::io::stdin().lock();
    while let Some(changes) = decode(&mut told) {
        say(BEGUN);
        write(&database, &changes).expect("rows can be written");
        say(ACKNOWLEDGED);
    }
}

/// When a write that is begun is met.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as the process can have read it.
    Told,
    /// As soon as it says that it begins.
    Begun,
}

/// A database in a process that each crash kills.
struct KilledDisk {
    folder: tempfile::TempDir,
    moment: Moment,
    writer: Option<Writer>,
    /// Between a crash and the next write: the folder has one owner at a time.
    reopened: Option<Arc<Database>>,
    kills_begun: usize,
}

impl KilledDisk {
    fn fresh(moment: Moment) -> Self {
        let folder = temporary_folder();
        Self { folder, moment, writer: None, reopened: None, kills_begun: 0 }
    }

    fn writer(&mut self) -> &mut Writer {
        self.reopened = None;
        self.writer.get_or_insert_with(|| Writer::start(self.folder.path()))
    }
}

impl CrashingDisk for KilledDisk {
    type Group = GroupStore;

    const CRASH_SPARES_UNSYNCED: bool = true;

    fn write(&mut self, write: &DiskWrite) {
        let writer = self.writer();
        writer.tell(write);
        writer.hear(BEGUN);
        writer.hear(ACKNOWLEDGED);
    }

    fn crash(&mut self, begun: Option<&DiskWrite>) {
        let moment = self.moment;
        let writer = self.writer();
        if let Some(begun) = begun {
            writer.tell(begun);
            match moment {
                Moment::Told => {}
                Moment::Begun => writer.hear(BEGUN),
            }
        }
        self.kills_begun += usize::from(begun.is_some());
        self.writer.take().expect("just used").kill();
        self.reopened = Some(open(self.folder.path()).expect("the folder can be opened"));
    }

    fn group(&self, group: u64) -> GroupStore {
        self.reopened.as_ref().expect("asked for after a crash").group(group)
    }
}

/// Kills at each write of a script: before it, in its middle and after it; and then once more, a few writes later.
fn kill_at_each_write(check: impl Fn(&mut KilledDisk, u64, &[Crash]) -> Survival) {
    let (mut survival, mut begun) = (Survival::default(), 0);
    for at in 1..=WRITES {
        let seed = 17;
        let again = Crash { writes: 1 + at % 3, in_write: at % 2 == 0 };
        let cases = [
            (Moment::Told, Crash { writes: at - 1, in_write: true }),
            (Moment::Begun, Crash { writes: at - 1, in_write: true }),
            (Moment::Begun, Crash { writes: at, in_write: false }),
        ];
        for (moment, crash) in cases {
            let mut disk = KilledDisk::fresh(moment);
            survival.add(check(&mut disk, seed, &[crash, again]));
            begun += disk.kills_begun;
        }
    }
    println!(
        "{} kills; of {begun} writes that were begun and not acknowledged, {} survived",
        survival.crashes, survival.begun_survivors
    );
    assert_eq!(survival.crashes, 6 * WRITES);
    assert_eq!(survival.unpromised, begun, "what was acknowledged survives the end of the process, synced or not");
}

#[test]
fn what_sigkill_leaves_at_each_write_is_whole() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return write_what_is_told(folder.as_ref());
    }
    kill_at_each_write(check_batches_survive_crashes);
}

#[test]
fn replicas_survive_sigkill_at_each_write() {
    kill_at_each_write(check_replicas_survive_crashes);
}

/// A write as the processes of this test hand it over: numbers in 8 bytes, bytes after their number.
fn encode(write: &DiskWrite) -> Vec<u8> {
    let mut bytes = Vec::new();
    let number = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_be_bytes());
    number(&mut bytes, u64::from(write.synced));
    number(&mut bytes, write.changes.len() as u64);
    for (group, changes) in &write.changes {
        number(&mut bytes, *group);
        number(&mut bytes, changes.writes.len() as u64);
        for change in &changes.writes {
            let nothing = Bytes::new();
            let (kind, table, first, second) = match change {
                Write::Put { table, key, value } => (0, table, key, value),
                Write::Delete { table, key } => (1, table, key, &nothing),
                Write::DeleteRange { table, from, to } => (2, table, from, to),
            };
            number(&mut bytes, kind);
            number(&mut bytes, TABLES.iter().position(|known| known == table).expect("a table of the suite") as u64);
            for part in [first, second] {
                number(&mut bytes, part.len() as u64);
                bytes.extend_from_slice(part);
            }
        }
    }
    bytes
}

/// Reads a write; `None` once there is no more.
fn decode(told: &mut impl Read) -> Option<DiskWrite> {
    fn number(told: &mut impl Read) -> Option<u64> {
        let mut bytes = [0; 8];
        told.read_exact(&mut bytes).ok()?;
        Some(u64::from_be_bytes(bytes))
    }
    fn part(told: &mut impl Read) -> Option<Vec<u8>> {
        let mut bytes = vec![0; number(told)? as usize];
        told.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
    let synced = number(told)? == 1;
    let mut changes = Vec::new();
    for _ in 0..number(told)? {
        let group = number(told)?;
        let mut batch = WriteBatch::default();
        for _ in 0..number(told)? {
            let (kind, table) = (number(told)?, TABLES[number(told)? as usize]);
            let (first, second) = (part(told)?, part(told)?);
            match kind {
                0 => batch.put(table, first, second),
                1 => batch.delete(table, first),
                _ => batch.delete_range(table, first, second),
            }
        }
        changes.push((group, batch));
    }
    Some(DiskWrite { changes, synced })
}
