//! Who belongs to a group changes while it works.

use semel_raft::MembershipChange::{AddLearner, RemoveLearner, Replace};
use semel_raft::{BarrierError, Event, MembershipError, ProposeError, ReplicaConfig, ReplicaId, Role};

use crate::simulation::Simulation;
use crate::snapshots::tight;

fn ids(group: &Simulation, members: &[usize]) -> Vec<ReplicaId> {
    members.iter().map(|member| group.members[*member].id).collect()
}

/// Adds a learner to the group and waits until its leader knows that it has the log.
fn add_learner(group: &mut Simulation) -> usize {
    let joined = group.join();
    let leader = group.leader().expect("a leader");
    let ticket = group.change(leader, AddLearner(group.members[joined].id));
    group.run_until("the learner is caught up", 100, |group| {
        let status = group.node(leader).status();
        let learner = status.followers.iter().find(|follower| follower.replica == group.members[joined].id);
        group.memberships.contains_key(&ticket) && learner.is_some_and(|known| known.matched == status.last_index)
    });
    assert!(group.memberships[&ticket].is_ok(), "{:?}", group.memberships[&ticket]);
    joined
}

#[test]
fn a_learner_gets_a_snapshot_and_takes_a_voters_place() {
    let mut group = Simulation::configured(41, 3, tight);
    let leader = group.elect();
    for _ in 0..30 {
        group.propose(leader);
        group.run(1);
    }
    let joined = add_learner(&mut group);
    assert_eq!((group.snapshots_installed, group.node(leader).status().epoch), (1, 1));
    assert_eq!(group.node(joined).status().learners, ids(&group, &[joined]));
    let removed = (leader + 1) % 3;
    let [add, remove] = [joined, removed].map(|member| group.members[member].id);
    let ticket = group.change(leader, Replace { add, remove });
    group.run(10);
    assert_eq!(group.memberships[&ticket], Ok(3), "two steps");
    let status = group.node(leader).status();
    assert_eq!(
        status.voters,
        ids(&group, &[0, 1, 2, 3].into_iter().filter(|member| *member != removed).collect::<Vec<_>>())
    );
    assert!(status.learners.is_empty() && status.voters_outgoing.is_empty() && status.is_member);
    // It counts: with it alone the leader has a majority.
    group.kill(removed);
    let other = (leader + 2) % 3;
    group.kill(other);
    let ticket = group.propose(leader);
    group.run(3);
    assert!(group.receipts[&ticket].is_ok());
    group.check_settled();
}

#[test]
fn changes_that_do_not_fit_are_refused_and_change_nothing() {
    let mut group = Simulation::new(42, 3);
    let leader = group.elect();
    let voter = group.members[(leader + 1) % 3].id;
    let follower = (leader + 2) % 3;
    let strangers = [91, 92, 93].map(|id| ReplicaId::new(id).expect("not zero"));
    let refused = |group: &mut Simulation, change, expected: MembershipError| {
        let before = group.node(leader).status();
        let ticket = group.change(leader, change);
        group.settle();
        assert_eq!(group.memberships[&ticket], Err(expected), "{change:?}");
        assert_eq!(group.node(leader).status().last_index, before.last_index, "{change:?}");
    };
    refused(&mut group, AddLearner(voter), MembershipError::AlreadyMember { replica: voter });
    refused(&mut group, RemoveLearner(voter), MembershipError::NotLearner { replica: voter });
    refused(&mut group, RemoveLearner(strangers[0]), MembershipError::NotLearner { replica: strangers[0] });
    let replace = Replace { add: strangers[0], remove: voter };
    refused(&mut group, replace, MembershipError::NotLearner { replica: strangers[0] });
    let joined = add_learner(&mut group);
    let learner = group.members[joined].id;
    let replace = Replace { add: learner, remove: strangers[0] };
    refused(&mut group, replace, MembershipError::NotVoter { replica: strangers[0] });
    refused(&mut group, Replace { add: learner, remove: learner }, MembershipError::NotVoter { replica: learner });
    add_learner(&mut group);
    refused(&mut group, AddLearner(strangers[2]), MembershipError::TooManyLearners { learners_max: 2 });
    let ticket = group.change_from(leader, RemoveLearner(learner), 1);
    let elsewhere = group.change(follower, RemoveLearner(learner));
    group.settle();
    assert_eq!(group.memberships[&ticket], Err(MembershipError::WrongEpoch { epoch: 2 }));
    let leader_id = Some(group.members[leader].id);
    assert_eq!(group.memberships[&elsewhere], Err(MembershipError::NotLeader { leader: leader_id }));
    let first = group.change(leader, RemoveLearner(learner));
    let second = group.change(leader, RemoveLearner(learner));
    group.run(3);
    assert_eq!(group.memberships[&first], Ok(3));
    assert_eq!(group.memberships[&second], Err(MembershipError::InProgress));
    group.check_settled();
}

