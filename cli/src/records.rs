//! Enrolments and probes in files: one iterator of records whatever the file's form. Forms live in `npy` and `json_lines`.

mod json_lines;
mod npy;

use std::path::{Path, PathBuf};

use clap::Args;
use semel_proto::v1::{BiometricReference, EnrolRequest, Modality, Provenance};

use crate::exit::UsageError;
use crate::names;

/// Explains the forms; shown by every command that reads them.
pub(crate) const FORMS: &str = "\
Files:
  NAME.npy    n x d array of 32-bit floats, one embedding per row, beside NAME.csv (or --table) with a header and one line
              per row in the same order. Columns: enrolment_id (or --id-column); optional: subject_id, modality, position,
              quality (0-100), algorithm_id, site, operator_id, legal_basis, purpose, captured_at_ms. Others are ignored.
              Neighbouring lines with the same id are references of one enrolment.
  NAME.jsonl  one JSON object per line; `-` reads them from standard input:
    {\"enrolment_id\": \"a-1\", \"references\": [
       {\"modality\": \"face\", \"embedding\": [0.1, ...], \"quality\": 80, \"algorithm_id\": \"arcface-r100@1\"},
       {\"modality\": \"iris\", \"position\": \"left-eye\", \"code\": \"BASE64\", \"mask\": \"BASE64\"}],
     \"subject_id\": \"...\", \"provenance\": {\"site\": \"...\", \"operator_id\": \"...\", \"legal_basis\": \"...\",
       \"purpose\": \"...\", \"captured_at_ms\": 0}}
    Only enrolment_id (not for probes) and references are required. Shown on several lines here, one line in the file.";

/// Options of reading files.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FormArguments {
    /// The table beside a .npy file. [default: the same name with .csv]
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// The table's column with the enrolment id.
    #[arg(long, value_name = "NAME", default_value = "enrolment_id")]
    id_column: String,
    /// The modality where a file names none: face, voice, iris or fingerprint.
    #[arg(long, value_name = "MODALITY", default_value = "face", value_parser = parse_modality)]
    modality: Modality,
}

fn parse_modality(name: &str) -> Result<Modality, String> {
    names::parse_modality(name).map_err(|error| error.to_string())
}

/// One enrolment, or a probe, as a file has it. Templates are personal data: it is never printed.
pub(crate) struct Record {
    /// Empty in a probe.
    pub(crate) enrolment_id: String,
    pub(crate) subject_id: String,
    pub(crate) references: Vec<BiometricReference>,
    pub(crate) provenance: Option<Provenance>,
}

impl Record {
    /// The request that enrols it.
    pub(crate) fn into_request(self, gallery: &str, wait_ms: u32) -> EnrolRequest {
        EnrolRequest {
            gallery: gallery.to_owned(),
            enrolment_id: self.enrolment_id,
            subject_id: self.subject_id,
            references: self.references,
            provenance: self.provenance,
            wait_ms,
        }
    }
}

/// A record that cannot be read. Those after it can.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {reason}", file.display())]
pub(crate) struct BadRecord {
    /// The file.
    pub(crate) file: PathBuf,
    /// The line of the table or file, from 1.
    pub(crate) line: u64,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// The records of a file, in its order.
pub(crate) struct Records {
    /// How many lines or rows there are, where that is known without reading all of them.
    pub(crate) count: Option<u64>,
    iterator: Box<dyn Iterator<Item = Result<Record, BadRecord>> + Send>,
}

impl Records {
    /// Opens a file. What is wrong with the file as a whole is told here; what is wrong with a record, when it is read.
    pub(crate) fn open(path: &Path, form: &FormArguments) -> anyhow::Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        match extension {
            "npy" => npy::open(path, form),
            "jsonl" | "ndjson" => json_lines::open(path, form.modality),
            _ if path.as_os_str() == "-" => json_lines::standard_input(form.modality),
            _ => Err(UsageError(format!("{}: must end in .npy or .jsonl", path.display())).into()),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.iterator.next()
    }
}
