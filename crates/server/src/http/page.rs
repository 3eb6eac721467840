//! `GET /`: the status page. One HTML document without scripts or other files, that loads itself
//! again every few seconds. It shows what `/v1/status` says, and nothing else.

use super::App;
use super::error::ApiError;
use axum::extract::State;
use axum::response::Html;
use kaplan_platform::{
    BatchRun, ConnectorStatus, ReplicaStatus, RunState, Status, StreamStatus, ViewStatus,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::time::{SystemTime, UNIX_EPOCH};

const REFRESH_SECONDS: u32 = 5;
const STYLE: &str = include_str!("page.css");

pub(super) async fn show(State(app): State<App>) -> Result<Html<String>, ApiError> {
    let status = app.platform.status()?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    Ok(Html(page(&status, now_us).into_string()))
}

fn page(status: &Status, now_us: i64) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(REFRESH_SECONDS);
                title { "Kaplan" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Kaplan" }
                    span.dim { "version " (status.version) }
                    @if status.ready { span.badge.ok { "ready" } }
                    @else { span.badge.bad { "not ready" } }
                    @if let Some(replica) = &status.replica {
                        span.badge { "read replica" }
                        span.dim { (follows(replica)) }
                    }
                    span.dim.push { "up " (span(status.uptime_us)) }
                }
                main {
                    (picture(status))
                    (figures(status))
                    h2 { "Streams and tables" }
                    (streams(&status.streams, now_us))
                    h2 { "Views" }
                    (views(status, now_us))
                    @for (title, all) in [("Sources", &status.sources), ("Sinks", &status.sinks)] {
                        @if !all.is_empty() {
                            h2 { (title) }
                            (connectors(all, now_us))
                        }
                    }
                    h2 { "Batch runs" }
                    (runs(&status.runs, now_us))
                    footer {
                        a href="/v1/status" { "status as JSON" } " · "
                        a href="/metrics" { "metrics" } " · "
                        a href="/openapi.json" { "OpenAPI" }
                    }
                }
            }
        }
    }
}

/// How far a read replica is behind.
fn follows(replica: &ReplicaStatus) -> String {
    let looked = replica.looked_us_ago.map_or("never".to_owned(), |us| span(us) + " ago");
    let (behind, newest) = (replica.commits_behind, replica.newest_lsn);
    let trouble = replica.error.as_ref().map_or(String::new(), |error| format!("; {error}"));
    format!("{behind} commits behind LSN {newest}, looked {looked}{trouble}")
}

/// The layers, with the position each of them has reached.
fn picture(status: &Status) -> Markup {
    let batch = status.views.iter().filter_map(|v| v.batch_lsn).max();
    let batch = batch.map_or("no batch view yet".to_owned(), |lsn| format!("published at {lsn}"));
    let speed = status.views.iter().filter(|v| v.state == "running").map(|v| v.lsn).min();
    let speed = speed.map_or("no view yet".to_owned(), |lsn| format!("follows at {lsn}"));
    let log = format!("durable at {}, lake at {}", status.durable_lsn, status.archived_lsn);
    let title = "Events go from the log through the batch and the speed layer to serving";
    html! {
        svg.picture viewBox="0 0 860 200" role="img" aria-label=(title) {
            defs {
                marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
                    orient="auto" { path d="M0 0 8 4 0 8z" fill="var(--dim)" {} }
            }
            (area(30, 65, "var(--dim)", "Log", &log))
            (area(330, 20, "var(--blue)", "Batch layer", &batch))
            (area(330, 110, "var(--teal)", "Speed layer", &speed))
            (area(630, 65, "var(--amber)", "Serving layer", &format!("served at {}", status.served_lsn)))
            g fill="none" stroke="var(--dim)" stroke-width="1.5" marker-end="url(#tip)" {
                path d="M230 92 C280 92 280 55 326 55" {}
                path d="M230 108 C280 108 280 145 326 145" {}
                path d="M530 55 C580 55 580 92 626 92" {}
                path d="M530 145 C580 145 580 108 626 108" {}
            }
        }
    }
}

