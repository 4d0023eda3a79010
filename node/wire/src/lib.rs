//! Between the wire and the node's domain. From the wire everything is checked; a fault names the field.
//!
//! Apart from the node itself, so that what decodes bytes of others is reached without a database. Calls and their statuses
//! live in `semel-node`.

#![forbid(unsafe_code)]

use bytes::Bytes;
use semel_index::{
    BinaryCodeSpec, ComparisonScore, ENGINE_NAME_BYTES_MAX, EngineName, EnrolmentId, GalleryId, KeyVersion,
    MISS_BUDGET_PPB_MAX, PolicyVersion, Priority, ProbeReference, SearchProbe, ShardCount, ShardId, ShardSearch, Slot,
    Template, TemplateSpec,
};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_raft::{LogIndex, MembershipChange, ReplicaId};
use semel_shard as domain;

/// A field of a request that breaks its rule. Says nothing of what templates hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidField {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidField {
    /// A field with a reason.
    pub fn new(field: &'static str, reason: impl ToString) -> Self {
        Self { field, reason: reason.to_string() }
    }
}

type Checked<T> = Result<T, InvalidField>;

/// The change of a group's membership that a request asks for.
///
/// # Errors
/// Names the field that holds no replica's id.
pub fn membership_change(change: wire::change_membership_request::Change) -> Checked<MembershipChange> {
    use wire::change_membership_request::Change as Wire;
    let replica = |field, id| ReplicaId::new(id).ok_or_else(|| InvalidField::new(field, "must not be 0"));
    Ok(match change {
        Wire::AddLearner(id) => MembershipChange::AddLearner(replica("add_learner", id)?),
        Wire::RemoveLearner(id) => MembershipChange::RemoveLearner(replica("remove_learner", id)?),
        Wire::Replace(wire::ReplaceReplica { add, remove }) => {
            MembershipChange::Replace { add: replica("replace.add", add)?, remove: replica("replace.remove", remove)? }
        }
    })
}

/// The command of a request.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn command(command: wire::Command) -> Checked<domain::Command> {
    use wire::command::Command as Wire;
    let command = command.command.ok_or_else(|| InvalidField::new("command", "is required"))?;
    let command = match command {
        Wire::Stage(stage) => domain::Command::Stage(self::stage(stage)?),
        Wire::Settle(settle) => domain::Command::Settle(self::settle(settle)?),
        Wire::Withdraw(withdraw) => domain::Command::Withdraw(domain::Withdraw {
            gallery: gallery(&withdraw.gallery)?,
            enrolment_id: enrolment_id(&withdraw.enrolment_id)?,
            reason: withdraw.reason,
        }),
        Wire::OpenCase(open) => domain::Command::OpenCase(domain::OpenCase {
            gallery: gallery(&open.gallery)?,
            opened_by: enrolment_id(&open.opened_by)?,
            candidate: enrolment_id(&open.candidate)?,
            comparisons: comparisons(&open.comparisons)?,
            opened_at_ms: open.opened_at_ms,
        }),
        Wire::LinkCase(link) => domain::Command::LinkCase(domain::LinkCase {
            gallery: gallery(&link.gallery)?,
            enrolment_id: enrolment_id(&link.enrolment_id)?,
            other_enrolment_id: enrolment_id(&link.other_enrolment_id)?,
        }),
        Wire::MootCase(moot) => domain::Command::MootCase(domain::MootCase {
            gallery: gallery(&moot.gallery)?,
            withdrawn: enrolment_id(&moot.withdrawn)?,
            other_enrolment_id: enrolment_id(&moot.other_enrolment_id)?,
        }),
        Wire::NoteMoot(note) => domain::Command::NoteMoot(domain::NoteMoot {
            gallery: gallery(&note.gallery)?,
            enrolment_id: enrolment_id(&note.enrolment_id)?,
            withdrawn: enrolment_id(&note.withdrawn)?,
        }),
        Wire::Discharge(discharge) => domain::Command::Discharge(domain::Discharge {
            obligations: discharge.obligations.into_iter().map(domain::ObligationId).collect(),
        }),
    };
    // What the replicas would find malformed when they apply it is refused before it is replicated.
    match domain::Command::decode(&command.encode()) {
        Ok(_) => Ok(command),
        Err(error) => Err(InvalidField::new("command", error)),
    }
}

