//! Metrics and health of running servers: what they are called, that they count what happened, and that any scraper can read them.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use semel_proto::v1::{IdentifyRequest, Modality};
use semel_sandbox::{Sandbox, requests, wait_until};

use crate::exposition::{Exposition, Family, get, scrape};
use crate::foreign_clients::tool;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{enrol, wait_quiet};

const GALLERY: &str = "people";
const SHARDS: u32 = 4;
const ENROLMENTS: u32 = 6;
const WITHIN: Duration = Duration::from_secs(30);
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// Where the table of metrics lies, and between which lines.
const PAGE: &str = "../docs/metrics.md";
const TABLE_BEGINS: &str = "<!-- metrics: begin -->\n";
const TABLE_ENDS: &str = "<!-- metrics: end -->\n";

/// A cluster in which somebody was enrolled, and searched for once more.
async fn cluster() -> Sandbox {
    let sandbox = Sandbox::builder().engine("exact").shards(SHARDS).start().await.expect("the cluster starts");
    let mut policy = requests::embedding_policy(Modality::Face, DIMENSION, THRESHOLD);
    policy.identification_allowed = true;
    sandbox.galleries().create_gallery(requests::gallery(GALLERY, policy)).await.expect("the gallery is created");
    let people = people::people(81, ENROLMENTS);
    for person in 0..ENROLMENTS {
        // The last is the first once more.
        let (person, side) = if person + 1 == ENROLMENTS { (0, 1) } else { (person, 0) };
        let request = requests::face_enrolment(GALLERY, &format!("{person}-{side}"), &capture(&people, person, side));
        enrol(&sandbox.enrolments(), &request).await;
    }
    let references = vec![requests::embedding_reference(Modality::Face, &capture(&people, 1, 1))];
    let identify =
        IdentifyRequest { gallery: GALLERY.to_owned(), references, purpose: "test".to_owned(), ..Default::default() };
    sandbox.identification().identify(identify).await.expect("an answer");
    wait_quiet(&sandbox, GALLERY).await;
    sandbox
}

/// What all nodes of the cluster show, and its coordinator.
async fn shown(sandbox: &Sandbox) -> (Vec<Exposition>, Exposition) {
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(scrape(sandbox.node_metrics(node).await.expect("it exists")).await);
    }
    (nodes, scrape(sandbox.coordinator_metrics(0).await.expect("it exists")).await)
}

#[tokio::test]
async fn what_happened_is_counted_and_the_page_of_metrics_names_everything() {
    let sandbox = cluster().await;
    let (nodes, coordinator) = shown(&sandbox).await;
    let all = |series: &str| nodes.iter().map(|node| node.value(series)).sum::<f64>();
    let enrolments = f64::from(ENROLMENTS);

    for (outcome, count) in [("unique", enrolments - 1.0), ("possible_duplicate", 1.0), ("inconclusive", 0.0)] {
        let series = format!("semel_coordinator_enrolments_total{{outcome=\"{outcome}\"}}");
        assert_eq!(coordinator.value(&series), count, "{outcome}");
    }
    assert_eq!(coordinator.value("semel_coordinator_identifications_total{outcome=\"complete\"}"), 1.0);
    for step in ["enrol", "stage", "search", "settle"] {
        let count = coordinator.value(&format!("semel_coordinator_{step}_seconds_count"));
        assert!(count >= enrolments, "{step}: {count}");
    }
    assert_eq!(coordinator.value("semel_cluster_galleries"), 1.0);
    assert_eq!(coordinator.value("semel_cluster_nodes{state=\"live\"}"), 3.0);
    assert_eq!(coordinator.value("semel_cluster_shards{state=\"led\"}"), f64::from(SHARDS));
    assert_eq!(coordinator.value("semel_coordinator_leads"), 1.0);
    for priority in ["interactive", "bulk"] {
        let series = format!("semel_coordinator_places_taken{{priority=\"{priority}\"}}");
        assert_eq!(coordinator.value(&series), 0.0, "{priority}");
    }

    for step in ["stage", "settle"] {
        assert!(all(&format!("semel_node_{step}_seconds_count")) >= enrolments, "{step}");
    }
    assert!(all("semel_node_shard_searches_total") >= (enrolments + 1.0) * f64::from(SHARDS));
    assert!(all("semel_node_scan_seconds_count") > 0.0 && all("semel_raft_barrier_seconds_count") > 0.0);
    assert_eq!(all("semel_raft_replicas{role=\"leader\"}"), f64::from(SHARDS));
    assert_eq!(all("semel_raft_replicas_failed_total"), 0.0);
    // Each of three replicas has every reference.
    assert_eq!(all("semel_catalogue_references{segment=\"growing\"}"), 3.0 * enrolments);
    for node in &nodes {
        assert_eq!(node.value("semel_raft_syncs_total"), node.value("semel_raft_sync_seconds_count"));
        assert!(node.value("semel_raft_syncs_total") > 0.0);
        assert!(node.value("semel_process_resident_memory_bytes") > 1e6);
    }

    check_page(&nodes[0], &coordinator);
}

