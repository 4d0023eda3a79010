//! The canonical embedding: 16-bit integer components and the norm they imply.
//!
//! Rotation happens before this, in the coordinator; comparison lives in `compare`, the fast dot product in `kernel`.
//!
//! # Why every dot product fits an `i32`
//!
//! The components of a normalised embedding are scaled by [`UNIT`] = 32,767 and rounded, which moves the whole by at
//! most ½√d ≤ 32 for d ≤ 4,096. So its length is at most 32,767 + 32 < [`LENGTH_MAX`] = 32,801, which construction
//! asserts for components that come from bytes too. For any set S of components Cauchy–Schwarz gives
//! |Σ_S aᵢbᵢ| ≤ ‖a_S‖‖b_S‖ ≤ ‖a‖‖b‖ ≤ 32,801² = 1,075,905,601 < 2³¹: no partial sum overflows, in whatever order and
//! however many lanes a kernel adds.

use std::fmt;
use std::sync::Arc;

use crate::template::{EMBEDDING_DIMENSION_MAX, EMBEDDING_DIMENSION_MIN, TemplateError};

/// What a component of exactly 1 is scaled to.
const UNIT: f64 = 32_767.0;
/// Length of the shortest and longest canonical embedding, in component units. See the module's proof.
const LENGTH_MIN: u64 = 32_733;
const LENGTH_MAX: u64 = 32_801;
/// Fractional bits of a norm.
pub(crate) const NORM_FRACTION_BITS: u32 = 10;
/// The bounds of every norm, used by conservative prefilters.
pub(crate) const NORM_MIN: u32 = (LENGTH_MIN as u32) << NORM_FRACTION_BITS;
pub(crate) const NORM_MAX: u32 = (LENGTH_MAX as u32) << NORM_FRACTION_BITS;

const _: () = assert!(LENGTH_MAX * LENGTH_MAX < 1 << 31);
// Half the square root of the largest dimension, squared: 32² = 4096 / 4, with a margin of two for the arithmetic.
const _: () = assert!((LENGTH_MAX - 32_767 - 2) * (LENGTH_MAX - 32_767 - 2) * 4 >= EMBEDDING_DIMENSION_MAX as u64);

/// An embedding as it is stored and compared. Cheap to clone. `Debug` prints the number of components only.
#[derive(Clone, PartialEq, Eq)]
pub struct CanonicalEmbedding {
    components: Arc<[i16]>,
    norm: u32,
}

impl CanonicalEmbedding {
    /// Normalises and rounds: each component is round-half-even(32767 · xᵢ/‖x‖).
    ///
    /// Computed in `f64`, squares summed from the first component to the last, with one correctly rounded square root
    /// and one correctly rounded division each: the same bits on every processor. No square of an `f32` overflows or
    /// vanishes in an `f64`, so embeddings of any finite length work.
    ///
    /// # Errors
    /// [`TemplateError::Dimension`], [`TemplateError::NotFinite`], [`TemplateError::ZeroLength`].
    pub fn from_f32(values: &[f32]) -> Result<Self, TemplateError> {
        check_dimension(values.len())?;
        if let Some(component) = values.iter().position(|value| !value.is_finite()) {
            return Err(TemplateError::NotFinite { component });
        }
        let squared: f64 = values.iter().fold(0.0, |sum, value| sum + f64::from(*value) * f64::from(*value));
        if squared == 0.0 {
            return Err(TemplateError::ZeroLength);
        }
        let length = squared.sqrt();
        // |xᵢ| ≤ ‖x‖ also after rounding, as every step above is monotone: the result fits.
        let components = values.iter().map(|value| (UNIT * (f64::from(*value) / length)).round_ties_even() as i16);
        Self::from_canonical(components.collect())
    }

    /// Takes components that are canonical already, as read back from storage.
    ///
    /// # Errors
    /// [`TemplateError::Dimension`], [`TemplateError::NotNormalised`].
    pub fn from_components(components: &[i16]) -> Result<Self, TemplateError> {
        check_dimension(components.len())?;
        Self::from_canonical(Arc::from(components))
    }

