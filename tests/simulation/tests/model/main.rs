//! Stage, search, settle as a small model, checked in every state that it can reach.
//!
//! The model has two or three applicants, all mates of each other, and two or three shards. It knows what is left when
//! a shard is a log and a driver is a process that may die: stages, searches shard by shard, settles with their
//! evidence, obligations and cases, withdrawals and the rounds that they cause. Drivers are lost between any two
//! actions or give up, the sweep resumes also what another driver is at, receipts are lost, shards cannot be reached.
//! Replication within a shard, scores, policies and saturation are not here.
//!
//! Each test states how many faults of each kind may come, at any moment. Safety is checked in every state; progress by
//! letting each state run on undisturbed. Each check prints how many states there are; `--nocapture` shows it.
//!
//! A property is worth what it can find: `mutants` breaks one rule at a time, and the checker has to notice.

mod names;
mod obligation;
mod driver;
mod cluster;
mod protocol;
mod action;
mod steps;
mod apply;
mod properties;
mod mutants;

use stateright::{Checker, Expectation, Model as _};

use cluster::Faults;
use names::{Mate, MateSet, Shard};
use protocol::Protocol;

const NO_FAULTS: Faults = Faults { drivers_lost: 0, receipts_lost: 0, drivers_raced: 0, shards_cut: 0 };

/// A protocol of applicants with these home shards, without faults.
fn protocol<const MATES: usize>(homes: [u8; MATES], shards: u8) -> Protocol {
    let homes = homes.map(Shard).to_vec();
    Protocol { homes, shards, faults: NO_FAULTS, withdrawable: MateSet::NONE, mutant: None }
}

impl Protocol {
    fn with(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    fn withdrawing<const MATES: usize>(self, mates: [u8; MATES]) -> Self {
        Self { withdrawable: mates.map(Mate).into_iter().collect(), ..self }
    }
}

/// Visits every state: whatever must hold holds in each, and whatever must be reached is.
fn check(protocol: Protocol) {
    let size = format!("{} mates x {} shards", protocol.homes.len(), protocol.shards);
    let checker = protocol.checker().spawn_dfs().join();
    println!("{size}: {} states, depth {}", grouped(checker.unique_state_count()), checker.max_depth());
    assert!(checker.is_done(), "some states were not visited");
    for property in checker.model().properties() {
        let discovery = checker.discovery(property.name);
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                let actions = discovery.map(|path| format!("{:#?}", path.into_actions()));
                assert!(actions.is_none(), "not so: {}, after {}", property.name, actions.unwrap_or_default());
            }
            Expectation::Sometimes => assert!(discovery.is_some(), "never so: {}", property.name),
        }
    }
}

/// The number with its digits in groups of three.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

#[test]
fn two_mates_of_one_shard_are_found_under_every_fault() {
    check(protocol([0, 0], 2).with(Faults { drivers_lost: 2, receipts_lost: 2, drivers_raced: 1, shards_cut: 1 }));
}

#[test]
fn two_mates_of_different_shards_are_found_under_every_fault() {
    check(protocol([0, 1], 2).with(Faults { drivers_lost: 2, receipts_lost: 2, drivers_raced: 1, shards_cut: 1 }));
}

#[test]
fn two_mates_are_found_when_a_shard_without_mates_is_silent() {
    check(protocol([0, 1], 3).with(Faults { drivers_lost: 1, receipts_lost: 1, drivers_raced: 1, shards_cut: 1 }));
}

#[test]
fn three_mates_of_one_shard_are_found() {
    check(protocol([0, 0, 0], 2).with(Faults { drivers_lost: 1, shards_cut: 1, ..NO_FAULTS }));
}

#[test]
fn three_mates_are_found_when_a_driver_is_lost_and_drivers_race() {
    check(protocol([0, 0, 1], 2).with(Faults { drivers_lost: 1, drivers_raced: 1, ..NO_FAULTS }));
}

#[test]
fn three_mates_are_found_when_receipts_are_lost() {
    check(protocol([0, 1, 0], 2).with(Faults { receipts_lost: 2, shards_cut: 1, ..NO_FAULTS }));
}

// Three mates by three shards are bounded to a driver lost, a receipt lost and a shard cut, any two of them, or to one
// sweep that races. A race beside another fault makes 2 to 7 million states; it comes with two shards alone.

#[test]
fn three_mates_of_three_shards_are_found_when_a_driver_is_lost_and_a_shard_cut() {
    check(protocol([0, 1, 2], 3).with(Faults { drivers_lost: 1, shards_cut: 1, ..NO_FAULTS }));
}

#[test]
fn three_mates_of_three_shards_are_found_when_a_driver_and_a_receipt_are_lost() {
    check(protocol([0, 1, 2], 3).with(Faults { drivers_lost: 1, receipts_lost: 1, ..NO_FAULTS }));
}

#[test]
fn three_mates_of_three_shards_are_found_when_drivers_race() {
    check(protocol([0, 1, 2], 3).with(Faults { drivers_raced: 1, ..NO_FAULTS }));
}

#[test]
fn three_mates_of_three_shards_are_found_when_a_receipt_is_lost_and_a_shard_cut() {
    check(protocol([0, 1, 2], 3).with(Faults { receipts_lost: 1, shards_cut: 1, ..NO_FAULTS }));
}

#[test]
fn either_of_two_mates_may_be_withdrawn() {
    check(protocol([0, 1], 2).withdrawing([0, 1]).with(Faults { receipts_lost: 1, ..NO_FAULTS }));
}

#[test]
fn a_mate_may_be_withdrawn_while_drivers_race() {
    let faults = Faults { drivers_lost: 1, receipts_lost: 1, drivers_raced: 1, ..NO_FAULTS };
    check(protocol([0, 1], 2).withdrawing([1]).with(faults));
}

#[test]
fn a_mate_may_be_withdrawn_from_the_shard_of_the_other() {
    let faults = Faults { drivers_lost: 1, receipts_lost: 1, shards_cut: 1, ..NO_FAULTS };
    check(protocol([0, 0], 2).withdrawing([0]).with(faults));
}

#[test]
fn one_of_three_mates_may_be_withdrawn() {
    check(protocol([0, 1, 0], 2).withdrawing([1]));
}

#[test]
fn one_of_three_mates_of_three_shards_may_be_withdrawn() {
    check(protocol([0, 1, 2], 3).withdrawing([1]));
}
