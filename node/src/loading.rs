//! Bringing catalogues into memory: each shard by itself, several at once, while its replica already votes and applies.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use semel_index::{CatalogueConfig, CheckpointOf};
use semel_raft::{LogIndex, Row, Store, StoreError, Table};
use semel_raft_host::GroupStore;
use semel_shard::SearchView;
use tokio::sync::Semaphore;

use crate::memory;
use crate::segment_cache::ShardFiles;
use crate::shard_view::{Installed, LoadRequest, ShardView};

/// How long a view that could not be loaded is left alone.
const LOAD_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Loads a view whenever it is asked for, for as long as the node runs. `places` bounds how many views load at once.
pub(crate) async fn load_when_asked(
    view: Arc<ShardView>,
    files: ShardFiles,
    config: CatalogueConfig,
    places: Arc<Semaphore>,
) {
    let mut requests = view.load_requests();
    let stopping = Stopping::default();
    loop {
        let Some(request) = requests.borrow_and_update().clone() else {
            if requests.changed().await.is_err() {
                return;
            }
            continue;
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let shard = files.shard();
        let task = {
            let (view, files, config, request) = (Arc::clone(&view), files.clone(), config.clone(), request.clone());
            let stopped = Arc::clone(&stopping.0);
            tokio::task::spawn_blocking(move || load(&view, &files, &config, &request, &stopped))
        };
        let loaded = task.await;
        drop(place);
        let reason = match loaded {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            // The panic's own message went to the log; it might hold anything.
            Err(error) if error.is_panic() => Some("the catalogue panicked over the rows".to_owned()),
            Err(_) => return,
        };
        let changed = match reason {
            None => requests.changed().await,
            Some(reason) => {
                tracing::error!(shard, reason, "catalogue not loaded: the replica votes, but answers no search");
                view.loading_failed(&request, reason);
                match tokio::time::timeout(LOAD_AGAIN_AFTER, requests.changed()).await {
                    Ok(changed) => changed,
                    // What stands for this request is read again at the top of the loop.
                    Err(_) => {
                        requests.mark_changed();
                        Ok(())
                    }
                }
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What a checkpoint must be of: the shard, and what decides where segments end.
pub(crate) fn checkpoint_of(shard: u32, config: &CatalogueConfig) -> CheckpointOf {
    let parameters = format!("{} sealed at {}", config.engine.name(), config.seal_at_references);
    CheckpointOf { shard, parameters }
}

fn load(
    view: &ShardView,
    files: &ShardFiles,
    config: &CatalogueConfig,
    request: &LoadRequest,
    stopped: &AtomicBool,
) -> Result<(), StoreError> {
    let began = Instant::now();
    let store = &request.store;
    let mut loaded = {
        // One state of the rows for all that is read of them; what comes later is caught up with below.
        let pinned = store.snapshot().for_one_pass();
        let snapshot = UntilStopped { rows: &pinned, stopped };
        let applied = semel_raft::rows::applied(&snapshot)?;
        match resumed(files, config, applied, &snapshot) {
            Some(resumed) => resumed,
            None => {
                snapshot.check(Table::RAFT)?;
                let segments = files.clear();
                if segments > 0 {
                    let (shard, folder) = (files.shard(), files.folder().display());
                    tracing::info!(
                        shard,
                        %folder,
                        segments,
                        "no checkpoint that is used names these kept segments; they are removed and built again from the rows"
                    );
                }
                let mut made = SearchView::new(config.clone());
                made.restore(applied, &snapshot)?;
                made
            }
        }
    };
    loop {
        match view.install(request, loaded)? {
            Installed::Yes => {
                memory::give_back();
                let references: usize = view
                    .moment()
                    .catalogue()
                    .collections()
                    .iter()
                    .map(|one| one.sealed_references + one.growing_references)
                    .sum();
                tracing::info!(shard = files.shard(), references, ms = began.elapsed().as_millis(), "catalogue loaded");
                return Ok(());
            }
            // Another request has come: what was loaded is of rows that are gone.
            Installed::Outdated => return Ok(()),
            Installed::Behind(behind) => {
                loaded = *behind;
                catch_up(&mut loaded, store)?;
            }
        }
    }
}

/// Brings a view up to the rows as they are.
pub(crate) fn catch_up(view: &mut SearchView, store: &GroupStore) -> Result<LogIndex, StoreError> {
    let snapshot = store.snapshot().for_one_pass();
    let applied = semel_raft::rows::applied(&snapshot)?;
    view.catch_up(applied, &snapshot)?;
    Ok(applied)
}

/// The view as the kept files have it, if they can be used.
fn resumed(
    files: &ShardFiles,
    config: &CatalogueConfig,
    applied: LogIndex,
    snapshot: &dyn Store,
) -> Option<SearchView> {
    let shard = files.shard();
    let checkpoint = files.checkpoint(&checkpoint_of(shard, config))?;
    let (mut taken, mut named) = (0, 0);
    let mut segments = |wanted: &semel_index::WantedSegment| {
        named += 1;
        let found = files.segment(wanted);
        taken += usize::from(found.is_some());
        found
    };
    match SearchView::resume(config.clone(), &checkpoint, &mut segments, applied, snapshot) {
        Ok(view) => {
            tracing::info!(shard, segments = named, from_files = taken, "catalogue resumed from its checkpoint");
            files.keep_only(&checkpoint.segments().collect::<Vec<_>>());
            Some(view)
        }
        Err(error) => {
            let folder = files.folder().display();
            tracing::warn!(shard, %folder, %error, "the checkpoint is not used; the catalogue is made again from the rows");
            None
        }
    }
}

/// Tells those who read rows on other threads that nobody waits for them any more, once it is dropped.
#[derive(Default)]
struct Stopping(Arc<AtomicBool>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Rows that can be read until the node stops: a catalogue that takes a minute to load must not hold up its end.
struct UntilStopped<'a> {
    rows: &'a dyn Store,
    stopped: &'a AtomicBool,
}

impl UntilStopped<'_> {
    fn check(&self, table: Table) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(StoreError { table, reason: "the node stops".to_owned() });
        }
        Ok(())
    }
}

impl Store for UntilStopped<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.check(table)?;
        self.rows.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.check(table)?;
        self.rows.scan(table, from, to, rows_max)
    }
}

impl fmt::Debug for UntilStopped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UntilStopped")
    }
}

#[cfg(test)]
mod tests;
