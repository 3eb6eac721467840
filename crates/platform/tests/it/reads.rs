//! Reads by the values of columns, which are answered without a plan, beside the same reads planned.

use crate::support::Running;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::util::pretty::pretty_format_batches;
use kaplan_platform::{Layer, RowSet, ViewRead};

/// Views of each kind: groups with a tail of names, arithmetic and HAVING, plain rows over a table
/// whose rows go away, rows that repeat, a join, and a tail that sorts.
const VIEWS: [(&str, &str); 7] = [
    ("sums", "SELECT k, count(*) AS n, sum(a) AS total FROM s GROUP BY k"),
    (
        "means",
        "SELECT name AS who, k AS key, avg(a) AS mean, max(a) - min(a) AS spread \
               FROM s GROUP BY k, name HAVING count(*) > 1",
    ),
    (
        "days",
        "SELECT date_trunc('day', at) AS day, k, bool_or(ok) AS some FROM s \
              GROUP BY date_trunc('day', at), k",
    ),
    ("current", "SELECT id, k, name, born FROM t WHERE k < 9"),
    ("repeated", "SELECT k, name FROM s"),
    ("joined", "SELECT t.id, s.a, t.name AS of FROM s JOIN t ON s.k = t.id"),
    ("first", "SELECT k, a FROM s ORDER BY a DESC, k, name LIMIT 12"),
];

/// What is asked of them.
const READS: [&str; 20] = [
    "SELECT * FROM sums WHERE k = 3",
    "SELECT total AS \"T\", n FROM sums AS v WHERE v.k = 3 LIMIT 5",
    "SELECT n FROM public.sums WHERE 3 = k AND n = 999",
    "SELECT n FROM sums WHERE k = 12345",
    "SELECT k, k AS again FROM sums WHERE k = (-1)",
    "SELECT * FROM means WHERE key = 2 AND who = 'b'",
    "SELECT mean, spread FROM means WHERE who = 'a' AND key = 2",
    "SELECT mean FROM means WHERE key = 2",
    "SELECT some FROM days WHERE day = '2024-01-02 00:00:00' AND k = 4",
    "SELECT * FROM days WHERE day = CAST('2024-01-01 00:00:00' AS TIMESTAMP(6)) AND k = 1",
    "SELECT * FROM current WHERE id = 5",
    "SELECT name FROM current WHERE id = 6",
    "SELECT id FROM current WHERE k = 5 AND name = 'c'",
    "SELECT id FROM current WHERE born = DATE '2000-01-03'",
    "SELECT id FROM current WHERE born = '2000-01-03' AND k = 3",
    "SELECT * FROM repeated WHERE k = 1",
    "SELECT name FROM repeated WHERE name = 'a' AND k = 2",
    "SELECT * FROM joined WHERE id = 2",
    "SELECT a FROM joined WHERE of = 'new'",
    "SELECT a FROM first WHERE k = 4",
];

fn rows(set: &RowSet) -> RecordBatch {
    match set.batches.first() {
        Some(first) => concat_batches(&first.schema(), &set.batches).expect("one schema"),
        None => RecordBatch::new_empty(set.schema.clone()),
    }
}

fn sorted(set: &RowSet) -> Vec<String> {
    let text = pretty_format_batches(&[rows(set)]).expect("format").to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let header = lines.len().min(3);
    lines[header..].sort();
    lines
}

async fn compare(k: &mut Running) {
    for read in READS {
        let quick = k.rows(read).await;
        // An order is no part of such a read: with one it is planned.
        let planned = match read.split_once(" LIMIT") {
            Some((head, _)) => format!("{head} ORDER BY 1"),
            None => format!("{read} ORDER BY 1"),
        };
        let planned = k.rows(&planned).await;
        assert_eq!(sorted(&quick), sorted(&planned), "{read}");
        assert_eq!(quick.schema, planned.schema, "{read}");
        assert_eq!(quick.lsn, planned.lsn, "{read}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_by_value_are_what_a_plan_answers() {
    for architecture in ["lambda", "kappa"] {
        let mut text = String::from(
            "CREATE STREAM s (k integer NOT NULL, name text, a bigint, ok boolean, at timestamp);
             CREATE TABLE t (id bigint PRIMARY KEY, k smallint, name text, born date);",
        );
        for (name, query) in VIEWS {
            text += &format!(
                "CREATE MATERIALIZED VIEW {name} WITH (architecture = '{architecture}') AS {query};"
            );
        }
        let (_dir, mut k) = Running::start(&text).await;
        compare(&mut k).await;
        k.sql(
            "INSERT INTO s SELECT v % 7 - 1, CASE v % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' END, v,
               v % 5 = 0, TIMESTAMP '2024-01-01 00:00:00' + v * INTERVAL '1 hour'
               FROM generate_series(1, 60) AS g(v);
             INSERT INTO t SELECT v, v % 11, CASE WHEN v % 2 = 0 THEN 'c' END,
               DATE '2000-01-01' + CAST(v AS integer) FROM generate_series(1, 30) AS g(v)",
        )
        .await;
        compare(&mut k).await;
        if architecture == "lambda" {
            for (name, _) in VIEWS {
                k.sql(&format!("REFRESH MATERIALIZED VIEW {name}")).await;
            }
            compare(&mut k).await;
        }
        k.sql(
            "INSERT INTO s VALUES (3, 'a', 100, true, TIMESTAMP '2024-01-02 05:00:00'), (2, 'b', 1, NULL, NULL);
             UPDATE t SET name = 'new' WHERE id = 2; DELETE FROM t WHERE id = 6;
             INSERT INTO t VALUES (77, 5, 'c', NULL)",
        )
        .await;
        compare(&mut k).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_read_by_column_without_sql() {
    let (_dir, k) = Running::start(
        "CREATE STREAM s (k integer, a bigint);
         CREATE MATERIALIZED VIEW v AS SELECT k, sum(a) AS total FROM s GROUP BY k;
         CREATE MATERIALIZED VIEW plain AS SELECT k, a FROM s WHERE a > 1;
         INSERT INTO s VALUES (1, 1), (1, 2), (2, 3), (1, 2)",
    )
    .await;
    let at = k.session.last_write;
    let read = |view: &str, filters: &[(&str, &str)], limit| ViewRead {
        view: view.to_owned(),
        layer: Layer::Served,
        filters: filters.iter().map(|(c, v)| ((*c).to_owned(), (*v).to_owned())).collect(),
        limit,
        at: Some(at),
    };
    let count = |set: RowSet| set.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    for (view, filters, limit, wanted) in [
        ("v", vec![("k", "1")], None, 1),
        ("v", vec![("total", "3")], None, 1),
        ("plain", vec![("k", "1")], None, 2),
        ("plain", vec![("k", "1")], Some(1), 1),
        ("plain", vec![("k", "1"), ("a", "3")], None, 0),
    ] {
        let found = k.platform.read_view(read(view, &filters, limit)).await.expect("read");
        assert_eq!(count(found), wanted, "{view} {filters:?}");
    }
    let error = k.platform.read_view(read("v", &[("j", "1")], None)).await.unwrap_err();
    assert!(error.hint.unwrap().contains("k, total"));
}
