//! `MembershipService`: nodes that join, report, and learn what to host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use semel_index::{GalleryId, ShardId};
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::membership_service_server::MembershipService;
use semel_raft::ReplicaId;
use semel_workflow::{Cluster, MetadataCommand, MetadataRefusal, MetadataView, NodeId};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::front::Front;
use crate::metadata::refused;
use crate::status::ClientError;

/// How long the metadata group may take to record a join.
const RECORD_WITHIN: Duration = Duration::from_secs(2);

/// Serves nodes.
pub(crate) struct MembershipServer {
    front: Arc<Front>,
}

impl MembershipServer {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }

    fn cluster(&self) -> Result<Cluster, Status> {
        let view = self.front.metadata.view();
        view.cluster().copied().ok_or_else(|| Status::unavailable("the cluster is not founded yet"))
    }

    fn check_cluster(&self, cluster_id: &[u8]) -> Result<(), Status> {
        let own = self.cluster()?.cluster_id;
        if cluster_id == own.0 {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "cluster_id: the volume belongs to another cluster than {own}: check `coordinators` and `data`; to join this cluster, start \
             the node on an empty folder"
        )))
    }
}

fn node_id(bytes: &[u8]) -> Result<NodeId, Status> {
    bytes.try_into().map(NodeId).map_err(|_| Status::invalid_argument("node_id: must be 16 bytes"))
}

fn explain(refusal: &MetadataRefusal) -> Status {
    let advice = match refusal {
        MetadataRefusal::EmptiedVolume { .. } => {
            "; restore the volume as it was, with its replicas: what they acknowledged must not be forgotten. Or empty it altogether: \
             the node then joins as a new one, and `semel cluster drain` moves the replicas of the old one to others"
        }
        _ => "",
    };
    Status::new(crate::gallery_service::refusal_code(refusal), format!("{refusal}{advice}"))
}

/// What a node is to host: its replicas by the map, and those that are being moved to it.
fn assignments(view: &MetadataView, node: NodeId) -> Vec<wire::Assignment> {
    let peer = |voter: &semel_workflow::Voter| wire::Peer {
        replica: voter.replica.get(),
        node_id: Bytes::copy_from_slice(&voter.node.0),
        address: view.node(voter.node).map(|node| node.address.clone()).unwrap_or_default(),
    };
    let assigned = view.shard_map().values().filter_map(|placement| {
        let joining = view.move_of(placement.shard).map(|moving| moving.to);
        let placed = placement.voters.iter().find(|voter| voter.node == node);
        let own = placed.copied().or(joining.filter(|joining| joining.node == node))?;
        Some(wire::Assignment {
            shard: placement.shard.0,
            epoch: placement.epoch,
            replica: own.replica.get(),
            voters: placement.voters.iter().map(peer).collect(),
            joining: joining.iter().map(peer).collect(),
            founder: placed.is_some() && placement.epoch == EPOCH_FIRST,
        })
    });
    assigned.collect()
}

/// The epoch of a shard none of whose replicas was moved: all of them founded it.
const EPOCH_FIRST: u64 = 1;

/// Replicas among those reported that nothing counts on.
fn uncounted(view: &MetadataView, replicas: &[wire::ReplicaReport]) -> Vec<wire::RetiredReplica> {
    let reported = replicas.iter().filter_map(|report| {
        let replica = ReplicaId::new(report.status.as_ref()?.replica)?;
        Some((ShardId(report.shard), replica))
    });
    let uncounted = reported.filter(|(shard, replica)| view.is_placed() && !view.counts_on(*shard, *replica));
    uncounted.map(|(shard, replica)| wire::RetiredReplica { shard: shard.0, replica: replica.get() }).collect()
}

/// The engines of reported galleries whose policies are newer than what some replica was told of: none once all were. `current` gives the
/// version in force and its engine.
fn engines(
    replicas: &[wire::ReplicaReport],
    current: impl Fn(&str) -> Option<(u64, String)>,
) -> Vec<wire::GalleryEngine> {
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    for report in replicas.iter().flat_map(|replica| &replica.galleries) {
        let oldest = told.entry(&report.gallery).or_insert(report.policy_version);
        *oldest = report.policy_version.min(*oldest);
    }
    let newer = told.into_iter().filter_map(|(gallery, told)| {
        let (policy_version, engine) = current(gallery).filter(|(version, _)| *version > told)?;
        Some(wire::GalleryEngine { gallery: gallery.to_owned(), policy_version, engine })
    });
    newer.collect()
}

