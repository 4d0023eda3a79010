//! What a replica reads from and writes to: an ordered byte map per table, private to the replica's group.
//!
//! The replica never performs IO. It reads through [`Store`] and hands out [`WriteBatch`]es as effects; the driver makes
//! each batch atomic and, where asked, durable. RocksDB implements this in `semel-raft-host`, memory in [`crate::memory`].

use std::fmt;

use bytes::Bytes;

/// A family of rows within a group's store. In RocksDB, a column family; keys of different tables never meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub &'static str);

impl Table {
    /// Log entries, keyed by index (big-endian u64).
    pub const LOG: Table = Table("raft_log");
    /// Hard state, configuration, applied index.
    pub const RAFT: Table = Table("raft_state");
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A read that failed. The replica that meets one stops; it never guesses.
#[derive(Debug, Clone, thiserror::Error)]
#[error("read {table:?}: {reason}")]
pub struct StoreError {
    /// The table that could not be read.
    pub table: Table,
    /// What the storage said.
    pub reason: String,
}

/// One row of a scan.
pub type Row = (Bytes, Bytes);

/// Reads of one group's rows, as of the last batch that was written.
pub trait Store {
    /// Returns the value of `key`, or `None` where there is no such row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Returns up to `rows_max` rows with `from <= key < to`, in ascending order of their keys.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError>;
}

/// One change of a batch.
#[derive(Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets the row.
    Put {
        /// The table of the row.
        table: Table,
        /// Its key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes the row, if it is there.
    Delete {
        /// The table of the row.
        table: Table,
        /// Its key.
        key: Bytes,
    },
    /// Removes every row with `from <= key < to`.
    DeleteRange {
        /// The table of the rows.
        table: Table,
        /// The first key removed.
        from: Bytes,
        /// The first key kept.
        to: Bytes,
    },
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may hold templates: lengths only.
        match self {
            Write::Put { table, key, value } => write!(f, "put {table:?} key[{}] value[{}]", key.len(), value.len()),
            Write::Delete { table, key } => write!(f, "delete {table:?} key[{}]", key.len()),
            Write::DeleteRange { table, .. } => write!(f, "delete range {table:?}"),
        }
    }
}

/// Changes that become visible together or not at all, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// The changes, in the order in which they are made.
    pub writes: Vec<Write>,
}

impl WriteBatch {
    /// Tells whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Appends a change that sets a row.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put { table, key: key.into(), value: value.into() });
    }

    /// Appends a change that removes a row.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.writes.push(Write::Delete { table, key: key.into() });
    }

    /// Appends a change that removes every row with `from <= key < to`.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        self.writes.push(Write::DeleteRange { table, from: from.into(), to: to.into() });
    }
}
