//! A server as a child process: `semel node` or `semel coordinator`, with its logs in the sandbox's folder.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::SandboxError;
use crate::server::Settings;
use crate::wait::wait_until;

/// How long a process may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
/// How long a process that was asked to end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Lines of a log that an error shows.
pub(crate) const LOG_TAIL_LINES: usize = 20;

/// A running process; killed when dropped.
pub(crate) struct ChildProcess {
    name: String,
    child: Child,
    log: PathBuf,
}

impl ChildProcess {
    /// Starts the process, `command` being the binary behind whatever comes in front of it, and waits until it says where it listens, for
    /// calls and for metrics.
    pub(crate) async fn start(
        name: &str,
        command: &[String],
        settings: &Settings,
        folder: &Path,
    ) -> Result<(Self, [SocketAddr; 2]), SandboxError> {
        let log = log_path(folder, name);
        let out = folder.join(format!("{name}.out"));
        let open = |path: &PathBuf, append: bool| {
            let opened = File::options().create(true).write(true).append(append).truncate(!append).open(path);
            opened.map_err(|source| SandboxError::Io { action: "open", path: path.clone(), source })
        };
        let (program, arguments) = command.split_first().expect("a command names at least the binary");
        let mut command = Command::new(program);
        command.args(arguments).arg(settings.command()).args(settings.flags()).envs(settings.environment());
        // The search pool is the only parallelism: BLAS must not start threads of its own.
        command.env("OPENBLAS_NUM_THREADS", "1");
        // As deployments have it: what a catalogue took while it was loaded goes back to the machine.
        command
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .env("MALLOC_MMAP_THRESHOLD_", "131072");
        command.stdin(Stdio::null()).stdout(open(&out, false)?).stderr(open(&log, true)?);
        let child = command.spawn().map_err(|source| SandboxError::Spawn { server: name.to_owned(), source })?;
        let mut process = Self { name: name.to_owned(), child, log };
        let addresses = process.listening(&out).await?;
        Ok((process, addresses))
    }

    async fn listening(&mut self, out: &Path) -> Result<[SocketAddr; 2], SandboxError> {
        let what = format!("{} to say where it listens", self.name);
        let found = wait_until(&what, LISTENS_WITHIN, || {
            let said = fs::read_to_string(out).unwrap_or_default();
            let address = |word: &str| {
                let mut lines = said.lines().filter(|line| line.starts_with(word));
                lines.find_map(|line| line.rsplit_once(" listening on ")?.1.parse().ok())
            };
            // The end of the process is an end of the wait too.
            let state = match (address("ready ").zip(address("metrics ")), self.ended()) {
                (Some((address, metrics)), _) => Ok(Ok([address, metrics])),
                (None, Some(error)) => Ok(Err(error)),
                (None, None) => Err(format!("it said {said:?}")),
            };
            async move { state }
        });
        found.await?
    }

    /// The error that tells how it ended, if it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<SandboxError> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(self.ended_with(status))
    }

    fn ended_with(&self, status: ExitStatus) -> SandboxError {
        SandboxError::Ended {
            server: self.name.clone(),
            reason: status.to_string(),
            log_tail: tail(&self.log, LOG_TAIL_LINES),
        }
    }

    /// Sends SIGTERM and waits for the end, which must be one without failure.
    pub(crate) async fn terminate(&mut self) -> Result<(), SandboxError> {
        self.signal(Signal::SIGTERM)?;
        let what = format!("{} to end", self.name);
        let ended = wait_until(&what, ENDS_WITHIN, || {
            let status = self.child.try_wait().ok().flatten().ok_or("it runs");
            async move { status }
        });
        let status = ended.await?;
        if status.success() { Ok(()) } else { Err(self.ended_with(status)) }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGSTOP.
    pub(crate) fn pause(&self) -> Result<(), SandboxError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Sends SIGCONT.
    pub(crate) fn resume(&self) -> Result<(), SandboxError> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        let pid = i32::try_from(self.child.id()).expect("process ids fit");
        kill(Pid::from_raw(pid), signal).map_err(|source| SandboxError::Signal {
            server: self.name.clone(),
            signal: signal.as_str(),
            source,
        })
    }
}

/// SIGKILL, also to a paused process; returns once it is gone.
impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a server's log is.
pub(crate) fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// The last lines of a file; empty if there is none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
