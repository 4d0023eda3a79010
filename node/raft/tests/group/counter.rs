//! A state machine that remembers each command and in which order they came.

use bytes::Bytes;
use semel_raft::{Applied, LogIndex, State, StateMachine, Store, StoreError, Table};

pub(crate) const TABLE: Table = Table("counter");

/// Counts commands. A command is a number, little-endian, and padding.
#[derive(Default)]
pub(crate) struct Counter {
    /// In memory only: the last entry seen, to notice one that comes twice or out of order.
    last: LogIndex,
}

/// What the proposer and the views learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) command: u64,
    pub(crate) index: LogIndex,
    /// Depends on every command so far and on their order.
    pub(crate) history: u64,
    pub(crate) total: u64,
}

pub(crate) fn command(number: u64, bytes: usize) -> Bytes {
    let mut command = number.to_le_bytes().to_vec();
    command.resize(bytes.max(8), 0xcc);
    command.into()
}

pub(crate) fn command_key(number: u64) -> Bytes {
    [b"command/".as_slice(), &number.to_be_bytes()].concat().into()
}

fn number(row: Option<Bytes>) -> u64 {
    row.map_or(0, |row| u64::from_be_bytes(row[..].try_into().expect("rows hold eight bytes")))
}

impl StateMachine for Counter {
    type Receipt = Counted;
    type Publication = Counted;
    const TABLES: &'static [Table] = &[TABLE];

    fn apply(
        &mut self,
        index: LogIndex,
        command: &[u8],
        state: &mut dyn State,
    ) -> Result<Applied<Counted, Counted>, StoreError> {
        assert!(index > self.last, "entry {index} after {}", self.last);
        self.last = index;
        let command = u64::from_le_bytes(command[..8].try_into().expect("commands hold eight bytes"));
        assert!(state.get(TABLE, &command_key(command))?.is_none(), "command {command} is applied twice");
        let history = number(state.get(TABLE, b"history")?).rotate_left(7) ^ command.wrapping_mul(31) ^ index.0;
        let total = number(state.get(TABLE, b"total")?) + 1;
        let rows = state.scan(TABLE, b"command/", b"command0", usize::MAX)?;
        assert_eq!(rows.len() as u64 + 1, total, "a scan sees every command before");
        for (key, value) in [(b"history".as_slice(), history), (b"total", total)] {
            state.put(TABLE, Bytes::copy_from_slice(key), Bytes::copy_from_slice(&value.to_be_bytes()));
        }
        state.put(TABLE, command_key(command), Bytes::copy_from_slice(&index.0.to_be_bytes()));
        let counted = Counted { command, index, history, total };
        Ok(Applied { receipt: counted.clone(), publications: vec![counted] })
    }

    fn restore(&mut self, applied: LogIndex, store: &dyn Store) -> Result<(), StoreError> {
        self.last = applied;
        let last = store.scan(TABLE, b"command/", b"command0", usize::MAX)?;
        assert!(
            last.iter().all(|(_, index)| number(Some(index.clone())) <= applied.0),
            "rows beyond the applied index"
        );
        Ok(())
    }
}
