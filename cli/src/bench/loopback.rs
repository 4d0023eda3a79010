//! A cluster of processes on this machine, and callers that keep it busy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use semel_index::ComparisonScore;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::identification_service_client::IdentificationServiceClient;
use semel_proto::v1::{EnrolRequest, EnrolResponse, IdentifyRequest, IdentifyResponse, Modality, Policy, Priority};
use semel_sandbox::{Builder, Mode, Sandbox, requests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::output::Progress;

/// The gallery of every benchmark.
pub(super) const GALLERY: &str = "bench";
/// Nodes of the cluster, and replicas of each shard.
const NODES: usize = 3;
/// Connections that callers share.
const CONNECTIONS: usize = 4;
/// Times that a call is made again while the cluster has too much to do.
const ATTEMPTS_MAX: usize = 200;
const RETRY_AFTER: Duration = Duration::from_millis(50);
const WAIT_MS: u32 = 30_000;
/// The longest page of metrics that is read.
const METRICS_BYTES_MAX: u64 = 4 << 20;

/// Three nodes and a coordinator, each a process of its own.
pub(super) struct Loopback {
    pub(super) sandbox: Sandbox,
    channels: Vec<Channel>,
    /// Those of callers at a desk, which share no connection with a load.
    desk_channels: Vec<Channel>,
}

/// What one caller's call took.
pub(super) struct Call<T> {
    /// The number of the call.
    pub(super) place: usize,
    pub(super) took: Duration,
    /// Times it was made again.
    pub(super) repeated: usize,
    pub(super) answer: T,
}

impl Loopback {
    pub(super) async fn start(
        shards: u32,
        data: Option<&PathBuf>,
        change: impl FnOnce(Builder) -> Builder,
    ) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("find this program")?;
        let mut builder = Sandbox::builder().nodes(NODES).replicas(NODES as u32).shards(shards);
        builder = builder.mode(Mode::ChildProcesses { binary });
        if let Some(folder) = data {
            builder = builder.data_dir(folder);
        }
        eprintln!("starting one coordinator and three nodes");
        let sandbox = change(builder).start().await?;
        let endpoint =
            Endpoint::from_shared(sandbox.endpoint()).context("the coordinator's address")?.tcp_nodelay(true);
        let connect = || try_join_all((0..CONNECTIONS).map(|_| endpoint.connect()));
        let (channels, desk_channels) = tokio::try_join!(connect(), connect()).context("connect")?;
        Ok(Self { sandbox, channels, desk_channels })
    }

    /// Creates the gallery; one that is there already stays.
    pub(super) async fn create_gallery(&self, dimension: u32, threshold: ComparisonScore) -> anyhow::Result<()> {
        let policy = requests::embedding_policy(Modality::Face, dimension, threshold.as_f64());
        let request = requests::gallery(GALLERY, Policy { identification_allowed: true, ..policy });
        match self.sandbox.galleries().create_gallery(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status).context("create the gallery"),
        }
    }

    /// Enrols through so many callers at once, each one enrolment at a time.
    pub(super) async fn enrol(
        &self,
        what: &str,
        callers: usize,
        count: usize,
        request: impl Fn(usize) -> EnrolRequest,
    ) -> anyhow::Result<Vec<Call<EnrolResponse>>> {
        self.call_all(what, callers, count, async |channel, place| {
            let request = EnrolRequest { wait_ms: WAIT_MS, ..request(place) };
            EnrolmentServiceClient::new(channel).enrol(request).await.map(tonic::Response::into_inner)
        })
        .await
    }

    /// Identifies through so many callers at once, each one probe at a time.
    pub(super) async fn identify(
        &self,
        what: &str,
        (callers, priority): (usize, Priority),
        count: usize,
        probe: impl Fn(usize) -> Vec<f32>,
    ) -> anyhow::Result<Vec<Call<IdentifyResponse>>> {
        self.call_all(what, callers, count, async |channel, place| identify(channel, priority, &probe(place)).await)
            .await
    }

    /// Identifies for so many callers at a desk, each one probe at a time, for as long as the load takes; how long each took.
    pub(super) async fn identify_beside<T>(
        &self,
        load: impl Future<Output = anyhow::Result<T>>,
        callers: usize,
        probe: impl Fn(usize) -> Vec<f32>,
    ) -> anyhow::Result<(T, Vec<Duration>)> {
        let (ended, next) = (AtomicBool::new(false), AtomicUsize::new(0));
        let load = async {
            let loaded = load.await;
            ended.store(true, Ordering::Relaxed);
            loaded
        };
        let desk = try_join_all((0..callers).map(async |caller| {
            let (channel, mut times) = (&self.desk_channels[caller % CONNECTIONS], Vec::new());
            while !ended.load(Ordering::Relaxed) {
                let values = probe(next.fetch_add(1, Ordering::Relaxed));
                let started = Instant::now();
                until_taken(|| identify(channel.clone(), Priority::Interactive, &values)).await?;
                times.push(started.elapsed());
            }
            Ok(times)
        }));
        let (loaded, times) = tokio::try_join!(load, desk)?;
        Ok((loaded, times.concat()))
    }

    async fn call_all<T>(
        &self,
        what: &str,
        callers: usize,
        count: usize,
        call: impl AsyncFn(Channel, usize) -> Result<T, Status>,
    ) -> anyhow::Result<Vec<Call<T>>> {
        let mut progress = Progress::start(what, Some(count as u64));
        let next = AtomicUsize::new(0);
        let (sender, mut ended) = mpsc::unbounded_channel();
        let callers = (0..callers).map(|caller| {
            let (sender, next, call) = (sender.clone(), &next, &call);
            let channel = self.channels[caller % CONNECTIONS].clone();
            async move {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return Ok::<(), anyhow::Error>(());
                    }
                    let started = Instant::now();
                    let (answer, repeated) = until_taken(|| call(channel.clone(), place)).await?;
                    let done = Call { place, took: started.elapsed(), repeated, answer };
                    if sender.send(done).is_err() {
                        return Ok(());
                    }
                }
            }
        });
        let calls = try_join_all(callers);
        let collecting = async {
            let mut calls = Vec::with_capacity(count);
            while calls.len() < count {
                let Some(call) = ended.recv().await else { break };
                progress.advance(String::new);
                calls.push(call);
            }
            Ok(calls)
        };
        let (_, calls) = tokio::try_join!(calls, collecting)?;
        progress.finish();
        Ok(calls)
    }
}

