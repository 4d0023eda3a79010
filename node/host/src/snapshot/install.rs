//! Makes the rows of a collected snapshot the replica's. Everything that takes time happens beside the live rows; what remains is one
//! write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use rocksdb::SstFileWriter;
use semel_proto::internal::v1::SnapshotChunk;
use semel_raft::{StoreError, Table};

use crate::database::Database;
use crate::database_error::WriteError;
use crate::generations::{Generation, row_key};
use crate::snapshot::chunk;
use crate::snapshot::collected::{CollectError, Collected, remove};

/// Size at which a file of sorted rows is closed and the next one begun.
const FILE_BYTES: u64 = 64 << 20;

/// Why rows were not taken over. The live ones are as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("{0}")]
    Collect(#[from] CollectError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Write(#[from] WriteError),
    #[error("write rows beside: {0}")]
    Beside(#[from] rocksdb::Error),
    #[error("write rows beside: {0}")]
    Io(#[from] io::Error),
    #[error("rows of table {table}, which is not one of the group's or was sent before")]
    Table { table: String },
    #[error("rows that do not decode")]
    Garbled,
    #[error("the replica has stopped, or was removed meanwhile")]
    NotRunning,
}

/// Whether the disk keeps `reserve` bytes free after so many more are written. A transfer must never be what fills the disk: a write
/// that fails for want of room stops every replica of the process.
pub(crate) fn has_room(folder: &Path, bytes: u64, reserve: u64) -> bool {
    // A file system that cannot tell has the benefit of the doubt.
    let Ok(found) = statvfs(folder) else { return true };
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    free >= bytes.saturating_add(reserve)
}

/// Writes the rows of a snapshot under a generation that is not live, durably.
pub(crate) fn write_beside(
    database: &Arc<Database>,
    group: u64,
    tables: &[Table],
    collected: &Collected,
) -> Result<Generation, InstallError> {
    let generation = database.expect_incoming(group)?;
    let folder = database.incoming_folder();
    let mut files = SortedFiles { folder: &folder, group, files: Vec::new() };
    let written = files.write(database, generation, tables, collected);
    // RocksDB has links of its own to what it took over.
    files.files.iter().for_each(|file| remove(file));
    match written {
        Ok(()) => Ok(generation),
        Err(error) => {
            database.discard_incoming(group, generation)?;
            Err(error)
        }
    }
}

/// Removes files of sorted rows that a crash left.
pub(crate) fn remove_left_over_files(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SORTED_EXTENSION) {
            remove(&path);
        }
    }
    Ok(())
}

const SORTED_EXTENSION: &str = "sst";

struct SortedFiles<'a> {
    folder: &'a Path,
    group: u64,
    /// All that were begun.
    files: Vec<PathBuf>,
}

impl SortedFiles<'_> {
    fn write(
        &mut self,
        database: &Database,
        generation: Generation,
        tables: &[Table],
        collected: &Collected,
    ) -> Result<(), InstallError> {
        let options = database.incoming_options();
        // The table at hand, its files so far, and the one that is open.
        let mut at: Option<(usize, usize)> = None;
        let mut writer: Option<SstFileWriter<'_>> = None;
        collected.read(|piece: SnapshotChunk| {
            let table = tables.iter().position(|table| table.0 == piece.table);
            let table = table.filter(|table| at.is_none_or(|(before, _)| *table >= before));
            let table = table.ok_or_else(|| InstallError::Table { table: piece.table.clone() })?;
            if let Some((before, first)) = at
                && before != table
            {
                finish(&mut writer)?;
                database.ingest(tables[before], self.files[first..].to_vec())?;
                at = None;
            }
            at.get_or_insert((table, self.files.len()));
            if writer.as_ref().is_some_and(|writer| writer.file_size() >= FILE_BYTES) {
                finish(&mut writer)?;
            }
            let open = match &mut writer {
                Some(open) => open,
                None => {
                    let path = self.next_file();
                    let begun = SstFileWriter::create(&options);
                    begun.open(&path)?;
                    writer.insert(begun)
                }
            };
            for row in chunk::rows(&piece.rows) {
                let (key, value) = row.map_err(|_| InstallError::Garbled)?;
                // Refuses keys that do not ascend.
                open.put(row_key(tables[table], self.group, generation, key), value)?;
            }
            Ok::<(), InstallError>(())
        })?;
        finish(&mut writer)?;
        if let Some((table, first)) = at {
            database.ingest(tables[table], self.files[first..].to_vec())?;
        }
        Ok(())
    }

    fn next_file(&mut self) -> PathBuf {
        let path = self.folder.join(format!("{}-{}.{SORTED_EXTENSION}", self.group, self.files.len()));
        self.files.push(path.clone());
        path
    }
}

fn finish(writer: &mut Option<SstFileWriter<'_>>) -> Result<(), rocksdb::Error> {
    writer.take().map_or(Ok(()), |mut writer| writer.finish())
}
