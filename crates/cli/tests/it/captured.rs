//! Change data capture under `kill -9` of the platform's process and of PostgreSQL, at random moments
//! while transactions run. After each round every table, and a view over their join, is what
//! PostgreSQL says it is; so nothing was lost and nothing counted twice.
//!
//! `KAPLAN_ROUNDS=n` and `KAPLAN_SEED=n` set the length and repeat a run; it prints what it did.

use crate::server::Server;
use crate::upstream::Upstream;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const TABLES: &str = "create table a (id int primary key, n int not null, big text);
    create table b (id int primary key, n int not null);
    insert into a select g, g, repeat('x', 4000) from generate_series(1, 100) g";

const QUERIES: [(&str, &str); 3] = [
    ("select id, n, length(big) as l from a order by id", ""),
    ("select id, n from b order by id", ""),
    (
        "select a.n % 10 as k, count(*) as c, sum(b.n) as s from a join b on a.id = b.id \
         group by a.n % 10 order by 1",
        "select * from v order by k",
    ),
];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// Transactions that change both tables, until told to stop; counts those that were acknowledged.
async fn write(upstream: Arc<Upstream>, seed: u64, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut client = upstream.connect().await;
    while !stop.load(Ordering::Relaxed) {
        let (id, n) = (random.random_range(1..150), random.random_range(0..1000));
        let change = match random.random_range(0..6) {
            0 => format!("delete from a where id = {id}; delete from b where id = {id};"),
            1 => format!("update a set n = {n} where id = {id};"),
            2 => format!("update b set n = n + 1 where id between {id} and {id} + 20;"),
            3 => format!(
                "update a set id = id + 1000 where id = {id}; update b set n = {n} where id = {id};"
            ),
            4 => "delete from a where id > 1000;".to_owned(),
            _ => format!(
                "insert into a values ({id}, {n}, repeat('y', {n})) on conflict (id) do update set n = {n}; \
                 insert into b values ({id}, {n}) on conflict (id) do update set n = {n};"
            ),
        };
        match client.batch_execute(&format!("begin; {change} commit")).await {
            Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
            Err(_) => {
                if client.batch_execute("rollback").await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    client = upstream.connect().await;
                }
            }
        }
    }
}

/// The lines of a query in the program's table form, without frame.
fn lines(server: &Server, query: &str) -> Vec<String> {
    let text = server.ok(&["sql", "-c", query]);
    let rows = text.lines().skip(2).take_while(|line| !line.starts_with('('));
    rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>().join("|")).collect()
}

async fn same(server: &Server, upstream: &Upstream) {
    for (query, ours) in QUERIES {
        let ours = if ours.is_empty() { query } else { ours };
        for round in 0.. {
            let (theirs, here) = (upstream.lines(query).await, lines(server, ours));
            if theirs == here {
                break;
            }
            let sources = lines(server, "show sources");
            assert!(round < 600, "{query}\nupstream {theirs:?}\nhere {here:?}\n{sources:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_nothing_and_double_nothing() {
    let (rounds, seed) = (number("KAPLAN_ROUNDS", 6), number("KAPLAN_SEED", 1));
    let Some(upstream) = Upstream::start(TABLES).await else { return };
    let upstream = Arc::new(upstream);
    let mut server = Server::start_in(tempfile::tempdir().unwrap());
    let create = "create table a (*) from pg table 'a'; create table b (*) from pg table 'b'; \
         create materialized view v as select a.n % 10 as k, count(*) as c, sum(b.n) as s \
         from a join b on a.id = b.id group by a.n % 10";
    server.ok(&["sql", "-c", &upstream.create_source("pg", "postgres")]);
    server.ok(&["sql", "-c", create]);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (done, mut kills) = (Arc::new(AtomicU64::new(0)), [0_u64; 2]);
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2)
            .map(|n| {
                let (upstream, stop, done) = (upstream.clone(), stop.clone(), done.clone());
                tokio::spawn(write(upstream, seed * 1_000 + round * 2 + n, stop, done))
            })
            .collect();
        for _ in 0..random.random_range(1..=3) {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..800))).await;
            match random.random_range(0..3) {
                0 => {
                    upstream.run("kill");
                    upstream.run("start");
                    kills[1] += 1;
                }
                _ => {
                    server = server.killed();
                    kills[0] += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        same(&server, &upstream).await;
    }
    let verified = lines(&server, "verify materialized view v").concat();
    assert!(verified.contains("|0|"), "{verified}");
    println!(
        "{rounds} rounds, seed {seed}: {} kills of kaplan, {} of PostgreSQL, {} transactions \
         acknowledged, none lost, none doubled",
        kills[0],
        kills[1],
        done.load(Ordering::Relaxed)
    );
}
