//! Compaction as a pure job: short neighbours become one segment, and references of withdrawn enrolments are let go.
//!
//! The catalogue hands a job out, the shell runs it on a thread of its own, and the catalogue puts the result in the place of the
//! segments it is of in one step. Snapshots taken before keep those. A reclaimed reference's enrolment stays on the roll and stays
//! withdrawn, so every search counts it as before.
//! What is worth it is in `rule`.

mod rule;

use std::ops::Range;
use std::sync::Arc;

use crate::binary_rows::BinaryRows;
use crate::catalogue::collection::{Collection, References, SealedCodes, SealedSegment, SegmentNumber};
use crate::catalogue::gallery::references_min;
use crate::catalogue::seal::{CatalogueToken, SegmentPlace};
use crate::catalogue::withdrawals::Withdrawals;
use crate::catalogue::{Catalogue, CatalogueConfig, Gallery, StoreJob};
use crate::embedding_rows::EmbeddingRows;
use crate::ids::GalleryId;
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::{SealedRows, Templates, TemplatesUnreadable};
use crate::segment::{BuildError, Calibration, Engine, Segment};
use crate::stored::StoredId;
use crate::template::TemplateSpec;
use rule::{Size, first_worthwhile};

/// Work for another thread: put what is live of several sealed segments into one.
#[derive(Debug)]
pub struct CompactionJob {
    ticket: CompactionTicket,
    /// As it was when the job was handed out: later withdrawals are not reclaimed.
    gallery: Arc<Gallery>,
    sources: Sources,
    engine: Arc<dyn Engine>,
}

#[derive(Debug)]
enum Sources {
    Embeddings(Vec<SealedRows>),
    BinaryCodes(Vec<BinaryRows>),
}

/// The catalogue's claim on its one compaction. Lets a shell report a job it has lost to a panic.
#[derive(Debug, Clone)]
pub struct CompactionTicket {
    /// What the result will be called.
    pub(crate) place: SegmentPlace,
    pub(crate) catalogue: Arc<CatalogueToken>,
    /// What it takes the place of: neighbours, in their order.
    replaced: Vec<SegmentNumber>,
    references: usize,
    calibration: Calibration,
}

/// The outcome of a job, to be given back to the catalogue that handed it out.
#[derive(Debug)]
pub struct Compacted {
    ticket: CompactionTicket,
    outcome: Result<Rest, CompactionError>,
}

/// What is left of the segments.
#[derive(Debug)]
enum Rest {
    Embeddings { gallery: Arc<Gallery>, engine: Arc<dyn Engine>, rows: SealedRows, segment: Arc<dyn Segment> },
    BinaryCodes(BinaryRows),
    Nothing,
}

/// Why segments were not compacted. They stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompactionError {
    /// The engine built nothing.
    #[error(transparent)]
    Engine(BuildError),
    /// Their templates could not be read.
    #[error(transparent)]
    Unreadable(TemplatesUnreadable),
    /// The shell lost the job, or could not keep its result.
    #[error("{0}")]
    Lost(String),
}

impl CompactionJob {
    /// The job's claim, to be kept where a panic of [`Self::run`] is caught.
    pub fn ticket(&self) -> CompactionTicket {
        self.ticket.clone()
    }

    /// The gallery the job is for.
    pub fn gallery(&self) -> &GalleryId {
        &self.ticket.place.gallery
    }

    /// The segments it is over.
    pub fn segments(&self) -> usize {
        self.ticket.replaced.len()
    }

    /// The references in them.
    pub fn references(&self) -> usize {
        self.ticket.references
    }

    /// Whether segments of this kind are kept outside memory.
    pub fn is_of_kept(&self) -> bool {
        match &self.sources {
            Sources::Embeddings(_) => true,
            Sources::BinaryCodes(_) => false,
        }
    }

    /// Does the work, which may take seconds.
    pub fn run(self) -> Compacted {
        let Self { ticket, gallery, sources, engine } = self;
        let outcome = match sources {
            Sources::Embeddings(sources) => live_embeddings(&sources, &gallery.withdrawals)
                .map_err(CompactionError::Unreadable)
                .and_then(|rows| build(rows, gallery, engine, &ticket.calibration)),
            Sources::BinaryCodes(sources) => Ok(live_codes(&sources, &gallery.withdrawals)),
        };
        Compacted { ticket, outcome }
    }
}

