//! Sums of what short codes earn: the inner loop of the `sketch` engine.
//!
//! A code is a row of fields of a few bits. A probe has a table for each field, of what every value of it earns, and a code's sum is that of
//! what its fields earn. The codes of 128 rows lie in a block, which several probes pass over at once. How many bits a field has, and how
//! fields lie in a block, is up to the instructions at hand (see [`Layout`]).
//!
//! Sums are never wider than a byte. What eight fields earn, a leaf, fits one; leaves are averaged in pairs, halves rounded up, the averages
//! again, and so on until one is left. It counts 2ˡ for l levels of averages, and rounding has made it a little more than the sum: see
//! [`Averages`].

use super::Path;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Codes in a block: two halves, so that what is loaded of a probe's tables is used twice.
pub(crate) const CODES_PER_BLOCK: usize = 2 * HALF;
/// Codes that lie side by side.
const HALF: usize = 64;
/// Fields whose earnings are added up before they are averaged with others.
const FIELDS_PER_LEAF: usize = STEPS_PER_LEAF * FIELDS_PER_STEP;
/// The most levels of averages.
const LEVELS_MAX: usize = 7;
/// The most fields of a code.
pub(crate) const FIELDS_MAX: usize = FIELDS_PER_LEAF << LEVELS_MAX;
/// The most that a field earns.
pub(crate) const ENTRY_MAX: u8 = u8::MAX / FIELDS_PER_LEAF as u8;
/// The first field may earn what the others of its leaf leave of a byte.
pub(crate) const FIRST_ENTRY_MAX: u8 = u8::MAX - (FIELDS_PER_LEAF as u8 - 1) * ENTRY_MAX;
/// Probes that share one pass over a block at most.
pub(crate) const PROBES_PER_PASS: usize = 4;

/// Fields that lie together.
pub(crate) const FIELDS_PER_STEP: usize = 4;
const STEPS_PER_LEAF: usize = 2;
/// Leaves are averaged in pairs as soon as they are added up.
const STEPS_PER_PAIR: usize = 2 * STEPS_PER_LEAF;

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
    /// Fields of 4 bits, two of them in a line. Of each field, 32 bytes: code c has the low half of byte c, code c + 32 the high half.
    Fours,
    /// Fields of 6 bits, four of them in three lines, a byte for each code: line l has field l in the low six bits and, above, the bits 2 l
    /// and 2 l + 1 of the fourth field.
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

    /// Lines of a block in each step, for both halves.
    const fn block_lines_per_step(self) -> usize {
        match self {
            Self::Fours => 4,
            Self::Sixes => 6,
        }
    }

    /// Entries of a table.
    const fn entries(self) -> usize {
        1 << self.field_bits()
    }

    /// Lines of a probe's tables in each step.
    const fn table_lines_per_step(self) -> usize {
        FIELDS_PER_STEP * self.entries() / 64
    }

    /// Lines of a block whose codes have so many fields, at least 1.
    pub(crate) fn block_lines(self, fields: usize) -> usize {
        fields.div_ceil(FIELDS_PER_STEP) * self.block_lines_per_step()
    }

    /// Lines of the tables of so many fields. Fields beyond them, up to a whole step, earn nothing.
    pub(crate) fn table_lines(self, fields: usize) -> usize {
        fields.div_ceil(FIELDS_PER_STEP) * self.table_lines_per_step()
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
    #[inline]
    pub(crate) fn field(self, block: &[Bytes], code: usize, field: usize) -> u8 {
        let part = |(line, byte, from, bits, into): (usize, usize, u8, u8, u8)| {
            (block[line].0[byte] >> into & ((1 << bits) - 1)) << from
        };
        self.places(code, field).into_iter().map(part).fold(0, |value, part| value | part)
    }

    /// Where the parts of a field lie, of which some have no bits: the line, the byte in it, the first bit of the part, how many, and the bit
    /// in the byte.
    #[inline]
    fn places(self, code: usize, field: usize) -> [(usize, usize, u8, u8, u8); 3] {
        const NONE: (usize, usize, u8, u8, u8) = (0, 0, 0, 0, 0);
        let step = field / FIELDS_PER_STEP * self.block_lines_per_step();
        let first = step + code / HALF * self.block_lines_per_step() / 2;
        let (code, field) = (code % HALF, field % FIELDS_PER_STEP);
        match self {
            Self::Fours => {
                [(first + field / 2, field % 2 * 32 + code % 32, 0, 4, if code < 32 { 0 } else { 4 }), NONE, NONE]
            }
            Self::Sixes if field < 3 => [(first + field, code, 0, 6, 0), NONE, NONE],
            Self::Sixes => [(first, code, 0, 2, 6), (first + 1, code, 2, 2, 6), (first + 2, code, 4, 2, 6)],
        }
    }
}

