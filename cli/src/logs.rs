//! Logs of the servers: to standard error, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use semel_telemetry::TraceExport;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::traces::TraceArguments;

/// How log lines look.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// How log lines look.
    #[arg(
        long,
        value_enum,
        default_value = "text",
        env = "SEMEL_LOG_FORMAT",
        hide_env_values = true,
        help_heading = "Logs"
    )]
    log_format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace) or filters such as `info,semel_node=debug`.
    #[arg(long, default_value = "info", env = "SEMEL_LOG", hide_env_values = true, help_heading = "Logs")]
    log: String,
}

impl LogArguments {
    /// Starts logging for the whole process, and exporting its traces for as long as what is returned is kept.
    pub(crate) fn start(&self, traces: &TraceArguments, service: &'static str) -> anyhow::Result<Option<TraceExport>> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| anyhow::anyhow!("--log: {error}"))?;
        let colours = std::io::stderr().is_terminal();
        let export = traces.export(service)?;
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
        let logs = match self.log_format {
            LogFormat::Text => logs.with_target(false).boxed(),
            LogFormat::Json => logs.json().boxed(),
        };
        let layer = export.as_ref().map(TraceExport::layer);
        tracing_subscriber::registry().with(logs.with_filter(filter)).with(layer).init();
        Ok(export)
    }
}
