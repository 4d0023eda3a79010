//! From what was validated to what is compared: rotated, canonical references, the probe they make, and what they pin.
//!
//! The rotation itself lives in `rotation`; the canonical encoding of a template in `semel-index`.

use std::sync::Arc;

use semel_index::{
    BinaryCode, CanonicalEmbedding, ComparisonScore, EnrolmentId, GalleryId, KeyVersion, Modality, Slot, Template,
    TemplateSpec,
};

use crate::digest::ContentDigestKey;
use crate::gallery::{DecisionPolicy, VersionedPolicy};
use crate::record::StageCommand;
use crate::rotation::Rotations;
use crate::validate::{ValidatedEnrolment, ValidatedReference, ValidatedTemplate, usable_bits};

/// A reference in the one form that is compared, stored and sent between coordinators and nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalReference {
    /// What it is compared with.
    pub slot: Slot,
    /// The shape of its template.
    pub spec: TemplateSpec,
    /// The template: rotated if an embedding, as it came if a binary code.
    pub template: Template,
    /// Quality, 0 to 100, as given.
    pub quality: Option<u32>,
    /// The algorithm that made the template, as given.
    pub algorithm_id: String,
}

/// A reference of a probe with the score that makes a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReference {
    /// The reference.
    pub reference: CanonicalReference,
    /// The review threshold of its modality.
    pub threshold: ComparisonScore,
}

/// What every shard is asked to search for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchProbe {
    /// The gallery.
    pub gallery: GalleryId,
    /// Only embeddings of this key version are compared.
    pub key_version: KeyVersion,
    /// The references, each of another slot.
    pub references: Arc<[ProbeReference]>,
    /// The enrolment being checked, never its own candidate; `None` for an identification.
    pub exclude: Option<EnrolmentId>,
    /// The longest candidate list.
    pub candidates_max: usize,
}

/// What every step of one enrolment or identification uses, whatever changes meanwhile: policy version, key version and
/// canonical references.
#[derive(Debug, Clone)]
pub struct Pinned {
    policy: Arc<VersionedPolicy>,
    key_version: KeyVersion,
    references: Arc<[ProbeReference]>,
}

/// References that do not belong to the policy they are to be searched under: a defect, as specs never change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy does not list {}, or lists it with another template spec", modality.name())]
pub struct Unpinned {
    /// The modality of the reference.
    pub modality: Modality,
}

impl Pinned {
    /// Joins references with the thresholds of the policy they are searched under.
    ///
    /// # Errors
    /// If the policy lists no such modality, or with another spec.
    pub fn new(
        policy: Arc<VersionedPolicy>,
        key_version: KeyVersion,
        references: Vec<CanonicalReference>,
    ) -> Result<Self, Unpinned> {
        let with_threshold = |reference: CanonicalReference| {
            let modality = reference.slot.modality();
            let rules = policy.policy.modality(modality).filter(|rules| rules.spec == reference.spec);
            let threshold = rules.ok_or(Unpinned { modality })?.review_threshold;
            Ok(ProbeReference { reference, threshold })
        };
        let references = references.into_iter().map(with_threshold).collect::<Result<Vec<_>, Unpinned>>()?;
        Ok(Self { policy, key_version, references: Arc::from(references) })
    }

    /// The policy.
    pub fn policy(&self) -> &VersionedPolicy {
        &self.policy
    }

    /// The key version of the embeddings.
    pub fn key_version(&self) -> KeyVersion {
        self.key_version
    }

    /// What deciding needs.
    pub fn decision(&self) -> DecisionPolicy {
        self.policy.policy.decision()
    }

    /// The longest candidate list, the same in every shard and in the merge.
    pub fn candidates_max(&self) -> usize {
        self.policy.policy.candidates_max()
    }

    /// The references with their thresholds.
    pub fn references(&self) -> &[ProbeReference] {
        &self.references
    }

    /// The probe for the shards; `exclude` is the enrolment being checked, if it is one.
    pub fn probe(&self, gallery: GalleryId, exclude: Option<EnrolmentId>) -> SearchProbe {
        SearchProbe {
            gallery,
            key_version: self.key_version,
            references: Arc::clone(&self.references),
            exclude,
            candidates_max: self.candidates_max(),
        }
    }
}

/// An enrolment ready to be staged.
#[derive(Debug, Clone)]
pub struct PreparedEnrolment {
    /// The command for its home shard.
    pub stage: StageCommand,
    /// What its search uses, if the stage is recorded with these versions.
    pub pinned: Pinned,
}

/// Makes references canonical: embeddings are rotated and normalised, binary codes stay as they come.
///
/// # Panics
/// If `rotations` lacks the dimension of a spec: both come from one gallery.
pub fn canonicalise(references: &[ValidatedReference], rotations: &Rotations) -> Vec<CanonicalReference> {
    references.iter().map(|reference| canonical_reference(reference, rotations)).collect()
}

/// Makes a validated enrolment ready: canonical, digested, with the versions it pins.
///
/// `policy` is the one that `enrolment` was validated against, `rotations` and `digest_key` are of the same gallery,
/// `received_at_ms` is the coordinator's clock in milliseconds since 1970-01-01 UTC, for people only.
///
/// # Panics
/// If `policy` or `rotations` are of another gallery.
pub fn prepare(
    enrolment: &ValidatedEnrolment,
    policy: Arc<VersionedPolicy>,
    rotations: &Rotations,
    digest_key: &ContentDigestKey,
    received_at_ms: i64,
) -> PreparedEnrolment {
    let references = canonicalise(enrolment.references(), rotations);
    let stage = StageCommand {
        gallery: enrolment.gallery().clone(),
        enrolment_id: enrolment.enrolment_id().clone(),
        subject_id: enrolment.subject_id().to_owned(),
        references: Arc::from(references.clone()),
        provenance: enrolment.provenance().cloned(),
        policy_version: policy.version,
        key_version: rotations.key_version(),
        content_digest: digest_key.digest(enrolment),
        received_at_ms,
    };
    let pinned = Pinned::new(policy, rotations.key_version(), references)
        .expect("the references were validated against this policy");
    PreparedEnrolment { stage, pinned }
}

