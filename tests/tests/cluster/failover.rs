//! Clients that know several coordinators: one of these dies, hangs or is restarted under load, and no call fails.
//!
//! How long verdicts pause is measured and printed; only that they go on is asserted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use semel_client::{CallError, Client, Course, Outcome, Settings};
use semel_population::Population;
use semel_proto::v1::EnrolRequest;
use semel_sandbox::{Sandbox, requests, wait_until};

use crate::binary::child_processes;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::assert_sound;

const GALLERY: &str = "people";
/// The tick of servers that nobody configures, so that what is printed is what operators get.
const TICK_MS: u64 = 50;
/// Stations that enrol one by one, and what the bulk beside them keeps in flight.
const STATIONS: u32 = 4;
const BULK_IN_FLIGHT: usize = 8;
/// People of one source of requests; more than any test gets to.
const PEOPLE_EACH: u32 = 4_000;
/// How long what is waited for may take on a machine that does other things too.
const AT_MOST: Duration = Duration::from_secs(120);

/// One call that ended.
struct Ended {
    answered: Instant,
    result: Result<Outcome, CallError>,
    course: Course,
}

/// Stations and a bulk that enrol without a pause.
struct Load {
    client: Client,
    people: Population,
    stopping: AtomicBool,
    ended: Mutex<Vec<Ended>>,
}

impl Load {
    fn start(client: Client, seed: u64) -> (Arc<Self>, Vec<tokio::task::JoinHandle<()>>) {
        let people = people::people(seed, PEOPLE_EACH * (STATIONS + 1));
        let load = Arc::new(Self { client, people, stopping: AtomicBool::new(false), ended: Mutex::default() });
        let stations = (0..STATIONS).map(|number| tokio::spawn(Arc::clone(&load).station(number)));
        let mut tasks: Vec<_> = stations.collect();
        tasks.push(tokio::spawn(Arc::clone(&load).bulk()));
        (load, tasks)
    }

    /// The requests of one source, until the load is stopped.
    fn requests(&self, source: u32) -> impl Iterator<Item = EnrolRequest> {
        let persons =
            (source * PEOPLE_EACH..(source + 1) * PEOPLE_EACH).take_while(|_| !self.stopping.load(Ordering::Relaxed));
        persons
            .map(|person| requests::face_enrolment(GALLERY, &format!("{person:05}"), &capture(&self.people, person, 0)))
    }

    async fn station(self: Arc<Self>, number: u32) {
        for request in self.requests(number) {
            let result = self.client.enrol(request).await;
            self.ended().push(Ended { answered: Instant::now(), result, course: Course::default() });
        }
    }

