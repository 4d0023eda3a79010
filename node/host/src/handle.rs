//! What servers call: a handle on a host, cheap to clone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use semel_raft::{
    BarrierError, COMMAND_BYTES_MAX, LogIndex, MembershipChange, MembershipError, ProposeError, ReplicaId,
    SnapshotMetadata, StateMachine, StoreError, decode_message,
};
use semel_telemetry::{Instrument as _, traced};
use tokio::sync::{OnceCell, oneshot, watch};

use crate::config::{FreshGroup, GroupConfig, HostConfig};
use crate::database::Database;
use crate::database_error::WriteError;
use crate::envelope::{ClusterId, Envelope};
use crate::generations::Generation;
use crate::holders::Held;
use crate::inbox::{Arrival, Inbox, Queued, Refused, Request};
use crate::metrics::HostMetrics;
use crate::opening::{AddGroupError, Opening};
use crate::publisher::Publisher;
use crate::seat::Seated;
use crate::snapshot::install::InstallError;
use crate::snapshot::receive::Receivers;
use crate::status::GroupStatus;

/// Why a request without an answer was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Too many requests wait for the host.
    #[error("too many requests wait")]
    TooManyPending,
    /// The host has ended.
    #[error("the host has ended")]
    HostEnded,
}

/// Why the rows of a replica are still there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoveGroupError {
    /// The rows could not be read.
    #[error("{0}")]
    Read(#[from] StoreError),
    /// The rows could not be removed.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// The host has ended.
    #[error("the host has ended")]
    HostEnded,
}

/// A handle on a host. Outlives it: then every call says that the replica has stopped.
pub struct HostHandle<M: StateMachine> {
    shared: Arc<Shared<M>>,
}

pub(crate) struct Shared<M: StateMachine> {
    pub(crate) config: Arc<HostConfig>,
    /// Weak, so that the last handle does not keep the data folder locked after the host has ended.
    pub(crate) database: Weak<Database>,
    pub(crate) inbox: Arc<Inbox<M>>,
    pub(crate) metrics: Arc<HostMetrics>,
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) groups: Mutex<BTreeMap<u64, Arc<OnceCell<Added>>>>,
}

