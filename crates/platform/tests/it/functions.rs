//! Functions of SQL: in queries, views and writes, through a restart, and what they refuse.

use crate::support::Running;
use kaplan_platform::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_its_expression() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql(
        "CREATE STREAM s (id bigint, name text, price numeric(10,2));
         CREATE FUNCTION gross(net numeric, rate numeric) RETURNS numeric(12,2) LANGUAGE SQL IMMUTABLE
           AS $$ SELECT net * (1 + gross.rate / 100) $$;
         CREATE FUNCTION greet(text) RETURNS text LANGUAGE sql AS 'SELECT ''hello '' || upper($1);';
         CREATE FUNCTION twice(x bigint) RETURNS bigint RETURN x * 2;
         CREATE FUNCTION four_times(x bigint) RETURNS bigint STRICT RETURN twice(twice(x));
         CREATE FUNCTION label(x bigint) RETURNS text STRICT RETURN coalesce(x::text, 'none');
         INSERT INTO s SELECT twice(3), greet('ann'), gross(10, 19);",
    )
    .await;
    assert_eq!(k.table("SELECT * FROM s").await, ["6|hello ANN|11.90"]);
    assert_eq!(
        k.table("SELECT four_times(5), greet(name), gross(price, 7) AS g, label(NULL) FROM s")
            .await,
        ["20|hello HELLO ANN|12.73|"]
    );
    let rows = k.rows("SELECT twice(1), greet('x') FROM s").await;
    let names: Vec<_> = rows.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["twice", "greet"]);
    k.sql(
        "CREATE MATERIALIZED VIEW v AS SELECT four_times(id) AS f, count(*) AS n FROM s GROUP BY 1",
    )
    .await;
    assert_eq!(k.verify("v").await, 1);
    for sql in [
        "CREATE OR REPLACE FUNCTION four_times(x bigint) RETURNS bigint RETURN x",
        "DROP FUNCTION four_times",
    ] {
        let error = k.fails(sql).await;
        assert!(error.message.contains("used by view v"), "{sql}: {error:?}");
    }
    // What another function calls is in that one's body.
    k.sql("CREATE OR REPLACE FUNCTION twice(x bigint) RETURNS bigint RETURN x + x + 1").await;
    assert_eq!(k.table("SELECT twice(1), four_times(1)").await, ["3|4"]);
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.table("SELECT twice(1), f FROM v").await, ["3|24"]);
    k.sql(
        "DROP MATERIALIZED VIEW v; DROP FUNCTION four_times, greet; DROP FUNCTION IF EXISTS greet",
    )
    .await;
    assert_eq!(k.fails("SELECT four_times(1)").await.code, Code::UnknownFunction);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_functions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql("CREATE FUNCTION f(x int) RETURNS int RETURN x").await;
    let mut nested = "d('a')".to_owned();
    for _ in 0..16 {
        nested = format!("d({nested})");
    }
    k.sql("CREATE FUNCTION d(x text) RETURNS text RETURN x || x").await;
    for (sql, says) in [
        ("CREATE FUNCTION f(x int) RETURNS int RETURN x", "exists already"),
        ("CREATE FUNCTION abs(x int) RETURNS int RETURN x", "is built in"),
        ("CREATE FUNCTION g(x int) RETURNS int RETURN y", "y"),
        ("CREATE FUNCTION g(x int) RETURNS int RETURN g(x)", "calls itself"),
        ("CREATE FUNCTION g(x int, x int) RETURNS int RETURN x", "named twice"),
        ("CREATE FUNCTION g(x int) RETURNS int AS $$ SELECT x FROM s $$ LANGUAGE SQL", "body"),
        ("CREATE FUNCTION g(x int) RETURNS int AS 'return 1' LANGUAGE plpgsql", "LANGUAGE plpgsql"),
        ("CREATE FUNCTION g(x int) RETURNS blurb RETURN x", "blurb"),
        ("SELECT f(1, 2)", "other arguments"),
        ("DROP FUNCTION g", "no function g"),
        (&format!("SELECT {nested}"), "parts"),
    ] {
        let error = k.fails(sql).await;
        assert!(error.message.contains(says), "{sql}: {error:?}");
    }
}
