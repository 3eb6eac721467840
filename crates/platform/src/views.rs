//! The life of a view: defined, replayed from history, following the log, checkpointed, restored,
//! dropped.

use crate::names::Named;
use crate::planning::Planning;
use crate::platform::Inner;
use crate::{Code, Error, Result, Session, definitions, names, sinks};
use datafusion::logical_expr::LogicalPlanBuilder;
use kaplan_base::Lsn;
use kaplan_batch::Published;
use kaplan_speed::Attached;
use kaplan_speed::replay::{self, History, Progress};
use kaplan_sql::CompiledView;
use kaplan_sql::catalog::{Architecture, Bound, Catalog, ViewDef};
use kaplan_sql::dialect::{self, CreateView};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Wait of a circuit that the log is ahead of and the lake is not.
const STEP_ASIDE: Duration = Duration::from_millis(20);

/// A view as the platform holds it.
pub(crate) struct ViewEntry {
    pub def: ViewDef,
    pub compiled: Arc<CompiledView>,
    pub phase: Arc<Mutex<Phase>>,
    pub progress: Arc<Progress>,
    /// Why its stored query cannot be planned; then nothing reads it, and its plan is no plan.
    pub unplanned: Option<String>,
}

/// Where a view stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// History is being fed; there is nothing to read yet.
    Replaying,
    /// It follows the log (an older state may serve while a replay runs).
    Running,
    /// The replay failed.
    Failed(String),
}

impl ViewEntry {
    pub fn new(def: ViewDef, compiled: CompiledView) -> Arc<Self> {
        Arc::new(Self {
            def,
            compiled: Arc::new(compiled),
            phase: Arc::new(Mutex::new(Phase::Replaying)),
            progress: Arc::default(),
            unplanned: None,
        })
    }

    /// A view whose stored query cannot be planned: it is there to be seen and dropped.
    fn unplanned(def: ViewDef, error: &Error) -> Result<Arc<Self>> {
        let none = LogicalPlanBuilder::empty(false).build()?;
        let compiled = CompiledView::new(def.stored_name(), none.clone(), none)?;
        Ok(Arc::new(Self {
            def,
            compiled: Arc::new(compiled),
            phase: Arc::new(Mutex::new(Phase::Failed(error.to_string()))),
            progress: Arc::default(),
            unplanned: Some(error.to_string()),
        }))
    }

    /// The same view with another definition or plan; its circuit goes on.
    pub fn with(&self, def: ViewDef, compiled: Arc<CompiledView>) -> Arc<Self> {
        let (phase, progress) = (Arc::clone(&self.phase), Arc::clone(&self.progress));
        Arc::new(Self { def, compiled, phase, progress, unplanned: self.unplanned.clone() })
    }

    /// Whether it has a batch layer that can run.
    pub fn is_lambda(&self) -> bool {
        self.def.architecture == Architecture::Lambda && self.unplanned.is_none()
    }
}

impl Inner {
    /// A view by name.
    pub fn view(&self, name: &str) -> Result<Arc<ViewEntry>> {
        let views = self.views.read();
        if let Some(view) = views.get(name) {
            let Some(reason) = &view.unplanned else { return Ok(Arc::clone(view)) };
            let message = format!("view {name} cannot be planned: {reason}");
            return Err(Error::new(Code::NotReady, message)
                .hint("drop it, and create it again with a query that can be planned"));
        }
        let error = Error::new(Code::UnknownRelation, format!("there is no view {name}"));
        Err(match crate::platform::closest(name, views.keys()) {
            Some(known) => error.hint(format!("did you mean {known}?")),
            None => error.hint("SHOW VIEWS lists them"),
        })
    }

    /// Whether a view is still defined.
    fn is_defined(&self, version: u32) -> bool {
        self.definitions.read().views.values().any(|v| v.version == version)
    }

    pub fn history(&self) -> History {
        History {
            lake: self.lake.clone(),
            log: Arc::clone(&self.log),
            streams: self.streams.clone(),
            session: self.session.clone(),
            shelf: Arc::clone(&self.memory.state) as _,
        }
    }

    /// The LSN of a view's batch view; ZERO without one.
    pub fn base(&self, def: &ViewDef) -> Lsn {
        self.published(def).map_or(Lsn::ZERO, |p| p.lsn)
    }

