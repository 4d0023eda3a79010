//! Puts a coordinator together and runs it until it is told to stop.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use semel_index::ShardCount;
use semel_proto::internal::v1::coordinator_service_server::CoordinatorServiceServer;
use semel_proto::internal::v1::membership_service_server::MembershipServiceServer;
use semel_proto::internal::v1::raft_service_server::RaftServiceServer;
use semel_proto::internal::v1::snapshot_service_server::SnapshotServiceServer;
use semel_proto::v1::case_service_server::CaseServiceServer;
use semel_proto::v1::cluster_service_server::ClusterServiceServer;
use semel_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use semel_proto::v1::gallery_service_server::GalleryServiceServer;
use semel_proto::v1::identification_service_server::IdentificationServiceServer;
use semel_raft::StateMachine as _;
use semel_raft_host::{
    ClusterId, Database, EXCHANGE_BYTES_MAX, GrpcTransport, Opener, RaftServer, SNAPSHOT_MESSAGE_BYTES_MAX,
    SnapshotServer, late_routes, metrics, server,
};
use semel_telemetry::Monitor;
use semel_workflow::{Cluster, CoordinatorId, MetadataMachine, MoveState};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tonic::service::Routes as Services;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admission::{self, admit};
use crate::case_service::CaseServer;
use crate::cluster_service::ClusterServer;
use crate::config::{CoordinatorConfig, Voter};
use crate::enrolment_service::EnrolmentServer;
use crate::front::Front;
use crate::gallery_service::GalleryServer;
use crate::identification_service::IdentificationServer;
use crate::introductions::{IntroductionServer, Introductions};
use crate::membership_service::MembershipServer;
use crate::metadata::{self, Metadata};
use crate::nodes::Nodes;
use crate::routes::{Route, Routes, Seat};
use crate::volume::Volume;
use crate::{moves, obligations, replacement, sweep};

/// What clients call; their health is the coordinator's.
const PUBLIC_SERVICES: [&str; 5] = [
    "semel.v1.EnrolmentService",
    "semel.v1.IdentificationService",
    "semel.v1.GalleryService",
    "semel.v1.CaseService",
    "semel.v1.ClusterService",
];
const INTERNAL_SERVICES: [&str; 4] = [
    "semel.internal.v1.MembershipService",
    "semel.internal.v1.RaftService",
    "semel.internal.v1.SnapshotService",
    "semel.internal.v1.CoordinatorService",
];

/// How long the metadata group may be without a leader before the coordinator says that it does not serve.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);
/// The largest report of a node taken, in bytes.
const REPORT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Runs a coordinator on `listener` until `shutdown` resolves.
///
/// Health is served at once, and so is what other coordinators that start ask; the public services are SERVING while the metadata group
/// answers. When told to stop, the coordinator says so by its
/// health, hands the lead of the group over, and answers what it has in work, or says where to ask instead. Metrics, liveness and readiness
/// are served from the start, on `metrics_listener` if there is one.
///
/// # Errors
/// What keeps the coordinator from running: settings, or the volume.
pub async fn serve(
    config: CoordinatorConfig,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    config.validate()?;
    let monitor = Monitor::new("coordinator", env!("CARGO_PKG_VERSION"));
    tokio::select! {
        ended = answer(config, listener, &monitor, shutdown) => ended,
        never = semel_telemetry::serve(metrics_listener, Arc::clone(&monitor)) => match never {},
    }
}

