//! A storage node: replicas of shards, the view of each, and what coordinators ask of them. How a search goes lives in
//! `search`, what is kept of catalogues in `kept`.

mod kept;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semel_index::{CatalogueConfig, CompactionJob, SealJob, SearchProbe, ShardCount, ShardId};
use semel_raft::{Event as RaftEvent, LogIndex, MembershipChange, ProposeError, ReplicaId, Store as _, Table, Ticket};
use semel_shard::{Publication, ScanOrder, ScanQueue, SearchMoment, SearchView, ShardMachine};
use semel_workflow::NodeId;

use crate::disk::{GroupDisk, SharedDisk};
use crate::history::{Acknowledged, Key, Moment};
use crate::host::{self, Host, Out};
use crate::messages::{CallId, Message, Refused, ShardAnswered, ShardRequest};
use crate::mutant::Mutant;
use crate::world::{Died, Due, Event, Place, World};

use kept::Keeping;

/// Items that a list holds.
const ITEMS_MAX: usize = 1_000;
/// Obligations that one answer carries; the rest are found by listing.
const OBLIGATIONS_ANSWERED_MAX: usize = 64;
/// How long sealing a segment takes, in microseconds.
const SEAL_MICROS: (u64, u64) = (1_000, 2_000_000);
/// References that close a growing segment: few, so that runs see many.
const SEAL_AT_REFERENCES: usize = 6;
/// One of so many publications finds a shard that has ceased to grow: what has so many references is closed before it is full.
const QUIET_ONE_IN: u64 = 16;
const QUIET_REFERENCES_MIN: usize = 2;

/// A node and what outlives its runs.
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) node_id: NodeId,
    pub(crate) disk: SharedDisk,
    pub(crate) boots: u64,
    /// The replicas given to it, as its volume remembers them.
    pub(crate) assigned: Vec<Assigned>,
    /// Its volume was emptied: what its replicas promised is gone, and it comes back as another node.
    pub(crate) wiped: bool,
    pub(crate) run: Option<Run>,
}

/// A replica of a shard that a node holds.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    shard: ShardId,
    replica: ReplicaId,
    /// Those that its group was founded with, if it was there then.
    founders: Vec<ReplicaId>,
    /// Its rows are to go. Whether they have gone, the disk may not have been able to say.
    leaving: bool,
}

/// One run of a node's process.
pub(crate) struct Run {
    place: Place,
    boot: u64,
    pub(crate) host: Host<ShardMachine>,
    shards: BTreeMap<u64, HostedShard>,
    waiting: BTreeMap<(u64, Ticket), Waiting>,
    timers: BTreeMap<u64, Timer>,
    /// Groups whose scan waits for a thread.
    scans_asked_for: ScanOrder<u64>,
    scans_under_way: usize,
    pub(crate) busy: bool,
}

struct HostedShard {
    view: SearchView,
    /// A checkpoint that is to be written.
    keeping: Option<Keeping>,
    /// Reads and searches that have their barrier and wait for the view to reach it.
    behind: Vec<(LogIndex, Current)>,
    /// Searches whose view is current, and that wait for a scan.
    queue: ScanQueue<Search>,
    /// Those of them that somebody waits for.
    queued: BTreeSet<(Place, CallId)>,
    /// What is being scanned, with the moment that it pinned.
    scanning: BTreeMap<u64, SearchMoment>,
}

/// Who waits for an answer of a replica.
enum Waiting {
    Proposer { caller: Place, call: CallId },
    Reader(Current),
}

/// What begins once the view is current.
#[derive(Clone)]
enum Current {
    Read { caller: Place, call: CallId, key: Key, with_templates: bool },
    Search(Search),
}

#[derive(Clone)]
struct Search {
    caller: Place,
    call: CallId,
    asked_at: Moment,
    probe: Arc<SearchProbe>,
}

enum Timer {
    /// Whoever still waits for this search learns that it will not be answered.
    GiveUp {
        group: u64,
        call: CallId,
        caller: Place,
    },
    /// A scan that searches share has ended.
    Scanned {
        group: u64,
        searches: Vec<Search>,
        moment: Box<SearchMoment>,
    },
    Sealed {
        group: u64,
        job: Box<SealJob>,
    },
    Compacted {
        group: u64,
        job: Box<CompactionJob>,
    },
}

