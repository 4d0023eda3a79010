//! The replica: raft-rs between its events and its effects. The order in which things may leave is decided here; what
//! applying does is in [`crate::apply`], and carrying effects out is the driver's.

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{INVALID_ID, ProgressState, RawNode, SnapshotStatus, StateRole};

use crate::apply::{Applier, Publications};
use crate::barriers::{Answer, Barriers};
use crate::compaction::Compaction;
use crate::config::ReplicaConfig;
use crate::event::{BarrierError, Effects, Event, ProposeError};
use crate::failures::{OpenError, StopReason};
use crate::ids::{LogIndex, ReplicaId, Ticket};
use crate::log::ReplicaLog;
use crate::machine::StateMachine;
use crate::membership::{self, Membership, MembershipError};
use crate::mutant::Mutant;
use crate::offers::Offers;
use crate::proposals::Proposals;
use crate::rows;
use crate::snapshot::SnapshotRequest;
use crate::status::{FollowerProgress, ReplicaStatus, Role};
use crate::store::{Store, Table, WriteBatch};
use crate::unsynced::Unsynced;

/// One replica of a group.
pub struct Replica<S: Store, M: StateMachine> {
    config: ReplicaConfig,
    node: RawNode<ReplicaLog<S>>,
    machine: M,
    /// Of the driver's clock, since the replica was opened.
    ticks: u64,
    /// Campaigns begun since the replica was opened.
    campaigns: u64,
    /// The term and the leader when last looked at.
    leadership: (u64, u64),
    /// Including what is being carried out.
    applied: LogIndex,
    unsynced: Unsynced,
    proposals: Proposals,
    barriers: Barriers,
    membership: Membership,
    compaction: Compaction,
    /// Answers that leave with the next effects.
    receipts: Vec<(Ticket, Result<M::Receipt, ProposeError>)>,
    answers: Vec<Answer>,
    memberships: Vec<membership::Answer>,
    stopped: Option<StopReason>,
}

