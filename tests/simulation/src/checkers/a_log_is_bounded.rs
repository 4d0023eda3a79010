//! A replica's log holds no more applied entries than it may.

use super::ensure;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    for ((group, replica), log) in history.watched.iter().flat_map(|watched| &watched.logs) {
        ensure!(
            log.held <= log.held_max,
            "the log of replica {replica} of group {group} held {} applied entries of at most {}",
            log.held,
            log.held_max
        );
    }
    Ok(())
}
