//! How results look: tables for people, JSON for machines, one progress for both kinds of terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// Seconds between two lines of progress where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Table,
    /// JSON.
    Json,
}

/// A table with these column heads.
pub(crate) fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(heads);
    table
}

/// Writes one line to standard output. Whoever reads it may have gone (`semel cases | head`): then the process ends
/// quietly, as other tools do.
pub(crate) fn line(text: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Writes one JSON document on one line.
pub(crate) fn json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(document)?);
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
        Self { what: what.to_owned(), total, done: 0, started: Instant::now(), bar, told: Instant::now() }
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
                let left = (total - self.done) as f64 / rate.max(1e-9);
                let (done, total) = (grouped(self.done), grouped(total));
                eprintln!("{}: {done} of {total}, {rate:.0}/s, {left:.0} s left{note}", self.what);
            }
            Some(_) | None => eprintln!("{}: {}, {rate:.0}/s{note}", self.what, grouped(self.done)),
        }
    }
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{prefix} {bar:30} {human_pos} of {human_len}, {per_sec}, {eta} left  {wide_msg}")
        }
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {human_pos}, {per_sec}  {wide_msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant and valid");
    bar.with_style(style).with_prefix(what.to_owned())
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
