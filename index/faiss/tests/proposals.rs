//! Every segment beside the exact scan of the same rows: what it proposes must hold every mate.

mod people;

use std::collections::BTreeSet;
use std::sync::Arc;

use people::{Population, canonical, rows_of, threshold};
use semel_index::{
    Calibration, CanonicalEmbedding, ComparisonScore, EmbeddingRows, Engine, EngineProbe, MISS_BUDGET_PPB_DEFAULT,
    Proposal, ScanProbe, Segment,
};
use semel_index_faiss::{FaissEngine, FaissSegment};

fn calibration(thresholds: &[f64]) -> Calibration {
    Calibration { thresholds: thresholds.iter().map(|value| threshold(*value)).collect(), ..Calibration::default() }
}

fn build(engine: &str, rows: &Arc<EmbeddingRows>, calibration: &Calibration) -> FaissSegment {
    let engine = FaissEngine::parse(engine).expect("known");
    engine.build_segment(Arc::clone(rows), calibration).expect("built")
}

/// What a segment's proposals lead to, beside the exact scan.
#[derive(Debug, Default)]
struct Compared {
    mates: usize,
    missed: usize,
    scanned_exactly: usize,
    proposed: usize,
}

fn compare(
    segment: &dyn Segment,
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    at: ComparisonScore,
) -> Compared {
    compare_within(MISS_BUDGET_PPB_DEFAULT, segment, rows, probes, at)
}

fn compare_within(
    miss_budget_ppb: u32,
    segment: &dyn Segment,
    rows: &EmbeddingRows,
    probes: &[CanonicalEmbedding],
    at: ComparisonScore,
) -> Compared {
    let scan_probes: Vec<ScanProbe> = probes.iter().map(|probe| ScanProbe::new(probe, at)).collect();
    let mut mates: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); probes.len()];
    let scan_probes: Vec<&ScanProbe> = scan_probes.iter().collect();
    rows.scan(0..rows.len(), &scan_probes, &mut |probe, row, _| {
        mates[probe].insert(row);
    });
    let probes: Vec<EngineProbe> = probes.iter().map(EngineProbe::new).collect();
    let probes: Vec<&EngineProbe> = probes.iter().collect();
    let proposals: Vec<Proposal> =
        probes.chunks(64).flat_map(|probes| segment.propose(probes, at, miss_budget_ppb)).collect();
    assert_eq!(proposals.len(), probes.len());
    let mut compared = Compared::default();
    for (mates, proposal) in mates.iter().zip(proposals) {
        compared.mates += mates.len();
        match proposal {
            Proposal::ScanExactly => compared.scanned_exactly += 1,
            Proposal::Rows(proposed) => {
                compared.proposed += proposed.len();
                let proposed: BTreeSet<usize> = proposed.into_iter().map(|row| row as usize).collect();
                assert!(proposed.iter().all(|row| *row < rows.len()));
                compared.missed += mates.difference(&proposed).count();
            }
        }
    }
    compared
}

fn mates(
    population: &mut Population,
    rows: &EmbeddingRows,
    count: usize,
    at: ComparisonScore,
) -> Vec<CanonicalEmbedding> {
    (0..count).map(|place| population.mate(rows, place * 7 % rows.len(), at)).collect()
}

#[test]
fn no_face_mate_is_missed_by_the_default_engine() {
    let mut population = Population::faces(512, 0.065, 1);
    let rows = Arc::new(population.rows(20_000));
    let at = threshold(0.42);
    let segment = build("faiss", &rows, &calibration(&[0.42]));
    let probes = mates(&mut population, &rows, 5_000, at);
    let compared = compare(&segment, &rows, &probes, at);
    assert!(compared.mates >= 5_000);
    assert_eq!((compared.missed, compared.scanned_exactly), (0, 0), "{compared:?}");
    // Not by proposing everything.
    assert!(compared.proposed < 5_000 * 200, "{compared:?}");
    // The estimate is biased low: a cut at the threshold would lose mates by the thousand.
    assert!(segment.estimate_min(at, MISS_BUDGET_PPB_DEFAULT).expect("a cut") < 0.42 - 0.1);
}

#[test]
fn no_mate_is_missed_where_impostors_score_as_high_as_on_real_faces() {
    let mut population = Population::faces(512, 0.107, 2);
    let rows = Arc::new(population.rows(20_000));
    let at = threshold(0.42);
    let segment = build("faiss", &rows, &calibration(&[0.42]));
    let probes = mates(&mut population, &rows, 1_000, at);
    let compared = compare(&segment, &rows, &probes, at);
    assert!(compared.mates >= 1_000);
    assert_eq!(compared.missed, 0, "{compared:?}");
}

