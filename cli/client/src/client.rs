//! The calls of a client, one method each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use semel_proto::v1::case_service_client::CaseServiceClient;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::gallery_service_client::GalleryServiceClient;
use semel_proto::v1::identification_service_client::IdentificationServiceClient;
use semel_proto::v1::{
    Case, CreateGalleryRequest, EnrolRequest, Gallery, GetCaseRequest, GetClusterStatusRequest,
    GetClusterStatusResponse, GetEnrolmentRequest, GetGalleryRequest, IdentifyRequest, ListCasesRequest,
    ListCasesResponse, ListGalleriesRequest, UpdatePolicyRequest, VerifyRequest, VerifyResponse,
    WithdrawEnrolmentRequest,
};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::balance::Coordinators;
use crate::coordinator::Coordinator;
use crate::error::{CallError, InvalidAddress};
use crate::outcome::{Identification, Outcome};
use crate::persist::{Bounds, Course, Failed, Persistence};
use crate::settings::Settings;

/// The wait for a verdict where a request names none; the cluster's own default.
const WAIT: Duration = Duration::from_secs(10);
/// What creating a gallery may take beside everything else: a rotation of 4,096 dimensions is drawn in about a minute.
const DRAWN_WITHIN: Duration = Duration::from_secs(120);
/// The largest answer taken, in bytes: a status names every replica of up to 4,096 shards.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A client of one cluster. Clones share connections.
#[derive(Clone)]
pub struct Client {
    coordinators: Arc<Coordinators>,
    settings: Settings,
}

/// Calls a method of one of the services over a connection.
macro_rules! over {
    ($service:ident :: $method:ident) => {
        |channel: Channel, request| async move {
            $service::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).$method(request).await
        }
    };
}

