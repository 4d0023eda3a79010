//! Carrying out what shards owe each other: deliver each obligation's command, then have the owing shard discharge it.
//!
//! Nothing here needs to survive: an obligation stays recorded in its shard until it is discharged, so whatever is dropped,
//! for want of room or after a failure, is found again by the sweep. Commands are idempotent, so delivering one twice
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use semel_index::{EnrolmentId, GalleryId, ShardId};

use crate::record::Refusal;

/// The most obligations that one discharge names.
pub const DISCHARGED_MAX: usize = 256;

/// Names an obligation in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObligationKey {
    /// The shard that owes it.
    pub from_shard: ShardId,
    /// Its id there.
    pub id: u64,
}

/// A command that one shard owes another. `T` is the command, which this crate never reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obligation<T> {
    /// Names it.
    pub key: ObligationKey,
    /// The gallery of the enrolment it is about.
    pub gallery: GalleryId,
    /// The enrolment whose shard the command goes to.
    pub addressee: EnrolmentId,
    /// That shard.
    pub addressee_shard: ShardId,
    /// The command.
    pub command: T,
}

/// How much is carried out at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObligationLimits {
    /// Obligations held in whatever state, waiting to be discharged included; more are dropped. At least 1.
    pub known_max: usize,
    /// Deliveries under way. At least 1.
    pub in_flight_max: usize,
}

impl Default for ObligationLimits {
    fn default() -> Self {
        Self { known_max: 16_384, in_flight_max: 64 }
    }
}

/// What applying a delivered command gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// Done, now or before.
    Done,
    /// It broke a rule and never will be done: discharged all the same, and logged.
    Refused(Refusal),
}

/// What happened.
#[derive(Debug)]
pub enum ObligationEvent<T> {
    /// Obligations were seen in a receipt or by the sweep.
    Found(Vec<Obligation<T>>),
    /// The addressee's shard applied the command.
    Delivered {
        /// The obligation.
        key: ObligationKey,
        /// What it gave.
        outcome: DeliveryOutcome,
        /// The obligations that the command left in the addressee's shard.
        found: Vec<Obligation<T>>,
    },
    /// The delivery has no receipt.
    DeliveryFailed(ObligationKey),
    /// The shard discharged the batch.
    Discharged(ShardId),
    /// The discharge has no receipt.
    DischargeFailed(ShardId),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum ObligationEffect<T> {
    /// Propose the command to the addressee's shard; answer with `Delivered` or `DeliveryFailed`.
    Deliver(Obligation<T>),
    /// Propose a discharge to the shard; answer with `Discharged` or `DischargeFailed`. One at a time per shard.
    Discharge {
        /// The shard that owed them.
        shard: ShardId,
        /// Their ids, ascending, at most [`DISCHARGED_MAX`].
        obligations: Vec<u64>,
    },
    /// Log that an obligation could not be carried out: a defect.
    Refused {
        /// The obligation.
        key: ObligationKey,
        /// Why.
        refusal: Refusal,
    },
}

/// Drives obligations, each at most once at a time.
#[derive(Debug)]
pub struct ObligationDriver<T> {
    limits: ObligationLimits,
    waiting: VecDeque<Obligation<T>>,
    in_flight: BTreeSet<ObligationKey>,
    /// Delivered, not discharged yet.
    delivered: BTreeMap<ShardId, BTreeSet<u64>>,
    /// The batch that each shard is asked to discharge.
    discharging: BTreeMap<ShardId, Vec<u64>>,
    /// Every obligation in one of the four above.
    known: BTreeSet<ObligationKey>,
}

impl<T> ObligationDriver<T> {
    /// A driver with nothing to do.
    pub fn new(limits: ObligationLimits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            in_flight: BTreeSet::new(),
            delivered: BTreeMap::new(),
            discharging: BTreeMap::new(),
            known: BTreeSet::new(),
        }
    }

    /// Obligations that the driver holds, in whatever state: at most `known_max`.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing waits or is under way.
    pub fn is_idle(&self) -> bool {
        self.known.is_empty()
    }

