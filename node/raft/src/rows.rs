//! The rows of [`Table::LOG`] and [`Table::RAFT`] as they lie in a store. Every value opens with a version byte; readers of an
//! old version stay as they are when a new one comes. What the state machine writes is not decided here.
//!
//! | table | key | value after the version byte |
//! |---|---|---|
//! | log | index, u64 big-endian | protobuf `Entry` |
//! | state | `hard_state` | protobuf `HardState`: term, vote, commit index |
//! | state | `conf_state` | protobuf `ConfState`: the voters |
//! | state | `applied` | index, u64 big-endian |
//!
//! The key `truncated` is kept free for the index and term before a compacted log.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

use crate::ids::LogIndex;
use crate::mutant::Mutant;
use crate::store::{Store, StoreError, Table, WriteBatch};

/// The version of the rows written.
pub const VERSION: u8 = 1;
/// The key of the hard state.
pub const HARD_STATE: &[u8] = b"hard_state";
/// The key of the configuration.
pub const CONF_STATE: &[u8] = b"conf_state";
/// The key of the applied index.
pub const APPLIED: &[u8] = b"applied";
/// The index before the first entry, and its term: logs are not compacted.
pub(crate) const BEFORE_FIRST: u64 = 0;
/// Sorts after every key of the log.
pub(crate) const LOG_END: &[u8] = &[0xff; 9];

/// Returns the key of the entry at `index`.
pub fn entry_key(index: LogIndex) -> Bytes {
    Bytes::copy_from_slice(&index.0.to_be_bytes())
}

/// Returns the row of `entry`.
pub fn encode_entry(entry: &Entry) -> Bytes {
    encode(entry)
}

/// Reads the row of the entry at `index`.
///
/// # Errors
/// The row is of another version, not an entry, or another entry's.
pub fn decode_entry(index: LogIndex, row: &[u8]) -> Result<Entry, StoreError> {
    let entry: Entry = decode(Table::LOG, "entry", row).map_err(|error| at(index, &error.reason))?;
    if entry.index != index.0 {
        return Err(at(index, &format!("holds entry {}", entry.index)));
    }
    if EntryType::from_i32(entry.entry_type).is_none() {
        return Err(at(index, "unknown entry type"));
    }
    Ok(entry)
}

/// Reads the index in the key of an entry.
///
/// # Errors
/// The key is not eight bytes long.
pub fn decode_entry_key(key: &[u8]) -> Result<LogIndex, StoreError> {
    let bytes = key.try_into().map_err(|_| corrupt(Table::LOG, format!("a key of {} bytes", key.len())))?;
    Ok(LogIndex(u64::from_be_bytes(bytes)))
}

/// Reads the hard state.
///
/// # Errors
/// The row is of another version or not a hard state.
pub fn decode_hard_state(row: &[u8]) -> Result<HardState, StoreError> {
    decode(Table::RAFT, "hard state", row)
}

/// Reads the configuration.
///
/// # Errors
/// The row is of another version, not a configuration, or one that no series of changes leads to.
pub fn decode_conf_state(row: &[u8]) -> Result<ConfState, StoreError> {
    let conf_state: ConfState = decode(Table::RAFT, "configuration", row)?;
    if !can_be(&conf_state) {
        let ConfState { voters, learners, voters_outgoing, learners_next, .. } = conf_state;
        let others = format!("outgoing {voters_outgoing:?}, learners {learners:?} and {learners_next:?}");
        return Err(corrupt(Table::RAFT, format!("configuration with voters {voters:?}, {others}")));
    }
    Ok(conf_state)
}

/// Tells whether changes of the configuration can lead to this one. raft-rs panics on any other.
fn can_be(conf_state: &ConfState) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = conf_state;
    let joint = !voters_outgoing.is_empty();
    let each_named_once = [voters, learners, voters_outgoing, learners_next].into_iter().all(|replicas| {
        let distinct: BTreeSet<u64> = replicas.iter().copied().collect();
        distinct.len() == replicas.len() && !distinct.contains(&0)
    });
    each_named_once
        && !voters.is_empty()
        && !learners.iter().any(|learner| voters.contains(learner) || voters_outgoing.contains(learner))
        // Who votes until the change is complete and learns from then on.
        && learners_next.iter().all(|next| voters_outgoing.contains(next) && !voters.contains(next))
        && (joint || !auto_leave)
}

