//! The file of one sealed segment: what it is of, the engine's bytes, the templates, a seal.
//!
//! ```text
//! magic 8 · format u32 · bytes of the header u32 · bytes of the engine u64 (2^64 − 1: none)
//! header · engine's bytes · rows · seal 32
//! row: components i16 each · norm u32 · tag 8
//! ```
//!
//! The seal covers the whole file and is checked before anything of it is used. Rows may later be read one by one, long after
//! that: each has a tag of its own, bound to its place and its file.

use super::bytes::{Reader, put_text};
use super::{StoreKey, StoredId, UnusableFile};
use crate::catalogue::StoreError;
use crate::embedding_rows::EmbeddingRows;
use crate::ids::{GalleryId, KeyVersion};
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::SealedRows;
use crate::segment::CollectionKey;
use crate::slot::Slot;
use crate::template::{EMBEDDING_DIMENSION_MAX, EMBEDDING_DIMENSION_MIN};

const MAGIC: &[u8; 8] = b"semelseg";
const FORMAT: u32 = 1;
const PREFIX_BYTES: usize = 24;
const NO_ENGINE: u64 = u64::MAX;
const HEADER_BYTES_MAX: usize = 1_024;
const SEAL_BYTES: usize = 32;
const NORM_BYTES: usize = 4;
const TAG_BYTES: usize = 8;
const SEAL_PURPOSE: &str = "semel 2026 seal of a sealed segment's file";
const TAG_PURPOSE: &str = "semel 2026 tag of a sealed segment's row";
const ROWS_PER_WRITE: usize = 256;

/// What a segment is of. A file of anything else is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The shard.
    pub shard: u32,
    /// The gallery.
    pub gallery: GalleryId,
    /// The rotation key of its embeddings.
    pub key_version: KeyVersion,
    /// The slot.
    pub slot: Slot,
    /// Components of each embedding.
    pub dimension: u32,
    /// Rows.
    pub rows: u32,
    /// The engine's fingerprint, at most 255 bytes.
    pub engine: String,
    /// A hash of the enrolments whose references these are, in their order.
    pub enrolments: [u8; 32],
}

impl SegmentHeader {
    /// The collection.
    pub fn collection(&self) -> CollectionKey {
        CollectionKey { gallery: self.gallery.clone(), key_version: self.key_version, slot: self.slot }
    }

    /// Reads the header at the front of a file.
    ///
    /// # Errors
    /// [`UnusableFile`].
    pub fn of_file(bytes: &[u8]) -> Result<Self, UnusableFile> {
        let mut reader = Reader(bytes);
        let (header_bytes, _) = decode_prefix(&reader.array()?)?;
        Self::decode(reader.take(header_bytes)?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.shard.to_le_bytes().to_vec();
        put_text(&mut bytes, self.gallery.as_str());
        bytes.extend_from_slice(&self.key_version.0.to_le_bytes());
        bytes.extend_from_slice(&[self.slot.modality().code(), self.slot.position().code()]);
        bytes.extend_from_slice(&self.dimension.to_le_bytes());
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        put_text(&mut bytes, &self.engine);
        bytes.extend_from_slice(&self.enrolments);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, UnusableFile> {
        let mut reader = Reader(bytes);
        let header = Self {
            shard: reader.u32()?,
            gallery: reader.gallery()?,
            key_version: KeyVersion(reader.u32()?),
            slot: Slot::from_codes(reader.u8()?, reader.u8()?).ok_or(UnusableFile::Field { field: "slot" })?,
            dimension: reader.u32()?,
            rows: reader.u32()?,
            engine: reader.text("engine")?.to_owned(),
            enrolments: reader.array()?,
        };
        reader.end()?;
        if !(EMBEDDING_DIMENSION_MIN..=EMBEDDING_DIMENSION_MAX).contains(&header.dimension) {
            return Err(UnusableFile::Field { field: "dimension" });
        }
        Ok(header)
    }

    /// What differs from another one first.
    fn differs_in(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            ("shard", self.shard == other.shard),
            ("gallery", self.gallery == other.gallery),
            ("key version", self.key_version == other.key_version),
            ("slot", self.slot == other.slot),
            ("dimension", self.dimension == other.dimension),
            ("number of rows", self.rows == other.rows),
            ("engine", self.engine == other.engine),
            ("set of enrolments", self.enrolments == other.enrolments),
        ];
        fields.into_iter().find(|(_, equal)| !equal).map(|(field, _)| field)
    }
}

fn decode_prefix(prefix: &[u8; PREFIX_BYTES]) -> Result<(usize, u64), UnusableFile> {
    let mut reader = Reader(prefix);
    if reader.array::<8>()? != *MAGIC {
        return Err(UnusableFile::Kind);
    }
    let found = reader.u32()?;
    if found != FORMAT {
        return Err(UnusableFile::Format { found, reads: FORMAT });
    }
    let header_bytes = reader.u32()? as usize;
    if header_bytes > HEADER_BYTES_MAX {
        return Err(UnusableFile::Field { field: "header" });
    }
    Ok((header_bytes, reader.u64()?))
}

/// Reads single rows of a file that was found whole before.
#[derive(Debug, Clone)]
pub struct RowReader {
    tags: blake3::Hasher,
    dimension: usize,
    rows_at: u64,
}

impl RowReader {
    fn new(key: &StoreKey, header: &[u8], dimension: u32, rows_at: u64) -> Self {
        Self { tags: key.hasher(TAG_PURPOSE, header), dimension: dimension as usize, rows_at }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        2 * self.dimension + NORM_BYTES + TAG_BYTES
    }

