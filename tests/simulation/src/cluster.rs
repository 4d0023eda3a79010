//! A cluster with everything around it, and its run: set up, live through faults, heal, come to rest.

use std::collections::BTreeMap;

use semel_index::{KeyVersion, ShardCount};
use semel_raft::ReplicaId;
use semel_workflow::{
    Cluster as Founded, ClusterId, Coordinator as Registered, CoordinatorId, GalleryKey, MetadataCommand, NodeId,
    Rotations,
};

use crate::chance::Chance;
use crate::clients::{Clients, What};
use crate::coordinator::{Coordinator, KeyRing, METADATA_GROUP};
use crate::disk::SharedDisk;
use crate::history::ReplicaSeen;
use crate::moves::Move;
use crate::mutant::Mutant;
use crate::nemesis::Mood;
use crate::network::Network;
use crate::node::Node;
use crate::people;
use crate::plans::{FACE_THRESHOLD_FIRST, GALLERIES, gallery};
use crate::trace::Detail;
use crate::world::{Died, Due, Event, Place, World};

/// A process's tick, in microseconds.
const TICK_MICROS: u64 = 50_000;
/// How long a run may take to set up, in microseconds.
const SET_UP_MICROS: u64 = 60_000_000;
/// How long it may take to come to rest once faults have ended.
const REST_MICROS: u64 = 240_000_000;
/// How often it is looked at meanwhile.
const LOOK_MICROS: u64 = 250_000;

/// Everything.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) nodes: Vec<Node>,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) clients: Clients,
    pub(crate) shards: ShardCount,
    pub(crate) mood: Mood,
    /// Replicas on their way.
    pub(crate) moves: Vec<Move>,
    /// Whether faults come.
    pub(crate) faults: bool,
    /// The network between two faults.
    pub(crate) usual_network: Network,
    /// When a halted process goes on, and how long its tick is.
    rhythms: BTreeMap<Place, Rhythm>,
    voters: Vec<ReplicaId>,
    pub(crate) keys: KeyRing,
    replicas_per_shard: u32,
    pub(crate) candidates_max: u32,
    pub(crate) replicas_seen: Vec<ReplicaSeen>,
    /// What kept it from getting on.
    pub(crate) unfinished: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Rhythm {
    halted_until: u64,
    tick_micros: u64,
}

