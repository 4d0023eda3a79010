//! The `sketch` engine: short codes, an estimate of the cosine with a known error, and an exhaustive scan.
//!
//! # The estimate
//!
//! After RaBitQ (Gao & Long, *RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor
//! Search*, SIGMOD 2024), for unit vectors that a random rotation has turned, as every template here. Of a reference x a code keeps a vector s
//! that is made of x alone, and its *alignment* f = ⟨x, s⟩. Write a probe as q = c·x + √(1 − c²)·u with u ⊥ x, both of length one. Then
//!
//! ⟨q, s⟩ = c·f + √(1 − c²)·√(|s|² − f²)·t,
//!
//! where t is the component of u along a direction that is orthogonal to x. Under a random rotation, t is a component of a uniformly random
//! direction in d − 1 dimensions: its mean is 0, its deviation 1/√(d − 1), and from two deviations on it goes beyond k of them less often
//! than a normal number does. So ⟨q, s⟩/f estimates the cosine without bias, and a mate at the threshold T falls below
//!
//! g = T·f − k·√((1 − T²)(|s|² − f²)/(d − 1) + ρ²)
//!
//! with a probability of at most p, where k is the normal quantile of p; mates above T do so less often. ρ² is the variance that rounding
//! adds. Nothing is measured at sealing, and a change of policy recomputes nothing.
//!
//! # Heads and tails
//!
//! A row is judged by the *head* of its code first, which is all that a scan reads of most rows: signs, of length one in all, that are words of
//! a short linear code (`book`), half a bit for each component. g is convex in f there, and its tangent at the mean f lies
//! below it everywhere: heads are judged by that line. Of the rows that reach it, a few in a thousand among strangers of 512 components and at
//! a threshold of 0.42, the *tail* is looked at: the signs of what the head leaves of two thirds of the components (`code`). Head and tail
//! together make a vector that errs less than one bit for each component would. A mate falls short of either line in half as
//! many cases as the miss budget allows.
//!
//! # The guard
//!
//! All of this rests on templates that a random rotation has turned. Every segment therefore looks at pairs of its own rows when it is built:
//! where their t spreads wider than it must, k grows in proportion, and the segment proposes more (`guard`). It sees how people differ from each
//! other, not how captures of one person do. And a share is one over all keys: that of one gallery's key may be a little larger or smaller.
//!
//! How probes are compared with codes is in `probe`, which kernels add up in `kernel::sketch` and `kernel::tails`.

mod book;
mod code;
mod guard;
mod probe;

use std::sync::Arc;
use std::{fmt, mem};

use crate::embedding_rows::EmbeddingRows;
use crate::kernel::sketch::{Bytes, CODES_PER_BLOCK, Layout, PROBES_PER_PASS, Reached, reach};
use crate::kernel::tails::TailPiece;
use crate::kernel::{self, Path};
use crate::score::ComparisonScore;
use crate::segment::{BuildError, Calibration, Engine, EngineProbe, MISS_BUDGET_PPB_MAX, Proposal, ScanCost, Segment};
use book::Book;
use code::{Measures, RowCode, Shape, tail_pieces};
use probe::Lines;
pub(crate) use probe::SketchProbe;

/// The fewest components: below, a normal number is no good bound of t, and an exact scan is cheap.
const DIMENSION_MIN: u32 = 64;
/// The fewest rows of a segment; fewer are scanned exactly as fast.
const REFERENCES_MIN: usize = 256;
/// The most components: what sums of codes are proved for.
const DIMENSION_MAX: u32 = 4096;
/// Blocks that all probes of a search pass over before the next ones: 135 KiB at 512 components, which a second-level cache holds.
const BLOCKS_PER_TILE: usize = 32;
/// Blocks that memory is asked for ahead where one pass alone looks at each.
const BLOCKS_AHEAD: usize = 8;
/// A segment is scanned exactly for a probe of which it would propose more than one row in so many: re-scoring scattered rows costs several
/// times what the exact scan of a batch does for each.
const PROPOSALS_SHARE: usize = 16;
/// Pieces of tails in a cache line.
const PIECES_PER_LINE: usize = 64 / size_of::<TailPiece>();
const FORMAT: u8 = 5;

/// Builds segments of short codes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SketchEngine;

const NAME: &str = "sketch";

/// What a segment's codes are written in, and what reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    layout: Layout,
    path: Path,
}

