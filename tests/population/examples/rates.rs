//! Rates of a preset by the exact oracle: score statistics of all pairs, and FNIR and FPIR when a duplicate workload is
//! enrolled one by one. Not a test: it prints what a report should expect.
//!
//! `cargo run --release -p semel-population --example rates -- [preset] [people] [threshold] [seed] [threads]`

use std::thread;

use semel_index::ComparisonScore;
use semel_population::{
    CaptureNumber, EnrolmentRates, Multiplicity, Oracle, PersonId, Population, Preset, RegistrationPlan, Relation,
    ScoreDistribution, ScoreStatistics, ScoredPair, Seed, Truth, Workload,
};

/// Ranges handed to the threads: enough that none waits long for the last.
const RANGES: u32 = 64;
/// Mated pairs drawn apart from the workload, for a closer look at the matcher's own misses.
const MATED_PAIRS: u32 = 100_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |place: usize, default: &str| arguments.get(place).map_or(default, String::as_str).to_owned();
    let preset: Preset = argument(0, "F1").parse()?;
    let people: u32 = argument(1, "20000").parse()?;
    let threshold = ComparisonScore::from_f64(argument(2, "0.42").parse()?).ok_or("the threshold is -1 to 1")?;
    let seed = Seed(argument(3, "1").parse()?);
    let threads: usize = argument(4, "2").parse()?;

    let population = Population::new(preset, seed, people);
    let workload = Workload { multiplicity: Multiplicity::Twice, ..Workload::default() };
    let plan = RegistrationPlan::new(&workload, seed, people)?;
    let truth = plan.truth(&population);
    println!(
        "preset {preset} ({}), seed {}, {people} people, {} registrations, dimension {}, effective dimension {:.1}, T = {threshold}",
        preset.source(),
        seed.0,
        plan.len(),
        population.dimension(),
        population.spectrum().effective_dimension(),
    );

    let captures =
        plan.registrations().map(|registration| population.capture(registration.person, registration.capture));
    let oracle = Oracle::from_embeddings(population.dimension() as u32, captures)?;
    let (statistics, pairs) = compare_all(&oracle, &truth, threshold, threads);
    for (name, scores) in [
        ("genuine", &statistics.genuine),
        ("impostor", &statistics.impostor),
        ("siblings", &statistics.siblings),
        ("twins", &statistics.twins),
    ] {
        print_scores(name, scores, threshold);
    }
    let rates = EnrolmentRates::count(&truth, pairs.iter().map(|pair| (pair.earlier, pair.later)));
    println!("FNIR {}", rates.missed);
    println!("FPIR {}", rates.false_alarms);
    println!("twins flagged {}", rates.twins_flagged);
    println!("mated pairs flagged {}", rates.mated_pairs);
    println!(
        "pairs flagged: twins {}, siblings {}, strangers {}",
        rates.twin_pairs, rates.sibling_pairs, rates.stranger_pairs
    );
    for pair in pairs.iter().filter(|pair| truth.relation(pair.earlier, pair.later) == Relation::Strangers) {
        println!("  strangers {} and {} score {}", pair.earlier.0, pair.later.0, pair.score);
    }
    print_scores("mated pairs of people 0.., captures 0 and 1", &mated_pairs(preset, seed)?, threshold);
    Ok(())
}

/// Score statistics of all pairs, and the pairs that reach the threshold.
fn compare_all(
    oracle: &Oracle,
    truth: &Truth,
    threshold: ComparisonScore,
    threads: usize,
) -> (ScoreStatistics, Vec<ScoredPair>) {
    let ranges = oracle.ranges(RANGES);
    let compare_share = |first: usize| {
        let (mut statistics, mut pairs) = (ScoreStatistics::default(), Vec::new());
        for range in ranges.iter().skip(first).step_by(threads) {
            statistics.merge(&oracle.statistics(range.clone(), truth));
            pairs.extend(oracle.pairs_reaching(range.clone(), threshold));
        }
        (statistics, pairs)
    };
    let (mut statistics, mut pairs) = (ScoreStatistics::default(), Vec::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn({
                    let compare_share = &compare_share;
                    move || compare_share(first)
                })
            })
            .collect();
        for worker in workers {
            let (part, reaching) = worker.join().expect("comparing does not panic");
            statistics.merge(&part);
            pairs.extend(reaching);
        }
    });
    (statistics, pairs)
}

fn print_scores(name: &str, scores: &ScoreDistribution, threshold: ComparisonScore) {
    if let (Some(mean), Some(sd), Some((low, high))) = (scores.mean(), scores.sd(), scores.range()) {
        let below = scores.below(threshold);
        println!("{name}: {} pairs, mean {mean:.4}, sd {sd:.4}, {low} to {high}; below T {below}", scores.count());
    }
}

/// The scores of captures 0 and 1 of many people: the matcher's own misses, with no index involved.
fn mated_pairs(preset: Preset, seed: Seed) -> Result<ScoreDistribution, Box<dyn std::error::Error>> {
    let population = Population::new(preset, seed, MATED_PAIRS);
    let mut scores = ScoreDistribution::default();
    for person in (0..MATED_PAIRS).map(PersonId) {
        let captures = [0, 1].map(|capture| population.capture(person, CaptureNumber(capture)));
        let pair = Oracle::from_embeddings(population.dimension() as u32, captures)?;
        pair.pairs_reaching(0..2, ComparisonScore::MIN).iter().for_each(|pair| scores.record(pair.score));
    }
    Ok(scores)
}
