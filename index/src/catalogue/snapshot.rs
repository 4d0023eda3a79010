//! An immutable view of a catalogue, shared by the searches that pinned it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalogue::{Collection, Gallery, References, SealedSegment};
use crate::ids::GalleryId;
use crate::search::{InTurn, SearchProbe, ShardSearch, Spread, Unanswered, search};
use crate::segment::CollectionKey;
use crate::template::TemplateSpec;

/// A catalogue as it was when published.
#[derive(Debug)]
pub struct CatalogueSnapshot {
    searchable_index: u64,
    galleries: Arc<BTreeMap<GalleryId, Arc<Gallery>>>,
}

/// What one collection holds. For status and metrics.
#[derive(Debug, Clone)]
pub struct CollectionStatus {
    /// Gallery, key version and slot.
    pub key: CollectionKey,
    /// The templates' spec.
    pub spec: TemplateSpec,
    /// References that are scanned exactly because their segment still grows.
    pub growing_references: usize,
    /// References in sealed segments, of withdrawn enrolments too until they are reclaimed.
    pub sealed_references: usize,
    /// How many of these are of withdrawn enrolments.
    pub sealed_references_withdrawn: usize,
    /// References of withdrawn enrolments that are no longer held.
    pub references_reclaimed: usize,
    /// Sealed segments.
    pub segments: usize,
    /// Sealed segments scanned exactly as long as no engine has built anything over them.
    pub segments_without_engine: usize,
    /// Sealed segments by the engine that was built over them.
    pub engines: BTreeMap<String, usize>,
    /// Sealed segments that are kept outside memory too.
    pub segments_stored: usize,
    /// Bytes of memory, all of the following together.
    pub memory_bytes: usize,
    /// Bytes of memory that hold templates; of growing ones and of binary codes, also whose they are.
    pub templates_bytes: usize,
    /// Bytes of memory that say whose the references in sealed segments are.
    pub ordinals_bytes: usize,
    /// Bytes of memory that engines hold.
    pub engines_bytes: usize,
}

impl CatalogueSnapshot {
    pub(crate) fn new(searchable_index: u64, galleries: Arc<BTreeMap<GalleryId, Arc<Gallery>>>) -> Self {
        Self { searchable_index, galleries }
    }

    /// The last log index whose enrolments and withdrawals are in this snapshot.
    pub fn searchable_index(&self) -> u64 {
        self.searchable_index
    }

    /// The galleries with an enrolment here, in order.
    pub fn galleries(&self) -> impl Iterator<Item = &GalleryId> {
        self.galleries.keys()
    }

    /// Enrolments of a gallery staged and not withdrawn.
    pub fn live(&self, gallery: &GalleryId) -> u64 {
        self.gallery(gallery).map_or(0, Gallery::live)
    }

    /// Enrolments of a gallery ever staged, withdrawn ones included.
    pub fn staged(&self, gallery: &GalleryId) -> u64 {
        self.gallery(gallery).map_or(0, Gallery::staged)
    }

    /// Searches for several probes in one pass over the references. One result per probe, in their order.
    ///
    /// `cancelled` is asked at least once for each 1,024 references compared with.
    ///
    /// # Errors
    /// [`Unanswered`] once `cancelled` says so, or if templates cannot be read: there is no partial result.
    pub fn search(
        &self,
        searches: &[SearchProbe],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<ShardSearch>, Unanswered> {
        self.search_spread(searches, &InTurn, cancelled)
    }

    /// [`Self::search`], of which several threads may run parts: engines of up to 64 sealed segments are asked side by side, or as many parts of
    /// rows compared one by one. The answers are the same; `cancelled` is not asked meanwhile.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub fn search_spread(
        &self,
        searches: &[SearchProbe],
        spread: &dyn Spread,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<ShardSearch>, Unanswered> {
        search(self, searches, spread, cancelled)
    }

    /// Every collection, in the order of galleries, then of their first reference.
    pub fn collections(&self) -> Vec<CollectionStatus> {
        let of_gallery = |(id, gallery): (&GalleryId, &Arc<Gallery>)| -> Vec<_> {
            gallery.collections.iter().map(|collection| status(id, collection)).collect()
        };
        self.galleries.iter().flat_map(of_gallery).collect()
    }

    /// Bytes of memory that hold who is in the galleries.
    pub fn rolls_bytes(&self) -> usize {
        self.galleries.values().map(|gallery| gallery.roll.memory_bytes()).sum()
    }

    pub(crate) fn gallery(&self, gallery: &GalleryId) -> Option<&Gallery> {
        self.galleries.get(gallery).map(Arc::as_ref)
    }

    pub(crate) fn all_galleries(&self) -> &BTreeMap<GalleryId, Arc<Gallery>> {
        &self.galleries
    }
}

fn status(gallery: &GalleryId, collection: &Collection) -> CollectionStatus {
    let comparable = &collection.comparable;
    let key = CollectionKey { gallery: gallery.clone(), key_version: comparable.key_version, slot: comparable.slot };
    let spec = comparable.spec;
    let references_reclaimed = collection.reclaimed;
    match &collection.references {
        References::Embeddings { sealed, growing } => {
            let built = || sealed.iter().filter_map(|sealed| sealed.segment.as_ref());
            let sum = |of: &dyn Fn(&SealedSegment) -> usize| sealed.iter().map(of).sum::<usize>();
            let templates_bytes = growing.memory_bytes() + sum(&|sealed| sealed.rows.templates_bytes());
            let ordinals_bytes = sum(&|sealed| sealed.rows.ordinals().memory_bytes());
            let mut engines = BTreeMap::new();
            built().for_each(|segment| *engines.entry(segment.engine().to_owned()).or_default() += 1);
            let engines_bytes = built().map(|segment| segment.memory_bytes()).sum::<usize>();
            CollectionStatus {
                key,
                spec,
                growing_references: growing.len(),
                sealed_references: sum(&|sealed| sealed.rows.len()),
                sealed_references_withdrawn: sum(&|sealed| sealed.withdrawn),
                references_reclaimed,
                segments: sealed.len(),
                segments_without_engine: sealed.len() - built().count(),
                engines,
                segments_stored: sealed.iter().filter(|sealed| sealed.stored.is_some()).count(),
                memory_bytes: templates_bytes + ordinals_bytes + engines_bytes,
                templates_bytes,
                ordinals_bytes,
                engines_bytes,
            }
        }
        References::BinaryCodes { sealed, growing } => {
            let of_sealed = sealed.iter().map(|sealed| sealed.rows.rows().memory_bytes()).sum::<usize>();
            let templates_bytes = of_sealed + growing.rows().memory_bytes();
            CollectionStatus {
                key,
                spec,
                growing_references: growing.rows().len(),
                sealed_references: sealed.iter().map(|sealed| sealed.rows.rows().len()).sum(),
                sealed_references_withdrawn: sealed.iter().map(|sealed| sealed.withdrawn).sum(),
                references_reclaimed,
                segments: sealed.len(),
                segments_without_engine: 0,
                engines: BTreeMap::new(),
                segments_stored: 0,
                memory_bytes: templates_bytes,
                templates_bytes,
                ordinals_bytes: 0,
                engines_bytes: 0,
            }
        }
    }
}
