//! `semel bench engines`: engines of sealed segments side by side, over the same references, probes and threads.

use std::collections::BTreeSet;
use std::iter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use semel_index::{
    Calibration, CanonicalEmbedding, ComparisonScore, Direction, EmbeddingRows, Engine, EngineProbe, EnrolmentOrdinal,
    KeyVersion, MISS_BUDGET_PPB_DEFAULT, Planter, Proposal, ScanProbe, Segment, kernel_path, measured,
};
use semel_population::{Population, Preset, Seed, Spectrum};
use semel_workflow::{GalleryKey, RotationMatrix};

use super::people::{People, threads as cores};
use super::results::{self, Proposals, Row};
use super::{export, plot, rate, twin};
use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::output::{self, Output, Progress, grouped, quantile};

/// Probes searched together.
const BATCH: usize = 64;
/// Strangers to everyone enrolled, who are searched for in turn for as long as a rate is measured.
const STRANGERS: u32 = 1_024;
/// Rows of the exact scan between two looks at the next probes.
const ROWS_PER_SCAN: usize = 16_384;
/// Mated probes, and as many planted ones, that are compared with every row; the others with their own mate alone.
const COMPARED_WITH_ALL: usize = 1_000;
/// What is read to see how fast this machine reads: more than any cache holds.
const READ_BYTES: usize = 512 << 20;
const READ_TURNS: usize = 8;
/// How long lookups are counted for, and rounds of them between two looks at the clock.
const LOOK_UP_FOR: Duration = Duration::from_millis(200);
const LOOKUP_ROUNDS: u64 = 100_000;

/// Searches the same references with several engines, one after another.
#[derive(Debug, Args)]
#[command(
    long_about = "Builds a segment of each engine over the same references, in turn, and searches it: for strangers, as nearly all \
        of a registry's applicants are, in batches of 64 and one by one; and for mates, of which those that the engine misses are \
        counted. What an engine proposes is re-scored exactly, as a node does; that is part of every rate.\n\nMates are pairs of another \
        capture of an enrolled person and a reference that score the threshold or more; planted are pairs with a probe that was placed 0 to 0.05 above it, half of \
        them anywhere, half towards another reference. 1,000 of each are compared with all references, the others with their own mate alone. Both \
        come with the bound that the share of missed ones is below, with a confidence of 95 %; every rate, with the searches that it rests on. \
        Over two sizes or more, the exponent says how a search's cost grows with N: 1 is linear. With several numbers of threads, \
        each is compared with the fewest: how many times as many searches it does. \
        Of what the machine gives are said: one by one, the bytes that it reads; in batches, the table entries that it looks up and adds up in registers alone.\n\nReferences are \
        rotated by a key first, as coordinators do. FAISS uses the instructions that it was compiled for (AVX2), and is asked for \
        lists that grow until they hold all rows above its cut; `sketch` uses what the processor has. References and templates of all engines: 1 kB each, and what the engine takes.\n\n\
        --export writes the same references, probes and mates as .npy arrays. `cli/bench/peers.py FOLDER/N --save peers.json` searches them with usearch, hnswlib, \
        pgvector and Milvus-Lite, and `semel bench plot` shows its results beside these.",
    after_help = format!("\
Examples:
    semel bench engines
    semel bench engines --references 100000,1000000 --engines sketch,faiss
    semel bench engines --references 10000,100000 --save engines.json --plot engines.svg
    semel bench engines --population f3 --threads 1,2
    semel bench engines --covariance-of faces.npy          strangers as alike as those of the file

{EXIT_CODES}")
)]
pub(crate) struct EnginesArguments {
    /// References, 1000 to 10000000; several numbers are measured one after another.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "100000", value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    references: Vec<u32>,
    /// The engines: exact, sketch, faiss or faiss:FACTORY, with commas between them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "exact,sketch,faiss,faiss:SQ8")]
    engines: Vec<String>,
    /// Mated probes, 64 to 1000000; as many again are planted.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    mated: u32,
    /// Threads that search, 1 to 1024, each for probes of its own; several numbers, with commas between them, take turns of a second, as many
    /// as `--seconds` says.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Vec<u16>,
    /// The cosine from which a pair is a candidate, 0 to 1.
    #[arg(long, value_name = "COSINE", default_value = "0.42", value_parser = super::threshold)]
    threshold: ComparisonScore,
    /// The population: f1, f1m, f2, f3, voice or isotropic.
    #[arg(long, value_name = "NAME", default_value = "f1", value_parser = preset)]
    population: Preset,
    /// Draws people with the covariance of the rows of this .npy file (32-bit floats, as many columns as the population has components).
    #[arg(long, value_name = "FILE")]
    covariance_of: Option<PathBuf>,
    /// Seconds that each rate is measured for, 1 to 600.
    #[arg(long, value_name = "S", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// The seed of people and probes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Saves the rows of the table in this file, for `semel bench plot`; a file that is there is replaced.
    #[arg(long, value_name = "FILE.json")]
    save: Option<PathBuf>,
    /// Draws the rows in this file, as `semel bench plot` does.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Writes what is searched into FOLDER/N for other programs (`cli/bench/peers.py`): 2 kB for each reference of 512 components.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// How the figures look.
    #[arg(long, value_enum, default_value = "table", env = "SEMEL_OUTPUT", hide_env_values = true)]
    output: Output,
}

