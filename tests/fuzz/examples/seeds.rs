//! Writes the seeds of the corpora: real encodings of every kind of value. `cargo run -p semel-fuzz --example seeds`, after a
//! new target or a new kind; what a fuzzer or a defect left in a corpus is not touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use prost::Message;
use semel_fuzz::{joined, replica, samples};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_raft::encode_message;

fn main() {
    requests();
    answers();
    raft();
    shard();
    metadata();
    files();
    templates();
    stored();
    memory();
}

/// A catalogue with two kept segments, of which one was compacted, a growing one, and withdrawals.
fn stored() {
    use semel_index::{
        CanonicalEmbedding, Catalogue, CatalogueConfig, CheckpointHeader, CheckpointOf, EnrolmentId, GalleryId,
        KeyVersion, Modality, Position, Slot, StagedEnrolment, StagedReference, StoreKey, Template, TemplateSpec,
    };
    let mut catalogue = Catalogue::new(CatalogueConfig { seal_at_references: 2, ..CatalogueConfig::default() });
    let gallery = GalleryId::try_from("people").expect("valid");
    let id = |number: u8| EnrolmentId::try_from(format!("a-{number}")).expect("valid");
    for number in 0..5_u8 {
        let face = CanonicalEmbedding::from_f32(&[1.0, f32::from(number), 3.0, 4.0]).expect("valid");
        let slot = Slot::new(Modality::Face, Position::Only).expect("exists");
        let spec = TemplateSpec::Embedding { dimension: 4 };
        let references = vec![StagedReference { slot, spec, template: Template::Embedding(face) }];
        let (gallery, enrolment_id, key_version) = (gallery.clone(), id(number), KeyVersion(1));
        let staged = StagedEnrolment { gallery, enrolment_id, key_version, references };
        catalogue.stage(u64::from(number) + 1, staged);
    }
    catalogue.withdraw(7, &gallery, &id(1));
    let key = StoreKey::new([7; 32]);
    for job in catalogue.seal_jobs() {
        catalogue.sealed(job.run());
    }
    let compaction = catalogue.compaction_job().expect("half of a segment is withdrawn");
    catalogue.compacted(compaction.run(), None);
    catalogue.withdraw(8, &gallery, &id(3));
    let mut number = 0;
    while let Some(mut job) = catalogue.store_job(3) {
        let mut bytes = Vec::new();
        let written = job.write(&key, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, std::convert::Infallible>(())
        });
        catalogue.stored(&job.ticket(), written.expect("memory takes all"), None);
        seed("segment_files", &format!("faces-{number}"), bytes);
        number += 1;
    }
    let of = CheckpointOf { shard: 3, parameters: "as here".to_owned() };
    let header = CheckpointHeader { of, searchable_index: 8, withdrawn_up_to: 2, history: (9, [4; 32]) };
    let checkpoint = catalogue.snapshot().checkpoint(&key, &header);
    // Behind magic and format, before the seal.
    seed("checkpoints", "people", &checkpoint[12..checkpoint.len() - 32]);
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__").join(target).join("corpus");
    std::fs::create_dir_all(&folder).expect("the corpus can be written");
    std::fs::write(folder.join(format!("seed-{name}")), bytes).expect("the corpus can be written");
}

/// A message after the byte that names its kind in a target of several.
fn of_kind(kind: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![kind];
    message.encode(&mut bytes).expect("a vector grows as needed");
    bytes
}

fn policy() -> public::Policy {
    semel_coordinator_wire::policy(&samples::GALLERY.policy)
}

