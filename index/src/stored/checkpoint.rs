//! The checkpoint of one shard's catalogue: who is in it, in which order, and which sealed segments are kept in which files.
//!
//! It holds no templates. Rows of references that no kept segment holds are read from the store when a catalogue is resumed.

use std::sync::Arc;

use super::bytes::{Reader, put_text, put_u32};
use super::{StoreKey, StoredId, UnusableFile};
use crate::catalogue::{Collection, Comparable, Gallery, References, SealedSegment};
use crate::ids::{EnrolmentId, GalleryId, KeyVersion};
use crate::rows::EnrolmentOrdinal;
use crate::slot::Slot;
use crate::template::{BinaryCodeSpec, TemplateSpec};

const MAGIC: &[u8; 8] = b"semelchk";
const FORMAT: u32 = 3;
const SEAL_BYTES: usize = 32;
const PURPOSE: &str = "semel 2026 seal of a checkpoint of a shard's catalogue";
const EMBEDDING: u8 = 1;
const BINARY_CODE: u8 = 2;

/// What a checkpoint is of. One of anything else is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOf {
    /// The shard.
    pub shard: u32,
    /// Settings that decide where segments end, at most 255 bytes.
    pub parameters: String,
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// What it is of.
    pub of: CheckpointOf,
    /// The last log index whose enrolments are in it.
    pub searchable_index: u64,
    /// The last entry of the shard's history whose withdrawal, if it is one, is certainly in it.
    pub withdrawn_up_to: u64,
    /// A later entry of the shard's history and the hash over it and all before it: the checkpoint is of that history alone.
    pub history: (u64, [u8; 32]),
}

/// A checkpoint that was read.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    header: CheckpointHeader,
    pub(crate) galleries: Vec<StoredGallery>,
}

/// One gallery in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredGallery {
    pub(crate) id: GalleryId,
    pub(crate) collections: Vec<StoredCollection>,
    /// Numbers of collections, ascending.
    pub(crate) makeups: Vec<Box<[usize]>>,
    /// Ids one after another, where each ends, and the makeup of each.
    pub(crate) ids: String,
    pub(crate) ends: Vec<u32>,
    pub(crate) makeup_of: Vec<u32>,
    /// Ascending.
    pub(crate) withdrawn: Vec<EnrolmentOrdinal>,
}

/// One collection in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredCollection {
    pub(crate) comparable: Comparable,
    /// The kept segments, from the collection's first reference that was not reclaimed on.
    pub(crate) segments: Vec<StoredSegment>,
    /// Withdrawn enrolments of the collection whose references no segment holds any more; ascending.
    pub(crate) reclaimed: Vec<EnrolmentOrdinal>,
}

/// One kept segment in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredSegment {
    pub(crate) rows: u32,
    /// Its file.
    pub(crate) id: StoredId,
    /// The name of the engine that built it.
    pub(crate) engine: String,
}

impl StoredGallery {
    pub(crate) fn enrolment(&self, place: usize) -> EnrolmentId {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let text = &self.ids[start..self.ends[place] as usize];
        EnrolmentId::try_from(text).expect("checked when it was read")
    }
}

/// The checkpoint of a catalogue's galleries. Segments count as kept up to the first of a collection that is not.
pub(crate) fn encode<'a>(
    key: &StoreKey,
    header: &CheckpointHeader,
    galleries: impl ExactSizeIterator<Item = (&'a GalleryId, &'a Arc<Gallery>)>,
) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&header.of.shard.to_le_bytes());
    put_text(&mut bytes, &header.of.parameters);
    bytes.extend_from_slice(&header.searchable_index.to_le_bytes());
    bytes.extend_from_slice(&header.withdrawn_up_to.to_le_bytes());
    bytes.extend_from_slice(&header.history.0.to_le_bytes());
    bytes.extend_from_slice(&header.history.1);
    put_u32(&mut bytes, galleries.len());
    galleries.for_each(|(id, gallery)| put_gallery(&mut bytes, id, gallery));
    let seal = key.hasher(PURPOSE, &[]).update(&bytes).finalize();
    bytes.extend_from_slice(seal.as_bytes());
    bytes
}

