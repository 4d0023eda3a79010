//! The oracle, tile by tile and range by range, gives what two plain loops give.

use semel_index::{CanonicalEmbedding, Comparison, ComparisonScore, Template, TemplateSpec, compare};
use semel_population::{
    CaptureNumber, EnrolmentRates, Eye, IrisModel, IrisPopulation, IrisPreset, Oracle, OracleError, PersonId,
    Population, Preset, RegistrationPlan, Row, ScoreStatistics, ScoredPair, Seed, Subject, Truth, Workload,
};

fn naive(spec: &TemplateSpec, templates: &[Template], threshold: ComparisonScore) -> Vec<ScoredPair> {
    let mut pairs = Vec::new();
    for later in 0..templates.len() {
        for earlier in 0..later {
            if let Comparison::Score(score) = compare(spec, &templates[earlier], &templates[later])
                && score >= threshold
            {
                pairs.push(ScoredPair { earlier: Row(earlier as u32), later: Row(later as u32), score });
            }
        }
    }
    pairs
}

fn check(spec: TemplateSpec, templates: Vec<Template>, threshold: f64) {
    let threshold = ComparisonScore::from_f64(threshold).expect("in range");
    let expected = naive(&spec, &templates, threshold);
    assert!(!expected.is_empty());
    let truth = Truth::from_subjects((0..templates.len() as u32).map(Subject).collect());
    let oracle = Oracle::new(spec, templates).expect("templates of the spec");
    let whole = oracle.statistics(0..oracle.rows(), &truth);
    for parts in [1, 3, 7, 1_000] {
        let mut pairs = Vec::new();
        let mut statistics = ScoreStatistics::default();
        for range in oracle.ranges(parts) {
            pairs.extend(oracle.pairs_reaching(range.clone(), threshold));
            statistics.merge(&oracle.statistics(range, &truth));
        }
        assert_eq!(pairs, expected, "{parts} parts");
        assert_eq!(statistics, whole, "{parts} parts");
    }
    let rows = u64::from(oracle.rows());
    assert_eq!(whole.impostor.count() + whole.not_comparable, rows * (rows - 1) / 2);
}

fn face_templates(people: u32, captures: u32) -> Vec<Template> {
    let population = Population::new(Preset::F3, Seed(9), people);
    let places = (0..people).flat_map(|person| (0..captures).map(move |capture| (person, capture)));
    places
        .map(|(person, capture)| population.capture(PersonId(person), CaptureNumber(capture)))
        .map(|sample| Template::Embedding(CanonicalEmbedding::from_f32(&sample).expect("a unit embedding")))
        .collect()
}

#[test]
fn oracle_equals_two_loops_over_embeddings() {
    check(TemplateSpec::Embedding { dimension: 512 }, face_templates(150, 2), 0.2);
}

#[test]
fn oracle_equals_two_loops_over_binary_codes() {
    let eyes = IrisPopulation::new(IrisPreset::NonIdeal.model(), IrisModel::SPEC, Seed(9), 40).expect("valid");
    let places = (0..40).flat_map(|person| (0..2).map(move |capture| (person, capture)));
    let templates = places.map(|(person, capture)| eyes.template(PersonId(person), Eye::Left, CaptureNumber(capture)));
    check(TemplateSpec::BinaryCode(IrisModel::SPEC), templates.collect(), 0.6);
}

#[test]
fn rates_of_one_by_one_enrolment_follow_from_the_pairs() {
    let population = Population::new(Preset::F1, Seed(9), 1_000);
    let workload = Workload { repeats_share: 0.05, ..Workload::default() };
    let plan = RegistrationPlan::new(&workload, Seed(9), 1_000).expect("shares in range");
    let truth = plan.truth(&population);
    let captures =
        plan.registrations().map(|registration| population.capture(registration.person, registration.capture));
    let oracle = Oracle::from_embeddings(512, captures).expect("captures are embeddings");
    let pairs_at = |threshold: f64| {
        oracle.pairs_reaching(0..oracle.rows(), ComparisonScore::from_f64(threshold).expect("in range"))
    };
    let rates_at = |threshold: f64| {
        EnrolmentRates::count(&truth, pairs_at(threshold).iter().map(|pair| (pair.later, pair.earlier)))
    };
    let everything = rates_at(-1.0);
    assert_eq!(everything.missed.count, 0);
    assert_eq!(everything.mated_pairs.count, everything.mated_pairs.of);
    // The very first row has nobody before it.
    assert_eq!(everything.false_alarms.count + 1, everything.false_alarms.of);
    let nothing = rates_at(1.0);
    assert_eq!(nothing.missed.count, nothing.missed.of);
    assert_eq!(nothing.false_alarms.count, 0);
    let standings = everything.missed.of + everything.twins_flagged.of + everything.false_alarms.of;
    assert_eq!(standings, plan.len() as u64);
    assert_eq!(everything.missed.of, 50);
    let usual = rates_at(0.42);
    assert!(usual.missed.count <= 2 && usual.false_alarms.count <= 2, "{usual:?}");
}

#[test]
fn templates_of_another_kind_or_size_are_refused_by_row() {
    let mut templates = face_templates(3, 1);
    let short = CanonicalEmbedding::from_f32(&[1.0, 0.0]).expect("a unit embedding");
    templates.insert(2, Template::Embedding(short));
    let refused = Oracle::new(TemplateSpec::Embedding { dimension: 512 }, templates).err();
    assert_eq!(refused, Some(OracleError::NotConforming { row: Row(2) }));
    let refused = Oracle::from_embeddings(2, [[1.0, 0.0], [0.0, f32::NAN]]).err();
    assert!(matches!(refused, Some(OracleError::Template { row: Row(1), .. })));
}

#[test]
fn an_oracle_without_rows_has_no_ranges() {
    let oracle = Oracle::new(TemplateSpec::Embedding { dimension: 8 }, Vec::new()).expect("no template is wrong");
    assert_eq!(oracle.ranges(4), []);
}
