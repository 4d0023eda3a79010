//! A running cluster: its clients, its faults, and what it says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use semel_proto::v1::case_service_client::CaseServiceClient;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::gallery_service_client::GalleryServiceClient;
use semel_proto::v1::identification_service_client::IdentificationServiceClient;
use semel_proto::v1::{GetClusterStatusRequest, GetClusterStatusResponse, ReplicaRole};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::builder::Builder;
use crate::error::SandboxError;
use crate::server::Server;
use crate::wait::wait_until;

/// How long a connection attempt of a client may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a coordinator may take to tell the status.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// Where the servers keep their folders and logs.
pub(crate) enum Place {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

/// A running cluster. Nodes and coordinators are counted from 0. Dropping it ends every server.
pub struct Sandbox {
    coordinators: Vec<Mutex<Server>>,
    nodes: Vec<Mutex<Server>>,
    endpoints: Vec<SocketAddr>,
    channels: Vec<Channel>,
    ready_within: Duration,
    // Declared last, hence dropped last: servers are gone before their folders are.
    place: Place,
}

impl Sandbox {
    /// Describes a cluster; three nodes, three replicas, eight shards and one coordinator unless told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(coordinators: Vec<Server>, nodes: Vec<Server>, place: Place, ready_within: Duration) -> Self {
        let endpoints: Vec<SocketAddr> = coordinators.iter().map(Server::address).collect();
        Self {
            channels: endpoints.iter().map(channel).collect(),
            endpoints,
            coordinators: coordinators.into_iter().map(Mutex::new).collect(),
            nodes: nodes.into_iter().map(Mutex::new).collect(),
            ready_within,
            place,
        }
    }

