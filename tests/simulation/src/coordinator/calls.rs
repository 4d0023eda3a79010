//! Calls to shards: one replica after another until one answers or the time is over.

use semel_index::{ShardId, ShardSearch};
use semel_raft::LogIndex;
use semel_shard::{CanonicalReference, EnrolmentRecord, Obligation, PendingEnrolment, Receipt};
use semel_workflow::ObligationKey;

use super::{Run, Timer};
use crate::history::Key;
use crate::messages::{CallId, Message, Refused, ShardAnswered, ShardRequest};
use crate::world::{Place, World};

/// How long one replica may take, at most, before another is asked.
const TRY_MICROS_MAX: u64 = 2_000_000;
/// How long it may take, at least, if that much time is left.
const TRY_MICROS_MIN: u64 = 500_000;
/// The pause between two rounds over a shard's replicas.
const AGAIN_MICROS: u64 = 50_000;

/// What a call is for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    Stage { drive: u64 },
    Settle { drive: u64 },
    LoadPinned { drive: u64 },
    Search { drive: u64 },
    IdentifySearch { identification: u64 },
    Resume { key: Key },
    Read { client: Place, call: CallId },
    Withdraw { client: Place, call: CallId },
    List,
    Deliver { obligation: ObligationKey },
    Discharge,
}

/// A call under way.
#[derive(Debug, Clone)]
pub(super) struct ShardCall {
    pub(super) shard: ShardId,
    request: ShardRequest,
    pub(super) purpose: Purpose,
    /// After this no further replica is asked.
    deadline: u64,
    /// How many replicas are asked before it fails; many for calls that go on until the deadline.
    tries_left: u32,
    /// The next replica, counted from the shard's preferred one.
    next: usize,
    /// Whether some try may have changed the shard.
    outcome_unknown: bool,
    /// Whether some replica had too much waiting.
    overloaded: bool,
}

/// How a call ended.
pub(super) enum Ended {
    Receipt(Box<Receipt>),
    Searched {
        epoch: u64,
        searchable_index: LogIndex,
        found: ShardSearch,
    },
    Record(Box<EnrolmentRecord>, Vec<CanonicalReference>),
    NoSuchRecord,
    Pending {
        enrolments: Vec<PendingEnrolment>,
        obligations: Vec<Obligation>,
    },
    /// Without an answer.
    Failed {
        outcome_unknown: bool,
        overloaded: bool,
    },
}

impl Run {
    /// Asks replicas of a shard until one answers or `within` microseconds have passed.
    pub(super) fn call(
        &mut self,
        world: &mut World,
        shard: ShardId,
        request: ShardRequest,
        purpose: Purpose,
        within: u64,
    ) {
        let deadline = world.now + within;
        let (tries_left, next, outcome_unknown, overloaded) = (u32::MAX, 0, false, false);
        let call = ShardCall { shard, request, purpose, deadline, tries_left, next, outcome_unknown, overloaded };
        self.try_call(world, call);
    }

    /// Asks one replica once; `attempt` turns the choice.
    pub(super) fn call_once(
        &mut self,
        world: &mut World,
        shard: ShardId,
        request: ShardRequest,
        purpose: Purpose,
        attempt: usize,
    ) {
        let deadline = world.now + TRY_MICROS_MAX;
        let (tries_left, next, outcome_unknown, overloaded) = (1, attempt, false, false);
        let call = ShardCall { shard, request, purpose, deadline, tries_left, next, outcome_unknown, overloaded };
        self.try_call(world, call);
    }