fn canonical_reference(reference: &ValidatedReference, rotations: &Rotations) -> CanonicalReference {
    let template = match (reference.template(), reference.spec()) {
        (ValidatedTemplate::Embedding(values), TemplateSpec::Embedding { dimension }) => {
            let matrix =
                rotations.matrix(dimension).expect("the rotations are of the gallery, so they have its dimensions");
            let embedding = CanonicalEmbedding::from_f32(&matrix.rotate(values));
            Template::Embedding(embedding.expect("rotated to unit length, of a validated dimension"))
        }
        (ValidatedTemplate::BinaryCode { code, mask }, TemplateSpec::BinaryCode(spec)) => {
            let all_usable = usable_bits(&spec);
            let mask = if mask.is_empty() { &all_usable } else { mask };
            Template::BinaryCode(BinaryCode::from_bytes(&spec, code, mask).expect("validated against this spec"))
        }
        (ValidatedTemplate::Embedding(_), TemplateSpec::BinaryCode(_))
        | (ValidatedTemplate::BinaryCode { .. }, TemplateSpec::Embedding { .. }) => {
            unreachable!("a validated template is of its spec's kind")
        }
    };
    CanonicalReference {
        slot: reference.slot(),
        spec: reference.spec(),
        template,
        quality: reference.quality(),
        algorithm_id: reference.algorithm_id().to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use semel_index::{Comparison, PolicyVersion, compare};

    use super::*;
    use crate::gallery::tests::policy;
    use crate::request::TemplateRequest;
    use crate::rotation::GalleryKey;
    use crate::validate::tests::{request, voice};
    use crate::validate::{validate_enrolment, validate_references};

    pub(crate) fn prepared(enrolment_id: &str) -> PreparedEnrolment {
        let mut request = request();
        request.enrolment_id = enrolment_id.to_owned();
        let enrolment = validate_enrolment(request, &policy()).expect("valid");
        let key = GalleryKey::from_secret([7; 32]);
        let rotations = Rotations::generate(&key, KeyVersion(1), &policy());
        let policy = Arc::new(VersionedPolicy { version: PolicyVersion(3), policy: policy() });
        prepare(&enrolment, policy, &rotations, &ContentDigestKey::derive(&key), 1_000)
    }

    #[test]
    fn a_stage_pins_the_versions_it_was_prepared_with() {
        let prepared = prepared("e-1");
        assert_eq!((prepared.stage.policy_version, prepared.stage.key_version), (PolicyVersion(3), KeyVersion(1)));
        assert_eq!(prepared.pinned.policy().version, PolicyVersion(3));
        let thresholds: Vec<i32> = prepared.pinned.references().iter().map(|probe| probe.threshold.micros()).collect();
        assert_eq!(thresholds, [800_000, 680_000, 680_000]);
    }

    #[test]
    fn scores_of_rotated_embeddings_are_those_of_the_originals() {
        let rotations = Rotations::generate(&GalleryKey::from_secret([9; 32]), KeyVersion(1), &policy());
        let canonical = |values| {
            let references = validate_references(vec![voice(values)], &policy()).expect("valid");
            canonicalise(&references, &rotations).remove(0)
        };
        let (a, b) = (canonical([1.0, 2.0, 3.0, 4.0]), canonical([40.0, 30.0, 20.0, 10.0]));
        match compare(&a.spec, &a.template, &b.template) {
            // 20 / 30, within the resolution of 16-bit components.
            Comparison::Score(score) => assert!((score.micros() - 666_667).abs() < 100, "{score}"),
            Comparison::NotComparable => panic!("embeddings of one spec are comparable"),
        }
    }

    #[test]
    fn an_empty_mask_is_stored_as_a_full_one() {
        let rotations = Rotations::generate(&GalleryKey::from_secret([9; 32]), KeyVersion(1), &policy());
        let with_mask = |mask: Vec<u8>| {
            let mut reference = request().references.remove(0);
            reference.template = Some(TemplateRequest::BinaryCode { code: vec![0xA5, 0x30], mask });
            canonicalise(&validate_references(vec![reference], &policy()).expect("valid"), &rotations)
        };
        assert_eq!(with_mask(vec![]), with_mask(vec![0xFF, 0xF0]));
        assert_ne!(with_mask(vec![]), with_mask(vec![0xFF, 0x00]));
    }

    #[test]
    fn references_of_another_spec_cannot_be_pinned() {
        let mut narrower = policy().to_request();
        narrower.modalities.truncate(1);
        let policy = VersionedPolicy { version: PolicyVersion(4), policy: narrower.validate().expect("valid") };
        let references: Vec<CanonicalReference> =
            prepared("e-1").pinned.references().iter().map(|probe| probe.reference.clone()).collect();
        let unpinned = Pinned::new(Arc::new(policy), KeyVersion(1), references).expect_err("no iris in the policy");
        assert_eq!(unpinned.modality, Modality::Iris);
    }
}
