//! Rows that an expression cannot compute do not stop a view: circuit and plain run of the stable
//! plan agree, and every row is there. And what views refuse, by name.

use crate::{CompiledView, Planner, Relation, dialect};
use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::collect;
use kaplan_base::Lsn;
use kaplan_circuit::{Clocks, Delta, Input};
use std::sync::Arc;

/// Good and bad rows; row 2 is bad everywhere.
fn rows() -> RecordBatch {
    let text = ["2024-02-29T10:00:00", "no [time", "1", "", "2024-01-01"];
    let big = 99_999_999_999_999_999_999_999_999_999_999_999_999;
    let decimals = Decimal128Array::from(vec![100, big, -100, 1, 0]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))),
        ("w", Arc::new(StringArray::from(text.to_vec()))),
        ("n", Arc::new(Int64Array::from(vec![1, i64::MIN, 3, 4, i64::MAX]))),
        ("m", Arc::new(Int64Array::from(vec![1, -1, 2, 0, 3]))),
        ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 1e300, -0.0, f64::INFINITY]))),
        ("d", Arc::new(decimals.with_precision_and_scale(38, 0).unwrap())),
        (
            "ts",
            Arc::new(TimestampMicrosecondArray::from(vec![0, i64::MAX, 1_000_000, -1, i64::MIN])),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn compile(sql: &str) -> crate::Result<CompiledView> {
    let schema = rows().schema();
    let (name, key) = ("s".into(), Vec::new());
    let stream = Relation::Stream { name, schema, append_only: true, watermark: false, key };
    let query = dialect::parse_query(sql)?;
    Planner::new().compile("v", &[], &query, &[stream]).await
}

fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|l| l.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    if !lines.is_empty() {
        lines.remove(0);
    }
    lines.sort();
    lines
}

async fn plain(view: &CompiledView) -> Vec<String> {
    let state = Planner::new().session(vec![]).unwrap();
    let table = |_: &str, _| {
        let rows = rows();
        Ok(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?) as Arc<_>)
    };
    let plan = CompiledView::over(&view.plan, &Clocks::default(), &table).unwrap();
    let physical = state.create_physical_plan(&plan).await.unwrap();
    sorted(&collect(physical, state.task_ctx()).await.unwrap())
}

fn circuit(view: &CompiledView) -> Vec<String> {
    let mut circuit = view.circuit(Lsn(0)).unwrap();
    let of = |columns: &[usize]| vec![Delta::insert(rows().project(columns).unwrap())];
    let deltas: Vec<_> = view.sources.iter().map(|s| of(&s.columns)).collect();
    let (clocks, settled) = (Clocks::default(), Lsn(1));
    circuit.step(&Input { deltas: &deltas, clocks: &clocks, settled }).unwrap();
    let snapshot = circuit.snapshot();
    let rows = snapshot.output.read(&snapshot.batches_after(Lsn(0)), "v").unwrap();
    let schema: SchemaRef = SchemaRef::clone(&view.core_schema);
    sorted(&[rows.unwrap_or_else(|| RecordBatch::new_empty(schema))])
}

