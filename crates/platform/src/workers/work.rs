//! The worker's side: it reads the log's topic, takes in the commits of its shares, and does what the
//! writer says.

use super::{LogTopic, Order, Report, SHARES, Workers, encode};
use crate::planning::Planning;
use crate::{Code, Error, Result, log, recover};
use kaplan_base::Lsn;
use kaplan_circuit::environment_fingerprint;
use kaplan_log::{Commit, KafkaGroup, KafkaOptions, KafkaReader};
use kaplan_speed::crew::{Share, Shares, ViewId, is_split};
use kaplan_speed::{MAX_STEP_BYTES, Streams};
use kaplan_sql::catalog::{Catalog, ViewDef};
use kaplan_sql::{CompiledView, Planner};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::mpsc;

/// The wait for an order, and for a commit, before the other is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// The wait for news of the group.
const GROUP: Duration = Duration::from_millis(200);
/// The wait until the writer, or the brokers, are asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Stack of the thread that plans: planning deeply nested SQL recurses.
const STACK_BYTES: usize = 16 << 20;

/// How the worker and the writer talk.
pub trait Link: Send + Sync {
    /// The writer's log.
    fn hello(&self) -> impl Future<Output = Result<Workers>> + Send;
    /// Says how it is; answers what to do.
    fn turn(&self, report: &Report) -> impl Future<Output = Result<Vec<Order>>> + Send;
    /// Gives what was asked for.
    fn parts(&self, number: u64, parts: Vec<u8>) -> impl Future<Output = Result<()>> + Send;
}

/// How a worker reads the log.
#[derive(Clone, Debug, Default)]
pub struct WorkerOptions {
    /// The brokers, where the worker calls them otherwise than the writer does.
    pub brokers: Option<String>,
    /// Properties of librdkafka, as in the setting `log_properties`.
    pub log_properties: String,
}

/// What the threads of a worker know of each other.
#[derive(Default)]
struct Shown {
    report: Mutex<Report>,
    stop: AtomicBool,
}

