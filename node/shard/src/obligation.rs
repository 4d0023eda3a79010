//! Obligations: what one shard owes another (or itself). Two shards cannot commit together, so the cause commits its
//! consequences as obligations in the same entry; whoever drains them proposes the commands, then discharges them.

use semel_index::{EnrolmentId, GalleryId};
use semel_raft::LogIndex;

use crate::command::Command;

const NUMBER_BITS: u32 = 16;

/// An obligation's name: unique in its shard, ascending in the order in which obligations arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObligationId(pub u64);

impl ObligationId {
    /// The `number`-th obligation of the command at `index`.
    pub(crate) fn at(index: LogIndex, number: usize) -> Self {
        assert!(
            index.0 >> (u64::BITS - NUMBER_BITS) == 0,
            "log index {index} leaves no room for an obligation's number"
        );
        assert!(number >> NUMBER_BITS == 0, "a command leaves fewer than 2^{NUMBER_BITS} obligations");
        Self(index.0 << NUMBER_BITS | number as u64)
    }
}

/// A command that a shard must commit because of what this shard committed. Removed only after it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obligation {
    /// The name.
    pub id: ObligationId,
    /// The gallery whose enrolment the command is about.
    pub gallery: GalleryId,
    /// The enrolment whose shard the command goes to.
    pub addressee: EnrolmentId,
    /// The command. Never a discharge.
    pub command: Command,
}