async fn identify(channel: Channel, priority: Priority, probe: &[f32]) -> Result<IdentifyResponse, Status> {
    let request = IdentifyRequest {
        gallery: GALLERY.to_owned(),
        references: vec![requests::embedding_reference(Modality::Face, probe)],
        purpose: "benchmark".to_owned(),
        wait_ms: WAIT_MS,
        priority: priority.into(),
    };
    IdentificationServiceClient::new(channel).identify(request).await.map(tonic::Response::into_inner)
}

/// Makes a call again while the cluster asks to come back later; also says how often that was.
async fn until_taken<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> anyhow::Result<(T, usize)> {
    for attempt in 0..ATTEMPTS_MAX {
        match call().await {
            Ok(answer) => return Ok((answer, attempt)),
            Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) => {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(status) => return Err(status).context("a call"),
        }
    }
    bail!("the cluster had too much to do {ATTEMPTS_MAX} times in a row")
}

/// What a node has written to its log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Syncs {
    pub(super) syncs: u64,
    pub(super) entries: u64,
}

impl Syncs {
    pub(super) fn since(&self, before: &Self) -> Self {
        Self { syncs: self.syncs - before.syncs, entries: self.entries - before.entries }
    }
}

impl Loopback {
    /// What each node has written since it started, from its metrics.
    pub(super) async fn syncs(&self) -> anyhow::Result<Vec<Syncs>> {
        let mut nodes = Vec::new();
        for node in 0..NODES {
            let page = metrics(self.sandbox.node_metrics(node).await?).await.context("read a node's metrics")?;
            let counter = |name| counter(&page, name).with_context(|| format!("the metrics have no {name}"));
            let entries = counter("semel_raft_entries_appended_total")?;
            nodes.push(Syncs { syncs: counter("semel_raft_syncs_total")?, entries });
        }
        Ok(nodes)
    }
}

/// The page of metrics that a server shows.
async fn metrics(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.take(METRICS_BYTES_MAX).read_to_end(&mut page).await?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// The value of a counter without labels.
fn counter(page: &str, name: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
