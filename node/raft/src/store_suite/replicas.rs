//! Writes of replicas: each group has a follower here, whose leaders append, replace tails that were not committed, commit,
//! are voted for and send snapshots. What the disk then holds must open as the follower that it was, and keep what it told
//! others.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType,
};
use raft::{CAMPAIGN_TRANSFER, GetEntriesContext, Storage};
use raft_prost::Message as _;

use super::crashes::{Chance, Crash, CrashingDisk, DiskWrite, GROUPS, Models, Survival, Workload, check_crashes};
use super::{Model, TALLIES};
use crate::log::ReplicaLog;
use crate::memory::MemoryStore;
use crate::offers::Offers;
use crate::rows::LogStart;
use crate::store::{Store, StoreError, Table, WriteBatch};
use crate::{
    Applied, Effects, Event, LogIndex, OpenError, Replica, ReplicaConfig, ReplicaId, Row, SnapshotMetadata, State,
    StateMachine, bootstrap, install, rows, snapshot_of,
};

/// The follower on the disk; the other two are leaders in turn.
const FOLLOWER: u64 = 1;
const LEADERS: [u64; 2] = [2, 3];
/// Is made a learner and removed again.
const LEARNER: u64 = 4;
/// Entries in one message.
const ENTRIES_MAX: usize = 5;
/// Applied entries in a log, so that it is cut short often.
const LOG_ENTRIES_MAX: u64 = 12;
const LOG_ENTRIES_KEPT: u64 = 5;
/// The terms of the log of a new group: of the entry that nobody has.
const FOUNDED: [u64; 1] = [1];
/// Of one command in eight; others are short.
const LARGE_BYTES: usize = 50_000;

/// Puts a disk through crashes between and in the middle of the writes of replicas: entries appended, conflicting tails
/// replaced, logs cut short, terms, votes, commit and applied indices, configurations, the rows of a machine, and snapshots of
/// all of it. After each crash every replica must open, as what the writes left make of it, and must have forgotten nothing that it told another. The writes
/// follow from `seed`. The last crash must follow a write.
///
/// # Panics
/// Panics with the seed and what is wrong.
pub fn check_replicas_survive_crashes<D: CrashingDisk>(disk: &mut D, seed: u64, crashes: &[Crash]) -> Survival {
    let followers = GROUPS.iter().map(|group| (*group, Follower::fresh(seed))).collect();
    let mut workload = Replicas { seed, chance: Chance::new(seed), followers, founded: false };
    check_crashes(disk, &mut workload, seed, crashes)
}

struct Replicas {
    seed: u64,
    chance: Chance,
    followers: BTreeMap<u64, Follower>,
    /// Whether the groups' first rows were written and acknowledged.
    founded: bool,
}

impl Workload for Replicas {
    fn next(&mut self) -> DiskWrite {
        if !self.founded {
            for follower in self.followers.values_mut() {
                follower.log = FOUNDED.to_vec();
                follower.note_log();
            }
            let changes = GROUPS.iter().map(|group| (*group, bootstrap(&voters()))).collect();
            return DiskWrite { changes, synced: true };
        }
        loop {
            let mut write = DiskWrite::default();
            for (group, follower) in &mut self.followers {
                if follower.carrying.is_none() && self.chance.one_in(2) {
                    follower.hear(&mut self.chance);
                }
                if let Some(Carried { changes, synced, .. }) = &follower.carrying {
                    write.changes.push((*group, changes.clone()));
                    write.synced |= synced;
                }
            }
            if !write.changes.is_empty() {
                self.followers.values_mut().for_each(Follower::note_log);
                return write;
            }
        }
    }

    fn acknowledged(&mut self) {
        for follower in self.followers.values_mut() {
            if self.founded { follower.carried_out() } else { follower.found() }
        }
        self.founded = true;
    }

    fn reopen<D: CrashingDisk>(&mut self, disk: &D, rows: &Models, survivors: usize) {
        let none = Model::new();
        self.founded = rows.contains_key(&GROUPS[0]);
        for (group, follower) in &mut self.followers {
            let context = format!("SEED={} group {group}", self.seed);
            follower.restart(rows.get(group).unwrap_or(&none), survivors);
            follower.check_opened(|| disk.group(*group), &context);
        }
    }
}

/// What the follower told another replica, which counts on it from then on.
enum Promise {
    /// It has the leader's log up to here.
    Accepted { term: u64, index: u64 },
    /// It votes for nobody else in this term.
    Voted { term: u64, candidate: u64 },
}

