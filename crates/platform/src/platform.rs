//! The platform: opens every part in the order in which they depend on each other, and holds them
//! together. One handle, cheap to clone.

use crate::archiver;
use crate::phases::Phases;
use crate::sequencer::{Limits, Sequencer, StreamWrite, WriteKind, WriteRequest};
use crate::status::Freshness;
use crate::views::ViewEntry;
use crate::workers::{Desk, LogTopic, Order, Report, Workers};
use crate::{
    Ack, BatchRequest, BatchRun, Code, Error, JobReport, Outcome, Producer, Result, RowSet,
    Session, Settings, Status, ViewRead, catalog, jobs, leftovers, log, memory, recover, replica,
    rows, runs, sinks, sources, statements, status, ticks, views,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::context::SessionContext;
use futures::{StreamExt, TryStreamExt};
use kaplan_base::{Clock, Lsn, StreamId};
use kaplan_batch::Store;
use kaplan_circuit::{Clocks, Shelf};
use kaplan_lake::{Lake, Progress};
use kaplan_log::Log;
use kaplan_speed::checkpoint::Checkpoints;
use kaplan_speed::crew::Crew;
use kaplan_speed::{Driver, Streams};
use kaplan_sql::Planner;
use kaplan_sql::catalog::{Catalog, PRODUCER_PREFIX, StreamDef};
use kaplan_sql::dialect::PointRead;
use kaplan_store::{Document, Place, READER};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

/// Threads that run queries and batch runs; requests are answered on others.
const QUERY_THREADS: usize = 2;
/// How long a stop waits for what writes at that moment.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Tables of the lake that a start loads at once.
const TABLES_AT_ONCE: usize = 16;

/// A running platform.
#[derive(Clone)]
pub struct Platform {
    pub(crate) inner: Arc<Inner>,
}

/// Everything that a running platform holds.
pub(crate) struct Inner {
    pub settings: Settings,
    /// Where everything is.
    pub place: Place,
    pub clock: Arc<dyn Clock>,
    pub started: Instant,
    pub planner: Planner,
    pub memory: memory::Shares,
    pub streams: Streams,
    /// Held while a definition changes.
    pub catalog: tokio::sync::Mutex<Catalog>,
    pub catalog_file: Document,
    /// The catalog as readers see it.
    pub definitions: Arc<RwLock<Arc<Catalog>>>,
    pub views: RwLock<BTreeMap<String, Arc<ViewEntry>>>,
    pub log: Arc<dyn Log>,
    pub lake: Lake,
    pub sequencer: Sequencer,
    pub driver: Driver,
    pub batches: Arc<Store>,
    pub checkpoints: Checkpoints,
    pub runs: runs::Runs,
    pub sources: sources::Sources,
    pub sinks: sinks::Sinks,
    pub session: SessionContext,
    pub progress: tokio::sync::Mutex<Progress>,
    pub archived: watch::Sender<Lsn>,
    /// The same position with what the clocks show there; set before it.
    pub archived_clocks: RwLock<(Lsn, Clocks)>,
    pub archive_now: Notify,
    /// Held while checkpoints are written or removed.
    pub checkpoint_turn: tokio::sync::Mutex<()>,
    pub appends: Mutex<BTreeMap<StreamId, u64>>,
    pub freshness: Arc<Freshness>,
    pub stop: watch::Sender<bool>,
    /// Present where another process writes and this one follows.
    pub replica: Option<replica::Replica>,
    /// Present where others can read the log too.
    pub workers: Option<Arc<Desk>>,
    pub ready: AtomicBool,
    /// Requests under way are finished, and no others are wanted.
    pub draining: AtomicBool,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// The tasks that run until the platform stops.
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    runtime: QueryThreads,
}

/// The threads that queries run on; they end without waiting, wherever they are dropped.
pub(crate) struct QueryThreads(Mutex<Option<Runtime>>);

impl QueryThreads {
    fn start(dir: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(QUERY_THREADS)
            .thread_name("kaplan-query")
            .enable_all()
            .build()
            .map_err(|e| catalog::io(dir, &e))?;
        Ok(Self(Mutex::new(Some(runtime))))
    }

    fn handle(&self) -> Result<tokio::runtime::Handle> {
        let stopped = || Error::new(Code::Unavailable, "the platform has stopped");
        Ok(self.0.lock().as_ref().ok_or_else(stopped)?.handle().clone())
    }

    /// Cuts off what still runs, and waits until no thread of it writes any more.
    fn stop(&self) {
        if let Some(runtime) = self.0.lock().take() {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends a task when whoever waits for it is dropped.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.stop();
    }
}

impl Inner {
    /// Passes a result on. When it says that another instance has the data, no more is written here,
    /// and readiness is off.
    pub fn notice<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.code == Code::Fenced
            && self.sequencer.failed().is_none()
        {
            tracing::error!(%error, "this instance was replaced; it takes no more writes");
            self.sequencer.halt(error.clone());
        }
        result
    }

    /// Bytes of the log that the lake does not have.
    pub fn backlog_bytes(&self) -> u64 {
        if self.log.head() > *self.archived.borrow() { self.log.bytes() } else { 0 }
    }

    /// Runs a future on the query threads.
    pub async fn on_query_threads<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.runtime.handle()?.spawn(work);
        // A reader that has gone away does not keep the threads busy.
        let _abort = AbortOnDrop(task.abort_handle());
        task.await.map_err(|_| Error::new(Code::Internal, "a query was lost"))?
    }

    /// A stream's definition.
    pub fn stream(&self, name: &str) -> Result<StreamDef> {
        let definitions = self.definitions.read();
        if let Some(def) = definitions.streams.get(name) {
            return Ok(def.clone());
        }
        let error =
            Error::new(Code::UnknownRelation, format!("there is no stream or table {name}"));
        let error = error.stream(name);
        if crate::names::find(&definitions, name).is_some() {
            return Err(Error { code: Code::WrongObject, ..error }
                .hint(format!("{name} is a view; write to the streams it reads")));
        }
        Err(match closest(name, definitions.streams.keys()) {
            Some(known) => error.hint(format!("did you mean {known}?")),
            None => error.hint(format!("create it first: CREATE STREAM {name} (..)")),
        })
    }
}

