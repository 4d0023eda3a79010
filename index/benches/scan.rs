//! Throughput of the exact scan: `cargo bench -p semel-index`.
//!
//! References per second and core decide how many cores a gallery needs. Timings are printed, never asserted. They are
//! of the thread's own processor time where the system tells it, so that a busy machine distorts them less.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semel_index::measured::{Counting, MeasuredScan};
use semel_index::{
    BinaryCode, BinaryCodeSpec, CanonicalEmbedding, Catalogue, CatalogueConfig, ComparisonScore, EnrolmentId,
    GalleryId, KeyVersion, Modality, Position, ProbeReference, SearchProbe, Slot, StagedEnrolment, StagedReference,
    Template, TemplateSpec,
};

const KEY: KeyVersion = KeyVersion(1);
const MEASURE_MIN: Duration = Duration::from_secs(2);
const SAMPLE_MIN: Duration = Duration::from_millis(200);
const SAMPLES: usize = 5;
const BATCH: usize = 64;
const THRESHOLD: ComparisonScore = ComparisonScore::from_micros(650_000).expect("in range");

fn main() {
    measure_binary_kernel();
    println!("exact scan through a catalogue snapshot, no mates");
    println!(
        "{:>9} {:>24} {:>7} {:>14} {:>14} {:>16} {:>10}",
        "N", "template", "threads", "one by one /s", "batches of 64", "pairs/s batched", "GB/s alone"
    );
    for (references, dimension) in [(200_000, 512), (100_000, 512), (100_000, 256)] {
        let spec = TemplateSpec::Embedding { dimension };
        measure(references, spec, &format!("{dimension}-d embedding"), Modality::Face, Position::Only, 1);
    }
    let layout = BinaryCodeSpec { rows: 16, columns: 64, bits_per_cell: 2, shifts_max: 8, common_bits_min: 700 };
    let spec = TemplateSpec::BinaryCode(layout);
    for threads in [1, 2] {
        measure(100_000, spec, "2,048 bits, +-8 shifts", Modality::Iris, Position::LeftEye, threads);
    }
}

fn measure(references: usize, spec: TemplateSpec, name: &str, modality: Modality, position: Position, threads: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let gallery = GalleryId::try_from("bench").expect("valid");
    let slot = Slot::new(modality, position).expect("exists");
    let mut catalogue = Catalogue::new(CatalogueConfig::default());
    for number in 0..references {
        catalogue.stage(
            number as u64,
            StagedEnrolment {
                gallery: gallery.clone(),
                enrolment_id: EnrolmentId::try_from(number.to_string()).expect("valid"),
                key_version: KEY,
                references: vec![StagedReference { slot, spec, template: template(&spec, &mut random) }],
            },
        );
    }
    let snapshot = catalogue.snapshot();
    let probes: Vec<SearchProbe> = (0..BATCH)
        .map(|_| SearchProbe {
            gallery: gallery.clone(),
            key_version: KEY,
            references: vec![ProbeReference {
                slot,
                spec,
                template: template(&spec, &mut random),
                threshold: THRESHOLD,
                miss_budget_ppb: semel_index::MISS_BUDGET_PPB_DEFAULT,
            }],
            exclude: None,
            candidates_max: 16,
        })
        .collect();
    // Each thread by its own clock: what so many processors do.
    let per_second_and_thread = |batch: usize| {
        let (clock, mut searched) = (Clock::start(), 0);
        for probes in probes.chunks(batch).cycle() {
            black_box(snapshot.search(probes, &|| false).expect("not cancelled"));
            searched += probes.len();
            if clock.elapsed() >= MEASURE_MIN {
                break;
            }
        }
        searched as f64 / clock.elapsed().as_secs_f64()
    };
    let per_second = |batch: usize| {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| per_second_and_thread(batch))).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).sum::<f64>()
        })
    };
    let (alone, batched) = (per_second(1), per_second(BATCH));
    let row_bytes = match spec {
        TemplateSpec::Embedding { dimension } => 2 * u64::from(dimension),
        TemplateSpec::BinaryCode(layout) => 2 * layout.bytes(),
    };
    println!(
        "{references:>9} {name:>24} {threads:>7} {alone:>14.1} {batched:>14.1} {:>16.3e} {:>10.1}",
        batched * references as f64,
        alone * references as f64 * row_bytes as f64 / 1e9
    );
}

