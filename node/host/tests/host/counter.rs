//! A machine that counts how often each key was proposed, and clusters of it within one process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use semel_raft::{Applied, LogIndex, ReplicaId, Role, State, StateMachine, Store, StoreError, Table};
use semel_raft_host::{
    AddGroupError, ClusterId, Database, Discard, FreshGroup, GroupConfig, GroupStatus, Host, HostConfig, HostHandle,
    LoopbackTransport, Publisher, Transport,
};
use tokio::sync::watch;

use crate::child;

pub(crate) const COUNTERS: Table = Table("counters");
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Proposing this makes the machine panic, as raft does over a corrupt log.
pub(crate) const POISON: &[u8] = b"poison";

/// Counts proposals of each command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counter;

impl StateMachine for Counter {
    /// The entry's index and the count after it.
    type Receipt = (LogIndex, u64);
    type Publication = Bytes;

    const TABLES: &'static [Table] = &[COUNTERS];

    fn apply(
        &mut self,
        index: LogIndex,
        command: &[u8],
        state: &mut dyn State,
    ) -> Result<Applied<Self::Receipt, Self::Publication>, StoreError> {
        assert_ne!(command, POISON, "poisoned");
        let count = decode(state.get(COUNTERS, command)?) + 1;
        let key = Bytes::copy_from_slice(command);
        state.put(COUNTERS, key.clone(), Bytes::copy_from_slice(&count.to_be_bytes()));
        Ok(Applied { receipt: (index, count), publications: vec![key] })
    }

    fn restore(&mut self, _applied: LogIndex, _store: &dyn Store) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The count of a key, as the rows have it.
pub(crate) fn count_of(store: &dyn Store, key: &[u8]) -> u64 {
    decode(store.get(COUNTERS, key).expect("rows can be read"))
}

fn decode(row: Option<Bytes>) -> u64 {
    row.map_or(0, |row| u64::from_be_bytes(row.as_ref().try_into().expect("a count has 8 bytes")))
}

pub(crate) fn replica(group: u64, node: usize) -> ReplicaId {
    ReplicaId::new(group * 100 + node as u64 + 1).expect("not 0")
}

/// Short ticks: an election takes a tenth of a second.
pub(crate) fn host_config() -> HostConfig {
    HostConfig { tick: Duration::from_millis(5), ..HostConfig::new(CLUSTER) }
}

pub(crate) fn open_database(folder: &Path) -> Arc<Database> {
    child::open(folder, Counter::TABLES).expect("the folder can be opened")
}

/// Adds a group whose voters are on the first `voters` nodes.
pub(crate) async fn add_group(
    handle: &HostHandle<Counter>,
    group: u64,
    node: usize,
    voters: usize,
    publisher: Box<dyn Publisher<Counter>>,
) -> Result<watch::Receiver<GroupStatus>, AddGroupError> {
    let voters = (0..voters).map(|node| replica(group, node)).collect();
    let config = GroupConfig { group, replica: replica(group, node), fresh: FreshGroup::Bootstrap { voters } };
    handle.add_group(config, Counter, publisher).await
}

/// A node with one host, each group on each node.
pub(crate) struct Node {
    pub(crate) database: std::sync::Weak<Database>,
    pub(crate) host: Host<Counter>,
    pub(crate) handle: HostHandle<Counter>,
}

impl Node {
    /// Opens the node's folder and seats its replica of every group.
    pub(crate) async fn start(
        folder: &Path,
        node: usize,
        nodes: usize,
        groups: &[u64],
        network: &LoopbackTransport,
    ) -> Self {
        Self::start_over(folder, node, nodes, groups, network, Arc::new(network.clone())).await
    }

    /// The same, with messages leaving over another transport.
    pub(crate) async fn start_over(
        folder: &Path,
        node: usize,
        nodes: usize,
        groups: &[u64],
        network: &LoopbackTransport,
        transport: Arc<dyn Transport>,
    ) -> Self {
        let started = Self::start_empty(folder, host_config(), transport);
        for group in groups {
            network.connect(*group, replica(*group, node), started.handle.clone());
            add_group(&started.handle, *group, node, nodes, Box::new(Discard)).await.expect("the group can be opened");
        }
        started
    }

    /// Opens the node's folder without a group.
    pub(crate) fn start_empty(folder: &Path, config: HostConfig, transport: Arc<dyn Transport>) -> Self {
        let database = open_database(folder);
        let host = Host::start(config, database.clone(), transport).expect("a thread can be started");
        Self { database: Arc::downgrade(&database), handle: host.handle(), host }
    }

    pub(crate) fn database(&self) -> Arc<Database> {
        self.database.upgrade().expect("the host runs")
    }

    /// Waits until the replica knows a leader.
    pub(crate) async fn leader(&self, group: u64) -> ReplicaId {
        let found = self.wait(group, |status| status.running().is_some_and(|status| status.leader.is_some())).await;
        found.running().and_then(|status| status.leader).expect("waited for")
    }

    /// Waits until the replica leads.
    pub(crate) async fn leads(&self, group: u64) {
        self.wait(group, |status| status.running().is_some_and(|status| status.role == Role::Leader)).await;
    }

    /// Waits until the replica has applied up to `index`.
    pub(crate) async fn applied(&self, group: u64, index: LogIndex) {
        self.wait(group, |status| status.running().is_some_and(|status| status.applied >= index)).await;
    }

    pub(crate) async fn wait(&self, group: u64, until: impl FnMut(&GroupStatus) -> bool) -> GroupStatus {
        let mut status = self.handle.status(group).expect("the group was added");
        status.wait_for(until).await.expect("the status is shown to the end").clone()
    }

    /// Proposes until the command is acknowledged, which counts it once or more.
    pub(crate) async fn propose(&self, group: u64, command: &[u8]) -> (LogIndex, u64) {
        loop {
            if let Ok(receipt) = self.handle.propose(group, Bytes::copy_from_slice(command)).await {
                return receipt;
            }
            self.leader(group).await;
        }
    }

    /// Asks for a barrier until there is one.
    pub(crate) async fn barrier(&self, group: u64) -> LogIndex {
        loop {
            if let Ok(index) = self.handle.barrier(group).await {
                return index;
            }
            self.leader(group).await;
        }
    }

    /// The count of a key, of a read that begins now.
    pub(crate) async fn read(&self, group: u64, key: &[u8]) -> u64 {
        let index = self.barrier(group).await;
        self.applied(group, index).await;
        count_of(&self.database().group(group), key)
    }
}

/// The folders of a cluster's nodes.
pub(crate) struct Folders {
    pub(crate) root: tempfile::TempDir,
}

impl Folders {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn of(&self, node: usize) -> PathBuf {
        node_folder(self.root.path(), node)
    }
}

pub(crate) fn node_folder(root: &Path, node: usize) -> PathBuf {
    root.join(format!("node-{node}"))
}

/// Starts every node of a cluster.
pub(crate) async fn start_all(root: &Path, nodes: usize, groups: &[u64]) -> (Vec<Node>, LoopbackTransport) {
    let network = LoopbackTransport::new();
    let mut started = Vec::new();
    for node in 0..nodes {
        started.push(Node::start(&node_folder(root, node), node, nodes, groups, &network).await);
    }
    (started, network)
}
