//! What people keep in files: enrolments, probes and policies, as messages of the wire. Forms of records live in `npy`, `parquet` and
//! `json_lines`.
//!
//! Nothing is checked here that the cluster checks: a record that is read may still be refused. Command lines and their exit
//! codes live in `semel-cli`.

#![forbid(unsafe_code)]

pub mod names;
pub mod policy;

mod json_lines;
mod npy;
mod parquet;
mod records;
mod rows;

pub use names::UnknownName;
pub use policy::{GalleryDocument, InvalidPolicy, ModalityDocument, PolicyDocument, SpecDocument};
pub use records::{BadRecord, Form, Record, Records, UnreadableFile};
