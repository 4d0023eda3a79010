//! The digest that tells "the same request again" from "other content under the same id".
//!
//! It is keyed, so that a stolen volume cannot be searched for a known template by hashing it, and read before anything
//! is normalised, so that it does not depend on how templates are made canonical.

use std::fmt;

use crate::request::Provenance;
use crate::rotation::GalleryKey;
use crate::validate::{ValidatedEnrolment, ValidatedReference, ValidatedTemplate};

const KEY_CONTEXT: &str = "semel 2026-11 enrolment content digest key v1";
const ENCODING_VERSION: u8 = 1;
const KIND_EMBEDDING: u8 = 1;
const KIND_BINARY_CODE: u8 = 2;

/// Keyed BLAKE3 of a validated request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub [u8; 32]);

impl fmt::Debug for ContentDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, ..] = self.0;
        write!(formatter, "ContentDigest({first:02x}{second:02x}…)")
    }
}

/// The key of a gallery's content digests.
///
/// Derived from the gallery's first key and kept with the gallery for ever, whatever becomes of that key: a resubmission
/// must be recognised after the gallery was re-keyed.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentDigestKey([u8; 32]);

impl ContentDigestKey {
    /// Derives the key from a gallery's first key.
    pub fn derive(first: &GalleryKey) -> Self {
        Self(blake3::derive_key(KEY_CONTEXT, first.secret()))
    }

    pub(crate) fn from_secret(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of a request: equal for equal content, whatever the order of its references.
    ///
    /// Content is everything that is recorded: ids, references bit for bit, provenance. How long the caller waits is not.
    pub fn digest(&self, enrolment: &ValidatedEnrolment) -> ContentDigest {
        let mut encoding = Encoding(blake3::Hasher::new_keyed(&self.0));
        encoding.byte(ENCODING_VERSION);
        encoding.text(enrolment.gallery().as_str());
        encoding.text(enrolment.enrolment_id().as_str());
        encoding.text(enrolment.subject_id());
        encoding.length(enrolment.references().len());
        for reference in enrolment.references() {
            encoding.reference(reference);
        }
        encoding.option(enrolment.provenance(), Encoding::provenance);
        ContentDigest(*encoding.0.finalize().as_bytes())
    }
}

impl fmt::Debug for ContentDigestKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ContentDigestKey(secret)")
    }
}

/// The canonical encoding, fed to the hash as it is made. Every variable part is preceded by its length: no two requests
/// have the same encoding.
struct Encoding(blake3::Hasher);

impl Encoding {
    fn byte(&mut self, byte: u8) {
        self.0.update(&[byte]);
    }

    fn length(&mut self, length: usize) {
        self.0.update(&(length as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option<V>(&mut self, value: Option<V>, encode: impl FnOnce(&mut Self, V)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn reference(&mut self, reference: &ValidatedReference) {
        self.byte(reference.slot().modality().code());
        self.byte(reference.slot().position().code());
        match reference.template() {
            ValidatedTemplate::Embedding(values) => {
                self.byte(KIND_EMBEDDING);
                self.length(values.len());
                for value in values {
                    self.0.update(&value.to_bits().to_le_bytes());
                }
            }
            ValidatedTemplate::BinaryCode { code, mask } => {
                self.byte(KIND_BINARY_CODE);
                self.bytes(code);
                self.bytes(mask);
            }
        }
        self.option(reference.quality(), |encoding, quality| {
            encoding.0.update(&quality.to_le_bytes());
        });
        self.text(reference.algorithm_id());
    }

    fn provenance(&mut self, provenance: &Provenance) {
        self.text(&provenance.site);
        self.text(&provenance.operator_id);
        self.text(&provenance.legal_basis);
        self.text(&provenance.purpose);
        self.0.update(&provenance.captured_at_ms.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::tests::policy;
    use crate::request::EnrolmentRequest;
    use crate::validate::tests::{request, voice};
    use crate::validate::validate_enrolment;

    fn digest_with(change: impl FnOnce(&mut EnrolmentRequest)) -> ContentDigest {
        let mut request = request();
        change(&mut request);
        let enrolment = validate_enrolment(request, &policy()).expect("valid");
        ContentDigestKey::derive(&GalleryKey::from_secret([7; 32])).digest(&enrolment)
    }

    /// Recorded digests are compared with new ones for ever: the encoding never changes.
    #[test]
    fn the_digest_of_a_known_request_never_changes() {
        let hex: String = digest_with(|_| ()).0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "b0631e1536bb940c5d6021d0b06341e95a17004abf08b1a930e5200fb02e9658");
    }

    #[test]
    fn the_order_of_references_is_no_content() {
        assert_eq!(digest_with(|request| request.references.reverse()), digest_with(|_| ()));
    }

    #[test]
    fn anything_recorded_is_content() {
        let changes: [fn(&mut EnrolmentRequest); 10] = [
            |r| r.gallery = "others".to_owned(),
            |r| r.enrolment_id = "e-2".to_owned(),
            |r| r.subject_id = "s".to_owned(),
            |r| r.references[1] = voice([3.0, -0.0, -4.0, 0.0]),
            |r| r.references[1] = voice([6.0, 0.0, -8.0, 0.0]),
            |r| r.references[1].quality = None,
            |r| r.references[1].algorithm_id = "ge2e@2".to_owned(),
            |r| r.references.truncate(2),
            |r| r.provenance = None,
            |r| r.provenance.get_or_insert_default().captured_at_ms = 1,
        ];
        let mut digests: Vec<ContentDigest> = changes.into_iter().map(digest_with).collect();
        digests.push(digest_with(|_| ()));
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 11);
    }

    #[test]
    fn another_gallery_key_gives_another_digest() {
        let enrolment = validate_enrolment(request(), &policy()).expect("valid");
        let digest = |secret| ContentDigestKey::derive(&GalleryKey::from_secret([secret; 32])).digest(&enrolment);
        assert_ne!(digest(1), digest(2));
    }
}
