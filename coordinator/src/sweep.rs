//! Finds what was left behind: staged enrolments whose coordinator died, obligations that nobody carries out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use semel_coordinator_wire as convert;
use semel_index::{EnrolmentId, GalleryId};
use semel_telemetry::{Instrument as _, traced};
use semel_workflow::{LISTED_PER_SHARD_MAX, Outcome, Sweep, SweepLimits};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::front::Front;

/// How long one shard may take to list what it waits for.
const LIST_WITHIN: Duration = Duration::from_secs(2);

type Key = (GalleryId, EnrolmentId);

/// What the sweep of this coordinator knows of staged enrolments. Shared with the calls that drive them.
pub(crate) struct EnrolmentSweep(Mutex<Sweep<Key>>);

impl Default for EnrolmentSweep {
    fn default() -> Self {
        Self(Mutex::new(Sweep::new(SweepLimits::default())))
    }
}

impl EnrolmentSweep {
    /// Notes that an enrolment is in work here, until the guard is dropped.
    pub(crate) fn begin(&self, key: Key) -> InWork<'_> {
        self.lock().begun(key.clone());
        InWork { sweep: self, key }
    }

    fn lock(&self) -> MutexGuard<'_, Sweep<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An enrolment that is in work here.
pub(crate) struct InWork<'a> {
    sweep: &'a EnrolmentSweep,
    key: Key,
}

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        self.sweep.lock().ended(&self.key);
    }
}

/// Sweeps for as long as this coordinator leads the metadata group; until dropped.
pub(crate) async fn run(front: &Front, every: Duration) {
    // Two loops, so that a shard that does not list what it waits for holds up nothing that is being finished.
    let (due, mut found) = mpsc::channel(1);
    let listing = async {
        let mut rounds = tokio::time::interval(every);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if !front.metadata.leads() {
                front.sweep.lock().forget();
                continue;
            }
            list(front).await;
            let keys = front.sweep.lock().tick();
            if !keys.is_empty() && due.send(keys).await.is_err() {
                return;
            }
        }
    };
    let finishing = async {
        let mut resumed = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = resumed.next() => {}
                keys = found.recv() => {
                    let Some(keys) = keys else { return };
                    tracing::info!(enrolments = keys.len(), "finishing enrolments that were left behind");
                    for (gallery, enrolment_id) in keys {
                        resumed.push(resume(front, gallery, enrolment_id));
                    }
                }
            }
        }
    };
    tokio::join!(listing, finishing);
}

/// Asks every shard what it waits for. A shard that does not answer is asked again in the next round.
async fn list(front: &Front) {
    let Some(shards) = front.shards() else { return };
    let deadline = Instant::now() + LIST_WITHIN;
    let items_max = LISTED_PER_SHARD_MAX as u32;
    let lists =
        shards.all().map(|shard| async move { (shard, front.nodes.list_pending(shard.0, items_max, deadline).await) });
    for (shard, listed) in futures::future::join_all(lists).await {
        match listed {
            Ok(listed) => {
                let enrolments = listed.enrolments.iter().filter_map(|pending| {
                    let gallery = convert::gallery(&pending.gallery).ok()?;
                    Some((gallery, convert::enrolment_id(&pending.enrolment_id).ok()?))
                });
                front.sweep.lock().listed(shard, enrolments);
                front.obligations.found(front.obligations_from(shard, listed.obligations));
            }
            Err(error) => tracing::debug!(shard = shard.0, %error, "a shard cannot be swept now"),
        }
    }
}

async fn resume(front: &Front, gallery: GalleryId, enrolment_id: EnrolmentId) {
    // `resume` notes the enrolment as in work only once it is read; the sweep itself noted it when it became due.
    let _in_work = front.sweep.begin((gallery.clone(), enrolment_id.clone()));
    front.metrics.resumed.inc();
    let span = traced!("resume", %gallery, %enrolment_id);
    match front.resume(&gallery, &enrolment_id).instrument(span).await {
        Ok(Outcome::Settled(_)) => tracing::debug!(%gallery, %enrolment_id, "finished"),
        Ok(_) => tracing::debug!(%gallery, %enrolment_id, "not finished yet"),
        Err(error) => tracing::debug!(%gallery, %enrolment_id, %error, "not finished yet"),
    }
}
