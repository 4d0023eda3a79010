//! The recall audit: a sample of live probes is searched exactly too, mates are planted for the engines to find, and what engines missed is
//! counted for each gallery.
//!
//! Runs on one thread of its own, which rests in proportion to what an audit took. What is planted, and what counts as missed, is
//! `semel-index`'s; here it is when, and what is made of it. Counts begin anew with the process, and when a gallery's miss budget changes.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use semel_index::{CatalogueSnapshot, GalleryId, Proportion, SearchProbe, ShardSearch, Unanswered};
use semel_shard::SearchMoment;
use semel_telemetry::Families;

/// Below so many misses there is no alarm: one alone, however early, may be the one that the budget allows.
const ALARM_MISSED_MIN: u64 = 3;

/// Audits one search now and then.
pub(crate) struct RecallAudit {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
}

#[derive(Default)]
struct Shared {
    /// Whether the next search is to be audited.
    wanted: AtomicBool,
    ended: AtomicBool,
    galleries: Mutex<BTreeMap<GalleryId, GalleryRecall>>,
}

/// What one probe found in one moment.
struct Job {
    moment: SearchMoment,
    probe: SearchProbe,
    found: ShardSearch,
}

/// What was missed in one gallery, here and under one miss budget.
#[derive(Debug, Clone, PartialEq, Default)]
struct GalleryRecall {
    miss_budget_ppb: u32,
    /// Live probes that were searched exactly too.
    probes: u64,
    /// Of the candidates of those, the ones that the engines had not found.
    live: Proportion,
    /// Of the mates planted, the ones that the engines did not propose.
    planted: Proportion,
    alarmed: bool,
}

impl RecallAudit {
    /// Audits on a thread that takes so many thousandths of one core's time; 0 = never.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(permille: u32) -> std::io::Result<Self> {
        let (jobs, received) = sync_channel(1);
        let shared = Arc::new(Shared { wanted: AtomicBool::new(permille > 0), ..Shared::default() });
        let at_work = Arc::clone(&shared);
        if permille > 0 {
            std::thread::Builder::new()
                .name("recall-audit".to_owned())
                .spawn(move || at_work.work(&received, permille))?;
        }
        Ok(Self { shared, jobs })
    }

    /// Takes one of the probes that were searched in a moment, if it is time for one.
    pub(crate) fn offer(&self, moment: &SearchMoment, probes: &[SearchProbe], answers: &[ShardSearch]) {
        if probes.is_empty() || !self.shared.wanted.swap(false, Ordering::Relaxed) {
            return;
        }
        let number = rand::random_range(0..probes.len());
        let job = Job { moment: moment.clone(), probe: probes[number].clone(), found: answers[number].clone() };
        // It is only full if the thread still rests; then there is no audit this time.
        let _ = self.jobs.try_send(job);
    }

    /// Writes what was counted.
    pub(crate) fn show(&self, families: &mut Families<'_>) -> fmt::Result {
        let galleries = self.shared.galleries().clone();
        let counts =
            |of: fn(&GalleryRecall) -> u64| galleries.iter().map(move |(id, recall)| (id.as_str(), of(recall)));
        let ratios =
            |of: fn(&GalleryRecall) -> f64| galleries.iter().map(move |(id, recall)| (id.as_str(), of(recall)));
        families.counters(
            "semel_recall_live_probes_total",
            "Probes that were searched exactly too, to see what the engines missed",
            "gallery",
            counts(|recall| recall.probes),
        )?;
        families.counters(
            "semel_recall_live_mates_total",
            "Candidates that these exact searches found",
            "gallery",
            counts(|recall| recall.live.of),
        )?;
        families.counters(
            "semel_recall_live_mates_missed_total",
            "Candidates that the exact searches found and the engines had missed",
            "gallery",
            counts(|recall| recall.live.count),
        )?;
        families.counters(
            "semel_recall_planted_mates_total",
            "Mates planted just above the threshold for the engines to find",
            "gallery",
            counts(|recall| recall.planted.of),
        )?;
        families.counters(
            "semel_recall_planted_mates_missed_total",
            "Planted mates that the engines missed",
            "gallery",
            counts(|recall| recall.planted.count),
        )?;
        families.gauges_f64(
            "semel_recall_miss_ratio_low",
            "The least share of mates missed that what was seen allows, with 97.5 % confidence",
            "gallery",
            ratios(|recall| recall.missed().interval95().low),
        )?;
        families.gauges_f64(
            "semel_recall_miss_ratio_high",
            "The largest share of mates missed that what was seen allows, with 97.5 % confidence",
            "gallery",
            ratios(|recall| recall.missed().interval95().high),
        )?;
        families.gauges_f64(
            "semel_recall_miss_budget_ratio",
            "The share of mates that the gallery's policy allows engines to miss",
            "gallery",
            ratios(GalleryRecall::budget),
        )?;
        families.gauges(
            "semel_recall_over_budget",
            "1 where engines miss more mates than the budget allows",
            "gallery",
            counts(|recall| recall.is_over_budget().into()),
        )
    }
}

