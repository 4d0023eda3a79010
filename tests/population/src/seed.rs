//! Where all randomness comes from: one independent ChaCha stream for each (seed, purpose, person, number), so that
//! any part of a population can be drawn again without drawing the rest. What is drawn from a stream lives elsewhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The one number that a population, its captures and its registrations are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed(pub u64);

/// What a stream is for. The codes are part of the streams: changing one changes every population.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Basis = 1,
    GroupDirections = 2,
    Family = 3,
    Group = 4,
    Identity = 5,
    Quality = 6,
    Residual = 7,
    Registrations = 8,
    IrisTexture = 9,
    IrisSession = 10,
    IrisCapture = 11,
}

impl Seed {
    /// The stream for one purpose, one person (or pair, or zero) and one number (a capture, an eye, or zero).
    pub(crate) fn stream(self, purpose: Purpose, person: u64, number: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (word, value) in key.chunks_exact_mut(8).zip([self.0, purpose as u64, person, number]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}
