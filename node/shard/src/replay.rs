//! Rebuilds a catalogue from the rows: what a replica does when it starts, since catalogues are derived.

use std::collections::BTreeMap;

use bytes::Bytes;
use semel_index::GalleryId;
use semel_raft::{LogIndex, Store, StoreError};

use crate::apply::staged_publication;
use crate::enrolment::EnrolmentState;
use crate::publication::{Publication, Totals};
use crate::rows::{EnrolmentEntry, Read, ReferencesEntry};
use crate::table::{self, KeyRange};
use crate::view::successor;

/// Enrolments held in memory at once: at most 64 × 16 templates of some 16 kB.
const PAGE_ENROLMENTS: usize = 64;

/// Publishes every enrolment of the shard in the order in which they were staged, each with the index of its stage, and
/// each withdrawn one's withdrawal right after it. The totals of the last publication of a gallery are its counts.
///
/// Only a catalogue that took all of it in knows what is applied: it then advances to the applied index, and is not to be
/// searched before.
pub fn replay_catalogue(store: &dyn Store, publish: &mut dyn FnMut(LogIndex, Publication)) -> Result<(), StoreError> {
    replay_after(store, LogIndex(0), BTreeMap::new(), publish)
}

/// The same for enrolments staged after `after` alone, where `totals` are the counts of what was staged until then.
pub(crate) fn replay_after(
    store: &dyn Store,
    after: LogIndex,
    mut totals: BTreeMap<GalleryId, Totals>,
    publish: &mut dyn FnMut(LogIndex, Publication),
) -> Result<(), StoreError> {
    let from = table::staged_at(LogIndex(after.0.saturating_add(1)));
    let mut range = KeyRange { from, to: Bytes::from_static(table::KEYS_END) };
    loop {
        let page = store.rows::<ReferencesEntry>(&range, PAGE_ENROLMENTS)?;
        let is_last = page.len() < PAGE_ENROLMENTS;
        if let Some((key, _)) = page.last() {
            range.from = successor(key);
        }
        for (_, references) in page {
            let totals = totals.entry(references.gallery.clone()).or_default();
            replay_enrolment(store, references, totals, publish)?;
        }
        if is_last {
            return Ok(());
        }
    }
}

fn replay_enrolment(
    store: &dyn Store,
    references: ReferencesEntry,
    totals: &mut Totals,
    publish: &mut dyn FnMut(LogIndex, Publication),
) -> Result<(), StoreError> {
    let (gallery, enrolment_id) = (references.gallery.clone(), references.enrolment_id.clone());
    let stage_index = references.stage_index;
    let entry = store.row::<EnrolmentEntry>(&table::enrolment(&gallery, &enrolment_id))?;
    // They are written together: one of the two rows is damaged.
    let entry = entry.ok_or_else(|| StoreError {
        table: table::REFERENCES,
        reason: format!("references at {stage_index} are of no enrolment"),
    })?;
    totals.staged_total += 1;
    publish(stage_index, staged_publication(references, *totals));
    if entry.record.state == EnrolmentState::Withdrawn {
        totals.withdrawn_total += 1;
        publish(stage_index, Publication::Withdrawn { gallery, enrolment_id, totals: *totals });
    }
    Ok(())
}
