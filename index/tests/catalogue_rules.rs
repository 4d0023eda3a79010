//! What the catalogue promises beyond equality with its model: scale past a window, sealing, cancellation, snapshots.

mod support;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::Mutex;

use semel_index::ComparisonScore;
use semel_index::{
    BuildError, Calibration, Cancelled, Catalogue, CatalogueConfig, EmbeddingRows, Engine, EngineProbe, ExactEngine,
    KeyVersion, MISS_BUDGET_PPB_DEFAULT, ProbeReference, Proposal, SearchProbe, Segment, ShardSearch, SketchEngine,
    StagedEnrolment, StagedReference,
};
use support::{
    BEHAVIOURS, Backwards, Behaviour, FACE_SPEC, IRIS_SPEC, Model, TestEngine, enrolment, face, face_slot, gallery,
    iris, iris_slot, score,
};

const KEY: KeyVersion = KeyVersion(1);

fn catalogue(engine: impl Engine + 'static, seal_at_references: usize) -> Catalogue {
    Catalogue::new(CatalogueConfig { seal_at_references, engine: Arc::new(engine), ..CatalogueConfig::default() })
}

fn staged(number: u32, references: Vec<StagedReference>) -> StagedEnrolment {
    StagedEnrolment { gallery: gallery("people"), enrolment_id: enrolment(number), key_version: KEY, references }
}

fn with_face(number: u32, values: [f32; 4]) -> StagedEnrolment {
    staged(number, vec![StagedReference { slot: face_slot(), spec: FACE_SPEC, template: face(&values) }])
}

fn face_probe(values: [f32; 4], threshold: i32) -> SearchProbe {
    SearchProbe {
        gallery: gallery("people"),
        key_version: KEY,
        references: vec![ProbeReference {
            slot: face_slot(),
            spec: FACE_SPEC,
            template: face(&values),
            threshold: score(threshold),
            miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT,
        }],
        exclude: None,
        candidates_max: 10,
    }
}

/// Searches for a probe twice in one batch: both answers are the same.
fn search(catalogue: &mut Catalogue, probe: &SearchProbe) -> ShardSearch {
    let answers = catalogue.snapshot().search(&[probe.clone(), probe.clone()], &|| false).expect("not cancelled");
    let [first, second] = <[ShardSearch; 2]>::try_from(answers).expect("one answer per probe");
    assert_eq!(first, second);
    first
}

/// Enrolments of several windows, in which slots are missing in different rhythms so that no segment of one slot ends
/// where one of another does.
#[test]
fn searches_reach_across_windows_and_segments() {
    for (behaviour, seal_at) in [(Behaviour::Proposes, 1_500), (Behaviour::ScansExactly, 9_000)] {
        let mut catalogue = catalogue(TestEngine(behaviour), seal_at);
        let mut model = Model::default();
        for number in 0..40_000_u32 {
            let mut references = Vec::new();
            let turn = |divisor: u32| (number / divisor % 7) as f32 - 3.0;
            if number % 3 != 0 {
                let template = face(&[turn(1), turn(7), turn(49), 1.0]);
                references.push(StagedReference { slot: face_slot(), spec: FACE_SPEC, template });
            }
            for left in [true, false] {
                if number % if left { 4 } else { 5 } == 0 {
                    let template = iris((number.wrapping_mul(40_503) >> 3) as u16, 0xfff0);
                    references.push(StagedReference { slot: iris_slot(left), spec: IRIS_SPEC, template });
                }
            }
            let enrolment = staged(number, references);
            model.stage(u64::from(number), &enrolment);
            catalogue.stage(u64::from(number), enrolment);
            loop {
                let jobs = catalogue.seal_jobs();
                if jobs.is_empty() {
                    break;
                }
                jobs.into_iter().for_each(|job| catalogue.sealed(job.run()));
            }
        }
        for number in (0..40_000).step_by(11) {
            model.withdraw(40_000, &gallery("people"), &enrolment(number));
            catalogue.withdraw(40_000, &gallery("people"), &enrolment(number));
        }
        let probes: Vec<SearchProbe> = [(1_000_000, 20_001), (900_000, 20_002), (-1_000_000, 20_003), (840_000, 11)]
            .into_iter()
            .map(|(threshold, exclude)| {
                let mut probe = face_probe([1.0, -2.0, 3.0, 1.0], threshold);
                probe.references.extend([true, false].map(|left| ProbeReference {
                    slot: iris_slot(left),
                    spec: IRIS_SPEC,
                    template: iris(0xa5c0, if left { 0xfff0 } else { 0xfc00 }),
                    threshold: score(threshold),
                    miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT,
                }));
                probe.exclude = Some(enrolment(exclude));
                probe
            })
            .collect();
        let answers = catalogue.snapshot().search(&probes, &|| false).expect("not cancelled");
        for (answer, probe) in answers.iter().zip(&probes) {
            assert_eq!(*answer, model.search(probe), "{behaviour:?}");
        }
        assert_eq!(catalogue.snapshot().search_spread(&probes, &Backwards, &|| false).expect("not cancelled"), answers);
        assert!(answers[0].candidates_total > 0);
        // Everything comparable reaches the lowest threshold.
        assert_eq!(answers[2].candidates_total, answers[2].compared);
    }
}

