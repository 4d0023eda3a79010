//! Enrolments and probes: one iterator of records whatever the file's form. A file is read as its records are taken, so that it may be
//! larger than memory.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use semel_proto::v1::{BiometricReference, EnrolRequest, Modality, Provenance};

use crate::{json_lines, npy, parquet};

/// How files are to be read.
#[derive(Debug, Clone)]
pub struct Form {
    /// The table beside a .npy file; `None` = the same name with .csv.
    pub table: Option<PathBuf>,
    /// The table's column with the enrolment id.
    pub id_column: String,
    /// The modality where a file names none.
    pub modality: Modality,
}

/// One enrolment, or a probe, as a file has it. Templates are personal data: it is never printed.
#[derive(Default)]
pub struct Record {
    /// The line or row at which it begins, from 1.
    pub line: u64,
    /// Empty in a probe.
    pub enrolment_id: String,
    /// Empty where the file has none.
    pub subject_id: String,
    /// In the file's order.
    pub references: Vec<BiometricReference>,
    /// `None` where the file has none.
    pub provenance: Option<Provenance>,
}

impl Record {
    /// The request that enrols it.
    pub fn into_request(self, gallery: &str, wait_ms: u32) -> EnrolRequest {
        EnrolRequest {
            gallery: gallery.to_owned(),
            enrolment_id: self.enrolment_id,
            subject_id: self.subject_id,
            references: self.references,
            provenance: self.provenance,
            wait_ms,
            ..EnrolRequest::default()
        }
    }
}

/// A file that cannot be read as what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct UnreadableFile {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A record that cannot be read. Those after it can.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {reason}", file.display())]
pub struct BadRecord {
    /// The file.
    pub file: PathBuf,
    /// The line of the table or file, or the row of a .parquet file, from 1.
    pub line: u64,
    /// The enrolment; empty where it is not known.
    pub enrolment_id: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The records of a file, in its order.
pub struct Records {
    /// How many lines or rows there are, where that is known without reading all of them. For a large file of JSON lines it is
    /// estimated from the first ones.
    pub count: Option<u64>,
    pub(crate) iterator: Box<dyn Iterator<Item = Result<Record, BadRecord>> + Send>,
}

impl Records {
    /// Opens a file by its extension; `-` is JSON lines from standard input.
    ///
    /// # Errors
    /// Tells what is wrong with the file as a whole; what is wrong with a record is told when it is read.
    pub fn open(path: &Path, form: &Form) -> Result<Self, UnreadableFile> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        match extension {
            "npy" => npy::open(path, form),
            "parquet" => parquet::open(path, form),
            "jsonl" | "ndjson" => json_lines::open(path, form.modality),
            _ if path.as_os_str() == "-" => {
                Ok(Self::json_lines(BufReader::new(std::io::stdin()), PathBuf::from("-"), form.modality))
            }
            _ => {
                Err(UnreadableFile { file: path.to_owned(), reason: "must end in .npy, .parquet or .jsonl".to_owned() })
            }
        }
    }

    /// Reads JSON lines; errors name `file`.
    pub fn json_lines(reader: impl BufRead + Send + 'static, file: PathBuf, modality: Modality) -> Self {
        Self { count: None, iterator: Box::new(json_lines::records(reader, file, modality)) }
    }

    /// Reads an array beside its table; errors name the files. The form's `table` is not looked at.
    ///
    /// # Errors
    /// The array is not of embeddings, or the table lacks the column with the id.
    pub fn npy(
        (array, array_file): (impl Read + Send + 'static, PathBuf),
        (table, table_file): (impl Read + Send + 'static, PathBuf),
        form: &Form,
    ) -> Result<Self, UnreadableFile> {
        npy::records((array, array_file), (table, table_file), form)
    }

    /// Reads the bytes of a Parquet file; errors name `file`. The form's `table` is not looked at.
    ///
    /// # Errors
    /// It is no Parquet file, or its columns are not those of enrolments.
    pub fn parquet(bytes: Vec<u8>, file: PathBuf, form: &Form) -> Result<Self, UnreadableFile> {
        parquet::records(bytes::Bytes::from(bytes), file, form)
    }
}

impl Iterator for Records {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.iterator.next()
    }
}