    /// Where a row begins in the file.
    pub fn row_at(&self, row: usize) -> u64 {
        self.rows_at + (row * self.row_bytes()) as u64
    }

    /// Hands out the components and norm of whole rows, the first of which is `first`.
    ///
    /// # Errors
    /// [`UnusableFile`] at the first row that is not as it was written.
    pub fn read(&self, first: usize, bytes: &[u8], take: &mut dyn FnMut(&[i16], u32)) -> Result<(), UnusableFile> {
        let mut components = Vec::with_capacity(self.dimension);
        let rows = bytes.chunks_exact(self.row_bytes());
        if !rows.remainder().is_empty() {
            return Err(UnusableFile::Short);
        }
        for (place, bytes) in rows.enumerate() {
            let (content, tag) = bytes.split_at(bytes.len() - TAG_BYTES);
            if self.tag(first + place, content) != *tag {
                return Err(UnusableFile::Seal);
            }
            take_row(content, &mut components, take);
        }
        Ok(())
    }

    fn tag(&self, row: usize, content: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = self.tags.clone();
        hasher.update(&(row as u64).to_le_bytes()).update(content);
        *hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes")
    }
}

/// Splits a row's content into components and norm; `components` is scratch space.
fn take_row(content: &[u8], components: &mut Vec<i16>, take: &mut dyn FnMut(&[i16], u32)) {
    let (numbers, norm) = content.split_at(content.len() - NORM_BYTES);
    let (numbers, _) = numbers.as_chunks::<2>();
    components.clear();
    components.extend(numbers.iter().map(|bytes| i16::from_le_bytes(*bytes)));
    take(components, u32::from_le_bytes(norm.try_into().expect("a norm's bytes")));
}

/// Writes a segment's file piece by piece; `write` takes each. Returns what the file is to be asked for as.
pub(crate) fn write<E>(
    key: &StoreKey,
    header: &SegmentHeader,
    engine: Option<&[u8]>,
    rows: &SealedRows,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<StoredId, StoreError<E>> {
    let mut seal = key.hasher(SEAL_PURPOSE, &[]);
    let mut put = |bytes: &[u8]| {
        seal.update(bytes);
        write(bytes).map_err(StoreError::Write)
    };
    let encoded = header.encode();
    let mut front = MAGIC.to_vec();
    front.extend_from_slice(&FORMAT.to_le_bytes());
    front.extend_from_slice(&u32::try_from(encoded.len()).expect("a short header").to_le_bytes());
    front.extend_from_slice(&engine.map_or(NO_ENGINE, |engine| engine.len() as u64).to_le_bytes());
    front.extend_from_slice(&encoded);
    put(&front)?;
    let engine = engine.unwrap_or_default();
    put(engine)?;
    let reader = RowReader::new(key, &encoded, header.dimension, (front.len() + engine.len()) as u64);
    for first in (0..rows.len()).step_by(ROWS_PER_WRITE) {
        let range = first..rows.len().min(first + ROWS_PER_WRITE);
        let mut bytes = Vec::with_capacity(range.len() * reader.row_bytes());
        let mut row = first;
        rows.visit(range, &mut |components, norm| {
            let start = bytes.len();
            components.iter().for_each(|component| bytes.extend_from_slice(&component.to_le_bytes()));
            bytes.extend_from_slice(&norm.to_le_bytes());
            let tag = reader.tag(row, &bytes[start..]);
            bytes.extend_from_slice(&tag);
            row += 1;
        })
        .map_err(StoreError::Unreadable)?;
        put(&bytes)?;
    }
    let seal = *seal.finalize().as_bytes();
    write(&seal).map_err(StoreError::Write)?;
    Ok(StoredId(seal))
}

/// A file that is being read, in pieces of any length.
pub struct SegmentFile<'a> {
    key: &'a StoreKey,
    expected: &'a SegmentHeader,
    seal: blake3::Hasher,
    at: Part,
    /// What has come of the part at hand.
    part: Vec<u8>,
    engine: Option<Vec<u8>>,
    engine_left: u64,
    rows: Option<EmbeddingRows>,
    rows_left: u32,
    reader: Option<RowReader>,
    components: Vec<i16>,
    found: Option<StoredId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Prefix,
    Header { bytes: usize },
    Engine,
    Rows,
    Seal,
    End,
}

/// What a whole file holds.
#[derive(Debug)]
pub struct SegmentParts {
    /// What the engine makes its segment of, if it keeps any.
    pub engine: Option<Vec<u8>>,
    /// The templates, if they were asked for.
    pub rows: Option<EmbeddingRows>,
    /// How single templates are read later.
    pub reader: RowReader,
}

impl<'a> SegmentFile<'a> {
    /// Begins to read the file of `expected`; keeps its templates in memory if `with_rows`.
    pub fn new(key: &'a StoreKey, expected: &'a SegmentHeader, with_rows: bool) -> Self {
        Self {
            key,
            expected,
            seal: key.hasher(SEAL_PURPOSE, &[]),
            at: Part::Prefix,
            part: Vec::new(),
            engine: None,
            engine_left: 0,
            rows: with_rows.then(|| EmbeddingRows::new(expected.dimension)),
            rows_left: expected.rows,
            reader: None,
            components: Vec::new(),
            found: None,
        }
    }

