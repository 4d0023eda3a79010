//! What clients ask: each request that needs the gallery's policy first waits for a barrier of the metadata group.

use std::sync::Arc;

use semel_index::{EnrolmentId, GalleryId, ShardId, shard_of};
use semel_raft::{BarrierError, Event as RaftEvent, LogIndex, ProposeError, Ticket};
use semel_shard::{Command, Withdraw};
use semel_workflow::{
    EnrolmentRequest, MetadataCommand, MetadataReceipt, Pinned, ReferenceRequest, ScatterGather, SearchOutcome,
    SearchProbe, canonicalise, prepare, validate_enrolment, validate_references,
};

use super::calls::{Ended, Purpose};
use super::{Run, Timer};
use crate::convert;
use crate::history::Told;
use crate::messages::{CallId, ClientRequest, Message, ShardRequest};
use crate::mutant::Mutant;
use crate::world::{Died, Place, World};

/// How long a caller of anything but a verdict waits, in microseconds.
const WAIT_MICROS: u64 = 10_000_000;
/// The pause between two tries of the metadata group.
const AGAIN_MICROS: u64 = 50_000;
/// The pause before an identification asks missing shards again.
const IDENTIFY_AGAIN_MICROS: u64 = 200_000;

/// A request that needs the metadata as they are now.
#[derive(Clone)]
pub(super) struct Asker {
    client: Place,
    call: CallId,
    deadline: u64,
    what: Needs,
}

#[derive(Clone)]
enum Needs {
    Enrol(EnrolmentRequest),
    Identify(GalleryId, Vec<ReferenceRequest>),
}

/// An operator's command on its way into the log.
#[derive(Clone)]
pub(super) struct Governing {
    client: Place,
    call: CallId,
    deadline: u64,
    command: MetadataCommand,
}

/// A search of all shards for nobody on record.
pub(super) struct Identification {
    client: Place,
    call: CallId,
    deadline: u64,
    probe: Arc<SearchProbe>,
    miss_budget_ppb: u32,
    gather: ScatterGather,
    outstanding: usize,
    attempt: usize,
}

impl Run {
    pub(super) fn requested(
        &mut self,
        world: &mut World,
        client: Place,
        call: CallId,
        wait: u64,
        request: ClientRequest,
    ) -> Result<(), Died> {
        let deadline = world.now + wait;
        match request {
            ClientRequest::Enrol(request) => {
                let what = Needs::Enrol(request);
                self.ask_metadata(world, Asker { client, call, deadline, what })
            }
            ClientRequest::Identify(gallery, references) => {
                let what = Needs::Identify(gallery, references);
                self.ask_metadata(world, Asker { client, call, deadline, what })
            }
            ClientRequest::Govern(command) => {
                self.govern(world, Governing { client, call, deadline, command: *command })
            }
            ClientRequest::Read(gallery, enrolment) => {
                let Some(shards) = self.shards() else {
                    self.not_ready(world, client, call);
                    return Ok(());
                };
                let shard = shard_of(&gallery, &enrolment, shards);
                let request = ShardRequest::Read { gallery, enrolment, with_templates: false };
                self.call(world, shard, request, Purpose::Read { client, call }, WAIT_MICROS);
                Ok(())
            }
            ClientRequest::Withdraw(gallery, enrolment) => {
                let Some(shards) = self.shards() else {
                    self.not_ready(world, client, call);
                    return Ok(());
                };
                let shard = shard_of(&gallery, &enrolment, shards);
                let reason = "asked for".to_owned();
                let command = Command::Withdraw(Withdraw { gallery, enrolment_id: enrolment, reason });
                let request = ShardRequest::Propose(Arc::new(command));
                self.call(world, shard, request, Purpose::Withdraw { client, call }, WAIT_MICROS);
                Ok(())
            }
        }
    }

    fn not_ready(&self, world: &mut World, client: Place, call: CallId) {
        self.respond(world, client, call, Told::Unavailable("the shards are not placed yet".to_owned()));
    }

    pub(super) fn ask_metadata(&mut self, world: &mut World, asker: Asker) -> Result<(), Died> {
        if world.has(Mutant::PolicyReadWithoutBarrier) && self.shards().is_some() {
            self.behind.push((LogIndex(0), asker));
            self.metadata_reached(world);
            return Ok(());
        }
        let ticket = Self::ticket(world);
        self.asking.insert(ticket, asker);
        self.tell_metadata(world, RaftEvent::Barrier { ticket })
    }

