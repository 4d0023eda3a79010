//! What a node derives from one shard's rows, shared between its threads: one takes publications in, others search moments and
//! wait for verdicts. What is derived, and how it is searched, is [`SearchView`]'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semel_index::{
    Calibration, CatalogueConfig, Compacted, CompactionJob, ComparisonScore, Engine, EnrolmentId, GalleryId,
    PolicyVersion, ProbeReference, SealJob, Sealed, Slot, StoreJob, StoreTicket, StoredId, Templates,
};
use semel_node_wire::PolicyEngine;
use semel_raft::{LogIndex, StoreError};
use semel_raft_host::{GroupStore, Publisher};
use semel_shard::{Publication, SearchMoment, SearchView, ShardMachine};
use tokio::sync::{oneshot, watch};

/// Readers that may wait for verdicts of one shard.
const VERDICT_WAITERS_MAX: usize = 16_384;

/// Thresholds that the segments of one slot are calibrated for, the newest; older policy versions that are still searched under may be
/// searched exactly.
const THRESHOLDS_MAX: usize = 8;

/// Log entries that a loaded view may be behind when it takes the place of none: they are read while the group waits.
const BEHIND_MAX: u64 = 64;

type EnrolmentKey = (GalleryId, EnrolmentId);

/// The view of one shard. Truth is in the rows; all of this can be thrown away and built again.
pub(crate) struct ShardView {
    /// `None` while it is being loaded.
    searched: Mutex<Option<SearchView>>,
    /// `None` while there is nothing to search.
    moment: watch::Sender<Option<SearchMoment>>,
    /// A view without references, told of while there is nothing to search.
    nothing: SearchMoment,
    /// The rows have applied entries up to here.
    applied: watch::Sender<LogIndex>,
    /// The newest wish to have the view loaded from rows.
    load_requests: watch::Sender<Option<LoadRequest>>,
    /// Why the newest wish was not fulfilled.
    load_failure: Mutex<Option<String>>,
    verdict_waiters: Mutex<HashMap<EnrolmentKey, Vec<oneshot::Sender<()>>>>,
    calibrations: Mutex<HashMap<(GalleryId, Slot), Calibration>>,
    /// The engines that policies name, the newest version of each; no more than there are galleries.
    engines: Mutex<HashMap<GalleryId, GalleryEngine>>,
    config: CatalogueConfig,
}

/// What builds a gallery's segments.
#[derive(Debug, Clone)]
struct GalleryEngine {
    policy: PolicyEngine,
    /// The one that the policy names or, where this node does not have that, the one of its settings.
    engine: Arc<dyn Engine>,
    is_missing: bool,
}

/// A wish to have a view loaded from rows.
#[derive(Debug, Clone)]
pub(crate) struct LoadRequest {
    pub(crate) store: GroupStore,
    number: u64,
}

/// What became of a loaded view.
pub(crate) enum Installed {
    /// It is the one that is searched.
    Yes,
    /// Rows were applied meanwhile that it does not have: it is given back.
    Behind(Box<SearchView>),
    /// A newer wish has come.
    Outdated,
}

impl ShardView {
    /// A view that has nothing until it is loaded.
    pub(crate) fn new(config: CatalogueConfig) -> Arc<Self> {
        Arc::new(Self {
            searched: Mutex::new(None),
            moment: watch::Sender::new(None),
            nothing: SearchView::new(config.clone()).moment(),
            applied: watch::Sender::new(LogIndex(0)),
            load_requests: watch::Sender::new(None),
            load_failure: Mutex::default(),
            verdict_waiters: Mutex::default(),
            calibrations: Mutex::default(),
            engines: Mutex::default(),
            config,
        })
    }

    /// A view without enrolments that can be searched at once.
    pub(crate) fn empty(config: CatalogueConfig) -> Arc<Self> {
        let view = Self::new(config.clone());
        let mut searched = SearchView::new(config);
        view.moment.send_replace(Some(searched.moment()));
        *lock(&view.searched) = Some(searched);
        view
    }

    /// The latest moment; an empty one while the view is being loaded.
    pub(crate) fn moment(&self) -> SearchMoment {
        self.moment.borrow().clone().unwrap_or_else(|| self.nothing.clone())
    }

    /// Whether the view can be searched.
    pub(crate) fn is_loaded(&self) -> bool {
        self.moment.borrow().is_some()
    }

    /// Why the view could not be loaded, if it could not.
    pub(crate) fn load_failure(&self) -> Option<String> {
        lock(&self.load_failure).clone()
    }

