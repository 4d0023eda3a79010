//! Tests of `search`: no answer that cannot be true is taken, and the order of answers changes nothing.

use proptest::prelude::*;

use super::*;

pub(crate) const SHARDS: u32 = 3;

pub(crate) fn shards() -> ShardCount {
    ShardCount::new(SHARDS).expect("in range")
}

pub(crate) fn gallery() -> GalleryId {
    GalleryId::try_from("people").expect("valid")
}

pub(crate) fn id(text: &str) -> EnrolmentId {
    EnrolmentId::try_from(text).expect("valid")
}

/// The `number`th id, counted from 0, that lives in `shard`.
fn id_in(shard: u32, number: usize) -> EnrolmentId {
    let ids = (0..).map(|number| id(&format!("c-{number}")));
    ids.filter(|id| shard_of(&gallery(), id, shards()) == ShardId(shard)).nth(number).expect("ids without end")
}

/// An answer that searched 100 enrolments up to index 50, with candidates of these margins.
pub(crate) fn answer(shard: u32, margins: &[i32]) -> ShardAnswer {
    let candidate = |(number, margin): (usize, &i32)| Candidate {
        enrolment_id: id_in(shard, number),
        margin_micros: *margin,
        comparisons: Vec::new(),
    };
    ShardAnswer {
        shard: ShardId(shard),
        epoch: 1,
        searchable_index: LogIndex(50),
        compared: 100,
        not_comparable: 0,
        withdrawn: 1,
        candidates: margins.iter().enumerate().map(candidate).collect(),
        candidates_total: margins.len() as u64,
    }
}

fn gather() -> ScatterGather {
    ScatterGather::of_enrolment(gallery(), shards(), 3, id("applicant"), LogIndex(40))
}

pub(crate) fn complete(answers: [ShardAnswer; SHARDS as usize]) -> CompleteSearch {
    let mut gather = gather();
    for answer in answers {
        gather.answer(answer).expect("valid");
    }
    match gather.finish() {
        SearchOutcome::Complete(search) => search,
        SearchOutcome::Incomplete { missing } => panic!("{missing:?} are missing"),
    }
}

#[test]
fn a_search_is_complete_only_with_every_shard() {
    let mut gather = gather();
    gather.answer(answer(2, &[])).expect("valid");
    gather.answer(answer(0, &[])).expect("valid");
    assert_eq!(gather.clone().finish(), SearchOutcome::Incomplete { missing: vec![ShardId(1)] });
    gather.answer(answer(1, &[])).expect("valid");
    assert!(matches!(gather.finish(), SearchOutcome::Complete(_)));
}

#[test]
fn the_merge_keeps_the_best_and_counts_all() {
    let mut third = answer(2, &[30]);
    third.not_comparable = 7;
    let search = complete([answer(0, &[20, 10]), answer(1, &[20]), third]);
    let mut tied = [id_in(0, 0), id_in(1, 0)];
    tied.sort();
    let [first, second] = tied;
    let ids: Vec<EnrolmentId> = search.candidates().iter().map(|candidate| candidate.enrolment_id.clone()).collect();
    assert_eq!(ids, [id_in(2, 0), first, second]);
    assert_eq!((search.candidates_total(), search.saturated()), (4, true));
    assert_eq!((search.coverage().live, search.coverage().compared), (307, 300));
    let covered: Vec<u32> = search.coverage().shards.iter().map(|shard| shard.shard.0).collect();
    assert_eq!(covered, [0, 1, 2]);
}

#[test]
fn as_many_candidates_as_the_list_holds_are_not_saturated() {
    assert!(!complete([answer(0, &[2]), answer(1, &[1]), answer(2, &[0])]).saturated());
}

#[test]
fn the_first_answer_of_a_shard_counts() {
    let mut gather = gather();
    for margins in [&[10][..], &[], &[99]] {
        gather.answer(answer(0, margins)).expect("valid");
    }
    gather.answer(answer(1, &[])).expect("valid");
    gather.answer(answer(2, &[])).expect("valid");
    match gather.finish() {
        SearchOutcome::Complete(search) => assert_eq!(search.candidates()[0].margin_micros, 10),
        SearchOutcome::Incomplete { missing } => panic!("{missing:?} are missing"),
    }
}

