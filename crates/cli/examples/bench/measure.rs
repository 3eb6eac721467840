//! Figures: one JSON object a line on standard output, with the memory that the process took.

use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

#[derive(Serialize)]
struct Figure<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    note: &'a str,
    peak_mib: f64,
    profile: &'a str,
}

/// Prints a figure.
pub fn print(name: &str, value: f64, unit: &str, note: &str) -> Result<()> {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let figure = Figure { name, value, unit, note, peak_mib: peak_mib()?, profile };
    let mut out = std::io::stdout();
    serde_json::to_writer(&mut out, &figure)?;
    Ok(writeln!(out)?)
}

/// Prints the median and the 99th percentile of some milliseconds.
pub fn latency(name: &str, ms: &mut [f64], note: &str) -> Result<()> {
    ms.sort_by(f64::total_cmp);
    for percent in [50, 99] {
        print(&format!("{name}, p{percent}"), percentile(ms, percent), "ms", note)?;
    }
    Ok(())
}

/// The most memory that the process has held.
pub fn peak_mib() -> Result<f64> {
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.with_context(|| format!("{path} has no VmHWM"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context(path)?;
    Ok(kib / 1_024.0)
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 50)
}

/// The value below which `percent` of the sorted values lie; 0 without values.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}
