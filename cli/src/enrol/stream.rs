//! A client of `EnrolStream`: keeps a bounded number of enrolments in flight, sends again what may succeed later, and
//! comes back after a broken stream. Reading files and showing results live elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use semel_proto::v1::enrol_stream_response::Result as ItemResult;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::{EnrolRequest, EnrolStreamRequest, EnrolStreamResponse, Enrolment, Inconclusive};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::time::DelayQueue;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::connect::{Addresses, CallFailed, Unreachable, may_succeed_later, traced};

/// The pause before the first repetition of an item; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Times in a row that a stream is opened again before the cluster counts as unreachable.
const REOPENINGS_MAX: u32 = 8;

/// The bounds of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Enrolments sent and not yet answered, at least 1.
    pub(crate) in_flight: usize,
    /// Times that one enrolment is sent before its last trouble becomes its answer, at least 1.
    pub(crate) attempts_max: u32,
}

/// How an enrolment ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It has a recorded verdict, or was withdrawn before.
    Settled(Box<Enrolment>),
    /// It is staged; the cluster finishes it by itself.
    Inconclusive(Inconclusive),
    /// It was refused, or could not be staged in all attempts.
    Refused(CallFailed),
}

/// What became of one enrolment.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The enrolment.
    pub(crate) enrolment_id: String,
    /// How it ended.
    pub(crate) ending: Ending,
    /// When it was sent first.
    pub(crate) sent: Instant,
    /// When the final answer came.
    pub(crate) answered: Instant,
    /// Times it was sent.
    pub(crate) attempts: u32,
    /// Of these, answers that a verdict could not be settled in time.
    pub(crate) inconclusive: u32,
    /// Of these, answers and broken streams that left it to be sent again.
    pub(crate) errors: u32,
}

struct InFlight {
    request: EnrolRequest,
    sent: Instant,
    attempts: u32,
    inconclusive: u32,
    errors: u32,
}

struct Line {
    items: mpsc::Sender<EnrolStreamRequest>,
    answers: Streaming<EnrolStreamResponse>,
}

struct Client<F> {
    addresses: Addresses,
    bounds: Bounds,
    sequence_next: u64,
    in_flight: HashMap<u64, InFlight>,
    waiting: DelayQueue<u64>,
    answered: F,
}

/// Enrols everything that `requests` yields; `answered` is called once for each, in the order of the answers.
///
/// # Errors
/// No coordinator could be reached for long. What was in flight is recorded or not: send all of it again, with the same ids.
pub(crate) async fn enrol_all(
    addresses: Addresses,
    mut requests: impl Stream<Item = EnrolRequest> + Unpin,
    bounds: Bounds,
    answered: impl FnMut(Answer),
) -> Result<(), Unreachable> {
    let mut client =
        Client { addresses, bounds, sequence_next: 0, in_flight: HashMap::new(), waiting: DelayQueue::new(), answered };
    let mut line = client.open().await?;
    let mut source_ended = false;
    while !source_ended || !client.in_flight.is_empty() {
        let has_room = !source_ended && client.in_flight.len() < bounds.in_flight;
        tokio::select! {
            answer = line.answers.message() => match answer {
                Ok(Some(answer)) => client.take(answer),
                Ok(None) => line = client.reopen(Status::unavailable("the coordinator ended the stream")).await?,
                Err(status) => line = client.reopen(status).await?,
            },
            Some(due) = client.waiting.next() => client.send(&line, due.into_inner()),
            request = requests.next(), if has_room => match request {
                Some(request) => client.start(&line, request),
                None => source_ended = true,
            },
        }
    }
    Ok(())
}

impl<F: FnMut(Answer)> Client<F> {
    fn start(&mut self, line: &Line, request: EnrolRequest) {
        let sequence = self.sequence_next;
        self.sequence_next += 1;
        let first = InFlight { request, sent: Instant::now(), attempts: 0, inconclusive: 0, errors: 0 };
        self.in_flight.insert(sequence, first);
        self.send(line, sequence);
    }

