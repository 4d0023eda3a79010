//! Whatever a call returned is on record: the enrolment, its place, its verdicts and its withdrawal.

use super::ensure;
use crate::history::{History, State};

pub(super) fn check(history: &History) -> Result<(), String> {
    for told in history.records_told() {
        let key = told.key;
        let Some((record, verdicts)) = history.at_rest.enrolments.get(key) else {
            return Err(format!("{key} was acknowledged and is not on record"));
        };
        let (stood, stands) = ((told.record.shard, told.record.stage_index), (record.shard, record.stage_index));
        ensure!(stood == stands, "{key} was acknowledged at {stood:?} and is on record at {stands:?}");
        ensure!(
            told.record.state != State::Withdrawn || record.state == State::Withdrawn,
            "the withdrawal of {key} was acknowledged and is not on record"
        );
        if let Some(verdict) = &told.record.verdict {
            let kept = verdicts.iter().any(|one| one.round == verdict.round);
            // Where only the latest verdict can be read, an older one may have been replaced by it.
            let later = history.watched.is_none() && verdicts.iter().any(|one| one.round > verdict.round);
            ensure!(kept || later, "the verdict of round {} of {key} was acknowledged and is lost", verdict.round);
        }
        for case_id in &told.record.case_ids {
            let kept = history.at_rest.cases.iter().any(|case| case.case_id == *case_id);
            ensure!(kept, "case {case_id} of {key} was acknowledged and is lost");
        }
    }
    Ok(())
}
