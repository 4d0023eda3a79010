//! Which of the things that shards wait for are to be driven again: staged enrolments whose coordinator died, obligations
//! that nobody carries out. The leader of the coordinators' group lists them shard by shard and asks here what is due.
//!
//! What is young is left to whoever began it; what is due is driven at a bounded rate. Driving a thing twice costs work,
//! never safety.

use std::collections::{BTreeMap, BTreeSet};

use semel_index::ShardId;

/// The most items that are remembered of one shard's list.
pub const LISTED_PER_SHARD_MAX: usize = 1_000;

/// How patient and how busy a sweep is. Ticks are the shell's: one per round of listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepLimits {
    /// Ticks for which an item must have been pending.
    pub age_ticks_min: u64,
    /// Items driven at a time.
    pub in_flight_max: usize,
    /// Items begun in one tick.
    pub begun_per_tick_max: usize,
}

impl Default for SweepLimits {
    fn default() -> Self {
        Self { age_ticks_min: 2, in_flight_max: 64, begun_per_tick_max: 64 }
    }
}

/// A sweep over items named by `K`.
#[derive(Debug)]
pub struct Sweep<K> {
    limits: SweepLimits,
    tick: u64,
    shards: BTreeMap<ShardId, BTreeMap<K, Sighting>>,
    in_flight: BTreeSet<K>,
    /// Of these, the ones that a tick began: only they count against the limit, so that busy clients do not starve what was left behind.
    swept: BTreeSet<K>,
}

#[derive(Debug, Clone, Copy)]
struct Sighting {
    /// The tick from which the age counts: when it was first seen, or when driving it ended without success.
    since: u64,
    times: u32,
}

impl<K: Ord + Clone> Sweep<K> {
    /// A sweep that has seen nothing.
    pub fn new(limits: SweepLimits) -> Self {
        Self { limits, tick: 0, shards: BTreeMap::new(), in_flight: BTreeSet::new(), swept: BTreeSet::new() }
    }

    /// Takes in a shard's list of what it waits for. What is no longer listed is done and forgotten.
    ///
    /// Lists hold the oldest items first; beyond [`LISTED_PER_SHARD_MAX`] they are cut, and the rest comes once these are done.
    pub fn listed(&mut self, shard: ShardId, items: impl IntoIterator<Item = K>) {
        let seen = self.shards.remove(&shard).unwrap_or_default();
        let tick = self.tick;
        let sighted = |item: K| {
            let sighting = match seen.get(&item) {
                Some(sighting) => Sighting { times: sighting.times.saturating_add(1), ..*sighting },
                None => Sighting { since: tick, times: 1 },
            };
            (item, sighting)
        };
        self.shards.insert(shard, items.into_iter().take(LISTED_PER_SHARD_MAX).map(sighted).collect());
    }

    /// Notes that an item is being driven, by this sweep or otherwise, so that it is not driven twice from here.
    pub fn begun(&mut self, item: K) {
        self.in_flight.insert(item);
    }

    /// Notes that driving an item ended. If it is still listed later, it ages anew, behind all others.
    pub fn ended(&mut self, item: &K) {
        self.in_flight.remove(item);
        self.swept.remove(item);
        for seen in self.shards.values_mut() {
            if let Some(sighting) = seen.get_mut(item) {
                *sighting = Sighting { since: self.tick, times: 1 };
            }
        }
    }

    /// Passes one tick and begins what is due, the longest pending first: seen in at least two lists, old enough, not in
    /// flight, within the limits.
    pub fn tick(&mut self) -> Vec<K> {
        self.tick += 1;
        let room = self.limits.in_flight_max.saturating_sub(self.swept.len()).min(self.limits.begun_per_tick_max);
        let mut due: Vec<(u64, &K)> = Vec::new();
        for (item, sighting) in self.shards.values().flatten() {
            let old = self.tick - sighting.since >= self.limits.age_ticks_min;
            if old && sighting.times >= 2 && !self.in_flight.contains(item) {
                due.push((sighting.since, item));
            }
        }
        due.sort();
        let due: Vec<K> = due.into_iter().take(room).map(|(_, item)| item.clone()).collect();
        self.in_flight.extend(due.iter().cloned());
        self.swept.extend(due.iter().cloned());
        due
    }

