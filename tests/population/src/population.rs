//! People and their captures as embeddings, each drawn again from (seed, person, capture) whenever it is asked for.
//! What the figures are lives in `preset`; who is registered how often, in `registrations`; binary codes, in `iris`.
//!
//! A centre is μ = √(1−w)·z + √w·g: z the person's own direction, drawn from the spectrum and made orthogonal to the
//! group's direction g, so that two people of a group have w in common. Kin are neighbours 2k and 2k + 1: the second's
//! own direction leans on the first's so far that the two centres have exactly the cosine drawn for the pair.
//! A capture is a·μ + √(1−a²)·r: a its quality, r a residual from the same spectrum, orthogonal to μ.

use rand::RngExt;
use rand_distr::{Beta, Distribution, StandardNormal};

use crate::geometry::{lean, normalise, project_out};
use crate::preset::{BetaLaw, InvalidModel, KinModel, Model, Normal, Preset};
use crate::seed::{Purpose, Seed};
use crate::spectrum::{Spectrum, SpectrumError};
use crate::truth::Kinship;

/// A person of a population, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonId(pub u32);

/// Which of a person's captures, from 0. Every number is another capture; the same number is the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaptureNumber(pub u32);

/// The place of a group in its model's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub usize);

/// Who somebody is, apart from how they look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Person {
    /// The person.
    pub id: PersonId,
    /// Their group, shared with kin; `None` in a model without groups.
    pub group: Option<GroupId>,
    /// Their sibling or twin, if the population holds one.
    pub kin: Option<Kin>,
}

/// One of a pair of kin, seen from the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kin {
    /// How the two are related.
    pub kinship: Kinship,
    /// The other one.
    pub of: PersonId,
    /// Inner product of their centres.
    pub cosine: f64,
}

/// How well a capture shows its person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaptureQuality {
    /// The part of the capture that is its person, 0 to 1.
    pub identity: f64,
    /// Whether this is one of the floor's failed captures.
    pub failed: bool,
}

/// Why a population cannot be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PopulationError {
    /// A figure of the model is out of range.
    #[error(transparent)]
    Model(#[from] InvalidModel),
    /// The model's dimension and impostor sd have no spectrum.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
    /// Model and spectrum are of different dimensions.
    #[error("the model has dimension {model} and the spectrum {spectrum}")]
    DimensionMismatch {
        /// The model's.
        model: usize,
        /// The spectrum's.
        spectrum: usize,
    },
}

/// A seeded population of embeddings.
#[derive(Debug, Clone)]
pub struct Population {
    model: Model,
    spectrum: Spectrum,
    seed: Seed,
    people: u32,
    group_directions: Vec<Vec<f32>>,
    quality: Beta<f64>,
    floor_quality: Beta<f64>,
}

/// A pair's kinship and its cosine, or neither.
struct Family(Option<(Kinship, f64)>);

impl Population {
    /// So many people of a named model.
    pub fn new(preset: Preset, seed: Seed, people: u32) -> Self {
        Self::from_model(preset.model(), seed, people).expect("presets are valid: a test draws each")
    }

    /// So many people of a varied model, with a power-law spectrum solved for its impostor sd.
    pub fn from_model(model: Model, seed: Seed, people: u32) -> Result<Self, PopulationError> {
        let effective_dimension = (model.impostor_sd * model.impostor_sd).recip();
        // 1/√d squared is d but for rounding: the isotropic spectrum must not be refused for it.
        let dimension = model.dimension as f64;
        let isotropic = (effective_dimension / dimension - 1.0).abs() < 1e-9;
        let target = if isotropic { dimension } else { effective_dimension };
        let spectrum = Spectrum::power_law(model.dimension, target, seed)?;
        Self::with_spectrum(model, spectrum, seed, people)
    }

    /// So many people of a model with another spectrum, such as a measured covariance; it replaces `impostor_sd`.
    pub fn with_spectrum(model: Model, spectrum: Spectrum, seed: Seed, people: u32) -> Result<Self, PopulationError> {
        model.validate()?;
        if model.dimension != spectrum.dimension() {
            return Err(PopulationError::DimensionMismatch { model: model.dimension, spectrum: spectrum.dimension() });
        }
        let group_directions = (0..model.groups.len())
            .map(|group| {
                let stream = seed.stream(Purpose::GroupDirections, group as u64, 0);
                let mut direction: Vec<f32> = StandardNormal.sample_iter(stream).take(model.dimension).collect();
                normalise(&mut direction);
                direction
            })
            .collect();
        let (quality, floor_quality) = (beta(model.quality), beta(model.floor_quality));
        Ok(Self { model, spectrum, seed, people, group_directions, quality, floor_quality })
    }

    /// The figures the population is drawn from.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How identities are spread.
    pub fn spectrum(&self) -> &Spectrum {
        &self.spectrum
    }

    /// The seed of every draw.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// Components of each embedding.
    pub fn dimension(&self) -> usize {
        self.model.dimension
    }

    /// Number of people.
    pub fn people(&self) -> u32 {
        self.people
    }

    /// Group and kin of a person. Panics for somebody outside the population.
    pub fn person(&self, id: PersonId) -> Person {
        assert!(id.0 < self.people, "the population has {} people", self.people);
        let of = PersonId(id.0 ^ 1);
        // The last of an odd number has no neighbour.
        let family = if of.0 < self.people { self.family(id) } else { Family(None) };
        let kin = family.0.map(|(kinship, cosine)| Kin { kinship, of, cosine });
        let first = if kin.is_some() { elder(id) } else { id };
        Person { id, group: self.group(first), kin }
    }

