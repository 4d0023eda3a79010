//! `semel enrol`: enrols what files hold, and tells what became of each. Sending lives in `semel-client`, reading ahead in `source`, what
//! has ended in `tracker`, and what outlives an interruption in `progress` and `rejects`.

mod progress;
mod rejects;
mod source;
mod summary;
mod tracker;

use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt as _;
use semel_client::{Answer, CallError, Client, Outcome, Settings};
use semel_files::names;
use semel_proto::v1::{EnrolRequest, Priority};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::number::within;
use crate::output::{self, Output, Progress, grouped};
use crate::records::{FORMS, FormArguments};
use crate::serve::stop_signal;
use progress::{ProgressFile, Run, Stand};
use rejects::RejectsFile;
use source::{Changed, Place, READ_AHEAD, Source, Sourced};
use summary::Summary;
use tracker::{AGAIN_MAX, End, Reject, Tracker, WINDOW_MAX};

/// How long no coordinator may be reachable before the run ends.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
/// How long the reader may take to notice that nobody receives; standard input may be silent for ever.
const READING_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Progress is kept so often, and after so many answers: what a run that is killed sends again is bounded in both.
const SAVE_EVERY: Duration = Duration::from_secs(1);
const SAVE_EVERY_ANSWERS: u32 = 128;

/// Enrols what files hold.
#[derive(Debug, Args)]
#[command(
    long_about = "Enrols what files hold and tells for each whether it is unique or a possible duplicate. Files are read as they are \
        enrolled, and may be larger than memory.\n\n\
        Running the same command again is safe: ids are idempotency keys, so what is enrolled already gives the recorded \
        answer. What may succeed later (an overloaded cluster, a shard without a majority, a broken connection) is sent \
        again with growing pauses. A bad record is listed and does not stop the others.\n\n\
        A run that is interrupted, in whatever way, leaves a progress file: the same command goes on from there, unless \
        the part of the input that was done has changed. A run that ends removes it.",
    after_help = format!("\
Examples:
    semel enrol --gallery people people.npy                  (with people.csv beside it)
    semel enrol --gallery people --id-column row people.parquet
    semel enrol --gallery people --rejects rejects.csv --rejects-max 50000 people.parquet
    semel enrol --gallery people --output json day-1.jsonl day-2.jsonl > verdicts.jsonl
    extract | semel enrol --gallery people -

{FORMS}

{EXIT_CODES}")
)]
pub(crate) struct EnrolArguments {
    /// The gallery; it must exist.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// .npy files with tables beside them, .parquet files, .jsonl files, or `-`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    form: FormArguments,
    /// Enrolments sent and not yet answered, 1 to 4096.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = within::<u32>(1..=4096))]
    in_flight: u32,
    /// How long one enrolment is tried before its last trouble is its answer, in seconds, 1 to 3600.
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = within::<u32>(1..=3_600))]
    deadline_s: u32,
    /// How long each attempt waits for its verdict, in milliseconds, 1 to 60000.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = within::<u32>(1..=60_000))]
    wait_ms: u32,
    /// Sends the enrolments as those of people who wait at a desk. [default: as bulk, behind them]
    #[arg(long)]
    interactive: bool,
    /// Where progress is kept. [default: beside the first file, its name with .progress added; none for `-`]
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,
    /// Where rejected records are listed: a table (.csv) of file, row, enrolment_id and reason, in the input's order. A run that does not
    /// go on from another writes it anew. [default: the first 1,000 are shown at the end]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Rejected records after which the run ends: so many are a fault of the whole input.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    rejects_max: u64,
    #[command(flatten)]
    client: ClientArguments,
}

/// Why a run ends before its input does.
#[derive(Debug)]
enum Stopped {
    Signal,
    TooManyRejects,
    /// No coordinator can be reached, or nothing is answered any more.
    NoAnswers(CallError),
}

/// A run under way: what every answer and every bad record changes.
struct Enrolling<'a> {
    arguments: &'a EnrolArguments,
    tracker: Tracker,
    window: Arc<Semaphore>,
    summary: Summary,
    progress: Progress,
    progress_file: Option<ProgressFile>,
    rejects_file: Option<RejectsFile>,
    unanswered_in_a_row: u32,
    stop: watch::Sender<bool>,
    stopped: Option<Stopped>,
    /// What kept something from being written.
    failed: Option<anyhow::Error>,
}