fn put_gallery(bytes: &mut Vec<u8>, id: &GalleryId, gallery: &Gallery) {
    put_text(bytes, id.as_str());
    put_u32(bytes, gallery.collections.len());
    gallery.collections.iter().for_each(|collection| put_collection(bytes, collection));
    put_u32(bytes, gallery.makeups.len());
    for makeup in &gallery.makeups {
        put_u32(bytes, makeup.collections.len());
        makeup.collections.iter().for_each(|collection| put_u32(bytes, *collection));
    }
    let ordinals = || (0..gallery.roll.len() as u32).map(EnrolmentOrdinal);
    put_u32(bytes, gallery.roll.len());
    for ordinal in ordinals() {
        put_text(bytes, gallery.roll.id(ordinal));
        bytes.extend_from_slice(&gallery.roll.makeup(ordinal).to_le_bytes());
    }
    let withdrawn: Vec<_> = ordinals().filter(|ordinal| gallery.withdrawals.contains(*ordinal)).collect();
    put_ordinals(bytes, &withdrawn);
    (0..gallery.collections.len()).for_each(|number| put_ordinals(bytes, &gallery.reclaimed(number)));
}

fn put_ordinals(bytes: &mut Vec<u8>, ordinals: &[EnrolmentOrdinal]) {
    put_u32(bytes, ordinals.len());
    ordinals.iter().for_each(|ordinal| bytes.extend_from_slice(&ordinal.0.to_le_bytes()));
}

