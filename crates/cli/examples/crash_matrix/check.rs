//! The comparison: every stream, the table and every view against the truth.

use crate::load::{STREAMS, Stopped, World};
use crate::say;
use crate::server::{Client, Reply, Server};
use crate::truth::{Event, KINDS, bag, difference};
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const ARCHITECTURES: [&str; 2] = ["lambda", "kappa"];
const TABLES: &str = "
    CREATE STREAM uniq (id bigint NOT NULL, k text, v bigint, ts timestamptz,
        WATERMARK FOR ts AS ts - INTERVAL '1 minute',
        UNIQUE (id) WITHIN INTERVAL '1 day');
    CREATE STREAM plain (id bigint NOT NULL, k text, v bigint, ts timestamptz, pad text);
    CREATE TABLE names (k text PRIMARY KEY, g bigint)";
/// How the server tells of a run that a kill has ended.
const CUT_OFF: &str = "the process ended";
const READ_PAUSE: Duration = Duration::from_millis(15);

/// What was counted.
#[derive(Default)]
pub struct Report {
    /// Rounds that were checked.
    pub rounds: u64,
    /// Processes killed: of Kaplan, of the broker and of PostgreSQL.
    pub kills: u64,
    /// Times that the line to the broker or to PostgreSQL was cut, slow, silent or refused.
    pub cuts: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Acknowledged events that are absent.
    pub lost: u64,
    /// Events that are present more than once.
    pub doubled: u64,
    /// Rows that differ from the truth in any other way.
    pub differences: u64,
    violations: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn clean(&self) -> bool {
        self.lost + self.doubled + self.differences + self.violations == 0
    }

    /// Something went wrong that is not a count of rows.
    pub fn violation(&mut self, what: String) {
        say(&format!("violation: {what}"));
        self.violations += 1;
    }

    /// The last line of the output.
    pub fn json(&self, seed: u64) -> String {
        let Report { rounds, kills, cuts, acknowledged, lost, doubled, differences, violations } =
            self;
        format!(
            "{{\"target\":\"crash-matrix\",\"rounds\":{rounds},\"seed\":{seed},\"kills\":{kills},\
             \"cuts\":{cuts},\"acknowledged\":{acknowledged},\"lost\":{lost},\"doubled\":{doubled},\
             \"differences\":{differences},\"violations\":{violations}}}"
        )
    }
}

/// Defines the streams, the table and the views.
pub async fn define(server: &Server) -> anyhow::Result<()> {
    let client = server.client();
    client.sql_ok(TABLES).await?;
    for stream in STREAMS {
        for kind in KINDS {
            for architecture in ARCHITECTURES {
                let (view, query) = (kind.view(stream, architecture), kind.query(stream));
                let sql = format!(
                    "CREATE MATERIALIZED VIEW {view} WITH (architecture = '{architecture}') AS {query}"
                );
                client.sql_ok(&sql).await?;
            }
        }
    }
    Ok(())
}

/// Compares everything; the server verifies the views whose number `verify` picks.
pub async fn all(
    server: &Server,
    world: &World,
    verify: impl Fn(u64) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (client, mut view_number) = (server.client(), 0);
    let names = world.names();
    let rows = client.rows("SELECT k, g FROM names").await?;
    let expected = names.iter().map(|(k, g)| (format!("{k}|{g}"), 1)).collect();
    note(report, "names", difference(&bag(&rows), &expected));
    for stream in STREAMS {
        let none = BTreeMap::new();
        let events = world.events.get(stream).unwrap_or(&none);
        stream_rows(&client, stream, events, report).await?;
        for kind in KINDS {
            let expected = kind.expected(events, &names);
            for architecture in ARCHITECTURES {
                let view = kind.view(stream, architecture);
                let rows = client.rows(&format!("SELECT * FROM {view}")).await?;
                note(report, &view, difference(&bag(&rows), &expected));
                view_number += 1;
                if verify(view_number) {
                    verified(&client, &view, report).await?;
                }
            }
        }
    }
    Ok(())
}

