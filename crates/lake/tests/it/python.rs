//! Other readers: deltalake, DuckDB and Polars see the rows that DataFusion sees.
//!
//! The packages live in a virtual environment under the user's cache, made once.

use crate::fixture::{Fixture, lsn, query, rows, spec};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 4] = ["deltalake", "duckdb", "polars", "pyarrow"];

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", error.trim().lines().last().unwrap_or("failed")))
}

/// The environment's interpreter; makes the environment if it is not there.
fn interpreter() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let venv = cache.or(home).ok_or("no home directory")?.join("kaplan/venv");
    let python = venv.join("bin/python");
    let imports = format!("import {}", PACKAGES.join(", "));
    if run(Command::new(&python).args(["-c", &imports])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&python).args(pip).args(PACKAGES))?;
    }
    Ok(python)
}

#[tokio::test]
async fn python_readers_see_the_same_rows() {
    let python = match tokio::task::spawn_blocking(interpreter).await.unwrap() {
        Ok(python) => python,
        Err(why) => {
            println!("SKIPPED python readers: {why}");
            let required = ["CI", "KAPLAN_REQUIRE_ALL"].map(std::env::var_os);
            assert!(required.iter().all(Option::is_none), "python readers are required: {why}");
            return;
        }
    };
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    for n in 1..=6_i64 {
        let batch = rows(&spec, (n - 1) * 100 + 1..=n * 100);
        lake.append(&spec, vec![batch], lsn(n.unsigned_abs() * 100)).await.unwrap();
        if n == 4 {
            assert_eq!(lake.compact(&spec, 64 << 20).await.unwrap().files_removed, 4);
        }
    }

    let sql = "SELECT id, label, _lsn FROM t ORDER BY _lsn";
    let (mut count, mut sum, mut text) = (0, 0, String::new());
    for batch in query(&lake, &spec, sql).await {
        count += batch.num_rows();
        sum += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        text.push_str(&lines(&batch));
    }
    let rows = fixture.directory.path().join("expected.txt");
    std::fs::write(&rows, text).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_lake.py");
    let mut read = Command::new(python);
    read.arg(script).arg(fixture.directory.path().join("events")).arg(rows);
    let seen = tokio::task::spawn_blocking(move || run(&mut read)).await.unwrap().unwrap();
    let expected = ["deltalake", "duckdb", "polars"]
        .map(|reader| format!("{reader}: {count} rows, sum {sum}, min 10, max 6000\n"));
    assert_eq!(seen, expected.concat());
}

fn lines(batch: &RecordBatch) -> String {
    let (ids, lsns) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(2));
    let (labels, lsns) = (batch.column(1).as_string::<i32>(), lsns.as_primitive::<Int64Type>());
    let columns = ids.values().iter().zip(labels).zip(lsns.values());
    columns.map(|((id, label), lsn)| format!("{id}|{}|{lsn}\n", label.unwrap_or("NULL"))).collect()
}
