//! Tables of a real PostgreSQL, captured by a source and written to by sinks, while the server is
//! killed and its connections are cut. What PostgreSQL itself says is the truth: the tables here, the
//! views over them and the tables that sinks write must be the same as its own.

use crate::check::Report;
use crate::faults::Beside;
use crate::load::Stopped;
use crate::proxy::Proxy;
use crate::say;
use crate::server::{Client, Reply, Server};
use crate::truth::difference;
use crate::upstream::Upstream;
use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Accounts of each of the two tables between which money moves.
const ACCOUNTS: i64 = 100;
/// All the money there is.
const TOTAL: i64 = 2 * ACCOUNTS * 1_000;
const WRITERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(10);
/// The longest wait for everything to come to rest.
const PATIENCE: Duration = Duration::from_secs(300);

/// The relations here with the query that PostgreSQL answers for each.
const SAME: [(&str, &str); 4] = [
    ("SELECT id, balance FROM a", "SELECT id, balance FROM a"),
    ("SELECT id, balance FROM b", "SELECT id, balance FROM b"),
    ("SELECT id, amount FROM moves", "SELECT id, amount FROM moves"),
    ("SELECT amount, n, balance FROM per_amount", PER_AMOUNT),
];
const PER_AMOUNT: &str = "SELECT m.amount, count(*) AS n, sum(b.balance) AS balance
    FROM moves m JOIN b ON b.id = m.amount GROUP BY m.amount";
/// What sinks have written, with what it must be.
const WRITTEN: [(&str, &str); 2] = [
    ("SELECT amount, n, balance FROM per_amount_out", PER_AMOUNT),
    ("SELECT id, amount FROM moves_out", "SELECT id, amount FROM moves"),
];

/// The server and the proxy before it.
pub struct Database {
    server: Arc<Upstream>,
    proxy: Proxy,
    /// The number of the data directory: each has a schema of its own.
    life: u32,
    /// Moves of this life that were counted already.
    counted: u64,
}

impl Database {
    /// A server; none where there is no PostgreSQL, which is said.
    pub async fn new() -> anyhow::Result<Option<Self>> {
        let proxy = Proxy::start().await?;
        let Some(server) = Upstream::start("SELECT 1").await else { return Ok(None) };
        proxy.lead_to(server.port);
        Ok(Some(Self { server: Arc::new(server), proxy, life: 0, counted: 0 }))
    }

    fn schema(&self) -> String {
        format!("life{}", self.life)
    }

    fn sink_with(&self, table: &str) -> String {
        let (port, schema) = (self.proxy.port, self.schema());
        format!(
            "connector = 'postgres', host = '127.0.0.1', port = {port}, user = 'postgres',
             database = 'postgres', schema = '{schema}', table = '{table}'"
        )
    }

