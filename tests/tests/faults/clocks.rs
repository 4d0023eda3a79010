//! Clocks that are days apart, that jump, and that run at different rates. Nothing that is decided may depend on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt as _;

use crate::cluster::{Cluster, Server};
use crate::scenario::{Scenario, run};

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// What a clock may show beside the true time; the last runs twice as fast.
const CLOCKS: [&str; 6] = ["+3d", "-2d", "+400d", "-30d", "+0", "+0 x2"];

/// The library, wherever this machine's architecture has it.
fn library() -> Option<PathBuf> {
    let found = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    found.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|path| path.is_file())
}

/// What shows a process the clock in `file`. Durations are left as they are, as the kernel leaves them when a clock is set.
fn behind(library: &Path, file: &Path) -> Vec<String> {
    vec![
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
}

fn clock_file(cluster: &Cluster, server: Server) -> PathBuf {
    cluster.sandbox.data_dir().join(format!("clock-{}", server.place()))
}

fn set(cluster: &Cluster, server: Server, clock: &str) {
    fs::write(clock_file(cluster, server), format!("{clock}\n")).expect("a file can be written");
}

#[test]
fn clocks_that_are_days_apart_jump_or_run_twice_as_fast_change_no_answer() {
    let scenario =
        Scenario::new("clocks_that_are_days_apart_jump_or_run_twice_as_fast_change_no_answer", 108).runs(&["faketime"]);
    run(&scenario, async |cluster| {
        let library = library().expect("the program comes with its library");
        for (server, clock) in Server::all().zip(CLOCKS) {
            set(cluster, server, clock);
            let mut tool = behind(&library, &clock_file(cluster, server));
            // Raft counts ticks of a clock that is not set but may run fast: one node's and one coordinator's is at half the rate.
            match server {
                Server::Node(1) => tool.push("SEMEL_NODE_TICK_MS=50".to_owned()),
                Server::Coordinator(1) => tool.push("SEMEL_COORDINATOR_TICK_MS=50".to_owned()),
                Server::Node(_) | Server::Coordinator(_) => {}
            }
            cluster.restart_behind(server, Cluster::prefix(server, &[], &tool)).await;
        }
        cluster.ready().await;
        cluster.verdicts(30).await;
        let mut jumps = 0;
        for _ in 0..3 {
            for server in Server::all() {
                let clock = CLOCKS[cluster.chance.random_range(0..CLOCKS.len())];
                set(cluster, server, clock);
                jumps += 1;
            }
            cluster.verdicts(30).await;
        }
        // A jump while the server is down.
        for server in [cluster.leading_node().await, cluster.leading_coordinator().await] {
            cluster.kill(server).await;
            set(cluster, server, "-300d");
            cluster.start_again(server).await;
            jumps += 1;
            cluster.verdicts(20).await;
        }
        let (astray, of) = astray(cluster).await;
        assert!(astray > 0, "each of {of} cases bears the true date");
        format!("{jumps} jumps, the dates of {astray} of {of} cases off by more than a day")
    });
}

/// Cases whose date is not the true one, and all cases.
async fn astray(cluster: &Cluster) -> (usize, usize) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let cases = cluster.cases().await;
    let astray = |opened_at_ms: i64| u64::try_from(opened_at_ms).unwrap_or(0).abs_diff(now_ms) > DAY_MS;
    (cases.iter().filter(|case| astray(case.opened_at_ms)).count(), cases.len())
}
