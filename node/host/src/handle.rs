//! What servers call: a handle on a host, cheap to clone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use semel_raft::{BarrierError, COMMAND_BYTES_MAX, LogIndex, ProposeError, ReplicaId, StateMachine, decode_message};
use semel_telemetry::{Instrument as _, traced};
use tokio::sync::{OnceCell, oneshot, watch};

use crate::config::{GroupConfig, HostConfig};
use crate::database::Database;
use crate::envelope::Envelope;
use crate::inbox::{Arrival, Inbox, Queued, Refused, Request};
use crate::metrics::HostMetrics;
use crate::opening::{AddGroupError, Opening};
use crate::publisher::Publisher;
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

/// A handle on a host. Outlives it: then every call says that the replica has stopped.
pub struct HostHandle<M: StateMachine> {
    shared: Arc<Shared<M>>,
}

pub(crate) struct Shared<M: StateMachine> {
    pub(crate) config: Arc<HostConfig>,
    pub(crate) boot_nonce: u64,
    /// Weak, so that the last handle does not keep the data folder locked after the host has ended.
    pub(crate) database: Weak<Database>,
    pub(crate) inbox: Arc<Inbox<M>>,
    pub(crate) metrics: Arc<HostMetrics>,
    pub(crate) groups: Mutex<BTreeMap<u64, Arc<OnceCell<Added>>>>,
}

/// A group that was added.
#[derive(Clone)]
pub(crate) struct Added {
    replica: ReplicaId,
    status: watch::Receiver<GroupStatus>,
}

impl<M: StateMachine> HostHandle<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Self {
        Self { shared }
    }

    /// Runs a replica of a group from now on. `machine` and `publisher` are brought up to the rows on a thread that may
    /// block. Adding the same replica again changes nothing, also while the first call is still at work or after the
    /// replica has stopped.
    pub async fn add_group(
        &self,
        config: GroupConfig,
        machine: M,
        publisher: Box<dyn Publisher<M>>,
    ) -> Result<watch::Receiver<GroupStatus>, AddGroupError> {
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
    ) -> Result<Added, AddGroupError> {
        let database = self.shared.database.upgrade().ok_or(AddGroupError::HostEnded)?;
        let opening = Opening {
            config: self.shared.config.clone(),
            boot_nonce: self.shared.boot_nonce,
            database,
            metrics: self.shared.metrics.clone(),
        };
        let seat = tokio::task::spawn_blocking(move || opening.open(config, machine, publisher))
            .await
            .map_err(|_| AddGroupError::HostEnded)??;
        let added = Added { replica: seat.replica_id(), status: seat.status() };
        self.shared.inbox.request(Request::Seat(seat)).map_err(|_| AddGroupError::HostEnded)?;
        Ok(added)
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

    /// Tells the group's replica here that another one could not be reached, so that it sends it less until it answers. A
    /// hint: dropped if too many requests wait.
    pub fn unreachable(&self, group: u64, replica: ReplicaId) {
        let _ = self.request(Request::Unreachable { group, replica });
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
