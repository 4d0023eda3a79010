//! Raft messages between processes: one gRPC stream per destination, fed by a bounded queue.
//!
//! Nothing here is reliable, and nothing needs to be: what a full queue or a broken stream loses, raft sends again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt as _;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::raft_service_client::RaftServiceClient;
use semel_proto::internal::v1::raft_service_server::RaftService;
use semel_proto::internal::v1::snapshot_service_client::SnapshotServiceClient;
use semel_raft::{ReplicaId, StateMachine};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use crate::snapshot::send::send;
use crate::snapshot::{OutgoingSnapshot, SNAPSHOT_MESSAGE_BYTES_MAX};
use crate::{ClusterId, Envelope, HostHandle, Transport};

/// Batches that may wait for one destination.
const BATCHES_QUEUED_MAX: usize = 64;
/// A batch is closed once it holds this many bytes of messages, far below what a receiver takes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often a silent connection is tried, and how long the answer may take: a link that a partition cut must not wait for TCP's own,
/// minutes-long patience once it is healed.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long to wait before a broken stream is opened again.
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// How long a connection attempt may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The largest batch taken in, in bytes. Batches are closed at 4 MiB, and a raft message holds at most 1 MiB of entries or one larger entry.
pub const EXCHANGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where each replica of the cluster listens, host:port.
pub type Directory = HashMap<ReplicaId, String>;

/// Sends raft messages over gRPC. Clones share the streams.
#[derive(Clone)]
pub struct GrpcTransport {
    inner: Arc<Inner>,
}

struct Inner {
    directory: ArcSwap<Directory>,
    links: Mutex<HashMap<String, mpsc::Sender<wire::ExchangeRequest>>>,
    dropped: AtomicU64,
    runtime: tokio::runtime::Handle,
}

impl GrpcTransport {
    /// Starts without knowing any replica; streams run on `runtime` and end with it.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self {
            inner: Arc::new(Inner {
                directory: ArcSwap::default(),
                links: Mutex::default(),
                dropped: AtomicU64::new(0),
                runtime,
            }),
        }
    }

    /// Replaces what is known of where replicas listen. Streams to addresses that are gone end.
    pub fn set_directory(&self, directory: Directory) {
        if **self.inner.directory.load() == directory {
            return;
        }
        let addresses: std::collections::HashSet<&String> = directory.values().collect();
        self.inner.links.lock().expect("no holder panics").retain(|address, _| addresses.contains(address));
        self.inner.directory.store(Arc::new(directory));
    }

    /// Messages dropped since the start because their destination did not keep up.
    pub(crate) fn messages_dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    fn hand_over(&self, address: &str, batch: Batch) {
        let messages = batch.request.envelopes.len() as u64;
        // A full queue means a destination that does not keep up: dropping is what a slow network would do.
        if self.link(address).try_send(batch.request).is_err() {
            self.inner.dropped.fetch_add(messages, Ordering::Relaxed);
            tracing::debug!(address, "raft messages dropped: the destination does not keep up");
        }
    }

    fn link(&self, address: &str) -> mpsc::Sender<wire::ExchangeRequest> {
        let mut links = self.inner.links.lock().expect("no holder panics");
        if let Some(link) = links.get(address) {
            return link.clone();
        }
        let (sender, receiver) = mpsc::channel(BATCHES_QUEUED_MAX);
        self.inner.runtime.spawn(run_link(address.to_owned(), receiver));
        links.insert(address.to_owned(), sender.clone());
        sender
    }
}