#[test]
fn a_learner_that_is_behind_or_silent_is_made_no_voter() {
    let mut group = Simulation::configured(43, 3, |config| config.learner_lag_max = 4);
    let leader = group.elect();
    let joined = add_learner(&mut group);
    let [add, remove] = [joined, (leader + 1) % 3].map(|member| group.members[member].id);
    group.kill(joined);
    for _ in 0..5 {
        group.propose(leader);
    }
    group.run(50);
    let ticket = group.change(leader, Replace { add, remove });
    group.settle();
    assert!(
        matches!(group.memberships[&ticket], Err(MembershipError::NotCaughtUp { learner, lag }) if learner == add && lag > 4),
        "{:?}",
        group.memberships[&ticket]
    );
    group.start(joined);
    group.run(20);
    let ticket = group.change(leader, Replace { add, remove });
    group.run(5);
    assert_eq!(group.memberships[&ticket], Ok(3));
    group.check_settled();
}

/// A log shorter than the lag that learners may have once made a voter of a learner that was never heard of.
#[test]
fn a_learner_that_was_never_heard_of_is_made_no_voter_however_short_the_log() {
    let mut group = Simulation::new(48, 3);
    let leader = group.elect();
    let joined = group.join();
    group.kill(joined);
    let [add, remove] = [joined, (leader + 1) % 3].map(|member| group.members[member].id);
    let added = group.change(leader, AddLearner(add));
    group.run(10);
    assert_eq!(group.memberships[&added], Ok(1));
    let ticket = group.change(leader, Replace { add, remove });
    group.settle();
    let answer = &group.memberships[&ticket];
    assert!(matches!(answer, Err(MembershipError::NotCaughtUp { learner, .. }) if *learner == add), "{answer:?}");
}

#[test]
fn a_leader_hands_over_before_it_is_replaced() {
    let mut group = Simulation::new(44, 3);
    let leader = group.elect();
    let joined = add_learner(&mut group);
    let [add, remove] = [joined, leader].map(|member| group.members[member].id);
    let ticket = group.change(leader, Replace { add, remove });
    group.run(5);
    let Err(MembershipError::LeadershipMoves { to }) = group.memberships[&ticket] else {
        panic!("{:?}", group.memberships[&ticket])
    };
    let next = group.leader().expect("it moved");
    assert_eq!(group.members[next].id, to);
    // The new leader has yet to hear of the learner.
    group.run(5);
    let ticket = group.change(next, Replace { add, remove });
    group.run(5);
    assert_eq!(group.memberships[&ticket], Ok(3));
    assert_eq!(group.leader(), Some(next));
    group.check_settled();
}

#[test]
fn the_only_voter_can_be_replaced() {
    let mut group = Simulation::configured(45, 1, tight);
    let leader = group.elect();
    for _ in 0..40 {
        group.propose(leader);
        group.run(1);
    }
    let joined = add_learner(&mut group);
    let [add, remove] = [joined, leader].map(|member| group.members[member].id);
    group.change(leader, Replace { add, remove });
    group.run_until("the other leads alone", 200, |group| {
        let status = group.node(joined).status();
        status.role == Role::Leader && status.voters == [add] && status.voters_outgoing.is_empty()
    });
    group.kill(leader);
    let ticket = group.propose(joined);
    group.run(3);
    assert!(group.receipts[&ticket].is_ok());
}

#[test]
fn a_replica_outside_its_configuration_answers_nobody() {
    let mut group = Simulation::new(46, 3);
    let leader = group.elect();
    let joined = group.join();
    let answers = |group: &mut Simulation, member: usize| {
        let (proposed, asked) = (group.propose(member), group.barrier(member));
        group.settle();
        (group.receipts.remove(&proposed), group.barriers.remove(&asked))
    };
    let refused = (Some(Err(ProposeError::NoLeader)), Some(Err(BarrierError::NotConfirmed)));
    assert_eq!(answers(&mut group, joined), refused, "it was told no configuration");
    group.run(100);
    assert_eq!(group.node(joined).status().term, 0, "and does not campaign");
    let ticket = group.change(leader, AddLearner(group.members[joined].id));
    group.run(20);
    assert_eq!(group.memberships[&ticket], Ok(1));
    let (proposed, asked) = answers(&mut group, joined);
    assert!(proposed.is_some_and(|receipt| receipt.is_ok()) && asked.is_some_and(|answer| answer.is_ok()));
    let ticket = group.change(leader, RemoveLearner(group.members[joined].id));
    group.run(1);
    assert_eq!(group.memberships[&ticket], Ok(2));
    // It may never hear of it; where it does, it keeps to it.
    if !group.node(joined).status().is_member {
        assert_eq!(answers(&mut group, joined), refused);
    }
    group.check_settled();
}

