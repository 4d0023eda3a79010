//! The metadata group as this coordinator sees it: its replica, the view derived from its rows, and how the cluster is
//! initialised and its shards placed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use semel_raft::{BarrierError, LogIndex, MembershipChange, ProposeError, ReplicaId, ReplicaStatus, Role, StoreError};
use semel_raft_host::{
    ClusterId, Directory, GroupConfig, GroupStatus, GroupStore, GrpcTransport, Host, HostConfig, HostHandle, Publisher,
};
use semel_workflow::{
    Cluster, Coordinator, CoordinatorId, MetadataChanged, MetadataCommand, MetadataMachine, MetadataReceipt,
    MetadataRefusal, MetadataView,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::Admitted;
use crate::config::{CoordinatorConfig, Voter};
use crate::routes::Routes;
use crate::volume::Volume;

/// The group's number, beyond every shard's.
pub(crate) const GROUP: u64 = 1 << 32;
/// The pause between two tries of a proposal.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Ticks without a word from the group's leader until another one campaigns. Fewer than for shards: every enrolment waits for this one
/// group, which has little to do otherwise. With ticks of 50 ms an election begins 0.7 to 1.4 s after the leader is lost.
const ELECTION_TICKS: usize = 14;
/// How long a coordinator that stops waits for each other voter to take the lead.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(400);

/// Committed entries that the view of a coordinator that is ready may still have to take in.
const READY_LAG_MAX: u64 = 64;

/// Why the metadata group gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("the coordinators' group did not answer in time: {0}")]
    Barrier(BarrierError),
    #[error("the coordinators' group did not confirm in time: {0}")]
    Propose(ProposeError),
}

/// The view, and the log index that it is current up to.
#[derive(Clone)]
pub(crate) struct CurrentView {
    applied: LogIndex,
    pub(crate) view: Arc<MetadataView>,
}

/// This coordinator's part of the metadata group.
pub(crate) struct Metadata {
    coordinator: CoordinatorId,
    replica: ReplicaId,
    host: HostHandle<MetadataMachine>,
    current: watch::Receiver<CurrentView>,
    status: watch::Receiver<GroupStatus>,
}

/// Derives the view, and with it where each replica of the group listens.
struct ViewPublisher {
    current: watch::Sender<CurrentView>,
    addresses: Addresses,
}

/// Where the replicas of the group listen: settings say where each coordinator does, the metadata which replica it has.
struct Addresses {
    voters: Vec<Voter>,
    /// Which replica votes for which coordinator, as others said at the start: used until the rows are here.
    told: Vec<(u64, ReplicaId)>,
    transport: GrpcTransport,
}

impl Addresses {
    fn learn(&self, view: &MetadataView) {
        self.transport.set_directory(directory(&self.voters, &self.told, view));
    }
}

fn directory(voters: &[Voter], told: &[(u64, ReplicaId)], view: &MetadataView) -> Directory {
    let replicas = |voter: &Voter| -> Vec<ReplicaId> {
        let Some(coordinator) = CoordinatorId::new(voter.id) else { return Vec::new() };
        let recorded = view.coordinator_replicas(coordinator);
        let told = told.iter().filter(|(coordinator, _)| *coordinator == voter.id).map(|(_, replica)| *replica);
        let told = told.filter(|replica| *replica > recorded.newest);
        told.chain([recorded.voter]).chain(recorded.joining_replica()).collect()
    };
    let addresses = voters.iter().flat_map(|voter| {
        let address = |replica| (replica, voter.address.clone());
        replicas(voter).into_iter().map(address).collect::<Vec<_>>()
    });
    addresses.collect()
}

impl Publisher<MetadataMachine> for ViewPublisher {
    fn restore(&mut self, applied: LogIndex, store: &GroupStore) -> Result<(), StoreError> {
        let view = Arc::new(MetadataView::load(store)?);
        self.addresses.learn(&view);
        self.current.send_replace(CurrentView { applied, view });
        Ok(())
    }