/// Rows on their way to the disk.
struct Carried {
    changes: WriteBatch,
    synced: bool,
    /// What the replica is told then.
    number: Option<u64>,
}

struct Follower {
    seed: u64,
    /// What the disk would hold if no crash lost a write.
    store: MemoryStore,
    /// None before the first rows, and while a snapshot is installed.
    replica: Option<Replica<MemoryStore, Tally>>,
    /// Rows that are being written.
    carrying: Option<Carried>,
    promises: Vec<Promise>,
    /// The terms of the entries of its log, with those that were removed from it.
    log: Vec<u64>,
    /// What `log` was after each of the writes since it was opened, and before them.
    logs: Vec<Vec<u64>>,
    /// The terms of the entries that it knew to be committed when it told so: no leader has others.
    committed: Vec<u64>,
    /// The current leader's term.
    term: u64,
    opened: u64,
}

impl Follower {
    fn fresh(seed: u64) -> Self {
        Self {
            seed,
            store: MemoryStore::new(),
            replica: None,
            carrying: None,
            promises: Vec::new(),
            log: Vec::new(),
            logs: vec![Vec::new()],
            committed: Vec::new(),
            term: 1,
            opened: 0,
        }
    }

    fn found(&mut self) {
        self.store.write(&bootstrap(&voters()));
        self.open();
        self.follow_commit();
    }

    fn open(&mut self) {
        self.opened += 1;
        let opened = Replica::open(config(self.opened, self.seed), self.store.clone(), Tally);
        self.replica = Some(opened.unwrap_or_else(|error| panic!("SEED={}: {error}", self.seed)));
    }

    fn replica(&mut self) -> &mut Replica<MemoryStore, Tally> {
        self.replica.as_mut().expect("its first rows are written, and no snapshot is being installed")
    }

    /// Takes in a message of the current leader, or of a candidate.
    fn hear(&mut self, chance: &mut Chance) {
        let message = match chance.below(9) {
            8 => return self.install(chance),
            0 => self.vote_for_another(),
            1 => self.replace_tail(chance),
            2 | 3 => self.commit(chance),
            _ => self.append(chance),
        };
        let effects = self.replica().step(Event::Receive(Box::new(message)));
        assert!(effects.writes.is_empty() && effects.messages.is_empty(), "only what is collected leaves");
        let effects = self.replica().step(Event::Collect);
        self.carry(effects);
    }

    fn carry(&mut self, mut effects: Effects<Tally>) {
        // Messages rest on what was synced before.
        for message in std::mem::take(&mut effects.messages) {
            self.promised(&message);
        }
        if !effects.writes.is_empty() {
            self.carrying =
                Some(Carried { changes: effects.writes, synced: effects.sync.is_some(), number: effects.sync });
        }
    }

    /// The rows were written.
    fn carried_out(&mut self) {
        let Some(Carried { changes, number, .. }) = self.carrying.take() else { return };
        self.store.write(&changes);
        if self.replica.is_some() {
            if let Some(number) = number {
                let _ = self.replica().step(Event::Synced(number));
            }
            if self.replica().has_work() {
                let effects = self.replica().step(Event::Collect);
                self.carry(effects);
            }
        } else {
            self.open();
        }
        self.follow_commit();
    }

    /// No leader sends other entries up to the commit index from now on.
    fn follow_commit(&mut self) {
        let commit = self.replica().status().commit.0 as usize;
        if commit > self.committed.len() {
            assert!(self.log.starts_with(&self.committed), "SEED={}: a committed entry is gone", self.seed);
            self.committed = self.log[..commit].to_vec();
        }
    }

    fn promised(&mut self, message: &Message) {
        let (term, reject) = (message.term, message.reject);
        match message.get_msg_type() {
            MessageType::MsgAppendResponse if !reject => {
                self.promises.push(Promise::Accepted { term, index: message.index });
            }
            MessageType::MsgRequestVoteResponse if !reject => {
                self.promises.push(Promise::Voted { term, candidate: message.to });
            }
            kind => assert!(reject || kind == MessageType::MsgHeartbeatResponse, "{kind:?} is not expected"),
        }
    }