impl Node {
    pub(crate) fn new(number: usize, node_id: NodeId) -> Self {
        let place = Place::Node(number);
        Self { place, node_id, disk: SharedDisk::default(), boots: 0, assigned: Vec::new(), wiped: false, run: None }
    }

    /// Gives the node one of a new group's replicas, on new rows.
    pub(crate) fn found_group(&mut self, shard: ShardId, replica: ReplicaId, founders: Vec<ReplicaId>) {
        host::found(&self.disk, u64::from(shard.0), &founders);
        self.assigned.push(Assigned { shard, replica, founders, leaving: false });
    }

    /// Gives the node the replicas that it had, each on new rows as if its group were new.
    pub(crate) fn found_groups_again(&mut self) {
        let assigned = std::mem::take(&mut self.assigned);
        for one in assigned.into_iter().filter(|one| !one.founders.is_empty()) {
            self.found_group(one.shard, one.replica, one.founders);
        }
    }

    /// Gives the node a replica that joins a group. Tells whether its disk took the first rows.
    pub(crate) fn join_group(&mut self, world: &mut World, shards: ShardCount, group: u64, replica: ReplicaId) -> bool {
        if !host::join(&self.disk, group) {
            return false;
        }
        let shard = ShardId(u32::try_from(group).expect("a shard"));
        let assigned = Assigned { shard, replica, founders: Vec::new(), leaving: false };
        if let Some(run) = &mut self.run {
            run.seat_or_alarm(world, &assigned, shards);
        }
        self.assigned.push(assigned);
        true
    }

    /// Takes a replica from the node, with its rows. Tells whether nothing is left of it.
    pub(crate) fn leave_group(&mut self, group: u64, replica: ReplicaId) -> bool {
        let is_it = |one: &Assigned| u64::from(one.shard.0) == group && one.replica == replica;
        if !self.assigned.iter().any(is_it) {
            return true;
        }
        if let Some(run) = &mut self.run {
            run.unseat(group);
        }
        self.assigned.iter_mut().filter(|one| is_it(one)).for_each(|one| one.leaving = true);
        self.disk.borrow_mut().remove_files(group, |_| true);
        let left = host::leave::<ShardMachine>(&self.disk, group);
        if left {
            self.assigned.retain(|one| !is_it(one));
        }
        left
    }

    /// Whether it runs, and every replica that it has takes part.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(run) = &self.run else { return false };
        run.host.is_whole() && self.assigned.iter().all(|one| run.shards.contains_key(&u64::from(one.shard.0)))
    }

    /// Whether it has a replica of the group.
    pub(crate) fn holds(&self, group: u64) -> bool {
        self.assigned.iter().any(|one| u64::from(one.shard.0) == group)
    }

    /// Starts the process.
    pub(crate) fn start(&mut self, world: &mut World, shards: ShardCount) {
        assert!(self.run.is_none(), "a process runs once");
        self.boots += 1;
        // On a volume, a replica and its rows go in one write.
        let disk = self.disk.clone();
        self.assigned.retain(|one| {
            let rows = GroupDisk { disk: disk.clone(), group: u64::from(one.shard.0) };
            !one.leaving || !matches!(rows.get(Table::RAFT, semel_raft::rows::CONF_STATE), Ok(None))
        });
        let mut run = Run {
            place: self.place,
            boot: self.boots,
            host: Host::new(self.place, self.boots, self.disk.clone()),
            shards: BTreeMap::new(),
            waiting: BTreeMap::new(),
            timers: BTreeMap::new(),
            scans_asked_for: ScanOrder::default(),
            scans_under_way: 0,
            busy: false,
        };
        for assigned in &self.assigned {
            run.seat_or_alarm(world, assigned, shards);
        }
        self.run = Some(run);
    }

    /// The rows of one of its replicas, as they are on its disk.
    pub(crate) fn rows(&self, shard: ShardId) -> GroupDisk {
        GroupDisk { disk: self.disk.clone(), group: u64::from(shard.0) }
    }
}

impl Run {
    fn seat_or_alarm(&mut self, world: &mut World, assigned: &Assigned, shards: ShardCount) {
        if let Err(reason) = self.seat(world, assigned, shards) {
            let (place, shard) = (self.place, assigned.shard);
            if reason.contains("input/output error") {
                // It is seated when the process starts anew.
                world.tally.reads_failed += 1;
                return;
            }
            world.alarm(format!("{place} cannot open its replica of shard {shard}: {reason}"));
        }
    }

