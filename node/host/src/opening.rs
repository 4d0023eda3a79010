//! Opens one group's replica: first rows where the group is fresh, then everything derived from the rows. Runs on a thread
//! that may block, beside the host's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use semel_raft::{
    OpenError, Replica, ReplicaId, StateMachine, StoreError, Table, WriteBatch, bootstrap, bootstrap_learner,
};

use crate::config::{FreshGroup, GroupConfig, HostConfig};
use crate::database::Database;
use crate::database_error::{FoundGroupError, WriteError};
use crate::metrics::HostMetrics;
use crate::seat::{Seat, Seated, panic_message};

/// Why a group does not run here.
#[derive(Debug, thiserror::Error)]
pub enum AddGroupError {
    /// The database has no rows of the group, and must have some.
    #[error("group {group}: the rows of replica {replica} are gone")]
    RowsMissing {
        /// The group.
        group: u64,
        /// The replica that should have rows.
        replica: ReplicaId,
    },
    /// A group that is founded must contain the replica that founds it here.
    #[error("group {group}: replica {replica} is not among the voters")]
    NotAVoter {
        /// The group.
        group: u64,
        /// The replica asked for.
        replica: ReplicaId,
    },
    /// The replica was here and was removed: its group has done without it since.
    #[error("group {group}: replica {replica} was removed from this volume and never comes back")]
    Removed {
        /// The group.
        group: u64,
        /// The replica.
        replica: ReplicaId,
    },
    /// The rows belong to another replica of the group.
    #[error("group {group}: the rows belong to replica {holder}, not {replica}")]
    OtherReplica {
        /// The group.
        group: u64,
        /// The replica asked for.
        replica: ReplicaId,
        /// The replica whose rows they are.
        holder: ReplicaId,
    },
    /// The database was opened without a table that the state machine writes.
    #[error("group {group}: the database was opened without table {table:?}")]
    TableMissing {
        /// The group.
        group: u64,
        /// The table.
        table: Table,
    },
    /// The host runs as many groups as it may.
    #[error("the host runs {groups_max} groups and no more")]
    TooManyGroups {
        /// The bound.
        groups_max: usize,
    },
    /// The rows could not be read.
    #[error("group {group}: {source}")]
    Read {
        /// The group.
        group: u64,
        /// The failed read.
        source: StoreError,
    },
    /// The first rows could not be written.
    #[error("group {group}: {source}")]
    Write {
        /// The group.
        group: u64,
        /// The failed write.
        source: WriteError,
    },
    /// The replica does not accept its rows.
    #[error("group {group}: {source}")]
    Open {
        /// The group.
        group: u64,
        /// What it said.
        source: OpenError,
    },
    /// The replica, its machine or its publisher panicked over the rows.
    #[error("group {group}: {reason}")]
    Panicked {
        /// The group.
        group: u64,
        /// What it said.
        reason: String,
    },
    /// The host has ended.
    #[error("the host has ended")]
    HostEnded,
}

/// What opening needs of the host.
pub(crate) struct Opening {
    pub(crate) config: Arc<HostConfig>,
    pub(crate) database: Arc<Database>,
    pub(crate) metrics: Arc<HostMetrics>,
}

impl Opening {
    /// Opens the replica of one group. Whatever panics over damaged rows is an error of this group alone.
    pub(crate) fn open<M: StateMachine>(
        self,
        config: GroupConfig,
        seated: Seated<M>,
    ) -> Result<Box<Seat<M>>, AddGroupError> {
        let group = config.group;
        let open = AssertUnwindSafe(|| self.open_rows(config, seated));
        catch_unwind(open)
            .unwrap_or_else(|panic| Err(AddGroupError::Panicked { group, reason: panic_message(panic.as_ref()) }))
    }

    fn open_rows<M: StateMachine>(
        self,
        config: GroupConfig,
        mut seated: Seated<M>,
    ) -> Result<Box<Seat<M>>, AddGroupError> {
        let GroupConfig { group, replica, .. } = config;
        if let Some(table) = M::TABLES.iter().find(|table| !self.database.has_table(**table)) {
            return Err(AddGroupError::TableMissing { group, table: *table });
        }
        let holder = self.holder(&config)?;
        if holder != replica {
            return Err(AddGroupError::OtherReplica { group, replica, holder });
        }
        let store = self.database.group(group);
        // Another one each time, so that nothing of the former run in the network is taken for this one's.
        let replica_config = self.config.replica_config(replica, rand::random());
        let opened = Replica::open(replica_config, store.clone(), (seated.machine)())
            .map_err(|source| AddGroupError::Open { group, source })?;
        let restored = seated.publisher.restore(opened.status().applied, &store);
        restored.map_err(|source| AddGroupError::Read { group, source })?;
        Ok(Box::new(Seat::new(group, replica, opened, seated, self.metrics)))
    }

    /// The replica whose rows the database has, writing the first ones where the group is being founded.
    fn holder(&self, config: &GroupConfig) -> Result<ReplicaId, AddGroupError> {
        let GroupConfig { group, replica, .. } = *config;
        let present = self.database.replica_of(group).map_err(|source| AddGroupError::Read { group, source })?;
        if let Some(holder) = present {
            return Ok(holder);
        }
        match &config.fresh {
            FreshGroup::Refuse => Err(AddGroupError::RowsMissing { group, replica }),
            FreshGroup::Bootstrap { voters } if !voters.contains(&replica) => {
                Err(AddGroupError::NotAVoter { group, replica })
            }
            FreshGroup::Bootstrap { voters } => self.found(group, replica, &bootstrap(voters)),
            FreshGroup::Join => self.found(group, replica, &bootstrap_learner()),
        }
    }

    fn found(&self, group: u64, replica: ReplicaId, first_rows: &WriteBatch) -> Result<ReplicaId, AddGroupError> {
        self.database.found_group(group, replica, first_rows).map_err(|error| match error {
            FoundGroupError::Read(source) => AddGroupError::Read { group, source },
            FoundGroupError::Write(source) => AddGroupError::Write { group, source },
            FoundGroupError::Removed => AddGroupError::Removed { group, replica },
        })
    }
}
