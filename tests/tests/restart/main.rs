//! What a restart costs, and what a reference takes of memory: a node as a process, told of enrolments as coordinators tell it.
//!
//! `SEMEL_RESTART_REFERENCES=200000 cargo test --release --test restart -- --nocapture` prints the figures of that many
//! references (`make restart` does); without it the same is done with few.

#[path = "../cluster/binary.rs"]
mod binary;
mod node;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use semel_index::{Catalogue, CatalogueConfig, ShardSearch};
use semel_sandbox::{Sandbox, TemplatesKept, wait_until};

use crate::binary::child_processes;
use crate::node::{DIMENSION, Node, probes, staged};

/// References at which segments are sealed.
const SEAL_AT: usize = 16_384;
const SEAL_AT_OF_FEW: usize = 1_024;
const PROBES: u32 = 64;

fn number(name: &str) -> Option<u32> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, is {text}")))
}

/// How much is measured, and how.
struct Plan {
    references: u32,
    shards: u32,
    seal_at: usize,
    templates: TemplatesKept,
}

impl Plan {
    fn new(templates: TemplatesKept) -> Self {
        let shards = number("SEMEL_RESTART_SHARDS").unwrap_or(1);
        match number("SEMEL_RESTART_REFERENCES") {
            Some(references) => Self { references, shards, seal_at: SEAL_AT, templates },
            None => Self { references: 5_000, shards, seal_at: SEAL_AT_OF_FEW, templates },
        }
    }

    /// The segments of a shard of so many references. Of templates on disk, what has ceased to grow is sealed too, if it is an eighth of
    /// a segment.
    fn segments(&self, references: usize) -> usize {
        let closed = match self.templates {
            TemplatesKept::Memory => false,
            TemplatesKept::Disk => references % self.seal_at >= self.seal_at / 8,
        };
        references / self.seal_at + usize::from(closed)
    }

    /// Whether figures of this size are held against what is promised for 200,000 references.
    fn is_full(&self) -> bool {
        self.references >= 200_000
    }

    async fn start(&self) -> Sandbox {
        let (seal_at, templates) = (self.seal_at, self.templates);
        let builder = Sandbox::builder().mode(child_processes()).nodes(1).replicas(1).shards(self.shards);
        let builder = builder.node_settings(move |node| {
            node.seal_at_references = seal_at;
            node.templates = templates;
        });
        builder.start().await.expect("the cluster starts")
    }
}

/// Resident memory of a process, in bytes.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    1_024 * kib
}

fn segment_files(folder: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(folder.join("segments")).into_iter().flatten().flatten();
    let files = shards.flat_map(|shard| fs::read_dir(shard.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|found| found == "segment")).collect()
}

/// Waits until every segment is in a file, and every checkpoint newer than all of them.
async fn wait_kept(sandbox: &Sandbox, segments: usize) {
    let folder = sandbox.node_folder(0).await.expect("there is a node");
    let kept = wait_until("all segments to be kept", Duration::from_secs(900), || {
        let files = segment_files(&folder);
        let newer = |file: &PathBuf| {
            let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
            let checkpoint = modified(&file.with_file_name("checkpoint"));
            matches!((checkpoint, modified(file)), (Ok(checkpoint), Ok(file)) if checkpoint >= file)
        };
        let named = files.iter().filter(|file| newer(file)).count();
        async move { if named == segments { Ok(()) } else { Err(format!("{named} of {segments}")) } }
    });
    kept.await.unwrap_or_else(|error| panic!("{error}"));
}

/// How long until every shard answers a search, from the start of the process on.
async fn searchable(sandbox: &Sandbox, plan: &Plan) -> (Node, f64) {
    let began = Instant::now();
    sandbox.restart_node(0).await.expect("the node starts");
    let node = Node::connect(sandbox, plan.shards).await;
    let probe = probes(1, plan.references);
    let answered = wait_until("the node to answer searches", Duration::from_secs(600), || node.try_search(&probe));
    answered.await.unwrap_or_else(|error| panic!("{error}"));
    (node, began.elapsed().as_secs_f64())
}

