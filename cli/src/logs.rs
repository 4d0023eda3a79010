//! Logs of the servers: to standard error, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

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
    /// Starts logging for the whole process.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| anyhow::anyhow!("--log: {error}"))?;
        let colours = std::io::stderr().is_terminal();
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
        match self.log_format {
            LogFormat::Text => logs.with_target(false).init(),
            LogFormat::Json => logs.json().init(),
        }
        Ok(())
    }
}
