//! Counters of a host, written by its thread and read by anyone. Totals since the start unless named otherwise.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use semel_raft::{Role, StateMachine};
use semel_telemetry::{Families, Monitor, Seconds, Sizes};

use crate::grpc::GrpcTransport;
use crate::handle::HostHandle;
use crate::status::GroupStatus;

/// The counters, each on its own: two of them read together may be of different moments.
#[derive(Debug, Default)]
pub struct HostMetrics {
    /// Turns of the loop.
    pub turns: Count,
    /// Batches written.
    pub writes: Count,
    /// Syncs, each of all batches written before it began.
    pub syncs: Count,
    /// How long a sync took.
    pub sync_seconds: Seconds,
    /// Log entries that one sync made safe, over all groups.
    pub entries_per_sync: Sizes,
    /// How long a proposal took until it was applied here, or failed.
    pub propose_seconds: Seconds,
    /// How long a barrier took, or to fail.
    pub barrier_seconds: Seconds,
    /// The largest batch so far, in bytes.
    pub batch_bytes_largest: Count,
    /// Log entries written.
    pub entries_appended: Count,
    /// Ticks that passed and were not reported to the replicas, because a turn took too long.
    pub ticks_skipped: Count,
    /// Messages handed to the transport.
    pub messages_sent: Count,
    /// Messages handed to a replica.
    pub messages_received: Count,
    /// Messages dropped because too many waited.
    pub messages_dropped_overload: Count,
    /// Messages dropped because they were of another cluster, of no group here, for or from another replica than stated, or
    /// not messages.
    pub messages_dropped_misaddressed: Count,
    /// Requests refused because too many waited.
    pub requests_refused_overload: Count,
    /// Snapshots delivered to other processes.
    pub snapshots_sent: Count,
    /// Attempts to deliver a snapshot that failed; they are made again.
    pub snapshots_failed: Count,
    /// Bytes of rows sent in snapshots.
    pub snapshot_bytes_sent: Count,
    /// Snapshots that became a replica's rows here.
    pub snapshots_installed: Count,
    /// Replicas that stopped by a failure of theirs or of the database.
    pub replicas_failed: Count,
}

/// Shows a host's counters and the state of its replicas on `monitor`.
pub fn show<M: StateMachine>(monitor: &Monitor, host: HostHandle<M>, transport: GrpcTransport) {
    let metrics = host.metrics();
    let seconds = [
        ("semel_raft_sync_seconds", "Time of one sync of what all groups wrote", &metrics.sync_seconds),
        (
            "semel_raft_propose_seconds",
            "Time from a proposal until it is applied here, or fails",
            &metrics.propose_seconds,
        ),
        ("semel_raft_barrier_seconds", "Time until a read barrier is confirmed, or fails", &metrics.barrier_seconds),
    ];
    seconds.into_iter().for_each(|(name, help, seconds)| monitor.seconds(name, help, seconds));
    monitor.sizes("semel_raft_entries_per_sync", "Log entries that one sync made safe", &metrics.entries_per_sync);
    monitor.collect(move |families| {
        counters(families, host.metrics())?;
        let dropped = [
            ("overload", host.metrics().messages_dropped_overload.get()),
            ("misaddressed", host.metrics().messages_dropped_misaddressed.get()),
            ("destination_slow", transport.messages_dropped()),
        ];
        families.counters(
            "semel_raft_messages_dropped_total",
            "Messages dropped; Raft sends again",
            "reason",
            dropped,
        )?;
        let queued = host.queued();
        let length = [("requests", queued.requests as u64), ("messages", queued.messages as u64)];
        families.gauges("semel_raft_queue_length", "What waits for the next turn", "queue", length)?;
        let bytes = [("requests", queued.request_bytes as u64), ("messages", queued.message_bytes as u64)];
        families.gauges("semel_raft_queue_bytes", "Bytes that wait for the next turn", "queue", bytes)?;
        if let Some(database) = host.database() {
            let held =
                [("write_buffers", database.write_buffer_bytes()), ("block_cache", database.block_cache_bytes())];
            families.gauges(
                "semel_raft_database_memory_bytes",
                "Memory of the database: rows not yet in files (at most 96 MiB), blocks of files (at most 64 MiB)",
                "part",
                held,
            )?;
        }
        replicas(families, &host.statuses())
    });
}

