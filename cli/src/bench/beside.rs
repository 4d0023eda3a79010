//! Searches of one shard beside enrolments that come in, and without, in turns.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use semel_index::{
    Calibration, CanonicalEmbedding, CatalogueConfig, EnrolmentId, MISS_BUDGET_PPB_DEFAULT, SearchProbe, ShardSearch,
};
use semel_node::measured::MeasuredShard;
use serde::Serialize;

use super::people::People;
use super::twin::{self, TwinConfig};
use super::{percent, rate, shown};
use crate::output::{self, Progress, grouped};

/// Probes searched together.
const BATCH: usize = 64;
/// How long one turn takes, at least. Short beside the time in which a segment becomes full: growing rows are compared one by one, so
/// that turns of either kind must meet as many.
const TURN: Duration = Duration::from_millis(1_000 / TURNS_PER_SECOND);
const TURNS_PER_SECOND: u64 = 4;
/// Enrolments published together at most; a node's group publishes what one turn of it applied.
const PUBLISHED_TOGETHER_MAX: usize = 256;
/// How long who enrols waits where none is due, and who seals where nothing is full.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);
/// A turn with enrolments ends only once what became full in it is sealed: there are people for so much more time.
const SPARE_SECONDS: usize = 20;

/// What is measured.
pub(super) struct Beside {
    pub(super) references: u32,
    pub(super) probes: usize,
    pub(super) threads: u16,
    pub(super) enrolments_per_second: u32,
    /// Of turns with enrolments, and as many without.
    pub(super) seconds: u32,
    pub(super) seed: u64,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    references: u32,
    dimension: u32,
    threads: u16,
    threshold: f64,
    engine: String,
    sealed_at: usize,
    turns: usize,
    alone_probes_per_second: f64,
    beside_probes_per_second: f64,
    loss: f64,
    enrolments_asked_per_second: u32,
    enrolments_per_second: f64,
    enrolments: usize,
    segments_sealed: usize,
    growing_first: usize,
    growing_last: usize,
    acknowledged_looked_for: usize,
    acknowledged_missed: usize,
}

impl Figures {
    /// Whether there was anything beside the searches.
    pub(super) fn has_enrolments(&self) -> bool {
        self.enrolments > 0
    }

    /// Whether every enrolment was found by the search after its acknowledgement.
    pub(super) fn are_sound(&self) -> bool {
        self.acknowledged_missed == 0
    }
}

/// What turns of one kind came to.
#[derive(Default)]
struct Sum {
    searching: Duration,
    enrolling: Duration,
    probes: usize,
    enrolments: usize,
    looked_for: usize,
    missed: usize,
    sealed: usize,
}

