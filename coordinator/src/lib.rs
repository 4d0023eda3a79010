//! The coordinator: the cluster's front and its memory of itself.
//!
//! A shell: it owns the sockets, the clock and the metadata group's disk. What an enrolment goes through, how answers are merged and
//! decided, and what the metadata group replicates live in the core (`semel-workflow`).

#![forbid(unsafe_code)]

mod config;
mod server;
mod volume;
mod admission;
mod introductions;
mod metadata;
mod front;
mod enrolment_service;
mod drive;
mod nodes;
mod routes;
mod moves;
mod replacement;
mod obligations;
mod sweep;
mod identification_service;
mod gallery_service;
mod case_service;
mod cluster_service;
mod membership_service;
mod metrics;
mod status;
mod clock;

pub use config::{CoordinatorConfig, ENVIRONMENT_PREFIX, Voter};
pub use server::serve;
