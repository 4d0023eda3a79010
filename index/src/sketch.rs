//! The `sketch` engine: one bit for each component of a template, an estimate of the cosine with a known error, and an exhaustive scan.
//!
//! # The estimate
//!
//! RaBitQ (Gao & Long, *RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor
//! Search*, SIGMOD 2024), for unit vectors that a random rotation has turned, as every template here. Of a reference x the code keeps the
//! signs s ∈ {−1, 1}ᵈ/√d and the *alignment* f = ⟨x, s⟩, about √(2/π). Of some of the components, a share v of all, s keeps those signs
//! alone, has length √v, and f is about √(2/π)·v. Write a probe as q = c·x + √(1 − c²)·u with u ⊥ x, both of length one. Then
//!
//! ⟨q, s⟩ = c·f + √(1 − c²)·√(v − f²)·t,
//!
//! where t is the component of u along a direction that is orthogonal to x. Under a random rotation, t is a component of a uniformly random
//! direction in d − 1 dimensions: its mean is 0, its deviation 1/√(d − 1), and from two deviations on it goes beyond k of them less often
//! than a normal number does. So ⟨q, s⟩/f estimates the cosine without bias, and a mate at the threshold T falls below
//!
//! g(f) = T·f − k·√((1 − T²)(v − f²)/(d − 1) + ρ²)
//!
//! with a probability of at most p, where k is the normal quantile of p; mates above T do so less often. ρ² is the variance that the rounding
//! of lookup tables adds. g is convex in f, so its tangent at √(2/π)·v lies below it everywhere: rows are judged by that line. Nothing is
//! measured at sealing, and a change of policy recomputes nothing.
//!
//! # Heads and tails
//!
//! A row is judged by the *head* of its code first, two thirds of it, which is all that a scan reads of most rows: among strangers of 512
//! components and at a threshold of 0.42, of all but a few in a thousand. Of those the *tail* is looked at, and the whole code judged. A mate
//! falls short of either line in half as many cases as the miss budget allows.
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
use crate::kernel::sketch::{
    Bytes, CODES_PER_BLOCK, COMPONENTS_MAX, Layout, Least, PROBES_PER_PASS, Reached, TailPiece, reach, set_alignment,
    tail_pieces,
};
use crate::kernel::{self, Path};
use crate::score::ComparisonScore;
use crate::segment::{BuildError, Calibration, Engine, EngineProbe, MISS_BUDGET_PPB_MAX, Proposal, Segment};
pub(crate) use probe::SketchProbe;
use probe::{Alignment, HeadAlignment, Lines, head_components};

/// The fewest components: below, a normal number is no good bound of t, and an exact scan is cheap.
const DIMENSION_MIN: u32 = 64;
/// The fewest rows of a segment; fewer are scanned exactly as fast.
const REFERENCES_MIN: usize = 256;
/// Blocks that all probes of a search pass over before the next ones: 172 KiB at 512 components, which a second-level cache holds.
const BLOCKS_PER_TILE: usize = 32;
/// Passes over a tile from which the next one is asked for ahead.
const PASSES_TO_PREFETCH: usize = 4;
/// A segment is scanned exactly for a probe of which it would propose more than one row in so many: re-scoring scattered rows costs several
/// times what the exact scan of a batch does for each.
const PROPOSALS_SHARE: usize = 16;
/// Pairs of rows that a segment is guarded by.
const GUARD_PAIRS: usize = 4096;
/// Of twice as many normal numbers, the largest is beyond this once in thirty times.
const GUARD_LARGEST: f64 = 4.6;

const FORMAT: u8 = 2;

/// Builds segments of sign codes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SketchEngine;

const NAME: &str = "sketch";

/// Sign codes of a segment's rows. A bit is 1 where the component is not negative.
pub(crate) struct SketchSegment {
    dimension: u32,
    rows: usize,
    path: Path,
    /// `block_lines` of each block of rows. Bits of rows beyond the last are 0.
    heads: Vec<Bytes>,
    /// `tail_pieces` of each row. The last 16 bits are its alignment.
    tails: Vec<TailPiece>,
    /// How much wider t spreads among the rows than a random rotation would have it; at least 1.
    spread: f64,
}

/// A row whose head reached the line, and its sum.
type Reaching = (u32, u16);

impl SketchSegment {
    fn empty(dimension: u32, rows: usize, path: Path) -> Self {
        let mut segment = Self { dimension, rows, path, heads: Vec::new(), tails: Vec::new(), spread: 1.0 };
        segment.heads = vec![Bytes::ZERO; rows.div_ceil(CODES_PER_BLOCK) * segment.block_lines()];
        segment.tails = Vec::with_capacity(rows * segment.tail_pieces());
        segment
    }

    fn head_components(&self) -> usize {
        head_components(self.dimension as usize)
    }

    fn block_lines(&self) -> usize {
        Layout::of(self.path).block_lines(self.head_components())
    }

    fn tail_pieces(&self) -> usize {
        tail_pieces(self.dimension as usize - self.head_components())
    }

