//! What opening, founding and writing can fail with.

use std::io;
use std::path::PathBuf;

use semel_raft::StoreError;

/// Why the rows of a process cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatabaseError {
    /// The path names something else.
    #[error("data folder {path} is not a folder")]
    NotAFolder {
        /// What was asked for.
        path: PathBuf,
    },
    /// Another process, or another database of this one, has it open.
    #[error("data folder {path} is in use by another process")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "data folder {path} has format {found}; this program reads up to {supported}: run the version that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program knows.
        supported: u32,
    },
    /// It holds something else, or its format file is damaged or missing.
    #[error("data folder {path} has no format that this program knows")]
    UnknownFormat {
        /// The folder.
        path: PathBuf,
    },
    /// It holds a table that was not asked for: it belongs to another kind of server.
    #[error("data folder {path} belongs to another kind of server: it has a table {table}")]
    OtherServer {
        /// The folder.
        path: PathBuf,
        /// The table that is not ours.
        table: String,
    },
    /// The operating system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// What was acknowledged cannot be read any more.
    #[error(
        "rows in {path} are damaged: {reason}; check the disk and keep the folder as it is: emptied, with files removed or \
         from an older copy, it would have forgotten what this server told others"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// Where, and how it was noticed.
        reason: String,
    },
    /// RocksDB refused for another reason, for example because a file cannot be read.
    #[error("open rows in {path}: {reason}")]
    Rows {
        /// The folder.
        path: PathBuf,
        /// What RocksDB said.
        reason: String,
    },
}

/// A write that failed. What is on disk is unknown from then on, so the database takes no further write until the
/// process starts again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("write rows in {path}: {reason}")]
pub struct WriteError {
    /// The data folder.
    pub path: PathBuf,
    /// What RocksDB said, the first time.
    pub reason: String,
}

/// Why a group's first rows are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoundGroupError {
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the replica was removed from this volume")]
    Removed,
}
