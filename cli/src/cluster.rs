//! `semel cluster`: replicas that move between nodes, nodes that go, and coordinators whose volume was lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use semel_client::{CallError, Client};
use semel_files::names;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_proto::v1::{
    CancelMoveRequest, CancelReplacementRequest, CoordinatorStatus, DrainNodeRequest, DrainNodeResponse,
    ListMovesRequest, MoveReplicaRequest, RemoveNodeRequest, ReplaceCoordinatorRequest, ReplicaMove,
};
use serde_json::json;

use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{EXIT_CODES, Exit};
use crate::output::{self, Output, grouped};

/// The pause between two looks at what is under way.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the cluster may answer nothing before waiting is given up; what is under way goes on.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// Digits of a node's id that tell the nodes of one cluster apart.
const ID_DIGITS: usize = 8;

/// Moves replicas between nodes, empties and removes nodes, replaces coordinators.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ClusterArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Move(MoveArguments),
    Moves(MovesArguments),
    Drain(DrainArguments),
    RemoveNode(RemoveNodeArguments),
    ReplaceCoordinator(ReplaceCoordinatorArguments),
}

/// Moves a shard's replica from one node to another, or gives a move up.
#[derive(Debug, Args)]
#[command(
    long_about = "Moves a shard's replica from one node to another while the shard serves, and waits until it is there. A new replica \
        is brought up to date beside the others, takes the old one's place in one step, and the old one's rows are removed. The \
        cluster carries the move out by itself: interrupted, this command can be given again.\n\nA node is named by its address, or by \
        the first digits of its id (at least 4) as `semel status` shows them.",
    after_help = format!("\
Examples:
    semel cluster move --shard 3 --from 9c06be4a --to node-4:7411
    semel cluster move --shard 3 --cancel

{EXIT_CODES}")
)]
struct MoveArguments {
    /// The shard.
    #[arg(long, value_name = "N")]
    shard: u32,
    /// The node that the replica leaves; it may be dead.
    #[arg(long, value_name = "NODE", required_unless_present = "cancel")]
    from: Option<String>,
    /// The node that it comes to.
    #[arg(long, value_name = "NODE", required_unless_present = "cancel")]
    to: Option<String>,
    /// Gives up the shard's move, unless the new replica has the old one's place by then.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    cancel: bool,
    /// Returns as soon as the move has begun.
    #[arg(long, conflicts_with = "cancel")]
    no_wait: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Lists the moves that are under way.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
struct MovesArguments {
    #[command(flatten)]
    client: ClientArguments,
}

/// Moves everything that a node holds to other nodes.
#[derive(Debug, Args)]
#[command(
    long_about = "Moves every replica of a node to other nodes, a few at a time, and waits until none is left. The node may be dead or \
        its volume lost, as long as every shard has a majority. Interrupted, the command can be given again: it goes on from what is \
        left.",
    after_help = format!("\
Example, for a node whose volume was lost (it is back as a new node, the old one is 9c06be4a):
    semel cluster drain 9c06be4a
    semel cluster remove-node 9c06be4a

{EXIT_CODES}")
)]
struct DrainArguments {
    /// The node: its address, or at least 4 digits of its id.
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    client: ClientArguments,
}

/// Makes the cluster forget a node.
#[derive(Debug, Args)]
#[command(
    long_about = "Makes the cluster forget a node that is stopped and holds nothing that a shard counts on (see `semel cluster drain`). \
        Its id is never used again.",
    after_help = EXIT_CODES
)]
struct RemoveNodeArguments {
    /// The node: its address, or at least 4 digits of its id.
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    client: ClientArguments,
}

