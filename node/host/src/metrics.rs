//! Counters of a host, written by its thread and read by anyone. Totals since the start unless named otherwise.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters, each on its own: two of them read together may be of different moments.
#[derive(Debug, Default)]
pub struct HostMetrics {
    /// Turns of the loop.
    pub turns: Count,
    /// Batches written, synced or not.
    pub writes: Count,
    /// Batches written and synced.
    pub syncs: Count,
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
