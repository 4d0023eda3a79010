//! Saved results of `semel bench engines`: rows of its table, of several runs and programs, that can be shown and plotted together.
//!
//! Not here: how they are measured (`engines`, `cli/bench/peers.py`) and drawn (`plot`).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use semel_index::Engine as _;
use semel_index::ExactEngine;
use serde::{Deserialize, Serialize};

use super::{percent, shown};
use crate::exit::UsageError;
use crate::output::{self, Cell, grouped};

/// The form of the files. What cannot be read as this version is refused.
const VERSION: u32 = 1;
/// Longer files are something else.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Rows of all files together.
const ROWS_MAX: usize = 10_000;
/// Characters of a name.
const NAME_CHARACTERS_MAX: usize = 200;
/// How sure an upper bound of a share is.
const CONFIDENCE: f64 = 0.95;

/// What one engine did over one number of references.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) engine: String,
    /// What measured it, with its version.
    pub(super) program: String,
    /// UTC.
    pub(super) measured_at: String,
    pub(super) processor: String,
    /// The instructions that Semel's scans use there, or what another program says of its own.
    pub(super) kernel: String,
    pub(super) threads: u32,
    pub(super) threshold: f64,
    pub(super) dimension: u32,
    pub(super) population: String,
    pub(super) seed: u64,
    pub(super) references: u32,
    pub(super) build_seconds: f64,
    /// What the engine takes; of a program that keeps the references in its index, these too.
    pub(super) bytes_per_reference: f64,
    /// What the reference takes beside the engine, to be re-scored.
    pub(super) template_bytes_per_reference: f64,
    /// Probes that are searched together where they come in batches.
    pub(super) batch: u32,
    pub(super) batched_probes_per_second: f64,
    pub(super) batched_searches: u64,
    pub(super) one_by_one_probes_per_second: f64,
    pub(super) one_by_one_searches: u64,
    pub(super) one_by_one_p50_ms: f64,
    pub(super) one_by_one_p99_ms: f64,
    /// Pairs of a further capture of an enrolled person and a reference that score the threshold or more.
    pub(super) mates: u64,
    pub(super) mates_missed: u64,
    /// Such pairs of planted probes.
    pub(super) planted: u64,
    pub(super) planted_missed: u64,
    /// What only engines of Semel tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proposals: Option<Proposals>,
}

/// How an engine that proposes did so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Proposals {
    pub(super) miss_budget_ppb: u32,
    /// What the machine's memory gives so many threads.
    pub(super) read_bytes_per_second: f64,
    /// Table entries that so many threads look up and add up in registers; 0 in files of before it was measured.
    #[serde(default)]
    pub(super) lookups_per_second: f64,
    /// Bytes that a search reads of all rows, 0 if it looks at some of them alone; and entries that it looks up, if the engine does its work so.
    #[serde(default)]
    pub(super) scan_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scan_lookups: Option<u64>,
    /// Rows proposed for a stranger.
    pub(super) per_stranger: f64,
    pub(super) strangers: u64,
    /// Strangers compared with every row, because the engine could not tell.
    pub(super) strangers_scanned_exactly: u64,
    /// Mated and planted probes compared with every row.
    pub(super) mated_scanned_exactly: u64,
}

/// A file of results.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    rows: Vec<Row>,
    /// Follows from the rows; written for those who read the file with something else.
    #[serde(default)]
    growth: Vec<Growth>,
    /// Likewise.
    #[serde(default)]
    scaling: Vec<Scaling>,
}

/// How an engine's cost grows with the number of references N: as N to the power of these.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Growth {
    pub(super) engine: String,
    /// 0 in files of before it was said.
    #[serde(default)]
    pub(super) threads: u32,
    pub(super) references: Vec<u32>,
    pub(super) one_by_one: f64,
    pub(super) batched: f64,
}

/// How many times as fast an engine searches on more threads as on the fewest that it was measured on, in the same run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scaling {
    pub(super) engine: String,
    pub(super) references: u32,
    pub(super) threads: u32,
    /// The fewest.
    pub(super) of_threads: u32,
    pub(super) one_by_one: f64,
    pub(super) batched: f64,
}

