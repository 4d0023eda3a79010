//! Records as a table of Parquet: one reference per row. Bounds on what a file may ask for live in `parquet/pages.rs`.
//!
//! A row group is read a few rows at a time, column beside column, so that a file may be larger than memory. The reader of the format is
//! another's and may panic on what nobody meant to write: that ends the file with an error.

mod pages;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Type as Physical;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader;
use parquet::schema::types::ColumnDescPtr;
use semel_proto::v1::{Modality, Position, Provenance};

use self::pages::{Allowance, BoundedPages};
use crate::names;
use crate::npy::COMPONENTS_MAX;
use crate::records::{BadRecord, Form, Records, UnreadableFile};
use crate::rows::{Gathered, Row};

/// The column with the embedding.
const EMBEDDING: &str = "embedding";
/// Columns of text beside the id.
const TEXTS: [&str; 8] =
    ["subject_id", "modality", "position", "algorithm_id", "site", "operator_id", "legal_basis", "purpose"];
/// Columns of whole numbers.
const NUMBERS: [&str; 2] = ["quality", "captured_at_ms"];
/// Rows read at once.
const ROWS_AT_ONCE: usize = 128;
/// The longest text of a row that is read, in bytes; the cluster's own limits are far below.
const TEXT_BYTES_MAX: usize = 4_096;

pub(crate) fn open(path: &Path, form: &Form) -> Result<Records, UnreadableFile> {
    let unreadable = |error: std::io::Error| UnreadableFile { file: path.to_owned(), reason: error.to_string() };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(UnreadableFile { file: path.to_owned(), reason: "is a folder".to_owned() });
    }
    records(file, path.to_owned(), form)
}

pub(crate) fn records(
    reader: impl ChunkReader + 'static,
    file: PathBuf,
    form: &Form,
) -> Result<Records, UnreadableFile> {
    let opened = contained(|| Table::new(Arc::new(reader), file.clone(), form));
    let table = opened.unwrap_or_else(|| Err(DAMAGED.to_owned()));
    let table = table.map_err(|reason| UnreadableFile { file: file.clone(), reason })?;
    let count = Some(table.rows_declared());
    Ok(Records { count, iterator: Box::new(Gathered::new(table, file)) })
}

const DAMAGED: &str = "the file is damaged in a way that its reader does not expect";

/// What `read` gives; `None` if the reader of the format panics. What it worked on must not be used again.
fn contained<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

/// Where the columns of a row are, by their place among the leaves of the schema.
struct Places {
    enrolment_id: usize,
    embedding: usize,
    texts: [Option<usize>; TEXTS.len()],
    numbers: [Option<usize>; NUMBERS.len()],
}

impl Places {
    fn find(columns: &[ColumnDescPtr], id_column: &str) -> Result<Self, String> {
        let named = |name: &str| columns.iter().position(|column| column.path().parts()[0] == name);
        let text = |name: &str| named(name).map(|place| text_column(&columns[place], name).map(|()| place)).transpose();
        let number =
            |name: &str| named(name).map(|place| number_column(&columns[place], name).map(|()| place)).transpose();
        let enrolment_id =
            text(id_column)?.ok_or_else(|| format!("has no column `{id_column}`; name one with --id-column"))?;
        let embedding = named(EMBEDDING).ok_or_else(|| format!("has no column `{EMBEDDING}`"))?;
        embedding_column(&columns[embedding])?;
        let (mut texts, mut numbers) = ([None; TEXTS.len()], [None; NUMBERS.len()]);
        for (place, name) in texts.iter_mut().zip(TEXTS) {
            *place = text(name)?;
        }
        for (place, name) in numbers.iter_mut().zip(NUMBERS) {
            *place = number(name)?;
        }
        Ok(Self { enrolment_id, embedding, texts, numbers })
    }
}

fn text_column(column: &ColumnDescPtr, name: &str) -> Result<(), String> {
    match (column.physical_type(), column.max_rep_level()) {
        (Physical::BYTE_ARRAY, 0) => Ok(()),
        (kind, _) => Err(format!("column `{name}`: holds {}, must hold texts (BYTE_ARRAY)", kinds(column, kind))),
    }
}

fn number_column(column: &ColumnDescPtr, name: &str) -> Result<(), String> {
    match (column.physical_type(), column.max_rep_level()) {
        (Physical::INT32 | Physical::INT64, 0) => Ok(()),
        (kind, _) => {
            Err(format!("column `{name}`: holds {}, must hold whole numbers (INT32, INT64)", kinds(column, kind)))
        }
    }
}

