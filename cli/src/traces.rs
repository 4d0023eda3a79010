//! Traces: where servers export them, and how a client command starts one.

use clap::Args;
use semel_telemetry::{TraceExport, trace_id, traced};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::exit::UsageError;
use crate::output;

/// Where a server's spans go.
#[derive(Debug, Args)]
pub(crate) struct TraceArguments {
    /// The collector of traces, OTLP over gRPC, such as http://127.0.0.1:4317. Spans hold identifiers, never templates or scores.
    /// [default: no traces]
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        help_heading = "Traces"
    )]
    otlp_endpoint: Option<String>,
    /// The share of traces kept of those that start here, 0 to 1. A caller that sends `traceparent` decides for its own.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 1.0,
        env = "OTEL_TRACES_SAMPLER_ARG",
        hide_env_values = true,
        help_heading = "Traces"
    )]
    trace_ratio: f64,
}

impl TraceArguments {
    /// Starts to export, if there is a collector. What is queued leaves when the export is dropped.
    pub(crate) fn export(&self, service: &'static str) -> anyhow::Result<Option<TraceExport>> {
        let Some(endpoint) = self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(None);
        };
        let export = TraceExport::start(service, endpoint, self.trace_ratio);
        Ok(Some(export.map_err(|error| UsageError(format!("--otlp-endpoint {endpoint}: {error}")))?))
    }
}

/// The trace of one client command.
pub(crate) struct ClientTrace {
    // Ends before what exports it.
    _span: tracing::span::EnteredSpan,
    _export: TraceExport,
}

impl ClientTrace {
    /// Starts a trace that is kept, tells its id, and enters its first span on this thread. The command's own span is exported where
    /// OTEL_EXPORTER_OTLP_ENDPOINT names a collector; those of servers, wherever they export theirs.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
        let arguments = TraceArguments { otlp_endpoint: endpoint, trace_ratio: 1.0 };
        let export = arguments.export("semel")?.unwrap_or_else(|| TraceExport::pass_on("semel"));
        tracing_subscriber::registry().with(export.layer()).init();
        let span = traced!("semel");
        if let Some(id) = trace_id(&span) {
            output::note(format_args!("trace {id}"));
        }
        Ok(Self { _span: span.entered(), _export: export })
    }
}
