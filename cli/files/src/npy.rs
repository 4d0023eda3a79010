//! Records as an array of embeddings (.npy) beside a table that says whose they are (.csv).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use npyz::{NpyFile, NpyHeader, NpyReader, Order};
use semel_proto::v1::{Modality, Position, Provenance};

use crate::names;
use crate::records::{BadRecord, Form, Records, UnreadableFile};
use crate::rows::{Gathered, Row};

/// Components of an embedding at most; a wider array is something else.
pub(crate) const COMPONENTS_MAX: u64 = 4_096;
/// The length of an array's header at most, in bytes; numpy itself refuses more than 10,000.
const HEADER_BYTES_MAX: usize = 65_536;
/// How deep brackets nest in a header at most: those of structured arrays, which are refused by name, do no deeper.
const HEADER_DEPTH_MAX: usize = 4;

pub(crate) fn open(path: &Path, form: &Form) -> Result<Records, UnreadableFile> {
    let array = File::open(path).map_err(|error| unreadable(path, error.to_string()))?;
    let rows = Rows::new(BufReader::new(array)).map_err(|reason| unreadable(path, reason))?;
    let table_path = form.table.clone().unwrap_or_else(|| path.with_extension("csv"));
    let table = File::open(&table_path).map_err(|error| {
        unreadable(
            &table_path,
            format!("{error}; the table beside the array says which enrolment each row belongs to (--table)"),
        )
    })?;
    joined((rows, path.to_owned()), (BufReader::new(table), table_path), form)
}

