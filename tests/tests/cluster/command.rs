//! Programs that do one thing and end.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use semel_sandbox::Mode;

use crate::binary::child_processes;

/// How long one may run.
const ENDS_WITHIN: Duration = Duration::from_secs(180);

/// Runs a program to its end, and gives what it said. One that does not end fails the test, not the whole suite's time.
pub(crate) async fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    let program = format!("{command:?}");
    let ended = tokio::process::Command::from(command).kill_on_drop(true).output();
    let ended = tokio::time::timeout(ENDS_WITHIN, ended).await;
    ended.unwrap_or_else(|_| panic!("{program} has not ended in {ENDS_WITHIN:?}")).expect("the program runs")
}

/// Runs `semel` as an operator does; whether it succeeded, and what it said.
pub(crate) async fn semel(addresses: &str, arguments: &[&str]) -> (bool, String) {
    let Mode::ChildProcesses { binary } = child_processes() else { unreachable!("it makes no other") };
    let mut command = Command::new(binary);
    command.args(arguments).env("SEMEL_ADDRESS", addresses);
    let ended = run(command).await;
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8_lossy(&said).into_owned())
}
