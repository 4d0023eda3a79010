//! The workload: stations of a registry that enrol people, some of them twice and some of those at the same moment, until each has a
//! verdict; that read, send again, identify and withdraw; and that keep what they asked and were told.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use semel_index::{EnrolmentId, GalleryId};
use semel_population::Population;
use semel_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use semel_proto::v1::identification_service_client::IdentificationServiceClient;
use semel_proto::v1::{EnrolRequest, GetEnrolmentRequest, IdentifyRequest, Modality, WithdrawEnrolmentRequest};
use semel_sandbox::requests;
use semel_simulation::history::{Asked, Call, Content, Key, Moment, State, Told};
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::people::{self, capture};
use crate::seen;

/// The gallery of every scenario.
pub(crate) const GALLERY: &str = "people";
/// People there are, one half for strangers: more than hours of enrolling get to.
const PEOPLE: u32 = 1_000_000;
/// Stations that enrol at once.
const STATIONS: usize = 8;
/// A station takes the next person this long after the one before, or once that one has a verdict.
pub(crate) const PACE: Duration = Duration::from_millis(100);
/// How often one person is captured at most.
const CAPTURES_MAX: u32 = 4;
/// Of people captured again: how far back they may be.
const RECENT: u32 = 200;
/// How long a call asks the cluster to wait for a verdict.
const WAIT_MS: u32 = 2_000;
/// Every call's deadline.
const DEADLINE: Duration = Duration::from_secs(5);
/// How much later than its deadline a call may end on a machine that does other things too. Nothing else here depends on time.
const GRACE: Duration = Duration::from_secs(20);
/// How long a client waits before it asks another coordinator.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Somebody's face as it was taken once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Capture {
    person: u32,
    number: u32,
}

impl Capture {
    pub(crate) fn id(self) -> String {
        format!("{:05}-{}", self.person, self.number)
    }
}

/// Whether the coordinators that clients talk to die, hang or are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coordinators {
    /// They may: a call may break off in its server's hands.
    MayDie,
    /// They stay: every call is answered in the cluster's own words.
    Stay,
}

/// All stations, and what they know together.
pub(crate) struct Clients {
    seed: u64,
    people: Population,
    channels: Vec<Channel>,
    coordinators: Coordinators,
    clock: AtomicU64,
    stopping: AtomicBool,
    answers: AtomicUsize,
    verdicts: AtomicUsize,
    plan: Mutex<Plan>,
    book: Mutex<Book>,
}

/// Who is captured next.
struct Plan {
    chance: ChaCha8Rng,
    people: u32,
    captures: BTreeMap<u32, u32>,
}

/// What was asked and told.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) calls: Vec<Call>,
    pub(crate) sent: BTreeSet<Capture>,
    /// Answers by their code, in words.
    pub(crate) answers: BTreeMap<String, usize>,
    pub(crate) longest: Duration,
    /// Answers that no client should be given.
    pub(crate) complaints: Vec<String>,
}

impl Clients {
    pub(crate) fn new(seed: u64, channels: Vec<Channel>, coordinators: Coordinators) -> Self {
        let plan = Plan { chance: ChaCha8Rng::seed_from_u64(seed), people: 0, captures: BTreeMap::new() };
        Self {
            seed,
            people: people::people(seed, PEOPLE),
            channels,
            coordinators,
            clock: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            answers: AtomicUsize::new(0),
            verdicts: AtomicUsize::new(0),
            plan: Mutex::new(plan),
            book: Mutex::default(),
        }
    }

