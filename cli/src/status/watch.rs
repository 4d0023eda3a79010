//! `semel status --watch`: the live view. It goes on while servers die: it asks every coordinator it knows and shows what one of
//! them says.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use console::Term;
use futures::future::join_all;
use semel_client::{CallError, Client, InvalidAddress, Settings};
use semel_proto::v1::{GetClusterStatusResponse, ReplicaRole, ShardStatus};
use serde_json::json;

use super::rates::{History, Rates};
use super::{add_galleries, add_nodes, add_shards, headline, leader, mebibytes, short, yes};
use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{Exit, UsageError};
use crate::output::{self, Output, Page, grouped};
use crate::serve::stop_signal;

/// How long a coordinator may take to answer one look.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Coordinators that are asked at most: those named, then those that a cluster names.
const COORDINATORS_MAX: usize = 16;
/// Shards that are listed unless all are asked for; those in trouble come first.
const SHARDS_SHOWN: usize = 12;

/// Looks until Ctrl-C.
pub(super) async fn run(client: ClientArguments, every: Duration, shards: bool) -> anyhow::Result<Exit> {
    let mut coordinators = Coordinators::default();
    for address in &client.address {
        coordinators.add(address).map_err(|error| UsageError(format!("--address: {error}")))?;
    }
    let mut view = View::new(client.output, shards, every);
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let watching = async {
        loop {
            looks.tick().await;
            view.take(coordinators.ask().await)?;
        }
    };
    tokio::select! {
        ended = watching => ended,
        () = stop_signal() => Ok(Exit::Done),
    }
}

/// The coordinators that are asked, in order of preference. A client for each: who answers is part of what is shown.
#[derive(Default)]
struct Coordinators {
    known: Vec<(String, Client)>,
    /// The one that answered last: its counts are comparable with its own.
    preferred: Option<String>,
}

/// What one look found.
struct Look {
    /// Who answered, and what; `None` if nobody did.
    status: Option<(String, GetClusterStatusResponse)>,
    /// Every coordinator asked: nothing if it answered, or why not.
    asked: BTreeMap<String, Option<String>>,
}

impl Coordinators {
    fn add(&mut self, address: &str) -> Result<(), InvalidAddress> {
        let known = self.known.iter().any(|(known, _)| known == address);
        if !known && self.known.len() < COORDINATORS_MAX {
            let patience =
                Settings { deadline: ANSWER_WITHIN, unreachable_after: Duration::ZERO, ..Settings::default() };
            self.known.push((address.to_owned(), Client::new([address], patience)?));
        }
        Ok(())
    }

    /// Asks all of them at once. The answer shown is of the one that answered last time, else of the first that did now.
    async fn ask(&mut self) -> Look {
        let asking = self.known.iter().map(|(address, client)| async move {
            let reason = |error| match error {
                CallError::Refused { message, .. } | CallError::Unanswered { message, .. } => message,
                // There is one, and its address is told anyway.
                CallError::Unreachable { .. } => "cannot be reached".to_owned(),
            };
            (address.clone(), client.status().await.map_err(reason))
        });
        let answers = join_all(asking).await;
        let outcome =
            |(address, answer): &(String, Result<_, String>)| (address.clone(), answer.as_ref().err().cloned());
        let asked = answers.iter().map(outcome).collect();
        let mut answered: Vec<_> =
            answers.into_iter().filter_map(|(address, answer)| Some((address, answer.ok()?))).collect();
        let preferred = answered.iter().position(|(address, _)| Some(address) == self.preferred.as_ref());
        let status = (!answered.is_empty()).then(|| answered.swap_remove(preferred.unwrap_or(0)));
        if let Some((address, status)) = &status {
            self.preferred = Some(address.clone());
            for coordinator in &status.coordinators {
                // One with an address that cannot be dialled is one that does not answer.
                let _ = self.add(&coordinator.address);
            }
        }
        Look { status, asked }
    }
}

/// Shows looks as they come.
struct View {
    output: Output,
    all_shards: bool,
    every: Duration,
    begun: Instant,
    screen: Option<Screen>,
    history: History,
    last: Option<(Instant, String, GetClusterStatusResponse)>,
}

impl View {
    fn new(output: Output, all_shards: bool, every: Duration) -> Self {
        let screen = (output == Output::Table).then(Screen::open).flatten();
        Self { output, all_shards, every, begun: Instant::now(), screen, history: History::default(), last: None }
    }

