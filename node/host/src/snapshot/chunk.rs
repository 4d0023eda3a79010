//! The bytes of chunks and their checksums.

use bytes::{BufMut, Bytes, BytesMut};
use semel_proto::internal::v1::{SnapshotChunk, SnapshotEnd};

const LENGTHS_BYTES: usize = 8;

/// Rows that do not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rows of a chunk do not decode")]
pub(crate) struct Garbled;

/// Appends a row.
pub(crate) fn put_row(rows: &mut BytesMut, key: &[u8], value: &[u8]) {
    let length = |part: &[u8]| u32::try_from(part.len()).expect("a row is far smaller than 4 GiB");
    rows.put_u32_le(length(key));
    rows.put_u32_le(length(value));
    rows.put_slice(key);
    rows.put_slice(value);
}

/// The rows of a chunk, in order.
pub(crate) fn rows(mut rows: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Garbled>> {
    std::iter::from_fn(move || {
        if rows.is_empty() {
            return None;
        }
        let row = split_row(rows);
        rows = row.map_or(&[], |(_, _, rest)| rest);
        Some(row.map(|(key, value, _)| (key, value)).ok_or(Garbled))
    })
}

fn split_row(rows: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (lengths, rest) = rows.split_at_checked(LENGTHS_BYTES)?;
    let (key, value) = lengths.split_at(4);
    let length = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize;
    let (key, rest) = rest.split_at_checked(length(key))?;
    let (value, rest) = rest.split_at_checked(length(value))?;
    Some((key, value, rest))
}

/// A chunk with its checksum.
pub(crate) fn sealed(snapshot_id: &[u8; 16], number: u64, table: &str, rows: Bytes) -> SnapshotChunk {
    let checksum = checksum(snapshot_id, number, table, &rows);
    SnapshotChunk { number, table: table.to_owned(), rows, checksum: Bytes::copy_from_slice(&checksum) }
}

/// Whether a chunk is of this snapshot and whole.
pub(crate) fn is_whole(snapshot_id: &[u8; 16], chunk: &SnapshotChunk) -> bool {
    checksum(snapshot_id, chunk.number, &chunk.table, &chunk.rows).as_slice() == chunk.checksum
}

fn checksum(snapshot_id: &[u8; 16], number: u64, table: &str, rows: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("semel 2026 snapshot chunk");
    hasher.update(snapshot_id).update(&number.to_le_bytes());
    hasher.update(&(table.len() as u64).to_le_bytes()).update(table.as_bytes()).update(rows);
    *hasher.finalize().as_bytes()
}

/// What is counted of a whole snapshot, on both sides.
#[derive(Clone)]
pub(crate) struct Tally {
    chunks: u64,
    rows: u64,
    checksums: blake3::Hasher,
}

impl Default for Tally {
    fn default() -> Self {
        Self { chunks: 0, rows: 0, checksums: blake3::Hasher::new_derive_key("semel 2026 snapshot") }
    }
}

impl Tally {
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    pub(crate) fn add(&mut self, rows: u64, checksum: &[u8]) {
        self.chunks += 1;
        self.rows += rows;
        self.checksums.update(checksum);
    }

    pub(crate) fn end(&self) -> SnapshotEnd {
        let checksum = Bytes::copy_from_slice(self.checksums.finalize().as_bytes());
        SnapshotEnd { chunks: self.chunks, rows: self.rows, checksum }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_out_as_they_went_in(
            expected in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..50)), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = BytesMut::new();
            expected.iter().for_each(|(key, value)| put_row(&mut bytes, key, value));
            let read: Result<Vec<_>, _> = rows(&bytes).collect();
            let read: Vec<_> = read.expect("whole").into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(&read, &expected);
            // Whatever is cut off, nothing is read beyond the end, and no row twice.
            let cut = cut.index(bytes.len() + 1);
            let read = rows(&bytes[..cut]).take_while(Result::is_ok).count();
            prop_assert!(read <= expected.len());
        }

        #[test]
        fn any_change_of_a_chunk_is_noticed(
            bytes in prop::collection::vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let id = [7; 16];
            let chunk = sealed(&id, 3, "rows", bytes.clone().into());
            prop_assert!(is_whole(&id, &chunk));
            prop_assert!(!is_whole(&[8; 16], &chunk));
            let renumbered = SnapshotChunk { number: 4, ..chunk.clone() };
            prop_assert!(!is_whole(&id, &renumbered));
            let elsewhere = SnapshotChunk { table: "other".to_owned(), ..chunk.clone() };
            prop_assert!(!is_whole(&id, &elsewhere));
            let mut damaged = bytes;
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            let damaged = SnapshotChunk { rows: damaged.into(), ..chunk };
            prop_assert!(!is_whole(&id, &damaged));
        }
    }
}
