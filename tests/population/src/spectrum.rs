//! How identities are spread: the covariance that centres and residuals are drawn from, as a spectrum in a seeded
//! basis or as a measured matrix. Scores between strangers follow from its effective dimension (Σλ)²/Σλ²:
//! their standard deviation is close to 1/√(effective dimension). Who is drawn lives in `population`.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use semel_index::{EMBEDDING_DIMENSION_MAX, EMBEDDING_DIMENSION_MIN};

use crate::basis::Basis;
use crate::seed::Seed;

/// λ_j ∝ (j + 10)^−exponent: the offset keeps the first directions from carrying everything.
const POWER_LAW_OFFSET: f64 = 10.0;
/// Exponents are searched in 0..=8; at 8 a 512-dimensional spectrum has an effective dimension below 3.
const EXPONENT_MAX: f64 = 8.0;
/// Halvings of that interval: more than an f64 resolves.
const BISECTIONS: usize = 80;
/// A measured matrix of fewer people than dimensions is singular; pivots down to this share of the largest variance,
/// of either sign, count as zero.
const PIVOT_TOLERANCE: f64 = 1e-9;
/// Relative asymmetry accepted in a measured matrix: rounding, not another matrix.
const ASYMMETRY_MAX: f64 = 1e-6;

/// Why a spectrum cannot be drawn from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpectrumError {
    /// The dimension is out of range.
    #[error("dimension {dimension} is outside {EMBEDDING_DIMENSION_MIN}..={EMBEDDING_DIMENSION_MAX}")]
    Dimension {
        /// What was given.
        dimension: usize,
    },
    /// No exponent in range gives this effective dimension.
    #[error("effective dimension {effective_dimension} cannot be reached with dimension {dimension}")]
    EffectiveDimension {
        /// What was asked for.
        effective_dimension: f64,
        /// The dimension it was asked of.
        dimension: usize,
    },
    /// An eigenvalue is negative or not finite, or all are zero.
    #[error("eigenvalues must be finite, not negative and not all zero")]
    Eigenvalues,
    /// The matrix has another number of entries than dimension².
    #[error("a covariance of dimension {dimension} has {expected} entries, not {entries}", expected = dimension * dimension)]
    Entries {
        /// What was given.
        entries: usize,
        /// The stated dimension.
        dimension: usize,
    },
    /// The matrix is no covariance: not finite, not symmetric, or with a negative direction.
    #[error("row {row} makes the matrix no covariance: entries must be finite, symmetric and positive semidefinite")]
    NotACovariance {
        /// The first row at which this shows.
        row: usize,
    },
}

/// A covariance with unit trace, ready to draw from.
#[derive(Debug, Clone)]
pub struct Spectrum {
    dimension: usize,
    effective_dimension: f64,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    /// Standard deviations along the axes of a basis: draws stay in eigen-coordinates until [`Spectrum::to_template`].
    Diagonal { deviations: Vec<f32>, basis: Basis },
    /// The lower Cholesky factor, row after row, each row up to its diagonal: draws are already in template coordinates.
    Factor { lower: Vec<f32> },
}

impl Spectrum {
    /// λ_j ∝ (j + 10)^−α in a seeded basis, α solved for the effective dimension. For scores between strangers with
    /// standard deviation σ, ask for 1/σ²; the dimension itself gives the isotropic spectrum.
    pub fn power_law(dimension: usize, effective_dimension: f64, seed: Seed) -> Result<Self, SpectrumError> {
        check_dimension(dimension)?;
        let exponent = solve_exponent(dimension, effective_dimension)
            .ok_or(SpectrumError::EffectiveDimension { effective_dimension, dimension })?;
        Self::from_eigenvalues(&power_law(dimension, exponent), seed)
    }

    /// These eigenvalues (any positive scale) in a seeded basis.
    pub fn from_eigenvalues(eigenvalues: &[f64], seed: Seed) -> Result<Self, SpectrumError> {
        check_dimension(eigenvalues.len())?;
        let trace: f64 = eigenvalues.iter().sum();
        if !trace.is_finite() || trace <= 0.0 || eigenvalues.iter().any(|value| *value < 0.0) {
            return Err(SpectrumError::Eigenvalues);
        }
        let deviations = eigenvalues.iter().map(|value| (value / trace).sqrt() as f32).collect();
        let basis = Basis::random(eigenvalues.len(), seed);
        Ok(Self {
            dimension: eigenvalues.len(),
            effective_dimension: effective_dimension(eigenvalues),
            shape: Shape::Diagonal { deviations, basis },
        })
    }