    /// Tells of every later moment.
    pub(crate) fn moments(&self) -> watch::Receiver<Option<SearchMoment>> {
        self.moment.subscribe()
    }

    /// Tells of wishes to have the view loaded.
    pub(crate) fn load_requests(&self) -> watch::Receiver<Option<LoadRequest>> {
        self.load_requests.subscribe()
    }

    /// Has the view loaded from the rows of `store`, which have applied `applied`. Until it is, it cannot be searched.
    pub(crate) fn load_from(&self, applied: LogIndex, store: &GroupStore) {
        // Under the view's lock, so that no view loaded before takes its place afterwards.
        let mut searched = lock(&self.searched);
        *searched = None;
        self.moment.send_replace(None);
        self.applied.send_replace(applied);
        *lock(&self.load_failure) = None;
        self.load_requests.send_modify(|request| {
            let number = request.as_ref().map_or(0, |request| request.number) + 1;
            *request = Some(LoadRequest { store: store.clone(), number });
        });
    }

    /// Has the view loaded again: its templates cannot be read where they are.
    pub(crate) fn load_again(&self) {
        let mut searched = lock(&self.searched);
        if searched.take().is_some() {
            self.moment.send_replace(None);
            self.load_requests.send_modify(|request| {
                if let Some(request) = request {
                    request.number += 1;
                }
            });
        }
    }

    /// Puts a loaded view in its place, once it has what was applied meanwhile.
    pub(crate) fn install(&self, request: &LoadRequest, mut loaded: SearchView) -> Result<Installed, StoreError> {
        let mut searched = lock(&self.searched);
        if self.is_outdated(request) {
            return Ok(Installed::Outdated);
        }
        let behind = self.applied.borrow().0.saturating_sub(loaded.catalogue().searchable_index());
        if behind > BEHIND_MAX {
            return Ok(Installed::Behind(Box::new(loaded)));
        }
        if behind > 0 {
            // Publications wait for the lock meanwhile; those that the rows had already change nothing afterwards.
            crate::loading::catch_up(&mut loaded, &request.store)?;
        }
        for ((gallery, slot), calibration) in lock(&self.calibrations).iter() {
            loaded.catalogue().set_calibration(gallery, *slot, calibration.clone());
        }
        for (gallery, known) in lock(&self.engines).iter() {
            loaded.catalogue().set_engine(gallery, Arc::clone(&known.engine));
        }
        // It was loaded with the engine of the settings, which may need more references than those of policies.
        loaded.catalogue().close_growing(self.config.seal_at_references);
        self.moment.send_replace(Some(loaded.moment()));
        *searched = Some(loaded);
        *lock(&self.load_failure) = None;
        Ok(Installed::Yes)
    }

    /// Notes why a view was not loaded.
    pub(crate) fn loading_failed(&self, request: &LoadRequest, reason: String) {
        let _searched = lock(&self.searched);
        if !self.is_outdated(request) {
            *lock(&self.load_failure) = Some(reason);
        }
    }

    fn is_outdated(&self, request: &LoadRequest) -> bool {
        self.load_requests.borrow().as_ref().is_none_or(|newest| newest.number != request.number)
    }

    /// Waits until everything up to `index` can be found.
    pub(crate) async fn reached(&self, index: LogIndex) -> SearchMoment {
        let mut moments = self.moment.subscribe();
        let has_reached =
            |moment: &Option<SearchMoment>| moment.as_ref().is_some_and(|moment| moment.searchable_index() >= index);
        let moment = moments.wait_for(has_reached).await;
        moment.expect("the sender lives as long as the view").clone().expect("waited for")
    }

    /// Waits until everything up to `index` can be read from the rows.
    pub(crate) async fn applied(&self, index: LogIndex) {
        let mut applied = self.applied.subscribe();
        let applied = applied.wait_for(|applied| *applied >= index).await;
        applied.expect("the sender lives as long as the view");
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
        // Compared with every row: there is nothing to calibrate.
        if miss_budget_ppb == 0 {
            return;
        }
        let key = (gallery.clone(), slot);
        let fresh = || Calibration { thresholds: Vec::new(), miss_budget_ppb };
        {
            let known = lock(&self.calibrations).get(&key).cloned();
            if known.is_some_and(|mut known| !extend(&mut known, threshold, miss_budget_ppb)) {
                return;
            }
        }
        // The view's lock is taken first wherever both are held, so that no earlier calibration overtakes this one on its way
        // to the catalogue.
        let mut searched = lock(&self.searched);
        let mut calibrations = lock(&self.calibrations);
        let calibration = calibrations.entry(key).or_insert_with(fresh);
        if extend(calibration, threshold, miss_budget_ppb)
            && let Some(searched) = searched.as_mut()
        {
            searched.catalogue().set_calibration(gallery, slot, calibration.clone());
        }
    }