    /// Takes in the next bytes. Memory grows with what has come, never with what a file says will come.
    ///
    /// # Errors
    /// [`UnusableFile`] as soon as it is known.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), UnusableFile> {
        loop {
            let wanted = match self.at {
                Part::Prefix => PREFIX_BYTES,
                Part::Header { bytes } => bytes,
                Part::Engine => {
                    let count = usize::try_from(self.engine_left).unwrap_or(usize::MAX).min(bytes.len());
                    let (engine, rest) = bytes.split_at(count);
                    self.seal.update(engine);
                    self.engine.get_or_insert_default().extend_from_slice(engine);
                    self.engine_left -= count as u64;
                    bytes = rest;
                    if self.engine_left > 0 {
                        return Ok(());
                    }
                    self.enter_rows();
                    continue;
                }
                Part::Rows => self.reader.as_ref().map_or(0, RowReader::row_bytes),
                Part::Seal => SEAL_BYTES,
                Part::End => return if bytes.is_empty() { Ok(()) } else { Err(UnusableFile::Long) },
            };
            let (piece, rest) = bytes.split_at(bytes.len().min(wanted - self.part.len()));
            self.part.extend_from_slice(piece);
            bytes = rest;
            if self.part.len() < wanted {
                return Ok(());
            }
            let mut part = std::mem::take(&mut self.part);
            self.finish_part(&part)?;
            part.clear();
            self.part = part;
        }
    }

    fn finish_part(&mut self, part: &[u8]) -> Result<(), UnusableFile> {
        if self.at != Part::Seal {
            self.seal.update(part);
        }
        match self.at {
            Part::Prefix => {
                let (bytes, engine_bytes) = decode_prefix(part.try_into().expect("so many were waited for"))?;
                self.engine_left = if engine_bytes == NO_ENGINE { 0 } else { engine_bytes };
                self.engine = (engine_bytes != NO_ENGINE).then(Vec::new);
                self.at = Part::Header { bytes };
            }
            Part::Header { bytes } => {
                let header = SegmentHeader::decode(part)?;
                if let Some(field) = header.differs_in(self.expected) {
                    return Err(UnusableFile::Other { field });
                }
                let rows_at = (PREFIX_BYTES + bytes) as u64;
                let rows_at = rows_at.checked_add(self.engine_left).ok_or(UnusableFile::Field { field: "engine" })?;
                self.reader = Some(RowReader::new(self.key, part, header.dimension, rows_at));
                if self.engine.is_some() { self.at = Part::Engine } else { self.enter_rows() }
            }
            Part::Rows => {
                if let Some(rows) = &mut self.rows {
                    let content = &part[..part.len() - TAG_BYTES];
                    take_row(content, &mut self.components, &mut |components, norm| {
                        // Numbered by row: whose they are is not in the file.
                        let row = u32::try_from(rows.len()).expect("a segment has fewer than 2^32 rows");
                        rows.push_components(EnrolmentOrdinal(row), components, norm);
                    });
                }
                self.rows_left -= 1;
                self.enter_rows();
            }
            Part::Seal => {
                let seal: [u8; SEAL_BYTES] = part.try_into().expect("so many were waited for");
                // Compared in constant time, as blake3's own hashes are.
                if self.seal.finalize() != blake3::Hash::from(seal) {
                    return Err(UnusableFile::Seal);
                }
                self.found = Some(StoredId(seal));
                self.at = Part::End;
            }
            Part::Engine | Part::End => unreachable!("taken as they come"),
        }
        Ok(())
    }

    fn enter_rows(&mut self) {
        self.at = if self.rows_left > 0 { Part::Rows } else { Part::Seal };
    }

    /// What the file holds, now that all of it has come, if it is the one called `id`.
    ///
    /// # Errors
    /// [`UnusableFile`] if it is not whole, or another one.
    pub fn finish(self, id: StoredId) -> Result<SegmentParts, UnusableFile> {
        match self.found {
            None => Err(UnusableFile::Short),
            Some(found) if found != id => Err(UnusableFile::AnotherFile),
            Some(_) => {
                let reader = self.reader.expect("made when the header came");
                Ok(SegmentParts { engine: self.engine, rows: self.rows, reader })
            }
        }
    }
}

impl std::fmt::Debug for SegmentFile<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SegmentFile(at {:?})", self.at)
    }
}
