//! The `semel` binary that suites with processes run.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use semel_sandbox::Mode;

/// Child processes of the binary named in SEMEL_BINARY, or else of the one beside the tests, which is built now if it is missing.
pub(crate) fn child_processes() -> Mode {
    static BUILT: OnceLock<Mode> = OnceLock::new();
    let find = || Mode::child_processes().ok();
    BUILT
        .get_or_init(|| {
            find().unwrap_or_else(|| {
                build();
                find().expect("cargo puts the binary beside the tests")
            })
        })
        .clone()
}

fn build() {
    let own = env::current_exe().expect("a test has a path");
    let folder = own.parent().expect("an executable lies in a folder");
    assert!(folder.ends_with("release/deps"), "tests do not run from cargo's folder; name the binary in SEMEL_BINARY");
    let target: PathBuf = folder.ancestors().nth(2).expect("release/deps has a folder above it").to_owned();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--package", "semel-cli"]).env("CARGO_TARGET_DIR", target);
    if !cfg!(feature = "faiss") {
        cargo.arg("--no-default-features");
    }
    let built = cargo.status().expect("cargo runs");
    assert!(built.success(), "cargo build --package semel-cli: {built}");
}
