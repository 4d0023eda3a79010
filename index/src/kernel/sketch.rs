//! Sums of table entries chosen by 4-bit fields of short codes, for blocks of 64 codes and several probes at once: the inner loop of the
//! `sketch` engine.
//!
//! A block holds one 4-bit field per code and table. How the fields lie is up to the path (see [`Layout`]); the sums are not. A sum is
//! at most [`TABLES_MAX`] × [`ENTRY_MAX`] < 2¹⁶, so 16 bits hold it on every path.

use super::Path;

/// Codes in a block.
pub(crate) const CODES_PER_BLOCK: usize = 64;
/// Entries of a table: one for each value of a field.
pub(crate) const TABLE_ENTRIES: usize = 16;
/// The largest entry. Four of them fit a byte, which halves the work of paths that add up bytes.
pub(crate) const ENTRY_MAX: u8 = 63;
/// Tables come in steps: each path takes the fields of so many at a time.
pub(crate) const TABLES_PER_STEP: usize = 8;
/// The most tables of a probe.
pub(crate) const TABLES_MAX: usize = 1024;
/// Probes that share one pass over a block at most.
pub(crate) const PROBES_PER_PASS: usize = 4;

const _: () = assert!(TABLES_MAX * ENTRY_MAX as usize <= u16::MAX as usize);

/// Bytes of one step of a block: eight 4-bit fields of each code.
const STEP_BYTES: usize = CODES_PER_BLOCK * TABLES_PER_STEP / 2;

/// One cache line of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Fields(pub(crate) [u8; 64]);

/// One step of a block.
pub(crate) type Step = [Fields; STEP_BYTES / 64];

/// One step of a probe's tables: of table t, the entry of field value v is at 16 t + v.
pub(crate) type StepTables = [Fields; TABLES_PER_STEP * TABLE_ENTRIES / 64];

const NO_FIELDS: Fields = Fields([0; 64]);
pub(crate) const NO_STEP: Step = [NO_FIELDS; STEP_BYTES / 64];
pub(crate) const NO_TABLES: StepTables = [NO_FIELDS; TABLES_PER_STEP * TABLE_ENTRIES / 64];

/// How the fields of a step lie, which is what a path's instructions want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Of each table, 32 bytes: code c has the low half of byte c, code c + 32 the high half.
    ByTable,
    /// Of each 16 codes, 64 bytes: byte 4 c + t has the fields of code c in table t, low, and t + 4, high.
    ByCode,
}

impl Layout {
    /// What a path reads.
    pub(crate) fn of(path: Path) -> Self {
        match path {
            Path::Portable => Self::ByTable,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Self::ByTable,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => Self::ByCode,
        }
    }

    /// Writes one field, 0 to 15, into a step where it is still 0.
    pub(crate) fn write(self, step: &mut Step, code: usize, table: usize, field: u8) {
        let (byte, high) = self.place(code, table);
        step[byte / 64].0[byte % 64] |= if high { field << 4 } else { field & 15 };
    }

    /// Reads one field.
    pub(crate) fn read(self, step: &Step, code: usize, table: usize) -> u8 {
        let (byte, high) = self.place(code, table);
        let both = step[byte / 64].0[byte % 64];
        if high { both >> 4 } else { both & 15 }
    }

    /// The byte of a field, and whether it is the high half.
    fn place(self, code: usize, table: usize) -> (usize, bool) {
        match self {
            Self::ByTable => (table * 32 + code % 32, code >= 32),
            Self::ByCode => (code * 4 + table % 4, table >= 4),
        }
    }
}

/// What a pass over a block found for each probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Bit c: the sum of code c is at least what was asked for.
    pub(crate) codes: [u64; PROBES_PER_PASS],
    /// The sums of each probe for which some bit is set; the others are not written.
    pub(crate) sums: [[u16; CODES_PER_BLOCK]; PROBES_PER_PASS],
}

impl Reached {
    pub(crate) fn new() -> Self {
        Self { codes: [0; PROBES_PER_PASS], sums: [[0; CODES_PER_BLOCK]; PROBES_PER_PASS] }
    }
}

/// Adds up, for each probe, the entries that the fields of each code choose, and tells which sums reach the probe's `least`.
///
/// `block` lies as [`Layout::of`] the path says; every probe has as many steps of tables, with entries of at most [`ENTRY_MAX`].
pub(crate) fn reach(path: Path, block: &[Step], probes: &[&[StepTables]], least: &[u16], reached: &mut Reached) {
    assert!((1..=PROBES_PER_PASS).contains(&probes.len()), "a pass is for 1 to 4 probes");
    assert_eq!(probes.len(), least.len(), "one bound per probe");
    assert!(probes.iter().all(|tables| tables.len() == block.len()), "a field per table");
    assert!(block.len() * TABLES_PER_STEP <= TABLES_MAX, "sums fit 16 bits");
    reached.codes = [0; PROBES_PER_PASS];
    match path {
        Path::Portable => portable(block, probes, least, reached),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features. Lengths are checked
        // above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::reach_avx2(block, probes, least, reached) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::reach_avx512(block, probes, least, reached) },
    }
}

