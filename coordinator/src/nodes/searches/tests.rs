//! A node that holds its searches shows what travels together, and what the node hears of its callers.

use std::sync::Mutex;

use semel_proto::internal::v1::shard_service_server::{ShardService, ShardServiceServer};
use tonic::Response;

use super::*;
use crate::routes::{Route, Routes, Seat};

/// A node that holds every search until it is told to answer, and remembers what it was asked.
struct HoldingNode {
    asked: Mutex<Vec<Asked>>,
    answer: tokio::sync::Semaphore,
    given_up: Arc<AtomicUsize>,
}

struct Asked {
    shards: Vec<u32>,
    probes: usize,
    priority: i32,
    timeout: Option<Duration>,
}

/// Counts a search whose handler was dropped before it answered.
struct Unanswered(Arc<AtomicUsize>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl ShardService for HoldingNode {
    async fn search(
        &self,
        request: tonic::Request<wire::SearchRequest>,
    ) -> Result<Response<wire::SearchResponse>, Status> {
        let timeout = crate::enrolment_service::call_timeout(&request);
        let wire::SearchRequest { shards, probes, priority, .. } = request.into_inner();
        let asked = Asked { shards: shards.clone(), probes: probes.len(), priority, timeout };
        self.asked.lock().expect("no panic").push(asked);
        let unanswered = Unanswered(Arc::clone(&self.given_up));
        self.answer.acquire().await.expect("never closed").forget();
        std::mem::forget(unanswered);
        let answer = |shard| {
            let probes = probes.iter().map(|_| wire::ProbeAnswer::default()).collect();
            let answer = wire::ShardAnswer { epoch: 1, searchable_index: 1, probes };
            wire::ShardResult { shard, outcome: Some(wire::shard_result::Outcome::Answer(answer)) }
        };
        Ok(Response::new(wire::SearchResponse { results: shards.into_iter().map(answer).collect() }))
    }

    async fn propose(
        &self,
        _: tonic::Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeResponse>, Status> {
        Err(Status::unimplemented("only searches"))
    }

    async fn read_enrolment(
        &self,
        _: tonic::Request<wire::ReadEnrolmentRequest>,
    ) -> Result<Response<wire::ReadEnrolmentResponse>, Status> {
        Err(Status::unimplemented("only searches"))
    }

    async fn list_pending(
        &self,
        _: tonic::Request<wire::ListPendingRequest>,
    ) -> Result<Response<wire::ListPendingResponse>, Status> {
        Err(Status::unimplemented("only searches"))
    }

    async fn read_case(
        &self,
        _: tonic::Request<wire::ReadCaseRequest>,
    ) -> Result<Response<wire::ReadCaseResponse>, Status> {
        Err(Status::unimplemented("only searches"))
    }

    async fn scan_cases(
        &self,
        _: tonic::Request<wire::ScanCasesRequest>,
    ) -> Result<Response<wire::ScanCasesResponse>, Status> {
        Err(Status::unimplemented("only searches"))
    }

    async fn change_membership(
        &self,
        _: tonic::Request<wire::ChangeMembershipRequest>,
    ) -> Result<Response<wire::ChangeMembershipResponse>, Status> {
        Err(Status::unimplemented("only searches"))
    }
}

/// Nodes whose every shard is on one that holds its searches.
async fn holding_node() -> (Arc<Nodes>, Arc<HoldingNode>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let node = Arc::new(HoldingNode {
        asked: Mutex::default(),
        answer: tokio::sync::Semaphore::new(0),
        given_up: Arc::default(),
    });
    let service = ShardServiceServer::from_arc(Arc::clone(&node));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let routes = Arc::new(Routes::default());
    let seat = Seat { replica: 1, node_id: [1; 16], address };
    routes.set_map((0..4).map(|_| Route { epoch: 1, seats: vec![seat.clone()] }).collect());
    (Nodes::new(routes, Duration::from_secs(60)), node)
}

impl HoldingNode {
    /// Waits until it was asked so often.
    async fn asked(&self, times: usize) {
        while self.asked.lock().expect("no panic").len() < times {
            tokio::task::yield_now().await;
        }
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(50)
}

#[tokio::test]
async fn probes_that_wait_for_a_busy_node_travel_together_with_those_for_the_same_shards() {
    let (nodes, node) = holding_node().await;
    let probe = wire::SearchProbe::default();
    let mut answers = nodes.search(&probe, &[0], 0, Priority::Bulk, later());
    node.asked(1).await;
    for number in 0..2 * PROBES_PER_REQUEST_MAX + 6 {
        let shards: &[u32] = if number % 2 == 0 { &[0, 1] } else { &[2, 3] };
        answers.extend(nodes.search(&probe, shards, 0, Priority::Bulk, later()));
    }
    node.answer.add_permits(5);
    for replies in join_all(answers).await {
        assert!(replies.iter().all(|reply| reply.outcome.is_ok()));
    }
    let asked = node.asked.lock().expect("no panic");
    let together: Vec<_> = asked.iter().map(|asked| (asked.shards.clone(), asked.probes)).collect();
    let full = PROBES_PER_REQUEST_MAX;
    let expected = [(vec![0], 1), (vec![0, 1], full), (vec![2, 3], full), (vec![0, 1], 3), (vec![2, 3], 3)];
    assert_eq!(together, expected);
}

/// Whoever stood at a desk once waited for every request of a file that was on its way before.
#[tokio::test]
async fn an_interactive_probe_waits_for_no_bulk_and_does_not_travel_with_it() {
    let (nodes, node) = holding_node().await;
    let probe = wire::SearchProbe::default();
    let mut answers = nodes.search(&probe, &[0], 0, Priority::Bulk, later());
    node.asked(1).await;
    for _ in 0..3 * PROBES_PER_REQUEST_MAX {
        answers.extend(nodes.search(&probe, &[0], 0, Priority::Bulk, later()));
    }
    node.asked(REQUESTS_PER_NODE_MAX).await;
    answers.extend(nodes.search(&probe, &[0], 0, Priority::Interactive, later()));
    node.asked(REQUESTS_PER_NODE_MAX + 1).await;
    {
        let asked = node.asked.lock().expect("no panic");
        let last = asked.last().expect("it was asked");
        assert_eq!((last.probes, last.priority), (1, 1));
        assert!(asked.iter().rev().skip(1).all(|asked| asked.priority == 2));
    }
    node.answer.add_permits(5);
    for replies in join_all(answers).await {
        assert!(replies.iter().all(|reply| reply.outcome.is_ok()));
    }
}

/// A node once scanned on for callers who had hung up, and never heard of their deadlines.
#[tokio::test]
async fn a_node_hears_its_callers_deadline_and_when_the_last_of_them_has_gone() {
    let (nodes, node) = holding_node().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let answers = nodes.search(&wire::SearchProbe::default(), &[0], 0, Priority::Bulk, deadline);
    node.asked(1).await;
    let timeout = node.asked.lock().expect("no panic")[0].timeout.expect("a deadline travels");
    assert!(timeout <= Duration::from_secs(20), "{timeout:?}");
    drop(answers);
    while node.given_up.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_caller_that_goes_takes_nothing_from_those_who_share_its_request() {
    let (nodes, node) = holding_node().await;
    let probe = wire::SearchProbe::default();
    let first = nodes.search(&probe, &[0], 0, Priority::Bulk, later());
    node.asked(1).await;
    let (gone, stays) = (
        nodes.search(&probe, &[0], 0, Priority::Bulk, later()),
        nodes.search(&probe, &[0], 0, Priority::Bulk, later()),
    );
    node.answer.add_permits(1);
    node.asked(2).await;
    drop(gone);
    node.answer.add_permits(1);
    for replies in join_all(first.into_iter().chain(stays)).await {
        assert!(replies.iter().all(|reply| reply.outcome.is_ok()));
    }
    assert_eq!(node.asked.lock().expect("no panic")[1].probes, 2);
}

/// Probes for so many requests, of which the given numbers go to the same shards.
fn gathering(shards: &[u32]) -> Gathering {
    let mut gathering = Gathering::new(Instant::now());
    for &shard in shards {
        join(&mut gathering, shard);
    }
    gathering
}

fn join(gathering: &mut Gathering, shard: u32) {
    let (reply, _) = oneshot::channel();
    let (probe, span) = (wire::SearchProbe::default(), tracing::Span::none());
    let _outstanding = Outstanding::count(&Arc::default());
    gathering.join(Job { shards: vec![shard], probe, span, deadline: later(), reply, _outstanding });
}

/// What leaves now, as its shard and the number of its probes.
fn left(gathering: &mut Gathering, on_their_way: usize, now: Instant) -> Option<(u32, usize)> {
    gathering.leave(on_their_way, now).map(|request| (request[0].shards[0], request.len()))
}

#[test]
fn a_probe_for_an_idle_node_leaves_at_once() {
    let mut gathering = gathering(&[0]);
    assert_eq!(left(&mut gathering, 0, Instant::now()), Some((0, 1)));
    assert_eq!(left(&mut gathering, 0, Instant::now()), None);
}

#[test]
fn only_a_full_request_follows_one_that_is_on_its_way() {
    let now = Instant::now();
    let mut gathering = gathering(&[0; PROBES_PER_REQUEST_MAX - 1]);
    assert_eq!(left(&mut gathering, 1, now), None);
    join(&mut gathering, 0);
    assert_eq!(left(&mut gathering, REQUESTS_PER_NODE_MAX, now), None);
    assert_eq!(left(&mut gathering, 1, now), Some((0, PROBES_PER_REQUEST_MAX)));
}

#[test]
fn full_requests_do_not_overtake_a_probe_for_other_shards() {
    let now = Instant::now();
    let mut gathering = gathering(&[7]);
    (0..2 * PROBES_PER_REQUEST_MAX).for_each(|_| join(&mut gathering, 0));
    assert_eq!(left(&mut gathering, 1, now), Some((7, 1)));
    assert_eq!(left(&mut gathering, 1, now), Some((0, PROBES_PER_REQUEST_MAX)));
}

#[test]
fn a_request_waits_a_moment_for_those_whose_probes_were_just_answered() {
    let now = Instant::now();
    let took = COMPANY_WAIT_DIVISOR * Duration::from_millis(4);
    let mut gathering = gathering(&[0]);
    gathering.ended(2, took, now);
    assert_eq!(left(&mut gathering, 0, now), None, "two may come back");
    join(&mut gathering, 0);
    join(&mut gathering, 0);
    assert_eq!(left(&mut gathering, 0, now), Some((0, 3)), "they are back");
    join(&mut gathering, 0);
    assert_eq!(left(&mut gathering, 0, now + Duration::from_millis(4)), Some((0, 1)), "nobody waits for long");
}
