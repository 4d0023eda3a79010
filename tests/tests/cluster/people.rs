//! Synthetic people who are easy to tell apart: a suite that checks the cluster must not depend on what a matcher misses.

use semel_population::{BetaLaw, CaptureNumber, Model, PersonId, Population, Preset, Seed};

/// Components of every embedding here.
pub(crate) const DIMENSION: u32 = 128;
/// Mates score .88 ± .02 and strangers 0 ± .09: no mate is below it, no stranger above it.
pub(crate) const THRESHOLD: f64 = 0.65;

/// People whose captures are all good.
pub(crate) fn people(seed: u64, number: u32) -> Population {
    let quality = BetaLaw::from_moments(0.94, 0.01).expect("a beta law has these moments");
    let control = Preset::Isotropic.model();
    let model =
        Model { dimension: DIMENSION as usize, impostor_sd: 1.0 / f64::from(DIMENSION).sqrt(), quality, ..control };
    Population::from_model(model, Seed(seed), number).expect("the figures are in range")
}

/// One capture of somebody.
pub(crate) fn capture(people: &Population, person: u32, capture: u32) -> Vec<f32> {
    people.capture(PersonId(person), CaptureNumber(capture))
}