fn portable(block: &[Step], probes: &[&[StepTables]], least: &[u16], reached: &mut Reached) {
    for (probe, (tables, least)) in probes.iter().zip(least).enumerate() {
        let mut sums = [0_u16; CODES_PER_BLOCK];
        for (step, tables) in block.iter().zip(*tables) {
            let (fields, entries) = (step.as_flattened_bytes(), tables.as_flattened_bytes());
            for (fields, entries) in fields.chunks_exact(32).zip(entries.chunks_exact(TABLE_ENTRIES)) {
                let (low, high) = sums.split_at_mut(32);
                for ((byte, low), high) in fields.iter().zip(low).zip(high) {
                    // Sums stay below 2¹⁶, as there are at most TABLES_MAX entries.
                    *low = low.wrapping_add(u16::from(entries[usize::from(byte & 15)]));
                    *high = high.wrapping_add(u16::from(entries[usize::from(byte >> 4)]));
                }
            }
        }
        let codes = sums.iter().enumerate().fold(0, |codes, (code, sum)| codes | u64::from(sum >= least) << code);
        reached.codes[probe] = codes;
        if codes != 0 {
            reached.sums[probe] = sums;
        }
    }
}

/// Lines of fields as their bytes.
trait Bytes {
    fn as_flattened_bytes(&self) -> &[u8];
}

impl<const LINES: usize> Bytes for [Fields; LINES] {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: a line is exactly its 64 bytes (repr(C), size 64, no padding), so the same memory holds 64 initialised bytes per
        // line, borrowed for as long.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast::<u8>(), LINES * 64) }
    }
}

