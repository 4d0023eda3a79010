//! A cluster of shards, each with a log of its own and a second replica; and the coordinators' part: searching, settling
//! and carrying obligations. What must hold of every single command is asserted here, whatever the test is about.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use semel_index::{
    CanonicalEmbedding, ComparisonScore, EnrolmentId, GalleryId, KeyVersion, Modality, PolicyVersion, Position,
    ShardCount, ShardId, Slot, Template, TemplateSpec, shard_of,
};
use semel_raft::{Applied, LogIndex, StateMachine};
use semel_shard::{
    Candidate, CanonicalReference, Case, CaseSubject, Command, ComparisonRecord, ContentDigest, Coverage, Discharge,
    EnrolmentRecord, EnrolmentState, Obligation, ObligationId, Provenance, Publication, Receipt, Settle, ShardCoverage,
    ShardMachine, Stage, Totals, Verdict, VerdictKind, Withdraw,
};

use crate::memory::Rows;

pub(crate) fn gallery() -> GalleryId {
    GalleryId::try_from("people").expect("a valid name")
}

pub(crate) fn id(text: &str) -> EnrolmentId {
    EnrolmentId::try_from(text).expect("a valid id")
}

pub(crate) fn slot() -> Slot {
    Slot::new(Modality::Face, Position::Only).expect("faces have one position")
}

fn score(micros: i32) -> ComparisonScore {
    ComparisonScore::from_micros(micros).expect("a score in range")
}

pub(crate) fn reference() -> CanonicalReference {
    CanonicalReference {
        slot: slot(),
        spec: TemplateSpec::Embedding { dimension: 4 },
        template: Template::Embedding(CanonicalEmbedding::from_f32(&[0.5, -0.5, 0.1, 0.7]).expect("a valid embedding")),
        quality: Some(80),
        algorithm_id: "test@1".to_owned(),
    }
}

pub(crate) fn stage(enrolment: &EnrolmentId) -> Stage {
    Stage {
        gallery: gallery(),
        enrolment_id: enrolment.clone(),
        subject_id: "person".to_owned(),
        references: vec![reference()],
        provenance: Provenance { site: "camp".to_owned(), ..Provenance::default() },
        policy_version: PolicyVersion(3),
        key_version: KeyVersion(2),
        content_digest: ContentDigest([7; 32]),
        received_at_ms: 1_700_000_000_000,
    }
}

pub(crate) fn candidate(enrolment: &EnrolmentId, margin_micros: i32) -> Candidate {
    let comparison =
        ComparisonRecord { slot: slot(), score: score(420_000 + margin_micros), threshold: score(420_000) };
    Candidate { enrolment_id: enrolment.clone(), margin_micros, comparisons: vec![comparison] }
}

/// One shard: two replicas of its machine, and what was published.
pub(crate) struct Shard {
    machine: ShardMachine,
    pub(crate) rows: Rows,
    twin: Rows,
    pub(crate) index: LogIndex,
    /// Whether each enrolment is live, in the order of staging: what a catalogue knows.
    pub(crate) published: Vec<(EnrolmentId, bool)>,
    pub(crate) totals: Totals,
}

