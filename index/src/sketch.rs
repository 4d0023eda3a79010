//! The `sketch` engine: one bit for each component of a template, an estimate of the cosine with a known error, and an exhaustive scan.
//!
//! # The estimate
//!
//! RaBitQ (Gao & Long, *RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor
//! Search*, SIGMOD 2024), for unit vectors that a random rotation has turned, as every template here. Of a reference x the code keeps the
//! signs s ∈ {−1, 1}ᵈ/√d and the *alignment* f = ⟨x, s⟩, about √(2/π). Write a probe as q = c·x + √(1 − c²)·u with u ⊥ x, both of
//! length one. Then
//!
//! ⟨q, s⟩ = c·f + √(1 − c²)·√(1 − f²)·t,
//!
//! where t is the component of u along a direction that is orthogonal to x. Under a random rotation, t is a component of a uniformly random
//! direction in d − 1 dimensions: its mean is 0, its deviation 1/√(d − 1), and from two deviations on it goes beyond k of them less often
//! than a normal number does. So ⟨q, s⟩/f estimates the cosine without bias, and a mate at the threshold T falls below
//!
//! g(f) = T·f − k·√((1 − T²)(1 − f²)/(d − 1) + ρ²)
//!
//! with a probability of at most the miss budget, where k is the normal quantile of the budget; mates above T do so less often. ρ² is the
//! variance that the rounding of lookup tables adds. g is convex in f, so its tangent at √(2/π) lies below it everywhere: rows are judged by
//! that line. Nothing is measured at sealing, and a change of policy recomputes nothing.
//!
//! # The guard
//!
//! All of this rests on templates that a random rotation has turned. Every segment therefore looks at pairs of its own rows when it is built:
//! where their t spreads wider than it must, k grows in proportion, and the segment proposes more. It sees how people differ from each
//! other, not how captures of one person do. And a share is one over all keys: that of one gallery's key may be a little larger or smaller.
//!
//! How probes are compared with codes is in `probe`, which kernels add up in `kernel::sketch`.

mod probe;

use std::fmt;
use std::sync::Arc;

use crate::embedding_rows::EmbeddingRows;
use crate::kernel::sketch::{Bytes, CODES_PER_BLOCK, COMPONENTS_MAX, Layout, PROBES_PER_PASS, Reached, reach};
use crate::kernel::{self, Path};
use crate::score::ComparisonScore;
use crate::segment::{BuildError, Calibration, Engine, EngineProbe, MISS_BUDGET_PPB_MAX, Proposal, Segment};
pub(crate) use probe::SketchProbe;
use probe::{Alignment, Line};

/// The fewest components: below, a normal number is no good bound of t, and an exact scan is cheap.
const DIMENSION_MIN: u32 = 64;
/// The fewest rows of a segment; fewer are scanned exactly as fast.
const REFERENCES_MIN: usize = 256;
/// Blocks that all probes of a search pass over before the next ones: 256 KiB at 512 components, which a second-level cache holds.
const BLOCKS_PER_TILE: usize = 32;
/// Passes over a tile from which the next one is asked for ahead.
const PASSES_TO_PREFETCH: usize = 4;
/// A segment is scanned exactly for a probe of which it would propose more than one row in so many: re-scoring scattered rows costs several
/// times what the exact scan of a batch does for each.
const PROPOSALS_SHARE: usize = 16;
/// Pairs of rows that a segment is guarded by.
const GUARD_PAIRS: usize = 4096;
/// Of as many normal numbers, the largest is beyond this once in ten times.
const GUARD_LARGEST: f64 = 4.2;

const FORMAT: u8 = 1;

/// Builds segments of sign codes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SketchEngine;

const NAME: &str = "sketch";

/// Sign codes of a segment's rows.
pub(crate) struct SketchSegment {
    dimension: u32,
    rows: usize,
    path: Path,
    /// `block_lines` of each block of rows. A bit is 1 where the component is not negative; those of rows beyond the last are 0.
    codes: Vec<Bytes>,
    /// ⟨x, s⟩ of each row.
    alignments: Vec<Alignment>,
    /// The least of each tile.
    alignments_min: Vec<Alignment>,
    /// How much wider t spreads among the rows than a random rotation would have it; at least 1.
    spread: f64,
}

