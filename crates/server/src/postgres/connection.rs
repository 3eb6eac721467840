//! One client: what each of its statements is and who answers it. Questions about the server go to
//! the system catalogs, everything else to the platform.

use super::cell::encode_row;
use super::copy::{self, Copy, CopyIn};
use super::named::NamedStatements;
use super::prepared::{Parser, Prepared, Shared, identity, too_large, without_null};
use super::session::{self, Transaction};
use super::{parameters, settings, sqlstate, wire_type};
use crate::execute::{execute, reads};
use crate::statements::{keyword, split};
use arrow::array::{RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::future::{Either, select};
use futures::{Sink, SinkExt};
use kaplan_base::Lsn;
use kaplan_platform::{Outcome, RowSet, Session};
use pgwire::api::copy::{CopyHandler, send_copy_in_response, send_copy_out_response};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{
    ExtendedQueryHandler, SimpleQueryHandler, send_execution_response, send_query_response,
    send_ready_for_query,
};
use pgwire::api::results::{
    CopyResponse, DescribePortalResponse, DescribeStatementResponse, FieldInfo, QueryResponse,
    Response, Tag,
};
use pgwire::api::stmt::StoredStatement;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, ConnectionHandle, PgWireConnectionState};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyFail};
use pgwire::messages::data::DataRow;
use pgwire::messages::extendedquery::Execute;
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::ParameterStatus;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::Mutex;

/// One client.
pub(super) struct Connection {
    shared: Arc<Shared>,
    parser: Arc<Parser>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Session,
    /// Whether the settings of the start-up message are in the session.
    started: bool,
    /// Rows of a statement whose columns only running it tells, kept for its execution.
    described: Option<(String, RowSet)>,
    copy: Option<CopyIn>,
    /// Statements of `PREPARE`.
    named: NamedStatements,
    /// Whether the last statement was `ROLLBACK TO`.
    back: bool,
}

/// A result of the platform or the catalogs.
enum Answer {
    Rows(RowSet),
    Done { tag: String, notices: Vec<String> },
    Empty,
}

impl Connection {
    pub fn new(shared: Arc<Shared>) -> Self {
        let parser = Arc::new(Parser(Arc::clone(&shared)));
        Self { shared, parser, state: Mutex::default() }
    }

    /// The rows or the tag of a statement that is neither about the conversation nor a COPY.
    async fn answer<C: ClientInfo>(&self, client: &C, statement: &str) -> PgWireResult<Answer> {
        too_large(statement).map_err(sqlstate::error)?;
        let mut state = self.state.lock().await;
        if !state.started {
            state.session.variables = identity(client, &self.shared.platform).variables;
            state.started = true;
        }
        if let Some((sql, rows)) = state.described.take()
            && sql == statement
        {
            return Ok(Answer::Rows(rows));
        }
        if let Some(rows) = shown(statement, &state.session.variables) {
            return Ok(Answer::Rows(rows));
        }
        let Shared { platform, catalog } = &*self.shared;
        if let Some(question) = catalog.question(statement).map_err(sqlstate::error)? {
            let mut identity = identity(client, platform);
            identity.variables.clone_from(&state.session.variables);
            let rows = catalog.answer(platform, &identity, question).await;
            return rows.map(Answer::Rows).map_err(sqlstate::error);
        }
        let limit = settings::statement_timeout(&state.session.variables);
        let limit = limit.filter(|_| reads(statement));
        let run = execute(platform, &mut state.session, statement);
        let outcomes = match limit {
            Some(limit) => tokio::time::timeout(limit, run).await.map_err(|_| {
                sqlstate::user("57014", "canceling statement due to statement timeout")
            })?,
            None => run.await,
        };
        let outcomes = outcomes.map_err(|e| sqlstate::of_statement(e, statement))?;
        let outcome = outcomes.into_iter().next_back();
        Ok(match outcome {
            Some(Outcome::Rows(rows)) => Answer::Rows(rows),
            Some(Outcome::Done { tag, notices, .. }) => Answer::Done { tag, notices },
            None => Answer::Empty,
        })
    }

