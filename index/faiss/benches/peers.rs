//! Engines side by side on one thread: references compared, probes per second, and mates missed beside the exact scan.
//!
//! Times are the thread's processor time, so that a busy machine distorts them less. Set `OPENBLAS_NUM_THREADS=1`.
//!
//! `cargo bench -p semel-index-faiss -- [references] [dimension] [engine …]`; by default 100,000 of 512 dimensions.

#[path = "../tests/people/mod.rs"]
mod people;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use people::{Population, threshold};
use semel_index::{
    Calibration, CanonicalEmbedding, ComparisonScore, EmbeddingRows, EngineProbe, MISS_BUDGET_PPB_DEFAULT, Proposal,
    ScanProbe, Segment,
};
use semel_index_faiss::engine_by_name;

/// Standard deviation of impostor scores, as calibrated on faces.
const IMPOSTOR_DEVIATION: f64 = 0.065;
const THRESHOLD: f64 = 0.42;
/// Probes whose mate is enrolled.
const MATED: usize = 2_000;
const BATCH: usize = 64;
/// How long each rate is measured for.
const MEASURED: Duration = Duration::from_secs(4);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number =
        |place: usize, default: u32| arguments.get(place).map_or(default, |text| text.parse().expect("a number"));
    let (references, dimension) = (number(0, 100_000), number(1, 512));
    let mut engines: Vec<&str> = arguments.iter().skip(2).map(String::as_str).collect();
    if engines.is_empty() {
        engines = vec!["exact", "sketch", "faiss", "faiss:SQ8", "faiss:Flat"];
    }

    let mut population = Population::faces(dimension as usize, IMPOSTOR_DEVIATION, 1);
    let rows = Arc::new(population.rows(references));
    let at = threshold(THRESHOLD);
    let mated: Vec<CanonicalEmbedding> =
        (0..MATED).map(|place| population.mate(&rows, place * rows.len() / MATED, at)).collect();
    // As in a registry, nearly all probes have no mate.
    let unmated: Vec<CanonicalEmbedding> = (0..512).map(|_| people::canonical(&population.person())).collect();
    let truth = search(build("exact", &rows, at).0.as_ref(), &rows, &mated, at);
    let mates: usize = truth.iter().map(BTreeSet::len).sum();

    println!(
        "N = {references}, d = {dimension}, threads = 1, T = {at}, {mates} mates of {MATED} probes in [T, T + 0.05]"
    );
    println!(
        "| engine | built in | bytes/reference | probes/s one by one | in batches of {BATCH} | mates missed | proposed per probe |"
    );
    println!("|---|---|---|---|---|---|---|");
    for engine in engines {
        let (segment, built) = build(engine, &rows, at);
        let segment = segment.as_ref();
        let found = search(segment, &rows, &mated, at);
        let missed: usize = truth.iter().zip(&found).map(|(truth, found)| truth.difference(found).count()).sum();
        let (one, batch) = (rate(segment, &rows, &unmated, at, 1), rate(segment, &rows, &unmated, at, BATCH));
        let bytes = segment.memory_bytes() / rows.len();
        let proposed = proposed(segment, &unmated, at);
        println!("| {engine} | {built:.1} s | {bytes} | {one:.0} | {batch:.0} | {missed} | {proposed} |");
    }
}

fn build(engine: &str, rows: &Arc<EmbeddingRows>, at: ComparisonScore) -> (Box<dyn Segment>, f64) {
    let engine = engine_by_name(engine).expect("known");
    let calibration = Calibration { thresholds: vec![at], ..Calibration::default() };
    let start = processor_time();
    let segment = engine.build(Arc::clone(rows), &calibration).expect("built");
    (segment, (processor_time() - start).as_secs_f64())
}

fn propose(segment: &dyn Segment, probes: &[CanonicalEmbedding], at: ComparisonScore) -> Vec<Proposal> {
    let probes: Vec<EngineProbe> = probes.iter().map(EngineProbe::new).collect();
    let probes: Vec<&EngineProbe> = probes.iter().collect();
    segment.propose(&probes, at, MISS_BUDGET_PPB_DEFAULT)
}

/// The mates found by each probe, proposals re-scored as the catalogue does.
fn search(
    segment: &dyn Segment,
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    at: ComparisonScore,
) -> Vec<BTreeSet<usize>> {
    let mut found = vec![BTreeSet::new(); probes.len()];
    let mut exactly = Vec::new();
    for (place, proposal) in propose(segment, probes, at).into_iter().enumerate() {
        match proposal {
            Proposal::ScanExactly => exactly.push(place),
            Proposal::Rows(proposed) => {
                let proposed = proposed.into_iter().map(|row| row as usize);
                found[place].extend(proposed.filter(|row| rows.score(*row, &probes[place]) >= at));
            }
        }
    }
    let scan_probes: Vec<ScanProbe> = exactly.iter().map(|place| ScanProbe::new(&probes[*place], at)).collect();
    let scan_probes: Vec<&ScanProbe> = scan_probes.iter().collect();
    if !scan_probes.is_empty() {
        rows.scan(0..rows.len(), &scan_probes, &mut |probe, row, _| {
            found[exactly[probe]].insert(row);
        });
    }
    found
}

fn rate(
    segment: &dyn Segment,
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    at: ComparisonScore,
    batch: usize,
) -> f64 {
    let (start, mut searched) = (processor_time(), 0);
    for batch in probes.chunks_exact(batch).cycle() {
        search(segment, rows, batch, at);
        searched += u32::try_from(batch.len()).expect("a small batch");
        if processor_time() - start >= MEASURED {
            break;
        }
    }
    f64::from(searched) / (processor_time() - start).as_secs_f64()
}

/// What the calling thread has spent, in its own code and the kernel's.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread can ask for its own usage");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| {
            let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros(u64::try_from(micros).expect("time spent is not negative"))
        })
        .sum()
}

/// The mean number of rows proposed, or what is done instead.
fn proposed(segment: &dyn Segment, probes: &[CanonicalEmbedding], at: ComparisonScore) -> String {
    let proposals = propose(segment, probes, at);
    let counts: Vec<usize> = proposals
        .iter()
        .filter_map(|proposal| match proposal {
            Proposal::Rows(rows) => Some(rows.len()),
            Proposal::ScanExactly => None,
        })
        .collect();
    match counts.len() {
        0 => "all rows".to_owned(),
        some => format!(
            "{:.2} ({} of {} scan all rows)",
            counts.iter().sum::<usize>() as f64 / some as f64,
            probes.len() - some,
            probes.len()
        ),
    }
}
