//! Applying committed entries: from the log, through the machine, into one batch of rows.

use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType};
use raft::{INVALID_ID, RawNode, StateRole};
use raft_prost::Message as _;

use crate::cache::weight;
use crate::compaction::Compaction;
use crate::event::ProposeError;
use crate::failures::StopReason;
use crate::ids::{LogIndex, Ticket};
use crate::log::ReplicaLog;
use crate::machine::StateMachine;
use crate::membership::{self, Membership};
use crate::mutant::Mutant;
use crate::overlay::{ChangedRows, Overlay};
use crate::proposals::Proposals;
use crate::rows;
use crate::store::{Store, Table, WriteBatch};

/// What applying borrows of its replica.
pub(crate) struct Applier<'a, S: Store, M: StateMachine> {
    pub(crate) node: &'a mut RawNode<ReplicaLog<S>>,
    pub(crate) machine: &'a mut M,
    pub(crate) proposals: &'a mut Proposals,
    pub(crate) receipts: &'a mut Vec<(Ticket, Result<M::Receipt, ProposeError>)>,
    pub(crate) membership: &'a mut Membership,
    pub(crate) memberships: &'a mut Vec<membership::Answer>,
    pub(crate) compaction: &'a mut Compaction,
}

/// What the views learn of the entries of one batch, with the index of each.
pub(crate) type Publications<M> = Vec<(LogIndex, Vec<<M as StateMachine>::Publication>)>;

