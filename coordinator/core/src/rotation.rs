//! The secret rotation of a gallery's embeddings: one specified procedure, equal bit for bit on every coordinator.
//!
//! Cosines do not change under an orthonormal matrix, so nodes compare rotated templates and never see the key. This
//! makes casual cross-matching of a stolen volume fail; it is not encryption, as known pairs recover the matrix.
//!
//! # The procedure
//!
//! 1. Seed = BLAKE3 `derive_key`([`MATRIX_CONTEXT`], secret ‖ key version (u32 LE) ‖ dimension (u32 LE)).
//! 2. ChaCha20 with that seed gives 64-bit words; the top 53 bits of one are a uniform number in [0, 1).
//! 3. Marsaglia's polar method makes Gaussian numbers, in pairs, with `libm`'s logarithm and the hardware's exact root.
//! 4. Stewart's product of Householder reflections makes them an orthonormal matrix, uniform under Haar's measure: for
//!    n = 1, 2, …, d, the matrix of order n is H·diag(±1, matrix of order n − 1), whose first column is a random direction.
//!    It costs 4/3·d³ operations, a third of Gram–Schmidt twice, and needs no second pass: reflections keep lengths.
//! 5. The entries are rounded to `f32`, row-major; the checksum is BLAKE3 over dimension (u32 LE) ‖ entries (LE).
//!
//! Everything is additions, multiplications, divisions and roots in `f64` in a written order, never contracted to fused
//! operations, so the bits do not depend on the processor. Drawn in 0.06 s for d = 512 and 0.5 s for d = 1024 on one core;
//! from d = 2048 (9 s) on memory is the bound, and d = 4096 takes a minute, 64 MiB, and thrice that while it is drawn. The
//! shell draws it once per key, off its async threads. One rotation takes 0.15 ms at d = 512, 8 ms at d = 4096.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use semel_index::{KeyVersion, TemplateSpec};

use crate::gallery::Policy;

const MATRIX_CONTEXT: &str = "semel 2026-11 rotation matrix v1";
const CHECKSUM_CONTEXT: &str = "semel 2026-11 rotation checksum v1";
/// Sums that are added up side by side, so that the processor need not wait for one addition to begin the next.
const LANES: usize = 8;

/// The secret of one key version of a gallery: 32 bytes drawn by the coordinator that creates it.
#[derive(Clone, PartialEq, Eq)]
pub struct GalleryKey([u8; 32]);

impl GalleryKey {
    /// The key with this secret.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The secret itself: for the metadata group's log and rows only.
    pub fn secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for GalleryKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GalleryKey(secret)")
    }
}

/// An orthonormal matrix of one dimension.
pub struct RotationMatrix {
    dimension: usize,
    /// Row-major, dimension².
    entries: Vec<f32>,
}

impl RotationMatrix {
    /// Draws the matrix of a key for embeddings of `dimension` components. See the module for the procedure and its cost.
    pub fn generate(key: &GalleryKey, version: KeyVersion, dimension: u32) -> Self {
        let mut material = key.0.to_vec();
        material.extend(version.0.to_le_bytes());
        material.extend(dimension.to_le_bytes());
        let mut gaussians = Gaussians::from_seed(blake3::derive_key(MATRIX_CONTEXT, &material));
        let dimension = dimension as usize;
        let mut matrix = vec![0.0; dimension * dimension];
        let mut sums = vec![0.0; dimension];
        for start in (0..dimension).rev() {
            let direction: Vec<f64> = (start..dimension).map(|_| gaussians.next()).collect();
            reflect(&mut matrix, dimension, start, direction, &mut sums);
        }
        Self { dimension, entries: matrix.into_iter().map(|entry| entry as f32).collect() }
    }

    /// The number of components it rotates.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// BLAKE3 over dimension ‖ entries.
    pub fn checksum(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&u32::try_from(self.dimension).expect("drawn from a u32").to_le_bytes());
        for row in self.entries.chunks(self.dimension) {
            let bytes: Vec<u8> = row.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
        *hasher.finalize().as_bytes()
    }

