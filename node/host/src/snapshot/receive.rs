//! The receiver's side of a transfer, and the service that takes transfers in.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::send_snapshot_request::Part;
use semel_proto::internal::v1::send_snapshot_response::State;
use semel_proto::internal::v1::snapshot_service_server::SnapshotService;
use semel_proto::internal::v1::{SendSnapshotRequest, SendSnapshotResponse, SnapshotInstalled, SnapshotInstalling};
use semel_raft::{ReplicaId, SnapshotMetadata, StateMachine};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::config::HostConfig;
use crate::handle::HostHandle;
use crate::holders::Held;
use crate::snapshot::collected::{self, CollectError, Collected};
use crate::snapshot::install::{InstallError, has_room, write_beside};
use crate::snapshot::{CHUNKS_UNACKNOWLEDGED_MAX, KEPT_FOR};

/// How often the sender hears that the exchange goes on.
const INSTALLING_EVERY: Duration = Duration::from_secs(1);
/// How often chunks that nobody went on with are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// What all transfers that come into a process share.
pub(crate) struct Receivers {
    places: Semaphore,
    stall: Duration,
    disk_reserve_bytes: u64,
    /// Groups that a transfer comes in for.
    busy: Mutex<BTreeSet<u64>>,
}

impl Receivers {
    pub(crate) fn new(config: &HostConfig) -> Self {
        Self {
            places: Semaphore::new(config.snapshots_received_max),
            stall: config.snapshot_stall,
            disk_reserve_bytes: config.disk_reserve_bytes,
            busy: Mutex::default(),
        }
    }

    fn begin(&self, group: u64) -> Option<Busy<'_>> {
        let begun = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
        begun.then_some(Busy { receivers: self, group })
    }

    fn is_busy(&self, group: u64) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains(&group)
    }
}

/// One transfer for a group at a time.
struct Busy<'a> {
    receivers: &'a Receivers,
    group: u64,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.receivers.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.group);
    }
}

/// Takes snapshots in for a host.
pub struct SnapshotServer<M: StateMachine> {
    host: HostHandle<M>,
}

impl<M: StateMachine> SnapshotServer<M> {
    /// Serves `host`. Must be called inside a runtime, which then also removes chunks that nobody goes on with.
    pub fn new(host: HostHandle<M>) -> Self {
        tokio::spawn(sweep(host.clone()));
        Self { host }
    }
}

