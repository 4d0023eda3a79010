//! What the demonstration enrols: the voices that ship with the project, and synthetic people. Labels stay here: a
//! request carries an id that says nothing about whose it is.

use std::collections::HashMap;
use std::thread;

use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use semel_index::ComparisonScore;
use semel_population::{
    Multiplicity, Population, Preset, Registration, RegistrationPlan, Row, Seed, Subject, Submission, Truth, Workload,
};
use semel_proto::v1::{BiometricReference, Embedding, EnrolRequest, Modality, Position, biometric_reference};

const VOICES: &[u8] = include_bytes!("../../../tests/testdata/voices_ge2e256.npy");
const VOICES_TABLE: &[u8] = include_bytes!("../../../tests/testdata/voices.csv");
const VOICES_DIMENSION: usize = 256;
/// Wait for a verdict, in milliseconds: long enough for an election and a restart.
const WAIT_MS: u32 = 20_000;

/// What is sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One enrolment.
    Single(Row),
    /// Two enrolments of one person, sent at the same moment by two clients.
    Together(Row, Row),
}

/// A labelled set with its gallery.
pub(super) struct Set {
    pub(super) gallery: &'static str,
    /// What it is and where it comes from, for the report.
    pub(super) about: String,
    pub(super) modality: Modality,
    pub(super) dimension: u32,
    pub(super) threshold: ComparisonScore,
    pub(super) steps: Vec<Step>,
    pub(super) truth: Truth,
    templates: Vec<Vec<f32>>,
    ids: Vec<String>,
    rows: HashMap<String, Row>,
}

impl Set {
    fn new(
        gallery: &'static str,
        modality: Modality,
        threshold: f64,
        templates: Vec<Vec<f32>>,
        ids: Vec<String>,
        truth: Truth,
    ) -> Self {
        let rows = (0..).map(Row).zip(&ids).map(|(row, id)| (id.clone(), row)).collect();
        Self {
            gallery,
            about: String::new(),
            modality,
            dimension: templates.first().map_or(0, |template| template.len() as u32),
            threshold: ComparisonScore::from_f64(threshold).expect("thresholds here are constants within 0 to 1"),
            steps: (0..ids.len() as u32).map(Row).map(Step::Single).collect(),
            truth,
            templates,
            ids,
            rows,
        }
    }

    /// Number of enrolments.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The templates by row.
    pub(super) fn templates(&self) -> &[Vec<f32>] {
        &self.templates
    }

    /// The row of an enrolment; `None` for one that is not of this set.
    pub(super) fn row_of(&self, enrolment_id: &str) -> Option<Row> {
        self.rows.get(enrolment_id).copied()
    }

    /// The request that enrols a row.
    pub(super) fn request(&self, row: Row) -> EnrolRequest {
        let values = self.templates[row.0 as usize].clone();
        EnrolRequest {
            gallery: self.gallery.to_owned(),
            enrolment_id: self.ids[row.0 as usize].clone(),
            references: vec![BiometricReference {
                modality: self.modality.into(),
                position: Position::Only.into(),
                template: Some(biometric_reference::Template::Embedding(Embedding { values })),
                ..Default::default()
            }],
            wait_ms: WAIT_MS,
            ..Default::default()
        }
    }
}

/// The voices, one enrolment per recording, in an order drawn from the seed.
pub(super) fn voices(seed: u64) -> anyhow::Result<Set> {
    let array = npyz::NpyFile::new(VOICES).context("read the voices")?;
    let values: Vec<f32> = array.into_vec().context("read the voices")?;
    let mut recordings = Vec::new();
    for (record, template) in
        csv::Reader::from_reader(VOICES_TABLE).records().zip(values.chunks_exact(VOICES_DIMENSION))
    {
        let record = record.context("read the table of the voices")?;
        let speaker = record.get(1).and_then(|speaker| speaker.strip_prefix('s')?.parse().ok());
        recordings.push((Subject(speaker.context("speakers are numbered")?), template.to_vec()));
    }
    recordings.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let (speakers, templates): (Vec<Subject>, Vec<Vec<f32>>) = recordings.into_iter().unzip();
    let mut distinct = speakers.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let ids = (0..speakers.len()).map(|place| format!("v{seed:x}-{place:05}")).collect();
    let about = format!(
        "{} real recordings of {} speakers, GE2E embeddings of 256 components, in an order drawn from seed {seed} \
         (tests/testdata/voices-CREDITS.md)",
        speakers.len(),
        distinct.len()
    );
    let set = Set::new("voices", Modality::Voice, 0.80, templates, ids, Truth::from_subjects(speakers));
    Ok(Set { about, ..set })
}

/// Synthetic people of preset F1, one in a hundred of them enrolled twice, half of those at the same moment. Draws
/// with all cores: takes a while.
pub(super) fn people(people: u32, seed: u64) -> anyhow::Result<Set> {
    let population = Population::new(Preset::F1, Seed(seed), people);
    let workload = Workload { multiplicity: Multiplicity::Twice, resubmitted_share: 0.0, ..Workload::default() };
    let plan = RegistrationPlan::new(&workload, Seed(seed), people)?;
    let registrations: Vec<Registration> = plan.registrations().collect();
    let templates = draw(&population, &registrations);
    let ids = registrations.iter().map(|registration| plan.enrolment_id(registration.row)).collect();
    let about = format!(
        "{people} synthetic people of preset {} ({}), {} components, effective dimension {:.0}, seed {seed}",
        Preset::F1,
        Preset::F1.source(),
        population.dimension(),
        population.spectrum().effective_dimension(),
    );
    let steps = plan.submissions().iter().map(|submission| match submission {
        Submission::Single(only) => Step::Single(only.row),
        Submission::Simultaneous(first, second) => Step::Together(first.row, second.row),
    });
    let steps = steps.collect();
    let set = Set::new("people", Modality::Face, 0.42, templates, ids, plan.truth(&population));
    Ok(Set { about, steps, ..set })
}

/// Threads for work of our own beside the cluster's.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn draw(population: &Population, registrations: &[Registration]) -> Vec<Vec<f32>> {
    let share = registrations.len().div_ceil(threads()).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = registrations
            .chunks(share)
            .map(|part| {
                let captures =
                    move || part.iter().map(|each| population.capture(each.person, each.capture)).collect::<Vec<_>>();
                scope.spawn(captures)
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("drawing does not panic")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_carry_no_label() {
        let set = voices(7).expect("the voices are in the binary");
        assert_eq!((set.len(), set.dimension), (525, 256));
        for row in [Row(0), Row(524)] {
            let request = set.request(row);
            assert_eq!(request.subject_id, "");
            assert_eq!(set.row_of(&request.enrolment_id), Some(row));
        }
        let other = voices(8).expect("the voices are in the binary");
        assert_ne!(set.templates()[0], other.templates()[0], "another seed is another order");
    }

    #[test]
    fn one_person_in_a_hundred_enrols_twice_and_half_of_those_at_the_same_moment() {
        let set = people(400, 1).expect("a plan");
        assert_eq!((set.len(), set.dimension), (404, 512));
        let together: Vec<_> = set.steps.iter().filter(|step| matches!(step, Step::Together(..))).collect();
        assert_eq!(together.len(), 2);
        for step in together {
            let Step::Together(first, second) = step else { continue };
            assert!(set.truth.mates(*first, *second));
        }
    }
}
