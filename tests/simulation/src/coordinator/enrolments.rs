//! Carrying out what enrolment workflows want: calls to shards, waits, and the answer to the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semel_index::ShardId;
use semel_shard::Command;
use semel_workflow::{
    CallFailure, EnrolmentEffect, EnrolmentEvent, EnrolmentWorkflow, Outcome, Pinned, PreparedEnrolment, SearchProbe,
    ShardAnswer,
};

use super::calls::{Ended, Purpose};
use super::{Run, Timer};
use crate::convert;
use crate::history::{Key, RecordSeen, State, Told};
use crate::messages::{CallId, ShardRequest};
use crate::mutant::Mutant;
use crate::world::{Place, World};

/// How long a proposal or a read of a workflow may take over all replicas, in microseconds.
const CALL_MICROS: u64 = 4_000_000;
/// How long the sweep works on one enrolment before it leaves it to a later round.
const RESUME_MICROS: u64 = 30_000_000;

/// How long a caller that met overload should wait, in milliseconds.
const OVERLOAD_RETRY_MS: u32 = 200;

type Event = EnrolmentEvent<Command>;
type Effect = EnrolmentEffect<Command>;

/// A workflow under way.
pub(super) struct Drive {
    workflow: EnrolmentWorkflow<Command>,
    key: Key,
    /// Who waits; nobody if the sweep began it.
    caller: Option<(Place, CallId)>,
    miss_budget_ppb: u32,
    /// How often it has searched: turns the choice of replicas.
    searches: usize,
    probe: Option<Arc<SearchProbe>>,
    /// The versions that a load was asked for.
    loading: Option<(semel_index::PolicyVersion, semel_index::KeyVersion)>,
    /// What was sent; unknown to the sweep.
    content: Option<semel_workflow::ContentDigest>,
    /// Of a defect: answers of searches made before the stage.
    early: BTreeMap<ShardId, ShardAnswer>,
}

impl Run {
    /// Begins an enrolment for a caller, who waits so many microseconds.
    pub(super) fn begin(
        &mut self,
        world: &mut World,
        prepared: PreparedEnrolment,
        caller: (Place, CallId),
        miss_budget_ppb: u32,
        wait: u64,
    ) {
        let Some(shards) = self.shards() else { return };
        let key = Key { gallery: prepared.stage.gallery.clone(), enrolment: prepared.stage.enrolment_id.clone() };
        let early = Arc::new(prepared.pinned.probe(key.gallery.clone(), Some(key.enrolment.clone())));
        let content = prepared.stage.content_digest;
        let started = EnrolmentWorkflow::begin(shards, prepared);
        let drive = self.drive(world, started, key, Some(caller), miss_budget_ppb, wait);
        if let Some(begun) = self.drives.get_mut(&drive) {
            begun.content = Some(content);
        }
        if world.has(Mutant::SearchBeforeStage)
            && let Some(begun) = self.drives.get_mut(&drive)
        {
            begun.probe = Some(Arc::clone(&early));
            self.search(world, drive, shards.all().collect(), &early);
        }
    }

    fn drive(
        &mut self,
        world: &mut World,
        (workflow, effects): (EnrolmentWorkflow<Command>, Vec<Effect>),
        key: Key,
        caller: Option<(Place, CallId)>,
        miss_budget_ppb: u32,
        wait: u64,
    ) -> u64 {
        let drive = world.number();
        self.sweep.begun(key.clone());
        let (searches, probe, loading, content, early) = (0, None, None, None, BTreeMap::new());
        let begun = Drive { workflow, key, caller, miss_budget_ppb, searches, probe, loading, content, early };
        self.drives.insert(drive, begun);
        self.after(world, wait, Timer::Deadline { drive });
        self.carry_out(world, drive, effects);
        drive
    }

    /// The caller has gone: what was done for it ends where it is, and what is staged is left to the sweep.
    pub(super) fn cancel(&mut self, world: &mut World, client: Place, call: CallId) {
        let of_the_call = |drive: &Drive| drive.caller == Some((client, call));
        let ended: Vec<u64> = self.drives.iter().filter(|(_, one)| of_the_call(one)).map(|(drive, _)| *drive).collect();
        for drive in ended {
            let Drive { key, .. } = self.drives.remove(&drive).expect("just seen");
            self.sweep.ended(&key);
            world.tally.cancelled += 1;
        }
    }

    /// Goes on with an enrolment that its shard has on record.
    pub(super) fn resume(&mut self, world: &mut World, key: Key, ended: Ended) {
        self.sweep.ended(&key);
        let Ended::Record(record, references) = ended else { return };
        let record = convert::record_to_workflow(&record);
        let policy = self.view.policy(&key.gallery, record.policy_version);
        let (Some(policy), Some(shards)) = (policy, self.shards()) else { return };
        let miss_budget_ppb = policy.policy.miss_budget_ppb();
        let references = references.iter().map(convert::reference_to_workflow).collect();
        let Ok(pinned) = Pinned::new(policy, record.key_version, references) else {
            world.alarm(format!("{key} does not fit the policy it is pinned to"));
            return;
        };
        let staged = record.is_staged();
        let started = EnrolmentWorkflow::resume(shards, record, pinned);
        world.tally.resumed += u64::from(staged);
        world.note(self.place, "resumes", 0, || key.to_string());
        self.drive(world, started, key, None, miss_budget_ppb, RESUME_MICROS);
    }

