//! Syncs, on a thread beside the host's: one at a time, each for everything that was written before it began. Whatever is written
//! meanwhile shares the next.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use crate::database::Database;
use crate::database_error::WriteError;
use crate::metrics::HostMetrics;

/// What the thread tells: everything written before this number was drawn is on disk, or nothing more will be.
pub(crate) type Report = Result<u64, WriteError>;

/// The thread. Dropping it ends it, after the sync at hand.
pub(crate) struct Syncs {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The number drawn last.
    wanted: u64,
    /// Log entries written since the last sync began.
    entries: usize,
    /// The number that was the last one when a sync last began.
    begun_for: u64,
    /// When the sync at hand began.
    begun: Option<Instant>,
    closed: bool,
}

impl Syncs {
    /// Starts the thread. Nothing is synced before it is asked for.
    pub(crate) fn start(
        database: Arc<Database>,
        metrics: Arc<HostMetrics>,
        report: impl Fn(Report) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let work = shared.clone();
        let thread = thread::Builder::new().name("raft-sync".to_owned()).spawn(move || {
            while let Some((number, entries)) = work.begin() {
                let begun = Instant::now();
                let synced = database.sync();
                work.end();
                if synced.is_ok() {
                    metrics.syncs.add(1);
                    metrics.sync_seconds.observe(begun.elapsed());
                    metrics.entries_per_sync.observe(entries);
                }
                let failed = synced.is_err();
                report(synced.map(|()| number));
                if failed {
                    break;
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Asks for a sync of what is written, `entries` of it new. Returns the number that it will be reported by, or a larger one.
    pub(crate) fn want(&self, entries: usize) -> u64 {
        let mut state = self.shared.lock();
        state.wanted += 1;
        state.entries += entries;
        let number = state.wanted;
        drop(state);
        self.shared.changed.notify_all();
        number
    }

    /// Waits for the end of a sync that has taken longer than `longest`. A host with such a disk is to be as silent as if it were
    /// not there, so that others lead.
    pub(crate) fn wait_if_stalled(&self, longest: Duration) {
        let state = self.shared.lock();
        let Some(begun) = state.begun.filter(|begun| begun.elapsed() > longest) else { return };
        tracing::warn!(seconds = begun.elapsed().as_secs_f64(), "the disk has not answered; replicas here are silent");
        let stalled = |state: &mut State| state.begun == Some(begun);
        drop(self.shared.changed.wait_while(state, stalled).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that syncs panicked");
        }
    }
}

impl Shared {
    /// Waits until a sync is wanted, and begins it. `None` once closed.
    fn begin(&self) -> Option<(u64, usize)> {
        let idle = |state: &mut State| state.begun_for == state.wanted && !state.closed;
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.begun = Some(Instant::now());
        state.begun_for = state.wanted;
        Some((state.begun_for, mem::take(&mut state.entries)))
    }

    fn end(&self) {
        self.lock().begun = None;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_written_during_a_sync_shares_the_next() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Database::open(folder.path(), &[]).expect("a fresh folder");
        let (reports, reported) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let metrics = Arc::new(HostMetrics::default());
        let report = move |report: Report| {
            reports.send(report.expect("the disk works")).expect("the test waits");
            // The thread is held here as long as a sync may take.
            gate.recv().ok();
        };
        let syncs = Syncs::start(database, metrics.clone(), report).expect("a thread");
        assert_eq!(syncs.want(2), 1);
        assert_eq!(reported.recv(), Ok(1));
        let last = (0..10).map(|_| syncs.want(3)).max();
        open.send(()).expect("the thread waits");
        assert_eq!(reported.recv().ok(), last, "one for all ten");
        drop(open);
        drop(syncs);
        assert_eq!(metrics.syncs.get(), 2);
        assert!(reported.recv().is_err(), "nothing more was asked for");
    }
}
