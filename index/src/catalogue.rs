//! The catalogue of one shard replica: what a search can find. One owner mutates it, searches read snapshots.
//!
//! Derived data: it is rebuilt from the replicated references at any time. What searching a snapshot means lives in
//! `search`; waiting for a searchable index is the shell's.

mod collection;
mod gallery;
mod roll;
mod seal;
mod compaction;
mod store;
mod resume;
mod snapshot;
mod withdrawals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{EnrolmentId, GalleryId, KeyVersion};
use crate::segment::{Calibration, Engine, Engines, ExactEngine, OwnEngines};
use crate::slot::Slot;
use crate::template::{Template, TemplateSpec};
pub(crate) use collection::{Collection, Comparable, References, SealedCodes, SealedSegment};
use compaction::LookAfter;
pub use compaction::{Compacted, CompactionError, CompactionJob, CompactionTicket};
pub(crate) use gallery::Gallery;
pub use resume::{FoundSegment, ResumeError, StoredParts, WantedSegment};
use seal::{CatalogueToken, SegmentPlace};
pub use seal::{SealJob, SealTicket, Sealed};
pub use snapshot::{CatalogueSnapshot, CollectionStatus};
pub(crate) use store::enrolments_digest;
pub use store::{StoreError, StoreJob, StoreTicket};

/// The default of [`CatalogueConfig::seal_at_references`].
pub const SEAL_AT_REFERENCES_DEFAULT: usize = 16_384;

/// The default of [`CatalogueConfig::seal_jobs_max`].
pub const SEAL_JOBS_MAX_DEFAULT: usize = 2;

/// How a catalogue seals its segments.
#[derive(Debug, Clone)]
pub struct CatalogueConfig {
    /// References that close a growing segment, at least 1; raised to the engine's own minimum.
    pub seal_at_references: usize,
    /// What sealed segments of embeddings are built with where [`Catalogue::set_engine`] says nothing else.
    pub engine: Arc<dyn Engine>,
    /// Where the engines of kept segments are found, if another one built them.
    pub engines: Arc<dyn Engines>,
    /// How segments are calibrated where [`Catalogue::set_calibration`] says nothing else.
    pub calibration: Calibration,
    /// Sealing jobs handed out at a time, at least 1.
    pub seal_jobs_max: usize,
}

impl Default for CatalogueConfig {
    /// The exact engine.
    fn default() -> Self {
        Self {
            seal_at_references: SEAL_AT_REFERENCES_DEFAULT,
            engine: Arc::new(ExactEngine),
            engines: Arc::new(OwnEngines),
            calibration: Calibration::default(),
            seal_jobs_max: SEAL_JOBS_MAX_DEFAULT,
        }
    }
}

/// An enrolment as it becomes searchable. Its references are validated, canonical and of distinct slots.
#[derive(Debug, Clone)]
pub struct StagedEnrolment {
    /// The gallery.
    pub gallery: GalleryId,
    /// The enrolment, within the gallery.
    pub enrolment_id: EnrolmentId,
    /// The rotation key its embeddings were rotated with.
    pub key_version: KeyVersion,
    /// Its references, of distinct slots; may be empty, it is then never comparable.
    pub references: Vec<StagedReference>,
}

/// One biometric reference of a staged enrolment.
#[derive(Debug, Clone)]
pub struct StagedReference {
    /// What it is a reference of.
    pub slot: Slot,
    /// The spec the template conforms to, within its bounds.
    pub spec: TemplateSpec,
    /// The template.
    pub template: Template,
}

/// What a shard replica's searches can find, by gallery.
#[derive(Debug)]
pub struct Catalogue {
    config: CatalogueConfig,
    searchable_index: u64,
    /// Shared with snapshots, copied on write at every level.
    galleries: Arc<BTreeMap<GalleryId, Arc<Gallery>>>,
    /// The newest snapshot, until something changes.
    published: Option<Arc<CatalogueSnapshot>>,
    calibrations: BTreeMap<(GalleryId, Slot), Calibration>,
    /// The engines of galleries whose policies name one.
    engines: BTreeMap<GalleryId, Arc<dyn Engine>>,
    /// Sealed segments that wait for an engine; never more than there are segments.
    seals_waiting: BTreeSet<SegmentPlace>,
    /// Jobs handed out and not given back, at most `seal_jobs_max`.
    seals_running: Vec<SealTicket>,
    /// Segments that are not kept as they now are; never more than there are segments.
    stores_waiting: BTreeSet<SegmentPlace>,
    /// The compaction that is out.
    compaction_running: Option<CompactionTicket>,
    /// Whether anything changed since there was nothing to compact.
    compaction_due: bool,
    compaction_after: Option<LookAfter>,
    /// Told apart from every other catalogue, so that a late outcome of another one's job changes nothing.
    token: Arc<CatalogueToken>,
}

