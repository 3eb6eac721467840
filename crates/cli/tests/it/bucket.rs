//! Everything in a bucket: a process that is killed goes on elsewhere from the bucket alone, and of two
//! processes on one bucket the newer one has it. On a real S3 server, started by `scripts/s3.sh`.

use super::server::Server;
use super::{kaplan, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The exit code of the script when the server cannot be had.
const UNAVAILABLE: i32 = 77;

/// A running S3 server with an empty bucket `lake`.
pub struct S3 {
    dir: TempDir,
    variables: Vec<(String, String)>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/s3.sh")
}

impl S3 {
    pub fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let started = Command::new(script()).arg("start").arg(dir.path()).output().unwrap();
        if started.status.code() == Some(UNAVAILABLE) {
            assert!(std::env::var_os("CI").is_none(), "CI must have an S3 server");
            eprintln!("SKIPPED an S3 server: {}", stderr(&started));
            return None;
        }
        assert!(started.status.success(), "{}", stderr(&started));
        let text = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let variables = text.split_whitespace().filter_map(|word| word.split_once('='));
        let variables = variables.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        Some(Self { dir, variables })
    }

    /// A server process with an empty disk of its own and its data in the bucket.
    pub fn server(&self, prefix: &str) -> Server {
        self.server_with(prefix, &["--archive-interval-ms", "300"])
    }

    /// The same with further settings.
    pub fn server_with(&self, prefix: &str, settings: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut command = kaplan(dir.path());
        command.args(["start", "--data", &format!("s3://lake/{prefix}")]);
        command.args(["--http", "127.0.0.1:0", "--postgres", "off", "--log-format", "json"]);
        command.args(["--checkpoint-interval-ms", "500", "--log-linger-ms", "5"]).args(settings);
        command.envs(self.variables.iter().cloned());
        Server::spawn(command, dir)
    }

    /// A command that has the bucket's variables.
    pub fn command(&self, dir: &Path, arguments: &[&str]) -> Command {
        let mut command = kaplan(dir);
        command.args(arguments).envs(self.variables.iter().cloned());
        command
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("stop").arg(self.dir.path()).status();
    }
}

pub const DEFINITIONS: &str = "CREATE STREAM orders (id BIGINT NOT NULL, customer TEXT NOT NULL, amount BIGINT, \
      at TIMESTAMPTZ, UNIQUE (id) WITHIN INTERVAL '1 day'); \
    CREATE TABLE customers (name TEXT PRIMARY KEY, city TEXT); \
    CREATE MATERIALIZED VIEW sales WITH (architecture = 'lambda') AS \
      SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer; \
    CREATE MATERIALIZED VIEW live AS \
      SELECT c.city, sum(o.amount) AS total FROM orders o JOIN customers c ON o.customer = c.name \
      GROUP BY c.city";
const ANSWERS: [&str; 8] = [
    "sql",
    "--format",
    "csv",
    "-c",
    "SELECT * FROM sales ORDER BY customer",
    "-c",
    "SELECT * FROM live ORDER BY city",
    "-c",
];

pub fn answers(server: &Server) -> String {
    let mut arguments = ANSWERS.to_vec();
    arguments.push("SELECT count(*) AS rows, sum(amount) AS total FROM orders");
    server.ok(&arguments)
}

pub fn insert(server: &Server, from: u64, count: u64) {
    let rows: Vec<String> = (from..from + count)
        .map(|n| format!("({n}, 'c{}', {}, '2026-01-01T00:00:00Z')", n % 3, n * 10))
        .collect();
    server.ok(&["sql", "-c", &format!("INSERT INTO orders VALUES {}", rows.join(", "))]);
}

