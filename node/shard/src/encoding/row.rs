//! Rows.

use bytes::Bytes;
use prost::Message;
use semel_index::{KeyVersion, PolicyVersion, ShardId};
use semel_raft::{LogIndex, StoreError, Table};

use super::command::{command, command_to_v1};
use super::part;
use super::{DecodeError, decode, encode};
use crate::audit::{AuditChain, AuditContent, AuditEntry, AuditHead};
use crate::bounds::{REASON_BYTES_MAX, REFERENCES_MAX, SUBJECT_ID_BYTES_MAX};
use crate::case::{Case, CaseId, CaseState, CaseSubject};
use crate::counts::Counts;
use crate::digest::StateDigest;
use crate::enrolment::EnrolmentRecord;
use crate::obligation::Obligation;
use crate::rows::{EnrolmentEntry, Link, ObligationsCount, ReferencesEntry, damaged};
use crate::table;
use crate::v1::{part as v1_part, row as v1};
use crate::verdict::Verdict;
use crate::view::PendingEnrolment;

/// A value that is kept as a row.
pub(crate) trait StoredRow: Sized {
    /// Where.
    const TABLE: Table;
    /// Its message.
    type V1: Message + Default;

    fn to_v1(&self) -> Self::V1;

    /// What only the key says is taken from there.
    fn from_v1(key: &[u8], row: Self::V1) -> Result<Self, DecodeError>;
}

pub(crate) fn encode_row<R: StoredRow>(row: &R) -> Bytes {
    encode(&row.to_v1())
}

pub(crate) fn decode_row<R: StoredRow>(key: &[u8], value: &[u8]) -> Result<R, DecodeError> {
    R::from_v1(key, decode(value)?)
}

/// Reads a row of any table and writes it again: what a version wrote comes out as it was. For checks of what is stored;
/// typed reads live in `rows` and `view`.
///
/// # Errors
/// The row is damaged, or of a table that a shard does not have.
pub fn rewrite_row(table: Table, key: &[u8], value: &[u8]) -> Result<Bytes, StoreError> {
    let rewritten = match table {
        table::ENROLMENTS => rewrite::<EnrolmentEntry>(key, value),
        table::REFERENCES => rewrite::<ReferencesEntry>(key, value),
        table::VERDICTS => rewrite::<Verdict>(key, value),
        table::CASES => rewrite::<Case>(key, value),
        table::LINKS => rewrite::<Link>(key, value),
        table::OBLIGATIONS => rewrite::<Obligation>(key, value),
        table::PENDING => rewrite::<PendingEnrolment>(key, value),
        table::COUNTS if key == table::DIGEST_KEY => rewrite::<StateDigest>(key, value),
        table::COUNTS if key == table::OBLIGATIONS_COUNT_KEY => rewrite::<ObligationsCount>(key, value),
        table::COUNTS if key == table::AUDIT_HEAD_KEY => rewrite::<AuditHead>(key, value),
        table::COUNTS => rewrite::<Counts>(key, value),
        table::AUDIT => rewrite::<AuditEntry>(key, value),
        _ => return Err(StoreError { table, reason: "not a table of a shard".to_owned() }),
    };
    rewritten.map_err(|error| damaged(table, &error))
}

fn rewrite<R: StoredRow>(key: &[u8], value: &[u8]) -> Result<Bytes, DecodeError> {
    decode_row::<R>(key, value).map(|row| encode_row(&row))
}

fn key_part<T>(part: Option<T>) -> Result<T, DecodeError> {
    part.ok_or(DecodeError::Missing { field: "key" })
}

impl StoredRow for EnrolmentEntry {
    const TABLE: Table = table::ENROLMENTS;
    type V1 = v1::Enrolment;

    fn to_v1(&self) -> v1::Enrolment {
        let record = &self.record;
        v1::Enrolment {
            gallery: record.gallery.to_string(),
            enrolment_id: record.enrolment_id.to_string(),
            subject_id: record.subject_id.clone(),
            state: u32::from(record.state.code()),
            provenance: Some(part::provenance_to_v1(&record.provenance)),
            shard: record.shard.0,
            stage_index: record.stage_index.0,
            received_at_ms: record.received_at_ms,
            policy_version: record.policy_version.0,
            key_version: record.key_version.0,
            content_digest: record.content_digest.0.to_vec(),
            round: record.round,
            round_index: record.round_index.0,
            references: record.references.iter().map(part::summary_to_v1).collect(),
            withdrawal_reason: record.withdrawal_reason.clone(),
            verdict_round: self.verdict_round,
            cases_total: record.cases_total,
            cases_open: self.cases_open,
            moot_from: self.moot_from.as_ref().map(ToString::to_string),
        }
    }

