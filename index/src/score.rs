//! The comparison score: an integer, so that it is the same on every processor and totally ordered.
//!
//! How scores are computed from templates lives in `compare`.

use std::fmt;

const MICROS_PER_UNIT: i32 = 1_000_000;

/// Similarity of two templates in units of 1e-6, from −1,000,000 to 1,000,000; higher is closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComparisonScore(i32);

impl ComparisonScore {
    /// The lowest score, −1.
    pub const MIN: Self = Self(-MICROS_PER_UNIT);
    /// The score 0.
    pub const ZERO: Self = Self(0);
    /// The highest score, 1.
    pub const MAX: Self = Self(MICROS_PER_UNIT);

    /// The score of so many millionths; `None` outside −1,000,000 to 1,000,000.
    pub const fn from_micros(micros: i32) -> Option<Self> {
        if micros >= -MICROS_PER_UNIT && micros <= MICROS_PER_UNIT { Some(Self(micros)) } else { None }
    }

    /// The nearest score to `value`, halves away from zero; `None` if it is not a number or outside −1 to 1.
    ///
    /// For thresholds on the wire and in configuration; templates are never compared in floating point.
    pub fn from_f64(value: f64) -> Option<Self> {
        if !(-1.0..=1.0).contains(&value) {
            return None;
        }
        // Within ±1e6, hence exact in an i32.
        Some(Self((value * f64::from(MICROS_PER_UNIT)).round() as i32))
    }

    /// The score in millionths.
    pub const fn micros(self) -> i32 {
        self.0
    }

    /// The score as a number from −1 to 1, for the wire and for people.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(MICROS_PER_UNIT)
    }
}

impl fmt::Display for ComparisonScore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.abs();
        write!(formatter, "{sign}{}.{:06}", magnitude / MICROS_PER_UNIT, magnitude % MICROS_PER_UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_print_with_six_decimals() {
        for (micros, text) in [
            (803_412, "0.803412"),
            (-1, "-0.000001"),
            (0, "0.000000"),
            (1_000_000, "1.000000"),
            (-1_000_000, "-1.000000"),
        ] {
            assert_eq!(ComparisonScore::from_micros(micros).expect("in range").to_string(), text);
        }
    }

    #[test]
    fn thresholds_round_to_the_nearest_millionth() {
        for (value, micros) in
            [(0.42, 420_000), (0.8, 800_000), (-0.000_000_5, -1), (0.000_000_49, 0), (1.0, 1_000_000)]
        {
            assert_eq!(ComparisonScore::from_f64(value).map(ComparisonScore::micros), Some(micros));
        }
        for value in [f64::NAN, f64::INFINITY, 1.000_001, -1.5] {
            assert_eq!(ComparisonScore::from_f64(value), None);
        }
    }

    #[test]
    fn micros_out_of_range_are_refused() {
        assert_eq!(ComparisonScore::from_micros(1_000_001), None);
        assert_eq!(ComparisonScore::from_micros(i32::MIN), None);
    }
}
