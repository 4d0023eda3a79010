//! What a replica says of itself. For people and for placement; no decision about data rests on it.

use crate::ids::{LogIndex, ReplicaId};

/// A replica's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
}

/// A replica as it is between two events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it knows of, in this term.
    pub leader: Option<ReplicaId>,
    /// Entries up to here are committed, as far as it knows.
    pub commit: LogIndex,
    /// Entries up to here are applied.
    pub applied: LogIndex,
    /// The end of its log.
    pub last_index: LogIndex,
    /// The voters of its configuration, ascending.
    pub voters: Vec<ReplicaId>,
    /// The other replicas, ascending; only the leader knows them.
    pub followers: Vec<FollowerProgress>,
}

/// How far a follower is, as its leader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerProgress {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its log equals the leader's up to here.
    pub matched: LogIndex,
    /// Whether it was heard of since the leader last asked.
    pub recently_active: bool,
}
