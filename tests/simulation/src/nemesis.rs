//! The faults of a run. Each seed has a mood: which kinds of fault it knows and how often they come, so that some runs are all
//! crashes and others all partitions. A new kind of fault is a variant of [`Kind`], what it does in [`Cluster::strike`], and a
//! count in the tally.

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::host::{Digested, Host};
use crate::world::{Event, Place};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A process dies now.
    Crash,
    /// A process dies at one of its next effect boundaries.
    CrashAtBoundary,
    /// Several processes die together.
    CrashMany,
    /// A process is halted for a while.
    Pause,
    /// A process hears nobody and is heard by nobody.
    Isolate,
    /// The processes fall into two halves.
    Split,
    /// Nothing gets from one process to another.
    CutOneWay,
    /// Messages are lost, late, repeated.
    BadNetwork,
    /// A disk is slow for a while.
    SlowDisk,
    /// A disk takes no more.
    FullDisk,
    /// A sync fails.
    FailedSync,
    /// A group's rows cannot be read.
    FailedRead,
    /// A wall clock jumps.
    ClockJump,
    /// A process's ticks come too fast or too slowly.
    ClockSkew,
    /// Scans on a node take long.
    SlowScans,
    /// A leader is asked to hand its leadership over.
    MoveLeadership,
    /// A replica of a shard moves to another node.
    MoveReplica,
}

const KINDS: &[Kind] = &[
    Kind::Crash,
    Kind::CrashAtBoundary,
    Kind::CrashMany,
    Kind::Pause,
    Kind::Isolate,
    Kind::Split,
    Kind::CutOneWay,
    Kind::BadNetwork,
    Kind::SlowDisk,
    Kind::FullDisk,
    Kind::FailedSync,
    Kind::FailedRead,
    Kind::ClockJump,
    Kind::ClockSkew,
    Kind::SlowScans,
    Kind::MoveLeadership,
    Kind::MoveReplica,
];

/// Something that happens to the cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The next of the mood's faults.
    Next,
    /// A process is started again.
    Start(Place),
    /// The network is as it should be.
    MendNetwork,
    /// A disk is as fast as it should be, and scans are.
    Quicken(Place),
    /// A full disk has room again; its process is started anew.
    MakeRoom(Place),
    /// A volume is emptied.
    Wipe(Place),
    /// Whoever moves replicas looks how far they are.
    Shepherd,
}

/// What the faults of a run are like.
#[derive(Debug, Clone)]
pub(crate) struct Mood {
    kinds: Vec<Kind>,
    /// The longest pause between two faults, in microseconds.
    pause_micros_max: u64,
    /// Whether one process loses its volume.
    wipes: bool,
}

impl Mood {
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let mut kinds: Vec<Kind> = KINDS.iter().copied().filter(|_| chance.one_in(2)).collect();
        if kinds.is_empty() {
            kinds = KINDS.to_vec();
        }
        let pause_micros_max = *chance.pick(&[300_000, 1_000_000, 3_000_000]);
        Self { kinds, pause_micros_max, wipes: chance.one_in(5) }
    }
}

