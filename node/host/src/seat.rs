//! One replica on the host's thread, with those who wait for it. Its failures stay its own: whatever it panics about, the
//! seat stops and the host carries on.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use semel_raft::{BarrierError, Effects, Event, LogIndex, ProposeError, Replica, ReplicaId, StateMachine, Ticket};
use tokio::sync::{oneshot, watch};

use crate::group_store::GroupStore;
use crate::metrics::HostMetrics;
use crate::publisher::Publisher;
use crate::status::GroupStatus;

type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// A group's replica, its waiting callers and its derived view.
pub(crate) struct Seat<M: StateMachine> {
    group: u64,
    replica_id: ReplicaId,
    /// `None` once stopped.
    replica: Option<Replica<GroupStore, M>>,
    publisher: Box<dyn Publisher<M>>,
    /// The publisher has been told of entries up to here.
    published: LogIndex,
    proposers: BTreeMap<Ticket, Reply<M::Receipt, ProposeError>>,
    readers: BTreeMap<Ticket, Reply<LogIndex, BarrierError>>,
    next_ticket: u64,
    status: watch::Sender<GroupStatus>,
    metrics: Arc<HostMetrics>,
}

impl<M: StateMachine> Seat<M> {
    /// Seats an opened replica whose view was restored up to `applied`.
    pub(crate) fn new(
        group: u64,
        replica_id: ReplicaId,
        replica: Replica<GroupStore, M>,
        publisher: Box<dyn Publisher<M>>,
        metrics: Arc<HostMetrics>,
    ) -> Self {
        let status = replica.status();
        Self {
            group,
            replica_id,
            published: status.applied,
            replica: Some(replica),
            publisher,
            proposers: BTreeMap::new(),
            readers: BTreeMap::new(),
            next_ticket: 0,
            status: watch::Sender::new(GroupStatus::Running(status)),
            metrics,
        }
    }

    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    pub(crate) fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    pub(crate) fn status(&self) -> watch::Receiver<GroupStatus> {
        self.status.subscribe()
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

    /// Tells the replica of something whose effects are collected later in the turn.
    pub(crate) fn feed(&mut self, event: Event) {
        let Some(effects) = self.step(event) else { return };
        // Only `Collect` and `Done` may write or send: their effects take part in the turn's batch.
        if effects.messages.is_empty() && effects.writes.is_empty() && !effects.awaits_done {
            self.release(effects);
        } else {
            self.fail("effects out of turn");
        }
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
                self.answer(effects.receipts, effects.barriers);
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
            let publish = AssertUnwindSafe(|| self.publisher.publish(effects.applied, effects.publications));
            if let Err(panic) = catch_unwind(publish) {
                self.fail(&panic_message(panic.as_ref()));
                return;
            }
            self.published = effects.applied;
        }
        self.answer(effects.receipts, effects.barriers);
    }

    /// Answers callers. One that has given up meanwhile has nobody left to be told.
    fn answer(
        &mut self,
        receipts: Vec<(Ticket, Result<M::Receipt, ProposeError>)>,
        barriers: Vec<(Ticket, Result<LogIndex, BarrierError>)>,
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
    }

    /// Shows the replica's state to those who watch it.
    pub(crate) fn show(&self) {
        let Some(replica) = &self.replica else { return };
        let now = GroupStatus::Running(replica.status());
        self.status.send_if_modified(|shown| {
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
        let Some(replica) = self.replica.take() else { return };
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
        self.status.send_replace(GroupStatus::Stopped { reason: reason.to_owned() });
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
