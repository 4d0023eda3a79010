//! A cluster under load, on a network of its own: its servers one by one, and waiting for what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use semel_proto::v1::{GetClusterStatusResponse, Modality, ReplicaRole};
use semel_sandbox::{Launch, Sandbox, SandboxError, requests, wait_until};
use semel_simulation::history::ReplicaSeen;
use tonic::transport::Channel;

use crate::binary::child_processes;
use crate::clients::{Clients, GALLERY};
use crate::machine::{Folder, Volume};
use crate::network::Network;
use crate::people::{DIMENSION, THRESHOLD};
use crate::scenario::Scenario;

pub(crate) const NODES: usize = 3;
pub(crate) const COORDINATORS: usize = 3;
pub(crate) const SHARDS: u32 = 4;
const PORT: u16 = 7400;
/// How long what a scenario waits for may take at most, on a machine that does other things too.
pub(crate) const AT_MOST: Duration = Duration::from_secs(120);

/// One server, counted from 0 among its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Node(usize),
    Coordinator(usize),
}

impl Server {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..NODES).map(Self::Node).chain((0..COORDINATORS).map(Self::Coordinator))
    }

    /// The number of its namespace.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::Node(number) => number,
            Self::Coordinator(number) => NODES + number,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(number) => write!(formatter, "node {}", number + 1),
            Self::Coordinator(number) => write!(formatter, "coordinator {}", number + 1),
        }
    }
}

/// A cluster under load.
pub(crate) struct Cluster {
    pub(crate) sandbox: Sandbox,
    pub(crate) network: Network,
    pub(crate) volume: Option<Volume>,
    pub(crate) chance: ChaCha8Rng,
    pub(crate) clients: Arc<Clients>,
    pub(crate) watched: Arc<Mutex<BTreeSet<ReplicaSeen>>>,
    // Declared last, hence dropped last: servers end, then the network and the volume go, then the folder.
    pub(crate) folder: Folder,
}

impl Cluster {
    /// Starts the cluster as the scenario wants it.
    pub(crate) async fn start(network: Network, scenario: &Scenario, seed: u64) -> Self {
        let folder = Folder::new();
        let volume = scenario.volume_bytes.map(|bytes| Volume::mount(folder.path().join("node-1"), bytes));
        let volume = volume.transpose().unwrap_or_else(|refused| panic!("{refused}"));
        let launch = |server: Server| Launch {
            listen: Some(SocketAddr::new(network.address(server.place()), PORT)),
            prefix: Self::prefix(server, &[], &[]),
        };
        let mut builder = Sandbox::builder()
            .mode(child_processes())
            .nodes(NODES)
            .coordinators(COORDINATORS)
            .shards(SHARDS)
            .data_dir(folder.path());
        builder = match scenario.seal_at {
            Some(references) => builder.node_settings(move |node| node.seal_at_references = references),
            None => builder.engine("exact"),
        };
        for server in Server::all() {
            builder = match server {
                Server::Node(number) => builder.launch_node(number, launch(server)),
                Server::Coordinator(number) => builder.launch_coordinator(number, launch(server)),
            };
        }
        let sandbox = builder.start().await.expect("the cluster starts");
        let mut policy = requests::embedding_policy(Modality::Face, DIMENSION, THRESHOLD);
        policy.identification_allowed = true;
        sandbox.galleries().create_gallery(requests::gallery(GALLERY, policy)).await.expect("the gallery is created");
        let channels = (0..COORDINATORS).map(|number| sandbox.channel(number)).collect();
        Self {
            clients: Arc::new(Clients::new(seed, channels, scenario.coordinators)),
            chance: ChaCha8Rng::seed_from_u64(seed),
            watched: Arc::default(),
            sandbox,
            network,
            volume,
            folder,
        }
    }

    pub(crate) fn channels(&self) -> Vec<Channel> {
        (0..COORDINATORS).map(|number| self.sandbox.channel(number)).collect()
    }

    /// The folder of a server's data.
    pub(crate) fn data_of(&self, server: Server) -> PathBuf {
        let name = match server {
            Server::Node(number) => format!("node-{}", number + 1),
            Server::Coordinator(number) => format!("coordinator-{}", number + 1),
        };
        self.folder.path().join(name)
    }

