//! The search of several shards for several probes: barriers first, then scans on the search pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use semel_index::{SearchProbe, ShardSearch};
use semel_raft::BarrierError;
use semel_raft_host::HostHandle;
use semel_shard::{SearchMoment, ShardMachine};
use semel_telemetry::traced;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::metrics::NodeMetrics;
use crate::replicas::HostedShard;

/// How long a shard's barrier and catalogue may take; the coordinator then asks another replica.
const CURRENT_WITHIN: Duration = Duration::from_secs(1);

/// Why a shard gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// The shard's group confirmed no barrier.
    #[error("{0}")]
    Barrier(#[from] BarrierError),
    /// The catalogue and the replicated counts disagree: the replica must not answer.
    #[error("{0}")]
    Moment(semel_shard::SearchError),
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
}

impl SearchPool {
    pub(crate) fn new(
        threads: usize,
        requests_max: usize,
        metrics: Arc<NodeMetrics>,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("search-{n}"))
            // The scan's sender is dropped, which its shard reports. Without a handler the whole node would abort.
            .panic_handler(|_| tracing::error!("a scan panicked; its shard counts as silent"))
            .build()?;
        Ok(Self { threads, requests: Arc::new(Semaphore::new(requests_max)), requests_max, metrics })
    }

    /// Requests that wait or run.
    pub(crate) fn in_flight(&self) -> u64 {
        (self.requests_max - self.requests.available_permits()) as u64
    }

    /// A place among the searches that may wait or run; refused rather than queued without bound.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, TooManySearches> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| TooManySearches)
    }

    /// Searches several shards. A scan begins only once the shard's catalogue has reached a barrier that began after the call; dropping
    /// the future gives up the scans that have not ended.
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
                    Ok::<_, SearchError>(shard.view.reached(barrier).await)
                };
                // A shard without a leader must not hold up the answers of the others.
                let moment =
                    tokio::time::timeout(CURRENT_WITHIN, current).await.map_err(|_| SearchError::NotCurrent)??;
                self.scan(shard.shard.0, moment, probes, flag).await
            }
        }))
        .await
    }

    async fn scan(
        &self,
        shard: u32,
        moment: SearchMoment,
        probes: Arc<Vec<SearchProbe>>,
        given_up: Arc<AtomicBool>,
    ) -> Result<ShardAnswers, SearchError> {
        let (sender, receiver) = oneshot::channel();
        let span = traced!("scan", shard, probes = probes.len());
        let metrics = Arc::clone(&self.metrics);
        self.threads.spawn_fifo(move || {
            let _measured = (span.entered(), metrics.scan(probes.len()));
            let answered = match moment.search(&probes, &|| given_up.load(Ordering::Relaxed)) {
                Ok(answers) => Ok(ShardAnswers { searchable_index: moment.searchable_index().0, answers }),
                Err(semel_shard::SearchError::Cancelled(_)) => Err(SearchError::GivenUp),
                Err(error @ semel_shard::SearchError::Counts { .. }) => {
                    tracing::error!(%error, "the catalogue and the rows disagree");
                    Err(SearchError::Moment(error))
                }
            };
            // The caller may have gone meanwhile.
            let _ = sender.send(answered);
        });
        receiver.await.unwrap_or(Err(SearchError::Panicked))
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
