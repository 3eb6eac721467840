//! What the demo found, as plain data, as JSON, and as Markdown that also reads well on a terminal.

use anyhow::Context;
use chrono::DateTime;
use serde::Serialize;
use std::path::Path;

use super::plan::Planted;

/// Everything that the demo found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every check passed.
    pub ok: bool,
    /// The seed and the shares of planted disorder.
    pub seed: u64,
    /// Share of the year that was played.
    pub scale: f64,
    /// What the plan planted.
    pub planted: Planted,
    /// How the play went.
    pub ingest: Ingest,
    /// The views, each in both architectures.
    pub views: Vec<ViewRow>,
    /// Replays of the Kappa views.
    pub replays: Vec<Replay>,
    /// Every count that was held against the data.
    pub checks: Vec<Check>,
    /// What the data says.
    pub answers: Vec<Answer>,
}

/// How the play went.
#[derive(Debug, Serialize)]
pub struct Ingest {
    /// Events sent, with duplicates and retried commits.
    pub events_sent: u64,
    /// Events that were new.
    pub events_accepted: u64,
    /// Events that had been sent before, and were dropped.
    pub duplicates_dropped: u64,
    /// Events behind the watermark, merged all the same.
    pub late_merged: u64,
    /// Durable commits.
    pub commits: u64,
    /// Commits that were sent twice.
    pub commits_retried: u64,
    /// Refusals because the platform was busy; sent again.
    pub overloads: u64,
    /// From the first commit until the last was visible in every view.
    pub seconds: f64,
    /// `events_sent / seconds`.
    pub events_per_second: f64,
    /// From acknowledged to visible in every view.
    pub freshness_p50_us: Option<u64>,
    /// The same, of the slowest hundredth.
    pub freshness_p99_us: Option<u64>,
    /// How many commits were sampled.
    pub freshness_samples: u64,
    /// Batch runs while playing.
    pub batch_runs: u64,
    /// The longest batch run.
    pub longest_batch_run_seconds: f64,
}

/// One view at the end.
#[derive(Debug, Serialize)]
pub struct ViewRow {
    /// Name.
    pub view: String,
    /// Rows of the answer.
    pub rows: i64,
    /// Up to which commit it has taken in the log.
    pub lsn: u64,
    /// Up to which commit the batch layer has computed it.
    pub batch_lsn: Option<u64>,
    /// How long ago the batch layer published it.
    pub batch_age_seconds: Option<f64>,
    /// Memory that the view's state takes.
    pub state_bytes: u64,
}

/// The replay of one view.
#[derive(Debug, Serialize)]
pub struct Replay {
    /// Name.
    pub view: String,
    /// Events that it was computed from.
    pub events: u64,
    /// From the statement until it served.
    pub seconds: f64,
}

/// Two numbers that must be equal.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was counted.
    pub what: String,
    /// What the data says.
    pub expected: i64,
    /// What the platform says.
    pub actual: i64,
}

impl Check {
    /// Compares two counts.
    pub fn new(what: &str, expected: u64, actual: u64) -> Self {
        let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
        Self::signed(what, signed(expected), signed(actual))
    }

    /// Compares two totals.
    pub fn signed(what: &str, expected: i64, actual: i64) -> Self {
        Self { what: what.to_owned(), expected, actual }
    }

    /// Whether they are equal.
    pub fn passes(&self) -> bool {
        self.expected == self.actual
    }
}

