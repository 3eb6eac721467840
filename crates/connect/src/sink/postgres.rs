//! A table of PostgreSQL that changes are written to: one transaction a change, and in it the
//! position, in the table `kaplan_sinks` beside it. So no change is there twice or half.
//!
//! Rows travel as JSON, and the server makes its own types of them. The table must be there; to
//! upsert it needs a unique constraint on the key.

use crate::sink::{Change, Op, Sink, Spec};
use crate::{Error, Kind, Result, encode};
use async_trait::async_trait;
use kaplan_base::Lsn;
use std::collections::BTreeMap;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, Transaction};

/// Rows in one statement.
const STATEMENT_ROWS: usize = 10_000;

const KNOWN: [&str; 13] = [
    "host",
    "port",
    "user",
    "password",
    "database",
    "schema",
    "table",
    "ssl_mode",
    "type",
    "primary_key",
    "force_append_only",
    "snapshot",
    "connector",
];

/// A table.
pub struct PostgresSink {
    spec: Spec,
    config: Config,
    /// The names as SQL has them.
    table: String,
    positions: String,
    name: String,
    client: Option<Client>,
    at: Option<Lsn>,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn needed<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
    let missing =
        || Error::config(format!("{name} is missing")).hint(format!("write {name} = '..'"));
    options.get(name).map(String::as_str).ok_or_else(missing)
}

fn failed(what: &str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => {
            let state = db.code().code();
            let message = format!("{what}: {} (SQLSTATE {state})", db.message());
            // What the server says of rows and tables stays so; the rest may pass.
            let refused = ["22", "23", "42"].iter().any(|class| state.starts_with(class));
            let kind = if refused { Kind::Refused } else { Kind::Unavailable };
            let error = Error::new(kind, message);
            match (state, db.hint()) {
                ("42P10", _) => error.hint("create a unique constraint on the columns of the key"),
                (_, Some(hint)) => error.hint(hint),
                _ => error,
            }
        }
        None => Error::unavailable(format!("{what}: {error}"))
            .hint("check host and port, and whether the server is up"),
    }
}

impl PostgresSink {
    /// A sink to a table, without connecting.
    ///
    /// # Errors
    /// The definition is wrong.
    pub fn new(spec: Spec) -> Result<Self> {
        let options = &spec.def.options;
        if let Some(unknown) = options.keys().find(|o| !KNOWN.contains(&o.as_str())) {
            return Err(Error::config(format!("the connector postgres has no option {unknown}"))
                .hint(format!("its options are {}", KNOWN[..12].join(", "))));
        }
        if spec.def.format.is_some() {
            return Err(
                Error::config("a table has no FORMAT").hint("write type = 'upsert' instead")
            );
        }
        if options.get("ssl_mode").is_some_and(|mode| mode != "disable") {
            return Err(Error::config("ssl_mode is not supported but 'disable'")
                .hint("put the connection through a tunnel"));
        }
        let port = options.get("port").map_or("5432", String::as_str);
        let port =
            port.parse().map_err(|_| Error::config(format!("port = '{port}' is no port")))?;
        let mut config = Config::new();
        config
            .host(needed(options, "host")?)
            .port(port)
            .user(needed(options, "user")?)
            .dbname(needed(options, "database")?)
            .application_name("kaplan")
            .ssl_mode(SslMode::Disable);
        if let Some(password) = options.get("password") {
            config.password(password);
        }
        let schema = quoted(options.get("schema").map_or("public", String::as_str));
        let table = format!("{schema}.{}", quoted(needed(options, "table")?));
        let positions = format!("{schema}.kaplan_sinks");
        let name = format!("{}/{}", spec.platform, spec.def.id);
        Ok(Self { spec, config, table, positions, name, client: None, at: None })
    }

    fn list(
        &self,
        columns: impl Iterator<Item = usize>,
        of: &dyn Fn(&str) -> String,
    ) -> Vec<String> {
        columns.map(|c| of(&quoted(self.spec.schema.field(c).name()))).collect()
    }

