//! Between the wire and the coordinator's domain. What clients send is passed on unchecked to the core, which validates it;
//! what nodes send is checked here, and a fault is a defect of the node.
//!
//! Apart from the coordinator itself, so that what decodes bytes of others is reached without a database. Calls and their
//! statuses live in `semel-coordinator`.

#![forbid(unsafe_code)]

use bytes::Bytes;
use semel_index::{
    BinaryCodeSpec, ComparisonScore, EnrolmentId, GalleryId, KeyVersion, PolicyVersion, Priority, ShardId, Slot,
    Template, TemplateSpec,
};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_raft::LogIndex;
use semel_workflow as domain;

/// Something a node sent that it never should.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a node sent {field}: {reason}")]
pub struct Garbled {
    field: &'static str,
    reason: String,
}

fn garbled(field: &'static str, reason: impl ToString) -> Garbled {
    Garbled { field, reason: reason.to_string() }
}

type Checked<T> = Result<T, Garbled>;

// From clients.

/// What a client asks to enrol, unchecked.
pub fn enrolment_request(request: public::EnrolRequest) -> domain::EnrolmentRequest {
    domain::EnrolmentRequest {
        gallery: request.gallery,
        enrolment_id: request.enrolment_id,
        subject_id: request.subject_id,
        references: request.references.into_iter().map(reference_request).collect(),
        provenance: request
            .provenance
            // Recorded alike, so an empty one and none are the same content.
            .filter(|provenance| *provenance != public::Provenance::default())
            .map(provenance_from),
    }
}

/// The priority that a client asks for. One that is not known counts as interactive: nobody at a desk is to wait because of a version.
pub fn priority_from(priority: i32) -> Priority {
    match public::Priority::try_from(priority) {
        Ok(public::Priority::Bulk) => Priority::Bulk,
        Ok(public::Priority::Interactive | public::Priority::Unspecified) | Err(_) => Priority::Interactive,
    }
}

/// A reference as a client sent it, unchecked.
pub fn reference_request(reference: public::BiometricReference) -> domain::ReferenceRequest {
    use public::biometric_reference::Template as Wire;
    domain::ReferenceRequest {
        modality: reference.modality,
        position: reference.position,
        template: reference.template.map(|template| match template {
            Wire::Embedding(embedding) => domain::TemplateRequest::Embedding(embedding.values),
            Wire::BinaryCode(code) => {
                domain::TemplateRequest::BinaryCode { code: code.code.clone(), mask: code.mask.clone() }
            }
        }),
        quality: reference.quality,
        algorithm_id: reference.algorithm_id,
    }
}

/// A policy as a client sent it, unchecked.
pub fn policy_request(policy: public::Policy) -> domain::PolicyRequest {
    let modalities = policy.modalities.into_iter().map(|modality| domain::ModalityPolicyRequest {
        modality: modality.modality,
        spec: modality.spec.as_ref().and_then(template_spec_from),
        review_threshold_micros: modality.review_threshold_micros,
    });
    domain::PolicyRequest {
        modalities: modalities.collect(),
        miss_budget_ppb: policy.miss_budget_ppb,
        comparable_share_min_ppm: policy.comparable_share_min_ppm,
        candidates_max: policy.candidates_max,
        purposes: policy.purposes,
        identification_allowed: policy.identification_allowed,
        retention_days: policy.retention_days,
        engine: policy.engine,
    }
}

fn template_spec_from(spec: &public::TemplateSpec) -> Option<TemplateSpec> {
    use public::template_spec::Kind;
    spec.kind.as_ref().map(|kind| match kind {
        Kind::Embedding(embedding) => TemplateSpec::Embedding { dimension: embedding.dimension },
        Kind::BinaryCode(code) => TemplateSpec::BinaryCode(BinaryCodeSpec {
            rows: code.rows,
            columns: code.columns,
            bits_per_cell: code.bits_per_cell,
            shifts_max: code.shifts_max,
            common_bits_min: code.common_bits_min,
        }),
    })
}

