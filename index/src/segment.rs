//! The seam between the catalogue and the engines that search sealed segments.
//!
//! An engine proposes, it never decides: whatever it proposes is re-scored from the canonical template. The exact
//! engine lives here; engines over other libraries live in crates of their own.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use crate::embedding::CanonicalEmbedding;
use crate::embedding_rows::EmbeddingRows;
use crate::engine_name::{EngineName, UnknownEngine};
use crate::ids::{GalleryId, KeyVersion};
use crate::score::ComparisonScore;
use crate::sketch::{SketchEngine, SketchProbe};
use crate::slot::Slot;

/// The default of [`Calibration::miss_budget_ppb`]: 3e-5 of mates.
pub const MISS_BUDGET_PPB_DEFAULT: u32 = 30_000;
/// The largest miss budget a policy may set, and a probe may carry from one: a thousandth of mates.
pub const MISS_BUDGET_PPB_MAX: u32 = 1_000_000;

/// What one catalogue collection holds: references of one slot, rotated with one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionKey {
    /// The gallery.
    pub gallery: GalleryId,
    /// The rotation key's version.
    pub key_version: KeyVersion,
    /// The slot.
    pub slot: Slot,
}

/// The rows of a segment that may reach a threshold, for one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// Every row of the segment whose score reaches the threshold is among these, within the miss budget. Order and
    /// repetition do not matter.
    Rows(Vec<u32>),
    /// The engine cannot tell (no cut for this threshold and miss budget, or too many rows above it): the caller scans
    /// all rows.
    ScanExactly,
}

/// A probe, and what engines make of it once for all segments of a search.
#[derive(Debug)]
pub struct EngineProbe {
    embedding: CanonicalEmbedding,
    sketch: OnceLock<SketchProbe>,
}

impl EngineProbe {
    /// A probe of which nothing is made yet.
    pub fn new(embedding: &CanonicalEmbedding) -> Self {
        Self { embedding: embedding.clone(), sketch: OnceLock::new() }
    }

    /// The probe itself.
    pub fn embedding(&self) -> &CanonicalEmbedding {
        &self.embedding
    }

    pub(crate) fn sketch(&self) -> &SketchProbe {
        self.sketch.get_or_init(|| SketchProbe::new(&self.embedding))
    }
}

/// What a search of a segment takes for one probe, to be held against what the machine has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanCost {
    /// Bytes read.
    pub bytes: usize,
    /// Entries looked up in tables and added up, if the engine does its work so.
    pub lookups: Option<u64>,
}

/// An immutable search structure over the rows of one sealed segment. Derived data: it can be dropped and rebuilt.
pub trait Segment: Send + Sync + Debug {
    /// The name of the engine that built it.
    fn engine(&self) -> &str;

    /// Bytes of memory held beyond the rows it was built from.
    fn memory_bytes(&self) -> usize;

    /// What a search of all rows takes at least, where no row is proposed; `None` if a search looks at some of them alone.
    fn scan_cost(&self) -> Option<ScanCost> {
        Some(ScanCost { bytes: self.memory_bytes(), lookups: None })
    }

    /// One proposal per probe, in their order, for one threshold and the share of mates that these probes may miss, in
    /// parts per 10⁹. The probes have the rows' dimension.
    ///
    /// A cut measured for a larger budget must not be used, whatever the segment was last calibrated for: it answers
    /// [`Proposal::ScanExactly`] then. One measured for a smaller budget keeps this one too.
    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, miss_budget_ppb: u32) -> Vec<Proposal>;

    /// Prepares to propose for thresholds or a miss budget it was not built with, after a policy change. A segment
    /// that has no cuts to measure has nothing to do. `rows` are those it was built from.
    ///
    /// # Errors
    /// [`BuildError`]; the segment then keeps the cuts it has and answers [`Proposal::ScanExactly`] beyond them.
    fn calibrate(&self, rows: &EmbeddingRows, calibration: &Calibration) -> Result<(), BuildError> {
        let _ = (rows, calibration);
        Ok(())
    }

    /// Whether [`Self::calibrate`] would change nothing.
    fn is_calibrated(&self, calibration: &Calibration) -> bool {
        let _ = calibration;
        false
    }

    /// What [`Engine::restore`] makes this segment from, its cuts included; `None` where an engine keeps nothing, so that
    /// its segments are built again.
    ///
    /// # Errors
    /// [`BuildError`] if the engine's library refuses.
    fn to_bytes(&self) -> Result<Option<Vec<u8>>, BuildError> {
        Ok(None)
    }
}

