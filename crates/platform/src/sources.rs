//! The life of a source: defined, running, paused, dropped.
//!
//! A source is a task of its own ([`runner`]) that reads, and commits rows together with the
//! position after them ([`deliver`]). The catalog is all the control there is: a task looks at its
//! definition before every read, begins again when it changed, and ends when it is gone. Positions
//! live in the log, as the sequences of producers that only sources may use; their ids hold the
//! source's number, so a source created again under the same name begins anew.

mod deliver;
mod ledger;
mod runner;
mod shown;

pub(crate) use runner::{Backoff, until};
pub(crate) use shown::{create_text, format_text, options_text, rows as show, statuses, time_text};

use crate::definitions::{add_streams, new_quarantine, number, taken};
use crate::names;
use crate::platform::Inner;
use crate::statements::{done, noticed};
use crate::{Code, Error, Outcome, Result, Session, rows};
use kaplan_connect::source::{Positions, Spec, Target};
use kaplan_connect::{connectors, source};
use kaplan_sql::catalog::{Catalog, OnViolation, SourceDef, StreamDef, TargetDef};
use kaplan_sql::dialect::{AlterConnector, CreateSource, CreateStream};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// The running sources, by number.
#[derive(Default)]
pub(crate) struct Sources(Mutex<BTreeMap<u32, Arc<Running>>>);

/// One source's task and what is known of it.
pub(crate) struct Running {
    pub status: Mutex<Status>,
    /// Wakes the task: its definition may have changed.
    pub wake: Notify,
    pub stopped: tokio::sync::watch::Sender<bool>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// What a source does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It connects.
    #[default]
    Starting,
    /// It reads.
    Running,
    /// `ALTER SOURCE .. PAUSE`.
    Paused,
    /// It waits after an error, and tries again by itself.
    Retrying,
    /// What it was to read next is gone; it looks again from time to time.
    Stuck,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Retrying => "retrying",
            State::Stuck => "stuck",
        }
    }
}

/// How a source fares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub state: State,
    /// When that began, microseconds since the Unix epoch.
    pub since_us: i64,
    /// The last error, kept when it is over.
    pub last_error: Option<String>,
    /// Rows committed since start.
    pub rows: u64,
    /// Records kept in the ledger since start.
    pub rejected: u64,
    pub lag: Option<source::Lag>,
    /// Of a sink: the last LSN that its other side has.
    pub lsn: kaplan_base::Lsn,
    /// What holds up a part of it at the moment.
    pub note: Option<String>,
}

impl Status {
    /// What holds it up now; while it runs, the last error.
    pub fn message(self) -> Option<String> {
        self.note.or(self.last_error)
    }
}

impl Running {
    pub fn set(&self, state: State, now_us: i64) {
        let mut status = self.status.lock();
        if status.state != state || status.since_us == 0 {
            (status.state, status.since_us) = (state, now_us);
        }
    }
}

impl Running {
    /// Notes an error, and whether the task can hope to get over it alone.
    pub fn failed(&self, error: &Error, now_us: i64) {
        self.status.lock().last_error = Some(error.to_string());
        let stuck = matches!(error.code, Code::NotReady | Code::InvalidValue);
        self.set(if stuck { State::Stuck } else { State::Retrying }, now_us);
    }
}

/// The name of the stream that keeps what a source could not read.
pub(crate) fn errors_name(source: &str) -> String {
    format!("{source}_errors")
}

impl From<kaplan_connect::Error> for Error {
    fn from(e: kaplan_connect::Error) -> Self {
        let code = match e.kind {
            kaplan_connect::Kind::Config => Code::InvalidInput,
            kaplan_connect::Kind::Unavailable => Code::Unavailable,
            kaplan_connect::Kind::Gap => Code::NotReady,
            kaplan_connect::Kind::Refused => Code::InvalidValue,
        };
        Error { hint: e.hint, ..Error::new(code, e.message) }
    }
}

/// What a source's connector must know.
pub(crate) fn spec(catalog: &Catalog, def: &SourceDef) -> Result<Spec> {
    let mut targets = Vec::with_capacity(def.targets.len());
    for target in &def.targets {
        let gone = || Error::new(Code::Internal, format!("source {} fills nothing", def.name));
        let stream = stream_of(catalog, target).ok_or_else(gone)?;
        targets.push(target_of(stream, target.upstream.clone())?);
    }
    Ok(Spec { def: def.clone(), targets })
}

fn stream_of<'a>(catalog: &'a Catalog, target: &TargetDef) -> Option<&'a StreamDef> {
    catalog.streams.values().find(|s| s.id == target.stream)
}

