//! Every part of a verdict's coverage is a search that the shard made for that enrolment, and that search began after the
//! enrolment's home shard had acknowledged its stage.

use std::collections::BTreeMap;

use semel_index::ShardId;

use super::ensure;
use crate::history::{History, Key, Moment, Scan};

pub(super) fn check(history: &History) -> Result<(), String> {
    let Some(watched) = &history.watched else { return Ok(()) };
    let mut scans_for: BTreeMap<&Key, Vec<&Scan>> = BTreeMap::new();
    for scan in &watched.scans {
        if let Some(applicant) = &scan.applicant {
            scans_for.entry(applicant).or_default().push(scan);
        }
    }
    let mut staged: BTreeMap<(ShardId, u64), Moment> = BTreeMap::new();
    for one in &watched.acknowledged {
        staged.entry((one.shard, one.stage_index)).or_insert(one.at);
    }
    for (key, verdict) in history.verdicts_recorded() {
        let record = history.at_rest.enrolments.get(key).map(|(record, _)| (record.shard, record.stage_index));
        let staged = record.and_then(|stage| staged.get(&stage).copied());
        for part in &verdict.coverage {
            let made = scans_for.get(key).into_iter().flatten().filter(|scan| scan.seen == *part);
            let begun = made.map(|scan| scan.asked_at).max();
            ensure!(begun.is_some(), "no search of {} for {key} gave {part:?}", part.shard);
            ensure!(begun > staged, "{key} was searched for in {} before its stage was acknowledged", part.shard);
        }
    }
    Ok(())
}
