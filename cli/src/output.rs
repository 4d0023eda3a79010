//! How results look: tables for people, JSON for machines, one progress for both kinds of terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, presets};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Seconds between two lines of progress where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// The longest time left that is told; a longer one is a guess of a job that has hardly begun.
const LEFT_MAX: Duration = Duration::from_secs(99 * 3_600);

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Table,
    /// JSON.
    Json,
}

/// Text as a terminal may be given it: characters that would steer the terminal, or show the text in another order than
/// it has, are written as `\u{202e}`. Line breaks are among them.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Whether a character is a control, a direction mark or override, an invisible separator or a line break.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// What a cell of a table shows, with nothing in it that steers a terminal.
pub(crate) struct Cell(String);

impl Cell {
    /// A cell with one line per item.
    pub(crate) fn lines(items: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let lines: Vec<String> = items.into_iter().map(|item| escaped(item.as_ref())).collect();
        Self(lines.join("\n"))
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(escaped(text.as_ref()))
    }
}

/// A table for people.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// Adds a row below the others.
    pub(crate) fn add_row(&mut self, cells: impl IntoIterator<Item = impl Into<Cell>>) {
        let cells = cells.into_iter().map(|cell| {
            let Cell(text) = cell.into();
            text
        });
        self.0.add_row(cells);
    }

    /// Writes the table to standard output.
    pub(crate) fn show(&self) {
        raw(&self.0);
    }
}

/// Lines and tables that appear at once.
#[derive(Debug, Default)]
pub(crate) struct Page(Vec<String>);

impl Page {
    /// Adds a sentence, escaped except for its line breaks.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) {
        self.0.push(escaped_lines(&text.to_string(), "\n"));
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, table: &Table) {
        self.0.push(table.0.to_string());
    }

    /// Every line of it, tables too.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|part| part.lines())
    }

    /// Writes it to standard output.
    pub(crate) fn show(&self) {
        raw(self.0.join("\n"));
    }
}

/// A table with these column heads.
pub(crate) fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(heads.map(escaped));
    Table(table)
}

/// Writes a sentence to standard output, escaped except for its line breaks. What came from elsewhere and must not break
/// the line is escaped by whoever puts it in.
pub(crate) fn line(text: impl std::fmt::Display) {
    raw(escaped_lines(&text.to_string(), "\n"));
}

/// Writes an error to standard error. Its further lines are indented, so that none looks like a line of its own.
pub(crate) fn error(text: impl std::fmt::Display) {
    eprintln!("error: {}", escaped_lines(text.to_string().trim_end(), "\n  "));
}

/// Writes a remark to standard error, where it is no part of the result.
pub(crate) fn note(text: impl std::fmt::Display) {
    eprintln!("{}", escaped_lines(&text.to_string(), "\n"));
}

fn escaped_lines(text: &str, between: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(escaped).collect();
    lines.join(between)
}

/// Writes what is escaped already, or is for machines, on a line of standard output. Whoever reads it may have gone
/// (`semel cases | head`): then the process ends quietly, as other tools do.
pub(crate) fn raw(text: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Writes one JSON document on one line.
pub(crate) fn json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    raw(serde_json::to_string(document)?);
    Ok(())
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds since 1970 as a date and time in UTC.
pub(crate) fn instant(ms: i64) -> String {
    // Days to a date after Howard Hinnant's `civil_from_days`; years count from March.
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1_000);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// A score or threshold in millionths as people read it.
pub(crate) fn score(micros: i32) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let magnitude = micros.unsigned_abs();
    format!("{sign}{}.{:06}", magnitude / 1_000_000, magnitude % 1_000_000)
}

/// The value below which this share of sorted values lies; zero of none.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(Duration::ZERO)
}