fn target_of(stream: &StreamDef, upstream: Option<String>) -> Result<Target> {
    Ok(Target {
        name: stream.name.clone(),
        upstream,
        schema: rows::written_schema(stream)?,
        primary_key: stream.primary_key.clone(),
        append_only: stream.append_only,
        columns: stream.columns.iter().map(|c| c.name.clone()).collect(),
    })
}

/// `CREATE SOURCE`, and `CREATE TABLE` with a connector or from a source.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateSource,
) -> Result<Outcome> {
    let tag = if create.table { "CREATE TABLE" } else { "CREATE SOURCE" };
    if let Some((source, upstream)) = create.from.clone() {
        return attach(inner, session, create, &source, upstream).await;
    }
    let mut create = create;
    {
        let catalog = Arc::clone(&inner.definitions.read());
        create.name = names::new_name(&catalog, session, &create.name)?;
        if is_taken(&catalog, &create.name) {
            return match create.if_not_exists {
                true => Ok(exists(tag, &create.name)),
                false => Err(taken(&create.name)),
            };
        }
    }
    let connector = create.options.get("connector").cloned().unwrap_or_default().to_lowercase();
    let mut def = SourceDef {
        id: 0,
        name: create.name.clone(),
        connector,
        options: create.options.clone(),
        format: create.format.clone(),
        include: create.include.clone(),
        targets: Vec::new(),
        errors: kaplan_base::StreamId(0),
        paused: false,
        table: create.table,
    };
    let shared = connectors::is_shared(&def) && !create.table;
    let stream = match create.stream.take() {
        Some(stream) if !shared => Some(stream),
        Some(_) => {
            let message = format!("source {} of {} has columns", def.name, def.connector);
            return Err(Error::new(Code::InvalidInput, message).hint(format!(
                "leave them out, and then: CREATE TABLE t (..) FROM {} TABLE 'schema.table'",
                def.name
            )));
        }
        None if shared => None,
        None => Some(discover(&def, None, create.append_only && !create.table).await?),
    };
    // The connector looks at the definition before anything is kept.
    let mut targets = Vec::new();
    if let Some(stream) = stream.clone() {
        let stream = stream.into_def(kaplan_base::StreamId(0), kaplan_base::Lsn::ZERO);
        targets.push(target_of(&stream, None)?);
    }
    connectors::source(Spec { def: def.clone(), targets })?;

    let mut stored = inner.catalog.lock().await;
    if is_taken(&stored, &create.name) {
        return Err(taken(&create.name));
    }
    let mut next = stored.clone();
    let head = inner.log.head();
    def.id = number(&mut next).0;
    let mut new = Vec::new();
    let errors = errors_name(&create.name);
    if names::find(&next, &errors).is_some() {
        return Err(taken(&errors));
    }
    def.errors = number(&mut next);
    new.push(ledger::stream(errors, def.errors, head));
    if let Some(mut stream) = stream {
        stream.name.clone_from(&create.name);
        refuse_quarantine(&stream)?;
        new.extend(new_quarantine(&mut next, &stream, head)?);
        let id = number(&mut next);
        def.targets.push(TargetDef { stream: id, upstream: None });
        new.push(stream.into_def(id, head));
    }
    for stream in &mut new {
        stream.stored = names::stored_name(&next, &stream.name, stream.id.0);
        rows::check_expressions(inner, stream).await?;
        next.streams.insert(stream.name.clone(), stream.clone());
    }
    next.sources.insert(def.name.clone(), def.clone());
    add_streams(inner, &mut stored, next, &new).await?;
    start(inner, def.id)?;
    Ok(done(tag))
}

/// Rows that a source's table refuses go to the source's own ledger.
fn refuse_quarantine(stream: &CreateStream) -> Result<()> {
    match stream.checks.iter().find(|c| c.on_violation == OnViolation::Quarantine) {
        Some(check) => {
            let message = format!("CHECK {} of a source has ON VIOLATION QUARANTINE", check.name);
            Err(Error::new(Code::Unsupported, message).hint(format!(
                "leave it out: rows that break a CHECK go to {}",
                errors_name(&stream.name)
            )))
        }
        None => Ok(()),
    }
}

fn is_taken(catalog: &Catalog, name: &str) -> bool {
    names::find(catalog, name).is_some() || catalog.sources.contains_key(name)
}

fn exists(tag: &str, name: &str) -> Outcome {
    noticed(tag, format!("relation \"{name}\" exists already, skipping"))
}

