//! The scan of one collection for all probes that compare with it, window by window.
//!
//! Rows of sealed segments are proposed by their engine and re-scored exactly, all others are compared one by one.
//! Counting and ranking what is found live in `tally`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::OnceLock;

use fixedbitset::FixedBitSet;

use crate::binary_rows::{BinaryRows, BinaryScanProbe};
use crate::catalogue::{Collection, References, SealedCodes, SealedSegment};
use crate::embedding_rows::{EmbeddingRows, ScanProbe};
use crate::rows::EnrolmentOrdinal;
use crate::score::ComparisonScore;
use crate::sealed_rows::{SealedRows, TemplatesUnreadable};
use crate::search::tally::Tally;
use crate::search::{Cancelled, ProbeReference, Spread, Unanswered, Window};
use crate::segment::{EngineProbe, Proposal};
use crate::template::Template;

/// Rows compared between two questions whether the search is still wanted.
const ROWS_PER_CANCELLATION_CHECK: usize = 1024;

/// Sealed segments whose engines are asked together where several threads are there for it: enough of them to be worth calling the threads. Bounds
/// what is held of rows that they found.
const SEGMENTS_AHEAD: usize = 64;

/// Parts of rows compared side by side, between two such questions, where several threads are there for it.
const PARTS_AHEAD: usize = 64;

/// Rows of binary codes compared between two questions. With 64 probes of 2,048 bits in 17 shifts it takes about a millisecond, at the bounds of the spec half a second.
const CODES_PER_CANCELLATION_CHECK: usize = 256;

/// With so many probes, the fewest rows of binary codes above take as long as the fewest of embeddings do for one, a tenth of a millisecond.
const LANES_WORTH_A_THREAD: usize = 8;

/// One probe's reference that compares with the collection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane<'a> {
    /// The probe's place in the batch.
    pub(super) probe: usize,
    pub(super) reference: &'a ProbeReference,
}

