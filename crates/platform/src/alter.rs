//! `ALTER`: renames and added columns. Lake, log and circuits know streams and columns by the names
//! that they were created with, so a rename is a change of the catalog alone.

use crate::names::{self, Named};
use crate::platform::Inner;
use crate::statements::{done, noticed, wrote};
use crate::{Code, Error, Outcome, Result, Session, changes, definitions, recover, rows, views};
use kaplan_base::StreamId;
use kaplan_base::limits::MAX_COLUMNS;
use kaplan_speed::StreamInfo;
use kaplan_sql::catalog::{Catalog, ColumnDef, StreamDef, quarantine_name};
use kaplan_sql::dialect::{Alter, AlterAction, Object};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A new column of the lake is given another name as long as its number is below this.
const MAX_STORED_NAMES: usize = 4 * MAX_COLUMNS;

/// Carries an `ALTER` out.
pub(crate) async fn alter(inner: &Arc<Inner>, session: &Session, alter: Alter) -> Result<Outcome> {
    let tag = match alter.object {
        Object::Stream => "ALTER STREAM",
        Object::Table => "ALTER TABLE",
        _ => "ALTER VIEW",
    };
    let mut stored = inner.catalog.lock().await;
    let full = names::resolve(&stored, session, &alter.name);
    let found = match (names::find(&stored, &full), alter.object) {
        (Some(named @ Named::Stream(_)), Object::Stream | Object::Table) => named,
        (Some(named @ (Named::View(_) | Named::Plain(_))), Object::View) => named,
        _ if alter.if_exists => {
            return Ok(noticed(tag, format!("relation \"{full}\" does not exist, skipping")));
        }
        _ => return Err(names::unknown(&stored, &full)),
    };
    let id = found.id();
    let notices = match alter.action {
        AlterAction::Rename(to) => rename(inner, session, &mut stored, (id, &full), &to).await?,
        AlterAction::RenameColumn { from, to } => {
            rename_column(inner, &mut stored, &full, &from, &to).await?
        }
        AlterAction::AddColumn { if_not_exists, column } => {
            let position = stored.streams.get(&full).and_then(|def| def.position(&column.name));
            if position.is_some() {
                let message = format!("column \"{}\" of {full} exists already", column.name);
                if if_not_exists {
                    return Ok(noticed(tag, format!("{message}, skipping")));
                }
                let error = Error::new(Code::DuplicateColumn, message).stream(full);
                return Err(error.field(column.name));
            }
            let def = add_columns(inner, &mut stored, &full, vec![*column]).await?;
            drop(stored);
            return fill(inner, tag, &def).await;
        }
    };
    Ok(Outcome::Done { tag: tag.into(), lsn: None, notices })
}

/// Adds the columns of a source's table that its records brought, but for those that it has by now.
/// Done as a whole, whatever becomes of the caller.
pub(crate) async fn grow(
    inner: &Arc<Inner>,
    id: StreamId,
    mut columns: Vec<ColumnDef>,
) -> Result<()> {
    let here = Arc::clone(inner);
    let (done, answer) = tokio::sync::oneshot::channel();
    inner.spawn(async move {
        let mut stored = here.catalog.lock().await;
        let Some(def) = stored.streams.values().find(|s| s.id == id).cloned() else { return };
        columns.retain(|column| def.position(&column.name).is_none());
        let added = match columns.is_empty() {
            true => Ok(def),
            false => add_columns(&here, &mut stored, &def.name, columns).await,
        };
        let _ = done.send(added.map(drop));
    })?;
    // Without an answer the table is gone, or the platform stops: the source sees that by itself.
    answer.await.unwrap_or(Ok(()))
}

