//! Commands.

use bytes::Bytes;
use semel_index::{KeyVersion, PolicyVersion, ShardCount};
use semel_raft::LogIndex;

use super::part;
use super::{DecodeError, decode, encode};
use crate::bounds::{OBLIGATIONS_DISCHARGED_MAX, REASON_BYTES_MAX, SUBJECT_ID_BYTES_MAX};
use crate::command::{Command, Discharge, LinkCase, MootCase, NoteMoot, OpenCase, Settle, Stage, Withdraw};
use crate::obligation::ObligationId;
use crate::v1::command as v1;

pub(crate) fn encode_command(command: &Command) -> Bytes {
    encode(&command_to_v1(command))
}

pub(crate) fn decode_command(bytes: &[u8]) -> Result<Command, DecodeError> {
    command(decode(bytes)?)
}

pub(super) fn command_to_v1(command: &Command) -> v1::Command {
    let kind = match command {
        Command::Stage(stage) => v1::Kind::Stage(stage_to_v1(stage)),
        Command::Settle(settle) => v1::Kind::Settle(settle_to_v1(settle)),
        Command::Withdraw(withdraw) => v1::Kind::Withdraw(v1::Withdraw {
            gallery: withdraw.gallery.to_string(),
            enrolment_id: withdraw.enrolment_id.to_string(),
            reason: withdraw.reason.clone(),
        }),
        Command::OpenCase(open) => v1::Kind::OpenCase(v1::OpenCase {
            gallery: open.gallery.to_string(),
            opened_by: open.opened_by.to_string(),
            candidate: open.candidate.to_string(),
            comparisons: part::comparisons_to_v1(&open.comparisons),
            opened_at_ms: open.opened_at_ms,
        }),
        Command::LinkCase(link) => v1::Kind::LinkCase(v1::LinkCase {
            gallery: link.gallery.to_string(),
            enrolment_id: link.enrolment_id.to_string(),
            other_enrolment_id: link.other_enrolment_id.to_string(),
        }),
        Command::MootCase(moot) => v1::Kind::MootCase(v1::MootCase {
            gallery: moot.gallery.to_string(),
            withdrawn: moot.withdrawn.to_string(),
            other_enrolment_id: moot.other_enrolment_id.to_string(),
        }),
        Command::NoteMoot(note) => v1::Kind::NoteMoot(v1::NoteMoot {
            gallery: note.gallery.to_string(),
            enrolment_id: note.enrolment_id.to_string(),
            withdrawn: note.withdrawn.to_string(),
        }),
        Command::Discharge(discharge) => v1::Kind::Discharge(v1::Discharge {
            obligations: discharge.obligations.iter().map(|obligation| obligation.0).collect(),
        }),
    };
    v1::Command { kind: Some(kind) }
}

fn stage_to_v1(stage: &Stage) -> v1::Stage {
    v1::Stage {
        gallery: stage.gallery.to_string(),
        enrolment_id: stage.enrolment_id.to_string(),
        subject_id: stage.subject_id.clone(),
        references: stage.references.iter().map(part::reference_to_v1).collect(),
        provenance: Some(part::provenance_to_v1(&stage.provenance)),
        policy_version: stage.policy_version.0,
        key_version: stage.key_version.0,
        content_digest: stage.content_digest.0.to_vec(),
        received_at_ms: stage.received_at_ms,
    }
}

fn settle_to_v1(settle: &Settle) -> v1::Settle {
    v1::Settle {
        gallery: settle.gallery.to_string(),
        enrolment_id: settle.enrolment_id.to_string(),
        stage_index: settle.stage_index.0,
        content_digest: settle.content_digest.0.to_vec(),
        verdict: Some(part::verdict_to_v1(&settle.verdict)),
        shards_count: settle.shards_count.get(),
    }
}

pub(super) fn command(command: v1::Command) -> Result<Command, DecodeError> {
    let command = match part::present("command", command.kind)? {
        v1::Kind::Stage(given) => Command::Stage(stage(given)?),
        v1::Kind::Settle(given) => Command::Settle(settle(given)?),
        v1::Kind::Withdraw(given) => Command::Withdraw(Withdraw {
            gallery: part::gallery_id(&given.gallery)?,
            enrolment_id: part::enrolment_id(&given.enrolment_id)?,
            reason: part::text("reason", given.reason, 1, REASON_BYTES_MAX)?,
        }),
        v1::Kind::OpenCase(given) => Command::OpenCase(OpenCase {
            gallery: part::gallery_id(&given.gallery)?,
            opened_by: part::enrolment_id(&given.opened_by)?,
            candidate: part::enrolment_id(&given.candidate)?,
            comparisons: part::comparisons(given.comparisons)?,
            opened_at_ms: given.opened_at_ms,
        }),
        v1::Kind::LinkCase(given) => Command::LinkCase(LinkCase {
            gallery: part::gallery_id(&given.gallery)?,
            enrolment_id: part::enrolment_id(&given.enrolment_id)?,
            other_enrolment_id: part::enrolment_id(&given.other_enrolment_id)?,
        }),
        v1::Kind::MootCase(given) => Command::MootCase(MootCase {
            gallery: part::gallery_id(&given.gallery)?,
            withdrawn: part::enrolment_id(&given.withdrawn)?,
            other_enrolment_id: part::enrolment_id(&given.other_enrolment_id)?,
        }),
        v1::Kind::NoteMoot(given) => Command::NoteMoot(NoteMoot {
            gallery: part::gallery_id(&given.gallery)?,
            enrolment_id: part::enrolment_id(&given.enrolment_id)?,
            withdrawn: part::enrolment_id(&given.withdrawn)?,
        }),
        v1::Kind::Discharge(given) => Command::Discharge(Discharge {
            obligations: part::list("obligations", given.obligations, (0, OBLIGATIONS_DISCHARGED_MAX), |id| {
                Ok(ObligationId(id))
            })?,
        }),
    };
    if command.names_one_enrolment_twice() {
        return Err(DecodeError::Repeated { field: "enrolments of the case" });
    }
    Ok(command)
}

fn stage(stage: v1::Stage) -> Result<Stage, DecodeError> {
    Ok(Stage {
        gallery: part::gallery_id(&stage.gallery)?,
        enrolment_id: part::enrolment_id(&stage.enrolment_id)?,
        subject_id: part::text("subject_id", stage.subject_id, 0, SUBJECT_ID_BYTES_MAX)?,
        references: part::references(stage.references)?,
        provenance: part::provenance(stage.provenance.unwrap_or_default())?,
        policy_version: PolicyVersion(stage.policy_version),
        key_version: KeyVersion(stage.key_version),
        content_digest: part::content_digest(&stage.content_digest)?,
        received_at_ms: stage.received_at_ms,
    })
}

fn settle(settle: v1::Settle) -> Result<Settle, DecodeError> {
    let shards_count = ShardCount::new(settle.shards_count);
    Ok(Settle {
        gallery: part::gallery_id(&settle.gallery)?,
        enrolment_id: part::enrolment_id(&settle.enrolment_id)?,
        stage_index: LogIndex(settle.stage_index),
        content_digest: part::content_digest(&settle.content_digest)?,
        verdict: part::verdict(part::present("verdict", settle.verdict)?)?,
        shards_count: shards_count
            .ok_or(DecodeError::Value { field: "shards_count", found: i64::from(settle.shards_count) })?,
    })
}
