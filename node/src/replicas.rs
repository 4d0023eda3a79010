//! The replicas that this node hosts: opened as the coordinators assign them, each with its view.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, bail};
use semel_index::{CatalogueConfig, GalleryId, ShardCount, ShardId};
use semel_node_wire::PolicyEngine;
use semel_proto::internal::v1::{Assignment, ReportResponse, RetiredReplica};
use semel_raft::{ReplicaId, StoreError};
use semel_raft_host::{
    Database, Directory, FreshGroup, GroupConfig, GroupStatus, GroupStore, GrpcTransport, HostHandle,
};
use semel_shard::ShardMachine;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::loading::load_when_asked;
use crate::sealing::{CompactionMetrics, Places, Sealer};
use crate::search::ShardScans;
use crate::segment_cache::{CacheMetrics, SegmentCache};
use crate::shard_view::{ShardView, ViewPublisher};

/// Committed entries that a replica of a node that is ready may still have to take in.
const READY_LAG_MAX: u64 = 1_024;

/// One shard that this node hosts a replica of.
pub(crate) struct HostedShard {
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    epoch: AtomicU64,
    pub(crate) view: Arc<ShardView>,
    pub(crate) store: GroupStore,
    pub(crate) scans: ShardScans,
    _workers: Workers,
}

/// What loads, seals and compacts the catalogue of one replica, for as long as it is hosted.
struct Workers(Vec<AbortHandle>);

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl HostedShard {
    /// How often the shard was placed, as far as this node was told.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The shard's group in the host.
    pub(crate) fn group(&self) -> u64 {
        u64::from(self.shard.0)
    }
}

/// Has segments of a gallery built with the engine that its policy names, and says so where another one was in force.
pub(crate) fn govern(shards: &[Arc<HostedShard>], gallery: &GalleryId, policy: &PolicyEngine) {
    let changed: Vec<_> = shards.iter().filter(|shard| shard.view.governed_by(gallery, policy)).collect();
    if let Some(one) = changed.first() {
        let engine = one.view.engine_or_own(gallery);
        let (gallery, version, engine, shards) = (gallery.as_str(), policy.version.0, engine.name(), changed.len());
        tracing::info!(gallery, version, engine, shards, "segments are built again with the engine of their policy");
    }
}

/// All replicas of this node.
pub(crate) struct Replicas {
    database: Arc<Database>,
    host: HostHandle<ShardMachine>,
    transport: GrpcTransport,
    catalogue: CatalogueConfig,
    cache: SegmentCache,
    /// How many catalogues are loaded at once.
    loading: Arc<Semaphore>,
    places: Places,
    hosted: RwLock<BTreeMap<u32, Arc<HostedShard>>>,
    /// Replicas that should be open and are not.
    unopened: AtomicUsize,
    /// One assignment at a time: a second opener of a shard would install a view that no publisher feeds.
    assigning: tokio::sync::Mutex<()>,
    /// The latest metadata index that an answer of a coordinator was read at.
    metadata_index: AtomicU64,
    directory: std::sync::Mutex<Directory>,
    /// The shards that the node should host; `None` until it is told.
    assigned: std::sync::Mutex<Option<BTreeSet<u32>>>,
    /// What loads, seals and compacts in the background.
    workers: std::sync::Mutex<JoinSet<()>>,
}