    /// Advances by one event. Effects come in a fixed order for a fixed order of events.
    pub fn step(&mut self, event: ObligationEvent<T>) -> Vec<ObligationEffect<T>> {
        let mut effects = Vec::new();
        match event {
            ObligationEvent::Found(found) => self.queue(found),
            ObligationEvent::Delivered { key, outcome, found } => {
                self.queue(found);
                effects.extend(self.take_delivered(key, outcome));
            }
            ObligationEvent::DeliveryFailed(key) => {
                if self.in_flight.remove(&key) {
                    self.known.remove(&key);
                }
            }
            ObligationEvent::Discharged(shard) | ObligationEvent::DischargeFailed(shard) => self.forget_batch(shard),
        }
        effects.extend(self.discharges());
        effects.extend(self.deliveries());
        effects
    }

    fn queue(&mut self, found: Vec<Obligation<T>>) {
        for obligation in found {
            if self.known.len() < self.limits.known_max && self.known.insert(obligation.key) {
                self.waiting.push_back(obligation);
            }
        }
    }

    fn take_delivered(&mut self, key: ObligationKey, outcome: DeliveryOutcome) -> Option<ObligationEffect<T>> {
        if !self.in_flight.remove(&key) {
            return None;
        }
        self.delivered.entry(key.from_shard).or_default().insert(key.id);
        match outcome {
            DeliveryOutcome::Done => None,
            DeliveryOutcome::Refused(refusal) => Some(ObligationEffect::Refused { key, refusal }),
        }
    }

    fn forget_batch(&mut self, from_shard: ShardId) {
        for id in self.discharging.remove(&from_shard).unwrap_or_default() {
            self.known.remove(&ObligationKey { from_shard, id });
        }
    }

    /// One batch per shard that is not discharging: while one is under way the next one fills.
    fn discharges(&mut self) -> Vec<ObligationEffect<T>> {
        let mut effects = Vec::new();
        for (shard, delivered) in &mut self.delivered {
            if !self.discharging.contains_key(shard) {
                let obligations: Vec<u64> = delivered.iter().copied().take(DISCHARGED_MAX).collect();
                delivered.retain(|id| obligations.binary_search(id).is_err());
                self.discharging.insert(*shard, obligations.clone());
                effects.push(ObligationEffect::Discharge { shard: *shard, obligations });
            }
        }
        self.delivered.retain(|_, delivered| !delivered.is_empty());
        effects
    }

    fn deliveries(&mut self) -> Vec<ObligationEffect<T>> {
        let room = self.limits.in_flight_max.saturating_sub(self.in_flight.len());
        let next: Vec<Obligation<T>> = self.waiting.drain(..room.min(self.waiting.len())).collect();
        self.in_flight.extend(next.iter().map(|obligation| obligation.key));
        next.into_iter().map(ObligationEffect::Deliver).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obligation(shard: u32, id: u64) -> Obligation<&'static str> {
        Obligation {
            key: ObligationKey { from_shard: ShardId(shard), id },
            gallery: GalleryId::try_from("people").expect("valid"),
            addressee: EnrolmentId::try_from("e").expect("valid"),
            addressee_shard: ShardId(9),
            command: "open",
        }
    }

