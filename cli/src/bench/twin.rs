//! A shard's catalogue in this process, without a node around it: the same segments, searched the same way.

use std::sync::Arc;

use anyhow::Context as _;
use semel_index::{
    Calibration, CanonicalEmbedding, Catalogue, CatalogueConfig, CatalogueSnapshot, ComparisonScore, Engine,
    EnrolmentId, GalleryId, KeyVersion, MISS_BUDGET_PPB_DEFAULT, Modality, Position, ProbeReference, SearchProbe,
    ShardSearch, Slot, StagedEnrolment, StagedReference, Template, TemplateSpec,
};

use crate::exit::UsageError;

/// Candidates that a probe asks for; as a policy's default.
const CANDIDATES_MAX: usize = 64;
const KEY: KeyVersion = KeyVersion(1);

/// What is searched, and how.
pub(super) struct TwinConfig {
    pub(super) gallery: GalleryId,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) seal_at_references: usize,
    pub(super) threshold: ComparisonScore,
}

/// A catalogue that does not change any more, all of whose segments are sealed.
pub(super) struct Twin {
    snapshot: Arc<CatalogueSnapshot>,
}

impl Twin {
    /// Takes the references in, in order, and seals on this thread.
    pub(super) fn build<'r>(
        config: &TwinConfig,
        references: impl Iterator<Item = (EnrolmentId, &'r CanonicalEmbedding)>,
        mut on_sealed: impl FnMut(),
    ) -> anyhow::Result<Self> {
        let calibration = Calibration { thresholds: vec![config.threshold], miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT };
        let mut catalogue = Catalogue::new(CatalogueConfig {
            seal_at_references: config.seal_at_references,
            engine: Arc::clone(&config.engine),
            calibration,
            ..CatalogueConfig::default()
        });
        for (index, (enrolment_id, embedding)) in (1..).zip(references) {
            catalogue.stage(index, staged(config, enrolment_id, embedding));
            for job in catalogue.seal_jobs() {
                let outcome = job.run();
                if let Some(error) = outcome.error() {
                    return Err(anyhow::Error::new(error.clone()).context("seal a segment"));
                }
                catalogue.sealed(outcome);
                on_sealed();
            }
        }
        Ok(Self { snapshot: catalogue.snapshot() })
    }

    pub(super) fn search(&self, probes: &[SearchProbe]) -> Vec<ShardSearch> {
        self.snapshot.search(probes, &|| false).expect("nobody cancels")
    }

    /// References in sealed segments, and those that are scanned one by one because they are too few for a segment.
    #[cfg(feature = "faiss")]
    pub(super) fn sealed_and_growing(&self) -> (usize, usize) {
        let collections = self.snapshot.collections();
        let sealed = collections.iter().map(|collection| collection.sealed_references).sum();
        (sealed, collections.iter().map(|collection| collection.growing_references).sum())
    }
}

/// An enrolment with one reference, as it becomes searchable.
pub(super) fn staged(
    config: &TwinConfig,
    enrolment_id: EnrolmentId,
    embedding: &CanonicalEmbedding,
) -> StagedEnrolment {
    let spec = TemplateSpec::Embedding { dimension: embedding.dimension() };
    let reference = StagedReference { slot: slot(), spec, template: Template::Embedding(embedding.clone()) };
    let gallery = config.gallery.clone();
    StagedEnrolment { gallery, enrolment_id, key_version: KEY, references: vec![reference] }
}

/// A probe as a coordinator makes it. Without a miss budget (0) it is compared with every reference: the exact scan.
pub(super) fn probe(config: &TwinConfig, embedding: &CanonicalEmbedding, miss_budget_ppb: u32) -> SearchProbe {
    let spec = TemplateSpec::Embedding { dimension: embedding.dimension() };
    let template = Template::Embedding(embedding.clone());
    let reference = ProbeReference { slot: slot(), spec, template, threshold: config.threshold, miss_budget_ppb };
    let gallery = config.gallery.clone();
    SearchProbe {
        gallery,
        key_version: KEY,
        references: vec![reference],
        exclude: None,
        candidates_max: CANDIDATES_MAX,
    }
}

fn slot() -> Slot {
    Slot::new(Modality::Face, Position::Only).expect("faces have one position")
}

/// The engine of a name, as a node takes it.
pub(super) fn engine(flag: &str, name: &str) -> anyhow::Result<Arc<dyn Engine>> {
    Ok(semel_node::engine(name).map_err(|error| UsageError(format!("{flag}: {}", error.reason)))?)
}

/// The gallery that benchmarks use.
pub(super) fn gallery() -> anyhow::Result<GalleryId> {
    GalleryId::try_from("bench").context("a constant name")
}
