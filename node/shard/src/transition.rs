//! One command's changes while it is applied: rows with their digest, obligations, audit entries, publications.
//!
//! What a command changes is decided in `apply`; here is what every change brings with it.

use bytes::Bytes;
use semel_index::{EnrolmentId, GalleryId};
use semel_raft::{LogIndex, Row, State, StoreError, Table};

use crate::audit::{AuditContent, AuditEvent, AuditHead};
use crate::command::Command;
use crate::counts::Counts;
use crate::digest::StateDigest;
use crate::encoding::{StoredRow, encode_row};
use crate::obligation::{Obligation, ObligationId};
use crate::publication::Publication;
use crate::rows::{ObligationsCount, Read};
use crate::table;

/// The changes of the command at one log index.
pub(crate) struct Transition<'a> {
    state: &'a mut dyn State,
    index: LogIndex,
    command_digest: [u8; 32],
    digest: StateDigest,
    digest_before: StateDigest,
    obligations: Vec<Obligation>,
    obligations_discharged: u64,
    audited: Vec<AuditContent>,
    publications: Vec<Publication>,
}

/// What a command left behind, besides rows.
pub(crate) struct Left {
    pub(crate) obligations: Vec<Obligation>,
    pub(crate) publications: Vec<Publication>,
}

impl Read for Transition<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.state.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.state.scan(table, from, to, rows_max)
    }
}

impl<'a> Transition<'a> {
    /// Begins the changes of `command`.
    pub(crate) fn begin(state: &'a mut dyn State, index: LogIndex, command: &[u8]) -> Result<Self, StoreError> {
        let mut transition = Self {
            state,
            index,
            command_digest: *blake3::hash(command).as_bytes(),
            digest: StateDigest::default(),
            digest_before: StateDigest::default(),
            obligations: Vec::new(),
            obligations_discharged: 0,
            audited: Vec::new(),
            publications: Vec::new(),
        };
        transition.digest_before = transition.row(table::DIGEST_KEY)?.unwrap_or_default();
        transition.digest = transition.digest_before;
        Ok(transition)
    }

    /// The log index of the command.
    pub(crate) fn index(&self) -> LogIndex {
        self.index
    }

    /// Sets a row.
    pub(crate) fn put<R: StoredRow>(&mut self, key: Bytes, row: &R) -> Result<(), StoreError> {
        let value = encode_row(row);
        if let Some(before) = self.state.get(R::TABLE, &key)? {
            self.digest = self.digest.without(R::TABLE, &key, &before);
        }
        self.digest = self.digest.with(R::TABLE, &key, &value);
        self.state.put(R::TABLE, key, value);
        Ok(())
    }

    /// Removes a row and tells whether it was there.
    pub(crate) fn delete(&mut self, table: Table, key: Bytes) -> Result<bool, StoreError> {
        let Some(before) = self.state.get(table, &key)? else { return Ok(false) };
        self.digest = self.digest.without(table, &key, &before);
        self.state.delete(table, key);
        Ok(true)
    }

    /// Changes the counts of a gallery and returns them as they then are.
    pub(crate) fn count(
        &mut self,
        gallery: &GalleryId,
        change: impl FnOnce(&mut Counts),
    ) -> Result<Counts, StoreError> {
        let mut counts = self.counts_of(gallery)?;
        change(&mut counts);
        self.put(table::gallery(gallery), &counts)?;
        Ok(counts)
    }

    /// Leaves a command for the shard of the enrolment that it is addressed to.
    pub(crate) fn oblige(&mut self, command: Command) {
        let (gallery, addressee) = command.addressee().expect("only discharges have no addressee, and none is owed");
        let (gallery, addressee) = (gallery.clone(), addressee.clone());
        let id = ObligationId::at(self.index, self.obligations.len());
        self.obligations.push(Obligation { id, gallery, addressee, command });
    }

    /// Removes an obligation, if it is still there.
    pub(crate) fn discharge(&mut self, obligation: ObligationId) -> Result<(), StoreError> {
        if self.delete(table::OBLIGATIONS, table::obligation(obligation))? {
            self.obligations_discharged += 1;
        }
        Ok(())
    }

    /// Appends to the audit chain.
    pub(crate) fn audit(
        &mut self,
        event: AuditEvent,
        gallery: &GalleryId,
        enrolment: &EnrolmentId,
        other: Option<&EnrolmentId>,
    ) {
        self.audited.push(AuditContent {
            index: self.index,
            event,
            gallery: gallery.clone(),
            enrolment_id: enrolment.clone(),
            other_enrolment_id: other.cloned(),
            command_digest: self.command_digest,
        });
    }

    /// Tells derived views.
    pub(crate) fn publish(&mut self, publication: Publication) {
        self.publications.push(publication);
    }

    /// Whether anything changed so far.
    pub(crate) fn has_changes(&self) -> bool {
        self.digest != self.digest_before || !self.obligations.is_empty() || !self.audited.is_empty()
    }

    /// Writes what the changes bring with them.
    pub(crate) fn finish(mut self) -> Result<Left, StoreError> {
        self.write_obligations()?;
        self.write_audit()?;
        if self.digest != self.digest_before {
            // The digest's own row is the only one that it does not cover.
            let digest = encode_row(&self.digest);
            self.state.put(table::COUNTS, Bytes::from_static(table::DIGEST_KEY), digest);
        }
        Ok(Left { obligations: self.obligations, publications: self.publications })
    }

    fn write_obligations(&mut self) -> Result<(), StoreError> {
        let obligations = std::mem::take(&mut self.obligations);
        for obligation in &obligations {
            self.put(table::obligation(obligation.id), obligation)?;
        }
        if !obligations.is_empty() || self.obligations_discharged > 0 {
            let before = self.row(table::OBLIGATIONS_COUNT_KEY)?.unwrap_or(ObligationsCount(0));
            let after = before.0 + obligations.len() as u64 - self.obligations_discharged;
            self.put(Bytes::from_static(table::OBLIGATIONS_COUNT_KEY), &ObligationsCount(after))?;
        }
        self.obligations = obligations;
        Ok(())
    }

    fn write_audit(&mut self) -> Result<(), StoreError> {
        if self.audited.is_empty() {
            return Ok(());
        }
        let mut head = self.row::<AuditHead>(table::AUDIT_HEAD_KEY)?.unwrap_or_default();
        for content in std::mem::take(&mut self.audited) {
            let entry = head.append(content);
            self.put(table::audit(entry.sequence), &entry)?;
        }
        self.put(Bytes::from_static(table::AUDIT_HEAD_KEY), &head)
    }
}
