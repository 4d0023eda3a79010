//! Commands of this replica's callers on their way into the log and back as receipts. Each is marked, so that whichever replica
//! leads, the entry is known again when it is applied here.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::Entry;

use crate::cache::weight;
use crate::config::{COMMAND_BYTES_MAX, ReplicaConfig};
use crate::context::Marker;
use crate::event::ProposeError;
use crate::ids::Ticket;

/// Proposals that wait: for the next collect first, then for their receipts.
pub(crate) struct Proposals {
    marker: Marker,
    /// By number; all may wait equally long, so the oldest time out first.
    pending: BTreeMap<u64, Pending>,
    /// Not yet handed to raft: of this replica's callers, and those that other replicas passed on.
    queued: Vec<Entry>,
    pending_max: usize,
    ticks_max: u64,
}

struct Pending {
    ticket: Ticket,
    deadline: u64,
}

impl Proposals {
    pub(crate) fn new(config: &ReplicaConfig) -> Self {
        Self {
            marker: Marker::new(config.replica, config.boot_nonce),
            pending: BTreeMap::new(),
            queued: Vec::new(),
            pending_max: config.proposals_pending_max,
            ticks_max: config.proposal_ticks_max,
        }
    }

    pub(crate) fn queue(&mut self, ticket: Ticket, command: &Bytes, now: u64) -> Result<(), ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max: COMMAND_BYTES_MAX });
        }
        if self.pending.len() >= self.pending_max {
            return Err(ProposeError::TooManyPending);
        }
        let (number, context) = self.marker.mark();
        let deadline = now.saturating_add(self.ticks_max);
        self.pending.insert(number, Pending { ticket, deadline });
        self.queued.push(Entry { data: command.to_vec(), context, ..Entry::default() });
        Ok(())
    }

    /// Takes proposals that another replica passed on. Without room for them they are lost, and their proposers wait in vain.
    pub(crate) fn queue_passed_on(&mut self, entries: Vec<Entry>) {
        let room = self.pending_max.saturating_sub(self.queued.len());
        self.queued.extend(entries.into_iter().take(room));
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Takes everything queued, in parts of at most `bytes_max` (a single larger entry is a part too): one message each, so
    /// that the leader appends to its followers once per part and not once per command.
    pub(crate) fn take_queued(&mut self, bytes_max: u64) -> Vec<Vec<Entry>> {
        let mut parts: Vec<Vec<Entry>> = Vec::new();
        let mut bytes = u64::MAX;
        for entry in self.queued.drain(..) {
            let weight = weight(&entry) as u64;
            bytes = bytes.saturating_add(weight);
            if bytes > bytes_max {
                parts.push(Vec::new());
                bytes = weight;
            }
            parts.last_mut().expect("the first entry opens a part").push(entry);
        }
        parts
    }

    /// Returns the numbers of those of `entries` that this replica's callers proposed.
    pub(crate) fn numbers(&self, entries: &[Entry]) -> Vec<u64> {
        entries.iter().filter_map(|entry| self.marker.number(&entry.context)).collect()
    }

    /// Returns the caller whose proposal carries `context`, if it still waits; it waits no more.
    pub(crate) fn applied(&mut self, context: &[u8]) -> Option<Ticket> {
        let number = self.marker.number(context)?;
        self.withdraw(number)
    }

    pub(crate) fn withdraw(&mut self, number: u64) -> Option<Ticket> {
        self.pending.remove(&number).map(|pending| pending.ticket)
    }

    /// Returns the callers that waited too long.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<Ticket> {
        let mut expired = Vec::new();
        while let Some(oldest) = self.pending.first_entry().filter(|oldest| oldest.get().deadline <= now) {
            expired.push(oldest.remove().ticket);
        }
        expired
    }

    /// Returns everyone who waits, and whether their command was handed to raft.
    pub(crate) fn take_all(&mut self) -> Vec<(Ticket, bool)> {
        let queued = std::mem::take(&mut self.queued);
        let queued = self.numbers(&queued);
        let pending = std::mem::take(&mut self.pending);
        // This replica's own numbers are queued in ascending order.
        let handed_over = |number: u64| queued.binary_search(&number).is_err();
        pending.into_iter().map(|(number, pending)| (pending.ticket, handed_over(number))).collect()
    }
}