#[tokio::test]
async fn a_bad_row_does_not_stop_a_view() {
    let expressions = [
        "to_timestamp(w)",
        "to_timestamp_seconds(w)",
        "to_timestamp_millis(w)",
        "to_timestamp_micros(w)",
        "to_timestamp_nanos(w)",
        "to_timestamp(n)",
        "to_timestamp(f)",
        "to_date(w)",
        "to_unixtime(w)",
        "from_unixtime(n)",
        "make_date(n, m, m)",
        "make_date(2024, m, 30)",
        "make_time(n, m, m)",
        "to_char(ts, w)",
        "to_char(ts, '%Q %')",
        "substr(w, 1, m)",
        "substring(w, m, m)",
        "split_part(w, '-', m)",
        "chr(n)",
        "chr(m)",
        "decode(w, 'hex')",
        "decode(w, 'base64')",
        "encode(w, 'hex')",
        "repeat('ab', m)",
        "repeat('ab', n)",
        "lpad(w, m, 'x')",
        "rpad(w, n, 'x')",
        "left(w, n)",
        "right(w, n)",
        "factorial(m)",
        "factorial(n)",
        "regexp_like('a', w)",
        "regexp_match('a', w)",
        "regexp_replace('a', w, 'b')",
        "regexp_count('a', w)",
        "'a' ~ w",
        "'a' !~* w",
        "w ~ '['",
        "date_bin(INTERVAL '1 hour', ts)",
        "date_trunc('month', ts)",
        "date_part('year', ts)",
        "abs(n)",
        "gcd(n, m)",
        "lcm(n, m)",
        "power(n, m)",
        "power(m, n)",
        "round(d, 3)",
        "round(f, 3)",
        "trunc(f, 2)",
        "levenshtein(w, 'x')",
        "overlay(w placing 'x' from m for m)",
        "strpos(w, 'x')",
        "translate(w, '2', 'x')",
        "to_hex(n)",
        "n / m",
        "n % m",
        "d + d",
        "d - -d",
        "d * d",
        "d / m",
        "d % m",
        "ts + INTERVAL '1 day'",
        "ts - INTERVAL '1 month'",
        "ts - TIMESTAMP '2024-01-01'",
        "CAST(n AS timestamp)",
        "CAST(f AS integer)",
        "CAST(f AS numeric(10,2))",
        "CAST(d AS integer)",
        "CAST(n AS smallint)",
        "CAST(n AS date)",
        "CAST(ts AS text)",
        "CAST(ts AS date)",
        "CAST(w AS timestamptz)",
        "CAST(w AS date)",
        "CAST(w AS boolean)",
        "CAST(w AS bytea)",
        "CAST(d AS numeric(38,10))",
        "CAST(n AS numeric(5,1))",
        "ts > '2024-01-01'",
        "CAST(w AS interval)",
        "sqrt(n)",
        "ln(n)",
        "log(m, n)",
        "array_element(make_array(n, m), m)",
        "CAST(ts AS time)",
        "date_trunc('month', CAST(w AS date))",
        "CAST(w AS date) + INTERVAL '1 month'",
        "CAST(n AS timestamp) + INTERVAL '1 day'",
        "chr(m) || chr(n)",
    ];
    let mut wrong = Vec::new();
    for expression in expressions {
        let sql = format!("SELECT id, {expression} FROM s");
        let view = match compile(&sql).await {
            Ok(view) => view,
            Err(error) => {
                wrong.push(format!("{expression}: {error}"));
                continue;
            }
        };
        let outcome = tokio::spawn(async move {
            let kept = circuit(&view);
            (kept, plain(&view).await)
        });
        match outcome.await {
            Ok((kept, plain)) if kept == plain && kept.len() == 5 => {}
            Ok((kept, plain)) => wrong.push(format!("{expression}: {kept:?} {plain:?}")),
            Err(error) => wrong.push(format!("{expression}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn good_rows_keep_their_values() {
    let sql = "SELECT id, to_timestamp_micros(w) AS t, d + 1 AS d, substr(w, 1, m) AS w FROM s \
               WHERE id < 4";
    let view = compile(sql).await.unwrap();
    let names: Vec<_> = view.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["id", "t", "d", "w"]);
    let expected = ["|1|2024-02-29T10:00:00|101|2|", "|2||||", "|3||-99|1|"];
    assert_eq!(circuit(&view), expected);
    assert_eq!(plain(&view).await, expected);
    let view = compile("SELECT d + 1, abs(n) FROM s").await.unwrap();
    let names: Vec<_> = view.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["?column?", "abs"]);
}

#[tokio::test]
async fn views_refuse_constructs_by_the_names_that_sql_has() {
    for (sql, name) in [
        ("SELECT a.id FROM s AS a ASOF JOIN s AS b USING (id)", "an ASOF JOIN without ON"),
        ("SELECT a.id FROM s AS a ASOF JOIN s AS b WHERE a.id > b.id", "an ASOF JOIN without ON"),
        (
            "SELECT a.id FROM s AS a JOIN s FOR SYSTEM_TIME AS OF PROCTIME() AS b ON a.id = b.id",
            "a join as of processing time with the stream s, which has no primary key,",
        ),
        (
            "SELECT a.id FROM s AS a JOIN s FOR SYSTEM_TIME AS OF a.at AS b ON a.id = b.id",
            "this FOR SYSTEM_TIME AS OF",
        ),
        ("SELECT a.id FROM s AS a CROSS APPLY (SELECT 1) AS b", "APPLY"),
        ("SELECT id, random() FROM s", "random()"),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a FROM r) SELECT a FROM r",
            "WITH RECURSIVE",
        ),
    ] {
        let text = compile(sql).await.unwrap_err().to_string();
        assert!(text.starts_with(name), "{sql}: {text}");
    }
    let by_peers = "SELECT last_value(n) OVER (ORDER BY m) FROM s";
    let text = compile(by_peers).await.unwrap_err().to_string();
    assert!(text.contains("depends on the order of equal rows"), "{text}");
}

