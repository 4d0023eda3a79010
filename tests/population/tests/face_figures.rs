//! The embedding presets have the figures they are fitted to. Tolerances are about four standard errors of the counts
//! drawn here, so that another seed passes too.

use semel_population::{
    CaptureNumber, GroupId, Kinship, Model, Oracle, PersonId, Population, Preset, Relation, Row, ScoreDistribution,
    ScoreStatistics, Seed, Spectrum, Subject, Truth,
};

const SEED: Seed = Seed(20);

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn oracle(population: &Population, people: impl Iterator<Item = PersonId>, captures: u32) -> Oracle {
    let samples =
        people.flat_map(|person| (0..captures).map(move |capture| population.capture(person, CaptureNumber(capture))));
    Oracle::from_embeddings(population.dimension() as u32, samples).expect("captures are embeddings")
}

/// Scores of the first captures of so many people.
fn all_pairs(population: &Population) -> ScoreStatistics {
    let mut truth = Truth::from_subjects((0..population.people()).map(Subject).collect());
    for person in (0..population.people()).map(PersonId) {
        if let Some(kin) = population.person(person).kin {
            truth.state_kin(Subject(person.0), kin.kinship, Subject(kin.of.0));
        }
    }
    let oracle = oracle(population, (0..population.people()).map(PersonId), 1);
    oracle.statistics(0..oracle.rows(), &truth)
}

/// Scores of two captures of each person.
fn mated_pairs(population: &Population) -> ScoreDistribution {
    let mut scores = ScoreDistribution::default();
    for person in (0..population.people()).map(PersonId) {
        let pair = oracle(population, [person].into_iter(), 2);
        let statistics = pair.statistics(0..2, &Truth::from_subjects(vec![Subject(0); 2]));
        scores.merge(&statistics.genuine);
    }
    scores
}

fn check(figure: &str, measured: Option<f64>, expected: f64, tolerance: f64) {
    let measured = measured.expect("there are scores");
    assert!((measured - expected).abs() <= tolerance, "{figure}: {measured} for {expected} ± {tolerance}");
}

#[test]
fn strangers_scores_spread_as_stated() {
    for preset in Preset::ALL {
        let sd = preset.model().impostor_sd;
        let impostor = all_pairs(&Population::new(preset, SEED, 1_200)).impostor;
        check(preset.name(), impostor.sd(), sd, 0.003_f64.max(sd * 0.04));
        check(preset.name(), impostor.mean(), 0.0, 0.01);
    }
}

#[test]
fn mates_scores_are_distributed_as_stated() {
    let stated = [
        (Preset::F1, 0.76, 0.08),
        (Preset::F1m, 0.72, 0.10),
        (Preset::F2, 0.70, 0.10),
        (Preset::F3, 0.52, 0.13),
        (Preset::Voice, 0.62, 0.15),
        (Preset::Isotropic, 0.76, 0.08),
    ];
    for (preset, mean, sd) in stated {
        let scores = mated_pairs(&Population::new(preset, SEED, 4_000));
        check(preset.name(), scores.mean(), mean, 0.006);
        check(preset.name(), scores.sd(), sd, 0.006);
    }
}

#[test]
fn failed_captures_make_the_floor() {
    let model = Model { floor_share: 0.2, ..Preset::F1.model() };
    let population = Population::from_model(model, SEED, 4_000).expect("a valid model");
    let failed = |person: PersonId, capture| population.quality(person, CaptureNumber(capture)).failed;
    let pairs = (0..4_000).map(PersonId).filter(|person| failed(*person, 0) || failed(*person, 1)).count();
    // Each capture fails in a tenth of cases: 1 − .9² of the pairs hold one.
    let share = pairs as f64 / 4_000.0;
    check("pairs with a failed capture", Some(share), 0.19, 0.025);
    let threshold = semel_index::ComparisonScore::from_f64(0.42).expect("in range");
    let missed = mated_pairs(&population).below(threshold).value().expect("there are pairs");
    // A failed capture with a quality above one half still reaches the threshold now and then.
    assert!(missed > 0.75 * share && missed < share, "{missed} of {share}");
}

#[test]
fn strangers_of_a_group_score_higher_by_its_weight() {
    let population = Population::new(Preset::F1, SEED, 8_000);
    let genuine_mean = 0.76;
    for (place, group) in population.model().groups.iter().enumerate() {
        let of_group = (0..8_000).map(PersonId).filter(|id| {
            let person = population.person(*id);
            person.group == Some(GroupId(place)) && person.kin.is_none()
        });
        let members: Vec<PersonId> = of_group.collect();
        check("share", Some(members.len() as f64 / 8_000.0), group.share * 0.98, 0.02);
        let members = &members[..members.len().min(150)];
        let oracle = oracle(&population, members.iter().copied(), 1);
        let truth = Truth::from_subjects((0..oracle.rows()).map(Subject).collect());
        let impostor = oracle.statistics(0..oracle.rows(), &truth).impostor;
        check("mean within the group", impostor.mean(), group.weight * genuine_mean, 0.008);
    }
}

