//! Proportions, with what a count tells of the true one.

use std::fmt;
use std::ops::AddAssign;

use statrs::function::beta::beta_reg;

/// Probability left out on either side of an interval.
const TAIL: f64 = 0.025;
/// Halvings of 0..=1 until f64 has no number left between the bounds of any proportion worth reporting.
const BISECTIONS: usize = 100;
/// With larger counts than this on both sides Wilson's score interval is used: its bounds are within a hundredth of
/// the interval's width of the exact ones, whose continued fraction would need more terms than it is given.
const EXACT_COUNT_MAX: u64 = 5_000;
/// The 97.5 % quantile of the normal law.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// So many among so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proportion {
    /// How often it happened; at most `of`.
    pub count: u64,
    /// How often it could have happened.
    pub of: u64,
}

/// An interval that holds the true proportion with at least the stated confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl AddAssign for Proportion {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.of += other.of;
    }
}

impl Proportion {
    /// The observed proportion; `None` when there was nothing to observe.
    pub fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.count as f64 / self.of as f64)
    }

    /// The 95 % interval of Clopper and Pearson: never too narrow, not even for a count of zero. Nothing observed gives 0 to 1.
    pub fn interval95(self) -> Interval {
        let Self { count, of } = self;
        assert!(count <= of, "{count} of {of}");
        if count.min(of - count) > EXACT_COUNT_MAX {
            return self.wilson();
        }
        let (counted, rest) = (count as f64, (of - count) as f64);
        Interval {
            low: if count == 0 { 0.0 } else { solve(|p| beta_reg(counted, rest + 1.0, p) < TAIL) },
            high: if count == of { 1.0 } else { solve(|p| beta_reg(counted + 1.0, rest, p) < 1.0 - TAIL) },
        }
    }

    fn wilson(self) -> Interval {
        let (observed, of) = (self.count as f64 / self.of as f64, self.of as f64);
        let z2 = NORMAL_QUANTILE * NORMAL_QUANTILE;
        let centre = observed + z2 / (2.0 * of);
        let half = NORMAL_QUANTILE * (observed * (1.0 - observed) / of + z2 / (4.0 * of * of)).sqrt();
        Interval { low: (centre - half) / (1.0 + z2 / of), high: (centre + half) / (1.0 + z2 / of) }
    }
}

/// The probability at which `below` turns false.
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if below(middle) { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// `3 of 200: 1.50 % (95 %: 0.31 to 4.32 %)`.
impl fmt::Display for Proportion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {}", self.count, self.of)?;
        let Some(value) = self.value() else { return Ok(()) };
        let Interval { low, high } = self.interval95();
        // Two decimals of a per cent, more for rates that would read as zero.
        let decimals = (1..=7).find(|decimals| high * 10_f64.powi(*decimals) >= 1.0).unwrap_or(7).max(2) as usize;
        let [value, low, high] = [value, low, high].map(|share| share * 100.0);
        write!(formatter, ": {value:.decimals$} % (95 %: {low:.decimals$} to {high:.decimals$} %)")
    }
}

#[cfg(test)]
mod tests {
    use statrs::function::gamma::ln_gamma;

    use super::*;

    /// P(X ≥ count) for X binomial, added up term by term.
    fn upper_tail(count: u64, of: u64, p: f64) -> f64 {
        let (k, n) = (count as f64, of as f64);
        let ln_choose = ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
        let mut term = (ln_choose + k * p.ln() + (n - k) * (-p).ln_1p()).exp();
        let mut sum = 0.0;
        for x in count..=of {
            sum += term;
            let x = x as f64;
            term *= (n - x) / (x + 1.0) * p / (1.0 - p);
            if term < sum * 1e-16 {
                break;
            }
        }
        sum
    }

    #[test]
    fn intervals_leave_the_stated_probability_on_either_side() {
        for (count, of) in [(1, 100), (3, 200), (50, 49_000), (40, 200_000_000), (4_999, 10_000), (5_000, 200_000_000)]
        {
            let Interval { low, high } = Proportion { count, of }.interval95();
            assert!((upper_tail(count, of, low) / TAIL - 1.0).abs() < 1e-3, "lower bound {low} of {count} of {of}");
            let above = 1.0 - upper_tail(count + 1, of, high);
            assert!((above / TAIL - 1.0).abs() < 1e-3, "upper bound {high} of {count} of {of}");
        }
    }

    #[test]
    fn nothing_seen_in_n_is_the_rule_of_3_7_over_n() {
        let close = |proportion: Proportion, low: f64, high: f64| {
            let interval = proportion.interval95();
            assert!((interval.low - low).abs() < 1e-9 && (interval.high - high).abs() < 1e-9, "{interval:?}");
        };
        close(Proportion { count: 0, of: 200 }, 0.0, 1.0 - TAIL.powf(1.0 / 200.0));
        close(Proportion { count: 200, of: 200 }, TAIL.powf(1.0 / 200.0), 1.0);
        close(Proportion { count: 0, of: 0 }, 0.0, 1.0);
    }

    #[test]
    fn intervals_of_large_counts_join_the_exact_ones() {
        for of in [20_000, 2_000_000] {
            let exact = Proportion { count: EXACT_COUNT_MAX, of }.interval95();
            let wilson = Proportion { count: EXACT_COUNT_MAX, of }.wilson();
            let width = exact.high - exact.low;
            assert!((exact.low - wilson.low).abs() < 0.01 * width && (exact.high - wilson.high).abs() < 0.01 * width);
        }
    }

    #[test]
    fn proportions_read_as_percentages() {
        assert_eq!(Proportion { count: 3, of: 200 }.to_string(), "3 of 200: 1.50 % (95 %: 0.31 to 4.32 %)");
        assert_eq!(Proportion { count: 0, of: 20_000 }.to_string(), "0 of 20000: 0.0000 % (95 %: 0.0000 to 0.0184 %)");
        assert_eq!(Proportion { count: 0, of: 0 }.to_string(), "0 of 0");
    }
}
