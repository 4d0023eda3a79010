//! Bad input: a clear code, a message that names the field and the limit, and nothing stored.

use futures::StreamExt as _;
use semel_proto::v1::biometric_reference::Template;
use semel_proto::v1::{
    BinaryCode, BinaryCodeSpec, BiometricReference, CreateGalleryRequest, Embedding, EnrolRequest, EnrolStreamRequest,
    EnrolmentState, GetClusterStatusResponse, GetEnrolmentRequest, IdentifyRequest, ListCasesRequest, Modality,
    ModalityPolicy, Policy, Position, Provenance, TemplateSpec, UpdatePolicyRequest, VerifyRequest,
    WithdrawEnrolmentRequest, template_spec,
};
use semel_sandbox::{Sandbox, requests, wait_until};
use tonic::{Code, Status};

use crate::registry::{enrol, recorded, wait_quiet};

const GALLERY: &str = "people";
const DIMENSION: usize = 8;
/// Bytes of an iris code here: 4 × 16 × 2 bits.
const CODE_BYTES: usize = 16;

/// Faces and irises.
fn policy() -> Policy {
    let iris = BinaryCodeSpec { rows: 4, columns: 16, bits_per_cell: 2, shifts_max: 2, common_bits_min: 32 };
    let iris = ModalityPolicy {
        modality: Modality::Iris.into(),
        spec: Some(TemplateSpec { kind: Some(template_spec::Kind::BinaryCode(iris)) }),
        review_threshold_micros: 700_000,
    };
    let mut policy = requests::embedding_policy(Modality::Face, DIMENSION as u32, 0.8);
    policy.modalities.push(iris);
    policy.purposes = vec!["civil registration".to_owned()];
    policy.identification_allowed = true;
    policy
}

async fn cluster() -> Sandbox {
    let sandbox = Sandbox::builder().engine("exact").shards(2).start().await.expect("the cluster starts");
    sandbox.galleries().create_gallery(requests::gallery(GALLERY, policy())).await.expect("the gallery is created");
    sandbox
}

fn face() -> BiometricReference {
    requests::embedding_reference(Modality::Face, &[0.5; DIMENSION])
}

fn face_of(values: &[f32]) -> Vec<BiometricReference> {
    vec![requests::embedding_reference(Modality::Face, values)]
}

fn iris(code: usize, mask: usize) -> Vec<BiometricReference> {
    let template = Template::BinaryCode(BinaryCode { code: vec![0x5a; code], mask: vec![0xff; mask] });
    vec![BiometricReference {
        modality: Modality::Iris.into(),
        position: Position::LeftEye.into(),
        template: Some(template),
        ..Default::default()
    }]
}

fn good() -> EnrolRequest {
    requests::enrolment(GALLERY, "bad", vec![face()])
}

fn with_references(references: Vec<BiometricReference>) -> EnrolRequest {
    EnrolRequest { references, ..good() }
}

fn with_face(change: impl FnOnce(&mut BiometricReference)) -> EnrolRequest {
    let mut face = face();
    change(&mut face);
    with_references(vec![face])
}

fn with_provenance(provenance: Provenance) -> EnrolRequest {
    EnrolRequest { provenance: Some(provenance), ..good() }
}