/// The known name that is most like a mistyped one.
pub(crate) fn closest<'a>(
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> Option<&'a String> {
    let distance =
        |other: &str| datafusion::common::utils::datafusion_strsim::levenshtein(name, other);
    known.map(|k| (distance(k), k)).filter(|(d, _)| *d <= 3).min().map(|(_, k)| k)
}

/// Opens the place of all data.
async fn open_place(data_dir: &Path) -> Result<Place> {
    let text = data_dir.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("data_dir {} is not UTF-8", data_dir.display());
        Error::new(Code::InvalidInput, message).hint("choose another directory")
    })?;
    archiver::blocking(move || Ok(Place::open(&text)?)).await
}

/// What is opened first.
struct Storage {
    log: Arc<dyn Log>,
    epoch: u64,
    lake: Lake,
    /// What the lake says of itself.
    progress: Progress,
    catalog_file: Document,
    catalog: Catalog,
    replica: Option<replica::Replica>,
    topic: Option<LogTopic>,
}

/// Opens log, lake and catalog to follow them.
async fn open_replica(place: &Place) -> Result<Storage> {
    let replica::Opened { replica, log, lake, progress, catalog } = replica::open(place).await?;
    let (catalog_file, epoch) = (catalog::read_only(place).await?, READER);
    let (replica, topic) = (Some(replica), None);
    Ok(Storage { log, epoch, lake, progress, catalog_file, catalog, replica, topic })
}

