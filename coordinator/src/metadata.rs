//! The metadata group as this coordinator sees it: its replica, the view derived from its rows, and how the cluster is
//! initialised and its shards placed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
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

use crate::config::{CoordinatorConfig, Voter};

/// The group's number, beyond every shard's.
const GROUP: u64 = 1 << 32;
/// The pause between two tries of a proposal.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// The name under which the volume keeps the voters that the group was founded with.
const VOTERS: &str = "metadata_voters";

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
        transport.set_directory(directory);
        let ids: Vec<u8> = replicas.iter().flat_map(|replica| replica.get().to_le_bytes()).collect();
        let fresh = match database.identity(VOTERS)? {
            None => FreshGroup::Bootstrap { voters: replicas },
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
        let host_config =
            HostConfig { tick: Duration::from_millis(config.tick_ms), seed: rand::random(), ..HostConfig::new(named) };
        let host = Host::start(host_config, Arc::clone(&database), Arc::new(transport.clone()))?;
        let (sender, current) = watch::channel(CurrentView { applied: LogIndex(0), view: Arc::default() });
        let publisher = ViewPublisher { current: sender };
        let group = GroupConfig { group: GROUP, replica: id, fresh };
        let handle = host.handle();
        let status = handle.add_group(group, MetadataMachine, Box::new(publisher)).await?;
        // Remembered only once the rows are there, so that "remembered, yet no rows" always means a loss.
        database.put_identity(VOTERS, &ids)?;
        Ok((host, Arc::new(Self { id, host: handle, current, status })))
    }

    /// Whether this coordinator leads the group, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.status.borrow().running().is_some_and(|status| status.role == Role::Leader)
    }

    /// The group's leader, as far as this coordinator knows.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        self.status.borrow().running().and_then(|status| status.leader)
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
    pub(crate) async fn initialise(&self, wanted: Cluster, address: &str) -> Cluster {
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
                return cluster;
            }
            tracing::debug!("waiting for a majority of coordinators");
        }
    }

    /// Places the shards once enough nodes have joined and no further one has for a moment; for as long as this coordinator leads.
    pub(crate) async fn place_when_ready(&self) {
        let mut views = self.views();
        loop {
            let view = Arc::clone(&views.borrow_and_update().view);
            let Some(cluster) = view.cluster().copied() else {
                if views.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if view.is_placed() {
                return;
            }
            let nodes: Vec<_> = view.nodes().map(|node| node.node_id).collect();
            // Nodes of one start join together: whoever comes within the pause is placed on as well.
            if tokio::time::timeout(JOINED_QUIETLY_FOR, views.changed()).await.is_ok()
                || nodes.len() < cluster.replicas_per_shard as usize
                || !self.leads()
            {
                continue;
            }
            let deadline = Instant::now() + Duration::from_secs(5);
            match self.propose(&MetadataCommand::PlaceShards { nodes }, deadline).await {
                Ok(_) => tracing::info!(shards = cluster.shards.get(), "shards placed"),
                Err(error) => tracing::warn!(%error, "shards not placed yet"),
            }
        }
    }
}

/// How long no node must have joined before the shards are placed.
const JOINED_QUIETLY_FOR: Duration = Duration::from_millis(700);

/// What a receipt refused, if it did.
pub(crate) fn refused(receipt: MetadataReceipt) -> Result<MetadataReceipt, MetadataRefusal> {
    match receipt {
        MetadataReceipt::Refused(refusal) => Err(refusal),
        receipt => Ok(receipt),
    }
}
