//! A transport within one process, for tests and for clusters in one process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use semel_raft::{ReplicaId, StateMachine};

use crate::envelope::{Envelope, Transport};
use crate::handle::HostHandle;

type Address = (u64, ReplicaId);
type Delivery = Arc<dyn Fn(Vec<Envelope>) + Send + Sync>;

/// Hands messages to hosts of the same process; clones share their routes. Messages to a replica without a route vanish, as
/// in a partition.
#[derive(Clone, Default)]
pub struct LoopbackTransport {
    routes: Arc<RwLock<BTreeMap<Address, Delivery>>>,
}

impl LoopbackTransport {
    /// A transport without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets messages to a replica reach the host behind `handle`.
    pub fn connect<M: StateMachine>(&self, group: u64, replica: ReplicaId, handle: HostHandle<M>) {
        let delivery: Delivery = Arc::new(move |envelopes| handle.receive(envelopes));
        self.routes.write().unwrap_or_else(PoisonError::into_inner).insert((group, replica), delivery);
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
            if let Some(deliver) = routes.get(&address) {
                deliver(envelopes);
            }
        }
    }
}

impl fmt::Debug for LoopbackTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackTransport").finish_non_exhaustive()
    }
}
