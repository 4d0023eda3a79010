//! `semel bench shard`: one shard's catalogue beside raw FAISS with the same index over the same references.
//! Without FAISS there is nothing to compare with; the command stays and says so.

#![cfg_attr(not(feature = "faiss"), allow(dead_code, unused_imports, reason = "only the comparison uses them"))]

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use semel_index::{
    CanonicalEmbedding, ComparisonScore, EnrolmentId, MISS_BUDGET_PPB_DEFAULT, SearchProbe, ShardSearch,
};
use serde::Serialize;

use super::beside::{self, Beside};
use super::people::People;
use super::twin::{self, Twin, TwinConfig};
use super::{percent, rate, shown};
use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::number::within;
use crate::output::{self, Output, Progress, grouped};

/// Probes searched together.
const BATCH: usize = 64;
/// Enrolments beside searches: all these people are drawn first, about 3 kB of memory each.
const ENROLMENTS_MAX: u64 = 4_000_000;

/// Searches one shard's catalogue, beside raw FAISS with the same index.
#[derive(Debug, Args)]
#[command(
    long_about = "Fills one shard's catalogue in this process and searches it for other captures of the people in it: in \
        batches of 64 and one by one. Beside it, in turns, the same FAISS index over the same references is searched raw: \
        without a threshold, exact scores or ids.\n\nThen every probe is compared with every reference, and candidates that \
        the catalogue missed are counted.\n\nWith --enrol-rate there is no raw FAISS, and any engine will do: the shard's view, as a \
        node has it, is searched in batches of 64 while enrolments are published to it at that rate, and without, in turns of a \
        quarter of a second. Measured are publishing, snapshots beside scans, growing segments and sealing on a thread of its own; not logs, \
        disks or calls. Every batch looks for the enrolment that was acknowledged last.",
    after_help = format!("\
Examples:
    semel bench shard
    semel bench shard --references 50000 --threshold 0.38
    semel bench shard --enrol-rate 1000

{EXIT_CODES}")
)]
pub(crate) struct ShardArguments {
    /// References, 1000 to 4000000; each takes about 3 kB of memory.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = within::<u32>(1_000..=4_000_000))]
    references: u32,
    /// Mated probes, 64 to 1000000.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = within::<u32>(64..=1_000_000))]
    probes: u32,
    /// Threads that search, 1 to 1024.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = within::<u16>(1..=1_024))]
    threads: u16,
    /// The cosine from which a pair is a candidate, 0 to 1.
    #[arg(long, value_name = "COSINE", default_value = "0.42", value_parser = super::threshold)]
    threshold: ComparisonScore,
    /// The engine of sealed segments: faiss or faiss:FACTORY, or any with --enrol-rate. [default: faiss; with --enrol-rate the node's own]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// References at which a growing segment is sealed, 1024 to 1048576; as the node's setting.
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = within::<usize>(1_024..=1_048_576))]
    seal_at_references: usize,
    /// The length of raw FAISS' lists, 1 to 4096.
    #[arg(long, value_name = "K", default_value_t = 64, conflicts_with = "enrol_rate", value_parser = within::<usize>(1..=4_096))]
    list: usize,
    /// Times that all probes are searched for, 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "enrol_rate", value_parser = within::<u16>(1..=100))]
    rounds: u16,
    /// Searches beside so many enrolments a second, 1 to 100000, and without; at most 4000000 in all --seconds.
    #[arg(long, value_name = "N", value_parser = within::<u32>(1..=100_000))]
    enrol_rate: Option<u32>,
    /// Seconds with enrolments, and as many without, 2 to 600; at 1000 a second the default fills two segments.
    #[arg(long, value_name = "SECONDS", default_value_t = 33, requires = "enrol_rate", value_parser = within::<u32>(2..=600))]
    seconds: u32,
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
    references: u32,
    sealed: usize,
    growing: usize,
    dimension: u32,
    threads: u16,
    threshold: f64,
    engine: String,
    raw_engine: String,
    raw_list: usize,
    probes: u32,
    batched: Pace,
    one_by_one: Pace,
    exact_probes_per_second: f64,
    candidates_exact: usize,
    candidates_missed: usize,
    candidates_invented: usize,
}

/// The catalogue beside raw FAISS.
#[derive(Debug, Serialize)]
struct Pace {
    catalogue_probes_per_second: f64,
    raw_probes_per_second: f64,
}

