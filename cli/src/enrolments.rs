//! `semel get` and `semel withdraw`: one enrolment.

use std::time::Duration;

use clap::Args;
use semel_client::Outcome;
use semel_files::names;
use semel_proto::v1::{Enrolment, GetEnrolmentRequest, WithdrawEnrolmentRequest};

use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{EXIT_CODES, Exit};
use crate::number::within;
use crate::output::{self, Cell, Output, grouped};

/// Shows an enrolment with its verdict.
#[derive(Debug, Args)]
#[command(
    long_about = "Shows an enrolment as recorded: where it stands, its verdict with the candidates and what was searched, and \
        its cases.\n\nExits with 4 while there is no verdict, and with 5 for a possible duplicate or a verdict of \
        not comparable.",
    after_help = format!("Example:\n    semel get --gallery people --wait-ms 5000 a-1\n\n{EXIT_CODES}")
)]
pub(crate) struct GetArguments {
    /// The gallery.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// The enrolment.
    #[arg(value_name = "ENROLMENT_ID")]
    enrolment_id: String,
    /// How long to wait for a verdict, in milliseconds, 0 to 60000.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = within::<u32>(0..=60_000))]
    wait_ms: u32,
    #[command(flatten)]
    client: ClientArguments,
}

/// Withdraws an enrolment: no later search returns it, its cases become moot, its id is never used again.
#[derive(Debug, Args)]
#[command(after_help = format!("\
Example:
    semel withdraw --gallery people --reason 'consent withdrawn' a-1

{EXIT_CODES}"))]
pub(crate) struct WithdrawArguments {
    /// The gallery.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// Why, 1 to 256 bytes; kept with the enrolment.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The enrolment.
    #[arg(value_name = "ENROLMENT_ID")]
    enrolment_id: String,
    #[command(flatten)]
    client: ClientArguments,
}

/// Runs `semel get`.
pub(crate) async fn get(arguments: GetArguments) -> anyhow::Result<Exit> {
    let GetArguments { gallery, enrolment_id, wait_ms, client } = arguments;
    let waiting = client.client_waiting(Duration::from_millis(wait_ms.into()))?;
    let outcome = waiting.enrolment(GetEnrolmentRequest { gallery, enrolment_id, wait_ms }).await?;
    show(outcome.enrolment(), client.output)?;
    Ok(match outcome {
        Outcome::Inconclusive { .. } | Outcome::StillStaged { .. } => Exit::Inconclusive,
        Outcome::Unique(_) | Outcome::Withdrawn(_) => Exit::Done,
        Outcome::PossibleDuplicate(_) | Outcome::NotComparable(_) => Exit::PossibleDuplicate,
    })
}

/// Runs `semel withdraw`.
pub(crate) async fn withdraw(arguments: WithdrawArguments) -> anyhow::Result<Exit> {
    let WithdrawArguments { gallery, reason, enrolment_id, client } = arguments;
    let outcome = client.client()?.withdraw(WithdrawEnrolmentRequest { gallery, reason, enrolment_id }).await?;
    show(outcome.enrolment(), client.output)?;
    Ok(Exit::Done)
}

fn show(enrolment: &Enrolment, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&document::enrolment(enrolment));
    }
    let mut table = output::table(["enrolment", &enrolment.enrolment_id]);
    let mut row = |label: &str, value: String| {
        table.add_row([Cell::from(label), Cell::from(value)]);
    };
    row("state", names::enrolment_state(enrolment.state()));
    let references = enrolment.references.iter().map(|reference| {
        format!("{} {}", names::modality(reference.modality()), names::position(reference.position()))
    });
    row("references", references.collect::<Vec<_>>().join(", "));
    row("received", output::instant(enrolment.received_at_ms));
    row("policy", format!("version {}", enrolment.policy_version));
    if let Some(verdict) = &enrolment.verdict {
        let coverage = verdict.coverage.clone().unwrap_or_default();
        let searched = format!(
            "{} of {} live enrolments compared, {} shards",
            grouped(coverage.compared),
            grouped(coverage.live),
            coverage.shards.len()
        );
        row("searched", searched);
        row("settled", format!("{}, round {}", output::instant(verdict.settled_at_ms), verdict.round));
        let more = if verdict.saturated { " (more than the list holds)" } else { "" };
        row("candidates", format!("{}{more}", verdict.candidates_total));
    }
    table.add_row([Cell::from("cases"), Cell::lines(&enrolment.case_ids)]);
    table.show();
    if let Some(verdict) = enrolment.verdict.as_ref().filter(|verdict| !verdict.candidates.is_empty()) {
        candidates(&verdict.candidates).show();
    }
    Ok(())
}

/// A candidate list.
pub(crate) fn candidates(candidates: &[semel_proto::v1::Candidate]) -> output::Table {
    let mut table = output::table(["candidate", "compared", "score", "threshold"]);
    for candidate in candidates {
        for comparison in &candidate.comparisons {
            table.add_row([
                candidate.enrolment_id.clone(),
                format!("{} {}", names::modality(comparison.modality()), names::position(comparison.position())),
                output::score(comparison.score_micros),
                output::score(comparison.threshold_micros),
            ]);
        }
    }
    table
}
