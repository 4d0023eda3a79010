//! What clients and coordinators send: from bytes to messages, and from those to what the cores take.

use std::fmt::Debug;
use std::sync::Arc;

use prost::Message;
use semel_fuzz::fuzz;
use semel_fuzz::samples::GALLERY;
use semel_index::{GalleryId, PolicyVersion};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_proto::v1::biometric_reference::Template;
use semel_shard::Command;
use semel_workflow::{
    ALGORITHM_ID_BYTES_MAX, CANDIDATES_MAX, GalleryKey, MODALITIES_MAX, MetadataCommand, PURPOSES_MAX, Policy,
    REFERENCES_MAX, ReferenceRequest, SUBJECT_ID_BYTES_MAX, TEXT_BYTES_MAX, ValidatedEnrolment, ValidatedReference,
    ValidatedTemplate, ValidationError, VersionedPolicy, prepare, validate_enrolment, validate_purpose,
    validate_reason, validate_references,
};

/// Checks that what decodes is encoded to something that decodes to the same.
fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    let again = M::decode(encoded.as_slice()).expect("its own encoding");
    // Not the messages themselves: no NaN equals itself.
    assert_eq!(again.encode_to_vec(), encoded);
    Some(message)
}

/// Checks bytes as a message of one kind.
fn check<M: Message + Default + Debug>(bytes: &[u8]) {
    if let Some(message) = decoded::<M>(bytes) {
        let _ = format!("{message:?}");
    }
}

/// A change of who belongs to a group: taken, or refused by the field.
fn check_membership(bytes: &[u8]) {
    let Some(request) = decoded::<wire::ChangeMembershipRequest>(bytes) else { return };
    let _ = format!("{request:?}");
    if let Some(Err(invalid)) = request.change.map(semel_node_wire::membership_change) {
        assert!(!invalid.field.is_empty());
    }
}

/// Checks the bytes after the first, which names the kind.
fn check_one_of(kinds: &[fn(&[u8])], bytes: &[u8]) {
    if let Some((kind, bytes)) = bytes.split_first() {
        kinds[usize::from(*kind) % kinds.len()](bytes);
    }
}

#[test]
fn public_requests() {
    fuzz!(|bytes| check_one_of(
        &[
            check::<public::EnrolRequest>,
            check::<public::EnrolStreamRequest>,
            check::<public::GetEnrolmentRequest>,
            check::<public::WithdrawEnrolmentRequest>,
            check::<public::IdentifyRequest>,
            check::<public::VerifyRequest>,
            check::<public::CreateGalleryRequest>,
            check::<public::GetGalleryRequest>,
            check::<public::ListGalleriesRequest>,
            check::<public::UpdatePolicyRequest>,
            check::<public::GetCaseRequest>,
            check::<public::ListCasesRequest>,
            check::<public::GetClusterStatusRequest>,
            check::<public::MoveReplicaRequest>,
            check::<public::CancelMoveRequest>,
            check::<public::ListMovesRequest>,
            check::<public::DrainNodeRequest>,
            check::<public::RemoveNodeRequest>,
        ],
        bytes
    ));
}

#[test]
fn internal_requests() {
    fuzz!(|bytes| check_one_of(
        &[
            check::<wire::JoinRequest>,
            check::<wire::ReportRequest>,
            check::<wire::ExchangeRequest>,
            check::<wire::ProposeRequest>,
            check::<wire::SearchRequest>,
            check::<wire::ReadEnrolmentRequest>,
            check::<wire::ListPendingRequest>,
            check::<wire::ReadCaseRequest>,
            check::<wire::ScanCasesRequest>,
            check::<wire::SendSnapshotRequest>,
            check_membership,
        ],
        bytes
    ));
}