/// Fills a shard, then measures it.
pub(super) fn measure(what: &Beside, config: &TwinConfig) -> anyhow::Result<Figures> {
    let more = what.enrolments_per_second as usize * (what.seconds as usize + SPARE_SECONDS);
    let count = u32::try_from(what.references as usize + more).context("more people than there can be")?;
    let people = People::new(count, what.seed);
    let canonical = |values: Vec<f32>| CanonicalEmbedding::from_f32(&values).expect("drawn embeddings are valid");
    let references = people.references(canonical);
    let probes = people.probes(what.probes, canonical);
    let probes = probes.iter().map(|each| twin::probe(config, each, MISS_BUDGET_PPB_DEFAULT)).collect();
    let calibration = Calibration { thresholds: vec![config.threshold], miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT };
    let shard = MeasuredShard::new(CatalogueConfig {
        seal_at_references: config.seal_at_references,
        engine: std::sync::Arc::clone(&config.engine),
        calibration,
        ..CatalogueConfig::default()
    });
    let turns = Turns { config, shard, references, probes, acknowledged: AtomicUsize::new(0), threads: what.threads };
    turns.fill(what.references as usize);
    let growing_first = turns.growing();
    // Caches and pages.
    turns.take(None)?;
    let (mut alone, mut beside) = (Sum::default(), Sum::default());
    let mut progress = Progress::start(
        "searching with and without enrolments, in turns",
        Some(u64::from(what.seconds) * TURNS_PER_SECOND),
    );
    let mut taken = 0;
    while beside.searching < Duration::from_secs(what.seconds.into()) * what.threads.into() {
        // Each kind goes first as often as the other.
        let rates = [None, Some(what.enrolments_per_second)];
        let order: [usize; 2] = if taken % 2 == 0 { [0, 1] } else { [1, 0] };
        for place in order {
            let sum = turns.take(rates[place])?;
            if place == 0 { &mut alone } else { &mut beside }.add(sum);
        }
        taken += 1;
        progress.advance(String::new);
    }
    progress.finish();
    let pace = |sum: &Sum| rate(sum.probes, sum.searching) * f64::from(what.threads);
    Ok(Figures {
        references: what.references,
        dimension: people.dimension(),
        threads: what.threads,
        threshold: config.threshold.as_f64(),
        engine: config.engine.name().to_owned(),
        sealed_at: config.seal_at_references,
        turns: taken,
        alone_probes_per_second: pace(&alone),
        beside_probes_per_second: pace(&beside),
        loss: 1.0 - pace(&beside) / pace(&alone),
        enrolments_asked_per_second: what.enrolments_per_second,
        enrolments_per_second: rate(beside.enrolments, beside.enrolling),
        enrolments: beside.enrolments,
        segments_sealed: beside.sealed,
        growing_first,
        growing_last: turns.growing(),
        acknowledged_looked_for: beside.looked_for + alone.looked_for,
        acknowledged_missed: beside.missed + alone.missed,
    })
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.searching += other.searching;
        self.enrolling += other.enrolling;
        self.probes += other.probes;
        self.enrolments += other.enrolments;
        self.looked_for += other.looked_for;
        self.missed += other.missed;
        self.sealed += other.sealed;
    }
}

/// The shard, and who is enrolled in it next.
struct Turns<'a> {
    config: &'a TwinConfig,
    shard: MeasuredShard,
    references: Vec<CanonicalEmbedding>,
    probes: Vec<SearchProbe>,
    /// So many references are enrolled, and acknowledged.
    acknowledged: AtomicUsize,
    threads: u16,
}

