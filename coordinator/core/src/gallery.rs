//! A gallery's policy: what its templates are, when a pair is reviewed, and how much a verdict must have compared.
//!
//! Policies are made valid here, once, and every later step takes the valid type. Where galleries are recorded lives in
//! `metadata`; how a search is decided under a policy lives in `decide`.

pub use semel_index::MISS_BUDGET_PPB_MAX;
use semel_index::{
    BINARY_CODE_BITS_MAX, BinaryCodeSpec, ComparisonScore, ENGINE_NAME_BYTES_MAX, EngineName, Modality, PolicyVersion,
    TemplateSpec,
};

use crate::invalid::{Fault, ValidationError, check_bytes, check_count, check_range, invalid};

/// The most modalities of a policy.
pub const MODALITIES_MAX: usize = 4;
/// The most purposes of a policy.
pub const PURPOSES_MAX: usize = 32;
/// The longest candidate list that a policy can ask for.
pub const CANDIDATES_MAX: u32 = 256;
/// The candidate list of a policy that names none.
pub const CANDIDATES_MAX_DEFAULT: u32 = 64;
/// The share of live enrolments, in parts per million, that must be comparable under a policy that names none.
pub const COMPARABLE_SHARE_MIN_PPM_DEFAULT: u32 = 990_000;

const PPM: u32 = 1_000_000;
const PURPOSE_BYTES_MAX: usize = 256;
const DIMENSION_MIN: u32 = 4;
const DIMENSION_MAX: u32 = 4096;
const DIMENSION_STEP: u32 = 4;
const ROWS_MAX: u32 = 256;
const COLUMNS_MAX: u32 = 4096;
const BITS_PER_CELL_MAX: u32 = 8;
const SHIFTS_MAX: u32 = 64;

/// One modality of a policy as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModalityPolicyRequest {
    /// The number of the modality on the wire.
    pub modality: i32,
    /// The shape of its templates; required.
    pub spec: Option<TemplateSpec>,
    /// The score, in units of 1e-6, at which a pair of references makes a candidate: 1 to 1,000,000.
    pub review_threshold_micros: i32,
}

/// A policy as asked for. Zeros stand for the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRequest {
    /// 1 to [`MODALITIES_MAX`], each modality once.
    pub modalities: Vec<ModalityPolicyRequest>,
    /// Parts per 1e9; at most [`MISS_BUDGET_PPB_MAX`].
    pub miss_budget_ppb: u32,
    /// Parts per million; at most 1,000,000.
    pub comparable_share_min_ppm: u32,
    /// At most [`CANDIDATES_MAX`].
    pub candidates_max: u32,
    /// At most [`PURPOSES_MAX`], each 1 to 256 bytes; none = any purpose.
    pub purposes: Vec<String>,
    /// Whether searches without an enrolment are allowed.
    pub identification_allowed: bool,
    /// In days; 0 = until withdrawn.
    pub retention_days: u32,
    /// The name of an engine; empty = that of each node's settings.
    pub engine: String,
}

/// How one modality is compared and reviewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModalityPolicy {
    /// The modality.
    pub modality: Modality,
    /// The shape of its templates; never changes within a gallery.
    pub spec: TemplateSpec,
    /// A pair of references that reaches it makes a candidate. Above zero.
    pub review_threshold: ComparisonScore,
}

/// The rules of a gallery, valid and with the defaults filled in. Equality is equality of content, whatever the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    modalities: Vec<ModalityPolicy>,
    miss_budget_ppb: u32,
    comparable_share_min_ppm: u32,
    candidates_max: u32,
    purposes: Vec<String>,
    identification_allowed: bool,
    retention_days: u32,
    engine: Option<EngineName>,
}

/// A policy as recorded: every enrolment pins the version it was staged under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedPolicy {
    /// 1 for a gallery's first.
    pub version: PolicyVersion,
    /// The rules.
    pub policy: Policy,
}

/// What deciding a complete search needs to know of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionPolicy {
    comparable_share_min_ppm: u32,
}