    fn seat(&mut self, world: &mut World, assigned: &Assigned, shards: ShardCount) -> Result<(), String> {
        let group = u64::from(assigned.shard.0);
        let machine = ShardMachine::new(assigned.shard, shards).expect("a shard of the cluster");
        let applied = self.host.seat(world, group, assigned.replica, machine).map_err(|error| error.to_string())?;
        let view = self.load_view(world, group, applied)?;
        let (probes_max, waiting_max) = if world.tight { (2, 4) } else { (8, 64) };
        let hosted = HostedShard {
            view,
            keeping: None,
            behind: Vec::new(),
            queue: ScanQueue::new(probes_max, waiting_max),
            queued: BTreeSet::new(),
            scanning: BTreeMap::new(),
        };
        self.shards.insert(group, hosted);
        self.seal(world, group);
        Ok(())
    }

    fn load_view(&self, world: &mut World, group: u64, applied: LogIndex) -> Result<SearchView, String> {
        let config = CatalogueConfig { seal_at_references: SEAL_AT_REFERENCES, ..CatalogueConfig::default() };
        if let Some(view) = self.resumed(world, group, applied, &config) {
            return Ok(view);
        }
        self.host.disk().borrow_mut().remove_files(group, |_| true);
        let mut view = SearchView::new(config);
        view.restore(applied, &self.host.rows(group)).map_err(|error| error.to_string())?;
        Ok(view)
    }

    /// Takes the replica of a group from the process; whoever waits for it learns nothing more.
    fn unseat(&mut self, group: u64) {
        self.host.unseat(group);
        self.shards.remove(&group);
        self.waiting.retain(|(waits_for, _), _| *waits_for != group);
    }

    /// Asks the replica of a group, if it leads, to change who belongs to it.
    pub(crate) fn change_membership(
        &mut self,
        world: &mut World,
        group: u64,
        change: MembershipChange,
        epoch: u64,
    ) -> Result<(), Died> {
        self.host.change_membership(world, group, change, epoch)?;
        self.act(world)
    }

    pub(crate) fn due(&mut self, world: &mut World, what: Due) -> Result<(), Died> {
        match what {
            Due::Tick => self.host.tick(world)?,
            Due::Write => self.host.written(world)?,
            Due::Sync => self.host.synced(world)?,
            Due::Timer(number) => self.timer(world, number),
        }
        self.act(world)
    }

    pub(crate) fn receive(&mut self, world: &mut World, from: Place, message: Message) -> Result<(), Died> {
        match message {
            Message::Raft { group, bytes } => self.host.receive(world, group, &bytes)?,
            Message::Snapshot(part) => self.host.take_part(world, from, part)?,
            Message::SnapshotTaken(taken) => self.host.snapshot_taken(world, taken)?,
            Message::Ask { call, shard, request } => self.asked(world, from, call, shard, request)?,
            Message::Answer { .. }
            | Message::Request { .. }
            | Message::Cancel { .. }
            | Message::Response { .. }
            | Message::Governed { .. } => {}
        }
        self.act(world)
    }

    fn asked(
        &mut self,
        world: &mut World,
        caller: Place,
        call: CallId,
        shard: ShardId,
        request: ShardRequest,
    ) -> Result<(), Died> {
        let group = u64::from(shard.0);
        if !self.shards.contains_key(&group) || self.host.replica(group).is_none() {
            self.answer(world, caller, call, Err(Refused::NothingDone));
            return Ok(());
        }
        match request {
            ShardRequest::Propose(command) => {
                let ticket = self.wait(world, group, Waiting::Proposer { caller, call });
                self.host.tell(world, group, RaftEvent::Propose { ticket, command: command.encode() })
            }
            ShardRequest::Read { gallery, enrolment, with_templates } => {
                let key = Key { gallery, enrolment };
                if world.has(Mutant::ReadWithoutBarrier) {
                    let answer = self.read(world, group, &key, with_templates);
                    self.answer(world, caller, call, answer);
                    return Ok(());
                }
                self.barrier(world, group, Current::Read { caller, call, key, with_templates })
            }
            ShardRequest::Search { probe, miss_budget_ppb } => {
                let probe = Arc::new(search::index_probe(world, &probe, miss_budget_ppb));
                let search = Search { caller, call, asked_at: world.moment(), probe };
                self.search(world, group, search)
            }
            ShardRequest::ListPending => {
                let answer = self.list_pending(group);
                self.answer(world, caller, call, answer);
                Ok(())
            }
        }
    }

