//! What kind of cluster is wanted, and how it comes to life.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use semel_coordinator::{CoordinatorConfig, Voter};
use semel_node::NodeConfig;

use crate::error::SandboxError;
use crate::port::{ANY_PORT, Port};
use crate::sandbox::{Place, Sandbox};
use crate::server::{Server, Settings};

/// Nodes that one machine is asked to run at most.
const NODES_MAX: usize = 64;
/// The raft tick of a sandbox: elections within half a second to a second.
const TICK_MS: u64 = 25;

/// Where servers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Inside this process, each on a runtime of its own. Quick; a kill is as abrupt as a process allows.
    InProcess,
    /// Each as a process of its own, which can be killed with SIGKILL and paused.
    ChildProcesses {
        /// The `semel` binary; see [`Mode::child_processes`].
        binary: PathBuf,
    },
}

impl Mode {
    /// Child processes of the binary that SEMEL_BINARY names, or else of `semel` beside this executable
    /// or in one of the two folders above it.
    ///
    /// # Errors
    /// [`SandboxError::NoBinary`] with the places looked at.
    pub fn child_processes() -> Result<Self, SandboxError> {
        let mut looked_at = Vec::new();
        if let Some(named) = std::env::var_os("SEMEL_BINARY") {
            looked_at.push(PathBuf::from(named));
        } else if let Ok(own) = std::env::current_exe() {
            // Tests run from target/release/deps, examples from target/release/examples.
            looked_at.extend(own.ancestors().skip(1).take(3).map(|folder| folder.join("semel")));
        }
        match looked_at.iter().find(|path| path.is_file()) {
            Some(binary) => Ok(Self::ChildProcesses { binary: binary.clone() }),
            None => Err(SandboxError::NoBinary { looked_at }),
        }
    }
}

/// How one server's process is started where the defaults do not do: in a network of its own, under a tool, within limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// Where it listens; `None` = any free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// What is run in front of the binary, for example `ip netns exec NAME`. It must become the server by `exec`, as signals are
    /// sent to the process started. `env NAME=VALUE` at its end changes any setting.
    pub prefix: Vec<String>,
}

impl Launch {
    /// The port of server `name`, which listens at `default` unless the launch names an address.
    async fn port(&self, name: &str, default: SocketAddr) -> Result<Port, SandboxError> {
        let address = self.listen.unwrap_or(default);
        // Behind a prefix an address that was named may be of another network.
        if self.listen.is_some() && !self.prefix.is_empty() {
            return Ok(Port::Elsewhere { address });
        }
        Port::hold(name, address).await
    }
}

type Change<C> = Arc<dyn Fn(&mut C) + Send + Sync>;

/// Describes a cluster; [`Builder::start`] brings it to life.
#[derive(Clone)]
pub struct Builder {
    nodes: usize,
    coordinators: usize,
    shards: u32,
    replicas: u32,
    mode: Mode,
    data_dir: Option<PathBuf>,
    listen: SocketAddr,
    ready_within: Duration,
    change_node: Vec<Change<NodeConfig>>,
    change_coordinator: Vec<Change<CoordinatorConfig>>,
    launch_nodes: BTreeMap<usize, Launch>,
    launch_coordinators: BTreeMap<usize, Launch>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 3,
            coordinators: 1,
            shards: 8,
            replicas: 3,
            mode: Mode::InProcess,
            data_dir: None,
            listen: ANY_PORT,
            ready_within: Duration::from_secs(60),
            change_node: Vec::new(),
            change_coordinator: Vec::new(),
            launch_nodes: BTreeMap::new(),
            launch_coordinators: BTreeMap::new(),
        }
        .tick_ms(TICK_MS)
    }
}

impl Builder {
    /// How many nodes, 1 to 64. Default 3.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many coordinators: 1, 3 or 5. Default 1.
    pub fn coordinators(mut self, coordinators: usize) -> Self {
        self.coordinators = coordinators;
        self
    }