/// Every path of the kernel of binary codes, alone: 16 probes, all of them strangers.
fn measure_binary_kernel() {
    println!(
        "binary codes by each path of the kernel, 1 thread, 8,192 references, 16 probes, no mates, threshold {THRESHOLD}"
    );
    println!(
        "{:>6} {:>7} {:>6} {:>9} {:>18} {:>18} {:>14}",
        "bits", "shifts", "valid", "path", "10^6/s to the end", "10^6/s as it is", "decided early"
    );
    for (columns, bits_per_cell, shifts_max, valid) in
        [(64, 2, 8, 1.0), (64, 2, 8, 0.85), (64, 2, 8, 0.7), (128, 1, 15, 0.7), (256, 2, 8, 0.7)]
    {
        let bits = 16 * columns * bits_per_cell;
        let layout = BinaryCodeSpec { rows: 16, columns, bits_per_cell, shifts_max, common_bits_min: bits / 3 };
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut codes =
            |count: usize| (0..count).map(|_| binary_code(&layout, valid, &mut random)).collect::<Vec<BinaryCode>>();
        let (rows, probes) = (codes(8192), codes(16));
        let scan = |counting| MeasuredScan::new(layout, &rows, &probes, THRESHOLD, counting);
        let (to_the_end, as_it_is) = (scan(Counting::ToTheEnd), scan(Counting::UntilDecided));
        for (path, name) in MeasuredScan::paths().iter().enumerate() {
            assert_eq!(to_the_end.run(path), as_it_is.run(path), "what is reported does not depend on it");
            let millions = |scan: &MeasuredScan| {
                let best = (0..SAMPLES).map(|_| seconds_each(|| black_box(scan.run(path)))).fold(f64::MAX, f64::min);
                (rows.len() * probes.len()) as f64 / best / 1e6
            };
            println!(
                "{bits:>6} {:>7} {valid:>6.2} {name:>9} {:>18.2} {:>18.2} {:>13.1}%",
                2 * shifts_max + 1,
                millions(&to_the_end),
                millions(&as_it_is),
                100.0 * as_it_is.decided_early(path)
            );
        }
    }
}

/// Processor time of one call, over as many as a fair sample takes: the system counts it in steps of some milliseconds.
fn seconds_each<T>(mut run: impl FnMut() -> T) -> f64 {
    let (clock, mut runs) = (Clock::start(), 0);
    while clock.elapsed() < SAMPLE_MIN {
        run();
        runs += 1;
    }
    clock.elapsed().as_secs_f64() / f64::from(runs)
}

/// Processor time of this thread on Linux, else wall time.
struct Clock {
    wall: Instant,
    processor: Option<Duration>,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), processor: processor_time() }
    }

    fn elapsed(&self) -> Duration {
        match (self.processor, processor_time()) {
            (Some(start), Some(now)) => now.saturating_sub(start),
            (None, _) | (_, None) => self.wall.elapsed(),
        }
    }
}

fn processor_time() -> Option<Duration> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    statistics.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn template(spec: &TemplateSpec, random: &mut ChaCha8Rng) -> Template {
    match spec {
        TemplateSpec::Embedding { dimension } => {
            let components: Vec<f32> = (0..*dimension).map(|_| random.random_range(-1.0..1.0)).collect();
            Template::Embedding(CanonicalEmbedding::from_f32(&components).expect("finite and not zero"))
        }
        TemplateSpec::BinaryCode(layout) => Template::BinaryCode(binary_code(layout, 0.75, random)),
    }
}

/// A code of random bits, each valid with a probability.
fn binary_code(layout: &BinaryCodeSpec, valid: f64, random: &mut ChaCha8Rng) -> BinaryCode {
    let mut bytes = |share: f64| -> Vec<u8> {
        let mut byte = || (0..8).fold(0, |byte, bit| byte | u8::from(random.random_bool(share)) << bit);
        (0..layout.bytes()).map(|_| byte()).collect()
    };
    let (code, mask) = (bytes(0.5), bytes(valid));
    BinaryCode::from_bytes(layout, &code, &mask).expect("whole bytes")
}
