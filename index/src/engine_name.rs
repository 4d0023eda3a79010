//! The names of engines, as settings and policies write them.
//!
//! Which of them a process can build segments with is its shell's affair; what FAISS makes of a factory string, `semel-index-faiss`'s. Only an
//! index type whose behaviour was read in the source of FAISS 1.12 is let through: FAISS' own parser takes many more, some of which
//! abort the process or overflow silently.

use std::fmt;
use std::str::FromStr;

/// The most sub-quantisers of a fast-scan index. It adds up one byte for each in 16 bits, unchecked: 257 · 255 = 65,535.
const FAST_SCAN_QUANTISERS_MAX: u32 = 257;
/// The longest name of an engine, in bytes.
pub const ENGINE_NAME_BYTES_MAX: usize = 64;
/// The most bits of a code of one sub-quantiser without fast-scan.
const QUANTISER_BITS_MAX: u32 = 10;
/// The most sub-quantisers without fast-scan.
const QUANTISERS_MAX: u32 = 4096;
/// The most links of a node of a graph.
const GRAPH_LINKS_MAX: u32 = 256;
/// The most inverted lists.
const LISTS_MAX: u32 = 65_536;
/// The codes of the default factory above this many components; below, one for every four.
const DEFAULT_QUANTISERS_MAX: u32 = 256;
/// Components for each code of the default factory.
const COMPONENTS_PER_CODE: u32 = 4;

/// An engine that segments can be built with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineName {
    /// No engine: every row is compared.
    Exact,
    /// Short codes and an estimate of known error.
    Sketch,
    /// FAISS with the default factory of each dimension.
    Faiss,
    /// FAISS with one factory.
    FaissFactory(FaissFactory),
}

/// A checked FAISS factory string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaissFactory {
    text: String,
    index: FaissIndex,
}

/// The index types, with the parameters that matter outside FAISS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaissIndex {
    /// Uncompressed numbers.
    Flat,
    /// A few bits for each number.
    ScalarQuantiser {
        /// How many.
        bits: u32,
    },
    /// A code for each of several groups of numbers.
    ProductQuantiser {
        /// The groups.
        quantisers: u32,
        /// Bits of a code.
        bits: u32,
    },
    /// The same in 4 bits, scanned in registers.
    FastScan {
        /// The groups.
        quantisers: u32,
    },
    /// A graph of neighbours.
    Graph {
        /// Links of a node.
        links: u32,
    },
    /// Lists around centroids, of which one is visited.
    InvertedLists {
        /// The lists.
        lists: u32,
    },
}

/// A text that names no engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", EngineName::RULE)]
pub struct UnknownEngine;

impl EngineName {
    /// What a name must be.
    pub const RULE: &str = "exact, sketch, faiss or faiss:<factory>, where a factory is Flat, SQ4, SQ6, SQ8, SQfp16, SQbf16, \
        PQ<m>[x<bits>][np], PQ<m>x4fs with m up to 257, HNSW<links> or IVF<lists>,Flat";

    /// What must divide the number of components of the embeddings that the engine takes.
    pub fn dimension_divisor(&self, dimension: u32) -> u32 {
        match self {
            Self::Exact | Self::Sketch => 1,
            Self::Faiss => FaissFactory::default_divisor(dimension),
            Self::FaissFactory(factory) => factory.dimension_divisor(),
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => formatter.write_str("exact"),
            Self::Sketch => formatter.write_str("sketch"),
            Self::Faiss => formatter.write_str("faiss"),
            Self::FaissFactory(factory) => write!(formatter, "faiss:{factory}"),
        }
    }
}

impl FromStr for EngineName {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        match text {
            "exact" => Ok(Self::Exact),
            "sketch" => Ok(Self::Sketch),
            "faiss" => Ok(Self::Faiss),
            _ => text.strip_prefix("faiss:").ok_or(UnknownEngine)?.parse().map(Self::FaissFactory),
        }
    }
}

impl FaissFactory {
    /// The default for a dimension: 4-bit fast-scan codes, one for every four numbers up to 1,024 of them.
    ///
    /// Above that the sums of a fast-scan index would overflow, so the numbers are shared out over 256 codes. `None` unless
    /// [`Self::default_divisor`] divides the dimension.
    pub fn default_for(dimension: u32) -> Option<Self> {
        if dimension == 0 || !dimension.is_multiple_of(Self::default_divisor(dimension)) {
            return None;
        }
        let quantisers = (dimension / COMPONENTS_PER_CODE).min(DEFAULT_QUANTISERS_MAX);
        Some(Self { text: format!("PQ{quantisers}x4fs"), index: FaissIndex::FastScan { quantisers } })
    }

    /// What must divide a dimension that has a default.
    pub fn default_divisor(dimension: u32) -> u32 {
        if dimension <= COMPONENTS_PER_CODE * DEFAULT_QUANTISERS_MAX {
            COMPONENTS_PER_CODE
        } else {
            DEFAULT_QUANTISERS_MAX
        }
    }