impl Catalogue {
    /// An empty catalogue: nothing is searchable.
    pub fn new(config: CatalogueConfig) -> Self {
        Self {
            config,
            searchable_index: 0,
            galleries: Arc::default(),
            published: None,
            calibrations: BTreeMap::new(),
            engines: BTreeMap::new(),
            seals_waiting: BTreeSet::new(),
            seals_running: Vec::new(),
            stores_waiting: BTreeSet::new(),
            compaction_running: None,
            compaction_due: false,
            compaction_after: None,
            token: Arc::new(CatalogueToken(0)),
        }
    }

    /// Adds an enrolment, staged at log index `index`. One that is there already, by its gallery and id, changes
    /// nothing but the searchable index.
    ///
    /// A catalogue rebuilt from stored references, which come in another order than the log's, stages them at index 0
    /// and publishes no snapshot before it has advanced to the index they were read at.
    ///
    /// # Panics
    /// If a template does not conform to its spec, or two references share a slot: the replica is corrupt.
    pub fn stage(&mut self, index: u64, enrolment: StagedEnrolment) {
        self.advance(index);
        let gallery = &enrolment.gallery;
        let known = |known: &Arc<Gallery>| known.roll.ordinal_of(&enrolment.enrolment_id).is_some();
        if self.galleries.get(gallery).is_some_and(known) {
            return;
        }
        self.published = None;
        let engine = self.engines.get(gallery).unwrap_or(&self.config.engine);
        let galleries = Arc::make_mut(&mut self.galleries);
        let state = Arc::make_mut(galleries.entry(gallery.clone()).or_default());
        for (collection, segment) in state.stage(&enrolment, &self.config, &**engine) {
            self.compaction_due = true;
            if state.collections[collection].sealed_segment(segment).is_some() {
                self.seals_waiting.insert(SegmentPlace { gallery: gallery.clone(), collection, segment });
            }
        }
    }

    /// Hides an enrolment, withdrawn at log index `index`. One that is not there changes only the searchable index.
    pub fn withdraw(&mut self, index: u64, gallery: &GalleryId, enrolment_id: &EnrolmentId) {
        self.advance(index);
        let known = self.galleries.get(gallery);
        let Some(ordinal) = known.and_then(|known| known.live_ordinal(enrolment_id)) else { return };
        self.published = None;
        self.compaction_due = true;
        let gallery = Arc::make_mut(&mut self.galleries).get_mut(gallery).expect("found above");
        Arc::make_mut(gallery).withdraw(ordinal);
    }

    /// Nothing else up to log index `index` concerns searches. A smaller index than before changes nothing.
    pub fn advance(&mut self, index: u64) {
        if index > self.searchable_index {
            self.searchable_index = index;
            self.published = None;
        }
    }

    /// The last log index whose enrolments and withdrawals are in the catalogue.
    pub fn searchable_index(&self) -> u64 {
        self.searchable_index
    }

    /// What is searchable now. The same snapshot until something changes; later changes do not show in it.
    ///
    /// Costs a few reference counts; the next change to a gallery then copies that gallery's lists (a few kilobytes),
    /// the growing block of each collection it touches (64 rows) and the list of galleries.
    pub fn snapshot(&mut self) -> Arc<CatalogueSnapshot> {
        let (index, galleries) = (self.searchable_index, &self.galleries);
        let published =
            self.published.get_or_insert_with(|| Arc::new(CatalogueSnapshot::new(index, Arc::clone(galleries))));
        Arc::clone(published)
    }

    /// Sets how segments of a gallery's slot are calibrated, from its policy. Segments built otherwise are calibrated
    /// again by the next jobs; until then they are scanned exactly for thresholds they have no cut for, and for
    /// probes whose miss budget is smaller than the cuts'.
    pub fn set_calibration(&mut self, gallery: &GalleryId, slot: Slot, calibration: Calibration) {
        if *self.calibration(gallery, slot) == calibration {
            return;
        }
        self.calibrations.insert((gallery.clone(), slot), calibration);
        let Some(state) = self.galleries.get(gallery) else { return };
        for (number, collection) in state.collections.iter().enumerate() {
            if collection.comparable.slot == slot {
                let place = |segment| SegmentPlace { gallery: gallery.clone(), collection: number, segment };
                self.seals_waiting.extend(collection.sealed_segments().iter().map(|sealed| place(sealed.number)));
            }
        }
    }

    /// Sets what segments of a gallery are built with, from its policy. Segments that another engine built are built again by the next
    /// jobs; until then, and where that fails, they answer as they did.
    pub fn set_engine(&mut self, gallery: &GalleryId, engine: Arc<dyn Engine>) {
        if let Some(state) = self.galleries.get(gallery) {
            for (number, collection) in state.collections.iter().enumerate() {
                let others = collection.sealed_segments().iter().filter(|sealed| !sealed.is_built_by(&*engine));
                let place = |segment| SegmentPlace { gallery: gallery.clone(), collection: number, segment };
                self.seals_waiting.extend(others.map(|sealed| place(sealed.number)));
            }
        }
        self.engines.insert(gallery.clone(), engine);
    }

