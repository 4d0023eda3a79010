//! Clients that know the services from reflection alone, exactly as the README shows them.
//!
//! They need the tools that `deploy/setup` installs; where those are missing, the test says so and ends.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use semel_sandbox::{Sandbox, requests};

use crate::command::run;
use crate::registry::recorded;

/// The address that the README's examples call.
const README_ADDRESS: &str = "127.0.0.1:7400";

/// A program of `deploy/setup`'s tools: in $SEMEL_TOOLS, or where that is unset in the folder that the script fills.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("SEMEL_TOOLS")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/semel/venv")));
    let program = folder?.join("bin").join(name);
    if !program.is_file() {
        println!("skipped: {} is not installed; deploy/setup tools installs it", program.display());
        return None;
    }
    Some(program)
}

/// The first block of a language in the README that contains `sign`.
fn readme_block(language: &str, sign: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).expect("the README is there");
    let opening = format!("```{language}\n");
    let mut blocks =
        text.split(opening.as_str()).skip(1).map(|rest| rest.split("```").next().expect("split gives one"));
    blocks.find(|block| block.contains(sign)).unwrap_or_else(|| panic!("no {language} block with {sign}")).to_owned()
}

fn assert_success(output: &Output) -> String {
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);
    said.into_owned()
}

#[tokio::test]
async fn grpcurl_lists_creates_and_enrols_as_the_readme_shows() {
    let Some(grpcurl) = tool("grpcurl") else { return };
    let sandbox = Sandbox::builder().engine("exact").start().await.expect("the cluster starts");
    let address = sandbox.endpoint().replace("http://", "");
    let script = readme_block("sh", "grpcurl -plaintext").replace(README_ADDRESS, &address);
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]);
    let folder = grpcurl.parent().expect("a program lies in a folder").to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([folder].into_iter().chain(env::split_paths(&path))).expect("folders without colons");
    command.env("PATH", path);
    let said = assert_success(&run(command).await);
    for expected in ["semel.v1.EnrolmentService", "ENROLMENT_STATE_UNIQUE"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(recorded(&sandbox.enrolments(), "faces", "r-1").await.verdict.is_some());
}

#[tokio::test]
async fn ten_lines_of_python_enrol_as_the_readme_shows() {
    let Some(python) = tool("python") else { return };
    let mut check = Command::new(&python);
    check.args(["-c", "import grpc, grpc_reflection"]);
    if !run(check).await.status.success() {
        println!("skipped: grpcio and grpcio-reflection are not installed; deploy/setup tools installs them");
        return;
    }
    let sandbox = Sandbox::builder().engine("exact").start().await.expect("the cluster starts");
    sandbox.galleries().create_gallery(requests::face_gallery("faces", 4, 0.42)).await.expect("the gallery is created");
    let script = sandbox.data_dir().join("readme.py");
    fs::write(&script, readme_block("python", "grpc_reflection")).expect("the script is written");
    let mut command = Command::new(&python);
    command.arg(&script).arg(sandbox.endpoint().replace("http://", "")).arg("r-1");
    let said = assert_success(&run(command).await);
    assert!(said.contains("ENROLMENT_STATE_UNIQUE"), "{said}");
    assert!(recorded(&sandbox.enrolments(), "faces", "r-1").await.verdict.is_some());
}
