//! Withdrawing: hidden from every later search, its cases moot, and those it had made suspects looked at anew.

use std::time::Duration;

use semel_proto::v1::{Case, CaseState, Enrolment, EnrolmentState, WithdrawEnrolmentRequest};
use semel_sandbox::{Sandbox, requests, wait_until};
use tonic::Code;

use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{assert_replicas_agree, candidates, cases, enrol, enrol_once, recorded, wait_quiet};

const GALLERY: &str = "people";
const FOLLOWS_WITHIN: Duration = Duration::from_secs(30);

async fn cluster() -> Sandbox {
    let sandbox = Sandbox::builder().engine("exact").start().await.expect("the cluster starts");
    let gallery = requests::face_gallery(GALLERY, DIMENSION, THRESHOLD);
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

async fn withdraw(sandbox: &Sandbox, id: &str) -> Enrolment {
    let request = WithdrawEnrolmentRequest {
        gallery: GALLERY.to_owned(),
        enrolment_id: id.to_owned(),
        reason: "entered by mistake".to_owned(),
    };
    let answer = sandbox.enrolments().withdraw_enrolment(request).await.expect("it is withdrawn");
    answer.into_inner().enrolment.expect("an answer holds the record")
}

/// The state of the case of two enrolments.
fn state_of(cases: &[Case], one: &str, other: &str) -> Option<CaseState> {
    let both =
        |case: &&Case| case.enrolment_ids.contains(&one.to_owned()) && case.enrolment_ids.contains(&other.to_owned());
    cases.iter().find(both).map(Case::state)
}

#[tokio::test]
async fn what_is_withdrawn_is_no_candidate_afterwards_and_its_id_is_never_reused() {
    let sandbox = cluster().await;
    let people = people::people(21, 30);
    let client = sandbox.enrolments();
    for person in 0..30 {
        let request = requests::face_enrolment(GALLERY, &format!("{person}-0"), &capture(&people, person, 0));
        assert_eq!(enrol(&client, &request).await.state(), EnrolmentState::Unique);
    }
    for person in (0..30).step_by(2) {
        assert_eq!(withdraw(&sandbox, &format!("{person}-0")).await.state(), EnrolmentState::Withdrawn);
    }
    for person in 0..30 {
        let request = requests::face_enrolment(GALLERY, &format!("{person}-1"), &capture(&people, person, 1));
        let second = enrol(&client, &request).await;
        let expected = if person % 2 == 0 { EnrolmentState::Unique } else { EnrolmentState::PossibleDuplicate };
        assert_eq!(second.state(), expected, "person {person}");
    }
    let other = requests::face_enrolment(GALLERY, "0-0", &capture(&people, 0, 2));
    let refused = enrol_once(&client, &other).await.expect_err("the id was given away");
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    let same = requests::face_enrolment(GALLERY, "0-0", &capture(&people, 0, 0));
    let again = enrol(&client, &same).await;
    assert_eq!(again.state(), EnrolmentState::Withdrawn, "the same request again gives what is recorded");
    // Withdrawing twice changes nothing.
    assert_eq!(withdraw(&sandbox, "0-0").await, again);
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
}

#[tokio::test]
async fn the_cases_of_a_withdrawn_enrolment_become_moot_and_whoever_has_no_other_is_settled_anew() {
    let sandbox = cluster().await;
    let people = people::people(22, 1);
    let client = sandbox.enrolments();
    let request = |id: &str, number| requests::face_enrolment(GALLERY, id, &capture(&people, 0, number));
    assert_eq!(enrol(&client, &request("a", 0)).await.state(), EnrolmentState::Unique);
    assert_eq!(enrol(&client, &request("b", 1)).await.state(), EnrolmentState::PossibleDuplicate);
    let third = enrol(&client, &request("c", 2)).await;
    assert_eq!(candidates(&third).into_iter().collect::<Vec<_>>(), ["a", "b"]);
    wait_quiet(&sandbox, GALLERY).await;

    withdraw(&sandbox, "a").await;
    let moot = wait_until("the cases of the withdrawn enrolment to be moot", FOLLOWS_WITHIN, || async {
        let cases = cases(&sandbox.cases(), GALLERY).await;
        let states = [("a", "b"), ("a", "c"), ("b", "c")].map(|(one, other)| state_of(&cases, one, other));
        let expected = [CaseState::Moot, CaseState::Moot, CaseState::Open].map(Some);
        if states == expected { Ok(cases.len()) } else { Err(format!("{states:?}")) }
    });
    assert_eq!(moot.await.unwrap_or_else(|error| panic!("{error}")), 3);

    // Both still have an open case with each other, so their verdicts stand.
    wait_quiet(&sandbox, GALLERY).await;
    for id in ["b", "c"] {
        let enrolment = recorded(&client, GALLERY, id).await;
        let round = enrolment.verdict.as_ref().map(|verdict| verdict.round);
        assert_eq!((enrolment.state(), round), (EnrolmentState::PossibleDuplicate, Some(1)), "{id}");
    }

    withdraw(&sandbox, "b").await;
    let alone = wait_until("c to be settled anew", FOLLOWS_WITHIN, || async {
        let c = recorded(&client, GALLERY, "c").await;
        let settled = c.verdict.as_ref().is_some_and(|verdict| verdict.round == 2);
        if settled { Ok(c) } else { Err(format!("{:?}, {:?}", c.state(), c.verdict)) }
    });
    let alone = alone.await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((alone.state(), candidates(&alone).len()), (EnrolmentState::Unique, 0));
    let verdict = alone.verdict.as_ref().expect("settled");
    assert_eq!(verdict.coverage.as_ref().expect("evidence").live, 0);
    assert_replicas_agree(&wait_quiet(&sandbox, GALLERY).await);
}