/// How far a long job is: a bar with rate and time left on a terminal, a plain line now and then elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    total: Option<u64>,
    done: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    /// Starts the progress of so many items; of an unknown number, if `None`.
    pub(crate) fn start(what: &str, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total));
        Self { what: escaped(what), total, done: 0, started: Instant::now(), bar, told: Instant::now() }
    }

    /// One more item is done; `note` says what else is worth knowing.
    pub(crate) fn advance(&mut self, note: impl FnOnce() -> String) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
            if self.done.is_multiple_of(64) {
                bar.set_message(note());
            }
        } else if self.told.elapsed() >= PLAIN_EVERY {
            self.told = Instant::now();
            self.plain(&note());
        }
    }

    /// Says something beside the progress.
    pub(crate) fn say(&self, text: &str) {
        let text = escaped(text);
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(text),
            Some(_) | None => eprintln!("{text}"),
        }
    }

    /// Items per second since the start.
    pub(crate) fn rate(&self) -> f64 {
        self.done as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Clears the bar; says the last figure where there is no terminal.
    pub(crate) fn finish(&mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => self.plain(""),
        }
    }

    fn plain(&self, note: &str) {
        let note = if note.is_empty() { String::new() } else { format!(", {note}") };
        let rate = self.rate();
        match self.total {
            Some(total) if self.done < total => {
                let left = time_left(total - self.done, rate);
                let left = left.map_or_else(String::new, |left| format!(", {:.0} s left", left.as_secs_f64()));
                let (done, total) = (grouped(self.done), grouped(total));
                eprintln!("{}: {done} of {total}, {rate:.0}/s{left}{note}", self.what);
            }
            Some(_) | None => eprintln!("{}: {}, {rate:.0}/s{note}", self.what, grouped(self.done)),
        }
    }
}

/// The time that so many more items take at this rate; none where that cannot be known yet.
fn time_left(items: u64, rate: f64) -> Option<Duration> {
    let seconds = items as f64 / rate;
    (rate > 0.0 && seconds <= LEFT_MAX.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
}

/// Writes the time left into a bar, with the comma before it.
fn write_left(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    let items = state.len().unwrap_or(0).saturating_sub(state.pos());
    if let Some(left) = time_left(items, state.per_sec()) {
        // The bar is only looked at: a bar without the time left is no reason to stop.
        let _ = write!(text, ", {} left", indicatif::HumanDuration(left));
    }
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{prefix} {bar:30} {human_pos} of {human_len}, {per_sec}{left}  {wide_msg}")
        }
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {human_pos}, {per_sec}  {wide_msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant and valid");
    bar.with_style(style.with_key("left", write_left)).with_prefix(escaped(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (20_200, "20,200"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn nothing_shown_steers_the_terminal() {
        let cases = [
            ("a-1 Zoë 李 \u{1f600}", "a-1 Zoë 李 \u{1f600}"),
            ("\u{1b}[2Jgone", r"\u{1b}[2Jgone"),
            ("a\r\nb\t", r"a\u{d}\u{a}b\u{9}"),
            ("\u{7f}\u{9b}1m", r"\u{7f}\u{9b}1m"),
            ("gnp.\u{202e}exe", r"gnp.\u{202e}exe"),
            ("\u{200b}\u{200f}\u{202a}\u{2066}\u{2069}\u{feff}", r"\u{200b}\u{200f}\u{202a}\u{2066}\u{2069}\u{feff}"),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text), expected);
            assert_eq!(escaped(expected), expected, "what is escaped stays as it is");
        }
        let mut table = table(["a\u{7}"]);
        table.add_row([Cell::lines(["x\ny", "z\u{202e}"])]);
        table.add_row(["p\nq"]);
        let shown = table.0.to_string();
        for part in [r"a\u{7}", r"x\u{a}y", r"z\u{202e}", r"p\u{a}q"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(escaped_lines("one\ntwo\u{1b}", "\n  "), "one\n  two\\u{1b}");
    }

    #[test]
    fn the_time_left_is_told_once_it_is_known() {
        assert_eq!(time_left(100, 50.0), Some(Duration::from_secs(2)));
        for (items, rate) in [(100, 0.0), (100, 1e-9), (u64::MAX, 1.0), (0, 0.0), (1, f64::NAN)] {
            assert_eq!(time_left(items, rate), None, "{items} at {rate}");
        }
    }

    #[test]
    fn instants_are_dates_in_utc() {
        let cases = [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_709_251_199_999, "2024-02-29 23:59:59Z"),
            (-1_000, "1969-12-31 23:59:59Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(instant(ms), text);
        }
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        for (share, expected) in [(0.0, 1), (0.5, 100), (0.99, 198), (1.0, 200)] {
            assert_eq!(quantile(&sorted, share), Duration::from_millis(expected));
        }
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn scores_show_all_their_digits() {
        for (micros, text) in [(420_000, "0.420000"), (1_000_000, "1.000000"), (-5, "-0.000005")] {
            assert_eq!(score(micros), text);
        }
    }
}
