//! Keeping sealed segments outside memory, as a pure job: the catalogue hands it out, the shell writes what it says, and the
//! catalogue notes what the segment is kept as. A job that fails changes nothing: the segment stays in memory as it is.

use std::sync::Arc;

use crate::catalogue::compaction::CompactionTicket;
use crate::catalogue::seal::{CatalogueToken, SegmentPlace};
use crate::catalogue::{Catalogue, CatalogueSnapshot, Collection, Comparable, Gallery};
use crate::ids::GalleryId;
use crate::sealed_rows::{SealedRows, Templates, TemplatesUnreadable};
use crate::segment::{BuildError, Engine, Segment};
use crate::stored::{CheckpointHeader, SegmentHeader, StoreKey, StoredId, encode_checkpoint, write_segment};

/// Work for another thread: write a segment to a file.
#[derive(Debug)]
pub struct StoreJob {
    ticket: StoreTicket,
    header: SegmentHeader,
    gallery: Arc<Gallery>,
    rows: SealedRows,
}

/// Which segment a job was for.
#[derive(Debug, Clone)]
pub struct StoreTicket {
    place: SegmentPlace,
    catalogue: Arc<CatalogueToken>,
    /// What was written: another one may have taken its place meanwhile.
    segment: Arc<dyn Segment>,
}

/// Why a segment is not kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError<E> {
    /// The engine gave no bytes.
    #[error("{0}")]
    Engine(BuildError),
    /// Its templates could not be read.
    #[error("{0}")]
    Unreadable(TemplatesUnreadable),
    /// The bytes could not be written.
    #[error("{0}")]
    Write(E),
}

/// What a segment's file is of; whose references they are is filled in when it is written.
fn header(
    shard: u32,
    gallery: &GalleryId,
    comparable: &Comparable,
    rows: &SealedRows,
    engine: &dyn Engine,
) -> SegmentHeader {
    SegmentHeader {
        shard,
        gallery: gallery.clone(),
        key_version: comparable.key_version,
        slot: comparable.slot,
        dimension: rows.dimension(),
        rows: u32::try_from(rows.len()).expect("a segment has fewer than 2^32 rows"),
        engine: engine.fingerprint(rows.dimension()),
        enrolments: [0; 32],
    }
}

impl StoreJob {
    /// Of a segment that is to take its place in the catalogue once it is kept.
    pub(crate) fn ahead(
        shard: u32,
        ticket: &CompactionTicket,
        gallery: &Arc<Gallery>,
        rows: &SealedRows,
        segment: &Arc<dyn Segment>,
        engine: &dyn Engine,
    ) -> Self {
        let CompactionTicket { place, catalogue, .. } = ticket;
        let comparable = &gallery.collections[place.collection].comparable;
        let header = header(shard, &place.gallery, comparable, rows, engine);
        let (catalogue, segment) = (Arc::clone(catalogue), Arc::clone(segment));
        let ticket = StoreTicket { place: place.clone(), catalogue, segment };
        Self { ticket, header, gallery: Arc::clone(gallery), rows: rows.clone() }
    }

    /// What the segment is of; whose references it holds is filled in by [`Self::write`].
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Hands the file's bytes to `write`, piece by piece, and returns what they are to be asked for as.
    ///
    /// # Errors
    /// [`StoreError`]; what was written until then is worth nothing.
    pub fn write<E>(
        &mut self,
        key: &StoreKey,
        write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<StoredId, StoreError<E>> {
        let ids = (0..self.rows.len()).map(|row| self.gallery.roll.id(self.rows.ordinal(row)));
        self.header.enrolments = enrolments_digest(ids);
        let engine = self.ticket.segment.to_bytes().map_err(StoreError::Engine)?;
        write_segment(key, &self.header, engine.as_deref(), &self.rows, write)
    }

    /// Tells the catalogue which segment the outcome is of.
    pub fn ticket(&self) -> StoreTicket {
        self.ticket.clone()
    }
}

/// A hash of enrolments in their order. Ids hold no zero byte.
pub(crate) fn enrolments_digest<'a>(ids: impl Iterator<Item = &'a str>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    ids.for_each(|id| {
        hasher.update(id.as_bytes()).update(&[0]);
    });
    *hasher.finalize().as_bytes()
}

impl Catalogue {
    /// A segment that is not kept as it now is, to be written by another thread. Each is handed out once; [`Self::stored`]
    /// takes the outcome, and a segment whose job failed is handed out again after [`Self::not_stored`].
    pub fn store_job(&mut self, shard: u32) -> Option<StoreJob> {
        loop {
            let place = self.stores_waiting.pop_first()?;
            let gallery = &self.galleries[&place.gallery];
            let collection = &gallery.collections[place.collection];
            // One that was replaced is gone.
            let Some(sealed) = collection.sealed_segment(place.segment) else { continue };
            let (Some(segment), Some(engine)) = (&sealed.segment, &sealed.engine) else { continue };
            let header = header(shard, &place.gallery, &collection.comparable, &sealed.rows, &**engine);
            let ticket = StoreTicket { place, catalogue: Arc::clone(&self.token), segment: Arc::clone(segment) };
            return Some(StoreJob { ticket, header, gallery: Arc::clone(gallery), rows: sealed.rows.clone() });
        }
    }

    /// Notes what a segment is kept as. With `templates`, those are no longer held in memory but read from there. The outcome
    /// of another catalogue's job, or of a segment that was calibrated or replaced meanwhile, changes nothing.
    pub fn stored(&mut self, ticket: &StoreTicket, id: StoredId, templates: Option<Templates>) -> bool {
        let place = &ticket.place;
        if !self.is_current(ticket) {
            return false;
        }
        let Some(sealed) = self.sealed_segment_mut(place) else { return false };
        sealed.put_stored(id, templates);
        self.published = None;
        true
    }

    /// Has a segment handed out again whose job failed.
    pub fn not_stored(&mut self, ticket: &StoreTicket) {
        if self.is_current(ticket) {
            self.stores_waiting.insert(ticket.place.clone());
        }
    }

    fn is_current(&self, ticket: &StoreTicket) -> bool {
        let place = &ticket.place;
        Arc::ptr_eq(&self.token, &ticket.catalogue) && !self.stores_waiting.contains(place)
    }
}

impl CatalogueSnapshot {
    /// The bytes of a checkpoint of this snapshot.
    pub fn checkpoint(&self, key: &StoreKey, header: &CheckpointHeader) -> Vec<u8> {
        encode_checkpoint(key, header, self.all_galleries().iter())
    }

    /// The files that a checkpoint of this snapshot names, and some more.
    pub fn stored_segments(&self) -> Vec<StoredId> {
        let collections = self.all_galleries().values().flat_map(|gallery| &gallery.collections);
        let sealed = collections.flat_map(Collection::sealed_segments);
        sealed.filter_map(|sealed| sealed.stored).collect()
    }
}
