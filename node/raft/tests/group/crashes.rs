//! Nothing acknowledged is lost, whoever dies and whenever.

use semel_raft::Event;

use crate::simulation::Simulation;

#[test]
fn acknowledged_commands_survive_the_death_of_any_replica_at_any_effect_boundary() {
    let scenario = |death_at: Option<(usize, u64)>| {
        let mut group = Simulation::new(13, 3);
        group.elect();
        let started = group.boundaries;
        group.death_at = death_at.map(|(member, boundary)| (member, started + boundary));
        for number in 0..6 {
            let member = number % 3;
            if group.running().contains(&member) {
                group.propose(member);
            }
            group.run(1);
        }
        let length = group.boundaries - started;
        group.check_settled();
        (group, length)
    };
    let (undisturbed, length) = scenario(None);
    assert_eq!(undisturbed.acknowledged(), 6 + 3);
    assert!(length > 60, "{length} boundaries are too few to mean anything");
    for member in 0..3 {
        for boundary in 0..length {
            scenario(Some((member, boundary)));
        }
    }
}

#[test]
fn promises_hold_through_random_loss_delay_partition_and_death() {
    let mut acknowledged = 0;
    let mut confirmed = 0;
    for seed in crate::chance::seeds(60) {
        let mut group = Simulation::new(seed, if seed % 5 == 0 { 5 } else { 3 });
        (group.lost_one_in, group.delay_ticks_max, group.death_one_in) = (20, 3, 400);
        group.sync_ticks_max = 4;
        let members = group.members.len();
        for _ in 0..400 {
            group.run(1);
            for member in group.running() {
                if group.chance.one_in(4) && group.running().contains(&member) {
                    group.propose(member);
                }
                if group.chance.one_in(6) && group.running().contains(&member) {
                    group.barrier(member);
                }
                if group.chance.one_in(150) && group.running().contains(&member) {
                    let to = group.chance.below(members);
                    let to = group.members[to].id;
                    group.step(member, Event::TransferLeadership(to));
                }
            }
            for member in 0..members {
                if group.members[member].node.is_none() && group.chance.one_in(25) {
                    group.start(member);
                }
            }
            if group.chance.one_in(80) {
                let member = group.chance.below(members);
                group.cut = [member].into();
            } else if group.chance.one_in(40) {
                group.cut.clear();
            }
        }
        group.check_settled();
        acknowledged += group.acknowledged();
        confirmed += group.barriers.values().filter(|answer| answer.is_ok()).count();
    }
    if crate::chance::replays_one_seed() {
        return;
    }
    assert!(acknowledged > 5_000, "{acknowledged} acknowledged commands are too few to mean anything");
    assert!(confirmed > 3_000, "{confirmed} confirmed barriers are too few to mean anything");
}