impl Row {
    fn check(&self) -> Result<(), String> {
        let names = [
            ("engine", &self.engine),
            ("program", &self.program),
            ("measured_at", &self.measured_at),
            ("processor", &self.processor),
            ("kernel", &self.kernel),
            ("population", &self.population),
        ];
        for (field, name) in names {
            if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX {
                return Err(format!("{field}: must have 1 to {NAME_CHARACTERS_MAX} characters"));
            }
        }
        let counts = [
            ("threads", self.threads),
            ("dimension", self.dimension),
            ("references", self.references),
            ("batch", self.batch),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("{field}: must be 1 or more"));
        }
        let rates = [
            ("batched_probes_per_second", self.batched_probes_per_second),
            ("one_by_one_probes_per_second", self.one_by_one_probes_per_second),
        ];
        if let Some((field, _)) = rates.iter().find(|(_, rate)| !(rate.is_finite() && *rate > 0.0)) {
            return Err(format!("{field}: must be more than 0"));
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err("threshold: must be 0 to 1".to_owned());
        }
        for (field, missed, of) in
            [("mates_missed", self.mates_missed, self.mates), ("planted_missed", self.planted_missed, self.planted)]
        {
            if missed > of {
                return Err(format!("{field}: must be at most {of}, as many as there are"));
            }
        }
        Ok(())
    }

    /// Everything but the engine and the number of references that figures depend on.
    pub(super) fn conditions(&self) -> [(&'static str, String); 6] {
        [
            ("population", self.population.clone()),
            ("components", self.dimension.to_string()),
            ("threshold", self.threshold.to_string()),
            ("threads", self.threads.to_string()),
            ("processor", self.processor.clone()),
            ("kernel", self.kernel.clone()),
        ]
    }

    /// Whether both were measured at once, on whichever numbers of threads: over one index, whose building took as long for both.
    fn took_turns_with(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            let conditions = row.conditions().into_iter().filter(|(name, _)| *name != "threads");
            (row.engine.clone(), row.references, row.measured_at.clone(), conditions.collect::<Vec<_>>())
        };
        self.build_seconds == other.build_seconds && key(self) == key(other)
    }

    /// Whether the other belongs on the same line of a plot.
    pub(super) fn continues(&self, other: &Self) -> bool {
        self.engine == other.engine && self.conditions() == other.conditions()
    }
}

/// A share and the bound that it is below with a confidence of 95 %, whatever is behind it.
pub(super) struct Missed {
    pub(super) share: f64,
    pub(super) at_most: f64,
}

/// The share of so many, if there are any, after Clopper and Pearson. One-sided, as nobody minds a share that is smaller.
pub(super) fn missed(missed: u64, of: u64) -> Option<Missed> {
    if of == 0 {
        return None;
    }
    let share = missed as f64 / of as f64;
    // The chance of so few or fewer falls as the true share grows: halving finds where it is 1 - CONFIDENCE.
    let chance = |truth: f64| statrs::function::beta::beta_reg((of - missed) as f64, missed as f64 + 1.0, 1.0 - truth);
    let (mut low, mut high) = (share, 1.0);
    if missed < of {
        for _ in 0..64 {
            let middle = f64::midpoint(low, high);
            if chance(middle) > 1.0 - CONFIDENCE { low = middle } else { high = middle }
        }
    }
    Some(Missed { share, at_most: high })
}

/// The slope of log cost over log N by least squares, the cost of a probe being the inverse of a rate; none of fewer than two sizes.
fn exponent(points: impl Iterator<Item = (u32, f64)>) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.map(|(references, rate)| (f64::from(references).ln(), -rate.ln())).collect();
    let count = logs.len() as f64;
    let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), log| (x + log.0 / count, y + log.1 / count));
    let across: f64 = logs.iter().map(|log| (log.0 - x).powi(2)).sum();
    let along: f64 = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum();
    (across > 1e-9).then(|| along / across)
}

/// Rows of one engine under the same conditions, by ascending number of references.
pub(super) struct Line<'r> {
    pub(super) rows: Vec<&'r Row>,
}