impl Transport for GrpcTransport {
    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let Some(address) = self.inner.directory.load().get(&snapshot.to()).cloned() else { return };
        self.inner.runtime.spawn(send(snapshot, |parts| async move {
            // A connection of its own: rows of a snapshot must not hold up heartbeats.
            let channel = endpoint(&address).map_err(|error| Status::unavailable(error.to_string()))?.connect_lazy();
            let mut client = SnapshotServiceClient::new(channel).max_encoding_message_size(SNAPSHOT_MESSAGE_BYTES_MAX);
            Ok(client.send_snapshot(ReceiverStream::new(parts)).await?.into_inner())
        }));
    }

    fn send(&self, envelopes: Vec<Envelope>) {
        let directory = self.inner.directory.load();
        let mut batches: HashMap<&String, Batch> = HashMap::new();
        for envelope in envelopes {
            let Some(address) = directory.get(&envelope.to) else { continue };
            let batch = batches.entry(address).or_default();
            batch.bytes += envelope.message.len();
            batch.request.cluster_id = Bytes::copy_from_slice(&envelope.cluster.0);
            batch.request.envelopes.push(wire::Envelope {
                group: envelope.group,
                from_replica: envelope.from.get(),
                to_replica: envelope.to.get(),
                message: envelope.message,
            });
            if batch.bytes >= BATCH_BYTES {
                self.hand_over(address, std::mem::take(batch));
            }
        }
        for (address, batch) in batches {
            if !batch.request.envelopes.is_empty() {
                self.hand_over(address, batch);
            }
        }
    }
}

/// Messages for one address, as far as they are gathered.
#[derive(Default)]
struct Batch {
    bytes: usize,
    request: wire::ExchangeRequest,
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.connect_timeout(CONNECT_WITHIN).tcp_nodelay(true);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true))
}

/// Carries batches to one address until the transport forgets it.
async fn run_link(address: String, mut batches: mpsc::Receiver<wire::ExchangeRequest>) {
    let endpoint = match endpoint(&address) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::error!(address, %error, "raft peer has an address that cannot be dialled");
            return;
        }
    };
    while let Some(first) = batches.recv().await {
        match endpoint.connect().await {
            Ok(channel) => {
                tracing::debug!(address, "raft stream opened");
                batches = stream_batches(&address, channel, first, batches).await;
            }
            Err(error) => tracing::debug!(address, %error, "raft peer not reached"),
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
        // What waited meanwhile is stale: raft has newer things to say.
        while batches.try_recv().is_ok() {}
    }
}

/// Streams batches until the stream breaks, and gives the queue back.
async fn stream_batches(
    address: &str,
    channel: tonic::transport::Channel,
    first: wire::ExchangeRequest,
    mut batches: mpsc::Receiver<wire::ExchangeRequest>,
) -> mpsc::Receiver<wire::ExchangeRequest> {
    let (sender, receiver) = mpsc::channel(1);
    let mut client = RaftServiceClient::new(channel);
    let feed = async {
        let mut next = Some(first);
        while let Some(batch) = next {
            if sender.send(batch).await.is_err() {
                break;
            }
            next = batches.recv().await;
        }
    };
    tokio::select! {
        () = feed => {}
        ended = client.exchange(ReceiverStream::new(receiver)) => {
            if let Err(status) = ended {
                tracing::debug!(address, %status, "raft stream broke");
            }
        }
    }
    batches
}

/// Takes raft messages in for a host.
pub struct RaftServer<M: StateMachine> {
    host: HostHandle<M>,
}

impl<M: StateMachine> RaftServer<M> {
    /// Serves `host`.
    pub fn new(host: HostHandle<M>) -> Self {
        Self { host }
    }
}

#[tonic::async_trait]
impl<M: StateMachine> RaftService for RaftServer<M> {
    async fn exchange(
        &self,
        request: Request<Streaming<wire::ExchangeRequest>>,
    ) -> Result<Response<wire::ExchangeResponse>, Status> {
        let mut stream = request.into_inner();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let cluster: [u8; 16] = batch
                .cluster_id
                .as_ref()
                .try_into()
                .map_err(|_| Status::invalid_argument("cluster_id: must be 16 bytes"))?;
            let cluster = ClusterId(cluster);
            let envelopes = batch
                .envelopes
                .into_iter()
                .filter_map(|envelope| {
                    Some(Envelope {
                        cluster,
                        group: envelope.group,
                        from: ReplicaId::new(envelope.from_replica)?,
                        to: ReplicaId::new(envelope.to_replica)?,
                        message: envelope.message,
                    })
                })
                .collect();
            self.host.receive(envelopes);
        }
        Ok(Response::new(wire::ExchangeResponse {}))
    }
}
