//! Everything that can grow has a bound.

use semel_raft::{BarrierError, COMMAND_BYTES_MAX, ProposeError, Ticket};

use crate::simulation::Simulation;

#[test]
fn proposals_beyond_the_bound_are_refused() {
    let mut group = Simulation::configured(15, 3, |config| config.proposals_pending_max = 10);
    let leader = group.elect();
    let tickets: Vec<Ticket> = (0..15).map(|_| group.propose(leader)).collect();
    group.settle();
    for (position, ticket) in tickets.iter().enumerate() {
        let refused = group.receipts[ticket] == Err(ProposeError::TooManyPending);
        assert_eq!(refused, position >= 10);
    }
    let ticket = group.propose(leader);
    group.settle();
    assert!(group.receipts[&ticket].is_ok(), "room is made by receipts");
}

#[test]
fn a_command_above_the_bound_is_refused_and_one_at_it_is_not() {
    let mut group = Simulation::new(16, 3);
    let leader = group.elect();
    let fits = group.propose_bytes(leader, COMMAND_BYTES_MAX);
    let exceeds = group.propose_bytes((leader + 1) % 3, COMMAND_BYTES_MAX + 1);
    group.run(2);
    assert!(group.receipts[&fits].is_ok());
    let error = ProposeError::TooLarge { bytes: COMMAND_BYTES_MAX + 1, bytes_max: COMMAND_BYTES_MAX };
    assert_eq!(group.receipts[&exceeds], Err(error));
}

#[test]
fn a_leader_without_followers_takes_only_so_many_bytes() {
    let mut group = Simulation::configured(17, 3, |config| {
        (config.append_bytes_max, config.uncommitted_bytes_max) = (1_000, 4_000);
    });
    let leader = group.elect();
    group.cut = [leader].into();
    let tickets: Vec<Ticket> = (0..10).map(|_| group.propose_bytes(leader, 900)).collect();
    group.settle();
    let refused =
        tickets.iter().filter(|ticket| group.receipts.get(ticket) == Some(&Err(ProposeError::TooManyPending)));
    assert_eq!(refused.count(), 6);
    group.check_settled();
}

#[test]
fn messages_and_batches_stay_within_their_bytes() {
    let mut group = Simulation::configured(18, 3, |config| {
        (config.append_bytes_max, config.apply_bytes_max) = (4_000, 4_000);
    });
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    let tickets: Vec<Ticket> = (0..100).map(|_| group.propose_bytes(leader, 500)).collect();
    group.run(5);
    assert!(tickets.iter().all(|ticket| group.receipts[ticket].is_ok()));
    group.start(behind);
    group.check_settled();
    assert!(group.message_bytes_max <= 4_200, "a message of {} bytes", group.message_bytes_max);
    assert!(group.message_bytes_max >= 2_000, "entries do share messages");
    assert!(group.batch_applies_max <= 8, "{} commands in one batch", group.batch_applies_max);
}

#[test]
fn barriers_beyond_the_bound_are_refused() {
    let mut group = Simulation::configured(19, 3, |config| config.barriers_pending_max = 10);
    let leader = group.elect();
    let asked: Vec<Ticket> = (0..15).map(|_| group.barrier(leader)).collect();
    group.settle();
    for (position, ticket) in asked.iter().enumerate() {
        assert_eq!(group.barriers[ticket] == Err(BarrierError::TooManyPending), position >= 10);
    }
}

#[test]
fn unanswered_rounds_are_bounded_and_later_barriers_wait_for_them() {
    let mut group = Simulation::configured(20, 3, |config| config.barrier_rounds_max = 2);
    let leader = group.elect();
    group.cut = [leader].into();
    let messages_before = group.sent();
    let mut asked = Vec::new();
    for _ in 0..6 {
        asked.push(group.barrier(leader));
        group.settle();
    }
    assert_eq!(group.sent() - messages_before, 4, "two rounds of two messages");
    group.cut.clear();
    group.run(20);
    assert!(asked.iter().all(|ticket| group.barriers[ticket].is_ok()));
}