/// Adds columns at the end. Rows that are there have NULL in them; views that exist do not see them.
async fn add_columns(
    inner: &Arc<Inner>,
    stored: &mut Catalog,
    name: &str,
    columns: Vec<ColumnDef>,
) -> Result<StreamDef> {
    let mut next = stored.clone();
    let def = next.streams.get_mut(name).ok_or_else(|| names::unknown(stored, name))?;
    if let Some(of) = stored.quarantined_by(def.id) {
        let message =
            format!("cannot add a column to {name}: it takes rows that {} keeps out", of.name);
        return Err(Error::new(Code::Dependency, message).stream(name));
    }
    if def.columns.len() + columns.len() > MAX_COLUMNS {
        let message = format!("{name} has {MAX_COLUMNS} columns already");
        return Err(Error::new(Code::TooLarge, message).stream(name));
    }
    let first = def.columns.len();
    for mut column in columns {
        // Lake tables tell columns apart without case.
        let same = |c: &ColumnDef| c.stored_name().eq_ignore_ascii_case(&column.name);
        if def.columns.iter().any(same) {
            column.stored = Some(format!("{}@{}", column.name, def.columns.len()));
        }
        def.columns.push(column);
    }
    let mut def = def.clone();
    rows::check_expressions(inner, &def).await?;
    // No batch run may be in the middle of the table, and the archiver not either.
    let _runs = inner.runs.turn.write().await;
    let _archiver = inner.progress.lock().await;
    let info = widen(inner, &mut def, first).await?;
    inner.streams.set(info);
    next.streams.insert(name.to_owned(), def.clone());
    inner.keep(stored, next).await?;
    redefine(inner, stored, std::slice::from_ref(&def)).await?;
    plan_again(inner, stored, def.id.0).await?;
    Ok(def)
}

/// Gives the lake's table the columns of a definition. A crash may have left one there that no
/// definition has, of this name and another type: then the column gets a name of its own there.
/// Columns before `first` are not new.
async fn widen(inner: &Inner, def: &mut StreamDef, first: usize) -> Result<StreamInfo> {
    for number in def.columns.len().. {
        let info = recover::info(def)?;
        match inner.lake.add_columns(&info.table()).await {
            Ok(()) => return Ok(info),
            Err(error) => {
                let kaplan_lake::Error::Column { column, .. } = &error else {
                    return Err(error.into());
                };
                let left = def.columns[first..].iter_mut().find(|c| c.stored_name() == column);
                let Some(left) = left.filter(|_| number < MAX_STORED_NAMES) else {
                    return Err(error.into());
                };
                left.stored = Some(format!("{}@{number}", left.name));
            }
        }
    }
    Err(Error::new(Code::Internal, format!("the columns of {} have no names", def.name)))
}

/// Plans the views that read a stream again: their plans scan it with its columns of today.
pub(crate) async fn plan_again(inner: &Arc<Inner>, catalog: &Catalog, id: u32) -> Result<()> {
    let readers = names::dependents(catalog, &BTreeSet::from([id]));
    let mut readers: Vec<_> =
        catalog.views.values().filter(|v| readers.contains(&v.version)).collect();
    // Views are planned after the views that they read.
    readers.sort_by_key(|v| v.version);
    for def in readers {
        // A replica learns of a changed stream and of a new view at once, and adds the view later.
        let Ok(entry) = inner.view(&def.name) else { continue };
        let compiled = Arc::new(views::compile_stored(inner, catalog, def).await?);
        inner.views.write().insert(def.name.clone(), entry.with(def.clone(), compiled));
    }
    Ok(())
}

/// Gives rows that are there the default of the last column.
async fn fill(inner: &Arc<Inner>, tag: &str, def: &StreamDef) -> Result<Outcome> {
    let Some(column) = def.columns.last().filter(|c| c.default.is_some()) else {
        return Ok(done(tag));
    };
    if def.append_only {
        let name = &column.name;
        return Ok(noticed(tag, format!("rows that are there already have NULL in {name}")));
    }
    let lsn = changes::set_default(inner, def, &column.name).await?;
    Ok(wrote(tag.to_owned(), lsn))
}