    /// A snapshot of a leader is installed, if it is of use: of one that has the follower's log, or of one that has other entries
    /// after what is committed.
    fn install(&mut self, chance: &mut Chance) {
        let least = self.committed.len();
        let mut log = self.log.clone();
        if chance.one_in(2) {
            self.term += 1;
            log.truncate(least + chance.below(log.len() + 1 - least));
            log.resize(log.len() + 1 + chance.below(2 * ENTRIES_MAX), self.term);
        }
        let index = least + chance.below(log.len() + 1 - least);
        let (rows, snapshot) = snapshot(&log[..index]);
        self.replica = None;
        let commit = DurableState::read(&self.store).hard_state.commit;
        let installed = install(&self.store, &snapshot).expect("the rows can be read");
        assert_eq!(installed.is_some(), index as u64 > commit, "SEED={}: whether a snapshot is of use", self.seed);
        let Some(mut changes) = installed else { return self.open() };
        changes.delete_range(TALLIES, Bytes::new(), vec![0xff; 9]);
        rows.into_iter().for_each(|(key, value)| changes.put(TALLIES, key, value));
        self.carrying = Some(Carried { changes, synced: true, number: None });
        // Entries that follow on what is in the snapshot stay.
        if self.log.get(index - 1) != log.get(index - 1) {
            self.log = log[..index].to_vec();
        }
    }

    fn append(&mut self, chance: &mut Chance) -> Message {
        let before = self.log.len();
        let entries = self.entries_after(before, chance);
        Message { entries, commit: self.committed_up_to(chance), ..self.of_leader(MessageType::MsgAppend, before) }
    }

    /// A new leader does not know the end of the log, or knows other entries there.
    fn replace_tail(&mut self, chance: &mut Chance) -> Message {
        self.term += 1;
        // Nor the follower, if it has just lost what it did not sync, may be sent entries from before its commit index.
        let kept = self.committed.len() + chance.below(self.log.len() + 1 - self.committed.len());
        let entries = self.entries_after(kept, chance);
        Message { entries, commit: self.committed_up_to(chance), ..self.of_leader(MessageType::MsgAppend, kept) }
    }

    fn commit(&mut self, chance: &mut Chance) -> Message {
        let end = self.log.len();
        Message { commit: self.committed_up_to(chance), ..self.of_leader(MessageType::MsgHeartbeat, end) }
    }

    fn vote_for_another(&mut self) -> Message {
        self.term += 1;
        let context = CAMPAIGN_TRANSFER.to_vec();
        Message { context, ..self.of_leader(MessageType::MsgRequestVote, self.log.len()) }
    }

    /// A message of the current leader, about the log up to and with `index`.
    fn of_leader(&self, kind: MessageType, index: usize) -> Message {
        Message {
            msg_type: kind as i32,
            from: LEADERS[(self.term % 2) as usize],
            to: FOLLOWER,
            term: self.term,
            index: index as u64,
            log_term: index.checked_sub(1).map_or(0, |last| self.log[last]),
            ..Message::default()
        }
    }

    fn entries_after(&mut self, kept: usize, chance: &mut Chance) -> Vec<Entry> {
        self.log.truncate(kept);
        let added = 1 + chance.below(ENTRIES_MAX);
        self.log.resize(kept + added, self.term);
        (kept + 1..=kept + added).map(|index| entry(index as u64, self.term)).collect()
    }

    /// A commit index that the leader may be at.
    fn committed_up_to(&self, chance: &mut Chance) -> u64 {
        let least = self.committed.len();
        (least + chance.below(self.log.len() + 1 - least)) as u64
    }

    fn note_log(&mut self) {
        self.logs.push(self.log.clone());
    }

    /// Goes on from the rows that were left, under a new leader.
    fn restart(&mut self, rows: &Model, survivors: usize) {
        self.carrying = None;
        self.replica = None;
        self.store = MemoryStore::new();
        let mut batch = WriteBatch::default();
        for ((table, key), value) in rows {
            batch.put(*table, key.clone(), value.clone());
        }
        self.store.write(&batch);
        self.log = self.logs[survivors].clone();
        let truncated = rows::truncated(&self.store).expect("as it was written");
        let before = self.log.get(..truncated.index as usize).and_then(|before| before.last());
        assert_eq!(before.copied().unwrap_or_default(), truncated.term, "SEED={}: the term before the log", self.seed);
        let terms: Vec<u64> = log_in(rows).iter().map(|entry| entry.term).collect();
        assert_eq!(terms, self.log[truncated.index as usize..], "SEED={}: the terms of the log", self.seed);
        self.logs = vec![self.log.clone()];
        self.term += 1;
        if !rows.is_empty() {
            self.open();
            self.follow_commit();
        }
    }

