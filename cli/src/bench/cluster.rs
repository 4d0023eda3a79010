//! `semel bench cluster`: searches of a cluster through gRPC beside one process that searches the same shards directly.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use semel_index::{
    CanonicalEmbedding, ComparisonScore, EnrolmentId, MISS_BUDGET_PPB_DEFAULT, SearchProbe, ShardCount, ShardSearch,
    shard_of,
};
use semel_proto::v1::{IdentifyResponse, Priority, identify_response};
use semel_sandbox::requests;
use serde::Serialize;

use super::loopback::{Call, GALLERY, Loopback};
use super::people::{People, threads};
use super::twin::{self, Twin, TwinConfig};
use super::{percent, processor, rate, shown};
use crate::exit::{EXIT_CODES, Exit};
use crate::number::within;
use crate::output::{self, Output, Progress, grouped, quantile};

/// Probes that one process searches together.
const BATCH: usize = 64;
/// Enrolments in flight while the cluster is filled.
const FILLING: usize = 256;

/// Searches a cluster of three nodes through gRPC, beside one process that searches the same shards directly.
#[derive(Debug, Args)]
#[command(
    long_about = "Starts one coordinator and three nodes, each a process of its own, enrols synthetic people, and identifies \
        other captures of them with many callers at once. In turns with that, this process alone searches catalogues with the \
        same references in the same shards, in batches of 64, on as many threads: what is left between the two is what \
        the network, replication and the coordinator cost.",
    after_help = format!("\
Examples:
    semel bench cluster
    semel bench cluster --people 50000 --callers 16
    semel bench cluster --desk 4                what four people at desks wait while the others are a load
    semel bench cluster --data ./bench          keeps the enrolments for the next run with the same people and seed

{EXIT_CODES}")
)]
pub(crate) struct ClusterArguments {
    /// People enrolled, 1000 to 4000000.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = within::<u32>(1_000..=4_000_000))]
    people: u32,
    /// Mated probes of each turn, 64 to 1000000.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = within::<u32>(64..=1_000_000))]
    probes: u32,
    /// Callers at once, each with one probe at a time, 1 to 1024.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = within::<u16>(1..=1_024))]
    callers: u16,
    /// Callers at a desk, 0 to 64, each with one probe at a time. They are measured in turns of their own: beside no load, beside a load
    /// of the others that is interactive too, and beside one that is bulk.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<u16>(0..=64))]
    desk: u16,
    /// Turns of each kind, 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = within::<u16>(1..=100))]
    turns: u16,
    /// Shards, 1 to 4096.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u32>(1..=4_096))]
    shards: u32,
    /// The cosine from which a pair is a candidate, 0 to 1.
    #[arg(long, value_name = "COSINE", default_value = "0.42", value_parser = super::threshold)]
    threshold: ComparisonScore,
    /// The engine of sealed segments: exact, sketch, faiss or faiss:FACTORY.
    #[arg(long, value_name = "NAME", default_value = "faiss")]
    engine: String,
    /// References at which a growing segment is sealed, 1024 to 1048576; as the node's setting.
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = within::<usize>(1_024..=1_048_576))]
    seal_at_references: usize,
    /// The folder of the cluster; kept. [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The seed of people and probes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How the figures look.
    #[arg(long, value_enum, default_value = "table", env = "SEMEL_OUTPUT", hide_env_values = true)]
    output: Output,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
struct Figures {
    people: u32,
    dimension: u32,
    shards: u32,
    threads: usize,
    threshold: f64,
    engine: String,
    seal_at_references: usize,
    callers: u16,
    probes: usize,
    direct_probes_per_second: f64,
    cluster_probes_per_second: f64,
    direct_processor_ms_per_probe: f64,
    cluster_processor_ms_per_probe: f64,
    cluster_p50_ms: f64,
    cluster_p99_ms: f64,
    cluster_refused: usize,
    mates: usize,
    mates_missed: usize,
    enrolments_per_second: Option<f64>,
    desk_callers: u16,
    desk: Vec<DeskFigures>,
}

/// What callers at a desk met beside a load.
#[derive(Debug, Serialize)]
struct DeskFigures {
    beside: &'static str,
    searches: usize,
    p50_ms: f64,
    p99_ms: f64,
    load_probes_per_second: Option<f64>,
}

