//! Planted probes: made-up mates of rows, whose scores are known and just above a threshold.
//!
//! Deterministic, so that whoever plants in the same rows measures the same: the seed is a hash of them. What an engine makes of the probes is
//! the caller's to see.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::embedding::{CanonicalEmbedding, append_unit};
use crate::embedding_rows::EmbeddingRows;
use crate::score::ComparisonScore;

/// Planted scores reach from the threshold to this much above it, in units of 1e-6.
const WINDOW_MICROS: i32 = 50_000;

/// Where the part of a planted probe that is not its row points.
///
/// Real mates differ from each other along directions the population varies in, which is also where a quantiser's errors
/// lie; noise of a sensor differs in all directions alike. Each kind is measured by itself, and the lower cut counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Any, uniformly.
    Anywhere,
    /// That of another row of the segment.
    OtherRow,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Anywhere, Self::OtherRow];
}

/// A probe made to score at or just above a threshold with one row.
#[derive(Debug)]
pub struct Planted {
    /// The row.
    pub row: usize,
    /// The probe.
    pub probe: CanonicalEmbedding,
    /// The score with the row less the threshold, as a number; not negative.
    pub excess: f64,
}

/// Plants probes in a segment.
pub struct Planter<'rows> {
    rows: &'rows EmbeddingRows,
    threshold: ComparisonScore,
    direction: Direction,
    random: ChaCha8Rng,
}

impl<'rows> Planter<'rows> {
    /// Plants in these rows, which are at least one.
    pub fn new(rows: &'rows EmbeddingRows, threshold: ComparisonScore, direction: Direction) -> Self {
        Self { rows, threshold, direction, random: ChaCha8Rng::from_seed(seed(rows, threshold, direction)) }
    }

    /// A probe at a row. `None` if rounding to a canonical template took it below the threshold.
    pub fn plant(&mut self, row: usize) -> Option<Planted> {
        let mut own = Vec::new();
        append_unit(self.rows.row(row), &mut own);
        let aside = self.aside(row, &own);
        let score = self.score();
        // own and aside are orthonormal, so this has length one and that cosine with the row.
        let sine = (1.0 - score * score).max(0.0).sqrt();
        let mixed: Vec<f32> =
            own.iter().zip(&aside).map(|(own, aside)| (score * f64::from(*own) + sine * aside) as f32).collect();
        let probe = CanonicalEmbedding::from_f32(&mixed).expect("a unit embedding of the rows' dimension");
        let excess = self.rows.score(row, &probe).micros() - self.threshold.micros();
        (excess >= 0).then(|| Planted { row, probe, excess: f64::from(excess) * 1e-6 })
    }

    /// A score in the window.
    fn score(&mut self) -> f64 {
        let lowest = self.threshold.micros();
        let highest = lowest.saturating_add(WINDOW_MICROS).min(ComparisonScore::MAX.micros());
        f64::from(self.random.random_range(lowest..=highest)) * 1e-6
    }

    /// A unit direction orthogonal to the row.
    fn aside(&mut self, row: usize, own: &[f32]) -> Vec<f64> {
        match self.direction {
            Direction::Anywhere => self.anywhere(own),
            Direction::OtherRow => {
                let other = self.random.random_range(0..self.rows.len());
                let mut numbers = Vec::new();
                append_unit(self.rows.row(other), &mut numbers);
                // The row itself, or a duplicate of it, points nowhere aside.
                let aside = numbers.into_iter().map(f64::from).collect();
                if other == row {
                    self.anywhere(own)
                } else {
                    orthonormal(aside, own).unwrap_or_else(|| self.anywhere(own))
                }
            }
        }
    }

    fn anywhere(&mut self, own: &[f32]) -> Vec<f64> {
        loop {
            let normals = (0..own.len()).map(|_| self.random.sample(StandardNormal)).collect();
            if let Some(aside) = orthonormal(normals, own) {
                return aside;
            }
        }
    }
}

