//! `semel cases`: the pairs that somebody must look at.

use clap::Args;
use semel_files::names;
use semel_proto::v1::{Case, GetCaseRequest, ListCasesRequest};

use crate::connect::ClientArguments;
use crate::document;
use crate::exit::{EXIT_CODES, Exit};
use crate::output::{self, Cell, Output, grouped};

/// Cases asked for at once.
const PAGE: u32 = 500;

/// Lists the cases of a gallery, or shows those of one pair.
#[derive(Debug, Args)]
#[command(
    long_about = "Lists the cases of a gallery: one per pair of enrolments that a verdict named, for people to look at. The list is \
        never silently short: if a shard does not answer, the command fails.",
    after_help = format!("\
Examples:
    semel cases --gallery people
    semel cases --gallery people --of a-1 --and b-7
    semel cases --gallery people --output json --limit 0 > cases.jsonl

{EXIT_CODES}")
)]
pub(crate) struct CasesArguments {
    /// The gallery.
    #[arg(long, value_name = "NAME")]
    gallery: String,
    /// One enrolment of a pair; alone: the cluster case of an enrolment with too many candidates.
    #[arg(long, value_name = "ENROLMENT_ID")]
    of: Option<String>,
    /// The other enrolment of the pair.
    #[arg(long, value_name = "ENROLMENT_ID", requires = "of")]
    and: Option<String>,
    /// How many cases are shown at most; 0 = all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    client: ClientArguments,
}

/// Runs `semel cases`.
pub(crate) async fn run(arguments: CasesArguments) -> anyhow::Result<Exit> {
    let CasesArguments { gallery, of, and, limit, client } = arguments;
    let cases = client.client()?;
    let mut shown = Shown::new(client.output);
    if let Some(enrolment_id) = of {
        let request = GetCaseRequest { gallery, enrolment_id, other_enrolment_id: and.unwrap_or_default() };
        shown.add(&cases.case(request).await?)?;
        shown.end();
        return Ok(Exit::Done);
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut page_token = String::new();
    loop {
        let request = ListCasesRequest { gallery: gallery.clone(), page_size: PAGE, page_token };
        let page = cases.cases(request).await?;
        for case in page.cases.iter().take(limit - shown.count) {
            shown.add(case)?;
        }
        let last = page.next_page_token.is_empty();
        if shown.count == limit && (!last || page.cases.len() > limit) {
            shown.end();
            eprintln!("the first {} cases; --limit 0 shows all", grouped(limit as u64));
            return Ok(Exit::Done);
        }
        if last {
            shown.end();
            return Ok(Exit::Done);
        }
        page_token = page.next_page_token;
    }
}

/// Cases as they are shown: JSON at once, a table at the end.
struct Shown {
    output: Output,
    table: output::Table,
    count: usize,
}

impl Shown {
    fn new(output: Output) -> Self {
        let table = output::table(["case", "enrolments", "state", "best score", "opened by", "opened"]);
        Self { output, table, count: 0 }
    }

    fn add(&mut self, case: &Case) -> anyhow::Result<()> {
        self.count += 1;
        if self.output == Output::Json {
            return output::json(&document::case(case));
        }
        let best = case.comparisons.iter().map(|comparison| comparison.score_micros).max();
        let cluster = if case.cluster { ", cluster" } else { "" };
        self.table.add_row([
            Cell::from(&case.case_id),
            Cell::lines(&case.enrolment_ids),
            format!("{}{cluster}", names::case_state(case.state())).into(),
            best.map_or_else(String::new, output::score).into(),
            Cell::lines(&case.opened_by),
            output::instant(case.opened_at_ms).into(),
        ]);
        Ok(())
    }

    fn end(&self) {
        match (self.output, self.count) {
            (Output::Json, _) => {}
            (Output::Table, 0) => output::line("no cases"),
            (Output::Table, _) => self.table.show(),
        }
    }
}
