//! Rows that are written and not yet known to be on disk, and the messages that wait for them.

use std::collections::VecDeque;

use raft::eraftpb::{HardState, Message, MessageType};

use crate::mutant::Mutant;

/// What a power cut may take back, oldest first.
pub(crate) struct Unsynced {
    readies: VecDeque<Rows>,
    /// The term and the vote as last written.
    bound: (u64, u64),
    /// Messages that wait for nothing any more.
    released: Vec<Message>,
}

/// The rows of one Ready.
struct Rows {
    number: u64,
    /// Whether a term or a vote is among them.
    binds: bool,
    /// What rests on them, or on rows before them.
    held: Vec<Message>,
}

impl Unsynced {
    /// Nothing, of a replica opened in this term and with this vote.
    pub(crate) fn new(term: u64, vote: u64) -> Self {
        Self { readies: VecDeque::new(), bound: (term, vote), released: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.readies.is_empty()
    }

    /// Adds the rows of a Ready that is to be synced.
    pub(crate) fn push(&mut self, number: u64, hard_state: Option<&HardState>) {
        let bound = hard_state.map_or(self.bound, |hard_state| (hard_state.term, hard_state.vote));
        let binds = std::mem::replace(&mut self.bound, bound) != bound;
        self.readies.push_back(Rows { number, binds, held: Vec::new() });
    }

    /// Whether a term or a vote is among what a power cut may take back.
    pub(crate) fn binds(&self) -> bool {
        self.readies.iter().any(|rows| rows.binds)
    }

    /// Takes messages, and holds those that rest on rows which a power cut may take back. Nothing leaves in a term or with a vote that
    /// may be forgotten, and nobody is told of entries that may be. What else a replica says rests on none of them: a leader's
    /// entries count where they are on disk, and its own copy is one of them.
    pub(crate) fn pass(&mut self, messages: Vec<Message>) {
        let binds = self.binds() && !Mutant::VoteBeforeSync.is_chosen();
        for message in messages {
            // A refusal promises nothing.
            let accepts = message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject;
            let rests = binds || accepts;
            match self.readies.back_mut().filter(|_| rests) {
                Some(newest) => newest.held.push(message),
                None => self.released.push(message),
            }
        }
    }

    /// Rows up to and with those of the Ready of this number are on disk.
    ///
    /// # Panics
    /// Panics if that Ready does not wait.
    pub(crate) fn synced(&mut self, number: u64) {
        assert!(self.readies.iter().any(|rows| rows.number == number), "no rows of {number} wait for a sync");
        let safe = self.readies.iter().take_while(|rows| rows.number <= number).count();
        self.released.extend(self.readies.drain(..safe).flat_map(|rows| rows.held));
    }

    /// Whether messages wait to be taken.
    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// Takes the messages that may leave. They are ordered by addressee, and for one addressee as they came: raft-rs goes through its
    /// replicas in a hash map's order.
    pub(crate) fn take_released(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.released);
        messages.sort_by_key(|message| message.to);
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPENDED: MessageType = MessageType::MsgAppendResponse;
    const HEARD: MessageType = MessageType::MsgHeartbeatResponse;
    const VOTED: MessageType = MessageType::MsgRequestVoteResponse;

    fn message(kind: MessageType) -> Vec<Message> {
        vec![Message { msg_type: kind as i32, ..Message::default() }]
    }

    fn hard_state(term: u64, vote: u64) -> HardState {
        HardState { term, vote, commit: 0 }
    }

    fn released(unsynced: &mut Unsynced) -> Vec<MessageType> {
        unsynced.take_released().iter().map(Message::get_msg_type).collect()
    }

    #[test]
    fn acknowledgements_wait_for_the_newest_rows_and_heartbeats_do_not() {
        let mut unsynced = Unsynced::new(5, 1);
        unsynced.pass(message(APPENDED));
        assert_eq!(released(&mut unsynced), [APPENDED], "everything is on disk");
        unsynced.push(1, Some(&hard_state(5, 1)));
        unsynced.pass(message(APPENDED));
        unsynced.push(2, None);
        unsynced.pass([message(APPENDED), message(HEARD), message(VOTED)].concat());
        assert_eq!(released(&mut unsynced), [HEARD, VOTED], "the vote is an old one");
        unsynced.synced(1);
        assert_eq!(released(&mut unsynced), [APPENDED]);
        unsynced.synced(2);
        assert_eq!(released(&mut unsynced), [APPENDED]);
        assert!(unsynced.is_empty());
    }

    #[test]
    fn nothing_leaves_while_a_term_or_a_vote_may_be_forgotten() {
        for bound in [hard_state(6, 0), hard_state(5, 2)] {
            let mut unsynced = Unsynced::new(5, 0);
            unsynced.push(7, Some(&bound));
            unsynced.push(9, Some(&bound));
            unsynced.pass([message(HEARD), message(VOTED)].concat());
            unsynced.synced(7);
            assert!(!unsynced.has_released(), "held by the newest rows");
            unsynced.pass(message(HEARD));
            assert_eq!(released(&mut unsynced), [HEARD]);
            unsynced.synced(9);
            assert_eq!(released(&mut unsynced), [HEARD, VOTED]);
        }
    }

    #[test]
    #[should_panic(expected = "no rows of 3 wait")]
    fn a_sync_of_other_rows_is_a_defect_of_the_driver() {
        let mut unsynced = Unsynced::new(5, 0);
        unsynced.push(4, None);
        unsynced.synced(3);
    }
}
