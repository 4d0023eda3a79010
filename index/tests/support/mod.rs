//! What the catalogue's tests share: a naive model that searches by definition, engines that behave in every way the
//! trait permits, and small templates.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semel_index::{
    BinaryCode, BinaryCodeSpec, BuildError, Calibration, Candidate, CanonicalEmbedding, Comparison, ComparisonScore,
    EmbeddingRows, Engine, EngineProbe, EnrolmentId, GalleryId, Modality, Position, Proposal, ScanProbe, SearchProbe,
    Segment, ShardSearch, Slot, Spread, StagedEnrolment, Template, TemplateSpec, compare,
};

pub(crate) const FACE_SPEC: TemplateSpec = TemplateSpec::Embedding { dimension: 4 };
pub(crate) const IRIS_LAYOUT: BinaryCodeSpec =
    BinaryCodeSpec { rows: 2, columns: 6, bits_per_cell: 1, shifts_max: 1, common_bits_min: 6 };
pub(crate) const IRIS_SPEC: TemplateSpec = TemplateSpec::BinaryCode(IRIS_LAYOUT);

pub(crate) fn gallery(name: &str) -> GalleryId {
    GalleryId::try_from(name).expect("valid")
}

pub(crate) fn enrolment(number: u32) -> EnrolmentId {
    // The order of ids is not that of staging.
    EnrolmentId::try_from(format!("{:03}-{number}", number.wrapping_mul(7_919) % 1_000)).expect("valid")
}

pub(crate) fn face_slot() -> Slot {
    Slot::new(Modality::Face, Position::Only).expect("exists")
}

pub(crate) fn iris_slot(left: bool) -> Slot {
    Slot::new(Modality::Iris, if left { Position::LeftEye } else { Position::RightEye }).expect("exists")
}

pub(crate) fn face(values: &[f32]) -> Template {
    Template::Embedding(CanonicalEmbedding::from_f32(values).expect("valid"))
}

/// Twelve bits of code and mask, from the most significant of each `u16`.
pub(crate) fn iris(code: u16, mask: u16) -> Template {
    let [code, mask] = [code & 0xfff0, mask & 0xfff0].map(u16::to_be_bytes);
    Template::BinaryCode(BinaryCode::from_bytes(&IRIS_LAYOUT, &code, &mask).expect("valid"))
}

pub(crate) fn score(micros: i32) -> ComparisonScore {
    ComparisonScore::from_micros(micros).expect("in range")
}

/// The catalogue by definition: every enrolment of every gallery, compared one by one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) searchable_index: u64,
    pub(crate) staged: BTreeMap<(GalleryId, EnrolmentId), StagedEnrolment>,
    pub(crate) withdrawn: BTreeSet<(GalleryId, EnrolmentId)>,
}

impl Model {
    pub(crate) fn stage(&mut self, index: u64, enrolment: &StagedEnrolment) {
        self.searchable_index = self.searchable_index.max(index);
        let key = (enrolment.gallery.clone(), enrolment.enrolment_id.clone());
        self.staged.entry(key).or_insert_with(|| enrolment.clone());
    }

    pub(crate) fn withdraw(&mut self, index: u64, gallery: &GalleryId, enrolment_id: &EnrolmentId) {
        self.searchable_index = self.searchable_index.max(index);
        let key = (gallery.clone(), enrolment_id.clone());
        if self.staged.contains_key(&key) {
            self.withdrawn.insert(key);
        }
    }

    pub(crate) fn search(&self, probe: &SearchProbe) -> ShardSearch {
        let mut answer = ShardSearch {
            live: 0,
            compared: 0,
            not_comparable: 0,
            withdrawn: 0,
            excluded: 0,
            candidates: Vec::new(),
            candidates_total: 0,
        };
        for (key, enrolment) in self.staged.iter().filter(|((gallery, _), _)| *gallery == probe.gallery) {
            if self.withdrawn.contains(key) {
                answer.withdrawn += 1;
                continue;
            }
            if probe.exclude.as_ref() == Some(&enrolment.enrolment_id) {
                answer.excluded += 1;
                continue;
            }
            answer.live += 1;
            let scores = scores(probe, enrolment);
            *(if scores.is_empty() { &mut answer.not_comparable } else { &mut answer.compared }) += 1;
            let margin = scores.iter().map(|(_, score, threshold)| score.micros() - threshold.micros()).max();
            if let Some(margin) = margin.filter(|margin| *margin >= 0) {
                answer.candidates_total += 1;
                let comparisons = scores.iter().map(|(slot, score, _)| (*slot, *score)).collect();
                answer.candidates.push(Candidate { enrolment_id: enrolment.enrolment_id.clone(), margin, comparisons });
            }
        }
        answer.candidates.sort_by(|a, b| (b.margin, &a.enrolment_id).cmp(&(a.margin, &b.enrolment_id)));
        answer.candidates.truncate(probe.candidates_max);
        answer
    }
}

