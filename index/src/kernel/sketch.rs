//! Sums of weights chosen by the bits of short codes: the inner loop of the `sketch` engine.
//!
//! A code has one bit per component. A probe has a weight for each component and the bit that earns it; a code's sum is that of the weights
//! that its bits earn. The *heads* of 128 codes lie in a block, which several probes pass over at once: paths look the sums of a few bits at
//! a time up in tables; how many bits, and how they lie in a block, is up to the path (see [`Layout`]), the sums are not. What few codes are
//! looked at further have their *tails* one after another, and a tail's sum is added up by itself (see [`TailWeights`]).

use super::Path;

/// Codes in a block: two halves, so that what is loaded of a probe's tables is used twice.
pub(crate) const CODES_PER_BLOCK: usize = 2 * HALF;
/// Codes that lie side by side.
const HALF: usize = 64;
/// The most components of a code.
pub(crate) const COMPONENTS_MAX: usize = 4096;
/// The largest sum of the weights of any [`FIELD_COMPONENTS`] neighbours. Eight of these fit a byte, so that paths that add up bytes seldom
/// have to make them wider.
pub(crate) const FIELD_SUM_MAX: u8 = 31;
/// Neighbouring components whose weights are bounded together: as many as any path looks up at once.
pub(crate) const FIELD_COMPONENTS: usize = 6;
/// Probes that share one pass over a block at most.
pub(crate) const PROBES_PER_PASS: usize = 4;

/// Lines of a block behind its bits: an alignment of 8 bits for each code.
const ALIGNMENT_LINES: usize = 2;

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
        components.div_ceil(self.components_per_step()) * self.block_lines_per_step() + ALIGNMENT_LINES
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

/// The alignment of a code in a block.
pub(crate) fn alignment(block: &[Bytes], code: usize) -> u8 {
    block[alignment_line(block, code)].0[code % HALF]
}

/// Sets the alignment of a code in a block.
pub(crate) fn set_alignment(block: &mut [Bytes], code: usize, alignment: u8) {
    let line = alignment_line(block, code);
    block[line].0[code % HALF] = alignment;
}

fn alignment_line(block: &[Bytes], code: usize) -> usize {
    block.len() - ALIGNMENT_LINES + code / HALF
}

/// The least sum asked of a code with an alignment a: ⌊a · `slope` / 2⁸ + ½⌋ + `plus` − `minus`, where it is no less than 0 and no more than
/// 2¹⁶ − 1 on the way. The slope is less than 2¹⁵.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Least {
    pub(crate) slope: u16,
    pub(crate) plus: u16,
    pub(crate) minus: u16,
}

impl Least {
    pub(crate) const SLOPE_MAX: u16 = i16::MAX.cast_unsigned();

    fn of(self, alignment: u8) -> u16 {
        let sloped = (u32::from(alignment) * u32::from(self.slope) + (1 << 7)) >> 8;
        (sloped as u16).saturating_add(self.plus).saturating_sub(self.minus)
    }
}

/// What a pass over a block found for each probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Bit c: the sum of code c is at least what its alignment asks for.
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
pub(crate) fn reach(path: Path, block: &[Bytes], probes: &[&[Bytes]], least: &[Least], reached: &mut Reached) {
    let layout = Layout::of(path);
    let (block, alignments) = block.split_last_chunk().expect("a block has the alignments of its codes");
    let steps = block.len() / layout.block_lines_per_step();
    assert!((1..=PROBES_PER_PASS).contains(&probes.len()), "a pass is for 1 to 4 probes");
    assert_eq!(probes.len(), least.len(), "one bound per probe");
    assert!(least.iter().all(|least| least.slope <= Least::SLOPE_MAX), "slopes are below 2^15");
    assert!(steps * layout.components_per_step() < COMPONENTS_MAX + layout.components_per_step(), "sums fit 16 bits");
    assert!(probes.iter().all(|tables| tables.len() == steps * layout.table_lines_per_step()), "a table per field");
    reached.codes = [0; PROBES_PER_PASS];
    match path {
        Path::Portable => portable(block, alignments, probes, least, reached),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::reach_avx2(block, alignments, probes, least, reached) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::reach_avx512(block, alignments, probes, least, reached) },
    }
}

