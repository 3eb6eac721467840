//! Statements: what each one does and answers.

use crate::platform::Inner;
use crate::{
    Ack, BatchMode, BatchRequest, Code, Error, Outcome, Result, RowSet, Session, catalog,
    functions, query, recover, runs, verify, views, writes,
};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use kaplan_base::{Lsn, StreamId, limits};
use kaplan_sql::catalog::{self as definitions, Architecture, ColumnDef, OnViolation, StreamDef};
use kaplan_sql::dialect::{
    self, CreateStream, CreateView, DropRelations, Explain, ExplainTarget, Object, Show, Statement,
};
use std::collections::BTreeSet;
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
    let mut outcomes = Vec::new();
    for parsed in dialect::parse(sql)? {
        let outcome = statement(inner, session, parsed.statement).await?;
        if let Outcome::Done { lsn: Some(lsn), .. } = &outcome {
            session.last_write = session.last_write.max(*lsn);
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn done(tag: impl Into<String>) -> Outcome {
    Outcome::Done { tag: tag.into(), lsn: None, notices: Vec::new() }
}

fn wrote(tag: String, lsn: Lsn) -> Outcome {
    Outcome::Done { tag, lsn: Some(lsn), notices: Vec::new() }
}

/// The rows of a write that are in the stream now.
fn admitted(ack: &Ack) -> u64 {
    ack.rows.saturating_sub(ack.duplicates + ack.dropped + ack.quarantined)
}

async fn statement(
    inner: &Arc<Inner>,
    session: &mut Session,
    statement: Statement,
) -> Result<Outcome> {
    Ok(match statement {
        Statement::Query(q) => Outcome::Rows(query::select(inner, session, &q).await?),
        Statement::CreateStream(create) => create_stream(inner, create).await?,
        Statement::CreateView(create) => {
            views::create(inner, create).await?;
            done("CREATE MATERIALIZED VIEW")
        }
        Statement::CreateFunction { or_replace, def } => {
            functions::create(inner, or_replace, def).await?;
            done("CREATE FUNCTION")
        }
        Statement::DropFunction { if_exists, names } => {
            functions::drop(inner, if_exists, &names).await?;
            done("DROP FUNCTION")
        }
        Statement::Drop(names) => drop_relations(inner, names).await?,
        Statement::Insert(insert) => {
            let ack = writes::insert(inner, session, &insert).await?;
            wrote(format!("INSERT 0 {}", admitted(&ack)), ack.lsn)
        }
        Statement::Delete(delete) => {
            let ack = writes::delete(inner, session, &delete).await?;
            wrote(format!("DELETE {}", ack.rows), ack.lsn)
        }
        Statement::Update(_) => {
            return Err(Error::new(Code::Unsupported, "UPDATE is not supported yet")
                .hint("INSERT into a table with a PRIMARY KEY replaces the row of that key"));
        }
        Statement::Load(load) => {
            let ack = writes::load(inner, &load).await?;
            wrote(format!("COPY {}", admitted(&ack)), ack.lsn)
        }
        Statement::Show(show) => self::show(inner, session, show)?,
        Statement::Describe(name) => describe(inner, &name)?,
        Statement::Explain(explain) => self::explain(inner, session, explain).await?,
        Statement::Refresh { views, mode } => {
            let mode = match mode {
                definitions::BatchMode::Auto => BatchMode::Auto,
                definitions::BatchMode::Full => BatchMode::Full,
                definitions::BatchMode::Incremental => BatchMode::Incremental,
            };
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
            let entry = inner.view(&view)?;
            views::bring_up(inner, &entry, false).await?;
            done("REPLAY MATERIALIZED VIEW")
        }
        Statement::Verify { view, at } => {
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
            let known = name.starts_with("kaplan.") || name == "timezone";
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
        Statement::Transaction(t) => Outcome::Done {
            tag: t.tag().into(),
            lsn: None,
            notices: vec!["every statement is its own transaction".into()],
        },
    })
}

fn text_rows(names: &[&str], rows: Vec<Vec<Option<String>>>, lsn: Lsn) -> Result<Outcome> {
    let columns = names.iter().enumerate().map(|(i, name)| {
        let values: StringArray = rows.iter().map(|r| r[i].clone()).collect();
        (*name, Arc::new(values) as ArrayRef, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
    Ok(Outcome::Rows(RowSet { schema: batch.schema(), batches: vec![batch], lsn }))
}

async fn create_stream(inner: &Arc<Inner>, create: CreateStream) -> Result<Outcome> {
    let tag = if create.append_only { "CREATE STREAM" } else { "CREATE TABLE" };
    if let Some(option) = create.options.keys().next() {
        let message = format!("{tag} has no option {option}");
        return Err(Error::new(Code::InvalidInput, message).hint("leave WITH (..) out"));
    }
    let mut stored = inner.catalog.lock().await;
    let taken = |name: &str| stored.streams.contains_key(name) || stored.views.contains_key(name);
    let quarantine = recover::quarantine_name(&create.name);
    let quarantines = create.checks.iter().any(|c| c.on_violation == OnViolation::Quarantine);
    if taken(&create.name) && create.if_not_exists {
        return Ok(Outcome::Done {
            tag: tag.into(),
            lsn: None,
            notices: vec![format!("{} exists already, skipping", create.name)],
        });
    }
    // The quarantine of an earlier stream of this name is kept and goes on.
    let kept = quarantines && stored.streams.get(&quarantine).is_some_and(is_quarantine);
    let needed = (quarantines && !kept).then_some(&quarantine);
    for name in [Some(&create.name), needed].into_iter().flatten() {
        if taken(name) {
            return Err(Error::new(Code::DuplicateRelation, format!("{name} exists already"))
                .stream(name)
                .hint("drop it first, or choose another name"));
        }
    }
    let mut next = stored.clone();
    let mut new = Vec::new();
    let head = inner.log.head();
    if quarantines && !kept {
        next.next_id += 1;
        new.push(quarantine_stream(quarantine, StreamId(next.next_id), head));
    }
    next.next_id += 1;
    new.push(create.into_def(StreamId(next.next_id), head));
    for def in &new {
        next.streams.insert(def.name.clone(), def.clone());
    }
    let mut ready = Vec::new();
    for def in &new {
        ready.push((recover::info(def)?, recover::definition(&inner.planner, &next, def)?));
    }
    for (info, _) in &ready {
        inner.lake.create(&info.table()).await?;
    }
    catalog::save(&inner.settings.data_dir, &next)?;
    *inner.definitions.write() = Arc::new(next.clone());
    *stored = next;
    for (info, definition) in ready {
        inner.streams.set(info);
        inner.sequencer.define(definition).await?;
    }
    Ok(done(tag))
}

/// Whether a stream can take rows that broke a check.
fn is_quarantine(def: &StreamDef) -> bool {
    let like = quarantine_stream(def.name.clone(), def.id, def.created_at);
    def.append_only && def.columns == like.columns
}

/// The stream that takes another one's rows that broke a check.
fn quarantine_stream(name: String, id: StreamId, created_at: Lsn) -> StreamDef {
    let column = |name: &str, sql_type: &str| ColumnDef {
        name: name.into(),
        sql_type: sql_type.into(),
        nullable: true,
        default: None,
    };
    StreamDef {
        id,
        name,
        columns: vec![
            column("reason", "text"),
            column("constraint_name", "text"),
            column("row_number", "bigint"),
            column("row", "text"),
        ],
        append_only: true,
        primary_key: Vec::new(),
        watermark: None,
        unique: None,
        checks: Vec::new(),
        created_at,
    }
}

/// Everything that reads one of the names, directly or not.
fn dependents(catalog: &definitions::Catalog, names: &BTreeSet<String>) -> Vec<String> {
    let mut found = names.clone();
    loop {
        let more: Vec<String> = catalog
            .views
            .values()
            .filter(|v| !found.contains(&v.name) && v.depends_on.iter().any(|d| found.contains(d)))
            .map(|v| v.name.clone())
            .collect();
        if more.is_empty() {
            return found.difference(names).cloned().collect();
        }
        found.extend(more);
    }
}

async fn drop_relations(inner: &Arc<Inner>, drop: DropRelations) -> Result<Outcome> {
    let mut stored = inner.catalog.lock().await;
    let (tag, word) = match drop.object {
        Object::Stream => ("DROP STREAM", "stream"),
        Object::Table => ("DROP TABLE", "table"),
        Object::View => ("DROP MATERIALIZED VIEW", "view"),
    };
    let mut names = BTreeSet::new();
    for name in &drop.names {
        let there = match drop.object {
            Object::View => stored.views.contains_key(name),
            _ => stored.streams.contains_key(name),
        };
        if there {
            names.insert(name.clone());
        } else if !drop.if_exists {
            return Err(Error::new(Code::UnknownRelation, format!("there is no {word} {name}"))
                .stream(name));
        }
    }
    let others = dependents(&stored, &names);
    if !others.is_empty() && !drop.cascade {
        let message = format!("{} is read by {}", drop.names.join(", "), others.join(", "));
        return Err(Error::new(Code::Dependency, message)
            .hint("drop those first, or add CASCADE to drop all of them"));
    }
    let mut next = stored.clone();
    let mut streams = Vec::new();
    let mut gone = Vec::new();
    for name in names.iter().chain(&others) {
        if let Some(def) = next.streams.remove(name) {
            next.dropped.insert(def.id);
            streams.push(def);
        } else if next.views.remove(name).is_some() {
            gone.push(name.clone());
        }
    }
    catalog::save(&inner.settings.data_dir, &next)?;
    *inner.definitions.write() = Arc::new(next.clone());
    *stored = next;
    for name in gone {
        views::remove(inner, &name).await?;
    }
    for def in streams {
        inner.sequencer.forget(def.id).await?;
        let table = recover::info(&def)?.table();
        // The archiver must not be in the middle of this table.
        let _archiver = inner.progress.lock().await;
        inner.streams.drop_stream(def.id);
        inner.lake.drop_table(&table).await?;
    }
    Ok(done(tag))
}

fn show(inner: &Inner, session: &Session, show: Show) -> Result<Outcome> {
    let lsn = inner.driver.snapshot().lsn;
    let definitions = Arc::clone(&inner.definitions.read());
    let some = |s: &str| Some(s.to_string());
    match show {
        Show::Streams | Show::Tables => {
            let wanted = matches!(show, Show::Streams);
            let rows = definitions
                .streams
                .values()
                .filter(|s| !wanted || s.append_only)
                .map(|s| {
                    let kind = if s.append_only { "stream" } else { "table" };
                    vec![some(&s.name), some(kind), Some(s.columns.len().to_string())]
                })
                .collect();
            text_rows(&["name", "kind", "columns"], rows, lsn)
        }
        Show::Views => {
            let status = crate::status::of(inner);
            let number = |n: Option<Lsn>| n.map(|l| l.to_string());
            let rows = status
                .views
                .iter()
                .map(|v| {
                    vec![
                        some(&v.name),
                        some(&v.architecture),
                        some(&v.state),
                        number(Some(v.lsn)),
                        number(v.batch_lsn),
                        v.batch_schedule.clone(),
                        Some(v.state_rows.to_string()),
                    ]
                })
                .collect();
            let names = [
                "name",
                "architecture",
                "state",
                "lsn",
                "batch_lsn",
                "batch_schedule",
                "state_rows",
            ];
            text_rows(&names, rows, lsn)
        }
        Show::BatchRuns { view } => {
            let rows = inner
                .runs
                .latest(100)
                .into_iter()
                .filter(|r| view.as_ref().is_none_or(|v| r.views.contains(v)))
                .map(|r| {
                    vec![
                        Some(r.id),
                        Some(r.trigger),
                        Some(r.views.join(", ")),
                        Some(format!("{:?}", r.state).to_lowercase()),
                        r.lsn.map(|l| l.to_string()),
                        Some(r.rows_read.to_string()),
                        r.error,
                    ]
                })
                .collect();
            let names = ["id", "trigger", "views", "state", "lsn", "rows_read", "error"];
            text_rows(&names, rows, lsn)
        }
        Show::All => {
            let rows =
                session.variables.iter().map(|(k, v)| vec![some(k), some(v)]).collect::<Vec<_>>();
            text_rows(&["name", "setting"], rows, lsn)
        }
        Show::Variable(name) => {
            let value = match name.as_str() {
                "server_version" => some("15.0 (Kaplan)"),
                "timezone" => some("UTC"),
                _ => session.variables.get(&name).cloned(),
            };
            text_rows(&[name.as_str()], vec![vec![value]], lsn)
        }
        Show::Create(object, name) => {
            let text = match object {
                Object::View => view_text(&inner.view(&name)?.def),
                _ => stream_text(&inner.stream(&name)?),
            };
            text_rows(&["name", "create"], vec![vec![Some(name), Some(text)]], lsn)
        }
    }
}

fn quote(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.into() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn stream_text(def: &StreamDef) -> String {
    let mut parts: Vec<String> = Vec::new();
    let list = |names: &[String]| names.iter().map(|n| quote(n)).collect::<Vec<_>>().join(", ");
    for column in &def.columns {
        let mut part = format!("{} {}", quote(&column.name), column.sql_type);
        if !column.nullable {
            part.push_str(" NOT NULL");
        }
        if let Some(default) = &column.default {
            part.push_str(&format!(" DEFAULT {default}"));
        }
        parts.push(part);
    }
    if !def.primary_key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", list(&def.primary_key)));
    }
    if let Some(mark) = &def.watermark {
        let column = quote(&mark.column);
        let delay = mark.delay_us;
        parts.push(format!("WATERMARK FOR {column} AS {column} - INTERVAL '{delay} microseconds'"));
    }
    if let Some(unique) = &def.unique {
        let (columns, within) = (list(&unique.columns), unique.within_us);
        parts.push(format!("UNIQUE ({columns}) WITHIN INTERVAL '{within} microseconds'"));
    }
    for check in &def.checks {
        let action = match check.on_violation {
            OnViolation::Reject => "REJECT",
            OnViolation::Quarantine => "QUARANTINE",
            OnViolation::Drop => "DROP",
        };
        let (name, condition) = (quote(&check.name), &check.condition);
        parts.push(format!("CONSTRAINT {name} CHECK ({condition}) ON VIOLATION {action}"));
    }
    let kind = if def.append_only { "STREAM" } else { "TABLE" };
    format!("CREATE {kind} {} (\n  {}\n)", quote(&def.name), parts.join(",\n  "))
}

fn view_text(def: &definitions::ViewDef) -> String {
    let architecture = match def.architecture {
        Architecture::Lambda => "lambda",
        Architecture::Kappa => "kappa",
    };
    let mut options = vec![format!("architecture = '{architecture}'")];
    if let Some(schedule) = &def.batch_schedule {
        options.push(format!("batch_schedule = '{schedule}'"));
    }
    match def.batch_mode {
        definitions::BatchMode::Auto => {}
        definitions::BatchMode::Full => options.push("batch_mode = 'full'".into()),
        definitions::BatchMode::Incremental => options.push("batch_mode = 'incremental'".into()),
    }
    let columns = if def.columns.is_empty() {
        String::new()
    } else {
        format!(" ({})", def.columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", "))
    };
    format!(
        "CREATE MATERIALIZED VIEW {}{columns}\nWITH ({}) AS\n{}",
        quote(&def.name),
        options.join(", "),
        def.query
    )
}

fn describe(inner: &Inner, name: &str) -> Result<Outcome> {
    let lsn = inner.driver.snapshot().lsn;
    let some = |s: String| Some(s);
    let names = ["column", "type", "nullable", "default", "note"];
    if let Ok(view) = inner.view(name) {
        let fields = view.compiled.schema.fields().iter();
        let rows = fields
            .map(|f| {
                let data_type = dialect::sql_type_of(f);
                let nullable = if f.is_nullable() { "yes" } else { "no" };
                vec![some(f.name().clone()), some(data_type), some(nullable.into()), None, None]
            })
            .collect();
        return text_rows(&names, rows, lsn);
    }
    let def = inner.stream(name)?;
    let note = |column: &str| {
        let mut notes = Vec::new();
        if def.primary_key.iter().any(|k| k == column) {
            notes.push("primary key");
        }
        if def.watermark.as_ref().is_some_and(|w| w.column == column) {
            notes.push("watermark");
        }
        if def.unique.as_ref().is_some_and(|u| u.columns.iter().any(|c| c == column)) {
            notes.push("unique within interval");
        }
        (!notes.is_empty()).then(|| notes.join(", "))
    };
    let rows = def
        .columns
        .iter()
        .map(|c| {
            let nullable = if c.nullable { "yes" } else { "no" };
            vec![
                some(c.name.clone()),
                some(c.sql_type.clone()),
                some(nullable.into()),
                c.default.clone(),
                note(&c.name),
            ]
        })
        .collect();
    text_rows(&names, rows, lsn)
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
            let view = inner.view(&name)?;
            circuit_text(&view.compiled, view.def.architecture)?
        }
        ExplainTarget::CreateView(create) => {
            let create: CreateView = *create;
            circuit_text(&views::compile(inner, &create).await?, create.architecture)?
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
