//! What people bring in files.

use std::io::Cursor;
use std::path::PathBuf;

use semel_files::{BadRecord, Form, PolicyDocument, Record, Records, UnreadableFile};
use semel_fuzz::{fuzz, parts};
use semel_proto::v1::Modality;
use semel_proto::v1::biometric_reference::Template;

fn form() -> Form {
    Form { table: None, id_column: "enrolment_id".to_owned(), modality: Modality::Face }
}

/// Checks every record of a file that has at most `lines` of them.
fn check(records: impl Iterator<Item = Result<Record, BadRecord>>, lines: usize) {
    for (number, record) in records.enumerate() {
        assert!(number <= lines, "more records than lines, and one error for what follows them");
        match record {
            Ok(record) => {
                let request = record.into_request("people", 0);
                for reference in &request.references {
                    assert!(reference.template.is_some());
                    assert_ne!(reference.modality(), Modality::Unspecified);
                }
            }
            Err(bad) => assert!(bad.to_string().contains(&format!(":{}: ", bad.line)) && !bad.reason.is_empty()),
        }
    }
}

#[test]
fn json_lines() {
    fuzz!(|bytes| {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        check(Records::json_lines(Cursor::new(bytes.to_vec()), PathBuf::from("x.jsonl"), Modality::Face), lines);
    });
}

/// An array, then the table beside it.
#[test]
fn npy_files() {
    fuzz!(|bytes| {
        let parts = parts(bytes);
        let [array, table, ..] = parts.as_slice() else { return };
        let file = |bytes: &[u8], name: &str| (Cursor::new(bytes.to_vec()), PathBuf::from(name));
        match Records::npy(file(array, "x.npy"), file(table, "x.csv"), &form()) {
            Ok(records) => check(
                records.inspect(|record| {
                    for reference in record.iter().flat_map(|record| &record.references) {
                        let Some(Template::Embedding(embedding)) = &reference.template else { panic!("an embedding") };
                        assert!((1..=4_096).contains(&embedding.values.len()));
                    }
                }),
                table.len() + 1,
            ),
            Err(UnreadableFile { reason, .. }) => assert!(!reason.is_empty()),
        }
    });
}

/// A table. The reader of its format is another's and may panic: what is thrown here must not get out of the records.
#[test]
fn parquet_files() {
    fuzz!(
        |bytes| {
            match Records::parquet(bytes.to_vec(), PathBuf::from("x.parquet"), &form()) {
                // A few bytes may stand for any number of equal rows.
                Ok(records) => check(records.take(ROWS_MAX), ROWS_MAX),
                Err(UnreadableFile { reason, .. }) => assert!(!reason.is_empty()),
            }
        },
        inputs = 5_000
    );
}

/// Records of a table that are looked at.
const ROWS_MAX: usize = 10_000;

#[test]
fn policy_documents() {
    fuzz!(|bytes| {
        let Ok(document) = serde_json::from_slice::<PolicyDocument>(bytes) else { return };
        let written = serde_json::to_string(&document).expect("documents can be written");
        assert_eq!(serde_json::from_str::<PolicyDocument>(&written).expect("its own form"), document);
        if let Ok(policy) = document.to_wire() {
            for modality in &policy.modalities {
                assert!((1..=1_000_000).contains(&modality.review_threshold_micros), "a score that can be reached");
            }
            let shown = PolicyDocument::from_wire(&policy);
            assert_eq!(shown.to_wire().expect("its own form"), policy);
        }
    });
}