fn portable(
    block: &[Bytes],
    alignments: &[Bytes; ALIGNMENT_LINES],
    probes: &[&[Bytes]],
    least: &[Least],
    reached: &mut Reached,
) {
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
        let alignments = alignments.iter().flat_map(|line| line.0);
        let reach = sums.iter().zip(alignments).map(|(sum, alignment)| *sum >= least.of(alignment));
        let codes = reach.enumerate().fold(0, |codes, (code, reaches)| codes | u128::from(reaches) << code);
        reached.codes[probe] = codes;
        if codes != 0 {
            reached.sums[probe] = sums;
        }
    }
}

/// A piece of a tail: bits, the first component lowest. Pieces do not cross cache lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
pub(crate) struct TailPiece(pub(crate) [u64; 4]);

impl TailPiece {
    const BITS: usize = 256;
    pub(crate) const ZERO: Self = Self([0; 4]);
}

/// Bits at the end of a tail's last piece that are the caller's: no component is there.
pub(crate) const TAIL_BITS_LEFT: usize = 16;

/// Pieces of a tail of so many components.
pub(crate) fn tail_pieces(components: usize) -> usize {
    (components + TAIL_BITS_LEFT).div_ceil(TailPiece::BITS)
}

/// What the bits of a tail earn.
#[derive(Debug, Clone)]
pub(crate) struct TailWeights {
    /// A byte for each bit.
    weights: Vec<Bytes>,
    earned_by: Vec<u64>,
}

impl TailWeights {
    pub(crate) fn new(components: &[Weight]) -> Self {
        let words = tail_pieces(components.len()) * TailPiece::ZERO.0.len();
        let (mut weights, mut earned_by) = (vec![Bytes::ZERO; words], vec![0; words]);
        for (component, weight) in components.iter().enumerate() {
            weights[component / 64].0[component % 64] = weight.weight;
            earned_by[component / 64] |= u64::from(weight.earned_by) << (component % 64);
        }
        Self { weights, earned_by }
    }

    /// Adds the sums of some rows' tails to what their heads earn. `tails` has those of all rows, of equally many components each.
    pub(crate) fn add(&self, path: Path, tails: &[TailPiece], rows: &mut [(u32, u16)]) {
        match path {
            Path::Portable => {
                for (row, sum) in rows {
                    *sum += self.sum_portably(self.tail(tails, *row));
                }
            }
            // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { x86::add_tails_avx2(self, tails, rows) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => unsafe { x86::add_tails_avx512(self, tails, rows) },
        }
    }

