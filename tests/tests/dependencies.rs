//! The crates' dependencies point one way: shells → cores → `index`. Read from cargo's own resolved graph.
//!
//! Not here: licences and sources of third-party crates, which `deny.toml` judges.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;

use serde_json::Value;

/// The crates without sockets, files, clocks, threads or ambient randomness.
const CORES: &[&str] = &["semel-index", "semel-raft", "semel-shard", "semel-workflow", "semel-population"];

/// What would bring a runtime, a socket, a database or C++ into a core.
const SHELLS_ONLY: &[&str] =
    &["tokio", "mio", "socket2", "tonic", "hyper", "h2", "rocksdb", "librocksdb-sys", "faiss", "faiss-sys"];

/// Every crate of the workspace, and the workspace's crates it may use. An edge missing here is a decision to take, not a
/// line to add in passing.
const EDGES: &[(&str, &[&str])] = &[
    ("semel-index", &[]),
    ("semel-index-faiss", &["semel-index"]),
    ("semel-raft", &[]),
    ("semel-telemetry", &[]),
    ("semel-raft-host", &["semel-proto", "semel-telemetry", "semel-raft"]),
    ("semel-shard", &["semel-index", "semel-raft"]),
    ("semel-workflow", &["semel-index", "semel-raft"]),
    ("semel-proto", &[]),
    (
        "semel-node",
        &[
            "semel-proto",
            "semel-telemetry",
            "semel-node-wire",
            "semel-index",
            "semel-index-faiss",
            "semel-raft",
            "semel-raft-host",
            "semel-shard",
        ],
    ),
    ("semel-node-wire", &["semel-proto", "semel-index", "semel-raft", "semel-shard"]),
    (
        "semel-coordinator",
        &[
            "semel-proto",
            "semel-telemetry",
            "semel-coordinator-wire",
            "semel-index",
            "semel-raft",
            "semel-raft-host",
            "semel-workflow",
        ],
    ),
    ("semel-coordinator-wire", &["semel-proto", "semel-index", "semel-raft", "semel-workflow"]),
    ("semel-client", &["semel-proto"]),
    ("semel-files", &["semel-proto"]),
    ("semel-population", &["semel-index"]),
    ("semel-sandbox", &["semel-proto", "semel-node", "semel-coordinator"]),
    (
        "semel-cli",
        &[
            "semel-proto",
            "semel-telemetry",
            "semel-client",
            "semel-files",
            "semel-index",
            "semel-index-faiss",
            "semel-node",
            "semel-coordinator",
            "semel-workflow",
            "semel-population",
            "semel-sandbox",
        ],
    ),
    (
        "semel-fuzz",
        &[
            "semel-proto",
            "semel-files",
            "semel-node-wire",
            "semel-coordinator-wire",
            "semel-index",
            "semel-raft",
            "semel-shard",
            "semel-workflow",
        ],
    ),
    ("semel-simulation", &["semel-index", "semel-raft", "semel-shard", "semel-workflow"]),
    (
        "semel-tests",
        &["semel-proto", "semel-client", "semel-index", "semel-population", "semel-sandbox", "semel-simulation"],
    ),
];

/// What any crate's own tests may use beside its edges: synthetic people.
const TESTS_ALSO: &str = "semel-population";

/// Whether a dependency is compiled into the crate (or its build script), or into its tests alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Product,
    Tests,
}

/// The resolved graph of the workspace for this machine's platform, by package id.
struct Graph {
    names: BTreeMap<String, String>,
    members: BTreeMap<String, String>,
    edges: BTreeMap<String, BTreeSet<(Purpose, String)>>,
    /// The features of the workspace's own crates that are enabled, by the crate's name.
    features: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Asks cargo for the graph, with `features` (arguments of `cargo metadata`). Opens no connection: what is compiled was
    /// fetched before.
    fn resolve(features: &[&str]) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host()])
            .args(features)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs, it started this test");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        Self::parse(&serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON"))
    }

    fn parse(metadata: &Value) -> Self {
        let names: BTreeMap<String, String> = items(&metadata["packages"])
            .map(|package| (text(&package["id"]).to_owned(), text(&package["name"]).to_owned()))
            .collect();
        let members: BTreeMap<String, String> =
            items(&metadata["workspace_members"]).map(|id| (names[text(id)].clone(), text(id).to_owned())).collect();
        let edges = items(&metadata["resolve"]["nodes"])
            .map(|node| (text(&node["id"]).to_owned(), items(&node["deps"]).flat_map(purposes).collect()))
            .collect();
        let own =
            items(&metadata["resolve"]["nodes"]).filter(|node| members.values().any(|id| id == text(&node["id"])));
        let features = own.map(|node| {
            let enabled = items(&node["features"]).map(|feature| text(feature).to_owned()).collect();
            (names[text(&node["id"])].clone(), enabled)
        });
        let features = features.collect();
        Self { names, members, edges, features }
    }

    /// The names of the crates that `member` uses directly for `purpose`.
    fn uses(&self, member: &str, purpose: Purpose) -> BTreeSet<&str> {
        let edges = self.edges[&self.members[member]].iter();
        edges.filter(|(of, _)| *of == purpose).map(|(_, id)| self.names[id].as_str()).collect()
    }

    /// The names of all crates compiled into `member`, itself and everyone's build scripts included, tests left out.
    fn reaches(&self, member: &str) -> BTreeSet<&str> {
        let root = &self.members[member];
        let mut reached = BTreeSet::from([root.as_str()]);
        let mut frontier = VecDeque::from([root.as_str()]);
        while let Some(id) = frontier.pop_front() {
            for (purpose, next) in &self.edges[id] {
                if *purpose == Purpose::Product && reached.insert(next) {
                    frontier.push_back(next);
                }
            }
        }
        reached.into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

/// One dependency of a node, once per purpose it serves.
fn purposes(dependency: &Value) -> impl Iterator<Item = (Purpose, String)> {
    items(&dependency["dep_kinds"]).map(|of| {
        let purpose = if of["kind"] == "dev" { Purpose::Tests } else { Purpose::Product };
        (purpose, text(&dependency["pkg"]).to_owned())
    })
}

fn items(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().expect("cargo metadata's format 1 has an array here").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata's format 1 has a string here")
}

/// The platform this test runs on, as cargo spells it.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("-vV").output().expect("rustc runs, it compiled this test");
    let lines = String::from_utf8(version.stdout).expect("rustc prints UTF-8");
    lines.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc -vV names its host").to_owned()
}

