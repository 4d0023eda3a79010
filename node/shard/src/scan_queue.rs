//! Which searches of a shard may share one scan: those whose barrier was answered, on a moment that has reached it.
//!
//! A scan begins as soon as somebody is there to run it, so a search never waits for company; what arrives while every thread is at
//! work shares the next scan, interactive searches first. Who runs scans, and who waits for barriers, is the shell's.

use std::collections::VecDeque;

use semel_index::Priority;
use semel_raft::LogIndex;

use crate::turns::Turns;

/// Searches that wait for a scan of one shard, each priority in order of arrival. `S` is what the shell keeps of each.
///
/// Of [`BULK_EVERY`](crate::BULK_EVERY) scans in a row that begin while bulk waits, at least one takes in the longest-waiting of it.
#[derive(Debug)]
pub struct ScanQueue<S> {
    interactive: Lane<S>,
    bulk: Lane<S>,
    turns: Turns,
    /// A scan was asked for and has not begun, for searches of this priority: it will take in whoever comes until then.
    asked_for: Option<Priority>,
    scan_probes_max: usize,
    probes_max: usize,
}

/// Those of one priority.
#[derive(Debug)]
struct Lane<S> {
    waiting: VecDeque<Waiting<S>>,
    /// Probes of all that wait.
    probes: usize,
}

#[derive(Debug)]
struct Waiting<S> {
    barrier: LogIndex,
    probes: usize,
    search: S,
}

/// What the shell has to do for a search that now waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// See to it that a scan begins: [`ScanQueue::begin`] on a thread that is free.
    AskForScan,
    /// See to it that the scan that was asked for begins before those of bulk: the first interactive search waits for it.
    HastenScan,
    /// Nothing: a scan that was asked for takes it along.
    Waits,
}

/// Too many probes wait for the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many probes wait for the shard")]
pub struct ScanQueueFull;

/// The searches that one scan answers.
#[derive(Debug)]
pub struct SharedScan<S> {
    /// Each priority in order of arrival; empty if all that waited have gone.
    pub searches: Vec<S>,
    /// Those whose barrier the moment has not reached: they get no answer from it.
    pub behind: Vec<S>,
    /// Others still wait: another scan is asked for, of this priority, and the shell must see to it.
    pub ask_for_scan: Option<Priority>,
}