/// Builds segments.
pub trait Engine: Send + Sync + Debug {
    /// `exact`, or the name of the library and its parameters, such as `faiss:PQ128x4fs`.
    fn name(&self) -> &str;

    /// The fewest references a segment of this dimension can be built from; smaller ones stay growing, hence exact.
    fn references_min(&self, dimension: u32) -> usize;

    /// Builds a segment over all of `rows`. A pure function of its arguments: replicas build equal segments.
    ///
    /// # Errors
    /// [`BuildError`]; the rows are then searched exactly.
    fn build(&self, rows: Arc<EmbeddingRows>, calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError>;

    /// Everything that the bytes of a segment of this dimension depend on beside its rows: the parameters as resolved, and
    /// the version of the library. Bytes written under another fingerprint are never restored.
    fn fingerprint(&self, dimension: u32) -> String {
        let _ = dimension;
        self.name().to_owned()
    }

    /// Makes a segment of what [`Segment::to_bytes`] gave under the same [`Self::fingerprint`], for as many rows.
    ///
    /// The bytes go to the engine's library as they are: the caller has made sure that they are what was written.
    ///
    /// # Errors
    /// [`BuildError`]; the segment is then built from its rows.
    fn restore(&self, dimension: u32, rows: usize, bytes: &[u8]) -> Result<Box<dyn Segment>, BuildError> {
        let _ = (dimension, bytes);
        let reason = "the engine keeps no segments".to_owned();
        Err(BuildError { engine: self.name().to_owned(), references: rows, reason })
    }
}

/// Finds engines by name.
pub trait Engines: Send + Sync + Debug {
    /// The engine of a name; `None` if this process has none of it.
    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>>;
}

/// The engines of this crate.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnEngines;

impl Engines for OwnEngines {
    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>> {
        match name.parse() {
            Ok(EngineName::Exact) => Some(Arc::new(ExactEngine)),
            Ok(EngineName::Sketch) => Some(Arc::new(SketchEngine)),
            Ok(EngineName::Faiss | EngineName::FaissFactory(_)) | Err(UnknownEngine) => None,
        }
    }
}

/// The review thresholds a segment will be searched with, and the share of mates it may miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// Thresholds to measure a cut for.
    pub thresholds: Vec<ComparisonScore>,
    /// Mates that may be missed, in parts per 10⁹.
    pub miss_budget_ppb: u32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { thresholds: Vec::new(), miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT }
    }
}

/// Why an engine could not build or calibrate a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("engine {engine} cannot build a segment of {references} references: {reason}")]
pub struct BuildError {
    /// The engine's name.
    pub engine: String,
    /// How many references there were.
    pub references: usize,
    /// What the engine or its library said; never a template.
    pub reason: String,
}

/// The engine that compares with every row: the oracle, and what every other engine falls back to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExactEngine;

#[derive(Debug)]
pub(crate) struct ExactSegment;

const EXACT: &str = "exact";

impl Engine for ExactEngine {
    fn name(&self) -> &str {
        EXACT
    }

    fn references_min(&self, _dimension: u32) -> usize {
        1
    }

    fn build(&self, _rows: Arc<EmbeddingRows>, _calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        Ok(Box::new(ExactSegment))
    }

    fn restore(&self, _dimension: u32, _rows: usize, _bytes: &[u8]) -> Result<Box<dyn Segment>, BuildError> {
        Ok(Box::new(ExactSegment))
    }
}

impl Segment for ExactSegment {
    fn engine(&self) -> &str {
        EXACT
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn propose(&self, probes: &[&EngineProbe], _threshold: ComparisonScore, _miss_budget_ppb: u32) -> Vec<Proposal> {
        probes.iter().map(|_| Proposal::ScanExactly).collect()
    }

    fn is_calibrated(&self, _calibration: &Calibration) -> bool {
        true
    }

    fn to_bytes(&self) -> Result<Option<Vec<u8>>, BuildError> {
        Ok(Some(Vec::new()))
    }
}
