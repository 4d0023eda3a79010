//! Which shard is scanned next, of those whose scan was asked for and waits for a thread. Threads are the shell's.

use std::collections::VecDeque;

use semel_index::Priority;

use crate::turns::Turns;

/// The scans of all shards that wait for a thread: those with interactive searches first, each kind in order of asking. `S` is the
/// shard, of which at most one scan waits.
///
/// Of [`BULK_EVERY`](crate::BULK_EVERY) scans in a row that begin while one of bulk only waits, at least one is the longest-waiting of these.
#[derive(Debug)]
pub struct ScanOrder<S> {
    interactive: VecDeque<S>,
    bulk: VecDeque<S>,
    turns: Turns,
}

impl<S> Default for ScanOrder<S> {
    fn default() -> Self {
        Self { interactive: VecDeque::new(), bulk: VecDeque::new(), turns: Turns::default() }
    }
}

impl<S> ScanOrder<S> {
    /// Puts a scan in line; the priority is that of the most urgent search that waits for it.
    pub fn ask(&mut self, priority: Priority, shard: S) {
        match priority {
            Priority::Interactive => self.interactive.push_back(shard),
            Priority::Bulk => self.bulk.push_back(shard),
        }
    }

    /// An interactive search waits for a scan that was asked for by bulk only. One that has begun meanwhile is as it is.
    pub fn hasten(&mut self, is_it: impl Fn(&S) -> bool) {
        if let Some(shard) = self.bulk.iter().position(is_it).and_then(|place| self.bulk.remove(place)) {
            self.interactive.push_back(shard);
        }
    }

    /// Takes the scan that a free thread is to begin.
    pub fn begin(&mut self) -> Option<S> {
        let of_bulk = self.interactive.is_empty() || self.turns.is_bulk_due();
        let bulk = if of_bulk { self.bulk.pop_front() } else { None };
        self.turns.taken(bulk.is_some(), !self.bulk.is_empty());
        bulk.or_else(|| self.interactive.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::BULK_EVERY;

    fn order(asked: &[(Priority, u32)]) -> ScanOrder<u32> {
        let mut order = ScanOrder::default();
        asked.iter().for_each(|(priority, shard)| order.ask(*priority, *shard));
        order
    }

    fn rest(mut order: ScanOrder<u32>) -> Vec<u32> {
        std::iter::from_fn(|| order.begin()).collect()
    }

    #[test]
    fn a_scan_with_interactive_searches_begins_before_those_of_bulk_only() {
        use Priority::{Bulk, Interactive};
        assert_eq!(rest(order(&[(Bulk, 1), (Interactive, 2), (Bulk, 3), (Interactive, 4)])), [2, 4, 1, 3]);
    }

    #[test]
    fn a_scan_of_bulk_is_hastened_by_an_interactive_search_that_joins_it() {
        use Priority::{Bulk, Interactive};
        let mut order = order(&[(Bulk, 1), (Bulk, 2), (Interactive, 3)]);
        order.hasten(|shard| *shard == 2);
        order.hasten(|shard| *shard == 9);
        assert_eq!(rest(order), [3, 2, 1]);
    }

    proptest! {
        /// Whatever comes: within a kind nobody overtakes, every scan begins once, and bulk has one of `BULK_EVERY` turns while it waits.
        #[test]
        fn bulk_scans_do_not_starve(steps in proptest::collection::vec(0..4_u8, 1..200)) {
            let mut order = ScanOrder::default();
            let (mut asked, mut begun, mut waiting, mut passed_over) = (0_u32, Vec::new(), Vec::new(), 0);
            for step in steps {
                match step {
                    0 => { waiting.push(asked); order.ask(Priority::Bulk, (Priority::Bulk, asked)); asked += 1; }
                    1 | 2 => { order.ask(Priority::Interactive, (Priority::Interactive, asked)); asked += 1; }
                    _ => if let Some((priority, number)) = order.begin() {
                        begun.push((priority, number));
                        if priority == Priority::Bulk {
                            prop_assert_eq!(waiting.remove(0), number, "the longest-waiting");
                        }
                        passed_over = if priority == Priority::Bulk || waiting.is_empty() { 0 } else { passed_over + 1 };
                        prop_assert!(passed_over < BULK_EVERY);
                    }
                }
            }
            begun.extend(std::iter::from_fn(|| order.begin()));
            prop_assert_eq!(begun.len(), asked as usize);
            for kind in [Priority::Interactive, Priority::Bulk] {
                let of_kind: Vec<u32> = begun.iter().filter(|(priority, _)| *priority == kind).map(|(_, n)| *n).collect();
                prop_assert!(of_kind.is_sorted());
            }
        }
    }
}
