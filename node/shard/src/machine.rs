//! The replicated machine of one shard.

use semel_index::{ShardCount, ShardId};
use semel_raft::{Applied, LogIndex, State, StateMachine, Store, StoreError, Table};

use crate::apply;
use crate::publication::Publication;
use crate::receipt::Receipt;
use crate::table;

/// One shard's machine. It holds nothing but its place: all it knows is in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMachine {
    shard: ShardId,
    shards: ShardCount,
}

impl ShardMachine {
    /// The machine of `shard` in a cluster of `shards`; `None` if there is no such shard.
    pub fn new(shard: ShardId, shards: ShardCount) -> Option<Self> {
        (shard.0 < shards.get()).then_some(Self { shard, shards })
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The number of shards of the cluster.
    pub fn shards(&self) -> ShardCount {
        self.shards
    }
}

impl StateMachine for ShardMachine {
    type Receipt = Receipt;
    type Publication = Publication;

    const TABLES: &'static [Table] = table::TABLES;

    fn apply(
        &mut self,
        index: LogIndex,
        command: &[u8],
        state: &mut dyn State,
    ) -> Result<Applied<Receipt, Publication>, StoreError> {
        apply::apply(self, index, command, state)
    }

    /// There is nothing in memory to bring up to date; the catalogue is derived by [`replay_catalogue`](crate::replay_catalogue).
    fn restore(&mut self, _applied: LogIndex, _store: &dyn Store) -> Result<(), StoreError> {
        Ok(())
    }
}
