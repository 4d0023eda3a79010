//! What becomes of a coordinator that starts, by what the others answer: a member goes on, an empty folder founds the group with the
//! others, takes the place of a volume that was lost, or waits for an operator.
//!
//! An empty folder founds nothing before every other coordinator has answered that it does not know it. One that is silent may hold what
//! this one, with the volume that it lost, acknowledged.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::future::join_all;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use semel_raft::ReplicaId;
use semel_raft_host::{ClusterId, FreshGroup, Opener};
use semel_workflow::CoordinatorId;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::config::Voter;
use crate::metadata::Metadata;
use crate::volume::Volume;

/// How long another coordinator may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The pause between two questions of a folder that waits.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The pause between two looks at whether a replica that does not vote is still wanted.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The part of this coordinator in the metadata group.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) replica: ReplicaId,
    /// What is to be done where the folder has no rows of it yet.
    pub(crate) fresh: FreshGroup,
    /// Which replica votes for which coordinator, as the others say.
    pub(crate) replicas: Vec<(u64, ReplicaId)>,
}

/// What becomes of an empty folder.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// There is no group yet, or it counts on this coordinator as one of its founders.
    Found,
    /// An operator has let it in.
    Join(ReplicaId),
    /// Not all others have answered.
    Unheard { heard: usize },
    /// The coordinator was a member, and its volume is lost.
    Lost,
}

