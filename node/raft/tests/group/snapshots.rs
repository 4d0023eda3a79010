//! Logs are cut short, and who needs what was removed gets a snapshot.

use semel_raft::{LogIndex, ReplicaConfig, Table, rows};

use crate::simulation::Simulation;

pub(crate) fn tight(config: &mut ReplicaConfig) {
    (config.log_entries_max, config.log_entries_kept, config.log_entries_pinned_max) = (20, 8, 60);
    (config.snapshot_retry_ticks, config.entry_cache_bytes_max) = (10, 600);
}

fn propose(group: &mut Simulation, commands: usize) {
    for _ in 0..commands {
        let leader = group.leader().expect("a leader");
        group.propose(leader);
        group.run(1);
    }
}

#[test]
fn a_log_stays_within_its_bounds_and_a_restart_goes_on_from_it() {
    let mut group = Simulation::configured(31, 3, tight);
    group.elect();
    for round in 1..=4 {
        propose(&mut group, 60);
        group.run(5);
        for member in 0..3 {
            let status = group.node(member).status();
            assert!(status.applied.0 > 60 * round);
            assert!(status.applied.0 - status.truncated.0 <= 20, "{status:?}");
            let log = group.members[member].store.rows(Table::LOG);
            assert_eq!(log.len() as u64, status.last_index.0 - status.truncated.0);
            assert_eq!(log[0].0, rows::entry_key(LogIndex(status.truncated.0 + 1)));
            group.kill(member);
            group.start(member);
            assert_eq!(group.node(member).status().truncated, status.truncated);
        }
        group.elect();
    }
    group.check_settled();
    assert_eq!(group.snapshots_wanted, 0, "nobody was away");
}

#[test]
fn a_log_of_large_commands_is_cut_by_their_bytes() {
    let mut group = Simulation::configured(32, 3, |config| config.log_bytes_max = 200_000);
    let leader = group.elect();
    for _ in 0..300 {
        group.propose_bytes(leader, 10_000);
        group.run(1);
    }
    for member in 0..3 {
        let bytes = |store: &semel_raft::memory::MemoryStore| {
            store.rows(Table::LOG).iter().map(|(_, row)| row.len()).sum::<usize>()
        };
        assert!(bytes(&group.members[member].store) < 210_000);
        // After a restart the bytes are estimated, and the bound holds as before.
        group.kill(member);
        group.start(member);
        group.elect();
        for _ in 0..30 {
            let leader = group.leader().expect("a leader");
            group.propose_bytes(leader, 10_000);
            group.run(1);
        }
        assert!(bytes(&group.members[member].store) < 210_000);
    }
    group.check_settled();
}

/// The replicas of older volumes have logs that start with their first entry, and no row that says so.
#[test]
fn a_log_that_starts_with_its_first_entry_is_read_and_cut() {
    let mut group = Simulation::new(33, 3);
    for member in 0..3 {
        group.kill(member);
        let store = semel_raft::memory::MemoryStore::new();
        let mut batch = semel_raft::WriteBatch::default();
        let (key, conf_state) = group.members[member].store.rows(Table::RAFT).swap_remove(1);
        assert_eq!(key, rows::CONF_STATE);
        batch.put(Table::RAFT, key, conf_state);
        store.write(&batch);
        store.sync();
        group.members[member].store = store;
        group.start(member);
    }
    group.elect();
    propose(&mut group, 5);
    group.check_settled();
    let joined = group.join();
    let leader = group.leader().expect("a leader");
    let learner = group.members[joined].id;
    let ticket = group.change(leader, semel_raft::MembershipChange::AddLearner(learner));
    group.run(20);
    assert_eq!(group.memberships[&ticket], Ok(1));
    group.check_settled();
    assert_eq!(group.snapshots_installed, 1, "the configuration is in no entry");
    assert_eq!(group.node(joined).status().voters.len(), 3);
}

#[test]
fn a_follower_that_was_away_too_long_catches_up_by_a_snapshot() {
    let mut group = Simulation::configured(34, 3, tight);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    propose(&mut group, 50);
    group.start(behind);
    propose(&mut group, 20);
    assert_eq!((group.snapshots_wanted, group.snapshots_installed), (1, 1));
    group.check_settled();
}

#[test]
fn a_follower_that_was_away_for_less_is_sent_the_log() {
    let mut group = Simulation::configured(35, 3, tight);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    propose(&mut group, 6);
    group.start(behind);
    propose(&mut group, 20);
    group.check_settled();
    assert_eq!(group.snapshots_wanted, 0);
}

#[test]
fn entries_after_a_snapshot_under_way_stay_for_who_gets_it() {
    let mut group = Simulation::configured(36, 3, tight);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    propose(&mut group, 50);
    group.snapshot_ticks = 45;
    group.start(behind);
    propose(&mut group, 60);
    group.check_settled();
    assert_eq!((group.snapshots_wanted, group.snapshots_installed), (1, 1), "one snapshot is enough");
}

#[test]
fn a_snapshot_that_takes_longer_than_the_log_may_wait_is_followed_by_another() {
    let mut group = Simulation::configured(37, 3, tight);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    propose(&mut group, 50);
    group.snapshot_ticks = 90;
    group.start(behind);
    propose(&mut group, 120);
    assert!(group.node(leader).status().truncated.0 > 100, "the log is bounded while a snapshot is under way");
    group.check_settled();
    assert!(group.snapshots_wanted >= 2 && group.snapshots_installed >= 2);
}

#[test]
fn a_snapshot_that_failed_is_tried_again_after_a_while() {
    let mut group = Simulation::configured(38, 3, tight);
    let leader = group.elect();
    let behind = (leader + 1) % 3;
    group.kill(behind);
    propose(&mut group, 50);
    group.snapshot_lost_one_in = 1;
    group.start(behind);
    group.run_until("a snapshot is lost", 60, |group| group.snapshots_failed == 1);
    group.run(8);
    assert_eq!(group.snapshots_wanted, 1, "not at once");
    assert!(group.node(leader).status().followers.iter().all(|follower| !follower.awaits_snapshot));
    group.run(30);
    assert!((2..=5).contains(&group.snapshots_wanted), "{}", group.snapshots_wanted);
    group.snapshot_lost_one_in = 0;
    group.check_settled();
}

#[test]
fn replicas_survive_the_death_of_any_of_them_at_any_boundary_of_cut_and_snapshot() {
    let scenario = |death_at: Option<(usize, u64)>| {
        let mut group = Simulation::configured(39, 3, tight);
        let leader = group.elect();
        let behind = (leader + 1) % 3;
        group.kill(behind);
        propose(&mut group, 28);
        let started = group.boundaries;
        group.death_at = death_at.map(|(member, boundary)| (member, started + boundary));
        group.start(behind);
        for _ in 0..12 {
            group.run(1);
            if let Some(leader) = group.leader() {
                group.propose(leader);
            }
        }
        let (length, installed) = (group.boundaries - started, group.snapshots_installed);
        group.check_settled();
        (length, installed)
    };
    let (length, installed) = scenario(None);
    assert_eq!(installed, 1);
    assert!(length > 80, "{length} boundaries are too few to mean anything");
    for member in 0..3 {
        for boundary in 0..length {
            scenario(Some((member, boundary)));
        }
    }
}