fn provenance_from(provenance: public::Provenance) -> domain::Provenance {
    domain::Provenance {
        site: provenance.site,
        operator_id: provenance.operator_id,
        legal_basis: provenance.legal_basis,
        purpose: provenance.purpose,
        captured_at_ms: provenance.captured_at_ms,
    }
}

// To nodes.

/// The command that stages an enrolment.
pub fn stage(stage: &domain::StageCommand) -> wire::Command {
    use wire::command::Command;
    let command = Command::Stage(wire::StageCommand {
        gallery: stage.gallery.to_string(),
        enrolment_id: stage.enrolment_id.to_string(),
        subject_id: stage.subject_id.clone(),
        references: stage.references.iter().map(canonical_reference).collect(),
        provenance: stage.provenance.as_ref().map(provenance),
        policy_version: stage.policy_version.0,
        key_version: stage.key_version.0,
        content_digest: Bytes::copy_from_slice(&stage.content_digest.0),
        received_at_ms: stage.received_at_ms,
    });
    wire::Command { command: Some(command) }
}

/// The command that settles one.
pub fn settle(settle: &domain::SettleCommand) -> wire::Command {
    use wire::command::Command;
    let command = Command::Settle(wire::SettleCommand {
        gallery: settle.gallery.to_string(),
        enrolment_id: settle.enrolment_id.to_string(),
        stage_index: settle.stage_index.0,
        content_digest: Bytes::copy_from_slice(&settle.content_digest.0),
        verdict: Some(verdict(&settle.verdict)),
        shards_count: settle.shards_count.get(),
    });
    wire::Command { command: Some(command) }
}

/// The priority of a search.
pub fn priority(priority: Priority) -> public::Priority {
    match priority {
        Priority::Interactive => public::Priority::Interactive,
        Priority::Bulk => public::Priority::Bulk,
    }
}

/// The probe of a search under the rules of a policy.
pub fn probe(probe: &domain::SearchProbe, policy: &domain::VersionedPolicy) -> wire::SearchProbe {
    let references = probe.references.iter().map(|reference| wire::ProbeReference {
        reference: Some(canonical_reference(&reference.reference)),
        threshold_micros: reference.threshold.micros(),
    });
    wire::SearchProbe {
        gallery: probe.gallery.to_string(),
        key_version: probe.key_version.0,
        references: references.collect(),
        exclude_enrolment_id: probe.exclude.as_ref().map(ToString::to_string).unwrap_or_default(),
        candidates_max: u32::try_from(probe.candidates_max).expect("a policy's list is short"),
        miss_budget_ppb: policy.policy.miss_budget_ppb(),
        policy_version: policy.version.0,
        engine: engine_name(&policy.policy),
    }
}

/// Empty where the policy names none.
fn engine_name(policy: &domain::Policy) -> String {
    policy.engine().map(ToString::to_string).unwrap_or_default()
}

fn canonical_reference(reference: &domain::CanonicalReference) -> wire::CanonicalReference {
    wire::CanonicalReference {
        modality: i32::from(reference.slot.modality().code()),
        position: i32::from(reference.slot.position().code()),
        spec: Some(template_spec(&reference.spec)),
        template: reference.template.to_bytes().into(),
        quality: reference.quality,
        algorithm_id: reference.algorithm_id.clone(),
    }
}

// From nodes.

