//! Cases across shards: opening, becoming moot, and the round that follows when nothing is left to look at.

use semel_index::EnrolmentId;
use semel_shard::{CASES_MOOTED_MAX, CaseState, Command, EnrolmentState, LinkCase, NoteMoot, Receipt, Refusal};

use crate::world::{World, candidate, gallery, id};

fn world_of(names: &[EnrolmentId]) -> World {
    let mut world = World::new(3, 256);
    for name in names {
        world.stage(name);
    }
    world
}

fn settle(world: &mut World, applicant: &EnrolmentId, named: &[&EnrolmentId]) {
    let settle = world.propose(applicant, named.iter().map(|other| candidate(other, 5)).collect());
    world.commit(&Command::Settle(settle));
}

#[test]
fn a_pair_that_names_each_other_has_one_case() {
    let (a, b) = (id("a"), id("b"));
    let mut world = world_of(&[a.clone(), b.clone()]);
    settle(&mut world, &a, &[&b]);
    settle(&mut world, &b, &[&a]);
    world.drain();
    let case = world.pair_case(&a, &b).expect("opened");
    assert_eq!((case.opened_by.as_slice(), case.state), ([a.clone(), b.clone()].as_slice(), CaseState::Open));
    for enrolment in [&a, &b] {
        assert_eq!(world.record(enrolment).expect("staged").case_ids, [case.case_id]);
    }
}

#[test]
fn a_withdrawal_makes_cases_moot_and_the_other_is_searched_anew() {
    let (a, b) = (id("a"), id("b"));
    let mut world = world_of(&[a.clone(), b.clone()]);
    settle(&mut world, &a, &[&b]);
    world.drain();
    world.withdraw(&b);
    world.drain();
    assert_eq!(world.pair_case(&a, &b).expect("cases stay").state, CaseState::Moot { withdrawn: b.clone() });
    let record = world.record(&a).expect("staged");
    assert_eq!((record.state, record.round), (EnrolmentState::Staged, 2));
    assert_eq!(record.verdict.map(|verdict| verdict.round), Some(1));
    settle(&mut world, &a, &[]);
    let verdicts = semel_shard::verdicts(&world.home(&a).rows, &gallery(), &a, 10).expect("memory does not fail");
    assert_eq!(verdicts.iter().map(|verdict| verdict.round).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(world.state(&a), EnrolmentState::Unique);
}

#[test]
fn a_settle_of_an_earlier_round_or_search_does_not_settle_a_later_one() {
    let (a, b) = (id("a"), id("b"));
    let mut world = world_of(&[a.clone(), b.clone()]);
    let early = world.propose(&a, vec![candidate(&b, 5)]);
    world.commit(&Command::Settle(early.clone()));
    world.withdraw(&b);
    world.drain();
    world.commit(&Command::Settle(early.clone()));
    assert_eq!(world.state(&a), EnrolmentState::Staged);
    // The round is right, but the search is from before it began: it may name whom the round is to forget.
    let mut stale = early;
    stale.verdict.round = 2;
    assert_eq!(world.commit(&Command::Settle(stale)), Receipt::Refused(Refusal::NotWhatWasStaged));
}

#[test]
fn an_enrolment_with_one_case_left_is_not_searched_anew() {
    let (a, b, c) = (id("a"), id("b"), id("c"));
    let mut world = world_of(&[a.clone(), b.clone(), c.clone()]);
    settle(&mut world, &a, &[&b, &c]);
    world.drain();
    world.withdraw(&b);
    world.drain();
    assert_eq!(world.state(&a), EnrolmentState::PossibleDuplicate);
    world.withdraw(&c);
    world.drain();
    assert_eq!(world.state(&a), EnrolmentState::Staged);
}

/// The case was opened by the other and became moot before the verdict that names the withdrawn enrolment was settled:
/// the note that it is moot had been taken, and nothing would have begun the next round.
#[test]
fn a_verdict_settled_after_its_only_case_became_moot_is_searched_anew() {
    let (a, b) = (id("a"), id("b"));
    let mut world = world_of(&[a.clone(), b.clone()]);
    let slow = world.propose(&a, vec![candidate(&b, 5)]);
    settle(&mut world, &b, &[&a]);
    world.drain();
    world.withdraw(&b);
    world.drain();
    world.commit(&Command::Settle(slow));
    assert_eq!(world.state(&a), EnrolmentState::PossibleDuplicate);
    world.drain();
    let record = world.record(&a).expect("staged");
    assert_eq!((record.state, record.round), (EnrolmentState::Staged, 2));
    assert_eq!(world.pair_case(&a, &b).expect("cases stay").opened_by, [a, b]);
}

#[test]
fn a_note_that_overtakes_its_link_counts_as_the_link() {
    let (a, b) = (id("a"), id("b"));
    let mut world = world_of(&[a.clone(), b.clone()]);
    let note = NoteMoot { gallery: gallery(), enrolment_id: a.clone(), withdrawn: b.clone() };
    let link = LinkCase { gallery: gallery(), enrolment_id: a.clone(), other_enrolment_id: b.clone() };
    world.commit(&Command::NoteMoot(note));
    world.commit(&Command::LinkCase(link));
    assert_eq!(world.record(&a).expect("staged").cases_total, 1);
    settle(&mut world, &a, &[&b]);
    world.withdraw(&b);
    world.drain();
    assert_eq!(world.state(&a), EnrolmentState::Staged);
}

#[test]
fn notes_about_unknown_enrolments_are_refused() {
    let (a, b) = (id("a"), id("b"));
    let mut world = World::new(3, 8);
    let link = LinkCase { gallery: gallery(), enrolment_id: a.clone(), other_enrolment_id: b.clone() };
    let note = NoteMoot { gallery: gallery(), enrolment_id: a, withdrawn: b };
    assert_eq!(world.commit(&Command::LinkCase(link)), Receipt::Refused(Refusal::NoSuchEnrolment));
    assert_eq!(world.commit(&Command::NoteMoot(note)), Receipt::Refused(Refusal::NoSuchEnrolment));
}

#[test]
fn a_withdrawal_with_many_cases_makes_them_moot_in_bounded_steps() {
    let applicant = id("applicant");
    let others: Vec<EnrolmentId> = (0..2 * CASES_MOOTED_MAX + 10).map(|number| id(&format!("{number:04}"))).collect();
    let mut world = World::new(1, 256);
    world.stage(&applicant);
    for other in &others {
        let link = LinkCase { gallery: gallery(), enrolment_id: applicant.clone(), other_enrolment_id: other.clone() };
        world.commit(&Command::LinkCase(link));
    }
    let Receipt::Enrolment { mut obligations, .. } = world.withdraw(&applicant) else { panic!("expected a record") };
    let mut mooted = Vec::new();
    let mut steps = 0;
    while let Some(last) = obligations.pop() {
        assert!(obligations.len() <= CASES_MOOTED_MAX);
        steps += 1;
        mooted.extend(obligations.drain(..).map(|obligation| obligation.command));
        obligations = match &last.command {
            Command::LinkCase(_) => match world.commit(&last.command) {
                Receipt::Done { obligations } => obligations,
                receipt => panic!("expected to be done, got {receipt:?}"),
            },
            command => {
                mooted.push(command.clone());
                Vec::new()
            }
        };
    }
    let named = mooted.iter().map(|command| match command {
        Command::MootCase(moot) => moot.other_enrolment_id.clone(),
        command => panic!("a withdrawal makes cases moot, not {command:?}"),
    });
    assert_eq!(named.collect::<Vec<_>>(), others);
    assert_eq!(steps, 3);
}
