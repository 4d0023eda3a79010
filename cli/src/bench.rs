//! `semel bench`: what this machine does, each figure beside the raw one it is to be judged by, measured in the same run.

mod beside;
mod cluster;
mod engines;
mod enrol;
mod export;
mod loopback;
mod people;
mod plot;
mod processor;
mod results;
mod shard;
mod twin;

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use semel_index::ComparisonScore;

use crate::exit::{Exit, UsageError};

/// Measures searches and enrolments on this machine, beside raw reference figures of the same run.
#[derive(Debug, Args)]
#[command(
    long_about = "Measures searches and enrolments on this machine with synthetic people. Every figure comes with the raw one \
        it is to be judged by, measured in the same run, in turns where both run in this process: on a busy machine the shares \
        say more than the rates.\n\nSynthetic people say something about the index and the cluster, nothing about biometric \
        accuracy."
)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Engines(engines::EnginesArguments),
    Plot(plot::PlotArguments),
    Shard(shard::ShardArguments),
    Cluster(cluster::ClusterArguments),
    Enrol(enrol::EnrolArguments),
}

/// Runs `semel bench`.
pub(crate) async fn run(arguments: BenchArguments) -> anyhow::Result<Exit> {
    match arguments.what {
        What::Engines(engines) => tokio::task::spawn_blocking(move || engines::run(&engines)).await?,
        What::Plot(plot) => tokio::task::spawn_blocking(move || plot::run(&plot)).await?,
        What::Shard(shard) => tokio::task::spawn_blocking(move || shard::run(&shard)).await?,
        What::Cluster(cluster) => cluster::run(cluster).await,
        What::Enrol(enrol) => enrol::run(enrol).await,
    }
}

/// A cosine from the command line, 0 to 1.
fn threshold(text: &str) -> Result<ComparisonScore, String> {
    let value: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    let score = ComparisonScore::from_f64(value).filter(|score| *score >= ComparisonScore::ZERO);
    score.ok_or_else(|| "must be 0 to 1".to_owned())
}

/// Refuses a file that cannot be written because its folder is not there, before anything is measured.
fn writable(field: &str, file: &Path) -> Result<(), UsageError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = |reason: String| Err(UsageError(format!("{field} {}: {reason}", file.display())));
    if file.is_dir() {
        return wrong("is a folder, must be a file".to_owned());
    }
    if !folder.is_dir() {
        return wrong(format!("there is no folder {}", folder.display()));
    }
    Ok(())
}

/// So many in a time, per second.
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// A rate as people read it.
fn shown(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { crate::output::grouped(rate.round() as u64) }
}

/// A share in per cent.
fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
