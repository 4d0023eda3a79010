//! Which settles are recorded, which are refused and which change nothing.

use semel_index::{PolicyVersion, ShardCount, ShardId};
use semel_raft::LogIndex;
use semel_shard::{
    CANDIDATES_MAX, Candidate, CaseSubject, Command, ContentDigest, EnrolmentState, Receipt, Refusal, Settle,
    VerdictKind,
};

use crate::world::{World, candidate, gallery, id};

/// Three enrolments in three shards; proposes that "a" may be "b" or "c", with one alteration.
fn check(alter: impl FnOnce(&mut Settle), expected: Result<EnrolmentState, Refusal>) {
    let mut world = World::new(3, 8);
    for name in ["a", "b", "c"] {
        world.stage(&id(name));
    }
    let mut settle = world.propose(&id("a"), vec![candidate(&id("b"), 5), candidate(&id("c"), 9)]);
    alter(&mut settle);
    let outcome = match world.commit(&Command::Settle(settle)) {
        Receipt::Enrolment { record, .. } => Ok(record.state),
        Receipt::Refused(refusal) => Err(refusal),
        Receipt::Done { .. } => panic!("a settle answers with a record"),
    };
    assert_eq!(outcome, expected);
}

fn check_refused(alter: impl FnOnce(&mut Settle)) {
    check(alter, Err(Refusal::NotWhatWasStaged));
}

fn without_candidates(settle: &mut Settle, kind: VerdictKind) {
    settle.verdict.kind = kind;
    settle.verdict.candidates.clear();
    settle.verdict.candidates_total = 0;
}

#[test]
fn a_verdict_that_fits_is_recorded() {
    check(|_| {}, Ok(EnrolmentState::PossibleDuplicate));
    check(|settle| without_candidates(settle, VerdictKind::Unique), Ok(EnrolmentState::Unique));
    check(
        |settle| {
            without_candidates(settle, VerdictKind::NotComparable);
            let coverage = &mut settle.verdict.coverage;
            for part in &mut coverage.shards {
                part.not_comparable = std::mem::take(&mut part.compared);
            }
            coverage.compared = 0;
        },
        Ok(EnrolmentState::NotComparable),
    );
    check(
        |settle| {
            settle.verdict.saturated = true;
            settle.verdict.candidates_total = 9;
        },
        Ok(EnrolmentState::PossibleDuplicate),
    );
}

#[test]
fn a_verdict_on_something_else_is_refused() {
    check_refused(|settle| settle.stage_index = LogIndex(99));
    check_refused(|settle| settle.content_digest = ContentDigest([9; 32]));
    check_refused(|settle| settle.verdict.policy_version = PolicyVersion(4));
    check_refused(|settle| settle.verdict.round = 2);
    check_refused(|settle| settle.verdict.round = 0);
    check(|settle| settle.enrolment_id = id("nobody in particular"), Err(Refusal::NoSuchEnrolment));
}

#[test]
fn a_verdict_without_every_shard_exactly_once_is_refused() {
    check_refused(|settle| settle.shards_count = ShardCount::new(2).expect("in range"));
    check_refused(|settle| settle.verdict.coverage.shards.truncate(2));
    check_refused(|settle| settle.verdict.coverage.shards[2].shard = ShardId(1));
    check_refused(|settle| settle.verdict.coverage.shards.swap(0, 1));
    check_refused(|settle| {
        let more = settle.verdict.coverage.shards[2];
        settle.verdict.coverage.shards.push(more);
    });
    check_refused(|settle| {
        settle.verdict.coverage.shards.pop();
        settle.shards_count = ShardCount::new(2).expect("in range");
    });
    check_refused(|settle| settle.verdict.coverage.live += 1);
    check_refused(|settle| settle.verdict.coverage.compared += 1);
    check_refused(|settle| settle.verdict.coverage.shards.iter_mut().for_each(|part| part.compared = u64::MAX));
}

#[test]
fn a_verdict_from_before_the_stage_is_refused() {
    check_refused(|settle| {
        settle.verdict.coverage.shards.iter_mut().for_each(|part| part.searchable_index = LogIndex(0))
    });
}