/// From a client's bytes through the coordinator's core to the command that a node's replicas apply.
#[test]
fn enrol_requests() {
    fuzz!(|bytes| {
        let Some(request) = decoded::<public::EnrolRequest>(bytes) else { return };
        assert_eq!(told(&request, 0), told(&request, 1), "text tells what a template holds");
        let Ok(enrolment) = checked(request) else { return };
        assert_within_bounds(&enrolment);
        let policy = Arc::clone(&GALLERY.policy);
        let prepared = prepare(&enrolment, policy, &GALLERY.rotations, &GALLERY.digest_key, 1);

        let command = semel_coordinator_wire::stage(&prepared.stage);
        let command = semel_node_wire::command(command).expect("nodes take what coordinators found valid");
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));

        let probe = prepared.pinned.probe(prepared.stage.gallery.clone(), Some(prepared.stage.enrolment_id.clone()));
        let probe = semel_node_wire::probe(semel_coordinator_wire::probe(&probe, prepared.pinned.policy()));
        assert_eq!(
            probe.expect("nodes take what coordinators found valid").references.len(),
            enrolment.references().len()
        );
    });
}

#[test]
fn identify_requests() {
    fuzz!(|bytes| {
        let Some(request) = decoded::<public::IdentifyRequest>(bytes) else { return };
        let policy = &GALLERY.policy.policy;
        if let Err(error) = validate_purpose(&request.purpose, policy) {
            assert_names_a_field(&error);
        }
        if let Err(error) = validate_reason(&request.purpose) {
            assert_names_a_field(&error);
        }
        let references = request.references.into_iter().map(semel_coordinator_wire::reference_request);
        let references: Vec<ReferenceRequest> = references.collect();
        let _ = format!("{references:?}");
        match validate_references(references, policy) {
            Ok(references) => assert_references_within_bounds(&references),
            Err(error) => assert_names_a_field(&error),
        }
    });
}

/// From a client's policy through the coordinator's core to the command that the metadata group applies.
#[test]
fn policy_requests() {
    fuzz!(|bytes| {
        let Some(request) = decoded::<public::CreateGalleryRequest>(bytes) else { return };
        let Some(asked) = request.policy else { return };
        let policy = match semel_coordinator_wire::policy_request(asked).validate() {
            Ok(policy) => policy,
            Err(error) => return assert_names_a_field(&error),
        };
        assert_policy_within_bounds(&policy);
        let versioned = VersionedPolicy { version: PolicyVersion(1), policy: policy.clone() };
        let shown = semel_coordinator_wire::policy_request(semel_coordinator_wire::policy(&versioned)).validate();
        assert_eq!(shown.as_ref(), Ok(&policy));

        let Ok(name) = GalleryId::try_from(request.name) else { return };
        let key = GalleryKey::from_secret([7; 32]);
        let command = MetadataCommand::CreateGallery { name, policy, key, key_checksum: [9; 32], created_at_ms: 1 };
        assert_eq!(MetadataCommand::decode(&command.encode()), Ok(command));
    });
}

/// What coordinators propose to nodes.
#[test]
fn proposals() {
    fuzz!(|bytes| {
        let Some(proposal) = decoded::<wire::Command>(bytes) else { return };
        if let Ok(command) = semel_node_wire::command(proposal) {
            assert_eq!(
                Command::decode(&command.encode()).as_ref(),
                Ok(&command),
                "what a node takes, its replicas do not call malformed"
            );
        }
    });
}

/// What coordinators have nodes search for.
#[test]
fn probes() {
    fuzz!(|bytes| {
        let Some(probe) = decoded::<wire::SearchProbe>(bytes) else { return };
        if let Ok(probe) = semel_node_wire::probe(probe) {
            assert!(probe.references.len() <= semel_shard::REFERENCES_MAX);
            assert!((1..=semel_shard::CANDIDATES_MAX).contains(&probe.candidates_max));
            for reference in &probe.references {
                assert!(reference.template.conforms_to(&reference.spec) && reference.spec.validate().is_ok());
            }
            assert_id(probe.exclude.as_ref().map_or("x", |id| id.as_str()));
        }
    });
}

/// The valid enrolment of a request, or an error that names a field.
fn checked(request: public::EnrolRequest) -> Result<ValidatedEnrolment, ValidationError> {
    let request = semel_coordinator_wire::enrolment_request(request);
    let _ = format!("{request:?}");
    let enrolment = validate_enrolment(request, &GALLERY.policy.policy);
    enrolment.inspect_err(assert_names_a_field).inspect(|enrolment| drop(format!("{enrolment:?}")))
}

