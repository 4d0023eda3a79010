//! A registry's side: it sends an enrolment until it has a verdict, and keeps what it was told for later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use semel_proto::v1::case_service_client::CaseServiceClient;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::{
    Case, EnrolRequest, EnrolResponse, Enrolment, EnrolmentState, GetClusterStatusResponse, GetEnrolmentRequest,
    ListCasesRequest,
};
use semel_sandbox::{Sandbox, wait_until};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long an enrolment may take to have a verdict while servers come and go.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// How long what shards owe each other may take.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Each attempt's own deadline.
const ATTEMPT: Duration = Duration::from_secs(15);
const PAGE_SIZE: u32 = 250;

/// Two enrolments, the smaller id first.
pub(crate) type Pair = (String, String);

/// Sends one request once.
pub(crate) async fn enrol_once(
    client: &EnrolmentServiceClient<Channel>,
    request: &EnrolRequest,
) -> Result<EnrolResponse, Status> {
    let mut attempt = tonic::Request::new(request.clone());
    attempt.set_timeout(ATTEMPT);
    client.clone().enrol(attempt).await.map(tonic::Response::into_inner)
}

/// Sends the same request until there is a verdict, as a registry does whose cluster has lost a server.
pub(crate) async fn enrol(client: &EnrolmentServiceClient<Channel>, request: &EnrolRequest) -> Enrolment {
    let what = format!("a verdict on {}", request.enrolment_id);
    let settled = wait_until(&what, SETTLED_WITHIN, || async {
        match enrol_once(client, request).await {
            Ok(EnrolResponse { inconclusive: Some(inconclusive), .. }) => Err(format!("{inconclusive:?}")),
            Ok(EnrolResponse { enrolment, inconclusive: None }) => Ok(enrolment.expect("an answer holds the record")),
            Err(status) if may_be_sent_again(&status) => Err(status.to_string()),
            Err(status) => panic!("{what}: {status}"),
        }
    });
    settled.await.unwrap_or_else(|error| panic!("{error}"))
}

/// What a client meets while a server is down, overloaded, or dies with the call in its hands.
pub(crate) fn may_be_sent_again(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => true,
        // tonic's words for a connection that broke off.
        Code::Unknown | Code::Cancelled => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// Reads an enrolment until a coordinator answers.
pub(crate) async fn recorded(client: &EnrolmentServiceClient<Channel>, gallery: &str, id: &str) -> Enrolment {
    let what = format!("enrolment {id}");
    let read = wait_until(&what, SETTLED_WITHIN, || async {
        let request = GetEnrolmentRequest { gallery: gallery.to_owned(), enrolment_id: id.to_owned(), wait_ms: 0 };
        match client.clone().get_enrolment(request).await {
            Ok(answer) => Ok(answer.into_inner().enrolment.expect("an answer holds the record")),
            Err(status) if may_be_sent_again(&status) => Err(status.to_string()),
            Err(status) => panic!("{id} is not on record: {status}"),
        }
    });
    read.await.unwrap_or_else(|error| panic!("{error}"))
}

/// The ids that an enrolment's verdict names.
pub(crate) fn candidates(enrolment: &Enrolment) -> BTreeSet<String> {
    let verdict = enrolment.verdict.iter();
    verdict.flat_map(|verdict| &verdict.candidates).map(|candidate| candidate.enrolment_id.clone()).collect()
}

/// Checks that state and verdict say the same: unique without candidates, or a possible duplicate with some.
pub(crate) fn assert_sound(enrolment: &Enrolment) {
    let verdict = enrolment.verdict.as_ref().unwrap_or_else(|| panic!("{} has no verdict", enrolment.enrolment_id));
    assert_eq!(verdict.state, enrolment.state, "{}", enrolment.enrolment_id);
    let expected = match verdict.candidates.len() {
        0 => EnrolmentState::Unique,
        _ => EnrolmentState::PossibleDuplicate,
    };
    assert_eq!(verdict.state(), expected, "{}: {:?}", enrolment.enrolment_id, candidates(enrolment));
    assert!(
        !candidates(enrolment).contains(&enrolment.enrolment_id),
        "{} is its own candidate",
        enrolment.enrolment_id
    );
}

/// The pairs that verdicts name.
pub(crate) fn flagged_pairs<'a>(enrolments: impl IntoIterator<Item = &'a Enrolment>) -> BTreeSet<Pair> {
    let pairs = enrolments.into_iter().flat_map(|enrolment| {
        candidates(enrolment).into_iter().map(|other| ordered(enrolment.enrolment_id.clone(), other))
    });
    pairs.collect()
}

