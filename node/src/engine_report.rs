//! What a replica tells of its engines: which search its sealed segments, which of them wait to be built again, and what cannot be sealed.
//!
//! Which engine is in force is `shard_view`'s; building is `sealing`'s.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use semel_index::{CollectionStatus, Engine, EngineName, FaissFactory, GalleryId, TemplateSpec};
use semel_proto::v1 as public;

use crate::shard_view::ShardView;

/// Entries of a replica's list of engines, and of its list of what is not sealed.
const ENTRIES_MAX: usize = 16;

/// Sealed segments of one collection that one engine built.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Segments {
    /// Empty where none was built yet.
    engine: String,
    instead_of: String,
    /// Empty where they stay as they are.
    waits_for: String,
    /// Where that is more than a full segment has; otherwise 0.
    references_min: usize,
}

/// References of one gallery that are enough for a segment, but not for one of their engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Unsealed {
    gallery: GalleryId,
    engine: String,
    references_min: usize,
}

/// How many sealed segments each engine searches, and what they wait for.
pub(crate) fn engines(view: &ShardView, collections: &[CollectionStatus]) -> Vec<public::EngineStatus> {
    let mut counts: BTreeMap<Segments, usize> = BTreeMap::new();
    for (segments, count) in collections.iter().flat_map(|collection| segments(view, collection)) {
        *counts.entry(segments).or_default() += count;
    }
    let status = |(one, count): (Segments, usize)| public::EngineStatus {
        engine: one.engine,
        segments: count as u64,
        instead_of: one.instead_of,
        waits_for: one.waits_for,
        references_min: on_wire(one.references_min),
    };
    counts.into_iter().take(ENTRIES_MAX).map(status).collect()
}

/// What is not sealed because its engine needs more of it.
pub(crate) fn unsealed(view: &ShardView, collections: &[CollectionStatus]) -> Vec<public::UnsealedStatus> {
    let mut references: BTreeMap<Unsealed, usize> = BTreeMap::new();
    for (collection, references_min) in
        collections.iter().filter_map(|each| Some((each, too_few_for_engine(view, each)?)))
    {
        let gallery = collection.key.gallery.clone();
        let engine = view.engine_or_own(&gallery).name().to_owned();
        *references.entry(Unsealed { gallery, engine, references_min }).or_default() += collection.growing_references;
    }
    let mut most_first: Vec<(Unsealed, usize)> = references.into_iter().collect();
    most_first.sort_by_key(|(_, references)| Reverse(*references));
    let status = |(one, references): (Unsealed, usize)| public::UnsealedStatus {
        gallery: one.gallery.to_string(),
        engine: one.engine,
        references: references as u64,
        references_min: on_wire(one.references_min),
    };
    most_first.into_iter().take(ENTRIES_MAX).map(status).collect()
}

/// How many references of a collection are not sealed because its engine needs more of them.
pub(crate) fn references_unsealed(view: &ShardView, collection: &CollectionStatus) -> usize {
    too_few_for_engine(view, collection).map_or(0, |_| collection.growing_references)
}

/// How many sealed segments of a collection wait to be built with another engine.
pub(crate) fn segments_outdated(view: &ShardView, collection: &CollectionStatus) -> usize {
    let waiting = segments(view, collection).into_iter().filter(|(one, _)| !one.waits_for.is_empty());
    waiting.map(|(_, count)| count).sum()
}

