//! Searching a shard: a barrier first, then the wait until the view has reached it, then a scan of one pinned moment.

use semel_index::{ComparisonScore, ProbeReference, SearchProbe, ShardId};
use semel_shard::SearchMoment;

use super::{Current, Run, Search, Timer, Waiting};
use crate::history::{Key, Scan, ShardSeen};
use crate::messages::{CallId, Refused, ShardAnswered};
use crate::mutant::Mutant;
use crate::world::{Died, Place, World};

/// How long a shard's barrier and catalogue may take before its coordinator asks another replica.
const CURRENT_WITHIN_MICROS: u64 = 1_000_000;
/// How long a scan takes, in microseconds.
const SCAN_MICROS: (u64, u64) = (100, 8_000);
/// How long one takes on a busy node.
const SLOW_SCAN_MICROS: (u64, u64) = (50_000, 900_000);

impl Run {
    pub(super) fn search(&mut self, world: &mut World, group: u64, search: Search) -> Result<(), Died> {
        let hosted = self.shards.get_mut(&group).expect("checked by the caller");
        if world.has(Mutant::BarrierSkipped) {
            self.scan(world, group, search, None);
            return Ok(());
        }
        let joined = hosted.scanning.last_key_value().map(|(_, moment)| moment.clone());
        if world.has(Mutant::ScanJoinedLate) && joined.is_some() {
            self.scan(world, group, search, joined);
            return Ok(());
        }
        let (call, caller) = (search.call, search.caller);
        self.after(world, CURRENT_WITHIN_MICROS, Timer::GiveUp { group, call, caller });
        self.barrier(world, group, Current::Search(search))
    }

    /// Begins what waited for the view to be current.
    pub(super) fn reached(&mut self, world: &mut World, group: u64) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let mut searchable = hosted.view.moment().searchable_index();
        if world.has(Mutant::BarrierOfAppliedIndex) {
            searchable = self.host.replica(group).map_or(searchable, |replica| replica.status().applied);
        }
        let ready: Vec<Current> =
            hosted.behind.extract_if(.., |(index, _)| *index <= searchable).map(|(_, current)| current).collect();
        for current in ready {
            match current {
                Current::Read { caller, call, key, with_templates } => {
                    let answer = self.read(world, group, &key, with_templates);
                    self.answer(world, caller, call, answer);
                }
                Current::Search(search) => self.scan(world, group, search, None),
            }
        }
    }

    /// Pins a moment and begins to scan it.
    pub(super) fn scan(&mut self, world: &mut World, group: u64, search: Search, joined: Option<SearchMoment>) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let moment = joined.unwrap_or_else(|| hosted.view.moment());
        hosted.scanning.insert(search.call, moment);
        let (least, most) = if self.busy { SLOW_SCAN_MICROS } else { SCAN_MICROS };
        let micros = world.chance.between(least..=most);
        self.after(world, micros, Timer::Scanned { group, search });
    }

    pub(super) fn give_up(&mut self, world: &mut World, group: u64, call: CallId, caller: Place) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let is_it = |current: &Current| current.call() == call && current.caller() == caller;
        let behind = hosted.behind.extract_if(.., |(_, current)| is_it(current)).count();
        let waiting = self.waiting.iter().find_map(|(key, waiting)| match waiting {
            Waiting::Reader(current) if is_it(current) => Some(*key),
            Waiting::Reader(_) | Waiting::Proposer { .. } => None,
        });
        if let Some(key) = waiting {
            self.waiting.remove(&key);
        }
        if behind > 0 || waiting.is_some() {
            self.answer(world, caller, call, Err(Refused::NothingDone));
        }
    }

    pub(super) fn scanned(&mut self, world: &mut World, group: u64, search: &Search) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let Some(moment) = hosted.scanning.remove(&search.call) else { return };
        let found = match moment.search(std::slice::from_ref(&*search.probe), &|| false) {
            Ok(mut answers) => answers.pop().expect("one probe, one answer"),
            Err(error) => {
                world.alarm(format!("{} group {group}: {error}", self.place));
                self.answer(world, search.caller, search.call, Err(Refused::NothingDone));
                return;
            }
        };
        world.tally.scans += 1;
        let epoch = self.host.replica(group).map_or(0, |replica| replica.status().epoch);
        let searchable_index = moment.searchable_index();
        let gallery = search.probe.gallery.clone();
        world.watched.scans.push(Scan {
            asked_at: search.asked_at,
            applicant: search.probe.exclude.clone().map(|enrolment| Key { gallery, enrolment }),
            seen: ShardSeen {
                shard: ShardId(u32::try_from(group).expect("a shard")),
                searchable_index: searchable_index.0,
                compared: found.compared,
                not_comparable: found.not_comparable,
                withdrawn: found.withdrawn,
            },
            candidates: found.candidates.iter().map(|candidate| candidate.enrolment_id.clone()).collect(),
        });
        let (place, total) = (self.place, found.candidates_total);
        world.note(place, "scanned", group, || {
            format!("shard {group} for {:?}: {total} candidates up to {searchable_index}", search.probe.exclude)
        });
        self.answer(world, search.caller, search.call, Ok(ShardAnswered::Searched { epoch, searchable_index, found }));
    }
}

/// The probe as the index takes it.
pub(super) fn index_probe(world: &World, probe: &semel_workflow::SearchProbe, miss_budget_ppb: u32) -> SearchProbe {
    let reference = |one: &semel_workflow::ProbeReference| ProbeReference {
        slot: one.reference.slot,
        spec: one.reference.spec,
        template: one.reference.template.clone(),
        threshold: threshold(world, one.threshold),
        miss_budget_ppb,
    };
    SearchProbe {
        gallery: probe.gallery.clone(),
        key_version: probe.key_version,
        references: probe.references.iter().map(reference).collect(),
        exclude: probe.exclude.clone(),
        candidates_max: probe.candidates_max,
    }
}

fn threshold(world: &World, threshold: ComparisonScore) -> ComparisonScore {
    let lowered = if world.has(Mutant::ThresholdLowered) { 100_000 } else { 0 };
    ComparisonScore::from_micros(threshold.micros() - lowered).expect("in range")
}
