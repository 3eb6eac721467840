//! Batch runs: asked for by hand, over HTTP or by schedule; one at a time.
//!
//! A run cuts all its views at one LSN, waits until the lake has everything up to there, computes
//! and publishes each view, and lets the speed layer go of what the batch view now covers.

use crate::platform::Inner;
use crate::views::ViewEntry;
use crate::{
    BatchMode, BatchRequest, BatchRun, Code, Error, JobReport, JobView, Result, RunState, jobs,
};
use kaplan_base::Lsn;
use kaplan_batch::compute::{self, Computed, Inputs};
use kaplan_batch::{Published, Schedule};
use kaplan_circuit::{Batch, Clocks, Delta, Shelf};
use kaplan_sql::{Core, catalog as definitions};
use kaplan_store::{Document, Place, READER};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Runs that are remembered.
const HISTORY: usize = 1_000;
/// A batch view with more increments than these is put together.
const INCREMENTS: usize = 4;
/// How often schedules are looked at.
const SCHEDULE_TICK: Duration = Duration::from_millis(250);

/// The name of the object that the runs are kept in.
const FILE: &str = "runs.json";

/// All runs, newest last, kept in one small object.
pub(crate) struct Runs {
    /// Held while it is written, so that what is stored last is the newest.
    file: tokio::sync::Mutex<Document>,
    runs: Mutex<Vec<(Option<String>, BatchRun)>>,
    /// Written by the run at work, read by replays of Lambda views: a run cuts circuits, and one that
    /// took another's place in between would not have the cut.
    pub turn: tokio::sync::RwLock<()>,
}

impl Runs {
    /// Reads the runs of earlier processes; those that were cut off have failed.
    pub async fn open(place: &Place, epoch: u64) -> Result<Self> {
        let (file, stored) = match Document::claim::<Stored>(place, FILE, epoch).await {
            // Only the memory of old runs is lost by that.
            Err(error @ kaplan_store::Error::Damaged { .. }) => {
                tracing::warn!(%error, "the history of batch runs begins anew");
                place.remove([FILE.to_owned()]).await?;
                Document::claim(place, FILE, epoch).await?
            }
            claimed => claimed?,
        };
        let mut runs = stored.runs;
        for (key, run) in &mut runs {
            if run.state == RunState::Running {
                run.state = RunState::Failed;
                run.error = Some("the process ended before the run did".into());
                // The same request may be made again.
                *key = None;
            }
        }
        let (file, runs) = (tokio::sync::Mutex::new(file), Mutex::new(runs));
        Ok(Self { file, runs, turn: tokio::sync::RwLock::default() })
    }

    /// The runs of another process, to be followed and never written.
    pub async fn look(place: &Place) -> Result<Self> {
        let (file, stored) = Document::open::<Stored>(place, FILE, READER).await?;
        let runs = Mutex::new(stored.unwrap_or_default().runs);
        let file = tokio::sync::Mutex::new(file);
        Ok(Self { file, runs, turn: tokio::sync::RwLock::default() })
    }

    /// Reads what the other process has stored since.
    pub async fn follow(&self, place: &Place) -> Result<()> {
        let (_, stored) = Document::open::<Stored>(place, FILE, READER).await?;
        if let Some(stored) = stored {
            *self.runs.lock() = stored.runs;
        }
        Ok(())
    }

    /// A run by id.
    pub fn get(&self, id: &str) -> Option<BatchRun> {
        self.runs.lock().iter().find(|(_, r)| r.id == id).map(|(_, r)| r.clone())
    }

    /// The last runs, newest first.
    pub fn latest(&self, count: usize) -> Vec<BatchRun> {
        self.runs.lock().iter().rev().take(count).map(|(_, r)| r.clone()).collect()
    }

    /// Adds a run, or answers with the one that the key has started before. Durable on return, so
    /// that the key counts also after a restart.
    async fn add(&self, key: Option<String>, run: BatchRun) -> Result<(BatchRun, bool)> {
        {
            let mut runs = self.runs.lock();
            if key.is_some()
                && let Some((_, known)) = runs.iter().find(|(k, _)| *k == key)
            {
                return Ok((known.clone(), false));
            }
            runs.push((key, run.clone()));
            let surplus = runs.len().saturating_sub(HISTORY);
            runs.drain(..surplus);
        }
        if let Err(error) = self.store().await {
            self.runs.lock().retain(|(_, known)| known.id != run.id);
            return Err(error);
        }
        Ok((run, true))
    }

