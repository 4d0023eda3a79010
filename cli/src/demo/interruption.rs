//! Kills a node with SIGKILL while enrolments go on, starts it again, and waits until it has caught up.

use std::time::{Duration, Instant};

use semel_proto::v1::{GetClusterStatusResponse, ReplicaRole, ReplicaStatus};
use semel_sandbox::{Sandbox, SandboxError, wait_until};
use tokio::sync::watch;

/// The node that is killed.
const NODE: usize = 2;
/// Log entries behind the leader at which a replica counts as caught up while enrolments go on: what a fraction of a
/// second adds.
const CAUGHT_UP_LAG_MAX: u64 = 100;
/// How long the node stays dead at most, however slowly the others go on.
const DEAD_MAX: Duration = Duration::from_secs(15);
/// How long noticing and catching up may take.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);

/// What happened when.
pub(super) struct Interruption {
    /// Which node, counted from 1.
    pub(super) node: usize,
    pub(super) killed: Instant,
    pub(super) answered_before: usize,
    /// Shards that the node led when it was killed, and shards in all.
    pub(super) led: usize,
    pub(super) shards: usize,
    pub(super) restarted: Instant,
    pub(super) caught_up: Instant,
}

/// Kills the node once `kill_at` answers came, restarts it once `restart_at` came.
pub(super) async fn interrupt(
    sandbox: &Sandbox,
    mut answers: watch::Receiver<usize>,
    kill_at: usize,
    restart_at: usize,
    say: impl Fn(&str),
) -> anyhow::Result<Interruption> {
    let answered_before = *answers.wait_for(|count| *count >= kill_at).await?;
    let before = sandbox.status().await?;
    let killed = Instant::now();
    sandbox.kill_node(NODE).await?;
    say(&format!("killed node {} of {} with SIGKILL after {answered_before} answers", NODE + 1, before.nodes.len()));
    let dead = wait_until("the coordinator to miss the killed node", NOTICED_WITHIN, async || {
        let status = sandbox.status().await.map_err(|error| error.to_string())?;
        let dead = status.nodes.iter().find(|node| !node.live).map(|node| node.node_id.clone());
        dead.ok_or_else(|| "every node is live".to_owned())
    })
    .await?;
    let led = replicas_of(&before, &dead).filter(|replica| replica.role() == ReplicaRole::Leader).count();

    let enough = answers.wait_for(|count| *count >= restart_at);
    // Too slow is not an error here: the report shows how slow it was.
    let _ = tokio::time::timeout_at((killed + DEAD_MAX).into(), enough).await;
    sandbox.restart_node(NODE).await?;
    let restarted = Instant::now();
    say(&format!("started node {} again after {:.1} s", NODE + 1, (restarted - killed).as_secs_f64()));
    wait_caught_up(sandbox, &dead).await?;
    let caught_up = Instant::now();
    say(&format!("node {} caught up after {:.1} s", NODE + 1, (caught_up - restarted).as_secs_f64()));
    Ok(Interruption { node: NODE + 1, killed, answered_before, led, shards: before.shards.len(), restarted, caught_up })
}

async fn wait_caught_up(sandbox: &Sandbox, node: &str) -> Result<(), SandboxError> {
    wait_until("the restarted node to catch up", CAUGHT_UP_WITHIN, async || {
        let status = sandbox.status().await.map_err(|error| error.to_string())?;
        let behind = replicas_of(&status, node)
            .filter(|replica| replica.role() == ReplicaRole::Unspecified || replica.lag > CAUGHT_UP_LAG_MAX)
            .count();
        if behind == 0 { Ok(()) } else { Err(format!("{behind} of its replicas are behind")) }
    })
    .await
}

fn replicas_of<'a>(status: &'a GetClusterStatusResponse, node: &'a str) -> impl Iterator<Item = &'a ReplicaStatus> {
    status.shards.iter().flat_map(|shard| &shard.replicas).filter(move |replica| replica.node_id == node)
}
