//! Between the types of a shard and those of a coordinator, which in the product go through the wire, and to a history's.

use semel_index::{Candidate as Found, ShardId, shard_of};
use semel_raft::LogIndex;
use semel_shard as shard;
use semel_workflow as workflow;

use crate::history::{RecordSeen, ShardSeen, State, VerdictSeen};

pub(crate) fn stage(stage: &workflow::StageCommand) -> shard::Command {
    shard::Command::Stage(shard::Stage {
        gallery: stage.gallery.clone(),
        enrolment_id: stage.enrolment_id.clone(),
        subject_id: stage.subject_id.clone(),
        references: stage.references.iter().map(reference_to_shard).collect(),
        provenance: shard::Provenance::default(),
        policy_version: stage.policy_version,
        key_version: stage.key_version,
        content_digest: shard::ContentDigest(stage.content_digest.0),
        received_at_ms: stage.received_at_ms,
    })
}

pub(crate) fn settle(settle: &workflow::SettleCommand) -> shard::Command {
    shard::Command::Settle(shard::Settle {
        gallery: settle.gallery.clone(),
        enrolment_id: settle.enrolment_id.clone(),
        stage_index: settle.stage_index,
        content_digest: shard::ContentDigest(settle.content_digest.0),
        verdict: verdict_to_shard(&settle.verdict),
        shards_count: settle.shards_count,
    })
}

pub(crate) fn receipt(
    from: ShardId,
    receipt: &shard::Receipt,
    shards: semel_index::ShardCount,
) -> Option<workflow::Receipt<shard::Command>> {
    let (outcome, obligations) = match receipt {
        shard::Receipt::Enrolment { record, obligations } => {
            (workflow::ReceiptOutcome::Enrolment(Box::new(record_to_workflow(record))), obligations.as_slice())
        }
        shard::Receipt::Refused(refused) => (workflow::ReceiptOutcome::Refused(refusal(*refused)), [].as_slice()),
        shard::Receipt::Done { .. } => return None,
    };
    Some(workflow::Receipt { outcome, obligations: obligations_from(from, obligations, shards) })
}

pub(crate) fn obligations_from(
    from_shard: ShardId,
    obligations: &[shard::Obligation],
    shards: semel_index::ShardCount,
) -> Vec<workflow::Obligation<shard::Command>> {
    let owed = |one: &shard::Obligation| {
        let (gallery, addressee) = one.command.addressee().expect("a discharge is never owed");
        workflow::Obligation {
            key: workflow::ObligationKey { from_shard, id: one.id.0 },
            gallery: gallery.clone(),
            addressee: addressee.clone(),
            addressee_shard: shard_of(gallery, addressee, shards),
            command: one.command.clone(),
        }
    };
    obligations.iter().map(owed).collect()
}

pub(crate) fn refusal(refusal: shard::Refusal) -> workflow::Refusal {
    match refusal {
        shard::Refusal::OtherContent => workflow::Refusal::OtherContent,
        shard::Refusal::NoSuchEnrolment => workflow::Refusal::NoSuchEnrolment,
        shard::Refusal::NotWhatWasStaged => workflow::Refusal::NotWhatWasStaged,
        shard::Refusal::Malformed => workflow::Refusal::Malformed,
        shard::Refusal::WrongShard => workflow::Refusal::WrongShard,
    }
}

pub(crate) fn reference_to_workflow(reference: &shard::CanonicalReference) -> workflow::CanonicalReference {
    workflow::CanonicalReference {
        slot: reference.slot,
        spec: reference.spec,
        template: reference.template.clone(),
        quality: reference.quality.map(u32::from),
        algorithm_id: reference.algorithm_id.clone(),
    }
}

fn reference_to_shard(reference: &workflow::CanonicalReference) -> shard::CanonicalReference {
    shard::CanonicalReference {
        slot: reference.slot,
        spec: reference.spec,
        template: reference.template.clone(),
        quality: reference.quality.map(|quality| u8::try_from(quality).expect("validated")),
        algorithm_id: reference.algorithm_id.clone(),
    }
}

/// What one shard found, as an answer to the probe.
pub(crate) fn shard_answer(
    shard: ShardId,
    epoch: u64,
    searchable_index: LogIndex,
    found: &semel_index::ShardSearch,
    probe: &workflow::SearchProbe,
) -> workflow::ShardAnswer {
    let candidate = |found: &Found| {
        let reached = found.comparisons.iter().filter_map(|&(slot, score)| {
            let threshold = probe.references.iter().find(|own| own.reference.slot == slot)?.threshold;
            (score >= threshold).then_some(workflow::PairScore { slot, score, threshold })
        });
        workflow::Candidate {
            enrolment_id: found.enrolment_id.clone(),
            margin_micros: found.margin,
            comparisons: reached.collect(),
        }
    };
    workflow::ShardAnswer {
        shard,
        epoch,
        searchable_index,
        compared: found.compared,
        not_comparable: found.not_comparable,
        withdrawn: found.withdrawn,
        candidates: found.candidates.iter().map(candidate).collect(),
        candidates_total: found.candidates_total,
    }
}