    fn from_v1(_: &[u8], row: v1::Enrolment) -> Result<Self, DecodeError> {
        let reason = |reason| part::text("withdrawal_reason", reason, 1, REASON_BYTES_MAX);
        let record = EnrolmentRecord {
            gallery: part::gallery_id(&row.gallery)?,
            enrolment_id: part::enrolment_id(&row.enrolment_id)?,
            subject_id: part::text("subject_id", row.subject_id, 0, SUBJECT_ID_BYTES_MAX)?,
            state: part::state(row.state)?,
            verdict: None,
            provenance: part::provenance(row.provenance.unwrap_or_default())?,
            shard: ShardId(row.shard),
            stage_index: LogIndex(row.stage_index),
            received_at_ms: row.received_at_ms,
            policy_version: PolicyVersion(row.policy_version),
            key_version: KeyVersion(row.key_version),
            content_digest: part::content_digest(&row.content_digest)?,
            round: row.round,
            round_index: LogIndex(row.round_index),
            references: part::list("references", row.references, (1, REFERENCES_MAX), part::summary)?,
            withdrawal_reason: row.withdrawal_reason.map(reason).transpose()?,
            case_ids: Vec::new(),
            cases_total: row.cases_total,
        };
        Ok(Self {
            record,
            verdict_round: row.verdict_round,
            cases_open: row.cases_open,
            moot_from: row.moot_from.as_deref().map(part::enrolment_id).transpose()?,
        })
    }
}

impl StoredRow for ReferencesEntry {
    const TABLE: Table = table::REFERENCES;
    type V1 = v1::References;

    fn to_v1(&self) -> v1::References {
        v1::References {
            gallery: self.gallery.to_string(),
            enrolment_id: self.enrolment_id.to_string(),
            key_version: self.key_version.0,
            references: self.references.iter().map(part::reference_to_v1).collect(),
        }
    }

    fn from_v1(key: &[u8], row: v1::References) -> Result<Self, DecodeError> {
        Ok(Self {
            stage_index: key_part(table::stage_index(key))?,
            gallery: part::gallery_id(&row.gallery)?,
            enrolment_id: part::enrolment_id(&row.enrolment_id)?,
            key_version: KeyVersion(row.key_version),
            references: part::references(row.references)?,
        })
    }
}

impl StoredRow for Verdict {
    const TABLE: Table = table::VERDICTS;
    type V1 = v1_part::Verdict;

    fn to_v1(&self) -> v1_part::Verdict {
        part::verdict_to_v1(self)
    }

    fn from_v1(_: &[u8], row: v1_part::Verdict) -> Result<Self, DecodeError> {
        part::verdict(row)
    }
}

impl StoredRow for Case {
    const TABLE: Table = table::CASES;
    type V1 = v1::Case;

    fn to_v1(&self) -> v1::Case {
        let (first, second) = match &self.subject {
            CaseSubject::Pair { smaller, larger } => (smaller, Some(larger)),
            CaseSubject::Cluster(enrolment) => (enrolment, None),
        };
        let withdrawn = match &self.state {
            CaseState::Open => None,
            CaseState::Moot { withdrawn } => Some(withdrawn),
        };
        v1::Case {
            gallery: self.gallery.to_string(),
            first: first.to_string(),
            second: second.map(ToString::to_string),
            withdrawn: withdrawn.map(ToString::to_string),
            comparisons: part::comparisons_to_v1(&self.comparisons),
            opened_by: self.opened_by.iter().map(ToString::to_string).collect(),
            opened_at_ms: self.opened_at_ms,
        }
    }

    fn from_v1(_: &[u8], row: v1::Case) -> Result<Self, DecodeError> {
        let gallery = part::gallery_id(&row.gallery)?;
        let first = part::enrolment_id(&row.first)?;
        let subject = match row.second {
            None => CaseSubject::Cluster(first),
            Some(second) => CaseSubject::pair(&first, &part::enrolment_id(&second)?)
                .ok_or(DecodeError::Repeated { field: "enrolments of the case" })?,
        };
        let state = match row.withdrawn {
            None => CaseState::Open,
            Some(withdrawn) => CaseState::Moot { withdrawn: part::enrolment_id(&withdrawn)? },
        };
        Ok(Self {
            case_id: subject.case_id(&gallery),
            gallery,
            subject,
            state,
            comparisons: part::comparisons(row.comparisons)?,
            opened_by: part::list("opened_by", row.opened_by, (1, 2), |id| part::enrolment_id(&id))?,
            opened_at_ms: row.opened_at_ms,
        })
    }
}

impl StoredRow for Link {
    const TABLE: Table = table::LINKS;
    type V1 = v1::Link;

    fn to_v1(&self) -> v1::Link {
        v1::Link { case_id: self.case_id.as_bytes().to_vec(), moot: self.moot }
    }

    fn from_v1(_: &[u8], row: v1::Link) -> Result<Self, DecodeError> {
        Ok(Self { case_id: CaseId::from_bytes(part::exactly("case_id", &row.case_id)?), moot: row.moot })
    }
}

impl StoredRow for Obligation {
    const TABLE: Table = table::OBLIGATIONS;
    type V1 = v1::Obligation;

