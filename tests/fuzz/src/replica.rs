//! A real replica over rows in memory, and the part of its driver and of the other two of its group.

use bytes::Bytes;
use raft::eraftpb::MessageType;
use semel_raft::memory::MemoryStore;
use semel_raft::{
    Applied, Event, LogIndex, MembershipChange, Message, OpenError, Replica, ReplicaConfig, ReplicaId, Role,
    SnapshotMetadata, State, StateMachine, Store, StoreError, Table, Ticket, bootstrap, bootstrap_learner,
    decode_message, encode_message, install, snapshot_of,
};

/// Events in which a replica is brought into any role.
const EVENTS_MAX: usize = 400;
/// Rounds of effects after one event. A replica that wants more works without end.
const ROUNDS_MAX: usize = 64;
/// Applied entries in a log: few, so that followers need snapshots soon.
const LOG_ENTRIES_MAX: u64 = 4;
/// Above this, a replica's own next term or index may be one that others refuse; no sum of messages leads there.
const NUMBER_MAX: u64 = 1 << 61;

/// A machine that does nothing.
pub struct Nothing;

impl StateMachine for Nothing {
    type Receipt = ();
    type Publication = ();
    const TABLES: &'static [Table] = &[];

    fn apply(&mut self, _: LogIndex, _: &[u8], _: &mut dyn State) -> Result<Applied<(), ()>, StoreError> {
        Ok(Applied { receipt: (), publications: Vec::new() })
    }

    fn restore(&mut self, _: LogIndex, _: &dyn Store) -> Result<(), StoreError> {
        Ok(())
    }
}

/// One replica of three, with its disk.
pub struct Driven {
    replica: Replica<MemoryStore, Nothing>,
    store: MemoryStore,
    tickets: u64,
}

fn id(number: u64) -> ReplicaId {
    ReplicaId::new(number).expect("not zero")
}

impl Driven {
    /// A replica of a new group of 1, 2 and 3.
    ///
    /// # Panics
    /// Never: its rows are those of a new group.
    pub fn fresh(number: u64) -> Self {
        let store = MemoryStore::new();
        store.write(&bootstrap(&[id(1), id(2), id(3)]));
        Self::open(number, store).expect("the rows of a new group")
    }

    /// The replica that a store holds.
    ///
    /// # Errors
    /// As [`Replica::open`].
    pub fn open(number: u64, store: MemoryStore) -> Result<Self, OpenError> {
        let config = ReplicaConfig {
            log_entries_max: LOG_ENTRIES_MAX,
            log_entries_kept: 1,
            snapshot_retry_ticks: 5,
            ..ReplicaConfig::new(id(number), 1, 1)
        };
        let replica = Replica::open(config, store.clone(), Nothing)?;
        Ok(Self { replica, store, tickets: 0 })
    }

    /// A follower of 2 with a log of four entries, of which three are committed.
    pub fn follower() -> Self {
        let mut follower = Self::fresh(1);
        let entry = |index| raft::eraftpb::Entry { index, term: 3, data: vec![7; 5], ..Default::default() };
        let msg_type = MessageType::MsgAppend as i32;
        // After the entry that a new group's replicas have behind them.
        let entries = (2..=5).map(entry).collect();
        let after = Message { index: 1, log_term: 1, ..Message::default() };
        follower.receive(Message { msg_type, from: 2, to: 1, term: 3, commit: 4, entries, ..after });
        follower
    }

    /// A replica that was told no group yet.
    ///
    /// # Panics
    /// Never: its rows are those of a replica that joins.
    pub fn joiner() -> Self {
        let store = MemoryStore::new();
        store.write(&bootstrap_learner());
        Self::open(1, store).expect("the rows of a replica that joins")
    }

    /// A leader whose log starts after what 3 has, with a learner that has nothing.
    pub fn supplier() -> Self {
        let mut supplier = Self::leader();
        supplier.change(MembershipChange::AddLearner(id(4)));
        for _ in 0..2 * LOG_ENTRIES_MAX {
            for message in supplier.propose(b"a command") {
                if message.to == 2 {
                    supplier.answered(&message);
                }
            }
        }
        supplier
    }

    /// The same, at the beginning of its campaign or in the middle of it.
    pub fn campaigner(role: Role) -> Self {
        let mut campaigner = Self::follower();
        campaigner.until(role);
        campaigner
    }

    /// The same, elected, with its first entry committed.
    pub fn leader() -> Self {
        let mut leader = Self::campaigner(Role::Leader);
        for message in leader.event(Event::Tick) {
            leader.answered(&message);
        }
        leader
    }

