//! Counts of differing bits under masks: of one code with every shift of another, and of strips of eight codes with a probe's shifts, of
//! which a scan learns only who is comparable and who reaches a threshold.
//!
//! In a strip the codes lie side by side, so that every lane of a register counts for one code and nothing is ever added up across
//! lanes. Per word of eight codes and shift that is two operations for the bits, two counts and two additions.
//! Adding bits up before they are counted pays where counting is a lookup (AVX2), and costs a tenth where it is an instruction (AVX-512).

use super::Path;
use crate::compare::{MaskedDifference, ReachRule};

/// Codes in a strip.
pub(crate) const LANES: usize = 8;
/// Shifts that share one pass over a strip at most: their sums stay in registers.
const SHIFTS_PER_TILE: usize = 8;

/// One word of each of the eight codes of a strip, or of each of their masks: a cache line. No `Debug`: it would print templates.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Words(pub(crate) [u64; LANES]);

impl Words {
    pub(crate) const ZERO: Self = Self([0; LANES]);
}

/// A word of a code and the same word of its mask.
type Pair = [u64; 2];

/// A probe in every shift, in the order in which strips are compared with it.
///
/// After a part of the words a tile is looked at: if every code of the strip is known to be comparable, and none could reach the
/// threshold even if none of the bits to come differed and as many as the masks allow were in common, the rest is not counted. Nothing
/// that is reported can change by it: sums only grow, and a score is computed from whole codes only, of those that reach the threshold.
pub(crate) struct ShiftTiles {
    words: usize,
    tiles: Vec<Tile>,
    /// Words that are counted before the look.
    looked_after: usize,
}

/// Up to [`SHIFTS_PER_TILE`] shifts.
struct Tile {
    shifts: usize,
    /// Word by word, of each shift one pair.
    pairs: Vec<Pair>,
    /// The most valid bits that a shift has after the look.
    valid_after: u64,
}

impl ShiftTiles {
    /// `shifted` is as for [`masked_differences`]; codes are looked at after `looked_after` of their words, never if these are all.
    pub(crate) fn new(words: usize, shifted: &[u64], looked_after: usize) -> Self {
        assert!((1..=words).contains(&looked_after), "a look comes after at least one word");
        assert!(!shifted.is_empty() && shifted.len().is_multiple_of(2 * words), "shifts are whole");
        let shifts: Vec<&[u64]> = shifted.chunks_exact(2 * words).collect();
        let tile_count = shifts.len().div_ceil(SHIFTS_PER_TILE);
        let tile = |number: usize| {
            // Of nearly equal size: 17 shifts are 6, 6 and 5.
            let shifts = &shifts[shifts.len() * number / tile_count..shifts.len() * (number + 1) / tile_count];
            let pairs = (0..words).flat_map(|word| shifts.iter().map(move |shift| [shift[word], shift[words + word]]));
            let valid_after = shifts.iter().map(|shift| {
                let mask = &shift[words + looked_after..];
                mask.iter().map(|word| u64::from(word.count_ones())).sum()
            });
            let valid_after = valid_after.max().expect("a tile has at least one shift");
            Tile { shifts: shifts.len(), pairs: pairs.collect(), valid_after }
        };
        Self { words, tiles: (0..tile_count).map(tile).collect(), looked_after }
    }

    /// The number of tiles.
    pub(crate) fn len(&self) -> usize {
        self.tiles.len()
    }
}

/// What is known of the codes of a strip; bit l is for lane l.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// A shift has enough bits in common.
    pub(crate) comparable: u8,
    /// Such a shift reaches the threshold.
    pub(crate) reaching: u8,
    /// Tiles that were decided by the look; not every path sees as much in it.
    pub(crate) tiles_decided_early: u32,
}

impl Verdict {
    const NONE: Self = Self { comparable: 0, reaching: 0, tiles_decided_early: 0 };

    /// After a look at a tile that leaves every code comparable, and none that may reach the threshold by it.
    #[inline(always)]
    fn with_early_decision(self) -> Self {
        Self { comparable: u8::MAX, tiles_decided_early: self.tiles_decided_early + 1, ..self }
    }
}

