//! The dialect as tables: SQL in, outcome out; rewritten windows run on rows; broken texts never
//! panic.

use super::*;
use crate::catalog::{Architecture, BatchMode, ColumnDef, OnViolation};
use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{SessionConfig, SessionContext};
use kaplan_base::{Lsn, StreamId};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

fn one(text: &str) -> Statement {
    let mut parsed = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(parsed.len(), 1, "{text}");
    parsed.remove(0).statement
}

fn stream(text: &str) -> CreateStream {
    match one(text) {
        Statement::CreateStream(stream) => stream,
        other => panic!("{other:?}"),
    }
}

const CLICKS: &str = "CREATE STREAM IF NOT EXISTS Clicks (
    user_id BIGINT NOT NULL, \"Url\" TEXT DEFAULT 'a;b', -- a comment
    price NUMERIC(10, 2) CHECK (price >= 0) ON VIOLATION QUARANTINE,
    ts TIMESTAMPTZ,
    WATERMARK FOR ts AS ts - INTERVAL '5 minutes',
    UNIQUE (user_id, ts) WITHIN '1 day',
    CONSTRAINT named CHECK (user_id > 0) ON VIOLATION DROP,
    CHECK (clicks.price < 1000)
) WITH (retention = '30 days', partitions = 4)";

#[test]
fn a_stream_with_everything() {
    let stream = stream(CLICKS);
    assert!(stream.if_not_exists && stream.append_only);
    assert_eq!(stream.name, "clicks");
    let columns: Vec<_> =
        stream.columns.iter().map(|c| (c.name.as_str(), c.sql_type.as_str(), c.nullable)).collect();
    assert_eq!(
        columns,
        [
            ("user_id", "bigint", false),
            ("Url", "text", true),
            ("price", "numeric(10,2)", true),
            ("ts", "timestamp with time zone", true),
        ]
    );
    assert_eq!(stream.columns[1].default.as_deref(), Some("'a;b'"));
    assert_eq!(stream.watermark.as_ref().unwrap().delay_us, 300_000_000);
    assert_eq!(stream.unique.as_ref().unwrap().within_us, 86_400_000_000);
    let checks: Vec<_> = stream
        .checks
        .iter()
        .map(|c| (c.name.as_str(), c.condition.as_str(), c.on_violation))
        .collect();
    assert_eq!(
        checks,
        [
            ("clicks_check", "price >= 0", OnViolation::Quarantine),
            ("named", "user_id > 0", OnViolation::Drop),
            ("clicks_check1", "clicks.price < 1000", OnViolation::Reject),
        ]
    );
    assert_eq!(stream.options["retention"], "30 days");
    assert_eq!(stream.options["partitions"], "4");
    let schema = schema_of(&stream.into_def(StreamId(1), Lsn::ZERO)).unwrap();
    assert_eq!(schema.field(2).data_type(), &DataType::Decimal128(10, 2));
    assert!(!schema.field(0).is_nullable());
}

#[test]
fn a_table_and_the_spellings_of_a_stream() {
    let table = stream("create table public.t (a int primary key, b text)");
    assert_eq!((table.primary_key.as_slice(), table.append_only), (&["a".to_owned()][..], false));
    assert!(!table.columns[0].nullable);
    let table = stream("create table t (a int, b text null default null, primary key (b, a))");
    assert_eq!(table.primary_key, ["b", "a"]);
    assert!(table.columns.iter().all(|c| !c.nullable));
    let spelled = stream("create table t (ts timestamp) append only watermark for ts as ts");
    assert!(spelled.append_only);
    assert_eq!(spelled.watermark.unwrap().delay_us, 0);
    assert!(stream("create table t (watermark int, \"check\" int)").watermark.is_none());
}

#[test]
fn views() {
    let text = "create materialized view v (a, n) with (architecture = 'lambda', \
                batch_schedule = '0 2 * * *', batch_mode = 'full') as\n  \
                Select A, /* why */ count(*) from T group by A -- end\n;";
    let Statement::CreateView(view) = one(text) else { panic!() };
    assert_eq!(view.query_text, "Select A, /* why */ count(*) from T group by A");
    assert_eq!(view.architecture, Architecture::Lambda);
    assert_eq!(view.batch_schedule.as_deref(), Some("0 2 * * *"));
    assert_eq!(view.batch_mode, BatchMode::Full);
    assert_eq!(view.columns, ["a", "n"]);
    assert_eq!(relations(&view.query), ["t"]);
    let Statement::CreateView(view) = one("create materialized view ünï as select 'é', 1 -- ß")
    else {
        panic!()
    };
    assert_eq!((view.name.as_str(), view.query_text.as_str()), ("ünï", "select 'é', 1"));
    assert_eq!(view.architecture, Architecture::Kappa);
}

