//! The one place where a request is checked against a gallery's policy. What comes out is known to be well formed.
//!
//! Nothing is normalised or rotated here: `digest` reads the content as it was given, `canonical` makes it comparable.

use std::fmt;

use semel_index::{
    BinaryCode, BinaryCodeSpec, EnrolmentId, GalleryId, InvalidId, Modality, Position, Slot, TemplateError,
    TemplateSpec,
};

use crate::gallery::{Policy, modality_of};
use crate::invalid::{Fault, ValidationError, check_bytes, check_count, check_range, invalid};
use crate::request::{EnrolmentRequest, Provenance, ReferenceRequest, TemplateRequest};

/// The most references of an enrolment or a probe.
pub const REFERENCES_MAX: usize = 16;
/// The longest subject id.
pub const SUBJECT_ID_BYTES_MAX: usize = 128;
/// The longest algorithm id.
pub const ALGORITHM_ID_BYTES_MAX: usize = 128;
/// The longest free text: provenance, purposes, reasons.
pub const TEXT_BYTES_MAX: usize = 256;

const QUALITY_MAX: i64 = 100;

/// A template that fits its spec, as it was given.
#[derive(Clone, PartialEq)]
pub enum ValidatedTemplate {
    /// Finite components, as many as the spec says, not all zero; of any scale.
    Embedding(Vec<f32>),
    /// A code and a mask of the spec's length; the mask may be empty.
    BinaryCode {
        /// The bits.
        code: Vec<u8>,
        /// The usable bits; empty = all.
        mask: Vec<u8>,
    },
}

/// A reference that fits the policy it was checked against.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidatedReference {
    slot: Slot,
    spec: TemplateSpec,
    template: ValidatedTemplate,
    quality: Option<u32>,
    algorithm_id: String,
}

/// An enrolment request that fits the policy it was checked against.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidatedEnrolment {
    gallery: GalleryId,
    enrolment_id: EnrolmentId,
    subject_id: String,
    references: Vec<ValidatedReference>,
    provenance: Option<Provenance>,
}

impl ValidatedReference {
    /// What it is compared with.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The shape that the policy gives its templates.
    pub fn spec(&self) -> TemplateSpec {
        self.spec
    }

    /// The template, as given.
    pub fn template(&self) -> &ValidatedTemplate {
        &self.template
    }

    /// Quality, 0 to 100, as given.
    pub fn quality(&self) -> Option<u32> {
        self.quality
    }

    /// The algorithm that made the template, as given.
    pub fn algorithm_id(&self) -> &str {
        &self.algorithm_id
    }
}

impl ValidatedEnrolment {
    /// The gallery.
    pub fn gallery(&self) -> &GalleryId {
        &self.gallery
    }

    /// The id.
    pub fn enrolment_id(&self) -> &EnrolmentId {
        &self.enrolment_id
    }

    /// The registry's id for the person.
    pub fn subject_id(&self) -> &str {
        &self.subject_id
    }

    /// The references in the order of their slots, each of another slot: the order they came in carries no meaning.
    pub fn references(&self) -> &[ValidatedReference] {
        &self.references
    }

    /// Where it came from.
    pub fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }
}

impl fmt::Debug for ValidatedTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding(values) => write!(formatter, "Embedding({} components)", values.len()),
            Self::BinaryCode { code, .. } => write!(formatter, "BinaryCode({} bytes)", code.len()),
        }
    }
}

/// Checks an enrolment request against the policy of its gallery.
///
/// # Errors
/// Names the first field that breaks its limit.
pub fn validate_enrolment(request: EnrolmentRequest, policy: &Policy) -> Result<ValidatedEnrolment, ValidationError> {
    let gallery = GalleryId::try_from(request.gallery).map_err(identifier)?;
    let enrolment_id = EnrolmentId::try_from(request.enrolment_id).map_err(identifier)?;
    check_bytes("subject_id", request.subject_id.len(), 0, SUBJECT_ID_BYTES_MAX)?;
    let references = validate_references(request.references, policy)?;
    if let Some(provenance) = &request.provenance {
        validate_provenance(provenance, policy)?;
    }
    Ok(ValidatedEnrolment {
        gallery,
        enrolment_id,
        subject_id: request.subject_id,
        references,
        provenance: request.provenance,
    })
}

