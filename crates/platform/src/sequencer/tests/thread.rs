//! The thread: group commit, overload, full disks, failed logs, stopping, and a restart on a real
//! log in a directory.

use super::super::{Limits, Sequencer};
use super::*;
use crate::Code;
use futures::future::join_all;
use kaplan_base::ManualClock;
use kaplan_log::sim::SimDisk;
use kaplan_log::{LocalLog, Log, Options};
use parking_lot::{Condvar, Mutex};
use std::time::Duration;

type LogResult<T> = Result<T, kaplan_log::Error>;

/// A log whose appends wait at a gate and fail on demand.
struct GatedLog {
    inner: LocalLog,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    appends: u64,
    /// Which append fails, and how.
    failure: Option<(u64, kaplan_log::Error)>,
}

impl GatedLog {
    fn new() -> Arc<Self> {
        let inner = LocalLog::open_on(Arc::new(SimDisk::new(1)), Options::default()).unwrap();
        Arc::new(Self { inner, gate: Mutex::default(), moved: Condvar::new() })
    }

    fn close(&self) {
        self.gate.lock().closed = true;
    }

    fn open(&self) {
        self.gate.lock().closed = false;
        self.moved.notify_all();
    }

    fn wait_for_append(&self, count: u64) {
        let mut gate = self.gate.lock();
        while gate.appends < count {
            self.moved.wait(&mut gate);
        }
    }

    fn fail(&self, append: u64, error: kaplan_log::Error) {
        self.gate.lock().failure = Some((append, error));
    }

    fn appends(&self) -> u64 {
        self.gate.lock().appends
    }
}

impl Log for GatedLog {
    fn append(&self, group: &[Commit]) -> LogResult<()> {
        let mut gate = self.gate.lock();
        gate.appends += 1;
        self.moved.notify_all();
        while gate.closed {
            self.moved.wait(&mut gate);
        }
        let append = gate.appends;
        match gate.failure.take_if(|(at, _)| *at == append) {
            Some((_, error)) => Err(error),
            None => self.inner.append(group),
        }
    }

    fn head(&self) -> Lsn {
        self.inner.head()
    }

    fn start(&self) -> Lsn {
        self.inner.start()
    }

    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&self, after: Lsn, max_bytes: usize) -> LogResult<Vec<Commit>> {
        self.inner.read(after, max_bytes)
    }

    fn trim(&self, through: Lsn) -> LogResult<()> {
        self.inner.trim(through)
    }

    fn wait(&self, after: Lsn, timeout: Duration) -> Lsn {
        self.inner.wait(after, timeout)
    }
}

fn start(log: Arc<dyn Log>, state: State, limits: Limits) -> Sequencer {
    Sequencer::start(log, Arc::new(ManualClock::new(1)), state, limits).unwrap()
}

fn event(k: i64) -> WriteRequest {
    append(EVENTS, &[row(k, "a", 0)])
}

fn no_space() -> kaplan_log::Error {
    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
    kaplan_log::Error::DiskFull { file: "x".to_owned(), bytes: 1, source }
}

#[tokio::test]
async fn what_waits_is_committed_in_one_append() {
    let log = GatedLog::new();
    let sequencer = start(log.clone(), state(), Limits::default());
    log.close();
    let submits = join_all((0..100).map(|k| sequencer.submit(event(k))));
    let (acks, ()) = futures::join!(submits, async { log.open() });
    let lsns: Vec<u64> = acks.into_iter().map(|ack| ack.unwrap().lsn.0).collect();
    assert_eq!(lsns, (1..=100).collect::<Vec<_>>());
    assert!(log.appends() <= 2, "{} appends", log.appends());
    assert_eq!(log.read(Lsn::ZERO, usize::MAX).unwrap().len(), 100);
    assert_eq!(sequencer.counters()[&EVENTS].rows, 100);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let log = GatedLog::new();
    let limits = Limits { queue_bytes: 1, ..Limits::default() };
    let sequencer = start(log.clone(), state(), limits);
    log.close();
    let (first, (), second, third, ()) = futures::join!(
        sequencer.submit(event(1)),
        async { log.wait_for_append(1) },
        sequencer.submit(event(2)),
        sequencer.submit(event(3)),
        async { log.open() },
    );
    assert_eq!((first.unwrap().lsn, second.unwrap().lsn), (Lsn(1), Lsn(2)));
    assert_eq!(third.unwrap_err().code, Code::Overloaded);
}

