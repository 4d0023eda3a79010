//! Servers that die, at any moment, as processes: what was acknowledged stays, silence is never taken for absence, and the
//! cluster goes on by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use semel_population::Population;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::{EnrolRequest, EnrolResponse, Enrolment, EnrolmentState};
use semel_sandbox::{Sandbox, SandboxError, requests, wait_until};
use tonic::Code;
use tonic::transport::Channel;

use crate::binary::child_processes;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{
    assert_one_case_per_pair, assert_replicas_agree, assert_sound, candidates, enrol, enrol_once, recorded, wait_quiet,
};

const GALLERY: &str = "people";
/// How long a call waits for its verdict where none can come.
const WAIT_MS: u32 = 2_000;
const IN_FLIGHT: usize = 16;

async fn processes(nodes: usize) -> Sandbox {
    let builder = Sandbox::builder().mode(child_processes()).nodes(nodes).engine("exact");
    let sandbox = builder.start().await.expect("the cluster starts");
    let gallery = requests::face_gallery(GALLERY, DIMENSION, THRESHOLD);
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

fn request(people: &Population, person: u32, side: u32) -> EnrolRequest {
    requests::face_enrolment(GALLERY, &format!("{person:04}-{side}"), &capture(people, person, side))
}

/// Enrols many, some at once, until each has a verdict.
async fn enrol_all(
    client: &EnrolmentServiceClient<Channel>,
    requests: impl IntoIterator<Item = EnrolRequest>,
) -> BTreeMap<String, Enrolment> {
    futures::stream::iter(requests)
        .map(|request| async move { enrol(client, &request).await })
        .buffer_unordered(IN_FLIGHT)
        .map(|enrolment| (enrolment.enrolment_id.clone(), enrolment))
        .collect()
        .await
}

#[tokio::test]
async fn with_one_node_of_three_dead_enrolments_and_verdicts_go_on() {
    let sandbox = processes(3).await;
    let people = people::people(11, 60);
    let client = sandbox.enrolments();
    let mut told = enrol_all(&client, (0..60).map(|person| request(&people, person, 0))).await;
    sandbox.kill_node(1).await.expect("the node runs");
    told.extend(enrol_all(&client, (0..60).map(|person| request(&people, person, 1))).await);
    assert_eq!(told.len(), 120);
    told.values().for_each(assert_sound);
    for person in 0..60 {
        let second = &told[&format!("{person:04}-1")];
        assert_eq!(candidates(second).into_iter().collect::<Vec<_>>(), [format!("{person:04}-0")]);
    }
    // Back, it catches up to the same state as the others.
    sandbox.restart_node(1).await.expect("the node starts again");
    sandbox.wait_ready().await.expect("the node is back");
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
    assert_one_case_per_pair(&sandbox, GALLERY, told.values()).await;
}

/// Enrols the second capture of so many people, each asked for once and answered within [`WAIT_MS`].
async fn ask_once_each(
    client: &EnrolmentServiceClient<Channel>,
    people: &Population,
    persons: u32,
) -> Vec<(String, Result<EnrolResponse, tonic::Status>)> {
    futures::stream::iter(0..persons)
        .map(|person| {
            let request = EnrolRequest { wait_ms: WAIT_MS, ..request(people, person, 1) };
            async move { (request.enrolment_id.clone(), enrol_once(client, &request).await) }
        })
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await
}

#[tokio::test]
async fn with_two_nodes_of_three_dead_nobody_is_told_unique_and_all_settle_after_their_return() {
    let sandbox = processes(3).await;
    let people = people::people(12, 40);
    let client = sandbox.enrolments();
    let before = enrol_all(&client, (0..20).map(|person| request(&people, person, 0))).await;
    sandbox.kill_node(0).await.expect("the node runs");
    sandbox.kill_node(2).await.expect("the node runs");
    let answers = ask_once_each(&client, &people, 40).await;
    for (id, answer) in &answers {
        match answer {
            Ok(EnrolResponse { inconclusive: Some(_), enrolment }) => {
                let state = enrolment.as_ref().expect("an answer holds the record").state();
                assert_eq!(state, EnrolmentState::Staged, "{id}");
            }
            Ok(EnrolResponse { inconclusive: None, enrolment }) => {
                panic!("{id} was settled by one node of three: {enrolment:?}")
            }
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{id}: {status}"),
        }
    }
    sandbox.restart_node(0).await.expect("the node starts again");
    sandbox.restart_node(2).await.expect("the node starts again");
    // Whatever was staged settles without anybody asking for it.
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
    let staged: Vec<&String> = answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(id, _)| id).collect();
    for id in staged {
        assert_sound(&recorded(&client, GALLERY, id).await);
    }
    // And whoever was not acknowledged may ask again.
    let after = enrol_all(&client, (0..40).map(|person| request(&people, person, 1))).await;
    for person in 0..20 {
        assert!(candidates(&after[&format!("{person:04}-1")]).contains(&format!("{person:04}-0")), "person {person}");
    }
    assert_one_case_per_pair(&sandbox, GALLERY, before.values().chain(after.values())).await;
}

