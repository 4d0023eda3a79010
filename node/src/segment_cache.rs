//! The files that a node keeps of its catalogues: sealed segments and a checkpoint per shard, in a folder of the volume.
//!
//! All of it is derived. A file that is missing, damaged or of something else is removed, told of and made again; one that cannot
//! be written is a warning and a number. Nothing here is ever synced: after a power cut a file may be torn, and its seal says so.
//! What the files hold is in `semel-index`; when they are written, in `sealing`; when they are read, in `loading`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use semel_index::{
    Checkpoint, CheckpointOf, FoundSegment, RowReader, SegmentFile, SegmentHeader, SegmentParts, StoreJob, StoreKey,
    StoredId, TemplateSource, Templates, TemplatesUnreadable, WantedSegment,
};
use semel_raft_host::Database;

use crate::config::TemplatesKept;

/// The folder of all files, in the node's data folder.
pub(crate) const FOLDER: &str = "segments";
const CHECKPOINT: &str = "checkpoint";
const SEGMENT_EXTENSION: &str = "segment";
/// What a file is called while it is written: it is never read under such a name.
const UNFINISHED_EXTENSION: &str = "new";
/// The row of the volume that holds the key.
const KEY: &str = "segment_key";
/// Bytes read from or handed to a file at once.
const PIECE_BYTES: usize = 1 << 18;
/// Rows read from a file at once.
const ROWS_PER_READ: usize = 256;
/// The largest checkpoint that is read: some hundred million enrolments of one shard.
const CHECKPOINT_BYTES_MAX: u64 = 4 << 30;

/// What became of files since the start.
#[derive(Debug, Default)]
pub(crate) struct CacheMetrics {
    /// Segments taken from their files.
    pub(crate) segments_loaded: AtomicU64,
    /// Files that could not be used and were removed.
    pub(crate) files_refused: AtomicU64,
    /// Segments written.
    pub(crate) segments_written: AtomicU64,
    /// Bytes of segments and checkpoints written.
    pub(crate) bytes_written: AtomicU64,
    /// Segments and checkpoints that could not be written.
    pub(crate) writes_failed: AtomicU64,
    /// Reads of templates that failed while searching.
    pub(crate) reads_failed: AtomicU64,
}

/// The files of a node.
#[derive(Debug)]
pub(crate) struct SegmentCache {
    folder: PathBuf,
    key: StoreKey,
    templates: TemplatesKept,
    metrics: Arc<CacheMetrics>,
}

impl SegmentCache {
    /// The files beside the rows of `database`, sealed with the volume's key; drawn now if it has none. Files of groups that
    /// the volume does not hold are removed.
    pub(crate) fn open(database: &Database, templates: TemplatesKept) -> anyhow::Result<Self> {
        let key: [u8; 32] = match database.identity(KEY)? {
            Some(key) => key.as_ref().try_into().context("the segment key on the volume is not 32 bytes")?,
            None => {
                let key: [u8; 32] = rand::random();
                database.put_identity(KEY, &key)?;
                key
            }
        };
        let folder = database.path().join(FOLDER);
        let cache = Self { folder, key: StoreKey::new(key), templates, metrics: Arc::default() };
        let held: BTreeSet<u64> = database.groups()?.into_iter().map(|(group, _)| group).collect();
        for entry in fs::read_dir(&cache.folder).into_iter().flatten().flatten() {
            let group = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if group.is_none_or(|group| !held.contains(&group)) {
                remove(&entry.path());
            }
        }
        Ok(cache)
    }