    /// The embedding of one capture: [`Self::dimension`] components, of length one to the precision of an f32.
    pub fn capture(&self, person: PersonId, capture: CaptureNumber) -> Vec<f32> {
        let centre = self.centre(person);
        let quality = self.quality(person, capture).identity;
        let mut stream = self.seed.stream(Purpose::Residual, u64::from(person.0), u64::from(capture.0));
        let mut residual = self.spectrum.draw(&mut stream);
        project_out(&mut residual, &centre);
        normalise(&mut residual);
        let mut sample = lean(quality, &centre, &residual);
        self.spectrum.to_template(&mut sample);
        normalise(&mut sample);
        sample
    }

    /// How well one capture shows its person; captures of one person are independent.
    pub fn quality(&self, person: PersonId, capture: CaptureNumber) -> CaptureQuality {
        let mut stream = self.seed.stream(Purpose::Quality, u64::from(person.0), u64::from(capture.0));
        let failed = stream.random::<f64>() < self.model.floor_share / 2.0;
        let law = if failed { self.floor_quality } else { self.quality };
        CaptureQuality { identity: law.sample(&mut stream), failed }
    }

    /// The person's centre, of length one, in the spectrum's coordinates.
    fn centre(&self, id: PersonId) -> Vec<f32> {
        let person = self.person(id);
        let group = person.group.map(|group| (self.model.groups[group.0].weight, &self.group_directions[group.0]));
        let weight = group.map_or(0.0, |(weight, _)| weight);
        let own = match person.kin {
            Some(kin) if id != elder(id) => {
                let first = self.own_direction(kin.of, person.group);
                let mut rest = self.own_direction(id, person.group);
                project_out(&mut rest, &first);
                normalise(&mut rest);
                // (1−w)·cosine(own directions) + w is the cosine of the centres.
                lean(((kin.cosine - weight) / (1.0 - weight)).clamp(-1.0, 1.0), &first, &rest)
            }
            Some(_) | None => self.own_direction(id, person.group),
        };
        match group {
            Some((weight, direction)) => lean((1.0 - weight).sqrt(), &own, direction),
            None => own,
        }
    }

    /// A direction from the spectrum, orthogonal to the group's.
    fn own_direction(&self, id: PersonId, group: Option<GroupId>) -> Vec<f32> {
        let mut direction = self.spectrum.draw(&mut self.seed.stream(Purpose::Identity, u64::from(id.0), 0));
        if let Some(group) = group {
            project_out(&mut direction, &self.group_directions[group.0]);
        }
        normalise(&mut direction);
        direction
    }

    /// What the pair that somebody belongs to is to each other: the same answer for both.
    fn family(&self, id: PersonId) -> Family {
        let mut stream = self.seed.stream(Purpose::Family, u64::from(elder(id).0), 0);
        let draw: f64 = stream.random();
        let KinModel { share: twins, cosine: twin_cosine } = self.model.twins;
        let KinModel { share: siblings, cosine: sibling_cosine } = self.model.siblings;
        let mut cosine = |law: Normal| {
            let normal: f64 = StandardNormal.sample(&mut stream);
            (law.mean + law.sd * normal).clamp(-1.0, 1.0)
        };
        Family(if draw < twins {
            Some((Kinship::Twins, cosine(twin_cosine)))
        } else if draw < twins + siblings {
            Some((Kinship::Siblings, cosine(sibling_cosine)))
        } else {
            None
        })
    }

    fn group(&self, id: PersonId) -> Option<GroupId> {
        let mut rest: f64 = self.seed.stream(Purpose::Group, u64::from(id.0), 0).random();
        let last = self.model.groups.len().checked_sub(1)?;
        let found = self.model.groups.iter().position(|group| {
            rest -= group.share;
            rest < 0.0
        });
        // Shares that add up to a little less than one leave a sliver; it belongs to the last group.
        Some(GroupId(found.unwrap_or(last)))
    }
}

/// The first of the pair of neighbours that somebody belongs to.
fn elder(id: PersonId) -> PersonId {
    PersonId(id.0 & !1)
}

fn beta(law: BetaLaw) -> Beta<f64> {
    Beta::new(law.alpha, law.beta).expect("a validated model has positive parameters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::dot;

    #[test]
    fn centres_of_kin_have_the_cosine_drawn_for_them() {
        let population = Population::new(Preset::F1, Seed(3), 6_001);
        let mut pairs = 0;
        for id in (0..6_000).step_by(2).map(PersonId) {
            let Some(kin) = population.person(id).kin else { continue };
            let back = population.person(kin.of);
            assert_eq!(back.kin.map(|kin| kin.of), Some(id));
            assert_eq!(back.group, population.person(id).group);
            let cosine = dot(&population.centre(id), &population.centre(kin.of));
            assert!((cosine - kin.cosine).abs() < 1e-5, "{cosine} for {}", kin.cosine);
            pairs += 1;
        }
        assert!(pairs > 30);
        assert_eq!(population.person(PersonId(6_000)).kin, None);
    }

    #[test]
    fn centres_lean_on_their_group_by_its_weight() {
        let population = Population::new(Preset::F1, Seed(3), 400);
        for id in (0..400).map(PersonId) {
            let group = population.person(id).group.expect("the preset has groups");
            let weight = population.model.groups[group.0].weight;
            let centre = population.centre(id);
            assert!((dot(&centre, &population.group_directions[group.0]) - weight.sqrt()).abs() < 1e-5);
            assert!((dot(&centre, &centre) - 1.0).abs() < 1e-5);
        }
    }
}
