//! What proposers learn.

use semel_raft::{ProposeError, Ticket};

use crate::simulation::Simulation;

#[test]
fn leader_and_followers_give_each_proposer_its_receipt() {
    let mut group = Simulation::new(5, 3);
    group.elect();
    let tickets: Vec<Ticket> = (0..60).map(|number| group.propose(number % 3)).collect();
    group.run(3);
    let indices: Vec<_> = tickets.iter().map(|ticket| group.receipts[ticket].clone().expect("applied").index).collect();
    let mut distinct = indices.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 60);
    group.check_settled();
}

#[test]
fn a_single_voter_needs_nobody() {
    let mut group = Simulation::new(6, 1);
    group.elect();
    let ticket = group.propose(0);
    let barrier = group.barrier(0);
    group.settle();
    let index = group.receipts[&ticket].clone().expect("applied").index;
    assert!(group.barriers[&barrier].clone().expect("confirmed") < index, "the barrier was asked before the receipt");
    group.kill(0);
    group.check_settled();
}

#[test]
fn a_replica_without_a_leader_proposes_nothing() {
    let mut group = Simulation::new(7, 3);
    let ticket = group.propose(0);
    group.settle();
    assert_eq!(group.receipts[&ticket], Err(ProposeError::NoLeader));
}

#[test]
fn a_proposal_lost_on_the_way_ends_with_an_unknown_outcome() {
    let mut group = Simulation::new(8, 3);
    let leader = group.elect();
    let follower = (leader + 1) % 3;
    let ticket = group.propose(follower);
    group.cut = [leader].into();
    group.run(59);
    assert!(!group.receipts.contains_key(&ticket));
    group.run(1);
    assert_eq!(group.receipts[&ticket], Err(ProposeError::Unknown));
    group.check_settled();
}

#[test]
fn a_proposal_that_reaches_a_former_leader_is_passed_on() {
    let mut group = Simulation::new(9, 3);
    let former = group.elect();
    let (next, follower) = ((former + 1) % 3, (former + 2) % 3);
    group.cut = [follower].into();
    let to = group.members[next].id;
    group.step(former, semel_raft::Event::TransferLeadership(to));
    group.run(2);
    assert_eq!(group.leader(), Some(next));
    group.cut.clear();
    assert_eq!(group.node(follower).status().leader, Some(group.members[former].id), "it has not heard of the change");
    let ticket = group.propose(follower);
    group.run(10);
    assert!(group.receipts[&ticket].is_ok());
    group.check_settled();
}

#[test]
fn proposals_wait_out_a_change_of_leader_that_comes_to_nothing() {
    let mut group = Simulation::new(25, 3);
    let leader = group.elect();
    let (gone, follower) = ((leader + 1) % 3, (leader + 2) % 3);
    group.kill(gone);
    let to = group.members[gone].id;
    group.step(leader, semel_raft::Event::TransferLeadership(to));
    let tickets = [group.propose(leader), group.propose(follower)];
    group.run(10);
    assert!(tickets.iter().all(|ticket| !group.receipts.contains_key(ticket)));
    group.run(15);
    assert!(tickets.iter().all(|ticket| group.receipts[ticket].is_ok()));
    group.check_settled();
}