impl<S> Lane<S> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), probes: 0 }
    }

    fn push(&mut self, waiting: Waiting<S>) {
        self.probes += waiting.probes;
        self.waiting.push_back(waiting);
    }

    /// Takes whoever waits longest, if it is of at most so many probes.
    fn pop(&mut self, probes_max: usize) -> Option<Waiting<S>> {
        self.waiting.front().filter(|next| next.probes <= probes_max)?;
        let next = self.waiting.pop_front()?;
        self.probes -= next.probes;
        Some(next)
    }

    fn retain(&mut self, is_wanted: impl Fn(&S) -> bool) {
        self.waiting.retain(|waiting| is_wanted(&waiting.search));
        self.probes = self.waiting.iter().map(|waiting| waiting.probes).sum();
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<S> ScanQueue<S> {
    /// A queue of at most `probes_max` probes, of which bulk leaves some to interactive searches ([`Priority::share_of`]). One scan
    /// takes at most `scan_probes_max`, or a single search that has more.
    pub fn new(scan_probes_max: usize, probes_max: usize) -> Self {
        Self {
            interactive: Lane::new(),
            bulk: Lane::new(),
            turns: Turns::default(),
            asked_for: None,
            scan_probes_max,
            probes_max,
        }
    }

    /// Puts a search in line. Its `barrier` began after the search had arrived, and was answered with this index.
    ///
    /// # Errors
    /// [`ScanQueueFull`]; an empty queue takes any search.
    pub fn join(
        &mut self,
        priority: Priority,
        barrier: LogIndex,
        probes: usize,
        search: S,
    ) -> Result<Joined, ScanQueueFull> {
        let all_full = self.probes() + probes > self.probes_max;
        let bulk_full = self.bulk.probes + probes > Priority::Bulk.share_of(self.probes_max);
        let is_full = all_full || (priority == Priority::Bulk && bulk_full);
        if is_full && self.next().is_some() {
            return Err(ScanQueueFull);
        }
        self.lane(priority).push(Waiting { barrier, probes, search });
        let before = self.asked_for;
        self.asked_for = self.next();
        Ok(match before {
            None => Joined::AskForScan,
            Some(_) if before == self.asked_for => Joined::Waits,
            Some(_) => Joined::HastenScan,
        })
    }

    /// Begins a scan of a moment that is taken now: hands out whom it may answer. Whoever joins later waits for the next, although
    /// this one is still under way: the moment may be older than their barrier.
    ///
    /// Searches that `is_wanted` says nobody waits for leave the queue unanswered. A shell that lets a search join only once its view is
    /// current meets nobody who is behind, unless the view was built anew meanwhile.
    pub fn begin(&mut self, searchable: LogIndex, is_wanted: impl Fn(&S) -> bool) -> SharedScan<S> {
        self.interactive.retain(&is_wanted);
        self.bulk.retain(&is_wanted);
        let (mut searches, mut behind, mut probes) = (Vec::new(), Vec::new(), 0);
        let (bulk_due, mut bulk_taken) = (self.turns.is_bulk_due(), false);
        loop {
            let bulk_first = bulk_due && !bulk_taken && !self.bulk.is_empty();
            let Some(priority) = (if bulk_first { Some(Priority::Bulk) } else { self.next() }) else { break };
            let room = if searches.is_empty() { usize::MAX } else { self.scan_probes_max.saturating_sub(probes) };
            // Nobody who fits overtakes one who does not.
            let Some(next) = self.lane(priority).pop(room) else { break };
            if next.barrier <= searchable {
                probes += next.probes;
                bulk_taken |= priority == Priority::Bulk;
                searches.push(next.search);
            } else {
                behind.push(next.search);
            }
        }
        self.turns.taken(bulk_taken, !self.bulk.is_empty());
        self.asked_for = self.next();
        SharedScan { searches, behind, ask_for_scan: self.asked_for }
    }

    /// Probes that wait.
    pub fn probes(&self) -> usize {
        self.interactive.probes + self.bulk.probes
    }

    /// The most urgent priority of those that wait.
    fn next(&self) -> Option<Priority> {
        if !self.interactive.is_empty() {
            Some(Priority::Interactive)
        } else if !self.bulk.is_empty() {
            Some(Priority::Bulk)
        } else {
            None
        }
    }

    fn lane(&mut self, priority: Priority) -> &mut Lane<S> {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Bulk => &mut self.bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use Priority::{Bulk, Interactive};

    use super::*;
    use crate::BULK_EVERY;

    const ALL: fn(&u32) -> bool = |_| true;

    fn queue(searches: &[(Priority, u64, usize)]) -> ScanQueue<u32> {
        let mut queue = ScanQueue::new(64, 128);
        for (number, (priority, barrier, probes)) in (0..).zip(searches) {
            queue.join(*priority, LogIndex(*barrier), *probes, number).expect("there is room");
        }
        queue
    }

    #[test]
    fn the_first_search_asks_for_a_scan_and_later_ones_ride_along() {
        let mut queue = ScanQueue::new(64, 128);
        assert_eq!(queue.join(Bulk, LogIndex(5), 1, 0), Ok(Joined::AskForScan), "nobody waits for company");
        assert_eq!(queue.join(Bulk, LogIndex(5), 1, 1), Ok(Joined::Waits));
        assert_eq!(queue.join(Interactive, LogIndex(5), 1, 2), Ok(Joined::HastenScan));
        assert_eq!(queue.join(Interactive, LogIndex(5), 1, 3), Ok(Joined::Waits));
        assert_eq!(queue.join(Bulk, LogIndex(5), 1, 4), Ok(Joined::Waits));
        let scan = queue.begin(LogIndex(5), ALL);
        assert_eq!((scan.searches, scan.ask_for_scan), (vec![2, 3, 0, 1, 4], None));
        let joined = queue.join(Interactive, LogIndex(5), 1, 5);
        assert_eq!(joined, Ok(Joined::AskForScan), "a scan under way takes nobody in");
    }

    /// The moment of a scan must be at or above the barrier of everybody whom it answers.
    #[test]
    fn a_scan_answers_only_whose_barrier_its_moment_has_reached() {
        let mut queue = queue(&[(Interactive, 5, 1), (Interactive, 9, 1), (Interactive, 6, 1), (Bulk, 7, 1)]);
        let scan = queue.begin(LogIndex(6), ALL);
        assert_eq!((scan.searches, scan.behind, scan.ask_for_scan), (vec![0, 2], vec![1, 3], None));
    }

    #[test]
    fn a_scan_takes_a_bounded_number_of_probes_in_order_of_arrival() {
        let all = [40, 24, 1, 63].map(|probes| (Interactive, 1, probes));
        let mut queue = queue(&all);
        assert_eq!(queue.probes(), 128);
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [0, 1]);
        let scan = queue.begin(LogIndex(1), ALL);
        assert_eq!((scan.searches, scan.ask_for_scan), (vec![2, 3], None));
        assert_eq!(queue.probes(), 0);
        queue.join(Bulk, LogIndex(1), 200, 7).expect("an empty queue takes any search");
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [7]);
    }

    #[test]
    fn a_full_queue_refuses_and_loses_nothing() {
        let mut queue = queue(&[(Interactive, 1, 64), (Interactive, 1, 64)]);
        assert_eq!(queue.join(Interactive, LogIndex(1), 1, 9), Err(ScanQueueFull));
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [0]);
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [1]);
    }

    #[test]
    fn bulk_leaves_room_for_interactive_searches() {
        let mut queue = queue(&[(Bulk, 1, 64), (Bulk, 1, 48)]);
        assert_eq!(queue.join(Bulk, LogIndex(1), 1, 9), Err(ScanQueueFull));
        assert_eq!(queue.join(Interactive, LogIndex(1), 16, 2), Ok(Joined::HastenScan));
        assert_eq!(queue.join(Interactive, LogIndex(1), 1, 9), Err(ScanQueueFull));
    }

    /// Searches given up once took their place in a scan until it ended.
    #[test]
    fn a_search_that_nobody_waits_for_leaves_its_place_to_others() {
        let all = [64, 64].map(|probes| (Interactive, 1, probes));
        let mut queue = queue(&all);
        let scan = queue.begin(LogIndex(1), |search| *search == 1);
        assert_eq!((scan.searches, scan.ask_for_scan), (vec![1], None));
        assert_eq!(queue.probes(), 0);
    }

    /// Bulk that was given up once kept its place for as long as interactive searches went first.
    #[test]
    fn bulk_that_nobody_waits_for_leaves_although_it_is_not_its_turn() {
        let mut queue = queue(&[(Bulk, 1, 64), (Interactive, 1, 64)]);
        let scan = queue.begin(LogIndex(1), |search| *search == 1);
        assert_eq!((scan.searches, scan.ask_for_scan, queue.probes()), (vec![1], None, 0));
    }

    #[test]
    fn interactive_searches_overtake_bulk_until_its_turn_comes() {
        let mut queue = ScanQueue::new(64, 4_096);
        let join = |queue: &mut ScanQueue<u32>, priority, number| {
            queue.join(priority, LogIndex(1), 64, number).expect("there is room");
        };
        join(&mut queue, Bulk, 100);
        join(&mut queue, Bulk, 101);
        let mut begun = Vec::new();
        for number in 0..6 {
            join(&mut queue, Interactive, number);
            begun.extend(queue.begin(LogIndex(1), ALL).searches);
        }
        assert_eq!(begun, [0, 1, 2, 100, 3, 4]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join { interactive: bool, barrier: u64, probes: usize },
        GiveUp { place: usize },
        Begin { searchable: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (proptest::bool::weighted(0.7), 0..4_u64, 1..=8_usize)
                .prop_map(|(interactive, barrier, probes)| Step::Join { interactive, barrier, probes }),
            1 => (0..64_usize).prop_map(|place| Step::GiveUp { place }),
            2 => (2..4_u64).prop_map(|searchable| Step::Begin { searchable }),
        ]
    }

    proptest! {
        /// Against a list of who waits: barriers hold, nobody overtakes within a priority, no interactive search is left for bulk that
        /// is not due, bulk is not passed over too often, who is given up leaves, and limits hold.
        #[test]
        fn every_scan_keeps_the_promises(steps in proptest::collection::vec(step(), 1..300)) {
            let mut queue = ScanQueue::new(8, 40);
            let mut waiting: Vec<(u32, Priority, u64, usize)> = Vec::new();
            let (mut wanted, mut passed_over) = (Vec::<bool>::new(), 0);
            for step in steps {
                match step {
                    Step::Join { interactive, barrier, probes } => {
                        let priority = if interactive { Interactive } else { Bulk };
                        let number = u32::try_from(wanted.len()).expect("few");
                        if let Ok(joined) = queue.join(priority, LogIndex(barrier), probes, number) {
                            prop_assert_eq!(joined == Joined::AskForScan, waiting.is_empty());
                            waiting.push((number, priority, barrier, probes));
                            wanted.push(true);
                        }
                        prop_assert!(queue.probes() <= 40);
                    }
                    Step::GiveUp { place } => if !wanted.is_empty() {
                        let place = place % wanted.len();
                        wanted[place] = false;
                    },
                    Step::Begin { searchable } => {
                        let scan = queue.begin(LogIndex(searchable), |search| wanted[*search as usize]);
                        waiting.retain(|(number, ..)| wanted[*number as usize]);
                        let of = |number: &u32| *waiting.iter().find(|(one, ..)| one == number).expect("it waited");
                        let (taken, behind): (Vec<_>, Vec<_>) =
                            (scan.searches.iter().map(of).collect(), scan.behind.iter().map(of).collect());
                        prop_assert!(taken.iter().all(|(_, _, barrier, _)| *barrier <= searchable));
                        prop_assert!(behind.iter().all(|(_, _, barrier, _)| *barrier > searchable));
                        let probes: usize = taken.iter().map(|(.., probes)| probes).sum();
                        prop_assert!(probes <= 8 || taken.len() == 1);
                        let has_left = |number: &u32| scan.searches.contains(number) || scan.behind.contains(number);
                        for kind in [Interactive, Bulk] {
                            let of_kind = |one: &&(u32, Priority, u64, usize)| one.1 == kind;
                            let left: Vec<bool> = waiting.iter().filter(of_kind).map(|one| has_left(&one.0)).collect();
                            prop_assert!(left.is_sorted_by_key(|left| !left), "whoever came first leaves first");
                        }
                        let bulk_taken = taken.iter().filter(|one| one.1 == Bulk).count();
                        waiting.retain(|(number, ..)| !has_left(number));
                        let waits = |kind| waiting.iter().any(|one| one.1 == kind);
                        if waits(Interactive) {
                            prop_assert!(bulk_taken == 0 || passed_over == BULK_EVERY - 1, "bulk went first unduly");
                        }
                        passed_over = if bulk_taken > 0 || !waits(Bulk) { 0 } else { passed_over + 1 };
                        prop_assert!(passed_over < BULK_EVERY);
                        prop_assert_eq!(scan.ask_for_scan.is_some(), !waiting.is_empty());
                        prop_assert_eq!(scan.ask_for_scan == Some(Interactive), waits(Interactive));
                    }
                }
            }
        }
    }
}
