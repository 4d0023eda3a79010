//! Templates in their canonical encoding, which nodes store and send.

use semel_fuzz::fuzz;
use semel_index::{BinaryCodeSpec, CanonicalEmbedding, Comparison, Template, TemplateSpec, compare};

/// The spec that a template's first byte stands for: a template alone does not say what it should be.
fn spec(byte: u8) -> TemplateSpec {
    let n = u32::from(byte >> 1);
    if byte.is_multiple_of(2) {
        TemplateSpec::Embedding { dimension: n }
    } else {
        let (rows, columns, bits_per_cell) = (1 + n % 3, 1 + n % 11, 1 + n % 2);
        TemplateSpec::BinaryCode(BinaryCodeSpec {
            rows,
            columns,
            bits_per_cell,
            shifts_max: n % 4,
            common_bits_min: 1 + n % 7,
        })
    }
}

#[test]
fn templates() {
    fuzz!(|bytes| {
        let Some((first, bytes)) = bytes.split_first() else { return };
        let spec = spec(*first);
        match Template::from_bytes(&spec, bytes) {
            Ok(template) => {
                assert!(template.conforms_to(&spec));
                assert_eq!(template.to_bytes(), bytes);
                if let Comparison::Score(score) = compare(&spec, &template, &template) {
                    assert_eq!(score.micros(), 1_000_000, "a template is like itself");
                }
            }
            Err(error) => drop(error.to_string()),
        }
    });
}

/// The components of an embedding as a client sends them.
#[test]
fn embeddings() {
    fuzz!(|bytes| {
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        if let Ok(embedding) = CanonicalEmbedding::from_f32(&values) {
            assert!(values.iter().all(|value| value.is_finite()));
            assert_eq!(CanonicalEmbedding::from_components(embedding.components()), Ok(embedding));
        }
    });
}
