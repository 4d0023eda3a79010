//! Parts that commands and rows share.

use semel_index::{
    BinaryCodeSpec, ComparisonScore, EnrolmentId, GalleryId, PolicyVersion, SHARDS_MAX, ShardId, Slot, Template,
    TemplateSpec,
};
use semel_raft::LogIndex;

use super::DecodeError;
use crate::bounds::{ALGORITHM_ID_BYTES_MAX, CANDIDATES_MAX, PROVENANCE_TEXT_BYTES_MAX, QUALITY_MAX, REFERENCES_MAX};
use crate::command::ContentDigest;
use crate::enrolment::{CanonicalReference, EnrolmentState, Provenance, ReferenceSummary};
use crate::v1::part as v1;
use crate::verdict::{Candidate, ComparisonRecord, Coverage, ShardCoverage, Verdict, VerdictKind};

pub(super) fn gallery_id(text: &str) -> Result<GalleryId, DecodeError> {
    Ok(GalleryId::try_from(text)?)
}

pub(super) fn enrolment_id(text: &str) -> Result<EnrolmentId, DecodeError> {
    Ok(EnrolmentId::try_from(text)?)
}

pub(super) fn text(field: &'static str, text: String, min: usize, max: usize) -> Result<String, DecodeError> {
    let found = text.len();
    if (min..=max).contains(&found) { Ok(text) } else { Err(DecodeError::Bytes { field, found, min, max }) }
}

pub(super) fn exactly<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Bytes { field, found: bytes.len(), min: N, max: N })
}

pub(super) fn content_digest(bytes: &[u8]) -> Result<ContentDigest, DecodeError> {
    exactly("content_digest", bytes).map(ContentDigest)
}

pub(super) fn present<T>(field: &'static str, part: Option<T>) -> Result<T, DecodeError> {
    part.ok_or(DecodeError::Missing { field })
}

/// Decodes a list of `min` to `max` items.
pub(super) fn list<A, B>(
    field: &'static str,
    items: Vec<A>,
    (min, max): (usize, usize),
    decode: impl Fn(A) -> Result<B, DecodeError>,
) -> Result<Vec<B>, DecodeError> {
    let found = items.len();
    if !(min..=max).contains(&found) {
        return Err(DecodeError::Items { field, found, min, max });
    }
    items.into_iter().map(decode).collect()
}

fn slot(modality: u32, position: u32) -> Result<Slot, DecodeError> {
    let codes = u8::try_from(modality).ok().zip(u8::try_from(position).ok());
    codes.and_then(|(modality, position)| Slot::from_codes(modality, position)).ok_or(DecodeError::Value {
        field: "modality or position",
        found: i64::from(modality) << 8 | i64::from(position),
    })
}

fn quality(found: Option<u32>) -> Result<Option<u8>, DecodeError> {
    let Some(found) = found else { return Ok(None) };
    let quality = u8::try_from(found).ok().filter(|quality| *quality <= QUALITY_MAX);
    quality.map(Some).ok_or(DecodeError::Value { field: "quality", found: i64::from(found) })
}

fn score(field: &'static str, micros: i32) -> Result<ComparisonScore, DecodeError> {
    ComparisonScore::from_micros(micros).ok_or(DecodeError::Value { field, found: i64::from(micros) })
}

pub(super) fn state(code: u32) -> Result<EnrolmentState, DecodeError> {
    let state = u8::try_from(code).ok().and_then(EnrolmentState::from_code);
    state.ok_or(DecodeError::Value { field: "state", found: i64::from(code) })
}

fn spec_to_v1(spec: &TemplateSpec) -> v1::Spec {
    match spec {
        TemplateSpec::Embedding { dimension } => v1::Spec::Embedding(v1::EmbeddingSpec { dimension: *dimension }),
        TemplateSpec::BinaryCode(spec) => v1::Spec::BinaryCode(v1::BinaryCodeSpec {
            rows: spec.rows,
            columns: spec.columns,
            bits_per_cell: spec.bits_per_cell,
            shifts_max: spec.shifts_max,
            common_bits_min: spec.common_bits_min,
        }),
    }
}

