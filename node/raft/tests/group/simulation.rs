//! A group, its network and its disks in one thread. Every promise that must hold at any moment is checked as effects are
//! carried out; `check_settled` checks what must hold once faults have ended.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use semel_raft::memory::MemoryStore;
use semel_raft::{
    BarrierError, Effects, Event, LogIndex, ProposeError, Replica, ReplicaConfig, ReplicaId, Role, Store, Table,
    Ticket, Write, WriteBatch, bootstrap, decode_message, encode_message, rows,
};

use crate::chance::Chance;
use crate::counter::{Counted, Counter, command, command_key};

type Node = Replica<MemoryStore, Counter>;

pub(crate) struct Member {
    pub(crate) id: ReplicaId,
    pub(crate) store: MemoryStore,
    pub(crate) node: Option<Node>,
    boots: u64,
}

/// How often a caller asks a healed group.
const ATTEMPTS_MAX: usize = 3;

/// The process of a member died.
struct Died;

pub(crate) struct Simulation {
    pub(crate) members: Vec<Member>,
    pub(crate) chance: Chance,
    seed: u64,
    configure: fn(&mut ReplicaConfig),
    network: BTreeMap<(u64, u64), (usize, usize, Bytes)>,
    now: u64,
    sent: u64,
    /// Members whose messages are lost.
    pub(crate) cut: BTreeSet<usize>,
    /// One message in so many is lost; 0 for none.
    pub(crate) lost_one_in: u64,
    pub(crate) delay_ticks_max: usize,
    /// One boundary between effects in so many kills the member; 0 for none.
    pub(crate) death_one_in: u64,
    /// Kills this member at this boundary, counted from 0.
    pub(crate) death_at: Option<(usize, u64)>,
    pub(crate) boundaries: u64,
    tickets: u64,
    /// Commands whose proposers wait, by ticket; and where they wait.
    proposing: BTreeMap<Ticket, (usize, u64)>,
    /// What was acknowledged before each barrier, by ticket.
    asking: BTreeMap<Ticket, (usize, LogIndex)>,
    pub(crate) receipts: BTreeMap<Ticket, Result<Counted, ProposeError>>,
    pub(crate) barriers: BTreeMap<Ticket, Result<LogIndex, BarrierError>>,
    acknowledged: BTreeMap<u64, LogIndex>,
    acknowledged_up_to: LogIndex,
    histories: BTreeMap<LogIndex, u64>,
    pub(crate) message_bytes_max: usize,
    pub(crate) batch_applies_max: usize,
    /// Every effect, byte for byte.
    pub(crate) transcript: Vec<u8>,
}

impl Simulation {
    pub(crate) fn new(seed: u64, voters: u64) -> Self {
        Self::configured(seed, voters, |_| {})
    }

    pub(crate) fn configured(seed: u64, voters: u64, configure: fn(&mut ReplicaConfig)) -> Self {
        let ids: Vec<ReplicaId> = (1..=voters).map(|id| ReplicaId::new(id * 11).expect("not zero")).collect();
        let members = ids.iter().map(|id| {
            let store = MemoryStore::new();
            store.write(&bootstrap(&ids));
            store.sync();
            Member { id: *id, store, node: None, boots: 0 }
        });
        let mut simulation = Self {
            members: members.collect(),
            chance: Chance::new(seed),
            seed,
            configure,
            network: BTreeMap::new(),
            now: 0,
            sent: 0,
            cut: BTreeSet::new(),
            lost_one_in: 0,
            delay_ticks_max: 1,
            death_one_in: 0,
            death_at: None,
            boundaries: 0,
            tickets: 0,
            proposing: BTreeMap::new(),
            asking: BTreeMap::new(),
            receipts: BTreeMap::new(),
            barriers: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            acknowledged_up_to: LogIndex(0),
            histories: BTreeMap::new(),
            message_bytes_max: 0,
            batch_applies_max: 0,
            transcript: Vec::new(),
        };
        for member in 0..simulation.members.len() {
            simulation.start(member);
        }
        simulation
    }

