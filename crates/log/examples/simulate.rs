//! Runs the log on a disk that loses power: `simulate [--steps N] [--seed S]`.
//!
//! Prints the seed and the report as JSON; exits with 1 if the log broke a promise, and with 2 if
//! the arguments are wrong. The same seed and number of steps repeat the same run.

use kaplan_log::simulate::{Report, simulate};
use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

const DEFAULT_STEPS: u64 = 100_000;

fn main() -> ExitCode {
    let (steps, seed) = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => return finish(&mut std::io::stderr(), &message, 2),
    };
    let mut out = std::io::stdout();
    match simulate(seed, steps) {
        Ok(report) => finish(&mut out, &json(seed, &report), 0),
        Err(violation) => {
            let line = format!("{{\"seed\": {seed}, \"violation\": {violation:?}}}");
            finish(&mut out, &line, 1)
        }
    }
}

fn finish(out: &mut dyn Write, line: &str, code: u8) -> ExitCode {
    match writeln!(out, "{line}") {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(2),
    }
}

fn arguments() -> Result<(u64, u64), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut steps, mut seed) = (DEFAULT_STEPS, u64::from(now.subsec_nanos()) ^ now.as_secs());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--steps", Some(value)) => steps = value,
            ("--seed", Some(value)) => seed = value,
            _ => return Err(format!("{name}: use --steps N and --seed S with whole numbers")),
        }
    }
    Ok((steps, seed))
}

fn json(seed: u64, report: &Report) -> String {
    let fields = [
        ("seed", seed),
        ("steps", report.steps),
        ("acknowledged", report.acknowledged),
        ("lost", report.lost),
        ("doubled", report.doubled),
        ("crashes", report.crashes),
        ("kills", report.kills),
        ("reopened", report.reopened),
        ("recovered", report.recovered),
        ("cut_bytes", report.cut_bytes),
        ("failed_syncs", report.failed_syncs),
        ("disk_full", report.disk_full),
        ("trimmed", report.trimmed),
        ("reads", report.reads),
        ("flips", report.flips),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, n)| format!("\"{name}\": {n}")).collect();
    format!("{{{}}}", fields.join(", "))
}