impl Pace {
    fn share(&self) -> f64 {
        self.catalogue_probes_per_second / self.raw_probes_per_second
    }
}

/// Runs `semel bench shard`.
pub(crate) fn run(arguments: &ShardArguments) -> anyhow::Result<Exit> {
    let engine = match (&arguments.engine, arguments.enrol_rate) {
        (Some(engine), _) => engine.clone(),
        (None, Some(_)) => semel_node::NodeConfig::default().engine,
        (None, None) => "faiss".to_owned(),
    };
    let config = TwinConfig {
        gallery: twin::gallery()?,
        engine: twin::engine("--engine", &engine)?,
        seal_at_references: arguments.seal_at_references,
        threshold: arguments.threshold,
    };
    if let Some(enrol_rate) = arguments.enrol_rate {
        return run_beside(arguments, enrol_rate, &config);
    }
    let figures = measure(arguments, &config)?;
    match arguments.output {
        Output::Json => output::json(&figures)?,
        Output::Table => show(&figures),
    }
    Ok(if figures.candidates_missed == 0 { Exit::Done } else { Exit::Failed })
}

fn run_beside(arguments: &ShardArguments, enrol_rate: u32, config: &TwinConfig) -> anyhow::Result<Exit> {
    let enrolments = u64::from(enrol_rate) * u64::from(arguments.seconds);
    if enrolments > ENROLMENTS_MAX {
        let reason = format!("makes {enrolments} enrolments, must be at most {ENROLMENTS_MAX}");
        return Err(UsageError(format!("--enrol-rate times --seconds: {reason}")).into());
    }
    let beside = Beside {
        references: arguments.references,
        probes: arguments.probes as usize,
        threads: arguments.threads,
        enrolments_per_second: enrol_rate,
        seconds: arguments.seconds,
        seed: arguments.seed,
    };
    let figures = beside::measure(&beside, config)?;
    anyhow::ensure!(
        figures.has_enrolments(),
        "nobody was enrolled beside the searches, so nothing was measured: raise --enrol-rate"
    );
    match arguments.output {
        Output::Json => output::json(&figures)?,
        Output::Table => beside::show(&figures),
    }
    Ok(if figures.are_sound() { Exit::Done } else { Exit::Failed })
}

#[cfg(not(feature = "faiss"))]
fn measure(_: &ShardArguments, _: &TwinConfig) -> anyhow::Result<Figures> {
    Err(UsageError("this build has no FAISS to compare with".to_owned()).into())
}

