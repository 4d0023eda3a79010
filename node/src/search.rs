//! The search of several shards for several probes: barriers first, then scans on the search pool, shared by what waits together,
//! interactive searches first.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use semel_index::{Priority, SearchProbe, ShardSearch, Spread};
use semel_raft::{BarrierError, LogIndex};
use semel_raft_host::{HostHandle, Place, Places};
use semel_shard::{Joined, ScanOrder, ScanQueue, ScanQueueFull, ShardMachine, SharedScan};
use semel_telemetry::traced;
use tokio::sync::oneshot;

use crate::metrics::NodeMetrics;
use crate::recall_audit::RecallAudit;
use crate::replicas::HostedShard;

/// How long a shard's barrier and catalogue may take; the coordinator then asks another replica.
const CURRENT_WITHIN: Duration = Duration::from_secs(1);
/// Probes that share one scan at most: more make a scan longer, but hardly cheaper.
const SCAN_PROBES_MAX: usize = 64;
/// Probes that may wait for one shard.
const SHARD_PROBES_MAX: usize = 4_096;

/// Why a shard gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// The shard's group confirmed no barrier.
    #[error("{0}")]
    Barrier(#[from] BarrierError),
    /// The catalogue and the replicated counts disagree: the replica must not answer.
    #[error("{0}")]
    Moment(semel_shard::SearchError),
    /// Too many probes wait for the shard.
    #[error("{0}")]
    Overload(#[from] ScanQueueFull),
    /// The group had no leader, or the catalogue did not reach the barrier, for too long.
    #[error("the shard could not be brought up to date in time")]
    NotCurrent,
    /// The scan panicked. The log says so; the message does not, as it might hold a template.
    #[error("the scan failed")]
    Panicked,
    /// Nobody waits for the answer any more.
    #[error("the search was given up")]
    GivenUp,
}

/// Every place is taken, or every one that bulk may take.
#[derive(Debug, thiserror::Error)]
#[error("too many searches wait (the limit is `searches_max`)")]
pub(crate) struct TooManySearches;

/// What a shard answered to all probes, and the moment it searched.
pub(crate) struct ShardAnswers {
    pub(crate) searchable_index: u64,
    pub(crate) answers: Vec<ShardSearch>,
}

/// Runs searches on a pool of threads of their own, so that neither gRPC nor raft waits for a scan.
pub(crate) struct SearchPool {
    threads: rayon::ThreadPool,
    places: Places,
    scans: Arc<Scans>,
}

/// What scans share.
struct Scans {
    asked_for: ScansAskedFor,
    cores: Cores,
    metrics: Arc<NodeMetrics>,
    audit: Arc<RecallAudit>,
}

impl SearchPool {
    pub(crate) fn new(
        threads: usize,
        requests_max: usize,
        metrics: Arc<NodeMetrics>,
        audit: Arc<RecallAudit>,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("search-{n}"))
            // The scan's sender is dropped, which its shard reports. Without a handler the whole node would abort.
            .panic_handler(|_| tracing::error!("a scan panicked; its shard counts as silent"))
            .build()?;
        let places = Places::new(requests_max, Priority::Bulk.share_of(requests_max));
        let cores = Cores { all: threads.current_num_threads(), taken: AtomicUsize::new(0) };
        let scans = Scans { asked_for: ScansAskedFor::default(), cores, metrics, audit };
        Ok(Self { threads, places, scans: Arc::new(scans) })
    }

    /// Requests that wait or run, by priority.
    pub(crate) fn in_flight(&self) -> [(&'static str, u64); 2] {
        self.places.taken()
    }

    /// A place among the searches that may wait or run; refused rather than queued without bound.
    pub(crate) fn admit(&self, priority: Priority) -> Result<Place, TooManySearches> {
        let place = match priority {
            Priority::Interactive => self.places.take_interactive(),
            Priority::Bulk => self.places.take_bulk(),
        };
        place.ok_or(TooManySearches)
    }

    /// Searches several shards. A scan begins only once the shard's catalogue has reached a barrier that began after the call, and is
    /// shared with other calls that wait for one; dropping the future gives up the scans that nobody else waits for.
    pub(crate) async fn search(
        &self,
        host: &HostHandle<ShardMachine>,
        shards: &[Arc<HostedShard>],
        priority: Priority,
        probes: Arc<Vec<SearchProbe>>,
    ) -> Vec<Result<ShardAnswers, SearchError>> {
        let given_up = GivenUp::default();
        join_all(shards.iter().map(|shard| {
            let probes = Arc::clone(&probes);
            let flag = Arc::clone(&given_up.0);
            async move {
                let current = async {
                    let barrier = host.barrier(shard.group()).await?;
                    shard.view.reached(barrier).await;
                    Ok::<_, SearchError>(barrier)
                };
                // A shard without a leader must not hold up the answers of the others.
                let barrier =
                    tokio::time::timeout(CURRENT_WITHIN, current).await.map_err(|_| SearchError::NotCurrent)??;
                self.scan(shard, priority, barrier, probes, flag).await
            }
        }))
        .await
    }

    /// Joins the next scan of the shard, whose catalogue has reached `barrier`.
    async fn scan(
        &self,
        shard: &Arc<HostedShard>,
        priority: Priority,
        barrier: LogIndex,
        probes: Arc<Vec<SearchProbe>>,
        given_up: Arc<AtomicBool>,
    ) -> Result<ShardAnswers, SearchError> {
        let (reply, answer) = oneshot::channel();
        let count = probes.len();
        // Of this request, from now until it is answered, though its scan may be shared.
        let span = traced!("scan", shard = shard.shard.0, probes = count);
        let search = WaitingSearch { probes, given_up, reply, _span: span };
        self.join(shard, priority, barrier, count, search)?;
        answer.await.unwrap_or(Err(SearchError::Panicked))
    }

    fn join(
        &self,
        shard: &Arc<HostedShard>,
        priority: Priority,
        barrier: LogIndex,
        probes: usize,
        search: WaitingSearch,
    ) -> Result<(), ScanQueueFull> {
        // Held until the scan is in line, so that whoever hastens it finds it there.
        let mut scans = shard.scans.lock();
        match scans.join(priority, barrier, probes, search)? {
            Joined::AskForScan => {
                self.scans.asked_for.lock().ask(priority, Arc::clone(shard));
                let scans = Arc::clone(&self.scans);
                self.threads.spawn_fifo(move || run_scan(&scans));
            }
            Joined::HastenScan => self.scans.asked_for.lock().hasten(|other| Arc::ptr_eq(other, shard)),
            Joined::Waits => {}
        }
        Ok(())
    }
}

/// The scans that wait for a thread of the pool, which has one job for each. Locked after a shard's searches, where both are.
#[derive(Default)]
struct ScansAskedFor(Mutex<ScanOrder<Arc<HostedShard>>>);

impl ScansAskedFor {
    fn lock(&self) -> std::sync::MutexGuard<'_, ScanOrder<Arc<HostedShard>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The searches of one shard that wait for a scan.
pub(crate) struct ShardScans(Mutex<ScanQueue<WaitingSearch>>);

/// One request's search of one shard.
struct WaitingSearch {
    probes: Arc<Vec<SearchProbe>>,
    given_up: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<ShardAnswers, SearchError>>,
    _span: tracing::Span,
}

impl Default for ShardScans {
    fn default() -> Self {
        Self(Mutex::new(ScanQueue::new(SCAN_PROBES_MAX, SHARD_PROBES_MAX)))
    }
}

impl ShardScans {
    /// Held to join or to begin, never during a scan.
    fn lock(&self) -> std::sync::MutexGuard<'_, ScanQueue<WaitingSearch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingSearch {
    fn is_wanted(&self) -> bool {
        !self.given_up.load(Ordering::Relaxed)
    }

    /// The caller may have gone meanwhile.
    fn answer(self, answer: Result<ShardAnswers, SearchError>) {
        let _ = self.reply.send(answer);
    }
}

/// The cores that scans may take: one each, and what is left for whoever can do with more.
#[derive(Debug)]
struct Cores {
    all: usize,
    taken: AtomicUsize,
}

impl Cores {
    fn take(&self) -> TakenCore<'_> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        TakenCore(self)
    }
}

/// A core of one scan, which gives parts to those that no scan has taken.
///
/// Threads are made for it each time: those of the pool, while they wait for parts, would take up other scans, and this one would wait for them.
#[derive(Debug)]
struct TakenCore<'a>(&'a Cores);