#[test]
fn no_voice_mate_is_missed_though_impostors_score_high() {
    let mut population = Population::voices(256, 3);
    let rows = Arc::new(population.rows(20_000));
    let segment = build("faiss", &rows, &calibration(&[0.80, 0.90]));
    for (at, pays) in [(0.80, false), (0.90, true)] {
        let at = threshold(at);
        let probes = mates(&mut population, &rows, 1_000, at);
        let compared = compare(&segment, &rows, &probes, at);
        assert!(compared.mates >= 1_000);
        assert_eq!(compared.missed, 0, "{compared:?}");
        // Where half the gallery is estimated near the cut, the exact scan is known to be cheaper beforehand.
        assert_eq!(segment.estimate_min(at, MISS_BUDGET_PPB_DEFAULT).is_some(), pays, "{compared:?}");
        assert_eq!(compared.scanned_exactly < 1_000, pays, "{compared:?}");
    }
}

#[test]
fn every_duplicate_of_a_row_is_proposed_or_the_segment_is_scanned() {
    let mut population = Population::faces(128, 0.1, 4);
    for duplicates in [40, 700, 5_000] {
        let twin = canonical(&population.person());
        let mut templates: Vec<CanonicalEmbedding> = (0..5_000).map(|_| canonical(&population.person())).collect();
        templates.extend(std::iter::repeat_n(twin.clone(), duplicates));
        let rows = rows_of(&templates);
        let segment = build("faiss", &rows, &calibration(&[0.5]));
        let compared = compare(&segment, &rows, &[twin], threshold(0.5));
        assert!(compared.mates >= duplicates);
        assert_eq!(compared.missed, 0, "{duplicates}: {compared:?}");
    }
}

#[test]
fn a_segment_of_one_template_over_and_over_misses_nothing() {
    let mut population = Population::faces(64, 0.2, 5);
    let twin = canonical(&population.person());
    let rows = rows_of(&vec![twin.clone(); 1_000]);
    let segment = build("faiss", &rows, &calibration(&[0.5]));
    let compared = compare(&segment, &rows, &[twin], threshold(0.5));
    assert_eq!((compared.mates, compared.missed), (1_000, 0), "{compared:?}");
}

/// Eight-bit quantisers need 9,984 references: 39 for each of 256 cells.
#[test]
fn every_other_factory_misses_no_mate() {
    let mut population = Population::faces(64, 0.13, 6);
    let rows = Arc::new(population.rows(10_000));
    let at = threshold(0.7);
    let probes = mates(&mut population, &rows, 500, at);
    for engine in [
        "faiss:Flat",
        "faiss:SQ8",
        "faiss:SQ4",
        "faiss:SQfp16",
        "faiss:PQ16x8np",
        "faiss:PQ16x4np",
        "faiss:HNSW16",
        "faiss:IVF16,Flat",
    ] {
        let segment = build(engine, &rows, &calibration(&[0.7]));
        assert_eq!(segment.engine(), engine);
        let compared = compare(&segment, &rows, &probes, at);
        assert!(compared.mates >= 500);
        assert_eq!(compared.missed, 0, "{engine}: {compared:?}");
        // Indices that see every row answer by themselves; those that do not cannot show so small a budget to be kept.
        let partial = engine.contains("HNSW") || engine.contains("IVF");
        assert_eq!(segment.estimate_min(at, MISS_BUDGET_PPB_DEFAULT).is_none(), partial, "{engine}");
        assert_eq!(compared.scanned_exactly, if partial { 500 } else { 0 }, "{engine}: {compared:?}");
    }
}

#[test]
fn a_graph_proposes_once_the_budget_is_one_it_can_show_to_keep() {
    let mut population = Population::faces(64, 0.13, 7);
    let rows = Arc::new(population.rows(5_000));
    let at = threshold(0.7);
    let probes = mates(&mut population, &rows, 500, at);
    let fifth = Calibration { thresholds: vec![at], miss_budget_ppb: 200_000_000 };
    let segment = build("faiss:HNSW32", &rows, &fifth);
    let compared = compare_within(fifth.miss_budget_ppb, &segment, &rows, &probes, at);
    assert_eq!(compared.scanned_exactly, 0, "{compared:?}");
    assert!(compared.missed * 5 <= compared.mates, "{compared:?}");
}

