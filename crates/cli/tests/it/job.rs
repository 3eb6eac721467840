//! `kaplan batch --data`: a batch run by a process of its own, beside a writer under load. On a real S3
//! server.

use super::bucket::{DEFINITIONS, S3, insert, verified};
use super::server::Server;
use super::{stderr, stdout};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn job(s3: &S3, prefix: &str, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("s3://lake/{prefix}");
    let mut command = s3.command(dir.path(), &["batch", "--data", &url]);
    command.args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const MORE: &str = "CREATE MATERIALIZED VIEW cities WITH (architecture = 'lambda') AS \
      SELECT c.city, count(*) AS n FROM orders o JOIN customers c ON o.customer = c.name \
      GROUP BY c.city; \
    CREATE MATERIALIZED VIEW means WITH (architecture = 'lambda') AS \
      SELECT c.city, avg(o.amount::double precision) AS mean FROM orders o \
      JOIN customers c ON o.customer = c.name GROUP BY c.city";

fn batch(server: &Server, view: &str) -> String {
    let query = format!("SELECT * FROM batch.{view} ORDER BY 1");
    server.ok(&["sql", "--format", "csv", "-c", &query])
}

/// Mergeable and other views, one of which the writer has to compute by itself.
#[test]
fn a_job_runs_beside_a_writer_under_load() {
    let Some(s3) = S3::start() else { return };
    let server = s3.server("job");
    server.ok(&["sql", "-c", DEFINITIONS]);
    server.ok(&["sql", "-c", MORE]);
    server.ok(&["sql", "-c", "INSERT INTO customers VALUES ('c0', 'Ulm'), ('c1', 'Bonn')"]);
    insert(&server, 0, 100);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(100));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                insert(&server, written.load(Ordering::SeqCst), 20);
                written.fetch_add(20, Ordering::SeqCst);
            }
        });
        let mut lsn = 0;
        for arguments in [&[][..], &[], &["--full"], &["sales", "cities"]] {
            let views = lines(&job(&s3, "job", arguments));
            let expected = if arguments.contains(&"sales") { 2 } else { 3 };
            assert_eq!(views.len(), expected, "{views:?}");
            for view in &views {
                assert_eq!(view["state"], "succeeded", "{view}");
                assert!(view["lsn"].as_u64().unwrap() > lsn, "{view}");
            }
            lsn = views[0]["lsn"].as_u64().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    verified(&server);
    for view in ["cities", "means"] {
        server.ok(&["verify", view]);
    }
    // With nothing written since, the batch views alone are the answer.
    lines(&job(&s3, "job", &[]));
    for view in ["sales", "cities", "means"] {
        let query = format!("SELECT * FROM {view} ORDER BY 1");
        assert_eq!(server.ok(&["sql", "--format", "csv", "-c", &query]), batch(&server, view));
    }
    let runs = server.ok(&["sql", "--format", "csv", "-c", "SHOW BATCH RUNS"]);
    assert_eq!(runs.matches(",job,").count(), 5, "{runs}");
    // What was published is what a process that comes after reads.
    server.stop("KILL");
    let server = s3.server("job");
    verified(&server);
    server.ok(&["verify", "means"]);
    let rows = server.ok(&["sql", "--format", "csv", "-c", "SELECT count(*) AS n FROM orders"]);
    assert_eq!(rows, format!("n\n{}\n", written.load(Ordering::SeqCst)));
}

#[test]
fn a_job_says_what_it_cannot_do_and_fails() {
    let Some(s3) = S3::start() else { return };
    let server = s3.server("fails");
    server.ok(&["sql", "-c", DEFINITIONS]);
    insert(&server, 0, 10);
    let failed = job(&s3, "fails", &["live"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("runs as Kappa"), "{}", stderr(&failed));
    let failed = job(&s3, "fails", &["nothing"]);
    assert!(stderr(&failed).contains("there is no view nothing"), "{}", stderr(&failed));
    // The same key a second time is the same run.
    let first = lines(&job(&s3, "fails", &["--key", "monday"]));
    insert(&server, 10, 10);
    assert_eq!(lines(&job(&s3, "fails", &["--key", "monday"]))[0]["lsn"], first[0]["lsn"]);
    verified(&server);
    server.stop("KILL");
    let failed = job(&s3, "empty", &[]);
    assert!(stderr(&failed).contains("start the writer first"), "{}", stderr(&failed));
}

/// A job that is killed in the middle leaves a writer that goes on.
#[test]
fn a_job_that_dies_holds_nobody_up_for_long() {
    let Some(s3) = S3::start() else { return };
    let server = s3.server("dies");
    server.ok(&["sql", "-c", DEFINITIONS]);
    insert(&server, 0, 10);
    let dir = tempfile::tempdir().unwrap();
    let mut command = s3.command(dir.path(), &["batch", "--data", "s3://lake/dies"]);
    let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    let _ = process.kill();
    process.wait().unwrap();
    insert(&server, 10, 10);
    assert_eq!(lines(&job(&s3, "dies", &[])).len(), 1);
    server.ok(&["batch", "sales", "--wait"]);
    verified(&server);
}