#[test]
fn a_saturated_list_says_how_many_candidates_there_were() {
    let mut catalogue = catalogue(ExactEngine, 100);
    for number in 0..25 {
        catalogue.stage(1, with_face(number, [1.0, 2.0, 3.0, 4.0]));
    }
    let answer = search(&mut catalogue, &face_probe([1.0, 2.0, 3.0, 4.0], 420_000));
    assert_eq!(answer.candidates_total, 25);
    assert_eq!(answer.candidates.len(), 10);
    // Exact duplicates tie, so the smallest ids are listed.
    let mut ids: Vec<_> = (0..25).map(enrolment).collect();
    ids.sort();
    assert!(answer.candidates.iter().map(|candidate| &candidate.enrolment_id).eq(&ids[..10]));
    assert!(answer.candidates.iter().all(|candidate| candidate.margin == 580_000));
}

#[test]
fn an_unknown_gallery_answers_with_zeros() {
    let mut catalogue = catalogue(ExactEngine, 100);
    catalogue.advance(7);
    let answer = search(&mut catalogue, &face_probe([1.0, 0.0, 0.0, 0.0], 0));
    assert_eq!((answer.live, answer.compared, answer.withdrawn, answer.candidates_total), (0, 0, 0, 0));
    assert_eq!(catalogue.snapshot().searchable_index(), 7);
}

#[test]
fn a_snapshot_is_the_same_until_something_changes() {
    let mut catalogue = catalogue(ExactEngine, 100);
    catalogue.stage(3, with_face(1, [1.0, 0.0, 0.0, 0.0]));
    let first = catalogue.snapshot();
    catalogue.stage(3, with_face(1, [0.0, 1.0, 0.0, 0.0]));
    catalogue.withdraw(3, &gallery("people"), &enrolment(2));
    catalogue.advance(2);
    assert!(Arc::ptr_eq(&first, &catalogue.snapshot()));
    catalogue.withdraw(4, &gallery("people"), &enrolment(1));
    let second = catalogue.snapshot();
    assert_eq!((first.live(&gallery("people")), second.live(&gallery("people"))), (1, 0));
    assert_eq!((first.searchable_index(), second.searchable_index()), (3, 4));
    assert_eq!(second.staged(&gallery("people")), 1);
}

#[test]
fn a_cancelled_search_stops_soon_and_answers_nothing() {
    let mut catalogue = catalogue(ExactEngine, 1_000_000);
    for number in 0..10_000 {
        catalogue.stage(1, with_face(number, [1.0, number as f32, 0.0, 0.0]));
    }
    let snapshot = catalogue.snapshot();
    let probe = face_probe([1.0, 0.0, 0.0, 0.0], 0);
    let asked = Cell::new(0);
    let count = || {
        asked.set(asked.get() + 1);
        false
    };
    assert!(snapshot.search(std::slice::from_ref(&probe), &count).is_ok());
    let all = asked.get();
    assert!(all >= 10_000 / 1_024);
    for stop_at in 1..=all {
        asked.set(0);
        let cancelled = || {
            asked.set(asked.get() + 1);
            asked.get() >= stop_at
        };
        assert_eq!(snapshot.search(std::slice::from_ref(&probe), &cancelled), Err(Cancelled.into()));
        assert_eq!(asked.get(), stop_at);
    }
}

