//! Protocols with one rule broken: the checker finds each, by the property that the rule is for.

use std::collections::BTreeSet;

use stateright::{Checker as _, HasDiscoveries, Model as _};

use crate::cluster::Faults;
use crate::properties::{
    EVERY_CANDIDATE_HAS_A_CASE, NO_MISSED_DUPLICATE, ONE_CASE_PER_PAIR, PROGRESS, SAME_REQUEST_SAME_ANSWER,
    SILENCE_IS_NEVER_UNIQUE, WITHDRAWN_IS_NEVER_A_CANDIDATE,
};
use crate::protocol::{Mutant, Protocol};
use crate::{NO_FAULTS, grouped, protocol};

/// The checker finds a counterexample to each of these properties.
fn finds(protocol: Protocol, mutant: Mutant, properties: &[&'static str]) {
    let wanted: BTreeSet<&'static str> = properties.iter().copied().collect();
    let protocol = Protocol { mutant: Some(mutant), ..protocol };
    let checker = protocol.checker().finish_when(HasDiscoveries::AllOf(wanted)).spawn_bfs().join();
    for property in properties {
        let counterexample = checker.discovery(property);
        let counterexample = counterexample.unwrap_or_else(|| panic!("{mutant:?} passes for: {property}"));
        let (actions, states) = (counterexample.into_actions().len(), grouped(checker.unique_state_count()));
        println!("{mutant:?}: found in {states} states, {actions} actions: not so: {property}");
    }
}

#[test]
fn searching_before_staging_loses_both() {
    finds(protocol([0, 1], 2), Mutant::SearchesBeforeStaging, &[NO_MISSED_DUPLICATE, SILENCE_IS_NEVER_UNIQUE]);
}

#[test]
fn searching_without_a_barrier_loses_both() {
    finds(protocol([0, 1], 2), Mutant::SearchesWithoutBarrier, &[NO_MISSED_DUPLICATE]);
}

#[test]
fn searching_without_a_barrier_finds_who_was_withdrawn() {
    let protocol = protocol([0, 1], 2).withdrawing([1]);
    finds(protocol, Mutant::SearchesWithoutBarrier, &[WITHDRAWN_IS_NEVER_A_CANDIDATE]);
}

#[test]
fn counting_silence_as_absence_loses_both() {
    let protocol = protocol([0, 1], 2).with(Faults { shards_cut: 1, ..NO_FAULTS });
    finds(protocol, Mutant::SilenceIsAbsence, &[SILENCE_IS_NEVER_UNIQUE, NO_MISSED_DUPLICATE]);
}

#[test]
fn letting_the_last_settle_win_changes_a_verdict() {
    let protocol = protocol([0, 1], 2).with(Faults { drivers_raced: 1, ..NO_FAULTS });
    finds(protocol, Mutant::LastSettleWins, &[SAME_REQUEST_SAME_ANSWER]);
}

#[test]
fn letting_the_settle_of_a_lost_driver_win_changes_a_verdict() {
    let protocol = protocol([0, 1], 2).with(Faults { drivers_lost: 1, ..NO_FAULTS });
    finds(protocol, Mutant::LastSettleWins, &[SAME_REQUEST_SAME_ANSWER]);
}

#[test]
fn discharging_what_was_not_delivered_loses_a_case() {
    finds(protocol([0, 1], 2), Mutant::DischargesUndelivered, &[EVERY_CANDIDATE_HAS_A_CASE]);
}

#[test]
fn keying_cases_by_their_opener_opens_two_for_a_pair() {
    finds(protocol([0, 1], 2), Mutant::OrderedCaseKeys, &[ONE_CASE_PER_PAIR]);
}

#[test]
fn acknowledging_a_withdrawal_before_it_is_applied_shows_who_was_withdrawn() {
    let protocol = protocol([0, 1], 2).withdrawing([1]);
    finds(protocol, Mutant::WithdrawalAcknowledgedEarly, &[WITHDRAWN_IS_NEVER_A_CANDIDATE]);
}

#[test]
fn telling_nobody_of_a_moot_case_leaves_a_possible_duplicate_without_a_case() {
    finds(protocol([0, 1], 2).withdrawing([1]), Mutant::MootnessUntold, &[PROGRESS]);
}

#[test]
fn without_a_sweep_what_a_lost_driver_left_behind_stays_unsettled() {
    let protocol = protocol([0, 1], 2).with(Faults { drivers_lost: 1, ..NO_FAULTS });
    finds(protocol, Mutant::NobodySweeps, &[PROGRESS]);
}
