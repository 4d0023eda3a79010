//! Who is in a gallery on this replica: enrolments by ordinal and ordinals by enrolment id.
//!
//! Whether an enrolment is withdrawn lives in `withdrawals`; its references live in `collection`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ids::EnrolmentId;
use crate::rows::EnrolmentOrdinal;

const ENTRIES_PER_BLOCK: usize = 64;
const BLOCKS_PER_CHUNK: usize = 256;

/// One enrolment of the roll.
#[derive(Debug, Clone)]
pub(crate) struct Enrolled {
    pub(crate) id: EnrolmentId,
    /// Which makeup of the gallery it has: the collections its references are in.
    pub(crate) makeup: u32,
}

/// Enrolments in the order of staging; an entry's place is its ordinal. Append-only.
///
/// A clone shares all entries and costs at most [`BLOCKS_PER_CHUNK`] reference counts; appending to a shared roll
/// copies at most [`ENTRIES_PER_BLOCK`] entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roll {
    chunks: Arc<Vec<Chunk>>,
    /// All full but the last.
    blocks: Vec<Arc<Vec<Enrolled>>>,
    /// Shared by every clone. Only ever added to, so a snapshot that ignores ordinals past its own end sees no change.
    ordinals: Arc<RwLock<BTreeMap<EnrolmentId, EnrolmentOrdinal>>>,
    len: usize,
}

type Chunk = Arc<Vec<Arc<Vec<Enrolled>>>>;

impl Roll {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends an enrolment that is not on the roll. Only the newest clone, the catalogue's own, is appended to.
    pub(crate) fn push(&mut self, enrolled: Enrolled) -> EnrolmentOrdinal {
        let ordinal = EnrolmentOrdinal(u32::try_from(self.len).expect("a shard's gallery holds fewer than 2^32"));
        let id = enrolled.id.clone();
        if self.len.is_multiple_of(ENTRIES_PER_BLOCK) {
            if self.blocks.len() == BLOCKS_PER_CHUNK {
                Arc::make_mut(&mut self.chunks).push(Arc::new(std::mem::take(&mut self.blocks)));
            }
            self.blocks.push(Arc::default());
        }
        let block = self.blocks.last_mut().expect("pushed above when there was none with room");
        Arc::make_mut(block).push(enrolled);
        self.len += 1;
        // A panic elsewhere cannot leave the map half-written: a poisoned lock guards a whole map.
        let replaced = self.ordinals.write().unwrap_or_else(PoisonError::into_inner).insert(id, ordinal);
        assert_eq!(replaced, None, "an enrolment id is never reused");
        ordinal
    }

    pub(crate) fn entry(&self, ordinal: EnrolmentOrdinal) -> &Enrolled {
        let place = ordinal.0 as usize;
        let block = place / ENTRIES_PER_BLOCK;
        let block = match self.chunks.get(block / BLOCKS_PER_CHUNK) {
            Some(chunk) => &chunk[block % BLOCKS_PER_CHUNK],
            None => &self.blocks[block - self.chunks.len() * BLOCKS_PER_CHUNK],
        };
        &block[place % ENTRIES_PER_BLOCK]
    }

    /// The ordinal of an enrolment on this clone of the roll.
    pub(crate) fn ordinal_of(&self, id: &EnrolmentId) -> Option<EnrolmentOrdinal> {
        let ordinals = self.ordinals.read().unwrap_or_else(PoisonError::into_inner);
        ordinals.get(id).copied().filter(|ordinal| (ordinal.0 as usize) < self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolled(number: u32) -> Enrolled {
        Enrolled { id: EnrolmentId::try_from(number.to_string()).expect("valid"), makeup: number }
    }

    #[test]
    fn every_clone_keeps_its_own_end() {
        let mut roll = Roll::default();
        let mut clones = Vec::new();
        let last = 3 * (ENTRIES_PER_BLOCK * BLOCKS_PER_CHUNK) as u32 / 2;
        for number in 0..last {
            if number % 997 == 0 {
                clones.push(roll.clone());
            }
            assert_eq!(roll.push(enrolled(number)), EnrolmentOrdinal(number));
        }
        for (clone, len) in clones.iter().zip((0..).step_by(997)) {
            assert_eq!(clone.len(), len);
            assert_eq!(clone.ordinal_of(&enrolled(len as u32).id), None);
            for number in (0..len as u32).step_by(61) {
                assert_eq!(clone.entry(EnrolmentOrdinal(number)).makeup, number);
                assert_eq!(clone.ordinal_of(&enrolled(number).id), Some(EnrolmentOrdinal(number)));
            }
        }
    }
}