fn preset(name: &str) -> Result<Preset, String> {
    name.parse().map_err(|error: semel_population::UnknownPreset| error.to_string())
}

/// Names that commas stood between, one of which may have been a factory's own: `faiss:IVF64,Flat`.
fn engine_names(parts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in parts {
        match names.last_mut() {
            Some(name) if part == "Flat" && name.starts_with("faiss:IVF") => *name += ",Flat",
            _ => names.push(part.clone()),
        }
    }
    names
}

/// Runs `semel bench engines`.
pub(crate) fn run(arguments: &EnginesArguments) -> anyhow::Result<Exit> {
    let engines = engine_names(&arguments.engines)
        .iter()
        .map(|name| twin::engine("--engines", name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if arguments.save.is_some() && arguments.save == arguments.plot {
        return Err(UsageError("--save and --plot: name the same file, must be two".to_owned()).into());
    }
    if let Some(folder) = &arguments.export {
        std::fs::create_dir_all(folder)
            .map_err(|error| UsageError(format!("--export {}: {error}", folder.display())))?;
    }
    if let Some(twice) =
        (1..arguments.threads.len()).find(|place| arguments.threads[..*place].contains(&arguments.threads[*place]))
    {
        return Err(UsageError(format!("--threads: names {} twice", arguments.threads[twice])).into());
    }
    for (field, file) in [("--save", &arguments.save), ("--plot", &arguments.plot)] {
        if let Some(file) = file {
            super::writable(field, file)?;
        }
    }
    let mut all = Vec::new();
    for references in &arguments.references {
        let rows = measure(arguments, *references, &engines)?;
        if let Output::Table = arguments.output {
            results::show(&rows);
        }
        all.extend(rows);
    }
    if let Some(file) = &arguments.save {
        results::save(file, all.clone())?;
    }
    if let Some(file) = &arguments.plot {
        plot::write("--plot", file, &all)?;
    }
    let exit = if all.iter().any(beyond_budget) { Exit::Failed } else { Exit::Done };
    match arguments.output {
        Output::Table => {
            results::show_growth(&all);
            results::show_scaling(&all);
        }
        Output::Json => results::print(all)?,
    }
    Ok(exit)
}

/// Whether an engine missed more than its budget lets it.
fn beyond_budget(row: &Row) -> bool {
    let budget = row.proposals.as_ref().map_or(0, |proposals| proposals.miss_budget_ppb);
    let allowed = f64::from(budget) * 1e-9 * (row.mates + row.planted) as f64;
    // Four deviations of a count: more is no chance.
    (row.mates_missed + row.planted_missed) as f64 > allowed + 4.0 * allowed.sqrt()
}

fn population(arguments: &EnginesArguments, people: u32) -> anyhow::Result<(Population, String)> {
    let (preset, seed) = (arguments.population, Seed(arguments.seed));
    let Some(file) = &arguments.covariance_of else {
        return Ok((Population::new(preset, seed, people), preset.name().to_owned()));
    };
    let model = preset.model();
    let refused = |reason: String| UsageError(format!("--covariance-of {}: {reason}", file.display()));
    let floats = || refused(format!("must be a .npy file of rows of {} 32-bit floats ('<f4')", model.dimension));
    let bytes = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    let array = npyz::NpyFile::new(&bytes[..]).map_err(|_| floats())?;
    match array.shape() {
        [0 | 1, _] => return Err(refused("must have 2 rows or more".to_owned()).into()),
        [_, columns] if *columns == model.dimension as u64 => {}
        _ => return Err(floats().into()),
    }
    if array.order() != npyz::Order::C {
        return Err(refused("is in Fortran order; save it with numpy.ascontiguousarray".to_owned()).into());
    }
    let values: Vec<f32> = array.into_vec().map_err(|_| floats())?;
    if !values.chunks_exact(model.dimension).all(|row| row.iter().all(|value| value.is_finite())) {
        return Err(refused("has values that are not finite".to_owned()).into());
    }
    if values.chunks_exact(model.dimension).all(|row| row.iter().all(|value| *value == 0.0)) {
        return Err(refused("has no row that is not 0 everywhere".to_owned()).into());
    }
    let covariance = covariance(values.chunks_exact(model.dimension), model.dimension);
    let spectrum =
        Spectrum::from_covariance(&covariance, model.dimension).map_err(|error| UsageError(error.to_string()))?;
    let population = Population::with_spectrum(model, spectrum, seed, people)?;
    Ok((population, format!("{} with the covariance of {}", preset.name(), file.display())))
}

/// Σxxᵀ/n of the rows scaled to length one, and a trace of the identity, as fewer rows than components span no space.
fn covariance<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, dimension: usize) -> Vec<f64> {
    const TRACE: f64 = 1e-6;
    let mut sums = vec![0.0; dimension * dimension];
    let count = rows.len() as f64;
    for row in rows {
        let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        for (line, one) in sums.chunks_exact_mut(dimension).zip(row) {
            let one = f64::from(*one) / length / length / count;
            line.iter_mut().zip(row).for_each(|(sum, other)| *sum += one * f64::from(*other));
        }
    }
    sums.iter_mut().step_by(dimension + 1).for_each(|diagonal| *diagonal += TRACE);
    sums
}

fn measure(arguments: &EnginesArguments, references: u32, engines: &[Arc<dyn Engine>]) -> anyhow::Result<Vec<Row>> {
    let (population, name) = population(arguments, references + STRANGERS)?;
    let people = People::of(population, references);
    let key = GalleryKey::from_secret(*blake3::hash(&arguments.seed.to_le_bytes()).as_bytes());
    let matrix = RotationMatrix::generate(&key, KeyVersion(1), people.dimension());
    let rotated =
        |values: Vec<f32>| CanonicalEmbedding::from_f32(&matrix.rotate(&values)).expect("drawn embeddings are valid");
    let mut rows = EmbeddingRows::new(people.dimension());
    for (ordinal, reference) in (0..).zip(people.references(rotated)) {
        rows.push(EnrolmentOrdinal(ordinal), &reference);
    }
    let rows = Arc::new(rows);
    let strangers = people.strangers(rotated);
    let captures = arguments.mated as usize;
    let mut mated = people.probes(captures, rotated);
    mated.extend(plant(&rows, arguments));
    let made_from: Vec<u32> = (0..captures)
        .map(|place| people.probed(place, captures))
        .chain((0..arguments.mated).map(|place| planted_on(place, &rows, arguments) as u32))
        .collect();
    let truth = truth(&rows, &mated, &made_from, arguments.threshold);
    let processor = results::processor();
    if let Some(folder) = &arguments.export {
        output::note(format!("writing {} references to {}", grouped(references.into()), folder.display()));
        let description = export::Description {
            references,
            dimension: people.dimension(),
            population: name.clone(),
            seed: arguments.seed,
            threshold: arguments.threshold.as_f64(),
            captures: arguments.mated,
            processor: processor.clone(),
        };
        let (strangers, mated, made_from, truth) = (&*strangers, &*mated, &*made_from, &*truth);
        export::write(
            &folder.join(references.to_string()),
            &description,
            &export::Data { rows: &rows, strangers, mated, made_from, truth },
        )?;
    }
    let machine: Vec<(u16, f64, f64)> =
        arguments.threads.iter().map(|threads| (*threads, read_rate(*threads), lookup_rate(*threads))).collect();
    let mut figures = Vec::new();
    for engine in engines {
        let calibration = Calibration { thresholds: vec![arguments.threshold], ..Calibration::default() };
        output::note(format!("building {} over {} references", engine.name(), grouped(references.into())));
        let started = Instant::now();
        let segment = engine.build(Arc::clone(&rows), &calibration)?;
        let build_seconds = started.elapsed().as_secs_f64();
        let gallery = Searched { segment: segment.as_ref(), rows: &rows, threshold: arguments.threshold };
        let batched = gallery.paces(&strangers, BATCH, arguments);
        let one_by_one = gallery.paces(&strangers, 1, arguments);
        let (mut found, mut mated_scanned_exactly) = (Vec::new(), 0);
        for batch in mated.chunks(BATCH) {
            let (mates, told) = gallery.search(batch);
            found.extend(mates);
            mated_scanned_exactly += told.scanned_exactly as u64;
        }
        let (mut proposed, mut scanned_exactly) = (0, 0);
        for batch in strangers.chunks(BATCH) {
            let (_, told) = gallery.search(batch);
            proposed += told.proposed;
            scanned_exactly += told.scanned_exactly;
        }
        let missed: Vec<usize> =
            truth.iter().zip(&found).map(|(truth, found)| truth.difference(found).count()).collect();
        let (mates, planted) = truth.split_at(captures);
        let (mates_missed, planted_missed) = missed.split_at(captures);
        let scan_cost = segment.scan_cost();
        let measured_at = now();
        let rates = machine.iter().zip(batched.into_iter().zip(one_by_one));
        for ((threads, read_bytes_per_second, lookups_per_second), (batched, mut one_by_one)) in rates {
            one_by_one.took.sort_unstable();
            figures.push(Row {
                engine: engine.name().to_owned(),
                program: concat!("semel ", env!("CARGO_PKG_VERSION")).to_owned(),
                measured_at: measured_at.clone(),
                processor: processor.clone(),
                kernel: kernel(engine.name()).to_owned(),
                threads: (*threads).into(),
                threshold: arguments.threshold.as_f64(),
                dimension: people.dimension(),
                population: name.clone(),
                seed: arguments.seed,
                references,
                build_seconds,
                bytes_per_reference: segment.memory_bytes() as f64 / f64::from(references),
                template_bytes_per_reference: rows.memory_bytes() as f64 / f64::from(references),
                batch: BATCH as u32,
                batched_probes_per_second: batched.per_second(),
                batched_searches: batched.searches() as u64,
                one_by_one_probes_per_second: one_by_one.per_second(),
                one_by_one_searches: one_by_one.searches() as u64,
                one_by_one_p50_ms: quantile(&one_by_one.took, 0.5).as_secs_f64() * 1e3,
                one_by_one_p99_ms: quantile(&one_by_one.took, 0.99).as_secs_f64() * 1e3,
                mates: mates.iter().map(BTreeSet::len).sum::<usize>() as u64,
                mates_missed: mates_missed.iter().sum::<usize>() as u64,
                planted: planted.iter().map(BTreeSet::len).sum::<usize>() as u64,
                planted_missed: planted_missed.iter().sum::<usize>() as u64,
                proposals: Some(Proposals {
                    miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT,
                    read_bytes_per_second: *read_bytes_per_second,
                    lookups_per_second: *lookups_per_second,
                    scan_bytes: scan_cost.map_or(0, |cost| cost.bytes as u64),
                    scan_lookups: scan_cost.and_then(|cost| cost.lookups),
                    per_stranger: proposed as f64 / (strangers.len() - scanned_exactly).max(1) as f64,
                    strangers: strangers.len() as u64,
                    strangers_scanned_exactly: scanned_exactly as u64,
                    mated_scanned_exactly,
                }),
            });
        }
    }
    Ok(figures)
}

/// The instructions that an engine's scans use.
fn kernel(engine: &str) -> &'static str {
    if engine.starts_with("faiss") { "as FAISS was compiled" } else { kernel_path() }
}

