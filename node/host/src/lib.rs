//! The shell that every raft group of a process runs in: rows in RocksDB, one thread that drives all replicas with one
//! write per turn, another that syncs, envelopes to and from other processes, and the clock.
//!
//! Lives here: [`Database`] and [`GroupStore`] (rows), [`Host`] (the thread and its owner), [`HostHandle`] (what servers
//! call), [`SnapshotServer`] (rows of a replica from another process), [`Transport`] (where messages leave; [`GrpcTransport`] between processes), and what every process with a host also
//! needs: [`server`], [`settings`], [`Places`]. Does not live here: raft itself (`semel-raft`), what is replicated, and the services that
//! the crates with hosts offer.

mod database;
mod database_options;
mod database_error;
mod data_folder;
mod write_ahead_log;
mod generations;
mod holders;
mod group_store;
mod config;
mod host;
mod handle;
mod publisher;
mod status;
mod syncs;
mod envelope;
mod loopback;
mod grpc;
mod late_routes;
mod places;
pub mod server;
pub mod settings;
pub mod metrics;
mod opening;
mod inbox;
mod clock;
mod snapshot;
mod seat;
mod driver;

pub use config::{FreshGroup, GroupConfig, HostConfig};
pub use data_folder::FORMAT_VERSION;
pub use database::{Database, Durability, IDENTITY};
pub use database_error::{OpenDatabaseError, WriteError};
pub use envelope::{ClusterId, Envelope, Transport};
pub use group_store::{GroupSnapshot, GroupStore};
pub use grpc::{Directory, EXCHANGE_BYTES_MAX, GrpcTransport, RaftServer};
pub use handle::{HostHandle, RemoveGroupError, RequestError};
pub use host::{Host, StartError};
pub use late_routes::{Opener, late_routes};
pub use loopback::LoopbackTransport;
pub use metrics::HostMetrics;
pub use opening::AddGroupError;
pub use places::{Place, Places};
pub use publisher::{Discard, Publisher};
pub use snapshot::{OutgoingSnapshot, SNAPSHOT_MESSAGE_BYTES_MAX, SnapshotServer};
pub use status::GroupStatus;
