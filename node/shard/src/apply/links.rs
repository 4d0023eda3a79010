//! What an enrolment knows of its cases, in its own shard: which name it, which are moot, and what follows.

use semel_index::{EnrolmentId, GalleryId};
use semel_raft::StoreError;

use super::enrolments::put_pending;
use super::{Answer, entry, put_entry};
use crate::audit::AuditEvent;
use crate::bounds::CASES_MOOTED_MAX;
use crate::case::{CaseId, CaseSubject};
use crate::command::{Command, LinkCase, MootCase, NoteMoot};
use crate::enrolment::EnrolmentState;
use crate::publication::Publication;
use crate::receipt::Refusal;
use crate::rows::{EnrolmentEntry, Link, Read};
use crate::table;
use crate::transition::Transition;
use crate::verdict::Verdict;

/// Notes a case with one of its enrolments; a withdrawn one answers by making the case moot.
pub(super) fn link(transition: &mut Transition<'_>, link: &LinkCase) -> Result<Answer, StoreError> {
    let Some(mut linked) = entry(transition, &link.gallery, &link.enrolment_id)? else {
        return Ok(Answer::Refused(Refusal::NoSuchEnrolment));
    };
    let other = &link.other_enrolment_id;
    let key = table::link(&link.gallery, &link.enrolment_id, Some(other));
    if linked.moot_from.as_ref() == Some(other) {
        moot_cases(transition, &mut linked, Some(other))?;
        put_entry(transition, &linked)?;
    } else if transition.row::<Link>(&key)?.is_none() {
        let moot = linked.record.state == EnrolmentState::Withdrawn;
        let case_id = case_id(&link.gallery, &link.enrolment_id, other);
        transition.put(key, &Link { case_id, moot })?;
        linked.record.cases_total += 1;
        linked.cases_open += u64::from(!moot);
        put_entry(transition, &linked)?;
        transition.audit(AuditEvent::CaseLinked, &link.gallery, &link.enrolment_id, Some(other));
        if moot {
            oblige_to_moot(transition, &linked, other.clone());
        }
    }
    Ok(Answer::Done)
}

/// Makes the open cases of a withdrawn enrolment moot, at most [`CASES_MOOTED_MAX`] of them, beginning with `from`.
/// Where more follow, the enrolment owes itself the next step; `moot_from` says which step that is, so that a step
/// taken already is not taken again. The caller writes the entry.
pub(super) fn moot_cases(
    transition: &mut Transition<'_>,
    withdrawn: &mut EnrolmentEntry,
    from: Option<&EnrolmentId>,
) -> Result<(), StoreError> {
    let (gallery, enrolment) = (withdrawn.record.gallery.clone(), withdrawn.record.enrolment_id.clone());
    let range = table::links_of(&gallery, &enrolment, from);
    let mut links = transition.rows::<Link>(&range, CASES_MOOTED_MAX + 1)?;
    let next = if links.len() > CASES_MOOTED_MAX { links.pop() } else { None };
    for (key, link) in links.into_iter().filter(|(_, link)| !link.moot) {
        let other = table::link_other(&key).expect("the link of a cluster case is moot by now");
        transition.put(key, &Link { moot: true, ..link })?;
        withdrawn.cases_open -= 1;
        oblige_to_moot(transition, withdrawn, other);
    }
    withdrawn.moot_from = next.and_then(|(key, _)| table::link_other(&key));
    if let Some(next) = &withdrawn.moot_from {
        let (gallery, other_enrolment_id) = (gallery.clone(), next.clone());
        transition.oblige(Command::LinkCase(LinkCase { gallery, enrolment_id: enrolment, other_enrolment_id }));
    }
    Ok(())
}

fn oblige_to_moot(transition: &mut Transition<'_>, withdrawn: &EnrolmentEntry, other_enrolment_id: EnrolmentId) {
    transition.oblige(Command::MootCase(MootCase {
        gallery: withdrawn.record.gallery.clone(),
        withdrawn: withdrawn.record.enrolment_id.clone(),
        other_enrolment_id,
    }));
}

/// Notes that a case is moot. If that leaves a possible duplicate without any case to look at, it is searched anew.
pub(super) fn note_moot(transition: &mut Transition<'_>, note: &NoteMoot) -> Result<Answer, StoreError> {
    let Some(mut told) = entry(transition, &note.gallery, &note.enrolment_id)? else {
        return Ok(Answer::Refused(Refusal::NoSuchEnrolment));
    };
    let key = table::link(&note.gallery, &note.enrolment_id, Some(&note.withdrawn));
    // The note may overtake the link of the same case: then it is the link.
    let before = transition.row::<Link>(&key)?;
    if before.is_none_or(|link| !link.moot) {
        let case_id = case_id(&note.gallery, &note.enrolment_id, &note.withdrawn);
        transition.put(key, &Link { case_id, moot: true })?;
        match before {
            Some(_) => told.cases_open -= 1,
            None => told.record.cases_total += 1,
        }
        put_entry(transition, &told)?;
        transition.audit(AuditEvent::MootNoted, &note.gallery, &note.enrolment_id, Some(&note.withdrawn));
    }
    if has_only_moot_cases(transition, &told)? {
        stage_anew(transition, told)?;
    }
    Ok(Answer::Done)
}

/// Whether the enrolment waits for a person who has nothing left to look at: it is a possible duplicate, every case that
/// names it is moot, and so is the case of every candidate of its latest verdict (one that is not linked yet is not).
fn has_only_moot_cases(transition: &Transition<'_>, told: &EnrolmentEntry) -> Result<bool, StoreError> {
    let record = &told.record;
    if record.state != EnrolmentState::PossibleDuplicate || told.cases_open > 0 {
        return Ok(false);
    }
    let key = table::verdict(&record.gallery, &record.enrolment_id, told.verdict_round);
    let verdict = transition.row::<Verdict>(&key)?.expect("a possible duplicate has a verdict");
    for candidate in &verdict.candidates {
        let key = table::link(&record.gallery, &record.enrolment_id, Some(&candidate.enrolment_id));
        if transition.row::<Link>(&key)?.is_none_or(|link| !link.moot) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Begins another round. The enrolment stays where it is in every catalogue; the verdicts of earlier rounds stay recorded.
fn stage_anew(transition: &mut Transition<'_>, mut told: EnrolmentEntry) -> Result<(), StoreError> {
    told.record.state = EnrolmentState::Staged;
    told.record.round = told.record.round.checked_add(1).expect("each round takes a withdrawal, and ids are fewer");
    told.record.round_index = transition.index();
    put_pending(transition, &told.record)?;
    transition.count(&told.record.gallery, |counts| counts.pending += 1)?;
    transition.audit(AuditEvent::StagedAnew, &told.record.gallery, &told.record.enrolment_id, None);
    put_entry(transition, &told)?;
    transition.publish(Publication::Changed { gallery: told.record.gallery, enrolment_id: told.record.enrolment_id });
    Ok(())
}

fn case_id(gallery: &GalleryId, one: &EnrolmentId, other: &EnrolmentId) -> CaseId {
    CaseSubject::pair(one, other).expect("a decoded command names two enrolments").case_id(gallery)
}
