//! Reads for servers: pure functions over the rows of one shard, as of the last batch that was written.
//!
//! How current that is, is the caller's affair: read barriers live in `semel-raft`.

use bytes::Bytes;
use semel_index::{EnrolmentId, GalleryId};
use semel_raft::{LogIndex, Row, Store, StoreError, Table};

use crate::audit::{AuditChain, AuditEntry, AuditHead};
use crate::case::{Case, CaseId, CaseSubject};
use crate::counts::Counts;
use crate::digest::StateDigest;
use crate::encoding::StoredRow;
use crate::enrolment::{CanonicalReference, EnrolmentRecord};
use crate::obligation::Obligation;
use crate::rows::{EnrolmentEntry, ObligationsCount, Read, ReferencesEntry};
use crate::table::{self, KeyRange};
use crate::verdict::Verdict;

/// Rows read at once where all of a table are read.
const PAGE_ROWS: usize = 256;

/// A staged enrolment without a verdict for its round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEnrolment {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// The log index of its stage.
    pub stage_index: LogIndex,
    /// The round it waits for.
    pub round: u32,
}

/// The record of an enrolment.
pub fn enrolment(
    store: &dyn Store,
    gallery: &GalleryId,
    enrolment: &EnrolmentId,
) -> Result<Option<EnrolmentRecord>, StoreError> {
    store.record(gallery, enrolment)
}

/// The canonical references of an enrolment, in the order given; `None` if there is no such enrolment.
pub fn references(
    store: &dyn Store,
    gallery: &GalleryId,
    enrolment: &EnrolmentId,
) -> Result<Option<Vec<CanonicalReference>>, StoreError> {
    let Some(entry) = store.row::<EnrolmentEntry>(&table::enrolment(gallery, enrolment))? else { return Ok(None) };
    let key = table::staged_at(entry.record.stage_index);
    Ok(store.row::<ReferencesEntry>(&key)?.map(|references| references.references))
}

/// The verdicts of an enrolment by round, at most `verdicts_max` of them.
pub fn verdicts(
    store: &dyn Store,
    gallery: &GalleryId,
    enrolment: &EnrolmentId,
    verdicts_max: usize,
) -> Result<Vec<Verdict>, StoreError> {
    rows(store, &table::verdicts_of(gallery, enrolment), verdicts_max)
}

/// The enrolments staged longest ago that wait for a verdict.
pub fn pending(store: &dyn Store, enrolments_max: usize) -> Result<Vec<PendingEnrolment>, StoreError> {
    rows(store, &whole_table(), enrolments_max)
}

/// The oldest obligations.
pub fn obligations(store: &dyn Store, obligations_max: usize) -> Result<Vec<Obligation>, StoreError> {
    rows(store, &whole_table(), obligations_max)
}

/// The number of obligations.
pub fn obligations_count(store: &dyn Store) -> Result<u64, StoreError> {
    Ok(store.row::<ObligationsCount>(table::OBLIGATIONS_COUNT_KEY)?.unwrap_or_default().0)
}

/// A case, in the shard of the subject's [`home`](CaseSubject::home).
pub fn case(store: &dyn Store, gallery: &GalleryId, subject: &CaseSubject) -> Result<Option<Case>, StoreError> {
    store.row(&table::case(gallery, subject.case_id(gallery)))
}

/// Cases of a gallery that live in this shard, by id, those with a greater id than `after` only.
pub fn cases(
    store: &dyn Store,
    gallery: &GalleryId,
    after: Option<CaseId>,
    cases_max: usize,
) -> Result<Vec<Case>, StoreError> {
    rows(store, &table::cases_of(gallery, after), cases_max)
}

/// The counts of every gallery that has enrolments or cases in this shard, by name.
pub fn counts(store: &dyn Store) -> Result<Vec<(GalleryId, Counts)>, StoreError> {
    let mut counts = Vec::new();
    let mut range =
        KeyRange { from: Bytes::from_static(table::GALLERIES_START), to: Bytes::from_static(table::KEYS_END) };
    loop {
        let page = store.rows::<Counts>(&range, PAGE_ROWS)?;
        let is_last = page.len() < PAGE_ROWS;
        if let Some((key, _)) = page.last() {
            range.from = successor(key);
        }
        for (key, row) in page {
            counts.push((table::gallery_of(&key)?, row));
        }
        if is_last {
            return Ok(counts);
        }
    }
}

/// The counts of one gallery; zeros for one that has nothing here.
pub fn counts_of(store: &dyn Store, gallery: &GalleryId) -> Result<Counts, StoreError> {
    store.counts_of(gallery)
}

/// Entries of the audit chain after the one numbered `after` (0 = from the first), at most `entries_max` of them.
pub fn audit(store: &dyn Store, after: u64, entries_max: usize) -> Result<Vec<AuditEntry>, StoreError> {
    let range = KeyRange { from: successor(&table::audit(after)), to: Bytes::from_static(table::KEYS_END) };
    rows(store, &range, entries_max)
}

/// The number of entries of the audit chain, and the hash over all of them: what happened to the shard until now, in 40 bytes.
pub fn history(store: &dyn Store) -> Result<(u64, AuditChain), StoreError> {
    let head = store.row::<AuditHead>(table::AUDIT_HEAD_KEY)?.unwrap_or_default();
    Ok((head.entries, head.chain))
}

/// The digest of all rows, as replicas keep it: equal on replicas with equal applied index.
pub fn digest(store: &dyn Store) -> Result<StateDigest, StoreError> {
    Ok(store.row(table::DIGEST_KEY)?.unwrap_or_default())
}

/// The digest of all rows, computed from every row. Reads the whole shard: for checks, not for serving.
pub fn recompute_digest(store: &dyn Store) -> Result<StateDigest, StoreError> {
    let mut digest = StateDigest::default();
    for table in table::TABLES {
        digest = with_rows_of(store, *table, digest)?;
    }
    Ok(digest)
}

fn with_rows_of(store: &dyn Store, table: Table, mut digest: StateDigest) -> Result<StateDigest, StoreError> {
    let mut from = Bytes::new();
    loop {
        let page: Vec<Row> = store.scan(table, &from, table::KEYS_END, PAGE_ROWS)?;
        for (key, value) in &page {
            // The digest's own row is the only one that it does not cover.
            if table != table::COUNTS || key != table::DIGEST_KEY {
                digest = digest.with(table, key, value);
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE_ROWS => from = successor(key),
            Some(_) | None => return Ok(digest),
        }
    }
}

fn rows<R: StoredRow>(store: &dyn Store, range: &KeyRange, rows_max: usize) -> Result<Vec<R>, StoreError> {
    Ok(store.rows(range, rows_max)?.into_iter().map(|(_, row)| row).collect())
}

fn whole_table() -> KeyRange {
    KeyRange { from: Bytes::new(), to: Bytes::from_static(table::KEYS_END) }
}

/// The least key greater than `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}
