//! `EnrolmentService`: enrolling, one by one or over a stream, reading and withdrawing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use semel_coordinator_wire as convert;
use semel_index::{EnrolmentId, GalleryId, shard_of};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_proto::v1::enrolment_service_server::EnrolmentService;
use semel_telemetry::{Instrument as _, continued, traced};
use semel_workflow::{EnrolmentWorkflow, Outcome, Waiting, prepare, validate_enrolment, validate_reason};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::drive::OVERLOAD_RETRY_MS;
use crate::front::Front;
use crate::nodes::CallError;
use crate::status::{ClientError, retry_hint_ms};

/// The wait for a verdict where a request names none, in milliseconds.
pub(crate) const WAIT_MS_DEFAULT: u32 = 10_000;
/// The longest wait that a request may ask for, in milliseconds.
pub(crate) const WAIT_MS_MAX: u32 = 60_000;
/// How often, at most, a record without a verdict is read again for one caller.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// What is left of a call's deadline for the answer to travel.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// Serves enrolments.
pub(crate) struct EnrolmentServer {
    front: Arc<Front>,
    stream_items_max: usize,
}

impl EnrolmentServer {
    pub(crate) fn new(front: Arc<Front>, stream_items_max: usize) -> Self {
        Self { front, stream_items_max }
    }
}

/// When an answer must leave: after the wait asked for, and before the call's own deadline.
pub(crate) fn answer_by(wait_ms: u32, call_timeout: Option<Duration>) -> Result<Instant, ClientError> {
    if wait_ms > WAIT_MS_MAX {
        return Err(ClientError::field("wait_ms", format!("is {wait_ms}, must be 0 to {WAIT_MS_MAX}")));
    }
    let wait = Duration::from_millis(u64::from(if wait_ms == 0 { WAIT_MS_DEFAULT } else { wait_ms }));
    let wait = call_timeout.map_or(wait, |timeout| wait.min(timeout.saturating_sub(ANSWER_MARGIN)));
    Ok(Instant::now() + wait)
}

