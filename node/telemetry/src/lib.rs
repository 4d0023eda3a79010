//! What a process tells of itself while it runs: metrics and health over HTTP, and traces over OTLP.
//!
//! Lives here: instruments and the [`Monitor`] that shows them, the small HTTP server in front of it, how a trace travels in the
//! metadata of calls, and how spans leave the process. Does not live here: what is measured, which each crate names beside its own
//! work, and logs, which belong to the binary.
//!
//! Metrics are of `prometheus-client`, the Prometheus project's own client: no global registry (a process may run several servers),
//! few dependencies, and both text formats. Traces are of `opentelemetry`; code makes `tracing` spans and knows nothing of it.
//!
//! Nothing here may hold a template or a score: labels are fixed words and shard numbers, span fields are identifiers and counts.

#![forbid(unsafe_code)]

mod instruments;
mod families;
mod monitor;
mod process;
mod http_server;
mod span;
mod export;

pub use export::{TraceError, TraceExport, TraceLayer};
pub use families::{Counts, Families};
pub use http_server::serve;
pub use instruments::{Seconds, Sizes, Timer};
pub use monitor::Monitor;
pub use process::resident_bytes;
pub use span::{TRACE_TARGET, carry, continued, follow_callers, trace_id};

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
#[doc(hidden)]
pub use tracing;
pub use tracing::Instrument;