impl SketchSegment {
    fn empty(dimension: u32, rows: usize, path: Path) -> Self {
        let blocks = rows.div_ceil(CODES_PER_BLOCK);
        let codes = vec![Bytes::ZERO; blocks * Layout::of(path).block_lines(dimension as usize)];
        let alignments_min = vec![Alignment::MAX; blocks.div_ceil(BLOCKS_PER_TILE)];
        let alignments = Vec::with_capacity(rows);
        Self { dimension, rows, path, codes, alignments, alignments_min, spread: 1.0 }
    }

    fn block_lines(&self) -> usize {
        Layout::of(self.path).block_lines(self.dimension as usize)
    }

    /// Appends a row, of which there is still one missing.
    fn push(&mut self, signs: impl Iterator<Item = bool>, alignment: Alignment) {
        let row = self.alignments.len();
        let (number, code, lines) = (row / CODES_PER_BLOCK, row % CODES_PER_BLOCK, self.block_lines());
        let block = &mut self.codes[number * lines..(number + 1) * lines];
        for (component, _) in signs.enumerate().filter(|(_, is_set)| *is_set) {
            Layout::of(self.path).set(block, code, component);
        }
        let least = &mut self.alignments_min[number / BLOCKS_PER_TILE];
        *least = alignment.min(*least);
        self.alignments.push(alignment);
    }

    /// `None` where the guard cannot tell.
    fn build(rows: &EmbeddingRows, path: Path) -> Option<Self> {
        let mut segment = Self::empty(rows.dimension(), rows.len(), path);
        for row in 0..rows.len() {
            let (components, norm) = rows.row(row);
            segment.push(components.iter().map(|component| *component >= 0), Alignment::of(components, norm));
        }
        segment.spread = spread(rows)?;
        Some(segment)
    }

    /// Rows that reach the line of each probe, ascending; `None` once they are more than a share of all rows.
    fn scan(&self, probes: &[(&SketchProbe, Line)]) -> Vec<Option<Vec<u32>>> {
        let rows_max = self.rows / PROPOSALS_SHARE;
        let mut found: Vec<Option<Vec<u32>>> = probes.iter().map(|_| Some(Vec::new())).collect();
        let mut reached = Reached::new();
        let tile_lines = BLOCKS_PER_TILE * self.block_lines();
        for (tile, lines) in self.codes.chunks(tile_lines).enumerate() {
            let mut coming = self.codes.chunks(tile_lines).nth(tile + 1).unwrap_or_default();
            let open: Vec<usize> = (0..probes.len()).filter(|probe| found[*probe].is_some()).collect();
            // The next tile comes in while several passes look at this one, a part of it with every block. One pass alone asks for memory as
            // fast as it comes.
            let passes = open.len().div_ceil(PROBES_PER_PASS);
            let lines_at_once = if passes < PASSES_TO_PREFETCH { 0 } else { self.block_lines().div_ceil(passes) };
            for pass in open.chunks(PROBES_PER_PASS) {
                let tables: Vec<&[Bytes]> = pass.iter().map(|probe| probes[*probe].0.tables()).collect();
                // One bound for the tile: the few more rows that reach it are judged by their own alignment.
                let least: Vec<u16> =
                    pass.iter().map(|probe| probes[*probe].1.least(self.alignments_min[tile])).collect();
                for (number, block) in lines.chunks_exact(self.block_lines()).enumerate() {
                    let (now, later) = coming.split_at(lines_at_once.min(coming.len()));
                    kernel::prefetch(now);
                    coming = later;
                    reach(self.path, block, &tables, &least, &mut reached);
                    for (place, probe) in pass.iter().enumerate().filter(|(place, _)| reached.codes[*place] != 0) {
                        let number = tile * BLOCKS_PER_TILE + number;
                        let (codes, sums) = (reached.codes[place], &reached.sums[place]);
                        if let Some(rows) = &mut found[*probe] {
                            self.judge(number, codes, sums, probes[*probe].1, rows);
                        }
                    }
                }
                for probe in pass {
                    found[*probe].take_if(|rows| rows.len() > rows_max);
                }
            }
        }
        found
    }