/// Opens log, lake and catalog to write them.
async fn open_storage(place: &Place, settings: &Settings) -> Result<Storage> {
    // Only a look: who may write the progress is decided by the log.
    let look = Lake::at(place.below("lake"), READER).progress().await?.unwrap_or_default();
    let log::Opened { log, epoch, topic } = log::open(place, settings, look).await?;
    let lake = Lake::at(place.below("lake"), epoch);
    let progress = lake.claim_progress().await?;
    log::check_continuous(&*log, &progress)?;
    let (catalog_file, catalog) = catalog::claim(place, epoch).await?;
    Ok(Storage { log, epoch, lake, progress, catalog_file, catalog, replica: None, topic })
}

/// Loads every stream's table, or creates it.
async fn create_tables(lake: &Lake, streams: &Streams) -> Result<()> {
    let tables = streams.all().into_iter().map(|info| {
        let lake = lake.clone();
        async move { lake.create(&info.table()).await }
    });
    let created = futures::stream::iter(tables).buffer_unordered(TABLES_AT_ONCE);
    Ok(created.try_collect::<()>().await?)
}

impl Platform {
    /// Opens the data directory, recovers, and starts the layers. Returns when views that have a
    /// checkpoint follow the log; the others are replayed meanwhile.
    pub async fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Platform> {
        let platform = Self::opened(settings, clock).await?;
        platform.inner.start().await?;
        Ok(platform)
    }

    /// Makes a batch run with this process's memory and processors, beside the process that writes in
    /// the same bucket, which cuts and publishes; returns when it has ended.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when no writer answers, or the writer ended before it published.
    pub async fn run_job(
        settings: Settings,
        clock: Arc<dyn Clock>,
        request: BatchRequest,
    ) -> Result<JobReport> {
        let settings = Settings { read_only: true, ..settings };
        let platform = Self::opened(settings, clock).await?;
        let inner = &platform.inner;
        replica::compile_all(inner).await?;
        let report = jobs::run(inner, &inner.place, request).await;
        inner.driver.stop();
        report
    }

