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
use semel_raft::{ReplicaId, StateMachine as _};
use semel_raft_host::{ClusterId, Database, FreshGroup, GroupConfig, Host, HostConfig, LoopbackTransport};
use semel_shard::{CanonicalReference, Command, ContentDigest, Provenance, ShardMachine, Stage, Withdraw};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::config::TemplatesKept;
use crate::sealing::{Places, Sealer, WRITES_AT_ONCE};
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

/// A shard that runs.
struct Running {
    host: Host<ShardMachine>,
    view: Arc<ShardView>,
    files: ShardFiles,
    metrics: Arc<CacheMetrics>,
    store: GroupStore,
    workers: JoinSet<()>,
}

impl Running {
    async fn start(folder: &Path, templates: TemplatesKept) -> Self {
        let mut running = Self::start_without_loading(folder, templates).await;
        running.load();
        running
    }

    /// Its catalogue stays empty until [`Self::load`].
    async fn start_without_loading(folder: &Path, templates: TemplatesKept) -> Self {
        let database = Database::open(folder, ShardMachine::TABLES).expect("the volume can be opened");
        let cache = SegmentCache::open(&database, templates).expect("the volume has a key");
        let transport = Arc::new(LoopbackTransport::new());
        let tick = Duration::from_millis(10);
        let host_config = HostConfig { tick, ..HostConfig::new(ClusterId([1; 16])) };
        let host = Host::start(host_config, Arc::clone(&database), transport).expect("the host starts");
        let view = ShardView::new(config());
        let replica = ReplicaId::new(1).expect("not 0");
        let group = GroupConfig { group: GROUP, replica, fresh: FreshGroup::Bootstrap { voters: vec![replica] } };
        let machine = ShardMachine::new(ShardId(0), ShardCount::new(1).expect("in range")).expect("a shard");
        let publisher = Box::new(ViewPublisher { view: Arc::clone(&view) });
        host.handle().add_group(group, machine, publisher).await.expect("the group runs");
        let (files, metrics) = (cache.shard(0), Arc::clone(cache.metrics()));
        Self { host, view, files, metrics, store: database.group(GROUP), workers: JoinSet::new() }
    }

    fn load(&mut self) {
        let places = Places { sealing: Arc::new(Semaphore::new(2)), writing: Arc::new(Semaphore::new(WRITES_AT_ONCE)) };
        let (view, files) = (Arc::clone(&self.view), self.files.clone());
        self.workers.spawn(load_when_asked(view.clone(), files.clone(), config(), Arc::new(Semaphore::new(2))));
        self.workers.spawn(Sealer { view, files, store: self.store.clone(), config: config(), places }.run());
    }

    async fn stop(self) {
        let Self { host, view, files, metrics, store, mut workers } = self;
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
        let of = checkpoint_of(0, &config());
        until("all segments to be kept", || {
            let stored: usize =
                self.view.moment().catalogue().collections().iter().map(|one| one.segments_stored).sum();
            stored == segments
                && self.files.folder().join("checkpoint").exists()
                && self.files.checkpoint(&of).is_some_and(|checkpoint| checkpoint.segments().count() == segments)
        })
        .await;
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
    let mut running = Running::start_without_loading(folder.path(), TemplatesKept::Memory).await;
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
