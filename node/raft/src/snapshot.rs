//! Snapshots: what one says of itself, and the rows of a replica in which one is installed. The rows of the machine travel
//! outside of raft's messages and are exchanged by the driver, while the replica is closed: a replica that opens is either as
//! it was or as the snapshot makes it. Which follower needs one is in [`crate::offers`].

use raft::eraftpb::{ConfState, HardState};
use raft_prost::Message as _;

use crate::ids::{LogIndex, ReplicaId};
use crate::membership::ids;
use crate::message::NUMBER_MAX;
use crate::mutant::Mutant;
use crate::rows::{self, LogStart};
use crate::store::{Store, StoreError, Table, WriteBatch};

/// The version of the bytes of [`SnapshotMetadata`].
const VERSION: u8 = 1;
/// Before the configuration: version, index, term, epoch.
const HEAD_BYTES: usize = 1 + 3 * 8;
/// The most replicas that a snapshot's configuration may name: learners and voters, before and after.
const REPLICAS_MAX: usize = 64;

/// A follower that needs a snapshot of the leader's rows.
///
/// The driver pins a view of the rows as they are after the writes of these effects, reads [`snapshot_of`] from it and sends
/// it with every row of the machine's tables. It says how that ended by [`crate::Event::SnapshotSent`], always: until then
/// the follower is sent nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Who needs it.
    pub to: ReplicaId,
}

/// What a snapshot is the state of: everything but the rows of the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotMetadata {
    index: LogIndex,
    term: u64,
    epoch: u64,
    conf_state: ConfState,
}

/// Why bytes are not the metadata of a snapshot.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum DecodeSnapshotError {
    /// Fewer bytes than every version has, or other bytes where the configuration is.
    #[error("not the metadata of a snapshot: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A later version wrote them.
    #[error("metadata of a snapshot of unknown version {version}")]
    UnknownVersion {
        /// The version.
        version: u8,
    },
    /// A field breaks a rule that every snapshot keeps.
    #[error("metadata of a snapshot with wrong {field}")]
    WrongField {
        /// The field.
        field: &'static str,
    },
}

impl SnapshotMetadata {
    /// The last entry that is applied in the snapshot's rows; at least 1.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The term of that entry; at least 1.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// How often the configuration had been changed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The voters of the configuration, ascending; while it is joint, those to come.
    pub fn voters(&self) -> Vec<ReplicaId> {
        ids(&self.conf_state.voters)
    }

    /// The learners of the configuration, ascending.
    pub fn learners(&self) -> Vec<ReplicaId> {
        ids(&self.conf_state.learners)
    }

    /// The voters that the configuration is being changed from, ascending; empty unless it is joint.
    pub fn voters_outgoing(&self) -> Vec<ReplicaId> {
        ids(&self.conf_state.voters_outgoing)
    }

    /// Tells whether the configuration names the replica. A snapshot is of use to no other.
    pub fn names(&self, replica: ReplicaId) -> bool {
        crate::membership::names(&self.conf_state, replica.get())
    }

    /// Returns the bytes: a version, index, term and epoch as big-endian u64, the configuration as protobuf `ConfState`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.conf_state.encoded_len());
        bytes.push(VERSION);
        for number in [self.index.0, self.term, self.epoch] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        self.conf_state.encode(&mut bytes).expect("a Vec grows as needed");
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are of another version, cut short or damaged, or name what no snapshot does: index or term 0 or above 2^62,
    /// or a configuration that has no voter, more than 64 replicas, or contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeSnapshotError> {
        let malformed = |reason: String| DecodeSnapshotError::Malformed { reason };
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(DecodeSnapshotError::UnknownVersion { version }),
            None => return Err(malformed("no byte".to_owned())),
        }
        let Some((head, conf_state)) = bytes.split_at_checked(HEAD_BYTES) else {
            return Err(malformed(format!("{} bytes", bytes.len())));
        };
        let number = |place: usize| {
            let bytes = &head[1 + 8 * place..1 + 8 * (place + 1)];
            u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
        };
        let conf_state = ConfState::decode(conf_state).map_err(|error| malformed(error.to_string()))?;
        let metadata = Self { index: LogIndex(number(0)), term: number(1), epoch: number(2), conf_state };
        match metadata.wrong_field() {
            Some(field) => Err(DecodeSnapshotError::WrongField { field }),
            None => Ok(metadata),
        }
    }

    fn wrong_field(&self) -> Option<&'static str> {
        let ConfState { voters, learners, voters_outgoing, learners_next, .. } = &self.conf_state;
        let replicas = voters.len() + learners.len() + voters_outgoing.len() + learners_next.len();
        if self.index.0 == 0 || self.index.0 > NUMBER_MAX {
            Some("index")
        } else if self.term == 0 || self.term > NUMBER_MAX {
            Some("term")
        } else if self.epoch > NUMBER_MAX {
            Some("epoch")
        } else if voters.is_empty() || replicas > REPLICAS_MAX || !rows::can_be(&self.conf_state) {
            Some("configuration")
        } else {
            None
        }
    }
}