    /// The rows of a prepared read by value; None where its text is to be run.
    async fn by_value<C: ClientInfo>(
        &self,
        client: &C,
        portal: &Portal<Prepared>,
    ) -> PgWireResult<Option<RowSet>> {
        let prepared = &portal.statement.statement;
        let Some(read) = &prepared.point else { return Ok(None) };
        let state = self.state.lock().await;
        let plain = state.started
            && state.described.is_none()
            && client.transaction_status() == TransactionStatus::Idle
            && settings::statement_timeout(&state.session.variables).is_none();
        if !plain || portal.parameter_len() != prepared.types.len() {
            return Ok(None);
        }
        let Some(read) = read.bound(|number| parameters::plain(portal, &prepared.types, number))
        else {
            return Ok(None);
        };
        let rows = self.shared.platform.read_by_value(&state.session, &read).await;
        rows.map_err(sqlstate::error)
    }

    /// Runs a setting's statement and tells the client what it asked to be told.
    async fn set<C>(&self, client: &mut C, statement: &str) -> PgWireResult<Response>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let before = self.variables(client).await;
        let answer = self.answer(client, statement).await?;
        let after = self.variables(client).await;
        let changed: Vec<_> = after.iter().filter(|(n, v)| before.get(*n) != Some(*v)).collect();
        let mut remarks = Vec::new();
        for (name, value) in &changed {
            if let Err(error) = settings::check(name, value) {
                self.state.lock().await.session.variables = before;
                return Err(error);
            }
            remarks.extend(settings::remark(name, value));
        }
        let Answer::Done { tag, notices } = answer else { return Ok(Response::EmptyQuery) };
        if !changed.iter().any(|(name, _)| settings::known(name)) {
            remarks.extend(notices.into_iter().filter(|_| !changed.is_empty()));
        }
        notices_to(client, remarks).await?;
        for name in settings::REPORTED {
            let value = |variables| settings::value(name, variables);
            let told = value(&after).filter(|now| value(&before).as_ref() != Some(now));
            if let Some(value) = told {
                let status = ParameterStatus::new(name.to_owned(), value);
                client.feed(PgWireBackendMessage::ParameterStatus(status)).await?;
            }
        }
        Ok(Response::Execution(Tag::new(&tag)))
    }

    async fn variables<C: ClientInfo>(&self, client: &C) -> BTreeMap<String, String> {
        let mut state = self.state.lock().await;
        if !state.started {
            state.session.variables = identity(client, &self.shared.platform).variables;
            state.started = true;
        }
        state.session.variables.clone()
    }

    /// Runs one statement.
    async fn respond<C>(
        &self,
        client: &mut C,
        statement: &str,
        columns: Option<&SchemaRef>,
        format: &Format,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let transaction = session::transaction(statement);
        let ends = matches!(
            transaction,
            Some(Transaction::Commit | Transaction::Rollback | Transaction::Back)
        );
        let failed = client.transaction_status() == TransactionStatus::Error;
        if failed && !ends {
            let text = "current transaction is aborted, commands ignored until end of \
                        transaction block";
            return Err(sqlstate::user("25P02", text));
        }
        if let Some(transaction) = transaction {
            return self.transaction(client, statement, transaction, failed).await;
        }
        if let Some(tag) = session::clean_up(statement) {
            return Ok(Response::Execution(Tag::new(tag)));
        }
        if let Some(name) = session::deallocate(statement) {
            let tag = if name.is_some() { "DEALLOCATE" } else { "DEALLOCATE ALL" };
            self.state.lock().await.named.forget(name.as_deref());
            if let Some(name) = name {
                client.portal_store().rm_statement(&name);
            }
            return Ok(Response::Execution(Tag::new(tag)));
        }
        let statement = &*self.expanded(statement).await?;
        match keyword(statement).as_str() {
            "PREPARE" => {
                self.state.lock().await.named.prepare(statement)?;
                return Ok(Response::Execution(Tag::new("PREPARE")));
            }
            "SET" | "RESET" => return self.set(client, statement).await,
            "DISCARD" => {
                let mut state = self.state.lock().await;
                state.session.variables.clear();
                state.named.forget(None);
                return Ok(Response::Execution(Tag::new("DISCARD ALL")));
            }
            "COPY" => match copy::parse(statement)? {
                Some(Copy::In(plan)) => return self.copy_in(plan).await,
                Some(Copy::Out(plan)) => return self.copy_out(client, &plan).await,
                None => {}
            },
            _ => {}
        }
        match self.answer(client, statement).await? {
            Answer::Empty => Ok(Response::EmptyQuery),
            Answer::Rows(rows) => Ok(Response::Query(query(rows, columns, format)?)),
            Answer::Done { tag, notices } => {
                notices_to(client, notices).await?;
                Ok(Response::Execution(Tag::new(&tag)))
            }
        }
    }

    /// Begins or ends a transaction, or sets a mark in it.
    async fn transaction<C>(
        &self,
        client: &mut C,
        statement: &str,
        transaction: Transaction,
        failed: bool,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut state = self.state.lock().await;
        // What the wire refused has failed the transaction too.
        let ends = matches!(transaction, Transaction::Commit | Transaction::Rollback);
        let sql = if failed && ends { "ROLLBACK" } else { statement };
        let done = execute(&self.shared.platform, &mut state.session, sql).await;
        if ends {
            // It has ended even where it could not be committed.
            client.set_transaction_status(TransactionStatus::Idle);
        }
        let outcome = done.map_err(sqlstate::error)?.into_iter().next_back();
        let Some(Outcome::Done { tag, notices, .. }) = outcome else {
            return Ok(Response::EmptyQuery);
        };
        state.back = transaction == Transaction::Back;
        drop(state);
        for notice in notices {
            let warning = sqlstate::warning(notice).into();
            client.feed(PgWireBackendMessage::NoticeResponse(warning)).await?;
        }
        Ok(match transaction {
            Transaction::Begin(tag) => Response::TransactionStart(Tag::new(tag)),
            Transaction::Commit | Transaction::Rollback => Response::TransactionEnd(Tag::new(&tag)),
            Transaction::Mark(tag) => Response::Execution(Tag::new(tag)),
            Transaction::Back => Response::Execution(Tag::new("ROLLBACK")),
        })
    }

    /// The statement that an `EXECUTE` stands for; every other one stays as it is.
    async fn expanded<'a>(&self, statement: &'a str) -> PgWireResult<Cow<'a, str>> {
        if keyword(statement) != "EXECUTE" {
            return Ok(Cow::Borrowed(statement));
        }
        self.state.lock().await.named.executed(statement).map(Cow::Owned)
    }

    async fn copy_in(&self, plan: copy::Plan) -> PgWireResult<Response> {
        let mut state = self.state.lock().await;
        let copy = CopyIn::start(&self.shared.platform, &state.session, plan);
        let copy = copy.map_err(sqlstate::error)?;
        let response = CopyResponse::new(copy.format(), copy.width(), futures::stream::empty());
        state.copy = Some(copy);
        Ok(Response::CopyIn(response))
    }

    /// Sends the rows; the caller sends the tag.
    async fn copy_out<C>(&self, client: &mut C, plan: &copy::Plan) -> PgWireResult<Response>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let sql = copy::query(plan);
        let Answer::Rows(rows) = self.answer(client, &sql).await? else {
            return Err(sqlstate::user("0A000", "COPY needs a query that returns rows"));
        };
        let width = rows.schema.fields().len();
        let messages = copy::Out::new(plan, rows)?;
        let format = messages.format();
        let start = pgwire::messages::copy::CopyOutResponse::new(
            format,
            i16::try_from(width).unwrap_or(i16::MAX),
            vec![i16::from(format); width],
        );
        client.feed(PgWireBackendMessage::CopyOutResponse(start)).await?;
        let mut count = 0;
        for message in messages {
            let (rows, data) = message?;
            count += rows;
            if !data.data.is_empty() {
                client.feed(PgWireBackendMessage::CopyData(data)).await?;
            }
        }
        client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
        Ok(Response::Execution(Tag::new("COPY").with_rows(count)))
    }

    /// Runs a statement until it ends or the client cancels it.
    async fn cancellable<C>(&self, client: &mut C, statement: &str) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let handle = client.session_extensions().get::<Arc<ConnectionHandle>>();
        let run = self.respond(client, statement, None, &Format::UnifiedText);
        let Some(handle) = handle else { return run.await };
        let cancelled = handle.start_query().await;
        match select(Box::pin(run), cancelled).await {
            Either::Left((done, _)) => done,
            Either::Right((_, run)) => {
                // What it changes must not come into the transaction later.
                drop(run);
                self.state.lock().await.session.transaction.cancel();
                Err(PgWireError::QueryCanceled)
            }
        }
    }

    async fn send<C>(&self, client: &mut C, response: Response) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match response {
            Response::EmptyQuery => {
                let empty = PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new());
                client.feed(empty).await?;
            }
            Response::Query(results) => send_query_response(client, results, true).await?,
            Response::Execution(tag) => {
                send_execution_response(client, tag).await?;
                if std::mem::take(&mut self.state.lock().await.back) {
                    client.set_transaction_status(TransactionStatus::Transaction);
                }
            }
            Response::TransactionStart(tag) => {
                send_execution_response(client, tag).await?;
                client.set_transaction_status(TransactionStatus::Transaction);
            }
            Response::TransactionEnd(tag) => {
                send_execution_response(client, tag).await?;
                client.set_transaction_status(TransactionStatus::Idle);
            }
            Response::Error(error) => return Err(PgWireError::UserError(error)),
            Response::CopyIn(copy) => {
                send_copy_in_response(client, copy).await?;
                client.set_state(PgWireConnectionState::CopyInProgress(false));
            }
            Response::CopyOut(copy) | Response::CopyBoth(copy) => {
                send_copy_out_response(client, copy).await?;
            }
        }
        Ok(())
    }

    /// The columns of a statement that only running it tells; its rows are kept.
    async fn run_to_describe<C: ClientInfo>(
        &self,
        client: &C,
        prepared: &Prepared,
    ) -> PgWireResult<Option<SchemaRef>> {
        let sql = self.expanded(&prepared.sql).await?;
        if prepared.columns.is_some() || !reads(&sql) {
            return Ok(prepared.columns.clone());
        }
        let Answer::Rows(rows) = self.answer(client, &sql).await? else { return Ok(None) };
        let columns = without_null(&rows.schema);
        self.state.lock().await.described = Some((sql.into_owned(), rows));
        Ok(Some(columns))
    }
}

