//! How every process of a cluster serves gRPC: health, reflection, a span per request, and an end that does not hang.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

/// How long requests in work may go on once the server is told to stop; streams between processes would never end.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Streams one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 4_096;
/// The metadata key of a request's id. Where the caller sends none it is the id of the request's trace, or else made up.
pub const REQUEST_ID: &str = "x-request-id";
/// The longest request id that is taken over into logs, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Why a server ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or a connection failed in a way that ends the server.
    #[error("serve gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The compiled descriptors cannot be served by reflection.
    #[error("build reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves `routes` beside health and reflection (v1 and v1alpha) of the services named, until `shutdown` resolves.
pub async fn serve<H: Health>(
    listener: TcpListener,
    routes: Routes,
    health: HealthServer<H>,
    service_names: &[&str],
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let reflection = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(semel_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        for name in service_names {
            builder = builder.with_service_name(*name);
        }
        builder
    };
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .trace_fn(request_span)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_routes(routes)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, async move {
            shutdown.await;
            // The receiver is gone only when the server has ended already.
            let _ = stopping.send(());
        });
    let drained = async move {
        match stopped.await {
            Ok(()) => tokio::time::sleep(DRAIN_WITHIN).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = server => Ok(ended?),
        () = drained => Ok(()),
    }
}

/// The span that every log line of a request carries: its id, as sent or made up, and what was called.
fn request_span(request: &http::Request<()>) -> tracing::Span {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let given = header(REQUEST_ID).or_else(|| header("traceparent")?.split('-').nth(1));
    let id = match given {
        Some(given) if given.len() <= REQUEST_ID_BYTES_MAX => given.to_owned(),
        Some(_) | None => format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
    };
    tracing::info_span!("request", id, call = request.uri().path())
}