#[tokio::test]
async fn an_archiver_that_lags_stops_writes() {
    let limits = Limits { log_reserve_bytes: 100, ..Limits::default() };
    let sequencer = start(GatedLog::new(), state(), limits);
    sequencer.submit(event(1)).await.unwrap();
    assert_eq!(sequencer.submit(event(2)).await.unwrap_err().code, Code::Overloaded);
    sequencer.set_backlog_bytes(100);
    sequencer.submit(event(2)).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_leaves_no_trace() {
    let log = GatedLog::new();
    let sequencer = start(log.clone(), state(), Limits::default());
    log.fail(1, no_space());
    let asked = from(event(1), "p", 1);
    let refused = sequencer.submit(asked.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::DiskFull);
    assert!(sequencer.producers().1.is_empty());
    let ack = sequencer.submit(asked.clone()).await.unwrap();
    assert_eq!((ack.lsn, ack.duplicates), (Lsn(1), 0));
    let retry = sequencer.submit(asked).await.unwrap();
    assert_eq!((retry.lsn, retry.duplicates), (Lsn(1), 1));
    let known = sequencer.producers().1;
    assert_eq!((known["p"].sequence, known["p"].lsn), (1, Lsn(1)));
}

#[tokio::test]
async fn the_splits_of_a_source_are_forgotten_with_it() {
    let sequencer = start(GatedLog::new(), state(), Limits::default());
    for (at, id) in (1..).zip(["_source/1/a", "_source/1/b", "_source/12/a", "p"]) {
        sequencer.submit(from(event(at), id, 1)).await.unwrap();
    }
    sequencer.forget_producers("_source/1/".into()).await.unwrap();
    let known = sequencer.producers().1;
    assert_eq!(known.keys().collect::<Vec<_>>(), ["_source/12/a", "p"]);
    // The write of a split that is not known any more is a new one.
    let ack = sequencer.submit(from(event(9), "_source/1/a", 1)).await.unwrap();
    assert_eq!((ack.lsn, ack.duplicates), (Lsn(5), 0));
}

#[tokio::test]
async fn a_duplicate_fails_with_its_original() {
    let log = GatedLog::new();
    let sequencer = start(log.clone(), state(), Limits::default());
    log.close();
    log.fail(2, no_space());
    let (first, (), original, duplicate, ()) = futures::join!(
        sequencer.submit(event(7)),
        async { log.wait_for_append(1) },
        sequencer.submit(event(1)),
        sequencer.submit(event(1)),
        async { log.open() },
    );
    first.unwrap();
    assert_eq!(original.unwrap_err().code, Code::DiskFull);
    assert_eq!(duplicate.unwrap_err().code, Code::DiskFull);
    let again = sequencer.submit(event(1)).await.unwrap();
    assert_eq!((again.lsn, again.duplicates), (Lsn(2), 0));
}

#[tokio::test]
async fn a_failed_log_takes_nothing_more() {
    let log = GatedLog::new();
    let sequencer = start(log.clone(), state(), Limits::default());
    let source = std::io::Error::other("no");
    let (action, file) = ("sync", "x".to_owned());
    log.fail(1, kaplan_log::Error::Failed { action, file, may_have_happened: true, source });
    for _ in 0..2 {
        let error = sequencer.submit(event(1)).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.hint.unwrap().contains("restart"));
    }
    assert_eq!(log.appends(), 1);
}

#[tokio::test]
async fn stopping_commits_what_waits() {
    let log = GatedLog::new();
    let sequencer = start(log.clone(), state(), Limits::default());
    log.close();
    let submits = join_all((0..10).map(|k| sequencer.submit(event(k))));
    let (acks, ()) = futures::join!(submits, async {
        log.open();
        sequencer.stop();
    });
    assert!(acks.iter().all(Result::is_ok));
    assert_eq!(sequencer.submit(event(1)).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(sequencer.counters()[&EVENTS].last_lsn, Lsn(10));
}

#[tokio::test]
async fn definitions_are_ordered_with_writes() {
    let sequencer = start(GatedLog::new(), State::new(), Limits::default());
    let [events, ..] = definitions();
    let (early, defined, write, forgotten, late) = futures::join!(
        sequencer.submit(event(1)),
        sequencer.define(events),
        sequencer.submit(event(1)),
        sequencer.forget(EVENTS),
        sequencer.submit(event(2)),
    );
    assert_eq!(early.unwrap_err().code, Code::UnknownRelation);
    defined.unwrap();
    assert_eq!(write.unwrap().lsn, Lsn(1));
    forgotten.unwrap();
    assert_eq!(late.unwrap_err().code, Code::UnknownRelation);
    assert!(sequencer.counters().is_empty());
}

#[tokio::test]
async fn a_restart_goes_on_where_the_log_ends() {
    let dir = tempfile::tempdir().unwrap();
    for restart in 0..3 {
        let log = Arc::new(LocalLog::open(dir.path(), Options::default()).unwrap());
        let mut state = state();
        for commit in log.read(Lsn::ZERO, usize::MAX).unwrap() {
            state.absorb_commit(&commit).unwrap();
        }
        let sequencer = start(log, state, Limits::default());
        let new = sequencer.submit(from(event(restart), "p", restart as u64 + 1)).await.unwrap();
        assert_eq!((new.lsn.0, new.duplicates), (restart as u64 + 1, 0));
        let old = sequencer.submit(event(0)).await.unwrap();
        assert_eq!((old.lsn, old.duplicates), (Lsn(1), 1));
        let retry = sequencer.submit(from(event(9), "p", 1)).await.unwrap();
        assert_eq!((retry.lsn, retry.duplicates), (new.lsn, 1));
        sequencer.stop();
    }
}
