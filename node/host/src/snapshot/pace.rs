//! Bounds the rate at which all snapshots of a process leave, so that they take a share of disk and network and no more.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lets bytes pass at a steady rate.
pub(crate) struct Pace {
    bytes_per_second: u64,
    free_from: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_from: Mutex::new(Instant::now()) }
    }

    /// Waits until it is the turn of so many bytes. Nothing is saved up while nobody sends.
    pub(crate) async fn pass(&self, bytes: usize) {
        let mut free_from = self.free_from.lock().await;
        tokio::time::sleep_until(*free_from).await;
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *free_from = Instant::now() + takes;
    }
}
