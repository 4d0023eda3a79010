//! The enrolment workflow: validating, rotating, searching everyone, deciding, settling, and what a cluster knows about itself.
//!
//! This crate is a deterministic core: it takes events and returns effects, and has no sockets, files, clocks, threads or
//! ambient randomness. It does not know the wire (`semel-coordinator-wire` converts), nor how a shard applies its commands
//! (`semel-shard`), nor how templates are compared (`semel-index`).

#![forbid(unsafe_code)]

mod canonical;
mod decide;
mod digest;
mod enrolment;
mod gallery;
mod invalid;
mod metadata;
mod obligations;
mod placement;
mod record;
mod request;
mod rotation;
mod search;
mod sweep;
mod v1;
mod v2;
mod v3;
mod v4;
mod validate;

pub use canonical::{
    CanonicalReference, Pinned, PreparedEnrolment, ProbeReference, SearchProbe, Unpinned, canonicalise, prepare,
};
pub use decide::{Decision, decide};
pub use digest::{ContentDigest, ContentDigestKey};
pub use enrolment::{
    ATTEMPTS_MAX, CallFailure, EnrolmentEffect, EnrolmentEvent, EnrolmentWorkflow, Outcome, Waiting, retry_delay_ms,
};
pub use gallery::{
    CANDIDATES_MAX, CANDIDATES_MAX_DEFAULT, COMPARABLE_SHARE_MIN_PPM_DEFAULT, DecisionPolicy, MISS_BUDGET_PPB_MAX,
    MODALITIES_MAX, ModalityPolicy, ModalityPolicyRequest, PURPOSES_MAX, Policy, PolicyRequest, VersionedPolicy,
};
pub use invalid::{Fault, ValidationError};
pub use metadata::{
    COMMAND_BYTES_MAX, COORDINATORS_MAX, Cluster, ClusterId, Coordinator, CoordinatorId, CoordinatorReplicas,
    CorruptRow, DecodeError, GALLERIES_MAX, GalleryRecord, GalleryRow, JoiningReplica, METADATA, MOVES_MAX,
    MetadataChanged, MetadataCommand, MetadataMachine, MetadataReceipt, MetadataRefusal, MetadataRow, MetadataView,
    MoveState, NODES_MAX, NodeId, NodeRecord, POLICY_VERSIONS_MAX, PlannedMove, REPLICAS_PER_SHARD_MAX, ReplicaMove,
    VolumeId, metadata_digest, plan_drain,
};
pub use obligations::{
    DISCHARGED_MAX, DeliveryOutcome, Obligation, ObligationDriver, ObligationEffect, ObligationEvent, ObligationKey,
    ObligationLimits,
};
pub use placement::{Placement, PlacementError, ShardPlacement, Voter, place};
pub use record::{
    Candidate, Coverage, EnrolmentRecord, EnrolmentState, PairScore, Receipt, ReceiptOutcome, ReferenceSummary,
    Refusal, SettleCommand, ShardCoverage, StageCommand, Verdict, VerdictState,
};
pub use request::{EnrolmentRequest, Provenance, ReferenceRequest, TemplateRequest};
pub use rotation::{GalleryKey, RotationMatrix, Rotations};
pub use search::{AnswerDefect, CompleteSearch, ScatterGather, SearchOutcome, ShardAnswer};
pub use sweep::{LISTED_PER_SHARD_MAX, Sweep, SweepLimits};
pub use validate::{
    ALGORITHM_ID_BYTES_MAX, REFERENCES_MAX, SUBJECT_ID_BYTES_MAX, TEXT_BYTES_MAX, ValidatedEnrolment,
    ValidatedReference, ValidatedTemplate, validate_enrolment, validate_purpose, validate_reason, validate_references,
};
