//! How fast sources read, beside the tools that one would use instead, on the same servers in one run:
//! `bench_sources [--rows N]`. A topic is read by librdkafka alone, which throws the records away, and by
//! a source into a stream; the changes of a table by `pg_recvlogical` into `/dev/null`, and by a source
//! into a table. The last line is JSON with rows per second and the ratios.
//!
//! Refuses to run without the program (`cargo build -p kaplan-cli`); what cannot be had (maven and
//! java, PostgreSQL) is left out, which is said. Figures of the dev profile are no more than that.

#[path = "../../../platform/tests/it/broker.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "the tests' own; a broken broker ends the run")]
mod broker;
#[path = "../crash_matrix/server.rs"]
#[allow(dead_code, reason = "the crash matrix kills servers, this does not")]
mod server;
#[path = "../../../platform/tests/it/postgres/upstream.rs"]
#[allow(clippy::expect_used, dead_code, reason = "the tests' own; a broken server ends the run")]
mod upstream;

use anyhow::{Context, bail, ensure};
use broker::{Broker, Sent};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use server::{Client, Server};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use upstream::Upstream;

const DEFAULT_ROWS: u64 = 200_000;
const PARTITIONS: i32 = 4;
/// Records that are sent, and rows that are inserted, at once.
const PART: u64 = 1_000;
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let rows = rows()?;
    let directory = tempfile::Builder::new().prefix("kaplan-bench-").tempdir()?;
    let mut server = Server::start(directory.path())?;
    server.ready().await?;
    let mut results = Vec::new();
    if let Some(broker) = Broker::new() {
        results.push(("kafka", topic(&broker, &server.client(), rows).await?));
    }
    if let Some(upstream) = Upstream::start("SELECT 1").await {
        results.push(("cdc", table(&upstream, &server.client(), rows).await?));
    }
    server.kill().await?;
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let mut parts = vec![format!("\"profile\":\"{profile}\",\"rows\":{rows}")];
    for (name, (tool, ours)) in results {
        let rate = |time: Duration| rows as f64 / time.as_secs_f64();
        let ratio = tool.as_secs_f64() / ours.as_secs_f64();
        parts.push(format!(
            "\"{name}_tool_rows_s\":{:.0},\"{name}_kaplan_rows_s\":{:.0},\"{name}_ratio\":{ratio:.2}",
            rate(tool),
            rate(ours)
        ));
    }
    Ok(writeln!(std::io::stdout(), "{{\"target\":\"bench-sources\",{}}}", parts.join(","))?)
}

fn rows() -> anyhow::Result<u64> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => Ok(DEFAULT_ROWS),
        [name, rows] if name == "--rows" => rows.parse().context("--rows takes a whole number"),
        other => bail!("{other:?}: use --rows N"),
    }
}

/// The time that librdkafka and a source take for a topic.
async fn topic(
    broker: &Broker,
    client: &Client,
    rows: u64,
) -> anyhow::Result<(Duration, Duration)> {
    broker.create("bench", PARTITIONS).await;
    for from in (0..rows).step_by(PART as usize) {
        let values: Vec<String> = (from..rows.min(from + PART))
            .map(|id| format!("{{\"id\":{id},\"who\":\"w{}\",\"amount\":\"{id}.50\"}}", id % 97))
            .collect();
        let partition = (from / PART) as i32 % PARTITIONS;
        let sent: Vec<Sent<'_>> = values
            .iter()
            .map(|value| Sent { partition, key: None, value: Some(value.as_str()) })
            .collect();
        broker.send("bench", &sent).await;
    }
    let tool = alone(broker, rows)?;
    let with = broker.with("bench");
    let sql = format!(
        "CREATE SOURCE bench (id bigint, who text, amount numeric(12, 2)) WITH ({with})
         FORMAT PLAIN ENCODE JSON"
    );
    let began = Instant::now();
    client.sql_ok(&sql).await?;
    counted(client, "bench", rows).await?;
    Ok((tool, began.elapsed()))
}

/// Reads a topic to its end and throws it away.
fn alone(broker: &Broker, rows: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let consumer: BaseConsumer = broker.config().set("group.id", "alone").create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset("bench", partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut read = 0;
    while read < rows {
        ensure!(began.elapsed() < PATIENCE, "librdkafka read {read} of {rows} records");
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message?;
            read += 1;
        }
    }
    Ok(began.elapsed())
}

/// The time that `pg_recvlogical` and a source take for the changes of a table.
async fn table(
    upstream: &Upstream,
    client: &Client,
    rows: u64,
) -> anyhow::Result<(Duration, Duration)> {
    upstream.sql("CREATE TABLE t (id bigint PRIMARY KEY, who text, amount numeric(12, 2))").await;
    client.sql_ok(&upstream.create_source("pg", "postgres")).await?;
    client.sql_ok("CREATE TABLE t (*) FROM pg TABLE 'public.t'").await?;
    upstream.sql("INSERT INTO t VALUES (0, 'w0', 0)").await;
    upstream.sql("SELECT pg_create_logical_replication_slot('tool', 'pgoutput')").await;
    counted(client, "t", 1).await?;
    client.sql_ok("ALTER SOURCE pg PAUSE").await?;
    for from in (1..rows).step_by(PART as usize) {
        let to = rows.min(from + PART) - 1;
        upstream
            .sql(&format!(
                "INSERT INTO t SELECT n, 'w' || n % 97, n + 0.5 FROM generate_series({from}, {to}) n"
            ))
            .await;
    }
    let end = upstream.lines("SELECT pg_current_wal_lsn()").await.concat();
    let began = Instant::now();
    let status = Command::new(recvlogical()?)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "--start", "--slot", "tool"])
        .args(["-p", &upstream.port.to_string(), "--endpos", &end, "-f", "/dev/null"])
        .args(["-o", "proto_version=1", "-o", "publication_names=kaplan_pg"])
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "pg_recvlogical: {status}");
    let tool = began.elapsed();
    let began = Instant::now();
    client.sql_ok("ALTER SOURCE pg RESUME").await?;
    counted(client, "t", rows).await?;
    Ok((tool, began.elapsed()))
}

fn recvlogical() -> anyhow::Result<std::path::PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")?.flatten();
    let tools = versions.map(|v| v.path().join("bin/pg_recvlogical")).filter(|p| p.is_file());
    tools.max().context("there is no pg_recvlogical: apt-get install postgresql")
}

/// Waits until a relation has so many rows.
async fn counted(client: &Client, relation: &str, rows: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let found = client.rows(&format!("SELECT count(*) FROM {relation}")).await?;
        if found[0][0].as_u64() == Some(rows) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("{relation}: {found:?} of {rows}; {:?}", client.rows("SHOW SOURCES").await?);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
