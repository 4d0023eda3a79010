//! Every part of a verdict's coverage is a search that the shard made for that enrolment, and that search began after the
//! enrolment's home shard had it on record.

use std::collections::BTreeMap;

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
    let mut first_asked: BTreeMap<&Key, Moment> = BTreeMap::new();
    for call in &history.calls {
        if let crate::history::Asked::Enrol(key, _) = &call.asked {
            first_asked.entry(key).or_insert(call.asked_at);
        }
    }
    for (key, verdict) in history.verdicts_recorded() {
        for part in &verdict.coverage {
            let made = scans_for.get(key).into_iter().flatten().filter(|scan| scan.seen == *part);
            let begun = made.map(|scan| scan.asked_at).max();
            ensure!(begun.is_some(), "no search of {} for {key} gave {part:?}", part.shard);
            ensure!(begun >= first_asked.get(key).copied(), "{key} was searched for before anybody sent it");
        }
    }
    Ok(())
}