/// Compares a strip with a probe in every shift. `strip` has, word by word, the codes' and the masks'.
pub(crate) fn judge(path: Path, strip: &[Words], probe: &ShiftTiles, rule: ReachRule) -> Verdict {
    let (strip, rest) = strip.as_chunks::<2>();
    assert!(rest.is_empty() && strip.len() == probe.words, "a strip has the words of the probe");
    match path {
        Path::Portable => judge_portable(strip, probe, rule),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::judge_avx2(strip, probe, rule) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::judge_avx512(strip, probe, rule) },
    }
}

/// Valid bits of each lane after the look.
#[inline(always)]
fn valid_after(strip: &[[Words; 2]], looked_after: usize) -> Words {
    let mut valid = Words::ZERO;
    for [_, mask] in &strip[looked_after..] {
        for (valid, mask) in valid.0.iter_mut().zip(mask.0) {
            *valid += u64::from(mask.count_ones());
        }
    }
    valid
}

/// The bits counted of each lane with each of the shifts of a tile: common, differing.
type Counts<const SHIFTS: usize> = [[Words; 2]; SHIFTS];

/// Goes through the tiles of a probe; `$judged` judges one, given what is known of the lanes so far.
macro_rules! every_tile {
    ($strip:expr, $probe:expr, $rule:expr, $judged:ident) => {{
        let (strip, probe, mut verdict) = ($strip, $probe, Verdict::NONE);
        let rest = valid_after(strip, probe.looked_after);
        for tile in &probe.tiles {
            verdict = match tile.shifts {
                1 => $judged::<1>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                2 => $judged::<2>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                3 => $judged::<3>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                4 => $judged::<4>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                5 => $judged::<5>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                6 => $judged::<6>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                7 => $judged::<7>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                8 => $judged::<8>(strip, tile, probe.looked_after, &rest, $rule, verdict),
                _ => unreachable!("a tile has 1 to 8 shifts"),
            };
        }
        verdict
    }};
}

/// Judges one tile: counts up to the look, looks, and counts the rest if anything is still open.
macro_rules! tile {
    ($strip:expr, $tile:expr, $looked_after:expr, $rest:expr, $rule:expr, $known:expr, $count:ident) => {{
        let (pairs, known) = ($tile.pairs.as_chunks::<SHIFTS>().0, $known);
        let mut counts: Counts<SHIFTS> = [[Words::ZERO; 2]; SHIFTS];
        $count(&$strip[..$looked_after], &pairs[..$looked_after], &mut counts);
        if $looked_after < $strip.len() {
            let rest = Words($rest.0.map(|rest| rest.min($tile.valid_after)));
            let [comparable, may_reach] = weigh(&counts, &rest, $rule);
            if known.comparable | comparable == u8::MAX && may_reach == 0 {
                return known.with_early_decision();
            }
            $count(&$strip[$looked_after..], &pairs[$looked_after..], &mut counts);
        }
        let [comparable, reaching] = weigh(&counts, &Words::ZERO, $rule);
        Verdict { comparable: known.comparable | comparable, reaching: known.reaching | reaching, ..known }
    }};
}

fn judge_portable(strip: &[[Words; 2]], probe: &ShiftTiles, rule: ReachRule) -> Verdict {
    every_tile!(strip, probe, rule, tile_portable)
}

fn tile_portable<const SHIFTS: usize>(
    strip: &[[Words; 2]],
    tile: &Tile,
    looked_after: usize,
    rest: &Words,
    rule: ReachRule,
    known: Verdict,
) -> Verdict {
    tile!(strip, tile, looked_after, rest, rule, known, count_portable)
}

fn count_portable<const SHIFTS: usize>(strip: &[[Words; 2]], pairs: &[[Pair; SHIFTS]], counts: &mut Counts<SHIFTS>) {
    for ([code, mask], pairs) in strip.iter().zip(pairs) {
        for ([other_code, other_mask], [common, differing]) in pairs.iter().zip(counts.iter_mut()) {
            for lane in 0..LANES {
                let overlap = mask.0[lane] & other_mask;
                // At most 65,536 bits: neither sum wraps, and unchecked additions let the loop run in parallel lanes.
                common.0[lane] = common.0[lane].wrapping_add(u64::from(overlap.count_ones()));
                let differs = (code.0[lane] ^ other_code) & overlap;
                differing.0[lane] = differing.0[lane].wrapping_add(u64::from(differs.count_ones()));
            }
        }
    }
}

