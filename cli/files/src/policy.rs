//! A gallery and its policy as JSON: what `--policy` reads and `--output json` writes.

use std::fmt;

use semel_proto::v1::{
    BinaryCodeSpec, EmbeddingSpec, Gallery, Modality, ModalityPolicy, Policy, TemplateSpec, template_spec,
};
use serde::{Deserialize, Serialize};

use crate::names::{self, UnknownName};

/// Scores and thresholds travel in millionths.
const MICROS: f64 = 1e6;

/// A policy that cannot be meant.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidPolicy {
    /// There is no such modality.
    #[error(transparent)]
    Modality(#[from] UnknownName),
    /// A threshold is no score that can be reached.
    #[error("threshold: {threshold} is not within 0.000001 to 1")]
    Threshold {
        /// It.
        threshold: f64,
    },
}

/// A gallery.
#[derive(Debug, Serialize)]
pub struct GalleryDocument {
    /// Its name.
    pub name: String,
    /// The policy in force.
    pub policy: PolicyDocument,
    key_version: u32,
    key_checksum: String,
    created_at_ms: i64,
}

impl GalleryDocument {
    /// The document of what the cluster says.
    pub fn from_wire(gallery: &Gallery) -> Self {
        Self {
            name: gallery.name.clone(),
            policy: gallery.policy.as_ref().map(PolicyDocument::from_wire).unwrap_or_default(),
            key_version: gallery.key_version,
            key_checksum: gallery.key_checksum.clone(),
            created_at_ms: gallery.created_at_ms,
        }
    }
}

/// A policy. Numbers left out are the cluster's defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyDocument {
    /// Set by the cluster; ignored when read.
    pub version: u64,
    /// How each modality is compared.
    pub modalities: Vec<ModalityDocument>,
    /// The share of mates that the index may miss, in parts per 1e9.
    pub miss_budget_ppb: u32,
    /// The share of live enrolments that must be comparable, in parts per million.
    pub comparable_share_min_ppm: u32,
    /// The longest candidate list.
    pub candidates_max: u32,
    /// The purposes that may be named; none = any.
    pub purposes: Vec<String>,
    /// Whether searches without an enrolment are allowed.
    pub identification_allowed: bool,
    /// For how long enrolments are to be kept; 0 = until withdrawn.
    pub retention_days: u32,
    /// What searches sealed segments; empty = the engine of each node's settings.
    pub engine: String,
}

/// One modality of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalityDocument {
    /// Its name.
    pub modality: String,
    /// The shape of its templates.
    pub spec: SpecDocument,
    /// The review threshold as a score, up to 1.
    pub threshold: f64,
}

/// The shape of a modality's templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SpecDocument {
    /// An embedding.
    Embedding {
        /// Its number of components.
        dimension: u32,
    },
    /// A binary code: see the wire's `BinaryCodeSpec`.
    BinaryCode {
        /// Rows of cells.
        rows: u32,
        /// Columns of cells; a shift rolls them.
        columns: u32,
        /// Bits of one cell.
        bits_per_cell: u32,
        /// Columns by which a code may be rolled either way.
        shifts_max: u32,
        /// Bits that two masks must share.
        common_bits_min: u32,
    },
}

impl fmt::Display for SpecDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding { dimension } => write!(f, "embedding, {dimension} components"),
            Self::BinaryCode { rows, columns, bits_per_cell, shifts_max, .. } => {
                write!(f, "code, {rows} x {columns} x {bits_per_cell} bits, {shifts_max} shifts")
            }
        }
    }
}

impl PolicyDocument {
    /// The document of what the cluster says.
    pub fn from_wire(policy: &Policy) -> Self {
        Self {
            version: policy.version,
            modalities: policy.modalities.iter().filter_map(ModalityDocument::from_wire).collect(),
            miss_budget_ppb: policy.miss_budget_ppb,
            comparable_share_min_ppm: policy.comparable_share_min_ppm,
            candidates_max: policy.candidates_max,
            purposes: policy.purposes.clone(),
            identification_allowed: policy.identification_allowed,
            retention_days: policy.retention_days,
            engine: policy.engine.clone(),
        }
    }

