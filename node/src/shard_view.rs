//! What a node derives from one shard's rows, shared between its threads: one takes publications in, others search moments and
//! wait for verdicts. What is derived, and how it is searched, is [`SearchView`]'s.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semel_index::{
    Calibration, CatalogueConfig, ComparisonScore, EnrolmentId, GalleryId, ProbeReference, SealJob, Sealed, Slot,
};
use semel_raft::{LogIndex, StoreError};
use semel_raft_host::{GroupStore, Publisher};
use semel_shard::{Publication, SearchMoment, SearchView, ShardMachine};
use tokio::sync::{oneshot, watch};

/// Readers that may wait for verdicts of one shard.
const VERDICT_WAITERS_MAX: usize = 16_384;

/// Thresholds that the segments of one slot are calibrated for, the newest; older policy versions that are still searched under may be
/// searched exactly.
const THRESHOLDS_MAX: usize = 8;

type EnrolmentKey = (GalleryId, EnrolmentId);

/// The view of one shard. Truth is in the rows; all of this can be thrown away and built again.
pub(crate) struct ShardView {
    config: CatalogueConfig,
    searched: Mutex<SearchView>,
    /// How often the view was built: what was begun for an earlier catalogue is not for this one. Changed under the view's lock.
    builds: AtomicU64,
    moment: watch::Sender<SearchMoment>,
    verdict_waiters: Mutex<HashMap<EnrolmentKey, Vec<oneshot::Sender<()>>>>,
    calibrations: Mutex<HashMap<(GalleryId, Slot), Calibration>>,
}

impl ShardView {
    pub(crate) fn new(config: CatalogueConfig) -> Arc<Self> {
        let mut searched = SearchView::new(config.clone());
        let moment = watch::Sender::new(searched.moment());
        Arc::new(Self {
            config,
            searched: Mutex::new(searched),
            builds: AtomicU64::new(0),
            moment,
            verdict_waiters: Mutex::default(),
            calibrations: Mutex::default(),
        })
    }

    /// The latest moment.
    pub(crate) fn moment(&self) -> SearchMoment {
        self.moment.borrow().clone()
    }

    /// Tells of every later moment.
    pub(crate) fn moments(&self) -> watch::Receiver<SearchMoment> {
        self.moment.subscribe()
    }

    /// Waits until everything up to `index` can be found.
    pub(crate) async fn reached(&self, index: LogIndex) -> SearchMoment {
        let mut moments = self.moment.subscribe();
        let moment = moments.wait_for(|moment| moment.searchable_index() >= index).await;
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
    pub(crate) fn searched_under(&self, gallery: &GalleryId, reference: &ProbeReference) {
        let ProbeReference { slot, threshold, miss_budget_ppb, .. } = *reference;
        let mut calibrations = lock(&self.calibrations);
        let calibration = calibrations
            .entry((gallery.clone(), slot))
            .or_insert_with(|| Calibration { thresholds: Vec::new(), miss_budget_ppb });
        if extend(calibration, threshold, miss_budget_ppb) {
            // Both locks are held, so that no earlier calibration overtakes this one on its way to the catalogue.
            lock(&self.searched).catalogue().set_calibration(gallery, slot, calibration.clone());
        }
    }

    /// Segments that have grown enough to be sealed, each a job for another thread, and which build of the view they are of.
    pub(crate) fn seal_jobs(&self) -> (u64, Vec<SealJob>) {
        let mut searched = lock(&self.searched);
        (self.builds.load(Ordering::Relaxed), searched.catalogue().seal_jobs())
    }

    /// Swaps a sealed segment in, unless the view was built anew since its job was given out.
    pub(crate) fn sealed(&self, build: u64, sealed: Sealed) {
        let mut searched = lock(&self.searched);
        if build != self.builds.load(Ordering::Relaxed) {
            return;
        }
        searched.catalogue().sealed(sealed);
        self.moment.send_replace(searched.moment());
    }

    fn take_in(&self, applied: LogIndex, publications: Vec<(LogIndex, Vec<Publication>)>) {
        let mut searched = lock(&self.searched);
        let changed = searched.take_in(applied, publications);
        // Under the view's lock, so that no later moment is replaced by this one.
        self.moment.send_replace(searched.moment());
        drop(searched);
        if !changed.is_empty() {
            let mut waiters = lock(&self.verdict_waiters);
            for sender in changed.iter().filter_map(|key| waiters.remove(key)).flatten() {
                // A waiter that has gone needs no news.
                let _ = sender.send(());
            }
        }
    }
}

/// Makes a calibration serve searches under this threshold and miss budget too; whether it changed.
///
/// It only ever gets stricter: cuts that keep the smaller of two budgets keep both, so two policy versions in flight settle on one
/// calibration rather than have each other's undone. The price is that after a policy was loosened, segments propose a little more
/// than they need to until the view is built again.
fn extend(calibration: &mut Calibration, threshold: ComparisonScore, miss_budget_ppb: u32) -> bool {
    let stricter = miss_budget_ppb < calibration.miss_budget_ppb;
    if stricter {
        calibration.miss_budget_ppb = miss_budget_ppb;
    }
    let new = !calibration.thresholds.contains(&threshold);
    if new {
        if calibration.thresholds.len() == THRESHOLDS_MAX {
            calibration.thresholds.remove(0);
        }
        calibration.thresholds.push(threshold);
    }
    stricter || new
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
        let calibrations = lock(&self.view.calibrations);
        let mut searched = lock(&self.view.searched);
        // Before the first start there is nothing to forget; after rows were exchanged, the old catalogue makes room for the new one.
        *searched = SearchView::new(self.view.config.clone());
        self.view.builds.fetch_add(1, Ordering::Relaxed);
        for ((gallery, slot), calibration) in calibrations.iter() {
            searched.catalogue().set_calibration(gallery, *slot, calibration.clone());
        }
        drop(calibrations);
        self.view.moment.send_replace(searched.moment());
        searched.restore(applied, store)?;
        self.view.moment.send_replace(searched.moment());
        Ok(())
    }

