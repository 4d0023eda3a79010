//! Where the publications of a group go: the views derived from its rows.

use semel_raft::{LogIndex, StateMachine, StoreError};

use crate::group_store::GroupStore;

/// A derived view of one group, such as an index in memory.
pub trait Publisher<M: StateMachine>: Send + 'static {
    /// Builds the view from the rows, whose last applied entry is `applied`, and forgets what it held before. Called on a thread that
    /// may block, before the group takes part in anything, and again each time its rows were exchanged for a snapshot's.
    fn restore(&mut self, applied: LogIndex, store: &GroupStore) -> Result<(), StoreError> {
        let _ = (applied, store);
        Ok(())
    }

    /// Takes in what entries published, in order; afterwards the view is current up to `applied`. Called after the rows
    /// are written and before any proposer or reader learns of the entries, also where `publications` is empty and only
    /// `applied` moved. Called from the host's thread, so it must be quick.
    fn publish(&mut self, applied: LogIndex, publications: Vec<(LogIndex, Vec<M::Publication>)>);
}

/// The publisher of a group without derived views.
#[derive(Debug, Clone, Copy)]
pub struct Discard;

impl<M: StateMachine> Publisher<M> for Discard {
    fn publish(&mut self, _applied: LogIndex, _publications: Vec<(LogIndex, Vec<M::Publication>)>) {}
}
