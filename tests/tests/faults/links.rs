//! Links that are cut in both directions or in one, that lose packets, and that are slow.
//!
//! Latency comes from queues alone: on a slow link a packet waits behind others for up to 400 ms. Links of clients are never cut.

use rand::RngExt as _;

use crate::cluster::{COORDINATORS, Cluster, NODES, Server};
use crate::scenario::{Scenario, run};

/// How long a cut lasts where nothing else says when it has done its work.
const CUT_MS: u64 = 2_500;

fn places(servers: impl IntoIterator<Item = Server>) -> Vec<usize> {
    servers.into_iter().map(Server::place).collect()
}

fn others(server: Server) -> Vec<usize> {
    places(Server::all().filter(|&other| other != server))
}

#[test]
fn a_cluster_that_is_cut_in_two_decides_on_one_side_at_most() {
    let scenario = Scenario::new("a_cluster_that_is_cut_in_two_decides_on_one_side_at_most", 103);
    run(&scenario, async |cluster| {
        // Clients still reach whom the others do not: it must not answer from what it knew.
        for leader in [cluster.leading_node().await, cluster.leading_coordinator().await] {
            cluster.network.split(&[leader.place()], &others(leader));
            cluster.others_lead(leader).await;
            cluster.verdicts(20).await;
            cluster.network.heal();
            cluster.verdicts(20).await;
        }
        // Two and one of either kind, in every combination of who has the majority.
        for (nodes, coordinators) in [(2, 2), (2, 1), (1, 2)] {
            let (node, coordinator) =
                (cluster.chance.random_range(0..NODES), cluster.chance.random_range(0..COORDINATORS));
            let side = (0..nodes).map(|next| Server::Node((node + next) % NODES));
            let side: Vec<Server> = side
                .chain((0..coordinators).map(|next| Server::Coordinator((coordinator + next) % COORDINATORS)))
                .collect();
            let rest = places(Server::all().filter(|server| !side.contains(server)));
            cluster.network.split(&places(side), &rest);
            cluster.last(CUT_MS).await;
            cluster.network.heal();
            cluster.verdicts(20).await;
        }
        let dropped = cluster.network.dropped();
        assert!(dropped > 0, "no packet met a cut link");
        format!("2 leaders isolated, 3 splits, {dropped} packets dropped")
    });
}

#[test]
fn a_link_that_is_cut_in_one_direction_misleads_nobody() {
    let scenario = Scenario::new("a_link_that_is_cut_in_one_direction_misleads_nobody", 104);
    run(&scenario, async |cluster| {
        let leads = cluster.leading_node().await;
        let follows = follower(cluster, leads);
        let coordinates = cluster.leading_coordinator().await;
        let ways = [(leads, follows), (follows, leads), (leads, coordinates), (coordinates, leads)];
        for (from, to) in ways {
            cluster.network.cut(&[from.place()], to.place());
            cluster.last(CUT_MS).await;
            cluster.network.heal();
            cluster.verdicts(10).await;
        }
        // One that hears nobody but is heard, and one that hears all and is not heard.
        let deaf = cluster.leading_node().await;
        cluster.network.cut(&others(deaf), deaf.place());
        cluster.last(CUT_MS).await;
        cluster.network.heal();
        cluster.verdicts(10).await;
        let mute = cluster.leading_coordinator().await;
        others(mute).into_iter().for_each(|other| cluster.network.cut(&[mute.place()], other));
        cluster.last(CUT_MS).await;
        cluster.network.heal();
        cluster.verdicts(10).await;
        let dropped = cluster.network.dropped();
        assert!(dropped > 0, "no packet met a cut link");
        format!("4 links cut one way, one server deaf, one mute, {dropped} packets dropped")
    });
}

fn follower(cluster: &mut Cluster, leader: Server) -> Server {
    let next = cluster.chance.random_range(1..NODES);
    Server::Node((leader.place() + next) % NODES)
}

#[test]
fn slow_links_that_lose_packets_cost_time_and_nothing_else() {
    let scenario = Scenario::new("slow_links_that_lose_packets_cost_time_and_nothing_else", 105);
    run(&scenario, async |cluster| {
        for server in Server::all() {
            cluster.network.lose(server.place(), 5);
            cluster.network.slow_down(server.place(), 1_500);
        }
        cluster.verdicts(60).await;
        cluster.network.heal();
        // One follower or leader with a very bad line.
        let node = Server::Node(cluster.chance.random_range(0..NODES));
        cluster.network.lose(node.place(), 30);
        cluster.network.slow_down(node.place(), 250);
        cluster.verdicts(30).await;
        cluster.network.heal();
        let (dropped, held_back) = (cluster.network.dropped(), cluster.network.held_back());
        assert!(dropped > 0 && held_back > 0, "{dropped} packets lost, {held_back} held back");
        format!(
            "5 % loss at 1.5 Mbit/s everywhere, 30 % at 0.25 Mbit/s at {node}, {dropped} packets lost, {held_back} held back"
        )
    });
}