    #[inline]
    fn tail<'a>(&self, tails: &'a [TailPiece], row: u32) -> &'a [TailPiece] {
        let pieces = self.earned_by.len() / TailPiece::ZERO.0.len();
        &tails[row as usize * pieces..][..pieces]
    }

    fn sum_portably(&self, tail: &[TailPiece]) -> u16 {
        let words = self.weights.iter().zip(&self.earned_by).zip(tail.iter().flat_map(|piece| piece.0));
        words.fold(0, |sum, ((weights, earned_by), word)| {
            let earned = !(word ^ earned_by);
            let bit = |(bit, weight): (usize, &u8)| u16::from(*weight) * (earned >> bit & 1) as u16;
            sum + weights.0.iter().enumerate().map(bit).sum::<u16>()
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ALIGNMENT_LINES, Bytes, HALF, Least, Reached, TailPiece, TailWeights};

    /// Two probes at once: their sums, what is read of a block and a table fill the sixteen registers.
    #[target_feature(enable = "avx2")]
    pub(super) fn reach_avx2(
        block: &[Bytes],
        alignments: &[Bytes; ALIGNMENT_LINES],
        probes: &[&[Bytes]],
        least: &[Least],
        reached: &mut Reached,
    ) {
        let (pairs, rest) = probes.as_chunks::<2>();
        for (half, alignments) in alignments.iter().enumerate() {
            for (number, pair) in pairs.iter().enumerate() {
                tile_avx2(block, half, alignments, *pair, &least[2 * number..], 2 * number, reached);
            }
            if let &[tables] = rest {
                tile_avx2(block, half, alignments, [tables], &least[2 * pairs.len()..], 2 * pairs.len(), reached);
            }
        }
    }

    /// One lookup chooses among the 16 entries of one table, for 32 codes. Eight entries are added up in a byte; then bytes are added up in
    /// pairs of 16 bits: `all` as they are, in which a pair's second byte counts 256 times, and `second` those alone.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tile_avx2<const PROBES: usize>(
        block: &[Bytes],
        half: usize,
        alignments: &Bytes,
        probes: [&[Bytes]; PROBES],
        least: &[Least],
        first_probe: usize,
        reached: &mut Reached,
    ) {
        let low_half = _mm256_set1_epi8(15);
        let mut all = [[_mm256_setzero_si256(); 2]; PROBES];
        let mut second = [[_mm256_setzero_si256(); 2]; PROBES];
        let probes = probes.map(|tables| tables.as_chunks::<2>().0);
        for (step, lines) in block.as_chunks::<8>().0.iter().enumerate() {
            let fields = &lines.as_chunks::<4>().0[half];
            let mut bytes = [[_mm256_setzero_si256(); 2]; PROBES];
            for field in 0..8 {
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
        for probe in 0..PROBES {
            let asked = least[probe].wide_avx2();
            let mut sums = [_mm256_setzero_si256(); 4];
            let mut codes = 0_u64;
            for side in 0..2 {
                let odd = second[probe][side];
                let even = _mm256_sub_epi16(all[probe][side], _mm256_slli_epi16::<8>(odd));
                let (low, high) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
                sums[2 * side] = _mm256_permute2x128_si256::<0x20>(low, high);
                sums[2 * side + 1] = _mm256_permute2x128_si256::<0x31>(low, high);
                let alignments = load_256(alignments, side);
                let both = _mm256_packs_epi16(
                    reaching_avx2(sums[2 * side], _mm256_castsi256_si128(alignments), asked),
                    reaching_avx2(sums[2 * side + 1], _mm256_extracti128_si256::<1>(alignments), asked),
                );
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

    impl Least {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn wide_avx2(self) -> [__m256i; 3] {
            [
                _mm256_set1_epi16(self.slope.cast_signed()),
                _mm256_set1_epi16(self.plus.cast_signed()),
                _mm256_set1_epi16(self.minus.cast_signed()),
            ]
        }
    }

    /// All ones where sums reach what is asked of alignments.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn reaching_avx2(sums: __m256i, alignments: __m128i, [slope, plus, minus]: [__m256i; 3]) -> __m256i {
        let sloped = _mm256_mulhrs_epi16(_mm256_slli_epi16::<7>(_mm256_cvtepu8_epi16(alignments)), slope);
        let least = _mm256_subs_epu16(_mm256_adds_epu16(sloped, plus), minus);
        // There is no unsigned comparison: the larger of the two is the sum itself where it reaches the least.
        _mm256_cmpeq_epi16(_mm256_max_epu16(sums, least), sums)
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
    pub(super) fn reach_avx512(
        block: &[Bytes],
        alignments: &[Bytes; ALIGNMENT_LINES],
        probes: &[&[Bytes]],
        least: &[Least],
        reached: &mut Reached,
    ) {
        match probes {
            &[a, b, c, d] => tile_avx512(block, alignments, [a, b, c, d], least, 0, reached),
            _ => {
                for (number, tables) in probes.iter().enumerate() {
                    tile_avx512(block, alignments, [tables], &least[number..], number, reached);
                }
            }
        }
    }

    /// One lookup chooses among the 64 entries of one table, for 64 codes; it does not look at the two bits above the field. Eight entries
    /// are added up in a byte; then bytes are added up in pairs of 16 bits: `all` as they are, in which an odd code's byte counts 256 times,
    /// and `odd` those alone.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
    #[inline]
    fn tile_avx512<const PROBES: usize>(
        block: &[Bytes],
        alignments: &[Bytes; ALIGNMENT_LINES],
        probes: [&[Bytes]; PROBES],
        least: &[Least],
        first_probe: usize,
        reached: &mut Reached,
    ) {
        // Neither here nor below are there closures for `map`: they are compiled for any processor, and hand registers on by way of memory.
        let mut all = [[_mm512_setzero_si512(); 2]; PROBES];
        let mut odd = [[_mm512_setzero_si512(); 2]; PROBES];
        // Two steps are eight fields, the entries of which fit a byte.
        let (pairs, last) = block.as_chunks::<12>();
        for (pair, lines) in pairs.iter().enumerate() {
            let (first, second) = lines.split_at(6);
            let (first, second) = (fields_of_step(first), fields_of_step(second));
            for probe in 0..PROBES {
                let (first_tables, second_tables) =
                    (tables_512(probes[probe], 2 * pair), tables_512(probes[probe], 2 * pair + 1));
                for half in 0..2 {
                    let bytes = _mm512_add_epi8(
                        looked_up_512(&first[half], &first_tables),
                        looked_up_512(&second[half], &second_tables),
                    );
                    all[probe][half] = _mm512_add_epi16(all[probe][half], bytes);
                    odd[probe][half] = _mm512_add_epi16(odd[probe][half], _mm512_srli_epi16::<8>(bytes));
                }
            }
        }
        if !last.is_empty() {
            let fields = fields_of_step(last);
            for probe in 0..PROBES {
                let tables = tables_512(probes[probe], 2 * pairs.len());
                for half in 0..2 {
                    let bytes = looked_up_512(&fields[half], &tables);
                    all[probe][half] = _mm512_add_epi16(all[probe][half], bytes);
                    odd[probe][half] = _mm512_add_epi16(odd[probe][half], _mm512_srli_epi16::<8>(bytes));
                }
            }
        }
        // Of each half the even codes' and the odd ones', times 2⁷.
        let (first, second) = (load_512(&alignments[0]), load_512(&alignments[1]));
        let low = _mm512_set1_epi16(0xFF);
        let of_even = [
            _mm512_slli_epi16::<7>(_mm512_and_si512(first, low)),
            _mm512_slli_epi16::<7>(_mm512_and_si512(second, low)),
        ];
        let of_odd = [
            _mm512_slli_epi16::<7>(_mm512_srli_epi16::<8>(first)),
            _mm512_slli_epi16::<7>(_mm512_srli_epi16::<8>(second)),
        ];
        for probe in 0..PROBES {
            let asked = least[probe].wide_avx512();
            let odd = odd[probe];
            let even = [
                _mm512_sub_epi16(all[probe][0], _mm512_slli_epi16::<8>(odd[0])),
                _mm512_sub_epi16(all[probe][1], _mm512_slli_epi16::<8>(odd[1])),
            ];
            let evens = [reaching_avx512(even[0], of_even[0], asked), reaching_avx512(even[1], of_even[1], asked)];
            let odds = [reaching_avx512(odd[0], of_odd[0], asked), reaching_avx512(odd[1], of_odd[1], asked)];
            if evens[0] | evens[1] | odds[0] | odds[1] != 0 {
                let (codes, sums) = (&mut reached.codes[first_probe + probe], &mut reached.sums[first_probe + probe]);
                tell_avx512(&even, &odd, evens, odds, codes, sums);
            }
        }
    }

    impl Least {
        #[target_feature(enable = "avx512f,avx512bw")]
        #[inline]
        fn wide_avx512(self) -> [__m512i; 3] {
            [
                _mm512_set1_epi16(self.slope.cast_signed()),
                _mm512_set1_epi16(self.plus.cast_signed()),
                _mm512_set1_epi16(self.minus.cast_signed()),
            ]
        }
    }

    /// Which sums reach what is asked of alignments, which are times 2⁷.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn reaching_avx512(sums: __m512i, alignments: __m512i, [slope, plus, minus]: [__m512i; 3]) -> u32 {
        let sloped = _mm512_mulhrs_epi16(alignments, slope);
        _mm512_cmpge_epu16_mask(sums, _mm512_subs_epu16(_mm512_adds_epu16(sloped, plus), minus))
    }

    /// Brings what was found for even and odd codes into the order of the codes. Apart, as it keeps the loop above short enough to have its
    /// sums in registers.
    #[target_feature(enable = "avx512f,avx512bw,bmi2")]
    #[inline(never)]
    fn tell_avx512(
        even: &[__m512i; 2],
        odd: &[__m512i; 2],
        evens: [u32; 2],
        odds: [u32; 2],
        codes: &mut u128,
        into: &mut [u16; 2 * HALF],
    ) {
        for half in 0..2 {
            let of_half = _pdep_u64(evens[half].into(), 0x5555_5555_5555_5555)
                | _pdep_u64(odds[half].into(), 0xAAAA_AAAA_AAAA_AAAA);
            *codes |= u128::from(of_half) << (HALF * half);
            let (even, odd) = (even[half], odd[half]);
            let (low, high) = (_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd));
            // Quarters of 128 bits, which are in the order of the codes: the low ones of both, then the high ones.
            let first = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high);
            let second = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high);
            for (sums, into) in [first, second].into_iter().zip(into[HALF * half..].as_chunks_mut::<{ HALF / 2 }>().0) {
                // SAFETY: the destination has 64 bytes, and need not be aligned.
                unsafe { _mm512_storeu_si512(into.as_mut_ptr().cast::<__m512i>(), sums) };
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn add_tails_avx2(weights: &TailWeights, tails: &[TailPiece], rows: &mut [(u32, u16)]) {
        for (row, sum) in rows {
            *sum += tail_avx2(&weights.weights, &weights.earned_by, weights.tail(tails, *row));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn add_tails_avx512(weights: &TailWeights, tails: &[TailPiece], rows: &mut [(u32, u16)]) {
        for (row, sum) in rows {
            *sum += tail_avx512(&weights.weights, &weights.earned_by, weights.tail(tails, *row));
        }
    }

    /// 32 bits at a time become bytes that choose among 32 weights.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tail_avx2(weights: &[Bytes], earned_by: &[u64], tail: &[TailPiece]) -> u16 {
        let bit_of_byte = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let byte_of_four = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let mut sums = _mm256_setzero_si256();
        for ((weights, earned_by), word) in weights.iter().zip(earned_by).zip(tail.iter().flat_map(|piece| piece.0)) {
            let earned = !(word ^ earned_by);
            for half in 0..2 {
                let bits = _mm256_set1_epi32(((earned >> (32 * half)) as u32).cast_signed());
                let bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, byte_of_four), bit_of_byte);
                let chosen = _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit_of_byte), load_256(weights, half));
                sums = _mm256_add_epi64(sums, _mm256_sad_epu8(chosen, _mm256_setzero_si256()));
            }
        }
        let [a, b, c, d] = [
            _mm256_extract_epi64::<0>(sums),
            _mm256_extract_epi64::<1>(sums),
            _mm256_extract_epi64::<2>(sums),
            _mm256_extract_epi64::<3>(sums),
        ];
        (a + b + c + d) as u16
    }

    /// The bits are the mask that chooses among 64 weights.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn tail_avx512(weights: &[Bytes], earned_by: &[u64], tail: &[TailPiece]) -> u16 {
        let mut sums = _mm512_setzero_si512();
        for ((weights, earned_by), word) in weights.iter().zip(earned_by).zip(tail.iter().flat_map(|piece| piece.0)) {
            let chosen = _mm512_maskz_mov_epi8(!(word ^ earned_by), load_512(weights));
            sums = _mm512_add_epi64(sums, _mm512_sad_epu8(chosen, _mm512_setzero_si512()));
        }
        _mm512_reduce_add_epi64(sums) as u16
    }

    /// The fields of one step, of both halves of a block.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn fields_of_step(lines: &[Bytes]) -> [[__m512i; 4]; 2] {
        let [a, b, c, d, e, f] = lines else { unreachable!("a step has six lines") };
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

    /// The alignment that a test gives a code.
    fn alignment_of(code: usize) -> u8 {
        (code * 37 % 256) as u8
    }

    fn check(codes: &[Vec<bool>], probes: &[Vec<Weight>], least: &[Least]) -> Result<(), TestCaseError> {
        let components = probes[0].len();
        for path in Path::available() {
            let layout = Layout::of(*path);
            let mut block = vec![Bytes::ZERO; layout.block_lines(components)];
            for (code, bits) in codes.iter().enumerate() {
                (0..components)
                    .filter(|component| bits[*component])
                    .for_each(|component| layout.set(&mut block, code, component));
                set_alignment(&mut block, code, alignment_of(code));
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
                    .filter(|code| expected[*code] >= least[probe].of(alignment_of(*code)))
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
            (slope, moved) in (prop_oneof![Just(0), 0_u16..500, 0..=Least::SLOPE_MAX], any::<u16>()),
        ) {
            let mut bytes = seed.iter().cycle();
            let codes: Vec<Vec<bool>> = (0..CODES_PER_BLOCK)
                .map(|_| (0..components).map(|_| bytes.next().is_some_and(|byte| byte & 1 == 1)).collect())
                .collect();
            let weight = |byte: &u8| Weight { weight: byte >> 1 & 7, earned_by: byte & 1 == 1 };
            // Of six neighbours, one may be heavy.
            let heavy = |(place, weight): (usize, Weight)| {
                Weight { weight: if place % 6 == 3 { weight.weight } else { weight.weight * 3 / 5 }, ..weight }
            };
            let mut weights = || bytes.by_ref().take(components).map(weight).enumerate().map(heavy).collect::<Vec<_>>();
            let probes: Vec<Vec<Weight>> = (0..probe_count).map(|_| weights()).collect();
            let most = |weights: &Vec<Weight>| weights.iter().map(|weight| u16::from(weight.weight)).sum::<u16>();
            // From nothing, which all reach, over about what half of them reach, to what few or none do.
            let least = |weights| Least {
                slope,
                plus: (most(weights) * aim / 10).saturating_add(moved),
                minus: moved.saturating_add(((u32::from(slope) * 128) >> 8) as u16),
            };
            check(&codes, &probes, &probes.iter().map(least).collect::<Vec<_>>())?;
        }

        #[test]
        fn every_path_adds_up_what_a_tail_earns(
            components in prop::collection::vec((0..=FIELD_SUM_MAX, any::<bool>(), any::<bool>()), 1..700),
            left in any::<u16>(),
        ) {
            let weights: Vec<Weight> =
                components.iter().map(|(weight, earned_by, _)| Weight { weight: *weight, earned_by: *earned_by }).collect();
            let mut tail = vec![TailPiece::ZERO; tail_pieces(components.len())];
            for (component, (_, _, bit)) in components.iter().enumerate() {
                tail[component / 256].0[component / 64 % 4] |= u64::from(*bit) << (component % 64);
            }
            tail.last_mut().expect("a tail has a piece").0[3] |= u64::from(left) << 48;
            let earned = components.iter().filter(|(_, earned_by, bit)| earned_by == bit);
            let expected = earned.map(|(weight, _, _)| u16::from(*weight)).sum::<u16>();
            for path in Path::available() {
                let weights = TailWeights::new(&weights);
                // The row before it has a tail of its own.
                let tails = [vec![TailPiece([u64::MAX; 4]); tail.len()], tail.clone()].concat();
                let mut rows = [(1, 5)];
                weights.add(*path, &tails, &mut rows);
                prop_assert_eq!(rows[0].1 - 5, expected, "{:?}", path);
            }
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
            let least = [0, top, top + 1, u16::MAX].map(|plus| Least { slope: 0, plus, minus: 0 });
            check(&codes, &vec![weights; 4], &least).expect("equal on every path");
        }
    }
}
