//! What is known of each index type that a factory string names. Which strings are accepted is in `semel-index`.
//!
//! Parameters come from configuration and policies, never from data.

use std::fmt;
use std::str::FromStr;

use semel_index::{FaissFactory, FaissIndex, UnknownEngine};

use crate::engine::EngineError;

/// Training rows FAISS wants for each of a quantiser's cells before it warns.
const REFERENCES_PER_CELL: usize = 39;
/// Cells of a 4-bit quantiser.
const CELLS_4_BIT: usize = 16;
/// The fewest references of any segment: what the default engine's training needs.
pub(crate) const REFERENCES_MIN: usize = REFERENCES_PER_CELL * CELLS_4_BIT;

/// A checked FAISS factory string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factory(FaissFactory);

/// How much of the index one search sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// Every row, and a row's estimate depends on the probe and that row alone: measurable away from the other rows.
    Exhaustive,
    /// Only what the structure leads to: a mate may be missed whatever its estimate.
    Partial,
}

impl Factory {
    /// The default for a dimension: 4-bit fast-scan codes, one for every four numbers up to 1,024 of them.
    ///
    /// Above that the sums of a fast-scan index would overflow, so the numbers are shared out over 256 codes.
    ///
    /// # Errors
    /// [`EngineError::Dimension`] unless 4, or above 1,024 also 256, divides the dimension.
    pub fn default_for(dimension: u32) -> Result<Self, EngineError> {
        FaissFactory::default_for(dimension).map(Self).ok_or_else(|| {
            let divisor = FaissFactory::default_divisor(dimension);
            EngineError::Dimension { engine: crate::engine::NAME.to_owned(), dimension, divisor }
        })
    }

    /// The factory string as FAISS reads it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Refuses a dimension the index type cannot split evenly.
    pub(crate) fn check_dimension(&self, dimension: u32) -> Result<(), EngineError> {
        let divisor = self.0.dimension_divisor();
        if dimension.is_multiple_of(divisor) {
            return Ok(());
        }
        Err(EngineError::Dimension { engine: format!("{}:{self}", crate::engine::NAME), dimension, divisor })
    }

    pub(crate) fn coverage(&self) -> Coverage {
        match self.0.index() {
            FaissIndex::Flat
            | FaissIndex::ScalarQuantiser { .. }
            | FaissIndex::ProductQuantiser { .. }
            | FaissIndex::FastScan { .. } => Coverage::Exhaustive,
            FaissIndex::Graph { .. } | FaissIndex::InvertedLists { .. } => Coverage::Partial,
        }
    }

    /// Whether a search adds to FAISS' process-wide statistics, as read in `IndexPQ.cpp`, `IndexHNSW.cpp` and
    /// `IndexIVF.cpp`; the others keep none.
    pub(crate) fn writes_statistics(&self) -> bool {
        match self.0.index() {
            FaissIndex::Flat | FaissIndex::ScalarQuantiser { .. } | FaissIndex::FastScan { .. } => false,
            FaissIndex::ProductQuantiser { .. } | FaissIndex::Graph { .. } | FaissIndex::InvertedLists { .. } => true,
        }
    }

    /// The fewest references the index can be trained on.
    pub(crate) fn references_min(&self) -> usize {
        match self.0.index() {
            FaissIndex::Flat
            | FaissIndex::ScalarQuantiser { .. }
            | FaissIndex::FastScan { .. }
            | FaissIndex::Graph { .. } => REFERENCES_MIN,
            FaissIndex::ProductQuantiser { bits, .. } => REFERENCES_MIN.max(REFERENCES_PER_CELL << bits),
            FaissIndex::InvertedLists { lists } => REFERENCES_MIN.max(REFERENCES_PER_CELL * lists as usize),
        }
    }

    /// The most training rows worth handing over: FAISS samples down to 256 for each cell.
    pub(crate) fn training_references_max(&self) -> usize {
        const USED_PER_CELL: usize = 256;
        match self.0.index() {
            FaissIndex::Flat | FaissIndex::Graph { .. } => REFERENCES_MIN,
            // Ranges of the numbers are taken over the training rows; later ones are clipped to them.
            FaissIndex::ScalarQuantiser { .. } => USED_PER_CELL * USED_PER_CELL,
            FaissIndex::FastScan { .. } => USED_PER_CELL * CELLS_4_BIT,
            FaissIndex::ProductQuantiser { bits, .. } => USED_PER_CELL << bits,
            FaissIndex::InvertedLists { lists } => USED_PER_CELL * lists as usize,
        }
    }

    /// Bytes of an index of so many rows, by FAISS' layouts; allocator overhead is not counted.
    pub(crate) fn memory_bytes(&self, dimension: u32, rows: usize) -> usize {
        const F32_BYTES: usize = size_of::<f32>();
        const LINK_BYTES: usize = size_of::<i32>();
        const LABEL_BYTES: usize = size_of::<i64>();
        let row_bytes = dimension as usize * F32_BYTES;
        let code_bytes = |codes: u32, bits: u32| (codes * bits).div_ceil(8) as usize;
        match self.0.index() {
            FaissIndex::Flat => rows * row_bytes,
            // Beside the codes, the lower end and width of each number's range.
            FaissIndex::ScalarQuantiser { bits } => rows * code_bytes(dimension, bits) + 2 * row_bytes,
            FaissIndex::ProductQuantiser { quantisers, bits } => {
                rows * code_bytes(quantisers, bits) + (row_bytes << bits)
            }
            // Blocks of 32 rows, an even number of codes.
            FaissIndex::FastScan { quantisers } => {
                let block_rows = rows.next_multiple_of(32);
                block_rows * code_bytes(quantisers.next_multiple_of(2), 4) + row_bytes * CELLS_4_BIT
            }
            // The bottom level holds twice the links; the levels above hold few rows.
            FaissIndex::Graph { links } => rows * (row_bytes + (2 * links as usize + 1) * LINK_BYTES + LABEL_BYTES),
            FaissIndex::InvertedLists { lists } => rows * (row_bytes + LABEL_BYTES) + lists as usize * row_bytes,
        }
    }
}

impl fmt::Display for Factory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for Factory {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        text.parse().map(Self).map_err(|_: UnknownEngine| EngineError::Factory { factory: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_factories_are_read() {
        let check = |text: &str, coverage, references_min| {
            let factory: Factory = text.parse().expect("known");
            assert_eq!(factory.as_str(), text);
            assert_eq!((factory.coverage(), factory.references_min()), (coverage, references_min), "{text}");
        };
        check("Flat", Coverage::Exhaustive, 624);
        check("SQ8", Coverage::Exhaustive, 624);
        check("PQ128x4fs", Coverage::Exhaustive, 624);
        check("PQ64x8", Coverage::Exhaustive, 9_984);
        check("PQ64", Coverage::Exhaustive, 9_984);
        check("PQ64x6np", Coverage::Exhaustive, 2_496);
        check("HNSW32", Coverage::Partial, 624);
        check("IVF64,Flat", Coverage::Partial, 2_496);
    }
}
