//! The people of a run and what is captured of them: small templates, so that a comparison costs nothing, of persons of whom
//! some are captured more than once, more or less alike.

use semel_index::{BinaryCodeSpec, GalleryId, Modality, TemplateSpec};
use semel_workflow::{
    EnrolmentRequest, ModalityPolicyRequest, Policy, PolicyRequest, ReferenceRequest, TemplateRequest,
};

use crate::chance::Chance;
use crate::history::Content;

const FACE_DIMENSION: u32 = 16;
const IRIS: BinaryCodeSpec =
    BinaryCodeSpec { rows: 2, columns: 16, bits_per_cell: 2, shifts_max: 2, common_bits_min: 16 };
const IRIS_BYTES: usize = 8;

/// A person: what every capture of them is a blurred picture of.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    face: Vec<f32>,
    iris: Vec<u8>,
}

/// Which references an enrolment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Captured {
    Face,
    Iris,
    Both,
}

impl Person {
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let face = (0..FACE_DIMENSION).map(|_| chance.normal()).collect();
        let iris = (0..IRIS_BYTES).map(|_| chance.below(256) as u8).collect();
        Self { face, iris }
    }

    /// Captures the person. The blur of a face decides on which side of the threshold two captures fall.
    pub(crate) fn capture(&self, chance: &mut Chance, captured: Captured) -> Vec<ReferenceRequest> {
        let blur = *chance.pick(&[0.05, 0.3, 0.5, 0.7]);
        let face: Vec<f32> = self.face.iter().map(|value| value + blur * chance.normal()).collect();
        let flip = |byte: &u8| if chance.one_in(3) { byte ^ (1 << chance.below(8)) } else { *byte };
        let code = self.iris.iter().map(flip).collect();
        let face = reference(Modality::Face, 0, TemplateRequest::Embedding(face));
        let iris = reference(Modality::Iris, LEFT_EYE, TemplateRequest::BinaryCode { code, mask: Vec::new() });
        match captured {
            Captured::Face => vec![face],
            Captured::Iris => vec![iris],
            Captured::Both => vec![face, iris],
        }
    }
}

/// The number of the left eye on the wire.
const LEFT_EYE: i32 = 2;

fn reference(modality: Modality, position: i32, template: TemplateRequest) -> ReferenceRequest {
    ReferenceRequest {
        modality: i32::from(modality.code()),
        position,
        template: Some(template),
        quality: Some(80),
        algorithm_id: "simulated@1".to_owned(),
    }
}

/// A policy under which about half of the captures of one person are mates.
pub(crate) fn policy(face_threshold_micros: i32, candidates_max: u32) -> Policy {
    let modality = |modality: Modality, spec, review_threshold_micros| ModalityPolicyRequest {
        modality: i32::from(modality.code()),
        spec: Some(spec),
        review_threshold_micros,
    };
    let face = modality(Modality::Face, TemplateSpec::Embedding { dimension: FACE_DIMENSION }, face_threshold_micros);
    let iris = modality(Modality::Iris, TemplateSpec::BinaryCode(IRIS), 800_000);
    let request = PolicyRequest {
        modalities: vec![face, iris],
        comparable_share_min_ppm: 400_000,
        candidates_max,
        identification_allowed: true,
        ..PolicyRequest::default()
    };
    request.validate().expect("a policy within its limits")
}

/// Names the content of these references: others have another name.
pub(crate) fn content(references: &[ReferenceRequest]) -> Content {
    let mut hasher = blake3::Hasher::new();
    for reference in references {
        hasher.update(&reference.modality.to_le_bytes()).update(&reference.position.to_le_bytes());
        match &reference.template {
            Some(TemplateRequest::Embedding(values)) => {
                for value in values {
                    hasher.update(&value.to_le_bytes());
                }
            }
            Some(TemplateRequest::BinaryCode { code, mask }) => {
                hasher.update(code).update(mask);
            }
            None => {}
        }
    }
    Content(u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes")))
}

/// The request to enrol these references.
pub(crate) fn enrolment(
    gallery: &GalleryId,
    enrolment_id: &str,
    references: Vec<ReferenceRequest>,
) -> EnrolmentRequest {
    EnrolmentRequest {
        gallery: gallery.to_string(),
        enrolment_id: enrolment_id.to_owned(),
        subject_id: String::new(),
        references,
        provenance: None,
    }
}