fn build(
    rows: EmbeddingRows,
    gallery: Arc<Gallery>,
    engine: Arc<dyn Engine>,
    calibration: &Calibration,
) -> Result<Rest, CompactionError> {
    if rows.is_empty() {
        return Ok(Rest::Nothing);
    }
    let rows = SealedRows::closed(rows);
    let held = rows.load().map_err(CompactionError::Unreadable)?;
    let segment = engine.build(held, calibration).map_err(CompactionError::Engine)?;
    Ok(Rest::Embeddings { gallery, engine, rows, segment: Arc::from(segment) })
}

fn live_embeddings(sources: &[SealedRows], withdrawals: &Withdrawals) -> Result<EmbeddingRows, TemplatesUnreadable> {
    let dimension = sources.first().expect("a job has a segment").dimension();
    let mut live = EmbeddingRows::new(dimension);
    for source in sources {
        for run in live_runs(source.len(), &|row| withdrawals.contains(source.ordinal(row))) {
            let mut row = run.start;
            source.visit(run, &mut |components, norm| {
                live.push_components(source.ordinal(row), components, norm);
                row += 1;
            })?;
        }
    }
    Ok(live)
}

fn live_codes(sources: &[BinaryRows], withdrawals: &Withdrawals) -> Rest {
    let mut live = BinaryRows::new(*sources.first().expect("a job has a segment").spec());
    for source in sources {
        let ordinals = source.rows();
        let withdrawn = |row: usize| withdrawals.contains(ordinals.ordinal(row));
        live_runs(ordinals.len(), &withdrawn).flatten().for_each(|row| live.push_row(source, row));
    }
    if live.rows().len() == 0 { Rest::Nothing } else { Rest::BinaryCodes(live) }
}

/// The longest ranges of rows none of which is withdrawn.
fn live_runs(rows: usize, is_withdrawn: &dyn Fn(usize) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = (next..rows).find(|row| !is_withdrawn(*row))?;
        next = (start..rows).find(|row| is_withdrawn(*row)).unwrap_or(rows);
        Some(start..next)
    })
}

impl CompactionTicket {
    /// The outcome of a job that ended without one: the segments stay as they are, and the claim is given back.
    pub fn lost(self, reason: impl Into<String>) -> Compacted {
        Compacted { ticket: self, outcome: Err(CompactionError::Lost(reason.into())) }
    }

    fn is_for(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.catalogue, &other.catalogue) && self.place == other.place
    }
}

impl Compacted {
    /// Why it failed, if it did. For the shell's log.
    pub fn error(&self) -> Option<&CompactionError> {
        self.outcome.as_ref().err()
    }

    /// The job's claim.
    pub fn ticket(&self) -> CompactionTicket {
        self.ticket.clone()
    }

    /// References that are let go.
    pub fn reclaimed(&self) -> usize {
        let rest = match &self.outcome {
            Ok(Rest::Embeddings { rows, .. }) => rows.len(),
            Ok(Rest::BinaryCodes(rows)) => rows.rows().len(),
            Ok(Rest::Nothing) => 0,
            Err(_) => return 0,
        };
        self.ticket.references - rest
    }

    /// Writes the new segment to a file before the old ones, which have theirs, are gone. `None` where there is nothing to keep.
    pub fn store_job(&self, shard: u32) -> Option<StoreJob> {
        match &self.outcome {
            Ok(Rest::Embeddings { gallery, engine, rows, segment }) => {
                Some(StoreJob::ahead(shard, &self.ticket, gallery, rows, segment, &**engine))
            }
            Ok(Rest::BinaryCodes(_) | Rest::Nothing) | Err(_) => None,
        }
    }
}

/// Where the next job is looked for first, so that one that fails again and again leaves the others their turn.
#[derive(Debug)]
pub(super) struct LookAfter {
    gallery: GalleryId,
    collection: usize,
    last: EnrolmentOrdinal,
}

/// Neighbours that are worth compacting.
struct Found {
    gallery: GalleryId,
    collection: usize,
    segments: Range<usize>,
}