    pub(crate) fn start(&mut self, member: usize) {
        let seed = self.seed;
        let member = &mut self.members[member];
        assert!(member.node.is_none(), "a member runs once");
        member.boots += 1;
        let mut config = ReplicaConfig::new(member.id, member.boots, seed);
        (self.configure)(&mut config);
        let opened = Replica::open(config, member.store.clone(), Counter::default());
        member.node = Some(opened.unwrap_or_else(|error| panic!("SEED={seed}: {error}")));
    }

    /// Kills a member: what it had not synced is lost, or part of it.
    pub(crate) fn kill(&mut self, member: usize) {
        let kept = self.chance.below(3);
        self.members[member].node = None;
        self.members[member].store.crash_keeping(kept);
        self.proposing.retain(|_, (at, _)| *at != member);
        self.asking.retain(|_, (at, _)| *at != member);
    }

    pub(crate) fn propose(&mut self, member: usize) -> Ticket {
        self.propose_bytes(member, 8)
    }

    pub(crate) fn propose_bytes(&mut self, member: usize, bytes: usize) -> Ticket {
        let ticket = self.ticket();
        self.proposing.insert(ticket, (member, ticket.0));
        self.step(member, Event::Propose { ticket, command: command(ticket.0, bytes) });
        ticket
    }

    pub(crate) fn barrier(&mut self, member: usize) -> Ticket {
        let ticket = self.ticket();
        self.asking.insert(ticket, (member, self.acknowledged_up_to));
        self.step(member, Event::Barrier { ticket });
        ticket
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Gives a member an event that is not to be collected from yet.
    pub(crate) fn step(&mut self, member: usize, event: Event) {
        let node = self.members[member].node.as_mut().expect("the member runs");
        let effects = node.step(event);
        if self.carry_out(member, effects).is_err() {
            self.kill(member);
        }
    }

    /// Lets `ticks` pass for everyone, with deliveries in between.
    pub(crate) fn run(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.now += 1;
            for member in self.running() {
                self.step(member, Event::Tick);
            }
            self.settle();
        }
    }

    /// Runs until the condition holds.
    pub(crate) fn run_until(&mut self, what: &str, ticks_max: usize, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..ticks_max {
            if condition(self) {
                return;
            }
            self.run(1);
        }
        panic!("SEED={}: not within {ticks_max} ticks: {what}", self.seed);
    }

    /// Delivers what is due and collects, until nothing is left to do in this tick.
    pub(crate) fn settle(&mut self) {
        loop {
            for member in self.running() {
                self.collect(member);
            }
            let due = self.network.first_key_value().map(|(key, _)| *key).filter(|(arrival, _)| *arrival <= self.now);
            let Some(key) = due else { return };
            let (from, to, bytes) = self.network.remove(&key).expect("just seen");
            if self.cut.contains(&from) || self.cut.contains(&to) || self.members[to].node.is_none() {
                continue;
            }
            let message = decode_message(&bytes).expect("replicas send what they accept");
            assert_eq!(message.from, self.members[from].id.get(), "a message names its sender");
            self.step(to, Event::Receive(Box::new(message)));
        }
    }

    fn collect(&mut self, member: usize) {
        while let Some(node) = self.members[member].node.as_mut().filter(|node| node.has_work()) {
            let effects = node.step(Event::Collect);
            if self.carry_out(member, effects).is_err() {
                self.kill(member);
            }
        }
    }

    fn boundary(&mut self, member: usize) -> Result<(), Died> {
        let number = self.boundaries;
        self.boundaries += 1;
        let dies = self.death_at == Some((member, number)) || self.chance.one_in(self.death_one_in);
        if dies { Err(Died) } else { Ok(()) }
    }

