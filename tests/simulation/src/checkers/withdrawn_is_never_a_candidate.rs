//! A search that began after a withdrawal was acknowledged does not find the withdrawn enrolment.

use std::collections::BTreeMap;

use semel_index::{EnrolmentId, GalleryId};

use super::ensure;
use crate::history::{Asked, History, Key, Moment, Told};

pub(super) fn check(history: &History) -> Result<(), String> {
    let withdrawn = history.withdrawn_from();
    let hidden = |gallery: &GalleryId, candidates: &[EnrolmentId], since: Moment, by: &dyn std::fmt::Display| {
        for candidate in candidates {
            let key = Key { gallery: gallery.clone(), enrolment: candidate.clone() };
            let from = withdrawn.get(&key);
            ensure!(from.is_none_or(|from| *from >= since), "{by} lists {candidate}, which was withdrawn before");
        }
        Ok(())
    };
    let mut first_sent: BTreeMap<&Key, Moment> = BTreeMap::new();
    for call in &history.calls {
        match (&call.asked, &call.told) {
            (Asked::Enrol(key, _), _) => {
                first_sent.entry(key).or_insert(call.asked_at);
            }
            (Asked::Identify { gallery, .. }, Some((_, Told::Candidates { candidates, .. }))) => {
                hidden(gallery, candidates, call.asked_at, &"an identification")?;
            }
            (Asked::Identify { .. } | Asked::Withdraw(_) | Asked::Read(_), _) => {}
        }
    }
    // Every search for an enrolment began after it was first sent.
    for (key, verdict) in history.verdicts_recorded() {
        if let Some(sent) = first_sent.get(key) {
            hidden(&key.gallery, &verdict.candidates, *sent, key)?;
        }
    }
    for scan in history.watched.iter().flat_map(|watched| &watched.scans) {
        if let Some(applicant) = &scan.applicant {
            hidden(&applicant.gallery, &scan.candidates, scan.asked_at, applicant)?;
        }
    }
    Ok(())
}
