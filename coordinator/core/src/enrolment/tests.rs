//! Tests of the enrolment workflow: scripts of events, with the effects that each must give.

use semel_index::{KeyVersion, PolicyVersion};
use semel_raft::LogIndex;

use super::*;
use crate::canonical::tests::prepared;
use crate::gallery::VersionedPolicy;
use crate::gallery::tests::policy;
use crate::record::{Verdict, VerdictState};
use crate::search::tests::{SHARDS, answer, shards};

type Effect = EnrolmentEffect<&'static str>;
type Event = EnrolmentEvent<&'static str>;
type Workflow = EnrolmentWorkflow<&'static str>;

const NOW_MS: i64 = 5_000;
const STAGE_INDEX: LogIndex = LogIndex(40);

fn begun() -> (Workflow, EnrolmentRecord) {
    let prepared = prepared("applicant");
    let record = record_of(&prepared.stage);
    let (workflow, effects) = Workflow::begin(shards(), prepared);
    assert_eq!(words(&effects), ["stage"]);
    (workflow, record)
}

fn record_of(stage: &StageCommand) -> EnrolmentRecord {
    EnrolmentRecord {
        gallery: stage.gallery.clone(),
        enrolment_id: stage.enrolment_id.clone(),
        subject_id: stage.subject_id.clone(),
        state: EnrolmentState::Staged,
        verdict: None,
        provenance: stage.provenance.clone(),
        shard: shard_of(&stage.gallery, &stage.enrolment_id, shards()),
        stage_index: STAGE_INDEX,
        received_at_ms: stage.received_at_ms,
        policy_version: stage.policy_version,
        references: Vec::new(),
        case_ids: Vec::new(),
        content_digest: stage.content_digest,
        round: 1,
        key_version: stage.key_version,
    }
}

fn receipt(record: &EnrolmentRecord) -> Receipt<&'static str> {
    Receipt { outcome: ReceiptOutcome::Enrolment(Box::new(record.clone())), obligations: Vec::new() }
}

fn refusal(refusal: Refusal) -> Receipt<&'static str> {
    Receipt { outcome: ReceiptOutcome::Refused(refusal), obligations: Vec::new() }
}

fn settled(record: &EnrolmentRecord, verdict: &Verdict) -> EnrolmentRecord {
    let state = match verdict.state {
        VerdictState::Unique => EnrolmentState::Unique,
        VerdictState::PossibleDuplicate => EnrolmentState::PossibleDuplicate,
        VerdictState::NotComparable => EnrolmentState::NotComparable,
    };
    EnrolmentRecord { state, verdict: Some(verdict.clone()), ..record.clone() }
}

/// Effects as words, which is what most scripts compare.
fn words(effects: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        EnrolmentEffect::Stage(_) => "stage".to_owned(),
        EnrolmentEffect::LoadPinned { policy_version, key_version } => {
            format!("load policy {} key {}", policy_version.0, key_version.0)
        }
        EnrolmentEffect::Search { shards, .. } => format!("search {shards:?}"),
        EnrolmentEffect::Settle(command) => format!("settle {:?}", command.verdict.state),
        EnrolmentEffect::Drain(obligations) => format!("drain {}", obligations.len()),
        EnrolmentEffect::RetryAfter { retry, delay_ms } => format!("retry {retry} after {delay_ms}"),
        EnrolmentEffect::AnswerDefective { shard, .. } => format!("defective {shard}"),
        EnrolmentEffect::AlarmSaturated { candidates_total } => format!("alarm {candidates_total}"),
        EnrolmentEffect::Reply(outcome) => match outcome {
            Outcome::Settled(record) => format!("settled {:?}", record.state),
            Outcome::Inconclusive { waiting, .. } => format!("inconclusive {waiting:?}"),
            Outcome::AlreadyExists => "already exists".to_owned(),
            Outcome::Unavailable { outcome_unknown } => format!("unavailable, unknown {outcome_unknown}"),
            Outcome::Overloaded { retry_after_ms } => format!("overloaded {retry_after_ms}"),
            Outcome::Refused(refusal) => format!("refused {refusal:?}"),
        },
    };
    effects.iter().map(word).collect()
}

/// Steps and compares the effects.
fn check(workflow: &mut Workflow, event: Event, expected: &[&str]) -> Vec<Effect> {
    let effects = workflow.step(NOW_MS, event);
    assert_eq!(words(&effects), expected);
    effects
}

fn searching() -> (Workflow, EnrolmentRecord) {
    let (mut workflow, record) = begun();
    check(&mut workflow, Event::StageAnswered(receipt(&record)), &[SEARCH_ALL]);
    (workflow, record)
}

const SEARCH_ALL: &str = "search [ShardId(0), ShardId(1), ShardId(2)]";