#[cfg(feature = "faiss")]
fn measure(arguments: &ShardArguments, config: &TwinConfig) -> anyhow::Result<Figures> {
    use semel_index::{EmbeddingRows, EnrolmentOrdinal};
    use semel_index_faiss::{FaissEngine, PlainIndex, PlainProbes};

    let factory = FaissEngine::parse(config.engine.name()).map_err(|error| {
        UsageError(format!("--engine: {error}: without --enrol-rate it must be faiss or faiss:FACTORY"))
    })?;
    let people = People::new(arguments.references, arguments.seed);
    let factory = factory.factory_for(people.dimension())?;
    let canonical = |values: Vec<f32>| CanonicalEmbedding::from_f32(&values).expect("drawn embeddings are valid");
    let references = people.references(canonical);
    let probes = people.probes(arguments.probes as usize, canonical);

    let mut rows = EmbeddingRows::new(people.dimension());
    (0..).zip(&references).for_each(|(ordinal, reference)| rows.push(EnrolmentOrdinal(ordinal), reference));
    eprintln!("filling a raw index of {} references", grouped(references.len() as u64));
    let plain = PlainIndex::build(&factory, &rows)?;
    drop(rows);
    let segments = references.len() / arguments.seal_at_references;
    let mut progress = Progress::start("sealing segments", Some(segments as u64));
    let ids = (0..references.len()).map(|number| EnrolmentId::try_from(format!("r-{number}")).expect("a valid id"));
    let twin = Twin::build(config, ids.zip(&references), || progress.advance(String::new))?;
    progress.finish();

    let searches: Vec<SearchProbe> =
        probes.iter().map(|each| twin::probe(config, each, MISS_BUDGET_PPB_DEFAULT)).collect();
    let pace = |batch: usize, rounds: u16, what: &str| {
        let plainly: Vec<PlainProbes> = probes.chunks(batch).map(PlainProbes::new).collect();
        let batches: Vec<&[SearchProbe]> = searches.chunks(batch).collect();
        let turn = |number: usize| {
            let started = Instant::now();
            let lists = black_box(plain.search(&plainly[number], arguments.list));
            let between = Instant::now();
            black_box(twin.search(batches[number]));
            lists.map(|_| [between - started, between.elapsed()])
        };
        let [raw, catalogue] = in_turns(what, batches.len() * usize::from(rounds), arguments.threads, |place| {
            turn(place % batches.len()).expect("FAISS searched these before")
        });
        let count = searches.len() * usize::from(rounds) * usize::from(arguments.threads);
        Pace { catalogue_probes_per_second: rate(count, catalogue), raw_probes_per_second: rate(count, raw) }
    };
    plain.search(&PlainProbes::new(&probes[..1]), arguments.list)?;
    let batched = pace(BATCH, arguments.rounds, "batches of 64, in turns");
    let one_by_one = pace(1, 1, "one by one, in turns");

    let exact: Vec<SearchProbe> = probes.iter().map(|each| twin::probe(config, each, 0)).collect();
    let started = Instant::now();
    let expected: Vec<ShardSearch> = exact.chunks(BATCH).flat_map(|batch| twin.search(batch)).collect();
    let exact_time = started.elapsed();
    let found: Vec<ShardSearch> = searches.chunks(BATCH).flat_map(|batch| twin.search(batch)).collect();
    let (sealed, growing) = twin.sealed_and_growing();
    Ok(Figures {
        references: arguments.references,
        sealed,
        growing,
        dimension: people.dimension(),
        threads: arguments.threads,
        threshold: arguments.threshold.as_f64(),
        engine: config.engine.name().to_owned(),
        raw_engine: factory.to_string(),
        raw_list: arguments.list,
        probes: arguments.probes,
        batched,
        one_by_one,
        exact_probes_per_second: rate(exact.len(), exact_time),
        candidates_exact: expected.iter().map(|each| each.candidates.len()).sum(),
        candidates_missed: absent(&expected, &found),
        candidates_invented: absent(&found, &expected),
    })
}

/// Takes so many turns on all threads; the sum over the threads of what each of the two parts took.
fn in_turns(what: &str, turns: usize, threads: u16, turn: impl Fn(usize) -> [Duration; 2] + Sync) -> [Duration; 2] {
    let mut progress = Progress::start(what, Some(turns as u64));
    let next = AtomicUsize::new(0);
    let (sender, taken) = std::sync::mpsc::sync_channel(usize::from(threads));
    let mut sums = [Duration::ZERO; 2];
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, turn) = (sender.clone(), &next, &turn);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= turns || sender.send(turn(place)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for [first, second] in taken {
            sums[0] += first;
            sums[1] += second;
            progress.advance(String::new);
        }
    });
    progress.finish();
    sums
}

/// Candidates of `these` answers that the others do not have.
fn absent(these: &[ShardSearch], others: &[ShardSearch]) -> usize {
    let missing = |(this, other): (&ShardSearch, &ShardSearch)| {
        this.candidates.iter().filter(|candidate| !other.candidates.contains(candidate)).count()
    };
    these.iter().zip(others).map(missing).sum()
}

fn show(figures: &Figures) {
    output::line(format!(
        "{} references ({} sealed, {} growing) x {} components, {} thread(s), threshold {}, engine {}; raw: FAISS {} with \
         lists of {}; {} mated probes",
        grouped(figures.references.into()),
        grouped(figures.sealed as u64),
        grouped(figures.growing as u64),
        figures.dimension,
        figures.threads,
        figures.threshold,
        figures.engine,
        figures.raw_engine,
        figures.raw_list,
        grouped(figures.probes.into()),
    ));
    let mut table = output::table(["probes", "catalogue, probes/s", "raw FAISS, probes/s", "share"]);
    for (name, pace) in [("batches of 64", &figures.batched), ("one by one", &figures.one_by_one)] {
        let rates = [shown(pace.catalogue_probes_per_second), shown(pace.raw_probes_per_second)];
        table.add_row([name.to_owned()].into_iter().chain(rates).chain([percent(pace.share())]));
    }
    table.show();
    output::line(format!(
        "beside the exact scan ({} probes/s on one thread): {} of {} candidates missed, {} invented",
        shown(figures.exact_probes_per_second),
        figures.candidates_missed,
        grouped(figures.candidates_exact as u64),
        figures.candidates_invented,
    ));
}
