//! What surrounds the processes: time, the network between them, chance, death, and the record of what happened.

use std::collections::BTreeMap;
use std::fmt;

use semel_raft::{LogIndex, ReplicaId};
use semel_workflow::Pinned;

use crate::chance::Chance;
use crate::history::{Moment, Watched};
use crate::messages::{CallId, Message};
use crate::mutant::Mutant;
use crate::network::{Delivery, Network};
use crate::tally::Tally;
use crate::trace::{Detail, Trace};

/// The ids of replicas that join later begin here.
const REPLICAS_JOINED_FROM: u64 = 10_000;

/// Where something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A storage node, counted from 0.
    Node(usize),
    /// A coordinator, counted from 0.
    Coordinator(usize),
    /// The clients, on a machine of their own each; they do not die.
    Client,
}

impl Place {
    /// A number that no other place has.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Node(node) => node as u64,
            Self::Coordinator(coordinator) => 1_000 + coordinator as u64,
            Self::Client => 2_000,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(formatter, "n{node}"),
            Self::Coordinator(coordinator) => write!(formatter, "c{coordinator}"),
            Self::Client => formatter.write_str("cl"),
        }
    }
}

/// One thing that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrives.
    Arrive { from: Place, to: Place, message: Box<Message> },
    /// Something that a run of a process began is due; nothing if that run has ended.
    Due { at: Place, boot: u64, what: Due },
    /// The next fault, or the end of one.
    Fault(crate::nemesis::Fault),
    /// Something that the clients planned.
    Client(crate::clients::Step),
}

/// What a process waits for, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A tick of its clock.
    Tick,
    /// Its disk has written what it was given.
    Write,
    /// Its disk has synced what was written.
    Sync,
    /// One of its timers, by number.
    Timer(u64),
}

/// A process died where it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Died;

/// When processes die in the middle of a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deaths {
    /// One boundary between effects in so many; 0 for none.
    pub(crate) one_in: u64,
    /// The boundaries to pass before this process dies, whoever draws what.
    pub(crate) armed: Option<(Place, u64)>,
}

/// Everything around the processes.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: u64,
    pub(crate) chance: Chance,
    pub(crate) network: Network,
    pub(crate) deaths: Deaths,
    pub(crate) tally: Tally,
    pub(crate) trace: Trace,
    pub(crate) watched: Watched,
    /// What identifications searched for, by call.
    pub(crate) probes: BTreeMap<CallId, Pinned>,
    pub(crate) mutant: Option<Mutant>,
    /// Where each replica is, or was, to address messages to it.
    pub(crate) directory: BTreeMap<(u64, ReplicaId), Place>,
    /// The replicas of each group as the cluster's map has them: what is intended, not what a group's configuration is.
    pub(crate) replicas: Vec<(u64, ReplicaId)>,
    /// Where the log of each replica ended when it was last looked at.
    pub(crate) log_ends: BTreeMap<(u64, ReplicaId), LogIndex>,
    /// Applied entries that a log may hold, and those that stay when it is cut short: few, so that who was away needs a
    /// snapshot.
    pub(crate) log_entries: (u64, u64),
    /// Rows in one part of a snapshot.
    pub(crate) snapshot_rows: usize,
    /// Whether queues, caches and batches are so small that everything meets its bound.
    pub(crate) tight: bool,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    moments: u64,
    numbers: u64,
    replicas_joined: u64,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, detail: Detail) -> Self {
        let mut chance = Chance::new(seed, 5);
        Self {
            directory: BTreeMap::new(),
            replicas: Vec::new(),
            log_ends: BTreeMap::new(),
            log_entries: *chance.pick(&[(4, 1), (10, 3), (40, 15)]),
            snapshot_rows: *chance.pick(&[4, 30, 1_000]),
            replicas_joined: 0,
            seed,
            now: 0,
            chance: Chance::new(seed, 0),
            network: Network::healthy(),
            deaths: Deaths::default(),
            tally: Tally::default(),
            trace: Trace::new(detail),
            watched: Watched::default(),
            probes: BTreeMap::new(),
            mutant,
            tight: Chance::new(seed, 4).one_in(3),
            queue: BTreeMap::new(),
            queued: 0,
            moments: 0,
            numbers: 0,
        }
    }

    /// Whether this defect is the one that the run has.
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Plans an event so many microseconds from now.
    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + micros, self.queued), event);
    }

    /// Passes time up to the next event and takes it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// Sends a message. It may be lost, repeated, or overtaken by later ones.
    pub(crate) fn send(&mut self, from: Place, to: Place, message: Message) {
        self.tally.messages += 1;
        let message = Box::new(message);
        match self.network.deliver(&mut self.chance, from, to) {
            Delivery::Lost => self.tally.messages_lost += 1,
            Delivery::Once(delay) => self.after(delay, Event::Arrive { from, to, message }),
            Delivery::Twice(first, second) => {
                self.tally.messages_repeated += 1;
                self.after(first, Event::Arrive { from, to, message: message.clone() });
                self.after(second, Event::Arrive { from, to, message });
            }
        }
    }

    /// A boundary between two effects of a process: it may die here.
    pub(crate) fn boundary(&mut self, at: Place, what: &'static str) -> Result<(), Died> {
        self.tally.boundaries += 1;
        let armed = match &mut self.deaths.armed {
            Some((place, left)) if *place == at => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Some(_) | None => false,
        };
        if armed {
            self.deaths.armed = None;
        }
        if armed || self.chance.one_in(self.deaths.one_in) {
            self.tally.died_at(what);
            return Err(Died);
        }
        Ok(())
    }

    /// A moment later than every one before.
    pub(crate) fn moment(&mut self) -> Moment {
        self.moments += 1;
        Moment(self.moments)
    }

    /// The replicas of a group, with their places, as the cluster's map has them.
    pub(crate) fn replicas_of(&self, group: u64) -> Vec<(ReplicaId, Place)> {
        let replicas = self.replicas.iter().filter(|(of, _)| *of == group);
        replicas.map(|(_, replica)| (*replica, self.directory[&(group, *replica)])).collect()
    }

    /// The replicas at a place, with their groups, as the cluster's map has them.
    pub(crate) fn replicas_at(&self, place: Place) -> Vec<(u64, ReplicaId)> {
        self.replicas.iter().copied().filter(|replica| self.directory[replica] == place).collect()
    }

    /// Takes a replica into the cluster's map.
    pub(crate) fn place_replica(&mut self, group: u64, replica: ReplicaId, place: Place) {
        self.directory.insert((group, replica), place);
        self.replicas.push((group, replica));
    }

    /// Takes a replica out of the cluster's map.
    pub(crate) fn forget_replica(&mut self, group: u64, replica: ReplicaId) {
        self.replicas.retain(|known| *known != (group, replica));
    }

    /// An id that no replica had before.
    pub(crate) fn new_replica(&mut self) -> ReplicaId {
        self.replicas_joined += 1;
        ReplicaId::new(REPLICAS_JOINED_FROM + self.replicas_joined).expect("not zero")
    }

    /// Notes what no fault explains.
    pub(crate) fn alarm(&mut self, what: String) {
        self.watched.alarms.push(what);
    }

    /// A number never given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn note(&mut self, place: Place, what: &str, number: u64, words: impl FnOnce() -> String) {
        self.trace.note(self.now, place, what, number, words);
    }
}
