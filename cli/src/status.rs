//! `semel status`: nodes, shards, replicas, counts; once, or again and again with `--watch`.

mod rates;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use clap::Args;
use semel_files::names;
use semel_proto::v1::{
    CoordinatorStatus, GalleryCounts, GetClusterStatusResponse, ReplicaRole, ReplicaStatus, ShardStatus,
};

use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{EXIT_CODES, Exit};
use crate::output::{self, Cell, Output, Page, grouped};

/// Digits of a node's id that tell the nodes of one cluster apart.
const ID_DIGITS: usize = 8;

/// Shows the state of the cluster.
#[derive(Debug, Args)]
#[command(
    long_about = "Shows the state of the cluster as the answering coordinator knows it: nodes, shards with their leaders and \
        the lag of their replicas, and the counts of every gallery.\n\nExits with 3 while the cluster is not ready (some \
        shard has no leader), so scripts can wait for it.\n\nWith --watch it looks again and again until Ctrl-C, with the \
        rates of the last ten seconds, and asks whichever coordinator answers: a page that is drawn anew on a terminal, a line \
        for each look elsewhere, a JSON document on a line of its own with --output json.",
    after_help = format!("\
Examples:
    semel status --shards
    semel status --watch --address coordinator-1:7400,coordinator-2:7400,coordinator-3:7400

{EXIT_CODES}")
)]
pub(crate) struct StatusArguments {
    /// Also shows every shard with its replicas.
    #[arg(long)]
    shards: bool,
    /// Looks every so many seconds, 0.1 to 3600, until Ctrl-C. [default with --watch alone: 2]
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = watch_interval
    )]
    watch: Option<Duration>,
    #[command(flatten)]
    client: ClientArguments,
}

fn watch_interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.1..=3_600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} is outside 0.1 to 3600 seconds"))
    }
}

/// Runs `semel status`.
pub(crate) async fn run(arguments: StatusArguments) -> anyhow::Result<Exit> {
    if let Some(every) = arguments.watch {
        return watch::run(arguments.client, every, arguments.shards).await;
    }
    let status = arguments.client.client()?.status().await?;
    match arguments.client.output {
        Output::Json => output::json(&document::status(&status))?,
        Output::Table => page(&status, arguments.shards).show(),
    }
    Ok(if status.ready { Exit::Done } else { Exit::Unavailable })
}

fn page(status: &GetClusterStatusResponse, shards: bool) -> Page {
    let mut page = Page::default();
    page.line(headline(status));
    let mut table = output::table(["coordinator", "address", "leads"]);
    for each in &status.coordinators {
        table.add_row([each.coordinator.to_string(), each.address.clone(), yes(each.leader)]);
    }
    page.table(&table);
    for line in status.coordinators.iter().filter_map(replaced_line) {
        page.line(line);
    }
    add_nodes(&mut page, status);
    if shards {
        add_shards(&mut page, status);
    }
    add_galleries(&mut page, status);
    page
}

/// What there is to say of a coordinator whose volume was lost.
fn replaced_line(coordinator: &CoordinatorStatus) -> Option<String> {
    let CoordinatorStatus { coordinator: number, joining_replica, cancelling, waits, .. } = coordinator;
    match (joining_replica, cancelling, waits) {
        (0, _, false) => None,
        (0, _, true) => Some(format!(
            "coordinator {number} waits on an empty folder; restore its volume, or replace it: semel cluster replace-coordinator {number}"
        )),
        (replica, false, false) => {
            Some(format!("coordinator {number}: its volume is being replaced, replica {replica} is brought up to date"))
        }
        (replica, false, true) => Some(format!(
            "coordinator {number}: the folder that was let in as replica {replica} is lost too, and another empty one waits; give the \
             replacement up and begin it anew: semel cluster replace-coordinator {number} --cancel"
        )),
        (replica, true, _) => Some(format!(
            "coordinator {number}: the replacement of its volume was given up, replica {replica} is removed"
        )),
    }
}

