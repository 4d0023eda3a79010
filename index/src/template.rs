//! Templates and the specs a gallery's policy gives them: bounds, errors and the canonical, versioned encoding.
//!
//! What an embedding or a binary code is lives in their own modules; how two are compared lives in `compare`.

use std::fmt;

use crate::binary_code::BinaryCode;
use crate::embedding::CanonicalEmbedding;

/// The smallest dimension of an embedding.
pub const EMBEDDING_DIMENSION_MIN: u32 = 2;
/// The largest dimension of an embedding; the proof that dot products fit 32 bits rests on it (see `embedding`).
pub const EMBEDDING_DIMENSION_MAX: u32 = 4096;
/// The most bits of a binary code, its mask not counted.
pub const BINARY_CODE_BITS_MAX: u64 = 65_536;
/// The widest shift: each comparison costs 2 · `shifts_max` + 1 passes over the code.
const BINARY_CODE_SHIFTS_MAX: u32 = 128;

/// What the templates of one slot look like, fixed by the gallery's policy. Only equal specs are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TemplateSpec {
    /// Real components compared by their cosine.
    Embedding {
        /// The number of components, [`EMBEDDING_DIMENSION_MIN`] to [`EMBEDDING_DIMENSION_MAX`].
        dimension: u32,
    },
    /// Bits compared by the share of those that differ, such as an iris code.
    BinaryCode(BinaryCodeSpec),
}

/// The layout of a binary code and how far two may be rolled against each other.
///
/// A code is an array `[rows][columns][bits_per_cell]` written bit by bit, the most significant bit of each byte
/// first. A shift rolls the columns axis: cell `(r, c)` moves to `(r, (c + shift) mod columns)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BinaryCodeSpec {
    /// Rows, at least 1.
    pub rows: u32,
    /// Columns, at least 1. Rolling them compensates the rotation of an eye.
    pub columns: u32,
    /// Bits in each cell, at least 1; `rows · columns · bits_per_cell` is at most [`BINARY_CODE_BITS_MAX`].
    pub bits_per_cell: u32,
    /// The largest shift tried in either direction, 0 to 128 and less than `columns`.
    pub shifts_max: u32,
    /// The fewest bits valid in both masks for a shift to count, 1 to the number of bits.
    pub common_bits_min: u32,
}

/// A spec out of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, must be {min} to {max}")]
pub struct InvalidSpec {
    /// The field's name in the public contract.
    pub field: &'static str,
    /// The value found.
    pub found: u64,
    /// The smallest value permitted.
    pub min: u64,
    /// The largest value permitted.
    pub max: u64,
}

impl TemplateSpec {
    /// Checks every bound; a policy is stored only after this.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        match self {
            Self::Embedding { dimension } => check(
                "dimension",
                u64::from(*dimension),
                u64::from(EMBEDDING_DIMENSION_MIN),
                u64::from(EMBEDDING_DIMENSION_MAX),
            ),
            Self::BinaryCode(spec) => spec.validate(),
        }
    }
}

impl BinaryCodeSpec {
    /// Checks every bound.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        check("rows", u64::from(self.rows), 1, BINARY_CODE_BITS_MAX)?;
        check("columns", u64::from(self.columns), 1, BINARY_CODE_BITS_MAX)?;
        check("bits_per_cell", u64::from(self.bits_per_cell), 1, BINARY_CODE_BITS_MAX)?;
        check("rows * columns * bits_per_cell", self.bits(), 1, BINARY_CODE_BITS_MAX)?;
        let shifts_max = BINARY_CODE_SHIFTS_MAX.min(self.columns - 1);
        check("shifts_max", u64::from(self.shifts_max), 0, u64::from(shifts_max))?;
        check("common_bits_min", u64::from(self.common_bits_min), 1, self.bits())
    }

    /// The number of bits of a code. Saturates for a spec that is out of bounds.
    pub fn bits(&self) -> u64 {
        u64::from(self.rows).saturating_mul(u64::from(self.columns)).saturating_mul(u64::from(self.bits_per_cell))
    }

    /// The number of bytes of a code, and of its mask.
    pub fn bytes(&self) -> u64 {
        self.bits().div_ceil(8)
    }
}