impl Catalogue {
    /// A compaction to run on another thread, if one is worth it; no more than one is out at a time. It must come back through
    /// [`Self::compacted`].
    pub fn compaction_job(&mut self) -> Option<CompactionJob> {
        if self.compaction_running.is_some() || !self.compaction_due {
            return None;
        }
        let after = self.compaction_after.take();
        let found = self.find_compaction(after.as_ref()).or_else(|| self.find_compaction(None));
        let Some(Found { gallery: id, collection: number, segments }) = found else {
            self.compaction_due = false;
            return None;
        };
        let gallery = Arc::make_mut(&mut self.galleries).get_mut(&id).expect("found above");
        let collection = &mut Arc::make_mut(gallery).collections[number];
        let segment = collection.new_number();
        let built = collection.sealed_segments().get(segments.start).and_then(|sealed| sealed.engine.clone());
        let (sources, replaced, last) = collection.sources(segments);
        let (slot, gallery) = (collection.comparable.slot, Arc::clone(gallery));
        let engine = Arc::clone(self.engine_of(&id, built.as_ref()));
        let place = SegmentPlace { gallery: id.clone(), collection: number, segment };
        let (catalogue, calibration) = (Arc::clone(&self.token), self.calibration(&id, slot).clone());
        let ticket = CompactionTicket { place, catalogue, replaced, references: sources.references(), calibration };
        self.compaction_after = Some(LookAfter { gallery: id, collection: number, last });
        self.compaction_running = Some(ticket.clone());
        Some(CompactionJob { ticket, gallery, sources, engine })
    }

    /// Takes a job's outcome: what is left takes the place of the segments in one step. `kept` is what [`Compacted::store_job`]
    /// came to, if it was run. A failure, or the outcome of another catalogue's job, changes nothing; returns whether anything did.
    pub fn compacted(&mut self, compacted: Compacted, kept: Option<(StoredId, Option<Templates>)>) -> bool {
        let Compacted { ticket, outcome } = compacted;
        if !self.compaction_running.as_ref().is_some_and(|running| running.is_for(&ticket)) {
            return false;
        }
        self.compaction_running = None;
        self.compaction_due = true;
        let Ok(rest) = outcome else { return false };
        let CompactionTicket { place, replaced, calibration, .. } = ticket;
        for segment in &replaced {
            let gone = SegmentPlace { segment: *segment, ..place.clone() };
            self.seals_waiting.remove(&gone);
            self.stores_waiting.remove(&gone);
        }
        if let Rest::Embeddings { engine, rows, .. } = &rest {
            let slot = self.galleries[&place.gallery].collections[place.collection].comparable.slot;
            let wanted = self.engine_of(&place.gallery, Some(engine)).fingerprint(rows.dimension());
            if wanted != engine.fingerprint(rows.dimension()) || *self.calibration(&place.gallery, slot) != calibration
            {
                self.seals_waiting.insert(place.clone());
            }
            if kept.is_none() {
                self.stores_waiting.insert(place.clone());
            }
        }
        self.published = None;
        let gallery = Arc::make_mut(&mut self.galleries).get_mut(&place.gallery).expect("galleries stay");
        Arc::make_mut(gallery).put_compacted(&place, &replaced, rest, kept);
        true
    }

    /// The first segments worth compacting behind those of an earlier job.
    fn find_compaction(&self, after: Option<&LookAfter>) -> Option<Found> {
        let galleries = self.galleries.iter().skip_while(|(id, _)| after.is_some_and(|after| **id < after.gallery));
        let collections = galleries.flat_map(|(id, gallery)| {
            gallery.collections.iter().enumerate().map(move |(number, collection)| (id, number, collection))
        });
        for (id, number, collection) in collections {
            let from = match after.filter(|after| after.gallery == *id) {
                Some(after) if number < after.collection => continue,
                Some(after) if number == after.collection => collection.sealed_up_to(after.last),
                Some(_) | None => 0,
            };
            let (full, rows_min) = self.config.bounds(&**self.engine_of(id, None), &collection.comparable.spec);
            if let Some(segments) = first_worthwhile(&self.sizes(id, number, collection), from, full, rows_min) {
                return Some(Found { gallery: id.clone(), collection: number, segments });
            }
        }
        None
    }

    fn sizes(&self, gallery: &GalleryId, number: usize, collection: &Collection) -> Vec<Size> {
        match &collection.references {
            References::Embeddings { sealed, .. } => {
                let size = |sealed: &SealedSegment| {
                    let place = SegmentPlace { gallery: gallery.clone(), collection: number, segment: sealed.number };
                    let waits = self.seals_waiting.contains(&place);
                    let settled = sealed.segment.is_some() && !waits && !self.is_sealing(&place);
                    Size { rows: sealed.rows.len(), withdrawn: sealed.withdrawn, settled }
                };
                sealed.iter().map(size).collect()
            }
            References::BinaryCodes { sealed, .. } => {
                let size =
                    |one: &SealedCodes| Size { rows: one.rows.rows().len(), withdrawn: one.withdrawn, settled: true };
                sealed.iter().map(size).collect()
            }
        }
    }
}

impl CatalogueConfig {
    /// How long a segment may become, and how short it may be.
    fn bounds(&self, engine: &dyn Engine, spec: &TemplateSpec) -> (usize, usize) {
        (self.seal_at(engine, spec), references_min(engine, spec, 1))
    }
}

