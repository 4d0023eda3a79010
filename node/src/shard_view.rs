//! What a node derives from one shard's rows: the catalogue that is searched, and the counts that every search must match.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semel_index::{
    Calibration, Catalogue, CatalogueConfig, CatalogueSnapshot, ComparisonScore, EnrolmentId, GalleryId, SealJob,
    Sealed, Slot, StagedEnrolment,
};
use semel_raft::{LogIndex, StoreError};
use semel_raft_host::{GroupStore, Publisher};
use semel_shard::{Publication, ShardMachine, Totals};
use tokio::sync::{oneshot, watch};

/// Readers that may wait for verdicts of one shard.
const VERDICT_WAITERS_MAX: usize = 16_384;

/// Enrolments that are put into the catalogue together when it is built from the rows.
const REPLAYED_TOGETHER: usize = 1_024;
/// Thresholds that the segments of one slot are calibrated for; a policy that changes oftener is searched exactly for its older versions.
const THRESHOLDS_MAX: usize = 8;

type EnrolmentKey = (GalleryId, EnrolmentId);

/// One moment of a shard: what can be searched, and how many enrolments the rows say there are.
#[derive(Clone)]
pub(crate) struct ShardMoment {
    pub(crate) catalogue: Arc<CatalogueSnapshot>,
    totals: Arc<BTreeMap<GalleryId, Totals>>,
}

impl ShardMoment {
    /// The last log index whose enrolments and withdrawals can be found.
    pub(crate) fn searchable_index(&self) -> u64 {
        self.catalogue.searchable_index()
    }

    /// The replicated counts of a gallery at that index.
    pub(crate) fn totals(&self, gallery: &GalleryId) -> Totals {
        self.totals.get(gallery).copied().unwrap_or_default()
    }
}

/// The view of one shard. Truth is in the rows; all of this can be thrown away and built again.
pub(crate) struct ShardView {
    catalogue: Mutex<Catalogue>,
    moment: watch::Sender<ShardMoment>,
    verdict_waiters: Mutex<HashMap<EnrolmentKey, Vec<oneshot::Sender<()>>>>,
    calibrations: Mutex<HashMap<(GalleryId, Slot), Calibration>>,
}

impl ShardView {
    pub(crate) fn new(config: CatalogueConfig) -> Arc<Self> {
        let mut catalogue = Catalogue::new(config);
        let moment = ShardMoment { catalogue: catalogue.snapshot(), totals: Arc::default() };
        Arc::new(Self {
            catalogue: Mutex::new(catalogue),
            moment: watch::Sender::new(moment),
            verdict_waiters: Mutex::default(),
            calibrations: Mutex::default(),
        })
    }

    /// The latest moment.
    pub(crate) fn moment(&self) -> ShardMoment {
        self.moment.borrow().clone()
    }

    /// Tells of every later moment.
    pub(crate) fn moments(&self) -> watch::Receiver<ShardMoment> {
        self.moment.subscribe()
    }

    /// Waits until everything up to `index` can be found.
    pub(crate) async fn reached(&self, index: LogIndex) -> ShardMoment {
        let mut moments = self.moment.subscribe();
        let moment = moments.wait_for(|moment| moment.searchable_index() >= index.0).await;
        moment.expect("the sender lives as long as the view").clone()
    }