fn stage(stage: wire::StageCommand) -> Checked<domain::Stage> {
    let references = stage.references.into_iter().map(canonical_reference_from).collect::<Checked<Vec<_>>>()?;
    Ok(domain::Stage {
        gallery: gallery(&stage.gallery)?,
        enrolment_id: enrolment_id(&stage.enrolment_id)?,
        subject_id: stage.subject_id,
        references,
        provenance: provenance_from(stage.provenance.unwrap_or_default()),
        policy_version: PolicyVersion(stage.policy_version),
        key_version: KeyVersion(stage.key_version),
        content_digest: content_digest(&stage.content_digest)?,
        received_at_ms: stage.received_at_ms,
    })
}

fn settle(settle: wire::SettleCommand) -> Checked<domain::Settle> {
    let verdict = settle.verdict.ok_or_else(|| InvalidField::new("verdict", "is required"))?;
    Ok(domain::Settle {
        gallery: gallery(&settle.gallery)?,
        enrolment_id: enrolment_id(&settle.enrolment_id)?,
        stage_index: LogIndex(settle.stage_index),
        content_digest: content_digest(&settle.content_digest)?,
        verdict: verdict_from(verdict)?,
        shards_count: ShardCount::new(settle.shards_count)
            .ok_or_else(|| InvalidField::new("shards_count", "is out of range"))?,
    })
}

fn verdict_from(verdict: public::Verdict) -> Checked<domain::Verdict> {
    let kind = u8::try_from(verdict.state)
        .ok()
        .and_then(domain::EnrolmentState::from_code)
        .and_then(domain::VerdictKind::from_state)
        .ok_or_else(|| InvalidField::new("verdict.state", "is not a verdict"))?;
    let coverage = verdict.coverage.ok_or_else(|| InvalidField::new("verdict.coverage", "is required"))?;
    let candidates = verdict.candidates.into_iter().map(|candidate| {
        Ok(domain::Candidate {
            enrolment_id: enrolment_id(&candidate.enrolment_id)?,
            margin_micros: candidate.margin_micros,
            comparisons: comparisons(&candidate.comparisons)?,
        })
    });
    Ok(domain::Verdict {
        kind,
        candidates: candidates.collect::<Checked<Vec<_>>>()?,
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: domain::Coverage {
            shards: coverage.shards.iter().map(shard_coverage_from).collect(),
            live: coverage.live,
            compared: coverage.compared,
        },
        policy_version: PolicyVersion(verdict.policy_version),
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    })
}

fn shard_coverage_from(shard: &public::ShardCoverage) -> domain::ShardCoverage {
    domain::ShardCoverage {
        shard: ShardId(shard.shard),
        epoch: shard.epoch,
        searchable_index: LogIndex(shard.searchable_index),
        compared: shard.compared,
        not_comparable: shard.not_comparable,
        withdrawn: shard.withdrawn,
    }
}

fn comparisons(comparisons: &[public::Comparison]) -> Checked<Vec<domain::ComparisonRecord>> {
    let records = comparisons.iter().map(|comparison| {
        Ok(domain::ComparisonRecord {
            slot: slot(comparison.modality, comparison.position)?,
            score: score("score_micros", comparison.score_micros)?,
            threshold: score("threshold_micros", comparison.threshold_micros)?,
        })
    });
    records.collect()
}

fn canonical_reference_from(reference: wire::CanonicalReference) -> Checked<domain::CanonicalReference> {
    let spec = template_spec(reference.spec.as_ref())?;
    let quality = reference.quality.map(u8::try_from).transpose();
    Ok(domain::CanonicalReference {
        slot: slot(reference.modality, reference.position)?,
        spec,
        template: template(&spec, &reference.template)?,
        quality: quality.map_err(|_| InvalidField::new("quality", "must be 0 to 100"))?,
        algorithm_id: reference.algorithm_id,
    })
}