    /// Learns which engine a gallery's policy names, so that its segments are built with it. Until they are, they answer as they did. Says
    /// whether another engine was in force.
    pub(crate) fn governed_by(&self, gallery: &GalleryId, policy: &PolicyEngine) -> bool {
        // An older version may still be searched under; version 0 is of a coordinator that knows of no engines.
        let is_news = |known: Option<&GalleryEngine>| {
            policy.version > known.map_or(PolicyVersion(0), |known| known.policy.version)
        };
        if !is_news(lock(&self.engines).get(gallery)) {
            return false;
        }
        // As in `searched_under`.
        let mut searched = lock(&self.searched);
        let mut engines = lock(&self.engines);
        if !is_news(engines.get(gallery)) {
            return false;
        }
        if let Some(known) = engines.get_mut(gallery).filter(|known| known.policy.engine == policy.engine) {
            known.policy.version = policy.version;
            return false;
        }
        let named = Some(&policy.engine).filter(|name| !name.is_empty());
        let found = named.and_then(|name| self.config.engines.engine(name));
        let is_missing = named.is_some() && found.is_none();
        let engine = found.unwrap_or_else(|| Arc::clone(&self.config.engine));
        let before = engines.get(gallery).map(|known| known.engine.name().to_owned());
        if let Some(searched) = searched.as_mut() {
            searched.catalogue().set_engine(gallery, Arc::clone(&engine));
            if before.as_deref().unwrap_or(self.config.engine.name()) != engine.name() {
                // What grew long because the one before needs more references: nobody may be enrolled for long.
                searched.catalogue().close_growing(self.config.seal_at_references);
            }
            // Whoever seals looks again.
            self.moment.send_replace(Some(searched.moment()));
        }
        let is_another = before.is_some_and(|before| before != engine.name());
        engines.insert(gallery.clone(), GalleryEngine { policy: policy.clone(), engine, is_missing });
        is_another
    }

    /// The newest version of a gallery's policy whose engine is known; 0 before there is one.
    pub(crate) fn engine_version(&self, gallery: &GalleryId) -> PolicyVersion {
        lock(&self.engines).get(gallery).map_or(PolicyVersion(0), |known| known.policy.version)
    }

    /// What builds the segments of a gallery, by its policy; `None` until that is known, and what is sealed stays as it is.
    pub(crate) fn engine_in_force(&self, gallery: &GalleryId) -> Option<Arc<dyn Engine>> {
        lock(&self.engines).get(gallery).map(|known| Arc::clone(&known.engine))
    }

    /// What new segments of a gallery are built with: by its policy, or by the node's settings until that is known.
    pub(crate) fn engine_or_own(&self, gallery: &GalleryId) -> Arc<dyn Engine> {
        self.engine_in_force(gallery).unwrap_or_else(|| Arc::clone(&self.config.engine))
    }

    /// References that close a segment, unless its engine needs more.
    pub(crate) fn seal_at_references(&self) -> usize {
        self.config.seal_at_references
    }

    /// The engine that the gallery's policy names, if this node does not have it.
    pub(crate) fn engine_missing(&self, gallery: &GalleryId) -> Option<String> {
        let engines = lock(&self.engines);
        engines.get(gallery).filter(|known| known.is_missing).map(|known| known.policy.engine.clone())
    }

    /// Segments that have grown enough to be sealed, each a job for another thread.
    pub(crate) fn seal_jobs(&self) -> Vec<SealJob> {
        lock(&self.searched).as_mut().map_or_else(Vec::new, |searched| searched.catalogue().seal_jobs())
    }

    /// Has what has ceased to grow sealed, where it has at least so many references.
    pub(crate) fn close_growing(&self, references_min: usize) {
        if let Some(searched) = lock(&self.searched).as_mut() {
            searched.catalogue().close_growing(references_min);
        }
    }

    /// Swaps a sealed segment in.
    pub(crate) fn sealed(&self, sealed: Sealed) {
        self.change(|searched| searched.catalogue().sealed(sealed));
    }

    /// Whether segments wait to be sealed.
    pub(crate) fn is_seal_due(&self) -> bool {
        lock(&self.searched).as_mut().is_some_and(|searched| searched.catalogue().is_seal_due())
    }

    /// Segments that are worth compacting, a job for another thread.
    pub(crate) fn compaction_job(&self) -> Option<CompactionJob> {
        lock(&self.searched).as_mut()?.catalogue().compaction_job()
    }