    /// Sets the stations to work. Each ends, once stopped, when the people it has begun with have their verdicts.
    pub(crate) fn start(self: &Arc<Self>, pace: Duration) -> Vec<tokio::task::JoinHandle<()>> {
        (0..STATIONS).map(|number| tokio::spawn(Arc::clone(self).station(number, pace))).collect()
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Calls that ended, in whatever way.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Enrolments that have a verdict.
    pub(crate) fn verdicts(&self) -> usize {
        self.verdicts.load(Ordering::Relaxed)
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn station(self: Arc<Self>, number: usize, pace: Duration) {
        let mut chance = ChaCha8Rng::seed_from_u64(self.seed);
        chance.set_stream(number as u64 + 1);
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stopping.load(Ordering::Relaxed) {
            pace.tick().await;
            let captures = self.next();
            // Two captures of one person are sent at once, to two coordinators.
            let enrolled = (number..)
                .zip(&captures)
                .map(|(coordinator, &capture)| self.enrol_until_answered(coordinator, capture));
            futures::future::join_all(enrolled).await;
            self.follow_up(number, captures[0], &mut chance).await;
        }
    }

    /// Whom a station captures next: somebody new, somebody new in two places at once, or somebody seen before.
    fn next(&self) -> Vec<Capture> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let draw = plan.chance.random_range(0..100);
        let person = match plan.people {
            people @ 1.. if draw >= 80 => plan.chance.random_range(people.saturating_sub(RECENT)..people),
            people => people,
        };
        plan.people = plan.people.max(person + 1);
        let taken = plan.captures.entry(person).or_default();
        let at_once = if draw < 20 { 2 } else { 1 };
        let numbers = *taken..(*taken + at_once).min(CAPTURES_MAX);
        *taken = numbers.end;
        let captures: Vec<Capture> = numbers.map(|number| Capture { person, number }).collect();
        // Somebody captured as often as may be is sent once more, as before.
        let captures = if captures.is_empty() { vec![Capture { person, number: 0 }] } else { captures };
        self.book().sent.extend(&captures);
        captures
    }

    /// What a station does beside enrolling.
    async fn follow_up(&self, station: usize, capture: Capture, chance: &mut ChaCha8Rng) {
        let coordinator = station + 1;
        match chance.random_range(0..100) {
            // The same again, of another coordinator.
            0..10 => self.enrol_until_answered(coordinator, capture).await,
            10..15 => self.send_other_content(coordinator, capture).await,
            15..30 => {
                let person = chance.random_range(0..=capture.person);
                self.read(coordinator, Capture { person, number: 0 }).await;
            }
            30..40 => {
                let person = chance.random_range(0..=capture.person);
                self.identify(coordinator, person).await;
            }
            40..46 => self.withdraw_until_answered(coordinator, capture).await,
            _ => {}
        }
    }

    async fn enrol_until_answered(&self, coordinator: usize, capture: Capture) {
        let face = self.face(capture);
        for attempt in 0.. {
            match self.enrol(coordinator + attempt, capture, &face, Content(0)).await {
                Told::Recorded(_) => break,
                _ => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
        self.verdicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends somebody else's face under an id that is taken.
    async fn send_other_content(&self, coordinator: usize, capture: Capture) {
        let face = self.face(Capture { person: capture.person + PEOPLE / 2, number: 0 });
        for attempt in 0.. {
            match self.enrol(coordinator + attempt, capture, &face, Content(1)).await {
                Told::AlreadyExists => break,
                Told::Recorded(_) => {
                    self.book().complaints.push(format!("{} was acknowledged for another's face", capture.id()));
                    break;
                }
                _ => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
    }

    async fn withdraw_until_answered(&self, coordinator: usize, capture: Capture) {
        for attempt in 0.. {
            match self.withdraw(coordinator + attempt, capture).await {
                Told::Recorded(_) => break,
                _ => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
    }

    fn face(&self, Capture { person, number }: Capture) -> Vec<f32> {
        capture(&self.people, person, number)
    }

    fn channel(&self, coordinator: usize) -> Channel {
        self.channels[coordinator % self.channels.len()].clone()
    }

    async fn enrol(&self, coordinator: usize, capture: Capture, face: &[f32], content: Content) -> Told {
        let request = EnrolRequest { wait_ms: WAIT_MS, ..requests::face_enrolment(GALLERY, &capture.id(), face) };
        let mut client = EnrolmentServiceClient::new(self.channel(coordinator));
        let asked = Asked::Enrol(key(&capture.id()), content);
        self.call(asked, client.enrol(within_deadline(request)), |answer| {
            let record = seen::record(&answer.enrolment.expect("an answer holds the record"));
            match answer.inconclusive {
                None => Told::Recorded(record),
                Some(inconclusive) => {
                    let missing = inconclusive.missing_shards.into_iter().map(semel_index::ShardId).collect();
                    Told::Inconclusive { record, missing }
                }
            }
        })
        .await
    }

    async fn withdraw(&self, coordinator: usize, capture: Capture) -> Told {
        let request = WithdrawEnrolmentRequest {
            gallery: GALLERY.to_owned(),
            enrolment_id: capture.id(),
            reason: "entered by mistake".to_owned(),
        };
        let mut client = EnrolmentServiceClient::new(self.channel(coordinator));
        let asked = Asked::Withdraw(key(&capture.id()));
        self.call(asked, client.withdraw_enrolment(within_deadline(request)), |answer| {
            Told::Recorded(seen::record(&answer.enrolment.expect("an answer holds the record")))
        })
        .await
    }

    pub(crate) async fn read(&self, coordinator: usize, capture: Capture) -> Told {
        let request = GetEnrolmentRequest { gallery: GALLERY.to_owned(), enrolment_id: capture.id(), wait_ms: 0 };
        let mut client = EnrolmentServiceClient::new(self.channel(coordinator));
        let asked = Asked::Read(key(&capture.id()));
        self.call(asked, client.get_enrolment(within_deadline(request)), |answer| {
            Told::Recorded(seen::record(&answer.enrolment.expect("an answer holds the record")))
        })
        .await
    }

    /// Identifies somebody by a capture that is never enrolled.
    async fn identify(&self, coordinator: usize, person: u32) -> Told {
        let face = self.face(Capture { person, number: CAPTURES_MAX });
        let request = IdentifyRequest {
            gallery: GALLERY.to_owned(),
            references: vec![requests::embedding_reference(Modality::Face, &face)],
            purpose: "a lost card".to_owned(),
            wait_ms: WAIT_MS,
            ..Default::default()
        };
        let mut client = IdentificationServiceClient::new(self.channel(coordinator));
        // Whoever was not sent cannot be found, nor missed.
        let reaching = (0..CAPTURES_MAX).map(|number| key(&Capture { person, number }.id()).enrolment).collect();
        let asked = Asked::Identify { gallery: gallery(), reaching };
        self.call(asked, client.identify(within_deadline(request)), seen::identification).await
    }

    /// Makes one call and keeps it.
    async fn call<R>(
        &self,
        asked: Asked,
        sending: impl Future<Output = Result<Response<R>, Status>>,
        told: impl FnOnce(R) -> Told,
    ) -> Told {
        let (asked_at, begun) = (self.moment(), Instant::now());
        let answer = tokio::time::timeout(DEADLINE + GRACE, sending).await;
        let (told_at, took) = (self.moment(), begun.elapsed());
        let (told, code) = match answer {
            Ok(Ok(answer)) => {
                let told = told(answer.into_inner());
                let inconclusive = matches!(&told, Told::Inconclusive { .. });
                (told, Ok(if inconclusive { "inconclusive".to_owned() } else { "ok".to_owned() }))
            }
            Ok(Err(status)) => self.refused(&asked, &status),
            Err(_) => {
                let nothing = format!("{asked:?} has no answer long after its deadline");
                (Told::Unavailable(nothing.clone()), Err(nothing))
            }
        };
        let mut book = self.book();
        match code {
            Ok(code) => *book.answers.entry(code).or_default() += 1,
            Err(complaint) => book.complaints.push(complaint),
        }
        book.longest = book.longest.max(took);
        book.calls.push(Call { asked_at, asked, told: Some((told_at, told.clone())) });
        self.answers.fetch_add(1, Ordering::Relaxed);
        told
    }

    /// What a refusal means, and its code in words, or a complaint if it should not have been given.
    fn refused(&self, asked: &Asked, status: &Status) -> (Told, Result<String, String>) {
        let unavailable = Told::Unavailable(status.to_string());
        let complaint = || Err(format!("{asked:?}: {status}"));
        let code = match status.code() {
            Code::AlreadyExists if matches!(asked, Asked::Enrol(_, Content(1))) => {
                return (Told::AlreadyExists, Ok("already exists".to_owned()));
            }
            Code::NotFound if matches!(asked, Asked::Read(_)) => {
                return (Told::NoSuchEnrolment, Ok("not found".to_owned()));
            }
            code @ (Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded) => Ok(format!("{code:?}")),
            // tonic's words for a deadline that passed at the client.
            Code::Cancelled if status.message() == "Timeout expired" => Ok("deadline passed".to_owned()),
            // And for a connection that broke off.
            code @ (Code::Unknown | Code::Cancelled) if self.coordinators == Coordinators::MayDie => {
                Ok(format!("{code:?}"))
            }
            Code::Ok
            | Code::Unknown
            | Code::Cancelled
            | Code::AlreadyExists
            | Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => complaint(),
        };
        (unavailable, code)
    }

    /// A moment after every moment given out before.
    fn moment(&self) -> Moment {
        Moment(self.clock.fetch_add(1, Ordering::SeqCst))
    }
}

impl Book {
    /// Every ordered pair of captures of one person.
    pub(crate) fn mates(&self) -> BTreeSet<(Key, Key)> {
        let mut mates = BTreeSet::new();
        for one in &self.sent {
            let others = (0..CAPTURES_MAX).map(|number| Capture { number, ..*one });
            for other in others.filter(|other| other != one && self.sent.contains(other)) {
                mates.insert((key(&one.id()), key(&other.id())));
            }
        }
        mates
    }

    /// Enrolments whose withdrawal was acknowledged.
    pub(crate) fn withdrawn(&self) -> usize {
        let withdrawn = self.calls.iter().filter_map(|call| match (&call.asked, &call.told) {
            (Asked::Withdraw(key), Some((_, Told::Recorded(record)))) if record.state == State::Withdrawn => Some(key),
            _ => None,
        });
        withdrawn.collect::<BTreeSet<_>>().len()
    }
}

pub(crate) fn gallery() -> GalleryId {
    GalleryId::try_from(GALLERY).expect("a valid name")
}

pub(crate) fn key(id: &str) -> Key {
    Key { gallery: gallery(), enrolment: EnrolmentId::try_from(id).expect("a valid id") }
}

fn within_deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
