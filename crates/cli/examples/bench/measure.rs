//! The results: collected, printed as a table, written as Markdown and JSON with the machine that
//! they were measured on. A figure without its machine and profile says nothing.

use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

#[derive(Serialize)]
struct Measure {
    name: String,
    value: f64,
    unit: &'static str,
    note: String,
}

#[derive(Serialize)]
struct Machine {
    cores: usize,
    cpu: String,
    memory_gib: f64,
    profile: &'static str,
}

#[derive(Serialize)]
struct Results<'a> {
    machine: Machine,
    history_rows: usize,
    results: &'a [Measure],
}

/// What was measured so far.
#[derive(Default)]
pub struct Report(Vec<Measure>);

impl Report {
    /// Adds a figure, and shows it at once, since a run takes minutes.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        note: impl Into<String>,
    ) {
        let measure = Measure { name: name.into(), value, unit, note: note.into() };
        let _ = writeln!(std::io::stderr(), "{}: {} {unit}", measure.name, shown(value));
        self.0.push(measure);
    }

    /// Adds the most memory that the process held.
    pub fn peak_memory(&mut self) -> Result<()> {
        let kib = field("/proc/self/status", "VmHWM")?;
        let note = "the process over the whole run, with the benchmark's own input";
        self.add("peak memory (RSS)", kilobytes(&kib)? / 1_024.0, "MiB", note);
        Ok(())
    }

    /// Prints the table and writes both files.
    pub fn write(&self, dir: &Path, history_rows: usize) -> Result<()> {
        let results = Results { machine: machine()?, history_rows, results: &self.0 };
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let text = markdown(&results);
        std::fs::write(dir.join("results.md"), &text)?;
        std::fs::write(dir.join("results.json"), serde_json::to_string_pretty(&results)? + "\n")?;
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }
}

fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let caveat = if machine.profile == "release" {
        ""
    } else {
        "\n**These figures are of a dev build**: only the crates that touch every row are \
         optimised, planning and storage are not. Run `make bench` for a release build.\n"
    };
    let mut text = format!(
        "# Benchmark results\n\nProfile {}, {} cores ({}), {:.0} GiB of memory, {} rows of \
         history. Platform in process, default settings.\n{caveat}\n\
         | Measure | Value | Unit | Note |\n|---|---:|---|---|\n",
        machine.profile, machine.cores, machine.cpu, machine.memory_gib, results.history_rows
    );
    for row in results.results {
        text += &format!("| {} | {} | {} | {} |\n", row.name, shown(row.value), row.unit, row.note);
    }
    text
}

fn machine() -> Result<Machine> {
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|_| "unknown".to_owned()),
        memory_gib: kilobytes(&field("/proc/meminfo", "MemTotal")?)? / (1 << 20) as f64,
        profile: if cfg!(debug_assertions) { "dev" } else { "release" },
    })
}

/// The first value of a `name: value` line.
fn field(path: &str, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let found = pairs.find(|(key, _)| key.trim() == name);
    Ok(found.with_context(|| format!("{path} has no {name}"))?.1.trim().to_owned())
}

fn kilobytes(text: &str) -> Result<f64> {
    text.trim_end_matches("kB").trim().parse().with_context(|| text.to_owned())
}

/// Two or three digits below a thousand, and whole numbers with separators above.
fn shown(value: f64) -> String {
    if value < 1_000.0 {
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
