//! Disks that are full, and disks that fail to sync. A node that could not write once writes no more until it is started again.

use std::fs;

use semel_proto::v1::ReplicaRole;

use crate::cluster::{Cluster, Server};
use crate::machine::{Volume, command};
use crate::scenario::{Scenario, run};

const NODE: Server = Server::Node(0);
/// Room on the small volume: less than RocksDB likes to set aside for a log in advance, which it could go on writing into.
const VOLUME_BYTES: u64 = 16 * 1024 * 1024;
/// Room that is left when it fills up.
const LEFT_BYTES: u64 = 128 * 1024;
const NO_ROOM: &str = "No space left on device";
/// RocksDB to a write that comes between a failed sync and the news of it.
const WRITE_AFTER_FAILED_SYNC: &str = "Seen error";

fn volume(cluster: &mut Cluster) -> &mut Volume {
    cluster.volume.as_mut().expect("the scenario asks for one")
}

/// Waits until a replica of the cluster has stopped, or the node has ended, for a reason that says one of `causes`.
async fn fails_for(cluster: &Cluster, causes: &[&str]) {
    cluster
        .until("the node to fail", async || {
            let status = cluster.status_beside(&[]).await?;
            let stopped = status.shards.iter().flat_map(|shard| &shard.replicas);
            let reasons: Vec<&str> = stopped
                .filter(|replica| replica.role() == ReplicaRole::Stopped)
                .map(|replica| replica.stopped_reason.as_str())
                .collect();
            let ended = cluster.sandbox.node_ended(NODE.place()).await.map_err(|error| error.to_string())?;
            let ended = ended.map(|error| error.to_string());
            let says = |reason: &str| causes.iter().any(|cause| reason.contains(cause));
            let told = reasons.iter().copied().chain(ended.as_deref()).any(says);
            if told { Ok(()) } else { Err(format!("stopped for {reasons:?}, ended with {ended:?}")) }
        })
        .await;
}

#[test]
fn a_node_whose_disk_is_full_stops_and_the_others_go_on_without_it() {
    let scenario =
        Scenario::new("a_node_whose_disk_is_full_stops_and_the_others_go_on_without_it", 106).coordinators_stay();
    let scenario = scenario.runs(&["mount", "umount"]).with_volume(VOLUME_BYTES);
    run(&scenario, async |cluster| {
        for _ in 0..2 {
            volume(cluster).fill_but(LEFT_BYTES);
            fails_for(cluster, &[NO_ROOM]).await;
            cluster.verdicts(40).await;
            cluster.kill(NODE).await;
            // Without any room it does not even start, and says why.
            volume(cluster).fill_but(0);
            cluster.start_again(NODE).await;
            let ended = cluster.ended(NODE.place()).await.to_string();
            assert!(ended.contains(NO_ROOM), "{ended}");
            cluster.kill(NODE).await;
            volume(cluster).make_room();
            cluster.start_again(NODE).await;
            cluster.ready().await;
            cluster.verdicts(20).await;
        }
        "twice ENOSPC under load, twice at the start".to_owned()
    });
}

#[test]
fn a_node_whose_disk_fails_to_sync_stops_and_claims_nothing_it_has_not_written() {
    let scenario = Scenario::new("a_node_whose_disk_fails_to_sync_stops_and_claims_nothing_it_has_not_written", 107)
        .coordinators_stay()
        .runs(&["fiu-run", "fiu-ctrl"]);
    run(&scenario, async |cluster| {
        let mut failures = 0;
        for chance in ["0.05", "0.5"] {
            let control = cluster.sandbox.data_dir().join(format!("fiu-{failures}"));
            let control = control.to_str().expect("temporary folders have plain names");
            let fiu = ["fiu-run", "-x", "-f", control].map(str::to_owned);
            cluster.restart_behind(NODE, Cluster::prefix(NODE, &[], &fiu)).await;
            cluster.ready().await;
            cluster.verdicts(10).await;
            // From now on; before, it has to open its files.
            tell_fiu(control, &format!("enable_random name=posix/io/sync/*,probability={chance},failinfo=5"));
            fails_for(cluster, &["Input/output error", WRITE_AFTER_FAILED_SYNC]).await;
            failures += 1;
            cluster.verdicts(30).await;
        }
        cluster.restart_behind(NODE, Cluster::prefix(NODE, &[], &[])).await;
        cluster.ready().await;
        cluster.verdicts(20).await;
        format!("{failures} times a sync failed with EIO")
    });
}

/// Sends a command to the one process that listens behind `control`.
fn tell_fiu(control: &str, fault: &str) {
    let (folder, stem) = control.rsplit_once('/').expect("an absolute path");
    let names = fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.file_name());
    let process = names.filter_map(|name| {
        let name = name.into_string().ok()?;
        Some(name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(".in")?.to_owned())
    });
    let process = process.last().expect("fiu-run makes a pipe for its process");
    command(&["fiu-ctrl", "-c", fault, "-f", control, &process]).unwrap_or_else(|refused| panic!("{refused}"));
}