#[test]
fn a_verdict_that_does_not_follow_from_its_candidates_is_refused() {
    check_refused(|settle| settle.verdict.kind = VerdictKind::Unique);
    check_refused(|settle| settle.verdict.kind = VerdictKind::NotComparable);
    check_refused(|settle| without_candidates(settle, VerdictKind::PossibleDuplicate));
    check_refused(|settle| without_candidates(settle, VerdictKind::NotComparable));
    check_refused(|settle| settle.verdict.candidates.reverse());
    check_refused(|settle| settle.verdict.candidates[0].enrolment_id = id("a"));
    check_refused(|settle| settle.verdict.candidates[0].enrolment_id = id("b"));
    check_refused(|settle| settle.verdict.candidates[1].margin_micros = -1);
    check_refused(|settle| settle.verdict.candidates_total = 1);
    check_refused(|settle| settle.verdict.candidates_total = 3);
    check_refused(|settle| settle.verdict.saturated = true);
    check_refused(|settle| {
        without_candidates(settle, VerdictKind::Unique);
        settle.verdict.saturated = true;
        settle.verdict.candidates_total = 1;
    });
}

#[test]
fn the_first_settle_of_a_round_wins() {
    let mut world = World::new(3, 8);
    for name in ["a", "b"] {
        world.stage(&id(name));
    }
    let first = world.propose(&id("a"), Vec::new());
    let second = world.propose(&id("a"), vec![candidate(&id("b"), 5)]);
    world.commit(&Command::Settle(first));
    let receipt = world.commit(&Command::Settle(second));
    let Receipt::Enrolment { record, obligations } = receipt else { panic!("a settle answers with a record") };
    assert_eq!(record.state, EnrolmentState::Unique);
    assert!(obligations.is_empty());
}

#[test]
fn a_withdrawn_enrolment_is_not_settled() {
    let mut world = World::new(3, 8);
    world.stage(&id("a"));
    let late = world.propose(&id("a"), Vec::new());
    world.withdraw(&id("a"));
    let Receipt::Enrolment { record, .. } = world.commit(&Command::Settle(late)) else { panic!("expected a record") };
    assert_eq!((record.state, record.verdict), (EnrolmentState::Withdrawn, None));
}

#[test]
fn a_settle_owes_one_case_per_candidate_in_order() {
    let mut world = World::new(3, CANDIDATES_MAX);
    let names: Vec<_> = (0..40).map(|number| id(&format!("{number:02}"))).collect();
    for name in &names {
        world.stage(name);
    }
    let candidates: Vec<Candidate> = names[1..].iter().map(|other| candidate(other, 7)).collect();
    let settle = world.propose(&names[0], candidates);
    let Receipt::Enrolment { obligations, .. } = world.commit(&Command::Settle(settle)) else {
        panic!("expected a record")
    };
    assert!(obligations.is_sorted_by_key(|obligation| obligation.id));
    let opened = obligations.iter().map(|obligation| match &obligation.command {
        Command::OpenCase(open) => open.candidate.clone(),
        command => panic!("a settle owes cases only, not {command:?}"),
    });
    assert_eq!(opened.collect::<Vec<_>>(), names[1..]);
}

#[test]
fn a_saturated_settle_opens_its_best_sixteen_and_a_cluster_case() {
    let mut world = World::new(3, 20);
    let names: Vec<_> = (0..40).map(|number| id(&format!("{number:02}"))).collect();
    for name in &names {
        world.stage(name);
    }
    let settle = world.search(&names[0], |_, _| true);
    world.commit(&Command::Settle(settle));
    world.drain();
    let record = world.record(&names[0]).expect("staged");
    let verdict = record.verdict.expect("settled");
    assert!(verdict.saturated && verdict.candidates.len() == 20 && verdict.candidates_total == 39);
    let with_case: Vec<bool> =
        verdict.candidates.iter().map(|named| world.pair_case(&names[0], &named.enrolment_id).is_some()).collect();
    assert_eq!(with_case, [[true; 16].as_slice(), &[false; 4]].concat());
    let cluster = CaseSubject::Cluster(names[0].clone());
    assert!(world.case(&cluster).expect("opened with the verdict").is_open());
    assert_eq!(record.case_ids.first(), Some(&cluster.case_id(&gallery())));
    assert_eq!(record.cases_total, 17);
    world.withdraw(&names[0]);
    assert!(!world.case(&cluster).expect("cases stay").is_open());
}