pub(crate) fn records(
    (array, array_file): (impl Read + Send + 'static, PathBuf),
    table: (impl Read + Send + 'static, PathBuf),
    form: &Form,
) -> Result<Records, UnreadableFile> {
    let rows = Rows::new(array).map_err(|reason| unreadable(&array_file, reason))?;
    joined((rows, array_file), table, form)
}

fn joined(
    (rows, array_file): (Rows<impl Read + Send + 'static>, PathBuf),
    (table, table_file): (impl Read + Send + 'static, PathBuf),
    form: &Form,
) -> Result<Records, UnreadableFile> {
    let table = Table::new(table, table_file.clone(), form).map_err(|reason| unreadable(&table_file, reason))?;
    let count = Some(rows.count);
    Ok(Records { count, iterator: Box::new(Gathered::new(Joined::new(rows, array_file, table), table_file)) })
}

fn unreadable(file: &Path, reason: String) -> UnreadableFile {
    UnreadableFile { file: file.to_owned(), reason }
}

/// The rows of an array.
struct Rows<R: Read> {
    count: u64,
    dimension: usize,
    values: NpyReader<f32, R>,
}

impl<R: Read> Rows<R> {
    fn new(mut reader: R) -> Result<Self, String> {
        let invalid = |error: std::io::Error| format!("is not an npy file: {error}");
        let header = read_header(&mut reader).map_err(invalid)?;
        // npyz multiplies the axes unchecked.
        if values_declared(&header).is_none() {
            return Err(format!(
                "has more than {} values, must have rows of 1 to {COMPONENTS_MAX} components",
                u64::MAX
            ));
        }
        let header = NpyHeader::from_reader(header.as_slice()).map_err(invalid)?;
        let array = NpyFile::with_header(header, reader);
        let &[count, dimension] = array.shape() else {
            return Err(format!("has {} axes, must have two: rows and components", array.shape().len()));
        };
        if dimension == 0 || dimension > COMPONENTS_MAX {
            return Err(format!("has {dimension} components per row, must have 1 to {COMPONENTS_MAX}"));
        }
        if array.order() != Order::C {
            return Err("is in Fortran order; save it with numpy.ascontiguousarray".to_owned());
        }
        let kind = array.dtype().descr();
        let values = array.data::<f32>().map_err(|_| format!("holds {kind}, must hold 32-bit floats ('<f4')"))?;
        Ok(Self { count, dimension: dimension as usize, values })
    }
}

/// The bytes before the values, as they are.
fn read_header(reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let fault = |reason: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    // The magic number, the version, and the first two bytes of the length.
    let mut header = vec![0; 10];
    reader.read_exact(&mut header)?;
    if !header.starts_with(b"\x93NUMPY") {
        return Err(fault("the magic number is missing"));
    }
    let mut length = usize::from(u16::from_le_bytes([header[8], header[9]]));
    if header[6] > 1 {
        let mut high = [0; 2];
        reader.read_exact(&mut high)?;
        header.extend(high);
        length += usize::from(u16::from_le_bytes(high)) << 16;
    }
    if length > HEADER_BYTES_MAX {
        return Err(fault("the header is too long"));
    }
    let start = header.len();
    header.resize(start + length, 0);
    reader.read_exact(&mut header[start..])?;
    // npyz's parser tries every bracket more than once at every depth, and needs stack for each.
    if depth(&header[start..]) > HEADER_DEPTH_MAX {
        return Err(fault("the header nests too deep"));
    }
    Ok(header)
}

/// How deep brackets nest, those within texts counted as well.
fn depth(header: &[u8]) -> usize {
    let (mut depth, mut depth_max) = (0_usize, 0);
    for byte in header {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth_max = depth_max.max(depth);
    }
    depth_max
}

/// The product of all whole numbers in a header, which are its axes, and of nothing that is zero; `None` if it is beyond
/// 64 bits. However a header is nested, no product of its axes is greater.
fn values_declared(header: &[u8]) -> Option<u64> {
    let words = header.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    let numbers = words.filter_map(|word| std::str::from_utf8(word).ok()).filter_map(whole_number);
    numbers.filter(|number| *number > 0).try_fold(1, u64::checked_mul)
}

/// A whole number as Python writes it. One beyond 64 bits is none: npyz refuses it.
fn whole_number(word: &str) -> Option<u64> {
    let digits = word.replace('_', "").to_ascii_lowercase();
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0o") => (&digits[2..], 8),
        Some("0b") => (&digits[2..], 2),
        Some(_) | None => (digits.as_str(), 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

impl<R: Read> Iterator for Rows<R> {
    type Item = std::io::Result<Vec<f32>>;

    fn next(&mut self) -> Option<Self::Item> {
        let row: Result<Vec<f32>, _> = self.values.by_ref().take(self.dimension).collect();
        match row {
            Ok(values) if values.is_empty() => None,
            other => Some(other),
        }
    }
}

struct Table<R> {
    file: PathBuf,
    lines: csv::StringRecordsIntoIter<R>,
    columns: HashMap<String, usize>,
    id_column: usize,
    modality: Modality,
}

impl<R: Read> Table<R> {
    fn new(reader: R, file: PathBuf, form: &Form) -> Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
        let heads = reader.headers().map_err(|error| error.to_string())?;
        let columns: HashMap<_, _> = heads.iter().enumerate().map(|(place, head)| (head.to_owned(), place)).collect();
        let id_column = *columns
            .get(&form.id_column)
            .ok_or_else(|| format!("has no column `{}`; name one with --id-column", form.id_column))?;
        Ok(Self { file, lines: reader.into_records(), columns, id_column, modality: form.modality })
    }

    /// The row of a line, without the values that belong to it.
    fn parse(&self, record: &csv::StringRecord) -> Result<Row, String> {
        let cell = |column: &str| self.columns.get(column).and_then(|place| record.get(*place)).unwrap_or("");
        let given = |column: &str| Some(cell(column)).filter(|text| !text.is_empty());
        let number = |column: &str, text: &str| format!("{column}: `{text}` is not a whole number");
        let quality = given("quality").map(|text| text.parse().map_err(|_| number("quality", text))).transpose()?;
        let captured = given("captured_at_ms")
            .map(|text| text.parse::<i64>().map_err(|_| number("captured_at_ms", text)))
            .transpose()?;
        let provenance = Provenance {
            site: cell("site").to_owned(),
            operator_id: cell("operator_id").to_owned(),
            legal_basis: cell("legal_basis").to_owned(),
            purpose: cell("purpose").to_owned(),
            captured_at_ms: captured.unwrap_or(0),
        };
        let modality = given("modality").map(names::parse_modality).transpose().map_err(|error| error.to_string())?;
        let position = given("position").map(names::parse_position).transpose().map_err(|error| error.to_string())?;
        Ok(Row {
            line: record.position().map_or(0, csv::Position::line),
            enrolment_id: self.id(record),
            subject_id: cell("subject_id").to_owned(),
            modality: modality.unwrap_or(self.modality),
            position: position.unwrap_or(Position::Unspecified),
            quality,
            algorithm_id: cell("algorithm_id").to_owned(),
            provenance: (provenance != Provenance::default()).then_some(provenance),
            values: Vec::new(),
        })
    }

    fn id(&self, record: &csv::StringRecord) -> String {
        record.get(self.id_column).unwrap_or("").to_owned()
    }
}

impl<R: Read> Iterator for Table<R> {
    type Item = Result<Row, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.lines.next()?;
        let line = match &record {
            Ok(record) => record.position().map_or(0, csv::Position::line),
            Err(error) => error.position().map_or(0, csv::Position::line),
        };
        let enrolment_id = record.as_ref().map_or_else(|_| String::new(), |record| self.id(record));
        let bad = |reason| BadRecord { file: self.file.clone(), line, enrolment_id, reason };
        Some(record.map_err(|error| error.to_string()).and_then(|record| self.parse(&record)).map_err(bad))
    }
}

/// Rows of the array and lines of the table side by side.
struct Joined<A: Read, T: Read> {
    rows: Rows<A>,
    array_file: PathBuf,
    table: Table<T>,
    /// The number of the last line read; the header is the first.
    line_last: u64,
    ended: bool,
}

impl<A: Read, T: Read> Joined<A, T> {
    fn new(rows: Rows<A>, array_file: PathBuf, table: Table<T>) -> Self {
        Self { rows, array_file, table, line_last: 1, ended: false }
    }
}

impl<A: Read, T: Read> Iterator for Joined<A, T> {
    type Item = Result<Row, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let (line, values) = (self.table.next(), self.rows.next());
        match &line {
            Some(Ok(line)) => self.line_last = line.line,
            Some(Err(bad)) => self.line_last = bad.line,
            None => {}
        }
        let array = self.array_file.display();
        let bad = |reason, enrolment_id| BadRecord {
            file: self.table.file.clone(),
            line: self.line_last,
            enrolment_id,
            reason,
        };
        let (line, values) = match (line, values) {
            (None, None) => return None,
            (Some(line), Some(values)) => (line, values),
            (_, values) => {
                // From here on nobody knows which row belongs to which line.
                self.ended = true;
                let reason = match values {
                    Some(_) => format!("ends here, before {array}: it must have one line per row"),
                    None => format!("goes on after the end of {array}: it must have one line per row"),
                };
                return Some(Err(bad(reason, String::new())));
            }
        };
        Some(line.and_then(|line| match values {
            Ok(values) if values.len() == self.rows.dimension => Ok(Row { values, ..line }),
            Ok(_) | Err(_) => {
                self.ended = true;
                Err(bad(format!("its row in {array} is cut off"), line.enrolment_id))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use semel_proto::v1::biometric_reference;

    use super::*;
    use crate::records::Record;

    fn form() -> Form {
        Form { table: None, id_column: "enrolment_id".to_owned(), modality: Modality::Voice }
    }

    /// A version 1 header as numpy writes it, and values counting from 0.
    fn array(header: &str, values: usize) -> Vec<u8> {
        let text = format!("{header}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(text.len()).expect("short").to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend((0..values).flat_map(|value| (value as f32).to_le_bytes()));
        bytes
    }

    fn floats(rows: usize, dimension: usize) -> Vec<u8> {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}");
        array(&header, rows * dimension)
    }

    fn read(array: &[u8], table: &str) -> Vec<Result<Record, BadRecord>> {
        let rows = Rows::new(array).expect("an array");
        let table = Table::new(table.as_bytes(), PathBuf::from("people.csv"), &form()).expect("a table");
        Gathered::new(Joined::new(rows, PathBuf::from("people.npy"), table), PathBuf::from("people.csv")).collect()
    }

    #[test]
    fn rows_and_lines_are_joined_in_order() {
        let table = "note,enrolment_id,quality,modality,site\nx,a,80,,camp 4\ny, b ,,face,\n";
        let all: Vec<Record> = read(&floats(2, 4), table).into_iter().filter_map(Result::ok).collect();
        let [a, b] = all.as_slice() else { panic!("two records") };
        assert_eq!((a.enrolment_id.as_str(), b.enrolment_id.as_str()), ("a", "b"));
        assert_eq!((a.references[0].modality(), b.references[0].modality()), (Modality::Voice, Modality::Face));
        assert_eq!((a.references[0].quality, b.references[0].quality), (Some(80), None));
        assert_eq!(a.provenance.as_ref().map(|given| given.site.as_str()), Some("camp 4"));
        assert_eq!(b.provenance, None);
        let Some(biometric_reference::Template::Embedding(embedding)) = &b.references[0].template else { panic!() };
        assert_eq!(embedding.values, [4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn neighbouring_lines_of_one_id_are_one_enrolment() {
        let table = "enrolment_id,modality,position\na,iris,left-eye\na,iris,right-eye\nb,iris,left-eye\n";
        let all: Vec<usize> = read(&floats(3, 4), table)
            .into_iter()
            .map(|record| record.unwrap_or_else(|error| panic!("{error}")).references.len())
            .collect();
        assert_eq!(all, [2, 1]);
    }

    #[test]
    fn a_bad_line_names_itself_and_the_next_is_read() {
        let all = read(&floats(2, 4), "enrolment_id,quality\na,good\nb,7\n");
        let error = all[0].as_ref().err().expect("bad").to_string();
        assert_eq!(error, "people.csv:2: quality: `good` is not a whole number");
        let Ok(good) = &all[1] else { panic!("the next line is good") };
        assert_eq!(good.enrolment_id, "b");
    }

    #[test]
    fn a_table_of_another_length_is_refused_where_it_ends() {
        for table in ["enrolment_id\na\n", "enrolment_id\na\nb\nc\n"] {
            let all = read(&floats(2, 4), table);
            let error = all.last().expect("records").as_ref().err().expect("refused").to_string();
            assert!(error.starts_with("people.csv:") && error.contains("people.npy"), "{error}");
            assert!(error.contains("one line per row"), "{error}");
        }
    }

    #[test]
    fn an_array_cut_off_is_refused_where_it_ends() {
        let whole = floats(2, 4);
        let all = read(&whole[..whole.len() - 3], "enrolment_id\na\nb\n");
        assert!(all[0].is_ok());
        let error = all[1].as_ref().err().expect("refused").to_string();
        assert_eq!(error, "people.csv:3: its row in people.npy is cut off");
    }

    /// A header of brackets within brackets was once parsed in time exponential in their depth, or beyond the end of the stack.
    #[test]
    fn a_header_that_nests_deep_is_refused_at_once() {
        for bracket in ["{", "(", "["] {
            let error = Rows::new(array(&bracket.repeat(60_000), 0).as_slice()).err().expect("refused");
            assert!(error.contains("the header nests too deep"), "{error}");
        }
        let structured = "{'descr': [('x', '<f4', (2,))], 'fortran_order': False, 'shape': (4, 2), }";
        let error = Rows::new(array(structured, 8).as_slice()).err().expect("refused");
        assert!(error.contains("must hold 32-bit floats"), "{error}");
    }

    #[test]
    fn arrays_that_are_no_embeddings_are_refused_with_the_reason() {
        let check = |bytes: &[u8], expected: &str| {
            let error = Rows::new(bytes).err().expect("refused");
            assert!(error.contains(expected), "{error}");
        };
        check(b"no array at all", "is not an npy file");
        check(&array("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }", 4), "must hold 32-bit floats");
        check(&array("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", 4), "Fortran");
        check(&array("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", 4), "two: rows and components");
        check(&array("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 9000), }", 0), "9000 components");
        for shape in [
            "(18446744073709551615, 18446744073709551615)",
            "(18446744073709551615, 18446744073709551615, 0)",
            "(0xffffffffffffffff, 0x2)",
            "(9_223_372_036_854_775_808, 512)",
        ] {
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
            check(&array(&header, 0), "must have rows of 1 to 4096 components");
        }
        check(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "the header is too long");
    }
}
