//! Of enrolments that are mates, whatever the order of their calls and whichever calls fail, at least one of each pair lists
//! the other, and no verdict is given on silence.
//!
//! The shards are a model of what a shard promises: commands apply one by one, the first settle wins, and a search sees what
//! was applied before it. How shards keep those promises is tested with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use semel_index::{KeyVersion, PolicyVersion, ShardCount, ShardId, TemplateSpec, shard_of};
use semel_raft::LogIndex;
use semel_workflow::{
    CallFailure, Candidate, ContentDigestKey, EnrolmentEffect, EnrolmentEvent, EnrolmentRecord, EnrolmentRequest,
    EnrolmentState, EnrolmentWorkflow, GalleryKey, ModalityPolicyRequest, Outcome, Policy, PolicyRequest,
    PreparedEnrolment, Receipt, ReceiptOutcome, ReferenceRequest, Refusal, Rotations, SearchProbe, SettleCommand,
    ShardAnswer, StageCommand, TemplateRequest, VerdictState, VersionedPolicy, prepare, validate_enrolment,
};

const SHARDS: u32 = 3;
const IDS: [&str; 3] = ["camp-a", "camp-b", "camp-c"];

type Workflow = EnrolmentWorkflow<()>;
type Event = EnrolmentEvent<()>;

/// A call or wait under way, and the driver that awaits it.
struct UnderWay {
    driver: usize,
    call: Call,
}

enum Call {
    Stage(Arc<StageCommand>),
    Search(ShardId, Arc<SearchProbe>),
    Settle(Arc<SettleCommand>),
    Wait(u32),
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    /// It never arrives.
    Lost,
    /// It is applied, and its answer is lost.
    AnswerLost,
}

#[derive(Default)]
struct Shard {
    index: u64,
    records: BTreeMap<String, EnrolmentRecord>,
}

struct Cluster {
    shards: Vec<Shard>,
    drivers: Vec<Workflow>,
    outcomes: Vec<Option<Outcome>>,
    under_way: Vec<UnderWay>,
}

fn shards() -> ShardCount {
    ShardCount::new(SHARDS).expect("in range")
}

fn policy() -> Policy {
    let spec = Some(TemplateSpec::Embedding { dimension: 4 });
    let face = ModalityPolicyRequest { modality: 1, spec, review_threshold_micros: 420_000 };
    PolicyRequest { modalities: vec![face], ..PolicyRequest::default() }.validate().expect("valid")
}

fn prepared(enrolment_id: &str) -> PreparedEnrolment {
    let face = ReferenceRequest {
        modality: 1,
        position: 0,
        template: Some(TemplateRequest::Embedding(vec![1.0, 2.0, 3.0, 4.0])),
        quality: None,
        algorithm_id: String::new(),
    };
    let request = EnrolmentRequest {
        gallery: "people".to_owned(),
        enrolment_id: enrolment_id.to_owned(),
        subject_id: String::new(),
        references: vec![face],
        provenance: None,
    };
    let key = GalleryKey::from_secret([1; 32]);
    let rotations = Rotations::generate(&key, KeyVersion(1), &policy());
    let versioned = Arc::new(VersionedPolicy { version: PolicyVersion(1), policy: policy() });
    let enrolment = validate_enrolment(request, &policy()).expect("valid");
    prepare(&enrolment, versioned, &rotations, &ContentDigestKey::derive(&key), 0)
}

impl Shard {
    fn stage(&mut self, command: &StageCommand, shard: ShardId) -> EnrolmentRecord {
        self.index += 1;
        let stage_index = LogIndex(self.index);
        let record = self.records.entry(command.enrolment_id.to_string()).or_insert_with(|| EnrolmentRecord {
            gallery: command.gallery.clone(),
            enrolment_id: command.enrolment_id.clone(),
            subject_id: command.subject_id.clone(),
            state: EnrolmentState::Staged,
            verdict: None,
            provenance: None,
            shard,
            stage_index,
            received_at_ms: 0,
            policy_version: command.policy_version,
            references: Vec::new(),
            case_ids: Vec::new(),
            content_digest: command.content_digest,
            round: 1,
            key_version: command.key_version,
        });
        record.clone()
    }

