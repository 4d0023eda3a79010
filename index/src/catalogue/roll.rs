//! Who is in a gallery on this replica: enrolments by ordinal and ordinals by enrolment id.
//!
//! Every enrolment of the shard is in here, so bytes count: ids lie end to end, and the way back from an id holds ordinals
//! only. Whether an enrolment is withdrawn lives in `withdrawals`; its references live in `collection`.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::HashTable;

use crate::ids::EnrolmentId;
use crate::rows::EnrolmentOrdinal;

const ENTRIES_PER_BLOCK: usize = 256;
const BLOCKS_PER_CHUNK: usize = 256;

/// Enrolments in the order of staging; an entry's place is its ordinal. Append-only.
///
/// A clone shares all entries and costs at most [`BLOCKS_PER_CHUNK`] reference counts; appending to a shared roll
/// copies at most [`ENTRIES_PER_BLOCK`] entries. An entry takes its id's bytes and about 10 more.
#[derive(Clone, Default)]
pub(crate) struct Roll {
    chunks: Arc<Vec<Chunk>>,
    /// All full but the last.
    blocks: Vec<Arc<Block>>,
    /// Ordinals by the hash of their id. Shared by every clone, and only ever added to, so a snapshot that ignores ordinals
    /// past its own end sees no change.
    ordinals: Arc<RwLock<HashTable<u32>>>,
    len: usize,
}

type Chunk = Arc<Vec<Arc<Block>>>;

/// Up to [`ENTRIES_PER_BLOCK`] entries.
#[derive(Clone, Default)]
struct Block {
    /// The ids, one after another.
    ids: String,
    /// Where each id ends: 256 ids of 128 bytes fit.
    ends: Vec<u16>,
    /// Which makeup of the gallery each has: the collections its references are in. One alone stands for all.
    makeups: Vec<u32>,
}

impl Block {
    fn push(&mut self, id: &EnrolmentId, makeup: u32) {
        let alike = self.makeups.len() == 1;
        match self.makeups.first() {
            Some(first) if alike && *first == makeup => {}
            Some(first) if alike => {
                let first = *first;
                self.makeups.resize(self.ends.len(), first);
                self.makeups.push(makeup);
            }
            Some(_) | None => self.makeups.push(makeup),
        }
        self.ids.push_str(id.as_str());
        self.ends.push(u16::try_from(self.ids.len()).expect("256 ids of 128 bytes fit"));
        if self.ends.len() == ENTRIES_PER_BLOCK {
            self.ids.shrink_to_fit();
            self.ends.shrink_to_fit();
            self.makeups.shrink_to_fit();
        }
    }

    fn id(&self, place: usize) -> &str {
        let start = place.checked_sub(1).map_or(0, |before| usize::from(self.ends[before]));
        &self.ids[start..usize::from(self.ends[place])]
    }

    fn makeup(&self, place: usize) -> u32 {
        self.makeups.get(place).copied().unwrap_or(self.makeups[0])
    }

    fn memory_bytes(&self) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        COUNTS + size_of::<Self>() + self.ids.capacity() + 2 * self.ends.capacity() + 4 * self.makeups.capacity()
    }
}

impl Roll {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends an enrolment that is not on the roll. Only the newest clone, the catalogue's own, is appended to.
    pub(crate) fn push(&mut self, id: &EnrolmentId, makeup: u32) -> EnrolmentOrdinal {
        assert_eq!(self.ordinal_of(id), None, "an enrolment id is never reused");
        let ordinal = u32::try_from(self.len).expect("a shard's gallery holds fewer than 2^32");
        if self.len.is_multiple_of(ENTRIES_PER_BLOCK) {
            if self.blocks.len() == BLOCKS_PER_CHUNK {
                Arc::make_mut(&mut self.chunks).push(Arc::new(std::mem::take(&mut self.blocks)));
            }
            self.blocks.push(Arc::default());
        }
        let block = self.blocks.last_mut().expect("pushed above when there was none with room");
        Arc::make_mut(block).push(id, makeup);
        self.len += 1;
        // A panic elsewhere cannot leave the table half-written: a poisoned lock guards a whole table.
        let mut ordinals = self.ordinals.write().unwrap_or_else(PoisonError::into_inner);
        ordinals.insert_unique(hash(id.as_str()), ordinal, |other| hash(self.id(EnrolmentOrdinal(*other))));
        EnrolmentOrdinal(ordinal)
    }