    /// Adds the rows of a block that reach the line with their own alignment.
    fn judge(&self, block: usize, mut codes: u128, sums: &[u16; CODES_PER_BLOCK], line: Line, rows: &mut Vec<u32>) {
        while codes != 0 {
            let code = codes.trailing_zeros() as usize;
            codes &= codes - 1;
            let row = block * CODES_PER_BLOCK + code;
            // The last block may have fewer rows than codes.
            if let Some(alignment) = self.alignments.get(row)
                && sums[code] >= line.least(*alignment)
            {
                rows.push(row as u32);
            }
        }
    }

    /// Bytes that a row takes in a file: its bits, the first component lowest, and its alignment.
    fn row_bytes(dimension: u32) -> usize {
        (dimension as usize).div_ceil(8) + size_of::<Alignment>()
    }
}

/// How much wider t spreads among pairs of rows than under a random rotation, at least 1; `None` where most pairs are alike.
fn spread(rows: &EmbeddingRows) -> Option<f64> {
    let pairs = GUARD_PAIRS.min(rows.len().saturating_sub(1));
    let (mut squares, mut counted, mut largest) = (0.0, 0, 0.0_f64);
    for pair in 0..pairs {
        let row = pair * rows.len() / pairs;
        // Neighbours were enrolled together, and may be alike.
        let other = (row + rows.len() / 2 + pair % 7) % rows.len();
        if let Some(t) = deviation(rows.row(row), rows.row(other)) {
            squares += t * t;
            largest = largest.max(t.abs());
            counted += 1;
        }
    }
    let deviation = (squares / f64::from(counted)).sqrt();
    (2 * counted as usize >= pairs && pairs > 0).then(|| deviation.max(largest / GUARD_LARGEST).max(1.0))
}

/// t·√(d − 1) of a row and another one for a probe; `None` where one of them points along the other, or all along the signs.
fn deviation(row: (&[i16], u32), other: (&[i16], u32)) -> Option<f64> {
    const ASIDE_MIN: f64 = 1e-3;
    let ((x, x_norm), (q, q_norm)) = (row, other);
    let dimension = x.len() as f64;
    let (x_length, q_length) = (f64::from(x_norm) / 1024.0, f64::from(q_norm) / 1024.0);
    let (mut cosine, mut along_signs, mut alignment) = (0.0, 0.0, 0.0);
    for (x, q) in x.iter().zip(q) {
        let sign = if *x >= 0 { 1.0 } else { -1.0 };
        cosine += f64::from(*x) * f64::from(*q);
        along_signs += sign * f64::from(*q);
        alignment += f64::from(x.unsigned_abs());
    }
    cosine /= x_length * q_length;
    along_signs /= q_length * dimension.sqrt();
    alignment /= x_length * dimension.sqrt();
    let aside = ((1.0 - cosine * cosine).max(0.0) * (1.0 - alignment * alignment).max(0.0)).sqrt();
    (aside > ASIDE_MIN).then(|| (along_signs - cosine * alignment) / aside * (dimension - 1.0).sqrt())
}

impl Engine for SketchEngine {
    fn name(&self) -> &str {
        NAME
    }

    fn references_min(&self, dimension: u32) -> usize {
        if dimension >= DIMENSION_MIN && dimension as usize <= COMPONENTS_MAX { REFERENCES_MIN } else { usize::MAX }
    }

    fn build(&self, rows: Arc<EmbeddingRows>, _calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        let references = rows.len();
        if references < self.references_min(rows.dimension()) {
            let reason =
                format!("needs {REFERENCES_MIN} references or more of {DIMENSION_MIN} to {COMPONENTS_MAX} components");
            return Err(BuildError { engine: NAME.to_owned(), references, reason });
        }
        let segment = SketchSegment::build(&rows, Path::detect()).ok_or_else(|| {
            let reason = "its rows are too much alike to tell how far estimates err".to_owned();
            BuildError { engine: NAME.to_owned(), references, reason }
        })?;
        Ok(Box::new(segment))
    }

    fn fingerprint(&self, _dimension: u32) -> String {
        format!("{NAME} {FORMAT}")
    }

