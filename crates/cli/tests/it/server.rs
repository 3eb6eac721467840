//! A server process and the commands that talk to it.

use super::{kaplan, stderr, stdout};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

/// A running server on free ports; killed when the test ends without stopping it.
pub struct Server {
    process: Child,
    url: String,
    postgres: String,
    dir: TempDir,
    /// Reads the rest of the log, so that the server never waits for a full pipe.
    log: Option<std::thread::JoinHandle<String>>,
}

impl Server {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    pub fn start_in(dir: TempDir) -> Self {
        Self::spawn(serve(dir.path()), dir)
    }

    /// Starts a server by a command of one's own, which logs JSON.
    pub fn spawn(mut command: Command, dir: TempDir) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let (url, postgres) = loop {
            let line = lines.next().unwrap_or_else(|| panic!("no server:\n{seen}")).unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            seen.push_str(&line);
            if event["message"] == "serving" {
                let text = |key: &str| event[key].as_str().unwrap().to_owned();
                break (text("http"), text("postgres"));
            }
        };
        let log = std::thread::spawn(move || {
            lines.map_while(Result::ok).fold(String::new(), |log, line| log + &line + "\n")
        });
        Self { process, url, postgres, dir, log: Some(log) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where PostgreSQL's clients connect.
    pub fn postgres(&self) -> &str {
        &self.postgres
    }

    /// The body of what HTTP answers to a GET, with its status in front.
    pub fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.url);
        stdout(&Command::new("curl").args(["-s", "-w", " %{http_code}", &url]).output().unwrap())
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        kaplan(self.dir.path()).args(arguments).env("KAPLAN_URL", &self.url).output().unwrap()
    }

    /// Runs a command that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// SIGKILL, and another process on the same directory.
    pub fn killed(self) -> Self {
        Self::start_in(self.kill_and_keep())
    }

    /// SIGKILL; gives the directory back.
    pub fn kill_and_keep(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// Stops the server with a signal; returns how it ended and what it had logged.
    pub fn stop(self, name: &str) -> (ExitStatus, String) {
        let (status, log, _dir) = self.stop_and_keep(name);
        (status, log)
    }

    /// As [`Server::stop`], and gives the directory back.
    pub fn stop_and_keep(mut self, name: &str) -> (ExitStatus, String, TempDir) {
        self.signal(name);
        let status = self.process.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        (status, log, std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when the server has stopped already, as it should have.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(dir: &Path) -> Command {
    let mut command = kaplan(dir);
    command
        .args(["start", "--data-dir", "data", "--http", "127.0.0.1:0", "--postgres", "off"])
        .args(["--log-format", "json"]);
    command
}

#[test]
fn a_server_answers_and_stops_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let server = Server::start();
        assert_eq!(server.ok(&["sql", "--format", "csv", "-c", "select 1 as one"]), "one\n1\n");
        let (status, log) = server.stop(signal);
        assert_eq!(status.code(), Some(0), "{signal}: {log}");
        assert!(log.contains("stopped"), "{log}");
    }
}

/// Writers are at work when the signal comes: what they were told is there afterwards.
#[test]
fn a_server_under_load_stops_in_order_and_keeps_what_it_acknowledged() {
    let server = Server::start();
    server.ok(&["sql", "-c", STREAM]);
    server.ok(&["sql", "-c", "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM readings"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let insert = ["sql", "-c", "INSERT INTO readings (value) VALUES (1), (2), (3)"];
    let (dir, url) = (server.dir.path().to_owned(), server.url.clone());
    let (acknowledged, status, log, kept) = std::thread::scope(|scope| {
        let writers = (0..4).map(|_| {
            scope.spawn(|| {
                let mut acknowledged = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let sent = kaplan(&dir).args(insert).env("KAPLAN_URL", &url).output().unwrap();
                    acknowledged += 3 * u64::from(sent.status.success());
                }
                acknowledged
            })
        });
        let writers: Vec<_> = writers.collect();
        std::thread::sleep(std::time::Duration::from_millis(700));
        let (status, log, kept) = server.stop_and_keep("TERM");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let acknowledged: u64 = writers.into_iter().map(|w| w.join().unwrap()).sum();
        (acknowledged, status, log, kept)
    });
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("\"stopped\""), "{log}");
    let server = Server::start_in(kept);
    let text = server.ok(&["sql", "--format", "csv", "-c", "SELECT n FROM v"]);
    let n: u64 = text.lines().nth(1).unwrap().parse().unwrap();
    assert!(acknowledged > 0 && n >= acknowledged, "{n} rows, {acknowledged} acknowledged");
    server.ok(&["verify", "v"]);
}

#[test]
fn log_lines_are_what_cloud_logging_reads() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = kaplan(dir.path());
    command.args(["start", "--data-dir", "data", "--http", "127.0.0.1:0", "--postgres", "off"]);
    command.args(["--log-format", "gcp", "--log-gcp-project", "shop"]);
    let server = Server::spawn(command, dir);
    let trace = "105445aa7843bc8bf206b12000100000";
    let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
    let url = format!("{}/v1/streams", server.url);
    let asked = Command::new("curl").args(["-sf", "-H", &header, &url]).output().unwrap();
    assert!(asked.status.success(), "{}", stderr(&asked));
    let (_, log) = server.stop("TERM");
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let lines: Vec<_> = lines.collect();
    let request = lines.iter().find(|line| line["message"] == "request").unwrap();
    let named = format!("projects/shop/traces/{trace}");
    assert_eq!(request["logging.googleapis.com/trace"], named, "{request}");
    assert_eq!(request["logging.googleapis.com/spanId"], "00f067aa0ba902b7", "{request}");
    assert_eq!(request["logging.googleapis.com/trace_sampled"], true, "{request}");
    assert_eq!((&request["severity"], &request["route"]), (&"INFO".into(), &"/v1/streams".into()));
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 27, "{line}");
        assert!(line["message"].is_string() && line["severity"].is_string(), "{line}");
    }
}