#[test]
fn cores_reach_no_runtime_no_socket_no_database_and_no_faiss() {
    let graph = Graph::resolve(&[]);
    for core in CORES {
        let reached = graph.reaches(core);
        let forbidden: Vec<_> = SHELLS_ONLY.iter().filter(|name| reached.contains(**name)).collect();
        assert!(forbidden.is_empty(), "{core} reaches {forbidden:?}");
    }
}

/// Fuzzing compiles everything it reaches with instrumentation, and runs it millions of times.
#[test]
fn the_fuzz_targets_reach_no_database_and_no_faiss() {
    let graph = Graph::resolve(&[]);
    let reached = graph.reaches("semel-fuzz");
    let forbidden: Vec<_> =
        ["rocksdb", "librocksdb-sys", "faiss", "faiss-sys"].into_iter().filter(|name| reached.contains(name)).collect();
    assert!(forbidden.is_empty(), "semel-fuzz reaches {forbidden:?}");
}

/// The simulation runs the cores and nothing else, so that building it takes no C++ and no seed meets a real clock or socket.
#[test]
fn the_simulation_reaches_no_runtime_no_socket_no_database_and_no_faiss() {
    let graph = Graph::resolve(&[]);
    let reached = graph.reaches("semel-simulation");
    let forbidden: Vec<_> = SHELLS_ONLY.iter().filter(|name| reached.contains(**name)).collect();
    assert!(forbidden.is_empty(), "semel-simulation reaches {forbidden:?}");
}

/// The deliberate defects of the cores are compiled only where the simulation asks for them.
#[test]
fn the_product_is_built_without_deliberate_defects() {
    let enabled = |features: &[&str]| Graph::resolve(features).features["semel-raft"].contains("mutants");
    assert!(!enabled(&[]));
    assert!(enabled(&["--features", "semel-simulation/mutants"]), "the feature has another name now");
}

/// A walk that found nothing anywhere would pass the tests above.
#[test]
fn shells_reach_what_cores_may_not() {
    let graph = Graph::resolve(&[]);
    let reached = graph.reaches("semel-node");
    for name in ["tokio", "mio", "socket2", "tonic", "rocksdb", "librocksdb-sys", "faiss-sys"] {
        assert!(reached.contains(name), "semel-node does not reach {name}: is it still the name of a crate?");
    }
}

#[test]
fn crates_of_the_workspace_use_each_other_only_as_designed() {
    let graph = Graph::resolve(&[]);
    let described: BTreeSet<&str> = EDGES.iter().map(|(member, _)| *member).collect();
    let members: BTreeSet<&str> = graph.members.keys().map(String::as_str).collect();
    assert_eq!(members, described, "the table names every crate of the workspace");

    for (member, allowed) in EDGES {
        let mut allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let undesigned: Vec<_> =
            (&graph.uses(member, Purpose::Product) & &members).difference(&allowed).copied().collect();
        assert!(undesigned.is_empty(), "{member} uses {undesigned:?}");

        allowed.insert(TESTS_ALSO);
        let undesigned: Vec<_> =
            (&graph.uses(member, Purpose::Tests) & &members).difference(&allowed).copied().collect();
        assert!(undesigned.is_empty(), "the tests of {member} use {undesigned:?}");
    }
}

#[test]
fn without_its_feature_nothing_but_its_own_crate_reaches_faiss() {
    let graph = Graph::resolve(&["--no-default-features"]);
    for (member, _) in EDGES.iter().filter(|(member, _)| *member != "semel-index-faiss") {
        assert!(!graph.reaches(member).contains("faiss-sys"), "{member} reaches FAISS with default features off");
    }
}