impl Cluster {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, detail: Detail) -> Self {
        let mut chance = Chance::new(seed, 1);
        let nodes_count = *chance.pick(&[3, 3, 4, 4, 5]);
        let replicas_per_shard = if nodes_count == 5 && chance.one_in(2) { 5 } else { 3 };
        let shards = ShardCount::new(*chance.pick(&[4, 4, 5, 8])).expect("in range");
        let voters: Vec<ReplicaId> = (1..=3).filter_map(ReplicaId::new).collect();
        let nodes: Vec<Node> = (0..nodes_count).map(|number| Node::new(number, node_id(number))).collect();
        let coordinators: Vec<Coordinator> =
            (0..voters.len()).map(|number| Coordinator::new(number, &voters)).collect();
        let clients = Clients::new(seed, coordinators.len());
        let rhythm = Rhythm { halted_until: 0, tick_micros: TICK_MICROS };
        let rhythms = nodes.iter().map(|node| node.place).chain(coordinators.iter().map(|one| one.place));
        let mut usual_network = Network::healthy();
        if chance.one_in(2) {
            usual_network.lost_one_in = *chance.pick(&[50, 200, 1_000]);
            usual_network.repeated_one_in = *chance.pick(&[0, 100, 500]);
            usual_network.delay = (50, *chance.pick(&[500, 5_000, 30_000]));
        }
        // A barrier that goes a long way takes long, while enrolments are staged and searched for among the others.
        let places = nodes.iter().map(|node| node.place).chain(coordinators.iter().map(|one| one.place));
        let places: Vec<Place> = places.collect();
        let long_one_in = *chance.pick(&[0, 4, 10]);
        for (from, to) in places.iter().flat_map(|from| places.iter().map(move |to| (*from, *to))) {
            if from != to && chance.one_in(long_one_in) {
                usual_network.long.insert((from, to), *chance.pick(&[10_000, 60_000, 250_000]));
            }
        }
        let mut world = World::new(seed, mutant, detail);
        for coordinator in &coordinators {
            world.place_replica(METADATA_GROUP, coordinator.id, coordinator.place);
        }
        Self {
            world,
            moves: Vec::new(),
            rhythms: rhythms.map(|place| (place, rhythm)).collect(),
            nodes,
            coordinators,
            clients,
            shards,
            mood: Mood::new(&mut chance),
            faults: false,
            usual_network,
            voters,
            keys: KeyRing::default(),
            replicas_per_shard,
            candidates_max: *chance.pick(&[0, 0, 0, 2]),
            replicas_seen: Vec::new(),
            unfinished: None,
        }
    }

    /// Runs it all.
    pub(crate) fn run(&mut self) {
        if let Err(unfinished) = self.live() {
            self.unfinished = Some(unfinished);
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.set_up()?;
        let mut chance = Chance::new(self.world.seed, 3);
        let micros = *chance.pick(&[8_000_000, 15_000_000, 25_000_000]);
        self.plan_lives(&mut chance, micros);
        self.world.network = self.usual_network.clone();
        self.faults = true;
        self.begin_faults(micros);
        self.run_for(micros);
        self.heal();
        self.run_until("rest", REST_MICROS, Self::what_is_left)?;
        // Whoever asks now is answered with what is on record.
        for what in self.clients.enrolment_requests() {
            let after = self.world.chance.between(0..=1_000_000);
            self.clients.plan(&mut self.world, after, what, false);
        }
        self.run_until("answers at rest", REST_MICROS, Self::what_is_left)
    }

    /// Founds the cluster, joins the nodes, places the shards and creates the galleries, without faults.
    fn set_up(&mut self) -> Result<(), String> {
        for number in 0..self.coordinators.len() {
            self.start(Place::Coordinator(number));
        }
        let founded = Founded {
            cluster_id: ClusterId([7; 16]),
            shards: self.shards,
            replicas_per_shard: self.replicas_per_shard,
        };
        let mut commands = vec![MetadataCommand::Initialise(founded)];
        for (number, voter) in self.voters.iter().enumerate() {
            let id = CoordinatorId::new(voter.get()).expect("as few as coordinators may be");
            let registered = Registered { id, address: format!("c{number}:7400") };
            commands.push(MetadataCommand::RegisterCoordinator(registered));
        }
        for node in &self.nodes {
            commands.push(MetadataCommand::JoinNode {
                node_id: node.node_id,
                address: format!("{}:7500", node.place),
                version: "simulated".to_owned(),
                replicas_held: 0,
            });
        }
        commands.push(MetadataCommand::PlaceShards { nodes: self.nodes.iter().map(|node| node.node_id).collect() });
        for (number, name) in GALLERIES.iter().enumerate() {
            let policy = people::policy(FACE_THRESHOLD_FIRST, self.candidates_max);
            let key = GalleryKey::from_secret([number as u8 + 1; 32]);
            let key_checksum = Rotations::generate(&key, KeyVersion(1), &policy).checksum();
            let (name, created_at_ms) = (gallery(name), 0);
            commands.push(MetadataCommand::CreateGallery { name, policy, key, key_checksum, created_at_ms });
        }
        for command in commands {
            self.clients.plan(&mut self.world, 0, What::Govern { command: Box::new(command) }, false);
            self.run_until("set-up", SET_UP_MICROS, |cluster| cluster.clients.unanswered())?;
        }
        self.run_until("the shard map", SET_UP_MICROS, |cluster| {
            let views = cluster.coordinators.iter().filter_map(|one| one.run.as_ref()).map(|run| run.view());
            let behind = views.filter(|view| view.galleries().count() < GALLERIES.len()).count();
            (behind > 0).then(|| format!("{behind} coordinators do not know it"))
        })?;
        let view = self.coordinators[0].run.as_ref().expect("no faults yet").view().clone();
        for shard in view.shard_map().values() {
            let voters: Vec<ReplicaId> = shard.voters.iter().map(|voter| voter.replica).collect();
            for voter in &shard.voters {
                let node = self.nodes.iter_mut().find(|node| node.node_id == voter.node).expect("a node that joined");
                node.found_group(shard.shard, voter.replica, voters.clone());
                self.world.place_replica(u64::from(shard.shard.0), voter.replica, node.place);
            }
        }
        for number in 0..self.nodes.len() {
            self.start(Place::Node(number));
        }
        Ok(())
    }

    /// Ends every fault: what is down is started, what has stopped is started anew. Whoever still runs goes on as it is, with
    /// whatever the faults left it in.
    fn heal(&mut self) {
        self.faults = false;
        self.world.deaths = crate::world::Deaths::default();
        self.usual_network = Network::healthy();
        self.world.network = Network::healthy();
        for place in self.places() {
            self.disk(place).borrow_mut().mend();
            self.set_tick(place, TICK_MICROS);
            self.halt(place, 0);
            self.set_slow(place, false);
            if !self.is_whole(place) {
                self.crash(place);
            }
            self.start(place);
        }
    }

    /// What keeps the cluster from being at rest; `None` if nothing does.
    fn what_is_left(&self) -> Option<String> {
        if let Some(task) = self.clients.unanswered() {
            return Some(format!("a client has no answer to {task}"));
        }
        crate::rest::what_is_left(self)
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.nodes.iter().map(|node| node.place).chain(self.coordinators.iter().map(|one| one.place)).collect()
    }

    pub(crate) fn disk(&self, place: Place) -> SharedDisk {
        match place {
            Place::Node(node) => self.nodes[node].disk.clone(),
            Place::Coordinator(coordinator) => self.coordinators[coordinator].disk.clone(),
            Place::Client => unreachable!("clients have no disk here"),
        }
    }

    pub(crate) fn runs(&self, place: Place) -> bool {
        match place {
            Place::Node(node) => self.nodes[node].run.is_some(),
            Place::Coordinator(coordinator) => self.coordinators[coordinator].run.is_some(),
            Place::Client => true,
        }
    }

    /// Whether every replica of a process takes part.
    fn is_whole(&self, place: Place) -> bool {
        match place {
            Place::Node(node) => self.nodes[node].is_whole(),
            Place::Coordinator(coordinator) => {
                self.coordinators[coordinator].run.as_ref().is_some_and(|run| run.host.is_whole())
            }
            Place::Client => true,
        }
    }

    /// Kills a process, if it runs: what it had not synced is lost, or part of it.
    pub(crate) fn crash(&mut self, place: Place) {
        if !self.runs(place) {
            return;
        }
        self.collect_replicas_seen(place);
        match place {
            Place::Node(node) => self.nodes[node].run = None,
            Place::Coordinator(coordinator) => self.coordinators[coordinator].run = None,
            Place::Client => {}
        }
        let disk = self.disk(place);
        let mut disk = disk.borrow_mut();
        let unsynced = disk.unsynced();
        let kept = if unsynced == 0 { 0 } else { self.world.chance.below(unsynced as u64 + 1) as usize };
        if self.world.has(Mutant::TornBatchKept) {
            disk.crash_tearing(kept, self.world.chance.below(8) as usize);
        } else {
            disk.crash(kept);
        }
        let damaged = disk.damage_files(&mut self.world.chance);
        let tally = &mut self.world.tally;
        tally.kept_files_damaged += damaged;
        tally.crashes += 1;
        tally.batches_lost += (unsynced - kept) as u64;
        tally.batches_survived += kept as u64;
        self.world.note(place, "dies", unsynced as u64, || format!("{kept} of {unsynced} unsynced batches survive"));
    }

    /// Starts a process, unless it runs.
    pub(crate) fn start(&mut self, place: Place) {
        if self.runs(place) {
            return;
        }
        let emptied = match place {
            Place::Node(node) => std::mem::take(&mut self.nodes[node].wiped),
            Place::Coordinator(coordinator) => std::mem::take(&mut self.coordinators[coordinator].wiped),
            Place::Client => false,
        };
        match place {
            Place::Node(node) if emptied && self.world.has(Mutant::EmptiedVolumeJoinsAgain) => {
                self.nodes[node].found_groups_again();
            }
            Place::Node(_) | Place::Coordinator(_) if emptied => {
                // Identity lives on the volume: this is a new process, and what it was will not come back.
                self.world.tally.rejoined += 1;
                self.forget(place);
                self.replace_lost(place);
            }
            Place::Node(_) | Place::Coordinator(_) | Place::Client => {}
        }
        let world = &mut self.world;
        match place {
            Place::Node(node) => self.nodes[node].start(world, self.shards),
            Place::Coordinator(coordinator) => self.coordinators[coordinator].start(world, &self.keys),
            Place::Client => {}
        }
        let Some(boot) = self.boot(place) else { return };
        self.world.tally.restarts += u64::from(boot > 1);
        self.world.note(place, "starts", boot, || format!("for the {boot}. time"));
        let first = self.world.chance.below(TICK_MICROS);
        self.world.after(first, Event::Due { at: place, boot, what: Due::Tick });
    }

    /// A process knows nothing of what it was before its volume was emptied.
    fn forget(&mut self, place: Place) {
        match place {
            Place::Node(node) => self.nodes[node].assigned.clear(),
            Place::Coordinator(coordinator) => self.coordinators[coordinator].is_empty = true,
            Place::Client => {}
        }
    }

    /// The number of the run of a process that runs.
    fn boot(&self, place: Place) -> Option<u64> {
        match place {
            Place::Node(node) => self.nodes[node].run.is_some().then_some(self.nodes[node].boots),
            Place::Coordinator(coordinator) => {
                let coordinator = &self.coordinators[coordinator];
                coordinator.run.is_some().then_some(coordinator.boots)
            }
            Place::Client => None,
        }
    }

    /// Halts a process for a while: what happens meanwhile happens to it afterwards.
    pub(crate) fn halt(&mut self, place: Place, micros: u64) {
        let until = self.world.now + micros;
        self.rhythms.get_mut(&place).expect("a process").halted_until = until;
    }

    pub(crate) fn set_tick(&mut self, place: Place, tick_micros: u64) {
        self.rhythms.get_mut(&place).expect("a process").tick_micros = tick_micros;
    }

    pub(crate) fn jump_clock(&mut self, place: Place, off_ms: i64) {
        if let Place::Coordinator(coordinator) = place {
            let coordinator = &mut self.coordinators[coordinator];
            coordinator.clock_off_ms = off_ms;
            if let Some(run) = &mut coordinator.run {
                run.set_clock(off_ms);
            }
        }
    }

    fn run_for(&mut self, micros: u64) {
        let end = self.world.now + micros;
        while self.world.now < end && self.next() {}
    }

    /// Runs until `left` says that nothing is left, looking now and then.
    fn run_until(&mut self, what: &str, micros_max: u64, left: impl Fn(&Self) -> Option<String>) -> Result<(), String> {
        let end = self.world.now + micros_max;
        loop {
            let Some(left) = left(self) else { return Ok(()) };
            // What is broken for good is not waited for.
            if let Some(alarm) = self.world.watched.alarms.first() {
                return Err(format!("no {what}: {alarm}"));
            }
            if self.world.now >= end {
                return Err(format!("no {what} after {} s: {left}", micros_max / 1_000_000));
            }
            self.run_for(LOOK_MICROS);
        }
    }

    /// Lets the next event happen.
    fn next(&mut self) -> bool {
        let Some(event) = self.world.next() else { return false };
        match event {
            Event::Fault(fault) => self.fault(fault),
            Event::Client(step) => self.clients.step(&mut self.world, step),
            Event::Arrive { from, to, message } => {
                if to == Place::Client {
                    self.clients.receive(&mut self.world, *message);
                } else if let Some(wait) = self.halted(to) {
                    self.world.after(wait, Event::Arrive { from, to, message });
                } else {
                    let world = &mut self.world;
                    let outcome = match to {
                        Place::Node(node) => {
                            self.nodes[node].run.as_mut().map(|run| run.receive(world, from, *message))
                        }
                        Place::Coordinator(coordinator) => {
                            self.coordinators[coordinator].run.as_mut().map(|run| run.receive(world, from, *message))
                        }
                        Place::Client => None,
                    };
                    self.bury(to, outcome);
                }
            }
            Event::Due { at, boot, what } => {
                if self.boot(at) != Some(boot) {
                    return true;
                }
                if let Some(wait) = self.halted(at) {
                    self.world.after(wait, Event::Due { at, boot, what });
                    return true;
                }
                if let Due::Tick = what {
                    let tick_micros = self.rhythms[&at].tick_micros;
                    self.world.after(tick_micros, Event::Due { at, boot, what });
                }
                let world = &mut self.world;
                let outcome = match at {
                    Place::Node(node) => self.nodes[node].run.as_mut().map(|run| run.due(world, what)),
                    Place::Coordinator(coordinator) => {
                        self.coordinators[coordinator].run.as_mut().map(|run| run.due(world, what))
                    }
                    Place::Client => None,
                };
                self.bury(at, outcome);
            }
        }
        true
    }

    /// How long a process is still halted, if it is.
    fn halted(&self, place: Place) -> Option<u64> {
        let until = self.rhythms.get(&place)?.halted_until;
        (until > self.world.now).then(|| until - self.world.now)
    }

    /// A process that died in the middle of a turn is started later.
    pub(crate) fn bury(&mut self, place: Place, outcome: Option<Result<(), Died>>) {
        if let Some(Err(Died)) = outcome {
            self.crash(place);
            self.start_later(place);
        }
    }

    pub(crate) fn collect_replicas_seen(&mut self, place: Place) {
        let seen = match place {
            Place::Node(node) => self.nodes[node].run.as_mut().map(|run| run.host.take_seen()),
            Place::Coordinator(coordinator) => {
                self.coordinators[coordinator].run.as_mut().map(|run| run.host.take_seen())
            }
            Place::Client => None,
        };
        self.replicas_seen.extend(seen.into_iter().flatten());
    }
}

fn node_id(number: usize) -> NodeId {
    let mut bytes = [0; 16];
    bytes[15] = number as u8 + 1;
    NodeId(bytes)
}
