//! Rows of fixed width in blocks that snapshots share: the memory layout of both template kinds.
//!
//! What a row holds and how it is scanned lives in `embedding_rows` and `binary_rows`.

use std::sync::Arc;

/// An enrolment's place in its gallery on one shard replica: dense, in the order of staging. Derived, so it differs
/// between replicas and never leaves the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnrolmentOrdinal(pub u32);

/// Rows in a block. A published block is copied when it grows, so this bounds the copy: 64 KiB at 512 dimensions.
pub(crate) const ROWS_PER_BLOCK: usize = 64;

/// Rows of equal width with strictly ascending ordinals. A clone shares every block; appending to a shared last block
/// copies that one only. No `Debug`: it would print templates.
#[derive(Clone)]
pub(crate) struct RowBlocks<L> {
    row_width: usize,
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
    pub(crate) fn new(row_width: usize) -> Self {
        assert!(row_width > 0, "a row has at least one cell");
        Self { row_width, len: 0, blocks: Vec::new() }
    }

    /// Cells in a row.
    pub(crate) fn row_width(&self) -> usize {
        self.row_width
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a row. `fill` is the value of cells not written yet.
    pub(crate) fn push(&mut self, ordinal: EnrolmentOrdinal, weight: u32, fill: L, cells: impl Iterator<Item = L>) {
        assert!(self.last_ordinal().is_none_or(|last| last < ordinal), "ordinals ascend");
        if self.len.is_multiple_of(ROWS_PER_BLOCK) {
            self.blocks.push(Arc::new(Block {
                ordinals: Vec::with_capacity(ROWS_PER_BLOCK),
                weights: Vec::with_capacity(ROWS_PER_BLOCK),
                cells: vec![fill; ROWS_PER_BLOCK * self.row_width].into_boxed_slice(),
            }));
        }
        let block = Arc::make_mut(self.blocks.last_mut().expect("pushed above when there was none with room"));
        let start = block.ordinals.len() * self.row_width;
        let mut written = 0;
        for (into, cell) in block.cells[start..start + self.row_width].iter_mut().zip(cells) {
            *into = cell;
            written += 1;
        }
        assert_eq!(written, self.row_width, "a row fills its width");
        block.ordinals.push(ordinal);
        block.weights.push(weight);
        self.len += 1;
    }

    pub(crate) fn cells(&self, row: usize) -> &[L] {
        let start = row % ROWS_PER_BLOCK * self.row_width;
        &self.block_of(row).cells[start..start + self.row_width]
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

    /// The cells of `rows`, a block's worth at a time, each with the number of its first row.
    pub(crate) fn runs(&self, rows: std::ops::Range<usize>) -> impl Iterator<Item = (usize, &[L])> {
        assert!(rows.end <= self.len, "rows exist");
        let blocks =
            if rows.is_empty() { 0..0 } else { rows.start / ROWS_PER_BLOCK..rows.end.div_ceil(ROWS_PER_BLOCK) };
        blocks.map(move |number| {
            let first = rows.start.max(number * ROWS_PER_BLOCK);
            let end = rows.end.min((number + 1) * ROWS_PER_BLOCK);
            let (from, to) = (first - number * ROWS_PER_BLOCK, end - number * ROWS_PER_BLOCK);
            (first, &self.blocks[number].cells[from * self.row_width..to * self.row_width])
        })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let row_bytes = self.row_width * size_of::<L>() + size_of::<EnrolmentOrdinal>() + size_of::<u32>();
        self.blocks.len() * (ROWS_PER_BLOCK * row_bytes + size_of::<Block<L>>())
    }

    fn block_of(&self, row: usize) -> &Block<L> {
        &self.blocks[row / ROWS_PER_BLOCK]
    }
}
