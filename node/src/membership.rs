//! How the node joins its cluster and learns, for as long as it runs, what it should host.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use semel_node_wire as convert;
use semel_proto::internal::v1::membership_service_client::MembershipServiceClient;
use semel_proto::internal::v1::{
    GalleryEngine, GalleryReport, JoinRequest, ReplicaReport, ReportRequest, ReportResponse,
};
use semel_proto::v1 as public;
use semel_raft::{ReplicaId, ReplicaStatus, Role, StoreError};
use semel_raft_host::{ClusterId, Database, GroupStatus};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::engine_report;
use crate::identity::Identity;
use crate::metrics::NodeMetrics;
use crate::replicas::{self, HostedShard, Replicas};

/// The pause between two reports to one coordinator.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// The pause between two rounds of attempts to join.
const JOIN_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// How long a coordinator takes a process for running after its last report, and some time more.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(8);
/// How long a coordinator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks one coordinator after another until one has let the node in, or back in. Fails only where trying again cannot help.
pub(crate) async fn join(database: &Database, coordinators: &[String], address: &str) -> anyhow::Result<ClusterId> {
    let identity = Identity::of(database);
    let request = JoinRequest {
        node_id: Bytes::copy_from_slice(&identity.node_id()?),
        cluster_id: identity.cluster()?.map(|cluster| Bytes::copy_from_slice(&cluster.0)).unwrap_or_default(),
        address: address.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replicas_held: u32::try_from(database.groups()?.len()).unwrap_or(u32::MAX),
    };
    let mut told = false;
    let begun = Instant::now();
    loop {
        for coordinator in coordinators {
            match ask_to_join(coordinator, &request).await {
                Ok(cluster) => {
                    identity.set_cluster(cluster)?;
                    return Ok(cluster);
                }
                // Reports of the process that this one follows may still be fresh.
                Err(status) if status.code() == Code::AlreadyExists && begun.elapsed() < FORGOTTEN_WITHIN => {}
                Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::AlreadyExists) => {
                    bail!("coordinator {coordinator} refuses this node: {}", status.message());
                }
                Err(status) => {
                    if !told {
                        let reason = status.message();
                        tracing::warn!(coordinator, reason, "no coordinator answers yet; trying until one does");
                        told = true;
                    }
                }
            }
        }
        tokio::time::sleep(JOIN_AGAIN_AFTER).await;
    }
}

async fn ask_to_join(coordinator: &str, request: &JoinRequest) -> Result<ClusterId, Status> {
    let mut client = client(coordinator)?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.join(Request::new(request.clone())))
        .await
        .map_err(|_| Status::deadline_exceeded("no answer in time"))??;
    let id = answer.into_inner().cluster_id;
    let id = id.as_ref().try_into().map_err(|_| Status::internal("the cluster id is not 16 bytes"))?;
    Ok(ClusterId(id))
}

fn client(coordinator: &str) -> Result<MembershipServiceClient<Channel>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{coordinator}"))
        .map_err(|error| Status::invalid_argument(format!("coordinators: `{coordinator}`: {error}")))?;
    let endpoint = endpoint
        .connect_timeout(ANSWER_WITHIN)
        .http2_keep_alive_interval(ANSWER_WITHIN)
        .keep_alive_timeout(ANSWER_WITHIN)
        .keep_alive_while_idle(true);
    Ok(MembershipServiceClient::new(endpoint.connect_lazy()))
}