impl Line<'_> {
    pub(super) fn growth(&self) -> Option<Growth> {
        let points = |rate: fn(&Row) -> f64| self.rows.iter().map(move |row| (row.references, rate(row)));
        let first = self.rows.first()?;
        Some(Growth {
            engine: first.engine.clone(),
            threads: first.threads,
            references: self.rows.iter().map(|row| row.references).collect(),
            one_by_one: exponent(points(|row| row.one_by_one_probes_per_second))?,
            batched: exponent(points(|row| row.batched_probes_per_second))?,
        })
    }
}

/// The rows as lines, in the order in which engines first appear. Of two measurements of one thing the newer counts.
pub(super) fn lines(rows: &[Row]) -> Vec<Line<'_>> {
    let mut lines: Vec<BTreeMap<u32, &Row>> = Vec::new();
    for row in rows {
        let continued = lines.iter_mut().find(|line| line.values().next().is_some_and(|first| row.continues(first)));
        let Some(line) = continued else {
            lines.push(BTreeMap::from([(row.references, row)]));
            continue;
        };
        let newest = line.entry(row.references).or_insert(row);
        if row.measured_at >= newest.measured_at {
            *newest = row;
        }
    }
    lines.into_iter().map(|line| Line { rows: line.into_values().collect() }).collect()
}

/// Each row beside that of the fewest threads which took turns with it.
fn scaling(rows: &[Row]) -> Vec<Scaling> {
    let of_row = |row: &Row| {
        let beside = rows.iter().filter(|other| other.took_turns_with(row));
        let fewest = beside.min_by_key(|other| other.threads).filter(|fewest| fewest.threads < row.threads)?;
        Some(Scaling {
            engine: row.engine.clone(),
            references: row.references,
            threads: row.threads,
            of_threads: fewest.threads,
            one_by_one: row.one_by_one_probes_per_second / fewest.one_by_one_probes_per_second,
            batched: row.batched_probes_per_second / fewest.batched_probes_per_second,
        })
    };
    let mut told: Vec<Scaling> = Vec::new();
    for scaling in rows.iter().filter_map(of_row) {
        // Files may be named twice.
        if !told.contains(&scaling) {
            told.push(scaling);
        }
    }
    told
}

/// Writes rows to standard output as they are saved, on one line.
pub(super) fn print(rows: Vec<Row>) -> anyhow::Result<()> {
    output::json(&saved(rows))
}

/// Saves rows.
pub(super) fn save(file: &Path, rows: Vec<Row>) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(&saved(rows))?;
    text.push('\n');
    std::fs::write(file, text).with_context(|| format!("--save {}", file.display()))
}

fn saved(rows: Vec<Row>) -> Saved {
    let growth = lines(&rows).iter().filter_map(Line::growth).collect();
    let scaling = scaling(&rows);
    Saved { version: VERSION, rows, growth, scaling }
}

/// Reads the rows of several files.
pub(super) fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for file in files {
        let file = file.as_ref();
        let length = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
        if length > FILE_BYTES_MAX {
            return Err(wrong(file, format!("must have at most {} bytes", grouped(FILE_BYTES_MAX))));
        }
        let text = std::fs::read(file).with_context(|| file.display().to_string())?;
        rows.extend(parse(&text).map_err(|reason| wrong(file, reason))?);
        if rows.len() > ROWS_MAX {
            return Err(wrong(file, format!("rows of all files: must be at most {}", grouped(ROWS_MAX as u64))));
        }
    }
    Ok(rows)
}

fn wrong(file: &Path, reason: String) -> anyhow::Error {
    UsageError(format!("{}: {reason}", file.display())).into()
}

fn parse(text: &[u8]) -> Result<Vec<Row>, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version: is {version}, must be {VERSION}"));
    }
    let saved: Saved = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    for (place, row) in saved.rows.iter().enumerate() {
        row.check().map_err(|reason| format!("rows[{place}].{reason}"))?;
    }
    Ok(saved.rows)
}

/// Shows rows in tables, one for each number of references and conditions, and how cost grows over several.
pub(super) fn show(rows: &[Row]) {
    let mut tables: Vec<Vec<&Row>> = Vec::new();
    // Programs have kernels of their own, and are compared all the same.
    let key = |row: &Row| {
        let conditions = row.conditions().into_iter().filter(|(name, _)| *name != "kernel");
        (row.references, conditions.collect::<Vec<_>>())
    };
    for row in rows {
        match tables.iter_mut().find(|table| key(table[0]) == key(row)) {
            Some(table) => table.push(row),
            None => tables.push(vec![row]),
        }
    }
    tables.sort_by_key(|table| table[0].references);
    tables.iter().for_each(|table| show_table(table));
}

