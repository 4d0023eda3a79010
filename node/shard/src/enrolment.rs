//! An enrolment as a shard records it. How it gets from one state to the next lives in `apply`.

use semel_index::{EnrolmentId, GalleryId, KeyVersion, PolicyVersion, ShardId, Slot, Template, TemplateSpec};
use semel_raft::LogIndex;

use crate::case::CaseId;
use crate::command::ContentDigest;
use crate::verdict::Verdict;

/// Where an enrolment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EnrolmentState {
    /// Recorded and visible to every search; the verdict of its round is not settled yet.
    Staged = 1,
    /// Every live enrolment was searched and none reached a review threshold.
    Unique = 2,
    /// At least one did.
    PossibleDuplicate = 3,
    /// Too few live enrolments had a comparable reference.
    NotComparable = 4,
    /// Withdrawn; no search returns it.
    Withdrawn = 5,
}

impl EnrolmentState {
    const ALL: [Self; 5] = [Self::Staged, Self::Unique, Self::PossibleDuplicate, Self::NotComparable, Self::Withdrawn];

    /// The stable code, stored and equal to the wire's.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The state of a code; `None` for a code not assigned.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// Where an enrolment came from. Kept with it, never used to match. Each text is at most
/// [`PROVENANCE_TEXT_BYTES_MAX`](crate::PROVENANCE_TEXT_BYTES_MAX) bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// Where it was captured.
    pub site: String,
    /// Who captured it.
    pub operator_id: String,
    /// The legal basis.
    pub legal_basis: String,
    /// The purpose.
    pub purpose: String,
    /// When, in milliseconds since 1970-01-01 UTC; 0 = unknown.
    pub captured_at_ms: i64,
}

/// A reference in canonical form, as the coordinator made it. `Debug` prints the template's length only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalReference {
    /// What it is compared with.
    pub slot: Slot,
    /// The shape of the template.
    pub spec: TemplateSpec,
    /// The template; it conforms to `spec`.
    pub template: Template,
    /// Quality of the capture, 0 to [`QUALITY_MAX`](crate::QUALITY_MAX), if known.
    pub quality: Option<u8>,
    /// The algorithm that made the template, at most [`ALGORITHM_ID_BYTES_MAX`](crate::ALGORITHM_ID_BYTES_MAX) bytes.
    pub algorithm_id: String,
}

impl CanonicalReference {
    /// What the record keeps of it.
    pub fn summary(&self) -> ReferenceSummary {
        ReferenceSummary { slot: self.slot, quality: self.quality, algorithm_id: self.algorithm_id.clone() }
    }
}

/// A reference without its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceSummary {
    /// What it is compared with.
    pub slot: Slot,
    /// As given.
    pub quality: Option<u8>,
    /// As given.
    pub algorithm_id: String,
}

/// A recorded enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentRecord {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// The registry's id for the person, as given. Never used to match or to exclude.
    pub subject_id: String,
    /// Where it stands.
    pub state: EnrolmentState,
    /// The verdict of the latest settle, also while a later round is staged; `None` while none is settled.
    pub verdict: Option<Verdict>,
    /// As given.
    pub provenance: Provenance,
    /// The shard it lives in.
    pub shard: ShardId,
    /// The log index of its stage: its place in the order of the shard's enrolments.
    pub stage_index: LogIndex,
    /// When the coordinator received it, in milliseconds since 1970-01-01 UTC. For people; nothing depends on it.
    pub received_at_ms: i64,
    /// The policy version that every step of it uses.
    pub policy_version: PolicyVersion,
    /// The key version of its embeddings.
    pub key_version: KeyVersion,
    /// The digest of the content staged.
    pub content_digest: ContentDigest,
    /// The round of the verdict it waits for while staged, else of the latest verdict. 1 at first.
    pub round: u32,
    /// The log index at which that round began; the search for it must have seen the shard at least up to here.
    pub round_index: LogIndex,
    /// What was enrolled.
    pub references: Vec<ReferenceSummary>,
    /// Why it was withdrawn, if it was.
    pub withdrawal_reason: Option<String>,
    /// The cases that name it, at most [`CASES_LISTED_MAX`](crate::CASES_LISTED_MAX), by the other enrolment's id.
    pub case_ids: Vec<CaseId>,
    /// How many cases name it in all.
    pub cases_total: u64,
}
