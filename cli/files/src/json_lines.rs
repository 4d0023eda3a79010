//! Records as JSON, one object per line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use semel_proto::v1::{BinaryCode, BiometricReference, Embedding, Modality, Position, Provenance, biometric_reference};
use serde::Deserialize;

use crate::names;
use crate::records::{BadRecord, Record, Records, UnreadableFile};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    enrolment_id: String,
    #[serde(default)]
    subject_id: String,
    references: Vec<ReferenceDocument>,
    provenance: Option<ProvenanceDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceDocument {
    modality: Option<String>,
    position: Option<String>,
    embedding: Option<Vec<f32>>,
    code: Option<String>,
    mask: Option<String>,
    quality: Option<u32>,
    #[serde(default)]
    algorithm_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct ProvenanceDocument {
    site: String,
    operator_id: String,
    legal_basis: String,
    purpose: String,
    captured_at_ms: i64,
}

/// The longest line taken, in bytes: several times what 16 references of 4,096 components need.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes at the beginning of a file whose lines are counted; longer files are estimated from them.
const COUNTED_BYTES: u64 = 8 * 1024 * 1024;

pub(crate) fn open(path: &Path, modality: Modality) -> Result<Records, UnreadableFile> {
    let unreadable = |error: std::io::Error| UnreadableFile { file: path.to_owned(), reason: error.to_string() };
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let count = count(BufReader::new(file), size).map_err(unreadable)?;
    let reader = BufReader::new(File::open(path).map_err(unreadable)?);
    Ok(Records { count: Some(count), ..Records::json_lines(reader, path.to_owned(), modality) })
}

/// About how many lines a file of so many bytes has, so that the time left can be told.
fn count(reader: impl Read, size: u64) -> std::io::Result<u64> {
    let (mut lines, mut seen, mut open_line) = (0_u64, 0_u64, false);
    let mut reader = BufReader::new(reader.take(COUNTED_BYTES));
    loop {
        let bytes = reader.fill_buf()?;
        let Some(last) = bytes.last() else { break };
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        open_line = *last != b'\n';
        seen += bytes.len() as u64;
        let length = bytes.len();
        reader.consume(length);
    }
    if seen < size && lines > 0 {
        return Ok((u128::from(size) * u128::from(lines) / u128::from(seen)) as u64);
    }
    Ok(lines + u64::from(open_line))
}

pub(crate) fn records(
    reader: impl BufRead + Send,
    file: PathBuf,
    modality: Modality,
) -> impl Iterator<Item = Result<Record, BadRecord>> + Send {
    let mut lines = Lines { reader, number: 0, ended: false };
    std::iter::from_fn(move || {
        loop {
            let (line, text) = lines.next()?;
            let bad = |(enrolment_id, reason)| BadRecord { file: file.clone(), line, enrolment_id, reason };
            match text {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Some(parse(&text, modality).map(|record| Record { line, ..record }).map_err(bad)),
                Err(reason) => return Some(Err(bad((String::new(), reason)))),
            }
        }
    })
}

/// Lines of bounded length.
struct Lines<R> {
    reader: R,
    number: u64,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    /// The next line with its number. One that is too long or no UTF-8 is that line's fault; after any other fault there is nothing
    /// more to read.
    fn next(&mut self) -> Option<(u64, Result<String, String>)> {
        if self.ended {
            return None;
        }
        self.number += 1;
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes);
        let text = match read {
            Ok(0) => return None,
            Ok(_) if bytes.len() > LINE_BYTES_MAX => {
                drop(bytes);
                self.skip_line();
                Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"))
            }
            Ok(_) => String::from_utf8(bytes).map_err(|_| "the line is not UTF-8".to_owned()),
            Err(error) => {
                self.ended = true;
                Err(error.to_string())
            }
        };
        Some((self.number, text))
    }

    fn skip_line(&mut self) {
        loop {
            let (found, length) = match self.reader.fill_buf() {
                Ok([]) | Err(_) => {
                    self.ended = true;
                    return;
                }
                Ok(bytes) => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(place) => (true, place + 1),
                    None => (false, bytes.len()),
                },
            };
            self.reader.consume(length);
            if found {
                return;
            }
        }
    }
}

/// The record of a line; else the id, where it is known, and what is wrong.
fn parse(text: &str, modality: Modality) -> Result<Record, (String, String)> {
    let document: Document = serde_json::from_str(text).map_err(|error| (String::new(), without_value(&error)))?;
    let references: Result<_, String> = document
        .references
        .into_iter()
        .enumerate()
        .map(|(place, each)| reference(each, modality).map_err(|reason| format!("references[{place}]: {reason}")))
        .collect();
    let references = references.map_err(|reason| (document.enrolment_id.clone(), reason))?;
    Ok(Record {
        line: 0,
        enrolment_id: document.enrolment_id,
        subject_id: document.subject_id,
        references,
        provenance: document.provenance.map(|given| Provenance {
            site: given.site,
            operator_id: given.operator_id,
            legal_basis: given.legal_basis,
            purpose: given.purpose,
            captured_at_ms: given.captured_at_ms,
        }),
    })
}

/// What is wrong with a document, without the value that is: it may be a template, and errors are shown and logged.
fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let kinds = ["invalid type", "invalid value"].into_iter();
    let shortened = kinds.filter(|kind| text.starts_with(kind)).find_map(|kind| {
        // What was expected is ours, and comes last.
        Some(format!("{kind}{}", &text[text.rfind(", expected ")?..]))
    });
    shortened.unwrap_or(text)
}

