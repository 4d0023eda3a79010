//! `ClusterService`: the status of the cluster, from the metadata and the nodes' last reports, and what operators ask to be moved or
//! replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use semel_index::ShardId;
use semel_proto::internal::v1::ReplicaReport;
use semel_proto::v1 as public;
use semel_proto::v1::cluster_service_server::ClusterService;
use semel_raft::ReplicaId;
use semel_workflow::{
    COORDINATORS_MAX, CoordinatorId, CoordinatorReplicas, MOVES_MAX, MetadataCommand, MetadataReceipt, MetadataRefusal,
    MetadataView, MoveState, NodeId, ReplicaMove, ShardPlacement, plan_drain,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::front::{Front, NOT_A_VOTER};
use crate::metadata::refused;
use crate::moves;
use crate::routes::{LIVE_WITHIN, LastReport};
use crate::status::ClientError;

/// Serves the cluster's status.
pub(crate) struct ClusterServer {
    front: Arc<Front>,
}

impl ClusterServer {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

type Reports = std::collections::HashMap<[u8; 16], LastReport>;

/// The status of the cluster as this coordinator knows it.
pub(crate) fn status(front: &Front) -> public::GetClusterStatusResponse {
    let view = front.metadata.view();
    let reports = front.nodes.routes.reports();
    let leader = front.metadata.leader();
    let coordinators = view.coordinators().map(|coordinator| {
        let replicas = view.coordinator_replicas(coordinator.id);
        public::CoordinatorStatus {
            coordinator: coordinator.id.get(),
            address: coordinator.address.clone(),
            leader: Some(coordinator.id) == leader,
            replica: replicas.voter.get(),
            joining_replica: replicas.joining_replica().map_or(0, ReplicaId::get),
            cancelling: replicas.joining.is_some_and(|joining| joining.cancelling),
            waits: front.introductions.waiting(&view, coordinator.id).is_some(),
        }
    });
    let shards: Vec<public::ShardStatus> =
        view.shard_map().values().map(|placement| shard(&view, placement, &reports)).collect();
    let ready = !shards.is_empty() && shards.iter().all(is_led) && front.ready().is_ok();
    public::GetClusterStatusResponse {
        cluster_id: view.cluster().map(|cluster| cluster.cluster_id.to_string()).unwrap_or_default(),
        shards_count: view.cluster().map_or(0, |cluster| cluster.shards.get()),
        replicas_per_shard: view.cluster().map_or(0, |cluster| cluster.replicas_per_shard),
        coordinators: coordinators.collect(),
        nodes: nodes(&view, &reports),
        galleries: galleries(&view, &reports),
        shards,
        ready,
    }
}

/// Whether a leader of the shard is known.
pub(crate) fn is_led(shard: &public::ShardStatus) -> bool {
    shard.replicas.iter().any(|replica| replica.role() == public::ReplicaRole::Leader)
}

fn nodes(view: &MetadataView, reports: &Reports) -> Vec<public::NodeStatus> {
    let nodes = view.nodes().map(|node| {
        let report = reports.get(&node.node_id.0);
        let age = report.map(|report| report.at.elapsed());
        let live = report.filter(|report| report.at.elapsed() < LIVE_WITHIN);
        public::NodeStatus {
            node_id: node.node_id.to_string(),
            address: node.address.clone(),
            last_report_age_ms: age.map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            live: live.is_some(),
            version: node.version.clone(),
            shard_searches: live.map_or(0, |report| report.shard_searches),
            resident_bytes: live.map_or(0, |report| report.resident_bytes),
        }
    });
    nodes.collect()
}

/// How long the metadata group may take over what an operator asks.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The fewest digits that name a node.
const DIGITS_MIN: usize = 4;

impl ClusterServer {
    async fn current(&self) -> Result<Arc<MetadataView>, ClientError> {
        Ok(self.front.metadata.current(Instant::now() + ANSWER_WITHIN).await?)
    }

    async fn record(&self, command: &MetadataCommand) -> Result<MetadataReceipt, ClientError> {
        let receipt = self.front.metadata.propose(command, Instant::now() + ANSWER_WITHIN).await?;
        refused(receipt).map_err(ClientError::MetadataRefused)
    }

    async fn start(&self, shard: ShardId, from: NodeId, to: NodeId) -> Result<ReplicaMove, ClientError> {
        match self.record(&MetadataCommand::StartMove { shard, from, to }).await? {
            MetadataReceipt::Move(moving) => Ok(moving),
            receipt => unreachable!("a move is answered with a move, not with {receipt:?}"),
        }
    }

    async fn move_replica(&self, request: &public::MoveReplicaRequest) -> Result<ReplicaMove, ClientError> {
        let view = self.current().await?;
        if let Some(cluster) = view.cluster().filter(|cluster| request.shard >= cluster.shards.get()) {
            let shards = cluster.shards.get();
            return Err(ClientError::field("shard", format!("must be below {shards}, the number of shards")));
        }
        let from = named(&view, "from_node", &request.from_node)?;
        let to = named(&view, "to_node", &request.to_node)?;
        if !self.front.nodes.routes.is_live(to.0) {
            return Err(ClientError::NodeNotLive(to.to_string()));
        }
        self.start(ShardId(request.shard), from, to).await
    }

    async fn drain(&self, request: &public::DrainNodeRequest) -> Result<public::DrainNodeResponse, ClientError> {
        let view = self.current().await?;
        let drained = named(&view, "node", &request.node)?;
        let routes = &self.front.nodes.routes;
        let live: Vec<NodeId> = view.nodes().map(|node| node.node_id).filter(|node| routes.is_live(node.0)).collect();
        let mut moves: Vec<ReplicaMove> = view.moves().filter(|moving| moving.from.node == drained).copied().collect();
        let plan = plan_drain(&view, drained, &live);
        let room = MOVES_MAX.saturating_sub(view.moves().count());
        let stuck = plan.iter().find(|(_, taker)| taker.is_none()).map(|(shard, _)| *shard);
        for (shard, to) in plan.into_iter().filter_map(|(shard, taker)| Some((shard, taker?))).take(room) {
            match self.start(shard, drained, to).await {
                Ok(begun) => moves.push(begun),
                // Somebody else begins moves too; the next call sees what they left.
                Err(ClientError::MetadataRefused(refusal)) => {
                    tracing::debug!(shard = shard.0, %refusal, "replica not moved yet");
                }
                Err(error) => return Err(error),
            }
        }
        if let (true, Some(shard)) = (moves.is_empty(), stuck) {
            return Err(ClientError::NowhereToMove { shard: shard.0 });
        }
        let replicas_left = view.shards_of(drained).count() as u32;
        let moves = moves.iter().map(|moving| self.shown(moving)).collect();
        Ok(public::DrainNodeResponse { node_id: drained.to_string(), replicas_left, moves })
    }

    async fn remove(&self, request: &public::RemoveNodeRequest) -> Result<NodeId, ClientError> {
        let view = self.current().await?;
        let node_id = named(&view, "node", &request.node)?;
        if self.front.nodes.routes.is_live(node_id.0) {
            return Err(ClientError::NodeLive(node_id.to_string()));
        }
        self.record(&MetadataCommand::RemoveNode { node_id }).await?;
        tracing::info!(node = %node_id, "node removed");
        Ok(node_id)
    }

    async fn replace(&self, coordinator: CoordinatorId) -> Result<CoordinatorReplicas, ClientError> {
        let view = self.current().await?;
        if view.coordinators().all(|known| known.id != coordinator) {
            return Err(ClientError::MetadataRefused(MetadataRefusal::NoSuchCoordinator { coordinator }));
        }
        // What is under way needs no folder that still waits: it may have been let in already.
        let under_way = view.coordinator_replicas(coordinator).joining.map(|joining| joining.volume);
        let volume = self.front.introductions.waiting(&view, coordinator).or(under_way);
        let volume = volume.ok_or(ClientError::NoEmptyFolder(coordinator))?;
        match self.record(&MetadataCommand::ReplaceCoordinator { coordinator, volume }).await? {
            MetadataReceipt::CoordinatorReplicas(replicas) => {
                let (from, to) = (replicas.voter.get(), replicas.newest.get());
                tracing::info!(%coordinator, from, to, "the volume of a coordinator is being replaced");
                Ok(replicas)
            }
            receipt => unreachable!("a replacement is answered with replicas, not with {receipt:?}"),
        }
    }

    fn shown(&self, moving: &ReplicaMove) -> public::ReplicaMove {
        public::ReplicaMove {
            shard: moving.shard.0,
            from_node: moving.from.node.to_string(),
            to_node: moving.to.node.to_string(),
            from_replica: moving.from.replica.get(),
            to_replica: moving.to.replica.get(),
            state: match moving.state {
                MoveState::Learning => public::MoveState::Learning,
                MoveState::Replacing => public::MoveState::Replacing,
                MoveState::Cancelling => public::MoveState::Cancelling,
            }
            .into(),
            lag: moves::lag(&self.front.nodes.routes, moving).unwrap_or(0),
        }
    }
}

fn numbered(number: u64) -> Result<CoordinatorId, ClientError> {
    let reason = format!("must be 1 to {COORDINATORS_MAX}");
    CoordinatorId::new(number).ok_or_else(|| ClientError::field("coordinator", reason))
}

/// The node that an operator names: by its address, or by digits that only its id begins with.
fn named(view: &MetadataView, field: &'static str, name: &str) -> Result<NodeId, ClientError> {
    let by_address = view.nodes().find(|node| !name.is_empty() && node.address == name);
    if let Some(node) = by_address {
        return Ok(node.node_id);
    }
    let digits = name.len() >= DIGITS_MIN && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digits {
        let reason = format!("`{name}` is neither an address of a node nor at least {DIGITS_MIN} digits of its id");
        return Err(ClientError::field(field, reason));
    }
    let lower = name.to_ascii_lowercase();
    let mut begins = view.nodes().filter(|node| node.node_id.to_string().starts_with(&lower));
    match (begins.next(), begins.next()) {
        (Some(node), None) => Ok(node.node_id),
        (Some(_), Some(_)) => {
            Err(ClientError::field(field, format!("several nodes begin with `{name}`; give more digits")))
        }
        (None, _) => Err(ClientError::NoSuchNode(name.to_owned())),
    }
}

/// A node's last word on a shard, while it is fresh.
fn reported(reports: &Reports, node: NodeId, shard: u32) -> Option<&ReplicaReport> {
    let report = reports.get(&node.0).filter(|report| report.at.elapsed() < LIVE_WITHIN)?;
    report.replicas.iter().find(|replica| replica.shard == shard)
}

fn shard(view: &MetadataView, placement: &ShardPlacement, reports: &Reports) -> public::ShardStatus {
    let number = placement.shard.0;
    let joining = view.move_of(placement.shard).map(|moving| &moving.to);
    let replicas = placement.voters.iter().chain(joining);
    let known: Vec<_> = replicas.map(|voter| (voter, reported(reports, voter.node, number))).collect();
    let commit = known.iter().filter_map(|(_, report)| report.map(|report| report.commit_index)).max().unwrap_or(0);
    // The replica that has applied most counts; a leader's word wins by being among them.
    let furthest = known
        .iter()
        .filter_map(|(_, report)| *report)
        .max_by_key(|report| report.status.as_ref().map_or(0, |status| status.applied_index));
    let replicas = known.iter().map(|(voter, report)| {
        let mut status = report.and_then(|report| report.status.clone()).unwrap_or_default();
        status.replica = voter.replica.get();
        status.node_id = voter.node.to_string();
        status.lag = commit.saturating_sub(status.applied_index);
        status
    });
    public::ShardStatus {
        shard: number,
        epoch: placement.epoch,
        replicas: replicas.collect(),
        pending: furthest.map_or(0, |report| report.galleries.iter().map(|gallery| gallery.pending).sum()),
        obligations: furthest.map_or(0, |report| report.obligations),
    }
}

/// Each gallery's counts, from the furthest replica of every shard.
fn galleries(view: &MetadataView, reports: &Reports) -> Vec<public::GalleryCounts> {
    let mut counts: BTreeMap<String, public::GalleryCounts> = view
        .galleries()
        .map(|gallery| {
            let (name, version) = (gallery.name.to_string(), gallery.policy.version.0);
            let counts = public::GalleryCounts {
                gallery: name.clone(),
                policy_version: version,
                policy_version_told: version,
                ..Default::default()
            };
            (name, counts)
        })
        .collect();
    for placement in view.shard_map().values() {
        let known = placement.voters.iter().filter_map(|voter| reported(reports, voter.node, placement.shard.0));
        let known: Vec<&ReplicaReport> = known.collect();
        for report in known.iter().flat_map(|report| &report.galleries) {
            if let Some(gallery) = counts.get_mut(&report.gallery) {
                gallery.policy_version_told = gallery.policy_version_told.min(report.policy_version);
            }
        }
        let furthest =
            known.into_iter().max_by_key(|report| report.status.as_ref().map_or(0, |status| status.applied_index));
        for report in furthest.iter().flat_map(|report| &report.galleries) {
            if let Some(gallery) = counts.get_mut(&report.gallery) {
                gallery.live += report.live;
                gallery.withdrawn += report.withdrawn;
                gallery.pending += report.pending;
                gallery.cases += report.cases;
            }
        }
    }
    counts.into_values().collect()
}

#[tonic::async_trait]
impl ClusterService for ClusterServer {
    async fn get_cluster_status(
        &self,
        _request: Request<public::GetClusterStatusRequest>,
    ) -> Result<Response<public::GetClusterStatusResponse>, Status> {
        if !self.front.metadata.votes() {
            // What it has of the metadata may be nothing yet.
            return Err(ClientError::NotReady(NOT_A_VOTER).into());
        }
        Ok(Response::new(status(&self.front)))
    }

    async fn move_replica(
        &self,
        request: Request<public::MoveReplicaRequest>,
    ) -> Result<Response<public::MoveReplicaResponse>, Status> {
        let moving = ClusterServer::move_replica(self, request.get_ref()).await?;
        Ok(Response::new(public::MoveReplicaResponse { r#move: Some(self.shown(&moving)) }))
    }

    async fn cancel_move(
        &self,
        request: Request<public::CancelMoveRequest>,
    ) -> Result<Response<public::CancelMoveResponse>, Status> {
        self.record(&MetadataCommand::CancelMove { shard: ShardId(request.get_ref().shard) }).await?;
        Ok(Response::new(public::CancelMoveResponse {}))
    }

    async fn list_moves(
        &self,
        _request: Request<public::ListMovesRequest>,
    ) -> Result<Response<public::ListMovesResponse>, Status> {
        let view = self.current().await?;
        let moves = view.moves().map(|moving| self.shown(moving)).collect();
        Ok(Response::new(public::ListMovesResponse { moves }))
    }

    async fn drain_node(
        &self,
        request: Request<public::DrainNodeRequest>,
    ) -> Result<Response<public::DrainNodeResponse>, Status> {
        Ok(Response::new(self.drain(request.get_ref()).await?))
    }

    async fn remove_node(
        &self,
        request: Request<public::RemoveNodeRequest>,
    ) -> Result<Response<public::RemoveNodeResponse>, Status> {
        let node_id = self.remove(request.get_ref()).await?.to_string();
        Ok(Response::new(public::RemoveNodeResponse { node_id }))
    }

    async fn replace_coordinator(
        &self,
        request: Request<public::ReplaceCoordinatorRequest>,
    ) -> Result<Response<public::ReplaceCoordinatorResponse>, Status> {
        let replicas = self.replace(numbered(request.get_ref().coordinator)?).await?;
        let (from_replica, to_replica) = (replicas.voter.get(), replicas.newest.get());
        Ok(Response::new(public::ReplaceCoordinatorResponse { from_replica, to_replica }))
    }

    async fn cancel_replacement(
        &self,
        request: Request<public::CancelReplacementRequest>,
    ) -> Result<Response<public::CancelReplacementResponse>, Status> {
        let coordinator = numbered(request.get_ref().coordinator)?;
        self.record(&MetadataCommand::CancelReplacement { coordinator }).await?;
        Ok(Response::new(public::CancelReplacementResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use semel_workflow::{MetadataChanged, MetadataRow, NodeRecord};

    use super::*;

    fn view() -> MetadataView {
        let node = |number: u8, address: &str| {
            let node_id = NodeId([number; 16]);
            let (address, version) = (address.to_owned(), String::new());
            MetadataChanged::Set(MetadataRow::Node(NodeRecord { node_id, address, version, replicas_confirmed: false }))
        };
        MetadataView::default().with(&[node(0xab, "one:7411"), node(0xac, ""), node(0x0d, "0d0d:1")])
    }

    fn check(name: &str, expected: Result<u8, &str>) {
        match (named(&view(), "node", name), expected) {
            (Ok(node), Ok(number)) => assert_eq!(node, NodeId([number; 16]), "{name}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }

    #[test]
    fn an_operator_names_a_node_by_its_address_or_the_beginning_of_its_id() {
        check("one:7411", Ok(0xab));
        check("abab", Ok(0xab));
        check("ABABABAB", Ok(0xab));
        check("0d0d:1", Ok(0x0d));
        check("aba", Err("at least 4 digits"));
        check("", Err("node:"));
        check("elsewhere:1", Err("neither an address"));
        check("ffff", Err("does not exist"));
    }
}
