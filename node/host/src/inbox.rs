//! What waits for the host's thread: requests of callers and messages of other replicas, in two bounded queues, so that a
//! flood of proposals cannot crowd out heartbeats.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use semel_raft::{
    BarrierError, LogIndex, MembershipChange, MembershipError, Message, ProposeError, ReplicaId, StateMachine,
};
use tokio::sync::oneshot;

use crate::config::HostConfig;
use crate::seat::{Seat, Seated};
use crate::syncs::Report;

/// One thing that a caller wants. A `reply` that is dropped tells the caller that the replica has stopped.
pub(crate) enum Request<M: StateMachine> {
    Seat(Box<Seat<M>>),
    Propose {
        group: u64,
        command: Bytes,
        reply: oneshot::Sender<Result<M::Receipt, ProposeError>>,
    },
    Barrier {
        group: u64,
        reply: oneshot::Sender<Result<LogIndex, BarrierError>>,
    },
    TransferLeadership {
        group: u64,
        to: ReplicaId,
    },
    ChangeMembership {
        group: u64,
        change: MembershipChange,
        expected_epoch: u64,
        reply: oneshot::Sender<Result<u64, MembershipError>>,
    },
    SnapshotSent {
        group: u64,
        from: ReplicaId,
        to: ReplicaId,
        delivered: bool,
    },
    /// Ends the group's replica so that its rows can be exchanged or removed.
    Vacate {
        group: u64,
        replica: ReplicaId,
        reply: oneshot::Sender<Seated<M>>,
    },
}

/// A message of another replica, already found to be of this cluster and whole.
pub(crate) struct Arrival {
    pub(crate) group: u64,
    pub(crate) to: ReplicaId,
    pub(crate) bytes: usize,
    pub(crate) message: Box<Message>,
}

/// Everything that waited at the beginning of a turn, in order of arrival.
pub(crate) struct Arrivals<M: StateMachine> {
    pub(crate) requests: VecDeque<Request<M>>,
    pub(crate) messages: VecDeque<Arrival>,
    /// The last report on syncs: it says as much as all before it.
    pub(crate) synced: Option<Report>,
}

/// How much waits for the host's thread.
pub(crate) struct Queued {
    pub(crate) requests: usize,
    pub(crate) request_bytes: usize,
    pub(crate) messages: usize,
    pub(crate) message_bytes: usize,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Refused {
    Full,
    Closed,
}

pub(crate) struct Inbox<M: StateMachine> {
    waiting: Mutex<Waiting<M>>,
    arrived: Condvar,
    requests_max: usize,
    request_bytes_max: usize,
    messages_max: usize,
    message_bytes_max: usize,
}

struct Waiting<M: StateMachine> {
    arrivals: Arrivals<M>,
    request_bytes: usize,
    message_bytes: usize,
    closed: bool,
}

impl<M: StateMachine> Inbox<M> {
    pub(crate) fn new(config: &HostConfig) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                arrivals: Arrivals { requests: VecDeque::new(), messages: VecDeque::new(), synced: None },
                request_bytes: 0,
                message_bytes: 0,
                closed: false,
            }),
            arrived: Condvar::new(),
            requests_max: config.requests_queued_max,
            request_bytes_max: config.request_bytes_queued_max,
            messages_max: config.messages_queued_max,
            message_bytes_max: config.message_bytes_queued_max,
        }
    }

    /// Queues a request. What is bounded already always finds room: seats by the number of groups, reports on snapshots by the number
    /// of followers.
    pub(crate) fn request(&self, request: Request<M>) -> Result<(), Refused> {
        let (bytes, bounded) = match &request {
            Request::Propose { command, .. } => (command.len(), true),
            Request::Barrier { .. } | Request::TransferLeadership { .. } | Request::ChangeMembership { .. } => {
                (0, true)
            }
            Request::Seat(_) | Request::SnapshotSent { .. } | Request::Vacate { .. } => (0, false),
        };
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        let full = waiting.arrivals.requests.len() >= self.requests_max
            || bytes > self.request_bytes_max - waiting.request_bytes;
        if bounded && full {
            return Err(Refused::Full);
        }
        waiting.request_bytes += bytes;
        waiting.arrivals.requests.push_back(request);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Queues as many messages as there is room for, from the first; returns how many were dropped.
    pub(crate) fn receive(&self, messages: Vec<Arrival>) -> usize {
        let mut waiting = self.lock();
        if waiting.closed {
            return messages.len();
        }
        let mut dropped = 0;
        for message in messages {
            let full = waiting.arrivals.messages.len() >= self.messages_max
                || message.bytes > self.message_bytes_max - waiting.message_bytes;
            if full {
                dropped += 1;
                continue;
            }
            waiting.message_bytes += message.bytes;
            waiting.arrivals.messages.push_back(message);
        }
        drop(waiting);
        self.arrived.notify_one();
        dropped
    }

    /// Takes a report on syncs.
    pub(crate) fn synced(&self, report: Report) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.arrivals.synced = Some(report);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until something arrives or the time is over, then takes all that waits. Returns `None` once closed.
    pub(crate) fn take(&self, wait: Duration) -> Option<Arrivals<M>> {
        let idle = |waiting: &mut Waiting<M>| !waiting.closed && waiting.arrivals.is_empty();
        let (mut waiting, _) =
            self.arrived.wait_timeout_while(self.lock(), wait, idle).unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return None;
        }
        waiting.request_bytes = 0;
        waiting.message_bytes = 0;
        Some(waiting.arrivals.take())
    }

    /// What waits now.
    pub(crate) fn queued(&self) -> Queued {
        let waiting = self.lock();
        Queued {
            requests: waiting.arrivals.requests.len(),
            request_bytes: waiting.request_bytes,
            messages: waiting.arrivals.messages.len(),
            message_bytes: waiting.message_bytes,
        }
    }

    /// Takes nothing from now on, and lets go of what waits: each caller learns that the replicas have stopped.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let left = waiting.arrivals.take();
        drop(waiting);
        self.arrived.notify_all();
        // Outside the lock: dropping a seat closes its replica.
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<M>> {
        // Nothing between two changes of the queues can panic, so a poisoned lock still guards whole queues.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: StateMachine> Arrivals<M> {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.messages.is_empty() && self.synced.is_none()
    }

    fn take(&mut self) -> Self {
        let Self { requests, messages, synced } = self;
        Self { requests: std::mem::take(requests), messages: std::mem::take(messages), synced: synced.take() }
    }
}