fn put_collection(bytes: &mut Vec<u8>, collection: &Collection) {
    let Comparable { key_version, slot, spec } = &collection.comparable;
    bytes.extend_from_slice(&key_version.0.to_le_bytes());
    bytes.extend_from_slice(&[slot.modality().code(), slot.position().code()]);
    match spec {
        TemplateSpec::Embedding { dimension } => {
            bytes.push(EMBEDDING);
            bytes.extend_from_slice(&dimension.to_le_bytes());
        }
        TemplateSpec::BinaryCode(spec) => {
            bytes.push(BINARY_CODE);
            let BinaryCodeSpec { rows, columns, bits_per_cell, shifts_max, common_bits_min } = *spec;
            for value in [rows, columns, bits_per_cell, shifts_max, common_bits_min] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
    }
    let kept: Vec<(usize, StoredId, &str)> = match &collection.references {
        References::Embeddings { sealed, .. } => sealed.iter().map_while(kept).collect(),
        References::BinaryCodes { .. } => Vec::new(),
    };
    put_u32(bytes, kept.len());
    for (rows, id, engine) in kept {
        put_u32(bytes, rows);
        bytes.extend_from_slice(&id.0);
        put_text(bytes, engine);
    }
}

/// Rows, file and engine of a segment that is kept.
fn kept(sealed: &SealedSegment) -> Option<(usize, StoredId, &str)> {
    Some((sealed.rows.len(), sealed.stored?, sealed.engine.as_ref()?.name()))
}

impl Checkpoint {
    /// Reads the checkpoint of a shard under the settings at hand.
    ///
    /// # Errors
    /// [`UnusableFile`] if it is damaged, of another key, format, shard or settings.
    pub fn decode(key: &StoreKey, of: &CheckpointOf, bytes: &[u8]) -> Result<Self, UnusableFile> {
        let (content, seal) = bytes.split_last_chunk::<SEAL_BYTES>().ok_or(UnusableFile::Short)?;
        let mut reader = Reader(content);
        if reader.array::<8>()? != *MAGIC {
            return Err(UnusableFile::Kind);
        }
        let found = reader.u32()?;
        if found != FORMAT {
            return Err(UnusableFile::Format { found, reads: FORMAT });
        }
        if key.hasher(PURPOSE, &[]).update(content).finalize() != blake3::Hash::from(*seal) {
            return Err(UnusableFile::Seal);
        }
        Self::decode_content(of, reader)
    }

    /// Reads what a seal covers, whoever made it: for tests of what lies behind the seal.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_unsealed(of: &CheckpointOf, content: &[u8]) -> Result<Self, UnusableFile> {
        Self::decode_content(of, Reader(content))
    }

    fn decode_content(of: &CheckpointOf, mut reader: Reader<'_>) -> Result<Self, UnusableFile> {
        if reader.u32()? != of.shard {
            return Err(UnusableFile::Other { field: "shard" });
        }
        if reader.text("settings")? != of.parameters {
            return Err(UnusableFile::Other { field: "set of settings" });
        }
        let header = CheckpointHeader {
            of: of.clone(),
            searchable_index: reader.u64()?,
            withdrawn_up_to: reader.u64()?,
            history: (reader.u64()?, reader.array()?),
        };
        let galleries = (0..reader.count(1)?).map(|_| read_gallery(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        if !galleries.is_sorted_by(|one, next| one.id < next.id) {
            return Err(UnusableFile::Field { field: "order of galleries" });
        }
        Ok(Self { header, galleries })
    }

    /// What it says of itself.
    pub fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// The files that it names.
    pub fn segments(&self) -> impl Iterator<Item = StoredId> {
        let collections = self.galleries.iter().flat_map(|gallery| &gallery.collections);
        collections.flat_map(|collection| &collection.segments).map(|segment| segment.id)
    }
}

fn read_gallery(reader: &mut Reader<'_>) -> Result<StoredGallery, UnusableFile> {
    let id = reader.gallery()?;
    let mut collections = (0..reader.count(11)?).map(|_| read_collection(reader)).collect::<Result<Vec<_>, _>>()?;
    let distinct =
        |place: usize| collections[..place].iter().all(|one| one.comparable != collections[place].comparable);
    if !(0..collections.len()).all(distinct) {
        return Err(UnusableFile::Field { field: "list of collections" });
    }
    let mut makeups = Vec::new();
    for _ in 0..reader.count(4)? {
        let count = reader.count(4)?;
        let makeup = (0..count).map(|_| Ok(reader.u32()? as usize)).collect::<Result<Box<[usize]>, UnusableFile>>()?;
        let known = makeup.iter().all(|collection| *collection < collections.len());
        if !known || !makeup.is_sorted_by(|one, next| one < next) || makeups.contains(&makeup) {
            return Err(UnusableFile::Field { field: "list of makeups" });
        }
        makeups.push(makeup);
    }
    let count = reader.count(6)?;
    let (mut ids, mut ends, mut makeup_of) = (String::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        ids.push_str(reader.enrolment()?);
        ends.push(u32::try_from(ids.len()).map_err(|_| UnusableFile::Field { field: "list of enrolments" })?);
        let makeup = reader.u32()?;
        if makeup as usize >= makeups.len() {
            return Err(UnusableFile::Field { field: "makeup" });
        }
        makeup_of.push(makeup);
    }
    let withdrawn = read_ordinals(reader)?.ok_or(UnusableFile::Field { field: "list of withdrawals" })?;
    if withdrawn.last().is_some_and(|last| last.0 as usize >= count) {
        return Err(UnusableFile::Field { field: "list of withdrawals" });
    }
    for (number, collection) in collections.iter_mut().enumerate() {
        let is_member = |ordinal: &EnrolmentOrdinal| makeups[makeup_of[ordinal.0 as usize] as usize].contains(&number);
        let fits = |ordinal: &EnrolmentOrdinal| withdrawn.binary_search(ordinal).is_ok() && is_member(ordinal);
        let reclaimed = read_ordinals(reader)?.filter(|reclaimed| reclaimed.iter().all(fits));
        collection.reclaimed = reclaimed.ok_or(UnusableFile::Field { field: "list of reclaimed references" })?;
    }
    Ok(StoredGallery { id, collections, makeups, ids, ends, makeup_of, withdrawn })
}

/// Ordinals, unless they do not ascend.
fn read_ordinals(reader: &mut Reader<'_>) -> Result<Option<Vec<EnrolmentOrdinal>>, UnusableFile> {
    let ordinals = (0..reader.count(4)?).map(|_| reader.u32().map(EnrolmentOrdinal)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(ordinals).filter(|ordinals| ordinals.is_sorted_by(|one, next| one < next)))
}

fn read_collection(reader: &mut Reader<'_>) -> Result<StoredCollection, UnusableFile> {
    let key_version = KeyVersion(reader.u32()?);
    let slot = Slot::from_codes(reader.u8()?, reader.u8()?).ok_or(UnusableFile::Field { field: "slot" })?;
    let spec = match reader.u8()? {
        EMBEDDING => TemplateSpec::Embedding { dimension: reader.u32()? },
        BINARY_CODE => TemplateSpec::BinaryCode(BinaryCodeSpec {
            rows: reader.u32()?,
            columns: reader.u32()?,
            bits_per_cell: reader.u32()?,
            shifts_max: reader.u32()?,
            common_bits_min: reader.u32()?,
        }),
        _ => return Err(UnusableFile::Field { field: "kind of template" }),
    };
    spec.validate().map_err(|_| UnusableFile::Field { field: "spec" })?;
    let segments = (0..reader.count(37)?).map(|_| read_segment(reader)).collect::<Result<Vec<_>, _>>()?;
    let is_embedding = matches!(spec, TemplateSpec::Embedding { .. });
    if segments.iter().any(|segment| segment.rows == 0) || (!is_embedding && !segments.is_empty()) {
        return Err(UnusableFile::Field { field: "list of segments" });
    }
    // They come behind the enrolments that they are of.
    let reclaimed = Vec::new();
    Ok(StoredCollection { comparable: Comparable { key_version, slot, spec }, segments, reclaimed })
}

fn read_segment(reader: &mut Reader<'_>) -> Result<StoredSegment, UnusableFile> {
    Ok(StoredSegment { rows: reader.u32()?, id: StoredId(reader.array()?), engine: reader.text("engine")?.to_owned() })
}
