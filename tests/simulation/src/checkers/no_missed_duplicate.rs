//! Of two enrolments that are settled, never withdrawn and reach both thresholds they are pinned to, at least one lists the
//! other or is saturated.

use std::collections::{BTreeMap, BTreeSet};

use super::ensure;
use crate::history::{History, Key, State};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut named: BTreeMap<&Key, BTreeSet<&str>> = BTreeMap::new();
    let mut saturated: BTreeSet<&Key> = BTreeSet::new();
    for (key, verdict) in history.verdicts_recorded() {
        named.entry(key).or_default().extend(verdict.candidates.iter().map(|candidate| candidate.as_str()));
        if verdict.saturated {
            saturated.insert(key);
        }
    }
    let live = |key: &Key| {
        let record = history.at_rest.enrolments.get(key).map(|(record, _)| record);
        record.is_some_and(|record| record.state != State::Withdrawn && record.verdict.is_some())
    };
    let lists = |one: &Key, other: &Key| {
        saturated.contains(one) || named.get(one).is_some_and(|named| named.contains(other.enrolment.as_str()))
    };
    for (one, other) in history.reaching.iter().filter(|(one, other)| one < other) {
        let mates = history.reaching.contains(&(other.clone(), one.clone())) && live(one) && live(other);
        ensure!(
            !mates || lists(one, other) || lists(other, one),
            "{one} and {other} are mates and neither lists the other"
        );
    }
    Ok(())
}
