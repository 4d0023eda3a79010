//! A whole cluster on one machine, as a library: for `semel local`, for integrators' tests and for our own.
//!
//! Nodes and coordinators run inside this process or as child processes, on free ports and in a temporary folder unless told
//! otherwise. Servers can be killed and restarted, and as processes also paused, ended by SIGTERM and started behind a command of
//! the caller's ([`Launch`]); [`wait_until`] waits for conditions instead of sleeping. When the [`Sandbox`] is dropped, its servers
//! end and a temporary folder is removed.
//!
//! What is deliberately not here: anything that the servers do. The sandbox speaks to them as every client does.
//!
//! # Example
//! ```no_run
//! use semel_proto::v1::EnrolmentState;
//! use semel_sandbox::{Sandbox, requests};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sandbox = Sandbox::builder().nodes(3).replicas(3).shards(8).start().await?;
//!     sandbox.galleries().create_gallery(requests::face_gallery("people", 4, 0.8)).await?;
//!
//!     let first = requests::face_enrolment("people", "first", &[1.0, 0.0, 0.0, 0.2]);
//!     let answer = sandbox.enrolments().enrol(first).await?.into_inner();
//!     assert_eq!(answer.enrolment.ok_or("no record")?.state(), EnrolmentState::Unique);
//!
//!     // One node of three may die.
//!     sandbox.kill_node(2).await?;
//!     let again = requests::face_enrolment("people", "again", &[1.0, 0.0, 0.1, 0.2]);
//!     let answer = sandbox.enrolments().enrol(again).await?.into_inner();
//!     assert_eq!(answer.enrolment.ok_or("no record")?.state(), EnrolmentState::PossibleDuplicate);
//!
//!     sandbox.restart_node(2).await?;
//!     sandbox.wait_ready().await?;
//!     Ok(())
//! }
//! ```

#![forbid(unsafe_code)]

mod builder;
mod sandbox;
mod server;
mod port;
mod embedded;
mod child;
pub mod requests;
mod wait;
mod error;

pub use builder::{Builder, Launch, Mode};
pub use error::SandboxError;
pub use sandbox::Sandbox;
pub use semel_node::TemplatesKept;
pub use wait::wait_until;
