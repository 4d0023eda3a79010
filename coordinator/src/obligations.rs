//! Carries out what shards owe each other, one task for the whole coordinator.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use semel_coordinator_wire as convert;
use semel_index::ShardId;
use semel_proto::internal::v1 as wire;
use semel_workflow::{
    DeliveryOutcome, Obligation, ObligationDriver, ObligationEffect, ObligationEvent, ObligationLimits,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::front::Front;

/// Lists of obligations that may wait to be taken in; more are left to the sweep.
const LISTS_QUEUED_MAX: usize = 4_096;
/// How long one delivery may take over all replicas of a shard.
const DELIVERY_WITHIN: Duration = Duration::from_secs(5);

type Event = ObligationEvent<wire::Command>;

/// Where obligations that were found are handed in.
pub(crate) struct ObligationInbox(mpsc::Sender<Vec<Obligation<wire::Command>>>);

/// Where the task finds them.
pub(crate) struct ObligationOutbox(mpsc::Receiver<Vec<Obligation<wire::Command>>>);

/// The two ends of the queue.
pub(crate) fn queue() -> (ObligationInbox, ObligationOutbox) {
    let (sender, receiver) = mpsc::channel(LISTS_QUEUED_MAX);
    (ObligationInbox(sender), ObligationOutbox(receiver))
}

impl ObligationInbox {
    /// Hands obligations in. What finds no room stays recorded in its shard, where the sweep finds it.
    pub(crate) fn found(&self, obligations: Vec<Obligation<wire::Command>>) {
        if !obligations.is_empty() && self.0.try_send(obligations).is_err() {
            tracing::debug!("obligations left to the sweep");
        }
    }
}

/// Drives obligations until dropped.
pub(crate) async fn run(front: &Front, ObligationOutbox(mut found): ObligationOutbox) {
    let mut driver = ObligationDriver::new(ObligationLimits::default());
    let mut calls: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            Some(event) = calls.next() => event,
            obligations = found.recv() => match obligations {
                Some(obligations) => ObligationEvent::Found(obligations),
                None => return,
            },
        };
        for effect in driver.step(event) {
            match effect {
                ObligationEffect::Deliver(obligation) => calls.push(Box::pin(deliver(front, obligation))),
                ObligationEffect::Discharge { shard, obligations } => {
                    calls.push(Box::pin(discharge(front, shard, obligations)));
                }
                ObligationEffect::Refused { key, refusal } => {
                    tracing::error!(shard = key.from_shard.0, obligation = key.id, %refusal, "an obligation cannot be met");
                }
            }
        }
    }
}

async fn deliver(front: &Front, obligation: Obligation<wire::Command>) -> Event {
    let key = obligation.key;
    let shard = obligation.addressee_shard;
    let deadline = Instant::now() + DELIVERY_WITHIN;
    let answer = match front.nodes.propose(shard.0, obligation.command, deadline).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(shard = shard.0, %error, "an obligation waits");
            return ObligationEvent::DeliveryFailed(key);
        }
    };
    let found = front.obligations_from(shard, answer.obligations);
    let outcome = match answer.receipt {
        Some(wire::propose_response::Receipt::Refused(refused)) => match convert::refusal(refused) {
            Ok(refusal) => DeliveryOutcome::Refused(refusal),
            Err(_) => return ObligationEvent::DeliveryFailed(key),
        },
        Some(wire::propose_response::Receipt::Done(_) | wire::propose_response::Receipt::Enrolment(_)) => {
            DeliveryOutcome::Done
        }
        None => return ObligationEvent::DeliveryFailed(key),
    };
    ObligationEvent::Delivered { key, outcome, found }
}

async fn discharge(front: &Front, shard: ShardId, obligations: Vec<u64>) -> Event {
    let command = wire::command::Command::Discharge(wire::DischargeCommand { obligations });
    let command = wire::Command { command: Some(command) };
    match front.nodes.propose(shard.0, command, Instant::now() + DELIVERY_WITHIN).await {
        Ok(_) => ObligationEvent::Discharged(shard),
        Err(_) => ObligationEvent::DischargeFailed(shard),
    }
}
