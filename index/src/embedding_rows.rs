//! Rows of canonical embeddings and their exact scan for several probes at once.
//!
//! Which rows are live, and what becomes of a score, is for the caller.

use std::fmt;
use std::ops::Range;

use crate::compare::cosine;
use crate::embedding::{CanonicalEmbedding, NORM_FRACTION_BITS, NORM_MAX, NORM_MIN};
use crate::kernel::{self, LINE_COMPONENTS, Line, Path};
use crate::rows::{EnrolmentOrdinal, ROWS_PER_BLOCK, RowBlocks};
use crate::score::ComparisonScore;

/// Probes whose dot products with a block are held at once; the buffer for them stays in the first-level cache.
const PROBES_PER_PASS: usize = 16;

/// Scattered rows that are asked for before they are needed: as many as a processor fetches at once.
const ROWS_AHEAD: usize = 4;

/// Canonical embeddings of one collection in the order of their ordinals. A clone shares the memory.
///
/// A sealed segment is built from these and keeps them for exact re-scoring: sealing copies nothing.
#[derive(Clone)]
pub struct EmbeddingRows {
    dimension: u32,
    /// Lines padded with zero components; the weight of a row is its norm.
    rows: RowBlocks<Line>,
}

impl EmbeddingRows {
    /// No rows yet, of so many components each.
    pub fn new(dimension: u32) -> Self {
        Self { dimension, rows: RowBlocks::new((dimension as usize).div_ceil(LINE_COMPONENTS)) }
    }

    /// Appends a row. The embedding has the rows' dimension; ordinals ascend strictly.
    pub fn push(&mut self, ordinal: EnrolmentOrdinal, embedding: &CanonicalEmbedding) {
        assert_eq!(embedding.dimension(), self.dimension, "a row has the dimension of its rows");
        self.push_components(ordinal, embedding.components(), embedding.norm());
    }

    /// Appends the components and norm of a canonical embedding, as [`Self::row`] gives them.
    pub(crate) fn push_components(&mut self, ordinal: EnrolmentOrdinal, components: &[i16], norm: u32) {
        assert_eq!(components.len(), self.dimension as usize, "a row has the dimension of its rows");
        self.rows.push(ordinal, norm, Line::ZERO, Line::lines_of(components));
    }

    /// The number of components of each row.
    pub fn dimension(&self) -> u32 {
        self.dimension
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row's components, about 32,767 times those of the unit embedding, and its norm (their length times 2¹⁰).
    pub fn row(&self, row: usize) -> (&[i16], u32) {
        let components = Line::components_of(self.rows.cells(row));
        (&components[..self.dimension as usize], self.rows.weight(row))
    }

    /// The enrolment a row belongs to.
    pub fn ordinal(&self, row: usize) -> EnrolmentOrdinal {
        self.rows.ordinal(row)
    }

    /// Bytes of memory held, whoever shares them.
    pub fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes()
    }

    /// The exact score of a row and a probe.
    pub fn score(&self, row: usize, probe: &CanonicalEmbedding) -> ComparisonScore {
        let (components, norm) = self.row(row);
        cosine(kernel::dot(components, probe.components()), norm, probe.norm())
    }

    /// Calls `found(probe, row, score)` for every row of `rows` that reaches the threshold of a probe, probes numbered
    /// as in `probes`. For each probe, rows come in ascending order. Probes have the rows' dimension.
    ///
    /// Costs one pass over the rows for all probes: at 512 dimensions 1 KiB per row.
    pub fn scan(
        &self,
        rows: Range<usize>,
        probes: &[&ScanProbe],
        found: &mut dyn FnMut(usize, usize, ComparisonScore),
    ) {
        self.scan_by(Path::detect(), rows, probes, found);
    }

