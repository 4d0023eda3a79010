//! The owner of the host's thread.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use semel_raft::StateMachine;
use tokio::sync::oneshot;

use crate::config::HostConfig;
use crate::database::Database;
use crate::driver::Driver;
use crate::envelope::Transport;
use crate::handle::{HostHandle, Shared};
use crate::inbox::Inbox;
use crate::metrics::HostMetrics;
use crate::snapshot::receive::Receivers;

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not make sense together.
    #[error("{field} {reason}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What it must be.
        reason: &'static str,
    },
    /// The operating system gave no thread.
    #[error("start the host's thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running host: one thread that drives all its replicas.
///
/// Dropping it ends the thread too, blocking for at most the turn at hand; nothing acknowledged depends on a farewell.
pub struct Host<M: StateMachine> {
    handle: HostHandle<M>,
    inbox: Arc<Inbox<M>>,
    thread: Option<JoinHandle<()>>,
    /// Fails when the thread has let go of everything.
    ended: oneshot::Receiver<()>,
}

impl<M: StateMachine> Host<M> {
    /// Starts a host without groups. It owns `database` from now on as far as writing goes.
    pub fn start(
        config: HostConfig,
        database: Arc<Database>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        validate(&config)?;
        let inbox = Arc::new(Inbox::new(&config));
        let metrics = Arc::new(HostMetrics::default());
        let receivers = Arc::new(Receivers::new(&config));
        let shared = Shared {
            config: Arc::new(config),
            database: Arc::downgrade(&database),
            inbox: inbox.clone(),
            metrics: metrics.clone(),
            receivers,
            groups: Mutex::new(BTreeMap::new()),
        };
        let driver = Driver::new(&shared.config, database, transport, inbox.clone(), metrics)?;
        let (ending, ended) = oneshot::channel();
        let closing = Closing { inbox: inbox.clone(), _ending: ending };
        let thread = thread::Builder::new().name("raft-host".to_owned()).spawn(move || {
            // Declared first, hence dropped last: also if the driver panics, callers are let go and the owner is told.
            let _closing = closing;
            driver.run();
        })?;
        Ok(Self { handle: HostHandle::new(Arc::new(shared)), inbox, thread: Some(thread), ended })
    }

    /// A handle for servers.
    pub fn handle(&self) -> HostHandle<M> {
        self.handle.clone()
    }

    /// Ends the thread and waits for it. Whoever still waits for a replica learns that it has stopped.
    pub async fn shutdown(mut self) {
        self.inbox.close();
        // The sender is never used, only dropped.
        let _ = (&mut self.ended).await;
    }

    fn join(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the host's thread panicked");
        }
    }
}

impl<M: StateMachine> Drop for Host<M> {
    fn drop(&mut self) {
        self.join();
    }
}

impl<M: StateMachine> fmt::Debug for Host<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// Closes the inbox when the thread ends, however it ends.
struct Closing<M: StateMachine> {
    inbox: Arc<Inbox<M>>,
    _ending: oneshot::Sender<()>,
}

impl<M: StateMachine> Drop for Closing<M> {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

fn validate(config: &HostConfig) -> Result<(), StartError> {
    let refuse = |field, reason| Err(StartError::Config { field, reason });
    if config.tick.is_zero() {
        return refuse("tick", "must be longer than zero");
    }
    if config.turn_ticks_max == 0 {
        return refuse("turn_ticks_max", "must be at least 1");
    }
    if config.heartbeat_ticks == 0 {
        return refuse("heartbeat_ticks", "must be at least 1");
    }
    if config.log_entries_max < 2 {
        return refuse("log_entries_max", "must be at least 2");
    }
    if config.election_ticks <= config.heartbeat_ticks {
        return refuse("election_ticks", "must exceed heartbeat_ticks");
    }
    Ok(())
}
