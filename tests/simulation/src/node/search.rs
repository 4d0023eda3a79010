//! Searching a shard: a barrier first, then the wait until the view has reached it, then a scan of one pinned moment, which
//! searches share that wait for a thread.

use semel_index::{ComparisonScore, Priority, ProbeReference, SearchProbe, ShardId, ShardSearch};
use semel_raft::LogIndex;
use semel_shard::{Joined, ScanQueueFull, SearchMoment, SharedScan};

use super::{Current, Run, Search, Timer, Waiting};
use crate::history::{Key, Scan, ShardSeen};
use crate::messages::{CallId, Refused, ShardAnswered};
use crate::mutant::Mutant;
use crate::world::{Died, Place, World};

/// How long a shard's barrier and catalogue may take before its coordinator asks another replica.
const CURRENT_WITHIN_MICROS: u64 = 1_000_000;
/// Threads that scan.
const SCANS_MAX: usize = 2;
/// How long a scan takes, in microseconds.
const SCAN_MICROS: (u64, u64) = (100, 8_000);
/// How long one takes on a busy node.
const SLOW_SCAN_MICROS: (u64, u64) = (50_000, 900_000);

impl Run {
    pub(super) fn search(&mut self, world: &mut World, group: u64, search: Search) -> Result<(), Died> {
        let hosted = self.shards.get_mut(&group).expect("checked by the caller");
        if world.has(Mutant::BarrierSkipped) {
            let moment = hosted.view.moment();
            self.scan(world, group, vec![search], moment);
            return Ok(());
        }
        let joined = hosted.scanning.last_key_value().map(|(_, moment)| moment.clone());
        if world.has(Mutant::ScanJoinedLate)
            && let Some(moment) = joined
        {
            self.scan(world, group, vec![search], moment);
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
        let ready: Vec<(LogIndex, Current)> = hosted.behind.extract_if(.., |(index, _)| *index <= searchable).collect();
        for (index, current) in ready {
            match current {
                Current::Read { caller, call, key, with_templates } => {
                    let answer = self.read(world, group, &key, with_templates);
                    self.answer(world, caller, call, answer);
                }
                Current::Search(search) => self.join_scan(world, group, index, search),
            }
        }
    }

    /// Puts a search in line for a scan: one that begins from now on.
    fn join_scan(&mut self, world: &mut World, group: u64, barrier: LogIndex, search: Search) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let (caller, call) = (search.caller, search.call);
        let barrier = if world.has(Mutant::BarrierOfAppliedIndex) { LogIndex(0) } else { barrier };
        // Any rule does, if it makes no choice of chance: what must hold does not depend on it.
        let priority = if call % 3 == 0 { Priority::Interactive } else { Priority::Bulk };
        match hosted.queue.join(priority, barrier, 1, search) {
            Ok(joined) => {
                hosted.queued.insert((caller, call));
                match joined {
                    Joined::AskForScan => {
                        self.scans_asked_for.ask(priority, group);
                        self.begin_scans(world);
                    }
                    Joined::HastenScan => self.scans_asked_for.hasten(|other| *other == group),
                    Joined::Waits => {}
                }
            }
            Err(ScanQueueFull) => {
                world.tally.overloads += 1;
                self.answer(world, caller, call, Err(Refused::Overloaded));
            }
        }
    }

    /// Begins the scans that were asked for, as far as threads are free.
    fn begin_scans(&mut self, world: &mut World) {
        while self.scans_under_way < SCANS_MAX
            && let Some(group) = self.scans_asked_for.begin()
        {
            let Some(hosted) = self.shards.get_mut(&group) else { continue };
            let moment = hosted.view.moment();
            let queued = &mut hosted.queued;
            let is_wanted = |search: &Search| queued.contains(&(search.caller, search.call));
            let SharedScan { searches, behind, ask_for_scan } =
                hosted.queue.begin(moment.searchable_index(), is_wanted);
            for search in searches.iter().chain(&behind) {
                queued.remove(&(search.caller, search.call));
            }
            if let Some(priority) = ask_for_scan {
                self.scans_asked_for.ask(priority, group);
            }
            for search in behind {
                self.answer(world, search.caller, search.call, Err(Refused::NothingDone));
            }
            if !searches.is_empty() {
                world.tally.scans_shared += u64::from(searches.len() > 1);
                self.scan(world, group, searches, moment);
            }
        }
    }

    /// Begins to scan a pinned moment.
    pub(super) fn scan(&mut self, world: &mut World, group: u64, searches: Vec<Search>, moment: SearchMoment) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        for search in &searches {
            hosted.scanning.insert(search.call, moment.clone());
        }
        self.scans_under_way += 1;
        let (least, most) = if self.busy { SLOW_SCAN_MICROS } else { SCAN_MICROS };
        let micros = world.chance.between(least..=most);
        self.after(world, micros, Timer::Scanned { group, searches, moment: Box::new(moment) });
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
        let queued = hosted.queued.remove(&(caller, call));
        if behind > 0 || queued || waiting.is_some() {
            self.answer(world, caller, call, Err(Refused::NothingDone));
        }
    }

    pub(super) fn scanned(&mut self, world: &mut World, group: u64, searches: &[Search], moment: &SearchMoment) {
        self.scans_under_way -= 1;
        let probes: Vec<SearchProbe> = searches.iter().map(|search| (*search.probe).clone()).collect();
        let found = if self.shards.contains_key(&group) { Some(moment.search(&probes, &|| false)) } else { None };
        match found {
            // The replica was taken away meanwhile.
            None => {}
            Some(Ok(answers)) => {
                world.tally.scans += 1;
                for (search, found) in searches.iter().zip(answers) {
                    self.tell_found(world, group, search, moment, found);
                }
            }
            Some(Err(error)) => {
                world.alarm(format!("{} group {group}: {error}", self.place));
                for search in searches {
                    self.answer(world, search.caller, search.call, Err(Refused::NothingDone));
                }
            }
        }
        self.begin_scans(world);
    }

    fn tell_found(
        &mut self,
        world: &mut World,
        group: u64,
        search: &Search,
        moment: &SearchMoment,
        found: ShardSearch,
    ) {
        if let Some(hosted) = self.shards.get_mut(&group) {
            hosted.scanning.remove(&search.call);
        }
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