    async fn opened(settings: Settings, clock: Arc<dyn Clock>) -> Result<Platform> {
        let mut phases = Phases::begin();
        let place = open_place(&settings.data_dir).await?;
        let runtime = QueryThreads::start(&settings.data_dir)?;
        let opened = match settings.read_only {
            true => {
                log::refuse_to_follow(&place, &settings).await?;
                open_replica(&place).await?
            }
            false => open_storage(&place, &settings).await?,
        };
        let Storage { log, epoch, lake, progress, catalog_file, catalog: stored, replica, topic } =
            opened;
        phases.ended("log, progress and catalog");
        let streams = Streams::default();
        for def in stored.streams.values() {
            streams.set(recover::info(def)?);
        }
        for id in &stored.dropped {
            streams.set(recover::dropped(*id));
        }
        if replica.is_none() {
            create_tables(&lake, &streams).await?;
            phases.ended("tables of the lake");
        }
        let memory = memory::share(settings.memory_limit_bytes, &place)?;
        let shelf: Arc<dyn Shelf> = Arc::clone(&memory.state) as _;
        let planner = Planner::within(Arc::clone(&memory.queries));
        planner.define(stored.functions.clone());
        let session = SessionContext::new_with_state(planner.session(Vec::new())?);
        let archived_clocks = archiver::clocks_at(&streams, &progress);
        let mut clocks = archived_clocks.clone();
        let limits = Limits {
            queue_bytes: settings.ingest_queue_bytes,
            log_reserve_bytes: settings.log_reserve_bytes,
            commit_bytes: settings.commit_bytes,
            linger: match place.local().is_some() || !settings.log_url.is_empty() {
                true => Duration::ZERO,
                false => Duration::from_millis(settings.log_linger_ms),
            },
            ..Limits::default()
        };
        let sequencer = match replica {
            Some(_) => Sequencer::closed(limits, replica::refusal("a write")),
            None => {
                let known = (&progress, &mut clocks);
                let state =
                    recover::state(&planner, &stored, &streams, &lake, &log, known, &session);
                let mut state = state.await?;
                state.count_in(Arc::clone(&memory.state));
                Sequencer::start(Arc::clone(&log), Arc::clone(&clock), state, limits)?
            }
        };
        phases.ended("keys and rows that writes need");
        let freshness = Arc::new(Freshness::default());
        let follows = replica.is_some().then(|| sequencer.clone());
        let (seen, now) = (Arc::clone(&freshness), Arc::clone(&clock));
        let on_step = Box::new(move |commits: &[kaplan_log::Commit]| {
            seen.record(commits, &*now);
            follows.iter().for_each(|counts| counts.count(commits));
        });
        // A follower takes in from the log what the lake does not have.
        let from = match replica {
            Some(_) => {
                sequencer.set_counters(recover::archived_counters(&progress));
                progress.archived_through
            }
            None => log.head(),
        };
        let definitions = Arc::new(RwLock::new(Arc::new(stored.clone())));
        let workers = topic.map(|topic| Arc::new(Desk::new(topic, Arc::clone(&definitions))));
        let crew = workers.clone().map(|desk| desk as Arc<dyn Crew>);
        let start = (from, clocks);
        let (driver, thread) =
            Driver::start(Arc::clone(&log), streams.clone(), start, on_step, crew)?;
        let inner = Arc::new(Inner {
            batches: Arc::new(Store::new(place.below("batch"), epoch, Some(Arc::clone(&shelf)))),
            checkpoints: Checkpoints::new(place.below("speed"), epoch, shelf),
            runs: match replica {
                Some(_) => runs::Runs::look(&place).await?,
                None => runs::Runs::open(&place, epoch).await?,
            },
            catalog_file,
            sinks: sinks::Sinks::new(place.below("sinks")),
            sources: sources::Sources::default(),
            archived: watch::Sender::new(progress.archived_through),
            archived_clocks: RwLock::new((progress.archived_through, archived_clocks)),
            progress: tokio::sync::Mutex::new(progress),
            definitions,
            catalog: tokio::sync::Mutex::new(stored),
            views: RwLock::default(),
            started: Instant::now(),
            archive_now: Notify::new(),
            checkpoint_turn: tokio::sync::Mutex::default(),
            appends: Mutex::default(),
            stop: watch::Sender::new(false),
            memory,
            replica,
            workers,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            threads: Mutex::new(vec![thread]),
            tasks: Mutex::default(),
            runtime,
            place,
            settings,
            clock,
            planner,
            streams,
            log,
            lake,
            sequencer,
            driver,
            session,
            freshness,
        });
        Ok(Platform { inner })
    }

