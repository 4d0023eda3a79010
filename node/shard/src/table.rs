//! The tables of a shard and their keys. What a row's bytes hold lives in `encoding`.
//!
//! Neither a gallery's name nor an enrolment's id holds a zero byte, so a zero byte ends each within a key, and keys
//! order as (gallery, id) pairs do.

use bytes::{BufMut, Bytes, BytesMut};
use semel_index::{EnrolmentId, GalleryId};
use semel_raft::{LogIndex, StoreError, Table};

use crate::case::CaseId;
use crate::obligation::ObligationId;

/// Records, by (gallery, enrolment id). Without templates, so that reading one is cheap.
pub const ENROLMENTS: Table = Table("enrolments");
/// Canonical references, by stage index: in the order in which a catalogue takes them in.
pub const REFERENCES: Table = Table("references");
/// Every verdict settled, by (gallery, enrolment id, round).
pub const VERDICTS: Table = Table("verdicts");
/// Cases that live here, by (gallery, case id).
pub const CASES: Table = Table("cases");
/// Which cases name an enrolment of this shard, by (gallery, enrolment id, other enrolment id); a cluster case has no
/// other enrolment.
pub const LINKS: Table = Table("links");
/// What this shard owes, by obligation id.
pub const OBLIGATIONS: Table = Table("obligations");
/// Enrolments that wait for a verdict, by stage index.
pub const PENDING: Table = Table("pending");
/// Counts per gallery, and three rows about the shard itself: digest, number of obligations, head of the audit chain.
pub const COUNTS: Table = Table("counts");
/// The audit chain, by sequence number.
pub const AUDIT: Table = Table("audit");

/// Every table of a shard.
pub const TABLES: &[Table] = &[ENROLMENTS, REFERENCES, VERDICTS, CASES, LINKS, OBLIGATIONS, PENDING, COUNTS, AUDIT];

/// The key, in [`COUNTS`], of the digest. A gallery's name starts with a letter, so no gallery has these keys.
pub(crate) const DIGEST_KEY: &[u8] = b"\0digest";
/// The key, in [`COUNTS`], of the number of obligations.
pub(crate) const OBLIGATIONS_COUNT_KEY: &[u8] = b"\0obligations";
/// The key, in [`COUNTS`], of the head of the audit chain.
pub(crate) const AUDIT_HEAD_KEY: &[u8] = b"\0audit";

/// Above every key of every table: no text starts with this byte, and no number has this many.
pub(crate) const KEYS_END: &[u8] = &[0xff; 9];
/// At or below every gallery's key in [`COUNTS`], above the rows about the shard.
pub(crate) const GALLERIES_START: &[u8] = b"\x01";

/// Keys from `from` on, below `to`.
pub(crate) struct KeyRange {
    pub(crate) from: Bytes,
    pub(crate) to: Bytes,
}

pub(crate) fn gallery(gallery: &GalleryId) -> Bytes {
    Bytes::copy_from_slice(gallery.as_str().as_bytes())
}

/// The gallery of a key that [`gallery`] made.
pub(crate) fn gallery_of(key: &[u8]) -> Result<GalleryId, StoreError> {
    let name = std::str::from_utf8(key).ok().and_then(|name| GalleryId::try_from(name).ok());
    name.ok_or_else(|| StoreError { table: COUNTS, reason: "decode key: not a gallery's name".to_owned() })
}

/// The key of an enrolment's record.
pub(crate) fn enrolment(gallery: &GalleryId, enrolment: &EnrolmentId) -> Bytes {
    let mut key = BytesMut::with_capacity(gallery.as_str().len() + 1 + enrolment.as_str().len());
    key.put_slice(gallery.as_str().as_bytes());
    key.put_u8(0);
    key.put_slice(enrolment.as_str().as_bytes());
    key.freeze()
}

pub(crate) fn verdict(gallery: &GalleryId, enrolment: &EnrolmentId, round: u32) -> Bytes {
    below_enrolment(gallery, enrolment, 0, &round.to_be_bytes())
}

/// The verdicts of an enrolment, by round.
pub(crate) fn verdicts_of(gallery: &GalleryId, enrolment: &EnrolmentId) -> KeyRange {
    KeyRange { from: below_enrolment(gallery, enrolment, 0, &[]), to: below_enrolment(gallery, enrolment, 1, &[]) }
}

/// `other` is `None` for the cluster case, which so comes first.
pub(crate) fn link(gallery: &GalleryId, enrolment: &EnrolmentId, other: Option<&EnrolmentId>) -> Bytes {
    below_enrolment(gallery, enrolment, 0, other.map_or(&[], |other| other.as_str().as_bytes()))
}

/// The other enrolment in a key that [`link`] made; `None` for that of a cluster case.
pub(crate) fn link_other(key: &[u8]) -> Option<EnrolmentId> {
    let other = key.rsplit(|byte| *byte == 0).next()?;
    std::str::from_utf8(other).ok().and_then(|other| EnrolmentId::try_from(other).ok())
}

/// The links of an enrolment from the one with `other` on.
pub(crate) fn links_of(gallery: &GalleryId, enrolment: &EnrolmentId, other: Option<&EnrolmentId>) -> KeyRange {
    KeyRange { from: link(gallery, enrolment, other), to: below_enrolment(gallery, enrolment, 1, &[]) }
}

pub(crate) fn case(gallery: &GalleryId, case: CaseId) -> Bytes {
    below_gallery(gallery, 0, case.as_bytes(), &[])
}

/// The cases of a gallery, those with a greater id than `after` only.
pub(crate) fn cases_of(gallery: &GalleryId, after: Option<CaseId>) -> KeyRange {
    let from = match after {
        // The least key greater than that of the case itself.
        Some(case) => below_gallery(gallery, 0, case.as_bytes(), &[0]),
        None => below_gallery(gallery, 0, &[], &[]),
    };
    KeyRange { from, to: below_gallery(gallery, 1, &[], &[]) }
}

pub(crate) fn staged_at(stage_index: LogIndex) -> Bytes {
    Bytes::copy_from_slice(&stage_index.0.to_be_bytes())
}

/// The stage index of a key that [`staged_at`] made.
pub(crate) fn stage_index(key: &[u8]) -> Option<LogIndex> {
    number(key).map(LogIndex)
}

pub(crate) fn obligation(obligation: ObligationId) -> Bytes {
    Bytes::copy_from_slice(&obligation.0.to_be_bytes())
}

/// The id in a key that [`obligation`] made.
pub(crate) fn obligation_id(key: &[u8]) -> Option<ObligationId> {
    number(key).map(ObligationId)
}

pub(crate) fn audit(sequence: u64) -> Bytes {
    Bytes::copy_from_slice(&sequence.to_be_bytes())
}

/// The sequence number in a key that [`audit`] made.
pub(crate) fn audit_sequence(key: &[u8]) -> Option<u64> {
    number(key)
}

fn number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn below_enrolment(gallery: &GalleryId, enrolment: &EnrolmentId, end: u8, rest: &[u8]) -> Bytes {
    let mut key = BytesMut::from(&self::enrolment(gallery, enrolment)[..]);
    key.put_u8(end);
    key.put_slice(rest);
    key.freeze()
}

fn below_gallery(gallery: &GalleryId, end: u8, first: &[u8], second: &[u8]) -> Bytes {
    let mut key = BytesMut::from(gallery.as_str().as_bytes());
    key.put_u8(end);
    key.put_slice(first);
    key.put_slice(second);
    key.freeze()
}