/// Checks the references of an enrolment or a probe against a policy; they come out in the order of their slots.
///
/// # Errors
/// Names the first field that breaks its limit.
pub fn validate_references(
    requests: Vec<ReferenceRequest>,
    policy: &Policy,
) -> Result<Vec<ValidatedReference>, ValidationError> {
    check_count("references", requests.len(), 1, REFERENCES_MAX)?;
    let mut references: Vec<ValidatedReference> = Vec::with_capacity(requests.len());
    for (position, request) in requests.into_iter().enumerate() {
        let path = format!("references[{position}]");
        let reference = validate_reference(&path, request, policy)?;
        if let Some(first) = references.iter().position(|earlier| earlier.slot == reference.slot) {
            let first = format!("references[{first}].position");
            return Err(invalid(format!("{path}.position"), Fault::Repeated { first }));
        }
        references.push(reference);
    }
    references.sort_by_key(|reference| reference.slot);
    Ok(references)
}

/// Checks a purpose that must be named, as identification demands.
///
/// # Errors
/// If it is empty, too long, or not among the purposes that the policy lists.
pub fn validate_purpose(purpose: &str, policy: &Policy) -> Result<(), ValidationError> {
    check_bytes("purpose", purpose.len(), 1, TEXT_BYTES_MAX)?;
    check_purpose_listed("purpose", purpose, policy)
}

/// Checks the reason of a withdrawal.
///
/// # Errors
/// If it is empty or too long.
pub fn validate_reason(reason: &str) -> Result<(), ValidationError> {
    check_bytes("reason", reason.len(), 1, TEXT_BYTES_MAX)
}

fn identifier(error: InvalidId) -> ValidationError {
    invalid(error.field, Fault::Identifier { rule: error.rule })
}

fn validate_provenance(provenance: &Provenance, policy: &Policy) -> Result<(), ValidationError> {
    check_bytes("provenance.site", provenance.site.len(), 0, TEXT_BYTES_MAX)?;
    check_bytes("provenance.operator_id", provenance.operator_id.len(), 0, TEXT_BYTES_MAX)?;
    check_bytes("provenance.legal_basis", provenance.legal_basis.len(), 0, TEXT_BYTES_MAX)?;
    check_bytes("provenance.purpose", provenance.purpose.len(), 0, TEXT_BYTES_MAX)?;
    // Provenance is optional, and so is each of its fields: no purpose is not a wrong purpose.
    if provenance.purpose.is_empty() {
        Ok(())
    } else {
        check_purpose_listed("provenance.purpose", &provenance.purpose, policy)
    }
}

fn check_purpose_listed(field: &str, purpose: &str, policy: &Policy) -> Result<(), ValidationError> {
    if policy.purposes().is_empty() || policy.purposes().iter().any(|listed| listed == purpose) {
        Ok(())
    } else {
        Err(invalid(field, Fault::NotInPolicy))
    }
}

fn validate_reference(
    path: &str,
    request: ReferenceRequest,
    policy: &Policy,
) -> Result<ValidatedReference, ValidationError> {
    let field = |name: &str| format!("{path}.{name}");
    let modality = modality_of(&field("modality"), request.modality)?;
    let rules = policy.modality(modality).ok_or_else(|| invalid(field("modality"), Fault::NotInPolicy))?;
    let slot = slot_of(&field("position"), modality, request.position)?;
    let template = request.template.ok_or_else(|| invalid(field("template"), Fault::Missing))?;
    let template = validate_template(path, template, &rules.spec)?;
    if let Some(quality) = request.quality {
        check_range(&field("quality"), i64::from(quality), 0, QUALITY_MAX)?;
    }
    check_bytes(&field("algorithm_id"), request.algorithm_id.len(), 0, ALGORITHM_ID_BYTES_MAX)?;
    let ReferenceRequest { quality, algorithm_id, .. } = request;
    Ok(ValidatedReference { slot, spec: rules.spec, template, quality, algorithm_id })
}

