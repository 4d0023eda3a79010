//! A transport within one process, for tests and for clusters in one process.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt as _;
use semel_raft::{ReplicaId, StateMachine};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::envelope::{Envelope, Transport};
use crate::handle::HostHandle;
use crate::snapshot::receive::receive;
use crate::snapshot::send::send;
use crate::snapshot::{CHUNKS_UNACKNOWLEDGED_MAX, OutgoingSnapshot};

type Address = (u64, ReplicaId);
type Delivery = Arc<dyn Fn(Vec<Envelope>) + Send + Sync>;
type SnapshotDelivery = Arc<dyn Fn(OutgoingSnapshot) + Send + Sync>;

#[derive(Clone)]
struct Route {
    messages: Delivery,
    snapshots: SnapshotDelivery,
}

/// Hands messages to hosts of the same process; clones share their routes. Messages to a replica without a route vanish, as
/// in a partition.
#[derive(Clone, Default)]
pub struct LoopbackTransport {
    routes: Arc<RwLock<BTreeMap<Address, Route>>>,
    /// Of a snapshot, parts that get through before its stream breaks; 0 = all.
    snapshot_parts_max: Arc<AtomicUsize>,
}

impl LoopbackTransport {
    /// A transport without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets messages and snapshots to a replica reach the host behind `handle`.
    ///
    /// # Panics
    /// Outside a runtime, on which snapshots travel.
    pub fn connect<M: StateMachine>(&self, group: u64, replica: ReplicaId, handle: HostHandle<M>) {
        let runtime = tokio::runtime::Handle::current();
        let (receiver, parts_max) = (handle.clone(), Arc::clone(&self.snapshot_parts_max));
        let snapshots: SnapshotDelivery = Arc::new(move |snapshot| {
            let receiver = receiver.clone();
            let parts_max = match parts_max.load(Ordering::Relaxed) {
                0 => usize::MAX,
                parts_max => parts_max,
            };
            runtime.spawn(send(snapshot, move |parts| async move {
                let (answers, states) = mpsc::channel(CHUNKS_UNACKNOWLEDGED_MAX);
                tokio::spawn(receive(receiver, ReceiverStream::new(parts).map(Ok).take(parts_max), answers));
                Ok(ReceiverStream::new(states))
            }));
        });
        let messages: Delivery = Arc::new(move |envelopes| handle.receive(envelopes));
        let route = Route { messages, snapshots };
        self.routes.write().unwrap_or_else(PoisonError::into_inner).insert((group, replica), route);
    }

    /// Breaks the stream of every later snapshot after so many parts: its offer, chunks, its end.
    pub fn break_snapshots_after(&self, parts_max: NonZero<usize>) {
        self.snapshot_parts_max.store(parts_max.get(), Ordering::Relaxed);
    }

    /// Lets no message reach a replica any more.
    pub fn disconnect(&self, group: u64, replica: ReplicaId) {
        self.routes.write().unwrap_or_else(PoisonError::into_inner).remove(&(group, replica));
    }
}

impl Transport for LoopbackTransport {
    fn send(&self, envelopes: Vec<Envelope>) {
        let mut by_addressee: BTreeMap<Address, Vec<Envelope>> = BTreeMap::new();
        for envelope in envelopes {
            by_addressee.entry((envelope.group, envelope.to)).or_default().push(envelope);
        }
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        for (address, envelopes) in by_addressee {
            if let Some(route) = routes.get(&address) {
                (route.messages)(envelopes);
            }
        }
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.get(&(snapshot.group, snapshot.to)) {
            (route.snapshots)(snapshot);
        }
    }
}

impl fmt::Debug for LoopbackTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackTransport").finish_non_exhaustive()
    }
}
