//! The metadata group as this coordinator sees it: its replica, the view derived from its rows, and how the cluster is
//! initialised and its shards placed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use semel_proto::v1::GetClusterStatusRequest;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_raft::{BarrierError, LogIndex, ProposeError, ReplicaId, Role, StoreError};
use semel_raft_host::{
    ClusterId, Database, FreshGroup, GroupConfig, GroupStatus, GroupStore, GrpcTransport, Host, HostConfig, HostHandle,
    Publisher,
};
use semel_workflow::{
    Cluster, Coordinator, MetadataChanged, MetadataCommand, MetadataMachine, MetadataReceipt, MetadataRefusal,
    MetadataView,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::config::{CoordinatorConfig, Voter};
use crate::routes::Routes;

/// The group's number, beyond every shard's.
const GROUP: u64 = 1 << 32;
/// How long another voter may take to say whom it knows.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// The pause between two tries of a proposal.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Ticks without a word from the group's leader until another one campaigns. Fewer than for shards: every enrolment waits for this one
/// group, which has little to do otherwise. With ticks of 50 ms an election begins 0.7 to 1.4 s after the leader is lost.
const ELECTION_TICKS: usize = 14;
/// How long a coordinator that stops waits for each other voter to take the lead.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(400);
/// The name under which the volume keeps the voters that the group was founded with.
const VOTERS: &str = "metadata_voters";

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
    id: ReplicaId,
    /// The other voters.
    others: Vec<ReplicaId>,
    host: HostHandle<MetadataMachine>,
    current: watch::Receiver<CurrentView>,
    status: watch::Receiver<GroupStatus>,
}

/// Derives the view.
struct ViewPublisher {
    current: watch::Sender<CurrentView>,
}

impl Publisher<MetadataMachine> for ViewPublisher {
    fn restore(&mut self, applied: LogIndex, store: &GroupStore) -> Result<(), StoreError> {
        let view = Arc::new(MetadataView::load(store)?);
        self.current.send_replace(CurrentView { applied, view });
        Ok(())
    }

    fn publish(&mut self, applied: LogIndex, publications: Vec<(LogIndex, Vec<MetadataChanged>)>) {
        let changes: Vec<MetadataChanged> = publications.into_iter().flat_map(|(_, changes)| changes).collect();
        self.current.send_modify(|current| {
            current.applied = applied;
            if !changes.is_empty() {
                current.view = Arc::new(current.view.with(&changes));
            }
        });
    }
}

/// The id under which the group's messages travel: the cluster's own id is only drawn inside the group, so it comes from who may vote.
fn transport_id(voters: &[Voter]) -> ClusterId {
    let mut hasher = blake3::Hasher::new_derive_key("semel 2026 metadata group");
    for voter in voters {
        hasher.update(&voter.id.to_le_bytes()).update(voter.address.as_bytes()).update(&[0]);
    }
    ClusterId(*hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes"))
}

/// Refuses to found a replica on an empty volume where another voter already knows this one as a member: what it voted for and acknowledged
/// was on the volume that was lost. Voters that do not answer are not waited for, so this finds a lost volume only while another
/// coordinator runs.
async fn refuse_if_known(voters: &[Voter], own: u64) -> anyhow::Result<()> {
    let asked = voters.iter().filter(|voter| voter.id != own).map(|voter| async move {
        let endpoint = Endpoint::from_shared(format!("http://{}", voter.address)).ok()?.connect_timeout(ASK_WITHIN);
        let mut client = ClusterServiceClient::new(endpoint.connect_lazy());
        let asking = client.get_cluster_status(GetClusterStatusRequest {});
        Some(tokio::time::timeout(ASK_WITHIN, asking).await.ok()?.ok()?.into_inner())
    });
    let answers = futures::future::join_all(asked).await;
    let known = answers.iter().flatten().any(|status| status.coordinators.iter().any(|known| known.coordinator == own));
    ensure!(
        !known,
        "data: the folder is empty, but the other coordinators know coordinator {own} as a member; restore its folder, \
         as membership cannot change yet"
    );
    Ok(())
}

impl Metadata {
    /// Opens this coordinator's replica on `database`.
    pub(crate) async fn open(
        config: &CoordinatorConfig,
        address: &str,
        database: Arc<Database>,
        transport: &GrpcTransport,
    ) -> anyhow::Result<(Host<MetadataMachine>, Arc<Self>)> {
        let id = ReplicaId::new(config.id).context("id: must be at least 1")?;
        let mut voters = match config.voters.as_slice() {
            [] => vec![Voter { id: config.id, address: address.to_owned() }],
            voters => voters.to_vec(),
        };
        voters.sort_by_key(|voter| voter.id);
        let replica = |voter: &Voter| ReplicaId::new(voter.id).context("voters: an id is 0");
        let replicas = voters.iter().map(replica).collect::<anyhow::Result<Vec<_>>>()?;
        let directory: HashMap<ReplicaId, String> =
            replicas.iter().zip(&voters).map(|(&replica, voter)| (replica, voter.address.clone())).collect();
        transport.set_directory(directory.clone());
        let ids: Vec<u8> = replicas.iter().flat_map(|replica| replica.get().to_le_bytes()).collect();
        let fresh = match database.identity(VOTERS)? {
            None => {
                refuse_if_known(&voters, config.id).await?;
                FreshGroup::Bootstrap { voters: replicas }
            }
            Some(founded) => {
                ensure!(
                    founded == ids,
                    "voters: the group was founded with other ids, and its membership cannot change yet"
                );
                FreshGroup::Refuse
            }
        };
        let named = match config.voters.as_slice() {
            // A lone coordinator may move to another address: nobody else sends it messages of the group.
            [] => transport_id(&[]),
            _ => transport_id(&voters),
        };
        let host_config = HostConfig {
            tick: Duration::from_millis(config.tick_ms),
            seed: rand::random(),
            election_ticks: ELECTION_TICKS,
            log_entries_max: config.log_entries_max,
            ..HostConfig::new(named)
        };
        let host = Host::start(host_config, Arc::clone(&database), Arc::new(transport.clone()))?;
        let (sender, current) = watch::channel(CurrentView { applied: LogIndex(0), view: Arc::default() });
        let publisher = ViewPublisher { current: sender };
        let group = GroupConfig { group: GROUP, replica: id, fresh };
        let handle = host.handle();
        let status = handle.add_group(group, MetadataMachine, Box::new(publisher)).await?;
        // Remembered only once the rows are there, so that "remembered, yet no rows" always means a loss.
        database.put_identity(VOTERS, &ids)?;
        let others = directory.into_keys().filter(|other| *other != id).collect();
        Ok((host, Arc::new(Self { id, others, host: handle, current, status })))
    }

    /// Whether this coordinator leads the group, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.status.borrow().running().is_some_and(|status| status.role == Role::Leader)
    }

    /// The group's leader, as far as this coordinator knows.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        self.status.borrow().running().and_then(|status| status.leader)
    }

    /// Hands the lead to another voter if this coordinator has it, so that nobody waits for an election when it is gone. Gives up
    /// where no other takes it.
    pub(crate) async fn hand_over(&self) {
        let mut status = self.status.clone();
        for &other in self.others.iter().filter(|_| self.leads()) {
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
        let coordinator = Coordinator { id: self.id, address: address.to_owned() };
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
