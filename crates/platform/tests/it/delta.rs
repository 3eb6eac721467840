//! Sinks to Delta tables, read back by another reader: every change once, over restarts, in a folder
//! and in a bucket. And Delta tables as sources, written by another writer.

use crate::files::Bucket;
use crate::sinks::settled;
use crate::support::Running;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {error}")),
    }
}

/// Python with `deltalake`, in the environment that the lake's tests make; none where it cannot be
/// had.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let venv = cache.or(home).unwrap().join("kaplan/venv");
    let python = venv.join("bin/python");
    let imports = ["-c", "import deltalake, pyarrow"];
    let made = run(Command::new(&python).args(imports)).or_else(|_| {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&python).args(pip).args(["deltalake", "pyarrow"]))
    });
    if let Err(why) = made {
        assert!(std::env::var_os("CI").is_none(), "CI needs deltalake for Python: {why}");
        eprintln!("left out: no deltalake for Python");
        return None;
    }
    Some(python)
}

/// The lines of the table.
fn read(python: &Path, table: &str, options: &[String]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_delta.py");
    let mut read = Command::new(python);
    read.arg(script).arg(table).args(options);
    let text = tokio::task::block_in_place(|| run(&mut read)).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The rows among the lines.
fn rows(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).filter(|line| !line.starts_with("app ")).collect()
}