/// Batch runs of everything, the full one at the commit of the one before; then none that the
/// server has made since it started may have failed.
pub async fn runs(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let (client, view) = (server.client(), KINDS.map(|k| STREAMS.map(|s| k.view(s, "lambda"))));
    let sql = format!("REFRESH MATERIALIZED VIEW {}", view.concat().join(", "));
    client.sql_ok(&format!("{sql}; {sql} FULL")).await?;
    let status = client.get("/v1/status").await?;
    let runs = status["runs"].as_array().context("the status has no runs")?;
    for run in runs.iter().filter(|r| r["state"] == "failed") {
        let error = run["error"].as_str().unwrap_or_default();
        if !error.starts_with(CUT_OFF) {
            report.violation(format!("a batch run failed: {run}"));
        }
    }
    Ok(())
}

fn note(report: &mut Report, what: &str, (count, first): (u64, Option<String>)) {
    report.differences += count;
    if let Some(first) = first {
        say(&format!("{what}: {count} differences, first {first}"));
    }
}

/// A stream's rows: each acknowledged event once, and no other.
async fn stream_rows(
    client: &Client,
    stream: &str,
    events: &BTreeMap<i64, Event>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rows = client.rows(&format!("SELECT id, k, v FROM {stream}")).await?;
    let mut found: BTreeMap<i64, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in &rows {
        let id = row.first().and_then(Value::as_i64).context("an id")?;
        *found.entry(id).or_default() += 1;
        let same = |e: &Event| row[1..] == [Value::from(e.k.as_str()), Value::from(e.v)];
        if !events.get(&id).is_some_and(same) {
            wrong.push(id);
        }
    }
    let lost: Vec<i64> = events.keys().filter(|id| !found.contains_key(id)).copied().collect();
    let doubled: Vec<i64> = found.iter().filter(|(_, n)| **n > 1).map(|(id, _)| *id).collect();
    report.lost += lost.len() as u64;
    report.doubled += doubled.len() as u64;
    report.differences += wrong.len() as u64;
    for (what, ids) in [("lost", lost), ("doubled", doubled), ("wrong", wrong)] {
        if !ids.is_empty() {
            let shown = &ids[..ids.len().min(20)];
            say(&format!("{stream}: {} events {what}: {shown:?}", ids.len()));
        }
    }
    let counted = client.rows(&format!("SELECT count(*), sum(id) FROM {stream}")).await?;
    let sum = (!events.is_empty()).then(|| events.keys().sum::<i64>());
    let text = sum.map_or_else(|| "null".to_owned(), |s| s.to_string());
    let expected = [(format!("{}|{text}", events.len()), 1)].into();
    note(report, &format!("{stream} counted"), difference(&bag(&counted), &expected));
    Ok(())
}

/// The server's own verification.
async fn verified(client: &Client, view: &str, report: &mut Report) -> anyhow::Result<()> {
    let rows = client.rows(&format!("VERIFY MATERIALIZED VIEW {view}")).await?;
    let row = rows.first().context("VERIFY answered nothing")?;
    let count = row.get(5).and_then(Value::as_u64).context("VERIFY has no differences")?;
    let first = (count > 0).then(|| Value::from(row.clone()).to_string());
    note(report, &format!("VERIFY {view}"), (count, first));
    Ok(())
}

/// Reads both architectures' views of one query at one LSN until stopped; gives the number of
/// reads in which they differed.
pub async fn read_along(client: Client, stopped: Stopped) -> anyhow::Result<u64> {
    let mut differences = 0;
    let mut turn = 0;
    while !*stopped.borrow() {
        let kind = KINDS[turn % KINDS.len()];
        let stream = STREAMS[turn / KINDS.len() % STREAMS.len()];
        turn += 1;
        let [lambda, kappa] = ARCHITECTURES.map(|a| kind.view(stream, a));
        let sql = format!(
            "SELECT * FROM (SELECT * FROM {lambda} EXCEPT ALL SELECT * FROM {kappa}) UNION ALL
             SELECT * FROM (SELECT * FROM {kappa} EXCEPT ALL SELECT * FROM {lambda})"
        );
        match client.sql(&sql).await {
            Reply::Ok(answer) => {
                let rows = answer["rows"].as_array().map_or(0, Vec::len) as u64;
                if rows > 0 {
                    say(&format!("{lambda} and {kappa} differ at one LSN: {answer}"));
                }
                differences += rows;
            }
            Reply::Refused(409 | 429 | 503, _) => {}
            Reply::Refused(status, text) => anyhow::bail!("{sql}: {status} {text}"),
            Reply::Unknown(_) => break,
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
    Ok(differences)
}
