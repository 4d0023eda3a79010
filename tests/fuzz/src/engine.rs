//! What runs a target under `cargo test`: its corpus, then inputs made from it. The same ones each time, so that a run that
//! fails fails again; looking for new ones is the fuzzer's part.

use std::fmt::Debug;
use std::path::PathBuf;

use bolero::bolero_engine::{Failure, driver, input, panic};
use bolero::{Engine, TargetLocation, Test};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::corpus::Corpus;
use crate::mutation::mutated;

/// Sets another seed than 1, to make other inputs.
const SEED: &str = "SEED";
/// Sets how many inputs are made, whatever the target says.
const INPUTS: &str = "FUZZ_INPUTS";

pub(crate) struct CorpusEngine {
    location: TargetLocation,
    inputs: u64,
    seed: u64,
}

impl CorpusEngine {
    pub(crate) fn new(location: TargetLocation, inputs: usize) -> Self {
        Self { location, inputs: setting(INPUTS).unwrap_or(inputs as u64), seed: setting(SEED).unwrap_or(1) }
    }

    fn check<T: Test>(&self, test: &mut T, bytes: &[u8], name: &str, options: &driver::Options)
    where
        T::Value: Debug,
    {
        let Err(error) = test.test(&mut input::Bytes::new(bytes, options)) else { return };
        let error = error.to_string();
        let shrunken = test.shrink(bytes.to_vec(), None, options);
        panic::forward_panic(true);
        let kept = self.keep(bytes);
        match shrunken {
            Some(Failure { input, .. }) => eprintln!("the smallest input found that fails: {input:?}"),
            None => eprintln!("the input: {bytes:?}"),
        }
        panic!(
            "{error}\n{name} of target {} fails; it was written to {}, and belongs into the corpus once the defect is \
             mended",
            self.location.item_path(),
            kept.display()
        );
    }

    /// Writes a failing input where it can be found again.
    fn keep(&self, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("semel-fuzz-{}.bin", self.location.item_path()));
        if let Err(error) = std::fs::write(&path, bytes) {
            eprintln!("{}: {error}", path.display());
        }
        path
    }
}

impl<T: Test> Engine<T> for CorpusEngine
where
    T::Value: Debug,
{
    type Output = ();

    fn run(self, mut test: T, options: driver::Options) {
        let folder = self.location.work_dir().expect("the sources are where they were compiled").join("corpus");
        let corpus = Corpus::read(&folder);
        panic::set_hook();
        panic::forward_panic(false);
        for (name, bytes) in corpus.iter() {
            self.check(&mut test, bytes, name, &options);
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        for number in 0..self.inputs {
            let bytes = mutated(&corpus, &mut random);
            self.check(&mut test, &bytes, &format!("input {number} of {SEED}={}", self.seed), &options);
        }
        panic::forward_panic(true);
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")))
}