    /// A view's batch view.
    fn published(&self, def: &ViewDef) -> Option<Arc<Published>> {
        self.batches.get(def.stored_name(), def.version)
    }
}

/// Compiles a definition without keeping it; also tells what its names stand for.
pub(crate) async fn compile(
    inner: &Inner,
    catalog: &Catalog,
    session: &Session,
    create: &CreateView,
) -> Result<(CompiledView, BTreeMap<String, Bound>)> {
    let names = dialect::relations(&create.query);
    if names.contains(&create.name) && names::find(catalog, &create.name).is_none() {
        let message = format!("view {} reads itself", create.name);
        let error = Error::new(Code::Dependency, message).stream(&create.name);
        return Err(error.hint("a view reads streams, tables and views that exist already"));
    }
    refuse_layers(&names)?;
    let bound = names::bind(catalog, session, &names)?;
    let relations = inner.relations(catalog, &bound).await?;
    let stored = names::stored_name(catalog, &create.name, catalog.next_id + 1);
    let name = stored.as_ref().unwrap_or(&create.name);
    let compiled = inner.planner.compile(name, &create.columns, &create.query, &relations).await?;
    Ok((compiled, bound))
}

/// Refuses one layer of a view as a source of another.
pub(crate) fn refuse_layers(names: &[String]) -> Result<()> {
    let layer =
        |name: &&String| matches!(names::layer_of(name), Some((part, _)) if part != names::ERRORS);
    match names.iter().find(layer) {
        Some(name) => {
            let message = format!("a view cannot read {name}: it is one layer of a view");
            Err(Error::new(Code::Unsupported, message).hint("read the view itself"))
        }
        None => Ok(()),
    }
}

/// Defines a view and brings it up; returns when it follows the log. False: it exists already.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    session: &Session,
    mut create: CreateView,
) -> Result<bool> {
    if let Some(schedule) = &create.batch_schedule {
        kaplan_batch::Schedule::parse(schedule)?;
    }
    let entry = {
        let mut stored = inner.catalog.lock().await;
        create.name = names::new_name(&stored, session, &create.name)?;
        if names::find(&stored, &create.name).is_some() {
            if create.if_not_exists {
                return Ok(false);
            }
            return Err(definitions::taken(&create.name));
        }
        let (compiled, bound) = compile(inner, &stored, session, &create).await?;
        let mut next = stored.clone();
        next.next_id += 1;
        let def = ViewDef {
            name: create.name.clone(),
            version: next.next_id,
            query: create.query_text.clone(),
            columns: create.columns.clone(),
            architecture: create.architecture,
            batch_schedule: create.batch_schedule.clone(),
            batch_mode: create.batch_mode,
            depends_on: dialect::relations(&create.query),
            bound,
            stored: names::stored_name(&stored, &create.name, next.next_id),
        };
        next.views.insert(def.name.clone(), def.clone());
        inner.keep(&mut stored, next).await?;
        let entry = ViewEntry::new(def, compiled);
        inner.views.write().insert(create.name.clone(), Arc::clone(&entry));
        entry
    };
    match bring_up(inner, &entry, true).await {
        Ok(()) => Ok(true),
        Err(error) => Err(forget(inner, entry.def.version, error).await?),
    }
}

/// Takes a view that cannot be filled out of the catalog, unless something reads it by now; returns
/// the error for who created it.
async fn forget(inner: &Arc<Inner>, version: u32, error: Error) -> Result<Error> {
    let mut stored = inner.catalog.lock().await;
    let Some(def) = stored.views.values().find(|v| v.version == version).cloned() else {
        return Ok(error);
    };
    let ids = BTreeSet::from([version]);
    let reading = names::dependents(&stored, &ids);
    let relations = reading.iter().filter_map(|id| names::numbered(&stored, *id)).map(Named::name);
    let sinks = sinks::readers(&stored, &ids).map(|s| s.name.as_str());
    let readers: Vec<&str> = relations.chain(sinks).collect();
    if !readers.is_empty() {
        let name = &def.name;
        let hint = format!(
            "{name} stays, because {} reads it: REPLAY MATERIALIZED VIEW {name} tries again, and \
             DROP MATERIALIZED VIEW {name} CASCADE drops both",
            readers.join(", ")
        );
        return Ok(error.hint(hint));
    }
    let mut next = stored.clone();
    next.views.retain(|_, v| v.version != version);
    next.indexes.retain(|_, i| i.on != version);
    inner.keep(&mut stored, next).await?;
    remove(inner, &def).await?;
    Ok(error)
}

