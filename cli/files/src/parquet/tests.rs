//! Tables of Parquet as writers make them, and as nobody should.

use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use semel_proto::v1::biometric_reference::Template;

use super::*;
use crate::records::Record;

/// One column of a file that a test writes.
enum Written {
    Texts(Vec<Option<&'static str>>),
    Shorts(Vec<Option<i32>>),
    Longs(Vec<Option<i64>>),
    Lists(Vec<Option<Vec<f32>>>),
    Doubles(Vec<f64>),
}

impl Written {
    fn rows(&self) -> usize {
        match self {
            Self::Texts(values) => values.len(),
            Self::Shorts(values) => values.len(),
            Self::Longs(values) => values.len(),
            Self::Lists(values) => values.len(),
            Self::Doubles(values) => values.len(),
        }
    }
}

fn levels<T: Clone>(values: &[Option<T>]) -> (Vec<T>, Vec<i16>) {
    (values.iter().flatten().cloned().collect(), values.iter().map(|value| i16::from(value.is_some())).collect())
}

/// The bytes of a file with these columns, in row groups of so many rows.
fn file(fields: &str, columns: &[Written], rows_per_group: usize, compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message people {{ {fields} }}")).expect("a schema"));
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).expect("a writer");
    let rows = columns[0].rows();
    for begin in (0..rows).step_by(rows_per_group) {
        let of = begin..(begin + rows_per_group).min(rows);
        let mut group = writer.next_row_group().expect("a row group");
        for written in columns {
            let mut column = group.next_column().expect("a column").expect("as many as the schema has");
            let wrote = match written {
                Written::Texts(values) => {
                    let (values, levels) = levels(&values[of.clone()]);
                    let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)
                }
                Written::Shorts(values) => {
                    let (values, levels) = levels(&values[of.clone()]);
                    column.typed::<Int32Type>().write_batch(&values, Some(&levels), None)
                }
                Written::Longs(values) => {
                    let (values, levels) = levels(&values[of.clone()]);
                    column.typed::<Int64Type>().write_batch(&values, Some(&levels), None)
                }
                Written::Doubles(values) => {
                    column.typed::<parquet::data_type::DoubleType>().write_batch(&values[of.clone()], None, None)
                }
                Written::Lists(lists) => {
                    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
                    for list in &lists[of.clone()] {
                        match list {
                            None => (definitions.push(0), repetitions.push(0)),
                            Some(list) if list.is_empty() => (definitions.push(1), repetitions.push(0)),
                            Some(list) => {
                                values.extend_from_slice(list);
                                definitions.extend(list.iter().map(|_| 2));
                                (repetitions.push(0), repetitions.extend(list.iter().skip(1).map(|_| 1)))
                            }
                        };
                    }
                    column.typed::<FloatType>().write_batch(&values, Some(&definitions), Some(&repetitions))
                }
            };
            wrote.expect("the column is written");
            column.close().expect("the column ends");
        }
        group.close().expect("the row group ends");
    }
    writer.into_inner().expect("the file ends")
}

const ID: &str = "optional binary enrolment_id (UTF8);";
const LIST: &str = "optional group embedding (LIST) { repeated group list { required float element; } }";

fn ids(count: usize) -> Written {
    Written::Texts((0..count).map(|number| Some(&*format!("a-{number}").leak())).collect())
}

fn embedding(number: usize) -> Vec<f32> {
    (0..4).map(|place| (number * 4 + place) as f32).collect()
}

fn embeddings(count: usize) -> Written {
    Written::Lists((0..count).map(|number| Some(embedding(number))).collect())
}

fn open_bytes(bytes: Vec<u8>) -> Result<Records, UnreadableFile> {
    let form = Form { table: None, id_column: "enrolment_id".to_owned(), modality: Modality::Voice };
    Records::parquet(bytes, PathBuf::from("people.parquet"), &form)
}

fn read(bytes: Vec<u8>) -> Vec<Result<Record, BadRecord>> {
    open_bytes(bytes).unwrap_or_else(|error| panic!("{error}")).collect()
}

