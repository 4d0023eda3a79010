//! Staging, withdrawing, counting, and what a catalogue is rebuilt from.

use semel_index::{ShardCount, shard_of};
use semel_raft::{LogIndex, StateMachine};
use semel_shard::{
    AuditChain, AuditEvent, Command, ContentDigest, EnrolmentState, Publication, Receipt, Refusal, ShardMachine,
    Totals, Withdraw,
};

use crate::memory::Rows;
use crate::world::{World, gallery, id, stage};

fn record_of(receipt: Receipt) -> semel_shard::EnrolmentRecord {
    match receipt {
        Receipt::Enrolment { record, .. } => *record,
        Receipt::Done { .. } | Receipt::Refused(_) => panic!("expected a record, got {receipt:?}"),
    }
}

#[test]
fn a_staged_enrolment_is_recorded_pending_counted_and_published() {
    let mut world = World::new(1, 8);
    let record = record_of(world.stage(&id("a")));
    assert_eq!((record.state, record.round, record.stage_index), (EnrolmentState::Staged, 1, LogIndex(1)));
    assert_eq!(world.record(&id("a")), Some(record));
    let shard = &world.shards[0];
    let pending = semel_shard::pending(&shard.rows, 10).expect("memory does not fail");
    assert_eq!(
        pending.iter().map(|pending| (pending.stage_index, pending.round)).collect::<Vec<_>>(),
        [(LogIndex(1), 1)]
    );
    let counts = semel_shard::counts(&shard.rows).expect("memory does not fail");
    assert_eq!(
        counts.iter().map(|(name, counts)| (name.as_str(), counts.pending)).collect::<Vec<_>>(),
        [("people", 1)]
    );
    assert_eq!(shard.totals, Totals { staged_total: 1, withdrawn_total: 0 });
    let references = semel_shard::references(&shard.rows, &gallery(), &id("a")).expect("memory does not fail");
    assert_eq!(references, Some(stage(&id("a")).references));
}

#[test]
fn an_id_is_taken_for_ever_by_the_content_staged_first() {
    let mut world = World::new(3, 8);
    let first = record_of(world.stage(&id("a")));
    let other = Command::Stage(semel_shard::Stage { content_digest: ContentDigest([8; 32]), ..stage(&id("a")) });
    assert_eq!(record_of(world.stage(&id("a"))), first);
    assert_eq!(world.commit(&other), Receipt::Refused(Refusal::OtherContent));
    let withdrawn = record_of(world.withdraw(&id("a")));
    assert_eq!(record_of(world.stage(&id("a"))), withdrawn);
    assert_eq!(world.commit(&other), Receipt::Refused(Refusal::OtherContent));
}

#[test]
fn a_shard_refuses_the_enrolments_of_others() {
    let shards = ShardCount::new(3).expect("in range");
    let home = shard_of(&gallery(), &id("a"), shards);
    for shard in shards.all().filter(|shard| *shard != home) {
        let mut machine = ShardMachine::new(shard, shards).expect("a shard of the cluster");
        let bytes = Command::Stage(stage(&id("a"))).encode();
        let applied = machine.apply(LogIndex(1), &bytes, &mut Rows::default()).expect("memory does not fail");
        assert_eq!(applied.receipt, Receipt::Refused(Refusal::WrongShard));
    }
}

#[test]
fn the_first_withdrawal_stays_and_ends_the_wait_for_a_verdict() {
    let mut world = World::new(1, 8);
    world.stage(&id("a"));
    let withdrawn = record_of(world.withdraw(&id("a")));
    assert_eq!(withdrawn.withdrawal_reason.as_deref(), Some("left"));
    let again = Withdraw { gallery: gallery(), enrolment_id: id("a"), reason: "other".to_owned() };
    assert_eq!(record_of(world.commit(&Command::Withdraw(again))), withdrawn);
    let counts = semel_shard::counts_of(&world.shards[0].rows, &gallery()).expect("memory does not fail");
    assert_eq!((counts.staged_total, counts.withdrawn_total, counts.pending, counts.live()), (1, 1, 0, 0));
    assert!(semel_shard::pending(&world.shards[0].rows, 10).expect("memory does not fail").is_empty());
    assert_eq!(world.withdraw(&id("b")), Receipt::Refused(Refusal::NoSuchEnrolment));
}

#[test]
fn a_catalogue_is_rebuilt_in_the_order_of_staging_across_pages() {
    let mut world = World::new(1, 8);
    for number in 0..200 {
        world.stage(&id(&format!("{:03}", (number * 37) % 200)));
        if number % 5 == 0 {
            world.withdraw(&id(&format!("{:03}", (number * 37) % 200)));
        }
    }
    let shard = &world.shards[0];
    let (mut rebuilt, mut last, mut totals) = (Vec::new(), LogIndex(0), Totals::default());
    semel_shard::replay_catalogue(&shard.rows, &mut |index, publication| {
        assert!(last <= index);
        last = index;
        match publication {
            Publication::Staged { enrolment_id, totals: now, .. } => {
                rebuilt.push((enrolment_id, true));
                totals = now;
            }
            Publication::Withdrawn { enrolment_id, totals: now, .. } => {
                assert_eq!(rebuilt.last().map(|(id, _)| id), Some(&enrolment_id));
                rebuilt.last_mut().expect("staged before withdrawn").1 = false;
                totals = now;
            }
            Publication::Changed { .. } => panic!("a catalogue does not care for verdicts"),
        }
    })
    .expect("memory does not fail");
    assert_eq!(rebuilt, shard.published);
    assert_eq!(totals, shard.totals);
}

#[test]
fn the_audit_chain_has_no_gap_and_breaks_where_an_entry_is_altered() {
    let mut world = World::new(1, 8);
    for name in ["a", "b"] {
        world.stage(&id(name));
    }
    world.withdraw(&id("a"));
    let entries = semel_shard::audit(&world.shards[0].rows, 0, 10).expect("memory does not fail");
    let events: Vec<_> = entries.iter().map(|entry| (entry.sequence, entry.content.event)).collect();
    assert_eq!(events, [(1, AuditEvent::Staged), (2, AuditEvent::Staged), (3, AuditEvent::Withdrawn)]);
    let chains = std::iter::once(AuditChain::default()).chain(entries.iter().map(|entry| entry.chain));
    assert!(entries.iter().zip(chains).all(|(entry, previous)| entry.follows(previous)));
    let mut altered = entries[1].clone();
    altered.content.enrolment_id = id("c");
    assert!(!altered.follows(entries[0].chain));
    assert_eq!(semel_shard::audit(&world.shards[0].rows, 2, 10).expect("memory does not fail"), entries[2..]);
}
