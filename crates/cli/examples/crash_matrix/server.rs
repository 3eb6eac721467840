//! The server as a child process, and a client that talks to it.
//!
//! A process lives on a port of its own and is killed, at the latest, when its handle is dropped.
//! What it logs is appended to `server.log` beside its data.

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::Value;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Longest wait for a server to become ready, and for a view to come up.
const PATIENCE: Duration = Duration::from_secs(300);
const REQUEST_LIMIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(5);
/// Short intervals, so that most kills meet the archiver or a checkpoint at work.
const SETTINGS: [&str; 14] = [
    "--postgres",
    "off",
    "--archive-interval-ms",
    "60",
    "--checkpoint-interval-ms",
    "90",
    "--compact-bytes",
    "200000",
    "--log-format",
    "text",
    "--log-level",
    "warn,kaplan_platform=info",
    "--read-wait-ms",
    "30000",
];

/// A running server.
pub struct Server {
    process: Child,
    directory: PathBuf,
    client: Client,
}

/// Sends requests to one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// How a request ended.
pub enum Reply {
    /// Success, with the body.
    Ok(Value),
    /// Refused, with status and body.
    Refused(u16, String),
    /// There was no answer: it is unknown what became of the request.
    Unknown(String),
}

impl Server {
    /// Starts a server on a directory.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let log = OpenOptions::new().create(true).append(true).open(log_path(directory))?;
        let process = Command::new(program()?)
            .args(["start", "--http", &address, "--data-dir"])
            .arg(directory.join("data"))
            .args(SETTINGS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting kaplan")?;
        let http = reqwest::Client::builder().timeout(REQUEST_LIMIT).no_proxy().build()?;
        let client = Client { http, url: format!("http://{address}") };
        Ok(Self { process, directory: directory.to_path_buf(), client })
    }

    /// Starts another process on the directory of one that was killed.
    pub fn restart(self) -> anyhow::Result<Self> {
        Self::start(&self.directory)
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            let log = self.log_path();
            bail!("the server ended by itself: {status}; its log: {}", log.display());
        }
        Ok(self.process.kill().await?)
    }

    /// Waits until the server takes requests.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                bail!("the server does not start: {status}; see {}", self.log_path().display());
            }
            let answer = self.client.http.get(format!("{}/readyz", self.client.url)).send().await;
            if answer.is_ok_and(|a| a.status().is_success()) {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "the server was not ready after {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A client of this process.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the processes of this directory log.
    pub fn log_path(&self) -> PathBuf {
        log_path(&self.directory)
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

/// The program that was built beside this one.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().and_then(Path::parent).map(|dir| dir.join("kaplan"));
    path.filter(|p| p.is_file()).ok_or_else(|| {
        anyhow!("there is no kaplan beside {}: cargo build -p kaplan-cli", own.display())
    })
}

impl Client {
    /// Posts a body with headers.
    pub async fn post(&self, path: &str, headers: &[(&str, String)], body: String) -> Reply {
        let mut request = self.http.post(format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Reply::Unknown(error.to_string()),
        };
        let status = answer.status();
        match answer.text().await {
            Err(error) => Reply::Unknown(error.to_string()),
            Ok(text) if !status.is_success() => Reply::Refused(status.as_u16(), text),
            Ok(text) => match serde_json::from_str(&text) {
                Ok(value) => Reply::Ok(value),
                Err(error) => Reply::Unknown(error.to_string()),
            },
        }
    }

    /// Gets a document.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        Ok(serde_json::from_str(&answer.error_for_status()?.text().await?)?)
    }

    /// Runs SQL.
    pub async fn sql(&self, sql: &str) -> Reply {
        let headers = [("content-type", "text/plain".to_owned())];
        self.post("/v1/sql", &headers, sql.to_owned()).await
    }

    /// Runs SQL that must succeed; waits while a view is being replayed.
    pub async fn sql_ok(&self, sql: &str) -> anyhow::Result<Value> {
        let began = Instant::now();
        loop {
            match self.sql(sql).await {
                Reply::Ok(value) => return Ok(value),
                Reply::Refused(409 | 429 | 503, text) if began.elapsed() > PATIENCE => {
                    bail!("{sql}: refused for {PATIENCE:?}: {text}")
                }
                Reply::Refused(409 | 429 | 503, _) => tokio::time::sleep(PAUSE).await,
                Reply::Refused(status, text) => bail!("{sql}: {status} {text}"),
                Reply::Unknown(error) => bail!("{sql}: {error}"),
            }
        }
    }

    /// The rows of a query, each as JSON text.
    pub async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Vec<Value>>> {
        let answer = self.sql_ok(sql).await?;
        let rows = answer["rows"].as_array().with_context(|| format!("{sql}: no rows"))?;
        Ok(rows.iter().filter_map(|r| r.as_array().cloned()).collect())
    }
}