/// A record, from the receipt of a command or a read.
///
/// # Errors
/// A field is missing or holds what no record has.
pub fn record_from(receipt: wire::EnrolmentReceipt) -> Checked<domain::EnrolmentRecord> {
    let enrolment = receipt.enrolment.ok_or_else(|| garbled("a receipt", "without an enrolment"))?;
    let state = match enrolment.state() {
        public::EnrolmentState::Unspecified => return Err(garbled("enrolment.state", "unspecified")),
        public::EnrolmentState::Staged => domain::EnrolmentState::Staged,
        public::EnrolmentState::Unique => domain::EnrolmentState::Unique,
        public::EnrolmentState::PossibleDuplicate => domain::EnrolmentState::PossibleDuplicate,
        public::EnrolmentState::NotComparable => domain::EnrolmentState::NotComparable,
        public::EnrolmentState::Withdrawn => domain::EnrolmentState::Withdrawn,
    };
    let references = enrolment.references.iter().map(|reference| {
        Ok(domain::ReferenceSummary {
            slot: slot(reference.modality, reference.position)?,
            quality: reference.quality,
            algorithm_id: reference.algorithm_id.clone(),
        })
    });
    let digest: [u8; 32] = receipt
        .content_digest
        .as_ref()
        .try_into()
        .map_err(|_| garbled("content_digest", "of another length than 32 bytes"))?;
    Ok(domain::EnrolmentRecord {
        gallery: gallery(&enrolment.gallery)?,
        enrolment_id: enrolment_id(&enrolment.enrolment_id)?,
        references: references.collect::<Checked<Vec<_>>>()?,
        subject_id: enrolment.subject_id,
        state,
        verdict: enrolment.verdict.map(verdict_from).transpose()?,
        provenance: enrolment.provenance.map(provenance_from),
        shard: ShardId(enrolment.shard),
        stage_index: LogIndex(enrolment.stage_index),
        received_at_ms: enrolment.received_at_ms,
        policy_version: PolicyVersion(enrolment.policy_version),
        case_ids: enrolment.case_ids,
        content_digest: domain::ContentDigest(digest),
        round: receipt.round,
        key_version: KeyVersion(receipt.key_version),
    })
}

fn verdict_from(verdict: public::Verdict) -> Checked<domain::Verdict> {
    let state = match verdict.state() {
        public::EnrolmentState::Unique => domain::VerdictState::Unique,
        public::EnrolmentState::PossibleDuplicate => domain::VerdictState::PossibleDuplicate,
        public::EnrolmentState::NotComparable => domain::VerdictState::NotComparable,
        public::EnrolmentState::Unspecified | public::EnrolmentState::Staged | public::EnrolmentState::Withdrawn => {
            return Err(garbled("verdict.state", "that no verdict has"));
        }
    };
    let coverage = verdict.coverage.ok_or_else(|| garbled("a verdict", "without coverage"))?;
    let shards = coverage.shards.iter().map(|shard| domain::ShardCoverage {
        shard: ShardId(shard.shard),
        epoch: shard.epoch,
        searchable_index: LogIndex(shard.searchable_index),
        compared: shard.compared,
        not_comparable: shard.not_comparable,
        withdrawn: shard.withdrawn,
    });
    Ok(domain::Verdict {
        state,
        candidates: verdict.candidates.into_iter().map(candidate_from).collect::<Checked<Vec<_>>>()?,
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: domain::Coverage { shards: shards.collect(), live: coverage.live, compared: coverage.compared },
        policy_version: PolicyVersion(verdict.policy_version),
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    })
}

fn candidate_from(candidate: public::Candidate) -> Checked<domain::Candidate> {
    let comparisons = candidate.comparisons.iter().map(|comparison| {
        Ok(domain::PairScore {
            slot: slot(comparison.modality, comparison.position)?,
            score: score(comparison.score_micros)?,
            threshold: score(comparison.threshold_micros)?,
        })
    });
    Ok(domain::Candidate {
        enrolment_id: enrolment_id(&candidate.enrolment_id)?,
        margin_micros: candidate.margin_micros,
        comparisons: comparisons.collect::<Checked<Vec<_>>>()?,
    })
}

/// The templates of a recorded enrolment.
///
/// # Errors
/// A field is missing, or the template is not of its spec.
pub fn canonical_reference_from(reference: wire::CanonicalReference) -> Checked<domain::CanonicalReference> {
    let spec = reference.spec.as_ref().and_then(template_spec_from);
    let spec = spec.ok_or_else(|| garbled("a reference", "without a spec"))?;
    Ok(domain::CanonicalReference {
        slot: slot(reference.modality, reference.position)?,
        spec,
        template: Template::from_bytes(&spec, &reference.template).map_err(|error| garbled("a template", error))?,
        quality: reference.quality,
        algorithm_id: reference.algorithm_id,
    })
}

/// A shard's answer to one probe.
pub struct ProbeReply {
    /// The epoch of the shard's configuration.
    pub epoch: u64,
    /// What the searched catalogue had taken in.
    pub searchable_index: u64,
    /// What was found.
    pub answer: wire::ProbeAnswer,
}

