//! One coordinator as this client sees it: its connection, the calls it has in work, and whether it is healthy.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::error::InvalidAddress;
use crate::settings::Settings;

/// The service whose health tells whether a coordinator answers.
const SERVICE: &str = "semel.v1.EnrolmentService";
/// How long a health check may take.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
/// The pause between the first two health checks of a coordinator that is left aside; doubled for each further one.
const HEALTH_PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two.
const HEALTH_PAUSE_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Coordinator {
    pub(crate) address: String,
    /// See [`Settings::annotate`].
    pub(crate) annotate: fn(&mut MetadataMap),
    endpoint: Endpoint,
    /// Held while a connection is made, so that calls that begin together make one.
    channel: Mutex<Option<Channel>>,
    healthy: AtomicBool,
    in_work: AtomicUsize,
}

impl Coordinator {
    /// A coordinator that counts as healthy until it is found otherwise. Nothing is dialled yet.
    pub(crate) fn new(address: &str, settings: &Settings) -> Result<Self, InvalidAddress> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let not_an_address = || InvalidAddress::NotAnAddress { address: address.to_owned() };
        let endpoint = Endpoint::from_shared(url).map_err(|_| not_an_address())?;
        if endpoint.uri().port().is_none() {
            return Err(not_an_address());
        }
        let endpoint = endpoint
            .connect_timeout(settings.connect_within)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(settings.keep_alive_after)
            .keep_alive_timeout(settings.keep_alive_within);
        Ok(Self {
            address: address.to_owned(),
            annotate: settings.annotate,
            endpoint,
            channel: Mutex::default(),
            healthy: AtomicBool::new(true),
            in_work: AtomicUsize::new(0),
        })
    }

    /// The connection, made if there is none.
    ///
    /// # Errors
    /// What the operating system said.
    pub(crate) async fn channel(&self) -> Result<Channel, String> {
        let mut channel = self.channel.lock().await;
        if let Some(channel) = channel.as_ref() {
            return Ok(channel.clone());
        }
        let made = self.endpoint.connect().await.map_err(|error| innermost(&error))?;
        Ok(channel.insert(made).clone())
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(crate) fn in_work(&self) -> usize {
        self.in_work.load(Ordering::Relaxed)
    }

    /// Counts a call in work until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InWork {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        InWork(Arc::clone(self))
    }

    /// Leaves it aside until its health service says that it serves. The first to find out has its health checked.
    pub(crate) fn suspect(self: &Arc<Self>) {
        if self.healthy.swap(false, Ordering::Relaxed) {
            tokio::spawn(recover(Arc::downgrade(self)));
        }
    }

    /// Whether it says, over a connection made for the question, that it serves.
    async fn serves(&self) -> bool {
        let Ok(channel) = self.endpoint.connect().await else { return false };
        let request = HealthCheckRequest { service: SERVICE.to_owned() };
        let serves = HealthClient::new(channel.clone()).check(request).await;
        let serves = serves.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving);
        if serves {
            // What is in work on the connection before goes on there; it may hang for as long as it likes.
            *self.channel.lock().await = Some(channel);
        }
        serves
    }
}

/// One call in work.
pub(crate) struct InWork(Arc<Coordinator>);

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks the health of a coordinator until it serves, or nobody has a use for it any more.
async fn recover(coordinator: Weak<Coordinator>) {
    let mut pause = HEALTH_PAUSE_FIRST;
    loop {
        let Some(coordinator) = coordinator.upgrade() else { return };
        if tokio::time::timeout(HEALTH_WITHIN, coordinator.serves()).await.unwrap_or(false) {
            coordinator.healthy.store(true, Ordering::Relaxed);
            return;
        }
        drop(coordinator);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(HEALTH_PAUSE_MAX);
    }
}

/// What the operating system said; the layers above add nothing that helps.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