    pub(crate) fn scan_by(
        &self,
        path: Path,
        rows: Range<usize>,
        probes: &[&ScanProbe],
        found: &mut dyn FnMut(usize, usize, ComparisonScore),
    ) {
        let mut dots = [0; PROBES_PER_PASS * ROWS_PER_BLOCK];
        let mut lines: Vec<&[Line]> = Vec::with_capacity(PROBES_PER_PASS);
        for (rows, cells) in self.rows.strips(rows) {
            let first_row = rows.start;
            for (pass, probes) in probes.chunks(PROBES_PER_PASS).enumerate() {
                lines.clear();
                lines.extend(probes.iter().map(|probe| &*probe.lines));
                let row_count = cells.len() / self.rows.row_width();
                let dots = &mut dots[..probes.len() * row_count];
                kernel::dot_products(path, cells, &lines, dots);
                for (number, (probe, dots)) in probes.iter().zip(dots.chunks_exact(row_count)).enumerate() {
                    // Nearly every block holds nothing for nearly every probe, so the usual answer comes first.
                    if dots.iter().fold(i32::MIN, |max, dot| max.max(*dot)) < probe.dot_min {
                        continue;
                    }
                    for (row, dot) in dots.iter().enumerate().filter(|(_, dot)| **dot >= probe.dot_min) {
                        let score = cosine(*dot, self.rows.weight(first_row + row), probe.norm);
                        if score >= probe.threshold {
                            found(pass * PROBES_PER_PASS + number, first_row + row, score);
                        }
                    }
                }
            }
        }
    }

    /// Calls `found(row, score)` for those of `rows` that reach the threshold of a probe, in the order given. For rows that are scattered:
    /// memory for the next ones is asked for ahead.
    pub fn score_each(&self, rows: &[u32], probe: &ScanProbe, found: &mut dyn FnMut(usize, ComparisonScore)) {
        let path = Path::detect();
        for (place, row) in rows.iter().enumerate() {
            if let Some(later) = rows.get(place + ROWS_AHEAD) {
                kernel::prefetch(self.rows.cells(*later as usize));
            }
            let (row, mut dot) = (*row as usize, [0]);
            kernel::dot_products(path, self.rows.cells(row), &[&probe.lines], &mut dot);
            let [dot] = dot;
            if dot < probe.dot_min {
                continue;
            }
            let score = cosine(dot, self.rows.weight(row), probe.norm);
            if score >= probe.threshold {
                found(row, score);
            }
        }
    }

    pub(crate) fn rows(&self) -> &RowBlocks<Line> {
        &self.rows
    }
}

impl fmt::Debug for EmbeddingRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EmbeddingRows({} of {} components)", self.len(), self.dimension)
    }
}

/// A probe made ready for scanning: padded to whole lines, with the least dot product that may reach its threshold.
pub struct ScanProbe {
    lines: Box<[Line]>,
    norm: u32,
    threshold: ComparisonScore,
    dot_min: i32,
}

impl ScanProbe {
    /// Prepares a probe for one threshold.
    pub fn new(probe: &CanonicalEmbedding, threshold: ComparisonScore) -> Self {
        Self {
            lines: Line::lines_of(probe.components()).collect(),
            norm: probe.norm(),
            threshold,
            dot_min: dot_min(threshold, probe.norm()),
        }
    }
}

impl fmt::Debug for ScanProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ScanProbe({} lines, threshold {})", self.lines.len(), self.threshold)
    }
}