    fn from_canonical(components: Arc<[i16]>) -> Result<Self, TemplateError> {
        let squared = components.iter().map(|component| u64::from(component.unsigned_abs()).pow(2)).sum::<u64>();
        if !(LENGTH_MIN * LENGTH_MIN..=LENGTH_MAX * LENGTH_MAX).contains(&squared) {
            return Err(TemplateError::NotNormalised);
        }
        let norm = rounded_square_root(squared << (2 * NORM_FRACTION_BITS));
        let norm = u32::try_from(norm).expect("at most 32801 · 2^10");
        Ok(Self { components, norm })
    }

    /// The number of components.
    pub fn dimension(&self) -> u32 {
        u32::try_from(self.components.len()).expect("at most EMBEDDING_DIMENSION_MAX")
    }

    /// The components, about 32,767 times those of the unit embedding.
    pub fn components(&self) -> &[i16] {
        &self.components
    }

    /// The length of the components, times 2¹⁰, rounded to the nearest integer.
    pub fn norm(&self) -> u32 {
        self.norm
    }
}

impl fmt::Debug for CanonicalEmbedding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CanonicalEmbedding({} components)", self.components.len())
    }
}

/// Appends canonical components, with their norm, divided by their length: the unit embedding. Never NaN: the length is about 32,767.
pub fn append_unit((components, norm): (&[i16], u32), numbers: &mut Vec<f32>) {
    let scale = f64::from(1_u32 << NORM_FRACTION_BITS) / f64::from(norm);
    numbers.extend(components.iter().map(|component| (f64::from(*component) * scale) as f32));
}

fn check_dimension(found: usize) -> Result<(), TemplateError> {
    let (min, max) = (EMBEDDING_DIMENSION_MIN, EMBEDDING_DIMENSION_MAX);
    if (min as usize..=max as usize).contains(&found) {
        Ok(())
    } else {
        Err(TemplateError::Dimension { found, min, max })
    }
}

/// The integer nearest to √value: exact, as (n + ½)² is never an integer.
fn rounded_square_root(value: u64) -> u64 {
    let floor = value.isqrt();
    if value - floor * floor > floor { floor + 1 } else { floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_scaled_and_rounded() {
        let embedding = CanonicalEmbedding::from_f32(&[3.0, -4.0]).expect("valid");
        assert_eq!(embedding.components(), [19_660, -26_214]);
        // √(19660² + 26214²) = 32767.1…
        let exact = f64::from(19_660_i32 * 19_660 + 26_214 * 26_214).sqrt() * 1024.0;
        assert_eq!(f64::from(embedding.norm()), exact.round());
    }

    #[test]
    fn the_length_given_does_not_matter() {
        let unit = [0.6_f32, -0.8];
        for scale in [1e-40_f32, 1e-30, 1.0, 1e30] {
            let scaled = unit.map(|value| value * scale);
            let embedding = CanonicalEmbedding::from_f32(&scaled).expect("valid");
            let reference = CanonicalEmbedding::from_f32(&unit).expect("valid");
            // Subnormal components have few bits of their own; all others must agree.
            if scale > 1e-35 {
                assert_eq!(embedding, reference, "{scale}");
            }
        }
        assert!(CanonicalEmbedding::from_f32(&[f32::MAX; 4096]).is_ok());
        assert!(CanonicalEmbedding::from_f32(&[f32::from_bits(1); 4096]).is_ok());
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        let check = |values: &[f32], expected| {
            assert_eq!(CanonicalEmbedding::from_f32(values).expect_err("invalid"), expected);
        };
        check(&[0.0, -0.0], TemplateError::ZeroLength);
        check(&[1.0, f32::NAN], TemplateError::NotFinite { component: 1 });
        check(&[f32::INFINITY, 0.0], TemplateError::NotFinite { component: 0 });
        check(&[1.0], TemplateError::Dimension { found: 1, min: 2, max: 4096 });
        check(&vec![1.0; 4097], TemplateError::Dimension { found: 4097, min: 2, max: 4096 });
    }

    #[test]
    fn components_of_another_length_are_refused() {
        for components in [[0_i16, 0], [i16::MAX, i16::MAX], [i16::MIN, i16::MIN], [100, 100]] {
            assert_eq!(CanonicalEmbedding::from_components(&components), Err(TemplateError::NotNormalised));
        }
    }

    #[test]
    fn square_roots_round_to_the_nearest() {
        for (value, root) in [(0, 0), (1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (u64::from(u32::MAX), 65_536)] {
            assert_eq!(rounded_square_root(value), root, "{value}");
        }
    }
}
