//! One shard on a real volume, stopped and started again over files that are whole, gone, damaged or of something else. Whatever
//! happened to them, its answers are those of the exact scan.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use semel_index::{
    CanonicalEmbedding, ComparisonScore, EnrolmentId, GalleryId, KeyVersion, Modality, PolicyVersion, Position,
    ProbeReference, SearchProbe, ShardCount, ShardId, ShardSearch, Slot, StagedEnrolment, StagedReference, Template,
    TemplateSpec,
};
use semel_node_wire::PolicyEngine;
use semel_raft::{ReplicaId, StateMachine as _};
use semel_raft_host::{ClusterId, Database, FreshGroup, GroupConfig, Host, HostConfig, LoopbackTransport};
use semel_shard::{CanonicalReference, Command, ContentDigest, Provenance, ShardMachine, Stage, Withdraw};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::config::TemplatesKept;
use crate::sealing::{Places, Sealer};
use crate::segment_cache::{CacheMetrics, FOLDER, SegmentCache};
use crate::shard_view::ViewPublisher;

const DIMENSION: u32 = 16;
/// No less than what the default engine can be trained on.
const SEAL_AT: usize = 640;
const GROUP: u64 = 0;
const BOTH: [TemplatesKept; 2] = [TemplatesKept::Memory, TemplatesKept::Disk];

fn people() -> GalleryId {
    GalleryId::try_from("people").expect("valid")
}

fn id(number: u32) -> EnrolmentId {
    EnrolmentId::try_from(format!("{:05}", number.wrapping_mul(7_919) % 100_000)).expect("valid")
}

fn slot() -> Slot {
    Slot::new(Modality::Face, Position::Only).expect("exists")
}

