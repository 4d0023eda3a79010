//! Sums of short codes with AVX2 and AVX-512.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Block, Bytes, HALF, LEVELS_MAX, Reached, STEPS_PER_PAIR};

/// Sums that do not wait for each other: enough for an addition and a lookup to begin in every cycle.
const CHAINS: usize = 12;

#[target_feature(enable = "avx2")]
pub(super) fn lookups_avx2(rounds: u64) -> u64 {
    let table = std::hint::black_box(_mm256_set1_epi8(1));
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_add_epi8(*sum, _mm256_shuffle_epi8(table, *sum));
        }
    }
    std::hint::black_box(sums);
    rounds * (CHAINS * size_of::<__m256i>()) as u64
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn lookups_avx512(rounds: u64) -> u64 {
    let table = std::hint::black_box(_mm512_set1_epi8(1));
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_add_epi8(*sum, _mm512_permutexvar_epi8(*sum, table));
        }
    }
    std::hint::black_box(sums);
    rounds * (CHAINS * size_of::<__m512i>()) as u64
}

/// Does something with the lines of each step of a pair of leaves, the step's number, and the sums of the leaf that it belongs to. Of the last
/// pair steps may be missing. A loop would have the sums in memory.
macro_rules! each_step {
    ($pair:ident, $steps:expr, $first:ident, $second:ident, |$lines:ident, $step:ident, $sums:ident| $add:block) => {
        let steps = $steps;
        each_step!(@ $pair, steps, 0, $first, $lines, $step, $sums, $add);
        each_step!(@ $pair, steps, 1, $first, $lines, $step, $sums, $add);
        each_step!(@ $pair, steps, 2, $second, $lines, $step, $sums, $add);
        each_step!(@ $pair, steps, 3, $second, $lines, $step, $sums, $add);
    };
    (@ $pair:ident, $steps:ident, $number:literal, $of:ident, $lines:ident, $step:ident, $sums:ident, $add:block) => {
        const { assert!($number < STEPS_PER_PAIR) };
        if let Some($lines) = $steps.get($number) {
            let ($step, $sums) = (STEPS_PER_PAIR * $pair + $number, &mut $of);
            $add
        }
    };
}

/// Averages each of `$x` with one of `$other`.
macro_rules! each {
    ($average:ident, $x:ident, $other:expr) => {
        for probe in 0..$x.len() {
            for part in 0..2 {
                $x[probe][part] = $average($x[probe][part], $other[probe][part]);
            }
        }
    };
}

/// Averages `$x`, of the pair of leaves of this number, with those before it that wait for it, and has the result wait in its turn, in
/// `$waiting`: one for each level, as ones do when one counts in binary.
macro_rules! count {
    ($average:ident, $x:ident, $number:ident, $waiting:ident) => {{
        let mut level = 0;
        while $number >> level & 1 == 1 {
            // SAFETY: the bit is set in the number of pairs before this one, so that one of them wrote here, and none took it.
            each!($average, $x, unsafe { $waiting[level].assume_init_ref() });
            level += 1;
        }
        $waiting[level].write($x);
    }};
}

/// The average of all leaves, after so many pairs of them have been counted. Those that would fill the last level are 0.
macro_rules! averaged {
    ($average:ident, $waiting:ident, $pairs:expr, $zero:expr) => {{
        let (pairs, first_level) = ($pairs, $pairs.trailing_zeros());
        // SAFETY: the bit is set in the number of pairs, so that one of them wrote here, and none took it.
        let mut x = unsafe { $waiting[first_level as usize].assume_init() };
        for level in first_level..pairs.next_power_of_two().ilog2() {
            if level > first_level && pairs >> level & 1 == 1 {
                // SAFETY: as above.
                each!($average, x, unsafe { $waiting[level as usize].assume_init_ref() });
            } else {
                each!($average, x, [[$zero; 2]; PROBES]);
            }
        }
        x
    }};
}

