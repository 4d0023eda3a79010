//! Processes that are killed, that hang, and that are restarted one after another.

use rand::RngExt as _;

use crate::cluster::{COORDINATORS, Cluster, NODES, Server};
use crate::scenario::{Scenario, run};

/// Rounds of the storm.
const ROUNDS: usize = 16;

/// Servers of one kind: one of them, or as many as make a majority.
fn victims(cluster: &mut Cluster, majority: bool) -> Vec<Server> {
    let chance = &mut cluster.chance;
    let nodes = chance.random_bool(0.6);
    let (count, of): (usize, fn(usize) -> Server) =
        if nodes { (NODES, Server::Node) } else { (COORDINATORS, Server::Coordinator) };
    let first = chance.random_range(0..count);
    (0..if majority { count / 2 + 1 } else { 1 }).map(|next| of((first + next) % count)).collect()
}

#[test]
fn whoever_is_killed_and_started_again_whenever_nothing_is_lost_or_missed() {
    let scenario = Scenario::new("whoever_is_killed_and_started_again_whenever_nothing_is_lost_or_missed", 101);
    run(&scenario, async |cluster| {
        let (mut kills, mut majorities) = (0, 0);
        for round in 0..ROUNDS {
            let majority = round % 6 == 5;
            let victims = victims(cluster, majority);
            for &victim in &victims {
                cluster.kill(victim).await;
                kills += 1;
            }
            majorities += usize::from(majority);
            let dead_for = cluster.chance.random_range(1..60);
            cluster.answers(dead_for).await;
            for &victim in &victims {
                cluster.start_again(victim).await;
            }
            // Every other time the next kill meets servers that are not back yet.
            if cluster.chance.random_bool(0.5) {
                cluster.verdicts(15).await;
            }
        }
        cluster.verdicts(20).await;
        assert!(kills > ROUNDS && majorities > 0, "{kills} kills, {majorities} of a majority");
        format!("{kills} kills, {majorities} times a majority")
    });
}

#[test]
fn a_leader_that_hangs_and_comes_back_never_answers_from_what_it_knew() {
    let scenario = Scenario::new("a_leader_that_hangs_and_comes_back_never_answers_from_what_it_knew", 102);
    run(&scenario, async |cluster| {
        let mut pauses = 0;
        for round in 0..5 {
            let leader = match round % 2 {
                0 => cluster.leading_node().await,
                _ => cluster.leading_coordinator().await,
            };
            cluster.pause(leader).await;
            cluster.others_lead(leader).await;
            cluster.verdicts(20).await;
            cluster.resume(leader).await;
            pauses += 1;
            cluster.verdicts(20).await;
        }
        // Everybody at once, for longer than an election takes: clocks go on, and all wake up to timeouts that are over.
        for server in Server::all() {
            cluster.pause(server).await;
        }
        cluster.last(1_500).await;
        for server in Server::all() {
            cluster.resume(server).await;
        }
        cluster.verdicts(20).await;
        format!("{pauses} leaders paused until others led, once everybody")
    });
}

#[test]
fn servers_restarted_one_after_another_under_load_leave_no_request_behind() {
    let scenario = Scenario::new("servers_restarted_one_after_another_under_load_leave_no_request_behind", 110);
    run(&scenario, async |cluster| {
        let mut restarts = 0;
        for server in Server::all() {
            // Panics unless it ends by itself and reports success.
            cluster.terminate(server).await;
            cluster.answers(10).await;
            cluster.start_again(server).await;
            cluster.ready().await;
            cluster.verdicts(10).await;
            restarts += 1;
        }
        format!("{restarts} restarts by SIGTERM")
    });
}