/// A question and its answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The question.
    pub title: String,
    /// The query.
    pub sql: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The cells as text.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Flights of 2013, as Lambda and as Kappa\n\n");
        text += &table(&["ingest", ""], &self.ingest_rows());
        text += &table(
            &["view", "rows", "at LSN", "batch LSN", "batch age", "state"],
            &self.views.iter().map(ViewRow::cells).collect::<Vec<_>>(),
        );
        text += &table(
            &["replay of", "events", "seconds", "events/s"],
            &self.replays.iter().map(Replay::cells).collect::<Vec<_>>(),
        );
        text += &table(
            &["check", "expected", "actual", ""],
            &self.checks.iter().map(Check::cells).collect::<Vec<_>>(),
        );
        for answer in &self.answers {
            text += &format!("{}\n\n", answer.title);
            let columns: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
            text += &table(&columns, &answer.rows);
        }
        let failed = self.checks.iter().filter(|check| !check.passes()).count();
        text += &match failed {
            0 => format!("All {} checks passed.\n", self.checks.len()),
            _ => format!("{failed} of {} checks FAILED.\n", self.checks.len()),
        };
        text
    }

    /// Writes `FILE.json` and `FILE.md`, whatever extension `FILE` was given.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        for (extension, text) in [("json", json), ("md", self.markdown())] {
            let path = file.with_extension(extension);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn ingest_rows(&self) -> Vec<Vec<String>> {
        let ingest = &self.ingest;
        let fresh = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{} us", grouped(us)));
        let rows = [
            ("events sent", grouped(ingest.events_sent)),
            ("events accepted", grouped(ingest.events_accepted)),
            ("duplicates dropped", grouped(ingest.duplicates_dropped)),
            ("late rows merged", grouped(ingest.late_merged)),
            ("planted late", grouped(self.planted.late)),
            ("planted out of order", grouped(self.planted.out_of_order)),
            ("planted duplicates", grouped(self.planted.duplicates)),
            ("durable commits", grouped(ingest.commits)),
            ("commits sent twice", grouped(ingest.commits_retried)),
            ("seconds", format!("{:.1}", ingest.seconds)),
            ("events per second", grouped(ingest.events_per_second as u64)),
            ("acknowledged to visible, p50", fresh(ingest.freshness_p50_us)),
            ("acknowledged to visible, p99", fresh(ingest.freshness_p99_us)),
            ("batch runs", grouped(ingest.batch_runs)),
            ("longest batch run", format!("{:.2} s", ingest.longest_batch_run_seconds)),
        ];
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
    }
}

impl ViewRow {
    fn cells(&self) -> Vec<String> {
        vec![
            self.view.clone(),
            grouped(self.rows.unsigned_abs()),
            self.lsn.to_string(),
            self.batch_lsn.map_or("-".to_owned(), |lsn| lsn.to_string()),
            self.batch_age_seconds.map_or("-".to_owned(), |age| format!("{age:.1} s")),
            format!("{} KiB", grouped(self.state_bytes / 1024)),
        ]
    }
}

impl Replay {
    fn cells(&self) -> Vec<String> {
        let rate = self.events as f64 / self.seconds.max(f64::EPSILON);
        vec![
            self.view.clone(),
            grouped(self.events),
            format!("{:.2}", self.seconds),
            grouped(rate as u64),
        ]
    }
}

impl Check {
    fn cells(&self) -> Vec<String> {
        let verdict = if self.passes() { "ok" } else { "FAILED" };
        vec![
            self.what.clone(),
            self.expected.to_string(),
            self.actual.to_string(),
            verdict.to_owned(),
        ]
    }
}

/// A Markdown table with its columns aligned.
fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize, name: &str| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([name.chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(at, name)| width(at, name)).collect();
    let line = |cells: &[String]| {
        let cells =
            std::iter::zip(cells, &widths).map(|(cell, &width)| format!(" {cell:width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let header: Vec<String> = columns.iter().map(ToString::to_string).collect();
    let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{}{body}\n", line(&header), line(&rule))
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An instant as people read it.
pub fn instant(us: i64) -> String {
    let time = DateTime::from_timestamp_micros(us).unwrap_or_default();
    time.format("%Y-%m-%d %H:%MZ").to_string()
}

/// The value that `percent` of the values do not exceed (nearest rank).
pub fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(percentile(&values, 50), Some(100));
        assert_eq!(percentile(&values, 99), Some(198));
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(328_521), "328,521");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }

    #[test]
    fn tables_are_aligned_markdown() {
        let rows = [vec!["a".to_owned(), "12345".to_owned()]];
        assert_eq!(
            table(&["view", "n"], &rows),
            "| view | n     |\n| ---- | ----- |\n| a    | 12345 |\n\n"
        );
    }

    #[test]
    fn a_check_fails_on_any_difference() {
        assert!(Check::new("rows", 3, 3).passes());
        let off = Check::new("rows", 3, 2);
        assert!(!off.passes());
        assert_eq!(off.cells()[3], "FAILED");
    }
}