#[tonic::async_trait]
impl<M: StateMachine> SnapshotService for SnapshotServer<M> {
    type SendSnapshotStream = ReceiverStream<Result<SendSnapshotResponse, Status>>;

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SendSnapshotRequest>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        let (answers, outgoing) = mpsc::channel(CHUNKS_UNACKNOWLEDGED_MAX);
        // Ends with the stream, or when that is silent for too long.
        tokio::spawn(receive(self.host.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Takes one transfer in, from the offer to the exchange of the rows.
pub(crate) async fn receive<M: StateMachine>(
    host: HostHandle<M>,
    parts: impl Stream<Item = Result<SendSnapshotRequest, Status>> + Unpin,
    answers: mpsc::Sender<Result<SendSnapshotResponse, Status>>,
) {
    if let Err(status) = (Incoming { host: &host, parts, answers: &answers }).run().await {
        tracing::warn!(reason = status.message(), "snapshot not taken in");
        // The sender may have gone.
        let _ = answers.send(Err(status)).await;
    }
}

struct Incoming<'a, M: StateMachine, P> {
    host: &'a HostHandle<M>,
    parts: P,
    answers: &'a mpsc::Sender<Result<SendSnapshotResponse, Status>>,
}

/// What was offered, checked.
struct Offered {
    offer: wire::SnapshotOffer,
    group: u64,
    to: ReplicaId,
    snapshot_id: [u8; 16],
    metadata: SnapshotMetadata,
}

impl<M: StateMachine, P> Incoming<'_, M, P>
where
    P: Stream<Item = Result<SendSnapshotRequest, Status>> + Unpin,
{
    async fn run(&mut self) -> Result<(), Status> {
        let receivers = Arc::clone(self.host.receivers());
        let Part::Offer(offer) = self.part(&receivers).await? else {
            return Err(Status::invalid_argument("part: the first must be an offer"));
        };
        let offered = self.check(offer)?;
        let busy = "a snapshot is coming in for this replica already";
        let _busy = receivers.begin(offered.group).ok_or_else(|| Status::resource_exhausted(busy))?;
        let enough = "as many snapshots come in as may";
        let _place = receivers.places.try_acquire().map_err(|_| Status::resource_exhausted(enough))?;
        if self.is_there(&offered).await? {
            return self.answer(State::Installed(SnapshotInstalled {})).await;
        }
        let group = offered.group;
        let mut collected = self.collect(&offered, &receivers).await?;
        let installing = self.install(offered, &mut collected);
        let outcome = self.keeping_sender_awake(installing).await;
        // Whole and of no use any more, or of no use in the first place: neither is worth keeping.
        let removed = tokio::task::spawn_blocking(move || collected.map(Collected::remove)).await;
        removed.map_err(|_| Status::internal("removing a file panicked"))?;
        outcome.map_err(|error| refused(&error))?;
        tracing::info!(group, "snapshot installed");
        self.answer(State::Installed(SnapshotInstalled {})).await
    }

    fn check(&self, offer: wire::SnapshotOffer) -> Result<Offered, Status> {
        if offer.cluster_id != self.host.cluster().0.as_slice() {
            return Err(Status::failed_precondition("cluster_id: this process belongs to another cluster"));
        }
        let group = offer.group;
        let to = ReplicaId::new(offer.to_replica).filter(|to| self.host.runs(group, *to));
        let to = to.ok_or_else(|| Status::failed_precondition("to_replica: does not run here"))?;
        let snapshot_id = offer.snapshot_id.as_ref().try_into();
        let snapshot_id = snapshot_id.map_err(|_| Status::invalid_argument("snapshot_id: must be 16 bytes"))?;
        let metadata = SnapshotMetadata::decode(&offer.metadata);
        let metadata = metadata.map_err(|error| Status::invalid_argument(format!("metadata: {error}")))?;
        Ok(Offered { offer, group, to, snapshot_id, metadata })
    }

    /// Whether the replica needs nothing of what is offered.
    async fn is_there(&self, offered: &Offered) -> Result<bool, Status> {
        let (store, metadata) = (self.database()?.group(offered.group), offered.metadata.clone());
        let installed = tokio::task::spawn_blocking(move || semel_raft::install(&store, &metadata)).await;
        let installed = installed.map_err(|_| Status::internal("reading the log's rows panicked"))?;
        Ok(installed.map_err(|error| Status::internal(error.to_string()))?.is_none())
    }

    /// Collects chunks until all are there.
    async fn collect(&mut self, offered: &Offered, receivers: &Receivers) -> Result<Option<Collected>, Status> {
        // Not held while a sender is waited for: the data folder is to be free once the host has ended.
        let folder = self.database()?.incoming_folder();
        let disk = folder.parent().map(Path::to_owned).unwrap_or_default();
        let (offer, id) = (offered.offer.clone(), offered.snapshot_id);
        let opened = blocking(move || Collected::open(&folder, &offer, id)).await;
        let mut collected = opened.map_err(|error| refused(&error.into()))?;
        loop {
            self.answer(State::ChunksHeld(collected.chunks())).await?;
            match self.part(receivers).await? {
                Part::Chunk(chunk) => {
                    // Room for this chunk, and for the sorted files that will be made of all of them.
                    let wanted = collected.bytes() + 2 * chunk.rows.len() as u64;
                    if !has_room(&disk, wanted, receivers.disk_reserve_bytes) {
                        blocking(move || collected.remove()).await;
                        return Err(Status::resource_exhausted(
                            "the disk of this process has no room for the snapshot",
                        ));
                    }
                    let (back, appended) = blocking(move || {
                        let appended = collected.append(chunk);
                        (collected, appended)
                    })
                    .await;
                    collected = back;
                    if let Err(error) = appended {
                        blocking(move || collected.remove()).await;
                        return Err(refused(&error.into()));
                    }
                }
                Part::End(end) => {
                    if let Err(error) = collected.check_whole(&end) {
                        blocking(move || collected.remove()).await;
                        return Err(refused(&error.into()));
                    }
                    return Ok(Some(collected));
                }
                Part::Offer(_) => return Err(Status::invalid_argument("part: a second offer")),
            }
        }
    }

    /// Writes the rows beside the live ones, then takes the replica from its seat, exchanges the rows, and seats it again.
    async fn install(&self, offered: Offered, collected: &mut Option<Collected>) -> Result<(), InstallError> {
        let Offered { group, to, metadata, .. } = offered;
        let writing = self.host.database().ok_or(InstallError::NotRunning)?;
        let whole = collected.take().expect("everything was collected");
        let (back, written) = blocking(move || {
            let written = write_beside(&writing, group, M::TABLES, &whole);
            (whole, written)
        })
        .await;
        *collected = Some(back);
        let generation = written?;
        self.host.exchange(group, to, metadata, generation).await
    }

    /// Tells the sender about once a second that there is progress, until there is an outcome.
    async fn keeping_sender_awake<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(INSTALLING_EVERY) => {
                    // Whether or not the sender is still there, the exchange is finished.
                    let _ = self.answer(State::Installing(SnapshotInstalling {})).await;
                }
            }
        }
    }

    fn database(&self) -> Result<Held, Status> {
        self.host.database().ok_or_else(|| Status::unavailable("the host has ended"))
    }

    async fn part(&mut self, receivers: &Receivers) -> Result<Part, Status> {
        let part = tokio::time::timeout(receivers.stall, self.parts.next()).await;
        let part = part.map_err(|_| Status::deadline_exceeded("the sender was silent for too long"))?;
        let part = part.ok_or_else(|| Status::cancelled("the sender ended the stream"))??;
        part.part.ok_or_else(|| Status::invalid_argument("part: is required"))
    }

    async fn answer(&self, state: State) -> Result<(), Status> {
        let sent = self.answers.send(Ok(SendSnapshotResponse { state: Some(state) })).await;
        sent.map_err(|_| Status::cancelled("the sender has gone"))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("what collects snapshots does not panic")
}

