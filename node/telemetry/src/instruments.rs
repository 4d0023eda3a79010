//! Histograms of durations and of sizes, each with one set of buckets, so that any two can be compared.

use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The first bucket of durations, in seconds; each next one is twice as long.
const SECONDS_FIRST: f64 = 0.000_1;
/// Buckets of durations: 0.1 ms to 13 s.
const SECONDS_BUCKETS: u16 = 18;
/// Buckets of sizes: 1 to 32,768.
const SIZES_BUCKETS: u16 = 16;

/// How long something took, in seconds. Clones share what was observed.
#[derive(Debug, Clone)]
pub struct Seconds(pub(crate) Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(SECONDS_FIRST, 2.0, SECONDS_BUCKETS)))
    }
}

impl Seconds {
    /// Takes one duration in.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// Starts to measure; the duration is taken in when the timer is dropped, so that what fails or is given up counts too.
    pub fn start(&self) -> Timer {
        Timer { seconds: self.clone(), begun: Instant::now() }
    }
}

/// A measurement that has begun.
#[derive(Debug)]
pub struct Timer {
    seconds: Seconds,
    begun: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.seconds.observe(self.begun.elapsed());
    }
}

/// How many of something came together. Clones share what was observed.
#[derive(Debug, Clone)]
pub struct Sizes(pub(crate) Histogram);

impl Default for Sizes {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(1.0, 2.0, SIZES_BUCKETS)))
    }
}

impl Sizes {
    /// Takes one size in.
    pub fn observe(&self, size: usize) {
        // Exact up to 2^53, far beyond the last bucket.
        self.0.observe(size as f64);
    }
}
