//! A probe as the codes of segments are compared with it: tables of its components, and the line that a row must reach.

use std::f64::consts::{FRAC_2_PI, SQRT_2};
use std::fmt;

use crate::embedding::CanonicalEmbedding;
use crate::kernel::Path;
use crate::kernel::sketch::{Bytes, FIELD_COMPONENTS, FIELD_SUM_MAX, Layout, Weight};
use crate::score::ComparisonScore;

/// What sums of table entries leave out of account at the edge of a threshold: rounding of the canonical templates and of `f64`.
const COSINE_NOISE: f64 = 4e-6;

/// A probe as weights of a code's bits, in the tables that the path at hand looks them up in.
///
/// A bit that agrees with the sign of its component earns 2|qᵢ|, in units that let neighbouring weights fit a byte together. So
/// ⟨q, s⟩·√d ≈ unit · (sum of weights earned − half the sum of all).
pub(crate) struct SketchProbe {
    tables: Vec<Bytes>,
    dimension: f64,
    unit: f64,
    weights_sum: f64,
    /// How far rounding takes the sum of a code that all signs agree with below what it stands for, at most; in units.
    rounded_away: f64,
}

/// The alignment of a row, in units of 2⁻¹⁶, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Alignment(pub(super) u16);

impl Alignment {
    pub(super) const MAX: Self = Self(u16::MAX);

    /// Of the components of a row and their length times 2¹⁰.
    pub(super) fn of(components: &[i16], norm: u32) -> Self {
        let sum: u64 = components.iter().map(|component| u64::from(component.unsigned_abs())).sum();
        let length = f64::from(norm) / 1024.0;
        // Casts saturate.
        Self((sum as f64 / (length * (components.len() as f64).sqrt()) * 65536.0) as u16)
    }
}

/// The least sum of weights as a function of a row's alignment: `at` + `per_alignment` · f, both in units of 2⁻¹⁶.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    at: i64,
    per_alignment: i64,
}

impl Line {
    fn new(at: f64, per_alignment: f64) -> Self {
        // Rounded down; casts saturate, far from where the sum below would overflow.
        let fixed = |value: f64| (value * 65536.0).floor().clamp(-1e12, 1e12) as i64;
        Self { at: fixed(at), per_alignment: fixed(per_alignment) }
    }

    /// The least sum that reaches the line; 0 if all do.
    pub(super) fn least(self, Alignment(alignment): Alignment) -> u16 {
        let least = self.at + ((self.per_alignment * i64::from(alignment)) >> 16);
        // Rounded up: a sum is a whole number.
        ((least + 0xFFFF) >> 16).clamp(0, u16::MAX.into()) as u16
    }
}

impl SketchProbe {
    pub(crate) fn new(probe: &CanonicalEmbedding) -> Self {
        Self::by(Path::detect(), probe)
    }

    pub(super) fn by(path: Path, probe: &CanonicalEmbedding) -> Self {
        let components = probe.components();
        let sum = |some: &[i16]| some.iter().map(|component| u32::from(component.unsigned_abs())).sum::<u32>();
        // Any neighbours that a path may look up together. Of a canonical template some component is not 0.
        let largest = components.windows(FIELD_COMPONENTS.min(components.len())).map(sum).max().unwrap_or(0).max(1);
        // Each weight is rounded, half a unit up at most.
        let per_component = f64::from(FIELD_SUM_MAX - FIELD_COMPONENTS as u8 / 2) / f64::from(largest);
        let weights: Vec<Weight> = components
            .iter()
            .map(|component| Weight {
                weight: (f64::from(component.unsigned_abs()) * per_component + 0.5) as u8,
                earned_by: *component >= 0,
            })
            .collect();
        let length = f64::from(probe.norm()) / 1024.0;
        let weights_sum = f64::from(weights.iter().map(|weight| u32::from(weight.weight)).sum::<u32>());
        Self {
            tables: Layout::of(path).tables(&weights),
            dimension: f64::from(probe.dimension()),
            unit: 2.0 / (per_component * length),
            weights_sum,
            rounded_away: ((f64::from(sum(components)) * per_component - weights_sum) / 2.0).max(0.0),
        }
    }

    pub(super) fn tables(&self) -> &[Bytes] {
        &self.tables
    }

    /// The line that a mate at the threshold, which is above 0, falls below in one of so many cases: see the engine.
    pub(super) fn line(&self, threshold: ComparisonScore, deviations: f64) -> Line {
        let threshold = threshold.as_f64() - COSINE_NOISE;
        let alignment = FRAC_2_PI.sqrt();
        let aside = (1.0 - threshold * threshold) / (self.dimension - 1.0);
        // Each of d weights is off by at most half a unit, evenly, of which half counts, with the bit's sign; of the sum over √d. Signs of
        // mates agree, all of them where the threshold is near 1: what all errors come to together is left out of account besides.
        let rounding = self.unit * self.unit / 48.0;
        let deviation = (aside * (1.0 - alignment * alignment) + rounding).sqrt();
        let value = threshold * alignment - deviations * deviation;
        let slope = threshold + deviations * aside * alignment / deviation;
        let per_sum = self.dimension.sqrt() / self.unit;
        Line::new((value - slope * alignment) * per_sum + self.weights_sum / 2.0 - self.rounded_away, slope * per_sum)
    }
}

impl fmt::Debug for SketchProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SketchProbe({} components)", self.dimension)
    }
}

/// How many deviations a normal number falls short of its mean with this probability, 0 to ½.
pub(super) fn quantile(probability: f64) -> f64 {
    // By halving: the tail falls strictly, and 10 deviations are beyond any budget.
    let (mut low, mut high) = (0.0, 10.0);
    while high - low > 1e-9 {
        let middle = (low + high) / 2.0;
        if libm::erfc(middle / SQRT_2) / 2.0 > probability { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published quantiles of the standard normal distribution.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (probability, deviations) in [(0.5, 0.0), (0.025, 1.959_964), (1e-3, 3.090_232), (3e-5, 4.012_811)] {
            assert!((quantile(probability) - deviations).abs() < 1e-6, "{probability}");
        }
    }
}