/// The version of a gallery's policy in force, and the engine that it names.
fn engine_in_force(view: &MetadataView, gallery: &str) -> Option<(u64, String)> {
    let policy = view.current_policy(&GalleryId::try_from(gallery).ok()?)?;
    Some((policy.version.0, policy.policy.engine().map(ToString::to_string).unwrap_or_default()))
}

#[tonic::async_trait]
impl MembershipService for MembershipServer {
    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        let request = request.into_inner();
        if !request.cluster_id.is_empty() {
            self.check_cluster(&request.cluster_id)?;
        }
        let node_id = node_id(&request.node_id)?;
        let view = self.front.metadata.view();
        if let Some(known) = view.node(node_id).filter(|known| known.address != request.address)
            && self.front.nodes.routes.is_live(node_id.0)
        {
            let from = &known.address;
            tracing::warn!(node = %node_id, from, also = request.address, "two processes claim one node");
            return Err(Status::already_exists(format!(
                "node {node_id} reports from {from}: this volume is a copy, or its other process still runs; stop that one first"
            )));
        }
        let command = MetadataCommand::JoinNode {
            node_id,
            address: request.address.clone(),
            version: request.version,
            replicas_held: request.replicas_held,
        };
        let receipt = self.front.metadata.propose(&command, Instant::now() + RECORD_WITHIN).await;
        refused(receipt.map_err(ClientError::from)?).map_err(|refusal| explain(&refusal))?;
        tracing::info!(node = %node_id, address = request.address, "node joined");
        Ok(Response::new(wire::JoinResponse { cluster_id: Bytes::copy_from_slice(&self.cluster()?.cluster_id.0) }))
    }

    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let node = node_id(&request.node_id)?;
        let (view, metadata_index) = self.front.metadata.view_at();
        let assigned = assignments(&view, node);
        let engines = engines(&request.replicas, |gallery| engine_in_force(&view, gallery));
        let mut retired = uncounted(&view, &request.replicas);
        if !retired.is_empty() {
            // This view may be from before the replica came: its rows are only given up by one that knows everything.
            retired = match self.front.metadata.current(Instant::now() + RECORD_WITHIN).await {
                Ok(current) => uncounted(&current, &request.replicas),
                Err(_) => Vec::new(),
            };
        }
        let holds = |assigned: &wire::Assignment| {
            let own =
                |report: &wire::ReplicaReport| report.status.as_ref().is_some_and(|s| s.replica == assigned.replica);
            request.replicas.iter().any(own)
        };
        let holds_all = !assigned.is_empty() && assigned.iter().all(holds);
        if holds_all && view.node(node).is_some_and(|record| !record.replicas_confirmed) {
            let confirm = MetadataCommand::ConfirmReplicas { node_id: node };
            // Reported again in half a second if this fails.
            let _ = self.front.metadata.propose(&confirm, Instant::now() + RECORD_WITHIN).await;
        }
        self.front.nodes.routes.reported(node.0, request);
        let shards_count = self.cluster()?.shards.get();
        Ok(Response::new(wire::ReportResponse {
            assignments: assigned,
            shards_count,
            metadata_index: metadata_index.0,
            retired,
            engines,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_told_to_whoever_has_a_replica_that_does_not_know_them() {
        let replica = |galleries: &[(&str, u64)]| {
            let report = |(gallery, policy_version): &(&str, u64)| wire::GalleryReport {
                gallery: (*gallery).to_owned(),
                policy_version: *policy_version,
                ..Default::default()
            };
            wire::ReplicaReport { galleries: galleries.iter().map(report).collect(), ..Default::default() }
        };
        let check = |replicas: &[wire::ReplicaReport], expected: &[(&str, u64, &str)]| {
            let current = |gallery: &str| match gallery {
                "people" => Some((3, "sketch".to_owned())),
                "eyes" => Some((1, String::new())),
                _ => None,
            };
            let told = engines(replicas, current);
            let told: Vec<_> =
                told.iter().map(|one| (one.gallery.as_str(), one.policy_version, one.engine.as_str())).collect();
            assert_eq!(told, expected);
        };
        check(&[], &[]);
        check(&[replica(&[("people", 0), ("eyes", 0), ("gone", 0)])], &[("eyes", 1, ""), ("people", 3, "sketch")]);
        check(&[replica(&[("people", 3)]), replica(&[("people", 2), ("eyes", 1)])], &[("people", 3, "sketch")]);
        check(&[replica(&[("people", 3)]), replica(&[("people", 3), ("eyes", 1)])], &[]);
        // This coordinator is behind.
        check(&[replica(&[("people", 4)])], &[]);
    }
}