fn embedding_column(column: &ColumnDescPtr) -> Result<(), String> {
    match (column.physical_type(), column.max_rep_level()) {
        (Physical::FLOAT, 1) => Ok(()),
        (kind, _) => Err(format!(
            "column `{EMBEDDING}`: holds {}, must hold lists of 32-bit floats (FLOAT)",
            kinds(column, kind)
        )),
    }
}

fn kinds(column: &ColumnDescPtr, kind: Physical) -> String {
    match column.max_rep_level() {
        0 => kind.to_string(),
        1 => format!("lists of {kind}"),
        _ => format!("lists of lists of {kind}"),
    }
}

/// The rows of a file.
struct Table<R: ChunkReader> {
    reader: Arc<R>,
    file: PathBuf,
    metadata: ParquetMetaData,
    places: Places,
    modality: Modality,
    /// The row group that is open, or is opened next.
    group: usize,
    columns: Option<Columns>,
    /// The number of the last row that was read, from 1.
    row_last: u64,
    read: std::vec::IntoIter<Result<Row, BadRecord>>,
    ended: bool,
}

impl<R: ChunkReader + 'static> Table<R> {
    fn new(reader: Arc<R>, file: PathBuf, form: &Form) -> Result<Self, String> {
        pages::check_footer(&*reader)?;
        let mut parser = ParquetMetaDataReader::new();
        parser.try_parse(&*reader).map_err(|error| format!("is not a Parquet file: {}", said(&error)))?;
        let metadata = parser.finish().map_err(|error| format!("is not a Parquet file: {}", said(&error)))?;
        let places = Places::find(metadata.file_metadata().schema_descr().columns(), &form.id_column)?;
        let read = Vec::new().into_iter();
        let modality = form.modality;
        Ok(Self { reader, file, metadata, places, modality, group: 0, columns: None, row_last: 0, read, ended: false })
    }

    fn rows_declared(&self) -> u64 {
        let rows = self.metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0));
        rows.fold(0, u64::saturating_add)
    }

    /// The next few rows; none at the end of the file.
    fn read_some(&mut self) -> Result<Vec<Result<Row, BadRecord>>, String> {
        loop {
            if self.columns.is_none() {
                if self.group == self.metadata.num_row_groups() {
                    return Ok(Vec::new());
                }
                self.columns = Some(self.open_group()?);
            }
            let columns = self.columns.as_mut().expect("it was opened just now");
            let rows = columns.read(ROWS_AT_ONCE)?;
            if !rows.is_empty() {
                return Ok(rows.into_iter().map(|row| self.row(row)).collect());
            }
            self.columns = None;
            self.group += 1;
        }
    }

    fn open_group(&self) -> Result<Columns, String> {
        let group = self.metadata.row_group(self.group);
        let rows = usize::try_from(group.num_rows()).map_err(|_| "has a negative number of rows".to_owned())?;
        let descriptors = self.metadata.file_metadata().schema_descr().columns();
        if group.num_columns() != descriptors.len() {
            return Err("has another number of columns than the file".to_owned());
        }
        let open = |place: usize| {
            let allowance = Allowance::default();
            let pages = BoundedPages::new(Arc::clone(&self.reader), group.column(place), rows, allowance.clone());
            pages.map(|pages| (Arc::clone(&descriptors[place]), pages, allowance)).map_err(|error| said(&error))
        };
        Columns::open(&self.places, rows, open)
    }

    /// A row as it was read, numbered and parsed.
    fn row(&mut self, raw: RawRow) -> Result<Row, BadRecord> {
        self.row_last += 1;
        let enrolment_id = raw.enrolment_id.clone().unwrap_or_default();
        raw.parse(self.row_last, self.modality).map_err(|reason| BadRecord {
            file: self.file.clone(),
            line: self.row_last,
            enrolment_id,
            reason: format!("row group {}, {reason}", self.group),
        })
    }
}

impl<R: ChunkReader + 'static> Iterator for Table<R> {
    type Item = Result<Row, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.read.next() {
            return Some(row);
        }
        if self.ended {
            return None;
        }
        match contained(|| self.read_some()).unwrap_or_else(|| Err(DAMAGED.to_owned())) {
            Ok(rows) => {
                self.ended = rows.is_empty();
                self.read = rows.into_iter();
                self.read.next()
            }
            Err(reason) => {
                self.ended = true;
                let reason = format!("row group {}: {reason}; no row from here on is read", self.group);
                let (file, enrolment_id) = (self.file.clone(), String::new());
                Some(Err(BadRecord { file, line: self.row_last + 1, enrolment_id, reason }))
            }
        }
    }
}