    /// Appends a row, of which there is still one missing.
    fn push(&mut self, signs: impl Iterator<Item = bool>, alignment: Alignment, of_head: HeadAlignment) {
        let (pieces, head) = (self.tail_pieces(), self.head_components());
        let row = self.tails.len() / pieces;
        let (number, code, lines) = (row / CODES_PER_BLOCK, row % CODES_PER_BLOCK, self.block_lines());
        let block = &mut self.heads[number * lines..(number + 1) * lines];
        self.tails.resize(self.tails.len() + pieces, TailPiece::ZERO);
        let tail = &mut self.tails[row * pieces..];
        for (component, _) in signs.enumerate().filter(|(_, is_set)| *is_set) {
            match component.checked_sub(head) {
                None => Layout::of(self.path).set(block, code, component),
                Some(bit) => tail[bit / 256].0[bit / 64 % 4] |= 1 << (bit % 64),
            }
        }
        set_alignment(block, code, of_head.0);
        tail[pieces - 1].0[3] |= u64::from(alignment.0) << 48;
    }

    fn tail(&self, row: usize) -> (&[TailPiece], Alignment) {
        let tail = &self.tails[row * self.tail_pieces()..][..self.tail_pieces()];
        (tail, Alignment((tail[tail.len() - 1].0[3] >> 48) as u16))
    }

    /// `None` where the guard cannot tell.
    fn build(rows: &EmbeddingRows, path: Path) -> Option<Self> {
        let mut segment = Self::empty(rows.dimension(), rows.len(), path);
        for row in 0..rows.len() {
            let (components, norm) = rows.row(row);
            let signs = components.iter().map(|component| *component >= 0);
            segment.push(signs, Alignment::of(components, norm), HeadAlignment::of(components, norm));
        }
        segment.spread = spread(rows)?;
        Some(segment)
    }

    /// Rows that reach the lines of each probe, ascending; `None` once they are more than a share of all rows.
    fn scan(&self, probes: &[(&SketchProbe, Lines)]) -> Vec<Option<Vec<u32>>> {
        let rows_max = self.rows / PROPOSALS_SHARE;
        let mut found: Vec<Option<Vec<u32>>> = probes.iter().map(|_| Some(Vec::new())).collect();
        let mut reached = Reached::new();
        let mut reaching: [Vec<Reaching>; PROBES_PER_PASS] = Default::default();
        let tile_lines = BLOCKS_PER_TILE * self.block_lines();
        for (tile, lines) in self.heads.chunks(tile_lines).enumerate() {
            let mut coming = self.heads.chunks(tile_lines).nth(tile + 1).unwrap_or_default();
            let open: Vec<usize> = (0..probes.len()).filter(|probe| found[*probe].is_some()).collect();
            // The next tile comes in while several passes look at this one, a part of it with every block. One pass alone asks for memory as
            // fast as it comes.
            let passes = open.len().div_ceil(PROBES_PER_PASS);
            let lines_at_once = if passes < PASSES_TO_PREFETCH { 0 } else { self.block_lines().div_ceil(passes) };
            for pass in open.chunks(PROBES_PER_PASS) {
                let tables: Vec<&[Bytes]> = pass.iter().map(|probe| probes[*probe].0.tables()).collect();
                let least: Vec<Least> = pass.iter().map(|probe| probes[*probe].1.head).collect();
                for (number, block) in lines.chunks_exact(self.block_lines()).enumerate() {
                    let (now, later) = coming.split_at(lines_at_once.min(coming.len()));
                    kernel::prefetch(now);
                    coming = later;
                    reach(self.path, block, &tables, &least, &mut reached);
                    let first_row = (tile * BLOCKS_PER_TILE + number) * CODES_PER_BLOCK;
                    for (place, reaching) in reaching[..pass.len()].iter_mut().enumerate() {
                        self.note(first_row, reached.codes[place], &reached.sums[place], reaching);
                    }
                }
                for (probe, reaching) in pass.iter().zip(&mut reaching) {
                    if let Some(rows) = &mut found[*probe] {
                        self.judge(probes[*probe].0, probes[*probe].1, reaching, rows);
                    }
                    found[*probe].take_if(|rows| rows.len() > rows_max);
                    reaching.clear();
                }
            }
        }
        found
    }

    /// Notes the rows of a block whose heads reached the line, and has their tails come in.
    fn note(&self, first_row: usize, mut codes: u128, sums: &[u16; CODES_PER_BLOCK], reaching: &mut Vec<Reaching>) {
        while codes != 0 {
            let code = codes.trailing_zeros() as usize;
            codes &= codes - 1;
            let row = first_row + code;
            // The last block may have fewer rows than codes.
            if row < self.rows {
                kernel::prefetch(self.tail(row).0);
                reaching.push((row as u32, sums[code]));
            }
        }
    }

    /// Adds the rows whose whole codes reach the line.
    fn judge(&self, probe: &SketchProbe, lines: Lines, reaching: &mut [Reaching], rows: &mut Vec<u32>) {
        probe.tail().add(self.path, &self.tails, reaching);
        let reaches = |(row, sum): &&Reaching| *sum >= lines.whole.least(self.tail(*row as usize).1);
        rows.extend(reaching.iter().filter(reaches).map(|(row, _)| row));
    }

