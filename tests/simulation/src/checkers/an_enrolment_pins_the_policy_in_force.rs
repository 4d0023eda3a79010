//! An enrolment is pinned to a policy at least as new as the one that an operator knew to be in force when it was first sent.

use std::collections::BTreeMap;

use semel_index::GalleryId;

use super::ensure;
use crate::history::{Asked, History, Key, Moment};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut first_sent: BTreeMap<&Key, Moment> = BTreeMap::new();
    for call in &history.calls {
        if let Asked::Enrol(key, _) = &call.asked {
            first_sent.entry(key).or_insert(call.asked_at);
        }
    }
    let mut sent: Vec<(Moment, &Key)> = first_sent.into_iter().map(|(key, at)| (at, key)).collect();
    sent.sort();
    let mut policies = history.policies.iter().peekable();
    let mut in_force: BTreeMap<&GalleryId, u64> = BTreeMap::new();
    for (at, key) in sent {
        while let Some(policy) = policies.next_if(|policy| policy.told_at < at) {
            let newest = in_force.entry(&policy.gallery).or_insert(0);
            *newest = policy.version.max(*newest);
        }
        let Some((record, _)) = history.at_rest.enrolments.get(key) else { continue };
        let (pinned, known) = (record.policy_version, in_force.get(&key.gallery).copied().unwrap_or(0));
        ensure!(pinned >= known, "{key} is pinned to policy {pinned}, sent after {known} was known to be in force");
    }
    Ok(())
}