pub(crate) fn record_to_workflow(record: &shard::EnrolmentRecord) -> workflow::EnrolmentRecord {
    let summary = |one: &shard::ReferenceSummary| workflow::ReferenceSummary {
        slot: one.slot,
        quality: one.quality.map(u32::from),
        algorithm_id: one.algorithm_id.clone(),
    };
    workflow::EnrolmentRecord {
        gallery: record.gallery.clone(),
        enrolment_id: record.enrolment_id.clone(),
        subject_id: record.subject_id.clone(),
        state: match record.state {
            shard::EnrolmentState::Staged => workflow::EnrolmentState::Staged,
            shard::EnrolmentState::Unique => workflow::EnrolmentState::Unique,
            shard::EnrolmentState::PossibleDuplicate => workflow::EnrolmentState::PossibleDuplicate,
            shard::EnrolmentState::NotComparable => workflow::EnrolmentState::NotComparable,
            shard::EnrolmentState::Withdrawn => workflow::EnrolmentState::Withdrawn,
        },
        verdict: record.verdict.as_ref().map(verdict_to_workflow),
        provenance: None,
        shard: record.shard,
        stage_index: record.stage_index,
        received_at_ms: record.received_at_ms,
        policy_version: record.policy_version,
        references: record.references.iter().map(summary).collect(),
        case_ids: record.case_ids.iter().map(ToString::to_string).collect(),
        content_digest: workflow::ContentDigest(record.content_digest.0),
        round: record.round,
        key_version: record.key_version,
    }
}

fn verdict_to_shard(verdict: &workflow::Verdict) -> shard::Verdict {
    let comparison = |one: &workflow::PairScore| shard::ComparisonRecord {
        slot: one.slot,
        score: one.score,
        threshold: one.threshold,
    };
    let candidate = |one: &workflow::Candidate| shard::Candidate {
        enrolment_id: one.enrolment_id.clone(),
        margin_micros: one.margin_micros,
        comparisons: one.comparisons.iter().map(comparison).collect(),
    };
    let part = |one: &workflow::ShardCoverage| shard::ShardCoverage {
        shard: one.shard,
        epoch: one.epoch,
        searchable_index: one.searchable_index,
        compared: one.compared,
        not_comparable: one.not_comparable,
        withdrawn: one.withdrawn,
    };
    shard::Verdict {
        kind: match verdict.state {
            workflow::VerdictState::Unique => shard::VerdictKind::Unique,
            workflow::VerdictState::PossibleDuplicate => shard::VerdictKind::PossibleDuplicate,
            workflow::VerdictState::NotComparable => shard::VerdictKind::NotComparable,
        },
        candidates: verdict.candidates.iter().map(candidate).collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: shard::Coverage {
            shards: verdict.coverage.shards.iter().map(part).collect(),
            live: verdict.coverage.live,
            compared: verdict.coverage.compared,
        },
        policy_version: verdict.policy_version,
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    }
}

fn verdict_to_workflow(verdict: &shard::Verdict) -> workflow::Verdict {
    let comparison = |one: &shard::ComparisonRecord| workflow::PairScore {
        slot: one.slot,
        score: one.score,
        threshold: one.threshold,
    };
    let candidate = |one: &shard::Candidate| workflow::Candidate {
        enrolment_id: one.enrolment_id.clone(),
        margin_micros: one.margin_micros,
        comparisons: one.comparisons.iter().map(comparison).collect(),
    };
    let part = |one: &shard::ShardCoverage| workflow::ShardCoverage {
        shard: one.shard,
        epoch: one.epoch,
        searchable_index: one.searchable_index,
        compared: one.compared,
        not_comparable: one.not_comparable,
        withdrawn: one.withdrawn,
    };
    workflow::Verdict {
        state: match verdict.kind {
            shard::VerdictKind::Unique => workflow::VerdictState::Unique,
            shard::VerdictKind::PossibleDuplicate => workflow::VerdictState::PossibleDuplicate,
            shard::VerdictKind::NotComparable => workflow::VerdictState::NotComparable,
        },
        candidates: verdict.candidates.iter().map(candidate).collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: workflow::Coverage {
            shards: verdict.coverage.shards.iter().map(part).collect(),
            live: verdict.coverage.live,
            compared: verdict.coverage.compared,
        },
        policy_version: verdict.policy_version,
        round: verdict.round,
        settled_at_ms: verdict.settled_at_ms,
    }
}

/// A verdict as a history has it.
pub(crate) fn verdict_seen(verdict: &workflow::Verdict) -> VerdictSeen {
    let part = |one: &workflow::ShardCoverage| ShardSeen {
        shard: one.shard,
        searchable_index: one.searchable_index.0,
        compared: one.compared,
        not_comparable: one.not_comparable,
        withdrawn: one.withdrawn,
    };
    VerdictSeen {
        round: verdict.round,
        state: match verdict.state {
            workflow::VerdictState::Unique => State::Unique,
            workflow::VerdictState::PossibleDuplicate => State::PossibleDuplicate,
            workflow::VerdictState::NotComparable => State::NotComparable,
        },
        candidates: verdict.candidates.iter().map(|one| one.enrolment_id.clone()).collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: verdict.coverage.shards.iter().map(part).collect(),
        live: verdict.coverage.live,
        compared: verdict.coverage.compared,
    }
}

/// A verdict on record as a history has it.
pub(crate) fn verdict_recorded(verdict: &shard::Verdict) -> VerdictSeen {
    verdict_seen(&verdict_to_workflow(verdict))
}

/// A record as a history has it.
pub(crate) fn record_seen(record: &workflow::EnrolmentRecord) -> RecordSeen {
    RecordSeen {
        state: match record.state {
            workflow::EnrolmentState::Staged => State::Staged,
            workflow::EnrolmentState::Unique => State::Unique,
            workflow::EnrolmentState::PossibleDuplicate => State::PossibleDuplicate,
            workflow::EnrolmentState::NotComparable => State::NotComparable,
            workflow::EnrolmentState::Withdrawn => State::Withdrawn,
        },
        shard: record.shard,
        stage_index: record.stage_index.0,
        policy_version: record.policy_version.0,
        verdict: record.verdict.as_ref().map(verdict_seen),
        case_ids: record.case_ids.iter().cloned().collect(),
    }
}