#[test]
fn several_statements_keep_their_text() {
    let parsed = parse(";; select 1 ; -- x\n insert into t values (1, ';') ;; flush").unwrap();
    let texts: Vec<_> = parsed.iter().map(|p| p.text.as_str()).collect();
    assert_eq!(texts, ["select 1", "insert into t values (1, ';')", "flush"]);
    assert_eq!(parse(" -- nothing\n").unwrap(), []);
}

#[test]
fn verbs() {
    let set = |name: &str, value: &str, local| Statement::Set {
        name: name.into(),
        value: value.into(),
        local,
    };
    let load = |format, path: &str| Load {
        target: "t".into(),
        columns: vec![],
        path: path.into(),
        format,
        header: true,
        overwrite: false,
    };
    let table = [
        ("SHOW STREAMS", Statement::Show(Show::Streams)),
        ("show materialized views", Statement::Show(Show::MaterializedViews)),
        ("show indexes from s.t", Statement::Show(Show::Indexes(Some("s.t".into())))),
        ("show columns from public.t", Statement::Show(Show::Columns("t".into()))),
        ("truncate table t, s.u", Statement::Truncate(vec!["t".into(), "s.u".into()])),
        (
            "alter table if exists t rename a to b",
            Statement::Alter(Alter {
                object: Object::Table,
                if_exists: true,
                name: "t".into(),
                action: AlterAction::RenameColumn { from: "a".into(), to: "b".into() },
            }),
        ),
        (
            "alter table t add column c varchar default 'x'",
            Statement::Alter(Alter {
                object: Object::Table,
                if_exists: false,
                name: "t".into(),
                action: AlterAction::AddColumn {
                    if_not_exists: false,
                    column: Box::new(ColumnDef {
                        default: Some("'x'".into()),
                        ..ColumnDef::new("c", "text")
                    }),
                },
            }),
        ),
        (
            "create index i on v (a desc, b) include (c)",
            Statement::CreateIndex(CreateIndex {
                if_not_exists: false,
                name: Some("i".into()),
                relation: "v".into(),
                columns: vec!["a".into(), "b".into(), "c".into()],
                key: vec!["a desc".into(), "b".into()],
                include: vec!["c".into()],
            }),
        ),
        (
            "create schema if not exists s",
            Statement::CreateNamespace {
                object: Object::Schema,
                if_not_exists: true,
                name: "s".into(),
            },
        ),
        ("show workers", Statement::Show(Show::Workers)),
        ("show batch runs", Statement::Show(Show::BatchRuns { view: None })),
        ("show all", Statement::Show(Show::All)),
        ("show server_version", Statement::Show(Show::Variable("server_version".into()))),
        (
            "SHOW TRANSACTION ISOLATION LEVEL",
            Statement::Show(Show::Variable("transaction_isolation".into())),
        ),
        (
            "show create materialized view v",
            Statement::Show(Show::Create(Object::View, "v".into())),
        ),
        ("describe t", Statement::Describe("t".into())),
        (
            "refresh materialized view v, w incremental",
            Statement::Refresh {
                views: vec!["v".into(), "w".into()],
                mode: BatchMode::Incremental,
            },
        ),
        (
            "replay materialized view v from lsn 7",
            Statement::Replay { view: "v".into(), from: Some(Lsn(7)) },
        ),
        ("verify materialized view v", Statement::Verify { view: "v".into(), at: None }),
        ("flush", Statement::Flush),
        ("set a.b = 'x y'", set("a.b", "x y", false)),
        ("set local search_path to public, \"X\"", set("search_path", "public, \"X\"", true)),
        ("set extra_float_digits = -3", set("extra_float_digits", "-3", false)),
        ("set time zone 'UTC'", set("timezone", "UTC", false)),
        ("set a to default", Statement::Reset("a".into())),
        ("reset all", Statement::Reset("all".into())),
        ("begin isolation level serializable", Statement::Transaction(Transaction::Begin)),
        ("start transaction read only", Statement::Transaction(Transaction::Begin)),
        ("end", Statement::Transaction(Transaction::Commit)),
        ("rollback", Statement::Transaction(Transaction::Rollback)),
        ("savepoint a", Statement::Mark(Mark::Savepoint, "a".into())),
        ("release savepoint \"B\"", Statement::Mark(Mark::Release, "B".into())),
        ("rollback work to a", Statement::Mark(Mark::RollbackTo, "a".into())),
        ("comment on table t is 'x'", Statement::Comment),
        ("copy t from 'd/*.parquet'", Statement::Load(load(Format::Parquet, "d/*.parquet"))),
        (
            "copy t (a, b) from 'x' with (format csv, header false)",
            Statement::Load(Load {
                columns: vec!["a".into(), "b".into()],
                header: false,
                ..load(Format::Csv, "x")
            }),
        ),
        (
            "load into t from 'x.jsonl' mode overwrite",
            Statement::Load(Load { overwrite: true, ..load(Format::Ndjson, "x.jsonl") }),
        ),
        (
            "drop table if exists a, \"B\" cascade",
            Statement::Drop(DropRelations {
                object: Object::Table,
                if_exists: true,
                names: vec!["a".into(), "B".into()],
                cascade: true,
            }),
        ),
        (
            "alter materialized view v set (architecture = kappa)",
            Statement::AlterView(AlterView {
                if_exists: false,
                name: "v".into(),
                options: ViewOptions {
                    architecture: Some(Architecture::Kappa),
                    ..ViewOptions::default()
                },
            }),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(one(text), expected, "{text}");
    }
}

#[test]
fn statements_that_stay_trees() {
    assert!(matches!(one("insert into t (a) select 1"), Statement::Insert(_)));
    assert!(matches!(one("update t set a = 1 where b = 2"), Statement::Update(_)));
    assert!(matches!(one("delete from t where b = 2"), Statement::Delete(_)));
    for query in ["select 1", "with a as (select 1) select * from a", "values (1)", "(select 1)"] {
        assert!(matches!(one(query), Statement::Query(_)), "{query}");
    }
    for (text, analyze, verbose) in [
        ("explain select 1", false, false),
        ("explain analyze verbose select 1", true, true),
        ("explain (analyze, verbose) select 1", true, true),
        ("explain verbose materialized view v", false, true),
        ("explain create materialized view v as select 1", false, false),
    ] {
        let Statement::Explain(explain) = one(text) else { panic!("{text}") };
        assert_eq!((explain.analyze, explain.verbose), (analyze, verbose), "{text}");
    }
}

#[test]
fn refusals_name_the_mistake_and_the_remedy() {
    use Kind::{
        DuplicateColumn, Invalid, Syntax, TooLarge, UnknownColumn, UnknownType, Unsupported,
    };
    let s = |elements: &str| format!("create stream s ({elements})");
    let v = |with: &str| format!("create materialized view v with ({with}) as select 1");
    let w = |from: &str| format!("select * from {from}");
    let deep = format!("select {}1{}", "(".repeat(40), ")".repeat(40));
    let long = format!("select 1{}", " + 1".repeat(2000));
    let calls = format!("select {}1{}", "f(".repeat(25), ")".repeat(25));
    let unions = format!("select 1{}", " union select 1".repeat(300));
    let table: Vec<(String, Kind, &str, &str)> = vec![
        ("selct 1".into(), Syntax, "expected a statement", ""),
        ("select 1 from".into(), Syntax, "found end of input", ""),
        ("select 'abc".into(), Syntax, "Unterminated", ""),
        ("select 1 1".into(), Syntax, "the end of the statement", ""),
        ("create view v with (x = 1) as select 1".into(), Unsupported, "options", "MATERIALIZED"),
        (w("t tablesample bernoulli (10)"), Unsupported, "TABLESAMPLE", "WHERE"),
        (w("(select 1) as t tablesample system (1)"), Unsupported, "TABLESAMPLE", "WHERE"),
        (w("tumble(t, ts, interval '1 h') tablesample system (1)"), Unsupported, "TABLESAMPLE", ""),
        (
            w("t where a in (select a from u tablesample system (1))"),
            Unsupported,
            "TABLESAMPLE",
            "",
        ),
        (w("generate_series(1, 2) with ordinality"), Unsupported, "WITH ORDINALITY", "row_number"),
        (w("t for update"), Unsupported, "FOR UPDATE", "leave it out"),
        ("create or replace table t (a int)".into(), Unsupported, "OR REPLACE", "DROP"),
        ("create unique index i on t (a)".into(), Unsupported, "unique", "MATERIALIZED VIEW"),
        ("create stream t as select 1".into(), Unsupported, "AS", "materialized"),
        ("create table t (a int as b, b int as a)".into(), UnknownColumn, "b", "not generated"),
        ("create table t (a int) on conflict ignore".into(), Invalid, "ON CONFLICT", "PRIMARY KEY"),
        ("alter table t add column c int not null".into(), Unsupported, "NOT NULL", "new table"),
        ("alter table t drop column c".into(), Unsupported, "drop", "RENAME"),
        ("subscribe v".into(), Unsupported, "SUBSCRIBE", "poll"),
        ("copy t to 'x'".into(), Unsupported, "COPY .. TO", "Parquet"),
        ("copy t from stdin".into(), Unsupported, "stdin", "file"),
        ("copy t from 'x.xml'".into(), Invalid, "x.xml", "FORMAT"),
        (s("a int, A text"), DuplicateColumn, "a is defined twice", ""),
        (s("a int, watermark for b as b"), UnknownColumn, "b", ""),
        (s("a int, watermark for a as a"), Invalid, "integer", "timestamp"),
        (s("a timestamp, watermark for a as b"), Invalid, "watermark of a", "AS a"),
        (s("a timestamp, watermark for a as a - interval '1 month'"), Invalid, "month", "days"),
        (s("a timestamp, watermark for a as a - interval '-1 s'"), Invalid, "ahead", ""),
        (s("a int, unique (b) within '1 day'"), UnknownColumn, "b", ""),
        (s("a int, unique (a) within '0 s'"), Invalid, "positive", ""),
        (s("a int, unique (a)"), Unsupported, "UNIQUE", "WITHIN"),
        (s("a int unique"), Unsupported, "UNIQUE", "WITHIN"),
        (s("a int primary key"), Invalid, "PRIMARY KEY", "UNIQUE (a) WITHIN"),
        (s("a int, check (b > 1)"), UnknownColumn, "b", ""),
        (s("a int, check (a in (select 1))"), Unsupported, "subqueries", ""),
        (s("a int default b"), Invalid, "column", ""),
        (s("a int, constraint c check (a>1), constraint c check (a>2)"), Invalid, "name c", ""),
        (s("_a int"), Invalid, "reserved", "platform"),
        (s("a blurb"), UnknownType, "column a", "text"),
        (s("a int references b"), Unsupported, "references", ""),
        (s("a int,"), Syntax, "column name", ""),
        (s("a"), Syntax, "data type", ""),
        ("create table t (a int, primary key (b))".into(), UnknownColumn, "b", ""),
        ("create table t (a int, primary key (a, a))".into(), DuplicateColumn, "twice", ""),
        ("create table t (a int, unique (a) within '1 d')".into(), Invalid, "UNIQUE", "STREAM"),
        ("create stream \"a/b\" (a int)".into(), Invalid, "a/b", "letters"),
        ("create stream batch.y (a int)".into(), Invalid, "reserved", "write y"),
        ("drop table a.b.c".into(), Invalid, "two parts", "schema.name"),
        (format!("create stream {} (a int)", "n".repeat(64)), Invalid, "64 bytes", ""),
        (v("speed = 1"), Invalid, "no option speed", "batch_schedule"),
        (v("architecture = 'gamma'"), Invalid, "gamma", "'lambda'"),
        (v("batch_mode = 'full'"), Invalid, "kappa", "architecture = 'lambda'"),
        (v("architecture = 'lambda', batch_schedule = 'daily'"), Invalid, "daily", "cron"),
        (w("tumble(t, ts)"), Invalid, "fit", "TUMBLE"),
        (w("tumble(t, ts, interval '1 month')"), Invalid, "month", "days"),
        (w("hop(t, ts, interval '1 s', interval '1 day')"), TooLarge, "86400", "slide"),
        (w("session(t, ts)"), Invalid, "fit", "SESSION"),
        (w("session(t partition by a, ts, interval '0 s')"), Invalid, "between", "SESSION"),
        (w("cumulate(t, ts, interval '1 s', interval '2 s')"), Unsupported, "CUMULATE", "TUMBLE"),
        ("select 1 into t".into(), Unsupported, "INTO", ""),
        ("with a as (select 1) delete from t".into(), Unsupported, "query", ""),
        (deep, TooLarge, "nested", "WITH"),
        (long, TooLarge, "tokens", "WITH"),
        (calls, TooLarge, "calls", "WITH"),
        (unions, TooLarge, "set operations", "WITH"),
    ];
    for (text, kind, message, hint) in table {
        let error = parse(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(error.kind, kind, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{text}: {error:?}");
        assert!(error.line > 0 && error.column > 0, "{text}: {error:?}");
    }
}

#[test]
fn a_syntax_error_has_its_place() {
    let error = parse("select 1;\n  create strem x (a int)").unwrap_err();
    assert_eq!((error.line, error.column, error.near.as_deref()), (2, 10, Some("strem")));
    let error = parse("select *\nfrom t where").unwrap_err();
    assert_eq!((error.line, error.column, error.near.as_deref()), (2, 13, Some("end of input")));
}

#[test]
fn relations_are_those_that_exist_outside() {
    for (query, expected) in [
        ("select * from a join B on true, batch.v", &["a", "b", "batch.v"][..]),
        ("with t as (select * from t) select * from t", &["t"]),
        ("with a as (select 1), b as (select * from a) select * from b, c", &["c"]),
        ("with recursive a as (select 1 union all select * from a, z) select * from a", &["z"]),
        ("select * from a where x in (select y from b) union select * from c", &["a", "b", "c"]),
        ("select * from (with q as (select 1) select * from q) x, q", &["q"]),
        ("select * from tumble(t, ts, interval '1 s') x, generate_series(1, 2)", &["t"]),
    ] {
        assert_eq!(relations(&parse_query(query).unwrap()), expected, "{query}");
    }
}

const TS: [Option<i64>; 4] = [Some(0), Some(61_000_000), None, Some(-1)];

fn context(zone: Option<&str>) -> SessionContext {
    let ts = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, zone.map(Into::into));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("ts", ts, true),
    ]));
    let ts =
        TimestampMicrosecondArray::from(TS.to_vec()).with_timezone_opt(zone.map(Arc::<str>::from));
    let ids = Int64Array::from(vec![1, 2, 3, 4]);
    let batch = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(ts)]).unwrap();
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_batch("t", batch).unwrap();
    context.register_udf(hop_starts());
    session_bounds().into_iter().for_each(|bound| context.register_udwf(bound));
    context
}