    /// A measured covariance, row-major, of any positive scale. Drawing costs dimension²/2 operations instead of
    /// dimension · log(dimension).
    pub fn from_covariance(covariance: &[f64], dimension: usize) -> Result<Self, SpectrumError> {
        check_dimension(dimension)?;
        if covariance.len() != dimension * dimension {
            return Err(SpectrumError::Entries { entries: covariance.len(), dimension });
        }
        let trace: f64 = (0..dimension).map(|row| covariance[row * dimension + row]).sum();
        let squares: f64 = covariance.iter().map(|entry| entry * entry).sum();
        let lower = cholesky(covariance, dimension)?;
        let scale = trace.sqrt();
        Ok(Self {
            dimension,
            effective_dimension: trace * trace / squares,
            shape: Shape::Factor { lower: lower.into_iter().map(|entry| (entry / scale) as f32).collect() },
        })
    }

    /// Number of components of a template.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// (Σλ)²/Σλ²: strangers' scores have a standard deviation close to 1/√ of it.
    pub fn effective_dimension(&self) -> f64 {
        self.effective_dimension
    }

    /// A centred Gaussian draw with this covariance, in the coordinates that [`Self::to_template`] leads out of.
    pub(crate) fn draw(&self, stream: &mut impl Rng) -> Vec<f32> {
        let mut normals: Vec<f32> = StandardNormal.sample_iter(stream).take(self.dimension).collect();
        match &self.shape {
            Shape::Diagonal { deviations, basis: _ } => {
                for (value, deviation) in normals.iter_mut().zip(deviations) {
                    *value *= deviation;
                }
                normals
            }
            Shape::Factor { lower } => multiply_lower(lower, &normals),
        }
    }

    /// Turns drawn coordinates into those of templates. Orthogonal, so it may come after all sums and products.
    pub(crate) fn to_template(&self, coordinates: &mut [f32]) {
        match &self.shape {
            Shape::Diagonal { deviations: _, basis } => basis.apply(coordinates),
            Shape::Factor { lower: _ } => {}
        }
    }
}

fn check_dimension(dimension: usize) -> Result<(), SpectrumError> {
    let range = EMBEDDING_DIMENSION_MIN as usize..=EMBEDDING_DIMENSION_MAX as usize;
    if range.contains(&dimension) { Ok(()) } else { Err(SpectrumError::Dimension { dimension }) }
}

fn power_law(dimension: usize, exponent: f64) -> Vec<f64> {
    (0..dimension).map(|j| (j as f64 + POWER_LAW_OFFSET).powf(-exponent)).collect()
}

fn effective_dimension(eigenvalues: &[f64]) -> f64 {
    let sum: f64 = eigenvalues.iter().sum();
    let squares: f64 = eigenvalues.iter().map(|value| value * value).sum();
    sum * sum / squares
}

/// The exponent that gives the effective dimension, which falls from the dimension as the exponent rises from zero.
pub(crate) fn solve_exponent(dimension: usize, target: f64) -> Option<f64> {
    let reached = |exponent| effective_dimension(&power_law(dimension, exponent));
    // At exponent zero every λ is 1, and the effective dimension is the dimension without rounding.
    if !(reached(EXPONENT_MAX)..=dimension as f64).contains(&target) {
        return None;
    }
    let (mut low, mut high) = (0.0, EXPONENT_MAX);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if reached(middle) > target { low = middle } else { high = middle }
    }
    Some(low)
}

/// The lower Cholesky factor in packed rows. A direction without variance gives a zero column.
fn cholesky(covariance: &[f64], dimension: usize) -> Result<Vec<f64>, SpectrumError> {
    let at = |row: usize, column: usize| covariance[row * dimension + column];
    let largest = (0..dimension).map(|row| at(row, row)).fold(0.0, f64::max);
    let tolerance = largest * PIVOT_TOLERANCE;
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(dimension);
    for i in 0..dimension {
        let mut row = vec![0.0; i + 1];
        for j in 0..=i {
            let entry = at(i, j);
            if !entry.is_finite() || (entry - at(j, i)).abs() > ASYMMETRY_MAX * largest {
                return Err(SpectrumError::NotACovariance { row: i });
            }
            let other = if j < i { &rows[j][..j] } else { &row[..j] };
            let rest = entry - row[..j].iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
            row[j] = if j < i {
                let pivot = rows[j][j];
                if pivot > 0.0 { rest / pivot } else { 0.0 }
            } else if rest < -tolerance {
                return Err(SpectrumError::NotACovariance { row: i });
            } else if rest > tolerance {
                rest.sqrt()
            } else {
                0.0
            };
        }
        rows.push(row);
    }
    if largest > 0.0 { Ok(rows.concat()) } else { Err(SpectrumError::NotACovariance { row: 0 }) }
}

