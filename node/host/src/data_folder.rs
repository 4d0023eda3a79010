//! The folder that holds a process's rows: its layout, its format version, and the lock that keeps a second process out.
//!
//! What is inside the rows is not known here; see [`crate::database`].

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::database_error::OpenDatabaseError;

/// The format this program writes. A folder with a newer one is refused: older programs would misread it.
///
/// 1: every row under its group. 2: rows of state machines under a generation too, and logs that do not start at their first entry. A
/// folder of format 1 is one of format 2 in which nothing has happened yet, so it becomes one when it is opened.
pub const FORMAT_VERSION: u32 = 2;
const FORMAT_VERSION_OLDEST: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "semel data folder, format ";
const LOCK_FILE: &str = "LOCK";
/// How long whoever had the folder before may take to let go of it: a process that was killed may still be ending.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(20);
const ROWS_FOLDER: &str = "rows";
const INCOMING_FOLDER: &str = "incoming";

/// A folder that this process alone may write, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    /// Holds the advisory lock; the operating system releases it when the file is closed, also after a kill.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder if need be, locks it and checks its format. Blocks for a while if somebody else has the lock.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenDatabaseError> {
        if path.exists() && !path.is_dir() {
            return Err(OpenDatabaseError::NotAFolder { path: path.to_owned() });
        }
        fs::create_dir_all(path).map_err(failed("create folder", path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WITHIN => thread::sleep(LOCK_AGAIN_AFTER),
                Err(TryLockError::WouldBlock) => return Err(OpenDatabaseError::Locked { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
            }
        }
        let folder = Self { path: path.to_owned(), _lock: lock };
        folder.check_format()?;
        Ok(folder)
    }

    /// Where RocksDB keeps its files.
    pub(crate) fn rows(&self) -> PathBuf {
        self.path.join(ROWS_FOLDER)
    }

    /// Where files of snapshots that are coming in lie.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.path.join(INCOMING_FOLDER)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn check_format(&self) -> Result<(), OpenDatabaseError> {
        let file = self.path.join(FORMAT_FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.rows().exists() => {
                // Written before the first row, so that rows without a format are never ours.
                return self.write_format();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                return Err(OpenDatabaseError::UnknownFormat { path: self.path.clone() });
            }
            Err(error) => return Err(failed("read", &file)(error)),
        };
        let version = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim_end().parse::<u32>().ok());
        match version {
            Some(FORMAT_VERSION) => Ok(()),
            // Said before the first row of the new format, so that an older program never meets one.
            Some(FORMAT_VERSION_OLDEST..FORMAT_VERSION) => self.write_format(),
            Some(found) if found > FORMAT_VERSION => {
                Err(OpenDatabaseError::NewerFormat { path: self.path.clone(), found, supported: FORMAT_VERSION })
            }
            Some(_) | None => Err(OpenDatabaseError::UnknownFormat { path: self.path.clone() }),
        }
    }

    /// Writes beside, then renames: a crash leaves either no format file or a whole one.
    fn write_format(&self) -> Result<(), OpenDatabaseError> {
        let file = self.path.join(FORMAT_FILE);
        let beside = self.path.join("FORMAT.new");
        let write = || {
            let mut out = File::create(&beside)?;
            writeln!(out, "{FORMAT_PREFIX}{FORMAT_VERSION}")?;
            out.sync_all()?;
            fs::rename(&beside, &file)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed("write", &file))
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> OpenDatabaseError + 'a {
    move |source| OpenDatabaseError::Io { action, path: path.to_owned(), source }
}