fn segments(view: &ShardView, collection: &CollectionStatus) -> Vec<(Segments, usize)> {
    // Most collections of most shards, where there are many galleries.
    if collection.segments == 0 {
        return Vec::new();
    }
    let gallery = &collection.key.gallery;
    let instead_of = view.engine_missing(gallery).unwrap_or_default();
    let wanted = view.engine_in_force(gallery).zip(dimension(collection));
    let waits_for = |engine: &str| match &wanted {
        Some((wanted, dimension)) if name_of_segments(&**wanted, *dimension) != engine => {
            let references_min = wanted.references_min(*dimension);
            (wanted.name().to_owned(), if references_min > view.seal_at_references() { references_min } else { 0 })
        }
        Some(_) | None => (String::new(), 0),
    };
    // Those wait for their first engine, and say so by having none.
    let unbuilt = [("", collection.segments_without_engine)];
    let built = collection.engines.iter().map(|(engine, count)| (engine.as_str(), *count));
    let all = built.chain(unbuilt).filter(|(_, count)| *count > 0).map(|(engine, count)| {
        let (waits_for, references_min) = if engine.is_empty() { Default::default() } else { waits_for(engine) };
        (Segments { engine: engine.to_owned(), instead_of: instead_of.clone(), waits_for, references_min }, count)
    });
    all.collect()
}

/// How many references the engine of a collection needs, where its growing ones are a full segment, but fewer than that.
fn too_few_for_engine(view: &ShardView, collection: &CollectionStatus) -> Option<usize> {
    let growing = collection.growing_references;
    let dimension = dimension(collection).filter(|_| growing >= view.seal_at_references())?;
    let references_min = view.engine_or_own(&collection.key.gallery).references_min(dimension);
    (growing < references_min).then_some(references_min)
}

/// Of embeddings: no engine searches anything else.
fn dimension(collection: &CollectionStatus) -> Option<u32> {
    match collection.spec {
        TemplateSpec::Embedding { dimension } => Some(dimension),
        TemplateSpec::BinaryCode(_) => None,
    }
}

/// What segments say that this engine built from embeddings of a dimension.
fn name_of_segments(engine: &dyn Engine, dimension: u32) -> String {
    let factory = match engine.name().parse() {
        Ok(EngineName::Faiss) => FaissFactory::default_for(dimension).map(EngineName::FaissFactory),
        Ok(EngineName::Exact | EngineName::Sketch | EngineName::FaissFactory(_)) | Err(_) => None,
    };
    factory.map_or_else(|| engine.name().to_owned(), |factory| factory.to_string())
}