    fn restore(&self, dimension: u32, rows: usize, bytes: &[u8]) -> Result<Box<dyn Segment>, BuildError> {
        restore(dimension, rows, bytes, Path::detect()).map_or_else(
            || {
                let reason = "the codes are not understood".to_owned();
                Err(BuildError { engine: NAME.to_owned(), references: rows, reason })
            },
            |segment| Ok(Box::new(segment) as Box<dyn Segment>),
        )
    }
}

fn restore(dimension: u32, rows: usize, bytes: &[u8], path: Path) -> Option<SketchSegment> {
    let (FORMAT, rest) = bytes.split_first().map(|(format, rest)| (*format, rest))? else { return None };
    let (spread, rest) = rest.split_first_chunk()?;
    let spread = f64::from_le_bytes(*spread);
    if !(DIMENSION_MIN as usize..=COMPONENTS_MAX).contains(&(dimension as usize)) {
        return None;
    }
    let row_bytes = SketchSegment::row_bytes(dimension);
    if rest.len() != row_bytes.checked_mul(rows)? || !spread.is_finite() || spread < 1.0 {
        return None;
    }
    let mut segment = SketchSegment { spread, ..SketchSegment::empty(dimension, rows, path) };
    for row in rest.chunks_exact(row_bytes) {
        let (code, alignment) = row.split_last_chunk()?;
        let alignment = Alignment(u16::from_le_bytes(*alignment));
        let signs = code.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        segment.push(signs.take(dimension as usize), alignment);
    }
    Some(segment)
}

impl Segment for SketchSegment {
    fn engine(&self) -> &str {
        NAME
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.codes) + size_of_val(&*self.alignments) + size_of_val(&*self.alignments_min)
    }

    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, miss_budget_ppb: u32) -> Vec<Proposal> {
        assert!(
            probes.iter().all(|probe| probe.embedding().dimension() == self.dimension),
            "probes have the rows' dimension"
        );
        if miss_budget_ppb == 0 || threshold <= ComparisonScore::ZERO {
            return vec![Proposal::ScanExactly; probes.len()];
        }
        let deviations = probe::quantile(f64::from(miss_budget_ppb.min(MISS_BUDGET_PPB_MAX)) * 1e-9) * self.spread;
        let ready: Vec<(&SketchProbe, Line)> = probes
            .iter()
            .map(|probe| {
                let sketch = probe.sketch();
                (sketch, sketch.line(threshold, deviations))
            })
            .collect();
        let rows = self.scan(&ready).into_iter();
        rows.map(|rows| rows.map_or(Proposal::ScanExactly, Proposal::Rows)).collect()
    }

    /// The line follows from the threshold and the budget alone.
    fn is_calibrated(&self, _calibration: &Calibration) -> bool {
        true
    }

    /// Format, spread, and the rows, numbers little-endian: the same on every processor.
    fn to_bytes(&self) -> Result<Option<Vec<u8>>, BuildError> {
        let mut bytes = Vec::with_capacity(9 + self.rows * SketchSegment::row_bytes(self.dimension));
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.spread.to_le_bytes());
        let (layout, lines, dimension) = (Layout::of(self.path), self.block_lines(), self.dimension as usize);
        for (row, alignment) in self.alignments.iter().enumerate() {
            let block = &self.codes[row / CODES_PER_BLOCK * lines..][..lines];
            let bit = |component| u8::from(layout.is_set(block, row % CODES_PER_BLOCK, component)) << (component % 8);
            let byte =
                |first: usize| (first..dimension.min(first + 8)).fold(0, |byte, component| byte | bit(component));
            bytes.extend((0..dimension).step_by(8).map(byte));
            bytes.extend_from_slice(&alignment.0.to_le_bytes());
        }
        Ok(Some(bytes))
    }
}