impl Replicas {
    /// `threads` bounds how many catalogues are loaded, and how many segments sealed or compacted, at once.
    pub(crate) fn new(
        database: Arc<Database>,
        host: HostHandle<ShardMachine>,
        transport: GrpcTransport,
        catalogue: CatalogueConfig,
        cache: SegmentCache,
        threads: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            host,
            transport,
            catalogue,
            cache,
            loading: Arc::new(Semaphore::new(threads)),
            places: Places::new(threads),
            hosted: RwLock::default(),
            unopened: AtomicUsize::new(0),
            assigning: tokio::sync::Mutex::default(),
            metadata_index: AtomicU64::new(0),
            directory: std::sync::Mutex::default(),
            assigned: std::sync::Mutex::default(),
            workers: std::sync::Mutex::default(),
        })
    }

    /// Whether an answer read at this metadata index is as new as the newest so far: a coordinator that was cut off says what was.
    pub(crate) fn is_news(&self, metadata_index: u64) -> bool {
        self.metadata_index.fetch_max(metadata_index, Ordering::Relaxed) <= metadata_index
    }

    /// The host that runs the groups.
    pub(crate) fn host(&self) -> &HostHandle<ShardMachine> {
        &self.host
    }

    /// The replica of a shard, if this node hosts one and it is open.
    pub(crate) fn get(&self, shard: u32) -> Option<Arc<HostedShard>> {
        self.hosted.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    /// Every open replica, by shard.
    pub(crate) fn all(&self) -> Vec<Arc<HostedShard>> {
        self.hosted.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Opens what is assigned and not open yet. A replica that cannot be opened does not hold up the others; the first
    /// such error is returned, and the next call tries again. Replicas among `held` were open on this volume before: if their rows are
    /// gone they are refused, because what they voted for and acknowledged is gone too. Replicas that are retired end, and their rows go.
    pub(crate) async fn assign(&self, assigned: &ReportResponse, held: &BTreeSet<u64>) -> anyhow::Result<()> {
        let Some(shards) = ShardCount::new(assigned.shards_count) else { return Ok(()) };
        let _assigning = self.assigning.lock().await;
        self.learn_addresses(&assigned.assignments);
        let is_open = |one: &&Assignment| self.get(one.shard).is_some_and(|hosted| hosted.replica.get() == one.replica);
        self.expect(assigned.assignments.len() - assigned.assignments.iter().filter(is_open).count());
        let shards_assigned = assigned.assignments.iter().map(|assignment| assignment.shard).collect();
        *self.assigned.lock().unwrap_or_else(PoisonError::into_inner) = Some(shards_assigned);
        let mut failed = Ok(());
        for retired in &assigned.retired {
            let removed = self.remove(retired).await;
            if let Err(error) = removed.with_context(|| format!("remove the replica of shard {}", retired.shard)) {
                tracing::error!(shard = retired.shard, error = format!("{error:#}"), "replica not removed");
                failed = failed.and(Err(error));
            }
        }
        for assignment in &assigned.assignments {
            if let Some(hosted) = self.get(assignment.shard).filter(|hosted| hosted.replica.get() == assignment.replica)
            {
                hosted.epoch.fetch_max(assignment.epoch, Ordering::Relaxed);
                continue;
            }
            let opened = self.open(assignment, shards, held.contains(&assignment.replica)).await;
            if let Err(error) = opened.with_context(|| format!("open the replica of shard {}", assignment.shard)) {
                tracing::error!(shard = assignment.shard, error = format!("{error:#}"), "replica not opened");
                failed = failed.and(Err(error));
            } else {
                self.unopened.fetch_sub(1, Ordering::Relaxed);
            }
        }
        failed
    }

    /// How many replicas are to be opened; the node is not ready before they are.
    pub(crate) fn expect(&self, unopened: usize) {
        self.unopened.store(unopened, Ordering::Relaxed);
    }

    fn learn_addresses(&self, assignments: &[Assignment]) {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let before: HashMap<_, _> = directory.clone();
        for peer in assignments.iter().flat_map(|assignment| assignment.voters.iter().chain(&assignment.joining)) {
            if let Some(replica) = ReplicaId::new(peer.replica)
                && !peer.address.is_empty()
            {
                directory.insert(replica, peer.address.clone());
            }
        }
        if *directory != before {
            self.transport.set_directory(directory.clone());
        }
    }

    /// Whether every replica that should be here runs and can be searched.
    pub(crate) fn are_ready(&self) -> bool {
        let ready = |shard: &Arc<HostedShard>| {
            let status = self.host.status(shard.group());
            let runs = status.is_some_and(|status| status.borrow().running().is_some());
            runs && shard.view.is_loaded()
        };
        self.unopened.load(Ordering::Relaxed) == 0 && self.all().iter().all(ready)
    }

    /// What became of the files of this node's catalogues.
    pub(crate) fn cache_metrics(&self) -> &Arc<CacheMetrics> {
        self.cache.metrics()
    }

    /// What became of compactions.
    pub(crate) fn compaction_metrics(&self) -> &CompactionMetrics {
        self.places.compactions()
    }

    /// Whether every replica that the node should host is open, runs, knows a leader and is caught up with what it knows to be committed.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let assigned = assigned.ok_or("no coordinator has told it yet what to host")?;
        for shard in assigned {
            let replica = self.get(shard).ok_or_else(|| format!("shard {shard} is not open"))?;
            let status = self.host.status(replica.group()).map(|status| status.borrow().clone());
            let status = status.as_ref().and_then(GroupStatus::running);
            let status = status.ok_or_else(|| format!("the replica of shard {shard} has stopped"))?;
            if status.leader.is_none() {
                return Err(format!("shard {shard} has no leader"));
            }
            if !replica.view.is_loaded() {
                return Err(format!("the catalogue of shard {shard} is being loaded"));
            }
            let behind = status.commit.0.saturating_sub(replica.view.moment().searchable_index().0);
            if behind > READY_LAG_MAX {
                return Err(format!("shard {shard} is {behind} entries behind"));
            }
        }
        Ok(())
    }

    async fn open(&self, assignment: &Assignment, shards: ShardCount, held: bool) -> anyhow::Result<()> {
        let replica = ReplicaId::new(assignment.replica).context("replica id 0")?;
        let voters = assignment.voters.iter().map(|peer| ReplicaId::new(peer.replica).context("replica id 0"));
        let voters = voters.collect::<anyhow::Result<Vec<_>>>()?;
        let shard = ShardId(assignment.shard);
        let group = u64::from(assignment.shard);
        if let Some(held) = self.database.replica_of(group)?
            && held != replica
        {
            bail!(
                "the volume holds replica {held} of the shard, the map says {replica}; the former is to be removed first"
            );
        }
        let view = ShardView::new(self.catalogue.clone());
        let fresh = match (held, assignment.founder) {
            (true, _) => FreshGroup::Refuse,
            (false, true) => FreshGroup::Bootstrap { voters },
            (false, false) => FreshGroup::Join,
        };
        let config = GroupConfig { group, replica, fresh };
        let machine = ShardMachine::new(shard, shards).context("a shard that the cluster does not have")?;
        self.host.add_group(config, machine, Box::new(ViewPublisher { view: Arc::clone(&view) })).await?;
        let store = self.database.group(group);
        let (files, config) = (self.cache.shard(assignment.shard), self.catalogue.clone());
        let loading = load_when_asked(Arc::clone(&view), files.clone(), config.clone(), Arc::clone(&self.loading));
        let places = self.places.clone();
        let sealer = Sealer { view: Arc::clone(&view), files, store: store.clone(), config, places };
        let workers = {
            let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            Workers(vec![workers.spawn(loading), workers.spawn(sealer.run())])
        };
        let epoch = AtomicU64::new(assignment.epoch);
        let scans = ShardScans::default();
        let hosted = HostedShard { shard, replica, epoch, view, store, scans, _workers: workers };
        self.hosted.write().unwrap_or_else(PoisonError::into_inner).insert(assignment.shard, Arc::new(hosted));
        tracing::info!(shard = assignment.shard, replica = replica.get(), "replica open");
        Ok(())
    }
}

