//! The loop on the host's thread. One turn: take what arrived, tell the replicas, let their messages leave, write one batch
//! over all groups, answer. Syncs go on beside it; what depends on one leaves in the turn after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use semel_raft::{
    Effects, Event, Message, ReplicaId, SnapshotRequest, StateMachine, Table, Write, WriteBatch, encode_message,
};
use tokio::sync::oneshot;

use crate::clock::TickClock;
use crate::config::HostConfig;
use crate::database::{Database, Durability};
use crate::database_error::WriteError;
use crate::envelope::{ClusterId, Envelope, Transport};
use crate::inbox::{Arrival, Inbox, Request};
use crate::metrics::HostMetrics;
use crate::seat::{Seat, Seated};
use crate::snapshot::OutgoingSnapshot;
use crate::snapshot::send::Senders;
use crate::status::GroupStatus;
use crate::syncs::{Report, Syncs};

/// How long others may take to let go of the database when the host ends.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);

/// Everything that the host's thread owns.
pub(crate) struct Driver<M: StateMachine> {
    cluster: ClusterId,
    database: Arc<Database>,
    transport: Arc<dyn Transport>,
    inbox: Arc<Inbox<M>>,
    metrics: Arc<HostMetrics>,
    senders: Arc<Senders>,
    clock: TickClock,
    seats: BTreeMap<u64, Seat<M>>,
    /// Groups whose replica was told something, or may have more to hand out.
    stirred: BTreeSet<u64>,
    syncs: Syncs,
    /// Groups whose replica waits for a sync.
    unsynced: BTreeSet<u64>,
    /// A sync that takes longer silences the host.
    sync_longest: Duration,
}

/// Effects of one turn, with their group.
type Turn<M> = Vec<(u64, Effects<M>)>;

impl<M: StateMachine> Driver<M> {
    pub(crate) fn new(
        config: &HostConfig,
        database: Arc<Database>,
        transport: Arc<dyn Transport>,
        inbox: Arc<Inbox<M>>,
        metrics: Arc<HostMetrics>,
    ) -> io::Result<Self> {
        let reported = inbox.clone();
        let syncs = Syncs::start(database.clone(), metrics.clone(), move |report| reported.synced(report))?;
        Ok(Self {
            cluster: config.cluster,
            database,
            transport,
            inbox,
            senders: Senders::new(config, metrics.clone()),
            metrics,
            clock: TickClock::new(config.tick, config.turn_ticks_max, Instant::now()),
            seats: BTreeMap::new(),
            stirred: BTreeSet::new(),
            syncs,
            unsynced: BTreeSet::new(),
            // Half of what followers wait at least: a disk that is slow for long costs the lead too.
            sync_longest: config.tick * u32::try_from(config.election_ticks).unwrap_or(u32::MAX) / 2,
        })
    }

    /// Runs until the inbox is closed. A turn that was begun is finished.
    pub(crate) fn run(mut self) {
        loop {
            self.syncs.wait_if_stalled(self.sync_longest);
            let wait = if self.stirred.is_empty() { self.clock.wait(Instant::now()) } else { Duration::ZERO };
            let Some(arrivals) = self.inbox.take(wait) else { break };
            self.metrics.turns.add(1);
            if let Some(report) = arrivals.synced {
                self.synced(report);
            }
            // Requests first: a message for a replica that is being seated then finds it. Messages before ticks: a heartbeat
            // that waited out a slow turn still counts against the time it took.
            for request in arrivals.requests {
                self.serve(request);
            }
            for arrival in arrivals.messages {
                self.receive(arrival);
            }
            self.tick();
            let stirred = self.stirred.clone();
            if let Err(error) = self.carry_out() {
                // Nothing of the batch was acknowledged, and no replica may go on as if it were written.
                self.fail(&error);
            }
            // Showing what changed stirs nothing: an idle host sleeps until the next tick.
            for group in &stirred {
                if let Some(seat) = self.seats.get_mut(group) {
                    seat.show();
                }
            }
        }
        self.seats.values_mut().for_each(|seat| seat.stop("the host has shut down"));
        self.senders.close();
        drop(self.syncs);
        self.database.end_background_work();
        self.database.holders().wait(LET_GO_WITHIN);
    }