    /// Bytes that a row takes in a file: its bits, the first component lowest, its alignment and its head's.
    fn row_bytes(dimension: u32) -> usize {
        (dimension as usize).div_ceil(8) + size_of::<Alignment>() + size_of::<HeadAlignment>()
    }
}

/// How much wider t spreads among pairs of rows than under a random rotation, at least 1; `None` where most pairs are alike.
fn spread(rows: &EmbeddingRows) -> Option<f64> {
    let pairs = GUARD_PAIRS.min(rows.len().saturating_sub(1));
    let (mut squares, mut counted, mut largest) = ([0.0_f64; 2], 0, 0.0_f64);
    for pair in 0..pairs {
        let row = pair * rows.len() / pairs;
        // Neighbours were enrolled together, and may be alike.
        let other = (row + rows.len() / 2 + pair % 7) % rows.len();
        if let Some(of_both) = deviations(rows.row(row), rows.row(other)) {
            for (sum, t) in squares.iter_mut().zip(of_both) {
                *sum += t * t;
                largest = largest.max(t.abs());
            }
            counted += 1;
        }
    }
    let deviation = (squares[0].max(squares[1]) / f64::from(counted)).sqrt();
    (2 * counted as usize >= pairs && pairs > 0).then(|| deviation.max(largest / GUARD_LARGEST).max(1.0))
}

/// t·√(d − 1) of a row and another one for a probe, of their heads and of all components; `None` where one of them points along the other,
/// or all along the signs.
fn deviations(row: (&[i16], u32), other: (&[i16], u32)) -> Option<[f64; 2]> {
    const ASIDE_MIN: f64 = 1e-3;
    let ((x, x_norm), (q, q_norm)) = (row, other);
    let dimension = x.len() as f64;
    let (x_length, q_length) = (f64::from(x_norm) / 1024.0, f64::from(q_norm) / 1024.0);
    let cosine = x.iter().zip(q).map(|(x, q)| f64::from(*x) * f64::from(*q)).sum::<f64>() / (x_length * q_length);
    let of = |count: usize| {
        let (mut along_signs, mut alignment) = (0.0, 0.0);
        for (x, q) in x[..count].iter().zip(q) {
            along_signs += if *x >= 0 { f64::from(*q) } else { -f64::from(*q) };
            alignment += f64::from(x.unsigned_abs());
        }
        along_signs /= q_length * dimension.sqrt();
        alignment /= x_length * dimension.sqrt();
        let share = count as f64 / dimension;
        let aside = ((1.0 - cosine * cosine).max(0.0) * (share - alignment * alignment).max(0.0)).sqrt();
        (aside > ASIDE_MIN).then(|| (along_signs - cosine * alignment) / aside * (dimension - 1.0).sqrt())
    };
    Some([of(head_components(x.len()))?, of(x.len())?])
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
        let (code, [low, high, of_head]) = row.split_last_chunk()?;
        let alignment = Alignment(u16::from_le_bytes([*low, *high]));
        let signs = code.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        segment.push(signs.take(dimension as usize), alignment, HeadAlignment(*of_head));
    }
    Some(segment)
}

impl Segment for SketchSegment {
    fn engine(&self) -> &str {
        NAME
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.heads) + size_of_val(&*self.tails)
    }

    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, miss_budget_ppb: u32) -> Vec<Proposal> {
        assert!(
            probes.iter().all(|probe| probe.embedding().dimension() == self.dimension),
            "probes have the rows' dimension"
        );
        if miss_budget_ppb == 0 || threshold <= ComparisonScore::ZERO {
            return vec![Proposal::ScanExactly; probes.len()];
        }
        // Half of the budget for each of the two lines.
        let probability = f64::from(miss_budget_ppb.min(MISS_BUDGET_PPB_MAX)) * 1e-9 / 2.0;
        let deviations = probe::quantile(probability) * self.spread;
        let ready: Vec<(&SketchProbe, Lines)> = probes
            .iter()
            .map(|probe| {
                let sketch = probe.sketch();
                (sketch, sketch.lines(threshold, deviations))
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
        for row in 0..self.rows {
            let (code, block) = (row % CODES_PER_BLOCK, &self.heads[row / CODES_PER_BLOCK * lines..][..lines]);
            let (tail, alignment) = self.tail(row);
            let is_set = |component: usize| match component.checked_sub(self.head_components()) {
                None => layout.is_set(block, code, component),
                Some(bit) => tail[bit / 256].0[bit / 64 % 4] >> (bit % 64) & 1 == 1,
            };
            let bit = |component| u8::from(is_set(component)) << (component % 8);
            let byte =
                |first: usize| (first..dimension.min(first + 8)).fold(0, |byte, component| byte | bit(component));
            bytes.extend((0..dimension).step_by(8).map(byte));
            bytes.extend_from_slice(&alignment.0.to_le_bytes());
            bytes.push(kernel::sketch::alignment(block, code));
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
                    let lines =
                        sketches.iter().map(|sketch| (sketch, sketch.lines(threshold, 4.0))).collect::<Vec<_>>();
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
