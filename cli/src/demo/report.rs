//! The report of the demonstration: figures in sections, and checks that hold or not.

use std::fmt::Display;
use std::time::{Duration, Instant};

use semel_population::EnrolmentRates;
use semel_proto::v1::{EnrolmentState, GetClusterStatusResponse};
use serde_json::{Map, Value, json};

use super::aftermath::Cases;
use super::enrolling::{Enrolled, Recorded, Seen};
use super::exact::{Differences, Exact};
use super::interruption::Interruption;
use super::sets::{Set, Step};
use crate::output::{self, Output, grouped, quantile};

/// A heading with labelled values.
struct Section {
    title: String,
    note: String,
    rows: Vec<(&'static str, String)>,
}

/// Something that must hold.
struct Check {
    holds: bool,
    what: String,
}

/// The whole report.
pub(super) struct Report {
    sections: Vec<Section>,
    checks: Vec<Check>,
}

/// Everything known about one set.
pub(super) struct Findings<'a> {
    pub(super) set: &'a Set,
    pub(super) enrolled: &'a Enrolled,
    pub(super) exact: &'a Exact,
    pub(super) cases: Cases,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { sections: Vec::new(), checks: Vec::new() }
    }

    /// Whether every check holds.
    pub(super) fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    fn check(&mut self, holds: bool, what: impl Into<String>) {
        self.checks.push(Check { holds, what: what.into() });
    }

    /// Adds what is known about a set.
    pub(super) fn add_set(&mut self, findings: &Findings<'_>) {
        let Findings { set, enrolled, exact, cases } = findings;
        let flagged = enrolled.flagged();
        let rates = EnrolmentRates::count(&set.truth, flagged.iter().copied());
        let recorded: Vec<&Recorded> = enrolled.recorded().map(|(_, recorded)| recorded).collect();
        let count = |state| recorded.iter().filter(|recorded| recorded.state == state).count() as u64;
        let covered = recorded.iter().filter(|recorded| recorded.covered).count();
        let uncompared: u64 =
            recorded.iter().map(|recorded| recorded.live - recorded.compared.min(recorded.live)).sum();
        let seconds = (enrolled.ended - enrolled.started).as_secs_f64();
        let latencies = enrolled.latencies();
        let mut rows = vec![
            (
                "enrolled",
                format!(
                    "{}: {} unique, {} possible duplicates, {} not comparable",
                    grouped(recorded.len() as u64),
                    grouped(count(EnrolmentState::Unique)),
                    grouped(count(EnrolmentState::PossibleDuplicate)),
                    grouped(count(EnrolmentState::NotComparable)),
                ),
            ),
            (
                "duplicates found",
                format!("{} of {}", grouped(rates.missed.of - rates.missed.count), grouped(rates.missed.of)),
            ),
            ("missed: FNIR", beside(rates.missed, exact.rates.missed)),
            ("false: FPIR", beside(rates.false_alarms, exact.rates.false_alarms)),
        ];
        if rates.twins_flagged.of > 0 || exact.rates.sibling_pairs > 0 {
            let twins = format!(
                "{}; pairs flagged {}",
                beside(rates.twins_flagged, exact.rates.twins_flagged),
                rates.twin_pairs
            );
            rows.push(("twins, apart", twins));
            rows.push((
                "siblings",
                format!("pairs flagged {} (exact {})", rates.sibling_pairs, exact.rates.sibling_pairs),
            ));
        }
        rows.push((
            "pairs flagged",
            format!("{} (exact {})", grouped(flagged.len() as u64), grouped(exact.pairs as u64)),
        ));
        if let Some(together) = together(set, &flagged) {
            rows.push(("at the same moment", together));
        }
        rows.push((
            "coverage",
            format!(
                "{} of {} verdicts searched every shard; enrolments left uncompared: {uncompared}",
                grouped(covered as u64),
                grouped(recorded.len() as u64)
            ),
        ));
        rows.push((
            "cases",
            format!(
                "{} for {} flagged pairs: {} missing, {} repeated, {} unfounded; cluster cases {} for {} saturated verdicts",
                grouped(cases.open as u64),
                grouped(flagged.len() as u64),
                cases.missing,
                cases.repeated,
                cases.unfounded,
                cases.cluster,
                saturated(enrolled),
            ),
        ));
        rows.push((
            "speed",
            format!(
                "{:.0} enrolments/s over {seconds:.1} s; answer after p50 {}, p99 {}, slowest {}",
                enrolled.seen.len() as f64 / seconds.max(1e-9),
                ms(quantile(&latencies, 0.5)),
                ms(quantile(&latencies, 0.99)),
                ms(quantile(&latencies, 1.0)),
            ),
        ));
        let title = format!("{}  (threshold {})", set.gallery, set.threshold);
        self.sections.push(Section { title, note: set.about.clone(), rows });
        self.check_set(findings, exact.differences(&flagged), covered, recorded.len());
    }

    fn check_set(&mut self, findings: &Findings<'_>, differences: Differences, covered: usize, recorded: usize) {
        let Findings { set, enrolled, cases, .. } = findings;
        let gallery = set.gallery;
        let settled = enrolled.seen.iter().filter(|seen| {
            matches!(&seen.recorded, Ok(recorded) if recorded.state != EnrolmentState::Staged && recorded.strangers == 0)
        });
        let settled = settled.count();
        let mut what = format!("{gallery}: every enrolment has its verdict ({settled} of {})", set.len());
        if let Some(reason) = enrolled.seen.iter().find_map(|seen| seen.recorded.as_ref().err()) {
            what.push_str(&format!("; first without: {reason}"));
        }
        self.check(settled == set.len(), what);
        self.check(covered == recorded, format!("{gallery}: every verdict searched every shard"));
        let Differences { missing, extra } = differences;
        self.check(
            (missing, extra) == (0, 0),
            format!(
                "{gallery}: flagged pairs are the exact oracle's, rounding aside ({missing} missing, {extra} extra)"
            ),
        );
        let cluster = cases.cluster == saturated(enrolled);
        self.check(
            cases.one_per_pair() && cluster,
            format!("{gallery}: exactly one case per flagged pair, none missing"),
        );
    }

    /// Adds what the death of a node did to a set's enrolments.
    pub(super) fn add_interruption(&mut self, interruption: &Interruption, enrolled: &Enrolled) {
        let Interruption { node, killed, answered_before, led, shards, restarted, caught_up } = *interruption;
        let concerned: Vec<&Seen> =
            enrolled.seen.iter().filter(|seen| seen.answered >= killed && seen.sent <= caught_up).collect();
        let sum = |field: fn(&Seen) -> u32| concerned.iter().map(|seen| u64::from(field(seen))).sum::<u64>();
        let slowest = concerned.iter().map(|seen| seen.answered - seen.sent).max().unwrap_or_default();
        let rate = |from: Instant, to: Instant| {
            let answers = enrolled.seen.iter().filter(|seen| (from..to).contains(&seen.answered)).count();
            let seconds = to.saturating_duration_since(from).as_secs_f64();
            if seconds > 0.0 { format!("{:.0}/s", answers as f64 / seconds) } else { "none left".to_owned() }
        };
        let back = restarted.min(enrolled.ended);
        let rows = vec![
            (
                "killed",
                format!(
                    "node {node} with SIGKILL after {} answers; it led {led} of {shards} shards",
                    grouped(answered_before as u64)
                ),
            ),
            ("dead for", seconds(restarted - killed)),
            (
                "answers",
                format!(
                    "{} errors, {} not settled in time, sent again {}; given up {}",
                    sum(|seen| seen.errors),
                    sum(|seen| seen.inconclusive),
                    sum(|seen| seen.attempts - 1),
                    concerned.iter().filter(|seen| seen.recorded.is_err()).count(),
                ),
            ),
            ("slowest answer", ms(slowest)),
            ("longest silence", ms(longest_silence(enrolled, killed, caught_up))),
            (
                "enrolments/s",
                format!(
                    "before {}, while dead {}, after {}",
                    rate(enrolled.started, killed),
                    rate(killed, back),
                    rate(back, enrolled.ended)
                ),
            ),
            ("caught up", format!("{} after its start", seconds(caught_up - restarted))),
        ];
        self.sections.push(Section { title: "the killed node".to_owned(), note: String::new(), rows });
        let meanwhile = enrolled.seen.iter().filter(|seen| (killed..back).contains(&seen.answered)).count();
        self.check(meanwhile > 0, format!("enrolments went on while a node of three was dead ({meanwhile} answers)"));
    }

    /// Adds what the cluster holds at the end.
    pub(super) fn add_end(&mut self, status: &GetClusterStatusResponse, elapsed: Duration) {
        let replicas: usize = status.shards.iter().map(|shard| shard.replicas.len()).sum();
        let sealed: u64 = status.shards.iter().flat_map(|shard| &shard.replicas).map(|r| r.references_sealed).sum();
        let rows = vec![
            (
                "cluster",
                format!(
                    "{} nodes, {} coordinator, {} shards of {} replicas; references in sealed segments {}",
                    status.nodes.len(),
                    status.coordinators.len(),
                    status.shards.len(),
                    status.replicas_per_shard,
                    grouped(sealed),
                ),
            ),
            ("took", seconds(elapsed)),
        ];
        self.sections.push(Section { title: "in all".to_owned(), note: String::new(), rows });
        // Waiting for rest has succeeded, and it asks for equal digests.
        let shards = status.shards.len();
        self.check(shards > 0, format!("all {replicas} replicas of {shards} shards hold the same state"));
    }

    /// Writes the report to standard output.
    pub(super) fn show(&self, output: Output) -> anyhow::Result<()> {
        if output == Output::Json {
            let sections: Map<String, Value> = self
                .sections
                .iter()
                .map(|section| {
                    let rows: Map<String, Value> =
                        section.rows.iter().map(|(label, value)| ((*label).to_owned(), json!(value))).collect();
                    (section.title.clone(), Value::Object(rows))
                })
                .collect();
            let checks: Vec<_> = self.checks.iter().map(|c| json!({ "holds": c.holds, "what": c.what })).collect();
            return output::json(&json!({ "sections": sections, "checks": checks }));
        }
        for section in &self.sections {
            output::line(format!("\n{}", section.title));
            if !section.note.is_empty() {
                output::line(format!("  {}", section.note));
            }
            for (label, value) in &section.rows {
                output::line(format!("  {label:<19} {value}"));
            }
        }
        output::line("\nchecks");
        for check in &self.checks {
            output::line(format!("  {:<4} {}", if check.holds { "ok" } else { "FAIL" }, check.what));
        }
        output::line(
            "\nIntervals are 95 % (Clopper-Pearson); exact = every pair compared one by one. Figures on synthetic people are about the \
             index and the cluster;\nthey say nothing about biometric accuracy. Voices: few speakers, one encoder, studio recordings.",
        );
        Ok(())
    }
}

