//! A client of Semel clusters, for registries written in Rust and for the `semel` command line.
//!
//! A [`Client`] is given the addresses of several coordinators. Any of them answers any call; one of them, or its machine, may die
//! at any moment, and whoever calls does not notice:
//!
//! - Calls go to the coordinator with the fewest calls in work among those that are healthy. One that breaks a connection, keeps
//!   silent or says that it cannot answer is left aside until its health service says otherwise.
//! - What may succeed later is sent again, to another coordinator first, then after growing and jittered pauses, never sooner than the
//!   cluster asks for. Each call has one deadline over all of it ([`Settings::deadline`]).
//! - What is sent again is the same request with the same ids. Every call of the public services is idempotent, so that an attempt
//!   whose outcome is unknown is harmless: if it was carried out, the answer is what is recorded.
//!
//! What the cluster concludes is a value, [`Outcome`]; an error ([`CallError`]) tells what kept it from answering.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use semel_client::{Client, Outcome, Settings};
//! use semel_proto::v1::biometric_reference::Template;
//! use semel_proto::v1::{BiometricReference, Embedding, EnrolRequest, Modality};
//!
//! let addresses = ["coordinator-1:7400", "coordinator-2:7400", "coordinator-3:7400"];
//! let client = Client::new(addresses, Settings::default())?;
//! let request = EnrolRequest {
//!     gallery: "people".to_owned(),
//!     enrolment_id: "camp-4/000017".to_owned(),
//!     references: vec![BiometricReference {
//!         modality: Modality::Face.into(),
//!         template: Some(Template::Embedding(Embedding { values: vec![0.25; 512] })),
//!         ..Default::default()
//!     }],
//!     ..Default::default()
//! };
//! match client.enrol(request).await? {
//!     Outcome::Unique(_) => println!("nobody like this was enrolled before"),
//!     Outcome::PossibleDuplicate(enrolment) => println!("somebody must look: cases {:?}", enrolment.case_ids),
//!     Outcome::NotComparable(_) => println!("too few could be compared: somebody must look"),
//!     Outcome::Withdrawn(_) => println!("it was withdrawn before"),
//!     // Silence is not absence: the enrolment is recorded, and the cluster finishes it by itself.
//!     Outcome::Inconclusive { missing_shards, .. } => println!("no verdict yet: shards {missing_shards:?} are silent"),
//!     Outcome::StillStaged { .. } => println!("no verdict yet"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::enrol_all`] enrols many: it keeps a bounded number in flight over one stream to each coordinator and survives the loss
//! of any of them. [`Client::call`] makes a call that this crate has no method for.
//!
//! Only the types of the wire are known here; conversions, files and command lines live elsewhere.

#![forbid(unsafe_code)]

mod client;
mod outcome;
mod settings;
mod error;
mod bulk;
mod persist;
mod retry;
mod balance;
mod coordinator;
mod line;

pub use bulk::Answer;
pub use client::Client;
pub use error::{CallError, InvalidAddress};
pub use outcome::{Identification, Outcome};
pub use persist::Course;
pub use settings::Settings;