    async fn update(&self, run: &BatchRun) -> Result<()> {
        if let Some((_, stored)) = self.runs.lock().iter_mut().find(|(_, r)| r.id == run.id) {
            *stored = run.clone();
        }
        self.store().await
    }

    async fn store(&self) -> Result<()> {
        let file = self.file.lock().await;
        let stored = Stored { runs: self.runs.lock().clone() };
        Ok(file.replace(&stored).await?)
    }
}

/// What is stored.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    runs: Vec<(Option<String>, BatchRun)>,
}

/// The Lambda views that a request names.
fn views_of(inner: &Inner, request: &BatchRequest) -> Result<Vec<Arc<ViewEntry>>> {
    if request.views.is_empty() {
        let views = inner.views.read();
        return Ok(views.values().filter(|v| v.is_lambda()).cloned().collect());
    }
    let mut views = Vec::with_capacity(request.views.len());
    for name in &request.views {
        let view = inner.view(name)?;
        if !view.is_lambda() {
            let message = format!("view {name} runs as Kappa and has no batch layer");
            return Err(Error::new(Code::InvalidInput, message)
                .stream(name)
                .hint(format!("recompute it with REPLAY MATERIALIZED VIEW {name}")));
        }
        views.push(view);
    }
    Ok(views)
}

fn new_run(
    inner: &Inner,
    request: &BatchRequest,
    views: &[Arc<ViewEntry>],
    trigger: &str,
) -> BatchRun {
    BatchRun {
        id: uuid::Uuid::new_v4().simple().to_string(),
        trigger: trigger.into(),
        views: views.iter().map(|v| v.def.name.clone()).collect(),
        mode: request.mode,
        lsn: None,
        state: RunState::Running,
        error: None,
        started_us: inner.clock.now_us(),
        ended_us: None,
        rows_read: 0,
    }
}

/// Starts a run in the background.
pub(crate) async fn start(
    inner: &Arc<Inner>,
    request: BatchRequest,
    trigger: &str,
) -> Result<BatchRun> {
    if inner.replica.is_some() {
        return Err(crate::replica::refusal("a batch run"));
    }
    let views = views_of(inner, &request)?;
    let run = new_run(inner, &request, &views, trigger);
    let (run, new) = inner.notice(inner.runs.add(request.key.clone(), run).await)?;
    if new {
        let (task, mut at_work) = (Arc::clone(inner), run.clone());
        inner.spawn(async move {
            let done = perform(&task, &mut at_work, &views, None).await;
            end(&task, &mut at_work, done.and_then(first_failure)).await;
        })?;
    }
    Ok(run)
}

/// What became of each view.
type Outcomes = Vec<(Arc<ViewEntry>, Result<u64>)>;

fn first_failure(outcomes: Outcomes) -> Result<()> {
    outcomes.into_iter().try_for_each(|(_, done)| done.map(drop))
}

async fn end(inner: &Inner, run: &mut BatchRun, done: Result<()>) {
    run.state = if done.is_ok() { RunState::Succeeded } else { RunState::Failed };
    run.error = done.err().map(|e| e.to_string());
    run.ended_us = Some(inner.clock.now_us());
    tracing::info!(run = run.id, lsn = ?run.lsn, state = ?run.state, error = run.error,
        "batch run ended");
    if let Err(error) = inner.runs.update(run).await {
        tracing::error!(%error, "the run's end was not recorded");
    }
}

/// A run whose computing another process does; returns when it has ended.
pub(crate) async fn for_job(
    inner: &Arc<Inner>,
    request: BatchRequest,
    talk: &Place,
) -> Result<JobReport> {
    let views = views_of(inner, &request)?;
    let run = new_run(inner, &request, &views, "job");
    let (mut run, new) = inner.notice(inner.runs.add(request.key.clone(), run).await)?;
    if !new {
        let views = run.views.iter().map(|name| JobView {
            view: name.clone(),
            state: run.state,
            lsn: run.lsn,
            rows_read: 0,
            error: run.error.clone(),
        });
        return Ok(JobReport { views: views.collect(), run });
    }
    let done = perform(inner, &mut run, &views, Some(talk)).await;
    let mut told = Vec::new();
    for (view, done) in done.as_ref().map(Vec::as_slice).unwrap_or_default() {
        told.push(JobView {
            view: view.def.name.clone(),
            state: if done.is_ok() { RunState::Succeeded } else { RunState::Failed },
            lsn: run.lsn,
            rows_read: *done.as_ref().unwrap_or(&0),
            error: done.as_ref().err().map(ToString::to_string),
        });
    }
    end(inner, &mut run, done.and_then(first_failure)).await;
    Ok(JobReport { run, views: told })
}

