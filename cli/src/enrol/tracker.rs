//! How far a run is: which records of the input have ended, whatever the order of the answers. No files, no clock.
//!
//! Records are numbered from 0 over all files. Everything below the *mark* has ended, except for records that are to be sent again; what has
//! ended above it is sent again after an interruption, which ids make harmless. The input below the mark is known by a chain of hashes, so
//! that another input is noticed.

use std::collections::{BTreeSet, VecDeque};

use blake3::Hash;

/// Records taken and not yet below the mark, at most: what is remembered of them must stay small beside one that waits.
pub(crate) const WINDOW_MAX: usize = 16_384;
/// Records that may be left to be sent again before the run ends.
pub(crate) const AGAIN_MAX: usize = 10_000;

/// A record that is not enrolled, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reject {
    /// The file.
    pub(crate) file: String,
    /// The line or row in it, from 1.
    pub(crate) row: u64,
    /// Empty where it is not known.
    pub(crate) enrolment_id: String,
    pub(crate) reason: String,
}

/// How a record ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It is on record.
    Recorded,
    /// It never will be, as it is.
    Rejected(Reject),
    /// Nobody knows: it is to be sent again.
    Unanswered,
}

/// Where a run stands, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Records below it.
    pub(crate) records: u64,
    /// The chain over them.
    pub(crate) chain: Hash,
    /// Those of them that are to be sent again.
    pub(crate) again: BTreeSet<u64>,
}

impl Default for Mark {
    fn default() -> Self {
        Self { records: 0, chain: Hash::from_bytes([0; 32]), again: BTreeSet::new() }
    }
}

/// The chain after one more record.
pub(crate) fn chained(chain: &Hash, record: &Hash) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(chain.as_bytes()).update(record.as_bytes());
    hasher.finalize()
}

struct Taken {
    hash: Hash,
    end: Option<End>,
}

/// Follows one run.
pub(crate) struct Tracker {
    mark: Mark,
    /// From the mark on.
    taken: VecDeque<Taken>,
}

impl Tracker {
    pub(crate) fn new(mark: Mark) -> Self {
        Self { mark, taken: VecDeque::new() }
    }

    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The next record above all that were taken; returns its number.
    pub(crate) fn take(&mut self, hash: Hash) -> u64 {
        self.taken.push_back(Taken { hash, end: None });
        self.mark.records + self.taken.len() as u64 - 1
    }

    /// A record has ended; returns how many fell below the mark by it, and the rejected among them, in the input's order.
    pub(crate) fn end(&mut self, number: u64, end: End) -> (usize, Vec<Reject>) {
        let Some(place) = number.checked_sub(self.mark.records) else { return (0, self.end_again(number, end)) };
        let taken = self.taken.get_mut(place as usize).expect("only what was taken ends");
        assert!(taken.end.is_none(), "record {number} ended twice");
        taken.end = Some(end);
        let (mut below, mut rejects) = (0, Vec::new());
        while let Some(Taken { end: Some(_), .. }) = self.taken.front() {
            let Some(Taken { hash, end: Some(end) }) = self.taken.pop_front() else {
                unreachable!("looked at just now")
            };
            match end {
                End::Recorded => {}
                End::Rejected(reject) => rejects.push(reject),
                End::Unanswered => drop(self.mark.again.insert(self.mark.records)),
            }
            self.mark.chain = chained(&self.mark.chain, &hash);
            self.mark.records += 1;
            below += 1;
        }
        (below, rejects)
    }

    fn end_again(&mut self, number: u64, end: End) -> Vec<Reject> {
        assert!(self.mark.again.contains(&number), "record {number} had ended before");
        match end {
            End::Recorded => {
                self.mark.again.remove(&number);
                Vec::new()
            }
            End::Rejected(reject) => {
                self.mark.again.remove(&number);
                vec![reject]
            }
            End::Unanswered => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> Hash {
        blake3::hash(&number.to_le_bytes())
    }

    fn chain(records: u64) -> Hash {
        (0..records).fold(Mark::default().chain, |chain, number| chained(&chain, &hash(number)))
    }

    fn reject(row: u64) -> Reject {
        Reject { file: "a".to_owned(), row, enrolment_id: String::new(), reason: String::new() }
    }

    #[test]
    fn the_mark_passes_what_has_ended_in_the_inputs_order() {
        let mut tracker = Tracker::new(Mark::default());
        for number in 0..5 {
            assert_eq!(tracker.take(hash(number)), number);
        }
        assert_eq!(tracker.end(2, End::Rejected(reject(2))), (0, vec![]));
        assert_eq!(tracker.end(1, End::Rejected(reject(1))), (0, vec![]));
        assert_eq!(tracker.end(0, End::Recorded), (3, vec![reject(1), reject(2)]));
        assert_eq!((tracker.mark().records, tracker.mark().chain), (3, chain(3)));
        assert_eq!(tracker.end(4, End::Recorded), (0, vec![]));
        assert_eq!(tracker.end(3, End::Unanswered), (2, vec![]));
        assert_eq!(*tracker.mark(), Mark { records: 5, chain: chain(5), again: BTreeSet::from([3]) });
    }

    #[test]
    fn what_is_sent_again_leaves_the_list_once_it_has_an_answer() {
        let again = BTreeSet::from([2, 4, 7]);
        let mut tracker = Tracker::new(Mark { records: 10, chain: chain(10), again });
        assert_eq!(tracker.end(4, End::Recorded), (0, vec![]));
        assert_eq!(tracker.end(7, End::Rejected(reject(7))), (0, vec![reject(7)]));
        assert_eq!(tracker.end(2, End::Unanswered), (0, vec![]));
        assert_eq!(tracker.take(hash(10)), 10);
        assert_eq!(*tracker.mark(), Mark { records: 10, chain: chain(10), again: BTreeSet::from([2]) });
    }
}
