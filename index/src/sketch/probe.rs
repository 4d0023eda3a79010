//! A probe as the codes of segments are compared with it: tables of its components, and the line that a row must reach.

use std::f64::consts::{FRAC_2_PI, SQRT_2};
use std::fmt;

use crate::embedding::CanonicalEmbedding;
use crate::kernel::Path;
use crate::kernel::sketch::{Bytes, FIELD_COMPONENTS, FIELD_SUM_MAX, Layout, Least, TailWeights, Weight};
use crate::score::ComparisonScore;

/// What sums of table entries leave out of account at the edge of a threshold: rounding of the canonical templates and of `f64`.
const COSINE_NOISE: f64 = 4e-6;

/// Components in the head of a code, of so many in all; the others are in its tail. Two thirds or so, up to a whole number of steps of the
/// fastest kernel: at 512 components, searches among 1,000,000 took 9 and 20 % longer with heads of 312 and 288 instead of 336.
pub(super) fn head_components(dimension: usize) -> usize {
    (dimension * 21 / 32).next_multiple_of(24).min(dimension)
}

/// A probe as weights of a code's bits: of its head in the tables that the path at hand looks them up in, of its tail one by one.
///
/// A bit that agrees with the sign of its component earns 2|qᵢ|, in units that let neighbouring weights fit a byte together. So
/// ⟨q, s⟩·√d ≈ unit · (sum of weights earned − half the sum of all).
pub(crate) struct SketchProbe {
    tables: Vec<Bytes>,
    tail: TailWeights,
    dimension: f64,
    unit: f64,
    head: Share,
    whole: Share,
}

/// A code or its head.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// The share v of all components.
    of_components: f64,
    /// The sum of their weights.
    weights_sum: f64,
    /// How far rounding takes the sum of a code that all signs agree with below what it stands for, at most; in units.
    rounded_away: f64,
}

/// The alignment of a row, in units of 2⁻¹⁶, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Alignment(pub(super) u16);

/// The alignment of a row's head, in units of 2⁻⁸ of the largest that there can be, √v; rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadAlignment(pub(super) u8);

impl Alignment {
    /// Of the components of a row and their length times 2¹⁰.
    pub(super) fn of(components: &[i16], norm: u32) -> Self {
        // Casts saturate.
        Self((alignment(components, norm, components.len()) * 65536.0) as u16)
    }
}

impl HeadAlignment {
    /// Of the components of a row and their length times 2¹⁰.
    pub(super) fn of(components: &[i16], norm: u32) -> Self {
        let (dimension, head) = (components.len(), head_components(components.len()));
        let largest = (head as f64 / dimension as f64).sqrt();
        // Casts saturate.
        Self((alignment(&components[..head], norm, dimension) / largest * 256.0) as u8)
    }
}

/// ⟨x, s⟩ over some components of a row of so many.
fn alignment(components: &[i16], norm: u32, dimension: usize) -> f64 {
    let sum: u64 = components.iter().map(|component| u64::from(component.unsigned_abs())).sum();
    let length = f64::from(norm) / 1024.0;
    sum as f64 / (length * (dimension as f64).sqrt())
}

/// What a row is judged by: its head first, then the whole code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    pub(super) head: Least,
    pub(super) whole: Line,
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
        let head = head_components(components.len());
        let share = |count: usize| {
            let weights_sum = f64::from(weights[..count].iter().map(|weight| u32::from(weight.weight)).sum::<u32>());
            Share {
                of_components: count as f64 / components.len() as f64,
                weights_sum,
                rounded_away: ((f64::from(sum(&components[..count])) * per_component - weights_sum) / 2.0).max(0.0),
            }
        };
        Self {
            tables: Layout::of(path).tables(&weights[..head]),
            tail: TailWeights::new(&weights[head..]),
            dimension: f64::from(probe.dimension()),
            unit: 2.0 / (per_component * length),
            head: share(head),
            whole: share(components.len()),
        }
    }

    /// Of the heads of codes.
    pub(super) fn tables(&self) -> &[Bytes] {
        &self.tables
    }

    /// Of the tails of codes.
    pub(super) fn tail(&self) -> &TailWeights {
        &self.tail
    }

    /// The lines of which a mate at the threshold, which is above 0, falls below each in one of so many cases: see the engine.
    pub(super) fn lines(&self, threshold: ComparisonScore, deviations: f64) -> Lines {
        let (at, per_alignment) = self.line(self.head, threshold, deviations);
        // Rounded down, as the alignment is, and the half that is added back; casts saturate.
        let slope = ((per_alignment * self.head.of_components.sqrt()) as u16).min(Least::SLOPE_MAX);
        let at = (at - 0.5).floor();
        let head = Least { slope, plus: at as u16, minus: -at as u16 };
        let (at, per_alignment) = self.line(self.whole, threshold, deviations);
        Lines { head, whole: Line::new(at, per_alignment) }
    }

    /// The least sum at alignment 0, and how it grows with the alignment.
    fn line(&self, share: Share, threshold: ComparisonScore, deviations: f64) -> (f64, f64) {
        let threshold = threshold.as_f64() - COSINE_NOISE;
        let Share { of_components, weights_sum, rounded_away } = share;
        let alignment = FRAC_2_PI.sqrt() * of_components;
        let aside = (1.0 - threshold * threshold) / (self.dimension - 1.0);
        // Each weight is off by at most half a unit, evenly, of which half counts, with the bit's sign; of the sum over √d. Signs of mates
        // agree, all of them where the threshold is near 1: what all errors come to together is left out of account besides.
        let rounding = self.unit * self.unit / 48.0 * of_components;
        let deviation = (aside * (of_components - alignment * alignment) + rounding).sqrt();
        let value = threshold * alignment - deviations * deviation;
        let slope = threshold + deviations * aside * alignment / deviation;
        let per_sum = self.dimension.sqrt() / self.unit;
        ((value - slope * alignment) * per_sum + weights_sum / 2.0 - rounded_away, slope * per_sum)
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
