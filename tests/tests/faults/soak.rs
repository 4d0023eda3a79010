//! A long time of mixed load while servers are killed at random: nothing is lost, nothing is missed, and what servers hold grows with the
//! data alone. `SOAK_MINUTES` says how long; without it, a minute.
//!
//! One node and one coordinator are spared: they show what a process gathers that is never started anew. At the end both are, and hold
//! their data afresh; the difference is what they had gathered beside it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::cluster::{COORDINATORS, Cluster, NODES, Server};
use crate::machine::say;
use crate::network::Network;
use crate::scenario::{Scenario, run};

const MINUTES: u64 = 1;
/// Tables printed over the whole time.
const TABLES: u32 = 12;
/// A station takes somebody every so often: a load that two cores carry beside the storm.
const PACE: Duration = Duration::from_millis(400);
/// Milliseconds between two kills.
const PAUSE_MS: std::ops::Range<u64> = 2_000..12_000;
/// References that make a sealed segment: small, so that many are sealed, kept on disk and read back.
const SEAL_AT: usize = 2_048;
/// What a process may gather beside its data: RocksDB's write buffers (96 MiB) and its cache of blocks (64 MiB), which fill up to
/// those bounds and are empty after a start, and 32 MiB for the allocator.
const MEMORY_SLACK_BYTES: u64 = 192 << 20;
/// Handles that come and go with connections and RocksDB's files.
const HANDLES_SLACK: u64 = 128;
/// Rows that RocksDB has not compacted yet, and logs that are not full yet.
const DISK_SLACK_BYTES: u64 = 256 << 20;

const SPARED: [Server; 2] = [Server::Node(NODES - 1), Server::Coordinator(COORDINATORS - 1)];

/// What a server holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    memory_bytes: u64,
    handles: u64,
    disk_bytes: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_bytes, handles, disk_bytes } = self;
        let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
        write!(
            formatter,
            "{:.0} MiB resident, {handles} handles, {:.0} MiB on disk",
            mib(memory_bytes),
            mib(disk_bytes)
        )
    }
}

impl Held {
    /// What a running server holds; `None` while it does not run.
    fn of(cluster: &Cluster, server: Server) -> Option<Self> {
        let process = Network::processes(server.place()).first().copied()?;
        let of_process = |name: &str| Path::new("/proc").join(process.to_string()).join(name);
        let status = fs::read_to_string(of_process("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(Self {
            memory_bytes: kib << 10,
            handles: fs::read_dir(of_process("fd")).ok()?.count() as u64,
            disk_bytes: bytes_in(&cluster.data_of(server)),
        })
    }
}

/// The bytes of every file in a folder. Files may go while it is looked at.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Prints what every server that runs holds.
fn tell(cluster: &Cluster, begun: Instant) {
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    say(&format!("soak: after {minutes:.1} min, {} verdicts", cluster.clients.verdicts()));
    for server in Server::all() {
        if let Some(held) = Held::of(cluster, server) {
            say(&format!("soak:   {server}: {held}"));
        }
    }
}

/// Waits for what a server holds: it runs, unless it is being started.
async fn held(cluster: &Cluster, server: Server) -> Held {
    cluster.until(&format!("{server} to run"), async || Held::of(cluster, server).ok_or("it does not".to_owned())).await
}

#[test]
fn servers_killed_at_random_for_long_lose_nothing_and_gather_nothing() {
    let minutes =
        std::env::var("SOAK_MINUTES").map_or(MINUTES, |given| given.parse().expect("SOAK_MINUTES is a number"));
    let lasts = Duration::from_secs(60 * minutes);
    let scenario = Scenario::new("servers_killed_at_random_for_long_lose_nothing_and_gather_nothing", 111)
        .paced(PACE)
        .sealing_at(SEAL_AT);
    run(&scenario, async |cluster| {
        let (begun, mut tables, mut kills) = (Instant::now(), 0, 0);
        let mut before = Vec::new();
        for server in SPARED {
            before.push(held(cluster, server).await);
        }
        while begun.elapsed() < lasts {
            if begun.elapsed() >= lasts * tables / TABLES {
                tell(cluster, begun);
                tables += 1;
            }
            let victim = victim(cluster);
            cluster.kill(victim).await;
            kills += 1;
            let dead_for = cluster.chance.random_range(1..60);
            cluster.answers(dead_for).await;
            cluster.start_again(victim).await;
            let pause = cluster.chance.random_range(PAUSE_MS);
            cluster.last(pause).await;
        }
        cluster.ready().await;
        cluster.verdicts(20).await;
        tell(cluster, begun);
        for (server, before) in SPARED.into_iter().zip(before) {
            let after = held(cluster, server).await;
            cluster.terminate(server).await;
            cluster.start_again(server).await;
            cluster.ready().await;
            cluster.verdicts(20).await;
            let afresh = held(cluster, server).await;
            say(&format!("soak: {server}, spared: before {before}; after {after}; started anew {afresh}"));
            gathered_nothing(server, after, afresh);
        }
        format!("{minutes} min, {kills} kills")
    });
}

/// Panics if a server held more than its data needs.
fn gathered_nothing(server: Server, after: Held, afresh: Held) {
    let checks = [
        ("bytes of memory", after.memory_bytes, afresh.memory_bytes, MEMORY_SLACK_BYTES),
        ("handles", after.handles, afresh.handles, HANDLES_SLACK),
        ("bytes on disk", after.disk_bytes, afresh.disk_bytes, DISK_SLACK_BYTES),
    ];
    for (what, after, afresh, slack) in checks {
        assert!(after <= afresh + slack, "{server} held {after} {what}, and {afresh} when started anew");
    }
}

/// Anybody but those who are spared.
fn victim(cluster: &mut Cluster) -> Server {
    let others: Vec<Server> = Server::all().filter(|server| !SPARED.contains(server)).collect();
    others[cluster.chance.random_range(0..others.len())]
}
