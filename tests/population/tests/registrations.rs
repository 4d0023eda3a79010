//! Plans hold the shares asked for, in a seeded order, with a truth that matches.

use std::collections::{BTreeMap, BTreeSet};

use semel_population::{
    CaptureNumber, Multiplicity, PersonId, Population, Preset, Registration, RegistrationPlan, Relation, Row, Seed,
    Submission, Workload,
};

fn plan(workload: &Workload, people: u32) -> RegistrationPlan {
    RegistrationPlan::new(workload, Seed(4), people).expect("shares in range")
}

fn by_person(plan: &RegistrationPlan) -> BTreeMap<PersonId, Vec<Registration>> {
    let mut people: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for registration in plan.registrations() {
        people.entry(registration.person).or_default().push(registration);
    }
    people
}

#[test]
fn shares_are_exact() {
    let workload = Workload { multiplicity: Multiplicity::Twice, ..Workload::default() };
    let plan = plan(&workload, 20_000);
    assert_eq!(plan.len(), 20_000 + 200 + 2);
    let people = by_person(&plan);
    assert_eq!(people.len(), 20_000);
    let twice = people.values().filter(|rows| rows.iter().any(|row| row.capture == CaptureNumber(1)));
    assert_eq!(twice.count(), 200);
    let resubmitted: Vec<_> = plan.registrations().filter(|registration| registration.resubmission).collect();
    assert_eq!(resubmitted.len(), 4);
    for registration in resubmitted {
        let same = people[&registration.person].iter().filter(|other| other.capture == registration.capture);
        assert_eq!(same.count(), 2);
    }
    let together = plan.submissions().iter().filter(|submission| matches!(submission, Submission::Simultaneous(..)));
    assert_eq!(together.count(), 100);
}

#[test]
fn registrations_that_arrive_together_are_of_one_person_and_two_captures() {
    let workload = Workload { simultaneous_share: 1.0, repeats_share: 0.05, ..Workload::default() };
    let mut pairs = 0;
    for submission in plan(&workload, 5_000).submissions() {
        if let Submission::Simultaneous(first, second) = submission {
            pairs += 1;
            assert_eq!(first.person, second.person);
            assert_ne!(first.capture, second.capture);
            assert_eq!(second.row.0, first.row.0 + 1);
        }
    }
    assert!(pairs > 100);
}

#[test]
fn registry_multiplicities_are_spread_as_stated() {
    let workload = Workload { repeats_share: 0.5, resubmitted_share: 0.0, ..Workload::default() };
    let plan = plan(&workload, 40_000);
    assert_eq!(plan.len(), 60_000);
    let mut counts = [0_u32; 3];
    for rows in by_person(&plan).values() {
        match rows.len() {
            1 => {}
            2 => counts[0] += 1,
            3..=5 => counts[1] += 1,
            6..=30 => counts[2] += 1,
            more => panic!("{more} registrations of one person"),
        }
    }
    let again = f64::from(counts.iter().sum::<u32>());
    for (count, expected) in counts.into_iter().zip([0.90, 0.09, 0.01]) {
        assert!((f64::from(count) / again - expected).abs() < 0.01, "{counts:?}");
    }
}

#[test]
fn order_is_shuffled_by_the_seed_and_rows_follow_it() {
    let workload = Workload::default();
    let persons = |seed| -> Vec<u32> {
        let plan = RegistrationPlan::new(&workload, Seed(seed), 1_000).expect("shares in range");
        plan.registrations().map(|registration| registration.person.0).collect()
    };
    assert_eq!(persons(1), persons(1));
    assert_ne!(persons(1), persons(2));
    let in_place = persons(1).iter().zip(0..).filter(|(person, place)| *person == place).count();
    assert!(in_place < 20, "{in_place} people kept their place");
    assert!(plan(&workload, 1_000).registrations().zip(0..).all(|(registration, row)| registration.row == Row(row)));
}

#[test]
fn enrolment_ids_are_unique_and_lead_back_to_their_row() {
    let plan = plan(&Workload::default(), 2_000);
    let ids: BTreeSet<String> = plan.registrations().map(|registration| plan.enrolment_id(registration.row)).collect();
    assert_eq!(ids.len(), plan.len());
    for registration in plan.registrations() {
        assert_eq!(plan.row_of(&plan.enrolment_id(registration.row)), Some(registration.row));
    }
    for foreign in ["r5-00000001", "r4-99999999", "r4-1", "", "r4-", "r4-x"] {
        assert_eq!(plan.row_of(foreign), None);
    }
}

#[test]
fn truth_knows_mates_and_kin_by_their_rows() {
    let population = Population::new(Preset::F1, Seed(4), 3_000);
    let workload = Workload { repeats_share: 0.1, ..Workload::default() };
    let plan = plan(&workload, 3_000);
    let truth = plan.truth(&population);
    let rows: Vec<_> = plan.registrations().collect();
    let mut kin_pairs = 0;
    for a in &rows {
        for b in rows.iter().skip(a.row.0 as usize + 1) {
            let kin = population.person(a.person).kin.filter(|kin| kin.of == b.person);
            let expected = match kin {
                _ if a.person == b.person => Relation::Mates,
                Some(kin) => Relation::Kin(kin.kinship),
                None => Relation::Strangers,
            };
            assert_eq!(truth.relation(a.row, b.row), expected);
            kin_pairs += u32::from(kin.is_some());
        }
        // All pairs of a few hundred rows are enough of a sample, and quick.
        if a.row.0 > 300 {
            break;
        }
    }
    assert!(kin_pairs > 0);
    let mates: usize = by_person(&plan).values().map(|rows| rows.len() * (rows.len() - 1) / 2).sum();
    assert_eq!(truth.mated_pairs().len(), mates);
}

#[test]
fn shares_out_of_range_are_refused_by_name() {
    let refused = |workload: Workload| RegistrationPlan::new(&workload, Seed(1), 10).expect_err("out of range").field;
    assert_eq!(refused(Workload { repeats_share: -0.1, ..Workload::default() }), "repeats_share");
    assert_eq!(refused(Workload { resubmitted_share: 1.1, ..Workload::default() }), "resubmitted_share");
    assert_eq!(refused(Workload { simultaneous_share: f64::NAN, ..Workload::default() }), "simultaneous_share");
}

#[test]
fn plans_without_people_or_repeats_are_plain() {
    assert!(plan(&Workload::default(), 0).is_empty());
    let workload = Workload { repeats_share: 0.0, resubmitted_share: 0.0, ..Workload::default() };
    assert_eq!(plan(&workload, 50).submissions().len(), 50);
}