    /// What was written before a sync began is on disk, or no replica may go on as if it were.
    fn synced(&mut self, report: Report) {
        let number = match report {
            Ok(number) => number,
            Err(error) => return self.fail(&error),
        };
        for group in std::mem::take(&mut self.unsynced) {
            let Some(seat) = self.seats.get_mut(&group) else { continue };
            if seat.synced(number) {
                self.unsynced.insert(group);
            }
            self.stirred.insert(group);
        }
    }

    fn fail(&mut self, error: &WriteError) {
        self.seats.values_mut().for_each(|seat| seat.fail(&error.to_string()));
    }

    fn receive(&mut self, arrival: Arrival) {
        let Arrival { group, to, bytes: _, message } = arrival;
        match self.seats.get_mut(&group) {
            Some(seat) if seat.replica_id() == to => {
                self.metrics.messages_received.add(1);
                seat.feed(Event::Receive(message));
                self.stirred.insert(group);
            }
            Some(_) | None => self.metrics.messages_dropped_misaddressed.add(1),
        }
    }

    fn serve(&mut self, request: Request<M>) {
        match request {
            Request::Seat(mut seat) => {
                // Opened before an earlier failure of the database, seated after it.
                if let Some(failure) = self.database.failure() {
                    seat.fail(&failure.to_string());
                }
                tracing::info!(group = seat.group(), replica = %seat.replica_id(), "replica seated");
                self.stirred.insert(seat.group());
                self.seats.insert(seat.group(), *seat);
            }
            // Where the group has no seat the reply is dropped, which says that the replica has stopped.
            Request::Propose { group, command, reply } => self.seat(group, |seat| seat.propose(command, reply)),
            Request::Barrier { group, reply } => self.seat(group, |seat| seat.barrier(reply)),
            Request::TransferLeadership { group, to } => {
                self.seat(group, |seat| seat.feed(Event::TransferLeadership(to)));
            }
            Request::ChangeMembership { group, change, expected_epoch, reply } => {
                self.seat(group, |seat| seat.change_membership(change, expected_epoch, reply));
            }
            Request::SnapshotSent { group, from, to, delivered } => self.seat(group, |seat| {
                // A replica that took the seat meanwhile has sent nothing yet.
                if seat.replica_id() == from {
                    seat.feed(Event::SnapshotSent { to, delivered });
                }
            }),
            Request::Vacate { group, replica, reply } => self.vacate(group, replica, reply),
        }
    }

    fn vacate(&mut self, group: u64, replica: ReplicaId, reply: oneshot::Sender<Seated<M>>) {
        if self.seats.get(&group).is_none_or(|seat| seat.replica_id() != replica) {
            return;
        }
        let vacated = self.seats.remove(&group).and_then(Seat::vacate);
        if let Some(seated) = vacated
            && let Err(unclaimed) = reply.send(seated)
        {
            let reason = "whoever was to exchange its rows is gone".to_owned();
            unclaimed.status.send_replace(GroupStatus::Stopped { reason });
        }
    }

    fn tick(&mut self) {
        let due = self.clock.take(Instant::now());
        self.metrics.ticks_skipped.add(due.skipped as usize);
        for _ in 0..due.reported {
            for (group, seat) in &mut self.seats {
                seat.feed(Event::Tick);
                self.stirred.insert(*group);
            }
        }
    }

