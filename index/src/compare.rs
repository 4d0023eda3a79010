//! The comparison of two canonical templates: exact, symmetric, in integers. The one definition of a score.
//!
//! Scans over many references use `kernel` for the sums and this module for the division, so they agree to the bit.

use std::cmp::Ordering;

use crate::binary_code::BinaryCode;
use crate::embedding::{CanonicalEmbedding, NORM_FRACTION_BITS};
use crate::kernel::{self, Path};
use crate::score::ComparisonScore;
use crate::template::{BinaryCodeSpec, Template, TemplateSpec};

/// What comparing two templates gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Their similarity.
    Score(ComparisonScore),
    /// They cannot be compared: too few bits valid in both masks at every shift, or not of the given spec.
    NotComparable,
}

/// Compares two templates of one spec. `compare(s, a, b) == compare(s, b, a)`, bit for bit on every processor.
///
/// Embeddings: the cosine, round-half-away(dot · 10⁶ · 2²⁰ / (norm_a · norm_b)), held to ±10⁶.
///
/// Binary codes: 1 − the smallest share of differing bits, popcount((a ⊕ b) ∧ m) / popcount(m), m the overlap of the
/// masks, over every shift of b's columns by up to `shifts_max` either way whose overlap has at least
/// `common_bits_min` bits; the exact fraction is rounded once, halves up.
pub fn compare(spec: &TemplateSpec, a: &Template, b: &Template) -> Comparison {
    if !a.conforms_to(spec) || !b.conforms_to(spec) {
        return Comparison::NotComparable;
    }
    match (spec, a, b) {
        (TemplateSpec::Embedding { .. }, Template::Embedding(a), Template::Embedding(b)) => {
            Comparison::Score(compare_embeddings(a, b))
        }
        (TemplateSpec::BinaryCode(spec), Template::BinaryCode(a), Template::BinaryCode(b)) => {
            compare_binary_codes(spec, a, b)
        }
        (TemplateSpec::Embedding { .. } | TemplateSpec::BinaryCode(_), _, _) => Comparison::NotComparable,
    }
}

fn compare_embeddings(a: &CanonicalEmbedding, b: &CanonicalEmbedding) -> ComparisonScore {
    cosine(kernel::dot(a.components(), b.components()), a.norm(), b.norm())
}

/// The score of a dot product of components and the two norms.
pub(crate) fn cosine(dot: i32, norm_a: u32, norm_b: u32) -> ComparisonScore {
    let numerator = (i128::from(dot) * i128::from(ComparisonScore::MAX.micros())) << (2 * NORM_FRACTION_BITS);
    let denominator = i128::from(norm_a) * i128::from(norm_b);
    let magnitude = (2 * numerator.abs() + denominator) / (2 * denominator);
    let limit = i128::from(ComparisonScore::MAX.micros());
    let micros = i32::try_from(magnitude.min(limit)).expect("at most 10^6") * dot.signum();
    ComparisonScore::from_micros(micros).expect("held to ±10^6")
}

fn compare_binary_codes(spec: &BinaryCodeSpec, a: &BinaryCode, b: &BinaryCode) -> Comparison {
    let shifted = b.shifted(spec);
    let mut differences = vec![MaskedDifference::NONE; shifted.len() / a.words().len()];
    kernel::binary::masked_differences(Path::detect(), a.words(), &shifted, &mut differences);
    closest(spec, &differences)
}

/// Bits valid in both masks, and those of them that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaskedDifference {
    pub(crate) common: u32,
    pub(crate) differing: u32,
}

impl MaskedDifference {
    pub(crate) const NONE: Self = Self { common: 0, differing: 0 };
}

/// The score of the smallest share of differing bits, among shifts with enough bits in common.
pub(crate) fn closest(spec: &BinaryCodeSpec, shifts: &[MaskedDifference]) -> Comparison {
    // No bits in common say nothing, whatever a spec that was never validated permits.
    let common_bits_min = spec.common_bits_min.max(1);
    let eligible = shifts.iter().filter(|shift| shift.common >= common_bits_min);
    match eligible.min_by(|a, b| share_of_differing(a, b)) {
        None => Comparison::NotComparable,
        Some(MaskedDifference { common, differing }) => {
            let scale = u64::from(ComparisonScore::MAX.micros().unsigned_abs());
            let (common, agreeing) = (u64::from(*common), u64::from(common - differing));
            let micros = (2 * agreeing * scale + common) / (2 * common);
            let micros = i32::try_from(micros).expect("at most 10^6");
            Comparison::Score(ComparisonScore::from_micros(micros).expect("from 0 to 10^6"))
        }
    }
}

