//! The audit chain: one entry per change of an enrolment or a case, each sealed with a hash over all before it.
//!
//! Replicated with the rows that it tells of, in the same batch. Who asked for a change is not known here.

use std::fmt;

use semel_index::{EnrolmentId, GalleryId};
use semel_raft::LogIndex;

use crate::encoding::encode_audit_content;

/// A hash over an entry and all entries before it. Before the first entry, zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AuditChain(pub [u8; 32]);

impl AuditChain {
    /// BLAKE3(this ‖ entry).
    fn followed_by(self, content: &AuditContent) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&encode_audit_content(content));
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for AuditChain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AuditChain({})", blake3::Hash::from(self.0).to_hex())
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AuditEvent {
    /// An enrolment was recorded.
    Staged = 1,
    /// A verdict was recorded.
    Settled = 2,
    /// An enrolment was withdrawn.
    Withdrawn = 3,
    /// A case was opened by a verdict.
    CaseOpened = 4,
    /// The other enrolment's verdict named the pair as well.
    CaseNamedAgain = 5,
    /// A case was noted with an enrolment.
    CaseLinked = 6,
    /// A case became moot.
    CaseMooted = 7,
    /// An enrolment learnt that a case is moot.
    MootNoted = 8,
    /// An enrolment whose cases are all moot was staged for another round.
    StagedAnew = 9,
}

impl AuditEvent {
    const ALL: [Self; 9] = [
        Self::Staged,
        Self::Settled,
        Self::Withdrawn,
        Self::CaseOpened,
        Self::CaseNamedAgain,
        Self::CaseLinked,
        Self::CaseMooted,
        Self::MootNoted,
        Self::StagedAnew,
    ];

    /// The stable code, stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The event of a code; `None` for a code not assigned.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.code() == code)
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditContent {
    /// The log index of the command.
    pub index: LogIndex,
    /// What happened.
    pub event: AuditEvent,
    /// The gallery.
    pub gallery: GalleryId,
    /// The enrolment it happened to; of a case, the enrolment that caused it.
    pub enrolment_id: EnrolmentId,
    /// The other enrolment of the case, if it is about a pair.
    pub other_enrolment_id: Option<EnrolmentId>,
    /// BLAKE3 of the command's bytes: ties the entry to exactly what was committed.
    pub command_digest: [u8; 32],
}

/// One entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// What it says.
    pub content: AuditContent,
    /// The seal.
    pub chain: AuditChain,
}

impl AuditEntry {
    /// Whether the entry is what followed an entry sealed with `previous`.
    pub fn follows(&self, previous: AuditChain) -> bool {
        previous.followed_by(&self.content) == self.chain
    }
}

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AuditHead {
    pub(crate) entries: u64,
    pub(crate) chain: AuditChain,
}

impl AuditHead {
    /// Appends an entry.
    pub(crate) fn append(&mut self, content: AuditContent) -> AuditEntry {
        self.entries += 1;
        self.chain = self.chain.followed_by(&content);
        AuditEntry { sequence: self.entries, content, chain: self.chain }
    }
}
