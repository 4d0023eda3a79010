//! The factory strings this crate accepts, and what is known of each index type they name.
//!
//! FAISS' own parser takes many more, some of which abort the process or overflow silently; only a type whose
//! behaviour was read in the source of FAISS 1.12 is let through. Parameters come from configuration, never from data.

use std::fmt;
use std::str::FromStr;

use crate::engine::EngineError;

/// Training rows FAISS wants for each of a quantiser's cells before it warns.
const REFERENCES_PER_CELL: usize = 39;
/// Cells of a 4-bit quantiser.
const CELLS_4_BIT: usize = 16;
/// The fewest references of any segment: what the default engine's training needs.
pub(crate) const REFERENCES_MIN: usize = REFERENCES_PER_CELL * CELLS_4_BIT;

/// The most sub-quantisers of a fast-scan index. It adds up one byte for each in 16 bits, unchecked: 257 · 255 = 65,535.
pub(crate) const FAST_SCAN_QUANTISERS_MAX: u32 = 257;
/// The most bits of a code of one sub-quantiser without fast-scan.
const QUANTISER_BITS_MAX: u32 = 10;
/// The most sub-quantisers without fast-scan.
const QUANTISERS_MAX: u32 = 4096;
/// The most links of a node of a graph.
const GRAPH_LINKS_MAX: u32 = 256;
/// The most inverted lists.
const LISTS_MAX: u32 = 65_536;

/// A checked FAISS factory string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factory {
    text: String,
    kind: Kind,
}

/// The index types, with the parameters that matter outside FAISS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Uncompressed numbers.
    Flat,
    /// A few bits for each number.
    ScalarQuantiser { bits: u32 },
    /// A code for each of `quantisers` groups of numbers.
    ProductQuantiser { quantisers: u32, bits: u32 },
    /// The same in 4 bits, scanned in registers.
    FastScan { quantisers: u32 },
    /// A graph of neighbours.
    Graph { links: u32 },
    /// Lists around centroids, of which one is visited.
    InvertedLists { lists: u32 },
}

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
        let quantisers = if dimension <= 4 * 256 { dimension / 4 } else { 256 };
        if quantisers == 0 || !dimension.is_multiple_of(quantisers) || !dimension.is_multiple_of(4) {
            let divisor = if dimension <= 4 * 256 { 4 } else { 256 };
            return Err(EngineError::Dimension { engine: crate::engine::NAME.to_owned(), dimension, divisor });
        }
        Ok(Self { text: format!("PQ{quantisers}x4fs"), kind: Kind::FastScan { quantisers } })
    }

    /// The factory string as FAISS reads it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Refuses a dimension the index type cannot split evenly.
    pub(crate) fn check_dimension(&self, dimension: u32) -> Result<(), EngineError> {
        match self.kind {
            Kind::ProductQuantiser { quantisers, .. } | Kind::FastScan { quantisers }
                if !dimension.is_multiple_of(quantisers) =>
            {
                let engine = format!("{}:{}", crate::engine::NAME, self.text);
                Err(EngineError::Dimension { engine, dimension, divisor: quantisers })
            }
            Kind::Flat
            | Kind::ScalarQuantiser { .. }
            | Kind::ProductQuantiser { .. }
            | Kind::FastScan { .. }
            | Kind::Graph { .. }
            | Kind::InvertedLists { .. } => Ok(()),
        }
    }

    pub(crate) fn coverage(&self) -> Coverage {
        match self.kind {
            Kind::Flat | Kind::ScalarQuantiser { .. } | Kind::ProductQuantiser { .. } | Kind::FastScan { .. } => {
                Coverage::Exhaustive
            }
            Kind::Graph { .. } | Kind::InvertedLists { .. } => Coverage::Partial,
        }
    }

    /// Whether a search adds to FAISS' process-wide statistics, as read in `IndexPQ.cpp`, `IndexHNSW.cpp` and
    /// `IndexIVF.cpp`; the others keep none.
    pub(crate) fn writes_statistics(&self) -> bool {
        match self.kind {
            Kind::Flat | Kind::ScalarQuantiser { .. } | Kind::FastScan { .. } => false,
            Kind::ProductQuantiser { .. } | Kind::Graph { .. } | Kind::InvertedLists { .. } => true,
        }
    }

    /// The fewest references the index can be trained on.
    pub(crate) fn references_min(&self) -> usize {
        match self.kind {
            Kind::Flat | Kind::ScalarQuantiser { .. } | Kind::FastScan { .. } | Kind::Graph { .. } => REFERENCES_MIN,
            Kind::ProductQuantiser { bits, .. } => REFERENCES_MIN.max(REFERENCES_PER_CELL << bits),
            Kind::InvertedLists { lists } => REFERENCES_MIN.max(REFERENCES_PER_CELL * lists as usize),
        }
    }

    /// The most training rows worth handing over: FAISS samples down to 256 for each cell.
    pub(crate) fn training_references_max(&self) -> usize {
        const USED_PER_CELL: usize = 256;
        match self.kind {
            Kind::Flat | Kind::Graph { .. } => REFERENCES_MIN,
            // Ranges of the numbers are taken over the training rows; later ones are clipped to them.
            Kind::ScalarQuantiser { .. } => USED_PER_CELL * USED_PER_CELL,
            Kind::FastScan { .. } => USED_PER_CELL * CELLS_4_BIT,
            Kind::ProductQuantiser { bits, .. } => USED_PER_CELL << bits,
            Kind::InvertedLists { lists } => USED_PER_CELL * lists as usize,
        }
    }

    /// Bytes of an index of so many rows, by FAISS' layouts; allocator overhead is not counted.
    pub(crate) fn memory_bytes(&self, dimension: u32, rows: usize) -> usize {
        const F32_BYTES: usize = size_of::<f32>();
        const LINK_BYTES: usize = size_of::<i32>();
        const LABEL_BYTES: usize = size_of::<i64>();
        let row_bytes = dimension as usize * F32_BYTES;
        let code_bytes = |codes: u32, bits: u32| (codes * bits).div_ceil(8) as usize;
        match self.kind {
            Kind::Flat => rows * row_bytes,
            // Beside the codes, the lower end and width of each number's range.
            Kind::ScalarQuantiser { bits } => rows * code_bytes(dimension, bits) + 2 * row_bytes,
            Kind::ProductQuantiser { quantisers, bits } => rows * code_bytes(quantisers, bits) + (row_bytes << bits),
            // Blocks of 32 rows, an even number of codes.
            Kind::FastScan { quantisers } => {
                let block_rows = rows.next_multiple_of(32);
                block_rows * code_bytes(quantisers.next_multiple_of(2), 4) + row_bytes * CELLS_4_BIT
            }
            // The bottom level holds twice the links; the levels above hold few rows.
            Kind::Graph { links } => rows * (row_bytes + (2 * links as usize + 1) * LINK_BYTES + LABEL_BYTES),
            Kind::InvertedLists { lists } => rows * (row_bytes + LABEL_BYTES) + lists as usize * row_bytes,
        }
    }
}

