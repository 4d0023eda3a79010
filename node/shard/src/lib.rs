//! What a shard replicates: the commands, the rows, how a command is applied, and how the rows are read.
//!
//! A deterministic core. It does not know how commands reach a log (`semel-raft`), how rows reach a disk
//! (`semel-raft-host`), how templates are compared (`semel-index`) or who decides a verdict (`semel-workflow`); scores
//! and verdicts arrive in commands, computed before. Wire types are converted in `semel-node-wire`.

#![forbid(unsafe_code)]

// What is spoken of.
mod bounds;
mod case;
mod command;
mod counts;
mod enrolment;
mod obligation;
mod publication;
mod receipt;
mod verdict;

// What happens.
mod apply;
mod machine;
mod transition;

// What is read.
mod replay;
mod scan_order;
mod scan_queue;
mod search_view;
mod turns;
mod view;

// What is kept.
mod audit;
mod digest;
mod encoding;
mod rows;
mod table;
mod v1;

pub use audit::{AuditChain, AuditContent, AuditEntry, AuditEvent};
pub use bounds::*;
pub use case::{Case, CaseId, CaseState, CaseSubject};
pub use command::{Command, ContentDigest, Discharge, LinkCase, MootCase, NoteMoot, OpenCase, Settle, Stage, Withdraw};
pub use counts::Counts;
pub use digest::StateDigest;
pub use encoding::{DecodeError, rewrite_row};
pub use enrolment::{CanonicalReference, EnrolmentRecord, EnrolmentState, Provenance, ReferenceSummary};
pub use machine::ShardMachine;
pub use obligation::{Obligation, ObligationId};
pub use publication::{Publication, Totals};
pub use receipt::{Receipt, Refusal};
pub use replay::replay_catalogue;
pub use scan_order::ScanOrder;
pub use scan_queue::{Joined, ScanQueue, ScanQueueFull, SharedScan};
pub use search_view::{SearchError, SearchMoment, SearchView};
pub use table::{AUDIT, CASES, COUNTS, ENROLMENTS, LINKS, OBLIGATIONS, PENDING, REFERENCES, TABLES, VERDICTS};
pub use turns::BULK_EVERY;
pub use verdict::{Candidate, ComparisonRecord, Coverage, ShardCoverage, Verdict, VerdictKind};
pub use view::{
    PendingEnrolment, audit, case, cases, counts, counts_of, digest, enrolment, history, obligations,
    obligations_count, pending, recompute_digest, references, verdicts,
};