fn answered(shard: u32, margins: &[i32]) -> Event {
    Event::ShardAnswered(answer(shard, margins))
}

/// A workflow whose settle is under way, and the verdict it proposed.
fn settling(margins: [&[i32]; SHARDS as usize], word: &str) -> (Workflow, EnrolmentRecord, Verdict) {
    let (mut workflow, record) = searching();
    check(&mut workflow, answered(2, margins[2]), &[]);
    check(&mut workflow, answered(0, margins[0]), &[]);
    let effects = check(&mut workflow, answered(1, margins[1]), &[word]);
    let [EnrolmentEffect::Settle(command)] = &effects[..] else { panic!("one settle, not {effects:?}") };
    let verdict = command.verdict.clone();
    assert_eq!((command.stage_index, command.content_digest), (STAGE_INDEX, record.content_digest));
    assert_eq!((verdict.round, verdict.settled_at_ms, verdict.policy_version), (1, NOW_MS, PolicyVersion(3)));
    (workflow, record, verdict)
}

#[test]
fn an_enrolment_without_mates_is_staged_searched_and_settled_unique() {
    let (mut workflow, record, verdict) = settling([&[], &[], &[]], "settle Unique");
    assert_eq!((verdict.coverage.live, verdict.coverage.shards.len()), (300, 3));
    check(&mut workflow, Event::SettleAnswered(receipt(&settled(&record, &verdict))), &["settled Unique"]);
    assert!(workflow.is_finished());
}

#[test]
fn candidates_of_any_shard_make_a_possible_duplicate() {
    let (_, _, verdict) = settling([&[], &[7, 5], &[6]], "settle PossibleDuplicate");
    let margins: Vec<i32> = verdict.candidates.iter().map(|candidate| candidate.margin_micros).collect();
    assert_eq!((margins, verdict.candidates_total), (vec![7, 6, 5], 3));
}

/// Of two concurrent enrolments of one person, at least one then sees the other.
#[test]
fn no_search_is_asked_for_before_the_stage_is_acknowledged() {
    let (mut workflow, record) = begun();
    let failures = [CallFailure::OutcomeUnknown, CallFailure::NotProposed];
    for (failure, retry) in failures.into_iter().zip(1..) {
        let effects = workflow.step(NOW_MS, Event::StageFailed(failure));
        assert!(matches!(effects[..], [EnrolmentEffect::RetryAfter { .. }]), "{effects:?}");
        for early in [answered(0, &[]), Event::ShardFailed(ShardId(0)), Event::SettleAnswered(receipt(&record))] {
            check(&mut workflow, early, &[]);
        }
        check(&mut workflow, Event::RetryDue { retry }, &["stage"]);
    }
    check(&mut workflow, Event::StageAnswered(receipt(&record)), &[SEARCH_ALL]);
}

#[test]
fn the_probe_is_what_was_staged_and_excludes_the_applicant() {
    let (mut workflow, record) = begun();
    let effects = workflow.step(NOW_MS, Event::StageAnswered(receipt(&record)));
    let [EnrolmentEffect::Search { probe, .. }] = &effects[..] else { panic!("one search, not {effects:?}") };
    assert_eq!(probe.exclude, Some(record.enrolment_id.clone()));
    assert_eq!((probe.key_version, probe.candidates_max, probe.references.len()), (KeyVersion(1), 64, 3));
}

#[test]
fn only_shards_that_failed_are_asked_again_once_no_other_is_outstanding() {
    let (mut workflow, _) = searching();
    check(&mut workflow, Event::ShardFailed(ShardId(1)), &[]);
    check(&mut workflow, answered(0, &[]), &[]);
    check(&mut workflow, Event::ShardFailed(ShardId(2)), &["retry 1 after 50"]);
    check(&mut workflow, Event::RetryDue { retry: 1 }, &["search [ShardId(1), ShardId(2)]"]);
    check(&mut workflow, answered(2, &[]), &[]);
    check(&mut workflow, Event::ShardFailed(ShardId(1)), &["retry 2 after 100"]);
    check(&mut workflow, Event::RetryDue { retry: 1 }, &[]);
    check(&mut workflow, Event::RetryDue { retry: 2 }, &["search [ShardId(1)]"]);
    check(&mut workflow, answered(1, &[]), &["settle Unique"]);
}

#[test]
fn a_late_answer_of_a_shard_that_failed_still_counts() {
    let (mut workflow, _) = searching();
    check(&mut workflow, answered(0, &[]), &[]);
    check(&mut workflow, answered(1, &[]), &[]);
    check(&mut workflow, Event::ShardFailed(ShardId(2)), &["retry 1 after 50"]);
    check(&mut workflow, answered(2, &[]), &["settle Unique"]);
    check(&mut workflow, Event::RetryDue { retry: 1 }, &[]);
}

