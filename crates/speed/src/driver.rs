//! The driver: one thread that follows the log. It takes as many commits as are there (up to a
//! limit in bytes) in one step through every view, so that a step is small when little happens and
//! large under load.
//!
//! Invariants: a commit enters a view exactly once, in order; a published snapshot has all running
//! views at its LSN; a view that fails stops alone.

mod hands;

use crate::checkpoint::{self, StateImage};
use crate::crew::{Crew, Range, Taken, is_split};
use crate::merger::Merger;
use crate::snapshot::{Snapshot, ViewSnapshot, ViewState};
use crate::streams::{Changes, Streams, last_lsn};
use crate::{Error, Result};
use hands::Deal;
use kaplan_base::Lsn;
use kaplan_circuit::{Circuit, Clocks, Delta, Input};
use kaplan_log::{Commit, Log};
use kaplan_sql::CompiledView;
use parking_lot::RwLock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Most bytes of commits in one step.
pub const MAX_STEP_BYTES: usize = 32 << 20;
/// Steps with at least so many rows take several views at the same time.
const PARALLEL_ROWS: usize = 8 * 1024;
/// How long the driver sleeps when nothing comes; commands are looked at this often.
const IDLE: Duration = Duration::from_millis(2);
/// How long it waits until it reads the log again that could not be read.
const AGAIN: Duration = Duration::from_millis(200);

/// A circuit with what it has taken in, ready to follow the log.
pub struct Attached {
    /// The view.
    pub compiled: Arc<CompiledView>,
    /// The definition's version.
    pub version: u32,
    /// The circuit.
    pub circuit: Circuit,
    /// The last commit taken in.
    pub lsn: Lsn,
    /// What the clocks show there.
    pub clocks: Clocks,
}

/// A view that could not be attached, and why; the view is gone when the driver has stopped.
pub type NotAttached = (Error, Option<Box<Attached>>);

/// Hears of every group of commits once it is visible.
pub type OnStep = Box<dyn Fn(&[Commit]) + Send>;

/// The driver's answer to an attachment.
type AttachReply = Result<(), Box<(Error, Attached)>>;

enum Command {
    Attach(Box<Attached>, oneshot::Sender<AttachReply>),
    Detach(String, Option<u32>, oneshot::Sender<()>),
    Cut(Vec<String>, oneshot::Sender<(Lsn, Clocks)>),
    Due(Clocks, oneshot::Sender<bool>),
    Release(String, u32, Lsn, oneshot::Sender<Result<()>>),
    Images(oneshot::Sender<Vec<StateImage>>),
    Leave(oneshot::Sender<Vec<Attached>>),
    Jump(Lsn, Clocks, Vec<Attached>, oneshot::Sender<()>),
    Whole(oneshot::Sender<Arc<Snapshot>>),
    Stop,
}

impl Command {
    /// Whether it is about circuits that have taken in every commit.
    fn needs_all(&self) -> bool {
        !matches!(self, Command::Due(..) | Command::Stop)
    }

    /// Whether it changes which views there are.
    fn changes_views(&self) -> bool {
        matches!(
            self,
            Command::Attach(..) | Command::Detach(..) | Command::Leave(..) | Command::Jump(..)
        )
    }
}

struct View {
    compiled: Arc<CompiledView>,
    version: u32,
    /// Whether its commits may be dealt to others.
    split: bool,
    /// None after a failure.
    circuit: Option<Circuit>,
    error: Option<String>,
    lsn: Lsn,
    clocks: Clocks,
    snapshot: Arc<ViewSnapshot>,
}

/// The handle of the driver's thread.
#[derive(Clone)]
pub struct Driver {
    commands: Sender<Command>,
    snapshot: Arc<RwLock<Arc<Snapshot>>>,
    visible: watch::Receiver<Lsn>,
}