/// The rows of a `SHOW` of PostgreSQL's settings.
fn shown(statement: &str, variables: &BTreeMap<String, String>) -> Option<RowSet> {
    if keyword(statement) != "SHOW" {
        return None;
    }
    let name = settings::shown(statement)?;
    let value = settings::value(&name, variables);
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
    let column = Arc::new(StringArray::from(vec![value]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).ok()?;
    Some(RowSet { schema, batches: vec![batch], lsn: Lsn::ZERO })
}

async fn notices_to<C>(client: &mut C, texts: Vec<String>) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<C::Error>,
{
    for text in texts {
        let notice = sqlstate::notice(text).into();
        client.feed(PgWireBackendMessage::NoticeResponse(notice)).await?;
    }
    Ok(())
}

/// The wire's columns; the client gave one format, or one for each.
pub(super) fn fields(schema: &SchemaRef, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
    if let Format::Individual(codes) = format
        && codes.len() != schema.fields().len()
    {
        let (given, has) = (codes.len(), schema.fields().len());
        let text = format!("bind message has {given} result formats but query has {has} columns");
        return Err(sqlstate::user("08P01", text));
    }
    Ok(wire_type::described(schema, format))
}

/// A batch with exactly these columns: what was described is what is sent.
pub(super) fn fit(batch: &RecordBatch, schema: &SchemaRef) -> PgWireResult<RecordBatch> {
    let failed = |e: arrow::error::ArrowError| sqlstate::error(e.into());
    let columns = batch.columns().iter().zip(schema.fields()).map(|(array, field)| {
        match array.data_type() == field.data_type() {
            true => Ok(Arc::clone(array)),
            false => arrow::compute::cast(array, field.data_type()),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(failed)
}

fn query(
    rows: RowSet,
    columns: Option<&SchemaRef>,
    format: &Format,
) -> PgWireResult<QueryResponse> {
    let own = without_null(&rows.schema);
    let same = |given: &&SchemaRef| given.fields().len() == own.fields().len();
    let schema = Arc::clone(columns.filter(same).unwrap_or(&own));
    let fields = Arc::new(fields(&schema, format)?);
    let encoded = Arc::clone(&fields);
    let rows = rows.batches.into_iter().flat_map(move |batch| {
        let (encoded, none) = (Arc::clone(&encoded), RecordBatch::new_empty(Arc::clone(&schema)));
        let (batch, error) = match fit(&batch, &schema) {
            Ok(batch) => (batch, None),
            Err(error) => (none, Some(Err(error))),
        };
        error.into_iter().chain(encode_rows(encoded, batch))
    });
    Ok(QueryResponse::new(fields, futures::stream::iter(rows)))
}

fn encode_rows(
    fields: Arc<Vec<FieldInfo>>,
    batch: RecordBatch,
) -> impl Iterator<Item = PgWireResult<DataRow>> {
    (0..batch.num_rows()).map(move |row| encode_row(&batch, row, &fields))
}

#[async_trait]
impl SimpleQueryHandler for Connection {
    async fn on_query<C>(&self, client: &mut C, message: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let statements = split(&message.query);
        if statements.is_empty() {
            self.send(client, Response::EmptyQuery).await?;
        }
        let last = statements.len().saturating_sub(1);
        for (at, statement) in statements.into_iter().enumerate() {
            let response = self.cancellable(client, statement).await?;
            if at < last && matches!(response, Response::CopyIn(_)) {
                let text = "COPY FROM STDIN must be the last statement of a message";
                return Err(sqlstate::user("0A000", text));
            }
            self.send(client, response).await?;
        }
        if !matches!(client.state(), PgWireConnectionState::CopyInProgress(_)) {
            client.set_state(PgWireConnectionState::ReadyForQuery);
            let status = client.transaction_status();
            send_ready_for_query(client, status).await?;
        }
        Ok(())
    }

    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut responses = Vec::new();
        for statement in split(query) {
            responses.push(self.cancellable(client, statement).await?);
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Connection {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Self::QueryParser> {
        Arc::clone(&self.parser)
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self._on_execute(client, message).await?;
        if std::mem::take(&mut self.state.lock().await.back) {
            client.set_transaction_status(TransactionStatus::Transaction);
        }
        Ok(())
    }

    async fn do_describe_statement<C>(
        &self,
        client: &mut C,
        target: &StoredStatement<Prepared>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let prepared = &target.statement;
        let columns = self.run_to_describe(client, prepared).await?;
        let described = columns.map(|c| fields(&c, &Format::UnifiedText)).transpose()?;
        let types = prepared.types.clone();
        Ok(DescribeStatementResponse::new(types, described.unwrap_or_default()))
    }

    async fn do_describe_portal<C>(
        &self,
        client: &mut C,
        target: &Portal<Prepared>,
    ) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let columns = self.run_to_describe(client, &target.statement.statement).await?;
        let described = columns.map(|c| fields(&c, &target.result_column_format)).transpose()?;
        Ok(DescribePortalResponse::new(described.unwrap_or_default()))
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Prepared>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let prepared = &portal.statement.statement;
        if let Some(rows) = self.by_value(client, portal).await? {
            let (columns, format) = (prepared.columns.as_ref(), &portal.result_column_format);
            return Ok(Response::Query(query(rows, columns, format)?));
        }
        let sql = parameters::bound(&prepared.sql, &prepared.types, portal)?;
        self.respond(client, &sql, prepared.columns.as_ref(), &portal.result_column_format).await
    }
}

#[async_trait]
impl CopyHandler for Connection {
    async fn on_copy_data<C>(&self, _client: &mut C, data: CopyData) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut state = self.state.lock().await;
        let Some(mut copy) = state.copy.take() else { return Ok(()) };
        copy.take(&self.shared.platform, &state.session, &data.data)
            .await
            .map_err(sqlstate::error)?;
        state.copy = Some(copy);
        Ok(())
    }

    async fn on_copy_done<C>(&self, client: &mut C, _done: CopyDone) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut state = self.state.lock().await;
        let Some(copy) = state.copy.take() else {
            return Err(sqlstate::user("08P01", "there is no COPY to end"));
        };
        let ack = copy.finish(&self.shared.platform, &state.session).await;
        let ack = ack.map_err(sqlstate::error)?;
        state.session.last_write = state.session.last_write.max(ack.lsn);
        let rows = ack.rows.saturating_sub(ack.duplicates + ack.dropped + ack.quarantined);
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        send_execution_response(client, Tag::new("COPY").with_rows(rows)).await
    }

    async fn on_copy_fail<C>(&self, _client: &mut C, fail: CopyFail) -> PgWireError
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.state.lock().await.copy = None;
        sqlstate::user("57014", format!("COPY from stdin failed: {}", fail.message))
    }
}
