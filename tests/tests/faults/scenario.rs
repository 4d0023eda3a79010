//! One scenario from its beginning to its judgement: a cluster, stations at work, faults, healing, rest, and the checkers over
//! everything that was asked, told and recorded.

use std::ffi::OsStr;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semel_index::ShardCount;
use semel_simulation::checkers::{CHECKERS, judge};
use semel_simulation::history::{AtRest, History};

use crate::clients::{Coordinators, PACE};
use crate::cluster::{AT_MOST, COORDINATORS, Cluster, NODES, SHARDS};
use crate::machine::{self, Refused, say};
use crate::network::Network;
use crate::rest;

/// What every scenario runs.
const PROGRAMS: &[&str] = &["ip", "nft", "tc"];
/// Cases that a saturated verdict opens; none is saturated here.
const SATURATED_CASES_MAX: usize = 16;

/// What a scenario is, beside its faults.
pub(crate) struct Scenario {
    name: &'static str,
    seed: u64,
    pub(crate) coordinators: Coordinators,
    programs: &'static [&'static str],
    pub(crate) volume_bytes: Option<u64>,
    pace: Duration,
    /// The size of a sealed segment; `None` = nothing is sealed.
    pub(crate) seal_at: Option<usize>,
}

impl Scenario {
    /// A scenario in which anybody may die, under `seed` unless `SEED` gives another. Named as its test.
    pub(crate) fn new(name: &'static str, seed: u64) -> Self {
        Self {
            name,
            seed,
            coordinators: Coordinators::MayDie,
            programs: &[],
            volume_bytes: None,
            pace: PACE,
            seal_at: None,
        }
    }

    /// Only nodes are touched.
    pub(crate) fn coordinators_stay(self) -> Self {
        Self { coordinators: Coordinators::Stay, ..self }
    }

    /// Programs it runs beside those of the network.
    pub(crate) fn runs(self, programs: &'static [&'static str]) -> Self {
        Self { programs, ..self }
    }

    /// A station takes somebody every so often.
    pub(crate) fn paced(self, pace: Duration) -> Self {
        Self { pace, ..self }
    }

    /// Catalogues seal segments of so many references, with the nodes' own engine.
    pub(crate) fn sealing_at(self, references: usize) -> Self {
        Self { seal_at: Some(references), ..self }
    }

    /// The first node's data lies on a volume of so many bytes.
    pub(crate) fn with_volume(self, bytes: u64) -> Self {
        Self { volume_bytes: Some(bytes), ..self }
    }
}

/// Runs a scenario under the faults that `faults` makes and heals; it returns what it did, in words. Panics with what the checkers
/// found, if they found anything.
pub(crate) fn run(scenario: &Scenario, faults: impl AsyncFnOnce(&mut Cluster) -> String) {
    let _turn = one_at_a_time();
    match prepare(scenario) {
        Ok(network) => run_on(network, scenario, faults),
        Err(why) => say(&format!("skipped: {} ({why})", scenario.name)),
    }
}

/// Scenarios of one process take turns: each needs the machine for itself.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare(scenario: &Scenario) -> Result<Network, Refused> {
    machine::check(&[PROGRAMS, scenario.programs].concat())?;
    machine::remove_leftovers();
    Network::new(NODES + COORDINATORS)
}

fn run_on(network: Network, scenario: &Scenario, faults: impl AsyncFnOnce(&mut Cluster) -> String) {
    let seed = std::env::var("SEED").map_or(scenario.seed, |seed| seed.parse().expect("SEED is a number"));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        println!("SEED={seed} cargo test --test faults {}", scenario.name);
        let mut cluster = Cluster::start(network, scenario, seed).await;
        let stations = cluster.clients.start(scenario.pace);
        let watcher = tokio::spawn(rest::watch(cluster.channels(), Arc::clone(&cluster.watched)));
        cluster.verdicts(20).await;
        let injected = faults(&mut cluster).await;
        cluster.network.heal();
        cluster.clients.stop();
        let unfinished = tokio::time::timeout(AT_MOST, futures::future::join_all(stations)).await;
        let unfinished = match unfinished {
            Ok(ended) => ended.into_iter().find_map(|station| station.err().map(|error| format!("a station: {error}"))),
            Err(_) => Some("stations wait for verdicts for ever".to_owned()),
        };
        let at_rest = cluster.at_rest(unfinished).await;
        watcher.abort();
        let history = history(&cluster, at_rest);
        judge_all(&cluster, scenario, seed, &history, &injected);
    });
}

fn history(cluster: &Cluster, at_rest: AtRest) -> History {
    let book = cluster.clients.book();
    let mut calls = book.calls.clone();
    calls.sort_by_key(|call| call.asked_at);
    History {
        shards: ShardCount::new(SHARDS).expect("there are shards"),
        calls,
        policies: Vec::new(),
        watched: None,
        replicas: cluster.watched().iter().cloned().collect(),
        at_rest,
        reaching: book.mates(),
        saturated_cases_max: SATURATED_CASES_MAX,
    }
}

/// Prints the summary, and panics with whatever contradicts what must hold.
fn judge_all(cluster: &Cluster, scenario: &Scenario, seed: u64, history: &History, injected: &str) {
    let violations = judge(history);
    let book = cluster.clients.book();
    let answers: Vec<String> = book.answers.iter().map(|(code, count)| format!("{code} {count}")).collect();
    let judged = match violations.len() {
        0 => format!("{} checkers green", CHECKERS.len()),
        count => format!("{count} VIOLATIONS"),
    };
    say(&format!(
        "faults: {} (SEED={seed}): {} enrolments, {} pairs of mates, {} withdrawn, {} cases; {injected}; answers: {}; longest {:.1} s; \
         {} states of replicas; {judged}",
        scenario.name,
        history.at_rest.enrolments.len(),
        history.reaching.len() / 2,
        book.withdrawn(),
        history.at_rest.cases.len(),
        answers.join(", "),
        book.longest.as_secs_f64(),
        history.replicas.len(),
    ));
    let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "SEED={seed}: {violations:#?}");
    assert!(book.complaints.is_empty(), "SEED={seed}: {:#?}", book.complaints);
    let panics = panics(cluster);
    assert!(panics.is_empty(), "SEED={seed}: {panics:#?}");
}

/// Lines of the servers' logs that tell of a panic: no fault of the machine may lead to one.
fn panics(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.folder.path()).expect("the folder is there").flatten();
    let logs = entries.map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new("log")));
    let told: Vec<Vec<u8>> = logs.map(|path| fs::read(path).expect("a log can be read")).collect();
    let told = told.iter().flat_map(|log| log.split(|byte| *byte == b'\n')).map(String::from_utf8_lossy);
    told.filter(|line| line.contains("panic")).map(String::from).collect()
}
