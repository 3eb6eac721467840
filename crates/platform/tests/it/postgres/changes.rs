//! What changes upstream changes here, in the same transactions and with the same values.

use super::upstream::Upstream;
use crate::support::Running;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Accounts in two tables: money only moves, so that the sum over both is always the same.
const BANK: &str = "create table a (id int primary key, balance bigint not null);
    create table b (id int primary key, balance bigint not null);
    insert into a select n, 1000 from generate_series(1, 500) n;
    insert into b select n, 1000 from generate_series(1, 500) n";

/// Moves money between the tables until it is told to stop; answers with how often.
async fn transfers(upstream: Arc<Upstream>, seed: u64, stop: Arc<AtomicBool>) -> u64 {
    let client = upstream.connect().await;
    let (mut random, mut count) = (seed, 0);
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        let (from, to, amount) = (random >> 40 & 511, random >> 30 & 511, random >> 20 & 63);
        let (from, to) = (from % 500 + 1, to % 500 + 1);
        let sql = format!(
            "begin; update a set balance = balance - {amount} where id = {from}; \
             update b set balance = balance + {amount} where id = {to}; commit"
        );
        if client.batch_execute(&sql).await.is_ok() {
            count += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_and_the_changes_after_it_have_no_gap_and_no_half_transaction() {
    let Some(upstream) = Upstream::start(BANK).await else { return };
    let upstream = Arc::new(upstream);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=3)
        .map(|seed| tokio::spawn(transfers(Arc::clone(&upstream), seed, Arc::clone(&stop))))
        .collect();
    let (_dir, mut k) = Running::start("select 1").await;
    k.follow(&upstream, &["a"]).await;
    k.until("select count(*) from a", |lines| lines == ["500"]).await;
    k.sql("create table b (id int primary key, balance bigint not null) from pg table 'public.b'")
        .await;
    k.sql(
        "create materialized view total as select \
         sum(case when t = 'b' then 1 else 0 end) as of_b, sum(balance) as balance from \
         (select 'a' as t, balance from a union all select 'b' as t, balance from b) as both",
    )
    .await;
    let mut seen = 0;
    while seen < 60 {
        let line = k.table("select of_b, balance from total").await.concat();
        if line.starts_with("500|") {
            assert_eq!(line, "500|1000000", "a view saw half of a transaction");
            seen += 1;
        } else {
            assert!(line.starts_with("0|"), "a copy came in parts: {line}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut count = 0;
    for writer in writers {
        count += writer.await.unwrap();
    }
    assert!(count > 100, "only {count} transactions ran");
    k.same(&upstream, "select * from a order by id").await;
    k.same(&upstream, "select * from b order by id").await;
    k.verify("total").await;
    let line = k.table("show sources").await.concat();
    assert!(line.starts_with("pg|postgres-cdc|running|") && line.contains(" bytes|"), "{line}");
    // A restart goes on where it was, and tells the server what is durable.
    k.platform.close().await.unwrap();
    drop(k);
    upstream.sql("update a set balance = balance + 1; delete from b where id > 100").await;
    let mut k = Running::open(_dir.path()).await;
    k.same(&upstream, "select * from a order by id").await;
    k.same(&upstream, "select * from b order by id").await;
    let confirmed = "select confirmed_flush_lsn > '0/0' from pg_replication_slots";
    assert_eq!(upstream.lines(confirmed).await, ["t"]);
    // What is dropped leaves no slot behind, which would keep the server's log for ever.
    k.sql("drop source pg cascade").await;
    assert_eq!(upstream.lines("select slot_name from pg_replication_slots").await.len(), 0);
}

const TYPES: &str = "create type mood as enum ('sad', 'ok');
    create domain grade as int check (value < 10);
    create table v (id int primary key, flag boolean, small smallint, big bigint, real real,
      double double precision, price numeric(10, 2), free numeric, text text, short varchar(5),
      fixed char(4), bytes bytea, day date, clock time, local timestamp, instant timestamptz,
      span interval, doc jsonb, old json, ident uuid, ints int[], texts text[], feel mood,
      mark grade, addr inet, large text);
    alter table v alter large set storage external;
    insert into v values (1, true, -3, 9007199254740993, 0.1, 'infinity', 12.5, 1.25, 'a|''\"\\', 'abc',
      'xy', '\\x00ff', '0044-03-15 BC', '23:59:59.999999', '2024-02-29 12:00:00.5',
      '2024-02-29 12:00:00+02', '1 year 2 days 03:04:05.6', '{\"b\": [1, null], \"a\": \"x\"}', '{\"k\":1}',
      'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{1,NULL,3}', '{\"a b\",\"c,\\\"d\",\"null\"}', 'ok', 7,
      '10.0.0.1/8', repeat('large ', 5000));
    insert into v (id, double) values (2, 'nan'), (3, '-infinity')";

const VALUES: &str = "select id, flag, small, big, real, price, text, short, bytes, day, clock, local, \
    doc, old, ident, feel, mark, addr, length(large) as len, md5(large) as md, \
    cast(ints as text) as i, cast(texts as text) as t, \
    cast(span as text) as s, cast(double as text) as d, cast(instant as text) as n, trim(fixed) as f \
    from v order by id";

#[tokio::test(flavor = "multi_thread")]
async fn every_type_has_the_value_that_it_has_upstream() {
    let Some(upstream) = Upstream::start(TYPES).await else { return };
    let (_dir, mut k) = Running::start("select 1").await;
    k.follow(&upstream, &["v"]).await;
    let shown = |lines: Vec<String>| lines.len();
    let query = VALUES.replace("bytes,", "encode(bytes, 'hex') as h,");
    let query = query.replace("real,", "cast(real as text) as r,").replace("old,", "");
    let query =
        query.replace("flag,", "cast(flag as text) as b,").replace("doc,", "doc->>'a' as j,");
    let query =
        query.replace("local,", "cast(local as text) as l,").replace("day,", "cast(day as text),");
    assert_eq!(shown(k.same(&upstream, &query).await), 3);
    // The same again through the stream, with keys that move and large values that are not sent.
    upstream
        .sql(
            "insert into v select id + 10, flag, small, big, real, double, price, free, text, short, \
             fixed, bytes, day, clock, local, instant, span, doc, old, ident, ints, texts, feel, mark, \
             addr, large from v; update v set small = 5 where id = 1; update v set id = 21 where id = 11;
             update v set small = 6, text = 'moved' where id = 21; update v set large = 'now small' \
             where id = 21; delete from v where id = 12",
        )
        .await;
    let lines = k.same(&upstream, &query).await;
    assert_eq!(lines.len(), 5);
    assert!(lines[0].contains("|30000|"), "a large value that was not sent is kept");
    // A value that the column cannot have: the row leaves the table, with a reason.
    upstream.sql("update v set day = 'infinity' where id = 1").await;
    k.until("select count(*) from v", |lines| lines == ["4"]).await;
    let ledger = k.table("select relation, field, key, reason from pg_errors").await;
    assert_eq!(ledger.len(), 1, "{ledger:?}");
    assert!(ledger[0].contains("|day|") && ledger[0].contains("infinity"), "{ledger:?}");
    upstream.sql("update v set day = '2024-01-01', large = 'x' where id = 1").await;
    assert_eq!(k.same(&upstream, &query).await.len(), 5);
    upstream.sql("begin; truncate v; insert into v (id) values (7); commit").await;
    assert_eq!(k.same(&upstream, &query).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_change_upstream_hold_up_nobody() {
    let sql = "create table t (id int primary key, v text, w text); \
               insert into t values (1, 'a', 'x'); \
               create table o (id int primary key, n int); insert into o values (1, 1)";
    let Some(upstream) = Upstream::start(sql).await else { return };
    let (_dir, mut k) = Running::start("select 1").await;
    k.follow(&upstream, &["t", "o"]).await;
    k.same(&upstream, "select id, v, w from t order by id").await;
    // A column more is not ours; a column less is NULL from then on.
    upstream
        .sql("alter table t add column z int default 3; insert into t values (2, 'b', 'y', 4)")
        .await;
    k.same(&upstream, "select id, v, w from t order by id").await;
    upstream.sql("alter table t drop column w; insert into t values (3, 'c', 5)").await;
    let rows = k.until("select id, v, w from t order by id", |l| l.len() == 3).await;
    assert_eq!(rows, ["1|a|x", "2|b|y", "3|c|"]);
    // Without its key a table waits, and the other one goes on.
    upstream
        .sql("alter table t rename column id to nr; insert into t values (4, 'd', 6); update o set n = 2")
        .await;
    k.same(&upstream, "select * from o").await;
    let reason = k.until("select reason from pg_errors", |lines| lines.len() == 1).await;
    assert!(reason[0].contains("\"id\" was dropped or renamed"), "{reason:?}");
    let line = k.until("show sources", |l| l.concat().contains("renamed")).await.concat();
    assert!(line.contains("|running|"), "{line}");
    upstream.sql("alter table t rename column nr to id; delete from t where id = 1").await;
    k.same(&upstream, "select id, v from t order by id").await;
    // Another table under the same name, and one that was taken out of the publication for a while.
    upstream.sql("drop table t; create table t (id int primary key, v text, w text)").await;
    upstream.sql("insert into t values (9, 'new', 'table')").await;
    k.same(&upstream, "select id, v, w from t order by id").await;
    upstream.sql("alter publication kaplan_pg drop table o; insert into o values (5, 5)").await;
    k.same(&upstream, "select * from o order by id").await;
    upstream.sql("update o set n = n + 1; insert into t values (10, 'more', 'rows')").await;
    k.same(&upstream, "select * from o order by id").await;
    k.same(&upstream, "select id, v, w from t order by id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_added_upstream_are_added_here() {
    let sql =
        "create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')";
    let Some(upstream) = Upstream::start(sql).await else { return };
    let (dir, mut k) = Running::start("select 1").await;
    let create = upstream.create_source("pg", "postgres");
    k.sql(&create.replace("password", "unknown_fields = 'evolve', password")).await;
    k.sql("create table t (*) from pg table 'public.t'").await;
    k.sql("create materialized view before as select * from t").await;
    k.same(&upstream, "select id, v from t order by id").await;
    // With a default that rows have which were there, in a transaction with changes; then dropped.
    upstream
        .sql(
            "begin; update t set v = 'c' where id = 1; alter table t add column n bigint default 3;
             insert into t values (3, 'd', 4); commit;
             alter table t add column gone int; insert into t values (4, 'e', 5, 6);
             alter table t drop column gone; update t set n = n + 1 where id = 2",
        )
        .await;
    k.has("n").await;
    k.same(&upstream, "select id, v, n from t order by id").await;
    // While nobody looks.
    k.platform.close().await.unwrap();
    drop(k);
    upstream
        .sql("alter table t add column at timestamptz default '2024-01-31 12:00:00Z'; delete from t where id = 1")
        .await;
    let mut k = Running::open(dir.path()).await;
    k.has("at").await;
    k.same(&upstream, "select id, v, n, at::text from t order by id").await;
    upstream.sql("insert into t values (9, 'z', 9, null)").await;
    k.same(&upstream, "select id, v, n, at::text from t order by id").await;
    let view = k.rows("select * from before").await;
    assert_eq!(view.schema.fields().len(), 2);
    k.verify("before").await;
    assert!(k.table("select * from pg_errors").await.is_empty());
}

impl Running {
    /// Waits until the table has a column.
    async fn has(&mut self, column: &str) {
        for round in 0.. {
            if self.rows("select * from t").await.schema.index_of(column).is_ok() {
                return;
            }
            assert!(round < 600, "{column}: {:?}", self.table("show sources").await);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_name() {
    let sql = "create table k (id int primary key, n int); create table nokey (n int); \
               insert into k values (1, 1)";
    let Some(upstream) = Upstream::start(sql).await else { return };
    let (_dir, mut k) = Running::start("select 1").await;
    let e = k.fails("create source m with (connector = 'mysql-cdc', hostname = 'h')").await;
    assert!(e.message.contains("MySQL") && e.hint.is_some(), "{e:?}");
    k.sql(&upstream.create_source("pg", "postgres")).await;
    let e = k.fails("create table x (*) from pg table 'public.nothing'").await;
    assert!(e.message.contains("public.nothing"), "{e:?}");
    let e = k.fails("create table x (*) from pg table 'nokey'").await;
    assert!(e.message.contains("primary key"), "{e:?}");
    let e = k.fails("create table x (n int) from pg table 'nokey'").await;
    assert!(e.message.contains("primary key"), "{e:?}");
    k.sql("create table x (n int primary key) from pg table 'k'").await;
    k.until("show sources", |l| l.concat().contains("the primary key of x is (n)")).await;
    k.sql("drop table x").await;
    // One table by itself, which is named in the options.
    let one = upstream.create_source("one", "postgres").replace("source one", "table one (*)");
    k.sql(&one.replace("hostname", "table.name = 'k', hostname")).await;
    k.until("select * from one", |l| l == ["1|1"]).await;
    k.sql("drop table one").await;
    let slots = upstream.lines("select slot_name from pg_replication_slots").await;
    assert!(!slots.contains(&"kaplan_one".to_owned()), "{slots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_too_large_waits_or_is_copied() {
    let sql = "create table t (id int primary key, v text); insert into t values (0, 'small')";
    let Some(upstream) = Upstream::start(sql).await else { return };
    let (_dir, mut k) = Running::start("select 1").await;
    k.follow(&upstream, &["t"]).await;
    let split = upstream.create_source("split", "postgres");
    k.sql(&split.replace("password", "transactional = 'false', password")).await;
    k.sql("create table s (*) from split table 't'").await;
    let all = "select count(*) as n, sum(id) as s, sum(length(v)) as l from t";
    k.same(&upstream, all).await;
    k.until("select count(*) from s", |lines| lines == ["1"]).await;
    // More than one commit can hold, and more than one copy.
    upstream.sql("insert into t select g, repeat(chr(65 + g % 26), 1000) from generate_series(1, 60000) g").await;
    let there = upstream.lines(all).await;
    k.until(&all.replace("from t", "from s"), |lines| lines == there).await;
    assert_eq!(k.table("select count(*) from t").await, ["1"]);
    let sources = k.until("show sources", |l| l.concat().contains("48 MiB")).await;
    let line = sources.iter().find(|l| l.starts_with("pg|")).unwrap();
    assert!(line.contains("transactional = 'false'"), "{line}");
    upstream.sql("delete from t where id > 10; insert into t values (70000, 'after')").await;
    let there = upstream.lines(all).await;
    k.until(&all.replace("from t", "from s"), |lines| lines == there).await;
}
