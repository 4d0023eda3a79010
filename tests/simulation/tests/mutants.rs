//! A checker that no defect fails checks nothing: every deliberate defect is noticed by a checker that it is meant for, and
//! every checker notices one.

use semel_simulation::batch::{defect_noticed_by, seeds_until_caught};
use semel_simulation::checkers::CHECKERS;
use semel_simulation::mutant::Mutant;

/// Enough for the rarest.
const SEEDS_MAX: u64 = 600;

#[test]
fn every_defect_is_noticed_by_a_checker_that_it_is_meant_for() {
    // Replicas that panic on a broken log do so on purpose.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut survivors = Vec::new();
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(mutant) = Mutant::ALL.get(number) else { return survivors };
            match seeds_until_caught(*mutant, mutant.caught_by(), SEEDS_MAX) {
                Some((seeds, checker)) => println!("{}: {checker} after {seeds} seeds", mutant.name()),
                None => survivors.push(mutant.name()),
            }
        }
    };
    let survivors: Vec<&str> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("panics of seeds are caught")).collect()
    });
    assert!(survivors.is_empty(), "no checker notices {}", survivors.join(", "));
}

#[test]
fn every_checker_notices_a_defect_by_itself() {
    std::panic::set_hook(Box::new(|_| {}));
    for checker in CHECKERS {
        match defect_noticed_by(checker.name, SEEDS_MAX) {
            Some((mutant, seeds)) => println!("{}: notices {} after {seeds} seeds", checker.name, mutant.name()),
            None => panic!("no defect that {} is meant for fails it", checker.name),
        }
    }
}