    /// Collects from every replica that was stirred and carries out what they want.
    fn carry_out(&mut self) -> Result<(), WriteError> {
        let mut leaving = Vec::new();
        let mut turn = Turn::new();
        for group in std::mem::take(&mut self.stirred) {
            let Some(seat) = self.seats.get_mut(&group) else { continue };
            let Some(mut effects) = seat.step(Event::Collect) else { continue };
            if seat.has_work() {
                // A replica hands out a bounded amount at a time; it is asked again until it has nothing left.
                self.stirred.insert(group);
            }
            self.enclose(group, std::mem::take(&mut effects.messages), &mut leaving);
            turn.push((group, effects));
        }
        self.send(leaving);
        let sync = self.write(&turn)?;
        for (group, mut effects) in turn {
            let Some(seat) = self.seats.get_mut(&group) else { continue };
            if let Some((of_replica, of_host)) = effects.sync.zip(sync) {
                seat.await_sync(of_replica, of_host);
                self.unsynced.insert(group);
            }
            let (from, snapshots) = (seat.replica_id(), std::mem::take(&mut effects.snapshots));
            seat.release(effects);
            self.send_snapshots(group, from, snapshots);
        }
        Ok(())
    }

    /// Writes what the turn wants written as one batch. Returns the number of the sync that it needs, if it does.
    fn write(&self, turn: &Turn<M>) -> Result<Option<u64>, WriteError> {
        let mut batch = self.database.batch();
        for (group, effects) in turn {
            batch.append(*group, &effects.writes)?;
        }
        if batch.is_empty() {
            return Ok(None);
        }
        let bytes = batch.bytes();
        self.database.write(batch, Durability::Unsynced)?;
        let entries = turn.iter().map(|(_, effects)| entries_in(&effects.writes)).sum();
        self.metrics.writes.add(1);
        self.metrics.batch_bytes_largest.raise_to(bytes);
        self.metrics.entries_appended.add(entries);
        let needs_sync = turn.iter().any(|(_, effects)| effects.sync.is_some());
        Ok(needs_sync.then(|| self.syncs.want(entries)))
    }

    fn enclose(&self, group: u64, messages: Vec<Message>, leaving: &mut Vec<Envelope>) {
        for message in messages {
            let (Some(from), Some(to)) = (ReplicaId::new(message.from), ReplicaId::new(message.to)) else {
                // Raft addresses nobody only where it does not know a leader; then there is no one to tell.
                continue;
            };
            leaving.push(Envelope { cluster: self.cluster, group, from, to, message: encode_message(&message) });
        }
    }

    /// Hands snapshots to the transport, after the write that they hold.
    fn send_snapshots(&self, group: u64, from: ReplicaId, requests: Vec<SnapshotRequest>) {
        for SnapshotRequest { to } in requests {
            let inbox = self.inbox.clone();
            let report = move |delivered| {
                // A host that has ended needs no report.
                let _ = inbox.request(Request::SnapshotSent { group, from, to, delivered });
            };
            self.transport.send_snapshot(OutgoingSnapshot {
                cluster: self.cluster,
                group,
                from,
                to,
                tables: M::TABLES,
                database: Arc::downgrade(&self.database),
                senders: self.senders.clone(),
                report: Some(Box::new(report)),
            });
        }
    }

    fn send(&self, leaving: Vec<Envelope>) {
        if !leaving.is_empty() {
            self.metrics.messages_sent.add(leaving.len());
            self.transport.send(leaving);
        }
    }

    /// Does something with the group's seat, if it has one, and marks it stirred.
    fn seat(&mut self, group: u64, act: impl FnOnce(&mut Seat<M>)) {
        if let Some(seat) = self.seats.get_mut(&group) {
            act(seat);
            self.stirred.insert(group);
        }
    }
}

fn entries_in(batch: &WriteBatch) -> usize {
    let is_entry = |write: &&Write| match write {
        Write::Put { table, .. } => *table == Table::LOG,
        Write::Delete { .. } | Write::DeleteRange { .. } => false,
    };
    batch.writes.iter().filter(is_entry).count()
}
