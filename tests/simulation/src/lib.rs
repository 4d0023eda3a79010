//! The whole cluster in one thread, from one seed: the real cores of Semel, with time, network, disks and clocks owned by a
//! simulator, and checkers that judge what happened.
//!
//! [`simulate`] runs one seed. What a run is made of:
//!
//! - `world` is what surrounds the processes: time, network, chance, death. `disk` is what survives them. `witness` is what it
//!   sees of replicas.
//! - `host` runs replicas as a process does; `node` and `coordinator` are the two kinds of process; `clients` ask.
//! - `plans` says what they ask, `nemesis` knows the faults, `moves` those of replicas, `cluster` puts everything together, `rest` reads what is on record at the end.
//! - [`history`] is what happened, [`checkers`] judge it, [`mutant`] holds the defects that test the checkers.

#![forbid(unsafe_code)]

// What is judged, and by what.
pub mod checkers;
pub mod history;

// A run.
mod cluster;
mod moves;
mod nemesis;
mod plans;
mod rest;

// What takes part in it.
mod clients;
mod coordinator;
mod host;
mod node;
mod people;

mod convert;
mod messages;

// What surrounds it.
mod chance;
mod disk;
mod network;
mod witness;
mod world;

// What it says of itself.
pub mod batch;
pub mod mutant;
mod tally;
mod trace;

pub use tally::Tally;
pub use trace::{Detail, Trace};

use checkers::{Violation, judge};
use cluster::Cluster;
use mutant::Mutant;

/// What became of one seed.
#[derive(Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What contradicts the checkers; nothing if all hold.
    pub violations: Vec<Violation>,
    /// What was done and suffered.
    pub tally: Tally,
    /// What happened, in order.
    pub trace: Trace,
    /// How long it was for those who took part, in microseconds.
    pub simulated_micros: u64,
}

/// Runs one seed, with a defect if one is named. The same arguments give the same run, event for event. Defects inside a core
/// need the feature `mutants`.
pub fn simulate(seed: u64, mutant: Option<Mutant>, detail: Detail) -> Run {
    #[cfg(feature = "mutants")]
    Mutant::choose(mutant);
    let mut cluster = Cluster::new(seed, mutant, detail);
    cluster.run();
    let history = rest::history(&mut cluster);
    let violations = judge(&history);
    let Cluster { world, .. } = cluster;
    Run { seed, violations, tally: world.tally, trace: world.trace, simulated_micros: world.now }
}