    fn carry_out(&mut self, member: usize, mut effects: Effects<Counter>) -> Result<(), Died> {
        loop {
            if is_nothing(&effects) {
                return Ok(());
            }
            self.record(member, &effects);
            assert!(effects.messages.is_sorted_by_key(|message| message.to), "no hash map decides the order");
            self.boundary(member)?;
            for message in &effects.messages {
                self.send(member, message.to, encode_message(message));
            }
            self.boundary(member)?;
            let store = self.members[member].store.clone();
            check_batch(&store, &effects);
            if !effects.writes.is_empty() {
                store.write(&effects.writes);
                self.boundary(member)?;
            }
            if effects.sync {
                store.sync();
                self.boundary(member)?;
            }
            let applies = effects.publications.iter().map(|(_, published)| published.len()).sum();
            self.batch_applies_max = self.batch_applies_max.max(applies);
            for (index, published) in effects.publications.drain(..) {
                assert!(index <= effects.applied);
                for counted in published {
                    assert_eq!(counted.index, index);
                    let known = *self.histories.entry(index).or_insert(counted.history);
                    assert_eq!(known, counted.history, "SEED={}: replicas disagree at {index}", self.seed);
                }
            }
            for (ticket, receipt) in effects.receipts.drain(..) {
                self.take_receipt(member, ticket, receipt);
            }
            for (ticket, answer) in effects.barriers.drain(..) {
                self.take_answer(member, ticket, answer);
            }
            if !effects.awaits_done {
                return Ok(());
            }
            self.boundary(member)?;
            effects = self.members[member].node.as_mut().expect("the member runs").step(Event::Done);
        }
    }

    fn take_receipt(&mut self, member: usize, ticket: Ticket, receipt: Result<Counted, ProposeError>) {
        let (at, number) = self.proposing.remove(&ticket).expect("each proposal is answered once");
        assert_eq!(at, member);
        if let Ok(counted) = &receipt {
            assert_eq!(counted.command, number, "a receipt goes to its proposer");
            self.acknowledged.insert(number, counted.index);
            self.acknowledged_up_to = self.acknowledged_up_to.max(counted.index);
        }
        self.receipts.insert(ticket, receipt);
    }

    fn take_answer(&mut self, member: usize, ticket: Ticket, answer: Result<LogIndex, BarrierError>) {
        let (at, acknowledged) = self.asking.remove(&ticket).expect("each barrier is answered once");
        assert_eq!(at, member);
        if let Ok(index) = answer {
            assert!(index >= acknowledged, "SEED={}: barrier {index} misses {acknowledged}", self.seed);
        }
        self.barriers.insert(ticket, answer);
    }

    fn send(&mut self, from: usize, to: u64, bytes: Bytes) {
        let to = self.members.iter().position(|member| member.id.get() == to).expect("a member");
        self.message_bytes_max = self.message_bytes_max.max(bytes.len());
        if self.chance.one_in(self.lost_one_in) {
            return;
        }
        let arrival = self.now + self.chance.below(self.delay_ticks_max) as u64;
        self.sent += 1;
        self.network.insert((arrival, self.sent), (from, to, bytes));
    }

