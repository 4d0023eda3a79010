//! Runs seeds.
use semel_simulation::{Detail, simulate};
fn main() {
    let from: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(0);
    let to: u64 = std::env::args().nth(2).and_then(|a| a.parse().ok()).unwrap_or(from + 1);
    let detail = if std::env::args().nth(3).is_some() { Detail::Whole } else { Detail::Digest };
    let mut tally = semel_simulation::Tally::default();
    for seed in from..to {
        let started = std::time::Instant::now();
        let run = simulate(seed, None, detail);
        println!("{seed}: {} events, {} ms, simulated {} s, {:x} {:?}", run.trace.events(), started.elapsed().as_millis(), run.simulated_micros / 1_000_000, run.trace.digest(), run.violations.iter().map(|v| v.to_string()).collect::<Vec<_>>());
        for line in run.trace.lines() { println!("{line}"); }
        tally.add(&run.tally);
    }
    print!("{tally}");
}