/// Runs `semel enrol`.
pub(crate) async fn run(arguments: EnrolArguments) -> anyhow::Result<Exit> {
    let opened = arguments.files.iter().map(|file| Ok((file.clone(), arguments.form.open(file)?)));
    let files = opened.collect::<Result<Vec<_>, UsageError>>()?;
    let count = files.iter().try_fold(0_u64, |sum, (_, records)| Some(sum.saturating_add(records.count?)));
    let settings = Settings {
        deadline: Duration::from_secs(arguments.deadline_s.into()),
        unreachable_after: UNREACHABLE_AFTER,
        ..Settings::default()
    };
    let client = arguments.client.client_with(settings)?;
    let (progress_file, stand) = progress_file(&arguments).await?;
    let rejects_file =
        arguments.rejects.as_ref().map(|path| RejectsFile::open(path, stand.rejects_bytes)).transpose()?;

    let window = Arc::new(Semaphore::new(WINDOW_MAX));
    let (sourced, receiver) = mpsc::channel(READ_AHEAD);
    let source = Source {
        files,
        gallery: arguments.gallery.clone(),
        wait_ms: arguments.wait_ms,
        priority: if arguments.interactive { Priority::Interactive } else { Priority::Bulk },
        mark: stand.mark.clone(),
        window: Arc::clone(&window),
    };
    let runtime = tokio::runtime::Handle::current();
    let reading = tokio::task::spawn_blocking(move || source.read(&sourced, &runtime));

    let done_before = stand.mark.records - stand.mark.again.len() as u64;
    let total = count.map(|count| count.saturating_sub(done_before));
    let rejects = arguments.rejects.as_ref().map(|path| path.display().to_string());
    let summary = Summary::new(done_before, rejects);
    let enrolling = RefCell::new(Enrolling {
        arguments: &arguments,
        tracker: Tracker::new(stand.mark),
        window,
        summary,
        progress: Progress::start(&format!("enrolling into {}", arguments.gallery), total),
        progress_file,
        rejects_file,
        unanswered_in_a_row: 0,
        stop: watch::channel(false).0,
        stopped: None,
        failed: None,
    });
    if done_before > 0 {
        enrolling
            .borrow()
            .progress
            .say(&format!("going on after {} records of an interrupted run", grouped(done_before)));
    }
    let started = Instant::now();
    send(&client, receiver, &enrolling).await;
    // Everything was read, or a stopped run waits for no more input.
    let read = tokio::time::timeout(READING_ENDS_WITHIN, reading).await.map_or(Ok(Ok(())), |read| read)?;
    enrolling.into_inner().finish(read, started.elapsed())
}

/// The progress file, if one is kept, and where a run before stood.
async fn progress_file(arguments: &EnrolArguments) -> anyhow::Result<(Option<ProgressFile>, Stand)> {
    let Some(path) = arguments.progress.clone().or_else(|| ProgressFile::beside(&arguments.files)) else {
        return Ok((None, Stand::default()));
    };
    let status = arguments.client.client()?.status().await.context("ask which cluster this is")?;
    let run = Run { cluster_id: status.cluster_id, gallery: arguments.gallery.clone(), files: arguments.files.clone() };
    let file = ProgressFile::new(path, run);
    if let Some(stand) = file.load()? {
        return Ok((Some(file), stand));
    }
    let stand = Stand::default();
    match file.save(&stand.mark, 0) {
        Ok(()) => Ok((Some(file), stand)),
        Err(error) if arguments.progress.is_some() => Err(UsageError(format!("--progress: {error:#}")).into()),
        Err(error) => {
            eprintln!("{error:#}: an interrupted run will begin anew (name another place with --progress)");
            Ok((None, stand))
        }
    }
}

