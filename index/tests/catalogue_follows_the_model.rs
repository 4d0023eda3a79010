//! The catalogue against a naive model, under random sequences of everything its owner and its searchers do.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use semel_index::{
    Calibration, Catalogue, CatalogueConfig, CatalogueSnapshot, CompactionJob, KeyVersion, MISS_BUDGET_PPB_DEFAULT,
    ProbeReference, SealJob, SearchProbe, Slot, StagedEnrolment, StagedReference, Template, TemplateSpec,
};
use support::{
    BEHAVIOURS, Backwards, Behaviour, FACE_SPEC, IRIS_SPEC, Model, TestEngine, enrolment, face, face_slot, gallery,
    iris, iris_slot, score,
};

#[derive(Debug, Clone)]
enum Step {
    Stage(StagedEnrolment),
    Withdraw {
        gallery: bool,
        enrolment: u32,
    },
    Advance(u64),
    /// Keeps a snapshot for later searches.
    Publish,
    CloseGrowing {
        references_min: usize,
    },
    TakeSealJobs,
    /// Runs the oldest or the newest job taken.
    FinishSealJob {
        oldest: bool,
    },
    LoseSealJob,
    TakeCompaction,
    FinishCompaction,
    LoseCompaction,
    Calibrate {
        threshold: i32,
    },
    Search {
        searches: Vec<SearchProbe>,
        snapshot: usize,
    },
}

fn any_gallery() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("people"), 1 => Just("voices"), 1 => Just("empty")]
}

/// Few distinct templates, so that exact duplicates and equal scores are common.
fn any_reference() -> impl Strategy<Value = (Slot, TemplateSpec, Template)> {
    let component = || prop::sample::select(vec![-1.0_f32, 0.5, 1.0]);
    let of_four = [component(), component(), component(), component()].prop_map(|values| face(&values));
    let of_three = [component(), component(), component()].prop_map(|values| face(&values));
    let code = || prop::sample::select(vec![0b1010_1100_0111_u16 << 4, 0b0101_1000_1110 << 4, 0xfff0, 0x0f00]);
    let mask = || prop::sample::select(vec![0xfff0_u16, 0xff00, 0x00f0, 0x3ff0]);
    prop_oneof![
        5 => of_four.prop_map(|template| (face_slot(), FACE_SPEC, template)),
        1 => of_three.prop_map(|template| (face_slot(), TemplateSpec::Embedding { dimension: 3 }, template)),
        4 => (any::<bool>(), code(), mask()).prop_map(|(left, code, mask)| (iris_slot(left), IRIS_SPEC, iris(code, mask))),
    ]
}

fn any_references() -> impl Strategy<Value = Vec<(Slot, TemplateSpec, Template)>> {
    prop::collection::vec(any_reference(), 0..4).prop_map(|mut references| {
        references.sort_by_key(|(slot, ..)| *slot);
        references.dedup_by_key(|(slot, ..)| *slot);
        references
    })
}

fn key_version() -> impl Strategy<Value = KeyVersion> {
    prop_oneof![4 => Just(KeyVersion(1)), 1 => Just(KeyVersion(2))]
}

