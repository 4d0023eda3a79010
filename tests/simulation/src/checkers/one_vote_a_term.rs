//! A replica gives its vote to at most one candidate of a term.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut given = BTreeMap::new();
    for vote in history.watched.iter().flat_map(|watched| &watched.votes) {
        let first = *given.entry((vote.group, vote.term, vote.voter)).or_insert(vote.candidate);
        ensure!(
            first == vote.candidate,
            "replica {} of group {} voted for {first} and for {} in term {}",
            vote.voter,
            vote.group,
            vote.candidate,
            vote.term
        );
    }
    Ok(())
}
