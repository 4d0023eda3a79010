//! Random enrolments, searches, settles and withdrawals over several shards, while obligations are carried around in any
//! order, more than once, and forgotten; then everything is drained and the promises are checked.

use std::collections::BTreeSet;

use proptest::prelude::*;
use semel_index::EnrolmentId;
use semel_shard::{Case, CaseSubject, Command, EnrolmentRecord, EnrolmentState, Publication, Receipt, Settle};

use crate::world::{World, gallery, id};

const ENROLMENTS: usize = 7;
/// Rounds after which a drained world must be quiet: each takes a withdrawal, and there are fewer.
const ROUNDS_MAX: usize = ENROLMENTS + 2;

#[derive(Debug, Clone)]
enum Step {
    Stage(usize),
    /// Searches as of now; the verdict waits to be proposed.
    Search(usize),
    /// Proposes a verdict that waits, and keeps it for another time or not.
    Settle {
        waiting: prop::sample::Index,
        again: bool,
    },
    Withdraw(usize),
    /// Carries an obligation, and acknowledges it or not.
    Carry {
        shard: prop::sample::Index,
        obligation: prop::sample::Index,
        discharge: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let enrolment = 0..ENROLMENTS;
    prop_oneof![
        4 => enrolment.clone().prop_map(Step::Stage),
        4 => enrolment.clone().prop_map(Step::Search),
        5 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(waiting, again)| Step::Settle { waiting, again }),
        1 => enrolment.prop_map(Step::Withdraw),
        9 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::bool::weighted(0.7))
            .prop_map(|(shard, obligation, discharge)| Step::Carry { shard, obligation, discharge }),
    ]
}

fn name(number: usize) -> EnrolmentId {
    id(&format!("e{number}"))
}

/// Which pairs are of one person: one bit per unordered pair.
#[derive(Debug, Clone, Copy)]
struct Mates(u32);

impl Mates {
    fn are(self, one: &EnrolmentId, other: &EnrolmentId) -> bool {
        let number = |id: &EnrolmentId| id.as_str()[1..].parse::<usize>().expect("names end in a number");
        let (low, high) = (number(one).min(number(other)), number(one).max(number(other)));
        self.0 >> (high * (high - 1) / 2 + low) & 1 == 1
    }
}

fn take(world: &mut World, mates: Mates, waiting: &mut Vec<Settle>, step: &Step) {
    match step {
        Step::Stage(number) => drop(world.stage(&name(*number))),
        Step::Search(number) => {
            let enrolment = name(*number);
            if world.record(&enrolment).is_some_and(|record| record.state == EnrolmentState::Staged) {
                waiting.push(world.search(&enrolment, |one, other| mates.are(one, other)));
            }
        }
        Step::Settle { waiting: which, again } => {
            if !waiting.is_empty() {
                let place = which.index(waiting.len());
                let settle = if *again { waiting[place].clone() } else { waiting.swap_remove(place) };
                let receipt = world.commit(&Command::Settle(settle));
                assert!(matches!(receipt, Receipt::Enrolment { .. }), "an honest settle was refused: {receipt:?}");
            }
        }
        Step::Withdraw(number) => drop(world.withdraw(&name(*number))),
        Step::Carry { shard, obligation, discharge } => {
            let shard = shard.index(world.shards.len());
            let obligations = world.shards[shard].obligations();
            if !obligations.is_empty() {
                world.carry(shard, &obligations[obligation.index(obligations.len())], *discharge);
            }
        }
    }
}

/// Carries every obligation and settles whatever waits, until nothing does.
fn settle_down(world: &mut World, mates: Mates) {
    for _ in 0..ROUNDS_MAX {
        world.drain();
        let pending: Vec<EnrolmentId> = world
            .shards
            .iter()
            .flat_map(|shard| semel_shard::pending(&shard.rows, 1_000).expect("memory does not fail"))
            .map(|pending| pending.enrolment_id)
            .collect();
        if pending.is_empty() {
            return;
        }
        for enrolment in pending {
            let settle = world.search(&enrolment, |one, other| mates.are(one, other));
            world.commit(&Command::Settle(settle));
        }
    }
    panic!("the world does not settle down");
}

fn records(world: &World) -> Vec<EnrolmentRecord> {
    (0..ENROLMENTS).filter_map(|number| world.record(&name(number))).collect()
}

fn cases(world: &World) -> Vec<Case> {
    let of_shard = |rows| {
        let (mut cases, mut after) = (Vec::<Case>::new(), None);
        // Pages of two, so that paging is part of what is tested.
        loop {
            let page = semel_shard::cases(rows, &gallery(), after, 2).expect("memory does not fail");
            let Some(last) = page.last() else { return cases };
            after = Some(last.case_id);
            cases.extend(page);
        }
    };
    world.shards.iter().flat_map(|shard| of_shard(&shard.rows)).collect()
}