impl Drop for TakenCore<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spread for TakenCore<'_> {
    fn width(&self) -> usize {
        1 + self.0.all.saturating_sub(self.0.taken.load(Ordering::Relaxed))
    }

    fn each(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let run = || {
            // In turn for whoever is free, until there are none left.
            while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < parts) {
                part(number);
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.width().min(parts) {
                // Where the system gives no thread, this one runs all.
                let _ = thread::Builder::new().name("search-part".to_owned()).spawn_scoped(scope, run);
            }
            run();
        });
    }
}

/// Runs the scan that is next, for the searches that wait for it, on a thread of the pool.
fn run_scan(scans: &Arc<Scans>) {
    let Scans { asked_for, cores, metrics, audit } = &**scans;
    let core = cores.take();
    let next = asked_for.lock().begin();
    let shard = next.expect("one scan waits for each job of the pool");
    let mut waiting = shard.scans.lock();
    // While nobody can join: a moment taken before may be older than the barrier of somebody who has joined since.
    let moment = shard.view.moment();
    let SharedScan { searches, behind, ask_for_scan } =
        waiting.begin(moment.searchable_index(), WaitingSearch::is_wanted);
    if let Some(priority) = ask_for_scan {
        asked_for.lock().ask(priority, Arc::clone(&shard));
        let scans = Arc::clone(scans);
        rayon::spawn_fifo(move || run_scan(&scans));
    }
    drop(waiting);
    behind.into_iter().for_each(|search| search.answer(Err(SearchError::NotCurrent)));
    let probes: Cow<'_, [SearchProbe]> = match searches.as_slice() {
        [] => return,
        [only] => Cow::Borrowed(only.probes.as_slice()),
        several => several.iter().flat_map(|search| search.probes.iter().cloned()).collect(),
    };
    let timer = metrics.scan(probes.len());
    // A scan goes on as long as one of its searches is wanted.
    let found = moment.search_spread(&probes, &core, &|| !searches.iter().any(WaitingSearch::is_wanted));
    drop(timer);
    drop(core);
    if let Ok(answers) = &found {
        audit.offer(&moment, &probes, answers);
    }
    drop(probes);
    match found {
        Ok(answers) => {
            let searchable_index = moment.searchable_index().0;
            let mut answers = answers.into_iter();
            for search in searches {
                let own = answers.by_ref().take(search.probes.len()).collect();
                search.answer(Ok(ShardAnswers { searchable_index, answers: own }));
            }
        }
        Err(semel_shard::SearchError::Cancelled(_)) => {
            searches.into_iter().for_each(|search| search.answer(Err(SearchError::GivenUp)));
        }
        Err(error @ semel_shard::SearchError::Unreadable(_)) => {
            tracing::warn!(shard = shard.shard.0, %error, "the catalogue is loaded again");
            shard.view.load_again();
            searches.into_iter().for_each(|search| search.answer(Err(SearchError::Moment(error.clone()))));
        }
        Err(error @ semel_shard::SearchError::Counts { .. }) => {
            tracing::error!(%error, "the catalogue and the rows disagree");
            searches.into_iter().for_each(|search| search.answer(Err(SearchError::Moment(error.clone()))));
        }
    }
}

/// Tells the scans of a request, once it is dropped, that nobody waits for them.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn every_part_runs_once_and_scans_that_begin_take_cores_away() {
        let cores = Cores { all: 3, taken: AtomicUsize::new(0) };
        let one = cores.take();
        assert_eq!(one.width(), 3);
        let others = [cores.take(), cores.take(), cores.take()];
        assert_eq!(one.width(), 1);
        for others in [Some(others), None] {
            for parts in [0, 1, 2, 50] {
                let ran: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                one.each(parts, &|part| {
                    ran[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(ran.iter().all(|times| times.load(Ordering::Relaxed) == 1), "{parts} parts");
            }
            drop(others);
        }
        assert_eq!(one.width(), 3);
    }

    #[test]
    fn a_panic_of_a_part_reaches_the_scan_and_its_core_is_free_again() {
        let cores = Cores { all: 2, taken: AtomicUsize::new(0) };
        let scan = || cores.take().each(40, &|part| assert_ne!(part, 30, "this part panics"));
        assert!(catch_unwind(AssertUnwindSafe(scan)).is_err());
        assert_eq!(cores.take().width(), 2);
    }
}
