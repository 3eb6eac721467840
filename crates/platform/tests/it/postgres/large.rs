//! What is too much for one commit, with commits that are small: it is cut between transactions, emptied
//! in pieces or copied again, and nothing of it goes to the ledger. And many tables at once.

use super::upstream::Upstream;
use crate::support::Running;

/// Bytes of one commit here.
const COMMIT_BYTES: usize = 1 << 20;
const ALL: &str = "select count(*) as n, sum(id) as s, sum(length(v)) as l from t";

/// Fills `t` with rows of 1 KB by transactions that each fit into a commit.
async fn fill(upstream: &Upstream, rows: std::ops::Range<i32>) {
    for from in rows.clone().step_by(300) {
        let to = (from + 300).min(rows.end) - 1;
        let series = format!("generate_series({from}, {to}) g");
        upstream.sql(&format!("insert into t select g, repeat('x', 1000) from {series}")).await;
    }
}

async fn start(sql: &str) -> Option<(Upstream, tempfile::TempDir, Running)> {
    let upstream = Upstream::start(sql).await?;
    let dir = tempfile::tempdir().unwrap();
    let k = Running::with_commits_of(dir.path(), COMMIT_BYTES).await;
    Some((upstream, dir, k))
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_remove_much_are_cut_apart_and_never_put_aside() {
    let sql = "create table t (id int primary key, v text); create table o (id int primary key);
               insert into t values (-1, 'first')";
    let Some((upstream, _dir, mut k)) = start(sql).await else { return };
    k.follow(&upstream, &["t", "o"]).await;
    k.same(&upstream, ALL).await;
    // Many transactions that come as one parcel: their old rows alone are more than a commit.
    k.sql("alter source pg pause").await;
    fill(&upstream, 0..3000).await;
    k.sql("alter source pg resume").await;
    k.same(&upstream, ALL).await;
    k.sql("alter source pg pause").await;
    for from in (0..2000).step_by(200) {
        let to = from + 200;
        upstream.sql(&format!("delete from t where id >= {from} and id < {to}")).await;
        upstream.sql(&format!("insert into o values ({from})")).await;
    }
    k.sql("alter source pg resume").await;
    k.same(&upstream, "select count(*), sum(id) from o").await;
    k.same(&upstream, ALL).await;
    // One transaction that removes more than a commit holds: the source waits and says what helps.
    fill(&upstream, 3000..5000).await;
    k.same(&upstream, ALL).await;
    let before = k.table(ALL).await;
    upstream.sql("delete from t where id > 10; insert into o values (7)").await;
    let line = k.until("show sources", |l| l.concat().contains("transactional = 'false'")).await;
    assert!(line.concat().contains("one transaction changes"), "{line:?}");
    assert_eq!(k.table(ALL).await, before);
    assert_eq!(k.table("select reason from pg_errors").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_which_one_transaction_removes_too_much_is_copied_again() {
    let sql = "create table t (id int primary key, v text); create table o (id int primary key);
               insert into t values (-1, 'first')";
    let Some((upstream, _dir, mut k)) = start(sql).await else { return };
    let source = upstream.create_source("pg", "postgres");
    k.sql(&source.replace("password", "transactional = 'false', password")).await;
    for table in ["t", "o"] {
        k.sql(&format!("create table {table} (*) from pg table '{table}'")).await;
    }
    k.same(&upstream, ALL).await;
    fill(&upstream, 0..3000).await;
    k.same(&upstream, ALL).await;
    upstream.sql("delete from t where id > 10; insert into o values (7)").await;
    upstream.sql("insert into o values (8); insert into t values (5000, 'after')").await;
    k.same(&upstream, "select count(*), sum(id) from o").await;
    k.same(&upstream, ALL).await;
    let told = k.table("select relation, record, reason from pg_errors").await;
    assert!(!told.is_empty() && told.iter().all(|line| line.contains("copied again")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_emptied_by_its_source() {
    let sql = "create table t (id int primary key, v text); insert into t values (-1, 'first')";
    let Some((upstream, dir, mut k)) = start(sql).await else { return };
    k.follow(&upstream, &["t"]).await;
    k.sql("create materialized view v as select count(*) as n, sum(id) as s from t").await;
    k.same(&upstream, ALL).await;
    fill(&upstream, 0..4000).await;
    k.same(&upstream, ALL).await;
    // Upstream it is emptied.
    upstream.sql("truncate t; insert into t values (1, 'new')").await;
    k.same(&upstream, ALL).await;
    fill(&upstream, 10..4000).await;
    k.same(&upstream, ALL).await;
    // Another slot: the table is copied again, and what it held before goes.
    k.platform.close().await.unwrap();
    drop(k);
    upstream.sql("select pg_drop_replication_slot('kaplan_pg')").await;
    upstream.sql("delete from t where id > 100").await;
    let mut k = Running::with_commits_of(dir.path(), COMMIT_BYTES).await;
    k.same(&upstream, ALL).await;
    k.verify("v").await;
    assert_eq!(k.table("select reason from pg_errors").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_tables_than_one_copy_names_are_all_copied() {
    const TABLES: usize = 110;
    let tables = (0..TABLES)
        .map(|n| format!("create table t{n} (id int primary key); insert into t{n} values ({n});"));
    let Some(upstream) = Upstream::start(&tables.collect::<String>()).await else { return };
    let (_dir, mut k) = Running::start("select 1").await;
    k.sql(&upstream.create_source("pg", "postgres")).await;
    k.sql("alter source pg pause").await;
    for n in 0..TABLES {
        k.sql(&format!("create table t{n} (id int primary key) from pg table 't{n}'")).await;
    }
    k.sql("alter source pg resume").await;
    for n in [TABLES - 1, TABLES / 2, 0] {
        k.until(&format!("select id from t{n}"), |lines| lines == [n.to_string()]).await;
    }
    upstream.sql(&format!("insert into t{} values (1000)", TABLES - 1)).await;
    let last = format!("select count(*) from t{}", TABLES - 1);
    k.until(&last, |lines| lines == ["2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_see_a_row_whose_large_value_was_not_sent() {
    let sql = "create table t (id int primary key, n int, v text);
               alter table t alter v set storage external;
               insert into t select g, g, repeat('x', 5000) from generate_series(1, 3) g";
    let Some(upstream) = Upstream::start(sql).await else { return };
    let (_dir, mut k) = Running::start("select 1").await;
    k.sql(&upstream.create_source("pg", "postgres")).await;
    let table = "create table t (id int primary key, n int, v text, check (n > 0))";
    k.sql(&format!("{table} from pg table 't'")).await;
    k.same(&upstream, "select id, n, length(v) from t order by id").await;
    upstream.sql("update t set n = n - 2 where id <= 3").await;
    let rows = k.until("select id, n, length(v) from t order by id", |l| l[2] == "3|1|5000").await;
    assert_eq!(rows, ["1|1|5000", "2|2|5000", "3|1|5000"]);
    let told = k.table("select relation, reason from pg_errors order by record").await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|line| line.starts_with("t|") && line.contains("CHECK")), "{told:?}");
}