/// Lets an empty folder take the place of the volume that a coordinator lost.
#[derive(Debug, Args)]
#[command(
    long_about = "Lets an empty folder take the place of the volume that a coordinator lost, and waits until it votes. Start the \
        coordinator on an empty folder first, with the same settings and at the same address: it waits, and `semel status` says so. \
        It is brought up to date beside the others and takes the place of what was lost in one step, under an id that is new; what was \
        lost never comes back. The coordinators carry it out by themselves, as long as a majority of them lives: interrupted, this \
        command can be given again.\n\nRestore the volume instead where that is possible. A copy of an older state is no such volume.",
    after_help = format!("\
Examples:
    semel cluster replace-coordinator 2
    semel cluster replace-coordinator 2 --cancel

{EXIT_CODES}")
)]
struct ReplaceCoordinatorArguments {
    /// The coordinator: its number among the voters.
    #[arg(value_name = "N")]
    coordinator: u64,
    /// Gives the replacement up, unless the new volume votes by then.
    #[arg(long)]
    cancel: bool,
    /// Returns as soon as the replacement has begun.
    #[arg(long, conflicts_with = "cancel")]
    no_wait: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Runs `semel cluster`.
pub(crate) async fn run(arguments: ClusterArguments) -> anyhow::Result<Exit> {
    match arguments.command {
        Command::Move(arguments) if arguments.cancel => cancel(arguments).await,
        Command::Move(arguments) => move_replica(arguments).await,
        Command::Moves(arguments) => moves(arguments).await,
        Command::Drain(arguments) => drain(arguments).await,
        Command::RemoveNode(arguments) => remove_node(arguments).await,
        Command::ReplaceCoordinator(arguments) if arguments.cancel => cancel_replacement(arguments).await,
        Command::ReplaceCoordinator(arguments) => replace_coordinator(arguments).await,
    }
}

async fn cancel(arguments: MoveArguments) -> anyhow::Result<Exit> {
    let client = arguments.client.client()?;
    let request = CancelMoveRequest { shard: arguments.shard };
    client
        .call(request, |channel, request| async move { ClusterServiceClient::new(channel).cancel_move(request).await })
        .await?;
    match arguments.client.output {
        Output::Table => {
            output::line(format!("shard {}: no replica moves, or its move is being given up", arguments.shard))
        }
        Output::Json => output::json(&json!({ "shard": arguments.shard, "given_up": true }))?,
    }
    Ok(Exit::Done)
}

async fn move_replica(arguments: MoveArguments) -> anyhow::Result<Exit> {
    let MoveArguments { shard, from, to, no_wait, client: options, .. } = arguments;
    let client = options.client()?;
    let (from_node, to_node) = from.zip(to).context("both nodes are required")?;
    let request = MoveReplicaRequest { shard, from_node, to_node };
    let begun = client
        .call(request, |channel, request| async move { ClusterServiceClient::new(channel).move_replica(request).await })
        .await?;
    let begun = begun.r#move.context("the coordinator told of no move")?;
    let mut watch = Watch::new(options.output);
    watch.show(std::slice::from_ref(&begun));
    if !no_wait {
        wait_until_gone(&client, &mut watch, &begun).await?;
        if !is_there(&client, &begun).await? {
            anyhow::bail!(
                "the move of shard {shard} was given up; `semel status --shards` shows where its replicas are"
            );
        }
    }
    match options.output {
        Output::Table if no_wait => {
            output::line("the cluster carries the move out; `semel cluster moves` shows how far it is")
        }
        Output::Table => output::line(format!("shard {shard}: moved to {}", short(&begun.to_node))),
        Output::Json => output::json(&document::replica_move(&begun))?,
    }
    Ok(Exit::Done)
}

async fn moves(arguments: MovesArguments) -> anyhow::Result<Exit> {
    let client = arguments.client.client()?;
    let moves = under_way(&client).await?;
    match arguments.client.output {
        Output::Json => output::json(&moves.iter().map(document::replica_move).collect::<Vec<_>>())?,
        Output::Table if moves.is_empty() => output::line("no replica is being moved"),
        Output::Table => {
            let mut table = output::table(["shard", "from", "to", "state", "lag"]);
            for moving in &moves {
                table.add_row([
                    moving.shard.to_string(),
                    short(&moving.from_node).to_owned(),
                    short(&moving.to_node).to_owned(),
                    names::move_state(moving.state()),
                    grouped(moving.lag),
                ]);
            }
            table.show();
        }
    }
    Ok(Exit::Done)
}

async fn drain(arguments: DrainArguments) -> anyhow::Result<Exit> {
    let client = arguments.client.client()?;
    let mut watch = Watch::new(arguments.client.output);
    let mut patience = Patience::new();
    let mut node = arguments.node.clone();
    loop {
        let request = DrainNodeRequest { node: node.clone() };
        let answer = client
            .call(
                request,
                |channel, request| async move { ClusterServiceClient::new(channel).drain_node(request).await },
            )
            .await;
        if let Some(DrainNodeResponse { node_id, replicas_left, moves }) = patience.bear(answer)? {
            // From now on the same one, whoever takes its address.
            node.clone_from(&node_id);
            if replicas_left == 0 {
                match arguments.client.output {
                    Output::Table => output::line(format!("node {} holds nothing any more", short(&node_id))),
                    Output::Json => output::json(&json!({ "node_id": node_id, "replicas_left": 0 }))?,
                }
                return Ok(Exit::Done);
            }
            watch.left(replicas_left);
            watch.show(&moves);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn remove_node(arguments: RemoveNodeArguments) -> anyhow::Result<Exit> {
    let client = arguments.client.client()?;
    let request = RemoveNodeRequest { node: arguments.node };
    let node_id = client
        .call(request, |channel, request| async move { ClusterServiceClient::new(channel).remove_node(request).await })
        .await?
        .node_id;
    match arguments.client.output {
        Output::Table => output::line(format!("node {} is forgotten", short(&node_id))),
        Output::Json => output::json(&json!({ "node_id": node_id }))?,
    }
    Ok(Exit::Done)
}

async fn replace_coordinator(arguments: ReplaceCoordinatorArguments) -> anyhow::Result<Exit> {
    let ReplaceCoordinatorArguments { coordinator, no_wait, client: options, .. } = arguments;
    let client = options.client()?;
    let begun = client
        .call(ReplaceCoordinatorRequest { coordinator }, |channel, request| async move {
            ClusterServiceClient::new(channel).replace_coordinator(request).await
        })
        .await?;
    let (from, to) = (begun.from_replica, begun.to_replica);
    if let Output::Table = options.output {
        output::line(format!(
            "coordinator {coordinator}: replica {to} is brought up to date to take the place of {from}"
        ));
    }
    if !no_wait && wait_until_replaced(&client, coordinator, to).await?.replica != to {
        anyhow::bail!("the replacement of coordinator {coordinator}'s volume was given up");
    }
    match options.output {
        Output::Table if no_wait => output::line("the coordinators carry it out; `semel status` shows how far it is"),
        Output::Table => output::line(format!("coordinator {coordinator}: replica {to} votes in the place of {from}")),
        Output::Json => {
            output::json(&json!({ "coordinator": coordinator, "from_replica": from, "to_replica": to }))?;
        }
    }
    Ok(Exit::Done)
}

async fn cancel_replacement(arguments: ReplaceCoordinatorArguments) -> anyhow::Result<Exit> {
    let ReplaceCoordinatorArguments { coordinator, client: options, .. } = arguments;
    options
        .client()?
        .call(CancelReplacementRequest { coordinator }, |channel, request| async move {
            ClusterServiceClient::new(channel).cancel_replacement(request).await
        })
        .await?;
    match options.output {
        Output::Table => {
            output::line(format!(
                "coordinator {coordinator}: nothing is replaced, or its replacement is being given up"
            ));
        }
        Output::Json => output::json(&json!({ "coordinator": coordinator, "given_up": true }))?,
    }
    Ok(Exit::Done)
}

/// What the status says of a coordinator once the replacement by a replica is over.
async fn wait_until_replaced(client: &Client, coordinator: u64, to: u64) -> anyhow::Result<CoordinatorStatus> {
    let mut patience = Patience::new();
    // Whoever answers may be behind the one that began it: over is what was under way before, or has the replica in its place.
    let (began, mut seen) = (tokio::time::Instant::now(), false);
    loop {
        if let Some(status) = patience.bear(client.status().await)? {
            let found = status.coordinators.into_iter().find(|found| found.coordinator == coordinator);
            let found = found.with_context(|| format!("the status names no coordinator {coordinator}"))?;
            if found.waits && found.joining_replica == to && !found.cancelling {
                anyhow::bail!(
                    "the folder that was let in as replica {to} is lost too, and another empty one waits. Give the replacement up with \
                     --cancel, and begin it anew once `semel status` says that the folder waits"
                );
            }
            seen |= found.joining_replica == to || began.elapsed() > SILENT_MAX;
            if found.replica == to || (seen && found.joining_replica != to) {
                return Ok(found);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn under_way(client: &Client) -> Result<Vec<ReplicaMove>, CallError> {
    let moves = client
        .call(ListMovesRequest {}, |channel, request| async move {
            ClusterServiceClient::new(channel).list_moves(request).await
        })
        .await?;
    Ok(moves.moves)
}

async fn wait_until_gone(client: &Client, watch: &mut Watch, begun: &ReplicaMove) -> anyhow::Result<()> {
    let mut patience = Patience::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(moves) = patience.bear(under_way(client).await)? else { continue };
        let moving: Vec<_> = moves.into_iter().filter(|moving| moving.to_replica == begun.to_replica).collect();
        if moving.is_empty() {
            return Ok(());
        }
        watch.show(&moving);
    }
}

/// Whether the map has the new replica where it was to come.
async fn is_there(client: &Client, begun: &ReplicaMove) -> anyhow::Result<bool> {
    let status = client.status().await?;
    let shard = status.shards.iter().find(|shard| shard.shard == begun.shard);
    Ok(shard.is_some_and(|shard| shard.replicas.iter().any(|replica| replica.replica == begun.to_replica)))
}

/// Bears a coordinator that is silent for a while.
struct Patience {
    heard: tokio::time::Instant,
}

impl Patience {
    fn new() -> Self {
        Self { heard: tokio::time::Instant::now() }
    }

    fn bear<T>(&mut self, answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
        match answer {
            Ok(answer) => {
                self.heard = tokio::time::Instant::now();
                Ok(Some(answer))
            }
            Err(failed) if failed.may_succeed_later() && self.heard.elapsed() < SILENT_MAX => Ok(None),
            Err(failed) => Err(failed),
        }
    }
}

/// Tells of every change, once, to people.
struct Watch {
    output: Output,
    told: BTreeMap<u64, String>,
    left: Option<u32>,
}

impl Watch {
    fn new(output: Output) -> Self {
        Self { output, told: BTreeMap::new(), left: None }
    }

    fn show(&mut self, moves: &[ReplicaMove]) {
        for moving in moves {
            let state = names::move_state(moving.state());
            if self.told.get(&moving.to_replica) == Some(&state) {
                continue;
            }
            let (from, to) = (short(&moving.from_node), short(&moving.to_node));
            self.tell(format!(
                "shard {}: from {from} to {to}: {state}, {} entries behind",
                moving.shard,
                grouped(moving.lag)
            ));
            self.told.insert(moving.to_replica, state);
        }
    }

    fn left(&mut self, left: u32) {
        if self.left != Some(left) {
            self.left = Some(left);
            self.tell(format!("{left} replicas left"));
        }
    }

    fn tell(&self, text: String) {
        match self.output {
            Output::Table => output::line(output::escaped(&text)),
            Output::Json => {}
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..ID_DIGITS).unwrap_or(id)
}