/// The deadline that the caller set on the call, as gRPC carries it: up to eight digits and a unit.
pub(crate) fn call_timeout<T>(request: &Request<T>) -> Option<Duration> {
    let value = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.checked_mul(3_600)?)),
        "M" => Some(Duration::from_secs(count.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Enrols one person, as part of the trace that the call's metadata names.
async fn enrol(
    front: &Front,
    request: public::EnrolRequest,
    call_timeout: Option<Duration>,
    metadata: &MetadataMap,
) -> Result<public::EnrolResponse, ClientError> {
    let (gallery, enrolment_id) = (&request.gallery, &request.enrolment_id);
    let span = continued(traced!("enrol", otel.kind = "server", gallery, enrolment_id), metadata);
    let timer = front.metrics.enrol.start();
    let answer = front.finish(enrol_one(front, request, call_timeout).instrument(span)).await;
    drop(timer);
    front.metrics.enrolled(&answer);
    answer
}

async fn enrol_one(
    front: &Front,
    request: public::EnrolRequest,
    call_timeout: Option<Duration>,
) -> Result<public::EnrolResponse, ClientError> {
    let deadline = answer_by(request.wait_ms, call_timeout)?;
    let priority = convert::priority_from(request.priority);
    let _place = front.admit(priority).ok_or(ClientError::Overloaded { retry_after_ms: OVERLOAD_RETRY_MS })?;
    let gallery = front.gallery(&request.gallery, deadline).await?;
    let request = convert::enrolment_request(request);
    let enrolment = validate_enrolment(request, &gallery.policy.policy)?;
    let shards = front.shards().ok_or(ClientError::NotReady("its shards are not placed yet"))?;
    let keys = front.keys(&gallery, deadline).await?;
    let now_ms = crate::clock::now_ms();
    let prepared = prepare(&enrolment, Arc::clone(&gallery.policy), &keys.rotations, &keys.digest, now_ms);
    let outcome = front.drive(EnrolmentWorkflow::begin(shards, prepared), &gallery.policy, priority, deadline).await;
    answer(outcome, enrolment.enrolment_id())
}

fn answer(outcome: Outcome, enrolment_id: &EnrolmentId) -> Result<public::EnrolResponse, ClientError> {
    match outcome {
        Outcome::Settled(record) => {
            Ok(public::EnrolResponse { enrolment: Some(convert::enrolment(&record)), inconclusive: None })
        }
        Outcome::Inconclusive { record, waiting } => {
            let (missing_shards, reason) = match waiting {
                Waiting::Shards(missing) => {
                    (missing.iter().map(|shard| shard.0).collect(), "shards that have not answered the search")
                }
                Waiting::Pinned => (Vec::new(), "the recorded references"),
                Waiting::Settle => (Vec::new(), "the verdict to be recorded"),
            };
            let inconclusive = public::Inconclusive { missing_shards, reason: reason.to_owned() };
            let enrolment = Some(convert::enrolment(&record));
            Ok(public::EnrolResponse { enrolment, inconclusive: Some(inconclusive) })
        }
        Outcome::AlreadyExists => Err(ClientError::AlreadyExists(enrolment_id.to_string())),
        Outcome::Unavailable { outcome_unknown } => Err(ClientError::StageFailed { outcome_unknown }),
        Outcome::Overloaded { retry_after_ms } => Err(ClientError::Overloaded { retry_after_ms }),
        Outcome::Refused(refusal) => Err(ClientError::Refused(refusal)),
    }
}

/// Enrols one item of a stream; its error is its answer.
async fn enrol_item(
    front: Arc<Front>,
    item: public::EnrolStreamRequest,
    metadata: Arc<MetadataMap>,
) -> public::EnrolStreamResponse {
    use public::enrol_stream_response::Result as ItemResult;
    let outcome = match item.enrolment {
        Some(request) => enrol(&front, request, None, &metadata).await,
        None => Err(ClientError::field("enrolment", "is required")),
    };
    let result = outcome.map_or_else(
        |error| {
            let status = Status::from(error);
            ItemResult::Error(public::ItemError {
                code: status.code().into(),
                message: status.message().to_owned(),
                retry_after_ms: retry_hint_ms(&status),
            })
        },
        ItemResult::Response,
    );
    public::EnrolStreamResponse { sequence: item.sequence, result: Some(result) }
}

/// Takes items while fewer than `items_max` are unanswered; until the client ends its side, breaks off, or stops reading.
async fn run_stream(
    front: Arc<Front>,
    request: Request<Streaming<public::EnrolStreamRequest>>,
    answers: mpsc::Sender<Result<public::EnrolStreamResponse, Status>>,
    items_max: usize,
) {
    let (metadata, _, mut items) = request.into_parts();
    let metadata = Arc::new(metadata);
    let places = Arc::new(Semaphore::new(items_max));
    let mut in_work = tokio::task::JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        while in_work.try_join_next().is_some() {}
        let item = tokio::select! {
            item = items.next() => item,
            () = answers.closed() => break,
            // What was not taken yet is sent to another coordinator once the stream has ended.
            _ = front.stopping() => break,
        };
        match item {
            Some(Ok(item)) => {
                let (front, answers, metadata) = (Arc::clone(&front), answers.clone(), Arc::clone(&metadata));
                in_work.spawn(async move {
                    let answer = enrol_item(front, item, metadata).await;
                    // The client may have gone: what was staged is finished by the sweep.
                    let _ = answers.send(Ok(answer)).await;
                    drop(place);
                });
            }
            Some(Err(status)) => {
                // Items in work are finished; the client learns of them by sending them again.
                tracing::info!(code = ?status.code(), "an enrolment stream broke");
                let _ = answers.send(Err(status)).await;
                break;
            }
            None => break,
        }
    }
    while in_work.join_next().await.is_some() {}
}

/// Checks the names of a request.
pub(crate) fn names(gallery: &str, enrolment_id: &str) -> Result<(GalleryId, EnrolmentId), ClientError> {
    let gallery = GalleryId::try_from(gallery)
        .map_err(|error| ClientError::field("gallery", format!("must be {}", error.rule)))?;
    let enrolment_id = EnrolmentId::try_from(enrolment_id)
        .map_err(|error| ClientError::field("enrolment_id", format!("must be {}", error.rule)))?;
    Ok((gallery, enrolment_id))
}

fn or_no_such_enrolment(error: CallError, gallery: &GalleryId) -> ClientError {
    match error {
        CallError::NotFound => ClientError::NoSuchRecord { what: "enrolment", gallery: gallery.to_string() },
        error @ (CallError::Unreached { .. }
        | CallError::OutcomeUnknown { .. }
        | CallError::Overloaded { .. }
        | CallError::Refused { .. }) => error.into(),
    }
}

async fn get(
    front: &Front,
    request: public::GetEnrolmentRequest,
    call_timeout: Option<Duration>,
) -> Result<public::GetEnrolmentResponse, ClientError> {
    let (gallery, enrolment_id) = names(&request.gallery, &request.enrolment_id)?;
    // The wait is for the verdict; the record itself is read within the default time however short that wait is.
    answer_by(request.wait_ms, None)?;
    let begun = Instant::now();
    let wait_until = begun + Duration::from_millis(u64::from(request.wait_ms));
    let read_until = answer_by(0, call_timeout)?;
    let deadline = call_timeout.map_or(wait_until, |timeout| wait_until.min(begun + timeout)).max(read_until);
    let shards = front.shards().ok_or(ClientError::NotReady("its shards are not placed yet"))?;
    loop {
        let asked = Instant::now();
        let wait = wait_until.min(deadline).saturating_duration_since(asked);
        let read = wire::ReadEnrolmentRequest {
            shard: shard_of(&gallery, &enrolment_id, shards).0,
            gallery: gallery.to_string(),
            enrolment_id: enrolment_id.to_string(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(WAIT_MS_MAX),
            ..Default::default()
        };
        let answer = front.nodes.read_enrolment(read, deadline).await;
        let answer = answer.map_err(|error| or_no_such_enrolment(error, &gallery))?;
        let enrolment = answer.receipt.and_then(|receipt| receipt.enrolment);
        let staged = enrolment.as_ref().is_some_and(|e| e.state() == public::EnrolmentState::Staged);
        if staged && Instant::now() + ANSWER_MARGIN < wait_until.min(deadline) {
            // A node at which too many wait answers at once: it must not be asked again at once.
            tokio::time::sleep_until(asked + READ_AGAIN_AFTER).await;
            continue;
        }
        return Ok(public::GetEnrolmentResponse { enrolment });
    }
}

async fn withdraw(
    front: &Front,
    request: public::WithdrawEnrolmentRequest,
    call_timeout: Option<Duration>,
) -> Result<public::WithdrawEnrolmentResponse, ClientError> {
    use wire::propose_response::Receipt;
    let (gallery, enrolment_id) = names(&request.gallery, &request.enrolment_id)?;
    validate_reason(&request.reason)?;
    let deadline = answer_by(0, call_timeout)?;
    let shards = front.shards().ok_or(ClientError::NotReady("its shards are not placed yet"))?;
    let shard = shard_of(&gallery, &enrolment_id, shards);
    let command = wire::command::Command::Withdraw(wire::WithdrawCommand {
        gallery: gallery.to_string(),
        enrolment_id: enrolment_id.to_string(),
        reason: request.reason,
    });
    let answer = front.nodes.propose(shard.0, wire::Command { command: Some(command) }, deadline).await?;
    front.obligations.found(front.obligations_from(shard, answer.obligations));
    match answer.receipt {
        Some(Receipt::Enrolment(receipt)) => Ok(public::WithdrawEnrolmentResponse { enrolment: receipt.enrolment }),
        Some(Receipt::Refused(_) | Receipt::Done(_)) | None => {
            Err(ClientError::NoSuchRecord { what: "enrolment", gallery: gallery.to_string() })
        }
    }
}

#[tonic::async_trait]
impl EnrolmentService for EnrolmentServer {
    async fn enrol(&self, request: Request<public::EnrolRequest>) -> Result<Response<public::EnrolResponse>, Status> {
        let timeout = call_timeout(&request);
        let (metadata, _, request) = request.into_parts();
        Ok(Response::new(enrol(&self.front, request, timeout, &metadata).await?))
    }

    type EnrolStreamStream = Pin<Box<dyn Stream<Item = Result<public::EnrolStreamResponse, Status>> + Send>>;

    async fn enrol_stream(
        &self,
        request: Request<Streaming<public::EnrolStreamRequest>>,
    ) -> Result<Response<Self::EnrolStreamStream>, Status> {
        let (answers, receiver) = mpsc::channel(self.stream_items_max);
        // Ends with the client's side of the stream; its items outlive a broken one, so that they are settled and not only staged.
        tokio::spawn(run_stream(Arc::clone(&self.front), request, answers, self.stream_items_max));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_enrolment(
        &self,
        request: Request<public::GetEnrolmentRequest>,
    ) -> Result<Response<public::GetEnrolmentResponse>, Status> {
        let timeout = call_timeout(&request);
        let span = continued(traced!("get_enrolment", otel.kind = "server"), request.metadata());
        let read = get(&self.front, request.into_inner(), timeout).instrument(span);
        Ok(Response::new(self.front.finish(read).await?))
    }

    async fn withdraw_enrolment(
        &self,
        request: Request<public::WithdrawEnrolmentRequest>,
    ) -> Result<Response<public::WithdrawEnrolmentResponse>, Status> {
        let timeout = call_timeout(&request);
        let span = continued(traced!("withdraw", otel.kind = "server"), request.metadata());
        let withdrawn = withdraw(&self.front, request.into_inner(), timeout).instrument(span);
        Ok(Response::new(self.front.finish(withdrawn).await?))
    }
}