fn headline(status: &GetClusterStatusResponse) -> String {
    format!("cluster {}: {}", output::escaped(short(&status.cluster_id)), state(status))
}

fn add_galleries(page: &mut Page, status: &GetClusterStatusResponse) {
    if !status.galleries.is_empty() {
        let mut table = output::table(["gallery", "live", "withdrawn", "pending", "cases"]);
        for gallery in &status.galleries {
            let counts = [gallery.live, gallery.withdrawn, gallery.pending, gallery.cases].map(grouped);
            table.add_row([gallery.gallery.clone()].into_iter().chain(counts));
        }
        page.table(&table);
    }
    for line in status.galleries.iter().filter_map(untold_line) {
        page.line(line);
    }
    for line in unsealed_lines(status) {
        page.line(line);
    }
}

/// What there is to say of a gallery some of whose replicas know an older policy alone.
fn untold_line(gallery: &GalleryCounts) -> Option<String> {
    let GalleryCounts { policy_version, policy_version_told: told, .. } = gallery;
    (told < policy_version).then(|| {
        let name = output::escaped(&gallery.gallery);
        format!("gallery {name}: version {policy_version} of its policy has not reached every live replica yet; what waits for its engine is told then")
    })
}

/// One line for each gallery and engine that needs more references than replicas have.
fn unsealed_lines(status: &GetClusterStatusResponse) -> Vec<String> {
    let mut waiting: BTreeMap<(&str, &str, u64), (u64, u64)> = BTreeMap::new();
    for one in replicas(status).flat_map(|replica| &replica.unsealed) {
        let (replicas, references) = waiting.entry((&one.gallery, &one.engine, one.references_min)).or_default();
        (*replicas, *references) = (*replicas + 1, *references + one.references);
    }
    let line = |((gallery, engine, references_min), (replicas, references)): ((&str, &str, u64), (u64, u64))| {
        let (gallery, engine) = (output::escaped(gallery), output::escaped(engine));
        let references = counted(references, "reference", "references");
        let (replicas, needs) = (counted(replicas, "replica", "replicas"), needs(&engine, references_min));
        let wait = if references_min == u64::MAX { "" } else { ", or wait for more" };
        format!(
            "gallery {gallery}: {references} of {replicas} in no sealed segment, compared one by one: {needs}; name another engine \
             (semel gallery update {gallery} --engine ENGINE){wait}"
        )
    };
    waiting.into_iter().map(line).collect()
}

/// How many references of one kind an engine needs.
fn needs(engine: &str, references_min: u64) -> String {
    match references_min {
        u64::MAX => format!("{engine} takes none of their dimension"),
        _ => format!("{engine} needs {} for a segment", grouped(references_min)),
    }
}

/// `1 segment`, `1,234 segments`.
fn counted(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { several })
}

/// How the cluster is, in a few words.
fn state(status: &GetClusterStatusResponse) -> String {
    let leaderless = status.shards.iter().filter(|shard| leader(shard).is_none()).count();
    let whole = replicas(status).all(|replica| !is_stopped(replica)) && status.nodes.iter().all(|node| node.live);
    match (status.ready, status.shards.is_empty()) {
        (true, _) if whole => "ready".to_owned(),
        (true, _) => "ready, with reduced redundancy".to_owned(),
        (false, true) => format!("not ready: waits for {} nodes", status.replicas_per_shard),
        (false, false) if leaderless == 0 => {
            let all = status.coordinators.len();
            format!(
                "not ready: the coordinators have no leader; {} of {all} must run and reach each other",
                all / 2 + 1
            )
        }
        (false, false) => format!("not ready: {leaderless} of {} shards have no leader", status.shards.len()),
    }
}