fn scores(probe: &SearchProbe, enrolment: &StagedEnrolment) -> Vec<(Slot, ComparisonScore, ComparisonScore)> {
    let mut scores = Vec::new();
    for asked in &probe.references {
        for held in enrolment.references.iter().filter(|held| held.slot == asked.slot && held.spec == asked.spec) {
            if probe.key_version != enrolment.key_version {
                continue;
            }
            if let Comparison::Score(score) = compare(&asked.spec, &asked.template, &held.template) {
                scores.push((asked.slot, score, asked.threshold));
            }
        }
    }
    scores.sort_unstable();
    scores
}

/// How an engine of the tests behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Proposes what is needed, with other rows between, twice and in descending order.
    Proposes,
    /// Knows no cut for any threshold.
    ScansExactly,
    /// Answers for fewer probes than asked.
    AnswersTooFew,
    /// Proposes rows that do not exist.
    ProposesBeyond,
    /// Cannot build anything.
    Fails,
}

pub(crate) const BEHAVIOURS: [Behaviour; 5] = [
    Behaviour::Proposes,
    Behaviour::ScansExactly,
    Behaviour::AnswersTooFew,
    Behaviour::ProposesBeyond,
    Behaviour::Fails,
];

#[derive(Debug)]
pub(crate) struct TestEngine(pub(crate) Behaviour);

#[derive(Debug)]
struct TestSegment {
    behaviour: Behaviour,
    rows: Arc<EmbeddingRows>,
}

impl Engine for TestEngine {
    fn name(&self) -> &str {
        "test"
    }

    fn references_min(&self, _dimension: u32) -> usize {
        2
    }

    fn build(&self, rows: Arc<EmbeddingRows>, _calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        if self.0 == Behaviour::Fails {
            return Err(BuildError { engine: "test".into(), references: rows.len(), reason: "as told".into() });
        }
        Ok(Box::new(TestSegment { behaviour: self.0, rows }))
    }
}

impl Segment for TestSegment {
    fn engine(&self) -> &str {
        "test"
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, _miss_budget_ppb: u32) -> Vec<Proposal> {
        let needed = |probe: &&EngineProbe| {
            let mut rows = Vec::new();
            let ready = ScanProbe::new(probe.embedding(), threshold);
            self.rows.scan(0..self.rows.len(), &[&ready], &mut |_, row, _| rows.push(row as u32));
            rows
        };
        match self.behaviour {
            Behaviour::Proposes => probes
                .iter()
                .map(|probe| {
                    let mut rows = needed(probe);
                    rows.extend((0..self.rows.len() as u32).step_by(3));
                    rows.extend(rows.clone());
                    rows.reverse();
                    Proposal::Rows(rows)
                })
                .collect(),
            Behaviour::ScansExactly | Behaviour::Fails => probes.iter().map(|_| Proposal::ScanExactly).collect(),
            Behaviour::AnswersTooFew => probes.iter().skip(1).map(|_| Proposal::Rows(Vec::new())).collect(),
            Behaviour::ProposesBeyond => {
                probes.iter().map(|_| Proposal::Rows(vec![0, self.rows.len() as u32])).collect()
            }
        }
    }
}

/// Parts on threads of their own, the last one first.
#[derive(Debug)]
pub(crate) struct Backwards;

impl Spread for Backwards {
    fn width(&self) -> usize {
        2
    }

    fn each(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            let (late, early) = (0..parts).rev().partition::<Vec<usize>, _>(|number| number % 2 == 1);
            scope.spawn(|| late.into_iter().for_each(part));
            early.into_iter().for_each(part);
        });
    }
}
