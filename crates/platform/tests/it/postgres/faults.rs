//! Faults: of the server, of the connection, of the slot, of the role, of the platform, at random
//! moments under writes. In the end every table is what it is upstream, and what a view says follows.
//! `KAPLAN_ROUNDS=n` and `KAPLAN_SEED=n` set the length and repeat a run.

use super::upstream::Upstream;
use crate::support::Running;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// Random changes of two tables, in transactions of one to twenty statements.
async fn writer(upstream: Arc<Upstream>, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut client = upstream.connect().await;
    while !stop.load(Ordering::Relaxed) {
        let mut sql = String::from("begin;");
        for _ in 0..random.random_range(1..20) {
            let (id, n) = (random.random_range(1..200), random.random_range(0..1000));
            let table = if random.random() { "a" } else { "b" };
            sql.push_str(&match random.random_range(0..10) {
                0..4 => format!(
                    "insert into {table} values ({id}, {n}) on conflict (id) do update set n = {n};"
                ),
                4..7 => format!("update {table} set n = {n} where id = {id};"),
                7..9 => format!("delete from {table} where id = {id};"),
                _ => format!(
                    "insert into {table} select g, {n} from generate_series({id}, {id} + 30) g \
                 on conflict do nothing;"
                ),
            });
        }
        sql.push_str(if random.random_range(0..10) == 0 { "rollback" } else { "commit" });
        if client.batch_execute(&sql).await.is_err() {
            // A deadlock, or the server is gone.
            if client.batch_execute("rollback").await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                client = upstream.connect().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_faults_at_random_moments_all_is_as_it_is_upstream() {
    let (rounds, seed) = (number("KAPLAN_ROUNDS", 8), number("KAPLAN_SEED", 1));
    let sql =
        "create table a (id int primary key, n int); create table b (id int primary key, n int);
        create role reader login replication superuser";
    let Some(upstream) = Upstream::start(sql).await else { return };
    let upstream = Arc::new(upstream);
    let (dir, mut k) = Running::start("select 1").await;
    k.sql(&upstream.create_source("pg", "reader")).await;
    for table in ["a", "b"] {
        k.sql(&format!("create table {table} (*) from pg table '{table}'")).await;
    }
    k.sql(
        "create materialized view v as select a.n, count(*) as c, sum(b.n) as s from a join b \
         on a.id = b.id group by a.n",
    )
    .await;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut faults = [0_u64; 6];
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2)
            .map(|n| {
                tokio::spawn(writer(Arc::clone(&upstream), seed + round * 2 + n, stop.clone()))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
        let fault = if round < 6 { round as usize } else { random.random_range(0..6) };
        faults[fault] += 1;
        match fault {
            0 => {
                upstream.run("kill");
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                upstream.run("start");
            }
            1 => {
                upstream.run("stop");
                upstream.run("start");
            }
            2 => {
                let end = "select pg_terminate_backend(pid) from pg_stat_replication";
                upstream.sql(end).await;
            }
            3 => {
                // A slot that is gone: what it would have told is read from the tables.
                let gone = "select pg_terminate_backend(active_pid) from pg_replication_slots \
                    where active; select pg_drop_replication_slot(slot_name) from \
                    pg_replication_slots where not active and not temporary";
                while upstream.connect().await.batch_execute(gone).await.is_err() {}
            }
            4 => {
                upstream
                    .sql(
                        "alter role reader nologin; \
                          select pg_terminate_backend(pid) from pg_stat_replication",
                    )
                    .await;
                k.until("show sources", |l| l.concat().contains("not permitted to log in")).await;
                upstream.sql("alter role reader login").await;
            }
            _ => {
                k.platform.close().await.unwrap();
                drop(k);
                k = Running::open(dir.path()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        for query in ["select * from a order by id", "select * from b order by id"] {
            k.same(&upstream, query).await;
        }
        let view = "select a.n, count(*) as c, sum(b.n) as s from a join b on a.id = b.id \
                    group by a.n order by a.n";
        assert_eq!(upstream.lines(view).await, k.table("select * from v order by n").await);
        k.verify("v").await;
    }
    println!(
        "{rounds} rounds, seed {seed}: kill -9, restart, cut, slot, role, platform {faults:?}"
    );
}
