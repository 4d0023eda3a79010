//! Searching without enrolling, and comparing with one enrolment.

use semel_index::{ComparisonScore, TemplateSpec as Spec};
use semel_population::{CaptureNumber, Eye, IrisModel, IrisPopulation, IrisPreset, Oracle, PersonId, Seed};
use semel_proto::v1::biometric_reference::Template;
use semel_proto::v1::identify_response::Outcome;
use semel_proto::v1::{
    BinaryCode, BinaryCodeSpec, BiometricReference, CompleteIdentification, EnrolRequest, GetClusterStatusResponse,
    IdentifyRequest, Modality, ModalityPolicy, Policy, Position, TemplateSpec, VerifyRequest, WithdrawEnrolmentRequest,
    template_spec,
};
use semel_sandbox::{Sandbox, requests};
use tonic::Code;

use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::{candidates, enrol, wait_quiet};

const GALLERY: &str = "people";
const PURPOSE: &str = "found person";
/// How long a search waits for shards that will not answer.
const WAIT_MS: u32 = 1_500;

async fn cluster(policy: Policy) -> Sandbox {
    let sandbox = Sandbox::builder().engine("exact").start().await.expect("the cluster starts");
    sandbox.galleries().create_gallery(requests::gallery(GALLERY, policy)).await.expect("the gallery is created");
    sandbox
}

fn faces(identification_allowed: bool) -> Policy {
    Policy { identification_allowed, ..requests::embedding_policy(Modality::Face, DIMENSION, THRESHOLD) }
}

fn identify(references: Vec<BiometricReference>) -> IdentifyRequest {
    IdentifyRequest {
        gallery: GALLERY.to_owned(),
        references,
        purpose: PURPOSE.to_owned(),
        wait_ms: WAIT_MS,
        ..Default::default()
    }
}

fn face(values: &[f32]) -> Vec<BiometricReference> {
    vec![requests::embedding_reference(Modality::Face, values)]
}

async fn identified(sandbox: &Sandbox, references: Vec<BiometricReference>) -> CompleteIdentification {
    let answer = sandbox.identification().identify(identify(references)).await.expect("an answer").into_inner();
    match answer.outcome.expect("an answer has an outcome") {
        Outcome::Complete(complete) => complete,
        Outcome::Incomplete(incomplete) => panic!("{incomplete:?}"),
    }
}

#[tokio::test]
async fn a_gallery_that_does_not_allow_identification_refuses_it() {
    let sandbox = cluster(faces(false)).await;
    let request = identify(face(&capture(&people::people(31, 1), 0, 0)));
    let refused = sandbox.identification().identify(request).await.expect_err("off by default");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("identification_allowed"), "{refused}");
}

#[tokio::test]
async fn identification_finds_the_mate_of_a_probe_among_all_and_stores_nothing() {
    let sandbox = cluster(faces(true)).await;
    let people = people::people(32, 25);
    let client = sandbox.enrolments();
    for person in 0..20 {
        enrol(&client, &requests::face_enrolment(GALLERY, &format!("p{person}"), &capture(&people, person, 0))).await;
    }
    let before = wait_quiet(&sandbox, GALLERY).await;
    for person in 0..25 {
        let found = identified(&sandbox, face(&capture(&people, person, 1))).await;
        let ids: Vec<&str> = found.candidates.iter().map(|candidate| candidate.enrolment_id.as_str()).collect();
        let expected = (person < 20).then(|| format!("p{person}"));
        assert_eq!(ids, expected.iter().map(String::as_str).collect::<Vec<_>>(), "person {person}");
        let coverage = found.coverage.expect("a complete search has evidence");
        assert_eq!((coverage.shards.len(), coverage.live, coverage.compared), (8, 20, 20));
    }
    let after = wait_quiet(&sandbox, GALLERY).await;
    let counts = |status: &GetClusterStatusResponse| {
        let [gallery] = status.galleries.as_slice() else { panic!("{:?}", status.galleries) };
        (gallery.live, gallery.withdrawn, gallery.pending, gallery.cases)
    };
    assert_eq!(counts(&before), counts(&after));
}

#[tokio::test]
async fn an_identification_that_misses_shards_says_so_instead_of_finding_nobody() {
    let sandbox = cluster(faces(true)).await;
    let people = people::people(33, 1);
    enrol(&sandbox.enrolments(), &requests::face_enrolment(GALLERY, "p", &capture(&people, 0, 0))).await;
    sandbox.kill_node(0).await.expect("the node runs");
    sandbox.kill_node(1).await.expect("the node runs");
    let request = identify(face(&capture(&people, 0, 1)));
    let answer = sandbox.identification().identify(request).await.expect("an answer").into_inner();
    let Some(Outcome::Incomplete(incomplete)) = answer.outcome else { panic!("{answer:?}") };
    assert_eq!(incomplete.missing_shards, (0..8).collect::<Vec<u32>>());
}

