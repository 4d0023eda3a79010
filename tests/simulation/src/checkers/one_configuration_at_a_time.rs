//! The replicas of a group agree on who belongs to it, and a voter is replaced only by way of a configuration in which both the
//! old and the new majority must agree.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{Configured, History};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut by_epoch: BTreeMap<(u64, u64), &Configured> = BTreeMap::new();
    for seen in history.watched.iter().flat_map(|watched| &watched.configurations) {
        let known = by_epoch.entry((seen.group, seen.epoch)).or_insert(seen);
        ensure!(
            *known == seen,
            "group {} has two configurations of epoch {}: {known:?} and {seen:?}",
            seen.group,
            seen.epoch
        );
    }
    for ((group, epoch), next) in &by_epoch {
        let Some(before) = epoch.checked_sub(1).and_then(|before| by_epoch.get(&(*group, before))) else { continue };
        ensure!(follows(before, next), "group {group} went from {before:?} to {next:?}");
    }
    Ok(())
}

fn follows(before: &Configured, next: &Configured) -> bool {
    match (before.voters_outgoing.is_empty(), next.voters_outgoing.is_empty()) {
        // Learners alone.
        (true, true) => before.voters == next.voters,
        (true, false) => before.voters == next.voters_outgoing,
        (false, true) => before.voters == next.voters,
        (false, false) => false,
    }
}
