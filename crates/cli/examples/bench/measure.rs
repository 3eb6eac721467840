//! Figures: one JSON object a line on standard output, with the memory that the process took.

use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);

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
    of_status("VmHWM:")
}

/// What the system says of this process's memory.
fn of_status(name: &str) -> Result<f64> {
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("{path} has no {name}"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context(path)?;
    Ok(kib / 1_024.0)
}

/// Watches how much memory the process holds that the system could not drop, as it can a file's.
pub struct AnonymousPeak(Arc<AtomicU64>);

impl AnonymousPeak {
    /// Looks every few milliseconds, until the process ends.
    pub fn watch() -> Result<Self> {
        of_status("RssAnon:")?;
        let peak = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&peak);
        std::thread::spawn(move || {
            while let Ok(mib) = of_status("RssAnon:") {
                seen.fetch_max(mib as u64, Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Ok(Self(peak))
    }

    /// The most so far.
    pub fn mib(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64
    }
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