    /// The string as FAISS reads it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The index type.
    pub fn index(&self) -> FaissIndex {
        self.index
    }

    /// What must divide the dimension: the index type splits the numbers evenly.
    pub fn dimension_divisor(&self) -> u32 {
        match self.index {
            FaissIndex::ProductQuantiser { quantisers, .. } | FaissIndex::FastScan { quantisers } => quantisers,
            FaissIndex::Flat
            | FaissIndex::ScalarQuantiser { .. }
            | FaissIndex::Graph { .. }
            | FaissIndex::InvertedLists { .. } => 1,
        }
    }
}

impl fmt::Display for FaissFactory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for FaissFactory {
    type Err = UnknownEngine;

    /// Reads `Flat`, `SQ4|SQ6|SQ8|SQfp16|SQbf16`, `PQ<m>[x<bits>][np]`, `PQ<m>x4fs`, `HNSW<links>` or `IVF<lists>,Flat`.
    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let index = parse(text).ok_or(UnknownEngine)?;
        Ok(Self { text: text.to_owned(), index })
    }
}

fn parse(text: &str) -> Option<FaissIndex> {
    match text {
        "Flat" => return Some(FaissIndex::Flat),
        "SQ4" => return Some(FaissIndex::ScalarQuantiser { bits: 4 }),
        "SQ6" => return Some(FaissIndex::ScalarQuantiser { bits: 6 }),
        "SQ8" => return Some(FaissIndex::ScalarQuantiser { bits: 8 }),
        "SQfp16" | "SQbf16" => return Some(FaissIndex::ScalarQuantiser { bits: 16 }),
        _ => {}
    }
    if let Some(links) = text.strip_prefix("HNSW") {
        // FAISS multiplies by ln(links) when it draws levels: below 2 that is no number.
        return Some(FaissIndex::Graph { links: number(links, 2, GRAPH_LINKS_MAX)? });
    }
    if let Some(lists) = text.strip_prefix("IVF").and_then(|rest| rest.strip_suffix(",Flat")) {
        return Some(FaissIndex::InvertedLists { lists: number(lists, 1, LISTS_MAX)? });
    }
    let codes = text.strip_prefix("PQ")?;
    if let Some(quantisers) = codes.strip_suffix("x4fs") {
        return Some(FaissIndex::FastScan { quantisers: number(quantisers, 1, FAST_SCAN_QUANTISERS_MAX)? });
    }
    // "np" leaves out polysemous training, which only serves a search mode that is never used here.
    let codes = codes.strip_suffix("np").unwrap_or(codes);
    let (quantisers, bits) = codes.split_once('x').unwrap_or((codes, "8"));
    Some(FaissIndex::ProductQuantiser {
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
    fn names_are_read_and_written_alike() {
        let factories = ["Flat", "SQ8", "PQ128x4fs", "PQ64x8", "PQ64", "PQ64x6np", "HNSW32", "IVF64,Flat"];
        let factories = factories.map(|factory| format!("faiss:{factory}"));
        for name in ["exact", "sketch", "faiss"].into_iter().chain(factories.iter().map(String::as_str)) {
            assert_eq!(name.parse::<EngineName>().expect("known").to_string(), name);
            assert!(name.len() <= ENGINE_NAME_BYTES_MAX);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for name in ["", "Exact", "exact ", "sketch:1", "faiss:", "faiss:flat", "hnsw", "PQ8x4fs"] {
            assert_eq!(name.parse::<EngineName>(), Err(UnknownEngine), "{name:?}");
        }
        for factory in [
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
            assert_eq!(factory.parse::<FaissFactory>(), Err(UnknownEngine), "{factory:?}");
        }
    }

    #[test]
    fn the_default_has_a_code_for_every_four_numbers_while_its_sums_fit() {
        let check = |dimension, expected: Option<&str>| {
            let factory = FaissFactory::default_for(dimension);
            assert_eq!(factory.as_ref().map(FaissFactory::as_str), expected, "{dimension}");
        };
        check(4, Some("PQ1x4fs"));
        check(256, Some("PQ64x4fs"));
        check(512, Some("PQ128x4fs"));
        check(1024, Some("PQ256x4fs"));
        check(2048, Some("PQ256x4fs"));
        check(4096, Some("PQ256x4fs"));
        for dimension in [0, 2, 3, 510, 513, 1028] {
            check(dimension, None);
        }
    }

    #[test]
    fn an_engine_says_what_divides_its_dimensions() {
        for (name, dimension, divisor) in [
            ("exact", 1028, 1),
            ("sketch", 1028, 1),
            ("faiss", 512, 4),
            ("faiss", 1028, 256),
            ("faiss:PQ96x4fs", 512, 96),
        ] {
            assert_eq!(name.parse::<EngineName>().expect("known").dimension_divisor(dimension), divisor, "{name}");
        }
    }
}
