//! A case, in the shard of its smaller id: opening it and making it moot.

use semel_index::EnrolmentId;
use semel_raft::StoreError;
use semel_raft::mutant::Mutant;

use super::Answer;
use crate::audit::AuditEvent;
use crate::case::{Case, CaseId, CaseState, CaseSubject};
use crate::command::{Command, LinkCase, MootCase, NoteMoot, OpenCase};
use crate::rows::Read;
use crate::table;
use crate::transition::Transition;

/// Opens the case of a pair, or notes that the other enrolment's verdict named it too.
pub(super) fn open(transition: &mut Transition<'_>, open: &OpenCase) -> Result<Answer, StoreError> {
    let subject = CaseSubject::pair(&open.opened_by, &open.candidate).expect("a decoded command names two enrolments");
    let case_id = case_id(open, &subject);
    match transition.row::<Case>(&table::case(&open.gallery, case_id))? {
        None => create(transition, open, subject, case_id)?,
        Some(case) if case.opened_by.contains(&open.opened_by) => {}
        Some(case) => name_again(transition, open, case)?,
    }
    Ok(Answer::Done)
}

fn case_id(open: &OpenCase, subject: &CaseSubject) -> CaseId {
    if Mutant::CaseOfOrderedPair.is_chosen() && open.opened_by > open.candidate {
        let ordered = CaseSubject::Pair { smaller: open.opened_by.clone(), larger: open.candidate.clone() };
        return ordered.case_id(&open.gallery);
    }
    subject.case_id(&open.gallery)
}

fn create(
    transition: &mut Transition<'_>,
    open: &OpenCase,
    subject: CaseSubject,
    case_id: CaseId,
) -> Result<(), StoreError> {
    let case = Case {
        case_id,
        gallery: open.gallery.clone(),
        subject,
        state: CaseState::Open,
        comparisons: open.comparisons.clone(),
        opened_by: vec![open.opened_by.clone()],
        opened_at_ms: open.opened_at_ms,
    };
    transition.put(table::case(&case.gallery, case.case_id), &case)?;
    transition.count(&open.gallery, |counts| counts.cases += 1)?;
    transition.audit(AuditEvent::CaseOpened, &open.gallery, &open.opened_by, Some(&open.candidate));
    for (enrolment, other) in [(&open.opened_by, &open.candidate), (&open.candidate, &open.opened_by)] {
        transition.oblige(Command::LinkCase(LinkCase {
            gallery: open.gallery.clone(),
            enrolment_id: enrolment.clone(),
            other_enrolment_id: other.clone(),
        }));
    }
    Ok(())
}

fn name_again(transition: &mut Transition<'_>, open: &OpenCase, mut case: Case) -> Result<(), StoreError> {
    case.opened_by.push(open.opened_by.clone());
    case.opened_by.sort();
    transition.audit(AuditEvent::CaseNamedAgain, &open.gallery, &open.opened_by, Some(&open.candidate));
    // The opener was told that the case is moot before its verdict named the candidate, so it could not weigh it then.
    if let CaseState::Moot { withdrawn } = &case.state
        && *withdrawn != open.opened_by
    {
        oblige_to_note(transition, open, withdrawn.clone());
    }
    transition.put(table::case(&case.gallery, case.case_id), &case)
}

fn oblige_to_note(transition: &mut Transition<'_>, open: &OpenCase, withdrawn: EnrolmentId) {
    transition.oblige(Command::NoteMoot(NoteMoot {
        gallery: open.gallery.clone(),
        enrolment_id: open.opened_by.clone(),
        withdrawn,
    }));
}

/// Makes a case moot and tells the enrolment that was not withdrawn; the withdrawn one knows. A case that does not exist
/// has nobody to tell: enrolments ask for this only after the case was linked, which follows its opening.
pub(super) fn moot(transition: &mut Transition<'_>, moot: &MootCase) -> Result<Answer, StoreError> {
    let subject = CaseSubject::pair(&moot.withdrawn, &moot.other_enrolment_id);
    let subject = subject.expect("a decoded command names two enrolments");
    let case_key = table::case(&moot.gallery, subject.case_id(&moot.gallery));
    let Some(mut case) = transition.row::<Case>(&case_key)?.filter(Case::is_open) else { return Ok(Answer::Done) };
    case.state = CaseState::Moot { withdrawn: moot.withdrawn.clone() };
    transition.put(case_key, &case)?;
    transition.audit(AuditEvent::CaseMooted, &moot.gallery, &moot.withdrawn, Some(&moot.other_enrolment_id));
    transition.oblige(Command::NoteMoot(NoteMoot {
        gallery: moot.gallery.clone(),
        enrolment_id: moot.other_enrolment_id.clone(),
        withdrawn: moot.withdrawn.clone(),
    }));
    Ok(Answer::Done)
}