impl Replicas {
    /// Ends a replica that its shard does without, and removes its rows.
    async fn remove(&self, retired: &RetiredReplica) -> anyhow::Result<()> {
        let replica = ReplicaId::new(retired.replica).context("replica id 0")?;
        {
            let mut hosted = self.hosted.write().unwrap_or_else(PoisonError::into_inner);
            if hosted.get(&retired.shard).is_some_and(|hosted| hosted.replica == replica) {
                hosted.remove(&retired.shard);
            }
        }
        self.host.remove_group(u64::from(retired.shard), replica).await?;
        if self.get(retired.shard).is_none() {
            self.cache.forget(retired.shard);
        }
        tracing::info!(shard = retired.shard, replica = replica.get(), "replica removed: its shard does without it");
        Ok(())
    }

    /// Replicas whose rows are on the volume and that are not open: not assigned, or not to be opened.
    pub(crate) fn closed(&self) -> Result<Vec<(u32, ReplicaId)>, StoreError> {
        let held = self.database.groups()?.into_iter();
        let held = held.filter_map(|(group, replica)| Some((u32::try_from(group).ok()?, replica)));
        Ok(held.filter(|(shard, replica)| self.get(*shard).is_none_or(|hosted| hosted.replica != *replica)).collect())
    }
}
