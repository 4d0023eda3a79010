//! Many seeds on all cores, with what they did added up. A batch that was interrupted goes on where it was.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkers::Violation;
use crate::mutant::Mutant;
use crate::tally::Tally;
use crate::trace::Detail;
use crate::{Run, simulate};

/// Seeds that a thread takes at a time, and after which it notes how far it is.
const SEEDS_TOGETHER: u64 = 20;

/// What a batch came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Seeds that were run, now or before the batch was interrupted.
    pub seeds: u64,
    /// Those of them that were run before.
    #[serde(default)]
    pub resumed: u64,
    /// What they did and suffered.
    pub tally: Tally,
    /// What they cost, in microseconds of one core.
    pub core_micros: u64,
    /// How long they were for those who took part, in microseconds.
    pub simulated_micros: u64,
    /// The seeds that contradict a checker, each with what.
    pub failed: Vec<(u64, Vec<String>)>,
}

/// One part of a batch, as a line of its file of progress.
#[derive(Serialize, Deserialize)]
struct Part {
    first: u64,
    outcome: Outcome,
}

impl Outcome {
    /// Adds what another batch came to.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.tally.add(&other.tally);
        self.core_micros += other.core_micros;
        self.simulated_micros += other.simulated_micros;
        self.failed.extend(other.failed.iter().cloned());
    }

    fn take(&mut self, run: &Run, core_micros: u64) {
        self.seeds += 1;
        self.tally.add(&run.tally);
        self.core_micros += core_micros;
        self.simulated_micros += run.simulated_micros;
        if !run.violations.is_empty() {
            self.failed.push((run.seed, run.violations.iter().map(ToString::to_string).collect()));
        }
    }
}

/// Runs `seeds` on `threads` threads, and tells `each` how many are done. With a file of progress, what it holds of these seeds
/// is not run again, and what is run is added to it.
///
/// # Errors
/// If the file of progress cannot be read or written.
pub fn run(
    seeds: Range<u64>,
    threads: usize,
    progress: Option<&Path>,
    each: &(dyn Fn(u64) + Sync),
) -> io::Result<Outcome> {
    let parts = progress.map_or_else(|| Ok(Vec::new()), |path| read_progress(path, &seeds))?;
    let done: BTreeSet<u64> = parts.iter().map(|part| part.first).collect();
    let mut all = Outcome::default();
    parts.iter().for_each(|part| all.add(&part.outcome));
    each(all.seeds);
    let resumed = all.seeds;
    let file = progress.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    let shared = Mutex::new((all, file));
    let next = AtomicU64::new(seeds.start);
    let work = || -> io::Result<()> {
        loop {
            let first = next.fetch_add(SEEDS_TOGETHER, Ordering::Relaxed);
            if first >= seeds.end {
                return Ok(());
            }
            if done.contains(&first) {
                continue;
            }
            let mut outcome = Outcome::default();
            for seed in first..seeds.end.min(first + SEEDS_TOGETHER) {
                let begun = core_time();
                let run = run_seed(seed, None, Detail::Digest);
                outcome.take(&run, (core_time() - begun).as_micros() as u64);
                each(1);
            }
            let mut shared = shared.lock().expect("no thread panics while it holds this");
            shared.0.add(&outcome);
            if let Some(file) = &mut shared.1 {
                write_part(file, &Part { first, outcome })?;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a seed that panics is caught"))
    })?;
    let (mut all, file) = shared.into_inner().expect("no thread panics while it holds this");
    // The batch is complete: the next one starts anew.
    drop(file);
    if let Some(path) = progress {
        std::fs::remove_file(path)?;
    }
    all.resumed = resumed;
    all.failed.sort();
    Ok(all)
}

/// As [`simulate`]; a panic is a violation too.
pub fn run_seed(seed: u64, mutant: Option<Mutant>, detail: Detail) -> Run {
    let ran = catch_unwind(AssertUnwindSafe(|| simulate(seed, mutant, detail)));
    ran.unwrap_or_else(|panic| {
        let what = crate::host::panic_message(panic.as_ref());
        let violations = vec![Violation { checker: "no_panic", what }];
        Run { seed, violations, tally: Tally::default(), trace: crate::Trace::new(Detail::Digest), simulated_micros: 0 }
    })
}

/// Runs seeds with a defect until one of `checkers` notices it. Returns how many that took and which checker it was; `None` if
/// none of `seeds_max` is enough.
pub fn seeds_until_caught(mutant: Mutant, checkers: &[&'static str], seeds_max: u64) -> Option<(u64, &'static str)> {
    (0..seeds_max).find_map(|seed| {
        let run = run_seed(seed, Some(mutant), Detail::Digest);
        let caught = run.violations.iter().find(|violation| checkers.contains(&violation.checker))?;
        Some((seed + 1, caught.checker))
    })
}

/// Finds a defect that this checker itself notices, among those that it is meant for, and how many seeds that took.
pub fn defect_noticed_by(checker: &'static str, seeds_max: u64) -> Option<(Mutant, u64)> {
    let meant = Mutant::ALL.iter().filter(|mutant| mutant.caught_by().contains(&checker));
    meant.copied().find_map(|mutant| Some((mutant, seeds_until_caught(mutant, &[checker], seeds_max)?.0)))
}

fn read_progress(path: &Path, seeds: &Range<u64>) -> io::Result<Vec<Part>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut parts: Vec<Part> = Vec::new();
    for line in BufReader::new(file).lines() {
        // The last line may have been cut off by what interrupted the batch: its seeds are run again.
        if let Ok(part) = serde_json::from_str::<Part>(&line?) {
            parts.push(part);
        }
    }
    let whole = |part: &Part| part.outcome.seeds == seeds.end.min(part.first + SEEDS_TOGETHER) - part.first;
    let aligned = |part: &Part| (part.first - seeds.start).is_multiple_of(SEEDS_TOGETHER);
    parts.retain(|part| seeds.contains(&part.first) && aligned(part) && whole(part));
    parts.sort_by_key(|part| part.first);
    parts.dedup_by_key(|part| part.first);
    Ok(parts)
}

fn write_part(file: &mut File, part: &Part) -> io::Result<()> {
    let mut line = serde_json::to_vec(part)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// The time that this thread has had a core, for people: nothing depends on it.
fn core_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    nix::time::clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
