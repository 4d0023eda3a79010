//! `semel status --watch`: it goes on while coordinators and nodes die.

use std::process::Stdio;
use std::time::Duration;

use semel_sandbox::{Mode, Sandbox};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::binary::child_processes;

const WITHIN: Duration = Duration::from_secs(60);

/// A watch whose output is no terminal, and its lines.
fn watch(addresses: &[String], arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let Mode::ChildProcesses { binary } = child_processes() else { unreachable!("it makes no other") };
    let mut command = Command::new(binary);
    command.args(["status", "--watch=0.2", "--address", &addresses.join(",")]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the program starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines)
}

/// Reads lines until one contains everything.
async fn until(lines: &mut Lines<BufReader<ChildStdout>>, parts: &[&str]) -> String {
    let mut last = String::new();
    let found = tokio::time::timeout(WITHIN, async {
        loop {
            last = lines.next_line().await.expect("it writes lines").expect("it does not end");
            if parts.iter().all(|part| last.contains(part)) {
                return;
            }
        }
    });
    assert!(found.await.is_ok(), "no line with {parts:?}; the last was {last}");
    last
}

#[tokio::test]
async fn a_watch_survives_coordinators_and_nodes_and_ends_when_told() {
    let builder = Sandbox::builder().mode(child_processes()).coordinators(3).shards(4).engine("exact");
    let sandbox = builder.start().await.expect("the cluster starts");
    // One name is enough: the others are learnt.
    let (mut child, mut lines) = watch(&sandbox.endpoints()[..1], &[]);
    let line = until(&mut lines, &["nodes 3/3", "shards led 4/4", "searches 0.0/s", "staged backlog 0"]).await;
    assert!(line.contains(": ready;"), "{line}");
    sandbox.kill_coordinator(0).await.expect("it runs");
    sandbox.kill_node(0).await.expect("it runs");
    until(&mut lines, &["ready, with reduced redundancy", "nodes 2/3", "shards led 4/4"]).await;
    sandbox.kill_coordinator(1).await.expect("it runs");
    sandbox.kill_coordinator(2).await.expect("it runs");
    until(&mut lines, &["no coordinator answers"]).await;
    for coordinator in 0..3 {
        sandbox.restart_coordinator(coordinator).await.expect("it starts");
    }
    sandbox.restart_node(0).await.expect("it starts");
    until(&mut lines, &[": ready;", "nodes 3/3", "lag max 0"]).await;

    let id = child.id().and_then(|id| i32::try_from(id).ok()).expect("it runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGINT).expect("it is ours");
    let ended = tokio::time::timeout(WITHIN, child.wait()).await.expect("it ends").expect("it was started");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_watch_as_json_is_a_document_per_line() {
    let sandbox = Sandbox::builder().mode(child_processes()).shards(2).engine("exact").start().await.expect("starts");
    let (_child, mut lines) = watch(&sandbox.endpoints(), &["--output", "json"]);
    let line = until(&mut lines, &["\"rates_per_second\":{"]).await;
    let document: serde_json::Value = serde_json::from_str(&line).expect("a document");
    assert_eq!(document["status"]["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(document["rates_per_second"]["searches"], 0.0);
    assert!(document["status"]["nodes"][0]["resident_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000));
}