/// Sends what is read until all of it has ended, or the run is stopped and what is in flight has ended.
async fn send(client: &Client, receiver: mpsc::Receiver<Sourced>, enrolling: &RefCell<Enrolling<'_>>) {
    let (mut told, in_flight) = {
        let enrolling = enrolling.borrow();
        (enrolling.stop.subscribe(), enrolling.arguments.in_flight)
    };
    let stopped = async move {
        // The sender lives as long as the run.
        let _ = told.wait_for(|stop| *stop).await;
    };
    let taken = |one: Sourced| std::future::ready(enrolling.borrow_mut().take(one));
    let requests = ReceiverStream::new(receiver).take_until(stopped).filter_map(taken);
    let mut answers = pin!(client.enrol_all(requests, in_flight as usize));
    let mut save = tokio::time::interval(SAVE_EVERY);
    let mut signal = Box::pin(stop_signal());
    let mut unsaved = 0;
    loop {
        tokio::select! {
            answer = answers.next() => match answer {
                Some(answer) => {
                    enrolling.borrow_mut().answered(answer);
                    unsaved += 1;
                    if unsaved == SAVE_EVERY_ANSWERS {
                        enrolling.borrow_mut().save();
                        unsaved = 0;
                    }
                }
                None => break,
            },
            _ = save.tick() => enrolling.borrow_mut().save(),
            () = &mut signal => {
                signal = Box::pin(stop_signal());
                if !enrolling.borrow_mut().interrupted() {
                    break;
                }
            }
        }
    }
}

impl Enrolling<'_> {
    /// Takes a record in; one that cannot be read ends here.
    fn take(&mut self, one: Sourced) -> Option<(Place, EnrolRequest)> {
        let Sourced { place, hash, request } = one;
        if place.number >= self.tracker.mark().records {
            let number = self.tracker.take(hash);
            assert_eq!(number, place.number, "records are taken in the input's order");
        }
        match request {
            Ok(request) => Some((place, request)),
            Err(reason) => {
                let reject = place.rejected(reason);
                self.summary.add_bad(&reject);
                self.end(place.number, End::Rejected(reject));
                None
            }
        }
    }

    fn answered(&mut self, answer: Answer<Place>) {
        if self.arguments.client.output == Output::Json {
            output::raw(answer_document(&answer));
        }
        self.summary.add(&answer.tag.enrolment_id, &answer);
        let end = match &answer.result {
            Ok(_) => End::Recorded,
            Err(error @ CallError::Refused { .. }) => End::Rejected(answer.tag.rejected(error.to_string())),
            Err(CallError::Unanswered { .. } | CallError::Unreachable { .. }) => End::Unanswered,
        };
        self.watch(&answer.result);
        self.end(answer.tag.number, end);
        let duplicates = self.summary.possible_duplicate;
        self.progress.advance(|| format!("{} possible duplicates", grouped(duplicates)));
    }

    /// Ends the run where going on would only add to what has no answer.
    fn watch(&mut self, result: &Result<Outcome, CallError>) {
        match result {
            Ok(_) | Err(CallError::Refused { .. }) => self.unanswered_in_a_row = 0,
            Err(error @ CallError::Unreachable { .. }) => self.stop(Stopped::NoAnswers(error.clone())),
            Err(error @ CallError::Unanswered { .. }) => {
                self.unanswered_in_a_row += 1;
                let all_in_flight = self.unanswered_in_a_row > self.arguments.in_flight;
                if all_in_flight || self.tracker.mark().again.len() >= AGAIN_MAX {
                    self.stop(Stopped::NoAnswers(error.clone()));
                }
            }
        }
    }

    fn end(&mut self, number: u64, end: End) {
        let (below, rejects) = self.tracker.end(number, end);
        self.window.add_permits(below);
        let written = rejects.iter().try_for_each(|reject: &Reject| match &mut self.rejects_file {
            Some(file) => file.add(reject),
            None => Ok(()),
        });
        self.or_fail(written);
        if self.summary.rejected() > self.arguments.rejects_max {
            self.stop(Stopped::TooManyRejects);
        }
    }

    /// Keeps where the run stands.
    fn save(&mut self) {
        let Some(file) = &self.progress_file else { return };
        // First what is counted on, then what counts on it.
        let bytes = self.rejects_file.as_ref().map_or(Ok(0), RejectsFile::synced_bytes);
        let saved = bytes.and_then(|bytes| file.save(self.tracker.mark(), bytes));
        self.or_fail(saved);
    }

    /// A signal came; whether what is in flight is waited for.
    fn interrupted(&mut self) -> bool {
        if matches!(self.stopped, Some(Stopped::Signal)) {
            return false;
        }
        self.progress.say("told to stop: waiting for what is in flight; once more ends at once");
        self.stop(Stopped::Signal);
        true
    }

    fn stop(&mut self, why: Stopped) {
        // The first reason is what the others follow from, but whoever says so has the last word.
        if self.stopped.is_none() || matches!(why, Stopped::Signal) {
            self.stopped = Some(why);
        }
        self.window.close();
        self.stop.send_replace(true);
    }

    /// What cannot be written ends the run.
    fn or_fail(&mut self, written: anyhow::Result<()>) {
        if let Err(error) = written {
            self.failed.get_or_insert(error);
            self.window.close();
            self.stop.send_replace(true);
        }
    }

    /// Tells what became of everything, and how to go on with what is left.
    fn finish(mut self, read: Result<(), Changed>, elapsed: Duration) -> anyhow::Result<Exit> {
        self.progress.finish();
        self.save();
        self.summary.show(&self.arguments.gallery, elapsed, self.arguments.client.output)?;
        if let Some(error) = self.failed {
            return Err(error.context(go_on(self.progress_file.as_ref(), "the run ended early")));
        }
        if let Err(changed) = read {
            let file = self.progress_file.as_ref().map(|file| file.path().display().to_string()).unwrap_or_default();
            return Err(UsageError(format!("{changed}; to enrol all of it, remove {file}")).into());
        }
        match self.stopped {
            Some(Stopped::Signal) => {
                eprintln!("{}", go_on(self.progress_file.as_ref(), "interrupted"));
                Ok(Exit::Interrupted)
            }
            Some(Stopped::NoAnswers(error)) => {
                Err(anyhow::Error::from(error).context(go_on(self.progress_file.as_ref(), "the run ended early")))
            }
            Some(Stopped::TooManyRejects) => {
                let why = format!("more than {} records were rejected (--rejects-max)", self.arguments.rejects_max);
                eprintln!("{}", go_on(self.progress_file.as_ref(), &why));
                Ok(Exit::Failed)
            }
            None => {
                if let Some(file) = &self.progress_file
                    && self.tracker.mark().again.is_empty()
                {
                    file.remove()?;
                } else if !self.tracker.mark().again.is_empty() {
                    eprintln!("{}", go_on(self.progress_file.as_ref(), "some records have no answer"));
                }
                Ok(self.summary.exit())
            }
        }
    }
}