    /// The statement that puts rows in.
    fn put(&self) -> String {
        let all = || 0..self.spec.schema.fields().len();
        let columns = self.list(all(), &|c| c.to_owned()).join(", ");
        let table = &self.table;
        let rows = format!("json_populate_recordset(NULL::{table}, $1::text::json)");
        let insert = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {rows}");
        if self.spec.key.is_empty() {
            return insert;
        }
        let key = self.list(self.spec.key.iter().copied(), &|c| c.to_owned()).join(", ");
        let others = all().filter(|c| !self.spec.key.contains(c));
        let set = self.list(others, &|c| format!("{c} = excluded.{c}")).join(", ");
        let action =
            if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {set}") };
        format!("{insert} ON CONFLICT ({key}) DO {action}")
    }

    /// The statement that takes keys out.
    fn take(&self) -> String {
        let same = |c: &str| format!("t.{c} = d.{c}");
        let same = self.list(self.spec.key.iter().copied(), &same).join(" AND ");
        let table = &self.table;
        let keys = format!("json_populate_recordset(NULL::{table}, $1::text::json)");
        format!("DELETE FROM {table} t USING {keys} d WHERE {same}")
    }

    async fn apply(
        &self,
        transaction: &Transaction<'_>,
        rows: Vec<String>,
        ops: &[Op],
        lsn: Lsn,
    ) -> Result<(), tokio_postgres::Error> {
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (row, op) in rows.into_iter().zip(ops) {
            if *op == Op::Delete { gone.push(row) } else { put.push(row) }
        }
        for (rows, statement) in [(gone, self.take()), (put, self.put())] {
            for part in rows.chunks(STATEMENT_ROWS) {
                let json = format!("[{}]", part.join(","));
                transaction.execute(&statement, &[&json]).await?;
            }
        }
        let sql = format!(
            "INSERT INTO {} (sink, lsn) VALUES ($1, $2) \
             ON CONFLICT (sink) DO UPDATE SET lsn = excluded.lsn",
            self.positions
        );
        transaction.execute(&sql, &[&self.name, &lsn.to_i64()]).await.map(drop)
    }

    /// The position; the row is held until the transaction ends.
    async fn position(&self, transaction: &Transaction<'_>) -> Result<Option<Lsn>> {
        let sql = format!("SELECT lsn FROM {} WHERE sink = $1 FOR UPDATE", self.positions);
        let row = transaction.query_opt(&sql, &[&self.name]).await;
        let row = row.map_err(|e| failed("cannot read the sink's position", &e))?;
        Ok(row.map(|row| Lsn(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    async fn open(&mut self) -> Result<Option<Lsn>> {
        self.client = None;
        let cannot = |e: tokio_postgres::Error| failed("cannot connect to PostgreSQL", &e);
        let (mut client, connection) = self.config.connect(NoTls).await.map_err(cannot)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a sink's connection ended");
            }
        });
        let sql = format!(
            "SET client_min_messages = 'warning'; \
             CREATE TABLE IF NOT EXISTS {} (sink text PRIMARY KEY, lsn bigint NOT NULL); \
             SELECT 1 FROM {} LIMIT 0",
            self.positions, self.table
        );
        let ready = client.batch_execute(&sql).await;
        ready.map_err(|e| failed(&format!("cannot write to {}", self.table), &e))?;
        let transaction = client.transaction().await.map_err(cannot)?;
        self.at = self.position(&transaction).await?;
        transaction.commit().await.map_err(cannot)?;
        self.client = Some(client);
        Ok(self.at)
    }

    async fn write(&mut self, change: &Change, lsn: Lsn) -> Result<()> {
        // What has no JSON refuses the change before anything of it is there.
        let all: Vec<usize> = (0..change.rows.num_columns()).collect();
        let rows = encode::objects(&change.rows, &all)?;
        let mut client =
            self.client.take().ok_or_else(|| Error::unavailable("the sink is not open"))?;
        let what = format!("cannot write to {}", self.table);
        let transaction = client.transaction().await.map_err(|e| failed(&what, &e))?;
        let there = self.position(&transaction).await?;
        if there != self.at {
            return Err(Error::unavailable(format!("{what}: another writer moved its position")));
        }
        self.apply(&transaction, rows, &change.ops, lsn).await.map_err(|e| failed(&what, &e))?;
        transaction.commit().await.map_err(|e| failed(&what, &e))?;
        self.at = Some(lsn);
        self.client = Some(client);
        Ok(())
    }
}
