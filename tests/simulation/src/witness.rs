//! What can be seen of replicas from within as they go by: configurations, the lengths of logs, what snapshots leave of promises.

use semel_raft::{LogIndex, ReplicaId, ReplicaStatus, Store, Table, rows};

use crate::disk::GroupDisk;
use crate::history::{Configured, Installed, LogSeen, NewVoter, Promises};
use crate::world::World;

/// Sorts after every key of a log.
const LOG_END: &[u8] = &[0xff; 9];

impl World {
    /// A replica is in this state once what it was given is written.
    pub(crate) fn watch(&mut self, group: u64, status: &ReplicaStatus, held_max: u64) {
        let replica = status.replica.get();
        let numbers = |ids: &[ReplicaId]| ids.iter().map(|id| id.get()).collect::<Vec<u64>>();
        self.log_ends.insert((group, status.replica), status.last_index);
        if !status.voters.is_empty() {
            let [voters, voters_outgoing, learners] =
                [&status.voters, &status.voters_outgoing, &status.learners].map(|ids| numbers(ids));
            let epoch = status.epoch;
            self.watched.configurations.insert(Configured { group, epoch, voters, voters_outgoing, learners });
        }
        let held = status.applied.0 - status.truncated.0;
        let log = self.watched.logs.entry((group, replica)).or_insert(LogSeen { held, held_max, truncated: 0 });
        log.held = log.held.max(held);
        if status.truncated.0 > log.truncated {
            self.tally.logs_cut += u64::from(log.truncated > 0);
            log.truncated = status.truncated.0;
        }
    }

    /// A leader, whose log ends at `last_index`, has begun to make a learner a voter.
    pub(crate) fn watch_new_voter(&mut self, group: u64, replica: ReplicaId, last_index: LogIndex, lag_max: u64) {
        let end = self.log_ends.get(&(group, replica)).copied().unwrap_or_default();
        let lag = last_index.0.saturating_sub(end.0);
        self.watched.new_voters.push(NewVoter { group, replica: replica.get(), lag, lag_max });
    }

    /// What a replica has promised, as its rows say. Nothing while they cannot be read.
    pub(crate) fn promises(&self, store: &GroupDisk) -> Option<Promises> {
        let row = |key: &[u8]| store.get(Table::RAFT, key).ok().flatten();
        let hard_state = row(rows::HARD_STATE).and_then(|row| rows::decode_hard_state(&row).ok()).unwrap_or_default();
        let truncated = rows::truncated(store).ok()?;
        let mut terms = [(truncated.index, truncated.term)].into_iter().collect::<std::collections::BTreeMap<_, _>>();
        for (key, entry) in store.scan(Table::LOG, &[], LOG_END, usize::MAX).ok()? {
            let index = rows::decode_entry_key(&key).ok()?;
            terms.insert(index.0, rows::decode_entry(index, &entry).ok()?.term);
        }
        Some(Promises { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit, terms })
    }

    /// A snapshot was installed over what a replica had promised before.
    pub(crate) fn watch_install(&mut self, group: u64, before: Option<Promises>, store: &GroupDisk) {
        if let Some((before, after)) = before.zip(self.promises(store)) {
            self.watched.installed.push(Installed { group, before, after });
        }
    }
}