impl fmt::Debug for SketchSegment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SketchSegment")
            .field("references", &self.rows)
            .field("dimension", &self.dimension)
            .field("spread", &self.spread)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::embedding::CanonicalEmbedding;
    use crate::rows::EnrolmentOrdinal;

    fn rows(count: u32, dimension: usize) -> EmbeddingRows {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut rows = EmbeddingRows::new(dimension as u32);
        for ordinal in 0..count {
            let values: Vec<f32> = (0..dimension).map(|_| random.random_range(-1.0..1.0)).collect();
            rows.push(EnrolmentOrdinal(ordinal), &CanonicalEmbedding::from_f32(&values).expect("valid"));
        }
        rows
    }

    /// Segments are copied between machines, and replicas on different processors must propose alike.
    #[test]
    fn every_path_writes_the_same_bytes_and_proposes_the_same_rows() {
        for (count, dimension) in [(300, 64), (517, 190), (256, 512)] {
            let rows = rows(count, dimension);
            let probes: Vec<CanonicalEmbedding> = (0..7)
                .map(|row| CanonicalEmbedding::from_components(rows.row(row * 30).0).expect("canonical"))
                .collect();
            let threshold = ComparisonScore::from_micros(350_000).expect("in range");
            let mut seen = Vec::new();
            for path in Path::available() {
                let built = SketchSegment::build(&rows, *path).expect("they differ");
                let bytes = built.to_bytes().expect("kept").expect("kept");
                for segment in
                    [&built, &restore(dimension as u32, count as usize, &bytes, *path).expect("its own bytes")]
                {
                    let sketches: Vec<SketchProbe> = probes.iter().map(|probe| SketchProbe::by(*path, probe)).collect();
                    let lines = sketches.iter().map(|sketch| (sketch, sketch.line(threshold, 4.0))).collect::<Vec<_>>();
                    seen.push((bytes.clone(), segment.scan(&lines)));
                }
            }
            assert!(
                seen[0]
                    .1
                    .iter()
                    .enumerate()
                    .all(|(probe, rows)| rows.as_ref().is_none_or(|rows| rows.contains(&(probe as u32 * 30))))
            );
            assert!(seen.iter().all(|other| *other == seen[0]), "{count} x {dimension}");
        }
    }

    #[test]
    fn rows_that_nothing_has_turned_are_found_to_spread_wider() {
        assert!(spread(&rows(2_000, 256)).is_some_and(|spread| spread < 1.1));
        // Every component is of one sign: the signs tell nothing, and probes lie along them.
        let mut one_sided = EmbeddingRows::new(256);
        let mut random = ChaCha8Rng::seed_from_u64(6);
        for ordinal in 0..2_000 {
            let values: Vec<f32> = (0..256).map(|_| random.random_range(0.0..1.0)).collect();
            one_sided.push(EnrolmentOrdinal(ordinal), &CanonicalEmbedding::from_f32(&values).expect("valid"));
        }
        assert!(spread(&one_sided).is_some_and(|spread| spread > 2.0));
        let mut alike = EmbeddingRows::new(64);
        let one = CanonicalEmbedding::from_f32(&[1.0; 64]).expect("valid");
        (0..300).for_each(|ordinal| alike.push(EnrolmentOrdinal(ordinal), &one));
        let refused = SketchEngine.build(Arc::new(alike), &Calibration::default()).expect_err("nothing can be told");
        assert!(refused.to_string().contains("too much alike"), "{refused}");
    }

    #[test]
    fn bytes_of_another_form_are_refused() {
        let rows = rows(256, 64);
        let bytes =
            SketchSegment::build(&rows, Path::Portable).expect("they differ").to_bytes().expect("kept").expect("kept");
        let refused = |dimension: u32, rows: usize, bytes: &[u8]| {
            assert!(SketchEngine.restore(dimension, rows, bytes).is_err(), "{dimension}, {rows}");
        };
        refused(64, 256, &[]);
        refused(64, 256, &bytes[1..]);
        refused(64, 255, &bytes);
        refused(72, 256, &bytes);
        refused(0, 0, &bytes[..9]);
        refused(5_000, 0, &bytes[..9]);
        refused(64, usize::MAX, &bytes);
        refused(64, 256, &[&[FORMAT + 1], &bytes[1..]].concat());
        refused(64, 256, &[&bytes[..1], &f64::NAN.to_le_bytes(), &bytes[9..]].concat());
        assert!(SketchEngine.restore(64, 256, &bytes).is_ok());
    }
}
