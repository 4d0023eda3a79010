//! The sender's side of a transfer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use semel_proto::internal::v1::send_snapshot_request::Part;
use semel_proto::internal::v1::send_snapshot_response::State;
use semel_proto::internal::v1::{SendSnapshotRequest, SendSnapshotResponse, SnapshotOffer};
use semel_raft::ReplicaId;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::config::HostConfig;
use crate::metrics::HostMetrics;
use crate::snapshot::pace::Pace;
use crate::snapshot::view::{Piece, View, ViewError};
use crate::snapshot::{CHUNKS_UNACKNOWLEDGED_MAX, KEPT_FOR, OutgoingSnapshot};

/// Why a snapshot was not delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("{0}")]
    View(#[from] ViewError),
    #[error("the receiver refuses: {}", .0.message())]
    Refused(Box<Status>),
    #[error("the receiver made no progress for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the stream ended early")]
    Ended,
}

/// A view, and when the attempt that it was pinned for failed.
type Kept = (Instant, Arc<View>);

/// What all transfers that leave a process share.
pub(crate) struct Senders {
    pub(crate) places: Semaphore,
    pub(crate) pace: Pace,
    pub(crate) stall: Duration,
    pub(crate) metrics: Arc<HostMetrics>,
    /// Views of attempts that failed, for the next one: by group and receiver.
    kept: Mutex<HashMap<(u64, ReplicaId), Kept>>,
    closed: watch::Sender<bool>,
}

impl Senders {
    pub(crate) fn new(config: &HostConfig, metrics: Arc<HostMetrics>) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(config.snapshots_sent_max),
            pace: Pace::new(config.snapshot_bytes_per_second),
            stall: config.snapshot_stall,
            metrics,
            kept: Mutex::default(),
            closed: watch::Sender::new(false),
        })
    }

    /// Ends every transfer and lets go of every view.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The view that an earlier attempt left, if the log still goes on from it; a new one otherwise.
    async fn view(&self, snapshot: &OutgoingSnapshot) -> Result<Arc<View>, ViewError> {
        let kept = self.take_kept(snapshot.group, snapshot.to);
        let database = snapshot.database.upgrade().ok_or(ViewError::Ended)?.hold();
        let log_starts = semel_raft::rows::truncated(&database.group(snapshot.group))?.index;
        match kept {
            Some(view) if view.metadata.index().0 >= log_starts => Ok(view),
            Some(_) | None => View::pin(database, snapshot.group, snapshot.tables).await,
        }
    }

    fn take_kept(&self, group: u64, to: ReplicaId) -> Option<Arc<View>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
        kept.remove(&(group, to)).map(|(_, view)| view)
    }

    /// Keeps a view for the next attempt, for a bounded time: it holds back the removal of old rows from disk.
    fn keep(self: &Arc<Self>, group: u64, to: ReplicaId, view: Arc<View>) {
        let now = Instant::now();
        if *self.closed.borrow() {
            return;
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert((group, to), (now, view));
        let senders = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            let Some(senders) = senders.upgrade() else { return };
            let mut kept = senders.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.get(&(group, to)).is_some_and(|(since, _)| *since == now) {
                kept.remove(&(group, to));
            }
        });
    }
}

/// Sends a snapshot when it is its turn and reports how that went. `open` opens the two directions of the stream.
pub(crate) async fn send<S, F>(snapshot: OutgoingSnapshot, open: impl FnOnce(mpsc::Receiver<SendSnapshotRequest>) -> F)
where
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<SendSnapshotResponse, Status>> + Unpin,
{
    let mut closed = snapshot.senders.closed.subscribe();
    tokio::select! {
        () = send_at_turn(snapshot, open) => {}
        // A sender that has gone means the same.
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

async fn send_at_turn<S, F>(snapshot: OutgoingSnapshot, open: impl FnOnce(mpsc::Receiver<SendSnapshotRequest>) -> F)
where
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<SendSnapshotResponse, Status>> + Unpin,
{
    let senders = Arc::clone(&snapshot.senders);
    let _place = senders.places.acquire().await.expect("the semaphore is never closed");
    let (group, to) = (snapshot.group, snapshot.to);
    let view = match senders.view(&snapshot).await {
        Ok(view) => view,
        Err(error) => {
            tracing::warn!(group, replica = %to, %error, "snapshot not sent");
            return snapshot.done(false);
        }
    };
    let begun = Instant::now();
    tracing::info!(group, replica = %to, index = view.metadata.index().0, "sending a snapshot");
    match transfer(&snapshot, &view, open).await {
        Ok(bytes) => {
            senders.metrics.snapshots_sent.add(1);
            let ms = begun.elapsed().as_millis() as u64;
            tracing::info!(group, replica = %to, bytes, ms, "snapshot delivered");
            snapshot.done(true);
        }
        Err(error) => {
            tracing::warn!(group, replica = %to, %error, "snapshot not delivered; it is tried again");
            senders.metrics.snapshots_failed.add(1);
            senders.keep(group, to, view);
            snapshot.done(false);
        }
    }
}

async fn transfer<S, F>(
    snapshot: &OutgoingSnapshot,
    view: &View,
    open: impl FnOnce(mpsc::Receiver<SendSnapshotRequest>) -> F,
) -> Result<u64, SendError>
where
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<SendSnapshotResponse, Status>> + Unpin,
{
    let Senders { pace, stall, metrics, .. } = &*snapshot.senders;
    let (parts, outgoing) = mpsc::channel(CHUNKS_UNACKNOWLEDGED_MAX);
    let offer = SnapshotOffer {
        cluster_id: Bytes::copy_from_slice(&snapshot.cluster.0),
        group: snapshot.group,
        from_replica: snapshot.from.get(),
        to_replica: snapshot.to.get(),
        snapshot_id: Bytes::copy_from_slice(&view.id),
        metadata: view.metadata.encode().into(),
    };
    let refused = |status| SendError::Refused(Box::new(status));
    let stalled = |_| SendError::Stalled(*stall);
    let say = async |part| {
        let sending = parts.send(SendSnapshotRequest { part: Some(part) });
        tokio::time::timeout(*stall, sending).await.map_err(stalled)?.map_err(|_| SendError::Ended)
    };
    say(Part::Offer(offer)).await?;
    let mut states = tokio::time::timeout(*stall, open(outgoing)).await.map_err(stalled)?.map_err(refused)?;
    let mut next_state = async || {
        let state = tokio::time::timeout(*stall, states.next()).await.map_err(stalled)?;
        state.ok_or(SendError::Ended)?.map_err(refused)?.state.ok_or(SendError::Ended)
    };
    let State::ChunksHeld(mut held) = next_state().await? else {
        // It has these rows already, or later ones.
        return Ok(0);
    };
    let (mut next, mut bytes, mut ended) = (held, 0, false);
    loop {
        while !ended && next < held + CHUNKS_UNACKNOWLEDGED_MAX as u64 {
            match view.piece(next).await? {
                Piece::Chunk(chunk) => {
                    pace.pass(chunk.rows.len()).await;
                    bytes += chunk.rows.len() as u64;
                    metrics.snapshot_bytes_sent.add(chunk.rows.len());
                    say(Part::Chunk(chunk)).await?;
                    next += 1;
                }
                Piece::End(end) => {
                    say(Part::End(end)).await?;
                    ended = true;
                }
            }
        }
        match next_state().await? {
            State::ChunksHeld(more) => held = more.min(next),
            State::Installing(_) => {}
            State::Installed(_) => return Ok(bytes),
        }
    }
}
