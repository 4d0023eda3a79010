//! `semel node` and `semel coordinator`: the servers, run until they are told to stop.

use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use semel_coordinator::{CoordinatorConfig, Voter};
use semel_node::NodeConfig;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::exit::{EXIT_CODES, UsageError};
use crate::logs::LogArguments;
use crate::traces::TraceArguments;

/// Runs a storage node.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs a storage node until SIGTERM or SIGINT. Prints one line that starts with `ready` once it listens and tells its \
        health; what it holds is searched once health says SERVING.\n\n\
        A setting that is not given as a flag comes from the environment (SEMEL_NODE_DATA, ...), then the file, then the default.",
    after_help = format!("\
Example:
    semel node --data /var/lib/semel --listen 0.0.0.0:7411 --advertise node-1:7411 \\
      --coordinators coordinator-1:7400,coordinator-2:7400,coordinator-3:7400

{EXIT_CODES}")
)]
pub(crate) struct NodeArguments {
    /// A TOML file with settings named as the flags, with underscores.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: NodeFlags,
    #[command(flatten)]
    logs: LogArguments,
    #[command(flatten)]
    traces: TraceArguments,
}

#[derive(Debug, Args, Serialize)]
struct NodeFlags {
    /// Where to listen; port 0 takes any free one. [default: 127.0.0.1:7411]
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// What others dial. [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// Where /metrics, /livez and /readyz are served over HTTP; port 0 takes any free one. [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<String>,
    /// The folder of the node's volume; it holds the node's identity. [default: semel-node]
    #[arg(long, value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<PathBuf>,
    /// Coordinators to join, separated by commas. [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinators: Option<Vec<String>>,
    /// Threads that search, 1 to 1024; 0 = one per core. [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    search_threads: Option<usize>,
    /// The engine of sealed segments: exact, sketch, faiss or faiss:FACTORY. [default: sketch]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    /// References at which a growing segment is sealed, 1024 to 1048576. [default: 16384]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    seal_at_references: Option<usize>,
    /// Where the templates of sealed segments are kept for re-scoring: memory or disk. [default: memory]
    #[arg(long, value_name = "PLACE", value_parser = ["memory", "disk"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    templates: Option<String>,
    /// How much of one core's time goes into auditing what engines miss, in thousandths, 0 to 1000; 0 = never. [default: 10]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    recall_audit_permille: Option<u32>,
    /// The Raft tick in milliseconds, 10 to 1000. [default: 50]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tick_ms: Option<u64>,
    /// Search requests that may wait or run at once, 1 to 65536. [default: 1024]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    searches_max: Option<usize>,
    /// The largest request taken, in bytes, 65536 to 268435456. [default: 33554432]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    request_bytes_max: Option<usize>,
    /// Log entries that each shard keeps, 100 to 10000000; a replica that lacks older ones is sent all rows. [default: 20000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_entries_max: Option<u64>,
    /// The rate at which rows are sent to replicas that are new or far behind, 65536 to 10000000000. [default: 67108864]
    #[arg(long, value_name = "BYTES_PER_SECOND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_bytes_per_second: Option<u64>,
    /// What rows that come in leave free on the disk: a full disk stops the node's replicas. [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_reserve_bytes: Option<u64>,
}

/// Runs a coordinator.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs a coordinator until SIGTERM or SIGINT. Prints one line that starts with `ready` once it listens.\n\n\
        A setting that is not given as a flag comes from the environment (SEMEL_COORDINATOR_DATA, ...), then the file, then the \
        default.",
    after_help = format!("\
Examples:
    semel coordinator --data /var/lib/semel
    semel coordinator --data /var/lib/semel --id 1 --listen 0.0.0.0:7400 --shards 256 \\
      --voters 1=coordinator-1:7400,2=coordinator-2:7400,3=coordinator-3:7400

{EXIT_CODES}")
)]
pub(crate) struct CoordinatorArguments {
    /// A TOML file with settings named as the flags, with underscores.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: CoordinatorFlags,
    #[command(flatten)]
    logs: LogArguments,
    #[command(flatten)]
    traces: TraceArguments,
}