/// The date and time in UTC.
fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    output::instant(since.as_millis() as i64)
}

/// Probes that score the threshold or up to 0.05 more with a row, and point anywhere beside it or, every other one, towards another row.
fn plant(rows: &EmbeddingRows, arguments: &EnginesArguments) -> Vec<CanonicalEmbedding> {
    let mut planters = Direction::ALL.map(|direction| Planter::new(rows, arguments.threshold, direction));
    let mut plant = |place: u32| {
        let row = planted_on(place, rows, arguments);
        let planter = &mut planters[place as usize % Direction::ALL.len()];
        // Now and then rounding takes one below the threshold.
        iter::repeat_with(|| planter.plant(row)).flatten().next().expect("one of them scores enough").probe
    };
    (0..arguments.mated).map(&mut plant).collect()
}

/// The row that one of the planted probes scores the threshold with.
fn planted_on(place: u32, rows: &EmbeddingRows, arguments: &EnginesArguments) -> usize {
    (u64::from(place) * rows.len() as u64 / u64::from(arguments.mated)) as usize
}

/// Mates of the probes, of which the first half are captures and the others planted: of some of each all that there are, of the others the row
/// that each was made from, if it scores enough.
fn truth(
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    made_from: &[u32],
    threshold: ComparisonScore,
) -> Vec<BTreeSet<u32>> {
    let mut truth: Vec<BTreeSet<u32>> = probes
        .iter()
        .zip(made_from)
        .map(|(probe, row)| {
            let mut mates = BTreeSet::new();
            rows.score_each(&[*row], &ScanProbe::new(probe, threshold), &mut |row, _| {
                mates.insert(row as u32);
            });
            mates
        })
        .collect();
    let every = (probes.len() / 2).div_ceil(COMPARED_WITH_ALL).max(1);
    let compared: Vec<usize> = (0..probes.len()).step_by(every).collect();
    let probes: Vec<CanonicalEmbedding> = compared.iter().map(|place| probes[*place].clone()).collect();
    for (place, mates) in compared.into_iter().zip(mates_among_all(rows, &probes, threshold)) {
        truth[place] = mates;
    }
    truth
}

