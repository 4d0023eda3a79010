//! `semel enrol`: enrols what files hold, and tells what became of each. Sending lives in `semel-client`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt as _;
use semel_client::{Answer, CallError, Outcome, Settings};
use semel_files::{BadRecord, Records, names};
use semel_proto::v1::{EnrolRequest, Enrolment};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{EXIT_CODES, Exit};
use crate::output::{self, Output, Progress, grouped};
use crate::records::{FORMS, FormArguments};

/// Records read ahead of the stream.
const READ_AHEAD: usize = 64;
/// Rejected and unanswered records, each, that are kept with their reasons; more are counted.
const LISTED_MAX: usize = 1_000;
/// How long no coordinator may be reachable before the run ends.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
/// Possible duplicates shown in the summary; `semel cases` lists all.
const DUPLICATES_SHOWN_MAX: usize = 20;

/// Enrols what files hold.
#[derive(Debug, Args)]
#[command(
    long_about = "Enrols what files hold and tells for each whether it is unique or a possible duplicate.\n\n\
        Running the same command again is safe: ids are idempotency keys, so what is enrolled already gives the recorded \
        answer. What may succeed later (an overloaded cluster, a shard without a majority, a broken connection) is sent \
        again with growing pauses. A bad record is listed and does not stop the others.",
    after_help = format!("\
Examples:
    semel enrol --gallery people people.npy                  (with people.csv beside it)
    semel enrol --gallery people --id-column row people.npy
    semel enrol --gallery people --output json day-1.jsonl day-2.jsonl > verdicts.jsonl
    extract | semel enrol --gallery people -

{FORMS}

{EXIT_CODES}")
)]
pub(crate) struct EnrolArguments {
    /// The gallery; it must exist.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// .npy files with tables beside them, .jsonl files, or `-`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    form: FormArguments,
    /// Enrolments sent and not yet answered, 1 to 4096.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: u32,
    /// How long one enrolment is tried before its last trouble is its answer, in seconds, 1 to 3600.
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    deadline_s: u32,
    /// How long each attempt waits for its verdict, in milliseconds, 1 to 60000.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    wait_ms: u32,
    #[command(flatten)]
    client: ClientArguments,
}

/// What became of everything.
#[derive(Default)]
struct Summary {
    unique: u64,
    possible_duplicate: u64,
    not_comparable: u64,
    withdrawn: u64,
    inconclusive: u64,
    rejected: Failures,
    /// Those that the cluster gave no answer to in all attempts.
    unanswered: Failures,
    sent_again: u64,
    /// (enrolment, best candidate, its margin in millionths, candidates in all) of the first possible duplicates.
    duplicates: Vec<(String, String, i32, u64)>,
    latencies: Vec<Duration>,
}

/// Records that were not enrolled.
#[derive(Default)]
struct Failures {
    count: u64,
    /// (what, why) of the first.
    listed: Vec<(String, String)>,
}

impl Failures {
    fn add(&mut self, what: String, why: String) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push((what, why));
        }
    }

    /// How many are counted and not listed.
    fn more(&self) -> u64 {
        self.count - self.listed.len() as u64
    }

    fn document(&self) -> Vec<serde_json::Value> {
        self.listed.iter().map(|(what, why)| json!({ "what": what, "reason": why })).collect()
    }

    fn show(&self, head: &str) {
        if self.count == 0 {
            return;
        }
        let mut table = output::table([head, "reason"]);
        for (what, why) in &self.listed {
            table.add_row([what, why]);
        }
        table.show();
        if self.more() > 0 {
            output::line(format!("and {} more", grouped(self.more())));
        }
    }
}

impl Summary {
    fn add(&mut self, answer: &Answer<String>) {
        self.sent_again += u64::from(answer.course.attempts.saturating_sub(1));
        match &answer.result {
            Ok(outcome) => {
                if outcome.is_final() {
                    self.latencies.push(answer.answered - answer.sent);
                }
                self.add_outcome(outcome);
            }
            Err(error) if error.may_succeed_later() => self.unanswered.add(answer.tag.clone(), error.to_string()),
            Err(error) => self.rejected.add(answer.tag.clone(), error.to_string()),
        }
    }

