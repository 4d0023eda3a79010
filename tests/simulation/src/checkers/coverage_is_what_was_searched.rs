//! Every part of a verdict's coverage is a search that the shard made for that enrolment and round, begun after the enrolment's
//! home shard had acknowledged that round, and the candidates are those of these searches.

use std::collections::{BTreeMap, BTreeSet};

use semel_index::{EnrolmentId, ShardId};

use super::ensure;
use crate::history::{History, Key, Moment, Scan, VerdictSeen};

pub(super) fn check(history: &History) -> Result<(), String> {
    let Some(watched) = &history.watched else { return Ok(()) };
    let mut scans_for: BTreeMap<&Key, Vec<&Scan>> = BTreeMap::new();
    for scan in &watched.scans {
        if let Some(applicant) = &scan.applicant {
            scans_for.entry(applicant).or_default().push(scan);
        }
    }
    let mut rounds: BTreeMap<(ShardId, u64, u32), Moment> = BTreeMap::new();
    for one in &watched.acknowledged {
        rounds.entry((one.shard, one.stage_index, one.round)).or_insert(one.at);
    }
    for (key, verdict) in history.verdicts_recorded() {
        let Some((record, _)) = history.at_rest.enrolments.get(key) else { continue };
        let Some(begun) = rounds.get(&(record.shard, record.stage_index, verdict.round)) else {
            return Err(format!("{key} was settled in round {}, which no record ever said it is in", verdict.round));
        };
        check_verdict(key, verdict, *begun, scans_for.get(key).map_or(&[], Vec::as_slice))?;
    }
    Ok(())
}

fn check_verdict(key: &Key, verdict: &VerdictSeen, begun: Moment, scans: &[&Scan]) -> Result<(), String> {
    let listed: BTreeSet<&EnrolmentId> = verdict.candidates.iter().collect();
    let mut found: BTreeSet<&EnrolmentId> = BTreeSet::new();
    for part in &verdict.coverage {
        let made: Vec<&&Scan> = scans.iter().filter(|scan| scan.seen == *part).collect();
        ensure!(!made.is_empty(), "no search of {} for {key} gave {part:?}", part.shard);
        let in_time: Vec<&&Scan> = made.into_iter().filter(|scan| scan.asked_at > begun).collect();
        ensure!(
            !in_time.is_empty(),
            "{key} was searched for in {} before its round {} was acknowledged",
            part.shard,
            verdict.round
        );
        let all_listed = |scan: &&&Scan| scan.candidates.iter().all(|candidate| listed.contains(candidate));
        ensure!(
            verdict.saturated || in_time.iter().any(all_listed),
            "{key} does not list what was found for it in {}",
            part.shard
        );
        found.extend(in_time.into_iter().flat_map(|scan| &scan.candidates));
    }
    let made_up = listed.difference(&found).next();
    ensure!(made_up.is_none(), "{key} lists {made_up:?}, which no search found");
    Ok(())
}
