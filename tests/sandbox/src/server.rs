//! One node or coordinator: its settings, its place, and whether it runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use semel_coordinator::CoordinatorConfig;
use semel_node::NodeConfig;
use serde::Serialize;
use tokio::time::Instant;

use crate::builder::Mode;
use crate::child::{self, ChildProcess, LOG_TAIL_LINES};
use crate::embedded::Embedded;
use crate::error::SandboxError;
use crate::port::{Port, when_free};

/// What a server is told.
#[derive(Debug, Clone)]
pub(crate) enum Settings {
    Node(Box<NodeConfig>),
    Coordinator(Box<CoordinatorConfig>),
}

impl Settings {
    /// The sub-command of the binary.
    pub(crate) fn command(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Coordinator(_) => "coordinator",
        }
    }

    /// What cannot be told by the environment.
    pub(crate) fn flags(&self) -> Vec<String> {
        match self {
            Self::Coordinator(config) if !config.voters.is_empty() => {
                let voters = config.voters.iter().map(|voter| format!("{}={}", voter.id, voter.address));
                vec!["--voters".to_owned(), voters.collect::<Vec<_>>().join(",")]
            }
            Self::Coordinator(_) | Self::Node(_) => Vec::new(),
        }
    }

    /// Every other setting, so that none is left to the environment that the sandbox was started in.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        match self {
            Self::Node(config) => environment(semel_node::ENVIRONMENT_PREFIX, config),
            Self::Coordinator(config) => environment(semel_coordinator::ENVIRONMENT_PREFIX, config),
        }
    }

    fn listen_on(&mut self, address: SocketAddr, metrics: SocketAddr) {
        let (listen, metrics_listen) = match self {
            Self::Node(config) => (&mut config.listen, &mut config.metrics_listen),
            Self::Coordinator(config) => (&mut config.listen, &mut config.metrics_listen),
        };
        *listen = address.to_string();
        *metrics_listen = metrics.to_string();
    }

    /// The server's folder.
    pub(crate) fn data(&self) -> &Path {
        match self {
            Self::Node(config) => &config.data,
            Self::Coordinator(config) => &config.data,
        }
    }
}

fn environment(prefix: &str, config: &impl Serialize) -> Vec<(String, String)> {
    let value = serde_json::to_value(config).expect("settings are plain values");
    let fields = value.as_object().expect("settings are a struct").iter();
    let fields = fields.filter(|(name, _)| *name != "voters");
    fields.map(|(name, value)| (format!("{prefix}{}", name.to_uppercase()), value.to_string())).collect()
}

enum Running {
    Embedded(Embedded),
    Child(ChildProcess),
}

/// One server.
pub(crate) struct Server {
    pub(crate) name: String,
    settings: Settings,
    mode: Mode,
    /// The sandbox's folder, where logs go.
    folder: PathBuf,
    listen: Port,
    metrics: Port,
    /// What is run in front of the binary.
    pub(crate) prefix: Vec<String>,
    running: Option<Running>,
    started: Instant,
}

impl Server {
    /// A server that does not run yet; it keeps its ports until it is dropped.
    pub(crate) async fn new(
        name: String,
        settings: Settings,
        mode: Mode,
        folder: PathBuf,
        listen: Port,
        prefix: Vec<String>,
    ) -> Result<Self, SandboxError> {
        let metrics = listen.beside(&name).await?;
        Ok(Self { name, settings, mode, folder, listen, metrics, prefix, running: None, started: Instant::now() })
    }