/// The part of `aside` orthogonal to the unit embedding `own`, of length one; `None` if hardly anything is left.
fn orthonormal(mut aside: Vec<f64>, own: &[f32]) -> Option<Vec<f64>> {
    const SHARE_MIN: f64 = 1e-3;
    let length = |numbers: &[f64]| numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
    let before = length(&aside);
    let along: f64 = aside.iter().zip(own).map(|(aside, own)| aside * f64::from(*own)).sum();
    aside.iter_mut().zip(own).for_each(|(aside, own)| *aside -= along * f64::from(*own));
    let after = length(&aside);
    if after <= SHARE_MIN * before {
        return None;
    }
    aside.iter_mut().for_each(|number| *number /= after);
    Some(aside)
}

/// A hash of rows spread over the segment, and of what is planted.
fn seed(rows: &EmbeddingRows, threshold: ComparisonScore, direction: Direction) -> [u8; 32] {
    const ROWS_HASHED: usize = 64;
    let mut hasher = blake3::Hasher::new_derive_key("semel-index 2026 planted probes");
    hasher.update(&threshold.micros().to_le_bytes());
    hasher.update(&[match direction {
        Direction::Anywhere => 1,
        Direction::OtherRow => 2,
    }]);
    hasher.update(&(rows.len() as u64).to_le_bytes());
    let hashed = rows.len().min(ROWS_HASHED);
    for row in (0..hashed).map(|place| place * rows.len() / hashed) {
        let (components, _) = rows.row(row);
        components.iter().for_each(|component| {
            hasher.update(&component.to_le_bytes());
        });
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::EnrolmentOrdinal;

    fn rows(count: u32, dimension: u32) -> EmbeddingRows {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut rows = EmbeddingRows::new(dimension);
        for ordinal in 0..count {
            let numbers: Vec<f32> = (0..dimension).map(|_| random.sample(StandardNormal)).collect();
            rows.push(EnrolmentOrdinal(ordinal), &CanonicalEmbedding::from_f32(&numbers).expect("valid"));
        }
        rows
    }

    #[test]
    fn planted_probes_score_within_the_window() {
        let rows = rows(100, 64);
        for direction in Direction::ALL {
            for micros in [-500_000, 0, 420_000, 999_000, 1_000_000] {
                let threshold = ComparisonScore::from_micros(micros).expect("in range");
                let mut planter = Planter::new(&rows, threshold, direction);
                let planted: Vec<Planted> = (0..100).filter_map(|row| planter.plant(row)).collect();
                assert!(planted.len() >= 80, "{micros}: {}", planted.len());
                for planted in planted {
                    let score = rows.score(planted.row, &planted.probe).micros();
                    // Rounding to 16 bits moves a score by some millionths.
                    assert!((micros..=micros + WINDOW_MICROS + 50).contains(&score), "{score}");
                    assert_eq!(planted.excess, f64::from(score - micros) * 1e-6);
                }
            }
        }
    }

    #[test]
    fn planting_again_gives_the_same_probes() {
        let rows = rows(64, 32);
        for direction in Direction::ALL {
            let plant = || {
                let mut planter = Planter::new(&rows, ComparisonScore::ZERO, direction);
                (0..64).filter_map(|row| planter.plant(row)).map(|planted| planted.probe).collect::<Vec<_>>()
            };
            assert_eq!(plant(), plant());
        }
    }

    #[test]
    fn duplicates_of_a_row_are_no_direction() {
        let one = CanonicalEmbedding::from_f32(&[0.6, 0.8, 0.0]).expect("valid");
        let mut rows = EmbeddingRows::new(3);
        (0..16).for_each(|ordinal| rows.push(EnrolmentOrdinal(ordinal), &one));
        let mut planter = Planter::new(&rows, ComparisonScore::ZERO, Direction::OtherRow);
        assert!((0..16).filter_map(|row| planter.plant(row)).count() > 8);
    }
}