impl PolicyRequest {
    /// Checks every limit and fills in the defaults.
    ///
    /// # Errors
    /// Names the first field that breaks its limit, as a path within the policy such as `modalities[0].spec.embedding.dimension`.
    pub fn validate(self) -> Result<Policy, ValidationError> {
        check_count("modalities", self.modalities.len(), 1, MODALITIES_MAX)?;
        let mut modalities: Vec<ModalityPolicy> = Vec::with_capacity(self.modalities.len());
        for (position, request) in self.modalities.iter().enumerate() {
            let path = format!("modalities[{position}]");
            let modality = validate_modality(&path, request)?;
            if let Some(first) = modalities.iter().position(|earlier| earlier.modality == modality.modality) {
                let first = format!("modalities[{first}].modality");
                return Err(invalid(format!("{path}.modality"), Fault::Repeated { first }));
            }
            modalities.push(modality);
        }
        check_range("miss_budget_ppb", i64::from(self.miss_budget_ppb), 0, i64::from(MISS_BUDGET_PPB_MAX))?;
        check_range("comparable_share_min_ppm", i64::from(self.comparable_share_min_ppm), 0, i64::from(PPM))?;
        check_range("candidates_max", i64::from(self.candidates_max), 0, i64::from(CANDIDATES_MAX))?;
        check_count("purposes", self.purposes.len(), 0, PURPOSES_MAX)?;
        for (position, purpose) in self.purposes.iter().enumerate() {
            check_bytes(&format!("purposes[{position}]"), purpose.len(), 1, PURPOSE_BYTES_MAX)?;
        }
        let engine = validate_engine(&self.engine, &modalities)?;
        Ok(Policy {
            modalities,
            miss_budget_ppb: non_zero_or(self.miss_budget_ppb, semel_index::MISS_BUDGET_PPB_DEFAULT),
            comparable_share_min_ppm: non_zero_or(self.comparable_share_min_ppm, COMPARABLE_SHARE_MIN_PPM_DEFAULT),
            candidates_max: non_zero_or(self.candidates_max, CANDIDATES_MAX_DEFAULT),
            purposes: self.purposes,
            identification_allowed: self.identification_allowed,
            retention_days: self.retention_days,
            engine,
        })
    }
}

impl Policy {
    /// The modalities, in the order given.
    pub fn modalities(&self) -> &[ModalityPolicy] {
        &self.modalities
    }

    /// The rules of one modality; `None` if the gallery does not have it.
    pub fn modality(&self, modality: Modality) -> Option<&ModalityPolicy> {
        self.modalities.iter().find(|policy| policy.modality == modality)
    }

    /// The share of mates that the index may miss beside an exact scan, in parts per 1e9.
    pub fn miss_budget_ppb(&self) -> u32 {
        self.miss_budget_ppb
    }

    /// The share of live enrolments that must be comparable with an applicant for a verdict, in parts per million.
    pub fn comparable_share_min_ppm(&self) -> u32 {
        self.comparable_share_min_ppm
    }

    /// The longest candidate list; more candidates make a verdict saturated.
    pub fn candidates_max(&self) -> usize {
        self.candidates_max as usize
    }

    /// The purposes that may be named; none = any.
    pub fn purposes(&self) -> &[String] {
        &self.purposes
    }

    /// Whether searches without an enrolment are allowed.
    pub fn identification_allowed(&self) -> bool {
        self.identification_allowed
    }

    /// For how long enrolments are to be kept, in days; 0 = until withdrawn.
    pub fn retention_days(&self) -> u32 {
        self.retention_days
    }

    /// What searches the gallery's sealed segments; `None` = the engine of each node's settings.
    pub fn engine(&self) -> Option<&EngineName> {
        self.engine.as_ref()
    }

    /// What deciding needs.
    pub fn decision(&self) -> DecisionPolicy {
        DecisionPolicy { comparable_share_min_ppm: self.comparable_share_min_ppm }
    }