fn requests() {
    let (gallery, enrolment_id) = ("people".to_owned(), "a-1".to_owned());
    let create = public::CreateGalleryRequest { name: gallery.clone(), policy: Some(policy()) };
    let identify = public::IdentifyRequest {
        gallery: gallery.clone(),
        references: samples::references(),
        purpose: "aid".to_owned(),
        wait_ms: 500,
        ..Default::default()
    };
    let public_requests = [
        of_kind(0, &samples::enrolment()),
        of_kind(1, &public::EnrolStreamRequest { sequence: 7, enrolment: Some(samples::enrolment()) }),
        of_kind(
            2,
            &public::GetEnrolmentRequest { gallery: gallery.clone(), enrolment_id: enrolment_id.clone(), wait_ms: 9 },
        ),
        of_kind(
            3,
            &public::WithdrawEnrolmentRequest {
                gallery: gallery.clone(),
                enrolment_id: enrolment_id.clone(),
                reason: "asked".to_owned(),
            },
        ),
        of_kind(4, &identify),
        of_kind(
            5,
            &public::VerifyRequest {
                gallery: gallery.clone(),
                enrolment_id: enrolment_id.clone(),
                references: samples::references(),
            },
        ),
        of_kind(6, &create),
        of_kind(7, &public::GetGalleryRequest { name: gallery.clone() }),
        of_kind(8, &public::ListGalleriesRequest {}),
        of_kind(9, &public::UpdatePolicyRequest { name: gallery.clone(), policy: Some(policy()), expected_version: 3 }),
        of_kind(
            10,
            &public::GetCaseRequest {
                gallery: gallery.clone(),
                enrolment_id: enrolment_id.clone(),
                other_enrolment_id: "b-2".to_owned(),
            },
        ),
        of_kind(11, &public::ListCasesRequest { gallery: gallery.clone(), ..Default::default() }),
        of_kind(12, &public::GetClusterStatusRequest {}),
    ];
    for (kind, bytes) in public_requests.iter().enumerate() {
        seed("public_requests", &format!("{kind:02}"), bytes);
    }
    seed("enrol_requests", "whole", samples::enrolment().encode_to_vec());
    for (place, reference) in samples::references().into_iter().enumerate() {
        let one = public::EnrolRequest { references: vec![reference], provenance: None, ..samples::enrolment() };
        seed("enrol_requests", &format!("reference-{place}"), one.encode_to_vec());
    }
    seed("identify_requests", "whole", identify.encode_to_vec());
    seed("policy_requests", "whole", create.encode_to_vec());
    let defaults = public::Policy { modalities: policy().modalities, ..Default::default() };
    seed(
        "policy_requests",
        "defaults",
        public::CreateGalleryRequest { policy: Some(defaults), ..create }.encode_to_vec(),
    );

    let cluster_id = bytes::Bytes::from_static(&[1; 16]);
    let message = encode_message(&replica::exchange()[0]);
    let envelope = wire::Envelope { group: 1, message, ..Default::default() };
    let internal_requests = [
        of_kind(
            0,
            &wire::JoinRequest { node_id: vec![2; 16].into(), address: "host-1:7500".to_owned(), ..Default::default() },
        ),
        of_kind(1, &wire::ReportRequest { cluster_id: cluster_id.clone(), ..Default::default() }),
        of_kind(2, &wire::ExchangeRequest { envelopes: vec![envelope], ..Default::default() }),
        of_kind(3, &wire::ProposeRequest { cluster_id: cluster_id.clone(), shard: 1, command: Some(samples::stage()) }),
        of_kind(
            4,
            &wire::SearchRequest {
                cluster_id: cluster_id.clone(),
                shards: vec![0, 1],
                probes: vec![samples::probe()],
                ..Default::default()
            },
        ),
        of_kind(
            5,
            &wire::ReadEnrolmentRequest {
                cluster_id: cluster_id.clone(),
                gallery: gallery.clone(),
                enrolment_id: enrolment_id.clone(),
                with_templates: true,
                ..Default::default()
            },
        ),
        of_kind(6, &wire::ListPendingRequest { cluster_id: cluster_id.clone(), shard: 1, items_max: 100 }),
        of_kind(
            7,
            &wire::ReadCaseRequest {
                cluster_id: cluster_id.clone(),
                shard: 1,
                gallery: gallery.clone(),
                enrolment_id,
                other_enrolment_id: "b-2".to_owned(),
            },
        ),
        of_kind(8, &wire::ScanCasesRequest { cluster_id, shard: 1, gallery, ..Default::default() }),
    ];
    for (kind, bytes) in internal_requests.iter().enumerate() {
        seed("internal_requests", &format!("{kind:02}"), bytes);
    }
    seed("probes", "whole", samples::probe().encode_to_vec());
    for (name, command) in proposals() {
        seed("proposals", name, wire::Command { command: Some(command) }.encode_to_vec());
    }
}

