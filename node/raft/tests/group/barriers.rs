//! What readers learn. That no barrier misses what was acknowledged before it is checked in every simulation.

use semel_raft::{BarrierError, Ticket};

use crate::simulation::Simulation;

#[test]
fn any_replica_confirms_a_barrier_at_or_above_what_was_acknowledged() {
    let mut group = Simulation::new(10, 3);
    group.elect();
    for round in 0..20 {
        let proposed = group.propose(round % 3);
        group.run(2);
        let index = group.receipts[&proposed].clone().expect("applied").index;
        for member in 0..3 {
            let asked = group.barrier(member);
            group.settle();
            assert!(group.barriers[&asked].clone().expect("confirmed") >= index);
        }
    }
}

#[test]
fn no_barrier_is_confirmed_in_a_minority() {
    for seed in 0..10 {
        let mut group = Simulation::new(seed, 3);
        let leader = group.elect();
        group.cut = [leader].into();
        let mut asked: Vec<Ticket> = Vec::new();
        for _ in 0..30 {
            asked.push(group.barrier(leader));
            group.run(1);
        }
        // The others go on, so an index confirmed in the minority would be an old one.
        let other = group.elect();
        let proposed = group.propose(other);
        group.run(120);
        assert!(group.receipts[&proposed].is_ok());
        for ticket in asked {
            assert_eq!(group.barriers[&ticket], Err(BarrierError::NotConfirmed), "SEED={seed}");
        }
        group.check_settled();
    }
}

#[test]
fn a_barrier_outlives_a_change_of_leader() {
    let mut group = Simulation::new(11, 3);
    let leader = group.elect();
    let follower = (leader + 1) % 3;
    group.kill(leader);
    let asked = group.barrier(follower);
    group.run_until("the barrier is answered", 200, |group| group.barriers.contains_key(&asked));
    let answer = group.barriers[&asked].clone();
    // Five attempts of eight ticks are about as long as an election: either end is right, silence is not.
    assert!(answer.is_ok() || answer == Err(BarrierError::NotConfirmed));
    let asked = group.barrier(follower);
    group.elect();
    group.run(10);
    assert!(group.barriers[&asked].is_ok());
}

#[test]
fn a_round_sent_to_a_dead_leader_is_asked_again_as_soon_as_another_leads() {
    let mut group = Simulation::configured(26, 3, |config| config.barrier_ticks = 10_000);
    let leader = group.elect();
    let follower = (leader + 1) % 3;
    group.cut = [leader].into();
    let asked = group.barrier(follower);
    group.settle();
    group.run_until("the barrier is answered", 300, |group| group.barriers.contains_key(&asked));
    assert!(group.barriers[&asked].is_ok());
}

#[test]
fn barriers_asked_for_together_share_one_round() {
    let mut group = Simulation::new(12, 3);
    let leader = group.elect();
    group.settle();
    let messages_before = group.sent();
    let asked: Vec<Ticket> = (0..100).map(|_| group.barrier(leader)).collect();
    group.settle();
    assert!(asked.iter().all(|ticket| group.barriers[ticket].is_ok()));
    assert_eq!(group.sent() - messages_before, 4, "two heartbeats and their answers");
}
