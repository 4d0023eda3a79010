//! How spans leave the process: in batches over OTLP/gRPC, from a bounded queue, on a thread of their own. A collector that is slow or
//! dead costs spans, never a call: a full queue drops what is new.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use tokio::runtime::Runtime;
use tracing::{Level, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{Filtered, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::families::Families;
use crate::span::TRACE_TARGET;

/// Spans that may wait for the collector; more are dropped. About 1 kB each.
const SPANS_QUEUED_MAX: usize = 8_192;
/// Spans of one batch.
const BATCH_SPANS_MAX: usize = 512;
/// How long spans are gathered.
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take over one batch, retries included.
const BATCH_WITHIN: Duration = Duration::from_secs(3);
/// How long the end of the process may wait for what is queued.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

// Of the process, as traces are: its servers share one exporter.
static SPANS_EXPORTED: AtomicU64 = AtomicU64::new(0);
static SPANS_LOST: AtomicU64 = AtomicU64::new(0);

pub(crate) fn collect(families: &mut Families<'_>) -> fmt::Result {
    let (exported, lost) = (SPANS_EXPORTED.load(Ordering::Relaxed), SPANS_LOST.load(Ordering::Relaxed));
    families.counter("semel_trace_spans_exported_total", "Spans that the collector took", exported)?;
    families.counter("semel_trace_spans_lost_total", "Spans sent that the collector did not take", lost)
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The endpoint is none.
    #[error("{0}")]
    Endpoint(#[from] ExporterBuildError),
    /// The share is no share.
    #[error("the share of traces is {0}, must be 0 to 1")]
    Ratio(f64),
    /// No thread for the connection to the collector.
    #[error("start the exporter of traces: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The layer of a `tracing` subscriber that makes traces of spans with [`TRACE_TARGET`].
pub type TraceLayer<S> = Filtered<OpenTelemetryLayer<S, SdkTracer>, Targets, S>;

/// The export of a process's traces. What is queued leaves when it is dropped, within two seconds.
#[derive(Debug)]
pub struct TraceExport {
    provider: SdkTracerProvider,
    /// Holds the connection; `None` where nothing is exported.
    runtime: Option<Runtime>,
}

impl TraceExport {
    /// Exports to the collector at `endpoint`, such as `http://127.0.0.1:4317`. Of the traces that start here, the share `ratio` (0 to 1)
    /// is kept; a trace that came from elsewhere is kept if its sender keeps it. Opens no connection yet, and needs none to go on.
    ///
    /// # Errors
    /// An endpoint that is no URL, a ratio that is no share, or no thread.
    pub fn start(service: &'static str, endpoint: &str, ratio: f64) -> Result<Self, TraceError> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(TraceError::Ratio(ratio));
        }
        // A runtime of its own: the process's may not run yet, and is gone before the last spans leave.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("traces").enable_all().build()?;
        let entered = runtime.enter();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(BATCH_WITHIN)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_QUEUED_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_EVERY)
            .build();
        let watched = Watched { inner: exporter, endpoint: endpoint.to_owned(), failing: AtomicBool::new(false) };
        let processor = BatchSpanProcessor::builder(watched).with_batch_config(batches).build();
        let provider = builder(service, ratio).with_span_processor(processor).build();
        drop(entered);
        Ok(Self { provider, runtime: Some(runtime) })
    }

    /// Gives traces ids and passes them on to servers, which may export them; exports nothing itself.
    pub fn pass_on(service: &'static str) -> Self {
        Self { provider: builder(service, 1.0).build(), runtime: None }
    }

    /// The layer for the process's subscriber.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> TraceLayer<S> {
        layer(self.provider.tracer("semel"))
    }
}

impl Drop for TraceExport {
    fn drop(&mut self) {
        // A collector that does not answer in time loses what is queued.
        let _ = self.provider.shutdown_with_timeout(FLUSH_WITHIN);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn builder(service: &'static str, ratio: f64) -> opentelemetry_sdk::trace::TracerProviderBuilder {
    let attributes = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    let resource = Resource::builder().with_service_name(service).with_attributes(attributes).build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    SdkTracerProvider::builder().with_resource(resource).with_sampler(sampler)
}

pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(tracer: SdkTracer) -> TraceLayer<S> {
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        // Spans hold identifiers; where in the sources they were made helps nobody, and costs.
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false);
    layer.with_filter(Targets::new().with_target(TRACE_TARGET, Level::DEBUG))
}

/// Counts what leaves, and says once when the collector stops and once when it begins to take spans.
struct Watched<E> {
    inner: E,
    endpoint: String,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let exported = self.inner.export(batch).await;
        let counter = if exported.is_ok() { &SPANS_EXPORTED } else { &SPANS_LOST };
        counter.fetch_add(spans, Ordering::Relaxed);
        let failed_before = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Ok(()) if failed_before => {
                tracing::info!(endpoint = self.endpoint, "the collector of traces takes spans again");
            }
            Err(error) if !failed_before => {
                tracing::warn!(endpoint = self.endpoint, %error, "the collector of traces takes no spans; they are lost");
            }
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E> fmt::Debug for Watched<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::mpsc;

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use tonic::{Request, Response, Status};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// A collector that hands on the names of spans.
    struct Collector(mpsc::Sender<String>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
            for span in scopes.flat_map(|scope| scope.spans) {
                self.0.send(span.name).expect("the test listens");
            }
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    fn collector(runtime: &Runtime) -> (SocketAddr, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
        runtime.spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        (address, receiver)
    }

    fn under<T>(export: &TraceExport, act: impl FnOnce() -> T) -> T {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(export.layer()), act)
    }

    #[test]
    fn spans_reach_the_collector_at_the_latest_when_the_process_ends() {
        let runtime = Runtime::new().expect("starts");
        let (address, spans) = collector(&runtime);
        let export = TraceExport::start("test", &format!("http://{address}"), 1.0).expect("starts");
        under(&export, || drop(crate::traced!("stage", shard = 3).entered()));
        drop(export);
        assert_eq!(spans.recv_timeout(Duration::from_secs(20)).as_deref(), Ok("stage"));
    }

    #[test]
    fn a_dead_collector_costs_spans_and_nothing_else() {
        let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
        closed.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let endpoint = format!("http://{}", closed.local_addr().expect("it is bound"));
        let export = TraceExport::start("test", &endpoint, 1.0).expect("needs no collector");
        let lost = SPANS_LOST.load(Ordering::Relaxed);
        // Far more than the queue holds: were a full queue waited for, this would not end.
        under(&export, || (0..10 * SPANS_QUEUED_MAX).for_each(|shard| drop(crate::traced!("scan", shard).entered())));
        drop(export);
        assert!(SPANS_LOST.load(Ordering::Relaxed) > lost);
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_the_start() {
        for (endpoint, ratio) in [("not a url", 1.0), ("http://127.0.0.1:1", 1.5), ("http://127.0.0.1:1", f64::NAN)] {
            assert!(TraceExport::start("test", endpoint, ratio).is_err(), "{endpoint} {ratio}");
        }
    }

    #[test]
    fn what_is_only_passed_on_has_a_trace_id() {
        let export = TraceExport::pass_on("test");
        let id = under(&export, || crate::trace_id(&crate::traced!("enrol")));
        assert!(id.is_some_and(|id| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())));
    }
}
