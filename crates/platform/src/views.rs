//! The life of a view: defined, replayed from history, following the log, checkpointed, restored,
//! dropped.

use crate::platform::Inner;
use crate::{Code, Error, Result, catalog};
use kaplan_base::Lsn;
use kaplan_speed::replay::{self, History, Progress};
use kaplan_speed::{Attached, checkpoint};
use kaplan_sql::catalog::{Architecture, ViewDef};
use kaplan_sql::dialect::{self, CreateView};
use kaplan_sql::{CompiledView, Relation};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A view as the platform holds it.
pub(crate) struct ViewEntry {
    pub def: ViewDef,
    pub compiled: Arc<CompiledView>,
    pub phase: Mutex<Phase>,
    pub progress: Arc<Progress>,
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
    fn new(def: ViewDef, compiled: CompiledView) -> Arc<Self> {
        Arc::new(Self {
            def,
            compiled: Arc::new(compiled),
            phase: Mutex::new(Phase::Replaying),
            progress: Arc::default(),
        })
    }

    pub fn is_lambda(&self) -> bool {
        self.def.architecture == Architecture::Lambda
    }
}

impl Inner {
    /// A view by name.
    pub fn view(&self, name: &str) -> Result<Arc<ViewEntry>> {
        let views = self.views.read();
        if let Some(view) = views.get(name) {
            return Ok(Arc::clone(view));
        }
        let error = Error::new(Code::UnknownRelation, format!("there is no view {name}"));
        Err(match crate::platform::closest(name, views.keys()) {
            Some(known) => error.hint(format!("did you mean {known}?")),
            None => error.hint("SHOW VIEWS lists them"),
        })
    }

    /// All relations that a view may read.
    pub fn relations(&self) -> Vec<Relation> {
        let streams = self.streams.all().into_iter().map(|s| Relation::Stream {
            name: s.name,
            schema: s.schema,
            append_only: s.append_only,
        });
        let views = self.views.read();
        let views = views
            .iter()
            .map(|(name, v)| Relation::View { name: name.clone(), plan: v.compiled.plan.clone() });
        streams.chain(views).collect()
    }

    fn history(&self) -> History {
        History {
            lake: self.lake.clone(),
            log: Arc::clone(&self.log),
            streams: self.streams.clone(),
            session: self.session.clone(),
        }
    }

    /// The LSN of a view's batch view; ZERO without one.
    pub fn base(&self, def: &ViewDef) -> Lsn {
        self.batches.get(&def.name, def.version).map_or(Lsn::ZERO, |p| p.lsn)
    }
}

/// Compiles a definition without keeping it.
pub(crate) async fn compile(inner: &Inner, create: &CreateView) -> Result<CompiledView> {
    let names = dialect::relations(&create.query);
    if names.contains(&create.name) && !inner.views.read().contains_key(&create.name) {
        let message = format!("view {} reads itself", create.name);
        let error = Error::new(Code::Dependency, message).stream(&create.name);
        return Err(error.hint("a view reads streams, tables and views that exist already"));
    }
    for name in &names {
        if name.contains('.') {
            let message = format!("a view cannot read {name}: it is one layer of a view");
            return Err(Error::new(Code::Unsupported, message).hint("read the view itself"));
        }
    }
    let relations = inner.relations();
    let compiled =
        inner.planner.compile(&create.name, &create.columns, &create.query, &relations).await;
    compiled.map_err(|e| match e {
        kaplan_sql::Error::Unsupported { .. } if create.architecture == Architecture::Lambda => {
            Error::from(e)
        }
        other => other.into(),
    })
}

/// Defines a view and brings it up; returns when it follows the log.
pub(crate) async fn create(inner: &Arc<Inner>, create: CreateView) -> Result<()> {
    if let Some(schedule) = &create.batch_schedule {
        kaplan_batch::Schedule::parse(schedule)?;
    }
    let entry = {
        let mut stored = inner.catalog.lock().await;
        if stored.views.contains_key(&create.name) || stored.streams.contains_key(&create.name) {
            if create.if_not_exists {
                return Ok(());
            }
            let message = format!("{} exists already", create.name);
            let error = Error::new(Code::DuplicateRelation, message).stream(&create.name);
            return Err(error.hint("drop it first, or choose another name"));
        }
        let compiled = compile(inner, &create).await?;
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
        };
        next.views.insert(def.name.clone(), def.clone());
        catalog::save(&inner.settings.data_dir, &next)?;
        *inner.definitions.write() = Arc::new(next.clone());
        *stored = next;
        let entry = ViewEntry::new(def, compiled);
        inner.views.write().insert(create.name.clone(), Arc::clone(&entry));
        entry
    };
    let up = bring_up(inner, &entry, true).await;
    if up.is_err() {
        // A view that cannot be filled is not defined either.
        forget(inner, &entry.def.name).await?;
    }
    up
}

