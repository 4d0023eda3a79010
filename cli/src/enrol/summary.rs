//! What became of everything, in a few numbers and short lists, however much it was.

use std::time::Duration;

use semel_client::{Answer, CallError, Outcome};
use semel_proto::v1::Enrolment;
use serde_json::json;

use super::tracker::Reject;
use crate::exit::Exit;
use crate::output::{self, Output, grouped};

/// Rejected and unanswered records, each, that are kept with their reasons; more are counted.
const LISTED_MAX: usize = 1_000;
/// Possible duplicates shown in the summary; `semel cases` lists all.
const DUPLICATES_SHOWN_MAX: usize = 20;

/// What became of everything.
#[derive(Default)]
pub(crate) struct Summary {
    /// Records that runs before had done.
    done_before: u64,
    unique: u64,
    pub(crate) possible_duplicate: u64,
    not_comparable: u64,
    withdrawn: u64,
    inconclusive: u64,
    rejected: Failures,
    /// Those that the cluster gave no answer to within their deadline.
    unanswered: Failures,
    sent_again: u64,
    /// (enrolment, best candidate, its margin in millionths, candidates in all) of the first possible duplicates.
    duplicates: Vec<(String, String, i32, u64)>,
    latencies: Latencies,
    /// Where the rejected are listed instead.
    rejects_file: Option<String>,
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

/// Bits of a latency that its class keeps: classes are a sixteenth of their value wide.
const CLASS_BITS: u32 = 4;

/// How many answers took how long, in classes.
#[derive(Default)]
struct Latencies {
    /// By the power of two and the bits below it, in microseconds.
    classes: std::collections::BTreeMap<(u32, u64), u64>,
    count: u64,
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        let shift = micros.ilog2().saturating_sub(CLASS_BITS);
        *self.classes.entry((shift, micros >> shift)).or_default() += 1;
        self.count += 1;
    }

    /// The upper end of the class below which this share of the answers lies, in milliseconds; zero of none.
    fn quantile_ms(&self, share: f64) -> u64 {
        let wanted = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for ((shift, leading), count) in &self.classes {
            seen += count;
            if seen >= wanted {
                return (((leading + 1) << shift) - 1) / 1_000;
            }
        }
        0
    }
}

impl Summary {
    /// Nothing yet, beside what runs before had done; the rejected are listed in a file, if one is named.
    pub(crate) fn new(done_before: u64, rejects_file: Option<String>) -> Self {
        Self { done_before, rejects_file, ..Self::default() }
    }

    /// Adds an answer about the record that `what` names.
    pub(crate) fn add<T>(&mut self, what: &str, answer: &Answer<T>) {
        self.sent_again += u64::from(answer.course.attempts.saturating_sub(1));
        match &answer.result {
            Ok(outcome) => {
                if outcome.is_final() {
                    self.latencies.add(answer.answered - answer.sent);
                }
                self.add_outcome(outcome);
            }
            Err(error @ CallError::Refused { .. }) => self.rejected.add(what.to_owned(), error.to_string()),
            Err(error @ (CallError::Unanswered { .. } | CallError::Unreachable { .. })) => {
                self.unanswered.add(what.to_owned(), error.to_string());
            }
        }
    }

    /// Adds a record that could not be read.
    pub(crate) fn add_bad(&mut self, bad: &Reject) {
        self.rejected.add(format!("{}:{}", bad.file, bad.row), bad.reason.clone());
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

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.count
    }

    pub(crate) fn exit(&self) -> Exit {
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

    pub(crate) fn show(&self, gallery: &str, elapsed: Duration, output: Output) -> anyhow::Result<()> {
        let rate = self.latencies.count as f64 / elapsed.as_secs_f64().max(1e-9);
        match output {
            Output::Json => self.show_json(elapsed, rate),
            Output::Table => {
                self.show_tables(gallery, elapsed, rate);
                Ok(())
            }
        }
    }

    fn show_json(&self, elapsed: Duration, rate: f64) -> anyhow::Result<()> {
        output::json(&json!({ "summary": {
            "done_before": self.done_before,
            "unique": self.unique,
            "possible_duplicate": self.possible_duplicate,
            "not_comparable": self.not_comparable,
            "withdrawn": self.withdrawn,
            "inconclusive": self.inconclusive,
            "rejected": self.rejected.count,
            "rejections": self.rejected.document(),
            "not_answered": self.unanswered.count,
            "not_answered_list": self.unanswered.document(),
            "sent_again": self.sent_again,
            "seconds": elapsed.as_secs_f64(),
            "enrolments_per_second": rate,
            "latency_p50_ms": self.latencies.quantile_ms(0.5),
            "latency_p99_ms": self.latencies.quantile_ms(0.99),
        }}))
    }

    fn show_tables(&self, gallery: &str, elapsed: Duration, rate: f64) {
        match &self.rejects_file {
            Some(file) if self.rejected.count > 0 => {
                output::line(format!("the rejected are listed in {}", output::escaped(file)));
            }
            Some(_) => {}
            None => self.rejected.show("rejected"),
        }
        self.unanswered.show("not answered");
        if !self.duplicates.is_empty() {
            let mut table = output::table(["possible duplicate", "of", "above the threshold by", "candidates"]);
            for (enrolment, best, margin, total) in &self.duplicates {
                table.add_row([enrolment.clone(), best.clone(), output::score(*margin), total.to_string()]);
            }
            table.show();
        }
        let mut table = output::table(["outcome", "enrolments"]);
        for (outcome, count) in [
            ("done by runs before", self.done_before),
            ("unique", self.unique),
            ("possible duplicate: somebody must look", self.possible_duplicate),
            ("not comparable: somebody must look", self.not_comparable),
            ("withdrawn before", self.withdrawn),
            ("no verdict yet: the cluster finishes it", self.inconclusive),
            ("not answered: send again", self.unanswered.count),
            ("rejected", self.rejected.count),
        ] {
            if count > 0 || outcome == "unique" {
                table.add_row([outcome.to_owned(), grouped(count)]);
            }
        }
        table.show();
        output::line(format!(
            "{:.1} s, {rate:.0} enrolments/s; answers after p50 {} ms, p99 {} ms; sent again {}",
            elapsed.as_secs_f64(),
            self.latencies.quantile_ms(0.5),
            self.latencies.quantile_ms(0.99),
            grouped(self.sent_again),
        ));
        if self.possible_duplicate > 0 {
            output::line(format!("next: semel cases --gallery {gallery}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use semel_client::Course;
    use tonic::Code;

    use super::*;

    fn check(results: Vec<Result<Outcome, CallError>>, expected: Exit) {
        let mut summary = Summary::default();
        for result in results {
            let now = Instant::now();
            let course = Course { attempts: 1, ..Course::default() };
            summary.add("a", &Answer { tag: (), result, sent: now, answered: now, course });
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

    #[test]
    fn latencies_are_told_within_a_sixteenth() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), 0);
        for ms in 1..=1_000 {
            latencies.add(Duration::from_millis(ms));
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let told = latencies.quantile_ms(share) as f64;
            assert!(told >= exact * 0.999 && told <= exact * (1.0 + 1.0 / 16.0), "{share}: {told}");
        }
        latencies.add(Duration::MAX);
    }
}
