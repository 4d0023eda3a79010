//! A probe is searched under the miss budget it carries, whatever its neighbours in a batch carry and its segments were
//! calibrated for meanwhile.

mod support;

use std::sync::{Arc, Mutex, PoisonError};

use proptest::prelude::*;
use semel_index::{
    BuildError, Calibration, Catalogue, CatalogueConfig, ComparisonScore, EmbeddingRows, Engine, EngineProbe,
    KeyVersion, ProbeReference, Proportion, Proposal, SearchProbe, Segment, StagedEnrolment, StagedReference,
};
use support::{FACE_SPEC, enrolment, face, face_slot, gallery, score};

const KEY: KeyVersion = KeyVersion(1);
const SEGMENTS: usize = 2;
const SEGMENT_REFERENCES: usize = 5;
const GROWING_REFERENCES: usize = 2;

/// Its segments miss every mate wherever their calibration's budget permits to miss any.
#[derive(Debug)]
struct MissesAllItMay;

#[derive(Debug, Default)]
struct MissingSegment(Mutex<Calibration>);

impl Engine for MissesAllItMay {
    fn name(&self) -> &str {
        "misses all it may"
    }
    fn references_min(&self, _dimension: u32) -> usize {
        1
    }
    fn build(&self, _rows: Arc<EmbeddingRows>, calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        Ok(Box::new(MissingSegment(Mutex::new(calibration.clone()))))
    }
}

impl Segment for MissingSegment {
    fn engine(&self) -> &str {
        "misses all it may"
    }
    fn memory_bytes(&self) -> usize {
        0
    }
    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, miss_budget_ppb: u32) -> Vec<Proposal> {
        let calibration = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let proposal = match permits_a_miss(&calibration, threshold, miss_budget_ppb) {
            true => Proposal::Rows(Vec::new()),
            false => Proposal::ScanExactly,
        };
        vec![proposal; probes.len()]
    }
    fn calibrate(&self, _rows: &EmbeddingRows, calibration: &Calibration) -> Result<(), BuildError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = calibration.clone();
        Ok(())
    }
}

fn permits_a_miss(calibration: &Calibration, threshold: ComparisonScore, miss_budget_ppb: u32) -> bool {
    let measured = calibration.thresholds.iter().any(|measured| *measured <= threshold);
    measured && calibration.miss_budget_ppb <= miss_budget_ppb
}

fn any_threshold() -> impl Strategy<Value = ComparisonScore> {
    prop::sample::select(vec![score(400_000), score(500_000), score(600_000)])
}

fn any_budget() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![1_000_u32, 30_000, 1_000_000])
}

fn any_calibration() -> impl Strategy<Value = Calibration> {
    (prop::collection::vec(any_threshold(), 0..3), any_budget())
        .prop_map(|(thresholds, miss_budget_ppb)| Calibration { thresholds, miss_budget_ppb })
}

fn probe((threshold, miss_budget_ppb): (ComparisonScore, u32)) -> SearchProbe {
    let template = face(&[1.0, 2.0, 3.0, 4.0]);
    SearchProbe {
        gallery: gallery("people"),
        key_version: KEY,
        references: vec![ProbeReference { slot: face_slot(), spec: FACE_SPEC, template, threshold, miss_budget_ppb }],
        exclude: None,
        candidates_max: 100,
    }
}

/// A catalogue of one person enrolled again and again, with its full segments closed.
fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::new(CatalogueConfig {
        seal_at_references: SEGMENT_REFERENCES,
        seal_jobs_max: 1,
        engine: Arc::new(MissesAllItMay),
        ..CatalogueConfig::default()
    });
    for number in 0..(SEGMENTS * SEGMENT_REFERENCES + GROWING_REFERENCES) as u32 {
        let template = face(&[1.0, 2.0, 3.0, 4.0]);
        let references = vec![StagedReference { slot: face_slot(), spec: FACE_SPEC, template }];
        let enrolment_id = enrolment(number);
        catalogue.stage(1, StagedEnrolment { gallery: gallery("people"), enrolment_id, key_version: KEY, references });
    }
    catalogue
}

