//! Traces of running servers: one call is one tree, from the client over the coordinator to the scans and logs of the nodes, and a
//! collector that is dead harms nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_sandbox::{Launch, Mode, Sandbox, requests, wait_until};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::binary::child_processes;
use crate::command::run;
use crate::exposition::scrape;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::enrol;

const GALLERY: &str = "people";
const SHARDS: u32 = 4;
const NODES: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
/// What a span may tell beside its name. Never a template, never a score.
const ATTRIBUTES: [&str; 7] = ["shard", "shards", "probes", "group", "gallery", "enrolment_id", "busy_ns"];

/// A span as it came.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    attributes: BTreeMap<String, String>,
}

/// A collector that keeps every span.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of_trace(&self, trace: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace == trace).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of in request.into_inner().resource_spans {
            let resource = texts(&of.resource.unwrap_or_default().attributes);
            for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Span {
                    service: resource["service.name"].clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: texts(&span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(&attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Processes that export their traces to `endpoint`.
async fn cluster(endpoint: &str) -> Sandbox {
    let variable = format!("OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}");
    let launch = Launch { listen: None, prefix: vec!["env".to_owned(), variable] };
    let mut builder = Sandbox::builder().mode(child_processes()).nodes(NODES).shards(SHARDS).engine("exact");
    builder = builder.launch_coordinator(0, launch.clone());
    for node in 0..NODES {
        builder = builder.launch_node(node, launch.clone());
    }
    let sandbox = builder.start().await.expect("the cluster starts");
    let gallery = requests::face_gallery(GALLERY, DIMENSION, THRESHOLD);
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

/// The names of the spans above a span, from its parent up to the caller.
fn above<'a>(span: &'a Span, by_id: &BTreeMap<&str, &'a Span>) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut parent = span.parent.as_str();
    while parent != CALLER {
        let span = by_id.get(parent).unwrap_or_else(|| panic!("{span:?} has a parent that is missing"));
        names.push(span.name.as_str());
        parent = &span.parent;
    }
    names
}

#[tokio::test]
async fn one_enrolment_is_one_tree_from_the_caller_to_the_scans() {
    let (collector, endpoint) = Collector::start().await;
    let sandbox = cluster(&endpoint).await;
    let embedding = capture(&people::people(91, 1), 0, 0);
    let mut request = Request::new(requests::face_enrolment(GALLERY, "traced", &embedding));
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-01").parse().expect("ASCII"));
    sandbox.enrolments().enrol(request).await.expect("a verdict");

    // The caller's answer does not wait for spans. The first span ends last.
    let whole = wait_until("the whole trace", WITHIN, || async {
        let spans = collector.of_trace(TRACE);
        let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
        let wanted = [("enrol", 1), ("scan", SHARDS as usize), ("node_propose", 2), ("settle", 1)];
        let missing = wanted.iter().find(|(name, least)| count(name) < *least);
        match missing {
            None if spans.iter().all(|span| span.parent == CALLER || spans.iter().any(|s| s.id == span.parent)) => {
                Ok(spans)
            }
            _ => Err(format!("{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>())),
        }
    });
    let spans = whole.await.unwrap_or_else(|error| panic!("{error}"));
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();

    let roots: Vec<&str> = spans.iter().filter(|span| span.parent == CALLER).map(|span| span.name.as_str()).collect();
    assert_eq!(roots, ["enrol"]);
    let mut scanned = BTreeSet::new();
    for span in &spans {
        let above = above(span, &by_id);
        let (service, expected): (&str, &[&[&str]]) = match span.name.as_str() {
            "enrol" => ("semel-coordinator", &[&[]]),
            "stage" | "settle" | "search" => ("semel-coordinator", &[&["enrol"]]),
            "search_request" => ("semel-coordinator", &[&["search", "enrol"]]),
            "node_propose" => ("semel-node", &[&["stage", "enrol"], &["settle", "enrol"]]),
            "propose" => ("semel-node", &[&["node_propose", "stage", "enrol"], &["node_propose", "settle", "enrol"]]),
            "node_search" => ("semel-node", &[&["search_request", "search", "enrol"]]),
            "scan" => ("semel-node", &[&["node_search", "search_request", "search", "enrol"]]),
            // Of the metadata group, and of every shard that is searched.
            "barrier" if above == ["enrol"] => ("semel-coordinator", &[&["enrol"]]),
            "barrier" => ("semel-node", &[&["node_search", "search_request", "search", "enrol"]]),
            other => panic!("a span {other} that nobody described"),
        };
        assert_eq!(span.service, service, "{span:?}");
        assert!(expected.iter().any(|expected| *expected == above), "{} lies below {above:?}", span.name);
        for (key, value) in &span.attributes {
            assert!(ATTRIBUTES.contains(&key.as_str()) && value.len() < 64, "{span:?}");
        }
        if span.name == "scan" {
            scanned.insert(span.attributes["shard"].clone());
        }
    }
    assert_eq!(scanned.len(), SHARDS as usize, "every shard is scanned");
}

#[tokio::test]
async fn a_command_with_trace_tells_the_id_under_which_servers_export() {
    let (collector, endpoint) = Collector::start().await;
    let sandbox = cluster(&endpoint).await;
    let request = requests::face_enrolment(GALLERY, "known", &capture(&people::people(92, 1), 0, 0));
    enrol(&sandbox.enrolments(), &request).await;
    let Mode::ChildProcesses { binary } = child_processes() else { unreachable!("it makes no other") };
    let mut command = Command::new(binary);
    command.args(["--trace", "get", "--gallery", GALLERY, "known", "--address", &sandbox.endpoint()]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let output = run(command).await;
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let trace = told.lines().find_map(|line| line.strip_prefix("trace ")).expect("the id is told");
    let found = wait_until("spans of every process", WITHIN, || async {
        let spans = collector.of_trace(trace);
        let services: BTreeSet<String> = spans.iter().map(|span| span.service.clone()).collect();
        let all = ["semel", "semel-coordinator", "semel-node"].iter().all(|service| services.contains(*service));
        if all { Ok(()) } else { Err(format!("{services:?}")) }
    });
    found.await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn with_a_dead_collector_enrolments_go_on_and_servers_end_in_order() {
    // Bound and never listening: whoever connects is refused, and nobody else is given the port.
    let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
    closed.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let sandbox = cluster(&format!("http://{}", closed.local_addr().expect("it is bound"))).await;
    let people = people::people(93, 20);
    let client: EnrolmentServiceClient<_> = sandbox.enrolments();
    for person in 0..20 {
        enrol(&client, &requests::face_enrolment(GALLERY, &person.to_string(), &capture(&people, person, 0))).await;
    }
    let coordinator = sandbox.coordinator_metrics(0).await.expect("it exists");
    let lost = wait_until("lost spans to be counted", WITHIN, || async {
        let lost = scrape(coordinator).await.value("semel_trace_spans_lost_total");
        if lost > 0.0 { Ok(lost) } else { Err("none yet") }
    });
    lost.await.unwrap_or_else(|error| panic!("{error}"));
    sandbox.terminate_node(0).await.expect("it ends without failure");
    sandbox.terminate_coordinator(0).await.expect("it ends without failure");
}