/// A scan under way: windows come in ascending order.
#[derive(Debug)]
pub(super) enum CollectionScan<'a> {
    Embeddings(EmbeddingScan<'a>),
    BinaryCodes(BinaryScan<'a>),
}

impl<'a> CollectionScan<'a> {
    pub(super) fn new(collection: &'a Collection, lanes: Vec<Lane<'a>>, spread: &'a dyn Spread) -> Self {
        match &collection.references {
            References::Embeddings { sealed, growing } => {
                Self::Embeddings(EmbeddingScan::new(sealed, growing, &lanes, spread))
            }
            References::BinaryCodes { sealed, growing } => {
                Self::BinaryCodes(BinaryScan::new(sealed, growing, &lanes, spread))
            }
        }
    }

    /// Compares the probes with every row whose enrolment lies in the window.
    pub(super) fn run(
        &mut self,
        window: Window,
        tallies: &mut [Tally],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Unanswered> {
        match self {
            Self::Embeddings(scan) => scan.run(window, tallies, cancelled),
            Self::BinaryCodes(scan) => scan.run(window, tallies, cancelled),
        }
    }
}

#[derive(Debug)]
pub(super) struct EmbeddingScan<'a> {
    sealed: &'a [SealedSegment],
    growing: &'a EmbeddingRows,
    lanes: Vec<EmbeddingLane>,
    /// The first sealed segment that still has rows for this window or a later one.
    next: usize,
    /// What the engines of that segment, and perhaps of those after it, found, one per lane; asked for once however many windows it spans.
    found: VecDeque<Vec<FoundByEngine>>,
    spread: &'a dyn Spread,
}

#[derive(Debug)]
struct EmbeddingLane {
    probe: usize,
    threshold: ComparisonScore,
    miss_budget_ppb: u32,
    ready: ScanProbe,
    /// For the engines of sealed segments.
    engine_probe: EngineProbe,
}

impl<'a> EmbeddingScan<'a> {
    fn new(
        sealed: &'a [SealedSegment],
        growing: &'a EmbeddingRows,
        lanes: &[Lane<'a>],
        spread: &'a dyn Spread,
    ) -> Self {
        let lane = |lane: &Lane<'a>| match &lane.reference.template {
            Template::Embedding(embedding) => {
                let ProbeReference { threshold, miss_budget_ppb, .. } = *lane.reference;
                let ready = ScanProbe::new(embedding, threshold);
                let engine_probe = EngineProbe::new(embedding);
                EmbeddingLane { probe: lane.probe, threshold, miss_budget_ppb, ready, engine_probe }
            }
            Template::BinaryCode(_) => unreachable!("a comparable reference conforms to its collection's spec"),
        };
        let lanes = lanes.iter().map(lane).collect();
        Self { sealed, growing, lanes, next: 0, found: VecDeque::new(), spread }
    }

    /// Asks the engine of the next segment and, where threads are there for it, those of some after it.
    fn ask_ahead(&mut self, cancelled: &dyn Fn() -> bool) -> Result<(), Unanswered> {
        let (lanes, segments) = (&self.lanes, &self.sealed[self.next..]);
        self.found = if self.spread.width() > 1 {
            let segments = &segments[..segments.len().min(SEGMENTS_AHEAD)];
            let found = side_by_side(self.spread, segments, |segment| ask_engine(segment, lanes, &|| false));
            found.into_iter().collect::<Result<_, _>>()?
        } else {
            VecDeque::from([ask_engine(&segments[0], lanes, cancelled)?])
        };
        Ok(())
    }

    fn run(&mut self, window: Window, tallies: &mut [Tally], cancelled: &dyn Fn() -> bool) -> Result<(), Unanswered> {
        while let Some(sealed) = self.sealed.get(self.next) {
            if cancelled() {
                return Err(Cancelled.into());
            }
            if self.found.is_empty() {
                self.ask_ahead(cancelled)?;
            }
            let ordinals = sealed.rows.ordinals();
            let rows = ordinals.rows_below(window.first())..ordinals.rows_below(window.beyond());
            let mut exact = Vec::with_capacity(self.lanes.len());
            for (lane, found) in self.lanes.iter().zip(&self.found[0]) {
                match found {
                    FoundByEngine::ScanExactly => exact.push(lane),
                    FoundByEngine::Rows(found) => {
                        let tally = &mut tallies[lane.probe];
                        for (row, score) in found.iter().filter(|(row, _)| rows.contains(row)) {
                            let ordinal = sealed.rows.ordinal(*row);
                            if tally.admits(ordinal) {
                                tally.note_match(ordinal, *score, lane.threshold);
                            }
                        }
                    }
                }
            }
            scan_exactly(&Scanned::Sealed(&sealed.rows), rows, &exact, tallies, self.spread, cancelled)?;
            if sealed.rows.ordinals().last() >= Some(window.beyond()) {
                return Ok(());
            }
            self.next += 1;
            self.found.pop_front();
        }
        let lanes: Vec<&EmbeddingLane> = self.lanes.iter().collect();
        let rows = self.growing.rows().rows_below(window.first())..self.growing.rows().rows_below(window.beyond());
        scan_exactly(&Scanned::Growing(self.growing), rows, &lanes, tallies, self.spread, cancelled)
    }
}

/// What came of asking a segment's engine for one lane.
#[derive(Debug)]
enum FoundByEngine {
    /// Of the rows that it proposed, those that reach the threshold, with their exact scores.
    Rows(Vec<(usize, ComparisonScore)>),
    /// It cannot tell.
    ScanExactly,
}

/// Rows that are compared one by one.
enum Scanned<'a> {
    Growing(&'a EmbeddingRows),
    Sealed(&'a SealedRows),
}

impl Scanned<'_> {
    fn ordinal(&self, row: usize) -> EnrolmentOrdinal {
        match self {
            Self::Growing(rows) => rows.ordinal(row),
            Self::Sealed(rows) => rows.ordinal(row),
        }
    }

    fn scan(
        &self,
        rows: Range<usize>,
        probes: &[&ScanProbe],
        found: &mut dyn FnMut(usize, usize, ComparisonScore),
    ) -> Result<(), TemplatesUnreadable> {
        match self {
            Self::Growing(held) => {
                held.scan(rows, probes, found);
                Ok(())
            }
            Self::Sealed(held) => held.scan(rows, probes, found),
        }
    }
}

/// One proposal per lane: rows ascending and distinct, or the exact scan. Lanes are asked for together only if they share
/// threshold and miss budget: each is searched under the rules its policy pins.
fn propose(sealed: &SealedSegment, lanes: &[EmbeddingLane]) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = lanes.iter().map(|_| Proposal::ScanExactly).collect();
    let Some(segment) = &sealed.segment else { return proposals };
    let mut groups: BTreeMap<(ComparisonScore, u32), Vec<usize>> = BTreeMap::new();
    for (number, lane) in lanes.iter().enumerate() {
        groups.entry((lane.threshold, lane.miss_budget_ppb)).or_default().push(number);
    }
    for ((threshold, miss_budget_ppb), asked) in groups {
        let probes: Vec<&EngineProbe> = asked.iter().map(|lane| &lanes[*lane].engine_probe).collect();
        let answered = segment.propose(&probes, threshold, miss_budget_ppb);
        for (lane, proposal) in asked.into_iter().zip(checked(answered, probes.len(), sealed.rows.len())) {
            proposals[lane] = proposal;
        }
    }
    proposals
}

