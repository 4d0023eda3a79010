//! A coordinator: its replica of the metadata group, and everything that it drives for clients and for shards. All but the
//! replica's rows is lost when it dies.
//!
//! Calls to shards live in `calls`, enrolments in `enrolments`, what clients ask in `requests`, what was left behind in
//! `leftovers`.

mod calls;
mod enrolments;
mod leftovers;
mod requests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use semel_index::{GalleryId, KeyVersion, ShardCount};
use semel_raft::{Event as RaftEvent, LogIndex, MembershipChange, ReplicaId, Ticket};
use semel_shard::Command;
use semel_workflow::{
    ContentDigestKey, GalleryKey, MetadataMachine, MetadataView, ObligationDriver, ObligationLimits, Rotations, Sweep,
    SweepLimits, VersionedPolicy,
};

use crate::disk::{GroupDisk, SharedDisk};
use crate::history::{Key, Told};
use crate::host::{self, Host, Out};
use crate::messages::{CallId, Message};
use crate::nemesis::Fault;
use crate::world::{Died, Due, Event, Place, World};
use calls::ShardCall;
use enrolments::Drive;
use requests::{Asker, Governing, Identification};

/// The metadata group's number, beyond every shard's.
pub(crate) const METADATA_GROUP: u64 = 1 << 32;
/// How often the leader sweeps.
const SWEEP_MICROS: u64 = 1_000_000;

/// A coordinator and what outlives its runs.
pub(crate) struct Coordinator {
    pub(crate) place: Place,
    pub(crate) id: ReplicaId,
    pub(crate) disk: SharedDisk,
    pub(crate) boots: u64,
    /// What its wall clock is off by, in milliseconds.
    pub(crate) clock_off_ms: i64,
    /// Its volume was emptied: what its replica promised is gone, and it comes back as another coordinator.
    pub(crate) wiped: bool,
    /// It has no replica: its volume is new.
    pub(crate) is_empty: bool,
    pub(crate) run: Option<Run>,
}

/// The matrices of a gallery's key. Every coordinator would make the same.
pub(crate) type KeyRing = Rc<std::cell::RefCell<BTreeMap<(GalleryId, KeyVersion), Rc<GalleryKeys>>>>;

/// What a gallery's key gives.
pub(crate) struct GalleryKeys {
    pub(crate) rotations: Rotations,
    pub(crate) digest: ContentDigestKey,
}

/// One run of a coordinator's process.
pub(crate) struct Run {
    place: Place,
    boot: u64,
    clock_off_ms: i64,
    pub(crate) host: Host<MetadataMachine>,
    view: Arc<MetadataView>,
    applied: LogIndex,
    /// The replicas of each shard's group, by place, as the cluster's map had them when it last looked.
    places: BTreeMap<u64, Vec<Place>>,
    keys: KeyRing,
    /// Who waits for a barrier or a receipt of the metadata group.
    asking: BTreeMap<Ticket, Asker>,
    governing: BTreeMap<Ticket, Governing>,
    /// Who has a barrier and waits for the view to reach it.
    behind: Vec<(LogIndex, Asker)>,
    calls: BTreeMap<CallId, ShardCall>,
    drives: BTreeMap<u64, Drive>,
    identifications: BTreeMap<u64, Identification>,
    timers: BTreeMap<u64, Timer>,
    obligations: ObligationDriver<Command>,
    sweep: Sweep<Key>,
    /// The replica of each shard that answered last, by its place in the shard's list.
    preferred: BTreeMap<u32, usize>,
}

/// What a run waits for.
enum Timer {
    /// A try of a call had its time.
    CallTry(CallId),
    /// A call goes round its shard's replicas again.
    CallAgain(Box<ShardCall>),
    /// A workflow's wait is over.
    Retry { drive: u64, retry: u32 },
    /// A caller waits no longer.
    Deadline { drive: u64 },
    /// A request asks the metadata group once more.
    AskAgain(Box<Asker>),
    /// An operator's command is proposed once more.
    GovernAgain(Box<Governing>),
    /// An identification asks the missing shards again, or answers.
    IdentifyAgain(u64),
    /// Time to look for what was left behind.
    Sweep,
}

