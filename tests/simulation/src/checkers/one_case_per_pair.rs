//! An unordered pair has at most one case, of two different enrolments that exist.

use std::collections::BTreeSet;

use super::ensure;
use crate::history::{History, Key};

pub(super) fn check(history: &History) -> Result<(), String> {
    let (mut ids, mut subjects) = (BTreeSet::new(), BTreeSet::new());
    for case in &history.at_rest.cases {
        let (one, other) = &case.subject;
        ensure!(ids.insert(&case.case_id), "two cases are called {}", case.case_id);
        let mut pair = [Some(one), other.as_ref()];
        pair.sort();
        ensure!(subjects.insert((&case.gallery, pair)), "two cases are about {one} and {other:?}");
        ensure!(Some(one) != other.as_ref(), "case {} is about {one} twice", case.case_id);
        for enrolment in pair.into_iter().flatten() {
            let key = Key { gallery: case.gallery.clone(), enrolment: enrolment.clone() };
            ensure!(
                history.at_rest.enrolments.contains_key(&key),
                "case {} is about {key}, which is nobody",
                case.case_id
            );
        }
    }
    Ok(())
}
