//! Messages between the replicas of a group, and their bytes. What arrives is checked here for everything that raft-rs would
//! panic on or that is not offered; what only the replica's state can tell is checked in [`crate::Replica::step`].

use bytes::Bytes;
use raft::eraftpb::{EntryType, MessageType};
use raft_prost::Message as _;

pub use raft::eraftpb::Message;

/// Terms and indices above this are refused, so that no sum of two overflows.
pub(crate) const NUMBER_MAX: u64 = u64::MAX >> 2;

/// Why bytes are not a message.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum DecodeMessageError {
    /// Not the encoding of a message.
    #[error("not a raft message: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// A number names no kind of message or entry.
    #[error("unknown {what} {value}")]
    UnknownKind {
        /// What is named.
        what: &'static str,
        /// The number.
        value: i32,
    },
    /// A kind that replicas do not send one another.
    #[error("message kind {kind} is not taken from others")]
    NotOffered {
        /// The kind.
        kind: &'static str,
    },
    /// A field breaks a rule that every sender keeps.
    #[error("message kind {kind} with wrong {field}")]
    WrongField {
        /// The kind.
        kind: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Returns whom the sender of a message votes for in its term: the addressee, or itself where it asks for votes. `None` if the
/// message tells of no vote. For those who watch a group.
pub fn votes_for(message: &Message) -> Option<u64> {
    if message.msg_type == MessageType::MsgRequestVote as i32 {
        Some(message.from)
    } else {
        let grants = message.msg_type == MessageType::MsgRequestVoteResponse as i32 && !message.reject;
        grants.then_some(message.to)
    }
}

/// Returns the bytes of a message.
pub fn encode_message(message: &Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Reads a message.
///
/// # Errors
/// The bytes are not a message that a replica sends to another.
pub fn decode_message(bytes: &[u8]) -> Result<Message, DecodeMessageError> {
    let message =
        Message::decode(bytes).map_err(|error| DecodeMessageError::Malformed { reason: error.to_string() })?;
    check(&message)?;
    Ok(message)
}

fn check(message: &Message) -> Result<(), DecodeMessageError> {
    let kind = MessageType::from_i32(message.msg_type)
        .ok_or(DecodeMessageError::UnknownKind { what: "message kind", value: message.msg_type })?;
    for entry in &message.entries {
        if EntryType::from_i32(entry.entry_type).is_none() {
            return Err(DecodeMessageError::UnknownKind { what: "entry kind", value: entry.entry_type });
        }
    }
    if !offered(kind) || message.snapshot.is_some() || message.request_snapshot != 0 {
        return Err(DecodeMessageError::NotOffered { kind: kind.as_str_name() });
    }
    match wrong_field(kind, message) {
        Some(field) => Err(DecodeMessageError::WrongField { kind: kind.as_str_name(), field }),
        None => Ok(()),
    }
}

fn offered(kind: MessageType) -> bool {
    match kind {
        MessageType::MsgPropose
        | MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => true,
        // A replica's own affairs, snapshots, which travel outside of messages, and leadership transfers, which only the leader's
        // driver asks for.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgSnapshot
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => false,
    }
}

fn wrong_field(kind: MessageType, message: &Message) -> Option<&'static str> {
    let numbers = [
        ("term", message.term),
        ("log_term", message.log_term),
        ("index", message.index),
        ("commit", message.commit),
        ("commit_term", message.commit_term),
        ("reject_hint", message.reject_hint),
    ];
    if let Some((field, _)) = numbers.into_iter().find(|(_, number)| *number > NUMBER_MAX) {
        return Some(field);
    }
    // What is passed on to the leader belongs to no term; everything else belongs to one.
    let passed_on = matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex);
    if message.from == 0 {
        Some("from")
    } else if message.to == 0 || message.to == message.from {
        Some("to")
    } else if passed_on != (message.term == 0) {
        Some("term")
    } else if kind == MessageType::MsgAppend && (message.index == 0) != (message.log_term == 0) {
        // Only what is before the log has no term. raft-rs finds the same of what is after its own end, so that entries would
        // seem to follow on where they do not.
        Some("log_term")
    } else if !fitting_entries(kind, message) {
        Some("entries")
    } else {
        None
    }
}