impl Form {
    /// The fastest of this processor.
    fn detect() -> Self {
        let path = Path::detect();
        Self { layout: Layout::of(path), path }
    }

    fn shape(self, dimension: u32) -> Shape {
        Shape { book: Book::of(self.layout), dimension: dimension as usize }
    }
}

/// Codes of a segment's rows.
pub(crate) struct SketchSegment {
    dimension: u32,
    rows: usize,
    form: Form,
    block_lines: usize,
    tail_pieces: usize,
    /// `block_lines` of each block of rows. Fields of rows beyond the last are 0.
    heads: Vec<Bytes>,
    /// `tail_pieces` of each row.
    tails: Vec<TailPiece>,
    /// How much wider t spreads among the rows than a random rotation would have it; at least 1.
    spread: f64,
}

impl SketchSegment {
    fn empty(dimension: u32, rows: usize, form: Form) -> Self {
        let shape = form.shape(dimension);
        let (block_lines, tail_pieces) = (form.layout.block_lines(shape.fields()), tail_pieces(shape.dimension));
        let lines = rows.div_ceil(CODES_PER_BLOCK) * block_lines;
        let mut heads = kernel::reserved(lines);
        heads.resize(lines, Bytes::ZERO);
        let tails = kernel::reserved(rows * tail_pieces);
        Self { dimension, rows, form, block_lines, tail_pieces, heads, tails, spread: 1.0 }
    }

    fn shape(&self) -> Shape {
        self.form.shape(self.dimension)
    }

    /// Appends a row, of which there is still one missing.
    fn push(&mut self, fields: impl Iterator<Item = u8>, tail: &[TailPiece]) {
        let row = self.tails.len() / self.tail_pieces;
        let (number, code, lines) = (row / CODES_PER_BLOCK, row % CODES_PER_BLOCK, self.block_lines);
        let block = &mut self.heads[number * lines..(number + 1) * lines];
        for (field, value) in fields.enumerate() {
            self.form.layout.set(block, code, field, value);
        }
        self.tails.extend_from_slice(tail);
    }

    fn tail(&self, row: usize) -> &[TailPiece] {
        &self.tails[row * self.tail_pieces..][..self.tail_pieces]
    }

    /// `None` where the guard cannot tell.
    fn build(rows: &EmbeddingRows, form: Form) -> Option<Self> {
        let mut segment = Self::empty(rows.dimension(), rows.len(), form);
        let mut code = RowCode::new(segment.shape());
        for row in 0..rows.len() {
            let (components, norm) = rows.row(row);
            code.write(components, norm);
            segment.push(code.fields.iter().copied(), &code.tail);
        }
        segment.spread = guard::spread(rows, segment.shape())?;
        Some(segment)
    }

    /// What the field says that tells it.
    fn head_alignment(&self, row: usize) -> u8 {
        let block = &self.heads[row / CODES_PER_BLOCK * self.block_lines..][..self.block_lines];
        self.form.layout.field(block, row % CODES_PER_BLOCK, Shape::ALIGNMENT_FIELD)
    }

