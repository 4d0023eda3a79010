//! Enrolling many: a bounded number in flight, over one stream to each coordinator.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use semel_proto::v1::EnrolRequest;
use tokio::sync::Mutex;
use tonic::Status;

use crate::client::Client;
use crate::coordinator::Coordinator;
use crate::error::CallError;
use crate::line::Line;
use crate::outcome::Outcome;
use crate::persist::{Course, Failed};

/// What became of one enrolment of many.
#[derive(Debug)]
pub struct Answer<T> {
    /// What came with the request, to know it by.
    pub tag: T,
    /// How it ended. [`Outcome::Inconclusive`] and [`Outcome::StillStaged`] where the deadline was over before there was a verdict.
    pub result: Result<Outcome, CallError>,
    /// When it was sent first.
    pub sent: Instant,
    /// When it ended.
    pub answered: Instant,
    /// What it went through.
    pub course: Course,
}

/// The streams of one bulk, by the address of the coordinator; they end with it.
#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<String, Arc<Line>>>);

impl Lines {
    /// The stream to a coordinator, opened if there is none that works.
    async fn to(&self, coordinator: &Coordinator) -> Result<Arc<Line>, Failed> {
        let mut lines = self.0.lock().await;
        if let Some(line) = lines.get(&coordinator.address).filter(|line| !line.is_broken()) {
            return Ok(Arc::clone(line));
        }
        let channel = coordinator.channel().await.map_err(Failed::Unreached)?;
        let line = Arc::new(Line::open(channel, coordinator.annotate).await?);
        lines.insert(coordinator.address.clone(), Arc::clone(&line));
        Ok(line)
    }
}

impl Client {
    /// Enrols everything that `requests` yields and yields the answers as they come, in any order; each request travels with a tag to
    /// know its answer by.
    ///
    /// Up to `in_flight` requests (at least 1) are taken and not yet answered. Each has a deadline of its own; what a coordinator that
    /// is lost leaves unanswered is sent to another. Dropping the stream abandons what is in flight: it is recorded or not, and may be
    /// sent again with the same ids.
    pub fn enrol_all<T>(
        &self,
        requests: impl Stream<Item = (T, EnrolRequest)>,
        in_flight: usize,
    ) -> impl Stream<Item = Answer<T>> {
        let lines = Arc::new(Lines::default());
        let enrolled = requests.map(move |(tag, request)| {
            let (client, lines) = (self.clone(), Arc::clone(&lines));
            async move {
                let sent = Instant::now();
                let (result, course) = client.enrol_over(&lines, request).await;
                Answer { tag, result, sent, answered: Instant::now(), course }
            }
        });
        enrolled.buffer_unordered(in_flight.max(1))
    }

    async fn enrol_over(&self, lines: &Lines, request: EnrolRequest) -> (Result<Outcome, CallError>, Course) {
        self.enrol_by(&request, |coordinator, request, _: Duration| async move {
            let line = lines.to(&coordinator).await?;
            let response = line.enrol(request).await?;
            Outcome::of_response(response).map_err(|status: Status| Failed::Answered(status))
        })
        .await
    }
}