/// What SQL says, not what any plan of ours says.
#[tokio::test]
async fn joins_and_subqueries_answer_as_sql_says() {
    let few = "(VALUES (1), (3), (3), (NULL)) AS k(x)";
    let known = "(VALUES (1), (3)) AS k(x)";
    let ids = "(SELECT id % 3 AS r FROM s)";
    for (sql, rows) in [
        (format!("SELECT id FROM s WHERE id IN (SELECT x FROM {few})"), vec!["|1|", "|3|"]),
        (format!("SELECT id FROM s WHERE id NOT IN (SELECT x FROM {few})"), vec![]),
        (
            format!("SELECT id FROM s WHERE id NOT IN (SELECT x FROM {known})"),
            vec!["|2|", "|4|", "|5|"],
        ),
        (
            format!("SELECT id, id IN (SELECT x FROM {few}) AS i FROM s WHERE id < 3"),
            vec!["|1|true|", "|2||"],
        ),
        (
            format!("SELECT nullif(id, 2) IN (SELECT x FROM {known}) AS i FROM s WHERE id < 4"),
            vec!["||", "|true|", "|true|"],
        ),
        (
            format!("SELECT id, x FROM s LEFT JOIN {few} ON id = x WHERE id < 4"),
            vec!["|1|1|", "|2||", "|3|3|", "|3|3|"],
        ),
        (
            format!("SELECT id, x FROM s FULL JOIN {few} ON id = x AND id < 2"),
            vec!["|1|1|", "|2||", "|3||", "|4||", "|5||", "||3|", "||3|", "|||"],
        ),
        (format!("SELECT r FROM {ids} INTERSECT ALL SELECT x % 3 FROM {few}"), vec!["|0|", "|1|"]),
        (
            format!("SELECT r FROM {ids} EXCEPT ALL SELECT x % 3 FROM {known}"),
            vec!["|1|", "|2|", "|2|"],
        ),
        (
            format!("SELECT DISTINCT ON (r) r, r + 1 AS t FROM {ids} WHERE r > 0"),
            vec!["|1|2|", "|2|3|"],
        ),
        (
            format!("SELECT r, count(*) AS c FROM {ids} GROUP BY ROLLUP (r)"),
            vec!["|0|1|", "|1|2|", "|2|2|", "||5|"],
        ),
        (
            "SELECT id, row_number() OVER (PARTITION BY id % 2 ORDER BY id DESC) AS n FROM s"
                .into(),
            vec!["|1|3|", "|2|2|", "|3|2|", "|4|1|", "|5|1|"],
        ),
        (
            "SELECT a.id, b.id AS i FROM s AS a ASOF LEFT JOIN s AS b ON a.id % 2 = b.id % 2 \
             AND a.id > b.id"
                .into(),
            vec!["|1||", "|2||", "|3|1|", "|4|2|", "|5|3|"],
        ),
        (
            "SELECT a.id, b.x FROM s AS a ASOF JOIN (VALUES (2, 'a'), (4, 'b'), (4, 'c')) AS b(t, x) \
             MATCH_CONDITION (b.t <= a.id) WHERE a.id <> 3"
                .into(),
            vec!["|2|a|", "|4|c|", "|5|c|"],
        ),
        (
            "SELECT a.id, b.t FROM s AS a ASOF JOIN (VALUES (2), (4)) AS b(t) ON a.id < b.t".into(),
            vec!["|1|2|", "|2|4|", "|3|4|"],
        ),
        (
            "SELECT id FROM s ORDER BY id % 3 FETCH FIRST 2 ROWS WITH TIES".into(),
            vec!["|1|", "|3|", "|4|"],
        ),
        (
            "SELECT id % 3 AS r FROM s ORDER BY r DESC OFFSET 1 FETCH FIRST 2 ROWS WITH TIES".into(),
            vec!["|1|", "|1|", "|2|"],
        ),
        (
            format!("SELECT id, (SELECT x FROM {few} WHERE x = id) AS y FROM s WHERE id < 4"),
            vec!["|1|1|", "|2||", "|3||"],
        ),
        (
            "SELECT id, (SELECT b.m FROM s AS b WHERE b.m = a.id ORDER BY b.id DESC LIMIT 1) AS y \
             FROM s AS a WHERE id < 4"
                .into(),
            vec!["|1|1|", "|2|2|", "|3|3|"],
        ),
        (
            "SELECT string_agg(CAST(id AS text), '<' ORDER BY id) AS a, \
             string_agg(CAST(id AS text), '>' ORDER BY id DESC) AS b, nth_value(m, 2 ORDER BY m) AS c \
             FROM s WHERE id > 2"
                .into(),
            vec!["|3<4<5|5>4>3|2|"],
        ),
        (
            "SELECT r, string_agg(CAST(id AS text), '' ORDER BY id DESC) AS t, grouping(r) AS g \
             FROM (SELECT id, id % 2 AS r FROM s) AS a GROUP BY ROLLUP (r)"
                .into(),
            vec!["|0|42|0|", "|1|531|0|", "||54321|1|"],
        ),
        (
            "SELECT string_agg(w, '+' ORDER BY id DESC) AS t FROM s WHERE id > 2".into(),
            vec!["|2024-01-01++1|"],
        ),
    ] {
        let view = compile(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let mut rows: Vec<&str> = rows;
        rows.sort_unstable();
        assert_eq!(circuit(&view), rows, "{sql}");
        assert_eq!(plain(&view).await, rows, "{sql}, plain");
    }
}

#[tokio::test]
async fn state_is_bounded_where_sql_bounds_it() {
    let two = "SELECT id, n FROM (SELECT id, n, row_number() OVER (PARTITION BY id ORDER BY n DESC) \
               AS k FROM s) AS a WHERE k <= 2";
    let join =
        "SELECT s.id FROM s JOIN (SELECT d FROM s ORDER BY d DESC LIMIT 3) AS a ON s.d = a.d";
    for (sql, expected, most) in [
        (
            two,
            "First 2 rows by [id@0] (a trace of them by key); state grows with its keys, of which it \
               keeps the first rows",
            2 * 5,
        ),
        (
            join,
            "Recompute ORDER BY with LIMIT by [all rows] (traces of input and output by key); \
                   state is bounded",
            1000,
        ),
        (
            "SELECT id FROM s WHERE ts > now() - INTERVAL '1 hour'",
            "the clock); state is bounded",
            99,
        ),
        ("SELECT id % 2, median(n) FROM s GROUP BY 1", "state grows with its groups", 0),
        ("SELECT a.id FROM s AS a JOIN s AS b USING (id)", "state grows with both sides", 1000),
    ] {
        let view = compile(sql).await.unwrap();
        let mut circuit = view.circuit(Lsn(0)).unwrap();
        assert!(circuit.explain().contains(expected), "{}", circuit.explain());
        for _ in 0..12 {
            let of = |columns: &[usize]| vec![Delta::insert(rows().project(columns).unwrap())];
            let deltas: Vec<_> = view.sources.iter().map(|s| of(&s.columns)).collect();
            let (clocks, settled) = (Clocks::default(), Lsn(1));
            circuit.step(&Input { deltas: &deltas, clocks: &clocks, settled }).unwrap();
        }
        let (sizes, names) = (circuit.sizes(), circuit.keepers());
        assert_eq!(sizes.len(), names.len(), "{names:?}");
        let kept: usize = circuit.operator_traces().into_iter().map(|t| net(t.batches())).sum();
        assert!(kept <= most, "{kept} rows: {sql}");
    }
}

/// The rows that a trace holds once equal ones are added up.
fn net(batches: &[Arc<kaplan_circuit::Batch>]) -> usize {
    let deltas: Vec<_> = batches.iter().flat_map(|b| b.deltas().unwrap()).collect();
    let mut counts = std::collections::BTreeMap::<String, i64>::new();
    for delta in &deltas {
        for row in 0..delta.len() {
            let text = pretty_format_batches(&[delta.rows.slice(row, 1)]).unwrap().to_string();
            *counts.entry(text).or_default() += delta.weight(row);
        }
    }
    counts.values().map(|n| n.unsigned_abs() as usize).sum()
}

#[tokio::test]
async fn long_literals_keep_their_digits() {
    let sql = "SELECT id, 0.12345678901234567891 AS a, \
               CAST(-12345678901234567890.5 AS numeric(38, 1)) AS b, f > 0.5 AS c FROM s WHERE id = 3";
    let view = compile(sql).await.unwrap();
    assert_eq!(circuit(&view), ["|3|0.12345678901234567891|-12345678901234567890.5|true|"]);
}
