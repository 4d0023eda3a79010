//! What was left behind: staged enrolments whose coordinator died, and obligations that nobody carries out.

use std::sync::Arc;

use semel_index::ShardId;
use semel_shard::{Command, Discharge, ObligationId, Receipt};
use semel_workflow::{DeliveryOutcome, Obligation, ObligationEffect, ObligationEvent, ObligationKey};

use super::calls::{Ended, Purpose};
use super::{METADATA_GROUP, Run};
use crate::convert;
use crate::history::Key;
use crate::messages::ShardRequest;
use crate::mutant::Mutant;
use crate::world::World;

/// How long one shard may take to list what it waits for, in microseconds.
const LIST_MICROS: u64 = 2_000_000;
/// How long one delivery may take over all replicas of a shard.
const DELIVERY_MICROS: u64 = 5_000_000;
/// How long reading an enrolment that is resumed may take.
const READ_MICROS: u64 = 10_000_000;

impl Run {
    /// Begins what is due and asks every shard what it waits for, if this coordinator leads.
    pub(super) fn sweep_round(&mut self, world: &mut World) {
        if !self.host.leads(METADATA_GROUP) || world.has(Mutant::NobodySweeps) {
            self.sweep.forget();
            return;
        }
        let Some(shards) = self.shards() else { return };
        for key in self.sweep.tick() {
            let request = ShardRequest::Read {
                gallery: key.gallery.clone(),
                enrolment: key.enrolment.clone(),
                with_templates: true,
            };
            let shard = semel_index::shard_of(&key.gallery, &key.enrolment, shards);
            self.call(world, shard, request, Purpose::Resume { key }, READ_MICROS);
        }
        for shard in shards.all() {
            self.call(world, shard, ShardRequest::ListPending, Purpose::List, LIST_MICROS);
        }
    }

    pub(super) fn listed(&mut self, world: &mut World, shard: ShardId, ended: Ended) {
        let (Ended::Pending { enrolments, obligations }, Some(shards)) = (ended, self.shards()) else { return };
        let keys = enrolments.into_iter().map(|one| Key { gallery: one.gallery, enrolment: one.enrolment_id });
        self.sweep.listed(shard, keys);
        let obligations = convert::obligations_from(shard, &obligations, shards);
        self.found(world, obligations);
    }

    /// Takes in obligations that a receipt or a list holds.
    pub(super) fn found(&mut self, world: &mut World, obligations: Vec<Obligation<Command>>) {
        if !obligations.is_empty() {
            self.oblige(world, ObligationEvent::Found(obligations));
        }
    }

    fn oblige(&mut self, world: &mut World, event: ObligationEvent<Command>) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.obligations.step(event) {
                match effect {
                    ObligationEffect::Deliver(Obligation { key, .. }) if world.has(Mutant::ObligationDropped) => {
                        let outcome = DeliveryOutcome::Done;
                        events.push(ObligationEvent::Delivered { key, outcome, found: Vec::new() });
                    }
                    ObligationEffect::Deliver(obligation) => {
                        let request = ShardRequest::Propose(Arc::new(obligation.command));
                        let purpose = Purpose::Deliver { obligation: obligation.key };
                        self.call(world, obligation.addressee_shard, request, purpose, DELIVERY_MICROS);
                    }
                    ObligationEffect::Discharge { shard, obligations } => {
                        let obligations = obligations.into_iter().map(ObligationId).collect();
                        let command = Command::Discharge(Discharge { obligations });
                        let request = ShardRequest::Propose(Arc::new(command));
                        self.call(world, shard, request, Purpose::Discharge, DELIVERY_MICROS);
                    }
                    ObligationEffect::Refused { key, refusal } => {
                        world.alarm(format!("obligation {} of shard {} is refused: {refusal}", key.id, key.from_shard));
                    }
                }
            }
        }
    }

    pub(super) fn delivered(&mut self, world: &mut World, key: ObligationKey, shard: ShardId, ended: Ended) {
        let (receipt, shards) = match (ended, self.shards()) {
            (Ended::Receipt(receipt), Some(shards)) => (receipt, shards),
            _ => return self.oblige(world, ObligationEvent::DeliveryFailed(key)),
        };
        world.tally.obligations += 1;
        let (outcome, left) = match *receipt {
            Receipt::Enrolment { obligations, .. } | Receipt::Done { obligations } => {
                (DeliveryOutcome::Done, obligations)
            }
            Receipt::Refused(refusal) => (DeliveryOutcome::Refused(convert::refusal(refusal)), Vec::new()),
        };
        let found = convert::obligations_from(shard, &left, shards);
        self.oblige(world, ObligationEvent::Delivered { key, outcome, found });
    }

    pub(super) fn discharged(&mut self, world: &mut World, shard: ShardId, ended: &Ended) {
        let event = match ended {
            Ended::Receipt(_) => ObligationEvent::Discharged(shard),
            Ended::Searched { .. }
            | Ended::Record(..)
            | Ended::NoSuchRecord
            | Ended::Pending { .. }
            | Ended::Failed { .. } => ObligationEvent::DischargeFailed(shard),
        };
        self.oblige(world, event);
    }
}