#[test]
fn an_answer_that_cannot_be_true_is_a_missing_shard() {
    let (mut workflow, record) = searching();
    for shard in 0..SHARDS {
        let mut answer = answer(shard, &[]);
        if ShardId(shard) == record.shard {
            answer.searchable_index = LogIndex(STAGE_INDEX.0 - 1);
        }
        let effects = workflow.step(NOW_MS, Event::ShardAnswered(answer));
        assert!(!words(&effects).iter().any(|word| word.starts_with("settle")), "{effects:?}");
    }
    check(&mut workflow, Event::Deadline, &[&format!("inconclusive Shards([{:?}])", record.shard)]);
}

#[test]
fn silence_is_never_unique() {
    let (mut workflow, _) = searching();
    check(&mut workflow, answered(0, &[]), &[]);
    check(&mut workflow, Event::Deadline, &["inconclusive Shards([ShardId(1), ShardId(2)])"]);
    check(&mut workflow, answered(1, &[]), &[]);
    check(&mut workflow, answered(2, &[]), &[]);
}

#[test]
fn searching_gives_up_after_a_bounded_number_of_tries() {
    let (mut workflow, _) = searching();
    check(&mut workflow, answered(0, &[]), &[]);
    check(&mut workflow, answered(1, &[]), &[]);
    for retry in 1..ATTEMPTS_MAX {
        let delay = format!("retry {retry} after {}", retry_delay_ms(retry));
        check(&mut workflow, Event::ShardFailed(ShardId(2)), &[&delay]);
        check(&mut workflow, Event::RetryDue { retry }, &["search [ShardId(2)]"]);
    }
    check(&mut workflow, Event::ShardFailed(ShardId(2)), &["inconclusive Shards([ShardId(2)])"]);
}

#[test]
fn delays_double_up_to_a_bound() {
    let delays: Vec<u32> = [1, 2, 3, 5, 6, 7, 12, u32::MAX].into_iter().map(retry_delay_ms).collect();
    assert_eq!(delays, [50, 100, 200, 800, 1_600, 1_600, 1_600, 1_600]);
}

#[test]
fn a_recorded_answer_is_given_again_without_a_search() {
    for state in [
        EnrolmentState::Unique,
        EnrolmentState::PossibleDuplicate,
        EnrolmentState::NotComparable,
        EnrolmentState::Withdrawn,
    ] {
        let (mut workflow, record) = begun();
        let recorded = EnrolmentRecord { state, ..record };
        check(&mut workflow, Event::StageAnswered(receipt(&recorded)), &[&format!("settled {state:?}")]);
    }
}

#[test]
fn other_content_under_the_same_id_already_exists() {
    let (mut workflow, _) = begun();
    check(&mut workflow, Event::StageAnswered(refusal(Refusal::OtherContent)), &["already exists"]);
}

#[test]
fn a_record_of_another_enrolment_is_no_acknowledgement() {
    let (mut workflow, record) = begun();
    let other = EnrolmentRecord { content_digest: ContentDigest([0; 32]), ..record };
    check(&mut workflow, Event::StageAnswered(receipt(&other)), &["refused NotWhatWasStaged"]);
}

#[test]
fn an_enrolment_staged_under_other_versions_is_searched_under_those() {
    let (mut workflow, record) = begun();
    let pinned_before = EnrolmentRecord { policy_version: PolicyVersion(2), key_version: KeyVersion(9), ..record };
    check(&mut workflow, Event::StageAnswered(receipt(&pinned_before)), &["load policy 2 key 9"]);
    let pinned = |version, key_version| {
        let policy = VersionedPolicy { version: PolicyVersion(version), policy: policy() };
        let references =
            prepared("applicant").pinned.references().iter().map(|probe| probe.reference.clone()).collect();
        Box::new(Pinned::new(Arc::new(policy), KeyVersion(key_version), references).expect("of this policy"))
    };
    check(&mut workflow, Event::PinnedFailed, &["retry 1 after 50"]);
    check(&mut workflow, Event::RetryDue { retry: 1 }, &["load policy 2 key 9"]);
    check(&mut workflow, Event::PinnedLoaded(pinned(3, 9)), &["retry 2 after 100"]);
    check(&mut workflow, Event::RetryDue { retry: 2 }, &["load policy 2 key 9"]);
    check(&mut workflow, Event::PinnedLoaded(pinned(2, 9)), &[SEARCH_ALL]);
}

#[test]
fn an_overloaded_shard_is_told_to_the_caller_unless_the_stage_may_have_committed() {
    let overloaded = || Event::StageFailed(CallFailure::Overloaded { retry_after_ms: 700 });
    let (mut workflow, _) = begun();
    check(&mut workflow, overloaded(), &["overloaded 700"]);
    let (mut workflow, _) = begun();
    check(&mut workflow, Event::StageFailed(CallFailure::OutcomeUnknown), &["retry 1 after 50"]);
    check(&mut workflow, Event::RetryDue { retry: 1 }, &["stage"]);
    check(&mut workflow, overloaded(), &["retry 2 after 700"]);
    check(&mut workflow, Event::Deadline, &["unavailable, unknown true"]);
}