/// Reads the applied index.
///
/// # Errors
/// The row is of another version or another length.
pub fn decode_applied(row: &[u8]) -> Result<LogIndex, StoreError> {
    let payload = checked(Table::RAFT, "applied index", row)?;
    let bytes =
        payload.try_into().map_err(|_| corrupt(Table::RAFT, format!("applied index of {} bytes", payload.len())))?;
    Ok(LogIndex(u64::from_be_bytes(bytes)))
}

/// Reads how far `store` is applied; of a snapshot, what all its other rows are the state of.
///
/// # Errors
/// The row cannot be read, is of another version or of another length.
pub fn applied(store: &dyn Store) -> Result<LogIndex, StoreError> {
    store.get(Table::RAFT, APPLIED)?.map_or(Ok(LogIndex(BEFORE_FIRST)), |row| decode_applied(&row))
}

/// Writes the hard state alone.
pub(crate) fn put_hard_state(batch: &mut WriteBatch, hard_state: &HardState) {
    let mut hard_state = hard_state.clone();
    if Mutant::VoteForgotten.is_chosen() {
        hard_state.vote = 0;
    }
    batch.put(Table::RAFT, HARD_STATE, encode(&hard_state));
}

/// Writes the applied index, never without a commit index that covers it: after a crash between the two, the log could be
/// read as shorter than what was applied from it.
pub(crate) fn put_applied(batch: &mut WriteBatch, applied: LogIndex, hard_state: &HardState) {
    assert!(hard_state.commit >= applied.0, "applied {applied} beyond commit {}", hard_state.commit);
    put_hard_state(batch, hard_state);
    let mut row = BytesMut::with_capacity(9);
    row.put_u8(VERSION);
    row.put_u64(applied.0);
    batch.put(Table::RAFT, APPLIED, row.freeze());
}

/// Writes the configuration.
pub(crate) fn put_conf_state(batch: &mut WriteBatch, conf_state: &ConfState) {
    batch.put(Table::RAFT, CONF_STATE, encode(conf_state));
}

fn encode(message: &impl raft_prost::Message) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + message.encoded_len());
    row.put_u8(VERSION);
    message.encode(&mut row).expect("a BytesMut grows as needed");
    row.freeze()
}

fn decode<T: raft_prost::Message + Default>(table: Table, what: &str, row: &[u8]) -> Result<T, StoreError> {
    let payload = checked(table, what, row)?;
    T::decode(payload).map_err(|error| corrupt(table, format!("{what}: {error}")))
}

fn checked<'a>(table: Table, what: &str, row: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match row.split_first() {
        Some((&VERSION, payload)) => Ok(payload),
        Some((version, _)) => Err(corrupt(table, format!("{what} of unknown version {version}"))),
        None => Err(corrupt(table, format!("{what} without a byte"))),
    }
}

fn at(index: LogIndex, reason: &str) -> StoreError {
    corrupt(Table::LOG, format!("at {index}: {reason}"))
}

fn corrupt(table: Table, reason: String) -> StoreError {
    StoreError { table, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration that contradicts itself once made raft-rs panic while its replica was opened.
    #[test]
    fn a_configuration_that_cannot_be_is_refused() {
        let joint = ConfState {
            voters: vec![1, 2],
            learners: vec![4],
            voters_outgoing: vec![1, 3],
            learners_next: vec![3],
            auto_leave: true,
        };
        assert_eq!(decode_conf_state(&encode(&joint)).expect("a configuration"), joint);
        let refused = |change: fn(&mut ConfState)| {
            let mut conf_state = joint.clone();
            change(&mut conf_state);
            decode_conf_state(&encode(&conf_state)).expect_err("refused");
        };
        refused(|joint| joint.voters.clear());
        refused(|joint| joint.voters = vec![1, 1]);
        refused(|joint| joint.voters_outgoing = vec![0]);
        refused(|joint| joint.learners = vec![2]);
        refused(|joint| joint.learners = vec![3]);
        refused(|joint| joint.learners_next = vec![5]);
        refused(|joint| joint.learners_next = vec![1]);
        refused(|joint| joint.voters_outgoing.clear());
    }
}
