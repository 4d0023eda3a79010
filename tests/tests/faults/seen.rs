//! What came over the wire, in the words of a history.

use semel_index::{EnrolmentId, GalleryId, ShardId};
use semel_proto::v1::{
    Case, CaseState, Enrolment, EnrolmentState, GetClusterStatusResponse, IdentifyResponse, ReplicaRole, Verdict,
    identify_response,
};
use semel_simulation::history::{CaseSeen, RecordSeen, ReplicaSeen, ShardSeen, State, Told, VerdictSeen};

pub(crate) fn enrolment_id(id: &str) -> EnrolmentId {
    EnrolmentId::try_from(id).expect("a cluster returns ids that it accepted")
}

fn state(state: EnrolmentState) -> State {
    match state {
        EnrolmentState::Staged => State::Staged,
        EnrolmentState::Unique => State::Unique,
        EnrolmentState::PossibleDuplicate => State::PossibleDuplicate,
        EnrolmentState::NotComparable => State::NotComparable,
        EnrolmentState::Withdrawn => State::Withdrawn,
        EnrolmentState::Unspecified => panic!("an enrolment in no state"),
    }
}

pub(crate) fn record(enrolment: &Enrolment) -> RecordSeen {
    RecordSeen {
        state: state(enrolment.state()),
        shard: ShardId(enrolment.shard),
        stage_index: enrolment.stage_index,
        policy_version: enrolment.policy_version,
        verdict: enrolment.verdict.as_ref().map(verdict),
        case_ids: enrolment.case_ids.iter().cloned().collect(),
    }
}

fn verdict(verdict: &Verdict) -> VerdictSeen {
    let coverage = verdict.coverage.as_ref().expect("a verdict has its evidence");
    let part = |shard: &semel_proto::v1::ShardCoverage| ShardSeen {
        shard: ShardId(shard.shard),
        searchable_index: shard.searchable_index,
        compared: shard.compared,
        not_comparable: shard.not_comparable,
        withdrawn: shard.withdrawn,
    };
    VerdictSeen {
        round: verdict.round,
        state: state(verdict.state()),
        candidates: verdict.candidates.iter().map(|candidate| enrolment_id(&candidate.enrolment_id)).collect(),
        candidates_total: verdict.candidates_total,
        saturated: verdict.saturated,
        coverage: coverage.shards.iter().map(part).collect(),
        live: coverage.live,
        compared: coverage.compared,
    }
}

pub(crate) fn identification(answer: IdentifyResponse) -> Told {
    match answer.outcome.expect("an answer has an outcome") {
        identify_response::Outcome::Complete(complete) => Told::Candidates {
            saturated: complete.candidates_total > complete.candidates.len() as u64,
            candidates: complete.candidates.iter().map(|candidate| enrolment_id(&candidate.enrolment_id)).collect(),
            missing: Vec::new(),
        },
        identify_response::Outcome::Incomplete(incomplete) => {
            let missing: Vec<ShardId> = incomplete.missing_shards.into_iter().map(ShardId).collect();
            assert!(!missing.is_empty(), "an incomplete identification names what it lacks");
            Told::Candidates { candidates: Vec::new(), saturated: false, missing }
        }
    }
}

pub(crate) fn case(gallery: &GalleryId, case: &Case) -> CaseSeen {
    let mut pair = case.enrolment_ids.iter().map(|id| enrolment_id(id));
    CaseSeen {
        case_id: case.case_id.clone(),
        gallery: gallery.clone(),
        subject: (pair.next().expect("a case is of somebody"), pair.next()),
        open: case.state() == CaseState::Open,
        opened_by: case.opened_by.iter().map(|id| enrolment_id(id)).collect(),
    }
}

/// Every replica that was heard of.
pub(crate) fn replicas(status: &GetClusterStatusResponse) -> impl Iterator<Item = ReplicaSeen> {
    let of = |shard: u32| {
        move |replica: &semel_proto::v1::ReplicaStatus| ReplicaSeen {
            group: u64::from(shard),
            replica: replica.replica,
            applied: replica.applied_index,
            // Its 32 hexadecimal digits.
            digest: replica.digest.clone(),
        }
    };
    status.shards.iter().flat_map(move |shard| {
        let heard = shard.replicas.iter().filter(|replica| replica.role() != ReplicaRole::Unspecified);
        heard.map(of(shard.shard))
    })
}
