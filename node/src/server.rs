//! Puts a node together and runs it until it is told to stop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use semel_index::CatalogueConfig;
use semel_proto::internal::v1::raft_service_server::RaftServiceServer;
use semel_proto::internal::v1::shard_service_server::ShardServiceServer;
use semel_proto::internal::v1::snapshot_service_server::SnapshotServiceServer;
use semel_raft::StateMachine as _;
use semel_raft_host::{
    Database, EXCHANGE_BYTES_MAX, GrpcTransport, Host, HostConfig, Opener, RaftServer, SNAPSHOT_MESSAGE_BYTES_MAX,
    SnapshotServer, late_routes, metrics, server,
};
use semel_shard::ShardMachine;
use semel_telemetry::Monitor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::NodeConfig;
use crate::engine::PolicyEngines;
use crate::identity::Identity;
use crate::membership;
use crate::metrics::NodeMetrics;
use crate::recall_audit::RecallAudit;
use crate::replicas::Replicas;
use crate::search::SearchPool;
use crate::segment_cache::SegmentCache;
use crate::service::ShardServer;

/// How often health is brought up to date.
const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// How long a member waits for a coordinator before it serves without; longer than a copy of a running node takes to be found out.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

const SERVICES: [&str; 3] =
    ["semel.internal.v1.ShardService", "semel.internal.v1.RaftService", "semel.internal.v1.SnapshotService"];

/// Runs a node on `listener` until `shutdown` resolves: joins the cluster, hosts what the coordinators assign, serves.
///
/// Health is served from the first moment on, NOT_SERVING for what is not ready: what replicas say to each other until the node is a
/// member (one that starts again goes on after ten seconds even if no coordinator answers), the shard service and the node as a
/// whole until every replica runs and has loaded its catalogue. Until the node is a member all other calls are answered UNAVAILABLE.
/// Metrics, liveness and readiness are served from the start too, on `metrics_listener` if there is one.
///
/// # Errors
/// What keeps the node from running: settings, the volume, or a cluster that refuses it.
pub async fn serve(
    config: NodeConfig,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    config.validate()?;
    let monitor = Monitor::new("node", env!("CARGO_PKG_VERSION"));
    tokio::select! {
        ended = answer(config, listener, &monitor, shutdown) => ended,
        never = semel_telemetry::serve(metrics_listener, Arc::clone(&monitor)) => match never {},
    }
}