fn proposals() -> Vec<(&'static str, wire::command::Command)> {
    use wire::command::Command;
    let (gallery, a, b) = ("people".to_owned(), "a-1".to_owned(), "b-2".to_owned());
    vec![
        ("stage", samples::stage().command.expect("a stage")),
        (
            "settle",
            Command::Settle(wire::SettleCommand {
                gallery: gallery.clone(),
                enrolment_id: a.clone(),
                stage_index: 12,
                content_digest: vec![7; 32].into(),
                verdict: Some(samples::verdict()),
                shards_count: 2,
            }),
        ),
        (
            "withdraw",
            Command::Withdraw(wire::WithdrawCommand {
                gallery: gallery.clone(),
                enrolment_id: a.clone(),
                reason: "asked".to_owned(),
            }),
        ),
        (
            "open_case",
            Command::OpenCase(wire::OpenCaseCommand {
                gallery: gallery.clone(),
                opened_by: a.clone(),
                candidate: b.clone(),
                comparisons: vec![samples::comparison()],
                opened_at_ms: 5,
            }),
        ),
        (
            "link_case",
            Command::LinkCase(wire::LinkCaseCommand {
                gallery: gallery.clone(),
                enrolment_id: a.clone(),
                other_enrolment_id: b.clone(),
            }),
        ),
        (
            "moot_case",
            Command::MootCase(wire::MootCaseCommand {
                gallery: gallery.clone(),
                withdrawn: a.clone(),
                other_enrolment_id: b.clone(),
            }),
        ),
        ("note_moot", Command::NoteMoot(wire::NoteMootCommand { gallery, enrolment_id: a, withdrawn: b })),
        ("discharge", Command::Discharge(wire::DischargeCommand { obligations: vec![1, 2, u64::MAX] })),
    ]
}

fn references() -> Vec<wire::CanonicalReference> {
    match samples::stage().command {
        Some(wire::command::Command::Stage(stage)) => stage.references,
        _ => unreachable!("a stage"),
    }
}

fn answers() {
    let read = wire::ReadEnrolmentResponse { receipt: Some(samples::receipt()), references: references() };
    seed("records", "whole", read.encode_to_vec());
    let (_, command) = proposals().swap_remove(3);
    let obligation = wire::Obligation {
        id: 5,
        gallery: "people".to_owned(),
        addressee: "b-2".to_owned(),
        command: Some(wire::Command { command: Some(command) }),
    };
    let enrolment = wire::propose_response::Receipt::Enrolment(samples::receipt());
    let settled = wire::ProposeResponse { receipt: Some(enrolment), obligations: vec![obligation] };
    seed("receipts", "enrolment", settled.encode_to_vec());
    let refused = wire::propose_response::Receipt::Refused(wire::RefusedReceipt { refusal: 3 });
    seed("receipts", "refused", wire::ProposeResponse { receipt: Some(refused), obligations: vec![] }.encode_to_vec());
    let probe = wire::ProbeAnswer {
        compared: 10,
        not_comparable: 1,
        withdrawn: 2,
        candidates: vec![samples::candidate()],
        candidates_total: 1,
    };
    let answer = wire::ShardAnswer { epoch: 1, searchable_index: 77, probes: vec![probe.clone(), probe] };
    seed("shard_answers", "whole", answer.encode_to_vec());
}

