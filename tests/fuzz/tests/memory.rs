//! No decoder asks for more memory than its input accounts for, whatever lengths that input claims. One test, because it measures
//! the whole process.

use std::io::Cursor;
use std::path::PathBuf;

use peak_alloc::PeakAlloc;
use prost::Message;
use semel_files::{Form, PolicyDocument, Records};
use semel_fuzz::{fuzz, parts};
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_proto::v1::Modality;
use semel_raft::decode_message;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// What one byte of input may cost: the items of a list of empty messages are two bytes on the wire and some 160 in memory, a growing
/// list holds up to twice its items while it moves, and a request is also converted.
const BYTES_PER_BYTE_MAX: usize = 640;
/// What an empty input may cost: readers have buffers, errors have texts.
const BYTES_MIN: usize = 64 * 1024;

fn decode(kind: u8, bytes: &[u8]) {
    match kind % 8 {
        0 => drop(public::EnrolRequest::decode(bytes).map(semel_coordinator_wire::enrolment_request)),
        1 => drop(wire::Command::decode(bytes).map(semel_node_wire::command)),
        2 => drop(wire::SearchProbe::decode(bytes).map(semel_node_wire::probe)),
        3 => drop(decode_message(bytes)),
        4 => drop(semel_shard::Command::decode(bytes)),
        5 => Records::json_lines(Cursor::new(bytes.to_vec()), PathBuf::from("x.jsonl"), Modality::Face).for_each(drop),
        6 => {
            let form = Form { table: None, id_column: "enrolment_id".to_owned(), modality: Modality::Face };
            let file = |bytes: &[u8]| (Cursor::new(bytes.to_vec()), PathBuf::from("x"));
            if let [array, table, ..] = parts(bytes).as_slice()
                && let Ok(records) = Records::npy(file(array), file(table), &form)
            {
                records.for_each(drop);
            }
        }
        _ => drop(serde_json::from_slice::<PolicyDocument>(bytes).map(|document| document.to_wire())),
    }
}

#[test]
fn memory() {
    fuzz!(|bytes| {
        let Some((kind, bytes)) = bytes.split_first() else { return };
        ALLOCATED.reset_peak_usage();
        let before = ALLOCATED.current_usage();
        decode(*kind, bytes);
        let cost = ALLOCATED.peak_usage().saturating_sub(before);
        let cost_max = BYTES_MIN + BYTES_PER_BYTE_MAX * bytes.len();
        assert!(cost <= cost_max, "{} bytes cost {cost}, at most {cost_max} were to be expected", bytes.len());
    });
}
