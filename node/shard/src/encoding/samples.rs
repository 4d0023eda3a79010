//! Bytes that version 1 wrote, kept in `testdata/v1`: they decode to the same values for as long as version 1 is read.

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;
use semel_index::{
    BinaryCode, BinaryCodeSpec, CanonicalEmbedding, ComparisonScore, EnrolmentId, GalleryId, KeyVersion, Modality,
    PolicyVersion, Position, ShardCount, ShardId, Slot, Template, TemplateSpec,
};
use semel_raft::LogIndex;

use super::{StoredRow, decode_row, encode_row};
use crate::audit::{AuditContent, AuditEvent, AuditHead};
use crate::case::{Case, CaseState, CaseSubject};
use crate::command::{
    Command, ContentDigest, Discharge, LinkCase, MootCase, NoteMoot, OpenCase, Settle, Stage, Withdraw,
};
use crate::counts::Counts;
use crate::digest::StateDigest;
use crate::enrolment::{CanonicalReference, EnrolmentRecord, EnrolmentState, Provenance};
use crate::obligation::{Obligation, ObligationId};
use crate::rows::{EnrolmentEntry, Link, ObligationsCount, ReferencesEntry};
use crate::table;
use crate::verdict::{Candidate, ComparisonRecord, Coverage, ShardCoverage, Verdict, VerdictKind};
use crate::view::PendingEnrolment;

fn gallery() -> GalleryId {
    GalleryId::try_from("people").expect("a valid name")
}

fn id(text: &str) -> EnrolmentId {
    EnrolmentId::try_from(text).expect("a valid id")
}

fn face() -> Slot {
    Slot::new(Modality::Face, Position::Only).expect("faces have one position")
}

fn left_iris() -> Slot {
    Slot::new(Modality::Iris, Position::LeftEye).expect("irises have a left eye")
}

fn references() -> Vec<CanonicalReference> {
    let embedding = CanonicalEmbedding::from_f32(&[0.5, -0.5, 0.1, 0.7]).expect("a valid embedding");
    let spec = BinaryCodeSpec { rows: 2, columns: 8, bits_per_cell: 1, shifts_max: 2, common_bits_min: 4 };
    let code = BinaryCode::from_bytes(&spec, &[0xa5, 0x3c], &[0xff, 0xf0]).expect("a valid code");
    vec![
        CanonicalReference {
            slot: face(),
            spec: TemplateSpec::Embedding { dimension: 4 },
            template: Template::Embedding(embedding),
            quality: Some(0),
            algorithm_id: "face@1".to_owned(),
        },
        CanonicalReference {
            slot: left_iris(),
            spec: TemplateSpec::BinaryCode(spec),
            template: Template::BinaryCode(code),
            quality: None,
            algorithm_id: String::new(),
        },
    ]
}

fn provenance() -> Provenance {
    Provenance {
        site: "camp 4".to_owned(),
        operator_id: "operator 17".to_owned(),
        legal_basis: "act 12".to_owned(),
        purpose: "registration".to_owned(),
        captured_at_ms: 1_700_000_000_000,
    }
}

fn comparisons() -> Vec<ComparisonRecord> {
    let score = |micros| ComparisonScore::from_micros(micros).expect("a score in range");
    vec![
        ComparisonRecord { slot: face(), score: score(-20), threshold: score(-30) },
        ComparisonRecord { slot: left_iris(), score: score(700_000), threshold: score(650_000) },
    ]
}

fn verdict() -> Verdict {
    let part = |shard, searchable_index| ShardCoverage {
        shard: ShardId(shard),
        epoch: 1,
        searchable_index: LogIndex(searchable_index),
        compared: 10,
        not_comparable: 1,
        withdrawn: 2,
    };
    Verdict {
        kind: VerdictKind::PossibleDuplicate,
        candidates: vec![Candidate { enrolment_id: id("b"), margin_micros: 50_000, comparisons: comparisons() }],
        candidates_total: 2,
        saturated: true,
        coverage: Coverage { shards: vec![part(0, 77), part(1, 78)], live: 22, compared: 20 },
        policy_version: PolicyVersion(3),
        round: 1,
        settled_at_ms: 1_700_000_000_900,
    }
}

fn link_case() -> Command {
    Command::LinkCase(LinkCase { gallery: gallery(), enrolment_id: id("a"), other_enrolment_id: id("b") })
}

fn commands() -> Vec<(&'static str, Command)> {
    let content_digest = ContentDigest([7; 32]);
    let stage = Stage {
        gallery: gallery(),
        enrolment_id: id("a"),
        subject_id: "person 1".to_owned(),
        references: references(),
        provenance: provenance(),
        policy_version: PolicyVersion(3),
        key_version: KeyVersion(2),
        content_digest,
        received_at_ms: 1_700_000_000_500,
    };
    let settle = Settle {
        gallery: gallery(),
        enrolment_id: id("a"),
        stage_index: LogIndex(42),
        content_digest,
        verdict: verdict(),
        shards_count: ShardCount::new(2).expect("in range"),
    };
    let open = OpenCase {
        gallery: gallery(),
        opened_by: id("b"),
        candidate: id("a"),
        comparisons: comparisons(),
        opened_at_ms: 1_700_000_000_900,
    };
    let withdraw = Withdraw { gallery: gallery(), enrolment_id: id("a"), reason: "moved away".to_owned() };
    let moot = MootCase { gallery: gallery(), withdrawn: id("a"), other_enrolment_id: id("b") };
    let note = NoteMoot { gallery: gallery(), enrolment_id: id("b"), withdrawn: id("a") };
    vec![
        ("command_stage", Command::Stage(stage)),
        ("command_settle", Command::Settle(settle)),
        ("command_withdraw", Command::Withdraw(withdraw)),
        ("command_open_case", Command::OpenCase(open)),
        ("command_link_case", link_case()),
        ("command_moot_case", Command::MootCase(moot)),
        ("command_note_moot", Command::NoteMoot(note)),
        (
            "command_discharge",
            Command::Discharge(Discharge { obligations: vec![ObligationId(1), ObligationId(1 << 40)] }),
        ),
    ]
}

