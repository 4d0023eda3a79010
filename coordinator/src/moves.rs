//! Carries replica moves out, for as long as this coordinator leads the metadata group. The group's configuration, as its replicas report
//! it, says how far a move is; nothing about it is remembered here, so whoever leads next goes on.

use std::time::Duration;

use futures::future::join_all;
use semel_index::ShardId;
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::change_membership_request::Change;
use semel_proto::v1::ReplicaRole;
use semel_raft::ReplicaId;
use semel_workflow::{MetadataCommand, MetadataView, MoveState, ReplicaMove};
use tokio::time::Instant;

use crate::front::Front;
use crate::metadata::refused;
use crate::routes::{LIVE_WITHIN, Routes};

/// The pause between two looks at all moves.
const STEP_EVERY: Duration = Duration::from_millis(300);
/// How long a group may take to change, or the metadata group to record it, before it is looked at again.
const STEP_WITHIN: Duration = Duration::from_secs(4);
/// Log entries that a new replica may lack when it is about to take the old one's place.
const LAG_MAX: u64 = 128;

/// A group's configuration, as the replica that knows the latest reports it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Configuration {
    epoch: u64,
    voters: Vec<u64>,
    outgoing: Vec<u64>,
    learners: Vec<u64>,
    commit: u64,
}

/// What brings a move further.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Changes the group.
    Change(Change),
    /// Records how far it is.
    Record(MetadataCommand),
    /// Time.
    Wait,
}

/// Runs until dropped.
pub(crate) async fn run(front: &Front) {
    loop {
        tokio::time::sleep(STEP_EVERY).await;
        if !front.metadata.leads() {
            continue;
        }
        let view = front.metadata.view();
        let moves = view.moves().map(|moving| advance(front, moving));
        let strays = view.shard_map().keys().map(|shard| clear_away(front, &view, *shard));
        tokio::join!(join_all(moves), join_all(strays));
    }
}

/// How many log entries the new replica of a move lacks, as far as is known.
pub(crate) fn lag(routes: &Routes, moving: &ReplicaMove) -> Option<u64> {
    let commit = configuration(routes, moving.shard)?.commit;
    Some(commit.saturating_sub(applied(routes, moving)?))
}

async fn advance(front: &Front, moving: &ReplicaMove) {
    let Some(configuration) = configuration(&front.nodes.routes, moving.shard) else { return };
    let lag = applied(&front.nodes.routes, moving).map(|applied| configuration.commit.saturating_sub(applied));
    match step(moving, &configuration, lag) {
        Step::Change(change) => self::change(front, moving.shard, configuration.epoch, change).await,
        Step::Record(command) => {
            match front.metadata.propose(&command, Instant::now() + STEP_WITHIN).await.map(refused) {
                Ok(Ok(_)) => tracing::info!(shard = moving.shard.0, ?command, "move recorded"),
                Ok(Err(refusal)) => tracing::warn!(shard = moving.shard.0, %refusal, "move not recorded"),
                Err(error) => tracing::debug!(shard = moving.shard.0, %error, "move not recorded yet"),
            }
        }
        Step::Wait => {}
    }
}

fn step(moving: &ReplicaMove, configuration: &Configuration, lag: Option<u64>) -> Step {
    let ReplicaMove { shard, from, to, state } = *moving;
    let (add, remove) = (to.replica.get(), from.replica.get());
    let learns = configuration.learners.contains(&add);
    let ended = |replaced| Step::Record(MetadataCommand::EndMove { shard, replica: to.replica, replaced });
    if !configuration.outgoing.is_empty() {
        // The group's leader leads it on by itself.
        return Step::Wait;
    }
    if configuration.voters.contains(&add) {
        return ended(true);
    }
    match state {
        MoveState::Learning if !learns => Step::Change(Change::AddLearner(add)),
        MoveState::Learning if lag.is_some_and(|lag| lag <= LAG_MAX) => {
            Step::Record(MetadataCommand::BeginReplace { shard, replica: to.replica })
        }
        MoveState::Learning => Step::Wait,
        MoveState::Replacing if learns => Step::Change(Change::Replace(wire::ReplaceReplica { add, remove })),
        // An older report, or a learner that somebody took away.
        MoveState::Replacing => Step::Change(Change::AddLearner(add)),
        MoveState::Cancelling if learns => Step::Change(Change::RemoveLearner(add)),
        MoveState::Cancelling => ended(false),
    }
}

/// Removes learners that no move counts on: a change may be made long after it was asked for, when its move has been given up.
async fn clear_away(front: &Front, view: &MetadataView, shard: ShardId) {
    if view.move_of(shard).is_some() {
        return;
    }
    let Some(configuration) = configuration(&front.nodes.routes, shard) else { return };
    let stray = configuration.learners.iter().copied().find_map(ReplicaId::new);
    if let Some(stray) = stray.filter(|stray| !view.counts_on(shard, *stray)) {
        tracing::info!(shard = shard.0, replica = stray.get(), "a learner that no move counts on is removed");
        change(front, shard, configuration.epoch, Change::RemoveLearner(stray.get())).await;
    }
}