    /// The files of one shard.
    pub(crate) fn shard(&self, shard: u32) -> ShardFiles {
        ShardFiles {
            shard,
            folder: self.folder.join(shard.to_string()),
            key: self.key.clone(),
            templates: self.templates,
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Removes the files of a shard that this node does without.
    pub(crate) fn forget(&self, shard: u32) {
        remove(&self.folder.join(shard.to_string()));
    }

    /// What became of files.
    pub(crate) fn metrics(&self) -> &Arc<CacheMetrics> {
        &self.metrics
    }
}

/// The files of one shard. Every call may block.
#[derive(Debug, Clone)]
pub(crate) struct ShardFiles {
    shard: u32,
    folder: PathBuf,
    key: StoreKey,
    templates: TemplatesKept,
    metrics: Arc<CacheMetrics>,
}

impl ShardFiles {
    /// The shard.
    pub(crate) fn shard(&self) -> u32 {
        self.shard
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the files are sealed with.
    pub(crate) fn key(&self) -> &StoreKey {
        &self.key
    }

    /// Whether the templates of kept segments leave memory.
    pub(crate) fn take_templates(&self) -> bool {
        self.templates == TemplatesKept::Disk
    }

    /// The checkpoint, if there is one that can be used.
    pub(crate) fn checkpoint(&self, of: &CheckpointOf) -> Option<Checkpoint> {
        let path = self.folder.join(CHECKPOINT);
        let read = || -> anyhow::Result<Option<Checkpoint>> {
            let size = match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                found => found?.len(),
            };
            anyhow::ensure!(
                size <= CHECKPOINT_BYTES_MAX,
                "it has {size} bytes, must have {CHECKPOINT_BYTES_MAX} at most"
            );
            Ok(Some(Checkpoint::decode(&self.key, of, &fs::read(&path)?)?))
        };
        match read() {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.refuse(&path, &error);
                None
            }
        }
    }

    /// A segment from its file, if that can be used.
    pub(crate) fn segment(&self, wanted: &WantedSegment) -> Option<FoundSegment> {
        let path = self.path(wanted.id);
        match self.read_segment(&path, wanted) {
            Ok(found) => {
                self.metrics.segments_loaded.fetch_add(1, Ordering::Relaxed);
                Some(found)
            }
            Err(error) => {
                self.refuse(&path, &error);
                None
            }
        }
    }

    fn read_segment(&self, path: &Path, wanted: &WantedSegment) -> anyhow::Result<FoundSegment> {
        let in_memory = self.templates == TemplatesKept::Memory;
        let (file, parts) = self.read_parts(path, &wanted.header, wanted.id, in_memory)?;
        let SegmentParts { engine: bytes, rows, reader } = parts;
        let (dimension, row_count) = (wanted.header.dimension, wanted.header.rows as usize);
        let segment = bytes.map(|bytes| wanted.engine.restore(dimension, row_count, &bytes)).transpose()?;
        let templates = match rows {
            Some(rows) => Templates::InMemory(Arc::new(rows)),
            None => self.templates_in(file, path, reader),
        };
        Ok(FoundSegment { segment: segment.map(Arc::from), templates })
    }

    /// Reads a whole file: nothing of it is used before its seal was found to fit.
    fn read_parts(
        &self,
        path: &Path,
        header: &SegmentHeader,
        id: StoredId,
        with_rows: bool,
    ) -> anyhow::Result<(File, SegmentParts)> {
        let mut file = File::open(path)?;
        let mut parts = SegmentFile::new(&self.key, header, with_rows);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => parts.push(&piece[..count])?,
            }
        }
        Ok((file, parts.finish(id)?))
    }

    fn templates_in(&self, file: File, path: &Path, reader: RowReader) -> Templates {
        let (path, metrics) = (path.to_owned(), Arc::clone(&self.metrics));
        Templates::Elsewhere(Arc::new(FileTemplates { file, path, reader, metrics }))
    }

    /// Writes a segment. Returns what it is kept as, and, where templates are not kept in memory, where they are read from.
    pub(crate) fn write_segment(&self, job: &mut StoreJob) -> anyhow::Result<(StoredId, Option<Templates>)> {
        let written = self.try_write_segment(job);
        if written.is_err() {
            self.metrics.writes_failed.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn try_write_segment(&self, job: &mut StoreJob) -> anyhow::Result<(StoredId, Option<Templates>)> {
        let mut id = None;
        let mut bytes_written = 0;
        let unfinished = self.folder.join(SEGMENT_EXTENSION).with_extension(UNFINISHED_EXTENSION);
        self.write(&unfinished, |file| {
            let mut file = io::BufWriter::with_capacity(PIECE_BYTES, file);
            let written = job.write(&self.key, &mut |piece| {
                bytes_written += piece.len() as u64;
                file.write_all(piece)
            });
            id = Some(written?);
            file.flush()?;
            Ok(())
        })?;
        let id = id.expect("written above");
        let path = self.path(id);
        fs::rename(&unfinished, &path).with_context(|| format!("rename to {}", path.display()))?;
        self.metrics.segments_written.fetch_add(1, Ordering::Relaxed);
        self.metrics.bytes_written.fetch_add(bytes_written, Ordering::Relaxed);
        let templates = match self.templates {
            TemplatesKept::Memory => None,
            TemplatesKept::Disk => {
                // Read back before the only copy in memory is let go.
                let (file, parts) = self.read_parts(&path, job.header(), id, false)?;
                Some(self.templates_in(file, &path, parts.reader))
            }
        };
        Ok((id, templates))
    }

    /// Writes the checkpoint, then removes every file that it does not name.
    pub(crate) fn write_checkpoint(&self, checkpoint: &[u8], named: &[StoredId]) -> anyhow::Result<()> {
        let unfinished = self.folder.join(CHECKPOINT).with_extension(UNFINISHED_EXTENSION);
        let path = self.folder.join(CHECKPOINT);
        let write = || {
            self.write(&unfinished, |file| Ok(file.write_all(checkpoint)?))?;
            fs::rename(&unfinished, &path).with_context(|| format!("rename to {}", path.display()))
        };
        if let Err(error) = write() {
            self.metrics.writes_failed.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
        self.metrics.bytes_written.fetch_add(checkpoint.len() as u64, Ordering::Relaxed);
        self.keep_only(named);
        Ok(())
    }

    /// Removes every segment's file but these, and whatever was not finished.
    pub(crate) fn keep_only(&self, named: &[StoredId]) {
        let named: BTreeSet<PathBuf> = named.iter().map(|id| self.path(*id)).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path != self.folder.join(CHECKPOINT) && !named.contains(&path) {
                remove(&path);
            }
        }
    }

    /// Removes everything: the catalogue is made from the rows. How many segments were there.
    pub(crate) fn clear(&self) -> usize {
        remove(&self.folder.join(CHECKPOINT));
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let is_segment = |path: &Path| path.extension().is_some_and(|found| found == SEGMENT_EXTENSION);
        let segments = entries.filter(|entry| is_segment(&entry.path())).count();
        self.keep_only(&[]);
        segments
    }

    /// Writes a file that only this call has open; removed again if that fails.
    fn write(&self, path: &Path, write: impl FnOnce(&mut File) -> anyhow::Result<()>) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("create folder {}", self.folder.display()))?;
        let written = File::create(path).map_err(anyhow::Error::from).and_then(|mut file| write(&mut file));
        written.with_context(|| format!("write {}", path.display())).inspect_err(|_| remove(path))
    }

    fn path(&self, id: StoredId) -> PathBuf {
        self.folder.join(id.to_string()).with_extension(SEGMENT_EXTENSION)
    }

    fn refuse(&self, path: &Path, error: &anyhow::Error) {
        self.metrics.files_refused.fetch_add(1, Ordering::Relaxed);
        let (shard, file, reason) = (self.shard, path.display(), format!("{error:#}"));
        tracing::warn!(shard, %file, reason, "a kept file is not used; what it held is made again from the rows");
        remove(path);
    }
}