    fn wait(&mut self, world: &mut World, group: u64, waiting: Waiting) -> Ticket {
        let ticket = Ticket(world.number());
        self.waiting.insert((group, ticket), waiting);
        ticket
    }

    fn barrier(&mut self, world: &mut World, group: u64, current: Current) -> Result<(), Died> {
        let ticket = self.wait(world, group, Waiting::Reader(current));
        self.host.tell(world, group, RaftEvent::Barrier { ticket })
    }

    /// Acts upon what turns gave, until they give nothing more.
    fn act(&mut self, world: &mut World) -> Result<(), Died> {
        loop {
            let out = self.host.take_out();
            if out.is_empty() {
                if world.has(Mutant::BarrierOfAppliedIndex) {
                    let groups: Vec<u64> = self.shards.keys().copied().collect();
                    groups.into_iter().for_each(|group| self.reached(world, group));
                }
                return Ok(());
            }
            for out in out {
                self.act_upon(world, out);
            }
        }
    }

    fn act_upon(&mut self, world: &mut World, out: Out<ShardMachine>) {
        match out {
            Out::Published { group, applied, publications } => self.published(world, group, applied, publications),
            Out::Receipt { group, ticket, receipt } => {
                let Some(Waiting::Proposer { caller, call }) = self.waiting.remove(&(group, ticket)) else { return };
                if let Ok(semel_shard::Receipt::Enrolment { record, .. }) = &receipt {
                    acknowledge(world, record);
                }
                world.tally.overloads +=
                    u64::from(receipt.as_ref().is_err_and(|error| *error == ProposeError::TooManyPending));
                let answer = receipt.map(answered).map_err(refused);
                self.answer(world, caller, call, answer);
            }
            Out::Barrier { group, ticket, answer } => {
                let Some(Waiting::Reader(current)) = self.waiting.remove(&(group, ticket)) else { return };
                match (answer, self.shards.get_mut(&group)) {
                    (Ok(index), Some(hosted)) => {
                        hosted.behind.push((index, current));
                        self.reached(world, group);
                    }
                    (Ok(_) | Err(_), _) => {
                        self.answer(world, current.caller(), current.call(), Err(Refused::NothingDone))
                    }
                }
            }
            Out::Reopened { group, applied } => match self.load_view(world, group, applied) {
                Ok(view) => {
                    if let Some(hosted) = self.shards.get_mut(&group) {
                        (hosted.view, hosted.keeping) = (view, None);
                    }
                    self.seal(world, group);
                    self.reached(world, group);
                }
                Err(reason) => world.alarm(format!("{} cannot load its view of group {group}: {reason}", self.place)),
            },
            Out::Stopped { group } => {
                let gone: Vec<(u64, Ticket)> =
                    self.waiting.keys().filter(|(waits_for, _)| *waits_for == group).copied().collect();
                for key in gone {
                    match self.waiting.remove(&key).expect("just seen") {
                        Waiting::Proposer { caller, call } => {
                            self.answer(world, caller, call, Err(Refused::OutcomeUnknown));
                        }
                        Waiting::Reader(current) => {
                            self.answer(world, current.caller(), current.call(), Err(Refused::NothingDone));
                        }
                    }
                }
            }
        }
    }

    fn published(
        &mut self,
        world: &mut World,
        group: u64,
        applied: LogIndex,
        mut publications: Vec<(LogIndex, Vec<Publication>)>,
    ) {
        if world.has(Mutant::WithdrawalIgnored) {
            for (_, published) in &mut publications {
                published.retain(|one| !matches!(one, Publication::Withdrawn { .. }));
            }
        }
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        hosted.view.take_in(applied, publications);
        if world.chance.one_in(QUIET_ONE_IN) {
            hosted.view.catalogue().close_growing(QUIET_REFERENCES_MIN);
        }
        self.write_checkpoint(world, group);
        self.seal(world, group);
        self.reached(world, group);
    }