/// Serves calls, at first health and introductions alone, beside what runs.
async fn answer(
    config: CoordinatorConfig,
    listener: TcpListener,
    monitor: &Monitor,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let address = match config.advertise.as_str() {
        "" => listener.local_addr().context("read the listener's address")?.to_string(),
        advertised => advertised.to_owned(),
    };
    let coordinator = CoordinatorId::new(config.id).context("id: must be 1 to 5")?;
    let voters = metadata::voters(&config, &address);
    let introductions = Introductions::new(metadata::group_id(&config), coordinator, &voters);
    let (reporter, health) = tonic_health::server::health_reporter();
    set_health(&reporter, false).await;
    let (opener, routes) = late_routes("the coordinator is starting");
    let routes = routes.add_service(CoordinatorServiceServer::new(IntroductionServer(Arc::clone(&introductions))));
    let (stopping, stops) = watch::channel(None);
    let opened = Arc::new(OnceLock::<Arc<Metadata>>::new());
    let (told, leaving) = (reporter.clone(), Arc::clone(&opened));
    let names = [&PUBLIC_SERVICES[..], &INTERNAL_SERVICES[..]].concat();
    let mut serving = pin!(server::serve(listener, routes, health, &names, async move {
        shutdown.await;
        set_health(&told, false).await;
        if let Some(metadata) = leaving.get() {
            metadata.hand_over().await;
        }
        // Nobody listens where no call is in work.
        let _ = stopping.send(Some(Instant::now()));
    }));
    let (end, ends) = oneshot::channel();
    let starting = Starting { config, coordinator, voters, address, introductions, opener, reporter, opened, stops };
    let mut running = pin!(starting.run(monitor, ends));
    tokio::select! {
        served = &mut serving => {
            // Calls in work have ended: nobody needs the replica any more.
            drop(end);
            running.await?;
            Ok(served?)
        }
        // Ends by itself only with what keeps the coordinator from working.
        ended = &mut running => ended,
    }
}

/// A coordinator that listens and has not opened its volume yet.
struct Starting {
    config: CoordinatorConfig,
    coordinator: CoordinatorId,
    voters: Vec<Voter>,
    address: String,
    introductions: Arc<Introductions>,
    opener: Opener,
    reporter: HealthReporter,
    /// Filled with the metadata once there is some.
    opened: Arc<OnceLock<Arc<Metadata>>>,
    stops: watch::Receiver<Option<Instant>>,
}

impl Starting {
    /// Opens the volume, takes part in the metadata group and serves clients and nodes until `ends` resolves.
    async fn run(self, monitor: &Monitor, mut ends: oneshot::Receiver<()>) -> anyhow::Result<()> {
        let transport = GrpcTransport::new(tokio::runtime::Handle::current());
        let front = Arc::new(OnceLock::<Arc<Front>>::new());
        monitor.ready_when({
            let (front, opener) = (Arc::clone(&front), self.opener.clone());
            move || front.get().map_or_else(|| Err(opener.reason()), |front| front.ready())
        });
        let (host, metadata, asks) = {
            let data = self.config.data.clone();
            let database =
                tokio::task::spawn_blocking(move || Database::open(&data, MetadataMachine::TABLES)).await??;
            let volume = Volume::open(database, self.coordinator, &self.voters)?;
            if volume.replica.is_none() {
                self.introductions.is_empty();
            }
            let group = metadata::group_id(&self.config);
            let admitted = tokio::select! {
                admitted = admit(&volume, &self.voters, group, &self.opener) => admitted?,
                // A sender that has gone means the same: stop.
                _ = &mut ends => return Ok(()),
            };
            self.opener.tell("the coordinator is starting");
            let asks = admission::request(&volume, group, Some(admitted.replica));
            let (host, metadata) = Metadata::open(&self.config, &volume, &self.voters, admitted, &transport).await?;
            (host, metadata, asks)
        };
        metrics::show(monitor, host.handle(), transport);
        self.introductions.opened(Arc::clone(&metadata));
        assert!(self.opened.set(Arc::clone(&metadata)).is_ok(), "metadata are opened once");
        let raft = RaftServiceServer::new(RaftServer::new(host.handle())).max_decoding_message_size(EXCHANGE_BYTES_MAX);
        let snapshots = SnapshotServiceServer::new(SnapshotServer::new(host.handle()))
            .max_decoding_message_size(SNAPSHOT_MESSAGE_BYTES_MAX);
        let group = Services::new(raft).add_service(snapshots);
        let ended = tokio::select! {
            ended = self.work(group, Arc::clone(&metadata), monitor, &front) => ended,
            ended = admission::until_retired(&metadata, asks, &self.voters) => ended,
            _ = &mut ends => Ok(()),
        };
        host.shutdown().await;
        ended
    }

