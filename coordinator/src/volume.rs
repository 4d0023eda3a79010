//! What a coordinator's folder says of itself: whose it is, which replica of the metadata group it holds, and of which cluster.
//!
//! A folder that is empty belongs to nobody yet: what becomes of it is for `admission`.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use semel_raft::ReplicaId;
use semel_raft_host::Database;
use semel_workflow::{ClusterId, CoordinatorId, MetadataView, VolumeId};

use crate::config::Voter;
use crate::metadata::GROUP;

/// The names under which the folder keeps the voters that the group was founded with, its own id, and whose it is.
const VOTERS: &str = "metadata_voters";
const VOLUME: &str = "metadata_volume";
const COORDINATOR: &str = "metadata_coordinator";

/// A coordinator's folder, of this coordinator.
#[derive(Debug)]
pub(crate) struct Volume {
    database: Arc<Database>,
    coordinator: CoordinatorId,
    /// `None` for a folder from before folders had ids.
    pub(crate) id: Option<VolumeId>,
    /// The replica that it holds; `None` = it is empty.
    pub(crate) replica: Option<ReplicaId>,
    /// The cluster, as far as the rows know.
    pub(crate) cluster: Option<ClusterId>,
    voters: Vec<u8>,
}

impl Volume {
    /// Reads the folder, and refuses one of another coordinator or group, or without the rows that it had.
    pub(crate) fn open(database: Arc<Database>, coordinator: CoordinatorId, voters: &[Voter]) -> anyhow::Result<Self> {
        if let Some(owner) = database.identity(COORDINATOR)? {
            ensure!(
                *owner == coordinator.get().to_le_bytes(),
                "data: the folder is another coordinator's than {coordinator}: check `id` and `data`"
            );
        }
        let voters: Vec<u8> = voters.iter().flat_map(|voter| voter.id.to_le_bytes()).collect();
        let founded = database.identity(VOTERS)?;
        ensure!(
            founded.as_ref().is_none_or(|founded| *founded == voters),
            "voters: the folder's group was founded with other numbers; they stay, also where a volume is replaced"
        );
        let replica = database.replica_of(GROUP)?;
        if replica.is_none() && founded.is_some() {
            bail!(
                "data: the folder has lost the rows of the coordinators' group: restore it as it was, or empty it altogether and \
                 let it be replaced: semel cluster replace-coordinator {coordinator}"
            );
        }
        let id = match database.identity(VOLUME)? {
            Some(id) => Some(VolumeId(id.as_ref().try_into().context("the volume's id is not 16 bytes")?)),
            None if replica.is_some() => {
                ensure!(
                    replica == Some(coordinator.first_replica()),
                    "data: the folder is another coordinator's than {coordinator}: check `id` and `data`"
                );
                None
            }
            None => {
                let id = VolumeId(rand::random());
                // Its owner first: a folder with an id has one.
                database.put_identity(COORDINATOR, &coordinator.get().to_le_bytes())?;
                database.put_identity(VOLUME, &id.0)?;
                Some(id)
            }
        };
        let cluster = match replica {
            Some(_) => MetadataView::load(&database.group(GROUP))?.cluster().map(|cluster| cluster.cluster_id),
            None => None,
        };
        Ok(Self { database, coordinator, id, replica, cluster, voters })
    }

    /// Whose it is.
    pub(crate) fn coordinator(&self) -> CoordinatorId {
        self.coordinator
    }

    /// The rows.
    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Notes that the rows of a replica are there, so that a folder without them has lost them.
    pub(crate) fn has_rows(&self) -> anyhow::Result<()> {
        Ok(self.database.put_identity(VOTERS, &self.voters)?)
    }
}
