//! Rows of binary codes and their exact comparison with a probe in every shift.
//!
//! Which rows are live, and what becomes of a score, is for the caller.

use std::fmt;
use std::ops::Range;

use crate::binary_code::BinaryCode;
use crate::compare::{Comparison, MaskedDifference, ReachRule, closest};
use crate::kernel::binary::{self, LANES, ShiftTiles, Words};
use crate::kernel::{self, Path};
use crate::rows::{EnrolmentOrdinal, RowBlocks};
use crate::score::ComparisonScore;
use crate::template::BinaryCodeSpec;

/// Lines of the next strip that are asked for ahead at most: all of one of 4,096 bits.
const LINES_AHEAD_MAX: usize = 128;

/// Binary codes of one collection in the order of their ordinals. A clone shares the memory.
#[derive(Clone)]
pub(crate) struct BinaryRows {
    spec: BinaryCodeSpec,
    /// Words in a code, and in its mask.
    words: usize,
    /// Strips have, word by word, the codes' and the masks'; the weight is not used.
    rows: RowBlocks<Words, LANES>,
}

impl BinaryRows {
    /// No rows yet, of a spec that is within its bounds.
    pub(crate) fn new(spec: BinaryCodeSpec) -> Self {
        let words = spec.bits().div_ceil(u64::from(u64::BITS));
        let words = usize::try_from(words).expect("within BINARY_CODE_BITS_MAX");
        Self { spec, words, rows: RowBlocks::new(2 * words) }
    }

    pub(crate) fn push(&mut self, ordinal: EnrolmentOrdinal, code: &BinaryCode) {
        assert_eq!(u64::from(code.bits()), self.spec.bits(), "a row has the spec of its rows");
        let (code, mask) = code.words().split_at(self.words);
        self.push_words(ordinal, code.iter().copied().zip(mask.iter().copied()));
    }

    /// Appends a row of other rows of the same spec.
    pub(crate) fn push_row(&mut self, other: &Self, row: usize) {
        assert_eq!(self.spec, other.spec, "a row has the spec of its rows");
        let strip = other.rows.strip(row).as_chunks::<2>().0;
        let words = strip.iter().map(|[code, mask]| (code.0[row % LANES], mask.0[row % LANES]));
        self.push_words(other.rows.ordinal(row), words);
    }

    /// Appends a row of so many words, each with that of its mask.
    fn push_words(&mut self, ordinal: EnrolmentOrdinal, words: impl Iterator<Item = (u64, u64)>) {
        self.rows.push_lane(ordinal, 0, Words::ZERO, |lane, strip| {
            for ([code_words, mask_words], (code, mask)) in strip.as_chunks_mut::<2>().0.iter_mut().zip(words) {
                code_words.0[lane] = code;
                mask_words.0[lane] = mask;
            }
        });
    }

    pub(crate) fn spec(&self) -> &BinaryCodeSpec {
        &self.spec
    }

    pub(crate) fn rows(&self) -> &RowBlocks<Words, LANES> {
        &self.rows
    }

    /// Compares a row with a probe; `scratch` is reused between calls.
    pub(crate) fn compare(&self, row: usize, probe: &ShiftedProbe, scratch: &mut Scratch) -> Comparison {
        let strip = self.rows.strip(row).as_chunks::<2>().0;
        let Scratch { code, differences } = scratch;
        code.clear();
        code.extend(strip.iter().map(|[code, _]| code.0[row % LANES]));
        code.extend(strip.iter().map(|[_, mask]| mask.0[row % LANES]));
        differences.clear();
        differences.resize(probe.words.len() / code.len(), MaskedDifference::NONE);
        binary::masked_differences(Path::detect(), code, &probe.words, differences);
        closest(&self.spec, differences)
    }

    /// Calls `found(probe, row, score)` for every row of `rows` that is comparable with a probe, probes numbered as in `probes`, with the
    /// score if it reaches the probe's threshold. For each probe, rows come in ascending order.
    ///
    /// A block of rows is compared with one probe after the other, so that it is read from memory once for all of them.
    pub(crate) fn scan(
        &self,
        rows: Range<usize>,
        probes: &[&BinaryScanProbe],
        found: &mut impl FnMut(usize, usize, Option<ComparisonScore>),
    ) {
        self.scan_by(Path::detect(), rows, probes, found);
    }

