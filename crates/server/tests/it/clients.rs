//! Real clients against one server: psql, psycopg 3, SQLAlchemy, asyncpg, node-postgres and the JDBC
//! driver. Their scripts are in `tests/clients`. What a client needs is installed once under the
//! user's cache, by its own package manager; where that cannot be done the test says so in one line,
//! and fails when `CI` is set.

use crate::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const PYTHON: [&str; 3] = ["psycopg[binary]", "sqlalchemy", "asyncpg"];
const NODE: &str = "pg@8";
const JDBC: &str = "org.postgresql:postgresql:42.7.4";
const JDBC_JAR: &str = "postgresql-42.7.4.jar";

pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}:\n{}\n{}", text.trim(), error.trim()))
}

fn cache() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Ok(cache.or(home).ok_or("no home directory")?.join("kaplan"))
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The interpreter of the environment that the lake's readers live in too.
fn python() -> Result<PathBuf, String> {
    let venv = cache()?.join("venv");
    let python = venv.join("bin/python");
    let imports = "import psycopg, sqlalchemy, asyncpg";
    if run(Command::new(&python).args(["-c", imports])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(&python).args(pip).args(PYTHON))?;
    }
    Ok(python)
}

/// The directory whose `node_modules` has the driver.
fn node() -> Result<PathBuf, String> {
    let home = cache()?.join("clients/node");
    std::fs::create_dir_all(&home).map_err(|e| e.to_string())?;
    if !home.join("node_modules/pg/package.json").is_file() {
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        run(Command::new("npm").args(npm).arg(&home).arg(NODE))?;
    }
    Ok(home)
}

/// The driver's archive.
fn jdbc() -> Result<PathBuf, String> {
    run(Command::new("java").arg("-version"))?;
    let home = cache()?.join("clients/java");
    let jar = home.join(JDBC_JAR);
    if !jar.is_file() {
        let output = format!("-DoutputDirectory={}", home.display());
        let artifact = format!("-Dartifact={JDBC}");
        run(Command::new("mvn").args(["-q", "-B", "dependency:copy"]).arg(artifact).arg(output))?;
    }
    Ok(jar)
}

/// What installing gave, off the threads that serve; none when it failed, which is said.
pub(crate) async fn ready<T: Send + 'static>(
    client: &str,
    install: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(install).await.unwrap() {
        Ok(ready) => Some(ready),
        Err(why) => {
            println!("SKIPPED {client}: {}", why.lines().next().unwrap_or_default());
            let required = ["CI", "KAPLAN_REQUIRE_ALL"].map(std::env::var_os);
            assert!(required.iter().all(Option::is_none), "{client} is required: {why}");
            None
        }
    }
}

/// Runs a client's script, which says `ok` at its end.
async fn passes(mut command: Command) {
    let done = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    let text = done.unwrap_or_else(|why| panic!("{why}"));
    assert!(text.trim().ends_with("ok"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_clients_work() {
    let Some(python) = ready("psycopg, SQLAlchemy and asyncpg", python).await else { return };
    let running = start().await;
    let port = running.postgres.port().to_string();
    for script in ["psycopg_client.py", "sqlalchemy_client.py", "asyncpg_client.py"] {
        let mut command = Command::new(&python);
        command.arg(scripts().join(script)).arg(&port);
        passes(command).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_postgres_works() {
    let Some(home) = ready("node-postgres", node).await else { return };
    let running = start().await;
    let mut command = Command::new("node");
    command.env("NODE_PATH", home.join("node_modules"));
    command.arg(scripts().join("node_client.js")).arg(running.postgres.port().to_string());
    passes(command).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jdbc_works() {
    let Some(jar) = ready("the JDBC driver", jdbc).await else { return };
    let running = start().await;
    let mut command = Command::new("java");
    command.arg("-cp").arg(jar).arg(scripts().join("Jdbc.java"));
    command.arg(running.postgres.port().to_string());
    passes(command).await;
    running.stop().await;
}

async fn psql(running: &Running, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("psql");
    command.env("PGHOST", "127.0.0.1").env("PGPORT", running.postgres.port().to_string());
    command.env("PGUSER", "ann").env("PGDATABASE", "dev").env("PGCONNECT_TIMEOUT", "10");
    command.args(["-X", "-v", "ON_ERROR_STOP=1", "-A"]).args(arguments);
    tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
}

/// Every command that lists something; each one must succeed.
const LISTS: [&str; 24] = [
    "\\l",
    "\\l+",
    "\\d",
    "\\d+",
    "\\dt",
    "\\dt+",
    "\\dv",
    "\\dm",
    "\\dm+",
    "\\di",
    "\\ds",
    "\\dn",
    "\\dn+",
    "\\df",
    "\\du",
    "\\dp",
    "\\dT",
    "\\dx",
    "\\db",
    "\\dS",
    "\\conninfo",
    "\\dC",
    "\\do",
    "\\dc",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_works() {
    let installed = || run(Command::new("psql").arg("--version"));
    if ready("psql", installed).await.is_none() {
        return;
    }
    let running = start().await;
    let create = "CREATE TABLE keyed (id BIGINT PRIMARY KEY, name TEXT NOT NULL, n INTEGER DEFAULT 3, \
                  CONSTRAINT positive CHECK (n > 0))";
    let view =
        "CREATE MATERIALIZED VIEW per_name AS SELECT name, count(*) AS c FROM keyed GROUP BY name";
    psql(&running, &["-c", create, "-c", view]).await.unwrap();
    for list in LISTS {
        let listed = psql(&running, &["-c", list]).await;
        assert!(listed.is_ok(), "{list}: {listed:?}");
    }
    let tables = psql(&running, &["-t", "-c", "\\dt"]).await.unwrap();
    assert_eq!(tables, "public|flights|table|ann\npublic|keyed|table|ann\n");
    let views = psql(&running, &["-t", "-c", "\\dm"]).await.unwrap();
    assert_eq!(views, "public|per_name|materialized view|ann\n");
    let table = psql(&running, &["-c", "\\d keyed"]).await.unwrap();
    for part in [
        "id|bigint||not null|",
        "n|integer|||3",
        "\"keyed_pkey\" PRIMARY KEY, btree (id)",
        "\"positive\" CHECK (n > 0)",
    ] {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    for object in ["\\d+ keyed", "\\d per_name", "\\d+ per_name", "\\d flights", "\\d keyed_pkey"] {
        let described = psql(&running, &["-c", object]).await;
        assert!(described.is_ok(), "{object}: {described:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "id,name\n1,\"a, b\"\n2,c\n").unwrap();
    let path = file.path().display();
    let copy = format!("\\copy keyed (id, name) FROM '{path}' CSV HEADER");
    assert_eq!(psql(&running, &["-c", &copy]).await.unwrap(), "COPY 2\n");
    let rows = psql(&running, &["-c", "\\copy (SELECT * FROM keyed ORDER BY id) TO STDOUT CSV"])
        .await
        .unwrap();
    assert_eq!(rows, "1,\"a, b\",3\n2,c,3\n");
    let several =
        psql(&running, &["-t", "-c", "SELECT 1; SELECT count(*) FROM keyed"]).await.unwrap();
    assert_eq!(several, "1\n2\n");
    let error = psql(&running, &["-c", "SELECT nope FROM keyed"]).await.unwrap_err();
    assert!(error.contains("ERROR") && error.contains("nope"), "{error}");
    running.stop().await;
}