/// A request that is wrong in one way; the code of the refusal, and what its message must contain: the field and the limit.
type BadEnrolment = (&'static str, EnrolRequest, Code, &'static [&'static str]);

fn bad_enrolments() -> Vec<BadEnrolment> {
    use Code::{InvalidArgument, NotFound, OutOfRange};
    let one_bad = |place: usize, value: f32| {
        let mut values = [0.5; DIMENSION];
        values[place] = value;
        with_references(face_of(&values))
    };
    let long = "x".repeat(257);
    vec![
        (
            "too few components",
            with_references(face_of(&[0.5; 7])),
            InvalidArgument,
            &["references[0].embedding.values", "8"],
        ),
        (
            "too many components",
            with_references(face_of(&[0.5; 9])),
            InvalidArgument,
            &["references[0].embedding.values", "8"],
        ),
        ("no components", with_references(face_of(&[])), InvalidArgument, &["references[0].embedding.values", "8"]),
        ("not a number", one_bad(3, f32::NAN), InvalidArgument, &["references[0].embedding.values[3]", "finite"]),
        ("infinity", one_bad(0, f32::INFINITY), InvalidArgument, &["references[0].embedding.values[0]", "finite"]),
        (
            "minus infinity",
            one_bad(7, f32::NEG_INFINITY),
            InvalidArgument,
            &["references[0].embedding.values[7]", "finite"],
        ),
        (
            "a template of length zero",
            with_references(face_of(&[0.0; DIMENSION])),
            InvalidArgument,
            &["references[0].embedding.values", "zero"],
        ),
        ("no references", with_references(Vec::new()), InvalidArgument, &["references", "1 to 16"]),
        ("too many references", with_references(vec![face(); 17]), InvalidArgument, &["references", "1 to 16"]),
        (
            "the same position twice",
            with_references(vec![face(), face()]),
            InvalidArgument,
            &["references[1].position", "references[0].position"],
        ),
        (
            "an unknown gallery",
            EnrolRequest { gallery: "nobody".to_owned(), ..good() },
            NotFound,
            &["gallery", "nobody"],
        ),
        ("no gallery", EnrolRequest { gallery: String::new(), ..good() }, InvalidArgument, &["gallery", "64"]),
        (
            "a gallery name of other signs",
            EnrolRequest { gallery: "Leute!".to_owned(), ..good() },
            InvalidArgument,
            &["gallery"],
        ),
        ("no id", EnrolRequest { enrolment_id: String::new(), ..good() }, InvalidArgument, &["enrolment_id", "128"]),
        (
            "an id that is too long",
            EnrolRequest { enrolment_id: "i".repeat(129), ..good() },
            InvalidArgument,
            &["enrolment_id", "128"],
        ),
        (
            "an id with a NUL",
            EnrolRequest { enrolment_id: "a\0b".to_owned(), ..good() },
            InvalidArgument,
            &["enrolment_id", "NUL"],
        ),
        (
            "a subject id that is too long",
            EnrolRequest { subject_id: "s".repeat(129), ..good() },
            InvalidArgument,
            &["subject_id", "128"],
        ),
        (
            "a modality that the policy does not list",
            with_face(|face| face.modality = Modality::Voice.into()),
            InvalidArgument,
            &["references[0].modality", "policy"],
        ),
        (
            "an unknown modality",
            with_face(|face| face.modality = 77),
            InvalidArgument,
            &["references[0].modality", "77"],
        ),
        ("no modality", with_face(|face| face.modality = 0), InvalidArgument, &["references[0].modality"]),
        (
            "an unknown position",
            with_face(|face| face.position = 99),
            InvalidArgument,
            &["references[0].position", "99"],
        ),
        (
            "a negative position",
            with_face(|face| face.position = -1),
            InvalidArgument,
            &["references[0].position", "-1"],
        ),
        (
            "a position of another modality",
            with_face(|face| face.position = Position::LeftEye.into()),
            InvalidArgument,
            &["references[0].position", "face"],
        ),
        (
            "no template",
            with_face(|face| face.template = None),
            InvalidArgument,
            &["references[0].template", "required"],
        ),
        (
            "a template of another kind",
            with_face(|face| face.template = iris(CODE_BYTES, 0).remove(0).template),
            InvalidArgument,
            &["references[0].template", "embedding"],
        ),
        (
            "quality beyond its range",
            with_face(|face| face.quality = Some(101)),
            InvalidArgument,
            &["references[0].quality", "0 to 100"],
        ),
        (
            "an algorithm id that is too long",
            with_face(|face| face.algorithm_id = "a".repeat(129)),
            InvalidArgument,
            &["references[0].algorithm_id", "128"],
        ),
        (
            "a code that is too short",
            with_references(iris(CODE_BYTES - 1, 0)),
            InvalidArgument,
            &["references[0].binary_code.code", "16"],
        ),
        (
            "a mask of another length than the code",
            with_references(iris(CODE_BYTES, CODE_BYTES - 1)),
            InvalidArgument,
            &["references[0].binary_code.mask", "16"],
        ),
        (
            "a mask that is too long",
            with_references(iris(CODE_BYTES, CODE_BYTES + 1)),
            InvalidArgument,
            &["references[0].binary_code.mask", "16"],
        ),
        (
            "a site that is too long",
            with_provenance(Provenance { site: long, ..Default::default() }),
            InvalidArgument,
            &["provenance.site", "256"],
        ),
        (
            "a purpose that the policy does not list",
            with_provenance(Provenance { purpose: "curiosity".to_owned(), ..Default::default() }),
            InvalidArgument,
            &["provenance.purpose", "policy"],
        ),
        ("a wait that is too long", EnrolRequest { wait_ms: 60_001, ..good() }, InvalidArgument, &["wait_ms", "60000"]),
        (
            "a message that is too large",
            with_references(face_of(&vec![0.5; 2_000_000])),
            OutOfRange,
            &["message", "4194304"],
        ),
    ]
}

fn check(what: &str, refused: &Status, code: Code, named: &[&str]) {
    assert_eq!(refused.code(), code, "{what}: {refused}");
    for name in named {
        assert!(refused.message().contains(name), "{what}: `{}` does not name `{name}`", refused.message());
    }
}

/// Enrolments that any shard knows of.
fn stored(status: &GetClusterStatusResponse) -> (u64, u64, u64) {
    let counts = status.galleries.iter().find(|counts| counts.gallery == GALLERY).expect("the gallery is counted");
    (counts.live, counts.withdrawn, counts.pending)
}

#[tokio::test]
async fn an_enrolment_that_breaks_a_rule_is_refused_by_field_and_limit_and_nothing_is_stored() {
    let sandbox = cluster().await;
    let client = sandbox.enrolments();
    let entries = |status: &GetClusterStatusResponse| -> Vec<String> {
        status.shards.iter().flat_map(|shard| &shard.replicas).map(|replica| replica.digest.clone()).collect()
    };
    let before = wait_quiet(&sandbox, GALLERY).await;
    for (what, request, code, named) in bad_enrolments() {
        let refused = client.clone().enrol(request).await.expect_err(what);
        check(what, &refused, code, named);
    }
    let read = GetEnrolmentRequest { gallery: GALLERY.to_owned(), enrolment_id: "bad".to_owned(), wait_ms: 0 };
    let missing = client.clone().get_enrolment(read).await.expect_err("nothing was stored");
    check("the id of the refused", &missing, Code::NotFound, &["enrolment"]);

    // The id is free, and the cluster as well as it was.
    let accepted = enrol(&client, &good()).await;
    assert_eq!(accepted.state(), EnrolmentState::Unique);
    let after = wait_until("the one accepted enrolment to be counted", std::time::Duration::from_secs(10), || async {
        let status = wait_quiet(&sandbox, GALLERY).await;
        if stored(&status).0 > 0 { Ok(status) } else { Err(format!("{:?}", stored(&status))) }
    });
    let after = after.await.expect("counted");
    assert_eq!((stored(&before), stored(&after)), ((0, 0, 0), (1, 0, 0)));
    let (before, after) = (entries(&before), entries(&after));
    let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(changed, 3, "one shard's three replicas hold the accepted enrolment, and no other changed");
}

#[tokio::test]
async fn other_requests_that_break_a_rule_are_refused_by_field_and_limit() {
    let sandbox = cluster().await;
    let gallery = || GALLERY.to_owned();

    let create = |name: &str, policy: Option<Policy>| CreateGalleryRequest { name: name.to_owned(), policy };
    let changed = |change: fn(&mut Policy)| {
        let mut policy = policy();
        change(&mut policy);
        Some(policy)
    };
    let galleries: Vec<(&str, CreateGalleryRequest, &[&str])> = vec![
        ("a name of other signs", create("Großstadt", Some(policy())), &["name"]),
        ("no policy", create("other", None), &["policy", "required"]),
        ("no modality", create("other", changed(|policy| policy.modalities.clear())), &["modalities", "1 to 4"]),
        (
            "a modality twice",
            create("other", changed(|policy| policy.modalities[1] = policy.modalities[0])),
            &["modalities[1].modality"],
        ),
        (
            "an unknown modality",
            create("other", changed(|policy| policy.modalities[0].modality = 9)),
            &["modalities[0].modality", "9"],
        ),
        (
            "no spec",
            create("other", changed(|policy| policy.modalities[0].spec = None)),
            &["modalities[0].spec", "required"],
        ),
        (
            "a threshold of zero",
            create("other", changed(|policy| policy.modalities[0].review_threshold_micros = 0)),
            &["modalities[0].review_threshold_micros", "1000000"],
        ),
        (
            "a dimension that is no multiple of 4",
            create("other", Some(requests::embedding_policy(Modality::Face, 10, 0.8))),
            &["modalities[0].spec.embedding.dimension", "4"],
        ),
        (
            "a candidate list that is too long",
            create("other", changed(|policy| policy.candidates_max = 257)),
            &["candidates_max", "256"],
        ),
    ];
    for (what, request, named) in galleries {
        let refused = sandbox.galleries().create_gallery(request).await.expect_err(what);
        check(what, &refused, Code::InvalidArgument, named);
    }
    let taken = create(GALLERY, Some(requests::embedding_policy(Modality::Face, 16, 0.8)));
    let refused = sandbox.galleries().create_gallery(taken).await.expect_err("the name is taken");
    check("another policy under a name that is taken", &refused, Code::AlreadyExists, &["gallery"]);
    let update = |policy: Policy, expected_version| UpdatePolicyRequest {
        name: gallery(),
        policy: Some(policy),
        expected_version,
    };
    let refused = sandbox.galleries().update_policy(update(policy(), 7)).await.expect_err("another version");
    check("a version that is not in force", &refused, Code::Aborted, &["version 1"]);
    let other_spec = requests::embedding_policy(Modality::Face, 16, 0.8);
    let refused = sandbox.galleries().update_policy(update(other_spec, 0)).await.expect_err("another spec");
    check("a spec that changes", &refused, Code::InvalidArgument, &["spec"]);

    let withdraw = |enrolment_id: &str, reason: &str| WithdrawEnrolmentRequest {
        gallery: gallery(),
        enrolment_id: enrolment_id.to_owned(),
        reason: reason.to_owned(),
    };
    let refused = sandbox.enrolments().withdraw_enrolment(withdraw("a", "")).await.expect_err("no reason");
    check("no reason", &refused, Code::InvalidArgument, &["reason", "256"]);
    let refused = sandbox.enrolments().withdraw_enrolment(withdraw("nobody", "moved")).await.expect_err("nobody");
    check("nobody to withdraw", &refused, Code::NotFound, &["enrolment"]);

    let identify = |purpose: &str, references| IdentifyRequest {
        gallery: gallery(),
        references,
        purpose: purpose.to_owned(),
        ..Default::default()
    };
    let refused = sandbox.identification().identify(identify("", vec![face()])).await.expect_err("no purpose");
    check("no purpose", &refused, Code::InvalidArgument, &["purpose"]);
    let refused =
        sandbox.identification().identify(identify("curiosity", vec![face()])).await.expect_err("another purpose");
    check("a purpose that the policy does not list", &refused, Code::InvalidArgument, &["purpose", "policy"]);
    let refused =
        sandbox.identification().identify(identify("civil registration", Vec::new())).await.expect_err("no probe");
    check("a probe without references", &refused, Code::InvalidArgument, &["references", "1 to 16"]);
    let verify = VerifyRequest { gallery: gallery(), enrolment_id: "nobody".to_owned(), references: vec![face()] };
    let refused = sandbox.identification().verify(verify).await.expect_err("nobody");
    check("nobody to verify", &refused, Code::NotFound, &["enrolment"]);

    let list = |page_size, page_token: &str| ListCasesRequest {
        gallery: gallery(),
        page_size,
        page_token: page_token.to_owned(),
    };
    let refused = sandbox.cases().list_cases(list(1_001, "")).await.expect_err("a long page");
    check("a page that is too long", &refused, Code::InvalidArgument, &["page_size", "1000"]);
    let refused = sandbox.cases().list_cases(list(0, "yesterday")).await.expect_err("a made-up token");
    check("a page token that was not given out", &refused, Code::InvalidArgument, &["page_token"]);
}

#[tokio::test]
async fn a_stream_that_breaks_loses_nothing_that_was_staged_and_stores_nothing_of_the_broken_item() {
    let sandbox = cluster().await;
    let people: Vec<EnrolRequest> = (0..20_u8)
        .map(|number| {
            let mut values = [0.0; DIMENSION];
            values[usize::from(number) % DIMENSION] = 1.0;
            values[(usize::from(number) + 1 + usize::from(number) / 8) % DIMENSION] = -2.0;
            requests::face_enrolment(GALLERY, &format!("s{number}"), &values)
        })
        .collect();
    // The client goes after its first answer, with items on their way.
    let items = people
        .iter()
        .zip(0..)
        .map(|(enrolment, sequence)| EnrolStreamRequest { sequence, enrolment: Some(enrolment.clone()) });
    let items: Vec<_> = items.collect();
    let staying_open = tokio_stream::iter(items).chain(futures::stream::pending());
    let mut answers = sandbox.enrolments().enrol_stream(staying_open).await.expect("the stream opens").into_inner();
    let first = answers.message().await.expect("an answer").expect("an answer");
    drop(answers);
    wait_quiet(&sandbox, GALLERY).await;
    // Nothing is left half done: each was either never staged, or has its verdict.
    let client = sandbox.enrolments();
    let known = recorded(&client, GALLERY, &people[first.sequence as usize].enrolment_id).await;
    assert!(known.verdict.is_some());
    for request in &people {
        assert!(enrol(&client, request).await.verdict.is_some(), "{}", request.enrolment_id);
    }

    // An item that is too large breaks the stream; what came before it is answered or can be sent again.
    let oversize = EnrolStreamRequest {
        sequence: 1,
        enrolment: Some(EnrolRequest {
            references: vec![BiometricReference {
                modality: Modality::Face.into(),
                template: Some(Template::Embedding(Embedding { values: vec![0.5; 2_000_000] })),
                ..Default::default()
            }],
            enrolment_id: "oversize".to_owned(),
            ..good()
        }),
    };
    let mut answers =
        sandbox.enrolments().enrol_stream(tokio_stream::iter([oversize])).await.expect("the stream opens").into_inner();
    let broken = answers.message().await.expect_err("the stream breaks");
    check("an item that is too large", &broken, Code::OutOfRange, &["4194304"]);
    let read = GetEnrolmentRequest { gallery: GALLERY.to_owned(), enrolment_id: "oversize".to_owned(), wait_ms: 0 };
    let missing = sandbox.enrolments().get_enrolment(read).await.expect_err("nothing was stored");
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
}
