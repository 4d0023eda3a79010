//! Sums of weights chosen by the bits of short codes, for blocks of 128 codes and several probes at once: the inner loop of the `sketch`
//! engine.
//!
//! A code has one bit per component. A probe has a weight for each component and the bit that earns it; a code's sum is that of the weights
//! that its bits earn. Paths look the sums of a few bits at a time up in tables; how many bits, and how they lie in a block, is up to the
//! path (see [`Layout`]), the sums are not.

use super::Path;

/// Codes in a block: two halves, so that what is loaded of a probe's tables is used twice.
pub(crate) const CODES_PER_BLOCK: usize = 2 * HALF;
/// Codes that lie side by side.
const HALF: usize = 64;
/// The most components of a code.
pub(crate) const COMPONENTS_MAX: usize = 4096;
/// The largest sum of the weights of any [`FIELD_COMPONENTS`] neighbours. Four of these fit a byte, which halves the work of paths that add
/// up bytes.
pub(crate) const FIELD_SUM_MAX: u8 = 63;
/// Neighbouring components whose weights are bounded together: as many as any path looks up at once.
pub(crate) const FIELD_COMPONENTS: usize = 6;
/// Probes that share one pass over a block at most.
pub(crate) const PROBES_PER_PASS: usize = 4;

// A sum fits 16 bits.
const _: () = assert!(COMPONENTS_MAX.div_ceil(FIELD_COMPONENTS) * FIELD_SUM_MAX as usize <= u16::MAX as usize);

/// 64 bytes of a block or of a probe's tables: a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Bytes(pub(crate) [u8; 64]);

impl Bytes {
    pub(crate) const ZERO: Self = Self([0; 64]);
}

/// A component of a probe: its weight, and whether a bit of 1 earns it, or one of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) weight: u8,
    pub(crate) earned_by: bool,
}

/// How each half of a block lies, which is what a path's instructions want. A block has one step after another, and of each step the
/// lines of its first half, then those of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Fields of 4 bits. Of each field, 32 bytes: code c has the low half of byte c, code c + 32 the high half. Tables of 16 entries.
    Fours,
    /// Fields of 6 bits, four of them in three lines of 64 bytes, a byte for each code: line l has field l in the low six bits and, above,
    /// the bits 2 l and 2 l + 1 of the fourth field. Tables of 64 entries.
    Sixes,
}

impl Layout {
    /// What a path reads.
    pub(crate) fn of(path: Path) -> Self {
        match path {
            Path::Portable => Self::Fours,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Self::Fours,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => Self::Sixes,
        }
    }

    /// Components that a path takes in one step.
    fn components_per_step(self) -> usize {
        match self {
            Self::Fours => 32,
            Self::Sixes => 24,
        }
    }

    /// Lines of a block in each step.
    fn block_lines_per_step(self) -> usize {
        match self {
            Self::Fours => 8,
            Self::Sixes => 6,
        }
    }

    /// Lines of a probe's tables in each step.
    fn table_lines_per_step(self) -> usize {
        match self {
            Self::Fours => 2,
            Self::Sixes => 4,
        }
    }

    /// Lines of a block whose codes have so many components, at least 1.
    pub(crate) fn block_lines(self, components: usize) -> usize {
        components.div_ceil(self.components_per_step()) * self.block_lines_per_step()
    }

    /// Sets a bit of a code in a block.
    pub(crate) fn set(self, block: &mut [Bytes], code: usize, component: usize) {
        let (line, byte, bit) = self.place(code, component);
        block[line].0[byte] |= 1 << bit;
    }

    /// A bit of a code in a block.
    pub(crate) fn is_set(self, block: &[Bytes], code: usize, component: usize) -> bool {
        let (line, byte, bit) = self.place(code, component);
        block[line].0[byte] >> bit & 1 == 1
    }

    /// The line, the byte in it and the bit in that.
    fn place(self, code: usize, component: usize) -> (usize, usize, usize) {
        let step = component / self.components_per_step() * self.block_lines_per_step();
        let first = step + code / HALF * self.block_lines_per_step() / 2;
        let (code, component) = (code % HALF, component % self.components_per_step());
        match self {
            Self::Fours => {
                let field = component / 4;
                (first + field / 2, field % 2 * 32 + code % 32, component % 4 + if code < 32 { 0 } else { 4 })
            }
            Self::Sixes => match (component / 6, component % 6) {
                (3, bit) => (first + bit / 2, code, 6 + bit % 2),
                (field, bit) => (first + field, code, bit),
            },
        }
    }

