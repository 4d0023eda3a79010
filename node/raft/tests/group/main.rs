//! Groups of replicas in one thread, over a network and disks that a seed decides. Not here: real storage, and the product's
//! own state machines.

mod chance;
mod counter;
mod simulation;

mod barriers;
mod bounds;
mod crashes;
mod elections;
mod membership;
mod proposals;
mod repeatability;
mod snapshots;
mod stops;
mod syncs;
