//! Columns of every type, from INSERT through log, lake, views of both architectures and a restart.

use crate::support::Running;
use kaplan_platform::Code;
use kaplan_sql::functions::sql_text;

const STREAM: &str = "
    CREATE STREAM s (
      id bigint NOT NULL, u uuid, j jsonb, v varchar(5), c char(3), t time, i interval,
      n numeric, a int[], w text[], b bytea, r real, z timestamptz
    );
    CREATE TABLE k (u uuid PRIMARY KEY, j jsonb, a int[], i interval);";

const ROWS: &str = r#"
    INSERT INTO s VALUES
      (1, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"b": 1, "a": {"x": [1, 2.50]}}', 'hello', 'ab',
       '12:34:56.789', '1 mon 2 days 03:04:05', 1.5, ARRAY[1,2,3], '{x,NULL,"a b"}', '\x0aff',
       0.1, '2024-01-31 12:00:00+02'),
      (2, '{a0eebc999c0b4ef8bb6d6bb9bd380a11}', '{"a":{"x":[1,2.50]},"b":1}', 'hi   ', 'ab ',
       '23:59', '-1 day', 2, ARRAY[4], '{}', 'abc', 2, '2024-01-31T10:00:00Z'),
      (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"#;

const VIEWS: [(&str, &str); 5] = [
    ("by_key", "SELECT u, j, count(*) AS n, max(t) AS t FROM s GROUP BY u, j"),
    ("by_list", "SELECT a, c, sum(n) AS n FROM s GROUP BY a, c"),
    (
        "parts",
        "SELECT id, j -> 'a' AS a, j #>> '{a,x,1}' AS x, a[1] AS first, i * 2 AS twice,
               to_jsonb(j) AS same, j ->> 'b' || '!' AS shout, cardinality(w) AS w FROM s",
    ),
    ("items", "SELECT id, unnest(a) AS item FROM s"),
    ("joined", "SELECT s.id, k.j, k.a, k.i FROM s JOIN k ON s.u = k.u"),
];

/// The rows as PostgreSQL prints them.
async fn printed(k: &mut Running, sql: &str) -> Vec<String> {
    let rows = k.rows(sql).await;
    let mut lines = Vec::new();
    for batch in &rows.batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(rows.schema.fields());
            let cells = cells.map(|(column, field)| {
                sql_text(column, field, row).unwrap().unwrap_or_else(|| "NULL".into())
            });
            lines.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    lines
}

async fn check(k: &mut Running, rows: i64) {
    let one = concat!(
        r#"1|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{"a": {"x": [1, 2.50]}, "b": 1}|hello|ab|"#,
        r#"12:34:56.789|1 mon 2 days 03:04:05|1.5|{1,2,3}|{x,NULL,"a b"}|\x0aff|0.1|"#,
        "2024-01-31 10:00:00+00"
    );
    let two = concat!(
        r#"2|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{"a": {"x": [1, 2.50]}, "b": 1}|hi   |ab|"#,
        r"23:59:00|-1 days|2|{4}|{}|\x616263|2|2024-01-31 10:00:00+00"
    );
    let three = "3|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL";
    assert_eq!(printed(k, "SELECT * FROM s WHERE id < 4 ORDER BY id").await, [one, two, three]);
    let grouped =
        "SELECT u, j, n, t FROM by_key_kappa WHERE j = '{\"b\":1, \"a\":{\"x\":[1,2.50]}}'";
    assert_eq!(
        printed(k, grouped).await,
        [r#"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{"a": {"x": [1, 2.50]}, "b": 1}|2|23:59:00"#]
    );
    assert_eq!(
        printed(k, "SELECT * FROM parts_lambda WHERE id = 1").await,
        [
            r#"1|{"x": [1, 2.50]}|2.50|1|2 mons 4 days 06:08:10|{"a": {"x": [1, 2.50]}, "b": 1}|1!|3"#
        ]
    );
    assert_eq!(
        printed(
            k,
            "SELECT to_jsonb(j), j || '{\"c\":2}', pg_typeof(j), pg_typeof(u) FROM s WHERE id = 2"
        )
        .await,
        [r#"{"a": {"x": [1, 2.50]}, "b": 1}|{"a": {"x": [1, 2.50]}, "b": 1, "c": 2}|jsonb|uuid"#]
    );
    assert_eq!(printed(k, "SELECT id FROM s WHERE 2 = ANY(a) AND i > '1 month'").await, ["1"]);
    assert_eq!(
        printed(k, "SELECT id FROM s WHERE u = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11' ORDER BY 1")
            .await,
        ["1", "2"]
    );
    assert_eq!(printed(k, "SELECT count(*) FROM items_kappa").await, [rows.to_string()]);
    for (name, _) in VIEWS {
        for architecture in ["lambda", "kappa"] {
            k.verify(&format!("{name}_{architecture}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_a_column() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql(STREAM).await;
    for (name, query) in VIEWS {
        for architecture in ["lambda", "kappa"] {
            let options = format!("WITH (architecture = '{architecture}')");
            k.sql(&format!("CREATE MATERIALIZED VIEW {name}_{architecture} {options} AS {query}"))
                .await;
        }
    }
    k.sql("INSERT INTO k VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[1]', '{7}', '1 day')")
        .await;
    k.sql(ROWS).await;
    check(&mut k, 4).await;
    let all: Vec<String> = VIEWS.iter().map(|(n, _)| format!("{n}_lambda")).collect();
    k.sql(&format!("REFRESH MATERIALIZED VIEW {}", all.join(", "))).await;
    k.sql("INSERT INTO s (id, a) VALUES (4, '{8,9}')").await;
    k.sql("INSERT INTO k VALUES ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '[2]', '{7,8}', '25 h')")
        .await;
    check(&mut k, 6).await;
    assert_eq!(printed(&mut k, "SELECT j, a, i FROM k").await, ["[2]|{7,8}|25:00:00"]);
    k.sql(&format!("REFRESH MATERIALIZED VIEW {} FULL", all.join(", "))).await;
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    check(&mut k, 6).await;
    assert_eq!(
        printed(&mut k, "SELECT * FROM joined_lambda ORDER BY id").await,
        ["1|[2]|{7,8}|25:00:00", "2|[2]|{7,8}|25:00:00"]
    );
    assert_eq!(
        k.sql("DELETE FROM k WHERE u = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'").await.len(),
        1
    );
    assert_eq!(printed(&mut k, "SELECT count(*) FROM k").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn composites_are_columns() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql(
        "CREATE STREAM s (id bigint, p struct<x int, y text[], t time>);
         INSERT INTO s VALUES (1, '(7,\"{a,b}\",12:30)'), (2, '(8,,)'), (3, NULL);
         INSERT INTO s VALUES (4, ROW(7, ARRAY['a','b'], TIME '12:30'))",
    )
    .await;
    let view = "SELECT (p).x AS x, p, count(*) AS n FROM s GROUP BY 1, 2";
    k.sql(&format!("CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS {view}")).await;
    for _ in 0..2 {
        assert_eq!(k.verify("v").await, 3);
        assert_eq!(
            printed(&mut k, "SELECT x, p, n FROM v ORDER BY x").await,
            ["7|(7,\"{a,b}\",12:30:00)|2", "8|(8,,)|1", "NULL|NULL|1"]
        );
        k.sql("REFRESH MATERIALIZED VIEW v FULL").await;
    }
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.verify("v").await, 3);
    assert_eq!(printed(&mut k, "SELECT p FROM s WHERE (p).x = 8").await, ["(8,,)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_a_type_does_not_have_are_refused_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql(STREAM).await;
    use Code::{DatetimeOverflow, InvalidDatetime, InvalidValue, StringTruncation};
    for (column, value, code, says) in [
        ("v", "'toolong'", StringTruncation, "too long for type character varying(5)"),
        ("c", "'abcd'", StringTruncation, "too long for type character(3)"),
        ("u", "'nope'", InvalidValue, "invalid input syntax for type uuid"),
        ("j", "'{bad'", InvalidValue, "invalid input syntax for type json"),
        ("a", "'{1,x}'", InvalidValue, "is integer[]"),
        ("t", "'25:00'", DatetimeOverflow, "is time"),
        ("i", "'1 fortnight'", InvalidDatetime, "is interval"),
    ] {
        let sql = format!("INSERT INTO s (id, {column}) VALUES (1, NULL), (2, {value})");
        let error = k.fails(&sql).await;
        assert_eq!((error.code, error.row), (code, Some(2)), "{sql}: {error:?}");
        assert!(error.message.contains(says), "{sql}: {error:?}");
    }
    assert_eq!(printed(&mut k, "SELECT count(*) FROM s").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_beyond_the_lakes_calendar_are_refused() {
    let (_dir, mut k) = Running::start("CREATE STREAM far (day date, at timestamp)").await;
    k.sql("INSERT INTO far VALUES (DATE '1970-01-01' + 95026236, NULL), (NULL, '9999-12-31')")
        .await;
    let error =
        k.fails("INSERT INTO far VALUES (NULL, NULL), (DATE '1970-01-01' + 95026237, NULL)").await;
    assert_eq!((error.code, error.row), (kaplan_platform::Code::DatetimeOverflow, Some(2)));
    assert_eq!(error.field.as_deref(), Some("day"));
    // What was taken comes into the lake.
    let head = k.platform.status().expect("status").durable_lsn;
    while k.platform.status().expect("status").archived_lsn < head {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(k.table("SELECT count(*) FROM far").await, ["2"]);
}