    /// Closes growing segments that have at least so many references and an engine can build from, before they are as long as
    /// segments are meant to be: for a collection that has ceased to grow, whose templates need not stay in memory.
    ///
    /// Each segment costs what an engine holds for it, and every search a pass over it, so `references_min` bounds how many
    /// short ones there can be until they are compacted.
    pub fn close_growing(&mut self, references_min: usize) {
        let closes = |id: &GalleryId, collection: &Collection| {
            let at_least =
                gallery::references_min(&**self.engine_of(id, None), &collection.comparable.spec, references_min);
            (collection.growing_embeddings() >= at_least).then_some(at_least)
        };
        let galleries = self.galleries.iter();
        let closing = galleries.flat_map(|(id, gallery)| {
            let numbered = gallery.collections.iter().enumerate();
            numbered.filter_map(|(number, collection)| Some((id.clone(), number, closes(id, collection)?)))
        });
        let closing: Vec<(GalleryId, usize, usize)> = closing.collect();
        for (id, collection, at_least) in closing {
            self.published = None;
            let gallery = Arc::make_mut(&mut self.galleries).get_mut(&id).expect("found above");
            let Gallery { collections, withdrawals, .. } = Arc::make_mut(gallery);
            let segment = collections[collection].close(at_least, withdrawals).expect("it has as many");
            self.seals_waiting.insert(SegmentPlace { gallery: id, collection, segment });
        }
    }

    /// Sealing jobs to run on other threads, so that no more than `seal_jobs_max` are out. Each must come back through
    /// [`Self::sealed`].
    pub fn seal_jobs(&mut self) -> Vec<SealJob> {
        let mut jobs = Vec::new();
        while self.seals_running.len() < self.config.seal_jobs_max.max(1) {
            // A segment whose job is out waits for its return, also when the policy changed meanwhile: one job at a time
            // works on it.
            let Some(place) = self.seals_waiting.iter().find(|place| !self.is_sealing(place)).cloned() else { break };
            self.seals_waiting.remove(&place);
            let collection = &self.galleries[&place.gallery].collections[place.collection];
            // One that was replaced is gone.
            let Some(sealed) = collection.sealed_segment(place.segment) else { continue };
            let calibration = self.calibration(&place.gallery, collection.comparable.slot).clone();
            let engine = Arc::clone(self.engine_of(&place.gallery, sealed.engine.as_ref()));
            // What another engine built answers until this one is done.
            let built = sealed.segment.clone().filter(|_| sealed.is_built_by(&*engine));
            if built.as_ref().is_some_and(|segment| segment.is_calibrated(&calibration)) {
                continue;
            }
            // It answers as it does, until it is merged with others or another engine takes it.
            if built.is_none() && sealed.rows.len() < engine.references_min(sealed.rows.dimension()) {
                self.compaction_due = true;
                continue;
            }
            let (catalogue, rows) = (Arc::clone(&self.token), sealed.rows.clone());
            let ticket = SealTicket { place, catalogue, rows, engine, calibration };
            jobs.push(SealJob { ticket: ticket.clone(), built });
            self.seals_running.push(ticket);
        }
        jobs
    }

    /// Whether segments wait for a sealing job.
    pub fn is_seal_due(&self) -> bool {
        !self.seals_waiting.is_empty()
    }

    /// Takes a job's outcome. Its segment replaces the exact scan of its rows in one step; after a failure the exact
    /// scan stays. The outcome of another catalogue's job, or of a segment that was replaced, changes nothing.
    pub fn sealed(&mut self, sealed: Sealed) {
        let Sealed { ticket, outcome } = sealed;
        let Some(running) = self.seals_running.iter().position(|running| running.is_for(&ticket)) else { return };
        self.seals_running.swap_remove(running);
        let place = ticket.place;
        self.compaction_due = true;
        if let (Ok(built), Some(sealed)) = (outcome, self.sealed_segment_mut(&place)) {
            sealed.put_built(built, ticket.engine);
            self.published = None;
            self.stores_waiting.insert(place);
        }
    }

    /// What segments of a gallery are built with; until its policy is known, what built the one at hand.
    fn engine_of<'a>(&'a self, gallery: &GalleryId, built: Option<&'a Arc<dyn Engine>>) -> &'a Arc<dyn Engine> {
        self.engines.get(gallery).or(built).unwrap_or(&self.config.engine)
    }

    /// Whether a job is out for a segment.
    fn is_sealing(&self, place: &SegmentPlace) -> bool {
        self.seals_running.iter().any(|ticket| ticket.place == *place)
    }

    /// A sealed segment, unless it was replaced.
    fn sealed_segment_mut(&mut self, place: &SegmentPlace) -> Option<&mut SealedSegment> {
        let gallery = Arc::make_mut(&mut self.galleries).get_mut(&place.gallery).expect("galleries stay");
        Arc::make_mut(gallery).collections[place.collection].sealed_segment_mut(place.segment)
    }

    fn calibration(&self, gallery: &GalleryId, slot: Slot) -> &Calibration {
        self.calibrations.get(&(gallery.clone(), slot)).unwrap_or(&self.config.calibration)
    }
}
