//! What a node measures. Names are an API: `docs/metrics.md` lists them, and a test compares.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use semel_proto::internal::v1::command::Command;
use semel_telemetry::{Counter, Families, Monitor, Seconds, Sizes, Timer};

use crate::engine_report;
use crate::recall_audit::RecallAudit;
use crate::replicas::Replicas;
use crate::search::SearchPool;
use crate::segment_cache::CacheMetrics;

/// The instruments of one node.
#[derive(Debug, Default)]
pub(crate) struct NodeMetrics {
    stage: Seconds,
    settle: Seconds,
    other_command: Seconds,
    search: Seconds,
    scan: Seconds,
    probes_per_search: Sizes,
    probes_per_scan: Sizes,
    shard_searches: Counter,
    searches_refused: Counter,
}

impl NodeMetrics {
    /// Starts to measure one command.
    pub(crate) fn command(&self, command: &Command) -> Timer {
        match command {
            Command::Stage(_) => self.stage.start(),
            Command::Settle(_) => self.settle.start(),
            Command::Withdraw(_)
            | Command::OpenCase(_)
            | Command::LinkCase(_)
            | Command::MootCase(_)
            | Command::NoteMoot(_)
            | Command::Discharge(_) => self.other_command.start(),
        }
    }

    /// Starts to measure the search of `probes` probes.
    pub(crate) fn search(&self, probes: usize) -> Timer {
        self.probes_per_search.observe(probes);
        self.search.start()
    }

    /// Notes that a request found no place.
    pub(crate) fn search_refused(&self) {
        self.searches_refused.inc();
    }

    /// Starts to measure one shard's scan for `probes` probes.
    pub(crate) fn scan(&self, probes: usize) -> Timer {
        self.probes_per_scan.observe(probes);
        self.shard_searches.inc_by(probes as u64);
        self.scan.start()
    }

    /// Probes compared with one shard, since the start.
    pub(crate) fn shard_searches(&self) -> u64 {
        self.shard_searches.get()
    }

    /// Shows everything on `monitor`.
    pub(crate) fn show(
        &self,
        monitor: &Monitor,
        replicas: Arc<Replicas>,
        pool: Arc<SearchPool>,
        audit: Arc<RecallAudit>,
    ) {
        let seconds = [
            ("semel_node_stage_seconds", "Time to stage an enrolment in its home shard", &self.stage),
            ("semel_node_settle_seconds", "Time to settle an enrolment in its home shard", &self.settle),
            ("semel_node_other_command_seconds", "Time to apply any other command", &self.other_command),
            (
                "semel_node_search_seconds",
                "Time to answer one search request, barriers and scans included",
                &self.search,
            ),
            ("semel_node_scan_seconds", "Time of one shard's scan on the search pool, all probes together", &self.scan),
        ];
        seconds.into_iter().for_each(|(name, help, seconds)| monitor.seconds(name, help, seconds));
        monitor.sizes("semel_node_probes_per_search", "Probes of one search request", &self.probes_per_search);
        monitor.sizes("semel_node_probes_per_scan", "Probes that shared one scan of a shard", &self.probes_per_scan);
        let counters = [
            ("semel_node_shard_searches_total", "Probes compared with one shard", &self.shard_searches),
            (
                "semel_node_searches_refused_total",
                "Search requests refused because too many waited",
                &self.searches_refused,
            ),
        ];
        counters.into_iter().for_each(|(name, help, counter)| monitor.counter(name, help, counter));
        monitor.collect(move |families| {
            let name = "semel_node_searches_in_flight";
            families.gauges(name, "Search requests that wait or run", "priority", pool.in_flight())?;
            audit.show(families)?;
            catalogues(families, &replicas)?;
            segment_files(families, replicas.cache_metrics())
        });
    }
}

