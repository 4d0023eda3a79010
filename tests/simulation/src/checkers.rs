//! What must hold of every history, one property to a file, each named as the sentence it protects.
//!
//! A checker looks at nothing but a [`History`], so that it judges simulated and real clusters alike. Each is itself tested by
//! a defect that it must notice: see `defects` in the simulation.

mod a_candidate_reaches_its_threshold;
mod a_log_is_bounded;
mod a_new_voter_is_caught_up;
mod a_read_never_goes_back;
mod a_search_sees_what_was_acknowledged;
mod a_snapshot_keeps_promises;
mod an_enrolment_pins_the_policy_in_force;
mod an_identification_finds_every_mate;
mod coverage_is_what_was_searched;
mod every_candidate_has_a_case;
mod no_missed_duplicate;
mod no_replica_stops_by_itself;
mod nothing_acknowledged_is_lost;
mod one_case_per_pair;
mod one_configuration_at_a_time;
mod one_leader_a_term;
mod one_vote_a_term;
mod only_members_answer;
mod progress;
mod replicas_agree;
mod same_request_same_answer;
mod silence_is_never_unique;
mod withdrawn_is_never_a_candidate;

use std::fmt;

use crate::history::History;

/// A property of histories.
#[derive(Debug, Clone, Copy)]
pub struct Checker {
    /// The sentence that it protects.
    pub name: &'static str,
    check: fn(&History) -> Result<(), String>,
}

/// A property that a history does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The checker's name.
    pub checker: &'static str,
    /// What contradicts it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.checker, self.what)
    }
}

macro_rules! checkers {
    ($($name:ident),* $(,)?) => {
        &[$(Checker { name: stringify!($name), check: $name::check }),*]
    };
}

/// Every checker: first safety, last progress.
pub const CHECKERS: &[Checker] = checkers![
    no_missed_duplicate,
    nothing_acknowledged_is_lost,
    replicas_agree,
    one_vote_a_term,
    one_leader_a_term,
    one_configuration_at_a_time,
    a_new_voter_is_caught_up,
    only_members_answer,
    a_snapshot_keeps_promises,
    a_log_is_bounded,
    a_search_sees_what_was_acknowledged,
    silence_is_never_unique,
    coverage_is_what_was_searched,
    a_candidate_reaches_its_threshold,
    one_case_per_pair,
    every_candidate_has_a_case,
    same_request_same_answer,
    a_read_never_goes_back,
    an_enrolment_pins_the_policy_in_force,
    withdrawn_is_never_a_candidate,
    an_identification_finds_every_mate,
    no_replica_stops_by_itself,
    progress,
];

/// What contradicts the checkers, in their order; nothing if all hold.
pub fn judge(history: &History) -> Vec<Violation> {
    let judged = CHECKERS.iter().map(|checker| ((checker.check)(history), checker.name));
    judged.filter_map(|(held, checker)| held.err().map(|what| Violation { checker, what })).collect()
}

/// `Err` with the words, unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+));
        }
    };
}
use ensure;