impl Shard {
    fn new(shard: ShardId, shards: ShardCount) -> Self {
        Self {
            machine: ShardMachine::new(shard, shards).expect("a shard of the cluster"),
            rows: Rows::default(),
            twin: Rows::default(),
            index: LogIndex(0),
            published: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Commits bytes: applies them on both replicas and, on a copy, a second time.
    pub(crate) fn commit(&mut self, bytes: &[u8]) -> Receipt {
        self.index = LogIndex(self.index.0 + 1);
        let before = self.rows.clone();
        let applied = apply(self.machine, self.index, bytes, &mut self.rows);
        let on_twin = apply(self.machine, self.index, bytes, &mut self.twin);
        assert!(self.rows == self.twin && applied.receipt == on_twin.receipt, "replicas disagree");
        let recomputed = semel_shard::recompute_digest(&self.rows).expect("memory does not fail");
        assert_eq!(semel_shard::digest(&self.rows).expect("memory does not fail"), recomputed);
        if let Receipt::Refused(_) = applied.receipt {
            assert!(self.rows == before && applied.publications.is_empty(), "a refused command changed something");
        }
        self.assert_twice_is_once(bytes, &applied.receipt);
        for publication in applied.publications {
            self.take_in(publication);
        }
        applied.receipt
    }

    fn assert_twice_is_once(&self, bytes: &[u8], first: &Receipt) {
        let mut again = self.rows.clone();
        let second = apply(self.machine, LogIndex(self.index.0 + 1), bytes, &mut again);
        assert!(again == self.rows, "applied twice, a command changed something the second time");
        assert!(second.publications.is_empty());
        let expected = match first {
            Receipt::Enrolment { record, .. } => Receipt::Enrolment { record: record.clone(), obligations: Vec::new() },
            Receipt::Done { .. } => Receipt::Done { obligations: Vec::new() },
            Receipt::Refused(refusal) => Receipt::Refused(*refusal),
        };
        assert_eq!(second.receipt, expected);
    }

    fn take_in(&mut self, publication: Publication) {
        match publication {
            Publication::Staged { enrolment_id, totals, references, .. } => {
                assert!(!references.is_empty());
                self.published.push((enrolment_id, true));
                self.totals = totals;
            }
            Publication::Withdrawn { enrolment_id, totals, .. } => {
                let known = self.published.iter_mut().find(|(id, _)| *id == enrolment_id);
                known.expect("staged before withdrawn").1 = false;
                self.totals = totals;
            }
            Publication::Changed { .. } => {}
        }
    }

    /// The first obligations.
    pub(crate) fn obligations(&self) -> Vec<Obligation> {
        semel_shard::obligations(&self.rows, 1_000).expect("memory does not fail")
    }
}

fn apply(machine: ShardMachine, index: LogIndex, bytes: &[u8], rows: &mut Rows) -> Applied<Receipt, Publication> {
    let mut machine = machine;
    machine.apply(index, bytes, rows).expect("memory does not fail")
}

/// All shards, and who is a mate of whom.
pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    count: ShardCount,
    /// The longest candidate list.
    pub(crate) candidates_max: usize,
    /// Every verdict recorded, by enrolment and round: none may change.
    recorded: BTreeMap<(EnrolmentId, u32), Verdict>,
}

impl World {
    pub(crate) fn new(shards: u32, candidates_max: usize) -> Self {
        let count = ShardCount::new(shards).expect("a valid count");
        let shards = count.all().map(|shard| Shard::new(shard, count)).collect();
        Self { shards, count, candidates_max, recorded: BTreeMap::new() }
    }

    pub(crate) fn home(&self, enrolment: &EnrolmentId) -> &Shard {
        &self.shards[shard_of(&gallery(), enrolment, self.count).0 as usize]
    }

    /// Commits a command in the shard it goes to.
    pub(crate) fn commit(&mut self, command: &Command) -> Receipt {
        let (gallery, addressee) = command.addressee().expect("discharges go to a shard by number");
        let shard = shard_of(gallery, addressee, self.count).0 as usize;
        let addressee = addressee.clone();
        self.commit_in(shard, command, Some(&addressee))
    }