/// One line for each node and reason for which replicas stopped there.
fn stopped_lines(status: &GetClusterStatusResponse) -> Vec<String> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for replica in replicas(status).filter(|replica| is_stopped(replica)) {
        *counts.entry((&replica.node_id, &replica.stopped_reason)).or_default() += 1;
    }
    let line = |((node, reason), count): ((&str, &str), usize)| {
        let replicas = counted(count as u64, "replica", "replicas");
        let reason = if reason.is_empty() { "no reason given".to_owned() } else { output::escaped(reason) };
        let node = output::escaped(short(node));
        format!(
            "node {node}: {replicas} stopped: {reason}; mend the cause (a full disk needs room) and restart the node"
        )
    };
    counts.into_iter().map(line).collect()
}

fn add_nodes(page: &mut Page, status: &GetClusterStatusResponse) {
    let mut by_node: HashMap<&str, Vec<&ReplicaStatus>> = HashMap::new();
    for replica in replicas(status) {
        by_node.entry(&replica.node_id).or_default().push(replica);
    }
    let mut table = output::table([
        "node",
        "address",
        "live",
        "replicas",
        "stopped",
        "leads",
        "lag max",
        "references",
        "catalogue",
        "memory",
        "engines (segments)",
        "version",
    ]);
    for node in &status.nodes {
        let hosted = by_node.get(node.node_id.as_str()).map_or(&[][..], Vec::as_slice);
        let leads = hosted.iter().filter(|replica| replica.role() == ReplicaRole::Leader).count();
        let stopped = hosted.iter().filter(|replica| is_stopped(replica)).count();
        let lag = hosted.iter().map(|replica| replica.lag).max().unwrap_or(0);
        let references = hosted.iter().map(|replica| replica.references).sum();
        let bytes: u64 = hosted.iter().map(|replica| replica.catalogue_bytes).sum();
        table.add_row([
            short(&node.node_id).to_owned(),
            node.address.clone(),
            yes(node.live),
            hosted.len().to_string(),
            stopped.to_string(),
            leads.to_string(),
            grouped(lag),
            grouped(references),
            mebibytes(bytes),
            mebibytes(node.resident_bytes),
            engines(hosted),
            node.version.clone(),
        ]);
    }
    page.table(&table);
    let of_engines = missing_engine_lines(status).into_iter().chain(outdated_lines(status));
    for line in stopped_lines(status).into_iter().chain(of_engines) {
        page.line(line);
    }
}

/// What searches the sealed segments of a node, and how many.
fn engines(replicas: &[&ReplicaStatus]) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for engine in replicas.iter().flat_map(|replica| &replica.engines) {
        *counts.entry(&engine.engine).or_default() += engine.segments;
    }
    let count = |(engine, segments): (&str, u64)| {
        let engine = if engine.is_empty() { "none yet" } else { engine };
        format!("{} {}", output::escaped(engine), grouped(segments))
    };
    counts.into_iter().map(count).collect::<Vec<_>>().join(", ")
}

/// One line for each node and engine that policies name and the node does not have.
fn missing_engine_lines(status: &GetClusterStatusResponse) -> Vec<String> {
    let engines = replicas(status).flat_map(|replica| replica.engines.iter().map(move |engine| (replica, engine)));
    let missing = engines.filter(|(_, engine)| !engine.instead_of.is_empty());
    let missing: BTreeSet<(&str, &str)> =
        missing.map(|(replica, engine)| (replica.node_id.as_str(), engine.instead_of.as_str())).collect();
    let line = |(node, engine): (&str, &str)| {
        let (node, engine) = (output::escaped(short(node)), output::escaped(engine));
        format!(
            "node {node}: it does not have the engine {engine} that a policy names, and uses that of its settings; its log tells why"
        )
    };
    missing.into_iter().map(line).collect()
}

