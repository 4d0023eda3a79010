//! Which generation of a group's rows is live. The rows of state machines carry a generation in their keys, so that rows of a
//! snapshot lie beside the live ones until one write makes them live and the old ones go; the log's own rows carry none.
//!
//! Rows of [`IDENTITY`](crate::IDENTITY), each behind a version byte:
//!
//! | key | value |
//! |---|---|
//! | `generation/` group | the live generation, where it is not 0 |
//! | `incoming/` group | the generation that rows of a snapshot are being written under |
//! | `tombstone/` group, replica | nothing: the replica was here and was removed |

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use semel_raft::{ReplicaId, StoreError, Table};

use crate::database::IDENTITY;

pub(crate) const GENERATION_PREFIX: &[u8] = b"generation/";
pub(crate) const INCOMING_PREFIX: &[u8] = b"incoming/";
const TOMBSTONE_PREFIX: &[u8] = b"tombstone/";
const VERSION: u8 = 1;

/// Groups are numbered below this, so that a generation fits above them in eight bytes.
const GROUPS_END: u64 = 1 << 48;
pub(crate) const PREFIX_BYTES: usize = size_of::<u64>();

/// Set over a group's rows of state machines. Wraps around: what an old generation held was removed when it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Generation(pub(crate) u16);

impl Generation {
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// The live generation of one group. Held for reading during each read, so that no read falls between the exchange of the rows and
/// the knowledge of it.
#[derive(Debug, Default)]
pub(crate) struct Live(RwLock<Generation>);

impl Live {
    pub(crate) fn new(generation: Generation) -> Self {
        Self(RwLock::new(generation))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Generation> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Generation> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the keys of a group's rows in a table begin with, big-endian: rows of one group and generation lie together.
pub(crate) fn prefix(table: Table, group: u64, generation: Generation) -> u64 {
    assert!(group < GROUPS_END - 1, "group {group} leaves no room for generations");
    if table == Table::LOG || table == Table::RAFT { group } else { u64::from(generation.0) << 48 | group }
}

/// A key of a group's row in a table.
pub(crate) fn row_key(table: Table, group: u64, generation: Generation, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + key.len());
    bytes.extend_from_slice(&prefix(table, group, generation).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// From the first key that a group's rows in a table can have to the first one after them.
pub(crate) fn row_range(table: Table, group: u64, generation: Generation) -> ([u8; PREFIX_BYTES], [u8; PREFIX_BYTES]) {
    let prefix = prefix(table, group, generation);
    (prefix.to_be_bytes(), (prefix + 1).to_be_bytes())
}

pub(crate) fn generation_key(group: u64) -> Vec<u8> {
    [GENERATION_PREFIX, &group.to_be_bytes()].concat()
}

pub(crate) fn incoming_key(group: u64) -> Vec<u8> {
    [INCOMING_PREFIX, &group.to_be_bytes()].concat()
}

pub(crate) fn tombstone_key(group: u64, replica: ReplicaId) -> Vec<u8> {
    [TOMBSTONE_PREFIX, &group.to_be_bytes(), &replica.get().to_be_bytes()].concat()
}

pub(crate) fn encode(generation: Generation) -> [u8; 3] {
    let [high, low] = generation.0.to_be_bytes();
    [VERSION, high, low]
}

pub(crate) const TOMBSTONE: &[u8] = &[VERSION];

/// The group and generation of a row under `key_prefix`.
pub(crate) fn decode(key_prefix: &[u8], key: &[u8], value: &[u8]) -> Result<(u64, Generation), StoreError> {
    let group = key.strip_prefix(key_prefix).and_then(|group| group.try_into().ok()).map(u64::from_be_bytes);
    let generation = match value {
        [VERSION, high, low] => Some(Generation(u16::from_be_bytes([*high, *low]))),
        _ => None,
    };
    group
        .filter(|group| *group < GROUPS_END - 1)
        .zip(generation)
        .ok_or_else(|| StoreError { table: IDENTITY, reason: "the generation of a group is not understood".to_owned() })
}
