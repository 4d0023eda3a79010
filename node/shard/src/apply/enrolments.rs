//! Staging and withdrawing an enrolment.

use semel_index::StagedReference;
use semel_raft::StoreError;
use semel_raft::mutant::Mutant;

use super::{Answer, entry, links, put_entry};
use crate::audit::AuditEvent;
use crate::case::{Case, CaseState, CaseSubject};
use crate::command::{Stage, Withdraw};
use crate::enrolment::{CanonicalReference, EnrolmentRecord, EnrolmentState};
use crate::machine::ShardMachine;
use crate::publication::{Publication, Totals};
use crate::receipt::Refusal;
use crate::rows::{EnrolmentEntry, Link, Read, ReferencesEntry};
use crate::table;
use crate::transition::Transition;
use crate::view::PendingEnrolment;

/// The first round.
const ROUND_FIRST: u32 = 1;

/// Records an enrolment. The id is taken for ever: the same content gives the record as it stands, other content is refused.
pub(super) fn stage(
    machine: &ShardMachine,
    transition: &mut Transition<'_>,
    stage: &Stage,
) -> Result<Answer, StoreError> {
    if let Some(existing) = entry(transition, &stage.gallery, &stage.enrolment_id)? {
        let same = existing.record.content_digest == stage.content_digest || Mutant::OtherContentAccepted.is_chosen();
        return Ok(if same { Answer::Record } else { Answer::Refused(Refusal::OtherContent) });
    }
    let staged = EnrolmentEntry {
        record: new_record(machine, transition, stage),
        verdict_round: 0,
        cases_open: 0,
        moot_from: None,
    };
    put_entry(transition, &staged)?;
    let references = ReferencesEntry {
        stage_index: transition.index(),
        gallery: stage.gallery.clone(),
        enrolment_id: stage.enrolment_id.clone(),
        key_version: stage.key_version,
        references: stage.references.clone(),
    };
    transition.put(table::staged_at(references.stage_index), &references)?;
    put_pending(transition, &staged.record)?;
    let counts = transition.count(&stage.gallery, |counts| {
        counts.staged_total += 1;
        counts.pending += 1;
    })?;
    transition.audit(AuditEvent::Staged, &stage.gallery, &stage.enrolment_id, None);
    transition.publish(staged_publication(references, counts.totals()));
    Ok(Answer::Record)
}

fn new_record(machine: &ShardMachine, transition: &Transition<'_>, stage: &Stage) -> EnrolmentRecord {
    EnrolmentRecord {
        gallery: stage.gallery.clone(),
        enrolment_id: stage.enrolment_id.clone(),
        subject_id: stage.subject_id.clone(),
        state: EnrolmentState::Staged,
        verdict: None,
        provenance: stage.provenance.clone(),
        shard: machine.shard(),
        stage_index: transition.index(),
        received_at_ms: stage.received_at_ms + clock_in_apply(),
        policy_version: stage.policy_version,
        key_version: stage.key_version,
        content_digest: stage.content_digest,
        round: ROUND_FIRST,
        round_index: transition.index(),
        references: stage.references.iter().map(CanonicalReference::summary).collect(),
        withdrawal_reason: None,
        case_ids: Vec::new(),
        cases_total: 0,
    }
}

/// Nothing, but for a defect.
fn clock_in_apply() -> i64 {
    if Mutant::ClockInApply.is_chosen() { semel_raft::mutant::draw() } else { 0 }
}

/// What a catalogue learns of an enrolment.
pub(crate) fn staged_publication(references: ReferencesEntry, totals: Totals) -> Publication {
    let published = |reference: CanonicalReference| StagedReference {
        slot: reference.slot,
        spec: reference.spec,
        template: reference.template,
    };
    Publication::Staged {
        gallery: references.gallery,
        enrolment_id: references.enrolment_id,
        key_version: references.key_version,
        references: references.references.into_iter().map(published).collect(),
        totals,
    }
}

/// Notes that the enrolment waits for the verdict of its round.
pub(super) fn put_pending(transition: &mut Transition<'_>, record: &EnrolmentRecord) -> Result<(), StoreError> {
    let pending = PendingEnrolment {
        gallery: record.gallery.clone(),
        enrolment_id: record.enrolment_id.clone(),
        stage_index: record.stage_index,
        round: record.round,
    };
    transition.put(table::staged_at(record.stage_index), &pending)
}

/// Withdraws an enrolment, in whatever state it is, and begins to make its cases moot. The first reason stays.
pub(super) fn withdraw(transition: &mut Transition<'_>, withdraw: &Withdraw) -> Result<Answer, StoreError> {
    let Some(mut withdrawn) = entry(transition, &withdraw.gallery, &withdraw.enrolment_id)? else {
        return Ok(Answer::Refused(Refusal::NoSuchEnrolment));
    };
    if withdrawn.record.state == EnrolmentState::Withdrawn {
        return Ok(Answer::Record);
    }
    let was_pending = transition.delete(table::PENDING, table::staged_at(withdrawn.record.stage_index))?;
    let counts = transition.count(&withdraw.gallery, |counts| {
        counts.withdrawn_total += 1;
        counts.pending -= u64::from(was_pending);
    })?;
    withdrawn.record.state = EnrolmentState::Withdrawn;
    withdrawn.record.withdrawal_reason = Some(withdraw.reason.clone());
    transition.audit(AuditEvent::Withdrawn, &withdraw.gallery, &withdraw.enrolment_id, None);
    moot_cluster_case(transition, &mut withdrawn)?;
    links::moot_cases(transition, &mut withdrawn, None)?;
    put_entry(transition, &withdrawn)?;
    transition.publish(Publication::Withdrawn {
        gallery: withdraw.gallery.clone(),
        enrolment_id: withdraw.enrolment_id.clone(),
        totals: counts.totals(),
    });
    Ok(Answer::Record)
}

/// A cluster case lives beside its one enrolment, so it becomes moot with it.
fn moot_cluster_case(transition: &mut Transition<'_>, withdrawn: &mut EnrolmentEntry) -> Result<(), StoreError> {
    let (gallery, enrolment) = (withdrawn.record.gallery.clone(), withdrawn.record.enrolment_id.clone());
    let link_key = table::link(&gallery, &enrolment, None);
    let Some(link) = transition.row::<Link>(&link_key)? else { return Ok(()) };
    transition.put(link_key, &Link { moot: true, ..link })?;
    withdrawn.cases_open -= 1;
    let case_key = table::case(&gallery, CaseSubject::Cluster(enrolment.clone()).case_id(&gallery));
    let case = transition.row::<Case>(&case_key)?.expect("a cluster case is written with its link");
    transition.audit(AuditEvent::CaseMooted, &gallery, &enrolment, None);
    transition.put(case_key, &Case { state: CaseState::Moot { withdrawn: enrolment }, ..case })
}
