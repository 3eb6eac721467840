//! Runs the log on a disk that loses power, and the log in a bucket that fails and has several
//! writers: `simulate [--steps N] [--seed S]`, so many steps of each.
//!
//! Prints the seed and both reports as JSON; exits with 1 if the log broke a promise, and with 2 if
//! the arguments are wrong. The same seed and number of steps repeat the same run.

use kaplan_log::simulate::{Report, simulate};
use kaplan_log::simulate_objects;
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
    let both =
        simulate(seed, steps).and_then(|disk| Ok((disk, simulate_objects::simulate(seed, steps)?)));
    match both {
        Ok((disk, objects)) => finish(&mut out, &json(seed, &disk, &objects), 0),
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

fn json(seed: u64, report: &Report, objects: &simulate_objects::Report) -> String {
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
    let faults = objects.faults;
    let object_fields = [
        ("steps", objects.steps),
        ("acknowledged", objects.acknowledged),
        ("lost", objects.lost),
        ("doubled", objects.doubled),
        ("opened", objects.opened),
        ("fenced", objects.fenced),
        ("unknown", objects.unknown),
        ("recovered", objects.recovered),
        ("trimmed", objects.trimmed),
        ("reads", objects.reads),
        ("flips", objects.flips),
        ("failed_before", faults.before),
        ("failed_after", faults.after),
        ("late", faults.late),
        ("failed_others", faults.other),
    ];
    format!("{{{}, \"objects\": {{{}}}}}", list(&fields), list(&object_fields))
}

fn list(fields: &[(&str, u64)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, n)| format!("\"{name}\": {n}")).collect();
    fields.join(", ")
}