    /// Says that this platform is about to be closed: it is not ready any more, and goes on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::SeqCst);
    }

    /// Stops taking writes, drains, writes a checkpoint and stops the layers.
    pub async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        if !inner.ready.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        inner.sources.stop_all().await;
        inner.sinks.tasks.stop_all().await;
        let sequencer = inner.sequencer.clone();
        archiver::blocking(move || {
            sequencer.stop();
            Ok(())
        })
        .await?;
        let _ = tokio::time::timeout(
            Duration::from_millis(inner.settings.read_wait_ms),
            inner.driver.wait(inner.log.head()),
        )
        .await;
        // A log that failed, was taken over, or is another's, leaves nothing to store.
        let failed = inner.sequencer.failed().is_some() || inner.replica.is_some();
        if !failed {
            views::checkpoint(inner).await?;
        }
        inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *inner.tasks.lock());
        for task in tasks {
            let _ = task.await;
        }
        inner.driver.stop();
        if !failed {
            let log = Arc::clone(&inner.log);
            archiver::blocking(move || Ok(log.mark_durable()?)).await?;
        }
        let threads = std::mem::take(&mut *inner.threads.lock());
        let stopped = Arc::clone(inner);
        archiver::blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
            stopped.runtime.stop();
            Ok(())
        })
        .await
    }

    /// Runs one or several SQL statements, in order; stops at the first error.
    pub async fn execute(&self, session: &mut Session, sql: &str) -> Result<Vec<Outcome>> {
        statements::execute(&self.inner, session, sql).await
    }

    /// The columns of `RETURNING` of an `INSERT`, `UPDATE` or `DELETE`, without running it; None of
    /// any other text.
    pub async fn returned(&self, session: &Session, sql: &str) -> Result<Option<SchemaRef>> {
        statements::returned(&self.inner, session, sql).await
    }

    /// The columns of a stream or table, as writers must supply them.
    pub fn stream_schema(&self, stream: &str) -> Result<SchemaRef> {
        rows::written_schema(&self.inner.stream(stream)?)
    }

    /// Commits rows to a stream (append) or table (upsert); returns when they are durable.
    /// The batches have the columns of [`Platform::stream_schema`].
    pub async fn append(
        &self,
        stream: &str,
        batches: Vec<RecordBatch>,
        producer: Option<Producer>,
    ) -> Result<Ack> {
        let def = self.inner.stream(stream)?;
        crate::sources::refuse_writes(&self.inner, std::iter::once(def.id))?;
        let kind = if def.primary_key.is_empty() { WriteKind::Append } else { WriteKind::Upsert };
        let complete = |batch| rows::with_generated(&self.inner, &def, batch);
        let batches = batches.into_iter().map(complete).collect::<Result<_>>()?;
        let writes = vec![StreamWrite { stream: def.id, rows: batches, kind }];
        if let Some(producer) = producer.as_ref().filter(|p| p.id.starts_with(PRODUCER_PREFIX)) {
            let message = format!("the producer id {:?} is reserved", producer.id);
            return Err(Error::new(Code::InvalidInput, message)
                .field("producer")
                .hint(format!("ids that begin with {PRODUCER_PREFIX} belong to sources")));
        }
        let request = WriteRequest { writes, producer, ..WriteRequest::default() };
        self.inner.sequencer.submit(request).await.map_err(|e| match e.stream {
            Some(_) => e,
            None => e.stream(stream),
        })
    }

    /// Answers a read by value without a plan; None: its query must be run.
    pub async fn read_by_value(
        &self,
        session: &Session,
        read: &PointRead,
    ) -> Result<Option<RowSet>> {
        crate::point::answer(&self.inner, session, read).await
    }

    /// Reads one view.
    pub async fn read_view(&self, read: ViewRead) -> Result<RowSet> {
        crate::query::read_view(&self.inner, read).await
    }

    /// Waits until every running view has taken in the commit.
    pub async fn wait_visible(&self, lsn: Lsn) -> Result<()> {
        self.inner.wait_visible(lsn).await
    }

    /// Starts a batch run; `trigger` says who asked (`manual`, `schedule`, `http`).
    pub async fn start_batch_run(&self, request: BatchRequest, trigger: &str) -> Result<BatchRun> {
        runs::start(&self.inner, request, trigger).await
    }

    /// A batch run by id.
    #[must_use]
    pub fn batch_run(&self, id: &str) -> Option<BatchRun> {
        self.inner.runs.get(id)
    }

    /// Whether it follows another process and answers reads only.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.inner.replica.is_some()
    }

    fn desk(&self) -> Result<&Arc<Desk>> {
        self.inner.workers.as_ref().ok_or_else(|| {
            let message = "workers read the log, and this log is not in a Kafka topic";
            Error::new(Code::Unsupported, message).hint(
                "start with --log-url kafka://host:9092/topic, with a data directory of its own",
            )
        })
    }

    /// The workers that take in a share of the commits, and the log that they read.
    ///
    /// # Errors
    /// [`Code::Unsupported`] where nobody else can read the log.
    pub fn workers(&self) -> Result<Workers> {
        Ok(self.desk()?.show())
    }

    /// A worker says how it is; returns what it is to do, after a while also nothing.
    pub async fn worker_turn(&self, name: &str, report: Report) -> Result<Vec<Order>> {
        self.desk()?.turn(name, report).await
    }

    /// Whether a worker was asked for this answer.
    ///
    /// # Errors
    /// [`Code::NotReady`] where nobody waits for it.
    pub fn check_worker_parts(&self, name: &str, number: u64) -> Result<()> {
        self.desk()?.asked(name, number).map(drop)
    }

    /// A worker gives the states that it was asked for.
    pub fn worker_parts(&self, name: &str, number: u64, parts: bytes::Bytes) -> Result<()> {
        self.desk()?.parts(name, number, parts)
    }

    /// Refuses what writes, by its name, on a read replica.
    ///
    /// # Errors
    /// [`Code::ReadOnly`].
    pub fn check_writable(&self, what: &str) -> Result<()> {
        match self.is_replica() {
            true => Err(replica::refusal(what)),
            false => Ok(()),
        }
    }

    /// Why no more is written until it is opened again: the log failed, or another instance has the
    /// data ([`Code::Fenced`]).
    #[must_use]
    pub fn failed(&self) -> Option<Error> {
        self.inner.sequencer.failed()
    }

    /// What the platform holds and how it fares.
    pub fn status(&self) -> Result<Status> {
        Ok(status::of(&self.inner))
    }
}