const _: () = assert!(size_of::<Fields>() == 64);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CODES_PER_BLOCK, Fields, Reached, Step, StepTables};

    /// Two probes at once: their sums, what is read of a block and a table fill the sixteen registers.
    #[target_feature(enable = "avx2")]
    pub(super) fn reach_avx2(block: &[Step], probes: &[&[StepTables]], least: &[u16], reached: &mut Reached) {
        let (pairs, rest) = probes.as_chunks::<2>();
        for (number, pair) in pairs.iter().enumerate() {
            tile_avx2(block, *pair, &least[2 * number..], 2 * number, reached);
        }
        if let &[tables] = rest {
            tile_avx2(block, [tables], &least[2 * pairs.len()..], 2 * pairs.len(), reached);
        }
    }

    /// One lookup chooses among the 16 entries of one table, for 32 codes. Four entries are added up in a byte; then bytes are added up in
    /// pairs of 16 bits: `all` as they are, in which a pair's second byte counts 256 times, and `second` those alone.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tile_avx2<const PROBES: usize>(
        block: &[Step],
        probes: [&[StepTables]; PROBES],
        least: &[u16],
        first: usize,
        reached: &mut Reached,
    ) {
        let low_half = _mm256_set1_epi8(15);
        let mut all = [[_mm256_setzero_si256(); 2]; PROBES];
        let mut second = [[_mm256_setzero_si256(); 2]; PROBES];
        for (step, fields) in block.iter().enumerate() {
            for four in 0..2 {
                let mut bytes = [[_mm256_setzero_si256(); 2]; PROBES];
                for table in 4 * four..4 * four + 4 {
                    let fields = load_256(&fields[table / 2], table % 2);
                    let low = _mm256_and_si256(fields, low_half);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(fields), low_half);
                    for probe in 0..PROBES {
                        let entries = twice_128(&probes[probe][step][table / 4], table % 4);
                        bytes[probe][0] = _mm256_add_epi8(bytes[probe][0], _mm256_shuffle_epi8(entries, low));
                        bytes[probe][1] = _mm256_add_epi8(bytes[probe][1], _mm256_shuffle_epi8(entries, high));
                    }
                }
                for probe in 0..PROBES {
                    for half in 0..2 {
                        all[probe][half] = _mm256_add_epi16(all[probe][half], bytes[probe][half]);
                        let seconds = _mm256_srli_epi16::<8>(bytes[probe][half]);
                        second[probe][half] = _mm256_add_epi16(second[probe][half], seconds);
                    }
                }
            }
        }
        for probe in 0..PROBES {
            let least = _mm256_set1_epi16(least[probe].cast_signed());
            let mut sums = [_mm256_setzero_si256(); 4];
            let mut codes = 0;
            for half in 0..2 {
                let odd = second[probe][half];
                let even = _mm256_sub_epi16(all[probe][half], _mm256_slli_epi16::<8>(odd));
                let (low, high) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
                sums[2 * half] = _mm256_permute2x128_si256::<0x20>(low, high);
                sums[2 * half + 1] = _mm256_permute2x128_si256::<0x31>(low, high);
                // There is no unsigned comparison: the larger of the two is the sum itself where it reaches the least.
                let reach = |sums| _mm256_cmpeq_epi16(_mm256_max_epu16(sums, least), sums);
                let both = _mm256_packs_epi16(reach(sums[2 * half]), reach(sums[2 * half + 1]));
                let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
                codes |= u64::from(_mm256_movemask_epi8(in_order).cast_unsigned()) << (32 * half);
            }
            reached.codes[first + probe] = codes;
            if codes != 0 {
                let into: &mut [u16; CODES_PER_BLOCK] = &mut reached.sums[first + probe];
                for (sums, into) in sums.into_iter().zip(into.as_chunks_mut::<16>().0) {
                    // SAFETY: the destination has 32 bytes, and need not be aligned.
                    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast::<__m256i>(), sums) };
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load_256(fields: &Fields, half: usize) -> __m256i {
        let halves = fields.0.as_chunks::<32>().0;
        // SAFETY: half a line is 32 bytes, and at 0 or 32 bytes of a 64-byte aligned line it is 32-byte aligned.
        unsafe { _mm256_load_si256(halves[half].as_ptr().cast::<__m256i>()) }
    }

    /// A quarter of a line, in both halves of the register.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn twice_128(entries: &Fields, quarter: usize) -> __m256i {
        let quarters = entries.0.as_chunks::<16>().0;
        // SAFETY: a quarter of a line is 16 bytes, and at a multiple of 16 bytes of a 64-byte aligned line it is 16-byte aligned.
        _mm256_broadcastsi128_si256(unsafe { _mm_load_si128(quarters[quarter].as_ptr().cast::<__m128i>()) })
    }

    /// Four probes at once where there are four, so that what is read of a block is used four times; the rest one by one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2")]
    pub(super) fn reach_avx512(block: &[Step], probes: &[&[StepTables]], least: &[u16], reached: &mut Reached) {
        match probes {
            &[a, b, c, d] => tile_avx512(block, [a, b, c, d], least, 0, reached),
            _ => {
                for (number, tables) in probes.iter().enumerate() {
                    tile_avx512(block, [tables], &least[number..], number, reached);
                }
            }
        }
    }

    /// One lookup chooses among four tables at once, 16 entries of each, for 16 codes; two of them are added up in bytes, and a dot product
    /// with ones adds up the four bytes of each code. Lookups are the bound where two 512-bit ones are done in two cycles (Zen 4).
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2")]
    #[inline]
    fn tile_avx512<const PROBES: usize>(
        block: &[Step],
        probes: [&[StepTables]; PROBES],
        least: &[u16],
        first: usize,
        reached: &mut Reached,
    ) {
        let low_half = _mm512_set1_epi8(15);
        // Byte t of four looks into table t.
        let table_of = _mm512_set1_epi32(0x3020_1000);
        let ones = _mm512_set1_epi8(1);
        let mut sums = [[_mm512_setzero_si512(); 4]; PROBES];
        for (step, fields) in block.iter().enumerate() {
            let mut low = [_mm512_setzero_si512(); 4];
            let mut high = [_mm512_setzero_si512(); 4];
            for group in 0..4 {
                let fields = load_512(&fields[group]);
                // (fields & 15) | table_of, and the same of the high halves.
                low[group] = _mm512_ternarylogic_epi32::<0xEA>(fields, low_half, table_of);
                high[group] = _mm512_ternarylogic_epi32::<0xEA>(_mm512_srli_epi16::<4>(fields), low_half, table_of);
            }
            for probe in 0..PROBES {
                let [first, second] = &probes[probe][step];
                let (first, second) = (load_512(first), load_512(second));
                for group in 0..4 {
                    let four = _mm512_permutexvar_epi8(low[group], first);
                    let other_four = _mm512_permutexvar_epi8(high[group], second);
                    sums[probe][group] =
                        _mm512_dpbusd_epi32(sums[probe][group], _mm512_add_epi8(four, other_four), ones);
                }
            }
        }
        for probe in 0..PROBES {
            let least = _mm512_set1_epi32(i32::from(least[probe]));
            let mut codes = 0;
            for group in 0..4 {
                codes |= u64::from(_mm512_cmpge_epi32_mask(sums[probe][group], least)) << (16 * group);
            }
            reached.codes[first + probe] = codes;
            if codes != 0 {
                let into: &mut [u16; CODES_PER_BLOCK] = &mut reached.sums[first + probe];
                for (group, into) in into.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                    let narrow = _mm512_cvtepi32_epi16(sums[probe][group]);
                    // SAFETY: the destination has 32 bytes, and need not be aligned.
                    unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast::<__m256i>(), narrow) };
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load_512(fields: &Fields) -> __m512i {
        // SAFETY: a line of fields is 64 bytes, 64-byte aligned.
        unsafe { _mm512_load_si512(fields.0.as_ptr().cast::<__m512i>()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the sums are by their definition.
    fn sums(fields: &[[u8; CODES_PER_BLOCK]], tables: &[StepTables]) -> [u16; CODES_PER_BLOCK] {
        std::array::from_fn(|code| {
            let entry = |(table, fields): (usize, &[u8; CODES_PER_BLOCK])| {
                let entries = tables[table / TABLES_PER_STEP].as_flattened_bytes();
                u16::from(entries[table % TABLES_PER_STEP * TABLE_ENTRIES + usize::from(fields[code])])
            };
            fields.iter().enumerate().map(entry).sum()
        })
    }

    fn block(layout: Layout, fields: &[[u8; CODES_PER_BLOCK]]) -> Vec<Step> {
        let mut block = vec![NO_STEP; fields.len() / TABLES_PER_STEP];
        for (table, fields) in fields.iter().enumerate() {
            for (code, field) in fields.iter().enumerate() {
                layout.write(&mut block[table / TABLES_PER_STEP], code, table % TABLES_PER_STEP, *field);
            }
        }
        block
    }

    fn check(fields: &[[u8; CODES_PER_BLOCK]], probes: &[Vec<StepTables>], least: &[u16]) -> Result<(), TestCaseError> {
        let tables: Vec<&[StepTables]> = probes.iter().map(Vec::as_slice).collect();
        for path in Path::available() {
            let block = block(Layout::of(*path), fields);
            let mut reached = Reached::new();
            reach(*path, &block, &tables, least, &mut reached);
            for (probe, tables) in probes.iter().enumerate() {
                let expected = sums(fields, tables);
                let codes =
                    (0..64).filter(|code| expected[*code] >= least[probe]).fold(0, |codes, code| codes | 1 << code);
                prop_assert_eq!(reached.codes[probe], codes, "{:?}, probe {}", path, probe);
                prop_assert!(codes == 0 || reached.sums[probe] == expected, "{:?}, probe {}", path, probe);
            }
        }
        Ok(())
    }

    fn tables(entries: &[u8], steps: usize, turn: usize) -> Vec<StepTables> {
        let mut entries = entries.iter().cycle().skip(turn).map(|entry| entry % (ENTRY_MAX + 1));
        let mut line = || Fields(std::array::from_fn(|_| entries.next().expect("cycles")));
        (0..steps).map(|_| [line(), line()]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_adds_up_the_entries_that_the_fields_choose(
            steps in 1_usize..20,
            probe_count in 1_usize..=PROBES_PER_PASS,
            seed in prop::collection::vec(any::<u8>(), 1021),
            share in 0_u16..=300,
        ) {
            let mut nibbles = seed.iter().cycle().map(|byte| byte & 15);
            let fields: Vec<[u8; CODES_PER_BLOCK]> =
                (0..steps * TABLES_PER_STEP).map(|_| std::array::from_fn(|_| nibbles.next().expect("cycles"))).collect();
            let probes: Vec<_> = (0..probe_count).map(|probe| tables(&seed, steps, 31 * probe)).collect();
            // About the mean of the sums, a little less or more, and far above.
            let least: Vec<u16> = (0..probe_count as u16).map(|probe| (steps * TABLES_PER_STEP) as u16 * (20 + (share + probe) / 20)).collect();
            check(&fields, &probes, &least)?;
        }
    }

    #[test]
    fn the_largest_sums_fit_and_the_bounds_are_met_exactly() {
        let steps = TABLES_MAX / TABLES_PER_STEP;
        let largest = vec![[Fields([ENTRY_MAX; 64]); 2]; steps];
        let top = (TABLES_MAX * usize::from(ENTRY_MAX)) as u16;
        for field in [0, 15] {
            let fields = vec![[field; CODES_PER_BLOCK]; TABLES_MAX];
            let probes = vec![largest.clone(); 4];
            check(&fields, &probes, &[0, top, top + 1, u16::MAX]).expect("equal on every path");
        }
    }
}