impl Coordinator {
    pub(crate) fn new(number: usize, voters: &[ReplicaId]) -> Self {
        let disk = SharedDisk::default();
        host::found(&disk, METADATA_GROUP, voters);
        let place = Place::Coordinator(number);
        Self { place, id: voters[number], disk, boots: 0, clock_off_ms: 0, wiped: false, is_empty: false, run: None }
    }

    /// Gives the coordinator a replica that joins the group. Tells whether its disk took the first rows.
    pub(crate) fn join_group(&mut self, world: &mut World, replica: ReplicaId) -> bool {
        if !self.is_empty || self.run.is_some() || !host::join(&self.disk, METADATA_GROUP) {
            return false;
        }
        (self.id, self.is_empty) = (replica, false);
        world.after(0, Event::Fault(Fault::Start(self.place)));
        true
    }

    /// Starts the process, once it has a replica.
    pub(crate) fn start(&mut self, world: &mut World, keys: &KeyRing) {
        assert!(self.run.is_none(), "a process runs once");
        if self.is_empty {
            return;
        }
        self.boots += 1;
        let mut host = Host::new(self.place, self.boots, self.disk.clone());
        let seated = host.seat(world, METADATA_GROUP, self.id, MetadataMachine);
        let applied = match seated {
            Ok(applied) => applied,
            Err(error) => {
                world.alarm(format!("{} cannot open its replica: {error}", self.place));
                return;
            }
        };
        let view = MetadataView::load(&host.rows(METADATA_GROUP)).expect("the disk was just opened");
        let mut run = Run {
            place: self.place,
            boot: self.boots,
            clock_off_ms: self.clock_off_ms,
            host,
            view: Arc::new(view),
            applied,
            places: BTreeMap::new(),
            keys: Rc::clone(keys),
            asking: BTreeMap::new(),
            governing: BTreeMap::new(),
            behind: Vec::new(),
            calls: BTreeMap::new(),
            drives: BTreeMap::new(),
            identifications: BTreeMap::new(),
            timers: BTreeMap::new(),
            obligations: ObligationDriver::new(if world.tight {
                ObligationLimits { known_max: 8, in_flight_max: 2 }
            } else {
                ObligationLimits::default()
            }),
            sweep: Sweep::new(if world.tight {
                SweepLimits { in_flight_max: 3, begun_per_tick_max: 2, ..SweepLimits::default() }
            } else {
                SweepLimits::default()
            }),
            preferred: BTreeMap::new(),
        };
        run.look_at_map(world);
        run.after(world, SWEEP_MICROS, Timer::Sweep);
        self.run = Some(run);
    }

    /// The rows of its replica, as they are on its disk.
    pub(crate) fn rows(&self) -> GroupDisk {
        GroupDisk { disk: self.disk.clone(), group: METADATA_GROUP }
    }
}

impl Run {
    pub(crate) fn set_clock(&mut self, off_ms: i64) {
        self.clock_off_ms = off_ms;
    }

    pub(crate) fn view(&self) -> &MetadataView {
        &self.view
    }

    pub(crate) fn due(&mut self, world: &mut World, what: Due) -> Result<(), Died> {
        match what {
            Due::Tick => self.host.tick(world)?,
            Due::Write => self.host.written(world)?,
            Due::Sync => self.host.synced(world)?,
            Due::Timer(number) => self.timer(world, number)?,
        }
        self.act(world)
    }

    pub(crate) fn receive(&mut self, world: &mut World, from: Place, message: Message) -> Result<(), Died> {
        match message {
            Message::Raft { group, bytes } => self.host.receive(world, group, &bytes)?,
            Message::Snapshot(part) => self.host.take_part(world, from, part)?,
            Message::SnapshotTaken(taken) => self.host.snapshot_taken(world, taken)?,
            Message::Request { call, wait, request } => self.requested(world, from, call, wait, request)?,
            Message::Answer { call, answer } => self.call_answered(world, call, answer),
            Message::Cancel { call } => self.cancel(world, from, call),
            Message::Ask { .. } | Message::Response { .. } | Message::Governed { .. } => {}
        }
        self.act(world)
    }

