//! Who registers how often and in which order: a workload of duplicate registrations with its truth.
//! What a capture looks like lives in `population`; sending registrations is the caller's.

use rand::RngExt;
use rand::seq::{SliceRandom, index};

use crate::population::{CaptureNumber, PersonId, Population};
use crate::seed::{Purpose, Seed};
use crate::truth::{Row, Subject, Truth};

/// How often somebody registers who registers more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Multiplicity {
    /// Exactly twice.
    Twice,
    /// As in a register with a few persistent applicants: 2 (90 %), 3 to 5 (9 %), 6 to 30 (1 %).
    Registry,
}

/// The shares of a workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Further registrations by people registered already, per person (0 to 1); registries see .001 to .05.
    pub repeats_share: f64,
    /// How they are spread over people.
    pub multiplicity: Multiplicity,
    /// Registrations that send an earlier one's very capture again, byte for byte, per person (0 to 1).
    pub resubmitted_share: f64,
    /// Of the people who register again, the share whose first two registrations arrive at the same moment (0 to 1).
    pub simultaneous_share: f64,
}

impl Default for Workload {
    /// One registration in a hundred is a repeat, one in ten thousand a resubmission; half of the pairs arrive together.
    fn default() -> Self {
        Self {
            repeats_share: 0.01,
            multiplicity: Multiplicity::Registry,
            resubmitted_share: 0.0001,
            simultaneous_share: 0.5,
        }
    }
}

/// A share of a [`Workload`] out of its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{field} is {found}, must be 0 to 1")]
pub struct InvalidWorkload {
    /// The field.
    pub field: &'static str,
    /// What was given.
    pub found: f64,
}

/// One registration of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Its place in the plan.
    pub row: Row,
    /// Who registers. A label: it never goes to a cluster.
    pub person: PersonId,
    /// Which of their captures is sent.
    pub capture: CaptureNumber,
    /// Whether another registration sends the very same capture.
    pub resubmission: bool,
}

/// What is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Submission {
    /// One registration.
    Single(Registration),
    /// Two registrations of one person, to be sent at the same moment by two clients.
    Simultaneous(Registration, Registration),
}

/// All registrations of a workload in their order.
#[derive(Debug, Clone)]
pub struct RegistrationPlan {
    seed: Seed,
    submissions: Vec<Submission>,
    subjects: Vec<Subject>,
}

impl RegistrationPlan {
    /// Plans the registrations of so many people, each at least once, in an order drawn from the seed.
    pub fn new(workload: &Workload, seed: Seed, people: u32) -> Result<Self, InvalidWorkload> {
        let share = |field, found: f64| {
            if (0.0..=1.0).contains(&found) { Ok(found) } else { Err(InvalidWorkload { field, found }) }
        };
        let of_people = |share: f64| (share * f64::from(people)).round() as usize;
        let repeats = of_people(share("repeats_share", workload.repeats_share)?);
        let resubmissions = of_people(share("resubmitted_share", workload.resubmitted_share)?);
        let simultaneous_share = share("simultaneous_share", workload.simultaneous_share)?;

        let mut stream = seed.stream(Purpose::Registrations, 0, 0);
        let (mut extra, mut left) = (Vec::new(), repeats);
        while left > 0 {
            let drawn = draw_repeats(workload.multiplicity, &mut stream).min(left);
            extra.push(drawn);
            left -= drawn;
        }
        let again = index::sample(&mut stream, people as usize, extra.len());
        let simultaneous = (simultaneous_share * extra.len() as f64).round() as usize;

        let mut drafts = Drafts::singles(people);
        for (place, (person, extra)) in again.into_iter().zip(extra).enumerate() {
            drafts.repeat(person, extra, place < simultaneous);
        }
        for person in index::sample(&mut stream, people as usize, resubmissions) {
            drafts.resubmit(person);
        }
        drafts.0.shuffle(&mut stream);
        Ok(Self::number(seed, drafts))
    }