/// What became of the files of catalogues.
fn segment_files(families: &mut Families<'_>, cache: &CacheMetrics) -> fmt::Result {
    let counters = [
        ("semel_segment_files_loaded_total", "Segments taken from their files", &cache.segments_loaded),
        ("semel_segment_files_refused_total", "Files that could not be used and were removed", &cache.files_refused),
        ("semel_segment_files_written_total", "Segments written to files", &cache.segments_written),
        ("semel_segment_files_written_bytes_total", "Bytes of segments and checkpoints written", &cache.bytes_written),
        ("semel_segment_files_writes_failed_total", "Segments and checkpoints not written", &cache.writes_failed),
        ("semel_segment_files_reads_failed_total", "Reads of templates that failed in searches", &cache.reads_failed),
    ];
    counters.into_iter().try_for_each(|(name, help, count)| families.counter(name, help, count.load(Ordering::Relaxed)))
}

/// What all catalogues of the node hold.
fn catalogues(families: &mut Families<'_>, replicas: &Replicas) -> fmt::Result {
    let (mut growing, mut sealed, mut withdrawn, mut reclaimed, mut unbuilt) = (0, 0, 0, 0, 0);
    let (mut unsealed, mut outdated) = (0, 0);
    let (mut templates, mut ordinals, mut engines, mut rolls) = (0, 0, 0, 0);
    let (mut staged, mut live) = (0, 0);
    let mut segments_of = Vec::new();
    for shard in replicas.all() {
        let moment = shard.view.moment();
        let catalogue = moment.catalogue();
        let mut segments = 0;
        for collection in catalogue.collections() {
            growing += collection.growing_references as u64;
            sealed += collection.sealed_references as u64;
            withdrawn += collection.sealed_references_withdrawn as u64;
            reclaimed += collection.references_reclaimed as u64;
            segments += collection.segments as u64;
            unbuilt += collection.segments_without_engine as u64;
            unsealed += engine_report::references_unsealed(&shard.view, &collection) as u64;
            outdated += engine_report::segments_outdated(&shard.view, &collection) as u64;
            templates += collection.templates_bytes as u64;
            ordinals += collection.ordinals_bytes as u64;
            engines += collection.engines_bytes as u64;
        }
        segments_of.push((shard.group().to_string(), segments));
        rolls += catalogue.rolls_bytes() as u64;
        staged += catalogue.galleries().map(|gallery| catalogue.staged(gallery)).sum::<u64>();
        live += catalogue.galleries().map(|gallery| catalogue.live(gallery)).sum::<u64>();
    }
    let references = [("growing", growing), ("sealed", sealed)];
    families.gauges("semel_catalogue_references", "References that are searched here", "segment", references)?;
    let help = "References enough for a sealed segment that are compared one by one because their engine needs more";
    families.gauge("semel_catalogue_unsealed_references", help, unsealed)?;
    let gone = [("sealed", withdrawn), ("reclaimed", reclaimed)];
    let help = "References of withdrawn enrolments, by whether sealed segments still hold them";
    families.gauges("semel_catalogue_withdrawn_references", help, "state", gone)?;
    let enrolments = [("live", live), ("withdrawn", staged - live)];
    families.gauges("semel_catalogue_enrolments", "Enrolments whose references are here", "state", enrolments)?;
    let built = segments_of.iter().map(|(_, segments)| segments).sum::<u64>() - unbuilt;
    let segments = [("built", built), ("exact", unbuilt)];
    families.gauges("semel_catalogue_segments", "Sealed segments; exact ones have no index yet", "state", segments)?;
    let help = "Sealed segments that wait to be built with the engine of their gallery's policy";
    families.gauge("semel_catalogue_outdated_segments", help, outdated)?;
    families.gauges("semel_catalogue_shard_segments", "Sealed segments of a shard", "group", segments_of)?;
    let bytes = [("templates", templates), ("ordinals", ordinals), ("engines", engines), ("rolls", rolls)];
    families.gauges("semel_catalogue_bytes", "Memory of the catalogues", "component", bytes)?;
    let compactions = replicas.compaction_metrics();
    let counters = [
        ("semel_catalogue_compactions_total", "Compactions of sealed segments", &compactions.done),
        ("semel_catalogue_compactions_failed_total", "Compactions that changed nothing", &compactions.failed),
    ];
    counters.into_iter().try_for_each(|(name, help, count)| families.counter(name, help, count.load(Ordering::Relaxed)))
}
