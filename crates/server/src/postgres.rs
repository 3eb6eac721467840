//! The PostgreSQL wire: simple and extended queries, one [`Session`] a connection, no
//! authentication and no TLS (the address is loopback unless the operator says otherwise).
//!
//! Every statement is its own transaction. `BEGIN`, `COMMIT` and `ROLLBACK` are taken, because
//! clients send them unasked, and answered with a notice that says so.

mod parameters;
mod sqlstate;

use crate::execute::{execute, reads};
use crate::statements::{keyword, split};
use arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch};
use async_trait::async_trait;
use futures::{Sink, SinkExt};
use kaplan_base::limits::MAX_SQL_BYTES;
use kaplan_platform::{Code, Error, Outcome, Platform, RowSet, Session};
use pgwire::api::auth::StartupHandler;
use pgwire::api::auth::noop::NoopStartupHandler;
use pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{
    DescribePortalResponse, DescribeStatementResponse, FieldInfo, QueryResponse, Response, Tag,
};
use pgwire::api::stmt::{NoopQueryParser, StoredStatement};
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, ConnectionManager, PgWireServerHandlers};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Pause after a failed accept, so that a system without file handles is not hammered.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until `stop`.
pub(crate) async fn listen(listener: TcpListener, platform: Platform, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let manager = Arc::new(ConnectionManager::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, _)) => match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let connection = Connection::new(platform.clone(), manager.clone());
                    let stop = stop.clone();
                    tokio::spawn(async move {
                        serve(socket, connection, stop).await;
                        drop(slot);
                    });
                }
                Err(_) => {
                    // Closed without a word: the client has not said yet that it speaks this wire.
                    tracing::warn!(MAX_CONNECTIONS, "refused a PostgreSQL connection: too many");
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a PostgreSQL connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, connection: Connection, stop: CancellationToken) {
    let peer = socket.peer_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
    tracing::debug!(peer, "PostgreSQL connection opened");
    let handlers = Handlers(Arc::new(connection));
    tokio::select! {
        served = pgwire::tokio::process_socket(socket, None, handlers) => {
            if let Err(error) = served {
                tracing::debug!(peer, %error, "PostgreSQL connection broke");
            }
        }
        () = stop.cancelled() => {}
    }
    tracing::debug!(peer, "PostgreSQL connection closed");
}

struct Handlers(Arc<Connection>);

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        self.0.clone()
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        self.0.clone()
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        self.0.clone()
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(DefaultCancelHandler::new(self.0.manager.clone()))
    }
}

/// One client.
struct Connection {
    platform: Platform,
    manager: Arc<ConnectionManager>,
    parser: Arc<NoopQueryParser>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Session,
    /// Rows read to describe a portal, kept for its execution.
    described: Option<(String, RowSet)>,
}

/// What one statement answers, and what is to be said beside it.
struct Answer {
    outcome: Answered,
    notices: Vec<String>,
}

enum Answered {
    Rows(RowSet),
    Done(String),
    Empty,
}

impl Connection {
    fn new(platform: Platform, manager: Arc<ConnectionManager>) -> Self {
        let parser = Arc::new(NoopQueryParser::new());
        Self { platform, manager, parser, state: Mutex::default() }
    }

    async fn answer(&self, statement: &str) -> Result<Answer, Error> {
        if let Some(tag) = transaction_tag(statement) {
            let notices = vec!["each statement is its own transaction".to_owned()];
            return Ok(Answer { outcome: Answered::Done(tag.to_owned()), notices });
        }
        let mut state = self.state.lock().await;
        if let Some((sql, rows)) = state.described.take()
            && sql == statement
        {
            return Ok(Answer { outcome: Answered::Rows(rows), notices: Vec::new() });
        }
        if statement.len() > MAX_SQL_BYTES {
            let what = format!("the statement has more than {MAX_SQL_BYTES} bytes");
            return Err(Error::new(Code::TooLarge, what).hint("send rows over HTTP instead"));
        }
        let outcomes = execute(&self.platform, &mut state.session, statement).await?;
        Ok(match outcomes.into_iter().next_back() {
            Some(Outcome::Rows(rows)) => {
                Answer { outcome: Answered::Rows(rows), notices: Vec::new() }
            }
            Some(Outcome::Done { tag, notices, .. }) => {
                Answer { outcome: Answered::Done(tag), notices }
            }
            None => Answer { outcome: Answered::Empty, notices: Vec::new() },
        })
    }

    /// The columns of a statement that returns rows; the rows are kept for the execution.
    async fn describe(&self, statement: &str) -> Result<Option<RowSet>, Error> {
        if transaction_tag(statement).is_some() || !reads(statement) {
            return Ok(None);
        }
        match self.answer(statement).await?.outcome {
            Answered::Rows(rows) => Ok(Some(rows)),
            Answered::Done(_) | Answered::Empty => Ok(None),
        }
    }
}