/// A group that was added.
#[derive(Clone)]
pub(crate) struct Added {
    replica: ReplicaId,
    status: watch::Receiver<GroupStatus>,
    /// Held while rows of the group are exchanged or removed.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl<M: StateMachine> HostHandle<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Self {
        Self { shared }
    }

    /// Runs a replica of a group from now on. A copy of `machine`, and `publisher`, are brought up to the rows on a thread that may
    /// block, and again whenever the rows were exchanged for a snapshot's. Adding the same replica again changes nothing, also while the first call is still at work or after the
    /// replica has stopped.
    pub async fn add_group(
        &self,
        config: GroupConfig,
        machine: M,
        publisher: Box<dyn Publisher<M>>,
    ) -> Result<watch::Receiver<GroupStatus>, AddGroupError>
    where
        M: Clone,
    {
        let GroupConfig { group, replica, .. } = config;
        let cell = self.cell(group)?;
        let added = cell.get_or_try_init(|| self.open(config, machine, publisher)).await?;
        if added.replica == replica {
            Ok(added.status.clone())
        } else {
            Err(AddGroupError::OtherReplica { group, replica, holder: added.replica })
        }
    }

    async fn open(
        &self,
        config: GroupConfig,
        machine: M,
        publisher: Box<dyn Publisher<M>>,
    ) -> Result<Added, AddGroupError>
    where
        M: Clone,
    {
        let (status, shown) = watch::channel(GroupStatus::Installing);
        let machine = Box::new(move || machine.clone());
        let replica = config.replica;
        self.seat(config, Seated { machine, publisher, status }).await?;
        Ok(Added { replica, status: shown, changing: Arc::default() })
    }

    /// Opens a replica on its rows and hands it to the host's thread.
    async fn seat(&self, config: GroupConfig, seated: Seated<M>) -> Result<(), AddGroupError> {
        let database = self.shared.database.upgrade().ok_or(AddGroupError::HostEnded)?;
        let opening = Opening { config: self.shared.config.clone(), database, metrics: self.shared.metrics.clone() };
        let seat = tokio::task::spawn_blocking(move || opening.open(config, seated))
            .await
            .map_err(|_| AddGroupError::HostEnded)??;
        self.shared.inbox.request(Request::Seat(seat)).map_err(|_| AddGroupError::HostEnded)
    }

    /// Ends a replica that its group does without, removes its rows and leaves a tombstone: it never comes back. Does nothing where
    /// the replica is not here.
    ///
    /// # Errors
    /// The rows could not be removed; the replica has ended all the same.
    pub async fn remove_group(&self, group: u64, replica: ReplicaId) -> Result<(), RemoveGroupError> {
        let database = self.database().ok_or(RemoveGroupError::HostEnded)?;
        let added = self.groups().get(&group).and_then(|cell| cell.get().cloned());
        let _changing = match &added {
            Some(added) if added.replica == replica => Some(added.changing.lock().await),
            Some(_) | None => None,
        };
        if let Some(seated) = self.vacate(group, replica).await {
            let reason = "the replica was removed from its group".to_owned();
            seated.status.send_replace(GroupStatus::Stopped { reason });
        }
        tokio::task::spawn_blocking(move || {
            if database.replica_of(group)? == Some(replica) {
                let generation = *database.live(group).read();
                database.remove_group(group, replica)?;
                database.reclaim(group, generation);
            }
            Ok::<_, RemoveGroupError>(())
        })
        .await
        .map_err(|_| RemoveGroupError::HostEnded)??;
        let mut groups = self.groups();
        if groups.get(&group).and_then(|cell| cell.get()).is_some_and(|added| added.replica == replica) {
            groups.remove(&group);
        }
        Ok(())
    }

    /// Takes a replica from its seat; `None` if it has none or has stopped.
    async fn vacate(&self, group: u64, replica: ReplicaId) -> Option<Seated<M>> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.request(Request::Vacate { group, replica, reply }).ok()?;
        answer.await.ok()
    }

    /// Exchanges the rows of a replica for those that were written under `generation`, and opens it on them. It answers nothing
    /// meanwhile; other groups go on.
    pub(crate) async fn exchange(
        &self,
        group: u64,
        replica: ReplicaId,
        metadata: SnapshotMetadata,
        generation: Generation,
    ) -> Result<(), InstallError> {
        let added = self.groups().get(&group).and_then(|cell| cell.get().cloned());
        let added = added.filter(|added| added.replica == replica).ok_or(InstallError::NotRunning)?;
        let _changing = added.changing.lock().await;
        let database = self.database().ok_or(InstallError::NotRunning)?;
        let Some(seated) = self.vacate(group, replica).await else {
            let discarded = tokio::task::spawn_blocking(move || database.discard_incoming(group, generation)).await;
            discarded.map_err(|_| InstallError::NotRunning)??;
            return Err(InstallError::NotRunning);
        };
        let status = seated.status.clone();
        let metrics = self.shared.metrics.clone();
        let exchanged = tokio::task::spawn_blocking(move || {
            // What the replica wrote last may not be on disk, and whatever it is opened on it takes to be.
            database.sync()?;
            // Asked once more, of a replica that no longer changes.
            let ended = match semel_raft::install(&database.group(group), &metadata)? {
                Some(raft_rows) => {
                    let ended = database.exchange(group, generation, &raft_rows)?;
                    metrics.snapshots_installed.add(1);
                    ended
                }
                None => {
                    database.discard_incoming(group, generation)?;
                    generation
                }
            };
            Ok::<_, InstallError>((database, ended))
        })
        .await
        .map_err(|_| InstallError::NotRunning)?;
        // Opened in either case: without the exchange it is as it was.
        let config = GroupConfig { group, replica, fresh: FreshGroup::Refuse };
        if let Err(error) = self.seat(config, seated).await {
            tracing::error!(group, %replica, %error, "replica not opened after the exchange of its rows");
            status.send_replace(GroupStatus::Stopped { reason: error.to_string() });
        }
        let (database, ended) = exchanged?;
        tokio::task::spawn_blocking(move || database.reclaim(group, ended));
        Ok(())
    }

    /// Proposes a command and waits until it is applied here. Works on any replica: a follower forwards to its leader.
    ///
    /// [`ProposeError::Stopped`] also where this host runs no replica of the group: nothing was proposed. A command that was
    /// accepted before the replica stopped has an unknown outcome, [`ProposeError::Unknown`].
    pub async fn propose(&self, group: u64, command: Bytes) -> Result<M::Receipt, ProposeError> {
        // Checked before it takes room in the queue.
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max: COMMAND_BYTES_MAX });
        }
        let _timer = self.metrics().propose_seconds.start();
        let (reply, answer) = oneshot::channel();
        self.request(Request::Propose { group, command, reply }).map_err(|refused| match refused {
            Refused::Full => ProposeError::TooManyPending,
            Refused::Closed => ProposeError::Stopped,
        })?;
        answer.instrument(traced!("propose", group)).await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Returns the index that a read begun now must have reached: every command acknowledged before the call is at or below
    /// it. The reader then waits until its view is current up to the index.
    ///
    /// [`BarrierError::Stopped`] also where this host runs no replica of the group.
    pub async fn barrier(&self, group: u64) -> Result<LogIndex, BarrierError> {
        let _timer = self.metrics().barrier_seconds.start();
        let (reply, answer) = oneshot::channel();
        self.request(Request::Barrier { group, reply }).map_err(|refused| match refused {
            Refused::Full => BarrierError::TooManyPending,
            Refused::Closed => BarrierError::Stopped,
        })?;
        answer.instrument(traced!("barrier", group)).await.unwrap_or(Err(BarrierError::Stopped))
    }

    /// Changes who belongs to a group, if its leader runs here; returns the epoch of the configuration that this led to.
    ///
    /// [`MembershipError::Stopped`] also where this host runs no replica of the group: nothing was done.
    pub async fn change_membership(
        &self,
        group: u64,
        change: MembershipChange,
        expected_epoch: u64,
    ) -> Result<u64, MembershipError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::ChangeMembership { group, change, expected_epoch, reply };
        self.request(request).map_err(|refused| match refused {
            Refused::Full => MembershipError::TooManyPending,
            Refused::Closed => MembershipError::Stopped,
        })?;
        answer.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// Asks the group's leader, if it runs here, to hand over to another replica. Whether it did shows in the status.
    pub fn transfer_leadership(&self, group: u64, to: ReplicaId) -> Result<(), RequestError> {
        self.request(Request::TransferLeadership { group, to }).map_err(|refused| match refused {
            Refused::Full => RequestError::TooManyPending,
            Refused::Closed => RequestError::HostEnded,
        })
    }

    /// Takes in messages for replicas of this host. What does not belong here, is no message, or finds no room is dropped
    /// and counted: raft sends again.
    pub fn receive(&self, envelopes: Vec<Envelope>) {
        let received = envelopes.len();
        let arrivals: Vec<_> = envelopes.into_iter().filter_map(|envelope| self.arrival(envelope)).collect();
        self.shared.metrics.messages_dropped_misaddressed.add(received - arrivals.len());
        let dropped = self.shared.inbox.receive(arrivals);
        self.shared.metrics.messages_dropped_overload.add(dropped);
    }

    /// The state of the group's replica here, or `None` if it was not added.
    pub fn status(&self, group: u64) -> Option<watch::Receiver<GroupStatus>> {
        let groups = self.groups();
        groups.get(&group).and_then(|cell| cell.get()).map(|added| added.status.clone())
    }

    /// The state of every replica here, in ascending order of groups.
    pub fn statuses(&self) -> Vec<(u64, GroupStatus)> {
        let groups = self.groups();
        let added = groups.iter().filter_map(|(group, cell)| Some((*group, cell.get()?)));
        added.map(|(group, added)| (group, added.status.borrow().clone())).collect()
    }

    /// The host's counters.
    pub fn metrics(&self) -> &HostMetrics {
        &self.shared.metrics
    }

    /// What waits for the next turn.
    pub(crate) fn queued(&self) -> Queued {
        self.shared.inbox.queued()
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.shared.config.cluster
    }

    /// The database, until the host has ended.
    pub(crate) fn database(&self) -> Option<Held> {
        Some(self.shared.database.upgrade()?.hold())
    }

    pub(crate) fn receivers(&self) -> &Arc<Receivers> {
        &self.shared.receivers
    }

    /// Whether this replica of the group was added here.
    pub(crate) fn runs(&self, group: u64, replica: ReplicaId) -> bool {
        let groups = self.groups();
        groups.get(&group).and_then(|cell| cell.get()).is_some_and(|added| added.replica == replica)
    }

    fn request(&self, request: Request<M>) -> Result<(), Refused> {
        self.shared.inbox.request(request).inspect_err(|refused| match refused {
            Refused::Full => self.shared.metrics.requests_refused_overload.add(1),
            Refused::Closed => {}
        })
    }

    /// Opens an envelope on the caller's thread, to keep the host's free.
    fn arrival(&self, envelope: Envelope) -> Option<Arrival> {
        let Envelope { cluster, group, from, to, message: bytes } = envelope;
        if cluster != self.shared.config.cluster {
            return None;
        }
        let message = decode_message(&bytes).ok()?;
        let as_stated = message.from == from.get() && message.to == to.get();
        as_stated.then(|| Arrival { group, to, bytes: bytes.len(), message: Box::new(message) })
    }

    fn cell(&self, group: u64) -> Result<Arc<OnceCell<Added>>, AddGroupError> {
        let groups_max = self.shared.config.groups_max;
        let mut groups = self.groups();
        if groups.len() >= groups_max && !groups.contains_key(&group) {
            return Err(AddGroupError::TooManyGroups { groups_max });
        }
        Ok(groups.entry(group).or_default().clone())
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<OnceCell<Added>>>> {
        self.shared.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: StateMachine> Clone for HostHandle<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<M: StateMachine> std::fmt::Debug for HostHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostHandle").field("cluster", &self.shared.config.cluster).finish_non_exhaustive()
    }
}
