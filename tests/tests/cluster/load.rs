//! Many callers at once: answers stay those of a single caller, overload is refused with a hint, and nobody who has gone takes room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use semel_proto::RETRY_AFTER_MS;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::identify_response::Outcome;
use semel_proto::v1::{
    CompleteIdentification, EnrolStreamRequest, IdentifyRequest, IdentifyResponse, Modality, Policy,
};
use semel_sandbox::{Builder, Sandbox, requests, wait_until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::enrol;

const GALLERY: &str = "people";
/// How long anything here may take to come about.
const WITHIN: Duration = Duration::from_secs(60);

async fn start(builder: Builder) -> Sandbox {
    let sandbox = builder.engine("exact").start().await.expect("the cluster starts");
    let policy = requests::embedding_policy(Modality::Face, DIMENSION, THRESHOLD);
    let gallery = requests::gallery(GALLERY, Policy { identification_allowed: true, ..policy });
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

async fn identify(sandbox: &Sandbox, probe: &[f32], wait_ms: u32) -> Result<IdentifyResponse, Status> {
    let references = vec![requests::embedding_reference(Modality::Face, probe)];
    let request = IdentifyRequest {
        gallery: GALLERY.to_owned(),
        references,
        purpose: "test".to_owned(),
        wait_ms,
        ..Default::default()
    };
    sandbox.identification().identify(request).await.map(tonic::Response::into_inner)
}

async fn identified(sandbox: &Sandbox, probe: &[f32]) -> CompleteIdentification {
    let answer = identify(sandbox, probe, 30_000).await.expect("an answer");
    match answer.outcome.expect("an answer has an outcome") {
        Outcome::Complete(complete) => complete,
        Outcome::Incomplete(incomplete) => panic!("{incomplete:?}"),
    }
}

/// Probes that wait together share requests and scans; nobody must get another's candidates, or fewer.
#[tokio::test]
async fn searches_at_once_are_answered_as_one_by_one() {
    let sandbox = start(Sandbox::builder()).await;
    let people = people::people(91, 48);
    let enrolments = sandbox.enrolments();
    let enrolling = (0..48).map(|person| {
        let (enrolments, values) = (enrolments.clone(), capture(&people, person, 0));
        async move { enrol(&enrolments, &requests::face_enrolment(GALLERY, &format!("p-{person}"), &values)).await }
    });
    join_all(enrolling).await;
    let probes: Vec<Vec<f32>> = (0..48).map(|person| capture(&people, person, 1)).collect();
    let mut alone = Vec::new();
    for (person, probe) in probes.iter().enumerate() {
        let answer = identified(&sandbox, probe).await;
        let ids: Vec<&str> = answer.candidates.iter().map(|candidate| candidate.enrolment_id.as_str()).collect();
        assert_eq!(ids, [format!("p-{person}")]);
        alone.push(answer.candidates);
    }
    for _ in 0..4 {
        let together = join_all(probes.iter().map(|probe| identified(&sandbox, probe))).await;
        let together: Vec<_> = together.into_iter().map(|answer| answer.candidates).collect();
        assert_eq!(together, alone);
    }
}

/// A search that waited for shards once kept its place until its deadline although its caller had gone.
#[tokio::test]
async fn overload_is_refused_with_a_hint_and_a_caller_that_goes_frees_its_place() {
    let builder = Sandbox::builder().coordinator_settings(|coordinator| coordinator.enrolments_max = 1);
    let sandbox = start(builder).await;
    let people = people::people(92, 1);
    let probe = capture(&people, 0, 0);
    identified(&sandbox, &probe).await;
    // Without a majority no shard answers, so that a search waits for as long as it may.
    sandbox.kill_node(0).await.expect("it runs");
    sandbox.kill_node(1).await.expect("it runs");
    let holding = async {
        loop {
            match identify(&sandbox, &probe, 60_000).await {
                Err(status) if status.code() == Code::ResourceExhausted => {}
                answer => panic!("nobody is there to answer: {answer:?}"),
            }
        }
    };
    let refused = wait_until("a refusal", WITHIN, || async {
        match identify(&sandbox, &probe, 1).await {
            Err(status) if status.code() == Code::ResourceExhausted => Ok(status),
            answer => Err(format!("{answer:?}")),
        }
    });
    let status = tokio::select! {
        refused = refused => refused.unwrap_or_else(|error| panic!("{error}")),
        () = holding => unreachable!("it holds its place for ever"),
    };
    let hint = status.metadata().get(RETRY_AFTER_MS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    assert!(hint.is_some_and(|ms| ms > 0), "{status:?}");
    // The one that held the place was dropped with the choice above.
    let taken = wait_until("the place to be free", WITHIN, || async {
        match identify(&sandbox, &probe, 1).await {
            Err(status) if status.code() == Code::ResourceExhausted => Err(status.to_string()),
            answer => Ok(answer),
        }
    });
    taken.await.unwrap_or_else(|error| panic!("{error}")).expect("an answer that nothing can be concluded");
}

/// The window of a stream's answers at a client that never reads them: what the coordinator can be rid of.
const WINDOW_BYTES: u32 = 65_535;
/// Items that the coordinator may have taken from such a stream: those in work, those answered, and what fits into windows.
const ITEMS_TAKEN_MAX: usize = 4_096;
const IMPATIENT_DIMENSION: u32 = 512;

/// A client that queues a million enrolments and reads no answer must not make the coordinator remember them.
#[tokio::test]
async fn a_stream_whose_answers_are_never_read_is_read_no_further() {
    let sandbox = start(Sandbox::builder()).await;
    let gallery = requests::face_gallery("impatient", IMPATIENT_DIMENSION, 0.9);
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    let endpoint = Endpoint::from_shared(sandbox.endpoint()).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let channel = endpoint.connect().await.expect("the coordinator listens");
    let (items, receiver) = mpsc::channel(1);
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for number in 0..1_000_000_u64 {
            let mut values = vec![1.0; IMPATIENT_DIMENSION as usize];
            values[number as usize % IMPATIENT_DIMENSION as usize] = -(number as f32);
            let request = requests::face_enrolment("impatient", &format!("i-{number}"), &values);
            let item = EnrolStreamRequest { sequence: number, enrolment: Some(request) };
            if items.send(item).await.is_err() {
                return;
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let opened = EnrolmentServiceClient::new(channel).enrol_stream(ReceiverStream::new(receiver)).await;
    let _answers_never_read = opened.expect("the stream opens");

    // While the stream stands still, others are served.
    let people = people::people(93, 400);
    let enrolments = sandbox.enrolments();
    let mut quiet_since = (0, 0);
    for person in 0..400 {
        let request = requests::face_enrolment(GALLERY, &format!("p-{person}"), &capture(&people, person, 0));
        enrol(&enrolments, &request).await;
        let now = sent.load(Ordering::Relaxed);
        assert!(now <= ITEMS_TAKEN_MAX, "{now} items were taken");
        if now != quiet_since.0 {
            quiet_since = (now, person);
        } else if now > 0 && person - quiet_since.1 >= 40 {
            break;
        }
    }
    assert!(quiet_since.0 > 0, "the stream was read");
    assert!(!sending.is_finished(), "a million items were taken");
    sending.abort();
}