/// Serves calls, at first health alone, beside what runs.
async fn answer(
    config: NodeConfig,
    listener: TcpListener,
    monitor: &Monitor,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let address = match config.advertise.as_str() {
        "" => listener.local_addr().context("read the listener's address")?.to_string(),
        advertised => advertised.to_owned(),
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES.into_iter().chain([""]) {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
    let (opener, routes) = late_routes("the node is starting");
    let mut serving = pin!(server::serve(listener, routes, health, &SERVICES, shutdown));
    let (stop, stopped) = oneshot::channel();
    let mut running = pin!(run(config, address, monitor, reporter, opener, stopped));
    tokio::select! {
        served = &mut serving => {
            // Requests in work have ended: nobody needs the replicas any more.
            drop(stop);
            running.await?;
            Ok(served?)
        }
        ended = &mut running => ended,
    }
}

/// Opens the volume, joins and hosts replicas until `stopped` fails.
async fn run(
    config: NodeConfig,
    address: String,
    monitor: &Monitor,
    reporter: HealthReporter,
    opener: Opener,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let data = config.data.clone();
    let database = tokio::task::spawn_blocking(move || Database::open(&data, ShardMachine::TABLES)).await??;
    if config.debug_sync_delay_ms > 0 {
        tracing::warn!(debug_sync_delay_ms = config.debug_sync_delay_ms, "syncs are slowed down on purpose");
        database.slow_syncs(Duration::from_millis(config.debug_sync_delay_ms.into()));
    }
    let known = Identity::of(&database).cluster()?;
    let cluster = tokio::select! {
        joined = membership::join(&database, &config.coordinators, &address) => joined?,
        // A member does not need a coordinator to serve what it was last assigned. If one answers, it must let the node in first: the
        // volume may be a copy.
        () = tokio::time::sleep(JOIN_WITHIN), if known.is_some() => known.context("checked")?,
        _ = &mut stopped => return Ok(()),
    };
    tracing::info!(cluster = ?cluster, address, "member of the cluster");

    let transport = GrpcTransport::new(tokio::runtime::Handle::current());
    let host_config = HostConfig {
        tick: Duration::from_millis(config.tick_ms),
        seed: rand::random(),
        log_entries_max: config.log_entries_max,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        disk_reserve_bytes: config.disk_reserve_bytes,
        ..HostConfig::new(cluster)
    };
    let host = Host::start(host_config, Arc::clone(&database), Arc::new(transport.clone()))?;
    let engine = crate::engine::engine(&config.engine)?;
    let catalogue = CatalogueConfig {
        seal_at_references: config.seal_at_references,
        engine,
        engines: Arc::new(PolicyEngines::default()),
        ..CatalogueConfig::default()
    };
    metrics::show(monitor, host.handle(), transport.clone());
    let threads = match config.search_threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let cache = SegmentCache::open(&database, config.templates)?;
    let replicas = Replicas::new(Arc::clone(&database), host.handle(), transport, catalogue, cache, threads);
    if let Some(remembered) = Identity::of(&database).assignments()? {
        replicas.expect(remembered.assignments.len());
    }
    let metrics = Arc::new(NodeMetrics::default());
    let audit = Arc::new(RecallAudit::start(config.recall_audit_permille).context("start the recall audit")?);
    let pool = SearchPool::new(threads, config.searches_max, Arc::clone(&metrics), Arc::clone(&audit))
        .context("start the search pool")?;
    let pool = Arc::new(pool);
    metrics.show(monitor, Arc::clone(&replicas), Arc::clone(&pool), audit);
    monitor.ready_when({
        let replicas = Arc::clone(&replicas);
        move || replicas.ready()
    });
    let follow = membership::follow(
        Arc::clone(&database),
        Arc::clone(&replicas),
        Arc::clone(&metrics),
        cluster,
        config.coordinators.clone(),
        address,
    );

    let tell_health = tell_health(&reporter, Arc::clone(&replicas));
    let shard_service = ShardServiceServer::new(ShardServer::new(cluster, Arc::clone(&replicas), pool, metrics))
        .max_decoding_message_size(config.request_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let raft_service =
        RaftServiceServer::new(RaftServer::new(host.handle())).max_decoding_message_size(EXCHANGE_BYTES_MAX);
    let snapshot_service = SnapshotServiceServer::new(SnapshotServer::new(host.handle()))
        .max_decoding_message_size(SNAPSHOT_MESSAGE_BYTES_MAX);
    let routes = tonic::service::Routes::new(shard_service).add_service(raft_service).add_service(snapshot_service);
    opener.open(routes);
    let ended = tokio::select! {
        followed = follow => followed,
        () = tell_health => Ok(()),
        // A sender that has gone means the same: stop.
        _ = &mut stopped => Ok(()),
    };
    host.shutdown().await;
    ended
}

/// Keeps health at what the replicas are: a node with a stopped replica needs a person, and a restart once its cause is gone.
async fn tell_health(reporter: &HealthReporter, replicas: Arc<Replicas>) {
    let [shard_service, between_replicas @ ..] = SERVICES;
    for service in between_replicas {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    let mut was_ready = false;
    loop {
        let ready = replicas.are_ready();
        if ready && !was_ready {
            let (replicas, kept) = (replicas.all().len(), replicas.cache_metrics());
            let from_files = kept.segments_loaded.load(Ordering::Relaxed);
            let files_refused = kept.files_refused.load(Ordering::Relaxed);
            tracing::info!(replicas, from_files, files_refused, "every replica of this node can be searched");
        }
        was_ready = ready;
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("", status).await;
        reporter.set_service_status(shard_service, status).await;
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}