fn values(record: &Record) -> &[f32] {
    let Some(Template::Embedding(embedding)) = &record.references[0].template else { panic!("an embedding") };
    &embedding.values
}

#[test]
fn every_row_of_every_row_group_is_read_in_order_however_it_is_compressed() {
    let count = 3 * ROWS_AT_ONCE + 17;
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::GZIP(GzipLevel::default()),
    ] {
        let bytes = file(&format!("{ID} {LIST}"), &[ids(count), embeddings(count)], 2 * ROWS_AT_ONCE + 5, compression);
        assert_eq!(open_bytes(bytes.clone()).unwrap_or_else(|error| panic!("{error}")).count, Some(count as u64));
        let all = read(bytes);
        assert_eq!(all.len(), count, "{compression:?}");
        for (number, record) in all.into_iter().enumerate() {
            let record = record.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((record.line, record.enrolment_id.as_str()), (number as u64 + 1, &*format!("a-{number}")));
            assert_eq!(values(&record), embedding(number));
            assert_eq!(record.references[0].modality(), Modality::Voice);
        }
    }
}

/// A column of several pages once ended with its first: readers are also asked for where no header is.
#[test]
fn a_column_of_many_pages_is_read_to_its_end() {
    let lists = (0..300).map(|number| Some((0..2_048).map(|place| (number * 2_048 + place) as f32).collect()));
    let columns = [ids(300), Written::Lists(lists.collect())];
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
        let bytes = file(&format!("{ID} {LIST}"), &columns, 300, compression);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("people.parquet");
        std::fs::write(&path, &bytes).expect("written");
        let form = Form { table: None, id_column: "enrolment_id".to_owned(), modality: Modality::Voice };
        let on_disk = Records::open(&path, &form).unwrap_or_else(|error| panic!("{error}"));
        for all in [read(bytes), on_disk.collect()] {
            assert_eq!(all.len(), 300);
            for (number, record) in all.into_iter().enumerate() {
                let record = record.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(values(&record)[0], (number * 2_048) as f32);
            }
        }
    }
}

#[test]
fn every_column_is_taken_over_and_neighbouring_rows_of_one_id_are_one_enrolment() {
    let text = |name: &str| format!("optional binary {name} (UTF8);");
    let fields = format!(
        "{} optional int32 quality; {ID} {} {LIST} optional int64 captured_at_ms; {} {}",
        text("subject_id"),
        text("modality"),
        text("site"),
        text("note")
    );
    let columns = [
        Written::Texts(vec![Some("p"), None, None]),
        Written::Shorts(vec![Some(80), None, Some(7)]),
        Written::Texts(vec![Some("a"), Some("a"), Some("b")]),
        Written::Texts(vec![Some("face"), None, Some(" ")]),
        embeddings(3),
        Written::Longs(vec![Some(1_700_000_000_000), None, None]),
        Written::Texts(vec![Some("camp 4"), None, None]),
        Written::Texts(vec![Some("ignored"), None, None]),
    ];
    let all: Vec<Record> =
        read(file(&fields, &columns, 10, Compression::SNAPPY)).into_iter().filter_map(Result::ok).collect();
    let [first, second] = all.as_slice() else { panic!("two enrolments") };
    assert_eq!((first.enrolment_id.as_str(), first.subject_id.as_str(), first.references.len()), ("a", "p", 2));
    assert_eq!((first.references[0].modality(), first.references[0].quality), (Modality::Face, Some(80)));
    assert_eq!((first.references[1].modality(), first.references[1].quality), (Modality::Voice, None));
    let provenance = first.provenance.as_ref().expect("given");
    assert_eq!((provenance.site.as_str(), provenance.captured_at_ms), ("camp 4", 1_700_000_000_000));
    assert_eq!((second.enrolment_id.as_str(), second.line, &second.provenance), ("b", 3, &None));
}