    /// Starts it, and returns once it listens.
    pub(crate) async fn start(&mut self) -> Result<(), SandboxError> {
        if self.running.is_some() {
            return Err(SandboxError::AlreadyRunning { server: self.name.clone() });
        }
        self.started = Instant::now();
        let running = match self.mode.clone() {
            Mode::InProcess => {
                let listener = self.bind(self.address()).await?;
                let metrics_listener = self.bind(self.metrics()).await?;
                self.settings.listen_on(self.address(), self.metrics());
                let embedded = Embedded::start(&self.name, self.settings.clone(), listener, metrics_listener);
                Running::Embedded(embedded.map_err(|source| SandboxError::Spawn { server: self.name.clone(), source })?)
            }
            Mode::ChildProcesses { binary } => {
                // Bound to see that the port is free; the process binds it itself.
                for port in [&self.listen, &self.metrics] {
                    if let Port::Here { address, .. } = port {
                        drop(self.bind(*address).await?);
                    }
                }
                self.settings.listen_on(self.address(), self.metrics());
                let mut command = self.prefix.clone();
                command.push(binary.display().to_string());
                let child = ChildProcess::start(&self.name, &command, &self.settings, &self.folder).await?;
                let (child, [address, metrics]) = child;
                self.listen.taken(address);
                self.metrics.taken(metrics);
                Running::Child(child)
            }
        };
        self.running = Some(running);
        Ok(())
    }

    async fn bind(&self, address: SocketAddr) -> Result<std::net::TcpListener, SandboxError> {
        when_free(&self.name, address, || std::net::TcpListener::bind(address)).await
    }

    /// Ends it where it stands: SIGKILL for a process, the end of its runtime inside this one.
    pub(crate) async fn kill(&mut self) -> Result<(), SandboxError> {
        let running = self.running.take().ok_or_else(|| SandboxError::NotRunning { server: self.name.clone() })?;
        // Waits for threads or a process to be gone.
        tokio::task::spawn_blocking(move || drop(running)).await.expect("ending a server does not panic");
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub(crate) async fn terminate(&mut self) -> Result<(), SandboxError> {
        match &mut self.running {
            Some(Running::Child(child)) => child.terminate().await?,
            Some(Running::Embedded(_)) => return Err(SandboxError::NotAProcess { server: self.name.clone() }),
            None => return Err(SandboxError::NotRunning { server: self.name.clone() }),
        }
        self.running = None;
        Ok(())
    }

    /// Stops or goes on with the process.
    pub(crate) fn suspend(&self, paused: bool) -> Result<(), SandboxError> {
        match &self.running {
            Some(Running::Child(child)) if paused => child.pause(),
            Some(Running::Child(child)) => child.resume(),
            Some(Running::Embedded(_)) => Err(SandboxError::NotAProcess { server: self.name.clone() }),
            None => Err(SandboxError::NotRunning { server: self.name.clone() }),
        }
    }

    /// The error that tells how it ended, if it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<SandboxError> {
        match self.running.as_mut()? {
            Running::Child(child) => child.ended(),
            Running::Embedded(embedded) => embedded.ended().map(|reason| SandboxError::Ended {
                server: self.name.clone(),
                reason,
                log_tail: String::new(),
            }),
        }
    }

    /// The id of its process.
    pub(crate) fn process_id(&self) -> Result<u32, SandboxError> {
        match &self.running {
            Some(Running::Child(child)) => Ok(child.id()),
            Some(Running::Embedded(_)) => Err(SandboxError::NotAProcess { server: self.name.clone() }),
            None => Err(SandboxError::NotRunning { server: self.name.clone() }),
        }
    }

    /// How long ago it was last started; `None` while it does not run.
    pub(crate) fn running_for(&self) -> Option<Duration> {
        self.running.as_ref().map(|_| self.started.elapsed())
    }

    /// Where it listens, or did before it was killed.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen.address()
    }

    /// Where it serves metrics, or did before it was killed.
    pub(crate) fn metrics(&self) -> SocketAddr {
        self.metrics.address()
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> &Path {
        self.settings.data()
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        child::tail(&child::log_path(&self.folder, &self.name), LOG_TAIL_LINES)
    }

    /// Gives the running server to another thread to end, so that many end at once.
    pub(crate) fn take(&mut self) -> Option<impl Send + 'static> {
        self.running.take()
    }
}