    /// Scales an embedding to unit length, then rotates it. Any finite, non-zero input of the right dimension gives finite
    /// components, however large or small its own are.
    ///
    /// # Panics
    /// If `values` has another dimension: the caller validated it against the spec that the matrix was drawn for.
    pub fn rotate(&self, values: &[f32]) -> Vec<f32> {
        assert_eq!(values.len(), self.dimension, "an embedding is rotated by a matrix of its own dimension");
        let wide: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        let length = dot(&wide, &wide).sqrt();
        let unit: Vec<f64> = wide.iter().map(|value| value / length).collect();
        self.entries.chunks_exact(self.dimension).map(|row| dot_narrow(row, &unit) as f32).collect()
    }
}

impl fmt::Debug for RotationMatrix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RotationMatrix({} × {})", self.dimension, self.dimension)
    }
}

/// The matrices of one key version: one per dimension that the gallery's specs have.
#[derive(Debug, Clone)]
pub struct Rotations {
    key_version: KeyVersion,
    by_dimension: BTreeMap<u32, Arc<RotationMatrix>>,
}

impl Rotations {
    /// Draws every matrix that a policy's specs need. Specs never change, so one set serves all versions of the policy.
    pub fn generate(key: &GalleryKey, key_version: KeyVersion, policy: &Policy) -> Self {
        let mut by_dimension = BTreeMap::new();
        for modality in policy.modalities() {
            match modality.spec {
                TemplateSpec::Embedding { dimension } => {
                    by_dimension
                        .entry(dimension)
                        .or_insert_with(|| Arc::new(RotationMatrix::generate(key, key_version, dimension)));
                }
                TemplateSpec::BinaryCode(_) => (),
            }
        }
        Self { key_version, by_dimension }
    }

    /// The key version they were drawn from.
    pub fn key_version(&self) -> KeyVersion {
        self.key_version
    }

    /// The matrix for embeddings of `dimension` components.
    pub fn matrix(&self, dimension: u32) -> Option<&RotationMatrix> {
        self.by_dimension.get(&dimension).map(Arc::as_ref)
    }

    /// BLAKE3 over the matrices' checksums in ascending dimension: two coordinators that disagree on it must not serve the
    /// gallery.
    pub fn checksum(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(CHECKSUM_CONTEXT);
        for matrix in self.by_dimension.values() {
            hasher.update(&matrix.checksum());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Replaces the block from (`start`, `start`) on, which holds a matrix of order n − 1 below and right of its corner, by
/// H·diag(sign, that matrix): H reflects the first axis to `direction`, the sign makes it point there and not opposite.
fn reflect(matrix: &mut [f64], dimension: usize, start: usize, mut direction: Vec<f64>, sums: &mut [f64]) {
    let length = dot(&direction, &direction).sqrt();
    let sign = if direction[0] < 0.0 { -1.0 } else { 1.0 };
    matrix[start * dimension + start] = -sign;
    // The sign that avoids cancellation: v = x + sign(x₀)·|x|·e₁, H = I − 2vvᵀ/vᵀv.
    direction[0] += sign * length;
    let scale = 2.0 / dot(&direction, &direction);
    let sums = &mut sums[start..];
    sums.fill(0.0);
    let rows = matrix[start * dimension..].chunks_exact(dimension);
    for (row, component) in rows.zip(&direction) {
        for (sum, entry) in sums.iter_mut().zip(&row[start..]) {
            *sum += component * entry;
        }
    }
    let rows = matrix[start * dimension..].chunks_exact_mut(dimension);
    for (row, component) in rows.zip(&direction) {
        let factor = scale * component;
        for (entry, sum) in row[start..].iter_mut().zip(sums.iter()) {
            *entry -= factor * sum;
        }
    }
}

/// The dot product in a fixed order: [`LANES`] sums side by side, added up from the first, then what is left over.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let sum = sums.iter().fold(0.0, |sum, lane| sum + lane);
    a_rest.iter().zip(b_rest).fold(sum, |sum, (a, b)| sum + a * b)
}

/// [`dot`] where one side is kept narrow to halve the memory it streams from.
fn dot_narrow(a: &[f32], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * b[lane];
        }
    }
    let sum = sums.iter().fold(0.0, |sum, lane| sum + lane);
    a_rest.iter().zip(b_rest).fold(sum, |sum, (a, b)| sum + f64::from(*a) * b)
}

/// Gaussian numbers from a keystream, in a specified order.
struct Gaussians {
    keystream: ChaCha20Rng,
    spare: Option<f64>,
}

impl Gaussians {
    fn from_seed(seed: [u8; 32]) -> Self {
        Self { keystream: ChaCha20Rng::from_seed(seed), spare: None }
    }

    fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // Accepted with probability π/4, so this ends; a long run of refusals is as unlikely as a broken cipher.
        loop {
            let (a, b) = (self.symmetric(), self.symmetric());
            let squared = a * a + b * b;
            if squared > 0.0 && squared < 1.0 {
                let factor = (-2.0 * libm::log(squared) / squared).sqrt();
                self.spare = Some(b * factor);
                return a * factor;
            }
        }
    }

    /// Uniform in [−1, 1).
    fn symmetric(&mut self) -> f64 {
        // 53 bits are exact in an f64.
        let uniform = (self.keystream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        2.0 * uniform - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Confirmed by a second implementation written from the procedure above, in another language.
    const CHECKSUM_4: &str = "7235eeb2022c455f78ac2e1a317f46d84125b0061ac33c29ae4a249c48ad1174";
    const CHECKSUM_256: &str = "9273ad40ae5075074dbffdc4e1284c046981c0893c1eb05c81c6617b2aeb1877";

    fn key() -> GalleryKey {
        GalleryKey::from_secret(std::array::from_fn(|position| position as u8))
    }

    fn matrix(dimension: u32) -> RotationMatrix {
        RotationMatrix::generate(&key(), KeyVersion(1), dimension)
    }

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
        let (a, b) = (wide(a), wide(b));
        dot(&a, &b) / (dot(&a, &a).sqrt() * dot(&b, &b).sqrt())
    }

    #[test]
    fn rows_are_orthonormal() {
        for dimension in [4_u32, 5, 33, 192, 512] {
            let matrix = matrix(dimension);
            let rows: Vec<&[f32]> = matrix.entries.chunks(dimension as usize).collect();
            for (first, a) in rows.iter().enumerate() {
                let a: Vec<f64> = a.iter().map(|entry| f64::from(*entry)).collect();
                for (second, b) in rows.iter().enumerate().skip(first) {
                    let expected = if first == second { 1.0 } else { 0.0 };
                    let error = (dot_narrow(b, &a) - expected).abs();
                    assert!(error < 1e-6, "rows {first} and {second} of {dimension}: {error}");
                }
            }
        }
    }

    /// Rotated templates are truth on disk: the procedure never changes.
    #[test]
    fn the_matrix_of_a_known_key_never_changes() {
        let checksums = [4, 256].map(|dimension| hex(matrix(dimension).checksum()));
        assert_eq!(checksums, [CHECKSUM_4, CHECKSUM_256]);
    }

    #[test]
    fn keys_versions_and_dimensions_give_other_matrices() {
        let reference = matrix(16);
        let other_key = GalleryKey::from_secret([1; 32]);
        assert_ne!(RotationMatrix::generate(&other_key, KeyVersion(1), 16).checksum(), reference.checksum());
        assert_ne!(RotationMatrix::generate(&key(), KeyVersion(2), 16).checksum(), reference.checksum());
        assert_ne!(matrix(17).entries[..16], reference.entries[..16]);
        assert_eq!(matrix(16).checksum(), reference.checksum());
    }

    #[test]
    fn cosines_are_kept() {
        let matrix = matrix(256);
        let mut gaussians = Gaussians::from_seed([3; 32]);
        for _ in 0..50 {
            let a: Vec<f32> = (0..256).map(|_| gaussians.next() as f32).collect();
            let b: Vec<f32> = a.iter().map(|value| value + gaussians.next() as f32).collect();
            let change = cosine(&matrix.rotate(&a), &matrix.rotate(&b)) - cosine(&a, &b);
            assert!(change.abs() < 5e-7, "{change}");
        }
    }

    #[test]
    fn the_largest_and_smallest_embeddings_rotate_to_unit_length() {
        let matrix = matrix(64);
        for magnitude in [f32::MAX, f32::from_bits(1), 1.0] {
            let rotated = matrix.rotate(&[magnitude; 64]);
            let squared: f64 = rotated.iter().map(|value| f64::from(*value).powi(2)).sum();
            assert!((squared - 1.0).abs() < 1e-6, "{magnitude}: {squared}");
        }
    }

    /// Were the first axis only ever reflected, its image would always lean to one side.
    #[test]
    fn the_image_of_an_axis_leans_to_either_side() {
        let positive = (0..200_u32)
            .filter(|version| RotationMatrix::generate(&key(), KeyVersion(*version), 4).entries[0] > 0.0)
            .count();
        assert!((70..=130).contains(&positive), "{positive} of 200");
    }
}