#[test]
fn sealing_changes_no_answer_whatever_the_engine_does() {
    for behaviour in BEHAVIOURS {
        let mut catalogue = catalogue(TestEngine(behaviour), 50);
        for number in 0..230 {
            catalogue.stage(1, with_face(number, [1.0, number as f32, 3.0, -2.0]));
        }
        let probe = face_probe([1.0, 7.0, 3.0, -2.0], 950_000);
        let before = search(&mut catalogue, &probe);
        assert!(before.candidates_total > 1);
        let mut jobs_run = 0;
        loop {
            let jobs = catalogue.seal_jobs();
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                assert_eq!((job.references(), job.gallery()), (50, &gallery("people")));
                let sealed = job.run();
                assert_eq!(sealed.error().is_some(), behaviour == Behaviour::Fails);
                catalogue.sealed(sealed);
                jobs_run += 1;
                assert_eq!(search(&mut catalogue, &probe), before, "{behaviour:?}");
            }
        }
        assert_eq!(jobs_run, 4);
        let status = &catalogue.snapshot().collections()[0];
        assert_eq!((status.growing_references, status.sealed_references, status.segments), (30, 200, 4));
        assert_eq!(status.segments_without_engine, if behaviour == Behaviour::Fails { 4 } else { 0 });
        assert!(status.memory_bytes >= 230 * 64);
    }
}

#[test]
fn no_segment_seals_below_the_engines_minimum() {
    #[derive(Debug)]
    struct Demanding;
    impl Engine for Demanding {
        fn name(&self) -> &str {
            "demanding"
        }
        fn references_min(&self, dimension: u32) -> usize {
            10 * dimension as usize
        }
        fn build(&self, rows: Arc<EmbeddingRows>, calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
            assert_eq!(rows.len(), 40);
            ExactEngine.build(rows, calibration)
        }
    }
    let mut catalogue = catalogue(Demanding, 5);
    for number in 0..39 {
        catalogue.stage(1, with_face(number, [1.0, 0.0, 0.0, 0.0]));
    }
    assert!(catalogue.seal_jobs().is_empty());
    catalogue.stage(1, with_face(39, [1.0, 0.0, 0.0, 0.0]));
    assert_eq!(catalogue.seal_jobs().into_iter().map(|job| catalogue.sealed(job.run())).count(), 1);
    catalogue.stage(1, with_face(40, [1.0, 0.0, 0.0, 0.0]));
    catalogue.close_growing(1);
    assert!(catalogue.seal_jobs().is_empty(), "the engine wants 40");
}

#[test]
fn what_has_ceased_to_grow_can_be_sealed_before_it_is_full() {
    let mut catalogue = catalogue(TestEngine(Behaviour::Proposes), 50);
    let probe = face_probe([1.0, 7.0, 3.0, -2.0], 950_000);
    let stage = |catalogue: &mut Catalogue, numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| catalogue.stage(1, with_face(number, [1.0, number as f32, 3.0, -2.0])));
    };
    stage(&mut catalogue, 0..20);
    let snapshot = catalogue.snapshot();
    catalogue.close_growing(21);
    assert!(Arc::ptr_eq(&snapshot, &catalogue.snapshot()) && catalogue.seal_jobs().is_empty(), "it is too short");
    let before = search(&mut catalogue, &probe);
    catalogue.close_growing(20);
    assert_eq!(search(&mut catalogue, &probe), before);
    let jobs = catalogue.seal_jobs();
    assert_eq!(jobs.iter().map(semel_index::SealJob::references).collect::<Vec<_>>(), [20]);
    // What comes meanwhile grows anew, up to the length that segments are meant to have.
    stage(&mut catalogue, 20..75);
    jobs.into_iter().for_each(|job| catalogue.sealed(job.run()));
    let status = &catalogue.snapshot().collections()[0];
    assert_eq!((status.growing_references, status.sealed_references, status.segments), (5, 70, 2));
    catalogue.close_growing(20);
    assert_eq!(catalogue.snapshot().collections()[0].growing_references, 5);
}

