//! The identifiers everything else is keyed by, and the placement of an enrolment in a shard.
//!
//! Each has one way to be built, so a value in hand is a valid one. Replica, node and cluster ids live elsewhere.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The most shards a cluster can be initialised with.
pub const SHARDS_MAX: u32 = 4096;

const GALLERY_ID_BYTES_MAX: usize = 64;
const ENROLMENT_ID_BYTES_MAX: usize = 128;

/// An identifier that breaks its field's rule. The offending text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {rule}")]
pub struct InvalidId {
    /// The field's name in the public contract.
    pub field: &'static str,
    /// What the field must be, as a phrase that follows "must be".
    pub rule: &'static str,
}

/// The name of a gallery: 1 to 64 bytes of `[a-z0-9._-]`, the first a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GalleryId(Arc<str>);

/// A client's name for an enrolment within its gallery: 1 to 128 bytes of UTF-8 without NUL. Never reused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnrolmentId(Arc<str>);

impl TryFrom<&str> for GalleryId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        let permitted = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let starts_with_letter = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if text.len() <= GALLERY_ID_BYTES_MAX && starts_with_letter && text.bytes().all(permitted) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidId { field: "gallery", rule: "1 to 64 bytes of [a-z0-9._-] that start with a letter" })
        }
    }
}

impl TryFrom<&str> for EnrolmentId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        if Self::is_valid(text) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidId { field: "enrolment_id", rule: "1 to 128 bytes of UTF-8 without NUL" })
        }
    }
}

impl EnrolmentId {
    pub(crate) fn is_valid(text: &str) -> bool {
        !text.is_empty() && text.len() <= ENROLMENT_ID_BYTES_MAX && !text.contains('\0')
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        // `Ord` and `Hash` are those of the text, as `Borrow` demands.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::try_from(text.as_str())
            }
        }
    };
}

text_id!(GalleryId);
text_id!(EnrolmentId);

/// One shard of the cluster, from 0 to the shard count less one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of shards, fixed when the cluster is initialised: 1 to [`SHARDS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardCount(NonZeroU32);

impl ShardCount {
    /// A count from 1 to [`SHARDS_MAX`]; `None` outside that.
    pub fn new(shards: u32) -> Option<Self> {
        NonZeroU32::new(shards).filter(|shards| shards.get() <= SHARDS_MAX).map(Self)
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Every shard once, in ascending order.
    pub fn all(self) -> impl ExactSizeIterator<Item = ShardId> + Clone + use<> {
        (0..self.get()).map(ShardId)
    }
}

impl TryFrom<u32> for ShardCount {
    type Error = InvalidId;

    fn try_from(shards: u32) -> Result<Self, InvalidId> {
        Self::new(shards).ok_or(InvalidId { field: "shards", rule: "between 1 and 4096" })
    }
}

/// The shard an enrolment and all its references live in.
///
/// The first eight bytes, little-endian, of BLAKE3(gallery ‖ 0 ‖ enrolment id), modulo the number of shards. The zero
/// byte separates the two, as neither may hold one. Truth on disk depends on this function: it never changes.
pub fn shard_of(gallery: &GalleryId, enrolment: &EnrolmentId, shards: ShardCount) -> ShardId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(gallery.as_str().as_bytes()).update(&[0]).update(enrolment.as_str().as_bytes());
    let digest = hasher.finalize();
    let first = digest.as_bytes().first_chunk::<8>().expect("a BLAKE3 digest has 32 bytes");
    let remainder = u64::from_le_bytes(*first) % u64::from(shards.get());
    ShardId(u32::try_from(remainder).expect("smaller than the shard count"))
}

/// Which of a gallery's rotation keys a reference was made canonical with. Only equal versions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyVersion(pub u32);

/// Which of a gallery's policies an enrolment was staged under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicyVersion(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gallery_ids_follow_their_rule() {
        let longest = "a".repeat(64);
        for good in ["a", "camp-7_north.2026", &longest] {
            assert_eq!(GalleryId::try_from(good).expect("valid").as_str(), good);
        }
        let too_long = "a".repeat(65);
        for bad in ["", "7camp", "-a", "Camp", "a b", "a/b", "é", "a\0", &too_long] {
            assert_eq!(GalleryId::try_from(bad).expect_err("invalid").field, "gallery", "{bad:?}");
        }
    }

    #[test]
    fn enrolment_ids_follow_their_rule() {
        let longest = "é".repeat(64);
        for good in ["7", "کد-۱۲", "a b/c", &longest] {
            assert_eq!(EnrolmentId::try_from(good).expect("valid").as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in ["", "a\0b", &too_long] {
            assert_eq!(EnrolmentId::try_from(bad).expect_err("invalid").field, "enrolment_id", "{bad:?}");
        }
    }

    /// Taken from the Python binding of BLAKE3: an enrolment whose place moved would be lost.
    #[test]
    fn placement_never_changes() {
        let gallery = GalleryId::try_from("people").expect("valid");
        let shards = ShardCount::new(4096).expect("in range");
        let placed: Vec<u32> = ["a", "b", "enrolment-000001"]
            .iter()
            .map(|id| shard_of(&gallery, &EnrolmentId::try_from(*id).expect("valid"), shards).0)
            .collect();
        assert_eq!(placed, [3561, 709, 173]);
    }

    #[test]
    fn placement_is_even_and_in_range() {
        let gallery = GalleryId::try_from("people").expect("valid");
        let shards = ShardCount::new(7).expect("in range");
        let mut counts = [0_u32; 7];
        for number in 0..7_000 {
            let id = EnrolmentId::try_from(number.to_string()).expect("valid");
            counts[shard_of(&gallery, &id, shards).0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        assert_eq!(shards.all().count(), 7);
    }

    #[test]
    fn shard_counts_are_bounded() {
        assert_eq!(ShardCount::new(0), None);
        assert_eq!(ShardCount::new(4097), None);
        assert_eq!(ShardCount::new(4096).map(ShardCount::get), Some(4096));
    }
}