/// Shows how the cost of each engine grows, where there are two sizes or more.
pub(super) fn show_growth(rows: &[Row]) {
    for line in lines(rows) {
        if let Some(growth) = line.growth() {
            output::line(format!(
                "{} on {} thread(s): a search costs as N to the power of {:.2} one by one and {:.2} in batches ({} sizes, {} to {} references)",
                output::escaped(&growth.engine),
                growth.threads,
                growth.one_by_one,
                growth.batched,
                growth.references.len(),
                grouped(line.rows[0].references.into()),
                grouped(line.rows[line.rows.len() - 1].references.into()),
            ));
        }
    }
}

/// Shows how much faster more threads search, where several numbers of them took turns.
pub(super) fn show_scaling(rows: &[Row]) {
    for Scaling { engine, references, threads, of_threads, one_by_one, batched } in scaling(rows) {
        output::line(format!(
            "{} over {} references: {threads} threads search {batched:.2} times as fast as {of_threads} in batches, {one_by_one:.2} times one by one",
            output::escaped(&engine),
            grouped(references.into()),
        ));
    }
}

fn show_table(rows: &[&Row]) {
    let first = rows[0];
    let reads = first.proposals.as_ref().map(|proposals| {
        let (reads, lookups) = (proposals.read_bytes_per_second * 1e-9, proposals.lookups_per_second * 1e-9);
        format!("; this machine reads {reads:.1} GB/s and looks up {lookups:.0} billion entries/s")
    });
    output::line(format!(
        "{} references x {} components of population {}, {} thread(s), threshold {}, {}{}",
        grouped(first.references.into()),
        first.dimension,
        output::escaped(&first.population),
        first.threads,
        first.threshold,
        output::escaped(&first.processor),
        reads.unwrap_or_default(),
    ));
    let mut table = output::table([
        "engine, kernel",
        "built in",
        "bytes/reference (+ template)",
        "probes/s, batches of 64",
        "one by one",
        "p50",
        "p99",
        "of the machine's",
        "proposed/probe",
        "mates missed (95 %)",
        "planted missed (95 %)",
    ]);
    for row in rows {
        let (shares, proposed, exactly) = match &row.proposals {
            Some(proposals) if row.engine != ExactEngine.name() => of_proposals(row, proposals),
            Some(_) | None => Default::default(),
        };
        table.add_row([
            Cell::lines([&row.engine, &row.kernel]),
            Cell::from(format!("{:.1} s", row.build_seconds)),
            match row.template_bytes_per_reference {
                beside if beside > 0.0 => Cell::from(format!("{:.1} + {beside:.0}", row.bytes_per_reference)),
                _ => Cell::from(format!("{:.1}", row.bytes_per_reference)),
            },
            searches(row.batched_probes_per_second, row.batched_searches),
            searches(row.one_by_one_probes_per_second, row.one_by_one_searches),
            Cell::from(format!("{:.1} ms", row.one_by_one_p50_ms)),
            Cell::from(format!("{:.1} ms", row.one_by_one_p99_ms)),
            Cell::lines(shares),
            Cell::from(proposed),
            Cell::lines([misses(row.mates_missed, row.mates), exactly].into_iter().filter(|line| !line.is_empty())),
            Cell::from(misses(row.planted_missed, row.planted)),
        ]);
    }
    table.show();
}

/// What an engine uses of what the machine gives, what it proposes, and how many mates it left to the exact scan.
fn of_proposals(row: &Row, proposals: &Proposals) -> (Vec<String>, String, String) {
    let mut shares = Vec::new();
    let share = |rate: f64, of_each: u64, all: f64| percent(rate * of_each as f64 / all);
    if proposals.scan_bytes > 0 {
        let read = share(row.one_by_one_probes_per_second, proposals.scan_bytes, proposals.read_bytes_per_second);
        shares.push(format!("reads: {read}"));
    }
    if let Some(lookups) = proposals.scan_lookups {
        let looked_up = share(row.batched_probes_per_second, lookups, proposals.lookups_per_second);
        shares.push(format!("lookups: {looked_up}"));
    }
    let exactly = match proposals.strangers_scanned_exactly {
        0 => String::new(),
        some => format!(", {some} of {} compared with all", grouped(proposals.strangers)),
    };
    let mated = match proposals.mated_scanned_exactly {
        0 => String::new(),
        some => format!("{} probes compared with all", grouped(some)),
    };
    (shares, format!("{:.1}{exactly}", proposals.per_stranger), mated)
}

