//! The bounds of a client, and what its calls carry beside their messages.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The bounds of a client's calls.
///
/// ```
/// use std::time::Duration;
/// use semel_client::Settings;
///
/// let patient = Settings { deadline: Duration::from_secs(300), ..Settings::default() };
/// # assert!(patient.unreachable_after < patient.deadline);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a call may take over all attempts and pauses. Default 60 s.
    pub deadline: Duration,
    /// How long a call goes on while no coordinator can be reached at all; zero = every address is tried once. Default 10 s.
    pub unreachable_after: Duration,
    /// How long one attempt may take, beside the wait for a verdict that it asks for. Default 10 s.
    pub attempt_within: Duration,
    /// How long a coordinator may take to accept a connection. Default 2 s.
    pub connect_within: Duration,
    /// How long a connection with calls in work may be silent before it is asked for a sign of life. Default 1 s.
    pub keep_alive_after: Duration,
    /// How long that sign may take before the connection counts as broken and its calls are sent elsewhere: this bounds
    /// what a halted process or a cut cable costs. Default 1.5 s.
    pub keep_alive_within: Duration,
    /// Adds to the metadata of each attempt, for example the `traceparent` of the trace at hand. Default nothing.
    pub annotate: fn(&mut MetadataMap),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            unreachable_after: Duration::from_secs(10),
            attempt_within: Duration::from_secs(10),
            connect_within: Duration::from_secs(2),
            keep_alive_after: Duration::from_secs(1),
            keep_alive_within: Duration::from_millis(1_500),
            annotate: |_| (),
        }
    }
}
