//! Sealing the segments of one shard, keeping them in files and compacting them, in the background and with bounds of the whole node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use semel_index::{
    CatalogueConfig, CheckpointHeader, Compacted, CompactionJob, SealJob, StoreJob, StoredId, Templates,
};
use semel_raft_host::GroupStore;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::loading::checkpoint_of;
use crate::memory;
use crate::segment_cache::ShardFiles;
use crate::shard_view::ShardView;

/// Files that the node writes at once: sealing is rare, and searches and the log want the disk too.
const WRITES_AT_ONCE: usize = 2;
/// How long a shard writes nothing after a write that failed.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long a shard takes in nothing until what grows there is sealed before it is full, where that takes templates out of memory.
const QUIET_FOR: Duration = Duration::from_secs(10);
/// Which part of a full segment it must be: a short segment costs an engine's tables, and every search a pass, like a full one.
const QUIET_SHARE: usize = 8;

/// How long a shard compacts nothing after a compaction that failed.
const COMPACT_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Compactions that one checkpoint tells of: it names everybody in the shard. The files of what they replaced stay until then.
const COMPACTIONS_PER_CHECKPOINT: usize = 8;

/// What all shards of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Segments that are built, calibrated or compacted at once.
    sealing: Arc<Semaphore>,
    /// Files that are written at once.
    writing: Arc<Semaphore>,
    compactions: Arc<CompactionMetrics>,
}

impl Places {
    /// Of a node that seals so many segments at once.
    pub(crate) fn new(sealing: usize) -> Self {
        Self {
            sealing: Arc::new(Semaphore::new(sealing)),
            writing: Arc::new(Semaphore::new(WRITES_AT_ONCE)),
            compactions: Arc::default(),
        }
    }

    /// What became of compactions.
    pub(crate) fn compactions(&self) -> &CompactionMetrics {
        &self.compactions
    }
}

/// What became of compactions since the start.
#[derive(Debug, Default)]
pub(crate) struct CompactionMetrics {
    /// Those whose result is searched.
    pub(crate) done: AtomicU64,
    /// Those that left the segments as they were.
    pub(crate) failed: AtomicU64,
}

/// What came of one wish to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compaction {
    /// Nothing is worth it, or sealing has all places.
    None,
    /// Something was compacted; files may have to go.
    Done {
        kept: bool,
    },
    /// The catalogue was loaded anew meanwhile.
    Outdated,
    Failed,
}

/// One shard's background work.
pub(crate) struct Sealer {
    pub(crate) view: Arc<ShardView>,
    pub(crate) files: ShardFiles,
    pub(crate) store: GroupStore,
    pub(crate) config: CatalogueConfig,
    pub(crate) places: Places,
}