fn check(field: &'static str, found: u64, min: u64, max: u64) -> Result<(), InvalidSpec> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(InvalidSpec { field, found, min, max }) }
}

/// Why a template was refused. None of these repeats what the template holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The spec itself is out of bounds.
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    /// The number of components is out of bounds or not the spec's.
    #[error("embedding has {found} components, must have {min} to {max}")]
    Dimension {
        /// The number found.
        found: usize,
        /// The smallest number permitted.
        min: u32,
        /// The largest number permitted.
        max: u32,
    },
    /// A component is NaN or infinite.
    #[error("embedding component {component} is not a finite number")]
    NotFinite {
        /// The first such component, from 0.
        component: usize,
    },
    /// Every component is zero, so there is no direction to compare.
    #[error("embedding has length zero")]
    ZeroLength,
    /// Canonical components whose length is not that of a normalised embedding.
    #[error("canonical embedding is not normalised")]
    NotNormalised,
    /// A field of another length than the spec demands.
    #[error("{field} has {found} bytes, must have {expected}")]
    Length {
        /// `code`, `mask` or `template`.
        field: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes demanded.
        expected: u64,
    },
    /// Bits after the last one of the layout are set.
    #[error("{field} sets bits after bit {bits}, which must be zero")]
    PaddingBits {
        /// `code` or `mask`.
        field: &'static str,
        /// Bits of the layout.
        bits: u64,
    },
    /// The encoding's version is not known.
    #[error("template encoding has version {found}, must be {ENCODING_VERSION}")]
    EncodingVersion {
        /// The version found.
        found: u8,
    },
    /// The encoding holds another kind of template than the spec.
    #[error("template encoding has kind {found}, must be {expected}")]
    EncodingKind {
        /// The kind's code found.
        found: u8,
        /// The kind's code demanded.
        expected: u8,
    },
}

/// A template in its canonical form: what is stored, replicated and compared.
///
/// `Debug` prints a length, never contents.
#[derive(Clone, PartialEq, Eq)]
pub enum Template {
    /// See [`CanonicalEmbedding`].
    Embedding(CanonicalEmbedding),
    /// See [`BinaryCode`].
    BinaryCode(BinaryCode),
}

const ENCODING_VERSION: u8 = 1;
const KIND_EMBEDDING: u8 = 1;
const KIND_BINARY_CODE: u8 = 2;
const HEADER_BYTES: usize = 2;