impl Inner {
    /// Starts what runs in the background and restores the views.
    async fn start(self: &Arc<Self>) -> Result<()> {
        if self.replica.is_some() {
            replica::start(self).await?;
            let runtime = self.runtime.handle()?;
            *self.tasks.lock() = vec![
                runtime.spawn(replica::follow(Arc::clone(self))),
                runtime.spawn(replica::batches(Arc::clone(self))),
            ];
            return Ok(());
        }
        let mut phases = Phases::begin();
        if let Err(error) = leftovers::finish(self, &mut *self.catalog.lock().await).await {
            tracing::warn!(%error, "files of dropped streams are deleted later");
        }
        views::restore(self).await?;
        phases.ended("views");
        let runtime = self.runtime.handle()?;
        *self.tasks.lock() = vec![
            runtime.spawn(archiver::run(Arc::clone(self))),
            runtime.spawn(views::checkpoints(Arc::clone(self))),
            runtime.spawn(runs::schedules(Arc::clone(self))),
            runtime.spawn(ticks::run(Arc::clone(self))),
        ];
        if self.place.local().is_none() {
            let desk = jobs::desk(&self.place);
            self.tasks.lock().push(runtime.spawn(jobs::serve(Arc::clone(self), desk)));
        }
        sources::restore(self)?;
        sinks::restore(self)?;
        self.ready.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Runs a task on the query threads; whoever holds the handle sees to its end.
    pub fn task(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<()>> {
        Ok(self.runtime.handle()?.spawn(task))
    }

    /// Runs a task on the query threads until it ends or the platform is dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        self.runtime.handle()?.spawn(task);
        Ok(())
    }

    /// Waits until a commit is visible in every running view.
    pub async fn wait_visible(&self, lsn: Lsn) -> Result<()> {
        // What this instance has is not the newest any more, and it cannot know by how much.
        if let Some(error) = self.sequencer.failed().filter(|e| e.code == Code::Fenced) {
            return Err(error);
        }
        let limit = Duration::from_millis(self.settings.read_wait_ms);
        match tokio::time::timeout(limit, self.driver.wait(lsn)).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                let at = self.driver.snapshot().lsn;
                let message = format!("LSN {lsn} is not visible yet; the views stand at {at}");
                Err(Error::new(Code::Unavailable, message).hint("try again, or raise read_wait_ms"))
            }
        }
    }

    /// The names that live views keep files under.
    pub fn live_views(&self) -> BTreeSet<(String, u32)> {
        let definitions = self.definitions.read();
        definitions.views.values().map(|v| (v.stored_name().to_owned(), v.version)).collect()
    }
}
