//! A probe as the codes of segments are compared with it: tables of its components, and the line that a row must reach.

use std::f64::consts::{FRAC_2_PI, SQRT_2};
use std::fmt;

use super::{SIGNS_PER_FIELD, tables_of};
use crate::embedding::CanonicalEmbedding;
use crate::kernel::sketch::{ENTRY_MAX, NO_TABLES, StepTables, TABLE_ENTRIES, TABLES_PER_STEP};
use crate::score::ComparisonScore;

/// What sums of table entries leave out of account at the edge of a threshold: rounding of the canonical templates and of `f64`.
const COSINE_NOISE: f64 = 4e-6;

/// The tables of a probe.
///
/// The entry of a field is the sum of the probe's components under the field's signs, less the least such sum, in units that let the largest
/// be [`ENTRY_MAX`]. So ⟨q, s⟩·√d ≈ unit · (sum of entries) − Σ|qᵢ|.
pub(crate) struct SketchProbe {
    tables: Vec<StepTables>,
    dimension: f64,
    unit: f64,
    /// Σ|qᵢ| of the unit probe.
    components_sum: f64,
}

/// The least sum of entries as a function of a row's alignment: `at` + `per_alignment` · f.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    at: f64,
    per_alignment: f64,
}

impl Line {
    /// The least sum that reaches the line; 0 if all do, and more than any where none does.
    pub(super) fn least(self, alignment: f32) -> u16 {
        // Casts saturate.
        (self.at + self.per_alignment * f64::from(alignment)).ceil() as u16
    }
}

impl SketchProbe {
    pub(crate) fn new(probe: &CanonicalEmbedding) -> Self {
        let groups = || probe.components().chunks(SIGNS_PER_FIELD);
        let span = |four: &[i16]| four.iter().map(|component| u32::from(component.unsigned_abs())).sum::<u32>();
        // Of a canonical template at least one component is not 0.
        let largest = groups().map(span).max().unwrap_or(1).max(1);
        let per_component = f32::from(ENTRY_MAX) / (2 * largest) as f32;
        let mut tables = vec![NO_TABLES; tables_of(probe.dimension()) / TABLES_PER_STEP];
        for (table, four) in groups().enumerate() {
            let place = table % TABLES_PER_STEP * TABLE_ENTRIES;
            let entries = &mut tables[table / TABLES_PER_STEP][place / 64].0[place % 64..place % 64 + TABLE_ENTRIES];
            for (field, entry) in entries.iter_mut().enumerate() {
                // Twice what has the sign asked for: the sum under the signs, less the least there is.
                let agreeing = four.iter().enumerate().map(|(place, component)| {
                    let positive = field >> place & 1 == 1;
                    2 * u32::from(if (*component >= 0) == positive { component.unsigned_abs() } else { 0 })
                });
                *entry = ((agreeing.sum::<u32>() as f32 * per_component + 0.5) as u8).min(ENTRY_MAX);
            }
        }
        let length = f64::from(probe.norm()) / 1024.0;
        Self {
            tables,
            dimension: f64::from(probe.dimension()),
            unit: 2.0 * f64::from(largest) / f64::from(ENTRY_MAX) / length,
            components_sum: f64::from(groups().map(span).sum::<u32>()) / length,
        }
    }

    pub(super) fn tables(&self) -> &[StepTables] {
        &self.tables
    }

    /// The line that a mate at the threshold, which is above 0, falls below in one of so many cases: see the engine.
    pub(super) fn line(&self, threshold: ComparisonScore, deviations: f64) -> Line {
        let threshold = threshold.as_f64() - COSINE_NOISE;
        let alignment = FRAC_2_PI.sqrt();
        let aside = (1.0 - threshold * threshold) / (self.dimension - 1.0);
        // Entries are off by at most half a unit, evenly.
        let entries = self.dimension / SIGNS_PER_FIELD as f64;
        let rounding = self.unit * self.unit / 12.0 * entries / self.dimension;
        let deviation = (aside * (1.0 - alignment * alignment) + rounding).sqrt();
        let value = threshold * alignment - deviations * deviation;
        let slope = threshold + deviations * aside * alignment / deviation;
        let per_sum = self.dimension.sqrt() / self.unit;
        Line {
            at: (value - slope * alignment) * per_sum + self.components_sum / self.unit,
            per_alignment: slope * per_sum,
        }
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