    /// The id of an enrolment, as text.
    pub(crate) fn id(&self, ordinal: EnrolmentOrdinal) -> &str {
        let (block, place) = self.entry(ordinal);
        block.id(place)
    }

    /// The id of an enrolment.
    pub(crate) fn enrolment_id(&self, ordinal: EnrolmentOrdinal) -> EnrolmentId {
        EnrolmentId::try_from(self.id(ordinal)).expect("it was one when it was taken in")
    }

    /// Which makeup of the gallery an enrolment has.
    pub(crate) fn makeup(&self, ordinal: EnrolmentOrdinal) -> u32 {
        let (block, place) = self.entry(ordinal);
        block.makeup(place)
    }

    /// The ordinal of an enrolment on this clone of the roll.
    pub(crate) fn ordinal_of(&self, id: &EnrolmentId) -> Option<EnrolmentOrdinal> {
        let ordinals = self.ordinals.read().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |ordinal: &u32| (*ordinal as usize) < self.len && self.id(EnrolmentOrdinal(*ordinal)) == id.as_str();
        ordinals.find(hash(id.as_str()), is_it).copied().map(EnrolmentOrdinal)
    }

    /// Bytes of memory held, whoever shares them.
    pub(crate) fn memory_bytes(&self) -> usize {
        let blocks = self.chunks.iter().flat_map(|chunk| chunk.iter()).chain(&self.blocks);
        let table = self.ordinals.read().unwrap_or_else(PoisonError::into_inner).allocation_size();
        table + blocks.map(|block| block.memory_bytes()).sum::<usize>()
    }

    fn entry(&self, ordinal: EnrolmentOrdinal) -> (&Block, usize) {
        let place = ordinal.0 as usize;
        let block = place / ENTRIES_PER_BLOCK;
        let block = match self.chunks.get(block / BLOCKS_PER_CHUNK) {
            Some(chunk) => &chunk[block % BLOCKS_PER_CHUNK],
            None => &self.blocks[block - self.chunks.len() * BLOCKS_PER_CHUNK],
        };
        (block, place % ENTRIES_PER_BLOCK)
    }
}

impl fmt::Debug for Roll {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Roll({} enrolments)", self.len)
    }
}

/// Ids are chosen by clients: a hash that cannot be steered cheaply keeps them apart, at a tenth of a microsecond.
fn hash(id: &str) -> u64 {
    let digest = blake3::hash(id.as_bytes());
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> EnrolmentId {
        EnrolmentId::try_from(number.to_string()).expect("valid")
    }

    #[test]
    fn every_clone_keeps_its_own_end() {
        let mut roll = Roll::default();
        let mut clones = Vec::new();
        let last = 3 * (ENTRIES_PER_BLOCK * BLOCKS_PER_CHUNK) as u32 / 2;
        // Blocks of one makeup, blocks of many, and blocks whose last entries differ.
        let makeup = |number: u32| if number % 1_000 < 300 { number } else { number / 100 };
        for number in 0..last {
            if number % 997 == 0 {
                clones.push(roll.clone());
            }
            assert_eq!(roll.push(&id(number), makeup(number)), EnrolmentOrdinal(number));
        }
        for (clone, len) in clones.iter().zip((0..).step_by(997)) {
            assert_eq!(clone.len(), len);
            assert_eq!(clone.ordinal_of(&id(len as u32)), None);
            for number in (0..len as u32).step_by(61) {
                assert_eq!(clone.makeup(EnrolmentOrdinal(number)), makeup(number));
                assert_eq!(clone.enrolment_id(EnrolmentOrdinal(number)), id(number));
                assert_eq!(clone.ordinal_of(&id(number)), Some(EnrolmentOrdinal(number)));
            }
        }
    }

    #[test]
    fn an_entry_takes_its_id_and_little_more() {
        let mut roll = Roll::default();
        let count = 50_000;
        for number in 0..count {
            roll.push(&EnrolmentId::try_from(format!("{number:010}")).expect("valid"), 0);
        }
        let bytes = roll.memory_bytes() as f64 / f64::from(count);
        assert!(bytes < 10.0 + 11.0, "{bytes} per enrolment");
    }
}