fn fitting_entries(kind: MessageType, message: &Message) -> bool {
    match kind {
        MessageType::MsgAppend => {
            let mut before = (message.index, message.log_term);
            message.entries.iter().all(|entry| {
                let follows = entry.index == before.0 + 1 && entry.term >= before.1 && entry.term <= message.term;
                before = (entry.index, entry.term);
                follows
            })
        }
        MessageType::MsgPropose => {
            let normal = EntryType::EntryNormal as i32;
            !message.entries.is_empty() && message.entries.iter().all(|entry| entry.entry_type == normal)
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => message.entries.len() == 1,
        _ => message.entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::Entry;

    use super::*;

    fn append() -> Message {
        let entries = vec![
            Entry { index: 8, term: 3, data: vec![1, 2], ..Entry::default() },
            Entry { index: 9, term: 4, ..Entry::default() },
        ];
        let msg_type = MessageType::MsgAppend as i32;
        Message { msg_type, from: 1, to: 2, term: 4, log_term: 3, index: 7, entries, ..Message::default() }
    }

    #[test]
    fn a_message_survives_its_bytes() {
        assert_eq!(decode_message(&encode_message(&append())), Ok(append()));
    }

    #[test]
    fn what_raft_would_panic_on_is_refused() {
        let refused = |change: fn(&mut Message)| {
            let mut message = append();
            change(&mut message);
            decode_message(&encode_message(&message)).expect_err("a broken message")
        };
        let wrong = |field| DecodeMessageError::WrongField { kind: "MsgAppend", field };
        assert_eq!(refused(|m| m.msg_type = 77), DecodeMessageError::UnknownKind { what: "message kind", value: 77 });
        assert_eq!(
            refused(|m| m.entries[0].entry_type = -1),
            DecodeMessageError::UnknownKind { what: "entry kind", value: -1 }
        );
        assert_eq!(refused(|m| m.entries[1].index = 11), wrong("entries"));
        assert_eq!(refused(|m| m.entries[1].term = 5), wrong("entries"));
        assert_eq!(refused(|m| m.term = 0), wrong("term"));
        assert_eq!(refused(|m| m.index = u64::MAX), wrong("index"));
        // Once taken for entries that follow on the log of whoever has a shorter one.
        assert_eq!(refused(|m| m.log_term = 0), wrong("log_term"));
        assert_eq!(refused(|m| m.index = 0), wrong("log_term"));
        assert_eq!(refused(|m| m.from = 0), wrong("from"));
        assert_eq!(refused(|m| m.to = 1), wrong("to"));
        for kind in [MessageType::MsgPropose, MessageType::MsgReadIndex] {
            let message = Message { msg_type: kind as i32, from: 1, to: 2, ..Message::default() };
            let error = decode_message(&encode_message(&message)).expect_err("no entry");
            assert_eq!(error, DecodeMessageError::WrongField { kind: kind.as_str_name(), field: "entries" });
        }
        // A change of the membership is asked of the leader, which looks at it first.
        let entries = vec![Entry { entry_type: EntryType::EntryConfChangeV2 as i32, ..Entry::default() }];
        let msg_type = MessageType::MsgPropose as i32;
        let message = Message { msg_type, from: 1, to: 2, entries, ..Message::default() };
        let error = decode_message(&encode_message(&message)).expect_err("a change of the membership");
        assert_eq!(error, DecodeMessageError::WrongField { kind: "MsgPropose", field: "entries" });
        for kind in [MessageType::MsgHup, MessageType::MsgSnapshot, MessageType::MsgTransferLeader] {
            let message = Message { msg_type: kind as i32, from: 1, to: 2, term: 1, ..Message::default() };
            let error = decode_message(&encode_message(&message)).expect_err("not offered");
            assert_eq!(error, DecodeMessageError::NotOffered { kind: kind.as_str_name() });
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode_message(&bytes) {
                prop_assert_eq!(decode_message(&encode_message(&message)), Ok(message));
            }
        }

        #[test]
        fn no_damaged_message_makes_decoding_panic(position in 0_usize..60, byte in any::<u8>(), cut in 0_usize..60) {
            let mut bytes = encode_message(&append()).to_vec();
            let position = position % bytes.len();
            bytes[position] = byte;
            bytes.truncate(cut.max(1));
            if let Ok(message) = decode_message(&bytes) {
                prop_assert_eq!(check(&message), Ok(()));
            }
        }
    }
}