    pub(super) fn retry_due(&mut self, world: &mut World, drive: u64, retry: u32) {
        self.step(world, drive, EnrolmentEvent::RetryDue { retry });
    }

    pub(super) fn deadline(&mut self, world: &mut World, drive: u64) {
        self.step(world, drive, EnrolmentEvent::Deadline);
    }

    pub(super) fn staged(&mut self, world: &mut World, drive: u64, home: ShardId, ended: Ended) {
        let event = match self.receipt(home, ended) {
            Ok(mut receipt) => {
                if let (Some(Drive { content: Some(content), .. }), semel_workflow::ReceiptOutcome::Enrolment(record)) =
                    (self.drives.get(&drive), &mut receipt.outcome)
                    && world.has(Mutant::OtherContentAccepted)
                {
                    record.content_digest = *content;
                }
                EnrolmentEvent::StageAnswered(receipt)
            }
            Err(CallFailure::OutcomeUnknown) if world.has(Mutant::UncertainToldAsStaged) => {
                return self.tell_as_staged(world, drive, home);
            }
            Err(failure) => EnrolmentEvent::StageFailed(failure),
        };
        self.step(world, drive, event);
    }

    /// Of a defect: answers the caller as if the stage had been acknowledged.
    fn tell_as_staged(&mut self, world: &mut World, drive: u64, shard: ShardId) {
        let Some(Drive { key, caller, .. }) = self.drives.remove(&drive) else { return };
        self.sweep.ended(&key);
        let (state, case_ids) = (State::Staged, BTreeSet::new());
        let record = RecordSeen { state, shard, stage_index: 0, policy_version: 1, verdict: None, case_ids };
        if let Some((client, call)) = caller {
            self.respond(world, client, call, Told::Inconclusive { record, missing: Vec::new() });
        }
    }

    pub(super) fn settled(&mut self, world: &mut World, drive: u64, home: ShardId, ended: Ended) {
        let event = match self.receipt(home, ended) {
            Ok(receipt) => EnrolmentEvent::SettleAnswered(receipt),
            Err(failure) => EnrolmentEvent::SettleFailed(failure),
        };
        self.step(world, drive, event);
    }

    fn receipt(&self, home: ShardId, ended: Ended) -> Result<semel_workflow::Receipt<Command>, CallFailure> {
        match (ended, self.shards()) {
            (Ended::Receipt(receipt), Some(shards)) => {
                convert::receipt(home, &receipt, shards).ok_or(CallFailure::OutcomeUnknown)
            }
            (Ended::Failed { outcome_unknown: false, overloaded: true }, _) => {
                Err(CallFailure::Overloaded { retry_after_ms: OVERLOAD_RETRY_MS })
            }
            (Ended::Failed { outcome_unknown: false, .. }, _) => Err(CallFailure::NotProposed),
            _ => Err(CallFailure::OutcomeUnknown),
        }
    }

    pub(super) fn pinned_loaded(&mut self, world: &mut World, drive: u64, ended: Ended) {
        let Some(Drive { loading: Some((policy, key_version)), key, .. }) = self.drives.get(&drive) else { return };
        let policy = self.view.policy(&key.gallery, *policy);
        let pinned = match (ended, policy) {
            (Ended::Record(_, references), Some(policy)) => {
                let references = references.iter().map(convert::reference_to_workflow).collect();
                Pinned::new(policy, *key_version, references).ok()
            }
            _ => None,
        };
        let event =
            pinned.map_or(EnrolmentEvent::PinnedFailed, |pinned| EnrolmentEvent::PinnedLoaded(Box::new(pinned)));
        self.step(world, drive, event);
    }

    pub(super) fn searched(&mut self, world: &mut World, drive: u64, shard: ShardId, ended: Ended) {
        let Some(driven) = self.drives.get_mut(&drive) else { return };
        let probe = driven.probe.clone().expect("a search has a probe");
        let mut event = match ended {
            Ended::Searched { epoch, searchable_index, found } => {
                EnrolmentEvent::ShardAnswered(convert::shard_answer(shard, epoch, searchable_index, &found, &probe))
            }
            _ if world.has(Mutant::SilenceTakenForAbsence) => EnrolmentEvent::ShardAnswered(nobody(shard)),
            _ => EnrolmentEvent::ShardFailed(shard),
        };
        if let EnrolmentEvent::ShardAnswered(answer) = &mut event {
            if world.has(Mutant::SearchBeforeStage) && driven.searches <= 1 && shard != driven.workflow.home() {
                driven.early.insert(shard, answer.clone());
            }
            let last = self.shards().map_or(0, |shards| shards.get() - 1);
            if world.has(Mutant::MergeDropsShard) && shard.0 == last {
                (answer.candidates, answer.candidates_total) = (Vec::new(), 0);
            }
        }
        self.step(world, drive, event);
    }