    /// Gets told once the enrolment's state next changes; `None` if too many wait already.
    pub(crate) fn changed(&self, gallery: &GalleryId, enrolment_id: &EnrolmentId) -> Option<oneshot::Receiver<()>> {
        let mut waiters = lock(&self.verdict_waiters);
        if waiters.len() >= VERDICT_WAITERS_MAX {
            waiters.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
        }
        if waiters.len() >= VERDICT_WAITERS_MAX {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let senders = waiters.entry((gallery.clone(), enrolment_id.clone())).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        Some(receiver)
    }

    /// Learns under which threshold and miss budget a slot is searched, so that its segments can be calibrated for them. Until they
    /// are, a search under them scans exactly.
    pub(crate) fn searched_under(
        &self,
        gallery: &GalleryId,
        slot: Slot,
        threshold: ComparisonScore,
        miss_budget_ppb: u32,
    ) {
        let mut calibrations = lock(&self.calibrations);
        let calibration = calibrations.entry((gallery.clone(), slot)).or_default();
        if calibration.miss_budget_ppb == miss_budget_ppb && calibration.thresholds.contains(&threshold) {
            return;
        }
        calibration.miss_budget_ppb = miss_budget_ppb;
        if !calibration.thresholds.contains(&threshold) {
            if calibration.thresholds.len() == THRESHOLDS_MAX {
                calibration.thresholds.remove(0);
            }
            calibration.thresholds.push(threshold);
        }
        let calibration = calibration.clone();
        drop(calibrations);
        lock(&self.catalogue).set_calibration(gallery, slot, calibration);
    }

    /// Segments that have grown enough to be sealed, each a job for another thread.
    pub(crate) fn seal_jobs(&self) -> Vec<SealJob> {
        lock(&self.catalogue).seal_jobs()
    }

    /// Swaps a sealed segment in.
    pub(crate) fn sealed(&self, sealed: Sealed) {
        let mut catalogue = lock(&self.catalogue);
        catalogue.sealed(sealed);
        let snapshot = catalogue.snapshot();
        // Under the catalogue's lock, so that no later moment is replaced by this one.
        self.moment.send_modify(|moment| moment.catalogue = snapshot);
    }

    fn take_in(&self, applied: LogIndex, publications: Vec<(LogIndex, Vec<Publication>)>) {
        let mut catalogue = lock(&self.catalogue);
        let mut changed = Vec::new();
        let mut totals_after: Vec<(GalleryId, Totals)> = Vec::new();
        for (index, publications) in publications {
            for publication in publications {
                match publication {
                    Publication::Staged { gallery, enrolment_id, key_version, references, totals } => {
                        totals_after.push((gallery.clone(), totals));
                        catalogue.stage(index.0, StagedEnrolment { gallery, enrolment_id, key_version, references });
                    }
                    Publication::Withdrawn { gallery, enrolment_id, totals } => {
                        catalogue.withdraw(index.0, &gallery, &enrolment_id);
                        totals_after.push((gallery.clone(), totals));
                        changed.push((gallery, enrolment_id));
                    }
                    Publication::Changed { gallery, enrolment_id } => changed.push((gallery, enrolment_id)),
                }
            }
        }
        catalogue.advance(applied.0);
        let snapshot = catalogue.snapshot();
        self.moment.send_modify(|moment| {
            moment.catalogue = snapshot;
            if !totals_after.is_empty() {
                Arc::make_mut(&mut moment.totals).extend(totals_after);
            }
        });
        drop(catalogue);
        if !changed.is_empty() {
            let mut waiters = lock(&self.verdict_waiters);
            for sender in changed.iter().filter_map(|key| waiters.remove(key)).flatten() {
                // A waiter that has gone needs no news.
                let _ = sender.send(());
            }
        }
    }
}

/// Nothing that holds these locks panics half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Feeds a view from its group.
pub(crate) struct ViewPublisher {
    pub(crate) view: Arc<ShardView>,
}

impl Publisher<ShardMachine> for ViewPublisher {
    fn restore(&mut self, applied: LogIndex, store: &GroupStore) -> Result<(), StoreError> {
        let mut chunk = Vec::new();
        semel_shard::replay_catalogue(store, &mut |index, publication| {
            chunk.push((index, vec![publication]));
            if chunk.len() == REPLAYED_TOGETHER {
                self.view.take_in(index, std::mem::take(&mut chunk));
            }
        })?;
        self.view.take_in(applied, chunk);
        Ok(())
    }

    fn publish(&mut self, applied: LogIndex, publications: Vec<(LogIndex, Vec<Publication>)>) {
        self.view.take_in(applied, publications);
    }
}