/// Takes a view out of the catalog.
async fn forget(inner: &Arc<Inner>, name: &str) -> Result<()> {
    let mut stored = inner.catalog.lock().await;
    let mut next = stored.clone();
    next.views.remove(name);
    catalog::save(&inner.settings.data_dir, &next)?;
    *inner.definitions.write() = Arc::new(next.clone());
    *stored = next;
    remove(inner, name).await
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
    let base = if entry.is_lambda() { inner.base(&entry.def) } else { Lsn::ZERO };
    let (after, cut) =
        if entry.compiled.mergeable { (base, None) } else { (Lsn::ZERO, Some(base)) };
    entry.progress.rows.store(0, Ordering::Relaxed);
    let history = inner.history();
    let archived = *inner.archived.borrow();
    let mut view = replay::replay(
        &history,
        &entry.compiled,
        entry.def.version,
        after,
        cut,
        archived,
        &entry.progress,
    )
    .await?;
    if cut.is_some_and(|c| c > Lsn::ZERO) {
        view.circuit.release(base)?;
    }
    attach(inner, entry, view).await
}

/// Lets a circuit follow the log, going back to the lake as long as the log is ahead of it.
async fn attach(inner: &Arc<Inner>, entry: &Arc<ViewEntry>, view: Attached) -> Result<()> {
    let mut view = view;
    loop {
        match inner.driver.attach(view).await {
            Ok(()) => return Ok(()),
            Err((kaplan_speed::Error::Behind { .. }, Some(behind))) => {
                let archived = *inner.archived.borrow();
                view = replay::resume(&inner.history(), *behind, archived, &entry.progress).await?;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Brings all views of the catalog back: from checkpoints at once, the others in the background.
pub(crate) async fn restore(inner: &Arc<Inner>) -> Result<()> {
    let live = inner.live_views();
    checkpoint::remove_stale(&inner.dir("speed"), &live)?;
    inner.batches.remove_stale(&live)?;
    let definitions = Arc::clone(&inner.definitions.read());
    let mut left: Vec<&ViewDef> = definitions.views.values().collect();
    // Views are planned after the views that they read.
    left.sort_by_key(|v| v.version);
    for def in left {
        let query = dialect::parse_query(&def.query)?;
        let relations = inner.relations();
        let compiled = inner.planner.compile(&def.name, &def.columns, &query, &relations).await?;
        let entry = ViewEntry::new(def.clone(), compiled);
        inner.views.write().insert(def.name.clone(), Arc::clone(&entry));
        restore_view(inner, entry).await?;
    }
    Ok(())
}

async fn restore_view(inner: &Arc<Inner>, entry: Arc<ViewEntry>) -> Result<()> {
    let def = &entry.def;
    if entry.is_lambda() {
        let circuit = entry.compiled.circuit(Lsn::ZERO)?;
        let key = circuit.generations()[0].trace.order().cloned();
        if let Err(error) = inner.batches.load(&def.name, def.version, key.as_ref()) {
            // Derived data: a damaged batch view is dropped and computed again.
            tracing::error!(view = def.name, %error, "the batch view is dropped");
            inner.batches.remove(&def.name, def.version)?;
        }
    }
    let base = inner.base(def);
    let stored = checkpoint::read(&inner.dir("speed"), &entry.compiled, def.version)?;
    if let Some(mut view) = stored
        && (!entry.is_lambda() || view.circuit.release(base).is_ok())
        && view.lsn <= inner.log.head()
    {
        attach(inner, &entry, view).await?;
        *entry.phase.lock() = Phase::Running;
        return Ok(());
    }
    let task = Arc::clone(inner);
    inner.spawn(async move {
        if let Err(error) = bring_up(&task, &entry, true).await {
            tracing::error!(view = entry.def.name, %error, "replay failed");
        }
    })
}

/// Drops a view.
pub(crate) async fn remove(inner: &Arc<Inner>, name: &str) -> Result<()> {
    let entry = inner.views.write().remove(name);
    inner.driver.detach(name).await?;
    if let Some(entry) = entry {
        inner.batches.remove(name, entry.def.version)?;
    }
    let _turn = inner.checkpoint_turn.lock().await;
    Ok(checkpoint::remove_stale(&inner.dir("speed"), &inner.live_views())?)
}

/// Writes a checkpoint of every view.
pub(crate) async fn checkpoint(inner: &Arc<Inner>) -> Result<()> {
    let _turn = inner.checkpoint_turn.lock().await;
    let images = inner.driver.images().await?;
    let (dir, live) = (inner.dir("speed"), inner.live_views());
    crate::archiver::blocking(move || {
        for image in images.iter().filter(|i| live.contains(&(i.name.clone(), i.version))) {
            checkpoint::write(&dir, image)?;
        }
        Ok(())
    })
    .await
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
        if let Err(error) = checkpoint(&inner).await {
            tracing::warn!(%error, "no checkpoint this time");
        }
        if let Err(error) = inner.log.mark_durable() {
            tracing::warn!(%error, "the log's durable mark was not written");
        }
    }
}
