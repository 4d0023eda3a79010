//! The file in which a receiver keeps the chunks of one snapshot until it has them all. It survives a broken stream and a restart:
//! whoever offers the same snapshot again goes on from its end.
//!
//! A sequence of frames, each a length (u32 little-endian) and a part of the transfer as it came: the offer, then chunks.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use semel_proto::internal::v1::send_snapshot_request::Part;
use semel_proto::internal::v1::{SendSnapshotRequest, SnapshotChunk, SnapshotEnd, SnapshotOffer};

use crate::snapshot::SNAPSHOT_MESSAGE_BYTES_MAX;
use crate::snapshot::chunk::{self, Tally};

const EXTENSION: &str = "snapshot";

/// Why a chunk or a whole snapshot is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("a chunk is damaged, or of another snapshot")]
    Damaged,
    #[error("chunk {found} instead of {expected}")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("the chunks are not those that were sent")]
    NotWhatWasSent,
}

/// Chunks of one snapshot, from the first on without a gap, each verified.
pub(crate) struct Collected {
    path: PathBuf,
    file: File,
    snapshot_id: [u8; 16],
    tally: Tally,
    bytes: u64,
}

impl Collected {
    /// Where the chunks for a group are kept.
    pub(crate) fn path(folder: &Path, group: u64) -> PathBuf {
        folder.join(format!("{group}.{EXTENSION}"))
    }

    /// The group whose chunks a file holds, if it is such a file.
    pub(crate) fn group_of(path: &Path) -> Option<u64> {
        let ours = path.extension().is_some_and(|extension| extension == EXTENSION);
        path.file_stem()?.to_str()?.parse().ok().filter(|_| ours)
    }

    /// Goes on with the chunks of the snapshot offered, if an earlier attempt left some; begins anew otherwise.
    pub(crate) fn open(folder: &Path, offer: &SnapshotOffer, snapshot_id: [u8; 16]) -> Result<Self, CollectError> {
        let path = Self::path(folder, offer.group);
        let failed = |action| {
            let path = path.clone();
            move |source| CollectError::Io { action, path, source }
        };
        fs::create_dir_all(folder).map_err(failed("create folder of"))?;
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed("open"))?;
        let (tally, bytes) = kept(&file, offer, &snapshot_id).unwrap_or_default();
        // Also what a crash left half written at the end.
        file.set_len(bytes).map_err(failed("cut"))?;
        file.seek(SeekFrom::Start(bytes)).map_err(failed("seek in"))?;
        let mut collected = Self { path, file, snapshot_id, tally, bytes };
        if bytes == 0 {
            collected.write(&SendSnapshotRequest { part: Some(Part::Offer(offer.clone())) })?;
        }
        Ok(collected)
    }

    /// How many chunks there are, and hence the number of the next one.
    pub(crate) fn chunks(&self) -> u64 {
        self.tally.chunks()
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps the next chunk.
    pub(crate) fn append(&mut self, chunk: SnapshotChunk) -> Result<(), CollectError> {
        if chunk.number != self.chunks() {
            return Err(CollectError::OutOfOrder { expected: self.chunks(), found: chunk.number });
        }
        let (rows, checksum) = verified(&self.snapshot_id, &chunk).ok_or(CollectError::Damaged)?;
        self.write(&SendSnapshotRequest { part: Some(Part::Chunk(chunk)) })?;
        self.tally.add(rows, &checksum);
        Ok(())
    }

    /// Checks that everything sent is there.
    pub(crate) fn check_whole(&self, end: &SnapshotEnd) -> Result<(), CollectError> {
        if self.tally.end() == *end { Ok(()) } else { Err(CollectError::NotWhatWasSent) }
    }

    /// Hands out every chunk again, read from disk and verified once more.
    pub(crate) fn read<E: From<CollectError>>(
        &self,
        mut each: impl FnMut(SnapshotChunk) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| CollectError::Io { action: "read", path: self.path.clone(), source };
        let mut frames = Frames::new(File::open(&self.path).map_err(failed)?);
        let mut tally = Tally::default();
        while tally.chunks() < self.chunks() {
            match frames.next().map_err(failed)? {
                Some(Part::Chunk(chunk)) => {
                    let (rows, checksum) = verified(&self.snapshot_id, &chunk).ok_or(CollectError::Damaged)?;
                    tally.add(rows, &checksum);
                    each(chunk)?;
                }
                Some(Part::Offer(_)) => {}
                Some(Part::End(_)) | None => return Err(CollectError::NotWhatWasSent.into()),
            }
        }
        Ok(self.check_whole(&tally.end())?)
    }

    /// Throws everything away.
    pub(crate) fn remove(self) {
        remove(&self.path);
    }

    fn write(&mut self, part: &SendSnapshotRequest) -> Result<(), CollectError> {
        let mut frame = Vec::with_capacity(4 + part.encoded_len());
        let length = u32::try_from(part.encoded_len()).expect("a part is far smaller than 4 GiB");
        frame.extend_from_slice(&length.to_le_bytes());
        part.encode(&mut frame).expect("a vector grows as needed");
        let written = self.file.write_all(&frame);
        written.map_err(|source| CollectError::Io { action: "write", path: self.path.clone(), source })?;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

/// Removes a file whose loss costs nothing but time.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file of a snapshot that is of no use any more is still there");
    }
}

