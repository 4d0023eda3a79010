//! Sealed segments over FAISS: an engine that proposes rows with a measured chance of missing a mate.
//!
//! The only C++ binding of the index, and, kernels aside, its only `unsafe` (module `raw`). Scores, exact scans and
//! catalogues live in `semel-index`; which engine serves is the storage node's choice. A segment is turned into bytes and back;
//! what becomes of the bytes, and that they come back unchanged, is the caller's affair.
//!
//! FAISS calls BLAS for some trainings and for batches on uncompressed indices. OpenBLAS takes its number of threads
//! from `OPENBLAS_NUM_THREADS` when the process starts: deployments set it to 1, as the search pool already uses every
//! core.

#![deny(unsafe_code)]

mod cut;
mod engine;
mod factory;
mod plain;
#[allow(unsafe_code)]
mod raw;
mod segment;

pub use engine::{EngineError, FaissEngine};
pub use factory::Factory;
pub use plain::{PlainIndex, PlainProbes};
pub use segment::{FaissSegment, PROPOSALS_FIRST_MIN, PROPOSALS_MAX, THRESHOLDS_MAX};
