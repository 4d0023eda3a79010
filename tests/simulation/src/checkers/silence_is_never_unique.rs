//! A verdict names every shard exactly once, and its sums are those of its parts; a call that lacks a shard gives none.

use super::ensure;
use crate::history::{History, State, Told};

pub(super) fn check(history: &History) -> Result<(), String> {
    for (key, verdict) in history.verdicts() {
        let named = verdict.coverage.iter().map(|part| part.shard);
        ensure!(named.eq(history.shards.all()), "the verdict of {key} rests on {:?}", verdict.coverage);
        let compared: u64 = verdict.coverage.iter().map(|part| part.compared).sum();
        let rest: u64 = verdict.coverage.iter().map(|part| part.not_comparable).sum();
        ensure!(
            (compared, compared + rest) == (verdict.compared, verdict.live),
            "the verdict of {key} states {} of {} compared, its parts {compared} of {}",
            verdict.compared,
            verdict.live,
            compared + rest
        );
        let unique = verdict.state == State::Unique;
        ensure!(!unique || verdict.candidates_total == 0, "{key} is unique beside {}", verdict.candidates_total);
    }
    for call in &history.calls {
        if let Some((_, Told::Inconclusive { record, .. })) = &call.told {
            ensure!(record.state == State::Staged, "{:?} is inconclusive and {:?}", call.asked, record.state);
        }
    }
    Ok(())
}