/// Polls until it is done: plans of one partition over memory need no runtime.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// Runs the rewritten query and gives its rows as lines.
fn rows(sql: &str, zone: Option<&str>) -> Vec<String> {
    let query = parse_query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let context = context(zone);
    let batches = run(async { context.sql(&query.to_string()).await?.collect().await })
        .unwrap_or_else(|e| panic!("{query}: {e}"));
    let table = pretty_format_batches(&batches).unwrap().to_string();
    let cells = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        cells.join(" ").replace(['Z'], "")
    };
    table.lines().filter(|l| l.starts_with('|')).skip(1).map(cells).collect()
}

#[test]
fn tumbling_windows() {
    for zone in [None, Some("UTC")] {
        let sql = "select id, window_start, window_end from TUMBLE(t, ts, INTERVAL '1 minute') \
                   order by t.id";
        assert_eq!(
            rows(sql, zone),
            [
                "1 1970-01-01T00:00:00 1970-01-01T00:01:00",
                "2 1970-01-01T00:01:00 1970-01-01T00:02:00",
                "4 1969-12-31T23:59:00 1970-01-01T00:00:00",
            ]
        );
        let offset = "select x.id, window_start, window_end from \
                      tumble(t, ts, '1 minute', interval '-50 seconds') as x order by 1";
        assert_eq!(
            rows(offset, zone),
            [
                "1 1969-12-31T23:59:10 1970-01-01T00:00:10",
                "2 1970-01-01T00:00:10 1970-01-01T00:01:10",
                "4 1969-12-31T23:59:10 1970-01-01T00:00:10",
            ]
        );
    }
}