async fn change(front: &Front, shard: ShardId, expected_epoch: u64, change: Change) {
    let request =
        wire::ChangeMembershipRequest { shard: shard.0, expected_epoch, change: Some(change), ..Default::default() };
    match front.nodes.change_membership(request, Instant::now() + STEP_WITHIN).await {
        Ok(changed) => tracing::info!(shard = shard.0, ?change, epoch = changed.epoch, "group changed"),
        // What it has become shows in the next reports.
        Err(error) => tracing::debug!(shard = shard.0, ?change, %error, "group not changed yet"),
    }
}

/// The latest configuration that a replica of the shard reports, of those that belong to it.
fn configuration(routes: &Routes, shard: ShardId) -> Option<Configuration> {
    let reports = routes.reports();
    let fresh = reports.values().filter(|report| report.at.elapsed() < LIVE_WITHIN);
    let replicas = fresh.flat_map(|report| &report.replicas).filter(|replica| replica.shard == shard.0);
    let members = replicas.filter(|replica| !replica.voters.is_empty());
    let leads = |replica: &wire::ReplicaReport| {
        replica.status.as_ref().is_some_and(|status| status.role() == ReplicaRole::Leader)
    };
    let latest = members.max_by_key(|replica| (replica.epoch, leads(replica), replica.commit_index))?;
    Some(Configuration {
        epoch: latest.epoch,
        voters: latest.voters.clone(),
        outgoing: latest.voters_outgoing.clone(),
        learners: latest.learners.clone(),
        commit: latest.commit_index,
    })
}

/// How far the new replica of a move has applied the log, if it reports.
fn applied(routes: &Routes, moving: &ReplicaMove) -> Option<u64> {
    let reports = routes.reports();
    let report = reports.get(&moving.to.node.0).filter(|report| report.at.elapsed() < LIVE_WITHIN)?;
    let of_move = report.replicas.iter().filter_map(|replica| replica.status.as_ref());
    let of_move = of_move.filter(|status| status.replica == moving.to.replica.get());
    of_move.filter(|status| status.role() == ReplicaRole::Learner).map(|status| status.applied_index).next()
}

#[cfg(test)]
mod tests {
    use semel_workflow::{NodeId, Voter};

    use super::*;

    fn moving(state: MoveState) -> ReplicaMove {
        let voter =
            |replica, node| Voter { replica: ReplicaId::new(replica).expect("not 0"), node: NodeId([node; 16]) };
        ReplicaMove { shard: ShardId(0), from: voter(1, 1), to: voter(9, 9), state }
    }

    fn check(state: MoveState, voters: &[u64], outgoing: &[u64], learners: &[u64], lag: Option<u64>, expected: &Step) {
        let configuration = Configuration {
            epoch: 4,
            voters: voters.to_vec(),
            outgoing: outgoing.to_vec(),
            learners: learners.to_vec(),
            commit: 1_000,
        };
        assert_eq!(step(&moving(state), &configuration, lag), *expected, "{state:?} {configuration:?} {lag:?}");
    }

    /// Whatever happened before, the configuration and the record say what is next.
    #[test]
    fn a_move_goes_on_from_wherever_it_is() {
        use MoveState::{Cancelling, Learning, Replacing};
        let (shard, replica) = (ShardId(0), ReplicaId::new(9).expect("not 0"));
        let begin = Step::Record(MetadataCommand::BeginReplace { shard, replica });
        let end = |replaced| Step::Record(MetadataCommand::EndMove { shard, replica, replaced });
        let replace = Step::Change(Change::Replace(wire::ReplaceReplica { add: 9, remove: 1 }));
        check(Learning, &[1, 2, 3], &[], &[], None, &Step::Change(Change::AddLearner(9)));
        check(Learning, &[1, 2, 3], &[], &[9], None, &Step::Wait);
        check(Learning, &[1, 2, 3], &[], &[9], Some(5_000), &Step::Wait);
        check(Learning, &[1, 2, 3], &[], &[9], Some(3), &begin);
        check(Replacing, &[1, 2, 3], &[], &[9], Some(3), &replace);
        check(Replacing, &[9, 2, 3], &[1, 2, 3], &[], None, &Step::Wait);
        check(Replacing, &[9, 2, 3], &[], &[], None, &end(true));
        check(Cancelling, &[1, 2, 3], &[], &[9], Some(0), &Step::Change(Change::RemoveLearner(9)));
        check(Cancelling, &[1, 2, 3], &[], &[], None, &end(false));
        check(Cancelling, &[9, 2, 3], &[1, 2, 3], &[], None, &Step::Wait);
        check(Cancelling, &[9, 2, 3], &[], &[], None, &end(true));
    }
}
