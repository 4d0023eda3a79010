//! Which sealed segments of a collection are worth compacting, and when.
//!
//! Merging writes a row again only where its segment becomes twice as long or an eighth of a full segment longer, so at most
//! log₂(full) + 8 times. A segment of which a fifth is withdrawn has at most four rows to write for each that is let go; that it is
//! then shorter makes room for merging again, by as much as was let go.

use std::ops::Range;

/// The share of a segment's references, in percent, that must be withdrawn for it to be compacted alone.
const WITHDRAWN_PERCENT_MIN: usize = 20;
/// Which part of a full segment must be added to the longest of those that are merged, where they do not become twice as long.
const GROWTH_SHARE: usize = 8;
/// Segments that one job takes together. What it writes is a full segment at most.
const SEGMENTS_PER_JOB_MAX: usize = 64;

/// A sealed segment, as far as the rule is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) withdrawn: usize,
    /// No other job works on it.
    pub(super) settled: bool,
}

impl Size {
    fn live(self) -> usize {
        self.rows - self.withdrawn
    }

    fn is_sparse(self) -> bool {
        self.withdrawn > 0 && 100 * self.withdrawn >= WITHDRAWN_PERCENT_MIN * self.rows
    }
}

/// The first neighbours from `from` on that are worth compacting, as many as one job may take; `full` is how long a segment may
/// become, and one with fewer than `rows_min` rows cannot be built.
pub(super) fn first_worthwhile(sizes: &[Size], from: usize, full: usize, rows_min: usize) -> Option<Range<usize>> {
    (from..sizes.len()).find_map(|start| {
        let (mut live, mut largest, mut found) = (0, 0, None);
        for (place, size) in sizes.iter().enumerate().skip(start).take(SEGMENTS_PER_JOB_MAX) {
            live += size.live();
            largest = largest.max(size.live());
            if !size.settled || live > full {
                break;
            }
            let alone = place == start;
            let worth = if alone { size.is_sparse() } else { is_worth_merging(live, largest, full) };
            if worth && (live == 0 || live >= rows_min) {
                found = Some(start..place + 1);
            }
        }
        found
    })
}

fn is_worth_merging(live: usize, largest: usize, full: usize) -> bool {
    live == 0 || live >= 2 * largest || live - largest >= full.div_ceil(GROWTH_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(of: &[(usize, usize)]) -> Vec<Size> {
        of.iter().map(|(rows, withdrawn)| Size { rows: *rows, withdrawn: *withdrawn, settled: true }).collect()
    }

    fn check(of: &[(usize, usize)], expected: Option<Range<usize>>) {
        assert_eq!(first_worthwhile(&sizes(of), 0, 800, 1), expected, "{of:?}");
    }

    #[test]
    fn short_neighbours_are_merged_where_that_makes_much_of_them() {
        check(&[], None);
        check(&[(800, 0), (800, 0)], None);
        check(&[(100, 0)], None);
        check(&[(100, 0), (100, 0)], Some(0..2));
        check(&[(800, 0), (100, 0), (100, 0), (100, 0)], Some(1..4));
        // Together they do not fit a segment.
        check(&[(500, 0), (500, 0)], None);
        // An eighth of a full segment is gained.
        check(&[(600, 0), (100, 0)], Some(0..2));
        check(&[(600, 0), (99, 0)], None);
        check(&[(99, 0), (600, 0), (99, 0)], Some(0..3));
        // Long ones are merged once withdrawals have made room.
        check(&[(500, 0), (375, 75)], Some(0..2));
    }

    #[test]
    fn a_segment_is_compacted_alone_once_a_fifth_of_it_is_withdrawn() {
        check(&[(800, 159)], None);
        check(&[(800, 0), (800, 160)], Some(1..2));
        check(&[(800, 0), (800, 800)], Some(1..2));
    }

    #[test]
    fn what_an_engine_cannot_build_stays() {
        let sparse = sizes(&[(800, 701)]);
        assert_eq!(first_worthwhile(&sparse, 0, 800, 100), None);
        assert_eq!(first_worthwhile(&sparse, 0, 800, 99), Some(0..1));
        assert_eq!(first_worthwhile(&sizes(&[(800, 800)]), 0, 800, 100), Some(0..1));
    }

    #[test]
    fn segments_with_another_job_under_way_are_left_alone() {
        let mut all = sizes(&[(100, 0), (100, 0), (100, 50), (100, 0), (100, 0)]);
        all[2].settled = false;
        assert_eq!(first_worthwhile(&all, 0, 800, 1), Some(0..2));
        assert_eq!(first_worthwhile(&all, 1, 800, 1), Some(3..5));
    }

    #[test]
    fn one_job_takes_a_bounded_number_of_segments() {
        let many = sizes(&[(1, 0); 300]);
        assert_eq!(first_worthwhile(&many, 0, 800, 1), Some(0..SEGMENTS_PER_JOB_MAX));
    }

    /// The worst case of growth is a new short segment at a time; each row may then be written log₂(full) + 8 times.
    #[test]
    fn merging_writes_a_row_a_bounded_number_of_times() {
        for (full, short) in [(800_usize, 1_usize), (800, 7), (800, 100), (16_384, 61)] {
            let (mut all, mut written, mut total) = (Vec::new(), 0, 0);
            for _ in 0..4 * full / short {
                all.push((short, 0));
                total += short;
                while let Some(found) = first_worthwhile(&sizes(&all), 0, full, 1) {
                    let merged = all[found.clone()].iter().map(|(rows, _)| rows).sum();
                    written += merged;
                    all.splice(found, [(merged, 0)]);
                }
            }
            let times = full.ilog2() as usize + GROWTH_SHARE;
            assert!(written <= total * times, "{written} written of {total}, at {short} each");
            // Nearly as few segments as there can be.
            assert!(all.len() <= 2 * total.div_ceil(full) + full.ilog2() as usize, "{} segments of {total}", all.len());
        }
    }

    /// However often enrolments are withdrawn, a row that is let go costs a bounded number of rows written.
    #[test]
    fn reclaiming_writes_a_bounded_number_of_rows_for_each_withdrawn() {
        let full = 800;
        let mut all: Vec<(usize, usize)> = vec![(full, 0); 40];
        let (mut written, mut withdrawals, mut next) = (0, 0, 7_usize);
        while !all.is_empty() {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = (next >> 33) % all.len();
            let (rows, withdrawn) = &mut all[place];
            *withdrawn += usize::from(*withdrawn < *rows);
            withdrawals += 1;
            while let Some(found) = first_worthwhile(&sizes(&all), 0, full, 1) {
                let live: usize = all[found.clone()].iter().map(|(rows, withdrawn)| rows - withdrawn).sum();
                written += live;
                all.splice(found, (live > 0).then_some((live, 0)));
            }
        }
        assert_eq!(withdrawals, 40 * full);
        assert!(written <= 20 * withdrawals, "{written} written for {withdrawals}");
    }
}