fn ordered(one: String, other: String) -> Pair {
    if one < other { (one, other) } else { (other, one) }
}

/// Every case of a gallery, page by page.
pub(crate) async fn cases(client: &CaseServiceClient<Channel>, gallery: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListCasesRequest { gallery: gallery.to_owned(), page_size: PAGE_SIZE, page_token };
        let page = client.clone().list_cases(request).await.expect("cases are listed").into_inner();
        cases.extend(page.cases);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return cases;
        }
    }
}

/// Checks that there is exactly one case for each pair that a verdict names, and no other case.
pub(crate) async fn assert_one_case_per_pair<'a>(
    sandbox: &Sandbox,
    gallery: &str,
    enrolments: impl IntoIterator<Item = &'a Enrolment>,
) {
    wait_quiet(sandbox, gallery).await;
    let mut counted: BTreeMap<Pair, usize> = BTreeMap::new();
    for case in cases(&sandbox.cases(), gallery).await {
        let [smaller, larger] = case.enrolment_ids.try_into().expect("a case is of two enrolments");
        *counted.entry((smaller, larger)).or_default() += 1;
    }
    let expected: BTreeMap<Pair, usize> = flagged_pairs(enrolments).into_iter().map(|pair| (pair, 1)).collect();
    assert_eq!(counted, expected);
}

/// Waits until nothing is staged without a verdict and no shard owes another anything, by reports of every live node that are newer
/// than the call: older ones know nothing of what was just done.
pub(crate) async fn wait_quiet(sandbox: &Sandbox, gallery: &str) -> GetClusterStatusResponse {
    let begun = Instant::now();
    let quiet = wait_until("a quiet cluster", QUIET_WITHIN, || async {
        sandbox.wait_ready().await.map_err(|error| error.to_string())?;
        let status = sandbox.status().await.map_err(|error| error.to_string())?;
        let older = |age_ms| Duration::from_millis(age_ms) >= begun.elapsed();
        let stale = status.nodes.iter().filter(|node| node.live && older(node.last_report_age_ms)).count();
        let counts = status.galleries.iter().find(|counts| counts.gallery == gallery);
        let pending = counts.map_or(0, |counts| counts.pending);
        let owed: u64 = status.shards.iter().map(|shard| shard.obligations).sum();
        let behind = status.shards.iter().flat_map(|shard| &shard.replicas).filter(|replica| replica.lag > 0).count();
        if pending + owed == 0 && behind == 0 && stale == 0 {
            Ok(status)
        } else {
            Err(format!("{pending} staged, {owed} owed, {behind} replicas behind, {stale} reports from before"))
        }
    });
    quiet.await.unwrap_or_else(|error| panic!("{error}"))
}

/// Checks that replicas of a shard that have applied the same entries have the same state.
pub(crate) fn assert_replicas_agree(status: &GetClusterStatusResponse) {
    for shard in &status.shards {
        let mut digests: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for replica in &shard.replicas {
            digests.entry(replica.applied_index).or_default().insert(&replica.digest);
        }
        assert!(digests.values().all(|digests| digests.len() == 1), "shard {}: {digests:?}", shard.shard);
    }
}