    fn add_outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Unique(_) => self.unique += 1,
            Outcome::NotComparable(_) => self.not_comparable += 1,
            Outcome::Withdrawn(_) => self.withdrawn += 1,
            Outcome::Inconclusive { .. } | Outcome::StillStaged { .. } => self.inconclusive += 1,
            Outcome::PossibleDuplicate(enrolment) => {
                self.possible_duplicate += 1;
                self.list_duplicate(enrolment);
            }
        }
    }

    fn list_duplicate(&mut self, enrolment: &Enrolment) {
        let verdict = enrolment.verdict.as_ref();
        let best = verdict.and_then(|verdict| verdict.candidates.first());
        if let (Some(best), true) = (best, self.duplicates.len() < DUPLICATES_SHOWN_MAX) {
            let total = verdict.map_or(0, |verdict| verdict.candidates_total);
            let row = (enrolment.enrolment_id.clone(), best.enrolment_id.clone(), best.margin_micros, total);
            self.duplicates.push(row);
        }
    }

    fn answered(&self) -> u64 {
        let reviewed = self.possible_duplicate + self.not_comparable;
        self.unique + reviewed + self.withdrawn + self.inconclusive + self.rejected.count
    }

    fn exit(&self) -> Exit {
        if self.rejected.count > 0 {
            Exit::Failed
        } else if self.unanswered.count > 0 {
            Exit::Unavailable
        } else if self.inconclusive > 0 {
            Exit::Inconclusive
        } else if self.possible_duplicate + self.not_comparable > 0 {
            Exit::PossibleDuplicate
        } else {
            Exit::Done
        }
    }
}

/// Runs `semel enrol`.
pub(crate) async fn run(arguments: EnrolArguments) -> anyhow::Result<Exit> {
    let mut count = Some(0);
    let mut sources = Vec::new();
    for file in &arguments.files {
        let records = arguments.form.open(file)?;
        count = count.zip(records.count).map(|(sum, more): (u64, u64)| sum.saturating_add(more));
        sources.push(records);
    }
    let (requests, receiver) = mpsc::channel(READ_AHEAD);
    let (gallery, wait_ms) = (arguments.gallery.clone(), arguments.wait_ms);
    let reading = tokio::task::spawn_blocking(move || read(sources, &gallery, wait_ms, &requests));

    let mut summary = Summary::default();
    let mut progress = Progress::start(&format!("enrolling into {}", arguments.gallery), count);
    let settings = Settings {
        deadline: Duration::from_secs(arguments.deadline_s.into()),
        unreachable_after: UNREACHABLE_AFTER,
        ..Settings::default()
    };
    let client = arguments.client.client_with(settings)?;
    let output = arguments.client.output;
    let started = Instant::now();
    let requests = ReceiverStream::new(receiver).map(|request: EnrolRequest| (request.enrolment_id.clone(), request));
    let mut answers = Box::pin(client.enrol_all(requests, arguments.in_flight as usize));
    while let Some(answer) = answers.next().await {
        if let Err(error @ CallError::Unreachable { .. }) = answer.result {
            progress.finish();
            let next = "run the same command again to go on: what is enrolled already is answered from the record";
            let context = format!("{} answered; {next}", grouped(summary.answered()));
            return Err(anyhow::Error::from(error).context(context));
        }
        if output == Output::Json {
            output::raw(answer_document(&answer));
        }
        summary.add(&answer);
        progress.advance(|| format!("{} possible duplicates", summary.possible_duplicate));
    }
    drop(answers);
    let elapsed = started.elapsed();
    progress.finish();
    for bad in reading.await? {
        summary.rejected.add(format!("{}:{}", bad.file.display(), bad.line), bad.reason);
    }
    show(&mut summary, &arguments.gallery, elapsed, output)?;
    Ok(summary.exit())
}

/// Sends each record of the files on; returns those that could not be read.
fn read(sources: Vec<Records>, gallery: &str, wait_ms: u32, requests: &mpsc::Sender<EnrolRequest>) -> Vec<BadRecord> {
    let mut bad = Vec::new();
    for record in sources.into_iter().flatten() {
        match record {
            Ok(record) => {
                // Nobody receives once the cluster is unreachable: then there is nothing more to read.
                if requests.blocking_send(record.into_request(gallery, wait_ms)).is_err() {
                    break;
                }
            }
            Err(error) => bad.push(error),
        }
    }
    bad
}

