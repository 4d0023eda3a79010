//! Sealing the segments of one shard and keeping them in files, in the background and with bounds of the whole node.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use semel_index::{CatalogueConfig, CheckpointHeader, SealJob};
use semel_raft_host::GroupStore;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::loading::checkpoint_of;
use crate::memory;
use crate::segment_cache::ShardFiles;
use crate::shard_view::ShardView;

/// Files that the node writes at once: sealing is rare, and searches and the log want the disk too.
pub(crate) const WRITES_AT_ONCE: usize = 2;
/// How long a shard writes nothing after a write that failed.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long a shard takes in nothing until what grows there is sealed before it is full, where that takes templates out of memory.
const QUIET_FOR: Duration = Duration::from_secs(10);
/// Which part of a full segment it must be: a short segment costs an engine's tables, and every search a pass, like a full one.
const QUIET_SHARE: usize = 8;

/// What all shards of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Segments that are built or calibrated at once.
    pub(crate) sealing: Arc<Semaphore>,
    /// Files that are written at once.
    pub(crate) writing: Arc<Semaphore>,
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
    /// Seals and keeps segments as they grow, for as long as the node runs.
    pub(crate) async fn run(self) {
        let mut moments = self.view.moments();
        let mut write_from = Instant::now();
        loop {
            match tokio::time::timeout(QUIET_FOR, moments.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) if self.files.take_templates() => {
                    self.view.close_growing(self.config.seal_at_references / QUIET_SHARE);
                }
                Err(_) => continue,
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
        }
    }

    async fn seal(&self, job: SealJob) {
        let shard = self.files.shard();
        let (ticket, gallery, references) = (job.ticket(), job.gallery().to_string(), job.references());
        let place = self.places.sealing.acquire().await;
        let sealed = tokio::task::spawn_blocking(move || job.run()).await;
        drop(place);
        let sealed = sealed.unwrap_or_else(|error| ticket.lost(error.to_string()));
        match sealed.error() {
            None => tracing::info!(shard, gallery, references, "segment sealed"),
            // The rows stay where they are and are searched exactly.
            Some(error) => tracing::warn!(shard, gallery, references, %error, "segment not sealed, searched exactly"),
        }
        self.view.sealed(sealed);
    }

    /// Writes the segments that are not kept as they are, then the checkpoint that names them; whether all of it was written.
    async fn keep(&self) -> bool {
        let (mut kept, mut failed) = (0, Vec::new());
        while let Some(mut job) = self.view.store_job(self.files.shard()) {
            let ticket = job.ticket();
            let place = self.places.writing.acquire().await;
            let files = self.files.clone();
            let written = tokio::task::spawn_blocking(move || files.write_segment(&mut job)).await;
            drop(place);
            match written.map_err(anyhow::Error::from).and_then(|written| written) {
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
        let written = self.write_checkpoint().await;
        // Nobody waits for it; a thread that cannot be had, as at the end of the process, does not give back.
        let _ = tokio::task::spawn_blocking(memory::give_back).await;
        match written {
            Ok(()) => failed.is_empty(),
            Err(error) => {
                let (shard, reason) = (self.files.shard(), format!("{error:#}"));
                tracing::warn!(shard, reason, "checkpoint not written; a restart will have to read all rows again");
                false
            }
        }
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