/// What the reader of the format says, without what it says it about.
fn said(error: &ParquetError) -> String {
    match error {
        ParquetError::General(text) | ParquetError::NYI(text) | ParquetError::EOF(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The columns of an open row group, each at the same row.
struct Columns {
    rows_left: usize,
    enrolment_id: Column<ByteArrayType>,
    embedding: Column<FloatType>,
    texts: [Option<Column<ByteArrayType>>; TEXTS.len()],
    numbers: [Option<Numbers>; NUMBERS.len()],
}

enum Numbers {
    Short(Column<Int32Type>),
    Long(Column<Int64Type>),
}

impl Columns {
    fn open<P: parquet::column::page::PageReader + 'static>(
        places: &Places,
        rows_left: usize,
        open: impl Fn(usize) -> Result<(ColumnDescPtr, P, Allowance), String>,
    ) -> Result<Self, String> {
        let text = |place: usize, name: &str| open(place).and_then(|opened| Column::new(opened, name));
        let number = |place: usize, name: &str| {
            let opened = open(place)?;
            Ok::<_, String>(match opened.0.physical_type() {
                Physical::INT32 => Numbers::Short(Column::new(opened, name)?),
                _ => Numbers::Long(Column::new(opened, name)?),
            })
        };
        let (mut texts, mut numbers) = ([const { None }; TEXTS.len()], [const { None }; NUMBERS.len()]);
        for ((column, place), name) in texts.iter_mut().zip(places.texts).zip(TEXTS) {
            *column = place.map(|place| text(place, name)).transpose()?;
        }
        for ((column, place), name) in numbers.iter_mut().zip(places.numbers).zip(NUMBERS) {
            *column = place.map(|place| number(place, name)).transpose()?;
        }
        Ok(Self {
            rows_left,
            enrolment_id: text(places.enrolment_id, "the enrolment's id")?,
            embedding: open(places.embedding).and_then(|opened| Column::new(opened, EMBEDDING))?,
            texts,
            numbers,
        })
    }

    /// Up to so many further rows.
    fn read(&mut self, rows_max: usize) -> Result<Vec<RawRow>, String> {
        let count = rows_max.min(self.rows_left);
        self.rows_left -= count;
        let ids = self.enrolment_id.values(count)?;
        let embeddings = self.embedding.lists(count)?;
        let mut rows: Vec<RawRow> = Vec::with_capacity(count);
        for (id, embedding) in ids.into_iter().zip(embeddings) {
            rows.push(RawRow { enrolment_id: id.map(text).transpose().ok().flatten(), embedding, ..RawRow::default() });
        }
        for (place, column) in self.texts.iter_mut().enumerate() {
            let Some(column) = column else { continue };
            for (row, value) in rows.iter_mut().zip(column.values(count)?) {
                row.texts[place] = value;
            }
        }
        for (place, column) in self.numbers.iter_mut().enumerate() {
            let values: Vec<Option<i64>> = match column {
                None => continue,
                Some(Numbers::Short(column)) => {
                    column.values(count)?.into_iter().map(|value| value.map(i64::from)).collect()
                }
                Some(Numbers::Long(column)) => column.values(count)?,
            };
            for (row, value) in rows.iter_mut().zip(values) {
                row.numbers[place] = value;
            }
        }
        Ok(rows)
    }
}

/// One column of an open row group.
struct Column<T: DataType> {
    name: String,
    reader: ColumnReaderImpl<T>,
    allowance: Allowance,
    value_level: i16,
}

/// What a column holds for a few rows: where values are missing, where rows begin, and the values that are there.
struct Leaves<V> {
    levels: Vec<i16>,
    repetitions: Vec<i16>,
    values: Vec<V>,
}

impl<T: DataType> Column<T> {
    fn new<P: parquet::column::page::PageReader + 'static>(
        (descriptor, pages, allowance): (ColumnDescPtr, P, Allowance),
        name: &str,
    ) -> Result<Self, String> {
        let value_level = descriptor.max_def_level();
        let reader = ColumnReaderImpl::new(descriptor, Box::new(pages));
        Ok(Self { name: name.to_owned(), reader, allowance, value_level })
    }

    /// The levels and values of so many rows.
    fn read(&mut self, rows: usize) -> Result<Leaves<T::T>, String> {
        self.allowance.renew();
        let (mut levels, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let read = self.reader.read_records(rows, Some(&mut levels), Some(&mut repetitions), &mut values);
        let (read, ..) = read.map_err(|error| format!("column `{}`: {}", self.name, said(&error)))?;
        if read < rows {
            return Err(format!("column `{}`: ends before the row group does", self.name));
        }
        Ok(Leaves { levels, repetitions, values })
    }

    /// One value, or none, for each of so many rows.
    fn values(&mut self, rows: usize) -> Result<Vec<Option<T::T>>, String> {
        let Leaves { levels, values, .. } = self.read(rows)?;
        if self.value_level == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        let value_level = self.value_level;
        Ok(levels.into_iter().map(|level| if level == value_level { values.next() } else { None }).collect())
    }

    /// The values of each of so many rows; `None` for a row that lacks one.
    fn lists(&mut self, rows: usize) -> Result<Vec<Option<Vec<T::T>>>, String> {
        let Leaves { levels, repetitions, values } = self.read(rows)?;
        let mut values = values.into_iter();
        let mut lists: Vec<Option<Vec<T::T>>> = Vec::with_capacity(rows);
        for (level, repetition) in levels.into_iter().zip(repetitions) {
            if repetition == 0 {
                lists.push(Some(Vec::new()));
            }
            let value = if level == self.value_level { values.next() } else { None };
            let list = lists.last_mut().ok_or_else(|| format!("column `{}`: begins within a row", self.name))?;
            match (list.as_mut(), value) {
                // One more than is taken tells that there are too many.
                (Some(list), Some(value)) if list.len() as u64 <= COMPONENTS_MAX => list.push(value),
                (Some(_), Some(_)) | (None, _) => {}
                (Some(_), None) => *list = None,
            }
        }
        Ok(lists)
    }
}

/// A row as the file has it.
#[derive(Default)]
struct RawRow {
    enrolment_id: Option<String>,
    embedding: Option<Vec<f32>>,
    texts: [Option<ByteArray>; TEXTS.len()],
    numbers: [Option<i64>; NUMBERS.len()],
}

fn text(bytes: ByteArray) -> Result<String, String> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(format!("has {} bytes, must have at most {TEXT_BYTES_MAX}", bytes.len()));
    }
    bytes.as_utf8().map(str::to_owned).map_err(|_| "is not UTF-8".to_owned())
}

