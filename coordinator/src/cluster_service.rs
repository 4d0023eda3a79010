//! `ClusterService`: the status of the cluster, from the metadata and the nodes' last reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel_proto::internal::v1::ReplicaReport;
use semel_proto::v1 as public;
use semel_proto::v1::cluster_service_server::ClusterService;
use semel_workflow::{MetadataView, NodeId, ShardPlacement};
use tonic::{Request, Response, Status};

use crate::front::Front;
use crate::routes::{LIVE_WITHIN, LastReport};

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
    let coordinators = view.coordinators().map(|coordinator| public::CoordinatorStatus {
        coordinator: coordinator.id.get(),
        address: coordinator.address.clone(),
        leader: Some(coordinator.id) == leader,
    });
    let shards: Vec<public::ShardStatus> =
        view.shard_map().values().map(|placement| shard(placement, &reports)).collect();
    let ready = !shards.is_empty() && shards.iter().all(is_led);
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

/// A node's last word on a shard, while it is fresh.
fn reported(reports: &Reports, node: NodeId, shard: u32) -> Option<&ReplicaReport> {
    let report = reports.get(&node.0).filter(|report| report.at.elapsed() < LIVE_WITHIN)?;
    report.replicas.iter().find(|replica| replica.shard == shard)
}

fn shard(placement: &ShardPlacement, reports: &Reports) -> public::ShardStatus {
    let number = placement.shard.0;
    let known: Vec<_> = placement.voters.iter().map(|voter| (voter, reported(reports, voter.node, number))).collect();
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
        .map(|gallery| gallery.name.to_string())
        .map(|gallery| (gallery.clone(), public::GalleryCounts { gallery, ..Default::default() }))
        .collect();
    for placement in view.shard_map().values() {
        let known = placement.voters.iter().filter_map(|voter| reported(reports, voter.node, placement.shard.0));
        let furthest = known.max_by_key(|report| report.status.as_ref().map_or(0, |status| status.applied_index));
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
        Ok(Response::new(status(&self.front)))
    }
}