/// The error of a view that was dropped while its history was read.
fn gone(entry: &ViewEntry) -> Error {
    let message = format!("view {} was dropped while it was being built", entry.def.name);
    Error::new(Code::UnknownRelation, message).stream(&entry.def.name)
}

/// Replays a view from history and lets it follow the log; the old state serves meanwhile.
pub(crate) async fn bring_up(
    inner: &Arc<Inner>,
    entry: &Arc<ViewEntry>,
    first: bool,
) -> Result<()> {
    let (task, view) = (Arc::clone(inner), Arc::clone(entry));
    let done = inner.on_query_threads(async move { replay_and_attach(&task, &view).await }).await;
    let mut phase = entry.phase.lock();
    match &done {
        Ok(()) => *phase = Phase::Running,
        Err(error) if first => *phase = Phase::Failed(error.to_string()),
        Err(_) => {}
    }
    done
}

async fn replay_and_attach(inner: &Arc<Inner>, entry: &Arc<ViewEntry>) -> Result<()> {
    // The batch view must stay the one that the replay continues until it has attached.
    let _turn = match entry.is_lambda() {
        true => Some(inner.runs.turn.read().await),
        false => None,
    };
    let published = entry.is_lambda().then(|| inner.published(&entry.def)).flatten();
    let base = published.as_ref().map_or(Lsn::ZERO, |p| p.lsn);
    let there = published.as_ref().map(|p| p.clocks.clone()).unwrap_or_default();
    let (after, cut) =
        if entry.compiled.mergeable { (base, None) } else { (Lsn::ZERO, Some((base, there))) };
    entry.progress.rows.store(0, Ordering::Relaxed);
    let history = inner.history();
    let archived = inner.archived_clocks.read().clone();
    let bases = cut.is_some();
    let mut view = replay::replay(
        &history,
        &entry.compiled,
        entry.def.version,
        after,
        cut,
        &archived,
        &entry.progress,
    )
    .await?;
    if bases && base > Lsn::ZERO {
        view.circuit.release(base)?;
    }
    attach(inner, entry, view).await
}