    /// Whether both have the same modalities with the same template specs, in whatever order: what a policy update must keep.
    pub fn has_specs_of(&self, other: &Policy) -> bool {
        self.modalities.len() == other.modalities.len()
            && self
                .modalities
                .iter()
                .all(|own| other.modality(own.modality).is_some_and(|theirs| theirs.spec == own.spec))
    }

    /// The policy as a request that validates to it again.
    pub fn to_request(&self) -> PolicyRequest {
        let modalities = self.modalities.iter().map(|modality| ModalityPolicyRequest {
            modality: i32::from(modality.modality.code()),
            spec: Some(modality.spec),
            review_threshold_micros: modality.review_threshold.micros(),
        });
        PolicyRequest {
            modalities: modalities.collect(),
            miss_budget_ppb: self.miss_budget_ppb,
            comparable_share_min_ppm: self.comparable_share_min_ppm,
            candidates_max: self.candidates_max,
            purposes: self.purposes.clone(),
            identification_allowed: self.identification_allowed,
            retention_days: self.retention_days,
            engine: self.engine.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl DecisionPolicy {
    /// Whether `compared` of `live` enrolments are enough for a verdict. Of none, none is enough.
    pub fn accepts_share(self, compared: u64, live: u64) -> bool {
        u128::from(compared) * u128::from(PPM) >= u128::from(live) * u128::from(self.comparable_share_min_ppm)
    }
}

/// The engine must be one that there is, and split the gallery's embeddings; whether a node has it is for the node to tell.
fn validate_engine(name: &str, modalities: &[ModalityPolicy]) -> Result<Option<EngineName>, ValidationError> {
    if name.is_empty() {
        return Ok(None);
    }
    check_bytes("engine", name.len(), 0, ENGINE_NAME_BYTES_MAX)?;
    let engine: EngineName = name.parse().map_err(|_| invalid("engine", Fault::Name { rule: EngineName::RULE }))?;
    for (position, modality) in modalities.iter().enumerate() {
        if let TemplateSpec::Embedding { dimension } = modality.spec {
            let of = engine.dimension_divisor(dimension);
            if !dimension.is_multiple_of(of) {
                let other = format!("modalities[{position}].spec.embedding.dimension");
                return Err(invalid("engine", Fault::NeedsMultiple { other, found: dimension, of }));
            }
        }
    }
    Ok(Some(engine))
}

fn validate_modality(path: &str, request: &ModalityPolicyRequest) -> Result<ModalityPolicy, ValidationError> {
    let modality = modality_of(&format!("{path}.modality"), request.modality)?;
    let spec = request.spec.ok_or_else(|| invalid(format!("{path}.spec"), Fault::Missing))?;
    match &spec {
        TemplateSpec::Embedding { dimension } => {
            validate_dimension(&format!("{path}.spec.embedding.dimension"), *dimension)?
        }
        TemplateSpec::BinaryCode(code) => validate_code(&format!("{path}.spec.binary_code"), code)?,
    }
    let field = format!("{path}.review_threshold_micros");
    let micros = request.review_threshold_micros;
    check_range(&field, i64::from(micros), 1, i64::from(ComparisonScore::MAX.micros()))?;
    let review_threshold = ComparisonScore::from_micros(micros).expect("checked to be in range");
    Ok(ModalityPolicy { modality, spec, review_threshold })
}

/// The modality of a number on the wire.
pub(crate) fn modality_of(field: &str, number: i32) -> Result<Modality, ValidationError> {
    if number == 0 {
        return Err(invalid(field, Fault::Missing));
    }
    let modality = u8::try_from(number).ok().and_then(Modality::from_code);
    modality.ok_or_else(|| invalid(field, Fault::UnknownValue { found: number }))
}

fn validate_dimension(field: &str, dimension: u32) -> Result<(), ValidationError> {
    check_range(field, i64::from(dimension), i64::from(DIMENSION_MIN), i64::from(DIMENSION_MAX))?;
    if dimension.is_multiple_of(DIMENSION_STEP) {
        Ok(())
    } else {
        Err(invalid(field, Fault::NotMultiple { found: dimension, of: DIMENSION_STEP }))
    }
}

fn validate_code(path: &str, spec: &BinaryCodeSpec) -> Result<(), ValidationError> {
    let check = |name: &str, found: u32, min: u32, max: u64| {
        let max = i64::try_from(max).expect("limits are small");
        check_range(&format!("{path}.{name}"), i64::from(found), i64::from(min), max)
    };
    check("rows", spec.rows, 1, u64::from(ROWS_MAX))?;
    check("columns", spec.columns, 1, u64::from(COLUMNS_MAX))?;
    check("bits_per_cell", spec.bits_per_cell, 1, u64::from(BITS_PER_CELL_MAX))?;
    // The factors are within their limits, so the product fits.
    let bits = spec.rows * spec.columns * spec.bits_per_cell;
    check("rows * columns * bits_per_cell", bits, 1, BINARY_CODE_BITS_MAX)?;
    check("shifts_max", spec.shifts_max, 0, u64::from(SHIFTS_MAX.min(spec.columns - 1)))?;
    check("common_bits_min", spec.common_bits_min, 1, u64::from(bits))
}

fn non_zero_or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A voice modality of four components and an iris modality of 2 × 8 × 1 bits.
    pub(crate) fn request() -> PolicyRequest {
        let code = BinaryCodeSpec { rows: 2, columns: 6, bits_per_cell: 1, shifts_max: 2, common_bits_min: 4 };
        PolicyRequest {
            modalities: vec![
                ModalityPolicyRequest {
                    modality: 2,
                    spec: Some(TemplateSpec::Embedding { dimension: 4 }),
                    review_threshold_micros: 800_000,
                },
                ModalityPolicyRequest {
                    modality: 3,
                    spec: Some(TemplateSpec::BinaryCode(code)),
                    review_threshold_micros: 680_000,
                },
            ],
            purposes: vec!["aid".to_owned()],
            ..PolicyRequest::default()
        }
    }

    pub(crate) fn policy() -> Policy {
        request().validate().expect("valid")
    }

    fn check(change: impl FnOnce(&mut PolicyRequest), message: &str) {
        let mut request = request();
        change(&mut request);
        assert_eq!(request.validate().expect_err("invalid").to_string(), message);
    }

    fn code(change: impl FnOnce(&mut BinaryCodeSpec)) -> impl FnOnce(&mut PolicyRequest) {
        move |request| match &mut request.modalities[1].spec {
            Some(TemplateSpec::BinaryCode(spec)) => change(spec),
            other => panic!("the second modality has a binary code, not {other:?}"),
        }
    }

    fn dimension(dimension: u32) -> impl FnOnce(&mut PolicyRequest) {
        move |request| request.modalities[0].spec = Some(TemplateSpec::Embedding { dimension })
    }

    #[test]
    fn every_limit_of_a_policy_is_named() {
        check(|r| r.modalities.clear(), "modalities has 0 elements, must have 1 to 4");
        check(|r| r.modalities[0].modality = 0, "modalities[0].modality is required");
        check(|r| r.modalities[0].modality = 77, "modalities[0].modality has the unknown value 77");
        check(|r| r.modalities[0].modality = -1, "modalities[0].modality has the unknown value -1");
        check(|r| r.modalities[1].modality = 2, "modalities[1].modality repeats modalities[0].modality");
        check(|r| r.modalities[0].spec = None, "modalities[0].spec is required");
        check(dimension(3), "modalities[0].spec.embedding.dimension is 3, must be 4 to 4096");
        check(dimension(4100), "modalities[0].spec.embedding.dimension is 4100, must be 4 to 4096");
        check(dimension(6), "modalities[0].spec.embedding.dimension is 6, must be a multiple of 4");
        check(code(|c| c.rows = 257), "modalities[1].spec.binary_code.rows is 257, must be 1 to 256");
        check(code(|c| c.columns = 0), "modalities[1].spec.binary_code.columns is 0, must be 1 to 4096");
        check(code(|c| c.bits_per_cell = 9), "modalities[1].spec.binary_code.bits_per_cell is 9, must be 1 to 8");
        let product = "modalities[1].spec.binary_code.rows * columns * bits_per_cell is 1048576, must be 1 to 65536";
        check(code(|c| (c.rows, c.columns) = (256, 4096)), product);
        check(code(|c| c.shifts_max = 6), "modalities[1].spec.binary_code.shifts_max is 6, must be 0 to 5");
        check(code(|c| c.common_bits_min = 0), "modalities[1].spec.binary_code.common_bits_min is 0, must be 1 to 12");
        check(
            code(|c| c.common_bits_min = 13),
            "modalities[1].spec.binary_code.common_bits_min is 13, must be 1 to 12",
        );
        let threshold = "modalities[0].review_threshold_micros is 0, must be 1 to 1000000";
        check(|r| r.modalities[0].review_threshold_micros = 0, threshold);
        check(|r| r.miss_budget_ppb = 1_000_001, "miss_budget_ppb is 1000001, must be 0 to 1000000");
        check(|r| r.comparable_share_min_ppm = 1_000_001, "comparable_share_min_ppm is 1000001, must be 0 to 1000000");
        check(|r| r.candidates_max = 257, "candidates_max is 257, must be 0 to 256");
        check(|r| r.purposes = vec!["p".to_owned(); 33], "purposes has 33 elements, must have 0 to 32");
        check(|r| r.purposes = vec!["p".repeat(257)], "purposes[0] has 257 bytes, must have 1 to 256");
        check(|r| r.engine = "e".repeat(65), "engine has 65 bytes, must have 0 to 64");
        let engines = "exact, sketch, faiss or faiss:<factory>, where a factory is Flat, SQ4, SQ6, SQ8, SQfp16, SQbf16, \
            PQ<m>[x<bits>][np], PQ<m>x4fs with m up to 257, HNSW<links> or IVF<lists>,Flat";
        for unknown in ["magic", "Sketch", "faiss:", "faiss:PQ258x4fs", " "] {
            check(|r| r.engine = unknown.to_owned(), &format!("engine must be {engines}"));
        }
        let splits = "engine needs modalities[0].spec.embedding.dimension to be a multiple of 96, it is 4";
        check(|r| r.engine = "faiss:PQ96x4fs".to_owned(), splits);
        check(|r| r.purposes = vec![String::new()], "purposes[0] has 0 bytes, must have 1 to 256");
    }

    #[test]
    fn zeros_stand_for_the_defaults() {
        let policy = policy();
        assert_eq!(policy.miss_budget_ppb(), 30_000);
        assert_eq!(policy.comparable_share_min_ppm(), 990_000);
        assert_eq!(policy.candidates_max(), 64);
    }

    #[test]
    fn a_policy_is_its_own_request() {
        assert_eq!(policy().to_request().validate(), Ok(policy()));
        assert_eq!(policy().engine(), None);
        for engine in ["exact", "sketch", "faiss", "faiss:PQ2x4fs", "faiss:IVF64,Flat"] {
            let named = PolicyRequest { engine: engine.to_owned(), ..request() }.validate().expect("valid");
            assert_eq!(named.engine().map(ToString::to_string).as_deref(), Some(engine));
            assert_eq!(named.to_request().validate(), Ok(named));
        }
    }

    #[test]
    fn specs_are_equal_in_any_order_and_whatever_the_thresholds() {
        let mut other = request();
        other.modalities.reverse();
        other.modalities[0].review_threshold_micros = 1;
        assert!(policy().has_specs_of(&other.clone().validate().expect("valid")));
        other.modalities.pop();
        assert!(!policy().has_specs_of(&other.validate().expect("valid")));
    }

    #[test]
    fn the_comparable_share_counts_to_the_last_enrolment() {
        let decision = policy().decision();
        for (compared, live, accepted) in
            [(0, 0, true), (99, 100, true), (98, 100, false), (989_999, 1_000_000, false), (990_000, 1_000_000, true)]
        {
            assert_eq!(decision.accepts_share(compared, live), accepted, "{compared} of {live}");
        }
        assert!(decision.accepts_share(u64::MAX, u64::MAX));
    }
}