    /// Tables there, and a source, views and sinks here.
    pub async fn define(&mut self, server: &Server, queue: bool) -> anyhow::Result<()> {
        (self.life, self.counted) = (self.life + 1, 0);
        let schema = self.schema();
        let accounts = format!("SELECT n, 1000 FROM generate_series(1, {ACCOUNTS}) n");
        self.server
            .sql(&format!(
                "CREATE SCHEMA {schema}; SET search_path = {schema};
                 CREATE TABLE a (id bigint PRIMARY KEY, balance bigint NOT NULL);
                 CREATE TABLE b (LIKE a INCLUDING ALL);
                 CREATE TABLE moves (id bigserial PRIMARY KEY, amount bigint NOT NULL);
                 CREATE TABLE moves_out (id bigint PRIMARY KEY, amount bigint);
                 CREATE TABLE per_amount_out (amount bigint PRIMARY KEY, n bigint, balance bigint);
                 CREATE TABLE queue_out (id bigint, k text);
                 INSERT INTO a {accounts}; INSERT INTO b {accounts}"
            ))
            .await;
        let port = self.proxy.port;
        let sql = format!(
            "CREATE SOURCE bank WITH (connector = 'postgres-cdc', hostname = '127.0.0.1',
               port = '{port}', username = 'postgres', password = 'x', database.name = 'postgres',
               schema.name = '{schema}', slot.name = '{schema}', publication.name = '{schema}');
             CREATE TABLE a (*) FROM bank TABLE '{schema}.a';
             CREATE TABLE b (*) FROM bank TABLE '{schema}.b';
             CREATE TABLE moves (*) FROM bank TABLE '{schema}.moves';
             CREATE MATERIALIZED VIEW total AS
               SELECT sum(balance) AS total FROM (SELECT balance FROM a UNION ALL
                 SELECT balance FROM b) AS both_tables;
             CREATE MATERIALIZED VIEW per_amount AS {PER_AMOUNT};
             CREATE SINK moves_out FROM moves WITH ({}, type = 'upsert');
             CREATE SINK per_amount_out FROM per_amount WITH ({}, primary_key = 'amount')",
            self.sink_with("moves_out"),
            self.sink_with("per_amount_out"),
        );
        let client = server.client();
        client.sql_ok(&sql).await?;
        if queue {
            let with = self.sink_with("queue_out");
            let sql = format!("CREATE SINK queue_out FROM queue WITH ({with})");
            client.sql_ok(&sql).await?;
        }
        self.copied(&client).await
    }

    /// Waits until the tables are copied: from then on money is never seen on its way.
    async fn copied(&self, client: &Client) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let rows = client.rows("SELECT total FROM total").await?;
            if rows.first().is_some_and(|row| whole(row)) {
                return Ok(());
            }
            let sources = client.rows("SHOW SOURCES").await?;
            ensure!(since.elapsed() < PATIENCE, "the copy does not end: {sources:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Moves money until it is stopped.
    pub fn start(&self, seed: u64, stopped: &Stopped) -> Vec<JoinHandle<()>> {
        let writer = |n| {
            let (server, schema) = (Arc::clone(&self.server), self.schema());
            tokio::spawn(write(server, schema, seed.wrapping_add(n), stopped.clone()))
        };
        (0..WRITERS).map(writer).collect()
    }

    /// Waits until everything is read and written, and compares.
    pub async fn check(
        &mut self,
        server: &Server,
        with_queue: bool,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let client = server.client();
        let moves = self.bag("SELECT count(*) FROM moves").await?;
        let moves = moves.keys().next().and_then(|n| n.parse().ok()).context("a count")?;
        settled(&client, "moves", moves).await?;
        report.acknowledged += moves.saturating_sub(self.counted);
        self.counted = moves;
        for (ours, theirs) in SAME {
            let rows = crate::truth::bag(&client.rows(ours).await?);
            note(report, ours, difference(&rows, &self.bag(theirs).await?));
        }
        for (written, truth) in WRITTEN {
            note(report, written, difference(&self.bag(written).await?, &self.bag(truth).await?));
        }
        if with_queue {
            let rows = crate::truth::bag(&client.rows("SELECT id, k FROM queue").await?);
            let written = self.bag("SELECT id, k FROM queue_out").await?;
            note(report, "queue_out", difference(&written, &rows));
        }
        Ok(())
    }

    /// Ends a life: what the server keeps for a directory that is gone.
    pub async fn forget(&self) {
        let schema = self.schema();
        self.server
            .sql(&format!(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
                 DO $$ BEGIN FOR try IN 1..100 LOOP
                   BEGIN PERFORM pg_drop_replication_slot('{schema}'); EXIT;
                   EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.05);
                             WHEN undefined_object THEN EXIT; END;
                 END LOOP; END $$;
                 DROP SCHEMA {schema} CASCADE"
            ))
            .await;
    }

    /// The rows of a query in this life's schema.
    async fn bag(&self, sql: &str) -> anyhow::Result<BTreeMap<String, i64>> {
        let client = self.server.connect().await;
        client.batch_execute(&format!("SET search_path = {}", self.schema())).await?;
        let mut bag = BTreeMap::new();
        for message in client.simple_query(sql).await? {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("null"));
                *bag.entry(cells.collect::<Vec<_>>().join("|")).or_default() += 1;
            }
        }
        Ok(bag)
    }
}

impl Beside for Database {
    const ROUNDS_PER_KILL: u32 = 5;

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    async fn kill(&self) -> anyhow::Result<()> {
        let server = Arc::clone(&self.server);
        Ok(tokio::task::spawn_blocking(move || server.run("kill")).await.map(drop)?)
    }