#[test]
fn a_threshold_without_a_cut_scans_exactly_until_it_is_calibrated() {
    let mut population = Population::faces(128, 0.1, 8);
    let rows = Arc::new(population.rows(5_000));
    let probe = EngineProbe::new(&canonical(&population.person()));
    let segment = build("faiss", &rows, &Calibration::default());
    let proposes =
        |at: f64| segment.propose(&[&probe], threshold(at), MISS_BUDGET_PPB_DEFAULT) != [Proposal::ScanExactly];
    assert!(!proposes(0.6));
    segment.calibrate(&rows, &calibration(&[0.6])).expect("calibrated");
    assert!(proposes(0.6));
    assert!(proposes(0.8), "what reaches 0.8 reaches 0.6");
    assert!(!proposes(0.5), "what reaches 0.5 may not reach 0.6");
}

#[test]
fn a_smaller_budget_retires_the_cuts_of_a_larger_one() {
    let mut population = Population::faces(128, 0.1, 9);
    let rows = Arc::new(population.rows(5_000));
    let segment = build("faiss", &rows, &calibration(&[0.6]));
    let at_default = segment.estimate_min(threshold(0.6), MISS_BUDGET_PPB_DEFAULT).expect("a cut");
    let stricter = Calibration { thresholds: vec![threshold(0.7)], miss_budget_ppb: 1_000 };
    segment.calibrate(&rows, &stricter).expect("calibrated");
    assert_eq!(segment.estimate_min(threshold(0.6), MISS_BUDGET_PPB_DEFAULT), None);
    segment.calibrate(&rows, &Calibration { thresholds: vec![threshold(0.6)], ..stricter }).expect("calibrated");
    assert!(segment.estimate_min(threshold(0.6), MISS_BUDGET_PPB_DEFAULT).expect("a cut") < at_default);
}

/// Probes of a tightened policy were once answered by the looser policy's cuts until the calibration had ended.
#[test]
fn a_stricter_probe_is_scanned_exactly_until_the_segment_is_recalibrated() {
    let mut population = Population::faces(128, 0.1, 15);
    let rows = Arc::new(population.rows(5_000));
    let at = threshold(0.6);
    let probe = EngineProbe::new(&canonical(&population.person()));
    let (strict, loose) = (1_000, 1_000_000);
    let segment = build("faiss", &rows, &Calibration { thresholds: vec![at], miss_budget_ppb: loose });
    let proposes = |at: f64, budget: u32| segment.propose(&[&probe], threshold(at), budget) != [Proposal::ScanExactly];
    let loose_cut = segment.estimate_min(at, loose).expect("a cut");
    assert!(proposes(0.6, loose));
    assert!(!proposes(0.6, loose - 1));
    assert!(!proposes(0.6, strict));
    assert!(!proposes(0.8, strict), "a lower threshold's cut is no stricter");

    segment.calibrate(&rows, &Calibration { thresholds: vec![at], miss_budget_ppb: strict }).expect("calibrated");
    assert!(proposes(0.6, strict));
    assert!(!proposes(0.6, strict - 1));
    // What keeps the smaller budget keeps the larger one; it proposes more.
    assert!(segment.estimate_min(at, loose).expect("a cut") < loose_cut);

    // A nearer cut of a larger budget hides no lower one that keeps the smaller.
    segment
        .calibrate(&rows, &Calibration { thresholds: vec![threshold(0.7)], miss_budget_ppb: loose })
        .expect("calibrated");
    assert_eq!(segment.estimate_min(threshold(0.7), strict), segment.estimate_min(at, strict));
    assert!(segment.estimate_min(threshold(0.7), loose) > segment.estimate_min(threshold(0.7), strict));
}

#[test]
fn building_again_gives_the_same_cut_and_proposals() {
    let mut population = Population::faces(128, 0.1, 10);
    let rows = Arc::new(population.rows(4_000));
    let at = threshold(0.6);
    let probes = mates(&mut population, &rows, 50, at);
    let probes: Vec<EngineProbe> = probes.iter().map(EngineProbe::new).collect();
    let probes: Vec<&EngineProbe> = probes.iter().collect();
    let build = || build("faiss", &rows, &calibration(&[0.6]));
    let (one, other) = (build(), build());
    assert_eq!(one.estimate_min(at, MISS_BUDGET_PPB_DEFAULT), other.estimate_min(at, MISS_BUDGET_PPB_DEFAULT));
    assert_eq!(one.propose(&probes, at, MISS_BUDGET_PPB_DEFAULT), other.propose(&probes, at, MISS_BUDGET_PPB_DEFAULT));
}