    fn read(&self, world: &mut World, group: u64, key: &Key, with_templates: bool) -> Result<ShardAnswered, Refused> {
        let rows = self.host.rows(group);
        let record = semel_shard::enrolment(&rows, &key.gallery, &key.enrolment).map_err(|_| Refused::NothingDone)?;
        let Some(record) = record else { return Ok(ShardAnswered::NoSuchRecord) };
        acknowledge(world, &record);
        let references = if with_templates {
            let references = semel_shard::references(&rows, &key.gallery, &key.enrolment);
            references.map_err(|_| Refused::NothingDone)?.unwrap_or_default()
        } else {
            Vec::new()
        };
        Ok(ShardAnswered::Record(Box::new(record), references))
    }

    fn list_pending(&self, group: u64) -> Result<ShardAnswered, Refused> {
        let rows = self.host.rows(group);
        let enrolments = semel_shard::pending(&rows, ITEMS_MAX).map_err(|_| Refused::NothingDone)?;
        let obligations = semel_shard::obligations(&rows, ITEMS_MAX).map_err(|_| Refused::NothingDone)?;
        Ok(ShardAnswered::Pending { enrolments, obligations })
    }

    fn timer(&mut self, world: &mut World, number: u64) {
        match self.timers.remove(&number) {
            Some(Timer::GiveUp { group, call, caller }) => self.give_up(world, group, call, caller),
            Some(Timer::Scanned { group, searches, moment }) => self.scanned(world, group, &searches, &moment),
            Some(Timer::Sealed { group, job }) => {
                let Some(hosted) = self.shards.get_mut(&group) else { return };
                hosted.view.catalogue().sealed(job.run());
                world.tally.seals += 1;
                self.keep_segments(world, group);
                self.seal(world, group);
            }
            Some(Timer::Compacted { group, job }) => {
                self.compacted(world, group, *job);
                self.seal(world, group);
            }
            None => {}
        }
    }

    /// Begins to seal what waits for it, and to compact what is worth it.
    fn seal(&mut self, world: &mut World, group: u64) {
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let seals = hosted.view.catalogue().seal_jobs();
        let compaction = hosted.view.catalogue().compaction_job();
        let seals = seals.into_iter().map(|job| Timer::Sealed { group, job: Box::new(job) });
        let compaction = compaction.map(|job| Timer::Compacted { group, job: Box::new(job) });
        for timer in seals.chain(compaction) {
            let micros = world.chance.between(SEAL_MICROS.0..=SEAL_MICROS.1);
            self.after(world, micros, timer);
        }
    }

    fn after(&mut self, world: &mut World, micros: u64, timer: Timer) {
        let number = world.number();
        self.timers.insert(number, timer);
        world.after(micros, Event::Due { at: self.place, boot: self.boot, what: Due::Timer(number) });
    }

    fn answer(&self, world: &mut World, caller: Place, call: CallId, answer: Result<ShardAnswered, Refused>) {
        world.send(self.place, caller, Message::Answer { call, answer });
    }
}

impl Current {
    fn caller(&self) -> Place {
        match self {
            Self::Read { caller, .. } | Self::Search(Search { caller, .. }) => *caller,
        }
    }

    fn call(&self) -> CallId {
        match self {
            Self::Read { call, .. } | Self::Search(Search { call, .. }) => *call,
        }
    }
}

/// Notes that a record leaves its shard.
fn acknowledge(world: &mut World, record: &semel_shard::EnrolmentRecord) {
    let (at, shard, stage_index, round) = (world.moment(), record.shard, record.stage_index.0, record.round);
    world.watched.acknowledged.push(Acknowledged { at, shard, stage_index, round });
}

fn answered(receipt: semel_shard::Receipt) -> ShardAnswered {
    let mut receipt = receipt;
    match &mut receipt {
        semel_shard::Receipt::Enrolment { obligations, .. } | semel_shard::Receipt::Done { obligations } => {
            obligations.truncate(OBLIGATIONS_ANSWERED_MAX);
        }
        semel_shard::Receipt::Refused(_) => {}
    }
    ShardAnswered::Receipt(Box::new(receipt))
}

fn refused(error: ProposeError) -> Refused {
    match error {
        ProposeError::NoLeader | ProposeError::TooLarge { .. } | ProposeError::Stopped => Refused::NothingDone,
        ProposeError::TooManyPending => Refused::Overloaded,
        ProposeError::Unknown => Refused::OutcomeUnknown,
    }
}
