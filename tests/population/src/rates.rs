//! Proportions with their intervals, and the rates of a workload enrolled one by one: FNIR, FPIR, twins apart.
//! The pairs may come from the oracle or from a cluster; where they come from is not known here.

use std::fmt;

use statrs::function::beta::beta_reg;

use crate::truth::{Kinship, Relation, Row, Standing, Truth};

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

/// What enrolling the rows one by one gives, each searched against those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnrolmentRates {
    /// FNIR: rows with a mate before them that no mate was flagged for.
    pub missed: Proportion,
    /// FPIR: rows with neither mate nor twin before them that were flagged nevertheless.
    pub false_alarms: Proportion,
    /// Rows without a mate but with an identical twin before them that were flagged. Expected; part of neither rate.
    pub twins_flagged: Proportion,
    /// Unordered pairs of mates that were flagged.
    pub mated_pairs: Proportion,
    /// Flagged pairs of twins.
    pub twin_pairs: u64,
    /// Flagged pairs of siblings.
    pub sibling_pairs: u64,
    /// Flagged pairs of strangers.
    pub stranger_pairs: u64,
}

impl EnrolmentRates {
    /// Counts the flagged pairs, each in either order; a pair given twice counts once.
    ///
    /// Of two rows enrolled at the same moment either may list the other: what counts is that the pair was flagged.
    pub fn count(truth: &Truth, flagged: impl IntoIterator<Item = (Row, Row)>) -> Self {
        let mut pairs: Vec<_> = flagged.into_iter().map(|(a, b)| (a.max(b), a.min(b))).collect();
        pairs.sort_unstable();
        pairs.dedup();

        let mut rates = Self::default();
        let mut any = vec![false; truth.len()];
        let mut mate = vec![false; truth.len()];
        for (later, earlier) in pairs {
            let place = later.0 as usize;
            any[place] = true;
            match truth.relation(earlier, later) {
                Relation::Mates => {
                    mate[place] = true;
                    rates.mated_pairs.count += 1;
                }
                Relation::Kin(Kinship::Twins) => rates.twin_pairs += 1,
                Relation::Kin(Kinship::Siblings) => rates.sibling_pairs += 1,
                Relation::Strangers => rates.stranger_pairs += 1,
            }
        }
        rates.mated_pairs.of = truth.mated_pairs().len() as u64;
        for (place, standing) in truth.standings().into_iter().enumerate() {
            let (rate, counts) = match standing {
                Standing::Mated => (&mut rates.missed, !mate[place]),
                Standing::TwinOnly => (&mut rates.twins_flagged, any[place]),
                Standing::NonMated => (&mut rates.false_alarms, any[place]),
            };
            rate.of += 1;
            rate.count += u64::from(counts);
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use statrs::function::gamma::ln_gamma;

    use super::*;
    use crate::truth::Subject;

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

    #[test]
    fn rates_count_rows_by_their_standing() {
        let mut truth = Truth::from_subjects([1, 2, 1, 3, 4, 1, 5].map(Subject).to_vec());
        truth.state_kin(Subject(2), Kinship::Twins, Subject(3));
        truth.state_kin(Subject(2), Kinship::Siblings, Subject(4));
        truth.state_kin(Subject(2), Kinship::Twins, Subject(3));
        // Row 2 finds its mate, row 5 only a stranger; row 3 its twin; row 6 a stranger, listed from the other side.
        let flagged = [(0, 2), (2, 0), (3, 5), (1, 3), (0, 6)].map(|(a, b)| (Row(a), Row(b)));
        let rates = EnrolmentRates::count(&truth, flagged);
        let expected = EnrolmentRates {
            missed: Proportion { count: 1, of: 2 },
            false_alarms: Proportion { count: 1, of: 4 },
            twins_flagged: Proportion { count: 1, of: 1 },
            mated_pairs: Proportion { count: 1, of: 3 },
            twin_pairs: 1,
            sibling_pairs: 0,
            stranger_pairs: 2,
        };
        assert_eq!(rates, expected);
    }
}
