//! Turns the time that passed into ticks to report.

use std::time::{Duration, Instant};

/// Ticks that are due, and ticks that are due but too late to report.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct DueTicks {
    pub(crate) reported: u32,
    pub(crate) skipped: u32,
}

/// The host's clock. Takes the time from its caller.
#[derive(Debug)]
pub(crate) struct TickClock {
    tick: Duration,
    reported_max: u32,
    next: Instant,
}

impl TickClock {
    pub(crate) fn new(tick: Duration, reported_max: u32, now: Instant) -> Self {
        assert!(!tick.is_zero(), "a tick takes time");
        Self { tick, reported_max, next: now + tick }
    }

    /// The time until the next tick is due.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Takes the ticks that are due by `now`. Ticks beyond the bound are forgotten rather than reported later.
    pub(crate) fn take(&mut self, now: Instant) -> DueTicks {
        let Some(late) = now.checked_duration_since(self.next) else {
            return DueTicks { reported: 0, skipped: 0 };
        };
        let due = u32::try_from(late.as_nanos() / self.tick.as_nanos()).unwrap_or(u32::MAX - 1) + 1;
        let reported = due.min(self.reported_max);
        self.next = if due > reported { now + self.tick } else { self.next + self.tick * due };
        DueTicks { reported, skipped: due - reported }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(50);

    fn check(late_ms: u64, reported: u32, skipped: u32, wait_ms: u64) {
        let start = Instant::now();
        let mut clock = TickClock::new(TICK, 2, start);
        let now = start + Duration::from_millis(late_ms);
        assert_eq!(clock.take(now), DueTicks { reported, skipped }, "after {late_ms} ms");
        assert_eq!(clock.wait(now), Duration::from_millis(wait_ms), "after {late_ms} ms");
        assert_eq!(clock.take(now), DueTicks { reported: 0, skipped: 0 }, "a second time after {late_ms} ms");
    }

    #[test]
    fn ticks_are_due_once_and_keep_their_pace() {
        check(0, 0, 0, 50);
        check(49, 0, 0, 1);
        check(50, 1, 0, 50);
        check(99, 1, 0, 1);
        check(120, 2, 0, 30);
    }

    #[test]
    fn a_stall_reports_no_more_ticks_than_a_turn_may() {
        check(150, 2, 1, 50);
        check(60_000, 2, 1_198, 50);
    }
}