fn spec_from_v1(spec: v1::Spec) -> TemplateSpec {
    match spec {
        v1::Spec::Embedding(spec) => TemplateSpec::Embedding { dimension: spec.dimension },
        v1::Spec::BinaryCode(spec) => TemplateSpec::BinaryCode(BinaryCodeSpec {
            rows: spec.rows,
            columns: spec.columns,
            bits_per_cell: spec.bits_per_cell,
            shifts_max: spec.shifts_max,
            common_bits_min: spec.common_bits_min,
        }),
    }
}

pub(super) fn reference_to_v1(reference: &CanonicalReference) -> v1::Reference {
    v1::Reference {
        modality: u32::from(reference.slot.modality().code()),
        position: u32::from(reference.slot.position().code()),
        spec: Some(spec_to_v1(&reference.spec)),
        template: reference.template.to_bytes(),
        quality: reference.quality.map(u32::from),
        algorithm_id: reference.algorithm_id.clone(),
    }
}

/// Decodes the references of one enrolment: within their bounds, each of another slot.
pub(super) fn references(references: Vec<v1::Reference>) -> Result<Vec<CanonicalReference>, DecodeError> {
    let references = list("references", references, (1, REFERENCES_MAX), reference)?;
    let repeats =
        |(place, one): (usize, &CanonicalReference)| references[..place].iter().any(|other| other.slot == one.slot);
    if references.iter().enumerate().any(repeats) {
        return Err(DecodeError::Repeated { field: "references" });
    }
    Ok(references)
}

fn reference(reference: v1::Reference) -> Result<CanonicalReference, DecodeError> {
    let spec = spec_from_v1(present("spec", reference.spec)?);
    Ok(CanonicalReference {
        slot: slot(reference.modality, reference.position)?,
        template: Template::from_bytes(&spec, &reference.template)?,
        spec,
        quality: quality(reference.quality)?,
        algorithm_id: text("algorithm_id", reference.algorithm_id, 0, ALGORITHM_ID_BYTES_MAX)?,
    })
}

pub(super) fn summary_to_v1(summary: &ReferenceSummary) -> v1::ReferenceSummary {
    v1::ReferenceSummary {
        modality: u32::from(summary.slot.modality().code()),
        position: u32::from(summary.slot.position().code()),
        quality: summary.quality.map(u32::from),
        algorithm_id: summary.algorithm_id.clone(),
    }
}

pub(super) fn summary(summary: v1::ReferenceSummary) -> Result<ReferenceSummary, DecodeError> {
    Ok(ReferenceSummary {
        slot: slot(summary.modality, summary.position)?,
        quality: quality(summary.quality)?,
        algorithm_id: text("algorithm_id", summary.algorithm_id, 0, ALGORITHM_ID_BYTES_MAX)?,
    })
}

pub(super) fn provenance_to_v1(provenance: &Provenance) -> v1::Provenance {
    v1::Provenance {
        site: provenance.site.clone(),
        operator_id: provenance.operator_id.clone(),
        legal_basis: provenance.legal_basis.clone(),
        purpose: provenance.purpose.clone(),
        captured_at_ms: provenance.captured_at_ms,
    }
}

pub(super) fn provenance(provenance: v1::Provenance) -> Result<Provenance, DecodeError> {
    let bounded = |field, given| text(field, given, 0, PROVENANCE_TEXT_BYTES_MAX);
    Ok(Provenance {
        site: bounded("provenance.site", provenance.site)?,
        operator_id: bounded("provenance.operator_id", provenance.operator_id)?,
        legal_basis: bounded("provenance.legal_basis", provenance.legal_basis)?,
        purpose: bounded("provenance.purpose", provenance.purpose)?,
        captured_at_ms: provenance.captured_at_ms,
    })
}

