//! One replica on the host's thread, with those who wait for it. Its failures stay its own: whatever it panics about, the
//! seat stops and the host carries on.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use semel_raft::{
    BarrierError, Effects, Event, LogIndex, MembershipChange, MembershipError, ProposeError, Replica, ReplicaId,
    StateMachine, Ticket,
};
use tokio::sync::{oneshot, watch};

use crate::group_store::GroupStore;
use crate::metrics::HostMetrics;
use crate::publisher::Publisher;
use crate::status::GroupStatus;

type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What stays of a seat while its replica is opened anew.
pub(crate) struct Seated<M: StateMachine> {
    /// Makes the machine as it is before it has seen any row.
    pub(crate) machine: Box<dyn Fn() -> M + Send>,
    pub(crate) publisher: Box<dyn Publisher<M>>,
    pub(crate) status: watch::Sender<GroupStatus>,
}

/// A group's replica, its waiting callers and its derived view.
pub(crate) struct Seat<M: StateMachine> {
    group: u64,
    replica_id: ReplicaId,
    /// `None` once stopped.
    replica: Option<Replica<GroupStore, M>>,
    /// `None` once it was vacated.
    seated: Option<Seated<M>>,
    /// The publisher has been told of entries up to here.
    published: LogIndex,
    proposers: BTreeMap<Ticket, Reply<M::Receipt, ProposeError>>,
    readers: BTreeMap<Ticket, Reply<LogIndex, BarrierError>>,
    changers: BTreeMap<Ticket, Reply<u64, MembershipError>>,
    next_ticket: u64,
    /// Syncs that the replica waits for, oldest first: the host's number and the replica's.
    syncs: VecDeque<(u64, u64)>,
    metrics: Arc<HostMetrics>,
}

impl<M: StateMachine> Seat<M> {
    /// Seats an opened replica whose view was restored up to `applied`.
    pub(crate) fn new(
        group: u64,
        replica_id: ReplicaId,
        replica: Replica<GroupStore, M>,
        seated: Seated<M>,
        metrics: Arc<HostMetrics>,
    ) -> Self {
        let status = replica.status();
        let published = status.applied;
        seated.status.send_replace(GroupStatus::Running(status));
        Self {
            group,
            replica_id,
            published,
            replica: Some(replica),
            seated: Some(seated),
            proposers: BTreeMap::new(),
            readers: BTreeMap::new(),
            changers: BTreeMap::new(),
            next_ticket: 0,
            syncs: VecDeque::new(),
            metrics,
        }
    }

    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    pub(crate) fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    /// Hands the replica a command; the reply comes when it is applied, or refused. A stopped replica drops the reply.
    pub(crate) fn propose(&mut self, command: Bytes, reply: Reply<M::Receipt, ProposeError>) {
        if self.replica.is_none() {
            return;
        }
        let ticket = self.ticket();
        self.proposers.insert(ticket, reply);
        self.feed(Event::Propose { ticket, command });
    }

    /// Asks the replica for a barrier. A stopped replica drops the reply.
    pub(crate) fn barrier(&mut self, reply: Reply<LogIndex, BarrierError>) {
        if self.replica.is_none() {
            return;
        }
        let ticket = self.ticket();
        self.readers.insert(ticket, reply);
        self.feed(Event::Barrier { ticket });
    }

    /// Asks the replica to change who belongs to its group. A stopped replica drops the reply.
    pub(crate) fn change_membership(
        &mut self,
        change: MembershipChange,
        expected_epoch: u64,
        reply: Reply<u64, MembershipError>,
    ) {
        if self.replica.is_none() {
            return;
        }
        let ticket = self.ticket();
        self.changers.insert(ticket, reply);
        self.feed(Event::ChangeMembership { ticket, change, expected_epoch });
    }

    /// Tells the replica of something whose effects are collected later in the turn.
    pub(crate) fn feed(&mut self, event: Event) {
        let Some(effects) = self.step(event) else { return };
        // Only `Collect` may write or send: its effects take part in the turn's batch.
        if effects.messages.is_empty() && effects.writes.is_empty() && effects.snapshots.is_empty() {
            self.release(effects);
        } else {
            self.fail("effects out of turn");
        }
    }

    /// Tells whether the replica has more to hand out.
    pub(crate) fn has_work(&self) -> bool {
        self.replica.as_ref().is_some_and(Replica::has_work)
    }

    /// Notes that the replica waits for a sync, by its own number for it and by the host's.
    pub(crate) fn await_sync(&mut self, of_replica: u64, of_host: u64) {
        self.syncs.push_back((of_host, of_replica));
    }

    /// Tells the replica of the syncs up to this one of the host. Returns whether it waits for more.
    pub(crate) fn synced(&mut self, of_host: u64) -> bool {
        let ended = self.syncs.iter().take_while(|(number, _)| *number <= of_host).count();
        let last = self.syncs.drain(..ended).next_back();
        if let Some((_, of_replica)) = last {
            self.feed(Event::Synced(of_replica));
        }
        !self.syncs.is_empty()
    }