const SHOP: &str = "
    CREATE STREAM orders (id bigint, customer text, amount numeric(10, 2));
    CREATE TABLE people (name text PRIMARY KEY, age int);
    CREATE MATERIALIZED VIEW sales AS
      SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer;";

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_a_table_and_a_view_in_tables_of_a_folder() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |table: &str| folder.path().join(table).display().to_string();
    let (dir, mut k) = Running::start(SHOP).await;
    k.sql("INSERT INTO orders VALUES (0, 'ada', 1.00), (0, NULL, 2.00)").await;
    k.sql(&format!(
        "CREATE SINK orders_out FROM orders WITH (connector = 'delta', path = '{}',
           commit.interval.sec = 1);
         CREATE SINK people_out FROM people WITH (connector = 'delta', path = '{}',
           type = 'upsert', commit.interval.sec = 1);
         CREATE SINK sales_out FROM sales WITH (connector = 'deltalake', location = 'file://{}',
           type = 'upsert', primary_key = 'customer', commit.interval.sec = 1)",
        at("orders"),
        at("people"),
        at("sales"),
    ))
    .await;
    for round in 1..5 {
        k.sql(&format!(
            "INSERT INTO orders VALUES ({round}, 'ada', 1.25), ({round}, 'c{round}', 2);
             INSERT INTO orders VALUES ({round}, NULL, 0.5);
             INSERT INTO people VALUES ('p{round}', {round}), ('q', {round}), ('r{round}', 0);
             DELETE FROM people WHERE name = 'r{}'",
            round - 1
        ))
        .await;
        if round % 2 == 0 {
            settled(&mut k).await;
        }
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    settled(&mut k).await;
    for (table, query) in [
        ("orders", "SELECT id, customer, amount FROM orders"),
        ("people", "SELECT name, age FROM people"),
        ("sales", "SELECT customer, n, total FROM sales"),
    ] {
        let mut expected = k.table(query).await;
        expected.sort();
        let found = read(&python, &at(table), &[]);
        assert_eq!(rows(&found), expected, "{table}");
        assert_eq!(found.iter().filter(|line| line.starts_with("app ")).count(), 1, "{found:?}");
    }
    // Dropped and created again it is another writer: the table gets its rows once more by key.
    k.sql("DROP SINK people_out").await;
    k.sql(&format!(
        "CREATE SINK people_out FROM people WITH (connector = 'delta', path = '{}',
           type = 'upsert', commit.interval.sec = 1)",
        at("people")
    ))
    .await;
    settled(&mut k).await;
    let mut expected = k.table("SELECT name, age FROM people").await;
    expected.sort();
    assert_eq!(rows(&read(&python, &at("people"), &[])), expected);
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_and_what_is_refused() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |table: &str| folder.path().join(table).display().to_string();
    let (_dir, mut k) = Running::start(
        "CREATE STREAM t (i int, b boolean, d double precision, day date, at timestamptz, w timestamp,
           doc jsonb, tags text[], u uuid, spell interval)",
    )
    .await;
    k.sql(&format!("CREATE SINK t_out FROM t WITH (connector = 'delta', path = '{}')", at("t")))
        .await;
    k.sql(
        "INSERT INTO t VALUES (7, true, 1.5, '2024-01-31', '2024-01-31T12:00:00Z',
           '2024-01-31T12:00:00.000001', '{\"x\": [1, null]}', ARRAY['a', 'b'],
           '00000000-0000-0000-0000-000000000001', '1 day')",
    )
    .await;
    settled(&mut k).await;
    let lines = read(&python, &at("t"), &[]);
    let row = "7|true|1.5|2024-01-31|2024-01-31T12:00:00+00:00|2024-01-31T12:00:00.000001|\
               {\"x\": [1, null]}|['a', 'b']|00000000-0000-0000-0000-000000000001|";
    assert!(rows(&lines)[0].starts_with(row), "{lines:?}");
    let path = at("other");
    for (sql, word) in [
        ("CREATE SINK s FROM t WITH (connector = 'delta')".to_owned(), "one path or one location"),
        ("CREATE SINK s FROM t WITH (connector = 'delta', path = 'x')".into(), "absolute"),
        (
            "CREATE SINK s FROM t WITH (connector = 'delta', location = 'ftp://x/y')".into(),
            "not possible",
        ),
        (
            format!(
                "CREATE SINK s FROM t WITH (connector = 'delta', path = '{path}', topic = 'x')"
            ),
            "option topic",
        ),
        (
            format!(
                "CREATE SINK s AS SELECT i AS \"a b\" FROM t
                   WITH (connector = 'delta', path = '{path}', force_append_only = 'true',
                         type = 'append-only')"
            ),
            "name it with AS",
        ),
    ] {
        let error = k.fails(&sql).await;
        assert!(error.message.contains(word), "{sql}: {error:?}");
    }
    // A table with other columns: the sink says so and waits; its commits are kept.
    k.sql("CREATE STREAM n (other bigint)").await;
    k.sql(&format!("CREATE SINK n_out FROM n WITH (connector = 'delta', path = '{}')", at("t")))
        .await;
    for round in 0.. {
        let sinks = k.table("SHOW SINKS").await.join("\n");
        if sinks.contains("column other of the Delta table") && sinks.contains("|stuck|") {
            break;
        }
        assert!(round < 200, "{sinks}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    k.sql("DROP SINK n_out").await;
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_bucket() {
    let Some(python) = python() else { return };
    let Some(bucket) = Bucket::start() else { return };
    let (dir, mut k) = Running::start(SHOP).await;
    let with = |table: &str| {
        format!(
            "connector = 'delta', location = 's3://lake/out/{table}', s3.region_name = 'us-east-1',
             s3.endpoint_url = '{}', s3.credentials.access = '{}', s3.credentials.secret = '{}',
             commit.interval.sec = 1",
            bucket.get("AWS_ENDPOINT_URL"),
            bucket.get("AWS_ACCESS_KEY_ID"),
            bucket.get("AWS_SECRET_ACCESS_KEY"),
        )
    };
    k.sql(&format!(
        "CREATE SINK orders_out FROM orders WITH ({});
         CREATE SINK sales_out FROM sales WITH ({}, type = 'upsert')",
        with("orders"),
        with("sales")
    ))
    .await;
    for round in 0..3 {
        k.sql(&format!(
            "INSERT INTO orders VALUES ({round}, 'ada', 1.25), ({round}, 'c{round}', 2)"
        ))
        .await;
        if round == 1 {
            settled(&mut k).await;
        }
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    settled(&mut k).await;
    let mut options: Vec<String> =
        ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
            .map(|name| format!("{name}={}", bucket.get(name)))
            .to_vec();
    options.push("AWS_ALLOW_HTTP=true".into());
    for (table, query) in [
        ("orders", "SELECT id, customer, amount FROM orders"),
        ("sales", "SELECT customer, n, total FROM sales"),
    ] {
        let mut expected = k.table(query).await;
        expected.sort();
        let found = read(&python, &format!("s3://lake/out/{table}"), &options);
        assert_eq!(rows(&found), expected, "{table}");
    }
    // And read again, as a source.
    k.sql(&format!(
        "CREATE SOURCE again WITH (connector = 's3', s3.bucket_name = 'lake', s3.path = 'out/orders',
           s3.region_name = 'us-east-1', s3.endpoint_url = '{}', s3.credentials.access = '{}',
           s3.credentials.secret = '{}', refresh.interval.sec = 1) FORMAT PLAIN ENCODE DELTA",
        bucket.get("AWS_ENDPOINT_URL"),
        bucket.get("AWS_ACCESS_KEY_ID"),
        bucket.get("AWS_SECRET_ACCESS_KEY"),
    ))
    .await;
    k.reads("SELECT count(*), sum(amount) FROM again", &["6|9.75"]).await;
    k.sql("INSERT INTO orders VALUES (9, 'zoe', 0.25)").await;
    k.reads("SELECT count(*), sum(amount) FROM again", &["7|10.00"]).await;
    let shown = k.table("SHOW CREATE SINK orders_out").await.concat();
    assert!(!shown.contains(bucket.get("AWS_SECRET_ACCESS_KEY")), "{shown}");
    k.platform.close().await.unwrap();
}

/// Has another writer do something to a table.
fn write(python: &Path, table: &str, actions: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/write_delta.py");
    let mut write = Command::new(python);
    write.arg(script).arg(table).args(actions);
    tokio::task::block_in_place(|| run(&mut write)).unwrap();
}

/// Waits until a word is in `SHOW SOURCES`.
async fn says(k: &mut Running, word: &str) {
    for round in 0.. {
        let shown = k.table("SHOW SOURCES").await.join("\n");
        if shown.contains(word) {
            return;
        }
        assert!(round < 200, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

const SUMS: &str = "SELECT n, ids, days, no_day FROM sums";

fn sums(to: i64) -> String {
    let no_day = (to + 2) / 3;
    format!("{to}|{}|{}|{no_day}", to * (to - 1) / 2, if to > 2 { 2 } else { 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_writer_is_read_once_however_it_is_compacted() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t").display().to_string();
    write(&python, &table, &["append:0:1000", "append:1000:1100", "compact", "append:1100:1110"]);
    let source = |name: &str, more: &str| {
        format!(
            "CREATE SOURCE {name} WITH (connector = 'file', path = '{table}',
               refresh.interval.sec = 1{more}) FORMAT PLAIN ENCODE DELTA"
        )
    };
    let (dir, mut k) = Running::start("select 1").await;
    k.sql(&source("h", "")).await;
    k.sql(
        "CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n, sum(id) AS ids,
           count(DISTINCT day) AS days, count(*) FILTER (WHERE day IS NULL) AS no_day FROM h",
    )
    .await;
    k.reads(SUMS, &[&sums(1110)]).await;
    // The same rows in other files, and some more.
    write(&python, &table, &["append:1110:1120", "compact", "append:1120:1130"]);
    k.reads(SUMS, &[&sums(1130)]).await;
    k.platform.close().await.unwrap();
    drop(k);
    write(&python, &table, &["append:1130:1140"]);
    let mut k = Running::open(dir.path()).await;
    k.reads(SUMS, &[&sums(1140)]).await;
    // What was read may go.
    write(&python, &table, &["compact", "vacuum", "append:1140:1150"]);
    k.reads(SUMS, &[&sums(1150)]).await;
    k.verify("sums").await;

    // Rows that go are said, and nothing is read past them.
    k.sql(&source("other", ", skip.change.commits = 'true'")).await;
    k.reads("SELECT count(*) FROM other", &["1150"]).await;
    write(&python, &table, &["delete:7", "append:1150:1160"]);
    says(&mut k, "takes rows away").await;
    k.reads("SELECT count(*) FROM other", &["1160"]).await;
    k.reads("SELECT count(*) FROM other_errors", &["1"]).await;
    assert_eq!(k.table(SUMS).await, [sums(1150)]);
    for (sql, word) in [
        (source("x", ", match_pattern = '*'"), "leave match_pattern out"),
        (source("x", ", skip.change.commits = 'perhaps'"), "'true' or 'false'"),
        (source("x", "").replace(&table, &folder.path().display().to_string()), "no Delta table"),
    ] {
        let error = k.fails(&sql).await;
        let text = format!("{} {}", error.message, error.hint.unwrap_or_default());
        assert!(text.contains(word), "{sql}: {text}");
    }
    k.platform.close().await.unwrap();
}

/// A file of the beginning that is gone before it was read is said, and not left out.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_gone_before_they_are_read_stop_the_source() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t").display().to_string();
    write(&python, &table, &["append:0:10"]);
    for entry in walk(folder.path()) {
        std::fs::remove_file(entry).unwrap();
    }
    let (_dir, mut k) = Running::start("select 1").await;
    k.sql(&format!(
        "CREATE SOURCE h (id bigint) WITH (connector = 'file', path = '{table}',
           refresh.interval.sec = 1) FORMAT PLAIN ENCODE DELTA"
    ))
    .await;
    says(&mut k, "was the table vacuumed?").await;
    assert_eq!(k.table("SELECT count(*) FROM h").await, ["0"]);
    k.platform.close().await.unwrap();
}

/// The Parquet files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if path.ends_with("_delta_log") => {}
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}