/// Lets a circuit follow the log, going back to the lake as long as the log is ahead of it. A view that
/// was dropped meanwhile does not follow.
pub(crate) async fn attach(
    inner: &Arc<Inner>,
    entry: &Arc<ViewEntry>,
    view: Attached,
) -> Result<()> {
    let mut view = view;
    let (name, version) = (entry.def.stored_name(), entry.def.version);
    loop {
        if !inner.is_defined(version) {
            return Err(gone(entry));
        }
        match inner.driver.attach(view).await {
            Ok(()) if inner.is_defined(version) => return Ok(()),
            Ok(()) => {
                // Dropped before it was there to be detached.
                inner.driver.detach_version(name, version).await?;
                return Err(gone(entry));
            }
            Err((kaplan_speed::Error::Superseded { .. }, _)) => return Err(gone(entry)),
            Err((kaplan_speed::Error::Behind { .. }, Some(behind))) => {
                let (archived, stood) = (inner.archived_clocks.read().clone(), behind.lsn);
                view =
                    replay::resume(&inner.history(), *behind, &archived, &entry.progress).await?;
                if view.lsn == stood {
                    // The others are still to be brought past what the log has lost.
                    tokio::time::sleep(STEP_ASIDE).await;
                }
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Brings all views of the catalog back: from checkpoints at once, the others in the background.
pub(crate) async fn restore(inner: &Arc<Inner>) -> Result<()> {
    let live = inner.live_views();
    inner.checkpoints.remove_stale(&live).await?;
    inner.batches.remove_stale(&live).await?;
    let definitions = Arc::clone(&inner.definitions.read());
    let mut left: Vec<&ViewDef> = definitions.views.values().collect();
    // Views are planned after the views that they read.
    left.sort_by_key(|v| v.version);
    for def in left {
        let entry = match compile_stored(inner, &definitions, def).await {
            Ok(compiled) => ViewEntry::new(def.clone(), compiled),
            Err(error) => {
                tracing::error!(view = def.name, %error, "a view cannot be planned; others go on");
                ViewEntry::unplanned(def.clone(), &error)?
            }
        };
        inner.views.write().insert(def.name.clone(), Arc::clone(&entry));
        if entry.unplanned.is_none() {
            restore_view(inner, entry).await?;
        }
    }
    Ok(())
}

/// Compiles a view of the catalog.
pub(crate) async fn compile_stored(
    inner: &Inner,
    catalog: &Catalog,
    def: &ViewDef,
) -> Result<CompiledView> {
    let view = |name: &str| Ok(inner.view(name)?.compiled.plan.clone());
    Planning { catalog, planner: &inner.planner, view: &view }.compile(def).await
}

async fn restore_view(inner: &Arc<Inner>, entry: Arc<ViewEntry>) -> Result<()> {
    let def = &entry.def;
    if entry.is_lambda() {
        let circuit = entry.compiled.circuit(Lsn::ZERO)?;
        let key = circuit.generations()[0].trace.order().cloned();
        let loaded = inner.batches.load(def.stored_name(), def.version, key.as_ref()).await;
        if let Err(error) = loaded {
            if matches!(error, kaplan_batch::Error::Storage(_)) {
                return Err(error.into());
            }
            // Derived data: a damaged batch view is dropped and computed again.
            tracing::error!(view = def.name, %error, "the batch view is dropped");
            inner.batches.remove(def.stored_name(), def.version).await?;
        }
    }
    let base = inner.base(def);
    let stored = inner.checkpoints.read(&entry.compiled, def.version).await?;
    if let Some(mut view) = stored
        && (!entry.is_lambda() || view.circuit.release(base).is_ok())
        && view.lsn <= inner.log.head()
    {
        match attach(inner, &entry, view).await {
            Ok(()) => {
                *entry.phase.lock() = Phase::Running;
                return Ok(());
            }
            // It may have stopped at a commit after its checkpoint: that is its matter alone.
            Err(error) => {
                tracing::warn!(view = def.name, %error, "a checkpoint leads nowhere; replaying");
            }
        }
    }
    let task = Arc::clone(inner);
    inner.spawn(async move {
        if let Err(error) = bring_up(&task, &entry, true).await {
            tracing::error!(view = entry.def.name, %error, "replay failed");
        }
    })
}

/// Drops a view that the catalog does not have any more.
pub(crate) async fn remove(inner: &Arc<Inner>, def: &ViewDef) -> Result<()> {
    inner.views.write().retain(|_, entry| entry.def.version != def.version);
    inner.driver.detach_version(def.stored_name(), def.version).await?;
    inner.batches.remove(def.stored_name(), def.version).await?;
    let _turn = inner.checkpoint_turn.lock().await;
    Ok(inner.checkpoints.remove_stale(&inner.live_views()).await?)
}

/// Writes a checkpoint of every view.
pub(crate) async fn checkpoint(inner: &Arc<Inner>) -> Result<()> {
    let _turn = inner.checkpoint_turn.lock().await;
    let images = inner.driver.images().await?;
    let live = inner.live_views();
    for image in images.iter().filter(|i| live.contains(&(i.name.clone(), i.version))) {
        inner.checkpoints.write(image).await?;
    }
    Ok(())
}

/// Writes checkpoints from time to time.
pub(crate) async fn checkpoints(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let interval = Duration::from_millis(inner.settings.checkpoint_interval_ms.max(1));
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(error) = inner.notice(checkpoint(&inner).await) {
            tracing::warn!(%error, "no checkpoint this time");
        }
        let log = Arc::clone(&inner.log);
        let marked = crate::archiver::blocking(move || Ok(log.mark_durable()?)).await;
        if let Err(error) = inner.notice(marked) {
            tracing::warn!(%error, "the log's durable mark was not written");
        }
        if inner.sequencer.failed().is_some_and(|e| e.code == Code::Fenced) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
