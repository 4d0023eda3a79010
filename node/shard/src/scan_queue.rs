//! Which searches of a shard may share one scan: those whose barrier was answered, on a moment that has reached it.
//!
//! A scan begins as soon as somebody is there to run it, so a search never waits for company; what arrives while every thread is at
//! work shares the next scan. Who runs scans, and who waits for barriers, is the shell's.

use std::collections::VecDeque;

use semel_raft::LogIndex;

/// Searches that wait for a scan of one shard, in order of arrival. `S` is what the shell keeps of each.
#[derive(Debug)]
pub struct ScanQueue<S> {
    waiting: VecDeque<Waiting<S>>,
    /// Probes of all that wait.
    probes: usize,
    /// A scan was asked for and has not begun: it will take in whoever comes until then.
    asked_for: bool,
    scan_probes_max: usize,
    probes_max: usize,
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
    /// In order of arrival; empty if all that waited have gone.
    pub searches: Vec<S>,
    /// Those whose barrier the moment has not reached: they get no answer from it.
    pub behind: Vec<S>,
    /// Others still wait: another scan is asked for, and the shell must see to it.
    pub ask_for_scan: bool,
}

impl<S> ScanQueue<S> {
    /// A queue of at most `probes_max` probes. One scan takes at most `scan_probes_max`, or a single search that has more.
    pub fn new(scan_probes_max: usize, probes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), probes: 0, asked_for: false, scan_probes_max, probes_max }
    }

    /// Puts a search in line. Its `barrier` began after the search had arrived, and was answered with this index.
    ///
    /// # Errors
    /// [`ScanQueueFull`]; an empty queue takes any search.
    pub fn join(&mut self, barrier: LogIndex, probes: usize, search: S) -> Result<Joined, ScanQueueFull> {
        if !self.waiting.is_empty() && self.probes + probes > self.probes_max {
            return Err(ScanQueueFull);
        }
        self.probes += probes;
        self.waiting.push_back(Waiting { barrier, probes, search });
        if std::mem::replace(&mut self.asked_for, true) { Ok(Joined::Waits) } else { Ok(Joined::AskForScan) }
    }

    /// Begins a scan of a moment that is taken now: hands out whom it may answer. Whoever joins later waits for the next, although
    /// this one is still under way: the moment may be older than their barrier.
    ///
    /// Searches that `is_wanted` says nobody waits for leave the queue unanswered. A shell that lets a search join only once its view is
    /// current meets nobody who is behind, unless the view was built anew meanwhile.
    pub fn begin(&mut self, searchable: LogIndex, is_wanted: impl Fn(&S) -> bool) -> SharedScan<S> {
        let (mut searches, mut behind, mut probes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            let wanted = is_wanted(&next.search);
            if wanted && !searches.is_empty() && probes + next.probes > self.scan_probes_max {
                break;
            }
            let next = self.waiting.pop_front().expect("looked at above");
            self.probes -= next.probes;
            if wanted && next.barrier <= searchable {
                probes += next.probes;
                searches.push(next.search);
            } else if wanted {
                behind.push(next.search);
            }
        }
        self.asked_for = !self.waiting.is_empty();
        SharedScan { searches, behind, ask_for_scan: self.asked_for }
    }

    /// Probes that wait.
    pub fn probes(&self) -> usize {
        self.probes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: fn(&u32) -> bool = |_| true;

    fn queue(searches: &[(u64, usize)]) -> ScanQueue<u32> {
        let mut queue = ScanQueue::new(64, 128);
        for (number, (barrier, probes)) in (0..).zip(searches) {
            queue.join(LogIndex(*barrier), *probes, number).expect("there is room");
        }
        queue
    }

    #[test]
    fn the_first_search_asks_for_a_scan_and_later_ones_ride_along() {
        let mut queue = ScanQueue::new(64, 128);
        assert_eq!(queue.join(LogIndex(5), 1, 0), Ok(Joined::AskForScan), "nobody waits for company");
        assert_eq!(queue.join(LogIndex(5), 1, 1), Ok(Joined::Waits));
        let scan = queue.begin(LogIndex(5), ALL);
        assert_eq!((scan.searches, scan.ask_for_scan), (vec![0, 1], false));
        assert_eq!(queue.join(LogIndex(5), 1, 2), Ok(Joined::AskForScan), "a scan under way takes nobody in");
    }

    /// The moment of a scan must be at or above the barrier of everybody whom it answers.
    #[test]
    fn a_scan_answers_only_whose_barrier_its_moment_has_reached() {
        let mut queue = queue(&[(5, 1), (9, 1), (6, 1)]);
        let scan = queue.begin(LogIndex(6), ALL);
        assert_eq!((scan.searches, scan.behind, scan.ask_for_scan), (vec![0, 2], vec![1], false));
    }

    #[test]
    fn a_scan_takes_a_bounded_number_of_probes_in_order_of_arrival() {
        let mut queue = queue(&[(1, 40), (1, 24), (1, 1), (1, 63)]);
        assert_eq!(queue.probes(), 128);
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [0, 1]);
        let scan = queue.begin(LogIndex(1), ALL);
        assert_eq!((scan.searches, scan.ask_for_scan), (vec![2, 3], false));
        assert_eq!(queue.probes(), 0);
        queue.join(LogIndex(1), 200, 7).expect("an empty queue takes any search");
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [7]);
    }

    #[test]
    fn a_full_queue_refuses_and_loses_nothing() {
        let mut queue = queue(&[(1, 64), (1, 64)]);
        assert_eq!(queue.join(LogIndex(1), 1, 9), Err(ScanQueueFull));
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [0]);
        assert_eq!(queue.begin(LogIndex(1), ALL).searches, [1]);
    }

    /// Searches given up once took their place in a scan until it ended.
    #[test]
    fn a_search_that_nobody_waits_for_leaves_its_place_to_others() {
        let mut queue = queue(&[(1, 64), (1, 64)]);
        let scan = queue.begin(LogIndex(1), |search| *search == 1);
        assert_eq!((scan.searches, scan.ask_for_scan), (vec![1], false));
        assert_eq!(queue.probes(), 0);
    }
}