    /// Opens every service and works in the background. The metadata group needs its own services to come to life, so the others answer
    /// UNAVAILABLE until the cluster is founded.
    async fn work(
        &self,
        group: Services,
        metadata: Arc<Metadata>,
        monitor: &Monitor,
        opened: &OnceLock<Arc<Front>>,
    ) -> anyhow::Result<()> {
        let config = &self.config;
        let nodes = Nodes::new(Arc::new(Routes::default()), Duration::from_millis(config.search_attempt_ms));
        let (inbox, outbox) = obligations::queue();
        let introductions = Arc::clone(&self.introductions);
        let stops = self.stops.clone();
        let front = Front::new(Arc::clone(&metadata), introductions, nodes, inbox, config.enrolments_max, stops);
        front.metrics.show(monitor, &front);
        assert!(opened.set(Arc::clone(&front)).is_ok(), "a front is opened once");
        self.opener.open(services(group, &front, config));
        let wanted = Cluster {
            cluster_id: semel_workflow::ClusterId(rand::random()),
            shards: ShardCount::new(config.shards).context("shards: must be at least 1")?,
            replicas_per_shard: config.replicas,
        };
        let cluster = metadata.initialise(wanted, &self.address).await?;
        tracing::info!(cluster = %cluster.cluster_id, address = self.address, "coordinator ready");
        front.nodes.set_cluster(ClusterId(cluster.cluster_id.0));
        set_health(&self.reporter, true).await;
        let sweep_every = Duration::from_millis(config.sweep_ms);
        tokio::join!(
            metadata.place_when_ready(&front.nodes.routes),
            follow_map(&front),
            obligations::run(&front, outbox),
            sweep::run(&front, sweep_every),
            follow_leader(&metadata, &self.reporter),
            moves::run(&front),
            replacement::run(&metadata),
        );
        Ok(())
    }
}

/// Everything that clients, nodes and other coordinators call once the replica is open.
fn services(group: Services, front: &Arc<Front>, config: &CoordinatorConfig) -> Services {
    let enrolments = EnrolmentServiceServer::new(EnrolmentServer::new(Arc::clone(front), config.stream_items_max))
        .max_decoding_message_size(config.request_bytes_max);
    let identifications = IdentificationServiceServer::new(IdentificationServer::new(Arc::clone(front)))
        .max_decoding_message_size(config.request_bytes_max);
    // A report names every gallery of every replica.
    let memberships = MembershipServiceServer::new(MembershipServer::new(Arc::clone(front)))
        .max_decoding_message_size(REPORT_BYTES_MAX);
    group
        .add_service(enrolments)
        .add_service(identifications)
        .add_service(GalleryServiceServer::new(GalleryServer::new(Arc::clone(front))))
        .add_service(CaseServiceServer::new(CaseServer::new(Arc::clone(front))))
        .add_service(ClusterServiceServer::new(ClusterServer::new(Arc::clone(front))))
        .add_service(memberships)
}

/// Says of every public service, and of the server as a whole, whether it serves.
async fn set_health(reporter: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in PUBLIC_SERVICES.into_iter().chain([""]) {
        reporter.set_service_status(name, status).await;
    }
}

/// Says that the coordinator does not serve for as long as the metadata group has no leader: clients ask another then.
async fn follow_leader(metadata: &Metadata, reporter: &HealthReporter) {
    while metadata.wait_led(false).await {
        if tokio::time::timeout(LEADERLESS_MAX, metadata.wait_led(true)).await.is_ok() {
            continue;
        }
        tracing::warn!("the coordinators' group has no leader: clients are sent to other coordinators");
        set_health(reporter, false).await;
        if !metadata.wait_led(true).await {
            break;
        }
        set_health(reporter, true).await;
    }
    // The host has ended, and the coordinator is about to.
    std::future::pending().await
}

/// Keeps the routes at the shard map and the addresses that the metadata has.
async fn follow_map(front: &Front) {
    let mut views = front.metadata.views();
    loop {
        let view = Arc::clone(&views.borrow_and_update().view);
        let seat = |voter: &semel_workflow::Voter| {
            let address = view.node(voter.node)?.address.clone();
            // Empty where another node listens by now.
            (!address.is_empty()).then(|| Seat { replica: voter.replica.get(), node_id: voter.node.0, address })
        };
        let map = view.shard_map().values().map(|placement| {
            // From the moment that it may be the one that leads.
            let joining = view.move_of(placement.shard).filter(|moving| moving.state == MoveState::Replacing);
            let voters = placement.voters.iter().chain(joining.map(|moving| &moving.to));
            Route { epoch: placement.epoch, seats: voters.filter_map(seat).collect() }
        });
        front.nodes.routes.set_map(map.collect());
        if views.changed().await.is_err() {
            // The host has ended, and the coordinator is about to.
            std::future::pending::<()>().await;
        }
    }
}
