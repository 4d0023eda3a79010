//! One leader, found again when it is gone.

use std::collections::BTreeMap;

use semel_raft::{Event, Role};

use crate::simulation::Simulation;

#[test]
fn a_group_elects_one_leader_per_term() {
    for seed in 0..20 {
        let mut group = Simulation::new(seed, 5);
        (group.lost_one_in, group.delay_ticks_max) = (10, 4);
        let mut leaders = BTreeMap::new();
        for _ in 0..400 {
            group.run(1);
            if group.chance.one_in(120) {
                let member = group.chance.below(5);
                group.cut = [member].into();
            }
            for member in group.running() {
                let status = group.node(member).status();
                if status.role == Role::Leader {
                    assert_eq!(*leaders.entry(status.term).or_insert(member), member, "SEED={seed}: two leaders");
                }
            }
        }
        assert!(!leaders.is_empty(), "SEED={seed}: no leader");
        group.check_settled();
    }
}

#[test]
fn a_group_without_its_leader_elects_another() {
    let mut group = Simulation::new(1, 3);
    let first = group.elect();
    group.kill(first);
    group.run_until("another leads", 200, |group| group.leader().is_some());
    assert_ne!(group.leader(), Some(first));
    group.check_settled();
}

#[test]
fn a_leader_cut_off_from_its_majority_steps_down() {
    let mut group = Simulation::new(2, 3);
    let first = group.elect();
    group.cut = [first].into();
    group.run(100);
    assert_ne!(group.node(first).status().role, Role::Leader);
    let term = group.node(first).status().term;
    let second = group.leader().expect("the majority has elected");
    assert!(group.node(second).status().term > term, "who is cut off does not raise the term");
    group.check_settled();
}

#[test]
fn leadership_moves_when_the_leader_is_told() {
    let mut group = Simulation::new(3, 3);
    let first = group.elect();
    let next = (first + 1) % 3;
    let to = group.members[next].id;
    group.step(first, Event::TransferLeadership(to));
    group.run(10);
    assert_eq!(group.leader(), Some(next));
    group.check_settled();
}

#[test]
fn a_leader_knows_how_far_its_followers_are() {
    let mut group = Simulation::new(4, 3);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    for _ in 0..5 {
        group.propose(leader);
    }
    group.run(5);
    let status = group.node(leader).status();
    assert_eq!(status.leader, Some(group.members[leader].id));
    assert_eq!(status.voters, group.members.iter().map(|member| member.id).collect::<Vec<_>>());
    assert_eq!(status.followers.len(), 2);
    for follower in status.followers {
        let late = follower.replica == group.members[behind].id;
        assert_eq!(follower.matched < status.last_index, late);
    }
}
