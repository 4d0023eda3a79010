//! What is wrong with a request: the field, as a path into the request, and the limit it breaks.
//!
//! The checks themselves live in `validate` and `gallery`. Contents of templates are never repeated in an error.

use std::fmt;

/// A field that breaks a rule of the public contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {fault}")]
pub struct ValidationError {
    /// Where, such as `references[2].embedding.values[17]`.
    pub field: String,
    /// What is wrong there, and the limit.
    pub fault: Fault,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It must be there.
    Missing,
    /// The enumeration has no such value.
    UnknownValue {
        /// The number sent.
        found: i32,
    },
    /// It is a number outside its range.
    OutOfRange {
        /// The number sent.
        found: i64,
        /// The least permitted.
        min: i64,
        /// The greatest permitted.
        max: i64,
    },
    /// It is not a multiple of what it must be.
    NotMultiple {
        /// The number sent.
        found: u32,
        /// What it must be a multiple of.
        of: u32,
    },
    /// It has too few or too many elements.
    Count {
        /// The elements sent.
        found: usize,
        /// The least permitted.
        min: usize,
        /// The most permitted.
        max: usize,
    },
    /// It has too few or too many bytes.
    Bytes {
        /// The bytes sent.
        found: usize,
        /// The least permitted.
        min: usize,
        /// The most permitted.
        max: usize,
    },
    /// It breaks the rule of identifiers.
    Identifier {
        /// What it must be.
        rule: &'static str,
    },
    /// It names nothing that there is.
    Name {
        /// What it must be.
        rule: &'static str,
    },
    /// It goes only with another field that is a multiple.
    NeedsMultiple {
        /// The other field.
        other: String,
        /// The number there.
        found: u32,
        /// What it must be a multiple of.
        of: u32,
    },
    /// It is infinite or not a number.
    NotFinite,
    /// Every component is zero, so that it has no direction.
    ZeroLength,
    /// Bits beyond the last one of the spec are set.
    PaddingBits {
        /// The bits of the spec.
        bits: u64,
    },
    /// The same value is given twice.
    Repeated {
        /// The field that gave it first.
        first: String,
    },
    /// The modality has no such position.
    NotOfModality {
        /// The modality.
        modality: &'static str,
    },
    /// The gallery's policy does not list it.
    NotInPolicy,
    /// The gallery's policy has another kind of template for the modality.
    OtherKind {
        /// The kind that the policy has.
        expected: &'static str,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => formatter.write_str("is required"),
            Self::UnknownValue { found } => write!(formatter, "has the unknown value {found}"),
            Self::OutOfRange { found, min, max } => write!(formatter, "is {found}, must be {min} to {max}"),
            Self::NotMultiple { found, of } => write!(formatter, "is {found}, must be a multiple of {of}"),
            Self::Count { found, min, max } if min == max => write!(formatter, "has {found} elements, must have {max}"),
            Self::Count { found, min, max } => write!(formatter, "has {found} elements, must have {min} to {max}"),
            Self::Bytes { found, min, max } if min == max => write!(formatter, "has {found} bytes, must have {max}"),
            Self::Bytes { found, min, max } => write!(formatter, "has {found} bytes, must have {min} to {max}"),
            Self::Identifier { rule } | Self::Name { rule } => write!(formatter, "must be {rule}"),
            Self::NeedsMultiple { other, found, of } => {
                write!(formatter, "needs {other} to be a multiple of {of}, it is {found}")
            }
            Self::NotFinite => formatter.write_str("is not a finite number"),
            Self::ZeroLength => formatter.write_str("has length zero: every component is 0"),
            Self::PaddingBits { bits } => write!(formatter, "sets bits after bit {bits}, which must be zero"),
            Self::Repeated { first } => write!(formatter, "repeats {first}"),
            Self::NotOfModality { modality } => write!(formatter, "is not a position of the modality {modality}"),
            Self::NotInPolicy => formatter.write_str("is not listed in the gallery's policy"),
            Self::OtherKind { expected } => write!(formatter, "must be of kind {expected} by the gallery's policy"),
        }
    }
}

/// An error about `field`.
pub(crate) fn invalid(field: impl Into<String>, fault: Fault) -> ValidationError {
    ValidationError { field: field.into(), fault }
}

/// Checks that a number lies in its range.
pub(crate) fn check_range(field: &str, found: i64, min: i64, max: i64) -> Result<(), ValidationError> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(invalid(field, Fault::OutOfRange { found, min, max })) }
}

/// Checks that a list has a permitted number of elements.
pub(crate) fn check_count(field: &str, found: usize, min: usize, max: usize) -> Result<(), ValidationError> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(invalid(field, Fault::Count { found, min, max })) }
}

/// Checks that text or bytes have a permitted length.
pub(crate) fn check_bytes(field: &str, found: usize, min: usize, max: usize) -> Result<(), ValidationError> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(invalid(field, Fault::Bytes { found, min, max })) }
}