#[test]
fn a_stage_that_was_never_proposed_is_known_not_to_have_happened() {
    let (mut workflow, _) = begun();
    check(&mut workflow, Event::StageFailed(CallFailure::NotProposed), &["retry 1 after 50"]);
    check(&mut workflow, Event::Deadline, &["unavailable, unknown false"]);
}

#[test]
fn a_stage_under_way_at_the_deadline_has_an_unknown_outcome() {
    let (mut workflow, record) = begun();
    check(&mut workflow, Event::Deadline, &["unavailable, unknown true"]);
    check(&mut workflow, Event::StageAnswered(receipt(&record)), &[]);
}

/// Two drivers cost work, never safety.
#[test]
fn the_reply_is_what_was_recorded_and_not_what_was_proposed() {
    let (mut workflow, record, mut verdict) = settling([&[], &[], &[]], "settle Unique");
    (verdict.state, verdict.saturated, verdict.candidates_total) = (VerdictState::PossibleDuplicate, true, 99);
    let first = receipt(&settled(&record, &verdict));
    check(&mut workflow, Event::SettleAnswered(first), &["alarm 99", "settled PossibleDuplicate"]);
    let (mut workflow, record, _) = settling([&[], &[], &[]], "settle Unique");
    let withdrawn = EnrolmentRecord { state: EnrolmentState::Withdrawn, ..record };
    check(&mut workflow, Event::SettleAnswered(receipt(&withdrawn)), &["settled Withdrawn"]);
}

#[test]
fn a_settle_is_tried_again_and_left_to_the_sweep_at_the_deadline() {
    let (mut workflow, record, verdict) = settling([&[], &[], &[]], "settle Unique");
    check(&mut workflow, Event::SettleFailed(CallFailure::OutcomeUnknown), &["retry 1 after 50"]);
    check(&mut workflow, Event::RetryDue { retry: 1 }, &["settle Unique"]);
    check(&mut workflow, Event::Deadline, &["inconclusive Settle"]);
    check(&mut workflow, Event::SettleAnswered(receipt(&settled(&record, &verdict))), &[]);
}

#[test]
fn a_settle_for_a_round_gone_by_is_left_to_the_sweep() {
    let (mut workflow, ..) = settling([&[], &[], &[]], "settle Unique");
    check(&mut workflow, Event::SettleAnswered(refusal(Refusal::NotWhatWasStaged)), &["inconclusive Settle"]);
    let (mut workflow, record, _) = settling([&[], &[], &[]], "settle Unique");
    let staged_anew = EnrolmentRecord { round: 2, ..record };
    check(&mut workflow, Event::SettleAnswered(receipt(&staged_anew)), &["inconclusive Settle"]);
}

#[test]
fn obligations_of_every_receipt_are_drained_even_after_the_reply() {
    let (mut workflow, record, verdict) = settling([&[5], &[], &[]], "settle PossibleDuplicate");
    let with_obligation = || {
        let obligation = Obligation {
            key: crate::obligations::ObligationKey { from_shard: record.shard, id: 1 },
            gallery: record.gallery.clone(),
            addressee: record.enrolment_id.clone(),
            addressee_shard: record.shard,
            command: "open",
        };
        let obligations = vec![obligation];
        Event::SettleAnswered(Receipt { obligations, ..receipt(&settled(&record, &verdict)) })
    };
    check(&mut workflow, with_obligation(), &["drain 1", "settled PossibleDuplicate"]);
    check(&mut workflow, with_obligation(), &["drain 1"]);
}

#[test]
fn a_staged_record_is_resumed_with_its_search_for_its_round() {
    let prepared = prepared("applicant");
    let record = EnrolmentRecord { round: 2, ..record_of(&prepared.stage) };
    let (mut workflow, effects) = Workflow::resume(shards(), record.clone(), prepared.pinned.clone());
    assert_eq!(words(&effects), [SEARCH_ALL]);
    check(&mut workflow, answered(0, &[]), &[]);
    check(&mut workflow, answered(1, &[]), &[]);
    let effects = check(&mut workflow, answered(2, &[]), &["settle Unique"]);
    assert!(matches!(&effects[..], [EnrolmentEffect::Settle(command)] if command.verdict.round == 2));

    let unique = EnrolmentRecord { state: EnrolmentState::Unique, ..record };
    let (workflow, effects) = Workflow::resume(shards(), unique, prepared.pinned);
    assert_eq!(words(&effects), ["settled Unique"]);
    assert!(workflow.is_finished());
}
