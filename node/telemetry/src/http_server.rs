//! `/metrics`, `/livez` and `/readyz` over HTTP/1.1, for scrapers and orchestrators.
//!
//! Liveness says only that the event loop answers: a node without a leader, or with a slow disk, is alive, and a restart would not help
//! it. Readiness says whether the server is caught up and serves.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::monitor::Monitor;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take to arrive, also on a connection that is kept open.
const HEAD_WITHIN: Duration = Duration::from_secs(90);
/// The pause after a connection could not be accepted, for example because no file descriptor is free.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serves a monitor on `listener`, if there is one, until dropped.
pub async fn serve(listener: Option<TcpListener>, monitor: Arc<Monitor>) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with this future.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let monitor = Arc::clone(&monitor);
                connections.spawn(async move {
                    answer_all(stream, monitor).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn answer_all(stream: TcpStream, monitor: Arc<Monitor>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let monitor = Arc::clone(&monitor);
        async move { Ok::<_, Infallible>(answer(&request, monitor).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection for metrics broke");
    }
}

async fn answer(request: &Request<Incoming>, monitor: Arc<Monitor>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => metrics(wants_open_metrics(request.headers()), monitor).await,
        "/livez" => response(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => match monitor.ready() {
            Ok(()) => response(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Err(reason) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
        },
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".to_owned()),
    }
}

async fn metrics(open: bool, monitor: Arc<Monitor>) -> Response<Full<Bytes>> {
    // Collectors take locks for a moment and read /proc.
    let encoded =
        tokio::task::spawn_blocking(move || if open { monitor.open_metrics() } else { monitor.prometheus_text() });
    match encoded.await {
        Ok(Ok(body)) => response(StatusCode::OK, if open { OPEN_METRICS } else { PROMETHEUS_TEXT }, body),
        Ok(Err(_)) | Err(_) => {
            response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics could not be written\n".to_owned())
        }
    }
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|each| each.trim().starts_with("application/openmetrics-text"))
}

fn response(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Sends one request to a server over `monitor` and returns its answer.
    async fn ask(monitor: &Arc<Monitor>, head: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut answer = String::new();
        tokio::select! {
            never = serve(Some(listener), Arc::clone(monitor)) => match never {},
            () = async {
                let mut stream = TcpStream::connect(address).await.expect("it listens");
                let request = format!("{head}\r\nhost: here\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.expect("sent");
                stream.read_to_string(&mut answer).await.expect("answered");
            } => {}
        }
        answer
    }

    async fn check(monitor: &Arc<Monitor>, head: &str, status: &str, part: &str) {
        let answer = ask(monitor, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part), "{head}: {answer}");
    }

    #[tokio::test]
    async fn every_path_answers_and_readiness_is_not_liveness() {
        let monitor = Monitor::new("node", "1.2.3");
        check(&monitor, "GET /livez HTTP/1.1", "200", "alive").await;
        check(&monitor, "GET /readyz HTTP/1.1", "503", "not ready: it is starting").await;
        monitor.ready_when(|| Ok(()));
        check(&monitor, "GET /readyz HTTP/1.1", "200", "ready").await;
        check(&monitor, "POST /livez HTTP/1.1", "405", "allow: GET, HEAD").await;
        check(&monitor, "GET /other HTTP/1.1", "404", "/metrics").await;
        check(&monitor, "GET /metrics HTTP/1.1", "200", "text/plain; version=0.0.4").await;
        let open = "GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.1";
        check(&monitor, open, "200", "# EOF").await;
    }
}
