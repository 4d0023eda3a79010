//! A catalogue from its checkpoint: kept segments are taken as they are, only references outside them are read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::catalogue::collection::{Collection, References, SealedSegment};
use crate::catalogue::gallery::{Gallery, Makeup};
use crate::catalogue::seal::SegmentPlace;
use crate::catalogue::{Catalogue, CatalogueConfig, StagedReference, enrolments_digest};
use crate::embedding_rows::EmbeddingRows;
use crate::ids::{EnrolmentId, GalleryId};
use crate::ordinals::Ordinals;
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::{SealedRows, Templates};
use crate::segment::Segment;
use crate::stored::{Checkpoint, SegmentHeader, StoredGallery, StoredId};
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
            let closed = resumed.read_growing(parts)?;
            let gallery = resumed.gallery;
            for (number, collection) in gallery.collections.iter().enumerate() {
                let unbuilt = (0..)
                    .map_while(|segment| collection.sealed_segment(segment))
                    .enumerate()
                    .filter(|(_, sealed)| sealed.segment.is_none());
                let place = |(segment, _)| SegmentPlace { gallery: stored.id.clone(), collection: number, segment };
                catalogue.seals_waiting.extend(unbuilt.map(place));
            }
            debug_assert!(closed <= catalogue.seals_waiting.len(), "what was closed waits");
            galleries.insert(stored.id.clone(), Arc::new(gallery));
        }
        catalogue.galleries = Arc::new(galleries);
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
    /// The ordinals of each collection's references.
    members: Vec<Vec<EnrolmentOrdinal>>,
    /// References of each collection that its kept segments hold, whether their files could be used or not.
    kept: Vec<usize>,
    /// The segments whose files could not be used, by collection and number.
    missing: BTreeMap<(usize, usize), EmbeddingRows>,
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
            makeup.collections.iter().for_each(|collection| members[*collection].push(ordinal));
        }
        stored.withdrawn.iter().for_each(|ordinal| gallery.withdraw(*ordinal));
        let mut kept = Vec::new();
        for (collection, members) in stored.collections.iter().zip(&members) {
            let rows = collection.segments.iter().map(|(rows, _)| *rows as usize).sum();
            if rows > members.len() {
                return Err(ResumeError::OtherRows { reason: "segments hold more references than there are" });
            }
            kept.push(rows);
        }
        Ok(Self { shard, stored, config, gallery, members, kept, missing: BTreeMap::new() })
    }

    /// Takes the kept segments, or leaves a gap for each whose file cannot be used.
    fn take_segments<P: StoredParts>(&mut self, parts: &mut P) {
        for (number, stored) in self.stored.collections.iter().enumerate() {
            let TemplateSpec::Embedding { dimension } = stored.comparable.spec else { continue };
            let mut taken = Vec::with_capacity(stored.segments.len());
            let mut first = 0;
            for (segment, (rows, id)) in stored.segments.iter().enumerate() {
                let members = &self.members[number][first..first + *rows as usize];
                first += *rows as usize;
                let header = SegmentHeader {
                    shard: self.shard,
                    gallery: self.stored.id.clone(),
                    key_version: stored.comparable.key_version,
                    slot: stored.comparable.slot,
                    dimension,
                    rows: *rows,
                    engine: self.config.engine.fingerprint(dimension),
                    enrolments: enrolments_digest(members.iter().map(|ordinal| self.gallery.roll.id(*ordinal))),
                };
                let ordinals = Arc::new(Ordinals::new(members.to_vec()));
                taken.push(match parts.segment(&WantedSegment { id: *id, header }) {
                    Some(FoundSegment { segment, templates }) => {
                        let rows = SealedRows::new(dimension, ordinals, templates);
                        SealedSegment { stored: segment.is_some().then_some(*id), rows, segment }
                    }
                    None => {
                        self.missing.insert((number, segment), EmbeddingRows::new(dimension));
                        // Its place, until the rows are there.
                        let nothing = Templates::InMemory(Arc::new(EmbeddingRows::new(dimension)));
                        let nobody = Arc::new(Ordinals::new(Vec::new()));
                        SealedSegment::closed(SealedRows::new(dimension, nobody, nothing))
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
        for ((number, segment), mut rows) in std::mem::take(&mut self.missing) {
            let segments = &self.stored.collections[number].segments;
            let first: usize = segments[..segment].iter().map(|(rows, _)| *rows as usize).sum();
            let wanted = first..first + segments[segment].0 as usize;
            for member in wanted {
                let ordinal = self.members[number][member];
                match self.read(ordinal, number, parts)? {
                    Template::Embedding(embedding) => rows.push(ordinal, &embedding),
                    Template::BinaryCode(_) => unreachable!("it conforms to the collection's spec"),
                }
            }
            if let References::Embeddings { sealed, .. } = &mut self.gallery.collections[number].references {
                Arc::make_mut(sealed)[segment] = SealedSegment::closed(SealedRows::closed(rows));
            }
        }
        Ok(())
    }

    /// Reads the references after the kept segments; returns how many segments that closed.
    fn read_growing<P: StoredParts>(&mut self, parts: &mut P) -> Result<usize, ResumeError<P::Error>>
    where
        P::Error: fmt::Display,
    {
        let mut closed = 0;
        for number in 0..self.gallery.collections.len() {
            for member in self.kept[number]..self.members[number].len() {
                let ordinal = self.members[number][member];
                let template = self.read(ordinal, number, parts)?;
                let collection = &mut self.gallery.collections[number];
                let seal_at = self.config.seal_at(&collection.comparable.spec);
                closed += usize::from(collection.push(ordinal, &template, seal_at).is_some());
            }
        }
        Ok(closed)
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
