//! What a coordinator measures. Names are an API: `docs/metrics.md` lists them, and a test compares.

use std::fmt;
use std::sync::Arc;

use semel_proto::v1 as public;
use semel_telemetry::{Counter, Counts, Families, Monitor, Seconds};
use tonic::Code;

use crate::cluster_service;
use crate::front::Front;
use crate::status::ClientError;

/// What becomes of an enrolment or identification, as counted.
const ENROLMENT_OUTCOMES: [&str; 9] = [
    "unique",
    "possible_duplicate",
    "not_comparable",
    "withdrawn",
    "inconclusive",
    "overloaded",
    "unavailable",
    "invalid",
    "failed",
];
const IDENTIFICATION_OUTCOMES: [&str; 6] = ["complete", "incomplete", "overloaded", "unavailable", "invalid", "failed"];

/// The instruments of one coordinator.
#[derive(Debug)]
pub(crate) struct CoordinatorMetrics {
    pub(crate) enrol: Seconds,
    pub(crate) stage: Seconds,
    pub(crate) search: Seconds,
    pub(crate) settle: Seconds,
    pub(crate) identify: Seconds,
    pub(crate) resumed: Counter,
    pub(crate) refused: Counter,
    enrolments: Counts,
    identifications: Counts,
}

impl Default for CoordinatorMetrics {
    fn default() -> Self {
        Self {
            enrol: Seconds::default(),
            stage: Seconds::default(),
            search: Seconds::default(),
            settle: Seconds::default(),
            identify: Seconds::default(),
            resumed: Counter::default(),
            refused: Counter::default(),
            enrolments: Counts::new("outcome", &ENROLMENT_OUTCOMES),
            identifications: Counts::new("outcome", &IDENTIFICATION_OUTCOMES),
        }
    }
}

impl CoordinatorMetrics {
    /// Counts what a client was told of its enrolment.
    pub(crate) fn enrolled(&self, answer: &Result<public::EnrolResponse, ClientError>) {
        use public::EnrolmentState as State;
        let outcome = match answer {
            Ok(public::EnrolResponse { inconclusive: Some(_), .. }) => "inconclusive",
            Ok(answer) => match answer.enrolment.as_ref().map(public::Enrolment::state) {
                Some(State::Unique) => "unique",
                Some(State::PossibleDuplicate) => "possible_duplicate",
                Some(State::NotComparable) => "not_comparable",
                Some(State::Withdrawn) => "withdrawn",
                Some(State::Staged) => "inconclusive",
                Some(State::Unspecified) | None => "failed",
            },
            Err(error) => failure(error),
        };
        self.enrolments.add_one(outcome);
    }

    /// Counts what a client was told of its identification.
    pub(crate) fn identified(&self, answer: &Result<public::IdentifyResponse, ClientError>) {
        use public::identify_response::Outcome;
        let outcome = match answer {
            Ok(answer) => match answer.outcome {
                Some(Outcome::Complete(_)) => "complete",
                Some(Outcome::Incomplete(_)) => "incomplete",
                None => "failed",
            },
            Err(error) => failure(error),
        };
        self.identifications.add_one(outcome);
    }

    /// Shows everything on `monitor`.
    pub(crate) fn show(&self, monitor: &Monitor, front: &Arc<Front>) {
        let seconds = [
            ("semel_coordinator_enrol_seconds", "Time to answer one enrolment, whatever the answer", &self.enrol),
            ("semel_coordinator_stage_seconds", "Time of one stage over all replicas tried", &self.stage),
            ("semel_coordinator_search_seconds", "Time until every shard answered for one enrolment", &self.search),
            ("semel_coordinator_settle_seconds", "Time of one settle over all replicas tried", &self.settle),
            ("semel_coordinator_identify_seconds", "Time to answer one identification", &self.identify),
        ];
        seconds.into_iter().for_each(|(name, help, seconds)| monitor.seconds(name, help, seconds));
        let name = "semel_coordinator_enrolments_total";
        monitor.counts(name, "Enrolments answered, by what the client was told", &self.enrolments);
        let name = "semel_coordinator_identifications_total";
        monitor.counts(name, "Identifications answered, by what the client was told", &self.identifications);
        let counters = [
            ("semel_coordinator_refused_total", "Calls refused because all places were taken", &self.refused),
            ("semel_coordinator_resumed_total", "Enrolments taken up that were left behind", &self.resumed),
        ];
        counters.into_iter().for_each(|(name, help, counter)| monitor.counter(name, help, counter));
        let front = Arc::clone(front);
        monitor.collect(move |families| cluster(families, &front));
    }
}

fn failure(error: &ClientError) -> &'static str {
    match error.code() {
        Code::ResourceExhausted => "overloaded",
        Code::Unavailable => "unavailable",
        Code::Internal => "failed",
        // The client's to mend: a field, an id that is taken, a gallery that does not exist.
        _ => "invalid",
    }
}

/// The cluster as this coordinator knows it.
fn cluster(families: &mut Families<'_>, front: &Front) -> fmt::Result {
    let status = cluster_service::status(front);
    let name = "semel_coordinator_places_taken";
    families.gauges(name, "Enrolments and searches in work", "priority", front.in_work())?;
    let leads = u64::from(front.metadata.leads());
    families.gauge("semel_coordinator_leads", "Whether this coordinator leads the metadata group", leads)?;
    families.gauge("semel_cluster_coordinators", "Coordinators that registered", status.coordinators.len() as u64)?;
    families.gauge("semel_cluster_galleries", "Galleries", status.galleries.len() as u64)?;
    let live = status.nodes.iter().filter(|node| node.live).count();
    let nodes = [("live", live as u64), ("silent", (status.nodes.len() - live) as u64)];
    families.gauges(
        "semel_cluster_nodes",
        "Nodes that joined, by whether they report to this coordinator",
        "state",
        nodes,
    )?;
    let led = status.shards.iter().filter(|shard| cluster_service::is_led(shard)).count();
    let shards = [("led", led as u64), ("leaderless", (status.shards.len() - led) as u64)];
    families.gauges("semel_cluster_shards", "Shards, by whether a leader is known", "state", shards)?;
    let pending = status.shards.iter().map(|shard| shard.pending).sum();
    families.gauge("semel_cluster_staged_enrolments", "Enrolments staged and not settled yet", pending)?;
    let obligations = status.shards.iter().map(|shard| shard.obligations).sum();
    families.gauge("semel_cluster_obligations", "Obligations between shards not carried out yet", obligations)?;
    let live = status.galleries.iter().map(|gallery| gallery.live).sum();
    families.gauge("semel_cluster_enrolments", "Live enrolments of all galleries", live)?;
    let cases = status.galleries.iter().map(|gallery| gallery.cases).sum();
    families.gauge("semel_cluster_cases", "Cases opened in all galleries", cases)
}
