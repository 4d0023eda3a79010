//! The options of commands that read enrolments or probes from files. Reading itself lives in `semel-files`.

use std::path::{Path, PathBuf};

use clap::Args;
use semel_files::{Form, Records, names};
use semel_proto::v1::Modality;

use crate::exit::UsageError;

/// Explains the forms; shown by every command that reads them.
pub(crate) const FORMS: &str = "\
Files:
  NAME.npy    n x d array of 32-bit floats, one embedding per row, beside NAME.csv (or --table) with a header and one line
              per row in the same order. Columns: enrolment_id (or --id-column); optional: subject_id, modality, position,
              quality (0-100), algorithm_id, site, operator_id, legal_basis, purpose, captured_at_ms. Others are ignored.
              Neighbouring lines with the same id are references of one enrolment.
  NAME.parquet
              a table of the same columns with the embedding among them, a list of 32-bit floats; one reference per row.
              enrolment_id (or --id-column) and embedding are required. quality and captured_at_ms are whole
              numbers, the others texts. Uncompressed, or with Snappy, Zstandard, LZ4 or gzip.
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

impl FormArguments {
    /// Opens a file. What is wrong with a record of it is told when that is read.
    pub(crate) fn open(&self, path: &Path) -> Result<Records, UsageError> {
        let form = Form { table: self.table.clone(), id_column: self.id_column.clone(), modality: self.modality };
        Records::open(path, &form).map_err(|error| UsageError(error.to_string()))
    }
}

fn parse_modality(name: &str) -> Result<Modality, String> {
    names::parse_modality(name).map_err(|error| error.to_string())
}