impl Cluster {
    /// Begins the faults of this run.
    pub(crate) fn begin_faults(&mut self, micros: u64) {
        if self.mood.wipes {
            let after = self.world.chance.between(micros / 4..=micros);
            let place = *self.world.chance.pick(&self.places());
            self.world.after(after, Event::Fault(Fault::Wipe(place)));
        }
        if self.world.chance.one_in(3) {
            self.world.deaths.one_in = *self.world.chance.pick(&[500, 2_000, 10_000]);
        }
        self.world.after(0, Event::Fault(Fault::Next));
        self.world.after(0, Event::Fault(Fault::Shepherd));
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Next => {
                if !self.faults {
                    return;
                }
                let pause = self.world.chance.between(10_000..=self.mood.pause_micros_max);
                self.world.after(pause, Event::Fault(Fault::Next));
                let kind = *self.world.chance.pick(&self.mood.kinds);
                self.strike(kind);
            }
            Fault::Start(place) => self.start(place),
            Fault::Shepherd => self.shepherd(),
            Fault::MendNetwork => self.world.network = self.usual_network.clone(),
            Fault::Quicken(place) => self.set_slow(place, false),
            Fault::MakeRoom(place) => {
                if !self.faults {
                    return;
                }
                self.disk(place).borrow_mut().set_full(false);
                self.crash(place);
                self.start(place);
            }
            Fault::Wipe(place) => {
                if !self.faults {
                    return;
                }
                self.world.note(place, "volume wiped", 0, String::new);
                self.world.tally.wipes += 1;
                self.crash(place);
                self.disk(place).borrow_mut().wipe();
                match place {
                    Place::Node(node) => self.nodes[node].wiped = true,
                    Place::Coordinator(coordinator) => self.coordinators[coordinator].wiped = true,
                    Place::Client => {}
                }
                self.start_later(place);
            }
        }
    }

    fn strike(&mut self, kind: Kind) {
        let places = self.places();
        let place = *self.world.chance.pick(&places);
        self.world.note(place, "fault", kind as u64, || format!("{kind:?}"));
        match kind {
            Kind::Crash => {
                self.crash(place);
                self.start_later(place);
            }
            Kind::CrashAtBoundary => {
                let boundaries = self.world.chance.between(1..=60);
                self.world.deaths.armed = Some((place, boundaries));
            }
            Kind::CrashMany => {
                for place in places {
                    if self.world.chance.one_in(2) {
                        self.crash(place);
                        self.start_later(place);
                    }
                }
            }
            Kind::Pause => {
                let micros = self.world.chance.between(50_000..=4_000_000);
                self.world.tally.pauses += 1;
                self.halt(place, micros);
            }
            Kind::Isolate => {
                self.world.tally.isolations += 1;
                for other in places.into_iter().chain([Place::Client]).filter(|other| *other != place) {
                    self.world.network.cut(place, other);
                    self.world.network.cut(other, place);
                }
                self.mend_later();
            }
            Kind::Split => {
                self.world.tally.splits += 1;
                let (one, other): (Vec<Place>, Vec<Place>) =
                    places.into_iter().partition(|_| self.world.chance.one_in(2));
                for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))) {
                    self.world.network.cut(from, to);
                    self.world.network.cut(to, from);
                }
                self.mend_later();
            }
            Kind::CutOneWay => {
                self.world.tally.one_way_cuts += 1;
                let to = *self.world.chance.pick(&places);
                self.world.network.cut(place, to);
                self.mend_later();
            }
            Kind::BadNetwork => {
                let network = &mut self.world.network;
                network.lost_one_in = self.world.chance.between(3..=40);
                network.repeated_one_in = self.world.chance.between(5..=40);
                network.straggles_one_in = self.world.chance.between(10..=100);
                network.delay = (50, self.world.chance.between(1_000..=80_000));
                self.mend_later();
            }
            Kind::SlowDisk => {
                self.world.tally.slow_disks += 1;
                self.set_slow(place, true);
                self.quicken_later(place);
            }
            // What is down has nothing to fail at.
            Kind::FullDisk | Kind::FailedSync | Kind::FailedRead if !self.runs(place) => {}
            Kind::FullDisk => {
                self.disk(place).borrow_mut().set_full(true);
                let after = self.world.chance.between(100_000..=5_000_000);
                self.world.after(after, Event::Fault(Fault::MakeRoom(place)));
            }
            Kind::FailedSync => {
                self.disk(place).borrow_mut().fail_next_sync();
                self.restart_later(place);
            }
            Kind::FailedRead => {
                let group = self.world.chance.below(u64::from(self.shards.get()));
                let group = if matches!(place, Place::Node(_)) { group } else { crate::coordinator::METADATA_GROUP };
                self.disk(place).borrow_mut().make_unreadable(group);
                self.restart_later(place);
            }
            Kind::ClockJump => {
                self.world.tally.clock_jumps += 1;
                let off_ms = self.world.chance.between(0..=200_000_000) as i64 - 100_000_000;
                self.jump_clock(place, off_ms);
            }
            Kind::ClockSkew => {
                self.world.tally.clocks_skewed += 1;
                let tick_micros = self.world.chance.between(20_000..=120_000);
                self.set_tick(place, tick_micros);
            }
            Kind::MoveLeadership => {
                let group = self.world.chance.below(u64::from(self.shards.get()));
                for place in places {
                    let world = &mut self.world;
                    let died = match place {
                        Place::Node(node) => {
                            let run = self.nodes[node].run.as_mut();
                            run.map(|run| run.host.move_leadership(world, group))
                        }
                        Place::Coordinator(coordinator) => {
                            let run = self.coordinators[coordinator].run.as_mut();
                            run.map(|run| run.host.move_leadership(world, crate::coordinator::METADATA_GROUP))
                        }
                        Place::Client => None,
                    };
                    self.bury(place, died);
                }
            }
            Kind::MoveReplica => self.begin_move(),
            Kind::SlowScans => {
                if let Place::Node(node) = place
                    && let Some(run) = &mut self.nodes[node].run
                {
                    run.busy = true;
                    self.quicken_later(place);
                }
            }
        }
    }

    fn mend_later(&mut self) {
        let after = self.world.chance.between(100_000..=6_000_000);
        self.world.after(after, Event::Fault(Fault::MendNetwork));
    }

    fn quicken_later(&mut self, place: Place) {
        let after = self.world.chance.between(500_000..=5_000_000);
        self.world.after(after, Event::Fault(Fault::Quicken(place)));
    }

    /// An operator notices what is broken and starts the process anew.
    fn restart_later(&mut self, place: Place) {
        let after = self.world.chance.between(500_000..=5_000_000);
        self.world.after(after, Event::Fault(Fault::MakeRoom(place)));
    }

    pub(crate) fn start_later(&mut self, place: Place) {
        // Now and then at once: what was on its way to it still arrives.
        let longest = *self.world.chance.pick(&[20_000, 500_000, 5_000_000]);
        let after = self.world.chance.between(1_000..=longest);
        self.world.after(after, Event::Fault(Fault::Start(place)));
    }

    pub(crate) fn set_slow(&mut self, place: Place, slow: bool) {
        fn set<M: Digested>(host: &mut Host<M>, slow: bool) {
            host.set_slow(slow);
        }
        match place {
            Place::Node(node) => {
                if let Some(run) = &mut self.nodes[node].run {
                    set(&mut run.host, slow);
                    run.busy &= slow;
                }
            }
            Place::Coordinator(coordinator) => {
                if let Some(run) = &mut self.coordinators[coordinator].run {
                    set(&mut run.host, slow);
                }
            }
            Place::Client => {}
        }
    }
}