fn searches(rate: f64, searches: u64) -> Cell {
    Cell::lines([shown(rate), format!("{} searches", grouped(searches))])
}

fn misses(count: u64, of: u64) -> String {
    match missed(count, of) {
        None => "none there".to_owned(),
        Some(missed) => format!("{} of {}: < {}", grouped(count), grouped(of), share(missed.at_most)),
    }
}

/// A share in per cent with two digits that count.
pub(super) fn share(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent > 0.0 { (1.0 - percent.log10().floor()).clamp(0.0, 9.0) as usize } else { 0 };
    format!("{percent:.digits$} %")
}

/// This machine's processor, by name, family and model: the name alone says little in a virtual machine.
pub(super) fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor_of(&told).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn processor_of(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let (name, family, model) = (field("model name")?, field("cpu family")?, field("model")?);
    let name: String = name.chars().take(NAME_CHARACTERS_MAX / 2).collect();
    Some(format!("{name} (family {family}, model {model})"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn row(engine: &str, references: u32) -> Row {
        Row {
            engine: engine.to_owned(),
            program: "semel 0.1.0".to_owned(),
            measured_at: "2026-11-26 12:00:00Z".to_owned(),
            processor: "AMD EPYC (family 25, model 17)".to_owned(),
            kernel: "avx512".to_owned(),
            threads: 1,
            threshold: 0.42,
            dimension: 512,
            population: "f1".to_owned(),
            seed: 1,
            references,
            build_seconds: 1.5,
            bytes_per_reference: 68.0,
            template_bytes_per_reference: 1_032.0,
            batch: 64,
            batched_probes_per_second: 1e9 / f64::from(references),
            batched_searches: 64_000,
            one_by_one_probes_per_second: 1e8 / f64::from(references),
            one_by_one_searches: 4_000,
            one_by_one_p50_ms: 0.1,
            one_by_one_p99_ms: 0.2,
            mates: 5_000,
            mates_missed: 0,
            planted: 5_000,
            planted_missed: 3,
            proposals: None,
        }
    }

    #[test]
    fn what_is_saved_is_read_again_from_several_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = ["a.json", "b.json"].map(|name| folder.path().join(name));
        let proposals = Proposals {
            miss_budget_ppb: 30_000,
            read_bytes_per_second: 2e10,
            lookups_per_second: 1.7e11,
            scan_bytes: 40_000,
            scan_lookups: Some(52_000),
            per_stranger: 1.5,
            strangers: 1_024,
            strangers_scanned_exactly: 0,
            mated_scanned_exactly: 0,
        };
        let sketch = Row { proposals: Some(proposals), ..row("sketch", 1_000) };
        save(&files[0], vec![sketch.clone(), row("sketch", 10_000)]).expect("saved");
        save(&files[1], vec![row("usearch", 1_000)]).expect("saved");
        assert_eq!(read(&files).expect("read"), [sketch, row("sketch", 10_000), row("usearch", 1_000)]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_by_its_field() {
        let with = |change: fn(&mut Row)| {
            let mut changed = row("sketch", 1_000);
            change(&mut changed);
            let text = serde_json::to_vec(&saved(vec![row("exact", 1_000), changed])).expect("rows are JSON");
            parse(&text).expect_err("refused")
        };
        assert_eq!(with(|row| row.references = 0), "rows[1].references: must be 1 or more");
        assert_eq!(with(|row| row.engine.clear()), "rows[1].engine: must have 1 to 200 characters");
        assert_eq!(with(|row| row.threshold = 1.5), "rows[1].threshold: must be 0 to 1");
        assert_eq!(
            with(|row| row.mates_missed = 5_001),
            "rows[1].mates_missed: must be at most 5000, as many as there are"
        );
        assert_eq!(
            with(|row| row.one_by_one_probes_per_second = 0.0),
            "rows[1].one_by_one_probes_per_second: must be more than 0"
        );
        for (text, reason) in [
            (r#"{"version": 2, "rows": 7}"#, "version: is 2, must be 1"),
            (r#"{"version": 1}"#, "missing field `rows`"),
            (r#"{"version": 1, "rows": [{"engine": "x"}]}"#, "missing field `program`"),
            ("[]", "invalid"),
            ("", "EOF"),
        ] {
            let told = parse(text.as_bytes()).expect_err("refused");
            assert!(told.contains(reason), "{told}");
        }
    }

    #[test]
    fn rows_of_several_runs_make_lines_and_the_newest_counts() {
        let newer = Row { measured_at: "2026-11-27 12:00:00Z".to_owned(), mates_missed: 7, ..row("sketch", 1_000) };
        let elsewhere = Row { threads: 2, ..row("sketch", 10_000) };
        let rows = [newer.clone(), row("sketch", 10_000), row("faiss", 1_000), row("sketch", 1_000), elsewhere.clone()];
        let lines = lines(&rows);
        let lines: Vec<&[&Row]> = lines.iter().map(|line| &*line.rows).collect();
        assert_eq!(lines, [&[&newer, &row("sketch", 10_000)][..], &[&row("faiss", 1_000)], &[&elsewhere]]);
    }

    #[test]
    fn growth_is_the_slope_over_all_sizes() {
        let steep = |references: u32| Row {
            one_by_one_probes_per_second: f64::from(references).powf(-0.5),
            ..row("sketch", references)
        };
        let rows = [1_000, 10_000, 100_000].map(steep);
        let growth = lines(&rows)[0].growth().expect("three sizes");
        assert!((growth.one_by_one - 0.5).abs() < 1e-9 && (growth.batched - 1.0).abs() < 1e-9, "{growth:?}");
        assert_eq!(lines(&rows[..1])[0].growth(), None, "one size has no slope");
    }

    #[test]
    fn threads_are_compared_with_the_fewest_that_took_turns_with_them() {
        let of_threads = |threads: u32, rate: f64| Row {
            threads,
            batched_probes_per_second: rate,
            one_by_one_probes_per_second: rate / 4.0,
            ..row("sketch", 1_000)
        };
        let another_run = Row { build_seconds: 2.5, ..of_threads(1, 50.0) };
        let rows = [of_threads(2, 200.0), another_run, of_threads(1, 100.0), of_threads(4, 300.0), row("exact", 1_000)];
        let told: Vec<(u32, u32, f64)> =
            scaling(&rows).into_iter().map(|one| (one.threads, one.of_threads, one.batched)).collect();
        assert_eq!(told, [(2, 1, 2.0), (4, 1, 3.0)]);
        assert_eq!(scaling(&[&rows[..], &rows].concat()), scaling(&rows), "a file that is named twice");
    }

    #[test]
    fn upper_bounds_are_those_of_clopper_and_pearson() {
        // Of none the bound is 1 - 0.05^(1/n); the others are quantiles of beta distributions, from tables.
        for (count, of, bound) in [(0, 1, 0.95), (0, 10_000, 2.9953e-4), (1, 100, 0.046_560), (10, 10, 1.0)] {
            let missed = missed(count, of).expect("there are some");
            assert!((missed.at_most / bound - 1.0).abs() < 1e-3, "{count} of {of}: {}", missed.at_most);
            assert!(missed.share <= missed.at_most);
        }
        assert!(missed(0, 0).is_none());
    }

    #[test]
    fn shares_show_two_digits() {
        for (value, text) in [(0.123, "12 %"), (0.012_3, "1.2 %"), (3e-4, "0.030 %"), (0.0, "0 %"), (1.0, "100 %")] {
            assert_eq!(share(value), text);
        }
    }

    #[test]
    fn a_processor_is_told_by_name_family_and_model() {
        let told = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel\t\t: 18\n";
        assert_eq!(processor_of(told).as_deref(), Some("AMD EPYC (family 25, model 17)"));
        assert_eq!(processor_of("BogoMIPS: 50"), None);
    }
}