    pub(super) fn try_call(&mut self, world: &mut World, mut call: ShardCall) {
        let mut replicas = self.places.get(&u64::from(call.shard.0)).cloned().unwrap_or_default();
        if replicas.is_empty() {
            self.look_at_map(world);
            replicas = self.places.get(&u64::from(call.shard.0)).cloned().unwrap_or_default();
        }
        if replicas.is_empty() || world.now >= call.deadline || call.tries_left == 0 {
            self.end(world, call, None);
            return;
        }
        let preferred = self.preferred.get(&call.shard.0).copied().unwrap_or(0);
        let to = replicas[(preferred + call.next) % replicas.len()];
        call.tries_left -= 1;
        let number = world.number();
        let (shard, request) = (call.shard, call.request.clone());
        let left = call.deadline - world.now;
        // Half of it, so that one that hangs leaves time to ask another; all of it where no other is asked.
        let share = if call.tries_left == 0 { left } else { (left / 2).max(TRY_MICROS_MIN) };
        let limit = share.min(TRY_MICROS_MAX).min(left);
        self.calls.insert(number, call);
        world.send(self.place, to, Message::Ask { call: number, shard, request });
        self.after(world, limit, Timer::CallTry(number));
    }

    pub(super) fn call_answered(&mut self, world: &mut World, number: CallId, answer: Result<ShardAnswered, Refused>) {
        let Some(call) = self.calls.remove(&number) else { return };
        match answer {
            Ok(answered) => {
                let replicas = self.places.get(&u64::from(call.shard.0)).map_or(1, Vec::len).max(1);
                let preferred = self.preferred.entry(call.shard.0).or_insert(0);
                // Searches go round the replicas on purpose and say nothing of who leads.
                if !matches!(call.request, ShardRequest::Search { .. }) {
                    *preferred = (*preferred + call.next) % replicas;
                }
                self.end(world, call, Some(answered));
            }
            Err(refused) => self.call_failed(world, call, refused),
        }
    }

    pub(super) fn call_overdue(&mut self, world: &mut World, number: CallId) {
        if let Some(call) = self.calls.remove(&number) {
            self.call_failed(world, call, Refused::OutcomeUnknown);
        }
    }

    fn call_failed(&mut self, world: &mut World, mut call: ShardCall, refused: Refused) {
        call.outcome_unknown |= refused == Refused::OutcomeUnknown && matches!(call.request, ShardRequest::Propose(_));
        call.overloaded |= refused == Refused::Overloaded;
        call.next += 1;
        if call.tries_left == 0 || world.now + AGAIN_MICROS >= call.deadline {
            self.end(world, call, None);
        } else {
            self.after(world, AGAIN_MICROS, Timer::CallAgain(Box::new(call)));
        }
    }

    fn end(&mut self, world: &mut World, call: ShardCall, answered: Option<ShardAnswered>) {
        let ended = match answered {
            Some(ShardAnswered::Receipt(receipt)) => Ended::Receipt(receipt),
            Some(ShardAnswered::Searched { epoch, searchable_index, found }) => {
                Ended::Searched { epoch, searchable_index, found }
            }
            Some(ShardAnswered::Record(record, references)) => Ended::Record(record, references),
            Some(ShardAnswered::NoSuchRecord) => Ended::NoSuchRecord,
            Some(ShardAnswered::Pending { enrolments, obligations }) => Ended::Pending { enrolments, obligations },
            None => Ended::Failed { outcome_unknown: call.outcome_unknown, overloaded: call.overloaded },
        };
        let ShardCall { shard, purpose, .. } = call;
        match purpose {
            Purpose::Stage { drive } => self.staged(world, drive, shard, ended),
            Purpose::Settle { drive } => self.settled(world, drive, shard, ended),
            Purpose::LoadPinned { drive } => self.pinned_loaded(world, drive, ended),
            Purpose::Search { drive } => self.searched(world, drive, shard, ended),
            Purpose::IdentifySearch { identification } => self.identified(world, identification, shard, ended),
            Purpose::Resume { key } => self.resume(world, key, ended),
            Purpose::Read { client, call } => self.read(world, client, call, ended),
            Purpose::Withdraw { client, call } => self.withdrawn(world, client, call, shard, ended),
            Purpose::List => self.listed(world, shard, ended),
            Purpose::Deliver { obligation } => self.delivered(world, obligation, shard, ended),
            Purpose::Discharge => self.discharged(world, shard, &ended),
        }
    }
}