fn every_candidate_has_a_case(world: &World) {
    for record in records(world) {
        let shard = world.home(&record.enrolment_id);
        let verdicts = semel_shard::verdicts(&shard.rows, &gallery(), &record.enrolment_id, 100);
        for verdict in verdicts.expect("memory does not fail") {
            for candidate in &verdict.candidates {
                let case = world.pair_case(&record.enrolment_id, &candidate.enrolment_id);
                let case = case.expect("a verdict names a candidate that has no case");
                assert!(case.opened_by.contains(&record.enrolment_id));
            }
            let cluster = world.case(&CaseSubject::Cluster(record.enrolment_id.clone()));
            assert!(!verdict.saturated || cluster.is_some());
        }
    }
}

fn one_case_per_pair(world: &World) {
    let cases = cases(world);
    let subjects: BTreeSet<&CaseSubject> = cases.iter().map(|case| &case.subject).collect();
    assert_eq!(subjects.len(), cases.len());
    for case in &cases {
        for enrolment in case.subject.enrolment_ids() {
            let record = world.record(enrolment).expect("a case is about enrolments that were staged");
            assert!(record.case_ids.contains(&case.case_id), "{enrolment} does not know of its case");
        }
    }
    let linked: usize = records(world).iter().map(|record| record.case_ids.len()).sum();
    assert_eq!(linked, cases.iter().map(|case| case.subject.enrolment_ids().len()).sum::<usize>());
}

fn cases_are_moot_exactly_where_somebody_withdrew(world: &World) {
    for case in cases(world) {
        let all_live = case.subject.enrolment_ids().into_iter().all(|enrolment| world.is_live(enrolment));
        assert_eq!(case.is_open(), all_live, "{case:?}");
    }
}

fn whoever_waits_for_a_person_has_an_open_case(world: &World) {
    let open: BTreeSet<_> = cases(world).iter().filter(|case| case.is_open()).map(|case| case.case_id).collect();
    for record in records(world) {
        if record.state == EnrolmentState::PossibleDuplicate {
            assert!(record.case_ids.iter().any(|case| open.contains(case)), "{} has nothing open", record.enrolment_id);
        }
    }
}

fn no_missed_duplicate(world: &World, mates: Mates) {
    let live: Vec<_> = records(world).into_iter().filter(|record| record.state != EnrolmentState::Withdrawn).collect();
    let lists = |one: &EnrolmentRecord, other: &EnrolmentRecord| {
        let verdict = one.verdict.as_ref().expect("everything is settled");
        verdict.saturated || verdict.candidates.iter().any(|candidate| candidate.enrolment_id == other.enrolment_id)
    };
    for (place, one) in live.iter().enumerate() {
        for other in &live[..place] {
            let missed = mates.are(&one.enrolment_id, &other.enrolment_id) && !lists(one, other) && !lists(other, one);
            assert!(!missed, "{} and {} missed each other", one.enrolment_id, other.enrolment_id);
        }
    }
}

fn counts_are_those_of_the_rows(world: &World) {
    for shard in &world.shards {
        let counts = semel_shard::counts_of(&shard.rows, &gallery()).expect("memory does not fail");
        let withdrawn = shard.published.iter().filter(|(_, live)| !live).count() as u64;
        let cases = semel_shard::cases(&shard.rows, &gallery(), None, 1_000).expect("memory does not fail");
        assert_eq!((counts.staged_total, counts.withdrawn_total), (shard.published.len() as u64, withdrawn));
        assert_eq!((counts.pending, counts.cases), (0, cases.len() as u64));
        assert_eq!(counts.totals(), shard.totals);
    }
}

fn a_rebuilt_catalogue_is_the_one_that_was_published(world: &World) {
    for shard in &world.shards {
        let mut rebuilt: Vec<(EnrolmentId, bool)> = Vec::new();
        semel_shard::replay_catalogue(&shard.rows, &mut |_, publication| match publication {
            Publication::Staged { enrolment_id, .. } => rebuilt.push((enrolment_id, true)),
            Publication::Withdrawn { .. } => rebuilt.last_mut().expect("staged before withdrawn").1 = false,
            Publication::Changed { .. } => panic!("a catalogue does not care for verdicts"),
        })
        .expect("memory does not fail");
        assert_eq!(rebuilt, shard.published);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_whatever_the_order(
        shards in 1..=3_u32,
        candidates_max in 1..=6_usize,
        mates in any::<u32>().prop_map(Mates),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new(shards, candidates_max);
        let mut waiting = Vec::new();
        for step in &steps {
            take(&mut world, mates, &mut waiting, step);
        }
        settle_down(&mut world, mates);
        every_candidate_has_a_case(&world);
        one_case_per_pair(&world);
        cases_are_moot_exactly_where_somebody_withdrew(&world);
        whoever_waits_for_a_person_has_an_open_case(&world);
        no_missed_duplicate(&world, mates);
        counts_are_those_of_the_rows(&world);
        a_rebuilt_catalogue_is_the_one_that_was_published(&world);
    }
}