/// The priority of a request. One that is not known counts as interactive: nobody at a desk is to wait because of a version.
pub fn priority(priority: i32) -> Priority {
    match public::Priority::try_from(priority) {
        Ok(public::Priority::Bulk) => Priority::Bulk,
        Ok(public::Priority::Interactive | public::Priority::Unspecified) | Err(_) => Priority::Interactive,
    }
}

/// The probe of a request.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn probe(probe: wire::SearchProbe) -> Checked<SearchProbe> {
    let miss_budget_ppb = probe.miss_budget_ppb;
    // Absence is a fault too: no default here may be looser than what the probe's policy pins.
    if !(1..=MISS_BUDGET_PPB_MAX).contains(&miss_budget_ppb) {
        let reason = format!("is {miss_budget_ppb}, must be 1 to {MISS_BUDGET_PPB_MAX}");
        return Err(InvalidField::new("miss_budget_ppb", reason));
    }
    // From the first search on, whatever segments were built with until then.
    let miss_budget_ppb = if probe.engine == EngineName::Exact.to_string() { 0 } else { miss_budget_ppb };
    let found = probe.references.len();
    if found > domain::REFERENCES_MAX {
        let reason = format!("has {found} items, must have 0 to {}", domain::REFERENCES_MAX);
        return Err(InvalidField::new("references", reason));
    }
    let references = probe.references.into_iter().map(|probe| {
        let reference = probe.reference.ok_or_else(|| InvalidField::new("reference", "is required"))?;
        let spec = template_spec(reference.spec.as_ref())?;
        Ok(ProbeReference {
            slot: slot(reference.modality, reference.position)?,
            spec,
            template: template(&spec, &reference.template)?,
            threshold: score("threshold_micros", probe.threshold_micros)?,
            miss_budget_ppb,
        })
    });
    let exclude = match probe.exclude_enrolment_id.as_str() {
        "" => None,
        id => Some(enrolment_id(id)?),
    };
    let candidates_max = probe.candidates_max as usize;
    if !(1..=domain::CANDIDATES_MAX).contains(&candidates_max) {
        let limit = domain::CANDIDATES_MAX;
        return Err(InvalidField::new("candidates_max", format!("is {candidates_max}, must be 1 to {limit}")));
    }
    Ok(SearchProbe {
        gallery: gallery(&probe.gallery)?,
        key_version: KeyVersion(probe.key_version),
        references: references.collect::<Checked<Vec<_>>>()?,
        exclude,
        candidates_max,
    })
}

/// The engine that a version of a policy names for its gallery's sealed segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyEngine {
    /// The version; 0 where the sender knows of no engines.
    pub version: PolicyVersion,
    /// The name, which this node need not know; empty = the engine of the node's settings.
    pub engine: String,
}

/// The engine that the policy of a probe names.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn policy_engine(probe: &wire::SearchProbe) -> Checked<PolicyEngine> {
    named_engine(probe.policy_version, &probe.engine)
}

/// A gallery and the engine that its policy names, as a coordinator answers a report.
///
/// # Errors
/// Names the field that breaks its rule.
pub fn gallery_engine(told: &wire::GalleryEngine) -> Checked<(GalleryId, PolicyEngine)> {
    Ok((gallery(&told.gallery)?, named_engine(told.policy_version, &told.engine)?))
}

fn named_engine(version: u64, engine: &str) -> Checked<PolicyEngine> {
    let found = engine.len();
    if found > ENGINE_NAME_BYTES_MAX {
        let reason = format!("has {found} bytes, must have 0 to {ENGINE_NAME_BYTES_MAX}");
        return Err(InvalidField::new("engine", reason));
    }
    Ok(PolicyEngine { version: PolicyVersion(version), engine: engine.to_owned() })
}

fn gallery(name: &str) -> Checked<GalleryId> {
    GalleryId::try_from(name).map_err(|error| InvalidField::new("gallery", format!("must be {}", error.rule)))
}

fn enrolment_id(id: &str) -> Checked<EnrolmentId> {
    EnrolmentId::try_from(id).map_err(|error| InvalidField::new("enrolment_id", format!("must be {}", error.rule)))
}