impl RawRow {
    fn parse(self, line: u64, modality: Modality) -> Result<Row, String> {
        let enrolment_id =
            self.enrolment_id.ok_or("column of the enrolment's id: has no value, is not UTF-8 or is too long")?;
        let values =
            self.embedding.ok_or_else(|| format!("column `{EMBEDDING}`: has no value, or one that is missing"))?;
        if values.len() as u64 > COMPONENTS_MAX {
            return Err(format!("column `{EMBEDDING}`: has more than {COMPONENTS_MAX} components"));
        }
        let mut texts: [String; TEXTS.len()] = Default::default();
        for ((parsed, bytes), name) in texts.iter_mut().zip(self.texts).zip(TEXTS) {
            let read = bytes.map(text).transpose().map_err(|reason| format!("column `{name}`: {reason}"))?;
            *parsed = read.unwrap_or_default();
        }
        let [subject_id, named_modality, named_position, algorithm_id, site, operator_id, legal_basis, purpose] = texts;
        let [quality, captured_at_ms] = self.numbers;
        let quality = quality.map(u32::try_from).transpose();
        let quality = quality.map_err(|_| "column `quality`: is out of range, must be 0 to 100".to_owned())?;
        let named = |name: &str| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
        let given = named(&named_modality).map(|name| names::parse_modality(&name)).transpose();
        let modality = given.map_err(|error| format!("column `modality`: {error}"))?.unwrap_or(modality);
        let given = named(&named_position).map(|name| names::parse_position(&name)).transpose();
        let position = given.map_err(|error| format!("column `position`: {error}"))?.unwrap_or(Position::Unspecified);
        let captured_at_ms = captured_at_ms.unwrap_or(0);
        let provenance = Provenance { site, operator_id, legal_basis, purpose, captured_at_ms };
        let provenance = (provenance != Provenance::default()).then_some(provenance);
        Ok(Row { line, enrolment_id, subject_id, modality, position, quality, algorithm_id, provenance, values })
    }
}

#[cfg(test)]
mod tests;
