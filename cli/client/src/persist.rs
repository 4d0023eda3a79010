//! One call over as many attempts as it takes and its deadline allows.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use crate::balance::Coordinators;
use crate::coordinator::Coordinator;
use crate::error::CallError;
use crate::retry::{Meaning, meaning, pause};

/// What a call went through on the way to its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Course {
    /// Times it was sent.
    pub attempts: u32,
    /// Of these, answers that there is no verdict yet.
    pub inconclusive: u32,
    /// Of these, errors and broken connections that left it to be sent again.
    pub errors: u32,
}

/// Why an attempt has no answer.
pub(crate) enum Failed {
    /// The coordinator was not reached: nothing was sent.
    Unreached(String),
    /// It answered with an error, or the connection broke.
    Answered(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Answered(status)
    }
}

/// The bounds of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) deadline: Instant,
    pub(crate) attempt_within: Duration,
    pub(crate) unreachable_after: Duration,
}

/// A call under way.
pub(crate) struct Persistence<'a> {
    coordinators: &'a Coordinators,
    bounds: Bounds,
    begun: Instant,
    pub(crate) course: Course,
    /// Whom this round has asked.
    tried: Vec<Arc<Coordinator>>,
    rounds: u32,
    /// The longest wait that this round was asked for.
    hint: Duration,
    /// Since when no coordinator was reached at all, and what kept each.
    unreached_since: Option<Instant>,
    unreached: Vec<String>,
    last: Option<Status>,
}

impl<'a> Persistence<'a> {
    pub(crate) fn new(coordinators: &'a Coordinators, bounds: Bounds) -> Self {
        Self {
            coordinators,
            bounds,
            begun: Instant::now(),
            course: Course::default(),
            tried: Vec::new(),
            rounds: 0,
            hint: Duration::ZERO,
            unreached_since: None,
            unreached: Vec::new(),
            last: None,
        }
    }

    /// Makes attempts until one is answered or no further one is allowed. `attempt` is given the coordinator to ask and how long it
    /// may take.
    pub(crate) async fn answer<R, F>(
        &mut self,
        attempt: impl Fn(Arc<Coordinator>, Duration) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<R, Failed>>,
    {
        loop {
            let Some(coordinator) = self.coordinators.next(&self.tried) else {
                self.end_round().await?;
                continue;
            };
            let within = self.bounds.attempt_within.min(self.bounds.deadline.saturating_duration_since(Instant::now()));
            let in_work = coordinator.begin();
            let answer = tokio::time::timeout(within, attempt(Arc::clone(&coordinator), within)).await;
            drop(in_work);
            let failed = match answer {
                Ok(Ok(answer)) => {
                    self.course.attempts += 1;
                    return Ok(answer);
                }
                Ok(Err(failed)) => failed,
                Err(_) => Failed::Answered(Status::deadline_exceeded("the coordinator is silent")),
            };
            self.note(coordinator, failed)?;
        }
    }

    /// An answer that there is no verdict yet: waits as long as before any repetition. `false` = the deadline leaves no time for one.
    pub(crate) async fn not_yet(&mut self) -> bool {
        self.course.inconclusive += 1;
        self.last = None;
        self.pause().await
    }

    fn note(&mut self, coordinator: Arc<Coordinator>, failed: Failed) -> Result<(), CallError> {
        match failed {
            Failed::Unreached(reason) => {
                self.unreached_since.get_or_insert_with(Instant::now);
                self.unreached.push(format!("{}: {reason}", coordinator.address));
                coordinator.suspect();
            }
            Failed::Answered(status) => {
                self.course.attempts += 1;
                self.unreached_since = None;
                match meaning(&status) {
                    Meaning::Refused => {
                        return Err(CallError::refused(&status));
                    }
                    Meaning::Busy(hint) => self.hint = self.hint.max(hint),
                    Meaning::Broken(hint) => {
                        self.hint = self.hint.max(hint);
                        coordinator.suspect();
                    }
                }
                self.course.errors += 1;
                self.last = Some(status);
            }
        }
        self.tried.push(coordinator);
        if self.bounds.deadline <= Instant::now() {
            return Err(self.given_up());
        }
        Ok(())
    }

    /// Nobody is left to ask in this round: another one begins after a pause.
    async fn end_round(&mut self) -> Result<(), CallError> {
        let unreached_for = self.unreached_since.map(|since| since.elapsed());
        if unreached_for.is_some_and(|unreached| unreached >= self.bounds.unreachable_after) {
            return Err(CallError::Unreachable { reasons: std::mem::take(&mut self.unreached) });
        }
        if !self.pause().await {
            return Err(self.given_up());
        }
        Ok(())
    }

    async fn pause(&mut self) -> bool {
        self.rounds += 1;
        let until = Instant::now() + pause(self.rounds, std::mem::take(&mut self.hint), rand::random());
        if until >= self.bounds.deadline {
            return false;
        }
        tokio::time::sleep_until(until).await;
        self.tried.clear();
        self.unreached.clear();
        true
    }

    fn given_up(&mut self) -> CallError {
        match self.last.take() {
            Some(last) => CallError::Unanswered {
                code: last.code(),
                message: last.message().to_owned(),
                attempts: self.course.attempts,
                after: self.begun.elapsed(),
            },
            None => CallError::Unreachable { reasons: std::mem::take(&mut self.unreached) },
        }
    }
}
