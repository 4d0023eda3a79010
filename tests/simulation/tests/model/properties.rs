//! What must hold in every state, and what must be reached in some, so that a model which does nothing is noticed.

use stateright::Property;

use crate::cluster::{Cluster, Enrolment};
use crate::driver::{Driver, Searched, Verdict};
use crate::names::Mate;
use crate::obligation::{Duty, Obligation};
use crate::protocol::Protocol;

pub(crate) const NO_MISSED_DUPLICATE: &str = "of two mates that are settled and not withdrawn, one lists the other";
pub(crate) const SILENCE_IS_NEVER_UNIQUE: &str = "unique is who was searched for in every shard after the stage";
pub(crate) const SAME_REQUEST_SAME_ANSWER: &str = "the verdict of a round never changes";
pub(crate) const ONE_CASE_PER_PAIR: &str = "a pair has one case";
pub(crate) const EVERY_CANDIDATE_HAS_A_CASE: &str = "a candidate whose case is owed no longer has one";
pub(crate) const WITHDRAWN_IS_NEVER_A_CANDIDATE: &str =
    "no search lists an enrolment whose withdrawal was acknowledged before it began";
pub(crate) const PROGRESS: &str = "left undisturbed, everything is finished";

/// More steps than any model needs from any state to its end.
const STEPS_TO_END_MAX: usize = 100;

/// The properties of a model of this size, under these faults.
pub(crate) fn of(protocol: &Protocol) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always(NO_MISSED_DUPLICATE, no_missed_duplicate),
        Property::always(SILENCE_IS_NEVER_UNIQUE, silence_is_never_unique),
        Property::always(SAME_REQUEST_SAME_ANSWER, same_request_same_answer),
        Property::always(ONE_CASE_PER_PAIR, one_case_per_pair),
        Property::always(EVERY_CANDIDATE_HAS_A_CASE, every_candidate_has_a_case),
        Property::always(WITHDRAWN_IS_NEVER_A_CANDIDATE, withdrawn_is_never_a_candidate),
        Property::always(PROGRESS, progress),
        Property::sometimes("both of two mates list each other", |protocol: &Protocol, cluster: &Cluster| {
            pairs_settled(protocol, cluster).any(|pair| pair.lists() == (true, true))
        }),
        Property::sometimes("only one of two mates lists the other", |protocol: &Protocol, cluster: &Cluster| {
            pairs_settled(protocol, cluster).any(|pair| pair.lists().0 != pair.lists().1)
        }),
        Property::sometimes("a case is named by both of its pair", |protocol: &Protocol, cluster: &Cluster| {
            pairs(protocol).any(|(one, other)| is_named_by_both(protocol, cluster, one, other))
        }),
    ];
    if protocol.faults.drivers_raced > 0 {
        properties
            .push(Property::sometimes("two drivers come to different verdicts", |_: &Protocol, cluster: &Cluster| {
                cluster.enrolments.iter().any(has_a_driver_of_another_mind)
            }));
    }
    if protocol.faults.drivers_lost > 0 {
        properties.push(Property::sometimes(
            "a settle of a lost driver changes nothing any more",
            |_: &Protocol, cluster: &Cluster| {
                cluster.enrolments.iter().any(|enrolment| {
                    enrolment.verdict.is_some()
                        && enrolment.drivers.iter().any(|driver| matches!(driver, Driver::Adrift(_)))
                })
            },
        ));
    }
    if protocol.faults.shards_cut > 0 {
        properties.push(Property::sometimes(
            "a search waits for a silent shard alone",
            |protocol: &Protocol, cluster: &Cluster| {
                cluster.enrolments.iter().flat_map(|enrolment| &enrolment.drivers).any(|driver| match driver {
                    Driver::Searching(search) => {
                        protocol.shards().all(|shard| search.answers[shard.index()].is_some() == cluster.reaches(shard))
                    }
                    Driver::Gone | Driver::Staging | Driver::Settling(_) | Driver::Adrift(_) => false,
                })
            },
        ));
    }
    if !protocol.withdrawable.is_empty() {
        properties.push(Property::sometimes(
            "a candidate is withdrawn and its finder settled anew",
            |_: &Protocol, cluster: &Cluster| verdicts(cluster).any(|verdict| verdict.round > 1),
        ));
        properties.push(Property::sometimes("a withdrawn mate is not found", |_: &Protocol, cluster: &Cluster| {
            verdicts(cluster).any(|verdict| !verdict.withdrawn_before.is_empty())
        }));
    }
    properties
}

fn no_missed_duplicate(protocol: &Protocol, cluster: &Cluster) -> bool {
    pairs_settled(protocol, cluster).all(|pair| pair.lists() != (false, false))
}

