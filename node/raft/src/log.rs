//! The log as raft-rs reads it: the newest entries from memory, older ones from the store. Writing is the driver's.

use std::cell::RefCell;

use raft::eraftpb::{ConfState, Entry, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use raft_prost::Message as _;

use crate::cache::EntryCache;
use crate::compaction::{Mark, SAMPLES_MAX};
use crate::failures::OpenError;
use crate::ids::LogIndex;
use crate::offers::Offers;
use crate::rows::{self, LogStart};
use crate::store::{Store, StoreError, Table};

/// Rows asked of the store in one scan.
const SCAN_ROWS_MAX: usize = 256;

/// The log and what else raft-rs restarts from.
pub(crate) struct ReplicaLog<S> {
    store: S,
    /// As read when the replica was opened; raft-rs keeps its own from then on.
    opened: RaftState,
    truncated: LogStart,
    last_index: u64,
    cache: EntryCache,
    /// What a snapshot would be the state of: the applied index.
    applied: LogIndex,
    /// Who may be offered a snapshot; raft-rs asks here.
    pub(crate) offers: Offers,
    /// The first read that failed. raft-rs takes a failed read for a reason to panic, so it is given an empty answer, which
    /// it survives, and the replica stops before anything that rests on the answer leaves it.
    failure: RefCell<Option<StoreError>>,
}

impl<S: Store> ReplicaLog<S> {
    /// Reads what a replica restarts from, and checks that it fits together.
    pub(crate) fn open(store: S, cache_bytes_max: usize, offers: Offers) -> Result<(Self, LogIndex), OpenError> {
        let conf_state = store.get(Table::RAFT, rows::CONF_STATE)?.ok_or(OpenError::NotBootstrapped)?;
        let conf_state = rows::decode_conf_state(&conf_state)?;
        let hard_state = rows::hard_state(&store)?;
        let applied = rows::applied(&store)?;
        let truncated = rows::truncated(&store)?;
        let corrupt = |reason: String| OpenError::Corrupt { table: Table::RAFT, reason };
        if hard_state.commit < applied.0 {
            return Err(corrupt(format!("applied {applied} beyond commit {}", hard_state.commit)));
        }
        if applied.0 < truncated.index {
            return Err(corrupt(format!("the log starts after {}, but is applied up to {applied}", truncated.index)));
        }
        if truncated.term > hard_state.term || (truncated.index == 0) != (truncated.term == 0) {
            let LogStart { index, term } = truncated;
            let reason = format!("the log starts after entry {index} of term {term}, in term {}", hard_state.term);
            return Err(corrupt(reason));
        }
        if conf_state.voters.is_empty() && hard_state.commit > 0 {
            return Err(corrupt("configuration with voters []".to_owned()));
        }
        let last = last_entry(&store, truncated, hard_state.commit)?;
        let mut log = Self {
            store,
            opened: RaftState::new(hard_state, conf_state),
            truncated,
            last_index: last.as_ref().map_or(truncated.index, |entry| entry.index),
            applied,
            offers,
            cache: EntryCache::new(cache_bytes_max),
            failure: RefCell::new(None),
        };
        log.cache.append(last.into_iter().collect());
        Ok((log, applied))
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// What is before the log.
    pub(crate) fn truncated(&self) -> LogStart {
        self.truncated
    }

    /// The configuration as it was when the replica was opened.
    pub(crate) fn opened_conf_state(&self) -> &ConfState {
        &self.opened.conf_state
    }

    /// Entries up to here are applied once the driver has written what it was given.
    pub(crate) fn set_applied(&mut self, applied: LogIndex) {
        self.applied = applied;
    }

    /// Lets go of the log up to `index`, which is applied; the driver removes its rows. Returns what is before the log then.
    pub(crate) fn compact(&mut self, index: u64) -> Result<LogStart, StoreError> {
        assert!(index > self.truncated.index && index <= self.last_index, "the log is cut where there is one");
        self.truncated = LogStart { index, term: self.read_term(index)? };
        self.cache.compact(index);
        Ok(self.truncated)
    }

    /// Estimates the bytes of the log up to `applied`, by looking at some entries.
    pub(crate) fn sample(&self, applied: LogIndex) -> Result<Vec<Mark>, StoreError> {
        let mut samples = Vec::new();
        let mut last = self.truncated.index;
        let stride = (applied.0 - last).div_ceil(SAMPLES_MAX).max(1);
        while last < applied.0 {
            let before = last;
            last = applied.0.min(last + stride);
            let bytes = crate::cache::weight(&rows::entry(&self.store, LogIndex(last))?) as u64;
            samples.push(Mark { last, bytes: bytes * (last - before) });
        }
        Ok(samples)
    }

    /// Takes in entries that the driver has written, replacing any at and after the first.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        if let Some(last) = entries.last() {
            self.last_index = last.index;
        }
        self.cache.append(entries);
    }

    /// Returns the first read that failed, if one did.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    fn survive<T: Default>(&self, read: Result<T, StoreError>) -> T {
        read.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            T::default()
        })
    }

    fn read_term(&self, index: u64) -> Result<u64, StoreError> {
        match self.cache.get(index) {
            Some(entry) => Ok(entry.term),
            None => Ok(rows::entry(&self.store, LogIndex(index))?.term),
        }
    }

    /// Returns entries of `[low, high)`: the first, and those after it that fit `bytes_max` together with it.
    fn read_entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, StoreError> {
        let mut batch = EntryBatch { entries: Vec::new(), bytes: 0, bytes_max };
        let cached_from = self.cache.first_index().unwrap_or(u64::MAX).min(high);
        let mut next = low;
        while next < cached_from {
            let rows_max = SCAN_ROWS_MAX.min(usize::try_from(cached_from - next).unwrap_or(SCAN_ROWS_MAX));
            let from = rows::entry_key(LogIndex(next));
            let page = self.store.scan(Table::LOG, &from, &rows::entry_key(LogIndex(cached_from)), rows_max)?;
            if page.is_empty() {
                return Err(rows::missing(LogIndex(next)));
            }
            for (key, row) in page {
                if rows::decode_entry_key(&key)?.0 != next {
                    return Err(rows::missing(LogIndex(next)));
                }
                if !batch.take(rows::decode_entry(LogIndex(next), &row)?) {
                    return Ok(batch.entries);
                }
                next += 1;
            }
        }
        for index in next..high {
            let entry = self.cache.get(index).ok_or_else(|| rows::missing(LogIndex(index)))?;
            if !batch.take(entry.clone()) {
                break;
            }
        }
        Ok(batch.entries)
    }
}

