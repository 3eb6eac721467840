//! Point reads by key of a view over the PostgreSQL wire, many clients at once; the same clients
//! read a PostgreSQL table where `--peer` says how to reach one.

use crate::Options;
use crate::data::{self, COMMIT_ROWS};
use crate::measure::{latency, milliseconds, print};
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use kaplan_server::Options as ServerOptions;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use tokio_postgres::{Client, NoTls};

/// Reads of each client before the clock starts, and those that are timed.
const WARM_UP: usize = 5;
const READS: usize = 500;
const VIEW: &str = "SELECT k, count(*) AS n, sum(v) AS total FROM keyed GROUP BY k";

pub async fn measure(options: &Options) -> Result<()> {
    let (keys, clients) = (options.number("keys")?, options.number("clients")?);
    if let Ok(peer) = options.text("peer") {
        let client = connect(peer).await?;
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS by_key;
                 CREATE TABLE by_key (k bigint PRIMARY KEY, n bigint, total bigint);
                 INSERT INTO by_key SELECT k, 1, k % 1000 FROM generate_series(0, {keys} - 1) k;
                 ANALYZE by_key"
            ))
            .await?;
        return read(peer, keys, clients, "PostgreSQL").await;
    }
    let mut site = Site::open().await?;
    site.run("CREATE STREAM keyed (k bigint, v bigint)").await?;
    site.run(&format!("CREATE MATERIALIZED VIEW by_key AS {VIEW}")).await?;
    let batches = (0..keys / COMMIT_ROWS).map(|n| data::keys(n * COMMIT_ROWS, keys));
    let last = site.append_all("keyed", batches.collect::<Result<_>>()?, 1).await?;
    site.platform.wait_visible(last).await?;
    site.wait_archived().await?;
    let wire = ServerOptions { http: None, ..ServerOptions::default() };
    let wire = ServerOptions { postgres: Some("127.0.0.1:0".parse()?), ..wire };
    let server = kaplan_server::Server::bind(wire).await?;
    let address = server.postgres_addr().context("the wire has no address")?;
    let platform = site.platform.clone();
    let serving = tokio::spawn(server.run(platform, std::future::pending()));
    let target = format!("host=127.0.0.1 port={} user=kaplan dbname=kaplan", address.port());
    read(&target, keys, clients, "Kaplan").await?;
    serving.abort();
    site.close().await
}

async fn connect(target: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(target, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Reads by all clients at once.
async fn read(target: &str, keys: usize, clients: usize, engine: &str) -> Result<()> {
    let mut tasks = Vec::new();
    let start = Instant::now();
    for seed in 0..clients {
        let client = connect(target).await?;
        tasks.push(tokio::spawn(one(client, keys, seed as u64)));
    }
    let mut ms = Vec::new();
    for task in tasks {
        ms.extend(task.await??);
    }
    let rate = (clients * (WARM_UP + READS)) as f64 / start.elapsed().as_secs_f64();
    let note = format!("{keys} keys, {clients} clients, prepared statements, clients included");
    latency(&format!("point read, {engine}"), &mut ms, &note)?;
    print(&format!("point reads, {engine}"), rate, "reads/s", &note)
}

async fn one(client: Client, keys: usize, seed: u64) -> Result<Vec<f64>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let statement = client.prepare("SELECT k, n, total FROM by_key WHERE k = $1").await?;
    let mut ms = Vec::new();
    for n in 0..WARM_UP + READS {
        let key = rng.random_range(0..keys) as i64;
        let start = Instant::now();
        let rows = client.query(&statement, &[&key]).await?;
        ensure!(rows.len() == 1, "key {key}: {} rows", rows.len());
        if n >= WARM_UP {
            ms.push(milliseconds(start.elapsed()));
        }
    }
    Ok(ms)
}