fn exact(references: u32, shards: u32) -> Vec<ShardSearch> {
    let mut catalogue = Catalogue::new(CatalogueConfig::default());
    (0..references).for_each(|number| catalogue.stage(1, staged(number)));
    // One catalogue of all shards: its answers are those of the shards, merged.
    assert!(shards > 0);
    catalogue.snapshot().search(&probes(PROBES, references), &|| false).expect("not cancelled")
}

async fn measure(templates: TemplatesKept) {
    let plan = Plan::new(templates);
    let sandbox = plan.start().await;
    // As empty as it will be full: started on a volume that it knows.
    sandbox.kill_node(0).await.expect("it runs");
    drop(searchable(&sandbox, &plan).await);
    let process = || async { sandbox.node_process_id(0).await.expect("it is a process") };
    let empty = resident(process().await);

    let node = Node::connect(&sandbox, plan.shards).await;
    // The first search says what segments are calibrated for.
    node.try_search(&probes(1, plan.references)).await.expect("an empty node answers");
    let began = Instant::now();
    let by_shard = node.stage_all(plan.references).await;
    let staged_in = began.elapsed().as_secs_f64();
    let segments: usize = by_shard.iter().map(|references| plan.segments(*references)).sum();
    wait_kept(&sandbox, segments).await;
    let kept_in = began.elapsed().as_secs_f64();
    let expected = node::merged(&exact(plan.references, plan.shards));
    assert_eq!(node.search(&probes(PROBES, plan.references)).await, expected, "before the restart");

    sandbox.kill_node(0).await.expect("it runs");
    let (node, from_cache) = searchable(&sandbox, &plan).await;
    let resumed = resident(process().await);
    assert_eq!(node.search(&probes(PROBES, plan.references)).await, expected, "from the files");
    let searched = resident(process().await);

    let folder = sandbox.node_folder(0).await.expect("there is a node");
    let bytes: u64 = segment_files(&folder).iter().map(|path| fs::metadata(path).map_or(0, |found| found.len())).sum();
    sandbox.kill_node(0).await.expect("it runs");
    fs::remove_dir_all(folder.join("segments")).expect("removed");
    let began = Instant::now();
    let (node, from_rows) = searchable(&sandbox, &plan).await;
    assert_eq!(node.search(&probes(PROBES, plan.references)).await, expected, "from the rows");
    wait_kept(&sandbox, segments).await;
    let kept_again = began.elapsed().as_secs_f64();

    let per_reference = |bytes: u64| bytes as f64 / f64::from(plan.references);
    let growth = per_reference(resumed.saturating_sub(empty));
    println!(
        "{} references of {DIMENSION} dimensions in {} shard(s), sealed at {}, templates in {templates:?}\n\
         staged in {staged_in:.1} s, all {segments} segments sealed and kept after {kept_in:.1} s\n\
         restart from the files: searchable after {from_cache:.1} s\n\
         restart without them:   searchable after {from_rows:.1} s, all segments sealed and kept after {kept_again:.1} s\n\
         resident memory: empty {:.1} MB, restarted {:.1} MB, after {PROBES} probes {:.1} MB\n\
         growth {growth:.0} B per reference ({:.0} B after the probes); files {:.0} B per reference",
        plan.references,
        plan.shards,
        plan.seal_at,
        empty as f64 / 1e6,
        resumed as f64 / 1e6,
        searched as f64 / 1e6,
        per_reference(searched.saturating_sub(empty)),
        per_reference(bytes),
    );
    if plan.is_full() {
        assert!(from_cache < 20.0, "searchable from the files after {from_cache:.1} s");
        assert!(from_rows < 90.0, "searchable without the files after {from_rows:.1} s");
        let bound = match templates {
            TemplatesKept::Memory => 1_300.0,
            // 81 of them are the engine's codes.
            TemplatesKept::Disk => 120.0,
        };
        assert!(growth <= bound, "{growth:.0} B per reference, at most {bound} promised");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_answers_as_before_with_templates_in_memory() {
    measure(TemplatesKept::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_answers_as_before_with_templates_on_disk() {
    measure(TemplatesKept::Disk).await;
}
