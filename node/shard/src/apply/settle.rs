//! Settling a verdict. The first settle of a round wins; what it names is opened through obligations.

use semel_raft::StoreError;
use semel_raft::mutant::Mutant;

use super::enrolments::put_pending;
use super::{Answer, entry, put_entry};
use crate::audit::AuditEvent;
use crate::case::{Case, CaseState, CaseSubject};
use crate::command::{Command, OpenCase, Settle};
use crate::enrolment::{EnrolmentRecord, EnrolmentState};
use crate::machine::ShardMachine;
use crate::publication::Publication;
use crate::receipt::Refusal;
use crate::rows::{EnrolmentEntry, Link};
use crate::table;
use crate::transition::Transition;

/// Records a verdict if the enrolment waits for it; otherwise what is recorded stays and is returned.
pub(super) fn settle(
    machine: &ShardMachine,
    transition: &mut Transition<'_>,
    settle: &Settle,
) -> Result<Answer, StoreError> {
    let Some(mut settled) = entry(transition, &settle.gallery, &settle.enrolment_id)? else {
        return Ok(Answer::Refused(Refusal::NoSuchEnrolment));
    };
    if !is_for_what_was_staged(machine, settle, &settled.record) || settle.verdict.round > settled.record.round {
        return Ok(Answer::Refused(Refusal::NotWhatWasStaged));
    }
    if Mutant::SecondSettleWins.is_chosen() {
        stage_again(transition, &mut settled, settle)?;
    }
    if settled.record.state != EnrolmentState::Staged || settle.verdict.round < settled.record.round {
        return Ok(Answer::Record);
    }
    // A search that did not see the shard up to where the round began may have missed a mate staged before, or found
    // one whose withdrawal began the round.
    let seen_up_to = settle.verdict.coverage.searchable_index(machine.shard());
    if seen_up_to.is_none_or(|index| index < settled.record.round_index) {
        return Ok(Answer::Refused(Refusal::NotWhatWasStaged));
    }
    settled.record.state = settle.verdict.kind.state();
    settled.verdict_round = settled.record.round;
    transition.put(table::verdict(&settle.gallery, &settle.enrolment_id, settled.verdict_round), &settle.verdict)?;
    let was_pending = transition.delete(table::PENDING, table::staged_at(settled.record.stage_index))?;
    assert!(was_pending, "a staged enrolment is pending");
    transition.count(&settle.gallery, |counts| counts.pending -= 1)?;
    transition.audit(AuditEvent::Settled, &settle.gallery, &settle.enrolment_id, None);
    open_cases(transition, settle);
    if settle.verdict.saturated {
        open_cluster_case(transition, settle, &mut settled)?;
    }
    put_entry(transition, &settled)?;
    transition
        .publish(Publication::Changed { gallery: settle.gallery.clone(), enrolment_id: settle.enrolment_id.clone() });
    Ok(Answer::Record)
}

/// Of a defect: undoes the settle of the same round.
fn stage_again(
    transition: &mut Transition<'_>,
    settled: &mut EnrolmentEntry,
    settle: &Settle,
) -> Result<(), StoreError> {
    let decided = !matches!(settled.record.state, EnrolmentState::Staged | EnrolmentState::Withdrawn);
    if decided && settled.verdict_round == settle.verdict.round {
        settled.record.state = EnrolmentState::Staged;
        put_pending(transition, &settled.record)?;
        transition.count(&settle.gallery, |counts| counts.pending += 1)?;
    }
    Ok(())
}

/// Whether the evidence is complete and coherent, and of the enrolment that is recorded.
fn is_for_what_was_staged(machine: &ShardMachine, settle: &Settle, record: &EnrolmentRecord) -> bool {
    settle.stage_index == record.stage_index
        && settle.content_digest == record.content_digest
        && settle.verdict.policy_version == record.policy_version
        && settle.verdict.round > 0
        && settle.shards_count == machine.shards()
        && (settle.verdict.coverage.is_complete(machine.shards()) || Mutant::CoverageIncomplete.is_chosen())
        && settle.verdict.is_coherent(&record.enrolment_id)
}

/// Settling and opening cannot be atomic across shards, so the settle commits what it owes in the same entry.
fn open_cases(transition: &mut Transition<'_>, settle: &Settle) {
    for candidate in settle.verdict.candidates_with_case() {
        transition.oblige(Command::OpenCase(OpenCase {
            gallery: settle.gallery.clone(),
            opened_by: settle.enrolment_id.clone(),
            candidate: candidate.enrolment_id.clone(),
            comparisons: candidate.comparisons.clone(),
            opened_at_ms: settle.verdict.settled_at_ms,
        }));
    }
}

/// Stands for the candidates that got no case of their own. It stays open until its enrolment is withdrawn, which keeps
/// the enrolment from being searched anew: there were more candidates than anybody can know to be gone.
fn open_cluster_case(
    transition: &mut Transition<'_>,
    settle: &Settle,
    settled: &mut EnrolmentEntry,
) -> Result<(), StoreError> {
    let subject = CaseSubject::Cluster(settle.enrolment_id.clone());
    let case_id = subject.case_id(&settle.gallery);
    let case = Case {
        case_id,
        gallery: settle.gallery.clone(),
        subject,
        state: CaseState::Open,
        comparisons: Vec::new(),
        opened_by: vec![settle.enrolment_id.clone()],
        opened_at_ms: settle.verdict.settled_at_ms,
    };
    transition.put(table::case(&settle.gallery, case_id), &case)?;
    let link_key = table::link(&settle.gallery, &settle.enrolment_id, None);
    transition.put(link_key, &Link { case_id, moot: false })?;
    settled.record.cases_total += 1;
    settled.cases_open += 1;
    transition.count(&settle.gallery, |counts| counts.cases += 1)?;
    transition.audit(AuditEvent::CaseOpened, &settle.gallery, &settle.enrolment_id, None);
    Ok(())
}