fn reference(document: ReferenceDocument, modality: Modality) -> Result<BiometricReference, String> {
    let named = document.modality.as_deref().map(names::parse_modality).transpose();
    let modality = named.map_err(|error| error.to_string())?.unwrap_or(modality);
    let position = document.position.as_deref().map(names::parse_position).transpose();
    let position = position.map_err(|error| error.to_string())?.unwrap_or(Position::Unspecified);
    let bytes = |field: &str, text: &str| STANDARD.decode(text).map_err(|error| format!("{field}: {error}"));
    let template = match (document.embedding, document.code, document.mask) {
        (Some(values), None, None) => biometric_reference::Template::Embedding(Embedding { values }),
        (None, Some(code), mask) => {
            let mask = mask.map(|mask| bytes("mask", &mask)).transpose()?.unwrap_or_default();
            biometric_reference::Template::BinaryCode(BinaryCode { code: bytes("code", &code)?, mask })
        }
        (Some(_), ..) => return Err("has an embedding and a code or mask; must be one template".to_owned()),
        (None, None, _) => return Err("needs an embedding or a code".to_owned()),
    };
    Ok(BiometricReference {
        modality: modality.into(),
        position: position.into(),
        template: Some(template),
        quality: document.quality,
        algorithm_id: document.algorithm_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Record, BadRecord>> {
        records(text.as_bytes(), PathBuf::from("people.jsonl"), Modality::Face).collect()
    }

    fn check_bad(line: &str, expected: &str) {
        let good = r#"{"enrolment_id": "z", "references": []}"#;
        let all = read(&format!("\n{line}\n{good}\n"));
        assert_eq!(all.len(), 2, "the record after a bad one is read");
        let error = all[0].as_ref().err().expect("the record is bad").to_string();
        assert!(error.starts_with("people.jsonl:2: ") && error.contains(expected), "{error}");
        assert!(all[1].is_ok());
    }

    #[test]
    fn a_record_holds_embeddings_and_codes() {
        let text = r#"{"enrolment_id": "a-1", "subject_id": "p", "provenance": {"site": "camp 4"}, "references": [
            {"embedding": [1.0, -0.5], "quality": 80, "algorithm_id": "x@1"},
            {"modality": "iris", "position": "left-eye", "code": "/wA=", "mask": "//8="}]}"#;
        let mut all = read(&text.replace('\n', " "));
        let record = all.pop().expect("a record").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((record.enrolment_id.as_str(), record.subject_id.as_str()), ("a-1", "p"));
        assert_eq!(record.provenance.expect("given").site, "camp 4");
        let [face, iris] = record.references.as_slice() else { panic!("two references") };
        assert_eq!((face.modality(), face.position(), face.quality), (Modality::Face, Position::Unspecified, Some(80)));
        let Some(biometric_reference::Template::Embedding(embedding)) = &face.template else { panic!("an embedding") };
        assert_eq!(embedding.values, [1.0, -0.5]);
        assert_eq!((iris.modality(), iris.position()), (Modality::Iris, Position::LeftEye));
        let Some(biometric_reference::Template::BinaryCode(code)) = &iris.template else { panic!("a code") };
        assert_eq!((&code.code[..], &code.mask[..]), (&[0xff, 0x00][..], &[0xff, 0xff][..]));
    }

    #[test]
    fn a_bad_record_names_its_line_and_field_and_the_next_is_read() {
        check_bad("{", "EOF");
        check_bad(r#"{"enrolment_id": "a"}"#, "references");
        check_bad(r#"{"enrolement_id": "a", "references": []}"#, "enrolement_id");
        check_bad(r#"{"enrolment_id": "a", "references": [{}]}"#, "references[0]: needs an embedding or a code");
        check_bad(r#"{"references": [{"embedding": [1], "code": "AA=="}]}"#, "must be one template");
        check_bad(r#"{"references": [{"mask": "AA=="}]}"#, "needs an embedding or a code");
        check_bad(r#"{"references": [{"code": "?"}]}"#, "references[0]: code:");
        check_bad(r#"{"references": [{"modality": "gait", "embedding": [1]}]}"#, "`gait`");
        check_bad(r#"{"references": [{"position": "left-ear", "embedding": [1]}]}"#, "`left-ear`");
    }

    /// A template where another kind of value belongs was once shown whole.
    #[test]
    fn an_error_does_not_repeat_the_value_that_is_wrong() {
        for line in [
            r#"{"references": [{"embedding": "MTIzNDU2, expected Nzg5"}]}"#,
            r#"{"references": [{"embedding": ["MTIzNDU2"]}]}"#,
            r#"{"references": [{"embedding": 0.12345678}]}"#,
            r#"{"references": [{"code": 12345678}]}"#,
            r#"{"references": "MTIzNDU2"}"#,
        ] {
            let error = read(line)[0].as_ref().err().expect("bad").to_string();
            assert!(error.contains("invalid type, expected ") && error.contains(" at line 1"), "{error}");
            assert!(!error.contains("MTIzNDU2") && !error.contains("2345678"), "{error}");
        }
    }

    /// A folder read as a file once gave errors without end.
    #[test]
    fn a_reader_that_fails_for_good_gives_one_error_and_ends() {
        struct Failing;
        impl std::io::Read for Failing {
            fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from(std::io::ErrorKind::IsADirectory))
            }
        }
        let read: Vec<_> = records(BufReader::new(Failing), PathBuf::from("x.jsonl"), Modality::Face).take(3).collect();
        assert_eq!(read.len(), 1);
        assert!(read[0].is_err());
    }
}