fn raft() {
    // One of each kind and sender is enough: the rest are the same with other numbers.
    let mut kinds = BTreeMap::new();
    for message in replica::exchange() {
        let kind = (message.msg_type, message.entries.is_empty(), message.reject);
        kinds.entry(kind).or_insert(message);
    }
    for ((kind, empty, _), message) in &kinds {
        let name = format!("{kind:02}{}", if *empty { "" } else { "-entries" });
        seed("raft_messages", &name, encode_message(message));
        for role in 0..7_u8 {
            // Addressed to the replica of the target, and of the term that it is in.
            let from = if message.from == 1 { 2 } else { message.from };
            let term = if message.term == 0 { 0 } else { [1, 3, 3, 4, 4, 1, 4][usize::from(role)] };
            let message = semel_raft::Message { from, to: 1, term, ..message.clone() };
            let steps: [&[u8]; 3] = [&encode_message(&message), &[], &[role]];
            seed("raft_steps", &format!("{role}-{name}"), [&[role][..], &joined(steps)].concat());
        }
    }
    let rows_v1 = std::fs::read_to_string(repository().join("node/raft/tests/testdata/rows_v1.txt")).expect("rows");
    let rows: BTreeMap<&str, Vec<u8>> = rows_v1.lines().filter_map(|line| line.split_once(' ')).map(hex).collect();
    for (name, row) in &rows {
        seed(if *name == "snapshot" { "raft_snapshots" } else { "raft_rows" }, name, row);
    }
    for (role, name) in [(0_u8, "fresh"), (1, "follower"), (4, "leader"), (5, "joiner")] {
        let steps: [&[u8]; 3] = [&rows["snapshot"], &[], &[4]];
        seed("raft_steps", &format!("{role}-snapshot-{name}"), [&[role][..], &joined(steps)].concat());
    }
    let entry = |index: u8| [&[1, 0x10, 1, 0x18, index][..], b"\x22\x03abc"].concat();
    let conf_state = [1, 0x0a, 3, 1, 2, 3];
    let (entries, hard_state) = ([entry(1), entry(2)], [1, 0x08, 1, 0x10, 2, 0x18, 1]);
    let store: [&[u8]; 5] = [&conf_state, &hard_state, &[1, 0, 0, 0, 0, 0, 0, 0, 1], &entries[0], &entries[1]];
    seed("raft_stores", "log", joined(store));
    seed("raft_stores", "new", joined([&conf_state[..], &[], &[]]));
    let (applied, truncated, epoch) = (&rows["applied"], &rows["truncated"], &rows["epoch"]);
    let entry_299 = [&[1, 0x10, 7, 0x18, 0xab, 2][..], b"\x22\x03abc"].concat();
    let cut: [&[u8]; 6] = [&conf_state, &rows["hard_state"], applied, truncated, epoch, &entry_299];
    seed("raft_cut_stores", "log", joined(cut));
    let bare: [&[u8]; 5] =
        [&conf_state, &rows["founded_hard_state"], &rows["founded_applied"], &rows["founded_truncated"], epoch];
    seed("raft_cut_stores", "new", joined(bare));
    let joint = [1, 0x0a, 2, 1, 2, 0x12, 1, 4, 0x1a, 2, 1, 3, 0x22, 1, 3, 0x28, 1];
    seed("raft_stores", "joint", joined([&joint[..], &hard_state, &[], &entries[0]]));
}

fn hex<'a>((name, digits): (&'a str, &str)) -> (&'a str, Vec<u8>) {
    (name, unhex(digits))
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex")).collect()
}

fn shard() {
    let log = samples::shard_log();
    seed("shard_logs", "all", joined(log.iter().map(|command| &command[..])));
    seed("shard_logs", "stages", joined(log[..2].iter().map(|command| &command[..])));
    for entry in std::fs::read_dir(repository().join("node/shard/testdata/v1")).expect("testdata") {
        let path = entry.expect("testdata").path();
        let (name, bytes) = (path.file_stem().expect("a name").to_string_lossy(), std::fs::read(&path).expect("bytes"));
        if let Some(name) = name.strip_prefix("command_") {
            seed("shard_commands", name, &bytes);
            seed("shard_logs", name, joined([&log[0][..], &log[1], &bytes]));
        } else if let Some(name) = name.strip_prefix("row_") {
            let (table, key) = place(name);
            seed("shard_rows", name, [&[table][..], &joined([key, &bytes])].concat());
        }
    }
}