/// What averaging makes of the sums of codes of so many fields: 2ˡ · byte = sum + excess, for l levels.
///
/// Of two bytes, the average is a half more than it should be in one case of two; of two leaves that are not there, it is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Averages {
    pub(crate) levels: u32,
    /// Of the excess.
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

impl Averages {
    /// Of codes of so many fields, at least 1.
    pub(crate) fn of(fields: usize) -> Self {
        let leaves = fields.div_ceil(FIELDS_PER_LEAF);
        let levels = levels(leaves);
        let (mut mean, mut variance) = (0.0, 0.0);
        for level in 1..=levels {
            let (averages, half) = (leaves.div_ceil(1 << level) as f64, f64::from(1_u32 << level) / 2.0);
            mean += averages * half / 2.0;
            variance += averages * half * half / 4.0;
        }
        Self { levels, mean, variance }
    }
}

/// Levels of averages of so many leaves, at least 1.
fn levels(leaves: usize) -> u32 {
    leaves.next_power_of_two().ilog2().max(1)
}

/// The rows that passes over blocks found for a probe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reached {
    /// A row's number and its byte; those beyond `count` mean nothing.
    rows: Vec<(u32, u32)>,
    count: usize,
}

impl Reached {
    /// Each row and its byte, ascending by rows where the passes were.
    pub(crate) fn rows(&mut self) -> &mut [(u32, u32)] {
        &mut self.rows[..self.count]
    }

    /// Forgets rows from this one on.
    pub(crate) fn keep_below(&mut self, row_count: u32) {
        self.count = self.rows().partition_point(|(row, _)| *row < row_count);
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Makes room for what a block may add.
    fn reserve(&mut self) {
        if self.rows.len() < self.count + CODES_PER_BLOCK {
            self.rows.resize((2 * self.count).max(2 * CODES_PER_BLOCK), (0, 0));
        }
    }

    /// Notes the codes whose bits are set, of rows numbered from `first_row` on.
    ///
    /// Most often there is none or one, which no branch tells apart: a processor foresees it too seldom. Where there is none, the first one is
    /// written down, and not counted.
    #[inline]
    fn note(&mut self, mut codes: u64, sums: &[u8; HALF], first_row: u32) {
        loop {
            let code = codes.trailing_zeros() % HALF as u32;
            self.rows[self.count] = (first_row.wrapping_add(code), sums[code as usize].into());
            self.count += usize::from(codes != 0);
            codes &= codes.wrapping_sub(1);
            if codes == 0 {
                return;
            }
        }
    }
}

/// Adds up, for each probe, what the fields of each code earn, and notes the rows whose bytes reach the probe's `least`. The block's rows are
/// numbered from `first_row` on.
///
/// `block` and the probes' tables are of one layout, which the path reads, and of equally many fields.
pub(crate) fn reach(
    path: Path,
    layout: Layout,
    (first_row, block): (u32, &[Bytes]),
    probes: &[&[Bytes]],
    least: &[u8],
    reached: &mut [Reached],
) {
    let steps = block.len() / layout.block_lines_per_step();
    assert!((1..=PROBES_PER_PASS).contains(&probes.len()), "a pass is for 1 to 4 probes");
    assert!(probes.len() == least.len() && probes.len() == reached.len(), "one bound and one list per probe");
    assert!((1..=FIELDS_MAX / FIELDS_PER_STEP).contains(&steps), "averages have so many levels at most");
    assert!(probes.iter().all(|tables| tables.len() == steps * layout.table_lines_per_step()), "a table per field");
    assert!(path == Path::Portable || layout == Layout::of(path), "the path reads the layout");
    reached.iter_mut().for_each(Reached::reserve);
    let block = Block { first_row, lines: block };
    match path {
        Path::Portable => portable(layout, block, probes, least, reached),
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::reach_avx2(block, probes, least, reached) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::reach_avx512(block, probes, least, reached) },
    }
}

/// The codes of so many rows.
#[derive(Clone, Copy)]
struct Block<'a> {
    first_row: u32,
    lines: &'a [Bytes],
}

