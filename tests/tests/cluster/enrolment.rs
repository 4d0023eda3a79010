//! Enrolling: one verdict per person that never changes, and nobody who slips through by arriving at the same moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use semel_proto::v1::enrol_stream_response::Result as ItemResult;
use semel_proto::v1::{EnrolStreamRequest, Enrolment, EnrolmentState};
use semel_sandbox::{Sandbox, requests};

use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{
    assert_one_case_per_pair, assert_replicas_agree, assert_sound, candidates, enrol, enrol_once, recorded, wait_quiet,
};

const GALLERY: &str = "people";
/// Pairs of mates that arrive at the same moment.
const PAIRS: u32 = 1_000;
/// Pairs on their way at once.
const PAIRS_IN_FLIGHT: usize = 12;

async fn cluster() -> Sandbox {
    let sandbox = Sandbox::builder().engine("exact").start().await.expect("the cluster starts");
    sandbox
        .galleries()
        .create_gallery(requests::face_gallery(GALLERY, DIMENSION, THRESHOLD))
        .await
        .expect("the gallery is created");
    sandbox
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_mates_who_enrol_at_the_same_moment_at_least_one_is_flagged_while_leaders_move() {
    let sandbox = Arc::new(cluster().await);
    let people = people::people(1, PAIRS);
    let request = |pair: u32, side: u32| {
        requests::face_enrolment(GALLERY, &format!("{pair:04}-{side}"), &capture(&people, pair, side))
    };
    let loaded = Arc::new(AtomicBool::new(false));
    let moving = tokio::spawn(move_leaders(Arc::clone(&sandbox), Arc::clone(&loaded)));

    // Two clients, each on a connection of its own.
    let (one, other) = (sandbox.enrolments(), {
        let endpoint = sandbox.endpoint();
        semel_proto::v1::enrolment_service_client::EnrolmentServiceClient::connect(endpoint).await.expect("connects")
    });
    let told: BTreeMap<String, Enrolment> = futures::stream::iter(0..PAIRS)
        .map(|pair| {
            let (first, second) = (request(pair, 0), request(pair, 1));
            let (one, other) = (&one, &other);
            async move { <[Enrolment; 2]>::from(tokio::join!(enrol(one, &first), enrol(other, &second))) }
        })
        .buffer_unordered(PAIRS_IN_FLIGHT)
        .flat_map(futures::stream::iter)
        .map(|enrolment| (enrolment.enrolment_id.clone(), enrolment))
        .collect()
        .await;
    loaded.store(true, Ordering::Relaxed);
    let moves = moving.await.expect("moving leaders does not panic");
    assert!(moves >= 1, "no leader was moved while people enrolled");

    assert_eq!(told.len(), 2 * PAIRS as usize);
    for pair in 0..PAIRS {
        let (first, second) = (format!("{pair:04}-0"), format!("{pair:04}-1"));
        told.values().filter(|enrolment| [&first, &second].contains(&&enrolment.enrolment_id)).for_each(assert_sound);
        let flagged = candidates(&told[&first]).contains(&second) || candidates(&told[&second]).contains(&first);
        assert!(flagged, "pair {pair} slipped through: {:?} and {:?}", told[&first], told[&second]);
    }
    sandbox.wait_ready().await.expect("every node is back");
    for (id, told) in &told {
        assert_eq!(&without_cases(recorded(&one, GALLERY, id).await), &without_cases(told.clone()));
    }
    // The same request gives the answer that is recorded.
    for pair in (0..PAIRS).step_by(10) {
        let again = enrol(&one, &request(pair, 1)).await;
        assert_eq!(without_cases(again), without_cases(told[&format!("{pair:04}-1")].clone()));
    }
    assert_one_case_per_pair(&sandbox, GALLERY, told.values()).await;
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
}

/// Kills and restarts one node after another, so that each shard's leadership moves, until `loaded`; tells how often.
async fn move_leaders(sandbox: Arc<Sandbox>, loaded: Arc<AtomicBool>) -> usize {
    let mut moves = 0;
    while !loaded.load(Ordering::Relaxed) {
        let node = moves % 3;
        sandbox.kill_node(node).await.expect("the node runs");
        sandbox.restart_node(node).await.expect("the node starts again");
        sandbox.wait_ready().await.expect("every shard has a leader again");
        moves += 1;
    }
    moves
}

/// Cases are linked to an enrolment after its verdict; everything else never changes.
fn without_cases(mut enrolment: Enrolment) -> Enrolment {
    enrolment.case_ids.clear();
    enrolment
}

#[tokio::test]
async fn the_first_person_is_unique_and_the_second_time_a_possible_duplicate() {
    let sandbox = cluster().await;
    let people = people::people(2, 2);
    let client = sandbox.enrolments();
    let first = enrol(&client, &requests::face_enrolment(GALLERY, "first", &capture(&people, 0, 0))).await;
    assert_eq!(first.state(), EnrolmentState::Unique);
    let stranger = enrol(&client, &requests::face_enrolment(GALLERY, "stranger", &capture(&people, 1, 0))).await;
    assert_eq!(stranger.state(), EnrolmentState::Unique);
    let coverage =
        stranger.verdict.as_ref().and_then(|verdict| verdict.coverage.clone()).expect("a verdict has evidence");
    assert_eq!((coverage.live, coverage.compared, coverage.shards.len()), (1, 1, 8));

    let again = enrol(&client, &requests::face_enrolment(GALLERY, "again", &capture(&people, 0, 1))).await;
    assert_eq!(again.state(), EnrolmentState::PossibleDuplicate);
    assert_eq!(candidates(&again).into_iter().collect::<Vec<_>>(), ["first"]);
    let candidate = &again.verdict.as_ref().expect("settled").candidates[0];
    let score = candidate.comparisons[0].score_micros;
    assert_eq!(candidate.margin_micros, score - requests::micros(THRESHOLD));
    assert_one_case_per_pair(&sandbox, GALLERY, [&first, &stranger, &again]).await;
}

#[tokio::test]
async fn a_stream_answers_every_item_once_by_its_sequence() {
    let sandbox = cluster().await;
    let people = people::people(3, 300);
    // More items than the server takes unanswered, so that flow control has work; every tenth is wrong.
    let items = (0..300_u32).map(|number| {
        let mut enrolment = requests::face_enrolment(GALLERY, &format!("s{number}"), &capture(&people, number, 0));
        if number % 10 == 7 {
            enrolment.references.clear();
        }
        EnrolStreamRequest { sequence: u64::from(number) + 1_000, enrolment: Some(enrolment) }
    });
    let items: Vec<_> = items.collect();
    let mut answers =
        sandbox.enrolments().enrol_stream(tokio_stream::iter(items)).await.expect("the stream opens").into_inner();
    let mut answered = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("the stream does not break") {
        let number = u32::try_from(answer.sequence - 1_000).expect("a sequence that was sent");
        let result = answer.result.expect("an answer has a result");
        assert!(answered.insert(number, result).is_none(), "item {number} was answered twice");
    }
    assert_eq!(answered.len(), 300);
    for (number, result) in answered {
        match result {
            ItemResult::Response(response) => {
                assert_ne!(number % 10, 7);
                let enrolment = response.enrolment.expect("an answer holds the record");
                assert_eq!(
                    (enrolment.enrolment_id.as_str(), enrolment.state()),
                    (format!("s{number}").as_str(), EnrolmentState::Unique)
                );
            }
            ItemResult::Error(error) => {
                assert_eq!(
                    (number % 10, error.code),
                    (7, i32::from(tonic::Code::InvalidArgument)),
                    "{}",
                    error.message
                );
                assert!(error.message.contains("references"), "{}", error.message);
            }
        }
    }
}

#[tokio::test]
async fn the_same_id_with_other_content_is_refused_and_changes_nothing() {
    let sandbox = cluster().await;
    let people = people::people(4, 2);
    let client = sandbox.enrolments();
    let recorded_first = enrol(&client, &requests::face_enrolment(GALLERY, "one", &capture(&people, 0, 0))).await;
    let other = requests::face_enrolment(GALLERY, "one", &capture(&people, 1, 0));
    let refused = enrol_once(&client, &other).await.expect_err("the id is taken");
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    assert!(refused.message().contains("enrolment_id"), "{}", refused.message());
    assert_eq!(recorded(&client, GALLERY, "one").await, recorded_first);
}