    /// The address of the first coordinator, as clients dial it: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        self.endpoints().swap_remove(0)
    }

    /// The addresses of all coordinators; any of them answers.
    pub fn endpoints(&self) -> Vec<String> {
        self.endpoints.iter().map(|address| format!("http://{address}")).collect()
    }

    /// The folder with every server's data and log.
    pub fn data_dir(&self) -> &Path {
        self.place.path()
    }

    /// A channel to a coordinator. It connects when first used, and again after the coordinator was restarted.
    ///
    /// # Panics
    /// If there is no coordinator of that number.
    pub fn channel(&self, coordinator: usize) -> Channel {
        self.channels[coordinator].clone()
    }

    /// Enrols through the first coordinator.
    pub fn enrolments(&self) -> EnrolmentServiceClient<Channel> {
        EnrolmentServiceClient::new(self.channel(0))
    }

    /// Creates and governs galleries through the first coordinator.
    pub fn galleries(&self) -> GalleryServiceClient<Channel> {
        GalleryServiceClient::new(self.channel(0))
    }

    /// Identifies and verifies through the first coordinator.
    pub fn identification(&self) -> IdentificationServiceClient<Channel> {
        IdentificationServiceClient::new(self.channel(0))
    }

    /// Reads cases through the first coordinator.
    pub fn cases(&self) -> CaseServiceClient<Channel> {
        CaseServiceClient::new(self.channel(0))
    }

    /// Asks the first coordinator about the cluster.
    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel(0))
    }

    /// The status of the cluster, as the first coordinator knows it.
    ///
    /// # Errors
    /// [`SandboxError::Call`] if it does not answer.
    pub async fn status(&self) -> Result<GetClusterStatusResponse, SandboxError> {
        self.status_of(0).await
    }

    /// The status of the cluster, as one coordinator knows it.
    ///
    /// # Errors
    /// [`SandboxError::Call`] if it does not answer, [`SandboxError::NoSuchServer`].
    pub async fn status_of(&self, coordinator: usize) -> Result<GetClusterStatusResponse, SandboxError> {
        self.coordinator(coordinator)?;
        let mut client = ClusterServiceClient::new(self.channel(coordinator));
        let asked = client.get_cluster_status(GetClusterStatusRequest {});
        let answer = tokio::time::timeout(STATUS_WITHIN, asked).await;
        Ok(answer.map_err(|_| tonic::Status::deadline_exceeded("no answer in time"))??.into_inner())
    }

    /// Waits until every coordinator that runs knows a leader of every shard and has heard from every node that runs since it
    /// was started.
    ///
    /// # Errors
    /// A server that ended by itself, or [`SandboxError::TimedOut`] with what is missing.
    pub async fn wait_ready(&self) -> Result<(), SandboxError> {
        let looked = wait_until("the cluster to be ready", self.ready_within, || async {
            if let Some(error) = self.first_ended().await {
                return Ok(Err(error));
            }
            for (number, coordinator) in self.coordinators.iter().enumerate() {
                if coordinator.lock().await.running_for().is_some() {
                    let status = self.status_of(number).await.map_err(|error| error.to_string())?;
                    self.check_ready(&status).await?;
                }
            }
            Ok::<_, String>(Ok(()))
        });
        looked.await?
    }

    async fn first_ended(&self) -> Option<SandboxError> {
        for server in self.coordinators.iter().chain(&self.nodes) {
            if let Some(error) = server.lock().await.ended() {
                return Some(error);
            }
        }
        None
    }

    async fn check_ready(&self, status: &GetClusterStatusResponse) -> Result<(), String> {
        if status.shards.is_empty() {
            return Err(format!("{} nodes have joined and no shard is placed", status.nodes.len()));
        }
        let joined: BTreeMap<&str, _> = status.nodes.iter().map(|node| (node.address.as_str(), node)).collect();
        for server in &self.nodes {
            let server = server.lock().await;
            let Some(running_for) = server.running_for() else { continue };
            let name = &server.name;
            let node = joined.get(server.address().to_string().as_str()).ok_or(format!("{name} has not joined"))?;
            let heard_of = Duration::from_millis(node.last_report_age_ms) < running_for && node.live;
            let replicas = status.shards.iter().flat_map(|shard| &shard.replicas);
            let own: Vec<_> = replicas.filter(|replica| replica.node_id == node.node_id).collect();
            let unheard = own.iter().filter(|replica| replica.role() == ReplicaRole::Unspecified).count();
            if !heard_of || unheard > 0 {
                return Err(format!("{name} has not reported {unheard} of its {} replicas", own.len()));
            }
        }
        let leads = |replica: &semel_proto::v1::ReplicaStatus| replica.role() == ReplicaRole::Leader;
        let led = status.shards.iter().filter(|shard| shard.replicas.iter().any(leads)).count();
        if led < status.shards.len() {
            return Err(format!("{led} of {} shards have a leader", status.shards.len()));
        }
        Ok(())
    }

    /// Ends a node where it stands: SIGKILL for a process. Returns once it is gone.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`], [`SandboxError::NotRunning`].
    pub async fn kill_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.lock().await.kill().await
    }

    /// Starts a killed node again, on its port and folder. Returns once it listens; see [`Self::wait_ready`].
    ///
    /// # Errors
    /// [`SandboxError::AlreadyRunning`], or what keeps it from starting.
    pub async fn restart_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.lock().await.start().await
    }

    /// Asks a node's process to end (SIGTERM). Returns once it has.
    ///
    /// # Errors
    /// [`SandboxError::NotAProcess`], [`SandboxError::NotRunning`], [`SandboxError::Ended`] if it reports a failure at its end.
    pub async fn terminate_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.lock().await.terminate().await
    }

    /// What is run in front of a node's binary from its next start on; see [`Launch::prefix`](crate::Launch::prefix).
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn set_node_prefix(&self, node: usize, prefix: Vec<String>) -> Result<(), SandboxError> {
        self.node(node)?.lock().await.prefix = prefix;
        Ok(())
    }

    /// Stops a node's process (SIGSTOP): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// [`SandboxError::NotAProcess`], [`SandboxError::NotRunning`].
    pub async fn pause_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.lock().await.suspend(true)
    }

    /// Lets a paused node go on (SIGCONT).
    ///
    /// # Errors
    /// As [`Self::pause_node`].
    pub async fn resume_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.lock().await.suspend(false)
    }

    /// As [`Self::kill_node`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn kill_coordinator(&self, coordinator: usize) -> Result<(), SandboxError> {
        self.coordinator(coordinator)?.lock().await.kill().await
    }

    /// As [`Self::restart_node`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn restart_coordinator(&self, coordinator: usize) -> Result<(), SandboxError> {
        self.coordinator(coordinator)?.lock().await.start().await
    }

    /// As [`Self::terminate_node`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn terminate_coordinator(&self, coordinator: usize) -> Result<(), SandboxError> {
        self.coordinator(coordinator)?.lock().await.terminate().await
    }

    /// As [`Self::set_node_prefix`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn set_coordinator_prefix(&self, coordinator: usize, prefix: Vec<String>) -> Result<(), SandboxError> {
        self.coordinator(coordinator)?.lock().await.prefix = prefix;
        Ok(())
    }

    /// As [`Self::pause_node`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn pause_coordinator(&self, coordinator: usize) -> Result<(), SandboxError> {
        self.coordinator(coordinator)?.lock().await.suspend(true)
    }

    /// As [`Self::resume_node`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn resume_coordinator(&self, coordinator: usize) -> Result<(), SandboxError> {
        self.coordinator(coordinator)?.lock().await.suspend(false)
    }

    /// Tells how a node ended, if it ended by itself.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn node_ended(&self, node: usize) -> Result<Option<SandboxError>, SandboxError> {
        Ok(self.node(node)?.lock().await.ended())
    }

    /// The id of a node's process. Behind a [`Launch`](crate::Launch) it is that of what became the node.
    ///
    /// # Errors
    /// [`SandboxError::NotAProcess`], [`SandboxError::NotRunning`].
    pub async fn node_process_id(&self, node: usize) -> Result<u32, SandboxError> {
        self.node(node)?.lock().await.process_id()
    }

    /// Where a node serves `/metrics`, `/livez` and `/readyz`.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn node_metrics(&self, node: usize) -> Result<SocketAddr, SandboxError> {
        Ok(self.node(node)?.lock().await.metrics())
    }

    /// As [`Self::node_metrics`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn coordinator_metrics(&self, coordinator: usize) -> Result<SocketAddr, SandboxError> {
        Ok(self.coordinator(coordinator)?.lock().await.metrics())
    }

    /// Where each server serves its metrics, by name: coordinators, then nodes.
    pub async fn metrics(&self) -> Vec<(String, SocketAddr)> {
        let mut metrics = Vec::new();
        for server in self.coordinators.iter().chain(&self.nodes) {
            let server = server.lock().await;
            metrics.push((server.name.clone(), server.metrics()));
        }
        metrics
    }

    /// Where a node listens, or did before it was killed.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn node_address(&self, node: usize) -> Result<SocketAddr, SandboxError> {
        Ok(self.node(node)?.lock().await.address())
    }

    /// A node's data folder.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn node_folder(&self, node: usize) -> Result<PathBuf, SandboxError> {
        Ok(self.node(node)?.lock().await.data().to_owned())
    }

    /// As [`Self::node_folder`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn coordinator_folder(&self, coordinator: usize) -> Result<PathBuf, SandboxError> {
        Ok(self.coordinator(coordinator)?.lock().await.data().to_owned())
    }

    /// As [`Self::node_ended`], for a coordinator.
    ///
    /// # Errors
    /// As there.
    pub async fn coordinator_ended(&self, coordinator: usize) -> Result<Option<SandboxError>, SandboxError> {
        Ok(self.coordinator(coordinator)?.lock().await.ended())
    }

    /// The last lines of a node's log; empty inside this process, where the caller's subscriber has them.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn node_log_tail(&self, node: usize) -> Result<String, SandboxError> {
        Ok(self.node(node)?.lock().await.log_tail())
    }

    /// As [`Self::node_log_tail`], for a coordinator.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchServer`].
    pub async fn coordinator_log_tail(&self, coordinator: usize) -> Result<String, SandboxError> {
        Ok(self.coordinator(coordinator)?.lock().await.log_tail())
    }

    fn node(&self, number: usize) -> Result<&Mutex<Server>, SandboxError> {
        let count = self.nodes.len();
        self.nodes.get(number).ok_or(SandboxError::NoSuchServer { kind: "node", number, count })
    }

    fn coordinator(&self, number: usize) -> Result<&Mutex<Server>, SandboxError> {
        let count = self.coordinators.len();
        self.coordinators.get(number).ok_or(SandboxError::NoSuchServer { kind: "coordinator", number, count })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let servers = self.coordinators.iter_mut().chain(&mut self.nodes);
        let ending: Vec<_> = servers
            .filter_map(|server| server.get_mut().take())
            .map(|running| thread::spawn(|| drop(running)))
            .collect();
        for server in ending {
            // A server that panicked at its end is gone all the same.
            let _ = server.join();
        }
    }
}

fn channel(address: &SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URI");
    endpoint.connect_timeout(CONNECT_WITHIN).tcp_nodelay(true).connect_lazy()
}