/// The least dot product that may reach `threshold` with a row of any norm; about 0.1 % below what is needed.
///
/// A rounded score reaches T only if dot · 10⁶ · 2²⁰ / (norm · row norm) ≥ T − ½. The row norm that asks least of the
/// dot product is the smallest if T − ½ > 0, the largest otherwise. The lowest threshold is reached by every row, as
/// scores are held to it.
fn dot_min(threshold: ComparisonScore, norm: u32) -> i32 {
    if threshold == ComparisonScore::MIN {
        return i32::MIN;
    }
    let twice = 2 * i128::from(threshold.micros()) - 1;
    let row_norm = if twice > 0 { NORM_MIN } else { NORM_MAX };
    let numerator = twice * i128::from(norm) * i128::from(row_norm);
    let denominator = i128::from(2 * ComparisonScore::MAX.micros()) << (2 * NORM_FRACTION_BITS);
    i32::try_from(numerator.div_euclid(denominator)).expect("at most about 32801²")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::{Comparison, compare};
    use crate::template::{Template, TemplateSpec};

    fn embedding(values: &[f32]) -> Option<CanonicalEmbedding> {
        CanonicalEmbedding::from_f32(values).ok()
    }

    fn score(a: &CanonicalEmbedding, b: &CanonicalEmbedding) -> ComparisonScore {
        let spec = TemplateSpec::Embedding { dimension: a.dimension() };
        match compare(&spec, &Template::Embedding(a.clone()), &Template::Embedding(b.clone())) {
            Comparison::Score(score) => score,
            Comparison::NotComparable => unreachable!("embeddings of one dimension always compare"),
        }
    }

    fn embeddings(
        dimension: usize,
        len: impl Into<prop::collection::SizeRange>,
    ) -> impl Strategy<Value = Vec<CanonicalEmbedding>> {
        // Few distinct components make scores collide with each other and with thresholds.
        let component = prop::sample::select(vec![-1.0_f32, 0.0, 0.5, 1.0]);
        let one =
            prop::collection::vec(component, dimension).prop_filter_map("no direction", |values| embedding(&values));
        prop::collection::vec(one, len)
    }

    fn scenario() -> impl Strategy<Value = (Vec<CanonicalEmbedding>, Vec<CanonicalEmbedding>)> {
        prop::sample::select(vec![2_usize, 5, 32, 40])
            .prop_flat_map(|dimension| (embeddings(dimension, 1..150), embeddings(dimension, 1..20)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Thresholds are scores that occur, so that the prefilter is tried at its edge.
        #[test]
        fn the_scan_finds_what_comparison_finds(
            (references, probes) in scenario(),
            from in 0_usize..150,
            to in 0_usize..150,
            step in -1_i32..2,
        ) {
            let dimension = references[0].dimension();
            let mut rows = EmbeddingRows::new(dimension);
            for (number, embedding) in references.iter().enumerate() {
                rows.push(EnrolmentOrdinal(3 * number as u32), embedding);
            }
            let range = from.min(references.len())..to.clamp(from.min(references.len()), references.len());
            let thresholds: Vec<ComparisonScore> = probes.iter().enumerate().map(|(number, probe)| {
                let exact = score(probe, &references[number % references.len()]).micros();
                ComparisonScore::from_micros((exact + step).clamp(-1_000_000, 1_000_000)).expect("held to the limits")
            }).collect();
            let mut expected = Vec::new();
            for (number, probe) in probes.iter().enumerate() {
                for row in range.clone() {
                    let score = score(probe, &references[row]);
                    prop_assert_eq!(rows.score(row, probe), score);
                    if score >= thresholds[number] {
                        expected.push((number, row, score));
                    }
                }
            }
            let ready: Vec<ScanProbe> = probes.iter().zip(&thresholds).map(|(probe, threshold)| ScanProbe::new(probe, *threshold)).collect();
            let ready: Vec<&ScanProbe> = ready.iter().collect();
            for path in Path::available() {
                let mut found = Vec::new();
                rows.scan_by(*path, range.clone(), &ready, &mut |probe, row, score| found.push((probe, row, score)));
                found.sort_by_key(|(probe, row, _)| (*probe, *row));
                prop_assert_eq!(&found, &expected, "{:?}", path);
            }
            let all: Vec<u32> = range.map(|row| row as u32).collect();
            let mut found = Vec::new();
            for (number, probe) in ready.iter().enumerate() {
                rows.score_each(&all, probe, &mut |row, score| found.push((number, row, score)));
            }
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn every_row_reaches_the_lowest_threshold() {
        let mut rows = EmbeddingRows::new(2);
        let opposite = embedding(&[-1.0, -1.0]).expect("valid");
        rows.push(EnrolmentOrdinal(0), &opposite);
        let probe = ScanProbe::new(&embedding(&[1.0, 1.0]).expect("valid"), ComparisonScore::MIN);
        let mut found = Vec::new();
        rows.scan(0..1, &[&probe], &mut |probe, row, score| found.push((probe, row, score)));
        assert_eq!(found, [(0, 0, ComparisonScore::MIN)]);
    }

    #[test]
    fn a_clone_does_not_see_later_rows() {
        let mut rows = EmbeddingRows::new(2);
        let one = embedding(&[1.0, 0.0]).expect("valid");
        for ordinal in 0..100 {
            rows.push(EnrolmentOrdinal(ordinal), &one);
        }
        let before = rows.clone();
        rows.push(EnrolmentOrdinal(100), &embedding(&[0.0, 1.0]).expect("valid"));
        assert_eq!((before.len(), rows.len()), (100, 101));
        assert_eq!(before.rows().row_of(EnrolmentOrdinal(100)), None);
        assert_eq!(rows.rows().row_of(EnrolmentOrdinal(100)), Some(100));
        assert_eq!(rows.row(100).0, [0, 32_767]);
        assert_eq!(rows.ordinal(63), EnrolmentOrdinal(63));
    }
}