    /// Rows that reach the lines of each probe, ascending; `None` once they are more than a share of all rows.
    fn scan(&self, probes: &[(&SketchProbe, Lines)]) -> Vec<Option<Vec<u32>>> {
        let rows_max = self.rows / PROPOSALS_SHARE;
        let mut found: Vec<Option<Vec<u32>>> = probes.iter().map(|_| Some(Vec::new())).collect();
        // Rows whose heads reached the line in this pass, and in the one before it: their tails come in meanwhile.
        let (mut reached, mut before): (Pass, Pass) = Default::default();
        let judge = |pass: &mut Pass, found: &mut [Option<Vec<u32>>]| {
            for (probe, reached) in pass.probes.drain(..).zip(&mut pass.reached) {
                if let Some(rows) = &mut found[probe] {
                    self.judge(&probes[probe], reached.rows(), rows);
                }
                found[probe].take_if(|rows| rows.len() > rows_max);
                reached.clear();
            }
        };
        let tile_lines = BLOCKS_PER_TILE * self.block_lines;
        for (tile, lines) in self.heads.chunks(tile_lines).enumerate() {
            let open: Vec<usize> = (0..probes.len()).filter(|probe| found[*probe].is_some()).collect();
            // What several passes look at comes in while they look at the tile before it, a part of it with each.
            let passes = open.len().div_ceil(PROBES_PER_PASS).max(1);
            let blocks_ahead = if passes == 1 { BLOCKS_AHEAD } else { BLOCKS_PER_TILE };
            let part = self.block_lines.div_ceil(passes);
            for (pass_number, pass) in open.chunks(PROBES_PER_PASS).enumerate() {
                let (mut tables, mut least) = ([&[][..]; PROBES_PER_PASS], [0; PROBES_PER_PASS]);
                for ((tables, least), probe) in tables.iter_mut().zip(&mut least).zip(pass) {
                    (*tables, *least) = (&probes[*probe].1.tables, probes[*probe].1.least);
                }
                let (tables, least) = (&tables[..pass.len()], &least[..pass.len()]);
                for (number, block) in lines.chunks_exact(self.block_lines).enumerate() {
                    let block_number = tile * BLOCKS_PER_TILE + number;
                    let coming = (block_number + blocks_ahead) * self.block_lines + pass_number * part;
                    kernel::prefetch(self.heads.get(coming..coming + part).unwrap_or_default());
                    let block = ((block_number * CODES_PER_BLOCK) as u32, block);
                    let asked_for = reached.reached[0].rows().len();
                    reach(self.form.path, self.form.layout, block, tables, least, &mut reached.reached[..pass.len()]);
                    // Beside one pass alone, which waits for memory, a burst at the end would hold up the heads to come.
                    if passes == 1 {
                        self.ask_for_tails(&reached.reached[0].rows()[asked_for..]);
                    }
                }
                for reached in &mut reached.reached[..pass.len()] {
                    if passes > 1 {
                        self.ask_for_tails(reached.rows());
                    }
                    // The last block may have fewer rows than codes.
                    reached.keep_below(self.rows as u32);
                }
                reached.probes.extend(pass);
                judge(&mut before, &mut found);
                mem::swap(&mut reached, &mut before);
            }
        }
        judge(&mut before, &mut found);
        found
    }

    /// Has the tails of rows come in: every cache line of each, but few of them twice.
    fn ask_for_tails(&self, rows: &[(u32, u32)]) {
        for (row, _) in rows {
            let first = *row as usize * self.tail_pieces;
            let tail = self.tails.get(first..first + self.tail_pieces).unwrap_or_default();
            tail.chunks(PIECES_PER_LINE).for_each(|pieces| kernel::prefetch(&pieces[..1]));
            kernel::prefetch(tail.split_last().map_or(&[], |(last, _)| std::slice::from_ref(last)));
        }
    }

    /// Adds the rows whose whole codes reach the line.
    fn judge(&self, (probe, lines): &(&SketchProbe, Lines), reaching: &mut [(u32, u32)], rows: &mut Vec<u32>) {
        for (row, sum) in &mut *reaching {
            *sum = lines.sum_of_words(*sum, self.head_alignment(*row as usize));
        }
        probe.add_tails(self.form.path, &self.tails, reaching);
        let reach = |(row, sum): &&(u32, u32)| lines.are_reached_by(*sum, Measures::of(self.tail(*row as usize)));
        rows.extend(reaching.iter().filter(reach).map(|(row, _)| row));
    }
}

/// Some probes, and what a pass over a tile found for each.
#[derive(Debug, Default)]
struct Pass {
    probes: Vec<usize>,
    reached: [Reached; PROBES_PER_PASS],
}

impl Engine for SketchEngine {
    fn name(&self) -> &str {
        NAME
    }

    fn references_min(&self, dimension: u32) -> usize {
        if (DIMENSION_MIN..=DIMENSION_MAX).contains(&dimension) { REFERENCES_MIN } else { usize::MAX }
    }

    fn build(&self, rows: Arc<EmbeddingRows>, _calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        let references = rows.len();
        if references < self.references_min(rows.dimension()) {
            let reason =
                format!("needs {REFERENCES_MIN} references or more of {DIMENSION_MIN} to {DIMENSION_MAX} components");
            return Err(BuildError { engine: NAME.to_owned(), references, reason });
        }
        let segment = SketchSegment::build(&rows, Form::detect()).ok_or_else(|| {
            let reason = "its rows are too much alike to tell how far estimates err".to_owned();
            BuildError { engine: NAME.to_owned(), references, reason }
        })?;
        Ok(Box::new(segment))
    }