impl Client {
    /// A client of the cluster whose coordinators have these addresses, `host:port` each, 1 to 32. Nothing is dialled yet.
    ///
    /// # Errors
    /// [`InvalidAddress`] names what cannot be dialled.
    pub fn new<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        settings: Settings,
    ) -> Result<Self, InvalidAddress> {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        Ok(Self { coordinators: Arc::new(Coordinators::new(&addresses, &settings)?), settings })
    }

    /// The same client with other bounds of its calls; `connect_within`, the keep-alives and `annotate` stay those of its connections.
    pub fn with(&self, settings: Settings) -> Self {
        Self { coordinators: Arc::clone(&self.coordinators), settings }
    }

    /// Its bounds.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many coordinators it knows.
    pub fn coordinators(&self) -> usize {
        self.coordinators.len()
    }

    /// Enrols, and waits until there is a verdict or the deadline is over. `wait_ms` is how long each attempt waits; 0 = 10 s.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Unanswered`] the enrolment may be on record: send the same request again, or read it.
    pub async fn enrol(&self, request: EnrolRequest) -> Result<Outcome, CallError> {
        let enrolled = self.enrol_by(&request, |coordinator, request, within| async move {
            let response = once(&coordinator, request, within, over!(EnrolmentServiceClient::enrol)).await?;
            Ok(Outcome::of_response(response)?)
        });
        enrolled.await.0
    }

    /// Reads an enrolment; with `wait_ms`, waits for its verdict, 60,000 at most.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND if there is none of that id.
    pub async fn enrolment(&self, request: GetEnrolmentRequest) -> Result<Outcome, CallError> {
        let wait = Duration::from_millis(request.wait_ms.into());
        let answer = self.call_with(wait, request, over!(EnrolmentServiceClient::get_enrolment)).await?;
        Outcome::of_record(answer.enrolment).map_err(garbled)
    }

    /// Withdraws an enrolment.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND if there is none of that id.
    pub async fn withdraw(&self, request: WithdrawEnrolmentRequest) -> Result<Outcome, CallError> {
        let answer = self.call(request, over!(EnrolmentServiceClient::withdraw_enrolment)).await?;
        Outcome::of_record(answer.enrolment).map_err(garbled)
    }

    /// Searches everyone for a probe and stores nothing. A gallery must allow it.
    ///
    /// # Errors
    /// [`CallError`]; PERMISSION_DENIED where the gallery does not.
    pub async fn identify(&self, request: IdentifyRequest) -> Result<Identification, CallError> {
        let wait = wait(request.wait_ms);
        let answer = self.call_with(wait, request, over!(IdentificationServiceClient::identify)).await?;
        Identification::of_response(answer).map_err(garbled)
    }

    /// Compares a probe with one enrolment.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND, FAILED_PRECONDITION (withdrawn).
    pub async fn verify(&self, request: VerifyRequest) -> Result<VerifyResponse, CallError> {
        self.call(request, over!(IdentificationServiceClient::verify)).await
    }

    /// Creates a gallery. Its rotation is drawn meanwhile, for which the deadline is two minutes longer than that of other calls.
    ///
    /// # Errors
    /// [`CallError`]; ALREADY_EXISTS if there is one with another first policy.
    pub async fn create_gallery(&self, request: CreateGalleryRequest) -> Result<Gallery, CallError> {
        let patient = self.with(Settings { deadline: self.settings.deadline + DRAWN_WITHIN, ..self.settings });
        let answer = patient.call_with(DRAWN_WITHIN, request, over!(GalleryServiceClient::create_gallery)).await?;
        answer.gallery.ok_or_else(no_gallery)
    }

    /// Reads a gallery.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND.
    pub async fn gallery(&self, name: impl Into<String>) -> Result<Gallery, CallError> {
        let request = GetGalleryRequest { name: name.into() };
        let answer = self.call(request, over!(GalleryServiceClient::get_gallery)).await?;
        answer.gallery.ok_or_else(no_gallery)
    }

    /// Every gallery, by name.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn galleries(&self) -> Result<Vec<Gallery>, CallError> {
        let answer = self.call(ListGalleriesRequest {}, over!(GalleryServiceClient::list_galleries)).await?;
        Ok(answer.galleries)
    }

    /// Puts a policy in force. An attempt whose outcome is unknown may have done so: an ABORTED after one is checked against the policy in
    /// force, so that whoever's own policy it is learns that it is. With `expected_version` 0 a repetition may put the same policy in
    /// force twice.
    ///
    /// # Errors
    /// [`CallError`]; ABORTED if `expected_version` is not the current one.
    pub async fn update_policy(&self, request: UpdatePolicyRequest) -> Result<Gallery, CallError> {
        let (name, wanted) = (request.name.clone(), request.policy.clone());
        let (answer, course) = self.attempts(Duration::ZERO, request, over!(GalleryServiceClient::update_policy)).await;
        match answer {
            Ok(answer) => answer.gallery.ok_or_else(no_gallery),
            Err(CallError::Refused { code: Code::Aborted, message }) if course.attempts > 1 => {
                let current = self.gallery(name).await?;
                let versioned = |version| wanted.map(|policy| semel_proto::v1::Policy { version, ..policy });
                let version = current.policy.as_ref().map_or(0, |policy| policy.version);
                if current.policy == versioned(version) {
                    return Ok(current);
                }
                Err(CallError::Refused { code: Code::Aborted, message })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a case.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND.
    pub async fn case(&self, request: GetCaseRequest) -> Result<Case, CallError> {
        let answer = self.call(request, over!(CaseServiceClient::get_case)).await?;
        answer.case.ok_or_else(|| garbled(Status::new(Code::DataLoss, "the answer holds no case")))
    }

    /// Lists a page of cases.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn cases(&self, request: ListCasesRequest) -> Result<ListCasesResponse, CallError> {
        self.call(request, over!(CaseServiceClient::list_cases)).await
    }

    /// The status of the cluster, as some coordinator knows it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn status(&self) -> Result<GetClusterStatusResponse, CallError> {
        self.call(GetClusterStatusRequest {}, over!(ClusterServiceClient::get_cluster_status)).await
    }

    /// Makes any idempotent call: `send` is given a connection to a coordinator and the request, with the time left as its deadline,
    /// and is asked again, with the same message, as long as that may help.
    ///
    /// ```no_run
    /// # async fn example(client: semel_client::Client) -> Result<(), semel_client::CallError> {
    /// use semel_proto::v1::ListGalleriesRequest;
    /// use semel_proto::v1::gallery_service_client::GalleryServiceClient;
    ///
    /// let galleries = client
    ///     .call(ListGalleriesRequest {}, |channel, request| async move {
    ///         GalleryServiceClient::new(channel).list_galleries(request).await
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T, R, F>(&self, message: T, send: impl Fn(Channel, Request<T>) -> F) -> Result<R, CallError>
    where
        T: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.call_with(Duration::ZERO, message, send).await
    }

    /// A call whose attempts wait for something for so long.
    async fn call_with<T, R, F>(
        &self,
        wait: Duration,
        message: T,
        send: impl Fn(Channel, Request<T>) -> F,
    ) -> Result<R, CallError>
    where
        T: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.attempts(wait, message, send).await.0
    }

    async fn attempts<T, R, F>(
        &self,
        wait: Duration,
        message: T,
        send: impl Fn(Channel, Request<T>) -> F,
    ) -> (Result<R, CallError>, Course)
    where
        T: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut persistence = Persistence::new(&self.coordinators, self.bounds(wait));
        let send = &send;
        let answer = persistence.answer(|coordinator, within| {
            let message = message.clone();
            async move { once(&coordinator, message, within, send).await }
        });
        let answer = answer.await;
        (answer, persistence.course)
    }

    /// Enrols by whatever an attempt is, until there is a verdict or no time for another attempt.
    pub(crate) async fn enrol_by<F>(
        &self,
        request: &EnrolRequest,
        attempt: impl Fn(Arc<Coordinator>, EnrolRequest, Duration) -> F,
    ) -> (Result<Outcome, CallError>, Course)
    where
        F: Future<Output = Result<Outcome, Failed>>,
    {
        let mut persistence = Persistence::new(&self.coordinators, self.bounds(wait(request.wait_ms)));
        let mut staged = None;
        loop {
            let answer = persistence.answer(|coordinator, within| attempt(coordinator, request.clone(), within)).await;
            match answer {
                Ok(outcome) if outcome.is_final() => return (Ok(outcome), persistence.course),
                Ok(outcome) => {
                    if !persistence.not_yet().await {
                        return (Ok(outcome), persistence.course);
                    }
                    staged = Some(outcome);
                }
                // It is on record, whatever became of the attempts after that.
                Err(error) => match staged {
                    Some(outcome) if error.may_succeed_later() => return (Ok(outcome), persistence.course),
                    Some(_) | None => return (Err(error), persistence.course),
                },
            }
        }
    }

    fn bounds(&self, wait: Duration) -> Bounds {
        Bounds {
            deadline: Instant::now() + self.settings.deadline,
            attempt_within: self.settings.attempt_within + wait,
            unreachable_after: self.settings.unreachable_after,
        }
    }
}

/// One attempt of a call of one message.
async fn once<T, R, F>(
    coordinator: &Coordinator,
    message: T,
    within: Duration,
    send: impl Fn(Channel, Request<T>) -> F,
) -> Result<R, Failed>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let channel = coordinator.channel().await.map_err(Failed::Unreached)?;
    let mut request = Request::new(message);
    request.set_timeout(within);
    (coordinator.annotate)(request.metadata_mut());
    Ok(send(channel, request).await?.into_inner())
}

fn wait(wait_ms: u32) -> Duration {
    if wait_ms == 0 { WAIT } else { Duration::from_millis(wait_ms.into()) }
}

/// An answer that this client cannot read: sending the request again gives the same.
fn garbled(status: Status) -> CallError {
    CallError::refused(&status)
}

fn no_gallery() -> CallError {
    garbled(Status::new(Code::DataLoss, "the answer holds no gallery"))
}
