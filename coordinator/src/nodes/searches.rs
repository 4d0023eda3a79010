//! Searches of nodes: probes of one priority that wait for one node travel in requests that they share. Those of the other priority
//! neither hold them up nor travel with them: which go first is for the node to say, which knows of every coordinator's.

mod pace;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use pace::Paces;
use semel_coordinator_wire::ProbeReply;
use semel_index::{Priority, ShardId};
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::shard_result::Outcome;
use semel_telemetry::{Instrument as _, follow_callers, traced};
use semel_workflow::ShardAnswer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{ATTEMPT_TELLING, Nodes, within};

/// Probes that travel in one request.
const PROBES_PER_REQUEST_MAX: usize = 64;
/// Probes of one priority that may wait for one node.
const PROBES_QUEUED_MAX: usize = 8_192;
/// Search requests of one priority on their way to one node at once; the second follows only once a full one waits. A scan reads every row, and a
/// request asks every shard for a barrier, whatever the number of probes, so two half-full requests cost much more than a full one.
const REQUESTS_PER_NODE_MAX: usize = 2;
/// So many more full requests must wait for a node than for another before the other is asked for its shards. Probes share a request
/// only if they are for the same shards: moving some at every wave splits the requests up.
const REQUESTS_AHEAD_MAX: usize = 4;
/// How a node that is much slower than the others compares with any queue: it is asked last.
const SLOW: usize = usize::MAX;
/// A request that is not full waits for those whose probes the node has just answered, as they may come back: at most this part of
/// the time that the answer took.
const COMPANY_WAIT_DIVISOR: u32 = 2;
/// And at most so long.
const COMPANY_WAIT_MAX: Duration = Duration::from_millis(20);

/// A share of a search: one probe for some shards of one node.
struct Job {
    shards: Vec<u32>,
    probe: wire::SearchProbe,
    /// What the caller does, for its trace.
    span: tracing::Span,
    /// When its caller gives up.
    deadline: Instant,
    reply: oneshot::Sender<Vec<ShardReply>>,
    /// Counts it among those that wait for the node, for as long as it exists.
    _outstanding: Outstanding,
}

/// What is known of the nodes that are searched.
#[derive(Default)]
pub(super) struct Searched {
    interactive: Lane,
    bulk: Lane,
}

/// What is known of them for one priority: how long they take depends on it.
#[derive(Default)]
struct Lane {
    queues: Mutex<HashMap<String, SearchQueue>>,
    paces: Mutex<Paces>,
}

impl Searched {
    fn lane(&self, priority: Priority) -> &Lane {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
        }
    }
}

impl Lane {
    /// How reluctantly each node is asked, of those that are not asked as any other.
    fn burdens(&self) -> HashMap<String, usize> {
        let now = Instant::now();
        let paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let searches = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let burden = |(address, queue): (&String, &SearchQueue)| {
            let waiting = queue.outstanding.load(Ordering::Relaxed) / (REQUESTS_AHEAD_MAX * PROBES_PER_REQUEST_MAX);
            let burden = if paces.is_slow(address, now) { SLOW } else { waiting };
            (burden > 0).then(|| (address.clone(), burden))
        };
        searches.iter().filter_map(burden).collect()
    }
}

/// The probes that wait for one node.
#[derive(Clone)]
struct SearchQueue {
    jobs: mpsc::Sender<Job>,
    outstanding: Arc<AtomicUsize>,
}

/// One of the probes that wait for a node.
struct Outstanding(Arc<AtomicUsize>);

