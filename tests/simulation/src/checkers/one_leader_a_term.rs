//! A term of a group has at most one leader.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut leads = BTreeMap::new();
    for leader in history.watched.iter().flat_map(|watched| &watched.leaders) {
        let first = *leads.entry((leader.group, leader.term)).or_insert(leader.candidate);
        ensure!(
            first == leader.candidate,
            "replicas {first} and {} of group {} both led in term {}",
            leader.candidate,
            leader.group,
            leader.term
        );
    }
    Ok(())
}
