//! Once faults have ended, every staged enrolment is settled, every obligation is met, and the last call of every enrolment
//! has an answer.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{Asked, Call, History, Key, State, Told};

pub(super) fn check(history: &History) -> Result<(), String> {
    let at_rest = &history.at_rest;
    if let Some(unfinished) = &at_rest.unfinished {
        return Err(unfinished.clone());
    }
    for (key, (record, _)) in &at_rest.enrolments {
        ensure!(record.state != State::Staged, "{key} waits for its verdict for ever");
    }
    ensure!(at_rest.obligations == 0, "{} obligations are never met", at_rest.obligations);
    let mut last: BTreeMap<&Key, &Call> = BTreeMap::new();
    for call in &history.calls {
        if let Asked::Enrol(key, _) = &call.asked {
            last.insert(key, call);
        }
    }
    for (key, call) in last {
        let answered = match &call.told {
            Some((_, Told::Recorded(_) | Told::AlreadyExists)) => true,
            Some((
                _,
                Told::Inconclusive { .. } | Told::NoSuchEnrolment | Told::Candidates { .. } | Told::Unavailable(_),
            ))
            | None => false,
        };
        ensure!(answered, "the last call to enrol {key} has no answer: {:?}", call.told);
    }
    Ok(())
}