impl Sources {
    fn references(&self) -> usize {
        match self {
            Self::Embeddings(sources) => sources.iter().map(SealedRows::len).sum(),
            Self::BinaryCodes(sources) => sources.iter().map(|rows| rows.rows().len()).sum(),
        }
    }
}

impl Collection {
    /// Some sealed segments: their rows, their numbers, and the last ordinal in them.
    fn sources(&self, segments: Range<usize>) -> (Sources, Vec<SegmentNumber>, EnrolmentOrdinal) {
        let (sources, numbers, last) = match &self.references {
            References::Embeddings { sealed, .. } => {
                let of = &sealed[segments];
                let sources = Sources::Embeddings(of.iter().map(|one| one.rows.clone()).collect());
                let last = of.last().and_then(|one| one.rows.ordinals().last());
                (sources, of.iter().map(|one| one.number).collect(), last)
            }
            References::BinaryCodes { sealed, .. } => {
                let of = &sealed[segments];
                let sources = Sources::BinaryCodes(of.iter().map(|one| one.rows.clone()).collect());
                let last = of.last().and_then(|one| one.rows.rows().last_ordinal());
                (sources, of.iter().map(|one| one.number).collect(), last)
            }
        };
        (sources, numbers, last.expect("a sealed segment has a row"))
    }

    /// How many sealed segments end at or before an ordinal.
    fn sealed_up_to(&self, ordinal: EnrolmentOrdinal) -> usize {
        match &self.references {
            References::Embeddings { sealed, .. } => {
                sealed.partition_point(|one| one.rows.ordinals().last() <= Some(ordinal))
            }
            References::BinaryCodes { sealed, .. } => {
                sealed.partition_point(|one| one.rows.rows().last_ordinal() <= Some(ordinal))
            }
        }
    }
}

impl Gallery {
    fn put_compacted(
        &mut self,
        place: &SegmentPlace,
        replaced: &[SegmentNumber],
        rest: Rest,
        kept: Option<(StoredId, Option<Templates>)>,
    ) {
        let withdrawals = &self.withdrawals;
        let collection = &mut self.collections[place.collection];
        let (before, after) = match (&mut collection.references, rest) {
            (References::Embeddings { sealed, .. }, Rest::Embeddings { rows, segment, engine, .. }) => {
                let mut new = SealedSegment::closed(place.segment, rows, withdrawals);
                new.put_built(segment, engine);
                if let Some((id, templates)) = kept {
                    new.put_stored(id, templates);
                }
                let after = new.rows.len();
                (replace(sealed, replaced, |one| one.number, Some(new)).iter().map(|one| one.rows.len()).sum(), after)
            }
            (References::BinaryCodes { sealed, .. }, Rest::BinaryCodes(rows)) => {
                let after = rows.rows().len();
                let new = SealedCodes::closed(place.segment, rows, withdrawals);
                let gone = replace(sealed, replaced, |one| one.number, Some(new));
                (gone.iter().map(|one| one.rows.rows().len()).sum::<usize>(), after)
            }
            (References::Embeddings { sealed, .. }, Rest::Nothing) => {
                let gone = replace(sealed, replaced, |one| one.number, None);
                (gone.iter().map(|one| one.rows.len()).sum(), 0)
            }
            (References::BinaryCodes { sealed, .. }, Rest::Nothing) => {
                let gone = replace(sealed, replaced, |one| one.number, None);
                (gone.iter().map(|one| one.rows.rows().len()).sum(), 0)
            }
            (References::Embeddings { .. }, Rest::BinaryCodes(_))
            | (References::BinaryCodes { .. }, Rest::Embeddings { .. }) => {
                unreachable!("the rest is of the kind that its segments are of")
            }
        };
        collection.reclaimed += before - after;
    }
}

/// Puts `new` in the place of the neighbours `replaced`; returns those.
fn replace<T: Clone>(
    sealed: &mut Arc<Vec<T>>,
    replaced: &[SegmentNumber],
    number: impl Fn(&T) -> SegmentNumber,
    new: Option<T>,
) -> Vec<T> {
    let sealed = Arc::make_mut(sealed);
    let first = sealed.iter().position(|one| number(one) == replaced[0]);
    let first = first.expect("only compaction takes segments away, one job at a time");
    let gone: Vec<T> = sealed.splice(first..first + replaced.len(), new).collect();
    assert!(gone.iter().map(number).eq(replaced.iter().copied()), "neighbours stay neighbours");
    gone
}