/// The columns that the other side says.
async fn discover(
    def: &SourceDef,
    upstream: Option<&str>,
    append_only: bool,
) -> Result<CreateStream> {
    let mut source = connectors::source(Spec { def: def.clone(), targets: Vec::new() })?;
    let found = source.discover(upstream).await?;
    let append_only = append_only && found.primary_key.is_empty();
    Ok(CreateStream {
        if_not_exists: false,
        name: def.name.clone(),
        columns: found.columns,
        append_only,
        primary_key: found.primary_key,
        watermark: None,
        unique: None,
        checks: Vec::new(),
        on_conflict: kaplan_sql::catalog::OnConflict::default(),
        options: BTreeMap::new(),
    })
}

/// `CREATE TABLE t (..) FROM source TABLE 'name'`.
async fn attach(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateSource,
    source: &str,
    upstream: String,
) -> Result<Outcome> {
    const TAG: &str = "CREATE TABLE";
    let (name, def) = {
        let catalog = Arc::clone(&inner.definitions.read());
        let def = catalog.sources.get(source).cloned().ok_or_else(|| unknown(&catalog, source))?;
        (names::new_name(&catalog, session, &create.name)?, def)
    };
    if !connectors::is_shared(&def) || def.table {
        let message = format!("source {source} fills {source} and no other table");
        return Err(
            Error::new(Code::WrongObject, message).hint("create a view over it, or another source")
        );
    }
    let stream = match create.stream {
        Some(stream) => stream,
        None => discover(&def, Some(&upstream), false).await?,
    };
    let stream = CreateStream { name: name.clone(), ..stream };
    refuse_quarantine(&stream)?;
    let mut stored = inner.catalog.lock().await;
    if is_taken(&stored, &name) {
        return match create.if_not_exists {
            true => Ok(exists(TAG, &name)),
            false => Err(taken(&name)),
        };
    }
    let mut next = stored.clone();
    let head = inner.log.head();
    let mut new = Vec::from_iter(new_quarantine(&mut next, &stream, head)?);
    let id = number(&mut next);
    new.push(stream.into_def(id, head));
    for stream in &mut new {
        stream.stored = names::stored_name(&next, &stream.name, stream.id.0);
        rows::check_expressions(inner, stream).await?;
        next.streams.insert(stream.name.clone(), stream.clone());
    }
    let Some(changed) = next.sources.get_mut(source) else { return Err(unknown(&next, source)) };
    changed.targets.push(TargetDef { stream: id, upstream: Some(upstream) });
    let id = changed.id;
    let changed = changed.clone();
    connectors::source(spec(&next, &changed)?)?;
    add_streams(inner, &mut stored, next, &new).await?;
    inner.sources.wake(id);
    Ok(done(TAG))
}

/// The error of a name that no source has.
pub(crate) fn unknown(catalog: &Catalog, name: &str) -> Error {
    let error = Error::new(Code::UnknownObject, format!("source \"{name}\" does not exist"));
    match crate::platform::closest(name, catalog.sources.keys()) {
        Some(known) => error.hint(format!("did you mean {known}?")),
        None => error.hint("SHOW SOURCES lists them"),
    }
}

/// `ALTER SOURCE .. {PAUSE | RESUME}`.
pub(crate) async fn alter(
    inner: &Arc<Inner>,
    session: &Session,
    alter: &AlterConnector,
) -> Result<Outcome> {
    const TAG: &str = "ALTER SOURCE";
    let mut stored = inner.catalog.lock().await;
    let name = names::resolve(&stored, session, &alter.name);
    let mut next = stored.clone();
    let Some(def) = next.sources.get_mut(&name) else {
        return match alter.if_exists {
            true => Ok(noticed(TAG, format!("source \"{name}\" does not exist, skipping"))),
            false => Err(unknown(&stored, &name)),
        };
    };
    def.paused = alter.pause;
    let id = def.id;
    inner.keep(&mut stored, next).await?;
    inner.sources.wake(id);
    Ok(done(TAG))
}

