//! Two clients that enrol a set between them, and what they saw.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use semel_client::{Answer, Client, Outcome};
use semel_population::Row;
use semel_proto::v1::{EnrolRequest, Enrolment, EnrolmentState};
use tokio::sync::{Barrier, watch};

use super::sets::{Set, Step};
use crate::output::Progress;

/// Candidates of a saturated verdict that get a case each; one cluster case stands for all of them.
const SATURATED_CASES: usize = 16;

/// One enrolment as its client saw it.
pub(super) struct Seen {
    pub(super) row: Row,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
    pub(super) attempts: u32,
    pub(super) inconclusive: u32,
    pub(super) errors: u32,
    /// What was recorded; the reason in words, if nothing was.
    pub(super) recorded: Result<Recorded, String>,
}

/// A recorded verdict, as far as the report needs it.
pub(super) struct Recorded {
    pub(super) state: EnrolmentState,
    pub(super) candidates: Vec<Row>,
    /// Candidates that are of no row of the set; never, unless something is badly wrong.
    pub(super) strangers: usize,
    pub(super) saturated: bool,
    /// Whether the coverage names every shard once.
    pub(super) covered: bool,
    pub(super) live: u64,
    pub(super) compared: u64,
}

/// Everything that the two clients saw, in the order of the answers.
pub(super) struct Enrolled {
    pub(super) seen: Vec<Seen>,
    pub(super) started: Instant,
    pub(super) ended: Instant,
}

impl Enrolled {
    /// Every recorded verdict.
    pub(super) fn recorded(&self) -> impl Iterator<Item = (Row, &Recorded)> {
        self.seen.iter().filter_map(|seen| Some((seen.row, seen.recorded.as_ref().ok()?)))
    }

    /// Every pair that a verdict named, earlier row first.
    pub(super) fn flagged(&self) -> HashSet<(Row, Row)> {
        self.pairs(|recorded| recorded.candidates.len())
    }

    /// Every pair that must have a case, earlier row first.
    pub(super) fn reviewed(&self) -> HashSet<(Row, Row)> {
        self.pairs(|recorded| if recorded.saturated { SATURATED_CASES } else { recorded.candidates.len() })
    }

    fn pairs(&self, candidates: fn(&Recorded) -> usize) -> HashSet<(Row, Row)> {
        let pairs = self.recorded().flat_map(|(row, recorded)| {
            let named = recorded.candidates.iter().take(candidates(recorded));
            named.map(move |other| (row.min(*other), row.max(*other)))
        });
        pairs.collect()
    }

    /// Time from the first sending to the final answer, sorted.
    pub(super) fn latencies(&self) -> Vec<Duration> {
        let mut latencies: Vec<_> = self.seen.iter().map(|seen| seen.answered - seen.sent).collect();
        latencies.sort_unstable();
        latencies
    }
}

/// Enrols the set with two clients of `in_flight` each; `answers` counts as they come.
pub(super) async fn enrol(
    set: &Set,
    client: &Client,
    shards: u32,
    in_flight: usize,
    answers: &watch::Sender<usize>,
    progress: &RefCell<Progress>,
) -> anyhow::Result<Enrolled> {
    let seen = RefCell::new(Vec::with_capacity(set.len()));
    let flagged = RefCell::new(0_u64);
    let answered = |answer: Answer<Row>| {
        let seen_now = see(set, shards, answer);
        let possible =
            matches!(&seen_now.recorded, Ok(recorded) if recorded.state == EnrolmentState::PossibleDuplicate);
        *flagged.borrow_mut() += u64::from(possible);
        seen.borrow_mut().push(seen_now);
        answers.send_modify(|count| *count += 1);
        progress.borrow_mut().advance(|| format!("{} possible duplicates", flagged.borrow()));
    };
    let started = Instant::now();
    let (first, second) = shares(&set.steps);
    let one = client.enrol_all(requests(set, first), in_flight);
    let other = client.enrol_all(requests(set, second), in_flight);
    let mut all = std::pin::pin!(futures::stream::select(one, other));
    while let Some(answer) = all.next().await {
        answered(answer);
    }
    progress.borrow_mut().finish();
    Ok(Enrolled { seen: seen.into_inner(), started, ended: Instant::now() })
}

/// A row to send, after meeting the other client where there is a barrier.
type Turn = (Row, Option<Arc<Barrier>>);

/// Deals the steps to two clients. Both meet at the pairs in the same order, so neither waits for ever.
fn shares(steps: &[Step]) -> (Vec<Turn>, Vec<Turn>) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for step in steps {
        match *step {
            Step::Together(one, other) => {
                let barrier = Arc::new(Barrier::new(2));
                first.push((one, Some(Arc::clone(&barrier))));
                second.push((other, Some(barrier)));
            }
            Step::Single(row) if first.len() <= second.len() => first.push((row, None)),
            Step::Single(row) => second.push((row, None)),
        }
    }
    (first, second)
}

fn requests(set: &Set, turns: Vec<Turn>) -> impl Stream<Item = (Row, EnrolRequest)> {
    let request = async move |(row, barrier): Turn| {
        if let Some(barrier) = barrier {
            barrier.wait().await;
        }
        (row, set.request(row))
    };
    futures::stream::iter(turns).then(request)
}

fn see(set: &Set, shards: u32, answer: Answer<Row>) -> Seen {
    let recorded = match answer.result {
        Ok(outcome) if outcome.is_final() => Ok(recorded(set, shards, outcome.enrolment())),
        Ok(Outcome::Inconclusive { missing_shards, .. }) => {
            Err(format!("no verdict yet: shards {missing_shards:?} are silent"))
        }
        Ok(_) => Err("no verdict yet".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Seen {
        row: answer.tag,
        sent: answer.sent,
        answered: answer.answered,
        attempts: answer.course.attempts,
        inconclusive: answer.course.inconclusive,
        errors: answer.course.errors,
        recorded,
    }
}

fn recorded(set: &Set, shards: u32, enrolment: &Enrolment) -> Recorded {
    let verdict = enrolment.verdict.clone().unwrap_or_default();
    let rows: Vec<_> = verdict.candidates.iter().map(|candidate| set.row_of(&candidate.enrolment_id)).collect();
    let coverage = verdict.coverage.unwrap_or_default();
    Recorded {
        state: enrolment.state(),
        strangers: rows.iter().filter(|row| row.is_none()).count(),
        candidates: rows.into_iter().flatten().collect(),
        saturated: verdict.saturated,
        covered: coverage.shards.iter().map(|shard| shard.shard).eq(0..shards),
        live: coverage.live,
        compared: coverage.compared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clients_meet_at_the_pairs_in_the_same_order() {
        let steps = [
            Step::Single(Row(0)),
            Step::Together(Row(1), Row(2)),
            Step::Single(Row(3)),
            Step::Single(Row(4)),
            Step::Together(Row(5), Row(6)),
        ];
        let (first, second) = shares(&steps);
        let rows = |turns: &[Turn]| turns.iter().map(|(row, _)| row.0).collect::<Vec<_>>();
        assert_eq!((rows(&first), rows(&second)), (vec![0, 1, 4, 5], vec![2, 3, 6]));
        let barriers = |turns: &[Turn]| -> Vec<_> { turns.iter().filter_map(|(_, barrier)| barrier.clone()).collect() };
        let (first, second) = (barriers(&first), barriers(&second));
        assert!(first.len() == 2 && first.iter().zip(&second).all(|(one, other)| Arc::ptr_eq(one, other)));
    }
}
