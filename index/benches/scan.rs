//! Throughput of the exact scan, one thread: `cargo bench -p semel-index`.
//!
//! References per second and core decide how many cores a gallery needs. Timings are printed, never asserted. They are
//! of the thread's own processor time where the system tells it, so that a busy machine distorts them less.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semel_index::{
    BinaryCode, BinaryCodeSpec, CanonicalEmbedding, Catalogue, CatalogueConfig, EnrolmentId, GalleryId, KeyVersion,
    Modality, Position, ProbeReference, SearchProbe, Slot, StagedEnrolment, StagedReference, Template, TemplateSpec,
};

const KEY: KeyVersion = KeyVersion(1);
const MEASURE_MIN: Duration = Duration::from_secs(2);
const BATCH: usize = 64;

fn main() {
    println!("exact scan through a catalogue snapshot, 1 thread, no mates");
    println!(
        "{:>9} {:>24} {:>14} {:>14} {:>16} {:>10}",
        "N", "template", "one by one /s", "batches of 64", "pairs/s batched", "GB/s alone"
    );
    for (references, dimension) in [(200_000, 512), (100_000, 512), (100_000, 256)] {
        let spec = TemplateSpec::Embedding { dimension };
        measure(references, spec, &format!("{dimension}-d embedding"), Modality::Face, Position::Only);
    }
    let layout = BinaryCodeSpec { rows: 16, columns: 64, bits_per_cell: 2, shifts_max: 8, common_bits_min: 700 };
    measure(20_000, TemplateSpec::BinaryCode(layout), "2,048 bits, +-8 shifts", Modality::Iris, Position::LeftEye);
}

fn measure(references: usize, spec: TemplateSpec, name: &str, modality: Modality, position: Position) {
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
                threshold: semel_index::ComparisonScore::from_micros(650_000).expect("in range"),
                miss_budget_ppb: semel_index::MISS_BUDGET_PPB_DEFAULT,
            }],
            exclude: None,
            candidates_max: 16,
        })
        .collect();
    let per_second = |batch: usize| {
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
    let (alone, batched) = (per_second(1), per_second(BATCH));
    let row_bytes = match spec {
        TemplateSpec::Embedding { dimension } => 2 * u64::from(dimension),
        TemplateSpec::BinaryCode(layout) => 2 * layout.bytes(),
    };
    println!(
        "{references:>9} {name:>24} {alone:>14.1} {batched:>14.1} {:>16.3e} {:>10.1}",
        batched * references as f64,
        alone * references as f64 * row_bytes as f64 / 1e9
    );
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
        TemplateSpec::BinaryCode(layout) => {
            let mut bytes = || -> Vec<u8> { (0..layout.bytes()).map(|_| random.random()).collect() };
            let (code, mask) = (bytes(), bytes().iter().zip(bytes()).map(|(a, b)| a | b).collect::<Vec<u8>>());
            Template::BinaryCode(BinaryCode::from_bytes(layout, &code, &mask).expect("whole bytes"))
        }
    }
}
