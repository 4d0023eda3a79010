//! Made-up embeddings with the statistics of real ones, for this crate's tests and bench. Nothing here is asserted.

#![allow(dead_code, reason = "each test binary and the bench use a part")]

use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use semel_index::{CanonicalEmbedding, ComparisonScore, EmbeddingRows, EnrolmentOrdinal};

/// A population whose embeddings vary more in some directions than in others, rotated at random.
pub(crate) struct Population {
    random: ChaCha8Rng,
    deviations: Vec<f64>,
    mean: Vec<f64>,
    non_negative: bool,
    signs: [Vec<f64>; 2],
}

impl Population {
    /// Faces: impostor scores of mean 0 and the given standard deviation, at a power of two of dimensions.
    pub(crate) fn faces(dimension: usize, impostor_deviation: f64, seed: u64) -> Self {
        let deviations = deviations_for(dimension, impostor_deviation);
        Self::new(dimension, deviations, vec![0.0; dimension], false, seed)
    }

    /// Voices: no component is negative, so impostor scores are high.
    pub(crate) fn voices(dimension: usize, seed: u64) -> Self {
        Self::new(dimension, vec![1.0; dimension], vec![0.8; dimension], true, seed)
    }

    fn new(dimension: usize, deviations: Vec<f64>, mean: Vec<f64>, non_negative: bool, seed: u64) -> Self {
        assert!(dimension.is_power_of_two());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let signs = [(); 2].map(|()| (0..dimension).map(|_| if random.random() { 1.0 } else { -1.0 }).collect());
        Self { random, deviations, mean, non_negative, signs }
    }

    /// One person's embedding.
    pub(crate) fn person(&mut self) -> Vec<f32> {
        let random = &mut self.random;
        let varied = self.deviations.iter().zip(&self.mean).map(|(deviation, mean)| {
            let normal: f64 = random.sample(StandardNormal);
            mean + deviation * normal
        });
        if self.non_negative {
            return varied.map(|number| number.max(0.0) as f32).collect();
        }
        let mut numbers: Vec<f64> = varied.collect();
        for signs in &self.signs {
            numbers.iter_mut().zip(signs).for_each(|(number, sign)| *number *= sign);
            hadamard(&mut numbers);
        }
        numbers.into_iter().map(|number| number as f32).collect()
    }

    /// So many people as rows.
    pub(crate) fn rows(&mut self, count: u32) -> EmbeddingRows {
        let mut rows = EmbeddingRows::new(u32::try_from(self.mean.len()).expect("small"));
        for ordinal in 0..count {
            let person = self.person();
            rows.push(EnrolmentOrdinal(ordinal), &canonical(&person));
        }
        rows
    }

    /// A mate of a row, scoring from the threshold to 0.05 above it; it differs as another person of the population does.
    pub(crate) fn mate(&mut self, rows: &EmbeddingRows, row: usize, threshold: ComparisonScore) -> CanonicalEmbedding {
        let own: Vec<f64> = rows.row(row).0.iter().map(|component| f64::from(*component)).collect();
        let own_length = dot(&own, &own).sqrt();
        loop {
            let mut aside: Vec<f64> = self.person().into_iter().map(f64::from).collect();
            let along = dot(&aside, &own) / dot(&own, &own);
            aside.iter_mut().zip(&own).for_each(|(aside, own)| *aside -= along * own);
            let aside_length = dot(&aside, &aside).sqrt();
            let score = (threshold.as_f64() + 0.05 * self.random.random::<f64>()).min(1.0);
            let sine = (1.0 - score * score).sqrt();
            let mixed: Vec<f32> = own
                .iter()
                .zip(&aside)
                .map(|(own, aside)| (score * own / own_length + sine * aside / aside_length) as f32)
                .collect();
            let mate = canonical(&mixed);
            if rows.score(row, &mate) >= threshold {
                return mate;
            }
        }
    }
}

/// The canonical template of numbers that have a direction.
pub(crate) fn canonical(numbers: &[f32]) -> CanonicalEmbedding {
    CanonicalEmbedding::from_f32(numbers).expect("finite, of a supported dimension, and not zero")
}

/// A threshold from a literal.
pub(crate) fn threshold(value: f64) -> ComparisonScore {
    ComparisonScore::from_f64(value).expect("in range")
}

/// Rows from canonical templates.
pub(crate) fn rows_of(templates: &[CanonicalEmbedding]) -> Arc<EmbeddingRows> {
    let mut rows = EmbeddingRows::new(templates[0].dimension());
    for (ordinal, template) in (0..).zip(templates) {
        rows.push(EnrolmentOrdinal(ordinal), template);
    }
    Arc::new(rows)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Falling exponentially, so steeply that cosines of two people have the standard deviation asked for.
fn deviations_for(dimension: usize, impostor_deviation: f64) -> Vec<f64> {
    let variances = |fall: f64| -> Vec<f64> {
        (0..dimension).map(|place| (-fall * place as f64 / dimension as f64).exp()).collect()
    };
    let deviation = |fall: f64| dot(&variances(fall), &variances(fall)).sqrt() / variances(fall).iter().sum::<f64>();
    let (mut low, mut high) = (0.0, 50.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if deviation(middle) < impostor_deviation { low = middle } else { high = middle }
    }
    variances(low).into_iter().map(f64::sqrt).collect()
}

/// The Walsh–Hadamard transform, up to scale: with random signs before it, a random rotation for little work.
fn hadamard(numbers: &mut [f64]) {
    let mut half = 1;
    while half < numbers.len() {
        for block in numbers.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        half *= 2;
    }
}