/// Entries gathered up to a bound.
struct EntryBatch {
    entries: Vec<Entry>,
    bytes: u64,
    bytes_max: u64,
}

impl EntryBatch {
    /// Takes the entry unless it exceeds the bound and is not the first.
    fn take(&mut self, entry: Entry) -> bool {
        self.bytes += entry.encoded_len() as u64;
        let fits = self.entries.is_empty() || self.bytes <= self.bytes_max;
        if fits {
            self.entries.push(entry);
        }
        fits
    }
}

/// Finds the last entry, knowing that the log reaches `commit`, and checks both ends of the log for gaps.
fn last_entry(store: &impl Store, truncated: LogStart, commit: u64) -> Result<Option<Entry>, OpenError> {
    let holds = |index: u64| -> Result<bool, StoreError> {
        Ok(index == truncated.index || store.get(Table::LOG, &rows::entry_key(LogIndex(index)))?.is_some())
    };
    let missing = |index: u64| rows::missing(LogIndex(index));
    if !holds(commit)? {
        return Err(missing(commit).into());
    }
    // The reach doubles until it passes the end; then the end is between two known indices, and halving finds it.
    let (mut held, mut reach) = (commit, 1);
    while holds(held + reach)? {
        held += reach;
        reach *= 2;
    }
    let mut absent = held + reach;
    while absent - held > 1 {
        let middle = held + (absent - held) / 2;
        if holds(middle)? { held = middle } else { absent = middle }
    }
    let first = store.scan(Table::LOG, &[], rows::LOG_END, 1)?;
    if let Some((key, _)) = first.first() {
        let first = rows::decode_entry_key(key)?.0;
        if first <= truncated.index {
            let reason = format!("entry {first} is there, but the log starts after {}", truncated.index);
            return Err(OpenError::Corrupt { table: Table::LOG, reason });
        }
        if first != truncated.index + 1 {
            return Err(missing(truncated.index + 1).into());
        }
    }
    if !store.scan(Table::LOG, &rows::entry_key(LogIndex(absent)), rows::LOG_END, 1)?.is_empty() {
        return Err(missing(absent).into());
    }
    if held == truncated.index { Ok(None) } else { Ok(Some(rows::entry(store, LogIndex(held))?)) }
}

