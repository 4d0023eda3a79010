//! A replica that does not belong to its group, as far as it knows, answers no read barrier.

use super::ensure;
use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let stranger = history.watched.iter().find_map(|watched| watched.answered_by_strangers.first());
    if let Some((group, replica)) = stranger {
        ensure!(false, "replica {replica} answered a read barrier of group {group}, to which it does not belong");
    }
    Ok(())
}
