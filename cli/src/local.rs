//! `semel local`: a whole cluster on this machine, to keep. The cluster itself is the sandbox's.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use semel_sandbox::{Mode, Sandbox, SandboxError};

use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::logs::LogArguments;
use crate::number::within;
use crate::output;
use crate::serve::{check_processor, stop_signal};
use crate::traces::TraceArguments;

/// The raft tick in milliseconds: elections within one to two seconds, and little to do when idle.
const TICK_MS: u64 = 50;

/// Runs a whole cluster on this machine.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs a whole cluster on this machine: everything in this process, or with --processes each server in its own. \
        Prints one line that starts with `ready` once enrolments can be taken. Ctrl-C ends it; the same command with the same \
        --data goes on where it ended.\n\nFor trying out, development and small registries; replicas on one machine do \
        not survive that machine.",
    after_help = format!("\
Examples:
    semel local --data ./cluster
    semel local --data ./cluster --nodes 5 --shards 16 --processes

{EXIT_CODES}")
)]
pub(crate) struct LocalArguments {
    /// Storage nodes, 1 to 64.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = within::<usize>(1..=64))]
    nodes: usize,
    /// Replicas of each shard: 1, 3 or 5, at most as many as nodes. Fixed when the folder is first used.
    #[arg(long, value_name = "N", default_value_t = 3)]
    replicas: u32,
    /// Shards, 1 to 4096. Fixed when the folder is first used.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = within::<u32>(1..=4_096))]
    shards: u32,
    /// Coordinators: 1, 3 or 5.
    #[arg(long, value_name = "N", default_value_t = 1)]
    coordinators: usize,
    /// Where everything is kept. [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Where the first coordinator listens; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// The engine of sealed segments: exact, sketch, faiss or faiss:FACTORY. [default: the node's own]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Runs each server as a process of its own, with its log beside its data.
    #[arg(long)]
    processes: bool,
    #[command(flatten)]
    logs: LogArguments,
    #[command(flatten)]
    traces: TraceArguments,
}

/// Runs `semel local` until it is told to stop.
pub(crate) async fn run(arguments: LocalArguments) -> anyhow::Result<Exit> {
    if let Some(engine) = &arguments.engine {
        // Before anything is started: a node would end with it in its log.
        semel_node::engine(engine).map_err(|error| UsageError(format!("--engine: {}", error.reason)))?;
    }
    let _traces = arguments.logs.start(&arguments.traces, "semel-local")?;
    check_processor()?;
    let mode = if arguments.processes {
        Mode::ChildProcesses { binary: std::env::current_exe().context("find this program")? }
    } else {
        Mode::InProcess
    };
    let mut builder = Sandbox::builder()
        .nodes(arguments.nodes)
        .replicas(arguments.replicas)
        .shards(arguments.shards)
        .coordinators(arguments.coordinators)
        .listen(arguments.listen)
        .tick_ms(TICK_MS)
        .mode(mode);
    if let Some(folder) = arguments.data {
        builder = builder.data_dir(folder);
    }
    if let Some(engine) = arguments.engine {
        builder = builder.engine(&engine);
    }
    let sandbox = tokio::select! {
        started = builder.start() => started.map_err(refused)?,
        () = stop_signal() => return Ok(Exit::Done),
    };
    for (server, address) in sandbox.metrics().await {
        output::line(format!("metrics {server} listening on {address}"));
    }
    let endpoints = sandbox.endpoints();
    let addresses: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.trim_start_matches("http://")).collect();
    output::line(format!("ready semel-local listening on {}", addresses.join(",")));
    output::line(format!(
        "data in {}; next: semel gallery create people --modality face --dimension 512 --threshold 0.42 --address {}",
        sandbox.data_dir().display(),
        addresses[0]
    ));
    stop_signal().await;
    Ok(Exit::Done)
}

/// Numbers that make no cluster are the caller's to mend.
fn refused(error: SandboxError) -> anyhow::Error {
    if matches!(error, SandboxError::Setting { .. }) { UsageError(error.to_string()).into() } else { error.into() }
}