#[test]
fn searches_from_four_threads_answer_as_one_does() {
    let mut population = Population::faces(128, 0.1, 11);
    let rows = Arc::new(population.rows(10_000));
    let at = threshold(0.6);
    let probes = mates(&mut population, &rows, 200, at);
    let probes: Vec<EngineProbe> = probes.iter().map(EngineProbe::new).collect();
    let probes: Vec<&EngineProbe> = probes.iter().collect();
    for engine in ["faiss", "faiss:SQ8", "faiss:PQ16x8np"] {
        let segment = build(engine, &rows, &calibration(&[0.6]));
        let serial = segment.propose(&probes, at, MISS_BUDGET_PPB_DEFAULT);
        assert!(serial.iter().all(|proposal| matches!(proposal, Proposal::Rows(_))));
        std::thread::scope(|scope| {
            let searches: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        probes
                            .iter()
                            .flat_map(|probe| segment.propose(&[*probe], at, MISS_BUDGET_PPB_DEFAULT))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            for search in searches {
                let found = search.join().expect("no panic");
                for (found, serial) in found.iter().zip(&serial) {
                    let (Proposal::Rows(found), Proposal::Rows(serial)) = (found, serial) else {
                        panic!("{engine}: {found:?} is not {serial:?}");
                    };
                    assert_eq!(BTreeSet::from_iter(found), BTreeSet::from_iter(serial), "{engine}");
                }
            }
        });
    }
}

#[test]
fn too_few_references_are_refused() {
    let mut population = Population::faces(64, 0.13, 12);
    let engine = FaissEngine::parse("faiss").expect("known");
    assert_eq!(engine.references_min(64), 624);
    let error = engine.build(Arc::new(population.rows(623)), &calibration(&[0.6])).expect_err("refused");
    assert_eq!((error.references, error.reason.as_str()), (623, "needs 624 references or more"));
    engine.build(Arc::new(population.rows(624)), &calibration(&[0.6])).expect("built");
}

#[test]
fn a_dimension_that_cannot_be_split_never_seals() {
    let engine = FaissEngine::parse("faiss").expect("known");
    assert_eq!(engine.references_min(510), usize::MAX);
    let templates: Vec<CanonicalEmbedding> =
        (0..700).map(|place| canonical(&[1.0, place as f32, 3.0, 4.0, 5.0])).collect();
    let error = engine.build(rows_of(&templates), &calibration(&[0.6])).expect_err("refused");
    assert_eq!(error.reason, "engine faiss needs a dimension divisible by 4, found 5");
}

#[test]
fn more_thresholds_than_a_segment_keeps_are_refused() {
    let mut population = Population::faces(64, 0.13, 13);
    let engine = FaissEngine::new("Flat").expect("known");
    let thresholds: Vec<f64> = (0..65).map(|place| f64::from(place) / 100.0).collect();
    let error = engine.build(Arc::new(population.rows(700)), &calibration(&thresholds)).expect_err("refused");
    assert_eq!(error.reason, "takes at most 64 thresholds");
}

#[test]
fn memory_is_that_of_the_codes() {
    let mut population = Population::faces(128, 0.1, 14);
    let rows = Arc::new(population.rows(4_000));
    let check = |engine: &str, bytes_per_row: std::ops::Range<usize>| {
        let bytes = build(engine, &rows, &Calibration::default()).memory_bytes();
        assert!(bytes_per_row.contains(&(bytes / 4_000)), "{engine}: {bytes}");
    };
    check("faiss", 16..20);
    check("faiss:SQ8", 128..130);
    check("faiss:Flat", 512..513);
    check("faiss:HNSW16", 512 + 128..512 + 160);
}

#[test]
fn engines_are_found_by_name() {
    for name in ["faiss", "faiss:PQ64x8", "faiss:HNSW32"] {
        assert_eq!(FaissEngine::parse(name).expect("known").name(), name);
    }
    for (name, error) in [
        ("usearch", "engine usearch is unknown, must be faiss or faiss:<factory>"),
        ("faiss:nonsense", "faiss factory \"nonsense\" is not accepted"),
        ("", "engine  is unknown"),
    ] {
        let found = FaissEngine::parse(name).expect_err("unknown").to_string();
        assert!(found.starts_with(error), "{found}");
    }
}