#[test]
fn the_time_of_arrival_is_a_call_and_no_column() {
    assert!(["proctime()", " PROCTIME ( ) ", "(proctime())"].iter().all(|text| is_proctime(text)));
    assert!(["proctime", "(proctime)", "proctime() + a"].iter().all(|text| !is_proctime(text)));
}

#[test]
fn session_windows() {
    let one = [
        "1 1970-01-01T00:00:00 1970-01-01T00:01:00",
        "2 1970-01-01T00:01:01 1970-01-01T00:02:01",
        "4 1969-12-31T23:59:59.999999 1970-01-01T00:00:59.999999",
    ];
    let joined = [
        "1 1969-12-31T23:59:59.999999 1970-01-01T00:02:02",
        "2 1969-12-31T23:59:59.999999 1970-01-01T00:02:02",
        "4 1969-12-31T23:59:59.999999 1970-01-01T00:02:02",
    ];
    for zone in [None, Some("UTC")] {
        let select = "select t.id, window_start, window_end from";
        for (window, expected) in [
            ("SESSION(t PARTITION BY id, ts, INTERVAL '1 minute')", one),
            ("TABLE(SESSION(TABLE t PARTITION BY (id), DESCRIPTOR(ts), INTERVAL '1 minute'))", one),
            ("session((select * from t) partition by id, ts, '1 minute') as t", one),
            ("session(t, ts, interval '61 seconds')", joined),
        ] {
            assert_eq!(rows(&format!("{select} {window} order by 1"), zone), expected, "{window}");
        }
        let gap =
            "select t.id, window_start, window_end from session(t, ts, '60 seconds') order by 1";
        assert_eq!(rows(gap, zone)[1], one[1], "a gap of 61 seconds ends a session of 60");
    }
}

