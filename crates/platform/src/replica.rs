//! A read replica: it follows a log that another process writes in the same bucket, and answers reads.
//!
//! ```text
//! log      the segments after the last one, every `follow_interval_ms`   -> the circuits step
//! catalog  read after the commits and before they are shown             -> streams, views
//! lake     its progress and the tables that have grown                  -> the log is let go
//! batches  manifests of batch views, with a circuit that continues them  -> shown together
//! ```
//!
//! Invariants: it takes no lock and no epoch, and writes nothing. Every answer is true at one LSN of the
//! writer's one history, and not older than what the bucket held [`MAX_SILENCE`] before; where the
//! bucket cannot be read, reads are refused rather than answered from what was.

use crate::archiver::{blocking, clocks_at};
use crate::platform::Inner;
use crate::views::{self, Phase, ViewEntry};
use crate::{Code, Error, ReplicaStatus, Result, alter, catalog, recover};
use bytes::Bytes;
use kaplan_base::{Lsn, StreamId};
use kaplan_batch::Published;
use kaplan_lake::{Lake, Progress};
use kaplan_log::{Follower, Found, Log};
use kaplan_speed::{Attached, replay};
use kaplan_sql::catalog::{Catalog, ViewDef};
use kaplan_sql::dialect::Statement;
use kaplan_store::{Place, READER};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How old a look at the log may be that an answer rests on; longer intervals count twice.
const MAX_SILENCE: Duration = Duration::from_secs(1);
/// After this long without a look the replica is not ready.
const UNREADY_AFTER: Duration = Duration::from_secs(10);
/// Time between two looks at catalog and lake while nothing is written.
const SLOW: Duration = Duration::from_millis(500);
/// Time between two looks at the batch views and the history of runs.
const BATCHES: Duration = Duration::from_secs(5);
/// Time until a replay that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often something that its writer replaces meanwhile is read again.
const PEEKS: u32 = 5;

/// What a replica holds besides what every platform does.
pub(crate) struct Replica {
    follower: Arc<Follower>,
    place: Place,
    /// Held by the one look that runs.
    turn: tokio::sync::Mutex<Looked>,
    /// When the last look that succeeded began.
    looked: watch::Sender<Option<Instant>>,
    /// A reader that does not want to wait for the next look.
    wanted: Notify,
    /// The next look shall see everything.
    hurry: AtomicBool,
    trouble: Mutex<Option<String>>,
}

/// What the last look saw.
#[derive(Default)]
struct Looked {
    catalog: Bytes,
    slow: Option<Instant>,
}

/// What a replica is opened on.
pub(crate) struct Opened {
    pub replica: Replica,
    pub log: Arc<dyn Log>,
    pub lake: Lake,
    pub progress: Progress,
    pub catalog: Catalog,
}

/// Opens log, lake and catalog in this order: each then has what the one before speaks of.
pub(crate) async fn open(place: &Place) -> Result<Opened> {
    if place.local().is_some() {
        let message = format!("{place} is a directory, and a read replica follows a bucket");
        return Err(Error::new(Code::Unsupported, message).hint(
            "name the writer's s3://bucket/prefix or gs://bucket/prefix; a directory has one process",
        ));
    }
    let at = place.below("log");
    let follower = blocking(move || Ok(Follower::open(&at)?)).await?.ok_or_else(|| {
        Error::new(Code::Unavailable, format!("there is no log in {place}"))
            .hint("start the writer first: `kaplan start` without --read-only")
    })?;
    let follower = Arc::new(follower);
    let lake = Lake::at(place.below("lake"), READER);
    let progress = lake.progress().await?.unwrap_or_default();
    let (log, archived) = (Arc::clone(&follower), progress.archived_through);
    blocking(move || keep_up(&log, archived)).await?;
    let bytes = catalog::bytes(place).await?;
    let stored = catalog::parse(&bytes)?;
    let replica = Replica {
        place: place.clone(),
        turn: tokio::sync::Mutex::new(Looked { catalog: bytes, slow: None }),
        looked: watch::Sender::new(None),
        wanted: Notify::new(),
        hurry: AtomicBool::new(false),
        trouble: Mutex::default(),
        follower: Arc::clone(&follower),
    };
    Ok(Opened { replica, log: follower, lake, progress, catalog: stored })
}

