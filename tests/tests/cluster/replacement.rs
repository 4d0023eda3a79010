//! A coordinator whose volume is lost: nothing stands in for it unasked, an operator replaces it while the others serve, and from then on
//! the new one counts.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use semel_population::Population;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::gallery_service_client::GalleryServiceClient;
use semel_proto::v1::{
    CancelReplacementRequest, CoordinatorStatus, EnrolRequest, Enrolment, ReplaceCoordinatorRequest,
};
use semel_sandbox::{Sandbox, SandboxError, requests, wait_until};
use tonic::Code;

use crate::binary::child_processes;
use crate::command::semel;
use crate::exposition::scrape;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{assert_sound, candidates, enrol};

const GALLERY: &str = "people";
/// Entries that the coordinators' log keeps here.
const LOG_ENTRIES_MAX: u64 = 100;
/// How long a replacement may take on a machine that does other things.
const REPLACED_WITHIN: Duration = Duration::from_secs(90);
const IN_FLIGHT: usize = 8;
/// The coordinator that loses its volume, as the sandbox counts and by its number.
const LOST: usize = 1;
const LOST_NUMBER: u64 = 2;

async fn cluster() -> Sandbox {
    let builder = Sandbox::builder().mode(child_processes()).coordinators(3).nodes(3).shards(2).engine("exact");
    let builder = builder.coordinator_settings(|coordinator| coordinator.log_entries_max = LOG_ENTRIES_MAX);
    let sandbox = builder.start().await.expect("the cluster starts");
    create_gallery(&sandbox, 0, GALLERY).await;
    sandbox
}

/// Creates a gallery through one coordinator: the metadata group must commit it.
async fn create_gallery(sandbox: &Sandbox, coordinator: usize, name: &str) {
    let created = wait_until("a gallery to be created", REPLACED_WITHIN, || async {
        let request = requests::face_gallery(name, DIMENSION, THRESHOLD);
        GalleryServiceClient::new(sandbox.channel(coordinator)).create_gallery(request).await
    });
    created.await.unwrap_or_else(|error| panic!("{error}"));
}

/// Removes the folder of the coordinator that loses it, and starts the coordinator without.
async fn lose_volume(sandbox: &Sandbox) {
    fs::remove_dir_all(sandbox.coordinator_folder(LOST).await.expect("there is such a coordinator")).expect("removed");
    sandbox.restart_coordinator(LOST).await.expect("the process starts and listens");
}

/// What a coordinator says of the one that loses its volume, once it is as wanted.
async fn wait_said(
    sandbox: &Sandbox,
    by: usize,
    what: &str,
    wanted: impl Fn(&CoordinatorStatus) -> bool,
) -> CoordinatorStatus {
    let found = wait_until(what, REPLACED_WITHIN, || async {
        let status = sandbox.status_of(by).await.map_err(|error| error.to_string())?;
        let found = status.coordinators.into_iter().find(|found| found.coordinator == LOST_NUMBER);
        found.filter(&wanted).ok_or_else(|| "not yet".to_owned())
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}

/// What a coordinator that waits answers.
async fn refusal(sandbox: &Sandbox) -> String {
    match sandbox.status_of(LOST).await {
        Err(SandboxError::Call(status)) if status.code() == Code::Unavailable => status.message().to_owned(),
        other => panic!("it must wait: {other:?}"),
    }
}

/// Both others have heard the empty folder: whichever is asked can let it in.
async fn wait_heard(sandbox: &Sandbox) {
    for by in [0, 2] {
        wait_said(sandbox, by, "the empty folder to be heard", |said| said.waits).await;
    }
}

/// Runs `semel cluster replace-coordinator` for the one that loses its volume, as an operator does, who knows of every coordinator.
async fn replace(sandbox: &Sandbox, flags: &[&str]) -> (bool, String) {
    semel(&sandbox.endpoints().join(","), &[&["cluster", "replace-coordinator", "2"], flags].concat()).await
}

fn request(people: &Population, person: u32, side: u32) -> EnrolRequest {
    requests::face_enrolment(GALLERY, &format!("{person:04}-{side}"), &capture(people, person, side))
}

/// Enrols one person after another, first captures, through some coordinators, until it is told to stop.
struct Load {
    done: Arc<AtomicBool>,
    lanes: tokio::task::JoinHandle<Vec<Enrolment>>,
}

impl Load {
    fn start(sandbox: &Sandbox, people: &Arc<Population>, through: &[usize]) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> =
            through.iter().map(|number| EnrolmentServiceClient::new(sandbox.channel(*number))).collect();
        let (stop, people, next) = (Arc::clone(&done), Arc::clone(people), AtomicU32::new(0));
        let lanes = tokio::spawn(async move {
            let (stop, people, next) = (&stop, &people, &next);
            let lanes = clients.iter().cycle().take(IN_FLIGHT).map(|client| async move {
                let mut told = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let person = next.fetch_add(1, Ordering::Relaxed);
                    if person >= people.people() {
                        break;
                    }
                    told.push(enrol(client, &request(people, person, 0)).await);
                }
                told
            });
            futures::future::join_all(lanes).await.concat()
        });
        Self { done, lanes }
    }

    async fn stop(self) -> Vec<Enrolment> {
        self.done.store(true, Ordering::Relaxed);
        self.lanes.await.expect("the load ends")
    }
}