#[test]
fn hopping_windows() {
    for zone in [None, Some("UTC")] {
        let sql = "select id, window_start, window_end \
                   from HOP(t, ts, interval '30 seconds', interval '1 minute') order by 1, 2";
        assert_eq!(
            rows(sql, zone),
            [
                "1 1969-12-31T23:59:30 1970-01-01T00:00:30",
                "1 1970-01-01T00:00:00 1970-01-01T00:01:00",
                "2 1970-01-01T00:00:30 1970-01-01T00:01:30",
                "2 1970-01-01T00:01:00 1970-01-01T00:02:00",
                "4 1969-12-31T23:59:00 1970-01-01T00:00:00",
                "4 1969-12-31T23:59:30 1970-01-01T00:00:30",
            ]
        );
    }
}

#[test]
fn windows_are_found_everywhere() {
    let flink = "select count(*) from TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))";
    assert_eq!(rows(flink, None), ["3"]);
    let nested = "with w as (select * from tumble((select * from t where id < 3), ts, '1 hour')) \
                  select (select count(*) from w) a, \
                  (select count(*) from hop(t, ts, '1 s', '2 s')) b \
                  union all select 0, count(*) from t join tumble(t, ts, '1 s') x on x.id = t.id \
                  order by 1 desc";
    assert_eq!(rows(nested, None), ["2 6", "0 3"]);
    let columns = "select * from tumble(t, ts, '1 hour') where id = 1";
    assert_eq!(rows(columns, None)[0].split(' ').count(), 4);
    let Statement::Insert(insert) = one("insert into x select id from tumble(t, ts, '1 s')") else {
        panic!()
    };
    assert!(insert.to_string().contains("date_bin"), "{insert}");
}

