//! `semel`: one binary for nodes, coordinators, local clusters and everything an operator or integrator types.

mod serve;
mod logs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Finds duplicate enrolments: a sharded, replicated cluster for biometric registries.
#[derive(Debug, Parser)]
#[command(name = "semel", version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a storage node.
    Node(serve::NodeArguments),
    /// Runs a coordinator.
    Coordinator(serve::CoordinatorArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Node(node) => serve::node(node),
        Command::Coordinator(coordinator) => serve::coordinator(coordinator),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