    fn take(&mut self, look: Look) -> anyhow::Result<()> {
        if let Some((address, status)) = look.status {
            self.history.add(self.begun.elapsed(), &status);
            self.last = Some((Instant::now(), address, status));
        }
        let answered = look.asked.values().any(Option::is_none);
        let rates = self.history.rates().filter(|_| answered);
        match (self.output, &mut self.screen) {
            (Output::Json, _) => {
                let status = self.last.as_ref().filter(|_| answered).map(|(_, _, status)| document::status(status));
                let rates = rates.map(
                    |rates| json!({ "staged": rates.staged, "settled": rates.settled, "searches": rates.searches }),
                );
                output::json(&json!({
                    "at_ms": now_ms(), "status": status, "rates_per_second": rates, "coordinators_asked": look.asked,
                }))
            }
            (Output::Table, Some(screen)) => {
                let page = page(self.last.as_ref(), &look.asked, rates, self.all_shards, self.every);
                Ok(screen.draw(&page)?)
            }
            (Output::Table, None) => {
                let status = self.last.as_ref().filter(|_| answered).map(|(_, _, status)| status);
                output::line(format!("{} {}", output::instant(now_ms()), line(status, &look.asked, rates)));
                Ok(())
            }
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// One look on one line.
fn line(
    status: Option<&GetClusterStatusResponse>,
    asked: &BTreeMap<String, Option<String>>,
    rates: Option<Rates>,
) -> String {
    let Some(status) = status else { return nobody_answers(asked) };
    let live = status.nodes.iter().filter(|node| node.live).count();
    let led = status.shards.iter().filter(|shard| leader(shard).is_some()).count();
    let lag = status.shards.iter().map(lag_max).max().unwrap_or(0);
    let answering = asked.values().filter(|reason| reason.is_none()).count();
    format!(
        "{}; {}; nodes {live}/{}; shards led {led}/{}; coordinators {answering}/{}; lag max {}; {}",
        headline(status),
        speed(rates),
        status.nodes.len(),
        status.shards.len(),
        asked.len(),
        grouped(lag),
        backlog(status)
    )
}

fn nobody_answers(asked: &BTreeMap<String, Option<String>>) -> String {
    let reasons = asked.iter().map(|(address, reason)| {
        format!("{}: {}", output::escaped(address), output::escaped(reason.as_deref().unwrap_or("no reason given")))
    });
    format!("no coordinator answers ({})", reasons.collect::<Vec<_>>().join("; "))
}

fn speed(rates: Option<Rates>) -> String {
    match rates {
        Some(Rates { staged, settled, searches }) => {
            format!("staged {staged:.1}/s, settled {settled:.1}/s, searches {searches:.1}/s")
        }
        None => "rates not known yet".to_owned(),
    }
}

fn backlog(status: &GetClusterStatusResponse) -> String {
    let pending = status.shards.iter().map(|shard| shard.pending).sum();
    let obligations = status.shards.iter().map(|shard| shard.obligations).sum();
    format!("staged backlog {}, obligations {}", grouped(pending), grouped(obligations))
}

/// How far the last replica of a shard is behind.
fn lag_max(shard: &ShardStatus) -> u64 {
    shard.replicas.iter().filter(|replica| replica.role() != ReplicaRole::Unspecified).map(|r| r.lag).max().unwrap_or(0)
}

fn page(
    last: Option<&(Instant, String, GetClusterStatusResponse)>,
    asked: &BTreeMap<String, Option<String>>,
    rates: Option<Rates>,
    all_shards: bool,
    every: Duration,
) -> Page {
    let mut page = Page::default();
    let answered = asked.values().any(Option::is_none);
    if !answered {
        page.line(nobody_answers(asked));
    }
    let Some((at, address, status)) = last else { return page };
    page.line(headline(status));
    let age = if answered {
        format!("asked {} at {}", output::escaped(address), output::instant(now_ms()))
    } else {
        format!("as it was {} s ago", at.elapsed().as_secs())
    };
    page.line(format!("{age}, again every {} s, until Ctrl-C", every.as_secs_f64()));
    page.line(format!("{}; {}", speed(rates), backlog(status)));
    let mut table = output::table(["coordinator", "address", "leads", "answers"]);
    for each in &status.coordinators {
        let answers = match asked.get(&each.address) {
            Some(None) => "yes".to_owned(),
            Some(Some(reason)) => format!("no: {reason}"),
            // Heard of just now.
            None => String::new(),
        };
        table.add_row([each.coordinator.to_string(), each.address.clone(), yes(each.leader), answers]);
    }
    page.table(&table);
    add_nodes(&mut page, status);
    add_galleries(&mut page, status);
    if all_shards {
        add_shards(&mut page, status);
    } else {
        add_worst_shards(&mut page, status);
    }
    page
}

/// Shards in trouble first: without a leader, then with replicas that are gone, then by lag.
fn add_worst_shards(page: &mut Page, status: &GetClusterStatusResponse) {
    let gone = |shard: &ShardStatus| {
        let is_gone = |role| matches!(role, ReplicaRole::Unspecified | ReplicaRole::Stopped);
        shard.replicas.iter().filter(|replica| is_gone(replica.role())).count()
    };
    let trouble = |shard: &&ShardStatus| {
        std::cmp::Reverse((leader(shard).is_none(), gone(shard), lag_max(shard), shard.pending + shard.obligations))
    };
    let mut shards: Vec<&ShardStatus> = status.shards.iter().collect();
    shards.sort_by_key(trouble);
    let mut table = output::table([
        "shard",
        "leader",
        "replicas",
        "lag max",
        "references",
        "sealed",
        "catalogue",
        "pending",
        "obligations",
    ]);
    for shard in shards.iter().take(SHARDS_SHOWN) {
        let of_most =
            |value: fn(&semel_proto::v1::ReplicaStatus) -> u64| shard.replicas.iter().map(value).max().unwrap_or(0);
        table.add_row([
            shard.shard.to_string(),
            leader(shard).map_or("none", |replica| short(&replica.node_id)).to_owned(),
            format!("{}/{}", shard.replicas.len() - gone(shard), shard.replicas.len()),
            grouped(lag_max(shard)),
            grouped(of_most(|replica| replica.references)),
            grouped(of_most(|replica| replica.references_sealed)),
            mebibytes(of_most(|replica| replica.catalogue_bytes)),
            grouped(shard.pending),
            grouped(shard.obligations),
        ]);
    }
    page.table(&table);
    if shards.len() > SHARDS_SHOWN {
        page.line(format!("and {} more shards in no worse state; --shards lists all", shards.len() - SHARDS_SHOWN));
    }
}

/// A terminal that is drawn on again and again. Its cursor comes back when this is dropped.
struct Screen(Term);

impl Screen {
    /// `None` where standard output is no terminal.
    fn open() -> Option<Self> {
        let term = Term::stdout();
        // A terminal that cannot hide its cursor shows it.
        term.is_term().then(|| drop((term.hide_cursor(), term.clear_screen()))).map(|()| Self(term))
    }

    /// Draws over what is there, as much as fits.
    fn draw(&mut self, page: &Page) -> std::io::Result<()> {
        let (rows, _) = self.0.size();
        let lines: Vec<&str> = page.lines().take(usize::from(rows).saturating_sub(1)).collect();
        self.0.move_cursor_to(0, 0)?;
        for line in lines {
            self.0.clear_line()?;
            writeln!(self.0, "{line}")?;
        }
        self.0.clear_to_end_of_screen()?;
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = self.0.show_cursor();
    }
}

#[cfg(test)]
mod tests {
    use semel_proto::v1::{CoordinatorStatus, NodeStatus, ReplicaStatus};

    use super::*;

    fn shard(number: u32, role: ReplicaRole, lag: u64) -> ShardStatus {
        let replica = ReplicaStatus { role: role.into(), lag, ..Default::default() };
        ShardStatus { shard: number, replicas: vec![replica], pending: 2, obligations: 1, ..Default::default() }
    }

    fn status() -> GetClusterStatusResponse {
        let coordinator = |number| {
            let (address, leader) = (format!("c{number}:1"), number == 2);
            CoordinatorStatus { coordinator: number, address, leader, ..Default::default() }
        };
        let mut shards: Vec<_> = (0..20).map(|number| shard(number, ReplicaRole::Leader, 0)).collect();
        shards[17] = shard(17, ReplicaRole::Candidate, 5);
        shards[9] = shard(9, ReplicaRole::Leader, 1_234);
        GetClusterStatusResponse {
            cluster_id: "0123456789".to_owned(),
            coordinators: vec![coordinator(1), coordinator(2)],
            nodes: vec![NodeStatus { live: true, ..Default::default() }, NodeStatus::default()],
            shards,
            ..Default::default()
        }
    }

    fn asked(reasons: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
        reasons.iter().map(|(address, reason)| ((*address).to_owned(), reason.map(str::to_owned))).collect()
    }

    #[test]
    fn a_look_fits_a_line() {
        let asked = asked(&[("c1:1", Some("refused")), ("c2:1", None)]);
        let rates = Some(Rates { staged: 12.34, settled: 10.0, searches: 9.96 });
        assert_eq!(
            line(Some(&status()), &asked, rates),
            "cluster 01234567: not ready: 1 of 20 shards have no leader; staged 12.3/s, settled 10.0/s, searches 10.0/s; \
             nodes 1/2; shards led 19/20; coordinators 1/2; lag max 1,234; staged backlog 40, obligations 20"
        );
    }

    #[test]
    fn when_nobody_answers_every_reason_is_told_and_the_last_page_stays() {
        let silent = asked(&[("c1:1", Some("connection refused")), ("c2:1", Some("no answer in time"))]);
        let told = "no coordinator answers (c1:1: connection refused; c2:1: no answer in time)";
        assert_eq!(line(None, &silent, None), told);
        let last = (Instant::now(), "c1:1".to_owned(), status());
        let page = page(Some(&last), &silent, None, false, Duration::from_secs(2));
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[0], told);
        assert!(lines[2].starts_with("as it was 0 s ago"), "{}", lines[2]);
    }

    #[test]
    fn shards_in_trouble_come_first_and_the_rest_is_counted() {
        let mut page = Page::default();
        add_worst_shards(&mut page, &status());
        let lines: Vec<&str> = page.lines().collect();
        let place = |number: &str| lines.iter().position(|line| line.starts_with(&format!("│ {number} ")));
        assert!(place("17").expect("listed") < place("9").expect("listed"), "{lines:#?}");
        assert_eq!(lines.last(), Some(&"and 8 more shards in no worse state; --shards lists all"));
    }
}