/// The tag of a statement that opens or ends a transaction.
fn transaction_tag(statement: &str) -> Option<&'static str> {
    match keyword(statement).as_str() {
        "BEGIN" => Some("BEGIN"),
        "START" => Some("START TRANSACTION"),
        "COMMIT" | "END" => Some("COMMIT"),
        "ROLLBACK" | "ABORT" => Some("ROLLBACK"),
        "SAVEPOINT" => Some("SAVEPOINT"),
        "RELEASE" => Some("RELEASE"),
        "DISCARD" => Some("DISCARD ALL"),
        _ => None,
    }
}

fn fields(rows: &RowSet, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
    arrow_schema_to_pg_fields(&rows.schema, format, None)
}

async fn respond<C>(client: &mut C, answer: Answer, format: &Format) -> PgWireResult<Response>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<C::Error>,
{
    for text in answer.notices {
        let notice = sqlstate::notice(text).into();
        client.feed(PgWireBackendMessage::NoticeResponse(notice)).await?;
    }
    match answer.outcome {
        Answered::Empty => Ok(Response::EmptyQuery),
        Answered::Done(tag) => Ok(Response::Execution(Tag::new(&tag))),
        Answered::Rows(rows) => {
            let fields = Arc::new(fields(&rows, format)?);
            let encoded = fields.clone();
            let rows = rows.batches.into_iter();
            let rows = rows.flat_map(move |batch| encode_recordbatch(encoded.clone(), batch));
            Ok(Response::Query(QueryResponse::new(fields, futures::stream::iter(rows))))
        }
    }
}

impl NoopStartupHandler for Connection {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(self.manager.clone())
    }
}

#[async_trait]
impl SimpleQueryHandler for Connection {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut responses = Vec::new();
        for statement in split(query) {
            match self.answer(statement).await {
                Ok(answer) => {
                    responses.push(respond(client, answer, &Format::UnifiedText).await?);
                }
                // What came before stands, so it is answered; nothing after the error runs.
                Err(error) => {
                    responses.push(Response::Error(Box::new(sqlstate::info(error))));
                    return Ok(responses);
                }
            }
        }
        match responses.is_empty() {
            true => Ok(vec![Response::EmptyQuery]),
            false => Ok(responses),
        }
    }
}

#[async_trait]
impl ExtendedQueryHandler for Connection {
    type Statement = String;
    type QueryParser = NoopQueryParser;

    fn query_parser(&self) -> Arc<Self::QueryParser> {
        self.parser.clone()
    }

    async fn do_describe_statement<C>(
        &self,
        _client: &mut C,
        target: &StoredStatement<String>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = String>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statement = only_statement(&target.statement)?;
        let types = parameters::types(statement, &target.parameter_types);
        let sql = parameters::unbound(statement);
        // Only the columns are wanted; a statement that cannot stand in a FROM is run as it is.
        let columns = match keyword(&sql).as_str() {
            "SELECT" | "WITH" | "VALUES" | "TABLE" => {
                let probe = format!("SELECT * FROM (\n{sql}\n) AS described LIMIT 0");
                self.describe(&probe).await
            }
            _ => self.describe(&sql).await,
        };
        let columns = match columns {
            Ok(columns) => columns,
            Err(_) => self.describe(&sql).await.map_err(sqlstate::error)?,
        };
        let fields = columns.map_or(Ok(Vec::new()), |rows| fields(&rows, &Format::UnifiedText))?;
        Ok(DescribeStatementResponse::new(types, fields))
    }

    async fn do_describe_portal<C>(
        &self,
        _client: &mut C,
        target: &Portal<String>,
    ) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = String>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let sql = parameters::bound(target)?;
        let sql = only_statement(&sql)?;
        let Some(rows) = self.describe(sql).await.map_err(sqlstate::error)? else {
            return Ok(DescribePortalResponse::new(Vec::new()));
        };
        let fields = fields(&rows, &target.result_column_format)?;
        self.state.lock().await.described = Some((sql.to_owned(), rows));
        Ok(DescribePortalResponse::new(fields))
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<String>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = String>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let sql = parameters::bound(portal)?;
        let sql = only_statement(&sql)?;
        let answer = self.answer(sql).await.map_err(sqlstate::error)?;
        respond(client, answer, &portal.result_column_format).await
    }
}

/// The extended protocol takes one statement at a time.
fn only_statement(sql: &str) -> PgWireResult<&str> {
    match split(sql).as_slice() {
        [] => Ok(""),
        [one] => Ok(one),
        _ => {
            let error = Error::new(Code::Syntax, "a prepared statement holds one statement only");
            Err(sqlstate::error(error.hint("prepare each statement by itself")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_statements_have_their_tags() {
        assert_eq!(transaction_tag("begin isolation level serializable"), Some("BEGIN"));
        assert_eq!(transaction_tag(" /* x */ END"), Some("COMMIT"));
        assert_eq!(transaction_tag("select 1"), None);
    }

    #[test]
    fn one_statement_is_prepared_at_a_time() {
        assert_eq!(only_statement(" select 1 ; ").unwrap(), "select 1");
        assert_eq!(only_statement("-- nothing").unwrap(), "");
        assert!(only_statement("select 1; select 2").is_err());
    }
}
