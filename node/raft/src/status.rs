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
    /// The last index before its log: entries up to here were removed.
    pub truncated: LogIndex,
    /// The voters of its configuration, ascending; while it is joint, those to come. Empty in a replica that was told no
    /// configuration yet.
    pub voters: Vec<ReplicaId>,
    /// The voters that the configuration is being changed from, ascending; empty unless it is joint.
    pub voters_outgoing: Vec<ReplicaId>,
    /// The learners of its configuration, ascending: they are sent the log and do not count.
    pub learners: Vec<ReplicaId>,
    /// How often the configuration was changed, as far as entries are applied.
    pub epoch: u64,
    /// Whether its configuration names the replica itself.
    pub is_member: bool,
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
    /// Whether it waits for a snapshot, and is sent no entries.
    pub awaits_snapshot: bool,
}