fn silence_is_never_unique(protocol: &Protocol, cluster: &Cluster) -> bool {
    let is_covered =
        |verdict: &Verdict| protocol.shards().all(|shard| verdict.coverage[shard.index()] == Searched::AfterStage);
    verdicts(cluster).all(|verdict| !verdict.candidates.is_empty() || is_covered(verdict))
}

fn same_request_same_answer(_: &Protocol, cluster: &Cluster) -> bool {
    cluster.enrolments.iter().all(|enrolment| enrolment.verdict == enrolment.verdict_first)
}

fn one_case_per_pair(protocol: &Protocol, cluster: &Cluster) -> bool {
    let exists = |first: Mate, second: Mate| !cluster.cases[first.index()][second.index()].opened_by.is_empty();
    pairs(protocol).all(|(one, other)| !exists(one, other) || !exists(other, one))
}

fn every_candidate_has_a_case(protocol: &Protocol, cluster: &Cluster) -> bool {
    protocol.mates().all(|mate| {
        let candidates = cluster.of(mate).verdict.iter().flat_map(|verdict| verdict.candidates.iter());
        let mut owed_no_longer = candidates.filter(|other| {
            !cluster.owed.contains(Obligation { duty: Duty::OpenCase, enrolment: mate, other: *other })
        });
        owed_no_longer.all(|other| is_named(protocol, cluster, mate, other))
    })
}

fn withdrawn_is_never_a_candidate(_: &Protocol, cluster: &Cluster) -> bool {
    verdicts(cluster).all(|verdict| !verdict.candidates.meets(verdict.withdrawn_before))
}

/// Whatever has happened, steps alone lead to an end at which every enrolment is settled or withdrawn, nothing is owed,
/// and every possible duplicate has a case that somebody can look at. Where no step is left, the state is that end.
fn progress(protocol: &Protocol, cluster: &Cluster) -> bool {
    let mut end = *cluster;
    let mut steps = Vec::new();
    for _ in 0..STEPS_TO_END_MAX {
        protocol.steps(&end, &mut steps);
        let Some(step) = steps.drain(..).next() else { return is_finished(protocol, &end) };
        protocol.act(&mut end, step);
    }
    false
}

/// While cases are not linked, nobody is withdrawn, and every case can be looked at.
fn is_finished(protocol: &Protocol, cluster: &Cluster) -> bool {
    let withdrawn = |mate: Mate| cluster.of(mate).withdrawn_at.is_some();
    let is_finished = |enrolment: &Enrolment| {
        let has_work = !protocol.links_cases() || enrolment.cases_open.iter().any(|other| !withdrawn(other));
        let is_settled = enrolment.settled().is_some_and(|verdict| verdict.candidates.is_empty() || has_work);
        is_settled || enrolment.withdrawn_at.is_some()
    };
    cluster.owed.is_empty() && protocol.mates().all(|mate| is_finished(cluster.of(mate)))
}

/// Two mates that are settled and not withdrawn.
struct SettledPair<'a> {
    one: (Mate, &'a Verdict),
    other: (Mate, &'a Verdict),
}

impl SettledPair<'_> {
    /// Whether the first lists the second, and the second the first.
    fn lists(&self) -> (bool, bool) {
        (self.one.1.lists(self.other.0), self.other.1.lists(self.one.0))
    }
}

fn pairs(protocol: &Protocol) -> impl Iterator<Item = (Mate, Mate)> + use<> {
    let mates = protocol.homes.len() as u8;
    (0..mates).flat_map(move |one| (one + 1..mates).map(move |other| (Mate(one), Mate(other))))
}

fn pairs_settled<'a>(protocol: &Protocol, cluster: &'a Cluster) -> impl Iterator<Item = SettledPair<'a>> {
    pairs(protocol).filter_map(|(one, other)| {
        let verdicts = cluster.of(one).settled().zip(cluster.of(other).settled());
        verdicts.map(|(of_one, of_other)| SettledPair { one: (one, of_one), other: (other, of_other) })
    })
}

fn verdicts(cluster: &Cluster) -> impl Iterator<Item = &Verdict> {
    cluster.enrolments.iter().filter_map(|enrolment| enrolment.verdict.as_ref())
}

fn is_named(protocol: &Protocol, cluster: &Cluster, opened_by: Mate, candidate: Mate) -> bool {
    let (first, second) = protocol.case_key(opened_by, candidate);
    cluster.cases[first.index()][second.index()].opened_by.contains(opened_by)
}

fn is_named_by_both(protocol: &Protocol, cluster: &Cluster, one: Mate, other: Mate) -> bool {
    is_named(protocol, cluster, one, other) && is_named(protocol, cluster, other, one)
}

fn has_a_driver_of_another_mind(enrolment: &Enrolment) -> bool {
    let mut sent = enrolment.drivers.iter().filter_map(Driver::sent);
    enrolment.verdict.is_some_and(|recorded| {
        sent.any(|verdict| verdict.round == recorded.round && verdict.candidates != recorded.candidates)
    })
}
