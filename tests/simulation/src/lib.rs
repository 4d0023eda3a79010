//! The whole cluster in one thread, from one seed: the real cores of Semel, with time, network, disks and clocks owned by a
//! simulator, and checkers that judge what happened.

#![forbid(unsafe_code)]

pub mod checkers;
pub mod history;