/// Two probes at once: their sums, what is read of a block and a table fill the sixteen registers.
#[target_feature(enable = "avx2")]
pub(super) fn reach_avx2(block: Block, probes: &[&[Bytes]], least: &[u8], reached: &mut [Reached]) {
    let (pairs, rest) = probes.as_chunks::<2>();
    for half in 0..2 {
        for (number, pair) in pairs.iter().enumerate() {
            tile_avx2(block, half, *pair, &least[2 * number..], &mut reached[2 * number..]);
        }
        if let &[tables] = rest {
            tile_avx2(block, half, [tables], &least[2 * pairs.len()..], &mut reached[2 * pairs.len()..]);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn tile_avx2<const PROBES: usize>(
    block: Block,
    half: usize,
    probes: [&[Bytes]; PROBES],
    least: &[u8],
    reached: &mut [Reached],
) {
    let (zero, low_half) = (_mm256_setzero_si256(), _mm256_set1_epi8(15));
    let mut waiting = [const { MaybeUninit::<[[__m256i; 2]; PROBES]>::uninit() }; LEVELS_MAX];
    let pairs = block.lines.chunks(STEPS_PER_PAIR * 4);
    let pair_count = pairs.len();
    for (number, lines) in pairs.enumerate() {
        let (mut x, mut second) = ([[zero; 2]; PROBES], [[zero; 2]; PROBES]);
        each_step!(number, lines.as_chunks::<4>().0, x, second, |lines, step, sums| {
            for field in 0..4 {
                let fields = load_256(&lines.as_chunks::<2>().0[half][field / 2], field % 2);
                let low = _mm256_and_si256(fields, low_half);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(fields), low_half);
                for probe in 0..PROBES {
                    let entries = twice_128(&probes[probe][step], field);
                    sums[probe][0] = _mm256_add_epi8(sums[probe][0], _mm256_shuffle_epi8(entries, low));
                    sums[probe][1] = _mm256_add_epi8(sums[probe][1], _mm256_shuffle_epi8(entries, high));
                }
            }
        });
        each!(average_256, x, second);
        count!(average_256, x, number, waiting);
    }
    let averages = averaged!(average_256, waiting, pair_count, zero);
    for probe in 0..PROBES {
        let least = _mm256_set1_epi8(least[probe].cast_signed());
        let (mut sums, mut codes) = ([0; HALF], 0);
        for (side, into) in sums.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let average = averages[probe][side];
            // There is no unsigned comparison: the larger of the two is the average itself where it reaches the least.
            let reaches = _mm256_cmpeq_epi8(_mm256_max_epu8(average, least), average);
            codes |= u64::from(_mm256_movemask_epi8(reaches).cast_unsigned()) << (32 * side);
            // SAFETY: the destination has 32 bytes, and need not be aligned.
            unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast::<__m256i>(), average) };
        }
        reached[probe].note(codes, &sums, block.first_row + (HALF * half) as u32);
    }
}

