//! What is right: the query's own text, run by DataFusion over all rows, and by DuckDB. Neither
//! sees anything of Kaplan; windows are written out in their own words here.

use super::corpora::{Corpus, Query};
use super::rows::{Row, cell, rows};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The newest that is known to run these queries.
const PACKAGE: &str = "duckdb";

/// The queries' answers by name, or why there is none.
pub type Answers = BTreeMap<String, Result<Vec<Row>, String>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    DataFusion,
    DuckDb,
}

/// `NAME(table, time, ..)` up to its closing parenthesis.
fn call<'a>(sql: &'a str, name: &str) -> Option<(usize, usize, Vec<&'a str>)> {
    let from = sql.find(&format!("{name}("))?;
    let open = from + name.len();
    let close = open + sql[open..].find(')')?;
    Some((from, close + 1, sql[open + 1..close].split(',').map(str::trim).collect()))
}

/// TUMBLE and HOP as subqueries: the row with each window it falls into.
fn windows(sql: &str, engine: Engine) -> String {
    let bin = |size: &str, time: &str| match engine {
        Engine::DataFusion => format!("date_bin({size}, {time}, TIMESTAMP '1970-01-01T00:00:00')"),
        Engine::DuckDb => format!("time_bucket({size}, {time}, TIMESTAMP '1970-01-01 00:00:00')"),
    };
    let mut sql = sql.to_owned();
    while let Some((from, to, args)) = call(&sql, "TUMBLE") {
        let (table, time, size) = (args[0], args[1], args[2]);
        let start = bin(size, time);
        let text = format!(
            "(SELECT *, {start} AS window_start, {start} + {size} AS window_end FROM {table}) \
             AS {table}"
        );
        sql.replace_range(from..to, &text);
    }
    while let Some((from, to, args)) = call(&sql, "HOP") {
        let (table, time, slide, size) = (args[0], args[1], args[2], args[3]);
        let seconds = |text: &str| -> i64 {
            text.split('\'').nth(1).and_then(|t| t.split(' ').next()?.parse().ok()).unwrap()
        };
        let count = seconds(size) / seconds(slide);
        let shifts: Vec<String> =
            (0..count).map(|i| format!("(INTERVAL '{} seconds')", i * seconds(slide))).collect();
        let start = format!("{} - shift", bin(slide, time));
        let text = format!(
            "(SELECT {table}.*, {start} AS window_start, {start} + {size} AS window_end \
             FROM {table} CROSS JOIN (VALUES {}) AS shifts(shift)) AS {table}",
            shifts.join(", ")
        );
        sql.replace_range(from..to, &text);
    }
    sql
}

/// Whether it asks for the time at which rows came in, which only Kaplan knows.
pub fn undefined_elsewhere(query: &Query) -> bool {
    query.sql.contains("p_time")
}

/// DataFusion's answers over the rows of the corpus, or over none.
pub async fn datafusion(corpus: &Corpus, queries: &[&Query], empty: bool) -> Answers {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.dialect = "postgres".parse().unwrap();
    let context = SessionContext::new_with_config(config);
    for table in &corpus.tables {
        let batches = if empty { Vec::new() } else { corpus.rows(table.name) };
        let memory = MemTable::try_new(Arc::clone(&table.schema), vec![batches]).unwrap();
        context.register_table(table.name, Arc::new(memory)).unwrap();
    }
    let mut answers = Answers::new();
    for query in queries.iter().filter(|q| !undefined_elsewhere(q)) {
        let text = query.datafusion.as_deref().unwrap_or(&query.sql);
        let answer = async {
            let frame = context.sql(&windows(text, Engine::DataFusion)).await?;
            frame.collect().await
        };
        let answer = answer.await.map(|batches| rows(&batches));
        answers.insert(query.name.clone(), answer.map_err(|e| e.to_string()));
    }
    answers
}

/// DuckDB's answers over the rows of the corpus.
pub fn duckdb(corpus: &Corpus, queries: &[&Query]) -> Result<Answers, String> {
    let python = interpreter()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    for table in &corpus.tables {
        let file = std::fs::File::create(dir.path().join(format!("{}.parquet", table.name)));
        let mut writer =
            ArrowWriter::try_new(file.unwrap(), Arc::clone(&table.schema), None).unwrap();
        corpus.rows(table.name).iter().for_each(|batch| writer.write(batch).unwrap());
        writer.close().unwrap();
    }
    let texts: BTreeMap<&str, String> = queries
        .iter()
        .filter(|q| !undefined_elsewhere(q))
        .map(|q| {
            let text = q.duckdb.as_deref().unwrap_or(&q.sql);
            (q.name.as_str(), windows(text, Engine::DuckDb))
        })
        .collect();
    let list = dir.path().join("queries.json");
    std::fs::write(&list, serde_json::to_string(&texts).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/coverage/run_duckdb.py");
    let output = run(Command::new(python).arg(script).arg(dir.path()).arg(list))?;
    output.lines().map(answer).collect()
}

#[derive(serde::Deserialize)]
struct Answered {
    name: String,
    rows: Vec<Vec<Option<String>>>,
    error: Option<String>,
}

fn answer(line: &str) -> Result<(String, Result<Vec<Row>, String>), String> {
    let answered: Answered = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let row = |row: &Vec<Option<String>>| row.iter().map(|c| cell(c.as_deref())).collect();
    let rows = answered.rows.iter().map(row).collect();
    Ok((answered.name, answered.error.map_or(Ok(rows), Err)))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", error.trim().lines().last().unwrap_or("failed")))
}

/// The interpreter of the environment that the lake's tests use too; makes it if it is not there.
fn interpreter() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let venv = cache.or(home).ok_or("no home directory")?.join("kaplan/venv");
    let python = venv.join("bin/python");
    if run(Command::new(&python).args(["-c", &format!("import {PACKAGE}")])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE];
        run(Command::new(&python).args(pip))?;
    }
    Ok(python)
}
