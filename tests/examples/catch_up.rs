//! How searches fare while a node that was away catches up by snapshot: their latencies beside those of the idle cluster.
//!
//! Prints the latencies of searches, one at a time, through the coordinator, before a third node returns that missed so many enrolments
//! of 512 dimensions, while it catches up, and afterwards. Needs the `semel` binary beside it, or named in SEMEL_BINARY:
//!
//! ```text
//! cargo build --workspace --release --locked --examples
//! target/release/examples/catch_up [ENROLMENTS, default 50000]
//! ```

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use semel_proto::v1::{GetClusterStatusResponse, IdentifyRequest, Modality, Policy, identify_response::Outcome};
use semel_sandbox::{Mode, Sandbox, requests};

const GALLERY: &str = "people";
const DIMENSION: u32 = 512;
const THRESHOLD: f64 = 0.6;
const SHARDS: u32 = 4;
/// Enrolments that wait for their verdicts at once.
const IN_FLIGHT: usize = 48;
/// Searches of the idle cluster.
const SEARCHES: usize = 400;
/// A node that has not caught up by then never will.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() {
    let enrolments = std::env::args().nth(1).map_or(50_000, |number| number.parse().expect("a number of enrolments"));
    let mode = Mode::child_processes().expect("the binary `semel` is beside this one, or named in SEMEL_BINARY");
    let builder = Sandbox::builder().mode(mode).shards(SHARDS);
    let builder = builder.node_settings(|node| node.log_entries_max = 2_000);
    let sandbox = builder.start().await.expect("the cluster starts");
    let policy =
        Policy { identification_allowed: true, ..requests::embedding_policy(Modality::Face, DIMENSION, THRESHOLD) };
    sandbox.galleries().create_gallery(requests::gallery(GALLERY, policy)).await.expect("the gallery is created");
    enrol(&sandbox, 0..1_000).await;
    sandbox.kill_node(2).await.expect("it runs");
    let begun = Instant::now();
    enrol(&sandbox, 1_000..1_000 + enrolments).await;
    println!(
        "{enrolments} enrolments of {DIMENSION} dimensions in {:.0} s, without the third node",
        begun.elapsed().as_secs_f64()
    );

    let mut idle = Vec::new();
    for number in 0..SEARCHES {
        idle.push(search(&sandbox, number as u64).await);
    }
    sandbox.restart_node(2).await.expect("it starts again");
    let begun = Instant::now();
    let (mut during, mut number) = (Vec::new(), 1_000_000);
    while !has_caught_up(&sandbox, enrolments).await {
        assert!(begun.elapsed() < CAUGHT_UP_WITHIN, "the node has not caught up");
        during.push(search(&sandbox, number).await);
        number += 1;
    }
    println!("caught up in {:.1} s", begun.elapsed().as_secs_f64());
    let mut after = Vec::new();
    for number in 0..SEARCHES {
        after.push(search(&sandbox, 2_000_000 + number as u64).await);
    }
    println!("{:>16} {:>9} {:>9} {:>9} {:>9}", "searches", "number", "p50 ms", "p99 ms", "max ms");
    for (name, mut latencies) in [("two nodes, idle", idle), ("catching up", during), ("three nodes", after)] {
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("{name:>16} {:>9} {:>9.1} {:>9.1} {:>9.1}", latencies.len(), at(0.5), at(0.99), at(1.0));
    }
}

/// Somebody nobody is like.
fn template(number: u64) -> Vec<f32> {
    let mut chance = ChaCha8Rng::seed_from_u64(number);
    (0..DIMENSION).map(|_| chance.random_range(-1.0..1.0)).collect()
}

async fn enrol(sandbox: &Sandbox, numbers: std::ops::Range<u64>) {
    let client = sandbox.enrolments();
    let enrolled = futures::stream::iter(numbers).map(|number| {
        let mut client = client.clone();
        async move {
            let request = requests::face_enrolment(GALLERY, &format!("e-{number}"), &template(number));
            // The same request again gets the same answer, so whatever went wrong is tried again.
            while let Err(status) = client.enrol(request.clone()).await {
                assert!(status.code() != tonic::Code::InvalidArgument, "{status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    enrolled.buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
}

/// How long one complete search takes.
async fn search(sandbox: &Sandbox, number: u64) -> Duration {
    let request = IdentifyRequest {
        gallery: GALLERY.to_owned(),
        references: vec![requests::embedding_reference(Modality::Face, &template(u64::MAX - number))],
        purpose: "measurement".to_owned(),
        ..Default::default()
    };
    let begun = Instant::now();
    let answer = sandbox.identification().identify(request).await.expect("an answer").into_inner();
    assert!(matches!(answer.outcome, Some(Outcome::Complete(_))), "every shard answers");
    begun.elapsed()
}

/// Whether the returned node has everything in its catalogues.
async fn has_caught_up(sandbox: &Sandbox, enrolments: u64) -> bool {
    let address = sandbox.node_address(2).await.expect("there are three").to_string();
    let status: GetClusterStatusResponse = sandbox.status().await.expect("the coordinator answers");
    let Some(node) = status.nodes.iter().find(|node| node.address == address && node.live) else { return false };
    let replicas = status.shards.iter().flat_map(|shard| &shard.replicas);
    let own: Vec<_> = replicas.filter(|replica| replica.node_id == node.node_id).collect();
    let references: u64 = own.iter().map(|replica| replica.references).sum();
    references >= enrolments && own.iter().all(|replica| replica.lag == 0)
}