/// Who is comparable by what is counted, and who may reach the threshold if so many more bits are in common and none of them differs.
#[inline(always)]
fn weigh<const SHIFTS: usize>(counts: &Counts<SHIFTS>, rest: &Words, rule: ReachRule) -> [u8; 2] {
    let (mut comparable, mut reaching) = ([0_u64; LANES], [0_u64; LANES]);
    let common_bits_min = u64::from(rule.common_bits_min);
    for [common, differing] in counts {
        for lane in 0..LANES {
            let at_most = common.0[lane].wrapping_add(rest.0[lane]);
            comparable[lane] |= u64::from(common.0[lane] >= common_bits_min);
            // Counts are at most 65,536, weights below 2²³.
            let reaches = differing.0[lane].wrapping_mul(ReachRule::DIFFERING_WEIGHT.into())
                <= at_most.wrapping_mul(rule.common_weight.into());
            reaching[lane] |= u64::from((at_most >= common_bits_min) & reaches);
        }
    }
    let bits = |lanes: [u64; LANES]| lanes.iter().enumerate().fold(0, |bits, (lane, one)| bits | (*one as u8) << lane);
    [bits(comparable), bits(reaching)]
}

/// Compares a binary code with each shift of another; all are code words followed by as many mask words.
///
/// `shifted` holds one code after another, `found` takes one result for each.
pub(crate) fn masked_differences(path: Path, code: &[u64], shifted: &[u64], found: &mut [MaskedDifference]) {
    assert_eq!(shifted.len(), code.len() * found.len(), "one result per shift");
    match path {
        Path::Portable => masked_differences_body(code, shifted, found),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::masked_differences_avx2(code, shifted, found) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::masked_differences_avx512(code, shifted, found) },
    }
}

