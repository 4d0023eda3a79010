//! A replica stops only for what a fault did to it: never because its log, its rows or another replica contradict it.

use crate::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let alarm = history.watched.iter().find_map(|watched| watched.alarms.first());
    alarm.map_or(Ok(()), |alarm| Err(alarm.clone()))
}