    pub(crate) async fn kill(&self, server: Server) {
        let killed = match server {
            Server::Node(number) => self.sandbox.kill_node(number).await,
            Server::Coordinator(number) => self.sandbox.kill_coordinator(number).await,
        };
        killed.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn start_again(&self, server: Server) {
        let started = match server {
            Server::Node(number) => self.sandbox.restart_node(number).await,
            Server::Coordinator(number) => self.sandbox.restart_coordinator(number).await,
        };
        started.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn terminate(&self, server: Server) {
        let ended = match server {
            Server::Node(number) => self.sandbox.terminate_node(number).await,
            Server::Coordinator(number) => self.sandbox.terminate_coordinator(number).await,
        };
        ended.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn pause(&self, server: Server) {
        let paused = match server {
            Server::Node(number) => self.sandbox.pause_node(number).await,
            Server::Coordinator(number) => self.sandbox.pause_coordinator(number).await,
        };
        paused.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn resume(&self, server: Server) {
        let resumed = match server {
            Server::Node(number) => self.sandbox.resume_node(number).await,
            Server::Coordinator(number) => self.sandbox.resume_coordinator(number).await,
        };
        resumed.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills a server and starts it again behind another prefix; see [`Self::prefix`].
    pub(crate) async fn restart_behind(&self, server: Server, prefix: Vec<String>) {
        self.kill(server).await;
        let set = match server {
            Server::Node(number) => self.sandbox.set_node_prefix(number, prefix).await,
            Server::Coordinator(number) => self.sandbox.set_coordinator_prefix(number, prefix).await,
        };
        set.unwrap_or_else(|error| panic!("{error}"));
        self.start_again(server).await;
    }

    /// What starts a server in its namespace: `around`, then the way in, then `tool`, which only sees the namespace.
    pub(crate) fn prefix(server: Server, around: &[String], tool: &[String]) -> Vec<String> {
        [around, &Network::prefix(server.place()), tool].concat()
    }

    /// Waits until so many more calls have ended, in whatever way.
    pub(crate) async fn answers(&self, more: usize) {
        self.count_up("more answers", more, || self.clients.answers()).await;
    }

    /// Waits until so many more enrolments have a verdict.
    pub(crate) async fn verdicts(&self, more: usize) {
        self.count_up("more verdicts", more, || self.clients.verdicts()).await;
    }

    async fn count_up(&self, what: &str, more: usize, count: impl Fn() -> usize) {
        let begun = count();
        self.until(what, async || match count() - begun {
            counted if counted >= more => Ok(()),
            counted => Err(format!("{counted} of {more}; complaints: {:?}", self.clients.book().complaints.last())),
        })
        .await;
    }

    /// Waits for a condition.
    pub(crate) async fn until<T>(&self, what: &str, condition: impl AsyncFn() -> Result<T, String>) -> T {
        wait_until(what, AT_MOST, || condition()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Lets a fault last: long enough for elections, broken connections and calls that are given up.
    pub(crate) async fn last(&self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    /// The status as a coordinator other than those named knows it.
    pub(crate) async fn status_beside(&self, out: &[Server]) -> Result<GetClusterStatusResponse, String> {
        let asked = (0..COORDINATORS).find(|&number| !out.contains(&Server::Coordinator(number)));
        let asked = asked.expect("not every coordinator is out");
        self.sandbox.status_of(asked).await.map_err(|error| error.to_string())
    }

    /// The node that leads most shards.
    pub(crate) async fn leading_node(&self) -> Server {
        let status = self.until("a node that leads", async || self.status_beside(&[]).await).await;
        let mut led: BTreeMap<&str, usize> = BTreeMap::new();
        for leader in leaders(&status) {
            *led.entry(leader).or_default() += 1;
        }
        let most = led.iter().max_by_key(|(_, led)| **led).map(|(node, _)| *node).expect("the cluster is ready");
        let address = |server: Server| SocketAddr::new(self.network.address(server.place()), PORT).to_string();
        let node = status.nodes.iter().find(|node| node.node_id == most).expect("a leader is on a node");
        Server::all().find(|&server| address(server) == node.address).expect("nodes say where they listen")
    }

    /// The coordinator that leads the coordinators' group.
    pub(crate) async fn leading_coordinator(&self) -> Server {
        let leading = async || {
            let status = self.status_beside(&[]).await?;
            let leading = status.coordinators.iter().find(|coordinator| coordinator.leader);
            leading.map(|leading| Server::Coordinator(leading.coordinator as usize - 1)).ok_or("none leads".to_owned())
        };
        self.until("a coordinator that leads", leading).await
    }

    /// Waits until others have taken over whatever a server led.
    pub(crate) async fn others_lead(&self, out: Server) {
        let address = SocketAddr::new(self.network.address(out.place()), PORT).to_string();
        self.until(&format!("others to lead in place of {out}"), async || {
            let status = self.status_beside(&[out]).await?;
            match out {
                Server::Node(_) => {
                    let node = status.nodes.iter().find(|node| node.address == address).ok_or("it is not known")?;
                    let others = status.shards.iter().filter(|shard| {
                        let leads = |role, id: &str| role == ReplicaRole::Leader && id != node.node_id;
                        shard.replicas.iter().any(|replica| leads(replica.role(), &replica.node_id))
                    });
                    let others = others.count();
                    if others == SHARDS as usize { Ok(()) } else { Err(format!("others lead {others} shards")) }
                }
                Server::Coordinator(number) => {
                    let leads = status.coordinators.iter().find(|coordinator| coordinator.leader);
                    let leads = leads.ok_or("no coordinator leads")?.coordinator as usize - 1;
                    if leads == number { Err("it leads".to_owned()) } else { Ok(()) }
                }
            }
        })
        .await;
    }

    /// Waits until a node is back: it reports, and every shard has a leader.
    pub(crate) async fn ready(&self) {
        self.sandbox.wait_ready().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until a server has ended by itself and returns how.
    pub(crate) async fn ended(&self, node: usize) -> SandboxError {
        self.until("a node to end", async || {
            let ended = self.sandbox.node_ended(node).await.map_err(|error| error.to_string())?;
            ended.ok_or("it runs".to_owned())
        })
        .await
    }
}

/// The nodes that lead a shard, once for each.
fn leaders(status: &GetClusterStatusResponse) -> impl Iterator<Item = &str> {
    let replicas = status.shards.iter().flat_map(|shard| &shard.replicas);
    replicas.filter(|replica| replica.role() == ReplicaRole::Leader).map(|replica| replica.node_id.as_str())
}