fn slot_of(field: &str, modality: Modality, position: i32) -> Result<Slot, ValidationError> {
    let position = match (position, modality) {
        (0, Modality::Face | Modality::Voice) => Position::Only,
        (0, Modality::Iris | Modality::Fingerprint) => return Err(invalid(field, Fault::Missing)),
        (number, Modality::Face | Modality::Voice | Modality::Iris | Modality::Fingerprint) => u8::try_from(number)
            .ok()
            .and_then(Position::from_code)
            .ok_or_else(|| invalid(field, Fault::UnknownValue { found: number }))?,
    };
    Slot::new(modality, position).ok_or_else(|| invalid(field, Fault::NotOfModality { modality: modality.name() }))
}

fn validate_template(
    path: &str,
    template: TemplateRequest,
    spec: &TemplateSpec,
) -> Result<ValidatedTemplate, ValidationError> {
    match (template, spec) {
        (TemplateRequest::Embedding(values), TemplateSpec::Embedding { dimension }) => {
            validate_embedding(&format!("{path}.embedding.values"), &values, *dimension)?;
            Ok(ValidatedTemplate::Embedding(values))
        }
        (TemplateRequest::BinaryCode { code, mask }, TemplateSpec::BinaryCode(spec)) => {
            validate_code(&format!("{path}.binary_code"), &code, &mask, spec)?;
            Ok(ValidatedTemplate::BinaryCode { code, mask })
        }
        (TemplateRequest::Embedding(_), TemplateSpec::BinaryCode(_)) => {
            Err(invalid(format!("{path}.template"), Fault::OtherKind { expected: "binary_code" }))
        }
        (TemplateRequest::BinaryCode { .. }, TemplateSpec::Embedding { .. }) => {
            Err(invalid(format!("{path}.template"), Fault::OtherKind { expected: "embedding" }))
        }
    }
}

fn validate_embedding(field: &str, values: &[f32], dimension: u32) -> Result<(), ValidationError> {
    check_count(field, values.len(), dimension as usize, dimension as usize)?;
    if let Some(position) = values.iter().position(|value| !value.is_finite()) {
        return Err(invalid(format!("{field}[{position}]"), Fault::NotFinite));
    }
    if values.iter().all(|value| *value == 0.0) { Err(invalid(field, Fault::ZeroLength)) } else { Ok(()) }
}

fn validate_code(path: &str, code: &[u8], mask: &[u8], spec: &BinaryCodeSpec) -> Result<(), ValidationError> {
    let bytes = usize::try_from(spec.bytes()).expect("at most 8 KiB by the spec's limits");
    check_bytes(&format!("{path}.code"), code.len(), bytes, bytes)?;
    if !mask.is_empty() {
        check_bytes(&format!("{path}.mask"), mask.len(), bytes, bytes)?;
    }
    let all_usable = usable_bits(spec);
    let mask = if mask.is_empty() { &all_usable } else { mask };
    match BinaryCode::from_bytes(spec, code, mask) {
        Ok(_) => Ok(()),
        Err(TemplateError::PaddingBits { field, bits }) => {
            Err(invalid(format!("{path}.{field}"), Fault::PaddingBits { bits }))
        }
        Err(error) => unreachable!("the spec is valid and the lengths are checked: {error}"),
    }
}

