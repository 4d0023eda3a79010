//! `semel enrol` as a process: interrupted whenever and started again, fed with bad rows, and with files larger than it may become.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use semel_client::{Client, Settings};
use semel_population::Population;
use semel_proto::v1::EnrolRequest;
use semel_sandbox::{Mode, Sandbox, requests};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::binary::child_processes;
use crate::people::{self, DIMENSION, THRESHOLD, capture};
use crate::registry::wait_quiet;

const GALLERY: &str = "people";
/// How long one run may take on a machine that does other things too.
const RUN_WITHIN: Duration = Duration::from_secs(240);

async fn cluster() -> (Sandbox, Client) {
    let sandbox = Sandbox::builder().nodes(3).engine("exact").start().await.expect("the cluster starts");
    let client = Client::new(sandbox.endpoints(), Settings::default()).expect("addresses");
    client.create_gallery(requests::face_gallery(GALLERY, DIMENSION, THRESHOLD)).await.expect("the gallery is created");
    (sandbox, client)
}

/// One run of `semel enrol`.
struct Run {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

/// How a run ended.
struct RunEnded {
    code: Option<i32>,
    /// The documents that were read by [`Run::end`].
    documents: Vec<serde_json::Value>,
    stderr: String,
}

impl RunEnded {
    fn summary(&self) -> &serde_json::Value {
        let summary = self.documents.iter().find_map(|document| document.get("summary"));
        summary.unwrap_or_else(|| panic!("no summary: {}", self.stderr))
    }
}

impl Run {
    fn start(sandbox: &Sandbox, file: &Path, more: &[&str]) -> Self {
        let Mode::ChildProcesses { binary } = child_processes() else { panic!("processes have a binary") };
        let address = sandbox.endpoints().join(",");
        let mut child = Command::new(binary)
            .args(["enrol", "--output", "json", "--gallery", GALLERY, "--address", &address])
            .args(more)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, answers }
    }

    /// Waits until so many answers were told; fewer if the run ends before.
    async fn answers(&mut self, count: usize) {
        for _ in 0..count {
            if self.answers.next_line().await.expect("standard output is text").is_none() {
                break;
            }
        }
    }

    /// Reads answers until the progress file says that some of them are kept.
    async fn kept(&mut self, progress: &Path) {
        let is_kept = || {
            let bytes = fs::read(progress).ok()?;
            let document: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            document["records"].as_u64().filter(|records| *records > 0)
        };
        while is_kept().is_none() && self.answers.next_line().await.expect("standard output is text").is_some() {}
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(pid as i32), signal).expect("a child can be sent signals");
    }

    async fn end(mut self) -> RunEnded {
        let ended = async {
            let mut lines = Vec::new();
            while let Some(line) = self.answers.next_line().await.expect("standard output is text") {
                lines.push(line);
            }
            let mut stderr = String::new();
            let mut piped = self.child.stderr.take().expect("piped");
            piped.read_to_string(&mut stderr).await.expect("standard error is text");
            let code = self.child.wait().await.expect("it ends").code();
            if code.is_none() {
                // A kill may cut the last line short.
                lines.pop();
            }
            let documents =
                lines.iter().map(|line| serde_json::from_str(line).expect("one document per line")).collect();
            RunEnded { code, documents, stderr }
        };
        tokio::time::timeout(RUN_WITHIN, ended).await.expect("the run ends")
    }
}

/// The bytes of an array of so many rows.
fn npy(rows: usize, dimension: usize, values: impl Iterator<Item = f32>) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).expect("short").to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.flat_map(f32::to_le_bytes));
    bytes
}

/// People in a file; some rows cannot be read, some are refused by the cluster.
struct Input {
    folder: TempDir,
    people: Population,
    rows: u32,
}