/// Everything that logs, errors and messages could tell of a request whose templates hold one of two fillings, both as valid as the
/// other.
fn told(request: &public::EnrolRequest, filling: usize) -> String {
    let mut request = request.clone();
    for reference in &mut request.references {
        match &mut reference.template {
            Some(Template::Embedding(embedding)) => embedding.values.fill([1.5, -7.25][filling]),
            Some(Template::BinaryCode(code)) => {
                code.code.fill([0x80, 0][filling]);
                code.mask.fill([0x80, 0][filling]);
            }
            None => {}
        }
    }
    let converted = semel_coordinator_wire::enrolment_request(request.clone());
    let mut told = format!("{request:?} {converted:?}");
    match validate_enrolment(converted, &GALLERY.policy.policy) {
        Ok(enrolment) => {
            let policy = Arc::clone(&GALLERY.policy);
            let prepared = prepare(&enrolment, policy, &GALLERY.rotations, &GALLERY.digest_key, 1);
            let command = semel_coordinator_wire::stage(&prepared.stage);
            // The digest is of the content, and differs.
            let command = match command.command {
                Some(wire::command::Command::Stage(stage)) => {
                    wire::StageCommand { content_digest: vec![0; 32].into(), ..stage }
                }
                _ => unreachable!("a stage"),
            };
            told += &format!("{enrolment:?} {:?} {command:?}", prepared.pinned);
            let command = wire::Command { command: Some(wire::command::Command::Stage(command)) };
            told += &format!("{:?}", semel_node_wire::command(command));
        }
        Err(error) => told += &format!("{error:?} {error}"),
    }
    told
}

fn assert_names_a_field(error: &ValidationError) {
    let text = error.to_string();
    assert!(!error.field.is_empty() && text.starts_with(&error.field) && text.len() > error.field.len() + 1, "{text}");
}

fn assert_id(id: &str) {
    assert!((1..=128).contains(&id.len()) && !id.contains('\0'));
}

fn assert_within_bounds(enrolment: &ValidatedEnrolment) {
    assert_id(enrolment.enrolment_id().as_str());
    assert!(enrolment.subject_id().len() <= SUBJECT_ID_BYTES_MAX);
    assert_references_within_bounds(enrolment.references());
    if let Some(provenance) = enrolment.provenance() {
        for text in [&provenance.site, &provenance.operator_id, &provenance.legal_basis, &provenance.purpose] {
            assert!(text.len() <= TEXT_BYTES_MAX);
        }
        assert!(["", "aid"].contains(&provenance.purpose.as_str()));
    }
}

fn assert_references_within_bounds(references: &[ValidatedReference]) {
    assert!((1..=REFERENCES_MAX).contains(&references.len()));
    assert!(references.is_sorted_by(|one, next| one.slot() < next.slot()), "each is of another slot");
    for reference in references {
        assert!(reference.algorithm_id().len() <= ALGORITHM_ID_BYTES_MAX);
        assert!(reference.quality().is_none_or(|quality| quality <= 100));
        match reference.template() {
            ValidatedTemplate::Embedding(values) => {
                assert!([4, 8].contains(&values.len()) && values.iter().all(|value| value.is_finite()));
                assert!(values.iter().any(|value| *value != 0.0));
            }
            ValidatedTemplate::BinaryCode { code, mask } => {
                assert!(code.len() == 2 && [0, 2].contains(&mask.len()));
            }
        }
    }
}

fn assert_policy_within_bounds(policy: &Policy) {
    assert!((1..=MODALITIES_MAX).contains(&policy.modalities().len()));
    for modality in policy.modalities() {
        modality.spec.validate().expect("templates of the spec can be made");
        assert!((1..=1_000_000).contains(&modality.review_threshold.micros()));
    }
    assert!((1..=CANDIDATES_MAX as usize).contains(&policy.candidates_max()));
    assert!(policy.purposes().len() <= PURPOSES_MAX);
    assert!((1..=semel_index::MISS_BUDGET_PPB_MAX).contains(&policy.miss_budget_ppb()));
    assert!((1..=1_000_000).contains(&policy.comparable_share_min_ppm()));
}