#[test]
fn sql_comes_from_commands_files_and_standard_input_and_fails_with_one() {
    let server = Server::start();
    fs::write(server.dir.path().join("a.sql"), "select 1 as a; -- ;\nselect 'x;y' as b").unwrap();
    assert_eq!(server.ok(&["sql", "--format", "csv", "-f", "a.sql"]), "a\n1\nb\nx;y\n");
    let both = ["sql", "--format", "json", "-c", "select 1 as a", "-c", "select null as b"];
    assert_eq!(server.ok(&both), "{\"a\":1}\n{\"b\":null}\n");
    let mut piped = kaplan(server.dir.path());
    piped.args(["sql", "--url", &server.url, "--format", "csv"]);
    piped.stdin(fs::File::open(server.dir.path().join("a.sql")).unwrap());
    assert_eq!(stdout(&piped.output().unwrap()), "a\n1\nb\nx;y\n");
    let table = server.ok(&["sql", "-c", "select 1 as one, null as none"]);
    assert!(table.contains(" one | none\n") && table.contains("NULL"), "{table}");
    assert!(table.contains("(1 row at LSN "), "{table}");

    let wrong = server.run(&["sql", "-c", "select 1 as a; selec 2; select 3 as c"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).starts_with("error: "), "{}", stderr(&wrong));
    let out = stdout(&wrong);
    assert!(out.contains(" a\n") && !out.contains(" c\n"), "what follows an error ran: {out}");
}

const STREAM: &str = "CREATE STREAM readings (sensor TEXT, at TIMESTAMPTZ, value BIGINT)";
const TOTAL: [&str; 5] =
    ["sql", "--format", "csv", "-c", "select count(*) as n, sum(value) as v from readings"];

#[test]
fn a_load_started_again_adds_nothing() {
    let server = Server::start();
    server.ok(&["sql", "-c", STREAM]);
    let rows: String = (0..250).map(|n| format!("\"s\n{n}\",2026-01-01T00:00:00Z,{n}\n")).collect();
    let file = server.dir.path().join("rows.csv");
    fs::write(&file, format!("sensor,at,value\n{rows}")).unwrap();
    let load = ["load", "readings", "rows.csv", "--batch-rows", "100"];
    assert!(server.ok(&load).starts_with("readings: 250 rows in "));
    assert_eq!(server.ok(&TOTAL), "n,v\n250,31125\n");
    assert!(server.ok(&load).contains("250 duplicates left out"));
    assert_eq!(server.ok(&TOTAL), "n,v\n250,31125\n");
}

#[test]
fn a_wrong_row_is_named_by_its_place_in_the_file() {
    let server = Server::start();
    server.ok(&["sql", "-c", STREAM]);
    let mut rows: Vec<String> = (0..30).map(|n| format!("{{\"value\": {n}}}")).collect();
    rows[24] = "{\"value\": \"many\"}".to_owned();
    fs::write(server.dir.path().join("rows.ndjson"), rows.join("\n")).unwrap();
    let load = server.run(&["load", "readings", "rows.ndjson", "--batch-rows", "10"]);
    assert_eq!(load.status.code(), Some(1));
    let error = stderr(&load);
    assert!(error.contains("row 25 of rows.ndjson") && error.contains("value"), "{error}");
    assert!(error.contains("20 rows were"), "{error}");
}

#[test]
fn views_run_in_batch_replay_verify_and_show_their_status() {
    let server = Server::start();
    server.ok(&["sql", "-c", STREAM]);
    let view = "CREATE MATERIALIZED VIEW totals WITH (architecture = 'lambda') AS \
        SELECT sensor, count(*) AS n, sum(value) AS v FROM readings GROUP BY sensor";
    server.ok(&["sql", "-c", view]);
    server.ok(&["sql", "-c", "INSERT INTO readings (sensor, value) VALUES ('a', 1), ('a', 2)"]);
    let run = server.ok(&["batch", "totals", "--full", "--wait"]);
    assert!(run.contains("of totals published LSN"), "{run}");
    server.ok(&["sql", "-c", "INSERT INTO readings (sensor, value) VALUES ('a', 4)"]);
    server.ok(&["verify", "totals"]);
    server.ok(&["replay", "totals"]);
    let status = server.ok(&["status"]);
    assert!(status.contains(" readings | stream |    3 |"), "{status}");
    assert!(status.contains(" totals | lambda "), "{status}");
    let json: serde_json::Value = serde_json::from_str(&server.ok(&["status", "--json"])).unwrap();
    assert_eq!(json["views"][0]["name"], "totals");
    let unknown = server.run(&["verify", "nothing"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", stdout(&unknown));
    assert!(stderr(&unknown).contains("nothing"), "{}", stderr(&unknown));
}

#[test]
fn a_data_directory_in_use_and_a_port_in_use_are_said() {
    let server = Server::start();
    let second = serve(server.dir.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("data"), "{}", stderr(&second));
    let address = server.url.strip_prefix("http://").unwrap();
    let port = kaplan(server.dir.path())
        .args(["start", "--data-dir", "other", "--postgres", "off", "--http", address])
        .output()
        .unwrap();
    assert_eq!(port.status.code(), Some(1));
    assert!(stderr(&port).contains(address), "{}", stderr(&port));
    assert!(!server.dir.path().join("other").exists(), "opened a directory without a port");
}