/// A shard's answer to one probe.
///
/// # Errors
/// Names the field that no node should send.
pub fn shard_answer(shard: ShardId, reply: ProbeReply) -> Checked<domain::ShardAnswer> {
    Ok(domain::ShardAnswer {
        shard,
        epoch: reply.epoch,
        searchable_index: LogIndex(reply.searchable_index),
        compared: reply.answer.compared,
        not_comparable: reply.answer.not_comparable,
        withdrawn: reply.answer.withdrawn,
        candidates: reply.answer.candidates.into_iter().map(candidate_from).collect::<Checked<Vec<_>>>()?,
        candidates_total: reply.answer.candidates_total,
    })
}

/// What a shard said of a command it refused.
///
/// # Errors
/// The refusal is not known.
pub fn refusal(refused: wire::RefusedReceipt) -> Checked<domain::Refusal> {
    Ok(match refused.refusal() {
        wire::Refusal::Unspecified => return Err(garbled("refusal", "unspecified")),
        wire::Refusal::OtherContent => domain::Refusal::OtherContent,
        wire::Refusal::NoSuchEnrolment => domain::Refusal::NoSuchEnrolment,
        wire::Refusal::NotWhatWasStaged => domain::Refusal::NotWhatWasStaged,
        wire::Refusal::Malformed => domain::Refusal::Malformed,
        wire::Refusal::WrongShard => domain::Refusal::WrongShard,
    })
}

/// The name of a gallery that a node sent.
///
/// # Errors
/// The name breaks its rule.
pub fn gallery(name: &str) -> Checked<GalleryId> {
    GalleryId::try_from(name).map_err(|error| garbled("gallery", error))
}

/// The id of an enrolment that a node sent.
///
/// # Errors
/// The id breaks its rule.
pub fn enrolment_id(id: &str) -> Checked<EnrolmentId> {
    EnrolmentId::try_from(id).map_err(|error| garbled("enrolment_id", error))
}

fn score(micros: i32) -> Checked<ComparisonScore> {
    ComparisonScore::from_micros(micros).ok_or_else(|| garbled("a score", micros))
}

/// The numbers on the wire are the stable codes of the domain.
fn slot(modality: i32, position: i32) -> Checked<Slot> {
    let code = |number: i32| u8::try_from(number).ok();
    code(modality)
        .zip(code(position))
        .and_then(|(modality, position)| Slot::from_codes(modality, position))
        .ok_or_else(|| garbled("a position", format!("{position} of modality {modality}")))
}

// To clients.

/// A record as clients see it.
pub fn enrolment(record: &domain::EnrolmentRecord) -> public::Enrolment {
    let state = match record.state {
        domain::EnrolmentState::Staged => public::EnrolmentState::Staged,
        domain::EnrolmentState::Unique => public::EnrolmentState::Unique,
        domain::EnrolmentState::PossibleDuplicate => public::EnrolmentState::PossibleDuplicate,
        domain::EnrolmentState::NotComparable => public::EnrolmentState::NotComparable,
        domain::EnrolmentState::Withdrawn => public::EnrolmentState::Withdrawn,
    };
    let references = record.references.iter().map(|reference| public::ReferenceSummary {
        modality: i32::from(reference.slot.modality().code()),
        position: i32::from(reference.slot.position().code()),
        quality: reference.quality,
        algorithm_id: reference.algorithm_id.clone(),
    });
    public::Enrolment {
        gallery: record.gallery.to_string(),
        enrolment_id: record.enrolment_id.to_string(),
        subject_id: record.subject_id.clone(),
        state: state.into(),
        verdict: record.verdict.as_ref().map(verdict),
        provenance: record.provenance.as_ref().map(provenance),
        shard: record.shard.0,
        stage_index: record.stage_index.0,
        received_at_ms: record.received_at_ms,
        policy_version: record.policy_version.0,
        references: references.collect(),
        case_ids: record.case_ids.clone(),
    }
}