/// Names, types, labels and help texts are an API: dashboards and alerts break when one changes.
fn check_page(node: &Exposition, coordinator: &Exposition) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).expect("the page of metrics is there");
    let (before, rest) = page.split_once(TABLE_BEGINS).expect("the page has a place for the table");
    let (written, after) = rest.split_once(TABLE_ENDS).expect("the table ends");
    let table = table(node, coordinator);
    if env::var_os("SEMEL_WRITE_METRICS").is_some() {
        fs::write(&path, [before, TABLE_BEGINS, &table, TABLE_ENDS, after].concat()).expect("the page can be written");
        return;
    }
    assert!(
        written == table,
        "a metric changed. Where that is meant, say so in CHANGELOG.md, and write the page anew: \
         SEMEL_WRITE_METRICS=1 cargo test --workspace --release --locked --test cluster -- page_of_metrics\n{table}"
    );
}

fn table(node: &Exposition, coordinator: &Exposition) -> String {
    let mut rows: BTreeMap<&str, (&Family, Vec<&str>)> = BTreeMap::new();
    for (who, shown) in [("node", node), ("coordinator", coordinator)] {
        for (name, family) in &shown.0 {
            let row = rows.entry(name).or_insert_with(|| (family, Vec::new()));
            assert_eq!((&row.0.kind, &row.0.help), (&family.kind, &family.help), "{name} is two things");
            row.1.push(who);
        }
    }
    let mut table = String::from("| metric | type | labels | shown by | what it says |\n|---|---|---|---|---|\n");
    for (name, (family, who)) in rows {
        let labels: BTreeSet<String> = family.labels_of(name).iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
        let (kind, who, help) = (&family.kind, who.join(", "), family.help.trim_end_matches('.'));
        writeln!(table, "| `{name}` | {kind} | {labels} | {who} | {help} |").expect("strings take everything");
    }
    table
}

/// Reads what a server shows with the parsers of the Prometheus project, which are stricter than its server.
const PARSER: &str = "
import sys
from prometheus_client import openmetrics, parser
import prometheus_client.openmetrics.parser
text = sys.stdin.read()
parse = openmetrics.parser if sys.argv[1] == 'open' else parser
families = list(parse.text_string_to_metric_families(text))
print(len(families), sum(len(family.samples) for family in families))
";

/// Runs a program over some text; what it wrote, if it is there and agrees.
fn over(program: &Path, arguments: &[&str], text: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}\n{errors}\n{text}", program.display());
    said.into_owned()
}

#[tokio::test]
async fn parsers_of_others_read_both_formats() {
    let python = tool("python3");
    let promtool = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder: PathBuf| folder.join("promtool"))
        .find(|program| program.is_file());
    if promtool.is_none() {
        println!("skipped: promtool is not on PATH");
    }
    let sandbox = cluster().await;
    for address in [sandbox.node_metrics(0).await, sandbox.coordinator_metrics(0).await] {
        let address = address.expect("it exists");
        let text = get(address, "/metrics", "text/plain").await.expect("it answers").1;
        let open = get(address, "/metrics", OPEN_METRICS).await.expect("it answers").1;
        assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
        if let Some(python) = &python {
            let read = [over(python, &["-c", PARSER, "text"], &text), over(python, &["-c", PARSER, "open"], &open)];
            let families = Exposition::parse(&text).expect("parses").0.len();
            for said in read {
                let counted = said.split(' ').next().expect("split gives one");
                assert_eq!(counted.parse(), Ok(families), "{said}");
            }
        }
        if let Some(promtool) = &promtool {
            over(promtool, &["check", "metrics"], &text);
        }
    }
}

#[tokio::test]
async fn a_node_without_its_peers_is_alive_and_not_ready() {
    let sandbox = Sandbox::builder().engine("exact").shards(SHARDS).start().await.expect("the cluster starts");
    let node = sandbox.node_metrics(0).await.expect("it exists");
    let is = |path: &'static str, wanted: u16| async move {
        match get(node, path, "text/plain").await {
            Ok((status, body)) if status == wanted => Ok(body),
            Ok((status, body)) => Err(format!("{status}: {body}")),
            Err(error) => Err(error.to_string()),
        }
    };
    wait_until("readiness", WITHIN, || is("/readyz", 200)).await.expect("it is caught up");
    let coordinator = sandbox.coordinator_metrics(0).await.expect("it exists");
    assert_eq!(get(coordinator, "/readyz", "text/plain").await.expect("it answers").0, 200);

    sandbox.kill_node(1).await.expect("it runs");
    sandbox.kill_node(2).await.expect("it runs");
    let reason = wait_until("the loss to show", WITHIN, || is("/readyz", 503)).await.expect("it has no majority");
    assert!(reason.contains("has no leader"), "{reason}");
    is("/livez", 200).await.expect("a restart would not help it");

    sandbox.restart_node(1).await.expect("it starts");
    wait_until("readiness", WITHIN, || is("/readyz", 200)).await.expect("two of three are a majority");
}