fn refused(error: &InstallError) -> Status {
    match error {
        InstallError::Collect(CollectError::Io { source, .. }) | InstallError::Io(source)
            if source.kind() == std::io::ErrorKind::StorageFull =>
        {
            Status::resource_exhausted("the disk of this process has no room for the snapshot")
        }
        InstallError::Collect(CollectError::Io { .. })
        | InstallError::Io(_)
        | InstallError::Store(_)
        | InstallError::Write(_)
        | InstallError::Beside(_) => Status::internal(error.to_string()),
        InstallError::Collect(
            CollectError::Damaged | CollectError::OutOfOrder { .. } | CollectError::NotWhatWasSent,
        )
        | InstallError::Table { .. }
        | InstallError::Garbled => Status::data_loss(error.to_string()),
        InstallError::NotRunning => Status::failed_precondition(error.to_string()),
    }
}

/// Removes chunks that nobody went on with for a while, until the host has ended.
async fn sweep<M: StateMachine>(host: HostHandle<M>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(database) = host.database() else { return };
        let receivers = Arc::clone(host.receivers());
        blocking(move || {
            let entries = std::fs::read_dir(database.incoming_folder()).into_iter().flatten().flatten();
            for path in entries.map(|entry| entry.path()) {
                let Some(group) = Collected::group_of(&path) else { continue };
                let modified = std::fs::metadata(&path).and_then(|found| found.modified());
                let age = modified.ok().and_then(|modified| modified.elapsed().ok());
                if age.is_some_and(|age| age > KEPT_FOR) && !receivers.is_busy(group) {
                    collected::remove(&path);
                }
            }
        })
        .await;
    }
}
