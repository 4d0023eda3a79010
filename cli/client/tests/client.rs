//! The client against coordinators that do as a test says: what it sends again, to whom, and what it tells.

mod fake;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use fake::{Fake, Reply};
use futures::StreamExt as _;
use semel_client::{CallError, Client, Outcome, Settings};
use semel_proto::v1::biometric_reference::Template;
use semel_proto::v1::{BiometricReference, Embedding, EnrolRequest, EnrolmentState, Modality};
use tonic::Code;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Nothing here waits for so long; a test that would has failed.
fn settings() -> Settings {
    Settings { deadline: 60_000 * MILLISECOND, ..Settings::default() }
}

fn client(addresses: &[&str], settings: Settings) -> Client {
    Client::new(addresses.iter().copied(), settings).expect("valid addresses")
}

fn request(id: &str) -> EnrolRequest {
    let values = (0..8).map(|place| (id.len() + place) as f32).collect();
    EnrolRequest {
        gallery: "people".to_owned(),
        enrolment_id: id.to_owned(),
        references: vec![BiometricReference {
            modality: Modality::Face.into(),
            template: Some(Template::Embedding(Embedding { values })),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// An address at which nobody listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn what_may_succeed_later_is_sent_again_unchanged_and_no_sooner_than_the_cluster_asks() {
    let fake = Fake::start([
        Reply::Error(Code::ResourceExhausted, 300),
        Reply::Error(Code::Unavailable, 200),
        Reply::Error(Code::Unavailable, 0),
        Reply::Staged,
        Reply::Recorded(EnrolmentState::PossibleDuplicate),
    ]);
    let begun = Instant::now();
    let outcome = client(&[&fake.address], settings()).enrol(request("a-1")).await.expect("a verdict");
    assert!(
        matches!(&outcome, Outcome::PossibleDuplicate(enrolment) if enrolment.enrolment_id == "a-1"),
        "{outcome:?}"
    );
    assert!(begun.elapsed() >= 500 * MILLISECOND, "it came back sooner than asked");
    assert_eq!(fake.seen(), vec![request("a-1"); 5]);
}

#[tokio::test]
async fn a_refusal_is_told_as_it_is_and_not_sent_again() {
    for code in [Code::AlreadyExists, Code::InvalidArgument, Code::NotFound, Code::ResourceExhausted, Code::Internal] {
        let fake = Fake::start([Reply::Error(code, 0)]);
        let refused = client(&[&fake.address], settings()).enrol(request("a-1")).await;
        assert_eq!(refused, Err(CallError::Refused { code, message: "as the test says".to_owned() }));
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_coordinator_that_cannot_answer_is_left_for_another_at_once() {
    let failing = Fake::start(std::iter::repeat_n(Reply::Error(Code::Unavailable, 0), 64));
    let good = Fake::start([]);
    let client = client(&[&failing.address, &good.address, &closed()], settings());
    for number in 0..16 {
        let id = format!("a-{number}");
        let outcome = client.enrol(request(&id)).await.expect("one of the three answers");
        assert_eq!(outcome.enrolment().enrolment_id, id);
    }
    assert_eq!(good.seen().len(), 16);
}

#[tokio::test]
async fn a_coordinator_that_dies_with_calls_in_its_hands_leaves_them_to_another() {
    let dying = Fake::start(std::iter::repeat_n(Reply::Hang, 64));
    let good = Fake::start([]);
    let client = client(&[&dying.address, &good.address], settings());
    let calls: Vec<_> = (0..16)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.enrol(request(&format!("a-{number}"))).await })
        })
        .collect();
    dying.seen_at_least(4).await;
    dying.kill();
    for call in calls {
        let outcome = call.await.expect("no call panics").expect("the other answers");
        assert!(matches!(outcome, Outcome::Unique(_)));
    }
    assert_eq!(good.seen().len(), 16);
}

#[tokio::test]
async fn a_coordinator_that_accepts_and_says_nothing_is_noticed() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let good = Fake::start([]);
    let quick = Settings { keep_alive_after: 100 * MILLISECOND, keep_alive_within: 100 * MILLISECOND, ..settings() };
    let client = client(&[&address, &good.address], quick);
    for number in 0..8 {
        client.enrol(request(&format!("a-{number}"))).await.expect("the other answers");
    }
    assert_eq!(good.seen().len(), 8);
}