/// An engine's answer that makes no sense is worth nothing: the exact scan takes its place.
fn checked(answered: Vec<Proposal>, probe_count: usize, row_count: usize) -> Vec<Proposal> {
    if answered.len() != probe_count {
        return vec![Proposal::ScanExactly; probe_count];
    }
    let checked = |proposal| match proposal {
        Proposal::ScanExactly => Proposal::ScanExactly,
        Proposal::Rows(mut rows) => {
            rows.sort_unstable();
            rows.dedup();
            if rows.last().is_some_and(|last| *last as usize >= row_count) {
                Proposal::ScanExactly
            } else {
                Proposal::Rows(rows)
            }
        }
    };
    answered.into_iter().map(checked).collect()
}

/// Asks a segment's engine, and scores what it proposes from the canonical templates.
fn ask_engine(
    sealed: &SealedSegment,
    lanes: &[EmbeddingLane],
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<FoundByEngine>, Unanswered> {
    let mut found = Vec::with_capacity(lanes.len());
    for (lane, proposal) in lanes.iter().zip(propose(sealed, lanes)) {
        let Proposal::Rows(proposed) = proposal else {
            found.push(FoundByEngine::ScanExactly);
            continue;
        };
        let mut reaching = Vec::new();
        for part in proposed.chunks(ROWS_PER_CANCELLATION_CHECK) {
            if cancelled() {
                return Err(Cancelled.into());
            }
            sealed.rows.score_each(part, &lane.ready, &mut |row, score| reaching.push((row, score)))?;
        }
        found.push(FoundByEngine::Rows(reaching));
    }
    Ok(found)
}

fn scan_exactly(
    rows: &Scanned,
    range: Range<usize>,
    lanes: &[&EmbeddingLane],
    tallies: &mut [Tally],
    spread: &dyn Spread,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), Unanswered> {
    if lanes.is_empty() {
        return Ok(());
    }
    let probes: Vec<&ScanProbe> = lanes.iter().map(|lane| &lane.ready).collect();
    let mut note = |lane: usize, row, score| {
        let (lane, ordinal) = (lanes[lane], rows.ordinal(row));
        let tally = &mut tallies[lane.probe];
        if tally.admits(ordinal) {
            tally.note_match(ordinal, score, lane.threshold);
        }
    };
    for some in groups(range, ROWS_PER_CANCELLATION_CHECK, spread) {
        if cancelled() {
            return Err(Cancelled.into());
        }
        if let [part] = &some[..] {
            rows.scan(part.clone(), &probes, &mut note)?;
            continue;
        }
        let found = side_by_side(spread, &some, |part| {
            let mut found = Vec::new();
            rows.scan(part.clone(), &probes, &mut |lane, row, score| found.push((lane, row, score)))?;
            Ok::<_, TemplatesUnreadable>(found)
        });
        for found in found {
            found?.into_iter().for_each(|(lane, row, score)| note(lane, row, score));
        }
    }
    Ok(())
}

/// The parts of a range, as many at a time as are worth the threads that are there for them.
fn groups(range: Range<usize>, rows_max: usize, spread: &dyn Spread) -> impl Iterator<Item = Vec<Range<usize>>> {
    let mut parts = parts(range, rows_max).peekable();
    std::iter::from_fn(move || {
        parts.peek()?;
        let ahead = if spread.width() > 1 { PARTS_AHEAD } else { 1 };
        Some(parts.by_ref().take(ahead).collect())
    })
}

/// What `run` makes of each item, on the threads that are there for it.
fn side_by_side<I: Sync, T: Send + Sync>(spread: &dyn Spread, items: &[I], run: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let made: Vec<OnceLock<T>> = items.iter().map(|_| OnceLock::new()).collect();
    spread.each(items.len(), &|item| {
        made[item].get_or_init(|| run(&items[item]));
    });
    made.into_iter().map(|made| made.into_inner().expect("every part has run")).collect()
}

/// A range in parts of at most so many rows, a multiple of those in a block, cut where blocks are.
fn parts(range: Range<usize>, rows_max: usize) -> impl Iterator<Item = Range<usize>> {
    let numbers = range.start / rows_max..range.end.div_ceil(rows_max);
    numbers.map(move |number| {
        let part = number * rows_max..(number + 1) * rows_max;
        range.start.max(part.start)..range.end.min(part.end)
    })
}

#[derive(Debug)]
pub(super) struct BinaryScan<'a> {
    sealed: &'a [SealedCodes],
    growing: &'a BinaryRows,
    lanes: Vec<BinaryLane>,
    /// The first closed rows that still have some for this window or a later one.
    next: usize,
    spread: &'a dyn Spread,
}

