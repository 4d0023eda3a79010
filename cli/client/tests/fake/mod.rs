//! A coordinator of a test: it answers enrolments as it is told, and dies as abruptly as a process.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use semel_proto::RETRY_AFTER_MS;
use semel_proto::v1::enrol_stream_response::Result as ItemResult;
use semel_proto::v1::enrolment_service_server::{EnrolmentService, EnrolmentServiceServer};
use semel_proto::v1::{
    EnrolRequest, EnrolResponse, EnrolStreamRequest, EnrolStreamResponse, Enrolment, EnrolmentState,
    GetEnrolmentRequest, GetEnrolmentResponse, Inconclusive, ItemError, WithdrawEnrolmentRequest,
    WithdrawEnrolmentResponse,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};

/// How one enrolment is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    Recorded(EnrolmentState),
    /// Shard 2 has not answered.
    Staged,
    /// With a retry hint in milliseconds; 0 = none.
    Error(Code, u32),
    /// Never.
    Hang,
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<EnrolRequest>>,
}

pub(crate) struct Fake {
    pub(crate) address: String,
    state: Arc<State>,
    runtime: Mutex<Option<Runtime>>,
}

impl Fake {
    /// Answers enrolments by the script, in the order they come, and everything after it with `unique`.
    pub(crate) fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let state = Arc::new(State { script: Mutex::new(script.into_iter().collect()), ..State::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("sockets can be");
        let address = listener.local_addr().expect("bound").to_string();
        let service = EnrolmentServiceServer::new(Service(Arc::clone(&state)));
        runtime.spawn(async move {
            let (reporter, health) = tonic_health::server::health_reporter();
            reporter.set_serving::<EnrolmentServiceServer<Service>>().await;
            let listener = TcpListener::from_std(listener).expect("a listener");
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let router = tonic::transport::Server::builder().add_service(service).add_service(health);
            router.serve_with_incoming(incoming).await.expect("it serves");
        });
        Self { address, state, runtime: Mutex::new(Some(runtime)) }
    }

    /// Every enrolment asked for, in order.
    pub(crate) fn seen(&self) -> Vec<EnrolRequest> {
        locked(&self.state.seen).clone()
    }

    pub(crate) async fn seen_at_least(&self, count: usize) {
        while locked(&self.state.seen).len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends it where it stands, with its connections.
    pub(crate) fn kill(&self) {
        locked(&self.runtime).take().expect("it is killed once").shutdown_background();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = locked(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

struct Service(Arc<State>);

async fn enrol(state: &State, request: EnrolRequest) -> Result<EnrolResponse, Status> {
    let reply = locked(&state.script).pop_front().unwrap_or(Reply::Recorded(EnrolmentState::Unique));
    let record = |state: EnrolmentState| {
        let EnrolRequest { gallery, enrolment_id, .. } = request.clone();
        Some(Enrolment { gallery, enrolment_id, state: state.into(), ..Default::default() })
    };
    let (enrolment, recorded) = (request.clone(), record);
    locked(&state.seen).push(enrolment);
    match reply {
        Reply::Recorded(state) => Ok(EnrolResponse { enrolment: recorded(state), inconclusive: None }),
        Reply::Staged => Ok(EnrolResponse {
            enrolment: recorded(EnrolmentState::Staged),
            inconclusive: Some(Inconclusive { missing_shards: vec![2], reason: "a shard".to_owned() }),
        }),
        Reply::Error(code, hint_ms) => {
            let mut status = Status::new(code, "as the test says");
            if hint_ms > 0 {
                status.metadata_mut().insert(RETRY_AFTER_MS, MetadataValue::from(hint_ms));
            }
            Err(status)
        }
        Reply::Hang => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl EnrolmentService for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        Ok(Response::new(enrol(&self.0, request.into_inner()).await?))
    }

    type EnrolStreamStream = Pin<Box<dyn Stream<Item = Result<EnrolStreamResponse, Status>> + Send>>;

    async fn enrol_stream(
        &self,
        request: Request<Streaming<EnrolStreamRequest>>,
    ) -> Result<Response<Self::EnrolStreamStream>, Status> {
        let state = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |item| {
            let state = Arc::clone(&state);
            async move {
                let EnrolStreamRequest { sequence, enrolment } = item?;
                let result = match enrol(&state, enrolment.expect("items hold enrolments")).await {
                    Ok(response) => ItemResult::Response(response),
                    Err(status) => {
                        let hint = status.metadata().get(RETRY_AFTER_MS);
                        let hint = hint.map(|hint| hint.to_str().expect("a number").parse().expect("a number"));
                        ItemResult::Error(ItemError {
                            code: status.code().into(),
                            message: status.message().to_owned(),
                            retry_after_ms: hint.unwrap_or(0),
                        })
                    }
                };
                Ok(EnrolStreamResponse { sequence, result: Some(result) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffer_unordered(1_024))))
    }

    async fn get_enrolment(&self, _: Request<GetEnrolmentRequest>) -> Result<Response<GetEnrolmentResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn withdraw_enrolment(
        &self,
        _: Request<WithdrawEnrolmentRequest>,
    ) -> Result<Response<WithdrawEnrolmentResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }
}

fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