impl Outstanding {
    fn count(outstanding: &Arc<AtomicUsize>) -> Self {
        outstanding.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(outstanding))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one shard answered to one probe.
pub(crate) struct ShardReply {
    pub(crate) shard: u32,
    pub(crate) outcome: Result<ProbeReply, String>,
}

impl ShardReply {
    /// The shard's answer, or in words why there is none.
    pub(crate) fn answer(self) -> Result<ShardAnswer, String> {
        semel_coordinator_wire::shard_answer(ShardId(self.shard), self.outcome?).map_err(|error| error.to_string())
    }
}

impl Nodes {
    /// Searches `shards` for one probe, once, and gives one future per node asked, so that a slow node hides no answer of the others.
    /// Together they answer every shard exactly once; one that does not answer in time has an error for an answer. The scans
    /// begin after the call, and end with the futures, or at the deadline.
    pub(crate) fn search(
        self: &Arc<Self>,
        probe: &wire::SearchProbe,
        shards: &[u32],
        attempt: usize,
        priority: Priority,
        deadline: Instant,
    ) -> Vec<impl Future<Output = Vec<ShardReply>> + Send + use<>> {
        let burdens = self.searched.lane(priority).burdens();
        let mut shares =
            self.routes.for_search(shards, attempt, |address| burdens.get(address).copied().unwrap_or_default());
        let routed: HashSet<u32> = shares.iter().flat_map(|(_, shards)| shards.iter().copied()).collect();
        let unplaced: Vec<u32> = shards.iter().copied().filter(|shard| !routed.contains(shard)).collect();
        if !unplaced.is_empty() {
            shares.push((String::new(), unplaced));
        }
        let limit = self.search_attempt;
        let asked = shares.into_iter().map(|(address, shards)| {
            let (reply, answer) = oneshot::channel();
            let refused = if address.is_empty() {
                Some("the shard is not placed yet")
            } else {
                let SearchQueue { jobs, outstanding } = self.search_queue(&address, priority);
                let _outstanding = Outstanding::count(&outstanding);
                let span = tracing::Span::current();
                let (shards, probe) = (shards.clone(), probe.clone());
                let job = Job { shards, probe, span, deadline, reply, _outstanding };
                jobs.try_send(job).is_err().then_some("too many probes wait for the node")
            };
            async move {
                let answered = match refused {
                    Some(reason) => Err(reason),
                    // The queue counts: what waits behind a node that hangs is asked of another.
                    None => match tokio::time::timeout(limit, answer).await {
                        Ok(answered) => answered.map_err(|_| "the search was given up"),
                        Err(_) => Err("no answer in time"),
                    },
                };
                answered.unwrap_or_else(|reason| shards.iter().map(|&shard| unanswered(shard, reason)).collect())
            }
        });
        asked.collect()
    }

    fn search_queue(self: &Arc<Self>, address: &str, priority: Priority) -> SearchQueue {
        let mut searches = self.searched.lane(priority).queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = searches.get(address) {
            return queue.clone();
        }
        let (jobs, receiver) = mpsc::channel(PROBES_QUEUED_MAX);
        tokio::spawn(Arc::clone(self).run_searches(address.to_owned(), priority, receiver));
        let queue = SearchQueue { jobs, outstanding: Arc::default() };
        searches.insert(address.to_owned(), queue.clone());
        queue
    }

    /// Sends the probes that wait for one node: as they come while the node is idle, together while it is busy.
    async fn run_searches(self: Arc<Self>, address: String, priority: Priority, mut jobs: mpsc::Receiver<Job>) {
        let mut gathering = Gathering::new(Instant::now());
        let mut sent = JoinSet::new();
        loop {
            while let Some(batch) = gathering.leave(sent.len(), Instant::now()) {
                let (nodes, address, probes, begun) = (Arc::clone(&self), address.clone(), batch.len(), Instant::now());
                let span = traced!("search_request", otel.kind = "client", probes);
                let span = follow_callers(span, batch.iter().map(|job| &job.span));
                let sending = async move {
                    nodes.search_node(&address, priority, batch).await;
                    (probes, begun.elapsed())
                };
                sent.spawn(sending.instrument(span));
            }
            tokio::select! {
                job = jobs.recv(), if gathering.has_room() => match job {
                    Some(job) => gathering.join(job),
                    None => return,
                },
                Some(ended) = sent.join_next() => if let Ok((probes, took)) = ended {
                    gathering.ended(probes, took, Instant::now());
                },
                () = tokio::time::sleep_until(gathering.company_until), if sent.is_empty() && gathering.probes > 0 => {}
            }
            while gathering.has_room()
                && let Ok(job) = jobs.try_recv()
            {
                gathering.join(job);
            }
        }
    }

