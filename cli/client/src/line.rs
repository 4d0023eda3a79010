//! One `EnrolStream` as a call: many ask over it at once, and each gets the answer to its own item.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semel_proto::RETRY_AFTER_MS;
use semel_proto::v1::enrol_stream_response::Result as ItemResult;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::{EnrolRequest, EnrolResponse, EnrolStreamRequest, EnrolStreamResponse, ItemError};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// Items handed over and not yet on the wire; whoever has more waits for the coordinator to take them.
const ITEMS_QUEUED_MAX: usize = 64;

type Reply = oneshot::Sender<Result<EnrolResponse, Status>>;

/// An open stream. It ends when the last handle is dropped, or when it breaks.
pub(crate) struct Line {
    items: mpsc::Sender<EnrolStreamRequest>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which answer.
struct Waiting {
    sequence_next: u64,
    replies: HashMap<u64, Reply>,
    /// Why the stream is no more.
    broken: Option<Status>,
}

impl Line {
    pub(crate) async fn open(channel: Channel, annotate: fn(&mut MetadataMap)) -> Result<Self, Status> {
        let (items, receiver) = mpsc::channel(ITEMS_QUEUED_MAX);
        let mut request = Request::new(ReceiverStream::new(receiver));
        annotate(request.metadata_mut());
        let answers = EnrolmentServiceClient::new(channel).enrol_stream(request).await?;
        let waiting = Waiting { sequence_next: 0, replies: HashMap::new(), broken: None };
        let waiting = Arc::new(Mutex::new(waiting));
        // Ends with the stream: by the coordinator, or because the items' sender is gone.
        tokio::spawn(deliver(answers.into_inner(), Arc::clone(&waiting)));
        Ok(Self { items, waiting })
    }

    pub(crate) fn is_broken(&self) -> bool {
        locked(&self.waiting).broken.is_some()
    }

    /// Sends one item and waits for its answer.
    pub(crate) async fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, Status> {
        let (sequence, answer) = locked(&self.waiting).register()?;
        let item = EnrolStreamRequest { sequence, enrolment: Some(request) };
        let ended = || Status::unavailable("the coordinator ended the stream");
        self.items.send(item).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl Waiting {
    fn register(&mut self) -> Result<(u64, oneshot::Receiver<Result<EnrolResponse, Status>>), Status> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let (reply, answer) = oneshot::channel();
        let sequence = self.sequence_next;
        self.sequence_next += 1;
        self.replies.insert(sequence, reply);
        Ok((sequence, answer))
    }
}

/// Hands each answer to whoever waits for it, until the stream ends; then tells all others why.
async fn deliver(mut answers: Streaming<EnrolStreamResponse>, waiting: Arc<Mutex<Waiting>>) {
    let broken = loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                let reply = locked(&waiting).replies.remove(&answer.sequence);
                if let Some(reply) = reply {
                    // Whoever waited may have given up.
                    let _ = reply.send(result(answer.result));
                }
            }
            Ok(None) => break Status::unavailable("the coordinator ended the stream"),
            Err(status) => break status,
        }
    };
    let replies = {
        let mut waiting = locked(&waiting);
        waiting.broken = Some(broken.clone());
        std::mem::take(&mut waiting.replies)
    };
    for reply in replies.into_values() {
        let _ = reply.send(Err(broken.clone()));
    }
}

fn result(result: Option<ItemResult>) -> Result<EnrolResponse, Status> {
    match result {
        Some(ItemResult::Response(response)) => Ok(response),
        Some(ItemResult::Error(error)) => Err(status(&error)),
        None => Err(Status::new(Code::DataLoss, "the answer has a kind of result that this client does not know")),
    }
}

/// The status that the call for one item would have had.
fn status(error: &ItemError) -> Status {
    let mut status = Status::new(Code::from(error.code), error.message.as_str());
    if error.retry_after_ms > 0 {
        status.metadata_mut().insert(RETRY_AFTER_MS, MetadataValue::from(error.retry_after_ms));
    }
    status
}

fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
