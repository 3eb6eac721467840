//! A PostgreSQL of the test's own, which goes when it is dropped.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub struct Upstream {
    dir: tempfile::TempDir,
    pub port: u16,
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres.sh")
}

impl Upstream {
    /// Starts a server with these statements; none where there is no PostgreSQL, which is said.
    pub async fn start(sql: &str) -> Option<Upstream> {
        let dir = tempfile::Builder::new().prefix("kaplan-postgres").tempdir().expect("directory");
        let port =
            TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("port").port();
        let upstream = Upstream { dir, port };
        if !upstream.run("start") {
            assert!(std::env::var_os("CI").is_none(), "CI needs a PostgreSQL server");
            eprintln!("left out: no PostgreSQL server (apt-get install postgresql)");
            return None;
        }
        upstream.sql(sql).await;
        Some(upstream)
    }

    /// `start`, `stop` or `kill`; false when there is no PostgreSQL.
    pub fn run(&self, command: &str) -> bool {
        let status = Command::new(script())
            .args([command, &self.dir.path().display().to_string(), &self.port.to_string()])
            .env("PG_FSYNC", "on")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .expect("scripts/postgres.sh");
        assert!(status.success() || status.code() == Some(77), "postgres.sh {command}: {status}");
        status.success()
    }

    pub async fn connect(&self) -> Client {
        for _ in 0..300 {
            if let Some(client) = self.try_connect().await {
                return client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("PostgreSQL does not take connections");
    }

    /// A connection, unless the server is away.
    pub async fn try_connect(&self) -> Option<Client> {
        let target = format!("host=127.0.0.1 port={} user=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&target, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    pub async fn sql(&self, sql: &str) {
        let client = self.connect().await;
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// The rows of a query as lines of `a|b|c`.
    pub async fn lines(&self, sql: &str) -> Vec<String> {
        let client = self.connect().await;
        client.batch_execute("set timezone = 'UTC'").await.expect("setting");
        let rows = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let line = |row: tokio_postgres::SimpleQueryRow| {
            let cells = (0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned());
            cells.collect::<Vec<_>>().join("|")
        };
        let rows = rows.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(line(row)),
            _ => None,
        });
        rows.collect()
    }

    pub fn create_source(&self, name: &str, user: &str) -> String {
        format!(
            "create source {name} with (connector = 'postgres-cdc', hostname = '127.0.0.1', \
             port = '{}', username = '{user}', password = 'x', database.name = 'postgres')",
            self.port
        )
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.run("kill");
    }
}