    /// Puts what is left of compacted segments, and where it is kept, in their place; whether they were still there.
    pub(crate) fn compacted(&self, compacted: Compacted, kept: Option<(StoredId, Option<Templates>)>) -> bool {
        self.change(|searched| searched.catalogue().compacted(compacted, kept)).unwrap_or(false)
    }

    /// A sealed segment that is not kept in a file as it is.
    pub(crate) fn store_job(&self, shard: u32) -> Option<StoreJob> {
        lock(&self.searched).as_mut()?.catalogue().store_job(shard)
    }

    /// Notes which file a segment is kept in; whether it is still the one.
    pub(crate) fn stored(&self, ticket: &StoreTicket, id: StoredId, templates: Option<Templates>) -> bool {
        self.change(|searched| searched.catalogue().stored(ticket, id, templates)).unwrap_or(false)
    }

    /// Notes that a segment could not be written.
    pub(crate) fn not_stored(&self, ticket: &StoreTicket) {
        if let Some(searched) = lock(&self.searched).as_mut() {
            searched.catalogue().not_stored(ticket);
        }
    }

    /// Changes the view, unless it is being loaded, and shows the moment after it.
    fn change<T>(&self, change: impl FnOnce(&mut SearchView) -> T) -> Option<T> {
        // Under the view's lock, so that no later moment is replaced by this one.
        let mut searched = lock(&self.searched);
        let searched = searched.as_mut()?;
        let changed = change(searched);
        self.moment.send_replace(Some(searched.moment()));
        Some(changed)
    }

    fn take_in(&self, applied: LogIndex, publications: Vec<(LogIndex, Vec<Publication>)>) {
        let changed = {
            let mut searched = lock(&self.searched);
            self.applied.send_replace(applied);
            match searched.as_mut() {
                Some(searched) => {
                    let changed = searched.take_in(applied, publications);
                    self.moment.send_replace(Some(searched.moment()));
                    changed
                }
                // Whoever loads it reads them from the rows.
                None => publications.into_iter().flat_map(|(_, some)| some).filter_map(changed).collect(),
            }
        };
        if !changed.is_empty() {
            let mut waiters = lock(&self.verdict_waiters);
            for sender in changed.iter().filter_map(|key| waiters.remove(key)).flatten() {
                // A waiter that has gone needs no news.
                let _ = sender.send(());
            }
        }
    }
}

/// The enrolment whose state changed after its stage, if one did.
fn changed(publication: Publication) -> Option<EnrolmentKey> {
    match publication {
        Publication::Staged { .. } => None,
        Publication::Withdrawn { gallery, enrolment_id, .. } | Publication::Changed { gallery, enrolment_id } => {
            Some((gallery, enrolment_id))
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
    /// Begins to load the view; the replica takes part in everything but searches meanwhile.
    fn restore(&mut self, applied: LogIndex, store: &GroupStore) -> Result<(), StoreError> {
        self.view.load_from(applied, store);
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
    fn the_newest_policy_names_the_engine_and_a_missing_one_falls_back() {
        let config = CatalogueConfig { engine: Arc::new(semel_index::SketchEngine), ..CatalogueConfig::default() };
        let view = ShardView::new(config);
        let gallery = GalleryId::try_from("people").expect("valid");
        let check = |version, name: &str, used: &str, missing: Option<&str>| {
            view.governed_by(&gallery, &PolicyEngine { version: PolicyVersion(version), engine: name.to_owned() });
            let engine = lock(&view.engines).get(&gallery).map(|known| known.engine.name().to_owned());
            assert_eq!(engine.as_deref().unwrap_or_default(), used, "version {version}: {name}");
            assert_eq!(view.engine_missing(&gallery).as_deref(), missing);
        };
        // From a coordinator that knows of no engines.
        check(0, "", "", None);
        check(2, "exact", "exact", None);
        check(0, "", "exact", None);
        check(1, "sketch", "exact", None);
        check(4, "exact", "exact", None);
        check(3, "sketch", "exact", None);
        check(5, "magic", "sketch", Some("magic"));
        check(6, "", "sketch", None);
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
        for (asked, kept) in [(1_000_000, 1_000_000), (5_000, 5_000), (0, 5_000), (1_000_000, 5_000)] {
            reference.miss_budget_ppb = asked;
            view.searched_under(&gallery, &reference);
            let calibrations = lock(&view.calibrations);
            let expected = Calibration { thresholds: vec![score(400_000)], miss_budget_ppb: kept };
            assert_eq!(calibrations.get(&(gallery.clone(), slot)), Some(&expected));
        }
    }
}