    /// Opens a stream to the first coordinator that takes one.
    async fn open(&self) -> Result<Line, Unreachable> {
        let mut attempts = Vec::new();
        let mut pause = PAUSE_FIRST;
        for _ in 0..REOPENINGS_MAX {
            match self.try_open().await {
                Ok(line) => return Ok(line),
                Err(reason) => attempts = reason,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(Unreachable { attempts })
    }

    async fn try_open(&self) -> Result<Line, Vec<String>> {
        let channel: Channel = self.addresses.connect().await.map_err(|error| error.attempts)?;
        // Each item in flight is in the channel at most once, so sending never waits.
        let (items, receiver) = mpsc::channel(self.bounds.in_flight);
        let opened = EnrolmentServiceClient::new(channel).enrol_stream(traced(ReceiverStream::new(receiver))).await;
        let refused = |status: Status| vec![CallFailed::from(status).to_string()];
        Ok(Line { items, answers: opened.map_err(refused)?.into_inner() })
    }

    /// After a broken stream: opens another and sends everything in flight again. Ids make that harmless.
    async fn reopen(&mut self, broken: Status) -> Result<Line, Unreachable> {
        let line = self.open().await?;
        let broken = CallFailed::from(broken);
        self.waiting.clear();
        let mut sequences: Vec<u64> = self.in_flight.keys().copied().collect();
        sequences.sort_unstable();
        for sequence in sequences {
            let item = self.in_flight.get_mut(&sequence).expect("it was listed just now");
            item.errors += 1;
            if item.attempts < self.bounds.attempts_max {
                self.send(&line, sequence);
            } else {
                self.end(sequence, Ending::Refused(broken.clone()));
            }
        }
        Ok(line)
    }

    fn send(&mut self, line: &Line, sequence: u64) {
        let item = self.in_flight.get_mut(&sequence).expect("only what is in flight is sent");
        item.attempts += 1;
        let message = EnrolStreamRequest { sequence, enrolment: Some(item.request.clone()) };
        // A full or closed channel belongs to a broken stream: its end is read next, and everything is sent again.
        let _ = line.items.try_send(message);
    }

    fn take(&mut self, answer: EnrolStreamResponse) {
        let Some(item) = self.in_flight.get_mut(&answer.sequence) else {
            // Sent twice across a broken stream and answered before.
            return;
        };
        let may_repeat = item.attempts < self.bounds.attempts_max;
        match answer.result {
            Some(ItemResult::Response(response)) => match (response.inconclusive, response.enrolment) {
                (None, Some(enrolment)) => self.end(answer.sequence, Ending::Settled(Box::new(enrolment))),
                (inconclusive, _) => {
                    item.inconclusive += 1;
                    let inconclusive = inconclusive.unwrap_or_default();
                    if may_repeat {
                        self.later(answer.sequence, 0)
                    } else {
                        self.end(answer.sequence, Ending::Inconclusive(inconclusive))
                    }
                }
            },
            Some(ItemResult::Error(error)) => {
                item.errors += 1;
                let code = Code::from(error.code);
                if may_repeat && may_succeed_later(code) {
                    self.later(answer.sequence, error.retry_after_ms);
                } else {
                    self.end(answer.sequence, Ending::Refused(CallFailed { code, message: error.message }));
                }
            }
            None => {
                let message = "the answer has a kind of result that this client does not know".to_owned();
                self.end(answer.sequence, Ending::Refused(CallFailed { code: Code::Internal, message }));
            }
        }
    }

    /// Puts an item off: as long as the cluster asks, and longer each time.
    fn later(&mut self, sequence: u64, retry_after_ms: u32) {
        let attempts = self.in_flight.get(&sequence).map_or(0, |item| item.attempts);
        self.waiting.insert(sequence, pause(attempts, retry_after_ms));
    }

    fn end(&mut self, sequence: u64, ending: Ending) {
        let item = self.in_flight.remove(&sequence).expect("an item ends once");
        (self.answered)(Answer {
            enrolment_id: item.request.enrolment_id,
            ending,
            sent: item.sent,
            answered: Instant::now(),
            attempts: item.attempts,
            inconclusive: item.inconclusive,
            errors: item.errors,
        });
    }
}

/// The pause after so many attempts.
fn pause(attempts: u32, retry_after_ms: u32) -> Duration {
    let doubled = PAUSE_FIRST * 2_u32.pow(attempts.saturating_sub(1).min(8));
    doubled.max(Duration::from_millis(retry_after_ms.into())).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_heed_the_cluster() {
        let cases =
            [(1, 0, 100), (2, 0, 200), (4, 0, 800), (9, 0, 5_000), (100, 0, 5_000), (1, 700, 700), (1, 60_000, 5_000)];
        for (attempts, hint, expected) in cases {
            assert_eq!(pause(attempts, hint).as_millis(), expected, "{attempts} attempts, hint {hint}");
        }
    }
}