    async fn search_node(&self, address: &str, priority: Priority, mut batch: Vec<Job>) {
        batch.retain(|job| !job.reply.is_closed());
        let Some(deadline) = batch.iter().map(|job| job.deadline).max() else { return };
        // The node hears how long somebody waits for it, and stops with the last of them.
        let begun = Instant::now();
        let limit = self.search_attempt.min(deadline.saturating_duration_since(begun));
        let shards = batch[0].shards.clone();
        let request = wire::SearchRequest {
            cluster_id: self.cluster_id(),
            shards: shards.clone(),
            probes: batch.iter_mut().map(|job| std::mem::take(&mut job.probe)).collect(),
            priority: semel_coordinator_wire::priority(priority).into(),
        };
        let answered = match self.client(address) {
            Ok(mut client) => {
                let call = tokio::time::timeout(limit, client.search(within(request, limit)));
                let all_gone = join_all(batch.iter_mut().map(|job| job.reply.closed()));
                tokio::select! {
                    answered = call => match answered {
                        Ok(answered) => answered.map(tonic::Response::into_inner),
                        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
                    },
                    // Dropping the call tells the node.
                    _ = all_gone => {
                        if begun.elapsed() >= ATTEMPT_TELLING {
                            self.routes.suspect(address);
                        }
                        return;
                    }
                }
            }
            Err(status) => Err(status),
        };
        match answered {
            Ok(response) => {
                // A node that cannot search says so at once, which is no pace.
                let searched = |result: &wire::ShardResult| matches!(result.outcome, Some(Outcome::Answer(_)));
                if response.results.iter().all(searched) {
                    let mut paces = self.searched.lane(priority).paces.lock().unwrap_or_else(PoisonError::into_inner);
                    paces.answered(address, begun.elapsed(), Instant::now());
                }
                hand_out(batch, response);
            }
            Err(status) => {
                // A call cut short by its callers says nothing of the node.
                let telling = limit >= ATTEMPT_TELLING || status.code() == Code::Unavailable;
                if telling && status.code() != Code::ResourceExhausted {
                    self.routes.suspect(address);
                }
                tracing::debug!(address, code = ?status.code(), reason = status.message(), "search not answered");
                for job in batch {
                    let replies = shards.iter().map(|&shard| unanswered(shard, status.message())).collect();
                    // A caller that has gone needs no answer.
                    let _ = job.reply.send(replies);
                }
            }
        }
    }
}

fn unanswered(shard: u32, reason: &str) -> ShardReply {
    ShardReply { shard, outcome: Err(reason.to_owned()) }
}

/// Probes that wait for a node, as the requests that they will travel in: those for the same shards together, in order of arrival.
struct Gathering {
    requests: VecDeque<Vec<Job>>,
    probes: usize,
    /// Until when a request that is not full waits for company, unless so many probes wait before.
    company_until: Instant,
    company: usize,
}

impl Gathering {
    fn new(now: Instant) -> Self {
        Self { requests: VecDeque::new(), probes: 0, company_until: now, company: 0 }
    }

    fn has_room(&self) -> bool {
        self.probes < PROBES_QUEUED_MAX
    }

    fn join(&mut self, job: Job) {
        self.probes += 1;
        let has_room = |request: &&mut Vec<Job>| !is_full(request) && request[0].shards == job.shards;
        match self.requests.iter_mut().find(has_room) {
            Some(request) => request.push(job),
            None => self.requests.push_back(vec![job]),
        }
    }

    /// Takes the oldest request if one may leave now, while so many are on their way. What is full lets those before it go, too:
    /// otherwise probes for other shards would wait for as long as the node has full requests to do.
    fn leave(&mut self, on_their_way: usize, now: Instant) -> Option<Vec<Job>> {
        let alone = on_their_way == 0 && (self.probes >= self.company || now >= self.company_until);
        let follows = on_their_way < REQUESTS_PER_NODE_MAX && self.requests.iter().any(|request| is_full(request));
        let request = if alone || follows { self.requests.pop_front()? } else { return None };
        self.probes -= request.len();
        Some(request)
    }

    /// Notes that a request of so many probes has ended: their callers may come back.
    fn ended(&mut self, probes: usize, took: Duration, now: Instant) {
        self.company = self.probes + probes;
        self.company_until = now + (took / COMPANY_WAIT_DIVISOR).min(COMPANY_WAIT_MAX);
    }
}

fn is_full(request: &[Job]) -> bool {
    request.len() == PROBES_PER_REQUEST_MAX
}

/// Turns a response by shard into replies by probe.
fn hand_out(batch: Vec<Job>, response: wire::SearchResponse) {
    let probes = batch.len();
    let mut by_probe: Vec<Vec<ShardReply>> = batch.iter().map(|_| Vec::new()).collect();
    for result in response.results {
        let shard = result.shard;
        match result.outcome {
            Some(Outcome::Answer(answer)) if answer.probes.len() == probes => {
                let (epoch, searchable_index) = (answer.epoch, answer.searchable_index);
                for (replies, answer) in by_probe.iter_mut().zip(answer.probes) {
                    let outcome = Ok(ProbeReply { epoch, searchable_index, answer });
                    replies.push(ShardReply { shard, outcome });
                }
            }
            Some(Outcome::Answer(_)) => {
                by_probe.iter_mut().for_each(|r| r.push(unanswered(shard, "answered another number of probes")));
            }
            Some(Outcome::Error(reason)) => by_probe.iter_mut().for_each(|r| r.push(unanswered(shard, &reason))),
            None => by_probe.iter_mut().for_each(|r| r.push(unanswered(shard, "empty answer"))),
        }
    }
    for (job, mut replies) in batch.into_iter().zip(by_probe) {
        for &shard in &job.shards {
            if !replies.iter().any(|reply| reply.shard == shard) {
                replies.push(unanswered(shard, "left out of the answer"));
            }
        }
        // A caller that has gone needs no answer.
        let _ = job.reply.send(replies);
    }
}

#[cfg(test)]
mod tests;
