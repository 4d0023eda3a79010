//! A complete identification lists, unless saturated, every enrolment that reaches the threshold and was acknowledged before it
//! was asked for, except those whose withdrawal was sent before the answer.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{Asked, History, Key, Moment, State, Told};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut acknowledged: BTreeMap<&Key, Moment> = BTreeMap::new();
    for told in history.records_told().filter(|told| told.record.state != State::Withdrawn) {
        let first = acknowledged.entry(told.key).or_insert(told.told_at);
        *first = told.told_at.min(*first);
    }
    let mut withdrawal_sent: BTreeMap<&Key, Moment> = BTreeMap::new();
    for call in &history.calls {
        if let Asked::Withdraw(key) = &call.asked {
            withdrawal_sent.entry(key).or_insert(call.asked_at);
        }
    }
    for call in &history.calls {
        let Asked::Identify { gallery, reaching } = &call.asked else { continue };
        let Some((told_at, Told::Candidates { candidates, saturated: false, missing })) = &call.told else { continue };
        if !missing.is_empty() {
            continue;
        }
        for (key, since) in &acknowledged {
            let due = key.gallery == *gallery && *since < call.asked_at && reaching.contains(&key.enrolment);
            let may_be_hidden = withdrawal_sent.get(key).is_some_and(|sent| sent < told_at);
            ensure!(
                !due || may_be_hidden || candidates.contains(&key.enrolment),
                "an identification misses {key}, which was acknowledged before"
            );
        }
    }
    Ok(())
}