/// Works until `stop`, for whatever process is the writer at that time.
///
/// # Errors
/// What does not pass: the writer refuses this worker, or its log is another one by now.
pub async fn run(
    link: impl Link,
    options: WorkerOptions,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let mut stop = std::pin::pin!(stop);
    let topic = loop {
        match passing(link.hello().await, "the writer does not answer")? {
            Some(workers) => break workers.log,
            None => tokio::select! {
                () = &mut stop => return Ok(()),
                () = tokio::time::sleep(AGAIN) => {}
            },
        }
    };
    let kafka = kafka(&topic, &options)?;
    let (fingerprint, instance) = (environment_fingerprint(), uuid::Uuid::new_v4().to_string());
    let report = Report { fingerprint, instance, ..Report::default() };
    let shown = Arc::new(Shown { report: Mutex::new(report), stop: AtomicBool::new(false) });
    let (orders, received) = std::sync::mpsc::channel();
    let (give, mut given) = mpsc::unbounded_channel();
    let handle = tokio::runtime::Handle::current();
    let worker = Worker { shown: Arc::clone(&shown), kafka: kafka.clone(), give, handle };
    let worker = thread("worker", move || worker.run(&received))?;
    let (state, group_of) = (Arc::clone(&shown), kafka);
    let group = thread("group", move || follow_group(&group_of, &state))?;
    let talk = async {
        let mut alone = false;
        loop {
            let report = shown.report.lock().clone();
            let told = match passing(link.turn(&report).await, "the writer does not answer")? {
                Some(told) => told,
                None => {
                    alone = true;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            if std::mem::take(&mut alone) {
                same(&topic, passing(link.hello().await, "the writer does not answer")?)?;
            }
            let mut state = shown.report.lock();
            if state.error == report.error {
                // It was heard.
                state.error = None;
            }
            drop(state);
            for order in told {
                if orders.send(order).is_err() {
                    return Err(Error::new(Code::Internal, "the worker's thread has ended"));
                }
            }
        }
    };
    let bring = async {
        while let Some((number, parts)) = given.recv().await {
            if let Err(error) = link.parts(number, parts).await {
                tracing::warn!(%error, "the writer did not take what this worker has made");
                shown.report.lock().error = Some(error.to_string());
            }
        }
    };
    let ended = tokio::select! {
        () = &mut stop => Ok(()),
        ended = talk => ended,
        () = bring => Ok(()),
    };
    shown.stop.store(true, Ordering::SeqCst);
    drop(orders);
    crate::archiver::blocking(move || {
        let _ = (worker.join(), group.join());
        Ok(())
    })
    .await?;
    ended
}

/// None of an error that may pass.
fn passing<T>(result: Result<T>, what: &str) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.code, Code::Unavailable | Code::Overloaded | Code::Fenced) => {
            tracing::warn!(%error, "{what}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Refuses a writer that has another log by now.
fn same(before: &LogTopic, now: Option<Workers>) -> Result<()> {
    match now {
        Some(now) if now.log.id != before.id || now.log.topic != before.topic => {
            let message = format!("the writer's log is {} now, and was {}", now.log.id, before.id);
            Err(Error::new(Code::InvalidInput, message).hint("start this worker again"))
        }
        _ => Ok(()),
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    let refused = |e: std::io::Error| Error::new(Code::Internal, format!("no thread: {e}"));
    builder.spawn(work).map_err(refused)
}

fn kafka(topic: &LogTopic, options: &WorkerOptions) -> Result<KafkaOptions> {
    let brokers = options.brokers.as_deref().unwrap_or(&topic.brokers);
    let wrong = |_| Error::new(Code::InvalidInput, "the writer's log has no id");
    let id = u64::from_str_radix(&topic.id, 16).map_err(wrong)?;
    let properties = log::parse_properties(&options.log_properties)?;
    Ok(KafkaOptions { properties, ..KafkaOptions::new(brokers, &topic.topic, id) })
}

/// Keeps the shares in the report as the brokers deal them.
fn follow_group(kafka: &KafkaOptions, shown: &Shown) {
    let topic = format!("{}.workers", kafka.topic);
    let mut group = None;
    while !shown.stop.load(Ordering::SeqCst) {
        let member = match &mut group {
            Some(member) => member,
            None => match KafkaGroup::join(kafka, &topic, SHARES) {
                Ok(member) => group.insert(member),
                Err(error) => {
                    tracing::warn!(%error, "no place in the group of workers");
                    std::thread::sleep(AGAIN);
                    continue;
                }
            },
        };
        match member.shares(GROUP) {
            Ok(shares) => {
                let mut report = shown.report.lock();
                report.of = u64::from(member.partitions());
                report.shares = shares.into_iter().map(u64::from).collect();
            }
            Err(error) => {
                tracing::warn!(%error, "the group of workers was left");
                shown.report.lock().shares.clear();
                group = None;
                std::thread::sleep(AGAIN);
            }
        }
    }
}

/// The thread that takes commits in.
struct Worker {
    shown: Arc<Shown>,
    kafka: KafkaOptions,
    give: mpsc::UnboundedSender<(u64, Vec<u8>)>,
    handle: tokio::runtime::Handle,
}

/// What it does at the time.
struct Task {
    share: Share,
    to: Lsn,
}

impl Worker {
    fn run(self, orders: &Receiver<Order>) {
        let (mut reader, mut task) = (None, None);
        loop {
            let behind = task.as_ref().is_some_and(|t: &Task| t.share.lsn() < t.to);
            // A thread that has something to do only looks whether there is more.
            let wait = if behind { Duration::ZERO } else { LOOK };
            let done = match orders.recv_timeout(wait) {
                Ok(order) => self.obey(order, &mut reader, &mut task),
                Err(RecvTimeoutError::Timeout) => self.advance(&mut reader, &mut task),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = done {
                tracing::error!(%error, "what this worker had is lost");
                (reader, task) = (None, None);
                self.shown.report.lock().error = Some(error.to_string());
            }
            self.shown.report.lock().held_bytes =
                task.as_ref().map_or(0, |task| task.share.bytes() as u64);
        }
    }

    fn obey(
        &self,
        order: Order,
        reader: &mut Option<Reader>,
        task: &mut Option<Task>,
    ) -> Result<()> {
        match order {
            Order::Begin { after, shares, of, views, catalog } => {
                let shares = Shares { of, these: shares.into_iter().collect() };
                *task = None;
                let (views, streams) = self.handle.block_on(compile(&views, &catalog))?;
                let share = Share::new((after, shares), views, streams, None)?;
                if reader.as_ref().is_none_or(|reader| reader.read > after) {
                    let stored = KafkaReader::open(&self.kafka, after)?;
                    *reader = Some(Reader { stored, read: after });
                }
                *task = Some(Task { share, to: after });
            }
            Order::Advance { to } => task.iter_mut().for_each(|task| task.to = task.to.max(to)),
            Order::Give { number } => {
                while task.as_ref().is_some_and(|task| task.share.lsn() < task.to) {
                    if self.shown.stop.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    self.advance(reader, task)?;
                }
                let missing = || Error::new(Code::NotReady, "it was asked before it had begun");
                let parts = task.as_mut().ok_or_else(missing)?.share.give()?;
                // Nobody listens to a worker that stops.
                let _ = self.give.send((number, encode(parts)?));
            }
        }
        Ok(())
    }

    /// Takes in what there is, up to where it may, as far as it makes a step.
    fn advance(&self, reader: &mut Option<Reader>, task: &mut Option<Task>) -> Result<()> {
        let (Some(reader), Some(task)) = (reader, task) else { return Ok(()) };
        let (mut commits, mut bytes): (Vec<Commit>, usize) = (Vec::new(), 0);
        while reader.read < task.to && bytes < MAX_STEP_BYTES {
            let Some(commit) = reader.stored.next(LOOK)? else { break };
            reader.read = commit.lsn;
            if commit.lsn > task.share.lsn() {
                bytes += commit.writes.iter().map(|write| write.payload.len()).sum::<usize>();
                commits.push(commit);
            }
        }
        if !commits.is_empty() {
            task.share.take(commits)?;
        }
        Ok(())
    }
}

/// The log, and how far it was read.
struct Reader {
    stored: KafkaReader,
    read: Lsn,
}

type Planned = (Vec<(Arc<CompiledView>, u32)>, Streams);

/// Plans views by the writer's definitions.
async fn compile(wanted: &[ViewId], catalog: &str) -> Result<Planned> {
    let catalog = crate::catalog::parse(&catalog.to_owned().into())?;
    let planner = Planner::new();
    planner.define(catalog.functions.clone());
    let streams = Streams::default();
    for def in catalog.streams.values() {
        streams.set(recover::info(def)?);
    }
    for id in &catalog.dropped {
        streams.set(recover::dropped(*id));
    }
    let compiled = plans(&catalog, &planner).await;
    let mut views = Vec::with_capacity(wanted.len());
    for (name, version) in wanted {
        let is = |def: &&ViewDef| def.version == *version && def.stored_name() == name;
        let known = catalog.views.values().find(is).and_then(|def| compiled.get(&def.name));
        let missing = || Error::new(Code::NotReady, format!("view {name} cannot be planned here"));
        let view = known.filter(|view| is_split(view)).ok_or_else(missing)?;
        views.push((Arc::clone(view), *version));
    }
    Ok((views, streams))
}

/// All views by name, without those that cannot be planned.
async fn plans(catalog: &Catalog, planner: &Planner) -> BTreeMap<String, Arc<CompiledView>> {
    let mut left: Vec<&ViewDef> = catalog.views.values().collect();
    // Views are planned after the views that they read.
    left.sort_by_key(|def| def.version);
    let mut compiled: BTreeMap<String, Arc<CompiledView>> = BTreeMap::new();
    for def in left {
        let known = |name: &str| {
            let missing = || Error::new(Code::NotReady, format!("view {name} is not planned"));
            Ok(compiled.get(name).ok_or_else(missing)?.plan.clone())
        };
        let planned = Planning { catalog, planner, view: &known }.compile(def).await;
        match planned {
            Ok(view) => drop(compiled.insert(def.name.clone(), Arc::new(view))),
            Err(error) => tracing::warn!(view = def.name, %error, "a view cannot be planned"),
        }
    }
    compiled
}
