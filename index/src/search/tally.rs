//! What one probe's search has found so far: its best candidates, and the counts that account for every enrolment.
//!
//! Matches arrive from `scan` window by window, in any order within a window.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;

use crate::binary_rows::ShiftedProbe;
use crate::catalogue::{Gallery, References};
use crate::compare::Comparison;
use crate::ids::EnrolmentId;
use crate::rows::EnrolmentOrdinal;
use crate::score::ComparisonScore;
use crate::search::{Candidate, ORDINALS_PER_WINDOW, ProbeReference, SearchProbe, ShardSearch};
use crate::slot::Slot;
use crate::template::Template;

/// The running result of one probe.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    gallery: &'a Gallery,
    /// The probe's references with the number of the collection each compares with.
    comparable: Vec<(usize, &'a ProbeReference)>,
    candidates_max: usize,
    excluded: Option<EnrolmentOrdinal>,
    /// By makeup: whether it has embeddings in common with the probe, so that its counts say who is compared.
    compared_by_makeup: Vec<bool>,
    /// Live enrolments compared by their binary codes only.
    compared_by_scan: u64,
    /// Ordinals of this window, modulo its length, compared by their binary codes only. Empty until one is.
    compared_in_window: FixedBitSet,
    matches: Vec<Match>,
    best: BTreeSet<Ranked>,
    candidates_total: u64,
}

/// A pair of references that reached its threshold.
#[derive(Debug, Clone, Copy)]
struct Match {
    ordinal: EnrolmentOrdinal,
    margin: i32,
}

