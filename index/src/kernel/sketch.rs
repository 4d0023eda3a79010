//! Sums of what short codes earn: the inner loop of the `sketch` engine.
//!
//! A code is a row of fields of a few bits. A probe has a table for each field, of what every value of it earns, and a code's sum is that of
//! what its fields earn. The codes of 128 rows lie in a block, which several probes pass over at once. How many bits a field has, and how
//! fields lie in a block, is up to the instructions at hand (see [`Layout`]).

use super::Path;

/// Codes in a block: two halves, so that what is loaded of a probe's tables is used twice.
pub(crate) const CODES_PER_BLOCK: usize = 2 * HALF;
/// Codes that lie side by side.
const HALF: usize = 64;
/// The most fields of a code.
pub(crate) const FIELDS_MAX: usize = 2048;
/// The most that a field earns. Eight of these fit a byte, so that paths that add up bytes seldom have to make them wider.
pub(crate) const ENTRY_MAX: u8 = 31;
/// Probes that share one pass over a block at most.
pub(crate) const PROBES_PER_PASS: usize = 4;

/// Lines of a block behind its fields: an alignment of 8 bits for each code.
const ALIGNMENT_LINES: usize = 2;

// A sum fits 16 bits.
const _: () = assert!((FIELDS_MAX + 8) * ENTRY_MAX as usize <= u16::MAX as usize);

/// 64 bytes of a block or of a probe's tables: a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Bytes(pub(crate) [u8; 64]);

impl Bytes {
    pub(crate) const ZERO: Self = Self([0; 64]);
}

/// How each half of a block lies, which is what a path's instructions want. A block has one step after another, and of each step the
/// lines of its first half, then those of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Fields of 4 bits. Of each field, 32 bytes: code c has the low half of byte c, code c + 32 the high half.
    Fours,
    /// Fields of 6 bits, four of them in three lines of 64 bytes, a byte for each code: line l has field l in the low six bits and, above,
    /// the bits 2 l and 2 l + 1 of the fourth field.
    Sixes,
}

impl Layout {
    /// What a path reads fastest.
    pub(crate) fn of(path: Path) -> Self {
        match path {
            Path::Portable => Self::Fours,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Self::Fours,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => Self::Sixes,
        }
    }

    /// The layouts, each with the paths that read it on this processor.
    #[cfg(test)]
    pub(crate) fn with_paths() -> [(Self, Vec<Path>); 2] {
        [Self::Fours, Self::Sixes].map(|layout| {
            let reads = |path: &Path| *path == Path::Portable || Self::of(*path) == layout;
            (layout, Path::available().iter().copied().filter(reads).collect())
        })
    }

    /// Bits of a field.
    pub(crate) const fn field_bits(self) -> usize {
        match self {
            Self::Fours => 4,
            Self::Sixes => 6,
        }
    }

    /// Fields that a path takes in one step.
    const fn fields_per_step(self) -> usize {
        match self {
            Self::Fours => 8,
            Self::Sixes => 4,
        }
    }

    /// Lines of a block in each step.
    const fn block_lines_per_step(self) -> usize {
        match self {
            Self::Fours => 8,
            Self::Sixes => 6,
        }
    }

    /// Entries of a table.
    const fn entries(self) -> usize {
        1 << self.field_bits()
    }

    /// Lines of a probe's tables in each step.
    const fn table_lines_per_step(self) -> usize {
        self.fields_per_step() * self.entries() / 64
    }

    /// Lines of a block whose codes have so many fields, at least 1.
    pub(crate) fn block_lines(self, fields: usize) -> usize {
        fields.div_ceil(self.fields_per_step()) * self.block_lines_per_step() + ALIGNMENT_LINES
    }

    /// Lines of the tables of so many fields. Fields beyond them, up to a whole step, earn nothing.
    pub(crate) fn table_lines(self, fields: usize) -> usize {
        fields.div_ceil(self.fields_per_step()) * self.table_lines_per_step()
    }

    /// The table of a field: what each of its values earns, [`ENTRY_MAX`] at most.
    pub(crate) fn table(self, tables: &mut [Bytes], field: usize) -> &mut [u8] {
        let per_line = 64 / self.entries();
        &mut tables[field / per_line].0[field % per_line * self.entries()..][..self.entries()]
    }

    /// Sets a field of a code in a block, where it is 0.
    pub(crate) fn set(self, block: &mut [Bytes], code: usize, field: usize, value: u8) {
        for (line, byte, from, bits, into) in self.places(code, field) {
            block[line].0[byte] |= (value >> from & ((1 << bits) - 1)) << into;
        }
    }

    /// A field of a code in a block.
    pub(crate) fn field(self, block: &[Bytes], code: usize, field: usize) -> u8 {
        let part = |(line, byte, from, bits, into): (usize, usize, u8, u8, u8)| {
            (block[line].0[byte] >> into & ((1 << bits) - 1)) << from
        };
        self.places(code, field).into_iter().map(part).fold(0, |value, part| value | part)
    }