fn area(x: u32, y: u32, colour: &str, name: &str, fact: &str) -> Markup {
    html! {
        rect x=(x) y=(y) width="200" height="70" rx="10" fill="none" stroke=(colour)
            stroke-width="2" {}
        text x=(x + 100) y=(y + 31) text-anchor="middle" { (name) }
        text.small x=(x + 100) y=(y + 52) text-anchor="middle" { (fact) }
    }
}

fn figures(status: &Status) -> Markup {
    let behind = status.durable_lsn.0.saturating_sub(status.served_lsn.0);
    let fresh = |pick: fn((u64, u64)) -> u64| {
        status.freshness_us.map_or("–".to_owned(), |both| span(pick(both)))
    };
    let figures = [
        ("Durable LSN", status.durable_lsn.to_string()),
        ("Served LSN", status.served_lsn.to_string()),
        ("Commits behind", behind.to_string()),
        ("Archived LSN", status.archived_lsn.to_string()),
        ("Log tail", bytes(status.log_bytes)),
        ("Freshness p50", fresh(|(p50, _)| p50)),
        ("Freshness p99", fresh(|(_, p99)| p99)),
    ];
    html! {
        dl.cards { @for (name, value) in figures { div { dt { (name) } dd { (value) } } } }
    }
}

fn streams(streams: &[StreamStatus], now_us: i64) -> Markup {
    if streams.is_empty() {
        return html! { p.dim { "None yet: " code { "CREATE STREAM name (column type, ..)" } } };
    }
    let heads = ["Rows", "Duplicates", "Late", "Quarantined", "Dropped", "Last LSN", "Watermark"];
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Kind" }
                @for head in heads { th.n scope="col" { (head) } }
            } }
            tbody { @for s in streams { tr {
                th scope="row" { (s.name) }
                td { (s.kind) }
                @for n in [s.rows, s.duplicates, s.late, s.quarantined, s.dropped, s.last_lsn.0] {
                    td.n { (grouped(n)) }
                }
                td.n { (s.watermark_us.map_or("–".to_owned(), |at| ago(at, now_us))) }
            } } }
        } }
    }
}

fn connectors(all: &[ConnectorStatus], now_us: i64) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Connector" }
                th scope="col" { "Condition" }
                th.n scope="col" { "Since" } th.n scope="col" { "Behind" }
                th.n scope="col" { "Rows" } th.n scope="col" { "Errors" }
                th scope="col" { "Message" }
            } }
            tbody { @for c in all { tr {
                th scope="row" { (c.name) }
                td { (c.connector) }
                td { (condition(&c.state)) }
                td.n { (ago(c.since_us, now_us)) }
                td.n { (behind(c)) }
                td.n { (grouped(c.rows)) }
                td.n { (grouped(c.errors)) }
                td { (c.message.as_deref().unwrap_or("")) }
            } } }
        } }
    }
}

fn condition(state: &str) -> Markup {
    let bad = matches!(state, "stuck" | "retrying");
    html! { span.badge.ok[state == "running"].bad[bad] { (state) } }
}

fn behind(c: &ConnectorStatus) -> String {
    let lag = c.lag.zip(c.lag_unit.as_deref());
    lag.map_or("–".to_owned(), |(amount, unit)| format!("{} {unit}", grouped(amount)))
}

fn views(status: &Status, now_us: i64) -> Markup {
    if status.views.is_empty() {
        return html! { p.dim { "None yet: " code { "CREATE MATERIALIZED VIEW name AS SELECT .." } } };
    }
    let heads = ["LSN", "Lag", "Batch LSN", "Batch age", "State rows", "State"];
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Architecture" }
                th scope="col" { "Condition" }
                @for head in heads { th.n scope="col" { (head) } }
                th scope="col" { "Schedule" }
            } }
            tbody { @for view in &status.views { (view_row(view, status, now_us)) } }
        } }
    }
}

