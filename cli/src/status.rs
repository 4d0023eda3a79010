//! `semel status`: nodes, shards, replicas, counts.

use std::collections::HashMap;

use clap::Args;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_proto::v1::{GetClusterStatusRequest, GetClusterStatusResponse, ReplicaRole, ReplicaStatus, ShardStatus};

use crate::connect::{CallFailed, ClientArguments};
use crate::exit::{EXIT_CODES, Exit};
use crate::output::{self, Output, grouped};
use crate::{document, names};

/// Digits of a node's id that tell the nodes of one cluster apart.
const ID_DIGITS: usize = 8;

/// Shows the state of the cluster.
#[derive(Debug, Args)]
#[command(
    long_about = "Shows the state of the cluster as the answering coordinator knows it: nodes, shards with their leaders and \
        the lag of their replicas, and the counts of every gallery.\n\nExits with 3 while the cluster is not ready (some \
        shard has no leader), so scripts can wait for it.",
    after_help = EXIT_CODES
)]
pub(crate) struct StatusArguments {
    /// Also shows every shard with its replicas.
    #[arg(long)]
    shards: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Runs `semel status`.
pub(crate) async fn run(arguments: StatusArguments) -> anyhow::Result<Exit> {
    let mut client = ClusterServiceClient::new(arguments.client.connect().await?);
    let answer = client.get_cluster_status(GetClusterStatusRequest {}).await.map_err(CallFailed::from)?;
    let status = answer.into_inner();
    match arguments.client.output {
        Output::Json => output::json(&document::status(&status))?,
        Output::Table => show(&status, arguments.shards),
    }
    Ok(if status.ready { Exit::Done } else { Exit::Unavailable })
}

fn show(status: &GetClusterStatusResponse, shards: bool) {
    let leaderless = status.shards.iter().filter(|shard| leader(shard).is_none()).count();
    let state = match (status.ready, status.shards.is_empty()) {
        (true, _) => "ready".to_owned(),
        (false, true) => format!("not ready: waits for {} nodes", status.replicas_per_shard),
        (false, false) => format!("not ready: {leaderless} of {} shards have no leader", status.shards.len()),
    };
    output::line(format!("cluster {}: {state}", short(&status.cluster_id)));
    let mut table = output::table(["coordinator", "address", "leads"]);
    for each in &status.coordinators {
        table.add_row([each.coordinator.to_string(), each.address.clone(), yes(each.leader)]);
    }
    output::line(table);
    show_nodes(status);
    if shards {
        show_shards(status);
    }
    if !status.galleries.is_empty() {
        let mut table = output::table(["gallery", "live", "withdrawn", "pending", "cases"]);
        for gallery in &status.galleries {
            let counts = [gallery.live, gallery.withdrawn, gallery.pending, gallery.cases].map(grouped);
            table.add_row([gallery.gallery.clone()].into_iter().chain(counts));
        }
        output::line(table);
    }
}

fn show_nodes(status: &GetClusterStatusResponse) {
    let mut replicas: HashMap<&str, Vec<&ReplicaStatus>> = HashMap::new();
    for replica in status.shards.iter().flat_map(|shard| &shard.replicas) {
        replicas.entry(&replica.node_id).or_default().push(replica);
    }
    let mut table =
        output::table(["node", "address", "live", "replicas", "leads", "lag max", "references", "memory", "version"]);
    for node in &status.nodes {
        let hosted = replicas.get(node.node_id.as_str()).map_or(&[][..], Vec::as_slice);
        let leads = hosted.iter().filter(|replica| replica.role() == ReplicaRole::Leader).count();
        let lag = hosted.iter().map(|replica| replica.lag).max().unwrap_or(0);
        let references = hosted.iter().map(|replica| replica.references).sum();
        let bytes: u64 = hosted.iter().map(|replica| replica.catalogue_bytes).sum();
        table.add_row([
            short(&node.node_id).to_owned(),
            node.address.clone(),
            yes(node.live),
            hosted.len().to_string(),
            leads.to_string(),
            grouped(lag),
            grouped(references),
            format!("{} MiB", bytes.div_ceil(1 << 20)),
            node.version.clone(),
        ]);
    }
    output::line(table);
}

fn show_shards(status: &GetClusterStatusResponse) {
    let mut table = output::table(["shard", "leader", "replicas (node: role, applied, lag)", "pending", "obligations"]);
    for shard in &status.shards {
        let replicas: Vec<String> = shard
            .replicas
            .iter()
            .map(|replica| {
                let stopped = if replica.stopped_reason.is_empty() { "" } else { ", stopped: " };
                format!(
                    "{}: {}, {}, {}{stopped}{}",
                    short(&replica.node_id),
                    names::role(replica.role()),
                    replica.applied_index,
                    replica.lag,
                    replica.stopped_reason
                )
            })
            .collect();
        table.add_row([
            shard.shard.to_string(),
            leader(shard).map_or("none", |replica| short(&replica.node_id)).to_owned(),
            replicas.join("\n"),
            shard.pending.to_string(),
            shard.obligations.to_string(),
        ]);
    }
    output::line(table);
}

fn leader(shard: &ShardStatus) -> Option<&ReplicaStatus> {
    shard.replicas.iter().find(|replica| replica.role() == ReplicaRole::Leader)
}

fn short(id: &str) -> &str {
    id.get(..ID_DIGITS).unwrap_or(id)
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
