//! The state digest: one number for all rows of a shard, equal on replicas that applied the same commands.
//!
//! A sum over rows, so that it can be kept up to date row by row; addition of 128-bit hashes does not depend on order.
//! It finds defects and damaged disks. It is no defence against rows chosen to collide.

use std::fmt;

use semel_raft::Table;

/// The sum, modulo 2^128, of the rows' hashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateDigest(u128);

impl StateDigest {
    /// The digest from its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// The digest's bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// The digest with one more row.
    #[must_use]
    pub(crate) fn with(self, table: Table, key: &[u8], value: &[u8]) -> Self {
        Self(self.0.wrapping_add(hash(table, key, value)))
    }

    /// The digest with one row fewer.
    #[must_use]
    pub(crate) fn without(self, table: Table, key: &[u8], value: &[u8]) -> Self {
        Self(self.0.wrapping_sub(hash(table, key, value)))
    }
}

/// The first 16 bytes of BLAKE3(table ‖ 0 ‖ key length ‖ key ‖ value): no two rows hash the same bytes.
fn hash(table: Table, key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.0.as_bytes()).update(&[0]);
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(value);
    u128::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes"))
}

impl fmt::Display for StateDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StateDigest({self})")
    }
}
