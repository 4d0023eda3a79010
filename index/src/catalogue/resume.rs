//! A catalogue from its checkpoint: kept segments are taken as they are, only references outside them are read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::catalogue::collection::{Collection, References, SealedSegment, SegmentNumber};
use crate::catalogue::gallery::{Gallery, Makeup};
use crate::catalogue::seal::SegmentPlace;
use crate::catalogue::{Catalogue, CatalogueConfig, StagedReference, enrolments_digest};
use crate::embedding_rows::EmbeddingRows;
use crate::ids::{EnrolmentId, GalleryId};
use crate::ordinals::Ordinals;
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::{SealedRows, Templates};
use crate::segment::{Engine, Segment};
use crate::stored::{Checkpoint, SegmentHeader, StoredGallery, StoredId, StoredSegment};
use crate::template::{Template, TemplateSpec};

/// Where a catalogue that is resumed has its parts from.
pub trait StoredParts {
    /// Why references cannot be read.
    type Error;

    /// A kept segment. `None` if its file cannot be used: its references are then asked for one by one, and the segment is
    /// built again.
    fn segment(&mut self, wanted: &WantedSegment) -> Option<FoundSegment>;

    /// The references of an enrolment.
    ///
    /// # Errors
    /// If they cannot be read.
    fn references(&mut self, gallery: &GalleryId, enrolment: &EnrolmentId)
    -> Result<Vec<StagedReference>, Self::Error>;
}

/// A kept segment that a checkpoint names.
#[derive(Debug, Clone)]
pub struct WantedSegment {
    /// Its file.
    pub id: StoredId,
    /// What it must be of.
    pub header: SegmentHeader,
    /// Which engine makes it of its bytes.
    pub engine: Arc<dyn Engine>,
}

/// What a kept segment's file held.
#[derive(Debug)]
pub struct FoundSegment {
    /// What the engine made of its bytes; `None` has the segment built again.
    pub segment: Option<Arc<dyn Segment>>,
    /// Its templates.
    pub templates: Templates,
}

/// Why a catalogue cannot be resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError<E: fmt::Display> {
    /// References could not be read.
    #[error("{0}")]
    Parts(E),
    /// The checkpoint is not of these rows.
    #[error("the checkpoint is not of these rows: {reason}")]
    OtherRows {
        /// What does not fit.
        reason: &'static str,
    },
}

impl Catalogue {
    /// The catalogue as its checkpoint says it was. What happened later is for the caller to stage and withdraw.
    ///
    /// # Errors
    /// [`ResumeError`]; the catalogue is then built from all rows.
    pub fn resume<P: StoredParts>(
        config: CatalogueConfig,
        checkpoint: &Checkpoint,
        parts: &mut P,
    ) -> Result<Self, ResumeError<P::Error>>
    where
        P::Error: fmt::Display,
    {
        let mut catalogue = Self::new(config);
        let shard = checkpoint.header().of.shard;
        let mut galleries = BTreeMap::new();
        for stored in &checkpoint.galleries {
            let mut resumed = Resumed::new(shard, stored, &catalogue.config)?;
            resumed.take_segments(parts);
            resumed.read_missing(parts)?;
            resumed.read_growing(parts)?;
            let gallery = resumed.gallery;
            for (number, collection) in gallery.collections.iter().enumerate() {
                let unbuilt = collection.sealed_segments().iter().filter(|sealed| sealed.segment.is_none());
                let place = |sealed: &SealedSegment| SegmentPlace {
                    gallery: stored.id.clone(),
                    collection: number,
                    segment: sealed.number,
                };
                catalogue.seals_waiting.extend(unbuilt.map(place));
            }
            galleries.insert(stored.id.clone(), Arc::new(gallery));
        }
        catalogue.galleries = Arc::new(galleries);
        catalogue.compaction_due = true;
        catalogue.advance(checkpoint.header().searchable_index);
        Ok(catalogue)
    }
}

