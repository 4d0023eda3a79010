//! A node that needs more memory than it may have and is killed for it.

use crate::cluster::{Cluster, Server};
use crate::machine::{self, MemoryLimit, say};
use crate::scenario::{Scenario, run};

const NODE: Server = Server::Node(0);

#[test]
fn a_node_killed_for_its_memory_under_load_comes_back_complete() {
    let name = "a_node_killed_for_its_memory_under_load_comes_back_complete";
    let limit = match machine::check(&[]).and_then(|()| MemoryLimit::new()) {
        Ok(limit) => limit,
        Err(why) => {
            say(&format!("skipped: {name} ({why})"));
            return;
        }
    };
    let scenario = Scenario::new(name, 109).coordinators_stay().runs(&["sh"]);
    run(&scenario, async |cluster| {
        // Entered first: within the namespace control groups are not to be seen.
        cluster.restart_behind(NODE, Cluster::prefix(NODE, &limit.prefix(), &[])).await;
        cluster.ready().await;
        cluster.verdicts(20).await;
        // Tightened until it is in the way: how much a node holds differs between machines.
        cluster
            .until("the node to be killed for its memory", async || {
                limit.tighten();
                if limit.kills() > 0 { Ok(()) } else { Err("it finds what it needs".to_owned()) }
            })
            .await;
        let ended = cluster.ended(NODE.place()).await.to_string();
        assert!(ended.contains("signal: 9"), "{ended}");
        cluster.verdicts(40).await;
        cluster.restart_behind(NODE, Cluster::prefix(NODE, &[], &[])).await;
        cluster.ready().await;
        cluster.verdicts(20).await;
        format!("{} kills for memory", limit.kills())
    });
}
