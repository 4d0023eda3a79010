//! Typed reads of rows, the same for a command that is being applied and for servers, and the rows that only this
//! crate sees.

use bytes::Bytes;
use semel_index::{EnrolmentId, GalleryId, KeyVersion};
use semel_raft::{LogIndex, Row, Store, StoreError, Table};

use crate::bounds::CASES_LISTED_MAX;
use crate::case::CaseId;
use crate::counts::Counts;
use crate::encoding::{DecodeError, StoredRow, decode_row};
use crate::enrolment::{CanonicalReference, EnrolmentRecord};
use crate::table::{self, KeyRange};
use crate::verdict::Verdict;

/// An enrolment's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnrolmentEntry {
    /// The record, its verdict and the list of its cases left out: those are rows of their own.
    pub(crate) record: EnrolmentRecord,
    /// The round of the latest verdict; 0 = none.
    pub(crate) verdict_round: u32,
    /// The number of links that are not moot.
    pub(crate) cases_open: u64,
    /// Of a withdrawn enrolment: the other enrolment of the first link that it has not gone through yet.
    pub(crate) moot_from: Option<EnrolmentId>,
}

/// The canonical references of one enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReferencesEntry {
    pub(crate) stage_index: LogIndex,
    pub(crate) gallery: GalleryId,
    pub(crate) enrolment_id: EnrolmentId,
    pub(crate) key_version: KeyVersion,
    pub(crate) references: Vec<CanonicalReference>,
}

/// That a case names an enrolment, noted where the enrolment lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) case_id: CaseId,
    pub(crate) moot: bool,
}

/// The number of obligations not discharged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ObligationsCount(pub(crate) u64);

/// Rows that can be read.
pub(crate) trait Read {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError>;

    /// The row of a key, decoded.
    fn row<R: StoredRow>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        let Some(value) = self.get(R::TABLE, key)? else { return Ok(None) };
        decode_row(key, &value).map(Some).map_err(|error| damaged(R::TABLE, &error))
    }

    /// Up to `rows_max` rows of a range, decoded, each with its key.
    fn rows<R: StoredRow>(&self, range: &KeyRange, rows_max: usize) -> Result<Vec<(Bytes, R)>, StoreError> {
        let decoded = |(key, value): Row| {
            let row = decode_row(&key, &value).map_err(|error| damaged(R::TABLE, &error))?;
            Ok((key, row))
        };
        self.scan(R::TABLE, &range.from, &range.to, rows_max)?.into_iter().map(decoded).collect()
    }

    /// The record of an enrolment, complete with its latest verdict and the list of its cases.
    fn record(&self, gallery: &GalleryId, enrolment: &EnrolmentId) -> Result<Option<EnrolmentRecord>, StoreError> {
        let Some(entry) = self.row::<EnrolmentEntry>(&table::enrolment(gallery, enrolment))? else { return Ok(None) };
        let EnrolmentEntry { mut record, verdict_round, .. } = entry;
        if verdict_round > 0 {
            record.verdict = self.row::<Verdict>(&table::verdict(gallery, enrolment, verdict_round))?;
        }
        if record.cases_total > 0 {
            let links = self.rows::<Link>(&table::links_of(gallery, enrolment, None), CASES_LISTED_MAX)?;
            record.case_ids = links.into_iter().map(|(_, link)| link.case_id).collect();
        }
        Ok(Some(record))
    }

    /// The counts of a gallery; zeros for one that has no enrolment here.
    fn counts_of(&self, gallery: &GalleryId) -> Result<Counts, StoreError> {
        Ok(self.row(&table::gallery(gallery))?.unwrap_or_default())
    }
}

impl Read for &dyn Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Store::get(*self, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        Store::scan(*self, table, from, to, rows_max)
    }
}

/// A row that this crate did not write: the replica that meets one stops.
pub(crate) fn damaged(table: Table, error: &DecodeError) -> StoreError {
    StoreError { table, reason: format!("decode row: {error}") }
}