/// One gallery while it is resumed.
struct Resumed<'a> {
    shard: u32,
    stored: &'a StoredGallery,
    config: &'a CatalogueConfig,
    gallery: Gallery,
    /// The ordinals of each collection's references that were not reclaimed.
    members: Vec<Vec<EnrolmentOrdinal>>,
    /// References of each collection that its kept segments hold, whether their files could be used or not.
    kept: Vec<usize>,
    /// The segments whose files could not be used, by collection and number.
    missing: BTreeMap<(usize, usize), SegmentNumber>,
}

impl<'a> Resumed<'a> {
    fn new<E: fmt::Display>(
        shard: u32,
        stored: &'a StoredGallery,
        config: &'a CatalogueConfig,
    ) -> Result<Self, ResumeError<E>> {
        let mut gallery = Gallery {
            collections: stored.collections.iter().map(|one| Collection::new(one.comparable)).collect(),
            makeups: stored.makeups.iter().map(|one| Makeup { collections: one.clone(), live: 0 }).collect(),
            ..Gallery::default()
        };
        let mut members = vec![Vec::new(); stored.collections.len()];
        for (place, makeup) in stored.makeup_of.iter().enumerate() {
            let id = stored.enrolment(place);
            if gallery.roll.ordinal_of(&id).is_some() {
                return Err(ResumeError::OtherRows { reason: "an enrolment is in it twice" });
            }
            let ordinal = gallery.roll.push(&id, *makeup);
            let makeup = &mut gallery.makeups[*makeup as usize];
            makeup.live += 1;
            for collection in &makeup.collections {
                if stored.collections[*collection].reclaimed.binary_search(&ordinal).is_err() {
                    members[*collection].push(ordinal);
                }
            }
        }
        stored.withdrawn.iter().for_each(|ordinal| gallery.withdraw(*ordinal));
        for (collection, stored) in gallery.collections.iter_mut().zip(&stored.collections) {
            collection.reclaimed = stored.reclaimed.len();
        }
        let mut kept = Vec::new();
        for (collection, members) in stored.collections.iter().zip(&members) {
            let rows = collection.segments.iter().map(|segment| segment.rows as usize).sum();
            if rows > members.len() {
                return Err(ResumeError::OtherRows { reason: "segments hold more references than there are" });
            }
            kept.push(rows);
        }
        Ok(Self { shard, stored, config, gallery, members, kept, missing: BTreeMap::new() })
    }

    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>> {
        if name == self.config.engine.name() {
            return Some(Arc::clone(&self.config.engine));
        }
        self.config.engines.engine(name)
    }

    /// Takes the kept segments, or leaves a gap for each whose file cannot be used.
    fn take_segments<P: StoredParts>(&mut self, parts: &mut P) {
        for (number, stored) in self.stored.collections.iter().enumerate() {
            let TemplateSpec::Embedding { dimension } = stored.comparable.spec else { continue };
            let mut taken = Vec::with_capacity(stored.segments.len());
            let mut first = 0;
            for (segment, StoredSegment { rows, id, engine }) in stored.segments.iter().enumerate() {
                let members = &self.members[number][first..first + *rows as usize];
                first += *rows as usize;
                // An engine that is gone is as good as a file that is.
                let engine = self.engine(engine);
                let header = SegmentHeader {
                    shard: self.shard,
                    gallery: self.stored.id.clone(),
                    key_version: stored.comparable.key_version,
                    slot: stored.comparable.slot,
                    dimension,
                    rows: *rows,
                    engine: engine.as_ref().map(|engine| engine.fingerprint(dimension)).unwrap_or_default(),
                    enrolments: enrolments_digest(members.iter().map(|ordinal| self.gallery.roll.id(*ordinal))),
                };
                let new_number = self.gallery.collections[number].new_number();
                let closed = |rows| SealedSegment::closed(new_number, rows, &self.gallery.withdrawals);
                let found = engine.and_then(|engine| {
                    let found = parts.segment(&WantedSegment { id: *id, header, engine: Arc::clone(&engine) })?;
                    Some((found, engine))
                });
                taken.push(match found {
                    Some((FoundSegment { segment, templates }, engine)) => {
                        let rows = SealedRows::new(dimension, Arc::new(Ordinals::new(members.to_vec())), templates);
                        let mut sealed = closed(rows);
                        if let Some(segment) = segment {
                            sealed.put_built(segment, engine);
                            sealed.put_stored(*id, None);
                        }
                        sealed
                    }
                    None => {
                        self.missing.insert((number, segment), new_number);
                        // Its place, until the rows are there.
                        closed(SealedRows::closed(EmbeddingRows::new(dimension)))
                    }
                });
            }
            if let References::Embeddings { sealed, .. } = &mut self.gallery.collections[number].references {
                *sealed = Arc::new(taken);
            }
        }
    }

