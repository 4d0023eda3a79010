//! Processes of these tests' own, which can be killed.

use std::path::Path;
use std::process::{Command, Stdio};

/// The processes that these tests kill or limit are this same test, started again with the folder in the environment.
pub(crate) const FOLDER: &str = "SEMEL_RAFT_HOST_TEST_FOLDER";

pub(crate) fn child(test: &str, folder: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    let executable = std::env::current_exe().expect("a test has a file");
    command.arg("-c").arg(format!("{shell} exec \"$0\" \"$@\"")).arg(executable);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::piped());
    command
}
