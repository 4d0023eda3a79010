//! Carries the replacement of a coordinator's volume out, for as long as this coordinator leads the metadata group. The group's own
//! configuration says how far it is; nothing about it is remembered here, so whoever leads next goes on.

use std::time::Duration;

use semel_raft::{MembershipChange, ReplicaId, ReplicaStatus};
use semel_workflow::{CoordinatorReplicas, MetadataCommand};
use tokio::time::Instant;

use crate::metadata::{Metadata, refused};

/// The pause between two looks.
const STEP_EVERY: Duration = Duration::from_millis(300);
/// How long the group may take to answer before it is looked at again.
const STEP_WITHIN: Duration = Duration::from_secs(4);

/// What brings a replacement further.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Changes the group. A replacement is refused until the learner is caught up.
    Change(MembershipChange),
    /// Records how far it is.
    Record(MetadataCommand),
    /// Time, or nothing.
    Wait,
}

/// Runs until dropped.
pub(crate) async fn run(metadata: &Metadata) {
    loop {
        tokio::time::sleep(STEP_EVERY).await;
        if !metadata.leads() || !(metadata.view().replacement().is_some() || metadata.has_learners()) {
            continue;
        }
        // Behind a barrier, so that a learner whose replacement is not known yet is not taken for one that nobody counts on.
        let Ok(view) = metadata.current(Instant::now() + STEP_WITHIN).await else { continue };
        let Some(status) = metadata.status() else { continue };
        advance(metadata, view.replacement(), &status).await;
    }
}

async fn advance(metadata: &Metadata, under_way: Option<&CoordinatorReplicas>, status: &ReplicaStatus) {
    match step(under_way, status) {
        Step::Change(change) => match metadata.change_membership(change, status.epoch, STEP_WITHIN).await {
            Ok(epoch) => tracing::info!(?change, epoch, "coordinators' group changed"),
            // What it has become shows in the next look.
            Err(error) => tracing::debug!(?change, error, "coordinators' group not changed yet"),
        },
        Step::Record(command) => match metadata.propose(&command, Instant::now() + STEP_WITHIN).await.map(refused) {
            Ok(Ok(_)) => tracing::info!(?command, "replacement of a coordinator's volume recorded"),
            Ok(Err(refusal)) => tracing::warn!(%refusal, "replacement of a coordinator's volume not recorded"),
            Err(error) => tracing::debug!(%error, "replacement of a coordinator's volume not recorded yet"),
        },
        Step::Wait => {}
    }
}

fn step(under_way: Option<&CoordinatorReplicas>, status: &ReplicaStatus) -> Step {
    if !status.voters_outgoing.is_empty() {
        // The group's leader leads it on by itself.
        return Step::Wait;
    }
    let joining = under_way.and_then(CoordinatorReplicas::joining_replica);
    // A change may be made long after it was asked for, when its replacement is over.
    let is_stray = |learner: &ReplicaId| joining != Some(*learner);
    if let Some(stray) = status.learners.iter().copied().find(is_stray) {
        return Step::Change(MembershipChange::RemoveLearner(stray));
    }
    let (Some(replicas), Some(add)) = (under_way, joining) else { return Step::Wait };
    let coordinator = replicas.coordinator;
    let ended = |replaced| Step::Record(MetadataCommand::EndReplacement { coordinator, replica: add, replaced });
    let (votes, learns) = (status.voters.contains(&add), status.learners.contains(&add));
    let cancelling = replicas.joining.is_some_and(|joining| joining.cancelling);
    match (votes, learns, cancelling) {
        (true, _, _) => ended(true),
        (false, true, true) => Step::Change(MembershipChange::RemoveLearner(add)),
        (false, false, true) => ended(false),
        (false, true, false) => Step::Change(MembershipChange::Replace { add, remove: replicas.voter }),
        (false, false, false) => Step::Change(MembershipChange::AddLearner(add)),
    }
}

#[cfg(test)]
mod tests {
    use semel_raft::{LogIndex, Role};
    use semel_workflow::{CoordinatorId, JoiningReplica, VolumeId};

    use super::*;

    fn replica(id: u64) -> ReplicaId {
        ReplicaId::new(id).expect("not 0")
    }

    fn status(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> ReplicaStatus {
        let ids = |ids: &[u64]| ids.iter().copied().map(replica).collect();
        ReplicaStatus {
            replica: replica(1),
            role: Role::Leader,
            term: 3,
            leader: Some(replica(1)),
            commit: LogIndex(9),
            applied: LogIndex(9),
            last_index: LogIndex(9),
            truncated: LogIndex(0),
            voters: ids(voters),
            voters_outgoing: ids(outgoing),
            learners: ids(learners),
            epoch: 4,
            is_member: true,
            followers: Vec::new(),
        }
    }

    /// The volume of coordinator 2 is replaced: by replica 6, and that was given up or not.
    fn under_way(cancelling: bool) -> CoordinatorReplicas {
        let coordinator = CoordinatorId::new(2).expect("in range");
        let joining = Some(JoiningReplica { volume: VolumeId([1; 16]), cancelling });
        CoordinatorReplicas { coordinator, voter: replica(2), newest: replica(6), joining }
    }

    fn check(cancelling: Option<bool>, voters: &[u64], outgoing: &[u64], learners: &[u64], expected: &Step) {
        let recorded = cancelling.map(under_way);
        let found = step(recorded.as_ref(), &status(voters, outgoing, learners));
        assert_eq!(found, *expected, "{recorded:?} {voters:?} {outgoing:?} {learners:?}");
    }

    /// Whatever happened before, the configuration and the record say what is next.
    #[test]
    fn a_replacement_goes_on_from_wherever_it_is() {
        let six = replica(6);
        let coordinator = CoordinatorId::new(2).expect("in range");
        let end = |replaced| Step::Record(MetadataCommand::EndReplacement { coordinator, replica: six, replaced });
        let removed = |id| Step::Change(MembershipChange::RemoveLearner(replica(id)));
        let replaced = Step::Change(MembershipChange::Replace { add: six, remove: replica(2) });
        check(Some(false), &[1, 2, 3], &[], &[], &Step::Change(MembershipChange::AddLearner(six)));
        check(Some(false), &[1, 2, 3], &[], &[6], &replaced);
        check(Some(false), &[1, 3, 6], &[1, 2, 3], &[], &Step::Wait);
        check(Some(false), &[1, 3, 6], &[], &[], &end(true));
        check(Some(true), &[1, 2, 3], &[], &[6], &removed(6));
        check(Some(true), &[1, 2, 3], &[], &[], &end(false));
        check(Some(true), &[1, 3, 6], &[1, 2, 3], &[], &Step::Wait);
        check(Some(true), &[1, 3, 6], &[], &[], &end(true));
        // A learner of a replacement that is over.
        check(None, &[1, 2, 3], &[], &[6], &removed(6));
        check(Some(false), &[1, 2, 3], &[], &[5, 6], &removed(5));
        check(None, &[1, 2, 3], &[], &[], &Step::Wait);
    }
}
