//! How commands reach the cluster: the options that name coordinators, and the client made of them.

use std::time::Duration;

use clap::Args;
use semel_client::{CallError, Client, Settings};
use semel_telemetry::carry;

use crate::exit::UsageError;
use crate::output::Output;

/// How long a command keeps trying to get its one answer, beside the wait that it asks for.
const DEADLINE: Duration = Duration::from_secs(15);

/// Options of every command that calls a cluster.
#[derive(Debug, Args)]
pub(crate) struct ClientArguments {
    /// Coordinators, separated by commas; any of them answers, and one that does not is left for another.
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
    /// A client for calls that somebody waits for: where nobody listens, it says so at once.
    pub(crate) fn client(&self) -> Result<Client, UsageError> {
        self.client_waiting(Duration::ZERO)
    }

    /// The same for calls that wait so long for a verdict or a search.
    pub(crate) fn client_waiting(&self, wait: Duration) -> Result<Client, UsageError> {
        let deadline = DEADLINE + wait;
        self.client_with(Settings { deadline, unreachable_after: Duration::ZERO, ..Settings::default() })
    }

    /// A client with bounds of its own. Its calls are part of the command's trace, if it has one.
    pub(crate) fn client_with(&self, settings: Settings) -> Result<Client, UsageError> {
        let settings = Settings { annotate: carry, ..settings };
        Client::new(self.address.iter().cloned(), settings).map_err(|error| UsageError(format!("--address: {error}")))
    }
}

/// What to do about an error, where the error itself cannot know.
pub(crate) fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let call = error.chain().find_map(|cause| cause.downcast_ref::<CallError>())?;
    match call {
        CallError::Unreachable { .. } => {
            Some("start a cluster with `semel local`, or name one with --address or SEMEL_ADDRESS")
        }
        CallError::Refused { .. } | CallError::Unanswered { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[tokio::test]
    async fn where_nobody_listens_the_address_its_reason_and_what_to_do_are_told() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let closed = socket.local_addr().expect("it is bound").to_string();
        let arguments = ClientArguments { address: vec![closed.clone()], output: Output::Table };
        let asked = arguments.client().expect("a valid address").status().await.context("ask for the status");
        let error = asked.expect_err("nobody listens");
        assert!(format!("{error:#}").contains(&closed), "{error:#}");
        assert!(advice(&error).expect("advice").contains("semel local"));
        let arguments = ClientArguments { address: vec!["not an address".to_owned()], output: Output::Table };
        let error = arguments.client().err().expect("it cannot be dialled").to_string();
        assert_eq!(error, "--address: address `not an address`: is not host:port");
    }
}
