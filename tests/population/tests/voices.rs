//! The real voices that ship with the project have the figures stated about them, and enrolling them one by one by
//! label gives the rates that the demonstration may expect. `--nocapture` prints them.

use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use semel_index::{ComparisonScore, Proportion};
use semel_population::{EnrolmentRates, Oracle, Row, Subject, Truth};

const DIMENSION: usize = 256;
const ROWS: usize = 525;
const SPEAKERS: usize = 49;
/// Orders averaged over.
const ORDERS: u64 = 20;

fn testdata(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata").join(file)
}

/// Embeddings and speakers by row.
fn voices() -> (Vec<Vec<f32>>, Vec<Subject>) {
    let bytes = fs::read(testdata("voices_ge2e256.npy")).expect("the voices ship with the project");
    let array = npyz::NpyFile::new(&bytes[..]).expect("an npy file");
    assert_eq!(array.shape(), [ROWS as u64, DIMENSION as u64]);
    let values: Vec<f32> = array.into_vec().expect("of 32-bit floats");
    let mut table = csv::Reader::from_path(testdata("voices.csv")).expect("the table ships with the voices");
    let speaker = |(row, record): (usize, Result<csv::StringRecord, csv::Error>)| {
        let record = record.expect("a csv row");
        assert_eq!(record[0].parse(), Ok(row), "the table is in the array's order");
        Subject(record[1].trim_start_matches('s').parse().expect("speakers are s001 to s049"))
    };
    let speakers: Vec<_> = table.records().enumerate().map(speaker).collect();
    assert_eq!(speakers.len(), ROWS);
    (values.chunks_exact(DIMENSION).map(<[f32]>::to_vec).collect(), speakers)
}

fn oracle_in_order(order: &[usize]) -> (Oracle, Truth) {
    let (embeddings, speakers) = voices();
    let oracle = Oracle::from_embeddings(DIMENSION as u32, order.iter().map(|row| &embeddings[*row]));
    let truth = Truth::from_subjects(order.iter().map(|row| speakers[*row]).collect());
    (oracle.expect("voices are embeddings"), truth)
}

fn score(value: f64) -> ComparisonScore {
    ComparisonScore::from_f64(value).expect("in range")
}

#[test]
fn voices_have_the_score_statistics_stated_about_them() {
    let (oracle, truth) = oracle_in_order(&(0..ROWS).collect::<Vec<_>>());
    let statistics = oracle.statistics(0..oracle.rows(), &truth);
    let (genuine, impostor) = (&statistics.genuine, &statistics.impostor);
    assert_eq!((genuine.count(), impostor.count()), (2_662, 134_888));
    let cases = [
        (genuine.mean(), 0.868),
        (genuine.sd(), 0.048),
        (impostor.mean(), 0.568),
        (impostor.sd(), 0.073),
        (genuine.below(score(0.8)).value(), 0.092),
        (impostor.at_or_above(score(0.8)).value(), 0.000_6),
    ];
    for (measured, stated) in cases {
        let measured = measured.expect("there are scores");
        assert!((measured - stated).abs() < 0.001, "{measured} for {stated}");
    }
}

#[test]
fn voices_enrolled_one_by_one_have_the_rates_the_demonstration_states() {
    let mut total = EnrolmentRates::default();
    for seed in 0..ORDERS {
        let mut order: Vec<usize> = (0..ROWS).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let (oracle, truth) = oracle_in_order(&order);
        let pairs = oracle.pairs_reaching(0..oracle.rows(), score(0.8));
        let flagged: Vec<(Row, Row)> = pairs.iter().map(|pair| (pair.earlier, pair.later)).collect();
        let rates = EnrolmentRates::count(&truth, flagged);
        println!("order {seed}: FNIR {}; FPIR {}", rates.missed, rates.false_alarms);
        assert_eq!(rates.missed.of as usize, ROWS - SPEAKERS);
        assert_eq!(rates.false_alarms.of as usize, SPEAKERS);
        // The pairs do not depend on the order, only which row of each is the later one.
        assert_eq!((rates.mated_pairs.count, rates.stranger_pairs), (2_418, 86));
        for (sum, rate) in [(&mut total.missed, rates.missed), (&mut total.false_alarms, rates.false_alarms)] {
            *sum = Proportion { count: sum.count + rate.count, of: sum.of + rate.of };
        }
    }
    println!("mean of {ORDERS} orders: FNIR {:?}, FPIR {:?}", total.missed.value(), total.false_alarms.value());
    let within = |rate: Proportion, low: f64, high: f64| rate.value().is_some_and(|value| (low..high).contains(&value));
    assert!(within(total.missed, 0.008, 0.018), "FNIR {}", total.missed);
    assert!(within(total.false_alarms, 0.0, 0.05), "FPIR {}", total.false_alarms);
}