/// Starts a run and waits for its end.
pub(crate) async fn run_to_end(
    inner: &Arc<Inner>,
    request: BatchRequest,
    trigger: &str,
) -> Result<BatchRun> {
    let run = start(inner, request, trigger).await?;
    loop {
        match inner.runs.get(&run.id) {
            Some(r) if r.state == RunState::Running => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Some(r) if r.state == RunState::Failed => {
                let reason = r.error.unwrap_or_default();
                return Err(Error::new(Code::Unavailable, format!("batch run failed: {reason}")));
            }
            Some(r) => return Ok(r),
            None => return Err(Error::new(Code::Internal, "the run was forgotten")),
        }
    }
}

/// Cuts, computes and publishes; `elsewhere` is where another process is told what to compute.
async fn perform(
    inner: &Arc<Inner>,
    run: &mut BatchRun,
    views: &[Arc<ViewEntry>],
    elsewhere: Option<&Place>,
) -> Result<Outcomes> {
    let _turn = inner.runs.turn.write().await;
    let cut = views.iter().map(|v| v.def.stored_name().to_owned()).collect();
    let (lsn, clocks) = inner.driver.cut(cut).await?;
    run.lsn = Some(lsn);
    inner.runs.update(run).await?;
    let mut archived = inner.archived.subscribe();
    while *archived.borrow_and_update() < lsn {
        inner.archive_now.notify_one();
        // A request that meets a run at work is not lost, only late.
        let wait = tokio::time::timeout(Duration::from_secs(1), archived.changed());
        let _ = wait.await;
        if *inner.stop.borrow() {
            return Err(Error::new(Code::Unavailable, "the platform is stopping"));
        }
    }
    let mut parts = match elsewhere {
        Some(talk) => jobs::computed(inner, talk, run, views, (lsn, &clocks)).await?,
        None => jobs::Parts::new(),
    };
    let mut outcomes = Outcomes::with_capacity(views.len());
    for view in views {
        let part = parts.remove(view.def.stored_name());
        let done = publish(inner, run, view, (lsn, &clocks), part).await;
        match &done {
            Ok(rows) => run.rows_read += rows,
            Err(error) => {
                tracing::error!(view = view.def.name, %error, "batch view not published");
            }
        }
        outcomes.push((Arc::clone(view), done));
    }
    Ok(outcomes)
}

/// How a run computes a view.
fn mode_of(run: &BatchRun, view: &ViewEntry) -> BatchMode {
    match (run.mode, view.def.batch_mode) {
        (BatchMode::Auto, definitions::BatchMode::Full) => BatchMode::Full,
        (BatchMode::Auto, definitions::BatchMode::Incremental) => BatchMode::Incremental,
        (mode, _) => mode,
    }
}

/// Whether the batch view must be the circuit's own output.
fn is_folded(view: &ViewEntry, mode: BatchMode) -> bool {
    let compiled = &view.compiled;
    !compiled.mergeable && (!compiled.exact || mode == BatchMode::Incremental)
}

/// What a run has to compute of a view out of the lake: None if nothing, else the published LSN that
/// it continues, if it does.
pub(crate) fn range_of(
    run: &BatchRun,
    view: &ViewEntry,
    current: Option<&Published>,
    lsn: Lsn,
) -> Option<Option<Lsn>> {
    let mode = mode_of(run, view);
    let there = current.is_some_and(|c| c.lsn == lsn) && run.mode != BatchMode::Full;
    if there || is_folded(view, mode) {
        return None;
    }
    let increment = view.compiled.mergeable && mode != BatchMode::Full;
    Some(current.filter(|_| increment).map(|c| c.lsn))
}

/// What runs read.
pub(crate) fn inputs(inner: &Inner) -> Inputs {
    let tables = inner.streams.all().into_iter().map(|s| (s.name.clone(), s.table()));
    Inputs {
        lake: inner.lake.clone(),
        session: inner.session.clone(),
        tables: tables.collect(),
        shelf: Some(shelf(inner)),
    }
}

fn shelf(inner: &Inner) -> Arc<dyn Shelf> {
    Arc::clone(&inner.memory.state) as _
}