fn content_digest(bytes: &[u8]) -> Checked<domain::ContentDigest> {
    let digest = bytes.try_into().map_err(|_| InvalidField::new("content_digest", "must be 32 bytes"))?;
    Ok(domain::ContentDigest(digest))
}

fn score(field: &'static str, micros: i32) -> Checked<ComparisonScore> {
    ComparisonScore::from_micros(micros).ok_or_else(|| InvalidField::new(field, "is outside -1000000 to 1000000"))
}

/// The numbers on the wire are the stable codes of the domain.
fn slot(modality: i32, position: i32) -> Checked<Slot> {
    let code = |number: i32| u8::try_from(number).ok();
    code(modality)
        .zip(code(position))
        .and_then(|(modality, position)| Slot::from_codes(modality, position))
        .ok_or_else(|| InvalidField::new("position", format!("modality {modality} has no position {position}")))
}

fn template_spec(spec: Option<&public::TemplateSpec>) -> Checked<TemplateSpec> {
    use public::template_spec::Kind;
    let spec = match spec.and_then(|spec| spec.kind.as_ref()) {
        Some(Kind::Embedding(embedding)) => TemplateSpec::Embedding { dimension: embedding.dimension },
        Some(Kind::BinaryCode(code)) => TemplateSpec::BinaryCode(BinaryCodeSpec {
            rows: code.rows,
            columns: code.columns,
            bits_per_cell: code.bits_per_cell,
            shifts_max: code.shifts_max,
            common_bits_min: code.common_bits_min,
        }),
        None => return Err(InvalidField::new("spec", "is required")),
    };
    spec.validate().map_err(|error| InvalidField::new("spec", error))?;
    Ok(spec)
}