fn comparison_to_v1(comparison: &ComparisonRecord) -> v1::Comparison {
    v1::Comparison {
        modality: u32::from(comparison.slot.modality().code()),
        position: u32::from(comparison.slot.position().code()),
        score_micros: comparison.score.micros(),
        threshold_micros: comparison.threshold.micros(),
    }
}

fn comparison(comparison: v1::Comparison) -> Result<ComparisonRecord, DecodeError> {
    Ok(ComparisonRecord {
        slot: slot(comparison.modality, comparison.position)?,
        score: score("score_micros", comparison.score_micros)?,
        threshold: score("threshold_micros", comparison.threshold_micros)?,
    })
}

pub(super) fn comparisons_to_v1(comparisons: &[ComparisonRecord]) -> Vec<v1::Comparison> {
    comparisons.iter().map(comparison_to_v1).collect()
}

pub(super) fn comparisons(comparisons: Vec<v1::Comparison>) -> Result<Vec<ComparisonRecord>, DecodeError> {
    list("comparisons", comparisons, (0, REFERENCES_MAX), comparison)
}

fn candidate_to_v1(candidate: &Candidate) -> v1::Candidate {
    v1::Candidate {
        enrolment_id: candidate.enrolment_id.to_string(),
        margin_micros: candidate.margin_micros,
        comparisons: comparisons_to_v1(&candidate.comparisons),
    }
}

fn candidate(candidate: v1::Candidate) -> Result<Candidate, DecodeError> {
    Ok(Candidate {
        enrolment_id: enrolment_id(&candidate.enrolment_id)?,
        margin_micros: candidate.margin_micros,
        comparisons: comparisons(candidate.comparisons)?,
    })
}

fn shard_coverage_to_v1(coverage: &ShardCoverage) -> v1::ShardCoverage {
    v1::ShardCoverage {
        shard: coverage.shard.0,
        epoch: coverage.epoch,
        searchable_index: coverage.searchable_index.0,
        compared: coverage.compared,
        not_comparable: coverage.not_comparable,
        withdrawn: coverage.withdrawn,
    }
}

fn shard_coverage(coverage: v1::ShardCoverage) -> Result<ShardCoverage, DecodeError> {
    Ok(ShardCoverage {
        shard: ShardId(coverage.shard),
        epoch: coverage.epoch,
        searchable_index: LogIndex(coverage.searchable_index),
        compared: coverage.compared,
        not_comparable: coverage.not_comparable,
        withdrawn: coverage.withdrawn,
    })
}

pub(super) fn verdict_to_v1(verdict: &Verdict) -> v1::Verdict {
    v1::Verdict {
        state: u32::from(verdict.kind.state().code()),
        candidates: verdict.candidates.iter().map(candidate_to_v1).collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: Some(v1::Coverage {
            shards: verdict.coverage.shards.iter().map(shard_coverage_to_v1).collect(),
            live: verdict.coverage.live,
            compared: verdict.coverage.compared,
        }),
        policy_version: verdict.policy_version.0,
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    }
}

pub(super) fn verdict(verdict: v1::Verdict) -> Result<Verdict, DecodeError> {
    let coverage = present("coverage", verdict.coverage)?;
    let kind = VerdictKind::from_state(state(verdict.state)?);
    Ok(Verdict {
        kind: kind.ok_or(DecodeError::Value { field: "verdict.state", found: i64::from(verdict.state) })?,
        candidates: list("candidates", verdict.candidates, (0, CANDIDATES_MAX), candidate)?,
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: Coverage {
            shards: list("coverage.shards", coverage.shards, (0, SHARDS_MAX as usize), shard_coverage)?,
            live: coverage.live,
            compared: coverage.compared,
        },
        policy_version: PolicyVersion(verdict.policy_version),
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    })
}
