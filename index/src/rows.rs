//! Rows of fixed width in blocks that snapshots share: the memory layout of both template kinds.
//!
//! What a row holds and how it is scanned lives in `embedding_rows` and `binary_rows`.

use std::ops::Range;
use std::sync::Arc;

/// An enrolment's place in its gallery on one shard replica: dense, in the order of staging. Derived, so it differs
/// between replicas and never leaves the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnrolmentOrdinal(pub u32);

/// Rows in a block. A published block is copied when it grows, so this bounds the copy: 64 KiB at 512 dimensions.
pub(crate) const ROWS_PER_BLOCK: usize = 64;

/// Rows of equal width with strictly ascending ordinals. A clone shares every block; appending to a shared last block
/// copies that one only. No `Debug`: it would print templates.
///
/// `LANES` rows lie side by side in a strip: each cell of a strip holds a part of all of them.
#[derive(Clone)]
pub(crate) struct RowBlocks<L, const LANES: usize = 1> {
    /// Cells in a strip.
    strip_width: usize,
    len: usize,
    /// All full but the last.
    blocks: Vec<Arc<Block<L>>>,
}

/// Up to [`ROWS_PER_BLOCK`] rows.
#[derive(Clone)]
struct Block<L> {
    ordinals: Vec<EnrolmentOrdinal>,
    /// One number per row that its comparison needs beside the cells: an embedding's norm.
    weights: Vec<u32>,
    cells: Box<[L]>,
}

impl<L: Copy> RowBlocks<L> {
    /// Cells in a row.
    pub(crate) fn row_width(&self) -> usize {
        self.strip_width
    }

    /// Appends a row. `fill` is the value of cells not written yet.
    pub(crate) fn push(&mut self, ordinal: EnrolmentOrdinal, weight: u32, fill: L, cells: impl Iterator<Item = L>) {
        self.push_lane(ordinal, weight, fill, |_, row| {
            let mut written = 0;
            for (into, cell) in row.iter_mut().zip(cells) {
                *into = cell;
                written += 1;
            }
            assert_eq!(written, row.len(), "a row fills its width");
        });
    }

    pub(crate) fn cells(&self, row: usize) -> &[L] {
        self.strip(row)
    }
}

impl<L: Copy, const LANES: usize> RowBlocks<L, LANES> {
    pub(crate) fn new(strip_width: usize) -> Self {
        const { assert!(ROWS_PER_BLOCK.is_multiple_of(LANES), "a block has whole strips") };
        assert!(strip_width > 0, "a row has at least one cell");
        Self { strip_width, len: 0, blocks: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a row, which `write` puts into its lane of its strip. `fill` is the value of cells not written yet.
    pub(crate) fn push_lane(
        &mut self,
        ordinal: EnrolmentOrdinal,
        weight: u32,
        fill: L,
        write: impl FnOnce(usize, &mut [L]),
    ) {
        assert!(self.last_ordinal().is_none_or(|last| last < ordinal), "ordinals ascend");
        if self.len.is_multiple_of(ROWS_PER_BLOCK) {
            self.blocks.push(Arc::new(Block {
                ordinals: Vec::with_capacity(ROWS_PER_BLOCK),
                weights: Vec::with_capacity(ROWS_PER_BLOCK),
                cells: vec![fill; ROWS_PER_BLOCK / LANES * self.strip_width].into_boxed_slice(),
            }));
        }
        let block = Arc::make_mut(self.blocks.last_mut().expect("pushed above when there was none with room"));
        let (strip, lane) = (block.ordinals.len() / LANES, block.ordinals.len() % LANES);
        write(lane, &mut block.cells[strip * self.strip_width..(strip + 1) * self.strip_width]);
        block.ordinals.push(ordinal);
        block.weights.push(weight);
        self.len += 1;
    }

    /// The strip that a row lies in, in lane `row % LANES`.
    pub(crate) fn strip(&self, row: usize) -> &[L] {
        let start = row % ROWS_PER_BLOCK / LANES * self.strip_width;
        &self.block_of(row).cells[start..start + self.strip_width]
    }

    pub(crate) fn weight(&self, row: usize) -> u32 {
        self.block_of(row).weights[row % ROWS_PER_BLOCK]
    }

    pub(crate) fn ordinal(&self, row: usize) -> EnrolmentOrdinal {
        self.block_of(row).ordinals[row % ROWS_PER_BLOCK]
    }

    pub(crate) fn last_ordinal(&self) -> Option<EnrolmentOrdinal> {
        self.blocks.last().and_then(|block| block.ordinals.last()).copied()
    }

    /// The number of rows with an ordinal below `ordinal`: the first row at or after it.
    pub(crate) fn rows_below(&self, ordinal: EnrolmentOrdinal) -> usize {
        let full = self.blocks.partition_point(|block| block.ordinals.last().is_some_and(|last| *last < ordinal));
        match self.blocks.get(full) {
            None => self.len,
            Some(block) => full * ROWS_PER_BLOCK + block.ordinals.partition_point(|other| *other < ordinal),
        }
    }

    /// The row of an ordinal, if it has one here.
    pub(crate) fn row_of(&self, ordinal: EnrolmentOrdinal) -> Option<usize> {
        let row = self.rows_below(ordinal);
        (row < self.len && self.ordinal(row) == ordinal).then_some(row)
    }

    /// The strips that `rows` lie in, a block's worth at a time, each with those of `rows` that lie in them.
    pub(crate) fn strips(&self, rows: Range<usize>) -> impl Iterator<Item = (Range<usize>, &[L])> {
        assert!(rows.end <= self.len, "rows exist");
        let blocks =
            if rows.is_empty() { 0..0 } else { rows.start / ROWS_PER_BLOCK..rows.end.div_ceil(ROWS_PER_BLOCK) };
        blocks.map(move |number| {
            let start = number * ROWS_PER_BLOCK;
            let rows = rows.start.max(start)..rows.end.min(start + ROWS_PER_BLOCK);
            let strips = (rows.start - start) / LANES..(rows.end - start).div_ceil(LANES);
            (rows, &self.blocks[number].cells[strips.start * self.strip_width..strips.end * self.strip_width])
        })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let cells_bytes = ROWS_PER_BLOCK / LANES * self.strip_width * size_of::<L>();
        let others_bytes = ROWS_PER_BLOCK * (size_of::<EnrolmentOrdinal>() + size_of::<u32>()) + size_of::<Block<L>>();
        self.blocks.len() * (cells_bytes + others_bytes)
    }

    fn block_of(&self, row: usize) -> &Block<L> {
        &self.blocks[row / ROWS_PER_BLOCK]
    }
}
