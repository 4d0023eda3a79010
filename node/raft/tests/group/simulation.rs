//! A group, its network and its disks in one thread. Every promise that must hold at any moment is checked as effects are
//! carried out; `check_settled` checks what must hold once faults have ended.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use semel_raft::memory::MemoryStore;
use semel_raft::{
    BarrierError, Effects, Event, LogIndex, MembershipChange, MembershipError, ProposeError, Replica, ReplicaConfig,
    ReplicaId, ReplicaStatus, Role, Row, SnapshotMetadata, Store, Table, Ticket, Write, WriteBatch, bootstrap,
    bootstrap_learner, decode_message, encode_message, install, rows, snapshot_of,
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

/// A snapshot on its way.
struct Transfer {
    arrival: u64,
    from: usize,
    to: usize,
    metadata: Vec<u8>,
    rows: Vec<Row>,
}

/// A sync on its way to the disk.
struct Sync {
    end: u64,
    member: usize,
    /// Batches written when it was begun.
    batches: u64,
    number: u64,
}

/// Voters, voters to go, and learners.
type Configuration = (Vec<ReplicaId>, Vec<ReplicaId>, Vec<ReplicaId>);

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
    pub(crate) memberships: BTreeMap<Ticket, Result<u64, MembershipError>>,
    /// Syncs under way, in the order in which they were begun.
    syncs: Vec<Sync>,
    /// Ticks that a sync takes at most.
    pub(crate) sync_ticks_max: usize,
    /// And at least.
    pub(crate) sync_ticks_min: usize,
    /// The member whose syncs take so many ticks instead.
    pub(crate) slow_disk: Option<(usize, u64)>,
    transfers: Vec<Transfer>,
    pub(crate) snapshot_ticks: u64,
    /// One snapshot in so many is lost; 0 for none.
    pub(crate) snapshot_lost_one_in: u64,
    /// Snapshots that leaders asked for, those that were installed, and those that came to nothing.
    pub(crate) snapshots_wanted: usize,
    pub(crate) snapshots_installed: usize,
    pub(crate) snapshots_failed: usize,
    /// Leaders that found themselves removed.
    pub(crate) removed_leaders: usize,
    configurations: BTreeMap<u64, Configuration>,
    leaders: BTreeMap<u64, usize>,
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
            memberships: BTreeMap::new(),
            syncs: Vec::new(),
            sync_ticks_max: 0,
            sync_ticks_min: 0,
            slow_disk: None,
            transfers: Vec::new(),
            snapshot_ticks: 1,
            snapshot_lost_one_in: 0,
            snapshots_wanted: 0,
            snapshots_installed: 0,
            snapshots_failed: 0,
            removed_leaders: 0,
            configurations: BTreeMap::new(),
            leaders: BTreeMap::new(),
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

    /// Starts a replica that no group counts among its own yet.
    pub(crate) fn join(&mut self) -> usize {
        let id = ReplicaId::new((self.members.len() as u64 + 1) * 11).expect("not zero");
        let store = MemoryStore::new();
        store.write(&bootstrap_learner());
        store.sync();
        self.members.push(Member { id, store, node: None, boots: 0 });
        self.start(self.members.len() - 1);
        self.members.len() - 1
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
        self.syncs.retain(|sync| sync.member != member);
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

    pub(crate) fn change(&mut self, member: usize, change: MembershipChange) -> Ticket {
        let expected_epoch = self.node(member).status().epoch;
        self.change_from(member, change, expected_epoch)
    }

    pub(crate) fn change_from(&mut self, member: usize, change: MembershipChange, expected_epoch: u64) -> Ticket {
        let ticket = self.ticket();
        self.step(member, Event::ChangeMembership { ticket, change, expected_epoch });
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
            self.end_syncs();
            self.deliver_snapshots();
            let due = self.network.first_key_value().map(|(key, _)| *key).filter(|(arrival, _)| *arrival <= self.now);
            let Some(key) = due else {
                // Who has a snapshot now, or whose sync has ended, has something to say.
                if self.running().into_iter().any(|member| self.node(member).has_work()) {
                    continue;
                }
                return;
            };
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

    fn end_syncs(&mut self) {
        let now = self.now;
        for Sync { member, batches, number, .. } in
            self.syncs.extract_if(.., |sync| sync.end <= now).collect::<Vec<_>>()
        {
            // Died, or was opened anew, because of one before.
            if self.members[member].node.is_none() {
                continue;
            }
            self.members[member].store.sync_to(batches);
            if self.boundary(member).is_err() {
                self.kill(member);
            } else {
                self.step(member, Event::Synced(number));
            }
        }
    }

    fn deliver_snapshots(&mut self) {
        let now = self.now;
        for transfer in self.transfers.extract_if(.., |transfer| transfer.arrival <= now).collect::<Vec<_>>() {
            let (from, to) = (transfer.from, transfer.to);
            let cut =
                self.cut.contains(&from) || self.cut.contains(&to) || self.chance.one_in(self.snapshot_lost_one_in);
            let delivered = !cut && self.members[to].node.is_some() && self.install(transfer).is_ok();
            self.snapshots_failed += usize::from(!delivered);
            if self.members[from].node.is_some() {
                let to = self.members[to].id;
                self.step(from, Event::SnapshotSent { to, delivered });
            }
        }
    }

    /// Closes the member, exchanges its rows, and opens it again. It may die at any moment.
    fn install(&mut self, transfer: Transfer) -> Result<(), Died> {
        let to = transfer.to;
        let metadata = SnapshotMetadata::decode(&transfer.metadata).expect("as it was encoded");
        self.stop(to);
        let store = self.members[to].store.clone();
        if let Some(mut batch) = install(&store, &metadata).expect("memory reads") {
            batch.delete_range(crate::counter::TABLE, Bytes::new(), vec![0xff; 9]);
            for (key, value) in transfer.rows {
                batch.put(crate::counter::TABLE, key, value);
            }
            let written = self.boundary(to).and_then(|()| {
                store.write(&batch);
                self.boundary(to)
            });
            if written.is_err() {
                self.kill(to);
                return Err(Died);
            }
            store.sync();
            self.snapshots_installed += 1;
        }
        self.start(to);
        assert!(self.node(to).status().applied >= metadata.index(), "what is installed is applied");
        Ok(())
    }

    /// Ends a member's replica in good order: everything it was given was carried out.
    fn stop(&mut self, member: usize) {
        self.members[member].node = None;
        // What it wrote counts as on disk when it is opened again.
        self.members[member].store.sync();
        self.syncs.retain(|sync| sync.member != member);
        self.proposing.retain(|_, (at, _)| *at != member);
        self.asking.retain(|_, (at, _)| *at != member);
    }

    fn boundary(&mut self, member: usize) -> Result<(), Died> {
        let number = self.boundaries;
        self.boundaries += 1;
        let dies = self.death_at == Some((member, number)) || self.chance.one_in(self.death_one_in);
        if dies { Err(Died) } else { Ok(()) }
    }

    fn carry_out(&mut self, member: usize, mut effects: Effects<Counter>) -> Result<(), Died> {
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
        if let Some(number) = effects.sync {
            let ticks = match self.slow_disk {
                Some((slow, ticks)) if slow == member => ticks,
                Some(_) | None => {
                    let least = self.sync_ticks_min;
                    (least + self.chance.below(self.sync_ticks_max.max(least) + 1 - least)) as u64
                }
            };
            let end = self.now + ticks;
            // One disk: no sync ends before one that was begun before it.
            let before = self.syncs.iter().filter(|sync| sync.member == member).map(|sync| sync.end).max();
            let end = end.max(before.unwrap_or_default());
            self.syncs.push(Sync { end, member, batches: store.batches_written(), number });
        }
        for request in std::mem::take(&mut effects.snapshots) {
            self.send_snapshot(member, request.to);
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
        self.memberships.extend(effects.memberships.drain(..));
        self.watch(member);
        Ok(())
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

    /// Checks what may be at no moment: two leaders in one term, two configurations of one epoch.
    fn watch(&mut self, member: usize) {
        let seed = self.seed;
        let node = self.node(member);
        if node.stopped().is_some() {
            return;
        }
        let status = node.status();
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(member);
            assert_eq!(leader, member, "SEED={seed}: two leaders of term {}", status.term);
            assert!(status.is_member, "SEED={seed}: who is removed leads no more");
        } else if !status.is_member && self.leaders.get(&status.term) == Some(&member) {
            self.removed_leaders += 1;
            self.leaders.insert(status.term, usize::MAX);
        }
        if !status.voters.is_empty() {
            let configuration = configuration(&status);
            let known = self.configurations.entry(status.epoch).or_insert_with(|| configuration.clone());
            assert_eq!(*known, configuration, "SEED={seed}: configurations of epoch {}", status.epoch);
        }
    }

    fn send_snapshot(&mut self, from: usize, to: ReplicaId) {
        let store = &self.members[from].store;
        let metadata = snapshot_of(store).expect("memory reads");
        let to = self.members.iter().position(|member| member.id == to).expect("a member");
        let rows = store.rows(crate::counter::TABLE);
        let arrival = self.now + self.snapshot_ticks;
        self.snapshots_wanted += 1;
        self.transfers.push(Transfer { arrival, from, to, metadata: metadata.encode(), rows });
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
        let Effects { sync, receipts, barriers, snapshots, memberships, applied, .. } = effects;
        let answers = format!("{sync:?} {receipts:?} {barriers:?} {snapshots:?} {memberships:?} {applied}");
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
        (self.sync_ticks_min, self.sync_ticks_max, self.slow_disk) = (0, 0, None);
        self.syncs.iter_mut().for_each(|sync| sync.end = self.now);
        (self.snapshot_lost_one_in, self.snapshot_ticks) = (0, 1);
        self.cut.clear();
        for member in 0..self.members.len() {
            if self.members[member].node.is_none() {
                self.start(member);
            }
        }
        self.run_until("a leader that belongs to a group of one configuration", 900, |simulation| {
            let Some(leader) = simulation.leader() else { return false };
            let status = simulation.node(leader).status();
            // A change that is in the log and not applied may yet be made.
            let knows_all = status.applied == status.last_index;
            knows_all && status.is_member && status.voters_outgoing.is_empty()
        });
        let status = self.node(self.leader().expect("just seen")).status();
        let belongs = |member: &Member| status.voters.contains(&member.id) || status.learners.contains(&member.id);
        let members: Vec<usize> = (0..self.members.len()).filter(|member| belongs(&self.members[*member])).collect();
        self.run_until("everyone follows one leader that has committed in its term", 600, |simulation| {
            let Some(leader) = simulation.leader() else { return false };
            let leader = simulation.node(leader).status();
            leader.applied == leader.last_index
                && members.iter().all(|member| {
                    let status = simulation.node(*member).status();
                    (status.term, status.leader) == (leader.term, leader.leader)
                        && configuration(&status) == configuration(&leader)
                })
        });
        // A last change of leader may still be on its way, and take an answer with it: so once more, as a caller would.
        let mut unanswered = members.clone();
        for _ in 0..ATTEMPTS_MAX {
            let asked: Vec<_> = unanswered.iter().map(|at| (*at, self.propose(*at), self.barrier(*at))).collect();
            self.run_until("everyone is answered and has applied the same", 600, |simulation| {
                let applied: BTreeSet<LogIndex> =
                    members.iter().map(|member| simulation.node(*member).status().applied).collect();
                simulation.proposing.is_empty() && simulation.asking.is_empty() && applied.len() == 1
            });
            let failed = asked.into_iter().filter(|(_, proposed, asked)| {
                // Whoever installed a snapshot meanwhile was opened anew, and answers nobody who asked before.
                let done = self.receipts.get(proposed).is_some_and(Result::is_ok);
                !done || !self.barriers.get(asked).is_some_and(Result::is_ok)
            });
            unanswered = failed.map(|(at, ..)| at).collect();
        }
        let seed = self.seed;
        assert!(unanswered.is_empty(), "SEED={seed}: a healed group makes no progress for {unanswered:?}");
        let start =
            members.iter().map(|member| self.node(*member).status().truncated).max().expect("a leader at least");
        let group = members.iter().map(|member| &self.members[*member]);
        let first = group.clone().next().expect("a leader at least");
        for member in group {
            for (number, index) in &self.acknowledged {
                let row = member.store.get(crate::counter::TABLE, &command_key(*number)).expect("memory reads");
                let row = row.unwrap_or_else(|| panic!("SEED={seed}: acknowledged command {number} is lost"));
                assert_eq!(row[..], index.0.to_be_bytes(), "SEED={seed}: command {number} moved");
            }
            assert_eq!(member.store.rows(crate::counter::TABLE), first.store.rows(crate::counter::TABLE));
            let log = |member: &Member| {
                let mut log = member.store.rows(Table::LOG);
                log.retain(|(key, _)| *key > rows::entry_key(start));
                log
            };
            assert_eq!(
                log(member),
                log(first),
                "SEED={seed}: logs at rest are equal, as far as they were not cut short"
            );
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

fn configuration(status: &ReplicaStatus) -> Configuration {
    (status.voters.clone(), status.voters_outgoing.clone(), status.learners.clone())
}

fn is_nothing(effects: &Effects<Counter>) -> bool {
    effects.messages.is_empty()
        && effects.writes.is_empty()
        && effects.receipts.is_empty()
        && effects.barriers.is_empty()
        && effects.snapshots.is_empty()
        && effects.memberships.is_empty()
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
