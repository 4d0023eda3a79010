//! Who the node is: an id drawn when its volume was empty, and the cluster it joined. Both live on the volume.

use anyhow::{Context as _, ensure};
use prost::Message as _;
use semel_proto::internal::v1::ReportResponse;
use semel_raft_host::{ClusterId, Database};

const NODE_ID: &str = "node_id";
const CLUSTER_ID: &str = "cluster_id";
const ASSIGNMENTS: &str = "assignments";

/// The identity on one volume.
pub(crate) struct Identity<'a> {
    database: &'a Database,
}

impl<'a> Identity<'a> {
    pub(crate) fn of(database: &'a Database) -> Self {
        Self { database }
    }

    /// The node's id; drawn now if the volume is empty.
    pub(crate) fn node_id(&self) -> anyhow::Result<[u8; 16]> {
        if let Some(id) = self.database.identity(NODE_ID)? {
            return id.as_ref().try_into().context("the node id on the volume is not 16 bytes");
        }
        ensure!(
            self.database.groups()?.is_empty(),
            "the volume holds replicas but no node id: it was damaged or put together by hand; restore it whole"
        );
        let id: [u8; 16] = rand::random();
        self.database.put_identity(NODE_ID, &id)?;
        Ok(id)
    }

    /// The cluster that the node joined, if it ever did.
    pub(crate) fn cluster(&self) -> anyhow::Result<Option<ClusterId>> {
        let Some(id) = self.database.identity(CLUSTER_ID)? else { return Ok(None) };
        Ok(Some(ClusterId(id.as_ref().try_into().context("the cluster id on the volume is not 16 bytes")?)))
    }

    /// Records the cluster joined. It never changes afterwards.
    pub(crate) fn set_cluster(&self, cluster: ClusterId) -> anyhow::Result<()> {
        match self.cluster()? {
            None => Ok(self.database.put_identity(CLUSTER_ID, &cluster.0)?),
            Some(known) => {
                ensure!(
                    known == cluster,
                    "the volume belongs to cluster {known:?}, the coordinators speak for {cluster:?}: \
                     check `coordinators` and `data`"
                );
                Ok(())
            }
        }
    }

    /// What the coordinators last assigned, so that the node can serve before one of them answers.
    pub(crate) fn assignments(&self) -> anyhow::Result<Option<ReportResponse>> {
        let Some(bytes) = self.database.identity(ASSIGNMENTS)? else { return Ok(None) };
        Ok(Some(ReportResponse::decode(bytes).context("the assignments on the volume cannot be read")?))
    }

    /// Records what is assigned.
    pub(crate) fn set_assignments(&self, assignments: &ReportResponse) -> anyhow::Result<()> {
        Ok(self.database.put_identity(ASSIGNMENTS, &assignments.encode_to_vec())?)
    }
}