impl Sealer {
    /// Seals, keeps and compacts segments as they grow, for as long as the node runs.
    pub(crate) async fn run(self) {
        let mut moments = self.view.moments();
        let (mut write_from, mut compact_from) = (Instant::now(), Instant::now());
        loop {
            match tokio::time::timeout(QUIET_FOR, moments.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) if self.files.take_templates() => {
                    self.view.close_growing(self.config.seal_at_references / QUIET_SHARE);
                }
                // A place to compact may be free by now.
                Err(_) => {}
            }
            loop {
                let jobs = self.view.seal_jobs();
                let sealed_some = !jobs.is_empty();
                join_all(jobs.into_iter().map(|job| self.seal(job))).await;
                if Instant::now() >= write_from && !self.keep().await {
                    write_from = Instant::now() + WRITE_AGAIN_AFTER;
                }
                if !sealed_some {
                    break;
                }
            }
            if Instant::now() >= compact_from && !self.compact().await {
                compact_from = Instant::now() + COMPACT_AGAIN_AFTER;
            }
        }
    }

    async fn seal(&self, job: SealJob) {
        let shard = self.files.shard();
        let (ticket, gallery, references) = (job.ticket(), job.gallery().to_string(), job.references());
        let engine = self.view.engine_or_own(job.gallery());
        let engine = engine.name();
        let place = self.places.sealing.acquire().await;
        let sealed = tokio::task::spawn_blocking(move || job.run()).await;
        drop(place);
        let sealed = sealed.unwrap_or_else(|error| ticket.lost(error.to_string()));
        match sealed.error() {
            None => tracing::info!(shard, gallery, engine, references, "segment sealed"),
            // The rows stay where they are and are searched exactly.
            Some(error) => {
                tracing::warn!(shard, gallery, engine, references, %error, "segment not built; it answers as before")
            }
        }
        self.view.sealed(sealed);
    }

    /// Writes the segments that are not kept as they are, then the checkpoint that names them; whether all of it was written.
    async fn keep(&self) -> bool {
        let (mut kept, mut failed) = (0, Vec::new());
        while let Some(job) = self.view.store_job(self.files.shard()) {
            let ticket = job.ticket();
            match self.write(job).await {
                Ok((id, templates)) => kept += usize::from(self.view.stored(&ticket, id, templates)),
                Err(error) => {
                    let (shard, reason) = (self.files.shard(), format!("{error:#}"));
                    tracing::warn!(shard, reason, "segment not kept; a restart will have to build it again");
                    failed.push(ticket);
                    // The next one would fare no better.
                    break;
                }
            }
        }
        failed.iter().for_each(|ticket| self.view.not_stored(ticket));
        if kept == 0 {
            return failed.is_empty();
        }
        self.keep_checkpoint().await && failed.is_empty()
    }

    async fn write(&self, mut job: StoreJob) -> anyhow::Result<(StoredId, Option<Templates>)> {
        let place = self.places.writing.acquire().await;
        let files = self.files.clone();
        let written = tokio::task::spawn_blocking(move || files.write_segment(&mut job)).await;
        drop(place);
        written?
    }

    /// Compacts until nothing is worth it any more or something waits to be sealed; whether nothing failed.
    async fn compact(&self) -> bool {
        let (mut files_changed, mut failed) = (false, false);
        for _ in 0..COMPACTIONS_PER_CHECKPOINT {
            match self.compact_once().await {
                Compaction::Done { kept } => files_changed |= kept,
                Compaction::None | Compaction::Outdated => break,
                Compaction::Failed => {
                    failed = true;
                    break;
                }
            }
            if self.view.is_seal_due() {
                break;
            }
        }
        let kept = !files_changed || self.keep_checkpoint().await;
        kept && !failed
    }

    async fn compact_once(&self) -> Compaction {
        // Sealing goes first: whoever waits for a place has it before this asks.
        let Ok(place) = self.places.sealing.try_acquire() else { return Compaction::None };
        let Some(job) = self.view.compaction_job() else { return Compaction::None };
        let (shard, gallery, kept) = (self.files.shard(), job.gallery().to_string(), job.is_of_kept());
        let (segments, references) = (job.segments(), job.references());
        let compacted = self.run_compaction(job).await;
        drop(place);
        let (compacted, file) = match compacted.store_job(shard) {
            None => (compacted, None),
            // Before it is searched: a checkpoint names the old segments or the new one, and all of those have files.
            Some(store) => match self.write(store).await {
                Ok(file) => (compacted, Some(file)),
                Err(error) => (compacted.ticket().lost(format!("{error:#}")), None),
            },
        };
        let (reclaimed, error) = (compacted.reclaimed(), compacted.error().map(ToString::to_string));
        let is_current = self.view.compacted(compacted, file);
        let metrics = &self.places.compactions;
        match error {
            Some(reason) => {
                metrics.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    shard,
                    gallery,
                    segments,
                    references,
                    reason,
                    "segments not compacted, searched as before"
                );
                Compaction::Failed
            }
            None if is_current => {
                metrics.done.fetch_add(1, Ordering::Relaxed);
                tracing::info!(shard, gallery, segments, references, reclaimed, "segments compacted");
                Compaction::Done { kept }
            }
            None => Compaction::Outdated,
        }
    }

    async fn run_compaction(&self, job: CompactionJob) -> Compacted {
        let ticket = job.ticket();
        let compacted = tokio::task::spawn_blocking(move || job.run()).await;
        compacted.unwrap_or_else(|error| ticket.lost(error.to_string()))
    }

    /// Writes the checkpoint and gives memory back; whether it was written.
    async fn keep_checkpoint(&self) -> bool {
        let written = self.write_checkpoint().await;
        // Nobody waits for it; a thread that cannot be had, as at the end of the process, does not give back.
        let _ = tokio::task::spawn_blocking(memory::give_back).await;
        if let Err(error) = &written {
            let (shard, reason) = (self.files.shard(), format!("{error:#}"));
            tracing::warn!(shard, reason, "checkpoint not written; a restart will have to read all rows again");
        }
        written.is_ok()
    }

    async fn write_checkpoint(&self) -> anyhow::Result<()> {
        // Read before the moment is pinned, so that every withdrawal up to there is in it.
        let (applied, withdrawn_up_to) = {
            let snapshot = self.store.snapshot();
            (semel_raft::rows::applied(&snapshot)?, semel_shard::history(&snapshot)?.0)
        };
        let moment = self.view.reached(applied).await;
        let (view, files, store) = (Arc::clone(&self.view), self.files.clone(), self.store.clone());
        let of = checkpoint_of(self.files.shard(), &self.config);
        let place = self.places.writing.acquire().await;
        let written = tokio::task::spawn_blocking(move || {
            // Read after the moment, so that its whole content is bound to the history.
            let (entries, chain) = semel_shard::history(&store)?;
            let searchable_index = moment.searchable_index().0;
            let header = CheckpointHeader { of, searchable_index, withdrawn_up_to, history: (entries, chain.0) };
            let checkpoint = moment.catalogue().checkpoint(files.key(), &header);
            // A file that came after the moment is not named in it, and not removed either.
            let stored = view.moment().catalogue().stored_segments();
            let named: Vec<_> = moment.catalogue().stored_segments().into_iter().chain(stored).collect();
            files.write_checkpoint(&checkpoint, &named)
        });
        let written = written.await?;
        drop(place);
        written
    }
}
