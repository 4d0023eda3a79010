//! What is kept of a catalogue outside memory: the form of two kinds of file, a sealed segment and a checkpoint.
//!
//! Pure: bytes in, bytes out; where files lie, and when they are written, is the shell's. Everything kept is derived and can be
//! thrown away. It is never trusted either: each file ends in a seal, a BLAKE3 hash of all bytes before it under a key of the
//! volume, and a segment is used only if it is the very file that the checkpoint names, of the references that the checkpoint
//! says it is of. No byte goes to an engine's library before that is known.

mod bytes;
mod checkpoint;
mod segment;

use std::fmt;

pub use checkpoint::{Checkpoint, CheckpointHeader, CheckpointOf};
pub(crate) use checkpoint::{StoredGallery, StoredSegment, encode as encode_checkpoint};
pub(crate) use segment::write as write_segment;
pub use segment::{RowReader, SegmentFile, SegmentHeader, SegmentParts};

/// What a volume's files are sealed with. Who has it can write files that are believed.
#[derive(Clone)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// A key of 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A hasher for one purpose, so that no seal can stand in for another.
    fn hasher(&self, purpose: &str, of: &[u8]) -> blake3::Hasher {
        let mut key = blake3::Hasher::new_derive_key(purpose);
        key.update(&self.0).update(of);
        blake3::Hasher::new_keyed(key.finalize().as_bytes())
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StoreKey")
    }
}

/// The seal of a file, which names it: no two files have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredId(pub [u8; 32]);

impl fmt::Display for StoredId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..16].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for StoredId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StoredId({self})")
    }
}

/// Why a file is not used. What it was for is derived again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableFile {
    /// Bytes are missing.
    #[error("it is cut short")]
    Short,
    /// There are bytes after its end.
    #[error("it goes on after its end")]
    Long,
    /// It does not begin as this kind of file does.
    #[error("it is not a file of this kind")]
    Kind,
    /// Another version wrote it.
    #[error("it has format {found}, this program reads {reads}")]
    Format {
        /// The format found.
        found: u32,
        /// The only one that is read.
        reads: u32,
    },
    /// It was written for something else.
    #[error("it is of another {field}")]
    Other {
        /// What differs.
        field: &'static str,
    },
    /// A value is outside its bounds.
    #[error("its {field} is out of bounds")]
    Field {
        /// The value.
        field: &'static str,
    },
    /// Its bytes are not those that were sealed, or not with this key.
    #[error("its seal does not fit its bytes")]
    Seal,
    /// It is whole, and not the one that was asked for.
    #[error("it is another file")]
    AnotherFile,
}
