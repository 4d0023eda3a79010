//! A search of a shard has seen every enrolment whose stage the shard acknowledged before the search was asked for.

use std::collections::BTreeMap;

use semel_index::ShardId;

use super::ensure;
use crate::history::{History, Scan};

pub(super) fn check(history: &History) -> Result<(), String> {
    let Some(watched) = &history.watched else { return Ok(()) };
    let mut scans: Vec<&Scan> = watched.scans.iter().collect();
    scans.sort_by_key(|scan| scan.asked_at);
    let mut acknowledged = watched.acknowledged.iter().peekable();
    let mut up_to: BTreeMap<ShardId, u64> = BTreeMap::new();
    for scan in scans {
        while let Some(one) = acknowledged.next_if(|one| one.at < scan.asked_at) {
            let furthest = up_to.entry(one.shard).or_insert(0);
            *furthest = one.stage_index.max(*furthest);
        }
        let (shard, seen) = (scan.seen.shard, scan.seen.searchable_index);
        let due = up_to.get(&shard).copied().unwrap_or(0);
        ensure!(seen >= due, "shard {shard} was searched up to {seen}, after it had acknowledged a stage at {due}");
    }
    Ok(())
}
