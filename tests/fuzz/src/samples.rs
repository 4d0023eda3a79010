//! Values of every kind, as real callers make them: what the seeds of the corpora are encodings of, and what targets compare
//! with.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use semel_index::{BinaryCodeSpec, KeyVersion, PolicyVersion, TemplateSpec};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_proto::v1::biometric_reference::Template;
use semel_workflow::{
    ContentDigestKey, GalleryKey, ModalityPolicyRequest, Policy, PolicyRequest, PreparedEnrolment, Rotations,
    VersionedPolicy, prepare, validate_enrolment,
};

/// What a gallery was created with.
pub struct GallerySample {
    /// Its policy: a face and a voice, each an embedding, and an iris code whose last byte has bits to spare.
    pub policy: Arc<VersionedPolicy>,
    /// Of its key.
    pub rotations: Rotations,
    /// Of its key.
    pub digest_key: ContentDigestKey,
}

/// One gallery.
pub static GALLERY: LazyLock<GallerySample> = LazyLock::new(|| {
    let key = GalleryKey::from_secret([7; 32]);
    let policy = policy();
    GallerySample {
        rotations: Rotations::generate(&key, KeyVersion(1), &policy),
        digest_key: ContentDigestKey::derive(&key),
        policy: Arc::new(VersionedPolicy { version: PolicyVersion(3), policy }),
    }
});

fn policy() -> Policy {
    let code = BinaryCodeSpec { rows: 1, columns: 6, bits_per_cell: 2, shifts_max: 2, common_bits_min: 4 };
    let modality = |modality, spec, review_threshold_micros| ModalityPolicyRequest {
        modality,
        spec: Some(spec),
        review_threshold_micros,
    };
    let request = PolicyRequest {
        modalities: vec![
            modality(1, TemplateSpec::Embedding { dimension: 8 }, 420_000),
            modality(2, TemplateSpec::Embedding { dimension: 4 }, 800_000),
            modality(3, TemplateSpec::BinaryCode(code), 680_000),
        ],
        purposes: vec!["aid".to_owned()],
        identification_allowed: true,
        ..PolicyRequest::default()
    };
    request.validate().expect("a valid policy")
}

fn reference(modality: public::Modality, position: public::Position, template: Template) -> public::BiometricReference {
    public::BiometricReference {
        modality: modality.into(),
        position: position.into(),
        template: Some(template),
        quality: Some(80),
        algorithm_id: "arcface-r100@1".to_owned(),
    }
}

/// References that the gallery's policy takes.
pub fn references() -> Vec<public::BiometricReference> {
    use public::{BinaryCode, Embedding, Modality, Position};
    let code = BinaryCode { code: vec![0xa5, 0x30], mask: vec![0xff, 0xf0] };
    vec![
        reference(
            Modality::Face,
            Position::Only,
            Template::Embedding(Embedding { values: vec![0.25, -0.5, 1.5, 0.0, 2.0, -1.0, 0.125, 3.0] }),
        ),
        reference(
            Modality::Voice,
            Position::Unspecified,
            Template::Embedding(Embedding { values: vec![3.0, 0.0, -4.0, 0.5] }),
        ),
        reference(Modality::Iris, Position::LeftEye, Template::BinaryCode(code.clone())),
        reference(Modality::Iris, Position::RightEye, Template::BinaryCode(BinaryCode { mask: Vec::new(), ..code })),
    ]
}

/// A request to enrol that is valid.
pub fn enrolment() -> public::EnrolRequest {
    public::EnrolRequest {
        gallery: "people".to_owned(),
        enrolment_id: "a-1".to_owned(),
        subject_id: "person 1".to_owned(),
        references: references(),
        provenance: Some(public::Provenance {
            site: "camp 4".to_owned(),
            operator_id: "operator 17".to_owned(),
            legal_basis: "act 12".to_owned(),
            purpose: "aid".to_owned(),
            captured_at_ms: 1_700_000_000_000,
        }),
        wait_ms: 2_000,
        ..Default::default()
    }
}

/// The valid request, ready to be staged.
///
/// # Panics
/// Never: it is valid.
pub fn prepared() -> PreparedEnrolment {
    let request = semel_coordinator_wire::enrolment_request(enrolment());
    let enrolment = validate_enrolment(request, &GALLERY.policy.policy).expect("a valid request");
    let policy = Arc::clone(&GALLERY.policy);
    prepare(&enrolment, policy, &GALLERY.rotations, &GALLERY.digest_key, 1_700_000_000_500)
}

/// The command that stages the prepared enrolment.
pub fn stage() -> wire::Command {
    semel_coordinator_wire::stage(&prepared().stage)
}