    /// Advances the replica. Returns `None` if it has stopped, now or before.
    pub(crate) fn step(&mut self, event: Event) -> Option<Effects<M>> {
        let replica = self.replica.as_mut()?;
        // A panicking replica is dropped, so nobody sees what the panic left half done.
        let stepped = catch_unwind(AssertUnwindSafe(|| replica.step(event)));
        match stepped {
            Ok(effects) => {
                let Some(reason) = replica.stopped().map(ToString::to_string) else { return Some(effects) };
                // The replica knows which proposals it had not passed on yet; nothing of its effects is to be written.
                self.answer(effects.receipts, effects.barriers, effects.memberships);
                self.fail(&reason);
                None
            }
            Err(panic) => {
                self.fail(&panic_message(panic.as_ref()));
                None
            }
        }
    }

    /// Publishes and answers what written effects allow: first the view, then those who may look at it. Takes everything
    /// out of the effects but messages and writes.
    pub(crate) fn release(&mut self, effects: Effects<M>) {
        if effects.applied > self.published {
            let Some(seated) = &mut self.seated else { return };
            let publish = AssertUnwindSafe(|| seated.publisher.publish(effects.applied, effects.publications));
            if let Err(panic) = catch_unwind(publish) {
                self.fail(&panic_message(panic.as_ref()));
                return;
            }
            self.published = effects.applied;
        }
        self.answer(effects.receipts, effects.barriers, effects.memberships);
    }

    /// Answers callers. One that has given up meanwhile has nobody left to be told.
    fn answer(
        &mut self,
        receipts: Vec<(Ticket, Result<M::Receipt, ProposeError>)>,
        barriers: Vec<(Ticket, Result<LogIndex, BarrierError>)>,
        memberships: Vec<(Ticket, Result<u64, MembershipError>)>,
    ) {
        for (ticket, receipt) in receipts {
            if let Some(reply) = self.proposers.remove(&ticket) {
                let _ = reply.send(receipt);
            }
        }
        for (ticket, index) in barriers {
            if let Some(reply) = self.readers.remove(&ticket) {
                let _ = reply.send(index);
            }
        }
        for (ticket, epoch) in memberships {
            if let Some(reply) = self.changers.remove(&ticket) {
                let _ = reply.send(epoch);
            }
        }
    }

    /// Shows the replica's state to those who watch it.
    pub(crate) fn show(&self) {
        let (Some(replica), Some(seated)) = (&self.replica, &self.seated) else { return };
        let now = GroupStatus::Running(replica.status());
        seated.status.send_if_modified(|shown| {
            let changed = *shown != now;
            *shown = now;
            changed
        });
    }

    /// Stops the replica for good because of a failure that a person must look at.
    pub(crate) fn fail(&mut self, reason: &str) {
        if self.replica.is_some() {
            tracing::error!(group = self.group, replica = %self.replica_id, reason, "replica stopped");
            self.metrics.replicas_failed.add(1);
        }
        self.stop(reason);
    }

    /// Stops the replica for good. A reader that waits for it learns that it has stopped; a proposer, that its command may
    /// have gone to the other replicas already.
    pub(crate) fn stop(&mut self, reason: &str) {
        if self.close()
            && let Some(seated) = &self.seated
        {
            seated.status.send_replace(GroupStatus::Stopped { reason: reason.to_owned() });
        }
    }

    /// Takes the replica from its seat, so that it can be opened anew; `None` if it has stopped. Whoever waits for it learns what
    /// they would of one that stops.
    pub(crate) fn vacate(mut self) -> Option<Seated<M>> {
        if !self.close() {
            return None;
        }
        self.seated.take().inspect(|seated| drop(seated.status.send_replace(GroupStatus::Installing)))
    }

    /// Ends the replica and lets go of those who wait for it; false if it had ended before.
    fn close(&mut self) -> bool {
        let Some(replica) = self.replica.take() else { return false };
        // What a panic left behind may panic again while it is taken apart.
        if catch_unwind(AssertUnwindSafe(|| drop(replica))).is_err() {
            tracing::warn!(group = self.group, replica = %self.replica_id, "stopped replica panicked once more");
        }
        for reply in std::mem::take(&mut self.proposers).into_values() {
            let _ = reply.send(Err(ProposeError::Unknown));
        }
        for reply in std::mem::take(&mut self.readers).into_values() {
            let _ = reply.send(Err(BarrierError::Stopped));
        }
        for reply in std::mem::take(&mut self.changers).into_values() {
            let _ = reply.send(Err(MembershipError::Unknown));
        }
        true
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }
}

impl<M: StateMachine> Drop for Seat<M> {
    fn drop(&mut self) {
        self.stop("the host has ended");
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", said.unwrap_or("without a message"))
}