    /// Checks what the disk's rows are taken for: against themselves, and against what was promised.
    fn check_opened<S: Store>(&self, rows_on_disk: impl Fn() -> S, context: &str) {
        let opened = Replica::open(config(0, self.seed), rows_on_disk(), Tally);
        if self.replica.is_none() {
            assert!(matches!(opened.err(), Some(OpenError::NotBootstrapped)), "{context}: no row is left");
            return;
        }
        let status = opened.unwrap_or_else(|error| panic!("{context}: {error}")).status();
        let state = DurableState::read(&self.store);
        assert_eq!(status.term, state.hard_state.term, "{context}: term");
        assert_eq!(status.commit.0, state.hard_state.commit, "{context}: commit index");
        assert_eq!(status.applied, state.applied, "{context}: applied index");
        assert_eq!(status.last_index.0, self.log.len() as u64, "{context}: end of the log");
        let (log, applied) =
            ReplicaLog::open(rows_on_disk(), 1, Offers::new(1)).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(applied, state.applied, "{context}: applied index");
        let opened = log.initial_state().expect("it never fails");
        assert_eq!(opened.hard_state, state.hard_state, "{context}: hard state");
        assert_eq!(opened.conf_state, state.conf_state, "{context}: configuration");
        let truncated = log.truncated();
        assert!(applied.0 - truncated.index <= LOG_ENTRIES_MAX, "{context}: the log is cut short");
        assert_eq!(
            log.term(truncated.index).ok(),
            Some(self.log[truncated.index as usize - 1]),
            "{context}: first term"
        );
        let first = truncated.index + 1;
        let entries = if first > self.log.len() as u64 {
            Ok(Vec::new())
        } else {
            log.entries(first, self.log.len() as u64 + 1, None, GetEntriesContext::empty(false))
        };
        let held = self.log.iter().skip(truncated.index as usize);
        let expected: Vec<Entry> = (first..).zip(held).map(|(index, term)| entry(index, *term)).collect();
        // Not compared by `assert_eq`, which would print 50,000 bytes.
        assert!(entries.expect("it never fails") == expected, "{context}: entries");
        assert!(log.failure().is_none(), "{context}: {:?}", log.failure());
        let (rows, snapshot) = snapshot(&self.log[..applied.0 as usize]);
        assert!(self.store.rows(TALLIES) == rows, "{context}: the rows of the machine");
        assert_eq!(snapshot_of(&rows_on_disk()).expect("a snapshot"), snapshot, "{context}: configuration");
        assert!(self.log.starts_with(&self.committed), "{context}: a committed entry is gone");
        for promise in &self.promises {
            self.check_kept(promise, &state.hard_state, context);
        }
    }

    fn check_kept(&self, promise: &Promise, now: &HardState, context: &str) {
        match *promise {
            // A later leader may have replaced what this one was told.
            Promise::Accepted { term, index } => {
                assert!(now.term >= term, "{context}: accepted entries in term {term}, now in term {}", now.term);
                assert!(now.term > term || self.log.len() as u64 >= index, "{context}: accepted entry {index} is gone");
            }
            Promise::Voted { term, candidate } => {
                assert!(now.term >= term, "{context}: voted in term {term}, now in term {}", now.term);
                assert!(now.term > term || now.vote == candidate, "{context}: the vote for {candidate} is gone");
            }
        }
    }
}

/// What the rows say beside the log, read one by one.
struct DurableState {
    hard_state: HardState,
    conf_state: ConfState,
    applied: LogIndex,
}

impl DurableState {
    fn read(store: &MemoryStore) -> Self {
        let row = |key| store.get(Table::RAFT, key).expect("memory can be read");
        let hard_state = row(rows::HARD_STATE).map(|row| rows::decode_hard_state(&row).expect("as it was written"));
        let applied = row(rows::APPLIED).map(|row| rows::decode_applied(&row).expect("as it was written"));
        let conf_state = row(rows::CONF_STATE).expect("it is among the first rows");
        Self {
            hard_state: hard_state.unwrap_or_default(),
            conf_state: rows::decode_conf_state(&conf_state).expect("as it was written"),
            applied: applied.unwrap_or_default(),
        }
    }
}

