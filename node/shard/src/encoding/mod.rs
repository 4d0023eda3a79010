//! From values to versioned bytes and back: a byte that names the version, then the version's message.
//!
//! Decoding checks every bound, so that a value in hand keeps them. The messages themselves live in `v1`.

mod command;
mod part;
mod row;
#[cfg(test)]
mod samples;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use semel_index::{InvalidId, TemplateError};

pub(crate) use command::{decode_command, encode_command};
pub use row::rewrite_row;
pub(crate) use row::{StoredRow, decode_row, encode_audit_content, encode_row};

const VERSION: u8 = 1;

/// Why bytes are not what they should be. None of these repeats what the bytes hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("no bytes")]
    Empty,
    /// The encoding's version is not known.
    #[error("encoding has version {found}, must be {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The bytes after the version are no message.
    #[error("decode message")]
    Message(#[from] prost::DecodeError),
    /// A field is absent.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A list is too short or too long.
    #[error("{field} has {found} items, must have {min} to {max}")]
    Items {
        /// The field.
        field: &'static str,
        /// Items found.
        found: usize,
        /// The fewest permitted.
        min: usize,
        /// The most permitted.
        max: usize,
    },
    /// A text or a string of bytes is too short or too long.
    #[error("{field} has {found} bytes, must have {min} to {max}")]
    Bytes {
        /// The field.
        field: &'static str,
        /// Bytes found.
        found: usize,
        /// The fewest permitted.
        min: usize,
        /// The most permitted.
        max: usize,
    },
    /// A number stands for nothing.
    #[error("{field} has the unknown value {found}")]
    Value {
        /// The field.
        field: &'static str,
        /// The value found.
        found: i64,
    },
    /// Two items of a list that must differ do not.
    #[error("{field} names the same twice")]
    Repeated {
        /// The field.
        field: &'static str,
    },
    /// An id breaks its rule.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A template does not conform to its spec.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

fn encode(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message.encode(&mut bytes).expect("the buffer grows as it must");
    bytes.freeze()
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, message)) => Ok(M::decode(message)?),
        Some((&found, _)) => Err(DecodeError::Version { found }),
    }
}
