//! Bounds on what a file of Parquet may ask for: lengths are claims until the bytes are there.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

/// The longest description of a file's columns and row groups that is read, in bytes.
const METADATA_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The largest page that is read, in bytes after decompression; writers make pages of about 1 MiB.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Values that a column may give for the few rows that are read at once. A page of few bytes may claim billions of equal ones.
const VALUES_AT_ONCE_MAX: u64 = 16 * 1024 * 1024;
/// The longest beginning of a page's header that holds its sizes: a byte of a field and a number, three times.
const SIZES_BYTES_MAX: u64 = 3 * (1 + 10);

/// Refuses a file whose footer claims more than is taken.
pub(crate) fn check_footer(reader: &impl ChunkReader) -> std::result::Result<(), String> {
    let invalid = "is not a Parquet file: the footer is missing";
    let length = reader.len();
    let footer_at = length.checked_sub(8).ok_or(invalid)?;
    let footer = reader.get_bytes(footer_at, 8).map_err(|_| invalid)?;
    let (claimed, magic) = footer.split_at(4);
    if magic != b"PAR1" {
        return Err(invalid.to_owned());
    }
    let claimed = u64::from(u32::from_le_bytes(claimed.try_into().expect("four bytes")));
    if claimed > METADATA_BYTES_MAX || claimed > footer_at {
        return Err(format!(
            "is not a Parquet file: {claimed} bytes of metadata, must be at most {METADATA_BYTES_MAX} and within the file"
        ));
    }
    Ok(())
}

/// What a column may still give before it must be asked again.
#[derive(Clone, Default)]
pub(crate) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    pub(crate) fn renew(&self) {
        self.0.store(VALUES_AT_ONCE_MAX, Ordering::Relaxed);
    }

    fn take(&self, values: u64) -> Result<()> {
        let left = self
            .0
            .load(Ordering::Relaxed)
            .checked_sub(values)
            .ok_or_else(|| ParquetError::General(format!("more than {VALUES_AT_ONCE_MAX} values in a few rows")))?;
        self.0.store(left, Ordering::Relaxed);
        Ok(())
    }
}

/// The pages of one column of a row group.
pub(crate) struct BoundedPages<R: ChunkReader> {
    pages: SerializedPageReader<Checked<R>>,
    allowance: Allowance,
}

impl<R: ChunkReader> BoundedPages<R> {
    pub(crate) fn new(reader: Arc<R>, column: &ColumnChunkMetaData, rows: usize, allowance: Allowance) -> Result<Self> {
        let pages = SerializedPageReader::new(Arc::new(Checked(reader)), column, rows, None)?;
        Ok(Self { pages, allowance })
    }
}

impl<R: ChunkReader> PageReader for BoundedPages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.allowance.take(u64::from(page.num_values()))?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

impl<R: ChunkReader> Iterator for BoundedPages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The file, as the reader of pages sees it. Where it is read from without a length, a page's header begins: its sizes are looked at
/// before anybody makes room for them.
struct Checked<R>(Arc<R>);

impl<R: ChunkReader> Length for Checked<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Checked<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> Result<R::T> {
        let mut header = Vec::new();
        self.0.get_read(start)?.take(SIZES_BYTES_MAX).read_to_end(&mut header)?;
        match uncompressed_bytes(&header) {
            Some(bytes) if bytes <= PAGE_BYTES_MAX => self.0.get_read(start),
            Some(bytes) => {
                Err(ParquetError::General(format!("a page of {bytes} bytes, must be at most {PAGE_BYTES_MAX}")))
            }
            None => Err(ParquetError::General("a page without its sizes".to_owned())),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        // Read from a file, bytes are made room for before they are found to be missing.
        if start.checked_add(length as u64).is_none_or(|end| end > self.0.len()) {
            return Err(ParquetError::EOF("a page beyond the end of the file".to_owned()));
        }
        self.0.get_bytes(start, length)
    }
}

/// The size after decompression that a page's header claims: the second of its fields, which every writer writes first and in order
/// (Thrift's compact form: a byte 0x15, then a zigzag number).
fn uncompressed_bytes(header: &[u8]) -> Option<u64> {
    const NEXT_I32: u8 = 0x15;
    let mut bytes = header.iter();
    let mut field = || {
        (*bytes.next()? == NEXT_I32).then_some(())?;
        let mut zigzag = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *bytes.next()?;
            zigzag |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                // A negative size is refused by the reader itself.
                return Some(zigzag >> 1);
            }
        }
        None
    };
    let (_kind, uncompressed) = (field()?, field()?);
    Some(uncompressed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pages_size_is_the_second_number_of_its_header() {
        assert_eq!(uncompressed_bytes(&[0x15, 0, 0x15, 0x80, 0x01, 0x15, 0x10]), Some(64));
        assert_eq!(uncompressed_bytes(&[0x15, 4, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f]), Some(i32::MAX as u64));
        for header in [&[][..], &[0x15, 0, 0x15], &[0x15, 0, 0x25, 2, 0], &[0x15, 0, 0x15, 0xff, 0xff]] {
            assert_eq!(uncompressed_bytes(header), None, "{header:?}");
        }
        assert_eq!(uncompressed_bytes(&[0xff; 40]), None);
    }

    #[test]
    fn a_column_that_gives_too_much_for_a_few_rows_is_refused() {
        let allowance = Allowance::default();
        assert!(allowance.take(1).is_err(), "nothing is allowed before the first asking");
        allowance.renew();
        allowance.take(VALUES_AT_ONCE_MAX).expect("as much as is allowed");
        let error = allowance.take(1).expect_err("one more").to_string();
        assert!(error.contains("16777216 values"), "{error}");
    }
}