    /// The tables of a probe: of each field, what every value of it earns.
    pub(crate) fn tables(self, weights: &[Weight]) -> Vec<Bytes> {
        let lines = weights.len().div_ceil(self.components_per_step()) * self.table_lines_per_step();
        let mut tables = vec![Bytes::ZERO; lines];
        match self {
            Self::Fours => {
                for (field, weights) in weights.chunks(4).enumerate() {
                    earned(weights, &mut tables[field / 4].0[field % 4 * 16..][..16]);
                }
            }
            Self::Sixes => {
                for (table, weights) in tables.iter_mut().zip(weights.chunks(6)) {
                    earned(weights, &mut table.0);
                }
            }
        }
        tables
    }
}

/// What every value of a field earns; components that are missing earn nothing.
fn earned(weights: &[Weight], entries: &mut [u8]) {
    let by_zeros =
        weights.iter().filter(|weight| !weight.earned_by).map(|weight| u32::from(weight.weight)).sum::<u32>();
    let all = weights.iter().map(|weight| u32::from(weight.weight)).sum::<u32>();
    assert!(all <= FIELD_SUM_MAX.into(), "the weights of a field are bounded");
    entries[0] = by_zeros as u8;
    let mut known = 1;
    while known < entries.len() {
        let (from, into) = entries.split_at_mut(known);
        let weight = weights.get(known.trailing_zeros() as usize);
        for (from, into) in from.iter().zip(into) {
            *into = match weight {
                Some(Weight { weight, earned_by: true }) => from + weight,
                Some(Weight { weight, earned_by: false }) => from - weight,
                None => *from,
            };
        }
        known *= 2;
    }
}

/// What a pass over a block found for each probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Bit c: the sum of code c is at least what was asked for.
    pub(crate) codes: [u128; PROBES_PER_PASS],
    /// The sums of the codes whose bit is set; the others mean nothing.
    pub(crate) sums: [[u16; CODES_PER_BLOCK]; PROBES_PER_PASS],
}

impl Reached {
    pub(crate) fn new() -> Self {
        Self { codes: [0; PROBES_PER_PASS], sums: [[0; CODES_PER_BLOCK]; PROBES_PER_PASS] }
    }
}

/// Adds up, for each probe, what the bits of each code earn, and tells which sums reach the probe's `least`.
///
/// `block` and the probes' tables are as [`Layout::of`] the path has them, for equally many components.
pub(crate) fn reach(path: Path, block: &[Bytes], probes: &[&[Bytes]], least: &[u16], reached: &mut Reached) {
    let layout = Layout::of(path);
    let steps = block.len() / layout.block_lines_per_step();
    assert!((1..=PROBES_PER_PASS).contains(&probes.len()), "a pass is for 1 to 4 probes");
    assert_eq!(probes.len(), least.len(), "one bound per probe");
    assert!(steps * layout.components_per_step() < COMPONENTS_MAX + layout.components_per_step(), "sums fit 16 bits");
    assert!(probes.iter().all(|tables| tables.len() == steps * layout.table_lines_per_step()), "a table per field");
    reached.codes = [0; PROBES_PER_PASS];
    match path {
        Path::Portable => portable(block, probes, least, reached),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::reach_avx2(block, probes, least, reached) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::reach_avx512(block, probes, least, reached) },
    }
}

