//! Seeds of the whole cluster: every checker is content with each, and together they leave out nothing that they know.

use semel_simulation::batch;
use semel_simulation::{Detail, simulate};

const SEEDS: u64 = 200;

#[test]
fn every_checker_is_content_with_the_first_seeds() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcome = batch::run(0..SEEDS, threads, None, &|_| {}).expect("no file of progress is read or written");
    for (seed, violations) in &outcome.failed {
        println!("SEED={seed} make sim      # {}", violations.join("; "));
    }
    print!("{}", outcome.tally);
    assert!(outcome.failed.is_empty(), "{} of {SEEDS} seeds failed", outcome.failed.len());
    assert_eq!(outcome.seeds, SEEDS);
    let never = outcome.tally.never();
    assert!(never.is_empty(), "no seed came to: {}", never.join(", "));
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    for seed in [1, 2, 3, 8_812] {
        let [one, other] = [(); 2].map(|()| simulate(seed, None, Detail::Whole));
        let lines: Vec<&str> = one.trace.lines().collect();
        assert!(lines.len() > 300, "{} lines are too few to mean anything", lines.len());
        assert!(lines.iter().copied().eq(other.trace.lines()), "SEED={seed}: two runs differ");
        assert_eq!(one.trace.digest(), other.trace.digest());
        assert_eq!(one.tally, other.tally);
        assert_eq!(simulate(seed, None, Detail::Digest).trace.digest(), one.trace.digest(), "looking changes nothing");
    }
}

#[test]
fn a_batch_that_was_interrupted_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("progress");
    let noted = std::sync::Mutex::new(String::new());
    // What the file holds while the second part is run.
    let look = |_| *noted.lock().expect("one thread") = std::fs::read_to_string(&file).unwrap_or_default();
    let once = batch::run(0..40, 1, Some(&file), &look).expect("a new file");
    assert!(!file.exists(), "a batch that is complete leaves nothing behind");
    let noted = noted.into_inner().expect("one thread");
    assert_eq!(noted.lines().count(), 1, "one part of two");
    // As if the process had been killed while it wrote the second line.
    std::fs::write(&file, format!("{noted}{}", &noted[..noted.len() / 2])).expect("the file can be written");
    let run = std::sync::atomic::AtomicU64::new(0);
    let count = |seeds| {
        run.fetch_add(seeds, std::sync::atomic::Ordering::Relaxed);
    };
    let again = batch::run(0..40, 1, Some(&file), &count).expect("the file of before");
    assert_eq!(again.tally, once.tally);
    assert_eq!((again.seeds, again.resumed), (40, 20));
    assert_eq!(run.into_inner(), 40, "what was done counts too");
}
