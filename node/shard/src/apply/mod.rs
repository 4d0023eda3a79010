//! What a command does. Integer logic over the command and the rows: no clock, no randomness, no floating point.
//!
//! Every handler first decides whether the command keeps the rules, then changes rows: a refusal has changed nothing.
//! Every handler looks at what is recorded before it changes anything, so that a command applied twice changes nothing
//! the second time.

mod cases;
mod enrolments;
mod links;
mod settle;

use semel_index::{EnrolmentId, GalleryId, shard_of};
use semel_raft::{Applied, LogIndex, State, StoreError};

use crate::command::{Command, Discharge};
use crate::machine::ShardMachine;
use crate::publication::Publication;
use crate::receipt::{Receipt, Refusal};
use crate::rows::{EnrolmentEntry, Read};
use crate::table;
use crate::transition::Transition;

pub(crate) use enrolments::staged_publication;

/// What a handler answers.
enum Answer {
    /// The record of the enrolment that the command is about, as it now stands.
    Record,
    /// Done, now or before.
    Done,
    /// Nothing changed.
    Refused(Refusal),
}

/// Applies the command at `index`.
pub(crate) fn apply(
    machine: &ShardMachine,
    index: LogIndex,
    bytes: &[u8],
    state: &mut dyn State,
) -> Result<Applied<Receipt, Publication>, StoreError> {
    let Ok(command) = Command::decode(bytes) else { return Ok(refused(Refusal::Malformed)) };
    if let Some((gallery, enrolment)) = command.addressee()
        && shard_of(gallery, enrolment, machine.shards()) != machine.shard()
    {
        return Ok(refused(Refusal::WrongShard));
    }
    let mut transition = Transition::begin(state, index, bytes)?;
    let answer = match &command {
        Command::Stage(stage) => enrolments::stage(machine, &mut transition, stage)?,
        Command::Settle(settle) => settle::settle(machine, &mut transition, settle)?,
        Command::Withdraw(withdraw) => enrolments::withdraw(&mut transition, withdraw)?,
        Command::OpenCase(open) => cases::open(&mut transition, open)?,
        Command::LinkCase(link) => links::link(&mut transition, link)?,
        Command::MootCase(moot) => cases::moot(&mut transition, moot)?,
        Command::NoteMoot(note) => links::note_moot(&mut transition, note)?,
        Command::Discharge(Discharge { obligations }) => {
            for obligation in obligations {
                transition.discharge(*obligation)?;
            }
            Answer::Done
        }
    };
    let record = match (&answer, command.addressee()) {
        (Answer::Record, Some((gallery, enrolment))) => transition.record(gallery, enrolment)?,
        (Answer::Record, None) | (Answer::Done | Answer::Refused(_), _) => None,
    };
    assert!(!matches!(answer, Answer::Refused(_)) || !transition.has_changes(), "a refused command changes nothing");
    let left = transition.finish()?;
    let receipt = match answer {
        Answer::Record => Receipt::Enrolment {
            record: Box::new(record.expect("the handler found or wrote the enrolment's row")),
            obligations: left.obligations,
        },
        Answer::Done => Receipt::Done { obligations: left.obligations },
        Answer::Refused(refusal) => Receipt::Refused(refusal),
    };
    Ok(Applied { receipt, publications: left.publications })
}

fn refused(refusal: Refusal) -> Applied<Receipt, Publication> {
    Applied { receipt: Receipt::Refused(refusal), publications: Vec::new() }
}

fn entry(
    transition: &Transition<'_>,
    gallery: &GalleryId,
    enrolment: &EnrolmentId,
) -> Result<Option<EnrolmentEntry>, StoreError> {
    transition.row(&table::enrolment(gallery, enrolment))
}

fn put_entry(transition: &mut Transition<'_>, entry: &EnrolmentEntry) -> Result<(), StoreError> {
    transition.put(table::enrolment(&entry.record.gallery, &entry.record.enrolment_id), entry)
}