/// Orders as candidates are listed: the largest margin first, then the smallest id.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    margin: Reverse<i32>,
    enrolment_id: EnrolmentId,
    ordinal: EnrolmentOrdinal,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        gallery: &'a Gallery,
        probe: &'a SearchProbe,
        comparable: Vec<(usize, &'a ProbeReference)>,
    ) -> Self {
        let is_embedding =
            |number: &usize| matches!(gallery.collections[*number].references, References::Embeddings { .. });
        let embeddings: Vec<usize> = comparable.iter().map(|(number, _)| *number).filter(is_embedding).collect();
        let shares_embedding =
            |collections: &[usize]| collections.iter().any(|collection| embeddings.contains(collection));
        Self {
            gallery,
            candidates_max: probe.candidates_max,
            excluded: probe.exclude.as_ref().and_then(|id| gallery.live_ordinal(id)),
            compared_by_makeup: gallery.makeups.iter().map(|makeup| shares_embedding(&makeup.collections)).collect(),
            compared_by_scan: 0,
            compared_in_window: FixedBitSet::new(),
            comparable,
            matches: Vec::new(),
            best: BTreeSet::new(),
            candidates_total: 0,
        }
    }

    /// Whether a row's enrolment takes part in this search.
    pub(super) fn admits(&self, ordinal: EnrolmentOrdinal) -> bool {
        self.excluded != Some(ordinal) && !self.gallery.withdrawals.contains(ordinal)
    }

    /// Notes that an admitted enrolment's binary code was comparable.
    pub(super) fn note_compared(&mut self, ordinal: EnrolmentOrdinal) {
        if !self.compared_by_makeup[self.gallery.roll.entry(ordinal).makeup as usize] {
            self.compared_in_window.grow(ORDINALS_PER_WINDOW as usize);
            self.compared_in_window.insert((ordinal.0 % ORDINALS_PER_WINDOW) as usize);
        }
    }

    /// Takes a pair of an admitted enrolment that reached its threshold.
    pub(super) fn note_match(&mut self, ordinal: EnrolmentOrdinal, score: ComparisonScore, threshold: ComparisonScore) {
        // Both lie within ±10⁶.
        self.matches.push(Match { ordinal, margin: score.micros() - threshold.micros() });
    }

    /// Ranks the candidates of a window: all pairs of its enrolments have been noted.
    pub(super) fn close_window(&mut self) {
        self.compared_by_scan += self.compared_in_window.count_ones(..) as u64;
        self.compared_in_window.clear();
        let mut matches = std::mem::take(&mut self.matches);
        matches.sort_unstable_by_key(|found| (found.ordinal, Reverse(found.margin)));
        // The largest margin of each enrolment comes first and stays.
        matches.dedup_by_key(|found| found.ordinal);
        self.candidates_total += matches.len() as u64;
        for found in matches.drain(..) {
            self.rank(found);
        }
        self.matches = matches;
    }

    fn rank(&mut self, found: Match) {
        let enrolment_id = &self.gallery.roll.entry(found.ordinal).id;
        if self.best.len() == self.candidates_max {
            let behind = |last: &Ranked| (last.margin, &last.enrolment_id) <= (Reverse(found.margin), enrolment_id);
            if self.best.last().is_none_or(behind) {
                return;
            }
            self.best.pop_last();
        }
        let (margin, enrolment_id) = (Reverse(found.margin), enrolment_id.clone());
        self.best.insert(Ranked { margin, enrolment_id, ordinal: found.ordinal });
    }

    /// The answer, once every window was closed.
    pub(super) fn finish(self) -> ShardSearch {
        let excluded = u64::from(self.excluded.is_some());
        let live = self.gallery.live() - excluded;
        let compared = self.compared_by_embeddings() + self.compared_by_scan;
        let candidates = self.best.iter().map(|ranked| Candidate {
            enrolment_id: ranked.enrolment_id.clone(),
            margin: ranked.margin.0,
            comparisons: self.comparisons(ranked.ordinal),
        });
        ShardSearch {
            live,
            compared,
            not_comparable: live - compared,
            withdrawn: self.gallery.withdrawals.len(),
            excluded,
            candidates: candidates.collect(),
            candidates_total: self.candidates_total,
        }
    }

    fn compared_by_embeddings(&self) -> u64 {
        let makeups = self.gallery.makeups.iter().zip(&self.compared_by_makeup);
        let live: u64 = makeups.filter(|(_, compared)| **compared).map(|(makeup, _)| makeup.live).sum();
        let excluded = self.excluded.map(|ordinal| self.gallery.roll.entry(ordinal).makeup as usize);
        live - u64::from(excluded.is_some_and(|makeup| self.compared_by_makeup[makeup]))
    }

    /// Every comparable pair's score for one enrolment, in slot order. Exact, like the scan that found it.
    fn comparisons(&self, ordinal: EnrolmentOrdinal) -> Vec<(Slot, ComparisonScore)> {
        let mut comparisons: Vec<_> = self
            .comparable
            .iter()
            .filter_map(|(number, reference)| Some((reference.slot, self.score(*number, reference, ordinal)?)))
            .collect();
        comparisons.sort_unstable();
        comparisons
    }

    fn score(&self, number: usize, reference: &ProbeReference, ordinal: EnrolmentOrdinal) -> Option<ComparisonScore> {
        match (&self.gallery.collections[number].references, &reference.template) {
            (References::Embeddings { sealed, growing }, Template::Embedding(probe)) => {
                let first = sealed.partition_point(|sealed| sealed.rows.rows().last_ordinal() < Some(ordinal));
                let rows = sealed.get(first).map_or(growing, |sealed| &sealed.rows);
                rows.rows().row_of(ordinal).map(|row| rows.score(row, probe))
            }
            (References::BinaryCodes { sealed, growing }, Template::BinaryCode(probe)) => {
                let first = sealed.partition_point(|rows| rows.rows().last_ordinal() < Some(ordinal));
                let rows = sealed.get(first).unwrap_or(growing);
                let row = rows.rows().row_of(ordinal)?;
                match rows.compare(row, &ShiftedProbe::new(rows.spec(), probe), &mut Vec::new()) {
                    Comparison::Score(score) => Some(score),
                    Comparison::NotComparable => None,
                }
            }
            (References::Embeddings { .. }, Template::BinaryCode(_))
            | (References::BinaryCodes { .. }, Template::Embedding(_)) => {
                unreachable!("a comparable reference conforms to its collection's spec")
            }
        }
    }
}