    fn record(&mut self, member: usize, effects: &Effects<Counter>) {
        self.transcript.extend_from_slice(&(member as u64).to_le_bytes());
        for message in &effects.messages {
            self.transcript.extend_from_slice(&encode_message(message));
        }
        for write in &effects.writes.writes {
            match write {
                Write::Put { key, value, .. } => self.transcript.extend([key, value].into_iter().flatten()),
                Write::Delete { key, .. } => self.transcript.extend_from_slice(key),
                Write::DeleteRange { from, to, .. } => self.transcript.extend([from, to].into_iter().flatten()),
            }
        }
        let answers = format!("{} {:?} {:?} {}", effects.sync, effects.receipts, effects.barriers, effects.applied);
        self.transcript.extend_from_slice(answers.as_bytes());
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.members[*member].node.is_some()).collect()
    }

    pub(crate) fn node(&self, member: usize) -> &Node {
        self.members[member].node.as_ref().expect("the member runs")
    }

    /// The member that leads in the highest term, among those that run and are not cut off.
    pub(crate) fn leader(&self) -> Option<usize> {
        let statuses = self.running().into_iter().filter(|member| !self.cut.contains(member));
        let statuses = statuses.map(|member| (self.node(member).status(), member));
        let leading = statuses.filter(|(status, _)| status.role == Role::Leader);
        leading.max_by_key(|(status, _)| status.term).map(|(_, member)| member)
    }

    pub(crate) fn elect(&mut self) -> usize {
        self.run_until("a leader that has committed in its term", 600, |simulation| {
            let Some(leader) = simulation.leader() else { return false };
            let status = simulation.node(leader).status();
            status.commit == status.last_index && status.applied == status.commit
        });
        self.leader().expect("just seen")
    }

    /// Ends every fault, lets the group come to rest, and checks what must hold then.
    pub(crate) fn check_settled(&mut self) {
        (self.lost_one_in, self.death_one_in, self.death_at, self.delay_ticks_max) = (0, 0, None, 1);
        self.cut.clear();
        for member in 0..self.members.len() {
            if self.members[member].node.is_none() {
                self.start(member);
            }
        }
        let members = 0..self.members.len();
        self.run_until("everyone follows one leader that has committed in its term", 600, |simulation| {
            let Some(leader) = simulation.leader() else { return false };
            let leader = simulation.node(leader).status();
            leader.applied == leader.last_index
                && members.clone().all(|member| {
                    let status = simulation.node(member).status();
                    (status.term, status.leader) == (leader.term, leader.leader)
                })
        });
        // A last change of leader may still be on its way, and take an answer with it: so once more, as a caller would.
        let mut unanswered: Vec<usize> = members.clone().collect();
        for _ in 0..ATTEMPTS_MAX {
            let asked: Vec<_> = unanswered.iter().map(|at| (*at, self.propose(*at), self.barrier(*at))).collect();
            self.run_until("everyone is answered and has applied the same", 600, |simulation| {
                let applied: BTreeSet<LogIndex> =
                    members.clone().map(|member| simulation.node(member).status().applied).collect();
                simulation.proposing.is_empty() && simulation.asking.is_empty() && applied.len() == 1
            });
            let failed = asked
                .into_iter()
                .filter(|(_, proposed, asked)| self.receipts[proposed].is_err() || self.barriers[asked].is_err());
            unanswered = failed.map(|(at, ..)| at).collect();
        }
        let seed = self.seed;
        assert!(unanswered.is_empty(), "SEED={seed}: a healed group makes no progress for {unanswered:?}");
        for member in &self.members {
            for (number, index) in &self.acknowledged {
                let row = member.store.get(crate::counter::TABLE, &command_key(*number)).expect("memory reads");
                let row = row.unwrap_or_else(|| panic!("SEED={seed}: acknowledged command {number} is lost"));
                assert_eq!(row[..], index.0.to_be_bytes(), "SEED={seed}: command {number} moved");
            }
            assert_eq!(member.store.rows(crate::counter::TABLE), self.members[0].store.rows(crate::counter::TABLE));
            let log = |member: &Member| member.store.rows(Table::LOG);
            assert_eq!(log(member), log(&self.members[0]), "SEED={seed}: logs at rest are equal");
        }
    }

    /// How many messages entered the network.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many proposals were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

fn is_nothing(effects: &Effects<Counter>) -> bool {
    effects.messages.is_empty()
        && effects.writes.is_empty()
        && effects.receipts.is_empty()
        && effects.barriers.is_empty()
        && !effects.awaits_done
}

/// A batch that applies brings, itself, a commit index that covers what it applies and entries that reach it.
fn check_batch(store: &MemoryStore, effects: &Effects<Counter>) {
    let Some(applied) = put_value(&effects.writes, rows::APPLIED) else {
        assert!(effects.publications.is_empty(), "what is published is applied in the same batch");
        return;
    };
    let applied = rows::decode_applied(&applied).expect("an applied index");
    assert_eq!(applied, effects.applied);
    let hard_state = put_value(&effects.writes, rows::HARD_STATE).expect("a hard state comes with every applied index");
    let hard_state = rows::decode_hard_state(&hard_state).expect("a hard state");
    assert!(hard_state.commit >= applied.0, "applied {applied} beyond commit {}", hard_state.commit);
    let on_disk = store.get(Table::LOG, &rows::entry_key(applied)).expect("memory reads");
    assert!(on_disk.is_some(), "an entry is on disk before it is applied");
}

fn put_value(batch: &WriteBatch, wanted: &[u8]) -> Option<Bytes> {
    batch.writes.iter().rev().find_map(|write| match write {
        Write::Put { table: Table::RAFT, key, value } if key == wanted => Some(value.clone()),
        Write::Put { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => None,
    })
}
