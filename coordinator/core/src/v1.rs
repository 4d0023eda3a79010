//! Version 1 of the stored and replicated bytes of the metadata group. Never edited: a change is a new version beside it.
//!
//! These structures carry bytes and nothing else; what they mean and whether they are valid is checked where they are
//! turned into the types of `metadata`.

mod command;
mod row;

pub(crate) use command::{
    CommandBytes, ConfirmReplicasBytes, CreateGalleryBytes, InitialiseBytes, JoinNodeBytes, Kind, PlaceShardsBytes,
    RegisterCoordinatorBytes, UpdatePolicyBytes,
};
pub(crate) use row::{
    BinaryCodeBytes, ClusterBytes, CoordinatorBytes, GalleryBytes, KeyBytes, ModalityBytes, NodeBytes, PolicyBytes,
    ReplicaNextBytes, ShardBytes, VoterBytes,
};

use std::fmt;

/// The first byte of every stored or replicated value.
pub(crate) const VERSION: u8 = 1;

/// Bytes that no `Debug` shows.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}
