//! Puts a coordinator together and runs it until it is told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use semel_index::ShardCount;
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
    ClusterId, Database, EXCHANGE_BYTES_MAX, GrpcTransport, RaftServer, SNAPSHOT_MESSAGE_BYTES_MAX, SnapshotServer,
    metrics, server,
};
use semel_telemetry::Monitor;
use semel_workflow::{Cluster, MetadataMachine, MoveState};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::service::Routes as Services;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::case_service::CaseServer;
use crate::cluster_service::ClusterServer;
use crate::config::CoordinatorConfig;
use crate::enrolment_service::EnrolmentServer;
use crate::front::Front;
use crate::gallery_service::GalleryServer;
use crate::identification_service::IdentificationServer;
use crate::membership_service::MembershipServer;
use crate::metadata::Metadata;
use crate::nodes::Nodes;
use crate::routes::{Route, Routes, Seat};
use crate::{moves, obligations, sweep};

/// What clients call; their health is the coordinator's.
const PUBLIC_SERVICES: [&str; 5] = [
    "semel.v1.EnrolmentService",
    "semel.v1.IdentificationService",
    "semel.v1.GalleryService",
    "semel.v1.CaseService",
    "semel.v1.ClusterService",
];
const INTERNAL_SERVICES: [&str; 3] =
    ["semel.internal.v1.MembershipService", "semel.internal.v1.RaftService", "semel.internal.v1.SnapshotService"];

/// How long the metadata group may be without a leader before the coordinator says that it does not serve.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);
/// The largest report of a node taken, in bytes.
const REPORT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Runs a coordinator on `listener` until `shutdown` resolves.
///
/// Health is served at once; the public services are SERVING while the metadata group answers. When told to stop, the coordinator says so by its
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
        ended = open(config, listener, &monitor, shutdown) => ended,
        never = semel_telemetry::serve(metrics_listener, Arc::clone(&monitor)) => match never {},
    }
}

/// Opens the volume and runs on it.
async fn open(
    config: CoordinatorConfig,
    listener: TcpListener,
    monitor: &Monitor,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let address = match config.advertise.as_str() {
        "" => listener.local_addr().context("read the listener's address")?.to_string(),
        advertised => advertised.to_owned(),
    };
    let data = config.data.clone();
    let database = tokio::task::spawn_blocking(move || Database::open(&data, MetadataMachine::TABLES)).await??;
    let transport = GrpcTransport::new(tokio::runtime::Handle::current());
    let (host, metadata) = Metadata::open(&config, &address, database, &transport).await?;
    metrics::show(monitor, host.handle(), transport);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        shutdown.await;
        // The coordinator may have ended by itself.
        let _ = stop.send(true);
    });
    let raft = RaftServiceServer::new(RaftServer::new(host.handle())).max_decoding_message_size(EXCHANGE_BYTES_MAX);
    let snapshots = SnapshotServiceServer::new(SnapshotServer::new(host.handle()))
        .max_decoding_message_size(SNAPSHOT_MESSAGE_BYTES_MAX);
    let group = Services::new(raft).add_service(snapshots);
    let served = run(&config, address, listener, group, metadata, monitor, stopped).await;
    host.shutdown().await;
    served
}

/// Serves everything on one listener. The metadata group needs its own services to come to life, so that is served from the start, and
/// the others answer UNAVAILABLE until the cluster is founded.
async fn run(
    config: &CoordinatorConfig,
    address: String,
    listener: TcpListener,
    group: Services,
    metadata: Arc<Metadata>,
    monitor: &Monitor,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let nodes = Nodes::new(Arc::new(Routes::default()), Duration::from_millis(config.search_attempt_ms));
    let (inbox, outbox) = obligations::queue();
    let (stopping, stops) = watch::channel(None);
    let front = Front::new(Arc::clone(&metadata), nodes, inbox, config.enrolments_max, stops);
    front.metrics.show(monitor, &front);
    monitor.ready_when({
        let front = Arc::clone(&front);
        move || front.ready()
    });
    let (reporter, health) = tonic_health::server::health_reporter();

    let enrolments = EnrolmentServiceServer::new(EnrolmentServer::new(Arc::clone(&front), config.stream_items_max))
        .max_decoding_message_size(config.request_bytes_max);
    let identifications = IdentificationServiceServer::new(IdentificationServer::new(Arc::clone(&front)))
        .max_decoding_message_size(config.request_bytes_max);
    // A report names every gallery of every replica.
    let memberships = MembershipServiceServer::new(MembershipServer::new(Arc::clone(&front)))
        .max_decoding_message_size(REPORT_BYTES_MAX);
    let services = group
        .add_service(enrolments)
        .add_service(identifications)
        .add_service(GalleryServiceServer::new(GalleryServer::new(Arc::clone(&front))))
        .add_service(CaseServiceServer::new(CaseServer::new(Arc::clone(&front))))
        .add_service(ClusterServiceServer::new(ClusterServer::new(Arc::clone(&front))))
        .add_service(memberships);
    let wanted = Cluster {
        cluster_id: semel_workflow::ClusterId(rand::random()),
        shards: ShardCount::new(config.shards).context("shards: must be at least 1")?,
        replicas_per_shard: config.replicas,
    };
    let sweep_every = Duration::from_millis(config.sweep_ms);
    let background = async {
        let cluster = metadata.initialise(wanted, &address).await?;
        tracing::info!(cluster = %cluster.cluster_id, address, "coordinator ready");
        front.nodes.set_cluster(ClusterId(cluster.cluster_id.0));
        set_health(&reporter, true).await;
        tokio::join!(
            metadata.place_when_ready(&front.nodes.routes),
            follow_map(&front),
            obligations::run(&front, outbox),
            sweep::run(&front, sweep_every),
            follow_leader(&metadata, &reporter),
            moves::run(&front),
        );
        Ok(())
    };
    set_health(&reporter, false).await;
    let (told, leaving) = (reporter.clone(), Arc::clone(&metadata));
    let names = [&PUBLIC_SERVICES[..], &INTERNAL_SERVICES[..]].concat();
    let serving = server::serve(listener, services, health, &names, async move {
        // A sender that has gone means the same: stop.
        let _ = stopped.wait_for(|stop| *stop).await;
        set_health(&told, false).await;
        leaving.hand_over().await;
        // Nobody listens where no call is in work.
        let _ = stopping.send(Some(Instant::now()));
    });
    tokio::select! {
        served = serving => Ok(served?),
        // Ends only with what keeps the coordinator from working.
        ended = background => ended,
    }
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