#[test]
fn a_bad_row_names_row_group_row_column_and_limit_and_the_next_is_read() {
    let fields =
        format!("{ID} {LIST} optional int64 quality; optional binary modality (UTF8); optional binary site (UTF8);");
    let long: &str = "x".repeat(TEXT_BYTES_MAX + 1).leak();
    let check = |id: Option<&'static str>, list, quality, modality, site, expected: &str| {
        let columns = [
            Written::Texts(vec![Some("z-0"), id, Some("z-1")]),
            Written::Lists(vec![Some(embedding(0)), list, Some(embedding(1))]),
            Written::Longs(vec![None, quality, None]),
            Written::Texts(vec![None, modality, None]),
            Written::Texts(vec![None, site, None]),
        ];
        // The bad row is the first of the second row group.
        let all = read(file(&fields, &columns, 1, Compression::SNAPPY));
        assert_eq!(all.len(), 3, "{expected}");
        let bad = all[1].as_ref().err().expect("refused");
        assert_eq!((bad.line, bad.enrolment_id.as_str()), (2, id.unwrap_or("")));
        let shown = bad.to_string();
        assert!(shown.starts_with("people.parquet:2: row group 1, column ") && shown.contains(expected), "{shown}");
        assert!(all[0].is_ok() && all[2].is_ok());
    };
    let good = || Some(embedding(2));
    check(Some("a"), None, None, None, None, "`embedding`: has no value");
    check(Some("a"), Some(vec![]), None, None, None, "`embedding`: has no value");
    check(Some("a"), Some(vec![0.5; 4_097]), None, None, None, "`embedding`: has more than 4096 components");
    check(Some("a"), good(), Some(-1), None, None, "`quality`: is out of range, must be 0 to 100");
    check(Some("a"), good(), None, Some("gait"), None, "`modality`: modality: `gait`");
    check(Some("a"), good(), None, None, Some(long), "`site`: has 4097 bytes, must have at most 4096");
    check(None, good(), None, None, None, "enrolment's id: has no value");
}

#[test]
fn columns_that_are_no_enrolments_are_refused_by_name() {
    let check = |fields: &str, columns: &[Written], expected: &str| {
        let error = open_bytes(file(fields, columns, 10, Compression::SNAPPY)).err().expect("refused").to_string();
        assert!(error.starts_with("people.parquet: ") && error.contains(expected), "{error}");
    };
    let texts = || Written::Texts(vec![Some("a")]);
    check(LIST, &[embeddings(1)], "has no column `enrolment_id`; name one with --id-column");
    check(ID, &[ids(1)], "has no column `embedding`");
    check(
        &format!("{ID} required double embedding;"),
        &[ids(1), Written::Doubles(vec![0.5])],
        "`embedding`: holds DOUBLE, must hold lists of 32-bit floats",
    );
    check(
        &format!("{ID} {LIST} optional binary quality (UTF8);"),
        &[ids(1), embeddings(1), texts()],
        "`quality`: holds BYTE_ARRAY, must hold whole numbers",
    );
    check(
        &format!("optional int32 enrolment_id; {LIST}"),
        &[Written::Shorts(vec![Some(1)]), embeddings(1)],
        "`enrolment_id`: holds INT32, must hold texts",
    );
    for bytes in [&b""[..], b"PAR1", b"PAR1\xff\xff\xff\xffPAR1", b"PAR1 and something else altogether"] {
        let error = open_bytes(bytes.to_vec()).err().expect("refused").to_string();
        assert!(error.contains("is not a Parquet file"), "{error}");
    }
}

#[test]
fn a_damaged_file_ends_with_an_error_and_never_with_a_panic() {
    let whole = file(&format!("{ID} {LIST}"), &[ids(9), embeddings(9)], 4, Compression::SNAPPY);
    let mut refused = 0;
    for place in 0..whole.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] ^= damage;
            match open_bytes(bytes) {
                Ok(records) => {
                    let all: Vec<_> = records.take(1_000).collect();
                    assert!(all.len() < 1_000, "records without end");
                    refused += usize::from(all.iter().any(Result::is_err));
                }
                Err(UnreadableFile { reason, .. }) => {
                    assert!(!reason.is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > whole.len() / 2, "{refused} of {} damages were noticed", 3 * whole.len());
}
