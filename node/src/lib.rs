//! The storage node: hosts replicas of shards, searches them, and serves coordinators.
//!
//! A shell: it owns the disk, the sockets, the threads and the clock. What a shard replicates and how it is searched live in the
//! cores (`semel-shard`, `semel-index`); how a replica is driven lives in `semel-raft-host`.

#![deny(unsafe_code)]

mod config;
mod engine;
mod server;
mod identity;
mod engine_report;
mod membership;
mod recall_audit;
mod replicas;
mod segment_cache;
mod shard_view;
mod memory;
mod loading;
mod sealing;
mod search;
mod service;
mod metrics;
mod status;

pub use config::{ENVIRONMENT_PREFIX, NodeConfig, TemplatesKept};
// For the benchmark only.
#[doc(hidden)]
pub mod measured;

pub use engine::engine;
pub use server::serve;