/// `_mm256_avg_epu8`, which is known to compilers as sums of wider integers that are made narrower again. Where averages follow each other
/// in a loop they do not recognise it any more, and write all of that out.
#[target_feature(enable = "avx2")]
#[inline]
fn average_256(first: __m256i, second: __m256i) -> __m256i {
    let average;
    // SAFETY: AVX2 has this instruction, which changes nothing but its result.
    unsafe {
        asm!(
            "vpavgb {average}, {first}, {second}",
            average = lateout(ymm_reg) average, first = in(ymm_reg) first, second = in(ymm_reg) second,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    average
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_256(line: &Bytes, half: usize) -> __m256i {
    let halves = line.0.as_chunks::<32>().0;
    // SAFETY: half a line is 32 bytes, and at 0 or 32 bytes of a 64-byte aligned line it is 32-byte aligned.
    unsafe { _mm256_load_si256(halves[half].as_ptr().cast::<__m256i>()) }
}

/// A quarter of a line, in both halves of the register.
#[target_feature(enable = "avx2")]
#[inline]
fn twice_128(line: &Bytes, quarter: usize) -> __m256i {
    let quarters = line.0.as_chunks::<16>().0;
    // SAFETY: a quarter of a line is 16 bytes, and at a multiple of 16 bytes of a 64-byte aligned line it is 16-byte aligned.
    _mm256_broadcastsi128_si256(unsafe { _mm_load_si128(quarters[quarter].as_ptr().cast::<__m128i>()) })
}

/// Four probes at once where there are four, so that what is read of a block is used four times; the rest one by one.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
pub(super) fn reach_avx512(block: Block, probes: &[&[Bytes]], least: &[u8], reached: &mut [Reached]) {
    match probes {
        &[a, b, c, d] => tile_avx512(block, [a, b, c, d], least, reached),
        _ => {
            for (number, tables) in probes.iter().enumerate() {
                tile_avx512(block, [tables], &least[number..], &mut reached[number..]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1")]
#[inline]
fn tile_avx512<const PROBES: usize>(block: Block, probes: [&[Bytes]; PROBES], least: &[u8], reached: &mut [Reached]) {
    // Neither here nor below are there closures for `map`: they are compiled for any processor, and hand registers on by way of memory. The
    // same holds for a function of several steps, which is not inlined.
    let zero = _mm512_setzero_si512();
    let mut waiting = [const { MaybeUninit::<[[__m512i; 2]; PROBES]>::uninit() }; LEVELS_MAX];
    let pairs = block.lines.chunks(STEPS_PER_PAIR * 6);
    let pair_count = pairs.len();
    for (number, lines) in pairs.enumerate() {
        let (mut x, mut second) = ([[zero; 2]; PROBES], [[zero; 2]; PROBES]);
        each_step!(number, lines.as_chunks::<6>().0, x, second, |lines, step, sums| {
            let fields = fields_of_step(lines);
            for probe in 0..PROBES {
                let tables = tables_512(probes[probe], step);
                for half in 0..2 {
                    sums[probe][half] = _mm512_add_epi8(sums[probe][half], looked_up_512(&fields[half], &tables));
                }
            }
        });
        each!(average_512, x, second);
        count!(average_512, x, number, waiting);
    }
    let averages = averaged!(average_512, waiting, pair_count, zero);
    for probe in 0..PROBES {
        let least = _mm512_set1_epi8(least[probe].cast_signed());
        for (half, average) in averages[probe].into_iter().enumerate() {
            let mut sums = Bytes::ZERO;
            // SAFETY: a line is 64 bytes, 64-byte aligned.
            unsafe { _mm512_store_si512(sums.0.as_mut_ptr().cast::<__m512i>(), average) };
            let codes = _mm512_cmpge_epu8_mask(average, least);
            reached[probe].note(codes, &sums.0, block.first_row + (HALF * half) as u32);
        }
    }
}

/// The fields of one step, of both halves of a block.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn fields_of_step([a, b, c, d, e, f]: &[Bytes; 6]) -> [[__m512i; 4]; 2] {
    [fields_512([a, b, c]), fields_512([d, e, f])]
}

/// The tables of the four fields of a step of a probe.
#[target_feature(enable = "avx512f")]
#[inline]
fn tables_512(tables: &[Bytes], step: usize) -> [__m512i; 4] {
    let [a, b, c, d] = &tables[4 * step..4 * step + 4] else { unreachable!("four lines") };
    [load_512(a), load_512(b), load_512(c), load_512(d)]
}

/// What four fields earn together.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
#[inline]
fn looked_up_512(fields: &[__m512i; 4], tables: &[__m512i; 4]) -> __m512i {
    let one = _mm512_permutexvar_epi8(fields[0], tables[0]);
    let two = _mm512_permutexvar_epi8(fields[1], tables[1]);
    let three = _mm512_permutexvar_epi8(fields[2], tables[2]);
    let four = _mm512_permutexvar_epi8(fields[3], tables[3]);
    _mm512_add_epi8(_mm512_add_epi8(one, two), _mm512_add_epi8(three, four))
}

/// The four fields of the codes of half a block, each with two bits of no meaning above it.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn fields_512(lines: [&Bytes; 3]) -> [__m512i; 4] {
    let [first, second, third] = [load_512(lines[0]), load_512(lines[1]), load_512(lines[2])];
    // Where the mask has ones the one, else the other: 0xCA. Shifts are by words, which spoils only bits that are not chosen.
    let (lowest_two, middle_two) = (_mm512_set1_epi8(0x03), _mm512_set1_epi8(0x0C));
    let (second_up, third_up) = (_mm512_srli_epi16::<4>(second), _mm512_srli_epi16::<2>(third));
    let upper = _mm512_ternarylogic_epi32::<0xCA>(middle_two, second_up, third_up);
    let fourth = _mm512_ternarylogic_epi32::<0xCA>(lowest_two, _mm512_srli_epi16::<6>(first), upper);
    [first, second, third, fourth]
}

/// See `average_256`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn average_512(first: __m512i, second: __m512i) -> __m512i {
    let average;
    // SAFETY: AVX-512 has this instruction for bytes, which changes nothing but its result.
    unsafe {
        asm!(
            "vpavgb {average}, {first}, {second}",
            average = lateout(zmm_reg) average, first = in(zmm_reg) first, second = in(zmm_reg) second,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    average
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_512(line: &Bytes) -> __m512i {
    // SAFETY: a line is 64 bytes, 64-byte aligned.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast::<__m512i>()) }
}