impl<S: Store, M: StateMachine> Replica<S, M> {
    /// Opens the replica that `store` holds, with its machine brought up to the applied index. All that it holds must be on disk: what a
    /// former run wrote without a sync is synced before.
    ///
    /// # Errors
    /// The store holds no replica, cannot be read, or holds what cannot be; or the configuration is wrong.
    pub fn open(config: ReplicaConfig, store: S, mut machine: M) -> Result<Self, OpenError> {
        let offers = Offers::new(config.snapshot_retry_ticks);
        let (log, applied) = ReplicaLog::open(store, config.entry_cache_bytes_max, offers)?;
        let conf_state = membership::sorted(log.opened_conf_state().clone());
        let membership = Membership::new(&config, conf_state, rows::epoch(log.store())?);
        let compaction = Compaction::new(&config, log.truncated().index, applied.0, log.sample(applied)?);
        machine.restore(applied, log.store())?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config.raft_config(applied.0), log, &logger)
            .map_err(|error| OpenError::Config { reason: error.to_string() })?;
        let unsynced = Unsynced::new(node.raft.term, node.raft.vote);
        let mut replica = Self {
            leadership: (node.raft.term, INVALID_ID),
            proposals: Proposals::new(&config),
            barriers: Barriers::new(&config),
            membership,
            compaction,
            config,
            node,
            machine,
            ticks: 0,
            campaigns: 0,
            applied,
            unsynced,
            receipts: Vec::new(),
            answers: Vec::new(),
            memberships: Vec::new(),
            stopped: None,
        };
        replica.settle_election_timeout();
        Ok(replica)
    }

    /// Advances the replica by one event. Performs no IO but reads of its store: the driver carries out the effects, in order.
    ///
    /// # Panics
    /// Panics on [`Event::Synced`] of what does not wait for a sync; and where raft-rs does, on a log that contradicts its group's.
    pub fn step(&mut self, event: Event) -> Effects<M> {
        if self.stopped.is_some() {
            return self.refuse(&event);
        }
        let stepped = match event {
            Event::Tick => self.tick(),
            Event::Receive(message) => self.receive(*message),
            Event::Propose { ticket, command } => {
                let queued = if self.takes_callers() {
                    self.proposals.queue(ticket, &command, self.ticks)
                } else {
                    Err(ProposeError::NoLeader)
                };
                self.receipts.extend(queued.err().map(|error| (ticket, Err(error))));
                Ok(self.nothing())
            }
            Event::Barrier { ticket } => {
                let queued = if self.takes_callers() {
                    self.barriers.queue(ticket, self.ticks)
                } else {
                    Err(BarrierError::NotConfirmed)
                };
                self.answers.extend(queued.err().map(|error| (ticket, Err(error))));
                Ok(self.nothing())
            }
            Event::ChangeMembership { ticket, change, expected_epoch } => {
                let proposed = self.membership.propose(&mut self.node, ticket, change, expected_epoch, self.ticks);
                self.memberships.extend(proposed.err().map(|error| (ticket, Err(error))));
                Ok(self.nothing())
            }
            Event::SnapshotSent { to, delivered } => {
                // Of a snapshot that a former leadership asked for, nobody wants to know.
                if self.node.mut_store().offers.ended(to.get(), delivered, self.ticks) {
                    let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                    self.node.report_snapshot(to.get(), status);
                }
                Ok(self.nothing())
            }
            Event::TransferLeadership(replica) => {
                if self.leads() {
                    self.node.transfer_leader(replica.get());
                }
                Ok(self.nothing())
            }
            Event::Collect => self.collect(),
            Event::Synced(number) => self.synced(number),
        };
        let failed_read = self.node.store().failure().map(StopReason::from);
        match (stepped, failed_read) {
            (Ok(effects), None) => {
                self.follow_leadership();
                self.settle_election_timeout();
                effects
            }
            (_, Some(reason)) | (Err(reason), None) => self.stop(reason),
        }
    }

    /// Tells whether [`Event::Collect`] would give the driver something to do.
    pub fn has_work(&self) -> bool {
        let answers = !self.receipts.is_empty() || !self.answers.is_empty() || !self.memberships.is_empty();
        let proposes = self.proposals.has_queued() && !self.moves_leadership();
        let asks = proposes || (self.barriers.wants_round() && self.can_ask_leader());
        answers || (self.stopped.is_none() && (asks || self.unsynced.has_released() || self.node.has_ready()))
    }

    /// Returns why the replica stopped, if it did.
    pub fn stopped(&self) -> Option<&StopReason> {
        self.stopped.as_ref()
    }

    /// Returns the state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Returns the store.
    pub fn store(&self) -> &S {
        self.node.store().store()
    }

    /// Tells whether the replica leads its group, as far as it knows.
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Describes the replica.
    pub fn status(&self) -> ReplicaStatus {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        let conf_state = self.membership.conf_state();
        let mut followers = Vec::new();
        if role == Role::Leader {
            let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
            followers.extend(others.filter_map(|(id, progress)| {
                let matched = LogIndex(progress.matched);
                Some(FollowerProgress {
                    replica: ReplicaId::new(*id)?,
                    matched,
                    recently_active: progress.recent_active,
                    awaits_snapshot: progress.state == ProgressState::Snapshot,
                })
            }));
            followers.sort_unstable_by_key(|follower| follower.replica);
        }
        ReplicaStatus {
            replica: self.config.replica,
            role,
            term: raft.term,
            leader: ReplicaId::new(raft.leader_id),
            commit: LogIndex(raft.raft_log.committed),
            applied: self.applied,
            last_index: LogIndex(raft.raft_log.last_index()),
            truncated: LogIndex(self.node.store().truncated().index),
            voters: membership::ids(&conf_state.voters),
            voters_outgoing: membership::ids(&conf_state.voters_outgoing),
            learners: membership::ids(&conf_state.learners),
            epoch: self.membership.epoch(),
            is_member: self.membership.is_member(),
            followers,
        }
    }

    fn tick(&mut self) -> Result<Effects<M>, StopReason> {
        self.ticks += 1;
        // A leader's tick makes it send heartbeats, another's may make it campaign.
        if self.leads() {
            self.node.tick();
        } else if self.may_campaign() && self.node.tick() {
            self.campaigns += 1;
        }
        let expired = self.proposals.expire(self.ticks);
        self.receipts.extend(expired.into_iter().map(|ticket| (ticket, Err(ProposeError::Unknown))));
        self.answers.extend(self.barriers.expire(self.ticks));
        self.memberships.extend(self.membership.expire(self.ticks));
        self.node.mut_store().offers.expire(self.ticks);
        self.membership.leave_joint(&mut self.node);
        Ok(self.nothing())
    }

    fn receive(&mut self, message: Message) -> Result<Effects<M>, StopReason> {
        let raft = &self.node.raft;
        let leads = self.leads();
        if message.to != raft.id {
            return Ok(self.nothing());
        }
        let last_index = raft.raft_log.last_index();
        match message.get_msg_type() {
            // Proposed, or passed on once more, as this replica's own are.
            MessageType::MsgPropose => {
                self.proposals.queue_passed_on(message.entries);
                return Ok(self.nothing());
            }
            // Nobody has of this leader what it has not: counted, it would commit what comes there without anybody.
            MessageType::MsgAppendResponse if leads && message.index > last_index => return Ok(self.nothing()),
            // What is before the first entry is nothing to go on from: the configuration that was there is in no entry.
            MessageType::MsgAppend if message.index == 0 && self.membership.is_unknown() => return Ok(self.nothing()),
            // The leader hands over again, or leads on.
            MessageType::MsgTimeoutNow if !self.may_campaign() => return Ok(self.nothing()),
            // Its answer goes to its sender, so it cannot be passed on; the sender will ask again.
            MessageType::MsgReadIndex if !leads => return Ok(self.nothing()),
            MessageType::MsgHeartbeat if message.term >= raft.term && message.commit > last_index => {
                return Err(StopReason::LogLost { commit: LogIndex(message.commit), last_index: LogIndex(last_index) });
            }
            _ => {}
        }
        // An error means that raft has no use for the message, as when it comes from a replica it does not know or proposes to
        // a replica without a leader. Senders do not rely on any single message.
        self.node.step(message).ok();
        Ok(self.nothing())
    }

    fn collect(&mut self) -> Result<Effects<M>, StopReason> {
        self.hand_over_proposals();
        if self.barriers.wants_round() && self.can_ask_leader() {
            let context = self.barriers.start_round(self.ticks);
            self.node.read_index(context);
        }
        if !self.node.has_ready() {
            let messages = self.unsynced.take_released();
            return Ok(Effects { messages, ..self.answers() });
        }
        let mut ready = self.node.ready();
        assert!(ready.snapshot().is_empty(), "no snapshot is received");
        let number = ready.number();
        for read in ready.take_read_states() {
            self.answers.extend(self.barriers.answered(&read.request_ctx, LogIndex(read.index)));
        }
        let mut messages = ready.take_messages();
        messages.extend(ready.take_persisted_messages());
        let entries = ready.take_entries();
        let committed = ready.take_committed_entries();
        let mut writes = WriteBatch::default();
        self.write_entries(&entries, &mut writes);
        if let Some(hard_state) = ready.hs() {
            rows::put_hard_state(&mut writes, hard_state);
        }
        let sync = ready.must_sync().then_some(number);
        if sync.is_some() {
            self.unsynced.push(number, ready.hs());
        }
        let publications = self.apply(committed, &mut writes)?;
        // The driver writes them before anything is read again.
        self.node.mut_store().append(entries);
        self.node.advance_append_async(ready);
        if self.unsynced.is_empty() {
            self.node.on_persist_ready(number);
        }
        self.node.advance_apply_to(self.applied.0);
        let (messages, snapshots) = self.hand_out(messages);
        self.unsynced.pass(messages);
        let messages = self.unsynced.take_released();
        Ok(Effects { messages, writes, sync, snapshots, publications, ..self.answers() })
    }

    fn synced(&mut self, number: u64) -> Result<Effects<M>, StopReason> {
        self.unsynced.synced(number);
        self.node.on_persist_ready(number);
        Ok(self.nothing())
    }

    /// Takes snapshots out of raft's messages: they travel by themselves.
    fn hand_out(&mut self, messages: impl IntoIterator<Item = Message>) -> (Vec<Message>, Vec<SnapshotRequest>) {
        let leads = self.leads();
        let mut snapshots = Vec::new();
        let mut others = Vec::new();
        for message in messages {
            if message.get_msg_type() != MessageType::MsgSnapshot {
                others.push(message);
            } else if let Some(to) = ReplicaId::new(message.to).filter(|_| leads) {
                self.node.mut_store().offers.offered(message.to, message.get_snapshot().get_metadata().index);
                snapshots.push(SnapshotRequest { to });
            }
        }
        snapshots.sort_unstable_by_key(|snapshot| snapshot.to);
        (others, snapshots)
    }

    fn apply(&mut self, committed: Vec<Entry>, writes: &mut WriteBatch) -> Result<Publications<M>, StopReason> {
        let applier = Applier {
            node: &mut self.node,
            machine: &mut self.machine,
            proposals: &mut self.proposals,
            receipts: &mut self.receipts,
            membership: &mut self.membership,
            memberships: &mut self.memberships,
            compaction: &mut self.compaction,
        };
        let (applied, publications) = applier.apply(self.applied, committed, writes)?;
        self.applied = applied;
        if !self.takes_callers() {
            self.dismiss_callers();
        }
        Ok(publications)
    }

    /// Answers everyone who waits: the replica belongs to its group no more, and hears of nothing further.
    fn dismiss_callers(&mut self) {
        let proposers = self.proposals.take_all().into_iter();
        self.receipts.extend(proposers.map(|(ticket, handed_over)| {
            (ticket, Err(if handed_over { ProposeError::Unknown } else { ProposeError::NoLeader }))
        }));
        self.answers.iter_mut().for_each(|(_, answer)| *answer = Err(BarrierError::NotConfirmed));
        let readers = self.barriers.take_all().into_iter();
        self.answers.extend(readers.map(|ticket| (ticket, Err(BarrierError::NotConfirmed))));
    }

    fn write_entries(&self, entries: &[Entry], writes: &mut WriteBatch) {
        for entry in entries {
            writes.put(Table::LOG, rows::entry_key(LogIndex(entry.index)), rows::encode_entry(entry));
        }
        // A new leader's entries replace the tail that its predecessor did not get committed.
        let last_on_disk = self.node.store().last_index();
        if let Some(last) = entries.last().filter(|last| last.index < last_on_disk) {
            let from = rows::entry_key(LogIndex(last.index + 1));
            writes.delete_range(Table::LOG, from, rows::entry_key(LogIndex(last_on_disk + 1)));
        }
    }

    fn hand_over_proposals(&mut self) {
        if self.moves_leadership() {
            return;
        }
        for entries in self.proposals.take_queued(self.config.append_bytes_max) {
            let numbers = self.proposals.numbers(&entries);
            let from = self.config.replica.get();
            let msg_type = MessageType::MsgPropose as i32;
            if self.node.step(Message { msg_type, from, entries, ..Message::default() }).is_ok() {
                continue;
            }
            let error = if self.leads() { ProposeError::TooManyPending } else { ProposeError::NoLeader };
            let tickets = numbers.into_iter().filter_map(|number| self.proposals.withdraw(number));
            self.receipts.extend(tickets.map(|ticket| (ticket, Err(error.clone()))));
        }
    }

    /// Tells whether this replica is handing its leadership over. It takes no proposals then, and raft ends it within an
    /// election timeout: proposals wait for that, and go to whoever leads.
    fn moves_leadership(&self) -> bool {
        self.leads() && self.node.raft.lead_transferee.is_some()
    }

    /// Tells whether raft would pass a barrier's round on, or drop it: a leader answers none before it has committed an entry
    /// of its own term.
    fn can_ask_leader(&self) -> bool {
        let raft = &self.node.raft;
        raft.leader_id != INVALID_ID && (!self.leads() || raft.commit_to_current_term())
    }

    /// Tells whether callers may be served here: not by a replica that was never told its group, or belongs to it no more.
    fn takes_callers(&self) -> bool {
        self.membership.is_member() || Mutant::RemovedReplicaAnswers.is_chosen()
    }

    /// Tells whether raft-rs may be let campaign. Not while a vote or a term is being synced: whoever is slow to say that it votes would
    /// otherwise campaign anew before anybody can have answered. And a sole voter wins at once, while raft-rs relies on a winner's
    /// log being on disk; others ask for votes first, and those messages are held.
    fn may_campaign(&self) -> bool {
        let conf_state = self.membership.conf_state();
        let mut voters = conf_state.voters.iter().chain(&conf_state.voters_outgoing);
        let log = &self.node.raft.raft_log;
        !self.unsynced.binds()
            && (log.persisted == log.last_index() || voters.any(|voter| *voter != self.config.replica.get()))
    }

    /// Rounds sent to a former leader are asked again at once, and snapshots of a former leadership are nobody's.
    fn follow_leadership(&mut self) {
        let leadership = (self.node.raft.term, self.node.raft.leader_id);
        if leadership != self.leadership {
            self.leadership = leadership;
            self.barriers.give_up_rounds();
            self.node.mut_store().offers.clear();
        }
    }

    /// Overrides what raft-rs may have drawn from the thread's generator. It looks at the timeout only when a tick comes.
    fn settle_election_timeout(&mut self) {
        let timeout = self.config.election_timeout(self.node.raft.term, self.campaigns);
        self.node.raft.set_randomized_election_timeout(timeout);
    }

    fn stop(&mut self, reason: StopReason) -> Effects<M> {
        self.stopped = Some(reason);
        for (_, receipt) in &mut self.receipts {
            // Applied in a batch that will not be written.
            if receipt.is_ok() {
                *receipt = Err(ProposeError::Unknown);
            }
        }
        let waiting = self.proposals.take_all().into_iter();
        self.receipts.extend(waiting.map(|(ticket, handed_over)| {
            (ticket, Err(if handed_over { ProposeError::Unknown } else { ProposeError::Stopped }))
        }));
        // A view that would have to reach them goes no further.
        self.answers.iter_mut().for_each(|(_, answer)| *answer = Err(BarrierError::Stopped));
        let waiting = self.barriers.take_all().into_iter();
        self.answers.extend(waiting.map(|ticket| (ticket, Err(BarrierError::Stopped))));
        for (_, answer) in &mut self.memberships {
            if answer.is_ok() {
                *answer = Err(MembershipError::Unknown);
            }
        }
        self.memberships.extend(self.membership.take());
        self.answers()
    }

    fn refuse(&mut self, event: &Event) -> Effects<M> {
        match event {
            Event::Propose { ticket, .. } => self.receipts.push((*ticket, Err(ProposeError::Stopped))),
            Event::Barrier { ticket } => self.answers.push((*ticket, Err(BarrierError::Stopped))),
            Event::ChangeMembership { ticket, .. } => self.memberships.push((*ticket, Err(MembershipError::Stopped))),
            Event::Tick
            | Event::SnapshotSent { .. }
            | Event::Receive(_)
            | Event::TransferLeadership(_)
            | Event::Collect
            | Event::Synced(_) => {}
        }
        self.answers()
    }

    #[cfg(test)]
    pub(crate) fn propose_conf_change(&mut self, change: raft::eraftpb::ConfChangeV2) {
        self.node.propose_conf_change(Vec::new(), change).expect("the leader takes it");
    }

    fn nothing(&self) -> Effects<M> {
        Effects::nothing(self.applied)
    }

    /// Hands out the answers that wait.
    fn answers(&mut self) -> Effects<M> {
        let receipts = std::mem::take(&mut self.receipts);
        let barriers = std::mem::take(&mut self.answers);
        let memberships = std::mem::take(&mut self.memberships);
        Effects { receipts, barriers, memberships, ..self.nothing() }
    }
}
