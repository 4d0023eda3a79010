//! Requests as they come from the wire, before anything is checked. `validate` turns them into types that hold.

use std::fmt;

/// Where an enrolment came from. Kept with it, never used to match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// Where it was captured. At most 256 bytes.
    pub site: String,
    /// Who captured it. At most 256 bytes.
    pub operator_id: String,
    /// The legal basis. At most 256 bytes.
    pub legal_basis: String,
    /// The purpose. If the gallery's policy lists purposes, one of them or none; at most 256 bytes.
    pub purpose: String,
    /// When, in milliseconds since 1970-01-01 UTC. 0 = unknown.
    pub captured_at_ms: i64,
}

/// A template as sent.
#[derive(Clone, PartialEq)]
pub enum TemplateRequest {
    /// The components of an embedding, of any scale.
    Embedding(Vec<f32>),
    /// A code of bits and its mask; an empty mask means that every bit is usable.
    BinaryCode {
        /// The bits, most significant first.
        code: Vec<u8>,
        /// One bit per bit of `code`, 1 = usable.
        mask: Vec<u8>,
    },
}

/// A biometric reference as sent.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceRequest {
    /// The number of the modality on the wire.
    pub modality: i32,
    /// The number of the position on the wire.
    pub position: i32,
    /// The template; required.
    pub template: Option<TemplateRequest>,
    /// 0 to 100.
    pub quality: Option<u32>,
    /// The algorithm that made the template.
    pub algorithm_id: String,
}

/// One enrolment as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct EnrolmentRequest {
    /// The gallery.
    pub gallery: String,
    /// The id and idempotency key.
    pub enrolment_id: String,
    /// The registry's id for the person, if it has one.
    pub subject_id: String,
    /// The references.
    pub references: Vec<ReferenceRequest>,
    /// Where it came from.
    pub provenance: Option<Provenance>,
}

impl fmt::Debug for TemplateRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding(values) => write!(formatter, "Embedding({} components)", values.len()),
            Self::BinaryCode { code, mask } => write!(formatter, "BinaryCode({} + {} bytes)", code.len(), mask.len()),
        }
    }
}
