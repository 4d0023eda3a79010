//! A catalogue that was kept in files and resumed, beside the model and the catalogue that went on: whatever files were lost or
//! damaged, whether templates are held in memory or read, every answer is the same.

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use semel_index::{
    BuildError, Calibration, Catalogue, CatalogueConfig, Checkpoint, CheckpointHeader, CheckpointOf, ComparisonScore,
    EmbeddingRows, Engine, EngineProbe, Engines, EnrolmentId, FoundSegment, GalleryId, KeyVersion,
    MISS_BUDGET_PPB_DEFAULT, OwnEngines, ProbeReference, Proposal, ResumeError, RowReader, SearchProbe, Segment,
    SegmentFile, SegmentHeader, StagedEnrolment, StagedReference, StoreJob, StoreKey, StoredId, StoredParts,
    TemplateSource, Templates, TemplatesUnreadable, Unanswered, UnusableFile, WantedSegment,
};
use support::{FACE_SPEC, IRIS_SPEC, Model, enrolment, face, face_slot, gallery, iris, iris_slot, score};

const KEY: KeyVersion = KeyVersion(1);
const SHARD: u32 = 3;

/// Proposes every row, and keeps the number of them.
#[derive(Debug)]
struct KeepingEngine;

#[derive(Debug)]
struct KeptSegment(u32);

impl Engine for KeepingEngine {
    fn name(&self) -> &str {
        "keeping"
    }

    fn references_min(&self, _dimension: u32) -> usize {
        1
    }

    fn build(&self, rows: Arc<EmbeddingRows>, _calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        Ok(Box::new(KeptSegment(rows.len() as u32)))
    }

    fn restore(&self, _dimension: u32, rows: usize, bytes: &[u8]) -> Result<Box<dyn Segment>, BuildError> {
        assert_eq!(bytes, (rows as u32).to_le_bytes(), "only what was written reaches an engine");
        Ok(Box::new(KeptSegment(rows as u32)))
    }
}

impl Segment for KeptSegment {
    fn engine(&self) -> &str {
        "keeping"
    }

    fn memory_bytes(&self) -> usize {
        4
    }

    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, _budget: u32) -> Vec<Proposal> {
        // Some thresholds have no cut: the exact scan reads templates too, wherever they are.
        let proposal =
            if threshold.micros() % 2 == 0 { Proposal::ScanExactly } else { Proposal::Rows((0..self.0).collect()) };
        probes.iter().map(|_| proposal.clone()).collect()
    }

    fn is_calibrated(&self, _calibration: &Calibration) -> bool {
        true
    }

    fn to_bytes(&self) -> Result<Option<Vec<u8>>, BuildError> {
        Ok(Some(self.0.to_le_bytes().to_vec()))
    }
}

fn config(seal_at_references: usize) -> CatalogueConfig {
    CatalogueConfig { seal_at_references, engine: Arc::new(KeepingEngine), ..CatalogueConfig::default() }
}

fn of() -> CheckpointOf {
    CheckpointOf { shard: SHARD, parameters: "as here".to_owned() }
}

fn header(searchable_index: u64) -> CheckpointHeader {
    CheckpointHeader { of: of(), searchable_index, withdrawn_up_to: 0, history: (0, [0; 32]) }
}

/// A disk in memory.
#[derive(Debug, Clone)]
struct Files {
    key: StoreKey,
    segments: BTreeMap<StoredId, Arc<Vec<u8>>>,
    in_memory: bool,
    refused: usize,
}

struct Bytes(Arc<Vec<u8>>, RowReader);

impl fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Bytes({})", self.0.len())
    }
}

impl TemplateSource for Bytes {
    fn read(&self, rows: Range<usize>, take: &mut dyn FnMut(&[i16], u32)) -> Result<(), TemplatesUnreadable> {
        let (from, to) = (self.1.row_at(rows.start) as usize, self.1.row_at(rows.end) as usize);
        let unreadable = |error: UnusableFile| TemplatesUnreadable { reason: error.to_string() };
        let bytes = self.0.get(from..to).ok_or(UnusableFile::Short).map_err(unreadable)?;
        self.1.read(rows.start, bytes, take).map_err(unreadable)
    }
}

impl Files {
    fn new(in_memory: bool) -> Self {
        Self { key: StoreKey::new([7; 32]), segments: BTreeMap::new(), in_memory, refused: 0 }
    }