    /// Items being driven.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Forgets what was listed, as a coordinator does that no longer leads. What is in flight goes on.
    pub fn forget(&mut self) {
        self.shards.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn sweep(in_flight_max: usize, begun_per_tick_max: usize) -> Sweep<u32> {
        Sweep::new(SweepLimits { age_ticks_min: 2, in_flight_max, begun_per_tick_max })
    }

    #[test]
    fn an_item_is_due_once_seen_twice_and_old_enough() {
        let mut sweep = sweep(10, 10);
        sweep.listed(SHARD, [7]);
        assert_eq!(sweep.tick(), []);
        assert_eq!(sweep.tick(), [], "seen once only");
        sweep.listed(SHARD, [7, 8]);
        assert_eq!(sweep.tick(), [7]);
        sweep.listed(SHARD, [7, 8]);
        assert_eq!(sweep.tick(), [8]);
    }

    #[test]
    fn what_others_drive_takes_no_room() {
        let mut sweep = sweep(2, 2);
        (100..200).for_each(|item| sweep.begun(item));
        sweep.listed(SHARD, [7]);
        assert_eq!(sweep.tick(), []);
        sweep.listed(SHARD, [7]);
        assert_eq!(sweep.tick(), [7]);
    }

    #[test]
    fn what_is_no_longer_listed_is_forgotten() {
        let mut sweep = sweep(10, 10);
        sweep.listed(SHARD, [7]);
        sweep.listed(SHARD, []);
        sweep.listed(SHARD, [7]);
        assert_eq!((sweep.tick(), sweep.tick(), sweep.tick()), (vec![], vec![], vec![]));
    }

    #[test]
    fn an_item_in_flight_is_not_begun_again_until_it_ended_and_aged() {
        let mut sweep = sweep(10, 10);
        let round = |sweep: &mut Sweep<u32>| {
            sweep.listed(SHARD, [7]);
            sweep.tick()
        };
        let begun: Vec<usize> = (0..4).map(|_| round(&mut sweep).len()).collect();
        assert_eq!(begun, [0, 1, 0, 0]);
        sweep.ended(&7);
        assert_eq!(sweep.in_flight(), 0);
        assert_eq!((round(&mut sweep), round(&mut sweep)), (vec![], vec![7]));
    }

    #[test]
    fn driving_is_bounded_per_tick_and_in_all_and_the_oldest_come_first() {
        let mut sweep = sweep(3, 2);
        sweep.listed(SHARD, [5, 6]);
        assert_eq!(sweep.tick(), []);
        for shard in [1, 0] {
            sweep.listed(ShardId(shard), if shard == 0 { vec![5, 6] } else { vec![1, 2] });
        }
        assert_eq!(sweep.tick(), [5, 6]);
        sweep.listed(ShardId(1), [1, 2]);
        assert_eq!(sweep.tick(), [1]);
        assert_eq!(sweep.tick(), []);
        sweep.ended(&5);
        assert_eq!(sweep.tick(), [2]);
    }

    #[test]
    fn an_item_that_fails_does_not_keep_others_waiting() {
        let mut sweep = sweep(1, 1);
        let mut begun = Vec::new();
        for _ in 0..6 {
            sweep.listed(SHARD, [1, 2]);
            for item in sweep.tick() {
                sweep.ended(&item);
                begun.push(item);
            }
        }
        assert_eq!(begun[..3], [1, 2, 1]);
    }

    #[test]
    fn a_list_is_bounded() {
        let mut sweep = sweep(usize::MAX, usize::MAX);
        for _ in 0..2 {
            sweep.listed(SHARD, 0..5_000);
            assert_eq!(sweep.tick().len() % LISTED_PER_SHARD_MAX, 0);
        }
        assert_eq!(sweep.in_flight(), LISTED_PER_SHARD_MAX);
    }
}