/// The place among `semel_shard::TABLES`, and the key, of a kept row.
fn place(row: &str) -> (u8, &'static [u8]) {
    match row {
        "enrolment" => (0, b"people\0a"),
        "references" => (1, &[0, 0, 0, 0, 0, 0, 0, 1]),
        "verdict" => (2, b"people\0a\0\0\0\0\x01"),
        "case_pair" | "case_cluster" => (3, b"people\0case"),
        "link" => (4, b"people\0a\0b"),
        "obligation" => (5, &[0, 0, 0, 0, 0, 0, 0, 1]),
        "pending" => (6, &[0, 0, 0, 0, 0, 0, 0, 2]),
        "counts" => (7, b"people"),
        "digest" => (7, b"\0digest"),
        "obligations_count" => (7, b"\0obligations"),
        "audit_head" => (7, b"\0audit"),
        "audit" => (8, &[0, 0, 0, 0, 0, 0, 0, 1]),
        other => panic!("a row of the new kind {other}: say where it is kept"),
    }
}

fn metadata() {
    let folder = repository().join("coordinator/core/testdata/v1");
    let commands = std::fs::read_to_string(folder.join("commands.hex")).expect("testdata");
    let commands: Vec<Vec<u8>> = commands.lines().map(unhex).collect();
    for (number, command) in commands.iter().enumerate() {
        seed("metadata_commands", &format!("{number:02}"), command);
    }
    seed("metadata_logs", "all", joined(commands.iter().map(Vec::as_slice)));
    for (number, row) in std::fs::read_to_string(folder.join("rows.hex")).expect("testdata").lines().enumerate() {
        let (key, value) = row.split_once(' ').expect("a key and a value");
        seed("metadata_rows", &format!("{number:02}"), joined([&unhex(key)[..], &unhex(value)]));
    }
    for version in ["v2", "v3"] {
        let read =
            |name| std::fs::read_to_string(repository().join("coordinator/core/testdata").join(version).join(name));
        for (number, command) in read("commands.hex").expect("testdata").lines().enumerate() {
            seed("metadata_commands", &format!("{version}-{number:02}"), unhex(command));
        }
        for (number, row) in read("rows.hex").expect("testdata").lines().enumerate() {
            let (key, value) = row.split_once(' ').expect("a key and a value");
            seed("metadata_rows", &format!("{version}-{number:02}"), joined([&unhex(key)[..], &unhex(value)]));
        }
    }
}

const JSON_LINES: &str = r#"{"enrolment_id": "a-1", "references": [{"modality": "face", "embedding": [0.1, -2e-3, 5], "quality": 80, "algorithm_id": "arcface-r100@1"}, {"modality": "iris", "position": "left-eye", "code": "/wA=", "mask": "//8="}], "subject_id": "p", "provenance": {"site": "camp 4", "operator_id": "o", "legal_basis": "l", "purpose": "aid", "captured_at_ms": 0}}

{"references": [{"embedding": [1]}]}
"#;

const POLICY: &str = r#"{"version": 3, "modalities": [{"modality": "iris", "threshold": 0.68, "spec": {"binary_code": {"rows": 16, "columns": 256, "bits_per_cell": 2, "shifts_max": 8, "common_bits_min": 2048}}}, {"modality": "face", "threshold": 1, "spec": {"embedding": {"dimension": 512}}}], "miss_budget_ppb": 30000, "comparable_share_min_ppm": 990000, "candidates_max": 64, "purposes": ["aid"], "identification_allowed": true, "retention_days": 0, "engine": "sketch"}"#;

const TABLE: &str = "note,enrolment_id,quality,modality,position,site,captured_at_ms,subject_id\n\
    x,a,80,iris,left-eye,\"camp, 4\",1700000000000,p\nx,a,,face,,,,\ny, b ,,voice,,,,\n";

