//! Whoever is named as a candidate reaches the threshold, and nobody is its own candidate.

use super::ensure;
use crate::history::{Asked, History, Key, Told};

pub(super) fn check(history: &History) -> Result<(), String> {
    for (key, verdict) in history.verdicts() {
        for candidate in &verdict.candidates {
            ensure!(*candidate != key.enrolment, "{key} is its own candidate");
            let pair = (key.clone(), Key { gallery: key.gallery.clone(), enrolment: candidate.clone() });
            ensure!(history.reaching.contains(&pair), "{key} lists {candidate}, which does not reach its threshold");
        }
    }
    for call in &history.calls {
        if let (Asked::Identify { reaching, .. }, Some((_, Told::Candidates { candidates, .. }))) =
            (&call.asked, &call.told)
        {
            for candidate in candidates {
                ensure!(reaching.contains(candidate), "an identification lists {candidate}, which does not reach it");
            }
        }
    }
    Ok(())
}