fn view_row(view: &ViewStatus, status: &Status, now_us: i64) -> Markup {
    let lag = status.durable_lsn.0.saturating_sub(view.lsn.0);
    let layers = match view.architecture.as_str() {
        "lambda" => "λ lambda: batch + speed",
        "kappa" => "κ kappa: speed",
        other => other,
    };
    let condition = match view.state.as_str() {
        "running" => "badge ok",
        "failed" => "badge bad",
        _ => "badge wait",
    };
    html! {
        tr {
            th scope="row" title=(view.query) { (view.name) }
            td { span class={ "badge " (view.architecture) } { (layers) } }
            td { span class=(condition) { (view.state) } }
            td.n { (grouped(view.lsn.0)) }
            td.n { (grouped(lag)) }
            td.n { (view.batch_lsn.map_or("–".to_owned(), |lsn| grouped(lsn.0))) }
            td.n { (view.batch_published_us.map_or("–".to_owned(), |at| ago(at, now_us))) }
            td.n { (grouped(view.state_rows)) }
            td.n { (bytes(view.state_bytes)) }
            td { (view.batch_schedule.as_deref().unwrap_or("–")) }
        }
        @if let Some(error) = &view.error { tr { td.why colspan="10" { (error) } } }
    }
}

fn runs(runs: &[BatchRun], now_us: i64) -> Markup {
    if runs.is_empty() {
        return html! { p.dim { "None yet." } };
    }
    html! {
        div.scroll { table {
            thead { tr {
                @for head in ["Run", "Views", "Trigger", "Mode", "Result"] {
                    th scope="col" { (head) }
                }
                @for head in ["LSN", "Rows read", "Took", "Started"] { th.n scope="col" { (head) } }
            } }
            tbody { @for run in runs { (run_row(run, now_us)) } }
        } }
    }
}