/// Computes and publishes one view at the cut.
async fn publish(
    inner: &Arc<Inner>,
    run: &BatchRun,
    view: &Arc<ViewEntry>,
    (lsn, clocks): (Lsn, &Clocks),
    part: Option<Result<Computed>>,
) -> Result<u64> {
    let (name, version) = (view.def.stored_name(), view.def.version);
    let current = inner.batches.get(name, version);
    if current.as_ref().is_some_and(|c| c.lsn == lsn) && run.mode != BatchMode::Full {
        return Ok(0);
    }
    let (base, batches, rows) = match range_of(run, view, current.as_deref(), lsn) {
        None => fold(inner, view, current, lsn)?,
        Some(base) => {
            let computed = match part {
                Some(part) => part?,
                None => {
                    let after = base.unwrap_or(Lsn::ZERO);
                    let inputs = inputs(inner);
                    compute::compute(&inputs, &view.compiled, after, (lsn, clocks)).await?
                }
            };
            content(inner, view, current, base, computed)?
        }
    };
    let now = inner.clock.now_us();
    inner.batches.publish(name, version, &run.id, (lsn, clocks), base, batches, now).await?;
    inner.driver.release(name, version, lsn).await?;
    Ok(rows)
}

type Content = (Option<Lsn>, Vec<Arc<Batch>>, u64);

/// The batches to publish, what they continue, and how many rows were read.
fn content(
    inner: &Inner,
    view: &ViewEntry,
    current: Option<Arc<Published>>,
    base: Option<Lsn>,
    computed: Computed,
) -> Result<Content> {
    let rows = computed.rows;
    let batches = computed.batches;
    if let (Some(current), Core::States { .. }) = (&current, &view.compiled.core)
        && base.is_some()
    {
        let all: Vec<_> = current.batches.iter().chain(&batches).cloned().collect();
        let bytes: usize = all.iter().map(|b| b.bytes()).sum();
        let shelf = shelf(inner);
        if all.len() > INCREMENTS + bytes / shelf.piece_bytes().max(1) {
            return Ok((None, compute::together(&view.compiled, Some(&shelf), &all)?, rows));
        }
    }
    Ok((base, batches, rows))
}

/// A view whose state cannot be computed for a range alone, or whose floating-point values must be
/// the very ones that the circuit retracts later: its batch view is the circuit's own output up to
/// the cut.
fn fold(
    inner: &Arc<Inner>,
    view: &Arc<ViewEntry>,
    current: Option<Arc<Published>>,
    lsn: Lsn,
) -> Result<Content> {
    let snapshot = inner.driver.snapshot();
    let missing = || Error::new(Code::NotReady, format!("view {} is not running", view.def.name));
    let running = snapshot.views.get(view.def.stored_name());
    let running = running.filter(|v| v.version == view.def.version).ok_or_else(missing)?;
    let base = current.as_ref().map_or(Lsn::ZERO, |c| c.lsn);
    let mut parts: Vec<Arc<Batch>> = current.iter().flat_map(|c| c.batches.clone()).collect();
    for (after, batches) in &running.content.generations {
        if *after >= base && *after < lsn {
            parts.extend(batches.iter().cloned());
        }
    }
    let shelf = shelf(inner);
    let rows = match &running.content.output {
        kaplan_circuit::Output::States(_) => {
            return Ok((None, compute::together(&view.compiled, Some(&shelf), &parts)?, 0));
        }
        output => output.rows(&parts)?,
    };
    let count = rows.as_ref().map_or(0, Delta::len) as u64;
    let batches = match rows {
        Some(delta) if !delta.is_empty() => {
            compute::rows_batches(&view.compiled, Some(&shelf), delta.expand()?)?
        }
        _ => Vec::new(),
    };
    Ok((None, batches, count))
}

/// Starts runs when they are due.
pub(crate) async fn schedules(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let origin = inner.clock.now_us();
    let speed = inner.settings.schedule_speed;
    let scaled = |now: i64| origin + ((now - origin) as f64 * speed) as i64;
    let mut last = origin;
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(SCHEDULE_TICK) => {}
        }
        let now = scaled(inner.clock.now_us());
        let views: Vec<_> =
            { inner.views.read().values().filter(|v| v.is_lambda()).cloned().collect() };
        for view in views {
            let Some(expression) = &view.def.batch_schedule else { continue };
            let due = Schedule::parse(expression).ok().and_then(|s| s.next_after_us(last));
            if let Some(due) = due.filter(|d| *d <= now) {
                let name = view.def.name.clone();
                let request = BatchRequest {
                    key: Some(format!("{name}@{due}")),
                    views: vec![name],
                    mode: BatchMode::Auto,
                };
                if let Err(error) = start(&inner, request, "schedule").await {
                    tracing::error!(%error, "a scheduled batch run did not start");
                }
            }
        }
        last = now;
    }
}