    /// Where the parts of a field lie, of which some have no bits: the line, the byte in it, the first bit of the part, how many, and the bit
    /// in the byte.
    fn places(self, code: usize, field: usize) -> [(usize, usize, u8, u8, u8); 3] {
        const NONE: (usize, usize, u8, u8, u8) = (0, 0, 0, 0, 0);
        let step = field / self.fields_per_step() * self.block_lines_per_step();
        let first = step + code / HALF * self.block_lines_per_step() / 2;
        let (code, field) = (code % HALF, field % self.fields_per_step());
        match self {
            Self::Fours => {
                [(first + field / 2, field % 2 * 32 + code % 32, 0, 4, if code < 32 { 0 } else { 4 }), NONE, NONE]
            }
            Self::Sixes if field < 3 => [(first + field, code, 0, 6, 0), NONE, NONE],
            Self::Sixes => [(first, code, 0, 2, 6), (first + 1, code, 2, 2, 6), (first + 2, code, 4, 2, 6)],
        }
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

/// Adds up, for each probe, what the fields of each code earn, and tells which sums reach the probe's `least`.
///
/// `block` and the probes' tables are of one layout, which the path reads, and of equally many fields.
pub(crate) fn reach(
    path: Path,
    layout: Layout,
    block: &[Bytes],
    probes: &[&[Bytes]],
    least: &[Least],
    reached: &mut Reached,
) {
    let (block, alignments) = block.split_last_chunk().expect("a block has the alignments of its codes");
    let steps = block.len() / layout.block_lines_per_step();
    assert!((1..=PROBES_PER_PASS).contains(&probes.len()), "a pass is for 1 to 4 probes");
    assert_eq!(probes.len(), least.len(), "one bound per probe");
    assert!(least.iter().all(|least| least.slope <= Least::SLOPE_MAX), "slopes are below 2^15");
    assert!(steps * layout.fields_per_step() < FIELDS_MAX + layout.fields_per_step(), "sums fit 16 bits");
    assert!(probes.iter().all(|tables| tables.len() == steps * layout.table_lines_per_step()), "a table per field");
    assert!(path == Path::Portable || layout == Layout::of(path), "the path reads the layout");
    reached.codes = [0; PROBES_PER_PASS];
    match path {
        Path::Portable => portable(layout, block, alignments, probes, least, reached),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::reach_avx2(block, alignments, probes, least, reached) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::reach_avx512(block, alignments, probes, least, reached) },
    }
}

fn portable(
    layout: Layout,
    block: &[Bytes],
    alignments: &[Bytes; ALIGNMENT_LINES],
    probes: &[&[Bytes]],
    least: &[Least],
    reached: &mut Reached,
) {
    for (probe, (tables, least)) in probes.iter().zip(least).enumerate() {
        let mut sums = [0_u16; CODES_PER_BLOCK];
        let steps = block.chunks(layout.block_lines_per_step()).zip(tables.chunks(layout.table_lines_per_step()));
        for (lines, tables) in steps {
            let halves = lines.chunks(lines.len() / 2).zip(sums.as_chunks_mut::<HALF>().0);
            for (lines, sums) in halves {
                let entries = tables.iter().flat_map(|line| line.0.chunks(layout.entries()));
                for (field, entries) in entries.enumerate() {
                    for (value, sum) in values(layout, lines, field).into_iter().zip(&mut *sums) {
                        // Sums stay below 2¹⁶.
                        *sum = sum.wrapping_add(u16::from(entries[usize::from(value) % entries.len()]));
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

/// Looks bytes up and adds them up, in registers alone and as many at once as the path can: how many there were, of so many rounds. For
/// benchmarks: there is no faster way to add up what fields earn.
pub(crate) fn lookups(path: Path, rounds: u64) -> u64 {
    match path {
        Path::Portable => {
            let (table, mut sums) = (std::hint::black_box([1_u8; 16]), [0_u8; HALF]);
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(table[usize::from(*sum & 15)]));
            }
            std::hint::black_box(sums);
            rounds * HALF as u64
        }
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::lookups_avx2(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::lookups_avx512(rounds) },
    }
}

/// A field of the codes of half a block, of the lines of one step; above it may be bits of no meaning.
fn values(layout: Layout, lines: &[Bytes], field: usize) -> [u8; HALF] {
    match layout {
        Layout::Fours => {
            let bytes = &lines[field / 2].0.as_chunks::<32>().0[field % 2];
            std::array::from_fn(|code| bytes[code % 32] >> (code / 32 * 4))
        }
        Layout::Sixes if field < 3 => lines[field].0,
        Layout::Sixes => {
            std::array::from_fn(|code| lines[0].0[code] >> 6 | lines[1].0[code] >> 6 << 2 | lines[2].0[code] >> 6 << 4)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ALIGNMENT_LINES, Bytes, HALF, Least, Reached};

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

    /// The alignment that a test gives a code.
    fn alignment_of(code: usize) -> u8 {
        (code * 37 % 256) as u8
    }

    /// `codes` and the probes' tables by their definition: fields, and what each value of each field earns.
    fn check(layout: Layout, codes: &[Vec<u8>], probes: &[Vec<Vec<u8>>], least: &[Least]) -> Result<(), TestCaseError> {
        let fields = codes[0].len();
        let mut block = vec![Bytes::ZERO; layout.block_lines(fields)];
        for (code, values) in codes.iter().enumerate() {
            values.iter().enumerate().for_each(|(field, value)| layout.set(&mut block, code, field, *value));
            set_alignment(&mut block, code, alignment_of(code));
        }
        for (code, values) in codes.iter().enumerate() {
            prop_assert!((0..fields).all(|field| layout.field(&block, code, field) == values[field]));
            prop_assert_eq!(alignment(&block, code), alignment_of(code));
        }
        let mut tables = vec![vec![Bytes::ZERO; layout.table_lines(fields)]; probes.len()];
        for (tables, probe) in tables.iter_mut().zip(probes) {
            probe.iter().enumerate().for_each(|(field, entries)| layout.table(tables, field).copy_from_slice(entries));
        }
        let tables: Vec<&[Bytes]> = tables.iter().map(Vec::as_slice).collect();
        let paths = Layout::with_paths().into_iter().filter(|(read, _)| *read == layout).flat_map(|(_, paths)| paths);
        for path in paths {
            let mut reached = Reached::new();
            reach(path, layout, &block, &tables, least, &mut reached);
            for (probe, tables) in probes.iter().enumerate() {
                let sum = |code: usize| {
                    let earned = codes[code].iter().zip(tables).map(|(value, entries)| entries[usize::from(*value)]);
                    earned.map(u16::from).sum::<u16>()
                };
                let reaches = |code: &usize| sum(*code) >= least[probe].of(alignment_of(*code));
                let expected = (0..CODES_PER_BLOCK).filter(reaches).fold(0, |codes, code| codes | 1_u128 << code);
                prop_assert_eq!(reached.codes[probe], expected, "{:?}, probe {}", path, probe);
                let right = |code: usize| expected >> code & 1 == 0 || reached.sums[probe][code] == sum(code);
                prop_assert!((0..CODES_PER_BLOCK).all(right), "{:?}, probe {}", path, probe);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_adds_up_what_the_fields_earn(
            fields in 1_usize..60,
            probe_count in 1_usize..=PROBES_PER_PASS,
            seed in prop::collection::vec(any::<u8>(), 1021),
            aim in 0_u16..=10,
            (slope, moved) in (prop_oneof![Just(0), 0_u16..500, 0..=Least::SLOPE_MAX], any::<u16>()),
        ) {
            for layout in [Layout::Fours, Layout::Sixes] {
                let mut bytes = seed.iter().cycle().copied();
                let mut take = |count: usize, below: u8| bytes.by_ref().take(count).map(|byte| byte % below).collect::<Vec<u8>>();
                let entries = 1 << layout.field_bits();
                let codes: Vec<Vec<u8>> = (0..CODES_PER_BLOCK).map(|_| take(fields, entries as u8)).collect();
                let probes: Vec<Vec<Vec<u8>>> =
                    (0..probe_count).map(|_| (0..fields).map(|_| take(entries, ENTRY_MAX + 1)).collect()).collect();
                // From nothing, which all reach, over about what half of them reach, to what few or none do.
                let least = Least {
                    slope,
                    plus: (fields as u16 * u16::from(ENTRY_MAX) * aim / 10).saturating_add(moved),
                    minus: moved.saturating_add(((u32::from(slope) * 128) >> 8) as u16),
                };
                check(layout, &codes, &probes, &vec![least; probe_count])?;
            }
        }
    }

    #[test]
    fn the_largest_sums_fit_and_the_bounds_are_met_exactly() {
        for layout in [Layout::Fours, Layout::Sixes] {
            let top = FIELDS_MAX as u16 * u16::from(ENTRY_MAX);
            for value in [0, (1 << layout.field_bits()) - 1] {
                let codes = vec![vec![value; FIELDS_MAX]; CODES_PER_BLOCK];
                let mut entries = vec![0; 1 << layout.field_bits()];
                entries[usize::from(value)] = ENTRY_MAX;
                let least = [0, top, top + 1, u16::MAX].map(|plus| Least { slope: 0, plus, minus: 0 });
                check(layout, &codes, &vec![vec![entries; FIELDS_MAX]; 4], &least).expect("equal on every path");
            }
        }
    }
}