/// Shows the log up to what the lake has; definitions are read afterwards.
fn keep_up(follower: &Follower, archived: Lsn) -> Result<()> {
    for _ in 0..PEEKS {
        if follower.head() >= archived {
            return Ok(());
        }
        if let Some(found) = follower.look(archived)? {
            follower.show(found);
        }
    }
    let message = format!("the log ends at LSN {}, and the lake at {archived}", follower.head());
    Err(Error::new(Code::Corrupted, message).hint("restore the lake or the log"))
}

/// What writes to a replica are told.
pub(crate) fn refusal(what: &str) -> Error {
    Error::new(Code::ReadOnly, format!("cannot execute {what} in a read-only transaction"))
        .hint("this is a read replica: send it to the writer")
}

/// Refuses statements that write or define.
pub(crate) fn check(inner: &Inner, statement: &Statement) -> Result<()> {
    if inner.replica.is_none() || reads(statement) {
        return Ok(());
    }
    Err(refusal(name(statement)))
}

fn reads(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Query(_)
            | Statement::Show(_)
            | Statement::Describe(_)
            | Statement::Explain(_)
            | Statement::Verify { .. }
            | Statement::Flush
            | Statement::Set { .. }
            | Statement::Reset(_)
            | Statement::Transaction(_)
            | Statement::Mark(..)
    )
}

fn name(statement: &Statement) -> &'static str {
    match statement {
        Statement::Insert(_) => "INSERT",
        Statement::Update(_) => "UPDATE",
        Statement::Delete(_) => "DELETE",
        Statement::Truncate(_) => "TRUNCATE TABLE",
        Statement::Load(_) => "COPY FROM",
        Statement::CreateStream(create) if create.append_only => "CREATE STREAM",
        Statement::CreateStream(_) => "CREATE TABLE",
        Statement::CreateTableAs(_) => "CREATE TABLE AS",
        Statement::CreateView(_) => "CREATE MATERIALIZED VIEW",
        Statement::CreatePlainView(_) => "CREATE VIEW",
        Statement::CreateSource(_) => "CREATE SOURCE",
        Statement::CreateSink(_) => "CREATE SINK",
        Statement::CreateIndex(_) => "CREATE INDEX",
        Statement::CreateFunction { .. } => "CREATE FUNCTION",
        Statement::Drop(_) | Statement::DropFunction { .. } => "DROP",
        Statement::Refresh { .. } => "REFRESH MATERIALIZED VIEW",
        Statement::Replay { .. } => "REPLAY MATERIALIZED VIEW",
        Statement::Alter(_) | Statement::AlterConnector(_) | Statement::AlterView(_) => "ALTER",
        _ => "this statement",
    }
}

/// Restores the views and starts to follow.
pub(crate) async fn start(inner: &Arc<Inner>) -> Result<()> {
    let catalog = Arc::clone(&inner.definitions.read());
    let mut left: Vec<&ViewDef> = catalog.views.values().collect();
    // Views are planned after the views that they read.
    left.sort_by_key(|v| v.version);
    for def in left {
        add(inner, &catalog, def).await?;
    }
    look(inner).await?;
    inner.ready.store(true, Ordering::SeqCst);
    Ok(())
}

