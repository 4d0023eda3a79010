//! Replicas that are far behind, new, or moved from node to node, in processes that die meanwhile: the others serve all the while, and
//! in the end every replica has the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use semel_population::Population;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::{
    CancelMoveRequest, EnrolRequest, Enrolment, GetClusterStatusResponse, ListMovesRequest, MoveReplicaRequest,
    MoveState, RemoveNodeRequest, ReplicaRole,
};
use semel_sandbox::{Sandbox, SandboxError, requests, wait_until};
use tonic::Code;
use tonic::transport::Channel;

use crate::binary::child_processes;
use crate::command::semel;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{assert_one_case_per_pair, assert_replicas_agree, assert_sound, candidates, enrol, wait_quiet};

const GALLERY: &str = "people";
const IN_FLIGHT: usize = 16;
/// Entries that the logs keep here: a node that is gone for a moment needs rows.
const LOG_ENTRIES_MAX: u64 = 100;
/// How long a move may take on a machine that does other things.
const MOVED_WITHIN: Duration = Duration::from_secs(120);

async fn processes(nodes: usize, shards: u32) -> Sandbox {
    let builder = Sandbox::builder().mode(child_processes()).nodes(nodes).shards(shards).engine("exact");
    let builder = builder.node_settings(|node| {
        node.log_entries_max = LOG_ENTRIES_MAX;
        node.disk_reserve_bytes = 1 << 20;
    });
    let builder = builder.coordinator_settings(|coordinator| coordinator.log_entries_max = LOG_ENTRIES_MAX);
    let sandbox = builder.start().await.expect("the cluster starts");
    let gallery = requests::face_gallery(GALLERY, DIMENSION, THRESHOLD);
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

fn request(people: &Population, person: u32, side: u32) -> EnrolRequest {
    requests::face_enrolment(GALLERY, &format!("{person:04}-{side}"), &capture(people, person, side))
}

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

async fn status(sandbox: &Sandbox) -> GetClusterStatusResponse {
    let asked = wait_until("the status", Duration::from_secs(30), || sandbox.status());
    asked.await.expect("the coordinator answers")
}

/// The id of the node that listens where this one of the sandbox does.
async fn node_id(sandbox: &Sandbox, node: usize) -> String {
    node_id_other_than(sandbox, node, "").await
}

/// The same, of a node that is another one than before.
async fn node_id_other_than(sandbox: &Sandbox, node: usize, before: &str) -> String {
    let address = sandbox.node_address(node).await.expect("there is such a node").to_string();
    let found = wait_until("the node to be known", Duration::from_secs(30), || async {
        let status = sandbox.status().await.map_err(|error| error.to_string())?;
        let mut known = status.nodes.into_iter().filter(|node| node.live && node.node_id != before);
        known.find(|node| node.address == address).map(|node| node.node_id).ok_or("it has not joined".to_owned())
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}

/// How far the replicas of a node have applied their logs, by shard.
fn applied(status: &GetClusterStatusResponse, node: &str) -> BTreeMap<u32, u64> {
    let replicas = status.shards.iter().flat_map(|shard| shard.replicas.iter().map(|replica| (shard.shard, replica)));
    let own = replicas.filter(|(_, replica)| replica.node_id == node);
    own.map(|(shard, replica)| (shard, replica.applied_index)).collect()
}

/// Whether the cluster stands as it is meant to: nothing moves, and every replica takes part.
fn settled(status: &GetClusterStatusResponse) -> Result<(), String> {
    for shard in &status.shards {
        let roles: Vec<_> = shard.replicas.iter().map(semel_proto::v1::ReplicaStatus::role).collect();
        let whole = roles.iter().all(|role| matches!(role, ReplicaRole::Leader | ReplicaRole::Follower));
        if !whole || roles.len() != 3 {
            return Err(format!("shard {}: {roles:?}", shard.shard));
        }
    }
    Ok(())
}

async fn wait_settled(sandbox: &Sandbox) {
    let waited = wait_until("every move to be done", MOVED_WITHIN, || async {
        let moves = sandbox.cluster().list_moves(ListMovesRequest {}).await.map_err(|status| status.to_string())?;
        let moves = moves.into_inner().moves;
        if !moves.is_empty() {
            return Err(format!("{moves:?}"));
        }
        settled(&sandbox.status().await.map_err(|error| error.to_string())?)
    });
    waited.await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_node_that_was_away_for_longer_than_the_log_catches_up_by_snapshot_while_the_others_serve() {
    let sandbox = processes(3, 2).await;
    let people = people::people(61, 400);
    let client = sandbox.enrolments();
    let mut told = enrol_all(&client, (0..20).map(|person| request(&people, person, 0))).await;
    let before = wait_quiet(&sandbox, GALLERY).await;
    let absent = node_id(&sandbox, 2).await;
    sandbox.kill_node(2).await.expect("the node runs");
    told.extend(enrol_all(&client, (20..300).map(|person| request(&people, person, 0))).await);
    sandbox.restart_node(2).await.expect("the node starts again");
    // While it catches up, and then.
    told.extend(enrol_all(&client, (0..300).step_by(3).map(|person| request(&people, person, 1))).await);
    told.values().for_each(assert_sound);
    for person in (0..300).step_by(3) {
        let second = candidates(&told[&format!("{person:04}-1")]);
        assert_eq!(second.into_iter().collect::<Vec<_>>(), [format!("{person:04}-0")]);
    }
    let after = wait_quiet(&sandbox, GALLERY).await;
    assert_replicas_agree(&after);
    let was = applied(&before, &absent);
    for shard in &after.shards {
        let replica = shard.replicas.iter().find(|replica| replica.node_id == absent).expect("it hosts every shard");
        let was = was[&shard.shard];
        assert!(replica.log_starts_after > was, "shard {} went on from {was} by its log: {replica:?}", shard.shard);
    }
    // It counts again: with another node gone, the group needs it, and it knows everyone.
    sandbox.kill_node(0).await.expect("the node runs");
    let more = enrol_all(&client, (1..20).step_by(3).map(|person| request(&people, person, 1))).await;
    for person in (1..20).step_by(3) {
        assert!(candidates(&more[&format!("{person:04}-1")]).contains(&format!("{person:04}-0")), "person {person}");
    }
}

/// The first shard that the first node holds and the second does not.
fn movable(status: &GetClusterStatusResponse, from: &str, to: &str) -> u32 {
    let holds = |shard: &semel_proto::v1::ShardStatus, node: &str| shard.replicas.iter().any(|r| r.node_id == node);
    let shard = status.shards.iter().find(|shard| holds(shard, from) && !holds(shard, to));
    shard.expect("four nodes hold three replicas of each shard").shard
}

fn holders(status: &GetClusterStatusResponse, shard: u32) -> BTreeSet<String> {
    let found = status.shards.iter().find(|found| found.shard == shard).expect("there is such a shard");
    found.replicas.iter().map(|replica| replica.node_id.clone()).collect()
}

/// Asks until a coordinator answers with the move.
async fn begin(sandbox: &Sandbox, shard: u32, from: &str, to: &str) {
    let asked = wait_until("a move to begin", Duration::from_secs(30), || async {
        let request = MoveReplicaRequest { shard, from_node: from.to_owned(), to_node: to.to_owned() };
        sandbox.cluster().move_replica(request).await
    });
    asked.await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_moves_under_load_whatever_process_is_killed_meanwhile() {
    let sandbox = Arc::new(processes(4, 4).await);
    let people = Arc::new(people::people(62, 600));
    let client = sandbox.enrolments();
    let mut told = enrol_all(&client, (0..60).map(|person| request(&people, person, 0))).await;
    let (next, done) = (Arc::new(AtomicU32::new(60)), Arc::new(AtomicBool::new(false)));
    let load = {
        let (next, done, client, people) = (Arc::clone(&next), Arc::clone(&done), client.clone(), Arc::clone(&people));
        tokio::spawn(async move {
            let lanes = (0..4).map(|_| async {
                let mut told = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let person = next.fetch_add(1, Ordering::Relaxed);
                    if person >= 600 {
                        break;
                    }
                    told.push(enrol(&client, &request(&people, person, 0)).await);
                }
                told
            });
            futures::future::join_all(lanes).await.concat()
        })
    };
    let ids = [
        node_id(&sandbox, 0).await,
        node_id(&sandbox, 1).await,
        node_id(&sandbox, 2).await,
        node_id(&sandbox, 3).await,
    ];
    // Who is killed while a replica moves from node to node: the node it comes to, the one it leaves, another one, the coordinator.
    let rounds: [(usize, usize, Option<usize>); 4] = [(0, 1, Some(1)), (1, 2, Some(1)), (2, 3, Some(0)), (3, 0, None)];
    for (from, to, victim) in rounds {
        wait_settled(&sandbox).await;
        let shard = movable(&status(&sandbox).await, &ids[from], &ids[to]);
        begin(&sandbox, shard, &ids[from], &ids[to]).await;
        match victim {
            Some(node) => {
                sandbox.kill_node(node).await.expect("it runs");
                sandbox.restart_node(node).await.expect("it starts again");
            }
            None => {
                sandbox.kill_coordinator(0).await.expect("it runs");
                sandbox.restart_coordinator(0).await.expect("it starts again");
            }
        }
        wait_settled(&sandbox).await;
        let holders = holders(&status(&sandbox).await, shard);
        assert!(holders.contains(&ids[to]) && !holders.contains(&ids[from]), "shard {shard} is on {holders:?}");
    }
    done.store(true, Ordering::Relaxed);
    let enrolled = load.await.expect("the load ends");
    told.extend(enrolled.into_iter().map(|enrolment| (enrolment.enrolment_id.clone(), enrolment)));
    let seconds = (0..60).map(|person| request(&people, person, 1));
    told.extend(enrol_all(&client, seconds).await);
    for person in 0..60 {
        assert!(candidates(&told[&format!("{person:04}-1")]).contains(&format!("{person:04}-0")), "person {person}");
    }
    told.values().for_each(assert_sound);
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
    assert_one_case_per_pair(&sandbox, GALLERY, told.values()).await;
}

#[tokio::test]
async fn a_move_that_cannot_finish_can_be_given_up_and_leaves_everything_as_it_was() {
    let sandbox = processes(4, 4).await;
    let people = people::people(63, 30);
    let client = sandbox.enrolments();
    let told = enrol_all(&client, (0..30).map(|person| request(&people, person, 0))).await;
    let (from, to) = (node_id(&sandbox, 0).await, node_id(&sandbox, 3).await);
    let shard = movable(&status(&sandbox).await, &from, &to);
    let before = holders(&status(&sandbox).await, shard);
    // A node that hangs has not been missed yet, and brings no replica up to date.
    sandbox.pause_node(3).await.expect("it runs");
    begin(&sandbox, shard, &from, &to).await;
    sandbox.kill_node(3).await.expect("it is there");
    let moves = sandbox.cluster().list_moves(ListMovesRequest {}).await.expect("it answers").into_inner().moves;
    assert_eq!(
        moves.iter().map(|moving| (moving.shard, moving.state())).collect::<Vec<_>>(),
        [(shard, MoveState::Learning)]
    );
    // One move of a shard at a time.
    let other = MoveReplicaRequest { shard, from_node: node_id(&sandbox, 1).await, to_node: from.clone() };
    let refused = sandbox.cluster().move_replica(other).await.expect_err("another one is under way");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let beyond = MoveReplicaRequest { shard: 99, from_node: from.clone(), to_node: to.clone() };
    let refused = sandbox.cluster().move_replica(beyond).await.expect_err("there is no such shard");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("shard: must be below"), "{refused}");
    sandbox.cluster().cancel_move(CancelMoveRequest { shard }).await.expect("it can be given up");
    let gone = wait_until("the move to be gone", MOVED_WITHIN, || async {
        let moves = sandbox.cluster().list_moves(ListMovesRequest {}).await.map_err(|status| status.to_string())?;
        if moves.get_ref().moves.is_empty() { Ok(()) } else { Err(format!("{:?}", moves.get_ref().moves)) }
    });
    gone.await.unwrap_or_else(|error| panic!("{error}"));
    sandbox.restart_node(3).await.expect("it starts again");
    wait_settled(&sandbox).await;
    assert_eq!(holders(&status(&sandbox).await, shard), before);
    told.values().for_each(assert_sound);
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
}

/// Runs `semel cluster …`.
async fn semel_cluster(sandbox: &Sandbox, arguments: &[&str]) -> (bool, String) {
    semel(&sandbox.endpoint(), &[&["cluster"], arguments].concat()).await
}

#[tokio::test]
async fn a_node_whose_volume_is_lost_comes_back_as_another_and_the_old_one_is_drained_and_removed() {
    let sandbox = processes(3, 4).await;
    let people = people::people(64, 80);
    let client = sandbox.enrolments();
    let mut told = enrol_all(&client, (0..40).map(|person| request(&people, person, 0))).await;
    let lost = node_id(&sandbox, 2).await;
    let (removed, said) = semel_cluster(&sandbox, &["remove-node", &lost]).await;
    assert!(!removed && said.contains("is live"), "{said}");
    let node = sandbox.node_address(2).await.expect("there is such a node").to_string();
    let (told_by_node, said) = semel(&node, &["status"]).await;
    assert!(!told_by_node && said.contains("the address is a node's"), "{said}");
    sandbox.kill_node(2).await.expect("the node runs");
    fs::remove_dir_all(sandbox.node_folder(2).await.expect("there is such a node")).expect("the folder is removed");
    sandbox.restart_node(2).await.expect("the process starts and listens");
    let new = node_id_other_than(&sandbox, 2, &lost).await;
    // Serving goes on with what is left.
    told.extend(enrol_all(&client, (40..60).map(|person| request(&people, person, 0))).await);
    let in_use = RemoveNodeRequest { node: lost.clone() };
    let gone = wait_until("the lost node not to be live any more", Duration::from_secs(30), || async {
        let refused = sandbox.cluster().remove_node(in_use.clone()).await.expect_err("shards count on it");
        if refused.message().contains("drain") { Ok(()) } else { Err(refused.to_string()) }
    });
    gone.await.unwrap_or_else(|error| panic!("{error}"));
    let (drained, said) = semel_cluster(&sandbox, &["drain", &lost[..8]]).await;
    assert!(drained && said.contains("holds nothing any more"), "{said}");
    let (removed, said) = semel_cluster(&sandbox, &["remove-node", &lost[..8]]).await;
    assert!(removed, "{said}");
    wait_settled(&sandbox).await;
    let after = wait_quiet(&sandbox, GALLERY).await;
    assert_replicas_agree(&after);
    assert!(after.nodes.iter().all(|node| node.node_id != lost));
    assert_eq!(applied(&after, &new).len(), 4, "it holds a replica of every shard");
    // With another node gone, what the new one holds counts.
    sandbox.kill_node(0).await.expect("the node runs");
    told.extend(enrol_all(&client, (0..60).step_by(2).map(|person| request(&people, person, 1))).await);
    for person in (0..60).step_by(2) {
        assert!(candidates(&told[&format!("{person:04}-1")]).contains(&format!("{person:04}-0")), "person {person}");
    }
    let (moves, said) = semel_cluster(&sandbox, &["moves"]).await;
    assert!(moves && said.contains("no replica is being moved"), "{said}");
}

#[tokio::test]
async fn a_folder_of_another_cluster_or_of_a_newer_program_is_refused_with_what_to_do() {
    let (sandbox, other) = (processes(3, 1).await, processes(3, 1).await);
    sandbox.kill_node(2).await.expect("the node runs");
    let folder = sandbox.node_folder(2).await.expect("there is such a node");
    fs::write(folder.join("FORMAT"), "semel data folder, format 99\n").expect("writable");
    let ended = refused_to_run(&sandbox).await;
    assert!(ended.contains("run the version that wrote it"), "{ended}");
    // Out of the way, and the folder of another cluster's node in its place.
    other.kill_node(2).await.expect("the node runs");
    fs::remove_dir_all(&folder).expect("the folder is removed");
    let foreign = other.node_folder(2).await.expect("there is such a node");
    fs::rename(&foreign, &folder).expect("the folder is moved");
    let ended = refused_to_run(&sandbox).await;
    assert!(ended.contains("another cluster") && ended.contains("check `coordinators` and `data`"), "{ended}");
}

/// Starts the last node, which ends by itself; returns what it said.
async fn refused_to_run(sandbox: &Sandbox) -> String {
    // A process that ends at once may not have listened.
    if let Err(error) = sandbox.restart_node(2).await {
        return error.to_string();
    }
    let ended = wait_until("the node to refuse to run", Duration::from_secs(30), || async {
        sandbox.node_ended(2).await.expect("there is such a node").ok_or("it runs")
    });
    let ended = ended.await.unwrap_or_else(|error| panic!("{error}"));
    let SandboxError::Ended { log_tail, .. } = &ended else { panic!("{ended}") };
    let said = log_tail.clone();
    // Gone already: its place is made free.
    sandbox.kill_node(2).await.expect("it was started");
    said
}
