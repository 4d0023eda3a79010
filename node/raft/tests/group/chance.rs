//! The only source of randomness of these tests: everything follows from a seed.

/// SplitMix64.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        bound > 0 && self.next().is_multiple_of(bound)
    }
}

/// The seed that `SEED` in the environment asks for, to repeat a failure; else the first `count`.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    match asked_seed() {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}

/// Tells whether one seed is repeated, so that sums over many mean nothing.
pub(crate) fn replays_one_seed() -> bool {
    asked_seed().is_some()
}

fn asked_seed() -> Option<u64> {
    let asked = std::env::var("SEED").ok()?;
    Some(asked.parse().expect("SEED is a number"))
}
