//! What a shard's derived views (the catalogue, callers that wait for a verdict) learn of an applied command.

use semel_index::{EnrolmentId, GalleryId, KeyVersion, StagedReference};

/// A gallery's replicated counts in one shard. A search that does not add up to them did not see everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Enrolments ever staged, withdrawn ones included.
    pub staged_total: u64,
    /// Enrolments withdrawn.
    pub withdrawn_total: u64,
}

/// One thing that became so. `Debug` prints the lengths of templates only.
#[derive(Debug, Clone)]
pub enum Publication {
    /// An enrolment is visible to searches from here on.
    Staged {
        /// The gallery.
        gallery: GalleryId,
        /// The id.
        enrolment_id: EnrolmentId,
        /// The key version of its embeddings.
        key_version: KeyVersion,
        /// What can be compared.
        references: Vec<StagedReference>,
        /// The gallery's counts with this enrolment.
        totals: Totals,
    },
    /// An enrolment is hidden from searches from here on.
    Withdrawn {
        /// The gallery.
        gallery: GalleryId,
        /// The id.
        enrolment_id: EnrolmentId,
        /// The gallery's counts with this withdrawal.
        totals: Totals,
    },
    /// An enrolment's verdict was settled, or it waits for a new one. Of interest to those who wait, not to a catalogue.
    Changed {
        /// The gallery.
        gallery: GalleryId,
        /// The id.
        enrolment_id: EnrolmentId,
    },
}
