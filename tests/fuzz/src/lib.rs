//! Fuzzing of every decoder of bytes that Semel did not write itself, or that a disk kept for it.
//!
//! A target is a function of some bytes that panics where it finds a defect. The targets live in `tests/`, one file per family
//! of decoders; the inputs worth keeping lie in `tests/__fuzz__/TARGET/corpus`. `cargo test` runs every target over its corpus
//! and over inputs made from it, always the same ones; `make fuzz TARGET=… SECONDS=…` lets libfuzzer look for new ones.
//!
//! A new target is a test, beside a folder with at least one input:
//!
//! ```text
//! #[test]
//! fn snapshots() {
//!     fuzz!(|bytes| …);
//! }
//! ```
#![forbid(unsafe_code)]
#![allow(unexpected_cfgs, reason = "bolero's own front end sets `fuzzing`; cargo does not know it")]

mod corpus;
#[cfg(not(fuzzing))]
mod engine;
#[cfg(not(fuzzing))]
mod mutation;
mod parts;
mod rows;

pub mod replica;
pub mod samples;

pub use bolero;
pub use corpus::Corpus;
pub use parts::{joined, parts};
pub use rows::Rows;

use bolero::{TargetLocation, TestTarget};

/// The longest input made, in bytes. Decoders bound what they take by the length of their input, so longer ones find nothing new.
pub const INPUT_BYTES_MAX: usize = 4_096;

/// Runs a function of bytes as the target that has the name of the test around it; `inputs` is how many `cargo test` makes from
/// the corpus.
#[macro_export]
macro_rules! fuzz {
    ($target:expr) => {
        $crate::fuzz!($target, inputs = 20_000)
    };
    ($target:expr, inputs = $inputs:expr) => {{
        let location = $crate::bolero::TargetLocation {
            package_name: env!("CARGO_PKG_NAME"),
            manifest_dir: env!("CARGO_MANIFEST_DIR"),
            module_path: module_path!(),
            file: file!(),
            line: line!(),
            item_path: $crate::bolero::__item_path__!(),
            test_name: None,
        };
        $crate::run(location, $inputs, $target);
    }};
}

/// Runs a target: under `cargo test` over its corpus and `inputs` more; built for a fuzzer, for as long as that wants.
///
/// # Panics
/// Panics where the target does, with the input.
pub fn run(location: TargetLocation, inputs: usize, target: fn(&[u8])) {
    if !location.should_run() {
        return;
    }
    #[cfg(fuzzing)]
    {
        let _ = inputs;
        TestTarget::new(bolero::DefaultEngine::new(location)).for_each(target);
    }
    #[cfg(not(fuzzing))]
    TestTarget::new(engine::CorpusEngine::new(location, inputs)).for_each(target);
}
