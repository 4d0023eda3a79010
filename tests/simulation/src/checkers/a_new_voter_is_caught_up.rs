//! A learner is made a voter only once it has the log, but for its last few entries.

use super::ensure;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    for new in history.watched.iter().flat_map(|watched| &watched.new_voters) {
        ensure!(
            new.lag <= new.lag_max,
            "replica {} of group {} was made a voter {} entries behind its leader",
            new.replica,
            new.group,
            new.lag
        );
    }
    Ok(())
}