async fn rename(
    inner: &Arc<Inner>,
    session: &Session,
    stored: &mut Catalog,
    (id, from): (u32, &str),
    to: &str,
) -> Result<Vec<String>> {
    // A name without a schema stays in the schema where it is.
    let to = match (to.contains('.'), from.rsplit_once('.')) {
        (false, Some((schema, _))) => format!("{schema}.{to}"),
        (false, None) => to.to_owned(),
        (true, _) => names::new_name(stored, session, to)?,
    };
    if names::find(stored, &to).is_some() || stored.indexes.contains_key(&to) {
        return Err(definitions::taken(&to));
    }
    let mut next = stored.clone();
    let mut renamed = Vec::new();
    if let Some(mut def) = next.streams.remove(from) {
        let (old, new) = (quarantine_name(from), quarantine_name(&to));
        // A quarantine goes along, unless it has a name of its own.
        let goes = next.streams.get(&old).is_some_and(|q| def.quarantine == Some(q.id));
        if goes && let Some(mut quarantine) = next.streams.remove(&old) {
            if names::find(&next, &new).is_some() {
                return Err(definitions::taken(&new));
            }
            quarantine.stored = Some(quarantine.stored_name().to_owned());
            quarantine.name.clone_from(&new);
            next.streams.insert(new, quarantine.clone());
            renamed.push(quarantine);
        }
        def.stored = Some(def.stored_name().to_owned());
        def.name.clone_from(&to);
        next.streams.insert(to.clone(), def.clone());
        renamed.push(def);
    } else if let Some(mut def) = next.views.remove(from) {
        def.stored = Some(def.stored_name().to_owned());
        def.name.clone_from(&to);
        next.views.insert(to.clone(), def.clone());
        inner.keep(stored, next).await?;
        let mut views = inner.views.write();
        if let Some(entry) = views.remove(from) {
            let compiled = Arc::clone(&entry.compiled);
            views.insert(to, entry.with(def, compiled));
        }
        return Ok(Vec::new());
    } else if let Some(mut def) = next.plain_views.remove(from) {
        def.name.clone_from(&to);
        next.plain_views.insert(to, def);
    }
    tracing::debug!(id, from, "renamed");
    inner.keep(stored, next).await?;
    redefine(inner, stored, &renamed).await?;
    Ok(Vec::new())
}

/// Tells the sequencer about changed definitions.
async fn redefine(inner: &Arc<Inner>, catalog: &Catalog, defs: &[StreamDef]) -> Result<()> {
    for def in defs {
        let definition = recover::definition(&inner.planner, catalog, def)?;
        inner.sequencer.redefine(definition).await?;
    }
    Ok(())
}

async fn rename_column(
    inner: &Arc<Inner>,
    stored: &mut Catalog,
    name: &str,
    from: &str,
    to: &str,
) -> Result<Vec<String>> {
    let mut next = stored.clone();
    let def = next.streams.get_mut(name).ok_or_else(|| names::unknown(stored, name))?;
    if def.position(to).is_some() {
        let message = format!("column \"{to}\" of {name} exists already");
        return Err(Error::new(Code::DuplicateColumn, message).stream(name).field(to));
    }
    let Some(at) = def.position(from) else {
        let message = format!("column \"{from}\" of {name} does not exist");
        return Err(Error::new(Code::UnknownColumn, message).stream(name).field(from));
    };
    let column = &mut def.columns[at];
    column.stored = Some(column.stored_name().to_owned());
    to.clone_into(&mut column.name);
    let others =
        def.primary_key.iter_mut().chain(def.unique.iter_mut().flat_map(|u| &mut u.columns));
    for key in others.chain(def.watermark.iter_mut().map(|w| &mut w.column)) {
        if key == from {
            to.clone_into(key);
        }
    }
    let def = def.clone();
    inner.keep(stored, next).await?;
    redefine(inner, stored, &[def]).await?;
    Ok(Vec::new())
}
