//! For the benchmark only: the view of one shard as a node has it, fed without a group beneath it.

use std::sync::{Arc, Mutex, PoisonError};

use semel_index::{CatalogueConfig, CollectionStatus, SearchProbe, ShardSearch, StagedEnrolment};
use semel_raft::LogIndex;
use semel_raft_host::Publisher as _;
use semel_shard::{Publication, SearchError, Totals};

use crate::shard_view::{ShardView, ViewPublisher};

/// One shard's view. Enrolments are published as a group publishes them, searches see moments, sealing is the caller's.
pub struct MeasuredShard {
    view: Arc<ShardView>,
    /// The last log index, which counts enrolments here.
    applied: Mutex<u64>,
}

impl MeasuredShard {
    /// The view of a shard without enrolments.
    pub fn new(config: CatalogueConfig) -> Self {
        Self { view: ShardView::empty(config), applied: Mutex::default() }
    }

    /// Publishes enrolments of one gallery in one turn of the group. Once it returns, they are acknowledged: every search finds them.
    pub fn enrol(&self, enrolments: impl Iterator<Item = StagedEnrolment>) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let mut publications = Vec::new();
        for StagedEnrolment { gallery, enrolment_id, key_version, references } in enrolments {
            *applied += 1;
            let totals = Totals { staged_total: *applied, withdrawn_total: 0 };
            let staged = Publication::Staged { gallery, enrolment_id, key_version, references, totals };
            publications.push((LogIndex(*applied), vec![staged]));
        }
        ViewPublisher { view: Arc::clone(&self.view) }.publish(LogIndex(*applied), publications);
    }

    /// Searches the latest moment.
    ///
    /// # Errors
    /// [`SearchError`].
    pub fn search(&self, probes: &[SearchProbe]) -> Result<Vec<ShardSearch>, SearchError> {
        self.view.moment().search(probes, &|| false)
    }

    /// Builds the segments that wait for an engine, on this thread; how many.
    pub fn seal(&self) -> usize {
        let jobs = self.view.seal_jobs();
        let count = jobs.len();
        jobs.into_iter().for_each(|job| self.view.sealed(job.run()));
        count
    }

    /// What it holds.
    pub fn collections(&self) -> Vec<CollectionStatus> {
        self.view.moment().catalogue().collections()
    }
}
