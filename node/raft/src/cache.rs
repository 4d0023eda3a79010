//! The newest entries of the log in memory, bounded in bytes: what followers and apply nearly always ask for. Everything in it
//! is also in the store.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

/// Entries without a gap, up to the last of the log; the newest, if there is one, is always there, so that the last term needs
/// no read.
#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Takes in entries that are in the store now; those they replace, and all after these, go.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        while self.entries.back().is_some_and(|last| last.index >= first) {
            let replaced = self.entries.pop_back().expect("just seen");
            self.bytes -= weight(&replaced);
        }
        if let Some(last) = self.entries.back() {
            assert_eq!(last.index + 1, first, "entries follow one another");
        }
        self.bytes += entries.iter().map(weight).sum::<usize>();
        self.entries.extend(entries);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let oldest = self.entries.pop_front().expect("there are at least two");
            self.bytes -= weight(&oldest);
        }
    }

    /// Lets go of the entries up to `index`, which are removed from the log.
    pub(crate) fn compact(&mut self, index: u64) {
        while self.entries.front().is_some_and(|oldest| oldest.index <= index) {
            let oldest = self.entries.pop_front().expect("just seen");
            self.bytes -= weight(&oldest);
        }
    }

    /// Returns the index of the oldest entry held.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Returns the entry at `index`, if it is held.
    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.first_index()?)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The bytes held.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What an entry costs in memory.
pub(crate) fn weight(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len() + entry.context.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![7; bytes], ..Entry::default() }
    }

    #[test]
    fn the_cache_holds_no_more_bytes_than_its_bound_but_always_the_newest_entry() {
        let mut cache = EntryCache::new(2_000);
        for index in 1..=100 {
            cache.append(vec![entry(index, 1, 300)]);
            assert!(cache.bytes() <= 2_000);
            assert!(cache.get(index).is_some());
        }
        assert!(cache.get(1).is_none());
        cache.append(vec![entry(101, 1, 50_000)]);
        assert_eq!(cache.first_index(), Some(101));
    }

    #[test]
    fn removed_entries_leave_the_cache_and_the_next_follow_on() {
        let mut cache = EntryCache::new(1 << 20);
        cache.append((5..=10).map(|index| entry(index, 1, 8)).collect());
        cache.compact(7);
        assert!(cache.get(7).is_none());
        assert_eq!(
            (cache.first_index(), cache.bytes()),
            (Some(8), (8..=10).map(|index| weight(&entry(index, 1, 8))).sum())
        );
        cache.compact(10);
        assert_eq!((cache.first_index(), cache.bytes()), (None, 0));
        cache.append(vec![entry(11, 1, 8)]);
        assert!(cache.get(11).is_some());
    }

    #[test]
    fn replaced_entries_and_all_after_them_leave_the_cache() {
        let mut cache = EntryCache::new(1 << 20);
        cache.append((1..=10).map(|index| entry(index, 1, 8)).collect());
        cache.append(vec![entry(4, 2, 8)]);
        assert_eq!(cache.get(4).map(|entry| entry.term), Some(2));
        assert_eq!(cache.get(3).map(|entry| entry.term), Some(1));
        assert!(cache.get(5).is_none());
        assert_eq!(cache.bytes(), (1..=4).map(|index| weight(&entry(index, 1, 8))).sum::<usize>());
    }
}
