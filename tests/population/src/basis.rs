//! A seeded orthogonal basis that is applied in O(d log d): rounds of random signs and Walsh–Hadamard transforms.
//! It stands in for a dense random rotation, which would cost d² operations for each capture.

use rand::RngExt;

use crate::seed::{Purpose, Seed};

/// One round already spreads every axis evenly over all dimensions; the second removes the first one's regularity.
const ROUNDS: usize = 2;

/// An orthogonal matrix, kept as the signs of its rounds.
#[derive(Debug, Clone)]
pub(crate) struct Basis {
    signs: Vec<f32>,
    dimension: usize,
    /// The largest power of two that is at most the dimension; a window at either end covers every dimension.
    window: usize,
}

impl Basis {
    pub(crate) fn random(dimension: usize, seed: Seed) -> Self {
        let mut stream = seed.stream(Purpose::Basis, 0, 0);
        let signs = (0..dimension * ROUNDS * 2).map(|_| if stream.random::<bool>() { 1.0 } else { -1.0 }).collect();
        Self { signs, dimension, window: 1 << dimension.ilog2() }
    }

    /// Turns the coordinates in place; lengths and angles stay as they are.
    pub(crate) fn apply(&self, coordinates: &mut [f32]) {
        assert_eq!(coordinates.len(), self.dimension);
        let last_start = self.dimension - self.window;
        for (half_round, signs) in self.signs.chunks_exact(self.dimension).enumerate() {
            for (coordinate, sign) in coordinates.iter_mut().zip(signs) {
                *coordinate *= sign;
            }
            let start = if half_round % 2 == 0 { 0 } else { last_start };
            hadamard(&mut coordinates[start..start + self.window]);
        }
    }
}

/// The orthonormal Walsh–Hadamard transform; the length is a power of two.
fn hadamard(values: &mut [f32]) {
    let mut span = 1;
    while span < values.len() {
        for block in values.chunks_exact_mut(span * 2) {
            let (low, high) = block.split_at_mut(span);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        span *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    for value in values {
        *value *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::dot;

    #[test]
    fn basis_is_orthonormal_for_any_dimension() {
        for dimension in [2, 3, 192, 250, 512] {
            let basis = Basis::random(dimension, Seed(5));
            let column = |axis: usize| {
                let mut unit = vec![0.0; dimension];
                unit[axis] = 1.0;
                basis.apply(&mut unit);
                unit
            };
            let columns: Vec<_> = (0..dimension).map(column).collect();
            for (i, a) in columns.iter().enumerate() {
                for (j, b) in columns.iter().enumerate() {
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((dot(a, b) - expected).abs() < 1e-5, "dimension {dimension}: {i} and {j}");
                }
            }
        }
    }

    #[test]
    fn basis_spreads_every_axis_over_the_dimensions() {
        let dimension = 192;
        let basis = Basis::random(dimension, Seed(5));
        for axis in 0..dimension {
            let mut unit = vec![0.0_f32; dimension];
            unit[axis] = 1.0;
            basis.apply(&mut unit);
            let largest = unit.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert!(largest < 0.5, "axis {axis} keeps {largest}");
        }
    }
}