fn portable(layout: Layout, block: Block, probes: &[&[Bytes]], least: &[u8], reached: &mut [Reached]) {
    let mut leaves = Vec::new();
    for ((tables, least), reached) in probes.iter().zip(least).zip(reached) {
        leaves.clear();
        let of_leaves = block.lines.chunks(STEPS_PER_LEAF * layout.block_lines_per_step());
        for (lines, tables) in of_leaves.zip(tables.chunks(STEPS_PER_LEAF * layout.table_lines_per_step())) {
            leaves.push(leaf(layout, lines, tables));
        }
        for _ in 0..levels(leaves.len()) {
            for pair in 0..leaves.len().div_ceil(2) {
                let (first, second) = (leaves[2 * pair], leaves.get(2 * pair + 1).unwrap_or(&[0; CODES_PER_BLOCK]));
                leaves[pair] = std::array::from_fn(|code| average(first[code], second[code]));
            }
            leaves.truncate(leaves.len().div_ceil(2));
        }
        for (half, sums) in leaves[0].as_chunks::<HALF>().0.iter().enumerate() {
            let codes = (0..).zip(sums).fold(0, |codes, (code, sum)| codes | u64::from(sum >= least) << code);
            reached.note(codes, sums, block.first_row + (half * HALF) as u32);
        }
    }
}

/// Halves rounded up.
fn average(first: u8, second: u8) -> u8 {
    first.midpoint(second) + ((first ^ second) & 1)
}