impl<S: Store> Storage for ReplicaLog<S> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.opened.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        Ok(self.survive(self.read_entries(low, high, max_size.into().unwrap_or(u64::MAX))))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index < self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last_index {
            return Err(StorageError::Unavailable.into());
        }
        Ok(self.survive(self.read_term(index)))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    /// Says what a snapshot would be at least the state of; it is read when the driver sends it. Nothing but the index counts:
    /// from it raft-rs knows where to go on.
    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        if self.applied.0 == 0 || !self.offers.may_offer(to) {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let metadata = SnapshotMetadata { index: self.applied.0, ..SnapshotMetadata::default() };
        Ok(Snapshot { metadata: Some(metadata), ..Snapshot::default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::HardState;

    use super::*;
    use crate::memory::MemoryStore;
    use crate::store::WriteBatch;

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry { index, term: 1 + index / 10, data: vec![0; bytes], ..Entry::default() }
    }

    fn open(store: MemoryStore, cache_bytes_max: usize) -> Result<ReplicaLog<MemoryStore>, OpenError> {
        ReplicaLog::open(store, cache_bytes_max, Offers::new(1)).map(|(log, _)| log)
    }

    fn store(entries: &[Entry], commit: u64) -> MemoryStore {
        store_after(LogStart::default(), entries, commit)
    }

    /// The store of a replica that has applied everything up to `truncated`, with the entries after that.
    fn store_after(truncated: LogStart, entries: &[Entry], commit: u64) -> MemoryStore {
        let store = MemoryStore::new();
        let mut batch = WriteBatch::default();
        for entry in entries {
            batch.put(Table::LOG, rows::entry_key(LogIndex(entry.index)), rows::encode_entry(entry));
        }
        rows::put_conf_state(&mut batch, &ConfState { voters: vec![1], ..ConfState::default() });
        rows::put_truncated(&mut batch, truncated);
        rows::put_applied(&mut batch, LogIndex(truncated.index), &HardState { term: 9, vote: 1, commit });
        store.write(&batch);
        store
    }

    #[test]
    fn the_end_of_the_log_is_found_wherever_the_commit_index_is() {
        for truncated in [LogStart::default(), LogStart { index: 7, term: 1 }, LogStart { index: 1 << 40, term: 1 }] {
            for last in truncated.index..truncated.index + 40 {
                let entries: Vec<Entry> = (truncated.index + 1..=last).map(|index| entry(index, 3)).collect();
                for commit in truncated.index..=last {
                    let log = open(store_after(truncated, &entries, commit), 1).expect("a whole log");
                    assert_eq!((log.last_index(), log.first_index().ok()), (last, Some(truncated.index + 1)));
                }
            }
        }
    }

    #[test]
    fn what_is_before_the_log_has_a_term_and_what_is_before_that_has_not() {
        let entries: Vec<Entry> = (8..=20).map(|index| entry(index, 3)).collect();
        let mut log = open(store_after(LogStart { index: 7, term: 1 }, &entries, 20), 1_000).expect("a whole log");
        let compacted = |log: &ReplicaLog<MemoryStore>, first: u64| {
            assert_eq!(log.term(first - 2), Err(StorageError::Compacted.into()));
            let context = GetEntriesContext::empty(false);
            assert_eq!(log.entries(first - 1, first + 1, None, context), Err(StorageError::Compacted.into()));
            let context = GetEntriesContext::empty(false);
            assert_eq!(log.entries(first, 21, None, context).expect("entries").len() as u64, 21 - first);
        };
        assert_eq!(log.term(7), Ok(1));
        compacted(&log, 8);
        assert_eq!(log.compact(12).expect("the entry is there"), LogStart { index: 12, term: 2 });
        assert_eq!((log.term(12), log.first_index()), (Ok(2), Ok(13)));
        compacted(&log, 13);
        assert_eq!(log.compact(20).expect("the entry is there"), LogStart { index: 20, term: 3 });
        assert_eq!((log.term(20), log.first_index(), Storage::last_index(&log)), (Ok(3), Ok(21), Ok(20)));
        log.append(vec![entry(21, 3)]);
        assert_eq!(log.entries(21, 22, None, GetEntriesContext::empty(false)).expect("the entry").len(), 1);
        assert!(log.failure().is_none());
    }

    #[test]
    fn a_snapshot_is_offered_of_what_is_applied_and_to_whom_it_may_be() {
        let entries: Vec<Entry> = (8..=20).map(|index| entry(index, 3)).collect();
        let mut log = open(store_after(LogStart { index: 7, term: 1 }, &entries, 20), 1).expect("a whole log");
        log.set_applied(LogIndex(15));
        assert_eq!(log.snapshot(0, 2).expect("a snapshot").get_metadata().index, 15);
        log.offers.offered(2, 15);
        assert_eq!(log.snapshot(0, 2), Err(StorageError::SnapshotTemporarilyUnavailable.into()));
        assert!(log.snapshot(0, 3).is_ok());
        let fresh = open(store(&[], 0), 1).expect("a whole log");
        assert!(fresh.snapshot(0, 2).is_err(), "nothing is applied");
    }

    #[test]
    fn the_bytes_of_a_log_are_estimated_from_some_entries() {
        let entries: Vec<Entry> = (8..=1_000).map(|index| entry(index, 500)).collect();
        let log = open(store_after(LogStart { index: 7, term: 1 }, &entries, 1_000), 1).expect("a whole log");
        let samples = log.sample(LogIndex(900)).expect("the entries are there");
        assert!(samples.len() <= SAMPLES_MAX as usize, "{}", samples.len());
        assert_eq!(samples.last().map(|mark| mark.last), Some(900));
        let bytes: u64 = samples.iter().map(|mark| mark.bytes).sum();
        assert_eq!(bytes, 893 * crate::cache::weight(&entry(8, 500)) as u64);
        assert!(log.sample(LogIndex(7)).expect("nothing to read").is_empty());
    }

    #[test]
    fn a_missing_entry_leaves_an_empty_answer_and_a_failure() {
        let entries: Vec<Entry> = (1..=20).map(|index| entry(index, 3)).collect();
        let store = store(&entries, 20);
        let log = open(store.clone(), 1).expect("a whole log");
        let mut batch = WriteBatch::default();
        batch.delete(Table::LOG, rows::entry_key(LogIndex(7)));
        store.write(&batch);
        assert_eq!(log.entries(1, 7, None, GetEntriesContext::empty(false)).expect("never fails").len(), 6);
        assert!(log.failure().is_none());
        assert_eq!(log.entries(5, 9, None, GetEntriesContext::empty(false)).expect("never fails"), []);
        assert_eq!(log.failure().expect("a failure").reason, "entry 7 is missing");
    }

    proptest! {
        #[test]
        fn entries_come_from_memory_and_store_as_from_one_list(
            sizes in proptest::collection::vec(0_usize..400, 1..400),
            cache_bytes_max in 0_usize..40_000,
            bytes_max in prop_oneof![Just(u64::MAX), 0_u64..3_000],
            from in 0.0..1.0, to in 0.0..1.0, cut in 0.0..1.0,
        ) {
            let entries: Vec<Entry> = (1..).zip(&sizes).map(|(index, bytes)| entry(index, *bytes)).collect();
            let mut log = open(store(&entries, 0), cache_bytes_max).expect("a whole log");
            // As if the second half had just been written.
            log.append(entries[entries.len() / 2..].to_vec());
            let place = |share: f64| (share * entries.len() as f64) as usize;
            // And the log then cut short before what is read.
            let first = place(cut);
            if first > 0 {
                log.compact(first as u64).expect("the entry is there");
            }
            let place = |share: f64| first + (share * (entries.len() - first) as f64) as usize;
            let (from, to) = (place(from).min(place(to)), place(from).max(place(to)) + 1);
            let mut bytes = 0;
            let expected: Vec<Entry> = entries[from..to].iter().enumerate().take_while(|(position, entry)| {
                bytes += entry.encoded_len() as u64;
                *position == 0 || bytes <= bytes_max
            }).map(|(_, entry)| entry.clone()).collect();
            let (low, high) = (from as u64 + 1, to as u64 + 1);
            prop_assert_eq!(log.entries(low, high, bytes_max, GetEntriesContext::empty(false)).expect("never fails"), expected);
            for entry in &entries[first.saturating_sub(1)..] {
                prop_assert_eq!(log.term(entry.index).expect("never fails"), entry.term);
            }
            prop_assert!(log.failure().is_none());
        }
    }
}