impl Driver {
    /// Starts to follow the log after this commit, with the help of a crew if there may be one.
    /// `on_step` hears of every group of commits once it is visible.
    pub fn start(
        log: Arc<dyn Log>,
        streams: Streams,
        (after, clocks): (Lsn, Clocks),
        on_step: OnStep,
        crew: Option<Arc<dyn Crew>>,
    ) -> Result<(Driver, JoinHandle<()>)> {
        let (commands, receiver) = channel();
        let merger = Arc::new(Merger::start().map_err(Error::Thread)?);
        let needed = after;
        let first = Snapshot { lsn: after, needed, clocks: clocks.clone(), ..Snapshot::default() };
        let snapshot = Arc::new(RwLock::new(Arc::new(first)));
        let (sender, visible) = watch::channel(after);
        let worker = Worker {
            log,
            streams,
            receiver,
            views: BTreeMap::new(),
            position: after,
            clocks,
            left: false,
            snapshot: Arc::clone(&snapshot),
            visible: sender,
            on_step,
            merger,
            crew,
            hands: Vec::new(),
            lost: VecDeque::new(),
            waiting: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("speed".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok((Driver { commands, snapshot, visible }, thread))
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(make(sender)).map_err(|_| Error::Stopped)?;
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Lets a circuit follow the log; replaces a view of the same name, unless that is of a newer
    /// version. When the log does not hold what the circuit lacks, the circuit comes back with the
    /// error.
    pub async fn attach(&self, view: Attached) -> Result<(), NotAttached> {
        match self.ask(|reply| Command::Attach(Box::new(view), reply)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(back)) => {
                let (error, view) = *back;
                Err((error, Some(Box::new(view))))
            }
            Err(error) => Err((error, None)),
        }
    }

    /// Forgets a view.
    pub async fn detach(&self, name: &str) -> Result<()> {
        self.ask(|reply| Command::Detach(name.into(), None, reply)).await
    }

    /// Forgets a view of this version; one of another version that has its name goes on.
    pub async fn detach_version(&self, name: &str, version: u32) -> Result<()> {
        self.ask(|reply| Command::Detach(name.into(), Some(version), reply)).await
    }

    /// Cuts these views at one commit, which the answer names: the last that they have taken in,
    /// with what the clocks show there.
    pub async fn cut(&self, views: Vec<String>) -> Result<(Lsn, Clocks)> {
        self.ask(|reply| Command::Cut(views, reply)).await
    }

    /// Whether a view would change at this time without any change of a stream.
    pub async fn due(&self, clocks: Clocks) -> Result<bool> {
        self.ask(|reply| Command::Due(clocks, reply)).await
    }

    /// Lets go of what a view holds up to a cut, once the batch view covers it.
    pub async fn release(&self, view: &str, version: u32, through: Lsn) -> Result<()> {
        self.ask(|reply| Command::Release(view.into(), version, through, reply)).await?
    }

    /// The state of all running views, to be written to a checkpoint.
    pub async fn images(&self) -> Result<Vec<StateImage>> {
        self.ask(Command::Images).await
    }

    /// Hands all running views out, for one who brings them past what the log no longer holds; readers
    /// see the last snapshot until [`Driver::jump`].
    pub async fn leave(&self) -> Result<Vec<Attached>> {
        self.ask(Command::Leave).await
    }

    /// Goes on after a later commit, with views that have taken in everything up to it.
    pub async fn jump(&self, (lsn, clocks): (Lsn, Clocks), views: Vec<Attached>) -> Result<()> {
        self.ask(|reply| Command::Jump(lsn, clocks, views, reply)).await
    }

    /// All views at one LSN, with what hands have made of their commits.
    pub async fn whole(&self) -> Result<Arc<Snapshot>> {
        self.ask(Command::Whole).await
    }

    /// Ends the thread after its current step.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }

    /// All views at one LSN.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Waits until a commit is visible.
    pub async fn wait(&self, lsn: Lsn) -> Result<()> {
        let mut visible = self.visible.clone();
        visible.wait_for(|v| *v >= lsn).await.map_err(|_| Error::Stopped)?;
        Ok(())
    }
}

struct Worker {
    log: Arc<dyn Log>,
    streams: Streams,
    receiver: Receiver<Command>,
    views: BTreeMap<String, View>,
    position: Lsn,
    clocks: Clocks,
    /// The views are elsewhere, between [`Driver::leave`] and [`Driver::jump`].
    left: bool,
    snapshot: Arc<RwLock<Arc<Snapshot>>>,
    visible: watch::Sender<Lsn>,
    on_step: OnStep,
    merger: Arc<Merger>,
    crew: Option<Arc<dyn Crew>>,
    hands: Vec<Taken>,
    /// Commits of hands that are gone, still to be taken in.
    lost: VecDeque<Range>,
    /// Commands that need these.
    waiting: VecDeque<Command>,
}

impl Worker {
    fn run(mut self) {
        loop {
            loop {
                match self.receiver.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                    Ok(command) => self.waiting.push_back(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            while let Some(command) = self.waiting.pop_front() {
                if command.needs_all() && !self.collect() {
                    self.waiting.push_front(command);
                    std::thread::sleep(AGAIN);
                    break;
                }
                if command.changes_views() {
                    // They begin again with the views that there are then.
                    self.hands.clear();
                }
                self.obey(command);
            }
            if self.left {
                std::thread::sleep(IDLE);
                continue;
            }
            self.muster();
            if self.log.wait(self.position, IDLE) > self.position
                && let Err(error) = self.advance()
            {
                tracing::error!(%error, position = self.position.0, "the log cannot be followed");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// One step of all views.
    fn advance(&mut self) -> Result<()> {
        let commits = self.log.read(self.position, MAX_STEP_BYTES)?;
        let lsn = last_lsn(&commits, self.position);
        let deltas = self.deal(&commits)?;
        self.streams.tick(&mut self.clocks, &commits);
        step_all(&mut self.views, &deltas, lsn, &self.clocks);
        self.position = lsn;
        for taken in &mut self.hands {
            taken.told = lsn;
            taken.hand.advance(lsn);
        }
        self.publish();
        (self.on_step)(&commits);
        Ok(())
    }

    fn publish(&self) {
        let views = self.views.iter().map(|(n, v)| (n.clone(), Arc::clone(&v.snapshot))).collect();
        let taken = self.hands.iter().map(|taken| taken.range.since);
        let needed = taken.chain(self.lost.iter().map(|range| range.since)).min();
        let snapshot = Snapshot {
            lsn: self.position,
            apart: !self.lost.is_empty() || self.hands.iter().any(Taken::has_some),
            needed: needed.unwrap_or(self.position),
            clocks: self.clocks.clone(),
            views,
        };
        *self.snapshot.write() = Arc::new(snapshot);
        self.visible.send_replace(self.position);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Attach(view, reply) => {
                let _ = reply.send(self.attach(view));
            }
            Command::Detach(name, version, reply) => {
                let same = |view: &View| version.is_none_or(|version| view.version == version);
                if self.views.get(&name).is_some_and(same) {
                    self.views.remove(&name);
                    self.publish();
                }
                let _ = reply.send(());
            }
            Command::Cut(names, reply) => {
                for name in names {
                    if let Some(view) = self.views.get_mut(&name)
                        && let Some(circuit) = &mut view.circuit
                    {
                        circuit.cut(self.position);
                        view.refresh(true);
                    }
                }
                self.publish();
                let _ = reply.send((self.position, self.clocks.clone()));
            }
            Command::Due(clocks, reply) => {
                let due = self.views.values().any(|view| view.is_due(&clocks));
                let _ = reply.send(due);
            }
            Command::Release(name, version, through, reply) => {
                let _ = reply.send(self.release(&name, version, through));
            }
            Command::Images(reply) => {
                let _ = reply.send(self.images());
            }
            Command::Leave(reply) => {
                let _ = reply.send(self.leave());
            }
            Command::Jump(lsn, clocks, views, reply) => {
                self.jump(lsn, clocks, views);
                let _ = reply.send(());
            }
            Command::Whole(reply) => {
                let _ = reply.send(Arc::clone(&self.snapshot.read()));
            }
            Command::Stop => {}
        }
    }

    fn leave(&mut self) -> Vec<Attached> {
        self.left = true;
        let (lsn, clocks) = (self.position, self.clocks.clone());
        let views = std::mem::take(&mut self.views).into_values();
        let running = views.filter_map(|view| {
            let View { compiled, version, circuit, .. } = view;
            Some(Attached { compiled, version, circuit: circuit?, lsn, clocks: clocks.clone() })
        });
        running.collect()
    }

    fn jump(&mut self, lsn: Lsn, clocks: Clocks, views: Vec<Attached>) {
        (self.position, self.clocks, self.left) = (lsn, clocks, false);
        for Attached { compiled, version, circuit, .. } in views {
            self.keep(compiled, version, circuit, lsn);
        }
        self.publish();
    }

    /// Keeps a view that stands where the others stand.
    fn keep(&mut self, compiled: Arc<CompiledView>, version: u32, mut circuit: Circuit, lsn: Lsn) {
        // History was fed as fast as it goes; from here on readers wait for each step.
        if let Err(error) = circuit.merge_beside(Some(Arc::clone(&self.merger) as _)) {
            tracing::warn!(view = compiled.name, %error, "its steps merge by themselves");
        }
        let snapshot = Arc::new(snapshot_of(&compiled, version, &circuit, (lsn, &self.clocks)));
        let (name, clocks) = (compiled.name.clone(), snapshot.clocks.clone());
        let (split, circuit) = (is_split(&compiled), Some(circuit));
        let view = View { compiled, version, split, circuit, error: None, lsn, clocks, snapshot };
        self.views.insert(name, view);
    }

    /// Takes a view in: it first catches up with what the others have seen.
    fn attach(&mut self, mut view: Box<Attached>) -> AttachReply {
        let name = &view.compiled.name;
        if self.views.get(name).is_some_and(|there| there.version > view.version) {
            // A replay that outlived its view: what was created under the name since then stays.
            return Err(Box::new((Error::Superseded { view: name.clone() }, *view)));
        }
        // What lies between the view and the others may have left the log, or be still to come: the lake
        // can be ahead of a log that another process writes. To wait here would keep it from coming.
        let reached = view.lsn == self.position || self.log.head() >= view.lsn.max(self.position);
        if self.left || !reached {
            return Err(Box::new((Error::Behind { start: self.log.start() }, *view)));
        }
        while view.lsn < self.position {
            if let Err(error) = catch_up(&*self.log, &self.streams, &mut view, self.position) {
                return Err(Box::new((self.behind(error), *view)));
            }
        }
        if view.lsn > self.position {
            // History reached further than the others have stepped: they follow first.
            while self.position < view.lsn {
                if let Err(error) = self.advance() {
                    return Err(Box::new((self.behind(error), *view)));
                }
            }
            if self.position > view.lsn {
                return self.attach(view);
            }
        }
        let Attached { compiled, version, mut circuit, lsn, .. } = *view;
        // A checkpoint may be of this very commit: the clocks are those of the others.
        if !compiled.clocks.is_empty()
            && let Err(error) = step(&mut circuit, &compiled, &Changes::new(), (lsn, &self.clocks))
        {
            let clocks = self.clocks.clone();
            return Err(Box::new((error, Attached { compiled, version, circuit, lsn, clocks })));
        }
        self.keep(compiled, version, circuit, lsn);
        self.publish();
        Ok(())
    }

    /// Tells a log that was trimmed too early from others that cannot be read.
    fn behind(&self, error: Error) -> Error {
        match error {
            Error::Log(kaplan_log::Error::Trimmed { .. }) => {
                Error::Behind { start: self.log.start() }
            }
            other => other,
        }
    }

    fn release(&mut self, name: &str, version: u32, through: Lsn) -> Result<()> {
        if let Some(view) = self.views.get_mut(name)
            && view.version == version
            && let Some(circuit) = &mut view.circuit
        {
            circuit.release(through)?;
            view.refresh(true);
            self.publish();
        }
        Ok(())
    }

    fn images(&self) -> Vec<StateImage> {
        self.views
            .values()
            .filter_map(|v| {
                let circuit = v.circuit.as_ref()?;
                Some(checkpoint::image(&v.compiled, v.version, v.lsn, circuit))
            })
            .collect()
    }
}

/// One step of every view; of a large one several at the same time, since views share no state.
fn step_all(views: &mut BTreeMap<String, View>, deal: &Deal, lsn: Lsn, clocks: &Clocks) {
    let changes = deal.all.values().chain(deal.own.iter().flat_map(BTreeMap::values));
    let rows: usize = changes.flatten().map(|(_, delta)| delta.len()).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if rows < PARALLEL_ROWS { 1 } else { cores.min(views.len()) };
    let waiting = parking_lot::Mutex::new(views.iter_mut());
    let work = || {
        loop {
            let next = waiting.lock().next();
            let Some((name, view)) = next else { break };
            view.step(name, deal.of(view), lsn, clocks);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

impl View {
    /// Takes the changes in; a failure stops this view only.
    fn step(&mut self, name: &str, deltas: &Changes, lsn: Lsn, clocks: &Clocks) {
        let Some(circuit) = &mut self.circuit else { return };
        let touched = !self.compiled.clocks.is_empty()
            || self.compiled.sources.iter().any(|s| deltas.contains_key(&s.stream));
        if touched && let Err(error) = step(circuit, &self.compiled, deltas, (lsn, clocks)) {
            return self.fail(name, &error, lsn);
        }
        // Others may have grown.
        if !touched && let Err(error) = circuit.settle() {
            tracing::warn!(view = name, %error, "its state cannot leave memory");
        }
        self.lsn = lsn;
        if touched {
            self.clocks = self.compiled.shown(clocks);
        }
        self.refresh(touched);
    }

    fn fail(&mut self, name: &str, error: &Error, lsn: Lsn) {
        tracing::error!(view = name, %error, lsn = lsn.0, "a view stopped");
        self.error = Some(error.to_string());
        self.circuit = None;
        self.refresh(true);
    }

    /// Whether it would change at this time without any change of a stream.
    fn is_due(&self, clocks: &Clocks) -> bool {
        let Some(circuit) = self.circuit.as_ref().filter(|_| !self.compiled.clocks.is_empty())
        else {
            return false;
        };
        let read = self.compiled.tail_clocks.iter();
        read.into_iter().any(|clock| clocks.get(clock) > self.clocks.get(clock))
            // An error is the step's to report.
            || circuit.due(clocks).unwrap_or(true)
    }

    /// A new snapshot; unchanged content keeps the rows that readers have merged already.
    fn refresh(&mut self, changed: bool) {
        let old = &self.snapshot;
        let (state, content, sizes) = match (&self.circuit, &self.error) {
            (Some(circuit), _) => (ViewState::Running, circuit.snapshot(), circuit.sizes()),
            (None, error) => {
                let reason = error.clone().unwrap_or_default();
                (ViewState::Failed(reason), old.content.clone(), old.sizes.clone())
            }
        };
        let merged = if changed { None } else { old.merged.lock().clone() };
        self.snapshot = Arc::new(ViewSnapshot {
            compiled: Arc::clone(&self.compiled),
            version: self.version,
            state,
            lsn: self.lsn,
            changed: if changed { self.lsn } else { old.changed },
            clocks: self.clocks.clone(),
            content,
            keepers: Arc::clone(&old.keepers),
            sizes,
            merged: parking_lot::Mutex::new(merged),
            merging: parking_lot::Mutex::default(),
            shelf: old.shelf.clone(),
        });
    }
}

fn snapshot_of(
    compiled: &Arc<CompiledView>,
    version: u32,
    circuit: &Circuit,
    (lsn, clocks): (Lsn, &Clocks),
) -> ViewSnapshot {
    ViewSnapshot {
        compiled: Arc::clone(compiled),
        version,
        state: ViewState::Running,
        lsn,
        changed: lsn,
        clocks: compiled.shown(clocks),
        content: circuit.snapshot(),
        keepers: circuit.keepers().into(),
        sizes: circuit.sizes(),
        merged: parking_lot::Mutex::default(),
        merging: parking_lot::Mutex::default(),
        shelf: circuit.shelf().cloned(),
    }
}

/// One step of one circuit with the rows of all commits up to one that it lacked.
pub(crate) fn step(
    circuit: &mut Circuit,
    compiled: &CompiledView,
    deltas: &Changes,
    (settled, clocks): (Lsn, &Clocks),
) -> Result<()> {
    let mut input: Vec<Vec<Delta>> = Vec::with_capacity(compiled.sources.len());
    for source in &compiled.sources {
        let changes = deltas.get(&source.stream).map(Vec::as_slice).unwrap_or_default();
        let rows = changes.iter().map(|(lsn, delta)| source.rows(*lsn, delta));
        input.push(rows.collect::<kaplan_sql::Result<_>>()?);
    }
    circuit.step(&Input { deltas: &input, clocks, settled })?;
    Ok(())
}

/// Feeds a circuit with commits of the log up to a position.
pub(crate) fn catch_up(
    log: &dyn Log,
    streams: &Streams,
    view: &mut Attached,
    to: Lsn,
) -> Result<()> {
    let mut commits = log.read(view.lsn, MAX_STEP_BYTES)?;
    commits.retain(|c| c.lsn <= to);
    let deltas = streams.decode(&commits)?;
    streams.tick(&mut view.clocks, &commits);
    let last = last_lsn(&commits, view.lsn);
    step(&mut view.circuit, &view.compiled, &deltas, (last, &view.clocks))?;
    view.lsn = last;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::SessionContext;
    use kaplan_log::{LocalLog, Options};

    #[tokio::test]
    async fn an_older_version_neither_replaces_nor_removes_a_newer_one() {
        let (_directory, driver, thread) = started();
        let version = || driver.snapshot().views.get("v").map(|view| view.version);
        let newer = Attached { version: 2, ..at(Lsn::ZERO).await };
        assert!(driver.attach(newer).await.is_ok());
        let (error, _) = driver.attach(at(Lsn::ZERO).await).await.unwrap_err();
        assert!(matches!(error, Error::Superseded { .. }), "{error}");
        driver.detach_version("v", 1).await.unwrap();
        assert_eq!(version(), Some(2));
        let newest = Attached { version: 3, ..at(Lsn::ZERO).await };
        assert!(driver.attach(newest).await.is_ok());
        driver.detach_version("v", 2).await.unwrap();
        assert_eq!(version(), Some(3));
        driver.detach_version("v", 3).await.unwrap();
        assert_eq!(version(), None);
        driver.stop();
        thread.join().unwrap();
    }

    /// A driver over an empty log.
    fn started() -> (tempfile::TempDir, Driver, std::thread::JoinHandle<()>) {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(LocalLog::open(directory.path(), Options::default()).unwrap());
        let start = (Lsn::ZERO, Clocks::default());
        let (driver, thread) =
            Driver::start(log, Streams::default(), start, Box::new(|_| {}), None).unwrap();
        (directory, driver, thread)
    }

    /// A view of one row that has seen commits up to `lsn`.
    async fn at(lsn: Lsn) -> Attached {
        let plan = SessionContext::new().state().create_logical_plan("VALUES (1)").await.unwrap();
        let compiled = Arc::new(CompiledView::new("v", plan.clone(), plan).unwrap());
        let circuit = compiled.circuit(Lsn::ZERO).unwrap();
        Attached { compiled, version: 1, circuit, lsn, clocks: Clocks::default() }
    }

    #[tokio::test]
    async fn views_ahead_of_the_log_come_back() {
        let (_directory, driver, thread) = started();
        let (error, view) = driver.attach(at(Lsn(3)).await).await.unwrap_err();
        assert!(matches!(error, Error::Behind { .. }), "{error}");
        assert_eq!(view.unwrap().lsn, Lsn(3));
        // The driver goes on, and past what the log has, where the lake brings it.
        assert!(driver.leave().await.unwrap().is_empty());
        driver.jump((Lsn(5), Clocks::default()), Vec::new()).await.unwrap();
        let (error, _) = driver.attach(at(Lsn(4)).await).await.unwrap_err();
        assert!(matches!(error, Error::Behind { .. }), "{error}");
        driver.stop();
        thread.join().unwrap();
    }
}