fn multiply_lower(lower: &[f32], normals: &[f32]) -> Vec<f32> {
    let mut rest = lower;
    (0..normals.len())
        .map(|row| {
            let (entries, after) = rest.split_at(row + 1);
            rest = after;
            entries.iter().zip(normals).map(|(a, b)| a * b).sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::dot;
    use crate::seed::Purpose;

    #[test]
    fn solved_exponents_give_the_effective_dimensions_asked_for() {
        for (dimension, target) in [(512, 237.0), (512, 123.0), (192, 75.6), (512, 512.0), (256, 10.0)] {
            let spectrum = Spectrum::power_law(dimension, target, Seed(1)).expect("the target is in range");
            assert!((spectrum.effective_dimension() - target).abs() < 1e-6);
        }
        assert!((0.6..0.8).contains(&solve_exponent(512, 237.0).expect("in range")));
    }

    #[test]
    fn impossible_spectra_are_refused() {
        let refused = |effective| Spectrum::power_law(512, effective, Seed(1)).is_err();
        assert!(refused(513.0) && refused(0.5) && refused(f64::NAN));
        assert_eq!(Spectrum::power_law(1, 1.0, Seed(1)).err(), Some(SpectrumError::Dimension { dimension: 1 }));
        assert_eq!(Spectrum::from_eigenvalues(&[1.0, -1.0], Seed(1)).err(), Some(SpectrumError::Eigenvalues));
        assert_eq!(Spectrum::from_eigenvalues(&[0.0, 0.0], Seed(1)).err(), Some(SpectrumError::Eigenvalues));
        let matrix = |entries: [f64; 4]| Spectrum::from_covariance(&entries, 2).err();
        assert_eq!(matrix([1.0, 0.5, -0.5, 1.0]), Some(SpectrumError::NotACovariance { row: 1 }));
        assert_eq!(matrix([1.0, 2.0, 2.0, 1.0]), Some(SpectrumError::NotACovariance { row: 1 }));
        assert_eq!(matrix([f64::NAN, 0.0, 0.0, 1.0]), Some(SpectrumError::NotACovariance { row: 0 }));
        assert_eq!(matrix([0.0; 4]), Some(SpectrumError::NotACovariance { row: 0 }));
        let short = Spectrum::from_covariance(&[1.0], 2).err();
        assert_eq!(short, Some(SpectrumError::Entries { entries: 1, dimension: 2 }));
    }

    #[test]
    fn draws_have_the_given_covariance_even_a_singular_one() {
        // Rank two in three dimensions, trace 6.
        let covariance = [2.0, 1.0, 1.0, 1.0, 2.0, -1.0, 1.0, -1.0, 2.0];
        let spectrum = Spectrum::from_covariance(&covariance, 3).expect("positive semidefinite");
        assert!((spectrum.effective_dimension() - 2.0).abs() < 1e-12);
        let mut stream = Seed(3).stream(Purpose::Identity, 0, 0);
        let draws: Vec<_> = (0..40_000).map(|_| spectrum.draw(&mut stream)).collect();
        for row in 0..3 {
            for column in 0..3 {
                let products = draws.iter().map(|draw| f64::from(draw[row]) * f64::from(draw[column]));
                let measured = products.sum::<f64>() / draws.len() as f64;
                let expected = covariance[row * 3 + column] / 6.0;
                assert!((measured - expected).abs() < 0.01, "{row}, {column}: {measured} for {expected}");
            }
        }
        assert!(draws.iter().all(|draw| (draw[0] - draw[1] - draw[2]).abs() < 1e-5));
        assert!(draws.iter().map(|draw| dot(draw, draw)).sum::<f64>() > 0.0);
    }
}
