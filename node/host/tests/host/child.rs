//! Processes of these tests' own, which can be killed.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, PoisonError, RwLock};

use semel_raft::Table;
use semel_raft_host::{Database, OpenDatabaseError};

/// Held while a process is started. Until it runs its own program it shares every file that this process has open, the locks on
/// data folders among them: a folder that another test closes in that moment stays locked for as long.
static STARTING: RwLock<()> = RwLock::new(());

/// Opens a database; every test of this binary does it here.
pub(crate) fn open(folder: &Path, tables: &[Table]) -> Result<Arc<Database>, OpenDatabaseError> {
    let _nobody_starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    Database::open(folder, tables)
}

/// The processes that these tests kill or limit are this same test, started again with the folder in the environment.
pub(crate) const FOLDER: &str = "SEMEL_RAFT_HOST_TEST_FOLDER";

pub(crate) fn child(test: &str, folder: &Path, limits: &str) -> Command {
    let executable = std::env::current_exe().expect("a test has a file");
    let mut command = shell(&format!("{limits} exec \"$0\" \"$@\""), executable.as_os_str());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command
}

/// A script of the shell whose `$0` is `argument`, and which says when it runs.
pub(crate) fn shell(script: &str, argument: &OsStr) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("echo started >&2; {script}")).arg(argument);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts a script of [`shell`] and waits until it runs; every test of this binary starts its processes here.
pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    let _alone = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    let mut process = command.spawn()?;
    // Starting returns a moment before the files are closed.
    let stderr = process.stderr.as_mut().expect("piped");
    let mut byte = [0];
    while byte != *b"\n" {
        stderr.read_exact(&mut byte)?;
    }
    Ok(process)
}

/// Starts a script of [`shell`] and waits for its end.
pub(crate) fn run(command: &mut Command) -> Output {
    start(command).and_then(Child::wait_with_output).expect("starts")
}