    pub(crate) fn scan_by(
        &self,
        path: Path,
        rows: Range<usize>,
        probes: &[&BinaryScanProbe],
        found: &mut impl FnMut(usize, usize, Option<ComparisonScore>),
    ) {
        let mut scratch = Scratch::default();
        let strip_width = 2 * self.words;
        let mut blocks = self.rows.strips(rows).peekable();
        while let Some((rows, cells)) = blocks.next() {
            let next_block = blocks.peek().map_or(&[][..], |(_, cells)| *cells);
            for (number, probe) in probes.iter().enumerate() {
                let mut later = cells;
                for strip in 0..cells.len() / strip_width {
                    let cells;
                    (cells, later) = later.split_at(strip_width);
                    // The first probe finds a block in no cache.
                    if number == 0 {
                        let next = if later.is_empty() { next_block } else { later };
                        kernel::prefetch(&next[..next.len().min(strip_width).min(LINES_AHEAD_MAX)]);
                    }
                    let verdict = binary::judge(path, cells, &probe.tiles, probe.rule);
                    let first_row = rows.start / LANES * LANES + strip * LANES;
                    for row in rows.start.max(first_row)..rows.end.min(first_row + LANES) {
                        let is_in = |lanes: u8| lanes >> (row - first_row) & 1 == 1;
                        if is_in(verdict.reaching) {
                            match self.compare(row, &probe.shifted, &mut scratch) {
                                Comparison::Score(score) => found(number, row, Some(score)),
                                Comparison::NotComparable => unreachable!("what reaches a threshold is comparable"),
                            }
                        } else if is_in(verdict.comparable) {
                            found(number, row, None);
                        }
                    }
                }
            }
        }
    }
}

impl BinaryRows {
    /// The share of the tiles of a probe that end before all bits are counted.
    pub(crate) fn decided_early(&self, path: Path, probe: &BinaryScanProbe) -> f64 {
        let (mut strips, mut decided) = (0_u64, 0_u64);
        for (_, cells) in self.rows.strips(0..self.rows.len()) {
            for cells in cells.chunks_exact(2 * self.words) {
                strips += 1;
                decided += u64::from(binary::judge(path, cells, &probe.tiles, probe.rule).tiles_decided_early);
            }
        }
        decided as f64 / (strips * probe.tiles.len() as u64) as f64
    }
}

impl fmt::Debug for BinaryRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BinaryRows({} of {} bits)", self.rows.len(), self.spec.bits())
    }
}

/// A probe in every shift, made once per search: shifting the probe either way equals shifting each row the other way.
pub(crate) struct ShiftedProbe {
    words: Vec<u64>,
}

impl ShiftedProbe {
    pub(crate) fn new(spec: &BinaryCodeSpec, probe: &BinaryCode) -> Self {
        Self { words: probe.shifted(spec) }
    }
}

impl fmt::Debug for ShiftedProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ShiftedProbe({} words)", self.words.len())
    }
}

/// Space for one comparison.
#[derive(Default)]
pub(crate) struct Scratch {
    code: Vec<u64>,
    differences: Vec<MaskedDifference>,
}

/// A probe made ready for scanning under one threshold.
pub(crate) struct BinaryScanProbe {
    shifted: ShiftedProbe,
    tiles: ShiftTiles,
    rule: ReachRule,
}

impl BinaryScanProbe {
    pub(crate) fn new(spec: &BinaryCodeSpec, probe: &BinaryCode, threshold: ComparisonScore) -> Self {
        let shifted = ShiftedProbe::new(spec, probe);
        let words = probe.words().len() / 2;
        let rule = ReachRule::new(spec, threshold);
        let tiles = ShiftTiles::new(words, &shifted.words, looked_after(words, probe.valid_bits(), rule));
        Self { shifted, tiles, rule }
    }

    /// One whose comparisons are all counted to the end.
    pub(crate) fn counted_to_the_end(spec: &BinaryCodeSpec, probe: &BinaryCode, threshold: ComparisonScore) -> Self {
        let shifted = ShiftedProbe::new(spec, probe);
        let words = probe.words().len() / 2;
        let tiles = ShiftTiles::new(words, &shifted.words, words);
        Self { shifted, tiles, rule: ReachRule::new(spec, threshold) }
    }
}

/// The share of differing bits that hardly any stranger falls below in any shift, in units of [`ReachRule::DIFFERING_WEIGHT`].
const STRANGERS_DIFFER: u64 = 40 * ReachRule::DIFFERING_WEIGHT as u64 / 100;