    fn timer(&mut self, world: &mut World, number: u64) -> Result<(), Died> {
        match self.timers.remove(&number) {
            Some(Timer::CallTry(call)) => self.call_overdue(world, call),
            Some(Timer::CallAgain(call)) => self.try_call(world, *call),
            Some(Timer::Retry { drive, retry }) => self.retry_due(world, drive, retry),
            Some(Timer::Deadline { drive }) => self.deadline(world, drive),
            Some(Timer::AskAgain(asker)) => return self.ask_metadata(world, *asker),
            Some(Timer::GovernAgain(governing)) => return self.govern(world, *governing),
            Some(Timer::IdentifyAgain(identification)) => self.identify_again(world, identification),
            Some(Timer::Sweep) => {
                self.look_at_map(world);
                self.sweep_round(world);
                self.after(world, SWEEP_MICROS, Timer::Sweep);
            }
            None => {}
        }
        Ok(())
    }

    /// Acts upon what turns gave, until they give nothing more.
    fn act(&mut self, world: &mut World) -> Result<(), Died> {
        loop {
            let out = self.host.take_out();
            if out.is_empty() {
                return Ok(());
            }
            for out in out {
                match out {
                    Out::Published { applied, publications, .. } => {
                        let changes: Vec<_> = publications.into_iter().flat_map(|(_, changes)| changes).collect();
                        if !changes.is_empty() {
                            self.view = Arc::new(self.view.with(&changes));
                        }
                        self.applied = applied;
                        self.metadata_reached(world);
                    }
                    Out::Receipt { ticket, receipt, .. } => self.governed(world, ticket, receipt),
                    Out::Barrier { ticket, answer, .. } => self.metadata_answered(world, ticket, answer),
                    Out::Reopened { applied, .. } => {
                        let view = MetadataView::load(&self.host.rows(METADATA_GROUP));
                        self.view = Arc::new(view.expect("the disk was just opened"));
                        self.applied = applied;
                        self.metadata_reached(world);
                    }
                    Out::Stopped { .. } => self.metadata_stopped(world),
                }
            }
        }
    }

    /// Looks where the replicas of shards are. Until it looks again it may ask where none is any more.
    fn look_at_map(&mut self, world: &World) {
        self.places.clear();
        for (group, replica) in world.replicas.iter().filter(|(group, _)| *group != METADATA_GROUP) {
            self.places.entry(*group).or_default().push(world.directory[&(*group, *replica)]);
        }
    }

    /// Asks its replica, if it leads, to change who belongs to the metadata group.
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

    /// Whether its replica belongs to the metadata group. Until it does, whoever asks is sent elsewhere.
    fn is_member(&self) -> bool {
        self.host.replica(METADATA_GROUP).is_some_and(|replica| replica.status().is_member)
    }

    fn ticket(world: &mut World) -> Ticket {
        Ticket(world.number())
    }

    fn after(&mut self, world: &mut World, micros: u64, timer: Timer) {
        let number = world.number();
        self.timers.insert(number, timer);
        world.after(micros, Event::Due { at: self.place, boot: self.boot, what: Due::Timer(number) });
    }

    /// Its wall clock, which nothing may depend on.
    fn now_ms(&self, world: &World) -> i64 {
        1_800_000_000_000 + (world.now / 1_000) as i64 + self.clock_off_ms
    }

    fn shards(&self) -> Option<ShardCount> {
        self.view.cluster().filter(|_| self.view.is_placed()).map(|cluster| cluster.shards)
    }

    fn respond(&self, world: &mut World, client: Place, call: CallId, told: Told) {
        world.send(self.place, client, Message::Response { call, told });
    }

    /// The matrices of a gallery's key in force.
    fn keys(&self, gallery: &GalleryId, version: KeyVersion, policy: &VersionedPolicy) -> Rc<GalleryKeys> {
        let mut keys = self.keys.borrow_mut();
        let made = keys.entry((gallery.clone(), version)).or_insert_with(|| {
            let key: &GalleryKey = self.view.key(gallery, version).expect("a gallery on record has its key on record");
            let rotations = Rotations::generate(key, version, &policy.policy);
            assert_eq!(Some(rotations.checksum()), self.view.key_checksum(gallery, version), "the creator's matrices");
            let digest = self.view.digest_key(gallery).expect("and its digest key").clone();
            Rc::new(GalleryKeys { rotations, digest })
        });
        Rc::clone(made)
    }

    /// Proposes to or asks the metadata group's replica here.
    fn tell_metadata(&mut self, world: &mut World, event: RaftEvent) -> Result<(), Died> {
        self.host.tell(world, METADATA_GROUP, event)
    }
}
