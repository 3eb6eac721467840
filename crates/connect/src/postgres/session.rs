//! A connection to PostgreSQL in replication mode that runs SQL and replication commands. One kind
//! of connection serves everything (catalog, snapshots, the stream), so all of it has the same
//! address, role, TLS and settings of text forms.
//!
//! Invariant: every wait has an end.

use super::Options;
use crate::{Error, Result};
use bytes::Bytes;
use pgwire_replication::{Lsn, PgWireError, ReplicationClient, ReplicationConfig};
use std::time::Duration;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a query of the catalog may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long making a slot may take: it waits for the transactions that are running.
pub const SLOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Text forms that do not depend on the server's settings; and signs of life every 15 s.
const SETTINGS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC \
    -c bytea_output=hex -c extra_float_digits=3 -c wal_sender_timeout=30s \
    -c idle_in_transaction_session_timeout=0 -c statement_timeout=0 -c lock_timeout=30s";
/// Largest message that the server may send: one row with its values.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Messages of the stream that wait here.
const BUFFERED_EVENTS: usize = 1_024;
/// How often the server is told what is durable.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Longer than the server waits before it asks whether we are there: so it asks, and its silence
/// tells a dead connection.
const IDLE_WAKEUP: Duration = Duration::from_secs(3_600);

/// A row of a query: its values as text.
pub type Row = Vec<Option<Bytes>>;

/// A connection that is not streaming.
pub struct Session(ReplicationClient);

/// The settings of a connection; `start` is where a stream would begin.
fn config(options: &Options, start: u64) -> ReplicationConfig {
    // The client puts the slot's name into its command as it is.
    let slot = format!("\"{}\"", options.slot);
    ReplicationConfig::new(
        options.hostname.as_str(),
        options.username.as_str(),
        options.password.as_str(),
        options.database.as_str(),
        slot,
        options.publication.as_str(),
    )
    .with_port(options.port)
    .with_tls(options.tls.clone())
    .with_options(SETTINGS)
    .with_application_name(format!("kaplan {}", options.slot))
    .with_max_message_size(MAX_MESSAGE_BYTES)
    .with_buffer_size(BUFFERED_EVENTS)
    .with_status_interval(STATUS_INTERVAL)
    .with_wakeup_interval(IDLE_WAKEUP)
    .with_start_lsn(Lsn(start))
}

/// Begins streaming at a position.
///
/// # Errors
/// The server cannot be reached, refuses the role, or has no such slot or publication.
pub async fn stream(options: &Options, start: u64) -> Result<ReplicationClient> {
    let mut client =
        ReplicationClient::connect(config(options, start)).await.map_err(classified)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, client.wait_started()).await {
        Ok(started) => started.map_err(|e| failed(options, e))?,
        Err(_) => {
            client.abort();
            return Err(unreachable(options));
        }
    }
    Ok(client)
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached or refuses the role.
    pub async fn open(options: &Options) -> Result<Session> {
        let client = ReplicationClient::connect_gated(config(options, 0)).await;
        let mut session = Session(client.map_err(classified)?);
        match tokio::time::timeout(CONNECT_TIMEOUT, session.0.simple_query("SELECT 1")).await {
            Ok(Ok(_)) => Ok(session),
            Ok(Err(error)) => Err(failed(options, error)),
            Err(_) => {
                session.0.abort();
                Err(unreachable(options))
            }
        }
    }

    /// Runs a query.
    ///
    /// # Errors
    /// The server refuses it, or it takes too long.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.query_within(sql, QUERY_TIMEOUT).await
    }

    /// Runs a query that may take longer.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn query_within(&mut self, sql: &str, limit: Duration) -> Result<Vec<Row>> {
        match tokio::time::timeout(limit, self.0.simple_query(sql)).await {
            Ok(rows) => rows.map_err(classified),
            Err(_) => {
                self.0.abort();
                let seconds = limit.as_secs();
                Err(Error::unavailable(format!(
                    "PostgreSQL did not answer within {seconds} s: {sql}"
                )))
            }
        }
    }
}

/// The text of a value; empty for NULL.
pub fn text(row: &Row, at: usize) -> String {
    let value = row.get(at).and_then(Option::as_ref);
    value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

/// Whether a value is `t`.
pub fn truth(row: &Row, at: usize) -> bool {
    row.get(at).and_then(Option::as_ref).is_some_and(|bytes| bytes.as_ref() == b"t")
}

/// A name in quotes.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in quotes.
pub fn literal(text: &str) -> String {
    let (escape, text) = match text.contains('\\') {
        true => ("E", text.replace('\\', "\\\\")),
        false => ("", text.to_owned()),
    };
    format!("{escape}'{}'", text.replace('\'', "''"))
}

fn unreachable(options: &Options) -> Error {
    let (host, port) = (&options.hostname, options.port);
    let seconds = CONNECT_TIMEOUT.as_secs();
    Error::unavailable(format!("PostgreSQL at {host}:{port} did not answer within {seconds} s"))
        .hint("is it running, and may this machine reach it?")
}

/// The error of a connection that did not come to be.
fn failed(options: &Options, error: PgWireError) -> Error {
    match &error {
        PgWireError::Io(io) => {
            let (host, port) = (&options.hostname, options.port);
            Error::unavailable(format!("PostgreSQL at {host}:{port} cannot be reached: {io}"))
                .hint("is it running, and may this machine reach it?")
        }
        _ => classified(error),
    }
}

/// What the server or the client said, with what to do about it.
pub fn classified(error: PgWireError) -> Error {
    let message = match &error {
        PgWireError::Server(message) => message.clone(),
        PgWireError::Io(io) => format!("the connection to PostgreSQL was lost: {io}"),
        other => other.to_string(),
    };
    let state = |code: &str| message.contains(&format!("SQLSTATE {code}"));
    let hint = if state("28P01") || state("28000") || matches!(error, PgWireError::Auth(_)) {
        Some(
            "check username, password and pg_hba.conf (replication connections need their own line)",
        )
    } else if state("42501") {
        Some(
            "GRANT SELECT on the tables, and ALTER ROLE .. REPLICATION; for the publication CREATE \
              on the database and to own the tables, or make the publication as their owner",
        )
    } else if state("55006") {
        Some("another client uses the slot; give this source a slot.name of its own")
    } else if state("53400") {
        Some("raise max_replication_slots, or drop slots that are not used any more")
    } else if state("53300") {
        Some("raise max_wal_senders or max_connections")
    } else {
        None
    };
    let error = Error::unavailable(message);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