fn counters(families: &mut Families<'_>, metrics: &HostMetrics) -> fmt::Result {
    let HostMetrics {
        turns,
        writes,
        syncs,
        batch_bytes_largest,
        entries_appended,
        ticks_skipped,
        messages_sent,
        messages_received,
        requests_refused_overload,
        snapshots_sent,
        snapshots_failed,
        snapshot_bytes_sent,
        snapshots_installed,
        replicas_failed,
        // Shown by `show`, some under one name.
        sync_seconds: _,
        entries_per_sync: _,
        propose_seconds: _,
        barrier_seconds: _,
        messages_dropped_overload: _,
        messages_dropped_misaddressed: _,
    } = metrics;
    let counters = [
        ("semel_raft_turns_total", "Turns of the loop that drives all replicas", turns),
        ("semel_raft_writes_total", "Batches written", writes),
        ("semel_raft_syncs_total", "Syncs, each of all batches written before it began", syncs),
        ("semel_raft_entries_appended_total", "Log entries written", entries_appended),
        ("semel_raft_ticks_skipped_total", "Ticks not reported because a turn took too long", ticks_skipped),
        ("semel_raft_messages_sent_total", "Messages handed to the transport", messages_sent),
        ("semel_raft_messages_received_total", "Messages handed to a replica", messages_received),
        ("semel_raft_requests_refused_total", "Requests refused because too many waited", requests_refused_overload),
        ("semel_raft_snapshots_sent_total", "Snapshots delivered to other processes", snapshots_sent),
        ("semel_raft_snapshots_failed_total", "Attempts to deliver a snapshot that failed", snapshots_failed),
        ("semel_raft_snapshot_sent_bytes_total", "Bytes of rows sent in snapshots", snapshot_bytes_sent),
        ("semel_raft_snapshots_installed_total", "Snapshots that became a replica's rows here", snapshots_installed),
        ("semel_raft_replicas_failed_total", "Replicas that stopped by a failure", replicas_failed),
    ];
    for (name, help, count) in counters {
        families.counter(name, help, count.get())?;
    }
    families.gauge("semel_raft_batch_largest_bytes", "The largest batch written so far", batch_bytes_largest.get())
}

fn replicas(families: &mut Families<'_>, statuses: &[(u64, GroupStatus)]) -> fmt::Result {
    let (mut leaders, mut followers, mut candidates, mut stopped, mut leaderless) = (0, 0, 0, 0, 0);
    for (_, status) in statuses {
        match status.running().map(|status| status.role) {
            Some(Role::Leader) => leaders += 1,
            Some(Role::Follower) => followers += 1,
            Some(Role::Candidate | Role::PreCandidate) => candidates += 1,
            None => stopped += 1,
        }
        leaderless += u64::from(status.running().is_some_and(|status| status.leader.is_none()));
    }
    let roles = [("leader", leaders), ("follower", followers), ("candidate", candidates), ("stopped", stopped)];
    families.gauges("semel_raft_replicas", "Replicas here, by what they do", "role", roles)?;
    families.gauge("semel_raft_replicas_without_leader", "Replicas here that know no leader", leaderless)?;
    let lag = |status: &GroupStatus| status.running().map(|status| status.commit.0.saturating_sub(status.applied.0));
    let lags = statuses.iter().filter_map(|(group, status)| Some((group.to_string(), lag(status)?)));
    families.gauges("semel_raft_replica_lag_entries", "Committed log entries not applied yet", "group", lags)
}

/// One counter.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn raise_to(&self, value: usize) {
        self.0.fetch_max(value as u64, Ordering::Relaxed);
    }
}
