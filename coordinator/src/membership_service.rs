//! `MembershipService`: nodes that join, report, and learn what to host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::membership_service_server::MembershipService;
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
        Err(Status::failed_precondition(format!("cluster_id: the volume belongs to another cluster than {own}")))
    }
}

fn node_id(bytes: &[u8]) -> Result<NodeId, Status> {
    bytes.try_into().map(NodeId).map_err(|_| Status::invalid_argument("node_id: must be 16 bytes"))
}

fn explain(refusal: &MetadataRefusal) -> Status {
    let advice = match refusal {
        MetadataRefusal::EmptiedVolume { .. } => {
            "; restore the volume as it was, with its replicas: what they acknowledged must not be forgotten"
        }
        _ => "",
    };
    Status::new(crate::gallery_service::refusal_code(refusal), format!("{refusal}{advice}"))
}

/// What a node is to host.
fn assignments(view: &MetadataView, node: NodeId) -> Vec<wire::Assignment> {
    let peer = |voter: &semel_workflow::Voter| {
        Some(wire::Peer {
            replica: voter.replica.get(),
            node_id: Bytes::copy_from_slice(&voter.node.0),
            address: view.node(voter.node)?.address.clone(),
        })
    };
    let assigned = view.shards_of(node).filter_map(|placement| {
        let own = placement.voters.iter().find(|voter| voter.node == node)?;
        Some(wire::Assignment {
            shard: placement.shard.0,
            epoch: placement.epoch,
            replica: own.replica.get(),
            voters: placement.voters.iter().filter_map(peer).collect(),
        })
    });
    assigned.collect()
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
        let holds_all = !assigned.is_empty() && request.replicas.len() >= assigned.len();
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
        }))
    }
}