/// How long the callers at a desk are measured beside no load.
const DESK_ALONE: Duration = Duration::from_secs(5);

impl Figures {
    fn share(&self) -> f64 {
        self.cluster_probes_per_second / self.direct_probes_per_second
    }

    /// The share of the processor time of a probe that the direct search needs too: the share of its rate that the cluster would reach
    /// on a machine of its own.
    fn processor_share(&self) -> f64 {
        self.direct_processor_ms_per_probe / self.cluster_processor_ms_per_probe
    }
}

/// Runs `semel bench cluster`.
pub(crate) async fn run(arguments: ClusterArguments) -> anyhow::Result<Exit> {
    let config = TwinConfig {
        gallery: twin::gallery()?,
        engine: twin::engine("--engine", &arguments.engine)?,
        seal_at_references: arguments.seal_at_references,
        threshold: arguments.threshold,
    };
    let (count, probe_count, seed) = (arguments.people, arguments.probes as usize, arguments.seed);
    let drawn = tokio::task::spawn_blocking(move || {
        let people = People::new(count, seed);
        (people.references(|values| values), people.probes(probe_count, |values| values), people.dimension())
    });
    let (references, probes, dimension) = drawn.await?;
    let (engine, seal_at) = (arguments.engine.clone(), arguments.seal_at_references);
    let loopback = Loopback::start(arguments.shards, arguments.data.as_ref(), |builder| {
        builder.engine(&engine).node_settings(move |node| node.seal_at_references = seal_at)
    })
    .await?;
    loopback.create_gallery(dimension, arguments.threshold).await?;
    let started = Instant::now();
    let enrolled = enrolled(&loopback).await?;
    let mut enrolments_per_second = None;
    if enrolled < u64::from(count) {
        let first = enrolled as usize;
        let enrol = |place: usize| requests::face_enrolment(GALLERY, &id(first + place), &references[first + place]);
        loopback.enrol("enrolling", FILLING, references.len() - first, enrol).await?;
        enrolments_per_second = Some(rate(references.len() - first, started.elapsed()));
    }

    let shards = ShardCount::new(arguments.shards).context("a number of shards")?;
    let direct = tokio::task::spawn_blocking(move || Direct::build(&config, shards, &references, &probes));
    let (direct, probes) = direct.await??;
    let direct = std::sync::Arc::new(direct);
    let callers = usize::from(arguments.callers);
    let search = async |what: &str| {
        let started = Instant::now();
        let calls = loopback
            .identify(what, (callers, Priority::Interactive), probes.len(), |place| probes[place].clone())
            .await?;
        Ok::<_, anyhow::Error>((calls, started.elapsed()))
    };
    search("cluster, warming up").await?;
    let (mut direct_time, mut cluster_time) = (Duration::ZERO, Duration::ZERO);
    let (mut direct_processor, mut cluster_processor) = (Duration::ZERO, Duration::ZERO);
    let (mut found, mut calls) = (Vec::new(), Vec::new());
    let processor = || processor::used().unwrap_or_default();
    for _ in 0..arguments.turns {
        let direct = std::sync::Arc::clone(&direct);
        let at_first = processor();
        let (answers, took) = tokio::task::spawn_blocking(move || direct.search(threads())).await?;
        direct_time += took;
        found = answers;
        let between = processor();
        let (answers, took) = search("cluster").await?;
        cluster_time += took;
        direct_processor += between - at_first;
        cluster_processor += processor() - between;
        calls.extend(answers);
    }
    let desk = if arguments.desk > 0 { desk(&loopback, &arguments, &probes).await? } else { Vec::new() };
    let count = probes.len() * usize::from(arguments.turns);
    let mut times: Vec<Duration> = calls.iter().map(|call| call.took).collect();
    times.sort_unstable();
    let ms = |share| quantile(&times, share).as_secs_f64() * 1e3;
    let (mates, mates_missed) = missed(&found, &calls)?;
    let figures = Figures {
        people: arguments.people,
        dimension,
        shards: arguments.shards,
        threads: threads(),
        threshold: arguments.threshold.as_f64(),
        engine: arguments.engine,
        seal_at_references: arguments.seal_at_references,
        callers: arguments.callers,
        probes: count,
        direct_probes_per_second: rate(count, direct_time),
        cluster_probes_per_second: rate(count, cluster_time),
        direct_processor_ms_per_probe: direct_processor.as_secs_f64() * 1e3 / count as f64,
        cluster_processor_ms_per_probe: cluster_processor.as_secs_f64() * 1e3 / count as f64,
        cluster_p50_ms: ms(0.5),
        cluster_p99_ms: ms(0.99),
        cluster_refused: calls.iter().map(|call| call.repeated).sum(),
        mates,
        mates_missed,
        enrolments_per_second,
        desk_callers: arguments.desk,
        desk,
    };
    match arguments.output {
        Output::Json => output::json(&figures)?,
        Output::Table => show(&figures),
    }
    Ok(if figures.mates_missed == 0 { Exit::Done } else { Exit::Failed })
}