fn answer_document(answer: &Answer<String>) -> serde_json::Value {
    let outcome = match &answer.result {
        Ok(outcome) => outcome,
        Err(error) => {
            return json!({
                "enrolment_id": answer.tag,
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
        document["enrolment_id"] = json!(answer.tag);
        document["state"] = json!(names::enrolment_state(outcome.enrolment().state()));
    }
    document["attempts"] = json!(answer.course.attempts);
    document
}

fn show(summary: &mut Summary, gallery: &str, elapsed: Duration, output: Output) -> anyhow::Result<()> {
    summary.latencies.sort_unstable();
    let latency = |share: f64| output::quantile(&summary.latencies, share).as_millis();
    let settled = summary.latencies.len() as f64;
    let rate = settled / elapsed.as_secs_f64().max(1e-9);
    if output == Output::Json {
        return output::json(&json!({ "summary": {
            "unique": summary.unique,
            "possible_duplicate": summary.possible_duplicate,
            "not_comparable": summary.not_comparable,
            "withdrawn": summary.withdrawn,
            "inconclusive": summary.inconclusive,
            "rejected": summary.rejected.count,
            "rejections": summary.rejected.document(),
            "not_answered": summary.unanswered.count,
            "not_answered_list": summary.unanswered.document(),
            "sent_again": summary.sent_again,
            "seconds": elapsed.as_secs_f64(),
            "enrolments_per_second": rate,
            "latency_p50_ms": latency(0.5),
            "latency_p99_ms": latency(0.99),
        }}));
    }
    summary.rejected.show("rejected");
    summary.unanswered.show("not answered");
    if !summary.duplicates.is_empty() {
        let mut table = output::table(["possible duplicate", "of", "above the threshold by", "candidates"]);
        for (enrolment, best, margin, total) in &summary.duplicates {
            table.add_row([enrolment.clone(), best.clone(), output::score(*margin), total.to_string()]);
        }
        table.show();
    }
    let mut table = output::table(["outcome", "enrolments"]);
    for (outcome, count) in [
        ("unique", summary.unique),
        ("possible duplicate: somebody must look", summary.possible_duplicate),
        ("not comparable: somebody must look", summary.not_comparable),
        ("withdrawn before", summary.withdrawn),
        ("no verdict yet: the cluster finishes it", summary.inconclusive),
        ("not answered: send again", summary.unanswered.count),
        ("rejected", summary.rejected.count),
    ] {
        if count > 0 || outcome == "unique" {
            table.add_row([outcome.to_owned(), grouped(count)]);
        }
    }
    table.show();
    output::line(format!(
        "{:.1} s, {rate:.0} enrolments/s; answers after p50 {} ms, p99 {} ms; sent again {}",
        elapsed.as_secs_f64(),
        latency(0.5),
        latency(0.99),
        grouped(summary.sent_again),
    ));
    if summary.possible_duplicate > 0 {
        output::line(format!("next: semel cases --gallery {gallery}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use semel_client::Course;
    use tonic::Code;

    use super::*;

    fn check(results: Vec<Result<Outcome, CallError>>, expected: Exit) {
        let mut summary = Summary::default();
        for result in results {
            let now = Instant::now();
            let course = Course { attempts: 1, ..Course::default() };
            summary.add(&Answer { tag: "a".to_owned(), result, sent: now, answered: now, course });
        }
        assert_eq!(summary.exit(), expected);
    }

    #[test]
    fn the_exit_code_tells_the_worst_that_happened() {
        use Outcome::{Inconclusive, NotComparable, PossibleDuplicate, Unique, Withdrawn};
        let record = Enrolment::default;
        let refused = || Err(CallError::Refused { code: Code::NotFound, message: "gallery".to_owned() });
        let inconclusive = || Ok(Inconclusive { enrolment: record(), missing_shards: vec![1] });
        let staged = || Ok(Outcome::StillStaged { enrolment: record(), waits_for: String::new() });
        let after = Duration::from_secs(1);
        let unanswered =
            || Err(CallError::Unanswered { code: Code::Unavailable, message: "busy".to_owned(), attempts: 2, after });
        check(vec![], Exit::Done);
        check(vec![Ok(Unique(record())), Ok(Withdrawn(record()))], Exit::Done);
        check(vec![Ok(Unique(record())), Ok(PossibleDuplicate(record()))], Exit::PossibleDuplicate);
        check(vec![Ok(NotComparable(record()))], Exit::PossibleDuplicate);
        check(vec![Ok(PossibleDuplicate(record())), inconclusive()], Exit::Inconclusive);
        check(vec![staged()], Exit::Inconclusive);
        check(vec![Ok(PossibleDuplicate(record())), inconclusive(), refused()], Exit::Failed);
        check(vec![Ok(PossibleDuplicate(record())), inconclusive(), unanswered()], Exit::Unavailable);
        check(vec![unanswered(), refused()], Exit::Failed);
    }

    #[test]
    fn what_is_not_listed_is_counted() {
        let mut failures = Failures::default();
        for number in 0..LISTED_MAX + 3 {
            failures.add(number.to_string(), "no such gallery".to_owned());
        }
        assert_eq!((failures.listed.len(), failures.more()), (LISTED_MAX, 3));
    }
}