    fn settle(&mut self, command: &SettleCommand) -> ReceiptOutcome {
        self.index += 1;
        let Some(record) = self.records.get_mut(command.enrolment_id.as_str()) else {
            return ReceiptOutcome::Refused(Refusal::NoSuchEnrolment);
        };
        assert_eq!(record.stage_index, command.stage_index, "a settle follows the stage on record");
        assert_eq!(command.verdict.coverage.shards.len(), SHARDS as usize, "silence is never a verdict");
        if record.is_staged() {
            record.state = match command.verdict.state {
                VerdictState::Unique => EnrolmentState::Unique,
                VerdictState::PossibleDuplicate => EnrolmentState::PossibleDuplicate,
                VerdictState::NotComparable => EnrolmentState::NotComparable,
            };
            record.verdict = Some(command.verdict.clone());
        }
        ReceiptOutcome::Enrolment(Box::new(record.clone()))
    }

    /// Everybody here is a mate of everybody.
    fn search(&self, shard: ShardId, probe: &SearchProbe) -> ShardAnswer {
        let others = self.records.values().filter(|record| Some(&record.enrolment_id) != probe.exclude.as_ref());
        let candidate = |record: &EnrolmentRecord| Candidate {
            enrolment_id: record.enrolment_id.clone(),
            margin_micros: 580_000,
            comparisons: Vec::new(),
        };
        let candidates: Vec<Candidate> = others.map(candidate).collect();
        let candidates_total = candidates.len() as u64;
        ShardAnswer {
            shard,
            epoch: 1,
            searchable_index: LogIndex(self.index),
            compared: candidates_total,
            not_comparable: 0,
            withdrawn: 0,
            candidates,
            candidates_total,
        }
    }
}

impl Cluster {
    fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shards, drivers: Vec::new(), outcomes: Vec::new(), under_way: Vec::new() }
    }

    fn drive(&mut self, (workflow, effects): (Workflow, Vec<EnrolmentEffect<()>>)) {
        self.drivers.push(workflow);
        self.outcomes.push(None);
        self.carry_out(self.drivers.len() - 1, effects);
    }

    fn carry_out(&mut self, driver: usize, effects: Vec<EnrolmentEffect<()>>) {
        for effect in effects {
            let calls = match effect {
                EnrolmentEffect::Stage(command) => vec![Call::Stage(command)],
                EnrolmentEffect::Settle(command) => vec![Call::Settle(command)],
                EnrolmentEffect::Search { shards, probe } => {
                    shards.into_iter().map(|shard| Call::Search(shard, Arc::clone(&probe))).collect()
                }
                EnrolmentEffect::RetryAfter { retry, .. } => vec![Call::Wait(retry)],
                EnrolmentEffect::Reply(outcome) => {
                    self.outcomes[driver] = Some(outcome);
                    Vec::new()
                }
                EnrolmentEffect::Drain(_) => Vec::new(),
                other => panic!("nothing here leads to {other:?}"),
            };
            self.under_way.extend(calls.into_iter().map(|call| UnderWay { driver, call }));
        }
    }

    /// Ends one of the calls under way.
    fn end(&mut self, position: usize, fate: Fate) {
        let UnderWay { driver, call } = self.under_way.remove(position);
        let home = self.drivers[driver].home();
        let event = match (call, fate) {
            (Call::Wait(retry), Fate::Answered | Fate::Lost | Fate::AnswerLost) => Event::RetryDue { retry },
            (Call::Stage(_), Fate::Lost) => Event::StageFailed(CallFailure::NotProposed),
            (Call::Settle(_), Fate::Lost) => Event::SettleFailed(CallFailure::NotProposed),
            (Call::Search(shard, _), Fate::Lost | Fate::AnswerLost) => Event::ShardFailed(shard),
            (Call::Stage(command), Fate::Answered | Fate::AnswerLost) => {
                let record = self.shards[home.0 as usize].stage(&command, home);
                match fate {
                    Fate::Answered => Event::StageAnswered(receipt(ReceiptOutcome::Enrolment(Box::new(record)))),
                    Fate::Lost | Fate::AnswerLost => Event::StageFailed(CallFailure::OutcomeUnknown),
                }
            }
            (Call::Settle(command), Fate::Answered | Fate::AnswerLost) => {
                let outcome = self.shards[home.0 as usize].settle(&command);
                match fate {
                    Fate::Answered => Event::SettleAnswered(receipt(outcome)),
                    Fate::Lost | Fate::AnswerLost => Event::SettleFailed(CallFailure::OutcomeUnknown),
                }
            }
            (Call::Search(shard, probe), Fate::Answered) => {
                Event::ShardAnswered(self.shards[shard.0 as usize].search(shard, &probe))
            }
        };
        let effects = self.drivers[driver].step(0, event);
        self.carry_out(driver, effects);
    }

    fn record(&self, id: &str) -> &EnrolmentRecord {
        self.shards.iter().find_map(|shard| shard.records.get(id)).expect("staged")
    }

    fn lists(&self, id: &str, other: &str) -> bool {
        let verdict = self.record(id).verdict.as_ref().expect("settled");
        verdict.candidates.iter().any(|candidate| candidate.enrolment_id.as_str() == other)
    }
}