/// Opens what the volume remembers, joins again, reports to every coordinator and opens what they assign. Runs until dropped; ends only
/// with what keeps the node out of its cluster.
pub(crate) async fn follow(
    database: Arc<Database>,
    replicas: Arc<Replicas>,
    metrics: Arc<NodeMetrics>,
    cluster: ClusterId,
    coordinators: Vec<String>,
    address: String,
) -> anyhow::Result<()> {
    if let Err(error) = reopen(&database, &replicas).await {
        tracing::error!(error = format!("{error:#}"), "what the volume remembers could not all be opened");
    }
    // A member serves what it was last assigned before any coordinator answers. It joins again all the same: its address may be another.
    let joining = async { join(&database, &coordinators, &address).await.map(|_| ()) };
    let reporting = async {
        let report = |coordinator| report_to(coordinator, &database, &replicas, &metrics, cluster);
        let reports = coordinators.iter().map(|coordinator| report(coordinator));
        futures::future::join_all(reports).await;
        Ok(())
    };
    tokio::try_join!(joining, reporting).map(|_| ())
}

async fn reopen(database: &Database, replicas: &Replicas) -> anyhow::Result<()> {
    let Some(assigned) = Identity::of(database).assignments()? else { return Ok(()) };
    replicas.assign(&assigned, &held(Some(&assigned))).await
}

/// The replicas that were open on this volume before.
fn held(remembered: Option<&ReportResponse>) -> BTreeSet<u64> {
    remembered.iter().flat_map(|assigned| &assigned.assignments).map(|assignment| assignment.replica).collect()
}