/// The audit sees every mate that an engine misses, and none that it does not.
#[test]
fn the_recall_audit_counts_what_engines_miss() {
    let mut catalogue = catalogue();
    let before = catalogue.snapshot().planted_missed(&probe((score(400_000), 30_000)), 1).expect("in memory");
    assert_eq!(before, Proportion::default(), "no engine has a part in it yet");
    let calibration = Calibration { thresholds: vec![score(400_000)], miss_budget_ppb: 30_000 };
    catalogue.set_calibration(&gallery("people"), face_slot(), calibration);
    while let Some(job) = catalogue.seal_jobs().pop() {
        catalogue.sealed(job.run());
    }
    let snapshot = catalogue.snapshot();
    let all = (SEGMENTS * SEGMENT_REFERENCES + GROWING_REFERENCES) as u64;
    // The looser budget lets the engine miss everything, the stricter one nothing.
    for (budget, missed) in [(30_000, (SEGMENTS * SEGMENT_REFERENCES) as u64), (1_000, 0)] {
        let probe = probe((score(400_000), budget));
        let found = snapshot.search(std::slice::from_ref(&probe), &|| false).expect("not cancelled").remove(0);
        let live = snapshot.live_missed(&probe, &found, &|| false).expect("not cancelled");
        assert_eq!(live, Proportion { count: missed, of: all });
        for seed in 0..4 {
            let planted = snapshot.planted_missed(&probe, seed).expect("in memory");
            assert!(planted.of >= 32 && planted.count == if missed > 0 { planted.of } else { 0 }, "{planted:?}");
        }
        let other = SearchProbe { gallery: gallery("nobody"), ..probe };
        assert_eq!(snapshot.planted_missed(&other, 0), Ok(Proportion::default()));
    }
}

proptest! {
    /// A tightened policy's probes were once answered by cuts of the looser budget until every segment was calibrated
    /// again.
    #[test]
    fn no_probe_is_searched_under_a_looser_budget_than_its_own(
        policies in prop::collection::vec((any_calibration(), 0..=SEGMENTS), 1..6),
        asked in prop::collection::vec((any_threshold(), any_budget()), 1..12),
    ) {
        let mut catalogue = catalogue();
        // What each segment was last calibrated with; a segment not built yet is scanned exactly.
        let mut calibrated: Vec<Option<Calibration>> = vec![None; SEGMENTS];
        let mut wanting: Vec<usize> = (0..SEGMENTS).collect();
        let mut current = Calibration::default();
        for (calibration, jobs) in policies {
            catalogue.set_calibration(&gallery("people"), face_slot(), calibration.clone());
            if current != calibration {
                wanting = (0..SEGMENTS).collect();
                current = calibration;
            }
            for _ in 0..jobs {
                let job = catalogue.seal_jobs().pop();
                prop_assert_eq!(job.is_some(), !wanting.is_empty());
                let Some(job) = job else { break };
                catalogue.sealed(job.run());
                // Segments are worked on in their order.
                calibrated[wanting.remove(0)] = Some(current.clone());
            }
            let probes: Vec<SearchProbe> = asked.iter().copied().map(probe).collect();
            let answers = catalogue.snapshot().search(&probes, &|| false).expect("not cancelled");
            for (answer, (threshold, budget)) in answers.iter().zip(&asked) {
                let missed = calibrated.iter().flatten().filter(|held| permits_a_miss(held, *threshold, *budget)).count();
                let found = (SEGMENTS - missed) * SEGMENT_REFERENCES + GROWING_REFERENCES;
                prop_assert_eq!(answer.candidates_total, found as u64, "{} within {}", threshold, budget);
            }
        }
    }
}