#[tokio::test]
async fn verification_compares_with_one_enrolment_alone() {
    let sandbox = cluster(faces(false)).await;
    let people = people::people(34, 2);
    let client = sandbox.enrolments();
    for person in 0..2 {
        enrol(&client, &requests::face_enrolment(GALLERY, &format!("p{person}"), &capture(&people, person, 0))).await;
    }
    for (claimed, probe) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let request = VerifyRequest {
            gallery: GALLERY.to_owned(),
            enrolment_id: format!("p{claimed}"),
            references: face(&capture(&people, probe, 1)),
        };
        let answer = sandbox.identification().verify(request).await.expect("an answer").into_inner();
        let [comparison] = answer.comparisons.as_slice() else { panic!("{answer:?}") };
        assert_eq!(comparison.threshold_micros, requests::micros(THRESHOLD));
        assert_eq!(answer.threshold_reached, claimed == probe, "{comparison:?}");
        assert_eq!(comparison.score_micros >= comparison.threshold_micros, answer.threshold_reached);
    }
    let withdraw = WithdrawEnrolmentRequest {
        gallery: GALLERY.to_owned(),
        enrolment_id: "p0".to_owned(),
        reason: "entered by mistake".to_owned(),
    };
    sandbox.enrolments().withdraw_enrolment(withdraw).await.expect("it is withdrawn");
    let request = VerifyRequest {
        gallery: GALLERY.to_owned(),
        enrolment_id: "p0".to_owned(),
        references: face(&capture(&people, 0, 1)),
    };
    let refused = sandbox.identification().verify(request).await.expect_err("withdrawn");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

/// Strangers' eyes score .54 at best, mates' mostly above .8.
const IRIS_THRESHOLD: f64 = 0.65;
const EYES: u32 = 60;

#[tokio::test]
async fn enrolling_iris_codes_one_by_one_names_whom_the_exact_oracle_names_with_the_same_scores() {
    let spec = IrisModel::SPEC;
    let wire_spec = BinaryCodeSpec {
        rows: spec.rows,
        columns: spec.columns,
        bits_per_cell: spec.bits_per_cell,
        shifts_max: spec.shifts_max,
        common_bits_min: spec.common_bits_min,
    };
    let iris = ModalityPolicy {
        modality: Modality::Iris.into(),
        spec: Some(TemplateSpec { kind: Some(template_spec::Kind::BinaryCode(wire_spec)) }),
        review_threshold_micros: requests::micros(IRIS_THRESHOLD),
    };
    let sandbox = cluster(Policy { modalities: vec![iris], ..Default::default() }).await;
    let eyes =
        IrisPopulation::new(IrisPreset::NonIdeal.model(), spec, Seed(35), EYES).expect("the figures are in range");
    let rows: Vec<(PersonId, CaptureNumber)> =
        (0..2).flat_map(|number| (0..EYES).map(move |person| (PersonId(person), CaptureNumber(number)))).collect();
    let templates = rows.iter().map(|&(person, number)| eyes.template(person, Eye::Left, number));
    let oracle = Oracle::new(Spec::BinaryCode(spec), templates.collect()).expect("codes of the spec");
    let threshold = ComparisonScore::from_f64(IRIS_THRESHOLD).expect("in range");
    let named = oracle.pairs_reaching(0..oracle.rows(), threshold);
    assert!(named.len() > EYES as usize / 2, "most second captures have a mate: {}", named.len());

    for (row, &(person, number)) in (0_u32..).zip(&rows) {
        let code = eyes.capture(person, Eye::Left, number);
        let reference = BiometricReference {
            modality: Modality::Iris.into(),
            position: Position::LeftEye.into(),
            template: Some(Template::BinaryCode(BinaryCode { code: code.code, mask: code.mask })),
            ..Default::default()
        };
        let request: EnrolRequest = requests::enrolment(GALLERY, &format!("eye-{row}"), vec![reference]);
        let enrolment = enrol(&sandbox.enrolments(), &request).await;
        let expected = named.iter().filter(|pair| pair.later.0 == row);
        let expected: Vec<(String, i32)> =
            expected.map(|pair| (format!("eye-{}", pair.earlier.0), pair.score.micros())).collect();
        assert_eq!(candidates(&enrolment), expected.iter().map(|(id, _)| id.clone()).collect(), "row {row}");
        for candidate in &enrolment.verdict.expect("settled").candidates {
            let score = candidate.comparisons[0].score_micros;
            assert!(expected.contains(&(candidate.enrolment_id.clone(), score)), "row {row}: {score}");
        }
    }
}
