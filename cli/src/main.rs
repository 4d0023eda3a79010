//! `semel`: one binary for nodes, coordinators, local clusters and everything an operator or integrator types.

mod bench;
mod cases;
mod cluster;
mod connect;
mod demo;
mod document;
mod enrol;
mod enrolments;
mod exit;
mod gallery;
mod identify;
mod local;
mod logs;
mod number;
mod output;
mod records;
mod serve;
mod status;
mod traces;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use exit::{EXIT_CODES, Exit};
use traces::ClientTrace;

/// Finds duplicate enrolments: a sharded, replicated cluster for biometric registries.
#[derive(Debug, Parser)]
#[command(
    name = "semel",
    version,
    max_term_width = 120,
    after_help = format!("\
First steps:
    semel demo                                     a cluster, real and synthetic people, a killed node, a report
    semel local --data ./cluster                   a cluster to keep, on 127.0.0.1:7400
    semel gallery create people --modality face --dimension 512 --threshold 0.42
    semel enrol --gallery people people.npy
    semel cases --gallery people

{EXIT_CODES}")
)]
struct Arguments {
    /// Starts a trace for a client command and tells its id, so that what servers did for it can be found in their collector.
    #[arg(long, env = "SEMEL_TRACE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    trace: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Node(serve::NodeArguments),
    Coordinator(serve::CoordinatorArguments),
    Local(local::LocalArguments),
    Demo(demo::DemoArguments),
    Gallery(gallery::GalleryArguments),
    Enrol(enrol::EnrolArguments),
    Get(enrolments::GetArguments),
    Withdraw(enrolments::WithdrawArguments),
    Identify(identify::IdentifyArguments),
    Verify(identify::VerifyArguments),
    Cases(cases::CasesArguments),
    Status(status::StatusArguments),
    Bench(bench::BenchArguments),
    Cluster(cluster::ClusterArguments),
}

fn main() -> ExitCode {
    let Arguments { trace, command } = parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(trace, command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let advice = connect::advice(&error).map_or_else(String::new, |advice| format!("; {advice}"));
            output::error(format_args!("{error:#}{advice}"));
            Exit::of(&error).into()
        }
    }
}

fn parse(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Arguments, clap::Error> {
    let mut command = with_negative_numbers(Arguments::command());
    let matches = command.try_get_matches_from_mut(line)?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Has negative numbers taken for values, so that whoever gives one is told what may be given, and not that there is no such flag.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let takes = |argument: clap::Arg| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    };
    command.mut_args(takes).mut_subcommands(with_negative_numbers)
}

fn run(trace: bool, command: Command) -> anyhow::Result<Exit> {
    // Servers take part in the traces of their callers.
    let serves = matches!(command, Command::Node(_) | Command::Coordinator(_) | Command::Local(_));
    let _trace = (trace && !serves).then(ClientTrace::start).transpose()?;
    match command {
        Command::Node(node) => serve::node(node).map(|()| Exit::Done),
        Command::Coordinator(coordinator) => serve::coordinator(coordinator).map(|()| Exit::Done),
        Command::Local(local) => wait(local::run(local)),
        Command::Demo(demo) => wait(demo::run(demo)),
        Command::Gallery(gallery) => wait(gallery::run(gallery)),
        Command::Enrol(enrol) => wait(enrol::run(enrol)),
        Command::Get(get) => wait(enrolments::get(get)),
        Command::Withdraw(withdraw) => wait(enrolments::withdraw(withdraw)),
        Command::Identify(identify) => wait(identify::identify(identify)),
        Command::Verify(verify) => wait(identify::verify(verify)),
        Command::Cases(cases) => wait(cases::run(cases)),
        Command::Status(status) => wait(status::run(status)),
        Command::Bench(bench) => wait(bench::run(bench)),
        Command::Cluster(cluster) => wait(cluster::run(cluster)),
    }
}

/// Runs a client command to its end.
fn wait(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(command);
    // A thread may wait for input that never comes; nothing that must be finished is left to it.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const HELP: &str = include_str!("../tests/help.txt");

    /// The long help of a command and of all below it.
    fn render(command: &mut clap::Command, path: &str, text: &mut String) {
        writeln!(text, "=== {path}\n{}", command.render_long_help()).expect("strings take everything");
        let names: Vec<String> = command.get_subcommands().map(|each| each.get_name().to_owned()).collect();
        for name in names {
            let below = command.find_subcommand_mut(&name).expect("it was listed just now");
            render(below, &format!("{path} {name}"), text);
        }
    }

    #[test]
    fn help_is_as_reviewed() {
        let mut command = Arguments::command().term_width(120);
        command.build();
        let mut text = String::new();
        render(&mut command, "semel", &mut text);
        let text: Vec<&str> = text.lines().map(str::trim_end).collect();
        let text = text.join("\n") + "\n";
        if let Some(path) = std::env::var_os("SEMEL_WRITE_HELP") {
            std::fs::write(path, &text).expect("the file can be written");
        }
        assert!(
            text == HELP,
            "read the new help, then keep it: SEMEL_WRITE_HELP=$PWD/cli/tests/help.txt cargo test -p semel-cli help_is"
        );
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// What `semel` says to a command line that is refused.
    fn refused(line: &str) -> String {
        match parse(line.split(' ')) {
            Err(wrong) => {
                assert_eq!(wrong.exit_code(), Exit::Usage as i32, "{line}");
                wrong.to_string()
            }
            Ok(Arguments { trace, command }) => {
                let error = run(trace, command).expect_err(line);
                assert_eq!(Exit::of(&error), Exit::Usage, "{line}: {error:#}");
                format!("{error:#}")
            }
        }
    }

    /// Some of these once exited with 1, named no limit, or were taken for something else.
    #[test]
    fn what_a_setting_must_be_is_told_and_exits_with_2() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (at, broken) = (folder.path().display(), folder.path().join("broken.json"));
        std::fs::write(&broken, "{\"rows\": []}").expect("written");
        let many = "99999999999999999999";
        let check = |line: &str, parts: &[&str]| {
            let said = refused(line);
            assert!(parts.iter().all(|part| said.contains(part)), "{line}: {said}");
        };
        check("semel local --engine nonsense", &["--engine", "nonsense", "must be exact, sketch"]);
        check("semel local --nodes 65", &["--nodes", "from 1 to 64"]);
        check("semel local --nodes -1", &["--nodes", "from 1 to 64"]);
        check("semel gallery update people --engine=", &["--engine", "`default`"]);
        check("semel gallery update people --miss-budget-ppb 0", &["--miss-budget-ppb", "from 1 to 1000000"]);
        let create = "semel gallery create people --modality face --threshold 0.4 --dimension";
        check(&format!("{create} 5000"), &["--dimension", "from 4 to 4096"]);
        check(&format!("semel enrol --gallery people --in-flight {many} x.npy"), &["--in-flight", "from 1 to 4096"]);
        check(&format!("semel demo --people {many}"), &["--people", "from 100 to 1000000"]);
        let plot = |file: &str| format!("semel bench plot {at}/{file}.json --out {at}/drawn.svg");
        check(&plot("missing"), &["missing.json", "No such file", "bench engines --save"]);
        check(&plot("broken"), &["broken.json", "`version`", "bench engines --save"]);
    }

    #[test]
    fn a_wrong_command_line_exits_with_2() {
        let wrong = parse(["semel", "enrol"]).expect_err("a gallery and files are required");
        assert_eq!(wrong.exit_code(), Exit::Usage as i32);
    }
}
