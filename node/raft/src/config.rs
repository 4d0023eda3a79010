//! The settings of a replica and their defaults. Times are in ticks: the driver decides how long a tick is.

use raft::Config;

use crate::ids::ReplicaId;

/// The largest command that can be proposed, in bytes.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// How one replica behaves. The replicas of a group should agree on everything but the first three fields.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Which replica this is.
    pub replica: ReplicaId,
    /// Differs each time the replica is opened: it keeps what a former run left in the network from being taken for this
    /// run's.
    pub boot_nonce: u64,
    /// Decides the election timeouts, together with replica, term and attempt.
    pub seed: u64,
    /// A follower that hears nothing campaigns after this many ticks, at the earliest; before twice as many, at the latest.
    /// Default 20; more than `heartbeat_ticks`.
    pub election_ticks: usize,
    /// A leader makes itself heard every so many ticks. Default 4; at least 1.
    pub heartbeat_ticks: usize,
    /// Proposals that may wait for their receipts at this replica. Default 4,096.
    pub proposals_pending_max: usize,
    /// A proposal that is not applied after so many ticks has an unknown outcome. Default 60.
    pub proposal_ticks_max: u64,
    /// Barriers that may wait at this replica. Default 16,384.
    pub barriers_pending_max: usize,
    /// Rounds of barrier messages that may be unanswered at the same time; later barriers share the next one. Default 64.
    pub barrier_rounds_max: usize,
    /// A round that is not answered after so many ticks is asked again. Default 8.
    pub barrier_ticks: u64,
    /// A barrier fails after this many times `barrier_ticks`. Default 5.
    pub barrier_attempts_max: u64,
    /// Newest log entries kept in memory, in bytes. Default 4 MiB.
    pub entry_cache_bytes_max: usize,
    /// Entries in one message to a follower or in one forwarded proposal, in bytes; a single larger entry still goes.
    /// Default 1 MiB.
    pub append_bytes_max: u64,
    /// Messages with entries that may be on their way to one follower, so that one far behind is not sent hundreds of MiB at once.
    /// Default 16.
    pub appends_inflight_max: usize,
    /// Entries a leader may hold that are not yet committed, in bytes. Default 16 MiB; at least `append_bytes_max`.
    pub uncommitted_bytes_max: u64,
    /// Entries applied in one batch of writes, in bytes; a single larger entry still is. Default 4 MiB.
    pub apply_bytes_max: u64,
    /// The log is cut short when it holds more applied entries than this. Default 20,000.
    pub log_entries_max: u64,
    /// The log is cut short when its applied entries are larger than this, in bytes (what an entry is in memory; after
    /// opening, an estimate). Default 64 MiB.
    pub log_bytes_max: u64,
    /// Applied entries that stay when the log is cut short, for followers that are a little behind; fewer where they are larger
    /// than half of `log_bytes_max`. Default 10,000; at most `log_entries_max`.
    pub log_entries_kept: u64,
    /// Applied entries that stay for a follower to which a snapshot is being sent; beyond, it will need another. Default 200,000.
    pub log_entries_pinned_max: u64,
    /// The same in bytes. Default 256 MiB.
    pub log_bytes_pinned_max: u64,
    /// A follower whose snapshot failed is offered no other for so many ticks; one to which it was delivered has as long to ask
    /// for what follows. Default 40.
    pub snapshot_retry_ticks: u64,
    /// Learners that a group may have. Default 2.
    pub learners_max: usize,
    /// A learner that lacks more entries than this is not made a voter. Default 256.
    pub learner_lag_max: u64,
    /// A change of the membership that is not complete after so many ticks has an unknown outcome. Default 200.
    pub membership_ticks_max: u64,
}

impl ReplicaConfig {
    /// Returns the defaults for one replica.
    pub fn new(replica: ReplicaId, boot_nonce: u64, seed: u64) -> Self {
        Self {
            replica,
            boot_nonce,
            seed,
            election_ticks: 20,
            heartbeat_ticks: 4,
            proposals_pending_max: 4_096,
            proposal_ticks_max: 60,
            barriers_pending_max: 16_384,
            barrier_rounds_max: 64,
            barrier_ticks: 8,
            barrier_attempts_max: 5,
            entry_cache_bytes_max: 4 << 20,
            append_bytes_max: 1 << 20,
            appends_inflight_max: 16,
            uncommitted_bytes_max: 16 << 20,
            apply_bytes_max: 4 << 20,
            log_entries_max: 20_000,
            log_bytes_max: 64 << 20,
            log_entries_kept: 10_000,
            log_entries_pinned_max: 200_000,
            log_bytes_pinned_max: 256 << 20,
            snapshot_retry_ticks: 40,
            learners_max: 2,
            learner_lag_max: 256,
            membership_ticks_max: 200,
        }
    }

    pub(crate) fn raft_config(&self, applied: u64) -> Config {
        Config {
            id: self.replica.get(),
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: self.append_bytes_max,
            max_inflight_msgs: self.appends_inflight_max,
            // A leader cut off from its majority steps down, so that its callers learn it; a replica that returns from a
            // partition asks before it disturbs the term.
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: self.uncommitted_bytes_max,
            max_committed_size_per_ready: self.apply_bytes_max,
            ..Config::default()
        }
    }

    /// The number of ticks of silence after which the replica campaigns. raft-rs draws it from the thread's generator;
    /// here it follows from the seed, so that a run can be repeated.
    pub(crate) fn election_timeout(&self, term: u64, attempt: u64) -> usize {
        let parts = [self.seed, self.replica.get(), term, attempt];
        let drawn = parts.into_iter().fold(0, |state: u64, part| mix(state ^ mix(part)));
        let span = self.election_ticks as u64;
        self.election_ticks + usize::try_from(drawn % span).expect("smaller than election_ticks, a usize")
    }
}

/// The finaliser of SplitMix64: a bijection that spreads every bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