#[derive(Debug, Args, Serialize)]
struct CoordinatorFlags {
    /// Where to listen; port 0 takes any free one. [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// What others dial. [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// Where /metrics, /livez and /readyz are served over HTTP; port 0 takes any free one. [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<String>,
    /// The folder of the coordinator's volume. [default: semel-coordinator]
    #[arg(long, value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<PathBuf>,
    /// This coordinator's number among the voters. [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// Every voter of the coordinators' group, 1, 3 or 5, as ID=HOST:PORT separated by commas. [default: this one alone]
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',', value_parser = parse_voter)]
    #[serde(skip_serializing_if = "Option::is_none")]
    voters: Option<Vec<Voter>>,
    /// The number of shards, 1 to 4096, fixed when the cluster is initialised. [default: 8]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u32>,
    /// Replicas of each shard, 1, 3 or 5, fixed when the cluster is initialised. [default: 3]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<u32>,
    /// The Raft tick in milliseconds, 10 to 1000. [default: 50]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tick_ms: Option<u64>,
    /// Enrolments in work at once, 1 to 65536. [default: 1024]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolments_max: Option<usize>,
    /// Unanswered items of one stream, 1 to 4096. [default: 256]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_items_max: Option<usize>,
    /// How long one attempt to search a shard may take before another replica is asked, 100 to 60000 ms. [default: 3000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    search_attempt_ms: Option<u64>,
    /// How often enrolments and obligations left behind are looked for, 100 to 60000 ms. [default: 500]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sweep_ms: Option<u64>,
    /// The largest request taken, in bytes, 65536 to 268435456. [default: 4194304]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    request_bytes_max: Option<usize>,
    /// Log entries that the coordinators' group keeps, 100 to 10000000. [default: 20000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_entries_max: Option<u64>,
}

fn wrong_setting(error: impl ToString) -> UsageError {
    UsageError(error.to_string())
}

/// A settings file that was named must be there.
fn check_file(config: Option<&Path>) -> Result<(), UsageError> {
    let Some(file) = config else { return Ok(()) };
    let reason = match std::fs::metadata(file) {
        Ok(found) if found.is_dir() => "is a folder".to_owned(),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "no such file".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(UsageError(format!("--config {}: {reason}", file.display())))
}

fn parse_voter(text: &str) -> Result<Voter, String> {
    let (id, address) = text.split_once('=').ok_or("must look like 1=host:port")?;
    let id = id.parse().map_err(|_| format!("`{id}` is not a number"))?;
    Ok(Voter { id, address: address.to_owned() })
}

/// Runs a node until it is told to stop.
pub(crate) fn node(arguments: NodeArguments) -> anyhow::Result<()> {
    let _traces = arguments.logs.start(&arguments.traces, "semel-node")?;
    check_processor()?;
    check_file(arguments.config.as_deref())?;
    let config = NodeConfig::load(arguments.config.as_deref(), arguments.flags).map_err(wrong_setting)?;
    config.validate().map_err(wrong_setting)?;
    let (listen, metrics_listen) = (config.listen.clone(), config.metrics_listen.clone());
    run("semel-node", &listen, &metrics_listen, |listener, metrics_listener| {
        semel_node::serve(config, listener, metrics_listener, stop_signal())
    })
}

/// Runs a coordinator until it is told to stop.
pub(crate) fn coordinator(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    let _traces = arguments.logs.start(&arguments.traces, "semel-coordinator")?;
    check_processor()?;
    check_file(arguments.config.as_deref())?;
    let config = CoordinatorConfig::load(arguments.config.as_deref(), arguments.flags).map_err(wrong_setting)?;
    config.validate().map_err(wrong_setting)?;
    let (listen, metrics_listen) = (config.listen.clone(), config.metrics_listen.clone());
    run("semel-coordinator", &listen, &metrics_listen, |listener, metrics_listener| {
        semel_coordinator::serve(config, listener, metrics_listener, stop_signal())
    })
}

fn run<F>(
    name: &str,
    listen: &str,
    metrics_listen: &str,
    serve: impl FnOnce(TcpListener, Option<TcpListener>) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let metrics_listener = match metrics_listen {
            "" => None,
            listen => {
                let bound = TcpListener::bind(listen).await;
                let listener = bound.with_context(|| format!("listen on {listen} for metrics"))?;
                println!("metrics {name} listening on {}", listener.local_addr()?);
                Some(listener)
            }
        };
        // Whoever started the process waits for this line and reads the port from it.
        println!("ready {name} listening on {}", listener.local_addr()?);
        std::io::stdout().flush()?;
        serve(listener, metrics_listener).await
    })
}

/// Resolves on SIGTERM or SIGINT.
pub(crate) async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).expect("signal handlers can be installed once the runtime runs");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop");
}

/// The C++ parts of an x86-64 build need AVX2: better a sentence now than an illegal instruction later.
pub(crate) fn check_processor() -> anyhow::Result<()> {
    #[cfg(target_arch = "x86_64")]
    anyhow::ensure!(
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
        "this processor lacks AVX2 or FMA, which this build needs (x86-64-v3); build for it without the \
         CXXFLAGS of .cargo/config.toml and with --no-default-features"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_file_that_is_not_there_is_named() {
        let error = check_file(Some(Path::new("nofile.toml"))).expect_err("there is none").to_string();
        assert_eq!(error, "--config nofile.toml: no such file");
        check_file(None).expect("none is needed");
        check_file(Some(Path::new("Cargo.toml"))).expect("tests run in the crate's folder");
    }
}