fn run_row(run: &BatchRun, now_us: i64) -> Markup {
    let (class, result) = match run.state {
        RunState::Running => ("badge wait", "running"),
        RunState::Succeeded => ("badge ok", "succeeded"),
        RunState::Failed => ("badge bad", "failed"),
    };
    let took = run.ended_us.unwrap_or(now_us).saturating_sub(run.started_us);
    let mode = format!("{:?}", run.mode).to_lowercase();
    html! {
        tr {
            th scope="row" { (run.id) }
            td { (if run.views.is_empty() { "all".to_owned() } else { run.views.join(", ") }) }
            td { (run.trigger) }
            td { (mode) }
            td { span class=(class) { (result) } }
            td.n { (run.lsn.map_or("–".to_owned(), |lsn| grouped(lsn.0))) }
            td.n { (grouped(run.rows_read)) }
            td.n { (span(u64::try_from(took).unwrap_or(0))) }
            td.n { (ago(run.started_us, now_us)) }
        }
        @if let Some(error) = &run.error { tr { td.why colspan="9" { (error) } } }
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn ago(at_us: i64, now_us: i64) -> String {
    match u64::try_from(now_us.saturating_sub(at_us)) {
        Ok(us) => format!("{} ago", span(us)),
        Err(_) => format!("in {}", span(at_us.saturating_sub(now_us).unsigned_abs())),
    }
}

fn span(us: u64) -> String {
    match us / 1_000_000 {
        0 => format!("{:.1} ms", us as f64 / 1_000.0),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kaplan_base::Lsn;
    use kaplan_platform::BatchMode;

    const NOW_US: i64 = 1_706_659_200_000_000;

    fn view(name: &str, architecture: &str, state: &str) -> ViewStatus {
        ViewStatus {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            state: state.to_owned(),
            error: (state == "failed").then(|| "a <b> was lost".to_owned()),
            lsn: Lsn(118),
            batch_lsn: (architecture == "lambda").then_some(Lsn(90)),
            batch_published_us: (architecture == "lambda").then_some(NOW_US - 65_000_000),
            state_rows: 1_234_567,
            state_bytes: 3 << 20,
            operators: vec![kaplan_platform::OperatorStatus {
                name: "1 Join".to_owned(),
                state_rows: 12,
                state_bytes: 340,
            }],
            batch_schedule: Some("0 2 * * *".to_owned()),
            query: "SELECT \"a\" < 1".to_owned(),
        }
    }

    fn connector(name: &str, state: &str, lag: (u64, &str)) -> ConnectorStatus {
        ConnectorStatus {
            name: name.to_owned(),
            connector: "kafka".to_owned(),
            state: state.to_owned(),
            since_us: NOW_US - 30_000_000,
            message: (state == "retrying").then(|| "the broker <b> is away".to_owned()),
            lag: Some(lag.0),
            lag_unit: Some(lag.1.to_owned()),
            rows: 99,
            errors: 7,
        }
    }

    /// A status with something of everything.
    pub(in crate::http) fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            ready: true,
            replica: None,
            error: None,
            durable_lsn: Lsn(120),
            served_lsn: Lsn(118),
            archived_lsn: Lsn(100),
            log_start_lsn: Lsn(90),
            log_bytes: 2_000,
            freshness_us: Some((900, 12_500)),
            uptime_us: 3_700_000_000,
            memory: kaplan_platform::MemoryStatus::default(),
            streams: vec![StreamStatus {
                name: "flights".to_owned(),
                kind: "stream".to_owned(),
                rows: 336_776,
                duplicates: 3,
                late: 0,
                quarantined: 0,
                dropped: 0,
                watermark_us: Some(NOW_US - 2_000_000),
                last_lsn: Lsn(120),
            }],
            views: vec![view("delays", "lambda", "running"), view("<broken>", "kappa", "failed")],
            runs: vec![BatchRun {
                id: "run-1".to_owned(),
                trigger: "schedule".to_owned(),
                views: vec!["delays".to_owned()],
                mode: BatchMode::Incremental,
                lsn: Some(Lsn(90)),
                state: RunState::Succeeded,
                error: None,
                started_us: NOW_US - 70_000_000,
                ended_us: Some(NOW_US - 65_000_000),
                rows_read: 1_000,
            }],
            sources: vec![connector("clicks", "retrying", (1_234, "records"))],
            sinks: vec![connector("copy", "running", (0, "commits"))],
            workers: Vec::new(),
        }
    }

    #[test]
    fn the_page_shows_every_fact_and_escapes_text() {
        let text = page(&status(), NOW_US).into_string();
        for fact in [
            "<title>Kaplan</title>",
            "content=\"5\"",
            "prefers-color-scheme",
            "durable at 120",
            "336,776",
            "1,234,567",
            "1 min 5 s ago",
            "12.5 ms",
            "λ lambda",
            "0 2 * * *",
            "run-1",
            "incremental",
            "succeeded",
            "&lt;broken&gt;",
            "a &lt;b&gt; was lost",
            "1,234 records",
            "the broker &lt;b&gt; is away",
        ] {
            assert!(text.contains(fact), "{fact}\n{text}");
        }
        assert!(!text.contains("<script") && !text.contains("<broken>"));
    }

    #[test]
    fn an_empty_platform_says_what_to_do() {
        let mut empty = status();
        (empty.streams, empty.views, empty.runs) = (vec![], vec![], vec![]);
        (empty.freshness_us, empty.ready) = (None, false);
        let text = page(&empty, NOW_US).into_string();
        assert!(text.contains("CREATE STREAM") && text.contains("no batch view yet"));
        assert!(text.contains("not ready"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(123_456_789), "123,456,789");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(span(59_999_999), "59 s");
        assert_eq!(span(90_061_000_000), "1 d");
        assert_eq!(ago(10, 5), "in 0.0 ms");
    }
}