/// One line for each node, engine of sealed segments and engine that they are to be built with instead.
fn outdated_lines(status: &GetClusterStatusResponse) -> Vec<String> {
    let mut counts: BTreeMap<(&str, &str, &str, u64), u64> = BTreeMap::new();
    for replica in replicas(status) {
        for one in replica.engines.iter().filter(|one| !one.waits_for.is_empty()) {
            let key = (replica.node_id.as_str(), one.engine.as_str(), one.waits_for.as_str(), one.references_min);
            *counts.entry(key).or_default() += one.segments;
        }
    }
    let line = |((node, engine, waits_for, references_min), segments): ((&str, &str, &str, u64), u64)| {
        let [node, engine, waits_for] = [short(node), engine, waits_for].map(output::escaped);
        let segments = counted(segments, "segment", "segments");
        let but = if references_min == 0 {
            String::new()
        } else {
            format!("; {}, or name another engine (semel gallery update)", needs(&waits_for, references_min))
        };
        format!("node {node}: {segments} still of {engine}, waiting for {waits_for}{but}")
    };
    counts.into_iter().map(line).collect()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", grouped(bytes.div_ceil(1 << 20)))
}

fn add_shards(page: &mut Page, status: &GetClusterStatusResponse) {
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
            Cell::from(shard.shard.to_string()),
            leader(shard).map_or("none", |replica| short(&replica.node_id)).into(),
            Cell::lines(replicas),
            shard.pending.to_string().into(),
            shard.obligations.to_string().into(),
        ]);
    }
    page.table(&table);
}

fn replicas(status: &GetClusterStatusResponse) -> impl Iterator<Item = &ReplicaStatus> {
    status.shards.iter().flat_map(|shard| &shard.replicas)
}