#[tokio::test]
async fn a_coordinator_that_recovers_is_asked_again() {
    let (first, second) = (Fake::start([Reply::Error(Code::Unavailable, 0)]), Fake::start([]));
    let client = client(&[&first.address, &second.address], settings());
    let begun = Instant::now();
    while first.seen().len() < 3 {
        client.enrol(request("a-1")).await.expect("one of them answers");
        assert!(begun.elapsed() < Duration::from_secs(60), "it is never asked again");
    }
}

#[tokio::test]
async fn without_any_coordinator_each_address_is_named_with_its_reason() {
    let (one, other) = (closed(), closed());
    let at_once = Settings { unreachable_after: Duration::ZERO, ..settings() };
    let error = client(&[&one, &other], at_once).status().await.expect_err("nobody listens");
    let CallError::Unreachable { reasons } = &error else { panic!("{error}") };
    for address in [one, other] {
        assert!(reasons.iter().any(|reason| reason.starts_with(&address) && reason.contains("refused")), "{error}");
    }
    assert!(error.may_succeed_later());
}

#[tokio::test]
async fn the_deadline_ends_all_attempts_and_what_was_said_last_is_told() {
    let fake = Fake::start(std::iter::repeat_n(Reply::Error(Code::Unavailable, 0), 10_000));
    let hasty = Settings { deadline: 500 * MILLISECOND, ..settings() };
    let error = client(&[&fake.address], hasty).enrol(request("a-1")).await.expect_err("it never answers");
    let CallError::Unanswered { code, message, attempts, .. } = &error else { panic!("{error}") };
    assert_eq!((*code, message.as_str()), (Code::Unavailable, "as the test says"));
    assert_eq!(*attempts as usize, fake.seen().len());
    assert!(error.may_succeed_later());
}

#[tokio::test]
async fn an_enrolment_that_has_no_verdict_in_time_is_still_staged_and_no_error() {
    let fake = Fake::start(std::iter::repeat_n(Reply::Staged, 10_000));
    let hasty = Settings { deadline: 500 * MILLISECOND, ..settings() };
    let outcome = client(&[&fake.address], hasty).enrol(request("a-1")).await.expect("it is on record");
    assert!(
        matches!(outcome, Outcome::Inconclusive { ref missing_shards, .. } if *missing_shards == [2]),
        "{outcome:?}"
    );
}

/// Items of the test below.
const ITEMS: usize = 400;

#[tokio::test]
async fn many_are_enrolled_over_streams_that_break_and_each_is_answered_once() {
    let hanging =
        std::iter::repeat_n(Reply::Recorded(EnrolmentState::Unique), 40).chain(std::iter::repeat_n(Reply::Hang, ITEMS));
    let dying = Fake::start(hanging);
    let good =
        Fake::start([Reply::Error(Code::ResourceExhausted, 20), Reply::Staged, Reply::Error(Code::AlreadyExists, 0)]);
    let client = client(&[&dying.address, &good.address], settings());
    let requests = futures::stream::iter((0..ITEMS).map(|number| (number, request(&format!("a-{number}")))));
    let mut answers: BTreeMap<usize, Result<Outcome, CallError>> = BTreeMap::new();
    let mut sent_again = 0;
    let all = client.enrol_all(requests, 32);
    tokio::pin!(all);
    let mut killed = false;
    loop {
        tokio::select! {
            answer = all.next() => match answer {
                Some(answer) => {
                    sent_again += answer.course.attempts - 1;
                    assert!(answers.insert(answer.tag, answer.result).is_none(), "answered twice");
                }
                None => break,
            },
            () = dying.seen_at_least(41), if !killed => {
                dying.kill();
                killed = true;
            }
        }
    }
    assert_eq!(answers.len(), ITEMS);
    let refused = answers.values().filter(|result| result.is_err()).count();
    assert_eq!(refused, 1, "one was refused, and that one alone");
    for (number, result) in &answers {
        if let Ok(outcome) = result {
            assert_eq!(outcome.enrolment().enrolment_id, format!("a-{number}"));
        }
    }
    assert!(killed && sent_again >= 3, "{sent_again} were sent again");
    // Whoever sees a request sees the same one under the same id.
    for seen in dying.seen().into_iter().chain(good.seen()) {
        assert_eq!(seen, request(&seen.enrolment_id));
    }
}

#[tokio::test]
async fn calls_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let fake = Fake::start([]);
    let client = client(&[&fake.address], settings());
    is_send(&client.enrol(request("a-1")));
    is_send(&client.status());
    is_send(&client.enrol_all(futures::stream::iter([((), request("a-1"))]), 1));
}