    fn publish(&mut self, applied: LogIndex, publications: Vec<(LogIndex, Vec<Publication>)>) {
        self.view.take_in(applied, publications);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(micros: i32) -> ComparisonScore {
        ComparisonScore::from_micros(micros).expect("in range")
    }

    /// Searches under two versions of a policy once had every segment calibrated again at each turn.
    #[test]
    fn two_policy_versions_in_flight_settle_on_one_calibration() {
        for (old, new) in [((400_000, 30_000), (400_000, 1_000)), ((400_000, 1_000), (450_000, 30_000))] {
            let mut calibration = Calibration { thresholds: Vec::new(), miss_budget_ppb: old.1 };
            let mut changes = 0;
            for (threshold, budget) in [old, new].into_iter().cycle().take(20) {
                changes += usize::from(extend(&mut calibration, score(threshold), budget));
            }
            assert_eq!(changes, 2, "once for each version");
            assert_eq!(calibration.miss_budget_ppb, 1_000);
        }
    }

    #[test]
    fn the_newest_thresholds_are_calibrated_for() {
        let mut calibration = Calibration::default();
        let versions = 0..THRESHOLDS_MAX as i32 + 3;
        for threshold in versions.clone() {
            assert!(extend(&mut calibration, score(threshold), 30_000));
        }
        assert_eq!(calibration.thresholds, versions.skip(3).map(score).collect::<Vec<_>>());
    }

    #[test]
    fn a_slots_first_search_sets_its_budget_and_later_ones_only_tighten_it() {
        let view = ShardView::new(CatalogueConfig::default());
        let gallery = GalleryId::try_from("people").expect("valid");
        let slot = Slot::from_codes(1, 1).expect("exists");
        let template = semel_index::CanonicalEmbedding::from_f32(&[1.0, 2.0]).expect("valid");
        let mut reference = ProbeReference {
            slot,
            spec: semel_index::TemplateSpec::Embedding { dimension: 2 },
            template: semel_index::Template::Embedding(template),
            threshold: score(400_000),
            miss_budget_ppb: 1_000_000,
        };
        for (asked, kept) in [(1_000_000, 1_000_000), (5_000, 5_000), (1_000_000, 5_000)] {
            reference.miss_budget_ppb = asked;
            view.searched_under(&gallery, &reference);
            let calibrations = lock(&view.calibrations);
            let expected = Calibration { thresholds: vec![score(400_000)], miss_budget_ppb: kept };
            assert_eq!(calibrations.get(&(gallery.clone(), slot)), Some(&expected));
        }
    }
}
