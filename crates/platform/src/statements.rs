//! Statements: what each one does and answers.

use crate::changes::{self, Changed};
use crate::platform::Inner;
use crate::{
    BatchMode, BatchRequest, Code, Error, Outcome, Result, RowSet, Session, definitions, functions,
    query, replica, runs, transactions, verify, views, writes,
};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast;
use kaplan_base::{Lsn, limits};
use kaplan_sql::catalog::{self, Architecture};
use kaplan_sql::dialect::{self, CreateView, Explain, ExplainTarget, Statement};
use std::sync::Arc;

/// Runs the statements of a text in order.
pub(crate) async fn execute(
    inner: &Arc<Inner>,
    session: &mut Session,
    sql: &str,
) -> Result<Vec<Outcome>> {
    if sql.len() > limits::MAX_SQL_BYTES {
        let message = format!("the SQL text has {} bytes", sql.len());
        return Err(Error::new(Code::TooLarge, message).hint(format!(
            "at most {} are taken; use COPY or HTTP for data",
            limits::MAX_SQL_BYTES
        )));
    }
    session.transaction.enter();
    let done = in_order(inner, session, sql).await;
    session.transaction.leave(done.is_err());
    done
}

async fn in_order(inner: &Arc<Inner>, session: &mut Session, sql: &str) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for parsed in dialect::parse(sql)? {
        replica::check(inner, &parsed.statement)?;
        transactions::check(inner, session, &parsed.statement)?;
        let remark = transactions::remark(session, &parsed.statement);
        let mut outcome = statement(inner, session, parsed.statement).await?;
        if let Outcome::Done { notices, .. } = &mut outcome {
            notices.extend(remark);
        }
        if let Outcome::Done { lsn: Some(lsn), .. } = &outcome {
            session.last_write = session.last_write.max(*lsn);
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

pub(crate) fn done(tag: impl Into<String>) -> Outcome {
    Outcome::Done { tag: tag.into(), lsn: None, notices: Vec::new() }
}

pub(crate) fn wrote(tag: String, lsn: Lsn) -> Outcome {
    Outcome::Done { tag, lsn: Some(lsn), notices: Vec::new() }
}

pub(crate) fn noticed(tag: impl Into<String>, notice: impl Into<String>) -> Outcome {
    Outcome::Done { tag: tag.into(), lsn: None, notices: vec![notice.into()] }
}

/// The columns that a change of rows returns; None of everything else. Nothing is done.
pub(crate) async fn returned(
    inner: &Arc<Inner>,
    session: &Session,
    sql: &str,
) -> Result<Option<SchemaRef>> {
    let [parsed] = &dialect::parse(sql)?[..] else { return Ok(None) };
    let rows = match &parsed.statement {
        Statement::Insert(insert) => changes::returned_by_insert(inner, session, insert).await?,
        Statement::Update(statement) | Statement::Delete(statement) => {
            changes::returned_by_change(inner, session, statement).await?
        }
        _ => None,
    };
    Ok(rows.map(|rows| rows.schema))
}

/// The answer to a change of rows: those of `RETURNING`, or the number of rows.
fn changed(tag: &str, session: &mut Session, changed: Changed) -> Outcome {
    session.last_write = session.last_write.max(changed.lsn);
    match changed.returned {
        Some(rows) => Outcome::Rows(rows),
        None => wrote(format!("{tag} {}", changed.count), changed.lsn),
    }
}

async fn statement(
    inner: &Arc<Inner>,
    session: &mut Session,
    statement: Statement,
) -> Result<Outcome> {
    Ok(match statement {
        Statement::Query(q) => Outcome::Rows(query::select(inner, session, &q).await?),
        Statement::CreateStream(create) => {
            definitions::create_stream(inner, session, create).await?
        }
        Statement::CreateSource(create) => crate::sources::create(inner, session, *create).await?,
        Statement::CreateSink(create) => crate::sinks::create(inner, session, *create).await?,
        Statement::AlterConnector(alter) if alter.sink => {
            crate::sinks::alter(inner, session, &alter).await?
        }
        Statement::AlterConnector(alter) => crate::sources::alter(inner, session, &alter).await?,
        Statement::CreateTableAs(create) => {
            definitions::create_table_as(inner, session, create).await?
        }
        Statement::CreateView(create) => {
            let name = create.name.clone();
            match views::create(inner, session, create).await? {
                true => done("CREATE MATERIALIZED VIEW"),
                false => noticed(
                    "CREATE MATERIALIZED VIEW",
                    format!("relation \"{name}\" exists already, skipping"),
                ),
            }
        }
        Statement::CreateFunction { or_replace, def } => {
            functions::create(inner, or_replace, def).await?;
            done("CREATE FUNCTION")
        }
        Statement::DropFunction { if_exists, names } => {
            functions::drop(inner, if_exists, &names).await?;
            done("DROP FUNCTION")
        }
        Statement::CreatePlainView(create) => {
            definitions::create_plain_view(inner, session, create).await?
        }
        Statement::CreateIndex(create) => definitions::create_index(inner, session, create).await?,
        Statement::CreateNamespace { object, if_not_exists, name } => {
            definitions::create_namespace(inner, object, if_not_exists, name).await?
        }
        Statement::Alter(alter) => crate::alter::alter(inner, session, alter).await?,
        Statement::Drop(names) => definitions::drop(inner, session, names).await?,
        Statement::Insert(insert) => {
            let done = writes::insert(inner, session, &insert).await?;
            changed("INSERT 0", session, done)
        }
        Statement::Delete(statement) => {
            let ast::Statement::Delete(delete) = statement.as_ref() else {
                return Err(Error::new(Code::Internal, "a DELETE that is none"));
            };
            let done = changes::delete(inner, session, delete).await?;
            changed("DELETE", session, done)
        }
        Statement::Update(statement) => {
            let ast::Statement::Update(update) = statement.as_ref() else {
                return Err(Error::new(Code::Internal, "an UPDATE that is none"));
            };
            let done = changes::update(inner, session, update).await?;
            changed("UPDATE", session, done)
        }
        Statement::Truncate(names) => {
            let mut lsn = Lsn::ZERO;
            for name in names {
                lsn = lsn.max(changes::truncate(inner, session, &name).await?);
            }
            wrote("TRUNCATE TABLE".into(), lsn)
        }
        Statement::Load(load) => {
            let ack = writes::load(inner, session, &load).await?;
            let left = ack.duplicates + ack.dropped + ack.quarantined;
            wrote(format!("COPY {}", ack.rows.saturating_sub(left)), ack.lsn)
        }
        Statement::Show(show) => crate::show::show(inner, session, show).await?,
        Statement::Describe(name) => crate::show::describe(inner, session, &name).await?,
        Statement::Explain(explain) => self::explain(inner, session, explain).await?,
        Statement::Refresh { views, mode } => {
            let mode = match mode {
                catalog::BatchMode::Auto => BatchMode::Auto,
                catalog::BatchMode::Full => BatchMode::Full,
                catalog::BatchMode::Incremental => BatchMode::Incremental,
            };
            let views = views.iter().map(|v| inner.resolve(session, v)).collect();
            let request = BatchRequest { views, mode, key: None };
            runs::run_to_end(inner, request, "manual").await?;
            done("REFRESH MATERIALIZED VIEW")
        }
        Statement::Replay { view, from } => {
            if from.is_some_and(|l| l > Lsn::ZERO) {
                return Err(Error::new(
                    Code::Unsupported,
                    "REPLAY FROM a later LSN is not supported",
                )
                .hint("leave FROM out: the whole history is replayed"));
            }
            let entry = inner.view(&inner.resolve(session, &view))?;
            views::bring_up(inner, &entry, false).await?;
            done("REPLAY MATERIALIZED VIEW")
        }
        Statement::Verify { view, at } => {
            let view = inner.resolve(session, &view);
            Outcome::Rows(verify::verify(inner, session, &view, at).await?)
        }
        Statement::AlterView(alter) => {
            let message =
                format!("ALTER MATERIALIZED VIEW {} SET is not supported yet", alter.name);
            return Err(Error::new(Code::Unsupported, message)
                .hint("drop the view and create it with the other architecture"));
        }
        Statement::Flush => {
            inner.wait_visible(inner.log.head()).await?;
            done("FLUSH")
        }
        Statement::Set { name, value, .. } => {
            let known = crate::show::is_known(&name);
            session.variables.insert(name.clone(), value);
            let notices =
                if known { vec![] } else { vec![format!("setting {name} has no effect here")] };
            Outcome::Done { tag: "SET".into(), lsn: None, notices }
        }
        Statement::Reset(name) => {
            if name == "all" {
                session.variables.clear();
            }
            session.variables.remove(&name);
            done("RESET")
        }
        Statement::Transaction(verb) => transactions::run(inner, session, verb).await?,
        Statement::Comment => noticed("COMMENT", "comments are not kept"),
        Statement::Mark(mark, name) => transactions::mark(session, mark, &name)?,
    })
}

pub(crate) fn text_rows(
    names: &[&str],
    rows: Vec<Vec<Option<String>>>,
    lsn: Lsn,
) -> Result<Outcome> {
    let columns = names.iter().enumerate().map(|(i, name)| {
        let values: StringArray = rows.iter().map(|r| r[i].clone()).collect();
        (*name, Arc::new(values) as ArrayRef, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
    Ok(Outcome::Rows(RowSet { schema: batch.schema(), batches: vec![batch], lsn }))
}

/// What a view is made of, in words.
fn circuit_text(
    view: &kaplan_sql::CompiledView,
    architecture: Architecture,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    lines.push(match architecture {
        Architecture::Kappa => "Kappa: one circuit over the whole log".to_string(),
        Architecture::Lambda if view.mergeable => {
            "Lambda: batch runs and circuit share the view by range of the log".to_string()
        }
        Architecture::Lambda if view.exact => {
            "Lambda: batch runs recompute from the lake; the circuit keeps what came after"
                .to_string()
        }
        Architecture::Lambda => {
            "Lambda: batch runs publish the circuit's own output (floating-point values)"
                .to_string()
        }
    });
    if let Some(tail) = &view.tail {
        lines.push("When read:".into());
        lines.extend(tail.display_indent().to_string().lines().map(|l| format!("  {l}")));
    }
    lines.push("Circuit:".into());
    lines.extend(view.circuit(Lsn::ZERO)?.explain().lines().map(|l| format!("  {l}")));
    Ok(lines)
}

async fn explain(inner: &Arc<Inner>, session: &Session, explain: Explain) -> Result<Outcome> {
    let lsn = inner.driver.snapshot().lsn;
    let lines = match explain.target {
        ExplainTarget::View(name) => {
            let view = inner.view(&inner.resolve(session, &name))?;
            circuit_text(&view.compiled, view.def.architecture)?
        }
        ExplainTarget::CreateView(create) => {
            let create: CreateView = *create;
            let catalog = Arc::clone(&inner.definitions.read());
            let (compiled, _) = views::compile(inner, &catalog, session, &create).await?;
            circuit_text(&compiled, create.architecture)?
        }
        ExplainTarget::Query(q) => {
            let (_, state, plan) = query::plan(inner, session, &q).await?;
            let optimized = state.optimize(&plan)?;
            let mut lines: Vec<String> =
                optimized.display_indent().to_string().lines().map(str::to_string).collect();
            if explain.verbose || explain.analyze {
                let physical = state.create_physical_plan(&plan).await?;
                if explain.analyze {
                    let task = state.task_ctx();
                    datafusion::physical_plan::collect(Arc::clone(&physical), task).await?;
                }
                use datafusion::physical_plan::display::DisplayableExecutionPlan;
                let shown = DisplayableExecutionPlan::with_metrics(physical.as_ref());
                lines.extend(shown.indent(explain.verbose).to_string().lines().map(str::to_string));
            }
            lines
        }
    };
    text_rows(&["QUERY PLAN"], lines.into_iter().map(|l| vec![Some(l)]).collect(), lsn)
}
