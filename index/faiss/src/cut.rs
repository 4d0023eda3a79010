//! The cut: the estimate below which a mate is not expected, with its confidence. Pure arithmetic.
//!
//! Estimates are biased, so a cut is measured at planted probes, never derived from the threshold. Who plants and
//! measures is in `planted` and `segment`.

use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

/// The confidence that the share of mates missed is within the budget.
pub(crate) const CONFIDENCE: f64 = 0.95;
/// How far below the smallest estimate of any planted mate the cut stays, in standard deviations.
const SLACK_DEVIATIONS: f64 = 0.25;
/// Estimates of one pair differ by less than this between batches of different sizes, whose sums BLAS orders differently.
const ESTIMATE_NOISE: f64 = 1e-4;

/// What was seen at one planted probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Observation {
    /// The pair's comparison score less the threshold; not negative.
    pub(crate) excess: f64,
    /// What the index estimates for the pair; `None` if it does not report the row at all.
    pub(crate) estimate: Option<f32>,
}

/// The cut for an index that reports every row, from one kind of planted mates.
///
/// Fits estimate = α + β · excess by least squares, so that α is the mean at a score of exactly the threshold. With s the
/// standard deviation of the residuals, the cut is α − k·s, k the factor of the one-sided normal tolerance bound that
/// covers 1 − budget of all mates at the threshold with 95 % confidence (Natrella, *Experimental Statistics*, NBS
/// Handbook 91, 1963; NIST/SEMATECH e-Handbook §7.2.6.3). As tails may be heavier than normal, it is moreover held below
/// the smallest estimate seen by a quarter of s. Mates above the threshold score higher estimates, as β ≥ 0.
///
/// `None` if there are too few observations, a row is not reported, or the budget is outside 0 to ½.
pub(crate) fn normal_cut(observations: &[Observation], miss_budget: f64) -> Option<f64> {
    const OBSERVATIONS_MIN: usize = 100;
    if observations.len() < OBSERVATIONS_MIN || !(miss_budget > 0.0 && miss_budget < 0.5) {
        return None;
    }
    let points: Vec<(f64, f64)> = observations
        .iter()
        .map(|observation| observation.estimate.map(|estimate| (observation.excess, f64::from(estimate))))
        .collect::<Option<_>>()?;
    let count = points.len() as f64;
    let mean_excess = points.iter().map(|(excess, _)| excess).sum::<f64>() / count;
    let mean_estimate = points.iter().map(|(_, estimate)| estimate).sum::<f64>() / count;
    let spread = points.iter().map(|(excess, _)| (excess - mean_excess).powi(2)).sum::<f64>();
    let joint =
        points.iter().map(|(excess, estimate)| (excess - mean_excess) * (estimate - mean_estimate)).sum::<f64>();
    // A threshold near 1 leaves no room above it, hence no slope to see.
    let slope = if spread > 1e-9 * count { (joint / spread).max(0.0) } else { 0.0 };
    let at_threshold = mean_estimate - slope * mean_excess;
    let residuals =
        points.iter().map(|(excess, estimate)| (estimate - at_threshold - slope * excess).powi(2)).sum::<f64>();
    let deviation = (residuals / (count - 2.0)).sqrt();
    let tolerance = at_threshold - tolerance_factor(count, miss_budget) * deviation;
    let smallest = points.iter().map(|(_, estimate)| *estimate).fold(f64::INFINITY, f64::min);
    let cut = tolerance.min(smallest - SLACK_DEVIATIONS * deviation) - ESTIMATE_NOISE;
    cut.is_finite().then_some(cut)
}

/// The cut for an index that may not report a row whatever its estimate: just below every estimate reported.
///
/// That leaves the rows not reported, u of n. They are within the budget with 95 % confidence if
/// P(Binomial(n, budget) ≤ u) ≤ 5 % (Clopper and Pearson, 1934), whatever their distribution. `None` if they are not, or
/// if n is too small for u = 0 (see [`observations_needed`]).
pub(crate) fn count_cut(observations: &[Observation], miss_budget: f64) -> Option<f64> {
    let reported: Vec<f64> =
        observations.iter().filter_map(|observation| observation.estimate.map(f64::from)).collect();
    let binomial = Binomial::new(miss_budget, observations.len() as u64).ok()?;
    let unreported = observations.len() - reported.len();
    if binomial.cdf(unreported as u64) > 1.0 - CONFIDENCE {
        return None;
    }
    let cut = reported.into_iter().fold(f64::INFINITY, f64::min) - ESTIMATE_NOISE;
    cut.is_finite().then_some(cut)
}

