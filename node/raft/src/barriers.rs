//! Read barriers: which log index must a read that starts now have seen? A round asks the leader, with a mark of its own, and
//! the leader asks a majority. raft-rs drops rounds silently, so they are asked again with a new mark.

use std::collections::BTreeMap;

use crate::config::ReplicaConfig;
use crate::context::Marker;
use crate::event::BarrierError;
use crate::ids::{LogIndex, Ticket};
use crate::mutant::Mutant;

/// Barriers that wait for a round, and rounds that wait for an answer.
pub(crate) struct Barriers {
    marker: Marker,
    /// Join the next round. A barrier never joins one that was handed to raft before: its answer may be older than a command
    /// acknowledged in between.
    waiting: Vec<Waiting>,
    rounds: BTreeMap<u64, Round>,
    /// Barriers in `rounds`.
    in_rounds: usize,
    pending_max: usize,
    rounds_max: usize,
    round_ticks: u64,
    ticks_max: u64,
}

struct Waiting {
    ticket: Ticket,
    deadline: u64,
}

struct Round {
    barriers: Vec<Waiting>,
    deadline: u64,
}

/// An answer for one barrier.
pub(crate) type Answer = (Ticket, Result<LogIndex, BarrierError>);

impl Barriers {
    pub(crate) fn new(config: &ReplicaConfig) -> Self {
        Self {
            marker: Marker::new(config.replica, config.boot_nonce),
            waiting: Vec::new(),
            rounds: BTreeMap::new(),
            in_rounds: 0,
            pending_max: config.barriers_pending_max,
            rounds_max: config.barrier_rounds_max,
            round_ticks: config.barrier_ticks,
            ticks_max: config.barrier_ticks.saturating_mul(config.barrier_attempts_max),
        }
    }

    pub(crate) fn queue(&mut self, ticket: Ticket, now: u64) -> Result<(), BarrierError> {
        if self.waiting.len() + self.in_rounds >= self.pending_max {
            return Err(BarrierError::TooManyPending);
        }
        let barrier = Waiting { ticket, deadline: now.saturating_add(self.ticks_max) };
        match self.rounds.last_entry() {
            Some(mut sent) if Mutant::BarrierJoinedLate.is_chosen() => {
                self.in_rounds += 1;
                sent.get_mut().barriers.push(barrier);
            }
            Some(_) | None => self.waiting.push(barrier),
        }
        Ok(())
    }

    /// Tells whether a round can start.
    pub(crate) fn wants_round(&self) -> bool {
        let rounds_max = if Mutant::BarrierContextReused.is_chosen() { 1 } else { self.rounds_max };
        !self.waiting.is_empty() && self.rounds.len() < rounds_max
    }

    /// Starts a round with every barrier that waits, and returns its mark.
    pub(crate) fn start_round(&mut self, now: u64) -> Vec<u8> {
        let (number, context) = if Mutant::BarrierContextReused.is_chosen() {
            Marker::clone(&self.marker).mark()
        } else {
            self.marker.mark()
        };
        let barriers = std::mem::take(&mut self.waiting);
        self.in_rounds += barriers.len();
        self.rounds.insert(number, Round { barriers, deadline: now.saturating_add(self.round_ticks) });
        context
    }

    /// Takes the answer of a round. Answers of rounds given up are ignored.
    pub(crate) fn answered(&mut self, context: &[u8], index: LogIndex) -> Vec<Answer> {
        let round = self.marker.number(context).and_then(|number| self.rounds.remove(&number));
        let barriers = round.map_or(Vec::new(), |round| round.barriers);
        self.in_rounds -= barriers.len();
        barriers.into_iter().map(|barrier| (barrier.ticket, Ok(index))).collect()
    }

    /// Gives up the rounds that were not answered in time: their barriers join the next. Returns those that waited too long.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<Answer> {
        while let Some(oldest) = self.rounds.first_entry().filter(|oldest| oldest.get().deadline <= now) {
            let round = oldest.remove();
            self.in_rounds -= round.barriers.len();
            self.waiting.extend(round.barriers);
        }
        let expired = self.waiting.extract_if(.., |barrier| barrier.deadline <= now);
        expired.map(|barrier| (barrier.ticket, Err(BarrierError::NotConfirmed))).collect()
    }

    /// Gives up every round: the leader they were sent to leads no more.
    pub(crate) fn give_up_rounds(&mut self) {
        for round in std::mem::take(&mut self.rounds).into_values() {
            self.waiting.extend(round.barriers);
        }
        self.in_rounds = 0;
    }

    /// Returns everyone who waits.
    pub(crate) fn take_all(&mut self) -> Vec<Ticket> {
        self.give_up_rounds();
        self.waiting.drain(..).map(|barrier| barrier.ticket).collect()
    }
}