/// What makes a shift count, and what makes it reach a threshold: [`closest`] without its division.
///
/// The score of a shift is ⌊(2 · agreeing · 10⁶ + common) / (2 · common)⌋, which is at least the whole number T exactly if the
/// fraction is, hence if 2 · 10⁶ · differing ≤ (2 · 10⁶ + 1 − 2 T) · common. The best shift has the highest score, so it reaches T
/// if any does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReachRule {
    pub(crate) common_bits_min: u32,
    /// 2 · 10⁶ + 1 − 2 T, from 1 to about 4 · 10⁶.
    pub(crate) common_weight: u32,
}

impl ReachRule {
    pub(crate) const DIFFERING_WEIGHT: u32 = 2 * ComparisonScore::MAX.micros().unsigned_abs();

    pub(crate) fn new(spec: &BinaryCodeSpec, threshold: ComparisonScore) -> Self {
        let common_weight = 2 * (ComparisonScore::MAX.micros() - threshold.micros()) + 1;
        // As for `closest`.
        Self { common_bits_min: spec.common_bits_min.max(1), common_weight: common_weight.unsigned_abs() }
    }
}

/// Orders by differing / common, exactly.
fn share_of_differing(a: &MaskedDifference, b: &MaskedDifference) -> Ordering {
    let left = u64::from(a.differing) * u64::from(b.common);
    let right = u64::from(b.differing) * u64::from(a.common);
    left.cmp(&right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn embedding(values: &[f32]) -> Template {
        Template::Embedding(CanonicalEmbedding::from_f32(values).expect("valid"))
    }

    fn micros(comparison: Comparison) -> Option<i32> {
        match comparison {
            Comparison::Score(score) => Some(score.micros()),
            Comparison::NotComparable => None,
        }
    }

    fn iris(spec: &BinaryCodeSpec, code: &[u8], mask: &[u8]) -> Template {
        Template::BinaryCode(BinaryCode::from_bytes(spec, code, mask).expect("valid"))
    }

    #[test]
    fn embeddings_score_their_cosine() {
        let spec = TemplateSpec::Embedding { dimension: 2 };
        let check = |a: [f32; 2], b: [f32; 2], expected| {
            assert_eq!(micros(compare(&spec, &embedding(&a), &embedding(&b))), Some(expected), "{a:?} {b:?}");
        };
        check([1.0, 0.0], [5.0, 0.0], 1_000_000);
        check([1.0, 0.0], [-3.0, 0.0], -1_000_000);
        check([1.0, 0.0], [0.0, 2.0], 0);
        // 19,660 / √(19,660² + 26,214²): the canonical components, not the real 0.6.
        check([1.0, 0.0], [3.0, 4.0], 599_990);
        check([-1.0, 0.0], [3.0, 4.0], -599_990);
    }

    #[test]
    fn the_division_rounds_halves_away_from_zero_and_holds_to_the_limits() {
        // With norms of 2^25 the score is dot · 10^6 / 2^30 micro-units.
        let norm = 1 << 25;
        let check = |dot, expected| assert_eq!(cosine(dot, norm, norm).micros(), expected, "{dot}");
        check(1 << 24, 15_625);
        // Exactly 7,812.5.
        check(1 << 23, 7_813);
        check(-(1 << 23), -7_813);
        check(i32::MAX, 1_000_000);
        check(-i32::MAX, -1_000_000);
    }

    /// Worked out with numpy: `np.roll` along the columns, `np.packbits` for the bytes.
    #[test]
    fn binary_codes_score_as_their_layout_says() {
        let spec = BinaryCodeSpec { rows: 3, columns: 5, bits_per_cell: 2, shifts_max: 2, common_bits_min: 12 };
        let a = iris(&spec, &[0xfe, 0x19, 0x48, 0xa4], &[0xb7, 0xf7, 0xfe, 0xd4]);
        let b = iris(&spec, &[0x47, 0xec, 0xa1, 0x34], &[0xff, 0x76, 0x3b, 0x7c]);
        let check = |shifts_max, common_bits_min, expected| {
            let spec = TemplateSpec::BinaryCode(BinaryCodeSpec { shifts_max, common_bits_min, ..spec });
            assert_eq!(micros(compare(&spec, &a, &b)), expected, "{shifts_max} {common_bits_min}");
            assert_eq!(micros(compare(&spec, &b, &a)), expected, "{shifts_max} {common_bits_min}");
        };
        // Bits in common and differing, shift by shift from -2: 19 11, 17 11, 18 11, 19 12, 18 8.
        check(2, 12, Some(555_556));
        check(2, 19, Some(421_053));
        check(0, 12, Some(388_889));
        check(1, 19, Some(368_421));
        check(0, 19, None);
        check(2, 20, None);
    }

    #[test]
    fn a_rolled_code_scores_one_within_reach_only() {
        let spec = BinaryCodeSpec { rows: 2, columns: 16, bits_per_cell: 1, shifts_max: 3, common_bits_min: 20 };
        let code = iris(&spec, &[0b1011_0001, 0b0000_1101, 0b1110_0101, 0b0001_0011], &[0xff; 4]);
        let rolled = |right: u32| {
            let bytes = [0b1011_0001_0000_1101_u16, 0b1110_0101_0001_0011]
                .map(|row| row.rotate_right(right).to_be_bytes())
                .concat();
            iris(&spec, &bytes, &[0xff; 4])
        };
        let compared = |right| micros(compare(&TemplateSpec::BinaryCode(spec), &code, &rolled(right)));
        for right in [0, 1, 3, 13, 15] {
            assert_eq!(compared(right), Some(1_000_000), "{right}");
        }
        for right in [4, 8, 12] {
            assert!(compared(right) < Some(1_000_000), "{right}");
        }
    }

    #[test]
    fn templates_of_another_spec_are_not_comparable() {
        let spec = TemplateSpec::Embedding { dimension: 3 };
        let two = embedding(&[1.0, 0.0]);
        let three = embedding(&[1.0, 0.0, 0.0]);
        let layout = BinaryCodeSpec { rows: 1, columns: 8, bits_per_cell: 1, shifts_max: 0, common_bits_min: 1 };
        let code = iris(&layout, &[1], &[255]);
        assert_eq!(compare(&spec, &three, &two), Comparison::NotComparable);
        assert_eq!(compare(&spec, &three, &code), Comparison::NotComparable);
        assert_eq!(compare(&TemplateSpec::BinaryCode(layout), &code, &three), Comparison::NotComparable);
        assert_eq!(compare(&TemplateSpec::BinaryCode(layout), &three, &three), Comparison::NotComparable);
    }

    fn components() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (2_usize..80).prop_flat_map(|dimension| {
            let one = prop::collection::vec(-1.0_f32..1.0, dimension);
            let valid = one.prop_filter("no direction", |values| values.iter().any(|value| *value != 0.0));
            (valid.clone(), valid)
        })
    }

    fn iris_pair() -> impl Strategy<Value = (BinaryCodeSpec, [Vec<u8>; 4])> {
        let spec = (1_u32..6, 1_u32..40, 1_u32..4).prop_flat_map(|(rows, columns, bits_per_cell)| {
            let bits = rows * columns * bits_per_cell;
            (0..columns, 1..=bits).prop_map(move |(shifts_max, common_bits_min)| BinaryCodeSpec {
                rows,
                columns,
                bits_per_cell,
                shifts_max: shifts_max.min(9),
                common_bits_min,
            })
        });
        spec.prop_flat_map(|spec| {
            let padding = (spec.bytes() * 8 - spec.bits()) as u32;
            let bytes = prop::collection::vec(any::<u8>(), spec.bytes() as usize).prop_map(move |mut bytes| {
                let last = bytes.last_mut().expect("at least one byte");
                *last = *last >> padding << padding;
                bytes
            });
            (Just(spec), [bytes.clone(), bytes.clone(), bytes.clone(), bytes])
        })
    }

    /// The definition, bit by bit.
    fn slow(spec: &BinaryCodeSpec, [code_a, mask_a, code_b, mask_b]: &[Vec<u8>; 4]) -> Option<i32> {
        let bit = |bytes: &[u8], row: u32, column: i64, bit: u32| {
            let columns = i64::from(spec.columns);
            let column = u32::try_from(column.rem_euclid(columns)).expect("a remainder");
            let place = ((row * spec.columns + column) * spec.bits_per_cell + bit) as usize;
            bytes[place / 8] >> (7 - place % 8) & 1 == 1
        };
        let mut best: Option<f64> = None;
        for shift in -i64::from(spec.shifts_max)..=i64::from(spec.shifts_max) {
            let (mut common, mut differing) = (0, 0);
            for row in 0..spec.rows {
                for column in 0..i64::from(spec.columns) {
                    for cell_bit in 0..spec.bits_per_cell {
                        let at = |bytes: &[u8], shift| bit(bytes, row, column - shift, cell_bit);
                        let valid = at(mask_a, 0) && at(mask_b, shift);
                        common += u32::from(valid);
                        differing += u32::from(valid && at(code_a, 0) != at(code_b, shift));
                    }
                }
            }
            if common >= spec.common_bits_min {
                let share = f64::from(differing) / f64::from(common);
                best = Some(best.map_or(share, |best| best.min(share)));
            }
        }
        best.map(|share| ((1.0 - share) * 1e6).round() as i32)
    }

    proptest! {
        #[test]
        fn the_cosine_is_symmetric_and_close_to_the_real_one((a, b) in components()) {
            let spec = TemplateSpec::Embedding { dimension: a.len() as u32 };
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let real = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            let (a, b) = (embedding(&a), embedding(&b));
            let score = compare(&spec, &a, &b);
            prop_assert_eq!(score, compare(&spec, &b, &a));
            prop_assert_eq!(micros(compare(&spec, &a, &a)), Some(1_000_000));
            let micros = micros(score).expect("embeddings always compare");
            // Rounding components to 1/32767 moves a cosine by less than ½√d/32767 for each of the two.
            let slack = 1e6 * f64::from(spec_dimension(&spec)).sqrt() / 32_767.0 + 1.0;
            prop_assert!((f64::from(micros) - real * 1e6).abs() <= slack, "{} {}", micros, real);
        }

        /// Thresholds are those just below, at and just above the score.
        #[test]
        fn the_rule_of_reaching_is_the_score_without_its_division(
            (common, differing) in (1_u32..=65_536).prop_flat_map(|common| (Just(common), 0..=common)),
            beside in -2_i32..=2,
        ) {
            let spec = BinaryCodeSpec { rows: 1, columns: 65_536, bits_per_cell: 1, shifts_max: 0, common_bits_min: 1 };
            let score = micros(closest(&spec, &[MaskedDifference { common, differing }])).expect("comparable");
            let threshold = ComparisonScore::from_micros((score + beside).min(1_000_000)).expect("in range");
            let rule = ReachRule::new(&spec, threshold);
            let reaches = u64::from(differing) * u64::from(ReachRule::DIFFERING_WEIGHT) <= u64::from(common) * u64::from(rule.common_weight);
            prop_assert_eq!(reaches, score >= threshold.micros());
        }

        #[test]
        fn binary_codes_score_symmetrically_and_as_defined((spec, pair) in iris_pair()) {
            let [code_a, mask_a, code_b, mask_b] = &pair;
            let (a, b) = (iris(&spec, code_a, mask_a), iris(&spec, code_b, mask_b));
            let spec_of = TemplateSpec::BinaryCode(spec);
            let score = compare(&spec_of, &a, &b);
            prop_assert_eq!(score, compare(&spec_of, &b, &a));
            let (found, expected) = (micros(score), slow(&spec, &pair));
            prop_assert_eq!(found.is_some(), expected.is_some());
            // The definition in floating point may fall on the other side of a half.
            prop_assert!(found.unwrap_or(0).abs_diff(expected.unwrap_or(0)) <= 1);
        }
    }

    fn spec_dimension(spec: &TemplateSpec) -> u32 {
        match spec {
            TemplateSpec::Embedding { dimension } => *dimension,
            TemplateSpec::BinaryCode(_) => 0,
        }
    }
}