    async fn bulk(self: Arc<Self>) {
        let requests = futures::stream::iter(self.requests(STATIONS).map(|request| ((), request)));
        let answers = self.client.enrol_all(requests, BULK_IN_FLIGHT);
        let keep = |answer: semel_client::Answer<()>| {
            self.ended().push(Ended { answered: answer.answered, result: answer.result, course: answer.course });
        };
        let mut answers = std::pin::pin!(answers);
        while let Some(answer) = answers.next().await {
            keep(answer);
        }
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so many more verdicts and returns the longest pause between two of them.
    async fn verdicts(&self, more: usize) -> Duration {
        let (begun, before) = (Instant::now(), self.ended().len());
        let reached = wait_until("more verdicts", AT_MOST, || {
            let ended = self.ended().len() - before;
            async move { if ended >= more { Ok(()) } else { Err(format!("{ended} of {more}")) } }
        });
        reached.await.unwrap_or_else(|error| panic!("{error}"));
        let ended = self.ended();
        let mut moments: Vec<Instant> = ended.iter().map(|ended| ended.answered).filter(|at| *at >= begun).collect();
        moments.sort_unstable();
        let after = moments.iter().scan(begun, |before, at| Some(*at - std::mem::replace(before, *at)));
        after.max().expect("there were verdicts")
    }

    /// Ends the load and checks that every call has a sound verdict; returns how many there were.
    async fn stop(&self, tasks: Vec<tokio::task::JoinHandle<()>>) -> (usize, u32) {
        self.stopping.store(true, Ordering::Relaxed);
        for task in tasks {
            tokio::time::timeout(AT_MOST, task).await.expect("every call ends").expect("no source panics");
        }
        let ended = self.ended();
        for Ended { result, .. } in ended.iter() {
            match result {
                Ok(outcome) if outcome.is_final() => assert_sound(outcome.enrolment()),
                other => panic!("a client noticed: {other:?}"),
            }
        }
        (ended.len(), ended.iter().map(|ended| ended.course.errors).sum())
    }
}

async fn cluster() -> (Sandbox, Client) {
    let builder = Sandbox::builder().mode(child_processes()).coordinators(3).nodes(3).engine("exact").tick_ms(TICK_MS);
    let sandbox = builder.start().await.expect("the cluster starts");
    let client = Client::new(sandbox.endpoints(), Settings::default()).expect("addresses");
    client.create_gallery(requests::face_gallery(GALLERY, DIMENSION, THRESHOLD)).await.expect("the gallery is created");
    (sandbox, client)
}

/// The coordinator that leads, counted from 0, as the others see it once they agree on one that is not `out`.
async fn leading(sandbox: &Sandbox, out: Option<usize>) -> usize {
    let leads = wait_until("a coordinator that leads", AT_MOST, || async {
        let asked = (0..3).find(|number| Some(*number) != out).expect("three coordinators");
        let status = sandbox.status_of(asked).await.map_err(|error| error.to_string())?;
        let leader = status.coordinators.iter().find(|coordinator| coordinator.leader);
        let leader = leader.map(|leader| leader.coordinator as usize - 1).filter(|leader| Some(*leader) != out);
        leader.ok_or_else(|| "none leads".to_owned())
    });
    leads.await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leading_coordinator_dies_under_load_and_no_call_fails() {
    let (sandbox, client) = cluster().await;
    let (load, tasks) = Load::start(client, 71);
    load.verdicts(40).await;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let leader = leading(&sandbox, None).await;
        sandbox.kill_coordinator(leader).await.expect("it runs");
        pauses.push(load.verdicts(60).await);
        sandbox.restart_coordinator(leader).await.expect("it starts again");
        sandbox.wait_ready().await.expect("it is back");
        load.verdicts(40).await;
    }
    let (calls, errors) = load.stop(tasks).await;
    println!(
        "the leading coordinator killed with SIGKILL {} times under load: {calls} calls, 0 failed, {errors} attempts of the bulk \
         repeated; longest pauses between verdicts {pauses:.2?}",
        pauses.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leading_coordinator_hangs_under_load_and_no_call_fails() {
    let (sandbox, client) = cluster().await;
    let (load, tasks) = Load::start(client, 72);
    load.verdicts(40).await;
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let leader = leading(&sandbox, None).await;
        sandbox.pause_coordinator(leader).await.expect("it runs");
        pauses.push(load.verdicts(60).await);
        leading(&sandbox, Some(leader)).await;
        load.verdicts(40).await;
        sandbox.resume_coordinator(leader).await.expect("it is there");
        load.verdicts(40).await;
    }
    let (calls, errors) = load.stop(tasks).await;
    println!(
        "the leading coordinator halted with SIGSTOP {} times under load: {calls} calls, 0 failed, {errors} attempts of the bulk \
         repeated; longest pauses between verdicts {pauses:.2?}",
        pauses.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_are_restarted_one_after_another_under_load_and_no_call_fails() {
    let (sandbox, client) = cluster().await;
    let (load, tasks) = Load::start(client, 73);
    load.verdicts(40).await;
    let mut pauses = Vec::new();
    // The leader comes first, so that the lead is handed over at least once.
    let first = leading(&sandbox, None).await;
    for next in 0..3 {
        let coordinator = (first + next) % 3;
        // Panics unless it ends by itself and reports success.
        sandbox.terminate_coordinator(coordinator).await.expect("it ends as asked");
        pauses.push(load.verdicts(60).await);
        sandbox.restart_coordinator(coordinator).await.expect("it starts again");
        sandbox.wait_ready().await.expect("it is back");
    }
    let (calls, errors) = load.stop(tasks).await;
    println!(
        "each coordinator restarted with SIGTERM under load: {calls} calls, 0 failed, {errors} attempts of the bulk repeated; longest \
         pauses between verdicts {pauses:.2?}"
    );
}