    /// Gives each registration its row.
    fn number(seed: Seed, drafts: Drafts) -> Self {
        let mut subjects = Vec::new();
        let mut register = |draft: Draft| {
            let row = Row(u32::try_from(subjects.len()).expect("a plan has fewer than 2^32 registrations"));
            subjects.push(Subject(draft.person.0));
            Registration { row, person: draft.person, capture: draft.capture, resubmission: draft.resubmission }
        };
        let submissions = drafts
            .0
            .into_iter()
            .map(|(first, second)| {
                let first = register(first);
                match second {
                    Some(second) => Submission::Simultaneous(first, register(second)),
                    None => Submission::Single(first),
                }
            })
            .collect();
        Self { seed, submissions, subjects }
    }

    /// What to send, in order; a pair that arrives together is one submission.
    pub fn submissions(&self) -> &[Submission] {
        &self.submissions
    }

    /// All registrations in order; the place of each is its row.
    pub fn registrations(&self) -> impl Iterator<Item = Registration> {
        self.submissions.iter().flat_map(|submission| match submission {
            Submission::Single(only) => [Some(*only), None].into_iter().flatten(),
            Submission::Simultaneous(first, second) => [Some(*first), Some(*second)].into_iter().flatten(),
        })
    }

    /// Number of registrations.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether nobody registers.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// The enrolment id of a row: tells plans of different seeds apart, and tells nothing about the person.
    pub fn enrolment_id(&self, row: Row) -> String {
        format!("r{:x}-{:08}", self.seed.0, row.0)
    }

    /// The row with this enrolment id; `None` for an id that is not of this plan.
    pub fn row_of(&self, enrolment_id: &str) -> Option<Row> {
        let row = Row(enrolment_id.rsplit_once('-')?.1.parse().ok()?);
        let planned = (row.0 as usize) < self.len() && self.enrolment_id(row) == enrolment_id;
        planned.then_some(row)
    }

    /// Who is who among the rows. The population is the one that the plan was made for.
    pub fn truth(&self, population: &Population) -> Truth {
        let mut truth = Truth::from_subjects(self.subjects.clone());
        for person in (0..population.people()).map(PersonId) {
            if let Some(kin) = population.person(person).kin {
                truth.state_kin(Subject(person.0), kin.kinship, Subject(kin.of.0));
            }
        }
        truth
    }
}

/// Further registrations of somebody who registers again.
fn draw_repeats(multiplicity: Multiplicity, stream: &mut impl RngExt) -> usize {
    match multiplicity {
        Multiplicity::Twice => 1,
        Multiplicity::Registry => match stream.random_range(0..100) {
            0..90 => 1,
            90..99 => stream.random_range(3..=5) - 1,
            _ => stream.random_range(6..=30) - 1,
        },
    }
}

/// A registration that has no row yet.
#[derive(Debug, Clone, Copy)]
struct Draft {
    person: PersonId,
    capture: CaptureNumber,
    resubmission: bool,
}

impl Draft {
    fn new(person: usize, capture: usize) -> Self {
        let person = PersonId(u32::try_from(person).expect("people are counted in u32"));
        let capture = CaptureNumber(u32::try_from(capture).expect("at most 30 captures and a resubmission"));
        Self { person, capture, resubmission: false }
    }
}

/// Submissions before they are shuffled; while people are added, the place of each is its person's.
struct Drafts(Vec<(Draft, Option<Draft>)>);

impl Drafts {
    fn singles(people: u32) -> Self {
        Self((0..people as usize).map(|person| (Draft::new(person, 0), None)).collect())
    }

    fn repeat(&mut self, person: usize, extra: usize, simultaneous: bool) {
        for capture in 1..=extra {
            if capture == 1 && simultaneous {
                self.0[person].1 = Some(Draft::new(person, capture));
            } else {
                self.0.push((Draft::new(person, capture), None));
            }
        }
    }

    fn resubmit(&mut self, person: usize) {
        self.0[person].0.resubmission = true;
        self.0.push((self.0[person].0, None));
    }
}