/// Removes a file or a folder of ours. One that stays is never used, so there is nobody to tell but the log.
fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "a kept file that is not needed stays");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Templates read from a segment's file, which was found whole when it was opened. It may be removed meanwhile: it stays readable
/// for as long as it is open.
#[derive(Debug)]
struct FileTemplates {
    file: File,
    path: PathBuf,
    reader: RowReader,
    metrics: Arc<CacheMetrics>,
}

impl TemplateSource for FileTemplates {
    fn read(&self, rows: Range<usize>, take: &mut dyn FnMut(&[i16], u32)) -> Result<(), TemplatesUnreadable> {
        let row_bytes = self.reader.row_bytes();
        let mut bytes = vec![0; rows.len().min(ROWS_PER_READ) * row_bytes];
        for first in rows.clone().step_by(ROWS_PER_READ) {
            let bytes = &mut bytes[..(rows.end - first).min(ROWS_PER_READ) * row_bytes];
            let read = self.file.read_exact_at(bytes, self.reader.row_at(first)).map_err(|error| error.to_string());
            let read = read.and_then(|()| self.reader.read(first, bytes, take).map_err(|error| error.to_string()));
            read.map_err(|reason| {
                self.metrics.reads_failed.fetch_add(1, Ordering::Relaxed);
                TemplatesUnreadable { reason: format!("{}: {reason}", self.path.display()) }
            })?;
        }
        Ok(())
    }
}
