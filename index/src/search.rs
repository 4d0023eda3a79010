//! Searching a catalogue snapshot: what is asked, what is answered, and the one pass over a gallery's references that
//! answers several probes.
//!
//! How rows are scanned lives in `search::scan`; which candidates are kept in `search::tally`. Merging the answers of
//! shards, and deciding, are the coordinator's.

mod scan;
mod tally;

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::catalogue::{CatalogueSnapshot, Comparable, Gallery};
use crate::ids::{EnrolmentId, GalleryId, KeyVersion};
use crate::rows::EnrolmentOrdinal;
use crate::score::ComparisonScore;
use crate::sealed_rows::TemplatesUnreadable;
use crate::slot::Slot;
use crate::template::{Template, TemplateSpec};
use scan::{CollectionScan, Lane};
use tally::Tally;

/// Enrolments whose matches are gathered before they are tallied. Bounds the memory of a search whose threshold
/// everything reaches: that many matches for each probe and slot.
const ORDINALS_PER_WINDOW: u32 = 16_384;

/// One enrolment, or one person to be identified, to be searched for in a gallery.
#[derive(Debug, Clone)]
pub struct SearchProbe {
    /// The gallery to search.
    pub gallery: GalleryId,
    /// The rotation key the probe's embeddings were rotated with; only references of the same version are compared.
    pub key_version: KeyVersion,
    /// The probe's references, of distinct slots.
    pub references: Vec<ProbeReference>,
    /// The enrolment the probe itself was staged as: never its own candidate.
    pub exclude: Option<EnrolmentId>,
    /// The most candidates to return.
    pub candidates_max: usize,
}

/// One biometric reference of a probe.
#[derive(Debug, Clone)]
pub struct ProbeReference {
    /// Only references of the same slot are compared.
    pub slot: Slot,
    /// Only references of the same spec are compared.
    pub spec: TemplateSpec,
    /// The template; one that does not conform to the spec is comparable with nothing.
    pub template: Template,
    /// The score from which a pair of this slot makes a candidate.
    pub threshold: ComparisonScore,
    /// The share of mates that a sealed segment may miss beside its exact scan, in parts per 10⁹. A segment that was
    /// measured for a larger share only is scanned exactly; 0 allows no miss.
    pub miss_budget_ppb: u32,
}

/// One shard's answer for one probe. All counts are of enrolments, not of references.
///
/// *Invariant:* enrolments ever staged = `compared` + `not_comparable` + `withdrawn` + `excluded`, and
/// `live` = `compared` + `not_comparable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSearch {
    /// Enrolments neither withdrawn nor excluded.
    pub live: u64,
    /// Live enrolments of which at least one reference was comparable with one of the probe's.
    pub compared: u64,
    /// Live enrolments without such a pair.
    pub not_comparable: u64,
    /// Enrolments withdrawn.
    pub withdrawn: u64,
    /// 1 if the excluded enrolment is here and not withdrawn, else 0.
    pub excluded: u64,
    /// The best `candidates_max` candidates, by margin from the largest, then by enrolment id from the smallest.
    pub candidates: Vec<Candidate>,
    /// How many candidates there were. More than returned means the list is saturated.
    pub candidates_total: u64,
}

/// An enrolment of which at least one comparable pair of references reached its slot's threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The enrolment.
    pub enrolment_id: EnrolmentId,
    /// The largest score − threshold over the comparable pairs, in micro-units, at least 0: the candidate's rank.
    pub margin: i32,
    /// The score of every comparable pair, those below their threshold too, in slot order.
    pub comparisons: Vec<(Slot, ComparisonScore)>,
}

/// Who runs the parts of a search.
pub trait Spread: Debug {
    /// How many parts may run side by side now, at least 1.
    fn width(&self) -> usize;

    /// Runs `part` once with each number below `parts`, on any threads and in any order; all have ended when it returns. A panic of a part
    /// becomes the caller's.
    fn each(&self, parts: usize, part: &(dyn Fn(usize) + Sync));
}

