//! When the log is cut short, and where. A follower that needs what was removed gets a snapshot, so the more is kept the fewer
//! there are; what is kept costs disk. How rows are removed is in [`crate::apply`].

use std::collections::VecDeque;

use crate::config::ReplicaConfig;
use crate::mutant::Mutant;

/// A mark is set after so many entries at the latest, or so many bytes: cuts by bytes are made at marks.
const MARK_ENTRIES: u64 = 64;
const MARK_BYTES: u64 = 256 << 10;
/// Entries that are looked at when a log is opened, to estimate the bytes of all.
pub(crate) const SAMPLES_MAX: u64 = 128;

/// The applied part of the log: entries after `truncated` up to `applied`.
#[derive(Debug)]
pub(crate) struct Compaction {
    truncated: u64,
    applied: u64,
    /// Of stretches of the log that follow one another, from `truncated` on: the last index, and the bytes.
    marks: VecDeque<Mark>,
    bytes: u64,
    entries_max: u64,
    bytes_max: u64,
    entries_kept: u64,
    entries_pinned_max: u64,
    bytes_pinned_max: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) last: u64,
    pub(crate) bytes: u64,
}

impl Compaction {
    /// Starts with a log whose applied entries weigh what `samples` say.
    pub(crate) fn new(config: &ReplicaConfig, truncated: u64, applied: u64, samples: Vec<Mark>) -> Self {
        Self {
            truncated,
            applied,
            bytes: samples.iter().map(|mark| mark.bytes).sum(),
            marks: samples.into(),
            entries_max: config.log_entries_max,
            bytes_max: config.log_bytes_max,
            entries_kept: config.log_entries_kept.min(config.log_entries_max),
            entries_pinned_max: config.log_entries_pinned_max.max(config.log_entries_max),
            bytes_pinned_max: config.log_bytes_pinned_max.max(config.log_bytes_max),
        }
    }

    /// The entry at `index` is applied.
    pub(crate) fn applied(&mut self, index: u64, bytes: u64) {
        self.applied = index;
        self.bytes += bytes;
        let begun = self.marks.len().checked_sub(2).map_or(self.truncated, |before| self.marks[before].last);
        match self.marks.back_mut() {
            Some(mark) if mark.bytes < MARK_BYTES && mark.last - begun < MARK_ENTRIES => {
                *mark = Mark { last: index, bytes: mark.bytes + bytes };
            }
            Some(_) | None => self.marks.push_back(Mark { last: index, bytes }),
        }
    }

    /// Returns up to where the log is to be removed, if it is time. Entries after `pinned_after` stay, within bounds of their
    /// own.
    pub(crate) fn due(&self, pinned_after: Option<u64>) -> Option<u64> {
        if Mutant::LogNeverCut.is_chosen() {
            return None;
        }
        let held = self.applied - self.truncated;
        if held <= self.entries_max && self.bytes <= self.bytes_max {
            // An empty replica must find no log that it could take up from its start: the first configuration is not in it.
            return (self.truncated == 0 && self.applied > 0).then_some(1);
        }
        let by_entries = self.applied - self.entries_kept.min(held);
        let mut to = by_entries.max(self.last_before_bytes(self.bytes_max / 2));
        if let Some(pinned) = pinned_after.filter(|pinned| *pinned < to)
            && self.applied - pinned.max(self.truncated) <= self.entries_pinned_max
            && self.bytes <= self.bytes_pinned_max
        {
            to = pinned;
        }
        (to > self.truncated).then_some(to)
    }

    /// The log is removed up to `index`.
    pub(crate) fn truncated(&mut self, index: u64) {
        self.truncated = index;
        while let Some(mark) = self.marks.front().filter(|mark| mark.last <= index) {
            self.bytes -= mark.bytes;
            self.marks.pop_front();
        }
    }

    /// Returns the last index before the newest `bytes_max` bytes.
    fn last_before_bytes(&self, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        let beyond = self.marks.iter().rev().find(|mark| {
            bytes += mark.bytes;
            bytes > bytes_max
        });
        beyond.map_or(self.truncated, |mark| mark.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::ReplicaId;

    fn config() -> ReplicaConfig {
        let mut config = ReplicaConfig::new(ReplicaId::new(1).expect("not zero"), 1, 1);
        (config.log_entries_max, config.log_entries_kept, config.log_bytes_max) = (200, 80, 100_000);
        (config.log_entries_pinned_max, config.log_bytes_pinned_max) = (400, 150_000);
        config
    }

    /// Applies entries of these sizes, compacts when it is due, and returns where.
    fn compactions(compaction: &mut Compaction, bytes: &[u64], pinned_after: Option<u64>) -> Vec<u64> {
        let mut cuts = Vec::new();
        for bytes in bytes {
            compaction.applied(compaction.applied + 1, *bytes);
            if let Some(to) = compaction.due(pinned_after) {
                compaction.truncated(to);
                cuts.push(to);
            }
        }
        cuts
    }

    #[test]
    fn a_log_of_small_entries_is_cut_by_their_number() {
        let mut compaction = Compaction::new(&config(), 1, 1, Vec::new());
        assert_eq!(compactions(&mut compaction, &[10; 400], None), [122, 243]);
    }

    #[test]
    fn a_log_that_starts_with_its_first_entry_loses_that_one_at_once() {
        let mut compaction = Compaction::new(&config(), 0, 0, Vec::new());
        assert_eq!(compactions(&mut compaction, &[10; 5], None), [1]);
    }

    #[test]
    fn entries_after_a_snapshot_under_way_stay_within_their_bound() {
        let mut compaction = Compaction::new(&config(), 1, 1, Vec::new());
        assert_eq!(compactions(&mut compaction, &[10; 300], Some(20)), [20]);
        let further = compactions(&mut compaction, &[10; 300], Some(20));
        assert_eq!(further.first(), Some(&(421 - 80)), "{further:?}");
    }

    proptest! {
        #[test]
        fn a_log_stays_within_its_bounds_and_keeps_what_it_may(
            sizes in proptest::collection::vec(prop_oneof![1_u64..2_000, 1_u64..40_000], 1..900),
        ) {
            let config = config();
            let mut compaction = Compaction::new(&config, 1, 1, Vec::new());
            let mut last_cut = 1;
            for (index, size) in (2_u64..).zip(&sizes) {
                compaction.applied(index, *size);
                if let Some(to) = compaction.due(None) {
                    prop_assert!(to > last_cut && to <= index);
                    let kept = index - to;
                    let kept_bytes: u64 = sizes[(to - 1) as usize..(index - 1) as usize].iter().sum();
                    prop_assert!(kept <= config.log_entries_kept && kept_bytes <= config.log_bytes_max);
                    compaction.truncated(to);
                    last_cut = to;
                }
                let held = &sizes[(last_cut - 1) as usize..(index - 1) as usize];
                prop_assert!(held.len() as u64 <= config.log_entries_max);
                // What a mark covers in part is counted whole.
                prop_assert!(held.iter().sum::<u64>() <= config.log_bytes_max);
            }
        }
    }
}