impl Drop for RecallAudit {
    /// The thread ends within the time of a few comparisons.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn work(&self, jobs: &Receiver<Job>, permille: u32) {
        while let Ok(job) = jobs.recv() {
            let began = Instant::now();
            // An engine that panics must not end the audits in silence; of this one nothing was noted yet.
            if catch_unwind(AssertUnwindSafe(|| self.audit(&job))).is_err() {
                tracing::error!("a recall audit panicked; the next one comes as usual");
            }
            drop(job);
            let rest = began.elapsed() * (1_000 - permille.min(1_000)) / permille;
            match rest_until_ended(jobs, rest) {
                Rested::Ended => return,
                Rested::Enough => self.wanted.store(true, Ordering::Relaxed),
            }
        }
    }

    fn audit(&self, job: &Job) {
        let Some(miss_budget_ppb) = job.probe.references.iter().map(|reference| reference.miss_budget_ppb).max() else {
            return;
        };
        let seen = seen(job.moment.catalogue(), &job.probe, &job.found, rand::random(), &|| {
            self.ended.load(Ordering::Relaxed)
        });
        match seen {
            Ok(Some(Seen { live, planted })) => {
                self.note(&job.probe.gallery, miss_budget_ppb, live, planted);
            }
            Ok(None) | Err(Unanswered::Cancelled(_)) => {}
            // A search that meets them has the catalogue loaded again.
            Err(Unanswered::Unreadable(error)) => tracing::warn!(%error, "no recall audit"),
        }
    }

    fn note(&self, gallery: &GalleryId, miss_budget_ppb: u32, live: Proportion, planted: Proportion) {
        let mut galleries = self.galleries();
        let recall = galleries.entry(gallery.clone()).or_default();
        if recall.miss_budget_ppb != miss_budget_ppb {
            *recall = GalleryRecall { miss_budget_ppb, ..GalleryRecall::default() };
        }
        recall.probes += 1;
        recall.live += live;
        recall.planted += planted;
        if recall.is_over_budget() && !recall.alarmed {
            recall.alarmed = true;
            let (missed, budget) = (recall.missed(), recall.budget());
            tracing::error!(
                gallery = gallery.as_str(), %missed, budget,
                "engines miss more mates than the gallery's budget allows: have it compared exactly (`semel gallery update {gallery} --engine exact`) \
                 until the cause is known"
            );
        }
    }

    fn galleries(&self) -> MutexGuard<'_, BTreeMap<GalleryId, GalleryRecall>> {
        self.galleries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one audit saw.
struct Seen {
    live: Proportion,
    planted: Proportion,
}

/// `None` where no engine had a part in the search.
fn seen(
    catalogue: &CatalogueSnapshot,
    probe: &SearchProbe,
    found: &ShardSearch,
    seed: u64,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<Seen>, Unanswered> {
    let planted = catalogue.planted_missed(probe, seed)?;
    if planted.of == 0 {
        return Ok(None);
    }
    Ok(Some(Seen { live: catalogue.live_missed(probe, found, cancelled)?, planted }))
}

enum Rested {
    Enough,
    Ended,
}

/// Nothing comes meanwhile but, at most, what was sent as the rest began.
fn rest_until_ended(jobs: &Receiver<Job>, rest: Duration) -> Rested {
    let until = Instant::now() + rest;
    loop {
        match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return Rested::Enough,
            Err(RecvTimeoutError::Disconnected) => return Rested::Ended,
        }
    }
}

impl GalleryRecall {
    fn missed(&self) -> Proportion {
        let mut missed = self.live;
        missed += self.planted;
        missed
    }

    fn budget(&self) -> f64 {
        f64::from(self.miss_budget_ppb) * 1e-9
    }

    fn is_over_budget(&self) -> bool {
        let missed = self.missed();
        missed.count >= ALARM_MISSED_MIN && missed.interval95().low > self.budget()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gallery() -> GalleryId {
        "people".parse().expect("valid")
    }

    fn recall(shared: &Shared) -> GalleryRecall {
        shared.galleries()[&gallery()].clone()
    }

    #[test]
    fn an_alarm_needs_more_misses_than_chance_gives() {
        let shared = Shared::default();
        let none = Proportion::default();
        let note = |budget, count, of| shared.note(&gallery(), budget, none, Proportion { count, of });
        // 30 in a million are allowed: of 200,000 some six.
        for _ in 0..2_000 {
            note(30_000, 0, 64);
        }
        note(30_000, 6, 64);
        assert!(!recall(&shared).is_over_budget(), "{:?}", recall(&shared).missed());
        note(30_000, 10, 64);
        assert!(recall(&shared).is_over_budget() && recall(&shared).alarmed);
        // Another budget is another question.
        note(1_000_000, 2, 64);
        assert_eq!(recall(&shared).planted, Proportion { count: 2, of: 64 });
        assert!(!recall(&shared).is_over_budget(), "two are not enough, however few mates there were");
        note(1_000_000, 1, 64);
        assert!(recall(&shared).is_over_budget());
    }

    #[test]
    fn live_and_planted_mates_count_together() {
        let shared = Shared::default();
        shared.note(&gallery(), 30_000, Proportion { count: 1, of: 2 }, Proportion { count: 2, of: 64 });
        let recall = recall(&shared);
        assert_eq!((recall.probes, recall.missed()), (1, Proportion { count: 3, of: 66 }));
        assert!(recall.is_over_budget());
    }
}
