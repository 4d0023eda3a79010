//! How commands find a coordinator, and what keeps a call from its answer.

use std::time::Duration;

use clap::Args;
use semel_telemetry::carry;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::output::Output;

/// How long one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence after which a connection is asked for a sign of life, and how long that may take: a paused process or a
/// cut cable is noticed although nothing is refused.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of every command that calls a cluster.
#[derive(Debug, Args)]
pub(crate) struct ClientArguments {
    /// Coordinators, separated by commas; the first that can be reached is used.
    #[arg(
        long,
        env = "SEMEL_ADDRESS",
        hide_env_values = true,
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    pub(crate) address: Vec<String>,
    /// Tables for people or JSON for machines. JSON goes to standard output, one document or one line per item.
    #[arg(
        long,
        value_enum,
        default_value = "table",
        env = "SEMEL_OUTPUT",
        hide_env_values = true,
        help_heading = "Cluster"
    )]
    pub(crate) output: Output,
}

impl ClientArguments {
    /// Connects to the first coordinator that can be reached.
    pub(crate) async fn connect(&self) -> Result<Channel, Unreachable> {
        Addresses::new(self.address.clone()).connect().await
    }
}

/// Coordinators that may be asked, in order of preference.
#[derive(Debug, Clone)]
pub(crate) struct Addresses(Vec<String>);

impl Addresses {
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        Self(addresses)
    }

    /// Connects to the first that can be reached.
    pub(crate) async fn connect(&self) -> Result<Channel, Unreachable> {
        let mut attempts = Vec::new();
        for address in &self.0 {
            match connect_to(address).await {
                Ok(channel) => return Ok(channel),
                Err(reason) => attempts.push(format!("{address}: {reason}")),
            }
        }
        Err(Unreachable { attempts })
    }
}

/// A connection that is made when it is first used, and again after it broke.
pub(crate) fn connect_lazily(address: &str) -> Result<Channel, String> {
    Ok(endpoint(address)?.connect_lazy())
}

async fn connect_to(address: &str) -> Result<Channel, String> {
    endpoint(address)?.connect().await.map_err(|error| innermost(&error))
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url).map_err(|_| "is not host:port".to_owned())?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT))
}

/// A call as part of the command's trace, if it has one.
pub(crate) fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    carry(request.metadata_mut());
    request
}

/// What the operating system said; the layers above add nothing that helps.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// No coordinator could be reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "no coordinator can be reached ({}); start a cluster with `semel local`, or name one with --address or SEMEL_ADDRESS",
    attempts.join("; ")
)]
pub(crate) struct Unreachable {
    /// Each address with the reason.
    pub(crate) attempts: Vec<String>,
}

/// A call that was answered with an error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({code:?})")]
pub(crate) struct CallFailed {
    /// The gRPC status code.
    pub(crate) code: Code,
    /// What the cluster said: the field, the limit, what to do.
    pub(crate) message: String,
}

impl CallFailed {
    /// Whether the same call may succeed later.
    pub(crate) fn may_succeed_later(&self) -> bool {
        may_succeed_later(self.code)
    }

    /// Whether this is no answer of the cluster to what was asked: it could not answer now, or the connection broke.
    pub(crate) fn is_no_answer(&self) -> bool {
        self.may_succeed_later() || matches!(self.code, Code::Unknown | Code::Cancelled)
    }
}

/// Whether a call that got this code may succeed later, as it is.
pub(crate) fn may_succeed_later(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted)
}

impl From<Status> for CallFailed {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_address_is_named_with_its_reason_and_the_next_one_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let open = listener.local_addr().expect("bound").to_string();
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("bound").to_string()
        };
        let error = Addresses::new(vec![closed.clone(), "not an address".to_owned()]).connect().await;
        let error = error.expect_err("nobody listens").to_string();
        assert!(error.contains(&closed) && error.contains("is not host:port"), "{error}");

        // Whoever accepts and says nothing counts as reached: the call itself finds out.
        let accepted = tokio::spawn(async move { listener.accept().await });
        Addresses::new(vec![closed, open]).connect().await.expect("the second address listens");
        accepted.await.expect("the task ends").expect("somebody connected");
    }
}
