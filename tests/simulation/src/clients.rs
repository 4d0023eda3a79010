//! The clients: what they ask and when, whom, how patiently, and what they were told. They send a request until it is answered,
//! as a registry does whose cluster has lost a server.

use std::collections::{BTreeMap, BTreeSet};

use semel_index::{EnrolmentId, GalleryId};
use semel_workflow::{EnrolmentRequest, MetadataCommand, ReferenceRequest};

use crate::chance::Chance;
use crate::history::{Asked, Call, Content, Key, PolicyTold, Told};
use crate::messages::{CallId, ClientRequest, Message};
use crate::world::{Event, Place, World};

/// How long a client waits for an answer, in microseconds.
const PATIENCE_MICROS: (u64, u64) = (300_000, 12_000_000);
/// How long it waits before it asks again.
const PAUSE_MICROS: (u64, u64) = (50_000, 1_500_000);

/// Something that a client does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Sends a task's request.
    Send { task: usize },
    /// Waits for an answer no longer.
    Overdue { call: CallId },
}

/// What a task is about.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Enrol { key: Key, content: Content, request: EnrolmentRequest },
    Withdraw { key: Key },
    Read { key: Key },
    Identify { gallery: GalleryId, references: Vec<ReferenceRequest> },
    Govern { command: Box<MetadataCommand> },
}

/// A request that is sent until it is answered.
struct Task {
    what: What,
    sent: u32,
    done: bool,
    /// A second client sends the same request at the same time.
    twice: bool,
}

/// A call that is not answered yet.
struct Open {
    task: usize,
    /// Its place in the history; `None` for an operator's.
    recorded: Option<usize>,
    /// Who was asked.
    to: Place,
}

/// All clients.
pub(crate) struct Clients {
    chance: Chance,
    coordinators: usize,
    tasks: Vec<Task>,
    open: BTreeMap<CallId, Open>,
    pub(crate) calls: Vec<Call>,
    pub(crate) policies: Vec<PolicyTold>,
    /// The calls of identifications, to tell what they should have found.
    pub(crate) identifications: BTreeMap<CallId, usize>,
}

impl Clients {
    pub(crate) fn new(seed: u64, coordinators: usize) -> Self {
        let chance = Chance::new(seed, 2);
        let (tasks, open, identifications) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let (calls, policies) = (Vec::new(), Vec::new());
        Self { chance, coordinators, tasks, open, calls, policies, identifications }
    }

    /// Plans a request so many microseconds from now.
    pub(crate) fn plan(&mut self, world: &mut World, after: u64, what: What, twice: bool) {
        let task = self.tasks.len();
        self.tasks.push(Task { what, sent: 0, done: false, twice });
        world.after(after, Event::Client(Step::Send { task }));
    }

    /// The requests without an answer, in words.
    pub(crate) fn unanswered(&self) -> Option<String> {
        let task = self.tasks.iter().find(|task| !task.done)?;
        Some(format!("{:?}, sent {} times", task.what.words(), task.sent))
    }

    /// Every enrolment that was ever to be sent.
    pub(crate) fn enrolments(&self) -> BTreeSet<Key> {
        let key = |task: &Task| match &task.what {
            What::Enrol { key, .. } => Some(key.clone()),
            What::Withdraw { .. } | What::Read { .. } | What::Identify { .. } | What::Govern { .. } => None,
        };
        self.tasks.iter().filter_map(key).collect()
    }

    /// Every enrolment request that was planned, once.
    pub(crate) fn enrolment_requests(&self) -> Vec<What> {
        let mut seen = BTreeSet::new();
        let tasks = self.tasks.iter().map(|task| &task.what);
        let first = tasks.filter(|what| match what {
            What::Enrol { key, content, .. } => seen.insert((key.clone(), *content)),
            What::Withdraw { .. } | What::Read { .. } | What::Identify { .. } | What::Govern { .. } => false,
        });
        first.cloned().collect()
    }

    pub(crate) fn step(&mut self, world: &mut World, step: Step) {
        match step {
            Step::Send { task } => {
                if self.tasks[task].done {
                    return;
                }
                self.send(world, task);
                if self.tasks[task].twice {
                    self.send(world, task);
                }
            }
            Step::Overdue { call } => {
                if let Some(Open { task, to, .. }) = self.open.remove(&call) {
                    world.tally.unanswered += 1;
                    if self.chance.one_in(2) {
                        world.send(Place::Client, to, Message::Cancel { call });
                    }
                    self.again(world, task);
                }
            }
        }
    }