/// All mates of the probes.
fn mates_among_all(
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    threshold: ComparisonScore,
) -> Vec<BTreeSet<u32>> {
    let mut progress = Progress::start("comparing probes with every reference", Some(probes.len() as u64));
    let (next, parts) = (AtomicUsize::new(0), probes.chunks(BATCH).collect::<Vec<_>>());
    let mut truth: Vec<(usize, Vec<BTreeSet<u32>>)> = Vec::new();
    thread::scope(|scope| {
        let (sender, found) = std::sync::mpsc::sync_channel(cores());
        for _ in 0..cores() {
            let (sender, next, parts) = (sender.clone(), &next, &parts);
            scope.spawn(move || {
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    let Some(probes) = parts.get(part) else { return };
                    let mut mates = vec![BTreeSet::new(); probes.len()];
                    scan(rows, probes, threshold, &mut |probe, row| {
                        mates[probe].insert(row);
                    });
                    if sender.send((part, mates)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for part in found {
            part.1.iter().for_each(|_| progress.advance(String::new));
            truth.push(part);
        }
    });
    progress.finish();
    truth.sort_unstable_by_key(|(part, _)| *part);
    truth.into_iter().flat_map(|(_, mates)| mates).collect()
}

fn scan(
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    threshold: ComparisonScore,
    found: &mut dyn FnMut(usize, u32),
) {
    let ready: Vec<ScanProbe> = probes.iter().map(|probe| ScanProbe::new(probe, threshold)).collect();
    let ready: Vec<&ScanProbe> = ready.iter().collect();
    for first in (0..rows.len()).step_by(ROWS_PER_SCAN) {
        let part = first..rows.len().min(first + ROWS_PER_SCAN);
        rows.scan(part, &ready, &mut |probe, row, _| found(probe, row as u32));
    }
}

/// A segment with the rows that re-score what it proposes.
struct Searched<'a> {
    segment: &'a dyn Segment,
    rows: &'a EmbeddingRows,
    threshold: ComparisonScore,
}

/// What an engine proposed for some probes.
#[derive(Debug, Default)]
struct Told {
    proposed: usize,
    scanned_exactly: usize,
}

impl Searched<'_> {
    /// The rows that reach the threshold of each probe, as a node's catalogue finds them.
    fn search(&self, probes: &[CanonicalEmbedding]) -> (Vec<BTreeSet<u32>>, Told) {
        let ready: Vec<EngineProbe> = probes.iter().map(EngineProbe::new).collect();
        let ready: Vec<&EngineProbe> = ready.iter().collect();
        let mut found = vec![BTreeSet::new(); probes.len()];
        let (mut told, mut exactly) = (Told::default(), Vec::new());
        let proposals = self.segment.propose(&ready, self.threshold, MISS_BUDGET_PPB_DEFAULT);
        for ((place, probe), proposal) in probes.iter().enumerate().zip(proposals) {
            match proposal {
                Proposal::ScanExactly => exactly.push(place),
                Proposal::Rows(rows) => {
                    told.proposed += rows.len();
                    let ready = ScanProbe::new(probe, self.threshold);
                    self.rows.score_each(&rows, &ready, &mut |row, _| {
                        found[place].insert(row as u32);
                    });
                }
            }
        }
        if !exactly.is_empty() {
            told.scanned_exactly = exactly.len();
            let probes: Vec<CanonicalEmbedding> = exactly.iter().map(|place| probes[*place].clone()).collect();
            scan(self.rows, &probes, self.threshold, &mut |probe, row| {
                found[exactly[probe]].insert(row);
            });
        }
        (found, told)
    }

    /// How fast each number of threads searches. They take turns, so that all of them meet the same machine.
    fn paces(&self, probes: &[CanonicalEmbedding], batch: usize, arguments: &EnginesArguments) -> Vec<Pace> {
        let mut paces: Vec<Pace> = arguments.threads.iter().map(|_| Pace::of(batch)).collect();
        let seconds = arguments.seconds.into();
        let (turns, turn) = if paces.len() > 1 { (seconds, 1) } else { (1, seconds) };
        for _ in 0..turns {
            for (threads, pace) in arguments.threads.iter().zip(&mut paces) {
                self.pace(probes, *threads, Duration::from_secs(turn), pace);
            }
        }
        paces
    }

    /// Searches on so many threads for so long.
    fn pace(&self, probes: &[CanonicalEmbedding], threads: u16, within: Duration, pace: &mut Pace) {
        let batches: Vec<&[CanonicalEmbedding]> = probes.chunks_exact(pace.batch).collect();
        self.search(batches[0]);
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        let mut per_second = 0.0;
        thread::scope(|scope| {
            let search = || {
                let mut took = Vec::new();
                while started.elapsed() < within {
                    let batch = batches[next.fetch_add(1, Ordering::Relaxed) % batches.len()];
                    let begun = Instant::now();
                    std::hint::black_box(self.search(batch));
                    took.push(begun.elapsed());
                }
                // Each thread by its own clock: the last search of another is no time of this one.
                (rate(took.len() * batches[0].len(), started.elapsed()), took)
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(search)).collect();
            for thread in threads {
                let (of_thread, took) = thread.join().expect("a search does not panic");
                per_second += of_thread;
                pace.took.extend(took);
            }
        });
        pace.turns.push(per_second);
    }
}

/// Searches, each for a batch of probes.
struct Pace {
    batch: usize,
    /// How long each search took.
    took: Vec<Duration>,
    /// Probes per second in each turn.
    turns: Vec<f64>,
}

impl Pace {
    fn of(batch: usize) -> Self {
        Self { batch, took: Vec::new(), turns: Vec::new() }
    }

    fn searches(&self) -> usize {
        self.took.len() * self.batch
    }

    fn per_second(&self) -> f64 {
        self.turns.iter().sum::<f64>() / self.turns.len() as f64
    }
}

/// Bytes that so many threads read in a second, each of a part of its own, of memory that no cache holds: the best of several turns.
fn read_rate(threads: u16) -> f64 {
    let words = measured::words(READ_BYTES / size_of::<u64>());
    let turn = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for part in words.chunks(words.len().div_ceil(threads.into())) {
                scope.spawn(|| std::hint::black_box(part.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word))));
            }
        });
        READ_BYTES as f64 / started.elapsed().as_secs_f64()
    };
    (0..READ_TURNS).map(|_| turn()).fold(0.0, f64::max)
}

/// Table entries that so many threads look up and add up in a second.
fn lookup_rate(threads: u16) -> f64 {
    let started = Instant::now();
    let count = || {
        let mut lookups = 0;
        while started.elapsed() < LOOK_UP_FOR {
            lookups += measured::lookups(LOOKUP_ROUNDS);
        }
        lookups
    };
    let lookups: u64 = thread::scope(|scope| {
        let counting: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        counting.into_iter().map(|thread| thread.join().expect("counting does not panic")).sum()
    });
    lookups as f64 / started.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_of_a_factory_parts_no_names() {
        let names = |text: &str| engine_names(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(names("faiss:IVF64,Flat,exact"), ["faiss:IVF64,Flat", "exact"]);
        assert_eq!(names("exact,Flat,faiss:IVF4"), ["exact", "Flat", "faiss:IVF4"]);
    }
}
