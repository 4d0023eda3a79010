//! The settings of a host and of each group it runs.

use std::time::Duration;

use semel_raft::{ReplicaConfig, ReplicaId};

use crate::envelope::ClusterId;

/// How a host runs its groups. All hosts of a cluster should agree on the times.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The cluster; messages of another one are dropped.
    pub cluster: ClusterId,
    /// Decides the election timeouts of the replicas, together with their ids. Hosts may differ.
    pub seed: u64,
    /// How long a tick of the replicas' clock is. Default 50 ms.
    pub tick: Duration,
    /// Ticks without a word from the leader until a replica campaigns, see [`ReplicaConfig`]. A sync that takes more than half of them
    /// silences the host until it ends. Default 20.
    pub election_ticks: usize,
    /// Ticks between two heartbeats of a leader. Default 4.
    pub heartbeat_ticks: usize,
    /// Ticks that one turn reports at most. A host that was held up (a slow disk, a suspended machine) has not read what
    /// others sent meanwhile: told of all the time at once, its replicas would campaign against healthy leaders.
    /// Default 2.
    pub turn_ticks_max: u32,
    /// Newest log entries that each group keeps in memory, in bytes. Default 4 MiB.
    pub entry_cache_bytes_max: usize,
    /// Groups that the host runs at most. Default 4,096.
    pub groups_max: usize,
    /// Requests (proposals, barriers) that may wait for the next turn; more are refused. Default 16,384.
    pub requests_queued_max: usize,
    /// The commands among them, in bytes. Default 64 MiB.
    pub request_bytes_queued_max: usize,
    /// Messages of other replicas that may wait for the next turn; more are dropped, which raft tolerates. Default 65,536.
    pub messages_queued_max: usize,
    /// The same, in bytes. Default 256 MiB.
    pub message_bytes_queued_max: usize,
    /// Entries that a group's log holds, besides those not applied, before the oldest are removed; half of them stay. Default 20,000.
    pub log_entries_max: u64,
    /// Snapshots that are sent to other processes at once; more wait. Default 2.
    pub snapshots_sent_max: usize,
    /// Snapshots that are taken in at once; more are refused, and tried again by their senders. Default 2.
    pub snapshots_received_max: usize,
    /// The rate at which all snapshots together leave, in bytes per second. Default 64 MiB.
    pub snapshot_bytes_per_second: u64,
    /// How long a transfer may stand still before it counts as failed. Default 10 s.
    pub snapshot_stall: Duration,
    /// What a snapshot that comes in leaves free on the disk, in bytes. Default 256 MiB.
    pub disk_reserve_bytes: u64,
}

impl HostConfig {
    /// The defaults for a host of one cluster.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            seed: 0,
            tick: Duration::from_millis(50),
            election_ticks: 20,
            heartbeat_ticks: 4,
            turn_ticks_max: 2,
            entry_cache_bytes_max: 4 << 20,
            groups_max: 4_096,
            requests_queued_max: 16_384,
            request_bytes_queued_max: 64 << 20,
            messages_queued_max: 65_536,
            message_bytes_queued_max: 256 << 20,
            log_entries_max: 20_000,
            snapshots_sent_max: 2,
            snapshots_received_max: 2,
            snapshot_bytes_per_second: 64 << 20,
            snapshot_stall: Duration::from_secs(10),
            disk_reserve_bytes: 256 << 20,
        }
    }

    pub(crate) fn replica_config(&self, replica: ReplicaId, boot_nonce: u64) -> ReplicaConfig {
        ReplicaConfig {
            election_ticks: self.election_ticks,
            heartbeat_ticks: self.heartbeat_ticks,
            entry_cache_bytes_max: self.entry_cache_bytes_max,
            log_entries_max: self.log_entries_max,
            log_entries_kept: self.log_entries_max / 2,
            ..ReplicaConfig::new(replica, boot_nonce, self.seed)
        }
    }
}

/// One group that a host is to run a replica of.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The group, unique within the cluster.
    pub group: u64,
    /// The replica of it that runs here, unique for ever.
    pub replica: ReplicaId,
    /// What to do if the database has no rows of the group.
    pub fresh: FreshGroup,
}

/// What to do with a group whose rows are not in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreshGroup {
    /// Write its first rows. Right only while the group is being founded: every replica of it starts with these voters and
    /// an empty log.
    Bootstrap {
        /// All first replicas of the group.
        voters: Vec<ReplicaId>,
    },
    /// Write the first rows of a replica that joins a group: it knows nothing, votes for nobody who knows more, and gets a snapshot
    /// first.
    Join,
    /// Refuse: the replica existed before, and what it voted for and acknowledged is gone.
    Refuse,
}