/// Changes a valid answer of the applicant's home shard and expects its refusal, after which the shard is missing.
fn check(change: impl FnOnce(&mut ShardAnswer), expected: AnswerDefect) {
    let home = shard_of(&gallery(), &id("applicant"), shards());
    let mut gather = gather();
    let mut answer = answer(home.0, &[20, 10]);
    gather.clone().answer(answer.clone()).expect("valid");
    change(&mut answer);
    assert_eq!(gather.answer(answer), Err(expected));
    assert!(gather.missing().contains(&home));
}

#[test]
fn answers_that_cannot_be_true_count_as_silence() {
    let home = shard_of(&gallery(), &id("applicant"), shards());
    let elsewhere = ShardId((home.0 + 1) % SHARDS);
    check(|a| a.shard = ShardId(3), AnswerDefect::UnknownShard { shard: ShardId(3), shards: 3 });
    check(|a| a.candidates_total = 3, AnswerDefect::ListLength { listed: 2, total: 3, candidates_max: 3 });
    check(|a| a.candidates_total = 1, AnswerDefect::ListLength { listed: 2, total: 1, candidates_max: 3 });
    check(
        |a| *a = answer(a.shard.0, &[4, 3, 2, 1]),
        AnswerDefect::ListLength { listed: 4, total: 4, candidates_max: 3 },
    );
    check(|a| a.compared = 1, AnswerDefect::MoreThanCompared { total: 2, compared: 1 });
    check(|a| a.compared = u64::MAX, AnswerDefect::CountsOverflow);
    check(|a| a.not_comparable = u64::MAX, AnswerDefect::CountsOverflow);
    check(|a| a.candidates.reverse(), AnswerDefect::NotInOrder { position: 1 });
    check(|a| a.candidates[1] = a.candidates[0].clone(), AnswerDefect::NotInOrder { position: 1 });
    check(
        |a| a.candidates[1].enrolment_id = a.candidates[0].enrolment_id.clone(),
        AnswerDefect::NotInOrder { position: 1 },
    );
    check(|a| a.candidates[1].margin_micros = -1, AnswerDefect::BelowThreshold { position: 1 });
    check(
        |a| a.candidates[1].enrolment_id = id_in(elsewhere.0, 0),
        AnswerDefect::CandidateElsewhere { position: 1, home: elsewhere },
    );
    check(|a| a.candidates[0].enrolment_id = id("applicant"), AnswerDefect::ApplicantListed);
    check(
        |a| a.searchable_index = LogIndex(39),
        AnswerDefect::BeforeStage { searchable_index: LogIndex(39), stage_index: LogIndex(40) },
    );
}

#[test]
fn other_shards_have_indices_of_their_own() {
    let home = shard_of(&gallery(), &id("applicant"), shards());
    let mut other = answer((home.0 + 1) % SHARDS, &[]);
    other.searchable_index = LogIndex(1);
    assert_eq!(gather().answer(other), Ok(()));
}

proptest! {
    #[test]
    fn the_order_of_answers_changes_nothing(
        margins in prop::collection::vec(prop::collection::vec(0..5_i32, 0..=3), SHARDS as usize),
        order in Just([0_usize, 1, 2]).prop_shuffle(),
    ) {
        let answers: Vec<ShardAnswer> = margins
            .iter()
            .zip(0..)
            .map(|(margins, shard)| {
                let mut answer = answer(shard, margins);
                answer.candidates.sort_by(|a, b| rank(a).cmp(&rank(b)));
                answer
            })
            .collect();
        let [a, b, c] = [0, 1, 2].map(|position: usize| answers[position].clone());
        let [x, y, z] = order.map(|position| answers[position].clone());
        let (straight, shuffled) = (complete([a, b, c]), complete([x, y, z]));
        prop_assert_eq!(&straight, &shuffled);
        // Beside a plain sort of everything.
        let mut all: Vec<Candidate> = answers.into_iter().flat_map(|answer| answer.candidates).collect();
        all.sort_by(|a, b| rank(a).cmp(&rank(b)));
        prop_assert_eq!(straight.candidates_total(), all.len() as u64);
        all.truncate(3);
        prop_assert_eq!(straight.candidates(), &all[..]);
    }
}