/// What a machine has made of a log, and what a snapshot says that is taken then.
fn snapshot(log: &[u64]) -> (Vec<Row>, SnapshotMetadata) {
    let store = MemoryStore::new();
    let mut conf_state = ConfState { voters: voters().map(ReplicaId::get).to_vec(), ..ConfState::default() };
    let mut epoch = 0;
    for (index, term) in (1..).zip(log).skip(FOUNDED.len()) {
        let entry = entry(index, *term);
        if entry.entry_type == EntryType::EntryNormal as i32 {
            let mut changes = WriteBatch::default();
            let mut state = Unbatched { store: &store, changes: &mut changes };
            Tally.apply(LogIndex(index), &entry.data, &mut state).expect("memory can be read");
            store.write(&changes);
        } else {
            let adds = mark(index, *term).is_multiple_of(2);
            epoch += u64::from(adds == conf_state.learners.is_empty());
            conf_state.learners = Vec::from_iter(adds.then_some(LEARNER));
        }
    }
    let (index, term) = (log.len() as u64, log[log.len() - 1]);
    let mut changes = WriteBatch::default();
    rows::put_conf_state(&mut changes, &conf_state);
    rows::put_epoch(&mut changes, epoch);
    rows::put_truncated(&mut changes, LogStart { index, term });
    rows::put_applied(&mut changes, LogIndex(index), &HardState { term, vote: 0, commit: index });
    store.write(&changes);
    (store.rows(TALLIES), snapshot_of(&store).expect("a snapshot"))
}

/// The rows of a store, and changes that are written command by command.
struct Unbatched<'a> {
    store: &'a MemoryStore,
    changes: &'a mut WriteBatch,
}

impl State for Unbatched<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan(table, from, to, rows_max)
    }

    fn put(&mut self, table: Table, key: Bytes, value: Bytes) {
        self.changes.put(table, key, value);
    }

    fn delete(&mut self, table: Table, key: Bytes) {
        self.changes.delete(table, key);
    }
}

fn log_in(rows: &Model) -> Vec<Entry> {
    let log = rows.iter().filter(|((table, _), _)| *table == Table::LOG);
    log.map(|((_, key), row)| {
        rows::decode_entry_key(key).and_then(|index| rows::decode_entry(index, row)).expect("as it was written")
    })
    .collect()
}

/// The entry that the leader of a term has at an index: whoever sends it, it is the same.
fn entry(index: u64, term: u64) -> Entry {
    let mark = mark(index, term);
    if mark.is_multiple_of(7) {
        let change_type =
            if mark.is_multiple_of(2) { ConfChangeType::AddLearnerNode } else { ConfChangeType::RemoveNode };
        let changes = vec![ConfChangeSingle { change_type: change_type as i32, node_id: LEARNER }];
        let data = ConfChangeV2 { changes, ..ConfChangeV2::default() }.encode_to_vec();
        return Entry { index, term, entry_type: EntryType::EntryConfChangeV2 as i32, data, ..Entry::default() };
    }
    let mut data = [index.to_be_bytes(), term.to_be_bytes()].concat();
    if mark.is_multiple_of(8) {
        data.resize(LARGE_BYTES, mark as u8);
    }
    Entry { index, term, data, ..Entry::default() }
}

/// Decides what an entry is.
fn mark(index: u64, term: u64) -> u64 {
    index.wrapping_mul(31).wrapping_add(term)
}

fn voters() -> [ReplicaId; 3] {
    [FOLLOWER, LEADERS[0], LEADERS[1]].map(|id| ReplicaId::new(id).expect("not zero"))
}

fn config(boot_nonce: u64, seed: u64) -> ReplicaConfig {
    ReplicaConfig {
        log_entries_max: LOG_ENTRIES_MAX,
        log_entries_kept: LOG_ENTRIES_KEPT,
        ..ReplicaConfig::new(ReplicaId::new(FOLLOWER).expect("not zero"), boot_nonce, seed)
    }
}

/// Keeps the last few commands, sets and removes rows, and counts.
struct Tally;

impl StateMachine for Tally {
    type Receipt = ();
    type Publication = ();

    const TABLES: &'static [Table] = &[TALLIES];

    fn apply(&mut self, index: LogIndex, command: &[u8], state: &mut dyn State) -> Result<Applied<(), ()>, StoreError> {
        let count = state.get(TALLIES, b"count")?.map_or(0, |row| row[0]);
        state.put(TALLIES, Bytes::from_static(b"count"), Bytes::from(vec![count.wrapping_add(1)]));
        state.put(TALLIES, Bytes::from(vec![index.0 as u8 % 8]), Bytes::copy_from_slice(command));
        state.delete(TALLIES, Bytes::from(vec![(index.0 as u8 + 3) % 8]));
        Ok(Applied { receipt: (), publications: Vec::new() })
    }

    fn restore(&mut self, _applied: LogIndex, _store: &dyn Store) -> Result<(), StoreError> {
        Ok(())
    }
}
