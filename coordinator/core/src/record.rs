//! What goes to a shard and comes back from it: commands, the recorded enrolment, receipts.
//!
//! These mirror the wire messages one to one, so that the shell converts without thinking. How a shard applies them is
//! `semel-shard`'s; this crate never looks inside a shard.

use std::sync::Arc;

use semel_index::{ComparisonScore, EnrolmentId, GalleryId, KeyVersion, PolicyVersion, ShardCount, ShardId, Slot};
use semel_raft::LogIndex;

use crate::canonical::CanonicalReference;
use crate::digest::ContentDigest;
use crate::obligations::Obligation;
use crate::request::Provenance;

/// Where an enrolment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentState {
    /// Recorded and visible to every search; not settled in its current round.
    Staged,
    /// Settled: no candidate.
    Unique,
    /// Settled: a person must look at the cases.
    PossibleDuplicate,
    /// Settled: too few enrolments were comparable; a person must look.
    NotComparable,
    /// Withdrawn; no search returns it.
    Withdrawn,
}

/// What a complete search can be decided to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictState {
    /// Every live enrolment was searched and none reached a review threshold.
    Unique,
    /// At least one did.
    PossibleDuplicate,
    /// Too few live enrolments had a comparable reference.
    NotComparable,
}

/// The score of one comparable pair of references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairScore {
    /// What was compared.
    pub slot: Slot,
    /// How close they are.
    pub score: ComparisonScore,
    /// The review threshold that applied.
    pub threshold: ComparisonScore,
}

/// An enrolment that reached a review threshold. Somebody must look; it is never a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The enrolment.
    pub enrolment_id: EnrolmentId,
    /// The largest score − threshold over the comparable pairs, in units of 1e-6; never negative.
    pub margin_micros: i32,
    /// The pairs that reached their threshold.
    pub comparisons: Vec<PairScore>,
}

/// What one shard searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCoverage {
    /// The shard.
    pub shard: ShardId,
    /// The configuration epoch of the group that answered.
    pub epoch: u64,
    /// The log index up to which the shard's enrolments and withdrawals were searched.
    pub searchable_index: LogIndex,
    /// Live enrolments with a comparable reference, the applicant left out.
    pub compared: u64,
    /// Live enrolments without, the applicant left out.
    pub not_comparable: u64,
    /// Withdrawn enrolments, not searched.
    pub withdrawn: u64,
}

/// What a complete search covered: every shard exactly once, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// One entry per shard.
    pub shards: Vec<ShardCoverage>,
    /// Live enrolments beside the applicant, over all shards.
    pub live: u64,
    /// Of those, how many had a reference comparable with the applicant's.
    pub compared: u64,
}

/// What a complete search decided, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The verdict.
    pub state: VerdictState,
    /// The best candidates, by margin, then id.
    pub candidates: Vec<Candidate>,
    /// How many enrolments reached a threshold in all.
    pub candidates_total: u64,
    /// Whether there were more candidates than the list holds.
    pub saturated: bool,
    /// What was searched.
    pub coverage: Coverage,
    /// The policy that was applied.
    pub policy_version: PolicyVersion,
    /// 1 for the first verdict of an enrolment.
    pub round: u32,
    /// By the clock of the coordinator that proposed it, in milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: i64,
}

/// A reference, without its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceSummary {
    /// What it is compared with.
    pub slot: Slot,
    /// As given.
    pub quality: Option<u32>,
    /// As given.
    pub algorithm_id: String,
}

/// Records an enrolment and makes it visible to every search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageCommand {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// As given.
    pub subject_id: String,
    /// The references, each of another slot.
    pub references: Arc<[CanonicalReference]>,
    /// As given.
    pub provenance: Option<Provenance>,
    /// The policy version pinned.
    pub policy_version: PolicyVersion,
    /// The key version pinned.
    pub key_version: KeyVersion,
    /// What tells this content from other content under the same id.
    pub content_digest: ContentDigest,
    /// By the coordinator's clock, in milliseconds since 1970-01-01 UTC.
    pub received_at_ms: i64,
}

/// Records a verdict and its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleCommand {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// The log index of the stage that the search followed.
    pub stage_index: LogIndex,
    /// The content staged.
    pub content_digest: ContentDigest,
    /// The verdict, for the round that the search was for.
    pub verdict: Verdict,
    /// The number of shards that the coverage names.
    pub shards_count: ShardCount,
}

/// An enrolment as its home shard has recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentRecord {
    /// The gallery.
    pub gallery: GalleryId,
    /// The id.
    pub enrolment_id: EnrolmentId,
    /// As given.
    pub subject_id: String,
    /// Where it stands.
    pub state: EnrolmentState,
    /// The verdict of the latest settle, if there is one.
    pub verdict: Option<Verdict>,
    /// As given.
    pub provenance: Option<Provenance>,
    /// Its home shard.
    pub shard: ShardId,
    /// The log index of its stage.
    pub stage_index: LogIndex,
    /// By the clock of the coordinator that received it.
    pub received_at_ms: i64,
    /// The policy version pinned.
    pub policy_version: PolicyVersion,
    /// What was enrolled, without the templates.
    pub references: Vec<ReferenceSummary>,
    /// The cases that name it, as far as they are listed.
    pub case_ids: Vec<String>,
    /// The content staged.
    pub content_digest: ContentDigest,
    /// The round that the next verdict is for, while it is staged.
    pub round: u32,
    /// The key version pinned.
    pub key_version: KeyVersion,
}

/// Why a shard refused a command. A refused command changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id is taken by other content.
    #[error("the enrolment id is taken by other content")]
    OtherContent,
    /// There is no such enrolment.
    #[error("there is no such enrolment")]
    NoSuchEnrolment,
    /// The settle does not match what is staged.
    #[error("the verdict does not match what is staged")]
    NotWhatWasStaged,
    /// The command is malformed: a defect of the proposer.
    #[error("the command is malformed")]
    Malformed,
    /// The enrolment belongs to another shard: a defect of the proposer.
    #[error("the enrolment belongs to another shard")]
    WrongShard,
}

/// What applying a stage or settle gave: the apply *result*, never what was proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// The enrolment as it now stands.
    Enrolment(Box<EnrolmentRecord>),
    /// The command broke a rule and changed nothing.
    Refused(Refusal),
}

/// A shard's answer to a command about an enrolment. `T` is the obligations' command, which this crate never reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt<T> {
    /// What the enrolment's record is now.
    pub outcome: ReceiptOutcome,
    /// Obligations that the command left in the shard, at most as many as a receipt holds; the sweep finds the rest.
    pub obligations: Vec<Obligation<T>>,
}