impl Turns<'_> {
    fn fill(&self, count: usize) {
        let mut progress = Progress::start("filling a shard", Some(count as u64));
        while self.enrol(count) {
            (0..PUBLISHED_TOGETHER_MAX).for_each(|_| progress.advance(String::new));
            while self.shard.seal() > 0 {}
        }
        progress.finish();
    }

    /// Enrols the next ones, up to `due` in all; whether there were any.
    fn enrol(&self, due: usize) -> bool {
        let first = self.acknowledged.load(Ordering::Relaxed);
        let last = due.min(first + PUBLISHED_TOGETHER_MAX).min(self.references.len());
        if first >= last {
            return false;
        }
        let staged = |number: usize| twin::staged(self.config, id(number), &self.references[number]);
        self.shard.enrol((first..last).map(staged));
        self.acknowledged.store(last, Ordering::Release);
        true
    }

    fn growing(&self) -> usize {
        self.shard.collections().iter().map(|collection| collection.growing_references).sum()
    }

    /// One turn, with enrolments or without.
    fn take(&self, enrolments_per_second: Option<u32>) -> anyhow::Result<Sum> {
        let (began, ended) = (Instant::now(), AtomicBool::new(false));
        let before = self.acknowledged.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let search = |number: u16| {
                let ended = &ended;
                scope.spawn(move || self.search_until(number.into(), ended))
            };
            let searching: Vec<_> = (0..self.threads).map(search).collect();
            let enrolling = enrolments_per_second.map(|rate| {
                let ended = &ended;
                scope.spawn(move || self.enrol_until(rate, began, ended))
            });
            let sealed = self.seal_until_over(began);
            ended.store(true, Ordering::Relaxed);
            let mut sum = Sum { sealed, ..Sum::default() };
            for thread in searching {
                sum.add(thread.join().expect("a searching thread does not panic")?);
            }
            if let Some(enrolling) = enrolling {
                sum.enrolling = enrolling.join().expect("an enrolling thread does not panic");
                sum.enrolments = self.acknowledged.load(Ordering::Relaxed) - before;
            }
            Ok(sum)
        })
    }

    /// Seals what becomes full until the turn is over and nothing is left to seal.
    fn seal_until_over(&self, began: Instant) -> usize {
        let mut sealed = 0;
        loop {
            match self.shard.seal() {
                0 if began.elapsed() >= TURN => return sealed,
                0 => thread::sleep(LOOK_AGAIN_AFTER),
                some => sealed += some,
            }
        }
    }

    /// Enrols at a rate; for how long.
    fn enrol_until(&self, rate: u32, began: Instant, ended: &AtomicBool) -> Duration {
        let first = self.acknowledged.load(Ordering::Relaxed);
        while !ended.load(Ordering::Relaxed) {
            let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
            if !self.enrol(first + due) {
                thread::sleep(LOOK_AGAIN_AFTER);
            }
        }
        began.elapsed()
    }

    /// Searches for batches, in each of which one probe is the enrolment that was acknowledged last.
    fn search_until(&self, number: usize, ended: &AtomicBool) -> anyhow::Result<Sum> {
        let (began, mut sum) = (Instant::now(), Sum::default());
        let batches: Vec<&[SearchProbe]> = self.probes.chunks(BATCH).collect();
        let mut place = number * batches.len() / usize::from(self.threads);
        while !ended.load(Ordering::Relaxed) {
            let mut batch = batches[place % batches.len()].to_vec();
            let newest = self.acknowledged.load(Ordering::Acquire) - 1;
            batch[0] = twin::probe(self.config, &self.references[newest], MISS_BUDGET_PPB_DEFAULT);
            let answers = black_box(self.shard.search(&batch)).context("the counts of a search do not add up")?;
            sum.probes += batch.len();
            sum.looked_for += 1;
            sum.missed += usize::from(!names(&answers[0], &id(newest)));
            place += 1;
        }
        sum.searching = began.elapsed();
        Ok(sum)
    }
}

fn names(answer: &ShardSearch, enrolment_id: &EnrolmentId) -> bool {
    answer.candidates.iter().any(|candidate| candidate.enrolment_id == *enrolment_id)
}

fn id(number: usize) -> EnrolmentId {
    EnrolmentId::try_from(format!("r-{number}")).expect("a valid id")
}

/// The figures as people read them.
pub(super) fn show(figures: &Figures) {
    output::line(format!(
        "{} references x {} components, {} thread(s), batches of {BATCH}, threshold {}, engine {}, sealed at {}; {} turns of each kind",
        grouped(figures.references.into()),
        figures.dimension,
        figures.threads,
        figures.threshold,
        figures.engine,
        grouped(figures.sealed_at as u64),
        figures.turns,
    ));
    let mut table = output::table(["searches", "probes/s"]);
    table.add_row(["without enrolments".to_owned(), shown(figures.alone_probes_per_second)]);
    table.add_row([
        format!("beside {} enrolments/s", shown(figures.enrolments_per_second)),
        shown(figures.beside_probes_per_second),
    ]);
    table.add_row(["loss".to_owned(), percent(figures.loss)]);
    table.show();
    output::line(format!(
        "{} enrolments ({} a second asked for), {} segments sealed meanwhile, growing references {} at first, {} at last",
        grouped(figures.enrolments as u64),
        grouped(figures.enrolments_asked_per_second.into()),
        figures.segments_sealed,
        grouped(figures.growing_first as u64),
        grouped(figures.growing_last as u64),
    ));
    output::line(format!(
        "{} searches for the enrolment acknowledged last: {} missed it",
        grouped(figures.acknowledged_looked_for as u64),
        figures.acknowledged_missed,
    ));
}
