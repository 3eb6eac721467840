//! What a view could not compute, and why: `errors.v`, by itself and as a view.

use crate::support::Running;

const STREAMS: &str =
    "CREATE TABLE t (id bigint PRIMARY KEY, a integer, b integer, w text, n numeric(38, 0));
    CREATE STREAM s (w text, k integer);";

/// Good rows, and one that fails in each expression.
const ROWS: &str = "INSERT INTO t VALUES (1, 6, 3, '12', 1), (2, 6, 0, '12', 1), (3, 6, 3, 'x', 1),
        (4, NULL, NULL, NULL, NULL), (5, 2147483647, 1, '1', 99999999999999999999999999999999999999);
    INSERT INTO s VALUES ('1', 1), ('y', 2), ('3', 0);";

const TOLD: &str = "SELECT expression, reason, input->>'id' AS id FROM errors.v ORDER BY 1, 3";

async fn told(architecture: &str, query: &str) -> (tempfile::TempDir, Running) {
    let (dir, mut k) = Running::start(STREAMS).await;
    let with = format!("WITH (architecture = '{architecture}')");
    k.sql(&format!(
        "CREATE MATERIALIZED VIEW v {with} AS {query};
         CREATE MATERIALIZED VIEW kept {with} AS SELECT * FROM errors.v;"
    ))
    .await;
    k.sql(ROWS).await;
    (dir, k)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_that_fails_is_told_with_its_reason() {
    for architecture in ["kappa", "lambda"] {
        let query =
            "SELECT id, a / b AS q, a + a AS twice, CAST(w AS integer) AS i, n * 10 AS m FROM t";
        let (_dir, mut k) = told(architecture, query).await;
        let all = [
            "CAST(t.w AS integer)|invalid input syntax for type integer: \"x\"|3",
            "t.a + t.a|integer out of range|5",
            "t.a / t.b|division by zero|2",
            "t.n * 10|numeric field overflow|5",
        ];
        assert_eq!(k.table(TOLD).await, all);
        let kept = TOLD.replace("errors.v", "kept");
        assert_eq!(k.table(&kept).await, all);
        k.sql("DELETE FROM t WHERE id = 3; UPDATE t SET b = 2 WHERE id = 2").await;
        if architecture == "lambda" {
            k.sql("REFRESH MATERIALIZED VIEW kept").await;
        }
        let fewer = [all[1], all[3]];
        assert_eq!(k.table(TOLD).await, fewer);
        assert_eq!(k.table(&kept).await, fewer);
        assert_eq!(k.verify("kept").await, 2);
        assert_eq!(k.verify("v").await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_into_the_answer_is_not_told() {
    for (query, wanted) in [
        ("SELECT CASE WHEN b <> 0 THEN a / b END AS q FROM t", 0),
        ("SELECT CASE b WHEN 3 THEN 1 ELSE a / b END AS q FROM t", 1),
        ("SELECT a / nullif(b, 0) AS q FROM t", 0),
        ("SELECT coalesce(b, a / b) AS q FROM t", 0),
        ("SELECT coalesce(a / b, 0) AS q FROM t", 1),
        ("SELECT id FROM t WHERE id > 9 AND a / b > 0", 0),
        ("SELECT id FROM t WHERE id < 9 AND a / b > 0", 1),
        ("SELECT sum(a / b) FILTER (WHERE b <> 0) AS q FROM t", 0),
        ("SELECT k, sum(10 / k) AS q, count(CAST(w AS integer)) AS n FROM s GROUP BY k", 2),
        ("SELECT q + 1 AS r FROM (SELECT a / b AS q FROM t) AS x WHERE q > 0", 1),
        ("SELECT t.id FROM t JOIN s ON t.id = CAST(s.w AS bigint) AND t.id = 6 / s.k", 2),
        ("SELECT id, row_number() OVER (PARTITION BY a % b ORDER BY id) AS r FROM t", 1),
        ("SELECT id, a FROM t", 0),
    ] {
        let (_dir, mut k) = told("kappa", query).await;
        let found = k.table("SELECT * FROM errors.v").await;
        assert_eq!(found.len(), wanted, "{query}: {found:?}");
        assert_eq!(k.verify("kept").await as usize, wanted, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_a_materialized_view() {
    let (_dir, mut k) = told("kappa", "SELECT a / b AS q FROM t").await;
    k.sql("CREATE VIEW plain AS SELECT a FROM t; CREATE VIEW bad AS SELECT reason FROM errors.v")
        .await;
    assert_eq!(k.table("SELECT * FROM bad").await, ["division by zero"]);
    for (query, said) in [
        ("SELECT * FROM errors.plain", "plain is not a materialized view"),
        ("SELECT * FROM errors.t", "t is not a materialized view"),
        ("SELECT * FROM errors.nothing", "there is no stream, table or view nothing"),
        ("CREATE MATERIALIZED VIEW errors.x AS SELECT a FROM t", "the schema errors is reserved"),
    ] {
        let error = k.fails(query).await;
        assert!(error.message.contains(said), "{query}: {}", error.message);
    }
    let error = k.fails("DROP MATERIALIZED VIEW v").await;
    assert!(error.message.contains("kept"), "{}", error.message);
}
