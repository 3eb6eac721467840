//! Changes of rows: INSERT, UPDATE, DELETE, TRUNCATE, ON CONFLICT, RETURNING, defaults and
//! generated columns, alone and under concurrency, on tables with and without a key.

use crate::support::Running;
use kaplan_platform::{Code, Outcome, Session};

fn tag(outcomes: &[Outcome]) -> &str {
    match outcomes.last() {
        Some(Outcome::Done { tag, .. }) => tag,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_takes_updates_and_deletes() {
    let (dir, mut k) = Running::start("create table t (v1 int, v2 int, v3 int)").await;
    k.sql(
        "create materialized view mv as select v1, sum(v2) as s, count(*) as n from t group by v1",
    )
    .await;
    k.sql("insert into t values (1,4,2), (2,3,3), (1,4,2), (3,null,null); flush").await;
    assert_eq!(k.table("select * from t order by v1").await.len(), 4);
    assert_eq!(
        tag(&k.sql("update t set v2 = v2 + v3, v3 = default where v1 = 1").await),
        "UPDATE 2"
    );
    assert_eq!(k.table("select * from t where v1 = 1").await, ["1|6|", "1|6|"]);
    assert_eq!(k.table("select * from mv order by v1").await, ["1|12|2", "2|3|1", "3||1"]);
    assert_eq!(tag(&k.sql("delete from t where v2 is null").await), "DELETE 1");
    assert_eq!(tag(&k.sql("delete from t where v1 in (select max(v1) from t)").await), "DELETE 1");
    assert_eq!(tag(&k.sql("delete from t where v1 = 77").await), "DELETE 0");
    assert_eq!(
        tag(&k.sql("update t as x set v1 = (select min(v2) from t) where x.v1 = 1").await),
        "UPDATE 2"
    );
    assert_eq!(k.table("select * from mv").await, ["6|12|2"]);
    k.verify("mv").await;
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.table("select * from t").await, ["6|6|", "6|6|"]);
    assert_eq!(tag(&k.sql("truncate table t").await), "TRUNCATE TABLE");
    assert_eq!(k.table("select * from mv").await, Vec::<String>::new());
    k.verify("mv").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_be_updated_as_long_as_it_stays_unique() {
    let (_dir, mut k) = Running::start("create table t (id int primary key, v text)").await;
    k.sql("insert into t values (1, 'a'), (2, 'b'), (3, 'c')").await;
    k.sql("update t set id = id + 1").await;
    assert_eq!(k.table("select * from t order by id").await, ["2|a", "3|b", "4|c"]);
    let e = k.fails("update t set id = 3 where id = 2").await;
    assert_eq!(e.code, Code::UniqueViolation, "{e}");
    let e = k.fails("update t set id = 9").await;
    assert_eq!(e.code, Code::UniqueViolation, "{e}");
    let e = k.fails("update t set id = null where id = 2").await;
    assert_eq!((e.code, e.field.as_deref()), (Code::NotNullViolation, Some("id")));
    let e = k.fails("insert into t values (null, 'x')").await;
    assert_eq!(e.code, Code::NotNullViolation, "{e}");
    let e = k.fails("update t set w = 1").await;
    assert_eq!((e.code, e.field.as_deref()), (Code::UnknownColumn, Some("w")));
    let e = k.fails("update t set (id, v) = (select 1)").await;
    assert_eq!(e.code, Code::Syntax, "{e}");
    let e = k.fails("update t set v = 1, v = 2").await;
    assert_eq!(e.code, Code::DuplicateColumn, "{e}");
    k.sql("update t set (id, v) = (20, 'y') where id = 2").await;
    k.sql("update t set (id, v) = (select max(u.id), 'z' from t as u) where id = 20").await;
    assert_eq!(k.table("select * from t order by id").await, ["3|b", "4|c", "20|z"]);
    k.sql("create stream s (a int)").await;
    assert_eq!(k.fails("update s set a = 1").await.code, Code::Unsupported);
    assert_eq!(k.fails("truncate s").await.code, Code::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_decided_as_declared() {
    let (dir, mut k) = Running::start("create table o (id int primary key, v int, w int)").await;
    k.sql("create table i (id int primary key, v int, w int) on conflict ignore").await;
    k.sql("create table n (id int primary key, v int, w int) on conflict do update if not null")
        .await;
    for t in ["o", "i", "n"] {
        k.sql(&format!("insert into {t} values (1, 1, 1); insert into {t} values (1, 2, null)"))
            .await;
    }
    assert_eq!(k.table("select * from o").await, ["1|2|"]);
    assert_eq!(k.table("select * from i").await, ["1|1|1"]);
    assert_eq!(k.table("select * from n").await, ["1|2|1"]);
    k.sql("insert into o values (1, 9, 9), (2, 9, 9) on conflict (id) do nothing").await;
    assert_eq!(k.table("select * from o order by id").await, ["1|2|", "2|9|9"]);
    let upsert = "insert into o values (2, 5, 5), (3, 5, 5) on conflict (id)
         do update set v = o.v + excluded.v, w = excluded.w returning id, v";
    let mut returned = k.table(upsert).await;
    returned.sort();
    assert_eq!(returned, ["2|14", "3|5"]);
    k.sql("insert into o values (3, 7, 7) on conflict (id) do update set v = 0 where o.v > 100")
        .await;
    assert_eq!(k.table("select * from o order by id").await, ["1|2|", "2|14|5", "3|5|5"]);
    let e = k.fails("insert into o values (1, 1, 1) on conflict (v) do nothing").await;
    assert!(e.message.contains("no unique constraint"), "{e}");
    let twice = "insert into o values (1, 1, 1), (1, 2, 2) on conflict (id) do update set v = 0";
    assert!(k.fails(twice).await.message.contains("second time"));
    let e = k.fails("create table x (a int) on conflict ignore").await;
    assert!(e.message.contains("PRIMARY KEY"), "{e}");
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    k.sql("insert into i values (1, 5, 5); insert into n values (1, null, 8)").await;
    assert_eq!(k.table("select * from i").await, ["1|1|1"]);
    assert_eq!(k.table("select * from n").await, ["1|2|8"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn returning_gives_the_rows_that_changed() {
    let (_dir, mut k) = Running::start("create table t (a int, b int default 7)").await;
    assert_eq!(k.table("insert into t (a) values (1), (2) returning *").await, ["1|7", "2|7"]);
    assert_eq!(k.table("update t set b = a where a = 2 returning t.b * 10 as x").await, ["20"]);
    assert_eq!(k.table("delete from t where a = 1 returning a, b").await, ["1|7"]);
    assert_eq!(k.table("delete from t where a = 1 returning a").await, Vec::<String>::new());
    for (sql, columns) in [
        ("insert into t values (9) returning a as x, *", Some(vec!["x", "a", "b"])),
        ("update t as u set a = 1 returning u.b", Some(vec!["b"])),
        ("delete from t", None),
        ("select 1", None),
    ] {
        let described = k.platform.returned(&k.session, sql).await.unwrap();
        let names = described
            .as_ref()
            .map(|s| s.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>());
        assert_eq!(names, columns, "{sql}");
    }
    // What cannot be returned changes nothing.
    let e = k.fails("delete from t returning nothing").await;
    assert_eq!(e.code, Code::UnknownColumn, "{e}");
    assert_eq!(k.table("select * from t").await, ["2|2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_and_generated_columns_are_filled_in() {
    let (_dir, mut k) = Running::start(
        "create table t (a int, b int default 1 + 1, at timestamp default now(),
             s int as a + b, d int generated always as (a * 2) stored)",
    )
    .await;
    k.sql("insert into t (a) values (1), (2); insert into t values (3, default, default)").await;
    k.sql("insert into t default values").await;
    assert_eq!(
        k.table("select a, b, s, d from t where at is not null order by a").await,
        ["1|2|3|2", "2|2|4|4", "3|2|5|6", "|2||"]
    );
    // Without a column list, values pass over generated columns.
    k.sql("create table g (x int as y - 1, y int, z int as y + 1.02, w int default 5)").await;
    k.sql("insert into g values (1), (2); insert into g values (3, default), (4, 4)").await;
    k.sql("insert into g values (default, 6, default, 7)").await;
    assert_eq!(
        k.table("select * from g order by y").await,
        ["0|1|2|5", "1|2|3|5", "2|3|4|5", "3|4|5|4", "5|6|7|7"]
    );
    k.sql("update t set a = 10 where a = 1").await;
    assert_eq!(k.table("select s, d from t where a = 10").await, ["12|20"]);
    let e = k.fails("insert into t (a, s) values (1, 1)").await;
    assert!(e.message.contains("generated"), "{e}");
    assert!(k.fails("update t set s = 1").await.message.contains("generated"));
    let e = k.fails("create table u (a int default 'x')").await;
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidValue, Some("a")), "{e}");
    k.fails("create table u (a int default nosuch(1))").await;
    let e = k.fails("create table u (a int as b + 1)").await;
    assert_eq!(e.code, Code::UnknownColumn, "{e}");
    // Nothing of a refused definition stays.
    k.sql("create table u (a int default -1)").await;
    let rows = k.platform.stream_schema("t").unwrap();
    let given: Vec<&str> = rows.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(given, ["a", "b", "at"], "generated columns are not asked of writers");
}

#[tokio::test(flavor = "multi_thread")]
async fn inserts_take_column_lists_thousands_of_rows_and_repeated_expressions() {
    let (_dir, mut k) = Running::start("create table t (a int, b int, c int)").await;
    let rows: Vec<String> = (0..3_000).map(|i| format!("({i}, {})", i % 7)).collect();
    k.sql(&format!("insert into t (c, a) values {}", rows.join(","))).await;
    assert_eq!(k.table("select count(*), sum(c), sum(a) from t").await, ["3000|4498500|8994"]);
    k.sql("insert into t select a, a, a from t where c < 2").await;
    assert_eq!(k.table("select count(*) from t where a = b").await, ["2"]);
    let e = k.fails("insert into t values (1, 2, 3, 4)").await;
    assert_eq!(e.code, Code::Syntax, "{e}");
    let e = k.fails("insert into t (a, nope) values (1, 2)").await;
    assert_eq!((e.code, e.field.as_deref()), (Code::UnknownColumn, Some("nope")));
    let e = k.fails("insert into t (a, a) values (1, 2)").await;
    assert_eq!(e.code, Code::DuplicateColumn);
    k.sql("create materialized view v as select a from t").await;
    let e = k.fails("insert into v values (1)").await;
    assert_eq!(e.code, Code::WrongObject, "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_lose_and_repeat_nothing() {
    let (_dir, mut k) =
        Running::start("create table c (id int primary key, n int); create table bag (x int)")
            .await;
    k.sql("insert into c values (1, 0), (2, 0); insert into bag values (1), (1), (1), (1)").await;
    k.sql("create materialized view total as select sum(n) as n from c").await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let platform = k.platform.clone();
        tasks.push(tokio::spawn(async move {
            let mut session = Session::default();
            let mut deleted = 0;
            for _ in 0..5 {
                platform.execute(&mut session, "update c set n = n + 1").await.unwrap();
                let done = platform.execute(&mut session, "delete from bag where x = 1").await;
                deleted += tag(&done.unwrap())[7..].parse::<u64>().unwrap();
            }
            deleted
        }));
    }
    let mut deleted = 0;
    for task in tasks {
        deleted += task.await.unwrap();
    }
    assert_eq!(k.table("select * from c order by id").await, ["1|20", "2|20"]);
    assert_eq!(k.table("select * from total").await, ["40"]);
    assert_eq!(deleted, 4, "each row is deleted once");
    k.verify("total").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_whatever_their_values() {
    let (dir, mut k) = Running::start(
        "create table \"Mixed\" (a double, \"B\" real, c numeric(10, 2), d timestamptz, e bytea);
         create table k (id double primary key, v double)",
    )
    .await;
    k.sql(
        "insert into \"Mixed\" values (0.0, 1.5, 1.1, '2024-01-01', 'x'), (null, null, null, null, null)",
    )
    .await;
    k.sql("insert into \"Mixed\" (a) values ('-0.0'), ('NaN'), ('-Infinity')").await;
    k.sql("insert into k values (0, 0), (1, 'NaN'); insert into k values ('-0.0', '-0.0')").await;
    assert_eq!(k.table("select count(*) from k").await, ["2"]);
    let mut k = {
        k.platform.close().await.unwrap();
        drop(k);
        Running::open(dir.path()).await
    };
    assert_eq!(tag(&k.sql("update k set v = v + 1").await), "UPDATE 2");
    assert_eq!(k.table("select v from k where id = 0").await, ["1.0"]);
    assert_eq!(tag(&k.sql("update \"Mixed\" set \"B\" = 2 where a = 0").await), "UPDATE 2");
    assert_eq!(tag(&k.sql("delete from \"Mixed\"").await), "DELETE 5");
    assert_eq!(k.table("select * from \"Mixed\"").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_can_be_selected_twice() {
    let (_dir, mut k) = Running::start("create table t (a int, b int)").await;
    k.sql("insert into t values (1, 2), (3, 4)").await;
    let rows = k.rows("select a, b, a, a + 1, a + 1 from t order by a").await;
    let names: Vec<&str> = rows.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!((names[0], names[2], names[3] == names[4]), ("a", "a", true));
    assert_eq!(k.table("select a, b, a from t where b = 4").await, ["3|4|3"]);
    assert_eq!(k.table("select *, t.a, b as a from t where b = 4").await, ["3|4|3|4"]);
    assert_eq!(k.table("select x.a, y.a from t x join t y on x.a = y.a - 2").await, ["1|3"]);
    assert_eq!(k.table("select 1, 1 union all select 2, 2 order by 1").await, ["1|1", "2|2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_given_up_writes_nothing_later() {
    let (_dir, mut k) = Running::start("create table t (n int); create table big (n int)").await;
    k.sql("insert into big select g from generate_series(1, 50) as x(g)").await;
    let slow = "insert into t select count(*) from big a, big b, big c where a.n + b.n > c.n";
    for (end, open) in
        [("rollback", false), ("commit", false), ("rollback; begin", true), ("rollback to s", true)]
    {
        k.sql("begin; insert into big values (0); savepoint s").await;
        // It has begun, and its client waits no longer.
        let (platform, mut late) = (k.platform.clone(), k.session.clone());
        let mut running = Box::pin(platform.execute(&mut late, slow));
        assert!(futures::poll!(&mut running).is_pending(), "{end}");
        k.sql(end).await;
        let error = running.await.unwrap_err();
        assert_eq!(error.code, Code::NoTransaction, "{end}: {error:?}");
        assert_eq!(k.session.transaction.is_open(), open, "{end}");
        if open {
            k.sql("commit").await;
        }
        assert_eq!(k.table("select count(*) from t").await, ["0"], "{end}");
    }
    // A cancelled statement fails its transaction at once, and has no part in what comes.
    for begin in ["begin", "select 1"] {
        k.sql(begin).await;
        let (platform, mut late) = (k.platform.clone(), k.session.clone());
        let mut running = Box::pin(platform.execute(&mut late, slow));
        assert!(futures::poll!(&mut running).is_pending());
        k.session.transaction.cancel();
        assert_eq!(running.await.unwrap_err().code, Code::NoTransaction);
        if begin == "begin" {
            let error = k.fails("insert into t values (1)").await;
            assert_eq!(error.code, Code::FailedTransaction);
            k.sql("rollback").await;
        }
        assert_eq!(k.table("select count(*) from t").await, ["0"]);
    }
    k.sql("begin; insert into t values (1); commit").await;
    assert_eq!(k.table("select * from t").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_a_transaction_reads_again_after_another_write() {
    let (_dir, mut k) = Running::start("create table t (id int primary key, n int)").await;
    k.sql("insert into t values (1, 0), (2, 0), (3, 0)").await;
    k.sql("begin; update t set n = 10 where id = 1").await;
    // What the transaction has written is known over the rows of this moment.
    assert_eq!(k.table("select n from t where id = 2").await, ["0"]);
    let mut other = Session::default();
    k.platform.execute(&mut other, "update t set n = 5 where id = 2").await.unwrap();
    k.platform.execute(&mut other, "insert into t values (4, 7)").await.unwrap();
    k.sql("update t set n = n + 1 where id = 2").await;
    assert_eq!(k.table("select n from t where id = 3").await, ["0"]);
    k.platform.execute(&mut other, "insert into t values (5, 7)").await.unwrap();
    k.sql("insert into t values (5, 1) on conflict (id) do update set n = t.n + excluded.n").await;
    k.sql("commit").await;
    let rows = k.table("select * from t order by id").await;
    assert_eq!(rows, ["1|10", "2|6", "3|0", "4|7", "5|8"]);
}