fn is_stopped(replica: &ReplicaStatus) -> bool {
    replica.role() == ReplicaRole::Stopped
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

#[cfg(test)]
mod tests {
    use semel_proto::v1::{EngineStatus, NodeStatus, UnsealedStatus};

    use super::*;

    fn replica(role: ReplicaRole, reason: &str) -> ReplicaStatus {
        let node_id = "9c06be4a00000000".to_owned();
        ReplicaStatus { node_id, role: role.into(), stopped_reason: reason.to_owned(), ..Default::default() }
    }

    fn cluster(replicas: Vec<ReplicaStatus>, live: bool) -> GetClusterStatusResponse {
        GetClusterStatusResponse {
            ready: true,
            nodes: vec![NodeStatus { live, ..Default::default() }],
            shards: vec![ShardStatus { replicas, ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn a_cluster_that_lost_replicas_is_not_plainly_ready() {
        let leader = || replica(ReplicaRole::Leader, "");
        assert_eq!(state(&cluster(vec![leader()], true)), "ready");
        for reduced in
            [cluster(vec![leader()], false), cluster(vec![leader(), replica(ReplicaRole::Stopped, "")], true)]
        {
            assert_eq!(state(&reduced), "ready, with reduced redundancy");
        }
    }

    #[test]
    fn engines_are_counted_and_missing_ones_told_once() {
        let engine = |name: &str, segments, instead_of: &str| EngineStatus {
            engine: name.to_owned(),
            segments,
            instead_of: instead_of.to_owned(),
            ..Default::default()
        };
        let with = |engines| ReplicaStatus { engines, ..replica(ReplicaRole::Follower, "") };
        let some = with(vec![engine("", 1, ""), engine("exact", 2, "")]);
        let more = with(vec![engine("exact", 1_998, "faiss"), engine("sketch", 3, "faiss")]);
        assert_eq!(engines(&[&some, &more]), "none yet 1, exact 2,000, sketch 3");
        let line = "node 9c06be4a: it does not have the engine faiss that a policy names, and uses that of its settings; its log tells why";
        assert_eq!(missing_engine_lines(&cluster(vec![some, more], true)), [line]);
    }

    /// A replica that waited for its engine once looked like one that was done.
    #[test]
    fn segments_that_wait_for_an_engine_are_told_by_node() {
        let engine = |name: &str, segments, waits_for: &str, references_min| EngineStatus {
            engine: name.to_owned(),
            segments,
            waits_for: waits_for.to_owned(),
            references_min,
            ..Default::default()
        };
        let with = |engines| ReplicaStatus { engines, ..replica(ReplicaRole::Follower, "") };
        let some =
            with(vec![engine("", 1, "", 0), engine("exact", 2, "", 0), engine("faiss:PQ128x4fs", 1, "exact", 0)]);
        let more = with(vec![engine("faiss:PQ128x4fs", 2, "exact", 0)]);
        let few = with(vec![engine("sketch", 1_998, "faiss:IVF4096,Flat", 159_744)]);
        let expected = [
            "node 9c06be4a: 3 segments still of faiss:PQ128x4fs, waiting for exact",
            "node 9c06be4a: 1,998 segments still of sketch, waiting for faiss:IVF4096,Flat; faiss:IVF4096,Flat needs 159,744 for a segment, or name another engine (semel gallery update)",
        ];
        let status = cluster(vec![some, more, few], true);
        assert_eq!(outdated_lines(&status), expected);
        let mut page = Page::default();
        add_nodes(&mut page, &status);
        assert!(expected.iter().all(|line| page.lines().any(|found| found == *line)));
    }

    /// For a moment after a new policy, nothing once said that segments were of an older one's engine.
    #[test]
    fn a_policy_that_has_not_reached_every_replica_is_told() {
        let gallery = |told| GalleryCounts {
            gallery: "people".to_owned(),
            policy_version: 3,
            policy_version_told: told,
            ..Default::default()
        };
        let line = "gallery people: version 3 of its policy has not reached every live replica yet; what waits for its engine is told then";
        for (told, lines) in [(2, 1), (3, 0)] {
            let status = GetClusterStatusResponse { galleries: vec![gallery(told)], ..Default::default() };
            let mut page = Page::default();
            add_galleries(&mut page, &status);
            assert_eq!(page.lines().filter(|found| *found == line).count(), lines);
        }
    }

    /// An engine that needs very many references once kept a shard from sealing in silence.
    #[test]
    fn references_that_an_engine_cannot_seal_are_told_by_gallery() {
        let unsealed = |gallery: &str, engine: &str, references, references_min| UnsealedStatus {
            gallery: gallery.to_owned(),
            engine: engine.to_owned(),
            references,
            references_min,
        };
        let with = |unsealed| ReplicaStatus { unsealed, ..replica(ReplicaRole::Follower, "") };
        let lists = || unsealed("people", "faiss:IVF4096,Flat", 20_000, 159_744);
        let status = cluster(
            vec![with(vec![lists()]), with(vec![lists(), unsealed("eyes", "faiss:PQ96x4fs", 7, u64::MAX)])],
            true,
        );
        let expected = [
            "gallery eyes: 7 references of 1 replica in no sealed segment, compared one by one: faiss:PQ96x4fs takes none of their \
             dimension; name another engine (semel gallery update eyes --engine ENGINE)",
            "gallery people: 40,000 references of 2 replicas in no sealed segment, compared one by one: faiss:IVF4096,Flat needs \
             159,744 for a segment; name another engine (semel gallery update people --engine ENGINE), or wait for more",
        ];
        assert_eq!(unsealed_lines(&status), expected);
        let mut page = Page::default();
        add_galleries(&mut page, &status);
        assert_eq!(page.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_reason_why_replicas_stopped_is_told_once() {
        let stopped = |reason| replica(ReplicaRole::Stopped, reason);
        let replicas =
            vec![stopped("no space"), replica(ReplicaRole::Leader, ""), stopped("no space"), stopped("b\u{1b}")];
        let next = "mend the cause (a full disk needs room) and restart the node";
        let expected = [
            format!("node 9c06be4a: 1 replica stopped: b\\u{{1b}}; {next}"),
            format!("node 9c06be4a: 2 replicas stopped: no space; {next}"),
        ];
        assert_eq!(stopped_lines(&cluster(replicas, true)), expected);
    }
}
