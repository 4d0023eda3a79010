//! What a replica searches, derived from its rows: the catalogue, and the counts that every search must match.
//!
//! Kept current from publications, or built from the rows. How current it must be to be searched is the caller's affair: it
//! waits until [`SearchMoment::searchable_index`] has reached its barrier.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel_index::{
    Cancelled, Catalogue, CatalogueConfig, CatalogueSnapshot, EnrolmentId, GalleryId, SearchProbe, ShardSearch,
    StagedEnrolment,
};
use semel_raft::{LogIndex, Store, StoreError};

use crate::publication::{Publication, Totals};
use crate::replay::replay_catalogue;

/// Enrolments that are put into the catalogue together when it is built from the rows.
const REPLAYED_TOGETHER: usize = 1_024;

/// The view of one replica. Truth is in the rows; all of this can be thrown away and built again.
#[derive(Debug)]
pub struct SearchView {
    catalogue: Catalogue,
    totals: Arc<BTreeMap<GalleryId, Totals>>,
}

/// One moment of a replica: what can be searched, and how many enrolments the rows say there are. Later changes do not show
/// in it.
#[derive(Debug, Clone)]
pub struct SearchMoment {
    catalogue: Arc<CatalogueSnapshot>,
    totals: Arc<BTreeMap<GalleryId, Totals>>,
}

/// Why a moment gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The catalogue and the replicated counts disagree: the replica must not answer.
    #[error("counts of gallery {gallery} do not add up: {counted} searched or passed over, {recorded} recorded")]
    Counts {
        /// The gallery.
        gallery: GalleryId,
        /// Enrolments that the search compared, passed over, excluded or found withdrawn.
        counted: u64,
        /// Enrolments that the rows say were ever staged.
        recorded: u64,
    },
    /// The search was given up.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl SearchView {
    /// The view of a replica that has applied nothing.
    pub fn new(config: CatalogueConfig) -> Self {
        Self { catalogue: Catalogue::new(config), totals: Arc::default() }
    }

    /// Builds the view from the rows of `store`, whose last applied entry is `applied`. Called once, on a new view, which is
    /// not to be searched before.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn restore(&mut self, applied: LogIndex, store: &dyn Store) -> Result<(), StoreError> {
        let mut chunk = Vec::new();
        replay_catalogue(store, &mut |index, publication| {
            chunk.push((index, vec![publication]));
            if chunk.len() == REPLAYED_TOGETHER {
                self.take_in(index, std::mem::take(&mut chunk));
            }
        })?;
        self.take_in(applied, chunk);
        Ok(())
    }

    /// Takes in what entries published, in order; afterwards the view is current up to `applied`. Returns the enrolments whose
    /// state changed after their stage.
    pub fn take_in(
        &mut self,
        applied: LogIndex,
        publications: Vec<(LogIndex, Vec<Publication>)>,
    ) -> Vec<(GalleryId, EnrolmentId)> {
        let mut changed = Vec::new();
        for (index, publications) in publications {
            for publication in publications {
                match publication {
                    Publication::Staged { gallery, enrolment_id, key_version, references, totals } => {
                        self.count(&gallery, totals);
                        let staged = StagedEnrolment { gallery, enrolment_id, key_version, references };
                        self.catalogue.stage(index.0, staged);
                    }
                    Publication::Withdrawn { gallery, enrolment_id, totals } => {
                        self.count(&gallery, totals);
                        self.catalogue.withdraw(index.0, &gallery, &enrolment_id);
                        changed.push((gallery, enrolment_id));
                    }
                    Publication::Changed { gallery, enrolment_id } => changed.push((gallery, enrolment_id)),
                }
            }
        }
        self.catalogue.advance(applied.0);
        changed
    }

    /// What can be searched now.
    pub fn moment(&mut self) -> SearchMoment {
        SearchMoment { catalogue: self.catalogue.snapshot(), totals: Arc::clone(&self.totals) }
    }

    /// The catalogue, to seal and calibrate its segments.
    pub fn catalogue(&mut self) -> &mut Catalogue {
        &mut self.catalogue
    }

    fn count(&mut self, gallery: &GalleryId, totals: Totals) {
        Arc::make_mut(&mut self.totals).insert(gallery.clone(), totals);
    }
}

impl SearchMoment {
    /// The last log index whose enrolments and withdrawals can be found.
    pub fn searchable_index(&self) -> LogIndex {
        LogIndex(self.catalogue.searchable_index())
    }

    /// The catalogue as it was.
    pub fn catalogue(&self) -> &CatalogueSnapshot {
        &self.catalogue
    }

    /// Searches for several probes in one pass, and checks every answer against the replicated counts: what was searched,
    /// passed over and withdrawn is all there is. `cancelled` is asked now and then.
    ///
    /// # Errors
    /// If a count is wrong, or the search was given up: there is no partial result.
    pub fn search(
        &self,
        probes: &[SearchProbe],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<ShardSearch>, SearchError> {
        let answers = self.catalogue.search(probes, cancelled)?;
        for (probe, answer) in probes.iter().zip(&answers) {
            let counted = answer.compared + answer.not_comparable + answer.withdrawn + answer.excluded;
            let recorded = self.totals.get(&probe.gallery).map_or(0, |totals| totals.staged_total);
            if counted != recorded {
                return Err(SearchError::Counts { gallery: probe.gallery.clone(), counted, recorded });
            }
        }
        Ok(answers)
    }
}
