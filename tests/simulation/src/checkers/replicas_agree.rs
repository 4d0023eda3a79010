//! Replicas of a group with equal applied index have equal rows.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{History, ReplicaSeen};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut first: BTreeMap<(u64, u64), &ReplicaSeen> = BTreeMap::new();
    for seen in &history.replicas {
        let known = first.entry((seen.group, seen.applied)).or_insert(seen);
        ensure!(
            known.digest == seen.digest,
            "replicas {} and {} of group {} differ at {}",
            known.replica,
            seen.replica,
            seen.group,
            seen.applied
        );
    }
    Ok(())
}