fn receipt(outcome: ReceiptOutcome) -> Receipt<()> {
    Receipt { outcome, obligations: Vec::new() }
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![4 => Just(Fate::Answered), 1 => Just(Fate::Lost), 1 => Just(Fate::AnswerLost)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn of_two_mates_at_least_one_lists_the_other(
        steps in prop::collection::vec((any::<prop::sample::Index>(), fates()), 0..120),
        deadlines in prop::collection::vec((0..120_usize, 0..4_usize), 0..3),
    ) {
        let mut cluster = Cluster::new();
        IDS.iter().for_each(|id| cluster.drive(Workflow::begin(shards(), prepared(id))));
        // The same request from a second client.
        cluster.drive(Workflow::begin(shards(), prepared(IDS[0])));
        for (number, (which, fate)) in steps.into_iter().enumerate() {
            for (_, driver) in deadlines.iter().filter(|(at, _)| *at == number) {
                let effects = cluster.drivers[*driver].step(0, Event::Deadline);
                cluster.carry_out(*driver, effects);
            }
            if !cluster.under_way.is_empty() {
                let position = which.index(cluster.under_way.len());
                cluster.end(position, fate);
            }
        }
        // The network heals; whoever gave up asks again, and what is on record is resumed.
        while !cluster.under_way.is_empty() {
            cluster.end(0, Fate::Answered);
        }
        for id in IDS {
            cluster.drive(Workflow::begin(shards(), prepared(id)));
            while !cluster.under_way.is_empty() {
                cluster.end(0, Fate::Answered);
            }
        }
        for (position, id) in IDS.iter().enumerate() {
            for other in &IDS[position + 1..] {
                prop_assert!(cluster.lists(id, other) || cluster.lists(other, id), "{} and {}", id, other);
            }
        }
        for (driver, outcome) in cluster.drivers.iter().zip(&cluster.outcomes) {
            prop_assert!(driver.is_finished());
            // Whoever was told a verdict was told the recorded one.
            if let Some(Outcome::Settled(told)) = outcome {
                prop_assert_eq!(&**told, cluster.record(driver.enrolment_id().as_str()));
            }
        }
    }
}

#[test]
fn enrolments_live_where_their_id_says() {
    let command = prepared(IDS[0]).stage;
    let (workflow, _) = Workflow::begin(shards(), prepared(IDS[0]));
    assert_eq!(workflow.home(), shard_of(&command.gallery, &command.enrolment_id, shards()));
}