/// One part after another, on the caller's thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct InTurn;

impl Spread for InTurn {
    fn width(&self) -> usize {
        1
    }

    fn each(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(part);
    }
}

/// The search was cancelled before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("search cancelled")]
pub struct Cancelled;

/// Why a search has no answer. There is no partial one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The caller gave it up.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// Templates that it had to score could not be read.
    #[error(transparent)]
    Unreadable(#[from] TemplatesUnreadable),
}

pub(crate) fn search(
    snapshot: &CatalogueSnapshot,
    searches: &[SearchProbe],
    spread: &dyn Spread,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<ShardSearch>, Unanswered> {
    let mut by_gallery: BTreeMap<&GalleryId, Vec<usize>> = BTreeMap::new();
    for (number, search) in searches.iter().enumerate() {
        by_gallery.entry(&search.gallery).or_default().push(number);
    }
    let nothing_staged = Gallery::default();
    let mut answers: Vec<Option<ShardSearch>> = searches.iter().map(|_| None).collect();
    for (gallery, numbers) in by_gallery {
        let gallery = snapshot.gallery(gallery).unwrap_or(&nothing_staged);
        let probes: Vec<&SearchProbe> = numbers.iter().map(|number| &searches[*number]).collect();
        for (number, answer) in numbers.into_iter().zip(search_gallery(gallery, &probes, spread, cancelled)?) {
            answers[number] = Some(answer);
        }
    }
    Ok(answers.into_iter().map(|answer| answer.expect("every probe is in one gallery's group")).collect())
}

/// One pass over a gallery, window by window, each collection once for all probes that compare with it.
fn search_gallery(
    gallery: &Gallery,
    probes: &[&SearchProbe],
    spread: &dyn Spread,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<ShardSearch>, Unanswered> {
    let mut lanes: BTreeMap<usize, Vec<Lane>> = BTreeMap::new();
    let mut tallies = Vec::with_capacity(probes.len());
    for (number, probe) in probes.iter().enumerate() {
        let comparable = comparable_references(gallery, probe);
        for (collection, reference) in &comparable {
            lanes.entry(*collection).or_default().push(Lane { probe: number, reference });
        }
        tallies.push(Tally::new(gallery, probe, comparable));
    }
    let mut scans: Vec<CollectionScan> = lanes
        .into_iter()
        .map(|(collection, lanes)| CollectionScan::new(&gallery.collections[collection], lanes, spread))
        .collect();
    let end = u32::try_from(gallery.staged()).expect("a shard's gallery holds fewer than 2^32");
    for start in (0..end).step_by(ORDINALS_PER_WINDOW as usize) {
        let window = Window { start, end: end.min(start.saturating_add(ORDINALS_PER_WINDOW)) };
        for scan in &mut scans {
            scan.run(window, &mut tallies, cancelled)?;
        }
        for tally in &mut tallies {
            tally.close_window();
        }
    }
    if cancelled() {
        return Err(Cancelled.into());
    }
    tallies.into_iter().map(|tally| tally.finish().map_err(Unanswered::from)).collect()
}

/// The probe's references that have a collection to be compared with, with its number.
fn comparable_references<'a>(gallery: &Gallery, probe: &'a SearchProbe) -> Vec<(usize, &'a ProbeReference)> {
    let with_collection = |reference: &'a ProbeReference| {
        let (slot, spec) = (reference.slot, reference.spec);
        let number = gallery.collection_number(&Comparable { key_version: probe.key_version, slot, spec })?;
        reference.template.conforms_to(&reference.spec).then_some((number, reference))
    };
    probe.references.iter().filter_map(with_collection).collect()
}

/// The ordinals from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: u32,
    end: u32,
}

impl Window {
    fn first(self) -> EnrolmentOrdinal {
        EnrolmentOrdinal(self.start)
    }

    fn beyond(self) -> EnrolmentOrdinal {
        EnrolmentOrdinal(self.end)
    }
}