    /// Reads the references of segments whose files could not be used.
    fn read_missing<P: StoredParts>(&mut self, parts: &mut P) -> Result<(), ResumeError<P::Error>>
    where
        P::Error: fmt::Display,
    {
        for ((number, segment), new_number) in std::mem::take(&mut self.missing) {
            let stored = &self.stored.collections[number];
            let TemplateSpec::Embedding { dimension } = stored.comparable.spec else { continue };
            let mut rows = EmbeddingRows::new(dimension);
            let first: usize = stored.segments[..segment].iter().map(|one| one.rows as usize).sum();
            let wanted = first..first + stored.segments[segment].rows as usize;
            for member in wanted {
                let ordinal = self.members[number][member];
                match self.read(ordinal, number, parts)? {
                    Template::Embedding(embedding) => rows.push(ordinal, &embedding),
                    Template::BinaryCode(_) => unreachable!("it conforms to the collection's spec"),
                }
            }
            let Gallery { collections, withdrawals, .. } = &mut self.gallery;
            if let References::Embeddings { sealed, .. } = &mut collections[number].references {
                let closed = SealedSegment::closed(new_number, SealedRows::closed(rows), withdrawals);
                Arc::make_mut(sealed)[segment] = closed;
            }
        }
        Ok(())
    }

    /// Reads the references after the kept segments.
    fn read_growing<P: StoredParts>(&mut self, parts: &mut P) -> Result<(), ResumeError<P::Error>>
    where
        P::Error: fmt::Display,
    {
        for number in 0..self.gallery.collections.len() {
            for member in self.kept[number]..self.members[number].len() {
                let ordinal = self.members[number][member];
                let template = self.read(ordinal, number, parts)?;
                let Gallery { collections, withdrawals, .. } = &mut self.gallery;
                let collection = &mut collections[number];
                collection.push(ordinal, &template);
                let seal_at = self.config.seal_at(&*self.config.engine, &collection.comparable.spec);
                collection.close(seal_at, withdrawals);
            }
        }
        Ok(())
    }

    /// The template that an enrolment has in a collection.
    fn read<P: StoredParts>(
        &self,
        ordinal: EnrolmentOrdinal,
        collection: usize,
        parts: &mut P,
    ) -> Result<Template, ResumeError<P::Error>>
    where
        P::Error: fmt::Display,
    {
        let id = self.gallery.roll.enrolment_id(ordinal);
        let references = parts.references(&self.stored.id, &id).map_err(ResumeError::Parts)?;
        let comparable = &self.stored.collections[collection].comparable;
        let fits = |reference: &StagedReference| {
            (reference.slot, reference.spec) == (comparable.slot, comparable.spec)
                && reference.template.conforms_to(&reference.spec)
        };
        let found = references.into_iter().find(fits);
        found.map(|reference| reference.template).ok_or(ResumeError::OtherRows { reason: "a reference is not there" })
    }
}
