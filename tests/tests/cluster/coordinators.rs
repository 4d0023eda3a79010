//! Several coordinators: any of them answers, and what one leaves behind another finishes.

use std::time::Duration;

use futures::StreamExt as _;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::gallery_service_client::GalleryServiceClient;
use semel_proto::v1::{EnrolRequest, EnrolmentState, GetClusterStatusResponse};
use semel_sandbox::{Sandbox, requests, wait_until};

use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{assert_sound, candidates, enrol, enrol_once, recorded};

const GALLERY: &str = "people";
const WAIT_MS: u32 = 1_500;
const IN_FLIGHT: usize = 16;
const FINISHED_WITHIN: Duration = Duration::from_secs(60);

async fn cluster(nodes: usize) -> Sandbox {
    let sandbox =
        Sandbox::builder().coordinators(3).nodes(nodes).engine("exact").start().await.expect("the cluster starts");
    let gallery = requests::face_gallery(GALLERY, DIMENSION, THRESHOLD);
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

#[tokio::test]
async fn any_coordinator_answers_and_each_knows_what_the_others_enrolled() {
    let sandbox = cluster(3).await;
    let people = people::people(51, 12);
    for person in 0..12 {
        for side in 0..2 {
            let client = EnrolmentServiceClient::new(sandbox.channel((person + side) as usize % 3));
            let id = format!("{person}-{side}");
            let enrolment =
                enrol(&client, &requests::face_enrolment(GALLERY, &id, &capture(&people, person, side))).await;
            let expected = if side == 0 { EnrolmentState::Unique } else { EnrolmentState::PossibleDuplicate };
            assert_eq!(enrolment.state(), expected, "{id}");
        }
    }
    let status = sandbox.status_of(2).await.expect("it answers");
    assert_eq!(status.coordinators.len(), 3);
    assert_eq!(status.coordinators.iter().filter(|coordinator| coordinator.leader).count(), 1);
}

#[tokio::test]
async fn with_one_coordinator_of_three_dead_the_others_create_galleries_and_enrol() {
    let sandbox = cluster(3).await;
    sandbox.kill_coordinator(0).await.expect("it runs");
    let people = people::people(52, 2);
    for coordinator in 1..3 {
        let client = EnrolmentServiceClient::new(sandbox.channel(coordinator));
        let person = coordinator as u32 - 1;
        let gallery = format!("people-{person}");
        let create = requests::face_gallery(&gallery, DIMENSION, THRESHOLD);
        let mut galleries = GalleryServiceClient::new(sandbox.channel(coordinator));
        galleries.create_gallery(create).await.expect("two of three are a majority");
        let request = requests::face_enrolment(&gallery, "first", &capture(&people, person, 0));
        assert_sound(&enrol(&client, &request).await);
    }
}

#[tokio::test]
async fn with_two_coordinators_of_three_dead_the_third_does_not_say_that_the_cluster_is_ready() {
    let sandbox = cluster(3).await;
    assert!(sandbox.status_of(2).await.expect("it answers").ready);
    sandbox.kill_coordinator(0).await.expect("it runs");
    sandbox.kill_coordinator(1).await.expect("it runs");
    let told = wait_until("the third to know that nobody leads", FINISHED_WITHIN, || async {
        let status = sandbox.status_of(2).await.map_err(|error| error.to_string())?;
        if status.ready { Err("it says ready".to_owned()) } else { Ok(status) }
    });
    let status = told.await.unwrap_or_else(|error| panic!("{error}"));
    assert!(status.coordinators.iter().all(|coordinator| !coordinator.leader), "{:?}", status.coordinators);
    sandbox.restart_coordinator(0).await.expect("it starts again");
    sandbox.wait_ready().await.expect("two of three are a majority");
}

fn pending(status: &GetClusterStatusResponse) -> u64 {
    status.galleries.iter().map(|counts| counts.pending).sum::<u64>()
        + status.shards.iter().map(|shard| shard.obligations).sum::<u64>()
}

#[tokio::test]
async fn what_is_staged_when_its_coordinator_dies_is_finished_by_another() {
    // With two of five nodes dead nothing can be settled, so that what is staged stays so until the coordinator is gone.
    let sandbox = cluster(5).await;
    let people = people::people(53, 60);
    let (first, second) =
        (EnrolmentServiceClient::new(sandbox.channel(0)), EnrolmentServiceClient::new(sandbox.channel(1)));
    for person in 0..10 {
        let request = requests::face_enrolment(GALLERY, &format!("{person}-0"), &capture(&people, person, 0));
        assert_sound(&enrol(&first, &request).await);
    }
    sandbox.kill_node(3).await.expect("the node runs");
    sandbox.kill_node(4).await.expect("the node runs");
    let staged: Vec<u32> = futures::stream::iter(0..60)
        .map(|person| {
            let request = requests::face_enrolment(GALLERY, &format!("{person}-1"), &capture(&people, person, 1));
            let request = EnrolRequest { wait_ms: WAIT_MS, ..request };
            let client = &first;
            async move {
                let answer = enrol_once(client, &request).await.ok()?;
                assert!(answer.inconclusive.is_some(), "person {person} was settled without every shard");
                Some(person)
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(!staged.is_empty(), "no enrolment was staged in the shards that live");
    sandbox.kill_coordinator(0).await.expect("it runs");
    sandbox.restart_node(3).await.expect("the node starts again");
    sandbox.restart_node(4).await.expect("the node starts again");
    sandbox.wait_ready().await.expect("every shard has a leader again");
    let finished = wait_until("another coordinator to finish everything", FINISHED_WITHIN, || async {
        let status = sandbox.status_of(1).await.map_err(|error| error.to_string())?;
        if pending(&status) == 0 { Ok(()) } else { Err(format!("{} left", pending(&status))) }
    });
    finished.await.unwrap_or_else(|error| panic!("{error}"));
    for person in staged {
        let enrolment = recorded(&second, GALLERY, &format!("{person}-1")).await;
        assert_sound(&enrolment);
        assert_eq!(candidates(&enrolment).contains(&format!("{person}-0")), person < 10, "person {person}");
    }
}