/// Runs jobs until there are none; returns how many segments they built. What a search finds never changes.
fn seal_all(catalogue: &mut Catalogue, probe: &SearchProbe, expected: &ShardSearch) -> usize {
    let mut built = 0;
    loop {
        let jobs = catalogue.seal_jobs();
        if jobs.is_empty() {
            return built;
        }
        for job in jobs {
            let sealed = job.run();
            built += usize::from(sealed.error().is_none());
            catalogue.sealed(sealed);
            assert_eq!(search(catalogue, probe), *expected);
        }
    }
}

fn engines(catalogue: &mut Catalogue) -> Vec<(String, usize)> {
    catalogue.snapshot().collections()[0].engines.clone().into_iter().collect()
}

#[test]
fn another_engine_takes_over_segment_by_segment_while_the_old_one_answers() {
    let of = |name: &str, segments| vec![(name.to_owned(), segments)];
    let people = gallery("people");
    let mut catalogue = catalogue(TestEngine(Behaviour::Proposes), 50);
    for number in 0..230 {
        catalogue.stage(1, with_face(number, [1.0, number as f32, 3.0, -2.0]));
    }
    let probe = face_probe([1.0, 7.0, 3.0, -2.0], 950_000);
    let expected = search(&mut catalogue, &probe);
    assert!(expected.candidates_total > 1);
    assert_eq!(seal_all(&mut catalogue, &probe, &expected), 4);
    assert_eq!(engines(&mut catalogue), of("test", 4));

    // The policy changes twice, the second time while jobs for the first change are out.
    catalogue.set_engine(&people, Arc::new(ExactEngine));
    let jobs = catalogue.seal_jobs();
    assert_eq!((jobs.len(), engines(&mut catalogue)), (2, of("test", 4)));
    catalogue.set_engine(&people, Arc::new(Recording::default()));
    jobs.into_iter().for_each(|job| catalogue.sealed(job.run()));
    assert_eq!(engines(&mut catalogue), [of("exact", 2), of("test", 2)].concat());
    assert_eq!(seal_all(&mut catalogue, &probe, &expected), 4);
    assert_eq!(engines(&mut catalogue), of("recording", 4));

    // The same engine again changes nothing; what is sealed later is built by it too; another gallery keeps its own.
    catalogue.set_engine(&people, Arc::new(Recording::default()));
    catalogue.set_engine(&gallery("voices"), Arc::new(ExactEngine));
    assert!(catalogue.seal_jobs().is_empty());
    for number in 230..250 {
        catalogue.stage(2, with_face(number, [-1.0, 0.0, 0.0, 0.0]));
    }
    let expected = search(&mut catalogue, &probe);
    assert_eq!(seal_all(&mut catalogue, &probe, &expected), 1);
    assert_eq!(engines(&mut catalogue), of("recording", 5));

    // One that needs more than the segments have is not tried.
    catalogue.set_engine(&people, Arc::new(SketchEngine));
    assert!(catalogue.seal_jobs().is_empty() && !catalogue.is_seal_due());
    assert_eq!(engines(&mut catalogue), of("recording", 5));

    // Where the new engine fails, the old one stays.
    catalogue.set_engine(&people, Arc::new(TestEngine(Behaviour::Fails)));
    assert_eq!(seal_all(&mut catalogue, &probe, &expected), 0);
    assert_eq!(engines(&mut catalogue), of("recording", 5));
    assert_eq!(catalogue.snapshot().collections()[0].segments_without_engine, 0);
}

#[test]
fn segments_compacted_while_the_policy_changes_are_built_by_its_engine_too() {
    let people = gallery("people");
    let mut catalogue = catalogue(TestEngine(Behaviour::Proposes), 50);
    for number in 0..100 {
        catalogue.stage(1, with_face(number, [1.0, number as f32, 3.0, -2.0]));
    }
    let probe = face_probe([1.0, 7.0, 3.0, -2.0], 950_000);
    let expected = search(&mut catalogue, &probe);
    seal_all(&mut catalogue, &probe, &expected);
    (50..100).for_each(|number| catalogue.withdraw(2, &people, &enrolment(number)));
    (30..50).for_each(|number| catalogue.withdraw(2, &people, &enrolment(number)));
    let expected = search(&mut catalogue, &probe);
    let mut compactions = 0;
    while let Some(job) = catalogue.compaction_job() {
        if compactions == 0 {
            catalogue.set_engine(&people, Arc::new(ExactEngine));
        }
        assert!(catalogue.compacted(job.run(), None));
        assert_eq!(search(&mut catalogue, &probe), expected);
        seal_all(&mut catalogue, &probe, &expected);
        compactions += 1;
    }
    assert!(compactions > 0);
    let segments = catalogue.snapshot().collections()[0].segments;
    assert_eq!(engines(&mut catalogue), [("exact".to_owned(), segments)]);
}