    pub(super) fn metadata_answered(
        &mut self,
        world: &mut World,
        ticket: Ticket,
        answer: Result<LogIndex, BarrierError>,
    ) {
        let Some(asker) = self.asking.remove(&ticket) else { return };
        match answer {
            Ok(index) => {
                self.behind.push((index, asker));
                self.metadata_reached(world);
            }
            Err(_) if self.is_member() && world.now + AGAIN_MICROS < asker.deadline => {
                self.after(world, AGAIN_MICROS, Timer::AskAgain(Box::new(asker)));
            }
            Err(error) => self.respond(world, asker.client, asker.call, Told::Unavailable(error.to_string())),
        }
    }

    /// Goes on with whoever waited for the view to be current.
    pub(super) fn metadata_reached(&mut self, world: &mut World) {
        let applied = self.applied;
        let ready: Vec<Asker> =
            self.behind.extract_if(.., |(index, _)| *index <= applied).map(|(_, asker)| asker).collect();
        for asker in ready {
            let Asker { client, call, deadline, what } = asker;
            match what {
                Needs::Enrol(request) => self.enrol(world, client, call, deadline, request),
                Needs::Identify(gallery, references) => {
                    self.identify(world, (client, call), deadline, &gallery, references);
                }
            }
        }
    }

    pub(super) fn metadata_stopped(&mut self, world: &mut World) {
        let asking = std::mem::take(&mut self.asking).into_values();
        let behind = std::mem::take(&mut self.behind).into_iter().map(|(_, asker)| asker);
        let waiting: Vec<(Place, CallId)> = asking.chain(behind).map(|asker| (asker.client, asker.call)).collect();
        for (client, call) in waiting {
            self.respond(world, client, call, Told::Unavailable("the replica has stopped".to_owned()));
        }
        for governing in std::mem::take(&mut self.governing).into_values() {
            self.respond_to_operator(world, &governing, false, None);
        }
    }

    fn enrol(&mut self, world: &mut World, client: Place, call: CallId, deadline: u64, request: EnrolmentRequest) {
        let gallery = GalleryId::try_from(request.gallery.as_str()).expect("clients send valid names");
        let found = self.view.gallery(&gallery).zip(self.view.current_policy(&gallery));
        let (Some((record, policy)), true) = (found, self.shards().is_some()) else {
            return self.not_ready(world, client, call);
        };
        let enrolment = validate_enrolment(request, &policy.policy).expect("clients send valid enrolments");
        let keys = self.keys(&gallery, record.key_version, &policy);
        let now_ms = self.now_ms(world);
        let miss_budget_ppb = policy.policy.miss_budget_ppb();
        let prepared = prepare(&enrolment, policy, &keys.rotations, &keys.digest, now_ms);
        let wait = deadline.saturating_sub(world.now).max(1);
        self.begin(world, prepared, (client, call), miss_budget_ppb, wait);
    }

    pub(super) fn govern(&mut self, world: &mut World, governing: Governing) -> Result<(), Died> {
        let ticket = Self::ticket(world);
        let command = governing.command.encode();
        self.governing.insert(ticket, governing);
        self.tell_metadata(world, RaftEvent::Propose { ticket, command })
    }

    pub(super) fn governed(
        &mut self,
        world: &mut World,
        ticket: Ticket,
        receipt: Result<MetadataReceipt, ProposeError>,
    ) {
        let Some(governing) = self.governing.remove(&ticket) else { return };
        match receipt {
            Ok(receipt) => {
                let policy = match receipt {
                    MetadataReceipt::Gallery(record) => Some((record.name, record.policy.version.0)),
                    MetadataReceipt::Cluster(_)
                    | MetadataReceipt::Move(_)
                    | MetadataReceipt::CoordinatorReplicas(_)
                    | MetadataReceipt::Done
                    | MetadataReceipt::Refused(_) => None,
                };
                world.tally.policies += u64::from(policy.is_some());
                self.respond_to_operator(world, &governing, true, policy);
            }
            Err(_) if self.is_member() && world.now + AGAIN_MICROS < governing.deadline => {
                self.after(world, AGAIN_MICROS, Timer::GovernAgain(Box::new(governing)));
            }
            Err(_) => self.respond_to_operator(world, &governing, false, None),
        }
    }

    fn respond_to_operator(
        &self,
        world: &mut World,
        governing: &Governing,
        done: bool,
        policy: Option<(GalleryId, u64)>,
    ) {
        let Governing { client, call, .. } = *governing;
        world.send(self.place, client, Message::Governed { call, done, policy });
    }

    pub(super) fn read(&mut self, world: &mut World, client: Place, call: CallId, ended: Ended) {
        let told = match ended {
            Ended::Record(record, _) => Told::Recorded(convert::record_seen(&convert::record_to_workflow(&record))),
            Ended::NoSuchRecord => Told::NoSuchEnrolment,
            Ended::Failed { .. } | Ended::Receipt(_) | Ended::Searched { .. } | Ended::Pending { .. } => {
                Told::Unavailable("no replica answers".to_owned())
            }
        };
        self.respond(world, client, call, told);
    }