fn verdict(verdict: &domain::Verdict) -> public::Verdict {
    let state = match verdict.state {
        domain::VerdictState::Unique => public::EnrolmentState::Unique,
        domain::VerdictState::PossibleDuplicate => public::EnrolmentState::PossibleDuplicate,
        domain::VerdictState::NotComparable => public::EnrolmentState::NotComparable,
    };
    public::Verdict {
        state: state.into(),
        candidates: verdict.candidates.iter().map(candidate).collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: Some(coverage(&verdict.coverage)),
        policy_version: verdict.policy_version.0,
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    }
}

/// What a search covered.
pub fn coverage(coverage: &domain::Coverage) -> public::Coverage {
    let shards = coverage.shards.iter().map(|shard| public::ShardCoverage {
        shard: shard.shard.0,
        epoch: shard.epoch,
        searchable_index: shard.searchable_index.0,
        compared: shard.compared,
        not_comparable: shard.not_comparable,
        withdrawn: shard.withdrawn,
    });
    public::Coverage { shards: shards.collect(), live: coverage.live, compared: coverage.compared }
}

/// A candidate.
pub fn candidate(candidate: &domain::Candidate) -> public::Candidate {
    let comparisons = candidate.comparisons.iter().map(|pair| comparison(pair.slot, pair.score, pair.threshold));
    public::Candidate {
        enrolment_id: candidate.enrolment_id.to_string(),
        margin_micros: candidate.margin_micros,
        comparisons: comparisons.collect(),
    }
}

/// A comparison.
pub fn comparison(slot: Slot, score: ComparisonScore, threshold: ComparisonScore) -> public::Comparison {
    public::Comparison {
        modality: i32::from(slot.modality().code()),
        position: i32::from(slot.position().code()),
        score_micros: score.micros(),
        threshold_micros: threshold.micros(),
    }
}

fn provenance(provenance: &domain::Provenance) -> public::Provenance {
    public::Provenance {
        site: provenance.site.clone(),
        operator_id: provenance.operator_id.clone(),
        legal_basis: provenance.legal_basis.clone(),
        purpose: provenance.purpose.clone(),
        captured_at_ms: provenance.captured_at_ms,
    }
}

/// A policy with its version.
pub fn policy(policy: &domain::VersionedPolicy) -> public::Policy {
    let rules = &policy.policy;
    let modalities = rules.modalities().iter().map(|modality| public::ModalityPolicy {
        modality: i32::from(modality.modality.code()),
        spec: Some(template_spec(&modality.spec)),
        review_threshold_micros: modality.review_threshold.micros(),
    });
    public::Policy {
        version: policy.version.0,
        modalities: modalities.collect(),
        miss_budget_ppb: rules.miss_budget_ppb(),
        comparable_share_min_ppm: rules.comparable_share_min_ppm(),
        candidates_max: u32::try_from(rules.candidates_max()).expect("a policy's list is short"),
        purposes: rules.purposes().to_vec(),
        identification_allowed: rules.identification_allowed(),
        retention_days: rules.retention_days(),
        engine: engine_name(rules),
    }
}

fn template_spec(spec: &TemplateSpec) -> public::TemplateSpec {
    use public::template_spec::Kind;
    let kind = match *spec {
        TemplateSpec::Embedding { dimension } => Kind::Embedding(public::EmbeddingSpec { dimension }),
        TemplateSpec::BinaryCode(code) => Kind::BinaryCode(public::BinaryCodeSpec {
            rows: code.rows,
            columns: code.columns,
            bits_per_cell: code.bits_per_cell,
            shifts_max: code.shifts_max,
            common_bits_min: code.common_bits_min,
        }),
    };
    public::TemplateSpec { kind: Some(kind) }
}

/// A gallery.
pub fn gallery_of(gallery: &domain::GalleryRecord) -> public::Gallery {
    public::Gallery {
        name: gallery.name.to_string(),
        policy: Some(policy(&gallery.policy)),
        key_version: gallery.key_version.0,
        key_checksum: gallery.key_checksum.iter().map(|byte| format!("{byte:02x}")).collect(),
        created_at_ms: gallery.created_at_ms,
    }
}