    fn step(&mut self, world: &mut World, drive: u64, event: Event) {
        let now_ms = self.now_ms(world);
        let Some(driven) = self.drives.get_mut(&drive) else {
            // Whoever drove it has gone; what its call left to do is found by the sweep.
            return;
        };
        let effects = driven.workflow.step(now_ms, event);
        self.carry_out(world, drive, effects);
    }

    fn carry_out(&mut self, world: &mut World, drive: u64, effects: Vec<Effect>) {
        for effect in effects {
            let Some(driven) = self.drives.get_mut(&drive) else { return };
            let (home, key) = (driven.workflow.home(), driven.key.clone());
            match effect {
                EnrolmentEffect::Stage(command) => {
                    let request = ShardRequest::Propose(Arc::new(convert::stage(&command)));
                    self.call(world, home, request, Purpose::Stage { drive }, CALL_MICROS);
                }
                EnrolmentEffect::Settle(command) => {
                    let mut command = convert::settle(&command);
                    if world.has(Mutant::CoverageIncomplete)
                        && let Command::Settle(settle) = &mut command
                        && let Some(left_out) = settle.verdict.coverage.shards.pop_if(|part| part.shard != home)
                    {
                        settle.verdict.coverage.live -= left_out.compared + left_out.not_comparable;
                        settle.verdict.coverage.compared -= left_out.compared;
                    }
                    let request = ShardRequest::Propose(Arc::new(command));
                    self.call(world, home, request, Purpose::Settle { drive }, CALL_MICROS);
                }
                EnrolmentEffect::LoadPinned { policy_version, key_version } => {
                    driven.loading = Some((policy_version, key_version));
                    let (gallery, enrolment) = (key.gallery, key.enrolment);
                    let request = ShardRequest::Read { gallery, enrolment, with_templates: true };
                    self.call(world, home, request, Purpose::LoadPinned { drive }, CALL_MICROS);
                }
                EnrolmentEffect::Search { shards, probe } => {
                    driven.probe = Some(Arc::clone(&probe));
                    self.search(world, drive, shards, &probe);
                }
                EnrolmentEffect::RetryAfter { retry, delay_ms } => {
                    self.after(world, u64::from(delay_ms) * 1_000, Timer::Retry { drive, retry });
                }
                EnrolmentEffect::Drain(obligations) => self.found(world, obligations),
                EnrolmentEffect::AnswerDefective { shard, defect } => {
                    if world.mutant.is_none() {
                        world.alarm(format!("the answer of shard {shard} cannot be true: {defect}"));
                    }
                }
                EnrolmentEffect::AlarmSaturated { .. } => {}
                EnrolmentEffect::Reply(outcome) => self.reply(world, drive, outcome),
            }
        }
    }

    fn search(&mut self, world: &mut World, drive: u64, shards: Vec<ShardId>, probe: &Arc<SearchProbe>) {
        let Some(driven) = self.drives.get_mut(&drive) else { return };
        let (attempt, miss_budget_ppb) = (driven.searches, driven.miss_budget_ppb);
        driven.searches += 1;
        let early = std::mem::take(&mut driven.early);
        for shard in shards {
            if let Some(answer) = early.get(&shard) {
                // A defect: an answer from before the stage.
                let answer = answer.clone();
                self.step(world, drive, EnrolmentEvent::ShardAnswered(answer));
                continue;
            }
            let request = ShardRequest::Search { probe: Arc::clone(probe), miss_budget_ppb };
            self.call_once(world, shard, request, Purpose::Search { drive }, attempt + shard.0 as usize);
        }
    }

    fn reply(&mut self, world: &mut World, drive: u64, outcome: Outcome) {
        let Some(Drive { key, caller, .. }) = self.drives.remove(&drive) else { return };
        self.sweep.ended(&key);
        let told = match outcome {
            Outcome::Settled(record) => Told::Recorded(convert::record_seen(&record)),
            Outcome::Inconclusive { record, waiting } => {
                let missing = match waiting {
                    semel_workflow::Waiting::Shards(missing) => missing,
                    semel_workflow::Waiting::Pinned | semel_workflow::Waiting::Settle => Vec::new(),
                };
                Told::Inconclusive { record: convert::record_seen(&record), missing }
            }
            Outcome::AlreadyExists => Told::AlreadyExists,
            Outcome::Unavailable { outcome_unknown } => {
                Told::Unavailable(format!("not staged, outcome unknown: {outcome_unknown}"))
            }
            Outcome::Overloaded { .. } => Told::Unavailable("overloaded".to_owned()),
            Outcome::Refused(refusal) => {
                world.alarm(format!("{key} was refused: {refusal}"));
                Told::Unavailable(refusal.to_string())
            }
        };
        if let Some((client, call)) = caller {
            self.respond(world, client, call, told);
        }
    }
}

/// What a shard without anybody would answer.
fn nobody(shard: ShardId) -> ShardAnswer {
    ShardAnswer {
        shard,
        epoch: 1,
        searchable_index: semel_raft::LogIndex(u64::MAX >> 8),
        compared: 0,
        not_comparable: 0,
        withdrawn: 0,
        candidates: Vec::new(),
        candidates_total: 0,
    }
}