/// What the fields of a leaf earn.
fn leaf(layout: Layout, lines: &[Bytes], tables: &[Bytes]) -> [u8; CODES_PER_BLOCK] {
    let mut sums = [0_u8; CODES_PER_BLOCK];
    let steps = lines.chunks(layout.block_lines_per_step()).zip(tables.chunks(layout.table_lines_per_step()));
    for (lines, tables) in steps {
        let halves = lines.chunks(lines.len() / 2).zip(sums.as_chunks_mut::<HALF>().0);
        for (lines, sums) in halves {
            let entries = tables.iter().flat_map(|line| line.0.chunks(layout.entries()));
            for (field, entries) in entries.enumerate() {
                for (value, sum) in values(layout, lines, field).into_iter().zip(&mut *sums) {
                    // The entries of a leaf fit a byte.
                    *sum = sum.wrapping_add(entries[usize::from(value) % entries.len()]);
                }
            }
        }
    }
    sums
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The average of leaves, of which there are 2ˡ, by its definition.
    fn average_of(leaves: &[u8]) -> u8 {
        if let &[leaf] = leaves {
            return leaf;
        }
        let (first, second) = leaves.split_at(leaves.len() / 2);
        (u16::from(average_of(first)) + u16::from(average_of(second))).div_ceil(2) as u8
    }

    /// `codes` and the probes' tables by their definition: fields, and what each value of each field earns.
    fn check(layout: Layout, codes: &[Vec<u8>], probes: &[Vec<Vec<u8>>], least: &[u8]) -> Result<(), TestCaseError> {
        let fields = codes[0].len();
        let mut block = vec![Bytes::ZERO; layout.block_lines(fields)];
        for (code, values) in codes.iter().enumerate() {
            values.iter().enumerate().for_each(|(field, value)| layout.set(&mut block, code, field, *value));
        }
        for (code, values) in codes.iter().enumerate() {
            prop_assert!((0..fields).all(|field| layout.field(&block, code, field) == values[field]));
        }
        let mut tables = vec![vec![Bytes::ZERO; layout.table_lines(fields)]; probes.len()];
        for (tables, probe) in tables.iter_mut().zip(probes) {
            probe.iter().enumerate().for_each(|(field, entries)| layout.table(tables, field).copy_from_slice(entries));
        }
        let tables: Vec<&[Bytes]> = tables.iter().map(Vec::as_slice).collect();
        let averages = Averages::of(fields);
        let paths = Layout::with_paths().into_iter().filter(|(read, _)| *read == layout).flat_map(|(_, paths)| paths);
        for path in paths {
            let mut reached = vec![Reached::default(); probes.len()];
            // What a block finds comes behind what others found.
            for first_row in [1000, 5000] {
                reach(path, layout, (first_row, &block), &tables, least, &mut reached);
            }
            for (probe, (tables, reached)) in probes.iter().zip(&mut reached).enumerate() {
                let byte = |code: usize| {
                    let earned = codes[code].iter().zip(tables).map(|(value, entries)| entries[usize::from(*value)]);
                    let earned: Vec<u8> = earned.collect();
                    let mut leaves: Vec<u8> = earned.chunks(FIELDS_PER_LEAF).map(|leaf| leaf.iter().sum()).collect();
                    leaves.resize(leaves.len().next_power_of_two().max(2), 0);
                    let byte = average_of(&leaves);
                    let sum: u32 = earned.into_iter().map(u32::from).sum();
                    let counts = u32::from(byte) << averages.levels;
                    assert!(
                        leaves.len() == 1 << averages.levels
                            && (sum..sum + (averages.levels << averages.levels)).contains(&counts)
                    );
                    byte
                };
                let reaches = |code: &usize| byte(*code) >= least[probe];
                let found = (0..CODES_PER_BLOCK).filter(reaches).map(|code| (1000 + code as u32, byte(code).into()));
                let expected: Vec<(u32, u32)> =
                    found.clone().chain(found.map(|(row, byte)| (row + 4000, byte))).collect();
                prop_assert_eq!(reached.rows(), expected, "{:?}, probe {}", path, probe);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_averages_what_the_fields_earn(
            fields in 1_usize..150,
            probe_count in 1_usize..=PROBES_PER_PASS,
            seed in prop::collection::vec(any::<u8>(), 1021),
            aim in 0_usize..=10,
        ) {
            for layout in [Layout::Fours, Layout::Sixes] {
                let mut bytes = seed.iter().cycle().copied();
                let mut take = |count: usize, below: u8| bytes.by_ref().take(count).map(|byte| byte % below).collect::<Vec<u8>>();
                let entries = 1 << layout.field_bits();
                let codes: Vec<Vec<u8>> = (0..CODES_PER_BLOCK).map(|_| take(fields, entries as u8)).collect();
                let probes: Vec<Vec<Vec<u8>>> =
                    (0..probe_count).map(|_| (0..fields).map(|_| take(entries, ENTRY_MAX + 1)).collect()).collect();
                // From nothing, which all reach, over about what half of them reach, to what few or none do.
                let least = (fields * usize::from(ENTRY_MAX) * aim / 10) >> Averages::of(fields).levels;
                check(layout, &codes, &probes, &vec![least as u8; probe_count])?;
            }
        }
    }

    #[test]
    fn the_largest_sums_fit_and_the_bounds_are_met_exactly() {
        for layout in [Layout::Fours, Layout::Sixes] {
            let top = FIELDS_PER_LEAF as u8 * ENTRY_MAX;
            for value in [0, (1 << layout.field_bits()) - 1] {
                let codes = vec![vec![value; FIELDS_MAX]; CODES_PER_BLOCK];
                let mut entries = vec![0; 1 << layout.field_bits()];
                entries[usize::from(value)] = ENTRY_MAX;
                check(layout, &codes, &vec![vec![entries; FIELDS_MAX]; 4], &[0, top, top + 1, u8::MAX])
                    .expect("equal on every path");
            }
        }
    }

    /// Of leaves of random bytes, by what `Averages` says of them.
    #[test]
    fn averages_exceed_sums_by_what_is_said() {
        const CASES: usize = 20_000;
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for fields in [1, 8, 9, 44, 64, 65, 88, 343] {
            let averages = Averages::of(fields);
            let mut excesses = Vec::new();
            for _ in 0..CASES {
                let mut leaves: Vec<u8> =
                    (0..fields.div_ceil(FIELDS_PER_LEAF)).map(|_| random.random_range(0..249)).collect();
                let sum: f64 = leaves.iter().copied().map(f64::from).sum();
                leaves.resize(1 << averages.levels, 0);
                excesses.push(f64::from(average_of(&leaves)) * f64::from(1_u32 << averages.levels) - sum);
            }
            let mean = excesses.iter().sum::<f64>() / CASES as f64;
            let variance = excesses.iter().map(|excess| (excess - mean).powi(2)).sum::<f64>() / CASES as f64;
            let deviation = averages.variance.sqrt();
            assert!((mean - averages.mean).abs() < 0.05 * deviation, "{fields}: {mean}, {averages:?}");
            assert!((variance / averages.variance - 1.0).abs() < 0.05, "{fields}: {variance}, {averages:?}");
        }
    }
}
