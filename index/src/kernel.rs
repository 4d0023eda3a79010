//! Processor-specific inner loops: dot products of rows and probes, in `binary` counts of differing bits under masks, in `sketch` sums over
//! the short codes of many rows, in `tails` over the longer ones of few.
//!
//! The only module of this crate with `unsafe`. Every path computes the same integers as its portable twin, whatever
//! the processor, and the tests hold them to it. What the numbers mean lives in `compare`.

pub(crate) mod binary;
pub(crate) mod sketch;
pub(crate) mod tails;

/// Components in a [`Line`].
pub(crate) const LINE_COMPONENTS: usize = 32;

/// One cache line of an embedding's components. Rows are padded with zero components to whole lines.
/// No `Debug`: it would print a template.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [i16; LINE_COMPONENTS]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; LINE_COMPONENTS]);

    /// The components as lines, the last padded with zeros.
    pub(crate) fn lines_of(components: &[i16]) -> impl Iterator<Item = Self> + '_ {
        components.chunks(LINE_COMPONENTS).map(|chunk| {
            let mut line = Self::ZERO;
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        })
    }

    /// The lines as components, padding included.
    pub(crate) fn components_of(lines: &[Self]) -> &[i16] {
        // SAFETY: a line is exactly its 32 components (repr(C), size 64, no padding) and at least as aligned as one,
        // so the same memory holds 32 initialised components per line, borrowed for as long.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<i16>(), lines.len() * LINE_COMPONENTS) }
    }
}

const _: () = assert!(size_of::<Line>() == LINE_COMPONENTS * size_of::<i16>());

/// The instructions a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Path {
    /// The fastest this processor has.
    pub(crate) fn detect() -> Self {
        *Self::available().last().expect("the portable path is always there")
    }

    /// All this processor has, the slowest first.
    pub(crate) fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512vpopcntdq");
            match (avx2, avx512) {
                (true, true) => &[Self::Portable, Self::Avx2, Self::Avx512],
                (true, false) => &[Self::Portable, Self::Avx2],
                (false, _) => &[Self::Portable],
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            &[Self::Portable]
        }
    }
}

/// The name of the instructions that scans use on this processor: `avx512`, `avx2` or `portable`.
pub fn kernel_path() -> &'static str {
    match Path::detect() {
        Path::Portable => "portable",
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => "avx2",
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => "avx512",
    }
}

/// Asks for memory to be brought into the second-level cache, where the processor can be asked.
///
/// One line after another: a Zen 4 that is asked for eight lines in a burst, as the compiler would have it, takes longer over a scan that no
/// cache holds than one that is asked for none.
pub(crate) fn prefetch<T>(lines: &[T]) {
    const { assert!(64 % size_of::<T>() == 0 && align_of::<T>() >= size_of::<T>(), "no item crosses cache lines") };
    #[cfg(target_arch = "x86_64")]
    for line in lines {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        use std::hint::black_box;
        // SAFETY: every x86-64 has SSE, and a prefetch of any address changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(black_box(line)).cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = lines;
}

/// Room for so many items, which lies in large pages where the system gives them when it is asked (Linux with transparent huge pages set to
/// `madvise` or `always`). What a scan reads of many megabytes, it then finds faster: fewer addresses to translate, and no neighbours torn apart.
pub(crate) fn reserved<T>(items: usize) -> Vec<T> {
    let room: Vec<T> = Vec::with_capacity(items);
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        const LARGE_PAGE: usize = 2 << 20;
        let start = room.as_ptr().addr().next_multiple_of(PAGE);
        let bytes = (room.as_ptr().addr() + items * size_of::<T>()).saturating_sub(start) / PAGE * PAGE;
        if bytes >= LARGE_PAGE {
            let start = room.as_ptr().with_addr(start).cast_mut().cast::<libc::c_void>();
            // SAFETY: these are whole pages within the vector's own memory. The advice changes what they are backed by, not what they hold; if
            // it is refused, as by systems with larger pages or without large ones, nothing has changed.
            unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
        }
    }
    room
}

/// The dot product of two embeddings. Additions wrap, but never do: see the proof in `embedding`.
pub(crate) fn dot(a: &[i16], b: &[i16]) -> i32 {
    assert_eq!(a.len(), b.len(), "only equal dimensions are compared");
    a.iter().zip(b).fold(0, |sum: i32, (a, b)| sum.wrapping_add(i32::from(*a).wrapping_mul(i32::from(*b))))
}