/// An array as numpy writes it.
fn array(version: u8, rows: usize, dimension: usize) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}\n");
    let mut bytes = [b"\x93NUMPY", &[version, 0][..]].concat();
    let length = u32::try_from(header.len()).expect("short").to_le_bytes();
    bytes.extend(if version == 1 { &length[..2] } else { &length[..] });
    bytes.extend(header.as_bytes());
    bytes.extend((0..rows * dimension).flat_map(|value| (value as f32).to_le_bytes()));
    bytes
}

fn files() {
    seed("json_lines", "both", JSON_LINES);
    seed("policy_documents", "whole", POLICY);
    seed(
        "policy_documents",
        "least",
        r#"{"modalities": [{"modality": "face", "threshold": 0.42, "spec": {"embedding": {"dimension": 4}}}]}"#,
    );
    for version in [1, 2, 3] {
        seed("npy_files", &format!("version-{version}"), joined([&array(version, 3, 4)[..], TABLE.as_bytes()]));
    }
    seed("npy_files", "one", joined([&array(1, 1, 1)[..], b"enrolment_id\na\n"]));
    for (name, compression) in [("plain", Compression::UNCOMPRESSED), ("snappy", Compression::SNAPPY)] {
        seed("parquet_files", name, table(compression));
    }
}

/// A table of Parquet: five rows in two row groups, with every kind of column.
fn table(compression: Compression) -> Vec<u8> {
    let schema =
        "message people { required binary enrolment_id (UTF8); optional int32 quality; optional int64 captured_at_ms;
        required group embedding (LIST) { repeated group list { required float element; } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    for ids in [&["a", "b", "b"][..], &["c", "d"]] {
        let mut group = writer.next_row_group().expect("a row group");
        let rows = ids.len();
        let ids: Vec<ByteArray> = ids.iter().map(|id| ByteArray::from(*id)).collect();
        let mut column = group.next_column().expect("a column").expect("the id");
        column.typed::<ByteArrayType>().write_batch(&ids, None, None).expect("written");
        column.close().expect("it ends");
        let mut column = group.next_column().expect("a column").expect("the quality");
        column
            .typed::<Int32Type>()
            .write_batch(&[80], Some(&[&[1][..], &vec![0; rows - 1]].concat()), None)
            .expect("written");
        column.close().expect("it ends");
        let mut column = group.next_column().expect("a column").expect("the time");
        column.typed::<Int64Type>().write_batch(&vec![7; rows], Some(&vec![1; rows]), None).expect("written");
        column.close().expect("it ends");
        let mut column = group.next_column().expect("a column").expect("the embedding");
        let values: Vec<f32> = (0..rows * 4).map(|value| value as f32).collect();
        let repetitions = [0, 1, 1, 1].repeat(rows);
        column
            .typed::<FloatType>()
            .write_batch(&values, Some(&vec![1; rows * 4]), Some(&repetitions))
            .expect("written");
        column.close().expect("it ends");
        group.close().expect("it ends");
    }
    writer.into_inner().expect("the file ends")
}

fn templates() {
    for (place, reference) in references().iter().enumerate() {
        // The byte that stands for the reference's spec, see the target.
        let spec = [16, 8, 2 * 38 + 1, 2 * 38 + 1][place];
        seed("templates", &format!("{place}"), [&[spec][..], &reference.template].concat());
    }
    let values = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    seed("embeddings", "usual", values(&[0.25, -0.5, 1.5, 0.0]));
    seed("embeddings", "edges", values(&[f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0]));
}

fn memory() {
    let commands = samples::shard_log();
    let inputs: [&[u8]; 8] = [
        &samples::enrolment().encode_to_vec(),
        &samples::stage().encode_to_vec(),
        &samples::probe().encode_to_vec(),
        &encode_message(&replica::exchange()[0]),
        &commands[0],
        JSON_LINES.as_bytes(),
        &joined([&array(1, 3, 4)[..], TABLE.as_bytes()]),
        POLICY.as_bytes(),
    ];
    for (kind, input) in (0..).zip(inputs) {
        seed("memory", &format!("{kind:02}"), [&[kind][..], input].concat());
    }
}
