//! What can go wrong with a sandbox. Every message says what to do next.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why the sandbox could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The numbers do not make a cluster.
    #[error("{setting}: {reason}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What it must be.
        reason: String,
    },
    /// There is no `semel` binary to start processes from.
    #[error(
        "no `semel` binary at {}; build it (cargo build --release -p semel-cli) or name it in SEMEL_BINARY",
        looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    NoBinary {
        /// Where it was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// A file or folder of the sandbox could not be used.
    #[error("{action} {}: {source}; check that the folder is writable and has room", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A port could not be had.
    #[error(
        "{server} cannot listen on {address}: {source}; end whatever listens there, or name an address of this machine"
    )]
    Listen {
        /// The server.
        server: String,
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A server could not be started at all.
    #[error("{server} cannot be started: {source}")]
    Spawn {
        /// The server.
        server: String,
        /// Why not.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("{server} ended by itself ({reason}); its log ends with:\n{log_tail}")]
    Ended {
        /// The server.
        server: String,
        /// How.
        reason: String,
        /// The last lines of its log; empty inside this process, where the caller's subscriber has them.
        log_tail: String,
    },
    /// There is no server of that number.
    #[error("there is no {kind} {number}; they are counted from 0, and there are {count}")]
    NoSuchServer {
        /// Node or coordinator.
        kind: &'static str,
        /// The number asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// The server does not run.
    #[error("{server} does not run; restart it first")]
    NotRunning {
        /// The server.
        server: String,
    },
    /// The server runs already.
    #[error("{server} runs already; kill it first")]
    AlreadyRunning {
        /// The server.
        server: String,
    },
    /// A server inside this process cannot be paused.
    #[error("{server} runs inside this process and cannot be paused; start the sandbox with Mode::ChildProcesses")]
    NotAProcess {
        /// The server.
        server: String,
    },
    /// The operating system refused a signal.
    #[error("{server} cannot be sent {signal}: {source}")]
    Signal {
        /// The server.
        server: String,
        /// The signal.
        signal: &'static str,
        /// Why not.
        source: nix::Error,
    },
    /// A condition did not come true in time.
    #[error("waited {} s for {what} in vain; last seen: {last_state}", waited.as_secs_f32())]
    TimedOut {
        /// The condition.
        what: String,
        /// How long.
        waited: Duration,
        /// What was seen last.
        last_state: String,
    },
    /// A coordinator did not answer.
    #[error("no coordinator answers: {0}; see Sandbox::coordinator_log_tail")]
    Call(Box<tonic::Status>),
}

impl From<tonic::Status> for SandboxError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}