fn any_search() -> impl Strategy<Value = SearchProbe> {
    let thresholds = prop::sample::select(vec![-1_000_000, 0, 500_000, 750_000, 1_000_000]);
    let exclude = prop::option::of((0_u32..60).prop_map(enrolment));
    (any_gallery(), key_version(), any_references(), exclude, 0_usize..6, thresholds).prop_map(
        |(name, key_version, references, exclude, candidates_max, threshold)| SearchProbe {
            gallery: gallery(name),
            key_version,
            references: references
                .into_iter()
                .enumerate()
                .map(|(number, (slot, spec, template))| ProbeReference {
                    slot,
                    spec,
                    template,
                    // Slots of one probe differ in their thresholds, so that margins do not order as scores do.
                    threshold: score((threshold - 100_000 * number as i32).max(-1_000_000)),
                    // Budgets differ too, and so do the groups that a segment is asked for.
                    miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT + candidates_max as u32 % 2,
                })
                .collect(),
            exclude,
            candidates_max,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let stage = (any_gallery(), 0_u32..60, key_version(), any_references()).prop_map(
        |(name, number, key_version, references)| {
            // One gallery stays without an enrolment.
            let gallery = gallery(if name == "empty" { "people" } else { name });
            let reference = |(slot, spec, template)| StagedReference { slot, spec, template };
            let references = references.into_iter().map(reference).collect();
            Step::Stage(StagedEnrolment { gallery, enrolment_id: enrolment(number), key_version, references })
        },
    );
    prop_oneof![
        12 => stage,
        8 => (prop::bool::weighted(0.8), 0_u32..60)
            .prop_map(|(gallery, enrolment)| Step::Withdraw { gallery, enrolment }),
        1 => (0_u64..5).prop_map(Step::Advance),
        3 => Just(Step::Publish),
        1 => (0_usize..8).prop_map(|references_min| Step::CloseGrowing { references_min }),
        2 => Just(Step::TakeSealJobs),
        3 => any::<bool>().prop_map(|oldest| Step::FinishSealJob { oldest }),
        1 => Just(Step::LoseSealJob),
        4 => Just(Step::TakeCompaction),
        3 => Just(Step::FinishCompaction),
        1 => Just(Step::LoseCompaction),
        1 => (0_i32..3).prop_map(|threshold| Step::Calibrate { threshold: 250_000 * threshold }),
        5 => (prop::collection::vec(any_search(), 1..6), any::<usize>())
            .prop_map(|(searches, snapshot)| Step::Search { searches, snapshot }),
    ]
}

/// A catalogue beside its model, with the snapshots and jobs that are out.
struct Pair {
    catalogue: Catalogue,
    model: Model,
    published: Vec<(Arc<CatalogueSnapshot>, Model)>,
    jobs: Vec<SealJob>,
    compaction: Option<CompactionJob>,
    index: u64,
}

const SEAL_JOBS_MAX: usize = 2;

impl Pair {
    fn new(behaviour: Behaviour, seal_at_references: usize) -> Self {
        let engine = Arc::new(TestEngine(behaviour));
        let config =
            CatalogueConfig { seal_at_references, engine, seal_jobs_max: SEAL_JOBS_MAX, ..CatalogueConfig::default() };
        let mut pair = Self {
            catalogue: Catalogue::new(config),
            model: Model::default(),
            published: Vec::new(),
            jobs: Vec::new(),
            compaction: None,
            index: 0,
        };
        pair.publish();
        pair
    }

    fn publish(&mut self) {
        self.published.push((self.catalogue.snapshot(), self.model.clone()));
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Stage(enrolment) => {
                self.index += 1;
                self.model.stage(self.index, &enrolment);
                self.catalogue.stage(self.index, enrolment);
            }
            Step::Withdraw { gallery: first, enrolment: number } => {
                self.index += 1;
                let (gallery, id) = (gallery(if first { "people" } else { "voices" }), enrolment(number));
                self.model.withdraw(self.index, &gallery, &id);
                self.catalogue.withdraw(self.index, &gallery, &id);
            }
            Step::Advance(by) => {
                self.index += by;
                self.model.searchable_index = self.index;
                self.catalogue.advance(self.index);
            }
            Step::Publish => self.publish(),
            Step::CloseGrowing { references_min } => self.catalogue.close_growing(references_min),
            Step::TakeSealJobs => {
                self.jobs.extend(self.catalogue.seal_jobs());
                prop_assert!(self.jobs.len() <= SEAL_JOBS_MAX);
            }
            Step::FinishSealJob { oldest } => {
                if !self.jobs.is_empty() {
                    let job = self.jobs.remove(if oldest { 0 } else { self.jobs.len() - 1 });
                    self.catalogue.sealed(job.run());
                }
            }
            Step::LoseSealJob => {
                if let Some(job) = self.jobs.pop() {
                    self.catalogue.sealed(job.ticket().lost("as told"));
                }
            }
            Step::TakeCompaction => {
                let job = self.catalogue.compaction_job();
                prop_assert!(job.is_none() || self.compaction.is_none(), "one at a time");
                self.compaction = self.compaction.take().or(job);
            }
            Step::FinishCompaction => {
                if let Some(job) = self.compaction.take() {
                    let reclaimed = |catalogue: &mut Catalogue| -> usize {
                        catalogue.snapshot().collections().iter().map(|one| one.references_reclaimed).sum()
                    };
                    let (before, compacted) = (reclaimed(&mut self.catalogue), job.run());
                    let more = compacted.reclaimed();
                    prop_assert!(self.catalogue.compacted(compacted, None));
                    prop_assert_eq!(reclaimed(&mut self.catalogue), before + more);
                }
            }
            Step::LoseCompaction => {
                if let Some(job) = self.compaction.take() {
                    prop_assert!(!self.catalogue.compacted(job.ticket().lost("as told"), None));
                }
            }
            Step::Calibrate { threshold } => {
                let calibration = Calibration { thresholds: vec![score(threshold)], ..Calibration::default() };
                self.catalogue.set_calibration(&gallery("people"), face_slot(), calibration);
            }
            Step::Search { searches, snapshot } => {
                let (snapshot, model) = &self.published[snapshot % self.published.len()];
                check(snapshot, model, &searches)?;
            }
        }
        Ok(())
    }
}

fn check(snapshot: &CatalogueSnapshot, model: &Model, searches: &[SearchProbe]) -> Result<(), TestCaseError> {
    prop_assert_eq!(snapshot.searchable_index(), model.searchable_index);
    let answers = snapshot.search(searches, &|| false).expect("not cancelled");
    prop_assert_eq!(&snapshot.search_spread(searches, &Backwards, &|| false).expect("not cancelled"), &answers);
    prop_assert_eq!(answers.len(), searches.len());
    for (answer, search) in answers.iter().zip(searches) {
        prop_assert_eq!(answer, &model.search(search));
        let staged = answer.compared + answer.not_comparable + answer.withdrawn + answer.excluded;
        prop_assert_eq!(snapshot.staged(&search.gallery), staged);
        prop_assert_eq!(snapshot.live(&search.gallery), answer.live + answer.excluded);
        prop_assert_eq!(answer.live, answer.compared + answer.not_comparable);
        prop_assert!(answer.candidates.len() as u64 <= answer.candidates_total);
        let own = |id| search.exclude.as_ref() == Some(id);
        prop_assert!(!answer.candidates.iter().any(|candidate| own(&candidate.enrolment_id)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Every kept snapshot answers as the model did when it was published, whatever happened since. The model never lets a
    /// reference go, so compaction changes no candidate and no count.
    #[test]
    fn catalogue_and_model_answer_alike(
        behaviour in prop::sample::select(BEHAVIOURS.to_vec()),
        seal_at_references in prop::sample::select(vec![1_usize, 3, 8, 1_000]),
        steps in prop::collection::vec(any_step(), 1..250),
        last in prop::collection::vec(any_search(), 1..6),
    ) {
        let mut pair = Pair::new(behaviour, seal_at_references);
        for step in steps {
            pair.step(step)?;
        }
        pair.publish();
        for (snapshot, model) in &pair.published {
            check(snapshot, model, &last)?;
        }
    }
}