    pub(super) fn withdrawn(&mut self, world: &mut World, client: Place, call: CallId, shard: ShardId, ended: Ended) {
        let receipt = match ended {
            Ended::Receipt(receipt) => self.shards().and_then(|shards| convert::receipt(shard, &receipt, shards)),
            _ => None,
        };
        let Some(receipt) = receipt else {
            let told = Told::Unavailable("the withdrawal has no receipt".to_owned());
            return self.respond(world, client, call, told);
        };
        self.found(world, receipt.obligations);
        let told = match receipt.outcome {
            semel_workflow::ReceiptOutcome::Enrolment(record) => Told::Recorded(convert::record_seen(&record)),
            semel_workflow::ReceiptOutcome::Refused(_) => Told::NoSuchEnrolment,
        };
        self.respond(world, client, call, told);
    }

    fn identify(
        &mut self,
        world: &mut World,
        (client, call): (Place, CallId),
        deadline: u64,
        gallery: &GalleryId,
        references: Vec<ReferenceRequest>,
    ) {
        let found = self.view.gallery(gallery).zip(self.view.current_policy(gallery));
        let (Some((record, policy)), Some(shards)) = (found, self.shards()) else {
            return self.not_ready(world, client, call);
        };
        let references = validate_references(references, &policy.policy).expect("clients send valid references");
        let keys = self.keys(gallery, record.key_version, &policy);
        let references = canonicalise(&references, &keys.rotations);
        let miss_budget_ppb = policy.policy.miss_budget_ppb();
        let pinned = Pinned::new(policy, record.key_version, references).expect("validated against this policy");
        // A request that arrives twice may be answered under either of two policies: which one, nobody is told.
        let known = world.probes.entry(call).or_insert_with(|| pinned.clone());
        if known.policy().version != pinned.policy().version {
            return self.not_ready(world, client, call);
        }
        let gather = ScatterGather::of_identification(gallery.clone(), shards, pinned.candidates_max());
        let probe = Arc::new(pinned.probe(gallery.clone(), None));
        let number = world.number();
        let (outstanding, attempt) = (0, 0);
        let identification =
            Identification { client, call, deadline, probe, miss_budget_ppb, gather, outstanding, attempt };
        self.identifications.insert(number, identification);
        self.identify_again(world, number);
    }

    pub(super) fn identify_again(&mut self, world: &mut World, number: u64) {
        let Some(identification) = self.identifications.get_mut(&number) else { return };
        let missing = identification.gather.missing();
        identification.outstanding = missing.len();
        identification.attempt += 1;
        let (attempt, probe) = (identification.attempt, Arc::clone(&identification.probe));
        let miss_budget_ppb = identification.miss_budget_ppb;
        for shard in missing {
            let request = ShardRequest::Search { probe: Arc::clone(&probe), miss_budget_ppb };
            let purpose = Purpose::IdentifySearch { identification: number };
            self.call_once(world, shard, request, purpose, attempt + shard.0 as usize);
        }
    }

    pub(super) fn identified(&mut self, world: &mut World, number: u64, shard: ShardId, ended: Ended) {
        let Some(identification) = self.identifications.get_mut(&number) else { return };
        identification.outstanding -= 1;
        if let Ended::Searched { epoch, searchable_index, found } = ended {
            let mut answer = convert::shard_answer(shard, epoch, searchable_index, &found, &identification.probe);
            if world.has(Mutant::IdentificationDropsShard) && shard.0 == 0 {
                (answer.candidates, answer.candidates_total) = (Vec::new(), 0);
            }
            if let Err(defect) = identification.gather.answer(answer) {
                world.alarm(format!("the answer of shard {shard} cannot be true: {defect}"));
            }
        }
        if identification.outstanding > 0 {
            return;
        }
        let complete = identification.gather.missing().is_empty();
        if !complete && world.now + IDENTIFY_AGAIN_MICROS < identification.deadline {
            self.after(world, IDENTIFY_AGAIN_MICROS, Timer::IdentifyAgain(number));
            return;
        }
        let Identification { client, call, gather, .. } = self.identifications.remove(&number).expect("just seen");
        let told = match gather.finish() {
            SearchOutcome::Complete(search) => Told::Candidates {
                candidates: search.candidates().iter().map(|one| one.enrolment_id.clone()).collect(),
                saturated: search.saturated(),
                missing: Vec::new(),
            },
            SearchOutcome::Incomplete { missing } => {
                Told::Candidates { candidates: Vec::<EnrolmentId>::new(), saturated: false, missing }
            }
        };
        self.respond(world, client, call, told);
    }
}
