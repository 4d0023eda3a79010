//! `semel identify` and `semel verify`: searches and comparisons that enrol nobody.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use semel_client::Identification;
use semel_files::{Record, names};
use semel_proto::v1::{CompleteIdentification, IdentifyRequest, Priority, VerifyRequest, VerifyResponse};
use serde_json::json;

use crate::connect::ClientArguments;
use crate::document;
use crate::enrolments::candidates;
use crate::exit::{EXIT_CODES, Exit, UsageError};
use crate::number::within;
use crate::output::{self, Output, grouped};
use crate::records::{FORMS, FormArguments};

/// Searches everyone in a gallery for probes, and enrols nobody.
#[derive(Debug, Args)]
#[command(
    long_about = "Searches everyone in a gallery for each probe of the files, and stores nothing. A gallery allows it only if \
        its policy says so: semel gallery update NAME --identification-allowed true.\n\nA candidate is never a decision: \
        somebody must look. If a shard does not answer, nothing is concluded.",
    after_help = format!("\
Example:
    semel identify --gallery people --purpose missing-persons probes.jsonl

{FORMS}

{EXIT_CODES}")
)]
pub(crate) struct IdentifyArguments {
    /// The gallery.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// Why; kept in the log of the request, and one of the policy's purposes if it lists any.
    #[arg(long, value_name = "TEXT")]
    purpose: String,
    /// Files with probes: .npy with a table beside it, .jsonl, or `-`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    form: FormArguments,
    /// How long each search may take, in milliseconds, 1 to 60000.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = within::<u32>(1..=60_000))]
    wait_ms: u32,
    #[command(flatten)]
    client: ClientArguments,
}

/// Compares a probe with one enrolment.
#[derive(Debug, Args)]
#[command(
    long_about = "Compares the first record of a file with one enrolment. Exits with 1 if no pair of references reaches its \
        review threshold.",
    after_help = format!("\
Example:
    semel verify --gallery people --enrolment-id a-1 probe.jsonl

{FORMS}

{EXIT_CODES}")
)]
pub(crate) struct VerifyArguments {
    /// The gallery.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// The enrolment that the probe is claimed to belong to.
    #[arg(long, value_name = "ID")]
    enrolment_id: String,
    /// The file with the probe.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    form: FormArguments,
    #[command(flatten)]
    client: ClientArguments,
}

/// Runs `semel identify`.
pub(crate) async fn identify(arguments: IdentifyArguments) -> anyhow::Result<Exit> {
    let files = arguments.files.iter().map(|file| arguments.form.open(file));
    let probes = files.collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
    let output = arguments.client.output;
    let client = arguments.client.client_waiting(Duration::from_millis(arguments.wait_ms.into()))?;
    let (mut found, mut incomplete, mut failed) = (false, false, false);
    for (number, probe) in (1..).zip(probes) {
        let probe = match probe {
            Ok(probe) => probe,
            Err(bad) => {
                output::error(bad);
                failed = true;
                continue;
            }
        };
        let name = probe_name(&probe, number);
        let request = IdentifyRequest {
            gallery: arguments.gallery.clone(),
            references: probe.references,
            purpose: arguments.purpose.clone(),
            wait_ms: arguments.wait_ms,
            // One probe at a time, and somebody reads what is found.
            priority: Priority::Interactive.into(),
        };
        match client.identify(request).await? {
            Identification::Complete(complete) => {
                found |= complete.candidates_total > 0;
                show_complete(&name, &complete, output)?;
            }
            Identification::Incomplete { missing_shards } => {
                incomplete = true;
                show_incomplete(&name, &missing_shards, output)?;
            }
        }
    }
    Ok(match (failed, incomplete, found) {
        (true, ..) => Exit::Failed,
        (false, true, _) => Exit::Inconclusive,
        (false, false, true) => Exit::PossibleDuplicate,
        (false, false, false) => Exit::Done,
    })
}

fn probe_name(probe: &Record, number: u64) -> String {
    if probe.enrolment_id.is_empty() { number.to_string() } else { probe.enrolment_id.clone() }
}

fn show_complete(name: &str, complete: &CompleteIdentification, output: Output) -> anyhow::Result<()> {
    let coverage = complete.coverage.clone().unwrap_or_default();
    if output == Output::Json {
        return output::json(&json!({
            "probe": name,
            "candidates": complete.candidates.iter().map(document::candidate).collect::<Vec<_>>(),
            "candidates_total": complete.candidates_total,
            "coverage": document::coverage(&coverage),
            "policy_version": complete.policy_version,
        }));
    }
    output::line(format!(
        "probe {}: {} candidates; {} of {} live enrolments compared",
        output::escaped(name),
        grouped(complete.candidates_total),
        grouped(coverage.compared),
        grouped(coverage.live)
    ));
    if !complete.candidates.is_empty() {
        candidates(&complete.candidates).show();
    }
    Ok(())
}

fn show_incomplete(name: &str, missing_shards: &[u32], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&json!({ "probe": name, "missing_shards": missing_shards }));
    }
    output::line(format!(
        "probe {}: nothing can be concluded, shards {missing_shards:?} did not answer; try again, and see `semel status`",
        output::escaped(name),
    ));
    Ok(())
}

/// Runs `semel verify`.
pub(crate) async fn verify(arguments: VerifyArguments) -> anyhow::Result<Exit> {
    let mut records = arguments.form.open(&arguments.file)?;
    let probe = records.next().ok_or_else(|| UsageError(format!("{}: holds no record", arguments.file.display())))?;
    let probe = probe.map_err(|bad| UsageError(bad.to_string()))?;
    let request = VerifyRequest {
        gallery: arguments.gallery,
        enrolment_id: arguments.enrolment_id,
        references: probe.references,
    };
    let answer = arguments.client.client()?.verify(request).await?;
    show_verification(&answer, arguments.client.output)?;
    Ok(if answer.threshold_reached { Exit::Done } else { Exit::Failed })
}

fn show_verification(answer: &VerifyResponse, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&json!({
            "threshold_reached": answer.threshold_reached,
            "comparisons": answer.comparisons.iter().map(document::comparison).collect::<Vec<_>>(),
            "policy_version": answer.policy_version,
        }));
    }
    let mut table = output::table(["compared", "score", "threshold"]);
    for comparison in &answer.comparisons {
        table.add_row([
            format!("{} {}", names::modality(comparison.modality()), names::position(comparison.position())),
            output::score(comparison.score_micros),
            output::score(comparison.threshold_micros),
        ]);
    }
    table.show();
    output::line(match (answer.comparisons.is_empty(), answer.threshold_reached) {
        (true, _) => "nothing could be compared",
        (false, true) => "a threshold is reached",
        (false, false) => "no threshold is reached",
    });
    Ok(())
}