#[tokio::test]
async fn a_search_that_misses_shards_is_inconclusive_names_them_and_is_finished_when_they_return() {
    // Five nodes: with two of them dead some shards have lost their majority and others have not.
    let sandbox = processes(5).await;
    let people = people::people(13, 48);
    let client = sandbox.enrolments();
    enrol_all(&client, (0..8).map(|person| request(&people, person, 0))).await;
    sandbox.kill_node(0).await.expect("the node runs");
    sandbox.kill_node(1).await.expect("the node runs");
    let answers = ask_once_each(&client, &people, 48).await;
    let mut staged = Vec::new();
    for (id, answer) in answers {
        match answer {
            Ok(EnrolResponse { inconclusive: Some(inconclusive), enrolment }) => {
                let enrolment = enrolment.expect("an answer holds the record");
                assert_eq!(enrolment.state(), EnrolmentState::Staged, "{id}");
                assert!(!inconclusive.missing_shards.is_empty(), "{id}: {inconclusive:?}");
                staged.push(id);
            }
            Ok(EnrolResponse { inconclusive: None, .. }) => panic!("{id} was settled without every shard"),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{id}: {status}"),
        }
    }
    assert!(!staged.is_empty(), "no enrolment was staged in the shards that live");
    sandbox.restart_node(0).await.expect("the node starts again");
    sandbox.restart_node(1).await.expect("the node starts again");
    wait_quiet(&sandbox, GALLERY).await;
    for id in &staged {
        assert_sound(&recorded(&client, GALLERY, id).await);
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_worked_around_and_its_staleness_never_shows() {
    let sandbox = processes(3).await;
    let people = people::people(14, 40);
    let client = sandbox.enrolments();
    let mut told = enrol_all(&client, (0..40).map(|person| request(&people, person, 0))).await;
    // It keeps its connections, and answers nothing.
    sandbox.pause_node(0).await.expect("the node runs");
    told.extend(enrol_all(&client, (0..20).map(|person| request(&people, person, 1))).await);
    sandbox.resume_node(0).await.expect("the node is there");
    // A leader until it was paused, it must not answer searches from what it knew then.
    told.extend(enrol_all(&client, (20..40).map(|person| request(&people, person, 1))).await);
    for person in 0..40 {
        let second = candidates(&told[&format!("{person:04}-1")]);
        assert_eq!(second.into_iter().collect::<Vec<_>>(), [format!("{person:04}-0")]);
    }
    assert_one_case_per_pair(&sandbox, GALLERY, told.values()).await;
}

/// Enrolments of the test below; every fifth person enrols twice.
const PEOPLE: u32 = 500;
const KILLS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_process_is_killed_whenever_every_acknowledged_verdict_stays_and_each_pair_has_one_case() {
    let seed = 15;
    let sandbox = Arc::new(processes(3).await);
    let people = people::people(seed, PEOPLE);
    let client = sandbox.enrolments();
    let mut load: Vec<EnrolRequest> = (0..PEOPLE).map(|person| request(&people, person, 0)).collect();
    load.extend((0..PEOPLE).step_by(5).map(|person| request(&people, person, 1)));
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    for place in (1..load.len()).rev() {
        load.swap(place, chance.random_range(0..=place));
    }
    // Moments are numbers of answers, so that the seed decides them and not the machine's speed.
    let mut moments: Vec<usize> = (0..KILLS).map(|_| chance.random_range(1..load.len() * 9 / 10)).collect();
    moments.sort_unstable();
    let victims: Vec<usize> = (0..KILLS).map(|_| chance.random_range(0..4)).collect();
    let answered = Arc::new(AtomicUsize::new(0));
    let killing = tokio::spawn(kill_at(Arc::clone(&sandbox), Arc::clone(&answered), moments, victims));

    let told: BTreeMap<String, Enrolment> = futures::stream::iter(&load)
        .map(|request| {
            let (client, answered) = (&client, &answered);
            async move {
                let enrolment = enrol(client, request).await;
                answered.fetch_add(1, Ordering::Relaxed);
                (enrolment.enrolment_id.clone(), enrolment)
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;
    killing.await.expect("every killed process starts again");

    sandbox.wait_ready().await.expect("every process is back");
    assert_eq!(told.len(), load.len());
    told.values().for_each(assert_sound);
    for person in (0..PEOPLE).step_by(5) {
        let (first, second) = (format!("{person:04}-0"), format!("{person:04}-1"));
        let flagged = candidates(&told[&first]).contains(&second) || candidates(&told[&second]).contains(&first);
        assert!(flagged, "seed {seed}: person {person} slipped through");
    }
    for (id, told) in &told {
        let kept = recorded(&client, GALLERY, id).await;
        assert_eq!((&kept.verdict, kept.stage_index), (&told.verdict, told.stage_index), "seed {seed}: {id}");
    }
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
    assert_one_case_per_pair(&sandbox, GALLERY, told.values()).await;
}

/// Kills the coordinator (victim 0) or a node (1 to 3) once so many answers came, and starts it again at once.
async fn kill_at(sandbox: Arc<Sandbox>, answered: Arc<AtomicUsize>, moments: Vec<usize>, victims: Vec<usize>) {
    for (moment, victim) in moments.into_iter().zip(victims) {
        let reached = wait_until("the moment of a kill", Duration::from_secs(300), || {
            let answers = answered.load(Ordering::Relaxed);
            async move { if answers >= moment { Ok(()) } else { Err(format!("{answers} of {moment} answers")) } }
        });
        reached.await.expect("enrolments go on");
        match victim.checked_sub(1) {
            None => {
                sandbox.kill_coordinator(0).await.expect("it runs");
                sandbox.restart_coordinator(0).await.expect("it starts again");
            }
            Some(node) => {
                sandbox.kill_node(node).await.expect("it runs");
                sandbox.restart_node(node).await.expect("it starts again");
            }
        }
    }
}

#[tokio::test]
async fn a_copied_folder_is_refused_while_the_node_it_was_copied_from_runs() {
    let sandbox = processes(3).await;
    let (original, other) = (sandbox.node_folder(0).await, sandbox.node_folder(2).await);
    let (original, other) = (original.expect("there is such a node"), other.expect("there is such a node"));
    sandbox.kill_node(0).await.expect("the node runs");
    sandbox.kill_node(2).await.expect("the node runs");
    fs::remove_dir_all(&other).expect("the folder is removed");
    copy_folder(&original, &other);
    sandbox.restart_node(0).await.expect("the process starts and listens");
    let reports = wait_until("the original to report again", Duration::from_secs(30), || async {
        let status = sandbox.status().await.map_err(|error| error.to_string())?;
        // Less than the pause between two reports and some, so that none is of the process before.
        let fresh = status.nodes.iter().filter(|node| node.last_report_age_ms < 900).count();
        if fresh == 2 { Ok(()) } else { Err(format!("{fresh} nodes report")) }
    });
    reports.await.unwrap_or_else(|error| panic!("{error}"));
    sandbox.restart_node(2).await.expect("the process starts and listens");
    let ended = wait_until("the copy to be refused", Duration::from_secs(60), || async {
        sandbox.node_ended(2).await.expect("there is such a node").ok_or("it runs")
    });
    let ended = ended.await.unwrap_or_else(|error| panic!("{error}"));
    let SandboxError::Ended { log_tail, .. } = &ended else { panic!("{ended}") };
    assert!(log_tail.contains("this volume is a copy"), "{ended}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it is there").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}