    async fn revive(&self) -> anyhow::Result<()> {
        let server = Arc::clone(&self.server);
        Ok(tokio::task::spawn_blocking(move || server.run("start")).await.map(drop)?)
    }
}

/// Random transactions over the three tables. The sum over both accounts stays what it is.
async fn write(server: Arc<Upstream>, schema: String, seed: u64, stopped: Stopped) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let path = format!("SET search_path = {schema}");
    let mut client = None;
    while !*stopped.borrow() {
        let connected = match client.take() {
            Some(client) => client,
            None => match server.try_connect().await {
                Some(new) if new.batch_execute(&path).await.is_ok() => new,
                _ => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        // A deadlock, or the server is gone: a new connection does in either case.
        if connected.batch_execute(&transaction(&mut rng)).await.is_ok() {
            client = Some(connected);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn transaction(rng: &mut ChaCha8Rng) -> String {
    let mut sql = String::from("BEGIN;");
    for _ in 0..rng.random_range(1..4) {
        let amount = rng.random_range(1..40);
        let (from, to) = (rng.random_range(1..=ACCOUNTS), rng.random_range(1..=ACCOUNTS));
        let (one, other) = if rng.random() { ("a", "b") } else { ("b", "a") };
        sql.push_str(&format!(
            "UPDATE {one} SET balance = balance - {amount} WHERE id = {from};
             UPDATE {other} SET balance = balance + {amount} WHERE id = {to};
             INSERT INTO moves (amount) VALUES ({amount});"
        ));
        // Empty accounts come, go and change their key.
        let id = ACCOUNTS + rng.random_range(1..20);
        match rng.random_range(0..6) {
            0 | 1 => {
                sql.push_str(&format!("INSERT INTO {one} VALUES ({id}, 0) ON CONFLICT DO NOTHING;"))
            }
            2 => sql.push_str(&format!("DELETE FROM {one} WHERE id = {id};")),
            3 => sql.push_str(&format!(
                "UPDATE {one} SET id = -id WHERE id = {id} AND NOT EXISTS
                   (SELECT 1 FROM {one} WHERE id = -{id});"
            )),
            _ => {}
        }
    }
    sql.push_str(if rng.random_ratio(1, 10) { "ROLLBACK" } else { "COMMIT" });
    sql
}

fn whole(row: &[Value]) -> bool {
    row.first().is_some_and(|v| v.as_i64() == Some(TOTAL) || *v == TOTAL.to_string().as_str())
}

/// Reads the sum of all accounts until stopped; gives how often money was missing.
pub async fn read_along(client: Client, stopped: Stopped) -> anyhow::Result<u64> {
    let mut differences = 0;
    while !*stopped.borrow() {
        match client.sql("SELECT total FROM total").await {
            Reply::Ok(answer) => {
                let row = answer["rows"][0].as_array().cloned().unwrap_or_default();
                if !whole(&row) {
                    say(&format!("half of a transaction was seen: {answer}"));
                    differences += 1;
                }
            }
            Reply::Refused(409 | 429 | 503, _) => {}
            Reply::Refused(status, text) => anyhow::bail!("the total: {status} {text}"),
            Reply::Unknown(_) => break,
        }
        tokio::time::sleep(PAUSE * 2).await;
    }
    Ok(differences)
}

fn note(report: &mut Report, what: &str, (count, first): (u64, Option<String>)) {
    report.differences += count;
    if let Some(first) = first {
        say(&format!("{what}: {count} differences, first {first}"));
    }
}

/// Waits until a relation has so many rows and the sinks have written all there is.
pub async fn settled(client: &Client, relation: &str, rows: u64) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let read = client.rows(&format!("SELECT count(*) FROM {relation}")).await?;
        let sinks = client.rows("SHOW SINKS").await?;
        let quiet = |row: &Vec<Value>| row[2] == "running" && row[4] == "0 commits";
        if read[0][0].as_u64().is_some_and(|n| n >= rows) && sinks.iter().all(quiet) {
            return Ok(());
        }
        let sources = client.rows("SHOW SOURCES").await?;
        ensure!(since.elapsed() < PATIENCE, "{rows} rows of {relation}: {sources:?} {sinks:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