/// An engine whose segments record what they were calibrated with.
#[derive(Debug, Clone, Default)]
struct Recording(Arc<Mutex<Vec<Vec<ComparisonScore>>>>);

impl Engine for Recording {
    fn name(&self) -> &str {
        "recording"
    }
    fn references_min(&self, _dimension: u32) -> usize {
        1
    }
    fn build(&self, rows: Arc<EmbeddingRows>, calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        self.calibrate(&rows, calibration)?;
        Ok(Box::new(self.clone()))
    }
}

impl Segment for Recording {
    fn engine(&self) -> &str {
        "recording"
    }
    fn memory_bytes(&self) -> usize {
        0
    }
    fn propose(&self, probes: &[&EngineProbe], _threshold: ComparisonScore, _miss_budget_ppb: u32) -> Vec<Proposal> {
        probes.iter().map(|_| Proposal::ScanExactly).collect()
    }
    fn calibrate(&self, _rows: &EmbeddingRows, calibration: &Calibration) -> Result<(), BuildError> {
        self.0.lock().expect("not poisoned").push(calibration.thresholds.clone());
        Ok(())
    }
}

#[test]
fn a_policy_change_calibrates_segments_again() {
    let engine = Recording::default();
    let mut catalogue = catalogue(engine.clone(), 2);
    let policy = |threshold| Calibration { thresholds: vec![score(threshold)], ..Calibration::default() };
    let seen = || engine.0.lock().expect("not poisoned").clone();
    catalogue.set_calibration(&gallery("people"), face_slot(), policy(1));
    catalogue.stage(1, with_face(1, [1.0, 0.0, 0.0, 0.0]));
    catalogue.stage(1, with_face(2, [1.0, 0.0, 0.0, 0.0]));
    let mut jobs = catalogue.seal_jobs();
    // The policy changes while the job is out: its segment is calibrated again once it is back.
    catalogue.set_calibration(&gallery("people"), face_slot(), policy(2));
    catalogue.set_calibration(&gallery("people"), face_slot(), policy(2));
    assert!(catalogue.seal_jobs().is_empty());
    catalogue.sealed(jobs.pop().expect("one segment").run());
    assert_eq!(seen(), [[score(1)]]);
    let mut jobs = catalogue.seal_jobs();
    catalogue.sealed(jobs.pop().expect("one segment").run());
    assert_eq!(seen(), [[score(1)], [score(2)]]);
    assert!(catalogue.seal_jobs().is_empty());
    // Another slot's policy is none of its concern.
    catalogue.set_calibration(&gallery("people"), iris_slot(true), policy(3));
    assert!(catalogue.seal_jobs().is_empty());
}

#[test]
fn another_catalogues_job_changes_nothing() {
    let filled = || {
        let mut catalogue = catalogue(TestEngine(Behaviour::Proposes), 2);
        catalogue.stage(1, with_face(1, [1.0, 0.0, 0.0, 0.0]));
        catalogue.stage(1, with_face(2, [1.0, 0.0, 0.0, 0.0]));
        catalogue
    };
    let (mut before, mut rebuilt) = (filled(), filled());
    let old = before.seal_jobs().pop().expect("one segment");
    rebuilt.sealed(old.run());
    assert_eq!(rebuilt.snapshot().collections()[0].segments_without_engine, 1);
    let own = rebuilt.seal_jobs().pop().expect("its own job is still there");
    rebuilt.sealed(own.run());
    assert_eq!(rebuilt.snapshot().collections()[0].segments_without_engine, 0);
}