impl Template {
    /// The canonical encoding, version 1.
    ///
    /// One byte of version, one of kind (1 embedding, 2 binary code), then for an embedding its components as
    /// little-endian 16-bit integers (the norm follows from them), for a binary code the code's bytes and the mask's.
    /// Sizes come from the spec.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Embedding(embedding) => {
                let mut bytes = Vec::with_capacity(HEADER_BYTES + 2 * embedding.components().len());
                bytes.extend([ENCODING_VERSION, KIND_EMBEDDING]);
                bytes.extend(embedding.components().iter().flat_map(|component| component.to_le_bytes()));
                bytes
            }
            Self::BinaryCode(binary) => {
                let mut bytes = vec![ENCODING_VERSION, KIND_BINARY_CODE];
                bytes.extend(binary.code_bytes());
                bytes.extend(binary.mask_bytes());
                bytes
            }
        }
    }

    /// The inverse of [`Self::to_bytes`]. Accepts nothing that `to_bytes` could not have written for `spec`.
    pub fn from_bytes(spec: &TemplateSpec, bytes: &[u8]) -> Result<Self, TemplateError> {
        spec.validate()?;
        let (body_bytes, kind) = match spec {
            TemplateSpec::Embedding { dimension } => (2 * u64::from(*dimension), KIND_EMBEDDING),
            TemplateSpec::BinaryCode(spec) => (2 * spec.bytes(), KIND_BINARY_CODE),
        };
        let expected = HEADER_BYTES as u64 + body_bytes;
        if bytes.len() as u64 != expected {
            return Err(TemplateError::Length { field: "template", found: bytes.len(), expected });
        }
        let (header, body) = bytes.split_at(HEADER_BYTES);
        if header[0] != ENCODING_VERSION {
            return Err(TemplateError::EncodingVersion { found: header[0] });
        }
        if header[1] != kind {
            return Err(TemplateError::EncodingKind { found: header[1], expected: kind });
        }
        match spec {
            TemplateSpec::Embedding { .. } => {
                let (pairs, _) = body.as_chunks::<2>();
                let components: Vec<i16> = pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
                CanonicalEmbedding::from_components(&components).map(Self::Embedding)
            }
            TemplateSpec::BinaryCode(spec) => {
                let (code, mask) = body.split_at(body.len() / 2);
                BinaryCode::from_bytes(spec, code, mask).map(Self::BinaryCode)
            }
        }
    }

    /// Whether the template has the spec's kind and size.
    pub fn conforms_to(&self, spec: &TemplateSpec) -> bool {
        match (self, spec) {
            (Self::Embedding(embedding), TemplateSpec::Embedding { dimension }) => embedding.dimension() == *dimension,
            (Self::BinaryCode(binary), TemplateSpec::BinaryCode(spec)) => u64::from(binary.bits()) == spec.bits(),
            (Self::Embedding(_), TemplateSpec::BinaryCode(_))
            | (Self::BinaryCode(_), TemplateSpec::Embedding { .. }) => false,
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding(embedding) => embedding.fmt(formatter),
            Self::BinaryCode(binary) => binary.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FACE: TemplateSpec = TemplateSpec::Embedding { dimension: 3 };
    const IRIS_LAYOUT: BinaryCodeSpec =
        BinaryCodeSpec { rows: 2, columns: 5, bits_per_cell: 2, shifts_max: 1, common_bits_min: 4 };
    const IRIS: TemplateSpec = TemplateSpec::BinaryCode(IRIS_LAYOUT);

    fn face() -> Template {
        Template::Embedding(CanonicalEmbedding::from_f32(&[2.0, -3.0, 6.0]).expect("valid"))
    }

    fn iris() -> Template {
        Template::BinaryCode(
            BinaryCode::from_bytes(&IRIS_LAYOUT, &[0xa5, 0x0f, 0x30], &[0xff, 0xf0, 0xf0]).expect("valid"),
        )
    }

    /// Bytes on disk and in the replicated log: version 1 never changes.
    #[test]
    fn the_encoding_is_as_written_down() {
        let round_half_even = [9362_i16, -14_043, 28_086];
        let mut expected = vec![1, 1];
        expected.extend(round_half_even.iter().flat_map(|component| component.to_le_bytes()));
        assert_eq!(face().to_bytes(), expected);
        assert_eq!(iris().to_bytes(), [1, 2, 0xa5, 0x0f, 0x30, 0xff, 0xf0, 0xf0]);
    }

    #[test]
    fn encodings_of_something_else_are_refused() {
        let check = |spec: &TemplateSpec, bytes: &[u8], expected| {
            assert_eq!(Template::from_bytes(spec, bytes), Err(expected));
        };
        let face = face().to_bytes();
        let iris = iris().to_bytes();
        check(&FACE, &face[..7], TemplateError::Length { field: "template", found: 7, expected: 8 });
        check(&FACE, &[], TemplateError::Length { field: "template", found: 0, expected: 8 });
        // The encodings of both specs are eight bytes long.
        check(&FACE, &iris, TemplateError::EncodingKind { found: 2, expected: 1 });
        check(&IRIS, &face, TemplateError::EncodingKind { found: 1, expected: 2 });
        check(&FACE, &[&[2], &face[1..]].concat(), TemplateError::EncodingVersion { found: 2 });
        check(&FACE, &[1, 1, 0, 0, 0, 0, 0, 0], TemplateError::NotNormalised);
        check(&IRIS, &[1, 2, 0, 0, 1, 0, 0, 0], TemplateError::PaddingBits { field: "code", bits: 20 });
        check(&IRIS, &[1, 2, 0, 0, 0, 0, 0, 8], TemplateError::PaddingBits { field: "mask", bits: 20 });
    }

    #[test]
    fn a_mask_of_another_length_than_the_code_is_refused() {
        let refused = BinaryCode::from_bytes(&IRIS_LAYOUT, &[0; 3], &[0; 2]);
        assert_eq!(refused, Err(TemplateError::Length { field: "mask", found: 2, expected: 3 }));
    }

    #[test]
    fn debug_prints_no_contents() {
        assert_eq!(format!("{:?} {:?}", face(), iris()), "CanonicalEmbedding(3 components) BinaryCode(20 bits)");
    }

    #[test]
    fn specs_out_of_bounds_name_the_field() {
        let check = |change: fn(&mut BinaryCodeSpec), field| {
            let mut layout = IRIS_LAYOUT;
            change(&mut layout);
            assert_eq!(layout.validate().expect_err("invalid").field, field);
        };
        check(|spec| spec.rows = 0, "rows");
        check(|spec| spec.columns = 0, "columns");
        check(|spec| spec.bits_per_cell = 0, "bits_per_cell");
        check(|spec| (spec.rows, spec.columns) = (65_536, 65_536), "rows * columns * bits_per_cell");
        check(|spec| spec.shifts_max = 5, "shifts_max");
        check(|spec| (spec.columns, spec.shifts_max) = (200, 129), "shifts_max");
        check(|spec| spec.common_bits_min = 0, "common_bits_min");
        check(|spec| spec.common_bits_min = 21, "common_bits_min");
        for dimension in [0, 1, 4097, u32::MAX] {
            let spec = TemplateSpec::Embedding { dimension };
            assert_eq!(spec.validate().expect_err("invalid").field, "dimension");
        }
        assert_eq!(IRIS.validate(), Ok(()));
        assert_eq!(TemplateSpec::Embedding { dimension: 4096 }.validate(), Ok(()));
    }

    fn any_spec() -> impl Strategy<Value = TemplateSpec> {
        let number = || prop_oneof![0_u32..40, any::<u32>()];
        prop_oneof![
            number().prop_map(|dimension| TemplateSpec::Embedding { dimension }),
            (number(), number(), number(), number(), number()).prop_map(
                |(rows, columns, bits_per_cell, shifts_max, common_bits_min)| {
                    TemplateSpec::BinaryCode(BinaryCodeSpec {
                        rows,
                        columns,
                        bits_per_cell,
                        shifts_max,
                        common_bits_min,
                    })
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn canonical_bytes_round_trip(values in prop::collection::vec(-1e3_f32..1e3, 2..200)) {
            prop_assume!(values.iter().any(|value| *value != 0.0));
            let spec = TemplateSpec::Embedding { dimension: values.len() as u32 };
            let template = Template::Embedding(CanonicalEmbedding::from_f32(&values).expect("valid"));
            prop_assert_eq!(Template::from_bytes(&spec, &template.to_bytes()), Ok(template));
        }

        #[test]
        fn hostile_bytes_are_refused_or_canonical(spec in any_spec(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = bytes;
            // Half of them with a plausible header.
            if bytes.len() > 2 && bytes.len() % 2 == 0 {
                bytes[0] = 1;
                bytes[1] = bytes[1] % 2 + 1;
            }
            if let Ok(template) = Template::from_bytes(&spec, &bytes) {
                prop_assert_eq!(template.to_bytes(), bytes);
            }
        }

        #[test]
        fn hostile_components_are_refused_or_canonical(values in prop::collection::vec(any::<f32>(), 0..20)) {
            if let Ok(embedding) = CanonicalEmbedding::from_f32(&values) {
                prop_assert_eq!(CanonicalEmbedding::from_components(embedding.components()), Ok(embedding));
            }
        }

        #[test]
        fn an_eight_byte_iris_code_round_trips(code in any::<[u8; 3]>(), mask in any::<[u8; 3]>()) {
            let bytes = [&[1, 2], &code[..], &mask[..]].concat();
            match Template::from_bytes(&IRIS, &bytes) {
                Ok(template) => prop_assert_eq!(template.to_bytes(), bytes),
                Err(error) => {
                    let padded = matches!(error, TemplateError::PaddingBits { bits: 20, .. });
                    prop_assert!(padded && (code[2] | mask[2]) & 0xf != 0);
                }
            }
        }
    }
}
