//! The same seed and events give the same effects.

use semel_raft::ReplicaConfig;

use crate::simulation::Simulation;

fn transcript(seed: u64) -> Vec<u8> {
    let mut group = Simulation::new(seed, 5);
    (group.lost_one_in, group.delay_ticks_max, group.death_one_in) = (15, 4, 300);
    group.sync_ticks_max = 2;
    for tick in 0..400 {
        group.run(1);
        let member = group.chance.below(5);
        if group.running().contains(&member) {
            group.propose(member);
        } else if tick % 7 == 0 {
            group.start(member);
        }
        let member = group.chance.below(5);
        if group.running().contains(&member) {
            group.barrier(member);
        }
    }
    group.check_settled();
    group.transcript
}

#[test]
fn the_same_seed_gives_the_same_effects_byte_for_byte() {
    for seed in 0..5 {
        let first = transcript(seed);
        assert!(first.len() > 100_000);
        assert!(first == transcript(seed), "SEED={seed}: two runs differ");
    }
}

#[test]
fn another_seed_gives_other_election_timeouts() {
    fn ticks_to_elect(configure: fn(&mut ReplicaConfig)) -> usize {
        let mut group = Simulation::configured(14, 3, configure);
        let mut ticks = 0;
        while group.leader().is_none() {
            group.run(1);
            ticks += 1;
        }
        ticks
    }
    let seeds: [fn(&mut ReplicaConfig); 4] =
        [|config| config.seed = 1, |config| config.seed = 2, |config| config.seed = 3, |config| config.seed = 4];
    let mut ticks: Vec<usize> = seeds.into_iter().map(ticks_to_elect).collect();
    ticks.sort_unstable();
    ticks.dedup();
    assert!(ticks.len() > 1);
}
