//! What a replica searches, derived from its rows: the catalogue, and the counts that every search must match.
//!
//! Kept current from publications, or built from the rows. How current it must be to be searched is the caller's affair: it
//! waits until [`SearchMoment::searchable_index`] has reached its barrier.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel_index::{
    Cancelled, Catalogue, CatalogueConfig, CatalogueSnapshot, Checkpoint, CheckpointHeader, EnrolmentId, FoundSegment,
    GalleryId, InTurn, ResumeError, SearchProbe, ShardSearch, Spread, StagedEnrolment, StagedReference, StoredParts,
    TemplatesUnreadable, Unanswered, WantedSegment,
};
use semel_raft::mutant::Mutant;
use semel_raft::{LogIndex, Store, StoreError};

use crate::audit::{AuditChain, AuditEvent};
use crate::publication::{Publication, Totals};
use crate::replay::replay_after;
use crate::view;

/// Enrolments that are put into the catalogue together when it is built from the rows.
const REPLAYED_TOGETHER: usize = 1_024;

/// Entries of the audit chain that are read at once.
const PAGE_ENTRIES: usize = 1_024;

/// The view of one replica. Truth is in the rows; all of this can be thrown away and built again.
#[derive(Debug)]
pub struct SearchView {
    catalogue: Catalogue,
    totals: Arc<BTreeMap<GalleryId, Totals>>,
    /// The last entry of the audit chain that was looked through for withdrawals; only while the view is built from rows.
    withdrawn_up_to: u64,
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
    /// Templates that are not in memory could not be read: the view is to be built again.
    #[error(transparent)]
    Unreadable(#[from] TemplatesUnreadable),
}

impl From<Unanswered> for SearchError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Cancelled(cancelled) => Self::Cancelled(cancelled),
            Unanswered::Unreadable(unreadable) => Self::Unreadable(unreadable),
        }
    }
}

impl SearchView {
    /// The view of a replica that has applied nothing.
    pub fn new(config: CatalogueConfig) -> Self {
        Self::of(Catalogue::new(config), 0)
    }

    fn of(catalogue: Catalogue, withdrawn_up_to: u64) -> Self {
        Self { catalogue, totals: Arc::default(), withdrawn_up_to }
    }