/// The fewest observations from which [`count_cut`] can bound a budget: with none missed, (1 − budget)ⁿ ≤ 5 %.
pub(crate) fn observations_needed(miss_budget: f64) -> usize {
    // No budget at all needs infinitely many, which the cast makes the largest number.
    ((1.0 - CONFIDENCE).ln() / (-miss_budget).ln_1p()).ceil() as usize
}

/// The factor k of the one-sided normal tolerance bound, by Natrella's approximation.
fn tolerance_factor(count: f64, miss_budget: f64) -> f64 {
    let normal = Normal::standard();
    let share = -normal.inverse_cdf(miss_budget);
    let confidence = normal.inverse_cdf(CONFIDENCE);
    let a = 1.0 - confidence.powi(2) / (2.0 * (count - 1.0));
    let b = share.powi(2) - confidence.powi(2) / count;
    (share + (share.powi(2) - a * b).sqrt()) / a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observations(count: usize, estimate: impl Fn(f64) -> Option<f32>) -> Vec<Observation> {
        (0..count)
            .map(|place| {
                let excess = 0.05 * place as f64 / count as f64;
                Observation { excess, estimate: estimate(excess) }
            })
            .collect()
    }

    /// Published one-sided factors at 95 % confidence, for 95 % and 99 % of the population.
    #[test]
    fn the_tolerance_factor_is_the_published_one() {
        for (count, miss_budget, factor) in [(40.0, 0.05, 2.125), (50.0, 0.05, 2.065), (50.0, 0.01, 2.862)] {
            let found = tolerance_factor(count, miss_budget);
            assert!((found - factor).abs() < 0.02, "{count} {miss_budget}: {found} is not {factor}");
        }
        // Many observations leave the normal quantile alone.
        assert!((tolerance_factor(1e9, 3e-5) - 4.0128).abs() < 1e-3);
    }

    #[test]
    fn an_exact_index_is_cut_just_below_the_threshold() {
        let cut = normal_cut(&observations(2_048, |excess| Some((0.42 + excess) as f32)), 3e-5).expect("a cut");
        assert!((0.4198..0.42).contains(&cut), "{cut}");
    }

    #[test]
    fn the_cut_is_four_deviations_below_the_estimate_at_the_threshold() {
        // Alternating ±0.02 around a biased line: standard deviation 0.02.
        let mut sign = 1.0;
        let mut seen = observations(2_048, |excess| Some((0.252 + 0.6 * excess) as f32));
        for observation in &mut seen {
            observation.estimate = observation.estimate.map(|estimate| estimate + 0.02 * sign);
            sign = -sign;
        }
        let cut = normal_cut(&seen, 3e-5).expect("a cut");
        assert!((cut - (0.252 - 4.12 * 0.02)).abs() < 1e-3, "{cut}");
        assert!(normal_cut(&seen, 1e-9).expect("a cut") < cut, "a smaller budget cuts lower");
    }

    #[test]
    fn the_cut_is_below_every_estimate_seen() {
        let mut seen = observations(2_048, |_| Some(0.3));
        seen[77].estimate = Some(0.1);
        assert!(normal_cut(&seen, 3e-5).expect("a cut") < 0.1);
    }

    #[test]
    fn there_is_no_cut_without_evidence() {
        assert_eq!(normal_cut(&observations(50, |_| Some(0.3)), 3e-5), None);
        for miss_budget in [0.0, 0.5, 1.0, f64::NAN] {
            assert_eq!(normal_cut(&observations(2_048, |_| Some(0.3)), miss_budget), None);
        }
        let mut unreported = observations(2_048, |_| Some(0.3));
        unreported[5].estimate = None;
        assert_eq!(normal_cut(&unreported, 3e-5), None);
        assert_eq!(count_cut(&observations(2_048, |_| Some(0.3)), 3e-5), None);
    }

    #[test]
    fn counts_need_as_many_observations_as_the_budget_demands() {
        assert_eq!(observations_needed(0.05), 59);
        assert_eq!(observations_needed(0.0), usize::MAX);
        assert_eq!(count_cut(&observations(58, |_| Some(0.3)), 0.05), None);
        assert!(count_cut(&observations(59, |_| Some(0.3)), 0.05).is_some());
    }

    #[test]
    fn rows_not_reported_count_as_missed() {
        let missing = |share: usize| {
            let mut seen = observations(2_000, |_| Some(0.3));
            seen.iter_mut().step_by(share).for_each(|observation| observation.estimate = None);
            seen
        };
        // 20 of 2,000 missed: within 2 % with confidence, not within 1 %.
        assert!(count_cut(&missing(100), 0.02).is_some());
        assert_eq!(count_cut(&missing(100), 0.01), None);
    }
}