    fn send(&mut self, world: &mut World, task: usize) {
        let asked_at = world.moment();
        let call = world.number();
        let planned = &mut self.tasks[task];
        planned.sent += 1;
        if planned.sent > 1 {
            world.tally.calls_again += 1;
        }
        world.tally.calls += 1;
        let what = planned.what.clone();
        let asked = match &what {
            What::Enrol { key, content, .. } => Some(Asked::Enrol(key.clone(), *content)),
            What::Withdraw { key } => Some(Asked::Withdraw(key.clone())),
            What::Read { key } => Some(Asked::Read(key.clone())),
            // Who reaches it is found out once everybody who was ever enrolled is known.
            What::Identify { gallery, .. } => {
                self.identifications.insert(call, self.calls.len());
                Some(Asked::Identify { gallery: gallery.clone(), reaching: BTreeSet::new() })
            }
            What::Govern { .. } => None,
        };
        let recorded = asked.map(|asked| {
            self.calls.push(Call { asked_at, asked, told: None });
            self.calls.len() - 1
        });
        let to = Place::Coordinator(self.chance.below(self.coordinators as u64) as usize);
        self.open.insert(call, Open { task, recorded, to });
        world.note(Place::Client, "asks", call, || format!("{to} to {}", what.words()));
        let patience = self.chance.between(PATIENCE_MICROS.0..=PATIENCE_MICROS.1);
        // Mostly it asks for an answer before it loses patience.
        let wait = if self.chance.one_in(4) { PATIENCE_MICROS.1 } else { patience * 3 / 4 };
        world.send(Place::Client, to, Message::Request { call, wait, request: what.request() });
        world.after(patience, Event::Client(Step::Overdue { call }));
    }

    fn again(&mut self, world: &mut World, task: usize) {
        if !self.tasks[task].done {
            let pause = self.chance.between(PAUSE_MICROS.0..=PAUSE_MICROS.1);
            world.after(pause, Event::Client(Step::Send { task }));
        }
    }

    pub(crate) fn receive(&mut self, world: &mut World, message: Message) {
        match message {
            Message::Response { call, told } => self.told(world, call, told),
            Message::Governed { call, done, policy } => {
                let Some(Open { task, .. }) = self.open.remove(&call) else { return };
                if let Some((gallery, version)) = policy {
                    self.policies.push(PolicyTold { told_at: world.moment(), gallery, version });
                }
                self.tasks[task].done |= done;
                self.again(world, task);
            }
            Message::Raft { .. }
            | Message::Snapshot(_)
            | Message::SnapshotTaken(_)
            | Message::Ask { .. }
            | Message::Answer { .. }
            | Message::Request { .. }
            | Message::Cancel { .. } => {}
        }
    }

    fn told(&mut self, world: &mut World, call: CallId, told: Told) {
        let Some(Open { task, recorded, .. }) = self.open.remove(&call) else { return };
        world.note(Place::Client, "is told", call, || {
            format!("{} as it asked to {}", words(&told), self.tasks[task].what.words())
        });
        let done = match &told {
            Told::Recorded(_) | Told::NoSuchEnrolment => true,
            Told::AlreadyExists => {
                world.tally.already_exists += 1;
                true
            }
            Told::Candidates { missing, .. } => {
                world.tally.identifications += 1;
                missing.is_empty()
            }
            Told::Inconclusive { .. } => {
                world.tally.inconclusive += 1;
                false
            }
            Told::Unavailable(_) => false,
        };
        self.tasks[task].done |= done;
        let told_at = world.moment();
        let recorded = recorded.expect("operators are not told records");
        self.calls[recorded].told = Some((told_at, told));
        self.again(world, task);
    }
}

impl What {
    fn request(self) -> ClientRequest {
        match self {
            Self::Enrol { request, .. } => ClientRequest::Enrol(request),
            Self::Withdraw { key } => ClientRequest::Withdraw(key.gallery, key.enrolment),
            Self::Read { key } => ClientRequest::Read(key.gallery, key.enrolment),
            Self::Identify { gallery, references } => ClientRequest::Identify(gallery, references),
            Self::Govern { command } => ClientRequest::Govern(command),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Enrol { key, content, .. } => format!("enrol {key} (content {:016x})", content.0),
            Self::Withdraw { key } => format!("withdraw {key}"),
            Self::Read { key } => format!("read {key}"),
            Self::Identify { gallery, .. } => format!("identify in {gallery}"),
            Self::Govern { .. } => "govern".to_owned(),
        }
    }
}

fn words(told: &Told) -> String {
    let names = |candidates: &[EnrolmentId]| candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match told {
        Told::Recorded(record) => match &record.verdict {
            Some(verdict) => format!("{:?}, round {}: [{}]", record.state, verdict.round, names(&verdict.candidates)),
            None => format!("{:?}", record.state),
        },
        Told::Inconclusive { missing, .. } => format!("inconclusive, missing {missing:?}"),
        Told::AlreadyExists => "already exists".to_owned(),
        Told::NoSuchEnrolment => "no such enrolment".to_owned(),
        Told::Candidates { candidates, missing, .. } => format!("[{}], missing {missing:?}", names(candidates)),
        Told::Unavailable(why) => format!("unavailable: {why}"),
    }
}