    pub(crate) fn commit_in(&mut self, shard: usize, command: &Command, addressee: Option<&EnrolmentId>) -> Receipt {
        let bytes: Bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command), "a command within its bounds round-trips");
        let before = addressee.and_then(|enrolment| self.record(enrolment));
        let receipt = self.shards[shard].commit(&bytes);
        let after = addressee.and_then(|enrolment| self.record(enrolment));
        if let Some(after) = after {
            self.check_rounds(before.as_ref(), &after);
        }
        receipt
    }

    /// A verdict never changes, and a round begins only when every candidate of the one before was withdrawn.
    fn check_rounds(&mut self, before: Option<&EnrolmentRecord>, after: &EnrolmentRecord) {
        if let Some(verdict) = &after.verdict {
            let key = (after.enrolment_id.clone(), verdict.round);
            assert_eq!(self.recorded.entry(key).or_insert_with(|| verdict.clone()), verdict, "a verdict changed");
        }
        if let Some(before) = before.filter(|before| before.round < after.round) {
            assert_eq!((before.state, after.state), (EnrolmentState::PossibleDuplicate, EnrolmentState::Staged));
            let verdict = before.verdict.as_ref().expect("a possible duplicate has a verdict");
            assert!(verdict.candidates.iter().all(|candidate| !self.is_live(&candidate.enrolment_id)));
        }
    }

    pub(crate) fn record(&self, enrolment: &EnrolmentId) -> Option<EnrolmentRecord> {
        semel_shard::enrolment(&self.home(enrolment).rows, &gallery(), enrolment).expect("memory does not fail")
    }

    pub(crate) fn state(&self, enrolment: &EnrolmentId) -> EnrolmentState {
        self.record(enrolment).expect("an enrolment that was staged").state
    }

    pub(crate) fn is_live(&self, enrolment: &EnrolmentId) -> bool {
        self.record(enrolment).is_some_and(|record| record.state != EnrolmentState::Withdrawn)
    }

    pub(crate) fn case(&self, subject: &CaseSubject) -> Option<Case> {
        semel_shard::case(&self.home(subject.home()).rows, &gallery(), subject).expect("memory does not fail")
    }

    pub(crate) fn pair_case(&self, one: &EnrolmentId, other: &EnrolmentId) -> Option<Case> {
        self.case(&CaseSubject::pair(one, other).expect("two enrolments"))
    }

    pub(crate) fn stage(&mut self, enrolment: &EnrolmentId) -> Receipt {
        self.commit(&Command::Stage(stage(enrolment)))
    }

    pub(crate) fn withdraw(&mut self, enrolment: &EnrolmentId) -> Receipt {
        let reason = "left".to_owned();
        self.commit(&Command::Withdraw(Withdraw { gallery: gallery(), enrolment_id: enrolment.clone(), reason }))
    }

    /// Searches every shard as it is now for mates of a staged enrolment, and proposes what that decides.
    pub(crate) fn search(&self, enrolment: &EnrolmentId, mates: impl Fn(&EnrolmentId, &EnrolmentId) -> bool) -> Settle {
        let live = || self.shards.iter().flat_map(|shard| &shard.published).filter(|(_, live)| *live);
        let found = live().map(|(other, _)| other).filter(|other| *other != enrolment && mates(enrolment, other));
        self.propose(enrolment, found.map(|other| candidate(other, margin(enrolment, other))).collect())
    }

    /// The settle that names these candidates, with the evidence of a search of every shard as it is now.
    pub(crate) fn propose(&self, enrolment: &EnrolmentId, mut candidates: Vec<Candidate>) -> Settle {
        let record = self.record(enrolment).expect("an enrolment that was staged");
        let candidates_total = candidates.len() as u64;
        candidates.sort_by_key(|candidate| (Reverse(candidate.margin_micros), candidate.enrolment_id.clone()));
        candidates.truncate(self.candidates_max);
        let coverage = self.coverage(enrolment);
        let verdict = Verdict {
            kind: if candidates.is_empty() { VerdictKind::Unique } else { VerdictKind::PossibleDuplicate },
            saturated: candidates_total > candidates.len() as u64,
            candidates,
            candidates_total,
            coverage,
            policy_version: record.policy_version,
            round: record.round,
            settled_at_ms: 1_700_000_000_500,
        };
        Settle {
            gallery: gallery(),
            enrolment_id: enrolment.clone(),
            stage_index: record.stage_index,
            content_digest: record.content_digest,
            verdict,
            shards_count: self.count,
        }
    }

    fn coverage(&self, applicant: &EnrolmentId) -> Coverage {
        let part = |(shard, of): (ShardId, &Shard)| {
            let beside = of.published.iter().filter(|(other, live)| *live && other != applicant).count() as u64;
            ShardCoverage {
                shard,
                epoch: 1,
                searchable_index: of.index,
                compared: beside,
                not_comparable: 0,
                withdrawn: of.totals.withdrawn_total,
            }
        };
        let shards: Vec<ShardCoverage> = self.count.all().zip(&self.shards).map(part).collect();
        let compared = shards.iter().map(|part| part.compared).sum();
        Coverage { shards, live: compared, compared }
    }

    /// Carries one obligation to its addressee; with `discharge`, acknowledges it where it came from.
    pub(crate) fn carry(&mut self, shard: usize, obligation: &Obligation, discharge: bool) {
        let receipt = self.commit(&obligation.command);
        assert!(matches!(receipt, Receipt::Done { .. }), "an obligation was refused: {receipt:?}");
        if discharge {
            self.discharge(shard, vec![obligation.id]);
        }
    }

    pub(crate) fn discharge(&mut self, shard: usize, obligations: Vec<ObligationId>) {
        let receipt = self.commit_in(shard, &Command::Discharge(Discharge { obligations }), None);
        assert_eq!(receipt, Receipt::Done { obligations: Vec::new() });
    }

    /// Carries obligations until there are none.
    pub(crate) fn drain(&mut self) {
        while let Some((shard, obligation)) = self.first_obligation() {
            self.carry(shard, &obligation, true);
        }
        for shard in &self.shards {
            assert_eq!(semel_shard::obligations_count(&shard.rows).expect("memory does not fail"), 0);
        }
    }

    fn first_obligation(&self) -> Option<(usize, Obligation)> {
        let first = |(shard, of): (usize, &Shard)| Some((shard, of.obligations().into_iter().next()?));
        self.shards.iter().enumerate().find_map(first)
    }
}

fn margin(one: &EnrolmentId, other: &EnrolmentId) -> i32 {
    let letters = |id: &EnrolmentId| id.as_str().bytes().map(i32::from).sum::<i32>();
    (letters(one) + letters(other)) % 3 * 1_000
}