/// Measures the callers at a desk beside each load, in turns.
async fn desk(
    loopback: &Loopback,
    arguments: &ClusterArguments,
    probes: &[Vec<f32>],
) -> anyhow::Result<Vec<DeskFigures>> {
    let (callers, probe) = (usize::from(arguments.callers), |place: usize| probes[place % probes.len()].clone());
    let loads = [
        ("no load", None),
        ("an interactive load", Some(Priority::Interactive)),
        ("a bulk load", Some(Priority::Bulk)),
    ];
    let mut measured = loads.map(|_| (Vec::new(), Duration::ZERO));
    for _ in 0..arguments.turns {
        for ((beside, priority), (times, took)) in loads.iter().zip(&mut measured) {
            let load = async {
                match priority {
                    Some(priority) => {
                        let what = format!("callers at a desk beside {beside}");
                        loopback.identify(&what, (callers, *priority), probes.len(), probe).await?;
                    }
                    None => tokio::time::sleep(DESK_ALONE).await,
                }
                Ok(())
            };
            let started = Instant::now();
            let ((), more) = loopback.identify_beside(load, usize::from(arguments.desk), probe).await?;
            *took += started.elapsed();
            times.extend(more);
        }
    }
    let figures = loads.into_iter().zip(measured).map(|((beside, load), (mut times, took))| {
        times.sort_unstable();
        let ms = |share| quantile(&times, share).as_secs_f64() * 1e3;
        let load_probes_per_second = load.map(|_| rate(probes.len() * usize::from(arguments.turns), took));
        DeskFigures { beside, searches: times.len(), p50_ms: ms(0.5), p99_ms: ms(0.99), load_probes_per_second }
    });
    Ok(figures.collect())
}

fn id(place: usize) -> String {
    format!("r-{place}")
}

/// Enrolments that a kept folder holds.
async fn enrolled(loopback: &Loopback) -> anyhow::Result<u64> {
    let status = loopback.sandbox.status().await?;
    Ok(status.galleries.iter().filter(|gallery| gallery.gallery == GALLERY).map(|gallery| gallery.live).sum())
}

/// The shards in this process.
struct Direct {
    shards: Vec<Twin>,
    probes: Vec<SearchProbe>,
}

impl Direct {
    fn build(
        config: &TwinConfig,
        shards: ShardCount,
        references: &[Vec<f32>],
        probes: &[Vec<f32>],
    ) -> anyhow::Result<(Self, Vec<Vec<f32>>)> {
        let canonical = |values: &Vec<f32>| CanonicalEmbedding::from_f32(values).context("a drawn embedding");
        let references = references.iter().map(canonical).collect::<anyhow::Result<Vec<_>>>()?;
        let ids = (0..references.len()).map(|place| EnrolmentId::try_from(id(place)));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let mut by_shard = vec![Vec::new(); shards.get() as usize];
        for (id, reference) in ids.into_iter().zip(&references) {
            by_shard[shard_of(&config.gallery, &id, shards).0 as usize].push((id, reference));
        }
        let mut progress = Progress::start("filling the shards here", Some(u64::from(shards.get())));
        let mut twins = Vec::new();
        for references in by_shard {
            twins.push(Twin::build(config, references.into_iter(), || ())?);
            progress.advance(String::new);
        }
        progress.finish();
        let searches = probes.iter().map(canonical).collect::<anyhow::Result<Vec<_>>>()?;
        let searches = searches.iter().map(|each| twin::probe(config, each, MISS_BUDGET_PPB_DEFAULT)).collect();
        Ok((Self { shards: twins, probes: searches }, probes.to_vec()))
    }

