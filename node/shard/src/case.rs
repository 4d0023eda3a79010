//! Cases: what a person must look at. A pair of enrolments, or one enrolment with more candidates than a list holds.

use std::fmt;

use semel_index::{EnrolmentId, GalleryId};

use crate::verdict::ComparisonRecord;

const CASE_ID_BYTES: usize = 16;

/// A case's name: the first 16 bytes of a hash of the gallery and its enrolments, so that whoever names the pair
/// arrives at the same case. Prints as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseId([u8; CASE_ID_BYTES]);

impl CaseId {
    /// The id from its bytes.
    pub fn from_bytes(bytes: [u8; CASE_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8; CASE_ID_BYTES] {
        &self.0
    }

    /// The id from 32 lower-case hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let lower_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 2 * CASE_ID_BYTES || !digits.iter().all(lower_hex) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for CaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CaseId({self})")
    }
}

/// Whom a case is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CaseSubject {
    /// Two enrolments, unordered: the smaller id (by bytes) comes first.
    Pair {
        /// The smaller id; the case lives in its shard.
        smaller: EnrolmentId,
        /// The larger id.
        larger: EnrolmentId,
    },
    /// One enrolment whose verdict was saturated; the case lives in its shard.
    Cluster(EnrolmentId),
}

impl CaseSubject {
    /// The pair of two enrolments in whatever order; `None` if they are the same.
    pub fn pair(one: &EnrolmentId, other: &EnrolmentId) -> Option<Self> {
        let (smaller, larger) = match one.cmp(other) {
            std::cmp::Ordering::Less => (one, other),
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => (other, one),
        };
        Some(Self::Pair { smaller: smaller.clone(), larger: larger.clone() })
    }

    /// The enrolment whose shard the case lives in.
    pub fn home(&self) -> &EnrolmentId {
        match self {
            Self::Pair { smaller, .. } => smaller,
            Self::Cluster(enrolment) => enrolment,
        }
    }

    /// The enrolments, smaller id first: two of a pair, one of a cluster.
    pub fn enrolment_ids(&self) -> Vec<&EnrolmentId> {
        match self {
            Self::Pair { smaller, larger } => vec![smaller, larger],
            Self::Cluster(enrolment) => vec![enrolment],
        }
    }

    /// BLAKE3(gallery ‖ 0 ‖ smaller ‖ 0 ‖ larger), or BLAKE3(gallery ‖ 0 ‖ enrolment ‖ 0) for a cluster. No id is empty
    /// or holds a zero byte, so no two subjects hash the same bytes.
    pub fn case_id(&self, gallery: &GalleryId) -> CaseId {
        let (first, second) = match self {
            Self::Pair { smaller, larger } => (smaller, larger.as_str()),
            Self::Cluster(enrolment) => (enrolment, ""),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(gallery.as_str().as_bytes()).update(&[0]);
        hasher.update(first.as_str().as_bytes()).update(&[0]);
        hasher.update(second.as_bytes());
        CaseId(*hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes"))
    }
}

/// Where a case stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseState {
    /// Waits for a person.
    Open,
    /// One of its enrolments was withdrawn: nothing to decide.
    Moot {
        /// The enrolment whose withdrawal made it moot first.
        withdrawn: EnrolmentId,
    },
}

/// Enrolments that may be of one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The id; it follows from the gallery and the subject.
    pub case_id: CaseId,
    /// The gallery.
    pub gallery: GalleryId,
    /// Whom it is about.
    pub subject: CaseSubject,
    /// Where it stands.
    pub state: CaseState,
    /// What the first verdict to name the pair saw. Empty for a cluster case: its verdict lists them.
    pub comparisons: Vec<ComparisonRecord>,
    /// The enrolments whose verdict opened it, ascending: one or both of a pair.
    pub opened_by: Vec<EnrolmentId>,
    /// When the opening verdict was proposed, in milliseconds since 1970-01-01 UTC.
    pub opened_at_ms: i64,
}

impl Case {
    /// Whether this is a cluster case.
    pub fn is_cluster(&self) -> bool {
        matches!(self.subject, CaseSubject::Cluster(_))
    }

    /// Whether it waits for a person.
    pub fn is_open(&self) -> bool {
        match self.state {
            CaseState::Open => true,
            CaseState::Moot { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment(id: &str) -> EnrolmentId {
        EnrolmentId::try_from(id).expect("a valid id")
    }

    #[test]
    fn a_pair_has_one_case_id_in_either_order_and_none_with_itself() {
        let gallery = GalleryId::try_from("people").expect("a valid name");
        let (a, b) = (enrolment("a"), enrolment("b"));
        let id = |one, other| CaseSubject::pair(one, other).map(|pair| pair.case_id(&gallery));
        assert_eq!(id(&a, &b), id(&b, &a));
        assert_eq!(id(&a, &a), None);
        assert_ne!(id(&a, &b), Some(CaseSubject::Cluster(a.clone()).case_id(&gallery)));
    }

    /// The first 16 bytes that `b3sum` prints for `people\0a\0b` and `people\0a\0`: other parts of a registry may
    /// compute case ids themselves.
    #[test]
    fn case_ids_never_change() {
        let gallery = GalleryId::try_from("people").expect("a valid name");
        let pair = CaseSubject::pair(&enrolment("a"), &enrolment("b")).expect("two enrolments");
        assert_eq!(pair.case_id(&gallery).to_string(), "942a1d963a818189a3405c0502c8a73d");
        assert_eq!(
            CaseSubject::Cluster(enrolment("a")).case_id(&gallery).to_string(),
            "d544b05be9c78b4cfe06894c28504758"
        );
    }

    #[test]
    fn case_ids_are_read_back_from_their_digits_and_from_nothing_else() {
        let id = CaseId::from_bytes([0xab; 16]);
        assert_eq!(CaseId::from_hex(&id.to_string()), Some(id));
        for bad in ["", "ab", "+b000000000000000000000000000000f", "AB000000000000000000000000000000"] {
            assert_eq!(CaseId::from_hex(bad), None, "{bad}");
        }
    }
}
