//! Definitions: plain views, IF EXISTS, CASCADE, schemas, indexes, renames; all across restarts.

use crate::support::Running;
use kaplan_platform::{Code, Outcome};

fn notices(outcomes: &[Outcome]) -> Vec<String> {
    match outcomes.last() {
        Some(Outcome::Done { notices, .. }) => notices.clone(),
        other => panic!("{other:?}"),
    }
}

async fn again(k: Running, dir: &std::path::Path) -> Running {
    k.platform.close().await.unwrap();
    drop(k);
    Running::open(dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_views_are_put_in_place() {
    let (dir, mut k) =
        Running::start("create table t (v1 int, v2 int); insert into t values (1, 2), (3, 4)")
            .await;
    k.sql("create view v (a, b) as select v1, v2 + 1 from t").await;
    k.sql("create view w as select a * 10 as c from v where b > 3").await;
    k.sql("create materialized view m as select sum(c) as s from w").await;
    assert_eq!(k.table("select * from v order by a").await, ["1|3", "3|5"]);
    assert_eq!(k.table("select * from w").await, ["30"]);
    k.sql("insert into t values (5, 6)").await;
    assert_eq!(k.table("select s from m").await, ["80"]);
    assert_eq!(k.fails("create view v as select 1 as x").await.code, Code::DuplicateRelation);
    assert_eq!(notices(&k.sql("create view if not exists v as select 1 as x").await).len(), 1);
    k.sql("create view if not exists one as select 1 as x").await;
    assert_eq!(k.table("select * from one").await, ["1"]);
    // A replaced view may gain columns, and not change under a materialized one.
    k.sql("create view p as select v1 from t; create view q as select v1 from p").await;
    k.sql("create or replace view p as select v1, v2 from t where v1 > 1").await;
    assert_eq!(k.table("select * from q order by v1").await, ["3", "5"]);
    assert_eq!(
        k.fails("create or replace view p as select v2 from t").await.code,
        Code::Dependency
    );
    assert_eq!(
        k.fails("create or replace view p as select v1 from q").await.code,
        Code::Dependency
    );
    assert_eq!(
        k.fails("create or replace view v as select 1 as a, 2 as b from t").await.code,
        Code::Dependency
    );
    let e = k.fails("drop view v").await;
    assert_eq!(e.code, Code::Dependency);
    assert!(e.message.contains('w') && e.message.contains('m'), "{e}");
    assert_eq!(k.fails("insert into v values (1, 2)").await.code, Code::WrongObject);

    let mut k = again(k, dir.path()).await;
    assert_eq!(k.table("select * from w order by c").await, ["30", "50"]);
    k.verify("m").await;
    assert_eq!(k.table("describe v").await[1].split('|').next(), Some("b"));
    k.sql("drop view v cascade").await;
    assert_eq!(k.fails("select * from m").await.code, Code::UnknownRelation);
    assert_eq!(k.fails("select * from w").await.code, Code::UnknownRelation);
    assert_eq!(notices(&k.sql("drop view if exists v").await).len(), 1);
    assert_eq!(notices(&k.sql("drop table if exists nope").await).len(), 1);
    assert_eq!(k.fails("drop table nope").await.code, Code::UnknownRelation);
    assert_eq!(k.fails("drop table q").await.code, Code::UnknownRelation);
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_things_are_skipped_with_a_notice() {
    let (dir, mut k) =
        Running::start("create table t (v1 int); insert into t values (1), (2)").await;
    let made = "create materialized view if not exists m(a, b) as select v1, v1 + 1 from t";
    assert_eq!(notices(&k.sql(made).await), Vec::<String>::new());
    assert_eq!(notices(&k.sql(made).await).len(), 1);
    assert_eq!(k.table("select a, b from m order by a").await, ["1|2", "2|3"]);
    assert_eq!(notices(&k.sql("create table if not exists t (x int)").await).len(), 1);
    k.sql("create table c as select v1 as a, v1 * 2 as b from t").await;
    assert_eq!(k.table("select * from c order by a").await, ["1|2", "2|4"]);
    k.sql("delete from c where a = 1").await;
    assert_eq!(k.fails("create table c as select 1 as a").await.code, Code::DuplicateRelation);
    assert_eq!(notices(&k.sql("create table if not exists c as select 1 as a").await).len(), 1);
    k.sql(
        "create table d (x) as select v1, sum(v1) from t group by v1; insert into d values (9, 9)",
    )
    .await;
    k.sql("create table e as select 1").await;
    let mut k = again(k, dir.path()).await;
    assert_eq!(k.table("select * from c").await, ["2|4"]);
    assert_eq!(k.table("select * from d order by x").await, ["1|1", "2|2", "9|9"]);
    assert_eq!(k.table("select * from e").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_hold_tables_and_views_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.fails("create table s.t (a int)").await.code, Code::UnknownSchema);
    k.sql("create schema s; create schema if not exists s; create table t (a int)").await;
    assert_eq!(k.fails("create schema s").await.code, Code::DuplicateSchema);
    k.sql("create table s.t (a int); insert into s.t values (1); insert into public.t values (2)")
        .await;
    assert_eq!(k.table("select * from s.t").await, ["1"]);
    assert_eq!(k.table("select * from public.t").await, ["2"]);
    assert_eq!(k.table("select x.a, t.a from s.t as x, t").await, ["1|2"]);
    k.sql("create materialized view s.m as select sum(a) as n from s.t").await;
    k.sql("create materialized view both as select s.t.a from s.t union all select a from t").await;
    assert_eq!(k.table("select a from both order by a").await, ["1", "2"]);
    k.sql("set search_path to s, public").await;
    assert_eq!(k.table("select * from t").await, ["1"]);
    k.sql("create table u (b int); update t set a = 5; create view w as select a from t").await;
    assert_eq!(k.table("select n from m").await, ["5"]);
    k.sql("set search_path = public").await;
    assert_eq!(k.fails("select * from u").await.code, Code::UnknownRelation);
    assert_eq!(k.table("select * from s.w").await, ["5"]);
    assert_eq!(k.table("show schemas").await, ["public", "s"]);
    assert_eq!(k.fails("create table batch.x (a int)").await.code, Code::InvalidInput);
    let mut k = again(k, dir.path()).await;
    k.sql("insert into s.t values (6)").await;
    assert_eq!(k.table("select n from s.m").await, ["11"]);
    k.verify("s.m").await;
    assert_eq!(k.fails("drop schema s").await.code, Code::Dependency);
    k.sql("drop schema s cascade; create schema s").await;
    assert_eq!(k.fails("select * from s.t").await.code, Code::UnknownRelation);
    assert_eq!(k.fails("select * from both").await.code, Code::UnknownRelation);
    assert_eq!(k.table("select * from t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_recorded() {
    let (dir, mut k) = Running::start(
        "create table t (a int, b int); create materialized view m as select a, b from t",
    )
    .await;
    let made = k.sql("create index i on m(a desc) include (b)").await;
    assert!(notices(&made)[0].contains("does not change"), "{made:?}");
    assert_eq!(k.fails("create index i on t(a)").await.code, Code::DuplicateRelation);
    assert_eq!(notices(&k.sql("create index if not exists i on t(a)").await).len(), 1);
    assert_eq!(k.fails("create index j on t(nope)").await.code, Code::UnknownColumn);
    assert_eq!(k.fails("create index j on nope(a)").await.code, Code::UnknownRelation);
    k.sql("create index on t (a, b)").await;
    let mut k = again(k, dir.path()).await;
    assert_eq!(k.table("show indexes").await, ["i|m|a desc|b", "t_a_b_idx|t|a, b|"]);
    assert_eq!(k.table("show indexes from t").await, ["t_a_b_idx|t|a, b|"]);
    k.sql("drop index i; drop index if exists i").await;
    assert_eq!(k.fails("drop index i").await.code, Code::UnknownObject);
    k.sql("drop table t cascade").await;
    assert_eq!(k.table("show indexes").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_things_go_on() {
    let (dir, mut k) = Running::start(
        "create table t (id int primary key, v int, check (v > 0) on violation quarantine);
         create materialized view m as select t.v, count(*) as n from t group by t.v;
         create materialized view l with (architecture = 'lambda') as select sum(v) as s from t;
         create view p as select id, v from t; create materialized view mm as select n from m;
         insert into t values (1, 1), (2, 1)",
    )
    .await;
    k.sql("refresh materialized view l").await;
    k.sql("alter table t rename to u; alter table u rename column v to w").await;
    k.sql("alter materialized view m rename to m2; alter view p rename to q").await;
    k.sql("alter materialized view l rename to l2").await;
    // The old names are free.
    k.sql("create table t (x text); insert into t values ('new')").await;
    k.sql("create materialized view m as select x from t").await;
    k.sql("create materialized view l with (architecture = 'lambda') as select x from t").await;
    k.sql("insert into u values (3, 1), (4, -1); update u set w = w + 1 where id = 3").await;
    for restart in [false, true] {
        if restart {
            k = again(k, dir.path()).await;
        }
        assert_eq!(k.table("select * from u order by id").await, ["1|1", "2|1", "3|2"]);
        assert_eq!(k.table("select w from u where id = 3").await, ["2"]);
        assert_eq!(k.table("select * from m2 order by 1").await, ["1|2", "2|1"]);
        assert_eq!(k.table("select * from mm order by 1").await, ["1", "2"]);
        assert_eq!(k.table("select s from l2").await, ["4"]);
        assert_eq!(k.table("select v from q order by id").await, ["1", "1", "2"]);
        assert_eq!(k.table("select * from m").await, ["new"]);
        assert_eq!(k.table("select * from l").await, ["new"]);
        assert_eq!(k.table("select count(*) from u_quarantine").await, ["1"]);
        for view in ["m", "m2", "mm", "l", "l2"] {
            k.verify(view).await;
        }
        k.sql("refresh materialized view l2, l").await;
        k.verify("l2").await;
    }
    assert_eq!(k.fails("alter table u rename to t").await.code, Code::DuplicateRelation);
    assert_eq!(k.fails("alter table u rename column id to w").await.code, Code::DuplicateColumn);
    assert_eq!(k.fails("alter table u rename column no to x").await.code, Code::UnknownColumn);
    assert_eq!(k.fails("alter table nope rename to x").await.code, Code::UnknownRelation);
    k.sql("alter table if exists nope rename to x").await;
    assert_eq!(k.fails("drop table u").await.code, Code::Dependency);
    k.sql("drop table u cascade").await;
    assert_eq!(k.fails("select * from mm").await.code, Code::UnknownRelation);
    assert_eq!(k.table("select * from m").await, ["new"]);
    k.sql("create materialized view after as select x from t").await;
    assert_eq!(k.table("select * from after").await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_can_be_shown() {
    let (_dir, mut k) = Running::start(
        "create stream s (id bigint not null, at timestamp,
           watermark for at as at - interval '90 minutes', unique (id) within interval '1 day');
         create table t (a int primary key, b int as a + 1) on conflict ignore;
         create view v as select a from t; create materialized view m as select b from t",
    )
    .await;
    let shown = k.rows("show create stream s").await;
    let text = arrow::util::display::array_value_to_string(shown.batches[0].column(1), 0).unwrap();
    assert!(text.contains("INTERVAL '1 hour 30 minutes'") && text.contains("'1 day'"), "{text}");
    let shown = k.rows("show create table t").await;
    let text = arrow::util::display::array_value_to_string(shown.batches[0].column(1), 0).unwrap();
    k.sql("drop table t cascade").await;
    k.sql(&text).await;
    assert_eq!(k.table("insert into t values (1) returning *").await, ["1|2"]);
    assert_eq!(k.table("show tables").await, ["s|stream|2", "t|table|2"]);
    assert_eq!(k.table("show streams").await, ["s|stream|2"]);
    k.sql("create view v as select a from t; create materialized view m as select b from t").await;
    assert_eq!(k.table("show views").await.len(), 2);
    assert_eq!(k.table("show materialized views").await.len(), 1);
    for empty in ["show sources", "show sinks", "show indexes"] {
        assert_eq!(k.table(empty).await, Vec::<String>::new());
    }
    assert_eq!(k.table("show databases").await, ["kaplan"]);
    assert_eq!(k.table("show columns from t").await.len(), 2);
    assert_eq!(k.table("show search_path").await, ["public"]);
    let set = k.sql("set some_unknown_thing = 1").await;
    assert_eq!(notices(&set).len(), 1);
    assert_eq!(k.table("show some_unknown_thing").await, ["1"]);
    assert_eq!(notices(&k.sql("set rw_implicit_flush = true").await), Vec::<String>::new());
    assert_eq!(k.fails("show nothing_like_it").await.code, Code::UnknownObject);
    assert_eq!(k.fails("show create table m").await.code, Code::WrongObject);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_added_to_tables_in_use() {
    let (dir, mut k) = Running::start(
        "create table t (id int primary key, v int); create table b (v int);
         create stream s (a int, at timestamp);
         insert into t values (1, 1), (2, 2); insert into b values (1), (1);
         insert into s values (1, null), (2, null);
         create materialized view m as select * from t;
         create materialized view g with (architecture = 'lambda') as
           select count(*) as n, sum(a) as x from s;
         create materialized view j as select t.id, s.a from t join s on t.id = s.a;
         create view p as select * from t; refresh materialized view g",
    )
    .await;
    let e = k.fails("alter table t add column v int").await;
    assert_eq!(e.code, Code::DuplicateColumn, "{e}");
    assert_eq!(notices(&k.sql("alter table t add column if not exists v int").await).len(), 1);
    assert_eq!(
        k.fails("alter table t add column w int default 'x'").await.code,
        Code::InvalidValue
    );
    k.sql("alter table t add column w int default 7; alter table b add column w text").await;
    k.sql("alter table t rename column v to old; alter table t add column v varchar").await;
    let added = k.sql("alter stream s add column c timestamp default '2024-01-01'").await;
    assert!(notices(&added)[0].contains("NULL"), "{added:?}");
    k.sql("insert into t values (3, 3, 3, 'c'); insert into b values (2, 'x')").await;
    k.sql("insert into s (a) values (3); update b set w = 'y' where v = 1").await;
    k.sql("create materialized view late as select id, w, v from t").await;
    for round in 0..3 {
        if round == 1 {
            k = again(k, dir.path()).await;
        }
        if round == 2 {
            // Everything comes from the lake.
            k.platform.close().await.unwrap();
            drop(k);
            std::fs::remove_dir_all(dir.path().join("speed")).unwrap();
            std::fs::remove_dir_all(dir.path().join("batch")).unwrap();
            k = Running::open(dir.path()).await;
            for view in ["m", "g", "j", "late"] {
                crate::lifecycle::wait_running(&k, view).await;
            }
        }
        assert_eq!(k.table("select * from t order by id").await, ["1|1|7|", "2|2|7|", "3|3|3|c"]);
        assert_eq!(k.table("select * from b order by v").await, ["1|y", "1|y", "2|x"]);
        assert_eq!(
            k.table("select a, c from s order by a").await,
            ["1|", "2|", "3|2024-01-01T00:00:00"]
        );
        assert_eq!(k.table("select * from m order by id").await, ["1|1", "2|2", "3|3"]);
        assert_eq!(k.table("select * from p order by id").await, ["1|1", "2|2", "3|3"]);
        assert_eq!(k.table("select * from g").await, ["3|6"]);
        assert_eq!(k.table("select * from late order by id").await, ["1|7|", "2|7|", "3|3|c"]);
        for view in ["m", "g", "j", "late"] {
            k.verify(view).await;
        }
        k.sql("refresh materialized view g").await;
        k.verify("g").await;
    }
    k.sql("delete from t where w = 7; insert into t values (4, 4, 4, 'd')").await;
    assert_eq!(k.table("select * from late order by id").await, ["3|3|c", "4|4|d"]);
}
