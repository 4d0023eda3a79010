//! The first rows of a replica: of a new group's, and of one that joins a group later.

use raft::eraftpb::{ConfState, HardState};

use crate::ids::{LogIndex, ReplicaId};
use crate::rows::{self, LogStart};
use crate::store::WriteBatch;

/// Where the logs of a new group start: behind an entry that nobody has. A replica that joins later stands before it, and so
/// gets a snapshot first, with the configuration that was there from the beginning and is in no entry.
const FOUNDED_AT: LogStart = LogStart { index: 1, term: 1 };

/// Returns the first rows of a replica of a new group.
///
/// # Panics
/// Panics without voters, or if one is named twice.
pub fn bootstrap(voters: &[ReplicaId]) -> WriteBatch {
    let mut ids: Vec<u64> = voters.iter().map(|voter| voter.get()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(!ids.is_empty(), "a group has voters");
    assert_eq!(ids.len(), voters.len(), "a voter is named once");
    let mut batch = WriteBatch::default();
    rows::put_conf_state(&mut batch, &ConfState { voters: ids, ..ConfState::default() });
    rows::put_truncated(&mut batch, FOUNDED_AT);
    let LogStart { index, term } = FOUNDED_AT;
    rows::put_applied(&mut batch, LogIndex(index), &HardState { term, vote: 0, commit: index });
    batch
}

/// Returns the first rows of a replica that joins a group: it has no log and no configuration, so it neither campaigns nor
/// takes entries until a snapshot of the group is installed, by [`crate::install`]. It votes when it is asked, as one does
/// whom others already count among the voters.
///
/// The id must be new: a replica that comes back under its id without its rows has forgotten what it voted for and
/// acknowledged.
pub fn bootstrap_learner() -> WriteBatch {
    let mut batch = WriteBatch::default();
    rows::put_conf_state(&mut batch, &ConfState::default());
    batch
}