/// The number of words of a code after which strangers are likely to be known as such; all of them if there is no such number.
///
/// Masks that leave a share m of the bits leave m² in common. After a share k of the words, k · m² are, and at most (1 − k) · m to come.
/// Codes that differ in a share d of the bits in common, under a threshold that asks for r, are decided where d · k · m² > r · (k · m² + (1 − k) · m),
/// hence k > r / (r + m · (d − r)): 29 or 30 of 32 words under r = .35, for m = 1 or .7. Too late a look costs little, too early a one is wasted:
/// with d = .43, random bits are compared faster (11 instead of 7 % are saved), but of codes in which only one bit in eight is independent, about
/// as in irises, a fifth is then counted to the end under m = .85, and with AVX2 nothing is gained. With d = .4 that is below 1 %.
fn looked_after(words: usize, valid_bits: u32, rule: ReachRule) -> usize {
    let reached = u64::from(rule.common_weight);
    let Some(beyond) = STRANGERS_DIFFER.checked_sub(reached) else { return words };
    let bits = words as u64 * u64::from(u64::BITS);
    let share = (reached * bits, reached * bits + u64::from(valid_bits) * beyond);
    (words * share.0 as usize).div_ceil(share.1 as usize).clamp(1, words)
}

impl fmt::Debug for BinaryScanProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BinaryScanProbe({:?})", self.shifted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::compare;
    use crate::template::{Template, TemplateSpec};

    const SPEC: BinaryCodeSpec =
        BinaryCodeSpec { rows: 4, columns: 40, bits_per_cell: 1, shifts_max: 3, common_bits_min: 30 };

    /// Few distinct codes make scores collide with each other and with thresholds.
    fn codes(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<BinaryCode>> {
        let byte = || prop::sample::select(vec![0x00_u8, 0x0f, 0x55, 0xff]);
        let bytes = move || prop::collection::vec(byte(), SPEC.bytes() as usize);
        let mask = prop_oneof![Just(vec![0xff; SPEC.bytes() as usize]), bytes()];
        let one = (bytes(), mask).prop_map(|(code, mask)| BinaryCode::from_bytes(&SPEC, &code, &mask).expect("valid"));
        prop::collection::vec(one, count)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_scan_finds_what_comparison_finds(
            held in codes(1..150),
            probes in codes(1..6),
            threshold in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), -1_i32..=1),
            range in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let mut rows = BinaryRows::new(SPEC);
            for (number, code) in held.iter().enumerate() {
                rows.push(EnrolmentOrdinal(number as u32), code);
            }
            let score = |row: &BinaryCode, probe: &BinaryCode| {
                let (row, probe) = (Template::BinaryCode(row.clone()), Template::BinaryCode(probe.clone()));
                match compare(&TemplateSpec::BinaryCode(SPEC), &row, &probe) {
                    Comparison::Score(score) => Some(score),
                    Comparison::NotComparable => None,
                }
            };
            let occurring = score(threshold.0.get(&held), threshold.1.get(&probes)).unwrap_or(ComparisonScore::ZERO);
            let threshold = ComparisonScore::from_micros((occurring.micros() + threshold.2).min(1_000_000)).expect("in range");
            let (from, to) = (range.0.index(held.len() + 1), range.1.index(held.len() + 1));
            let range = from.min(to)..from.max(to);
            let mut expected = Vec::new();
            for (number, probe) in probes.iter().enumerate() {
                for row in range.clone() {
                    let score = score(&held[row], probe);
                    expected.extend(score.map(|score| (number, row, (score >= threshold).then_some(score))));
                }
            }
            for prepare in [BinaryScanProbe::new, BinaryScanProbe::counted_to_the_end] {
                let ready: Vec<BinaryScanProbe> = probes.iter().map(|probe| prepare(&SPEC, probe, threshold)).collect();
                let ready: Vec<&BinaryScanProbe> = ready.iter().collect();
                for path in Path::available() {
                    let mut found = Vec::new();
                    rows.scan_by(*path, range.clone(), &ready, &mut |probe, row, score| found.push((probe, row, score)));
                    found.sort_by_key(|(probe, row, _)| (*probe, *row));
                    prop_assert_eq!(&found, &expected, "{:?}", path);
                }
            }
        }
    }

    #[test]
    fn the_look_comes_where_strangers_are_known_as_such() {
        let check = |threshold, valid_bits, expected| {
            let threshold = ComparisonScore::from_micros(threshold).expect("in range");
            assert_eq!(
                looked_after(32, valid_bits, ReachRule::new(&SPEC, threshold)),
                expected,
                "{threshold} {valid_bits}"
            );
        };
        check(650_000, 2048, 29);
        check(650_000, 1434, 30);
        check(650_000, 0, 32);
        check(680_000, 2048, 26);
        check(1_000_000, 2048, 1);
        check(570_000, 2048, 32);
        check(-1_000_000, 2048, 32);
    }
}