/// The number of rows and the checksum of a chunk, if it is what was sent.
fn verified(snapshot_id: &[u8; 16], chunk: &SnapshotChunk) -> Option<(u64, bytes::Bytes)> {
    if !chunk::is_whole(snapshot_id, chunk) {
        return None;
    }
    let mut rows = 0;
    for row in chunk::rows(&chunk.rows) {
        row.ok()?;
        rows += 1;
    }
    Some((rows, chunk.checksum.clone()))
}

/// What a file holds of the snapshot offered, and how many bytes of it that is.
fn kept(file: &File, offer: &SnapshotOffer, snapshot_id: &[u8; 16]) -> Option<(Tally, u64)> {
    let mut frames = Frames::new(file.try_clone().ok()?);
    match frames.next() {
        // Another leader's view of the same state has another id.
        Ok(Some(Part::Offer(kept))) if kept == *offer => {}
        Ok(_) | Err(_) => return None,
    }
    let (mut tally, mut bytes) = (Tally::default(), frames.bytes);
    while let Ok(Some(Part::Chunk(chunk))) = frames.next() {
        let Some((rows, checksum)) = verified(snapshot_id, &chunk).filter(|_| chunk.number == tally.chunks()) else {
            break;
        };
        tally.add(rows, &checksum);
        bytes = frames.bytes;
    }
    Some((tally, bytes))
}

/// Reads frames.
struct Frames {
    file: BufReader<File>,
    /// Up to the end of the last frame.
    bytes: u64,
}

impl Frames {
    fn new(file: File) -> Self {
        Self { file: BufReader::new(file), bytes: 0 }
    }

    /// The next frame; `None` at the end, also where that is in the middle of a frame or of something else.
    fn next(&mut self) -> io::Result<Option<Part>> {
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > SNAPSHOT_MESSAGE_BYTES_MAX {
            return Ok(None);
        }
        let mut frame = vec![0; length];
        if !self.fill(&mut frame)? {
            return Ok(None);
        }
        self.bytes += 4 + length as u64;
        Ok(SendSnapshotRequest::decode(frame.as_slice()).ok().and_then(|request| request.part))
    }

    fn fill(&mut self, into: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact(into) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::*;

    const ID: [u8; 16] = [3; 16];

    fn offer(id: u8) -> SnapshotOffer {
        SnapshotOffer { group: 5, snapshot_id: Bytes::copy_from_slice(&[id; 16]), ..Default::default() }
    }

    fn chunk(number: u64) -> SnapshotChunk {
        let mut rows = BytesMut::new();
        chunk::put_row(&mut rows, &number.to_be_bytes(), b"value");
        chunk::sealed(&ID, number, "rows", rows.freeze())
    }

    fn open(folder: &Path, id: u8) -> Collected {
        Collected::open(folder, &offer(id), [id; 16]).expect("the folder can be written")
    }

    #[test]
    fn the_same_snapshot_goes_on_and_another_begins_anew() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut collected = open(folder.path(), 3);
        (0..5).for_each(|number| collected.append(chunk(number)).expect("in order"));
        drop(collected);
        assert_eq!(open(folder.path(), 3).chunks(), 5);
        assert_eq!(open(folder.path(), 4).chunks(), 0);
        assert_eq!(open(folder.path(), 3).chunks(), 0, "what another snapshot replaced is gone");
    }

    #[test]
    fn whatever_a_crash_leaves_only_whole_chunks_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut ends = Vec::new();
        let mut collected = open(folder.path(), 3);
        for number in 0..3 {
            ends.push(collected.bytes());
            collected.append(chunk(number)).expect("in order");
        }
        let (path, whole) = (collected.path.clone(), collected.bytes());
        let bytes = fs::read(&path).expect("readable");
        for cut in 0..whole {
            fs::write(&path, &bytes[..usize::try_from(cut).expect("small")]).expect("writable");
            let expected = ends.iter().skip(1).filter(|end| **end <= cut).count();
            assert_eq!(open(folder.path(), 3).chunks(), expected as u64, "cut at {cut}");
        }
        for at in usize::try_from(ends[1]).expect("small")..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("writable");
            assert!((1..3).contains(&open(folder.path(), 3).chunks()), "damaged at {at}");
        }
    }

    #[test]
    fn what_is_not_what_was_sent_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut collected = open(folder.path(), 3);
        let skipped = collected.append(chunk(1));
        assert!(matches!(skipped, Err(CollectError::OutOfOrder { expected: 0, found: 1 })));
        let damaged = SnapshotChunk { table: "other".to_owned(), ..chunk(0) };
        assert!(matches!(collected.append(damaged), Err(CollectError::Damaged)));
        collected.append(chunk(0)).expect("the next one");
        let mut end = collected.tally.end();
        collected.check_whole(&end).expect("whole");
        end.rows += 1;
        assert!(matches!(collected.check_whole(&end), Err(CollectError::NotWhatWasSent)));
    }
}
