//! Coordinators whose volume was lost. A coordinator keeps its number and its address; what its volume held was a replica of the metadata
//! group, and that one never comes back: an empty volume is given a replica with an id of its own.
//!
//! As with moves of shards' replicas, what is recorded is intent, one replacement in the group: its configuration says how far it is, and
//! whoever leads the group carries it out from there.

use semel_raft::{ReplicaId, StoreError};

use crate::metadata::machine::{CommandResult, MetadataReceipt, MetadataRefusal, Transaction, corrupt};
use crate::metadata::row::{self, MetadataRow};
use crate::metadata::{COORDINATORS_MAX, CoordinatorId, VolumeId};

/// The replicas of the metadata group that a coordinator has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorReplicas {
    /// The coordinator.
    pub coordinator: CoordinatorId,
    /// The one that votes; at first it has the coordinator's own number.
    pub voter: ReplicaId,
    /// The one that was given out last, whatever became of it.
    pub newest: ReplicaId,
    /// What is to become of the newest one, where that is not settled yet.
    pub joining: Option<JoiningReplica>,
}

/// An empty volume that is given the newest replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoiningReplica {
    /// The volume.
    pub volume: VolumeId,
    /// Whether the replacement was given up: the replica is removed again.
    pub cancelling: bool,
}

impl CoordinatorReplicas {
    /// Those of a coordinator that still has its first volume.
    pub fn first(coordinator: CoordinatorId) -> Self {
        let own = coordinator.first_replica();
        Self { coordinator, voter: own, newest: own, joining: None }
    }

    /// The replica that is to take the voter's place.
    pub fn joining_replica(&self) -> Option<ReplicaId> {
        self.joining.map(|_| self.newest)
    }

    /// Whether the group does without a replica that the coordinator has had. Of one newer than all that are known here, nothing is
    /// known.
    pub fn is_retired(&self, replica: ReplicaId) -> bool {
        replica <= self.newest && replica != self.voter && self.joining_replica() != Some(replica)
    }
}

impl Transaction<'_> {
    pub(crate) fn replace_coordinator(&mut self, coordinator: CoordinatorId, volume: VolumeId) -> CommandResult {
        if self.get(&row::coordinator_key(coordinator))?.is_none() {
            return Ok(Err(MetadataRefusal::NoSuchCoordinator { coordinator }));
        }
        let recorded = self.recorded_replicas()?;
        if let Some(under_way) = recorded.iter().find_map(|one| Some((one, one.joining?))) {
            let (replicas, joining) = under_way;
            let same = replicas.coordinator == coordinator && joining.volume == volume && !joining.cancelling;
            return if same {
                Ok(Ok(MetadataReceipt::CoordinatorReplicas(*replicas)))
            } else {
                Ok(Err(MetadataRefusal::ReplacementUnderWay { coordinator: replicas.coordinator }))
            };
        }
        let newest = recorded.iter().map(|replicas| replicas.newest.get()).max();
        let newest = newest.unwrap_or(0).max(COORDINATORS_MAX as u64).checked_add(1).and_then(ReplicaId::new);
        let Some(newest) = newest else { return Ok(Err(MetadataRefusal::ReplicaIdsExhausted)) };
        let before = self.replicas_of(coordinator)?;
        let begun =
            CoordinatorReplicas { newest, joining: Some(JoiningReplica { volume, cancelling: false }), ..before };
        self.set(MetadataRow::CoordinatorReplicas(begun));
        Ok(Ok(MetadataReceipt::CoordinatorReplicas(begun)))
    }

    pub(crate) fn cancel_replacement(&mut self, coordinator: CoordinatorId) -> CommandResult {
        let replicas = self.replicas_of(coordinator)?;
        if let Some(joining) = replicas.joining.filter(|joining| !joining.cancelling) {
            let joining = Some(JoiningReplica { cancelling: true, ..joining });
            self.set(MetadataRow::CoordinatorReplicas(CoordinatorReplicas { joining, ..replicas }));
        }
        Ok(Ok(MetadataReceipt::Done))
    }

    /// Records what became of a replacement. Of one that is over already nothing is left to record, so asking again does nothing.
    pub(crate) fn end_replacement(
        &mut self,
        coordinator: CoordinatorId,
        replica: ReplicaId,
        replaced: bool,
    ) -> CommandResult {
        let replicas = self.replicas_of(coordinator)?;
        let Some(joining) = replicas.joining.filter(|_| replicas.newest == replica) else {
            return Ok(Ok(MetadataReceipt::Done));
        };
        if !replaced && !joining.cancelling {
            return Ok(Err(MetadataRefusal::ReplacementUnderWay { coordinator }));
        }
        let voter = if replaced { replica } else { replicas.voter };
        self.set(MetadataRow::CoordinatorReplicas(CoordinatorReplicas { voter, joining: None, ..replicas }));
        Ok(Ok(MetadataReceipt::Done))
    }

    fn replicas_of(&self, coordinator: CoordinatorId) -> Result<CoordinatorReplicas, StoreError> {
        match self.get(&row::coordinator_replicas_key(coordinator))? {
            Some(MetadataRow::CoordinatorReplicas(replicas)) => Ok(replicas),
            Some(_) => Err(corrupt()),
            None => Ok(CoordinatorReplicas::first(coordinator)),
        }
    }

    fn recorded_replicas(&self) -> Result<Vec<CoordinatorReplicas>, StoreError> {
        let rows = self.scan(row::coordinator_replicas(), COORDINATORS_MAX)?.into_iter().map(|row| match row {
            MetadataRow::CoordinatorReplicas(replicas) => Ok(replicas),
            _ => Err(corrupt()),
        });
        rows.collect()
    }
}
