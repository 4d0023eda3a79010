//! One gallery on one shard replica: its roll, its collections, and the counts that a search must account for.
//!
//! A value of copy-on-write parts: the catalogue mutates its own, snapshots hold clones.

use crate::catalogue::collection::{Collection, Comparable, SegmentNumber};
use crate::catalogue::roll::Roll;
use crate::catalogue::withdrawals::Withdrawals;
use crate::catalogue::{CatalogueConfig, StagedEnrolment};
use crate::ids::EnrolmentId;
use crate::rows::EnrolmentOrdinal;
use crate::segment::Engine;
use crate::template::TemplateSpec;

/// A gallery's enrolments and references.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gallery {
    pub(crate) roll: Roll,
    pub(crate) withdrawals: Withdrawals,
    pub(crate) collections: Vec<Collection>,
    pub(crate) makeups: Vec<Makeup>,
}

/// The collections an enrolment's references are in, and how many live enrolments have exactly those.
///
/// Embeddings of one collection always compare, so these counts tell how many enrolments a probe of embeddings is
/// compared with, without a pass over them.
#[derive(Debug, Clone)]
pub(crate) struct Makeup {
    /// Numbers of collections, ascending.
    pub(crate) collections: Box<[usize]>,
    pub(crate) live: u64,
}

impl Gallery {
    /// Enrolments ever staged here, withdrawn ones included.
    pub(crate) fn staged(&self) -> u64 {
        self.roll.len() as u64
    }

    pub(crate) fn live(&self) -> u64 {
        self.staged() - self.withdrawals.len()
    }

    pub(crate) fn collection_number(&self, comparable: &Comparable) -> Option<usize> {
        self.collections.iter().position(|collection| collection.comparable == *comparable)
    }

    /// Adds an enrolment that is not on the roll; returns the collections and numbers of the segments that were
    /// closed.
    pub(crate) fn stage(
        &mut self,
        enrolment: &StagedEnrolment,
        config: &CatalogueConfig,
        engine: &dyn Engine,
    ) -> Vec<(usize, SegmentNumber)> {
        let mut collections = Vec::with_capacity(enrolment.references.len());
        for reference in &enrolment.references {
            assert!(reference.template.conforms_to(&reference.spec), "a staged template conforms to its spec");
            let (slot, spec) = (reference.slot, reference.spec);
            let comparable = Comparable { key_version: enrolment.key_version, slot, spec };
            collections.push(self.collection_number(&comparable).unwrap_or_else(|| {
                self.collections.push(Collection::new(comparable));
                self.collections.len() - 1
            }));
        }
        let makeup = self.makeup_of(&collections);
        self.makeups[makeup].live += 1;
        let makeup = u32::try_from(makeup).expect("at most as many as enrolments");
        let ordinal = self.roll.push(&enrolment.enrolment_id, makeup);
        let mut closed = Vec::new();
        for (number, reference) in collections.into_iter().zip(&enrolment.references) {
            let collection = &mut self.collections[number];
            collection.push(ordinal, &reference.template);
            let segment = collection.close(config.seal_at(engine, &reference.spec), &self.withdrawals);
            closed.extend(segment.map(|segment| (number, segment)));
        }
        closed
    }

    /// The ordinal of an enrolment that is on the roll and not withdrawn.
    pub(crate) fn live_ordinal(&self, enrolment: &EnrolmentId) -> Option<EnrolmentOrdinal> {
        self.roll.ordinal_of(enrolment).filter(|ordinal| !self.withdrawals.contains(*ordinal))
    }

    /// Withdraws a live enrolment.
    pub(crate) fn withdraw(&mut self, ordinal: EnrolmentOrdinal) {
        self.withdrawals.insert(ordinal);
        let makeup = &mut self.makeups[self.roll.makeup(ordinal) as usize];
        makeup.live -= 1;
        for collection in &makeup.collections {
            self.collections[*collection].note_withdrawn(ordinal);
        }
    }

    /// Withdrawn enrolments whose reference in a collection no row holds any more, in order.
    pub(crate) fn reclaimed(&self, number: usize) -> Vec<EnrolmentOrdinal> {
        let collection = &self.collections[number];
        if collection.reclaimed == 0 {
            return Vec::new();
        }
        let is_member = |ordinal: &EnrolmentOrdinal| {
            self.makeups[self.roll.makeup(*ordinal) as usize].collections.contains(&number)
        };
        let withdrawn = (0..self.roll.len() as u32).map(EnrolmentOrdinal).filter(|one| self.withdrawals.contains(*one));
        let reclaimed = withdrawn.filter(is_member).filter(|ordinal| !collection.holds(*ordinal)).collect::<Vec<_>>();
        assert_eq!(reclaimed.len(), collection.reclaimed, "what no row holds was reclaimed");
        reclaimed
    }

    fn makeup_of(&mut self, collections: &[usize]) -> usize {
        let mut collections: Box<[usize]> = collections.into();
        collections.sort_unstable();
        self.makeups.iter().position(|makeup| makeup.collections == collections).unwrap_or_else(|| {
            self.makeups.push(Makeup { collections, live: 0 });
            self.makeups.len() - 1
        })
    }
}

impl CatalogueConfig {
    /// How many references close a growing segment: never fewer than the engine can build from.
    pub(crate) fn seal_at(&self, engine: &dyn Engine, spec: &TemplateSpec) -> usize {
        references_min(engine, spec, self.seal_at_references)
    }
}

/// So many references, or as many as the engine needs.
pub(crate) fn references_min(engine: &dyn Engine, spec: &TemplateSpec, wanted: usize) -> usize {
    match spec {
        TemplateSpec::Embedding { dimension } => wanted.max(engine.references_min(*dimension)).max(1),
        TemplateSpec::BinaryCode(_) => wanted.max(1),
    }
}
