//! What a group replicates: a deterministic machine over the rows of its store.

use bytes::Bytes;

use crate::ids::LogIndex;
use crate::store::{Row, Store, StoreError, Table};

/// The rows of the machine while one command is applied: reads see the command's own earlier writes and those of the
/// commands applied before it, whether or not they have been written yet.
pub trait State {
    /// Returns the value of `key`, or `None` where there is no such row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Returns up to `rows_max` rows with `from <= key < to`, in ascending order.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError>;
    /// Sets a row.
    fn put(&mut self, table: Table, key: Bytes, value: Bytes);
    /// Removes a row, if it is there.
    fn delete(&mut self, table: Table, key: Bytes);
}

/// A replicated state machine. Applying is integer logic over the command and the rows: no clock, no randomness, no
/// floating point, no IO, no iteration order of a hash map.
pub trait StateMachine: Send + 'static {
    /// What the proposer of a command learns once it is applied.
    type Receipt: Send + 'static;
    /// What derived views (an index, a cache) learn of an applied command.
    type Publication: Send + 'static;

    /// The tables the machine writes, besides the log's own.
    const TABLES: &'static [Table];

    /// Applies one committed command. A command that breaks a rule changes nothing and says so in its receipt; an error
    /// is a failed read, and stops the replica.
    fn apply(
        &mut self,
        index: LogIndex,
        command: &[u8],
        state: &mut dyn State,
    ) -> Result<Applied<Self::Receipt, Self::Publication>, StoreError>;

    /// Brings the machine's in-memory part, if it has one, up to the rows in `store`, whose last applied entry is
    /// `applied`. Called once, before the first command.
    fn restore(&mut self, applied: LogIndex, store: &dyn Store) -> Result<(), StoreError>;
}

/// What applying one command gave.
#[derive(Debug)]
pub struct Applied<R, P> {
    /// For the proposer.
    pub receipt: R,
    /// For derived views; in order.
    pub publications: Vec<P>,
}