/// Waits until a view that may still replay answers.
pub fn verified(server: &Server) {
    for view in ["sales", "live"] {
        let mut last = String::new();
        let ready = (0..600).any(|_| {
            let output = server.run(&["verify", view]);
            last = stderr(&output);
            let pending = last.contains("replay") || last.contains("not_ready");
            if !output.status.success() && pending {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            assert!(output.status.success() || pending, "{view}: {last}");
            output.status.success()
        });
        assert!(ready, "{view}: {last}");
    }
}

/// What the lake has is removed from the log, but not before the views have read it.
#[test]
fn views_keep_up_with_a_lake_that_is_quicker() {
    let Some(s3) = S3::start() else { return };
    let server = s3.server_with("quick", &["--archive-interval-ms", "1"]);
    let mut statements = "CREATE STREAM wide (n BIGINT NOT NULL);".to_owned();
    for view in 0..4 {
        statements += &format!(
            "CREATE MATERIALIZED VIEW v{view} AS SELECT sha512(n::text || '{view}') AS h, \
             count(*) AS rows FROM wide GROUP BY sha512(n::text || '{view}');"
        );
    }
    server.ok(&["sql", "-c", &statements]);
    for load in 0..12 {
        let (from, to) = (load * 10_000 + 1, (load + 1) * 10_000);
        let insert =
            format!("INSERT INTO wide SELECT g FROM generate_series({from}, {to}) AS s(g)");
        server.ok(&["sql", "-c", &insert]);
    }
    for view in 0..4 {
        let rows = server.ok(&[
            "sql",
            "--format",
            "csv",
            "-c",
            &format!("SELECT count(*) AS n FROM v{view}"),
        ]);
        assert_eq!(rows, "n\n120000\n", "v{view}");
    }
    let (status, log) = server.stop("TERM");
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("cannot be followed"), "{log}");
}

#[test]
fn a_killed_process_goes_on_elsewhere_from_the_bucket_alone() {
    let Some(s3) = S3::start() else { return };
    let mut server = s3.server("killed");
    server.ok(&["sql", "-c", DEFINITIONS]);
    let customers = "INSERT INTO customers VALUES ('c0', 'Ulm'), ('c1', 'Ulm'), ('c2', 'Bonn')";
    server.ok(&["sql", "-c", customers]);
    for round in 0..4 {
        insert(&server, round * 100, 60);
        if round % 2 == 0 {
            server.ok(&["batch", "sales", "--wait"]);
        }
        insert(&server, round * 100 + 60, 40);
        let before = answers(&server);
        // Some rounds end with everything in the lake, some with the last commits in the log alone.
        if round % 2 == 1 {
            std::thread::sleep(std::time::Duration::from_millis(900));
        }
        server.stop("KILL");
        server = s3.server("killed");
        verified(&server);
        assert_eq!(answers(&server), before, "round {round}");
        // The keys are known: a repeated event still counts once.
        insert(&server, round * 100, 10);
        assert_eq!(answers(&server), before, "round {round}");
    }
    let total = answers(&server);
    assert!(total.ends_with("rows,total\n400,798000\n"), "{total}");
    let (status, log) = server.stop("TERM");
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn of_two_processes_on_one_bucket_the_newer_one_has_it() {
    let Some(s3) = S3::start() else { return };
    let old = s3.server("two");
    old.ok(&["sql", "-c", DEFINITIONS]);
    insert(&old, 0, 30);
    let new = s3.server("two");
    insert(&new, 30, 30);
    let refused = old.run(&["sql", "-c", "INSERT INTO orders VALUES (99, 'c0', 1, NULL)"]);
    assert!(!refused.status.success());
    let error = stderr(&refused);
    assert!(error.contains("another instance has taken over"), "{error}");
    // It says so, answers no query from what it had, and changes nothing.
    let status = old.ok(&["status", "--json"]);
    assert!(status.contains("another instance has taken over"), "{status}");
    assert!(status.contains("\"ready\":false") || status.contains("\"ready\": false"), "{status}");
    for statement in ["SELECT count(*) FROM orders", "CREATE STREAM other (id BIGINT)"] {
        let refused = old.run(&["sql", "-c", statement]);
        assert!(!refused.status.success(), "{statement}");
    }
    // The replaced one has had time to archive, to write checkpoints, and to fail at both.
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    insert(&new, 60, 30);
    verified(&new);
    assert!(answers(&new).ends_with("rows,total\n90,40050\n"), "{}", answers(&new));
    let (stopped, log) = old.stop("TERM");
    assert_eq!(stopped.code(), Some(0), "{log}");
    insert(&new, 90, 10);
    new.stop("KILL");
    let third = s3.server("two");
    verified(&third);
    assert!(answers(&third).ends_with("rows,total\n100,49500\n"), "{}", answers(&third));
}
