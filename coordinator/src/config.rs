//! What a coordinator is told when it starts: defaults, then a file, then the environment, then flags.

use std::path::{Path, PathBuf};

use semel_raft_host::settings::{self, SettingError};
use semel_workflow::COORDINATORS_MAX;
use serde::{Deserialize, Serialize};

/// The prefix of environment variables: `SEMEL_COORDINATOR_DATA`, `SEMEL_COORDINATOR_SHARDS`, …
pub const ENVIRONMENT_PREFIX: &str = "SEMEL_COORDINATOR_";

/// One voter of the metadata group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voter {
    /// Its number, from 1; never given to another volume.
    pub id: u64,
    /// Where it listens, `host:port`.
    pub address: String,
}

/// How a coordinator runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorConfig {
    /// Where to listen, `address:port`; port 0 takes any free one.
    pub listen: String,
    /// What others dial, `host:port`; empty = where it listens.
    pub advertise: String,
    /// Where `/metrics`, `/livez` and `/readyz` are served over HTTP, `address:port`; empty = nowhere.
    pub metrics_listen: String,
    /// The folder of the coordinator's volume: never copy it, never share it.
    pub data: PathBuf,
    /// This coordinator's number among the voters, 1 to 5.
    pub id: u64,
    /// Every voter of the metadata group: 1, 3 or 5, this coordinator among them. Empty = this coordinator alone.
    pub voters: Vec<Voter>,
    /// The number of shards, 1 to 4,096. Used when the cluster is initialised; fixed from then on.
    pub shards: u32,
    /// Replicas of each shard: 1, 3 or 5. Used when the cluster is initialised.
    pub replicas: u32,
    /// The raft tick in milliseconds, 10 to 1,000.
    pub tick_ms: u64,
    /// Enrolments and searches in work at once, 1 to 65,536; more are refused with a hint to retry. Bulk leaves an eighth to interactive ones.
    pub enrolments_max: usize,
    /// Unanswered items of one stream, 1 to 4,096; a stream that has more is not read until answers left.
    pub stream_items_max: usize,
    /// How long one attempt to search a shard may take before another replica is asked, in milliseconds, 100 to 60,000.
    pub search_attempt_ms: u64,
    /// How often staged enrolments and obligations left behind are looked for, in milliseconds, 100 to 60,000.
    pub sweep_ms: u64,
    /// The largest request taken, in bytes, 65,536 to 268,435,456.
    pub request_bytes_max: usize,
    /// Log entries that the coordinators' group keeps, 100 to 10,000,000, before the older half of them goes; a coordinator that lacks
    /// older ones is sent all rows instead.
    pub log_entries_max: u64,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7400".to_owned(),
            advertise: String::new(),
            metrics_listen: String::new(),
            data: PathBuf::from("semel-coordinator"),
            id: 1,
            voters: Vec::new(),
            shards: 8,
            replicas: 3,
            tick_ms: 50,
            enrolments_max: 1_024,
            stream_items_max: 256,
            search_attempt_ms: 3_000,
            sweep_ms: 500,
            request_bytes_max: 4 * 1024 * 1024,
            log_entries_max: 20_000,
        }
    }
}

impl CoordinatorConfig {
    /// Reads the layers in order: defaults, `file`, environment, `flags` (a map or struct that holds only what was given).
    pub fn load(file: Option<&Path>, flags: impl Serialize) -> Result<Self, Box<figment::Error>> {
        settings::load(Self::default(), file, ENVIRONMENT_PREFIX, flags)
    }

    /// Checks every setting that can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), SettingError> {
        let listen = settings::listen_address("listen", &self.listen)?;
        if listen.ip().is_unspecified() && self.advertise.is_empty() {
            return Err(SettingError::new(
                "advertise",
                format!("is needed where `listen` is {}: others cannot dial that", self.listen),
            ));
        }
        settings::optional_listen_address("metrics_listen", &self.metrics_listen)?;
        if self.data.as_os_str().is_empty() {
            return Err(SettingError::new("data", "needs a folder"));
        }
        settings::within("id", self.id, 1, COORDINATORS_MAX as u64)?;
        self.validate_voters()?;
        settings::within("shards", u64::from(self.shards), 1, 4_096)?;
        if ![1, 3, 5].contains(&self.replicas) {
            return Err(SettingError::new("replicas", format!("{} is not 1, 3 or 5", self.replicas)));
        }
        settings::within("tick_ms", self.tick_ms, 10, 1_000)?;
        settings::within("enrolments_max", self.enrolments_max as u64, 1, 65_536)?;
        settings::within("stream_items_max", self.stream_items_max as u64, 1, 4_096)?;
        settings::within("search_attempt_ms", self.search_attempt_ms, 100, 60_000)?;
        settings::within("sweep_ms", self.sweep_ms, 100, 60_000)?;
        settings::within("log_entries_max", self.log_entries_max, 100, 10_000_000)?;
        settings::within("request_bytes_max", self.request_bytes_max as u64, 65_536, 268_435_456)
    }

    fn validate_voters(&self) -> Result<(), SettingError> {
        let fault = |reason: &str| Err(SettingError::new("voters", reason));
        if self.voters.is_empty() {
            return Ok(());
        }
        if ![1, 3, 5].contains(&self.voters.len()) {
            return fault("must be 1, 3 or 5 coordinators");
        }
        let mut ids: Vec<u64> = self.voters.iter().map(|voter| voter.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.voters.len() || ids[0] == 0 {
            return fault("every id must be at least 1 and appear once");
        }
        if !ids.contains(&self.id) {
            return fault("must include this coordinator's own id");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut CoordinatorConfig), expected: Option<&str>) {
        let mut config = CoordinatorConfig::default();
        change(&mut config);
        assert_eq!(config.validate().err().map(|error| error.setting), expected);
    }

    fn voter(id: u64) -> Voter {
        Voter { id, address: format!("127.0.0.1:{}", 7400 + id) }
    }

    #[test]
    fn every_limit_is_checked_and_named() {
        check(|_| (), None);
        check(|c| c.listen = "here".to_owned(), Some("listen"));
        check(|c| c.listen = "0.0.0.0:7400".to_owned(), Some("advertise"));
        check(|c| c.metrics_listen = "9464".to_owned(), Some("metrics_listen"));
        check(|c| c.data = PathBuf::new(), Some("data"));
        check(|c| c.id = 0, Some("id"));
        check(|c| c.voters = vec![voter(1), voter(2)], Some("voters"));
        check(|c| c.voters = vec![voter(1), voter(1), voter(2)], Some("voters"));
        check(|c| c.voters = vec![voter(2), voter(3), voter(4)], Some("voters"));
        check(|c| c.voters = vec![voter(1), voter(2), voter(3)], None);
        check(|c| c.shards = 0, Some("shards"));
        check(|c| c.replicas = 2, Some("replicas"));
        check(|c| c.tick_ms = 5_000, Some("tick_ms"));
        check(|c| c.enrolments_max = 0, Some("enrolments_max"));
        check(|c| c.stream_items_max = 0, Some("stream_items_max"));
        check(|c| c.search_attempt_ms = 1, Some("search_attempt_ms"));
        check(|c| c.sweep_ms = 1, Some("sweep_ms"));
        check(|c| c.request_bytes_max = 0, Some("request_bytes_max"));
        check(|c| c.log_entries_max = 1, Some("log_entries_max"));
    }
}