fn go_on(file: Option<&ProgressFile>, why: &str) -> String {
    match file {
        Some(file) => {
            format!(
                "{why}; run the same command again to go on from {}",
                output::escaped(&file.path().display().to_string())
            )
        }
        None => format!("{why}; run the same command again: what is enrolled already is answered from the record"),
    }
}

fn answer_document(answer: &Answer<Place>) -> serde_json::Value {
    let outcome = match &answer.result {
        Ok(outcome) => outcome,
        Err(error) => {
            return json!({
                "enrolment_id": answer.tag.enrolment_id,
                "error": { "code": format!("{:?}", error.code()), "message": error.to_string() },
                "attempts": answer.course.attempts,
            });
        }
    };
    let mut document = match outcome {
        Outcome::Inconclusive { missing_shards, .. } => json!({
            "inconclusive": { "reason": "shards that have not answered the search", "missing_shards": missing_shards },
        }),
        Outcome::StillStaged { waits_for, .. } => {
            json!({ "inconclusive": { "reason": waits_for, "missing_shards": [] } })
        }
        Outcome::Unique(enrolment)
        | Outcome::PossibleDuplicate(enrolment)
        | Outcome::NotComparable(enrolment)
        | Outcome::Withdrawn(enrolment) => {
            let mut document = document::enrolment(enrolment);
            document["latency_ms"] = json!((answer.answered - answer.sent).as_millis());
            document
        }
    };
    if !outcome.is_final() {
        document["enrolment_id"] = json!(answer.tag.enrolment_id);
        document["state"] = json!(names::enrolment_state(outcome.enrolment().state()));
    }
    document["attempts"] = json!(answer.course.attempts);
    document
}
