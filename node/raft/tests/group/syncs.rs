//! What goes on while a disk syncs, and what waits for it.

use semel_raft::{Event, Role};

use crate::simulation::Simulation;

/// Longer than any of these tests lasts.
const FOREVER: u64 = 1_000;

#[test]
fn nobody_waits_for_one_slow_disk_but_who_proposed_there() {
    for slow_is_leader in [true, false] {
        let mut group = Simulation::new(31, 3);
        let leader = group.elect();
        let slow = if slow_is_leader { leader } else { (leader + 1) % 3 };
        group.slow_disk = Some((slow, 12));
        let before = group.node(leader).status().commit;
        let (here, elsewhere) = (group.propose(slow), group.propose((slow + 1) % 3));
        let barriers: Vec<_> = (0..3).map(|member| group.barrier(member)).collect();
        group.run(4);
        let committed = group.node(leader).status().commit;
        assert!(committed.0 >= before.0 + 2, "{committed}: two of three have it on disk");
        assert!(group.node(slow).status().applied < committed, "what is not on its disk is not applied");
        assert!(group.receipts.contains_key(&elsewhere) && !group.receipts.contains_key(&here));
        assert!(barriers.iter().all(|barrier| group.barriers[barrier].is_ok()), "a barrier rests on no disk");
        group.run(20);
        assert!(group.receipts[&here].is_ok());
        assert_eq!(group.leader(), Some(leader), "a slow disk costs nobody the leadership");
        group.check_settled();
    }
}

#[test]
fn what_no_majority_has_on_disk_is_not_committed() {
    let mut group = Simulation::new(32, 3);
    let leader = group.elect();
    let follower = (leader + 1) % 3;
    let before = group.node(leader).status().commit;
    group.kill((leader + 2) % 3);
    group.slow_disk = Some((follower, FOREVER));
    let ticket = group.propose(leader);
    group.run(10);
    assert!(group.node(follower).status().last_index > before, "the entry is there");
    assert_eq!(group.node(leader).status().commit, before, "and not on disk");
    assert!(!group.receipts.contains_key(&ticket));
    group.check_settled();
}

#[test]
fn a_candidate_asks_nobody_before_its_own_vote_is_on_disk() {
    let mut group = Simulation::new(33, 3);
    let leader = group.elect();
    group.run(2);
    let candidate = (leader + 1) % 3;
    group.slow_disk = Some((candidate, FOREVER));
    let (id, term) = (group.members[candidate].id, group.node(leader).status().term);
    group.step(leader, Event::TransferLeadership(id));
    group.run(5);
    let status = group.node(candidate).status();
    assert_eq!((status.role, status.term), (Role::Candidate, term + 1));
    let others = (0..3).filter(|member| *member != candidate);
    assert!(others.map(|other| group.node(other).status().term).all(|other| other == term), "nobody heard of it");
    group.check_settled();
}

/// A candidate's timer once went on while its own vote and the others' were being written, and it began anew before they counted.
#[test]
fn a_leader_is_elected_though_every_disk_is_slow() {
    for seed in 40..60 {
        let mut group = Simulation::new(seed, 3);
        // The shortest election timeout is 20. A vote takes two syncs, one of who asks and one of who answers.
        (group.sync_ticks_min, group.sync_ticks_max) = (17, 19);
        let leader = group.elect();
        group.kill(leader);
        group.elect();
        group.check_settled();
    }
}