/// Refuses writes by anybody but the source to what it fills: the rows would be something else than
/// what its other side has. A table with a connector of its own takes others' rows too, unless it is
/// kept equal to one upstream.
pub(crate) fn refuse_writes(
    inner: &Inner,
    streams: impl Iterator<Item = kaplan_base::StreamId>,
) -> Result<()> {
    let catalog = inner.definitions.read();
    let kept = |s: &&SourceDef| !s.table || connectors::is_shared(s);
    for stream in streams {
        let fills = |s: &&SourceDef| s.targets.iter().any(|t| t.stream == stream);
        let Some(source) = catalog.sources.values().filter(kept).find(fills) else { continue };
        let filled = catalog.streams.values().find(|s| s.id == stream);
        let name = filled.map_or(source.name.as_str(), |s| s.name.as_str());
        let message = match name == source.name && !source.table {
            true => format!("cannot write to source \"{name}\""),
            false => format!("cannot write to table \"{name}\" of source \"{}\"", source.name),
        };
        let hint = "its rows are those of the other side: write there, or put rows of your own \
                    into another table and read both in a view with UNION ALL";
        return Err(Error::new(Code::WrongObject, message).stream(name).hint(hint));
    }
    Ok(())
}

/// Takes streams that go out of the catalog's sources. Answers with the sources that fill nothing
/// any more, which go as well; the numbers of their ledgers are added to `ids`.
pub(crate) fn detach(catalog: &mut Catalog, ids: &mut BTreeSet<u32>) -> Vec<SourceDef> {
    let mut gone = Vec::new();
    for def in catalog.sources.values_mut() {
        let before = def.targets.len();
        def.targets.retain(|t| !ids.contains(&t.stream.0));
        let emptied = before > 0 && def.targets.is_empty();
        let shared = connectors::is_shared(def) && !def.table;
        if (emptied && !shared) || ids.contains(&def.errors.0) {
            gone.push(def.clone());
        }
    }
    for def in &gone {
        ids.insert(def.errors.0);
        catalog.sources.remove(&def.name);
    }
    gone
}

/// Ends the tasks of sources that are gone from the catalog, and lets each give up what it holds at
/// its other side. Answers with what went wrong in that.
pub(crate) async fn retire(inner: &Arc<Inner>, gone: &[SourceDef]) -> Vec<String> {
    let mut notices = Vec::new();
    for def in gone {
        inner.sources.stop(def.id).await;
        let spec = Spec { def: def.clone(), targets: Vec::new() };
        let Ok(mut source) = connectors::source(spec) else { continue };
        if let Err(error) = source.dropped().await {
            notices.push(format!("source {}: {error}", def.name));
        }
    }
    notices
}

/// Starts the sources of the catalog.
pub(crate) fn restore(inner: &Arc<Inner>) -> Result<()> {
    let ids: Vec<u32> = inner.definitions.read().sources.values().map(|s| s.id).collect();
    ids.into_iter().try_for_each(|id| start(inner, id))
}

/// Starts one source's task.
fn start(inner: &Arc<Inner>, id: u32) -> Result<()> {
    inner.sources.start(inner, id, |running| runner::run(Arc::clone(inner), id, running))
}

impl Sources {
    /// Starts a task and remembers it.
    pub fn start<T: Future<Output = ()> + Send + 'static>(
        &self,
        inner: &Inner,
        id: u32,
        task: impl FnOnce(Arc<Running>) -> T,
    ) -> Result<()> {
        let running = Arc::new(Running {
            status: Mutex::default(),
            wake: Notify::new(),
            stopped: tokio::sync::watch::Sender::new(false),
            task: Mutex::default(),
        });
        self.0.lock().insert(id, Arc::clone(&running));
        *running.task.lock() = Some(inner.task(task(Arc::clone(&running)))?);
        Ok(())
    }

    /// Lets a source look at its definition.
    pub fn wake(&self, id: u32) {
        if let Some(running) = self.0.lock().get(&id) {
            running.wake.notify_one();
        }
    }

    /// How a source fares.
    pub fn status(&self, id: u32) -> Option<Status> {
        self.0.lock().get(&id).map(|running| running.status.lock().clone())
    }

    /// Ends a source's task and waits for it.
    pub async fn stop(&self, id: u32) {
        let running = self.0.lock().remove(&id);
        if let Some(running) = running {
            running.stopped.send_replace(true);
            let task = running.task.lock().take();
            if let Some(task) = task {
                let _ = task.await;
            }
        }
    }

    /// Ends all tasks.
    pub async fn stop_all(&self) {
        let ids: Vec<u32> = self.0.lock().keys().copied().collect();
        for id in ids {
            self.stop(id).await;
        }
    }
}

impl Inner {
    /// Where a source's splits go on, as far as durable.
    pub fn source_positions(&self, def: &SourceDef) -> Positions {
        let known = self.sequencer.producers_like(&def.producer(""));
        let split = |(id, sequence): (String, u64)| {
            // A sequence is the position and one, so that position 0 is not "never".
            Some((def.split(&id)?.to_owned(), sequence.saturating_sub(1)))
        };
        known.into_iter().filter_map(split).collect()
    }
}