#[test]
fn kin_are_as_many_and_as_alike_as_stated() {
    let population = Population::new(Preset::F1, SEED, 40_000);
    for (kinship, share, cosine, sd) in [(Kinship::Siblings, 0.016, 0.30, 0.08), (Kinship::Twins, 0.004, 0.78, 0.06)] {
        let mut scores = ScoreDistribution::default();
        let mut people = 0;
        for person in (0..40_000).map(PersonId) {
            let Some(kin) = population.person(person).kin.filter(|kin| kin.kinship == kinship) else { continue };
            people += 1;
            if person < kin.of {
                let pair = oracle(&population, [person, kin.of].into_iter(), 1);
                let all = pair.pairs_reaching(0..2, semel_index::ComparisonScore::MIN);
                scores.record(all[0].score);
            }
        }
        // Captures show the centres' cosine times both qualities; sd of the product of all three, and of residuals.
        let pairs = f64::from(people) / 2.0;
        let spread = ((sd * 0.76_f64).powi(2) + (cosine * 0.08_f64).powi(2) + 0.04_f64.powi(2)).sqrt();
        check("share of people", Some(f64::from(people) / 40_000.0), share, 4.0 * (2.0 * share / 40_000.0).sqrt());
        check("mean score", scores.mean(), cosine * 0.76, 4.0 * spread / pairs.sqrt());
        check("sd of scores", scores.sd(), spread, 0.02);
    }
}

#[test]
fn twins_are_the_only_expected_false_positives_at_the_review_threshold() {
    let population = Population::new(Preset::F1, SEED, 4_000);
    let threshold = semel_index::ComparisonScore::from_f64(0.42).expect("in range");
    let statistics = all_pairs(&population);
    assert_eq!(statistics.impostor.at_or_above(threshold).count, 0);
    let twins = statistics.twins.at_or_above(threshold);
    assert!(twins.of > 0 && twins.count * 10 >= twins.of * 9, "{twins}");
}

#[test]
fn captures_have_length_one_and_are_the_same_in_any_order_and_company() {
    let [small, large] = [500, 5_000].map(|people| Population::new(Preset::F2, SEED, people));
    let places: Vec<_> = (0..500).map(|i| (PersonId(i * 7 % 500), CaptureNumber(i % 3))).collect();
    let forwards: Vec<_> = places.iter().map(|(person, capture)| small.capture(*person, *capture)).collect();
    let backwards = places.iter().rev().map(|(person, capture)| large.capture(*person, *capture));
    for (one, other) in forwards.iter().rev().zip(backwards) {
        assert_eq!(*one, other);
        assert!((dot(one, &other) - 1.0).abs() < 1e-6);
    }
    let people = |population: &Population| (0..500).map(|i| population.person(PersonId(i))).collect::<Vec<_>>();
    assert_eq!(people(&small), people(&large));
}

#[test]
fn another_seed_person_or_capture_is_another_sample() {
    let sample = |seed, person, capture| {
        Population::new(Preset::F1, Seed(seed), 10).capture(PersonId(person), CaptureNumber(capture))
    };
    let base = sample(1, 2, 3);
    assert!(dot(&base, &sample(1, 2, 4)) < 0.999);
    assert!(dot(&base, &sample(1, 7, 3)).abs() < 0.4);
    assert!(dot(&base, &sample(2, 2, 3)).abs() < 0.4);
}

#[test]
fn a_measured_covariance_replaces_the_power_law() {
    // A quarter of the dimensions is strong and neighbours are correlated.
    let dimension = 128;
    let strength = |j: usize| if j < 32 { 1.0 } else { 0.5_f64 };
    let entry = |place: usize| {
        let (row, column) = (place / dimension, place % dimension);
        strength(row) * strength(column) * 0.4_f64.powi(row.abs_diff(column) as i32)
    };
    let covariance: Vec<f64> = (0..dimension * dimension).map(entry).collect();
    let spectrum = Spectrum::from_covariance(&covariance, dimension).expect("positive definite");
    let expected = spectrum.effective_dimension().sqrt().recip();
    let model = Model { dimension, ..Preset::Isotropic.model() };
    let population = Population::with_spectrum(model, spectrum, SEED, 800).expect("dimensions agree");
    let impostor = all_pairs(&population).impostor;
    assert!(expected > 0.12, "far from isotropic, which is .088");
    check("impostor sd", impostor.sd(), expected, expected * 0.05);
}

#[test]
fn spectrum_and_model_of_different_dimensions_are_refused() {
    let spectrum = Spectrum::power_law(64, 40.0, SEED).expect("in range");
    assert!(Population::with_spectrum(Preset::F1.model(), spectrum, SEED, 10).is_err());
    let model = Model { impostor_sd: 0.01, ..Preset::F1.model() };
    assert!(Population::from_model(model, SEED, 10).is_err());
}

#[test]
fn relations_in_statistics_follow_the_truth() {
    let population = Population::new(Preset::F1, SEED, 4);
    let mut truth = Truth::from_subjects([0, 1, 2, 0].map(Subject).to_vec());
    truth.state_kin(Subject(1), Kinship::Siblings, Subject(2));
    let oracle = oracle(&population, [0, 1, 2, 0].map(PersonId).into_iter(), 1);
    let statistics = oracle.statistics(0..4, &truth);
    let counts = [&statistics.genuine, &statistics.impostor, &statistics.siblings, &statistics.twins];
    assert_eq!(counts.map(ScoreDistribution::count), [1, 4, 1, 0]);
    assert_eq!(truth.relation(Row(0), Row(3)), Relation::Mates);
    // The same capture twice is the same template.
    assert!(statistics.genuine.mean().expect("one pair") > 0.999_99);
}