    /// Reads a file in pieces of a length that fits nothing.
    fn read(&self, header: &SegmentHeader, id: StoredId, bytes: &Arc<Vec<u8>>) -> Result<FoundSegment, UnusableFile> {
        let mut file = SegmentFile::new(&self.key, header, self.in_memory);
        bytes.chunks(37).try_for_each(|piece| file.push(piece))?;
        let parts = file.finish(id)?;
        let engine = parts.engine.expect("this engine keeps its segments");
        let segment = KeepingEngine.restore(header.dimension, header.rows as usize, &engine).expect("restored");
        let templates = match parts.rows {
            Some(rows) => Templates::InMemory(Arc::new(rows)),
            None => Templates::Elsewhere(Arc::new(Bytes(Arc::clone(bytes), parts.reader))),
        };
        Ok(FoundSegment { segment: Some(Arc::from(segment)), templates })
    }

    /// Seals and keeps all that waits for it.
    fn keep(&mut self, catalogue: &mut Catalogue) {
        loop {
            let jobs = catalogue.seal_jobs();
            if jobs.is_empty() {
                break;
            }
            jobs.into_iter().for_each(|job| catalogue.sealed(job.run()));
        }
        while let Some(mut job) = catalogue.store_job(SHARD) {
            let (id, templates) = self.write(&mut job);
            assert!(catalogue.stored(&job.ticket(), id, templates));
        }
    }

    fn write(&mut self, job: &mut StoreJob) -> (StoredId, Option<Templates>) {
        let mut bytes = Vec::new();
        let written = job.write(&self.key, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, std::convert::Infallible>(())
        });
        let (id, bytes) = (written.expect("written"), Arc::new(bytes));
        let templates = self.read(job.header(), id, &bytes).expect("what was written can be read").templates;
        self.segments.insert(id, bytes);
        (id, (!self.in_memory).then_some(templates))
    }

    /// Compacts all that is worth it; new segments are kept at once, or wait to be.
    fn compact(&mut self, catalogue: &mut Catalogue, kept_at_once: bool) {
        while let Some(job) = catalogue.compaction_job() {
            let compacted = job.run();
            let job = compacted.store_job(SHARD).filter(|_| kept_at_once);
            let kept = job.map(|mut job| self.write(&mut job));
            assert!(catalogue.compacted(compacted, kept));
        }
    }
}

/// The references as rows would have them, and the files.
struct Parts<'a> {
    files: &'a mut Files,
    staged: &'a BTreeMap<(GalleryId, EnrolmentId), StagedEnrolment>,
    read: usize,
}

impl StoredParts for Parts<'_> {
    type Error = &'static str;

    fn segment(&mut self, wanted: &WantedSegment) -> Option<FoundSegment> {
        let bytes = self.files.segments.get(&wanted.id).cloned();
        let found = bytes.and_then(|bytes| self.files.read(&wanted.header, wanted.id, &bytes).ok());
        self.files.refused += usize::from(found.is_none());
        found
    }

    fn references(
        &mut self,
        gallery: &GalleryId,
        enrolment: &EnrolmentId,
    ) -> Result<Vec<StagedReference>, &'static str> {
        self.read += 1;
        let staged = self.staged.get(&(gallery.clone(), enrolment.clone()));
        staged.map(|staged| staged.references.clone()).ok_or("no such enrolment")
    }
}

fn any_enrolments() -> impl Strategy<Value = Vec<StagedEnrolment>> {
    let component = || prop::sample::select(vec![-1.0_f32, 0.5, 1.0]);
    let of_four = [component(), component(), component(), component()].prop_map(|values| face(&values));
    let code = prop::sample::select(vec![0b1010_1100_0111_u16 << 4, 0b0101_1000_1110 << 4]);
    let one = (prop::option::weighted(0.8, of_four), prop::option::weighted(0.3, code), any::<bool>(), 0_u8..6);
    prop::collection::vec(one, 0..80).prop_map(|drawn| {
        let enrolled = drawn.into_iter().enumerate().map(|(number, (values, code, first, rare))| {
            let face = values.map(|template| StagedReference { slot: face_slot(), spec: FACE_SPEC, template });
            let code = code.map(|code| StagedReference {
                slot: iris_slot(true),
                spec: IRIS_SPEC,
                template: iris(code, 0xfff0),
            });
            StagedEnrolment {
                gallery: gallery(if first { "people" } else { "voices" }),
                enrolment_id: enrolment(number as u32),
                key_version: if rare == 0 { KeyVersion(2) } else { KEY },
                references: face.into_iter().chain(code).collect(),
            }
        });
        enrolled.collect()
    })
}