fn enrolment() -> EnrolmentEntry {
    let record = EnrolmentRecord {
        gallery: gallery(),
        enrolment_id: id("a"),
        subject_id: "person 1".to_owned(),
        state: EnrolmentState::Withdrawn,
        verdict: None,
        provenance: provenance(),
        shard: ShardId(1),
        stage_index: LogIndex(42),
        received_at_ms: 1_700_000_000_500,
        policy_version: PolicyVersion(3),
        key_version: KeyVersion(2),
        content_digest: ContentDigest([7; 32]),
        round: 2,
        round_index: LogIndex(90),
        references: references().iter().map(CanonicalReference::summary).collect(),
        withdrawal_reason: Some("moved away".to_owned()),
        case_ids: Vec::new(),
        cases_total: 5,
    };
    EnrolmentEntry { record, verdict_round: 1, cases_open: 3, moot_from: Some(id("c")) }
}

fn case(subject: CaseSubject, state: CaseState, comparisons: Vec<ComparisonRecord>) -> Case {
    Case {
        case_id: subject.case_id(&gallery()),
        gallery: gallery(),
        opened_by: subject.enrolment_ids().into_iter().cloned().collect(),
        subject,
        state,
        comparisons,
        opened_at_ms: 1_700_000_000_900,
    }
}

fn kept(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1").join(name).with_extension("bin");
    std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display())).into()
}

fn check_row<R: StoredRow + PartialEq + Debug>(name: &str, key: &[u8], row: &R) {
    assert_eq!(encode_row(row), kept(name), "{name}");
    assert_eq!(&decode_row::<R>(key, &kept(name)).expect("version 1 is read"), row, "{name}");
}

#[test]
fn commands_of_version_1_are_read_and_written() {
    for (name, command) in commands() {
        assert_eq!(command.encode(), kept(name), "{name}");
        assert_eq!(Command::decode(&kept(name)).expect("version 1 is read"), command, "{name}");
    }
}

#[test]
fn rows_of_version_1_are_read_and_written() {
    let pair = CaseSubject::pair(&id("b"), &id("a")).expect("two enrolments");
    let link = Link { case_id: pair.case_id(&gallery()), moot: true };
    let moot = CaseState::Moot { withdrawn: id("b") };
    let obligation = Obligation { id: ObligationId(9), gallery: gallery(), addressee: id("a"), command: link_case() };
    let (stage_index, key_version) = (LogIndex(42), KeyVersion(2));
    let references = ReferencesEntry {
        stage_index,
        gallery: gallery(),
        enrolment_id: id("a"),
        key_version,
        references: references(),
    };
    let pending = PendingEnrolment { gallery: gallery(), enrolment_id: id("a"), stage_index, round: 2 };
    let counts = Counts { staged_total: 9, withdrawn_total: 2, pending: 1, cases: 3 };
    check_row("row_enrolment", &table::enrolment(&gallery(), &id("a")), &enrolment());
    check_row("row_references", &table::staged_at(stage_index), &references);
    check_row("row_verdict", &table::verdict(&gallery(), &id("a"), 1), &verdict());
    check_row("row_case_pair", b"", &case(pair, moot, comparisons()));
    check_row("row_case_cluster", b"", &case(CaseSubject::Cluster(id("a")), CaseState::Open, Vec::new()));
    check_row("row_link", &table::link(&gallery(), &id("a"), Some(&id("b"))), &link);
    check_row("row_obligation", &table::obligation(obligation.id), &obligation);
    check_row("row_pending", &table::staged_at(stage_index), &pending);
    check_row("row_counts", &table::gallery(&gallery()), &counts);
}

#[test]
fn rows_about_the_shard_of_version_1_are_read_and_written() {
    let mut head = AuditHead::default();
    let entry = head.append(AuditContent {
        index: LogIndex(42),
        event: AuditEvent::CaseOpened,
        gallery: gallery(),
        enrolment_id: id("a"),
        other_enrolment_id: Some(id("b")),
        command_digest: [5; 32],
    });
    check_row("row_audit", &table::audit(entry.sequence), &entry);
    check_row("row_audit_head", table::AUDIT_HEAD_KEY, &head);
    check_row("row_obligations_count", table::OBLIGATIONS_COUNT_KEY, &ObligationsCount(12));
    check_row("row_digest", table::DIGEST_KEY, &StateDigest::from_bytes([3; 16]));
}
