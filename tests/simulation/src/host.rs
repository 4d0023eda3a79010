//! The loop of one process over the replicas it hosts: take what arrived, tell the replicas, let their messages leave, write one
//! batch over all groups, answer; and beside it the disk's syncs, one at a time. It may die at every boundary in between.
//!
//! Does not live here: what the answers are for, and views derived from publications. The process takes both out of
//! [`Host::take_out`]. Snapshots live in `snapshots`.

mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use semel_raft::{
    BarrierError, Effects, Event as RaftEvent, LogIndex, MembershipChange, MembershipError, Message as RaftMessage,
    OpenError, ProposeError, Replica, ReplicaConfig, ReplicaId, SnapshotRequest, StateMachine, StopReason, StoreError,
    Table, Ticket, WriteBatch, decode_message, encode_message, votes_for,
};
use semel_shard::ShardMachine;
use semel_workflow::MetadataMachine;

use crate::disk::{DiskError, GroupDisk, SharedDisk};
use crate::history::{Elected, ReplicaSeen};
use crate::messages::Message;
use crate::mutant::Mutant;
use crate::world::{Died, Due, Event, Place, World};

use snapshots::Transfers;

pub(crate) use snapshots::{Part, Taken};

/// Ticks that one turn reports at most: a process that was halted does not catch up on all it missed.
const TURN_TICKS_MAX: u32 = 2;
/// How often a replica may be opened in one run of its process.
const OPENED_MAX: u64 = 1_000;
/// Entries that a learner may lack when it is made a voter.
const LEARNER_LAG_MAX: u64 = 3;
/// How long a write takes, in microseconds.
const WRITE_MICROS: (u64, u64) = (5, 60);
/// How long a sync takes, in microseconds.
const SYNC_MICROS: (u64, u64) = (100, 2_000);
/// How long it takes on a slow disk.
const SLOW_SYNC_MICROS: (u64, u64) = (20_000, 600_000);
/// How long one in so many of those takes that hang.
const HANGING_SYNC: (u64, u64) = (12, 3_000_000);
/// A sync that takes longer silences the process, in microseconds.
const SYNC_MICROS_LONGEST: u64 = 250_000;

/// What a turn gave to the process.
pub(crate) enum Out<M: StateMachine> {
    /// Rows up to `applied` are written; derived views may take these in.
    Published { group: u64, applied: LogIndex, publications: Vec<(LogIndex, Vec<M::Publication>)> },
    /// The answer to a proposal.
    Receipt { group: u64, ticket: Ticket, receipt: Result<M::Receipt, ProposeError> },
    /// The answer to a barrier.
    Barrier { group: u64, ticket: Ticket, answer: Result<LogIndex, BarrierError> },
    /// The group's replica takes no more part; whoever waits for it waits in vain.
    Stopped { group: u64 },
    /// It takes part again, with other rows, of which those up to `applied` are applied.
    Reopened { group: u64, applied: LogIndex },
}

/// A machine whose rows have a digest.
pub(crate) trait Digested: StateMachine + Copy {
    /// The digest that replicas with equal applied index share, in hexadecimal.
    fn digest(rows: &GroupDisk) -> Result<String, StoreError>;
}

impl Digested for ShardMachine {
    fn digest(rows: &GroupDisk) -> Result<String, StoreError> {
        Ok(semel_shard::digest(rows)?.to_string())
    }
}

