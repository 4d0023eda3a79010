//! Rows of a table, one reference each: neighbouring rows of one id make one record.

use std::iter::Peekable;
use std::path::PathBuf;

use semel_proto::v1::{BiometricReference, Embedding, Modality, Position, Provenance, biometric_reference};

use crate::records::{BadRecord, Record};

/// References of one enrolment at most, as the cluster has it; rows beyond are not kept.
const REFERENCES_MAX: usize = 16;

/// One reference and whose it is.
pub(crate) struct Row {
    pub(crate) line: u64,
    pub(crate) enrolment_id: String,
    pub(crate) subject_id: String,
    pub(crate) modality: Modality,
    pub(crate) position: Position,
    pub(crate) quality: Option<u32>,
    pub(crate) algorithm_id: String,
    pub(crate) provenance: Option<Provenance>,
    pub(crate) values: Vec<f32>,
}

/// The records that rows make.
pub(crate) struct Gathered<I: Iterator> {
    rows: Peekable<I>,
    /// What errors name.
    file: PathBuf,
}

impl<I: Iterator<Item = Result<Row, BadRecord>>> Gathered<I> {
    pub(crate) fn new(rows: I, file: PathBuf) -> Self {
        Self { rows: rows.peekable(), file }
    }

    /// The next row if it is of this enrolment. Of rows without an id nobody knows whether they belong together.
    fn next_of(&mut self, enrolment_id: &str) -> Option<Result<Row, BadRecord>> {
        let is_of = |row: &Result<Row, BadRecord>| {
            let id = match row {
                Ok(row) => &row.enrolment_id,
                Err(bad) => &bad.enrolment_id,
            };
            !id.is_empty() && id == enrolment_id
        };
        self.rows.next_if(is_of)
    }
}

impl<I: Iterator<Item = Result<Row, BadRecord>>> Iterator for Gathered<I> {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        // An enrolment with a bad row is bad as a whole: without that row it would be another one under the same id.
        let (mut record, mut bad) = match self.rows.next()? {
            Ok(row) => (record(row), None),
            Err(bad) => {
                let enrolment_id = bad.enrolment_id.clone();
                (Record { enrolment_id, ..Record::default() }, Some(bad))
            }
        };
        let enrolment_id = record.enrolment_id.clone();
        while let Some(row) = self.next_of(&enrolment_id) {
            match row {
                Ok(row) if record.references.len() == REFERENCES_MAX => {
                    let reason = format!("the enrolment has more than {REFERENCES_MAX} references");
                    let (file, line, enrolment_id) = (self.file.clone(), row.line, row.enrolment_id);
                    bad.get_or_insert(BadRecord { file, line, enrolment_id, reason });
                }
                Ok(row) => record.references.push(reference(row)),
                Err(error) => {
                    bad.get_or_insert(error);
                }
            }
        }
        Some(bad.map_or(Ok(record), Err))
    }
}

fn record(row: Row) -> Record {
    Record {
        line: row.line,
        enrolment_id: row.enrolment_id.clone(),
        subject_id: row.subject_id.clone(),
        provenance: row.provenance.clone(),
        references: vec![reference(row)],
    }
}

fn reference(row: Row) -> BiometricReference {
    BiometricReference {
        modality: row.modality.into(),
        position: row.position.into(),
        template: Some(biometric_reference::Template::Embedding(Embedding { values: row.values })),
        quality: row.quality,
        algorithm_id: row.algorithm_id,
    }
}