impl Input {
    fn write(seed: u64, rows: u32) -> Self {
        let input = Self { folder: tempfile::tempdir().expect("a folder"), people: people::people(seed, rows), rows };
        let values = (0..rows).flat_map(|row| capture(&input.people, row, 0));
        fs::write(input.path("people.npy"), npy(rows as usize, DIMENSION as usize, values)).expect("written");
        let mut table = "enrolment_id,quality,modality\n".to_owned();
        for row in 0..rows {
            let quality = if Self::is_unreadable(row) { "good" } else { "80" };
            let modality = if Self::is_refused(row) { "voice" } else { "face" };
            table.push_str(&format!("{},{quality},{modality}\n", Self::id(row)));
        }
        fs::write(input.path("people.csv"), table).expect("written");
        input
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn id(row: u32) -> String {
        format!("row-{row:05}")
    }

    fn is_unreadable(row: u32) -> bool {
        row % 50 == 17
    }

    /// Of a modality that the gallery does not have.
    fn is_refused(row: u32) -> bool {
        row % 70 == 23 && !Self::is_unreadable(row)
    }

    fn good(&self) -> impl Iterator<Item = u32> {
        (0..self.rows).filter(|row| !Self::is_unreadable(*row) && !Self::is_refused(*row))
    }

    fn request(&self, row: u32) -> EnrolRequest {
        let mut request = requests::face_enrolment(GALLERY, &Self::id(row), &capture(&self.people, row, 0));
        request.references[0].quality = Some(80);
        request
    }

    /// Checks that the cluster holds the good rows and nothing else, each as it is in the file.
    async fn assert_enrolled(&self, sandbox: &Sandbox, client: &Client) {
        let status = wait_quiet(sandbox, GALLERY).await;
        let live = status.galleries.iter().find(|counts| counts.gallery == GALLERY).expect("it is there").live;
        assert_eq!(live, self.good().count() as u64);
        for row in self.good() {
            // The same content gives what is on record, other content is refused.
            let outcome = client.enrol(self.request(row)).await.unwrap_or_else(|error| panic!("row {row}: {error}"));
            assert!(outcome.is_final(), "row {row}");
        }
        let status = wait_quiet(sandbox, GALLERY).await;
        let live_after = status.galleries.iter().find(|counts| counts.gallery == GALLERY).expect("it is there").live;
        assert_eq!(live_after, live, "some were not on record");
    }

    fn assert_rejects(&self, path: &Path) {
        let text = fs::read_to_string(path).expect("a rejects file");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("file,row,enrolment_id,reason"));
        // A row of the table is its line, the header being the first.
        let told: Vec<(u32, String)> = lines
            .map(|line| {
                let cells: Vec<&str> = line.splitn(4, ',').collect();
                assert!(cells[0].ends_with("people.csv") || cells[0].ends_with("people.npy"), "{line}");
                assert!(!cells[3].is_empty(), "{line}");
                (cells[1].parse().expect("a number"), cells[2].to_owned())
            })
            .collect();
        let bad = (0..self.rows).filter(|row| Self::is_unreadable(*row) || Self::is_refused(*row));
        let expected: Vec<(u32, String)> = bad.map(|row| (row + 2, Self::id(row))).collect();
        assert_eq!(told, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_killed_whenever_and_started_again_enrols_each_row_once_and_lists_each_reject_once() {
    let seed = 81;
    let (sandbox, client) = cluster().await;
    let input = Input::write(seed, 1_500);
    let (file, rejects) = (input.path("people.npy"), input.path("rejects.csv"));
    let arguments = ["--in-flight", "24", "--rejects", rejects.to_str().expect("text")];
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let kills = 6;
    for kill in 1..=kills {
        let mut run = Run::start(&sandbox, &file, &arguments);
        run.answers(chance.random_range(1..220)).await;
        if kill == kills {
            run.kept(&input.path("people.npy.progress")).await;
        }
        run.signal(Signal::SIGKILL);
        assert_eq!(run.end().await.code, None, "it was killed");
    }
    let ended = Run::start(&sandbox, &file, &arguments).end().await;
    assert_eq!(ended.code, Some(1), "some rows are rejected: {}", ended.stderr);
    let done_before = ended.summary()["done_before"].as_u64().expect("a number");
    assert!(done_before > 0, "seed {seed}: nothing was kept of {kills} runs");
    assert!(!input.path("people.npy.progress").exists(), "a run that ends leaves no progress file");
    input.assert_rejects(&rejects);
    input.assert_enrolled(&sandbox, &client).await;
    println!("{kills} runs killed, the last went on after {done_before} of {} rows", input.rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_told_to_stop_says_how_to_go_on_and_notices_another_input() {
    let (sandbox, client) = cluster().await;
    let input = Input::write(82, 700);
    let file = input.path("people.npy");
    let mut run = Run::start(&sandbox, &file, &["--in-flight", "8"]);
    run.answers(150).await;
    run.signal(Signal::SIGINT);
    let ended = run.end().await;
    assert_eq!(ended.code, Some(6), "{}", ended.stderr);
    assert!(ended.stderr.contains("run the same command again to go on"), "{}", ended.stderr);
    let done = 150 + ended.documents.len() as u64 - 1;
    assert!(done < 700, "it was not interrupted");

    let table = fs::read_to_string(input.path("people.csv")).expect("read");
    fs::write(input.path("people.csv"), table.replace("row-00003", "row-9")).expect("written");
    let other = Run::start(&sandbox, &file, &[]).end().await;
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    assert!(other.stderr.contains("the input has changed since"), "{}", other.stderr);
    fs::write(input.path("people.csv"), table).expect("written");

    let ended = Run::start(&sandbox, &file, &[]).end().await;
    assert_eq!(ended.code, Some(1), "some rows are rejected: {}", ended.stderr);
    let before = ended.summary()["done_before"].as_u64().expect("a number");
    assert!(
        before > 0 && before <= done + input.rows as u64 / 20,
        "{before} were done before, {done} answers were told"
    );
    input.assert_enrolled(&sandbox, &client).await;
}

/// Writes a table of Parquet, row group by row group.
fn write_parquet(path: &Path, groups: usize, rows_per_group: usize, dimension: usize) {
    let schema = "message people { required binary enrolment_id (UTF8);
        required group embedding (LIST) { repeated group list { required float element; } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let file = fs::File::create(path).expect("a file");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
    let mut chance = ChaCha8Rng::seed_from_u64(9);
    let repetitions: Vec<i16> = (0..dimension).map(|place| i16::from(place > 0)).collect();
    for number in 0..groups {
        let mut group = writer.next_row_group().expect("a row group");
        let mut column = group.next_column().expect("a column").expect("the id");
        let ids: Vec<ByteArray> = (0..rows_per_group).map(|row| ByteArray::from(&*format!("{number}-{row}"))).collect();
        column.typed::<ByteArrayType>().write_batch(&ids, None, None).expect("written");
        column.close().expect("it ends");
        let mut column = group.next_column().expect("a column").expect("the embedding");
        for _ in 0..rows_per_group {
            let values: Vec<f32> = (0..dimension).map(|_| chance.random_range(-1.0..1.0)).collect();
            let definitions = vec![1; dimension];
            let wrote = column.typed::<FloatType>().write_batch(&values, Some(&definitions), Some(&repetitions));
            wrote.expect("written");
        }
        column.close().expect("it ends");
        group.close().expect("it ends");
    }
    writer.close().expect("it ends");
}

/// The most memory of its own that a process has had so far, in MiB, as it is looked at now and then.
async fn anonymous_mib_max(pid: u32) -> u64 {
    let mut most = 0;
    // The process is gone once its status cannot be read, or says nothing of memory.
    while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let Some(kib) = line.and_then(|line| line.split_whitespace().nth(1)) else { break };
        most = most.max(kib.parse::<u64>().expect("a number") / 1_024);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}

/// Components of an embedding that the gallery refuses: each row costs its reading and sending, and no search.
const WIDE: usize = 4_096;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_larger_than_a_run_may_become_is_enrolled_row_by_row() {
    let (sandbox, _) = cluster().await;
    let folder = tempfile::tempdir().expect("a folder");
    let rows = 16_000_usize;
    let (array, table, lines) =
        (folder.path().join("a.npy"), folder.path().join("p.parquet"), folder.path().join("l.jsonl"));
    fs::write(&array, npy(rows, WIDE, (0..rows * WIDE).map(|value| value as f32))).expect("written");
    let ids: Vec<String> = (0..rows).map(|row| format!("a-{row}\n")).collect();
    fs::write(folder.path().join("a.csv"), format!("enrolment_id\n{}", ids.concat())).expect("written");
    write_parquet(&table, 4, rows / 4, WIDE);
    let mut text = std::io::BufWriter::new(fs::File::create(&lines).expect("a file"));
    let values: Vec<String> = (0..WIDE).map(|place| format!("{:.7}", place as f32 / 4_096.0)).collect();
    let values = values.join(",");
    for row in 0..rows / 2 {
        writeln!(text, "{{\"enrolment_id\": \"l-{row}\", \"references\": [{{\"embedding\": [{values}]}}]}}")
            .expect("written");
    }
    text.into_inner().expect("written");
    for (file, rows) in [(array, rows), (table, rows), (lines, rows / 2)] {
        let rejects_max = rows.to_string();
        let run = Run::start(&sandbox, &file, &["--in-flight", "32", "--rejects-max", &rejects_max]);
        let watching = tokio::spawn(anonymous_mib_max(run.child.id().expect("it runs")));
        let ended = run.end().await;
        let mib = watching.await.expect("it ends");
        let size = fs::metadata(&file).expect("it is there").len() >> 20;
        assert_eq!(ended.summary()["rejected"].as_u64(), Some(rows as u64), "{}", ended.stderr);
        let ids: BTreeSet<&str> =
            ended.documents.iter().filter_map(|document| document["enrolment_id"].as_str()).collect();
        assert_eq!(ids.len(), rows, "each is answered once");
        let name = file.file_name().expect("a name").display().to_string();
        println!("{name}: {size} MiB read with at most {mib} MiB of memory");
        assert!(mib > 0 && mib < size / 2, "{name}: {mib} MiB of memory for a file of {size} MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_is_all_wrong_ends_the_run_early() {
    let (sandbox, _) = cluster().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.npy");
    fs::write(&file, npy(5_000, 8, (0..40_000).map(|value| value as f32))).expect("written");
    let ids: Vec<String> = (0..5_000).map(|row| format!("a-{row}\n")).collect();
    fs::write(folder.path().join("a.csv"), format!("enrolment_id\n{}", ids.concat())).expect("written");
    let ended = Run::start(&sandbox, &file, &["--rejects-max", "20", "--in-flight", "4"]).end().await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("more than 20 records were rejected (--rejects-max)"), "{}", ended.stderr);
    let rejected = ended.summary()["rejected"].as_u64().expect("a number");
    assert!((21..=30).contains(&rejected), "{rejected} of 5,000 were rejected");
}