/// Looks at the log until the platform stops.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let Some(replica) = &inner.replica else { return };
    let mut stop = inner.stop.subscribe();
    let interval = Duration::from_millis(inner.settings.follow_interval_ms.max(1));
    loop {
        let looked = look(&inner).await;
        let trouble = looked.err().inspect(|error| {
            tracing::warn!(%error, "the log was not followed");
            if error.code == Code::Corrupted {
                inner.sequencer.halt(error.clone());
            }
        });
        *replica.trouble.lock() = trouble.map(|error| error.to_string());
        tokio::select! {
            _ = stop.changed() => return,
            () = replica.wanted.notified() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// One look: commits, then what they need, then the commits for all to see.
///
/// A segment that is not there is still to come, or is in the lake and gone. Which of the two, the lake's
/// progress says that is read afterwards: only then has the look seen everything.
async fn look(inner: &Arc<Inner>) -> Result<()> {
    let Some(replica) = &inner.replica else { return Ok(()) };
    let mut turn = replica.turn.lock().await;
    let began = Instant::now();
    let mut found = next_segments(inner, replica).await?;
    let hurry = replica.hurry.swap(false, Ordering::SeqCst);
    let slow = hurry || turn.slow.is_none_or(|at| at.elapsed() >= SLOW);
    if slow {
        lake(inner).await?;
        if found.is_none() && *inner.archived.borrow() > replica.follower.head() {
            found = next_segments(inner, replica).await?;
        }
    }
    if found.is_some() || slow {
        definitions(inner, replica, &mut turn).await?;
    }
    if let Some(found) = found {
        if let Some(start) = found.restarts_at() {
            jump_to(inner, start).await?;
        }
        replica.follower.show(found);
    }
    // A log that was trimmed quicker than the circuits could read it.
    jump_to(inner, replica.follower.start()).await?;
    let through = inner.driver.snapshot().lsn.min(*inner.archived.borrow());
    replica.follower.trim(through)?;
    if slow {
        turn.slow = Some(began);
        if replica.follower.head() >= *inner.archived.borrow() {
            replica.looked.send_replace(Some(began));
        }
    }
    Ok(())
}

async fn next_segments(inner: &Inner, replica: &Replica) -> Result<Option<Found>> {
    let (follower, archived) = (Arc::clone(&replica.follower), *inner.archived.borrow());
    blocking(move || Ok(follower.look(archived)?)).await
}

/// Takes the lake's progress over: the tables that have grown first, then the position.
async fn lake(inner: &Arc<Inner>) -> Result<()> {
    let Some(next) = inner.lake.progress().await? else { return Ok(()) };
    let mut progress = inner.progress.lock().await;
    if next.archived_through <= progress.archived_through {
        return Ok(());
    }
    for info in inner.streams.all() {
        if next.rows.get(&info.id) != progress.rows.get(&info.id) {
            inner.lake.follow(&info.table()).await?;
        }
    }
    let through = next.archived_through;
    *inner.archived_clocks.write() = (through, clocks_at(&inner.streams, &next));
    *progress = next;
    inner.archived.send_replace(through);
    Ok(())
}

/// Brings all circuits past what the log no longer holds, out of the lake.
async fn jump_to(inner: &Arc<Inner>, start: Lsn) -> Result<()> {
    if start <= inner.driver.snapshot().lsn.next() {
        return Ok(());
    }
    lake(inner).await?;
    let archived = inner.archived_clocks.read().clone();
    if archived.0.next() < start {
        let message = format!("the log begins at LSN {start}, the lake ends at {}", archived.0);
        return Err(Error::new(Code::Unavailable, message).hint("try again in a moment"));
    }
    tracing::info!(
        from = inner.driver.snapshot().lsn.0,
        to = archived.0.0,
        "goes on from the lake"
    );
    let (history, there) = (inner.history(), archived.clone());
    let left = inner.driver.leave().await?;
    let names: Vec<String> = left.iter().map(|view| view.compiled.name.clone()).collect();
    let moved = inner
        .on_query_threads(async move {
            let mut moved = Vec::with_capacity(left.len());
            for view in left {
                let name = view.compiled.name.clone();
                let progress = Arc::new(replay::Progress::default());
                match replay::to_archive(&history, view, &there, &progress).await {
                    Ok(view) => moved.push(view),
                    Err(error) => tracing::error!(view = name, %error, "the view is built again"),
                }
            }
            Ok(moved)
        })
        .await
        .unwrap_or_default();
    let arrived: BTreeSet<String> = moved.iter().map(|view| view.compiled.name.clone()).collect();
    inner.driver.jump(archived, moved).await?;
    inner.sequencer.set_counters(recover::archived_counters(&*inner.progress.lock().await));
    for name in names.iter().filter(|name| !arrived.contains(*name)) {
        let lost = inner.views.read().values().find(|v| v.def.stored_name() == name).cloned();
        if let Some(entry) = lost {
            build(inner, entry)?;
        }
    }
    Ok(())
}

/// Takes the writer's definitions over, if they changed.
async fn definitions(inner: &Arc<Inner>, replica: &Replica, looked: &mut Looked) -> Result<()> {
    let bytes = catalog::bytes(&replica.place).await?;
    if bytes == looked.catalog {
        return Ok(());
    }
    let next = Arc::new(catalog::parse(&bytes)?);
    let changed = streams(inner, &next)?;
    inner.planner.define(next.functions.clone());
    *inner.definitions.write() = Arc::clone(&next);
    (*next).clone_into(&mut *inner.catalog.lock().await);
    remove_views(inner, &next).await?;
    for id in changed {
        // What fails here is not met again: the definitions count as known from now on.
        if let Err(error) = alter::plan_again(inner, &next, id).await {
            tracing::error!(%error, "a view that reads a changed stream keeps its plan");
        }
    }
    let mut defs: Vec<&ViewDef> = next.views.values().collect();
    defs.sort_by_key(|v| v.version);
    for def in defs {
        let known = inner.views.read().get(&def.name).cloned();
        match known {
            None => add(inner, &next, def).await?,
            Some(entry) if entry.def != *def => {
                let compiled = Arc::clone(&entry.compiled);
                inner.views.write().insert(def.name.clone(), entry.with(def.clone(), compiled));
            }
            Some(_) => {}
        }
    }
    looked.catalog = bytes;
    Ok(())
}

/// Lets the readers of the log know the streams; returns those that changed.
fn streams(inner: &Inner, next: &Catalog) -> Result<Vec<u32>> {
    let before = Arc::clone(&inner.definitions.read());
    let mut changed = Vec::new();
    for def in next.streams.values() {
        let known = before.streams.values().find(|known| known.id == def.id);
        if known == Some(def) {
            continue;
        }
        let info = recover::info(def)?;
        inner.lake.reload(&info.table());
        inner.streams.set(info);
        if known.is_some() {
            changed.push(def.id.0);
        }
    }
    let gone: Vec<StreamId> = next.dropped.difference(&before.dropped).copied().collect();
    for id in gone {
        match inner.streams.get(id) {
            Some(info) => {
                inner.streams.drop_stream(id);
                inner.lake.reload(&info.table());
            }
            None => inner.streams.set(recover::dropped(id)),
        }
    }
    Ok(changed)
}

/// Forgets views that are gone, and takes those that were renamed under their new name.
async fn remove_views(inner: &Arc<Inner>, next: &Catalog) -> Result<()> {
    let held: Vec<Arc<ViewEntry>> = inner.views.read().values().cloned().collect();
    for entry in held {
        let def = next.views.values().find(|def| def.version == entry.def.version);
        if def.is_some_and(|def| def.name == entry.def.name) {
            continue;
        }
        inner.views.write().remove(&entry.def.name);
        if let Some(def) = def {
            let compiled = Arc::clone(&entry.compiled);
            inner.views.write().insert(def.name.clone(), entry.with(def.clone(), compiled));
            continue;
        }
        inner.driver.detach(entry.def.stored_name()).await?;
        inner.batches.forget(entry.def.stored_name(), entry.def.version);
    }
    Ok(())
}

/// Plans all views, without their rows.
pub(crate) async fn compile_all(inner: &Arc<Inner>) -> Result<()> {
    let catalog = Arc::clone(&inner.definitions.read());
    let mut left: Vec<&ViewDef> = catalog.views.values().collect();
    left.sort_by_key(|v| v.version);
    for def in left {
        compiled(inner, &catalog, def).await?;
    }
    Ok(())
}

async fn compiled(inner: &Inner, catalog: &Catalog, def: &ViewDef) -> Result<Arc<ViewEntry>> {
    let compiled = views::compile_stored(inner, catalog, def).await?;
    let entry = ViewEntry::new(def.clone(), compiled);
    inner.views.write().insert(def.name.clone(), Arc::clone(&entry));
    Ok(entry)
}

/// Takes a view in: from the writer's checkpoint, or else by a replay in the background.
async fn add(inner: &Arc<Inner>, catalog: &Catalog, def: &ViewDef) -> Result<()> {
    let entry = compiled(inner, catalog, def).await?;
    match restored(inner, &entry).await {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => tracing::warn!(view = def.name, %error, "the view is replayed"),
    }
    build(inner, entry)
}

/// Brings a view back from what the writer has stored; false if that does not do.
async fn restored(inner: &Arc<Inner>, entry: &Arc<ViewEntry>) -> Result<bool> {
    let published = if entry.is_lambda() { published(inner, entry).await? } else { None };
    let base = published.as_ref().map_or(Lsn::ZERO, |p| p.lsn);
    if let Some(published) = published {
        inner.batches.show(entry.def.stored_name(), entry.def.version, published);
    }
    let Some(view) = checkpoint(inner, entry, base).await? else { return Ok(false) };
    // It is not waited here for what a look is to bring: this is part of a look.
    match inner.driver.attach(view).await {
        Ok(()) => *entry.phase.lock() = Phase::Running,
        Err((kaplan_speed::Error::Behind { .. }, _)) => return Ok(false),
        Err((error, _)) => return Err(error.into()),
    }
    Ok(true)
}

/// The writer's checkpoint of a view, if it continues a batch view at `base`.
async fn checkpoint(inner: &Inner, entry: &ViewEntry, base: Lsn) -> Result<Option<Attached>> {
    let Some(mut view) = inner.checkpoints.peek(&entry.compiled, entry.def.version).await? else {
        return Ok(None);
    };
    let fits = !entry.is_lambda() || view.circuit.release(base).is_ok();
    Ok(fits.then_some(view))
}

/// The stored batch view, which its writer may replace while it is read.
async fn published(inner: &Inner, entry: &ViewEntry) -> Result<Option<Arc<Published>>> {
    let circuit = entry.compiled.circuit(Lsn::ZERO)?;
    let key = circuit.generations()[0].trace.order().cloned();
    let (name, version) = (entry.def.stored_name(), entry.def.version);
    let mut tries = 0;
    loop {
        match inner.batches.peek(name, version, key.as_ref()).await {
            Err(kaplan_batch::Error::Damaged { .. }) if tries < PEEKS => tries += 1,
            Err(error @ kaplan_batch::Error::Damaged { .. }) => {
                tracing::error!(view = name, %error, "the batch view is left aside");
                return Ok(None);
            }
            read => return Ok(read?),
        }
    }
}

/// Replays a view in the background, again and again until it follows the log or is gone.
fn build(inner: &Arc<Inner>, entry: Arc<ViewEntry>) -> Result<()> {
    let task = Arc::clone(inner);
    inner.spawn(async move {
        let there = |task: &Inner| {
            let views = task.views.read();
            views.values().any(|v| v.def.version == entry.def.version)
        };
        while there(&task) && !*task.stop.borrow() {
            match views::bring_up(&task, &entry, true).await {
                Ok(()) if there(&task) => return,
                Ok(()) => return withdraw(&task, &entry).await,
                Err(error) => {
                    tracing::warn!(view = entry.def.name, %error, "replay failed; tried again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    })
}

/// Takes the circuit of a view back that was dropped while it was built. Another one that has its name
/// by now has lost its place to it, and is built again.
async fn withdraw(inner: &Arc<Inner>, entry: &ViewEntry) {
    let name = entry.def.stored_name();
    let _ = inner.driver.detach(name).await;
    let other = inner.views.read().values().find(|v| v.def.stored_name() == name).cloned();
    if let Some(other) = other
        && let Err(error) = build(inner, other)
    {
        tracing::warn!(view = name, %error, "the view is not built");
    }
}

/// Takes newer batch views and the history of runs over until the platform stops.
pub(crate) async fn batches(inner: Arc<Inner>) {
    let Some(replica) = &inner.replica else { return };
    let mut stop = inner.stop.subscribe();
    loop {
        if let Err(error) = inner.runs.follow(&replica.place).await {
            tracing::warn!(%error, "the history of batch runs was not read");
        }
        let lambda: Vec<_> =
            { inner.views.read().values().filter(|v| v.is_lambda()).cloned().collect() };
        for entry in lambda {
            if let Err(error) = renew(&inner, &entry).await {
                tracing::warn!(view = entry.def.name, %error, "the older batch view goes on");
            }
        }
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(BATCHES) => {}
        }
    }
}

/// Puts a newer batch view in the place of an older one, together with a circuit that continues it: the
/// writer's, or for a mergeable view one that was fed with what came after. Until there is one, the older
/// batch view and its circuit give the same answer.
async fn renew(inner: &Arc<Inner>, entry: &Arc<ViewEntry>) -> Result<()> {
    // A replay continues the batch view of its beginning.
    let Ok(_turn) = inner.runs.turn.try_write() else { return Ok(()) };
    let (name, version) = (entry.def.stored_name(), entry.def.version);
    let stored = inner.batches.stored_lsn(name, version).await?.unwrap_or_default();
    if stored <= inner.base(&entry.def) || *entry.phase.lock() != Phase::Running {
        return Ok(());
    }
    let Some(published) = published(inner, entry).await? else { return Ok(()) };
    let view = match checkpoint(inner, entry, published.lsn).await? {
        Some(view) if view.lsn <= inner.log.head() => view,
        _ if entry.compiled.mergeable => {
            let (history, compiled) = (inner.history(), Arc::clone(&entry.compiled));
            let (archived, after) = (inner.archived_clocks.read().clone(), published.lsn);
            let rows = Arc::clone(&entry.progress);
            inner
                .on_query_threads(async move {
                    let view =
                        replay::replay(&history, &compiled, version, after, None, &archived, &rows);
                    Ok(view.await?)
                })
                .await?
        }
        _ => return Ok(()),
    };
    // Until the circuit is attached nothing can be read: what takes long comes before.
    let (history, rows) = (inner.history(), Arc::clone(&entry.progress));
    let archived = inner.archived_clocks.read().clone();
    let view = inner
        .on_query_threads(
            async move { Ok(replay::resume(&history, view, &archived, &rows).await?) },
        )
        .await?;
    inner.batches.show(name, version, published);
    if let Err(error) = views::attach(inner, entry, view).await {
        // The circuit that is there does not continue the batch view that is shown.
        build(inner, Arc::clone(entry))?;
        return Err(error);
    }
    Ok(())
}

impl Inner {
    /// Waits until what the bucket holds was looked at lately; at once for a writer.
    pub async fn heard(&self) -> Result<()> {
        let Some(replica) = &self.replica else { return Ok(()) };
        let interval = Duration::from_millis(self.settings.follow_interval_ms);
        let (now, silence) = (Instant::now(), MAX_SILENCE.max(interval * 2));
        let lately = |at: &Option<Instant>| at.is_some_and(|at| at + silence >= now);
        let mut looked = replica.looked.subscribe();
        if lately(&looked.borrow()) {
            return Ok(());
        }
        replica.hurry.store(true, Ordering::SeqCst);
        replica.wanted.notify_one();
        let limit = Duration::from_millis(self.settings.read_wait_ms);
        if let Ok(Ok(_)) = tokio::time::timeout(limit, looked.wait_for(lately)).await {
            return Ok(());
        }
        let reason = replica.trouble.lock().clone();
        let message = format!(
            "the writer's log could not be read: {}",
            reason.as_deref().unwrap_or("no answer yet")
        );
        Err(Error::new(Code::Unavailable, message).hint("try again, or ask the writer"))
    }
}

impl Replica {
    /// How far it is behind.
    pub fn status(&self, served: Lsn, archived: Lsn) -> ReplicaStatus {
        let newest = self.follower.head().max(archived);
        let looked = *self.looked.borrow();
        let silent = looked.map(|at| at.elapsed());
        ReplicaStatus {
            writer_epoch: self.follower.epoch(),
            newest_lsn: newest,
            commits_behind: newest.0.saturating_sub(served.0),
            looked_us_ago: silent.and_then(|s| u64::try_from(s.as_micros()).ok()),
            error: self.trouble.lock().clone(),
        }
    }

    /// Whether it hears of what is written.
    pub fn hears(&self) -> bool {
        self.looked.borrow().is_some_and(|at| at.elapsed() < UNREADY_AFTER)
    }
}