/// Faces in sealed segments of `short` references each, of which `full` would fit one.
fn in_short_segments(segments: u32, short: u32, full: usize) -> Catalogue {
    let mut catalogue = catalogue(TestEngine(Behaviour::Proposes), full);
    for segment in 0..segments {
        for number in segment * short..(segment + 1) * short {
            catalogue.stage(1, with_face(number, [1.0, number as f32, 3.0, -2.0]));
        }
        catalogue.close_growing(short as usize);
        catalogue.seal_jobs().into_iter().for_each(|job| catalogue.sealed(job.run()));
    }
    assert_eq!(catalogue.snapshot().collections()[0].segments, segments as usize);
    catalogue
}

/// The lengths of compactions until none is worth it.
fn compact(catalogue: &mut Catalogue) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let Some(job) = catalogue.compaction_job() {
        lengths.push(job.references());
        assert!(catalogue.compacted(job.run(), None));
    }
    lengths
}

#[test]
fn short_segments_become_full_ones() {
    let mut catalogue = in_short_segments(9, 10, 40);
    let probe = face_probe([1.0, 7.0, 3.0, -2.0], 950_000);
    let before = search(&mut catalogue, &probe);
    assert_eq!(compact(&mut catalogue), [40, 40]);
    assert_eq!(search(&mut catalogue, &probe), before);
    let status = &catalogue.snapshot().collections()[0];
    assert_eq!((status.segments, status.segments_without_engine, status.sealed_references), (3, 0, 90));
    assert_eq!(status.references_reclaimed, 0);
}

#[test]
fn reclaimed_references_are_still_counted_as_withdrawn() {
    let mut catalogue = in_short_segments(2, 40, 40);
    let probe = face_probe([1.0, 7.0, 3.0, -2.0], 950_000);
    for number in (0..40).step_by(4) {
        catalogue.withdraw(2, &gallery("people"), &enrolment(number));
    }
    let before = search(&mut catalogue, &probe);
    let pinned = catalogue.snapshot();
    assert_eq!(before.withdrawn, 10);
    assert_eq!(catalogue.snapshot().collections()[0].sealed_references_withdrawn, 10);
    let job = catalogue.compaction_job().expect("a quarter of the first segment is withdrawn");
    assert!(catalogue.compaction_job().is_none(), "one at a time");
    // Too late for this job, in time for every search.
    catalogue.withdraw(3, &gallery("people"), &enrolment(7));
    let after = search(&mut catalogue, &probe);
    let compacted = job.run();
    assert_eq!(compacted.reclaimed(), 10);
    assert!(catalogue.compacted(compacted, None));
    assert_eq!(search(&mut catalogue, &probe), after);
    assert_eq!((after.withdrawn, after.compared), (11, 69));
    assert_eq!(pinned.search(std::slice::from_ref(&probe), &|| false), Ok(vec![before]));
    let snapshot = catalogue.snapshot();
    let status = &snapshot.collections()[0];
    assert_eq!((status.sealed_references, status.references_reclaimed), (70, 10));
    assert_eq!(status.sealed_references_withdrawn, 1);
    assert_eq!((snapshot.staged(&gallery("people")), snapshot.live(&gallery("people"))), (80, 69));
    // Whoever was withdrawn is still known: the id is not taken in again.
    catalogue.stage(4, with_face(0, [1.0, 7.0, 3.0, -2.0]));
    assert_eq!(search(&mut catalogue, &probe), after);
}

#[test]
fn a_segment_of_withdrawn_enrolments_alone_goes_away() {
    let mut catalogue = in_short_segments(3, 40, 40);
    let bytes = catalogue.snapshot().collections()[0].memory_bytes;
    (40..80).for_each(|number| catalogue.withdraw(2, &gallery("people"), &enrolment(number)));
    assert_eq!(compact(&mut catalogue), [40]);
    let status = &catalogue.snapshot().collections()[0];
    assert_eq!((status.segments, status.sealed_references, status.references_reclaimed), (2, 80, 40));
    assert_eq!(3 * status.memory_bytes, 2 * bytes);
    let answer = search(&mut catalogue, &face_probe([1.0, 100.0, 3.0, -2.0], -1_000_000));
    assert_eq!((answer.compared, answer.withdrawn, answer.candidates_total), (80, 40, 80));
}

