//! The requests that most tests need, made from bare numbers.

use semel_proto::v1::{
    BiometricReference, CreateGalleryRequest, Embedding, EmbeddingSpec, EnrolRequest, Modality, ModalityPolicy, Policy,
    Position, TemplateSpec, biometric_reference, template_spec,
};

/// A gallery of faces: embeddings of `dimension` components, reviewed from the cosine `threshold` (0 to 1) on.
pub fn face_gallery(name: &str, dimension: u32, threshold: f64) -> CreateGalleryRequest {
    gallery(name, embedding_policy(Modality::Face, dimension, threshold))
}

/// A gallery of voices; as [`face_gallery`].
pub fn voice_gallery(name: &str, dimension: u32, threshold: f64) -> CreateGalleryRequest {
    gallery(name, embedding_policy(Modality::Voice, dimension, threshold))
}

/// A gallery with any policy.
pub fn gallery(name: &str, policy: Policy) -> CreateGalleryRequest {
    CreateGalleryRequest { name: name.to_owned(), policy: Some(policy) }
}

/// A policy of one modality with embeddings; everything else is left to the defaults.
pub fn embedding_policy(modality: Modality, dimension: u32, threshold: f64) -> Policy {
    let spec = TemplateSpec { kind: Some(template_spec::Kind::Embedding(EmbeddingSpec { dimension })) };
    let modality =
        ModalityPolicy { modality: modality.into(), spec: Some(spec), review_threshold_micros: micros(threshold) };
    Policy { modalities: vec![modality], ..Default::default() }
}

/// A score or threshold in the unit of the wire, 1e-6.
pub fn micros(score: f64) -> i32 {
    (score * 1e6).round() as i32
}

/// An enrolment with one face.
pub fn face_enrolment(gallery: &str, enrolment_id: &str, embedding: &[f32]) -> EnrolRequest {
    enrolment(gallery, enrolment_id, vec![embedding_reference(Modality::Face, embedding)])
}

/// An enrolment with one voice.
pub fn voice_enrolment(gallery: &str, enrolment_id: &str, embedding: &[f32]) -> EnrolRequest {
    enrolment(gallery, enrolment_id, vec![embedding_reference(Modality::Voice, embedding)])
}

/// An enrolment with any references.
pub fn enrolment(gallery: &str, enrolment_id: &str, references: Vec<BiometricReference>) -> EnrolRequest {
    EnrolRequest {
        gallery: gallery.to_owned(),
        enrolment_id: enrolment_id.to_owned(),
        references,
        ..Default::default()
    }
}

/// A reference with an embedding, of a modality that has one instance per person.
pub fn embedding_reference(modality: Modality, embedding: &[f32]) -> BiometricReference {
    BiometricReference {
        modality: modality.into(),
        position: Position::Only.into(),
        template: Some(biometric_reference::Template::Embedding(Embedding { values: embedding.to_vec() })),
        ..Default::default()
    }
}