/// A second capture of those who are enrolled, through a coordinator: each must find the first.
async fn assert_all_are_found(sandbox: &Sandbox, people: &Population, through: usize, enrolled: &[Enrolment]) {
    let client = &EnrolmentServiceClient::new(sandbox.channel(through));
    futures::stream::iter(enrolled)
        .for_each_concurrent(IN_FLIGHT, |first| async move {
            let person = first.enrolment_id[..4].parse().expect("a number of four digits");
            let second = enrol(client, &request(people, person, 1)).await;
            assert_sound(&second);
            assert!(candidates(&second).contains(&first.enrolment_id), "person {person}");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_of_a_coordinator_is_replaced_under_load_and_the_new_one_votes() {
    let sandbox = cluster().await;
    let people = Arc::new(people::people(71, 4_000));
    let load = Load::start(&sandbox, &people, &[0, 2]);
    sandbox.kill_coordinator(LOST).await.expect("it runs");
    // More than the log keeps: nobody could catch up by it.
    for number in 0..2 * LOG_ENTRIES_MAX {
        create_gallery(&sandbox, 0, &format!("other-{number}")).await;
    }
    lose_volume(&sandbox).await;
    wait_heard(&sandbox).await;
    assert!(refusal(&sandbox).await.contains("semel cluster replace-coordinator 2"));
    let (_, said) = semel(&sandbox.endpoints().join(","), &["status"]).await;
    assert!(said.contains("coordinator 2 waits on an empty folder"), "{said}");

    let (replaced, said) = replace(&sandbox, &[]).await;
    assert!(replaced && said.contains("replica 6 votes in the place of 2"), "{said}");
    let said = wait_said(&sandbox, LOST, "the new one to serve", |said| said.replica == 6).await;
    assert!(!said.waits && said.joining_replica == 0, "{said:?}");
    let metrics = scrape(sandbox.coordinator_metrics(LOST).await.expect("there is such a coordinator")).await;
    assert!(metrics.value("semel_raft_snapshots_installed_total") >= 1.0, "it has learned by a snapshot");

    // Two of three: without the vote of the new one nothing is committed any more.
    sandbox.kill_coordinator(0).await.expect("it runs");
    create_gallery(&sandbox, LOST, "without-the-first").await;
    sandbox.restart_coordinator(0).await.expect("it starts again");
    sandbox.wait_ready().await.expect("all three serve");
    sandbox.kill_coordinator(2).await.expect("it runs");
    create_gallery(&sandbox, LOST, "without-the-third").await;
    // As a member it needs nobody to start.
    sandbox.kill_coordinator(LOST).await.expect("it runs");
    sandbox.restart_coordinator(LOST).await.expect("it starts again");
    create_gallery(&sandbox, LOST, "started-again").await;
    sandbox.restart_coordinator(2).await.expect("it starts again");
    sandbox.wait_ready().await.expect("all three serve");

    let enrolled = load.stop().await;
    enrolled.iter().for_each(assert_sound);
    assert!(!enrolled.is_empty(), "nobody was enrolled");
    assert_all_are_found(&sandbox, &people, LOST, &enrolled[..enrolled.len().min(100)]).await;
}

/// Waits until a coordinator has ended by itself; what its log says then.
async fn ended(sandbox: &Sandbox, coordinator: usize) -> String {
    let ended = wait_until("the coordinator to end", REPLACED_WITHIN, || async {
        sandbox.coordinator_ended(coordinator).await.expect("there is such a coordinator").ok_or("it runs")
    });
    ended.await.unwrap_or_else(|error| panic!("{error}")).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_replaced_and_one_of_another_coordinator_are_refused() {
    let sandbox = cluster().await;
    let folder = sandbox.coordinator_folder(LOST).await.expect("there is such a coordinator");
    let (old, new) = (folder.with_extension("old"), folder.with_extension("new"));
    sandbox.kill_coordinator(LOST).await.expect("it runs");
    fs::rename(&folder, &old).expect("moved away");
    sandbox.restart_coordinator(LOST).await.expect("the process starts and listens");
    wait_heard(&sandbox).await;
    let (replaced, said) = replace(&sandbox, &[]).await;
    assert!(replaced, "{said}");

    sandbox.kill_coordinator(LOST).await.expect("it runs");
    fs::rename(&folder, &new).expect("moved away");
    fs::rename(&old, &folder).expect("moved back");
    sandbox.restart_coordinator(LOST).await.expect("the process starts and listens");
    let said = ended(&sandbox, LOST).await;
    assert!(said.contains("It never comes back"), "{said}");

    sandbox.kill_coordinator(LOST).await.expect("it is there");
    fs::remove_dir_all(&folder).expect("removed");
    sandbox.kill_coordinator(0).await.expect("it runs");
    let others = sandbox.coordinator_folder(0).await.expect("there is such a coordinator");
    fs::rename(&others, &folder).expect("taken from the first");
    sandbox.restart_coordinator(LOST).await.expect("the process starts and listens");
    let said = ended(&sandbox, LOST).await;
    assert!(said.contains("another coordinator's"), "{said}");
    sandbox.kill_coordinator(LOST).await.expect("it is there");
    fs::rename(&folder, &others).expect("given back");
    fs::rename(&new, &folder).expect("moved back");
    sandbox.restart_coordinator(0).await.expect("it starts again");
    sandbox.restart_coordinator(LOST).await.expect("it starts again");
    sandbox.wait_ready().await.expect("all three serve");
    create_gallery(&sandbox, LOST, "after-all").await;
}

/// Once an emptied folder founded a replica anew where its coordinator was the first to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_folder_founds_nothing_alone_and_a_replacement_can_be_given_up() {
    let sandbox = cluster().await;
    for coordinator in 0..3 {
        sandbox.kill_coordinator(coordinator).await.expect("it runs");
    }
    lose_volume(&sandbox).await;
    let waits = wait_until("it to say that it waits", REPLACED_WITHIN, || async {
        let said = refusal(&sandbox).await;
        if said.contains("0 of 2 other coordinators have answered") { Ok(()) } else { Err(said) }
    });
    waits.await.unwrap_or_else(|error| panic!("{error}"));
    sandbox.restart_coordinator(0).await.expect("it starts again");
    sandbox.restart_coordinator(2).await.expect("it starts again");
    wait_said(&sandbox, 0, "the empty folder to be heard", |said| said.waits).await;
    create_gallery(&sandbox, 0, "two-of-three").await;

    let mut cluster = ClusterServiceClient::new(sandbox.channel(0));
    let nobody = cluster.replace_coordinator(ReplaceCoordinatorRequest { coordinator: 4 }).await;
    assert_eq!(nobody.expect_err("there is none").code(), Code::NotFound);
    let runs = cluster.replace_coordinator(ReplaceCoordinatorRequest { coordinator: 3 }).await;
    assert_eq!(runs.expect_err("it has its volume").code(), Code::FailedPrecondition);
    // It does not learn that it is let in: halted, it was heard a moment ago, and asks no more.
    let request = ReplaceCoordinatorRequest { coordinator: LOST_NUMBER };
    let begun = wait_until("the replacement to begin", REPLACED_WITHIN, || async {
        sandbox.resume_coordinator(LOST).await.map_err(|error| error.to_string())?;
        wait_said(&sandbox, 0, "the empty folder to be heard", |said| said.waits).await;
        sandbox.pause_coordinator(LOST).await.map_err(|error| error.to_string())?;
        cluster.clone().replace_coordinator(request).await.map_err(|status| status.to_string())
    });
    let begun = begun.await.unwrap_or_else(|error| panic!("{error}")).into_inner();
    assert_eq!((begun.from_replica, begun.to_replica), (2, 6));
    let again = cluster.replace_coordinator(request).await.expect("it is under way").into_inner();
    assert_eq!(again, begun);
    wait_said(&sandbox, 2, "the replacement to be known", |said| said.joining_replica == 6).await;
    // And that folder is lost as well.
    sandbox.kill_coordinator(LOST).await.expect("it is there");
    lose_volume(&sandbox).await;
    wait_heard(&sandbox).await;
    let (replaced, said) = replace(&sandbox, &[]).await;
    assert!(!replaced && said.contains("--cancel"), "{said}");
    let (given_up, said) = replace(&sandbox, &["--cancel"]).await;
    assert!(given_up, "{said}");
    cluster.cancel_replacement(CancelReplacementRequest { coordinator: LOST_NUMBER }).await.expect("again");
    let said = wait_said(&sandbox, 0, "the replacement to be over", |said| said.joining_replica == 0).await;
    assert_eq!(said.replica, 2);
    wait_heard(&sandbox).await;
    let (replaced, said) = replace(&sandbox, &[]).await;
    assert!(replaced && said.contains("replica 7 votes in the place of 2"), "{said}");
    sandbox.wait_ready().await.expect("all three serve");
    sandbox.kill_coordinator(2).await.expect("it runs");
    create_gallery(&sandbox, LOST, "it-votes").await;
}
