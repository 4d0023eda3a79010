//! What one probe's search has found so far: its best candidates, and the counts that account for every enrolment.
//!
//! Matches arrive from `scan` window by window, in any order within a window.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;

use crate::binary_rows::{Scratch, ShiftedProbe};
use crate::catalogue::{Gallery, References};
use crate::compare::Comparison;
use crate::ids::EnrolmentId;
use crate::rows::EnrolmentOrdinal;
use crate::score::ComparisonScore;
use crate::sealed_rows::TemplatesUnreadable;
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
        if !self.compared_by_makeup[self.gallery.roll.makeup(ordinal) as usize] {
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
        if self.best.len() == self.candidates_max {
            let id = self.gallery.roll.id(found.ordinal);
            let behind = |last: &Ranked| (last.margin, last.enrolment_id.as_str()) <= (Reverse(found.margin), id);
            if self.best.last().is_none_or(behind) {
                return;
            }
            self.best.pop_last();
        }
        let (margin, enrolment_id) = (Reverse(found.margin), self.gallery.roll.enrolment_id(found.ordinal));
        self.best.insert(Ranked { margin, enrolment_id, ordinal: found.ordinal });
    }

    /// The answer, once every window was closed.
    pub(super) fn finish(self) -> Result<ShardSearch, TemplatesUnreadable> {
        let excluded = u64::from(self.excluded.is_some());
        let live = self.gallery.live() - excluded;
        let compared = self.compared_by_embeddings() + self.compared_by_scan;
        let candidates = self.best.iter().map(|ranked| {
            let (enrolment_id, margin) = (ranked.enrolment_id.clone(), ranked.margin.0);
            Ok(Candidate { enrolment_id, margin, comparisons: self.comparisons(ranked.ordinal)? })
        });
        let candidates = candidates.collect::<Result<_, _>>()?;
        Ok(ShardSearch {
            live,
            compared,
            not_comparable: live - compared,
            withdrawn: self.gallery.withdrawals.len(),
            excluded,
            candidates,
            candidates_total: self.candidates_total,
        })
    }

    fn compared_by_embeddings(&self) -> u64 {
        let makeups = self.gallery.makeups.iter().zip(&self.compared_by_makeup);
        let live: u64 = makeups.filter(|(_, compared)| **compared).map(|(makeup, _)| makeup.live).sum();
        let excluded = self.excluded.map(|ordinal| self.gallery.roll.makeup(ordinal) as usize);
        live - u64::from(excluded.is_some_and(|makeup| self.compared_by_makeup[makeup]))
    }

    /// Every comparable pair's score for one enrolment, in slot order. Exact, like the scan that found it.
    fn comparisons(&self, ordinal: EnrolmentOrdinal) -> Result<Vec<(Slot, ComparisonScore)>, TemplatesUnreadable> {
        let mut comparisons = Vec::new();
        for (number, reference) in &self.comparable {
            let score = self.score(*number, reference, ordinal)?;
            comparisons.extend(score.map(|score| (reference.slot, score)));
        }
        comparisons.sort_unstable();
        Ok(comparisons)
    }

    fn score(
        &self,
        number: usize,
        reference: &ProbeReference,
        ordinal: EnrolmentOrdinal,
    ) -> Result<Option<ComparisonScore>, TemplatesUnreadable> {
        match (&self.gallery.collections[number].references, &reference.template) {
            (References::Embeddings { sealed, growing }, Template::Embedding(probe)) => {
                let first = sealed.partition_point(|sealed| sealed.rows.ordinals().last() < Some(ordinal));
                let Some(sealed) = sealed.get(first) else {
                    return Ok(growing.rows().row_of(ordinal).map(|row| growing.score(row, probe)));
                };
                sealed.rows.ordinals().row_of(ordinal).map(|row| sealed.rows.score(row, probe)).transpose()
            }
            (References::BinaryCodes { sealed, growing }, Template::BinaryCode(probe)) => {
                let first = sealed.partition_point(|one| one.rows.rows().last_ordinal() < Some(ordinal));
                let rows = sealed.get(first).map_or(growing, |one| &one.rows);
                let Some(row) = rows.rows().row_of(ordinal) else { return Ok(None) };
                match rows.compare(row, &ShiftedProbe::new(rows.spec(), probe), &mut Scratch::default()) {
                    Comparison::Score(score) => Ok(Some(score)),
                    Comparison::NotComparable => Ok(None),
                }
            }
            (References::Embeddings { .. }, Template::BinaryCode(_))
            | (References::BinaryCodes { .. }, Template::Embedding(_)) => {
                unreachable!("a comparable reference conforms to its collection's spec")
            }
        }
    }
}