/// The probe of the prepared enrolment.
pub fn probe() -> wire::SearchProbe {
    let prepared = prepared();
    let (gallery, exclude) = (prepared.stage.gallery.clone(), prepared.stage.enrolment_id.clone());
    semel_coordinator_wire::probe(&prepared.pinned.probe(gallery, Some(exclude)), prepared.pinned.policy())
}

/// A comparison above its threshold.
pub fn comparison() -> public::Comparison {
    public::Comparison {
        modality: public::Modality::Face.into(),
        position: public::Position::Only.into(),
        score_micros: 500_000,
        threshold_micros: 420_000,
    }
}

/// A candidate with one comparison.
pub fn candidate() -> public::Candidate {
    public::Candidate { enrolment_id: "b-2".to_owned(), margin_micros: 80_000, comparisons: vec![comparison()] }
}

/// A verdict that names a candidate.
pub fn verdict() -> public::Verdict {
    let shard = |shard| public::ShardCoverage {
        shard,
        epoch: 1,
        searchable_index: 77,
        compared: 10,
        not_comparable: 1,
        withdrawn: 2,
    };
    public::Verdict {
        state: public::EnrolmentState::PossibleDuplicate.into(),
        candidates: vec![candidate()],
        candidates_total: 1,
        saturated: false,
        coverage: Some(public::Coverage { shards: vec![shard(0), shard(1)], live: 22, compared: 20 }),
        policy_version: 3,
        round: 1,
        settled_at_ms: 1_700_000_000_900,
    }
}

/// A receipt that holds a settled record.
pub fn receipt() -> wire::EnrolmentReceipt {
    let request = enrolment();
    let references = request.references.iter().map(|reference| public::ReferenceSummary {
        modality: reference.modality,
        position: if reference.position == 0 { public::Position::Only.into() } else { reference.position },
        quality: reference.quality,
        algorithm_id: reference.algorithm_id.clone(),
    });
    let enrolment = public::Enrolment {
        gallery: request.gallery,
        enrolment_id: request.enrolment_id,
        subject_id: request.subject_id,
        state: public::EnrolmentState::PossibleDuplicate.into(),
        verdict: Some(verdict()),
        provenance: request.provenance,
        shard: 1,
        stage_index: 12,
        received_at_ms: 1_700_000_000_500,
        policy_version: 3,
        references: references.collect(),
        case_ids: vec!["00".repeat(32)],
    };
    wire::EnrolmentReceipt { enrolment: Some(enrolment), content_digest: vec![7; 32].into(), round: 1, key_version: 1 }
}

/// Commands of one shard, as its log holds them, none of which is refused: two enrolments, a verdict that names the other, the case
/// that follows, a withdrawal.
///
/// # Panics
/// Never: the commands are valid.
pub fn shard_log() -> Vec<Bytes> {
    use wire::command::Command;
    let staged = |enrolment_id: &str| match stage().command {
        Some(Command::Stage(stage)) => wire::StageCommand { enrolment_id: enrolment_id.to_owned(), ..stage },
        _ => unreachable!("a stage"),
    };
    let (a, b) = (staged("a"), staged("b"));
    let shard = public::ShardCoverage { shard: 0, epoch: 1, searchable_index: 2, compared: 1, ..Default::default() };
    let verdict = public::Verdict {
        candidates: vec![public::Candidate { enrolment_id: "b".to_owned(), ..candidate() }],
        coverage: Some(public::Coverage { shards: vec![shard], live: 1, compared: 1 }),
        ..verdict()
    };
    let (gallery, digest) = (a.gallery.clone(), a.content_digest.clone());
    let commands = [
        Command::Stage(a),
        Command::Stage(b),
        Command::Settle(wire::SettleCommand {
            gallery: gallery.clone(),
            enrolment_id: "a".to_owned(),
            stage_index: 1,
            content_digest: digest,
            verdict: Some(verdict),
            shards_count: 1,
        }),
        Command::OpenCase(wire::OpenCaseCommand {
            gallery: gallery.clone(),
            opened_by: "a".to_owned(),
            candidate: "b".to_owned(),
            comparisons: vec![comparison()],
            opened_at_ms: 1_700_000_000_900,
        }),
        Command::LinkCase(wire::LinkCaseCommand {
            gallery: gallery.clone(),
            enrolment_id: "a".to_owned(),
            other_enrolment_id: "b".to_owned(),
        }),
        Command::Discharge(wire::DischargeCommand { obligations: vec![1] }),
        Command::Withdraw(wire::WithdrawCommand { gallery, enrolment_id: "a".to_owned(), reason: "asked".to_owned() }),
    ];
    let encoded = |command| {
        let command = semel_node_wire::command(wire::Command { command: Some(command) });
        command.expect("a valid command").encode()
    };
    commands.map(encoded).into()
}
