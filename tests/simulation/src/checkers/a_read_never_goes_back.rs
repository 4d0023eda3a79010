//! A call sees whatever an answer before it has shown: an enrolment is never found less far than it was known to be.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{Asked, Content, History, Key, Moment, RecordSeen, State, Told};

/// How far an enrolment is: withdrawn or not, the round its latest verdict is of, settled in it or staged for another.
type Progress = (bool, u32, bool);

pub(super) fn check(history: &History) -> Result<(), String> {
    // Answers by the moment they came, calls by the moment they were sent.
    let mut answers: Vec<(Moment, &Key, Progress)> =
        history.records_told().map(|told| (told.told_at, told.key, progress(told.record))).collect();
    answers.sort();
    let mut answers = answers.into_iter().peekable();
    let mut known: BTreeMap<&Key, Progress> = BTreeMap::new();
    for call in &history.calls {
        while let Some((_, key, progress)) = answers.next_if(|(told_at, ..)| *told_at < call.asked_at) {
            let furthest = known.entry(key).or_insert(progress);
            *furthest = progress.max(*furthest);
        }
        let (key, told) = match (&call.asked, &call.told) {
            (Asked::Enrol(key, _) | Asked::Withdraw(key) | Asked::Read(key), Some((_, told))) => (key, told),
            (Asked::Identify { .. }, _) | (_, None) => continue,
        };
        let Some(furthest) = known.get(key) else { continue };
        match told {
            Told::Recorded(record) | Told::Inconclusive { record, .. } => {
                let found = progress(record);
                ensure!(found >= *furthest, "{key} was known to be at {furthest:?} and then found at {found:?}");
            }
            Told::NoSuchEnrolment => return Err(format!("{key} was known and then not found")),
            Told::AlreadyExists | Told::Candidates { .. } | Told::Unavailable(_) => {}
        }
    }
    other_content_was_sent(history)
}

/// A request is refused as another content only if another content was sent before.
fn other_content_was_sent(history: &History) -> Result<(), String> {
    let mut sent: BTreeMap<&Key, Vec<(Moment, Content)>> = BTreeMap::new();
    for call in &history.calls {
        if let Asked::Enrol(key, content) = &call.asked {
            sent.entry(key).or_default().push((call.asked_at, *content));
        }
    }
    for call in &history.calls {
        let (Asked::Enrol(key, content), Some((told_at, Told::AlreadyExists))) = (&call.asked, &call.told) else {
            continue;
        };
        let other = sent[key].iter().any(|(asked_at, other)| other != content && asked_at < told_at);
        ensure!(other, "{key} was refused as taken by other content, which nobody had sent");
        ensure!(history.at_rest.enrolments.contains_key(key), "{key} was said to exist and is not on record");
    }
    Ok(())
}

fn progress(record: &RecordSeen) -> Progress {
    let round = record.verdict.as_ref().map_or(0, |verdict| verdict.round);
    let withdrawn = record.state == State::Withdrawn;
    // Staged anew comes after settled: the round of the verdict is then the round before.
    (withdrawn, round, record.state == State::Staged && round > 0 && !withdrawn)
}
