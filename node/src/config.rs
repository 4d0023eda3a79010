//! What a node is told when it starts: defaults, then a file, then the environment, then flags.

use std::path::{Path, PathBuf};

use semel_raft_host::settings::{self, SettingError};
use serde::{Deserialize, Serialize};

/// The prefix of environment variables: `SEMEL_NODE_DATA`, `SEMEL_NODE_SEARCH_THREADS`, …
pub const ENVIRONMENT_PREFIX: &str = "SEMEL_NODE_";

/// The engine that the benchmark shows fastest; there is no fast kernel of the sketch yet but on x86-64.
const ENGINE: &str = if cfg!(target_arch = "x86_64") {
    "sketch"
} else if cfg!(feature = "faiss") {
    "faiss"
} else {
    "exact"
};

/// Where the templates of sealed segments are kept for re-scoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplatesKept {
    /// In memory: about 1.1 kB for 512 dimensions.
    #[default]
    Memory,
    /// In the segments' files, read where an engine proposes a row: a small part of the memory, and some reads of the disk per
    /// search. A segment that no engine was built over is read whole by every search. What grows is in memory: up to a full segment, and
    /// where a shard takes in nothing for 10 s, up to an eighth of one.
    Disk,
}

/// How a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Where to listen, `address:port`; port 0 takes any free one.
    pub listen: String,
    /// What others dial, `host:port`; empty = where it listens.
    pub advertise: String,
    /// Where `/metrics`, `/livez` and `/readyz` are served over HTTP, `address:port`; empty = nowhere.
    pub metrics_listen: String,
    /// The folder of the node's volume. It holds the node's identity: never copy it, never share it.
    pub data: PathBuf,
    /// Coordinators to join, `host:port`; any one that answers will do.
    pub coordinators: Vec<String>,
    /// Threads that search, 1 to 1,024; 0 = one per core.
    pub search_threads: usize,
    /// The engine of sealed segments: `exact`, `sketch` (the default, but on processors other than x86-64, where it is slow), `faiss` or
    /// `faiss:<factory string>`.
    pub engine: String,
    /// References at which a growing segment is sealed, 1,024 to 1,048,576.
    pub seal_at_references: usize,
    /// Where the templates of sealed segments are kept: `memory` or `disk`.
    pub templates: TemplatesKept,
    /// How much of one core's time goes into searching some probes exactly too and into looking for planted mates, to see that engines miss no
    /// more than their budget: in thousandths, 0 to 1,000; 0 = never.
    pub recall_audit_permille: u32,
    /// The raft tick in milliseconds, 10 to 1,000. An election starts after 20 to 39 ticks without a leader.
    pub tick_ms: u64,
    /// Searches (requests of coordinators) that may wait or run at once, 1 to 65,536; more are refused. Bulk leaves an eighth to interactive ones.
    pub searches_max: usize,
    /// The largest request taken, in bytes, 65,536 to 268,435,456.
    pub request_bytes_max: usize,
    /// Log entries that each shard keeps, 100 to 10,000,000, before the older half of them goes; a replica that lacks older ones is sent
    /// all rows instead.
    pub log_entries_max: u64,
    /// The rate at which rows are sent to replicas that are new or far behind, in bytes per second, 65,536 to 10,000,000,000.
    pub snapshot_bytes_per_second: u64,
    /// What rows that come in leave free on the disk, in bytes: a disk that is full stops the node's replicas.
    pub disk_reserve_bytes: u64,
    /// A fault for tests and benchmarks, never for a cluster that counts: every sync takes so many milliseconds longer, 0 to 1,000. No
    /// flag sets it.
    pub debug_sync_delay_ms: u32,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7411".to_owned(),
            advertise: String::new(),
            metrics_listen: String::new(),
            data: PathBuf::from("semel-node"),
            coordinators: vec!["127.0.0.1:7400".to_owned()],
            search_threads: 0,
            engine: ENGINE.to_owned(),
            seal_at_references: 16_384,
            templates: TemplatesKept::Memory,
            recall_audit_permille: 10,
            tick_ms: 50,
            searches_max: 1_024,
            request_bytes_max: 32 * 1024 * 1024,
            log_entries_max: 20_000,
            snapshot_bytes_per_second: 64 << 20,
            disk_reserve_bytes: 256 << 20,
            debug_sync_delay_ms: 0,
        }
    }
}

impl NodeConfig {
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
        if self.coordinators.is_empty() {
            return Err(SettingError::new("coordinators", "needs at least one host:port"));
        }
        settings::within("search_threads", self.search_threads as u64, 0, 1_024)?;
        settings::within("seal_at_references", self.seal_at_references as u64, 1_024, 1_048_576)?;
        settings::within("recall_audit_permille", self.recall_audit_permille.into(), 0, 1_000)?;
        settings::within("tick_ms", self.tick_ms, 10, 1_000)?;
        settings::within("searches_max", self.searches_max as u64, 1, 65_536)?;
        settings::within("request_bytes_max", self.request_bytes_max as u64, 65_536, 268_435_456)?;
        settings::within("log_entries_max", self.log_entries_max, 100, 10_000_000)?;
        settings::within("snapshot_bytes_per_second", self.snapshot_bytes_per_second, 65_536, 10_000_000_000)?;
        settings::within("debug_sync_delay_ms", u64::from(self.debug_sync_delay_ms), 0, 1_000)?;
        crate::engine::engine(&self.engine).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut NodeConfig), expected: Option<&str>) {
        let mut config = NodeConfig::default();
        change(&mut config);
        assert_eq!(config.validate().err().map(|error| error.setting), expected);
    }

    #[test]
    fn every_limit_is_checked_and_named() {
        check(|_| (), None);
        check(|c| c.listen = "localhost".to_owned(), Some("listen"));
        check(|c| c.listen = "0.0.0.0:7411".to_owned(), Some("advertise"));
        check(|c| c.metrics_listen = "9464".to_owned(), Some("metrics_listen"));
        check(|c| c.data = PathBuf::new(), Some("data"));
        check(|c| c.coordinators.clear(), Some("coordinators"));
        check(|c| c.search_threads = 1_025, Some("search_threads"));
        check(|c| c.seal_at_references = 10, Some("seal_at_references"));
        check(|c| c.recall_audit_permille = 1_001, Some("recall_audit_permille"));
        check(|c| c.tick_ms = 1, Some("tick_ms"));
        check(|c| c.searches_max = 0, Some("searches_max"));
        check(|c| c.request_bytes_max = 1, Some("request_bytes_max"));
        check(|c| c.log_entries_max = 1, Some("log_entries_max"));
        check(|c| c.snapshot_bytes_per_second = 1, Some("snapshot_bytes_per_second"));
        check(|c| c.debug_sync_delay_ms = 1_001, Some("debug_sync_delay_ms"));
        check(|c| c.engine = "magic".to_owned(), Some("engine"));
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_settings_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("node.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\ntick_ms = 80\n").expect("written");
        let flags = std::collections::BTreeMap::from([("listen", "127.0.0.1:2")]);
        let config = NodeConfig::load(Some(&file), flags).expect("loads");
        assert_eq!((config.listen.as_str(), config.tick_ms), ("127.0.0.1:2", 80));

        std::fs::write(&file, "lissten = \"127.0.0.1:1\"\n").expect("written");
        let no_flags = std::collections::BTreeMap::<&str, &str>::new();
        let error = NodeConfig::load(Some(&file), no_flags).expect_err("unknown setting");
        assert!(error.to_string().contains("lissten"), "{error}");
    }
}
