//! A server inside this process, on a runtime of its own so that it can be torn down as if it had been killed.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::server::Settings;

/// Worker threads of each server's runtime.
const WORKER_THREADS: usize = 2;
/// How long a torn-down server may take to let go of its folder.
const TEAR_DOWN_WITHIN: Duration = Duration::from_secs(20);

/// A running server.
pub(crate) struct Embedded {
    runtime: Option<Runtime>,
    failure: Arc<OnceLock<String>>,
    /// Never sent: a server in this process only ends by being torn down.
    _shutdown: oneshot::Sender<()>,
}

impl Embedded {
    /// Starts the server on listeners that are bound already.
    pub(crate) fn start(
        name: &str,
        settings: Settings,
        listener: std::net::TcpListener,
        metrics_listener: std::net::TcpListener,
    ) -> Result<Self, std::io::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name(name)
            .enable_all()
            .build()?;
        listener.set_nonblocking(true)?;
        metrics_listener.set_nonblocking(true)?;
        let (shutdown, told) = oneshot::channel::<()>();
        let failure = Arc::new(OnceLock::new());
        let ended = Arc::clone(&failure);
        runtime.spawn(async move {
            let until = async move {
                if told.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let outcome = async {
                let listener = TcpListener::from_std(listener)?;
                let metrics = Some(TcpListener::from_std(metrics_listener)?);
                match settings {
                    Settings::Node(config) => semel_node::serve(*config, listener, metrics, until).await,
                    Settings::Coordinator(config) => semel_coordinator::serve(*config, listener, metrics, until).await,
                }
            };
            let reason = match outcome.await {
                Ok(()) => "stopped".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            ended.set(reason).expect("a server ends once");
        });
        Ok(Self { runtime: Some(runtime), failure, _shutdown: shutdown })
    }

    /// How it ended, if it ended by itself.
    pub(crate) fn ended(&self) -> Option<String> {
        self.failure.get().cloned()
    }
}

/// Tears everything down where it stands: no request is finished, nothing is flushed. Returns once the folder is free.
impl Drop for Embedded {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // A runtime may not be dropped on a thread that runs another one.
        let torn_down = thread::spawn(move || runtime.shutdown_timeout(TEAR_DOWN_WITHIN)).join();
        torn_down.expect("tearing down a runtime does not panic");
    }
}