fn template(spec: &TemplateSpec, bytes: &[u8]) -> Checked<Template> {
    Template::from_bytes(spec, bytes).map_err(|error| InvalidField::new("template", error))
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

/// The receipt that holds a record.
pub fn enrolment_receipt(record: &domain::EnrolmentRecord) -> wire::EnrolmentReceipt {
    wire::EnrolmentReceipt {
        enrolment: Some(enrolment(record)),
        content_digest: Bytes::copy_from_slice(&record.content_digest.0),
        round: record.round,
        key_version: record.key_version.0,
    }
}

fn enrolment(record: &domain::EnrolmentRecord) -> public::Enrolment {
    let references = record.references.iter().map(|reference| public::ReferenceSummary {
        modality: i32::from(reference.slot.modality().code()),
        position: i32::from(reference.slot.position().code()),
        quality: reference.quality.map(u32::from),
        algorithm_id: reference.algorithm_id.clone(),
    });
    public::Enrolment {
        gallery: record.gallery.to_string(),
        enrolment_id: record.enrolment_id.to_string(),
        subject_id: record.subject_id.clone(),
        state: i32::from(record.state.code()),
        verdict: record.verdict.as_ref().map(verdict),
        provenance: Some(public::Provenance {
            site: record.provenance.site.clone(),
            operator_id: record.provenance.operator_id.clone(),
            legal_basis: record.provenance.legal_basis.clone(),
            purpose: record.provenance.purpose.clone(),
            captured_at_ms: record.provenance.captured_at_ms,
        }),
        shard: record.shard.0,
        stage_index: record.stage_index.0,
        received_at_ms: record.received_at_ms,
        policy_version: record.policy_version.0,
        references: references.collect(),
        case_ids: record.case_ids.iter().map(ToString::to_string).collect(),
    }
}

fn verdict(verdict: &domain::Verdict) -> public::Verdict {
    let candidates = verdict.candidates.iter().map(|candidate| public::Candidate {
        enrolment_id: candidate.enrolment_id.to_string(),
        margin_micros: candidate.margin_micros,
        comparisons: candidate.comparisons.iter().map(comparison).collect(),
    });
    public::Verdict {
        state: i32::from(verdict.kind.state().code()),
        candidates: candidates.collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: Some(public::Coverage {
            shards: verdict.coverage.shards.iter().map(shard_coverage).collect(),
            live: verdict.coverage.live,
            compared: verdict.coverage.compared,
        }),
        policy_version: verdict.policy_version.0,
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    }
}

fn shard_coverage(shard: &domain::ShardCoverage) -> public::ShardCoverage {
    public::ShardCoverage {
        shard: shard.shard.0,
        epoch: shard.epoch,
        searchable_index: shard.searchable_index.0,
        compared: shard.compared,
        not_comparable: shard.not_comparable,
        withdrawn: shard.withdrawn,
    }
}

fn comparison(record: &domain::ComparisonRecord) -> public::Comparison {
    comparison_of(record.slot, record.score, record.threshold)
}

fn comparison_of(slot: Slot, score: ComparisonScore, threshold: ComparisonScore) -> public::Comparison {
    public::Comparison {
        modality: i32::from(slot.modality().code()),
        position: i32::from(slot.position().code()),
        score_micros: score.micros(),
        threshold_micros: threshold.micros(),
    }
}

/// A reference with its template.
pub fn canonical_reference(reference: &domain::CanonicalReference) -> wire::CanonicalReference {
    use public::template_spec::Kind;
    let kind = match reference.spec {
        TemplateSpec::Embedding { dimension } => Kind::Embedding(public::EmbeddingSpec { dimension }),
        TemplateSpec::BinaryCode(code) => Kind::BinaryCode(public::BinaryCodeSpec {
            rows: code.rows,
            columns: code.columns,
            bits_per_cell: code.bits_per_cell,
            shifts_max: code.shifts_max,
            common_bits_min: code.common_bits_min,
        }),
    };
    wire::CanonicalReference {
        modality: i32::from(reference.slot.modality().code()),
        position: i32::from(reference.slot.position().code()),
        spec: Some(public::TemplateSpec { kind: Some(kind) }),
        template: reference.template.to_bytes().into(),
        quality: reference.quality.map(u32::from),
        algorithm_id: reference.algorithm_id.clone(),
    }
}

/// The receipt that holds a refusal.
pub fn refused(refusal: domain::Refusal) -> wire::RefusedReceipt {
    let refusal = match refusal {
        domain::Refusal::OtherContent => wire::Refusal::OtherContent,
        domain::Refusal::NoSuchEnrolment => wire::Refusal::NoSuchEnrolment,
        domain::Refusal::NotWhatWasStaged => wire::Refusal::NotWhatWasStaged,
        domain::Refusal::Malformed => wire::Refusal::Malformed,
        domain::Refusal::WrongShard => wire::Refusal::WrongShard,
    };
    wire::RefusedReceipt { refusal: refusal.into() }
}

/// What a shard owes.
pub fn obligation(obligation: &domain::Obligation) -> wire::Obligation {
    wire::Obligation {
        id: obligation.id.0,
        gallery: obligation.gallery.to_string(),
        addressee: obligation.addressee.to_string(),
        command: owed(&obligation.command).map(|command| wire::Command { command: Some(command) }),
    }
}

/// What a shard can owe another. It never owes a stage, a settle, a withdrawal or a discharge: those have a client or a driver behind them.
fn owed(command: &domain::Command) -> Option<wire::command::Command> {
    use wire::command::Command as Wire;
    Some(match command {
        domain::Command::OpenCase(open) => Wire::OpenCase(wire::OpenCaseCommand {
            gallery: open.gallery.to_string(),
            opened_by: open.opened_by.to_string(),
            candidate: open.candidate.to_string(),
            comparisons: open.comparisons.iter().map(comparison).collect(),
            opened_at_ms: open.opened_at_ms,
        }),
        domain::Command::LinkCase(link) => Wire::LinkCase(wire::LinkCaseCommand {
            gallery: link.gallery.to_string(),
            enrolment_id: link.enrolment_id.to_string(),
            other_enrolment_id: link.other_enrolment_id.to_string(),
        }),
        domain::Command::MootCase(moot) => Wire::MootCase(wire::MootCaseCommand {
            gallery: moot.gallery.to_string(),
            withdrawn: moot.withdrawn.to_string(),
            other_enrolment_id: moot.other_enrolment_id.to_string(),
        }),
        domain::Command::NoteMoot(note) => Wire::NoteMoot(wire::NoteMootCommand {
            gallery: note.gallery.to_string(),
            enrolment_id: note.enrolment_id.to_string(),
            withdrawn: note.withdrawn.to_string(),
        }),
        domain::Command::Stage(_)
        | domain::Command::Settle(_)
        | domain::Command::Withdraw(_)
        | domain::Command::Discharge(_) => return None,
    })
}

/// An enrolment that waits for a verdict.
pub fn pending(pending: &domain::PendingEnrolment) -> wire::PendingEnrolment {
    wire::PendingEnrolment {
        gallery: pending.gallery.to_string(),
        enrolment_id: pending.enrolment_id.to_string(),
        stage_index: pending.stage_index.0,
        round: pending.round,
    }
}

/// A case.
pub fn case(case: &domain::Case) -> public::Case {
    let state = match case.state {
        domain::CaseState::Open => public::CaseState::Open,
        domain::CaseState::Moot { .. } => public::CaseState::Moot,
    };
    public::Case {
        case_id: case.case_id.to_string(),
        gallery: case.gallery.to_string(),
        enrolment_ids: case.subject.enrolment_ids().into_iter().map(ToString::to_string).collect(),
        state: state.into(),
        comparisons: case.comparisons.iter().map(comparison).collect(),
        opened_by: case.opened_by.iter().map(ToString::to_string).collect(),
        opened_at_ms: case.opened_at_ms,
        cluster: case.is_cluster(),
    }
}

/// What a shard found for each of `probes`, all at one searchable index.
pub fn shard_answer(
    epoch: u64,
    searchable_index: LogIndex,
    answers: &[ShardSearch],
    probes: &[SearchProbe],
) -> wire::ShardAnswer {
    let answered = answers.iter().zip(probes).map(|(answer, probe)| wire::ProbeAnswer {
        compared: answer.compared,
        not_comparable: answer.not_comparable,
        withdrawn: answer.withdrawn,
        candidates: answer.candidates.iter().map(|found| candidate(found, probe)).collect(),
        candidates_total: answer.candidates_total,
    });
    wire::ShardAnswer { epoch, searchable_index: searchable_index.0, probes: answered.collect() }
}

fn candidate(candidate: &semel_index::Candidate, probe: &SearchProbe) -> public::Candidate {
    let comparisons = candidate.comparisons.iter().filter_map(|&(slot, score)| {
        let threshold = probe.references.iter().find(|reference| reference.slot == slot)?.threshold;
        (score >= threshold).then(|| comparison_of(slot, score, threshold))
    });
    public::Candidate {
        enrolment_id: candidate.enrolment_id.to_string(),
        margin_micros: candidate.margin,
        comparisons: comparisons.collect(),
    }
}

#[cfg(test)]
mod tests {
    use semel_index::CanonicalEmbedding;

    use super::*;

    #[test]
    fn a_search_is_interactive_unless_it_says_that_it_is_bulk() {
        let priorities = [-1, 0, 1, 2, 3].map(priority);
        let interactive = Priority::Interactive;
        assert_eq!(priorities, [interactive, interactive, interactive, Priority::Bulk, interactive]);
    }

    #[test]
    fn a_probe_without_a_permitted_miss_budget_is_invalid() {
        let asked = |miss_budget_ppb| {
            let (gallery, candidates_max) = ("people".to_owned(), 1);
            probe(wire::SearchProbe { gallery, candidates_max, miss_budget_ppb, ..wire::SearchProbe::default() })
        };
        for miss_budget_ppb in [0, 1_000_001, u32::MAX] {
            let error = asked(miss_budget_ppb).expect_err("refused");
            let message = error.to_string();
            assert!(message.contains("miss_budget_ppb") && message.contains("must be 1 to 1000000"), "{message}");
        }
        for miss_budget_ppb in [1, 1_000_000] {
            asked(miss_budget_ppb).expect("permitted");
        }
    }

    #[test]
    fn a_gallery_whose_engine_is_exact_is_searched_exactly_at_once() {
        let reference = wire::CanonicalReference {
            modality: 1,
            position: 1,
            spec: Some(public::TemplateSpec {
                kind: Some(public::template_spec::Kind::Embedding(public::EmbeddingSpec { dimension: 4 })),
            }),
            template: Template::Embedding(CanonicalEmbedding::from_f32(&[1.0, 2.0, 3.0, 4.0]).expect("valid"))
                .to_bytes()
                .into(),
            ..Default::default()
        };
        for (engine, budget) in [("exact", 0), ("sketch", 7), ("", 7)] {
            let asked = wire::SearchProbe {
                gallery: "people".to_owned(),
                candidates_max: 1,
                miss_budget_ppb: 7,
                engine: engine.to_owned(),
                references: vec![wire::ProbeReference { reference: Some(reference.clone()), threshold_micros: 1 }],
                ..Default::default()
            };
            assert_eq!(probe(asked).expect("valid").references[0].miss_budget_ppb, budget, "{engine}");
        }
    }

    #[test]
    fn an_engine_of_any_name_is_taken_up_to_its_length() {
        let asked = |engine: &str| {
            let engine = engine.to_owned();
            policy_engine(&wire::SearchProbe { engine, policy_version: 3, ..Default::default() })
        };
        let error = asked(&"e".repeat(65)).expect_err("refused");
        assert_eq!(error.to_string(), "engine: has 65 bytes, must have 0 to 64");
        for engine in ["", "exact", "an engine of a later version"] {
            let expected = PolicyEngine { version: PolicyVersion(3), engine: engine.to_owned() };
            assert_eq!(asked(engine), Ok(expected.clone()));
            let (gallery, engine) = ("people".to_owned(), engine.to_owned());
            let (told, named) =
                gallery_engine(&wire::GalleryEngine { gallery, policy_version: 3, engine }).expect("valid");
            assert_eq!((told.as_str(), named), ("people", expected));
        }
        let refused = |gallery: &str, engine: String| {
            let told = wire::GalleryEngine { gallery: gallery.to_owned(), policy_version: 3, engine };
            gallery_engine(&told).expect_err("refused").field
        };
        assert_eq!(refused("people", "e".repeat(65)), "engine");
        assert_eq!(refused("", String::new()), "gallery");
    }

    /// Such commands once went through the log, to be found malformed by every replica.
    #[test]
    fn a_command_beyond_the_bounds_of_its_fields_is_invalid() {
        let refused = |command| {
            let error = command_of(command).expect_err("refused");
            assert_eq!(error.field, "command");
            error.reason
        };
        let withdraw = |reason: String| {
            let (gallery, enrolment_id) = ("people".to_owned(), "a".to_owned());
            wire::command::Command::Withdraw(wire::WithdrawCommand { gallery, enrolment_id, reason })
        };
        assert_eq!(refused(withdraw(String::new())), "reason has 0 bytes, must have 1 to 256");
        command_of(withdraw("asked".to_owned())).expect("within bounds");
        let link = wire::LinkCaseCommand {
            gallery: "people".to_owned(),
            enrolment_id: "a".to_owned(),
            other_enrolment_id: "a".to_owned(),
        };
        assert_eq!(refused(wire::command::Command::LinkCase(link)), "enrolments of the case names the same twice");
        let discharge = wire::DischargeCommand { obligations: vec![1; 257] };
        let reason = refused(wire::command::Command::Discharge(discharge));
        assert_eq!(reason, "obligations has 257 items, must have 0 to 256");
    }

    fn command_of(command: wire::command::Command) -> Checked<domain::Command> {
        super::command(wire::Command { command: Some(command) })
    }

    /// The number of references was once bounded by the size of the request alone.
    #[test]
    fn a_probe_of_more_references_than_an_enrolment_has_is_invalid() {
        let references = vec![wire::ProbeReference::default(); domain::REFERENCES_MAX + 1];
        let (gallery, candidates_max, miss_budget_ppb) = ("people".to_owned(), 1, 1);
        let asked = wire::SearchProbe { gallery, candidates_max, miss_budget_ppb, references, ..Default::default() };
        assert_eq!(probe(asked).expect_err("refused").to_string(), "references: has 17 items, must have 0 to 16");
    }
}