    fn fingerprint(&self, _dimension: u32) -> String {
        format!("{NAME} {FORMAT}, {} bits a field", Form::detect().layout.field_bits())
    }

    fn restore(&self, dimension: u32, rows: usize, bytes: &[u8]) -> Result<Box<dyn Segment>, BuildError> {
        restore(dimension, rows, bytes, Form::detect()).map_or_else(
            || {
                let reason = "the codes are not understood".to_owned();
                Err(BuildError { engine: NAME.to_owned(), references: rows, reason })
            },
            |segment| Ok(Box::new(segment) as Box<dyn Segment>),
        )
    }
}

fn restore(dimension: u32, rows: usize, bytes: &[u8], form: Form) -> Option<SketchSegment> {
    let (FORMAT, rest) = bytes.split_first().map(|(format, rest)| (*format, rest))? else { return None };
    let (field_bits, rest) = rest.split_first()?;
    let (spread, rest) = rest.split_first_chunk()?;
    let spread = f64::from_le_bytes(*spread);
    let is_of_form = usize::from(*field_bits) == form.layout.field_bits();
    if !is_of_form || !(DIMENSION_MIN..=DIMENSION_MAX).contains(&dimension) || !spread.is_finite() || spread < 1.0 {
        return None;
    }
    let kept = KeptRow::of(dimension, form);
    if rest.len() != kept.bytes().checked_mul(rows)? {
        return None;
    }
    let mut segment = SketchSegment { spread, ..SketchSegment::empty(dimension, rows, form) };
    let mut tail = vec![TailPiece::ZERO; segment.tail_pieces];
    for row in rest.chunks_exact(kept.bytes()) {
        let (head, words) = row.split_at(kept.head_bytes());
        for (word, bytes) in tail.iter_mut().flat_map(|piece| &mut piece.0).zip(words.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        segment.push(kept.unpack(head), &tail);
    }
    Some(segment)
}

/// How a row is kept in a file: the fields of its head packed bit by bit, its tail; numbers little-endian.
#[derive(Debug, Clone, Copy)]
struct KeptRow {
    fields: usize,
    field_bits: usize,
    tail_bytes: usize,
}

impl KeptRow {
    fn of(dimension: u32, form: Form) -> Self {
        let (shape, field_bits) = (form.shape(dimension), form.layout.field_bits());
        let tail_bytes = tail_pieces(shape.dimension) * size_of::<TailPiece>();
        Self { fields: shape.fields(), field_bits, tail_bytes }
    }

    fn head_bytes(self) -> usize {
        (self.fields * self.field_bits).div_ceil(8)
    }

    fn bytes(self) -> usize {
        self.head_bytes() + self.tail_bytes
    }

    fn pack(self, fields: impl Iterator<Item = u8>, bytes: &mut Vec<u8>) {
        let first = bytes.len();
        bytes.resize(first + self.head_bytes(), 0);
        for (field, value) in fields.enumerate() {
            let (byte, bit) = (first + field * self.field_bits / 8, field * self.field_bits % 8);
            let [low, high] = (u16::from(value) << bit).to_le_bytes();
            bytes[byte] |= low;
            // Nothing of the last field lies beyond the last byte.
            if high != 0 {
                bytes[byte + 1] |= high;
            }
        }
    }

    fn unpack(self, head: &[u8]) -> impl Iterator<Item = u8> {
        (0..self.fields).map(move |field| {
            let (byte, bit) = (field * self.field_bits / 8, field * self.field_bits % 8);
            let both = u16::from_le_bytes([head[byte], head.get(byte + 1).copied().unwrap_or(0)]);
            (both >> bit) as u8 & ((1 << self.field_bits) - 1)
        })
    }
}

impl Segment for SketchSegment {
    fn engine(&self) -> &str {
        NAME
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.heads) + size_of_val(&*self.tails)
    }

    /// Of the heads: hardly any tail is looked at.
    fn scan_cost(&self) -> Option<ScanCost> {
        let lookups = (self.shape().fields() * self.rows) as u64;
        Some(ScanCost { bytes: size_of_val(&*self.heads), lookups: Some(lookups) })
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

    /// Format, bits of a field, spread, and the rows: the same on every processor that writes such fields.
    fn to_bytes(&self) -> Result<Option<Vec<u8>>, BuildError> {
        let layout = self.form.layout;
        let (kept, lines) = (KeptRow::of(self.dimension, self.form), self.block_lines);
        let mut bytes = Vec::with_capacity(10 + self.rows * kept.bytes());
        bytes.extend([FORMAT, layout.field_bits() as u8]);
        bytes.extend_from_slice(&self.spread.to_le_bytes());
        for row in 0..self.rows {
            let (code, block) = (row % CODES_PER_BLOCK, &self.heads[row / CODES_PER_BLOCK * lines..][..lines]);
            kept.pack((0..kept.fields).map(|field| layout.field(block, code, field)), &mut bytes);
            bytes.extend(self.tail(row).iter().flat_map(|piece| piece.0).flat_map(u64::to_le_bytes));
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

    /// Segments are copied between machines, and replicas on processors of one kind must propose alike.
    #[test]
    fn every_path_of_a_layout_writes_the_same_bytes_and_proposes_the_same_rows() {
        for (count, dimension) in [(300, 64), (517, 190), (256, 512)] {
            let rows = rows(count, dimension);
            let probes: Vec<CanonicalEmbedding> = (0..7)
                .map(|row| CanonicalEmbedding::from_components(rows.row(row * 30).0).expect("canonical"))
                .collect();
            let threshold = ComparisonScore::from_micros(350_000).expect("in range");
            for (layout, paths) in Layout::with_paths() {
                let mut seen = Vec::new();
                for form in paths.into_iter().map(|path| Form { layout, path }) {
                    let built = SketchSegment::build(&rows, form).expect("they differ");
                    let bytes = built.to_bytes().expect("kept").expect("kept");
                    let restored = restore(dimension as u32, count as usize, &bytes, form).expect("its own bytes");
                    for segment in [&built, &restored] {
                        let sketches: Vec<SketchProbe> =
                            probes.iter().map(|probe| SketchProbe::of(layout, probe)).collect();
                        let lines: Vec<(&SketchProbe, Lines)> =
                            sketches.iter().map(|sketch| (sketch, sketch.lines(threshold, 4.0))).collect();
                        seen.push((bytes.clone(), segment.scan(&lines)));
                    }
                }
                let holds_its_row = |(probe, rows): (usize, &Option<Vec<u32>>)| {
                    rows.as_ref().is_none_or(|rows| rows.contains(&(probe as u32 * 30)))
                };
                assert!(seen[0].1.iter().enumerate().all(holds_its_row));
                assert!(seen.iter().all(|other| *other == seen[0]), "{count} x {dimension}, {layout:?}");
            }
        }
    }

    #[test]
    fn rows_that_are_all_alike_are_refused() {
        let mut alike = EmbeddingRows::new(64);
        let one = CanonicalEmbedding::from_f32(&[1.0; 64]).expect("valid");
        (0..300).for_each(|ordinal| alike.push(EnrolmentOrdinal(ordinal), &one));
        let refused = SketchEngine.build(Arc::new(alike), &Calibration::default()).expect_err("nothing can be told");
        assert!(refused.to_string().contains("too much alike"), "{refused}");
    }

    #[test]
    fn bytes_of_another_form_are_refused() {
        let rows = rows(256, 64);
        let forms = Layout::with_paths().map(|(layout, _)| Form { layout, path: Path::Portable });
        for form in forms {
            let bytes =
                SketchSegment::build(&rows, form).expect("they differ").to_bytes().expect("kept").expect("kept");
            let refused = |dimension: u32, rows: usize, bytes: &[u8]| {
                assert!(restore(dimension, rows, bytes, form).is_none(), "{dimension}, {rows}");
            };
            refused(64, 256, &[]);
            refused(64, 256, &bytes[1..]);
            refused(64, 255, &bytes);
            refused(88, 256, &bytes);
            refused(0, 0, &bytes[..10]);
            refused(5_000, 0, &bytes[..10]);
            refused(64, usize::MAX, &bytes);
            refused(64, 256, &[&[FORMAT + 1], &bytes[1..]].concat());
            refused(64, 256, &[&bytes[..1], &[5], &bytes[2..]].concat());
            refused(64, 256, &[&bytes[..2], &f64::NAN.to_le_bytes(), &bytes[10..]].concat());
            let is_read = |other: Form| restore(64, 256, &bytes, other).is_some();
            assert!(forms.iter().all(|other| is_read(*other) == (*other == form)));
        }
    }
}