/// One body, compiled once for each path.
#[inline(always)]
fn masked_differences_body(code: &[u64], shifted: &[u64], found: &mut [MaskedDifference]) {
    let words = code.len() / 2;
    let (code, mask) = code.split_at(words);
    for (other, into) in shifted.chunks_exact(2 * words).zip(found) {
        let (other_code, other_mask) = other.split_at(words);
        let (mut common, mut differing) = (0_u64, 0_u64);
        for word in 0..words {
            let overlap = mask[word] & other_mask[word];
            // At most 65,536 bits: neither sum wraps, and unchecked additions let the loop run in parallel lanes.
            common = common.wrapping_add(u64::from(overlap.count_ones()));
            differing = differing.wrapping_add(u64::from(((code[word] ^ other_code[word]) & overlap).count_ones()));
        }
        *into = MaskedDifference { common: common as u32, differing: differing as u32 };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{
        Counts, MaskedDifference, Pair, ReachRule, ShiftTiles, Tile, Verdict, Words, masked_differences_body,
        valid_after, weigh,
    };

    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn masked_differences_avx2(code: &[u64], shifted: &[u64], found: &mut [MaskedDifference]) {
        masked_differences_body(code, shifted, found);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq,popcnt")]
    pub(super) fn masked_differences_avx512(code: &[u64], shifted: &[u64], found: &mut [MaskedDifference]) {
        masked_differences_body(code, shifted, found);
    }

    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn judge_avx2(strip: &[[Words; 2]], probe: &ShiftTiles, rule: ReachRule) -> Verdict {
        every_tile!(strip, probe, rule, tile_avx2)
    }

    #[target_feature(enable = "avx2,popcnt")]
    fn tile_avx2<const SHIFTS: usize>(
        strip: &[[Words; 2]],
        tile: &Tile,
        looked_after: usize,
        rest: &Words,
        rule: ReachRule,
        known: Verdict,
    ) -> Verdict {
        tile!(strip, tile, looked_after, rest, rule, known, count_avx2)
    }

    /// Fours whose bits are counted in bytes before these are added up: 8 bits each, at most 248.
    const FOURS_PER_SUM: usize = 31;

    /// One shift and half of the lanes at a time. Bits of four words are added up bit by bit first, so that only one word in four is
    /// looked up, half a byte at a time.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn count_avx2<const SHIFTS: usize>(strip: &[[Words; 2]], pairs: &[[Pair; SHIFTS]], counts: &mut Counts<SHIFTS>) {
        let zero = _mm256_setzero_si256();
        for shift in 0..SHIFTS {
            for half in 0..2 {
                let (mut ones, mut twos, mut sums) = ([zero; 2], [zero; 2], [zero; 2]);
                let (strip_fours, strip_rest) = strip.as_chunks::<4>();
                let (pair_fours, pair_rest) = pairs.as_chunks::<4>();
                let chunks = strip_fours.chunks(FOURS_PER_SUM).zip(pair_fours.chunks(FOURS_PER_SUM));
                for (strip, pairs) in chunks {
                    let mut bytes = [zero; 2];
                    for (strip, pairs) in strip.iter().zip(pairs) {
                        let bits = |word: usize| compared(&strip[word], half, pairs[word][shift]);
                        let (a, b, c, d) = (bits(0), bits(1), bits(2), bits(3));
                        for kind in 0..2 {
                            let (one, twos_a) = carry_save(ones[kind], a[kind], b[kind]);
                            let (one, twos_b) = carry_save(one, c[kind], d[kind]);
                            ones[kind] = one;
                            let (two, fours) = carry_save(twos[kind], twos_a, twos_b);
                            twos[kind] = two;
                            bytes[kind] = _mm256_add_epi8(bytes[kind], ones_per_byte(fours));
                        }
                    }
                    for kind in 0..2 {
                        sums[kind] = _mm256_add_epi64(sums[kind], _mm256_sad_epu8(bytes[kind], zero));
                    }
                }
                for kind in 0..2 {
                    let twos = _mm256_slli_epi64::<1>(ones_per_word(twos[kind]));
                    let more = _mm256_add_epi64(ones_per_word(ones[kind]), twos);
                    sums[kind] = _mm256_add_epi64(_mm256_slli_epi64::<2>(sums[kind]), more);
                }
                for (words, pairs) in strip_rest.iter().zip(pair_rest) {
                    let bits = compared(words, half, pairs[shift]);
                    for kind in 0..2 {
                        sums[kind] = _mm256_add_epi64(sums[kind], ones_per_word(bits[kind]));
                    }
                }
                for kind in 0..2 {
                    add_256(&mut counts[shift][kind], half, sums[kind]);
                }
            }
        }
    }

    /// The bits in common and those of them that differ.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn compared([code, mask]: &[Words; 2], half: usize, [other_code, other_mask]: Pair) -> [__m256i; 2] {
        let common = _mm256_and_si256(load_256(mask, half), _mm256_set1_epi64x(other_mask.cast_signed()));
        let differs = _mm256_xor_si256(load_256(code, half), _mm256_set1_epi64x(other_code.cast_signed()));
        [common, _mm256_and_si256(differs, common)]
    }

    /// Adds three bits in each place: their sum's low bit and its high bit.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn carry_save(a: __m256i, b: __m256i, c: __m256i) -> (__m256i, __m256i) {
        let a_or_b_alone = _mm256_xor_si256(a, b);
        let high = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(a_or_b_alone, c));
        (_mm256_xor_si256(a_or_b_alone, c), high)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn ones_per_word(bits: __m256i) -> __m256i {
        _mm256_sad_epu8(ones_per_byte(bits), _mm256_setzero_si256())
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn ones_per_byte(bits: __m256i) -> __m256i {
        let ones = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
        let low_half = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(ones, _mm256_and_si256(bits, low_half));
        let high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16::<4>(bits), low_half));
        _mm256_add_epi8(low, high)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load_256(words: &Words, half: usize) -> __m256i {
        let halves = words.0.as_chunks::<4>().0;
        // SAFETY: half of the words is 32 bytes, and at 0 or 32 bytes of 64-byte aligned ones it is 32-byte aligned.
        unsafe { _mm256_load_si256(halves[half].as_ptr().cast::<__m256i>()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add_256(words: &mut Words, half: usize, more: __m256i) {
        let sum = _mm256_add_epi64(load_256(words, half), more);
        let halves = words.0.as_chunks_mut::<4>().0;
        // SAFETY: as for loading.
        unsafe { _mm256_store_si256(halves[half].as_mut_ptr().cast::<__m256i>(), sum) };
    }

    #[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
    pub(super) fn judge_avx512(strip: &[[Words; 2]], probe: &ShiftTiles, rule: ReachRule) -> Verdict {
        every_tile!(strip, probe, rule, tile_avx512)
    }

    /// As `tile!`, with all sums in registers.
    #[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
    fn tile_avx512<const SHIFTS: usize>(
        strip: &[[Words; 2]],
        tile: &Tile,
        looked_after: usize,
        rest: &Words,
        rule: ReachRule,
        known: Verdict,
    ) -> Verdict {
        let pairs = &tile.pairs.as_chunks::<SHIFTS>().0[..strip.len()];
        let common_bits_min = _mm512_set1_epi64(rule.common_bits_min.into());
        let common_weight = _mm512_set1_epi64(rule.common_weight.into());
        let differing_weight = _mm512_set1_epi64(ReachRule::DIFFERING_WEIGHT.into());
        let mut sums = [[_mm512_setzero_si512(); 2]; SHIFTS];
        let mut part = 0..looked_after;
        loop {
            for ([code, mask], pairs) in strip[part.clone()].iter().zip(&pairs[part.clone()]) {
                let (code, mask) = (load_512(code), load_512(mask));
                for shift in 0..SHIFTS {
                    let [other_code, other_mask] = pairs[shift];
                    let overlap = _mm512_and_si512(mask, _mm512_set1_epi64(other_mask.cast_signed()));
                    // (a ⊕ b) ∧ c: 0x28.
                    let differs =
                        _mm512_ternarylogic_epi64::<0x28>(code, _mm512_set1_epi64(other_code.cast_signed()), overlap);
                    sums[shift][0] = _mm512_add_epi64(sums[shift][0], _mm512_popcnt_epi64(overlap));
                    sums[shift][1] = _mm512_add_epi64(sums[shift][1], _mm512_popcnt_epi64(differs));
                }
            }
            if part.end == strip.len() {
                let mut found = known;
                for [common, differing] in sums {
                    let enough = _mm512_cmpge_epu64_mask(common, common_bits_min);
                    let differing = _mm512_mul_epu32(differing, differing_weight);
                    let common = _mm512_mul_epu32(common, common_weight);
                    found.comparable |= enough;
                    found.reaching |= _mm512_mask_cmple_epu64_mask(enough, differing, common);
                }
                return found;
            }
            // Whether enough bits can be in common is not asked: the answer is nearly always yes.
            let mut most_common = _mm512_setzero_si512();
            let mut least_excess = _mm512_set1_epi64(i64::MAX);
            for [common, differing] in sums {
                most_common = _mm512_max_epu64(most_common, common);
                let differing = _mm512_mul_epu32(differing, differing_weight);
                let excess = _mm512_sub_epi64(differing, _mm512_mul_epu32(common, common_weight));
                least_excess = _mm512_min_epi64(least_excess, excess);
            }
            let rest = _mm512_min_epu64(load_512(rest), _mm512_set1_epi64(tile.valid_after.cast_signed()));
            let may_reach = _mm512_cmple_epi64_mask(least_excess, _mm512_mul_epu32(rest, common_weight));
            let comparable = known.comparable | _mm512_cmpge_epu64_mask(most_common, common_bits_min);
            if comparable == u8::MAX && may_reach == 0 {
                return known.with_early_decision();
            }
            part = part.end..strip.len();
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load_512(words: &Words) -> __m512i {
        // SAFETY: the words are 64 bytes, 64-byte aligned.
        unsafe { _mm512_load_si512(words.0.as_ptr().cast::<__m512i>()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::{Comparison, closest};
    use crate::score::ComparisonScore;
    use crate::template::BinaryCodeSpec;

    /// Code words, then mask words.
    type Code = Vec<u64>;

    fn strip_of(codes: &[Code]) -> Vec<Words> {
        let words = codes[0].len() / 2;
        let line = |word: usize| Words(std::array::from_fn(|lane| codes.get(lane).map_or(0, |code| code[word])));
        (0..words).flat_map(|word| [line(word), line(words + word)]).collect()
    }

    /// Bit by bit, shift by shift.
    fn differences(code: &Code, shifts: &[Code]) -> Vec<MaskedDifference> {
        let words = code.len() / 2;
        let difference = |shift: &Code| {
            let (mut common, mut differing) = (0, 0);
            for bit in 0..64 * words {
                let at = |code: &Code, first: usize| code[first + bit / 64] >> (bit % 64) & 1 == 1;
                let valid = at(code, words) && at(shift, words);
                common += u32::from(valid);
                differing += u32::from(valid && at(code, 0) != at(shift, 0));
            }
            MaskedDifference { common, differing }
        };
        shifts.iter().map(difference).collect()
    }

    fn check(
        codes: &[Code],
        shifts: &[Code],
        looked_after: usize,
        common_bits_min: u32,
        threshold: ComparisonScore,
    ) -> Result<(), TestCaseError> {
        let words = codes[0].len() / 2;
        let columns = 64 * words as u32;
        let spec = BinaryCodeSpec { rows: 1, columns, bits_per_cell: 1, shifts_max: 0, common_bits_min };
        let (mut comparable, mut reaching) = (0, 0);
        for (lane, code) in codes.iter().enumerate() {
            if let Comparison::Score(score) = closest(&spec, &differences(code, shifts)) {
                comparable |= 1 << lane;
                reaching |= u8::from(score >= threshold) << lane;
            }
        }
        let probe = ShiftTiles::new(words, &shifts.concat(), looked_after);
        let strip = strip_of(codes);
        let rule = ReachRule::new(&spec, threshold);
        for path in Path::available() {
            let found = judge(*path, &strip, &probe, rule);
            prop_assert_eq!((found.comparable, found.reaching), (comparable, reaching), "{:?}", path);
        }
        Ok(())
    }

    /// Codes and shifts of which some are near each other, under masks from full to empty.
    fn scenario() -> impl Strategy<Value = (Vec<Code>, Vec<Code>)> {
        let words = prop_oneof![1_usize..9, 30_usize..36, 124_usize..132];
        (words, 1_usize..=LANES, 1_usize..20).prop_flat_map(|(words, codes, shifts)| {
            let mask = prop_oneof![
                Just(vec![u64::MAX; words]),
                Just(vec![0; words]),
                prop::collection::vec(any::<u64>(), words),
                prop::collection::vec((any::<u64>(), any::<u64>()).prop_map(|(a, b)| a | b), words),
                // Valid in one part only, before or after any look.
                (0..=words)
                    .prop_map(move |valid| (0..words).map(|word| if word < valid { u64::MAX } else { 0 }).collect()),
                (0..=words)
                    .prop_map(move |valid| (0..words).map(|word| if word < valid { 0 } else { u64::MAX }).collect()),
            ];
            let common = prop::collection::vec(any::<u64>(), words);
            let flips = prop_oneof![
                Just(vec![0; words]),
                Just(vec![u64::MAX; words]),
                prop::collection::vec(any::<u64>(), words),
                prop::collection::vec((any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b), words),
                prop::collection::vec(
                    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(a, b, c)| a & b & c),
                    words
                ),
            ];
            let one = (flips, mask).boxed();
            // A full strip of one code: what the look decides, it then decides.
            let alike = one.clone().prop_map(|one| vec![one; LANES]);
            let codes = prop_oneof![alike, prop::collection::vec(one.clone(), codes)];
            (common, codes, prop::collection::vec(one, shifts)).prop_map(|(common, codes, shifts)| {
                let code = |(flips, mask): (Vec<u64>, Vec<u64>)| -> Code {
                    common.iter().zip(flips).map(|(word, flips)| word ^ flips).chain(mask).collect()
                };
                (codes.into_iter().map(code).collect(), shifts.into_iter().map(code).collect())
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Thresholds and least bits in common are those that occur, and one more or less, so that both are tried at their edges.
        #[test]
        fn every_path_judges_as_the_plain_loop(
            (codes, shifts) in scenario(),
            looked_after in any::<prop::sample::Index>(),
            pair in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            (beside_bits, beside_score) in (-1_i32..=1, -1_i32..=1),
            any_threshold in prop::option::of(-1_000_000_i32..=1_000_000),
        ) {
            let words = codes[0].len() / 2;
            let found = pair.1.get(&differences(pair.0.get(&codes), &shifts)).to_owned();
            let bits = 64 * words as i32;
            let common_bits_min = (found.common as i32 + beside_bits).clamp(1, bits) as u32;
            let spec = BinaryCodeSpec { rows: 1, columns: 64 * words as u32, bits_per_cell: 1, shifts_max: 0, common_bits_min: 1 };
            let occurring = match closest(&spec, &[found]) {
                Comparison::Score(score) => score.micros() + beside_score,
                Comparison::NotComparable => 650_000,
            };
            let threshold = any_threshold.unwrap_or(occurring.clamp(-1_000_000, 1_000_000));
            let threshold = ComparisonScore::from_micros(threshold).expect("in range");
            check(&codes, &shifts, looked_after.index(words) + 1, common_bits_min, threshold)?;
        }

        #[test]
        fn every_path_counts_the_same_bits(
            words in 1_usize..70,
            shifts in 0_usize..6,
            seed in prop::collection::vec(any::<u64>(), 512),
        ) {
            let code: Vec<u64> = seed.iter().cycle().take(2 * words).copied().collect();
            let shifted: Vec<u64> = seed.iter().rev().cycle().take(2 * words * shifts).copied().collect();
            let expected: Vec<MaskedDifference> = shifted
                .chunks(2 * words)
                .map(|other| {
                    let overlap = |word: usize| code[words + word] & other[words + word];
                    let common = (0..words).map(|word| overlap(word).count_ones()).sum();
                    let differing = (0..words).map(|word| ((code[word] ^ other[word]) & overlap(word)).count_ones()).sum();
                    MaskedDifference { common, differing }
                })
                .collect();
            for path in Path::available() {
                let mut found = vec![MaskedDifference::NONE; shifts];
                masked_differences(*path, &code, &shifted, &mut found);
                prop_assert_eq!(&found, &expected, "{:?}", path);
            }
        }
    }

    #[test]
    fn the_largest_counts_fit() {
        let words = 1024;
        let code = |bits: u64| -> Code { [vec![bits; words], vec![u64::MAX; words]].concat() };
        let check = |codes: &[Code], threshold| {
            let threshold = ComparisonScore::from_micros(threshold).expect("in range");
            check(codes, &[code(0), code(0)], words - 1, 65_536, threshold).expect("equal on every path");
        };
        for threshold in [-1_000_000, 0, 1, 1_000_000] {
            check(&vec![code(u64::MAX); LANES], threshold);
            check(&vec![code(0); LANES], threshold);
        }
    }

    /// 180 of 512 bits differ, all of them in the first three words, and every bit to come agrees: the bound at a look is what the code has
    /// in the end, and at this threshold 2 · 10⁶ · 180 = (2 · 10⁶ + 1 − 2 · 648,438) · 512, to the last unit.
    #[test]
    fn a_look_excludes_no_code_that_reaches_the_threshold_by_all_that_is_to_come() {
        let words = 8;
        let mut code = [vec![0_u64; words], vec![u64::MAX; words]].concat();
        code[..3].copy_from_slice(&[u64::MAX, u64::MAX, (1 << 52) - 1]);
        let same: Code = [vec![0; words], vec![u64::MAX; words]].concat();
        let stranger: Code = [vec![u64::MAX; words], vec![u64::MAX; words]].concat();
        for looked_after in 1..=words {
            for threshold in [648_437, 648_438, 648_439] {
                let threshold = ComparisonScore::from_micros(threshold).expect("in range");
                for lane in 0..LANES {
                    let mut codes = vec![stranger.clone(); LANES];
                    codes[lane] = code.clone();
                    check(&codes, std::slice::from_ref(&same), looked_after, 512, threshold)
                        .expect("equal on every path");
                    check(&codes, std::slice::from_ref(&same), looked_after, 64, threshold)
                        .expect("equal on every path");
                }
            }
        }
    }

    #[test]
    fn a_look_decides_strips_of_strangers_and_no_others() {
        let (words, ones) = (8, vec![u64::MAX; 8]);
        let shifts = [vec![0; words], ones.clone()].concat();
        let stranger: Code = [vec![0x5555_5555_5555_5555; words], ones.clone()].concat();
        let decided = |codes: &[Code], common_bits_min| {
            let spec = BinaryCodeSpec { rows: 8, columns: 64, bits_per_cell: 1, shifts_max: 0, common_bits_min };
            let rule = ReachRule::new(&spec, ComparisonScore::from_micros(650_000).expect("in range"));
            let probe = ShiftTiles::new(words, &shifts, 6);
            let decided = |path: &Path| judge(*path, &strip_of(codes), &probe, rule).tiles_decided_early;
            Path::available().iter().map(decided).collect::<Vec<_>>()
        };
        let all_paths = |decided| vec![decided; Path::available().len()];
        let strangers = vec![stranger.clone(); LANES];
        assert_eq!(decided(&strangers, 384), all_paths(1));
        // Whether they are comparable is open until the end.
        assert_eq!(decided(&strangers, 385), all_paths(0));
        let mut with_mate = strangers.clone();
        with_mate[3] = shifts.clone();
        assert_eq!(decided(&with_mate, 384), all_paths(0));
        // A lane without a code is never comparable.
        assert_eq!(decided(&strangers[1..], 384), all_paths(0));
    }
}
