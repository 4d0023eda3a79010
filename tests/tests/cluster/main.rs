//! The cluster as registries see it: real servers, reached through gRPC alone, with their processes killed and their input broken.
//!
//! One binary, because each would link RocksDB anew. What one crate promises by itself is tested there.

mod binary;
mod command;
mod exposition;
mod people;
mod registry;

mod enrolment;
mod faults;
mod bad_input;
mod withdrawal;
mod identification;
mod oracle;
mod engines;
mod moves;
mod coordinators;
mod replacement;
mod failover;
mod bulk;
mod foreign_clients;
mod metrics;
mod traces;
mod watch;
mod load;