/// The mask of a code whose every bit is usable.
pub(crate) fn usable_bits(spec: &BinaryCodeSpec) -> Vec<u8> {
    let bytes = usize::try_from(spec.bytes()).expect("at most 8 KiB by the spec's limits");
    let mut mask = vec![u8::MAX; bytes];
    if let Some(last) = mask.last_mut() {
        *last <<= spec.bytes() * 8 - spec.bits();
    }
    mask
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gallery::tests::policy;

    pub(crate) fn voice(values: [f32; 4]) -> ReferenceRequest {
        ReferenceRequest {
            modality: 2,
            position: 0,
            template: Some(TemplateRequest::Embedding(values.to_vec())),
            quality: Some(80),
            algorithm_id: "ge2e@1".to_owned(),
        }
    }

    fn iris(position: i32) -> ReferenceRequest {
        let template = TemplateRequest::BinaryCode { code: vec![0xA5, 0x30], mask: vec![0xFF, 0xF0] };
        ReferenceRequest { modality: 3, position, template: Some(template), quality: None, algorithm_id: String::new() }
    }

    pub(crate) fn request() -> EnrolmentRequest {
        EnrolmentRequest {
            gallery: "people".to_owned(),
            enrolment_id: "e-1".to_owned(),
            subject_id: String::new(),
            references: vec![iris(3), voice([3.0, 0.0, -4.0, 0.0]), iris(2)],
            provenance: Some(Provenance { purpose: "aid".to_owned(), ..Provenance::default() }),
        }
    }

    fn check(change: impl FnOnce(&mut EnrolmentRequest), message: &str) {
        let mut request = request();
        change(&mut request);
        assert_eq!(validate_enrolment(request, &policy()).expect_err("invalid").to_string(), message);
    }

    fn values(values: Vec<f32>) -> impl FnOnce(&mut EnrolmentRequest) {
        move |request| request.references[1].template = Some(TemplateRequest::Embedding(values))
    }

    fn code(code: Vec<u8>, mask: Vec<u8>) -> impl FnOnce(&mut EnrolmentRequest) {
        move |request| request.references[0].template = Some(TemplateRequest::BinaryCode { code, mask })
    }

    fn provenance(change: impl FnOnce(&mut Provenance)) -> impl FnOnce(&mut EnrolmentRequest) {
        move |request| change(request.provenance.get_or_insert_default())
    }

    #[test]
    fn a_valid_request_comes_out_in_slot_order() {
        let enrolment = validate_enrolment(request(), &policy()).expect("valid");
        let slots: Vec<String> = enrolment.references().iter().map(|reference| reference.slot().to_string()).collect();
        assert_eq!(slots, ["voice", "iris/left_eye", "iris/right_eye"]);
    }

    #[test]
    fn bad_input_is_refused_with_field_and_limit() {
        let gallery = "gallery must be 1 to 64 bytes of [a-z0-9._-] that start with a letter";
        check(|r| r.gallery = "People".to_owned(), gallery);
        let id = "enrolment_id must be 1 to 128 bytes of UTF-8 without NUL";
        check(|r| r.enrolment_id.clear(), id);
        check(|r| r.enrolment_id = "a\0".to_owned(), id);
        check(|r| r.enrolment_id = "a".repeat(129), id);
        check(|r| r.subject_id = "a".repeat(129), "subject_id has 129 bytes, must have 0 to 128");
        check(|r| r.references.clear(), "references has 0 elements, must have 1 to 16");
        check(|r| r.references = vec![iris(2); 17], "references has 17 elements, must have 1 to 16");
        check(|r| r.references[1].modality = 0, "references[1].modality is required");
        check(|r| r.references[1].modality = 9, "references[1].modality has the unknown value 9");
        check(|r| r.references[1].modality = 258, "references[1].modality has the unknown value 258");
        check(|r| r.references[1].modality = 1, "references[1].modality is not listed in the gallery's policy");
        check(|r| r.references[0].position = 0, "references[0].position is required");
        check(|r| r.references[0].position = 99, "references[0].position has the unknown value 99");
        check(|r| r.references[0].position = 4, "references[0].position is not a position of the modality iris");
        check(|r| r.references[1].position = 2, "references[1].position is not a position of the modality voice");
        check(|r| r.references[2].position = 3, "references[2].position repeats references[0].position");
        check(|r| r.references[0].template = None, "references[0].template is required");
        check(values(vec![1.0; 3]), "references[1].embedding.values has 3 elements, must have 4");
        check(values(vec![1.0; 5]), "references[1].embedding.values has 5 elements, must have 4");
        let not_finite = "references[1].embedding.values[2] is not a finite number";
        check(values(vec![1.0, 0.0, f32::NAN, f32::NAN]), not_finite);
        check(values(vec![1.0, 0.0, f32::NEG_INFINITY, 0.0]), not_finite);
        let zero = "references[1].embedding.values has length zero: every component is 0";
        check(values(vec![0.0, -0.0, 0.0, 0.0]), zero);
        check(code(vec![1], vec![]), "references[0].binary_code.code has 1 bytes, must have 2");
        check(code(vec![1, 0], vec![1, 0, 0]), "references[0].binary_code.mask has 3 bytes, must have 2");
        let padding = "references[0].binary_code.code sets bits after bit 12, which must be zero";
        check(code(vec![0, 0x08], vec![]), padding);
        let padding = "references[0].binary_code.mask sets bits after bit 12, which must be zero";
        check(code(vec![0, 0], vec![0xFF, 0xFF]), padding);
        let kind = "references[0].template must be of kind binary_code by the gallery's policy";
        check(|r| r.references[0].template = Some(TemplateRequest::Embedding(vec![1.0; 4])), kind);
        let kind = "references[1].template must be of kind embedding by the gallery's policy";
        check(|r| r.references[1].template = iris(2).template, kind);
        check(|r| r.references[1].quality = Some(101), "references[1].quality is 101, must be 0 to 100");
        let algorithm = "references[0].algorithm_id has 129 bytes, must have 0 to 128";
        check(|r| r.references[0].algorithm_id = "a".repeat(129), algorithm);
        check(provenance(|p| p.site = "a".repeat(257)), "provenance.site has 257 bytes, must have 0 to 256");
        check(
            provenance(|p| p.operator_id = "a".repeat(257)),
            "provenance.operator_id has 257 bytes, must have 0 to 256",
        );
        check(
            provenance(|p| p.legal_basis = "a".repeat(257)),
            "provenance.legal_basis has 257 bytes, must have 0 to 256",
        );
        check(provenance(|p| p.purpose = "a".repeat(257)), "provenance.purpose has 257 bytes, must have 0 to 256");
        let purpose = "provenance.purpose is not listed in the gallery's policy";
        check(provenance(|p| p.purpose = "tax".to_owned()), purpose);
    }

    #[test]
    fn an_identification_names_a_listed_purpose() {
        assert!(validate_purpose("aid", &policy()).is_ok());
        for purpose in ["", "tax"] {
            assert_eq!(validate_purpose(purpose, &policy()).expect_err("invalid").field, "purpose");
        }
    }

    #[test]
    fn a_withdrawal_gives_a_reason() {
        assert!(validate_reason("asked to leave").is_ok());
        assert_eq!(validate_reason("").expect_err("invalid").to_string(), "reason has 0 bytes, must have 1 to 256");
    }

    #[test]
    fn an_empty_mask_means_that_every_bit_is_usable() {
        let mut enrolment = request();
        code(vec![0xFF, 0xF0], vec![])(&mut enrolment);
        assert!(validate_enrolment(enrolment, &policy()).is_ok());
    }

    #[test]
    fn debug_output_never_holds_a_template() {
        let shown = format!("{:?}", (request(), validate_enrolment(request(), &policy())));
        for content in ["3.0", "-4.0", "165", "0xA5", "240"] {
            assert!(!shown.contains(content), "{shown}");
        }
    }
}
