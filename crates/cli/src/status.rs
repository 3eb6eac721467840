//! `kaplan status`: what a running server holds and how it fares, as tables or as JSON.

use crate::client::{Client, Target};
use crate::shell::table::grid;
use clap::Args;
use serde_json::Value;
use std::io::{self, Write};

/// Arguments of `kaplan status`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  kaplan status\n  kaplan status --json | jq .durable_lsn")]
pub struct StatusArgs {
    /// Everything, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A column of a table: its title, where its value is, and how it is shown.
type Column = (&'static str, &'static str, fn(&Value) -> String);

const STREAMS: [Column; 8] = [
    ("stream", "name", text),
    ("kind", "kind", text),
    ("rows", "rows", text),
    ("duplicates", "duplicates", text),
    ("late", "late", text),
    ("quarantined", "quarantined", text),
    ("dropped", "dropped", text),
    ("watermark", "watermark_us", time),
];

const VIEWS: [Column; 8] = [
    ("view", "name", text),
    ("architecture", "architecture", text),
    ("state", "state", text),
    ("LSN", "lsn", text),
    ("batch LSN", "batch_lsn", text),
    ("batch published", "batch_published_us", time),
    ("schedule", "batch_schedule", text),
    ("state size", "state_bytes", bytes),
];

const RUNS: [Column; 6] = [
    ("batch run", "id", text),
    ("trigger", "trigger", text),
    ("views", "views", list),
    ("state", "state", text),
    ("LSN", "lsn", text),
    ("started", "started_us", time),
];

const CONNECTORS: [Column; 7] = [
    ("source or sink", "name", text),
    ("connector", "connector", text),
    ("state", "state", text),
    ("since", "since_us", time),
    ("lag", "lag", text),
    ("rows", "rows", text),
    ("errors", "errors", text),
];

const WORKERS: [Column; 4] = [
    ("worker", "name", text),
    ("shares", "shares", list),
    ("since LSN", "since", text),
    ("holds", "held_bytes", bytes),
];

/// Prints the status.
pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.target)?;
    let status: Value = client.get(&["v1", "status"]).await?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
        return Ok(());
    }
    print(&mut out, client.address(), &status)?;
    Ok(())
}

fn print(out: &mut dyn Write, address: &str, status: &Value) -> io::Result<()> {
    let field = |name: &str| text(&status[name]);
    let ready = if status["ready"] == true { "ready" } else { "not ready" };
    let uptime = status["uptime_us"].as_u64().unwrap_or_default() / 1_000_000;
    writeln!(out, "kaplan {} at {address}: {ready}, up {uptime} s", field("version"))?;
    writeln!(
        out,
        "LSN: durable {}, served {}, in the lake {}; log from {} holds {}",
        field("durable_lsn"),
        field("served_lsn"),
        field("archived_lsn"),
        field("log_start_lsn"),
        bytes(&status["log_bytes"])
    )?;
    if let (Some(p50), Some(p99)) =
        (status["freshness_us"][0].as_f64(), status["freshness_us"][1].as_f64())
    {
        let (p50, p99) = (p50 / 1e3, p99 / 1e3);
        writeln!(out, "From acknowledged to visible: {p50:.1} ms (p50), {p99:.1} ms (p99)")?;
    }
    let memory = &status["memory"];
    if memory.is_object() {
        writeln!(
            out,
            "State: {} of {} in memory, {} in files",
            bytes(&memory["state_bytes"]),
            bytes(&memory["state_limit_bytes"]),
            bytes(&memory["state_file_bytes"])
        )?;
    }
    let replica = &status["replica"];
    if replica.is_object() {
        let looked = replica["looked_us_ago"].as_f64().map_or("never".to_owned(), |us| {
            let seconds = us / 1e6;
            format!("{seconds:.1} s ago")
        });
        writeln!(
            out,
            "Read replica: {} commits behind LSN {}, looked {looked}, writer's epoch {}",
            text(&replica["commits_behind"]),
            text(&replica["newest_lsn"]),
            text(&replica["writer_epoch"])
        )?;
        if let Some(error) = replica["error"].as_str() {
            writeln!(out, "Its last look failed: {error}")?;
        }
    }
    section(out, &status["streams"], &STREAMS)?;
    section(out, &status["views"], &VIEWS)?;
    section(out, &status["sources"], &CONNECTORS)?;
    section(out, &status["sinks"], &CONNECTORS)?;
    section(out, &status["workers"], &WORKERS)?;
    section(out, &status["runs"], &RUNS)?;
    let told = ["views", "sources", "sinks", "runs"];
    for entry in told.iter().filter_map(|name| status[*name].as_array()).flatten() {
        if let Some(error) = entry["error"].as_str().or(entry["message"].as_str()) {
            let name = text(entry.get("name").unwrap_or(&entry["id"]));
            writeln!(out, "\n{name}: {error}")?;
        }
    }
    Ok(())
}

fn section(out: &mut dyn Write, entries: &Value, columns: &[Column]) -> io::Result<()> {
    let entries = entries.as_array().map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return Ok(());
    }
    let header: Vec<&str> = columns.iter().map(|(title, _, _)| *title).collect();
    let right: Vec<bool> =
        columns.iter().map(|(_, key, _)| entries.iter().any(|e| e[*key].is_number())).collect();
    let row = |entry: &Value| columns.iter().map(|(_, key, show)| show(&entry[*key])).collect();
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    writeln!(out)?;
    grid(out, &header, &right, &rows)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn list(value: &Value) -> String {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn time(value: &Value) -> String {
    let shown = value.as_i64().and_then(chrono::DateTime::from_timestamp_micros);
    shown.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn bytes(value: &Value) -> String {
    indicatif::HumanBytes(value.as_u64().unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_shows_lsns_streams_views_and_errors() {
        let status = json!({
            "version": "0.1.0", "ready": true, "durable_lsn": 12, "served_lsn": 11,
            "archived_lsn": 9, "log_start_lsn": 10, "log_bytes": 2048,
            "freshness_us": [1500, 9000], "uptime_us": 3_000_000,
            "streams": [{"name": "flights", "kind": "stream", "rows": 5, "duplicates": 1,
                "late": 0, "quarantined": 0, "dropped": 0, "watermark_us": 0}],
            "views": [{"name": "v", "architecture": "lambda", "state": "failed",
                "error": "the disk is full", "lsn": 11, "batch_lsn": null,
                "batch_published_us": null, "batch_schedule": null, "state_bytes": 10}],
            "replica": {"writer_epoch": 3, "newest_lsn": 15, "commits_behind": 4,
                "looked_us_ago": 200_000, "error": "no route"},
            "sources": [{"name": "clicks", "connector": "kafka", "state": "retrying",
                "message": "the broker is away", "since_us": 0, "lag": 7, "lag_unit": "records",
                "rows": 3, "errors": 0}],
            "runs": []
        });
        let mut out = Vec::new();
        print(&mut out, "http://x", &status).unwrap();
        let out = String::from_utf8(out).unwrap();
        for part in [
            "durable 12, served 11, in the lake 9",
            "1.5 ms (p50)",
            " flights | stream |    5 |",
            "1970-01-01 00:00:00Z",
            "4 commits behind LSN 15, looked 0.2 s ago, writer's epoch 3",
            "no route",
            "v: the disk is full",
            " clicks         | kafka     | retrying | 1970-01-01 00:00:00Z |   7 |",
            "clicks: the broker is away",
        ] {
            assert!(out.contains(part), "{part} is not in\n{out}");
        }
    }
}
