//! How comparison scores are distributed: exact integer moments and a histogram by thousandths, so that parts counted
//! by different threads merge to the same figures in any order. Which pairs are counted lives in `oracle`.

use semel_index::{ComparisonScore, Proportion};

/// Width of a bin of the histogram, in millionths.
const BIN_MICROS: i32 = 1_000;
/// Bins from −1.000 to 1.000; the last holds the score 1 alone.
const BINS: usize = 2_001;

/// Counted comparison scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreDistribution {
    count: u64,
    sum: i128,
    squares: i128,
    range: Option<(ComparisonScore, ComparisonScore)>,
    bins: Vec<u64>,
}

impl Default for ScoreDistribution {
    fn default() -> Self {
        Self { count: 0, sum: 0, squares: 0, range: None, bins: vec![0; BINS] }
    }
}

impl ScoreDistribution {
    /// Counts one score.
    pub fn record(&mut self, score: ComparisonScore) {
        let micros = i128::from(score.micros());
        self.count += 1;
        self.sum += micros;
        self.squares += micros * micros;
        self.widen(score, score);
        self.bins[bin(score)] += 1;
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        if let Some((low, high)) = other.range {
            self.widen(low, high);
        }
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            *bin += more;
        }
    }

    /// Number of scores.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean score; `None` without scores.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64 / 1e6)
    }

    /// Standard deviation; `None` without scores.
    pub fn sd(&self) -> Option<f64> {
        // In integers, so nothing cancels; |x| ≤ 10^6 keeps count · Σx² within 2^127 up to 10^13 scores.
        let spread = i128::from(self.count) * self.squares - self.sum * self.sum;
        (self.count > 0).then(|| (spread as f64).sqrt() / self.count as f64 / 1e6)
    }

    /// Lowest and highest score; `None` without scores.
    pub fn range(&self) -> Option<(ComparisonScore, ComparisonScore)> {
        self.range
    }

    /// The scores at or above a threshold. Exact for thresholds of three decimals; others are rounded up to one.
    pub fn at_or_above(&self, threshold: ComparisonScore) -> Proportion {
        let exact = threshold.micros().rem_euclid(BIN_MICROS) == 0;
        let first = bin(threshold) + usize::from(!exact);
        Proportion { count: self.bins[first..].iter().sum(), of: self.count }
    }

    /// The scores below a threshold; see [`Self::at_or_above`] for its precision.
    pub fn below(&self, threshold: ComparisonScore) -> Proportion {
        let above = self.at_or_above(threshold);
        Proportion { count: above.of - above.count, of: above.of }
    }

    /// The lower edge of the bin that holds the score with this share of scores below it; `None` without scores.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let below = (share.clamp(0.0, 1.0) * self.count as f64) as u64;
        let mut counted = 0;
        let place = self.bins.iter().position(|bin| {
            counted += bin;
            counted > below.min(self.count.saturating_sub(1))
        })?;
        Some((place as f64 - 1_000.0) / 1_000.0)
    }

    fn widen(&mut self, low: ComparisonScore, high: ComparisonScore) {
        let (lowest, highest) = self.range.unwrap_or((low, high));
        self.range = Some((lowest.min(low), highest.max(high)));
    }
}

fn bin(score: ComparisonScore) -> usize {
    let from_lowest = score.micros() - ComparisonScore::MIN.micros();
    usize::try_from(from_lowest / BIN_MICROS).expect("no score is below the lowest")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(micros: i32) -> ComparisonScore {
        ComparisonScore::from_micros(micros).expect("in range")
    }

    fn distribution(micros: &[i32]) -> ScoreDistribution {
        let mut distribution = ScoreDistribution::default();
        micros.iter().for_each(|micros| distribution.record(score(*micros)));
        distribution
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let mut merged = distribution(&[420_000, -1_000_000]);
        merged.merge(&distribution(&[419_999, 1_000_000, 0]));
        merged.merge(&ScoreDistribution::default());
        assert_eq!(merged, distribution(&[-1_000_000, 0, 419_999, 420_000, 1_000_000]));
        assert_eq!(merged.range(), Some((ComparisonScore::MIN, ComparisonScore::MAX)));
    }

    #[test]
    fn moments_and_quantiles_are_those_of_the_scores() {
        let distribution = distribution(&[100_000, 200_000, 300_000, 400_000]);
        assert_eq!(distribution.mean(), Some(0.25));
        assert!((distribution.sd().expect("has scores") - 0.0125_f64.sqrt()).abs() < 1e-12);
        assert_eq!(distribution.quantile(0.5), Some(0.3));
        assert_eq!(distribution.quantile(1.0), Some(0.4));
        assert_eq!(ScoreDistribution::default().mean(), None);
        assert_eq!(ScoreDistribution::default().quantile(0.5), None);
    }

    #[test]
    fn thresholds_of_three_decimals_are_exact() {
        let distribution = distribution(&[419_999, 420_000, 420_001, -420_000, -420_001, 1_000_000]);
        for (threshold, count) in [(420_000, 3), (421_000, 1), (-420_000, 5), (-421_000, 6), (1_000_000, 1)] {
            assert_eq!(distribution.at_or_above(score(threshold)), Proportion { count, of: 6 });
            assert_eq!(distribution.below(score(threshold)), Proportion { count: 6 - count, of: 6 });
        }
    }
}
