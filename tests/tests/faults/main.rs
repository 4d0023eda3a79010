//! Real servers, each a process in a network namespace of its own, under a workload while faults come and go. Afterwards the checkers
//! of `semel-simulation` judge what clients were told and what is on record, as they judge simulated clusters.
//!
//! Needs Linux and root; a scenario that lacks something says so and passes. Scenarios run one at a time, each under a seed that it
//! prints and that `SEED` replaces; the seed decides what is done, not when processes get to it.
//!
//! Not among the faults: delay and reordering of packets, for which this suite would need a network of its own in user space
//! (`links` queues and drops them); loss of writes that were never synced, for which it would need a file system of its own.

#[path = "../cluster/binary.rs"]
mod binary;
#[path = "../cluster/people.rs"]
mod people;

// What scenarios are made of.
mod scenario;
mod cluster;
mod clients;
mod rest;
mod seen;
mod network;
mod machine;

// The scenarios.
mod processes;
mod links;
mod disks;
mod clocks;
mod memory;
mod soak;