    /// Searches every shard for every probe; the candidates of each probe, and how long it took.
    fn search(&self, threads: usize) -> (Vec<HashSet<String>>, Duration) {
        let started = Instant::now();
        let batches: Vec<&[SearchProbe]> = self.probes.chunks(BATCH).collect();
        let next = AtomicUsize::new(0);
        let answers: Vec<(usize, Vec<ShardSearch>)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut answers = Vec::new();
                        loop {
                            let job = next.fetch_add(1, Ordering::Relaxed);
                            let (batch, shard) = (job / self.shards.len(), job % self.shards.len());
                            let Some(probes) = batches.get(batch) else { return answers };
                            answers.push((batch, self.shards[shard].search(probes)));
                        }
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a search does not panic")).collect()
        });
        let took = started.elapsed();
        let mut found = vec![HashSet::new(); self.probes.len()];
        for (batch, answers) in answers {
            for (place, answer) in answers.into_iter().enumerate() {
                let ids = answer.candidates.into_iter().map(|candidate| candidate.enrolment_id.to_string());
                found[batch * BATCH + place].extend(ids);
            }
        }
        (found, took)
    }
}

/// How many probes have their own person's enrolment among the candidates here, and of these, not in the cluster's answer.
fn missed(found: &[HashSet<String>], calls: &[Call<IdentifyResponse>]) -> anyhow::Result<(usize, usize)> {
    let (mut mates, mut missed) = (0, 0);
    for call in calls {
        let complete = match &call.answer.outcome {
            Some(identify_response::Outcome::Complete(complete)) => complete,
            Some(identify_response::Outcome::Incomplete(_)) | None => {
                anyhow::bail!("a search did not reach every shard")
            }
        };
        let candidates: HashSet<&str> = complete.candidates.iter().map(|each| each.enrolment_id.as_str()).collect();
        mates += found[call.place].len();
        missed += found[call.place].iter().filter(|id| !candidates.contains(id.as_str())).count();
    }
    Ok((mates, missed))
}

fn show(figures: &Figures) {
    output::line(format!(
        "{} people x {} components in {} shards, 3 nodes, threshold {}, engine {}, sealed at {}; {} mated probes",
        grouped(figures.people.into()),
        figures.dimension,
        figures.shards,
        figures.threshold,
        figures.engine,
        grouped(figures.seal_at_references as u64),
        grouped(figures.probes as u64),
    ));
    let heads = ["searched by", "probes/s", "share", "processor time of a probe", "share", "p50", "p99"];
    let mut table = output::table(heads);
    let processor = |ms: f64| format!("{ms:.2} ms");
    let direct = format!("one process directly, {} threads, batches of {BATCH}", figures.threads);
    table.add_row([
        direct,
        shown(figures.direct_probes_per_second),
        percent(1.0),
        processor(figures.direct_processor_ms_per_probe),
        percent(1.0),
        String::new(),
        String::new(),
    ]);
    let (callers, refused) = (figures.callers, figures.cluster_refused);
    table.add_row([
        format!("the cluster through gRPC, {callers} callers, {refused} calls repeated"),
        shown(figures.cluster_probes_per_second),
        percent(figures.share()),
        processor(figures.cluster_processor_ms_per_probe),
        percent(figures.processor_share()),
        format!("{:.1} ms", figures.cluster_p50_ms),
        format!("{:.1} ms", figures.cluster_p99_ms),
    ]);
    table.show();
    output::line(format!(
        "{} of {} candidates of the direct search are missing in the cluster's answers",
        figures.mates_missed,
        grouped(figures.mates as u64)
    ));
    if !figures.desk.is_empty() {
        let heads = ["callers at a desk beside", "searches", "p50", "p99", "load, probes/s"];
        let mut table = output::table(heads);
        for desk in &figures.desk {
            table.add_row([
                desk.beside.to_owned(),
                grouped(desk.searches as u64),
                format!("{:.1} ms", desk.p50_ms),
                format!("{:.1} ms", desk.p99_ms),
                desk.load_probes_per_second.map(shown).unwrap_or_default(),
            ]);
        }
        table.show();
    }
    if let Some(enrolments) = figures.enrolments_per_second {
        output::line(format!("filled at {} enrolments/s, {FILLING} at once", shown(enrolments)));
    }
}