fn probes() -> Vec<SearchProbe> {
    let probe = |name: &str, values: &[f32], threshold: i32| SearchProbe {
        gallery: gallery(name),
        key_version: KEY,
        references: vec![
            ProbeReference {
                slot: face_slot(),
                spec: FACE_SPEC,
                template: face(values),
                threshold: score(threshold),
                miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT,
            },
            ProbeReference {
                slot: iris_slot(true),
                spec: IRIS_SPEC,
                template: iris(0b1010_1100_0111 << 4, 0xfff0),
                threshold: score(900_000),
                miss_budget_ppb: MISS_BUDGET_PPB_DEFAULT,
            },
        ],
        exclude: Some(enrolment(1)),
        candidates_max: 7,
    };
    vec![
        probe("people", &[1.0, 0.5, -1.0, 1.0], 700_001),
        probe("people", &[0.5, 0.5, 1.0, 1.0], -1_000_000),
        probe("voices", &[1.0, 1.0, 1.0, 1.0], 900_001),
        probe("voices", &[-1.0, 0.5, 1.0, 0.5], 0),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    None,
    Flip,
    Cut,
    Lose,
    Exchange,
}

fn damage(files: &mut Files, damage: Damage, at: prop::sample::Index) {
    if files.segments.is_empty() {
        return;
    }
    let id = *files.segments.keys().nth(at.index(files.segments.len())).expect("an index within");
    let mut bytes = Vec::clone(&files.segments[&id]);
    match damage {
        Damage::None => {}
        Damage::Flip => {
            let bit = at.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Damage::Cut => bytes.truncate(at.index(bytes.len())),
        Damage::Lose => {
            files.segments.remove(&id);
            return;
        }
        Damage::Exchange => bytes = Vec::clone(files.segments.values().next().expect("not empty")),
    }
    files.segments.insert(id, Arc::new(bytes));
}

fn stage_all(catalogue: &mut Catalogue, model: &mut Model, enrolments: &[StagedEnrolment], from: u64) {
    for (index, enrolment) in (from..).zip(enrolments) {
        model.stage(index, enrolment);
        catalogue.stage(index, enrolment.clone());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_resumed_catalogue_answers_as_the_one_that_went_on(
        enrolments in any_enrolments(),
        withdrawn in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        compacts in prop::option::of(any::<bool>()),
        kept_until in any::<prop::sample::Index>(),
        seal_at in prop::sample::select(vec![1_usize, 4, 9]),
        quiet_at in any::<prop::sample::Index>(),
        close_at in 1_usize..9,
        in_memory in any::<bool>(),
        harm in prop::sample::select(vec![Damage::None, Damage::Flip, Damage::Cut, Damage::Lose, Damage::Exchange]),
        at in any::<prop::sample::Index>(),
    ) {
        let kept_until = kept_until.index(enrolments.len() + 1);
        let mut files = Files::new(in_memory);
        let (mut catalogue, mut model) = (Catalogue::new(config(seal_at)), Model::default());
        let quiet_at = quiet_at.index(kept_until + 1);
        stage_all(&mut catalogue, &mut model, &enrolments[..quiet_at], 1);
        catalogue.close_growing(close_at);
        stage_all(&mut catalogue, &mut model, &enrolments[quiet_at..kept_until], 1 + quiet_at as u64);
        let gone: Vec<&StagedEnrolment> = withdrawn.iter().filter(|_| !enrolments.is_empty()).map(|at| at.get(&enrolments)).collect();
        let (before, after) = gone.split_at(gone.len() / 2);
        let withdraw = |catalogue: &mut Catalogue, model: &mut Model, gone: &[&StagedEnrolment]| {
            for one in gone {
                model.withdraw(0, &one.gallery, &one.enrolment_id);
                catalogue.withdraw(0, &one.gallery, &one.enrolment_id);
            }
        };
        withdraw(&mut catalogue, &mut model, before);
        files.keep(&mut catalogue);
        let pinned = (catalogue.snapshot(), probes().iter().map(|probe| model.search(probe)).collect::<Vec<_>>());
        if let Some(kept_at_once) = compacts {
            files.compact(&mut catalogue, kept_at_once);
        }
        let snapshot = catalogue.snapshot();
        let index = snapshot.searchable_index();
        let checkpoint = snapshot.checkpoint(&files.key, &header(index));
        // Those behind one that is not kept are built again.
        let named = if compacts == Some(false) { None } else { Some(snapshot.stored_segments().len()) };
        damage(&mut files, harm, at);

        let checkpoint = Checkpoint::decode(&files.key, &of(), &checkpoint).expect("as written");
        prop_assert_eq!(checkpoint.header(), &header(index));
        prop_assert!(named.is_none_or(|named| checkpoint.segments().count() == named));
        let mut parts = Parts { files: &mut files, staged: &model.staged, read: 0 };
        let mut resumed = Catalogue::resume(config(seal_at), &checkpoint, &mut parts).expect("of these references");
        let read = parts.read;
        if files.refused == 0 && compacts != Some(false) && enrolments.iter().all(|one| one.references.iter().all(|one| one.slot == face_slot())) {
            prop_assert!(read <= 4 * seal_at, "{read} read: what kept segments hold is not read again");
        }
        prop_assert_eq!(resumed.searchable_index(), index);
        // Seals whatever was not kept, and goes on as the other one does.
        files.keep(&mut resumed);
        let mut twin = model.clone();
        stage_all(&mut resumed, &mut twin, &enrolments[kept_until..], 1 + kept_until as u64);
        stage_all(&mut catalogue, &mut model, &enrolments[kept_until..], 1 + kept_until as u64);
        withdraw(&mut resumed, &mut twin, after);
        withdraw(&mut catalogue, &mut model, after);
        if compacts.is_some() {
            files.compact(&mut resumed, false);
        }
        let expected: Vec<_> = probes().iter().map(|probe| model.search(probe)).collect();
        prop_assert_eq!(&pinned.0.search(&probes(), &|| false).expect("answers"), &pinned.1);
        prop_assert_eq!(&catalogue.snapshot().search(&probes(), &|| false).expect("answers"), &expected);
        prop_assert_eq!(&resumed.snapshot().search(&probes(), &|| false).expect("answers"), &expected);
        // What is kept of the resumed one is as good.
        files.keep(&mut resumed);
        let again = resumed.snapshot().checkpoint(&files.key, &header(9));
        let again = Checkpoint::decode(&files.key, &of(), &again).expect("as written");
        files.refused = 0;
        let mut parts = Parts { files: &mut files, staged: &model.staged, read: 0 };
        let mut again = Catalogue::resume(config(seal_at), &again, &mut parts).expect("of these references");
        prop_assert_eq!(&again.snapshot().search(&probes(), &|| false).expect("answers"), &expected);
        prop_assert_eq!(files.refused, 0);
    }
}

/// Faces of one gallery in segments of four, kept in files.
fn kept(in_memory: bool) -> (Catalogue, Files, Model) {
    let mut files = Files::new(in_memory);
    let (mut catalogue, mut model) = (Catalogue::new(config(4)), Model::default());
    let enrolments: Vec<_> = (0..10_u32)
        .map(|number| StagedEnrolment {
            gallery: gallery("people"),
            enrolment_id: enrolment(number),
            key_version: KEY,
            references: vec![StagedReference {
                slot: face_slot(),
                spec: FACE_SPEC,
                template: face(&[1.0, number as f32, 0.5, -1.0]),
            }],
        })
        .collect();
    stage_all(&mut catalogue, &mut model, &enrolments, 1);
    files.keep(&mut catalogue);
    (catalogue, files, model)
}

#[test]
fn every_flipped_bit_of_a_segments_file_is_noticed() {
    let (_, files, _) = kept(true);
    let (id, whole) = files.segments.iter().next().expect("two segments");
    let header = SegmentHeader::of_file(whole).expect("as written");
    assert!(files.read(&header, *id, whole).is_ok());
    for bit in 0..8 * whole.len() {
        let mut bytes = Vec::clone(whole);
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(files.read(&header, *id, &Arc::new(bytes)).is_err(), "bit {bit}");
    }
    for len in 0..whole.len() {
        let bytes = Arc::new(whole[..len].to_vec());
        assert_eq!(files.read(&header, *id, &bytes).map(drop), Err(UnusableFile::Short), "{len} bytes");
    }
    let long = Arc::new([&whole[..], &[0]].concat());
    assert_eq!(files.read(&header, *id, &long).map(drop), Err(UnusableFile::Long));
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let (mut catalogue, files, _) = kept(true);
    let whole = catalogue.snapshot().checkpoint(&files.key, &header(10));
    Checkpoint::decode(&files.key, &of(), &whole).expect("as written");
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Checkpoint::decode(&files.key, &of(), &bytes).is_err(), "bit {bit}");
    }
    assert!((0..whole.len()).all(|len| Checkpoint::decode(&files.key, &of(), &whole[..len]).is_err()));
}

#[test]
fn files_of_something_else_are_refused_by_name() {
    let (mut catalogue, files, _) = kept(true);
    let (id, bytes) = files.segments.iter().next().expect("two segments");
    let header_of = SegmentHeader::of_file(bytes).expect("as written");
    let check = |change: &dyn Fn(&mut SegmentHeader), field| {
        let mut header = header_of.clone();
        change(&mut header);
        assert_eq!(files.read(&header, *id, bytes).map(drop), Err(UnusableFile::Other { field }));
    };
    check(&|header| header.shard += 1, "shard");
    check(&|header| header.gallery = gallery("voices"), "gallery");
    check(&|header| header.key_version = KeyVersion(2), "key version");
    check(&|header| header.slot = iris_slot(true), "slot");
    check(&|header| header.engine = "keeping 2".to_owned(), "engine");
    check(&|header| header.rows += 1, "number of rows");
    check(&|header| header.enrolments[0] ^= 1, "set of enrolments");
    // Another volume's key, another segment of the same kind, another version of the format.
    let foreign = Files { key: StoreKey::new([8; 32]), ..files.clone() };
    assert_eq!(foreign.read(&header_of, *id, bytes).map(drop), Err(UnusableFile::Seal));
    let other = *files.segments.keys().nth(1).expect("two segments");
    assert_eq!(files.read(&header_of, other, bytes).map(drop), Err(UnusableFile::AnotherFile));
    let mut older = Vec::clone(bytes);
    older[8] = 0;
    assert_eq!(
        files.read(&header_of, *id, &Arc::new(older)).map(drop),
        Err(UnusableFile::Format { found: 0, reads: 1 })
    );

    let whole = catalogue.snapshot().checkpoint(&files.key, &header(10));
    let decode = |key: &StoreKey, of: &CheckpointOf| Checkpoint::decode(key, of, &whole).map(drop);
    assert_eq!(decode(&foreign.key, &of()), Err(UnusableFile::Seal));
    let settings = CheckpointOf { parameters: "as there".to_owned(), ..of() };
    assert_eq!(decode(&files.key, &settings), Err(UnusableFile::Other { field: "set of settings" }));
    let shard = CheckpointOf { shard: 4, ..of() };
    assert_eq!(decode(&files.key, &shard), Err(UnusableFile::Other { field: "shard" }));
}

#[test]
fn a_checkpoint_of_other_rows_is_refused() {
    let (mut catalogue, mut files, mut model) = kept(true);
    let whole = catalogue.snapshot().checkpoint(&files.key, &header(10));
    let checkpoint = Checkpoint::decode(&files.key, &of(), &whole).expect("as written");
    // The growing part is read: an enrolment that is there without its face is not the one that was.
    let last = model.staged.values_mut().last().expect("ten");
    last.references.clear();
    model.staged.values_mut().for_each(|one| one.references.clear());
    let mut parts = Parts { files: &mut files, staged: &model.staged, read: 0 };
    let refused = Catalogue::resume(config(4), &checkpoint, &mut parts).map(drop);
    assert_eq!(refused, Err(ResumeError::OtherRows { reason: "a reference is not there" }));
}

/// The engine of a policy, beside the one of the settings.
#[derive(Debug)]
struct OtherEngine;

impl Engine for OtherEngine {
    fn name(&self) -> &str {
        "other"
    }

    fn references_min(&self, dimension: u32) -> usize {
        KeepingEngine.references_min(dimension)
    }

    fn build(&self, rows: Arc<EmbeddingRows>, calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        KeepingEngine.build(rows, calibration)
    }
}

#[derive(Debug)]
struct WithOther;

impl Engines for WithOther {
    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>> {
        (name == "other").then(|| Arc::new(OtherEngine) as Arc<dyn Engine>)
    }
}

#[test]
fn kept_segments_name_their_engine_whatever_the_settings_say() {
    let (mut catalogue, mut files, model) = kept(true);
    catalogue.set_engine(&gallery("people"), Arc::new(OtherEngine));
    let expected: Vec<_> = probes().iter().map(|probe| model.search(probe)).collect();
    catalogue.seal_jobs().into_iter().for_each(|job| catalogue.sealed(job.run()));
    let before = catalogue.snapshot().checkpoint(&files.key, &header(10));
    assert_eq!(decoded(&files, &before).segments().count(), 0, "a segment that is not written is not named");
    files.keep(&mut catalogue);
    let written = catalogue.snapshot().checkpoint(&files.key, &header(10));
    let checkpoint = decoded(&files, &written);
    assert_eq!(checkpoint.segments().count(), 2);
    for (engines, read) in [(Arc::new(WithOther) as Arc<dyn Engines>, 2), (Arc::new(OwnEngines), 10)] {
        files.refused = 0;
        let mut parts = Parts { files: &mut files, staged: &model.staged, read: 0 };
        let config = CatalogueConfig { engines, ..config(4) };
        let mut resumed = Catalogue::resume(config, &checkpoint, &mut parts).expect("of these references");
        assert_eq!((parts.read, parts.files.refused), (read, 0));
        assert_eq!(resumed.snapshot().search(&probes(), &|| false).expect("answers"), expected);
        // Until its policy is known, the settings' engine builds what is missing.
        assert_eq!(resumed.seal_jobs().is_empty(), read == 2);
        if read == 2 {
            let policy = Calibration { thresholds: vec![score(500_000)], ..Calibration::default() };
            resumed.set_calibration(&gallery("people"), face_slot(), policy);
            assert!(resumed.seal_jobs().is_empty(), "a threshold alone changes no engine");
            resumed.set_engine(&gallery("people"), Arc::new(KeepingEngine));
            assert_eq!(resumed.seal_jobs().len(), 2);
        }
    }
}

fn decoded(files: &Files, bytes: &[u8]) -> Checkpoint {
    Checkpoint::decode(&files.key, &of(), bytes).expect("as written")
}

#[test]
fn templates_damaged_where_they_are_read_leave_the_search_unanswered() {
    let (mut catalogue, mut files, model) = kept(false);
    let whole = catalogue.snapshot().checkpoint(&files.key, &header(10));
    let checkpoint = Checkpoint::decode(&files.key, &of(), &whole).expect("as written");
    #[derive(Debug)]
    struct Damaged(Arc<dyn TemplateSource>);
    impl TemplateSource for Damaged {
        fn read(&self, rows: Range<usize>, take: &mut dyn FnMut(&[i16], u32)) -> Result<(), TemplatesUnreadable> {
            if rows.contains(&2) {
                return Err(TemplatesUnreadable { reason: "bad sector".to_owned() });
            }
            self.0.read(rows, take)
        }
    }
    struct DamagedParts<'a>(Parts<'a>);
    impl StoredParts for DamagedParts<'_> {
        type Error = &'static str;
        fn segment(&mut self, wanted: &WantedSegment) -> Option<FoundSegment> {
            let found = self.0.segment(wanted)?;
            let Templates::Elsewhere(source) = found.templates else { panic!("not in memory") };
            Some(FoundSegment { templates: Templates::Elsewhere(Arc::new(Damaged(source))), ..found })
        }
        fn references(&mut self, gallery: &GalleryId, id: &EnrolmentId) -> Result<Vec<StagedReference>, &'static str> {
            self.0.references(gallery, id)
        }
    }
    let mut parts = DamagedParts(Parts { files: &mut files, staged: &model.staged, read: 0 });
    let mut resumed = Catalogue::resume(config(4), &checkpoint, &mut parts).expect("of these references");
    let unreadable = TemplatesUnreadable { reason: "bad sector".to_owned() };
    let answered = resumed.snapshot().search(&probes(), &|| false);
    assert_eq!(answered, Err(Unanswered::Unreadable(unreadable)));
}