    /// Builds the view from the rows of `store`, whose last applied entry is `applied`. Called once, on a new view, which is
    /// not to be searched before.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn restore(&mut self, applied: LogIndex, store: &dyn Store) -> Result<(), StoreError> {
        // Every enrolment's own row says whether it is withdrawn, so older entries of the chain say nothing new.
        self.withdrawn_up_to = view::history(store)?.0;
        self.replay(LogIndex(0), BTreeMap::new(), store)?;
        self.catalogue.advance(applied.0);
        Ok(())
    }

    /// The view as a checkpoint says it was, brought up to `applied`, the last entry that the rows of `store` have applied.
    /// `segments` has the kept segments, or `None` for one whose file cannot be used.
    ///
    /// # Errors
    /// [`ResumeError`] if the checkpoint is not of these rows or the rows cannot be read. The view is then built by
    /// [`Self::restore`].
    pub fn resume(
        config: CatalogueConfig,
        checkpoint: &Checkpoint,
        segments: &mut dyn FnMut(&WantedSegment) -> Option<FoundSegment>,
        applied: LogIndex,
        store: &dyn Store,
    ) -> Result<Self, ResumeError<StoreError>> {
        let header = checkpoint.header();
        check_history(header, applied, store)?;
        let mut parts = Parts { segments, store };
        let catalogue = Catalogue::resume(config, checkpoint, &mut parts)?;
        let mut resumed = Self::of(catalogue, header.withdrawn_up_to);
        resumed.catch_up(applied, store).map_err(ResumeError::Parts)?;
        let unchecked = Mutant::ResumeForgetsWithdrawals.is_chosen();
        if !unchecked && !resumed.matches_counts(store).map_err(ResumeError::Parts)? {
            return Err(ResumeError::OtherRows { reason: "it does not have all of them" });
        }
        Ok(resumed)
    }

    /// Brings the view up to `applied`, the last entry that the rows of `store` have applied, by reading what they have more.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn catch_up(&mut self, applied: LogIndex, store: &dyn Store) -> Result<(), StoreError> {
        let after = LogIndex(self.catalogue.searchable_index());
        let totals = self.counted();
        self.totals = Arc::new(totals.clone());
        self.replay(after, totals, store)?;
        loop {
            let page = view::audit(store, self.withdrawn_up_to, PAGE_ENTRIES)?;
            let is_last = page.len() < PAGE_ENTRIES;
            for entry in page {
                self.withdrawn_up_to = entry.sequence;
                let content = entry.content;
                if content.event == AuditEvent::Withdrawn && !Mutant::ResumeForgetsWithdrawals.is_chosen() {
                    self.catalogue.withdraw(content.index.0, &content.gallery, &content.enrolment_id);
                }
            }
            if is_last {
                break;
            }
        }
        self.totals = Arc::new(self.counted());
        self.catalogue.advance(applied.0);
        Ok(())
    }

    fn replay(
        &mut self,
        after: LogIndex,
        totals: BTreeMap<GalleryId, Totals>,
        store: &dyn Store,
    ) -> Result<(), StoreError> {
        let mut chunk = Vec::new();
        replay_after(store, after, totals, &mut |index, publication| {
            chunk.push((index, vec![publication]));
            if chunk.len() == REPLAYED_TOGETHER {
                self.take_in(index, std::mem::take(&mut chunk));
            }
        })?;
        if let Some((index, _)) = chunk.last() {
            let index = *index;
            self.take_in(index, chunk);
        }
        Ok(())
    }

    /// What the catalogue holds, by gallery.
    fn counted(&mut self) -> BTreeMap<GalleryId, Totals> {
        let snapshot = self.catalogue.snapshot();
        let of = |gallery: &GalleryId| {
            let staged_total = snapshot.staged(gallery);
            (gallery.clone(), Totals { staged_total, withdrawn_total: staged_total - snapshot.live(gallery) })
        };
        snapshot.galleries().map(of).collect()
    }

    /// Whether the catalogue holds as many as the rows say there are.
    fn matches_counts(&mut self, store: &dyn Store) -> Result<bool, StoreError> {
        let recorded = view::counts(store)?.into_iter().map(|(gallery, counts)| (gallery, counts.totals()));
        let recorded: BTreeMap<_, _> = recorded.filter(|(_, totals)| totals.staged_total > 0).collect();
        Ok(recorded == self.counted())
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

/// Checks that a checkpoint is of these rows. The chain binds them to all that ever happened to them: where it is the checkpoint's, they
/// are those that it is of.
fn check_history(
    header: &CheckpointHeader,
    applied: LogIndex,
    store: &dyn Store,
) -> Result<(), ResumeError<StoreError>> {
    if header.searchable_index > applied.0 || header.withdrawn_up_to > header.history.0 {
        return Err(ResumeError::OtherRows { reason: "it is ahead of them" });
    }
    let (number, chain) = (header.history.0, AuditChain(header.history.1));
    let recorded = match number.checked_sub(1) {
        None => AuditChain::default(),
        Some(before) => {
            let entry = view::audit(store, before, 1).map_err(ResumeError::Parts)?.pop();
            let entry = entry.filter(|entry| entry.sequence == number);
            entry.ok_or(ResumeError::OtherRows { reason: "it is ahead of them" })?.chain
        }
    };
    if recorded != chain {
        return Err(ResumeError::OtherRows { reason: "their history is another one" });
    }
    Ok(())
}

/// What a resumed catalogue is made of: files behind a closure, and rows.
struct Parts<'a> {
    segments: &'a mut dyn FnMut(&WantedSegment) -> Option<FoundSegment>,
    store: &'a dyn Store,
}

impl StoredParts for Parts<'_> {
    type Error = StoreError;

    fn segment(&mut self, wanted: &WantedSegment) -> Option<FoundSegment> {
        (self.segments)(wanted)
    }

    fn references(&mut self, gallery: &GalleryId, enrolment: &EnrolmentId) -> Result<Vec<StagedReference>, StoreError> {
        let references = view::references(self.store, gallery, enrolment)?.unwrap_or_default();
        let staged = references.into_iter().map(|reference| StagedReference {
            slot: reference.slot,
            spec: reference.spec,
            template: reference.template,
        });
        Ok(staged.collect())
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
        self.search_spread(probes, &InTurn, cancelled)
    }

    /// [`Self::search`], of which several threads may run parts. The answers are the same.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub fn search_spread(
        &self,
        probes: &[SearchProbe],
        spread: &dyn Spread,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<ShardSearch>, SearchError> {
        let answers = self.catalogue.search_spread(probes, spread, cancelled)?;
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
