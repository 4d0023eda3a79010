//! Processor time of this process and of those it started. On a machine that others use too it says more than the clock does.

use std::time::Duration;

/// The unit of times in `/proc`, the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The processor time used so far by this process and its children that still run; `None` where the system does not tell.
pub(super) fn used() -> Option<Duration> {
    let own = std::process::id();
    let ticks = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (parent, ticks) = parent_and_ticks(&stat)?;
        (pid == own || parent == own).then_some(ticks)
    });
    let ticks: u64 = ticks.sum();
    (ticks > 0).then(|| TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// The parent and the user and system time of a line of `/proc/PID/stat`. The name may hold anything, so fields count from its end.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((parent, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_the_process_is_called() {
        let stat = "17 (a b) c) S 4 17 17 0 -1 4194304 9 0 0 0 120 34 0 0 20 0 1 0 5 1 1";
        assert_eq!(parent_and_ticks(stat), Some((4, 154)));
        assert_eq!(parent_and_ticks("17 (a"), None);
    }
}