/// Asks until the folder has a part in the group.
///
/// # Errors
/// The folder can have none: the group does without what it holds, or it is of another cluster.
pub(crate) async fn admit(
    volume: &Volume,
    voters: &[Voter],
    group: ClusterId,
    opener: &Opener,
) -> anyhow::Result<Admitted> {
    let coordinator = volume.coordinator();
    let others: Vec<&Voter> = voters.iter().filter(|voter| voter.id != coordinator.get()).collect();
    let request = request(volume, group, volume.replica);
    let mut told = String::new();
    loop {
        let answers = ask(&others, &request).await?;
        let replicas = replicas(&answers);
        if let Some(replica) = volume.replica {
            refuse_retired(coordinator, replica, &answers)?;
            return Ok(Admitted { replica, fresh: FreshGroup::Refuse, replicas });
        }
        let fate = fate(others.len(), &answers);
        let reason = match fate {
            Fate::Found => {
                let founders = voters.iter().filter_map(|voter| ReplicaId::new(voter.id)).collect();
                let fresh = FreshGroup::Bootstrap { voters: founders };
                return Ok(Admitted { replica: coordinator.first_replica(), fresh, replicas });
            }
            Fate::Join(replica) => {
                tracing::info!(%replica, "let in on an empty folder");
                return Ok(Admitted { replica, fresh: FreshGroup::Join, replicas });
            }
            Fate::Unheard { heard } => format!(
                "data: the folder is empty, and {heard} of {} other coordinators have answered: whether coordinator {coordinator} has \
                 lost a volume, each of them must say",
                others.len()
            ),
            Fate::Lost => format!(
                "data: the folder is empty, but coordinator {coordinator} is a member of the cluster: what it acknowledged went with \
                 its volume. Restore that one, or let this folder take its place: semel cluster replace-coordinator {coordinator}"
            ),
        };
        if reason != told {
            match fate {
                // Nobody but an operator can help.
                Fate::Lost => tracing::error!(reason, "waiting to be let in"),
                Fate::Found | Fate::Join(_) | Fate::Unheard { .. } => tracing::warn!(reason, "waiting for the others"),
            }
            opener.tell(&reason);
            told = reason;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn refuse_retired(
    coordinator: CoordinatorId,
    replica: ReplicaId,
    answers: &[wire::IntroduceResponse],
) -> anyhow::Result<()> {
    if answers.iter().any(|answer| answer.retired) {
        bail!(
            "data: the folder holds replica {replica} of coordinator {coordinator}, which the coordinators' group does without: another \
             one has its place, or its own replacement was given up. It never comes back: start on the folder that has the place, or \
             empty this one"
        );
    }
    Ok(())
}

/// Asks now and then, for as long as the replica here does not vote, whether the group does without it; ends only then.
///
/// # Errors
/// Always: what the operator is to do.
pub(crate) async fn until_retired(
    metadata: &Metadata,
    request: wire::IntroduceRequest,
    voters: &[Voter],
) -> anyhow::Result<()> {
    let coordinator = CoordinatorId::new(request.coordinator).context("a coordinator has a number")?;
    let others: Vec<&Voter> = voters.iter().filter(|voter| voter.id != coordinator.get()).collect();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !metadata.votes() {
            refuse_retired(coordinator, metadata.replica(), &ask(&others, &request).await?)?;
        }
    }
}

/// What a coordinator says of itself that holds this replica.
pub(crate) fn request(volume: &Volume, group: ClusterId, replica: Option<ReplicaId>) -> wire::IntroduceRequest {
    wire::IntroduceRequest {
        group_id: Bytes::copy_from_slice(&group.0),
        coordinator: volume.coordinator().get(),
        volume_id: volume.id.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
        replica: replica.map_or(0, ReplicaId::get),
        cluster_id: volume.cluster.map(|cluster| Bytes::copy_from_slice(&cluster.0)).unwrap_or_default(),
    }
}

fn fate(others: usize, answers: &[wire::IntroduceResponse]) -> Fate {
    // Ids only grow: the highest one is of whoever knows most.
    let admitted = answers.iter().map(|answer| answer.admitted_replica).max().and_then(ReplicaId::new);
    match admitted {
        Some(replica) => Fate::Join(replica),
        None if answers.iter().any(|answer| answer.known) => Fate::Lost,
        None if answers.len() < others => Fate::Unheard { heard: answers.len() },
        None => Fate::Found,
    }
}

/// Who votes for whom: of several replicas of a coordinator the one with the highest id, as ids only grow.
fn replicas(answers: &[wire::IntroduceResponse]) -> Vec<(u64, ReplicaId)> {
    let said = answers.iter().flat_map(|answer| &answer.replicas);
    let mut replicas: Vec<_> =
        said.filter_map(|said| Some((said.coordinator, ReplicaId::new(said.replica)?))).collect();
    replicas.sort_unstable();
    replicas.dedup();
    replicas
}

/// The answers of those who answer. A refusal that trying again cannot change is an error.
async fn ask(others: &[&Voter], request: &wire::IntroduceRequest) -> anyhow::Result<Vec<wire::IntroduceResponse>> {
    let asked = others.iter().map(|voter| async move { (&voter.address, ask_one(&voter.address, request).await) });
    let mut answers = Vec::new();
    for (address, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(status) if status.code() == Code::FailedPrecondition => {
                bail!("coordinator {address} refuses this one: {}", status.message());
            }
            Err(status) => tracing::debug!(address, reason = status.message(), "a coordinator did not answer"),
        }
    }
    Ok(answers)
}

async fn ask_one(address: &str, request: &wire::IntroduceRequest) -> Result<wire::IntroduceResponse, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("voters: `{address}`: {error}")))?;
    let channel = endpoint.connect_timeout(ANSWER_WITHIN).connect_lazy();
    let mut client = CoordinatorServiceClient::new(channel);
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.introduce(request.clone())).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> wire::IntroduceResponse {
        wire::IntroduceResponse { empty: true, ..Default::default() }
    }

    fn member(known: bool, admitted_replica: u64) -> wire::IntroduceResponse {
        wire::IntroduceResponse { known, admitted_replica, ..Default::default() }
    }

    fn check(answers: &[wire::IntroduceResponse], expected: &Fate) {
        assert_eq!(fate(2, answers), *expected, "{answers:?}");
    }

    /// An emptied folder was once taken for a founder while the others were down.
    #[test]
    fn an_empty_folder_founds_nothing_before_all_others_have_said_that_they_do_not_know_it() {
        let six = ReplicaId::new(6).expect("not 0");
        check(&[], &Fate::Unheard { heard: 0 });
        check(&[empty()], &Fate::Unheard { heard: 1 });
        check(&[member(false, 0)], &Fate::Unheard { heard: 1 });
        check(&[empty(), empty()], &Fate::Found);
        check(&[member(false, 0), empty()], &Fate::Found);
        check(&[member(true, 0)], &Fate::Lost);
        check(&[empty(), member(true, 0)], &Fate::Lost);
        // One of the two is behind.
        check(&[member(true, 0), member(true, 6)], &Fate::Join(six));
        check(&[member(true, 6)], &Fate::Join(six));
    }
}