    /// How many shards, 1 to 4,096. Default 8.
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// Replicas of each shard: 1, 3 or 5, at most as many as nodes. Default 3.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Where the servers run. Default inside this process.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// A folder that is kept; a cluster that ran there before goes on. Default: a temporary folder, removed at the end.
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(folder.into());
        self
    }

    /// Where the first coordinator listens. Default: any free port of 127.0.0.1.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// The raft tick of every server, in milliseconds, 10 to 1,000. Default 25.
    pub fn tick_ms(self, tick_ms: u64) -> Self {
        self.node_settings(move |node| node.tick_ms = tick_ms)
            .coordinator_settings(move |coordinator| coordinator.tick_ms = tick_ms)
    }

    /// The engine of sealed segments: `exact`, `faiss` or `faiss:<factory string>`. Default: the node's own.
    pub fn engine(self, engine: &str) -> Self {
        let engine = engine.to_owned();
        self.node_settings(move |node| node.engine.clone_from(&engine))
    }

    /// Changes any setting of every node. Addresses and folders are set afterwards.
    pub fn node_settings(mut self, change: impl Fn(&mut NodeConfig) + Send + Sync + 'static) -> Self {
        self.change_node.push(Arc::new(change));
        self
    }

    /// Changes any setting of every coordinator. Addresses, folders and voters are set afterwards.
    pub fn coordinator_settings(mut self, change: impl Fn(&mut CoordinatorConfig) + Send + Sync + 'static) -> Self {
        self.change_coordinator.push(Arc::new(change));
        self
    }

    /// How the process of one node is started, counted from 0. Child processes only.
    pub fn launch_node(mut self, node: usize, launch: Launch) -> Self {
        self.launch_nodes.insert(node, launch);
        self
    }

    /// How the process of one coordinator is started, counted from 0. Child processes only.
    pub fn launch_coordinator(mut self, coordinator: usize, launch: Launch) -> Self {
        self.launch_coordinators.insert(coordinator, launch);
        self
    }

    /// How long [`Builder::start`] and [`Sandbox::wait_ready`] wait for every shard to have a leader. Default 60 s.
    pub fn ready_within(mut self, ready_within: Duration) -> Self {
        self.ready_within = ready_within;
        self
    }

    /// Starts everything and waits until enrolments can be staged and settled.
    ///
    /// # Errors
    /// Settings that make no cluster, a server that cannot start or ends by itself, or a cluster that is not ready in time.
    pub async fn start(self) -> Result<Sandbox, SandboxError> {
        self.validate()?;
        let place = match &self.data_dir {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|source| SandboxError::Io {
                    action: "create folder",
                    path: folder.clone(),
                    source,
                })?;
                Place::Kept(folder.clone())
            }
            None => Place::Temporary(tempfile::tempdir().map_err(|source| SandboxError::Io {
                action: "create a temporary folder in",
                path: std::env::temp_dir(),
                source,
            })?),
        };
        let mut coordinators = self.coordinator_servers(place.path()).await?;
        for coordinator in &mut coordinators {
            coordinator.start().await?;
        }
        let addresses: Vec<String> = coordinators.iter().map(|server| server.address().to_string()).collect();
        let mut nodes = self.node_servers(place.path(), &addresses).await?;
        for node in &mut nodes {
            node.start().await?;
        }
        let sandbox = Sandbox::new(coordinators, nodes, place, self.ready_within);
        sandbox.wait_ready().await?;
        Ok(sandbox)
    }

    fn validate(&self) -> Result<(), SandboxError> {
        let refuse = |setting, reason: String| Err(SandboxError::Setting { setting, reason });
        if self.nodes == 0 || self.nodes > NODES_MAX {
            return refuse("nodes", format!("{} is not within 1 to {NODES_MAX}", self.nodes));
        }
        if ![1, 3, 5].contains(&self.coordinators) {
            return refuse("coordinators", format!("{} is not 1, 3 or 5", self.coordinators));
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return refuse("replicas", format!("{} is not 1, 3 or 5", self.replicas));
        }
        if self.replicas as usize > self.nodes {
            return refuse(
                "replicas",
                format!("{} replicas of a shard need as many nodes, not {}", self.replicas, self.nodes),
            );
        }
        if self.shards == 0 || self.shards > 4_096 {
            return refuse("shards", format!("{} is not within 1 to 4096", self.shards));
        }
        let launches = [
            ("launch_node", &self.launch_nodes, self.nodes),
            ("launch_coordinator", &self.launch_coordinators, self.coordinators),
        ];
        for (setting, launches, servers) in launches {
            if let Some((&number, _)) = launches.last_key_value() {
                if number >= servers {
                    return refuse(
                        setting,
                        format!("there is no {number}; they are counted from 0 to {}", servers - 1),
                    );
                }
                if self.mode == Mode::InProcess {
                    return refuse(setting, "needs Mode::ChildProcesses".to_owned());
                }
            }
        }
        Ok(())
    }

    async fn coordinator_servers(&self, folder: &Path) -> Result<Vec<Server>, SandboxError> {
        let launches = (0..self.coordinators).map(|number| self.launch_coordinators.get(&number).cloned());
        let launches: Vec<Launch> = launches.map(Option::unwrap_or_default).collect();
        // Voters know each other's addresses before any of them runs.
        let mut ports = Vec::new();
        for (number, launch) in (0..).zip(&launches) {
            let default = if number == 0 { self.listen } else { ANY_PORT };
            ports.push(launch.port(&coordinator_name(number), default).await?);
        }
        let voters = (1..).zip(&ports).map(|(id, port)| Voter { id, address: port.address().to_string() });
        // One alone needs no list.
        let voters: Vec<Voter> = if self.coordinators == 1 { Vec::new() } else { voters.collect() };
        let mut servers = Vec::new();
        for (number, (launch, port)) in (0..).zip(launches.into_iter().zip(ports)) {
            let name = coordinator_name(number);
            let mut config = CoordinatorConfig::default();
            self.change_coordinator.iter().for_each(|change| change(&mut config));
            config.shards = self.shards;
            config.replicas = self.replicas;
            config.id = number + 1;
            config.data = folder.join(&name);
            config.voters.clone_from(&voters);
            let settings = Settings::Coordinator(Box::new(config));
            let server = Server::new(name, settings, self.mode.clone(), folder.to_owned(), port, launch.prefix);
            servers.push(server.await?);
        }
        Ok(servers)
    }

    async fn node_servers(&self, folder: &Path, coordinators: &[String]) -> Result<Vec<Server>, SandboxError> {
        let mut servers = Vec::new();
        for number in 0..self.nodes {
            let name = format!("node-{}", number + 1);
            let mut config = NodeConfig::default();
            self.change_node.iter().for_each(|change| change(&mut config));
            config.coordinators = coordinators.to_vec();
            config.data = folder.join(&name);
            let launch = self.launch_nodes.get(&number).cloned().unwrap_or_default();
            let port = launch.port(&name, ANY_PORT).await?;
            let settings = Settings::Node(Box::new(config));
            let server = Server::new(name, settings, self.mode.clone(), folder.to_owned(), port, launch.prefix);
            servers.push(server.await?);
        }
        Ok(servers)
    }
}

/// The name of the coordinator with this number, counted from 0.
fn coordinator_name(number: u64) -> String {
    format!("coordinator-{}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(builder: Builder, expected: &str) {
        let refused = builder.start().await.err();
        let Some(SandboxError::Setting { setting, reason }) = refused else { panic!("{refused:?}") };
        assert_eq!(setting, expected, "{reason}");
    }

    #[tokio::test]
    async fn numbers_that_make_no_cluster_are_refused_by_name() {
        check(Sandbox::builder().nodes(0), "nodes").await;
        check(Sandbox::builder().nodes(65), "nodes").await;
        check(Sandbox::builder().coordinators(2), "coordinators").await;
        check(Sandbox::builder().replicas(2), "replicas").await;
        check(Sandbox::builder().nodes(1), "replicas").await;
        check(Sandbox::builder().shards(0), "shards").await;
        check(Sandbox::builder().launch_node(3, Launch::default()), "launch_node").await;
        check(Sandbox::builder().launch_coordinator(0, Launch::default()), "launch_coordinator").await;
    }
}