    /// The policy as the cluster takes it, without its version.
    ///
    /// # Errors
    /// There is no such modality, or a threshold is no score above 0.
    pub fn to_wire(&self) -> Result<Policy, InvalidPolicy> {
        Ok(Policy {
            version: 0,
            modalities: self.modalities.iter().map(ModalityDocument::to_wire).collect::<Result<_, _>>()?,
            miss_budget_ppb: self.miss_budget_ppb,
            comparable_share_min_ppm: self.comparable_share_min_ppm,
            candidates_max: self.candidates_max,
            purposes: self.purposes.clone(),
            identification_allowed: self.identification_allowed,
            retention_days: self.retention_days,
            engine: self.engine.clone(),
        })
    }
}

impl ModalityDocument {
    fn from_wire(policy: &ModalityPolicy) -> Option<Self> {
        let spec = match policy.spec.as_ref()?.kind.as_ref()? {
            template_spec::Kind::Embedding(spec) => SpecDocument::Embedding { dimension: spec.dimension },
            template_spec::Kind::BinaryCode(spec) => SpecDocument::BinaryCode {
                rows: spec.rows,
                columns: spec.columns,
                bits_per_cell: spec.bits_per_cell,
                shifts_max: spec.shifts_max,
                common_bits_min: spec.common_bits_min,
            },
        };
        let threshold = f64::from(policy.review_threshold_micros) / MICROS;
        Some(Self { modality: names::modality(policy.modality()), spec, threshold })
    }

    fn to_wire(&self) -> Result<ModalityPolicy, InvalidPolicy> {
        let modality: Modality = names::parse_modality(&self.modality)?;
        // Compared as it is sent: what is rounded to zero is no score above it.
        let micros = (self.threshold * MICROS).round();
        if !(1.0..=MICROS).contains(&micros) {
            return Err(InvalidPolicy::Threshold { threshold: self.threshold });
        }
        let kind = match self.spec {
            SpecDocument::Embedding { dimension } => template_spec::Kind::Embedding(EmbeddingSpec { dimension }),
            SpecDocument::BinaryCode { rows, columns, bits_per_cell, shifts_max, common_bits_min } => {
                let spec = BinaryCodeSpec { rows, columns, bits_per_cell, shifts_max, common_bits_min };
                template_spec::Kind::BinaryCode(spec)
            }
        };
        Ok(ModalityPolicy {
            modality: modality.into(),
            spec: Some(TemplateSpec { kind: Some(kind) }),
            // At most a million: checked above.
            review_threshold_micros: micros as i32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IRIS: &str = r#"{"modalities": [{"modality": "iris", "threshold": 0.68, "spec":
        {"binary_code": {"rows": 16, "columns": 256, "bits_per_cell": 2, "shifts_max": 8, "common_bits_min": 2048}}}]}"#;

    #[test]
    fn a_policy_survives_the_wire() {
        let mut policy: PolicyDocument = serde_json::from_str(IRIS).expect("a policy");
        policy.modalities.push(ModalityDocument {
            modality: "face".to_owned(),
            spec: SpecDocument::Embedding { dimension: 512 },
            threshold: 0.42,
        });
        policy.purposes = vec!["registration".to_owned()];
        policy.candidates_max = 32;
        policy.engine = "sketch".to_owned();
        let wire = policy.to_wire().expect("valid");
        assert_eq!(wire.modalities[1].review_threshold_micros, 420_000);
        assert_eq!(PolicyDocument::from_wire(&wire), policy);
        let text = serde_json::to_string(&policy).expect("serialisable");
        assert_eq!(serde_json::from_str::<PolicyDocument>(&text).expect("its own form"), policy);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let unknown = serde_json::from_str::<PolicyDocument>(r#"{"treshold": 0.4}"#).expect_err("unknown field");
        assert!(unknown.to_string().contains("treshold"), "{unknown}");
        for threshold in ["0", "0.0000004", "1.01", "-0.2"] {
            let policy: PolicyDocument = serde_json::from_str(&IRIS.replace("0.68", threshold)).expect("well formed");
            let error = policy.to_wire().expect_err("out of range").to_string();
            assert!(error.contains("threshold"), "{error}");
        }
        let policy: PolicyDocument = serde_json::from_str(&IRIS.replace("iris", "gait")).expect("well formed");
        assert!(policy.to_wire().is_err());
    }
}
