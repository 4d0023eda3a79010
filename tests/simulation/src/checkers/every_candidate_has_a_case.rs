//! Every candidate of a recorded verdict has a case with the applicant that says who named it and that both know of; a
//! saturated verdict has one for its best candidates and a cluster case. A case stays open until one of its two is withdrawn.

use std::collections::BTreeMap;

use super::ensure;
use crate::history::{CaseSeen, History, Key, State};

/// Cases that a record lists; beyond, it only counts them.
const LISTED_MAX: usize = 256;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut cases = BTreeMap::new();
    for case in &history.at_rest.cases {
        cases.insert((&case.gallery, &case.subject.0, case.subject.1.as_ref()), case);
    }
    for (key, verdict) in history.verdicts_recorded() {
        let with_case = if verdict.saturated { history.saturated_cases_max } else { usize::MAX };
        for candidate in verdict.candidates.iter().take(with_case) {
            let pair = [&key.enrolment, candidate];
            let (smaller, larger) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
            let Some(case) = cases.get(&(&key.gallery, smaller, Some(larger))) else {
                return Err(format!("{key} lists {candidate} and they have no case"));
            };
            check_case(history, key, case, candidate)?;
        }
        let cluster = cases.contains_key(&(&key.gallery, &key.enrolment, None));
        ensure!(!verdict.saturated || cluster, "{key} is saturated and has no cluster case");
    }
    for case in &history.at_rest.cases {
        let key = |enrolment: &_| Key { gallery: case.gallery.clone(), enrolment: Clone::clone(enrolment) };
        let named = |(key, _): (&Key, _)| case.opened_by.contains(&key.enrolment) && key.gallery == case.gallery;
        ensure!(history.verdicts_recorded().any(named), "nobody's verdict opened case {}", case.case_id);
        let pair = std::iter::once(&case.subject.0).chain(&case.subject.1);
        let withdrawn = pair.map(key).any(|key| {
            history.at_rest.enrolments.get(&key).is_some_and(|(record, _)| record.state == State::Withdrawn)
        });
        ensure!(case.open != withdrawn, "case {} is open: {}, one is withdrawn: {withdrawn}", case.case_id, case.open);
    }
    Ok(())
}

fn check_case(
    history: &History,
    key: &Key,
    case: &CaseSeen,
    candidate: &semel_index::EnrolmentId,
) -> Result<(), String> {
    ensure!(case.opened_by.contains(&key.enrolment), "case {} does not say that {key} opened it", case.case_id);
    let other = Key { gallery: key.gallery.clone(), enrolment: candidate.clone() };
    for one in [key, &other] {
        let known = history.at_rest.enrolments.get(one).map(|(record, _)| &record.case_ids);
        let links = known.is_some_and(|ids| ids.contains(&case.case_id) || ids.len() >= LISTED_MAX);
        ensure!(links, "{one} does not know of its case {}", case.case_id);
    }
    Ok(())
}