impl Digested for MetadataMachine {
    fn digest(rows: &GroupDisk) -> Result<String, StoreError> {
        let digest = semel_workflow::metadata_digest(rows)?;
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

struct Seat<M: StateMachine> {
    id: ReplicaId,
    machine: M,
    /// How often it was opened in this run of the process.
    opened: u64,
    /// The term that it led when last looked at.
    led: Option<u64>,
    /// `None` once stopped.
    replica: Option<Replica<GroupDisk, M>>,
    published: LogIndex,
    /// Writes of the replica that wait for a sync: the number of the batch, and the replica's own.
    unsynced: Vec<(u64, u64)>,
}

type Turn<M> = Vec<(u64, Effects<M>)>;

/// A sync under way.
struct Syncing {
    /// The batches that it makes safe.
    batches: u64,
    begun: u64,
}

/// A run of a process's replicas.
pub(crate) struct Host<M: StateMachine> {
    place: Place,
    boot: u64,
    disk: SharedDisk,
    seats: BTreeMap<u64, Seat<M>>,
    /// What came while a turn was under way.
    waiting: Vec<(u64, RaftEvent)>,
    ticks_due: u32,
    stirred: BTreeSet<u64>,
    /// What is being written.
    writing: Option<Turn<M>>,
    syncing: Option<Syncing>,
    /// Batches that a sync has made safe, until the next turn tells the replicas.
    safe: Option<u64>,
    out: Vec<Out<M>>,
    transfers: Transfers,
    /// Snapshots that leaders wait for, to be pinned before anything else is written.
    wanted: Vec<(u64, SnapshotRequest)>,
    /// The states of replicas, as they went by.
    seen: Vec<ReplicaSeen>,
    slow: bool,
}

impl<M: Digested> Host<M> {
    pub(crate) fn new(place: Place, boot: u64, disk: SharedDisk) -> Self {
        Self {
            place,
            boot,
            disk,
            seats: BTreeMap::new(),
            waiting: Vec::new(),
            ticks_due: 0,
            stirred: BTreeSet::new(),
            writing: None,
            syncing: None,
            safe: None,
            out: Vec::new(),
            transfers: Transfers::default(),
            wanted: Vec::new(),
            seen: Vec::new(),
            slow: false,
        }
    }

    pub(crate) fn disk(&self) -> SharedDisk {
        self.disk.clone()
    }

    pub(crate) fn rows(&self, group: u64) -> GroupDisk {
        GroupDisk { disk: self.disk.clone(), group }
    }

    /// Seats the replica of a group whose rows are on the disk.
    pub(crate) fn seat(
        &mut self,
        world: &mut World,
        group: u64,
        id: ReplicaId,
        machine: M,
    ) -> Result<LogIndex, OpenError> {
        self.remove_leftovers(world, group);
        let replica = Replica::open(self.config(world, id, 0), self.rows(group), machine)?;
        let applied = replica.status().applied;
        let seat = Seat {
            id,
            machine,
            opened: 0,
            led: None,
            replica: Some(replica),
            published: applied,
            unsynced: Vec::new(),
        };
        self.seats.insert(group, seat);
        self.stirred.insert(group);
        Ok(applied)
    }

    fn config(&self, world: &World, id: ReplicaId, opened: u64) -> ReplicaConfig {
        let mut config = ReplicaConfig::new(id, self.boot * OPENED_MAX + opened, world.seed);
        // Shorter than by default: a run is a minute, and is to see many elections.
        (config.election_ticks, config.heartbeat_ticks) = (10, 3);
        (config.log_entries_max, config.log_entries_kept) = world.log_entries;
        config.log_entries_pinned_max = log_held_max(world);
        (config.snapshot_retry_ticks, config.learner_lag_max, config.membership_ticks_max) = (10, LEARNER_LAG_MAX, 80);
        if world.tight {
            tighten(&mut config);
        }
        config
    }

    /// Opens a replica that was closed, on whatever its rows are.
    fn reopen(&mut self, world: &mut World, group: u64) {
        let Some(seat) = self.seats.get_mut(&group) else { return };
        seat.opened += 1;
        assert!(seat.opened < OPENED_MAX, "no run of a process has a mark of another");
        let (id, machine, opened) = (seat.id, seat.machine, seat.opened);
        match Replica::open(self.config(world, id, opened), self.rows(group), machine) {
            Ok(replica) => {
                let status = replica.status();
                let applied = status.applied;
                world.watch(group, &status, log_held_max(world));
                let seat = self.seats.get_mut(&group).expect("just seen");
                (seat.replica, seat.published, seat.led) = (Some(replica), applied, None);
                seat.unsynced.clear();
                self.stirred.insert(group);
                self.see(group, id, applied);
                self.out.push(Out::Reopened { group, applied });
            }
            Err(error) => {
                let unasked = !error.to_string().contains("input/output error");
                self.stop(world, group, (unasked, error.to_string()));
            }
        }
    }

    /// Takes the replica of a group away.
    pub(crate) fn unseat(&mut self, group: u64) {
        self.seats.remove(&group);
        self.stirred.remove(&group);
        self.waiting.retain(|(of, _)| *of != group);
        self.wanted.retain(|(of, _)| *of != group);
        self.transfers.forget(group);
        self.writing.iter_mut().for_each(|turn| turn.retain(|(of, _)| *of != group));
    }

    pub(crate) fn replica(&self, group: u64) -> Option<&Replica<GroupDisk, M>> {
        self.seats.get(&group)?.replica.as_ref()
    }

    pub(crate) fn leads(&self, group: u64) -> bool {
        self.replica(group).is_some_and(Replica::leads)
    }

    /// Asks the replica of a group to hand its leadership to another one of the group, if it leads.
    pub(crate) fn move_leadership(&mut self, world: &mut World, group: u64) -> Result<(), Died> {
        let replicas: Vec<ReplicaId> = world.replicas_of(group).into_iter().map(|(id, _)| id).collect();
        if !self.leads(group) || replicas.is_empty() {
            return Ok(());
        }
        let to = *world.chance.pick(&replicas);
        world.tally.leadership_moves += 1;
        self.tell(world, group, RaftEvent::TransferLeadership(to))
    }

    /// Asks the replica of a group, if it leads, to change who belongs to it.
    pub(crate) fn change_membership(
        &mut self,
        world: &mut World,
        group: u64,
        change: MembershipChange,
        expected_epoch: u64,
    ) -> Result<(), Died> {
        if !self.leads(group) {
            return Ok(());
        }
        let ticket = Ticket(world.number());
        self.tell(world, group, RaftEvent::ChangeMembership { ticket, change, expected_epoch })
    }

    /// Whether every replica takes part.
    pub(crate) fn is_whole(&self) -> bool {
        self.seats.values().all(|seat| seat.replica.is_some())
    }

    pub(crate) fn set_slow(&mut self, slow: bool) {
        self.slow = slow;
    }

    /// Everything that turns gave since it was last asked.
    pub(crate) fn take_out(&mut self) -> Vec<Out<M>> {
        std::mem::take(&mut self.out)
    }

    /// The states of replicas that went by since it was last asked.
    pub(crate) fn take_seen(&mut self) -> Vec<ReplicaSeen> {
        std::mem::take(&mut self.seen)
    }

    pub(crate) fn tick(&mut self, world: &mut World) -> Result<(), Died> {
        self.ticks_due = (self.ticks_due + 1).min(TURN_TICKS_MAX);
        self.tick_snapshots(world)?;
        self.turn(world)
    }

    pub(crate) fn receive(&mut self, world: &mut World, group: u64, bytes: &Bytes) -> Result<(), Died> {
        let message = decode_message(bytes).expect("replicas send what they accept");
        let seat = self.seats.get(&group);
        if seat.is_none_or(|seat| seat.id.get() != message.to) {
            return Ok(());
        }
        self.tell(world, group, RaftEvent::Receive(Box::new(message)))
    }

    /// Tells a replica something, at once or when the turn under way has ended.
    pub(crate) fn tell(&mut self, world: &mut World, group: u64, event: RaftEvent) -> Result<(), Died> {
        self.waiting.push((group, event));
        self.turn(world)
    }

    /// Runs turns until a write is under way or nothing is left to do.
    fn turn(&mut self, world: &mut World) -> Result<(), Died> {
        while self.writing.is_none() && !self.is_stalled(world) {
            if let Some(batches) = self.safe.take() {
                self.tell_synced(world, batches);
            }
            self.install_snapshots(world)?;
            for (group, event) in std::mem::take(&mut self.waiting) {
                self.feed(world, group, event);
            }
            for _ in 0..std::mem::take(&mut self.ticks_due) {
                for group in self.seats.keys().copied().collect::<Vec<_>>() {
                    self.feed(world, group, RaftEvent::Tick);
                }
            }
            self.send_wanted(world);
            if self.stirred.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            self.collect(world)?;
        }
        Ok(())
    }

    fn feed(&mut self, world: &mut World, group: u64, event: RaftEvent) {
        let refused = match &event {
            RaftEvent::Propose { .. } | RaftEvent::Barrier { .. } => self.replica(group).is_none(),
            _ => false,
        };
        let new_voter = match &event {
            RaftEvent::ChangeMembership { change: MembershipChange::Replace { add, .. }, .. } => {
                self.replica(group).map(|replica| (*add, replica.status().last_index))
            }
            _ => None,
        };
        if refused {
            self.out.push(Out::Stopped { group });
            return;
        }
        if let Some(effects) = self.step(world, group, event) {
            assert!(effects.messages.is_empty() && effects.writes.is_empty(), "effects out of turn");
            self.release(world, group, effects);
            self.stirred.insert(group);
            let end = self.replica(group).map(|replica| replica.status().last_index);
            if let (Some((add, last_index)), Some(end)) = (new_voter, end)
                && end > last_index
            {
                world.watch_new_voter(group, add, last_index, LEARNER_LAG_MAX);
            }
        }
    }

    /// Whether the sync under way takes so long that the process is to be as silent as if it were not there.
    fn is_stalled(&self, world: &World) -> bool {
        self.syncing.as_ref().is_some_and(|syncing| world.now > syncing.begun + SYNC_MICROS_LONGEST)
    }

    /// Collects from every replica that was stirred, lets their messages leave and begins to write.
    fn collect(&mut self, world: &mut World) -> Result<(), Died> {
        let mut turn = Turn::new();
        let mut leaving = Vec::new();
        for group in std::mem::take(&mut self.stirred) {
            let Some(mut effects) = self.step(world, group, RaftEvent::Collect) else { continue };
            self.follow_leadership(world, group);
            leaving.extend(std::mem::take(&mut effects.messages).into_iter().map(|message| (group, message)));
            let Some(replica) = self.replica(group) else { continue };
            world.watch(group, &replica.status(), log_held_max(world));
            if replica.has_work() {
                // Bounded effects at a time: it is asked again until it has nothing left.
                self.stirred.insert(group);
            }
            turn.push((group, effects));
        }
        if !leaving.is_empty() {
            world.boundary(self.place, "before messages leave")?;
        }
        self.send(world, leaving);
        if turn.iter().all(|(_, effects)| effects.writes.is_empty()) {
            self.finish(world, turn);
            return Ok(());
        }
        world.boundary(self.place, "before the write")?;
        let written = {
            let parts = turn.iter().map(|(group, effects)| (*group, &effects.writes));
            self.disk.borrow_mut().write(parts)
        };
        if let Err(error) = written {
            self.fail(world, error);
            return Ok(());
        }
        world.boundary(self.place, "after the write, before anybody learns of it")?;
        self.writing = Some(turn);
        let (at, boot) = (self.place, self.boot);
        let micros = world.chance.between(WRITE_MICROS.0..=WRITE_MICROS.1);
        world.after(micros, Event::Due { at, boot, what: Due::Write });
        Ok(())
    }

    fn follow_leadership(&mut self, world: &mut World, group: u64) {
        let Some(seat) = self.seats.get_mut(&group) else { return };
        let leads = seat.replica.as_ref().filter(|replica| replica.leads());
        let term = leads.map(|replica| replica.status().term);
        if let Some(term) = term
            && seat.led != Some(term)
        {
            let candidate = seat.id.get();
            world.watched.leaders.insert(Elected { group, term, voter: candidate, candidate });
            world.tally.leaders += 1;
            world.note(self.place, "leads", group, || format!("group {group} in term {term}"));
        }
        seat.led = term;
    }

    /// The disk has written what it was given, not yet safely.
    pub(crate) fn written(&mut self, world: &mut World) -> Result<(), Died> {
        let Some(turn) = self.writing.take() else { return Ok(()) };
        self.finish(world, turn);
        // Before anything further is written: the rows are those that the leader asked for.
        self.send_wanted(world);
        self.begin_sync(world)?;
        self.turn(world)
    }

    /// What a turn wanted is written: releases what waited for it.
    fn finish(&mut self, world: &mut World, turn: Turn<M>) {
        let batches = self.disk.borrow().batches();
        for (group, effects) in turn {
            if let (Some(seat), Some(number)) = (self.seats.get_mut(&group), effects.sync) {
                seat.unsynced.push((batches, number));
            }
            self.release(world, group, effects);
        }
    }

    /// Begins a sync, if something waits for one and none is under way.
    fn begin_sync(&mut self, world: &mut World) -> Result<(), Died> {
        let safe = self.safe.unwrap_or_default();
        let mut unsynced = self.seats.values().flat_map(|seat| &seat.unsynced);
        if self.syncing.is_some() || unsynced.all(|(batch, _)| *batch <= safe) {
            return Ok(());
        }
        let batches = self.disk.borrow().batches();
        self.syncing = Some(Syncing { batches, begun: world.now });
        let (least, most) = if self.slow { SLOW_SYNC_MICROS } else { SYNC_MICROS };
        let hangs = self.slow && world.chance.one_in(HANGING_SYNC.0);
        let micros = if hangs { HANGING_SYNC.1 } else { world.chance.between(least..=most) };
        let (at, boot) = (self.place, self.boot);
        world.after(micros, Event::Due { at, boot, what: Due::Sync });
        if world.has(Mutant::AdvanceBeforeSync) {
            self.safe = Some(batches);
        }
        Ok(())
    }

    /// The sync under way has ended.
    pub(crate) fn synced(&mut self, world: &mut World) -> Result<(), Died> {
        let Some(Syncing { batches, .. }) = self.syncing.take() else { return Ok(()) };
        if !world.has(Mutant::ApplyWithoutPersist) {
            let synced = self.disk.borrow_mut().sync_to(batches);
            if let Err(error) = synced {
                self.fail(world, error);
                return Ok(());
            }
        }
        world.boundary(self.place, "after the sync, before anybody learns of it")?;
        self.safe = Some(batches);
        self.begin_sync(world)?;
        self.turn(world)
    }

    /// Tells replicas which of their writes are safe, so that votes and acknowledgements may leave.
    fn tell_synced(&mut self, world: &mut World, batches: u64) {
        for group in self.seats.keys().copied().collect::<Vec<_>>() {
            let Some(seat) = self.seats.get_mut(&group) else { continue };
            let ended = seat.unsynced.extract_if(.., |(batch, _)| *batch <= batches).max();
            if let Some((_, number)) = ended {
                self.feed(world, group, RaftEvent::Synced(number));
            }
        }
    }

    fn release(&mut self, world: &mut World, group: u64, effects: Effects<M>) {
        let Effects { publications, applied, receipts, barriers, snapshots, memberships, .. } = effects;
        for (_, answer) in &memberships {
            match answer {
                Ok(_) => world.tally.changes_made += 1,
                Err(MembershipError::LeadershipMoves { .. }) => world.tally.leaders_stepping_aside += 1,
                Err(_) => world.tally.changes_refused += 1,
            }
        }
        self.wanted.extend(snapshots.into_iter().map(|request| (group, request)));
        let answers = barriers.iter().any(|(_, answer)| answer.is_ok());
        if answers && let Some(replica) = self.replica(group).map(Replica::status).filter(|status| !status.is_member) {
            world.watched.answered_by_strangers.push((group, replica.replica.get()));
        }
        let Some(seat) = self.seats.get_mut(&group) else { return };
        if applied > seat.published {
            seat.published = applied;
            let replica = seat.id;
            self.see(group, replica, applied);
            self.out.push(Out::Published { group, applied, publications });
        }
        let receipts = receipts.into_iter().map(|(ticket, receipt)| Out::Receipt { group, ticket, receipt });
        self.out.extend(receipts);
        self.out.extend(barriers.into_iter().map(|(ticket, answer)| Out::Barrier { group, ticket, answer }));
    }

    /// Notes the rows of a replica as they are.
    fn see(&mut self, group: u64, replica: ReplicaId, applied: LogIndex) {
        if let Ok(digest) = M::digest(&self.rows(group)) {
            self.seen.push(ReplicaSeen { group, replica: replica.get(), applied: applied.0, digest });
        }
    }

    /// Advances a replica. `None` if it has stopped, now or before.
    fn step(&mut self, world: &mut World, group: u64, event: RaftEvent) -> Option<Effects<M>> {
        let seat = self.seats.get_mut(&group)?;
        let replica = seat.replica.as_mut()?;
        let stepped = catch_unwind(AssertUnwindSafe(|| replica.step(event)));
        let reason = match stepped {
            Ok(effects) => match replica.stopped() {
                None => return Some(effects),
                Some(reason) => {
                    let unasked = !matches!(reason, StopReason::Read(error) if error.reason == "input/output error");
                    let reason = reason.to_string();
                    // The replica knows which proposals it had not passed on; nothing else of its effects counts.
                    let applied = seat.published;
                    self.release(world, group, Effects { applied, publications: Vec::new(), ..effects });
                    (unasked, reason)
                }
            },
            Err(panic) => (true, panic_message(panic.as_ref())),
        };
        self.stop(world, group, reason);
        None
    }

    fn stop(&mut self, world: &mut World, group: u64, (unasked, reason): (bool, String)) {
        world.note(self.place, "stops", group, || format!("the replica of group {group}: {reason}"));
        if unasked {
            world.alarm(format!("{} stopped its replica of group {group}: {reason}", self.place));
        } else {
            world.tally.reads_failed += 1;
        }
        if let Some(seat) = self.seats.get_mut(&group) {
            seat.replica = None;
        }
        self.out.push(Out::Stopped { group });
    }

    /// A write failed: nothing of the batch was acknowledged, and no replica may go on as if it were written.
    fn fail(&mut self, world: &mut World, error: DiskError) {
        match error {
            DiskError::Full => world.tally.disks_full += 1,
            DiskError::Sync => world.tally.syncs_failed += 1,
        }
        world.note(self.place, "disk fails", 0, || error.to_string());
        self.writing = None;
        self.stirred.clear();
        for (group, seat) in &mut self.seats {
            seat.unsynced.clear();
            if seat.replica.take().is_some() {
                self.out.push(Out::Stopped { group: *group });
            }
        }
    }

    fn send(&self, world: &mut World, messages: Vec<(u64, RaftMessage)>) {
        for (group, message) in messages {
            if let Some(candidate) = votes_for(&message) {
                let (term, voter) = (message.term, message.from);
                world.watched.votes.insert(Elected { group, term, voter, candidate });
            }
            let to = ReplicaId::new(message.to).and_then(|to| world.directory.get(&(group, to)).copied());
            if let Some(to) = to {
                world.send(self.place, to, Message::Raft { group, bytes: encode_message(&message) });
            }
        }
    }
}

/// Bounds that a single enrolment reaches: entries travel and are applied one by one and are read back from disk, and a handful
/// of callers is too many.
fn tighten(config: &mut ReplicaConfig) {
    (config.proposals_pending_max, config.barriers_pending_max, config.barrier_rounds_max) = (6, 6, 1);
    (config.entry_cache_bytes_max, config.append_bytes_max, config.appends_inflight_max) = (1_000, 600, 2);
    (config.uncommitted_bytes_max, config.apply_bytes_max) = (3_000, 600);
}

/// The most applied entries that a log may hold: more than it is cut at, for as long as a snapshot is under way.
fn log_held_max(world: &World) -> u64 {
    3 * world.log_entries.0
}

/// Writes the first rows of a group's replica, as its volume has them from then on.
pub(crate) fn found(disk: &SharedDisk, group: u64, voters: &[ReplicaId]) {
    let first: WriteBatch = semel_raft::bootstrap(voters);
    let mut disk = disk.borrow_mut();
    disk.write([(group, &first)]).and_then(|()| disk.sync()).expect("a new disk works");
}

/// Writes the first rows of a replica that joins a group. Tells whether the disk took them.
pub(crate) fn join(disk: &SharedDisk, group: u64) -> bool {
    let mut disk = disk.borrow_mut();
    let first = semel_raft::bootstrap_learner();
    disk.write([(group, &first)]).and_then(|()| disk.sync()).is_ok()
}

/// Removes every row of a group's replica. Tells whether the disk did.
pub(crate) fn leave<M: Digested>(disk: &SharedDisk, group: u64) -> bool {
    let mut disk = disk.borrow_mut();
    let mut gone = WriteBatch::default();
    for table in M::TABLES.iter().chain(&[Table::LOG, Table::RAFT]) {
        gone.delete_range(*table, Bytes::new(), vec![0xff; 64]);
    }
    disk.write([(group, &gone), (snapshots::beside(group), &gone)]).and_then(|()| disk.sync()).is_ok()
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("with something that is no text"))
}
