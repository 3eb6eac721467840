//! A connection of a logic test: `tokio-postgres` to Kaplan or to PostgreSQL, text in and text out.

use async_trait::async_trait;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Kaplan,
    Postgres,
}

impl Engine {
    /// The label of `onlyif` and `skipif`.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Kaplan => "kaplan",
            Engine::Postgres => "postgres",
        }
    }
}

pub struct Database {
    client: Client,
    engine: Engine,
}

/// What the server said, with its SQLSTATE.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
    state: Option<String>,
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => {
                Error { message: db.message().to_owned(), state: Some(db.code().code().to_owned()) }
            }
            None => Error { message: format!("the connection: {error}"), state: None },
        }
    }
}

async fn connect(config: &str, engine: Engine) -> Result<Database, Error> {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
    tokio::spawn(connection);
    Ok(Database { client, engine })
}

/// A runner on a Kaplan.
pub fn on_kaplan(
    address: SocketAddr,
) -> Runner<Database, impl sqllogictest::MakeConnection<Conn = Database>> {
    let config = format!("host={} port={} user=slt dbname=kaplan", address.ip(), address.port());
    Runner::new(move || {
        let config = config.clone();
        async move { connect(&config, Engine::Kaplan).await }
    })
}

/// A runner on a new database of a PostgreSQL.
pub async fn on_postgres(
    address: &str,
) -> Runner<Database, impl sqllogictest::MakeConnection<Conn = Database>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("slt_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let admin = connect(&format!("{address} dbname=postgres"), Engine::Postgres).await.unwrap();
    admin.client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let config = format!("{address} dbname={name} options='-c timezone=UTC'");
    Runner::new(move || {
        let config = config.clone();
        async move { connect(&config, Engine::Postgres).await }
    })
}

/// The statement in PostgreSQL's words: its views are always up to date when they are plain ones,
/// and it has no streams.
fn for_postgres(sql: &str) -> Option<String> {
    let lower = sql.trim_start().to_lowercase();
    if lower.starts_with("flush") {
        return None;
    }
    let pairs = [
        ("create materialized view", "create view"),
        ("drop materialized view", "drop view"),
        ("alter materialized view", "alter view"),
        ("create stream", "create table"),
        ("drop stream", "drop table"),
    ];
    for (ours, theirs) in pairs {
        if lower.starts_with(ours) {
            return Some(format!("{theirs}{}", &sql.trim_start()[ours.len()..]));
        }
    }
    Some(sql.to_owned())
}

/// A value as the files show it: spaces at its ends and beside each other can be told apart.
fn text(value: Option<&str>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some("") => "(empty)".to_owned(),
        Some(value) if value.trim() == value && !value.contains("  ") => value.replace('\n', "\\n"),
        Some(value) => value.replace(' ', "\u{2423}").replace('\n', "\\n"),
    }
}

#[async_trait]
impl AsyncDB for Database {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let sql = match self.engine {
            Engine::Kaplan => Some(sql.to_owned()),
            Engine::Postgres => for_postgres(sql),
        };
        let Some(sql) = sql else { return Ok(DBOutput::StatementComplete(0)) };
        let (mut columns, mut rows, mut count) = (None, Vec::new(), 0);
        for message in self.client.simple_query(&sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(description) => {
                    columns = Some(description.len());
                }
                SimpleQueryMessage::Row(row) => {
                    columns = Some(row.len());
                    rows.push((0..row.len()).map(|i| text(row.get(i))).collect());
                }
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => {}
            }
        }
        Ok(match columns {
            Some(n) => DBOutput::Rows { types: vec![DefaultColumnType::Any; n], rows },
            None => DBOutput::StatementComplete(count),
        })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        self.engine.name()
    }

    fn error_sql_state(error: &Error) -> Option<String> {
        error.state.clone()
    }

    async fn sleep(duration: std::time::Duration) {
        tokio::time::sleep(duration).await;
    }
}
