//! `make sim`: runs seeds of the simulation, shows a seed that fails, and shows which defects the checkers notice.

use std::fmt::Write as _;
use std::fs;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use semel_simulation::batch::{self, Outcome};
use semel_simulation::checkers::CHECKERS;
use semel_simulation::mutant::Mutant;
use semel_simulation::{Detail, Run};

/// Lines of the trace that a failure shows.
const LAST_LINES: usize = 60;
/// Failed seeds that a batch shows one by one.
const FAILED_SHOWN_MAX: usize = 10;

/// Runs the whole cluster in one thread, from seeds, through faults, and checks what it promises.
///
/// Without options: the first 200 seeds, on all cores. A batch that was interrupted goes on where it was, as long as the program
/// is the same.
#[derive(Parser)]
#[command(name = "semel-simulation")]
struct Options {
    /// Runs this seed alone and shows what it did; on failure, the last events.
    #[arg(long, env = "SEED", conflicts_with = "mutants")]
    seed: Option<u64>,
    /// Shows every event of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many seeds to run.
    #[arg(long, env = "SEEDS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, env = "FIRST_SEED", default_value_t = 0)]
    first: u64,
    /// Threads; one per core by default.
    #[arg(long, env = "SIM_THREADS")]
    threads: Option<usize>,
    /// Runs the deliberate defects instead, each until a checker notices it, and prints which did.
    #[arg(long)]
    mutants: bool,
    /// Gives the seed this defect.
    #[arg(long, requires = "seed", value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Where a batch notes how far it is; in the temporary folder by default.
    #[arg(long, env = "SIM_PROGRESS")]
    progress: Option<PathBuf>,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let found = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Replicas that panic are caught and told of by a checker.
    std::panic::set_hook(Box::new(|_| {}));
    match options.seed {
        Some(seed) => one(&options, seed),
        None if options.mutants => mutants(),
        None => many(&options),
    }
}

fn one(options: &Options, seed: u64) -> ExitCode {
    let detail = if options.trace { Detail::Whole } else { Detail::Last(LAST_LINES) };
    let run = batch::run_seed(seed, options.mutant, detail);
    let failed = !run.violations.is_empty();
    if options.trace || failed {
        run.trace.lines().for_each(|line| println!("{line}"));
    }
    print!("{}", run.tally);
    println!(
        "{} simulated seconds, {} events, trace {:016x}",
        seconds(run.simulated_micros),
        run.trace.events(),
        run.trace.digest()
    );
    println!("{}", verdict(&run));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One line that says what a seed came to and how to run it again.
fn verdict(run: &Run) -> String {
    let mut line = format!("SEED={} make sim", run.seed);
    if run.violations.is_empty() {
        line.push_str("      # every checker is content");
    }
    for violation in &run.violations {
        write!(line, "\n      # {violation}").expect("a string grows");
    }
    line
}

fn many(options: &Options) -> ExitCode {
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let progress = options.progress.clone().or_else(progress_file);
    let bar = bar(options.seeds);
    let each = |seeds| bar.inc(seeds);
    let seeds = options.first..options.first.saturating_add(options.seeds);
    let outcome = match batch::run(seeds, threads, progress.as_deref(), &each) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("progress file {}: {error}", progress.unwrap_or_default().display());
            return ExitCode::FAILURE;
        }
    };
    bar.finish_and_clear();
    report(&outcome);
    if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(outcome: &Outcome) {
    print!("{}", outcome.tally);
    let never = outcome.tally.never();
    if !never.is_empty() {
        println!("never: {}", never.join(", "));
    }
    println!(
        "{} seeds, {} simulated seconds, {:.3} core-seconds a seed",
        outcome.seeds,
        seconds(outcome.simulated_micros),
        outcome.core_micros as f64 / 1e6 / outcome.seeds.max(1) as f64
    );
    if outcome.resumed > 0 {
        println!("{} of them were run before this batch was interrupted", outcome.resumed);
    }
    for (seed, violations) in outcome.failed.iter().take(FAILED_SHOWN_MAX) {
        println!("SEED={seed} make sim      # {}", violations.join("; "));
    }
    println!("{} of {} seeds failed", outcome.failed.len(), outcome.seeds);
    if let Some((seed, _)) = outcome.failed.first() {
        println!("\nThe last events of seed {seed}:");
        batch::run_seed(*seed, None, Detail::Last(LAST_LINES)).trace.lines().for_each(|line| println!("{line}"));
    }
}

/// Seeds after which a defect counts as one that no checker notices.
const MUTANT_SEEDS_MAX: u64 = 400;

fn mutants() -> ExitCode {
    println!("| defect | what it does | caught by | seeds |");
    println!("|---|---|---|---|");
    let mut survived = 0;
    for mutant in Mutant::ALL {
        let (caught_by, seeds) = match batch::seeds_until_caught(*mutant, mutant.caught_by(), MUTANT_SEEDS_MAX) {
            Some((seeds, checker)) => (checker, seeds.to_string()),
            None => {
                survived += 1;
                ("nothing", format!("> {MUTANT_SEEDS_MAX}"))
            }
        };
        println!("| {} | {} | `{caught_by}` | {seeds} |", mutant.name(), mutant.words());
    }
    println!("\n| checker | a defect that it notices by itself | seeds |");
    println!("|---|---|---|");
    let mut blind = 0;
    for checker in CHECKERS {
        let noticed = batch::defect_noticed_by(checker.name, MUTANT_SEEDS_MAX);
        blind += u32::from(noticed.is_none());
        let (defect, seeds) = noticed.map_or(("none", 0), |(mutant, seeds)| (mutant.name(), seeds));
        println!("| `{}` | {defect} | {seeds} |", checker.name);
    }
    if survived + blind == 0 {
        return ExitCode::SUCCESS;
    }
    println!(
        "\n{blind} checkers notice nothing and {survived} defects survived; those inside the cores need a build with the feature `mutants`"
    );
    ExitCode::FAILURE
}

fn seconds(micros: u64) -> u64 {
    micros / 1_000_000
}

fn bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left").expect("a valid template");
    let bar = ProgressBar::new(seeds).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A file that belongs to this build of the program: what another build found says nothing of this one.
fn progress_file() -> Option<PathBuf> {
    let program = fs::read(std::env::current_exe().ok()?).ok()?;
    let build = blake3::hash(&program).to_hex();
    Some(std::env::temp_dir().join(format!("semel-simulation-{}.jsonl", &build[..16])))
}
