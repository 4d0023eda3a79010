//! `CoordinatorService`: what this coordinator knows of another one that starts, and which empty folders wait to be let in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::coordinator_service_server::CoordinatorService;
use semel_raft::ReplicaId;
use semel_raft_host::ClusterId;
use semel_workflow::{CoordinatorId, MetadataView, VolumeId};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::config::Voter;
use crate::metadata::Metadata;

/// How long after its last question a folder is taken to wait.
const WAITS_WITHIN: Duration = Duration::from_secs(3);

/// What a coordinator answers to those who start, from the moment that it listens.
pub(crate) struct Introductions {
    group: ClusterId,
    own: CoordinatorId,
    voters: Vec<u64>,
    /// Set once the folder was found to be empty.
    empty: OnceLock<()>,
    /// Set once the replica is open.
    metadata: OnceLock<Arc<Metadata>>,
    waiting: Mutex<Waiting>,
}

/// Empty folders of coordinators that have lost a volume: one for each coordinator at most.
#[derive(Debug, Default)]
struct Waiting(BTreeMap<CoordinatorId, Asked>);

#[derive(Debug)]
struct Asked {
    volume: VolumeId,
    at: Instant,
    /// The newest replica of its coordinator that was known then. Since a newer one was given out, nobody waits any more until asked anew.
    newest: ReplicaId,
}

impl Waiting {
    fn heard(&mut self, view: &MetadataView, coordinator: CoordinatorId, volume: VolumeId, at: Instant) {
        let newest = view.coordinator_replicas(coordinator).newest;
        self.0.insert(coordinator, Asked { volume, at, newest });
    }

    fn of(&self, view: &MetadataView, coordinator: CoordinatorId, now: Instant) -> Option<VolumeId> {
        let asked = self.0.get(&coordinator)?;
        let is_lately = now.saturating_duration_since(asked.at) < WAITS_WITHIN;
        (is_lately && asked.newest == view.coordinator_replicas(coordinator).newest).then_some(asked.volume)
    }
}

impl Introductions {
    pub(crate) fn new(group: ClusterId, own: CoordinatorId, voters: &[Voter]) -> Arc<Self> {
        let voters = voters.iter().map(|voter| voter.id).collect();
        let (empty, metadata, waiting) = (OnceLock::new(), OnceLock::new(), Mutex::default());
        Arc::new(Self { group, own, voters, empty, metadata, waiting })
    }

    /// The folder is empty: there is nothing to know.
    pub(crate) fn is_empty(&self) {
        // Said once is said.
        let _ = self.empty.set(());
    }

    /// The replica is open: from now on its view answers.
    pub(crate) fn opened(&self, metadata: Arc<Metadata>) {
        assert!(self.metadata.set(metadata).is_ok(), "a replica is opened once");
    }

    /// The empty folder of a coordinator that waits to be let in, by what `view` knows.
    pub(crate) fn waiting(&self, view: &MetadataView, coordinator: CoordinatorId) -> Option<VolumeId> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.of(view, coordinator, Instant::now())
    }

    fn answer(&self, request: &wire::IntroduceRequest) -> Result<wire::IntroduceResponse, Status> {
        let invalid = Status::invalid_argument;
        let coordinator = CoordinatorId::new(request.coordinator).filter(|id| self.voters.contains(&id.get()));
        let coordinator = coordinator.ok_or_else(|| invalid("coordinator: is none of the voters"))?;
        if request.group_id != self.group.0[..] {
            return Err(invalid("voters: the two coordinators are told of different voters"));
        }
        if coordinator == self.own {
            let same = "id: the coordinator that answers has this number itself: check `id` and `voters`";
            return Err(Status::failed_precondition(same));
        }
        let Some(metadata) = self.metadata.get() else {
            return match self.empty.get() {
                Some(()) => Ok(wire::IntroduceResponse { empty: true, ..Default::default() }),
                None => Err(Status::unavailable("the coordinator is starting")),
            };
        };
        let view = metadata.view();
        if let Some(cluster) = view.cluster().map(|cluster| cluster.cluster_id)
            && !request.cluster_id.is_empty()
            && request.cluster_id != cluster.0[..]
        {
            return Err(Status::failed_precondition(format!(
                "cluster_id: the folder belongs to another cluster than {cluster}: check `voters` and `data`"
            )));
        }
        let volume = request.volume_id.as_ref().try_into().ok().map(VolumeId);
        let answer = known(&view, coordinator, ReplicaId::new(request.replica), volume);
        // A founder asks too, whom nobody knows, and who has lost nothing.
        if let (0, Some(volume), true, 0) = (request.replica, volume, answer.known, answer.admitted_replica) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.heard(&view, coordinator, volume, Instant::now());
        }
        Ok(answer)
    }
}