/// An engine that takes none of a dimension needs more of them than there can be.
fn on_wire(references_min: usize) -> u64 {
    if references_min == usize::MAX { u64::MAX } else { references_min as u64 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use semel_index::{
        CanonicalEmbedding, CatalogueConfig, EnrolmentId, KeyVersion, PolicyVersion, Slot, StagedReference, Template,
    };
    use semel_node_wire::PolicyEngine;
    use semel_raft::LogIndex;
    use semel_raft_host::Publisher as _;
    use semel_shard::{Publication, Totals};

    use super::*;
    use crate::shard_view::ViewPublisher;

    const SEAL_AT: usize = 8;
    const DIMENSION: u32 = 64;
    /// More than a full segment here, and fewer than an engine of the crate needs.
    const PEOPLE: u32 = 20;

    fn people() -> GalleryId {
        GalleryId::try_from("people").expect("valid")
    }

    fn enrol(view: &Arc<ShardView>, numbers: std::ops::RangeInclusive<u32>) {
        for number in numbers {
            let mut values = [0.01; DIMENSION as usize];
            values[number as usize % DIMENSION as usize] = 1.0;
            let index = LogIndex(number.into());
            let staged = Publication::Staged {
                gallery: people(),
                enrolment_id: EnrolmentId::try_from(number.to_string()).expect("valid"),
                key_version: KeyVersion(1),
                references: vec![StagedReference {
                    slot: Slot::from_codes(1, 1).expect("exists"),
                    spec: TemplateSpec::Embedding { dimension: DIMENSION },
                    template: Template::Embedding(CanonicalEmbedding::from_f32(&values).expect("valid")),
                }],
                totals: Totals { staged_total: number.into(), withdrawn_total: 0 },
            };
            ViewPublisher { view: Arc::clone(view) }.publish(index, vec![(index, vec![staged])]);
        }
    }

    fn govern(view: &ShardView, version: u64, engine: &str) -> bool {
        view.governed_by(&people(), &PolicyEngine { version: PolicyVersion(version), engine: engine.to_owned() })
    }

    /// Builds what waits for an engine; how many segments there are of how many references.
    fn seal(view: &ShardView) -> (usize, usize) {
        view.seal_jobs().into_iter().for_each(|job| view.sealed(job.run()));
        let collections = view.moment().catalogue().collections();
        (collections[0].segments, collections[0].sealed_references)
    }

    fn check(view: &ShardView, outdated: &[(&str, &str, u64)], unsealed: &[(&str, u64, u64)]) {
        let collections = view.moment().catalogue().collections();
        let told = engines(view, &collections);
        let waiting = told.iter().filter(|one| !one.waits_for.is_empty());
        let waiting: Vec<_> =
            waiting.map(|one| (one.engine.as_str(), one.waits_for.as_str(), one.references_min)).collect();
        assert_eq!(waiting, outdated);
        assert_eq!(segments_outdated(view, &collections[0]), outdated.len());
        let told = super::unsealed(view, &collections);
        assert!(told.iter().all(|one| one.gallery == "people"));
        let waiting: Vec<_> =
            told.iter().map(|one| (one.engine.as_str(), one.references, one.references_min)).collect();
        assert_eq!(waiting, unsealed);
        let references = unsealed.iter().map(|(_, references, _)| *references as usize).sum::<usize>();
        assert_eq!(references_unsealed(view, &collections[0]), references);
    }

    /// Both were once said by nothing: that references wait for more of them, and that segments wait for another engine.
    #[test]
    fn what_waits_for_an_engine_is_told() {
        let sketch_min = semel_index::SketchEngine.references_min(DIMENSION);
        let too_few = ("sketch", u64::from(PEOPLE), sketch_min as u64);
        let view = ShardView::empty(CatalogueConfig { seal_at_references: SEAL_AT, ..CatalogueConfig::default() });
        govern(&view, 1, "sketch");
        enrol(&view, 1..=SEAL_AT as u32 - 1);
        check(&view, &[], &[]);
        enrol(&view, SEAL_AT as u32..=PEOPLE);
        assert_eq!(seal(&view), (0, 0));
        check(&view, &[], &[too_few]);

        govern(&view, 2, "exact");
        assert_eq!(seal(&view), (1, PEOPLE as usize));
        check(&view, &[], &[]);

        govern(&view, 3, "sketch");
        check(&view, &[("exact", "sketch", sketch_min as u64)], &[]);
        govern(&view, 4, "");
        check(&view, &[], &[]);
    }

    /// They once waited for the next enrolment, which may never come.
    #[test]
    fn what_grew_long_is_sealed_once_an_engine_takes_it() {
        let view = ShardView::empty(CatalogueConfig { seal_at_references: SEAL_AT, ..CatalogueConfig::default() });
        assert!(!govern(&view, 1, "sketch"), "nothing is known of another one");
        enrol(&view, 1..=PEOPLE);
        assert!(!view.is_seal_due());
        assert!(govern(&view, 2, "exact"));
        assert!(view.is_seal_due());
        assert_eq!(seal(&view), (1, PEOPLE as usize));
        // A few more are no full segment.
        enrol(&view, PEOPLE + 1..=PEOPLE + 3);
        govern(&view, 3, "sketch");
        govern(&view, 4, "exact");
        assert_eq!(view.moment().catalogue().collections()[0].growing_references, 3);
    }

    #[cfg(feature = "faiss")]
    #[test]
    fn the_default_of_faiss_is_known_in_what_it_built() {
        let check = |name: &str, expected: &str| {
            assert_eq!(name_of_segments(&*crate::engine(name).expect("known"), 512), expected);
        };
        check("faiss", "faiss:PQ128x4fs");
        check("faiss:IVF4096,Flat", "faiss:IVF4096,Flat");
        check("sketch", "sketch");
    }
}