#[derive(Debug)]
struct BinaryLane {
    probe: usize,
    threshold: ComparisonScore,
    ready: BinaryScanProbe,
}

impl<'a> BinaryScan<'a> {
    fn new(sealed: &'a [SealedCodes], growing: &'a BinaryRows, lanes: &[Lane], spread: &'a dyn Spread) -> Self {
        let lane = |lane: &Lane| match &lane.reference.template {
            Template::BinaryCode(code) => BinaryLane {
                probe: lane.probe,
                threshold: lane.reference.threshold,
                ready: BinaryScanProbe::new(growing.spec(), code, lane.reference.threshold),
            },
            Template::Embedding(_) => unreachable!("a comparable reference conforms to its collection's spec"),
        };
        Self { sealed, growing, lanes: lanes.iter().map(lane).collect(), next: 0, spread }
    }

    fn run(&mut self, window: Window, tallies: &mut [Tally], cancelled: &dyn Fn() -> bool) -> Result<(), Unanswered> {
        while let Some(SealedCodes { rows, .. }) = self.sealed.get(self.next) {
            self.scan(rows, window, tallies, cancelled)?;
            if rows.rows().last_ordinal() >= Some(window.beyond()) {
                return Ok(());
            }
            self.next += 1;
        }
        self.scan(self.growing, window, tallies, cancelled)
    }

    fn scan(
        &self,
        rows: &BinaryRows,
        window: Window,
        tallies: &mut [Tally],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Unanswered> {
        let probes: Vec<&BinaryScanProbe> = self.lanes.iter().map(|lane| &lane.ready).collect();
        let range = rows.rows().rows_below(window.first())..rows.rows().rows_below(window.beyond());
        let mut note = |lane: usize, row, score: Option<ComparisonScore>| {
            let (lane, ordinal) = (&self.lanes[lane], rows.rows().ordinal(row));
            let tally = &mut tallies[lane.probe];
            if tally.admits(ordinal) {
                tally.note_compared(ordinal);
                if let Some(score) = score {
                    tally.note_match(ordinal, score, lane.threshold);
                }
            }
        };
        // A part for another thread must be worth calling it.
        let rows_max = CODES_PER_CANCELLATION_CHECK * (LANES_WORTH_A_THREAD / self.lanes.len()).max(1);
        for some in groups(range, rows_max, self.spread) {
            if cancelled() {
                return Err(Cancelled.into());
            }
            if let [part] = &some[..] {
                rows.scan(part.clone(), &probes, &mut note);
                continue;
            }
            let found = side_by_side(self.spread, &some, |part| {
                let mut found = ComparedCodes::new(part.clone(), probes.len());
                rows.scan(part.clone(), &probes, &mut |lane, row, score| found.push(lane, row, score));
                found
            });
            found.iter().for_each(|found| found.each(&mut note));
        }
        Ok(())
    }
}

/// The rows of a part that were comparable, for each lane, and the scores of those that reached the threshold. Nearly all rows are comparable.
struct ComparedCodes {
    rows: Range<usize>,
    /// The bit of a row and a lane: those of a lane lie together.
    compared: FixedBitSet,
    /// By lane and row, ascending.
    reached: BTreeMap<(usize, usize), ComparisonScore>,
}

impl ComparedCodes {
    fn new(rows: Range<usize>, lanes: usize) -> Self {
        Self { compared: FixedBitSet::with_capacity(rows.len() * lanes), reached: BTreeMap::new(), rows }
    }

    fn push(&mut self, lane: usize, row: usize, score: Option<ComparisonScore>) {
        self.compared.insert(lane * self.rows.len() + row - self.rows.start);
        if let Some(score) = score {
            self.reached.insert((lane, row), score);
        }
    }

    fn each(&self, note: &mut impl FnMut(usize, usize, Option<ComparisonScore>)) {
        for bit in self.compared.ones() {
            let (lane, row) = (bit / self.rows.len(), self.rows.start + bit % self.rows.len());
            note(lane, row, self.reached.get(&(lane, row)).copied());
        }
    }
}