#[test]
fn rewriting_twice_changes_nothing() {
    let mut query = parse_query("select * from hop(t, ts, '1 s', '2 s') x").unwrap();
    let before = query.to_string();
    rewrite(&mut query).unwrap();
    assert_eq!(query.to_string(), before);
    assert_eq!(parse_query(&before).unwrap().to_string(), before);
}

/// A small generator, so that a failure is the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }
}

#[test]
fn broken_texts_do_not_panic() {
    let seeds = [
        CLICKS,
        "create materialized view v (a) with (architecture = 'lambda') as select a, 'é' from \
         table(tumble(table t, descriptor(ts), interval '1' minute)) w group by a having sum(b) > 1",
        "with recursive a as (select case when x then 1 end from b, (select 2) c) select * from a",
        "copy t (a) from 'x.csv' with (format csv, header); load into t from 'a.parquet' mode append",
        "refresh materialized view a, b full; replay materialized view v from lsn 1; set a = 'b', c",
        "explain (analyze) select * from hop(t, ts, interval '1 s', interval '1 h 30 min'); begin",
        "insert into t values (1, $$x$$, E'\\n', U&'\\0041'), (-1.5e3, null, true, \"q\"\"q\")",
    ];
    let pieces = [
        "(",
        ")",
        ",",
        ";",
        "'",
        "\"",
        "--",
        "/*",
        "*/",
        "interval",
        "as",
        "from",
        "select",
        "é",
        "\u{0}",
        "with",
        "$$",
        "1e999",
        "-",
        "[",
        "]",
        "::",
        "table",
        "(((((",
        ".",
        "\n",
        "tumble(",
        "union",
        "within",
        "check",
        "not",
        "null",
        "default",
        "99999999999999999999",
    ];
    let mut random = Random(7);
    for round in 0..4_000 {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            match random.below(3) {
                0 => drop(text.drain(at..(at + random.below(12)).min(text.len()))),
                1 => text.truncate(at),
                _ => {
                    let piece: Vec<char> = pieces[random.below(pieces.len())].chars().collect();
                    text.splice(at..at, piece);
                }
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(parsed) = parse(&text) {
            assert!(parsed.iter().all(|p| text.contains(&p.text)), "{text}");
        }
    }
}

#[test]
fn deep_and_long_texts_end_quickly() {
    for (open, inner, close) in [
        ("(", "a", ")"),
        ("(select * from ", "a", ") x"),
        ("case when ", "a", " then 1 end"),
        ("not ", "a", ""),
        ("- ", "1", ""),
        ("array[", "1", "]"),
        ("f(", "1", ")"),
        ("cast(", "1", " as int)"),
        ("exists (select ", "1", ")"),
    ] {
        for depth in [10, 25, 31, 500, 100_000] {
            let nested = format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
            for prefix in ["select ", "select * from ", "select 1 where a in ", ""] {
                let _ = parse(&format!("{prefix}{nested}"));
            }
        }
    }
    for link in
        [" + 1", " and a", " || f(a, b)", "::int", "[1]", ".a", " is null", " union select 1"]
    {
        for length in [100, 600, 100_000] {
            let _ = parse(&format!("select 1{}", link.repeat(length)));
        }
    }
    let rows = ", (-1, 'x', 1 + 2)".repeat(20_000);
    assert!(parse(&format!("insert into t values (1, 'x', 2){rows}")).is_ok());
}

#[test]
fn long_literals_keep_their_digits() {
    let written = |text: &str| match one(text) {
        Statement::Insert(insert) => insert.to_string(),
        Statement::Query(query) => query.to_string().replace(" AS \"?column?\"", ""),
        other => panic!("{other:?}"),
    };
    for (text, rewritten) in [
        (
            "INSERT INTO t VALUES (1.5, -0.12345678901234567891), (2.5, 3), (3.5, NULL)",
            "INSERT INTO t VALUES (1.5, '-0.12345678901234567891'), (2.5, '3'), (3.5, NULL)",
        ),
        (
            "INSERT INTO t VALUES (0.12345678901234567891), (1.5 * 2)",
            "INSERT INTO t VALUES (0.12345678901234567891), (1.5 * 2)",
        ),
        (
            "SELECT 0.12345678901234567891 AS a, 0.30000000000000004",
            "SELECT CAST('0.12345678901234567891' AS NUMERIC(21,20)) AS a, 0.30000000000000004",
        ),
        (
            "SELECT CAST(12345678901234567.5 AS NUMERIC(38,1)) + 1",
            "SELECT CAST('12345678901234567.5' AS NUMERIC(38,1)) + 1",
        ),
        ("SELECT f > 3.14159265358979323846 FROM t", "SELECT f > 3.14159265358979323846 FROM t"),
    ] {
        assert_eq!(written(text), rewritten);
    }
}