    fn publish(&mut self, applied: LogIndex, publications: Vec<(LogIndex, Vec<MetadataChanged>)>) {
        let changes: Vec<MetadataChanged> = publications.into_iter().flat_map(|(_, changes)| changes).collect();
        self.current.send_modify(|current| {
            current.applied = applied;
            if !changes.is_empty() {
                current.view = Arc::new(current.view.with(&changes));
                self.addresses.learn(&current.view);
            }
        });
    }
}

/// The coordinators that vote, by number.
pub(crate) fn voters(config: &CoordinatorConfig, address: &str) -> Vec<Voter> {
    let mut voters = match config.voters.as_slice() {
        [] => vec![Voter { id: config.id, address: address.to_owned() }],
        voters => voters.to_vec(),
    };
    voters.sort_by_key(|voter| voter.id);
    voters
}

/// The id under which the group's messages travel: the cluster's own id is only drawn inside the group, so it comes from who may vote.
pub(crate) fn group_id(config: &CoordinatorConfig) -> ClusterId {
    // A lone coordinator may move to another address: nobody else sends it messages of the group.
    let mut voters = config.voters.clone();
    voters.sort_by_key(|voter| voter.id);
    let mut hasher = blake3::Hasher::new_derive_key("semel 2026 metadata group");
    for voter in voters {
        hasher.update(&voter.id.to_le_bytes()).update(voter.address.as_bytes()).update(&[0]);
    }
    ClusterId(*hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes"))
}

impl Metadata {
    /// Opens this coordinator's replica on its volume.
    pub(crate) async fn open(
        config: &CoordinatorConfig,
        volume: &Volume,
        voters: &[Voter],
        admitted: Admitted,
        transport: &GrpcTransport,
    ) -> anyhow::Result<(Host<MetadataMachine>, Arc<Self>)> {
        let host_config = HostConfig {
            tick: Duration::from_millis(config.tick_ms),
            seed: rand::random(),
            election_ticks: ELECTION_TICKS,
            log_entries_max: config.log_entries_max,
            ..HostConfig::new(group_id(config))
        };
        let database = Arc::clone(volume.database());
        let host = Host::start(host_config, database, Arc::new(transport.clone()))?;
        let (sender, current) = watch::channel(CurrentView { applied: LogIndex(0), view: Arc::default() });
        let Admitted { replica, fresh, replicas } = admitted;
        let addresses = Addresses { voters: voters.to_vec(), told: replicas, transport: transport.clone() };
        let publisher = ViewPublisher { current: sender, addresses };
        let group = GroupConfig { group: GROUP, replica, fresh };
        let handle = host.handle();
        let status = handle.add_group(group, MetadataMachine, Box::new(publisher)).await?;
        // Remembered only once the rows are there, so that "remembered, yet no rows" always means a loss.
        volume.has_rows()?;
        let coordinator = volume.coordinator();
        Ok((host, Arc::new(Self { coordinator, replica, host: handle, current, status })))
    }

    /// Whether this coordinator leads the group, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.status.borrow().running().is_some_and(|status| status.role == Role::Leader)
    }

    /// The coordinator that leads the group, as far as this one knows.
    pub(crate) fn leader(&self) -> Option<CoordinatorId> {
        let replica = self.status.borrow().running().and_then(|status| status.leader)?;
        self.view().coordinator_of(replica)
    }

    /// The state of this coordinator's replica, if it takes part.
    pub(crate) fn status(&self) -> Option<ReplicaStatus> {
        self.status.borrow().running().cloned()
    }

    /// Whether the group's configuration, as it is known here, has learners.
    pub(crate) fn has_learners(&self) -> bool {
        self.status.borrow().running().is_some_and(|status| !status.learners.is_empty())
    }

    /// Changes who belongs to the group, if this coordinator leads it; returns the epoch of the configuration that this led to.
    pub(crate) async fn change_membership(
        &self,
        change: MembershipChange,
        expected_epoch: u64,
        within: Duration,
    ) -> Result<u64, String> {
        let changed = self.host.change_membership(GROUP, change, expected_epoch);
        let changed = tokio::time::timeout(within, changed).await.map_err(|_| "no answer in time".to_owned())?;
        changed.map_err(|error| error.to_string())
    }

    /// Hands the lead to another voter if this coordinator has it, so that nobody waits for an election when it is gone. Gives up
    /// where no other takes it.
    pub(crate) async fn hand_over(&self) {
        let mut status = self.status.clone();
        let voters = self.status().map(|status| status.voters).unwrap_or_default();
        for other in voters.into_iter().filter(|voter| *voter != self.replica) {
            if !self.leads() {
                return;
            }
            if self.host.transfer_leadership(GROUP, other).is_err() {
                return;
            }
            let follows = status.wait_for(|status| status.running().is_some_and(|status| status.role != Role::Leader));
            if let Ok(Ok(_)) = tokio::time::timeout(HAND_OVER_WITHIN, follows).await {
                tracing::info!(to = other.get(), "handed the lead of the coordinators' group over");
                return;
            }
        }
    }

    /// Waits until the group has a leader, or none; `false` = nobody tells any more.
    pub(crate) async fn wait_led(&self, led: bool) -> bool {
        let mut status = self.status.clone();
        let is_led = |status: &GroupStatus| status.running().is_some_and(|status| status.leader.is_some());
        status.wait_for(|status| is_led(status) == led).await.is_ok()
    }

    /// The replica here.
    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Whether the replica here votes, as far as it knows.
    pub(crate) fn votes(&self) -> bool {
        let status = self.status.borrow();
        status.running().is_some_and(|status| status.voters.contains(&self.replica))
    }

    /// Whether the group has a leader and the view is caught up with what is known to be committed.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let status = self.status.borrow();
        let status = status.running().ok_or("its replica of the metadata group has stopped")?;
        if status.leader.is_none() {
            return Err("the coordinators have no leader".to_owned());
        }
        let behind = status.commit.0.saturating_sub(self.current.borrow().applied.0);
        if behind > READY_LAG_MAX { Err(format!("its view is {behind} entries behind")) } else { Ok(()) }
    }

    /// The view as it is here, with the log index that it is current up to; it may be behind.
    pub(crate) fn view_at(&self) -> (Arc<MetadataView>, LogIndex) {
        let current = self.current.borrow();
        (Arc::clone(&current.view), current.applied)
    }

    /// The view as it is here; it may be behind.
    pub(crate) fn view(&self) -> Arc<MetadataView> {
        Arc::clone(&self.current.borrow().view)
    }

    /// Tells of every later view.
    pub(crate) fn views(&self) -> watch::Receiver<CurrentView> {
        self.current.clone()
    }

    /// The view behind a barrier: at least as new as everything acknowledged before the call.
    pub(crate) async fn current(&self, deadline: Instant) -> Result<Arc<MetadataView>, MetadataError> {
        let mut last = BarrierError::NotConfirmed;
        while Instant::now() < deadline {
            match tokio::time::timeout_at(deadline, self.host.barrier(GROUP)).await {
                Ok(Ok(index)) => {
                    let mut current = self.current.clone();
                    let reached = current.wait_for(|current| current.applied >= index);
                    return match tokio::time::timeout_at(deadline, reached).await {
                        Ok(Ok(current)) => Ok(Arc::clone(&current.view)),
                        Ok(Err(_)) => Err(MetadataError::Barrier(BarrierError::Stopped)),
                        Err(_) => Err(MetadataError::Barrier(BarrierError::NotConfirmed)),
                    };
                }
                Ok(Err(error @ BarrierError::Stopped)) => return Err(MetadataError::Barrier(error)),
                Ok(Err(error)) => last = error,
                Err(_) => break,
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        Err(MetadataError::Barrier(last))
    }

    /// Proposes a command until it is applied or the deadline is over. Commands are idempotent.
    pub(crate) async fn propose(
        &self,
        command: &MetadataCommand,
        deadline: Instant,
    ) -> Result<MetadataReceipt, MetadataError> {
        let bytes = command.encode();
        let mut last = ProposeError::NoLeader;
        while Instant::now() < deadline {
            match tokio::time::timeout_at(deadline, self.host.propose(GROUP, bytes.clone())).await {
                Ok(Ok(receipt)) => return Ok(receipt),
                Ok(Err(error @ (ProposeError::TooLarge { .. } | ProposeError::Stopped))) => {
                    return Err(MetadataError::Propose(error));
                }
                Ok(Err(error)) => last = error,
                Err(_) => break,
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        Err(MetadataError::Propose(last))
    }

    /// Founds the cluster if nobody has, and tells the others where this coordinator listens. Tries until it is done.
    ///
    /// # Errors
    /// If this coordinator's replica has stopped.
    pub(crate) async fn initialise(&self, wanted: Cluster, address: &str) -> anyhow::Result<Cluster> {
        let coordinator = Coordinator { id: self.coordinator, address: address.to_owned() };
        loop {
            let deadline = Instant::now() + Duration::from_secs(5);
            let founded = self.propose(&MetadataCommand::Initialise(wanted), deadline).await;
            let registered = self.propose(&MetadataCommand::RegisterCoordinator(coordinator.clone()), deadline).await;
            if let (Ok(_), Ok(_)) = (&founded, &registered)
                && let Some(cluster) = self.view().cluster().copied()
            {
                if (cluster.shards, cluster.replicas_per_shard) != (wanted.shards, wanted.replicas_per_shard) {
                    tracing::warn!(
                        shards = cluster.shards.get(),
                        replicas = cluster.replicas_per_shard,
                        "the cluster was initialised with other numbers than the settings; they are fixed"
                    );
                }
                return Ok(cluster);
            }
            if let GroupStatus::Stopped { reason } = &*self.status.borrow() {
                bail!("this coordinator's replica of the metadata group has stopped: {reason}");
            }
            tracing::debug!("waiting for a majority of coordinators");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Places the shards once enough nodes report and no further one has begun to for a moment; for as long as this coordinator leads.
    /// A node that joined and went away is not placed on: its replicas would have to be moved.
    pub(crate) async fn place_when_ready(&self, routes: &Routes) {
        let mut before = Vec::new();
        loop {
            tokio::time::sleep(JOINED_QUIETLY_FOR).await;
            let view = self.view();
            if view.is_placed() {
                return;
            }
            let Some(cluster) = view.cluster().copied() else { continue };
            let live: Vec<_> = view.nodes().map(|node| node.node_id).filter(|node| routes.is_live(node.0)).collect();
            let quiet = live == before;
            before.clone_from(&live);
            if !quiet || live.len() < cluster.replicas_per_shard as usize || !self.leads() {
                continue;
            }
            let deadline = Instant::now() + Duration::from_secs(5);
            match self.propose(&MetadataCommand::PlaceShards { nodes: live }, deadline).await.map(refused) {
                Ok(Ok(_)) => tracing::info!(shards = cluster.shards.get(), "shards placed"),
                Ok(Err(refusal)) => tracing::warn!(%refusal, "shards not placed yet"),
                Err(error) => tracing::warn!(%error, "shards not placed yet"),
            }
        }
    }
}

/// How long the set of reporting nodes must stay the same before the shards are placed.
const JOINED_QUIETLY_FOR: Duration = Duration::from_millis(700);

/// What a receipt refused, if it did.
pub(crate) fn refused(receipt: MetadataReceipt) -> Result<MetadataReceipt, MetadataRefusal> {
    match receipt {
        MetadataReceipt::Refused(refusal) => Err(refusal),
        receipt => Ok(receipt),
    }
}
