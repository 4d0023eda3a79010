//! The rows of [`Table::LOG`] and [`Table::RAFT`] as they lie in a store. Every value opens with a version byte; readers of an
//! old version stay as they are when a new one comes. What the state machine writes is not decided here.
//!
//! | table | key | value after the version byte |
//! |---|---|---|
//! | log | index, u64 big-endian | protobuf `Entry` |
//! | state | `hard_state` | protobuf `HardState`: term, vote, commit index |
//! | state | `conf_state` | protobuf `ConfState`: voters and learners |
//! | state | `applied` | index, u64 big-endian |
//! | state | `truncated` | index and term of the entry before the log's first, two u64 big-endian; without it, 0 and 0 |
//! | state | `epoch` | how often the configuration was changed, u64 big-endian; without it, 0 |

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
/// The key of the index and term before the log.
pub const TRUNCATED: &[u8] = b"truncated";
/// The key of the epoch of the configuration.
pub const EPOCH: &[u8] = b"epoch";
/// Sorts after every key of the log.
pub(crate) const LOG_END: &[u8] = &[0xff; 9];

/// The entry before the first of the log: removed, or never there. Everything up to it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStart {
    /// Its index; 0 where the log holds every entry.
    pub index: u64,
    /// Its term; 0 where the log holds every entry.
    pub term: u64,
}

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

/// Tells whether changes of the configuration can lead to this one, or it is that of a replica which was told none yet. raft-rs
/// panics on any other.
pub(crate) fn can_be(conf_state: &ConfState) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = conf_state;
    if *conf_state == ConfState::default() {
        return true;
    }
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
    let [index] = decode_numbers("applied index", row)?;
    Ok(LogIndex(index))
}

/// Reads the index and term before the log.
///
/// # Errors
/// The row is of another version or another length.
pub fn decode_truncated(row: &[u8]) -> Result<LogStart, StoreError> {
    let [index, term] = decode_numbers("start of the log", row)?;
    Ok(LogStart { index, term })
}

/// Reads the epoch of the configuration.
///
/// # Errors
/// The row is of another version or another length.
pub fn decode_epoch(row: &[u8]) -> Result<u64, StoreError> {
    let [epoch] = decode_numbers("epoch", row)?;
    Ok(epoch)
}

/// Reads how far `store` is applied; of a snapshot, what all its other rows are the state of.
///
/// # Errors
/// The row cannot be read, is of another version or of another length.
pub fn applied(store: &dyn Store) -> Result<LogIndex, StoreError> {
    store.get(Table::RAFT, APPLIED)?.map_or(Ok(LogIndex(0)), |row| decode_applied(&row))
}

/// Reads what is before the log in `store`.
///
/// # Errors
/// The row cannot be read, is of another version or of another length.
pub fn truncated(store: &dyn Store) -> Result<LogStart, StoreError> {
    store.get(Table::RAFT, TRUNCATED)?.map_or(Ok(LogStart::default()), |row| decode_truncated(&row))
}

/// Reads the epoch of the configuration in `store`.
///
/// # Errors
/// The row cannot be read, is of another version or of another length.
pub fn epoch(store: &dyn Store) -> Result<u64, StoreError> {
    store.get(Table::RAFT, EPOCH)?.map_or(Ok(0), |row| decode_epoch(&row))
}

/// Reads the hard state in `store`: none yet is one of term 0.
pub(crate) fn hard_state(store: &dyn Store) -> Result<HardState, StoreError> {
    store.get(Table::RAFT, HARD_STATE)?.map_or(Ok(HardState::default()), |row| decode_hard_state(&row))
}

/// Reads the entry at `index`, which must be there.
pub(crate) fn entry(store: &dyn Store, index: LogIndex) -> Result<Entry, StoreError> {
    let row = store.get(Table::LOG, &entry_key(index))?.ok_or_else(|| missing(index))?;
    decode_entry(index, &row)
}

pub(crate) fn missing(index: LogIndex) -> StoreError {
    corrupt(Table::LOG, format!("entry {index} is missing"))
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
    batch.put(Table::RAFT, APPLIED, encode_numbers([applied.0]));
}

/// Writes the index and term before the log. In the batch that removes what is up to there: after a crash between the two, the
/// log would have a gap.
pub(crate) fn put_truncated(batch: &mut WriteBatch, truncated: LogStart) {
    batch.put(Table::RAFT, TRUNCATED, encode_numbers([truncated.index, truncated.term]));
}

/// Writes the epoch of the configuration.
pub(crate) fn put_epoch(batch: &mut WriteBatch, epoch: u64) {
    batch.put(Table::RAFT, EPOCH, encode_numbers([epoch]));
}

/// Writes the configuration.
pub(crate) fn put_conf_state(batch: &mut WriteBatch, conf_state: &ConfState) {
    batch.put(Table::RAFT, CONF_STATE, encode(conf_state));
}

fn encode_numbers<const COUNT: usize>(numbers: [u64; COUNT]) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + 8 * COUNT);
    row.put_u8(VERSION);
    numbers.into_iter().for_each(|number| row.put_u64(number));
    row.freeze()
}

fn decode_numbers<const COUNT: usize>(what: &str, row: &[u8]) -> Result<[u64; COUNT], StoreError> {
    let payload = checked(Table::RAFT, what, row)?;
    let (numbers, rest) = payload.as_chunks::<8>();
    match numbers.try_into() {
        Ok(numbers) if rest.is_empty() => Ok(<[[u8; 8]; COUNT]>::map(numbers, u64::from_be_bytes)),
        Ok(_) | Err(_) => Err(corrupt(Table::RAFT, format!("{what} of {} bytes", payload.len()))),
    }
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