async fn report_to(
    coordinator: &str,
    database: &Database,
    replicas: &Replicas,
    metrics: &NodeMetrics,
    cluster: ClusterId,
) {
    let mut client = match client(coordinator) {
        Ok(client) => client,
        Err(status) => {
            tracing::error!(reason = status.message(), "a coordinator has an address that cannot be dialled");
            return;
        }
    };
    let mut reached = true;
    loop {
        let outcome = report_once(&mut client, database, replicas, metrics, cluster).await;
        match outcome {
            Ok(()) if !reached => {
                tracing::info!(coordinator, "coordinator reached again");
                reached = true;
            }
            Err(error) if reached => {
                tracing::warn!(coordinator, error = format!("{error:#}"), "report failed; trying again");
                reached = false;
            }
            Ok(()) | Err(_) => {}
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

async fn report_once(
    client: &mut MembershipServiceClient<Channel>,
    database: &Database,
    replicas: &Replicas,
    metrics: &NodeMetrics,
    cluster: ClusterId,
) -> anyhow::Result<()> {
    let identity = Identity::of(database);
    let open = replicas.all();
    let mut reports = open.iter().map(|shard| report(replicas, shard)).collect::<Result<Vec<_>, _>>()?;
    reports.extend(replicas.closed()?.into_iter().map(|(shard, replica)| ReplicaReport {
        shard,
        status: Some(public::ReplicaStatus { replica: replica.get(), ..Default::default() }),
        ..Default::default()
    }));
    let request = ReportRequest {
        cluster_id: Bytes::copy_from_slice(&cluster.0),
        node_id: Bytes::copy_from_slice(&identity.node_id()?),
        replicas: reports,
        shard_searches: metrics.shard_searches(),
        resident_bytes: semel_telemetry::resident_bytes().unwrap_or(0),
    };
    let mut answer = tokio::time::timeout(ANSWER_WITHIN, client.report(request)).await??.into_inner();
    // Not part of what is assigned, like the index below. Policies have versions of their own.
    govern(&open, &std::mem::take(&mut answer.engines));
    // It grows with every change of the metadata.
    if !replicas.is_news(std::mem::take(&mut answer.metadata_index)) {
        return Ok(());
    }
    let remembered = identity.assignments()?;
    replicas.assign(&answer, &held(remembered.as_ref())).await?;
    // Said once; their tombstones remain.
    answer.retired.clear();
    let nothing_yet = remembered.is_none() && answer.assignments.is_empty();
    if nothing_yet || remembered.as_ref() == Some(&answer) {
        return Ok(());
    }
    // Remembered only once every replica has its first rows, so that "remembered, yet no rows" always means a loss.
    identity.set_assignments(&answer)
}

/// Has segments built with the engines that policies name, also where nobody searches.
fn govern(open: &[Arc<HostedShard>], engines: &[GalleryEngine]) {
    for told in engines {
        match convert::gallery_engine(told) {
            Ok((gallery, engine)) => replicas::govern(open, &gallery, &engine),
            // Of a later version; searches that name it will say so to whoever asked for them.
            Err(error) => tracing::debug!(%error, "the engine of a gallery is not taken from an answer"),
        }
    }
}

fn report(replicas: &Replicas, shard: &HostedShard) -> Result<ReplicaReport, StoreError> {
    let status = replicas.host().status(shard.group()).map(|status| status.borrow().clone());
    let moment = shard.view.moment();
    let collections = moment.catalogue().collections();
    let sealed: usize = collections.iter().map(|collection| collection.sealed_references).sum();
    let growing: usize = collections.iter().map(|collection| collection.growing_references).sum();
    let memory_bytes: usize = collections.iter().map(|collection| collection.memory_bytes).sum();
    let memory_bytes = memory_bytes + moment.catalogue().rolls_bytes();
    // Everything about the rows comes from one snapshot: a digest is the digest at the index beside it.
    let snapshot = shard.store.snapshot();
    let applied = semel_raft::rows::applied(&snapshot)?.0;
    let counts = semel_shard::counts(&snapshot)?;
    // Before what segments wait for, so that this is never of an older policy than is said here.
    let galleries = counts.into_iter().map(|(gallery, counts)| GalleryReport {
        policy_version: shard.view.engine_version(&gallery).0,
        gallery: gallery.to_string(),
        live: counts.live(),
        withdrawn: counts.withdrawn_total,
        pending: counts.pending,
        cases: counts.cases,
    });
    let galleries: Vec<GalleryReport> = galleries.collect();
    let mut public = public::ReplicaStatus {
        replica: shard.replica.get(),
        searchable_index: moment.searchable_index().0,
        applied_index: applied,
        digest: semel_shard::digest(&snapshot)?.to_string(),
        references: (sealed + growing) as u64,
        references_sealed: sealed as u64,
        catalogue_bytes: memory_bytes as u64,
        engines: engine_report::engines(&shard.view, &collections),
        unsealed: engine_report::unsealed(&shard.view, &collections),
        ..Default::default()
    };
    let mut group = ReplicaReport::default();
    match status {
        Some(GroupStatus::Running(status)) => {
            public.lag = status.commit.0.saturating_sub(applied);
            public.log_starts_after = status.truncated.0;
            public.set_role(role(&status));
            group.leader_replica = status.leader.map_or(0, ReplicaId::get);
            group.commit_index = status.commit.0;
            group.epoch = status.epoch;
            group.voters = numbers(&status.voters);
            group.voters_outgoing = numbers(&status.voters_outgoing);
            group.learners = numbers(&status.learners);
            if let Some(reason) = shard.view.load_failure() {
                public.stopped_reason = format!("its catalogue cannot be loaded: {reason}");
            }
        }
        Some(GroupStatus::Installing) => public.set_role(public::ReplicaRole::Installing),
        Some(GroupStatus::Stopped { reason }) => {
            public.set_role(public::ReplicaRole::Stopped);
            public.stopped_reason = reason;
        }
        None => {}
    }
    Ok(ReplicaReport {
        shard: shard.shard.0,
        status: Some(public),
        obligations: semel_shard::obligations_count(&snapshot)?,
        galleries,
        ..group
    })
}

fn role(status: &ReplicaStatus) -> public::ReplicaRole {
    match status.role {
        Role::Leader => public::ReplicaRole::Leader,
        _ if !status.is_member => public::ReplicaRole::Outside,
        _ if status.learners.contains(&status.replica) => public::ReplicaRole::Learner,
        Role::Follower => public::ReplicaRole::Follower,
        Role::Candidate | Role::PreCandidate => public::ReplicaRole::Candidate,
    }
}

fn numbers(replicas: &[ReplicaId]) -> Vec<u64> {
    replicas.iter().map(|replica| replica.get()).collect()
}