#[test]
fn a_group_left_between_two_configurations_is_led_on() {
    let mut between = 0;
    for seed in 0..40 {
        let mut group = Simulation::new(seed, 3);
        let leader = group.elect();
        let joined = add_learner(&mut group);
        let [add, remove] = [joined, (leader + 1) % 3].map(|member| group.members[member].id);
        group.change(leader, Replace { add, remove });
        group.delay_ticks_max = 3;
        for _ in 0..seed % 7 {
            group.run(1);
        }
        group.kill(leader);
        let status = group.node((leader + 2) % 3).status();
        between += usize::from(!status.voters_outgoing.is_empty());
        group.run_until("another leader has led the group on, or never heard of the change", 600, |group| {
            let Some(leader) = group.leader() else { return false };
            let status = group.node(leader).status();
            status.voters_outgoing.is_empty() && status.applied == status.last_index
        });
        group.check_settled();
    }
    assert!(between > 3, "{between} groups were between two configurations");
}

/// One round of a life full of faults: members come, catch up by snapshots, take the places of others, and go.
fn moves(seed: u64, configure: fn(&mut ReplicaConfig)) -> (Simulation, usize) {
    let mut group = Simulation::configured(seed, 3, configure);
    group.elect();
    (group.lost_one_in, group.delay_ticks_max, group.death_one_in) = (25, 3, 500);
    group.sync_ticks_max = 3;
    (group.snapshot_lost_one_in, group.snapshot_ticks) = (4, 6);
    group.join();
    let mut replaced = 0;
    for _ in 0..700 {
        group.run(1);
        for member in group.running() {
            if group.chance.one_in(5) && group.running().contains(&member) {
                group.propose(member);
            }
            if group.chance.one_in(9) && group.running().contains(&member) {
                group.barrier(member);
            }
            if group.chance.one_in(300) && group.running().contains(&member) {
                let to = group.chance.below(group.members.len());
                let to = group.members[to].id;
                group.step(member, Event::TransferLeadership(to));
            }
        }
        for member in 0..group.members.len() {
            if group.members[member].node.is_none() && group.chance.one_in(25) {
                group.start(member);
            }
        }
        if group.chance.one_in(110) {
            let member = group.chance.below(group.members.len());
            group.cut = [member].into();
        } else if group.chance.one_in(30) {
            group.cut.clear();
        }
        if group.chance.one_in(8) && next_change(&mut group) {
            replaced += 1;
        }
    }
    group.check_settled();
    (group, replaced)
}

/// Asks for the next step towards a group of which the oldest voter is replaced by the newest member. Tells whether that was
/// reached, and has another join.
fn next_change(group: &mut Simulation) -> bool {
    let Some(leader) = group.leader() else { return false };
    let status = group.node(leader).status();
    let newest = group.members.last().expect("there are some").id;
    if status.voters.contains(&newest) {
        let reached = status.voters_outgoing.is_empty() && group.members.len() < 9;
        if reached {
            group.join();
        }
        return reached;
    }
    let change = if status.learners.contains(&newest) {
        Replace { add: newest, remove: status.voters[0] }
    } else {
        AddLearner(newest)
    };
    group.change(leader, change);
    false
}

#[test]
fn promises_hold_while_members_are_replaced_through_loss_delay_partition_and_death() {
    let (mut acknowledged, mut confirmed, mut replaced, mut installed, mut removed_leaders) = (0, 0, 0, 0, 0);
    for seed in crate::chance::seeds(80) {
        let (group, reached) = moves(seed, tight);
        acknowledged += group.acknowledged();
        confirmed += group.barriers.values().filter(|answer| answer.is_ok()).count();
        replaced += reached;
        installed += group.snapshots_installed;
        removed_leaders += group.removed_leaders;
    }
    if crate::chance::replays_one_seed() {
        return;
    }
    assert!(acknowledged > 5_000, "{acknowledged} acknowledged commands are too few to mean anything");
    assert!(confirmed > 3_000, "{confirmed} confirmed barriers are too few to mean anything");
    assert!(replaced > 150, "{replaced} members replaced are too few to mean anything");
    assert!(installed > 300, "{installed} snapshots are too few to mean anything");
    assert!(removed_leaders > 0, "no leader found itself removed");
}
