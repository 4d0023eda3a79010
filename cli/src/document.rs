//! What the cluster answers, as JSON for machines. Templates are in none of it.

use semel_files::names;
use semel_proto::v1::{
    Candidate, Case, Comparison, Coverage, EngineStatus, Enrolment, GetClusterStatusResponse, ReplicaMove,
    ReplicaStatus, ShardStatus, UnsealedStatus, Verdict,
};
use serde_json::{Value, json};

pub(crate) fn replica_move(moving: &ReplicaMove) -> Value {
    json!({
        "shard": moving.shard,
        "from_node": moving.from_node,
        "to_node": moving.to_node,
        "from_replica": moving.from_replica,
        "to_replica": moving.to_replica,
        "state": names::move_state(moving.state()),
        "lag": moving.lag,
    })
}

pub(crate) fn comparison(comparison: &Comparison) -> Value {
    json!({
        "modality": names::modality(comparison.modality()),
        "position": names::position(comparison.position()),
        "score_micros": comparison.score_micros,
        "threshold_micros": comparison.threshold_micros,
    })
}

pub(crate) fn candidate(candidate: &Candidate) -> Value {
    json!({
        "enrolment_id": candidate.enrolment_id,
        "margin_micros": candidate.margin_micros,
        "comparisons": candidate.comparisons.iter().map(comparison).collect::<Vec<_>>(),
    })
}

pub(crate) fn coverage(coverage: &Coverage) -> Value {
    let shard = |shard: &semel_proto::v1::ShardCoverage| {
        json!({
            "shard": shard.shard,
            "epoch": shard.epoch,
            "searchable_index": shard.searchable_index,
            "compared": shard.compared,
            "not_comparable": shard.not_comparable,
            "withdrawn": shard.withdrawn,
        })
    };
    json!({
        "live": coverage.live,
        "compared": coverage.compared,
        "shards": coverage.shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

fn verdict(verdict: &Verdict) -> Value {
    json!({
        "state": names::enrolment_state(verdict.state()),
        "candidates": verdict.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "candidates_total": verdict.candidates_total,
        "saturated": verdict.saturated,
        "coverage": verdict.coverage.as_ref().map(coverage),
        "policy_version": verdict.policy_version,
        "round": verdict.round,
        "settled_at_ms": verdict.settled_at_ms,
    })
}

pub(crate) fn enrolment(enrolment: &Enrolment) -> Value {
    let reference = |reference: &semel_proto::v1::ReferenceSummary| {
        json!({
            "modality": names::modality(reference.modality()),
            "position": names::position(reference.position()),
            "quality": reference.quality,
            "algorithm_id": reference.algorithm_id,
        })
    };
    let provenance = enrolment.provenance.as_ref().map(|given| {
        json!({
            "site": given.site,
            "operator_id": given.operator_id,
            "legal_basis": given.legal_basis,
            "purpose": given.purpose,
            "captured_at_ms": given.captured_at_ms,
        })
    });
    json!({
        "gallery": enrolment.gallery,
        "enrolment_id": enrolment.enrolment_id,
        "subject_id": enrolment.subject_id,
        "state": names::enrolment_state(enrolment.state()),
        "verdict": enrolment.verdict.as_ref().map(verdict),
        "provenance": provenance,
        "shard": enrolment.shard,
        "stage_index": enrolment.stage_index,
        "received_at_ms": enrolment.received_at_ms,
        "policy_version": enrolment.policy_version,
        "references": enrolment.references.iter().map(reference).collect::<Vec<_>>(),
        "case_ids": enrolment.case_ids,
    })
}

pub(crate) fn case(case: &Case) -> Value {
    json!({
        "case_id": case.case_id,
        "gallery": case.gallery,
        "enrolment_ids": case.enrolment_ids,
        "state": names::case_state(case.state()),
        "comparisons": case.comparisons.iter().map(comparison).collect::<Vec<_>>(),
        "opened_by": case.opened_by,
        "opened_at_ms": case.opened_at_ms,
        "cluster": case.cluster,
    })
}

fn engine(engine: &EngineStatus) -> Value {
    json!({
        "engine": engine.engine,
        "segments": engine.segments,
        "instead_of": engine.instead_of,
        "waits_for": engine.waits_for,
        "references_min": engine.references_min,
    })
}

fn unsealed(unsealed: &UnsealedStatus) -> Value {
    json!({
        "gallery": unsealed.gallery,
        "engine": unsealed.engine,
        "references": unsealed.references,
        "references_min": unsealed.references_min,
    })
}

pub(crate) fn status(status: &GetClusterStatusResponse) -> Value {
    let replica = |replica: &ReplicaStatus| {
        json!({
            "replica": replica.replica,
            "node_id": replica.node_id,
            "role": names::role(replica.role()),
            "applied_index": replica.applied_index,
            "searchable_index": replica.searchable_index,
            "lag": replica.lag,
            "digest": replica.digest,
            "stopped_reason": replica.stopped_reason,
            "references": replica.references,
            "references_sealed": replica.references_sealed,
            "catalogue_bytes": replica.catalogue_bytes,
            "engines": replica.engines.iter().map(engine).collect::<Vec<_>>(),
            "unsealed": replica.unsealed.iter().map(unsealed).collect::<Vec<_>>(),
        })
    };
    let shard = |shard: &ShardStatus| {
        json!({
            "shard": shard.shard,
            "epoch": shard.epoch,
            "pending": shard.pending,
            "obligations": shard.obligations,
            "replicas": shard.replicas.iter().map(replica).collect::<Vec<_>>(),
        })
    };
    let coordinators = status.coordinators.iter().map(|each| {
        json!({
            "coordinator": each.coordinator,
            "address": each.address,
            "leader": each.leader,
            "replica": each.replica,
            "joining_replica": each.joining_replica,
            "cancelling": each.cancelling,
            "waits": each.waits,
        })
    });
    let nodes = status.nodes.iter().map(|node| {
        json!({
            "node_id": node.node_id,
            "address": node.address,
            "live": node.live,
            "last_report_age_ms": node.last_report_age_ms,
            "version": node.version,
            "shard_searches": node.shard_searches,
            "resident_bytes": node.resident_bytes,
        })
    });
    let galleries = status.galleries.iter().map(|gallery| {
        json!({
            "gallery": gallery.gallery,
            "live": gallery.live,
            "withdrawn": gallery.withdrawn,
            "pending": gallery.pending,
            "cases": gallery.cases,
            "policy_version": gallery.policy_version,
            "policy_version_told": gallery.policy_version_told,
        })
    });
    json!({
        "cluster_id": status.cluster_id,
        "ready": status.ready,
        "shards_count": status.shards_count,
        "replicas_per_shard": status.replicas_per_shard,
        "coordinators": coordinators.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
        "shards": status.shards.iter().map(shard).collect::<Vec<_>>(),
        "galleries": galleries.collect::<Vec<_>>(),
    })
}
