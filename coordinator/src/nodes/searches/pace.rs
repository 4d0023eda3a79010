//! How long nodes take to answer searches, so that one that is much slower than the others is asked after them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A node whose answers take so many times those of the fastest is slow. Honest answers differ too: with the number of shards and
/// probes asked for, and with what else a machine does.
const SLOWER_BY: u32 = 4;
/// And no node is slow that answers within this time.
const SLOW_MIN: Duration = Duration::from_millis(100);
/// How long a node is remembered after its last answer; then it is tried anew.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// The paces of the nodes that answered lately.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<String, Pace>);

#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Smoothed over the last few answers.
    took: Duration,
    answered: Instant,
}

impl Paces {
    /// Notes that a node has answered, and how long it took.
    pub(super) fn answered(&mut self, address: &str, took: Duration, now: Instant) {
        self.0.retain(|_, pace| pace.is_remembered(now));
        match self.0.get_mut(address) {
            Some(pace) => *pace = Pace { took: (pace.took * 3 + took) / 4, answered: now },
            None => {
                self.0.insert(address.to_owned(), Pace { took, answered: now });
            }
        }
    }

    /// Whether a node is much slower than the fastest.
    pub(super) fn is_slow(&self, address: &str, now: Instant) -> bool {
        let remembered = self.0.values().filter(|pace| pace.is_remembered(now));
        let fastest = remembered.map(|pace| pace.took).min().unwrap_or_default();
        let own = self.0.get(address).filter(|pace| pace.is_remembered(now));
        own.is_some_and(|pace| pace.took > SLOW_MIN.max(fastest * SLOWER_BY))
    }
}

impl Pace {
    fn is_remembered(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.answered) < REMEMBERED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(now: Instant, took_ms: &[(&str, u64)]) -> Paces {
        let mut paces = Paces::default();
        took_ms.iter().for_each(|(address, ms)| paces.answered(address, Duration::from_millis(*ms), now));
        paces
    }

    /// One slow disk of three once slowed every enrolment down: its replicas were asked as often as the others.
    #[test]
    fn a_node_much_slower_than_the_fastest_is_slow_until_it_is_tried_anew() {
        let now = Instant::now();
        let mut paces = paces(now, &[("a", 20), ("b", 70), ("c", 300)]);
        let slow = |paces: &Paces, now| ["a", "b", "c"].map(|address| paces.is_slow(address, now));
        assert_eq!(slow(&paces, now), [false, false, true]);
        assert_eq!(slow(&paces, now + REMEMBERED_FOR), [false; 3]);
        for _ in 0..10 {
            paces.answered("c", Duration::from_millis(20), now);
        }
        assert_eq!(slow(&paces, now), [false; 3]);
    }

    #[test]
    fn where_all_are_slow_or_one_is_alone_nobody_is() {
        let now = Instant::now();
        assert!(!paces(now, &[("a", 900), ("b", 700)]).is_slow("a", now));
        assert!(!paces(now, &[("a", 900)]).is_slow("a", now));
        assert!(!paces(now, &[("a", 1), ("b", 90)]).is_slow("b", now));
    }
}
