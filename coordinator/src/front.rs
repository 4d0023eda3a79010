//! What every public service of a coordinator needs: metadata, nodes, keys, and bounds on the work taken in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use semel_index::{GalleryId, KeyVersion, PolicyVersion, Priority, ShardCount};
use semel_raft_host::{Place, Places};
use semel_workflow::{ContentDigestKey, GalleryRecord, MetadataView, Rotations, VersionedPolicy};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::introductions::Introductions;
use crate::metadata::Metadata;
use crate::metrics::CoordinatorMetrics;
use crate::nodes::Nodes;
use crate::obligations::ObligationInbox;
use crate::status::ClientError;
use crate::sweep::EnrolmentSweep;

/// How long calls in work may go on once the coordinator stops. What then has no answer is told to come back, in time before the
/// connections are cut.
const STOPPING_WITHIN: Duration = semel_raft_host::server::DRAIN_WITHIN.saturating_sub(Duration::from_millis(800));
/// How long a call waits for the coordinators' group: an election is over by then, and a coordinator that is cut off from the others
/// sends its clients to them.
const METADATA_WITHIN: Duration = Duration::from_secs(4);

/// Why a coordinator whose replica does not vote has nothing to tell.
pub(crate) const NOT_A_VOTER: &str =
    "this coordinator is being brought up to date, or the others do without it; ask another";

/// What a gallery's key gives: the rotations of its embeddings, and the key of its content digests.
pub(crate) struct GalleryKeys {
    pub(crate) rotations: Rotations,
    pub(crate) digest: ContentDigestKey,
}

/// A gallery as it is in force, from one view.
pub(crate) struct CurrentGallery {
    pub(crate) record: GalleryRecord,
    pub(crate) policy: Arc<VersionedPolicy>,
    view: Arc<MetadataView>,
}

type KeyCell = Arc<OnceCell<Arc<GalleryKeys>>>;

/// One coordinator's front.
pub(crate) struct Front {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) introductions: Arc<Introductions>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) sweep: EnrolmentSweep,
    pub(crate) obligations: ObligationInbox,
    stopping: watch::Receiver<Option<Instant>>,
    pub(crate) metrics: CoordinatorMetrics,
    places: Places,
    keys: Mutex<HashMap<(GalleryId, KeyVersion), KeyCell>>,
}

impl Front {
    pub(crate) fn new(
        metadata: Arc<Metadata>,
        introductions: Arc<Introductions>,
        nodes: Arc<Nodes>,
        obligations: ObligationInbox,
        enrolments_max: usize,
        stopping: watch::Receiver<Option<Instant>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metadata,
            introductions,
            nodes,
            sweep: EnrolmentSweep::default(),
            obligations,
            stopping,
            metrics: CoordinatorMetrics::default(),
            places: Places::new(enrolments_max, Priority::Bulk.share_of(enrolments_max)),
            keys: Mutex::default(),
        })
    }

    /// The answer of a call, or that the coordinator stops and another is to be asked.
    pub(crate) async fn finish<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let due = async {
            let stopping = self.stopping().await;
            tokio::time::sleep_until(stopping + STOPPING_WITHIN).await;
        };
        tokio::select! {
            answer = call => answer,
            () = due => Err(ClientError::Stopping),
        }
    }

    /// Waits until the coordinator stops, and tells since when it does.
    pub(crate) async fn stopping(&self) -> Instant {
        let mut stopping = self.stopping.clone();
        let since = stopping.wait_for(Option::is_some).await.ok().and_then(|since| *since);
        match since {
            Some(since) => since,
            // Whoever would tell is gone: the server has ended.
            None => std::future::pending().await,
        }
    }

    /// A place among the enrolments and searches in work; `None` if all are taken that the priority may take.
    pub(crate) fn admit(&self, priority: Priority) -> Option<Place> {
        let place = match priority {
            Priority::Interactive => self.places.take_interactive(),
            Priority::Bulk => self.places.take_bulk(),
        };
        if place.is_none() {
            self.metrics.refused.inc();
        }
        place
    }

    /// Enrolments and searches in work, by priority.
    pub(crate) fn in_work(&self) -> [(&'static str, u64); 2] {
        self.places.taken()
    }

    /// Whether the cluster is founded, and this coordinator's view of it current as far as it knows.
    pub(crate) fn ready(&self) -> Result<(), String> {
        // Not whether shards are placed: nodes that cannot reach a coordinator before it is ready would never join.
        if !self.metadata.votes() {
            return Err(NOT_A_VOTER.to_owned());
        }
        self.metadata.view().cluster().ok_or("the cluster is not founded yet")?;
        self.metadata.ready()
    }

    /// The number of shards, once they are placed.
    pub(crate) fn shards(&self) -> Option<ShardCount> {
        let view = self.metadata.view();
        view.cluster().filter(|_| view.is_placed()).map(|cluster| cluster.shards)
    }

    /// The gallery by the name that a client sent, read behind a barrier.
    pub(crate) async fn gallery(&self, name: &str, deadline: Instant) -> Result<CurrentGallery, ClientError> {
        let id = GalleryId::try_from(name)
            .map_err(|error| ClientError::field("gallery", format!("must be {}", error.rule)))?;
        let view = self.metadata.current(deadline.min(Instant::now() + METADATA_WITHIN)).await?;
        let found = view.gallery(&id).zip(view.current_policy(&id));
        let (record, policy) = found.ok_or_else(|| ClientError::NoSuchGallery(name.to_owned()))?;
        Ok(CurrentGallery { record, policy, view })
    }

    /// One version of a gallery's policy.
    pub(crate) fn policy(&self, gallery: &GalleryId, version: PolicyVersion) -> Option<Arc<VersionedPolicy>> {
        self.metadata.view().policy(gallery, version)
    }

    /// A gallery's keys, made on first use: a matrix of 512 dimensions takes a fraction of a second, one of 4,096 a minute. Whoever waits
    /// may give up; the making goes on for the next.
    pub(crate) async fn keys(
        &self,
        gallery: &CurrentGallery,
        deadline: Instant,
    ) -> Result<Arc<GalleryKeys>, ClientError> {
        let (name, version) = (gallery.record.name.clone(), gallery.record.key_version);
        let cell = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(keys.entry((name.clone(), version)).or_default())
        };
        if let Some(keys) = cell.get() {
            return Ok(Arc::clone(keys));
        }
        let secrets = gallery.view.key(&name, version).zip(gallery.view.digest_key(&name));
        let (key, digest) = secrets.expect("a gallery on record has its keys on record");
        let (key, digest, policy) = (key.clone(), digest.clone(), Arc::clone(&gallery.policy));
        let checksum = gallery.record.key_checksum;
        let making = tokio::spawn(async move {
            let made = cell.get_or_init(|| async move {
                let made = tokio::task::spawn_blocking(move || {
                    let rotations = Rotations::generate(&key, version, &policy.policy);
                    assert_eq!(
                        rotations.checksum(),
                        checksum,
                        "this machine rotates otherwise than the gallery's creator"
                    );
                    Arc::new(GalleryKeys { rotations, digest })
                });
                made.await.expect("a coordinator that rotates otherwise than the others must not serve")
            });
            Arc::clone(made.await)
        });
        match tokio::time::timeout_at(deadline, making).await {
            Ok(Ok(keys)) => Ok(keys),
            Ok(Err(_)) => Err(ClientError::NotReady("this coordinator cannot rotate as the gallery's key demands")),
            Err(_) => Err(ClientError::NotReady("the gallery's rotation is still being made")),
        }
    }
}