fn portable(block: &[Bytes], probes: &[&[Bytes]], least: &[u16], reached: &mut Reached) {
    for (probe, (tables, least)) in probes.iter().zip(least).enumerate() {
        let mut sums = [0_u16; CODES_PER_BLOCK];
        for (lines, tables) in block.as_chunks::<8>().0.iter().zip(tables.as_chunks::<2>().0) {
            for (lines, sums) in lines.as_chunks::<4>().0.iter().zip(sums.as_chunks_mut::<HALF>().0) {
                let fields = lines.iter().flat_map(|line| line.0.as_chunks::<32>().0);
                let tables = tables.iter().flat_map(|line| line.0.as_chunks::<16>().0);
                for (fields, entries) in fields.zip(tables) {
                    let (low, high) = sums.split_at_mut(32);
                    for ((byte, low), high) in fields.iter().zip(low).zip(high) {
                        // Sums stay below 2¹⁶.
                        *low = low.wrapping_add(u16::from(entries[usize::from(byte & 15)]));
                        *high = high.wrapping_add(u16::from(entries[usize::from(byte >> 4)]));
                    }
                }
            }
        }
        let codes = sums.iter().enumerate().fold(0, |codes, (code, sum)| codes | u128::from(sum >= least) << code);
        reached.codes[probe] = codes;
        if codes != 0 {
            reached.sums[probe] = sums;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Bytes, HALF, Reached};

    /// Two probes at once: their sums, what is read of a block and a table fill the sixteen registers.
    #[target_feature(enable = "avx2")]
    pub(super) fn reach_avx2(block: &[Bytes], probes: &[&[Bytes]], least: &[u16], reached: &mut Reached) {
        let (pairs, rest) = probes.as_chunks::<2>();
        for half in 0..2 {
            for (number, pair) in pairs.iter().enumerate() {
                tile_avx2(block, half, *pair, &least[2 * number..], 2 * number, reached);
            }
            if let &[tables] = rest {
                tile_avx2(block, half, [tables], &least[2 * pairs.len()..], 2 * pairs.len(), reached);
            }
        }
    }

    /// One lookup chooses among the 16 entries of one table, for 32 codes. Four entries are added up in a byte; then bytes are added up in
    /// pairs of 16 bits: `all` as they are, in which a pair's second byte counts 256 times, and `second` those alone.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tile_avx2<const PROBES: usize>(
        block: &[Bytes],
        half: usize,
        probes: [&[Bytes]; PROBES],
        least: &[u16],
        first_probe: usize,
        reached: &mut Reached,
    ) {
        let low_half = _mm256_set1_epi8(15);
        let mut all = [[_mm256_setzero_si256(); 2]; PROBES];
        let mut second = [[_mm256_setzero_si256(); 2]; PROBES];
        let probes = probes.map(|tables| tables.as_chunks::<2>().0);
        for (step, lines) in block.as_chunks::<8>().0.iter().enumerate() {
            let fields = &lines.as_chunks::<4>().0[half];
            for four in 0..2 {
                let mut bytes = [[_mm256_setzero_si256(); 2]; PROBES];
                for field in 4 * four..4 * four + 4 {
                    let fields = load_256(&fields[field / 2], field % 2);
                    let low = _mm256_and_si256(fields, low_half);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(fields), low_half);
                    for probe in 0..PROBES {
                        let entries = twice_128(&probes[probe][step][field / 4], field % 4);
                        bytes[probe][0] = _mm256_add_epi8(bytes[probe][0], _mm256_shuffle_epi8(entries, low));
                        bytes[probe][1] = _mm256_add_epi8(bytes[probe][1], _mm256_shuffle_epi8(entries, high));
                    }
                }
                for probe in 0..PROBES {
                    for side in 0..2 {
                        all[probe][side] = _mm256_add_epi16(all[probe][side], bytes[probe][side]);
                        let seconds = _mm256_srli_epi16::<8>(bytes[probe][side]);
                        second[probe][side] = _mm256_add_epi16(second[probe][side], seconds);
                    }
                }
            }
        }
        for probe in 0..PROBES {
            let least = _mm256_set1_epi16(least[probe].cast_signed());
            let mut sums = [_mm256_setzero_si256(); 4];
            let mut codes = 0_u64;
            for side in 0..2 {
                let odd = second[probe][side];
                let even = _mm256_sub_epi16(all[probe][side], _mm256_slli_epi16::<8>(odd));
                let (low, high) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
                sums[2 * side] = _mm256_permute2x128_si256::<0x20>(low, high);
                sums[2 * side + 1] = _mm256_permute2x128_si256::<0x31>(low, high);
                // There is no unsigned comparison: the larger of the two is the sum itself where it reaches the least.
                let reach = |sums| _mm256_cmpeq_epi16(_mm256_max_epu16(sums, least), sums);
                let both = _mm256_packs_epi16(reach(sums[2 * side]), reach(sums[2 * side + 1]));
                let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
                codes |= u64::from(_mm256_movemask_epi8(in_order).cast_unsigned()) << (32 * side);
            }
            reached.codes[first_probe + probe] |= u128::from(codes) << (HALF * half);
            if codes != 0 {
                let into = &mut reached.sums[first_probe + probe][HALF * half..];
                for (sums, into) in sums.into_iter().zip(into.as_chunks_mut::<16>().0) {
                    // SAFETY: the destination has 32 bytes, and need not be aligned.
                    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast::<__m256i>(), sums) };
                }
            }
        }
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
    pub(super) fn reach_avx512(block: &[Bytes], probes: &[&[Bytes]], least: &[u16], reached: &mut Reached) {
        match probes {
            &[a, b, c, d] => tile_avx512(block, [a, b, c, d], least, 0, reached),
            _ => {
                for (number, tables) in probes.iter().enumerate() {
                    tile_avx512(block, [tables], &least[number..], number, reached);
                }
            }
        }
    }

    /// One lookup chooses among the 64 entries of one table, for 64 codes; it does not look at the two bits above the field. Four entries
    /// are added up in a byte; then bytes are added up in pairs of 16 bits: `all` as they are, in which an odd code's byte counts 256 times,
    /// and `odd` those alone.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
    #[inline]
    fn tile_avx512<const PROBES: usize>(
        block: &[Bytes],
        probes: [&[Bytes]; PROBES],
        least: &[u16],
        first_probe: usize,
        reached: &mut Reached,
    ) {
        let mut all = [[_mm512_setzero_si512(); 2]; PROBES];
        let mut odd = [[_mm512_setzero_si512(); 2]; PROBES];
        let probes = probes.map(|tables| tables.as_chunks::<4>().0);
        for (step, [a, b, c, d, e, f]) in block.as_chunks::<6>().0.iter().enumerate() {
            let fields = [fields_512([a, b, c]), fields_512([d, e, f])];
            for probe in 0..PROBES {
                let tables = &probes[probe][step];
                let tables = [load_512(&tables[0]), load_512(&tables[1]), load_512(&tables[2]), load_512(&tables[3])];
                for half in 0..2 {
                    let one = _mm512_permutexvar_epi8(fields[half][0], tables[0]);
                    let two = _mm512_permutexvar_epi8(fields[half][1], tables[1]);
                    let three = _mm512_permutexvar_epi8(fields[half][2], tables[2]);
                    let four = _mm512_permutexvar_epi8(fields[half][3], tables[3]);
                    let bytes = _mm512_add_epi8(_mm512_add_epi8(one, two), _mm512_add_epi8(three, four));
                    all[probe][half] = _mm512_add_epi16(all[probe][half], bytes);
                    odd[probe][half] = _mm512_add_epi16(odd[probe][half], _mm512_srli_epi16::<8>(bytes));
                }
            }
        }
        for probe in 0..PROBES {
            let least = _mm512_set1_epi16(least[probe].cast_signed());
            let mut sums = [[_mm512_setzero_si512(); 2]; 2];
            let mut reach = [[0; 2]; 2];
            for half in 0..2 {
                let odd = odd[probe][half];
                let even = _mm512_sub_epi16(all[probe][half], _mm512_slli_epi16::<8>(odd));
                sums[half] = [even, odd];
                reach[half] = sums[half].map(|sums| _mm512_cmpge_epu16_mask(sums, least));
            }
            if reach == [[0; 2]; 2] {
                continue;
            }
            for half in 0..2 {
                let [even, odd] = reach[half].map(u64::from);
                let codes = _pdep_u64(even, 0x5555_5555_5555_5555) | _pdep_u64(odd, 0xAAAA_AAAA_AAAA_AAAA);
                reached.codes[first_probe + probe] |= u128::from(codes) << (HALF * half);
                let mut apart = [[0_u16; HALF / 2]; 2];
                for (apart, sums) in apart.iter_mut().zip(sums[half]) {
                    // SAFETY: the destination has 64 bytes, and need not be aligned.
                    unsafe { _mm512_storeu_si512(apart.as_mut_ptr().cast::<__m512i>(), sums) };
                }
                let into = &mut reached.sums[first_probe + probe][HALF * half..];
                for (pair, (even, odd)) in into.as_chunks_mut::<2>().0.iter_mut().zip(apart[0].iter().zip(&apart[1])) {
                    *pair = [*even, *odd];
                }
            }
        }
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

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load_512(line: &Bytes) -> __m512i {
        // SAFETY: a line is 64 bytes, 64-byte aligned.
        unsafe { _mm512_load_si512(line.0.as_ptr().cast::<__m512i>()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the sums are by their definition.
    fn sums(codes: &[Vec<bool>], weights: &[Weight]) -> [u16; CODES_PER_BLOCK] {
        std::array::from_fn(|code| {
            let earned = codes[code].iter().zip(weights).filter(|(bit, weight)| **bit == weight.earned_by);
            earned.map(|(_, weight)| u16::from(weight.weight)).sum()
        })
    }

    fn check(codes: &[Vec<bool>], probes: &[Vec<Weight>], least: &[u16]) -> Result<(), TestCaseError> {
        let components = probes[0].len();
        for path in Path::available() {
            let layout = Layout::of(*path);
            let mut block = vec![Bytes::ZERO; layout.block_lines(components)];
            for (code, bits) in codes.iter().enumerate() {
                (0..components)
                    .filter(|component| bits[*component])
                    .for_each(|component| layout.set(&mut block, code, component));
                prop_assert!(
                    (0..components).all(|component| layout.is_set(&block, code, component) == bits[component])
                );
            }
            let tables: Vec<Vec<Bytes>> = probes.iter().map(|weights| layout.tables(weights)).collect();
            let tables: Vec<&[Bytes]> = tables.iter().map(Vec::as_slice).collect();
            let mut reached = Reached::new();
            reach(*path, &block, &tables, least, &mut reached);
            for (probe, weights) in probes.iter().enumerate() {
                let expected = sums(codes, weights);
                let codes = (0..CODES_PER_BLOCK)
                    .filter(|code| expected[*code] >= least[probe])
                    .fold(0, |codes, code| codes | 1_u128 << code);
                prop_assert_eq!(reached.codes[probe], codes, "{:?}, probe {}", path, probe);
                let told = |code: &usize| codes >> code & 1 == 1;
                prop_assert!(
                    (0..CODES_PER_BLOCK).filter(told).all(|code| reached.sums[probe][code] == expected[code]),
                    "{:?}, probe {}",
                    path,
                    probe
                );
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_adds_up_what_the_bits_earn(
            components in 1_usize..200,
            probe_count in 1_usize..=PROBES_PER_PASS,
            seed in prop::collection::vec(any::<u8>(), 1021),
            aim in 0_u16..=10,
        ) {
            let mut bytes = seed.iter().cycle();
            let codes: Vec<Vec<bool>> = (0..CODES_PER_BLOCK)
                .map(|_| (0..components).map(|_| bytes.next().is_some_and(|byte| byte & 1 == 1)).collect())
                .collect();
            let weight = |byte: &u8| Weight { weight: byte >> 1 & 15, earned_by: byte & 1 == 1 };
            // Of six neighbours, one may be heavy.
            let heavy = |(place, weight): (usize, Weight)| {
                Weight { weight: if place % 6 == 3 { weight.weight } else { weight.weight * 3 / 5 }, ..weight }
            };
            let mut weights = || bytes.by_ref().take(components).map(weight).enumerate().map(heavy).collect::<Vec<_>>();
            let probes: Vec<Vec<Weight>> = (0..probe_count).map(|_| weights()).collect();
            let most = |weights: &Vec<Weight>| weights.iter().map(|weight| u16::from(weight.weight)).sum::<u16>();
            // From nothing, which all reach, over about what half of them reach, to what few or none do.
            let least: Vec<u16> = probes.iter().map(|weights| most(weights) * aim / 10).collect();
            check(&codes, &probes, &least)?;
        }
    }

    #[test]
    fn the_largest_sums_fit_and_the_bounds_are_met_exactly() {
        // Of each field of four or six, all the weight lies on one component.
        let heaviest = |component: usize, earned_by: bool| Weight {
            weight: if component % 12 == 3 || component % 12 == 8 { FIELD_SUM_MAX } else { 0 },
            earned_by,
        };
        let top = (0..COMPONENTS_MAX).map(|component| u16::from(heaviest(component, true).weight)).sum::<u16>();
        for bit in [false, true] {
            let codes = vec![vec![bit; COMPONENTS_MAX]; CODES_PER_BLOCK];
            let weights: Vec<Weight> = (0..COMPONENTS_MAX).map(|component| heaviest(component, bit)).collect();
            check(&codes, &vec![weights; 4], &[0, top, top + 1, u16::MAX]).expect("equal on every path");
        }
    }
}
