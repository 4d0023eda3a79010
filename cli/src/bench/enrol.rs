//! `semel bench enrol`: enrolments of a cluster, and how many of them share a sync, beside the disk's own syncs.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use semel_index::ComparisonScore;
use semel_proto::v1::EnrolResponse;
use semel_sandbox::requests;
use serde::Serialize;

use super::loopback::{Call, GALLERY, Loopback};
use super::people::People;
use super::{rate, shown};
use crate::exit::{EXIT_CODES, Exit};
use crate::number::within;
use crate::output::{self, Output, grouped, quantile};

/// Enrolments before anything is measured: connections, the rotation, leaders.
const WARM_UP: usize = 256;
/// Enrolments of one client alone.
const ALONE: usize = 128;
/// How long the disk's own syncs are measured, and with how many bytes each.
const RAW_FOR: Duration = Duration::from_secs(2);
const RAW_BYTES: usize = 4_096;

/// Enrols in a cluster of three nodes, beside the disk's own syncs.
#[derive(Debug, Args)]
#[command(
    long_about = "Starts one coordinator and three nodes, each a process of its own, and enrols synthetic people with many clients \
        at once, each one enrolment at a time. Beside the rate stands how many enrolments shared each sync of the busiest node \
        (an enrolment is written twice: when it is staged and when it is settled), and how fast the disk alone syncs.\n\nSlow \
        disks can be imitated: every sync of every node then takes that much longer.",
    after_help = format!("\
Examples:
    semel bench enrol
    semel bench enrol --clients 64 --sync-delay-ms 10
    semel bench enrol --data /srv/bench         on another disk

{EXIT_CODES}")
)]
pub(crate) struct EnrolArguments {
    /// Enrolments, 1000 to 1000000.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = within::<u32>(1_000..=1_000_000))]
    enrolments: u32,
    /// Clients at once, each with one enrolment at a time, 1 to 1024.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = within::<u16>(1..=1_024))]
    clients: u16,
    /// What every sync of a node is made to take longer, in milliseconds, 0 to 1000.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = within::<u32>(0..=1_000))]
    sync_delay_ms: u32,
    /// Shards, 1 to 4096.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u32>(1..=4_096))]
    shards: u32,
    /// The cosine from which a pair is a candidate, 0 to 1.
    #[arg(long, value_name = "COSINE", default_value = "0.42", value_parser = super::threshold)]
    threshold: ComparisonScore,
    /// The folder of the cluster; it must not hold another, and is kept. [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The seed of people.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How the figures look.
    #[arg(long, value_enum, default_value = "table", env = "SEMEL_OUTPUT", hide_env_values = true)]
    output: Output,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
struct Figures {
    enrolments: u32,
    dimension: u32,
    shards: u32,
    threshold: f64,
    clients: u16,
    sync_delay_ms: u32,
    enrolments_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    repeated: usize,
    busiest_node_syncs: u64,
    enrolments_per_sync: f64,
    entries_per_sync: f64,
    alone_p50_ms: f64,
    raw_syncs_per_second: f64,
    raw_sync_p50_ms: f64,
}

/// Runs `semel bench enrol`.
pub(crate) async fn run(arguments: EnrolArguments) -> anyhow::Result<Exit> {
    let (count, clients) = (arguments.enrolments as usize, usize::from(arguments.clients));
    let (all, seed) = (arguments.enrolments + (WARM_UP + ALONE) as u32, arguments.seed);
    let drawn = tokio::task::spawn_blocking(move || {
        let people = People::new(all, seed);
        (people.references(|values| values), people.dimension())
    });
    let (references, dimension) = drawn.await?;
    let delay = arguments.sync_delay_ms;
    let loopback = Loopback::start(arguments.shards, arguments.data.as_ref(), |builder| {
        builder.node_settings(move |node| node.debug_sync_delay_ms = delay)
    })
    .await?;
    loopback.create_gallery(dimension, arguments.threshold).await?;
    let enrol = async |what: &str, clients, first: usize, count| {
        let request = |place: usize| {
            requests::face_enrolment(GALLERY, &format!("r-{}", first + place), &references[first + place])
        };
        let started = Instant::now();
        let calls = loopback.enrol(what, clients, count, request).await?;
        Ok::<_, anyhow::Error>((calls, started.elapsed()))
    };
    enrol("enrolling, warming up", clients, 0, WARM_UP).await?;
    let (alone, _) = enrol("enrolling, one client", 1, WARM_UP, ALONE).await?;
    let before = loopback.syncs().await?;
    let (calls, took) = enrol("enrolling", clients, WARM_UP + ALONE, count).await?;
    let after = loopback.syncs().await?;
    let folder = loopback.sandbox.data_dir().to_owned();
    let raw = tokio::task::spawn_blocking(move || raw_syncs(&folder)).await??;

    let nodes = before.iter().zip(&after).map(|(before, after)| after.since(before));
    let busiest = nodes.max_by_key(|node| node.syncs).context("there are nodes")?;
    let (times, alone, raw_times) = (sorted(&calls), sorted(&alone), raw);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let figures = Figures {
        enrolments: arguments.enrolments,
        dimension,
        shards: arguments.shards,
        threshold: arguments.threshold.as_f64(),
        clients: arguments.clients,
        sync_delay_ms: delay,
        enrolments_per_second: rate(count, took),
        p50_ms: ms(quantile(&times, 0.5)),
        p99_ms: ms(quantile(&times, 0.99)),
        repeated: calls.iter().map(|call| call.repeated).sum(),
        busiest_node_syncs: busiest.syncs,
        enrolments_per_sync: count as f64 / busiest.syncs.max(1) as f64,
        entries_per_sync: busiest.entries as f64 / busiest.syncs.max(1) as f64,
        alone_p50_ms: ms(quantile(&alone, 0.5)),
        raw_syncs_per_second: rate(raw_times.len(), raw_times.iter().sum()),
        raw_sync_p50_ms: ms(quantile(&raw_times, 0.5)),
    };
    match arguments.output {
        Output::Json => output::json(&figures)?,
        Output::Table => show(&figures),
    }
    Ok(Exit::Done)
}

fn sorted(calls: &[Call<EnrolResponse>]) -> Vec<Duration> {
    let mut times: Vec<Duration> = calls.iter().map(|call| call.took).collect();
    times.sort_unstable();
    times
}

/// Appends and syncs, one after another, as a write-ahead log does; how long each took, sorted.
fn raw_syncs(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let path = folder.join("raw-syncs");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < RAW_FOR {
        let begun = Instant::now();
        file.write_all(&[0x5e; RAW_BYTES]).and_then(|()| file.sync_data()).context("write and sync")?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    times.sort_unstable();
    Ok(times)
}

fn show(figures: &Figures) {
    output::line(format!(
        "{} enrolments x {} components in {} shards, 3 nodes, threshold {}, {} client(s), syncs {} ms slower than the disk's",
        grouped(figures.enrolments.into()),
        figures.dimension,
        figures.shards,
        figures.threshold,
        figures.clients,
        figures.sync_delay_ms,
    ));
    let mut table = output::table(["figure", "measured", "raw, beside it"]);
    let raw_rate = format!("{} syncs/s of {RAW_BYTES} bytes", shown(figures.raw_syncs_per_second));
    table.add_row(["enrolments/s".to_owned(), shown(figures.enrolments_per_second), raw_rate]);
    let per_sync = format!("{:.1}", figures.enrolments_per_sync);
    let syncs = format!("{} syncs of the busiest node", grouped(figures.busiest_node_syncs));
    table.add_row(["enrolments per sync".to_owned(), per_sync, syncs]);
    let entries = format!("{:.1}", figures.entries_per_sync);
    table.add_row(["log entries per sync".to_owned(), entries, String::new()]);
    let raw_sync = format!("{:.2} ms a sync", figures.raw_sync_p50_ms);
    let times = format!("p50 {:.1} ms, p99 {:.1} ms", figures.p50_ms, figures.p99_ms);
    table.add_row(["an enrolment".to_owned(), times, raw_sync]);
    let alone = format!("p50 {:.1} ms", figures.alone_p50_ms);
    // At least two: it is written when it is staged and when it is settled.
    let in_syncs = figures.alone_p50_ms / (figures.raw_sync_p50_ms + f64::from(figures.sync_delay_ms));
    let in_syncs = format!("as long as {in_syncs:.1} syncs one after another");
    table.add_row(["an enrolment of one client alone".to_owned(), alone, in_syncs]);
    table.show();
    if figures.repeated > 0 {
        output::line(format!("{} calls were sent again because the cluster had too much to do", figures.repeated));
    }
}