fn known(
    view: &MetadataView,
    coordinator: CoordinatorId,
    held: Option<ReplicaId>,
    volume: Option<VolumeId>,
) -> wire::IntroduceResponse {
    let own = view.coordinator_replicas(coordinator);
    let joining = own.joining.filter(|joining| !joining.cancelling && Some(joining.volume) == volume);
    let replicas = view.coordinators().map(|other| {
        let replica = view.coordinator_replicas(other.id).voter.get();
        wire::CoordinatorReplica { coordinator: other.id.get(), replica }
    });
    wire::IntroduceResponse {
        empty: false,
        known: view.coordinators().any(|other| other.id == coordinator),
        admitted_replica: joining.filter(|_| held.is_none()).map_or(0, |_| own.newest.get()),
        retired: held.is_some_and(|held| own.is_retired(held)),
        replicas: replicas.collect(),
    }
}

/// Serves those who start.
pub(crate) struct IntroductionServer(pub(crate) Arc<Introductions>);

#[tonic::async_trait]
impl CoordinatorService for IntroductionServer {
    async fn introduce(
        &self,
        request: Request<wire::IntroduceRequest>,
    ) -> Result<Response<wire::IntroduceResponse>, Status> {
        self.0.answer(request.get_ref()).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use semel_workflow::{Coordinator, CoordinatorReplicas, JoiningReplica, MetadataChanged, MetadataRow};

    use super::*;

    fn coordinator(number: u64) -> CoordinatorId {
        CoordinatorId::new(number).expect("in range")
    }

    fn replica(id: u64) -> ReplicaId {
        ReplicaId::new(id).expect("not 0")
    }

    fn view(joining: Option<JoiningReplica>) -> MetadataView {
        let registered = |number: u64| {
            let id = coordinator(number);
            MetadataChanged::Set(MetadataRow::Coordinator(Coordinator { id, address: format!("c{number}:7400") }))
        };
        let replicas =
            CoordinatorReplicas { coordinator: coordinator(2), voter: replica(6), newest: replica(7), joining };
        let replicas = MetadataChanged::Set(MetadataRow::CoordinatorReplicas(replicas));
        MetadataView::default().with(&[registered(1), registered(2), replicas])
    }

    /// What an asking folder is told: whether it is known, which replica it is to hold, whether its own is over.
    fn check(view: &MetadataView, asking: u64, held: u64, volume: u8, expected: (bool, u64, bool)) {
        let answer = known(view, coordinator(asking), ReplicaId::new(held), Some(VolumeId([volume; 16])));
        let told = (answer.known, answer.admitted_replica, answer.retired);
        assert_eq!(told, expected, "coordinator {asking} with replica {held} on volume {volume}");
    }

    #[test]
    fn a_folder_is_let_in_under_the_id_recorded_for_it_and_no_other_folder_is() {
        let joining = |cancelling| Some(JoiningReplica { volume: VolumeId([9; 16]), cancelling });
        let (idle, under_way, given_up) = (view(None), view(joining(false)), view(joining(true)));
        check(&under_way, 2, 0, 9, (true, 7, false));
        // Another empty folder, the folder before the one that votes, the one that votes, and the one that is let in, later.
        check(&under_way, 2, 0, 8, (true, 0, false));
        check(&under_way, 2, 2, 1, (true, 0, true));
        check(&under_way, 2, 6, 5, (true, 0, false));
        check(&under_way, 2, 7, 9, (true, 0, false));
        check(&given_up, 2, 0, 9, (true, 0, false));
        // Nothing is known here of what is newer than all that is.
        check(&idle, 2, 7, 9, (true, 0, true));
        check(&idle, 2, 8, 4, (true, 0, false));
        check(&idle, 1, 1, 4, (true, 0, false));
        check(&idle, 3, 0, 4, (false, 0, false));
    }

    /// A founder's question, seconds old, was once taken for one of the folder that came in its place; that one was never let in.
    #[test]
    fn a_folder_waits_from_its_last_question_until_a_replica_is_given_out() {
        let (idle, second) = (view(None), coordinator(2));
        let next = CoordinatorReplicas { newest: replica(8), ..idle.coordinator_replicas(second) };
        let let_in = idle.with(&[MetadataChanged::Set(MetadataRow::CoordinatorReplicas(next))]);
        let (volume, at) = (VolumeId([9; 16]), Instant::now());
        let mut waiting = Waiting::default();
        waiting.heard(&idle, second, volume, at);
        assert_eq!(waiting.of(&idle, second, at), Some(volume));
        assert_eq!(waiting.of(&idle, coordinator(1), at), None);
        assert_eq!(waiting.of(&idle, second, at + WAITS_WITHIN), None);
        assert_eq!(waiting.of(&let_in, second, at), None);
        waiting.heard(&let_in, second, volume, at);
        assert_eq!(waiting.of(&let_in, second, at), Some(volume));
    }

    #[test]
    fn a_folder_without_rows_is_told_who_votes() {
        let answer = known(&view(None), coordinator(3), None, None);
        let said: Vec<(u64, u64)> = answer.replicas.iter().map(|one| (one.coordinator, one.replica)).collect();
        assert_eq!(said, [(1, 1), (2, 6)]);
    }
}