impl fmt::Display for Factory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for Factory {
    type Err = EngineError;

    /// Reads `Flat`, `SQ4|SQ6|SQ8|SQfp16|SQbf16`, `PQ<m>[x<bits>][np]`, `PQ<m>x4fs`, `HNSW<links>` or `IVF<lists>,Flat`.
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let kind = parse(text).ok_or_else(|| EngineError::Factory { factory: text.to_owned() })?;
        Ok(Self { text: text.to_owned(), kind })
    }
}

fn parse(text: &str) -> Option<Kind> {
    match text {
        "Flat" => return Some(Kind::Flat),
        "SQ4" => return Some(Kind::ScalarQuantiser { bits: 4 }),
        "SQ6" => return Some(Kind::ScalarQuantiser { bits: 6 }),
        "SQ8" => return Some(Kind::ScalarQuantiser { bits: 8 }),
        "SQfp16" | "SQbf16" => return Some(Kind::ScalarQuantiser { bits: 16 }),
        _ => {}
    }
    if let Some(links) = text.strip_prefix("HNSW") {
        // FAISS multiplies by ln(links) when it draws levels: below 2 that is no number.
        return Some(Kind::Graph { links: number(links, 2, GRAPH_LINKS_MAX)? });
    }
    if let Some(lists) = text.strip_prefix("IVF").and_then(|rest| rest.strip_suffix(",Flat")) {
        return Some(Kind::InvertedLists { lists: number(lists, 1, LISTS_MAX)? });
    }
    let codes = text.strip_prefix("PQ")?;
    if let Some(quantisers) = codes.strip_suffix("x4fs") {
        return Some(Kind::FastScan { quantisers: number(quantisers, 1, FAST_SCAN_QUANTISERS_MAX)? });
    }
    // "np" leaves out polysemous training, which only serves a search mode that is never used here.
    let codes = codes.strip_suffix("np").unwrap_or(codes);
    let (quantisers, bits) = codes.split_once('x').unwrap_or((codes, "8"));
    Some(Kind::ProductQuantiser {
        quantisers: number(quantisers, 1, QUANTISERS_MAX)?,
        bits: number(bits, 4, QUANTISER_BITS_MAX)?,
    })
}

/// A plain decimal without sign or leading zero, within bounds.
fn number(digits: &str, min: u32, max: u32) -> Option<u32> {
    if digits.starts_with('0') || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|value| (min..=max).contains(value))
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

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "flat",
            "PQ",
            "PQ0",
            "PQ08",
            "PQ-8",
            "PQ8x",
            "PQ8x3",
            "PQ8x11",
            "PQ258x4fs",
            "PQ99999999999",
            "HNSW",
            "HNSW1",
            "IVF4(Index9),Flat",
            "IVF0,Flat",
            "IDMap,Flat",
            "Flat\0",
            "RaBitQ",
            "PQ8x4fs_64",
            "é",
        ] {
            assert_eq!(text.parse::<Factory>(), Err(EngineError::Factory { factory: text.to_owned() }), "{text:?}");
        }
    }

    #[test]
    fn the_default_has_a_code_for_every_four_numbers_while_its_sums_fit() {
        let check = |dimension, expected: Option<&str>| {
            let factory = Factory::default_for(dimension).ok();
            assert_eq!(factory.as_ref().map(Factory::as_str), expected, "{dimension}");
        };
        check(4, Some("PQ1x4fs"));
        check(256, Some("PQ64x4fs"));
        check(512, Some("PQ128x4fs"));
        check(1024, Some("PQ256x4fs"));
        check(2048, Some("PQ256x4fs"));
        check(4096, Some("PQ256x4fs"));
        for dimension in [2, 3, 510, 513, 1028] {
            check(dimension, None);
        }
    }
}
