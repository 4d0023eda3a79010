//! The named bounds of everything a shard holds or handles at once. A command beyond one is malformed.

/// References of one enrolment.
pub const REFERENCES_MAX: usize = 16;
/// Candidates that one verdict lists.
pub const CANDIDATES_MAX: usize = 256;
/// Cases that a saturated verdict opens, for its best candidates; one cluster case stands for the rest.
pub const SATURATED_CASES_OPENED_MAX: usize = 16;
/// Obligations that one command discharges.
pub const OBLIGATIONS_DISCHARGED_MAX: usize = 256;
/// Cases that a record lists. Others exist and are counted; their enrolments know of them all.
pub const CASES_LISTED_MAX: usize = 256;
/// Cases that one command makes moot; a withdrawn enrolment with more does it in steps.
pub const CASES_MOOTED_MAX: usize = 256;
/// Bytes of a subject id.
pub const SUBJECT_ID_BYTES_MAX: usize = 128;
/// Bytes of each text of an enrolment's provenance.
pub const PROVENANCE_TEXT_BYTES_MAX: usize = 256;
/// Bytes of the id of the algorithm that made a template.
pub const ALGORITHM_ID_BYTES_MAX: usize = 128;
/// Bytes of the reason of a withdrawal; at least 1.
pub const REASON_BYTES_MAX: usize = 256;
/// The best quality of a capture.
pub const QUALITY_MAX: u8 = 100;