#[test]
fn binary_codes_of_withdrawn_enrolments_are_reclaimed() {
    let mut catalogue = catalogue(ExactEngine, 40);
    let code = |number: u32| StagedReference {
        slot: iris_slot(true),
        spec: IRIS_SPEC,
        template: iris(
            (number.wrapping_mul(40_503) >> 3) as u16,
            if number.is_multiple_of(5) { 0xf000 } else { 0xfff0 },
        ),
    };
    let mut probe = face_probe([1.0; 4], 0);
    let StagedReference { slot, spec, template } = code(3);
    let (threshold, miss_budget_ppb) = (score(500_000), MISS_BUDGET_PPB_DEFAULT);
    probe.references = vec![ProbeReference { slot, spec, template, threshold, miss_budget_ppb }];
    (0..100).for_each(|number| catalogue.stage(1, staged(number, vec![code(number)])));
    (0..100).filter(|number| number % 3 != 0).for_each(|number| {
        catalogue.withdraw(2, &gallery("people"), &enrolment(number));
    });
    let before = search(&mut catalogue, &probe);
    assert!(before.candidates_total > 0 && before.not_comparable > 0);
    // Both closed lists together have room in one.
    assert_eq!(compact(&mut catalogue), [80]);
    assert_eq!(search(&mut catalogue, &probe), before);
    let status = &catalogue.snapshot().collections()[0];
    assert_eq!((status.segments, status.sealed_references, status.references_reclaimed), (1, 27, 53));
}

#[test]
fn a_lost_compaction_changes_nothing_and_leaves_others_their_turn() {
    let mut catalogue = in_short_segments(4, 20, 40);
    let snapshot = catalogue.snapshot();
    let first = catalogue.compaction_job().expect("short segments");
    assert!(!catalogue.compacted(first.ticket().lost("as told"), None));
    assert!(Arc::ptr_eq(&snapshot, &catalogue.snapshot()));
    let next = catalogue.compaction_job().expect("others are short too");
    assert!(!catalogue.compacted(first.run(), None), "its claim was given back");
    assert!(catalogue.compacted(next.run(), None));
    assert_eq!(catalogue.snapshot().collections()[0].segments, 3);
    assert_eq!(compact(&mut catalogue), [40], "what was lost is done later");
    assert_eq!(catalogue.snapshot().collections()[0].segments, 2);
}

#[test]
fn segments_that_are_calibrated_while_they_are_compacted_are_calibrated_after_it() {
    let mut catalogue = in_short_segments(2, 20, 40);
    let policy = Calibration { thresholds: vec![score(1)], ..Calibration::default() };
    let job = catalogue.compaction_job().expect("short segments");
    catalogue.set_calibration(&gallery("people"), face_slot(), policy);
    let mut late = catalogue.seal_jobs();
    assert_eq!(late.len(), 2, "one for each");
    let late = late.pop().expect("two");
    assert!(catalogue.compacted(job.run(), None));
    catalogue.sealed(late.run());
    let status = &catalogue.snapshot().collections()[0];
    assert_eq!((status.segments, status.sealed_references), (1, 40));
    assert_eq!(catalogue.seal_jobs().iter().map(semel_index::SealJob::references).collect::<Vec<_>>(), [40]);
}

#[test]
fn what_waits_for_its_engine_is_not_compacted() {
    let mut catalogue = catalogue(TestEngine(Behaviour::Fails), 40);
    for segment in 0..3 {
        (segment * 10..segment * 10 + 10).for_each(|number| catalogue.stage(1, with_face(number, [1.0; 4])));
        catalogue.close_growing(10);
    }
    assert!(catalogue.compaction_job().is_none(), "they wait");
    let jobs = catalogue.seal_jobs();
    assert!(catalogue.compaction_job().is_none(), "their jobs are out");
    jobs.into_iter().for_each(|job| catalogue.sealed(job.run()));
    assert!(catalogue.compaction_job().is_none(), "their engine has failed");
}

#[test]
#[should_panic(expected = "a staged template conforms to its spec")]
fn a_template_that_breaks_its_spec_stops_the_replica() {
    let template = iris(0, 0xfff0);
    let reference = StagedReference { slot: face_slot(), spec: FACE_SPEC, template };
    catalogue(ExactEngine, 100).stage(1, staged(1, vec![reference]));
}
