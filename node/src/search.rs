//! The search of several shards for several probes: barriers first, then scans on the search pool, shared by what waits together.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use semel_index::{SearchProbe, ShardSearch};
use semel_raft::{BarrierError, LogIndex};
use semel_raft_host::HostHandle;
use semel_shard::{Joined, ScanQueue, ScanQueueFull, ShardMachine, SharedScan};
use semel_telemetry::traced;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

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

/// Every request that may search at once is full.
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
    requests: Arc<Semaphore>,
    requests_max: usize,
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
        Ok(Self { threads, requests: Arc::new(Semaphore::new(requests_max)), requests_max, metrics, audit })
    }

    /// Requests that wait or run.
    pub(crate) fn in_flight(&self) -> u64 {
        (self.requests_max - self.requests.available_permits()) as u64
    }

    /// A place among the searches that may wait or run; refused rather than queued without bound.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, TooManySearches> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| TooManySearches)
    }

    /// Searches several shards. A scan begins only once the shard's catalogue has reached a barrier that began after the call, and is
    /// shared with other calls that wait for one; dropping the future gives up the scans that nobody else waits for.
    pub(crate) async fn search(
        &self,
        host: &HostHandle<ShardMachine>,
        shards: &[Arc<HostedShard>],
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
                self.scan(shard, barrier, probes, flag).await
            }
        }))
        .await
    }

    /// Joins the next scan of the shard, whose catalogue has reached `barrier`.
    async fn scan(
        &self,
        shard: &Arc<HostedShard>,
        barrier: LogIndex,
        probes: Arc<Vec<SearchProbe>>,
        given_up: Arc<AtomicBool>,
    ) -> Result<ShardAnswers, SearchError> {
        let (reply, answer) = oneshot::channel();
        let count = probes.len();
        // Of this request, from now until it is answered, though its scan may be shared.
        let span = traced!("scan", shard = shard.shard.0, probes = count);
        let joined = shard.scans.lock().join(barrier, count, WaitingSearch { probes, given_up, reply, _span: span })?;
        match joined {
            Joined::AskForScan => {
                let (shard, metrics, audit) = (Arc::clone(shard), Arc::clone(&self.metrics), Arc::clone(&self.audit));
                self.threads.spawn_fifo(move || run_scan(&shard, &metrics, &audit));
            }
            Joined::Waits => {}
        }
        answer.await.unwrap_or(Err(SearchError::Panicked))
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

/// Runs one scan for the searches that wait, on a thread of the pool.
fn run_scan(shard: &Arc<HostedShard>, metrics: &Arc<NodeMetrics>, audit: &Arc<RecallAudit>) {
    let mut scans = shard.scans.lock();
    // While nobody can join: a moment taken before may be older than the barrier of somebody who has joined since.
    let moment = shard.view.moment();
    let SharedScan { searches, behind, ask_for_scan } =
        scans.begin(moment.searchable_index(), WaitingSearch::is_wanted);
    drop(scans);
    if ask_for_scan {
        let (shard, metrics, audit) = (Arc::clone(shard), Arc::clone(metrics), Arc::clone(audit));
        rayon::spawn_fifo(move || run_scan(&shard, &metrics, &audit));
    }
    behind.into_iter().for_each(|search| search.answer(Err(SearchError::NotCurrent)));
    let probes: Cow<'_, [SearchProbe]> = match searches.as_slice() {
        [] => return,
        [only] => Cow::Borrowed(only.probes.as_slice()),
        several => several.iter().flat_map(|search| search.probes.iter().cloned()).collect(),
    };
    let timer = metrics.scan(probes.len());
    // A scan goes on as long as one of its searches is wanted.
    let found = moment.search(&probes, &|| !searches.iter().any(WaitingSearch::is_wanted));
    drop(timer);
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
