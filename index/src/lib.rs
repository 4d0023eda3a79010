//! Comparison vocabulary, canonical templates, kernels, segments and the catalogue of one shard.
//!
//! This crate is a deterministic core: it has no sockets, files, clocks, threads or ambient randomness. It does not
//! know how enrolments are replicated (`semel-shard`), how searches reach it (`semel-node`) or how embeddings are
//! rotated (the coordinator does that before anything arrives here).

#![deny(unsafe_code)]

// Who, what is compared with what, and how close two are.
mod ids;
mod score;
mod slot;

// Templates in their canonical form, and the one definition of a score.
mod binary_code;
mod compare;
mod embedding;
mod template;

// The only module with `unsafe`: processor-specific kernels, each tested equal to its portable twin.
#[allow(unsafe_code)]
mod kernel;

// Many templates side by side, and the engines that propose among them.
mod binary_rows;
mod embedding_rows;
mod engine_name;
mod ordinals;
mod rows;
mod sealed_rows;
mod segment;
mod sketch;

// Whether engines lose mates: made-up ones, and what is seen of them.
mod planted;
mod proportion;
mod recall;

// What is kept of a catalogue outside memory: the form of the files, not the files.
mod stored;

// What one shard replica's searches can find, and how they find it.
mod catalogue;
mod priority;
mod search;

// For the benchmark only.
#[doc(hidden)]
pub mod measured;

pub use binary_code::BinaryCode;
pub use catalogue::{
    Catalogue, CatalogueConfig, CatalogueSnapshot, CollectionStatus, Compacted, CompactionError, CompactionJob,
    CompactionTicket, FoundSegment, ResumeError, SEAL_AT_REFERENCES_DEFAULT, SEAL_JOBS_MAX_DEFAULT, SealJob,
    SealTicket, Sealed, StagedEnrolment, StagedReference, StoreError, StoreJob, StoreTicket, StoredParts,
    WantedSegment,
};
pub use compare::{Comparison, compare};
pub use embedding::{CanonicalEmbedding, append_unit};
pub use embedding_rows::{EmbeddingRows, ScanProbe};
pub use engine_name::{ENGINE_NAME_BYTES_MAX, EngineName, FaissFactory, FaissIndex, UnknownEngine};
pub use ids::{
    EnrolmentId, GalleryId, InvalidId, KeyVersion, PolicyVersion, SHARDS_MAX, ShardCount, ShardId, shard_of,
};
pub use kernel::kernel_path;
pub use planted::{Direction, Planted, Planter};
pub use priority::Priority;
pub use proportion::{Interval, Proportion};
pub use rows::EnrolmentOrdinal;
pub use score::ComparisonScore;
pub use sealed_rows::{TemplateSource, Templates, TemplatesUnreadable};
pub use search::{Cancelled, Candidate, InTurn, ProbeReference, SearchProbe, ShardSearch, Spread, Unanswered};
pub use segment::{
    BuildError, Calibration, CollectionKey, Engine, EngineProbe, Engines, ExactEngine, MISS_BUDGET_PPB_DEFAULT,
    MISS_BUDGET_PPB_MAX, OwnEngines, Proposal, ScanCost, Segment,
};
pub use sketch::SketchEngine;
pub use slot::{Modality, Position, SLOTS, SLOTS_MAX, Slot, SlotMask};
pub use stored::{
    Checkpoint, CheckpointHeader, CheckpointOf, RowReader, SegmentFile, SegmentHeader, SegmentParts, StoreKey,
    StoredId, UnusableFile,
};
pub use template::{
    BINARY_CODE_BITS_MAX, BinaryCodeSpec, EMBEDDING_DIMENSION_MAX, EMBEDDING_DIMENSION_MIN, InvalidSpec, Template,
    TemplateError, TemplateSpec,
};
