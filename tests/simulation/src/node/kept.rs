//! Files that a node keeps of its catalogues beside its rows: sealed segments, and a checkpoint for each shard. When they are written and
//! read is as in the product's node; what is in them, and whether it is believed, is the cores'. They are never synced and may rot.

use std::convert::Infallible;

use semel_index::{
    CatalogueConfig, Checkpoint, CheckpointHeader, CheckpointOf, CompactionJob, FoundSegment, SegmentFile, ShardId,
    StoreJob, StoreKey, StoredId, Templates, UnusableFile, WantedSegment,
};
use semel_raft::LogIndex;
use semel_shard::SearchView;

use super::Run;
use crate::disk::{DiskError, SharedDisk};
use crate::world::World;

/// The name of a shard's checkpoint.
const CHECKPOINT: &str = "checkpoint";

/// A checkpoint that is to be written once the view has come as far as the rows were.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeping {
    applied: LogIndex,
    withdrawn_up_to: u64,
}

impl Run {
    /// Writes the segments that are not kept, and notes that a checkpoint is to name them.
    pub(super) fn keep_segments(&mut self, world: &mut World, group: u64) {
        let (key, disk) = (self.key(), self.disk());
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let mut kept = false;
        while let Some(mut job) = hosted.view.catalogue().store_job(shard(group).0) {
            match write_segment(&key, &disk, group, &mut job) {
                Ok(id) => kept |= hosted.view.catalogue().stored(&job.ticket(), id, None),
                Err(_) => {
                    hosted.view.catalogue().not_stored(&job.ticket());
                    break;
                }
            }
        }
        if kept {
            self.want_checkpoint(world, group);
        }
    }

    /// Compacts segments: what is left of them is written before it is searched, then a checkpoint that names it.
    pub(super) fn compacted(&mut self, world: &mut World, group: u64, job: CompactionJob) {
        let (key, disk) = (self.key(), self.disk());
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let mut compacted = job.run();
        let mut file = None;
        if let Some(mut job) = compacted.store_job(shard(group).0) {
            match write_segment(&key, &disk, group, &mut job) {
                Ok(id) => file = Some((id, None)),
                Err(_) => compacted = compacted.ticket().lost("its file is not written"),
            }
        }
        let reclaimed = compacted.reclaimed() as u64;
        if hosted.view.catalogue().compacted(compacted, file) {
            world.tally.compactions += 1;
            world.tally.references_reclaimed += reclaimed;
            self.want_checkpoint(world, group);
        }
    }

    /// Notes that a checkpoint is to name what is in files now.
    fn want_checkpoint(&mut self, world: &mut World, group: u64) {
        let rows = self.host.rows(group);
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        // Read before the view's moment is pinned, so that every withdrawal up to there is in it.
        let applied = semel_raft::rows::applied(&rows);
        if let (Ok(applied), Ok((withdrawn_up_to, _))) = (applied, semel_shard::history(&rows)) {
            hosted.keeping = Some(Keeping { applied, withdrawn_up_to });
            self.write_checkpoint(world, group);
        }
    }

    /// Writes the checkpoint that is wanted, once the view has come far enough.
    pub(super) fn write_checkpoint(&mut self, world: &mut World, group: u64) {
        let (key, disk, rows) = (self.key(), self.disk(), self.host.rows(group));
        let Some(hosted) = self.shards.get_mut(&group) else { return };
        let Some(Keeping { applied, withdrawn_up_to }) = hosted.keeping else { return };
        let moment = hosted.view.moment();
        if moment.searchable_index() < applied {
            return;
        }
        hosted.keeping = None;
        // Read after the moment, so that all of it is bound to the history.
        let Ok((entries, chain)) = semel_shard::history(&rows) else { return };
        let header = CheckpointHeader {
            of: checkpoint_of(group),
            searchable_index: moment.searchable_index().0,
            withdrawn_up_to,
            history: (entries, chain.0),
        };
        let checkpoint = moment.catalogue().checkpoint(&key, &header);
        let mut disk = disk.borrow_mut();
        if disk.write_file(group, CHECKPOINT, checkpoint).is_ok() {
            world.tally.checkpoints += 1;
            let named: Vec<String> = moment.catalogue().stored_segments().iter().map(ToString::to_string).collect();
            disk.remove_files(group, |name| name != CHECKPOINT && !named.iter().any(|kept| kept == name));
        }
    }

    /// The view as the kept files have it, if they can be used.
    pub(super) fn resumed(
        &self,
        world: &mut World,
        group: u64,
        applied: LogIndex,
        config: &CatalogueConfig,
    ) -> Option<SearchView> {
        let (key, disk) = (self.key(), self.disk());
        let file = |name: &str| disk.borrow().file(group, name);
        let checkpoint = match Checkpoint::decode(&key, &checkpoint_of(group), &file(CHECKPOINT)?) {
            Ok(checkpoint) => checkpoint,
            Err(_) => {
                world.tally.kept_files_refused += 1;
                return None;
            }
        };
        let (mut taken, mut refused) = (0, 0);
        let mut segments = |wanted: &WantedSegment| {
            let found = read_segment(&key, wanted, &file(&wanted.id.to_string())?, config);
            *if found.is_ok() { &mut taken } else { &mut refused } += 1;
            found.ok()
        };
        let resumed = SearchView::resume(config.clone(), &checkpoint, &mut segments, applied, &self.host.rows(group));
        let tally = &mut world.tally;
        (tally.segments_taken, tally.kept_files_refused) =
            (tally.segments_taken + taken, tally.kept_files_refused + refused);
        let counted = if resumed.is_ok() { &mut tally.catalogues_resumed } else { &mut tally.checkpoints_refused };
        *counted += 1;
        resumed.ok()
    }

    fn key(&self) -> StoreKey {
        let byte = self.place.to_string().bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        StoreKey::new([byte; 32])
    }

    fn disk(&self) -> SharedDisk {
        self.host.disk()
    }
}

fn write_segment(key: &StoreKey, disk: &SharedDisk, group: u64, job: &mut StoreJob) -> Result<StoredId, DiskError> {
    let mut bytes = Vec::new();
    let written = job.write(key, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, Infallible>(())
    });
    let id = written.expect("nothing hinders it");
    disk.borrow_mut().write_file(group, &id.to_string(), bytes)?;
    Ok(id)
}

fn read_segment(
    key: &StoreKey,
    wanted: &WantedSegment,
    bytes: &[u8],
    config: &CatalogueConfig,
) -> Result<FoundSegment, UnusableFile> {
    let mut file = SegmentFile::new(key, &wanted.header, true);
    file.push(bytes)?;
    let parts = file.finish(wanted.id)?;
    let (dimension, rows) = (wanted.header.dimension, wanted.header.rows as usize);
    let segment = parts.engine.and_then(|bytes| config.engine.restore(dimension, rows, &bytes).ok());
    let rows = parts.rows.expect("asked for");
    Ok(FoundSegment { segment: segment.map(Into::into), templates: Templates::InMemory(rows.into()) })
}

fn checkpoint_of(group: u64) -> CheckpointOf {
    CheckpointOf { shard: shard(group).0, parameters: String::new() }
}

fn shard(group: u64) -> ShardId {
    ShardId(u32::try_from(group).expect("a shard"))
}
