//! What is proposed to a shard's group. Every command is idempotent: applying one twice changes nothing the second time.
//!
//! The bytes of a command live in `encoding`, what it does in `apply`.

use std::fmt;

use bytes::Bytes;
use semel_index::{EnrolmentId, GalleryId, KeyVersion, PolicyVersion, ShardCount};
use semel_raft::LogIndex;

use crate::case::CaseSubject;
use crate::encoding::{self, DecodeError};
use crate::enrolment::{CanonicalReference, Provenance};
use crate::obligation::ObligationId;
use crate::verdict::{ComparisonRecord, Verdict};

/// Keyed BLAKE3 of a validated request: two requests with the same id are one if their digests are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest(pub [u8; 32]);

impl fmt::Debug for ContentDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ContentDigest({})", blake3::Hash::from(self.0).to_hex())
    }
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// See [`Stage`].
    Stage(Stage),
    /// See [`Settle`].
    Settle(Settle),
    /// See [`Withdraw`].
    Withdraw(Withdraw),
    /// See [`OpenCase`].
    OpenCase(OpenCase),
    /// See [`LinkCase`].
    LinkCase(LinkCase),
    /// See [`MootCase`].
    MootCase(MootCase),
    /// See [`NoteMoot`].
    NoteMoot(NoteMoot),
    /// See [`Discharge`].
    Discharge(Discharge),
}

/// Records an enrolment and makes it visible to every search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// As given, at most [`SUBJECT_ID_BYTES_MAX`](crate::SUBJECT_ID_BYTES_MAX) bytes.
    pub subject_id: String,
    /// The references: 1 to [`REFERENCES_MAX`](crate::REFERENCES_MAX), each of another slot.
    pub references: Vec<CanonicalReference>,
    /// As given.
    pub provenance: Provenance,
    /// The policy version pinned.
    pub policy_version: PolicyVersion,
    /// The key version pinned.
    pub key_version: KeyVersion,
    /// The digest of the validated request.
    pub content_digest: ContentDigest,
    /// When it was received, in milliseconds since 1970-01-01 UTC by the coordinator's clock.
    pub received_at_ms: i64,
}

/// Records a verdict and its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// The log index of the stage that the search followed.
    pub stage_index: LogIndex,
    /// The content staged.
    pub content_digest: ContentDigest,
    /// The verdict; its round is the round that the search was for.
    pub verdict: Verdict,
    /// The number of shards that the coverage names, each exactly once.
    pub shards_count: ShardCount,
}

/// Withdraws an enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdraw {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// Why: 1 to [`REASON_BYTES_MAX`](crate::REASON_BYTES_MAX) bytes.
    pub reason: String,
}

/// Opens the case of a pair, or adds who named it. Goes to the shard of the smaller id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCase {
    /// The gallery.
    pub gallery: GalleryId,
    /// The enrolment whose verdict names the other.
    pub opened_by: EnrolmentId,
    /// The other.
    pub candidate: EnrolmentId,
    /// What the verdict saw, at most [`REFERENCES_MAX`](crate::REFERENCES_MAX).
    pub comparisons: Vec<ComparisonRecord>,
    /// When the verdict was proposed, in milliseconds since 1970-01-01 UTC.
    pub opened_at_ms: i64,
}

/// Notes a case with one of its enrolments. Goes to that enrolment's shard.
///
/// A withdrawn enrolment also sends this to itself, naming the case from which it goes on making its cases moot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkCase {
    /// The gallery.
    pub gallery: GalleryId,
    /// The enrolment that notes it.
    pub enrolment_id: EnrolmentId,
    /// The other enrolment of the case.
    pub other_enrolment_id: EnrolmentId,
}

/// Makes a case moot because one of its enrolments was withdrawn. Goes to the case's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MootCase {
    /// The gallery.
    pub gallery: GalleryId,
    /// The withdrawn enrolment.
    pub withdrawn: EnrolmentId,
    /// The other.
    pub other_enrolment_id: EnrolmentId,
}

/// Tells an enrolment that one of its cases is moot. Goes to that enrolment's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteMoot {
    /// The gallery.
    pub gallery: GalleryId,
    /// The enrolment told.
    pub enrolment_id: EnrolmentId,
    /// The withdrawn enrolment of the case.
    pub withdrawn: EnrolmentId,
}

/// Removes obligations that were carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discharge {
    /// Their ids, at most [`OBLIGATIONS_DISCHARGED_MAX`](crate::OBLIGATIONS_DISCHARGED_MAX).
    pub obligations: Vec<ObligationId>,
}

impl Command {
    /// The versioned bytes to propose. They decode only if the command keeps the bounds of its fields.
    pub fn encode(&self) -> Bytes {
        encoding::encode_command(self)
    }

    /// The command that `bytes` hold, with every field within its bounds.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Self::encode`] could not have written for a command within its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        encoding::decode_command(bytes)
    }

    /// The gallery and the enrolment whose shard the command goes to; `None` for a discharge, which is about the shard
    /// that it is proposed to.
    pub fn addressee(&self) -> Option<(&GalleryId, &EnrolmentId)> {
        match self {
            Self::Stage(stage) => Some((&stage.gallery, &stage.enrolment_id)),
            Self::Settle(settle) => Some((&settle.gallery, &settle.enrolment_id)),
            Self::Withdraw(withdraw) => Some((&withdraw.gallery, &withdraw.enrolment_id)),
            Self::OpenCase(open) => Some((&open.gallery, (&open.opened_by).min(&open.candidate))),
            Self::LinkCase(link) => Some((&link.gallery, &link.enrolment_id)),
            Self::MootCase(moot) => Some((&moot.gallery, (&moot.withdrawn).min(&moot.other_enrolment_id))),
            Self::NoteMoot(note) => Some((&note.gallery, &note.enrolment_id)),
            Self::Discharge(_) => None,
        }
    }

    /// Whether the command names two enrolments and they are the same: no case is about such a pair.
    pub(crate) fn names_one_enrolment_twice(&self) -> bool {
        let pair = match self {
            Self::OpenCase(open) => (&open.opened_by, &open.candidate),
            Self::LinkCase(link) => (&link.enrolment_id, &link.other_enrolment_id),
            Self::MootCase(moot) => (&moot.withdrawn, &moot.other_enrolment_id),
            Self::NoteMoot(note) => (&note.enrolment_id, &note.withdrawn),
            Self::Stage(_) | Self::Settle(_) | Self::Withdraw(_) | Self::Discharge(_) => return false,
        };
        CaseSubject::pair(pair.0, pair.1).is_none()
    }
}