impl<S: Store, M: StateMachine> Applier<'_, S, M> {
    /// Applies `entries`, which follow `applied`, and appends to `batch` the machine's rows, the applied index, the hard state
    /// whose commit index covers it, and the removal of the log's oldest entries where it is time. Returns the new applied
    /// index.
    pub(crate) fn apply(
        mut self,
        mut applied: LogIndex,
        entries: Vec<Entry>,
        batch: &mut WriteBatch,
    ) -> Result<(LogIndex, Publications<M>), StopReason> {
        let mut changed = ChangedRows::default();
        let mut publications = Vec::new();
        if entries.is_empty() {
            return Ok((applied, publications));
        }
        for entry in entries {
            assert_eq!(entry.index, applied.0 + 1, "entries are applied once and in order");
            applied = LogIndex(entry.index);
            self.compaction.applied(entry.index, weight(&entry) as u64);
            match entry.get_entry_type() {
                EntryType::EntryNormal => {
                    let published = self.apply_command(&entry, &mut changed)?;
                    if !published.is_empty() {
                        publications.push((applied, published));
                    }
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_conf_change(&entry, batch)?,
            }
        }
        changed.write_into(batch);
        rows::put_applied(batch, applied, &self.node.raft.hard_state());
        self.node.mut_store().set_applied(applied);
        self.compact(batch)?;
        Ok((applied, publications))
    }

    fn compact(&mut self, batch: &mut WriteBatch) -> Result<(), StopReason> {
        let log = self.node.mut_store();
        let Some(to) = self.compaction.due(log.offers.pinned_after()) else { return Ok(()) };
        let from = log.truncated().index;
        let truncated = log.compact(to)?;
        self.compaction.truncated(to);
        batch.delete_range(Table::LOG, rows::entry_key(LogIndex(from)), rows::entry_key(LogIndex(to + 1)));
        if !Mutant::LogCutUnmarked.is_chosen() {
            rows::put_truncated(batch, truncated);
        }
        Ok(())
    }

    fn apply_command(&mut self, entry: &Entry, changed: &mut ChangedRows) -> Result<Vec<M::Publication>, StopReason> {
        // A leader opens its term with an entry of its own; it is nobody's command.
        if entry.data.is_empty() && entry.context.is_empty() {
            return Ok(Vec::new());
        }
        let mut overlay = Overlay { store: self.node.store().store(), changed, tables: M::TABLES };
        let outcome = self.machine.apply(LogIndex(entry.index), &entry.data, &mut overlay)?;
        if let Some(ticket) = self.proposals.applied(&entry.context) {
            self.receipts.push((ticket, Ok(outcome.receipt)));
        }
        Ok(outcome.publications)
    }

    fn apply_conf_change(&mut self, entry: &Entry, batch: &mut WriteBatch) -> Result<(), StopReason> {
        let conf_state = self.change_configuration(entry).map_err(|reason| {
            // A replica that cannot follow its group must not go on by itself.
            StopReason::ConfChange { index: LogIndex(entry.index), reason }
        })?;
        let (changed, answer) = self.membership.applied(&entry.context, membership::sorted(conf_state));
        self.memberships.extend(answer);
        if changed {
            rows::put_conf_state(batch, self.membership.conf_state());
            rows::put_epoch(batch, self.membership.epoch());
        }
        let conf_state = self.membership.conf_state();
        self.node.mut_store().offers.retain(|follower| membership::names(conf_state, follower));
        self.step_down_if_removed();
        Ok(())
    }

    fn change_configuration(&mut self, entry: &Entry) -> Result<ConfState, String> {
        if entry.get_entry_type() == EntryType::EntryConfChange {
            let change = ConfChange::decode(&*entry.data).map_err(|error| error.to_string())?;
            return self.node.apply_conf_change(&change).map_err(|error| error.to_string());
        }
        let change = ConfChangeV2::decode(&*entry.data).map_err(|error| error.to_string())?;
        let conf_state = self.node.apply_conf_change(&change).map_err(|error| error.to_string())?;
        if Mutant::JointLeftAtOnce.is_chosen() && !conf_state.voters_outgoing.is_empty() {
            return self.node.apply_conf_change(&ConfChangeV2::default()).map_err(|error| error.to_string());
        }
        Ok(conf_state)
    }

    /// raft-rs panics in a leader that belongs to its group no more. One that is to be removed hands over before, but what a
    /// former leader proposed may remove it yet.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(raft.id) {
            let term = raft.term;
            raft.become_follower(term, INVALID_ID);
            // A follower has none to send after it has written. Any may be lost.
            raft.msgs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType};

    use super::*;
    use crate::memory::MemoryStore;
    use crate::store::{StoreError, Table};
    use crate::{Applied, Event, Replica, ReplicaConfig, ReplicaId, State, bootstrap};

    struct Nothing;

    impl StateMachine for Nothing {
        type Receipt = ();
        type Publication = ();
        const TABLES: &'static [Table] = &[];

        fn apply(&mut self, _: LogIndex, _: &[u8], _: &mut dyn State) -> Result<Applied<(), ()>, StoreError> {
            Ok(Applied { receipt: (), publications: Vec::new() })
        }

        fn restore(&mut self, _: LogIndex, _: &dyn Store) -> Result<(), StoreError> {
            Ok(())
        }
    }

    /// A leader without others, driven until it rests; returns the configurations it wrote.
    fn drive(replica: &mut Replica<MemoryStore, Nothing>, store: &MemoryStore) -> Vec<raft::eraftpb::ConfState> {
        let mut written = Vec::new();
        while replica.has_work() {
            let effects = replica.step(Event::Collect);
            for write in &effects.writes.writes {
                if let crate::Write::Put { key, value, .. } = write
                    && key == rows::CONF_STATE
                {
                    assert_eq!(effects.applied, replica.status().applied);
                    written.push(rows::decode_conf_state(value).expect("a configuration"));
                }
            }
            store.write(&effects.writes);
            if let Some(number) = effects.sync {
                let _ = replica.step(Event::Synced(number));
            }
        }
        written
    }

    #[test]
    fn configuration_changes_are_written_with_the_entry_that_makes_them() {
        let id = ReplicaId::new(1).expect("not zero");
        let store = MemoryStore::new();
        store.write(&bootstrap(&[id]));
        let config = ReplicaConfig::new(id, 1, 1);
        let mut replica = Replica::open(config.clone(), store.clone(), Nothing).expect("a fresh replica");
        for _ in 0..40 {
            let _ = replica.step(Event::Tick);
        }
        drive(&mut replica, &store);
        let single =
            |change_type: ConfChangeType, node_id| ConfChangeSingle { change_type: change_type as i32, node_id };
        let change = ConfChangeV2 {
            transition: ConfChangeTransition::Implicit as i32,
            changes: vec![single(ConfChangeType::AddLearnerNode, 2), single(ConfChangeType::AddLearnerNode, 3)],
            ..ConfChangeV2::default()
        };
        replica.propose_conf_change(change);
        let written = drive(&mut replica, &store);
        // Joint first; the leader leaves by itself, with an entry that carries nothing and is still applied.
        assert_eq!(written.iter().map(|state| state.voters_outgoing.as_slice()).collect::<Vec<_>>(), [&[1][..], &[]]);
        let learners = &mut written.last().expect("two").learners.clone();
        learners.sort_unstable();
        assert_eq!(learners, &[2, 3]);
        drop(replica);
        let reopened = Replica::open(config, store, Nothing).expect("the same replica");
        assert_eq!(reopened.status().voters, [id]);
    }
}