/// Verdicts with more candidates than a list holds.
fn saturated(enrolled: &Enrolled) -> usize {
    enrolled.recorded().filter(|(_, recorded)| recorded.saturated).count()
}

/// A figure beside the oracle's.
fn beside(of_cluster: impl Display + PartialEq, exact: impl Display) -> String {
    format!("{of_cluster}; exact: {exact}")
}

/// What became of the pairs that two clients sent at the same moment.
fn together(
    set: &Set,
    flagged: &std::collections::HashSet<(semel_population::Row, semel_population::Row)>,
) -> Option<String> {
    let pairs: Vec<_> = set
        .steps
        .iter()
        .filter_map(|step| match *step {
            Step::Together(one, other) => Some((one.min(other), one.max(other))),
            Step::Single(_) => None,
        })
        .collect();
    let found = pairs.iter().filter(|pair| flagged.contains(pair)).count();
    (!pairs.is_empty()).then(|| format!("{found} of {} pairs sent by two clients at once were flagged", pairs.len()))
}

/// The longest time without any answer between two moments.
fn longest_silence(enrolled: &Enrolled, from: Instant, to: Instant) -> Duration {
    let mut moments = vec![from];
    moments.extend(enrolled.seen.iter().map(|seen| seen.answered).filter(|at| (from..to).contains(at)));
    moments.push(to.min(enrolled.ended).max(from));
    moments.sort_unstable();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

fn ms(duration: Duration) -> String {
    format!("{} ms", grouped(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