    fn driver(known_max: usize, in_flight_max: usize) -> ObligationDriver<&'static str> {
        ObligationDriver::new(ObligationLimits { known_max, in_flight_max })
    }

    fn found(shard: u32, ids: impl IntoIterator<Item = u64>) -> ObligationEvent<&'static str> {
        ObligationEvent::Found(ids.into_iter().map(|id| obligation(shard, id)).collect())
    }

    fn delivered(shard: u32, id: u64) -> ObligationEvent<&'static str> {
        let key = ObligationKey { from_shard: ShardId(shard), id };
        ObligationEvent::Delivered { key, outcome: DeliveryOutcome::Done, found: Vec::new() }
    }

    fn discharge(shard: u32, ids: impl IntoIterator<Item = u64>) -> ObligationEffect<&'static str> {
        ObligationEffect::Discharge { shard: ShardId(shard), obligations: ids.into_iter().collect() }
    }

    #[test]
    fn an_obligation_is_discharged_only_after_its_delivery() {
        let mut driver = driver(10, 10);
        assert_eq!(driver.step(found(1, [5])), [ObligationEffect::Deliver(obligation(1, 5))]);
        assert_eq!(driver.step(delivered(1, 5)), [discharge(1, [5])]);
        assert_eq!(driver.step(ObligationEvent::Discharged(ShardId(1))), []);
        assert!(driver.is_idle());
    }

    #[test]
    fn the_same_obligation_is_not_delivered_twice_at_a_time() {
        let mut driver = driver(10, 10);
        assert_eq!(driver.step(found(1, [5, 5])).len(), 1);
        assert_eq!(driver.step(found(1, [5])), []);
        assert_eq!(driver.step(delivered(1, 5)).len(), 1);
        assert_eq!(driver.step(found(1, [5])), []);
        assert_eq!(driver.step(delivered(1, 5)), []);
    }

    #[test]
    fn deliveries_in_flight_are_bounded_and_what_does_not_fit_is_dropped() {
        let mut driver = driver(3, 2);
        assert_eq!(driver.step(found(1, 0..5)).len(), 2);
        assert_eq!(driver.known(), 3);
        assert_eq!(driver.step(delivered(1, 0)), [discharge(1, [0]), ObligationEffect::Deliver(obligation(1, 2))]);
    }

    #[test]
    fn what_failed_is_taken_again_when_found_again() {
        let mut driver = driver(10, 10);
        let key = obligation(1, 5).key;
        assert_eq!(driver.step(found(1, [5])).len(), 1);
        assert_eq!(driver.step(ObligationEvent::DeliveryFailed(key)), []);
        assert_eq!(driver.step(found(1, [5])), [ObligationEffect::Deliver(obligation(1, 5))]);
        assert_eq!(driver.step(delivered(1, 5)), [discharge(1, [5])]);
        assert_eq!(driver.step(ObligationEvent::DischargeFailed(ShardId(1))), []);
        assert_eq!(driver.step(found(1, [5])), [ObligationEffect::Deliver(obligation(1, 5))]);
    }

    #[test]
    fn discharges_batch_while_one_is_under_way() {
        let mut driver = driver(1_000, 1_000);
        assert_eq!(driver.step(found(1, 0..600)).len(), 600);
        assert_eq!(driver.step(delivered(1, 0)), [discharge(1, [0])]);
        for id in 1..600 {
            assert_eq!(driver.step(delivered(1, id)), []);
        }
        assert_eq!(driver.step(ObligationEvent::Discharged(ShardId(1))), [discharge(1, 1..257)]);
        assert_eq!(driver.step(ObligationEvent::Discharged(ShardId(1))), [discharge(1, 257..513)]);
        assert_eq!(driver.step(ObligationEvent::Discharged(ShardId(1))), [discharge(1, 513..600)]);
        assert_eq!(driver.step(ObligationEvent::Discharged(ShardId(1))), []);
        assert!(driver.is_idle());
    }

    #[test]
    fn obligations_left_by_a_delivery_are_driven_as_well() {
        let mut driver = driver(10, 10);
        assert_eq!(driver.step(found(1, [5])).len(), 1);
        let event = ObligationEvent::Delivered {
            key: obligation(1, 5).key,
            outcome: DeliveryOutcome::Done,
            found: vec![obligation(9, 1)],
        };
        assert_eq!(driver.step(event), [discharge(1, [5]), ObligationEffect::Deliver(obligation(9, 1))]);
    }

    #[test]
    fn a_refused_obligation_is_logged_and_discharged() {
        let mut driver = driver(10, 10);
        assert_eq!(driver.step(found(1, [5])).len(), 1);
        let (key, refusal) = (obligation(1, 5).key, Refusal::NoSuchEnrolment);
        let event = ObligationEvent::Delivered { key, outcome: DeliveryOutcome::Refused(refusal), found: Vec::new() };
        assert_eq!(driver.step(event), [ObligationEffect::Refused { key, refusal }, discharge(1, [5])]);
    }
}