/// Everybody of one population is somewhere else.
fn face(population: u32, number: u32) -> CanonicalEmbedding {
    let mut state = (u64::from(population) << 32 | u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let values: Vec<f32> = (0..DIMENSION)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect();
    CanonicalEmbedding::from_f32(&values).expect("valid")
}

fn spec() -> TemplateSpec {
    TemplateSpec::Embedding { dimension: DIMENSION }
}

fn stage(population: u32, number: u32) -> Command {
    Command::Stage(Stage {
        gallery: people(),
        enrolment_id: id(number),
        subject_id: String::new(),
        references: vec![CanonicalReference {
            slot: slot(),
            spec: spec(),
            template: Template::Embedding(face(population, number)),
            quality: None,
            algorithm_id: String::new(),
        }],
        provenance: Provenance::default(),
        policy_version: PolicyVersion(1),
        key_version: KeyVersion(1),
        content_digest: ContentDigest([1; 32]),
        received_at_ms: 0,
    })
}

fn probes(population: u32) -> Vec<SearchProbe> {
    let probe = |number: u32| SearchProbe {
        gallery: people(),
        key_version: KeyVersion(1),
        references: vec![ProbeReference {
            slot: slot(),
            spec: spec(),
            template: Template::Embedding(face(population, number)),
            threshold: ComparisonScore::from_micros(if number.is_multiple_of(3) { 600_000 } else { 800_000 })
                .expect("in range"),
            miss_budget_ppb: 30_000,
        }],
        exclude: Some(id(number + 1)),
        candidates_max: 20,
    };
    (0..1_600).step_by(37).map(probe).collect()
}

fn config() -> CatalogueConfig {
    let engine = crate::engine::engine(if cfg!(feature = "faiss") { "faiss" } else { "exact" }).expect("known");
    CatalogueConfig { seal_at_references: SEAL_AT, engine, ..CatalogueConfig::default() }
}

/// Segments of any length, so that all that is withdrawn can be reclaimed.
fn exact_config() -> CatalogueConfig {
    CatalogueConfig { seal_at_references: SEAL_AT, ..CatalogueConfig::default() }
}

/// A shard that runs.
struct Running {
    config: CatalogueConfig,
    host: Host<ShardMachine>,
    view: Arc<ShardView>,
    files: ShardFiles,
    metrics: Arc<CacheMetrics>,
    store: GroupStore,
    places: Places,
    workers: JoinSet<()>,
}

impl Running {
    async fn start(folder: &Path, templates: TemplatesKept) -> Self {
        Self::start_as(folder, templates, config()).await
    }

    async fn start_as(folder: &Path, templates: TemplatesKept, config: CatalogueConfig) -> Self {
        let mut running = Self::start_without_loading(folder, templates, config).await;
        running.load();
        running
    }

    /// Its catalogue stays empty until [`Self::load`].
    async fn start_without_loading(folder: &Path, templates: TemplatesKept, config: CatalogueConfig) -> Self {
        let database = Database::open(folder, ShardMachine::TABLES).expect("the volume can be opened");
        let cache = SegmentCache::open(&database, templates).expect("the volume has a key");
        let transport = Arc::new(LoopbackTransport::new());
        let tick = Duration::from_millis(10);
        let host_config = HostConfig { tick, ..HostConfig::new(ClusterId([1; 16])) };
        let host = Host::start(host_config, Arc::clone(&database), transport).expect("the host starts");
        let view = ShardView::new(config.clone());
        let replica = ReplicaId::new(1).expect("not 0");
        let group = GroupConfig { group: GROUP, replica, fresh: FreshGroup::Bootstrap { voters: vec![replica] } };
        let machine = ShardMachine::new(ShardId(0), ShardCount::new(1).expect("in range")).expect("a shard");
        let publisher = Box::new(ViewPublisher { view: Arc::clone(&view) });
        host.handle().add_group(group, machine, publisher).await.expect("the group runs");
        let (files, metrics) = (cache.shard(0), Arc::clone(cache.metrics()));
        let (store, places, workers) = (database.group(GROUP), Places::new(2), JoinSet::new());
        Self { config, host, view, files, metrics, store, places, workers }
    }

    fn load(&mut self) {
        let (view, files, config) = (Arc::clone(&self.view), self.files.clone(), self.config.clone());
        self.workers.spawn(load_when_asked(view.clone(), files.clone(), config.clone(), Arc::new(Semaphore::new(2))));
        let (store, places) = (self.store.clone(), self.places.clone());
        self.workers.spawn(Sealer { view, files, store, config, places }.run());
    }

    async fn stop(self) {
        let Self { host, view, files, metrics, store, mut workers, config: _, places: _ } = self;
        workers.shutdown().await;
        host.shutdown().await;
        let volume = files.folder().ancestors().nth(2).expect("a folder in the cache of a volume").to_owned();
        drop((view, files, metrics, store));
        // What still reads rows on other threads lets go of the volume soon.
        until("the volume to be free", || Database::open(&volume, ShardMachine::TABLES).is_ok()).await;
    }

    async fn propose(&self, command: Command) {
        let handle = self.host.handle();
        loop {
            match handle.propose(GROUP, command.encode()).await {
                Ok(_) => return,
                // It has not been elected yet.
                Err(semel_raft::ProposeError::NoLeader) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn stage_all(&self, population: u32, numbers: std::ops::Range<u32>) {
        use futures::StreamExt as _;
        let staged = futures::stream::iter(numbers).map(|number| self.propose(stage(population, number)));
        // One at a time as far as their order counts: the group commits them in batches all the same.
        staged.buffered(64).collect::<Vec<()>>().await;
    }

    async fn withdraw(&self, number: u32) {
        let (gallery, enrolment_id, reason) = (people(), id(number), "asked".to_owned());
        self.propose(Command::Withdraw(Withdraw { gallery, enrolment_id, reason })).await;
    }

    async fn withdraw_all(&self, numbers: &[u32]) {
        use futures::StreamExt as _;
        let withdrawn = futures::stream::iter(numbers).map(|number| self.withdraw(*number));
        withdrawn.buffered(64).collect::<Vec<()>>().await;
    }

    async fn try_answers(&self, population: u32) -> Result<Vec<ShardSearch>, semel_shard::SearchError> {
        let probes = probes(population);
        for probe in &probes {
            self.view.searched_under(&probe.gallery, &probe.references[0]);
        }
        let barrier = loop {
            match self.host.handle().barrier(GROUP).await {
                Ok(barrier) => break barrier,
                Err(semel_raft::BarrierError::NotConfirmed) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        };
        self.view.reached(barrier).await.search(&probes, &|| false)
    }

    async fn answers(&self, population: u32) -> Vec<ShardSearch> {
        self.try_answers(population).await.expect("counts add up, and templates can be read")
    }

    /// Waits until every sealed segment is in a file that the checkpoint names.
    async fn kept(&self, segments: usize) {
        let of = checkpoint_of(0, &self.config);
        until("all segments to be kept", || {
            let stored = self.view.moment().catalogue().stored_segments();
            stored.len() == segments
                && self.files.folder().join("checkpoint").exists()
                && self.files.checkpoint(&of).is_some_and(|checkpoint| checkpoint.segments().eq(stored))
        })
        .await;
    }

    /// Waits until references of so many withdrawn enrolments are reclaimed, and nothing else is worth compacting.
    async fn reclaimed(&self, references: usize) {
        until("references to be reclaimed", || {
            let collections = self.view.moment().catalogue().collections();
            collections.iter().map(|one| one.references_reclaimed).sum::<usize>() == references
        })
        .await;
    }

    fn compactions(&self) -> (u64, u64) {
        let metrics = self.places.compactions();
        (metrics.done.load(Ordering::Relaxed), metrics.failed.load(Ordering::Relaxed))
    }

    fn count(&self, metric: impl Fn(&CacheMetrics) -> u64) -> u64 {
        metric(&self.metrics)
    }

    fn refused(&self) -> u64 {
        self.count(|metrics| metrics.files_refused.load(Ordering::Relaxed))
    }

    fn loaded(&self) -> u64 {
        self.count(|metrics| metrics.segments_loaded.load(Ordering::Relaxed))
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), reached).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

/// What an exact scan of these enrolments answers.
fn exact(population: u32, staged: u32, withdrawn: &[u32]) -> Vec<ShardSearch> {
    let mut catalogue =
        semel_index::Catalogue::new(CatalogueConfig { seal_at_references: usize::MAX, ..CatalogueConfig::default() });
    for number in 0..staged {
        let template = Template::Embedding(face(population, number));
        let references = vec![StagedReference { slot: slot(), spec: spec(), template }];
        let (gallery, enrolment_id, key_version) = (people(), id(number), KeyVersion(1));
        catalogue.stage(1, StagedEnrolment { gallery, enrolment_id, key_version, references });
    }
    withdrawn.iter().for_each(|number| catalogue.withdraw(1, &people(), &id(*number)));
    catalogue.snapshot().search(&probes(population), &|| false).expect("not cancelled")
}

/// A volume with two segments in files, some references after them, and withdrawals before and after the checkpoint.
async fn volume(templates: TemplatesKept) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let running = Running::start(folder.path(), templates).await;
    // Whatever is sealed is calibrated for these from the first.
    running.answers(1).await;
    running.stage_all(1, 0..600).await;
    running.withdraw(37).await;
    running.stage_all(1, 600..1_400).await;
    running.kept(2).await;
    running.withdraw(74).await;
    running.stage_all(1, 1_400..1_500).await;
    running.stop().await;
    folder
}

fn expected() -> Vec<ShardSearch> {
    exact(1, 1_500, &[37, 74])
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join(FOLDER).join("0")).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

fn segments_in(folder: &Path) -> Vec<PathBuf> {
    files_in(folder).into_iter().filter(|path| path.extension().is_some_and(|found| found == "segment")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_segments_from_their_files_and_answers_as_before() {
    for templates in BOTH {
        let folder = volume(templates).await;
        for _ in 0..2 {
            let running = Running::start(folder.path(), templates).await;
            assert_eq!(running.answers(1).await, expected());
            assert_eq!((running.loaded(), running.refused()), (2, 0), "{templates:?}");
            let collections = running.view.moment().catalogue().collections();
            assert_eq!(collections[0].segments_without_engine, 0);
            let bound = 1_500 * (2 * DIMENSION as usize + 64);
            assert_eq!(collections[0].templates_bytes > bound / 3, templates == TemplatesKept::Memory);
            running.stop().await;
        }
    }
}

/// Segments of an engine that a policy named are taken from their files before any policy is known again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_segments_of_a_policys_engine_from_their_files() {
    for templates in BOTH {
        let folder = volume(templates).await;
        let running = Running::start(folder.path(), templates).await;
        assert_eq!(running.answers(1).await, expected());
        let engines = |running: &Running| running.view.moment().catalogue().collections()[0].engines.clone();
        let all_exact = std::collections::BTreeMap::from([("exact".to_owned(), 2)]);
        running.view.governed_by(&people(), &PolicyEngine { version: PolicyVersion(1), engine: "exact".to_owned() });
        until("all segments to be built again", || engines(&running) == all_exact).await;
        assert_eq!(running.answers(1).await, expected());
        running.kept(2).await;
        running.stop().await;

        let running = Running::start(folder.path(), templates).await;
        assert_eq!(running.answers(1).await, expected());
        assert_eq!((running.loaded(), running.refused()), (2, 0), "{templates:?}");
        assert_eq!(engines(&running), all_exact);
        running.stop().await;
    }
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::options().read(true).write(true).open(path).expect("the file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the file is longer");
    file.write_all_at(&[byte[0] ^ 4], at).expect("the file can be written");
}

fn cut(path: &Path) {
    let file = fs::File::options().write(true).open(path).expect("the file can be opened");
    let length = file.metadata().expect("it is open").len();
    file.set_len(length / 2).expect("the file can be cut");
}

/// What is done to a node's files while it does not run.
type Harm = fn(&Path);

const HARMS: &[(&str, Harm)] = &[
    ("all gone", |folder| fs::remove_dir_all(folder.join(FOLDER)).expect("removed")),
    ("a segment gone", |folder| fs::remove_file(&segments_in(folder)[0]).expect("removed")),
    ("a segment's front", |folder| flip(&segments_in(folder)[1], 3)),
    ("a segment's header", |folder| flip(&segments_in(folder)[0], 40)),
    ("a segment's engine", |folder| flip(&segments_in(folder)[1], 900)),
    ("a segment's row", |folder| {
        let path = &segments_in(folder)[0];
        flip(path, fs::metadata(path).expect("there").len() - 500);
    }),
    ("a segment's seal", |folder| {
        let path = &segments_in(folder)[0];
        flip(path, fs::metadata(path).expect("there").len() - 1);
    }),
    ("a segment cut short", |folder| cut(&segments_in(folder)[0])),
    ("an empty segment", |folder| fs::write(&segments_in(folder)[0], "").expect("written")),
    ("segments exchanged", |folder| {
        let segments = segments_in(folder);
        let aside = folder.join("aside");
        fs::rename(&segments[0], &aside).expect("renamed");
        fs::rename(&segments[1], &segments[0]).expect("renamed");
        fs::rename(&aside, &segments[1]).expect("renamed");
    }),
    ("a segment of an older format", |folder| flip(&segments_in(folder)[0], 8)),
    ("the checkpoint gone", |folder| fs::remove_file(folder.join(FOLDER).join("0/checkpoint")).expect("removed")),
    ("the checkpoint damaged", |folder| flip(&folder.join(FOLDER).join("0/checkpoint"), 200)),
    ("the checkpoint cut short", |folder| cut(&folder.join(FOLDER).join("0/checkpoint"))),
    ("a checkpoint of an older format", |folder| flip(&folder.join(FOLDER).join("0/checkpoint"), 8)),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_not_as_written_are_made_again_and_change_no_answer() {
    for templates in BOTH {
        let folder = volume(templates).await;
        for (what, harm) in HARMS {
            assert_eq!(segments_in(folder.path()).len(), 2, "before {what}");
            harm(folder.path());
            let running = Running::start(folder.path(), templates).await;
            assert_eq!(running.answers(1).await, expected(), "{what}");
            assert!(running.loaded() < 2, "{what}");
            running.kept(2).await;
            assert_eq!(running.answers(1).await, expected(), "{what}");
            running.stop().await;
        }
    }
}

/// Segments of a checkpoint that was deleted were once removed without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_no_checkpoint_names_are_counted_as_they_are_removed() {
    let folder = volume(TemplatesKept::Memory).await;
    fs::remove_file(folder.path().join(FOLDER).join("0/checkpoint")).expect("removed");
    let running = Running::start_without_loading(folder.path(), TemplatesKept::Memory, config()).await;
    fs::write(running.files.folder().join("segment.new"), "unfinished").expect("written");
    assert_eq!((running.files.clear(), files_in(folder.path()).len()), (2, 0));
    assert_eq!(running.files.clear(), 0);
    running.stop().await;
}

/// Three fifths of those whose references are in the two sealed segments.
fn withdrawn_before_compaction() -> Vec<u32> {
    (0..1_280).filter(|number| number % 5 < 3).collect()
}

/// A volume whose two segments became one, as three fifths of their references were reclaimed, and the files that it had before.
async fn before_and_after_compaction(templates: TemplatesKept) -> (TempDir, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let running = Running::start_as(folder.path(), templates, exact_config()).await;
    running.stage_all(1, 0..1_400).await;
    running.kept(2).await;
    running.stop().await;
    let before = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&folder.path().join(FOLDER), &before.path().join(FOLDER));
    // All withdrawn before anything can be compacted.
    let mut running = Running::start_without_loading(folder.path(), templates, exact_config()).await;
    let withdrawn = withdrawn_before_compaction();
    running.withdraw_all(&withdrawn).await;
    running.load();
    running.reclaimed(withdrawn.len()).await;
    running.kept(1).await;
    assert_eq!(running.compactions(), (1, 0));
    assert_eq!(running.answers(1).await, exact(1, 1_400, &withdrawn));
    until("what was replaced to be removed", || segments_in(folder.path()).len() == 1).await;
    running.stop().await;
    (folder, before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_from_before_a_compaction_is_still_searched() {
    for templates in BOTH {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let running = Running::start_as(folder.path(), templates, exact_config()).await;
        running.stage_all(1, 0..1_400).await;
        running.kept(2).await;
        let (pinned, files) = (running.view.moment(), segments_in(folder.path()));
        running.withdraw_all(&withdrawn_before_compaction()).await;
        until("what was replaced to be removed", || {
            let now = segments_in(folder.path());
            running.compactions().0 > 0 && files.iter().all(|file| !now.contains(file))
        })
        .await;
        assert_eq!(pinned.search(&probes(1), &|| false), Ok(exact(1, 1_400, &[])));
        assert_eq!(running.answers(1).await, exact(1, 1_400, &withdrawn_before_compaction()));
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_of_withdrawn_enrolments_leave_segments_and_files_and_change_no_answer() {
    for templates in BOTH {
        let (folder, _) = before_and_after_compaction(templates).await;
        let withdrawn = withdrawn_before_compaction();
        let running = Running::start_as(folder.path(), templates, exact_config()).await;
        assert_eq!(running.answers(1).await, exact(1, 1_400, &withdrawn));
        assert_eq!((running.loaded(), running.refused()), (1, 0), "{templates:?}");
        let status = &running.view.moment().catalogue().collections()[0];
        assert_eq!((status.sealed_references, status.references_reclaimed), (512, withdrawn.len()));
        running.stop().await;
        // Without files they are all read from the rows, and reclaimed once more.
        fs::remove_dir_all(folder.path().join(FOLDER)).expect("removed");
        let running = Running::start_as(folder.path(), templates, exact_config()).await;
        assert_eq!(running.answers(1).await, exact(1, 1_400, &withdrawn));
        running.reclaimed(withdrawn.len()).await;
        assert_eq!(running.answers(1).await, exact(1, 1_400, &withdrawn));
        running.stop().await;
    }
}

/// What a crash leaves behind at each step of a compaction, and what a power cut may, as nothing is synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_files_a_compaction_leaves_behind_change_no_answer() {
    let copy = |from: &Path, to: &Path, what: &dyn Fn(&Path) -> bool| {
        files_in(from).iter().filter(|path| what(path)).for_each(|path| {
            let name = path.file_name().expect("a file");
            fs::copy(path, to.join(FOLDER).join("0").join(name)).expect("copied");
        });
    };
    let is_segment = |path: &Path| path.extension().is_some_and(|found| found == "segment");
    for templates in BOTH {
        let (folder, before) = before_and_after_compaction(templates).await;
        let expected = exact(1, 1_400, &withdrawn_before_compaction());
        for (old_checkpoint, old_segments, new_segment, loaded) in [
            // Before the new segment's file; before the checkpoint; before the old files are removed.
            (true, true, false, 2),
            (true, true, true, 2),
            (false, true, true, 1),
            // What came last is on the disk, what came before is not.
            (false, false, false, 0),
            (false, true, false, 0),
            (true, false, true, 0),
        ] {
            let mixed = tempfile::tempdir().expect("a temporary folder");
            copy_folder(folder.path(), mixed.path());
            segments_in(mixed.path()).iter().for_each(|path| fs::remove_file(path).expect("removed"));
            if old_checkpoint {
                copy(before.path(), mixed.path(), &|path| path.ends_with("checkpoint"));
            }
            if old_segments {
                copy(before.path(), mixed.path(), &is_segment);
            }
            if new_segment {
                copy(folder.path(), mixed.path(), &is_segment);
            }
            let running = Running::start_as(mixed.path(), templates, exact_config()).await;
            let what = (old_checkpoint, old_segments, new_segment);
            assert_eq!(running.answers(1).await, expected, "{what:?}");
            assert_eq!(running.loaded(), loaded, "{what:?}");
            running.reclaimed(withdrawn_before_compaction().len()).await;
            assert_eq!(running.answers(1).await, expected, "{what:?}");
            running.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_no_live_segment_is_removed() {
    let folder = volume(TemplatesKept::Memory).await;
    let files = files_in(folder.path());
    let own = folder.path().join(FOLDER).join("0");
    // A crash between write and rename, a segment that no checkpoint names, a shard that was moved away.
    fs::write(own.join("segment.new"), "unfinished").expect("written");
    fs::write(own.join("00000000000000000000000000000000.segment"), "of nobody").expect("written");
    fs::create_dir(folder.path().join(FOLDER).join("17")).expect("created");
    fs::write(folder.path().join(FOLDER).join("17/checkpoint"), "of another shard").expect("written");
    let running = Running::start(folder.path(), TemplatesKept::Memory).await;
    assert_eq!(running.answers(1).await, expected());
    assert_eq!(files_in(folder.path()), files);
    assert!(!folder.path().join(FOLDER).join("17").exists());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_costs_a_warning_and_no_answer() {
    for templates in BOTH {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Nothing can be created in what is no folder, also not by root.
        fs::write(folder.path().join(FOLDER), "in the way").expect("written");
        let running = Running::start(folder.path(), templates).await;
        running.stage_all(1, 0..1_500).await;
        until("a write to fail", || running.count(|metrics| metrics.writes_failed.load(Ordering::Relaxed)) > 0).await;
        assert_eq!(running.answers(1).await, exact(1, 1_500, &[]));
        running.stop().await;
        let running = Running::start(folder.path(), templates).await;
        assert_eq!(running.answers(1).await, exact(1, 1_500, &[]));
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_another_node_are_not_used() {
    let one = volume(TemplatesKept::Memory).await;
    let other = tempfile::tempdir().expect("a temporary folder");
    let running = Running::start(other.path(), TemplatesKept::Memory).await;
    running.stage_all(2, 0..1_500).await;
    running.kept(2).await;
    running.stop().await;
    let aside = one.path().join("aside");
    fs::rename(one.path().join(FOLDER), &aside).expect("renamed");
    fs::rename(other.path().join(FOLDER), one.path().join(FOLDER)).expect("renamed");
    fs::rename(&aside, other.path().join(FOLDER)).expect("renamed");
    for (folder, population, expected) in [(&one, 1, expected()), (&other, 2, exact(2, 1_500, &[]))] {
        let running = Running::start(folder.path(), TemplatesKept::Memory).await;
        assert_eq!(running.answers(population).await, expected);
        assert_eq!((running.loaded(), running.refused()), (0, 1), "the checkpoint's seal is another volume's");
        running.stop().await;
    }
}

/// A volume's rows are put back to what they were, and go on in another way: the files know of enrolments that never were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_another_history_of_the_same_volume_are_not_used() {
    let folder = volume(TemplatesKept::Memory).await;
    let before = tempfile::tempdir().expect("a temporary folder");
    copy_folder(folder.path(), before.path());
    let running = Running::start(folder.path(), TemplatesKept::Memory).await;
    running.stage_all(1, 1_500..2_100).await;
    running.kept(3).await;
    running.stop().await;

    let with_later_files = |go_on: bool| {
        let (before, folder) = (before.path().to_owned(), folder.path().to_owned());
        async move {
            let forked = tempfile::tempdir().expect("a temporary folder");
            copy_folder(&before, forked.path());
            if go_on {
                let running = Running::start(forked.path(), TemplatesKept::Memory).await;
                running.stage_all(9, 1_500..2_110).await;
                running.stop().await;
            }
            fs::remove_dir_all(forked.path().join(FOLDER)).expect("removed");
            copy_folder(&folder.join(FOLDER), &forked.path().join(FOLDER));
            let running = Running::start(forked.path(), TemplatesKept::Memory).await;
            let answers = running.answers(1).await;
            assert_eq!(running.loaded(), 0, "nothing of a checkpoint of another history is used");
            running.stop().await;
            answers
        }
    };
    assert_eq!(with_later_files(false).await, expected());
    let forked = with_later_files(true).await;
    assert_eq!(forked[0].compared + forked[0].withdrawn + forked[0].excluded, 2_110);
    let known: Vec<_> =
        forked.iter().flat_map(|answer| &answer.candidates).map(|one| one.enrolment_id.clone()).collect();
    assert!(!(1_500..1_600).step_by(37).any(|number| known.contains(&id(number))), "those were never enrolled here");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it is there").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_damaged_under_a_running_node_are_read_from_the_rows_again() {
    let folder = volume(TemplatesKept::Disk).await;
    let running = Running::start(folder.path(), TemplatesKept::Disk).await;
    assert_eq!(running.answers(1).await, expected());
    for path in segments_in(folder.path()) {
        // In place, so that the open file is damaged too: every row.
        let length = fs::metadata(&path).expect("there").len();
        let row = u64::from(2 * DIMENSION + 12);
        (1..SEAL_AT as u64).for_each(|number| flip(&path, length - 32 - number * row + 5));
    }
    // No answer is better than a wrong one.
    let unread = running.try_answers(1).await;
    assert!(matches!(unread, Err(semel_shard::SearchError::Unreadable(_))), "{unread:?}");
    running.view.load_again();
    assert_eq!(running.answers(1).await, expected());
    assert_eq!(running.refused(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_votes_and_applies_while_its_catalogue_is_loaded() {
    let folder = volume(TemplatesKept::Memory).await;
    let mut running = Running::start_without_loading(folder.path(), TemplatesKept::Memory, config()).await;
    // More than what is read while the group waits.
    running.stage_all(1, 1_500..1_700).await;
    running.withdraw(111).await;
    let applied = semel_raft::rows::applied(&running.store).expect("the rows can be read");
    running.view.applied(applied).await;
    assert!(!running.view.is_loaded());
    assert_eq!(running.view.moment().searchable_index(), LogIndex(0));
    running.load();
    let answers = running.answers(1).await;
    assert_eq!(answers, exact(1, 1_700, &[37, 74, 111]));
    // Loaded anew, as after its rows were exchanged.
    running.view.load_from(applied, &running.store);
    assert!(!running.view.is_loaded());
    assert_eq!(running.answers(1).await, answers);
    running.stop().await;
}