/// Reads what the rows in `view` are the state of. The view must be of one moment.
///
/// # Errors
/// A row cannot be read or says what cannot be, or the view holds no replica that has applied anything.
pub fn snapshot_of(view: &dyn Store) -> Result<SnapshotMetadata, StoreError> {
    let nothing = |what: &str| StoreError { table: Table::RAFT, reason: format!("no {what} for a snapshot") };
    let conf_state = view.get(Table::RAFT, rows::CONF_STATE)?.ok_or_else(|| nothing("configuration"))?;
    let index = rows::applied(view)?;
    let truncated = rows::truncated(view)?;
    let term = if index.0 == truncated.index { truncated.term } else { rows::entry(view, index)?.term };
    let metadata =
        SnapshotMetadata { index, term, epoch: rows::epoch(view)?, conf_state: rows::decode_conf_state(&conf_state)? };
    match metadata.wrong_field() {
        Some(field) => Err(nothing(field)),
        None => Ok(metadata),
    }
}

/// Returns the rows of the log that make the closed replica in `store` one that has applied everything up to the snapshot's
/// index, or `None` if it has as much already, so that the snapshot is of no use. They must be written together with the
/// exchange of the machine's rows, as one synced batch; the replica may then be opened again.
///
/// Term and vote are kept or advanced. Entries after the snapshot's index stay where the log is known to be the group's up to
/// there: the replica may have acknowledged them.
///
/// # Errors
/// A row cannot be read or says what cannot be.
pub fn install(store: &dyn Store, snapshot: &SnapshotMetadata) -> Result<Option<WriteBatch>, StoreError> {
    let hard_state = rows::hard_state(store)?;
    let SnapshotMetadata { index, term, epoch, conf_state } = snapshot;
    // What is committed is in the log, and is applied from there.
    if hard_state.commit >= index.0 {
        return Ok(None);
    }
    let entry =
        store.get(Table::LOG, &rows::entry_key(*index))?.map(|row| rows::decode_entry(*index, &row)).transpose()?;
    let continues = entry.is_some_and(|entry| entry.term == *term) && !Mutant::InstallDropsTail.is_chosen();
    let mut batch = WriteBatch::default();
    if continues {
        batch.delete_range(Table::LOG, rows::entry_key(LogIndex(0)), rows::entry_key(LogIndex(index.0 + 1)));
    } else {
        batch.delete_range(Table::LOG, rows::entry_key(LogIndex(0)), rows::LOG_END);
    }
    let keeps_vote = hard_state.term >= *term && !Mutant::InstallForgetsVote.is_chosen();
    let vote = if keeps_vote { hard_state.vote } else { 0 };
    rows::put_conf_state(&mut batch, conf_state);
    rows::put_epoch(&mut batch, *epoch);
    rows::put_truncated(&mut batch, LogStart { index: index.0, term: *term });
    rows::put_applied(&mut batch, *index, &HardState { term: hard_state.term.max(*term), vote, commit: index.0 });
    Ok(Some(batch))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::Entry;

    use super::*;
    use crate::memory::MemoryStore;

    fn metadata(index: u64, term: u64) -> SnapshotMetadata {
        let conf_state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
        SnapshotMetadata { index: LogIndex(index), term, epoch: 3, conf_state }
    }

    /// A replica whose log holds entries of `terms` after (10, 2) and is committed up to `commit`.
    fn replica(terms: &[u64], hard_state: HardState) -> MemoryStore {
        let store = MemoryStore::new();
        let mut batch = WriteBatch::default();
        for (index, term) in (11..).zip(terms) {
            let entry = Entry { index, term: *term, ..Entry::default() };
            batch.put(Table::LOG, rows::entry_key(LogIndex(index)), rows::encode_entry(&entry));
        }
        rows::put_conf_state(&mut batch, &ConfState { voters: vec![1, 2, 3], ..ConfState::default() });
        rows::put_truncated(&mut batch, LogStart { index: 10, term: 2 });
        rows::put_applied(&mut batch, LogIndex(10), &hard_state);
        store.write(&batch);
        store
    }

    /// Installs the snapshot and returns term, vote and commit index, and the indices of the log; `None` if it is of no use.
    fn installed(store: &MemoryStore, snapshot: &SnapshotMetadata) -> Option<((u64, u64, u64), Vec<u64>)> {
        store.write(&install(store, snapshot).expect("the rows can be read")?);
        assert_eq!(snapshot_of(store).expect("what was installed"), *snapshot);
        let truncated = rows::truncated(store).expect("the row can be read");
        assert_eq!((truncated.index, truncated.term), (snapshot.index.0, snapshot.term));
        let HardState { term, vote, commit } = rows::hard_state(store).expect("the row can be read");
        let log = store.rows(Table::LOG);
        Some(((term, vote, commit), log.iter().map(|(key, _)| rows::decode_entry_key(key).expect("a key").0).collect()))
    }

    #[test]
    fn a_snapshot_takes_the_place_of_the_log_it_goes_beyond() {
        let state = |term, vote, commit| HardState { term, vote, commit };
        let check = |terms: &[u64], hard_state: HardState, (index, term), expected| {
            assert_eq!(installed(&replica(terms, hard_state), &metadata(index, term)), expected);
        };
        // Beyond the end of the log; in the term in which it voted, in a later one, in an earlier one.
        check(&[2, 2], state(5, 3, 11), (20, 5), Some(((5, 3, 20), vec![])));
        check(&[2, 2], state(5, 3, 11), (20, 6), Some(((6, 0, 20), vec![])));
        check(&[2, 2], state(5, 3, 11), (20, 4), Some(((5, 3, 20), vec![])));
        // Within the log: what follows was acknowledged, and stays.
        check(&[2, 4, 4, 4], state(5, 3, 11), (12, 4), Some(((5, 3, 12), vec![13, 14])));
        check(&[2, 4], state(5, 3, 11), (12, 4), Some(((5, 3, 12), vec![])));
        // Of another log: nothing of this one stays.
        check(&[2, 3, 3, 3], state(5, 3, 11), (12, 4), Some(((5, 3, 12), vec![])));
        // No more than what is committed.
        check(&[2, 4], state(5, 3, 12), (12, 4), None);
        check(&[2, 4], state(5, 3, 12), (11, 2), None);
        check(&[], state(5, 3, 10), (9, 2), None);
    }

    #[test]
    fn a_replica_that_joins_takes_any_snapshot() {
        let store = MemoryStore::new();
        store.write(&crate::bootstrap_learner());
        assert!(snapshot_of(&store).is_err(), "it has none to give");
        assert_eq!(installed(&store, &metadata(20, 5)), Some(((5, 0, 20), vec![])));
    }

    #[test]
    fn metadata_survives_its_bytes_and_says_what_is_wrong() {
        let good = metadata(20, 5);
        assert_eq!(SnapshotMetadata::decode(&good.encode()), Ok(good.clone()));
        let names = [1, 4, 5].map(|id| good.names(ReplicaId::new(id).expect("not zero")));
        assert_eq!(names, [true, true, false]);
        let wrong = |change: fn(&mut SnapshotMetadata)| {
            let mut metadata = metadata(20, 5);
            change(&mut metadata);
            match SnapshotMetadata::decode(&metadata.encode()) {
                Err(DecodeSnapshotError::WrongField { field }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wrong(|metadata| metadata.index = LogIndex(0)), "index");
        assert_eq!(wrong(|metadata| metadata.index = LogIndex(u64::MAX)), "index");
        assert_eq!(wrong(|metadata| metadata.term = 0), "term");
        assert_eq!(wrong(|metadata| metadata.epoch = u64::MAX), "epoch");
        assert_eq!(wrong(|metadata| metadata.conf_state.voters.clear()), "configuration");
        assert_eq!(wrong(|metadata| metadata.conf_state = ConfState::default()), "configuration");
        assert_eq!(wrong(|metadata| metadata.conf_state.learners = vec![1]), "configuration");
        assert_eq!(wrong(|metadata| metadata.conf_state.learners = (4..99).collect()), "configuration");
        let later = [&[2], &good.encode()[1..]].concat();
        assert_eq!(SnapshotMetadata::decode(&later), Err(DecodeSnapshotError::UnknownVersion { version: 2 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), good in any::<bool>()) {
            let mut damaged = if good { metadata(20, 5).encode() } else { vec![VERSION] };
            let at = bytes.first().map_or(0, |place| usize::from(*place) % damaged.len());
            damaged.splice(at.., bytes);
            if let Ok(metadata) = SnapshotMetadata::decode(&damaged) {
                prop_assert_eq!(SnapshotMetadata::decode(&metadata.encode()), Ok(metadata));
            }
        }
    }
}