    /// Lets ticks pass, and others grant what is asked, until the replica has a role.
    fn until(&mut self, role: Role) {
        for _ in 0..EVENTS_MAX {
            let mut asked = self.event(Event::Tick);
            while self.replica.status().role != role && !asked.is_empty() {
                asked = asked.iter().flat_map(|message| self.answered(message)).collect();
            }
            if self.replica.status().role == role {
                return;
            }
        }
        panic!("no {role:?} after {EVENTS_MAX} events");
    }

    /// Lets the addressee of a message grant what it asks.
    fn answered(&mut self, asked: &Message) -> Vec<Message> {
        let msg_type = match asked.get_msg_type() {
            MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
            MessageType::MsgAppend => MessageType::MsgAppendResponse,
            MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResponse,
            _ => return Vec::new(),
        };
        self.receive(Message {
            msg_type: msg_type as i32,
            from: asked.to,
            to: asked.from,
            term: asked.term,
            index: asked.index + asked.entries.len() as u64,
            context: asked.context.clone(),
            ..Message::default()
        })
    }

    /// Lets a message arrive; returns what is sent.
    pub fn receive(&mut self, message: Message) -> Vec<Message> {
        self.event(Event::Receive(Box::new(message)))
    }

    /// Lets a command be proposed; returns what is sent.
    pub fn propose(&mut self, command: &[u8]) -> Vec<Message> {
        let ticket = self.ticket();
        self.event(Event::Propose { ticket, command: Bytes::copy_from_slice(command) })
    }

    /// Lets a read barrier be asked for; returns what is sent.
    pub fn ask(&mut self) -> Vec<Message> {
        let ticket = self.ticket();
        self.event(Event::Barrier { ticket })
    }

    /// Lets a change of the membership be asked for; returns what is sent.
    pub fn change(&mut self, change: MembershipChange) -> Vec<Message> {
        let (ticket, expected_epoch) = (self.ticket(), self.replica.status().epoch);
        self.event(Event::ChangeMembership { ticket, change, expected_epoch })
    }

    /// Installs a snapshot in the closed replica and opens it again.
    ///
    /// # Panics
    /// Panics if what is installed is not what the replica then has.
    pub fn installed(self, snapshot: &SnapshotMetadata) -> Self {
        let number = self.replica.status().replica.get();
        if let Some(batch) = install(&self.store, snapshot).expect("the rows that the replica wrote") {
            self.store.write(&batch);
            assert_eq!(snapshot_of(&self.store).as_ref().ok(), Some(snapshot), "what was installed");
        }
        let installed = Self::open(number, self.store).expect("the rows of a snapshot");
        assert!(installed.replica.status().commit >= snapshot.index(), "it has what the snapshot holds");
        installed
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Takes an event, carries out all effects, checks what must hold at any moment; returns what is sent.
    ///
    /// # Panics
    /// Panics where the replica does, or where something does not hold.
    pub fn event(&mut self, event: Event) -> Vec<Message> {
        let mut sent = Vec::new();
        let mut effects = self.replica.step(event);
        for _ in 0..ROUNDS_MAX {
            sent.append(&mut effects.messages);
            self.store.write(&effects.writes);
            effects = if let Some(number) = effects.sync {
                self.replica.step(Event::Synced(number))
            } else if self.replica.has_work() {
                self.replica.step(Event::Collect)
            } else {
                self.assert_sound(&sent);
                return sent;
            };
        }
        panic!("a replica has work after {ROUNDS_MAX} rounds");
    }

    fn assert_sound(&self, sent: &[Message]) {
        let status = self.replica.status();
        assert!(status.applied <= status.commit && status.commit <= status.last_index, "{status:?}");
        if status.term < NUMBER_MAX && status.last_index.0 < NUMBER_MAX {
            for message in sent {
                let taken = decode_message(&encode_message(message));
                assert_eq!(taken.as_ref(), Ok(message), "what one replica sends, another takes");
            }
        }
    }

    /// Opens the replica again from its rows, as after a restart.
    ///
    /// # Panics
    /// Panics if what it wrote is not what it reads.
    pub fn reopened(self) -> Self {
        let number = self.replica.status().replica.get();
        Self::open(number, self.store).expect("the rows that the replica wrote")
    }
}

/// Every message of a new group that elects a leader, commits two commands and confirms a barrier.
///
/// # Panics
/// Never: nothing is lost between its replicas.
pub fn exchange() -> Vec<Message> {
    let mut group = [1, 2, 3].map(Driven::fresh);
    let mut said = Vec::new();
    for round in 0..120 {
        let mut waiting = Vec::new();
        for replica in &mut group {
            waiting.extend(replica.event(Event::Tick));
            match round {
                60 | 70 => waiting.extend(replica.propose(b"a command")),
                80 => waiting.extend(replica.ask()),
                _ => {}
            }
        }
        while let Some(message) = waiting.pop() {
            let to = usize::try_from(message.to).expect("1 to 3") - 1;
            waiting.extend(group[to].receive(message.clone()));
            said.push(message);
        }
    }
    said
}