/// The dot products of every probe with every row: that of probe p and row r goes to `dots[p * rows + r]`.
///
/// `rows` holds whole rows one after another, each as long as each probe, which is at least one line.
pub(crate) fn dot_products(path: Path, rows: &[Line], probes: &[&[Line]], dots: &mut [i32]) {
    let Some(lines_per_row) = probes.first().map(|probe| probe.len()) else { return };
    assert!(lines_per_row > 0, "a row has at least one line");
    assert!(probes.iter().all(|probe| probe.len() == lines_per_row), "probes are of equal length");
    assert_eq!(rows.len() % lines_per_row, 0, "rows are whole");
    assert_eq!(dots.len(), rows.len() / lines_per_row * probes.len(), "one dot product per pair");
    let row_count = rows.len() / lines_per_row;
    if row_count == 0 {
        return;
    }
    match path {
        Path::Portable => {
            for (probe, dots) in probes.iter().zip(dots.chunks_exact_mut(row_count)) {
                for (row, into) in rows.chunks_exact(lines_per_row).zip(dots) {
                    *into = dot(Line::components_of(row), Line::components_of(probe));
                }
            }
        }
        // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::dot_products_avx2(rows, probes, dots) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::dot_products_avx512(rows, probes, dots) },
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Rows and probes are multiplied in tiles that fit the registers, so that each line loaded is used several times.

    use std::arch::x86_64::*;

    use super::Line;

    /// Calls a tile kernel over all rows and probes: full tiles first, then single rows, then single probes.
    macro_rules! tiled {
        ($rows:expr, $probes:expr, $dots:expr, $tile:ident) => {{
            let lines_per_row = $probes[0].len();
            let row_count = $rows.len() / lines_per_row;
            let row_at = |row: usize| &$rows[row * lines_per_row..(row + 1) * lines_per_row];
            let mut probe = 0;
            while probe < $probes.len() {
                let width = if $probes.len() - probe >= 4 { 4 } else { 1 };
                let mut row = 0;
                while row < row_count {
                    let height = if row_count - row >= 4 { 4 } else { 1 };
                    match (height, width) {
                        (4, 4) => {
                            let tile = $tile::<4, 4>(
                                [row_at(row), row_at(row + 1), row_at(row + 2), row_at(row + 3)],
                                [$probes[probe], $probes[probe + 1], $probes[probe + 2], $probes[probe + 3]],
                            );
                            for (r, line) in tile.iter().enumerate() {
                                for (p, value) in line.iter().enumerate() {
                                    $dots[(probe + p) * row_count + row + r] = *value;
                                }
                            }
                        }
                        (4, _) => {
                            let tile = $tile::<1, 4>(
                                [$probes[probe]],
                                [row_at(row), row_at(row + 1), row_at(row + 2), row_at(row + 3)],
                            );
                            for (r, value) in tile[0].iter().enumerate() {
                                $dots[probe * row_count + row + r] = *value;
                            }
                        }
                        (_, 4) => {
                            let tile = $tile::<1, 4>(
                                [row_at(row)],
                                [$probes[probe], $probes[probe + 1], $probes[probe + 2], $probes[probe + 3]],
                            );
                            for (p, value) in tile[0].iter().enumerate() {
                                $dots[(probe + p) * row_count + row] = *value;
                            }
                        }
                        (_, _) => {
                            let single = $probes[probe];
                            let tile = $tile::<1, 4>([row_at(row)], [single, single, single, single]);
                            $dots[probe * row_count + row] = tile[0][0];
                        }
                    }
                    row += height;
                }
                probe += width;
            }
        }};
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot_products_avx2(rows: &[Line], probes: &[&[Line]], dots: &mut [i32]) {
        tiled!(rows, probes, dots, tile_avx2);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
    pub(super) fn dot_products_avx512(rows: &[Line], probes: &[&[Line]], dots: &mut [i32]) {
        tiled!(rows, probes, dots, tile_avx512);
    }

    /// The dot products of each of `left` with each of four `right`, all of equal length.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tile_avx2<const L: usize, const R: usize>(left: [&[Line]; L], right: [&[Line]; R]) -> [[i32; R]; L] {
        const { assert!(R == 4) };
        let mut dots = [[0; R]; L];
        // Two of `left` at a time: eight sums, two lines of left and one of right stay within sixteen registers.
        let mut start = 0;
        while start < L {
            let second = if start + 1 < L { start + 1 } else { start };
            let mut sums = [[_mm256_setzero_si256(); 4]; 2];
            for line in 0..left[start].len() {
                let (first_line, second_line) = (&left[start][line], &left[second][line]);
                let right_lines = [&right[0][line], &right[1][line], &right[2][line], &right[3][line]];
                for half in 0..2 {
                    let (a, b) = (load_256(first_line, half), load_256(second_line, half));
                    for (r, right_line) in right_lines.iter().enumerate() {
                        let c = load_256(right_line, half);
                        sums[0][r] = _mm256_add_epi32(sums[0][r], _mm256_madd_epi16(a, c));
                        if L > 1 {
                            sums[1][r] = _mm256_add_epi32(sums[1][r], _mm256_madd_epi16(b, c));
                        }
                    }
                }
            }
            dots[start].copy_from_slice(&sum_lanes(sums[0]));
            if L > 1 {
                dots[second].copy_from_slice(&sum_lanes(sums[1]));
            }
            start += 2;
        }
        dots
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
    #[inline]
    fn tile_avx512<const L: usize, const R: usize>(left: [&[Line]; L], right: [&[Line]; R]) -> [[i32; R]; L] {
        const { assert!(R == 4) };
        let mut sums = [[_mm512_setzero_si512(); 4]; L];
        for line in 0..left[0].len() {
            let mut right_lines = [_mm512_setzero_si512(); 4];
            for r in 0..4 {
                right_lines[r] = load_512(&right[r][line]);
            }
            for l in 0..L {
                let a = load_512(&left[l][line]);
                for r in 0..4 {
                    sums[l][r] = _mm512_dpwssd_epi32(sums[l][r], a, right_lines[r]);
                }
            }
        }
        let mut dots = [[0; R]; L];
        for l in 0..L {
            let mut halves = [_mm256_setzero_si256(); 4];
            for r in 0..4 {
                let (low, high) = (_mm512_castsi512_si256(sums[l][r]), _mm512_extracti64x4_epi64::<1>(sums[l][r]));
                halves[r] = _mm256_add_epi32(low, high);
            }
            dots[l].copy_from_slice(&sum_lanes(halves));
        }
        dots
    }

    /// The sum of the eight lanes of each of four registers.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn sum_lanes(sums: [__m256i; 4]) -> [i32; 4] {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        let four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        [
            _mm_extract_epi32::<0>(four),
            _mm_extract_epi32::<1>(four),
            _mm_extract_epi32::<2>(four),
            _mm_extract_epi32::<3>(four),
        ]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load_256(line: &Line, half: usize) -> __m256i {
        let halves = line.0.as_chunks::<16>().0;
        // SAFETY: half a line is 32 bytes, and at 0 or 32 bytes of a 64-byte aligned line it is 32-byte aligned.
        unsafe { _mm256_load_si256(halves[half].as_ptr().cast::<__m256i>()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load_512(line: &Line) -> __m512i {
        // SAFETY: a line is 64 bytes, 64-byte aligned.
        unsafe { _mm512_load_si512(line.0.as_ptr().cast::<__m512i>()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Components as large as normalised embeddings permit: one long component, the others small.
    fn embedding(seed: &[i16]) -> Vec<i16> {
        let mut components: Vec<i16> = seed.iter().map(|value| value / 256).collect();
        components[seed.len() / 2] = if seed[0] < 0 { -32_000 } else { 32_000 };
        components
    }

    fn product(a: &[i16], b: &[i16]) -> i32 {
        a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    }

    fn lines(components: &[i16]) -> Vec<Line> {
        Line::lines_of(components).collect()
    }

    #[test]
    fn lines_hold_the_components_and_zeros() {
        let components: Vec<i16> = (1..=70).collect();
        let lines = lines(&components);
        assert_eq!(lines.len(), 3);
        assert_eq!(Line::components_of(&lines)[..70], components);
        assert_eq!(Line::components_of(&lines)[70..], [0; 26]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_gives_the_portable_dot_products(
            dimension in prop::sample::select(vec![2_usize, 31, 32, 33, 96, 256, 512]),
            row_count in 0_usize..11,
            probe_count in 0_usize..11,
            seed in prop::collection::vec(any::<i16>(), 512),
        ) {
            let turned = |turn: usize| {
                let mut seed = seed.clone();
                seed.rotate_left(turn);
                embedding(&seed[..dimension])
            };
            let rows: Vec<Vec<i16>> = (0..row_count).map(|row| turned(7 * row)).collect();
            let probes: Vec<Vec<i16>> = (0..probe_count).map(|probe| turned(200 + 11 * probe)).collect();
            let row_lines: Vec<Line> = rows.iter().flat_map(|row| lines(row)).collect();
            let probe_lines: Vec<Vec<Line>> = probes.iter().map(|probe| lines(probe)).collect();
            let probe_lines: Vec<&[Line]> = probe_lines.iter().map(Vec::as_slice).collect();
            let expected: Vec<i32> = probes
                .iter()
                .flat_map(|probe| rows.iter().map(|row| product(row, probe)))
                .collect();
            for path in Path::available() {
                let mut dots = vec![i32::MIN; rows.len() * probes.len()];
                dot_products(*path, &row_lines, &probe_lines, &mut dots);
                prop_assert_eq!(&dots, &expected, "{:?}", path);
            }
        }
    }
}