    fn to_v1(&self) -> v1::Obligation {
        v1::Obligation {
            gallery: self.gallery.to_string(),
            addressee: self.addressee.to_string(),
            command: Some(command_to_v1(&self.command)),
        }
    }

    fn from_v1(key: &[u8], row: v1::Obligation) -> Result<Self, DecodeError> {
        Ok(Self {
            id: key_part(table::obligation_id(key))?,
            gallery: part::gallery_id(&row.gallery)?,
            addressee: part::enrolment_id(&row.addressee)?,
            command: command(part::present("command", row.command)?)?,
        })
    }
}

impl StoredRow for PendingEnrolment {
    const TABLE: Table = table::PENDING;
    type V1 = v1::Pending;

    fn to_v1(&self) -> v1::Pending {
        v1::Pending {
            gallery: self.gallery.to_string(),
            enrolment_id: self.enrolment_id.to_string(),
            round: self.round,
        }
    }

    fn from_v1(key: &[u8], row: v1::Pending) -> Result<Self, DecodeError> {
        Ok(Self {
            gallery: part::gallery_id(&row.gallery)?,
            enrolment_id: part::enrolment_id(&row.enrolment_id)?,
            stage_index: key_part(table::stage_index(key))?,
            round: row.round,
        })
    }
}

impl StoredRow for Counts {
    const TABLE: Table = table::COUNTS;
    type V1 = v1::Counts;

    fn to_v1(&self) -> v1::Counts {
        v1::Counts {
            staged_total: self.staged_total,
            withdrawn_total: self.withdrawn_total,
            pending: self.pending,
            cases: self.cases,
        }
    }

    fn from_v1(_: &[u8], row: v1::Counts) -> Result<Self, DecodeError> {
        Ok(Self {
            staged_total: row.staged_total,
            withdrawn_total: row.withdrawn_total,
            pending: row.pending,
            cases: row.cases,
        })
    }
}

impl StoredRow for ObligationsCount {
    const TABLE: Table = table::COUNTS;
    type V1 = v1::ObligationsCount;

    fn to_v1(&self) -> v1::ObligationsCount {
        v1::ObligationsCount { obligations: self.0 }
    }

    fn from_v1(_: &[u8], row: v1::ObligationsCount) -> Result<Self, DecodeError> {
        Ok(Self(row.obligations))
    }
}

impl StoredRow for StateDigest {
    const TABLE: Table = table::COUNTS;
    type V1 = v1::Digest;

    fn to_v1(&self) -> v1::Digest {
        v1::Digest { sum: self.to_bytes().to_vec() }
    }

    fn from_v1(_: &[u8], row: v1::Digest) -> Result<Self, DecodeError> {
        part::exactly("sum", &row.sum).map(Self::from_bytes)
    }
}

impl StoredRow for AuditHead {
    const TABLE: Table = table::COUNTS;
    type V1 = v1::AuditHead;

    fn to_v1(&self) -> v1::AuditHead {
        v1::AuditHead { entries: self.entries, chain: self.chain.0.to_vec() }
    }

    fn from_v1(_: &[u8], row: v1::AuditHead) -> Result<Self, DecodeError> {
        Ok(Self { entries: row.entries, chain: AuditChain(part::exactly("chain", &row.chain)?) })
    }
}

impl StoredRow for AuditEntry {
    const TABLE: Table = table::AUDIT;
    type V1 = v1::Audit;

    fn to_v1(&self) -> v1::Audit {
        v1::Audit { content: encode_audit_content(&self.content).into(), chain: self.chain.0.to_vec() }
    }

    fn from_v1(key: &[u8], row: v1::Audit) -> Result<Self, DecodeError> {
        Ok(Self {
            sequence: key_part(table::audit_sequence(key))?,
            content: audit_content(decode(&row.content)?)?,
            chain: AuditChain(part::exactly("chain", &row.chain)?),
        })
    }
}

/// The bytes that the audit chain hashes.
pub(crate) fn encode_audit_content(content: &AuditContent) -> Bytes {
    encode(&v1::AuditContent {
        index: content.index.0,
        event: u32::from(content.event.code()),
        gallery: content.gallery.to_string(),
        enrolment_id: content.enrolment_id.to_string(),
        other_enrolment_id: content.other_enrolment_id.as_ref().map(ToString::to_string),
        command_digest: content.command_digest.to_vec(),
    })
}

fn audit_content(content: v1::AuditContent) -> Result<AuditContent, DecodeError> {
    let event = u8::try_from(content.event).ok().and_then(crate::audit::AuditEvent::from_code);
    Ok(AuditContent {
        index: LogIndex(content.index),
        event: event.ok_or(DecodeError::Value { field: "event", found: i64::from(content.event) })?,
        gallery: part::gallery_id(&content.gallery)?,
        enrolment_id: part::enrolment_id(&content.enrolment_id)?,
        other_enrolment_id: content.other_enrolment_id.as_deref().map(part::enrolment_id).transpose()?,
        command_digest: part::exactly("command_digest", &content.command_digest)?,
    })
}
